"""Claims about the tables of AUROCs and about calibration."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score
from synthetic_items import make_items, read_case

from dontblink.statistics.auroc import auroc_difference, delong_test
from dontblink.statistics.bootstrap import EstimateError, Resampling
from dontblink.studies.cells import select_rows
from dontblink.studies.entropy import (
    add_holm,
    auroc_table,
    calibration_table,
    expected_calibration_error,
    reliability_curve,
)

FAST = {"resampling": Resampling(200)}


def test_auroc_table_has_a_row_per_scope_and_quantity_and_the_estimates_of_the_cells() -> None:
    items = make_items()
    table = auroc_table(items, **FAST)
    assert len(table) == (6 + 3) * (4 + 2 + 1)
    cell = items.query("model == 'glm' and benchmark == 'visual'")
    found = table.query("scope == 'cell' and model == 'glm' and benchmark == 'visual' and score == 'full'").iloc[0]
    assert found["estimate"] == pytest.approx(roc_auc_score(cell["correct"], -cell["full_entropy_nats"]), abs=1e-14)
    assert found["n_items"] == 60 and found["n_wrong"] == (~cell["correct"]).sum()
    cells = table.query("scope == 'cell' and score == 'full'")
    pooled = table.query("scope == 'pooled' and score == 'full'").iloc[0]
    assert pooled["estimate"] == pytest.approx(cells["estimate"].mean(), abs=1e-13)
    assert (pooled["n_rows"], pooled["n_items"], pooled["n_cells"]) == (240, 120, 4)


def test_shared_draws_give_the_interval_of_a_scope_on_its_own() -> None:
    """One bootstrap for all scores, cells and scopes: that of a benchmark alone is the same, on the same draws."""
    items = make_items(benchmarks=("symbolic",))
    options = {"resampling": Resampling(300, 4, method="percentile")}
    table = auroc_table(items, **options)
    found = table.query("scope == 'benchmark' and score == 'full - answer'").iloc[0]
    scores = [-items[f"{name}_entropy_nats"] for name in ("full", "answer")]
    alone = auroc_difference(items["correct"], *scores, items["item_id"], cell=items["model"], **options)
    assert (found["estimate"], found["boot_low"], found["boot_high"]) == pytest.approx(
        (alone.estimate, alone.ci_low, alone.ci_high), abs=1e-13
    )


def test_a_difference_has_delongs_p_within_a_cell() -> None:
    items = make_items()
    table = auroc_table(items, **FAST)
    cell = items.query("model == 'qwen' and benchmark == 'symbolic'")
    found = table.query("model == 'qwen' and benchmark == 'symbolic' and score == 'full - answer'").iloc[0]
    test = delong_test(cell["correct"], -cell["full_entropy_nats"], -cell["answer_entropy_nats"])
    assert (found["p"], found["estimate"]) == pytest.approx((test.p, test.difference), rel=1e-9)
    pooled = table.query("scope == 'pooled' and score == 'full - answer'").iloc[0]
    assert pooled["ci_low"] > 0  # the simulated answer entropy says nothing


def test_adjusting_for_the_cause_of_a_score_takes_its_discrimination_away() -> None:
    items = make_items(200)
    items["chain_length"] = items["full_entropy_nats"] * 10 + 1
    only = {"scores": {"max": ("max_entropy_nats", -1.0)}, "pairs": ()}
    raw, adjusted = (
        auroc_table(items, **only, covariates=names, **FAST).query("scope == 'pooled'")
        for names in ((), ("chain_length",))
    )
    assert raw["ci_low"].item() > 0.55
    assert adjusted["ci_low"].item() < 0.5 < adjusted["ci_high"].item()
    assert adjusted["adjusted_for"].item() == "chain_length"


@pytest.mark.parametrize("covariate", ["n_response_tokens", "log_n_response_tokens"])
def test_a_covariate_is_no_score_of_its_own_adjusted_table(covariate: str) -> None:
    names = set(auroc_table(make_items(), covariates=[covariate], **FAST)["score"])
    assert names == {"full", "answer", "max", "last_decile", "vision", "full - answer", "full - max"}


def test_rows_without_a_number_are_counted_where_they_are_and_cells_of_one_class_have_no_estimate() -> None:
    items = make_items()
    items.loc[3, "answer_entropy_nats"] = np.nan  # glm x symbolic
    items.loc[(items["model"] == "qwen") & (items["benchmark"] == "visual"), "correct"] = True
    table = auroc_table(items, **FAST)
    gaps = table[table["n_ranked_last"] > 0]
    assert (table["n_left_out"] == 0).all()
    assert set(gaps["score"]) == {"answer", "full - answer"} and set(gaps["n_ranked_last"]) == {1}
    assert list(zip(gaps["model"], gaps["benchmark"], strict=True))[::2] == [
        ("glm", "symbolic"), ("all", "symbolic"), ("all", "all"),
    ]  # fmt: skip
    empty = table.query("scope == 'cell' and model == 'qwen' and benchmark == 'visual'").iloc[0]
    assert empty["n_cells"] == 0 and np.isnan(empty["estimate"]) and empty["n_rows"] == 60
    assert set(table.query("scope == 'pooled'")["n_cells"]) == {3}


def test_a_response_without_a_score_is_ranked_last_and_its_row_stays() -> None:
    items = make_items()
    items.loc[:9, "answer_entropy_nats"] = np.nan
    table = auroc_table(items, **FAST).query("scope == 'cell' and model == 'glm' and benchmark == 'symbolic'")
    found = table.set_index("score").loc["full - answer"]
    rows = items.query("model == 'glm' and benchmark == 'symbolic'")
    last = rows["answer_entropy_nats"].fillna(rows["answer_entropy_nats"].max())
    assert found["auc_a"] == pytest.approx(roc_auc_score(rows["correct"], -rows["full_entropy_nats"]), abs=1e-13)
    assert found["auc_b"] == pytest.approx(roc_auc_score(rows["correct"], -last), abs=1e-13)
    assert found["n_ranked_last"] == 10 and found["auc_a"] == table.set_index("score").loc["full", "estimate"]


def test_cells_that_are_too_small_have_counts_and_no_estimate() -> None:
    items = make_items()
    few = (items["model"] == "glm") & (items["benchmark"] == "visual")
    items = items[~few | (items["item_id"] < "item 015")]  # 15 rows in one cell
    wrong = items[(items["model"] == "qwen") & (items["benchmark"] == "visual") & ~items["correct"]].index
    items.loc[wrong[9:], "correct"] = True  # nine wrong answers in another
    cells = auroc_table(items, **FAST).query("scope == 'cell' and score == 'full'").set_index(["model", "benchmark"])
    assert cells["estimate"].isna().to_dict() == {
        ("glm", "symbolic"): False, ("qwen", "symbolic"): False, ("glm", "visual"): True, ("qwen", "visual"): True,
    }  # fmt: skip
    looser = auroc_table(items, min_class=9, **FAST).query("scope == 'cell' and score == 'full'")
    assert looser["estimate"].notna().sum() == 3


def test_a_constant_score_separates_nothing_and_leaves_no_error() -> None:
    table = auroc_table(make_items().assign(answer_entropy_nats=0.0), **FAST)
    flat = table[table["score"] == "answer"]
    assert (flat[["estimate", "ci_low", "ci_high"]] == 0.5).all(axis=None)


def test_a_test_without_variance_names_its_cell() -> None:
    items = make_items()
    own = (items["model"] == "glm") & (items["benchmark"] == "visual")
    items.loc[own, "full_entropy_nats"] = np.where(items.loc[own, "correct"], 0.1, 0.2)
    items.loc[own, "answer_entropy_nats"] = 0.0
    with pytest.raises(EstimateError, match="visual, glm, full - answer: difference 0.5 without any variance"):
        auroc_table(items, **FAST)


def test_unknown_pairs_are_refused() -> None:
    with pytest.raises(EstimateError, match=r"pairs of \['best'\]; expected scores of full"):
        auroc_table(make_items(20), pairs=[("full", "best")], **FAST)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1_000))
def test_increasing_transforms_of_entropies_and_row_order_change_no_row_of_the_table(seed: int) -> None:
    items = make_items(40, seed=seed)
    other = items.sample(frac=1, random_state=seed)
    other["full_entropy_nats"] = np.exp(3 * other["full_entropy_nats"])
    other["answer_entropy_nats"] = other["answer_entropy_nats"] ** 3
    first, second = (
        auroc_table(x, min_class=5, resampling=Resampling(50, method="percentile")) for x in (items, other)
    )
    numbers = first.select_dtypes("number").columns
    assert first[numbers].to_numpy(float) == pytest.approx(second[numbers].to_numpy(float), abs=1e-9, nan_ok=True)


def test_holm_runs_over_the_declared_cells_of_each_difference() -> None:
    items = make_items()
    cells = [(m, b) for m in ("glm", "qwen") for b in ("symbolic", "visual")]
    table = add_holm(auroc_table(items, **FAST), cells)
    own = table.query("scope == 'cell' and score == 'full - max'").sort_values("p")
    stepped = np.maximum.accumulate(own["p"].to_numpy() * [4, 3, 2, 1])
    assert own["p_holm"].to_numpy() == pytest.approx(np.minimum(stepped, 1), rel=1e-12)
    assert table["p_holm"].notna().sum() == 3 * 4  # three differences, no AUROC, no pooled row
    fewer = add_holm(auroc_table(items, **FAST), cells[:2]).query("score == 'full - max'")
    assert fewer["p_holm"].notna().sum() == 2 and (fewer["p_holm"].dropna() <= own["p_holm"].max()).all()


def test_a_declared_cell_without_a_p_value_counts_in_its_family() -> None:
    items = make_items()
    items.loc[(items["model"] == "qwen") & (items["benchmark"] == "visual"), "correct"] = True
    table = auroc_table(items, **FAST)
    found = add_holm(table, [("glm", "visual"), ("qwen", "visual")])
    found = found.query("score == 'full - answer' and scope == 'cell'").set_index(["model", "benchmark"])
    assert np.isnan(found.loc[("qwen", "visual"), "p_holm"])
    assert found.loc[("glm", "visual"), "p_holm"] == pytest.approx(min(1, 2 * found.loc[("glm", "visual"), "p"]))
    with pytest.raises(EstimateError, match="no row for other x visual"):
        add_holm(table, [("other", "visual")])


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
    table = calibration_table(rows, n_draws=20, resampling=Resampling(200))
    assert len(table) == 4 + 2 + 1
    pooled, cell = table[table["scope"] == "pooled"].iloc[0], table[table["scope"] == "cell"].iloc[0]
    assert pooled["brier"] == pytest.approx(brier_score_loss(rows["correct"], rows["probability"]), abs=1e-15)
    assert pooled["brier_constant"] == pytest.approx(0.25)
    assert pooled["estimate"] == pytest.approx(0.25 - pooled["brier"], abs=1e-12)
    assert pooled["ci_low"] < pooled["estimate"] < pooled["ci_high"]
    none = calibration_table(rows.assign(probability=0.5), resampling=Resampling(50), n_draws=5)
    assert (none[["estimate", "ci_low", "ci_high"]] == 0).all(axis=None)  # a constant gains nothing over the constant
    own = rows[(rows["model"] == cell["model"]) & (rows["benchmark"] == cell["benchmark"])]
    assert cell["ece_equal_mass"] == expected_calibration_error(own["probability"], own["correct"], 10, "equal_mass")


def test_calibrated_labels_stay_within_their_own_draws_and_biased_ones_leave_them() -> None:
    rows = predictions(400)
    honest = calibration_table(rows, n_draws=100, resampling=Resampling(20))
    boastful = calibration_table(
        rows.assign(probability=rows["probability"] ** 0.3), n_draws=100, resampling=Resampling(20)
    )
    for rule in ("equal_width", "equal_mass"):
        pooled = [table[table["scope"] == "pooled"].iloc[0] for table in (honest, boastful)]
        assert pooled[0][f"ece_{rule}"] < pooled[0][f"ece_calibrated_high_{rule}"]
        assert pooled[1][f"ece_{rule}"] > 3 * pooled[1][f"ece_calibrated_high_{rule}"]
        assert pooled[0][f"ece_calibrated_{rule}"] > 0  # never zero at a finite number of rows
