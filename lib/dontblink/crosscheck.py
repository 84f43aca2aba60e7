"""Second looks at an extraction: an independent replay of some items, and whether errors begin in the picture.

In: the shards of a finished extraction and the items behind them. Out: small tables for notebook 01. Nothing here
feeds a result; it says how far the results can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dontblink import shards
from dontblink.benchmarks import testbed
from dontblink.capture import Implementation
from dontblink.extract import Extraction
from dontblink.generate import encode_items
from dontblink.replay import replay_responses
from dontblink.vlm import load_vlm


def compare_replays(profile: str, models: Sequence[str], n_items: int, implementation: Implementation) -> pd.DataFrame:
    """Replay stored responses with another implementation and return the largest differences per cell.

    Returns
    -------
    DataFrame with model, benchmark, n_items and the largest absolute differences `mass`, `step_map`, `entropy_nats`
    """
    extraction = Extraction(profile)
    rows = []
    for model in models:
        settings = extraction.settings
        vlm = load_vlm(extraction.checkpoint(model), name=model, device=settings["device"], dtype=settings["dtype"])
        for benchmark in extraction.settings["benchmarks"]:
            stored = list(shards.iterate_traces(profile, model, benchmark))[:n_items]
            by_id = {item.id: item for item in extraction.items[benchmark, "test"]}
            responses = extraction.read_responses(model, benchmark)
            again = replay_responses(
                vlm, encode_items(vlm, [by_id[t.trace.item_id] for t in stored]),
                [responses[t.trace.item_id].response_ids for t in stored],
                coverage=[t.coverage for t in stored], control=[t.control for t in stored],
                steps=[t.spans.steps for t in stored], implementation=implementation,
            )  # fmt: skip
            row: dict[str, Any] = {"model": model, "benchmark": benchmark, "n_items": len(stored)}
            for name in ("mass", "step_map", "entropy_nats"):
                pairs = zip(again, stored, strict=True)
                row[name] = max(float(np.abs(getattr(a, name) - getattr(s.trace, name)).max()) for a, s in pairs)
            rows.append(row)
    return pd.DataFrame(rows)


def count_misreads(profile: str, models: Sequence[str], benchmarks: Sequence[str]) -> pd.DataFrame:
    """Return, per test response, whether it is correct and whether every gold read is written in it.

    Returns
    -------
    DataFrame with model, benchmark, item_id, correct, reads_right
    """
    extraction = Extraction(profile)
    rows = []
    for benchmark in benchmarks:
        items = {item.id: item for item in extraction.items[benchmark, "test"]}
        for model in models:
            for record in shards.iterate_traces(profile, model, benchmark):
                item = items[record.trace.item_id]
                written = {text.strip(" .") for text in record.step_texts}
                gold = {step.text for step in item.gold_steps if step.kind == "read"}
                rows.append({
                    "model": model, "benchmark": benchmark, "item_id": item.id,
                    "correct": testbed.score(item, record.answer_text).correct, "reads_right": gold <= written,
                })  # fmt: skip
    return pd.DataFrame(rows)
