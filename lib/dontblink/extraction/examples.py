"""Single items for pictures, and the attention maps behind a cell: chosen by rule, never by eye.

In: the shards of a finished extraction, the pairs table of `collapse`. Out: what `plots.evidence_strip` draws, and
mean maps for the shuffled-boxes control.

Second looks at an extraction: an independent replay of some items, and whether errors begin in the picture.

In: the shards of a finished extraction and the items behind them. Out: small tables for notebook 01. Nothing here
feeds a result; it says how far the results can be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dontblink.attention import traces
from dontblink.attention import traces as shards
from dontblink.attention.capture import Implementation
from dontblink.attention.grounding import weigh_heads
from dontblink.attention.replay import replay_sets
from dontblink.attention.traces import TraceRecord
from dontblink.boxes.evidence import split_images
from dontblink.extraction.study import Study, load_model
from dontblink.models.generate import encode_items
from dontblink.questions.items import open_image
from dontblink.schema import HEAD_SETS, read_manifest

GROUNDING_LAYERS = HEAD_SETS.index("grounding_layers")


def read_grounding_layers(profile: str, model: str) -> list[int]:
    """Return the grounding layers that the extraction chose on the calibration split."""
    manifest = read_manifest(profile)
    return [int(layer) for layer in manifest["grounding"][model]["layers"]]


def average_map(record: TraceRecord) -> npt.NDArray[np.float64]:
    """Return the mean attention of the grounding layers to each image token [M] over the steps, weighted by length."""
    lengths = np.array([end - begin for begin, end in record.spans.steps], dtype=np.float64)
    per_step = record.trace.step_map[:, GROUNDING_LAYERS].astype(np.float64)
    return np.asarray(lengths @ per_step / lengths.sum())


def mean_maps(profile: str, model: str, benchmark: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the average maps and the coverages [n_items, M] of a cell's test responses that have a step."""
    records = [r for r in shards.iterate_traces(profile, model, benchmark) if r.spans.steps]
    maps = np.stack([average_map(record) for record in records])
    return maps, np.stack([record.coverage for record in records]).astype(np.float64)


def pick_by_collapse(
    pairs: pd.DataFrame,
    items: pd.DataFrame,
    model: str,
    benchmark: str,
    quantiles: Sequence[float],
    correct: bool = True,
) -> list[str]:
    """Return the items nearest to given quantiles of the per-item collapse, among a cell's correct or wrong answers.

    Items whose evidence mass starts below the median of these are left out: their ratio is mostly noise. A cell
    without such an answer gives an empty list.
    """
    cell_items = items[(items["model"] == model) & (items["benchmark"] == benchmark)]
    wanted = cell_items[cell_items["correct"] == correct]["item_id"].astype(str)
    cell = pairs[(pairs["model"] == model) & (pairs["benchmark"] == benchmark)]
    rows = cell[(cell["head_set"] == "grounding_layers") & cell["item_id"].isin(wanted)]
    if rows.empty:
        return []
    rows = rows[rows["evidence_mass_first"] >= rows["evidence_mass_first"].median()]
    collapse = 1 - rows["evidence_mass_last"] / rows["evidence_mass_first"]
    nearest = [(collapse - collapse.quantile(q)).abs().idxmin() for q in quantiles]
    return [str(rows.loc[index, "item_id"]) for index in nearest]


def item_collapse(pairs: pd.DataFrame, model: str, item_id: str) -> float:
    """Return one item's collapse of evidence mass on the grounding layers."""
    rows = pairs[(pairs["model"] == model) & (pairs["item_id"] == item_id) & (pairs["head_set"] == "grounding_layers")]
    return float(1 - rows["evidence_mass_last"].item() / rows["evidence_mass_first"].item())


def load_strip(profile: str, model: str, item_id: str) -> dict[str, Any]:
    """Return what a picture of one test item needs: of several images, that with the most evidence.

    Returns
    -------
    dict with image, boxes, step_maps [S, rows * columns] over the grounding layers, step_texts and grid
    """
    item = next(
        i for (_, split), items in Study(profile).items.items() for i in items if (i.id, split) == (item_id, "test")
    )
    traces = shards.iterate_traces(profile, model, item.benchmark)
    record = next(r for r in traces if r.trace.item_id == item_id)
    shown = int(np.argmax([part.sum() for part in split_images(record.coverage, record.grids)]))
    ends = np.cumsum([0, *(rows * columns for rows, columns in record.grids)])
    place = record.image_order[shown]
    return {
        "image": open_image(item.images[place]),
        "boxes": tuple(box for box in item.boxes if box.image == place),
        "step_maps": record.trace.step_map[:, GROUNDING_LAYERS, ends[shown] : ends[shown + 1]],
        "step_texts": list(record.step_texts),
        "grid": record.grids[shown],
    }



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
            stored = list(traces.iterate_traces(profile, model, benchmark))[:n_items]
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
