"""Claims about the veto splits: out of sample, at equal coverage, with a null that repeats the fits."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from scipy.stats import t as t_distribution
from synthetic_items import make_items, read_case

from dontblink.statistics.bootstrap import EstimateError
from dontblink.studies import veto
from dontblink.studies.cells import keep_usable, select_rows
from dontblink.studies.risk_coverage import risk_coverage
from dontblink.studies.veto_rules import (
    Accepted,
    Splits,
    apply_rule,
    count_errors,
    fit_splits,
    leave_out,
    prepare_splits,
)

COLUMNS = ("full_entropy_nats", "vision_evidence_mass")
TARGETS = ["type of visual"]
FAST: dict[str, Any] = {"n_splits": 20, "n_blocks": 5, "min_items": 20}


def make_danger(n_items: int = 200, strength: float = 2.5, seed: int = 0) -> pd.DataFrame:
    """Answers to "visual" items go wrong when vision is among the lowest tenth, however low the entropy."""
    items = make_items(n_items, seed=seed)
    rng = np.random.default_rng(seed + 1)
    low = items["vision_evidence_mass"] < items.groupby(["model", "benchmark"])["vision_evidence_mass"].transform(
        lambda x: x.quantile(0.1)
    )
    hit = low & (items["benchmark"] == "visual") & (rng.random(len(items)) < strength / 3)
    return items.assign(correct=items["correct"] & ~hit)


def study_of(items: pd.DataFrame, n_splits: int = 20, **options: Any) -> Splits:
    rows = keep_usable(select_rows(items, COLUMNS), 20)
    defaults: dict[str, Any] = {"fit_share": 0.5, "n_shares": 10, "seed": 0}
    return prepare_splits(rows, TARGETS, n_splits=n_splits, **(defaults | options))


def accept(splits: Splits, rule: str, coverage: float = 0.9) -> list[Accepted]:
    return next(apply_rule(splits, rule, splits.vision, [coverage]))


def test_every_scope_and_rule_has_a_row_and_entropy_gains_nothing_over_itself() -> None:
    table = veto.veto_table(make_items(), TARGETS, n_deals=3, **FAST)
    assert len(table) == (4 + 2 + 1) * 5 and list(table["rule"][:5]) == list(veto.RULES)
    own = table.query("rule == 'entropy'")
    assert (own[["gain", "ci_low", "ci_high", "split_low", "split_high"]] == 0).all(axis=None)
    assert (table["gain"] - (table["entropy_risk"] - table["risk"])).abs().max() < 1e-12
    assert ((table["ci_low"] <= table["gain"]) & (table["gain"] <= table["ci_high"])).mean() > 0.9
    vision = table["rule"].isin(["linear", "interaction", "veto"])
    assert table.loc[vision, "p"].between(0.25, 1).all() and table.loc[~vision, "p"].isna().all()
    assert table.query("scope == 'cell' and rule == 'veto'")["p_max"].notna().all()


def test_a_danger_zone_is_found_by_the_veto_and_the_gain_is_significant() -> None:
    table = veto.veto_table(make_danger(800, 3.0), TARGETS, rules=("veto", "oracle"), n_deals=19, n_splits=40)
    pooled = table.query("scope == 'pooled' and rule == 'veto'").iloc[0]
    assert pooled["ci_low"] > 0 and pooled["p"] == 0.05
    assert pooled["veto_share"] > 0.02
    assert pooled["gain"] < table.query("scope == 'pooled' and rule == 'oracle'").iloc[0]["gain"]


def test_planted_blind_errors_are_the_lowest_vision_of_each_targeted_cell_and_nothing_else() -> None:
    items = make_items(50).assign(correct=True)
    planted = veto.plant_blind_errors(items, TARGETS, 0.1)
    wrong = planted[~planted["correct"]]
    assert (wrong["benchmark"] == "visual").all() and (wrong.groupby("model").size() == 5).all()
    for model, rows in planted.query("benchmark == 'visual'").groupby("model"):
        lowest = rows.nsmallest(5, "vision_evidence_mass")["item_id"]
        assert set(lowest) == set(wrong.loc[wrong["model"] == model, "item_id"])


def test_the_veto_changes_nothing_outside_its_targets() -> None:
    table = veto.veto_table(make_danger(), TARGETS, n_deals=2, **FAST).query("benchmark == 'symbolic'")
    own, base = (table[table["rule"] == name].reset_index(drop=True) for name in ("veto", "entropy"))
    assert (own[["gain", "veto_share", "ci_low", "ci_high"]] == 0).all(axis=None) and (own["p"] == 1).all()
    assert (own[["risk", "realised_coverage"]] == base[["risk", "realised_coverage"]]).all(axis=None)
    everywhere = veto.veto_table(make_danger(), None, **FAST).query("benchmark == 'symbolic' and rule == 'veto'")
    assert (everywhere["veto_share"] > 0).any()


def test_the_interval_is_the_jackknife_of_studies_that_were_run_without_each_block() -> None:
    items = make_danger(60)
    table = veto.veto_table(items, TARGETS, **FAST | {"n_blocks": 6}).query("scope == 'pooled' and rule == 'veto'")
    splits = study_of(items, n_blocks=6)
    left_out = []
    for block in range(6):
        rest = leave_out(splits, block)
        sums = sum(count_errors(c, a).sum(axis=1) for c, a in zip(rest.cells, accept(rest, "veto"), strict=True))
        left_out.append((sums[2] - sums[1]) / sums[0])
    found = table.iloc[0]
    reach = t_distribution.ppf(0.975, 5) * np.sqrt(5 / 6 * ((left_out - np.mean(left_out)) ** 2).sum())
    assert reach > 0
    assert found["ci_high"] - found["gain"] == pytest.approx(reach, rel=1e-9)
    assert found["gain"] - found["ci_low"] == pytest.approx(reach, rel=1e-9)


def test_vision_that_is_noise_gains_nothing_on_average_and_is_rarely_significant() -> None:
    n_studies, small, cells_small, gains = 60, 0, 0, []
    for seed in range(n_studies):
        items = make_items(80, seed=seed, benchmarks=("visual",)).assign(task_type="a")
        rng = np.random.default_rng([seed, 9])  # make_items correlates vision with difficulty
        items["vision_evidence_mass"] = rng.random(len(items))
        table = veto.veto_table(items, None, rules=("veto",), n_deals=19, n_splits=8, n_blocks=2, seed=seed)
        pooled = table.query("scope == 'pooled'").iloc[0]
        small += pooled["p"] <= 0.05
        cells_small += (table.query("scope == 'cell'")["p_max"] <= 0.05).any()
        gains.append(pooled["gain"])
    assert np.mean(gains) <= 3 * np.std(gains) / np.sqrt(n_studies)
    assert small <= binom.ppf(0.999, n_studies, 0.05) and cells_small <= binom.ppf(0.999, n_studies, 0.05)


def test_covariates_that_explain_vision_leave_nothing_to_veto() -> None:
    items = make_danger(200).assign(n_response_tokens=lambda t: 1000 * t["vision_evidence_mass"])
    items["vision_evidence_mass"] += np.random.default_rng(0).normal(0, 1e-9, len(items))
    plain, adjusted = (
        veto.veto_table(items, TARGETS, covariates=c, **FAST).query("scope == 'pooled' and rule == 'veto'").iloc[0]
        for c in ((), ("n_response_tokens",))
    )
    assert plain["gain"] > 0.005 > adjusted["gain"] and adjusted["adjusted_for"] == "n_response_tokens"


def test_rows_and_cells_that_give_no_estimate_keep_their_counts() -> None:
    items = make_items(50)
    items.loc[(items["model"] == "glm") & (items["benchmark"] == "visual"), "correct"] = True
    small = (items["model"] == "qwen") & (items["benchmark"] == "symbolic") & (items["item_id"] > "item 008")
    items.loc[[0, 1], "vision_evidence_mass"] = np.nan
    table = veto.veto_table(items[~small], TARGETS, **FAST)
    for model, benchmark, n in (("glm", "visual", 50), ("qwen", "symbolic", 9)):
        found = table[(table["scope"] == "cell") & (table["model"] == model) & (table["benchmark"] == benchmark)]
        assert (found["n_rows"] == n).all() and found["gain"].isna().all() and (found["n_cells"] == 0).all()
    pooled = table.query("scope == 'pooled'")
    assert (pooled["n_cells"] == 2).all() and (pooled["n_rows"] == 157).all() and (table["n_left_out"] == 2).all()


def test_several_coverages_are_the_single_ones() -> None:
    items = make_danger(60)
    both = veto.veto_table(items, TARGETS, coverages=(0.7, Fraction(9, 10)), **FAST)
    one = veto.veto_table(items, TARGETS, coverages=(0.9,), **FAST)
    pd.testing.assert_frame_equal(both.query("coverage == 0.9").reset_index(drop=True), one)
    assert (both.query("coverage == 0.7 and rule != 'oracle'")["realised_coverage"].between(0.6, 0.8)).all()


def test_at_full_coverage_the_risk_is_the_error_rate_and_nothing_is_vetoed() -> None:
    table = veto.veto_table(make_danger(60), TARGETS, coverages=(1.0,), n_splits=200, n_blocks=2)
    pooled = table.query("scope == 'pooled'").set_index("rule")
    assert pooled.loc["veto", "veto_share"] == 0 and pooled.loc["veto", "gain"] == 0
    assert pooled.loc["oracle", "risk"] == pytest.approx(pooled.loc["oracle", "n_wrong"] / 240, abs=0.01)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_row_order_and_increasing_transforms_change_no_gain_of_the_veto(seed: int) -> None:
    items = make_danger(40, seed=1).round({"full_entropy_nats": 2, "vision_evidence_mass": 3})
    other = items.sample(frac=1, random_state=seed)
    other = other.assign(
        full_entropy_nats=np.exp(3 * other["full_entropy_nats"]),
        vision_evidence_mass=other["vision_evidence_mass"] ** 3,
    )
    tables = [veto.veto_table(t, TARGETS, rules=("entropy", "veto"), **FAST) for t in (items, other)]
    np.testing.assert_allclose(tables[0]["gain"], tables[1]["gain"], atol=1e-12)
    np.testing.assert_allclose(tables[0]["risk_low"], tables[1]["risk_low"], atol=1e-12)


def test_row_order_changes_nothing_for_the_fitted_rules() -> None:
    items = make_danger(50)
    tables = [veto.veto_table(t, TARGETS, **FAST) for t in (items, items.iloc[::-1])]
    pd.testing.assert_frame_equal(tables[0], tables[1])


def test_same_seed_same_table_and_another_seed_other_splits() -> None:
    items = make_danger(50)
    tables = [veto.veto_table(items, TARGETS, seed=seed, **FAST) for seed in (1, 1, 2)]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert (tables[0]["risk"] != tables[2]["risk"]).any()


def test_the_sentence_names_the_pooled_gain_and_the_cells_where_the_rule_acts() -> None:
    table = veto.veto_table(make_danger(800, 3.0), TARGETS, rules=("veto",), n_splits=40)
    sentence = veto.describe_gain("veto", table)
    pooled = table.query("scope == 'pooled'").iloc[0]
    assert f"saves risk, {100 * pooled['gain']:+.2f} points" in sentence and "acts in 2 of 4 cells" in sentence
    idle = table.assign(gain=0.0, ci_low=0.0, ci_high=0.0)
    assert "cannot be told from entropy alone" in veto.describe_gain("veto", idle)
    assert "acts in none of 4 cells" in veto.describe_gain("veto", idle)
    with pytest.raises(EstimateError, match="several rows a scope"):
        veto.describe_gain("veto", pd.concat([table, table]))


def test_items_that_one_model_lacks_are_held_out_in_some_splits() -> None:
    items = make_items(60)
    lacking = (items["model"] == "glm") & (items["benchmark"] == "visual") & (items["item_id"] < "item 015")
    splits = study_of(items[~lacking], 40, n_blocks=20)
    fitted = splits.fits_on.mean(axis=0)
    held_by_one = np.bincount(splits.row_item) == 1
    assert held_by_one.sum() == 15  # a stratum of its own, with fewer items than blocks
    assert ((fitted > 0) & (fitted < 1)).all()


def test_tied_entropy_is_accepted_whole_and_the_realised_coverage_says_so() -> None:
    items = make_items(60)
    items["full_entropy_nats"] = (items["full_entropy_nats"] > 0.5) * 1.0
    table = veto.veto_table(items, TARGETS, rules=("entropy",), **FAST).query("scope == 'pooled'").iloc[0]
    assert table["realised_coverage"] == 1.0 and table["risk"] == pytest.approx(table["n_wrong"] / 240, abs=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rules": ("entropy", "magic")}, "magic"),
        ({"n_splits": 0}, "0 splits"),
        ({"n_blocks": 10}, "10 blocks in cells of 20 items"),
        ({"fit_share": 1.0}, "fit share 1.0"),
        ({"targets": ["tyop"]}, "tyop.*no row has such a task type"),
    ],
)
def test_unusable_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EstimateError, match=message):
        veto.veto_table(make_items(40), **({"targets": TARGETS} | FAST | options))


def test_separated_halves_are_counted() -> None:
    items = make_items(60, benchmarks=("visual",)).assign(correct=True)
    for model in ("glm", "qwen"):
        worst = items[items["model"] == model].nlargest(4, "full_entropy_nats").index
        items.loc[worst, "correct"] = False
    table = veto.veto_table(items, TARGETS, rules=("linear",), **FAST)
    assert (table["n_separated"] > 0).all() and np.isfinite(table["gain"]).all()


def test_halves_split_items_for_all_models_at_once_and_keep_their_size() -> None:
    items = make_items(41).drop(index=[0, 50])  # two rows are missing: cells of unequal size
    splits = study_of(items, fit_share=Fraction(1, 3))
    rows = select_rows(items, COLUMNS)
    for cell in splits.cells:
        both = np.sort(np.hstack([cell.fit, cell.held]), axis=1)
        assert (both == np.arange(len(cell.index))).all()
        for s in range(20):
            fits = splits.row_item[cell.index[cell.fit[s]]]
            assert splits.fits_on[s, fits].all()
            assert not splits.fits_on[s, splits.row_item[cell.index[cell.held[s]]]].any()
    assert len({tuple(row) for row in splits.fits_on}) == 20
    assert len(splits.row_item) == len(rows)


def test_without_a_block_every_split_is_what_it_was_for_the_other_items() -> None:
    splits = study_of(make_danger(60), n_blocks=6)
    assert np.bincount(splits.block).min() >= 15  # of 120 items in two strata
    for block in range(6):
        rest = leave_out(splits, block)
        stays = splits.block != block
        np.testing.assert_array_equal(rest.fits_on, splits.fits_on[:, stays])
        rows = stays[splits.row_item]
        np.testing.assert_array_equal(rest.entropy, splits.entropy[rows])
        for before, after in zip(splits.cells, rest.cells, strict=True):
            np.testing.assert_array_equal(after.wrong, before.wrong[rows[before.index]])
            np.testing.assert_array_equal(1 - rest.right[after.index], after.wrong)
            in_fit = rest.fits_on[:, rest.row_item[after.index]]
            assert (np.take_along_axis(in_fit, after.fit, 1)).all()
            assert not (np.take_along_axis(in_fit, after.held, 1)).any()


def test_a_label_of_a_held_out_item_changes_no_acceptance_of_its_split() -> None:
    items = make_danger()
    splits = study_of(items, 1)
    held = np.concatenate([cell.index[cell.held[0]] for cell in splits.cells])
    rows = select_rows(items, COLUMNS)
    rows.loc[held, "correct"] = np.random.default_rng(3).permutation(rows["correct"].to_numpy()[held])
    other = prepare_splits(rows, TARGETS, n_splits=1, fit_share=0.5, n_shares=10, seed=0)
    for rule in ("entropy", "linear", "interaction", "veto"):
        for mine, theirs in zip(accept(splits, rule), accept(other, rule), strict=True):
            np.testing.assert_array_equal(mine.weight, theirs.weight)


def test_rules_are_compared_at_equal_numbers_and_saved_errors_are_those_of_the_exact_curve() -> None:
    splits = study_of(make_danger(60))
    for rule in veto.RULES:
        for cell, accepted in zip(splits.cells, accept(splits, rule), strict=True):
            k, own, by_entropy = count_errors(cell, accepted)
            for s in (0, 7):
                held = cell.held[s]
                curve = risk_coverage(-cell.entropy[held], cell.wrong[held])
                assert k[s] == round(accepted.weight[s].sum())
                assert own[s] == pytest.approx((accepted.weight[s] * cell.wrong[held]).sum(), abs=1e-9)
                assert by_entropy[s] == pytest.approx(curve[int(k[s]) - 1] * k[s], abs=1e-9)


def test_linear_and_interaction_scores_are_those_of_statsmodels_on_the_fit_half() -> None:
    splits = study_of(make_items(120, vision=0.8, interaction=0.5), 3)
    scores, _ = fit_splits(splits, splits.vision, interaction=True)
    own = [cell for cell in splits.cells if cell.name.startswith("qwen")]
    parts = []
    for j, cell in enumerate(own):
        e, v = splits.entropy[cell.index], splits.vision[cell.index]
        x = np.column_stack([e, v, e * v, *(np.full(len(e), float(j == i)) for i in range(len(own)))])
        parts.append((x[cell.fit[2]], 1 - cell.wrong[cell.fit[2]], x))
    fit = sm.Logit(np.concatenate([y for _, y, _ in parts]), np.concatenate([x for x, _, _ in parts]))
    coef = fit.fit(disp=0, tol=1e-13).params
    for cell, (_, _, x) in zip(own, parts, strict=True):
        at = next(c for c, other in enumerate(splits.cells) if other is cell)
        np.testing.assert_allclose(scores[at][2], x[:, :3] @ coef[:3], atol=1e-9)


def test_the_null_keeps_every_cells_values_and_deals_models_together() -> None:
    splits = study_of(make_items(50))
    dealt = splits.deal_vision(np.random.default_rng(0))
    assert (dealt != splits.vision).mean() > 0.9
    moved: dict[str, np.ndarray] = {}
    for cell in splits.cells:
        own, new = splits.vision[cell.index], dealt[cell.index]
        np.testing.assert_array_equal(np.sort(own), np.sort(new))
        came_from = np.argsort(own)[np.searchsorted(np.sort(own), new)]
        np.testing.assert_array_equal(moved.setdefault(cell.name.split("\n")[1], came_from), came_from)


def test_p_values_are_those_of_the_reference_vectors() -> None:
    from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value

    given, expected, tolerance = read_case("ltt_hb")
    n, alpha = int(given["n"]), float(given["alpha"])
    found = veto.bound_p_values(np.rint(given["r_hat"] * n), np.full(4, n), alpha)
    np.testing.assert_allclose(found, expected["p_binary"], rtol=0, atol=tolerance["p_binary"])
    bounded = compute_hoeffding_bentkus_p_value(given["r_hat"], n, alpha)[:, 0]
    np.testing.assert_allclose(bounded, expected["p"], rtol=0, atol=tolerance["p"])


def test_p_value_of_whole_errors_is_the_binomial_tail_and_one_where_nothing_is_accepted() -> None:
    found = veto.bound_p_values([0, 3, 8, 0], [20, 20, 20, 0], 0.3)
    np.testing.assert_allclose(found, [*binom.cdf([0, 3, 8], 20, 0.3), 1.0], atol=1e-12)


def test_the_laxest_threshold_before_the_first_failure_is_taken() -> None:
    confidence = np.arange(200)[::-1]
    error = np.arange(200) >= 100  # the surer half is right
    found = veto.certify_threshold(confidence, error, [50, 120, 150, 100, 20], max_risk=0.1, delta=0.1)
    assert (found.threshold, found.n_accepted, found.n_certifying, found.risk) == (100.0, 100, 200, 0.0)
    assert found.p_value == pytest.approx(0.9**100) and "at least 0.9" in found.guarantee
    error[:20] = True  # now the strictest fails, and nothing after it is tested
    none = veto.certify_threshold(confidence, error, [50, 120, 150, 185], max_risk=0.1, delta=0.1)
    assert np.isnan(none.threshold) and none.n_accepted == 0 and "accept nothing" in none.guarantee


def test_false_certificates_are_rarer_than_delta() -> None:
    rng = np.random.default_rng(0)
    thresholds, delta, false = np.linspace(0.9, 0.0, 10), 0.1, 0
    for _ in range(1000):
        # the risk rises from 0.1 to 0.3 as confidence falls from 1 to 0: above t it is 0.2 - 0.1 t
        confidence = rng.random(200)
        error = rng.random(200) < 0.3 - 0.2 * confidence
        found = veto.certify_threshold(confidence, error, thresholds, max_risk=0.15, delta=delta)
        false += bool(0.2 - 0.1 * found.threshold >= 0.15)
    assert false <= binom.ppf(0.999, 1000, delta)


@pytest.mark.parametrize(
    ("thresholds", "max_risk", "delta"), [([], 0.1, 0.1), ([np.nan], 0.1, 0.1), ([0.5], 0.0, 0.1), ([0.5], 0.1, 1.0)]
)
def test_uncertifiable_options_are_refused(thresholds: list[float], max_risk: float, delta: float) -> None:
    with pytest.raises(EstimateError, match="expected"):
        veto.certify_threshold([0.1, 0.9], [1, 0], thresholds, max_risk=max_risk, delta=delta)


def test_table_certifies_every_cell_on_items_apart_from_those_that_check_it() -> None:
    items = make_items(300)
    table = veto.certify_table(items, ["type of visual"], max_risk=0.35)
    assert len(table) == 4 * 2 and set(table["rule"]) == {"entropy", "veto"}
    sizes = table["n_certifying"] + table["n_checked"]
    assert (sizes == 200).all() and (table["n_checked"].between(80, 120)).all()
    certified = table["threshold"].notna()
    assert certified.any() and (table.loc[certified, "risk"] < 0.35).all()
    assert (table.loc[certified, "p_value"] <= 0.1).all()
    untargeted = table.query("benchmark == 'symbolic' and rule == 'veto'")
    assert untargeted["vision_floor"].isna().all()


def test_small_table_is_refused() -> None:
    with pytest.raises(EstimateError, match="no cell has 60 items"):
        veto.certify_table(make_items(30), None, max_risk=0.3)


def test_a_vetoed_answer_is_never_accepted_even_where_all_others_are() -> None:
    items = make_items(900, seed=3).assign(correct=True)
    rng = np.random.default_rng(0)
    low = items["vision_evidence_mass"] < items.groupby(["model", "benchmark"])["vision_evidence_mass"].transform(
        lambda x: x.quantile(0.1)
    )
    items["correct"] = ~(low & (rng.random(len(items)) < 0.9))
    table = veto.certify_table(items, None, max_risk=0.15)
    vetoed = table[(table["rule"] == "veto") & table["vision_floor"].notna()]
    assert len(vetoed) and np.isfinite(vetoed["threshold"]).all() and (vetoed["checked_coverage"] < 1).all()
