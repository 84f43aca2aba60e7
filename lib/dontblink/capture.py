"""The attention function that measures itself: region masses and step maps while the model runs.

Why it exists: `output_attentions=True` keeps every [heads, queries, keys] matrix, gigabytes for one response.
This module keeps only what the paper needs, inside the forward pass: for each row that predicts a response
token, the attention mass on each region, and for each reasoning step, the mean attention to each image token.

In: a `RecordingPlan` (which rows, which keys, which weights) made by `plan_recording`, and a model whose text
layers run inside `record(...)`. Out: a `Recording`, read sample by sample. Two implementations, registered
with transformers as attention functions:

- `fused` (the default): prompt rows use SDPA; response rows use an explicit softmax, 128 rows at a time, and
  one QK pass gives the layer's output, the masses and the map.
- `chunk`: SDPA gives the output, a separate plain softmax the measures. The independent cross-check.

Never do here: know what a region or an item means, keep a full attention matrix, touch a module without
`layer_idx` (the vision tower calls the same attention function), or register without the mask interface:
transformers then hands padded samples NO mask, without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

Implementation = Literal["fused", "chunk"]
REGIONS = ("evidence", "other_image", "prompt", "earlier_response", "sink")  # a partition of the keys
MASS_COLUMNS = (*REGIONS, "control_box")  # the last one overlaps the others
CHUNK_ROWS = 128  # query rows per explicit softmax: bounds memory, changes no result
LANE = 8  # columns of the [value | weights] product are padded to this, a third faster on CPU


class CaptureError(RuntimeError):
    """The recording plan and the forward pass do not fit together; the message says where."""


@dataclass(frozen=True)
class Sample:
    """What to record for one sequence: R region weights per key, rows that predict tokens, image keys, steps.

    Rows `first_row ... first_row + n_rows - 1` are recorded; `steps` are half-open and count from `first_row`.
    """

    weights: NDArray[np.float32]  # [keys, R]
    first_row: int
    n_rows: int
    image_index: NDArray[np.int64]  # [M] keys of the image tokens
    steps: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class RecordingPlan:
    """A padded batch of `Sample`: B sequences of K keys, R regions, at most S steps and M image tokens."""

    samples: tuple[Sample, ...]
    weights: Tensor  # float32 [B, K, R], zero on padding
    step_weights: Tensor  # float32 [B, S, K] over query rows: 1 / step length inside the step
    image_index: Tensor  # int64 [B, M], -1 on padding

    @property
    def first_row(self) -> int:
        """The first row that any sample records; rows before it take the SDPA path."""
        return min(sample.first_row for sample in self.samples)

    @property
    def image_span(self) -> tuple[int, int]:
        """The half-open key range that holds every image token of the batch."""
        found = np.concatenate([sample.image_index for sample in self.samples])
        return (int(found.min()), int(found.max()) + 1) if len(found) else (0, 0)

    def active_steps(self, top: int, end: int) -> slice:
        """Return the steps with a row in top..end-1 of some sample, found on the CPU: no device sync."""
        active = [
            step
            for sample in self.samples
            for step, (a, b) in enumerate(sample.steps)
            if sample.first_row + a < end and sample.first_row + b > top
        ]
        return slice(min(active, default=0), max(active, default=-1) + 1)

    def to(self, device: torch.device) -> RecordingPlan:
        """Return the plan with its tensors on `device` (layers of a split model sit on several)."""
        tensors = (self.weights, self.step_weights, self.image_index)
        return RecordingPlan(self.samples, *(tensor.to(device) for tensor in tensors))


def plan_recording(samples: Sequence[Sample], n_keys: int) -> RecordingPlan:
    """Pad `samples` to one plan for a right-padded batch of `n_keys` positions."""
    n_steps = max(len(sample.steps) for sample in samples)
    n_image = max(len(sample.image_index) for sample in samples)
    weights = torch.zeros(len(samples), n_keys, samples[0].weights.shape[1])
    step_weights = torch.zeros(len(samples), n_steps, n_keys)
    image_index = torch.full((len(samples), n_image), -1)
    for row, sample in enumerate(samples):
        weights[row, : len(sample.weights)] = torch.from_numpy(sample.weights)
        image_index[row, : len(sample.image_index)] = torch.from_numpy(sample.image_index)
        for step, (start, stop) in enumerate(sample.steps):
            step_weights[row, step, sample.first_row + start : sample.first_row + stop] = 1 / (stop - start)
    return RecordingPlan(tuple(samples), weights, step_weights, image_index)


@dataclass
class Recording:
    """What one forward pass left behind: per layer, masses [B, H, rows, R] and step maps [B, H, S, M]."""

    plan: RecordingPlan
    n_layers: int
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def keep(self, layer: int, mass: Tensor, step_map: Tensor) -> None:
        """Store one layer; raise CaptureError if it ran before (a recording holds ONE forward pass)."""
        if layer in self.layers:
            raise CaptureError(f"layer {layer} ran twice in one recording; open `record` for each forward")
        self.layers[layer] = (mass, step_map)

    def read(self, row: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return sample `row`'s masses float32 [L, H, T, R] and step map float32 [S, L, H, M]."""
        found = len(self.layers)
        if found != self.n_layers:
            raise CaptureError(f"{found} of {self.n_layers} text layers recorded; run the model in `record`")
        sample, layers = self.plan.samples[row], [self.layers[layer] for layer in sorted(self.layers)]
        start = sample.first_row - self.plan.first_row
        n_steps, n_image = len(sample.steps), len(sample.image_index)
        mass = torch.stack([mass[row, :, start : start + sample.n_rows].cpu() for mass, _ in layers])
        maps = torch.stack([maps[row, :, :n_steps, :n_image].cpu() for _, maps in layers])
        return mass.numpy(), maps.permute(2, 0, 1, 3).contiguous().numpy()


_ACTIVE: ContextVar[Recording | None] = ContextVar("dontblink_recording", default=None)


@contextmanager
def record(
    model: PreTrainedModel, plan: RecordingPlan, implementation: Implementation = "fused"
) -> Iterator[Recording]:
    """Switch the text layers of `model` to a recording attention function for one forward pass.

    Raises
    ------
    CaptureError
        If the model is in training mode (dropout changes the attention), or the pass does not fit `plan`.
    """
    if model.training:
        raise CaptureError("the model is in training mode; call model.eval() before recording")
    text = model.config.get_text_config()
    before = text._attn_implementation
    recording = Recording(plan.to(model.device), text.num_hidden_layers)
    token = _ACTIVE.set(recording)
    try:
        model.set_attn_implementation({"text_config": f"dontblink_{implementation}"})
        yield recording
    finally:
        _ACTIVE.reset(token)
        model.set_attn_implementation({"text_config": before})


def attend_fused(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend and record in one pass; plain SDPA when nothing records or `module` is not a text layer.

    query [B, H, Q, D], key and value [B, Hk, K, D], mask None (causal) or [B, 1, Q, K]; returns [B, Q, H, D].
    """
    recording = _recording_for(module, query, key)
    if recording is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    plan = recording.plan.to(query.device)
    batch, n_heads, n_rows, _ = query.shape
    start = plan.first_row
    output = query.new_empty(batch, n_rows, n_heads, value.shape[-1])
    if start:
        mask = None if attention_mask is None else attention_mask[..., :start, :start]
        q, k, v = query[:, :, :start], key[:, :, :start], value[:, :, :start]
        output[:, :start] = sdpa_attention_forward(module, q, k, v, mask, **kwargs)[0]
    mass = plan.weights.new_empty(batch, n_heads, n_rows - start, plan.weights.shape[-1])
    low, high = plan.image_span
    spanned = plan.weights.new_zeros(batch, n_heads, plan.step_weights.shape[1], high - low)
    joined = _join(value, plan.weights) if value.dtype is torch.float32 else None
    for top in range(start, n_rows, CHUNK_ROWS):
        end = min(top + CHUNK_ROWS, n_rows)
        attention = _softmax_rows(query, key, attention_mask, top, end, kwargs["scaling"])
        part, mass[:, :, top - start : end - start] = _weigh(attention, value, plan.weights, joined)
        output[:, top:end] = part.transpose(1, 2)
        # Steps are short: only those with a row in this chunk, and only keys that exist yet, cost anything.
        steps, seen = plan.active_steps(top, end), attention[..., low:high]
        spanned[:, :, steps, : seen.shape[-1]] += plan.step_weights[:, None, steps, top:end] @ seen
    index = (plan.image_index - low).clamp(min=0)[:, None, None].expand(*spanned.shape[:3], -1)
    recording.keep(module.layer_idx, mass, spanned.gather(-1, index))  # type: ignore[arg-type]
    return output, None


def attend_chunk(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend by SDPA, then measure by a separate plain softmax: slow, short, shares no step with `fused`."""
    output = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    recording = _recording_for(module, query, key)
    if recording is None:
        return output
    plan = recording.plan.to(query.device)
    keys = key.float().repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    position = torch.arange(key.shape[2], device=key.device)
    index = plan.image_index.clamp(min=0)[:, None, None]
    masses, maps = [], []
    for top in range(plan.first_row, len(position), CHUNK_ROWS):
        rows = position[top : top + CHUNK_ROWS]
        scores = torch.einsum("bhcd,bhkd->bhck", query[:, :, rows].float(), keys) * kwargs["scaling"]
        allowed = position <= rows[:, None] if attention_mask is None else attention_mask[:, :, rows]
        attention = scores.masked_fill(~allowed, torch.finfo(torch.float32).min).softmax(-1)
        masses.append(torch.einsum("bhck,bkr->bhcr", attention, plan.weights))
        image = attention.gather(-1, index.expand(*attention.shape[:3], -1))
        maps.append(torch.einsum("bsc,bhcm->bhsm", plan.step_weights[..., rows], image))
    recording.keep(module.layer_idx, torch.cat(masses, dim=2), torch.stack(maps).sum(0))  # type: ignore[arg-type]
    return output


def _recording_for(module: nn.Module, query: Tensor, key: Tensor) -> Recording | None:
    """Return the open recording if `module` is a text layer; raise CaptureError if it was planned otherwise."""
    recording = _ACTIVE.get()
    if recording is None or not hasattr(module, "layer_idx"):
        return None
    n_samples, n_keys, _ = recording.plan.weights.shape
    found, planned = (query.shape[0], query.shape[2], key.shape[2]), (n_samples, n_keys, n_keys)
    if found != planned:
        raise CaptureError(f"(batch, rows, keys) are {found}, planned {planned}; record one uncached pass")
    return recording


def _softmax_rows(q: Tensor, k: Tensor, mask: Tensor | None, top: int, end: int, scaling: float) -> Tensor:
    """Return the attention of rows top..end-1, float32 [B, H, end - top, end]: later keys cost nothing."""
    rows = q[:, :, top:end] * scaling if q.dtype is torch.float32 else q[:, :, top:end]
    grouped = rows.reshape(len(q), k.shape[1], -1, q.shape[-1])  # heads that share keys: no repeat_kv
    scores = (grouped @ k[:, :, :end].mT).float().view(len(q), q.shape[1], end - top, end)
    if q.dtype is not torch.float32:
        scores.mul_(scaling)  # after the product, since a scaled bf16 query would be rounded once more
    if mask is None:
        scores[..., top:].add_(torch.full((end - top, end - top), -torch.inf, device=q.device).triu(1))
    else:
        scores.masked_fill_(~mask[..., top:end, :end], torch.finfo(torch.float32).min)
    return scores.softmax(-1)


def _join(value: Tensor, weights: Tensor) -> Tensor:
    """Return [value | weights | 0], [B, Hk, K, D + R + pad]: one product then gives output and masses."""
    shared = weights[:, None].expand(-1, value.shape[1], -1, -1)
    blank = -(value.shape[-1] + weights.shape[-1]) % LANE
    return nn.functional.pad(torch.cat([value, shared], dim=-1), (0, blank))


def _weigh(attention: Tensor, value: Tensor, weights: Tensor, joined: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return output [B, H, rows, D] in value's dtype and masses float32 [B, H, rows, R]."""
    n_rows, n_keys = attention.shape[2:]
    grouped = attention.view(len(value), value.shape[1], -1, n_keys)
    if joined is None:  # bf16 or fp16: rounded weights would round the masses
        output = grouped.to(value.dtype) @ value[:, :, :n_keys]
        mass = grouped @ weights[:, None, :n_keys]
    else:
        product, width = grouped @ joined[:, :, :n_keys], value.shape[-1]
        output, mass = product[..., :width], product[..., width : width + weights.shape[-1]]
    shape = (*attention.shape[:2], n_rows, -1)
    return output.reshape(shape), mass.reshape(shape)


for _name, _function in (("dontblink_fused", attend_fused), ("dontblink_chunk", attend_chunk)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, sdpa_mask)
