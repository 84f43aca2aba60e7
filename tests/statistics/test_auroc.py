"""Claims about the AUROC, its clustered bootstrap and its tests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from synthetic_items import read_case

from dontblink.statistics.auroc import (
    auroc_difference,
    auroc_each,
    auroc_interval,
    clustered_test,
    combine_intervals,
    delong_test,
    draw_aurocs,
    newcombe_interval,
    place_scores,
)
from dontblink.statistics.bootstrap import EstimateError, Resampling, resample


def plain(n_replicates: int, seed: int = 0) -> Resampling:
    """A resampling that needs no jackknife."""
    return Resampling(n_replicates, seed, method="percentile")


def draw(n_items: int = 40, repeats: int = 1, seed: int = 0, decimals: int = 1) -> tuple[np.ndarray, ...]:
    """Labels, two tied scores that share the item, and the item of each row."""
    rng = np.random.default_rng(seed)
    item = np.repeat(np.arange(n_items), repeats)
    hard = np.repeat(rng.normal(size=n_items), repeats)
    correct = hard + rng.normal(size=len(item)) < 0.4
    a = np.round(-hard + rng.normal(size=len(item)), decimals)
    return correct, a, np.round(0.3 * a + rng.normal(size=len(item)), decimals), item


def pairwise(correct: np.ndarray, score: np.ndarray) -> float:
    wins = np.sign(score[correct][:, None] - score[~correct][None, :])
    return float((wins.mean() + 1) / 2)


def test_reference_delong_and_bca() -> None:
    case, expected, tol = read_case("delong_bca_synthetic")
    test = delong_test(case["y"], case["a"], case["b"])
    for name in ("auc_a", "auc_b", "p"):
        assert getattr(test, name) == pytest.approx(float(expected[name]), abs=tol[name])
    assert test.z == pytest.approx(float(expected["delong_z_a_minus_b"]), abs=tol["delong_z_a_minus_b"])
    for name in ("a", "b"):
        auc, reach = getattr(test, f"auc_{name}"), stats.norm.ppf(0.975) * getattr(test, f"se_{name}")
        assert [auc - reach, auc + reach] == pytest.approx(list(expected[f"ci_{name}"]), abs=tol[f"ci_{name}"])
    for method, name in (("bca", "boot_diff_BCa"), ("percentile", "boot_diff_percentile")):
        resampling = Resampling(9999, 12345, method=method)
        found = auroc_difference(case["y"], case["a"], case["b"], np.arange(120), resampling)
        assert [found.ci_low, found.ci_high] == pytest.approx(list(expected[name]), abs=tol[name])
    assert found.replicates[:5] == pytest.approx(expected["boot_first5"], abs=tol["boot_first5"])
    assert found.replicates.std(ddof=1) == pytest.approx(float(expected["boot_diff_se"]), abs=tol["boot_diff_se"])


def test_reference_clustered_difference() -> None:
    case, expected, tol = read_case("cluster_bootstrap_logit")
    a, b = case["E"], -case["V"]
    test = clustered_test(case["y"], a, b, case["cluster"])
    assert test.auc_a == pytest.approx(float(expected["auroc_E"]), abs=tol["auroc_E"])
    assert test.auc_b == pytest.approx(float(expected["auroc_negV"]), abs=tol["auroc_negV"])
    found = auroc_difference(case["y"], a, b, case["cluster"], plain(2000, 99))
    first, low_high = expected["auroc_diff_boot_first3"], expected["auroc_diff_boot_pct95"]
    assert found.replicates[:3] == pytest.approx(first, abs=tol["auroc_diff_boot_first3"])
    se, tolerance = float(expected["auroc_diff_boot_se"]), tol["auroc_diff_boot_se"]
    assert found.replicates.std(ddof=1) == pytest.approx(se, abs=tolerance)
    assert [found.ci_low, found.ci_high] == pytest.approx(list(low_high), abs=tol["auroc_diff_boot_pct95"])


@pytest.mark.parametrize("repeats", [1, 3])
def test_interval_equals_scipy_on_the_same_draws(repeats: int) -> None:
    correct, a, b, item = draw(40, repeats)
    rows = np.arange(len(item)).reshape(40, repeats)

    def difference(index: np.ndarray) -> float:
        chosen = rows[index].ravel()
        return pairwise(correct[chosen], a[chosen]) - pairwise(correct[chosen], b[chosen])

    theirs = stats.bootstrap(
        (np.arange(40),), difference, method="BCa", n_resamples=400, rng=np.random.default_rng(3), vectorized=False
    ).confidence_interval
    ours = auroc_difference(correct, a, b, item, Resampling(400, 3))
    assert (ours.ci_low, ours.ci_high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_each_replicate_is_the_auroc_of_the_drawn_rows_within_each_cell() -> None:
    correct, a, b, item = draw(30, 2)
    cell = np.tile(["x", "y"], 30)
    found = auroc_difference(correct, a, b, item, plain(20, 1), cell=cell)
    for draws, replicate in zip(next(resample([np.arange(30)], Resampling(20, 1))), found.replicates, strict=True):
        chosen = (2 * draws[:, None] + np.arange(2)).ravel()
        parts = [chosen[cell[chosen] == name] for name in ("x", "y")]
        by_hand = np.mean([pairwise(correct[p], a[p]) - pairwise(correct[p], b[p]) for p in parts])
        assert replicate == pytest.approx(by_hand, abs=1e-13)


def test_clustered_variance_agrees_with_the_clustered_bootstrap_and_delong_does_not() -> None:
    rows_of_items = draw(250)
    correct, a, _, item = (np.repeat(x, 4) for x in rows_of_items)  # four models that agree but for a little noise
    a, constant = a + 0.1 * np.random.default_rng(0).normal(size=1000), np.zeros(1000)
    boot = auroc_interval(correct, a, item, Resampling(2000)).replicates.std(ddof=1)
    clustered, rows = clustered_test(correct, a, constant, item).se, delong_test(correct, a, constant).se
    assert clustered == pytest.approx(boot, rel=0.06)  # 2000 replicates: 1.6 % standard error; the rest is 250 items
    assert rows < 0.6 * boot  # four rows of an item are not four items


def test_clustered_variance_of_several_cells_agrees_with_the_bootstrap() -> None:
    correct, a, b, item = draw(200, 3, decimals=6)
    cell = np.tile(["x", "y", "z"], 200)
    boot = auroc_difference(correct, a, b, item, plain(2000), cell=cell)
    test = clustered_test(correct, a, b, item, cell=cell)
    assert test.difference == pytest.approx(boot.estimate, abs=1e-13)
    assert test.se == pytest.approx(boot.replicates.std(ddof=1), rel=0.08)


def test_scores_of_each_replicate_with_ties_equal_pair_counting() -> None:
    rng = np.random.default_rng(2)
    positive, weights = rng.random(25) < 0.5, rng.integers(0, 3, (6, 25)).astype(float)
    scores = rng.integers(0, 5, (6, 25)).astype(float)
    for found, score, weight in zip(auroc_each(positive, scores, weights), scores, weights, strict=True):
        rows = np.repeat(np.arange(25), weight.astype(int))
        assert found == pytest.approx(pairwise(positive[rows], score[rows]), abs=1e-14)
    assert np.isnan(auroc_each(positive, scores, weights * positive)).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(60)))
def test_monotone_transform_and_row_order_change_nothing(seed: int, order: list[int]) -> None:
    correct, a, b, item = draw(30, 2, seed)
    first = auroc_difference(correct, a, b, item, plain(50, 1))
    second = auroc_difference(correct[order], np.exp(a[order]), b[order] ** 3, item[order], plain(50, 1))
    assert np.array_equal(first.replicates, second.replicates, equal_nan=True)
    tests = (
        clustered_test(correct, a, b, item),
        clustered_test(correct[order], np.exp(a[order]), b[order], item[order]),
    )
    assert tests[0].z == pytest.approx(tests[1].z, rel=1e-9)
    assert tests[0].p == pytest.approx(tests[1].p, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), copies=st.integers(2, 4))
def test_copied_rows_of_a_cluster_change_nothing_and_copied_clusters_only_the_width(seed: int, copies: int) -> None:
    correct, a, b, item = (np.repeat(x, copies) for x in draw(30, 2, seed))
    own, copied = draw(30, 2, seed), clustered_test(correct, a, b, item)
    same = clustered_test(*own)
    assert copied.difference == pytest.approx(same.difference, abs=1e-12)
    assert copied.se == pytest.approx(same.se, rel=1e-9)
    drawn = [auroc_difference(*rows, plain(50, 1)) for rows in (own, (correct, a, b, item))]
    assert drawn[0].replicates == pytest.approx(drawn[1].replicates, abs=1e-12, nan_ok=True)
    apart = clustered_test(correct, a, b, item * copies + np.tile(np.arange(copies), 60))
    assert apart.difference == pytest.approx(same.difference, abs=1e-12)
    assert apart.se == pytest.approx(same.se / copies**0.5, rel=0.1)  # but for the corrections I / (I - 1)


def test_ties_count_one_half() -> None:
    correct, _, _, item = draw()
    flat, score = np.full(40, 0.3), np.zeros(40)
    score[np.flatnonzero(correct)[0]] = 1.0
    ties = delong_test(correct, score, flat)
    assert ties.auc_a == pytest.approx(0.5 + 0.5 / correct.sum())
    assert ties.auc_b == 0.5
    found = auroc_difference(correct, flat, flat + 1, item, Resampling(300))
    assert (found.estimate, found.ci_low, found.ci_high) == (0.0, 0.0, 0.0)
    test = delong_test(correct, flat, flat + 1)
    assert (test.difference, test.se, test.z, test.p) == (0.0, 0.0, 0.0, 1.0)


def test_replicates_with_one_class_are_counted_and_widen_the_interval() -> None:
    correct = np.array([True] * 10 + [False])
    score = np.r_[np.linspace(0, 1, 10), 0.45]
    found = auroc_interval(correct, score, np.arange(11), plain(2000))
    missing = (10 / 11) ** 11
    assert found.n_degenerate / 2000 == pytest.approx(missing, abs=4 * np.sqrt(missing * (1 - missing) / 2000))
    assert (found.ci_low, found.ci_high) == (-np.inf, np.inf)
    with pytest.raises(EstimateError, match="undefined without one of the clusters"):
        auroc_interval(correct, score, np.arange(11), Resampling(200))


def test_a_row_without_a_score_counts_for_the_other_scores_only() -> None:
    correct, a, b, item = draw(40, 2)
    gap = np.where(np.arange(80) % 5 == 0, np.nan, a)
    cell = np.tile(["x", "y"], 40)
    shared = draw_aurocs(correct, [a, gap, b], item, cell=cell, resampling=Resampling(100))
    own = np.isfinite(gap)
    assert shared.estimate[1, 0] == pytest.approx(pairwise(correct[own & (cell == "x")], a[own & (cell == "x")]))
    with_b = draw_aurocs(correct, [a, b], item, cell=cell, resampling=Resampling(100))
    assert np.array_equal(shared.drawn[[0, 2]], with_b.drawn, equal_nan=True)  # the others do not notice
    nowhere = np.where(cell == "x", np.nan, b)
    found = draw_aurocs(correct, [nowhere], item, cell=cell, resampling=Resampling(20))
    assert np.isnan(found.estimate[0, 0]) and np.isfinite(found.interval(0, cells=[1]).estimate)


def test_jackknife_of_shared_draws_leaves_out_one_item_each() -> None:
    correct, a, _, item = draw(30, 2)
    cell = np.tile(["x", "y"], 30)
    [left_out] = draw_aurocs(correct, [a], item, cell=cell, resampling=Resampling(5)).jackknife
    for g in (0, 17, 29):
        rows = (item != g) & (cell == "y")
        assert left_out[0, 1, g] == pytest.approx(pairwise(correct[rows], a[rows]), abs=1e-13)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": np.ones(40)}, "40 correct of 40 rows: one class only"),
        ({"correct": np.zeros(40)}, "0 correct of 40 rows: one class only"),
        ({"correct": np.full(40, 2.0)}, r"row 0: score \S+, label 2.0"),
        ({"score": np.r_[np.zeros(5), np.nan, np.zeros(34)]}, "row 5: score nan, label .*; expected a finite number"),
        ({"score": np.zeros(39)}, "expected one of each a row"),
    ],
)
def test_unusable_rows_are_named(change: dict, message: str) -> None:
    correct, a, _, item = draw()
    given_rows = {"correct": correct, "score": a} | change
    for call in (
        lambda: auroc_interval(given_rows["correct"], given_rows["score"], item, Resampling(10)),
        lambda: delong_test(given_rows["correct"], given_rows["score"], given_rows["score"]),
        lambda: auroc_difference(given_rows["correct"], given_rows["score"], given_rows["score"], item, Resampling(10)),
    ):
        with pytest.raises(EstimateError, match=message):
            call()


def test_too_few_rows_or_clusters_are_refused() -> None:
    correct, a, b, item = draw()
    few = np.r_[np.flatnonzero(correct)[:4], np.flatnonzero(~correct)[:4]]
    with pytest.raises(EstimateError, match="8 clusters for 8 rows; expected >= 10"):
        delong_test(correct[few], a[few], b[few])
    with pytest.raises(EstimateError, match="8 items for 8 rows; an interval needs >= 10"):
        auroc_difference(correct[few], a[few], b[few], item[few], Resampling(10))
    with pytest.raises(EstimateError, match="1 cluster"):
        auroc_difference(correct, a, b, np.zeros(40), Resampling(10))
    one_wrong = np.arange(40) != 3
    with pytest.raises(EstimateError, match="39 clusters with correct and 1 with wrong rows"):
        delong_test(one_wrong, a, b)
    with pytest.raises(EstimateError, match="without any variance"):
        delong_test(correct, correct.astype(float), np.zeros(40))


@pytest.mark.parametrize(("auc", "m", "n"), [(0.893, 51, 58), (0.5, 20, 20), (0.97, 225, 25), (0.62, 7, 300)])
def test_newcombe_ends_solve_the_equation_of_method_5(auc: float, m: int, n: int) -> None:
    def distance(theta: float) -> float:
        larger = (m + n) / 2
        inner = 1 + (larger - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (auc - theta) ** 2 - stats.norm.ppf(0.975) ** 2 * theta * (1 - theta) * inner / (m * n)

    low, high = newcombe_interval(auc, m, n)
    assert low == pytest.approx(optimize.brentq(distance, 1e-12, auc), abs=1e-10)
    assert high == pytest.approx(optimize.brentq(distance, auc, 1 - 1e-12), abs=1e-10)
    mirrored = newcombe_interval(1 - auc, m, n)
    assert [1 - float(end) for end in mirrored[::-1]] == pytest.approx([float(low), float(high)], abs=1e-12)


def test_newcombe_has_width_where_the_scores_separate_and_refuses_what_is_no_auroc() -> None:
    low, high = newcombe_interval(1.0, 90, 10)
    assert high == 1.0 and 0.8 < low < 0.95
    assert newcombe_interval(1.0, 90, 40)[0] > low
    for wrong in ((1.1, 10, 10), (0.5, 0, 10), (np.nan, 10, 10)):
        with pytest.raises(EstimateError, match=r"expected \[0, 1\]"):
            newcombe_interval(*wrong)


def test_combined_intervals_are_those_of_walds_when_distances_are_symmetric() -> None:
    # with ends at -+ z se MOVER is the variance of a sum of correlated estimates
    estimate, se, weight = np.array([0.7, 0.6, 0.8]), np.array([0.03, 0.05, 0.02]), np.array([0.5, 0.5, -1.0])
    r = np.array([[1, 0.4, 0.2], [0.4, 1, -0.3], [0.2, -0.3, 1]])
    reach = 1.96 * np.sqrt((weight * se) @ r @ (weight * se))
    found = combine_intervals(estimate, estimate - 1.96 * se, estimate + 1.96 * se, weight, r)
    assert found == pytest.approx((estimate @ weight, estimate @ weight - reach, estimate @ weight + reach))


def test_ends_of_a_difference_take_the_distances_that_zou_and_donner_say() -> None:
    (a, la, ua), (b, lb, ub), r = (0.9, 0.8, 0.94), (0.7, 0.61, 0.77), 0.35
    matrix = np.array([[1, r], [r, 1]])
    ends = combine_intervals(np.array([a, b]), np.array([la, lb]), np.array([ua, ub]), np.array([1.0, -1.0]), matrix)
    low = a - b - np.sqrt((a - la) ** 2 + (ub - b) ** 2 - 2 * r * (a - la) * (ub - b))
    high = a - b + np.sqrt((ua - a) ** 2 + (b - lb) ** 2 - 2 * r * (ua - a) * (b - lb))
    assert ends == pytest.approx((a - b, low, high))
    unknown = np.array([[1, np.nan], [np.nan, 1]])
    lead = combine_intervals(np.array([a, b]), np.array([la, lb]), np.array([ua, ub]), np.array([1.0, -1.0]), unknown)
    mean = combine_intervals(np.array([a, b]), np.array([la, lb]), np.array([ua, ub]), np.array([0.5, 0.5]), unknown)
    assert lead[1] == pytest.approx(a - b - np.hypot(a - la, ub - b))  # uncorrelated
    assert mean[1:] == pytest.approx(((la + lb) / 2, (ua + ub) / 2))  # all the same


def test_closed_and_resampled_intervals_agree_where_both_hold() -> None:
    correct, a, b, item = draw(400, 3, decimals=6)
    cell = np.tile(["x", "y", "z"], 400)
    placed = place_scores(correct, [a, b], item, cell=cell)
    for minus in (None, 1):
        resampled = auroc_difference(correct, a, None if minus is None else b, item, plain(2000), cell=cell)
        closed = placed.interval(0, minus)
        assert closed.estimate == pytest.approx(resampled.estimate, abs=1e-13)
        width = resampled.ci_high - resampled.ci_low
        assert closed.ci_high - closed.ci_low == pytest.approx(width, rel=0.08)
    assert placed.interval(0, cells=[1]).method == "newcombe" and placed.interval(0).method == "mover"


def test_rows_that_repeat_an_item_in_one_cell_do_not_narrow_the_interval() -> None:
    correct, a, b, item = draw(150, decimals=6)
    one = place_scores(correct, [a], item)
    copied = place_scores(np.repeat(correct, 4), [np.repeat(a, 4)], np.repeat(item, 4))
    assert copied.estimate == pytest.approx(one.estimate, abs=1e-13)
    own, many = one.interval(0), copied.interval(0)
    assert (many.ci_high - many.ci_low) / (own.ci_high - own.ci_low) == pytest.approx(1, abs=0.05)
    as_rows = place_scores(np.repeat(correct, 4), [np.repeat(a, 4)], np.arange(600)).interval(0)
    assert as_rows.ci_high - as_rows.ci_low < 0.6 * (many.ci_high - many.ci_low)


def test_covariances_of_cells_are_those_of_the_test() -> None:
    correct, a, b, item = draw(60, 2, decimals=6)
    cell = np.tile(["x", "y"], 60)
    placed, test = place_scores(correct, [a, b], item, cell=cell), clustered_test(correct, a, b, item, cell=cell)
    weight = np.array([0.5, 0.5, -0.5, -0.5])
    covariance = placed.covariance([(0, 0), (0, 1), (1, 0), (1, 1)])
    assert np.sqrt(weight @ covariance @ weight) == pytest.approx(test.se, rel=1e-12)
    assert placed.test(0, 1).p == test.p


def test_all_tied_rows_have_one_half_without_width_and_few_of_a_class_are_refused() -> None:
    correct, _, _, item = draw()
    flat = place_scores(correct, [np.zeros(40)], item).interval(0)
    assert (flat.estimate, flat.ci_low, flat.ci_high) == (0.5, 0.5, 0.5)
    with pytest.raises(EstimateError, match="39 clusters with correct and 1 with wrong rows"):
        place_scores(np.arange(40) != 3, [np.arange(40.0)], item).interval(0)
