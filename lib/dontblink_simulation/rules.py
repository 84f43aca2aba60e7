"""`python -m dontblink_simulation rules`: how often does a verdict rule fire where its claim's null is true?

Why: a rule without its control inside says "reproduced" of noise, and nobody sees it from the rule's text. In: the
tables of the testbed, and paper/claims.yaml. A deal makes the null of a claim true in these tables and leaves the rest
as it is; then come the notebooks' own functions, with fewer replicates, and the rule itself. Out: for each claim and
rule the share of deals in which it fires, with its exact interval, in figures/simulation/00_rules.json, which the
ledger shows. Deals are kept by the code, the rule and the tables behind them, so that a run resumes. Never: a rule
looked at without its controls, or a deal chosen for what it gives.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint
from tqdm import tqdm

from dontblink import params, paths, schema, store
from dontblink.errors import as_command
from dontblink.extraction import tables
from dontblink.files import hash_file, write_text
from dontblink.publish import claims
from dontblink.publish.numbers import Row
from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import collapse, entropy, hazard, transfer, veto
from dontblink.studies.cells import PLACEBOS, VISION, VISIONS, deal_rows, number_items, select_rows
from dontblink_simulation.simulate import hash_code

PROFILE, HEADS = "testbed", "grounding_layers"
RULES = ("reproduced", "same_direction")
LIGHT, REFIT = 200, 100  # replicates: a deal is one study, and its interval may be a little rough
SPLITS = 40  # of the veto
Series = dict[str, list[Row]]


@cache
def read_items(split: str) -> pd.DataFrame:
    """Return the items table of a split."""
    return schema.read_tables(PROFILE, ["items"], split=split)["items"]


@cache
def read_pairs() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the masses of first and last part, and of read and recall steps, of each response."""
    bins = params.read_section(PROFILE, "collapse")["bins"]
    steps = schema.read_tables(PROFILE, ["steps"], split="test", head_set=HEADS)["steps"]
    binned = tables.read_bins(PROFILE, bins, split="test", head_set=HEADS)
    return collapse.pair_bins(binned), collapse.pair_kinds(steps)


def deal_columns(items: pd.DataFrame, columns: Iterable[str], rng: np.random.Generator) -> pd.DataFrame:
    """Return the items with some columns dealt together to other items of the cell, the same deal for all models."""
    rows = select_rows(items.assign(row=np.arange(len(items))), ["row"], split=str(items["split"].iloc[0]))
    place = rows["row"].to_numpy(np.int64)
    order = np.arange(len(items))
    order[place] = place[deal_rows(*number_items(rows), rng)]
    return items.assign(**{name: items[name].to_numpy()[order] for name in columns})


def exchange_ends(pairs: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Return the pairs with first and last exchanged for half of the items, and every mass diluted as in its cell.

    What is left over the ratio of any two masses is then nothing, in every cell, while the raw mass still falls as a
    uniform look does.
    """
    item, labels = pd.factorize(pairs["benchmark"] + "\n" + pairs["item_id"])
    swap = (rng.random(len(labels)) < 0.5)[item]
    ends = {name: [pairs[f"{name}_{end}"].to_numpy() for end in ("first", "last")] for name in collapse.MASSES}
    uniform = [f"uniform_evidence_share_{end}" for end in ("last", "first")]
    totals = pairs.groupby(collapse.CELL)[uniform].transform("sum")
    dilution = (totals.iloc[:, 0] / totals.iloc[:, 1]).to_numpy()
    dealt = {}
    for name, (first, last) in ends.items():
        dealt[f"{name}_first"] = np.where(swap, last, first)
        dealt[f"{name}_last"] = np.where(swap, first, last) * dilution
    return pairs.assign(**dealt)


def to_rows(table: pd.DataFrame) -> list[Row]:
    """Return the rows of a table as the ledger reads them."""
    return [Row((str(k),), row) for k, row in enumerate(table.to_dict("records"))]


def deal_collapse(rng: np.random.Generator) -> Series:
    """C1: it does not matter which end of the reasoning is which."""
    light = Resampling(LIGHT, int(rng.integers(2**32)), method="t")
    pairs, recall = (exchange_ends(part, rng) for part in read_pairs())
    cells = list(pairs[collapse.CELL].drop_duplicates().itertuples(index=False, name=None))
    wanted = ("evidence", "evidence_over_uniform", "evidence_over_prompt")
    table = collapse.collapse_table(pairs, cells, quantities=wanted, resampling=light)
    own = {name: to_rows(rows) for name, rows in table.groupby("quantity")}
    again = collapse.collapse_table(recall, cells, quantities=wanted[1:2], resampling=light)
    return dict(zip(("raw", "beyond", "beyond_prompt"), (own[name] for name in wanted), strict=True)) | {
        "recall": to_rows(again)
    }


def deal_entropy(rng: np.random.Generator) -> Series:
    """C2: whether an answer is correct has nothing to do with its scores."""
    items = deal_columns(read_items("test"), ["correct"], rng)
    light = Resampling(LIGHT, int(rng.integers(2**32)), method="percentile")
    scores = {name: entropy.SCORES[name] for name in ("full", "answer", "max", "length")}
    table = entropy.auroc_table(items, scores, resampling=light)
    places = {
        "full": ("benchmark", "full"), "over_answer": ("benchmark", "full - answer"),
        "over_largest": ("benchmark", "full - max"), "over_length": ("benchmark", "full - length"),
        "pooled": ("pooled", "full - answer"), "pooled_length": ("pooled", "full - length"),
    }  # fmt: skip
    own = {place: to_rows(rows) for place, rows in table.groupby(["scope", "score"])}
    met = {"over_agreement": [Row((), {"ci_low": 1.0})]}  # the samples' lead, so that the rate is an upper bound
    return {name: own[place] for name, place in places.items()} | met


def deal_transfer(rng: np.random.Generator) -> Series:
    """C3: vision is a useless feature."""
    fit, items = (deal_columns(read_items(split), [VISION], rng) for split in ("calibration", "test"))
    seed = int(rng.integers(2**32))
    few = Resampling(REFIT, seed, method="percentile")
    deals = params.read_section(PROFILE, "entropy")["vision_deals"]
    table = transfer.transfer_table(fit, items, ["linear"], resampling=few, refit=few, n_deals=deals)
    table = table[(table["model"] == "all") & (table["rule"] == "linear")]
    return {
        "excess": to_rows(table[table["train"] != table["test"]]),
        "mean": to_rows(table[table["train"] == "all"]),
    }


def deal_hazard(rng: np.random.Generator) -> Series:
    """C4: vision says nothing about an answer; the placebos stay as they are.

    The coefficients and the specification curve would take minutes a deal. They are taken as met, so that the rate is
    an upper bound of the rule's.
    """
    items = deal_columns(read_items("test"), VISIONS.values(), rng)
    own = params.read_section(PROFILE, "interaction")
    light = Resampling(LIGHT, int(rng.integers(2**32)), method="t")
    options = {"share": own["quadrant_share"], "min_items": own["min_items"], "resampling": light}
    table = hazard.contrast_table(items, own["visual_type"], own["symbolic_type"], **options)
    table = table[table["vision"] == "evidence"].set_index("over")
    names = {"hazard": "", "over_length": "length", "over_elsewhere": "elsewhere"}
    met = {"coefficient": {"ci_high": -1.0}, "specifications": {"p_median": 0.0}, "symbolic": {"p": 0.0}}
    return {name: to_rows(table.loc[[over]]) for name, over in names.items()} | {
        name: [Row((), fields)] for name, fields in met.items()
    }


def deal_veto(rng: np.random.Generator) -> Series:
    """C5: the vision of the veto is dealt; the placebos stay as they are.

    The permutations within a deal are taken as met, so that the rate is an upper bound of the rule's.
    """
    vision = "image"
    items = deal_columns(read_items("test"), [VISIONS[vision]], rng)
    own = params.read_section(PROFILE, "veto")
    study = veto.run_study(
        items, own["targets"], visions={vision: VISIONS[vision]} | PLACEBOS, base="entropy_length", rules=("veto",),
        coverages=(own["coverage"],), n_splits=SPLITS, n_blocks=own["jackknife_blocks"], n_shares=own["veto_shares"],
        min_items=own["min_items"], seed=int(rng.integers(2**32)),
    )  # fmt: skip
    gains, over = study.gains(), study.compare([vision], PLACEBOS)
    gains = gains[gains["vision"] == vision].assign(p=0.0, p_max=0.0)
    aimed, beyond = (
        table[(table["scope"] == "task_type") & table["benchmark"].isin(own["targets"])] for table in (gains, over)
    )
    cells = gains[(gains["scope"] == "cell") & gains["gain"].notna()]
    return {"target": to_rows(aimed), "cells": to_rows(cells)} | {
        f"over_{name}": to_rows(beyond[beyond["placebo"] == name]) for name in PLACEBOS
    }


DEALS: dict[str, Callable[[np.random.Generator], Series]] = {
    "C1": deal_collapse,
    "C2": deal_entropy,
    "C3": deal_transfer,
    "C4": deal_hazard,
    "C5": deal_veto,
}


def fires(claim: Mapping[str, Any], series: Series) -> dict[str, bool]:
    """Return which rules of a claim fire on these rows."""
    found = {}
    for rule in RULES:
        conditions = (claim["conditions"][name] for name in claim[rule])
        active = [c for c in conditions if PROFILE in c.get("only_in", [PROFILE])]
        found[rule] = all(claims.judge_condition(condition, series)["holds"] for condition in active)
    return found


def run_deal(name: str, number: int) -> dict[str, bool]:
    """Return which rules of a claim fire on one deal; its seed is the claim's name and its number."""
    rng = np.random.default_rng([int(name[1:]), number])
    return fires(claims.read_ledger()["claims"][name], DEALS[name](rng))


def count_fires(found: Sequence[Mapping[str, bool]]) -> dict[str, dict[str, float]]:
    """Return the rate of each rule with its exact (Clopper-Pearson) 95 % interval."""
    result = {}
    for rule in RULES:
        n = sum(deal[rule] for deal in found)
        low, high = proportion_confint(n, len(found), alpha=0.05, method="beta")
        rates = {"rate": n / len(found), "low": float(low), "high": float(high)}
        result[rule] = rates | {"n_fired": n, "n_deals": len(found)}
    return result


@as_command
def main(arguments: Sequence[str] | None = None) -> int:
    """Deal, judge, count and write."""
    parser = argparse.ArgumentParser(prog="python -m dontblink_simulation rules", description=__doc__.split("\n\n")[0])
    parser.add_argument("--deals", type=int, default=200, help="of each claim (default %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="worker processes; changes no number")
    parser.add_argument("--claims", nargs="+", default=[], choices=[*DEALS], help="the others stay as they are")
    given = parser.parse_args(arguments)
    folder, rules = paths.results("simulation") / "rules", {}
    code = hash_code(__name__), hash_file(paths.extraction_manifest(PROFILE))
    ledger = claims.read_ledger()["claims"]
    context = multiprocessing.get_context("spawn")
    for name in DEALS:
        key = store.shard_key(*code, {rule: ledger[name][rule] for rule in RULES}, ledger[name]["conditions"])
        file = folder / f"{name}-{key}.json"
        found = json.loads(file.read_text()) if file.is_file() else []
        if not given.claims or name in given.claims:
            with ProcessPoolExecutor(given.processes, context) as pool:
                todo = range(len(found), given.deals)
                for deal in tqdm(pool.map(run_deal, [name] * len(todo), todo), name, len(todo), disable=None):
                    found.append(deal)
                    write_text(file, json.dumps(found))
        if found:
            rules[name] = count_fires(found[: given.deals])
    if not given.claims and given.deals >= 200:
        write_text(paths.figures("simulation") / "00_rules.json", json.dumps({"rules": rules}, indent=1) + "\n")
    print(json.dumps(rules, indent=1))
    return 0
