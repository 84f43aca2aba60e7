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
from dontblink.engines import load_model
from dontblink.generate import encode_items
from dontblink.grounding import weigh_heads
from dontblink.replay import replay_sets
from dontblink.study import Study


def compare_replays(profile: str, models: Sequence[str], n_items: int, implementation: Implementation) -> pd.DataFrame:
    """Replay stored responses with another implementation and return the largest differences per cell.

    Returns
    -------
    DataFrame with model, benchmark, n_items and the largest absolute differences `mass`, `step_map`, `entropy_nats`
    """
    study = Study(profile)
    rows = []
    for model in models:
        vlm = load_model(study, model)
        config = vlm.model.config.get_text_config()
        sets = weigh_heads(study.grounding(model), config.num_hidden_layers, config.num_attention_heads)
        for benchmark in study.settings["benchmarks"]:
            stored = list(shards.iterate_traces(profile, model, benchmark))[:n_items]
            by_id = {item.id: item for item in study.items[benchmark, "test"]}
            responses = study.read_responses(model, benchmark)
            again = replay_sets(
                vlm, encode_items(vlm, [by_id[t.trace.item_id] for t in stored]),
                [responses[t.trace.item_id].response_ids for t in stored],
                coverage=[t.coverage for t in stored], control=[t.control for t in stored],
                steps=[t.spans.steps for t in stored], reasoning=[t.spans.reasoning for t in stored], head_sets=sets,
                implementation=implementation, token_budget=study.settings["replay_batch_tokens"],
            )  # fmt: skip
            row: dict[str, Any] = {"model": model, "benchmark": benchmark, "n_items": len(stored)}
            for name in ("mass", "step_map", "entropy_nats"):
                pairs = zip(again, stored, strict=True)
                row[name] = max(float(np.abs(getattr(a, name) - getattr(s.trace, name)).max()) for a, s in pairs)
            rows.append(row)
    return pd.DataFrame(rows)


def count_misreads(profile: str, models: Sequence[str], benchmarks: Sequence[str]) -> pd.DataFrame:
    """Return, per test response, whether it is correct and whether every gold read is written in it.

    Only items with gold steps (the testbed's) have rows.

    Returns
    -------
    DataFrame with model, benchmark, item_id, correct, reads_right
    """
    study = Study(profile)
    rows = []
    for benchmark in benchmarks:
        items = {item.id: item for item in study.items[benchmark, "test"]}
        for model in models:
            for record in shards.iterate_traces(profile, model, benchmark):
                item = items[record.trace.item_id]
                if not item.gold_steps:
                    continue
                written = {text.strip(" .") for text in record.step_texts}
                gold = {step.text for step in item.gold_steps if step.kind == "read"}
                rows.append({
                    "model": model, "benchmark": benchmark, "item_id": item.id,
                    "correct": testbed.score(item, record.answer_text).correct, "reads_right": gold <= written,
                })  # fmt: skip
    table = pd.DataFrame(rows, columns=["model", "benchmark", "item_id", "correct", "reads_right"])
    return table.astype({"correct": bool, "reads_right": bool})  # also where it is empty
