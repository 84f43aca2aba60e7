"""Claims about the item-clustered bootstrap, the intervals of replicates, and Holm's adjustment."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from synthetic_items import read_case

from dontblink.statistics.bootstrap import (
    EstimateError,
    Resampling,
    adjust_holm,
    block_interval,
    bootstrap_ratio,
    bootstrap_sums,
    delete_one,
    interval_of,
    number_clusters,
    permutation_p,
    resample,
    split_strata,
    symmetric_p,
)

METHODS = ("percentile", "bca", "t")


def ratio_rows(n: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.gamma(2, 0.1, n), rng.gamma(2, 0.3, n)


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("seed", [0, 5])
def test_interval_of_a_ratio_equals_scipy_on_the_same_draws(method: str, seed: int) -> None:
    numerator, denominator = ratio_rows()
    theirs = stats.bootstrap(
        (numerator, denominator), lambda a, b, axis=-1: a.mean(axis) / b.mean(axis), paired=True,
        method={"bca": "BCa"}.get(method, method), n_resamples=3000, rng=np.random.default_rng(seed), vectorized=True,
    ).confidence_interval  # fmt: skip
    ours = bootstrap_ratio(numerator, denominator, np.arange(80), resampling=Resampling(3000, seed, method=method))
    # the same draws and quantiles: only the order of the additions differs
    assert ours.ci_low == pytest.approx(theirs.low, rel=1e-12)
    assert ours.ci_high == pytest.approx(theirs.high, rel=1e-12)
    assert (ours.n_clusters, ours.n_replicates, ours.n_degenerate) == (80, 3000, 0)


def test_bootstrap_t_equals_its_definition() -> None:
    numerator, denominator = ratio_rows(40)
    found = bootstrap_ratio(numerator, denominator, np.arange(40), resampling=Resampling(800, 1, method="t"))

    def error(i: np.ndarray) -> float:
        residual = (numerator[i] - numerator[i].sum() / denominator[i].sum() * denominator[i]) / denominator[i].sum()
        return float(np.sqrt(len(i) * residual.var(ddof=1)))

    estimate = numerator.sum() / denominator.sum()
    draws = np.concatenate(list(resample([np.arange(40)], Resampling(800, 1))))
    t = [abs(numerator[i].sum() / denominator[i].sum() - estimate) / error(i) for i in draws]
    reach = np.quantile(t, 0.95) * error(np.arange(40))
    assert found.ci_high - estimate == pytest.approx(reach, rel=1e-9)
    assert estimate - found.ci_low == pytest.approx(reach, rel=1e-9)


def test_draws_keep_the_size_of_each_stratum_and_do_not_depend_on_the_chunk_size() -> None:
    strata = [np.arange(7), np.arange(7, 20)]
    one, two = (np.concatenate(list(resample(strata, Resampling(200, 9), chunk))) for chunk in (200, 7))
    assert np.array_equal(one, two)
    assert ((one < 7).sum(axis=1) == 7).all()


def test_item_that_appears_in_several_cells_is_drawn_with_all_its_rows() -> None:
    # row and mirrored row cancel within an item: any replicate that splits an item would not sum to 0
    value = np.random.default_rng(0).normal(size=30)
    rows = np.concatenate([value, -value])
    items = np.tile(np.arange(30), 2)
    cells = np.repeat(["model a", "model b"], 30)
    drawn: list[np.ndarray] = []

    def total(sums: np.ndarray) -> np.ndarray:
        drawn.append(np.atleast_2d(sums)[:, 0])
        return sums[..., :1] + 1

    bootstrap_sums(rows[:, None], total, items, cells, resampling=Resampling(300, method="percentile"))
    assert np.abs(np.concatenate(drawn)).max() < 1e-12


def test_clusters_are_stratified_by_the_set_of_cells_that_they_appear_in() -> None:
    groups = number_clusters(["i1", "i2", "i3", "i1", "i2"], ["a", "a", "a", "b", "b"])
    by_item = dict(zip(groups.labels, groups.stratum, strict=True))
    assert by_item["i1"] == by_item["i2"] != by_item["i3"]
    assert [len(m) for m in split_strata(groups.stratum)] in ([2, 1], [1, 2])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), order=st.permutations(range(25)), scale=st.floats(1e-3, 1e3))
def test_interval_ignores_row_order_and_follows_the_scale(seed: int, order: list[int], scale: float) -> None:
    numerator, denominator = ratio_rows(25, seed)
    items = np.array([f"item {k:02d}" for k in range(25)])
    first = bootstrap_ratio(numerator, denominator, items, resampling=Resampling(200, 1))
    second = bootstrap_ratio(
        scale * numerator[order], scale * denominator[order], items[order], resampling=Resampling(200, 1)
    )
    assert second.estimate == pytest.approx(first.estimate, rel=1e-9)
    assert second.ci_low == pytest.approx(first.ci_low, rel=1e-6)
    assert second.ci_high == pytest.approx(first.ci_high, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 6), st.integers(0, 1000))
def test_splitting_a_cluster_into_rows_changes_nothing_and_taking_its_rows_for_items_narrows(n: int, seed: int) -> None:
    numerator, denominator = ratio_rows(40, seed)
    whole = bootstrap_ratio(numerator, denominator, np.arange(40), resampling=Resampling(400))
    split = [np.repeat(x / n, n) for x in (numerator, denominator)]
    parts = bootstrap_ratio(*split, np.repeat(np.arange(40), n), resampling=Resampling(400))
    assert (parts.ci_low, parts.ci_high) == pytest.approx((whole.ci_low, whole.ci_high), rel=1e-6)
    by_row = bootstrap_ratio(*split, np.arange(40 * n), resampling=Resampling(400))
    assert (by_row.ci_high - by_row.ci_low) < 0.9 * (whole.ci_high - whole.ci_low)


@pytest.mark.parametrize("method", METHODS)
def test_95_percent_interval_covers_the_true_ratio_about_95_times_in_100(method: str) -> None:
    runs, hits = 300, 0
    for run in range(runs):
        rng = np.random.default_rng(run)
        share = rng.beta(2, 3, 60)  # every item has its own ratio; E[N] / E[D] = 0.4
        denominator = rng.uniform(0.5, 1.5, 60)
        found = bootstrap_ratio(
            share * denominator, denominator, np.arange(60), resampling=Resampling(400, method=method)
        )
        hits += found.ci_low <= 0.4 <= found.ci_high
    # 60 clusters and 400 replicates: coverage within 91 and 98 %, by 4 standard errors of the binomial count
    tolerance = 4 * np.sqrt(0.05 * 0.95 / runs)
    assert 0.95 - tolerance <= hits / runs <= 0.95 + tolerance


def test_degenerate_replicates_are_counted_and_widen_the_interval() -> None:
    # 3 of 12 items have a denominator: (9/12)^12 = 3 % of the replicates draw none of them
    denominator = np.array([1.0] * 3 + [0.0] * 9)
    numerator = np.linspace(0.1, 0.9, 12) * denominator
    found = bootstrap_ratio(numerator, denominator, np.arange(12), resampling=Resampling(4000, method="percentile"))
    assert found.n_degenerate / 4000 == pytest.approx(0.75**12, abs=4 * np.sqrt(0.0317 * 0.968 / 4000))
    assert found.n_degenerate / 4000 > 0.025
    assert (found.ci_low, found.ci_high) == (-np.inf, np.inf)


def test_few_degenerate_replicates_leave_a_finite_interval() -> None:
    denominator = np.array([1.0] * 6 + [0.0] * 6)
    found = bootstrap_ratio(
        np.linspace(0.1, 0.9, 12) * denominator, denominator, np.arange(12), resampling=Resampling(20_000)
    )
    assert found.n_degenerate > 0
    assert 0.1 <= found.ci_low < found.estimate < found.ci_high <= 0.9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_equal_ratios_give_an_interval_of_no_width(method: str, ratio: float) -> None:
    denominator = np.random.default_rng(1).gamma(2, 1, 15)
    found = bootstrap_ratio(ratio * denominator, denominator, np.arange(15), resampling=Resampling(300, method=method))
    assert (found.ci_low, found.ci_high) == pytest.approx((ratio, ratio), abs=1e-12 if ratio else 0)
    assert found.n_degenerate == 0


def test_two_items_still_have_a_defined_interval() -> None:
    found = bootstrap_ratio([1.0, 3.0], [2.0, 4.0], ["a", "b"], resampling=Resampling(200))
    assert 0.5 <= found.ci_low <= 4 / 6 <= found.ci_high <= 0.75


@pytest.mark.parametrize(
    ("numerator", "denominator", "clusters", "message"),
    [
        ([1.0, 2.0], [1.0, 1.0], ["a", "a"], "needs >= 2"),
        ([1.0, np.nan], [1.0, 1.0], ["a", "b"], "row 1, column 0: nan"),
        ([1.0, 1.0], [0.0, 0.0], ["a", "b"], "undefined on the data"),
        ([1.0, 1.0], [1.0, 1.0], ["a", None], "row 1: no cluster label"),
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], ["a", "b"], "expected \\(2 rows"),
    ],
)
def test_unusable_input_is_named(numerator: list, denominator: list, clusters: list, message: str) -> None:
    with pytest.raises(EstimateError, match=message):
        bootstrap_ratio(numerator, denominator, np.array(clusters, object), resampling=Resampling(10))


@pytest.mark.parametrize("options", [{"method": "basic"}, {"n_replicates": 0}, {"confidence": 1.0}])
def test_a_resampling_that_cannot_be_is_refused(options: dict) -> None:
    with pytest.raises(EstimateError, match="expected percentile, bca or t, >= 1 replicate, a confidence in"):
        Resampling(**options)


def test_global_random_state_is_neither_read_nor_changed() -> None:
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    first = bootstrap_ratio(*ratio_rows(), np.arange(80), resampling=Resampling(50, 4))
    assert np.array_equal(before, np.random.get_state()[1])
    assert first == bootstrap_ratio(*ratio_rows(), np.arange(80), resampling=Resampling(50, 4))
    assert first != bootstrap_ratio(*ratio_rows(), np.arange(80), resampling=Resampling(50, 5))


@pytest.mark.parametrize(("method", "message"), [("bca", "BCa needs one"), ("t", "bootstrap-t needs one")])
def test_intervals_without_their_ingredients_are_refused(method: str, message: str) -> None:
    with pytest.raises(EstimateError, match=message):
        interval_of(0.0, np.zeros(5), 5, Resampling(5, method=method))


def test_symmetric_p_counts_degenerate_replicates_as_extreme() -> None:
    replicates, errors = np.array([1.0, 2.0, 9.0, np.nan]), np.ones(4)
    assert symmetric_p(2.0, 1.0, replicates, errors) == (1 + 2) / 5  # |9 - 2| and the degenerate one


def test_leave_one_out_weights_keep_the_size_of_each_stratum() -> None:
    weights = delete_one([np.array([0, 2]), np.array([1, 3, 4]), np.array([5])], 6)
    assert [w.shape for w in weights] == [(2, 6), (3, 6)]
    assert np.allclose(weights[0].sum(axis=1), 6) and np.allclose(weights[1].sum(axis=1), 6)
    assert weights[1][0].tolist() == [1, 0, 1, 1.5, 1.5, 1]


def test_the_jackknife_of_a_mean_is_the_usual_t_interval() -> None:
    values = np.random.default_rng(0).normal(size=12)
    left_out = (values.sum() - values) / 11
    found = block_interval(values.mean(), left_out, 12)
    low, high = stats.t.interval(0.95, 11, values.mean(), values.std(ddof=1) / np.sqrt(12))
    np.testing.assert_allclose([found.ci_low, found.ci_high], [low, high], rtol=1e-12)
    for bad in ([0.1], [0.1, np.nan]):
        with pytest.raises(EstimateError, match="two or more finite"):
            block_interval(0.1, bad, 12)


def test_a_permutation_that_says_what_the_data_say_is_a_tie() -> None:
    assert permutation_p(np.array([0.1 + 0.2, 0.1, 0.5]), 0.3) == 3 / 4


def test_holm_equals_the_nine_test_reference() -> None:
    given_values, expected, tolerance = read_case("multiplicity9")
    np.testing.assert_allclose(adjust_holm(given_values["p"]), expected["holm"], atol=tolerance["holm"], rtol=0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels_to_the_last_bit(p: list[float]) -> None:
    values = np.array(p)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "collect", lambda: 0)  # all garbage of the other tests, at every call of the other one
        expected = multipletests(values, method="holm")[1]
    np.testing.assert_array_equal(adjust_holm(values), expected)


@pytest.mark.parametrize("p", [[0.01, np.nan, 0.2], [0.1, 1.2], [-0.1, 0.5]])
def test_nan_or_no_probability_is_an_error(p: list[float]) -> None:
    with pytest.raises(EstimateError, match="expected numbers in"):
        adjust_holm(np.array(p))
