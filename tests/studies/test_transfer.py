"""Claims about the transfer of rules between benchmarks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from synthetic_items import make_fit, make_items

from dontblink.statistics.bootstrap import EstimateError, Resampling
from dontblink.studies.transfer import RULES, predict_rows, transfer_table

FAST: dict[str, Any] = {"resampling": Resampling(200, method="percentile"), "refit": Resampling(50)}


def test_every_pair_model_and_rule_has_a_row() -> None:
    names = ("symbolic", "visual", "third")
    table = transfer_table(make_fit(benchmarks=names), make_items(benchmarks=names), **FAST)
    assert len(table) == 9 * 3 * len(RULES)
    assert table[["train", "test"]].drop_duplicates().shape == (9, 2)
    assert not table.drop(columns=["train", "test", "model", "rule"]).isna().any().any()
    assert (table["ci_low"] <= table["auroc"]).all() and (table["auroc"] <= table["ci_high"]).all()


def test_text_only_rule_has_the_auroc_of_its_entropy_wherever_it_was_fitted() -> None:
    items = make_items(100)
    table = transfer_table(make_fit(80), items, ["full"], **FAST)
    cell = items.query("model == 'glm' and benchmark == 'visual'")
    found = table.query("test == 'visual' and model == 'glm'")
    theirs = roc_auc_score(cell["correct"], -cell["full_entropy_nats"])
    assert found["auroc"].to_numpy() == pytest.approx([theirs, theirs], abs=1e-13)
    assert (found[["gain", "gain_low", "gain_high"]] == 0).all(axis=None)
    everyone = table.query("train == 'symbolic' and test == 'visual' and model == 'all'").iloc[0]
    own = table.query("train == 'symbolic' and test == 'visual' and model != 'all'")
    assert everyone["auroc"] == pytest.approx(own["auroc"].mean(), abs=1e-13)
    assert (everyone["n_test_items"], everyone["n_train_items"]) == (100, 80)


def test_fitted_scores_are_those_of_a_logit_on_the_other_benchmark() -> None:
    fit, items = make_fit(100, vision=0.8), make_items(100, vision=0.8)
    table = transfer_table(fit, items, ["linear"], **FAST)
    found = table.query("train == 'symbolic' and test == 'visual' and model == 'qwen'").iloc[0]
    parts = [
        fit.query("model == 'qwen' and benchmark == 'symbolic'"),
        items.query("model == 'qwen' and benchmark == 'visual'"),
    ]
    columns = ["full_entropy_nats", "vision_evidence_mass"]
    mean, spread = parts[0][columns].mean(), parts[0][columns].std(ddof=0)
    z = [sm.add_constant(((part[columns] - mean) / spread).to_numpy()) for part in parts]
    theirs = sm.Logit(parts[0]["correct"].to_numpy(float), z[0]).fit(disp=0, tol=1e-13).predict(z[1])
    assert found["auroc"] == pytest.approx(roc_auc_score(parts[1]["correct"], theirs), abs=1e-12)
    assert found["brier"] == pytest.approx(((theirs - parts[1]["correct"]) ** 2).mean(), abs=1e-9)
    constant = parts[0]["correct"].mean()
    assert found["brier_constant"] == pytest.approx(((constant - parts[1]["correct"]) ** 2).mean(), abs=1e-12)


def test_vision_that_means_the_opposite_elsewhere_hurts_the_global_rule_and_not_the_per_task_rule() -> None:
    vision = {"symbolic": 1.5, "visual": -1.5}
    table = transfer_table(
        make_fit(500, vision=vision),
        make_items(500, vision=vision),
        ["linear", "per_task"],
        resampling=Resampling(300),
        refit=Resampling(100),
    ).query("model == 'all'")
    away, home = table.query("train != test"), table.query("train == test")
    linear = away.query("rule == 'linear'")
    assert (linear["gain_high"] < -0.1).all() and (linear["refit_gain_high"] < -0.1).all()
    per_task = away.query("rule == 'per_task'")
    assert (per_task["gain"] == 0).all() and (per_task["n_text_only"] == 1000).all()
    assert (home["gain_low"] > 0.03).all() and (home["n_text_only"] == 0).all()  # where it was learnt, it helps


def test_vision_that_means_the_same_elsewhere_helps() -> None:
    fit, items = (x.assign(task_type="one type") for x in (make_fit(500, vision=1.5), make_items(500, vision=1.5)))
    table = transfer_table(
        fit, items, ["linear", "interaction", "per_task"], resampling=Resampling(300), refit=Resampling(100)
    )
    gains = table.query("model == 'all'").set_index(["train", "test", "rule"])
    assert (gains["gain_low"] > 0.03).all()
    assert (gains["n_text_only"] == 0).all()
    both = gains.xs("interaction", level="rule"), gains.xs("per_task", level="rule")
    assert both[0]["auroc"].to_numpy() == pytest.approx(both[1]["auroc"].to_numpy(), abs=1e-9)  # one type is one rule


def test_an_excess_is_what_dealt_vision_does_not_lose() -> None:
    options = {"resampling": Resampling(50), "refit": Resampling(100), "n_deals": 4}
    vision = {"symbolic": 1.5, "visual": -1.5}
    for strength, sign in ((1.5, 1), (0.0, 0), (vision, -1)):
        fit, items = make_fit(300, vision=strength), make_items(300, vision=strength)
        table = transfer_table(fit, items, ["full", "linear"], **options).query("model == 'all'")
        away, mean = table.query("train != test and rule == 'linear'"), table.query("train == 'all'").iloc[0]
        assert mean["excess"] == pytest.approx(away["excess"].mean(), abs=1e-12)
        assert mean["excess_high"] - mean["excess_low"] < (away["excess_high"] - away["excess_low"]).max()
        none = table.query("train != 'all' and (rule == 'full' or train == test)")
        assert (away["n_deals"] == 4).all() and none["excess"].isna().all()
        low, high = away["excess_low"], away["excess_high"]
        assert {1: low > 0.02, 0: (low < 0) & (high > 0), -1: high < -0.02}[sign].all(), strength
    with pytest.raises(EstimateError, match="4 deals without refits"):
        transfer_table(fit, items, ["linear"], n_deals=4, resampling=Resampling(50))


def test_a_response_without_an_answer_entropy_is_ranked_last_and_changes_no_other_rule() -> None:
    fit, items = make_fit(60), make_items(60)
    lacking, short = items.copy(), fit.copy()
    gone = lacking.index[~lacking["correct"]][:9]
    lacking.loc[gone, "answer_entropy_nats"] = np.nan
    short.loc[:5, "answer_entropy_nats"] = np.nan
    keys = ["train", "test", "model", "rule"]
    whole, found = (transfer_table(*x, ["full", "answer", "linear"], **FAST).set_index(keys)["auroc"]
                    for x in ((fit, items), (short, lacking)))  # fmt: skip
    same = found.index.get_level_values("rule") != "answer"
    assert (found[same] == whole[same]).all()
    own = lacking[lacking["benchmark"] == "visual"]
    filled = -own["answer_entropy_nats"].fillna(own.groupby("model")["answer_entropy_nats"].transform("max"))
    for model, rows in own.groupby("model"):
        area = roc_auc_score(rows["correct"], filled[rows.index])
        assert found["visual", "visual", model, "answer"] in (pytest.approx(area), pytest.approx(1 - area))


def test_resampling_the_fit_widens_the_interval_of_a_rule_that_was_learnt_from_few_items() -> None:
    # few items to learn from, many to test on: most of the uncertainty is in the fit
    fit, items = make_fit(60, benchmarks=("few",)), make_items(600, benchmarks=("many",))
    table = transfer_table(fit, items, ["interaction"], resampling=Resampling(500), refit=Resampling(500))
    row = table.query("model == 'all'").iloc[0]
    assert row["refit_high"] - row["refit_low"] > 1.2 * (row["ci_high"] - row["ci_low"])


def test_scale_of_the_test_cell_matters_only_to_rules_with_two_features() -> None:
    fit, items = make_fit(100, vision=0.8), make_items(100, vision=0.8)
    other = items.copy()
    own = other["benchmark"] == "visual"
    other.loc[own, "vision_evidence_mass"] = 5 * other.loc[own, "vision_evidence_mass"] + 0.3
    options = {"resampling": FAST["resampling"]}
    for scaling, same in (("test", True), ("train", False)):
        one, two = (transfer_table(fit, x, ["full", "linear"], scaling=scaling, **options) for x in (items, other))
        equal = np.isclose(one["auroc"], two["auroc"], atol=1e-12)
        assert equal[(one["rule"] == "full").to_numpy()].all()
        chosen = ((one["rule"] == "linear") & (one["test"] == "visual")).to_numpy()
        assert equal[chosen].all() == same
    assert "refit_low" not in one  # no refits were asked for


def test_a_covariate_that_is_all_of_vision_leaves_the_adjusted_rule_nothing_to_gain() -> None:
    fit, items = (
        x.assign(noise_level=3 * x["vision_evidence_mass"] + 0.001 * (np.arange(len(x)) % 7))
        for x in (make_fit(300, vision=1.5), make_items(300, vision=1.5))
    )
    raw, adjusted = (
        transfer_table(fit, items, ["linear"], covariates=names, **FAST).query("model == 'all'")
        for names in ((), ("noise_level",))
    )
    assert (raw["gain"] > 0.03).all() and (adjusted["gain"].abs() < 0.02).all()


def test_row_order_changes_nothing() -> None:
    fit, items = make_fit(50, vision=0.5), make_items(50, vision=0.5)
    first, second = (
        transfer_table(x, y, **FAST)
        for x, y in ((fit, items), (fit.sample(frac=1, random_state=1), items.sample(frac=1, random_state=2)))
    )
    numbers = first.select_dtypes("number").columns
    assert first[numbers].to_numpy(float) == pytest.approx(second[numbers].to_numpy(float), abs=1e-9)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1_000), slope=st.floats(0.1, 10), offset=st.floats(-5, 5))
def test_units_of_the_features_change_nothing(seed: int, slope: float, offset: float) -> None:
    fit, items = make_fit(50, seed, vision=0.5), make_items(50, vision=0.5, seed=seed + 2_000)
    columns = ["full_entropy_nats", "answer_entropy_nats", "vision_evidence_mass"]
    others = [x.assign(**{name: slope * x[name] + offset for name in columns}) for x in (fit, items)]
    options = {"resampling": Resampling(20, method="percentile"), "refit": Resampling(2), "min_class": 5}
    first, second = (transfer_table(*pair, **options) for pair in ((fit, items), others))
    for column in ("auroc", "gain"):
        assert first[column].to_numpy() == pytest.approx(second[column].to_numpy(), abs=2e-3)  # a tie may turn
    assert first["brier"].to_numpy() == pytest.approx(second["brier"].to_numpy(), abs=1e-6)


@settings(max_examples=5, deadline=None)
@given(copies=st.integers(2, 3))
def test_copied_items_change_no_estimate_and_narrow_the_interval(copies: int) -> None:
    fit, items = make_fit(50, vision=0.5), make_items(50, vision=0.5)
    copied = pd.concat([items.assign(item_id=items["item_id"] + f" copy {k}") for k in range(copies)])
    first, second = (transfer_table(fit, x, ["full", "linear"], **FAST) for x in (items, copied))
    assert first["auroc"].to_numpy() == pytest.approx(second["auroc"].to_numpy(), abs=1e-12)
    widths = [(table["ci_high"] - table["ci_low"]).mean() for table in (first, second)]
    assert widths[1] == pytest.approx(widths[0] / copies**0.5, rel=0.15)


def test_probabilities_are_fitted_on_the_calibration_items_of_the_same_benchmark() -> None:
    fit, items = make_fit(200), make_items(100)
    items.loc[3, "answer_entropy_nats"] = np.nan  # the rule `full` does not need it
    rows = predict_rows(fit, items)
    assert len(rows) == len(items) and rows["probability"].between(0, 1).all()
    own = rows[(rows["model"] == "glm") & (rows["benchmark"] == "visual")].sort_values("item_id")
    learnt = fit.query("model == 'glm' and benchmark == 'visual'")
    z = (learnt["full_entropy_nats"] - learnt["full_entropy_nats"].mean()) / learnt["full_entropy_nats"].std(ddof=0)
    constant, slope = sm.Logit(learnt["correct"].to_numpy(float), sm.add_constant(z.to_numpy())).fit(disp=0).params
    seen = items.query("model == 'glm' and benchmark == 'visual'").sort_values("item_id")["full_entropy_nats"]
    seen = (seen - learnt["full_entropy_nats"].mean()) / learnt["full_entropy_nats"].std(ddof=0)
    assert own["probability"].to_numpy() == pytest.approx(expit(constant + slope * seen).to_numpy(), abs=1e-6)
    assert (own["constant"] == learnt["correct"].mean()).all()


def test_benchmarks_and_items_that_support_no_rule_are_named() -> None:
    fit, items = make_fit(60), make_items(60)
    alone = items[(items["model"] == "glm") ^ (items["benchmark"] == "visual")]
    with pytest.raises(EstimateError, match="symbolic -> visual: no model"):
        transfer_table(alone.assign(split="calibration", item_id="fit " + alone["item_id"]), alone, **FAST)
    with pytest.raises(EstimateError, match="expected rules of"):
        transfer_table(fit, items, ["best"], **FAST)
    with pytest.raises(EstimateError, match="rules .*scaling 'both'"):
        transfer_table(fit, items, scaling="both", **FAST)
    with pytest.raises(EstimateError, match="item item 000 is in the fit and in the test"):
        transfer_table(items.assign(split="calibration"), items, **FAST)
    with pytest.raises(EstimateError, match="rows of the test split, calibration expected"):
        transfer_table(items, items, **FAST)
    with pytest.raises(EstimateError, match="no benchmark to fit on: no cell has 100 items"):
        transfer_table(fit, items, min_items=100, **FAST)
    with pytest.raises(EstimateError, match="no benchmark to judge on"):
        transfer_table(fit, items.assign(correct=True), **FAST)
    with pytest.raises(EstimateError, match="vision_evidence_mass is 0.1 in all 60 rows"):
        transfer_table(fit.assign(vision_evidence_mass=0.1), items, **FAST)
    with pytest.raises(EstimateError, match="no benchmark in both splits"):
        predict_rows(fit.query("benchmark == 'visual'"), items.query("benchmark == 'symbolic'"))
