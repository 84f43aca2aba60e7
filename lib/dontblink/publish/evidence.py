"""Can proposed evidence be trusted? Recovered boxes against true ones, where a study has both: `make evidence`.

Why it exists: a collapse over proposed boxes is worth what the proposals are, and a proposal that follows the studied
model's own attention biases the collapse while its overlap looks good. In: the readings of `extraction.readings`, items
with true boxes, and the rule in section `occlusion` of the parameters. Out: a row for each studied model x benchmark x
annotator x size of regions, with two controls beside it, and a picture; of the testbed they are tracked in
figures/evidence. Never: judge an annotator on its own responses, or trust what the control would pass as well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dontblink import params, paths
from dontblink.boxes.evidence import control_coverage, item_coverage, map_auc
from dontblink.errors import as_command
from dontblink.extraction.readings import Ends, Read, Readings
from dontblink.figures import charts
from dontblink.files import write_bytes
from dontblink.models.generate import item_generator
from dontblink.publish import record
from dontblink.statistics.bootstrap import Resampling, bootstrap_sums, divide

STEM, SHARED = "02_evidence", "all annotators"
CONTROLS = {"own": "half of its own attention", "elsewhere": "as many tokens elsewhere"}
SHOWN = (
    "benchmark", "model", "annotator", "regions_across", "n_items", "auc", "iou", "true_collapse", "estimate", "ci_low",
    "ci_high", "own_iou", "own_difference", "verdict",
)  # fmt: skip
MIN_ITEMS = 20
Tokens = NDArray[np.float64]  # [M], share of each image token that is evidence


def share_readings(reads: Mapping[str, Mapping[str, Read]]) -> dict[str, Read]:
    """Return what all annotators were read from: the least drop and the common tokens, of items that all have."""
    shared = {}
    for item_id in sorted(set.intersection(*map(set, reads.values()))):
        parts = [own[item_id].reading for own in reads.values()]
        evidence = np.logical_and.reduce([part.evidence for part in parts])
        drop = np.minimum.reduce([part.drop_nats for part in parts])
        one = next(iter(reads.values()))[item_id]
        if evidence.any():
            shared[item_id] = one._replace(reading=replace(one.reading, evidence=evidence, drop_nats=drop))
    return shared


def find_densest_half(weights: NDArray[np.float32]) -> Tokens:
    """Return the fewest image tokens that hold half of a map: 1 for each of them, else 0."""
    order = np.argsort(-weights, kind="stable")
    held = np.cumsum(weights[order], dtype=np.float64)
    dense = np.zeros(len(weights))
    dense[order[: int(np.searchsorted(held, held[-1] / 2)) + 1]] = 1
    return dense


def overlap(found: Tokens, true: Tokens) -> float:
    """Return sum(min) / sum(max) of two coverages: the intersection over the union."""
    return float(np.minimum(found, true).sum() / np.maximum(found, true).sum())


def compare(reads: Mapping[str, Read], ends: Mapping[str, Ends], true: Mapping[str, Tokens], seed: int,
            resampling: Resampling) -> dict[str, Any]:  # fmt: skip
    """Return how well readings recover true evidence, over the items that have both and the two ends of a reasoning.

    The collapse is a ratio of sums over items, 1 - sum last / sum first, of the attention mass on the tokens; the
    differences of recovered and true collapse, of the controls too, are resampled together, item by item.
    """
    kept = [item_id for item_id in reads if item_id in ends and item_id in true]
    sums, scores = [], []
    for item_id in kept:
        (reading, grids, _), look, boxes = reads[item_id], ends[item_id], true[item_id]
        found, own = reading.evidence.astype(np.float64), find_densest_half(look.whole)
        elsewhere = control_coverage(found, grids, item_generator(seed, item_id)).astype(np.float64)
        sums.append([end @ tokens for tokens in (boxes, found, own, elsewhere) for end in (look.first, look.last)])
        scores.append((
            map_auc(reading.drop_nats, boxes), overlap(found, boxes), map_auc(look.whole, boxes), overlap(own, boxes),
            overlap(elsewhere, boxes),
        ))  # fmt: skip
    row: dict[str, Any] = {"n_items": len(kept)}
    if len(kept) < MIN_ITEMS:
        return row
    names = "auc", "iou", "own_auc", "own_iou", "elsewhere_iou"
    row |= dict(zip(names, np.nanmean(scores, axis=0).tolist(), strict=True))

    def statistic(totals: Any) -> Any:
        kept_share = [divide(totals[..., k + 1], totals[..., k]) for k in range(0, 8, 2)]
        return np.stack([1 - kept_share[0], 1 - kept_share[1], *(kept_share[0] - s for s in kept_share[1:])], axis=-1)

    intervals = bootstrap_sums(np.array(sums, np.float64), statistic, np.array(kept), resampling=resampling)
    row |= {"true_collapse": intervals[0].estimate, "recovered_collapse": intervals[1].estimate}
    row |= intervals[2].columns()
    for name, interval in zip(CONTROLS, intervals[3:], strict=True):
        row |= interval.columns(f"{name}_difference")
    return row


def judge(row: Mapping[str, Any], rule: Mapping[str, float]) -> str:
    """Return the verdict on a row: what it misses of the rule, and "uninformative" where the control passes as well."""
    if "auc" not in row:
        return "too few items"

    def misses(auc: float, iou: float, low: float, high: float) -> list[str]:
        is_near = -rule["most_difference"] < low <= high < rule["most_difference"]
        held = {"AUC": auc >= rule["least_auc"], "IoU": iou >= rule["least_iou"], "collapse": is_near}
        return [name for name, holds in held.items() if not holds]

    if missed := misses(row["auc"], row["iou"], row["ci_low"], row["ci_high"]):
        return f"misses {', '.join(missed)}"
    control = misses(row["own_auc"], row["own_iou"], row["own_difference_low"], row["own_difference_high"])
    return "recovered" if control else "uninformative"


def list_rows(readings: Readings, resampling: Resampling) -> Iterator[dict[str, Any]]:
    """Yield a row for each studied model, benchmark, other annotator (and what all share) and size of regions."""
    settings = readings.settings
    for benchmark in readings.study.settings["benchmarks"]:
        by_model = {model: readings.collect(model, benchmark) for model in settings["annotators"]}
        boxed = {item.id: item for item in readings.study.items[benchmark, "test"] if item.boxes}
        true = {
            item_id: item_coverage(boxed[item_id], read.grids, image_order=read.image_order).astype(np.float64)
            for found in by_model.values() for reads in found.values() for item_id, read in reads.items()
            if item_id in boxed
        }  # fmt: skip
        for studied in readings.study.settings["models"] if true else ():
            ends = readings.read_ends(studied, benchmark)
            for across, how in readings.ways.items():
                asked = {model: found[across] for model, found in by_model.items() if model != studied}
                usable = {
                    model: {item_id: read for item_id, read in reads.items() if not read.reading.find_flaw(how)}
                    for model, reads in asked.items()
                }
                counts = {model: (len(asked[model]), len(asked[model]) - len(usable[model])) for model in asked}
                if len(usable) > 1:
                    usable[SHARED] = share_readings(usable)
                for annotator, reads in usable.items():
                    n_read, n_flawed = counts.get(annotator, (len(reads), 0))
                    names = {"model": studied, "benchmark": benchmark, "annotator": annotator, "regions_across": across}
                    row = compare(reads, ends, true, settings["seed"], resampling)
                    yield names | {"n_read": n_read, "n_flawed": n_flawed} | row | {"verdict": judge(row, settings)}


def draw(table: pd.DataFrame, confidence: float) -> Figure:
    """Draw recovered less true collapse with its controls, one panel a size of regions."""
    sizes = sorted(table["regions_across"].unique(), reverse=True)
    figure, axes = plt.subplots(1, len(sizes), figsize=(7, 5.2), sharex=True, sharey=True, squeeze=False)
    for ax, across in zip(axes[0], sizes, strict=True):
        rows = table[(table["regions_across"] == across) & table["estimate"].notna()]
        named = rows["benchmark"] + ": " + rows["model"] + ",\nby " + rows["annotator"]
        rows = rows.assign(row=named, quantity="recovered")
        marks = {words: rows.assign(estimate=rows[f"{name}_difference"]) for name, words in CONTROLS.items()}
        charts.forest(ax, rows, label="difference of collapse (share)", controls=marks, confidence=confidence)
        ax.set_title(f"{across} regions across")
        legend = ax.get_legend()
        legend.remove()
    texts = [text.get_text() for text in legend.get_texts()]
    handles = [axes[0, 0].containers[0], *legend.legend_handles[1:]]  # the first with its marker
    figure.legend(handles, texts, loc="outside lower center", ncols=3, frameon=False)
    return figure


def read_rows(profile: str) -> pd.DataFrame:
    """Return the rows that `make evidence` wrote for a profile, none where it was not run."""
    file = paths.ROOT / "figures" / "evidence" / f"{STEM}_cells.csv"  # so that `lineage` sees it
    if profile != "testbed":
        file = paths.figures(name_folder(profile)) / file.name
    return pd.read_csv(file) if file.is_file() else pd.DataFrame()


def name_folder(profile: str) -> str:
    """Return the name of the folder of figures that holds what `make evidence` found in a profile."""
    return "evidence" if profile == "testbed" else f"{profile}_evidence"


def describe(rows: pd.DataFrame, rule: Mapping[str, float]) -> str:
    """Return what the rows say of the rule, as sentences: how far apart, what is missed where, what the controls do."""
    known = rows.dropna(subset=["estimate"])
    most, verdicts = rule["most_difference"], rows["verdict"]
    is_near = (known["ci_low"] > -most) & (known["ci_high"] < most)
    parts = [
        f"recovered less true collapse: {known['estimate'].min():.3f} to {known['estimate'].max():.3f}, the interval "
        f"inside +-{most:g} in {is_near.sum()} of {len(known)}",
        f"AUC {known['auc'].min():.3f} to {known['auc'].max():.3f}, {rule['least_auc']:g} or more in "
        f"{(known['auc'] >= rule['least_auc']).sum()}; IoU {known['iou'].min():.2f} to {known['iou'].max():.2f}, "
        f"{rule['least_iou']:g} or more in {(known['iou'] >= rule['least_iou']).sum()}",
        *(f"{words}: {known[f'{name}_difference'].min():.3f} to {known[f'{name}_difference'].max():.3f}"
          for name, words in CONTROLS.items()),
    ]  # fmt: skip
    counts = ", ".join(f"{verdict} {n}" for verdict, n in verdicts.value_counts().items())
    is_met = "met" if (verdicts == "recovered").all() else "not met in every row"
    return f"{'; '.join(parts)}. Acceptance {is_met}: {counts}"


@as_command
def main() -> int:
    """Compare proposed with true evidence, where items have boxes, and write the table and its picture."""
    parser = argparse.ArgumentParser(prog="python -m dontblink.publish.evidence", description=main.__doc__)
    parser.add_argument("--profile", default="testbed", help="which params/<profile>.yaml")
    profile = parser.parse_args().profile
    asked = params.read_section(profile, "collapse")
    resampling = Resampling(
        asked["bootstrap_replicates"], asked["bootstrap_seed"], asked["confidence_level"], asked["interval"]
    )
    if not (rows := list(list_rows(Readings(profile), resampling))):
        print(f"{profile}: no item has true boxes: nothing to hold the proposals against")
        return 0
    table = pd.DataFrame(rows)
    name = name_folder(profile)
    drawn = record.save_figure(draw(table, asked["confidence_level"]), STEM, name)
    for file in (record.save_table(STEM, "cells", table, name), *drawn):
        write_bytes(paths.figures(name) / file.name, file.read_bytes())
    print(describe(table, params.read_section(profile, "occlusion")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
