"""What a model may look at, changed: keys hidden, favoured or replaced for some rows, in generation and in replay.

Why it exists: attention mass is a correlate; whether a look is needed shows when it is taken away. In: for each sample
of a batch some `Intervention`s, in the sample's own coordinates (the row that predicts response token j is P - 1 + j, P
the prompt's length), so that one plan serves left-padded generation with a cache and a right-padded replay. Out: a
model that, inside `intervene`, attends as they say by whatever attention function it had, a recording one included;
and, inside `collect`, the keys and values of one pass, which another pass may be given. Nothing planned is nothing
changed: the same bits. Never: the tower of the pictures, gradients, a cache that does not hold every key (a window, or
a static one: refused by name), or padding anywhere but in `plan_interventions`.

A row is never blocked from itself nor from key 0, which is the sink: a softmax over nothing has no value. Where a type
chooses the keys of a row, and chose none but blocked ones, it is refused by name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from dontblink.attention import capture
from dontblink.errors import NamedError

ROW = slice(None)


@dataclass(frozen=True)
class Block:
    """The rows do not see the keys: their scores are minus infinity before the softmax."""


@dataclass(frozen=True)
class Bias:
    """`nats` are added to the scores of the keys before the softmax: their odds grow by exp(nats)."""

    nats: float


@dataclass(frozen=True)
class Replace:
    """The rows see the keys and values of another pass there, by `collect` from a batch of the same layout.

    Two with one donor are the same action, which a batch does at once.
    """

    donor: Donor


Action = Block | Bias | Replace


@dataclass(frozen=True, eq=False)
class Donor:
    """Keys and values [B, Hk, K, D] of one pass over a batch, by layer."""

    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Intervention:
    """What `action` does to the rows first..last-1 (to the end without a `last`) of a sample, at its `keys`.

    Rows and keys count from the first token of the prompt. `layers` and `heads` name those that are changed, all
    without; heads of other layers are another intervention.
    """

    keys: NDArray[np.int64]  # [N]
    action: Action
    first: int
    last: int | None = None
    layers: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Slot:
    """One intervention a sample at most, all by the same action on the same layers and heads."""

    action: Action
    layers: tuple[int, ...] | None
    heads: tuple[int, ...] | None
    keys: Tensor  # bool [B, K] by place in the batch
    rows: tuple[tuple[int, int], ...]  # first and last by place; (0, 0) where a sample has none


@dataclass(frozen=True, eq=False)
class InterventionPlan:
    """The interventions of a batch, by place in it: `pads` are what stands before each sample, [B]."""

    pads: tuple[int, ...]
    slots: tuple[Slot, ...]


def plan_interventions(
    lengths: Sequence[int], interventions: Sequence[Sequence[Intervention]], padding_side: Literal["left", "right"]
) -> InterventionPlan:
    """Place the interventions of each sample in a padded batch of sequences of these lengths.

    NamedError if a key is outside its sequence, or no row can be meant. Rows may lie behind the end: they will be
    generated.
    """
    longest = max(lengths)
    pads = tuple(longest - length if padding_side == "left" else 0 for length in lengths)
    alike: dict[tuple[Any, ...], list[tuple[int, Intervention]]] = defaultdict(list)
    for place, own in enumerate(interventions):
        counts: dict[Any, int] = defaultdict(int)
        for one in own:
            if len(one.keys) and not 0 <= one.keys.min() <= one.keys.max() < lengths[place]:
                found = f"keys {one.keys.min()} to {one.keys.max()}, expected 0 to {lengths[place] - 1}"
                raise NamedError(f"intervention on sample {place}: {found}: count from its own first token")
            if one.first < 0 or (one.last is not None and one.last < one.first):
                raise NamedError(f"intervention on sample {place}: rows {one.first} to {one.last}; give a range")
            kind = one.action, one.layers, one.heads
            if len(one.keys):
                alike[*kind, counts[kind]].append((place, one))
                counts[kind] += 1
    slots = []
    for (action, layers, heads, _), members in alike.items():
        keys = torch.zeros(len(lengths), longest, dtype=torch.bool)
        rows = [(0, 0)] * len(lengths)
        for place, one in members:
            keys[place, torch.from_numpy(one.keys + pads[place])] = True
            rows[place] = pads[place] + one.first, 2**31 if one.last is None else pads[place] + one.last
        slots.append(Slot(action, layers, heads, keys, tuple(rows)))
    return InterventionPlan(pads, tuple(slots))


@dataclass
class Intervening:
    """A plan at work in a model: where its pass stands, and what is known of this pass for all layers."""

    plan: InterventionPlan
    own: str  # the attention function that the model had
    name: str  # of its class
    donor: Donor | None = None  # what `collect` fills
    n_keys: int = 0  # of the passes before
    shape: tuple[int, int] = (0, 0)  # rows and keys of this pass, in the layer that runs
    seen: set[int] = field(default_factory=set)  # layers of this pass
    # Of this pass, by a layer's slots and own mask, which is kept beside what is made of it: else another layer's could
    # get its place in memory, and be taken for it.
    masks: dict[Any, tuple[Tensor | None, Tensor]] = field(default_factory=dict)
    parts: dict[Any, list[tuple[Tensor, tuple[int, ...]]]] = field(default_factory=dict)  # of this pass: `split_rows`
    # What layers saw last, by replacing slots and layer: only new keys are added, for replacing takes longer.
    replaced: dict[tuple[tuple[int, ...], int], list[Tensor]] = field(default_factory=dict)
    moved: dict[tuple[int, torch.device], Tensor] = field(default_factory=dict)

    def enter(self, layer: int, query: Tensor, key: Tensor) -> None:
        """Begin a layer; NamedError where the batch is not the planned one or its keys are not all that came before."""
        shape = query.shape[2], key.shape[2]
        if layer in self.seen or not self.seen:
            self.n_keys = self.n_keys if not self.seen else self.shape[1]
            self.seen, self.masks, self.parts = set(), {}, {}
            if shape[0] == shape[1]:
                self.replaced = {}
            goes_on = shape[1] in (shape[0], self.n_keys + shape[0])  # or begins anew
            if not goes_on or query.shape[0] != len(self.plan.pads):
                found = f"{query.shape[0]} sequences, {shape[0]} rows, {shape[1]} keys behind {self.n_keys}"
                expected = f"expected {len(self.plan.pads)} sequences from their first token on, and every key kept"
                raise NamedError(f"{self.name}: {found}; {expected}: no beams, no window, no static cache")
        elif shape[0] not in (1, self.shape[0]) or shape[1] != self.shape[1]:  # some compute the last row alone
            found = f"rows and keys {shape} in layer {layer}, {self.shape} before it"
            raise NamedError(f"{self.name}: {found}: a cache with a window, or of other keys, cannot be changed")
        self.shape = shape
        self.seen.add(layer)

    def find_slots(self, layer: int) -> tuple[int, ...]:
        """Return the slots that change this layer in this pass: those of which some row is in it."""
        top = self.shape[1] - self.shape[0]
        return tuple(
            number
            for number, slot in enumerate(self.plan.slots)
            if (slot.layers is None or layer in slot.layers)
            and any(first < self.shape[1] and last > top for first, last in slot.rows)
        )

    def mark(self, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the rows [B, Q] and keys [B, K] of a slot in this pass, bool."""
        n_rows, n_keys = self.shape
        slot = self.plan.slots[number]
        if (number, device) not in self.moved:
            self.moved[number, device] = slot.keys.to(device)
            self.moved[~number, device] = torch.tensor(slot.rows, device=device)
        keys, rows = self.moved[number, device], self.moved[~number, device]
        at = torch.arange(n_keys - n_rows, n_keys, device=device)
        return (at >= rows[:, :1]) & (at < rows[:, 1:]), pad(keys, (0, n_keys - keys.shape[1]))  # or cut

    def change_mask(self, slots: Sequence[int], mask: Tensor | None, is_causal: bool, query: Tensor) -> Tensor | None:
        """Return a mask [B, 1 or H, Q, K], bool or added to scores, in which slots of `Block` and `Bias` are done."""
        slots = [number for number in slots if not isinstance(self.plan.slots[number].action, Replace)]
        if not slots:
            return mask
        kind = *slots, id(mask), is_causal, self.shape, query.device
        if kind not in self.masks:
            self.masks[kind] = mask, self.build_mask(slots, mask, is_causal, query)
        return self.masks[kind][1]

    def build_mask(self, slots: Sequence[int], mask: Tensor | None, is_causal: bool, query: Tensor) -> Tensor:
        """Build it; NamedError if a row is left with no key, which a type that chooses keys itself can come to."""
        n_rows, n_keys = self.shape
        device = query.device
        place, at = torch.arange(n_keys, device=device), torch.arange(n_keys - n_rows, n_keys, device=device)[:, None]
        if mask is None:
            mask = (place <= at if is_causal else place >= 0 * at)[None, None]
        pads = torch.tensor(self.plan.pads, device=device)[:, None, None]
        spared = (place == at) | (place == pads)
        blocked: Tensor | None = None
        bias: Tensor | None = None
        for number in slots:
            slot = self.plan.slots[number]
            rows, keys = self.mark(number, device)
            hit = (rows[:, :, None] & keys[:, None, :])[:, None]
            if slot.heads is not None:
                heads = torch.zeros(query.shape[1], dtype=torch.bool, device=device)
                heads[list(slot.heads)] = True
                hit = hit & heads[:, None, None]
            if isinstance(slot.action, Bias):
                bias = hit * slot.action.nats + (0 if bias is None else bias)
            else:
                blocked = hit if blocked is None else blocked | hit
        if blocked is not None:
            blocked = blocked & ~spared[:, None]
            is_bool = mask.dtype is torch.bool
            sees = mask if is_bool else mask > torch.finfo(mask.dtype).min / 2
            if bool((blocked.any(-1) & ~(sees & ~blocked).any(-1)).any()):
                raise NamedError(f"{self.name}: a row sees nothing but what is blocked: this type chooses its keys")
            mask = mask & ~blocked if is_bool else mask.masked_fill(blocked, torch.finfo(mask.dtype).min)
        if bias is not None:
            mask = capture.add_mask(mask, ROW, is_causal, n_keys, query) + bias.to(query.dtype)
        return mask

    def split_rows(self, slots: tuple[int, ...]) -> list[tuple[Tensor, tuple[int, ...]]]:
        """Return the rows of this pass, bool [B, Q], that see the same replaced keys, and the slots that replace them.

        Every row is in one part. A sample that has nothing replaced by a slot goes with those that have.
        """
        if (slots, self.shape) not in self.parts:
            n_rows, n_keys = self.shape
            at, every = torch.arange(n_keys - n_rows, n_keys), torch.ones(len(self.plan.pads), n_rows).bool()
            parts: list[tuple[Tensor, tuple[int, ...]]] = [(every, ())]
            for number in slots:
                slot = self.plan.slots[number]
                if isinstance(slot.action, Replace):
                    rows = torch.tensor(slot.rows)
                    inside = (at >= rows[:, :1]) & (at < rows[:, 1:]) | ~slot.keys.any(1, keepdim=True)
                    split = [both for own, by in parts for both in ((own & ~inside, by), (own & inside, (*by, number)))]
                    parts = [(own, by) for own, by in split if own.any()]
            self.parts[slots, self.shape] = parts
        return self.parts[slots, self.shape]

    def replace_keys(self, numbers: tuple[int, ...], layer: int, key: Tensor, value: Tensor) -> Sequence[Tensor]:
        """Return keys and values with the donors' at the keys of these slots, of a later one where two have a key.

        NamedError if a donor's shape is another.
        """
        if not numbers:
            return key, value
        before, top = self.replaced.get((numbers, layer)), self.shape[1] - self.shape[0]
        if before is not None and (n_before := before[0].shape[2]) >= max(top, self.plan.slots[0].keys.shape[1]):
            changed = [torch.cat([old, own[:, :, n_before:]], 2) for old, own in zip(before, (key, value), strict=True)]
        else:
            changed = self.take_keys(numbers[-1], layer, *self.replace_keys(numbers[:-1], layer, key, value))
        self.replaced[numbers, layer] = changed
        return changed

    def take_keys(self, number: int, layer: int, key: Tensor, value: Tensor) -> list[Tensor]:
        """Replace them one by one."""
        action = self.plan.slots[number].action
        assert isinstance(action, Replace)
        given = action.donor.layers.get(layer, (key[:0, :, :0], value[:0]))
        (batch, n_sets, n_given, _), (_, keys) = given[0].shape, self.mark(number, key.device)
        if (batch, n_sets) != key.shape[:2] or bool(self.plan.slots[number].keys[:, n_given:].any()):
            found = f"the donor has keys {tuple(given[0].shape)} in layer {layer}"
            expected = f"expected those of a batch of the same layout as {tuple(key.shape)}"
            raise NamedError(f"{self.name}: {found}, {expected}: pictures of one grid")
        n_shared = min(n_given, key.shape[2])
        there = keys[:, None, :n_shared, None]
        changed = []
        for own, other in zip((key, value), given, strict=True):
            own = own.clone()
            own[:, :, :n_shared] = torch.where(there, other[:, :, :n_shared].to(own.device), own[:, :, :n_shared])
            changed.append(own)
        return changed


INTERVENING: ContextVar[Intervening | None] = ContextVar("dontblink_intervening", default=None)


@contextmanager
def intervene(model: Any, plan: InterventionPlan) -> Iterator[None]:
    """Let the text layers of `model` attend as `plan` says, in one forward pass or one `generate`.

    Open it inside `record` or `watch_generation`, which then measure what is left. NamedError where the batch is not
    that of the plan, the model keeps less than all keys, or single heads are to be changed while they are watched.
    """
    if not plan.slots:
        yield
        return
    with _switch(model, plan, None):
        yield


@contextmanager
def collect(model: Any) -> Iterator[Donor]:
    """Keep the keys and values of one forward pass; the model computes what it always does."""
    donor = Donor()
    with _switch(model, InterventionPlan((), ()), donor):
        yield donor


@contextmanager
def _switch(model: Any, plan: InterventionPlan, donor: Donor | None) -> Iterator[None]:
    own = model.config.get_text_config(decoder=True)._attn_implementation
    if own == "dontblink_watched" and any(slot.heads is not None for slot in plan.slots):
        raise NamedError(f"{type(model).__name__}: single heads cannot be changed while it is watched; replay instead")
    token = INTERVENING.set(Intervening(plan, own, type(model).__name__, donor))
    try:
        capture.switch_attention(model, "dontblink_intervened")
        yield
    finally:
        INTERVENING.reset(token)
        capture.switch_attention(model, own)


def attend_intervened(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend by the model's own function to what the plan lets it see; arguments as `capture.attend_split`."""
    active = INTERVENING.get()
    inner = _find_own("sdpa" if active is None else active.own)
    if active is None or not hasattr(module, "layer_idx"):
        return inner(module, query, key, value, attention_mask, **kwargs)
    layer = module.layer_idx
    capture.check_arguments(module, kwargs)
    if active.donor is not None:
        active.donor.layers[layer] = key, value
        return inner(module, query, key, value, attention_mask, **kwargs)
    active.enter(layer, query, key)
    slots = active.find_slots(layer)
    is_causal = query.shape[2] > 1 and capture.sees_no_later(module, kwargs)
    mask = active.change_mask(slots, attention_mask, is_causal, query)
    parts = active.split_rows(slots)
    if len(parts) > 1 and active.own not in OWN:
        raise NamedError(f"{active.name}: rows with and without replaced keys in one pass cannot be recorded")
    output: Tensor | None = None
    for rows, numbers in parts:
        part = inner(module, query, *active.replace_keys(numbers, layer, key, value), mask, **kwargs)[0]
        output = part if output is None else torch.where(rows.to(part.device)[:, :, None, None], part, output)
    assert output is not None
    return output, None


OWN = "sdpa", "eager", "flash_attention_2"


def _find_own(name: str) -> Any:
    """Return the function behind a name: one of `capture`'s or `watching`'s, SDPA, or what knows a family's own."""
    if name == "sdpa":
        return sdpa_attention_forward
    return capture.attend_generic if name in OWN else AttentionInterface()[name]


AttentionInterface.register("dontblink_intervened", attend_intervened)
AttentionMaskInterface.register("dontblink_intervened", sdpa_mask)
