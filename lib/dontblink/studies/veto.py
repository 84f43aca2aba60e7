"""Does a vision veto make accepted answers safer than entropy and length alone, at the same coverage, out of sample?

Why: the paper reports the best of nine cells; with vision that is pure noise the best of nine looks as good. A veto on
any covariate may help, if only because it knows how long the response is. In: the items table of the TEST split. Out:
per vision, rule and scope the risk of the accepted answers, the gain over the base rule at equal realised coverage, its
interval, a permutation null that repeats every fit, the difference to vetoes by placebos, and the bound of what any
veto could have reached. The pooled gain is the primary one; all cells are shown. Never: a threshold judged on its own
items (the bound says that it is), a best cell as the headline, rules compared at different coverages, or an interval
that takes the fitted thresholds as given.

Every rule is fitted on half of the items and judged on the other half, in many splits; a result is a ratio of sums
over splits. Resampling items with the fits as they are gives intervals that are too narrow; the block jackknife leaves
blocks of items out of BOTH halves and repeats every fit (the scale of the features and their adjustment are held). It
errs to the wide side (`bootstrap.block_interval`), except where a rule acts in no split: its gain is then exactly 0
with an interval of no width, although the expected gain of such a rule is a little below 0. That is common in small
cells without a danger zone (`make simulate`: 60 items).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dontblink.statistics.bootstrap import EstimateError, Floats, Ints, block_interval, divide, permutation_p
from dontblink.studies.cells import (
    ENTROPY,
    VISION,
    adjust,
    count_rows,
    each_scope,
    keep_usable,
    rank_missing_last,
    select_rows,
)
from dontblink.studies.risk_coverage import count_accepted
from dontblink.studies.veto_rules import (
    BASES,
    RULES,
    VISION_RULES,
    Splits,
    apply_rule,
    count_errors,
    leave_out,
    prepare_splits,
    rank_answers,
    try_floors,
)

SCOPES = ("cell", "benchmark", "task_type", "pooled")
_DEALS_AT_ONCE = 50  # of the bound: all floors of so many deals are held in memory; changes no result


class _Setting(NamedTuple):
    """A vision, rule and coverage: `counts` float64[4, S, U] of `count_errors`; [U]: share vetoed, separated fits.

    U are the units of `_list_units`. `left_out` float64[4, G, U] and `dealt` float64[4, deals, U] are the sums over
    splits without each block, and with vision dealt anew.
    """

    counts: Floats
    veto_share: Floats
    n_separated: Ints
    left_out: Floats
    dealt: Floats


@dataclass(frozen=True, eq=False)
class Study:
    """What every rule accepts in every split: `gains` and `compare` are its tables.

    `rows` are all rows, `units` the judged cells and, behind them, single task types of those that hold several;
    `found` has a setting a vision, rule and coverage, in the order of the table.
    """

    rows: pd.DataFrame
    units: list[tuple[str, str]]
    found: dict[tuple[str, str, float], _Setting]
    facts: dict[str, Any]
    confidence: float

    def gains(self) -> pd.DataFrame:
        """Return a row per scope (cell, benchmark, task type, pooled), vision, rule and coverage; see `veto_table`."""
        results: list[dict[str, Any]] = []
        for names, scope in each_scope(self.rows, SCOPES):
            units = _find_units(self.units, names, scope)
            facts = names | count_rows(scope) | self.facts | {"n_cells": len(units)}
            for (vision, rule, coverage), setting in self.found.items():
                row: dict[str, Any] = {"coverage": coverage, "vision": vision, "rule": rule}
                if len(units):
                    row |= _describe(setting, units, facts["n_items"], self.confidence)
                    if setting.dealt.shape[1]:
                        n_cells = sum(not part for _, part in self.units)
                        row |= _compare(row["gain"], setting.dealt, units, n_cells if names["scope"] == "cell" else 0)
                results.append(facts | row)
        return pd.DataFrame(results)

    def compare(self, visions: Iterable[str], placebos: Iterable[str]) -> pd.DataFrame:
        """Return a row per scope, coverage, vision and placebo: the gain of the veto by the one less that by the other.

        Columns: the counts of the scope, base, coverage, vision, placebo, estimate, ci_low, ci_high, method. Both are
        fitted in the same splits and without the same blocks; each gain is against the base at its own number of
        accepted answers.
        """
        coverages, results = dict.fromkeys(coverage for *_, coverage in self.found), []
        pairs = [(c, v, p) for c in coverages for v in visions for p in placebos]
        for names, scope in each_scope(self.rows, SCOPES):
            units = _find_units(self.units, names, scope)
            for coverage, vision, placebo in pairs if len(units) else ():
                own, other = (self.found[name, "veto", coverage] for name in (vision, placebo))
                counts, without = count_rows(scope), _gain(own.left_out, units) - _gain(other.left_out, units)
                gains = [float(_gain(x.counts.sum(axis=1, keepdims=True), units)[0]) for x in (own, other)]
                found = block_interval(gains[0] - gains[1], without, counts["n_items"], self.confidence)
                row = {"base": self.facts["base"], "coverage": coverage, "vision": vision, "placebo": placebo}
                row |= {"estimate": found.estimate, "ci_low": found.ci_low, "ci_high": found.ci_high}
                results.append(names | counts | row | {"method": found.method})
        return pd.DataFrame(results)


def compare_studies(own: Study, others: Sequence[Study], vision: str, coverage: float) -> dict[str, Any]:
    """Return the pooled gain of a study's veto less the mean of others on the same answers, splits and blocks.

    The studies differ in whom the veto is for. Keys: estimate, ci_low, ci_high, method.
    """
    found, key = [], (vision, "veto", float(coverage))
    for study in (own, *others):
        ((names, scope),) = each_scope(study.rows, ["pooled"])
        units, setting = _find_units(study.units, names, scope), study.found[key]
        whole = setting.counts.sum(axis=1, keepdims=True)
        found.append(np.concatenate([_gain(whole, units), _gain(setting.left_out, units)]))
    gain, *without = found[0] - np.mean(found[1:], axis=0)
    interval = block_interval(float(gain), without, own.rows["cluster"].nunique(), own.confidence)
    ends = {"estimate": interval.estimate, "ci_low": interval.ci_low, "ci_high": interval.ci_high}
    return ends | {"method": interval.method}


def run_study(
    items: pd.DataFrame, targets: Sequence[str] | None, *, visions: Mapping[str, str] | None = None,
    base: str = "entropy", coverages: Sequence[float | Fraction] = (0.9,), rules: Sequence[str] = RULES,
    covariates: Sequence[str] = (), n_splits: int = 100, fit_share: float | Fraction = 0.5, n_shares: int = 10,
    n_blocks: int = 20, n_deals: int | Mapping[str, int] = 0, confidence: float = 0.95, min_items: int = 60,
    seed: int = 0,
) -> Study:  # fmt: skip
    """Fit and judge the rules in all splits, without each block and on dealt vision; for the options see `veto_table`.

    Splits, blocks, deals and everything that needs no vision are made once for all visions.
    """
    if unknown := [name for name in rules if name not in RULES]:
        raise EstimateError(f"rules {unknown}; expected some of {', '.join(RULES)}")
    if base not in BASES:
        raise EstimateError(f"base {base!r}; expected one of {', '.join(BASES)}")
    looks, reads = dict(visions or {"evidence": VISION}), {base, *rules} & {*BASES}
    columns = [column for name in reads for column in BASES[name]]
    rows, usable = select_answers(items, targets, looks, covariates, min_items, columns)
    if min_items < 3 * n_blocks:
        raise EstimateError(f"{n_blocks} blocks in cells of {min_items} items; a block needs 3, give fewer blocks")
    keys = [
        (look, rule, coverage) for rule in rules for look in (looks if rule in VISION_RULES else ["none"])
        for coverage in coverages
    ]  # fmt: skip
    facts = {"n_left_out": rows.attrs["n_left_out"], "n_splits": n_splits, "base": base}
    facts |= {"adjusted_for": ", ".join(covariates)}
    units: list[tuple[str, str]] = []
    found: dict[tuple[str, str, float], _Setting] = {}
    if len(usable):
        splits = prepare_splits(
            usable, targets, looks=looks, base=base, n_splits=n_splits, fit_share=fit_share, n_shares=n_shares,
            n_blocks=n_blocks, seed=seed,
        )  # fmt: skip
        units = _list_units(splits)
        own = {pair: list(_count(splits, units, *pair, coverages)) for pair in dict.fromkeys(key[:2] for key in keys)}
        left_out: dict[tuple[str, str], list[list[Floats]]] = {pair: [] for pair in own}
        for block in np.unique(splits.block):
            rest = leave_out(splits, int(block))  # one at a time: all of them would fill the memory
            for pair, sums in left_out.items():
                sums.append([counts.sum(axis=1) for counts, *_ in _count(rest, units, *pair, coverages)])
        wanted = {look: n_deals if isinstance(n_deals, int) else n_deals.get(look, 0) for look in looks}
        rng = np.random.default_rng([seed, 2])
        orders = [splits.deal(rng) for _ in range(max(wanted.values()))]
        for (look, rule), settings in own.items():
            fixed = [counts.sum(axis=1) for counts, *_ in settings]
            dealt = [
                _count_dealt(splits, units, look, rule, order, coverages, fixed)
                for order in (orders[: wanted[look]] if rule in VISION_RULES else [])
            ]
            for j, (coverage, facts_of) in enumerate(zip(coverages, settings, strict=True)):
                parts = [[sums[j] for sums in turns] for turns in (left_out[look, rule], dealt)]
                again = [np.stack(p, axis=1) if p else np.empty((4, 0, len(units))) for p in parts]
                found[look, rule, float(coverage)] = _Setting(*facts_of, *again)
    else:
        none = np.empty((4, 0, 0))
        nothing = _Setting(none, none[0, 0], none[0, 0].astype(np.int64), none, none)
        found = {(look, rule, float(coverage)): nothing for look, rule, coverage in keys}
    return Study(rows, units, found, facts, confidence)


def veto_table(items: pd.DataFrame, targets: Sequence[str] | None, **options: Any) -> pd.DataFrame:
    """Return a row per scope (cell, benchmark, task type, pooled), vision, rule and coverage.

    The veto is for the task types `targets`, declared beforehand; None vetoes in all (the contrast that shows what
    targeting spares). Elsewhere the veto is the base rule and its gain is 0 by construction. Options (`run_study`):
    `visions`, columns of the items by name, low is suspect (default: evidence; a response without a number ranks
    last); `base`, the order in which answers are accepted: entropy, or entropy_length, a logit of wrong on entropy and
    log length per cell, fitted on the fit half without vision; `coverages`, shares of the FIT items of a cell that a
    rule accepts; `rules`; `covariates`, taken out of entropy and visions by least squares within the cell first;
    `n_splits`, `fit_share` and `n_shares` of the items; `n_blocks` blocks of items, left out in turn by the jackknife;
    `n_deals` (a number, or one a vision): how often vision is dealt anew (`veto_rules.Splits.deal`), every fit
    repeated; `confidence`, `min_items`, `seed`.

    Columns: the counts of the scope, n_left_out, n_cells, n_splits, base, adjusted_for, coverage, vision (none: the
    rule has no need of it), rule, realised_coverage (of the held-out items), risk (of accepted answers) with risk_low,
    risk_high, base_risk (at equal realised coverage), gain = base_risk - risk with ci_low, ci_high, method, split_low,
    split_high (the middle 95 % of splits), veto_share (mean share of the fit items vetoed), n_separated (split logits
    fitted by Firth). With deals, for rules that use vision: p (one-sided share of deals with at least this gain),
    null_mean, null_low, null_high (95 % of deals); for cells p_max and null_max_high (95 % quantile), against the
    largest gain of ANY cell in a deal. A cell below `min_items` or of one class keeps its counts alone. A task type is
    judged within the cells that hold others as well: among its own answers alone.

    Notes
    -----
    gain = sum over splits and cells of (errors of the base alone among its k cheapest, expected over ties, - errors of
    the rule among its k) / sum of k, k the number that the rule accepts in that split and cell. Null hypothesis:
    within a cell vision is independent of entropy, length AND correctness together. A rule that fits noise loses a
    little, so the null lies below 0 and a small p says "vision is informative", not "the rule helps": that is the
    gain's interval.
    """
    return run_study(items, targets, **options).gains()


def bound_table(
    items: pd.DataFrame, targets: Sequence[str] | None, *, visions: Mapping[str, str], base: str = "entropy",
    coverage: float | Fraction = 0.9, n_deals: int = 0, min_items: int = 60, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Return per scope and vision the largest gain that ANY veto could have reached on these answers: no split.

    In each cell (task type of a cell that holds several) the base is fitted, and the floor and the limit that accept
    ceil(coverage n) answers are chosen, on the very answers that they are judged on: the best of all floors, not only
    of those on a grid. Chosen so, dealt vision gains as well (null_mean, null_high: 97.5 % quantile over `n_deals`, p
    one-sided): what of the bound is luck. Columns: the counts of the scope, base, coverage, vision, gain, and these.
    """
    rows, usable = select_answers(items, targets, visions, (), min_items, BASES[base])
    if not len(usable):
        raise EstimateError(f"no cell has {min_items} items and both right and wrong answers; add items")
    splits = prepare_splits(usable, targets, looks=visions, base=base, n_splits=1, fit_share=0.5, n_shares=1, seed=seed)
    splits = replace(splits, fits_on=np.ones_like(splits.fits_on))  # in sample
    rng = np.random.default_rng([seed, 2])
    turns = [np.arange(len(usable)), *(splits.deal(rng) for _ in range(n_deals))]
    costs, units = dict(zip(splits.places, splits.price(base), strict=True)), _list_units(splits)
    best = {look: np.zeros((2, 1 + n_deals, len(units))) for look in visions}
    for u, (cell, part) in enumerate(units):
        index, cost = splits.places[cell], costs[cell][0][0]
        own = splits.task[index] == part if part else np.ones(len(index), bool)
        order = np.argsort(cost[own])
        index, cost = index[own][order], cost[own][order]
        ranked, k = rank_answers(cost[None], 1 - splits.right[index][None]), count_accepted(len(index), coverage)
        for look, values in splits.looks.items():
            best[look][1, :, u] = k
            if not splits.targeted[index].any():
                continue
            for start in range(0, len(turns), _DEALS_AT_ONCE):
                dealt = np.stack([values[turn[index]] for turn in turns[start : start + _DEALS_AT_ONCE]])
                seen = np.where(splits.targeted[index], dealt, np.inf)
                gain, size, *_ = try_floors(ranked, seen, k, np.arange(len(index) - k + 1))
                at = gain.argmax(axis=1)[:, None]
                most, kept = np.take_along_axis(gain, at, 1)[:, 0], np.take_along_axis(size, at, 1)[:, 0]
                best[look][:, start : start + len(dealt), u] = most * kept, kept
    results: list[dict[str, Any]] = []
    for names, scope in each_scope(rows, SCOPES):
        places = _find_units(units, names, scope)
        for look in visions if len(places) else ():
            saved, accepted = best[look][:, :, places].sum(axis=2)
            gains = saved / accepted
            row: dict[str, Any] = {"base": base, "coverage": float(coverage), "vision": look, "gain": float(gains[0])}
            if n_deals:
                row |= {"null_mean": float(gains[1:].mean()), "null_high": float(np.quantile(gains[1:], 0.975))}
                row["p"] = permutation_p(gains[1:], row["gain"])
            results.append(names | count_rows(scope) | row)
    return pd.DataFrame(results)


def plant_blind_errors(items: pd.DataFrame, targets: Sequence[str], share: float, vision: str = VISION) -> pd.DataFrame:
    """Return the items with the blindest `share` of each targeted cell made wrong: the positive control.

    What the paper describes, put into the data: answers with the lowest `vision` are wrong, however low their entropy.
    A study that finds no gain here could not have found one.
    """
    cell = items.groupby([items["model"].astype("str"), items["benchmark"].astype("str")])[vision]
    blind = items[vision] <= cell.transform(lambda values: np.quantile(values, share, method="inverted_cdf"))
    return items.assign(correct=items["correct"] & ~(blind & items["task_type"].astype("str").isin(targets)))


def select_answers(
    items: pd.DataFrame, targets: Sequence[str] | None, looks: Mapping[str, str], covariates: Sequence[str],
    min_items: int, columns: Iterable[str],
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Return all rows, and those of the cells that are judged, with entropy, `columns`, `covariates` and visions.

    A response without a number for a vision ranks last in its cell (`cells.rank_missing_last`). `covariates` are taken
    out of entropy and the visions. Unknown `targets` are an EstimateError.
    """
    known = sorted(set(items["task_type"].astype("str")))
    if targets is not None and not set(targets) & set(known):
        raise EstimateError(f"targets {list(targets)}: no row has such a task type, found {known}; correct targets")
    needed = list(dict.fromkeys([ENTROPY, *columns, *covariates]))
    seen = [name for name in dict.fromkeys(looks.values()) if name not in needed]
    rows = select_rows(items, needed, seen)
    kept = rows[rows.groupby("cell")[seen].transform("count").gt(0).all(axis=1)].reset_index(drop=True)
    kept.attrs["n_left_out"] = rows.attrs["n_left_out"] + len(rows) - len(kept)  # cells in which a vision has no value
    adjusted = adjust(kept, list(dict.fromkeys([ENTROPY, *looks.values()])), covariates)
    adjusted = rank_missing_last(adjusted, dict.fromkeys(seen, 1.0))
    adjusted.attrs = kept.attrs
    return adjusted, keep_usable(adjusted, min_items)


def describe_gain(name: str, table: pd.DataFrame, task_type: str = "") -> str:
    """Return a sentence on the rows of ONE rule, vision and coverage: the gain of a task type, or pooled, and cells."""
    if table.duplicated(["scope", "model", "benchmark"]).any():
        raise EstimateError(f"{name}: several rows a scope; expected those of one rule and coverage")
    cells = table[(table["scope"] == "cell") & table["gain"].notna()]
    wanted = (table["scope"] == "task_type") & (table["benchmark"] == task_type)
    pooled = table[wanted if task_type else table["scope"] == "pooled"].iloc[0]
    gain, low, high = (100 * pooled[column] for column in ("gain", "ci_low", "ci_high"))
    base = str(pooled["base"]).replace("_", " and ")
    side = "saves risk" if low > 0 else "costs risk" if high < 0 else f"cannot be told from {base} alone"
    points = f"{gain:+.2f} points ({low:+.2f} to {high:+.2f})"
    words = f"{name}: {side}, {points} at coverage {pooled['realised_coverage']:.3f}"
    acts = cells[(cells["gain"] != 0) | (cells["ci_low"] < cells["ci_high"])]
    if acts.empty:
        return f"{words}; it acts in none of {len(cells)} cells"
    best = acts.loc[acts["gain"].idxmax()]
    return (
        f"{words}; it acts in {len(acts)} of {len(cells)} cells, saves beyond its interval in "
        f"{(acts['ci_low'] > 0).sum()} and costs in {(acts['ci_high'] < 0).sum()}; best: {best['benchmark']}, "
        f"{best['model']} with {100 * best['gain']:+.2f}"
    )


def describe_differences(table: pd.DataFrame, targets: Sequence[str]) -> str:
    """Return a sentence a target and vision on the rows of `Study.compare` of ONE base: is it above the placebos?"""
    rows = table[(table["scope"] == "task_type") & table["benchmark"].isin(targets)]
    lines = []
    for (target, vision), own in rows.groupby(["benchmark", "vision"], sort=False):
        parts = [
            f"{100 * row.estimate:+.2f} points ({100 * row.ci_low:+.2f} to {100 * row.ci_high:+.2f}) over {row.placebo}"
            for row in own.itertuples()
        ]
        better = int((own["ci_low"] > 0).sum())
        lines.append(f"{vision} on {target}: {', '.join(parts)}; above {better} of {len(own)} placebos")
    return "\n".join(lines)


def describe_bounds(table: pd.DataFrame, targets: Sequence[str]) -> str:
    """Return a sentence a target and vision on the rows of `bound_table`: what any veto could have gained."""
    rows = table[(table["scope"] == "task_type") & table["benchmark"].isin(targets)]
    return "\n".join(
        f"{row.vision} on {row.benchmark}: no veto could have gained more than {100 * row.gain:.2f} points on these "
        f"answers; dealt anew it could have gained {100 * row.null_mean:.2f}, up to {100 * row.null_high:.2f}"
        for row in rows.itertuples()
    )


def _list_units(splits: Splits) -> list[tuple[str, str]]:
    """Return the cells, each with an empty part, and behind them the task types of the cells that hold several."""
    kinds = {name: np.unique(splits.task[index]) for name, index in splits.places.items()}
    parts = [(name, str(kind)) for name, found in kinds.items() if len(found) > 1 for kind in found]
    return [*((name, "") for name in kinds), *parts]


def _find_units(units: Sequence[tuple[str, str]], names: Mapping[str, Any], scope: pd.DataFrame) -> Ints:
    """Return the places of the units that make up a scope."""
    cells, mixed = set(scope["cell"]), {cell for cell, part in units if part}
    wanted = names["benchmark"] if names["scope"] == "task_type" else ""
    own = [u for u, (c, part) in enumerate(units) if c in cells and part == (wanted if c in mixed else "")]
    return np.array(own, np.int64)


def _count(
    splits: Splits, units: Sequence[tuple[str, str]], look: str, rule: str, coverages: Sequence[float | Fraction]
) -> Iterator[tuple[Floats, Floats, Ints]]:
    for found in apply_rule(splits, rule, splits.looks.get(look, np.empty(0)), coverages):
        accepted = [one for one in found if one is not None]
        judged = dict(zip(splits.places, zip(splits.cells, accepted, strict=True), strict=True))
        counts = np.stack([count_errors(*judged[name], part) for name, part in units], axis=2)
        own = [judged[name][1] for name, _ in units]
        yield counts, np.array([x.veto_share.mean() for x in own]), np.array([x.n_separated for x in own])


def _count_dealt(
    splits: Splits, units: Sequence[tuple[str, str]], look: str, rule: str, order: Ints,
    coverages: Sequence[float | Fraction], fixed: Sequence[Floats],
) -> list[Floats]:  # fmt: skip
    """Return sums over splits float64[4, U] with vision dealt anew; untargeted cells keep those of the data."""
    results = []
    dealt = apply_rule(splits, rule, splits.looks[look][order], coverages, targeted_only=rule == "veto")
    place = {name: c for c, name in enumerate(splits.places)}
    for found, own in zip(dealt, fixed, strict=True):
        sums = own.copy()
        for u, (name, part) in enumerate(units):
            if (accepted := found[place[name]]) is not None:
                sums[:, u] = count_errors(splits.cells[place[name]], accepted, part).sum(axis=1)
        results.append(sums)
    return results


def _gain(sums: Floats, units: Ints) -> Floats:
    """Return the gain of sums float64[4, b, U] over units, float64[b]."""
    accepted, own, base, _ = sums[:, :, units].sum(axis=2)
    return np.asarray((base - own) / accepted)


def _describe(found: _Setting, units: Ints, n_items: int, confidence: float) -> dict[str, Any]:
    accepted, own, base, held = found.counts[:, :, units].sum(axis=2)
    without = found.left_out[:, :, units].sum(axis=2)
    total, by_split = accepted.sum(), divide(base - own, accepted)
    gain = block_interval((base - own).sum() / total, (without[2] - without[1]) / without[0], n_items, confidence)
    risk = block_interval(own.sum() / total, without[1] / without[0], n_items, confidence)
    return {
        "realised_coverage": float(total / held.sum()), "base_risk": float(base.sum() / total),
        "risk": risk.estimate, "risk_low": max(0.0, risk.ci_low), "risk_high": min(1.0, risk.ci_high),
        "gain": gain.estimate, "ci_low": gain.ci_low, "ci_high": gain.ci_high, "method": gain.method,
        "split_low": float(np.nanquantile(by_split, 0.025)), "split_high": float(np.nanquantile(by_split, 0.975)),
        "veto_share": float(found.veto_share[units].mean()), "n_separated": int(found.n_separated[units].max()),
    }  # fmt: skip


def _compare(gain: float, dealt: Floats, units: Ints, n_cells: int) -> dict[str, float]:
    drawn = _gain(dealt, units)
    row = {"p": permutation_p(drawn, gain), "null_mean": float(drawn.mean())}
    row |= dict(zip(("null_low", "null_high"), map(float, np.quantile(drawn, (0.025, 0.975))), strict=True))
    if n_cells:
        cells = dealt[:, :, :n_cells]
        largest = ((cells[2] - cells[1]) / cells[0]).max(axis=1)
        row |= {"p_max": permutation_p(largest, gain), "null_max_high": float(np.quantile(largest, 0.95))}
    return row
