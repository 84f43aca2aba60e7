"""Does entropy separate correct from wrong answers, better over the whole response than over the answer alone?

Why: the discrimination, calibration and transfer of notebook 03 need one definition each. In: the items table of the
TEST split. Out: AUROC and difference tables with item-clustered intervals, reliability curves; `transfer_table` for
rules fitted on one benchmark and tested on another. A score is higher where an answer is more likely correct: minus an
entropy. Never: rows of two cells compared with each other, or a calibration error without the name of its bin rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint

from dontblink.auroc import (
    AurocError,
    AurocInterval,
    AurocTest,
    auroc,
    auroc_difference,
    auroc_interval,
    clustered_test,
    delong_test,
)
from dontblink.bootstrap import Floats, Ints
from dontblink.cells import count_rows, keep_usable, list_scopes, residualise, select_rows
from dontblink.transfer import RULES, transfer_table

__all__ = [
    "PAIRS",
    "RULES",
    "SCORES",
    "AurocError",
    "AurocInterval",
    "AurocTest",
    "EntropyError",
    "auroc",
    "auroc_difference",
    "auroc_interval",
    "auroc_table",
    "clustered_test",
    "delong_test",
    "difference_table",
    "expected_calibration_error",
    "reliability_curve",
    "transfer_table",
]

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
BinRule = Literal["equal_width", "equal_mass"]


class EntropyError(ValueError):
    """Probabilities or tables that support no estimate; the message says which row and what to do."""


def auroc_table(
    items: pd.DataFrame,
    scores: Mapping[str, tuple[str, float]] = SCORES,
    *,
    covariates: Sequence[str] = (),
    min_items: int = 20,
    **options: Any,
) -> pd.DataFrame:
    """Return the AUROC of each score per cell, per benchmark and pooled, with clustered bootstrap intervals.

    Over several cells it is the mean of the AUROCs within each. Columns: scope, model, benchmark, n_rows, n_items,
    n_wrong, n_left_out, n_cells, adjusted_for, score, estimate, ci_low, ci_high, n_degenerate, method. `covariates`
    are taken out of the score by least squares within the cell. A cell below `min_items` items, or of one class, keeps
    its counts and has no estimate. `options` go to `auroc_interval` (n_boot, seed, method, confidence).
    """
    return _tabulate(items, [(name,) for name in scores], scores, covariates, min_items, options)


def difference_table(
    items: pd.DataFrame,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    scores: Mapping[str, tuple[str, float]] = SCORES,
    *,
    covariates: Sequence[str] = (),
    min_items: int = 20,
    **options: Any,
) -> pd.DataFrame:
    """Return AUROC(a) - AUROC(b) for each pair of scores, on the rows that have both.

    The columns of `auroc_table`, with score "a - b", auc_a, auc_b, and the cross-check: `p` and `se` by Obuchowski's
    clustered variance, which within a cell (an item has one row) is DeLong's test.
    """
    return _tabulate(items, list(pairs), scores, covariates, min_items, options)


def _tabulate(
    items: pd.DataFrame,
    groups: Sequence[tuple[str, ...]],
    scores: Mapping[str, tuple[str, float]],
    covariates: Sequence[str],
    min_items: int,
    options: dict[str, Any],
) -> pd.DataFrame:
    results: list[dict[str, Any]] = []
    for names in groups:
        rows = select_rows(items, [*dict.fromkeys([*(scores[name][0] for name in names), *covariates])])
        for name in names:
            column, sign = scores[name]
            rows[f"score {name}"] = sign * (residualise(rows, column, covariates) if covariates else rows[column])
        for scope in list_scopes(rows):
            used = keep_usable(scope, min_items)
            result: dict[str, Any] = count_rows(scope) | {
                "n_left_out": rows.attrs["n_left_out"],
                "n_cells": used["cell"].nunique(),
                "adjusted_for": ", ".join(covariates),
                "score": " - ".join(names),
            }
            if len(used):
                result |= _estimate(used, names, options)
            results.append(result)
    return pd.DataFrame(results)


def _estimate(rows: pd.DataFrame, names: tuple[str, ...], options: dict[str, Any]) -> dict[str, Any]:
    correct, cluster, cell = (rows[name].to_numpy() for name in ("correct", "cluster", "cell"))
    values = [rows[f"score {name}"].to_numpy(np.float64) for name in names]
    if len(values) == 1:
        found = auroc_interval(correct, values[0], cluster, cell=cell, **options)
        extra: dict[str, Any] = {}
    else:
        found = auroc_difference(correct, values[0], values[1], cluster, cell=cell, **options)
        test = clustered_test(correct, values[0], values[1], cluster, cell=cell)
        extra = {"auc_a": test.auc_a, "auc_b": test.auc_b, "se": test.se, "p": test.p}
    columns = ("estimate", "ci_low", "ci_high", "n_degenerate", "method")
    return {name: getattr(found, name) for name in columns} | extra


def reliability_curve(
    probability: ArrayLike,
    correct: ArrayLike,
    n_bins: int = 10,
    rule: BinRule = "equal_width",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return a row per bin that holds rows: bin, low, high, n, mean_probability, share_correct, ci_low, ci_high.

    Parameters
    ----------
    probability : float[n] in [0, 1]
        Predicted probability that the answer is correct.
    rule : {"equal_width", "equal_mass"}
        Equal width: [k / K, (k + 1) / K), the last one closed. Equal mass: bin floor(K r / n) with r the number of
        rows of a smaller probability, so that equal probabilities share a bin whatever the order of the rows; low and
        high are then the smallest and largest probability in it.

    Notes
    -----
    The interval is Wilson's for the share of correct rows: it takes rows as independent (one model at a time).
    """
    values, labels = _check_probabilities(probability, correct)
    bins = _assign_bins(values, n_bins, rule)
    results = []
    for k in np.unique(bins):
        own = bins == k
        count, right = int(own.sum()), int(labels[own].sum())
        low, high = proportion_confint(right, count, alpha=1 - confidence, method="wilson")
        ends = (k / n_bins, (k + 1) / n_bins) if rule == "equal_width" else (values[own].min(), values[own].max())
        results.append((int(k), *ends, count, values[own].mean(), right / count, low, high))
    names = ["bin", "low", "high", "n", "mean_probability", "share_correct", "ci_low", "ci_high"]
    return pd.DataFrame(results, columns=names)


def expected_calibration_error(
    probability: ArrayLike, correct: ArrayLike, n_bins: int = 10, rule: BinRule = "equal_width"
) -> float:
    """Return sum over bins of n_k / n |mean probability - share correct|; see `reliability_curve` for the rules.

    It depends on the bins and is biased upwards at small n: compare at equal n and bins only.
    """
    values, labels = _check_probabilities(probability, correct)
    bins = _assign_bins(values, n_bins, rule)
    return float(np.abs(np.bincount(bins, values - labels)).sum() / len(values))


def _check_probabilities(probability: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    values, labels = np.asarray(probability, np.float64), np.asarray(correct).astype(np.float64)
    if values.ndim != 1 or values.shape != labels.shape or not len(values):
        raise EntropyError(f"probabilities {values.shape}, labels {labels.shape}; expected one of each a row, >= 1 row")
    bad = ~((values >= 0) & (values <= 1) & np.isin(labels, (0.0, 1.0)))
    if bad.any():
        row = int(np.argmax(bad))
        raise EntropyError(
            f"row {row}: probability {values[row]}, correct {labels[row]}; expected [0, 1] and 0 or 1, "
            "drop the row and count it"
        )
    return values, labels


def _assign_bins(values: Floats, n_bins: int, rule: str) -> Ints:
    if n_bins < 1 or rule not in ("equal_width", "equal_mass"):
        raise EntropyError(f"{n_bins} bins, rule {rule!r}; expected >= 1 bin, equal_width or equal_mass")
    if rule == "equal_width":
        # edges as k / K: 0.3 lies in [0.3, 0.4), which 3 * 0.1 would not say
        bins = np.searchsorted(np.arange(n_bins + 1) / n_bins, values, "right") - 1
        return np.minimum(bins, n_bins - 1).astype(np.int64)
    smaller = np.searchsorted(np.sort(values), values, "left")
    return (n_bins * smaller // len(values)).astype(np.int64)
