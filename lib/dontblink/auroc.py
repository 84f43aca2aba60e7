"""AUROC of a score for correct answers: estimate, paired tests and the item-clustered bootstrap.

Why: DeLong's test takes rows as independent, and items repeat across models. In: correct (0/1), scores (higher means
"more likely correct"), the item of each row. Out: `AurocTest` (DeLong, or Obuchowski's clustered variance) and
`AurocInterval` (bootstrap with its replicates). Ties count one half everywhere. Never: DeLong over pooled rows, or a
replicate with one class dropped in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri
from sklearn.metrics import roc_auc_score

from dontblink.bootstrap import (
    Floats,
    Interval,
    Ints,
    Method,
    count_draws,
    number_clusters,
    resample,
    split_strata,
)
from dontblink.ranks import order_rows, share_won, weighted_auroc
from dontblink.replicates import delete_one, interval_of

_CHUNK = 32  # replicates held at once: their cumulative weights stay in the cache; changes no result


class AurocError(ValueError):
    """Labels or scores for which the AUROC or its uncertainty is undefined; the message says which."""


@dataclass(frozen=True)
class AurocTest:
    """Two AUROCs on the same rows, their standard errors, and the test and interval of a minus b."""

    auc_a: float
    auc_b: float
    difference: float
    se_a: float
    se_b: float
    se: float
    z: float
    p: float
    ci_low: float
    ci_high: float
    n_positive: int
    n_negative: int
    n_clusters: int


@dataclass(frozen=True, eq=False)
class AurocInterval(Interval):
    """Bootstrap interval of AUROC a (minus b); `replicates` float64[n_boot] holds NaN where one class was drawn."""

    auc_a: float
    auc_b: float
    replicates: Floats


def auroc(correct: ArrayLike, score: ArrayLike) -> float:
    """Return P(score of a correct row > score of a wrong row) + P(equal) / 2, by scikit-learn."""
    labels, (values,) = check_scores(correct, [score])
    return float(roc_auc_score(labels, values))


def check_scores(correct: ArrayLike, scores: Sequence[ArrayLike]) -> tuple[NDArray[np.bool_], list[Floats]]:
    """Return labels as bool[n] and scores as float64[n]; raise AurocError for NaN, other labels or one class."""
    raw = np.asarray(correct)
    values = [np.asarray(score, np.float64) for score in scores]
    if raw.ndim != 1 or any(value.shape != raw.shape for value in values):
        shapes = ", ".join(str(value.shape) for value in values)
        raise AurocError(f"labels of shape {raw.shape}, scores {shapes}; expected one label and one score a row")
    numbers = raw.astype(np.float64)
    for name, column, bad in [
        ("label", numbers, ~np.isin(numbers, (0.0, 1.0))),
        *(("score", value, ~np.isfinite(value)) for value in values),
    ]:
        if bad.any():
            row = int(np.argmax(bad))
            expected = "0 or 1" if name == "label" else "a finite number; drop the row and count it"
            raise AurocError(f"row {row}: {name} {column[row]}; expected {expected}")
    labels = numbers > 0
    if labels.all() or not labels.any():
        raise AurocError(
            f"{labels.sum()} correct of {labels.size} rows: one class only, the AUROC is undefined; "
            "report the accuracy of this cell"
        )
    return labels, values


def delong_test(
    labels: ArrayLike, score_a: ArrayLike, score_b: ArrayLike, *, confidence: float = 0.95, min_rows: int = 10
) -> AurocTest:
    """Return DeLong's paired test for independent rows (DeLong, DeLong and Clarke-Pearson 1988).

    It is `clustered_test` with every row a cluster of its own. Where rows repeat an item, use that one.

    Raises
    ------
    AurocError
        Below `min_rows` rows, below two rows of a class, or where the scores differ but no row shows a variance.
    """
    return clustered_test(
        labels, score_a, score_b, np.arange(np.size(labels)), confidence=confidence, min_rows=min_rows
    )


def clustered_test(
    labels: ArrayLike,
    score_a: ArrayLike,
    score_b: ArrayLike,
    cluster: ArrayLike,
    *,
    cell: ArrayLike | None = None,
    confidence: float = 0.95,
    min_rows: int = 10,
) -> AurocTest:
    """Return the paired test with Obuchowski's variance for clustered rows (Obuchowski 1997, Biometrics 53).

    With `cell` (label[n]) the AUROCs are means over cells of those within each, and so are the sums below.

    With m positives, n negatives, and in cluster i the sums U_i of the positives' placements less m_i A and W_i of the
    negatives' less n_i A: var = I_m / (I_m - 1) sum U_i^2 / m^2 + I_n / (I_n - 1) sum W_i^2 / n^2
    + 2 I / (I - 1) sum U_i W_i / (m n), with I_m, I_n, I the clusters that hold positives, negatives, any row.
    """
    positive, scores = check_scores(labels, [score_a, score_b])
    groups = number_clusters(cluster)
    size, m, n = len(groups.labels), int(positive.sum()), int((~positive).sum())
    if size < min_rows or len(groups.row) != len(positive):
        raise AurocError(
            f"{size} clusters for {len(positive)} rows; expected >= {min_rows} for a normal "
            "approximation; report the AUROCs alone"
        )
    holders = [len(np.unique(groups.row[rows])) for rows in (positive, ~positive)]
    if min(holders) < 2:
        raise AurocError(f"{holders[0]} clusters with correct and {holders[1]} with wrong rows; a variance needs >= 2")
    parts = _split_cells(positive, cell)
    aucs = _mean_aurocs(positive, scores, parts)
    upper, lower = np.zeros((2, size)), np.zeros((2, size))
    for rows in parts:
        own, row = positive[rows], groups.row[rows]
        for k, score in enumerate(scores):
            won, lost = share_won(own, score[rows])
            upper[k] += np.bincount(row[own], won - won.mean(), size) / (own.sum() * len(parts))
            lower[k] += np.bincount(row[~own], lost - lost.mean(), size) / ((~own).sum() * len(parts))
    a, b, c = (count / (count - 1) for count in (*holders, size))
    cross = upper @ lower.T
    covariance = a * upper @ upper.T + b * lower @ lower.T + c * (cross + cross.T)
    se_a, se_b, se = np.sqrt(
        np.maximum([covariance[0, 0], covariance[1, 1], np.array([1, -1]) @ covariance @ [1, -1]], 0)
    )
    difference = aucs[0] - aucs[1]
    if se < 1e-12:
        if abs(difference) > 1e-12:
            raise AurocError(
                f"difference {difference:g} without any variance between rows; use the bootstrap or more rows"
            )
        difference, se, z = 0.0, 0.0, 0.0
    else:
        z = difference / se
    reach = float(ndtri((1 + confidence) / 2)) * se
    p, ends = float(2 * ndtr(-abs(z))), (float(difference - reach), float(difference + reach))
    errors = (float(se_a), float(se_b), float(se))
    return AurocTest(aucs[0], aucs[1], float(difference), *errors, float(z), p, *ends, m, n, size)


def auroc_interval(correct: ArrayLike, score: ArrayLike, cluster: ArrayLike, **options: Any) -> AurocInterval:
    """Return the clustered bootstrap interval of one AUROC; `options` are those of `auroc_difference`."""
    return _bootstrap(correct, [score], cluster, **options)


def auroc_difference(
    correct: ArrayLike,
    score_a: ArrayLike,
    score_b: ArrayLike,
    cluster: ArrayLike,
    n_boot: int = 10_000,
    seed: int = 0,
    **options: Any,
) -> AurocInterval:
    """Return the paired, item-clustered bootstrap interval of AUROC(score_a) - AUROC(score_b).

    Parameters
    ----------
    correct : {0, 1}[n]
        Positive is correct; give minus an entropy as a score.
    cluster : label[n]
        The item of each row; an item is drawn with all its rows.
    n_boot, seed
        Replicates and their seed. Without cells the draws are those of `scipy.stats.bootstrap` over the items.
    cell : label[n], optional
        The estimate is then the mean over cells of the AUROC within each (pairs of rows are compared within a cell
        only), and items are drawn within the set of cells that they appear in.
    method : {"bca", "percentile"}
    confidence : float
    min_clusters : int
        Fewer items than this (10 by default) raise AurocError: report the AUROCs alone.

    Notes
    -----
    Replicate b weighs row i by the draws c[b, item(i)]: AUROC_b = sum_{i correct} c_i (N_<(i) + N_<=(i)) / (2 C+ C-),
    with N the cumulative draws of wrong rows in order of the score: O(n) for each replicate, and exact in integers.
    """
    return _bootstrap(correct, [score_a, score_b], cluster, n_boot=n_boot, seed=seed, **options)


def _split_cells(positive: NDArray[np.bool_], cell: ArrayLike | None) -> list[Ints]:
    labels = np.zeros(len(positive)) if cell is None else np.asarray(cell)
    parts = [np.flatnonzero(labels == name) for name in np.unique(labels)]
    for rows in parts:
        check_scores(positive[rows], [])
    return parts


def _mean_aurocs(positive: NDArray[np.bool_], scores: Sequence[Floats], parts: Sequence[Ints]) -> list[float]:
    return [float(np.mean([roc_auc_score(positive[rows], score[rows]) for rows in parts])) for score in scores]


def _bootstrap(
    correct: ArrayLike,
    scores: Sequence[ArrayLike],
    cluster: ArrayLike,
    n_boot: int = 10_000,
    seed: int = 0,
    *,
    cell: ArrayLike | None = None,
    method: Method = "bca",
    confidence: float = 0.95,
    min_clusters: int = 10,
) -> AurocInterval:
    positive, values = check_scores(correct, scores)
    groups = number_clusters(cluster, cell)
    size = len(groups.labels)
    if size < min_clusters or len(groups.row) != len(positive):
        raise AurocError(
            f"{size} items for {len(positive)} rows; an interval needs >= {min_clusters} items, report the AUROCs alone"
        )
    parts = _split_cells(positive, cell)
    orders = [[order_rows(positive[rows], value[rows], groups.row[rows]) for rows in parts] for value in values]

    def evaluate(weights: Floats) -> Floats:
        aucs = [np.mean([weighted_auroc(order, weights) for order in by_cell], axis=0) for by_cell in orders]
        return aucs[0] - aucs[1] if len(aucs) > 1 else aucs[0]

    strata = split_strata(groups.stratum)
    draws = resample(strata, n_boot, seed, _CHUNK)
    replicates = np.concatenate([evaluate(count_draws(indices).T.copy()) for indices in draws])
    jackknife = [
        np.concatenate([evaluate(part.T.copy()) for part in np.array_split(weights, -(-len(weights) // _CHUNK))])
        for weights in (delete_one(strata, size) if method == "bca" else [])
    ]
    aucs = _mean_aurocs(positive, values, parts)
    estimate = aucs[0] - aucs[1] if len(aucs) > 1 else aucs[0]
    ends = interval_of(estimate, replicates, size, jackknife=jackknife, method=method, confidence=confidence)
    return AurocInterval(
        **vars(ends), auc_a=aucs[0], auc_b=aucs[-1] if len(aucs) > 1 else np.nan, replicates=replicates
    )
