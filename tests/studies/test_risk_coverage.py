"""Claims about risk-coverage: exact over ties, whatever the order of the rows, and in integers."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from synthetic_items import make_items, read_case

from dontblink.statistics.bootstrap import EstimateError, Resampling
from dontblink.studies.risk_coverage import (
    accepted_errors,
    aurc,
    count_accepted,
    risk_coverage,
    selective_table,
)

CASES = ("selective_noties20", "selective_ties20", "selective_ties20_straddle")
levels = hnp.arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 4))


@pytest.mark.parametrize("case", CASES)
def test_aurc_and_risk_at_90_are_those_of_the_reference_vectors(case: str) -> None:
    given_, expected, tolerance = read_case(case)
    (area,) = [key for key in expected if key.startswith("AURC_mean_of_expected_risks")]
    (risk,) = [key for key in expected if key.startswith("risk_at_90_expected_ties")]
    assert aurc(given_["confidence"], given_["error"]) == pytest.approx(expected[area].item(), abs=tolerance[area])
    n = len(given_["confidence"])
    found = risk_coverage(given_["confidence"], given_["error"])[count_accepted(n, 0.9) - 1]
    assert found == pytest.approx(float(expected[risk][0]), abs=tolerance[risk])
    assert count_accepted(n, 0.9) == int(expected[risk][2]) == 0.9 * n
    assert found == pytest.approx(float(Fraction(str(expected[risk][1]))), abs=tolerance[risk])


def test_aurc_without_ties_is_that_of_lm_polygraph_and_mapie() -> None:
    # lm-polygraph and MAPIE (as 1 - area) have the same definition, but break ties by row order
    given_, expected, tolerance = read_case("selective_noties20")
    found = aurc(given_["confidence"], given_["error"])
    assert found == pytest.approx(expected["RCC_AUC_lm_polygraph"].item(), abs=tolerance["RCC_AUC_lm_polygraph"])
    assert 1 - found == pytest.approx(expected["AUARC_mapie"].item(), abs=tolerance["AUARC_mapie"])


def test_expected_risk_is_the_mean_over_all_orders_of_the_ties() -> None:
    confidence, error = np.array([3, 1, 1, 1, 0, 0]), np.array([0, 1, 0, 1, 1, 0])
    curves = []
    for order in permutations(range(6)):
        kept = sorted(order, key=lambda i: -confidence[i])
        curves.append(np.cumsum(error[kept]) / np.arange(1, 7))
    np.testing.assert_allclose(risk_coverage(confidence, error), np.mean(curves, axis=0), atol=1e-14)


@given(levels, st.data())
def test_row_order_changes_nothing_to_the_last_bit(values: np.ndarray, data: st.DataObject) -> None:
    error = data.draw(hnp.arrays(np.bool_, len(values)))
    order = np.array(data.draw(st.permutations(range(len(values)))))
    assert (risk_coverage(values, error) == risk_coverage(values[order], error[order])).all()


@given(levels, st.data())
def test_increasing_transforms_of_confidence_change_nothing(values: np.ndarray, data: st.DataObject) -> None:
    error = data.draw(hnp.arrays(np.bool_, len(values)))
    assert (risk_coverage(values, error) == risk_coverage(np.exp(values / 2.0) - 9, error)).all()


@given(levels, st.data())
def test_the_curve_ends_at_the_error_rate_and_lies_above_the_oracle(values: np.ndarray, data: st.DataObject) -> None:
    error = data.draw(hnp.arrays(np.bool_, len(values)))
    risk = risk_coverage(values, error)
    assert risk[-1] == error.mean()
    assert (risk >= risk_coverage(~error, error) - 1e-15).all()


@given(st.integers(1, 100_000), st.integers(1, 100))
def test_the_number_accepted_is_the_ceiling_in_integers(n: int, percent: int) -> None:
    k = count_accepted(n, percent / 100)
    assert (k - 1) * 100 < percent * n <= k * 100
    assert k == count_accepted(n, Fraction(percent, 100))


def test_realised_coverage_is_at_least_the_coverage_asked_for() -> None:
    assert count_accepted(7, 0.9) == 7 and count_accepted(1, 0.1) == 1
    assert count_accepted(100, 0.55) == 55 and np.ceil(0.55 * 100) == 56


def test_several_curves_at_once_are_the_single_ones() -> None:
    rng = np.random.default_rng(0)
    confidence, error = rng.integers(0, 5, (4, 40)).astype(float), rng.integers(0, 2, (4, 40)).astype(float)
    both = accepted_errors(confidence, error)
    for k in range(4):
        assert (both[k, 1:] / np.arange(1, 41) == risk_coverage(confidence[k], error[k])).all()


def test_one_class_constant_confidence_one_row_and_infinities_are_defined() -> None:
    for wrong in (0, 1):
        assert (risk_coverage(np.arange(9), np.full(9, wrong)) == wrong).all()
    np.testing.assert_allclose(risk_coverage(np.ones(9), [1, 0, 0] * 3), 1 / 3, atol=1e-15)
    assert risk_coverage([0.3], [1]) == [1.0]
    assert (risk_coverage([np.inf, 0.0, -np.inf], [0, 0, 1]) == [0, 0, 1 / 3]).all()


@pytest.mark.parametrize(
    ("confidence", "error", "message"),
    [
        ([0.1, np.nan], [0, 1], "row 1: confidence nan"),
        ([0.1, 0.2], [0, np.nan], "row 1: .* error nan"),
        ([0.1, 0.2], [0, 2], "row 1: .* error 2"),
        ([0.1, 0.2], [0], "expected one of each"),
        ([], [], ">= 1 row"),
    ],
)
def test_unusable_rows_are_named(confidence: list[float], error: list[float], message: str) -> None:
    with pytest.raises(EstimateError, match=message):
        risk_coverage(confidence, error)


@pytest.mark.parametrize("coverage", [0.0, -0.1, 1.01, float("nan"), float("inf")])
def test_impossible_coverages_are_refused(coverage: float) -> None:
    with pytest.raises(EstimateError, match="coverage"):
        count_accepted(2, coverage)


def test_an_answer_without_the_score_ranks_last_and_is_not_left_out() -> None:
    items = make_items(60, benchmarks=("visual",))
    gone = items.index[(items["model"] == "glm") & ~items["correct"]][:5]
    items.loc[gone, "answer_entropy_nats"] = np.nan
    table = selective_table(items, {"answer": ("answer_entropy_nats", -1.0)}, resampling=Resampling(50, 1))
    found = table.set_index("model").loc["glm"]
    own = items[items["model"] == "glm"]
    surety = -own["answer_entropy_nats"].fillna(own["answer_entropy_nats"].max())
    assert (found["n_rows"], found["n_missing"]) == (60, 5)
    assert found["aurc"] == pytest.approx(aurc(surety, ~own["correct"]), abs=1e-12)
    nothing = items.assign(answer_entropy_nats=np.where(items["model"] == "glm", np.nan, items["answer_entropy_nats"]))
    table = selective_table(nothing, {"answer": ("answer_entropy_nats", -1.0)}, resampling=Resampling(50, 1))
    assert np.isnan(table.set_index("model").loc["glm", "aurc"]) and table["aurc"].notna().sum() == 1
