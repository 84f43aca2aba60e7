"""Generation watched: what each token looks at, and how sure it is, while `generate` writes it.

Why it exists: whether a confident answer was blind must be known while it is written, without a second pass. A step of
generation has one row: its masses cost a product with the keys and a softmax a layer. The output of a layer stays that
of the model's own attention function, bit for bit, and so do the tokens; a function whose numbers cannot be had again
here is refused. In: region weights of the keys of a left-padded batch of prompts, and a model whose `generate` runs
inside `watch_generation`. Out: a `Watching`, read sample by sample, in the shapes of `replay.Measures`. Ways to
generate that give a row to another sequence, or several rows a step, are refused by name: beams, several sequences a
prompt, an assistant's guesses, a prompt in chunks. Never here: change a token, or wait for the device before somebody
reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from dontblink.attention import capture
from dontblink.attention.replay import SUPPORT, measure_entropy
from dontblink.errors import NamedError
from dontblink.models.vlm import find_device

OWN = "sdpa", "eager"
NUMBERS = "entropy_nats", "top20_entropy_nats", "log_probability_nats"
MOST_WAITING = 2**21  # logits and looks, 8 MiB: bounds memory, changes no result
Look = tuple[Tensor, float | None, Tensor | None]  # what `Watching.keep` keeps
OTHER_WAY = "watch generation without beams, num_return_sequences, an assistant or a prompt in chunks"


@dataclass
class Watching:
    """What generation leaves behind: B prompts of P keys, padded on the left, R regions; a list has one entry a token.

    `weights` float32 [B, R, P + n] are those of the prompt's keys and of n keys behind them, which all weigh the same;
    more of them are added when they are needed. What the layers of a step saw and its logits [B, V] wait until they are
    many or somebody reads: a few calls then serve many steps. `mass` [S, B, L, H, R], `attention` [S, B, P] (mean over
    layers and heads) and `numbers` [S, B, 3] (the entropies and the log probability) hold S steps an entry. `tokens`
    [B]: that of a step is there with the next one, or `take_tokens`.
    """

    weights: Tensor
    own: str  # the attention function of the model
    name: str = ""  # of its class
    n_ranks: int = 1
    n_heads: int = 0  # of all ranks together
    n_steps: int = 0
    layers: dict[int, Look] = field(default_factory=dict)  # of the step that runs
    steps: list[list[Look]] = field(default_factory=list)  # that wait
    logits: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    mass: list[Tensor] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    numbers: list[Tensor] = field(default_factory=list)
    n_read: int = 0  # entries of these three that `read_new` has returned

    def __post_init__(self) -> None:
        self.n_prompt = self.weights.shape[-1] - 1  # keys of the prompts, padding included

    def keep(
        self, layer: int, looks: Tensor, n_rows: int, scaling: float | None = None, mask: Tensor | None = None
    ) -> None:  # fmt: skip
        """Keep what the last row of a layer sees: [B, Hk, K, G] of G heads that share keys.

        It is their products with the keys, to be scaled, masked ([B, 1, Q, K], of which the last row counts) and
        turned into attention at the end of the step, or attention itself, without a scaling. A cache of a window holds
        the last K positions.
        """
        # a layer that shares the keys of another one may compute the last row of a prompt alone
        is_last = self.n_steps or (n_rows == 1 and looks.shape[2] >= self.n_prompt)
        found, planned = (looks.shape[0], n_rows), (self.weights.shape[0], 1 if is_last else self.n_prompt)
        if layer in self.layers:
            raise NamedError(f"{self.name}: its generate does not call its own forward; use dontblink.measure instead")
        if found != planned:
            raise NamedError(f"(sequences, rows) of a step are {found}, expected {planned}; {OTHER_WAY}")
        self.layers[layer] = looks, scaling, mask

    def end_step(self, logits: Tensor) -> None:
        """Keep what the layers of a step saw, and its logits [B, V]."""
        layers = list(self.layers.values())
        capture.check_heads(self.name, (looks.shape[1] * looks.shape[3] for looks, *_ in layers))
        self.steps.append(layers)
        self.logits.append(logits)
        self.layers, self.n_steps = {}, self.n_steps + 1

    def take_tokens(self, tokens: Tensor) -> None:
        """Take the tokens [B] that were chosen behind the last step."""
        if len(self.tokens) < self.n_steps:
            self.tokens.append(tokens)
            size = self.logits[-1].numel() + sum(looks.numel() for looks, *_ in self.steps[-1])
            if len(self.steps) * size >= MOST_WAITING:
                self.settle()

    def settle(self) -> None:
        """Turn what waits into measures; the tokens of all steps have been taken."""
        if not self.steps:
            return
        n_seen = [self.n_prompt + step for step in range(self.n_steps - len(self.steps), self.n_steps)]
        if n_seen[-1] > self.weights.shape[-1]:
            self.weights = torch.cat([self.weights, self.weights[..., -1:].expand(-1, -1, n_seen[-1])], -1)
        looks = [look for layers in self.steps for look in layers]
        each_seen = [seen for seen in n_seen for _ in self.steps[0]]
        sees_all = all(own.shape[2] >= seen for (own, *_), seen in zip(looks, each_seen, strict=True))
        scalings = {scaling for _, scaling, _ in looks}
        if sees_all and len(scalings) == 1 and None not in scalings:
            if all(is_one_layer(layers) for layers in self.steps):
                layers = [(torch.cat([own for own, *_ in layers], 1), *layers[0][1:]) for layers in self.steps]
                mass, attention = self.weigh(layers, n_seen, len(self.steps))
                self.add(mass.unflatten(3, (len(self.steps[0]), -1))[:, :, 0], attention)
            else:
                self.add(*self.weigh(looks, each_seen, len(self.steps)))
        else:  # windows, and weights of eager attention: layer by layer
            for layers, seen in zip(self.steps, n_seen, strict=True):
                masses, means = zip(*(self.weigh([look], [seen], 1) for look in layers), strict=True)
                self.add(torch.cat(masses, 2), torch.stack(means).mean(0))
        logs = torch.stack(self.logits).float().log_softmax(-1)
        chosen = torch.stack(self.tokens[-len(self.logits) :]).to(logs.device)
        best = logs.topk(min(SUPPORT, logs.shape[-1])).values.log_softmax(-1)
        log_probability = logs.gather(-1, chosen[..., None])[..., 0]
        self.numbers.append(torch.stack([measure_entropy(logs), measure_entropy(best), log_probability], -1))
        self.steps, self.logits = [], []

    def weigh(self, looks: Sequence[Look], n_seen: Sequence[int], n_steps: int) -> tuple[Tensor, Tensor]:
        """Return the masses [S, B, L, H, R] and mean looks [S, B, P] of S steps of L layers, step by step in `looks`.

        Each sees `n_seen` keys, or the last of them that its cache holds; a static cache has an empty tail behind them.
        """
        device, scaling = self.weights.device, looks[0][1]
        parts = [own.movedim(2, 0)[:seen] for (own, *_), seen in zip(looks, n_seen, strict=True)]
        parts = [own if own.device == device else own.to(device) for own in parts]
        attention = pad_sequence(parts, batch_first=True, padding_value=0 if scaling is None else -torch.inf).float()
        n_dropped = n_seen[-1] - attention.shape[1]  # by a window
        if scaling is not None:
            attention *= scaling  # here, where numbers are wide: a narrow one would be rounded once more
            if any(mask is not None for *_, mask in looks):
                rows = [_read_mask(mask, own).to(device) for own, (*_, mask) in zip(parts, looks, strict=True)]
                hidden = ~pad_sequence(rows, batch_first=True)  # [N, K, B]
                attention.masked_fill_(hidden[..., None, None], torch.finfo(torch.float32).min)
            attention = attention.softmax(1)
        attention = attention.flatten(3).permute(2, 0, 3, 1)  # [B, N, H, K]
        batch, _, n_heads, n_keys = attention.shape
        mass = attention.flatten(1, 2) @ self.weights[..., n_dropped : n_dropped + n_keys].mT
        mass = mass.view(batch, n_steps, -1, n_heads, mass.shape[-1]).transpose(0, 1)
        if scaling is None:  # a softmax over keys alone leaves nothing
            rest = (1 - attention.sum(-1)).clamp(min=0)
            mass[..., -1] += rest.view(batch, n_steps, -1, n_heads).transpose(0, 1)
        own = attention[..., : max(self.n_prompt - n_dropped, 0)]
        own = own.reshape(batch, n_steps, mass.shape[2] * n_heads, own.shape[-1]).mean(2).transpose(0, 1)
        return mass, pad(own, (self.n_prompt - own.shape[-1], 0))

    def add(self, mass: Tensor, attention: Tensor) -> None:
        """Add the masses [S, B, L, H, R] and mean looks [S, B, P] of some steps, of the heads of all ranks."""
        if self.n_ranks > 1:
            gathered = capture.gather_heads(mass.flatten(0, 1).transpose(1, 2), self.n_ranks, self.n_heads)
            mass = gathered.transpose(1, 2).unflatten(0, mass.shape[:2])
            means = capture.gather_heads(attention.flatten(0, 1)[:, None], self.n_ranks, self.n_ranks)
            attention = means.mean(1).unflatten(0, attention.shape[:2])
        self.mass.append(mass)
        self.attention.append(attention)

    def read_new(self) -> list[list[list[float]]]:
        """Return the mean masses R of all heads and the `NUMBERS` of each token since the last call, [S][B][R + 3].

        The device is waited for once. All tokens have been taken.
        """
        self.settle()
        new, self.n_read = slice(self.n_read, None), len(self.mass)
        masses = torch.cat([mass.mean((2, 3)) for mass in self.mass[new]])
        read: list[list[list[float]]] = torch.cat([masses, torch.cat(self.numbers[new])], -1).tolist()
        return read

    def read(self, row: int, n_tokens: int, image_index: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """Return the first T = `n_tokens` measures of a sample, named as in `Measures`, and what its image gets.

        `mass` is float32 [L, H, T, R], `attention` [T, M], of the M image tokens at `image_index` in the padded prompt.
        All tokens have been taken.
        """
        self.settle()
        mass, looks, numbers = (
            torch.cat([part[:, row].cpu() for part in parts])[:n_tokens]
            for parts in (self.mass, self.attention, self.numbers)
        )
        return {
            "mass": mass.permute(1, 2, 0, 3).contiguous().numpy(), "attention": looks.numpy()[:, image_index],
            **dict(zip(NUMBERS, numbers.numpy().T, strict=True)),
        }  # fmt: skip


@contextmanager
def watch_generation(model: Any, weights: Tensor) -> Iterator[Watching]:
    """Watch what `model.generate` does inside, once; `weights` float32 [B, P + 1, R], see `Watching`.

    NamedError in training mode, or where the model attends by a function whose numbers are not to be had again.
    """
    if model.training:
        raise NamedError("the model is in training mode; call model.eval() before watching")
    own = model.config.get_text_config(decoder=True)._attn_implementation
    if own not in OWN:
        found = f"the model attends by {own!r}, expected one of {', '.join(OWN)}"
        raise NamedError(f"{found}: other tokens could come; load it with attn_implementation='sdpa', or use measure")
    named = own, type(model).__name__
    watching = Watching(weights.to(find_device(model)).mT.contiguous(), *named, *capture.count_heads(model))

    def begin(_: Any, __: Any, given: dict[str, Any]) -> None:
        if (ids := given.get("input_ids")) is not None:
            watching.take_tokens(ids[:, -1])

    def end(_: Any, __: Any, ___: Any, output: Any) -> None:
        logits = output.logits  # of all rows of a prompt only the last is kept
        watching.end_step(logits[:, -1] if logits.shape[1] == 1 else logits[:, -1].clone())

    hooks = [
        model.register_forward_pre_hook(begin, with_kwargs=True),
        model.register_forward_hook(end, with_kwargs=True),
    ]
    try:
        with capture.attending(model, "dontblink_watched", watching):
            yield watching
    finally:
        for hook in hooks:
            hook.remove()


def attend_watched(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attend as when nobody watches, and keep what the last row looks at; arguments as `capture.attend_split`."""
    watching = capture.ACTIVE.get()
    if not isinstance(watching, Watching) or not hasattr(module, "layer_idx"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    n_rows = query.shape[2]
    if watching.own == "sdpa":
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    else:
        is_causal = n_rows > 1 and capture.sees_no_later(module, kwargs)
        mask = capture.add_mask(attention_mask, slice(0, n_rows), is_causal, key.shape[2], query)
        output, _ = capture.find_eager(module)(module, query, key, value, mask, **kwargs)
    mask = None if attention_mask is None else attention_mask[:, :, -1:]
    if capture.is_plain(module, mask, kwargs):
        watching.keep(module.layer_idx, compare_keys(query[:, :, -1], key), n_rows, kwargs["scaling"], attention_mask)
    else:
        row = slice(n_rows - 1, n_rows)
        _, found = capture.attend_rows(module, query, key.float(), value.float(), attention_mask, row, kwargs)
        watching.keep(module.layer_idx, found.mT, n_rows)
    return output, None


def is_one_layer(layers: Sequence[Look]) -> bool:
    """Return whether the layers of a step can be taken for one with the heads of all: they differ in nothing else."""
    first, _, mask = layers[0]
    return all(looks.shape == first.shape and looks.device == first.device and own is mask for looks, _, own in layers)


def _read_mask(mask: Tensor | None, looks: Tensor) -> Tensor:
    """Return which keys the last row sees, bool [K, B], of looks [K, B, Hk, G]."""
    if mask is None:
        return looks.new_ones(looks.shape[:2], dtype=torch.bool)
    return mask[:, 0, -1, : len(looks)].T.expand(-1, looks.shape[1])


def compare_keys(query: Tensor, key: Tensor) -> Tensor:
    """Return the products [B, Hk, K, G] of one row a sequence, [B, Hk x G, D], with keys [B, Hk, K, D]."""
    batch, n_sets, _, width = key.shape
    rows = query.reshape(batch, n_sets, -1, width)  # of all heads that share keys
    return torch.matmul(key, rows.mT)  # keys first: the other way round takes a CPU three times as long


AttentionInterface.register("dontblink_watched", attend_watched)
AttentionMaskInterface.register("dontblink_watched", sdpa_mask)
