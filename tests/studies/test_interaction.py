"""Claims about the entropy x vision interaction, its effects on risk and its quadrants."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_items import make_items, read_case

from dontblink.statistics.bootstrap import EstimateError, Resampling
from dontblink.statistics.logit import LogitBootstrap, bootstrap_logit, fit_logit
from dontblink.studies.cells import ENTROPY, VISION, select_rows
from dontblink.studies.interaction import (
    EFFECTS,
    TERMS,
    Design,
    add_holm,
    build_design,
    contrast_table,
    cross_check,
    describe_row,
    equivalence,
    interaction_table,
    marginal_effects,
    quadrant_table,
    surface_table,
)

FAST = {"resampling": Resampling(200, method="t")}
PLAIN = {"resampling": Resampling(200, method="percentile")}
BRIEF = {"scopes": ["benchmark"], "resampling": Resampling(50, method="percentile"), "checked": []}
KINDS = ("type of visual", "type of symbolic")
ENDS = ["estimate", "ci_low", "ci_high"]


def read_design() -> tuple[np.ndarray, dict, dict, dict]:
    """X (constant, E, V, E V) of the reference case, its input, expected values and tolerances."""
    case, expected, tol = read_case("cluster_bootstrap_logit")
    e, v = case["E"], case["V"]
    return np.column_stack([np.ones(len(e)), e, v, e * v]), case, expected, tol


def fit(items: pd.DataFrame, covariates: tuple[str, ...] = ()) -> tuple[Design, LogitBootstrap]:
    """The pooled design of a table and its bootstrap."""
    design = build_design(select_rows(items, [ENTROPY, VISION, *covariates]), covariates)
    return design, bootstrap_logit(design.x, design.y, design.cluster, **PLAIN, strata=design.cell)


def test_reference_gee_and_sandwich() -> None:
    X, case, expected, tol = read_design()
    order = np.random.default_rng(0).permutation(len(X))  # statsmodels' GEE groups rows by label, in any order
    found = cross_check(X[order], case["y"][order], case["cluster"][order])
    for name, key in (
        ("sandwich_se", "se_cluster"), ("gee_estimate", "gee_exch_params"), ("gee_se", "gee_exch_se_robust"),
    ):  # fmt: skip
        assert found[name].to_numpy() == pytest.approx(expected[key], abs=tol[key])
    assert found["gee_rho"][0] == pytest.approx(float(expected["gee_exch_rho"]), abs=tol["gee_exch_rho"])


def test_reference_independence_gee_is_the_sandwich_without_its_correction() -> None:
    X, case, expected, tol = read_design()
    corrected = bootstrap_logit(X, case["y"], case["cluster"], Resampling(1), errors_of=range(4)).error
    plain = corrected / np.sqrt(60 / 59 * 179 / 176)
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
    rows = items.assign(cell=items["model"] + items["benchmark"], correct=items["correct"].astype(int))
    for name, column in (("zE", ENTROPY), ("zV", VISION)):
        by_cell = rows.groupby("cell")[column]
        rows[name] = (rows[column] - by_cell.transform("mean")) / by_cell.transform("std", ddof=0)
    theirs = smf.logit("correct ~ zE * zV + C(cell)", rows).fit(disp=0)
    table = interaction_table(items, scopes=["pooled"], **PLAIN).set_index("term")
    names = ["zE", "zV", "zE:zV"]
    assert table.loc[list(TERMS), "estimate"].to_numpy() == pytest.approx(theirs.params[names].to_numpy(), abs=1e-7)


def test_table_finds_the_interaction_where_it_was_put() -> None:
    items = make_items(400, interaction={"visual": -0.7})
    scopes = ["benchmark", "pooled"]
    table = interaction_table(items, scopes=scopes, resampling=Resampling(500, method="t"), checked=scopes)
    found = table[table["term"] == "entropy:vision"].set_index("benchmark")
    assert found.loc["visual", "ci_high"] < -0.3 and found.loc["visual", "p"] < 0.01
    assert found.loc["symbolic", "ci_low"] < 0 < found.loc["symbolic", "ci_high"]
    risk = table[table["term"] == "effect_difference"].set_index("benchmark")
    assert risk.loc["visual", "ci_high"] < 0 and risk.loc["visual", "unit"] == "probability"
    assert (found["n_items"].tolist(), found["n_rows"].tolist()) == ([400, 400, 800], [800, 800, 1600])
    # clusters of two rows: sandwich, GEE and the bootstrap measure the same spread
    width = (found["ci_high"] - found["ci_low"]) / 3.92
    assert found["sandwich_se"].to_numpy() == pytest.approx(width.to_numpy(), rel=0.15)
    assert found["gee_estimate"].to_numpy() == pytest.approx(found["estimate"].to_numpy(), abs=0.05)


@pytest.mark.parametrize("method", ["bca", "t", "percentile"])
def test_every_method_gives_every_term_of_every_scope(method: str) -> None:
    table = interaction_table(make_items(), resampling=Resampling(200, method=method))  # type: ignore[arg-type]
    assert len(table) == (4 + 2 + 1) * 8 and (table["n_replicates"] == 200).all()
    rare = table["scope"] == "cell"  # 60 items, fewer than 10 wrong a coefficient: there Firth's profile leads
    shown = table[table["ci_low"].notna()]
    assert (shown["ci_low"] <= shown["estimate"]).all() and (shown["estimate"] <= shown["ci_high"]).all()
    expected = {"log-odds per sd": {method}, "probability": {"percentile" if method == "t" else method}}
    assert table[~rare].groupby("unit")["method"].agg(set).to_dict() == expected
    if method == "t":
        expected = {"log-odds per sd": {"firth profile"}, "probability": {"refused: few of a class"}}
    assert table[rare].groupby("unit")["method"].agg(set).to_dict() == expected
    assert table["p"].notna().sum() == 7 * 3


def test_adjusting_for_a_confounder_removes_its_effect_and_a_constant_one_is_left_out() -> None:
    items = make_items(500)
    noise = np.random.default_rng(0).normal(size=len(items))
    items["chain_length"] = items[ENTROPY].to_numpy() * 10 + 0.2 * noise
    names = ("chain_length", "noise_level", "log_n_response_tokens")
    raw, adjusted = (
        interaction_table(items, chosen, scopes=["pooled"], **PLAIN).set_index("term").loc["entropy"]
        for chosen in ((), names)
    )
    # little of E is left beside its near copy
    assert adjusted["ci_high"] - adjusted["ci_low"] > 3 * (raw["ci_high"] - raw["ci_low"])
    assert adjusted["adjusted_for"] == ", ".join(names) and raw["adjusted_for"] == ""
    rows = select_rows(make_items().assign(noise_level=0.2), [ENTROPY, VISION, "noise_level", "chain_length"])
    cells = ("glm x symbolic", "glm x visual", "qwen x symbolic", "qwen x visual")
    assert build_design(rows, ["noise_level", "chain_length"]).names == (*TERMS, "chain_length", *cells)


def test_marginal_effects_are_differences_of_predicted_probabilities() -> None:
    design, drawn = fit(make_items(100, interaction=-0.5), ("chain_length",))
    found, beta = marginal_effects(design, drawn), fit_logit(design.x, design.y).coef

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
    assert (difference.method, difference.n_degenerate) == ("percentile", 0)


@pytest.mark.parametrize("b_ev", [-0.3, 0.0, 0.3])
def test_difference_of_risks_is_the_main_effects_part_plus_one_with_the_sign_of_the_interaction(b_ev: float) -> None:
    # entropy costs less where vision has brought the risk down: the whole can be positive while b_EV is negative or 0
    design, drawn = fit(make_items(50))
    fixed = type(drawn)(**{**vars(drawn), "estimate": np.r_[-1.5, 1.5, b_ev, np.ones(4)]})
    found = {name: interval.estimate for name, interval in marginal_effects(design, fixed).items()}
    assert tuple(found) == EFFECTS
    whole = found["difference_without_interaction"] + found["difference_by_interaction"]
    assert whole == pytest.approx(found["effect_difference"], abs=1e-12)
    assert np.sign(np.round(found["difference_by_interaction"], 12)) == np.sign(b_ev)
    assert found["effect_difference"] > 0.02


def test_separated_cell_is_fitted_by_firth_and_says_so() -> None:
    items = make_items(30, benchmarks=("symbolic",))
    own = items["model"] == "glm"
    items.loc[own, "correct"] = items.loc[own, ENTROPY] < items.loc[own, ENTROPY].median()
    table = interaction_table(items, scopes=["cell"], checked=["cell"], **PLAIN)
    table = table.query("term == 'entropy'").set_index("model")
    found = table.loc["glm"]
    assert found["separated"] and found["n_separated"] == 200 and not table.loc["qwen", "separated"]
    assert np.isfinite(found["estimate"]) and np.isnan(found["sandwich_se"])


def test_small_and_one_class_cells_are_left_out_and_counted() -> None:
    items = make_items(60)
    items.loc[(items["model"] == "glm") & (items["benchmark"] == "visual"), "correct"] = False
    items = items[~((items["model"] == "qwen") & (items["benchmark"] == "visual") & (items["item_id"] > "item 010"))]
    items.loc[0, VISION] = np.nan
    table = interaction_table(items, **PLAIN)
    visual = table.query("benchmark == 'visual'")
    assert visual["estimate"].isna().all() and visual["n_cells"].eq(0).all()
    assert sorted(visual["n_items"]) == [11, 60, 60]
    assert table.query("scope == 'pooled'")["n_cells"].eq(2).all() and table["n_left_out"].eq(1).all()


def test_a_task_type_of_the_same_answers_as_a_benchmark_has_the_same_rows_and_checks_stand_where_asked() -> None:
    items = make_items(60).assign(task_type="sustained")
    table = interaction_table(items, scopes=["benchmark", "task_type", "pooled"], checked=["pooled"], **FAST)
    sustained, pooled = (table[table["scope"] == name] for name in ("task_type", "pooled"))
    same = [*ENDS, "p"]
    assert np.array_equal(sustained[same].to_numpy(float), pooled[same].to_numpy(float), equal_nan=True)
    assert {*sustained["benchmark"]} == {"sustained"} and {*pooled["benchmark"]} == {"all"}
    assert pooled["gee_se"].notna().sum() == 3 and table.loc[table["scope"] != "pooled", "gee_se"].isna().all()


def test_contrast_is_the_difference_of_two_coefficients_with_the_spread_of_both() -> None:
    items = make_items(400, interaction={"visual": -0.7})
    table = contrast_table(items, *KINDS, ["noise_level"], resampling=Resampling(400, method="t"))
    assert table["task_type"].tolist() == [*KINDS, "contrast"] * 4
    assert table.groupby("vision")["is_oracle"].first().to_dict()["cumulative evidence"]
    alone = interaction_table(items, ["noise_level"], scopes=["task_type"], resampling=Resampling(20), checked=[])
    alone = alone.query("term == 'entropy:vision'").set_index("benchmark")["estimate"]
    own = table[table["vision"] == "evidence"].set_index("task_type")
    for kind in KINDS:
        assert own.loc[kind, "estimate"] == pytest.approx(alone[kind], abs=1e-9)
    row, width = own.loc["contrast"], own["ci_high"] - own["ci_low"]
    assert row["estimate"] == pytest.approx(alone[KINDS[0]] - alone[KINDS[1]], abs=1e-9)
    assert width["contrast"] == pytest.approx(np.hypot(*width[list(KINDS)]), rel=0.1)  # no item is of both types
    assert row["ci_high"] < 0 and row["p"] < 0.01 and (row["n_items"], row["n_rows"]) == (800, 1600)


@pytest.mark.parametrize("method", ["t", "bca", "percentile"])
def test_every_method_gives_a_contrast_and_one_task_type_gives_none(method: str) -> None:
    resampling = Resampling(200, method=method)  # type: ignore[arg-type]
    table = contrast_table(make_items(60), *KINDS, visions={"evidence": VISION}, resampling=resampling)
    assert (table["ci_low"] < table["estimate"]).all() and (table["estimate"] < table["ci_high"]).all()
    assert (table["method"] == method).all() and len(table) == 3
    one = contrast_table(make_items(60, benchmarks=("visual",)), *KINDS, visions={"evidence": VISION}, **FAST)
    assert one["task_type"].tolist() == [KINDS[0]]
    none = contrast_table(make_items(60, benchmarks=("other",)), *KINDS, **FAST)
    assert none.empty and {"vision", "task_type", "estimate"} <= {*none}


@pytest.mark.parametrize("mean", [0.0, 0.06, -0.1, 0.3])
def test_equivalence_is_that_of_statsmodels_where_both_apply(mean: float) -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=400)
    x += mean - x.mean()
    drawn = rng.choice(x, (20_000, len(x)))
    errors, error = drawn.std(axis=1, ddof=1) / 20, x.std(ddof=1) / 20
    found = equivalence(x.mean(), error, drawn.mean(axis=1), errors, margin=0.15)
    assert found == pytest.approx(sm.stats.DescrStatsW(x).ttost_mean(-0.15, 0.15)[0], abs=0.01)


def test_equivalence_holds_where_its_interval_lies_within_the_margin() -> None:
    table = contrast_table(make_items(400), *KINDS, resampling=Resampling(999, method="t"))
    bounds = table[["equal_low", "equal_high"]].abs().max(axis=1)
    for margin in (0.1, 0.2, 0.4):
        own = contrast_table(make_items(400), *KINDS, margin=margin, resampling=Resampling(999, method="t"))
        clear = (bounds / margin - 1).abs() > 0.02
        assert ((own["p_equivalence"] < 0.05) == (bounds < margin))[clear].all() and (own["margin"] == margin).all()
    assert (table["equal_low"] > table["ci_low"]).all() and (table["equal_high"] < table["ci_high"]).all()


def test_bootstrap_sandwich_and_gee_errors_agree_where_items_are_answered_once() -> None:
    table = interaction_table(
        make_items(500), scopes=["cell"], resampling=Resampling(500, method="t"), checked=["cell"]
    )
    rows = table.dropna(subset=["sandwich_se"])
    assert rows["bootstrap_se"].to_numpy() == pytest.approx(rows["sandwich_se"].to_numpy(), rel=0.2)
    assert rows["gee_se"].to_numpy() == pytest.approx(rows["sandwich_se"].to_numpy(), rel=0.01)


def test_holm_runs_within_a_kind_of_scope_and_counts_a_gap() -> None:
    items = make_items(60, interaction=-0.5)
    found = add_holm(interaction_table(items, checked=[], **PLAIN))
    assert set(found["term"]) == {"entropy:vision"} and len(found) == 7
    for scope, size in (("cell", 4), ("benchmark", 2), ("pooled", 1)):
        own = found[found["scope"] == scope]
        assert own["p_holm"].min() == pytest.approx(min(1, size * own["p"].min()))
    few = items[(items["benchmark"] != "visual") | (items["model"] != "glm") | (items["item_id"] < "item 005")]
    own = add_holm(interaction_table(few, checked=[], **PLAIN)).query("scope == 'cell'")
    assert own["p"].isna().sum() == own["p_holm"].isna().sum() == 1
    assert own["p_holm"].min() == pytest.approx(min(1, 4 * own["p"].min()))


def test_a_row_is_shown_with_its_p_values() -> None:
    rows = pd.DataFrame({
        "estimate": [-0.5, -0.1], "ci_low": [-0.8, -0.3], "ci_high": [-0.2, 0.1], "p": [0.001, 0.4],
        "p_holm": [0.003, 0.4],
    })  # fmt: skip
    assert describe_row(rows.iloc[0]) == "-0.500 [-0.800, -0.200], p 0.001, p_holm 0.003"
    assert describe_row(rows.iloc[1][ENDS]) == "-0.100 [-0.300, +0.100]"


def test_surface_is_the_mean_prediction_and_counts_the_rows_beside_a_point() -> None:
    items = make_items(80, interaction=-0.5)
    table = surface_table(items, ["noise_level"], n_points=5, reach=2.0, near=0.5)
    assert table.groupby("benchmark").size().to_dict() == {"symbolic": 25, "visual": 25}
    rows = select_rows(items[items["benchmark"] == "visual"], [ENTROPY, VISION, "noise_level"])
    design = build_design(rows, ["noise_level"])
    beta, x = fit_logit(design.x, design.y).coef, design.x.copy()
    x[:, :3] = [1, -2, -2]
    found = table.query("benchmark == 'visual' and entropy_z == 1 and vision_z == -2").iloc[0]
    assert found["probability"] == pytest.approx(float((1 / (1 + np.exp(-x @ beta))).mean()), abs=1e-12)
    assert found["n_near"] == (np.abs(design.x[:, :2] - [1, -2]) <= 0.5).all(axis=1).sum()
    assert surface_table(items, scopes=["pooled"], min_items=1000).empty


def test_a_scope_that_cannot_be_fitted_is_named() -> None:
    items = make_items(30, benchmarks=("symbolic",))
    doubled = items.assign(noise_level=items["chain_length"] * 2.0)
    for table, covariates, options, message in (
        (doubled, ["noise_level", "chain_length"], {}, "cell glm x symbolic: X has 6 columns and rank 5"),
        (items.assign(**{VISION: items[ENTROPY]}), [], {}, "cell glm x symbolic: X has 4 columns and rank 3"),
        (items.assign(**{ENTROPY: 0.25}), [], {}, "cell glm x symbolic: full_entropy_nats is 0.25 in all 30 rows"),
        (make_items(6), [], {"scopes": ["cell"], "min_items": 2}, "6 items for 6 rows; resampling needs >= 10"),
    ):
        with pytest.raises(EstimateError, match=message):
            interaction_table(table, covariates, **options, **FAST)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), shift=st.floats(-5, 5))
def test_scale_origin_and_row_order_change_nothing_and_turning_entropy_turns_the_sign(
    seed: int, scale: float, shift: float
) -> None:
    items = make_items(40, interaction=-0.4, seed=seed)
    moved = items.assign(**{ENTROPY: items[ENTROPY] * scale + shift, VISION: items[VISION] * scale - shift})
    turned = items.assign(**{ENTROPY: -items[ENTROPY]})
    first, second, third = (
        interaction_table(x, **BRIEF).query("term in @TERMS").reset_index(drop=True)
        for x in (items, moved.sample(frac=1, random_state=seed), turned)
    )
    assert second[ENDS].to_numpy() == pytest.approx(first[ENDS].to_numpy(), abs=1e-6)
    assert third["estimate"].to_numpy() == pytest.approx(np.tile([-1, 1, -1], 2) * first["estimate"], abs=1e-8)
    assert (-third["ci_high"][2], -third["ci_low"][2]) == pytest.approx((first["ci_low"][2], first["ci_high"][2]))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_second_model_that_says_the_same_changes_no_interval(seed: int) -> None:
    # the same answers twice are no more evidence: a cluster counts once, however many rows it has
    one = make_items(120, interaction=-0.4, seed=seed, benchmarks=("visual",)).query("model == 'glm'")
    twice = pd.concat([one, one.assign(model="copy")], ignore_index=True)
    first, second = (interaction_table(x, **BRIEF) for x in (one, twice))
    own = (first["n_separated"] == 0).to_numpy()  # Firth's penalty does not double with the rows
    assert second.loc[own, ENDS].to_numpy() == pytest.approx(first.loc[own, ENDS].to_numpy(), abs=1e-6)


def test_quadrants_count_every_row_once_and_follow_the_risk() -> None:
    items = make_items(400, interaction=-0.9)
    items.loc[:2, VISION] = np.nan
    table = quadrant_table(items)
    for _, part in table.groupby(["scope", "model", "benchmark"]):
        assert part["n"].sum() == part["n_rows"].iloc[0]
        assert part["n_quadrant_wrong"].sum() == part["n_wrong"].iloc[0]
    pooled = table.query("scope == 'pooled'").set_index(["entropy_level", "vision_level"])
    assert pooled["n"].sum() == 1597 and table["n_left_out"].eq(3).all()
    assert pooled["risk"].idxmax() == ("high", "high")  # b_EV < 0: entropy costs most where vision is high
    by_hand = sm.stats.proportion_confint(*pooled.loc[("low", "low"), ["n_quadrant_wrong", "n"]], method="wilson")
    assert tuple(pooled.loc[("low", "low"), ["ci_low", "ci_high"]]) == pytest.approx(by_hand)
    rising = items.assign(**{ENTROPY: np.exp(items[ENTROPY]), VISION: items[VISION] ** 3})
    assert table.equals(quadrant_table(rising.sample(frac=1, random_state=3)))


def test_extreme_quadrants_leave_the_middle_out_and_empty_ones_are_defined() -> None:
    items = make_items(40, benchmarks=("symbolic",))
    items[VISION] = -items[ENTROPY]  # low entropy with low vision never happens
    table = quadrant_table(items, share=0.25, scopes=["cell"]).set_index(["model", "entropy_level", "vision_level"])
    assert table.loc[("glm", "low", "high"), "n"] == 10
    empty = table.loc[("glm", "low", "low")]
    assert (empty["n"], empty["ci_low"], empty["ci_high"]) == (0, 0.0, 1.0) and np.isnan(empty["risk"])
    tied = quadrant_table(items.assign(full_entropy_nats=0.3), scopes=["pooled"])
    assert tied.groupby("entropy_level")["n"].sum().to_dict() == {"high": 0, "low": 80}
    with pytest.raises(EstimateError, match="share 0.7"):
        quadrant_table(items, share=0.7)
