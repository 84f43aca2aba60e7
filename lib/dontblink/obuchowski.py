"""Which of two scores has the larger AUROC: Obuchowski's test for clustered rows, DeLong's where rows are independent.

Why: DeLong's variance takes rows as independent, and an item repeats across models (over pooled rows it rejects too
often). In: correct (0/1), two scores, the item and the cell of each row. Out: an `AurocTest`. Never: DeLong's test over
the rows of several models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri
from sklearn.metrics import roc_auc_score

from dontblink.auroc import AurocError, check_scores, split_cells
from dontblink.bootstrap import number_clusters
from dontblink.ranks import share_won


@dataclass(frozen=True)
class AurocTest:
    """Two AUROCs on the same rows, their standard errors, and the two-sided test and Wald interval of a minus b."""

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


def delong_test(labels: ArrayLike, score_a: ArrayLike, score_b: ArrayLike, **options: Any) -> AurocTest:
    """Return DeLong's paired test (DeLong, DeLong and Clarke-Pearson 1988): `clustered_test`, each row its own cluster.

    Rows must be independent. Where rows repeat an item, give `clustered_test` the items.
    """
    return clustered_test(labels, score_a, score_b, np.arange(np.size(labels)), **options)


def clustered_test(
    labels: ArrayLike,
    score_a: ArrayLike,
    score_b: ArrayLike,
    cluster: ArrayLike,
    *,
    cell: ArrayLike | None = None,
    confidence: float = 0.95,
    min_clusters: int = 10,
) -> AurocTest:
    """Return the paired test with Obuchowski's variance for clustered rows (Obuchowski 1997, Biometrics 53).

    Where every row is a cluster of its own it is DeLong's test (DeLong, DeLong and Clarke-Pearson 1988). With `cell`
    (label[n]) the AUROCs are means over cells of those within each, and so are the sums below.

    With m positives, n negatives, and in cluster i the sums U_i of the positives' placements less m_i A and W_i of the
    negatives' less n_i A: var = I_m / (I_m - 1) sum U_i^2 / m^2 + I_n / (I_n - 1) sum W_i^2 / n^2
    + 2 I / (I - 1) sum U_i W_i / (m n), with I_m, I_n, I the clusters that hold positives, negatives, any row.

    Raises
    ------
    AurocError
        Below `min_clusters` clusters, below two that hold a class, or where the AUROCs differ but no row shows a
        variance (one score separates perfectly, the other is constant).
    """
    positive, scores = check_scores(labels, [score_a, score_b])
    groups = number_clusters(cluster)
    size = len(groups.labels)
    if size < min_clusters or len(groups.row) != len(positive):
        raise AurocError(
            f"{size} clusters for {len(positive)} rows; expected >= {min_clusters} for a normal "
            "approximation; report the AUROCs alone"
        )
    holders = [len(np.unique(groups.row[rows])) for rows in (positive, ~positive)]
    if min(holders) < 2:
        raise AurocError(f"{holders[0]} clusters with correct and {holders[1]} with wrong rows; a variance needs >= 2")
    parts = split_cells(positive, cell)
    aucs = [float(np.mean([roc_auc_score(positive[own], score[own]) for own in parts])) for score in scores]
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
    p, errors = float(2 * ndtr(-abs(z))), (float(se_a), float(se_b), float(se))
    reach = float(ndtri((1 + confidence) / 2) * se)
    ends = (float(difference - reach), float(difference + reach))
    return AurocTest(aucs[0], aucs[1], float(difference), *errors, float(z), p, *ends)
