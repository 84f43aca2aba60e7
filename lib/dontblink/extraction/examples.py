"""Second looks at a finished extraction: single items for pictures, chosen by rule, maps of a cell, another replay.

Why it exists: a mean hides what single responses look like, and an independent implementation says how far the measures
can be trusted. In: the shards of a finished extraction, the items behind them, the pairs table of `collapse`. Out: what
`picture.evidence_strip` draws, mean maps for the shuffled-boxes control, a small table for notebook 01. Never: pick an
item by eye.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dontblink import paths, schema
from dontblink.attention.capture import Implementation
from dontblink.attention.grounding import Grounding
from dontblink.attention.traces import trace_responses
from dontblink.boxes.evidence import split_images
from dontblink.extraction import study
from dontblink.questions.items import open_image
from dontblink.schema import HEAD_SETS

Maps = npt.NDArray[np.float64]
GROUNDING_LAYERS = HEAD_SETS.index("grounding_layers")


def read_grounding(profile: str, model: str) -> Grounding:
    """Return the grounding layers and heads that the extraction chose on the calibration split."""
    return Grounding(**schema.read_manifest(profile)["grounding"][model])


def mean_maps(profile: str, model: str, benchmark: str, wanted: Collection[str]) -> list[tuple[Maps, Maps]]:
    """Return the maps and the coverages [n_items, M] of a cell's test responses with a step, a pair a grid of images.

    A map is the mean attention of the grounding layers to each image token over the steps, weighted by their length;
    `wanted` are ids of items with boxes.
    """
    grids: dict[Any, list[tuple[Maps, Maps]]] = {}
    for trace in study.iterate_traces(profile, model, benchmark):
        if trace.spans.steps and trace.item_id in wanted:
            lengths = np.diff(trace.spans.steps)[:, 0].astype(np.float64)
            mean = lengths @ trace.step_map[:, GROUNDING_LAYERS].astype(np.float64) / lengths.sum()
            grids.setdefault(str(trace.grids), []).append((mean, trace.coverage.astype(np.float64)))
    return [(np.stack(maps), np.stack(boxes)) for maps, boxes in (zip(*own, strict=True) for own in grids.values())]


def pick_by_collapse(
    pairs: pd.DataFrame, items: pd.DataFrame, model: str, benchmark: str, quantiles: Sequence[float],
    correct: bool = True,
) -> list[str]:  # fmt: skip
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


def load_strips(profile: str, model: str, item_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield what a picture of each of some test items needs: of several images, that with the most evidence.

    That is: image, boxes, step_maps [S, rows * columns] over the grounding layers, step_texts and grid.
    """
    asked = study.Study(profile).items.items()
    items = {item.id: item for (_, split), items in asked for item in items if split == "test"}
    for item in (items[item_id] for item_id in item_ids):
        trace = next(t for t in study.iterate_traces(profile, model, item.benchmark) if t.item_id == item.id)
        shown = int(np.argmax([part.sum() for part in split_images(trace.coverage, trace.grids)]))
        ends = np.cumsum([0, *(rows * columns for rows, columns in trace.grids)])
        place = trace.image_order[shown]
        yield {
            "image": open_image(item.images[place]), "boxes": tuple(box for box in item.boxes if box.image == place),
            "step_maps": trace.step_map[:, GROUNDING_LAYERS, ends[shown] : ends[shown + 1]],
            "step_texts": list(trace.step_texts), "grid": trace.grids[shown],
        }  # fmt: skip


# what is compared, by its column
DIFFERENCES = {
    "mass_difference": "mass", "step_map_difference": "step_map", "entropy_difference_nats": "entropy_nats",
}  # fmt: skip


def compare_replays(profile: str, models: Sequence[str], n_items: int, implementation: Implementation) -> pd.DataFrame:
    """Replay stored responses with another implementation and return the largest absolute differences per cell.

    The columns are model, benchmark, n_items, and those of `DIFFERENCES`.
    """
    own = study.Study(profile)
    settings = own.settings | {"replay_implementation": implementation}
    rows = []
    for model in models:
        vlm = own.load_model(model)
        for benchmark in own.settings["benchmarks"]:
            stored = list(islice(study.iterate_traces(profile, model, benchmark), n_items))
            files, wanted = study.list_shards(paths.responses, profile, model, benchmark), {t.item_id for t in stored}
            written = (response for file in files for response in study.read_responses(file))
            responses = list(islice((r for r in written if r.item_id in wanted), len(wanted)))
            inputs = settings, own.lacking_boxes, read_grounding(profile, model)
            again, _ = trace_responses(
                vlm.limit(own.image_tokens(benchmark)), own.items[benchmark, "test"], responses, *inputs
            )
            row: dict[str, Any] = {"model": model, "benchmark": benchmark, "n_items": len(stored)}
            for column, name in DIFFERENCES.items():
                pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(again, stored, strict=True)]
                row[column] = max(float(np.nanmax(np.abs(a - b), initial=0)) for a, b in pairs)
            rows.append(row)
    return pd.DataFrame(rows)
