"""Claims about AUROC, its tests and intervals, calibration and the tables of notebook 03."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from synthetic_items import make_items, read_case

from dontblink.bootstrap import BootstrapError, resample
from dontblink.cells import CellError
from dontblink.entropy import (
    AurocError,
    EntropyError,
    auroc,
    auroc_difference,
    auroc_interval,
    auroc_table,
    clustered_test,
    delong_test,
    difference_table,
    expected_calibration_error,
    reliability_curve,
)
from dontblink.ranks import auroc_each

FAST = {"n_boot": 200}


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
        found = auroc_difference(case["y"], case["a"], case["b"], np.arange(120), 9999, 12345, method=method)
        assert [found.ci_low, found.ci_high] == pytest.approx(list(expected[name]), abs=tol[name])
    assert found.replicates[:5] == pytest.approx(expected["boot_first5"], abs=tol["boot_first5"])
    assert found.replicates.std(ddof=1) == pytest.approx(float(expected["boot_diff_se"]), abs=tol["boot_diff_se"])


def test_reference_clustered_difference() -> None:
    case, expected, tol = read_case("cluster_bootstrap_logit")
    a, b = case["E"], -case["V"]
    found = auroc_difference(case["y"], a, b, case["cluster"], 2000, 99, method="percentile")
    assert found.auc_a == pytest.approx(float(expected["auroc_E"]), abs=tol["auroc_E"])
    assert found.auc_b == pytest.approx(float(expected["auroc_negV"]), abs=tol["auroc_negV"])
    first, low_high = expected["auroc_diff_boot_first3"], expected["auroc_diff_boot_pct95"]
    assert found.replicates[:3] == pytest.approx(first, abs=tol["auroc_diff_boot_first3"])
    se, tolerance = float(expected["auroc_diff_boot_se"]), tol["auroc_diff_boot_se"]
    assert found.replicates.std(ddof=1) == pytest.approx(se, abs=tolerance)
    assert [found.ci_low, found.ci_high] == pytest.approx(list(low_high), abs=tol["auroc_diff_boot_pct95"])


def test_reference_calibration_errors() -> None:
    case, expected, tol = read_case("ece")
    for name, bins, rule in (
        ("ece15_width", 15, "equal_width"), ("ece10_width", 10, "equal_width"), ("ece10_mass", 10, "equal_mass"),
    ):  # fmt: skip
        found = expected_calibration_error(case["p"], case["correct"], bins, rule)
        assert found == pytest.approx(float(expected[name]), abs=tol[name])


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
    ours = auroc_difference(correct, a, b, item, 400, 3)
    assert (ours.ci_low, ours.ci_high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_each_replicate_is_the_auroc_of_the_drawn_rows_within_each_cell() -> None:
    correct, a, b, item = draw(30, 2)
    cell = np.tile(["x", "y"], 30)
    found = auroc_difference(correct, a, b, item, 20, 1, cell=cell, method="percentile")
    for draws, replicate in zip(next(resample([np.arange(30)], 20, 1)), found.replicates, strict=True):
        chosen = (2 * draws[:, None] + np.arange(2)).ravel()
        parts = [chosen[cell[chosen] == name] for name in ("x", "y")]
        by_hand = np.mean([pairwise(correct[p], a[p]) - pairwise(correct[p], b[p]) for p in parts])
        assert replicate == pytest.approx(by_hand, abs=1e-13)


def test_delong_is_its_textbook_definition() -> None:
    correct, a, b, _ = draw(60)
    kernels = [(np.sign(s[correct][:, None] - s[~correct][None, :]) + 1) / 2 for s in (a, b)]
    rows, columns = (np.array([k.mean(axis=axis) for k in kernels]) for axis in (1, 0))
    s = np.cov(rows) / correct.sum() + np.cov(columns) / (~correct).sum()
    found = delong_test(correct, a, b)
    assert found.se == pytest.approx(np.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1]), rel=1e-12)
    assert found.difference == pytest.approx(kernels[0].mean() - kernels[1].mean(), abs=1e-13)
    assert found.ci_low < found.difference < found.ci_high


def test_clustered_variance_agrees_with_the_clustered_bootstrap_and_delong_does_not() -> None:
    rows_of_items = draw(250)
    correct, a, _, item = (np.repeat(x, 4) for x in rows_of_items)  # four models that agree but for a little noise
    a, constant = a + 0.1 * np.random.default_rng(0).normal(size=1000), np.zeros(1000)
    boot = auroc_interval(correct, a, item, n_boot=2000).replicates.std(ddof=1)
    clustered, rows = clustered_test(correct, a, constant, item).se, delong_test(correct, a, constant).se
    assert clustered == pytest.approx(boot, rel=0.06)  # 2000 replicates: 1.6 % standard error; the rest is 250 items
    assert rows < 0.6 * boot  # four rows of an item are not four items


def test_clustered_variance_of_several_cells_agrees_with_the_bootstrap() -> None:
    correct, a, b, item = draw(200, 3, decimals=6)
    cell = np.tile(["x", "y", "z"], 200)
    boot = auroc_difference(correct, a, b, item, 2000, cell=cell, method="percentile")
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
    first = auroc_difference(correct, a, b, item, 50, 1, method="percentile")
    second = auroc_difference(correct[order], np.exp(a[order]), b[order] ** 3, item[order], 50, 1, method="percentile")
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
    drawn = [auroc_difference(*rows, 50, 1, method="percentile") for rows in (own, (correct, a, b, item))]
    assert drawn[0].replicates == pytest.approx(drawn[1].replicates, abs=1e-12, nan_ok=True)
    apart = clustered_test(correct, a, b, item * copies + np.tile(np.arange(copies), 60))
    assert apart.difference == pytest.approx(same.difference, abs=1e-12)
    assert apart.se == pytest.approx(same.se / copies**0.5, rel=0.1)  # but for the corrections I / (I - 1)


def test_swapping_the_scores_mirrors_the_test() -> None:
    correct, a, b, item = draw()
    one, two = delong_test(correct, a, b), delong_test(correct, b, a)
    assert (one.z, one.p, one.ci_low) == pytest.approx((-two.z, two.p, -two.ci_high), rel=1e-12)


def test_constant_scores_have_an_auroc_of_one_half_and_no_difference() -> None:
    correct, _, _, item = draw()
    flat = np.full(40, 0.3)
    assert auroc(correct, flat) == 0.5
    found = auroc_difference(correct, flat, flat + 1, item, 300)
    assert (found.estimate, found.ci_low, found.ci_high) == (0.0, 0.0, 0.0)
    test = delong_test(correct, flat, flat + 1)
    assert (test.difference, test.se, test.z, test.p, test.ci_low, test.ci_high) == (0.0, 0.0, 0.0, 1.0, 0.0, 0.0)


def test_all_ties_but_one_row_is_a_small_difference() -> None:
    correct, _, _, item = draw()
    score = np.zeros(40)
    score[np.flatnonzero(correct)[0]] = 1.0
    assert auroc(correct, score) == pytest.approx(0.5 + 0.5 / correct.sum())


def test_replicates_with_one_class_are_counted_and_widen_the_interval() -> None:
    correct = np.array([True] * 10 + [False])
    score = np.r_[np.linspace(0, 1, 10), 0.45]
    found = auroc_interval(correct, score, np.arange(11), n_boot=2000, method="percentile")
    missing = (10 / 11) ** 11
    assert found.n_degenerate / 2000 == pytest.approx(missing, abs=4 * np.sqrt(missing * (1 - missing) / 2000))
    assert (found.ci_low, found.ci_high) == (-np.inf, np.inf)
    with pytest.raises(BootstrapError, match="undefined without one of the clusters"):
        auroc_interval(correct, score, np.arange(11), n_boot=200)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": np.ones(40)}, "40 correct of 40 rows: one class only"),
        ({"correct": np.zeros(40)}, "0 correct of 40 rows: one class only"),
        ({"correct": np.full(40, 2.0)}, "row 0: label 2.0"),
        ({"score": np.r_[np.zeros(5), np.nan, np.zeros(34)]}, "row 5: score nan; expected a finite number"),
        ({"score": np.zeros(39)}, "expected one label and one score a row"),
    ],
)
def test_unusable_rows_are_named(change: dict, message: str) -> None:
    correct, a, _, item = draw()
    given_rows = {"correct": correct, "score": a} | change
    for call in (
        lambda: auroc(given_rows["correct"], given_rows["score"]),
        lambda: delong_test(given_rows["correct"], given_rows["score"], given_rows["score"]),
        lambda: auroc_difference(given_rows["correct"], given_rows["score"], given_rows["score"], item, 10),
    ):
        with pytest.raises(AurocError, match=message):
            call()


def test_too_few_rows_or_clusters_are_refused() -> None:
    correct, a, b, item = draw()
    few = np.r_[np.flatnonzero(correct)[:4], np.flatnonzero(~correct)[:4]]
    with pytest.raises(AurocError, match="8 clusters for 8 rows; expected >= 10"):
        delong_test(correct[few], a[few], b[few])
    with pytest.raises(AurocError, match="8 items for 8 rows; an interval needs >= 10"):
        auroc_difference(correct[few], a[few], b[few], item[few], 10)
    with pytest.raises(BootstrapError, match="1 cluster"):
        auroc_difference(correct, a, b, np.zeros(40), 10)
    one_wrong = np.arange(40) != 3
    with pytest.raises(AurocError, match="39 clusters with correct and 1 with wrong rows"):
        delong_test(one_wrong, a, b)
    with pytest.raises(AurocError, match="without any variance"):
        delong_test(correct, correct.astype(float), np.zeros(40))


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
    with pytest.raises(EntropyError, match=message):
        expected_calibration_error(p, correct, bins, rule)  # type: ignore[arg-type]


def test_auroc_table_has_a_row_per_scope_and_score_and_the_estimates_of_the_cells() -> None:
    items = make_items()
    table = auroc_table(items, **FAST)
    assert len(table) == 6 * (4 + 2 + 1)
    cell = items.query("model == 'glm' and benchmark == 'visual'")
    found = table.query("scope == 'cell' and model == 'glm' and benchmark == 'visual' and score == 'full'").iloc[0]
    assert found["estimate"] == pytest.approx(auroc(cell["correct"], -cell["full_entropy_nats"]), abs=1e-14)
    assert found["n_items"] == 60 and found["n_wrong"] == (~cell["correct"]).sum()
    cells = table.query("scope == 'cell' and score == 'full'")
    pooled = table.query("scope == 'pooled' and score == 'full'").iloc[0]
    assert pooled["estimate"] == pytest.approx(cells["estimate"].mean(), abs=1e-13)
    assert (pooled["n_rows"], pooled["n_items"], pooled["n_cells"]) == (240, 120, 4)


def test_difference_table_gives_delongs_p_within_a_cell() -> None:
    items = make_items()
    table = difference_table(items, **FAST)
    cell = items.query("model == 'qwen' and benchmark == 'symbolic'")
    found = table.query("model == 'qwen' and benchmark == 'symbolic' and score == 'full - answer'").iloc[0]
    test = delong_test(cell["correct"], -cell["full_entropy_nats"], -cell["answer_entropy_nats"])
    assert (found["p"], found["estimate"]) == pytest.approx((test.p, test.difference), rel=1e-9)
    pooled = table.query("scope == 'pooled' and score == 'full - answer'").iloc[0]
    assert pooled["ci_low"] > 0  # the simulated answer entropy says nothing


def test_adjusting_for_the_cause_of_a_score_takes_its_discrimination_away() -> None:
    items = make_items(200)
    items["chain_length"] = items["full_entropy_nats"] * 10 + 1
    raw, adjusted = (
        auroc_table(items, {"max": ("max_entropy_nats", -1.0)}, covariates=names, **FAST).query("scope == 'pooled'")
        for names in ((), ("chain_length",))
    )
    assert raw["ci_low"].item() > 0.55
    assert adjusted["ci_low"].item() < 0.5 < adjusted["ci_high"].item()
    assert adjusted["adjusted_for"].item() == "chain_length"


def test_rows_without_a_number_and_cells_without_two_classes_are_counted() -> None:
    items = make_items()
    items.loc[3, "answer_entropy_nats"] = np.nan
    items.loc[(items["model"] == "qwen") & (items["benchmark"] == "visual"), "correct"] = True
    table = difference_table(items, [("full", "answer")], **FAST)
    assert set(table["n_left_out"]) == {1}
    empty = table.query("scope == 'cell' and model == 'qwen' and benchmark == 'visual'").iloc[0]
    assert empty["n_cells"] == 0 and np.isnan(empty["estimate"]) and empty["n_rows"] == 60
    assert table.query("scope == 'pooled'")["n_cells"].item() == 3


def test_calibration_rows_missing_columns_and_repeated_items_are_refused() -> None:
    items = make_items(20)
    with pytest.raises(CellError, match="calibration split"):
        auroc_table(items.assign(split="calibration"), **FAST)
    with pytest.raises(CellError, match="no numeric column max_entropy_nats"):
        auroc_table(items.drop(columns="max_entropy_nats"), **FAST)
    with pytest.raises(CellError, match="occurs twice"):
        auroc_table(pd.concat([items, items.head(1)]), **FAST)


def test_shuffled_labels_leave_no_discrimination() -> None:
    items = make_items(300)
    items["correct"] = np.random.default_rng(1).permutation(items["correct"].to_numpy())
    found = auroc_table(items, {"full": ("full_entropy_nats", -1.0)}, **FAST)
    pooled = found.query("scope == 'pooled'").iloc[0]
    assert pooled["ci_low"] < 0.5 < pooled["ci_high"]
    assert abs(pooled["estimate"] - 0.5) < 0.05  # 1200 rows: standard error 0.017
