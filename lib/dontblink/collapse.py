"""Evidence collapse: how far attention to the annotated evidence falls from the start to the end of the reasoning.

Why: attention mass dilutes as the context grows and drifts as a text goes on; evidence collapse is what remains beyond
the same fall of a uniform look (dilution), of an equal-area box elsewhere and of the prompt text.
In: the bins or steps table of the TEST split, the items table for strata. Out: one row per cell, head set and quantity,
curves with bands, and two cross-checks. `first` and `last` are the two ends that are compared, r their ratio:

    collapse = 1 - r,  r = (sum last N / sum first N) / (sum last D / sum first D), sums over the items of a cell

with N the mass and D what it is held against (nothing for a plain mass). Never: a mean of per-item ratios (it explodes
on small denominators), a calibration item (those chose the layers), or a NaN p-value handed to Holm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np
import pandas as pd
import pingouin
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.stats.multitest import multipletests

from dontblink.bootstrap import BootstrapError, Floats, Method, bootstrap_ratio, bootstrap_sums, divide

CELL = ["model", "benchmark"]
MASSES = ("evidence_mass", "visual_mass", "control_box_mass", "prompt_mass", "uniform_evidence_share")
QUANTITIES: dict[str, tuple[str, str | None]] = {
    "evidence": ("evidence_mass", None),
    "visual": ("visual_mass", None),
    "control_box": ("control_box_mass", None),
    "prompt": ("prompt_mass", None),
    "uniform": ("uniform_evidence_share", None),  # dilution: the fall of a look that spreads evenly over all keys
    "evidence_over_uniform": ("evidence_mass", "uniform_evidence_share"),  # what remains beyond dilution
    "evidence_over_control": ("evidence_mass", "control_box_mass"),  # ... beyond an equal area elsewhere
    "evidence_over_visual": ("evidence_mass", "visual_mass"),  # the share within the image
    "evidence_over_prompt": ("evidence_mass", "prompt_mass"),
}


class CollapseError(ValueError):
    """Tables that do not support a collapse estimate; the message names the cell and what to do."""


def pair_bins(bins: pd.DataFrame) -> pd.DataFrame:
    """Return one row per response and head set that has both the first and the last bin, with both ends' masses.

    Items without evidence (uniform share 0) or without both ends are left out; `pairs.attrs["n_left_out"]` counts
    them. Each end weighs an item once, whatever the number of its tokens.
    """
    rows = bins.assign(position=bins["bin"])
    return _pair(rows[rows["position"] == 0], rows[rows["position"] == rows["n_bins"] - 1], bins)


def pair_steps(steps: pd.DataFrame, kinds: Sequence[str] = ()) -> pd.DataFrame:
    """Return pairs of the first and the last step (of these kinds, where given) of each response with two of them."""
    chosen = steps[steps["step_kind"].isin(list(kinds))] if kinds else steps
    rows = chosen.sort_values("step_index", ignore_index=True).groupby(_keys(steps), observed=True, sort=False)
    first, last = rows.head(1), rows.tail(1)
    return _pair(first, last[~last.index.isin(first.index)], steps)


def pair_kinds(steps: pd.DataFrame, first: str = "read", last: str = "recall") -> pd.DataFrame:
    """Return pairs of the token-weighted mean over `first` steps and over `last` steps of each response.

    With read and recall: does the model look again where nothing but its own text would do as well?
    """
    ends = []
    for kind in (first, last):
        rows = _with_visual(steps[steps["step_kind"] == kind])
        weighted = rows[[*MASSES]].mul(rows["n_tokens"], axis=0).assign(n_tokens=rows["n_tokens"])
        total = weighted.groupby([rows[key] for key in _keys(steps)], observed=True).sum()
        ends.append(total[[*MASSES]].div(total["n_tokens"], axis=0).reset_index())
    return _pair(ends[0], ends[1], steps)


def _keys(rows: pd.DataFrame) -> list[str]:
    return [*CELL, "item_id", "head_set"] + (["split"] if "split" in rows else [])


def _with_visual(rows: pd.DataFrame) -> pd.DataFrame:
    return rows if "visual_mass" in rows else rows.assign(visual_mass=rows["evidence_mass"] + rows["other_image_mass"])


def _pair(first: pd.DataFrame, last: pd.DataFrame, everything: pd.DataFrame) -> pd.DataFrame:
    if "split" in everything and (everything["split"].astype(str) != "test").any():
        raise CollapseError("rows of the calibration split: it chose the layers; pass the rows with split == 'test'")
    keys = _keys(everything)
    ends = [_with_visual(end)[[*keys, *MASSES]].astype(dict.fromkeys(keys, "str")) for end in (first, last)]
    pairs = ends[0].merge(ends[1], on=keys, suffixes=("_first", "_last"), validate="1:1")
    pairs = pairs[pairs["uniform_evidence_share_first"] > 0].sort_values(keys, ignore_index=True)
    masses = pairs.drop(columns=keys)
    if masses.isna().to_numpy().any():
        raise CollapseError(f"column {masses.columns[masses.isna().any()][0]}: NaN mass; rebuild the table")
    pairs.attrs["n_left_out"] = len(everything[keys].drop_duplicates()) - len(pairs)
    return cast(pd.DataFrame, pairs)


def collapse_table(pairs: pd.DataFrame, declared_cells: Sequence[tuple[str, str]], *, pooled: bool = False,
                   quantities: Sequence[str] = tuple(QUANTITIES), min_items: int = 20, n_replicates: int = 10_000,
                   confidence: float = 0.95, method: Method = "bca", seed: int = 0) -> pd.DataFrame:
    """Return collapse per cell, head set and quantity, with interval, signed-rank test and Holm over the cells.

    Columns: model, benchmark, head_set, quantity, estimate, ci_low, ci_high, log_ratio (nats), n_items, n_replicates,
    n_degenerate, method, confidence, wilcoxon_w, p, rank_biserial (> 0: falls), p_holm. The test compares the two ends
    item by item; a quantity N over D is tested as N / (N + D), which keeps its order and stays bounded. Holm runs over
    `declared_cells` within a head set and quantity. `pooled` adds an "all" row over the declared cells, clustered by
    item and without a test (its rows are not independent).

    Raises
    ------
    CollapseError
        If a declared cell is missing or has fewer than `min_items` items, or a p-value is NaN.
    """
    options: dict[str, Any] = {"n_replicates": n_replicates, "confidence": confidence, "method": method, "seed": seed}
    results = []
    for head_set, rows in pairs.groupby("head_set", sort=True):
        cells = dict(iter(rows.groupby(CELL)))
        tests = []
        for model, benchmark in declared_cells:
            cell = cells.get((model, benchmark))
            n_items = 0 if cell is None else len(cell)
            if cell is None or n_items < min_items:
                raise CollapseError(f"cell {model} x {benchmark}, {head_set}: {n_items} items with both ends, expected "
                                    f">= {min_items}; add items or declare other cells")
            tests.append(_estimate(cell, quantities, options).assign(model=model, benchmark=benchmark)
                         .join(_signed_rank(cell, quantities), on="quantity"))
        table = pd.concat(tests, ignore_index=True)
        table["p_holm"] = table.groupby("quantity")["p"].transform(lambda p: adjust_holm(p.to_numpy()))
        if pooled:
            everything = pd.concat([cells[cell] for cell in declared_cells])
            overall = _estimate(everything, quantities, options).assign(model="all", benchmark="all")
            table = pd.concat([table, overall], ignore_index=True)
        results.append(table.assign(head_set=head_set))
    leading = [*CELL, "head_set", "quantity"]
    combined = pd.concat(results, ignore_index=True)
    return combined[leading + [name for name in combined if name not in leading]]


def collapse_by(pairs: pd.DataFrame, items: pd.DataFrame, column: str, *, n_strata: int = 3, min_items: int = 20,
                quantities: Sequence[str] = tuple(QUANTITIES), **options: Any) -> pd.DataFrame:
    """Return collapse per cell, head set, quantity and stratum of an items column, beside the raw row "all".

    A numeric column with more than `n_strata` values is cut at its quantiles within each benchmark (over all models, so
    that an item has one stratum). A stratum with fewer than `min_items` items keeps its count and has no estimate.
    """
    strata = stratify(items, column, n_strata)
    rows = pairs.merge(strata, on=["benchmark", "item_id"], validate="m:1")
    if len(rows) != len(pairs):
        raise CollapseError(f"{len(pairs) - len(rows)} pairs without a row in the items table; rebuild both")
    results = []
    for (model, benchmark, head_set), cell in rows.groupby([*CELL, "head_set"]):
        for stratum, part in [("all", cell), *cell.groupby("stratum")]:
            enough = len(part) >= min_items
            table = _estimate(part, quantities, options) if enough else pd.DataFrame({"quantity": [*quantities]})
            results.append(table.assign(model=model, benchmark=benchmark, head_set=head_set, column=column,
                                        stratum=stratum, n_items=len(part)))
    return pd.concat(results, ignore_index=True)


def stratify(items: pd.DataFrame, column: str, n_strata: int = 3) -> pd.DataFrame:
    """Return benchmark, item_id, stratum (str) for each item: the value itself, or a quantile range of it."""
    rows = items[["benchmark", "item_id", column]].astype({"benchmark": "str", "item_id": "str"}).drop_duplicates()
    parts = []
    for _, part in rows.groupby("benchmark"):
        values = part[column]
        many = pd.api.types.is_numeric_dtype(values) and values.nunique() > n_strata
        labels = pd.qcut(values, n_strata, duplicates="drop", precision=2) if many else values
        parts.append(part.assign(stratum=labels.astype("str").fillna("missing")))
    return pd.concat(parts)[["benchmark", "item_id", "stratum"]]


def _estimate(rows: pd.DataFrame, quantities: Sequence[str], options: dict[str, Any]) -> pd.DataFrame:
    values = rows[[f"{mass}_{end}" for end in ("first", "last") for mass in MASSES]].to_numpy(np.float64)
    try:
        intervals = bootstrap_sums(values, _collapse_statistic(quantities), rows["item_id"].to_numpy(),
                                   (rows["model"] + "\n" + rows["benchmark"]).to_numpy(), **options)
    except BootstrapError as error:
        cell = " x ".join(rows.iloc[0][CELL])
        raise CollapseError(f"cell {cell}, quantities {', '.join(quantities)}: {error}") from error
    table = pd.DataFrame([asdict(interval) for interval in intervals]).rename(columns={"n_clusters": "n_items"})
    table.insert(0, "quantity", list(quantities))
    with np.errstate(divide="ignore"):
        table["log_ratio"] = np.log1p(-table["estimate"])
    return table


def _collapse_statistic(quantities: Sequence[str]) -> Callable[[Any], Any]:
    def statistic(totals: Any) -> Any:
        first, last = (dict(zip(MASSES, np.moveaxis(half, -1, 0), strict=True))
                       for half in np.split(totals, 2, axis=-1))
        outputs = []
        for numerator, held_against in (QUANTITIES[name] for name in quantities):
            ratio = divide(last[numerator], first[numerator])
            if held_against is not None:
                ratio = divide(ratio, divide(last[held_against], first[held_against]))
            outputs.append(1 - ratio)
        return np.stack(outputs, axis=-1)
    return statistic


def _signed_rank(rows: pd.DataFrame, quantities: Sequence[str]) -> pd.DataFrame:
    results = {}
    for name in quantities:
        numerator, held_against = QUANTITIES[name]
        first, last = rows[f"{numerator}_first"].to_numpy(float), rows[f"{numerator}_last"].to_numpy(float)
        if held_against is not None:
            first, last = (_bounded(n, rows[f"{held_against}_{end}"].to_numpy(float))
                           for n, end in ((first, "first"), (last, "last")))
        results[name] = signed_rank(first, last)
    return pd.DataFrame.from_dict(results, orient="index", columns=["wilcoxon_w", "p", "rank_biserial"])


def _bounded(numerator: Floats, held_against: Floats) -> Floats:
    total = numerator + held_against
    return np.divide(numerator, total, out=np.full_like(total, 0.5), where=total > 0)


def signed_rank(first: Floats, last: Floats) -> tuple[float, float, float]:
    """Return (W, two-sided p, matched-pairs rank-biserial) of the paired values; no difference at all gives p = 1.

    pingouin drops NaN pairs without a word, hence the check; it corrects for continuity.
    """
    difference = np.asarray(first, float) - np.asarray(last, float)
    if not len(difference) or np.isnan(difference).any():
        raise CollapseError(f"{int(np.isnan(difference).sum())} NaN in {len(difference)} pairs; expected numbers only")
    if not difference.any():
        return 0.0, 1.0, 0.0
    row = pingouin.wilcoxon(difference).iloc[0]
    return float(row["W_val"]), float(row["p_val"]), float(row["RBC"])


def adjust_holm(p: Floats) -> Floats:
    """Return Holm-adjusted p-values; NaN is an error, because statsmodels would count it as a test."""
    if not ((p >= 0) & (p <= 1)).all():
        raise CollapseError(f"p-values {p.tolist()}; expected numbers from 0 to 1, one for each declared cell")
    return cast(Floats, multipletests(p, method="holm")[1])


def curves(rows: pd.DataFrame, position: str = "bin", *, quantities: Sequence[str] = ("evidence",),
           by: Sequence[str] = (), min_items: int = 20, n_replicates: int = 2_000, confidence: float = 0.95,
           method: Method = "percentile", seed: int = 0) -> pd.DataFrame:
    """Return the mean of each quantity over items at each position, with a pointwise cluster-bootstrap band.

    `position` is `bin` or `step_index`; `by` adds columns to split on (step_kind, chain_kind, a stratum). A quantity
    held against another is the ratio of the two means. Columns: model, benchmark, head_set, `by`, quantity, `position`,
    estimate, ci_low, ci_high, n_items, n_degenerate; a position with fewer than `min_items` items has no interval.
    """
    rows = _with_visual(rows)
    results = []
    for key, group in rows.groupby([*CELL, "head_set", *by, position], observed=True):
        labels = dict(zip([*CELL, "head_set", *by, position], key, strict=True))
        for name in quantities:
            numerator, held_against = QUANTITIES[name]
            top = group[numerator].to_numpy(float)
            under = np.ones(len(group)) if held_against is None else group[held_against].to_numpy(float)
            result = labels | {"quantity": name, "estimate": float(divide(top.sum(), under.sum())),
                               "n_items": group["item_id"].nunique()}
            if result["n_items"] >= min_items:
                interval = bootstrap_ratio(top, under, group["item_id"].astype("str").to_numpy(), method=method,
                                           n_replicates=n_replicates, confidence=confidence, seed=seed)
                result |= {name: getattr(interval, name) for name in ("ci_low", "ci_high", "n_degenerate")}
            results.append(result)
    return pd.DataFrame(results)


def log_ratio_check(pairs: pd.DataFrame, head_set: str, mass: str = "evidence_mass") -> pd.DataFrame:
    """Cross-check: the mean over items of log(last / first) per cell, by a paired t and by a mixed model.

    Within a cell an item gives one log-ratio, so a mixed model of log mass on first/last IS the paired t. Over cells
    items repeat: there MixedLM fits log-ratio ~ cell with a random intercept per item. Items with a zero mass
    have no log-ratio: `n_zero` counts them. Columns: cell, n_items, n_zero, estimate and its t interval and p
    (nats), mixed_estimate, mixed_low, mixed_high, item_sd, converged.
    """
    rows = pairs[pairs["head_set"] == head_set]
    positive = (rows[f"{mass}_first"] > 0) & (rows[f"{mass}_last"] > 0)
    used = rows[positive].assign(y=lambda t: np.log(t[f"{mass}_last"] / t[f"{mass}_first"]))
    design = pd.get_dummies(used["model"] + " x " + used["benchmark"], dtype=float)
    fit = MixedLM(used["y"].to_numpy(float), design.to_numpy(), groups=used["item_id"].to_numpy()).fit(reml=True)
    low, high = np.asarray(fit.conf_int())[: design.shape[1]].T
    results = []
    for j, cell in enumerate(design):
        inside = design[cell].to_numpy() > 0
        test = stats.ttest_1samp(used["y"].to_numpy(float)[inside], 0.0)
        interval = test.confidence_interval()
        model, benchmark = used.loc[inside, CELL].iloc[0]
        n_zero = int((~positive & (rows["model"] == model) & (rows["benchmark"] == benchmark)).sum())
        results.append({"model": model, "benchmark": benchmark, "n_items": int(inside.sum()), "n_zero": n_zero,
                        "estimate": float(used["y"][inside].mean()), "ci_low": interval.low, "ci_high": interval.high,
                        "p": float(test.pvalue), "mixed_estimate": fit.fe_params[j], "mixed_low": low[j],
                        "mixed_high": high[j], "item_sd": float(np.sqrt(fit.cov_re[0, 0])), "converged": fit.converged})
    return pd.DataFrame(results)


def shuffled_lift(maps: Floats, coverage: Floats, *, n_permutations: int = 1_000, seed: int = 0) -> dict[str, float]:
    """Negative control: the lift of the evidence against the lift when the boxes are dealt to other items.

    Parameters
    ----------
    maps, coverage : float[n items, M image tokens]
        Attention over the image tokens (any scale) and evidence coverage, all items on one grid.

    Returns
    -------
    lift, shuffled_lift (mean), shuffled_low, shuffled_high (95 % of the permutations), p, n_items.
    Lift = mean evidence share / mean evidence fraction. Every deal is a single cycle: no item keeps its boxes.
    Shuffled lift is 1 unless attention and boxes share a favourite place in the image.
    """
    total = maps.sum(axis=1, keepdims=True)
    if maps.shape != coverage.shape or len(maps) < 2 or not (total > 0).all() or not coverage.sum() > 0:
        raise CollapseError(f"maps {maps.shape}, coverage {coverage.shape}; expected equal shapes, two items or more, "
                            "a positive mass in each map and some evidence")
    share = maps / total
    expected = coverage.sum() / maps.shape[1]
    rng = np.random.default_rng(seed)
    deals = np.empty(n_permutations)
    for b in range(n_permutations):
        order = rng.permutation(len(maps))
        deals[b] = np.einsum("im,im->", share[order], coverage[np.roll(order, 1)]) / expected
    lift = float((share * coverage).sum() / expected)
    low, high = np.quantile(deals, [0.025, 0.975])
    return {"lift": lift, "shuffled_lift": float(deals.mean()), "shuffled_low": float(low), "shuffled_high": float(high),
            "p": float((1 + (deals >= lift).sum()) / (1 + n_permutations)), "n_items": float(len(maps))}
