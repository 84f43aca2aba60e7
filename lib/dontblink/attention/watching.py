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
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from dontblink.attention import capture
from dontblink.attention.replay import SUPPORT, measure_entropy
from dontblink.errors import NamedError
from dontblink.models.vlm import find_device

OWN = "sdpa", "eager"
NUMBERS = "entropy_nats", "top20_entropy_nats", "log_probability_nats"
MOST_LOGITS = 2**21  # that wait at a time, 8 MiB: bounds memory, changes no result
OTHER_WAY = "watch generation without beams, num_return_sequences, an assistant or a prompt in chunks"


@dataclass
class Watching:
    """What generation leaves behind: B prompts of P keys, padded on the left, R regions; a list has one entry a token.

    `weights` float32 [B, R, P + n] are those of the prompt's keys and of n keys behind them, which all weigh the same;
    more of them are added when they are needed. `mass` holds [B, H, L, R], `attention` [B, P] (mean over layers and
    heads), `tokens` [B]: the last ones are there with the next step, or `take_tokens`. `logits` [B, V] wait until they
    are many or somebody reads; `numbers` [n, B, 3] are the two entropies and the log probability of n tokens.
    """

    weights: Tensor
    own: str  # the attention function of the model
    name: str = ""  # of its class
    n_ranks: int = 1
    n_heads: int = 0  # of all ranks together
    mass: list[Tensor] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    layers: dict[int, tuple[Tensor, float | None, Tensor | None]] = field(default_factory=dict)  # of the step that runs
    logits: list[Tensor] = field(default_factory=list)
    numbers: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.n_prompt = self.weights.shape[-1] - 1  # keys of the prompts, padding included

    @property
    def n_seen(self) -> int:
        """The number of keys up to the row of the step that runs."""
        return self.n_prompt + len(self.mass)

    def keep(
        self, layer: int, looks: Tensor, n_rows: int, scaling: float | None = None, mask: Tensor | None = None
    ) -> None:  # fmt: skip
        """Keep what the last row of a layer sees: [B, Hk, K, G] of G heads that share keys.

        It is their products with the keys, to be scaled, masked ([B, 1, Q, K], of which the last row counts) and
        turned into attention at the end of the step, or attention itself, without a scaling. A cache of a window holds
        the last K positions.
        """
        # a layer that shares the keys of another one may compute the last row of a prompt alone
        is_last = self.mass or (n_rows == 1 and looks.shape[2] >= self.n_seen)
        found, planned = (looks.shape[0], n_rows), (self.weights.shape[0], 1 if is_last else self.n_prompt)
        if layer in self.layers:
            raise NamedError(f"{self.name}: its generate does not call its own forward; use dontblink.measure instead")
        if found != planned:
            raise NamedError(f"(sequences, rows) of a step are {found}, expected {planned}; {OTHER_WAY}")
        self.layers[layer] = looks, scaling, mask

    def end_step(self, logits: Tensor) -> None:
        """Turn the layers of a step into its measures, and keep its logits [B, V]."""
        layers = list(self.layers.values())
        capture.check_heads(self.name, (looks.shape[1] * looks.shape[3] for looks, *_ in layers))
        if self.n_seen > self.weights.shape[-1]:
            self.weights = torch.cat([self.weights, self.weights[..., -1:].expand(-1, -1, self.n_seen)], -1)
        is_one = len({(looks.shape[2], scaling, id(mask)) for looks, scaling, mask in layers}) == 1
        parts = [self.weigh(group) for group in ([layers] if is_one else [[layer] for layer in layers])]
        masses, looks = zip(*parts, strict=True)
        self.mass.append(masses[0] if is_one else torch.cat(masses, 2))
        self.attention.append(looks[0] if is_one else torch.stack(looks).mean(0))
        self.logits.append(logits)
        self.layers = {}

    def weigh(self, layers: Sequence[tuple[Tensor, float | None, Tensor | None]]) -> tuple[Tensor, Tensor]:
        """Return the masses [B, H, L, R] of L layers that see the same keys, and their mean looks [B, P]."""
        device, (_, scaling, mask) = self.weights.device, layers[0]
        looks = torch.stack([own if own.device == device else own.to(device) for own, *_ in layers], 2)
        if looks.shape[3] > self.n_seen:
            looks = looks[:, :, :, : self.n_seen]  # a static cache has an empty tail
        looks = looks.permute(0, 1, 4, 2, 3).flatten(1, 2).float()  # [B, H, L, K]
        n_dropped = self.n_seen - looks.shape[-1]  # a window has dropped the first ones
        if scaling is not None:
            looks *= scaling  # here, where numbers are wide: a narrow one would be rounded once more
            if mask is not None:
                looks.masked_fill_(~mask[:, :, -1:, : self.n_seen].to(device), torch.finfo(torch.float32).min)
            looks = looks.softmax(-1)
        mass = (looks.flatten(1, 2) @ self.weights[..., n_dropped : self.n_seen].mT).view(*looks.shape[:3], -1)
        if scaling is None:  # a softmax over keys alone leaves nothing
            mass[..., -1] += (1 - looks.sum(-1)).clamp(min=0)
        own = looks[..., : max(self.n_prompt - n_dropped, 0)].mean((1, 2))
        own = pad(own, (self.n_prompt - own.shape[-1], 0)) if n_dropped else own
        if self.n_ranks > 1:
            mass = capture.gather_heads(mass, self.n_ranks, self.n_heads)
            own = capture.gather_heads(own[:, None], self.n_ranks, self.n_ranks).mean(1)
        return mass, own

    def take_tokens(self, tokens: Tensor) -> None:
        """Take the tokens [B] that were chosen behind the last step."""
        if len(self.tokens) < len(self.mass):
            self.tokens.append(tokens)
            if len(self.logits) * self.logits[-1].numel() >= MOST_LOGITS:
                self.settle()

    def settle(self) -> None:
        """Turn the logits that wait into entropies and log probabilities of the tokens: a few calls for many steps."""
        if self.logits:
            logs = torch.stack(self.logits).float().log_softmax(-1)
            chosen = torch.stack(self.tokens[-len(self.logits) :]).to(logs.device)
            best = logs.topk(min(SUPPORT, logs.shape[-1])).values.log_softmax(-1)
            log_probability = logs.gather(-1, chosen[..., None])[..., 0]
            self.numbers.append(torch.stack([measure_entropy(logs), measure_entropy(best), log_probability], -1))
            self.logits = []

    def read_last(self) -> dict[str, NDArray[np.float32]]:
        """Return the mean mass of all heads [B, R] and the numbers [B] of the last token, which has been taken."""
        self.settle()
        last = dict(zip(NUMBERS, self.numbers[-1][-1].cpu().numpy().T, strict=True))
        return {"mass": self.mass[-1].mean((1, 2)).cpu().numpy(), **last}

    def read(self, row: int, n_tokens: int, image_index: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """Return the first T = `n_tokens` measures of a sample, named as in `Measures`, and what its image gets.

        `mass` is float32 [L, H, T, R], `attention` [T, M], of the M image tokens at `image_index` in the padded prompt.
        All tokens have been taken.
        """

        def stack(parts: list[Tensor]) -> Tensor:
            return torch.stack([part[row] for part in parts[:n_tokens]]).cpu()

        self.settle()
        numbers = torch.cat(self.numbers)[:n_tokens, row].cpu().numpy().T
        return {
            "mass": stack(self.mass).permute(2, 1, 0, 3).contiguous().numpy(),
            "attention": stack(self.attention).numpy()[:, image_index],
            **dict(zip(NUMBERS, numbers, strict=True)),
        }


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


def compare_keys(query: Tensor, key: Tensor) -> Tensor:
    """Return the products [B, Hk, K, G] of one row a sequence, [B, Hk x G, D], with keys [B, Hk, K, D]."""
    batch, n_sets, _, width = key.shape
    rows = query.reshape(batch, n_sets, -1, width)  # of all heads that share keys
    return torch.matmul(key, rows.mT)  # keys first: the other way round takes a CPU three times as long


AttentionInterface.register("dontblink_watched", attend_watched)
AttentionMaskInterface.register("dontblink_watched", sdpa_mask)
