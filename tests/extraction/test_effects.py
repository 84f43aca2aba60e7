"""The causal study on the small one: every table, its controls, resumed, and the same whatever shares a batch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_extraction import BENCHMARKS, HERE, MODEL, PROFILE

from dontblink import params, paths, schema, store
from dontblink.attention.conditions import Condition
from dontblink.errors import NamedError
from dontblink.extraction.effects import Effects

CHANGES = {
    "n_items": 6, "n_strength_items": 4, "n_recall_items": 12, "n_head_items": 3, "n_forced_items": 6,
    "n_need_items": 6, "fits_monitor": True,
    "head_counts": [1, 4], "strengths_nats": [0.5, 2.0], "forced_shares": [0.0, 0.5, 1.0],
    "conditions": ["empty@0", "empty@0.5", "evidence@0", "evidence@1", "control@0", "image@0.5", "random@0.5",
                   "other_picture@0", "other_prompt@0", "raise_evidence@0", "raise_control@0", "raise_own@0",
                   "no_reasoning@0"],
}  # fmt: skip


def settle(**changes: object) -> Effects:
    """Return the causal study of a few items of each benchmark of the small study."""
    _, sections = params.load(HERE / "params" / "testbed.yaml")
    own = sections["interventions"] | CHANGES | changes
    (paths.results(PROFILE) / "params" / "interventions.json").write_text(json.dumps(own))
    (paths.results(PROFILE) / "params" / "collapse.json").write_text(json.dumps(sections["collapse"]))
    return Effects(PROFILE)


def read(name: str) -> pd.DataFrame:
    return store.read_table(paths.causal(PROFILE) / f"{name}.parquet").to_pandas()


@pytest.mark.slow
def test_every_condition_is_run_once_and_its_controls_hold(small_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle().run(jobs=1)
    files = sorted(paths.effects(PROFILE).rglob("*.parquet"))
    ages = [file.stat().st_mtime_ns for file in files]
    settle().run(jobs=1)
    assert [file.stat().st_mtime_ns for file in files] == ages
    before = {name: read(name) for name in schema.CAUSAL}
    shutil.rmtree(paths.effects(PROFILE))  # a clone has the tables alone, and computes none of their rows again
    monkeypatch.setattr(Effects, "do", lambda *_: pytest.fail("computed again"))
    settle().run(jobs=1)
    assert sorted(paths.effects(PROFILE).rglob("*.parquet")) == files
    for name, table in before.items():
        pd.testing.assert_frame_equal(read(name).astype(object), table.astype(object))

    keys = [*schema.KEYS]
    effects = read("effects").astype(dict.fromkeys([*keys, "condition"], str))
    baseline = effects[effects["condition"] == "baseline"].set_index("item_id")
    items = schema.read_tables(PROFILE, ["items"], split="test")["items"].astype({"item_id": str}).set_index("item_id")
    assert (baseline["correct"] == items.loc[baseline.index, "correct"]).all() and len(baseline) == 12
    np.testing.assert_allclose(baseline["full_entropy_nats"], items.loc[baseline.index, "full_entropy_nats"], atol=1e-5)
    whole = items.loc[baseline.index, "vision_cumulative_evidence_mass"]
    np.testing.assert_allclose(baseline["evidence_mass"], whole, atol=1e-5)
    empty = effects[effects["condition"] == "empty"]
    assert empty["same_text"].all() and (empty["reasoning_lost_nats"].abs() < 1e-4).all() and len(empty) == 24
    whole_picture = effects[effects["condition"] == "evidence"].query("start_share == 0")
    assert not whole_picture["same_text"].all() and (whole_picture["reasoning_lost_nats"] > 1).mean() > 0.5
    last = effects[effects["condition"] == "evidence"].query("start_share == 1")
    assert (last["reasoning_lost_nats"].abs() < 1e-4).all()  # no row of the reasoning was changed
    raised = effects[effects["condition"] == "raise_evidence"].set_index("item_id")["evidence_mass"]
    assert (raised > baseline.loc[raised.index, "evidence_mass"]).all()
    prior = effects[effects["condition"] == "other_prompt"]
    assert prior["answer_lost_nats"].isna().all() and not prior["same_text"].all()

    assert not (effects["condition"] == "no_reasoning").any()  # these models have no such prompt

    strengths = read("strengths")
    assert strengths.groupby("benchmark", observed=True)["is_chosen"].sum().eq(1).all()
    tried = strengths[~strengths["is_chosen"]].sort_values("bias_nats")
    assert tried.groupby("benchmark", observed=True)["mass_ratio"].apply(lambda r: r.is_monotonic_increasing).all()

    recalls = read("recalls").astype(dict.fromkeys([*keys, "condition", "word"], str))
    usable = recalls[recalls["is_usable"]]
    none = usable[usable["condition"] == "none"]
    assert none["kept"].all() and not none["turned"].any() and (none["lost_nats"] == 0).all() and len(none) > 3
    everything = usable[usable["condition"] == "TMP"]
    assert everything["turned"].mean() > 0.7  # all three sources say the altered word
    assert (recalls.loc[~recalls["is_usable"], "why_not"] != "").all()

    forced = read("forced")
    whole_chain = forced[forced["reasoning_share"] == 1].astype({"item_id": str}).set_index("item_id")
    assert (whole_chain["correct"] == items.loc[whole_chain.index, "correct"]).all()
    assert whole_chain["format_mass"].median() > 0.9 and whole_chain["evidence_mass"].notna().all()
    assert forced.loc[forced["reasoning_share"] == 0, "evidence_mass"].isna().all()
    heads = read("head_losses").astype({"chosen": str})
    assert set(heads["chosen"]) == {"top", "random", "all"}
    needs = read("needs").astype(dict.fromkeys([*keys, "why_not"], str))
    assert needs.groupby(["split", "benchmark"]).size().eq(6).all() and (needs["why_not"] == "").mean() > 0.7
    known = needs[needs["why_not"] == ""]
    np.testing.assert_allclose(known["need_nats"], known["own_log_odds_nats"] - known["other_log_odds_nats"], atol=1e-5)
    assert needs.loc[needs["why_not"] != "", "need_nats"].isna().all()
    tokens = schema.read_tables(PROFILE, ["tokens"])["tokens"]
    tokens = tokens[tokens["item_id"].isin(set(needs["item_id"]))]
    looks = read("looks")
    assert len(looks) == len(tokens) and looks["visual_mass"].between(0, 1).all()
    assert looks["entropy_nats"].sum() == pytest.approx(tokens["entropy_nats"].sum(), rel=1e-5)
    swaps = read("swaps")
    assert len(swaps) and (swaps.groupby("benchmark", observed=True)["item_id"].nunique() == 1).all()


def test_a_condition_that_does_not_exist_is_named(small_copy: Path) -> None:
    with pytest.raises(NamedError, match="condition 'nothing@0': expected one of empty, evidence"):
        settle(conditions=["nothing@0"])
    assert Condition.parse("raise_own@0.25") == Condition("raise_own", 0.25)
    assert BENCHMARKS and MODEL


def test_a_study_of_need_alone_runs_nothing_else(small_copy: Path) -> None:
    found = settle(conditions=[], head_counts=[], forced_shares=[], n_recall_items=0)
    shards = found.study.shards(MODEL)
    assert {job for shard in shards for job in found.jobs(shard)} == {"need"}
    assert {shard.split for shard in shards if found.jobs(shard)} == {"test", "calibration"}
    off = settle(conditions=[], head_counts=[], forced_shares=[], n_recall_items=0, fits_monitor=False)
    assert {shard.split for shard in shards if off.jobs(shard)} == {"test"}
