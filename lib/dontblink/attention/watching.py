"""Generation watched: what each token looks at, and how sure it is, while `generate` writes it.

Why it exists: whether a confident answer was blind must be known while it is written, without a second pass. A step of
generation has one row, so its masses cost one softmax a layer; the output of a layer stays that of SDPA, bit for bit,
and so do the tokens. In: region weights of the keys of a left-padded batch of prompts, and a model whose `generate` is
called in `watch_generation`. Out: a `Watching`, read sample by sample, in the shapes of `replay.Measures`. Generation
that gives a row to another sequence, or several rows a step, is refused by name: beams, several sequences a prompt, an
assistant's guesses, a prompt in chunks. Never here: change a token, or wait for the device before somebody reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from dontblink.attention import capture
from dontblink.attention.replay import SUPPORT, measure_entropy
from dontblink.errors import NamedError

OTHER_WAY = "watch generation without beams, num_return_sequences, an assistant or a prompt in chunks"


@dataclass
class Watching:
    """What generation leaves behind: B prompts of P keys, padded on the left, R regions; a list has one entry a token.

    `weights` float32 [B, P + 1, R] are those of the prompt's keys and, last, of every key behind them. `mass` holds
    [L, B, H, R], `attention` [B, P] (mean over layers and heads), the others [B]. The last token has no log probability
    before the next step; `finish` gives it one.
    """

    weights: Tensor
    name: str = ""  # of the model's class
    n_ranks: int = 1
    n_heads: int = 0  # of all ranks together
    mass: list[Tensor] = field(default_factory=list)
    attention: list[Tensor] = field(default_factory=list)
    entropy_nats: list[Tensor] = field(default_factory=list)
    top20_entropy_nats: list[Tensor] = field(default_factory=list)
    log_probability_nats: list[Tensor] = field(default_factory=list)
    layers: dict[int, Tensor] = field(default_factory=dict)  # of the step that runs: [B, H, P + 1]
    logs: Tensor | None = None  # log probabilities [B, V] behind the last step

    @property
    def n_prompt(self) -> int:
        """The number of the prompts' keys, padding included."""
        return self.weights.shape[1] - 1

    def keep(self, layer: int, attention: Tensor, n_rows: int) -> None:
        """Keep what the last row looks at, [B, H, K], of a layer; a cache of a window holds the last K positions."""
        n_seen, expected = self.n_prompt + len(self.mass), 1 if self.mass else self.n_prompt
        if n_rows == 1 and attention.shape[-1] >= n_seen:  # all that a layer with the keys of another one may compute
            expected = 1
        found, planned = (len(attention), n_rows), (len(self.weights), expected)
        if layer in self.layers:
            raise NamedError(f"{self.name}: its generate does not call its own forward; use dontblink.measure instead")
        if found != planned:
            raise NamedError(f"(sequences, rows) of a step are {found}, expected {planned}; {OTHER_WAY}")
        n_dropped = max(n_seen - attention.shape[-1], 0)
        n_prompt = max(self.n_prompt - n_dropped, 0)
        behind = attention[..., n_prompt:n_seen].sum(-1, keepdim=True)  # a static cache has an empty tail
        own = torch.cat([pad(attention[..., :n_prompt], (self.n_prompt - n_prompt, 0)), behind], -1)
        self.layers[layer] = capture.gather_heads(own, self.n_ranks, self.n_heads)

    def end_step(self, logits: Tensor) -> None:
        """Turn the layers of a step into its measures, and its logits [B, V] into entropies."""
        capture.check_layers(self.name, self.layers)
        device = self.weights.device
        looks = torch.stack([layer.to(device) for layer in self.layers.values()])
        mass = looks @ self.weights
        mass[..., -1] += (1 - looks.sum(-1)).clamp(min=0)
        self.mass.append(mass)
        self.attention.append(looks[..., :-1].mean((0, 2)))
        self.logs = logits.float().log_softmax(-1)
        self.entropy_nats.append(measure_entropy(self.logs))
        best = self.logs.topk(min(SUPPORT, self.logs.shape[-1])).values
        self.top20_entropy_nats.append(measure_entropy(best.log_softmax(-1)))
        self.layers = {}

    def take_tokens(self, tokens: Tensor) -> None:
        """Read the log probability of the tokens [B] that were chosen behind the last step."""
        if self.logs is not None:
            self.log_probability_nats.append(self.logs.gather(-1, tokens[:, None].to(self.logs.device))[:, 0])
            self.logs = None

    def read(self, row: int, n_tokens: int, image_index: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """Return the first T = `n_tokens` measures of a sample, named as in `Measures`, and what its image gets.

        `mass` is float32 [L, H, T, R], `attention` [T, M], of the M image tokens at `image_index` in the padded prompt.
        """

        def stack(parts: list[Tensor]) -> NDArray[np.float32]:
            return torch.stack([part[row] for part in parts[:n_tokens]]).float().cpu().numpy()

        mass = torch.stack([part[:, row] for part in self.mass[:n_tokens]], dim=2).cpu().numpy()
        names = "entropy_nats", "top20_entropy_nats", "log_probability_nats"
        looks = stack(self.attention)[:, image_index]
        return {"mass": mass, "attention": looks, **{name: stack(getattr(self, name)) for name in names}}


@contextmanager
def watch_generation(model: Any, weights: Tensor) -> Iterator[Watching]:
    """Watch what `model.generate` does inside, once; `weights` as `Watching` has them."""
    if model.training:
        raise NamedError("the model is in training mode; call model.eval() before watching")
    watching = Watching(weights.to(model.device), type(model).__name__, *capture.count_heads(model))

    def begin(_: Any, __: Any, given: dict[str, Any]) -> None:
        if (ids := given.get("input_ids")) is not None:
            watching.take_tokens(ids[:, -1])

    def end(_: Any, __: Any, ___: Any, output: Any) -> None:
        watching.end_step(output.logits[:, -1])

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
    """Attend as a model that nobody watches, and keep what the last row looks at; arguments as of `attend_split`."""
    output, _ = capture.attend_split(module, query, key, value, attention_mask, **kwargs)
    watching = capture.ACTIVE.get()
    if not isinstance(watching, Watching) or not hasattr(module, "layer_idx"):
        return output, None
    n_rows, mask = query.shape[2], None if attention_mask is None else attention_mask[..., -1:, :]
    if capture.is_plain(module, mask, kwargs):
        seen = key[:, :, :n_rows] if mask is None and n_rows > 1 else key  # behind it, a static cache is empty
        attention = weigh_keys(query[:, :, -1:], seen, mask, kwargs["scaling"])
    else:
        row = slice(n_rows - 1, n_rows)
        _, found = capture.attend_rows(module, query, key.float(), value.float(), attention_mask, row, kwargs)
        attention = found[:, :, 0]
    watching.keep(module.layer_idx, attention, n_rows)
    return output, None


def weigh_keys(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    """Return the attention float32 [B, H, K] of one row a sequence, [B, H, 1, D], to keys [B, Hk, K, D]."""
    batch, n_heads, _, width = query.shape
    rows = query.reshape(batch * key.shape[1], -1, width)  # of all heads that share keys
    # scaled inside the product, as `attend_split` does: a narrow number would be rounded once more
    scores = torch.baddbmm(rows.new_zeros(()), rows, key.flatten(0, 1).mT, beta=0, alpha=scaling)
    scores = scores.view(batch, n_heads, -1).float()
    if mask is not None:
        scores = scores.masked_fill(~mask[:, :, 0], torch.finfo(torch.float32).min)
    return scores.softmax(-1)


AttentionInterface.register("dontblink_watched", attend_watched)
AttentionMaskInterface.register("dontblink_watched", sdpa_mask)
