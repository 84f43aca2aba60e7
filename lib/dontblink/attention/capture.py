"""The attention function that measures itself: region masses and step maps while the model runs.

Why it exists: `output_attentions=True` keeps every [heads, queries, keys] matrix, gigabytes for one response.
This module keeps only what the paper needs, inside the forward pass: for each row that predicts a response
token, the attention mass on each region, and for each reasoning step, the mean attention to each image token.

In: a `RecordingPlan` (which rows, which keys, which weights) made by `plan_recording`, and a model that runs
inside `record(...)`. Out: a `Recording`, read sample by sample; with head sets, maps are summed over their heads
layer by layer, because the maps of a thousand heads would not fit. Two attention functions do the work:

- `split` (the default): prompt rows use SDPA. For response rows, a fused kernel makes ONE key of the response's keys,
  which all lie in one region: its score is their logsumexp, its value is what they alone would give. An explicit
  softmax over the prompt's keys and that one gives the layer's output, the masses and the map; no score is found twice.
- `generic`: the eager function of the model's own modeling file, some rows at a time, gives the output and the
  measures. Any model that has one, at several times the cost; and the independent cross-check of `split`, which hands
  over to it what it does not know: a mask that lets a row see later keys, or an argument that changes the scores.

Layers are the modules that called, in the order of their calls: a hybrid has fewer than its configuration counts. The
LAST region takes what no key does: the share of learned sinks, by which a row of their keys' weights misses 1. Where a
model is split by heads over the ranks of a process group, each rank keeps the heads of all.

Never do here: know what any other region or an item means, keep a full attention matrix, touch a module without
`layer_idx` (the vision tower calls the same attention function), or register without the mask interface:
transformers then hands padded samples NO mask, without a word.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from dontblink.errors import NamedError

Implementation = Literal["split", "generic"]
CHUNK_ROWS = 64  # query rows per explicit softmax: bounds memory, changes no result; 64 was fastest in float32
NARROW_CHUNK_ROWS = 128  # the same for narrower dtypes, whose matrix units are half as fast on 64 rows
# Arguments that come with every call and leave the scores as they are, once the mask holds the window.
PLAIN = {
    "scaling", "dropout", "sliding_window", "is_causal", "position_ids", "cache_position", "use_cache",
    "output_attentions", "output_hidden_states", "return_dict", "logits_to_keep", "output_router_logits",
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """What to record for one sequence: R region weights per key, rows that predict tokens, image keys, steps.

    The `n_rows` rows from `first_row` on are recorded; `steps` are half-open and count from `first_row`.
    """

    weights: NDArray[np.float32]  # [keys, R]
    first_row: int
    n_rows: int
    image_index: NDArray[np.int64]  # [M] keys of the image tokens
    steps: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class RecordingPlan:
    """A padded batch of `Sample`: B sequences of K keys, R regions, at most S steps and M image tokens.

    From key `tail` on, which is later than `first_row`, a sample's keys all weigh the same and none is an image token.
    """

    samples: tuple[Sample, ...]
    weights: Tensor  # float32 [B, K, R], zero on padding
    step_weights: Tensor  # float32 [B, S, K] over query rows: 1 / step length inside the step
    image_index: Tensor  # int64 [B, M], -1 on padding
    head_sets: Tensor | None  # float32 [G, L, H] on the CPU, weights of every head in a set
    tail: int

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
        ranges = [(n, s.first_row + a, s.first_row + b) for s in self.samples for n, (a, b) in enumerate(s.steps)]
        active = [step for step, low, high in ranges if low < end and high > top]
        return slice(min(active, default=0), max(active, default=-1) + 1)

    def to(self, device: torch.device) -> RecordingPlan:
        """Return the plan with its tensors on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("weights", "step_weights", "image_index")}
        return replace(self, **moved)


def plan_recording(
    samples: Sequence[Sample], n_keys: int, head_sets: NDArray[np.float32] | None = None
) -> RecordingPlan:
    """Pad `samples` to one plan for a right-padded batch of `n_keys` positions.

    `head_sets` float32 [G, L, H] are the weights by which maps are summed over heads; None keeps each head's map.
    """
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
    sets = None if head_sets is None else torch.from_numpy(head_sets)
    changes = [np.flatnonzero((s.weights[1:] != s.weights[:-1]).any(axis=1)) for s in samples]
    last = max(int(found.max(initial=0)) for found in (*changes, *(s.image_index for s in samples)))
    tail = 1 + max(last, min(sample.first_row for sample in samples))
    return RecordingPlan(tuple(samples), weights, step_weights, image_index, sets, tail)


@dataclass
class Recording:
    """What one forward pass left behind: masses [B, H, rows, R] by layer; maps [B, H, S, M], or one [B, G, S, M]."""

    plan: RecordingPlan
    name: str = ""  # of the model's class
    n_ranks: int = 1
    n_heads: int = 0  # of all ranks together
    layers: dict[int, Tensor] = field(default_factory=dict)
    maps: list[Tensor] = field(default_factory=list)
    scratch: dict[torch.device, Tensor] = field(default_factory=dict)
    plans: dict[torch.device, RecordingPlan] = field(default_factory=dict)

    def plan_on(self, device: torch.device) -> RecordingPlan:
        """Return the plan on a device, copied once for all its layers: those of a split model sit on several."""
        if device not in self.plans:
            self.plans[device] = self.plan.to(device)
        return self.plans[device]

    def read(self, row: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return sample `row`'s masses float32 [L, H, T, R] and step maps float32 [S, L, H, M], or [S, G, M]."""
        check_heads(self.name, (mass.shape[1] for mass in self.layers.values()))
        sample, masses = self.plan.samples[row], list(self.layers.values())
        start = sample.first_row - self.plan.first_row
        n_steps, n_image = len(sample.steps), len(sample.image_index)
        mass = torch.stack([mass[row, :, start : start + sample.n_rows].cpu() for mass in masses])
        maps = torch.stack([maps[row, :, :n_steps, :n_image].cpu() for maps in self.maps])
        maps = maps.permute(2, 0, 1, 3) if self.plan.head_sets is None else maps[0].transpose(0, 1)
        return mass.numpy(), maps.contiguous().numpy()

    def keep(self, layer: int, mass: Tensor, maps: Tensor) -> None:
        """Keep a layer's masses [B, H, rows, R] and its maps [B, H, S, M], or add these to each head set's sum."""
        mass, maps = (gather_heads(part, self.n_ranks, self.n_heads) for part in (mass, maps))
        if (sets := self.plan.head_sets) is not None:
            own = sets[:, len(self.layers)].tolist()
            maps = torch.stack(sum_heads(own, maps.unbind(1)), 1) if len(sets) else maps[:, :0]
            maps = self.maps.pop().to(maps.device) + maps if self.maps else maps
        self.layers[layer] = mass
        self.maps.append(maps)


def sum_heads(weights: Sequence[Sequence[float]], heads: Sequence[Any]) -> list[Any]:
    """Return the sum of one layer's heads for each row of weights, one head after the other.

    Maps that are summed in the pass and maps of single heads that are summed later so have the same bits, whatever
    shared their batch: a matrix product may add in another order.
    """
    return [sum((w * head for w, head in zip(row, heads, strict=True) if w), heads[0] * 0) for row in weights]


def check_heads(name: str, n_heads: Iterable[int]) -> None:
    """Raise NamedError unless layers have been recorded, all of them with as many heads."""
    if not (found := sorted(set(n_heads))):
        raise NamedError(f"{name}: no text layer recorded: it did not run inside, or calls no attention function")
    if len(found) > 1:
        raise NamedError(f"{name}: its layers have {' or '.join(map(str, found))} heads, not one number; not measured")


def gather_heads(own: Tensor, n_ranks: int, n_heads: int) -> Tensor:
    """Return what all ranks have of their heads [B, H / n_ranks, ...], in the order of the ranks.

    Raises NamedError where every rank has all heads: transformers loads a model whose class has no plan for tensor
    parallelism whole on every rank, without a word.
    """
    if n_ranks == 1:
        return own
    if own.shape[1] * n_ranks != n_heads:
        found = f"{own.shape[1]} of {n_heads} heads on each of {n_ranks} ranks"
        raise NamedError(f"{found}: its class does not split attention; give a tp_plan that does, or use device_map")
    parts = [torch.empty_like(own) for _ in range(n_ranks)]
    torch.distributed.all_gather(parts, own.contiguous())
    return torch.cat(parts, dim=1)


def count_heads(model: Any) -> tuple[int, int]:
    """Return over how many ranks of a process group a model is split and, then, how many heads a layer has in all."""
    if (n_ranks := int(getattr(model, "tp_size", None) or 1)) == 1:
        return 1, 0
    return n_ranks, int(model.config.get_text_config(decoder=True).num_attention_heads)


ACTIVE: ContextVar[Any] = ContextVar("dontblink_recording", default=None)  # a Recording, or what watches generation


@contextmanager
def record(model: Any, plan: RecordingPlan, implementation: Implementation = "split") -> Iterator[Recording]:
    """Switch the text layers of `model` to a recording attention function for one forward pass, without gradients.

    Raises NamedError if the model is in training mode (dropout), or if the pass does not fit `plan`.
    """
    if model.training:
        raise NamedError("the model is in training mode; call model.eval() before recording")
    recording = Recording(plan, type(model).__name__, *count_heads(model))
    with attending(model, f"dontblink_{implementation}", recording), torch.no_grad():
        yield recording


@contextmanager
def attending(model: Any, name: str, recording: Any) -> Iterator[None]:
    """Give the text layers of a model an attention function, and that what to record, until the end."""
    before = model.config.get_text_config(decoder=True)._attn_implementation
    token = ACTIVE.set(recording)
    try:
        switch_attention(model, name)
        yield
    finally:
        ACTIVE.reset(token)
        switch_attention(model, before)


def switch_attention(model: Any, name: str) -> None:
    """Give the text layers of a model, and no vision tower, another attention function; NamedError if that fails."""
    text = model.config.get_text_config(decoder=True)
    inside = [part for part in model.config.sub_configs if getattr(model.config, part, None) is text]
    model.set_attn_implementation({inside[0]: name} if inside else name)
    if text._attn_implementation != name:  # transformers only warns
        raise NamedError(f"{type(model).__name__}: does not take another attention function; it cannot be measured")


def attend_split(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend and record in one pass; plain SDPA when nothing records or `module` is not a text layer.

    query [B, H, Q, D], key and value [B, Hk, K, D], mask None (causal) or [B, 1, Q, K]; returns [B, Q, H, D].
    """
    if not is_plain(module, attention_mask, kwargs) or value.shape[-1] != query.shape[-1]:  # no kernel for the latter
        return attend_generic(module, query, key, value, attention_mask, **kwargs)
    recording = _recording_for(module, query, key)
    if recording is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    plan, is_full = recording.plan_on(query.device), key.dtype is torch.float32
    batch, n_heads, n_rows, width = query.shape
    start, end, tail = plan.first_row, plan.first_row, plan.tail if attention_mask is None else n_rows
    if not is_full:  # an odd number of narrow rows can take a kernel on CPU three times as long
        end, tail = start + start % 2, tail + (n_rows - tail) % 2
    output = query.new_empty(batch, n_rows, n_heads, width)
    if start:
        mask = None if attention_mask is None else attention_mask[..., :end, :end]
        prompt = (x[:, :, :end] for x in (query, key, value))
        output[:, :end] = sdpa_attention_forward(module, *prompt, mask, **kwargs)[0]
    if tail < n_rows:
        rest, sums = sum_up(query[:, :, tail:], key[:, :, tail:], value[:, :, tail:], kwargs["scaling"])
    n_keys = min(tail + 1, n_rows)  # key `tail` stands for all from there on
    low, high = plan.image_span
    mass = plan.weights.new_empty(batch, n_heads, n_rows - start, plan.weights.shape[-1])
    spanned = plan.weights.new_zeros(batch, n_heads, plan.step_weights.shape[1], high - low)
    weights, values = plan.weights[:, None, :n_keys].mT, value[:, :, :tail].flatten(0, 1)
    keys = key[:, :, :n_keys].flatten(0, 1).mT.contiguous()  # else reordered for each chunk
    chunk_rows = CHUNK_ROWS if is_full else NARROW_CHUNK_ROWS
    if query.device not in recording.scratch:
        # Two buffers for all chunks and layers: fresh ones cost more in page faults than what fills them.
        recording.scratch[query.device] = plan.weights.new_empty(2, batch * n_heads * min(chunk_rows, n_rows) * n_keys)
    for top in (*range(start, tail, chunk_rows), *range(tail, n_rows, chunk_rows)):
        end = min(top + chunk_rows, tail if top < tail else n_rows)
        shape = (batch, n_heads, end - top, n_keys)
        scores, attention = (buffer[: math.prod(shape)].view(shape) for buffer in recording.scratch[query.device])
        rows = query[:, :, top:end].reshape(len(keys), -1, width)  # of all heads that share keys: no repeat_kv
        # Scaled inside the product: scaling a bf16 query or its rounded scores would round once more.
        out = scores.view(len(keys), -1, n_keys) if is_full else None
        product = torch.baddbmm(rows.new_zeros(()), rows, keys, beta=0, alpha=kwargs["scaling"], out=out)
        if not is_full:
            scores.copy_(product.view(shape))
        if attention_mask is not None:
            scores.masked_fill_(~attention_mask[..., top:end, :n_keys], torch.finfo(torch.float32).min)
        elif top < tail:
            scores.add_(scores.new_full(shape[2:], -torch.inf).triu(top + 1))
        else:
            scores[..., tail] = sums[..., top - tail : end - tail]
        torch.softmax(scores, -1, out=attention)
        mass[:, :, top - start : end - start] = (weights @ attention.mT).mT  # the other way round takes a CPU longer
        part = (attention[..., :tail].to(value.dtype).view(len(keys), -1, tail) @ values).view(*shape[:3], width)
        if top >= tail:
            part = torch.addcmul(part, attention[..., tail:], rest[:, :, top - tail : end - tail])
        output[:, top:end] = part.transpose(1, 2)
        steps = plan.active_steps(top, end)  # steps are short: only those with a row in this chunk cost anything
        spanned[:, :, steps] += plan.step_weights[:, None, steps, top:end] @ attention[..., low:high]
    index = (plan.image_index - low).clamp(min=0)[:, None, None].expand(*spanned.shape[:3], -1)
    recording.keep(module.layer_idx, mass, spanned.gather(-1, index))
    return output, None


def attend_generic(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend and record by the eager function of the module's OWN modeling file, some rows at a time, in float32.

    Soft caps, learned sinks, position biases and whatever a family does to its scores are in its weights: no line here
    knows of them. Arguments and result as `attend_split`.

    Raises
    ------
    NamedError
        If the modeling file has no such function, or it returns no weights.
    """
    recording, dtype = _recording_for(module, query, key), query.dtype
    if recording is None and is_plain(module, attention_mask, kwargs):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    n_rows, output = query.shape[2], list[Tensor]()
    plan = recording.plan_on(query.device) if recording else None
    keys, values, masses, maps = key.float(), value.float(), [], []
    for top in range(0, n_rows, CHUNK_ROWS):
        rows = slice(top, min(top + CHUNK_ROWS, n_rows))
        part, attention = attend_rows(module, query, keys, values, attention_mask, rows, kwargs)
        output.append(part.to(dtype))
        if plan is None or rows.stop <= plan.first_row:
            continue
        mass = attention @ plan.weights[:, None]
        mass[..., -1] += (1 - attention.sum(-1)).clamp(min=0)
        masses.append(mass[:, :, max(plan.first_row - top, 0) :])
        index = plan.image_index.clamp(min=0)[:, None, None].expand(*attention.shape[:3], -1)
        maps.append(plan.step_weights[:, None, :, rows] @ attention.gather(-1, index))
    if recording:
        recording.keep(module.layer_idx, torch.cat(masses, dim=2), torch.stack(maps).sum(0))
    return torch.cat(output, dim=1), None


def attend_rows(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, rows: slice,
    arguments: Mapping[str, Any],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return output [B, T, H, D] and weights float32 [B, H, T, K] of T rows by a module's own eager function.

    Key and value are float32 already; NamedError if the function returns no weights, or as `check_arguments`.
    """
    n_rows, n_keys = query.shape[2], key.shape[2]
    eager = find_eager(module)
    check_arguments(module, arguments)
    own = {name: _cut_rows(given, rows, n_rows, n_keys) for name, given in arguments.items()}
    mask = add_mask(attention_mask, rows, n_rows > 1 and sees_no_later(module, arguments), n_keys, key)
    output, attention = eager(module, query[:, :, rows].float(), key, value, mask, **own)
    if attention is None:
        raise NamedError(f"{type(module).__name__}: its eager attention returns no weights; it cannot be measured")
    return output, attention.float()


def check_arguments(module: Any, arguments: Mapping[str, Any]) -> None:
    """Raise NamedError if a module passes an argument that its own eager function does not read.

    Some types choose keys in their mask for attention functions of known names only, and else leave it to an argument.
    """
    read = PLAIN | {"s_aux"}  # sinks: eager takes them from the module
    more = [name for name, given in arguments.items() if given is not None and name not in read]
    if more and (unread := [name for name in more if name not in inspect.signature(find_eager(module)).parameters]):
        found = f"passes {', '.join(unread)} to attention, which its eager function does not read"
        raise NamedError(f"{type(module).__name__}: {found}; it cannot be measured")


def find_eager(module: Any) -> Any:
    """Return the eager attention function of the file that defines a module; NamedError if it has none."""
    eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if eager is None:
        name = type(module).__name__
        raise NamedError(f"{name}: its modeling file has no eager_attention_forward; this model cannot be measured")
    return eager


def is_plain(module: Any, mask: Tensor | None, arguments: Mapping[str, Any]) -> bool:
    """Return whether SDPA is all that a module asks for: in a text layer no row sees later keys, nothing else is given.

    A mask [B, 1, Q, K] is of the last Q of K keys.
    """
    if not hasattr(module, "layer_idx"):
        return True
    if any(given is not None and name not in PLAIN for name, given in arguments.items()):
        return False
    if mask is None:
        return sees_no_later(module, arguments)
    is_one = mask.shape[-2] == 1  # the last row sees no later key; asking would wait for the device
    return mask.dtype is torch.bool and (is_one or not mask.triu(1 + mask.shape[-1] - mask.shape[-2]).any())


def sees_no_later(module: Any, arguments: Mapping[str, Any]) -> bool:
    """Return whether a layer that is given no mask lets no row see later keys, as SDPA reads it."""
    given = arguments.get("is_causal")
    return bool(getattr(module, "is_causal", True) if given is None else given)


def add_mask(mask: Tensor | None, rows: slice, is_causal: bool, n_keys: int, like: Tensor) -> Tensor:
    """Return what eager attention adds to scores of the dtype of `like`, [B or 1, 1, rows, K].

    Without a mask row t sees keys 0 to t where `is_causal`, be there more of them in a static cache, else all.
    """
    if mask is None:
        position = torch.arange(n_keys, device=like.device)
        mask = (position <= position[rows, None])[None, None] if is_causal else (position >= 0)[None, None, None]
    elif mask.dtype is not torch.bool:
        return mask[:, :, rows].to(like.dtype)
    else:
        mask = mask[:, :, rows]
    return like.new_zeros(mask.shape).masked_fill_(~mask, torch.finfo(like.dtype).min)


def _cut_rows(given: Any, rows: slice, n_rows: int, n_keys: int) -> Any:
    """Return an argument of attention for some rows: a part of [..., rows, keys] or [..., rows, 1], else the whole."""
    is_tensor = isinstance(given, Tensor) and given.dim() >= 3
    return given[..., rows, :] if is_tensor and given.shape[-2:] in ((n_rows, n_keys), (n_rows, 1)) else given


def _recording_for(module: Any, query: Tensor, key: Tensor) -> Recording | None:
    """Return the open recording for a text layer, else None; raise NamedError if its shape was not planned."""
    recording = ACTIVE.get()
    if not isinstance(recording, Recording) or not hasattr(module, "layer_idx"):
        return None
    n_samples, n_keys, _ = recording.plan.weights.shape
    found, planned = (query.shape[0], query.shape[2], key.shape[2]), (n_samples, n_keys, n_keys)
    if found != planned:
        remedy = "record one uncached pass; layers that attend to anything but their prompt cannot be measured"
        raise NamedError(f"{type(module).__name__}: (batch, rows, keys) are {found}, planned {planned}; {remedy}")
    if module.layer_idx in recording.layers:
        raise NamedError(f"layer {module.layer_idx} ran twice; open `record` once for each forward pass")
    return recording


def sum_up(query: Tensor, key: Tensor, value: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
    """Return causal attention [B, H, T, D] and each row's logsumexp, float32 [B, H, T], which SDPA drops; T is not 0.

    Raises NamedError where this device has no kernel that gives both.
    """
    aten, cuda, sums = torch.ops.aten, torch.backends.cuda, query.new_empty(0)
    inputs, options = (query, key, value), {"is_causal": True, "scale": scaling}
    if query.device.type == "cpu":
        output, sums = aten._scaled_dot_product_flash_attention_for_cpu(*inputs, **options)
    elif cuda.can_use_flash_attention(cuda.SDPAParams(*inputs, None, 0.0, True, query.shape[1] > key.shape[1])):
        output, sums, *_ = aten._scaled_dot_product_flash_attention(*inputs, **options)
    elif query.device.type == "cuda":
        inputs = query, *(x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        # Unless asked for, by `True`, the sums are empty where there are no gradients. They come padded to 32 rows.
        output, sums, *_ = aten._scaled_dot_product_efficient_attention(*inputs, None, True, **options)
    *heads, n_sums = sums.shape
    if tuple(heads) != query.shape[:2] or n_sums < query.shape[2] or sums.dtype is not torch.float32:
        where = f"attention of {query.dtype} {tuple(query.shape)} on {query.device}"
        expected = f"expected one float32 logsumexp a row, found {tuple(sums.shape)}"
        raise NamedError(f"{where}: {expected}; set extraction.replay_implementation to generic")
    return output, sums.narrow(-1, 0, query.shape[2])


for _name, _function in (("dontblink_split", attend_split), ("dontblink_generic", attend_generic)):
    AttentionInterface.register(_name, _function)
    AttentionMaskInterface.register(_name, sdpa_mask)
