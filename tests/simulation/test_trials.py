"""Claims about the study functions: they are the notebooks' statistics, and nothing is left out of their rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dontblink.statistics.auroc import auroc_difference, auroc_interval, delong_test
from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import collapse
from dontblink.studies.cells import ENTROPY, VISION
from dontblink.studies.interaction import interaction_table
from dontblink.studies.transfer import transfer_table
from dontblink.studies.veto import veto_table
from dontblink_simulation.populations import Answers, Benchmarks, Masses, Scores
from dontblink_simulation.register import STATISTICS
from dontblink_simulation.selection import Blind, study_selective, study_veto
from dontblink_simulation.trials import (
    Row,
    Statistic,
    run_study,
    study_auroc,
    study_collapse,
    study_difference,
    study_interaction,
    study_transfer,
)


def draw_again(population: Masses | Scores | Answers | Benchmarks, seed: int) -> tuple[pd.DataFrame, int]:
    """The rows and the bootstrap seed that a study function draws from the same generator."""
    rng = np.random.default_rng(seed)
    rows = population.draw(rng)
    return rows, int(rng.integers(2**32))


def ends(rows: list[Row], quantity: str, method: str) -> tuple[float, float, float]:
    (row,) = [row for row in rows if (row.quantity, row.method) == (quantity, method)]
    return row.estimate, row.ci_low, row.ci_high


def test_collapse_rows_are_those_of_the_collapse_table() -> None:
    population = Masses(n_items=30, n_models=1)
    found = study_collapse(population, np.random.default_rng(3), 99)
    rows, seed = draw_again(population, 3)
    names = {
        f"{a}_{end}": f"{b}_{end}"
        for a, b in (("evidence", "evidence_mass"), ("uniform", "uniform_evidence_share"))
        for end in ("first", "last")
    }
    pairs = rows.rename(columns={**names, "cell": "model"}).assign(benchmark="b", head_set="h")
    pairs["item_id"] = pairs["item"].map("{:03d}".format)
    for mass in ("visual_mass", "control_box_mass", "prompt_mass"):
        pairs[[f"{mass}_first", f"{mass}_last"]] = 1.0
    cells = [(str(model), "b") for model in pairs["model"].unique()]
    for method in ("bca", "percentile", "t"):
        quantities, resampling = ["evidence", "evidence_over_uniform"], Resampling(99, seed, method=method)
        table = collapse.collapse_table(pairs, cells, quantities=quantities, resampling=resampling)
        for _, row in table[table["model"] == "model 0"].iterrows():
            expected = (row["estimate"], row["ci_low"], row["ci_high"])
            assert ends(found, row["quantity"], method) == pytest.approx(expected, rel=1e-9)
            (test,) = [x for x in found if (x.quantity, x.method) == (row["quantity"], "signed_rank")]
            assert test.p == pytest.approx(row["p"], rel=1e-9)


def test_auroc_rows_are_those_of_the_public_functions() -> None:
    population = Scores(n_items=40, n_models=2)
    rows, seed = draw_again(population, 4)
    cell = rows["cell"].to_numpy()
    labels, a, b, item = (rows[name].to_numpy() for name in ("correct", "a", "b", "item"))
    single = study_auroc(population, np.random.default_rng(4), 99)
    both = study_difference(population, np.random.default_rng(4), 99)
    for method in ("bca", "percentile"):
        one = auroc_interval(labels, a, item, Resampling(99, seed, method=method), cell=cell)
        assert ends(single, "auroc", method) == (one.estimate, one.ci_low, one.ci_high)
        two = auroc_difference(labels, a, b, item, Resampling(99, seed, method=method), cell=cell)
        assert ends(both, "difference", method) == (two.estimate, two.ci_low, two.ci_high)
    assert [row.p for row in both if row.method == "delong_pooled"] == [delong_test(labels, a, b).p]


def test_interaction_rows_are_those_of_the_interaction_table() -> None:
    population = Answers(n_items=60, n_models=2, difficulty_sd=1.0)
    found = study_interaction(population, np.random.default_rng(5), 199)
    rows, seed = draw_again(population, 5)
    items = rows.rename(columns={"cell": "model"}).assign(benchmark="b", item_id=rows["cluster"].map("{:03d}".format))
    for method in ("bca", "percentile", "t"):
        table = interaction_table(
            items, scopes=["benchmark"], resampling=Resampling(199, seed, method=method)
        ).set_index("term")
        row = table.loc["entropy:vision"]
        assert ends(found, "entropy:vision", method) == pytest.approx((row["estimate"], row["ci_low"], row["ci_high"]))
        if method == "t":
            assert [x.p for x in found if x.method == "t"] == [pytest.approx(row["p"])]
        if method == "bca":
            row = table.loc["effect_difference"]
            expected = (row["estimate"], row["ci_low"], row["ci_high"])
            assert ends(found, "effect_difference", "bca") == pytest.approx(expected)


def test_transfer_rows_are_those_of_the_table_and_know_the_fitted_rules_gain() -> None:
    population = Benchmarks(n_items=60, n_models=2)
    found = study_transfer(population, np.random.default_rng(6), 49)
    items, seed = draw_again(population, 6)
    train, test = (items[items["benchmark"] == name] for name in ("train", "test"))
    table = transfer_table(
        train.assign(split="calibration"), test, ["linear"], resampling=Resampling(49, seed), refit=Resampling(24, seed)
    )
    table = table.set_index(["train", "model"])
    row = table.loc[("train", "all")]
    assert ends(found, "gain", "bca_fixed_fit") == (row["gain"], row["gain_low"], row["gain_high"])
    assert ends(found, "gain", "percentile_refit")[1:] == (row["refit_gain_low"], row["refit_gain_high"])
    assert found[0].truth == found[1].truth
    assert abs(found[0].truth - row["gain"]) < 0.2


def test_a_refused_study_keeps_all_its_rows_with_the_reason() -> None:
    hopeless = {"iid": Answers(n_items=30, constant=9.0)}
    statistic = replace(STATISTICS["interaction"], settings=hopeless)
    rows = run_study(statistic, "iid", [1], 9)
    assert sorted((row.quantity, row.method) for row in rows) == sorted(statistic.expected("iid"))
    assert all("one class" in row.reason and np.isnan(row.ci_low) and np.isnan(row.p) for row in rows)


def test_a_method_that_refuses_leaves_the_others_alone() -> None:
    # one wrong answer: without it there is no AUROC, so BCa has no jackknife, and percentile has
    population = Scores(n_items=30, accuracy=0.95)
    for seed in range(50):
        if (~draw_again(population, seed)[0]["correct"]).sum() == 1:
            break
    closed, bca, percentile = study_auroc(population, np.random.default_rng(seed), 49)
    assert "1 with wrong rows" in closed.reason
    assert "undefined without one of the clusters" in bca.reason and np.isnan(bca.ci_low)
    assert percentile.reason == "" and percentile.n_degenerate > 0


def test_the_truth_stands_in_every_row() -> None:
    rows = run_study(STATISTICS["auroc_difference"], "tied", [2], 19)
    assert {row.truth for row in rows} == {STATISTICS["auroc_difference"].settings["tied"].truth()["difference"]}


def test_a_study_with_other_rows_than_the_register_says_is_an_error() -> None:
    statistic = Statistic(lambda *_: [Row("a", "bca")], {"iid": Scores()}, {"a": ("bca", "t")}, {"a": "bca"}, ())
    with pytest.raises(ValueError, match=r"rows \['a bca'\]; expected \['a bca', 'a t'\]"):
        run_study(statistic, "iid", [1], 9)


def test_low_vision_costs_answers_in_the_targeted_benchmark_and_nowhere_else() -> None:
    items = Blind(n_items=20_000).draw(np.random.default_rng(0))
    low = items[VISION] < -1.3
    assert low.mean() == pytest.approx(0.0968, abs=0.005)
    for benchmark, danger in (("targeted", True), ("other", False)):
        own = items["benchmark"] == benchmark
        lost = items.loc[own & ~low, "correct"].mean() - items.loc[own & low, "correct"].mean()
        assert (lost > 0.25) if danger else (abs(lost) < 0.04)
    harmless = Blind(n_items=20_000, danger=0.0).draw(np.random.default_rng(0))
    assert abs(harmless["correct"][low].mean() - harmless["correct"][~low].mean()) < 0.03


def test_models_share_their_items() -> None:
    items = Blind(n_items=5_000, n_models=2).draw(np.random.default_rng(1)).query("benchmark == 'other'")
    e = items.pivot_table(index="item_id", columns="model", values=ENTROPY)
    assert e.corr().iloc[0, 1] == pytest.approx(0.3, abs=0.04)


def test_the_rows_of_a_veto_study_are_those_of_the_table() -> None:
    population = Blind(n_items=60, danger=0.0)
    rows = {(row.quantity, row.method): row for row in study_veto(population, np.random.default_rng(2), 0)}
    rng = np.random.default_rng(2)
    items, seed = population.draw(rng), int(rng.integers(2**32))
    table = veto_table(items, ["targeted"], rules=("linear", "veto"), n_splits=10, n_blocks=10, n_deals=19, seed=seed)
    pooled = table.query("scope == 'pooled' and rule == 'veto'").iloc[0]
    gain = rows["gain_veto", "block_jackknife"]
    assert (gain.estimate, gain.ci_low, gain.ci_high) == (pooled["gain"], pooled["ci_low"], pooled["ci_high"])
    assert rows["permutation", "permutation"].p == pooled["p"]
    assert rows["best_cell", "permutation"].p == table.query("scope == 'cell' and rule == 'veto'")["p_max"].min()
    assert population.truth() == {"permutation": 0.0, "best_cell": 0.0}
    with_danger = study_veto(Blind(n_items=60), np.random.default_rng(2), 0)
    assert all(np.isnan(row.p) for row in with_danger) and np.isnan(Blind().truth()["permutation"])


def test_the_rows_of_a_selective_study_are_aurc_and_risk_and_one_class_is_a_reason() -> None:
    rows = study_selective(Scores(n_items=50), np.random.default_rng(3), 99)
    assert [row.quantity for row in rows] == ["aurc", "risk"]
    assert all(row.ci_low <= row.estimate <= row.ci_high and row.reason == "" for row in rows)
    hopeless = study_selective(Scores(n_items=20, accuracy=0.999999), np.random.default_rng(3), 9)
    assert all("one class" in row.reason and np.isnan(row.estimate) for row in hopeless)
