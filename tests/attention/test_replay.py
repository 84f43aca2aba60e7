"""Replay against the truth: eager attention with `output_attentions`, on random models of both families."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import (
    ENTROPY_BAR,
    FAMILY_NAMES,
    IMAGE,
    MAP_BAR,
    MASS_BAR,
    VIDEO,
    VLM,
    Prompt,
    build_vlm,
    count_image_tokens,
    draw_prompt,
    draw_response,
)

from dontblink import schema
from dontblink.attention import replay
from dontblink.attention.replay import (
    HEAD_ROWS,
    REGIONS,
    Measures,
    average_heads,
    batch_by_length,
    replay_responses,
    weigh_regions,
)
from dontblink.errors import NamedError


@dataclass
class Case:
    """Inputs of one replay: three items with different image counts, grids, prompt and response lengths."""

    prompts: list[Prompt]
    responses: list[list[int]]
    measures: dict[str, Any]

    def pick(self, *rows: int) -> Case:
        """Return the case with only these items."""
        kept = {name: [values[row] for row in rows] for name, values in self.measures.items()}
        return Case([self.prompts[row] for row in rows], [self.responses[row] for row in rows], kept)

    def replay(self, vlm: VLM, **options: Any) -> list[Measures]:
        """Replay the case."""
        return replay_responses(vlm, self.prompts, self.responses, **self.measures, **options)  # type: ignore


def draw_case(seed: int = 0) -> Case:
    """Return three items: one image; two images of other grids and the longest prompt; a short response."""
    rng = np.random.default_rng(seed)
    prompts = [
        draw_prompt(rng, "one", grids=[(3, 4)]),
        draw_prompt(rng, "two", grids=[(2, 3), (4, 2)], n_text=17),
        draw_prompt(rng, "three", grids=[(2, 2)], n_text=3),
    ]
    # 150 rows need two chunks of 128 query rows and three of 64 head rows
    responses = [draw_response(rng, length) for length in (150, 40, 1)]
    draws = [[rng.random(count_image_tokens(prompt)).astype(np.float32) for prompt in prompts] for _ in range(2)]
    steps = [[(0, 20), (20, 140), (145, 150)], [(3, 9)], []]
    return Case(prompts, responses, {"coverage": draws[0], "control": draws[1], "steps": steps})


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def vlm(request: pytest.FixtureRequest) -> VLM:
    return build_vlm(request.param)


@pytest.fixture
def case() -> Case:
    return draw_case()


def read_eager(vlm: VLM, case: Case, row: int) -> Measures:
    """Return the truth for one unpadded item, from full eager attention matrices and full logits."""
    prompt, response = case.prompts[row], case.responses[row]
    before = vlm.model.config.get_text_config()._attn_implementation
    vlm.model.set_attn_implementation({"text_config": "eager"})
    with torch.inference_mode():
        out = vlm.model(**vlm.collate([prompt], [response]), use_cache=False, output_attentions=True, logits_to_keep=0)
    vlm.model.set_attn_implementation({"text_config": before})
    rows = slice(len(prompt.ids) - 1, len(prompt.ids) - 1 + len(response))
    attention = torch.cat(out.attentions).float()[:, :, rows].double().numpy()  # [L, H, T, K]
    logs = out.logits[0, rows].double().log_softmax(-1).numpy()
    is_image = np.append(prompt.ids, response) == IMAGE
    weights = weigh_regions(is_image, len(prompt.ids), case.measures["coverage"][row], case.measures["control"][row])
    maps = [attention[:, :, a:b][..., is_image].mean(2) for a, b in case.measures["steps"][row]]
    mass, maps = attention @ weights, np.stack(maps) if maps else np.zeros((0, *attention.shape[:2], is_image.sum()))
    entropy, log_probability = -(np.exp(logs) * logs).sum(-1), logs[np.arange(len(response)), response]
    entropies = entropy, truncate_and_measure(np.exp(logs), 20)
    return Measures(prompt.item_id, vlm.name, *entropies, log_probability, mass, maps, mass[..., :2].mean(2))


def truncate_and_measure(p: np.ndarray, n_kept: int) -> np.ndarray:
    """Return the entropy, nats [T], of probabilities [T, V] of which the largest are kept and divided by their sum."""
    kept = -np.sort(-p, axis=-1)[:, :n_kept]
    kept = kept / kept.sum(axis=-1, keepdims=True)
    return -np.sum(kept * np.log(kept), axis=-1, where=kept > 0)


def gap(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest absolute difference; shapes must agree."""
    assert found.shape == expected.shape
    return float(np.abs(found - expected).max(initial=0))


@pytest.mark.parametrize("implementation", ["split", "generic"])
def test_a_padded_batch_equals_eager_attention_of_each_item_alone(
    vlm: VLM, case: Case, implementation: str
) -> None:
    traces = case.replay(vlm, implementation=implementation)
    for row, trace in enumerate(traces):
        truth = read_eager(vlm, case, row)
        assert trace.item_id == truth.item_id
        assert gap(trace.mass, truth.mass) <= MASS_BAR
        assert gap(trace.step_map, truth.step_map) <= MAP_BAR
        assert gap(trace.entropy_nats, truth.entropy_nats) <= ENTROPY_BAR
        assert gap(trace.top20_entropy_nats, truth.top20_entropy_nats) <= ENTROPY_BAR
        assert (trace.top20_entropy_nats < trace.entropy_nats).mean() > 0.9  # 96 tokens: 20 are not all of them
        assert gap(trace.log_probability_nats, truth.log_probability_nats) <= ENTROPY_BAR
        assert gap(trace.head_mass, truth.head_mass) <= MASS_BAR


def test_masses_sum_to_one_peak_and_see_no_earlier_response_at_the_first_token(vlm: VLM, case: Case) -> None:
    traces = case.replay(vlm)
    for trace in traces:
        assert np.abs(trace.mass[..., :5].sum(-1) - 1).max() <= 2e-6
        assert trace.mass.min() >= 0
        assert trace.mass.dtype == trace.step_map.dtype == trace.entropy_nats.dtype == np.float32
    assert traces[0].mass.std(axis=2).mean() > 0.05  # near-uniform attention would hide mistakes
    earlier = traces[0].mass[..., REGIONS.index("earlier_response")]
    assert earlier[:, :, 0].max() == 0 and earlier[:, :, 1:].min() > 0


def test_results_keep_the_input_order_and_do_not_depend_on_the_batch(vlm: VLM, case: Case) -> None:
    assert case.pick().replay(vlm) == []
    together = case.replay(vlm)
    alone = case.pick(2, 0, 1).replay(vlm, token_budget=1)
    assert [trace.item_id for trace in alone] == ["three", "one", "two"]
    for single, padded in zip(alone, [together[2], together[0], together[1]], strict=True):
        assert gap(single.mass, padded.mass) <= MASS_BAR
        assert gap(single.step_map, padded.step_map) <= MAP_BAR
        assert gap(single.entropy_nats, padded.entropy_nats) <= ENTROPY_BAR


def test_step_map_over_image_tokens_sums_to_the_step_mean_of_visual_mass(vlm: VLM, case: Case) -> None:
    trace = case.replay(vlm)[0]
    visual = trace.mass[..., :2].sum(-1)  # evidence + other image
    for number, (start, stop) in enumerate(case.measures["steps"][0]):
        assert gap(trace.step_map[number].sum(-1), visual[:, :, start:stop].mean(-1)) <= 2e-6


def test_replay_of_a_generated_response_equals_its_step_by_step_attention(vlm: VLM, case: Case) -> None:
    prompt, n_prompt = case.prompts[1], len(case.prompts[1].ids)
    vlm.model.set_attn_implementation("eager")
    out = vlm.model.generate(
        **vlm.collate([prompt], side="left"),
        max_new_tokens=30,
        min_new_tokens=30,
        do_sample=False,
        suppress_tokens=[IMAGE, VIDEO],
        output_attentions=True,
        output_logits=True,
        return_dict_in_generate=True,
    )
    vlm.model.set_attn_implementation("sdpa")
    response = out.sequences[0, n_prompt:].tolist()
    case = case.pick(1)
    case.responses = [response]
    trace = case.replay(vlm)[0]
    is_image = np.append(prompt.ids, response) == IMAGE
    weights = weigh_regions(is_image, n_prompt, case.measures["coverage"][0], case.measures["control"][0])
    for token, layers in enumerate(out.attentions):  # one tuple of [1, H, queries, keys] per new token
        lived = np.stack([layer[0, :, -1].numpy() for layer in layers])
        assert gap(trace.mass[:, :, token], lived @ weights[: n_prompt + token]) <= 2e-5
        logs = out.logits[token][0].double().log_softmax(-1)
        assert abs(float(-(logs.exp() * logs).sum()) - trace.entropy_nats[token]) <= 5e-5
        assert abs(float(logs[response[token]]) - trace.log_probability_nats[token]) <= 5e-5


def test_the_model_receives_3d_positions_and_no_mask(vlm: VLM, case: Case) -> None:
    seen: dict[str, Any] = {}
    hook = vlm.model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    attention = next(part for part in vlm.model.modules() if hasattr(part, "layer_idx"))
    inside = attention.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(mask=kwargs["attention_mask"]), with_kwargs=True
    )
    case.pick(1).replay(vlm)
    hook.remove()
    inside.remove()
    first = case.prompts[1].ids.tolist().index(IMAGE)
    temporal, height, width = seen["position_ids"][:, 0, first : first + 6]
    assert seen["mask"] is None
    assert temporal.unique().numel() == 1  # the first image: 2 x 3 tokens at one time
    assert (height - height[0]).tolist() == [0, 0, 0, 1, 1, 1]
    assert (width - width[0]).tolist() == [0, 1, 2, 0, 1, 2]


def test_1d_positions_would_give_wrong_masses(vlm: VLM, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    right = case.pick(1).replay(vlm)[0]
    collate = vlm.collate

    def flatten(*args: Any, **kwargs: Any) -> dict[str, Any]:
        batch = collate(*args, **kwargs)
        return batch | {"position_ids": torch.arange(batch["input_ids"].shape[1]).expand(3, 1, -1)}

    monkeypatch.setattr(vlm, "collate", flatten)
    assert gap(case.pick(1).replay(vlm)[0].mass, right.mass) > 0.05


def test_bf16_is_as_close_to_the_fp32_truth_as_eager_bf16(case: Case) -> None:
    for family in FAMILY_NAMES:
        vlm = build_vlm(family)
        vlm.model.to(torch.bfloat16)
        eager = [read_eager(vlm, case, row) for row in range(3)]
        traces = case.replay(vlm)
        vlm.model.float()  # the same rounded weights, exact arithmetic
        truths = [read_eager(vlm, case, row) for row in range(3)]
        for name in ("mass", "step_map", "entropy_nats"):
            ours, theirs = (
                np.concatenate(
                    [np.abs(getattr(a, name) - getattr(b, name)).ravel() for a, b in zip(found, truths, strict=True)]
                )
                for found in (traces, eager)
            )
            assert 0 < ours.mean() <= 1.5 * theirs.mean(), name
        assert np.abs(traces[0].mass[..., :5].sum(-1) - 1).max() <= 2e-6  # masses themselves stay float32


def test_region_weights_follow_their_definition() -> None:
    is_image = np.array([False, True, True, False, False, False])
    found = weigh_regions(is_image, 4, coverage=[0.25, 1.0], control=[0.5, 0.0], blank_index=[3])
    assert (*schema.REGIONS, *schema.UNTABLED) == REGIONS
    expected = [
        [0, 0, 0, 0, 1, 0, 0, 0],  # key 0: the sink, and nothing else
        [0.25, 0.75, 0, 0, 0, 0.5, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 0],  # an image token that holds no pixel
        [0, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(found, np.array(expected, dtype=np.float32))


def test_entropy_does_not_depend_on_the_rows_that_share_a_head_chunk(
    vlm: VLM, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(case.responses[0]) > 2 * HEAD_ROWS
    before = case.replay(vlm)
    monkeypatch.setattr("dontblink.attention.replay.HEAD_ROWS", 7)
    for old, new in zip(before, case.replay(vlm), strict=True):
        assert gap(old.entropy_nats, new.entropy_nats) <= ENTROPY_BAR
        assert gap(old.log_probability_nats, new.log_probability_nats) <= ENTROPY_BAR


def read_logits(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two entropies of a response whose tokens were predicted with these logits [T, V]."""
    hidden = torch.from_numpy(np.asarray(logits, np.float32))[None]
    model: Any = SimpleNamespace(model=None, collate=lambda *_, side: {})
    prompt: Any = SimpleNamespace(ids=[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "run_body", lambda *_: (hidden, lambda rows: rows))
        [(exact, truncated, _)] = replay.read_tokens(model, [prompt], [[0] * len(logits)])
    assert exact.dtype == truncated.dtype == np.float32
    return exact, truncated


@pytest.mark.parametrize("n_vocabulary", [1, 2, 19, 20, 21, 300])
def test_truncated_entropy_is_that_of_the_20_most_probable_tokens_or_of_all_where_there_are_fewer(
    n_vocabulary: int,
) -> None:
    logits = np.random.default_rng(n_vocabulary).normal(0, 3, (150, n_vocabulary))  # three chunks of head rows
    p = torch.tensor(logits, dtype=torch.float64).softmax(-1).numpy()
    exact, truncated = read_logits(logits)
    assert gap(truncated, truncate_and_measure(p, replay.SUPPORT)) <= ENTROPY_BAR
    if n_vocabulary <= replay.SUPPORT:
        assert gap(truncated, exact) <= ENTROPY_BAR
    else:
        assert (truncated < exact).all()


def test_a_tie_at_the_last_kept_token_changes_nothing_wherever_the_tied_tokens_stand() -> None:
    ties = np.concatenate([np.linspace(5, 4, 18), np.ones(40), np.zeros(30)])  # 2 of 40 equal ones are kept
    p = np.exp(np.concatenate([ties[:18], [1.0, 1.0]]))
    p /= p.sum()
    rng = np.random.default_rng(0)
    _, truncated = read_logits(np.stack([rng.permutation(ties) for _ in range(20)]))
    assert gap(truncated, np.full(20, -(p * np.log(p)).sum())) <= ENTROPY_BAR
    exact, truncated = read_logits(np.zeros((1, 50)))
    assert (exact[0], truncated[0]) == pytest.approx((np.log(50), np.log(20)), rel=1e-6)


def test_the_vocabulary_head_never_sees_more_than_its_chunk(vlm: VLM, case: Case) -> None:
    rows: list[int] = []
    hook = vlm.model.lm_head.register_forward_pre_hook(lambda module, args: rows.append(args[0].numel()))
    case.replay(vlm)
    hook.remove()
    width = vlm.model.config.get_text_config().hidden_size
    assert max(rows) <= HEAD_ROWS * width
    n_tokens = sum(map(len, case.responses))
    assert sum(rows) == width * (n_tokens + len(case.prompts))  # the rows that predict a token, and one of the body's


@given(st.lists(st.integers(1, 500), max_size=40), st.integers(1, 2000))
def test_batches_hold_every_item_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = list(batch_by_length(lengths, budget))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda case: case.responses.__setitem__(1, []), "item two: empty response"),
        (lambda case: case.responses[1].__setitem__(4, 96), r"item two: response token 4 has id 96"),
        (lambda case: case.responses[1].__setitem__(4, -1), r"item two: response token 4 has id -1"),
        (lambda case: case.responses[1].__setitem__(4, IMAGE), "item two: response token 4 .* a placeholder"),
        (lambda case: case.measures["coverage"].__setitem__(1, np.zeros(12)), r"item two: coverage of shape"),
        (lambda case: case.measures["control"].__setitem__(1, np.zeros(13)), r"item two: control of shape"),
        (lambda case: case.measures["coverage"][1].__setitem__(0, 1.5), "item two: coverage .* expected a share"),
        (lambda case: case.measures["coverage"][1].__setitem__(0, np.nan), "item two: coverage .* expected a share"),
        (lambda case: case.measures["steps"].__setitem__(1, [(3, 3)]), r"item two: step 0 is \[3, 3\)"),
        (lambda case: case.measures["steps"].__setitem__(1, [(3, 41)]), r"item two: step 0 is \[3, 41\)"),
    ],
)
def test_an_item_that_cannot_be_replayed_is_named_before_any_computation(
    vlm: VLM, case: Case, change: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(case)
    monkeypatch.setattr(vlm, "collate", lambda *args, **kwargs: pytest.fail("computed something"))
    with pytest.raises(NamedError, match=message) as caught:
        case.replay(vlm)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_with_broken_weights_is_reported(case: Case) -> None:
    vlm = build_vlm("glm4v")
    vlm.model.lm_head.weight.data[5] = torch.nan
    with pytest.raises(NamedError, match="item one: entropy_nats is not finite"):
        case.replay(vlm)


@pytest.mark.parametrize("implementation", ["split", "generic"])
@pytest.mark.parametrize("n_sets", [2, 0])
def test_sets_of_heads_are_means_over_their_heads(
    vlm: VLM, case: Case, n_sets: int, implementation: Any
) -> None:
    if not n_sets:
        case.measures["steps"] = [()] * 3
    traces = case.replay(vlm, implementation=implementation)
    n_layers, n_heads = traces[0].mass.shape[:2]
    sets = np.zeros((2, n_layers, n_heads), np.float32)
    sets[0, 1], sets[1, 0, 2] = 1 / n_heads, 1.0
    sets, reasoning = sets[:n_sets], [(0, 10), (2, 9), (0, 0)]
    found = case.replay(vlm, head_sets=sets, reasoning=reasoning, implementation=implementation)
    for trace, kept, (begin, end) in zip(traces, found, reasoning, strict=True):
        np.testing.assert_allclose(kept.mass, np.einsum("glh,lhtr->gtr", sets, trace.mass), atol=2e-6)
        np.testing.assert_allclose(kept.step_map, np.einsum("glh,slhm->sgm", sets, trace.step_map), atol=1e-6)
        looks = trace.mass[:, :, begin:end, :2].mean(axis=2) if end > begin else np.zeros((n_layers, n_heads, 2))
        np.testing.assert_allclose(kept.head_mass, looks, atol=2e-6)
        np.testing.assert_array_equal(kept.entropy_nats, trace.entropy_nats)
        if n_sets:  # to the bit: what a calibration pass kept of every head stands for a second pass
            later = average_heads(trace, sets)
            np.testing.assert_array_equal(later.mass, kept.mass)
            np.testing.assert_array_equal(later.step_map, kept.step_map)


def test_a_batch_that_runs_out_of_memory_is_halved_and_an_item_too_large_alone_is_named(
    vlm: VLM, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, sizes, read = case.replay(vlm), [], replay.read_tokens

    def run_out(vlm: Any, prompts: list[Prompt], responses: Any) -> Any:
        sizes.append(len(prompts))
        if len(prompts) > 1 or prompts[0].item_id == "two":
            raise torch.OutOfMemoryError("no memory left")
        return read(vlm, prompts, responses)

    monkeypatch.setattr(replay, "read_tokens", run_out)
    with pytest.raises(NamedError, match="item two: does not fit into the accelerator's memory alone"):
        case.replay(vlm)
    assert sizes[0] == 3
    lost: list[tuple[str, str]] = []
    sets = np.ones((1, *before[0].mass.shape[:2]), np.float32)
    found = case.replay(vlm, head_sets=sets, quarantine=lambda *row: lost.append(row))
    assert [row[0] for row in lost] == ["two"] and [t.item_id for t in found] == [before[0].item_id, before[2].item_id]
    np.testing.assert_allclose(found[0].entropy_nats, before[0].entropy_nats, atol=ENTROPY_BAR)


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
])  # fmt: skip
def test_a_batch_that_did_not_fit_lowers_the_budget_of_the_rest(
    error: Exception, vlm: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, read, sizes = np.random.default_rng(1), replay.read_tokens, []
    prompts = [draw_prompt(rng, f"{n}", grids=[(2, 3)], n_text=5) for n in range(16)]
    share = [np.zeros(6, np.float32)] * 16
    case = Case(prompts, [draw_response(rng, 7)] * 16, {"coverage": share, "control": share, "steps": [()] * 16})
    longest = len(prompts[0].ids) + 7
    expected = case.replay(vlm, token_budget=4 * longest)

    def run_out(vlm: Any, prompts: list[Prompt], responses: Any) -> Any:
        sizes.append(len(prompts))
        if len(prompts) > 1:
            raise error
        return read(vlm, prompts, responses)

    monkeypatch.setattr(replay, "read_tokens", run_out)
    told: list[int] = []
    found = case.replay(vlm, token_budget=4 * longest, lowered=told.append)
    assert told == [2 * longest, longest]
    assert sizes == [4, 2, *[1] * 16]  # 4 and 8 batches fail where each is halved alone
    assert [measures.item_id for measures in found] == [measures.item_id for measures in expected]
    np.testing.assert_allclose(found[3].mass, expected[3].mass, atol=MASS_BAR)


def test_a_failure_that_is_not_of_memory_is_no_reason_to_leave_an_item_out(
    vlm: VLM, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*inputs: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(replay, "read_tokens", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        case.replay(vlm, quarantine=lambda *row: None)
