"""Claims about reliability curves, calibration errors and the calibration table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss
from synthetic_items import make_items, read_case

from dontblink.studies.cells import select_rows
from dontblink.studies.entropy import EstimateError, calibration_table, expected_calibration_error, reliability_curve


def test_reference_calibration_errors() -> None:
    case, expected, tol = read_case("ece")
    for name, bins, rule in (
        ("ece15_width", 15, "equal_width"), ("ece10_width", 10, "equal_width"), ("ece10_mass", 10, "equal_mass"),
    ):  # fmt: skip
        found = expected_calibration_error(case["p"], case["correct"], bins, rule)
        assert found == pytest.approx(float(expected[name]), abs=tol[name])


def test_reliability_curve_follows_its_bin_rule() -> None:
    p, correct = [0.0, 0.3, 0.3, 0.7, 1.0, 0.95], [0, 1, 0, 1, 1, 1]
    width = reliability_curve(p, correct, 10)
    assert width["bin"].tolist() == [0, 3, 7, 9]  # 0.3 opens [0.3, 0.4), 1.0 belongs to the last bin
    assert width["n"].tolist() == [1, 2, 1, 2]
    assert width["share_correct"].tolist() == [0.0, 0.5, 1.0, 1.0]
    assert (width["ci_low"] <= width["share_correct"]).all() and (width["ci_high"] <= 1).all()
    mass = reliability_curve(p, correct, 3, "equal_mass")
    assert mass["n"].tolist() == [3, 1, 2]  # the equal 0.3 stay together
    assert mass[["low", "high"]].to_numpy().tolist() == [[0.0, 0.3], [0.7, 0.7], [0.95, 1.0]]


def test_calibration_error_of_equal_masses_is_that_of_sorted_slices_without_ties() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(100)
    correct = rng.random(100) < p**2
    slices = np.array_split(np.argsort(p), 5)
    by_hand = sum(abs((p[rows] - correct[rows]).sum()) for rows in slices) / 100
    assert expected_calibration_error(p, correct, 5, "equal_mass") == pytest.approx(by_hand, abs=1e-15)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=1, max_size=40), st.randoms())
def test_calibration_error_ignores_row_order_and_stays_in_bounds(rows: list, random: object) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for rule in ("equal_width", "equal_mass"):
        found = [
            expected_calibration_error([k / 10 for k, _ in r], [y for _, y in r], 4, rule) for r in (rows, shuffled)
        ]
        assert found[0] == pytest.approx(found[1], abs=1e-12)
        assert 0 <= found[0] <= 1


@pytest.mark.parametrize(
    ("p", "correct", "bins", "rule", "message"),
    [
        ([0.5, 1.2], [0, 1], 5, "equal_width", "row 1: probability 1.2"),
        ([0.5, np.nan], [0, 1], 5, "equal_width", "row 1: probability nan"),
        ([0.5], [2], 5, "equal_width", "row 0: probability 0.5, correct 2.0"),
        ([], [], 5, "equal_width", ">= 1 row"),
        ([0.5], [1], 0, "equal_width", "0 bins"),
        ([0.5], [1], 5, "equal", "rule 'equal'"),
    ],
)
def test_unusable_probabilities_are_named(p: list, correct: list, bins: int, rule: str, message: str) -> None:
    with pytest.raises(EstimateError, match=message):
        expected_calibration_error(p, correct, bins, rule)  # type: ignore[arg-type]


def predictions(n: int = 60, seed: int = 0) -> pd.DataFrame:
    """Test rows with calibrated probabilities: labels are drawn from them."""
    rows = select_rows(make_items(n, seed=seed), [])
    rng = np.random.default_rng(seed)
    probability = rng.uniform(0.05, 0.95, len(rows))
    return rows.assign(probability=probability, correct=rng.random(len(rows)) < probability, constant=0.5)


def test_brier_scores_are_scikit_learns_and_the_gain_is_over_the_constant() -> None:
    rows = predictions()
    table = calibration_table(rows, n_boot=200, n_draws=20)
    assert len(table) == 4 + 2 + 1
    pooled, cell = table[table["scope"] == "pooled"].iloc[0], table[table["scope"] == "cell"].iloc[0]
    assert pooled["brier"] == pytest.approx(brier_score_loss(rows["correct"], rows["probability"]), abs=1e-15)
    assert pooled["brier_constant"] == pytest.approx(0.25)
    assert pooled["estimate"] == pytest.approx(0.25 - pooled["brier"], abs=1e-12)
    assert pooled["ci_low"] < pooled["estimate"] < pooled["ci_high"]
    own = rows[(rows["model"] == cell["model"]) & (rows["benchmark"] == cell["benchmark"])]
    assert cell["ece_equal_mass"] == expected_calibration_error(own["probability"], own["correct"], 10, "equal_mass")


def test_calibrated_labels_stay_within_their_own_draws_and_biased_ones_leave_them() -> None:
    rows = predictions(400)
    honest = calibration_table(rows, n_boot=20, n_draws=100)
    boastful = calibration_table(rows.assign(probability=rows["probability"] ** 0.3), n_boot=20, n_draws=100)
    for rule in ("equal_width", "equal_mass"):
        pooled = [table[table["scope"] == "pooled"].iloc[0] for table in (honest, boastful)]
        assert pooled[0][f"ece_{rule}"] < pooled[0][f"ece_calibrated_high_{rule}"]
        assert pooled[1][f"ece_{rule}"] > 3 * pooled[1][f"ece_calibrated_high_{rule}"]
        assert pooled[0][f"ece_calibrated_{rule}"] > 0  # never zero at a finite number of rows


def test_a_constant_prediction_gains_nothing_over_the_constant() -> None:
    table = calibration_table(predictions().assign(probability=0.5), n_boot=50, n_draws=5)
    assert (table[["estimate", "ci_low", "ci_high"]] == 0).all(axis=None)


def test_a_probability_that_is_none_stops_the_table() -> None:
    with pytest.raises(EstimateError, match="row 2: probability nan"):
        calibration_table(predictions().assign(probability=lambda t: t["probability"].where(t.index != 2)))
