"""The claims figure shows what was reported, what came out, and the verdict, and cuts nothing."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from dontblink.figures import charts
from dontblink.publish import claims, record
from dontblink.publish.numbers import Numbers

LEDGER = Numbers("testbed").read(claims.STEM)["claims"]
TESTED = [name for name, claim in LEDGER.items() if claim["tested"]]


@pytest.fixture
def figure() -> Iterator[Figure]:
    """Return a figure in the package's style."""
    assert record.STYLE
    drawn = plt.figure(figsize=(3, 3))
    yield drawn
    plt.close(drawn)


@pytest.mark.parametrize("name", TESTED)
def test_every_interval_and_what_was_reported_lie_inside_the_panel(figure: Figure, name: str) -> None:
    claim = LEDGER[name]
    ax = charts.claim_panel(figure.subplots(), name, claim)
    scale, _ = charts.AXES[claim["unit"]]
    ends = [scale * row[key] for row in claim["shown"] for key in ("ci_low", "ci_high")]
    ends += [scale * value for key, value in claim["reported"].items() if key in ("low", "high")]
    assert ax.get_xlim()[0] < min(ends) and max(ends) < ax.get_xlim()[1]
    assert claim["verdict"] in ax.get_title() and len(ax.get_yticklabels()) == len(claim["shown"])


def test_a_single_reported_number_is_a_line_and_a_range_a_band(figure: Figure) -> None:
    band, line = figure.subplots(1, 2)
    charts.claim_panel(band, "C1", LEDGER["C1"])
    charts.claim_panel(line, "C5", LEDGER["C5"])
    assert len(band.patches) == 1 and not line.patches
    dashed = [found for found in line.lines if found.get_linestyle() == "--"]
    assert np.allclose([found.get_xdata()[0] for found in dashed], 1.9)


def test_what_is_not_tested_is_written_out(figure: Figure) -> None:
    ax = charts.note_panel(figure.subplots(), LEDGER, 0.95)
    assert "C6" in ax.texts[0].get_text() and "not testable" in ax.texts[0].get_text()


def test_names_of_rows_are_words() -> None:
    assert charts.name_row("glm4v-tiny / visual_reference") == "glm4v-tiny\nvisual reference"
    assert charts.name_row("symbolic") == "symbolic"
