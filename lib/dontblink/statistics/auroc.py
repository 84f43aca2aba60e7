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

PRIOR = 10  # rows of the rarer class that the shape of Newcombe's variance is worth
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
        self, score: int, minus: int | None = None, cells: Sequence[int] | None = None, *, method: Method | None = None
    ) -> AurocInterval:
        """Return the interval of the mean over `cells` (default all) of one AUROC, or of its lead over another.

        `method` is that of the resampling unless named.
        """
        used = list(range(len(self.cells))) if cells is None else list(cells)

        def lead(values: Floats) -> Floats:
            own: Floats = values[score, used].mean(axis=0)
            return own if minus is None else own - values[minus, used].mean(axis=0)

        ends = bootstrap.interval_of(
            float(lead(self.estimate)), lead(self.drawn), int(self.member[used].any(axis=0).sum()),
            replace(self.resampling, method=method or self.resampling.method),
            jackknife=None if self.jackknife is None else [lead(part) for part in self.jackknife],
        )  # fmt: skip
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


def _newcombe_variance(theta: Floats, m: Any, n: Any) -> Floats:
    extra = (1 - theta) / (2 - theta) + theta / (1 + theta)
    return np.asarray(theta * (1 - theta) * (1 + ((m + n) / 2 - 1) * extra) / (m * n))


def newcombe_interval(
    auroc: ArrayLike, n_correct: ArrayLike, n_wrong: ArrayLike, confidence: float = 0.95
) -> tuple[Floats, Floats]:
    """Return the ends of Newcombe's interval of AUROCs of independent rows (2006, Statistics in Medicine 25, method 5).

    The ends solve |A - theta| = z sqrt(V(theta)), V(theta) = theta (1 - theta) [1 + (N - 1) ((1 - theta) / (2 - theta)
    + theta / (1 + theta))] / (m n), with m correct and n wrong rows, N = (m + n) / 2: the variance of exponential
    scores, taken at the end instead of at the estimate, so that it does not vanish where A = 1. Arguments broadcast;
    the sizes need not be whole (effective sizes of clustered rows). An AUROC outside [0, 1] or a size <= 0 is an error.
    """
    a, m, n = np.broadcast_arrays(*(np.asarray(x, np.float64) for x in (auroc, n_correct, n_wrong)))
    if not ((a >= 0) & (a <= 1) & (m > 0) & (n > 0)).all() or not 0 < confidence < 1:
        raise EstimateError(
            f"AUROC {a}, {m} correct and {n} wrong rows, confidence {confidence}; expected [0, 1], more than 0, (0, 1)"
        )
    z = float(ndtri((1 + confidence) / 2))

    def find_low(value: Floats) -> Floats:
        low, high = np.zeros_like(value), value.copy()
        for _ in range(60):  # V grows from 0 faster than the square of the distance falls: one crossing
            theta = (low + high) / 2
            outside = (value - theta) ** 2 > z**2 * _newcombe_variance(theta, m, n)
            low, high = np.where(outside, theta, low), np.where(outside, high, theta)
        return np.asarray((low + high) / 2)

    return find_low(a), 1 - find_low(1 - a)


def combine_intervals(
    estimate: Floats, low: Floats, high: Floats, weight: Floats, correlation: Floats
) -> tuple[float, float, float]:
    """Return sum w_i x_i with its ends by MOVER (Zou and Donner 2008, Statistics in Medicine 27; correlated estimates).

    Arrays float64[q], correlation float64[q, q]. With d_i the distance of x_i to its lower end where w_i > 0 and to
    its upper end where w_i < 0: lower end = sum w_i x_i - sqrt(sum_ij w_i w_j r_ij d_i d_j), the upper end likewise
    with the other distances. NaN in r_ij (an estimate without variance) is taken as what widens most without being
    impossible to see: 1 where w_i w_j > 0, else 0.
    """
    weights = np.asarray(weight, np.float64)
    r = np.where(np.isnan(correlation), np.multiply.outer(weights, weights) > 0, correlation)
    np.fill_diagonal(r, 1.0)
    ends = []
    for toward in (1, -1):
        reach = weights * np.where(toward * weights > 0, estimate - low, high - estimate)
        ends.append(max(float(reach @ r @ reach), 0.0) ** 0.5)
    total = float(weights @ estimate)
    return total, total - ends[0], total + ends[1]


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


@dataclass(frozen=True, eq=False)
class Placements:
    """AUROCs of several scores in several cells, and what their covariances are made of (Obuchowski 1997).

    estimate, low, high float64[scores, cells], NaN where no row of the cell has the score: the AUROC of each score in
    each cell and Newcombe's interval of it, its sizes divided by how much the clusters inflate the variance. upper,
    lower float64[scores, cells, items]: per item the sum of the placements of its correct rows less their mean, over
    the number of correct rows, and of its wrong rows. holds bool[2, scores, cells, items]: which items have a correct,
    and which a wrong, row with that score. cells: their names, sorted.
    """

    cells: tuple[Any, ...]
    estimate: Floats
    low: Floats
    high: Floats
    upper: Floats
    lower: Floats
    holds: NDArray[np.bool_]
    confidence: float

    def covariance(self, parts: Sequence[tuple[int, int]]) -> Floats:
        """Return float64[q, q]: the covariance of the AUROCs of (score, cell) pairs, clustered by item.

        With m correct and n wrong rows, and in item i the sums U_i of the placements of the correct rows less m_i A and
        W_i of the wrong rows less n_i A: cov(a, b) = I_m / (I_m - 1) sum U_i U_i' / (m m') + I_n / (I_n - 1) sum
        W_i W_i' / (n n') + I / (I - 1) sum (U_i W_i' + W_i U_i') / (m n'), I_m, I_n, I the items that hold correct,
        wrong, any rows of these pairs.
        """
        k, c = np.asarray(parts).T
        return _covariance(self.upper[k, c], self.lower[k, c], *self._holders(k, c))

    def _holders(self, k: Ints, c: Ints) -> tuple[int, int, int]:
        held = np.asarray(self.holds[:, k, c]).max(axis=1)
        holders = int(held[0].sum()), int(held[1].sum())
        if min(holders) < 2:
            n, m = holders
            raise EstimateError(f"{n} clusters with correct and {m} with wrong rows; a variance needs >= 2 of each")
        return *holders, int(held.any(axis=0).sum())

    def interval(self, score: int, minus: int | None = None, cells: Sequence[int] | None = None) -> Interval:
        """Return the interval of the mean over `cells` (default all) of one AUROC, or of its lead over another.

        One AUROC of one cell has Newcombe's interval; a mean and a lead combine those of their parts by MOVER with the
        correlations of `covariance`. Fewer than MIN_CLUSTERS items, or than two with right or with wrong rows, have no
        interval (EstimateError): report the AUROCs alone.
        """
        used = list(range(len(self.cells))) if cells is None else list(cells)
        parts = [(k, c) for k in ([score] if minus is None else [score, minus]) for c in used]
        k, c = np.asarray(parts).T
        n_items = int(self.holds[:, k, c].any(axis=(0, 1)).sum())
        if n_items < MIN_CLUSTERS:
            raise EstimateError(f"{n_items} items; an interval needs >= {MIN_CLUSTERS} items, report the AUROCs alone")
        covariance = self.covariance(parts)
        spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            correlation = np.clip(covariance / np.multiply.outer(spread, spread), -1.0, 1.0)
        correlation[np.multiply.outer(spread, spread) < 1e-24] = np.nan
        weight = np.repeat([1.0, -1.0][: len(parts) // len(used)], len(used)) / len(used)
        found = combine_intervals(self.estimate[k, c], self.low[k, c], self.high[k, c], weight, correlation)
        method = "newcombe" if len(parts) == 1 else "mover"
        return Interval(*found, n_items, 0, 0, method, self.confidence)

    def test(self, a: int, b: int, cells: Sequence[int] | None = None) -> AurocTest:
        """Return the paired test of the mean over `cells` of AUROC a minus AUROC b; see `clustered_test`."""
        used = list(range(len(self.cells))) if cells is None else list(cells)
        k, c = np.asarray([(k, c) for k in (a, b) for c in used]).T
        sums = (part[k, c].reshape(2, len(used), -1).sum(axis=1) for part in (self.upper, self.lower))
        upper, lower = (part / len(used) for part in sums)
        covariance = _covariance(upper, lower, *self._holders(k, c))
        aucs = [float(self.estimate[k, used].mean()) for k in (a, b)]
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
        reach = float(ndtri((1 + self.confidence) / 2) * se)
        ends = (float(difference - reach), float(difference + reach))
        return AurocTest(aucs[0], aucs[1], float(difference), *errors, float(z), p, *ends)


def _covariance(upper: Floats, lower: Floats, n_right: int, n_wrong: int, n_any: int) -> Floats:
    a, b, c = (count / max(count - 1, 1) for count in (n_right, n_wrong, n_any))
    cross = upper @ lower.T
    return np.asarray(a * upper @ upper.T + b * lower @ lower.T + c * (cross + cross.T))


def place_scores(
    correct: ArrayLike,
    scores: Sequence[ArrayLike],
    cluster: ArrayLike,
    *,
    cell: ArrayLike | None = None,
    confidence: float = 0.95,
) -> Placements:
    """Return the AUROC of each score in each cell with all that intervals and tests of them take, without resampling.

    A score of NaN is no score: the row counts for the others only, and a cell without any has no AUROC (NaN). A cell of
    one class is an error.

    Newcombe's variance is that of exponential scores and independent rows. It is multiplied (the sizes are divided) by
    (r O / V + c D) / (r + c): O Obuchowski's variance of this cell, V Newcombe's at the estimate, D = O / (Obuchowski's
    variance with rows as clusters), 1 where an item has one row, r the items that hold the rarer class, c = PRIOR. So
    scores of other shapes get their own width where there are errors to learn it from, and Newcombe's where there are
    few. Where A is 0 or 1, and V vanishes, it is D; where all rows tie the interval has no width.
    """
    positive, values = _check_rows(correct, scores, gaps=True)
    groups = bootstrap.number_clusters(cluster)
    size = len(groups.labels)
    if len(groups.row) != len(positive):
        raise EstimateError(f"{len(groups.row)} cluster labels for {len(positive)} rows; give each row its item")
    labels = np.zeros(len(positive)) if cell is None else np.asarray(cell)
    names = np.unique(labels)
    shape = (len(values), len(names))
    estimate, low, high = (np.full(shape, np.nan) for _ in range(3))
    upper, lower, holds = np.zeros((*shape, size)), np.zeros((*shape, size)), np.zeros((2, *shape, size), bool)
    for c, name in enumerate(names):
        rows = np.flatnonzero(labels == name)
        for k, value in enumerate(values):
            used = rows[~np.isnan(value[rows])]
            if not len(used):
                continue
            _check_classes(positive[used], None if cell is None else name)
            own, row = positive[used], groups.row[used]
            m, n = int(own.sum()), int((~own).sum())
            ranks, right, bad = rankdata(value[used]), rankdata(value[used][own]), rankdata(value[used][~own])
            won = (ranks[own] - right) / n  # share of negatives below each positive, ties half
            lost = 1 - (ranks[~own] - bad) / m  # and of positives above each negative
            u, w = (won - won.mean()) / m, (lost - lost.mean()) / n
            upper[k, c], lower[k, c] = np.bincount(row[own], u, size), np.bincount(row[~own], w, size)
            holds[0, k, c, row[own]] = holds[1, k, c, row[~own]] = True
            estimate[k, c] = won.mean()
            sorted_row = np.concatenate([row[own], row[~own]])
            more = _inflate(estimate[k, c], upper[k, c], lower[k, c], u, w, sorted_row)
            if more > 0:
                low[k, c], high[k, c] = newcombe_interval(estimate[k, c], m / more, n / more, confidence)
            else:
                low[k, c] = high[k, c] = estimate[k, c]
    return Placements(tuple(names), estimate, low, high, upper, lower, holds, confidence)


def _inflate(auroc: float, upper: Floats, lower: Floats, u: Floats, w: Floats, row: Ints) -> float:
    """Return what Newcombe's variance is multiplied by: how clusters and the shape of the scores inflate it."""
    m, n, n_items = len(u), len(w), len(np.unique(row))
    holders = len(np.unique(row[:m])), len(np.unique(row[m:]))
    clustered = 1.0
    by_item = float(_covariance(upper[None], lower[None], *holders, n_items)[0, 0])
    if n_items < m + n:
        by_row = float(u @ u) * m / max(m - 1, 1) + float(w @ w) * n / max(n - 1, 1)
        clustered = max(by_item / by_row, 1e-3) if by_row > 1e-24 else (m + n) / n_items  # nothing varies: all copies
    expected = float(_newcombe_variance(np.array(auroc), m, n))
    if expected <= 0:
        return clustered
    if by_item <= 1e-24:  # all rows tie: the AUROC is 1/2 whatever is drawn
        return 0.0
    few = min(holders)
    return (few * max(by_item, 0.0) / expected + PRIOR * clustered) / (few + PRIOR)


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

    The variance is that of `Placements.covariance`.

    Undefined, an EstimateError, below two clusters of a class, or where the AUROCs differ but no row shows a variance
    (one score separates perfectly, the other is constant).
    """
    positive, _ = _check_rows(labels, [score_a, score_b])
    _check_classes(positive)
    found = place_scores(labels, [score_a, score_b], cluster, cell=cell, confidence=confidence)
    size = found.upper.shape[-1]
    if size < MIN_CLUSTERS:
        raise EstimateError(
            f"{size} clusters for {len(positive)} rows; expected >= {MIN_CLUSTERS} for a normal "
            "approximation; report the AUROCs alone"
        )
    return found.test(0, 1)
