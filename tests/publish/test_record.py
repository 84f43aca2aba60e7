"""Figures, numbers and tables are written whole, at full precision, with the same bytes every day, and in words."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from dontblink import paths
from dontblink.errors import NamedError
from dontblink.figures import picture
from dontblink.publish import record
from dontblink.questions.items import Box

DRAW = """
import sys
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
from pathlib import Path
from dontblink import paths
from dontblink.publish import record
assert matplotlib.rcParams["font.size"] == 8, "importing record gives print size"
paths.ROOT = Path(sys.argv[1])
figure, ax = plt.subplots()
ax.plot([0, 1, 2], [0.5, 0.25, 0.125], label="β and ∑, $m_i$")
ax.set(xlabel="position (%)", title="two lines")
ax.fill_between([0, 1, 2], 0, 0.1, hatch="//")
ax.legend()
record.save_figure(figure, "02_collapse", "testbed")
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write below a temporary root; close what was drawn."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    yield tmp_path
    plt.close("all")


@pytest.fixture
def figure() -> Figure:
    drawn, ax = plt.subplots()
    ax.plot([1, 2], [3, 4])
    ax.set_title("evidence mass")
    return drawn


@pytest.mark.slow
def test_a_figure_has_the_same_bytes_in_another_process_on_another_day(tmp_path: Path) -> None:
    drawn = []
    for day in ("", "86400"):
        folder = tmp_path / f"day{day}"
        environment = os.environ | ({"SOURCE_DATE_EPOCH": day} if day else {})
        subprocess.run([sys.executable, "-c", DRAW, str(folder)], check=True, env=environment)
        made = sorted((folder / "results" / "testbed" / "figures").iterdir())
        assert [file.name for file in made] == ["02_collapse.pdf", "02_collapse.png"]
        drawn.append([file.read_bytes() for file in made])
    assert drawn[0] == drawn[1]
    for content in drawn[0]:
        assert b"Date" not in content and b"matplotlib" not in content.lower()


def test_fonts_are_embedded_as_truetype_and_the_session_stays_as_it_was(
    figure: Figure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "7")
    with mpl.rc_context({"pdf.fonttype": 3}):
        pdf, _ = record.save_figure(figure, "02_collapse", "testbed")
        assert mpl.rcParams["pdf.fonttype"] == 3
    assert os.environ["SOURCE_DATE_EPOCH"] == "7"
    content = pdf.read_bytes()
    assert b"/FontFile2" in content and b"DejaVuSans" in content and b"/Type3" not in content
    assert Path(mpl.font_manager.findfont("DejaVu Sans")).is_relative_to(mpl.get_data_path())


@pytest.mark.parametrize("stem", ["collapse", "2_collapse", "02_Collapse", "../02_collapse", "02_collapse.pdf"])
def test_a_stem_that_is_no_notebooks_is_refused(figure: Figure, root: Path, stem: str) -> None:
    with pytest.raises(NamedError, match="expected the notebook's"):
        record.save_figure(figure, stem, "testbed")
    with pytest.raises(NamedError, match="expected the notebook's"):
        record.save_numbers(stem, {"n": 1}, "testbed")
    with pytest.raises(NamedError, match="expected the notebook's"):
        record.save_table(stem, "cells", pd.DataFrame({"n": [1]}), "testbed")
    assert not list(root.rglob("*.*"))


def test_a_full_disk_is_said_by_a_figure_and_keeps_the_old_one(figure: Figure, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [file.read_bytes() for file in record.save_figure(figure, "02_collapse", "testbed")]
    write = Path.write_bytes

    def fill(path: Path, content: bytes) -> int:
        write(path, content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill)
    figure.suptitle("another")
    with pytest.raises(NamedError, match="02_collapse.pdf not written: No space left on device; free some space"):
        record.save_figure(figure, "02_collapse", "testbed")
    folder = paths.outputs("testbed")
    assert [(folder / f"02_collapse.{suffix}").read_bytes() for suffix in ("pdf", "png")] == before
    assert len(list(folder.iterdir())) == 2


def test_numbers_keep_every_digit_sorted_by_key_and_numpy_becomes_plain(root: Path) -> None:
    numbers = {
        "drop": 1 / 3, "cells": {"b": np.int64(2), "a": [1e-17, np.bool_(True)]}, "mass": np.float32(0.1),
        "grid": np.eye(2), "id": np.str_("x"),
    }  # fmt: skip
    file = record.save_numbers("02_collapse", numbers, "testbed")
    assert file == root / "results" / "testbed" / "figures" / "02_collapse.json"
    assert list(json.loads(file.read_text()).items()) == [
        ("cells", {"a": [1e-17, True], "b": 2}), ("drop", 1 / 3), ("grid", [[1, 0], [0, 1]]), ("id", "x"),
        ("mass", float(np.float32(0.1))),
    ]  # fmt: skip


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32("nan"), np.array([1.0, -np.inf])])
def test_nan_and_infinity_are_errors_that_name_the_key(root: Path, bad: object) -> None:
    with pytest.raises(NamedError, match=r"02_collapse.json: cells\.symbolic\.mass\S* is -?(nan|inf)"):
        record.save_numbers("02_collapse", {"cells": {"symbolic": {"mass": bad}}}, "testbed")
    assert not list(root.rglob("*.json"))


def test_an_end_of_an_interval_that_is_infinite_is_left_out(root: Path) -> None:
    numbers = {"fall": {"estimate": 0.5, "ci_low": -np.inf, "ci_high": 0.9}}
    file = record.save_numbers("02_collapse", numbers, "testbed")
    assert json.loads(file.read_text()) == {"fall": {"estimate": 0.5, "ci_high": 0.9}}
    table = record.save_table("02_collapse", "cells", pd.DataFrame({"a": [1.0], "ci_low": [-np.inf]}), "testbed")
    assert table.read_text() == "a,ci_low\n1.0,\n"


@pytest.mark.parametrize(
    ("numbers", "says"),
    [({"drop": bad}, "drop") for bad in (None, {1, 2}, pd.Series([1]), {"a": object()}, {1: 2}, {"": 2})]
    + [({}, "no numbers"), ({3: 1}, "numbers: key 3")],
)
def test_what_is_no_number_or_has_no_name_is_refused(numbers: dict[str, object], says: str) -> None:
    with pytest.raises(NamedError, match=f"02_collapse.json: {says}"):
        record.save_numbers("02_collapse", numbers, "testbed")


def test_a_table_is_nested_by_its_keys_and_two_rows_with_the_same_are_an_error() -> None:
    models = pd.Categorical(["m", "s"])
    table = pd.DataFrame({"model": models, "benchmark": "symbolic", "estimate": [0.25, 0.5], "n_items": [3, 4]})
    assert record.nest(table, ["model", "benchmark"]) == {
        "m": {"symbolic": {"estimate": 0.25, "n_items": 3}},
        "s": {"symbolic": {"estimate": 0.5, "n_items": 4}},
    }
    with pytest.raises(NamedError, match="two rows for symbolic"):
        record.nest(table, ["benchmark"])


def test_an_optional_column_is_left_out_where_it_has_no_value_and_any_other_stops() -> None:
    table = pd.DataFrame({"rule": ["entropy", "veto"], "gain": [0.0, 0.1], "p": [np.nan, 0.5]})
    nested = record.nest(table, ["rule"], optional=["p"])
    assert nested == {"entropy": {"gain": 0.0}, "veto": {"gain": 0.1, "p": 0.5}}
    with pytest.raises(NamedError, match=r"02_collapse.json: entropy\.p is nan"):
        record.save_numbers("02_collapse", record.nest(table, ["rule"]), "testbed")


def test_a_table_comes_back_from_its_file_exactly(root: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "benchmark": pd.Categorical(["symbolic", "a, \"b\"\nc"] * 20), "n_items": np.arange(40),
            "estimate": rng.normal(size=40) * 10.0 ** rng.integers(-300, 300, 40), "holds": rng.random(40) < 0.5,
            "entropy_nats": rng.random(40).astype(np.float32), "p": np.where(np.arange(40) % 2, np.nan, 0.1),
        },
        index=pd.Index(np.arange(40) + 0.1, name="coverage"),
    )  # fmt: skip
    file = record.save_table("02_collapse", "cells", table, "testbed")
    assert file == root / "results" / "testbed" / "figures" / "02_collapse_cells.csv"
    read = pd.read_csv(file).set_index("coverage")
    pd.testing.assert_frame_equal(read, table.astype({"benchmark": str, "entropy_nats": float}), check_exact=True)
    assert "index" not in pd.read_csv(record.save_table("02_collapse", "bare", table.reset_index(drop=True), "testbed"))


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (pd.DataFrame({"a": []}), "0 rows"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "1 rows, columns a, a"),
        (pd.DataFrame([[1, 2]], columns=["a", ""]), "different names"),
        (pd.DataFrame({"a": [1.0, np.inf]}), "column a holds an infinity"),
    ],
)
def test_a_table_that_says_nothing_is_refused(root: Path, table: pd.DataFrame, says: str) -> None:
    with pytest.raises(NamedError, match=rf"02_collapse_cells\.csv: .*{says}"):
        record.save_table("02_collapse", "cells", table, "testbed")
    assert not list(root.rglob("*.csv"))


@pytest.fixture
def panels() -> Figure:
    figure, axes = plt.subplots(1, 3, sharey=True)
    for ax, title in zip(axes, ("symbolic", "visual", "off"), strict=True):
        ax.plot([0, 1], label="glm")
        ax.set(xlabel="position\nin the reasoning (%)", title=title if title != "off" else "")
    axes[0].set_ylabel("mass (share)")
    axes[2].set_axis_off()
    axes[1].legend(title="model")
    figure.suptitle("It falls")
    return figure


def test_titles_labels_and_legends_are_said_once_in_one_line_and_the_figure_is_left_as_it_was(
    panels: Figure, capsys: pytest.CaptureFixture[str]
) -> None:
    panels.canvas.draw()
    before = np.asarray(panels.canvas.buffer_rgba()).copy()
    record.save_figure(panels, "02_collapse", "testbed")
    assert capsys.readouterr().out == (
        "02_collapse: 2 panels. It falls; titles: symbolic, visual; horizontally: position in the reasoning (%); "
        "vertically: mass (share); legend: model, glm\n"
    )
    panels.canvas.draw()
    np.testing.assert_array_equal(np.asarray(panels.canvas.buffer_rgba()), before)


def test_a_colour_bar_is_no_panel_and_a_strip_says_its_steps() -> None:
    assert record.describe_figure(plt.figure()) == "0 panels."
    strip = picture.evidence_strip(
        plt.figure(), np.zeros((4, 4, 3)), [Box(0, 0, 0, 2, 2)], np.eye(2, 4), ["a1 is 3 .", "so 3 ."], (2, 2)
    )
    assert record.describe_figure(strip) == (
        "3 panels. horizontally: image, evidence framed, 1. a1 is 3, 2. so 3; colour: attention mass per image token"
    )


# -- one value per quantity ------------------------------------------------------------------------------------------

PUBLISHED = Path(__file__).parents[2] / "figures" / "testbed"


def make_quantities(**columns: object) -> pd.DataFrame:
    """Return a table of one quantity."""
    row = dict.fromkeys(record.QUANTITY, "x") | {"value": 0.5} | columns
    return pd.DataFrame([row])


def compare_published(folder: Path) -> pd.DataFrame:
    """Return every pair of published values of one quantity and how far they lie apart."""
    files = folder.glob("*_quantities.csv")
    table = pd.concat([pd.read_csv(file, keep_default_na=False).assign(stem=file.stem) for file in files])
    same = ["measure", "rows", "model", "benchmark", "vision", "adjustment"]
    table["number"] = range(len(table))
    pairs = table.merge(table, on=same).query("number_x < number_y")
    return pairs.assign(apart=(pairs["value_x"] - pairs["value_y"]).abs())


def test_one_published_value_per_quantity() -> None:
    pairs = compare_published(PUBLISHED)
    assert len(pairs) >= 20 and pairs["measure"].nunique() >= 3
    assert (pairs["stem_x"] != pairs["stem_y"]).any() and (pairs["method_x"] != pairs["method_y"]).any()
    strayed = pairs[~(pairs["apart"] <= 1e-9)]
    assert strayed.empty, strayed.to_string()


def test_two_values_of_one_quantity_are_found(root: Path) -> None:
    record.save_quantities("03_a", [make_quantities(method="one"), make_quantities(method="two", value=0.6)], "testbed")
    record.save_quantities("04_b", [make_quantities(method="three")], "testbed")
    pairs = compare_published(paths.outputs("testbed"))
    assert sorted(pairs["apart"].round(9)) == [0.0, 0.1, 0.1]


def test_a_quantity_twice_by_one_method_or_without_a_column_is_refused() -> None:
    with pytest.raises(NamedError, match="stands there twice; name the method"):
        record.save_quantities("03_a", [make_quantities(), make_quantities(value=0.6)], "testbed")
    with pytest.raises(NamedError, match="no column vision"):
        record.save_quantities("03_a", [make_quantities().drop(columns="vision")], "testbed")
