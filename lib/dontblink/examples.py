"""Single items for pictures, and the attention maps behind a cell: chosen by rule, never by eye.

In: the shards of a finished extraction, the pairs table of `collapse`. Out: what `plots.evidence_strip` draws, and
mean maps for the shuffled-boxes control.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dontblink import paths, shards
from dontblink.extract import Extraction
from dontblink.items import open_image
from dontblink.shards import TraceRecord


def read_grounding_layers(profile: str, model: str) -> list[int]:
    """Return the grounding layers that the extraction chose on the calibration split."""
    manifest = json.loads(paths.extraction_manifest(profile).read_text())
    return [int(layer) for layer in manifest["grounding"][model]["layers"]]


def average_map(record: TraceRecord, layers: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return the mean attention to each image token [M] over the steps (weighted by length), layers and heads."""
    lengths = np.array([end - begin for begin, end in record.spans.steps], dtype=np.float64)
    per_step = record.trace.step_map[:, list(layers)].mean(axis=(1, 2), dtype=np.float64)
    return np.asarray(lengths @ per_step / lengths.sum())


def mean_maps(profile: str, model: str, benchmark: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the average maps and the coverages [n_items, M] of a cell's test responses that have a step."""
    layers = read_grounding_layers(profile, model)
    records = [r for r in shards.iterate_traces(profile, model, benchmark) if r.spans.steps]
    maps = np.stack([average_map(record, layers) for record in records])
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
    """Return the image, boxes, step maps [S, M] over the grounding layers, step texts and grid of one item."""
    benchmark, split = item_id.split("-")[:2]
    record = next(r for r in shards.iterate_traces(profile, model, benchmark, split) if r.trace.item_id == item_id)
    item = next(i for i in Extraction(profile).items[benchmark, "test"] if i.id == item_id)
    layers = read_grounding_layers(profile, model)
    return {
        "image": open_image(item.images[0]),
        "boxes": item.boxes,
        "step_maps": record.trace.step_map[:, layers].mean(axis=(1, 2)),
        "step_texts": list(record.step_texts),
        "grid": record.grids[0],
    }
