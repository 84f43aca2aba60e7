"""The AUROC of a score for correct answers: estimate, item-clustered bootstrap, and the test of two scores.

Why: an item repeats across models, so rows are no sample; and 10,000 replicates of an AUROC should be one cumulative
sum each, not 10,000 sorts. In: correct (0/1), scores (higher means "more likely correct"), the item and the cell of
each row. Out: `AurocInterval` with its replicates, and `AurocTest`: Obuchowski's test for clustered rows, which is
DeLong's where rows are independent. Ties count one half everywhere, and rows are compared within a cell only. Never: a
replicate with one class dropped in silence, or DeLong's test over the rows of several models (it rejects too often).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from dontblink.statistics import bootstrap
from dontblink.statistics.bootstrap import (
    MIN_CLUSTERS,
    STANDARD,
    EstimateError,
    Floats,
    Interval,
    Ints,
    Method,
    Resampling,
)

_CHUNK = 64  # replicates held at once: their cumulative weights stay in the cache; changes no result


def weigh_auroc(positive: NDArray[np.bool_], score: Floats, cluster: Ints) -> Callable[[Floats], Floats]:
    """Return the AUROC as a function of cluster weights float64[G, b]: float64[b], NaN where a class has no weight.

    The rows are sorted once for all replicates.
    """
    order = np.argsort(score[~positive], kind="stable")
    ranked, asked = score[~positive][order], score[positive]
    below, not_above = (np.searchsorted(ranked, asked, side) for side in ("left", "right"))
    of_positive, of_negative = cluster[positive], cluster[~positive][order]
    tied = (below < not_above).any()

    def evaluate(weights: Floats) -> Floats:
        own, cumulative = weights.take(of_positive, axis=0), np.zeros((len(of_negative) + 1, weights.shape[1]))
        # a sum along contiguous memory takes half the time
        cumulative[1:] = np.cumsum(np.ascontiguousarray(weights.take(of_negative, axis=0).T), axis=1).T
        wins = np.einsum("ib,ib->b", own, cumulative.take(below, axis=0))
        wins += np.einsum("ib,ib->b", own, cumulative.take(not_above, axis=0)) if tied else wins
        return np.asarray(bootstrap.divide(wins, 2 * own.sum(axis=0) * cumulative[-1]))

    return evaluate


def auroc_each(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Return float64[b]: the AUROC of each row of `scores` float64[b, n] under its row weights float64[b, n].

    For scores that differ between replicates (a refitted rule), so that nothing can be sorted beforehand.
    """
    order = np.argsort(scores, axis=1)
    place = order + np.arange(len(scores))[:, None] * scores.shape[1]
    ranked, drawn = scores.take(place), weights.take(place)
    won = np.where(positive.take(order), drawn, 0.0)
    lost = drawn - won
    not_above = np.cumsum(lost, axis=1)
    below, total = not_above - lost, not_above[:, -1]
    if (ranked[:, 1:] == ranked[:, :-1]).any():
        lowest, highest = bootstrap.find_ties(ranked)
        below, not_above = np.take_along_axis(below, lowest, 1), np.take_along_axis(not_above, highest, 1)
    result: Floats = bootstrap.divide((won * (below + not_above)).sum(axis=1), 2 * won.sum(axis=1) * total)
    return result


@dataclass(frozen=True, eq=False)
class AurocInterval(Interval):
    """Interval of AUROC a (minus b); `replicates` float64[n_replicates] hold NaN where one class was drawn."""

    replicates: Floats


@dataclass(frozen=True, eq=False)
class AurocDraws:
    """AUROCs of several scores in several cells on shared draws of the items, for any interval of means over cells.

    cells: their names, sorted; estimate float64[scores, cells], NaN where no row of the cell has the score; drawn
    float64[scores, cells, n_replicates]; jackknife float64[scores, cells, n_h] per stratum of items, for BCa; member
    bool[cells, items].
    """

    cells: tuple[Any, ...]
    estimate: Floats
    drawn: Floats
    jackknife: tuple[Floats, ...] | None
    member: NDArray[np.bool_]
    resampling: Resampling

    def interval(
        self,
        score: int,
        minus: int | None = None,
        cells: Sequence[int] | None = None,
        *,
        method: Method | None = None,
    ) -> AurocInterval:
        """Return the interval of the mean over `cells` (default all) of one AUROC, or of its lead over another.

        `method` is that of the resampling unless named.
        """
        used = list(range(len(self.cells))) if cells is None else list(cells)

        def lead(values: Floats) -> Floats:
            own: Floats = values[score, used].mean(axis=0)
            return own if minus is None else own - values[minus, used].mean(axis=0)

        ends = bootstrap.interval_of(
            float(lead(self.estimate)),
            lead(self.drawn),
            int(self.member[used].any(axis=0).sum()),
            replace(self.resampling, method=method or self.resampling.method),
            jackknife=None if self.jackknife is None else [lead(part) for part in self.jackknife],
        )
        return AurocInterval(**vars(ends), replicates=lead(self.drawn))


def _check_rows(
    correct: ArrayLike, scores: Sequence[ArrayLike], *, gaps: bool = False
) -> tuple[NDArray[np.bool_], list[Floats]]:
    """Return labels as bool[n] and scores as float64[n], NaN among them with `gaps` only."""
    valid = (lambda x: ~np.isinf(x)) if gaps else np.isfinite
    checked = [bootstrap.check_labelled(score, correct, valid=valid) for score in scores]
    return checked[0][1] > 0, [values for values, _ in checked]


def _check_classes(labels: NDArray[np.bool_], cell: Any = None) -> None:
    if labels.all() or not labels.any():
        where = "" if cell is None else f"cell {cell}: ".replace("\n", " x ")
        raise EstimateError(
            f"{where}{labels.sum()} correct of {labels.size} rows: one class only, the AUROC is undefined; "
            "report the accuracy of this cell"
        )


def auroc_interval(
    correct: ArrayLike,
    score: ArrayLike,
    cluster: ArrayLike,
    resampling: Resampling = STANDARD,
    *,
    cell: ArrayLike | None = None,
) -> AurocInterval:
    """Return the clustered bootstrap interval of one AUROC; arguments as in `auroc_difference`."""
    return auroc_difference(correct, score, None, cluster, resampling, cell=cell)


def auroc_difference(
    correct: ArrayLike,
    score_a: ArrayLike,
    score_b: ArrayLike | None,
    cluster: ArrayLike,
    resampling: Resampling = STANDARD,
    *,
    cell: ArrayLike | None = None,
) -> AurocInterval:
    """Return the paired, item-clustered bootstrap interval of AUROC(score_a) - AUROC(score_b), or of AUROC(score_a).

    Positive is correct (give minus an entropy as a score); an item (`cluster`) is drawn with all its rows. Without
    cells the draws are those of `scipy.stats.bootstrap` over the items. With `cell` (label[n]) the estimate is the mean
    over cells of the AUROC within each, and items are drawn within the set of cells that they appear in.
    """
    positive, values = _check_rows(correct, [score_a] if score_b is None else [score_a, score_b])
    return draw_aurocs(positive, values, cluster, resampling, cell=cell).interval(0, None if score_b is None else 1)


def draw_aurocs(
    correct: ArrayLike,
    scores: Sequence[ArrayLike],
    cluster: ArrayLike,
    resampling: Resampling,
    *,
    cell: ArrayLike | None = None,
) -> AurocDraws:
    """Return the AUROC of each score in each cell, on the data and on every resampling of the items.

    A score of NaN is no score: the row counts for the others only, and a cell without any has no AUROC (NaN). All
    scores and cells see the same draws, so that a difference is paired and a mean over cells is clustered by item.
    Fewer than MIN_CLUSTERS items raise EstimateError: report the AUROCs alone.

    Notes
    -----
    Replicate b weighs row i by the draws c[b, item(i)]: AUROC_b = sum_{i correct} c_i (N_<(i) + N_<=(i)) / (2 C+ C-),
    with N the cumulative draws of wrong rows in order of the score: O(n) for each replicate, and exact in integers.
    """
    positive, values = _check_rows(correct, scores, gaps=True)
    groups = bootstrap.number_clusters(cluster, cell)
    size = len(groups.labels)
    if size < MIN_CLUSTERS or len(groups.row) != len(positive):
        raise EstimateError(
            f"{size} items for {len(positive)} rows; an interval needs >= {MIN_CLUSTERS} items, report the AUROCs alone"
        )
    labels = np.zeros(len(positive)) if cell is None else np.asarray(cell)
    names, strata = np.unique(labels), bootstrap.split_strata(groups.stratum)
    member = np.zeros((len(names), size), bool)
    estimate = np.full((len(values), len(names)), np.nan)
    weighers: dict[tuple[int, bytes], tuple[Callable[[Floats], Floats], list[int]]] = {}  # one for equal scores
    for c, name in enumerate(names):
        rows = np.flatnonzero(labels == name)
        member[c, groups.row[rows]] = True
        for k, value in enumerate(values):
            own = rows[~np.isnan(value[rows])]
            if not len(own):
                continue
            if (key := (c, value[rows].tobytes())) not in weighers:
                _check_classes(positive[own], None if cell is None else name)
                weighers[key] = (weigh_auroc(positive[own], value[own], groups.row[own]), [])
            weighers[key][1].append(k)
            estimate[k, c] = roc_auc_score(positive[own], value[own])

    def evaluate(weights: Floats, used: NDArray[np.bool_]) -> Floats:
        found = np.repeat(estimate[:, :, None], weights.shape[1], axis=2)
        for (c, _), (weigh, columns) in weighers.items():
            if used[c]:
                found[columns, c] = weigh(weights)
        return found

    everywhere = np.ones(len(names), bool)
    draws = bootstrap.resample(strata, resampling, _CHUNK)
    drawn = np.concatenate([evaluate(bootstrap.count_draws(indices).T.copy(), everywhere) for indices in draws], axis=2)
    left_out = []
    by_bca = resampling.method == "bca"
    for weights in bootstrap.delete_one(strata, size) if by_bca else []:
        touched = np.asarray(member[:, (weights == 0).any(axis=0)].any(axis=1))  # the other cells stay as they are
        chunks = np.array_split(weights, -(-len(weights) // _CHUNK))
        left_out.append(np.concatenate([evaluate(part.T.copy(), touched) for part in chunks], axis=2))
    return AurocDraws(tuple(names), estimate, drawn, tuple(left_out) if by_bca else None, member, resampling)


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
) -> AurocTest:
    """Return the paired test with Obuchowski's variance for clustered rows (Obuchowski 1997, Biometrics 53).

    Where every row is a cluster of its own it is DeLong's test (DeLong, DeLong and Clarke-Pearson 1988). With `cell`
    (label[n]) the AUROCs are means over cells of those within each, and so are the sums below.

    With m positives, n negatives, and in cluster i the sums U_i of the positives' placements less m_i A and W_i of the
    negatives' less n_i A: var = I_m / (I_m - 1) sum U_i^2 / m^2 + I_n / (I_n - 1) sum W_i^2 / n^2
    + 2 I / (I - 1) sum U_i W_i / (m n), with I_m, I_n, I the clusters that hold positives, negatives, any row.

    Undefined, an EstimateError, below two clusters of a class, or where the AUROCs differ but no row shows a variance
    (one score separates perfectly, the other is constant).
    """
    positive, scores = _check_rows(labels, [score_a, score_b])
    _check_classes(positive)
    groups = bootstrap.number_clusters(cluster)
    size = len(groups.labels)
    if size < MIN_CLUSTERS or len(groups.row) != len(positive):
        raise EstimateError(
            f"{size} clusters for {len(positive)} rows; expected >= {MIN_CLUSTERS} for a normal "
            "approximation; report the AUROCs alone"
        )
    holders = [len(np.unique(groups.row[rows])) for rows in (positive, ~positive)]
    if min(holders) < 2:
        n, m = holders
        raise EstimateError(f"{n} clusters with correct and {m} with wrong rows; a variance needs >= 2 of each")
    names = np.zeros(len(positive)) if cell is None else np.asarray(cell)
    parts = [np.flatnonzero(names == name) for name in np.unique(names)]
    for rows in parts:
        _check_classes(positive[rows], None if cell is None else names[rows[0]])
    aucs = [float(np.mean([roc_auc_score(positive[own], score[own]) for own in parts])) for score in scores]
    upper, lower = np.zeros((2, size)), np.zeros((2, size))
    for rows in parts:
        own, row = positive[rows], groups.row[rows]
        for k, score in enumerate(scores):
            ranks, right, bad = rankdata(score[rows]), rankdata(score[rows][own]), rankdata(score[rows][~own])
            won = (ranks[own] - right) / (~own).sum()  # share of negatives below each positive, ties half
            lost = 1 - (ranks[~own] - bad) / own.sum()  # and of positives above each negative
            upper[k] += np.bincount(row[own], won - won.mean(), size) / (own.sum() * len(parts))
            lower[k] += np.bincount(row[~own], lost - lost.mean(), size) / ((~own).sum() * len(parts))
    a, b, c = (count / (count - 1) for count in (*holders, size))
    cross = upper @ lower.T
    covariance = a * upper @ upper.T + b * lower @ lower.T + c * (cross + cross.T)
    variances = [covariance[0, 0], covariance[1, 1], np.array([1, -1]) @ covariance @ [1, -1]]
    se_a, se_b, se = np.sqrt(np.maximum(variances, 0))
    difference = aucs[0] - aucs[1]
    if se < 1e-12:
        if abs(difference) > 1e-12:
            raise EstimateError(
                f"difference {difference:g} without any variance between rows; use the bootstrap or more rows"
            )
        difference, se, z = 0.0, 0.0, 0.0
    else:
        z = difference / se
    p, errors = float(2 * ndtr(-abs(z))), (float(se_a), float(se_b), float(se))
    reach = float(ndtri((1 + confidence) / 2) * se)
    ends = (float(difference - reach), float(difference + reach))
    return AurocTest(aucs[0], aucs[1], float(difference), *errors, float(z), p, *ends)
