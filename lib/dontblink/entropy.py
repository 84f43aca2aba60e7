"""Does entropy separate correct from wrong answers, better over the whole response than over the answer alone?

Why: the discrimination of notebook 03 needs one definition, the adjustment for covariates included. In: the items
table of the TEST split. Out: a table of AUROCs and of their differences, per cell, per benchmark and pooled, with
item-clustered intervals. A score is higher where an answer is more likely correct: minus an entropy. Never: rows of two
cells compared with each other, or a NaN handed to Holm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dontblink.auroc import AurocError, draw_aurocs
from dontblink.auroc import auroc_difference as auroc_difference
from dontblink.bootstrap import Floats, Method
from dontblink.cells import count_rows, list_scopes, residualise, select_rows
from dontblink.messages import NamedError
from dontblink.multiplicity import adjust_holm
from dontblink.obuchowski import clustered_test
from dontblink.obuchowski import delong_test as delong_test

# name of a score: (column of the items table, sign that makes higher mean "more likely correct")
SCORES: dict[str, tuple[str, float]] = {
    "full": ("full_entropy_nats", -1.0),
    "answer": ("answer_entropy_nats", -1.0),
    "max": ("max_entropy_nats", -1.0),
    "last_decile": ("last_decile_entropy_nats", -1.0),
    "length": ("n_response_tokens", -1.0),
    "vision": ("vision_evidence_mass", 1.0),
}
PAIRS: tuple[tuple[str, str], ...] = (("full", "answer"), ("full", "max"), ("full", "length"))


class EntropyError(NamedError, ValueError):
    """Tables that support no estimate; the message names the cell and what to do."""


@dataclass(frozen=True, eq=False)
class Contrasts:
    """AUROCs to estimate: `values` float64[columns, n rows], NaN where a row has no score, and what to do with them.

    `contrasts` names each quantity, its column and the column to subtract (None: the AUROC itself). `usable`
    bool[columns, n rows] is False in cells that are too small for an estimate.
    """

    rows: pd.DataFrame
    values: Floats
    usable: Floats
    contrasts: tuple[tuple[str, int, int | None], ...]
    adjusted_for: str

    def scopes(self) -> Iterator[tuple[dict[str, Any], str, int, int | None, list[int]]]:
        """Yield, per scope and quantity, its counts, its name, its columns and the numbers of the cells to use."""
        cells = sorted(self.rows["cell"].unique())
        code = np.searchsorted(cells, self.rows["cell"])
        for scope in list_scopes(self.rows.assign(code=code, place=np.arange(len(self.rows)))):
            place = scope["place"].to_numpy()
            for name, a, b in self.contrasts:
                used = np.unique(scope["code"][self.usable[a, place]])
                facts = count_rows(scope) | {
                    "n_left_out": int(np.isnan(self.values[a, place]).sum()),
                    "n_cells": len(used),
                    "adjusted_for": self.adjusted_for,
                    "score": name,
                }
                yield facts, name, a, b, [int(c) for c in used]


def contrast_scores(
    items: pd.DataFrame,
    scores: Mapping[str, tuple[str, float]] = SCORES,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    *,
    covariates: Sequence[str] = (),
    min_items: int = 20,
    min_class: int = 10,
) -> Contrasts:
    """Return every score, and every pair of scores on the rows that have both.

    `covariates` are taken out of each score by least squares within the cell; a score that is a covariate itself (or
    whose logarithm is) is then left out with its pairs: nothing of it would remain but curvature. A cell with fewer
    than `min_items` rows, or than `min_class` correct or wrong ones, gets no estimate.
    """
    if unknown := {name for pair in pairs for name in pair} - scores.keys():
        raise EntropyError(f"pairs of {sorted(unknown)}; expected scores of {', '.join(scores)}")
    kept = {k: v for k, v in scores.items() if not {v[0], f"log_{v[0]}"} & set(covariates)}
    rows = select_rows(items, [], list(dict.fromkeys([*(column for column, _ in kept.values()), *covariates])))
    known = np.isfinite(rows[list(covariates)].to_numpy(np.float64)).all(axis=1)
    single: dict[str, Floats] = {}
    for name, (column, sign) in kept.items():
        has = known & np.isfinite(rows[column].to_numpy(np.float64))
        single[name] = np.full(len(rows), np.nan)
        part = rows[has].reset_index(drop=True)
        single[name][has] = sign * (residualise(part, column, covariates) if covariates else part[column])
    values, contrasts = list(single.values()), [(name, k, None) for k, name in enumerate(single)]
    for a, b in (pair for pair in pairs if set(pair) <= kept.keys()):
        gap = np.isnan(single[a] + single[b])
        contrasts.append((f"{a} - {b}", len(values), len(values) + 1))  # type: ignore[arg-type]
        values += [np.where(gap, np.nan, single[name]) for name in (a, b)]
    table = np.stack(values)
    usable = ~np.isnan(table)
    for own in rows.groupby("cell").indices.values():
        right = (usable[:, own] & rows["correct"].to_numpy(bool)[own]).sum(axis=1)
        n = usable[:, own].sum(axis=1)
        enough = (n >= min_items) & (right >= min_class) & (n - right >= min_class)
        usable[:, own] &= enough[:, None]
    return Contrasts(rows, table, usable, tuple(contrasts), ", ".join(covariates))


def auroc_table(
    items: pd.DataFrame,
    scores: Mapping[str, tuple[str, float]] = SCORES,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    *,
    n_boot: int = 10_000,
    seed: int = 0,
    method: Method = "bca",
    difference_method: Method = "percentile",
    confidence: float = 0.95,
    **choice: Any,
) -> pd.DataFrame:
    """Return the AUROC of each score and the difference a - b of each pair: per cell, per benchmark and pooled.

    Over several cells it is the mean of the AUROCs within each. Columns: scope, model, benchmark, n_rows, n_items,
    n_wrong, n_left_out (rows of the scope without the score), n_cells (used), adjusted_for, score ("a" or "a - b"),
    estimate, ci_low, ci_high, n_degenerate, method; for a difference also auc_a, auc_b and the cross-check, `se` and
    `p` by Obuchowski's clustered variance (within a cell, where an item has one row: DeLong's test). A scope without a
    usable cell keeps its counts alone. The methods are those that hold in `simulate`: BCa moves the interval of a
    difference away from 0 where wrong answers are few. `choice` goes to `contrast_scores` (covariates, min_items,
    min_class). The fit of the covariates is held in the resampling, which makes the adjusted intervals a little too
    wide (simulated without discrimination, 40 and 150 items: 95 % intervals cover 97 to 98 %).
    """
    found = contrast_scores(items, scores, pairs, **choice)
    correct, cluster, cell = (found.rows[name].to_numpy() for name in ("correct", "cluster", "cell"))
    shown = np.where(found.usable, found.values, np.nan)
    draws = draw_aurocs(
        correct,
        list(shown),
        cluster,
        cell=cell,
        n_boot=n_boot,
        seed=seed,
        jackknife="bca" in (method, difference_method),
    )
    results = []
    for facts, name, a, b, cells in found.scopes():
        if cells:
            chosen = method if b is None else difference_method
            interval = draws.interval(a, b, cells, method=chosen, confidence=confidence)
            facts |= {
                key: getattr(interval, key) for key in ("estimate", "ci_low", "ci_high", "n_degenerate", "method")
            }
            if b is not None:
                own = np.isin(cell, [draws.cells[c] for c in cells]) & found.usable[a]
                try:
                    test = clustered_test(correct[own], shown[a, own], shown[b, own], cluster[own], cell=cell[own])
                except AurocError as error:
                    raise EntropyError(f"{facts['benchmark']}, {facts['model']}, {name}: {error}") from error
                facts |= {"auc_a": test.auc_a, "auc_b": test.auc_b, "se": test.se, "p": test.p}
        results.append(facts)
    return pd.DataFrame(results)


def add_holm(table: pd.DataFrame, declared_cells: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Return the table with `p_holm`, adjusted over the declared cells (model, benchmark) within each difference.

    NaN for AUROCs, benchmarks and the pooled row, which are not tested against each other.

    Raises
    ------
    EntropyError
        If a declared cell has no p-value: a family that shrinks after the fact is no family.
    """
    table = table.assign(p_holm=np.nan)
    tested = table[(table["scope"] == "cell") & table["score"].str.contains(" - ")]
    for (score, _), rows in tested.groupby(["score", "adjusted_for"]):
        cells = rows.set_index(["model", "benchmark"])["p"].reindex(pd.MultiIndex.from_tuples(declared_cells))
        if cells.isna().any():
            raise EntropyError(
                f"{score}: no p-value for {' x '.join(cells.index[cells.isna()][0])}; add items, or declare other cells"
            )
        own = rows.index[pd.MultiIndex.from_frame(rows[["model", "benchmark"]]).isin(declared_cells)]
        table.loc[own, "p_holm"] = adjust_holm(table.loc[own, "p"].to_numpy(np.float64))
    return table


def describe_differences(rows: pd.DataFrame, alpha: float = 0.05) -> str:
    """Return one sentence on ONE difference of an `add_holm` table: in how many cells a leads, and the reverse."""
    cells = rows.dropna(subset=["p_holm"])
    estimate, low, high = cells["estimate"], cells["ci_low"], cells["ci_high"]
    small = cells["p_holm"] < alpha
    a, b = str(cells["score"].iloc[0]).split(" - ")
    return (
        f"{a} separates better than {b} in {(estimate > 0).sum()} of {len(cells)} cells (interval above 0 in "
        f"{(low > 0).sum()}, below 0 in {(high < 0).sum()}); Holm-adjusted p < {alpha:g} for {a} in "
        f"{(small & (estimate > 0)).sum()}, for {b} in {(small & (estimate < 0)).sum()}; differences from "
        f"{estimate.min():.3f} to {estimate.max():.3f}"
    )
