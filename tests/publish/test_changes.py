"""A move is measured by what is known of the number; counts, verdicts and texts may not move at all."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dontblink import paths
from dontblink.errors import NamedError
from dontblink.publish.changes import (
    Change,
    Rule,
    compare_file,
    compare_pictures,
    compare_values,
    compare_verdicts,
    count_values,
    describe_verdicts,
)
from dontblink.publish.claims import VERDICTS

RULE = Rule(tolerance=0.01, floor=1e-6, floor_nats=1e-5, difference_bar=1e-5, pixels=0.02, n_replicates=200)
ROW = {"estimate": 0.5, "ci_low": 0.4, "ci_high": 0.6, "risk": 0.3, "risk_low": 0.29, "risk_high": 0.31, "gain": 5.0}


def test_every_kind_of_change_is_described_by_its_key() -> None:
    old = {"a": {"b": 0.5, "c": 1}, "d": [1, 2], "gone": 3, "zero": 0.0, "verdict": "reproduced", "e": {"x": 1}}
    new = {"a": {"b": 0.6, "c": 1}, "d": [1, 4], "new": "x", "zero": 1.0, "verdict": "not reproduced", "e": 2}
    assert [change.describe() for change in compare_values(old, new, RULE, "07")] == [
        "07.a.b: 0.5 -> 0.6 (20 % of its value)", "07.d.1: 2 -> 4", "07.e: several values -> 2",
        "07.gone: 3 -> nothing", "07.new: nothing -> x", "07.verdict: reproduced -> not reproduced",
        "07.zero: 0.0 -> 1.0 (1e+06 % of its value)",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "old", "new", "row", "size", "agrees"),
    [
        ("estimate", 0.5, 0.5009, ROW, 0.009, True),  # of half its interval, 0.1
        ("estimate", 0.5, 0.5011, ROW, 0.011, False),
        ("ci_low", 0.4, 0.4009, ROW, 0.009, True),
        ("risk", 0.3, 0.30009, ROW, 0.009, True),  # its own interval goes before the row's
        ("risk_high", 0.31, 0.3102, ROW, 0.02, False),
        ("gain", 5.0, 5.04, ROW, 0.008, True),  # outside the row's interval: of its value
        ("gain", 5.0, 5.06, ROW, 0.012, False),
        ("shuffled_mean", 0.5, 0.5004, {"shuffled_low": 0.45, "shuffled_high": 0.55}, 0.008, True),
        ("lift", 2.0, 2.01, {}, 0.005, True),
        ("gain", 0.0, 9e-7, {"gain": 0.0, "ci_low": 0.0, "ci_high": 0.0}, 0.009, True),  # an interval of no width
        ("gain", 0.0, 2e-6, {"gain": 0.0, "ci_low": 0.0, "ci_high": 0.0}, 0.02, False),
        ("mass", 0.0, 9e-7, {}, 0.009, True),  # below the floor
        ("entropy_nats", 0.0, 9e-6, {}, 0.009, True),
        ("mass", 0.0, 9e-6, {}, 0.09, False),
        ("mass_difference", 1e-6, 9e-6, {}, 0.008, True),  # both below the bar of two implementations
        ("mass_difference", 1e-6, 2e-5, {}, 0.19, False),
        ("p", 0.004, 0.005, {"n_replicates": 1000}, 0.005, True),  # one replicate in a thousand
        ("p_holm", 0.2, 0.2095, {"n_replicates": 1000}, 0.0475, False),
        ("p", 0.2, 0.209, {}, 0.009, True),  # no replicates in the row: the fewest of its notebook
        ("p", 1e-20, 2e-20, {"n_replicates": 5000}, 0, True),
        ("n_items", 100, 101, {}, math.inf, False),
        ("n_errors", 100.0, 100.1, {}, math.inf, False),
        ("accuracy", 0.5, 1, {}, 1.0, False),
        ("converged", True, False, {}, math.inf, False),
        ("verdict", "reproduced", "not testable", {}, math.inf, False),
        ("estimate", 0.5, math.nan, ROW, math.inf, False),
    ],
)
def test_a_move_is_measured_by_what_is_known_of_the_number(
    field: str, old: object, new: object, row: dict[str, float], size: float, agrees: bool
) -> None:
    change = RULE.judge(f"02_a.b.{field}", old, new, row)
    assert change.size == pytest.approx(size, rel=1e-6, abs=1e-12) and change.agrees is agrees


def draw(level: int, size: int = 40) -> bytes:
    """Return a grey picture with a white corner, as PNG."""
    pixels = np.full((size, size, 3), level, np.uint8)
    pixels[: size // 2, : size // 2] = 255
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def test_a_figure_is_compared_by_its_pixels_and_a_pdf_by_its_picture() -> None:
    assert compare_pictures(draw(100), draw(100)) == 0
    assert compare_pictures(draw(100), draw(110)) == pytest.approx(10 / 255 * math.sqrt(3 / 4))
    assert compare_pictures(draw(100), draw(100, 42)) == math.inf
    assert next(compare_file("02_a.png", draw(100), draw(101), RULE)).agrees
    assert not next(compare_file("02_a.png", draw(100), draw(110), RULE)).agrees
    assert list(compare_file("02_a.pdf", b"1", b"2", RULE)) == []
    assert list(compare_file("02_a.png", None, b"2", RULE)) == [Change("02_a.png", None, "a file")]


def test_a_table_is_compared_row_by_row() -> None:
    old = b"model,n_items,estimate,ci_low,ci_high\na,5,0.5,0.4,0.6\nb,5,,0.4,0.6\n"
    assert list(compare_file("02_a_b.csv", old, old.replace(b"0.5,", b"0.50,"), RULE)) == []
    (near,) = compare_file("02_a_b.csv", old, old.replace(b"0.5,", b"0.5001,"), RULE)
    assert near.key == "02_a_b.row 1 a.estimate" and near.agrees and near.size == pytest.approx(0.001)
    (far,) = compare_file("02_a_b.csv", old, old.replace(b"a,5,", b"a,6,"), RULE)
    assert not far.agrees
    (filled,) = compare_file("02_a_b.csv", old, old.replace(b",,", b",1.0,"), RULE)
    assert not filled.agrees and filled.old == ""
    changes = list(compare_file("02_a_b.csv", old, old + b"c,5,0.5,0.4,0.6\n", RULE))
    assert [change.agrees for change in changes] == [False]
    assert (count_values("02_a_b.csv", old), count_values("02_a.json", b'{"a": [1, {"b": 2}]}')) == (10, 2)


def make_ledger(**claims: tuple[str, dict[str, bool]]) -> dict[str, Any]:
    """A ledger as notebook 08 records it: verdict and conditions by claim."""
    return {
        "claims": {
            name: {"verdict": verdict, "conditions": {key: {"holds": holds, "n_met": 1} for key, holds in held.items()}}
            for name, (verdict, held) in claims.items()
        }
    }


def test_a_verdict_that_changes_with_the_seed_is_named_with_the_conditions_behind_it() -> None:
    first = make_ledger(
        C1=("reproduced", {"falls": True, "large_enough": True}),
        C2=("same direction", {"separates": True, "carries": False}),
        C3=("not reproduced", {}),
    )
    second = make_ledger(
        C1=("same direction", {"falls": True, "large_enough": False}),
        C2=("same direction", {"separates": True, "carries": True, "asked_later": True}),
        C3=("not reproduced", {}),
    )
    found = compare_verdicts(first, second)
    assert [change.differs for change in found] == [True, False, False]
    assert [change.describe() for change in found] == [
        "C1: reproduced -> same direction (large_enough holds in the first alone)",
        "C2: same direction in both (carries holds in the second alone, asked_later is asked in one alone)",
        "C3: not reproduced in both",
    ]
    assert describe_verdicts(found) == (
        "1 of 3 verdicts change: C1: reproduced -> same direction (large_enough holds in the first alone)"
    )
    assert describe_verdicts(compare_verdicts(first, first)) == "0 of 3 verdicts change"
    assert [change.second for change in compare_verdicts(second, first)] == [change.first for change in found]


def test_ledgers_of_other_claims_are_not_compared_in_silence() -> None:
    with pytest.raises(NamedError, match="C2 in one of two alone; run notebook 08 of both"):
        compare_verdicts(make_ledger(C1=("reproduced", {})), make_ledger(C1=("reproduced", {}), C2=("reproduced", {})))


def test_the_recorded_ledger_can_be_compared() -> None:
    recorded = json.loads((paths.figures("testbed") / "08_claims.json").read_text())
    found = compare_verdicts(recorded, recorded)
    assert len(found) >= 5 and not any(change.differs or change.conditions for change in found)
    assert {change.first for change in found} <= {*VERDICTS}
