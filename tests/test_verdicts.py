"""A verdict follows from its rule alone: made-up numbers on both sides of every bound of the shipped rules."""

import copy
from typing import Any

import pytest

from dontblink.publish import claims
from dontblink.publish.claims import ClaimsError
from dontblink.publish.numbers import Row

LEDGER = claims.read_ledger()


def rows(n: int, **fields: float) -> list[dict[str, float]]:
    """Return n equal rows."""
    return [dict(fields) for _ in range(n)]


# numbers that reproduce each claim
GOOD: dict[str, dict[str, list[dict[str, float]]]] = {
    "C1": {
        "raw": rows(9, ci_low=0.6, ci_high=0.8),
        "beyond": rows(9, ci_low=0.2),
        "recall": rows(9, ci_low=0.1, ci_high=0.2),
    },
    "C2": {
        "full": rows(3, ci_low=0.6),
        "over_answer": rows(3, ci_low=0.1),
        "pooled": rows(1, ci_low=0.1),
        "carried": rows(6, refit_low=0.6),
        "carried_answer": rows(6, refit_gain_high=-0.1),
        "over_largest": rows(3, ci_low=-0.1),
    },
    "C3": {
        "linear": rows(6, gain=-0.05, refit_gain_high=-0.01),
        "dealt": rows(6, gain=0.0, shuffled_low=-0.1),
        "rescaled": rows(6, gain_high=0.1),
    },
    "C4": {
        "visual_reference": rows(1, ci_high=-0.05),
        "adjusted": rows(1, ci_high=-0.01),
        "symbolic": rows(1, estimate=0.02),
    },
    "C5": {
        "target_benchmark": rows(1, ci_low=0.002),
        "target_cells": rows(3, ci_high=0.021, p_max=0.01),
        "symbolic_cells": rows(3, ci_low=0.0),
        "other_cells": rows(3, ci_low=-0.004),
    },
}
TWINS = {"beats_answer_pooled", "tends_to_hurt"}  # tested on their own: they decide only where another has failed
# one value moved across a bound (in so many rows), and the verdict that is left
MOVED = [
    ("C1", "raw", "ci_low", 0.0, 1, "not reproduced"),  # one cell that may not fall
    ("C1", "raw", "ci_high", 0.569, 1, "same direction"),
    ("C1", "raw", "ci_high", 0.57, 9, "reproduced"),
    ("C1", "raw", "ci_low", 0.911, 1, "same direction"),
    ("C1", "beyond", "ci_low", -0.01, 1, "same direction"),
    ("C1", "recall", "ci_low", -0.01, 1, "same direction"),
    ("C2", "full", "ci_low", 0.5, 1, "not reproduced"),
    ("C2", "carried", "refit_low", 0.49, 1, "not reproduced"),
    ("C2", "over_answer", "ci_low", -0.01, 1, "same direction"),
    ("C2", "carried_answer", "refit_gain_high", 0.01, 1, "same direction"),
    ("C2", "over_largest", "ci_low", 0.5, 3, "reproduced"),  # told, not judged
    ("C3", "linear", "refit_gain_high", 0.01, 3, "reproduced"),
    ("C3", "linear", "refit_gain_high", 0.01, 4, "same direction"),
    ("C3", "linear", "refit_gain_high", 0.01, 6, "not reproduced"),
    ("C4", "visual_reference", "ci_high", 0.001, 1, "not reproduced"),
    ("C4", "adjusted", "ci_high", 0.001, 1, "same direction"),
    ("C4", "symbolic", "estimate", -0.1, 1, "not reproduced"),  # below the visual interval's end: no contrast
    ("C4", "symbolic", "estimate", -0.04, 1, "reproduced"),
    ("C5", "target_benchmark", "ci_low", 0.0, 1, "not reproduced"),
    ("C5", "target_cells", "ci_high", 0.0189, 3, "same direction"),
    ("C5", "target_cells", "ci_high", 0.0, 2, "reproduced"),
    ("C5", "target_cells", "p_max", 0.05, 3, "same direction"),
    ("C5", "symbolic_cells", "ci_low", -0.0051, 1, "same direction"),
    ("C5", "other_cells", "ci_low", -0.0051, 1, "same direction"),
]


def judge(name: str, numbers: dict[str, list[dict[str, float]]], profile: str = "testbed") -> str:
    """Return the verdict of the shipped rule on made-up rows."""
    claim = LEDGER["claims"][name]
    found = {series: [Row((str(k),), fields) for k, fields in enumerate(part)] for series, part in numbers.items()}
    active = {k: c for k, c in claim["conditions"].items() if profile in c.get("only_in", [profile])}
    return claims.decide(claim, {key: claims.judge_condition(c, found) for key, c in active.items()})


@pytest.mark.parametrize("name", GOOD)
def test_made_up_numbers_that_meet_every_condition_reproduce_the_claim(name: str) -> None:
    assert judge(name, GOOD[name]) == "reproduced"


@pytest.mark.parametrize(("name", "series", "field", "value", "n", "verdict"), MOVED)
def test_a_number_across_its_bound_changes_the_verdict(
    name: str, series: str, field: str, value: float, n: int, verdict: str
) -> None:
    numbers = copy.deepcopy(GOOD[name])
    for row in numbers[series][:n]:
        row[field] = value
    assert judge(name, numbers) == verdict


def test_every_condition_of_every_rule_is_tried_on_its_far_side() -> None:
    tried = {(name, series, field) for name, series, field, *_ in MOVED}
    for name, claim in LEDGER["claims"].items():
        for key in {*claim.get("reproduced", []), *claim.get("same_direction", [])}:
            condition = claim["conditions"][key]
            twins = [(name, s, f) for n, s, f in tried if n == name and f == condition["field"]]
            assert any(s == condition["rows"] for _, s, _ in twins) or key in TWINS, f"{name}.{key}"


def test_a_lead_over_the_answer_span_that_vanishes_when_pooled_keeps_no_direction() -> None:
    numbers = copy.deepcopy(GOOD["C2"])
    numbers["over_answer"][0]["ci_low"] = numbers["pooled"][0]["ci_low"] = -0.01
    assert judge("C2", numbers) == "not reproduced"


def test_one_lost_pair_among_gains_keeps_no_direction() -> None:
    numbers = {"linear": [*rows(2, gain=-0.05, refit_gain_high=-0.01), *rows(4, gain=0.05, refit_gain_high=0.1)]}
    assert judge("C3", GOOD["C3"] | numbers) == "not reproduced"


def test_the_script_is_a_condition_of_the_testbed_only() -> None:
    numbers = {key: part for key, part in GOOD["C1"].items() if key != "recall"}
    assert judge("C1", numbers, "paper") == "reproduced"


def test_a_symbolic_coefficient_clearly_below_zero_leaves_the_direction_of_the_contrast() -> None:
    numbers = {
        "visual_reference": rows(1, ci_high=-0.3),
        "adjusted": rows(1, ci_high=-0.3),
        "symbolic": rows(1, estimate=-0.101),
    }
    assert judge("C4", numbers) == "same direction"


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_missing_number_is_no_verdict(value: Any) -> None:
    numbers = copy.deepcopy(GOOD["C1"])
    numbers["raw"][4]["ci_low"] = value
    with pytest.raises(ClaimsError, match="has no ci_low"):
        judge("C1", numbers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "reproduced"}, "unknown or missing keys verdict"),
        ({"reproduced": ["fals"]}, "reproduced: .*fals"),
        ({"reproduced": []}, "no conditions"),
        ({"headline": {"pick": "best"}}, "pick is one of lowest, median, highest"),
        ({"conditions": {"falls": {"says": "", "rows": "raw", "field": "x", "in": "all"}}}, "one comparison"),
        ({"conditions": {"falls": {"says": "", "rows": "rw", "field": "x", "in": "all", "above": 0}}}, "rows 'rw'"),
        (
            {"conditions": {"falls": {"says": "", "rows": "raw", "field": "x", "in": "most", "above": 0}}},
            "in .all, half",
        ),
    ],
)
def test_a_wrong_ledger_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ClaimsError, match=message):
        claims.check_claim(LEDGER["claims"]["C1"] | change)


def test_a_rule_of_which_no_condition_belongs_to_the_profile_decides_nothing() -> None:
    claim = {"reproduced": ["elsewhere"], "same_direction": ["falls"]}
    assert claims.decide(claim, {"falls": {"holds": True}}) == "same direction"
    assert claims.decide(claim, {}) == "not reproduced"
