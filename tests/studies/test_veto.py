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
from synthetic_items import make_items

from dontblink.statistics.bootstrap import EstimateError
from dontblink.studies import veto
from dontblink.studies.cells import PLACEBOS, VISIONS, keep_usable, select_rows
from dontblink.studies.risk_coverage import count_accepted, risk_coverage
from dontblink.studies.veto_rules import (
    BASES,
    LENGTH,
    Accepted,
    Splits,
    apply_rule,
    count_errors,
    fit_splits,
    leave_out,
    prepare_splits,
    rank_answers,
    try_floors,
)

COLUMNS = ("full_entropy_nats", LENGTH, "vision_evidence_mass")
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
    defaults: dict[str, Any] = {"fit_share": 0.5, "n_shares": 10, "seed": 0, "looks": {"v": "vision_evidence_mass"}}
    return prepare_splits(rows, TARGETS, n_splits=n_splits, **(defaults | options))


def accept(splits: Splits, rule: str, coverage: float = 0.9) -> list[Accepted]:
    return [one for one in next(apply_rule(splits, rule, splits.looks["v"], [coverage])) if one is not None]


def test_every_scope_and_rule_has_a_row_and_entropy_gains_nothing_over_itself() -> None:
    table = veto.veto_table(make_items(), TARGETS, n_deals=3, **FAST)
    assert len(table) == (4 + 2 + 2 + 1) * 5 and list(table["rule"][:5]) == list(veto.RULES)
    own = table.query("rule == 'entropy'")
    assert (own[["gain", "ci_low", "ci_high", "split_low", "split_high"]] == 0).all(axis=None)
    assert (table["gain"] - (table["base_risk"] - table["risk"])).abs().max() < 1e-12
    assert ((table["ci_low"] <= table["gain"]) & (table["gain"] <= table["ci_high"])).mean() > 0.9
    vision = table["rule"].isin(["linear", "veto"])
    assert (table["vision"] == np.where(vision, "evidence", "none")).all()
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
    table = veto.veto_table(make_danger(), TARGETS, n_deals=2, **FAST)
    table = table[table["benchmark"].isin(["symbolic", "type of symbolic"])]
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
    assert (pooled["n_cells"] == 2).all() and (pooled["n_rows"] == 159).all() and (table["n_left_out"] == 0).all()


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
        np.testing.assert_array_equal(rest.features[LENGTH], splits.features[LENGTH][rows])
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
    looks = {"v": "vision_evidence_mass"}
    other = prepare_splits(rows, TARGETS, looks=looks, n_splits=1, fit_share=0.5, n_shares=10, seed=0)
    for rule in ("entropy", "entropy_length", "linear", "veto"):
        for mine, theirs in zip(accept(splits, rule), accept(other, rule), strict=True):
            np.testing.assert_array_equal(mine.weight, theirs.weight)


def test_rules_are_compared_at_equal_numbers_and_saved_errors_are_those_of_the_exact_curve() -> None:
    splits = study_of(make_danger(60))
    for rule in veto.RULES:
        for cell, accepted in zip(splits.cells, accept(splits, rule), strict=True):
            k, own, by_entropy, n_held = count_errors(cell, accepted)
            assert (n_held == cell.held.shape[1]).all()
            for s in (0, 7):
                held = cell.held[s]
                curve = risk_coverage(-splits.features["full_entropy_nats"][cell.index][held], cell.wrong[held])
                assert k[s] == round(accepted.weight[s].sum())
                assert own[s] == pytest.approx((accepted.weight[s] * cell.wrong[held]).sum(), abs=1e-9)
                assert by_entropy[s] == pytest.approx(curve[int(k[s]) - 1] * k[s], abs=1e-9)


def test_linear_scores_are_those_of_statsmodels_on_the_fit_half() -> None:
    splits = study_of(make_items(120, vision=0.8, interaction=0.5), 3)
    scores, _ = fit_splits(splits, splits.looks["v"])
    own = [cell for cell in splits.cells if cell.name.startswith("qwen")]
    parts = []
    for j, cell in enumerate(own):
        e, v = splits.features["full_entropy_nats"][cell.index], splits.looks["v"][cell.index]
        x = np.column_stack([e, v, *(np.full(len(e), float(j == i)) for i in range(len(own)))])
        parts.append((x[cell.fit[2]], 1 - cell.wrong[cell.fit[2]], x))
    fit = sm.Logit(np.concatenate([y for _, y, _ in parts]), np.concatenate([x for x, _, _ in parts]))
    coef = fit.fit(disp=0, tol=1e-13).params
    for cell, (_, _, x) in zip(own, parts, strict=True):
        at = next(c for c, other in enumerate(splits.cells) if other is cell)
        np.testing.assert_allclose(scores[at][2], x[:, :2] @ coef[:2], atol=1e-9)


def test_the_null_keeps_every_cells_values_and_deals_models_together() -> None:
    splits = study_of(make_items(50))
    dealt = splits.looks["v"][splits.deal(np.random.default_rng(0))]
    assert (dealt != splits.looks["v"]).mean() > 0.9
    moved: dict[str, np.ndarray] = {}
    for cell in splits.cells:
        own, new = splits.looks["v"][cell.index], dealt[cell.index]
        np.testing.assert_array_equal(np.sort(own), np.sort(new))
        came_from = np.argsort(own)[np.searchsorted(np.sort(own), new)]
        np.testing.assert_array_equal(moved.setdefault(cell.name.split("\n")[1], came_from), came_from)


LOOKS = {"image": VISIONS["image"], **PLACEBOS}


def make_wordy(n_items: int = 200, seed: int = 0) -> pd.DataFrame:
    """Long responses are wrong more often, whatever their entropy; vision says nothing."""
    items, rng = make_items(n_items, seed=seed), np.random.default_rng(seed + 2)
    wordy = items["n_response_tokens"].rank(pct=True)
    return items.assign(correct=rng.random(len(items)) < 1 / (1 + np.exp(4 * wordy - 4)))


@pytest.mark.parametrize("base", BASES)
def test_the_base_alone_gains_nothing_and_knows_the_length(base: str) -> None:
    table = veto.veto_table(make_wordy(), TARGETS, rules=tuple(BASES), base=base, **FAST)
    own = table[table["rule"] == base]
    assert (own[["gain", "ci_low", "ci_high", "split_low", "split_high"]] == 0).all(axis=None)
    other = table[(table["rule"] != base) & (table["scope"] == "pooled")].iloc[0]
    assert other["gain"] > 0 if base == "entropy" else other["gain"] < 0


@pytest.mark.parametrize("base", BASES)
def test_the_base_without_a_veto_is_its_own_rule(base: str) -> None:
    splits = study_of(make_wordy(60), base=base)
    for cell, accepted in zip(splits.cells, accept(splits, base), strict=True):
        k = count_accepted(cell.fit.shape[1], 0.9)
        assert (np.diff(cell.ranked.cost, axis=1) >= 0).all()
        in_order = np.take_along_axis(cell.held_cost, np.argsort(cell.held_cost, 1), 1)
        assert (accepted.weight.sum(axis=1) == (in_order <= cell.ranked.cost[:, k - 1, None]).sum(axis=1)).all()


def test_the_cost_is_that_of_statsmodels_on_the_fit_half() -> None:
    splits = study_of(make_wordy(120), 3, base="entropy_length")
    for (cost, n_separated), cell in zip(splits.price("entropy_length"), splits.cells, strict=True):
        features = np.column_stack([splits.features[name][cell.index] for name in BASES["entropy_length"]])
        fit = cell.fit[2]
        coef = sm.Logit(cell.wrong[fit], sm.add_constant(features[fit])).fit(disp=0, tol=1e-13).params
        np.testing.assert_allclose(cost[2], features @ coef[1:], atol=1e-9)
        assert n_separated == 0


def test_what_length_knows_is_a_gain_over_entropy_and_none_over_entropy_and_length() -> None:
    items = make_wordy(800)
    over = {
        base: veto.veto_table(items, None, visions=PLACEBOS, base=base, rules=("veto",), n_splits=20)
        .query("scope == 'pooled' and vision == 'length'")
        .iloc[0]
        for base in BASES
    }
    assert over["entropy"]["ci_low"] > 0 and over["entropy_length"]["ci_low"] <= 0


def test_a_planted_danger_zone_beats_the_placebos_and_a_placebo_that_is_the_vision_is_no_better() -> None:
    items = veto.plant_blind_errors(make_items(500), TARGETS, 0.1, VISIONS["image"])
    looks = LOOKS | {"itself": VISIONS["image"]}
    options: dict[str, Any] = {"base": "entropy_length", "rules": ("veto",), "n_splits": 30}
    study = veto.run_study(items, TARGETS, visions=looks, n_deals={"image": 19}, **options)
    gains = study.gains().query("scope == 'task_type' and benchmark == 'type of visual'").set_index("vision")
    assert gains.loc["image", "ci_low"] > 0 and gains.loc["image", "p"] == 0.05 and np.isnan(gains.loc["length", "p"])
    over = study.compare(["image"], [*PLACEBOS, "itself"])
    aimed = over.query("scope == 'task_type' and benchmark == 'type of visual'").set_index("placebo")
    assert (aimed.loc[list(PLACEBOS), "ci_low"] > 0).all()
    assert (over.query("placebo == 'itself'")[["estimate", "ci_low", "ci_high"]] == 0).all(axis=None)
    difference = gains.loc["image", "gain"] - gains.loc["length", "gain"]
    assert aimed.loc["length", "estimate"] == pytest.approx(difference, abs=1e-15)
    assert "above 2 of 3 placebos" in veto.describe_differences(over, TARGETS)


def test_visions_in_one_study_are_the_single_ones() -> None:
    items, options = make_danger(80), {"rules": ("veto",), "n_deals": 3, "base": "entropy_length", **FAST}
    together = veto.veto_table(items, TARGETS, visions=LOOKS, **options)
    for name, column in LOOKS.items():
        alone = veto.veto_table(items, TARGETS, visions={name: column}, **options)
        pd.testing.assert_frame_equal(together[together["vision"] == name].reset_index(drop=True), alone)


def test_a_deal_that_leaves_untargeted_cells_alone_is_the_one_that_judges_them_again() -> None:
    splits = study_of(make_danger(60))
    vision = splits.looks["v"][splits.deal(np.random.default_rng(1))]
    quick, whole = (next(apply_rule(splits, "veto", vision, [0.9], targeted_only=only)) for only in (True, False))
    for cell, some, every, base in zip(splits.cells, quick, whole, accept(splits, "entropy"), strict=True):
        assert (some is None) == (not cell.targeted.any()) and every is not None
        np.testing.assert_array_equal(every.weight, base.weight if some is None else some.weight)


def test_a_task_type_in_a_mixed_cell_is_judged_among_its_own_answers() -> None:
    items = make_danger(200, 3.0)
    mixed = items.assign(benchmark="both", item_id=items["benchmark"] + items["item_id"])
    table = veto.veto_table(mixed, TARGETS, rules=("veto", "oracle"), **FAST)
    kinds = table.query("scope == 'task_type' and rule == 'veto'").set_index("benchmark")
    assert set(kinds.index) == {"type of visual", "type of symbolic"} and (kinds["n_cells"] == 2).all()
    assert (kinds["n_rows"] == 400).all() and kinds.loc["type of visual", "gain"] > 0
    assert kinds.loc["type of visual", "realised_coverage"] < kinds.loc["type of symbolic", "realised_coverage"]
    splits = study_of(mixed, 5)
    for cell, accepted in zip(splits.cells, accept(splits, "veto"), strict=True):
        kept = splits.task[cell.index] == "type of visual"
        k, wrong, base, n_held = count_errors(cell, accepted, "type of visual")
        for s in range(5):
            own = cell.held[s][kept[cell.held[s]]]
            assert n_held[s] == len(own) and k[s] == accepted.weight[s][kept[cell.held[s]]].sum()
            assert wrong[s] == cell.wrong[cell.held[s][(accepted.weight[s] > 0) & kept[cell.held[s]]]].sum()
            curve = risk_coverage(-splits.features["full_entropy_nats"][cell.index][own], cell.wrong[own])
            assert base[s] == pytest.approx(curve[int(k[s]) - 1] * k[s], abs=1e-9)


def test_a_response_without_a_look_is_the_first_to_be_vetoed_and_no_row_is_dropped() -> None:
    items = make_items(60)
    blind = items.index[items["benchmark"] == "visual"][:6]
    items.loc[blind, "vision_evidence_mass"] = np.nan
    items.loc[items["model"].eq("glm") & items["benchmark"].eq("symbolic"), "vision_evidence_mass"] = np.nan
    everything, rows = veto.select_answers(items, TARGETS, {"v": "vision_evidence_mass"}, (), 20, COLUMNS[:1])
    assert everything.attrs["n_left_out"] == 60 and len(rows) == 180  # a cell that has no look at all
    gone = rows["item_id"].isin(items.loc[blind, "item_id"]) & rows["benchmark"].eq("visual") & rows["model"].eq("glm")
    assert rows.loc[gone, "vision_evidence_mass"].max() == rows.loc[
        ~gone & rows["cell"].eq("glm\nvisual"), "vision_evidence_mass"
    ].min()


def test_dealt_vision_has_p_values_that_are_about_uniform() -> None:
    items, found = make_danger(60, seed=5), []
    rng = np.random.default_rng(3)
    for seed in range(60):
        order = items.groupby(["model", "benchmark"])["vision_evidence_mass"].transform(rng.permutation)
        dealt = items.assign(vision_evidence_mass=order)
        options: dict[str, Any] = {"rules": ("veto",), "n_deals": 19, "n_splits": 6, "n_blocks": 2, "seed": seed}
        found.append(veto.veto_table(dealt, None, **options).query("scope == 'pooled'").iloc[0]["p"])
    # a tie counts against the observed value, so p may only be too large
    for level in (0.05, 0.25, 0.5):
        assert sum(p <= level for p in found) <= binom.ppf(0.999, len(found), level)
    assert np.mean(found) < 0.7 and min(found) < 0.2


@pytest.mark.parametrize("base", BASES)
def test_the_bound_is_above_every_veto_of_a_grid_on_the_same_answers(base: str) -> None:
    items = make_danger(150)
    table = veto.bound_table(items, TARGETS, visions=LOOKS, base=base, n_deals=5)
    rows = select_rows(items, [*COLUMNS, VISIONS["image"]])
    cells = table.query("scope == 'cell' and vision == 'image'").set_index(["model", "benchmark"])["gain"]
    for (model, benchmark), own in rows.groupby(["model", "benchmark"]):
        wrong, look = 1.0 - own["correct"].to_numpy(float), own[VISIONS["image"]].to_numpy()
        features = own[list(BASES[base])].to_numpy()
        cost = features[:, 0]
        if base == "entropy_length":
            cost = features @ sm.Logit(wrong, sm.add_constant(features)).fit(disp=0, tol=1e-13).params[1:]
        k, gains = 135, []
        for floor in [-np.inf, *np.sort(look)[1:16]] if benchmark == "visual" else [-np.inf]:
            limit = np.sort(cost[look >= floor])[k - 1]
            kept = (look >= floor) & (cost <= limit)
            gains.append((wrong[np.argsort(cost)[: kept.sum()]].sum() - wrong[kept].sum()) / kept.sum())
        assert cells[model, benchmark] == pytest.approx(max(gains), abs=1e-12)
        assert (cells[model, benchmark] == 0) == (benchmark == "symbolic")
    best = table.query("scope == 'pooled' and vision == 'image'").iloc[0]
    assert best["gain"] == pytest.approx(cells.sum() / 4, abs=1e-12) and best["null_mean"] > 0
    assert "no veto could have gained more than" in veto.describe_bounds(table, TARGETS)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_no_grid_of_floors_gains_more_in_sample_than_all_floors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost, wrong = np.sort(rng.integers(0, 30, (3, 40)), axis=1).astype(float), rng.integers(0, 2, (3, 40)).astype(float)
    seen, k = rng.integers(0, 12, (3, 40)).astype(float), 30
    ranked = rank_answers(cost, wrong)
    best = try_floors(ranked, seen, k, np.arange(11))[0].max(axis=1)
    for n_shares in (1, 3, 7):
        some = try_floors(ranked, seen, k, np.unique(10 * np.arange(n_shares + 1) // n_shares))[0].max(axis=1)
        assert (some <= best).all() and (some >= 0).all()


def test_an_unknown_base_is_named() -> None:
    with pytest.raises(EstimateError, match="base 'length'; expected one of entropy, entropy_length"):
        veto.veto_table(make_items(40), TARGETS, base="length", **FAST)


def test_a_veto_for_a_few_answers_of_a_cell_never_withholds_one_that_looks_well() -> None:
    rng = np.random.default_rng(4)
    cost, wrong = np.sort(rng.random((1, 100)), axis=1), np.zeros((1, 100))
    seen = np.full((1, 100), np.inf)
    seen[0, [10, 30, 50]], wrong[0, [10, 30, 50]] = (0.2, 0.5, 0.9), 1.0  # all that it is for are wrong
    _, _, _, floors = try_floors(rank_answers(cost, wrong), seen, 90, np.arange(11))
    assert np.isfinite(floors[0, 1:3]).all() and (floors[0, 3:] == -np.inf).all() and floors[0, 2] == 0.9


def test_studies_of_other_targets_are_compared_in_the_same_splits_and_blocks() -> None:
    items = make_danger()
    visions = {"evidence": "vision_evidence_mass"}
    studies = [veto.run_study(items, targets, visions=visions, rules=("veto",), **FAST) for targets in (TARGETS, None)]
    gains = [study.gains().query("scope == 'pooled'")["gain"].item() for study in studies]
    found = veto.compare_studies(studies[0], studies[1:], "evidence", 0.9)
    assert found["estimate"] == pytest.approx(gains[0] - gains[1], abs=1e-12)
    assert found["ci_low"] <= found["estimate"] <= found["ci_high"]
    own = veto.compare_studies(studies[0], [studies[0], studies[0]], "evidence", 0.9)
    assert own["estimate"] == own["ci_low"] == own["ci_high"] == 0
