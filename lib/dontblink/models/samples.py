"""Several sampled answers to one item: what a baseline of agreement needs beside the one response that is measured.

Why it exists: a question to which a model gives another answer each time is one that it does not know; that is the
strongest rival of entropy that needs no replay. So an item is asked again, at temperature 1 and from the whole
vocabulary: the distribution whose entropy is measured. In: items, how many samples of each, and an engine. Out:
`Sample`s with all that a scorer reads, so that scoring them loads no model, and their rows in a shard. A sample is to
the engine an item of its own name, hence its draws depend on the seed, the item and the sample's number alone: not on
the batch, the order or the other samples. Never: replay a sample, or take the greedy response for one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from dontblink.models.generate import Sampling
from dontblink.models.response import FinishReason, Response
from dontblink.models.vlm import VLM, Prompt
from dontblink.questions.items import Item

SAMPLES = pa.schema({
    "item_id": pa.string(), "model": pa.string(), "sample_index": pa.int32(), "n_response_tokens": pa.int32(),
    "text": pa.string(), "answer_text": pa.string(), "closed": pa.bool_(), "finish_reason": pa.string(),
    "engine": pa.string(), "response_ids": pa.list_(pa.int32()),
})  # fmt: skip
Quarantine = Callable[[str, str], None]
Engine = Callable[[VLM, Sequence[Item], Sampling, Quarantine], Iterable[Response]]


@dataclass(frozen=True)
class Sample:
    """One sampled response of an item, cut as a scorer reads it.

    Attributes
    ----------
    text : without the end of sequence, special tokens kept
    answer_text, closed : the answer span, and whether the reasoning came to an end, see `spans.segment`
    """

    item_id: str
    model: str
    sample_index: int
    n_response_tokens: int
    text: str
    answer_text: str
    closed: bool
    finish_reason: FinishReason
    engine: str
    response_ids: tuple[int, ...]


def draw_samples(
    vlm: VLM, items: Sequence[Item], n_samples: int, max_new_tokens: int, seed: int, engine: Engine
) -> tuple[list[Sample], list[tuple[str, str]]]:
    """Return `n_samples` samples of every item in the order of items and samples, and what is missing.

    Parameters
    ----------
    engine : called with the model, items (one a sample), how to draw, and what takes (item id, reason) of a failure

    Returns
    -------
    samples, and (item id, reason that names the sample) of each that could not be generated
    """
    asked = {f"{item.id} sample {k}": (item, k) for item in items for k in range(n_samples)}
    lost: list[tuple[str, str]] = []

    def quarantine(name: str, reason: str) -> None:
        item, k = asked[name]
        lost.append((item.id, f"sample {k}: {reason}"))

    named = [replace(item, id=name) for name, (item, _) in asked.items()]
    sampling = Sampling(max_new_tokens, 1.0, seed=seed)
    written = {found.item_id: found for found in engine(share_prompts(vlm), named, sampling, quarantine)}
    samples = [cut_sample(vlm, written[name], item.id, k) for name, (item, k) in asked.items() if name in written]
    return samples, sorted(lost)


def share_prompts(vlm: VLM) -> VLM:
    """Return the model, encoding a question that follows itself under another name only once."""
    shared, last = copy.copy(vlm), list[tuple[Item, Prompt]]()

    def encode(item: Item) -> Prompt:
        # a renamed item has the very pictures of the first; to compare their pixels would cost more than to encode them
        if not last or item.images is not last[0][0].images or item.question != last[0][0].question:
            last[:] = [(item, vlm.encode(item))]
        return replace(last[0][1], item_id=item.id)

    shared.encode = encode  # type: ignore[method-assign]
    return shared


def cut_sample(vlm: VLM, response: Response, item_id: str, sample_index: int) -> Sample:
    """Return a sampled response as a scorer reads it."""
    ids, spans = response.response_ids, vlm.segment(response.response_ids)
    spoken = ids[:-1] if ids and ids[-1] in vlm.eos_ids else ids
    return Sample(
        item_id, response.model, sample_index, len(ids), vlm.decode(spoken), vlm.decode(ids[slice(*spans.answer)]),
        spans.closed, response.finish_reason, response.engine, ids,
    )  # fmt: skip


def pack_samples(samples: Sequence[Sample]) -> pa.Table:
    """Return the samples as rows of `SAMPLES`."""
    return pa.Table.from_pylist([vars(sample) for sample in samples], SAMPLES)


def unpack_samples(table: pa.Table) -> list[Sample]:
    """Return the rows of a shard of samples."""
    return [Sample(**row | {"response_ids": tuple(row["response_ids"])}) for row in table.to_pylist()]
