"""Claims about the hazard of low vision, its contrast between task types, E-values and the reliability of vision."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from synthetic_items import make_items

from dontblink.statistics.bootstrap import EstimateError, Resampling, count_draws, resample
from dontblink.studies.cells import ENTROPY, VISION, deal_rows, number_items, select_rows
from dontblink.studies.hazard import (
    LOOKS,
    Tally,
    Wanted,
    add_levels,
    contrast_table,
    describe_contrast,
    draw,
    e_value,
    hazard_table,
    name_look,
    newcombe,
    reliability_table,
    tally,
)
from dontblink.studies.interaction import quadrant_table

ONE = {"evidence": VISION}
KINDS = ("type of visual", "type of symbolic")
FEW = Resampling(300, method="t")


def plant(items: pd.DataFrame, share: float, benchmark: str = "visual") -> pd.DataFrame:
    """Make a share of the confident answers at low evidence wrong in one benchmark, wherever they were right."""
    items = items.assign(cell=items["model"] + items["benchmark"])
    leveled = add_levels(items, {"e": ENTROPY, "v": VISION}, 0.5)
    hit = (leveled["e"] == "low") & (leveled["v"] == "low") & (items["benchmark"] == benchmark)
    hit &= np.random.default_rng(3).random(len(items)) < share
    return items.assign(correct=items["correct"] & ~hit).drop(columns="cell")


def contrast(items: pd.DataFrame, looks: dict[str, str] = ONE, resampling: Resampling = FEW) -> pd.DataFrame:
    return contrast_table(items, *KINDS, looks, {}, resampling=resampling)


def test_hazard_of_one_cell_is_the_difference_of_two_risks_of_the_quadrant_table() -> None:
    items = make_items(300, vision={"visual": 0.8})
    risks = quadrant_table(items).set_index(["scope", "model", "benchmark", "entropy_level", "vision_level"])["risk"]
    table = hazard_table(items, ONE, scopes=["cell"], resampling=FEW)
    for row in table.itertuples():
        low, high = (risks[row.scope, row.model, row.benchmark, "low", v] for v in ("low", "high"))
        assert row.estimate == pytest.approx(low - high, abs=1e-12)
    assert set(table["method"]) == {"newcombe"} and table["p"].isna().all()


def test_cells_weigh_the_same_whatever_their_size() -> None:
    items = make_items(300)
    items = items[(items["model"] == "glm") | (items["item_id"] < "item 100")]
    cells, whole = (hazard_table(items, scopes=[x], resampling=FEW) for x in ("cell", "benchmark"))
    mean = cells.groupby(["vision", "benchmark"])["estimate"].mean()
    for row in whole.itertuples():
        assert row.estimate == pytest.approx(mean[row.vision, row.benchmark], abs=1e-12) and row.n_cells == 2
        assert row.risk_low_vision - row.risk_high_vision == pytest.approx(row.estimate, abs=1e-12)
        assert row.risk_ratio == pytest.approx(row.risk_low_vision / row.risk_high_vision)
        assert row.ratio_low < row.risk_ratio < row.ratio_high and 1 <= row.e_value_end <= row.e_value


def test_a_planted_hazard_is_found_and_only_by_the_vision_that_has_it() -> None:
    items = plant(make_items(500), 0.25)
    table = contrast_table(items, *KINDS, resampling=Resampling(500, method="t")).set_index(["vision", "over"])
    assert table.loc[("evidence", ""), "ci_low"] > 0.05 and table.loc[("evidence", ""), "p"] < 0.01
    for placebo in ("length", "elsewhere"):
        own = table.loc[(placebo, "")]
        assert own["ci_low"] < 0 < own["ci_high"]
        beyond = table.loc[("evidence", placebo)]
        assert beyond["estimate"] == pytest.approx(table.loc[("evidence", ""), "estimate"] - own["estimate"])
        assert beyond["ci_low"] > 0
    assert (table["n_items"] == 1000).all() and (table["n_rows"] == 2000).all() and (table["n_cells"] == 4).all()
    by_type = hazard_table(items, scopes=["task_type"], resampling=FEW).set_index(["vision", "benchmark"])["estimate"]
    for vision in LOOKS:
        both = by_type[vision, KINDS[0]] - by_type[vision, KINDS[1]]
        assert table.loc[(vision, ""), "estimate"] == pytest.approx(both, abs=1e-12)


@pytest.mark.parametrize("as_ratio", [False, True])
def test_replicates_are_those_of_resampled_rows_and_errors_those_of_their_spread(as_ratio: bool) -> None:
    rows = select_rows(make_items(400, vision=0.5), [ENTROPY, VISION])
    counted, resampling = tally(rows, ONE, 0.5, 20), Resampling(2000, method="percentile")
    wanted = [Wanted(np.full((1, 4), 0.25), as_ratio)]
    [(interval, _)] = draw(counted, wanted, resampling)
    [(by_t, _)] = draw(counted, wanted, Resampling(2000, method="t"))
    leveled = add_levels(rows, {"e": ENTROPY, "v": VISION}, 0.5).query("e == 'low'")
    item = pd.factorize(rows["cluster"], sort=True)[0][leveled.index]
    values = []
    for draws in count_draws(next(resample(counted.members, resampling)))[:20]:
        again = leveled.loc[np.repeat(leveled.index, draws[item].astype(int))]
        risk = (1 - again.groupby(["cell", "v"])["correct"].mean()).unstack().mean()
        values.append(np.log(risk["low"] / risk["high"]) if as_ratio else risk["low"] - risk["high"])
    first = Tally(counted.sums, counted.usable, counted.cells, counted.looks, counted.members)
    [(same, _)] = draw(first, wanted, Resampling(20, method="percentile"))
    assert (same.ci_low, same.ci_high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-12)
    # a symmetric bootstrap-t interval is about as wide as the replicates' own, if its error is
    assert by_t.ci_high - by_t.ci_low == pytest.approx(interval.ci_high - interval.ci_low, rel=0.1)


@pytest.mark.parametrize("method", ["t", "bca", "percentile"])
def test_every_method_gives_an_interval_around_the_estimate(method: str) -> None:
    table = contrast(make_items(200), resampling=Resampling(200, method=method))  # type: ignore[arg-type]
    row = table.iloc[0]
    assert row["method"] == method and row["ci_low"] < row["estimate"] < row["ci_high"] and 0 < row["p"] <= 1


def test_dealt_vision_has_p_values_as_flat_as_chance() -> None:
    rows = make_items(150, vision=0.5)
    base = select_rows(rows, [ENTROPY, VISION])
    rng, places, found = np.random.default_rng(8), number_items(base), []
    for _ in range(120):
        dealt = base.assign(**{VISION: base[VISION].to_numpy()[deal_rows(*places, rng)]})
        found.append(contrast(dealt, resampling=Resampling(199, method="t"))["p"].iloc[0])
    p = np.array(found)
    assert 0.4 < p.mean() < 0.6 and (p <= 0.05).mean() <= 0.12 and (p <= 0.5).mean() > 0.35


def test_a_second_model_that_says_the_same_changes_no_interval() -> None:
    # the same answers twice are no more evidence: a cluster counts once, however many rows it has
    one = make_items(200, benchmarks=("visual",)).query("model == 'glm'")
    items = make_items(200).query("model == 'glm'")
    first, second = (contrast(x) for x in (items, pd.concat([items, items.assign(model="copy")])))
    ends = ["estimate", "ci_low", "ci_high", "p"]
    assert second[ends].to_numpy(float) == pytest.approx(first[ends].to_numpy(float), abs=1e-12)
    assert len(one) == 200 and contrast(one).empty


def test_a_study_of_one_task_type_has_no_contrast_but_its_columns() -> None:
    table = contrast_table(make_items(60, benchmarks=("visual",)), *KINDS, resampling=FEW)
    assert table.empty and {"vision", "over", "estimate", "ci_low", "ci_high", "p"} <= {*table}


def test_a_benchmark_of_two_task_types_has_levels_within_each() -> None:
    items = make_items(200, benchmarks=("mixed",))
    is_visual = items["item_id"] < "item 100"
    items["task_type"] = np.where(is_visual, *KINDS)
    items.loc[is_visual, VISION] += 10  # all of them high, if levels were those of the whole benchmark
    split = items.assign(benchmark=items["task_type"])
    whole, apart = (contrast(x)[["estimate", "n_cells"]].to_numpy(float) for x in (items, split))
    assert whole == pytest.approx(apart, abs=1e-12) and whole[0, 1] == 4


def test_published_newcombe_interval() -> None:
    # Newcombe (1998), Statistics in Medicine 17: 873-890, table II, method 10: 56/70 - 48/80 is 0.2 [0.0524, 0.3339]
    found = newcombe([56, 48], [70, 80], 0.95)
    assert found["estimate"] == pytest.approx(0.2)
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_published_e_value() -> None:
    # VanderWeele and Ding (2017), Annals of Internal Medicine 167: 268-274: 3.9 [1.8, 8.7] has E-values 7.26 and 3.0
    assert e_value(3.9) == pytest.approx(7.26, abs=5e-3) and e_value(1.8) == pytest.approx(3.0, abs=1e-9)
    assert e_value(1 / 3.9) == pytest.approx(e_value(3.9)) and e_value(1.0) == 1.0
    with pytest.raises(EstimateError, match="risk ratio 0"):
        e_value(0.0)


def test_a_scope_without_any_wrong_answer_gets_no_interval_of_no_width() -> None:
    right = make_items(100).assign(correct=True)
    table = hazard_table(right, ONE, resampling=FEW)
    cells = table[table["scope"] == "cell"]
    assert (cells["ci_high"] - cells["ci_low"]).min() > 0.05
    assert table.loc[table["scope"] != "cell", "estimate"].isna().all()
    assert contrast(right).empty
    few = hazard_table(make_items(12), ONE, scopes=["cell", "benchmark"], resampling=FEW)
    assert few["estimate"].isna().all() and (few["n_cells"] == 0).all() and (few["n_low_vision"] > 0).all()


def test_extreme_levels_leave_the_middle_out_and_a_share_beyond_one_half_is_refused() -> None:
    rows = select_rows(make_items(100), [ENTROPY, VISION])
    levels = add_levels(rows, {"v": VISION}, 0.2).groupby("cell")["v"].value_counts().unstack()
    assert (levels[["low", "high"]] == 20).all().all() and (levels["middle"] == 60).all()
    with pytest.raises(EstimateError, match="share 0.7"):
        add_levels(rows, {"v": VISION}, 0.7)


def make_steps(n_items: int, signal: float, kind_gap: float = 0.0) -> pd.DataFrame:
    """Six steps of three tokens a response: mass = 0.3 + signal x (the response's own look) + unit noise / 100."""
    rng = np.random.default_rng(4)
    own = np.repeat(rng.normal(size=n_items), 6)
    index = np.tile(np.arange(6), n_items)
    mass = 0.3 + signal * own + 0.01 * rng.normal(size=len(own)) + kind_gap * (index % 2)
    return pd.DataFrame({
        "model": "m", "benchmark": "b", "item_id": np.repeat([f"i{k}" for k in range(n_items)], 6),
        "step_index": index, "step_kind": np.where(index % 2, "read", "compute"), "n_tokens": 3, "evidence_mass": mass,
        "visual_mass": mass + 0.1,
    })  # fmt: skip


def test_reliability_is_the_share_of_variance_that_is_the_response_own() -> None:
    # variance of the mean over six steps: signal^2 + noise^2 / 6
    table = reliability_table(make_steps(4000, 0.005)).set_index("vision")
    expected = 0.005**2 / (0.005**2 + 0.01**2 / 6)
    for vision in ("cumulative evidence", "cumulative image"):
        assert table.loc[vision, "reliability"] == pytest.approx(expected, abs=0.03)
    third = 0.005**2 / (0.005**2 + 0.01**2 / 2)  # two steps in the last third
    assert table.loc["evidence", "reliability"] == pytest.approx(third, abs=0.04)
    assert table["n_items"].eq(4000).all() and table["is_oracle"].tolist() == [True, False, True, False]


def test_kinds_of_steps_that_take_turns_hide_no_reliability() -> None:
    steps = make_steps(2000, 0.005, kind_gap=0.2)
    steps = steps[(steps["step_index"] < 5) | (steps["item_id"].str[-1] > "4")]  # not all responses have all steps
    table = reliability_table(steps).set_index("vision").loc["cumulative evidence"]
    assert table["reliability_within_kind"] == pytest.approx(0.6, abs=0.06)
    few = reliability_table(make_steps(10, 0.005))
    assert few[["halves", "reliability"]].isna().all().all()
    with pytest.raises(EstimateError, match="several rows"):
        reliability_table(pd.concat([steps, steps]))


def test_names_say_what_needs_gold_boxes_and_what_is_a_placebo() -> None:
    names = [name_look(name) for name in LOOKS]
    assert names[:2] == ["evidence (oracle)", "image"] and names[-1] == "elsewhere (placebo)"
    row = {"vision": "evidence", "over": "length", "estimate": 0.05, "ci_low": 0.01, "ci_high": 0.09, "p": 0.012}
    beyond = "contrast of hazards beyond that of the placebo length"
    assert describe_contrast(row) == f"evidence (oracle): {beyond} +5.0 points [+1.0, +9.0], p 0.012"


def test_a_response_without_boxes_has_no_evidence_that_could_be_reliable() -> None:
    steps = make_steps(60, 0.005)
    lacking = steps["item_id"].isin([f"i{k}" for k in range(30)])
    part = steps.assign(evidence_mass=steps["evidence_mass"].where(~lacking))
    table = reliability_table(part).set_index("vision")
    assert table.loc["cumulative evidence", "n_items"] == 30 and table.loc["cumulative image", "n_items"] == 60
    own = reliability_table(steps[~lacking]).set_index("vision")
    assert table.loc["cumulative evidence", "halves"] == pytest.approx(own.loc["cumulative evidence", "halves"])
