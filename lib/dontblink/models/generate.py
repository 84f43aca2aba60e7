"""Items -> responses: the local engine.

Why: the replay needs the token ids that a model really produced, with the reason why it stopped. In: a VLM, Items and a
Sampling. Out: one Response per item, in an order chosen for speed. Batches are static, left-padded, sorted by expected
output length (sorting by prompt length gains nothing). Sampling is seeded per item: the uniform number behind token t
of an item is draw t of a generator keyed by (seed, item id), so that neither the batch nor the order nor a resumed run
changes a response. Never here: re-tokenised text, dropped truncations.
"""

from __future__ import annotations

import gc
import hashlib
import re
from itertools import groupby
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np
import torch
import transformers
from torch import Tensor
from tqdm import tqdm
from transformers import LogitsProcessor, LogitsProcessorList

from dontblink.errors import NamedError
from dontblink.models.response import FinishReason, Response
from dontblink.models.vlm import VLM, Prompt, find_device
from dontblink.questions.items import Item, ItemError

TOO_LARGE = "does not fit into the accelerator's memory alone; lower max_new_tokens, the image size or the dtype"
Found = TypeVar("Found")
P = ParamSpec("P")
# How drivers, libraries and kernels say that memory ran out where torch has no class of its own for it: torch.CPU's and
# Windows' allocator, CUDA's and HIP's runtimes, cuBLAS, cuDNN and their siblings, Metal, SYCL, a C++ library.
NO_MEMORY = re.compile(
    r"out[ _]?of[ _]?(device[ _]|host[ _]|gpu[ _])?memory|_alloc_?failed|memory_?allocation|insufficient memory"
    r"|(can'?t|cannot|could not|unable to|failed to) allocate (\S+ )?(memory|\d)|not enough memory|bad_alloc"
    r"|invalid buffer size",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Sampling:
    """How an engine draws a response.

    The filters are applied after the temperature, top_k first.
    """

    max_new_tokens: int
    temperature: float = 0.0  # 0 is greedy; top_p, top_k and seed then do nothing
    top_p: float = 1.0  # 1 switches it off
    top_k: int = 0  # 0 switches it off
    seed: int = 0


class SeededChoice(LogitsProcessor):
    """Sample by inverting the cumulative distribution, with one uniform number per item and step.

    Called with filtered logits float32 [B, V]; leaves the drawn token of a row at 0 and all others at -inf,
    so that the greedy loop picks it: token = min{v: sum_{w<=v} p(w) > u}. Vocabulary order and float64 sums
    keep the draw insensitive to the round-off by which a batch of another shape differs.
    """

    def __init__(self, item_ids: Sequence[str], seed: int) -> None:
        self.generators = [item_generator(seed, item_id) for item_id in item_ids]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        held = torch.softmax(scores.double(), dim=-1).cumsum(-1)
        uniform = torch.tensor([[g.random()] for g in self.generators], dtype=torch.float64, device=scores.device)
        drawn = torch.searchsorted(held, uniform * held[:, -1:], right=True)
        last = (held >= held[:, -1:]).long().argmax(-1, keepdim=True)  # u * total may round up to the total
        return torch.full_like(scores, -torch.inf).scatter_(1, torch.minimum(drawn, last), 0.0)


def item_generator(seed: int, item_id: str) -> np.random.Generator:
    """Return the generator of one item's draws, a function of the seed and the item id alone."""
    key = int.from_bytes(hashlib.sha256(item_id.encode()).digest()[:16], "big")
    return np.random.default_rng([seed, key])


def generate_responses(
    vlm: VLM, items: Sequence[Item], sampling: Sampling, *, batch_size: int, progress: bool = True,
    quarantine: Callable[[str, str], None] | None = None, lowered: Callable[[int], None] | None = None,
) -> Iterator[Response]:  # fmt: skip
    """Generate one response per item, yielded batch by batch, longest expected first (items that know no chain length
    keep their order); NamedError if a response holds impossible ids.

    Parameters
    ----------
    quarantine : called with (item id, reason) for an item that cannot be encoded, or that alone does not fit into the
        accelerator's memory; it is then left out. By default that is an ItemError, or a NamedError.
    lowered : called with the new batch size where memory ran out: the next call need not find it again
    """
    if batch_size < 1:
        raise NamedError(f"{batch_size=}; expected >= 1; correct the parameters")
    queue = sorted(items, key=lambda item: float(item.covariates.get("chain_length", 0)), reverse=True)
    bar = tqdm(total=len(queue), desc=f"generate {vlm.name}", unit="item", disable=None if progress else True)
    while queue:
        batch, queue = queue[:batch_size], queue[batch_size:]
        prompts = encode_items(vlm, batch, quarantine)
        while prompts:
            _, alike = next(groupby(prompts[:batch_size], key=vlm.kind))
            part = list(alike)
            rows = try_memory(generate_batch, vlm, part, sampling)
            if rows is not None:
                yield from (build_response(vlm, prompt, row) for prompt, row in zip(part, rows, strict=True))
                prompts = prompts[len(part) :]
            elif len(part) > 1:
                batch_size = (len(part) + 1) // 2
                if lowered:
                    lowered(batch_size)
            else:
                item_id, prompts = part[0].item_id, prompts[1:]
                if quarantine is None:
                    raise NamedError(f"item {item_id}: {TOO_LARGE}")
                quarantine(item_id, TOO_LARGE)
        bar.update(len(batch))
    bar.close()


def encode_items(vlm: VLM, items: Sequence[Item], quarantine: Callable[[str, str], None] | None = None) -> list[Prompt]:
    """Return the prompts of the items that can be encoded; hand the others to `quarantine`, or raise."""
    prompts = []
    for item in items:
        try:
            prompts.append(vlm.encode(item))
        except ItemError as error:
            if quarantine is None:
                raise
            quarantine(item.id, str(error))
    return prompts


def build_warpers(prompts: Sequence[Prompt], sampling: Sampling) -> list[LogitsProcessor]:
    """Return what turns logits into a seeded draw, in order; nothing for greedy. Make it anew per attempt."""
    if sampling.temperature == 0:
        return []
    filters: list[LogitsProcessor] = [transformers.TemperatureLogitsWarper(float(sampling.temperature))]
    if sampling.top_k:
        filters.append(transformers.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        filters.append(transformers.TopPLogitsWarper(float(sampling.top_p)))
    return [*filters, SeededChoice([prompt.item_id for prompt in prompts], sampling.seed)]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device's or the machine's memory ran out, so that less of it may work."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, (RuntimeError, OSError)) and NO_MEMORY.search(str(error)) is not None


def try_memory(do: Callable[P, Found], *args: P.args, **kwargs: P.kwargs) -> Found | None:
    """Return what a call returns; None, and the memory freed, where it ran out. Any other error is raised."""
    try:
        return do(*args, **kwargs)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    gc.collect()  # only here, behind the error whose frames hold the tensors, can their memory be given back
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
    return None


def generate_batch(
    vlm: VLM, prompts: Sequence[Prompt], sampling: Sampling, begun: Sequence[Sequence[int]] | None = None
) -> list[list[int]]:
    """Return the new ids of each prompt [<= max_new_tokens], behind responses that are `begun`, not yet trimmed."""
    suppress = transformers.SuppressTokensLogitsProcessor(vlm.suppressed_ids, device=str(find_device(vlm.model)))
    batch = vlm.collate(prompts, begun, side="left")
    ids = batch["input_ids"]
    assert ids is not None
    with torch.inference_mode():
        output = vlm.model.generate(
            **batch, max_new_tokens=sampling.max_new_tokens, do_sample=False, pad_token_id=vlm.eos_ids[0],
            logits_processor=LogitsProcessorList([suppress, *build_warpers(prompts, sampling)]),
        )  # fmt: skip
    rows: list[list[int]] = output[:, ids.shape[1] :].tolist()
    return rows


def build_response(vlm: VLM, prompt: Prompt, new_ids: Sequence[int]) -> Response:
    """Trim at the first EOS, check the ids, decode, and say why it stopped."""
    stop = next((k for k, i in enumerate(new_ids) if i in vlm.eos_ids), None)
    ids = tuple(int(i) for i in (new_ids if stop is None else new_ids[: stop + 1]))
    check_ids(vlm, prompt.item_id, ids)
    reason: FinishReason = "empty" if stop == 0 or not ids else "length" if stop is None else "stop"
    return Response(prompt.item_id, vlm.name, tuple(prompt.ids.tolist()), ids, vlm.decode(ids), reason)


def check_ids(vlm: VLM, item_id: str, ids: Sequence[int]) -> None:
    """Raise NamedError where an engine's ids are outside the vocabulary or image placeholders."""
    for position, token in enumerate(ids):
        if not 0 <= token < vlm.n_vocabulary or token in vlm.suppressed_ids:
            found = f"response token {position} has id {token}, outside the vocabulary or a placeholder"
            raise NamedError(f"item {item_id}: {found}; use this model's tokenizer and suppress its placeholders")
