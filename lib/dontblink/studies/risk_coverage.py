"""Selective risk: how often the answers are wrong that remain when the least confident ones are withheld.

Why: public implementations break ties by row order, so that a curve changes when a table is sorted; entropies of short
answers tie. In: confidences (higher is surer; minus an entropy) and errors of rows. Out: the EXPECTED risk over all
orders of tied rows, for every number of accepted rows. Never: an order-dependent number, or a coverage computed as a
float (k = ceil(9n/10) is integer arithmetic: ceil(0.55 * 100) would be 56).
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from dontblink.statistics import bootstrap
from dontblink.statistics.bootstrap import STANDARD, EstimateError, Floats, Ints, Resampling
from dontblink.studies.cells import count_rows, each_scope, keep_usable, rank_missing_last, select_rows


def risk_coverage(confidence: ArrayLike, error: ArrayLike) -> Floats:
    """Return r(k/n) float64[n], k = 1..n: the expected share of errors (1 is wrong) among the k of most confidence.

    r(k/n) = (C + (k - a) E / (b - a)) / k: a rows with C errors are surer than the group of ties at rank k, which
    spans ranks a + 1..b and holds E errors. One class only and constant confidence are defined: a constant curve.
    """
    errors = accepted_errors(*check_rows(confidence, error))
    return np.asarray(errors[1:] / np.arange(1, len(errors)))


def aurc(confidence: ArrayLike, error: ArrayLike) -> float:
    """Return the area under the risk-coverage curve as the mean of r(k/n) over k = 1..n (Geifman et al. 2019).

    Other public definitions give other numbers for the same rows: a trapezoid over coverages 1/n..1 (torch-uncertainty)
    or over groups of ties with a flat start (fd-shifts).
    """
    return float(risk_coverage(confidence, error).mean())


def count_accepted(n: int, coverage: float | Fraction) -> int:
    """Return ceil(coverage n) in integers; a float means the decimal that it prints as (0.9 is 9/10)."""
    try:
        share = coverage if isinstance(coverage, Fraction) else Fraction(str(float(coverage)))
    except ValueError as error:  # nan and inf are no decimals
        raise EstimateError(f"coverage {coverage}; expected a share in (0, 1]") from error
    if not 0 < share <= 1:
        raise EstimateError(f"coverage {coverage}; expected a share in (0, 1]")
    return -(-n * share.numerator // share.denominator)


def accepted_errors(confidence: Floats, error: Floats) -> Floats:
    """Return float64[..., n + 1]: expected errors among the k surest rows, k = 0..n, along the last axis."""
    order = np.argsort(-confidence, axis=-1, kind="stable")
    return errors_in_order(np.take_along_axis(confidence, order, -1), np.take_along_axis(error, order, -1))


def errors_in_order(ranked: Floats, error: Floats) -> Floats:
    """Return `accepted_errors` of rows that are sorted along the last axis; rows of one `ranked` value are ties."""
    total = np.zeros((*error.shape[:-1], error.shape[-1] + 1))
    total[..., 1:] = np.cumsum(error > 0, axis=-1, dtype=np.int32)  # whole numbers add up faster
    if ((ranked[..., 1:] != ranked[..., :-1]) | (error[..., 1:] == error[..., :-1])).all():
        return total  # no ties, or of equal rows: their order says nothing
    first, last = bootstrap.find_ties(ranked)
    before, after = (np.take_along_axis(total, edge, -1) for edge in (first, last + 1))
    k = np.arange(1, error.shape[-1] + 1)
    total[..., 1:] = before + (k - first) * (after - before) / (last + 1 - first)
    return total


def check_rows(confidence: ArrayLike, error: ArrayLike) -> tuple[Floats, Floats]:
    """Return both as float64[n]; infinite confidences are ranks like others."""
    return bootstrap.check_labelled(confidence, error, ("confidence", "error"), "a number", lambda x: ~np.isnan(x))


def selective_table(
    items: pd.DataFrame, scores: Mapping[str, tuple[str, float]], *, coverage: float | Fraction = 0.9,
    resampling: Resampling = STANDARD, min_items: int = 20,
) -> pd.DataFrame:  # fmt: skip
    """Return, per cell and score, the AURC and the risk at a coverage with bootstrap intervals over its items.

    `scores` names (column, sign), higher times sign being surer; an answer without the score ranks last (n_missing, see
    `cells.rank_missing_last`). Columns: those of `cells.count_rows`, score, n_missing, aurc, aurc_low, aurc_high, risk,
    risk_low, risk_high, method, n_accepted, realised_coverage, and the bounds that no score passes: aurc_oracle (right
    answers first) and error_rate (the AURC of a random order). No threshold is fitted here: a curve describes these
    items, it does not promise a risk (see `guarantees.shift_table`). A cell below `min_items`, of one class or without
    any value of the score keeps its counts alone.
    """
    results: list[dict[str, Any]] = []
    for name, (column, sign) in scores.items():
        for names, cell in each_scope(select_rows(items, [], [column]), ["cell"]):
            row = names | count_rows(cell) | {"score": name, "n_missing": int(cell[column].isna().sum())}
            used = rank_missing_last(keep_usable(cell, min_items), {column: sign})
            if len(used) and used[column].notna().all():
                surety, wrong = sign * used[column].to_numpy(np.float64), 1.0 - used["correct"].to_numpy(np.float64)
                row |= _estimate(surety, wrong, coverage, resampling)
            results.append(row)
    return pd.DataFrame(results)


def _estimate(surety: Floats, wrong: Floats, coverage: float | Fraction, resampling: Resampling) -> dict[str, Any]:
    n, order = len(surety), np.argsort(-surety, kind="stable")
    k, ranked, bad = count_accepted(n, coverage), surety[order], wrong[order]
    rank = np.argsort(order).astype(np.int32)  # sorted once: a draw is then sorted as whole numbers

    def evaluate(index: Ints, size: int) -> Floats:
        drawn = np.sort(rank.take(index), axis=1)
        risk = errors_in_order(ranked.take(drawn), bad.take(drawn))[:, 1:] / np.arange(1, index.shape[1] + 1)
        return np.stack([risk.mean(axis=1), risk[:, size - 1]], axis=1)

    everyone = np.arange(n)
    own = evaluate(everyone[None], k)[0]
    drawn = np.concatenate([evaluate(index, k) for index in bootstrap.resample([everyone], resampling)])
    rest = everyone[:-1] + (everyone[:-1] >= everyone[:, None])  # everyone but one
    left_out = np.concatenate([evaluate(part, count_accepted(n - 1, coverage)) for part in np.array_split(rest, 4)])
    row: dict[str, Any] = {"n_accepted": k, "realised_coverage": k / n, "method": resampling.method}
    for j, measure in enumerate(("aurc", "risk")):
        found = bootstrap.interval_of(own[j], drawn[:, j], n, resampling, jackknife=[left_out[:, j]])
        row |= found.columns(measure)
    return row | {"aurc_oracle": aurc(-wrong, wrong), "error_rate": float(wrong.mean())}
