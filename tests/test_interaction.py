"""Claims about the entropy x vision interaction and the tables of notebook 04."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from synthetic_items import make_items, read_case

from dontblink.cells import CellError, select_rows, standardise
from dontblink.interaction import (
    ENTROPY,
    TERMS,
    VISION,
    LogitError,
    bootstrap_logit,
    build_design,
    cross_check,
    fit_logit,
    interaction_table,
    marginal_effects,
    quadrant_table,
)

FAST = {"n_boot": 200}


def test_reference_gee_and_sandwich() -> None:
    case, expected, tol = read_case("cluster_bootstrap_logit")
    e, v = case["E"], case["V"]
    X = np.column_stack([np.ones(len(e)), e, v, e * v])
    order = np.random.default_rng(0).permutation(len(e))  # statsmodels' GEE groups rows by label, in any order
    found = cross_check(X[order], case["y"][order], case["cluster"][order])
    assert found["sandwich_se"].to_numpy() == pytest.approx(expected["se_cluster"], abs=tol["se_cluster"])
    assert found["gee_estimate"].to_numpy() == pytest.approx(expected["gee_exch_params"], abs=tol["gee_exch_params"])
    assert found["gee_se"].to_numpy() == pytest.approx(expected["gee_exch_se_robust"], abs=tol["gee_exch_se_robust"])
    assert found["gee_rho"][0] == pytest.approx(float(expected["gee_exch_rho"]), abs=tol["gee_exch_rho"])


def test_reference_independence_gee_is_the_sandwich_without_its_correction() -> None:
    case, expected, tol = read_case("cluster_bootstrap_logit")
    e, v, n, g = case["E"], case["V"], 180, 60
    X = np.column_stack([np.ones(n), e, v, e * v])
    corrected = bootstrap_logit(X, case["y"], case["cluster"], 1, errors_of=range(4)).error
    plain = corrected / np.sqrt(g / (g - 1) * (n - 1) / (n - 4))
    assert plain == pytest.approx(expected["gee_indep_se_robust"], abs=tol["gee_indep_se_robust"])


def test_cross_checks_are_missing_under_separation_and_defined_for_single_rows() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    X, y = np.column_stack([np.ones(40), x]), (x > 0).astype(float)
    assert cross_check(X, y, np.arange(40)).isna().all().all()
    single = cross_check(X, rng.permutation(y), np.arange(40))
    assert single["gee_rho"].isna().all() and single["gee_se"].notna().all()


def test_pooled_fit_is_the_formula_with_cell_effects_and_values_standardised_within_the_cell() -> None:
    items = make_items(interaction=-0.5)
    rows = items.assign(cell=items["model"] + items["benchmark"])
    for name, column in (("zE", ENTROPY), ("zV", VISION)):
        by_cell = rows.groupby("cell")[column]
        rows[name] = (rows[column] - by_cell.transform("mean")) / by_cell.transform("std", ddof=0)
    theirs = smf.logit("correct ~ zE * zV + C(cell)", rows.assign(correct=rows["correct"].astype(int))).fit(disp=0)
    table = interaction_table(items, scopes=["pooled"], method="percentile", **FAST).set_index("term")
    for term, name in zip(TERMS, ("zE", "zV", "zE:zV"), strict=True):
        assert table.loc[term, "estimate"] == pytest.approx(theirs.params[name], abs=1e-7)
    assert table.loc["entropy:vision", "adjusted_for"] == ""


def test_table_finds_the_interaction_where_it_was_put() -> None:
    items = make_items(400, interaction={"visual": -0.7})
    table = interaction_table(items, scopes=["benchmark", "pooled"], n_boot=500)
    coefficient = table[table["term"] == "entropy:vision"].set_index("benchmark")
    assert coefficient.loc["visual", "ci_high"] < -0.3
    assert coefficient.loc["visual", "p"] < 0.01
    assert coefficient.loc["symbolic", "ci_low"] < 0 < coefficient.loc["symbolic", "ci_high"]
    risk = table[table["term"] == "effect_difference"].set_index("benchmark")
    assert risk.loc["visual", "ci_high"] < 0 and risk.loc["visual", "unit"] == "probability"
    assert (coefficient["n_items"].tolist(), coefficient["n_rows"].tolist()) == ([400, 400, 800], [800, 800, 1600])
    # clusters of two rows: sandwich, GEE and the bootstrap measure the same spread
    width = (coefficient["ci_high"] - coefficient["ci_low"]) / 3.92
    assert coefficient["sandwich_se"].to_numpy() == pytest.approx(width.to_numpy(), rel=0.15)
    assert coefficient["gee_estimate"].to_numpy() == pytest.approx(coefficient["estimate"].to_numpy(), abs=0.05)


@pytest.mark.parametrize("method", ["bca", "t", "percentile"])
def test_every_method_gives_every_term_of_every_scope(method: str) -> None:
    table = interaction_table(make_items(), method=method, **FAST)
    assert len(table) == (4 + 2 + 1) * 6
    assert (table["ci_low"] <= table["estimate"]).all() and (table["estimate"] <= table["ci_high"]).all()
    assert (table["n_replicates"] == 200).all()
    assert set(table.loc[table["unit"] == "log-odds per sd", "method"]) == {method}
    assert table["p"].notna().sum() == 7 * 3


def test_adjusting_for_a_confounder_removes_its_effect() -> None:
    items = make_items(500)
    rng = np.random.default_rng(0)
    confounder = items["full_entropy_nats"].to_numpy() * 10
    items["chain_length"] = confounder + 0.2 * rng.normal(size=len(items))
    raw, adjusted = (
        interaction_table(items, names, scopes=["pooled"], method="percentile", **FAST).set_index("term")
        for names in ((), ("chain_length", "noise_level", "log_n_response_tokens"))
    )
    assert adjusted.loc["entropy", "ci_high"] - adjusted.loc["entropy", "ci_low"] > 3 * (
        raw.loc["entropy", "ci_high"] - raw.loc["entropy", "ci_low"]
    )  # little of E is left beside its near copy
    assert adjusted.loc["entropy", "adjusted_for"] == "chain_length, noise_level, log_n_response_tokens"


def test_covariate_that_is_constant_everywhere_is_left_out() -> None:
    rows = select_rows(make_items().assign(noise_level=0.2), [ENTROPY, VISION, "noise_level", "chain_length"])
    names = build_design(rows, ["noise_level", "chain_length"]).names
    assert names[:4] == (*TERMS, "chain_length")
    assert names[4:] == ("glm x symbolic", "glm x visual", "qwen x symbolic", "qwen x visual")


def test_marginal_effects_are_differences_of_predicted_probabilities() -> None:
    rows = select_rows(make_items(100, interaction=-0.5), [ENTROPY, VISION, "chain_length"])
    design = build_design(rows, ["chain_length"])
    drawn = bootstrap_logit(design.x, design.y, design.cluster, 200, strata=design.cell, jackknife=True)
    found = marginal_effects(design, drawn)
    beta = fit_logit(design.x, design.y).coef

    def predict(e: float, v: float) -> float:
        x = design.x.copy()
        x[:, :3] = [e, v, e * v]
        return float((1 / (1 + np.exp(-x @ beta))).mean())

    low, high = (predict(1, v) - predict(-1, v) for v in (-1, 1))
    assert found["effect_at_low_vision"].estimate == pytest.approx(low, abs=1e-9)
    assert found["effect_at_high_vision"].estimate == pytest.approx(high, abs=1e-9)
    difference = found["effect_difference"]
    assert difference.estimate == pytest.approx(high - low, abs=1e-9)
    assert difference.ci_low < difference.estimate < difference.ci_high
    assert (difference.method, found["effect_at_low_vision"].n_degenerate) == ("bca", 0)


def test_coefficient_of_zero_can_still_be_a_difference_of_risks() -> None:
    # the reason for marginal effects: with main effects and b_EV = 0, risks do interact
    rows = select_rows(make_items(50), [ENTROPY, VISION])
    design = build_design(rows)
    drawn = bootstrap_logit(design.x, design.y, design.cluster, 20, strata=design.cell)
    flat = drawn.estimate.copy()
    flat[:3] = [-1.5, 1.5, 0.0]
    fixed = type(drawn)(**{**vars(drawn), "estimate": flat})
    assert abs(marginal_effects(design, fixed)["effect_difference"].estimate) > 0.05


def test_shuffled_vision_leaves_no_interaction() -> None:
    items = make_items(300, interaction=-0.8)
    rng = np.random.default_rng(0)
    items[VISION] = items.groupby(["model", "benchmark"])[VISION].transform(rng.permutation)
    found = interaction_table(items, scopes=["pooled"], method="t", **FAST).set_index("term").loc["entropy:vision"]
    assert found["ci_low"] < 0 < found["ci_high"]
    assert found["p"] > 0.05


def test_separated_cell_is_fitted_by_firth_and_says_so() -> None:
    items = make_items(30, benchmarks=("symbolic",))
    own = items["model"] == "glm"
    items.loc[own, "correct"] = items.loc[own, ENTROPY] < items.loc[own, ENTROPY].median()
    table = interaction_table(items, scopes=["cell"], method="percentile", **FAST)
    found = table.query("model == 'glm' and term == 'entropy'").iloc[0]
    assert found["separated"] and found["n_separated"] == 200
    assert np.isfinite(found["estimate"]) and np.isnan(found["sandwich_se"])
    assert not table.query("model == 'qwen' and term == 'entropy'").iloc[0]["separated"]


def test_small_and_one_class_cells_are_left_out_and_counted() -> None:
    items = make_items(60)
    items.loc[(items["model"] == "glm") & (items["benchmark"] == "visual"), "correct"] = False
    items = items[~((items["model"] == "qwen") & (items["benchmark"] == "visual") & (items["item_id"] > "item 010"))]
    items = items.reset_index(drop=True)
    items.loc[0, VISION] = np.nan
    table = interaction_table(items, method="percentile", **FAST)
    visual = table.query("benchmark == 'visual'")
    assert visual["estimate"].isna().all() and visual["n_cells"].eq(0).all()
    assert sorted(visual["n_items"]) == [11, 60, 60]
    assert table.query("scope == 'pooled'")["n_cells"].eq(2).all()
    assert table["n_left_out"].eq(1).all()


def test_constant_entropy_in_a_cell_is_named() -> None:
    items = make_items(30)
    items.loc[items["model"] == "glm", ENTROPY] = 0.25
    with pytest.raises(CellError, match="cell glm x symbolic: full_entropy_nats is 0.25 in all 30 rows"):
        interaction_table(items, **FAST)


def test_quadrants_count_every_row_once_and_follow_the_risk() -> None:
    items = make_items(400, interaction=-0.9)
    table = quadrant_table(items)
    for _, part in table.groupby(["scope", "model", "benchmark"]):
        assert part["n"].sum() == part["n_rows"].iloc[0]
        assert part["n_quadrant_wrong"].sum() == part["n_wrong"].iloc[0]
    pooled = table.query("scope == 'pooled'").set_index(["entropy_level", "vision_level"])
    assert pooled["risk"].idxmax() == ("high", "high")  # b_EV < 0: entropy costs most where vision is high
    assert (pooled["ci_low"] < pooled["risk"]).all() and (pooled["risk"] < pooled["ci_high"]).all()
    by_hand = sm.stats.proportion_confint(*pooled.loc[("low", "low"), ["n_quadrant_wrong", "n"]], method="wilson")
    assert tuple(pooled.loc[("low", "low"), ["ci_low", "ci_high"]]) == pytest.approx(by_hand)


def test_extreme_quadrants_leave_the_middle_out_and_empty_ones_are_defined() -> None:
    items = make_items(40, benchmarks=("symbolic",))
    items[VISION] = -items[ENTROPY]  # low entropy with low vision never happens
    table = quadrant_table(items, share=0.25, scopes=["cell"]).set_index(["model", "entropy_level", "vision_level"])
    assert table.loc[("glm", "low", "high"), "n"] == 10
    empty = table.loc[("glm", "low", "low")]
    assert (empty["n"], empty["ci_low"], empty["ci_high"]) == (0, 0.0, 1.0) and np.isnan(empty["risk"])
    with pytest.raises(LogitError, match="share 0.7"):
        quadrant_table(items, share=0.7)


def test_all_tied_entropy_is_low_in_every_row() -> None:
    table = quadrant_table(make_items(20).assign(full_entropy_nats=0.3), scopes=["pooled"])
    assert table.query("entropy_level == 'high'")["n"].eq(0).all()
    assert table["n"].sum() == 80


def test_row_order_changes_no_table() -> None:
    items = make_items(40, interaction=-0.4)
    shuffled = items.sample(frac=1, random_state=3)
    first, second = (interaction_table(x, scopes=["benchmark"], **FAST) for x in (items, shuffled))
    columns = ["estimate", "ci_low", "ci_high", "p"]
    assert first[columns].to_numpy() == pytest.approx(second[columns].to_numpy(), abs=1e-8, nan_ok=True)
    assert quadrant_table(items).equals(quadrant_table(shuffled))


def test_log_covariate_is_the_logarithm_and_needs_positive_numbers() -> None:
    rows = select_rows(make_items(20), ["log_n_response_tokens", "n_response_tokens"])
    assert rows["log_n_response_tokens"].to_numpy() == pytest.approx(np.log(rows["n_response_tokens"].to_numpy()))
    with pytest.raises(CellError, match="column n_response_tokens: 0.0 has no logarithm"):
        select_rows(make_items(20).assign(n_response_tokens=0), ["log_n_response_tokens"])


def test_standardised_values_have_mean_zero_and_deviation_one_in_each_cell() -> None:
    values, cell = np.random.default_rng(0).gamma(2, 3, 50), np.repeat(["a", "b"], 25)
    scaled = standardise(values, cell)
    for name in ("a", "b"):
        assert scaled[cell == name].mean() == pytest.approx(0, abs=1e-12)
        assert scaled[cell == name].std() == pytest.approx(1)
    assert not standardise(np.ones(50), cell, constant="zero").any()
