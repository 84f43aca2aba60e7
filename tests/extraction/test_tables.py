"""Claims about the tidy tables: rows, means, spans, schema and bins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_extraction import PROFILE

from dontblink.attention.grounding import Grounding, weigh_heads
from dontblink.attention.traces import Trace, pack_heads
from dontblink.errors import NamedError
from dontblink.extraction import tables
from dontblink.extraction.tables import BINS, bin_table, build_blocks, name_steps, read_bins
from dontblink.models.response import Response
from dontblink.models.spans import Spans
from dontblink.questions import registry
from dontblink.questions.items import GoldStep, Item, Score
from dontblink.schema import HEAD_SETS, MASSES

GOLD = (GoldStep("a1 is 3", "read", (0,)), GoldStep("a1 was 3", "recall", (0,)), GoldStep("3 + 4 is 7", "compute"))
GROUNDING = Grounding((1,), ((1, 2),), (1.0, 2.0), 10)
N_LAYERS, N_HEADS, N_IMAGE, N_PROMPT = 2, 3, 12, 20


@dataclass
class Case:
    """An item, its response and trace, and what the trace condenses: masses [L, H, T, 6] and maps [S, L, H, M]."""

    item: Item
    response: Response
    trace: Trace
    mass: np.ndarray
    maps: np.ndarray


def draw(item_id: str = "i0", n_reasoning: int = 10, seed: int = 0, boxes: bool = True, n_tokens: int = -1) -> Case:
    """A response of `n_reasoning` tokens in two steps, then </think>, an answer and an end token."""
    rng = np.random.default_rng(seed)
    n_tokens = n_reasoning + 3 if n_tokens < 0 else n_tokens
    mass = rng.dirichlet(np.ones(5), (N_LAYERS, N_HEADS, n_tokens))
    control = rng.random((N_LAYERS, N_HEADS, n_tokens, 1)) * 0.1
    nothing = np.zeros((N_LAYERS, N_HEADS, n_tokens, 2))  # no blank image tokens, no learned sinks
    mass = np.concatenate([mass, control, nothing], axis=-1).astype(np.float32)
    half = n_reasoning // 2
    steps = tuple(s for s in ((0, half), (half, n_reasoning)) if s[1] > s[0])
    coverage = np.zeros(N_IMAGE, np.float32)
    if boxes:
        coverage[[5, 6]] = (1.0, 0.5)
    maps = (rng.dirichlet(np.ones(N_IMAGE), (len(steps), N_LAYERS, N_HEADS)) * 0.4).astype(np.float32)
    covariates = {"noise_level": 0.3, "chain_length": 2.0, "chain_kind": "recall", "prior_side": "none"}
    item = Item(
        item_id, "symbolic", "test", (b"png",), "compute ?", "7", "symbolic", gold_steps=GOLD, covariates=covariates
    )
    weights = weigh_heads(GROUNDING, N_LAYERS, N_HEADS)
    looks = mass[:, :, :n_reasoning, :2].mean(axis=2) if n_reasoning else np.zeros((N_LAYERS, N_HEADS, 2))
    answer = (n_reasoning + 1, n_reasoning + 2) if n_tokens else (0, 0)
    trace = Trace(
        item_id, "m", *rng.random((2, n_tokens)).astype(np.float32), -rng.random(n_tokens).astype(np.float32),
        np.einsum("glh,lhtr->gtr", weights, mass), np.einsum("glh,slhm->sgm", weights, maps), looks,
        Spans((0, n_reasoning), answer, steps, True), tuple(f"w{k}" for k in range(n_tokens)),
        ("a1 is 3 .", "a1 was 8 .")[: len(steps)], "7", coverage, coverage, float(coverage.sum()), N_IMAGE,
        ((3, 4),), (0,),
    )  # fmt: skip
    response = Response(item_id, "m", (1,) * N_PROMPT, tuple(range(n_tokens)), "7", "stop" if n_tokens else "length")
    return Case(item, response, trace, mass, maps)


@pytest.fixture(autouse=True)
def scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scorers that disagree."""
    found = {"official": Score(False, True, "8"), "strict": Score(True, True, "7")}
    monkeypatch.setattr(registry, "score", lambda *_: found)


def build(*cases: Case, sink_rule: str = "border") -> dict[str, pa.Table]:
    parts = zip(*((case.item, case.response, case.trace) for case in cases), strict=True)
    return build_blocks(*parts, "no generator", sink_rule)


def frames(*cases: Case, **options: Any) -> dict[str, pd.DataFrame]:
    return {name: table.to_pandas() for name, table in build(*cases, **options).items()}


def test_token_masses_are_means_over_the_heads_of_a_set() -> None:
    case = draw()
    masses, mass = frames(case)["token_masses"], case.mass
    expected = {
        "grounding_layers": mass[1].mean(axis=0),
        "grounding_heads": mass[1, 2],
        "all_layers": mass.mean(axis=(0, 1)),
        "layer_0": mass[0].mean(axis=0),
    }
    for head_set in HEAD_SETS:
        found = masses.loc[masses["head_set"] == head_set, [*MASSES]].to_numpy()
        wanted = expected[head_set][:, : len(MASSES)].copy()
        wanted[:, 1] += wanted[:, 0]  # the visual mass has the evidence in it
        assert np.abs(found - wanted).max() < 1e-6
        assert np.abs(found[:, 1:5].sum(axis=1) - 1).max() < 1e-5


def test_token_sees_the_prompt_and_the_tokens_before_it() -> None:
    tokens = frames(draw())["tokens"]
    assert tokens["context_length_tokens"].tolist() == [N_PROMPT + k for k in range(13)]
    assert np.allclose(tokens["uniform_evidence_share"], 1.5 / tokens["context_length_tokens"])
    assert np.allclose(tokens["uniform_visual_share"], N_IMAGE / tokens["context_length_tokens"])


def test_spans_and_steps_of_tokens_follow_the_segmentation() -> None:
    tokens = frames(draw())["tokens"]
    assert tokens["span"].tolist() == ["reasoning"] * 10 + ["marker", "answer", "marker"]
    assert tokens["step_index"].tolist() == [0] * 5 + [1] * 5 + [-1] * 3
    assert tokens["step_kind"].tolist() == ["read"] * 5 + ["recall"] * 5 + [""] * 3


def test_step_kind_follows_the_gold_pattern_even_where_the_value_is_wrong() -> None:
    texts = ["a1 is 3 .", "f5 is 9 .", "a1 was 8 .", "3 + 1 is 4 .", "B circle match .", "hm ."]
    assert name_steps(texts, GOLD) == ["read", "read", "recall", "compute", "", ""]
    assert name_steps(texts, ()) == [""] * 6  # a benchmark without gold steps has no kinds


def test_heads_are_means_over_the_reasoning_and_lift_is_share_over_fraction() -> None:
    case = draw()
    heads = pack_heads("symbolic", "test", [case.trace])
    assert heads.equals(build(case)["heads"])  # the shard knows no schema
    mean = case.mass[:, :, :10].mean(axis=2)
    row = heads.to_pandas().query("layer == 1 and head == 2").iloc[0]
    evidence, visual = mean[1, 2, 0], mean[1, 2, :2].sum()
    assert row.evidence_mass == pytest.approx(evidence, rel=1e-5) and row.visual_mass == pytest.approx(visual, rel=1e-5)
    assert row.evidence_lift == pytest.approx(evidence / visual / (1.5 / 12), rel=1e-5)


def test_item_without_boxes_has_no_lift_and_no_overlap() -> None:
    blocks = frames(draw(boxes=False))
    assert blocks["heads"]["evidence_lift"].isna().all()
    assert blocks["steps"][["pointing_hit", "iou50", "map_auc"]].isna().all(axis=None)
    assert (blocks["steps"]["sink_masked_evidence_mass"] == 0).all()


def test_step_rows_average_the_tokens_of_the_step() -> None:
    case = draw()
    steps = frames(case)["steps"].query("head_set == 'grounding_heads'").sort_values("step_index")
    assert np.allclose(
        steps["evidence_mass"],
        [case.mass[1, 2, :5, 0].mean(), case.mass[1, 2, 5:10, 0].mean()],
    )
    assert steps["n_tokens"].tolist() == [5, 5] and steps["step_kind"].tolist() == ["read", "recall"]
    entropy = case.trace.entropy_nats
    assert np.allclose(steps["entropy_nats"], [entropy[:5].mean(), entropy[5:10].mean()])
    brightest = case.maps[:, 1, 2].argmax(axis=1)
    assert np.allclose(steps["pointing_hit"], case.trace.coverage[brightest])


def test_sink_masked_mass_renormalises_what_is_left_of_the_keys() -> None:
    case = draw()
    steps = frames(case, sink_rule="first")["steps"].query("head_set == 'grounding_heads'")
    maps = case.maps[:, 1, 2]
    assert np.allclose(steps["sink_masked_evidence_mass"], maps @ case.trace.coverage / (1 - maps[:, 0]), rtol=1e-5)


def test_item_row_holds_the_entropies_and_the_late_look() -> None:
    case = draw()
    row = frames(case)["items"].iloc[0]
    entropy, whole = case.trace.entropy_nats, case.mass[1].mean(axis=0)[:10]
    late = whole[6:]
    assert row.full_entropy_nats == pytest.approx(entropy.mean(), rel=1e-5)
    assert row.answer_entropy_nats == pytest.approx(entropy[11], rel=1e-5)
    top20 = case.trace.top20_entropy_nats
    assert row.full_top20_entropy_nats == pytest.approx(top20.mean(), rel=1e-5)
    assert row.answer_top20_entropy_nats == pytest.approx(top20[11], rel=1e-5)
    assert (frames(case)["tokens"]["top20_entropy_nats"] == top20).all()
    assert row.max_entropy_nats == entropy.max()
    assert row.last_decile_entropy_nats == pytest.approx(entropy[11:].mean(), rel=1e-5)
    assert row.vision_evidence_mass == pytest.approx(late[:, 0].mean(), rel=1e-5)
    assert row.vision_visual_mass == pytest.approx(late[:, :2].sum(axis=1).mean(), rel=1e-5)
    assert row.vision_cumulative_evidence_mass == pytest.approx(whole[:, 0].mean(), rel=1e-5)
    assert row.vision_cumulative_visual_mass == pytest.approx(whole[:, :2].sum(axis=1).mean(), rel=1e-5)
    assert row.placebo_prompt_mass == pytest.approx(late[:, 2].mean(), rel=1e-5)
    assert (row.n_reasoning_tokens, row.n_answer_tokens, row.n_response_tokens, row.n_steps) == (10, 1, 13, 2)
    assert row.evidence_fraction == pytest.approx(1.5 / 12) and row.chain_kind == "recall" and bool(row.correct)


def test_every_scorer_has_its_row_and_the_items_table_follows_the_strict_one() -> None:
    blocks = frames(draw(), draw("i1"))
    scores = blocks["scores"]
    assert scores["scorer"].tolist() == ["strict", "official"] * 2
    assert scores["correct"].tolist() == [True, False] * 2 and scores["prediction"].tolist() == ["7", "8"] * 2
    assert blocks["items"]["correct"].all() and (blocks["items"]["prediction"] == "7").all()


def test_response_without_reasoning_keeps_its_item_row_and_nothing_else_breaks() -> None:
    blocks = frames(draw("i0", n_reasoning=0), draw("i1"))
    assert len(blocks["items"]) == 2 and np.isnan(blocks["items"]["vision_evidence_mass"].iloc[0])
    assert set(blocks["heads"]["item_id"]) == {"i1"} == set(blocks["steps"]["item_id"])


def test_empty_response_has_no_entropy() -> None:
    blocks = frames(draw(n_reasoning=0, n_tokens=0))
    entropies = [c for c in blocks["items"] if c.endswith("entropy_nats")]
    assert blocks["items"][entropies].isna().all(axis=None) and len(entropies) == 6
    assert len(blocks["tokens"]) == 0 == len(blocks["token_masses"])


def test_trace_of_another_length_is_named() -> None:
    case = draw()
    for name in ("entropy_nats", "top20_entropy_nats"):
        other = replace(case, trace=replace(case.trace, **{name: case.trace.entropy_nats[:-1]}))
        with pytest.raises(NamedError, match="item i0: .*replay this response"):
            build(other)


@settings(max_examples=30, deadline=None)
@given(n_reasoning=st.integers(1, 40), bins=st.integers(1, 12))
def test_bins_hold_each_reasoning_token_once_in_order(n_reasoning: int, bins: int) -> None:
    blocks = frames(draw(n_reasoning=n_reasoning))
    binned = bin_table(blocks["tokens"], blocks["token_masses"], bins).to_pandas().query("head_set == 'all_layers'")
    expected = np.floor(bins * (np.arange(n_reasoning) + 0.5) / n_reasoning).astype(int)
    present, counts = np.unique(expected, return_counts=True)
    assert binned["bin"].tolist() == present.tolist() and binned["n_tokens"].tolist() == counts.tolist()
    assert (binned["n_empty_bins"] == bins - len(present)).all() and (binned["n_bins"] == bins).all()
    assert not binned.isna().any(axis=None)


def test_bin_mean_is_the_mean_of_its_tokens() -> None:
    case = draw(n_reasoning=20)
    blocks = frames(case)
    binned = bin_table(blocks["tokens"], blocks["token_masses"], 4).to_pandas()
    found = binned.query("head_set == 'grounding_heads' and bin == 3").iloc[0]
    assert found.evidence_mass == pytest.approx(case.mass[1, 2, 15:20, 0].mean(), rel=1e-5)
    seen = N_PROMPT + np.arange(15, 20)
    assert found.uniform_evidence_share == pytest.approx((1.5 / seen).mean(), rel=1e-5)
    assert found.uniform_visual_share == pytest.approx((N_IMAGE / seen).mean(), rel=1e-5)


def test_masses_without_their_tokens_are_an_error() -> None:
    blocks = frames(draw())
    with pytest.raises(NamedError, match="build both"):
        bin_table(blocks["tokens"], blocks["token_masses"].iloc[4:], 4)


def test_bins_of_two_shards_are_the_bins_of_both_together() -> None:
    cases = draw("i0"), draw("i1", seed=1, n_reasoning=7), draw("i2", seed=2, n_reasoning=0)
    apart = pa.concat_tables(build(case)["bins"] for case in cases).unify_dictionaries().to_pandas()
    both = frames(*cases)
    for n_bins in BINS:
        rows = apart[apart["n_bins"] == n_bins].reset_index(drop=True)
        together = bin_table(both["tokens"], both["token_masses"], n_bins).to_pandas()
        pd.testing.assert_frame_equal(rows, together, check_exact=True, check_categorical=False)
        pd.testing.assert_frame_equal(both["bins"][both["bins"]["n_bins"] == n_bins].reset_index(drop=True), together)


def test_bins_of_other_counts_are_made_of_the_parts_and_have_the_same_rows(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = read_bins(PROFILE, 3, split="test", head_set="all_layers")
    assert len(held) > 100 and (held["n_bins"] == 3).all() and (held["head_set"] == "all_layers").all()
    assert (read_bins(PROFILE, 5, split="test")["n_bins"] == 5).all()
    monkeypatch.setattr(tables, "BINS", ())
    made = read_bins(PROFILE, 3, split="test", head_set="all_layers")
    whole = [frame.astype({"head_set": "str"}) for frame in (made, held)]
    pd.testing.assert_frame_equal(*whole, check_exact=True)
