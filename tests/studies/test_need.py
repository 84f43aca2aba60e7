"""Need is predicted without what is left out, ranked within it, and a flag's lead is counted from its end."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dontblink import paths
from dontblink.statistics.bootstrap import EstimateError, Resampling
from dontblink.studies import need
from dontblink.studies.risk import Scale, Signals

FIXTURES = paths.ROOT.parent / "shared" / "fixtures"
DRAWN = Resampling(200, 1, 0.95, "percentile")
JUDGED = {"bins": 5, "sure_share": 0.8, "resampling": DRAWN}


def make_rows(n: int = 400, seed: int = 0) -> pd.DataFrame:
    """Return responses whose need follows `x` in every group; a word names the benchmark, which need follows, too."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame({
        "model": np.repeat(["m", "n"], n), "item_id": np.tile(np.arange(n).astype(str), 2),
        "benchmark": np.tile(np.where(np.arange(n) % 2, "a", "b"), 2),
        "split": np.tile(np.where(np.arange(n) % 4 < 2, "test", "calibration"), 2), "x": rng.normal(size=2 * n),
    })  # fmt: skip
    lean = 2.5 * rows["x"] + np.where(rows["benchmark"] == "a", 1.5, -1.5)
    rows["needed"] = (rng.random(2 * n) < 1 / (1 + np.exp(-lean))).astype(float)
    rows["question"] = "ask " + rows["benchmark"]
    return rows


def test_words_rank_need_only_where_their_benchmark_was_in_the_fit() -> None:
    rows = make_rows()
    predictors = {"x": ["x"], "words": [need.WORDS]}
    found = {left: need.predict_need(rows, predictors, left) for left in need.LEFT_OUT}
    table = need.prediction_table(rows, found, **JUDGED).set_index(["left_out", "predictor", "group"])
    assert table.loc[("benchmark", "x", "all"), "auroc"] > 0.85
    assert table.loc[("model", "words", "all"), "auroc_across"] > 0.65
    assert table.loc[("model", "words", "all"), "auroc"] == 0.5  # all questions of a cell are alike
    own = table.loc[("benchmark", "words", "all")]
    assert own["auroc"] == 0.5  # one word a group ranks nothing within it
    assert table.loc[("benchmark", "majority", "all"), "auroc"] == 0.5
    assert table.loc[("nothing", "x", "all"), "ci_low"] < table.loc[("nothing", "x", "all"), "auroc"]


def test_no_fit_sees_a_test_item_or_the_group_that_is_left_out() -> None:
    rows = make_rows(80)
    before = need.predict_need(rows, {"x": ["x"]}, "benchmark")
    turned = rows.copy()
    inside = (rows["split"] == "test") | (rows["benchmark"] == "a")
    turned.loc[inside, "needed"] = 1 - turned.loc[inside, "needed"]
    after = need.predict_need(turned, {"x": ["x"]}, "benchmark")
    own = before.index[rows.loc[before.index, "benchmark"] == "a"]
    pd.testing.assert_frame_equal(before.loc[own], after.loc[own])
    others = before.index.difference(own)
    assert not np.allclose(before.loc[others, "x"], after.loc[others, "x"])


def test_a_response_that_is_too_short_for_a_stage_keeps_what_the_last_one_said() -> None:
    rows = make_rows(60).assign(late=lambda t: t["x"] + 1)
    rows.loc[rows.index[::7], "late"] = np.nan
    found = need.predict_need(rows, {"x": ["x"], "late": ["late"]})
    gaps = rows.loc[found.index, "late"].isna()
    assert gaps.any() and (found.loc[gaps, "late"] == found.loc[gaps, "x"]).all()
    assert found.notna().all().all()


def test_an_unknown_need_is_predicted_and_neither_fitted_nor_judged() -> None:
    rows = make_rows(100)
    rows.loc[rows.index[::5], "needed"] = np.nan
    found = need.predict_need(rows, {"x": ["x"]})
    table = need.prediction_table(rows, {"nothing": found}, **JUDGED)
    n_known = rows.loc[rows["split"] == "test", "needed"].notna().sum()
    assert table.query("predictor == 'x' and group == 'all'")["n_rows"].item() == n_known
    assert len(found) == (rows["split"] == "test").sum()


def test_a_fit_of_one_class_says_the_majority_and_one_of_none_is_an_error() -> None:
    assert need.predict_need(make_rows(20).assign(needed=1.0), {"x": ["x"]}).eq(1.0).all().all()
    with pytest.raises(EstimateError, match="no calibration response"):
        need.predict_need(make_rows(20).assign(needed=np.nan), {"x": ["x"]})
    with pytest.raises(EstimateError, match="left out"):
        need.predict_need(make_rows(20), {"x": ["x"]}, "folds")


def test_calibration_and_abstention_are_those_of_the_probabilities() -> None:
    rows = make_rows(40)
    test = rows[rows["split"] == "test"].index
    needed = rows.loc[test, "needed"]
    sure = pd.DataFrame({"right": needed * 0.9 + 0.05, "wrong": 0.95 - needed * 0.9})
    table = need.prediction_table(rows, {"nothing": sure}, **JUDGED).query("group == 'all'").set_index("predictor")
    assert table.loc["right", ["decided_share", "decided_right"]].tolist() == [1.0, 1.0]
    assert table.loc["wrong", ["decided_share", "decided_right"]].tolist() == [1.0, 0.0]
    assert table.loc["right", "brier"] == pytest.approx(0.05**2) and table.loc["right", "auroc"] == 1.0


def test_a_flag_is_counted_from_the_token_on_from_which_it_stands() -> None:
    answers = pd.DataFrame({"model": "m", "benchmark": "b", "item_id": list("stu"), "correct": [True, False, True]})
    blind = {0: [False, True, False, True, True], 1: [True, True, True], 2: [True, False]}
    flags = need.flag_table({row: pd.DataFrame({"is_blind": own}) for row, own in blind.items()}, answers)
    assert flags["lead_tokens"].tolist() == [2, 3, 0] and flags["n_changes"].tolist() == [3, 0, 1]
    assert flags["is_flagged"].tolist() == [True, True, False]
    row = need.lead_table(flags).iloc[0]
    assert (row["n_flagged"], row["median_lead_tokens"], row["flagged_accuracy"]) == (2, 2.5, 0.5)
    assert "2 of 3 responses" in need.describe_lead(flags) and "50.0%" in need.describe_lead(flags)


def test_risk_is_ranked_within_cells_and_a_flag_is_held_against_other_confident_answers() -> None:
    rng = np.random.default_rng(3)
    n = 400
    rows = pd.DataFrame({
        "model": "m", "benchmark": np.repeat(["a", "b"], n // 2), "item_id": np.arange(n).astype(str), "share": 1.0,
        "wrong": rng.random(n) < np.repeat([0.1, 0.9], n // 2),
    })  # fmt: skip
    rows["risk"] = np.where(rows["benchmark"] == "a", 0.1, 0.9)  # knows the cell and nothing in it
    rows["told"] = rows["wrong"] + rng.normal(0, 0.3, n)
    rows.attrs["scores"] = ["told"]
    table = need.risk_table(rows, DRAWN).set_index("score")
    assert table.loc["risk", "auroc"] == 0.5 and table.loc["told", "auroc"] > 0.9
    assert table.loc["risk", "mean_score"] == pytest.approx(0.5)
    flags = rows.assign(correct=~rows["wrong"], is_flagged=rows["benchmark"] == "b")
    found = need.flag_risk(flags, pd.Series(True, rows.index), DRAWN)
    assert found["estimate"] == pytest.approx(found["flagged_wrong"] - found["other_wrong"]) and found["ci_low"] > 0.7
    assert need.flag_risk(flags.assign(is_flagged=False), pd.Series(True, rows.index), DRAWN)["n_flagged"] == 0


def test_shares_of_a_response_are_read_at_their_tokens_on_the_models_scale() -> None:
    follow = pd.DataFrame({"mean_entropy_nats": [0.0, 1.0, 2.0, 3.0, 4.0], "look_mass": [0.1, 0.2, 0.3, 0.4, 0.5]})
    rows = pd.DataFrame({"model": ["m"], "correct": [False]}, index=[7])
    scales = {"m": Signals(Scale(1.0, 2.0), Scale(0.1, 0.1))}
    found = need.read_shares({7: follow}, rows, scales, [0.25, 0.5, 1.0])
    assert found["n_tokens"].tolist() == [2, 3, 5] and found["entropy_z"].tolist() == [0.0, 0.5, 1.5]
    np.testing.assert_allclose(found["look_z"], [1.0, 2.0, 4.0])
    assert found["wrong"].all()


def test_dealt_need_keeps_the_number_of_each_cell() -> None:
    rows = make_rows(100)
    dealt = need.deal_need(rows, "needed", 3)
    assert not dealt.equals(rows["needed"])
    cells = [rows["model"], rows["benchmark"]]
    assert dealt.groupby(cells).sum().equals(rows["needed"].groupby(cells).sum())


def test_the_items_that_would_show_a_gain_grow_with_its_interval() -> None:
    # z = 1.96, standard error 0.01: (2.8016 x 0.01 / 0.02)^2 = 1.9622 times as many
    assert need.find_needed_items(0.02, 0.0004, 0.0396, 100, 0.8, 0.95) == pytest.approx(196.2, abs=0.1)
    assert need.find_needed_items(-0.01, -0.02, 0.0, 100, 0.8, 0.95) == float("inf")


def test_levels_that_a_model_does_not_answer_are_told() -> None:
    rows = pd.DataFrame({
        "model": "m", "benchmark": "b", "level": ["early"] * 4 + ["late"] * 4,
        "correct": [True] * 4 + [False] * 3 + [True],
        "need_nats": [0.0, 0.0, 9.0, np.nan, 5.0, 5.0, 5.0, 5.0],
    })  # fmt: skip
    rows["needed"] = (rows["need_nats"] > 2).astype(float).where(rows["need_nats"].notna())
    table = need.level_table(rows, least_accuracy=0.5).set_index("level")
    assert table["is_answered"].to_dict() == {"early": True, "late": False}
    assert table.loc["early", "needed_share"] == pytest.approx(1 / 3) and table.loc["early", "n_unknown"] == 1
    shares = need.share_table(rows, 0.95).set_index("level")
    assert shares.loc["late", "estimate"] == 1.0 and shares.loc["early", "n_rows"] == 3
    rows.loc[rows["level"] == "early", "needed"] = np.nan
    shares = need.share_table(rows, 0.95).set_index("level")
    assert np.isnan(shares.loc["early", ["estimate", "ci_low", "ci_high"]].astype(float)).all() and len(shares) == 2


def test_words_know_a_benchmark_in_random_folds_and_nothing_of_one_that_is_left_out() -> None:
    rng = np.random.default_rng(2)
    source = np.repeat(["a", "b", "c"], 100)
    is_visual = np.where(source == "a", rng.random(300) < 0.1, np.where(source == "b", rng.random(300) < 0.9, True))
    rows = pd.DataFrame({"benchmark": source, "task_type": np.where(is_visual, "seen", "read"), "question": source})
    table = need.task_word_table(rows, ["seen"], seed=1).set_index("left_out")
    assert table.loc["nothing", "auroc"] > 0.85 and table.loc["b", "auroc"] == 0.5
    assert np.isnan(table.loc["c", "auroc"]) and table.loc["c", "visual_share"] == 1.0
    assert table.loc["nothing", "n_items"] == 300 and table.loc["c", "n_items"] == 100


@pytest.mark.skipif(not FIXTURES.is_dir(), reason="the real benchmark rows of ../shared/fixtures are not here")
def test_words_of_real_questions_know_their_source_and_miscall_another() -> None:
    def read(name: str) -> Any:
        return json.loads((FIXTURES / name).read_text(encoding="utf-8"))

    lines = (FIXTURES / "mmmu_pro" / "gpt4o_standard10_cot.jsonl").read_text(encoding="utf-8").splitlines()
    mathvista = read("mathvista/testmini.json").values()
    texts = {
        "mathvista": [(r["question"], r["metadata"]["category"] != "math-targeted-vqa") for r in mathvista],
        "mmmu_pro": [(json.loads(line)["question"], True) for line in lines],
        "hallusionbench": [(r["question"], False) for r in read("hallusionbench/HallusionBench.json")],
    }
    rows = pd.DataFrame(
        [(name, "visual" if is_visual else "other", text) for name, own in texts.items() for text, is_visual in own],
        columns=["benchmark", "task_type", "question"],
    )  # fmt: skip
    table = need.task_word_table(rows, ["visual"], seed=1).set_index("left_out")
    assert table.loc["nothing", "auroc"] > 0.9 and table.loc["mathvista", "auroc"] < table.loc["nothing", "auroc"]


@pytest.mark.parametrize(
    ("ends", "said"), [((0.01, 0.03), "gain"), ((-0.01, 0.05), "no gain"), ((-0.05, -0.01), "harm")]
)
def test_a_gain_is_said_only_where_its_interval_holds(ends: tuple[float, float], said: str) -> None:
    row = pd.DataFrame({"gain": [sum(ends) / 2], "ci_low": [ends[0]], "ci_high": [ends[1]], "p": [0.2]}, index=["who"])
    assert f"veto, who: {said}" in need.describe_gains(row, {"who": 500.0}, 0.8)
