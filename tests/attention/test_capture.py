"""The recording attention function: masks, grouped heads, padding, and what it must not touch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import FAMILY_NAMES, UNPLAIN, VLM, build_vlm, draw_prompt
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.qwen3_vl.modeling_qwen3_vl import eager_attention_forward  # noqa: F401  # of `TextLayer`

from dontblink.attention import capture
from dontblink.attention.capture import (
    CHUNK_ROWS,
    NARROW_CHUNK_ROWS,
    Recording,
    RecordingPlan,
    Sample,
    attend_generic,
    attend_split,
    plan_recording,
    record,
    sum_up,
)
from dontblink.errors import NamedError

IMPLEMENTATIONS = ("split", "generic")


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def vlm(request: pytest.FixtureRequest) -> VLM:
    return build_vlm(request.param)


class TextLayer(torch.nn.Module):
    """What an attention function reads of the module that calls it."""

    def __init__(self, n_groups: int, layer: int | None = 0) -> None:
        super().__init__()
        self.num_key_value_groups, self.is_causal = n_groups, True
        if layer is not None:
            self.layer_idx = layer


def draw_sample(rng: np.random.Generator, n_keys: int, first_row: int, steps: list[tuple[int, int]]) -> Sample:
    """Return random soft weights of 3 regions, two image tokens, rows `first_row` to the last but one."""
    weights = rng.random((n_keys, 3)).astype(np.float32)
    return Sample(weights, first_row, n_keys - 1 - first_row, np.array([1, 3]), steps)


def attend_plainly(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> Any:
    """Return the causal attention matrix [B, H, K, K] and output [B, K, H, D], in float64, head by head."""
    n_shared = query.shape[1] // key.shape[1]
    attention = torch.zeros(*query.shape[:2], query.shape[2], key.shape[2], dtype=torch.float64)
    output = torch.zeros(query.shape[0], query.shape[2], query.shape[1], value.shape[3], dtype=torch.float64)
    for head in range(query.shape[1]):
        scores = query[:, head].double() @ key[:, head // n_shared].double().mT * scaling
        hidden = torch.ones(scores.shape[1:]).triu(1).bool()
        attention[:, head] = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        output[:, :, head] = attention[:, head] @ value[:, head // n_shared].double()
    return attention, output


def run_attention(attend: Any, plan: Any, *tensors: torch.Tensor, n_groups: int = 2) -> tuple[Any, Recording]:
    """Run one attention function as layer 0 of a one-layer recording."""
    recording = Recording(plan)
    token = capture.ACTIVE.set(recording)
    try:
        output, _ = attend(TextLayer(n_groups), *tensors, None, scaling=0.5)
    finally:
        capture.ACTIVE.reset(token)
    return output, recording


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_groups=st.sampled_from([1, 2, 4]),
    n_keys=st.sampled_from([6, CHUNK_ROWS + 4, 2 * CHUNK_ROWS + 9]),
    width=st.sampled_from([5, 16]),
)
@pytest.mark.parametrize("attend", [attend_split, attend_generic])
def test_grouped_heads_give_the_output_masses_and_map_of_a_plain_softmax(
    attend: Any, seed: int, n_groups: int, n_keys: int, width: int
) -> None:
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    query = torch.randn(2, 4, n_keys, width, generator=generator)
    key, value = (torch.randn(2, 4 // n_groups, n_keys, width, generator=generator) for _ in range(2))
    samples = [
        draw_sample(rng, n_keys, 4, [(0, n_keys - 5)]),
        draw_sample(rng, n_keys - 1, 0, [(0, 1), (1, n_keys - 3)]),
    ]
    plan = plan_recording(samples, n_keys)
    output, recording = run_attention(attend, plan, query, key, value, n_groups=n_groups)
    attention, expected = attend_plainly(query, key, value, 0.5)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=5e-6)
    for row, sample in enumerate(samples):
        rows = attention[row, :, sample.first_row : sample.first_row + sample.n_rows, : len(sample.weights)]
        mass, step_map = recording.read(row)
        np.testing.assert_allclose(mass[0], rows.numpy() @ sample.weights, rtol=0, atol=2e-6)
        for number, (start, stop) in enumerate(sample.steps):
            mean = rows[:, start:stop][..., [1, 3]].mean(1)
            np.testing.assert_allclose(step_map[number, 0], mean.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("first_row", [0, 1, 4, 7, NARROW_CHUNK_ROWS + 3])
@pytest.mark.parametrize("n_keys", [9, NARROW_CHUNK_ROWS + 4, 2 * NARROW_CHUNK_ROWS + 9])
def test_narrow_numbers_give_what_a_plain_softmax_gives_after_rounding(first_row: int, n_keys: int) -> None:
    first_row %= n_keys - 1
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, n_keys, 16, generator=generator).bfloat16()
    key, value = (torch.randn(1, 2, n_keys, 16, generator=generator).bfloat16() for _ in range(2))
    sample = draw_sample(rng, n_keys, first_row, [])
    output, recording = run_attention(attend_split, plan_recording([sample], n_keys), query, key, value)
    attention, expected = attend_plainly(query, key, value, 0.5)
    # 8 bits: scores of up to about 10 are off by up to 2**-5, their softmax by that share; values by 2**-9 each
    torch.testing.assert_close(output.double(), expected, rtol=0.05, atol=0.05)
    rows = attention[0, :, first_row : n_keys - 1]
    np.testing.assert_allclose(recording.read(0)[0][0], rows.numpy() @ sample.weights, rtol=0.05, atol=0)


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 0.0), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("n_groups", [1, 4])
@pytest.mark.parametrize("n_after", [1, 2, 3, CHUNK_ROWS, NARROW_CHUNK_ROWS + 1])
def test_a_response_summed_up_as_one_key_gives_what_all_its_keys_give(
    dtype: torch.dtype, share: float, n_groups: int, n_after: int
) -> None:
    """Prompts of 7, 30 and 12 keys, so that rows of two samples see response keys which are not summed up."""
    n_keys, generator, rng = 30 + n_after, torch.Generator().manual_seed(n_after), np.random.default_rng(n_after)
    query = 2 * torch.randn(3, 4, n_keys, 8, generator=generator)
    key, value = (torch.randn(3, 4 // n_groups, n_keys, 8, generator=generator) for _ in range(2))
    query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    samples = []
    for n_prompt, n in ((7, n_keys), (30, n_keys - 1 + n_after % 2), (12, 14)):
        weights = rng.random((n, 3)).astype(np.float32)
        weights[n_prompt:] = weights[n_prompt - 1] / 2
        steps = [(0, 1), (n - n_prompt - 1, n - n_prompt)]
        samples.append(Sample(weights, n_prompt - 1, n - n_prompt, np.array([1, 3]), steps))
    plan = plan_recording(samples, n_keys)
    assert (plan.first_row, plan.tail) == (6, 30)
    summed: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "sum_up", lambda *inputs: summed.append(inputs[1].shape[2]) or sum_up(*inputs))
        output, recording = run_attention(attend_split, plan, query, key, value, n_groups=n_groups)
    even = n_after // 2 * 2 if dtype is torch.bfloat16 else n_after
    assert summed == [even] * bool(even)
    attention, expected = attend_plainly(query, key, value, 0.5)
    torch.testing.assert_close(output.double(), expected, rtol=share, atol=share or 2e-6)
    for row, sample in enumerate(samples):
        rows = attention[row, :, sample.first_row : sample.first_row + sample.n_rows, : len(sample.weights)].numpy()
        mass, step_map = recording.read(row)
        np.testing.assert_allclose(mass[0], rows @ sample.weights, rtol=share, atol=2e-6)
        for number, (start, stop) in enumerate(sample.steps):
            mean = rows[:, start:stop][..., [1, 3]].mean(1)
            np.testing.assert_allclose(step_map[number, 0], mean, rtol=2 * share, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n_rows", [1, 2, 33, 600])
def test_the_private_kernel_gives_the_output_of_sdpa_and_the_logsumexp_of_its_scores(
    dtype: torch.dtype, n_rows: int
) -> None:
    generator = torch.Generator().manual_seed(n_rows)
    # as a model hands them over: [B, T, H, D] transposed, of which the first rows are cut off
    query, key, value = (torch.randn(2, n_rows + 5, n, 16, generator=generator).to(dtype) for n in (6, 3, 3))
    query, key, value = (tensor.transpose(1, 2)[:, :, 5:] for tensor in (query, key, value))
    output, sums = sum_up(query, key, value, 0.5)
    public = torch.nn.functional.scaled_dot_product_attention
    assert torch.equal(output, public(query, key, value, is_causal=True, scale=0.5, enable_gqa=True))
    scores = query.double() @ key.double().repeat_interleave(2, dim=1).mT * 0.5
    truth = scores.masked_fill(torch.ones(n_rows, n_rows).triu(1).bool(), -torch.inf).logsumexp(-1)
    assert sums.dtype is torch.float32
    torch.testing.assert_close(sums.double(), truth, rtol=0, atol=5e-6 if dtype is torch.float32 else 2e-4)


class Kernels(TorchDispatchMode):
    """Keeps the attention kernels that are called; can leave their sums out, as some do where nobody asks."""

    def __init__(self, is_silent: bool) -> None:
        super().__init__()
        self.is_silent, self.names = is_silent, []  # type: ignore[var-annotated]

    def __torch_dispatch__(self, kernel: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = kernel(*args, **(kwargs or {}))
        if "attention" not in str(kernel):
            return found
        self.names.append(str(kernel).removeprefix("aten._scaled_dot_product_").removesuffix("_attention.default"))
        return (found[0], found[1].narrow(-1, 0, 0), *found[2:]) if self.is_silent else found


@pytest.mark.parametrize("name", ["flash", "efficient"])
def test_on_cuda_there_is_one_sum_a_row_or_a_refusal_that_names_the_way_out(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shapes alone, by torch's description of the kernels, without a device."""
    monkeypatch.setattr(torch.backends.cuda, "can_use_flash_attention", lambda inputs: name == "flash")
    with FakeTensorMode():
        query = torch.empty(2, 6, 33, 64, device="cuda", dtype=torch.bfloat16)
        key = torch.empty(2, 3, 33, 64, device="cuda", dtype=torch.bfloat16)
        with torch.no_grad(), Kernels(is_silent=False) as kernels:
            output, sums = sum_up(query, key, key, 0.5)
        assert kernels.names == [name]
        assert (output.shape, sums.shape, sums.dtype) == (query.shape, query.shape[:3], torch.float32)
        message = r"bfloat16 \(2, 6, 33, 64\) on cuda:0: expected one float32 .* found \(2, 6, 0\); set .* to generic"
        with Kernels(is_silent=True), pytest.raises(NamedError, match=message):
            sum_up(query, key, key, 0.5)
    monkeypatch.setattr(torch.backends.cuda, "can_use_flash_attention", lambda inputs: False)
    other = torch.empty(1, 1, 2, 8, device="meta")
    with pytest.raises(NamedError, match=r"on meta: expected one float32 logsumexp a row, found \(0,\)"):
        sum_up(other, other, other, 0.5)


def read_last_logits(vlm: VLM, batch: dict[str, Any], implementation: str) -> torch.Tensor:
    """Return the logits of the last row of each sample under one text attention implementation."""
    vlm.model.set_attn_implementation({"text_config": implementation})
    with torch.inference_mode():
        logits = vlm.model(**batch, use_cache=False).logits[:, -1]
    vlm.model.set_attn_implementation({"text_config": "sdpa"})
    return logits


def draw_padded_pair(vlm: VLM) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a left-padded batch of a short and a long prompt with its 2-D mask, and the short one alone."""
    rng = np.random.default_rng(0)
    short, long = draw_prompt(rng, "short", n_text=3), draw_prompt(rng, "long", n_text=30)
    return vlm.collate([short, long], side="left"), vlm.collate([short], side="left")


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_padded_samples_see_their_mask(vlm: VLM, implementation: str) -> None:
    padded, alone = draw_padded_pair(vlm)
    found = read_last_logits(vlm, padded, f"dontblink_{implementation}")[0]
    torch.testing.assert_close(found, read_last_logits(vlm, alone, "sdpa")[0], rtol=0, atol=1e-4)


def test_without_the_mask_interface_padded_samples_silently_lose_their_mask(
    vlm: VLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trap: transformers gives NO mask to an attention function that only AttentionInterface knows."""
    padded, alone = draw_padded_pair(vlm)
    monkeypatch.setitem(AttentionInterface._global_mapping, "half_registered", sdpa_attention_forward)
    found = read_last_logits(vlm, padded, "half_registered")[0]
    assert (found - read_last_logits(vlm, alone, "sdpa")[0]).abs().max() > 0.1


def record_masses(vlm: VLM, batch: dict[str, Any], samples: list[Sample], implementation: str) -> Any:
    """Return sample 0's masses in one recorded forward pass."""
    plan = plan_recording(samples, batch["input_ids"].shape[1])
    with torch.inference_mode(), record(vlm.model, plan, implementation) as recording:  # type: ignore[arg-type]
        vlm.model.model(**batch, use_cache=False)
    return recording.read(0)[0]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_recorded_masses_respect_a_2d_padding_mask_and_break_without_it(
    vlm: VLM, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded, alone = draw_padded_pair(vlm)
    n_alone, n_padded = alone["input_ids"].shape[1], padded["input_ids"].shape[1]
    rng = np.random.default_rng(1)
    weights = rng.random((n_alone, 2)).astype(np.float32)
    shifted = np.zeros((n_padded, 2), dtype=np.float32)
    shifted[n_padded - n_alone :] = weights
    single = [Sample(weights, n_alone - 3, 3, np.array([2]), [])]
    pair = [Sample(shifted, n_padded - 3, 3, np.array([2]), [])] * 2
    truth = record_masses(vlm, alone, single, implementation)
    np.testing.assert_allclose(record_masses(vlm, padded, pair, implementation), truth, rtol=0, atol=2e-6)
    monkeypatch.delitem(AttentionMaskInterface._global_mapping, f"dontblink_{implementation}")
    assert np.abs(record_masses(vlm, padded, pair, implementation) - truth).max() > 0.05


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_vision_tower_is_untouched_even_if_it_calls_our_function(vlm: VLM, implementation: str) -> None:
    batch, _ = draw_padded_pair(vlm)
    n_keys = batch["input_ids"].shape[1]
    rng = np.random.default_rng(0)
    plan = plan_recording([draw_sample(rng, n_keys, 20, [])] * 2, n_keys)

    def see(model: Any) -> Any:
        return model.get_image_features(batch["pixel_values"], batch["image_grid_thw"]).pooler_output

    with torch.inference_mode():
        before = see(vlm.model.model)
        with record(vlm.model, plan, implementation) as recording:  # type: ignore[arg-type]
            vlm.model.set_attn_implementation(f"dontblink_{implementation}")  # the vision tower too
            after = see(vlm.model.model)
            assert recording.layers == {}
            vlm.model.model(**batch, use_cache=False)
    vlm.model.set_attn_implementation("sdpa")
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)
    assert sorted(recording.layers) == [0, 1, 2]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nothing_changes_when_nothing_records(vlm: VLM, implementation: str) -> None:
    padded, _ = draw_padded_pair(vlm)
    ours, theirs = (read_last_logits(vlm, padded, name) for name in (f"dontblink_{implementation}", "sdpa"))
    assert torch.equal(ours, theirs)


@pytest.fixture
def plan() -> RecordingPlan:
    return plan_recording([draw_sample(np.random.default_rng(0), 9, 4, [])], 9)


def test_record_restores_the_implementation_even_after_an_error(vlm: VLM, plan: RecordingPlan) -> None:
    config = vlm.model.config
    with pytest.raises(KeyError, match="stop"), record(vlm.model, plan):
        assert config.get_text_config()._attn_implementation == "dontblink_split"
        assert config.vision_config._attn_implementation == "sdpa"
        raise KeyError("stop")
    assert config.get_text_config()._attn_implementation == "sdpa"
    batch, _ = draw_padded_pair(vlm)
    read_last_logits(vlm, batch, "dontblink_split")  # would raise if the recording were still open


def test_a_pass_that_is_not_there_or_does_not_fit_the_plan_or_drops_out_is_an_error(
    vlm: VLM, plan: RecordingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with record(vlm.model, plan) as recording, pytest.raises(NamedError, match="no text layer recorded"):
        recording.read(0)
    batch, _ = draw_padded_pair(vlm)
    with pytest.raises(NamedError, match=r"planned \(1, 9, 9\)"), record(vlm.model, plan):
        vlm.model.model(**batch, use_cache=False)
    monkeypatch.setattr(vlm.model, "training", True)
    with pytest.raises(NamedError, match="training mode"), record(vlm.model, plan):
        pass


def test_a_second_pass_in_one_recording_is_an_error(vlm: VLM) -> None:
    _, batch = draw_padded_pair(vlm)
    n_keys = batch["input_ids"].shape[1]
    plan = plan_recording([draw_sample(np.random.default_rng(0), n_keys, 4, [])], n_keys)
    with torch.inference_mode(), record(vlm.model, plan):
        vlm.model.model(**batch, use_cache=False)
        with pytest.raises(NamedError, match="layer 0 ran twice"):
            vlm.model.model(**batch, use_cache=False)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_layers_share_one_scratch_block_and_one_copy_of_the_plan(
    vlm: VLM, implementation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, batch = draw_padded_pair(vlm)
    n_keys = batch["input_ids"].shape[1]
    plan = plan_recording([draw_sample(np.random.default_rng(0), n_keys, 4, [])], n_keys)
    blocks, copies, to = list[torch.Size](), list[torch.device](), RecordingPlan.to

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            if func is torch.ops.aten.new_empty.default and made.ndim == 2:
                blocks.append(made.shape)
            return made

    monkeypatch.setattr(RecordingPlan, "to", lambda plan, device: copies.append(device) or to(plan, device))
    with torch.inference_mode(), record(vlm.model, plan, implementation) as recording, Watch():
        vlm.model.model(**batch, use_cache=False)
    assert len(recording.layers) == 3 and copies == [torch.device("cpu")]
    assert len(blocks) == (implementation == "split")
    far = torch.device("meta")  # stands for a second card
    assert recording.plan_on(far) is recording.plan_on(far) and recording.plan_on(far).weights.device == far
    assert copies == [torch.device("cpu"), far]


def test_a_plan_pads_keys_steps_and_image_tokens() -> None:
    rng = np.random.default_rng(0)
    long, short = draw_sample(rng, 12, 5, [(0, 2), (2, 6)]), draw_sample(rng, 8, 3, [(0, 4)])
    short = Sample(short.weights, 3, 4, np.array([2]), short.steps)
    plan = plan_recording([long, short], 12)
    assert plan.first_row == 3 and plan.image_span == (1, 4) and plan.tail == 11  # every key has weights of its own
    assert plan.image_index.tolist() == [[1, 3], [2, -1]]
    assert plan.weights[1, 8:].abs().max() == 0
    assert plan.step_weights[1, 0].tolist() == [0, 0, 0, 0.25, 0.25, 0.25, 0.25, 0, 0, 0, 0, 0]
    assert plan.step_weights[1, 1].abs().max() == 0
    assert plan.active_steps(3, 5) == slice(0, 1)  # only the short sample's step
    assert plan.active_steps(8, 12) == slice(1, 2)  # rows of the long sample's second step
    assert plan.active_steps(11, 12) == slice(0, 0)
    flat = np.ones((12, 3), np.float32)  # one region: the last image token, or the first row, comes last
    tails = [plan_recording([Sample(flat, row, 3, np.array([1, 6]), [])], 12).tail for row in (2, 8)]
    assert tails == [7, 9]


@pytest.mark.parametrize("name", UNPLAIN)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_sinks_and_soft_caps_are_those_of_the_models_own_code(
    name: str, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(AttentionInterface._global_mapping, "kernel_alone", sdpa_attention_forward)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "kernel_alone", sdpa_mask)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(UNPLAIN[name], attn_implementation="eager").eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.5)  # sinks begin empty
    ids = torch.randint(60, (2, 12), generator=torch.Generator().manual_seed(1))
    sample = Sample(np.eye(12, 13, dtype=np.float32), 5, 6, np.array([1, 3]), [(0, 6)])
    with torch.no_grad():
        truth = model(ids, output_attentions=True)
        with record(model, plan_recording([sample, sample], 12), implementation) as recording:
            found = model(ids)
        if name == "gpt_oss":  # where SDPA drops the sinks without a word; it refuses soft caps by name
            model.set_attn_implementation("kernel_alone")
            assert (model(ids).logits - truth.logits).abs().max() > 1e-3
    torch.testing.assert_close(found.logits, truth.logits, rtol=0, atol=1e-5)
    for row in range(2):
        mass, step_map = recording.read(row)
        expected = torch.stack([layer[row, :, 5:11] for layer in truth.attentions])
        np.testing.assert_allclose(mass[..., :-1], expected.numpy(), rtol=0, atol=1e-6)
        np.testing.assert_allclose(mass[..., -1], 1 - expected.sum(-1).numpy(), rtol=0, atol=1e-6)
        np.testing.assert_allclose(step_map[0], expected.mean(2)[..., [1, 3]].numpy(), rtol=0, atol=1e-6)
    assert (mass[..., -1].max() > 0.01) == (name == "gpt_oss")  # what lies on the sinks


@pytest.mark.parametrize("attend", [attend_split, attend_generic])
def test_a_prompt_that_sees_itself_both_ways_keeps_its_later_keys(attend: Any) -> None:
    generator, n_keys, n_prompt = torch.Generator().manual_seed(2), 14, 9
    query = torch.randn(1, 4, n_keys, 16, generator=generator)
    key, value = (torch.randn(1, 2, n_keys, 16, generator=generator) for _ in range(2))
    mask = torch.ones(n_keys, n_keys, dtype=torch.bool).tril()
    mask[:n_prompt, :n_prompt] = True
    plan = plan_recording([Sample(np.eye(n_keys, dtype=np.float32), 5, 8, np.array([1]), [])], n_keys)
    recording = Recording(plan)
    token = capture.ACTIVE.set(recording)
    try:
        output, _ = attend(TextLayer(2), query, key, value, mask[None, None], scaling=0.5)
    finally:
        capture.ACTIVE.reset(token)
    scores = query.double() @ key.double().repeat_interleave(2, dim=1).mT * 0.5
    attention = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    expected = (attention @ value.double().repeat_interleave(2, dim=1)).transpose(1, 2)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=5e-6)
    np.testing.assert_allclose(recording.read(0)[0][0], attention[0, :, 5:13].numpy(), rtol=0, atol=2e-6)


def test_the_fast_function_is_taken_for_both_families(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "attend_generic", lambda *_, **named: pytest.fail(f"handed over: {sorted(named)}"))
    padded, _ = draw_padded_pair(vlm)
    read_last_logits(vlm, padded, "dontblink_split")


def test_a_layer_without_an_eager_function_of_its_own_is_named() -> None:
    class Foreign(TextLayer):
        """A layer of a file that has none."""

    Foreign.__module__ = "json"
    with pytest.raises(NamedError, match="Foreign: its modeling file has no eager_attention_forward"):
        capture.find_eager(Foreign(2))
