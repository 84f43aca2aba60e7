"""AUROC by ranks for many weightings at once: the arithmetic under `auroc` and `transfer`.

Why: 10,000 replicates of an AUROC are one cumulative sum each, not 10,000 sorts. In: bool[n] positive rows, their
scores, weights of rows or clusters (how often each was drawn). Out: AUROCs, ties counting one half, NaN where a class
has no weight. Never: a check of what comes in; `auroc.check_scores` has done that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from dontblink.bootstrap import Floats, Ints, divide


def share_won(positive: NDArray[np.bool_], score: Floats) -> tuple[Floats, Floats]:
    """Return the share of negatives below each positive, and of positives above each negative, ties half."""
    ranks = rankdata(score)
    won = (ranks[positive] - rankdata(score[positive])) / (~positive).sum()
    return won, 1 - (ranks[~positive] - rankdata(score[~positive])) / positive.sum()


@dataclass(frozen=True)
class Order:
    """Cluster of each positive and of each negative row (by increasing score), and negatives below each positive."""

    positive: Ints
    negative: Ints
    below: Ints
    not_above: Ints


def order_rows(positive: NDArray[np.bool_], score: Floats, cluster: Ints) -> Order:
    """Return what `weighted_auroc` needs of one score, sorted once for all replicates."""
    order = np.argsort(score[~positive], kind="stable")
    ranked, asked = score[~positive][order], score[positive]
    below, not_above = (np.searchsorted(ranked, asked, side) for side in ("left", "right"))
    return Order(cluster[positive], cluster[~positive][order], below, not_above)


def weighted_auroc(order: Order, weights: Floats) -> Floats:
    """Return float64[b]: the AUROC under cluster weights float64[G, b], NaN where a class has no weight."""
    cumulative = np.zeros((len(order.negative) + 1, weights.shape[1]))
    np.cumsum(weights[order.negative], axis=0, out=cumulative[1:])
    positive = weights[order.positive]
    wins = np.einsum("ib,ib->b", positive, cumulative[order.below])
    wins += np.einsum("ib,ib->b", positive, cumulative[order.not_above])
    result: Floats = divide(wins, 2 * positive.sum(axis=0) * cumulative[-1])
    return result


def auroc_each(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> Floats:
    """Return float64[b]: the AUROC of each row of `scores` float64[b, n] under its row weights float64[b, n].

    For scores that differ between replicates (a refitted rule), so that nothing can be sorted beforehand.
    """
    order = np.argsort(scores, axis=1)
    ranked, drawn = np.take_along_axis(scores, order, 1), np.take_along_axis(weights, order, 1)
    won = np.where(positive[order], drawn, 0.0)
    lost = drawn - won
    not_above = np.cumsum(lost, axis=1)
    below, total = not_above - lost, not_above[:, -1]
    tied = ranked[:, 1:] == ranked[:, :-1]
    if tied.any():
        place, edge = np.arange(scores.shape[1]), np.ones((len(scores), 1), bool)
        first = np.maximum.accumulate(np.where(np.hstack([edge, ~tied]), place, 0), axis=1)
        last = np.minimum.accumulate(np.where(np.hstack([~tied, edge]), place, len(place))[:, ::-1], axis=1)[:, ::-1]
        below, not_above = np.take_along_axis(below, first, 1), np.take_along_axis(not_above, last, 1)
    result: Floats = divide((won * (below + not_above)).sum(axis=1), 2 * won.sum(axis=1) * total)
    return result
