"""The responses of one shard to trace records: which of them can be measured, with which evidence, spans and controls.

Why it exists: what decides a trace besides the replay itself stands here alone, so that its code is part of a trace's
key (`study`) and the code around it, which only strings stages together, is not. In: a loaded VLM, items, their
responses, the parameters of the extraction and the weights of the head sets. Out: `TraceRecord`s, and a reason for
every response that has none. Never: read or write a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dontblink import evidence
from dontblink.generate import Response, encode_items, item_generator
from dontblink.items import Item
from dontblink.regions import Floats
from dontblink.replay import replay_sets
from dontblink.shards import TraceRecord
from dontblink.vlm import VLM

Reasons = list[tuple[str, str]]  # (item id, why it was left out)


def choose_traceable(
    responses: Sequence[Response], retokenised: str, lacking_boxes: Mapping[str, str]
) -> tuple[list[Response], Reasons]:
    """Return the responses that can be measured, and the others as (item id, reason)."""
    kept, reasons = [], []
    for response in responses:
        if not response.response_ids:
            reasons.append((response.item_id, "empty response: no token to replay"))
        elif response.retokenised and retokenised != "keep":
            reasons.append((response.item_id, "re-tokenised text: its ids may not be those that the model wrote"))
        elif response.item_id in lacking_boxes:
            reasons.append((response.item_id, lacking_boxes[response.item_id]))
        else:
            kept.append(response)
    return kept, reasons


def trace_responses(
    vlm: VLM,
    items: Sequence[Item],
    responses: Sequence[Response],
    settings: Mapping[str, Any],
    head_sets: Floats | None,
    lacking_boxes: Mapping[str, str],
) -> tuple[list[TraceRecord], Reasons]:
    """Replay the responses of a shard; those that cannot be measured come back as (item id, reason).

    Parameters
    ----------
    settings : section `extraction` of the parameters
    head_sets : float32 [G, L, H], weights of every head in a set; None keeps the looks of every head, without maps
    lacking_boxes : why an item has no evidence to measure, by item id
    """
    kept, reasons = choose_traceable(responses, settings["retokenised"], lacking_boxes)
    by_id = {item.id: item for item in items}
    prompts = encode_items(vlm, [by_id[r.item_id] for r in kept])
    grids = [vlm.image_grid(prompt) for prompt in prompts]
    coverage = [
        evidence.item_coverage(by_id[p.item_id], grid, p.image_sizes, p.image_order)
        for p, grid in zip(prompts, grids, strict=True)
    ]
    control = [
        evidence.control_coverage(c, grid, item_generator(settings["control_seed"], p.item_id))
        for c, grid, p in zip(coverage, grids, prompts, strict=True)
    ]
    spans = [vlm.segment(r.response_ids) for r in kept]
    if head_sets is None:
        config = vlm.model.config.get_text_config()
        head_sets = np.zeros((0, config.num_hidden_layers, config.num_attention_heads), np.float32)
    traces = replay_sets(
        vlm, prompts, [r.response_ids for r in kept], head_sets=head_sets, reasoning=[s.reasoning for s in spans],
        coverage=coverage, control=control, steps=[s.steps if len(head_sets) else () for s in spans],
        implementation=settings["replay_implementation"], token_budget=settings["replay_batch_tokens"],
        quarantine=lambda item_id, reason: reasons.append((item_id, reason)),
    )  # fmt: skip
    measured = {trace.item_id: trace for trace in traces}
    records = []
    for response, span, c, k, grid, prompt in zip(kept, spans, coverage, control, grids, prompts, strict=True):
        if response.item_id in measured:
            ids = response.response_ids
            records.append(TraceRecord(
                measured[response.item_id], span, tuple(vlm.token_texts(ids)),
                tuple(vlm.decode(ids[a:b]) for a, b in span.steps), vlm.decode(ids[slice(*span.answer)]), c, k,
                tuple(grid), prompt.image_order,
            ))  # fmt: skip
    return records, reasons
