"""`python -m dontblink_simulation rules`: how often does a verdict rule fire where its claim's null is true?

Why: a rule without its control inside says "reproduced" of noise, and nobody sees it from the rule's text. In: the
tables of the testbed, and paper/claims.yaml. A deal makes the null of a claim true in these tables and leaves the rest
as it is; then come the notebooks' own functions, with fewer replicates, and the rule itself. C6 says that two things
happen together, and no deal keeps one and takes the other: its studies are drawn (`forced`), for each way in which its
null can be true, and with its smallest effect at several numbers of items. Out: for each claim and rule the share of
deals in which it fires, with its exact interval, in figures/simulation/00_rules.json, which the ledger shows. Deals are
kept by the code, the rule and the tables behind them, so that a run resumes. Never: a rule looked at without its
controls, or a deal chosen for what it gives.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint
from tqdm import tqdm

from dontblink import params, paths, schema, store
from dontblink.errors import as_command
from dontblink.extraction import tables
from dontblink.files import hash_file, read_json, write_text
from dontblink.publish import claims
from dontblink.publish.numbers import Row
from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import causal, collapse, entropy, hazard, transfer, veto
from dontblink.studies.cells import PLACEBOS, VISION, VISIONS, deal_rows, number_items, select_rows
from dontblink_simulation import forced
from dontblink_simulation.needed import items_at
from dontblink_simulation.simulate import hash_code

PROFILE, HEADS = "testbed", "grounding_layers"
RULES = ("reproduced", "same_direction")
LIGHT, REFIT = 200, 100  # replicates: a deal is one study, and its interval may be a little rough
SPLITS = 40  # of the veto
ORDER_DEALS = 199  # of C6: the smallest p that Holm over nine cells can pass; with more it has a little more power
Series = dict[str, list[Row]]


@cache
def read_claim(name: str) -> dict[str, Any]:
    """Return a claim of the ledger; to read it takes a fifth of a study."""
    return dict(claims.read_ledger()["claims"][name])


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


def draw_order(population: forced.Forced, rng: np.random.Generator) -> Series:
    """C6: a study of a population, every forced answer in the form of one, so that the rate is an upper bound."""
    light = Resampling(LIGHT, int(rng.integers(2**32)))
    return {"both": to_rows(causal.c6_table(population.draw(rng), order_deals=ORDER_DEALS, resampling=light))}


DEALS: dict[str, Callable[[np.random.Generator], Series]] = {
    "C1": deal_collapse,
    "C2": deal_entropy,
    "C3": deal_transfer,
    "C4": deal_hazard,
    "C5": deal_veto,
} | {f"C6 {setting}": partial(draw_order, population) for setting, population in forced.SETTINGS.items()}


def count_wanted(name: str, n_deals: int) -> int:
    """Return how many studies are wanted: twice as many at the edge of a null, fewer where power is only read off."""
    return 2 * n_deals if " no_" in name else n_deals // 4 if " with_" in name else n_deals


def fires(claim: Mapping[str, Any], series: Series) -> dict[str, bool]:
    """Return which rules of a claim fire on these rows."""
    found = {}
    for rule in RULES:
        conditions = (claim["conditions"][name] for name in claim[rule])
        active = [c for c in conditions if PROFILE in c.get("only_in", [PROFILE])]
        found[rule] = all(claims.judge_condition(condition, series)["holds"] for condition in active)
    return found


def run_deal(name: str, number: int) -> dict[str, bool]:
    """Return which rules of a claim fire on one deal; its seed is the claim, its number and the setting."""
    rng = np.random.default_rng([int(name[1:2]), number, *name[2:].encode()])
    return fires(read_claim(name[:2]), DEALS[name](rng))


def count_fires(found: Sequence[Mapping[str, bool]]) -> dict[str, dict[str, float]]:
    """Return the rate of each rule with its exact (Clopper-Pearson) 95 % interval."""
    result = {}
    for rule in RULES:
        n = sum(deal[rule] for deal in found)
        low, high = proportion_confint(n, len(found), alpha=0.05, method="beta")
        rates = {"rate": n / len(found), "low": float(low), "high": float(high)}
        result[rule] = rates | {"n_fired": n, "n_deals": len(found)}
    return result


def summarise(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Return `rules`: the rates of each claim, of C6 those of the least favourable null; and what only C6 has.

    `nulls` are its rates by null; `power` those of its smallest effect by items (a study with a stronger word has the
    weaker one, too), n_at_80 of any word and by rule, absent where the largest size does not reach it, and the
    conditions that are taken as met, because no number of items changes them.
    """
    rules: dict[str, Any] = {name: rates for name, rates in found.items() if " " not in name}
    if not (own := {name[3:]: rates for name, rates in found.items() if " " in name}):
        return {"rules": rules}
    nulls: dict[str, Any] = {name: {"says": says, **own[name]} for name, (says, _) in forced.NULLS.items()}
    worst = {rule: max((null[rule] for null in nulls.values()), key=lambda rate: rate["rate"]) for rule in RULES}
    by_items = {str(n): own[f"with_{n}"] for n in forced.SIZES}
    at: dict[tuple[str, str], float] = {}
    for rule in RULES:
        for key, column in (("n_at_80", "rate"), ("n_at_80_low", "high"), ("n_at_80_high", "low")):
            needed = items_at(forced.SIZES, [rates[rule][column] for rates in by_items.values()])
            at |= {(rule, key): needed} if np.isfinite(needed) else {}
    power: dict[str, Any] = {key: needed for (rule, key), needed in at.items() if rule == "same_direction"}
    power["n_at_80_by_rule"] = {rule: needed for (rule, key), needed in at.items() if key == "n_at_80"}
    power |= {"effect": forced.EFFECT.rise, "population": asdict(forced.EFFECT), "by_items": by_items}
    power["taken_as_met"] = ["in_form"]
    return {"rules": rules | {"C6": worst}, "nulls": {"C6": nulls}, "power": {"accuracy": power}}


@as_command
def main(arguments: Sequence[str] | None = None) -> int:
    """Deal, judge, count and write."""
    parser = argparse.ArgumentParser(prog="python -m dontblink_simulation rules", description=__doc__.split("\n\n")[0])
    parser.add_argument("--deals", type=int, default=200, help="of each claim (default %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="worker processes; changes no number")
    known = sorted({name[:2] for name in DEALS})
    parser.add_argument("--claims", nargs="+", default=known, choices=known, help="the others stay as they are")
    given = parser.parse_args(arguments)
    folder, rates = paths.results("simulation") / "rules", {}
    code = hash_code(__name__), hash_file(paths.extraction_manifest(PROFILE))
    context = multiprocessing.get_context("spawn")
    for name in (name for name in DEALS if name[:2] in given.claims):
        claim, wanted = read_claim(name[:2]), count_wanted(name, given.deals)
        key = store.shard_key(*code, {rule: claim[rule] for rule in RULES}, claim["conditions"])
        file = folder / f"{name.replace(' ', '-')}-{key}.json"
        found = json.loads(file.read_text()) if file.is_file() else []
        todo = range(len(found), wanted)
        with ProcessPoolExecutor(given.processes, context) as pool:
            for deal in tqdm(pool.map(run_deal, [name] * len(todo), todo), name, len(todo), disable=None):
                found.append(deal)
                write_text(file, json.dumps(found))
        rates[name] = count_fires(found[:wanted])
    summary, tracked = summarise(rates), paths.figures("simulation") / "00_rules.json"
    if given.deals >= 200:
        there = read_json(tracked, "take it back from git") if tracked.is_file() else {}
        rules = dict(sorted((there.get("rules", {}) | summary["rules"]).items()))
        write_text(tracked, json.dumps(there | summary | {"rules": rules}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    return 0
