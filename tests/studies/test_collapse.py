"""Claims about evidence collapse and its cross-checks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import CELLS, make_bins
from synthetic_items import read_case

from dontblink.figures.charts import LABELS
from dontblink.statistics.bootstrap import EstimateError, Resampling
from dontblink.studies.cells import find_cells
from dontblink.studies.collapse import (
    BOX_FREE,
    LIFT,
    QUANTITIES,
    add_fraction,
    collapse_by,
    collapse_table,
    curves,
    log_ratio_check,
    pair_bins,
    pair_kinds,
    signed_rank,
    stratify,
)

FAST = {"resampling": Resampling(200)}


def make_steps(kinds: tuple[str, ...], masses: tuple[float, ...], n_items: int = 25) -> pd.DataFrame:
    bins = make_bins(n_items, n_bins=2, noise=0.0).query("bin == 0").drop(columns=["bin", "n_bins", "n_empty_bins"])
    parts = [
        bins.assign(step_index=k, step_kind=kind, step_text=f"a1 says {kind}", evidence_mass=mass, n_tokens=k + 1)
        for k, (kind, mass) in enumerate(zip(kinds, masses, strict=True))
    ]
    return pd.concat(parts, ignore_index=True)


def row(table: pd.DataFrame, quantity: str, model: str = "glm", benchmark: str = "symbolic") -> pd.Series:
    found = table.query("quantity == @quantity and model == @model and benchmark == @benchmark")
    assert len(found) == 1
    return found.iloc[0]


def test_collapse_is_one_minus_the_ratio_of_means() -> None:
    bins = make_bins()
    table = collapse_table(pair_bins(bins), CELLS, **FAST)
    cell = bins.query("model == 'glm' and benchmark == 'symbolic'")
    expected = 1 - cell.query("bin == 3").evidence_mass.mean() / cell.query("bin == 0").evidence_mass.mean()
    found = row(table, "evidence")
    assert found.estimate == pytest.approx(expected, rel=1e-12) == pytest.approx(0.75)
    assert found.log_ratio == pytest.approx(np.log(0.25))
    assert len(table) == len(CELLS) * len(QUANTITIES)


def test_one_item_with_a_tiny_first_mass_does_not_take_over() -> None:
    bins = make_bins(noise=0.0)
    bins.loc[(bins["item_id"] == "symbolic-000") & (bins["bin"] == 0), "evidence_mass"] = 1e-9
    found = row(collapse_table(pair_bins(bins), CELLS, quantities=["evidence"], **FAST), "evidence")
    assert 0.7 < found.estimate < 0.75  # the mean of ratios would be near -1e6


def test_mass_that_only_dilutes_has_no_collapse_beyond_dilution() -> None:
    table = collapse_table(pair_bins(make_bins(fall=0.5, dilution=0.5)), CELLS, **FAST)
    assert row(table, "evidence").estimate == pytest.approx(0.5)
    for name in ("evidence_over_uniform", "evidence_over_control"):
        assert row(table, name).estimate == pytest.approx(0.0, abs=1e-12)
    assert row(table, "evidence_over_uniform").p > 0.05
    more = collapse_table(pair_bins(make_bins(fall=0.75, dilution=0.5)), CELLS, **FAST)
    for name, expected in (("evidence_over_uniform", 1 - 0.25 / 0.5), ("uniform", 0.5), ("prompt", 0.0)):
        assert row(more, name).estimate == pytest.approx(expected)


def test_interval_holds_the_estimate_and_the_test_sees_every_item_fall() -> None:
    table = collapse_table(pair_bins(make_bins(seed=4)), CELLS, resampling=Resampling(500))
    assert ((table["ci_low"] <= table["estimate"] + 1e-12) & (table["estimate"] <= table["ci_high"] + 1e-12)).all()
    assert (table["n_items"] == 30).all() and (table["n_degenerate"] == 0).all() and (table["method"] == "bca").all()
    evidence = table[table["quantity"] == "evidence"]
    assert (evidence["rank_biserial"] == 1).all() and (evidence["wilcoxon_w"] == 0).all()
    assert (evidence["p_holm"] >= evidence["p"]).all()


@settings(max_examples=4, deadline=None)
@given(scale=st.floats(0.01, 4.0), seed=st.integers(0, 100))
def test_rescaled_masses_and_shuffled_rows_do_not_change_the_collapse(scale: float, seed: int) -> None:
    bins = make_bins(20, 2)
    other = bins.sample(frac=1, random_state=seed)
    other = other.assign(
        evidence_mass=other["evidence_mass"] * scale, visual_mass=other["visual_mass"] * scale
    )
    quantities = ["evidence", "evidence_over_uniform", "evidence_over_visual"]
    one, two = (
        collapse_table(pair_bins(b), CELLS, quantities=quantities, resampling=Resampling(100)) for b in (bins, other)
    )
    for column in ("estimate", "ci_low", "ci_high"):
        assert np.allclose(one[column], two[column], rtol=1e-6, atol=1e-9)


def test_renamed_copies_of_items_keep_the_estimate_and_narrow_the_interval() -> None:
    bins = make_bins(20, 2, noise=0.5, seed=2)
    bins["evidence_mass"] *= np.where(bins["bin"] == 1, np.random.default_rng(0).uniform(0.5, 1.5, len(bins)), 1)
    twice = pd.concat([bins, bins.assign(item_id=bins["item_id"] + "-copy")])
    one, two = (
        row(collapse_table(pair_bins(b), CELLS, resampling=Resampling(2000)), "evidence") for b in (bins, twice)
    )
    assert two.estimate == pytest.approx(one.estimate)
    assert (one.ci_high - one.ci_low) / (two.ci_high - two.ci_low) == pytest.approx(2**0.5, rel=0.15)


def test_items_without_both_ends_or_without_evidence_are_left_out_and_counted_once() -> None:
    bins = pd.concat([make_bins(25).assign(head_set=name) for name in ("grounding_layers", "all_layers")])
    bins = bins[~((bins["item_id"] == "symbolic-000") & (bins["bin"] == 0))]
    bins.loc[bins["item_id"] == "symbolic-001", ["uniform_evidence_share", "evidence_mass"]] = 0.0
    pairs = pair_bins(bins)
    assert pairs.attrs["n_left_out"] == 4  # two items, two models, whatever the number of head sets
    own = pairs[pairs["head_set"] == "all_layers"]
    assert row(collapse_table(own, CELLS, quantities=["evidence"], **FAST), "evidence").n_items == 23


def test_tables_that_support_no_estimate_are_named() -> None:
    bins = make_bins(25)
    pairs = pair_bins(bins)
    with pytest.raises(EstimateError, match="cell other x symbolic, grounding_layers: 0 items"):
        collapse_table(pairs, [*CELLS, ("other", "symbolic")], **FAST)
    with pytest.raises(EstimateError, match="25 items with both ends, expected >= 26"):
        collapse_table(pairs, CELLS, min_items=26, **FAST)
    with pytest.raises(EstimateError, match="cell glm x symbolic.*denominator"):
        collapse_table(pair_bins(bins.assign(control_box_mass=0.0)), CELLS, quantities=["control_box"], **FAST)
    items = bins[["model", "benchmark", "item_id"]].drop_duplicates().iloc[1:20].assign(chain_length=2.0)
    with pytest.raises(EstimateError, match="pairs without an item"):
        collapse_by(pairs, items, "chain_length", **FAST)
    with pytest.raises(EstimateError, match="prompt_mass_first: NaN"):
        pair_bins(bins.assign(prompt_mass=bins["prompt_mass"].where(bins["bin"] > 0)))
    with pytest.raises(EstimateError, match="1 NaN in 3 pairs"):
        signed_rank(np.array([1.0, np.nan, 2.0]), np.zeros(3))
    bins.loc[0, "split"] = "calibration"
    with pytest.raises(EstimateError, match="calibration split"):
        pair_bins(bins)


def test_the_image_has_the_same_estimator_without_a_box_and_over_every_item() -> None:
    bins = make_bins(25, fall=0.75, dilution=0.5, noise=0.0)
    whole = collapse_table(pair_bins(bins, BOX_FREE), CELLS, **FAST)
    first, last = 0.2 + 0.2, 0.2 * 0.25 + 0.2  # the image mass, in which the evidence mass is
    assert row(whole, "visual").estimate == pytest.approx(1 - last / first)
    assert row(whole, "uniform_visual").estimate == pytest.approx(0.5)
    assert row(whole, "visual_over_uniform").estimate == pytest.approx(1 - last / first / 0.5)
    assert row(whole, "visual_over_prompt").estimate == pytest.approx(row(whole, "visual").estimate)
    assert not set(whole["quantity"]) & {name for name in QUANTITIES if "evidence" in name or "control" in name}
    lacking = bins["item_id"].str.endswith(("3", "7"))
    boxed = ["evidence_mass", "control_box_mass", "uniform_evidence_share"]
    some = bins.assign(**{name: bins[name].where(~lacking) for name in boxed})
    again = collapse_table(pair_bins(some, BOX_FREE), CELLS, **FAST)
    pd.testing.assert_frame_equal(again, whole)
    assert row(collapse_table(pair_bins(some), CELLS, min_items=5, **FAST), "evidence").n_items == 20
    with pytest.raises(KeyError, match="evidence_mass"):
        collapse_table(pair_bins(some, BOX_FREE), CELLS, quantities=["evidence"], **FAST)


@settings(max_examples=30, deadline=None)
@given(length=st.integers(1, 60), bins=st.integers(2, 25))
def test_more_tokens_than_half_the_bins_make_a_first_and_a_last_bin(length: int, bins: int) -> None:
    place = np.floor(bins * (np.arange(length) + 0.5) / length)
    items = pd.DataFrame({"model": "m", "benchmark": "b", "item_id": ["a"], "n_reasoning_tokens": length})
    assert find_cells(items, bins, 1) == [("m", "b")] * ({0, bins - 1} <= {*place})
    assert find_cells(items, bins, 2) == []


def test_a_recall_is_held_against_the_read_of_the_same_thing() -> None:
    steps = make_steps(("read", "recall", "recall"), (0.4, 0.1, 0.2))
    pairs = pair_kinds(steps)
    assert np.allclose(pairs["evidence_mass_first"], 0.4) and np.allclose(pairs["evidence_mass_last"], 0.15)
    other = steps.assign(step_text=np.where(steps["step_kind"] == "read", "b2 is 3", steps["step_text"]))
    none = pair_kinds(other)
    assert len(none) == 0 and none.attrs["n_left_out"] == len(
        steps[["model", "benchmark", "item_id"]].drop_duplicates()
    )


def test_lift_along_the_reasoning_is_share_over_fraction() -> None:
    bins = make_bins(25, n_bins=2, noise=0.0)
    items = bins[["model", "benchmark", "item_id"]].drop_duplicates().assign(evidence_fraction=0.25)
    line = curves(add_fraction(bins, items), quantities=["evidence_lift"], **FAST)
    start = bins[(bins["bin"] == 0) & (bins["model"] == "glm") & (bins["benchmark"] == "symbolic")]
    visual = start["visual_mass"].sum()
    expected = start["evidence_mass"].sum() / (0.25 * visual)
    assert line.query("bin == 0 and model == 'glm' and benchmark == 'symbolic'")["estimate"].item() == pytest.approx(
        expected
    )


def test_strata_show_the_raw_row_beside_the_strata() -> None:
    bins = make_bins(60)
    items = bins[["model", "benchmark", "item_id"]].drop_duplicates()
    items = items.assign(
        noise_level=np.linspace(0, 1, len(items) // 4).tolist() * 4,
        chain_kind=["recall" if k % 6 == 0 else "step" for k in range(len(items))],
    )
    pairs = pair_bins(bins)
    by_noise = collapse_by(pairs, items, "noise_level", quantities=["evidence"], **FAST)
    cell = by_noise.query("model == 'glm' and benchmark == 'symbolic'")
    assert cell["n_items"].tolist() == [60, 20, 20, 20] and cell["stratum"].iloc[0] == "all"
    by_kind = collapse_by(pairs, items, "chain_kind", quantities=["evidence"], **FAST)
    recall = by_kind.query("stratum == 'recall'")
    assert (recall["n_items"] == 10).all() and recall["estimate"].isna().all()  # too few: counted, not estimated
    assert set(stratify(items, "chain_kind")["stratum"]) == {"recall", "step"}


def test_curve_is_the_mean_over_items_with_a_band_around_it() -> None:
    bins = make_bins(seed=6)
    line = curves(bins, quantities=["evidence", "evidence_over_uniform"], **FAST)
    expected = bins.groupby(["model", "benchmark", "bin"])["evidence_mass"].mean().to_numpy()
    evidence = line[line["quantity"] == "evidence"].sort_values(["model", "benchmark", "bin"])
    assert np.allclose(evidence["estimate"], expected)
    assert ((line["ci_low"] < line["estimate"]) & (line["estimate"] < line["ci_high"])).all()
    net = line.query("quantity == 'evidence_over_uniform' and bin == 0 and model == 'glm' and benchmark == 'visual'")
    cell = bins.query("bin == 0 and model == 'glm' and benchmark == 'visual'")
    assert net["estimate"].item() == pytest.approx(cell.evidence_mass.sum() / cell.uniform_evidence_share.sum())


def test_curve_of_steps_keeps_rare_positions_without_a_band() -> None:
    steps = make_steps(("read", "recall", "compute"), (0.4, 0.3, 0.1))
    steps = steps[(steps["step_index"] < 2) | steps["item_id"].str.endswith(("001", "002"))]
    line = curves(steps, "step_index", **FAST)
    rare = line[line["step_index"] == 2]
    assert (rare["n_items"] == 2).all() and rare["ci_low"].isna().all()
    assert np.allclose(rare["estimate"], 0.1)
    assert line.loc[line["step_index"] == 0, "ci_low"].notna().all()


def test_signed_rank_equals_hollander_and_wolfe_and_needs_a_difference() -> None:
    case, expected, tol = read_case("wilcoxon_hollander_wolfe")
    for value, name in zip(signed_rank(case["x"], case["y"]), ("W", "p", "RBC"), strict=True):
        assert value == pytest.approx(float(expected[name]), abs=tol[name])
    assert signed_rank(np.ones(30), np.ones(30)) == (0.0, 1.0, 0.0)


def test_log_ratio_by_paired_t_and_by_mixed_model_agree() -> None:
    bins = make_bins(40, fall=0.6, seed=8)
    bins["evidence_mass"] *= np.exp(0.3 * np.random.default_rng(1).normal(size=len(bins)))
    check = log_ratio_check(pair_bins(bins), "grounding_layers")
    assert len(check) == 4 and check["converged"].all() and (check["n_zero"] == 0).all()
    assert np.allclose(check["estimate"], np.log(0.4), atol=0.3)
    assert np.allclose(check["estimate"], check["mixed_estimate"], atol=0.02)
    assert ((check["ci_low"] < check["estimate"]) & (check["estimate"] < check["ci_high"])).all()


def test_item_with_zero_mass_has_no_log_ratio_and_is_counted() -> None:
    bins = make_bins(40, seed=8)
    bins["evidence_mass"] *= np.exp(0.3 * np.random.default_rng(1).normal(size=len(bins)))
    bins.loc[(bins["item_id"] == "visual-003") & (bins["bin"] == 3), "evidence_mass"] = 0.0
    check = log_ratio_check(pair_bins(bins), "grounding_layers").set_index(["model", "benchmark"])
    assert check.loc[("glm", "visual"), "n_zero"] == 1 and check.loc[("glm", "visual"), "n_items"] == 39


def test_every_quantity_has_a_label_for_figures() -> None:
    assert {*QUANTITIES, *LIFT} <= {*LABELS}
