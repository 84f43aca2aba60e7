"""Claims about the transfer of rules between benchmarks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from sklearn.metrics import roc_auc_score
from synthetic_items import make_items

from dontblink.entropy import RULES, transfer_table
from dontblink.transfer import TransferError

FAST = {"n_boot": 200, "n_refits": 50, "method": "percentile"}


def test_every_ordered_pair_model_and_rule_has_a_row() -> None:
    table = transfer_table(make_items(benchmarks=("symbolic", "visual", "third")), **FAST)
    assert len(table) == 6 * 3 * len(RULES)
    assert table[["train", "test"]].drop_duplicates().shape == (6, 2)
    assert (table["train"] != table["test"]).all()
    assert not table.drop(columns=["train", "test", "model", "rule"]).isna().any().any()
    assert (table["ci_low"] <= table["auroc"]).all() and (table["auroc"] <= table["ci_high"]).all()


def test_text_only_rule_has_the_auroc_of_its_entropy() -> None:
    items = make_items(100)
    table = transfer_table(items, ["full"], **FAST)
    cell = items.query("model == 'glm' and benchmark == 'visual'")
    found = table.query("test == 'visual' and model == 'glm'").iloc[0]
    assert found["auroc"] == pytest.approx(roc_auc_score(cell["correct"], -cell["full_entropy_nats"]), abs=1e-13)
    assert (found["gain"], found["gain_low"], found["gain_high"]) == (0, 0, 0)
    everyone = table.query("test == 'visual' and model == 'all'").iloc[0]
    own = table.query("test == 'visual' and model != 'all'")
    assert everyone["auroc"] == pytest.approx(own["auroc"].mean(), abs=1e-13)
    assert (everyone["n_test_items"], everyone["n_train_items"]) == (100, 100)


def test_fitted_scores_are_those_of_a_logit_on_the_other_benchmark() -> None:
    items = make_items(100, vision=0.8)
    found = transfer_table(items, ["linear"], **FAST).query("train == 'symbolic' and model == 'qwen'").iloc[0]
    parts = [items.query(f"model == 'qwen' and benchmark == '{b}'") for b in ("symbolic", "visual")]
    columns = ["full_entropy_nats", "vision_evidence_mass"]
    mean, spread = parts[0][columns].mean(), parts[0][columns].std(ddof=0)
    z = [sm.add_constant(((part[columns] - mean) / spread).to_numpy()) for part in parts]
    theirs = sm.Logit(parts[0]["correct"].to_numpy(float), z[0]).fit(disp=0, tol=1e-13).predict(z[1])
    assert found["auroc"] == pytest.approx(roc_auc_score(parts[1]["correct"], theirs), abs=1e-12)
    assert found["brier"] == pytest.approx(((theirs - parts[1]["correct"]) ** 2).mean(), abs=1e-9)


def test_vision_that_means_the_opposite_elsewhere_hurts_the_global_rule_and_not_the_per_task_rule() -> None:
    items = make_items(500, vision={"symbolic": 1.5, "visual": -1.5})
    table = transfer_table(items, ["linear", "per_task"], n_boot=300, n_refits=100).query("model == 'all'")
    linear = table.query("rule == 'linear'")
    assert (linear["gain_high"] < -0.1).all() and (linear["refit_gain_high"] < -0.1).all()
    per_task = table.query("rule == 'per_task'")
    assert (per_task["gain"] == 0).all() and (per_task["n_text_only"] == 1000).all()


def test_vision_that_means_the_same_elsewhere_helps() -> None:
    items = make_items(500, vision=1.5).assign(task_type="one type")
    table = transfer_table(items, ["linear", "interaction", "per_task"], n_boot=300, n_refits=100)
    gains = table.query("model == 'all'").set_index(["train", "rule"])
    assert (gains["gain_low"] > 0.03).all()
    assert (gains["n_text_only"] == 0).all()
    both = gains.xs("interaction", level="rule"), gains.xs("per_task", level="rule")
    assert both[0]["auroc"].to_numpy() == pytest.approx(both[1]["auroc"].to_numpy(), abs=1e-9)  # one type is one rule


def test_resampling_the_fit_widens_the_interval_of_a_rule_that_was_learnt_from_few_items() -> None:
    # few items to learn from, many to test on: most of the uncertainty is in the fit
    small, large = make_items(40, benchmarks=("few",)), make_items(600, benchmarks=("many",), seed=1)
    table = transfer_table(pd.concat([small, large]), ["interaction"], n_boot=500, n_refits=500)
    row = table.query("train == 'few' and model == 'all'").iloc[0]
    assert row["refit_high"] - row["refit_low"] > 1.2 * (row["ci_high"] - row["ci_low"])


def test_scale_of_the_test_cell_matters_only_to_rules_with_two_features() -> None:
    items = make_items(100, vision=0.8)
    other = items.copy()
    own = other["benchmark"] == "visual"
    other.loc[own, "vision_evidence_mass"] = 5 * other.loc[own, "vision_evidence_mass"] + 0.3
    options = {**FAST, "n_refits": 0}
    for scaling, same in (("test", True), ("train", False)):
        one, two = (transfer_table(x, ["full", "linear"], scaling=scaling, **options) for x in (items, other))
        equal = np.isclose(one["auroc"], two["auroc"], atol=1e-12)
        assert equal[(one["rule"] == "full").to_numpy()].all()
        chosen = ((one["rule"] == "linear") & (one["test"] == "visual")).to_numpy()
        assert equal[chosen].all() == same
    assert "refit_low" not in one  # no refits were asked for


def test_row_order_changes_nothing() -> None:
    items = make_items(50, vision=0.5)
    first, second = (transfer_table(x, **FAST) for x in (items, items.sample(frac=1, random_state=1)))
    numbers = first.select_dtypes("number").columns
    assert first[numbers].to_numpy(float) == pytest.approx(second[numbers].to_numpy(float), abs=1e-9)


def test_benchmarks_that_support_no_rule_are_named() -> None:
    items = make_items(30)
    with pytest.raises(TransferError, match="a transfer needs two"):
        transfer_table(items.query("benchmark == 'visual'"), **FAST)
    alone = items[(items["model"] == "glm") ^ (items["benchmark"] == "visual")]
    with pytest.raises(TransferError, match="symbolic -> visual: no model"):
        transfer_table(alone, **FAST)
    with pytest.raises(TransferError, match="expected rules of"):
        transfer_table(items, ["best"], **FAST)
