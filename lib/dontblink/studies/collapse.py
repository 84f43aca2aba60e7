"""Evidence collapse: how far attention to the annotated evidence falls over a chain of reasoning.

Why: attention mass dilutes as the context grows; evidence collapse is what remains beyond the same fall of a uniform
look (dilution), of an equal-area box elsewhere and of the prompt text. The attention to the whole image has the same
estimator and needs no boxes. In: the bins or steps table of the TEST split, the items table for strata. Out: a row per
cell, head set and quantity; curves; a cross-check by log-ratios.

    collapse = 1 - r,  r = (sum last N / sum first N) / (sum last D / sum first D), sums over the items of a cell

with N the mass and D what it is held against (nothing for a plain mass). Never: a mean of per-item ratios (it explodes
on small denominators), a calibration item (those chose the layers), or a NaN p-value handed to Holm.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import pandas as pd
import pingouin
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.tools.sm_exceptions import ConvergenceWarning

from dontblink.statistics import bootstrap
from dontblink.statistics.bootstrap import STANDARD, EstimateError, Floats, Resampling

CELL = ["model", "benchmark"]
BOX_FREE = ["visual_mass", "prompt_mass", "uniform_visual_share"]  # masses of every item
MASSES = [*BOX_FREE, "evidence_mass", "control_box_mass", "uniform_evidence_share"]
QUANTITIES: dict[str, tuple[str, str | None]] = {
    "evidence": ("evidence_mass", None),
    "visual": ("visual_mass", None),
    "control_box": ("control_box_mass", None),
    "prompt": ("prompt_mass", None),
    "uniform": ("uniform_evidence_share", None),  # dilution: a look spread evenly over all keys
    "evidence_over_uniform": ("evidence_mass", "uniform_evidence_share"),  # what remains beyond dilution
    "evidence_over_control": ("evidence_mass", "control_box_mass"),  # ... beyond an equal area elsewhere
    "evidence_over_visual": ("evidence_mass", "visual_mass"),  # the share within the image
    "evidence_over_prompt": ("evidence_mass", "prompt_mass"),
    "uniform_visual": ("uniform_visual_share", None),
    "visual_over_uniform": ("visual_mass", "uniform_visual_share"),
    "visual_over_prompt": ("visual_mass", "prompt_mass"),
}

# Drawn along the reasoning only: needs `add_fraction`. Lift = evidence share of the image mass / evidence fraction.
LIFT = {"evidence_lift": ("evidence_mass", "expected_evidence_mass")}


def pair_bins(bins: pd.DataFrame, masses: Sequence[str] = MASSES) -> pd.DataFrame:
    """Return a row per response and head set: its masses in the first and last bin (`<mass>_first`, `_last`).

    Left out, and counted in `attrs["n_left_out"]`: responses without both bins, or, unless the masses are `BOX_FREE`,
    without evidence (uniform share 0). An item weighs the same whatever the number of its tokens.
    """
    return _pair(bins[bins["bin"] == 0], bins[bins["bin"] == bins["n_bins"] - 1], bins, masses)


def pair_kinds(steps: pd.DataFrame) -> pd.DataFrame:
    """Return pairs of a read step and the recall steps about the same thing, averaged per response.

    `f5 is 3` is held against `f5 was 3`: the first word says what a step is about. Does the model look again where
    copying its own text would do as well? A response whose recall steps restate nothing that it read is left out and
    counted.
    """
    keys = _keys(steps)
    rows = steps[steps["step_kind"].isin(["read", "recall"])].astype(dict.fromkeys(keys, "str"))
    rows = rows.assign(about=rows["step_text"].astype("str").str.split().str[0]).sort_values("step_index")
    read = rows[rows["step_kind"] == "read"].drop_duplicates([*keys, "about"])
    both = read.merge(rows[rows["step_kind"] == "recall"], on=[*keys, "about"], suffixes=("_first", "_last"))
    first, last = (
        both.groupby(keys, observed=True)[[f"{mass}_{end}" for mass in MASSES]].mean().set_axis(MASSES, axis=1)
        for end in ("first", "last")
    )
    return _pair(first.reset_index(), last.reset_index(), steps[steps["step_kind"] == "recall"])


def add_fraction(rows: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Return bins or steps with each item's `evidence_fraction`, which the lift is held against."""
    keys = [*CELL, "item_id"]
    fractions = items[[*keys, "evidence_fraction"]].astype(dict.fromkeys(keys, "str"))
    return rows.astype(dict.fromkeys(keys, "str")).merge(fractions, on=keys, how="left", validate="m:1")


def _keys(rows: pd.DataFrame) -> list[str]:
    return [*CELL, "item_id", "head_set"] + (["split"] if "split" in rows else [])


def _with_expected(rows: pd.DataFrame) -> pd.DataFrame:
    if "evidence_fraction" in rows:
        rows = rows.assign(expected_evidence_mass=rows["visual_mass"] * rows["evidence_fraction"])
    return rows


def _pair(
    first: pd.DataFrame, last: pd.DataFrame, everything: pd.DataFrame, masses: Sequence[str] = MASSES
) -> pd.DataFrame:
    if "split" in everything and (everything["split"].astype("str") != "test").any():
        raise EstimateError("rows of the calibration split, which chose the layers; pass split 'test' only")
    keys = _keys(everything)
    ends = [end[[*keys, *masses]].astype(dict.fromkeys(keys, "str")) for end in (first, last)]
    pairs = ends[0].merge(ends[1], on=keys, suffixes=("_first", "_last"), validate="1:1")
    if "uniform_evidence_share" in masses:
        pairs = pairs[pairs["uniform_evidence_share_first"] > 0]
    pairs = pairs.sort_values(keys, ignore_index=True)
    missing = pairs.drop(columns=keys).isna().any()
    if missing.any():
        raise EstimateError(f"column {missing.idxmax()}: NaN mass; expected a number, build the table again")
    response = [key for key in keys if key != "head_set"]
    pairs.attrs["n_left_out"] = len(everything[response].drop_duplicates()) - len(pairs[response].drop_duplicates())
    return cast(pd.DataFrame, pairs)


def collapse_table(
    pairs: pd.DataFrame, declared_cells: Sequence[tuple[str, str]], *, quantities: Sequence[str] | None = None,
    min_items: int = 20, resampling: Resampling = STANDARD,
) -> pd.DataFrame:  # fmt: skip
    """Return collapse per cell, head set and quantity (by default all that the pairs have masses for).

    With interval, signed-rank test and Holm over the cells. Columns: model, benchmark, head_set, quantity, estimate,
    ci_low, ci_high, n_items, n_replicates, n_degenerate, method, confidence, log_ratio (nats), wilcoxon_w, p,
    rank_biserial (> 0: falls), p_holm. The test compares the two ends item by item; N over D is tested as N / (N + D),
    which keeps its order and stays bounded. Holm runs over `declared_cells` within a head set and quantity. A declared
    cell that is missing or has fewer than `min_items` items is an error.
    """
    results, held = [], {mass for mass in MASSES if f"{mass}_first" in pairs}
    quantities = quantities or [name for name, of in QUANTITIES.items() if {*of} - {None} <= held]
    for head_set, rows in pairs.groupby("head_set"):
        cells = dict(iter(rows.groupby(CELL)))
        tables = []
        for cell in declared_cells:
            n_items = len(cells.get(cell, ()))
            if n_items < min_items:
                raise EstimateError(
                    f"cell {' x '.join(cell)}, {head_set}: {n_items} items with both ends, "
                    f"expected >= {min_items}; add items or declare other cells"
                )
            table = _estimate(cells[cell], (*cell, head_set), quantities, resampling)
            tables.append(table.join(_signed_ranks(cells[cell], quantities)))
        table = pd.concat(tables, ignore_index=True)
        p_holm = table.groupby("quantity")["p"].transform(lambda p: bootstrap.adjust_holm(p.to_numpy()))
        results.append(table.assign(p_holm=p_holm))
    return pd.concat(results, ignore_index=True)


def collapse_by(
    pairs: pd.DataFrame, items: pd.DataFrame, column: str, *, quantities: Sequence[str] = tuple(QUANTITIES),
    min_items: int = 20, resampling: Resampling = STANDARD,
) -> pd.DataFrame:  # fmt: skip
    """Return collapse per cell, head set, quantity and stratum of an items column, beside the raw row "all".

    A stratum with fewer than `min_items` items keeps its count and has no estimate. See `stratify`.
    """
    rows = pairs.merge(stratify(items, column), on=["benchmark", "item_id"], validate="m:1")
    if len(rows) != len(pairs):
        raise EstimateError(f"{len(pairs) - len(rows)} pairs without an item; build both tables from one run")
    results = []
    for key, cell in rows.groupby([*CELL, "head_set"]):
        for stratum, part in [("all", cell), *cell.groupby("stratum")]:
            if len(part) >= min_items:
                table = _estimate(part, key, quantities, resampling)
            else:
                table = pd.DataFrame([[*key, name] for name in quantities], columns=[*CELL, "head_set", "quantity"])
            results.append(table.assign(column=column, stratum=stratum, n_items=len(part)))
    return pd.concat(results, ignore_index=True)


def stratify(items: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return benchmark, item_id, stratum (text) per item: its value of `column`, or the quantile range of it.

    A numeric column with more than three values is cut at its tertiles within each benchmark, over all models, so that
    an item has one stratum.
    """
    rows = items[["benchmark", "item_id", column]].astype({"benchmark": "str", "item_id": "str"})
    parts = []
    for _, part in rows.drop_duplicates().groupby("benchmark"):
        values = part[column]
        many = pd.api.types.is_numeric_dtype(values) and values.nunique() > 3
        labels = pd.qcut(values, 3, duplicates="drop", precision=2) if many else values
        parts.append(part.assign(stratum=labels.astype("str").fillna("missing")))
    return pd.concat(parts)[["benchmark", "item_id", "stratum"]]


def _estimate(
    rows: pd.DataFrame, key: Sequence[str], quantities: Sequence[str], resampling: Resampling
) -> pd.DataFrame:
    """Return a row per quantity; `key` is its model, benchmark and head set."""
    masses = [mass for mass in MASSES if f"{mass}_first" in rows]
    values = rows[[f"{mass}_{end}" for end in ("first", "last") for mass in masses]].to_numpy(np.float64)
    items, cells = rows["item_id"].to_numpy(), (rows["model"] + "\n" + rows["benchmark"]).to_numpy()
    try:
        intervals = bootstrap.bootstrap_sums(values, _collapse_statistic(quantities, masses), items, cells, resampling)
    except EstimateError as error:
        raise EstimateError(f"cell {' x '.join(key[:2])}, quantities {', '.join(quantities)}: {error}") from error
    names = pd.DataFrame([[*key, name] for name in quantities], columns=[*CELL, "head_set", "quantity"])
    table = names.join(pd.DataFrame(map(asdict, intervals)).rename(columns={"n_clusters": "n_items"}))
    with np.errstate(divide="ignore"):
        return table.assign(log_ratio=np.log1p(-table["estimate"]))


def _collapse_statistic(quantities: Sequence[str], masses: Sequence[str]) -> Callable[[Any], Any]:
    def statistic(totals: Any) -> Any:
        first, last = (
            dict(zip(masses, np.moveaxis(half, -1, 0), strict=True)) for half in np.split(totals, 2, axis=-1)
        )
        change = {mass: bootstrap.divide(last[mass], first[mass]) for mass in masses}
        pairs = (QUANTITIES[name] for name in quantities)
        return np.stack([1 - (bootstrap.divide(change[n], change[d]) if d else change[n]) for n, d in pairs], axis=-1)

    return statistic


def _signed_ranks(rows: pd.DataFrame, quantities: Sequence[str]) -> pd.DataFrame:
    def value(numerator: str, held_against: str | None, end: str) -> Floats:
        own = rows[f"{numerator}_{end}"].to_numpy(float)
        total = own + rows[f"{held_against}_{end}"].to_numpy(float) if held_against else np.ones(len(own))
        return np.divide(own, total, out=np.full_like(total, 0.5), where=total > 0)

    results = [signed_rank(*(value(*QUANTITIES[name], end) for end in ("first", "last"))) for name in quantities]
    return pd.DataFrame(results, columns=["wilcoxon_w", "p", "rank_biserial"])


def signed_rank(first: Floats, last: Floats) -> tuple[float, float, float]:
    """Return (W, two-sided p, matched-pairs rank-biserial) of paired values; p = 1 without any difference.

    pingouin drops NaN pairs without a word, hence the check; it corrects for continuity.
    """
    difference = np.asarray(first, float) - np.asarray(last, float)
    if not len(difference) or np.isnan(difference).any():
        raise EstimateError(f"{np.isnan(difference).sum()} NaN in {len(difference)} pairs; expected numbers")
    if not difference.any():
        return 0.0, 1.0, 0.0
    row = pingouin.wilcoxon(difference).iloc[0]
    return float(row["W_val"]), float(row["p_val"]), float(row["RBC"])


def curves(
    rows: pd.DataFrame, position: str = "bin", *, quantities: Sequence[str] = ("evidence",), min_items: int = 20,
    resampling: Resampling = STANDARD,
) -> pd.DataFrame:  # fmt: skip
    """Return the mean over items of each quantity at each position, with a pointwise cluster-bootstrap band.

    `position` is `bin` or `step_index`. A quantity held against another is the ratio of the two means. Columns: model,
    benchmark, head_set, quantity, `position`, estimate, ci_low, ci_high, n_items, n_degenerate; positions with fewer
    than `min_items` items are kept without an interval. All quantities are over the items that have every one of them.
    """
    known = {**QUANTITIES, **LIFT}
    columns = {name: (known[name][0], known[name][1] or "one") for name in quantities}
    rows = _with_expected(rows).assign(one=1.0, item_id=rows["item_id"].astype("str"))
    rows = rows.dropna(subset=[mass for pair in columns.values() for mass in pair])  # items without boxes
    groups, results = [*CELL, "head_set"], []
    for key, group in rows.groupby(groups, observed=True):
        labels = dict(zip(groups, key, strict=True))
        n_items = group.groupby(position, observed=True)["item_id"].nunique()
        wanted = sorted({mass for pair in columns.values() for mass in pair})
        wide = group.pivot_table(wanted, "item_id", position, aggfunc="sum", fill_value=0.0)
        for name, (numerator, under) in columns.items():
            top, bottom = wide[numerator].to_numpy(float), wide[under].to_numpy(float)
            means = bootstrap.divide(top.sum(axis=0), bottom.sum(axis=0))
            result = pd.DataFrame({**labels, "quantity": name, position: n_items.index, "estimate": means})
            result["n_items"] = n_items.to_numpy()
            enough = np.flatnonzero(n_items >= min_items)
            if len(enough):
                values, by_item = np.hstack([top[:, enough], bottom[:, enough]]), wide.index.to_numpy()
                intervals = bootstrap.bootstrap_sums(values, bootstrap.ratios, by_item, resampling=resampling)
                found = pd.DataFrame(map(asdict, intervals), index=enough)
                result = result.join(found[["ci_low", "ci_high", "n_degenerate"]])
            results.append(result)
    return pd.concat(results, ignore_index=True)


def log_ratio_check(pairs: pd.DataFrame, head_set: str) -> pd.DataFrame:
    """Cross-check: the mean over items of log(last / first) per cell, by a paired t and by a mixed model.

    Within a cell an item gives one log-ratio, so a mixed model of log mass on the two ends IS the paired t.
    Over cells items repeat: MixedLM fits log-ratio ~ cell with a random intercept per item. A response with a
    zero mass has no log-ratio: `n_zero` counts them. Estimates and ends are in nats. Where no item repeats (one model),
    an item's intercept and the residual are one: the mixed model says nothing, and its columns are NaN.
    """
    rows = pairs[pairs["head_set"] == head_set]
    positive = (rows["evidence_mass_first"] > 0) & (rows["evidence_mass_last"] > 0)
    used = rows[positive].assign(y=lambda t: np.log(t["evidence_mass_last"] / t["evidence_mass_first"]))
    design = pd.get_dummies(used["model"] + "\n" + used["benchmark"], dtype=float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an item_sd of 0 is a result
        mixed_model = MixedLM(used["y"].to_numpy(float), design.to_numpy(), groups=used["item_id"].to_numpy())
        fit = mixed_model.fit() if used["item_id"].duplicated().any() else None
    nothing = np.full((design.shape[1], 3), np.nan)
    mixed = nothing if fit is None else np.column_stack([fit.fe_params, fit.conf_int()[: design.shape[1]]])
    results = []
    for j, cell in enumerate(design):
        model, benchmark = cell.split("\n")
        own = used["y"][design[cell] > 0]
        test = stats.ttest_1samp(own, 0.0)
        interval = test.confidence_interval()
        skipped = rows[~positive & (rows["model"] == model) & (rows["benchmark"] == benchmark)]
        results.append({
            "model": model, "benchmark": benchmark, "n_items": int(test.df) + 1, "n_zero": len(skipped),
            "estimate": float(own.mean()), "ci_low": interval.low, "ci_high": interval.high, "p": test.pvalue,
            "mixed_estimate": mixed[j, 0], "mixed_low": mixed[j, 1], "mixed_high": mixed[j, 2],
            "item_sd": float(fit.cov_re[0, 0]) ** 0.5 if fit else np.nan, "converged": bool(fit and fit.converged),
        })  # fmt: skip
    return pd.DataFrame(results)
