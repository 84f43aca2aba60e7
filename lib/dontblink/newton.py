"""Newton's method for thousands of reweighted logits at once: the arithmetic under `logit`.

Why: the replicates of a bootstrap differ by cluster weights alone, so that most of a fit is shared. In: rows sorted by
cluster, how often each cluster was drawn. Out: scaled coefficients and cluster-robust errors of each replicate. Never:
an unconverged fit: a replicate that does not arrive is shown to be separated, or is fitted by damped steps, or counts
as separated because rounding leaves no information along some direction; Firth refits the separated ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dontblink.bootstrap import Floats, Ints
from dontblink.firth import find_separated, fit_firth, pair_columns, solve_each

_STEP = 1e-6  # Newton stops at a step (of scaled coefficients) below this: what is left is its square
_FAR = 30.0  # a scaled coefficient beyond this may have arrived where rounding leaves no information
_ITERATIONS = 15  # from the estimate; a separated replicate moves one unit an iteration and never arrives


@dataclass(frozen=True)
class Rows:
    """Rows sorted by cluster, columns scaled to a largest absolute value of 1.

    x float64[n, k], pairs float64[n, k (k + 1) / 2] their products, sign [n] = 2 y - 1, row int64[n] the cluster,
    first int64[G] the first row of each cluster, scale [k], unpack int[k, k] the column of `pairs` of each product.
    """

    x: Floats
    pairs: Floats
    sign: Floats
    row: Ints
    first: Ints
    scale: Floats
    unpack: Ints


@dataclass(frozen=True)
class Start:
    """Where Newton starts: beta [k], cluster sums [G, 2 (k + pairs)] of the score and Hessian there, their columns."""

    beta: Floats
    sums: Floats
    split: Ints


def prepare_rows(X: Floats, y: Floats, cluster: Ints) -> Rows:
    order = np.argsort(cluster, kind="stable")
    row, scale = cluster[order], np.abs(X).max(axis=0)
    x = np.ascontiguousarray(X[order] / scale)
    pairs, unpack = pair_columns(x)
    return Rows(x, pairs, 2 * y[order] - 1, row, np.flatnonzero(np.diff(row, prepend=-1)), scale, unpack)


def start_at(rows: Rows, beta: Floats) -> Start:
    t, k, n_pairs = np.tanh(rows.x @ beta / 2), rows.x.shape[1], rows.pairs.shape[1]
    parts = [rows.sign[:, None] * rows.x, rows.pairs, t[:, None] * rows.x, (t**2)[:, None] * rows.pairs]
    return Start(beta, np.add.reduceat(np.hstack(parts), rows.first), np.cumsum([k, n_pairs, k]))


def fit_replicates(
    rows: Rows, counts: Floats, start: Start, space: Floats | None = None
) -> tuple[Floats, NDArray[np.bool_]]:
    """Fit every row of `counts` float64[b, G]; return scaled coefficients [b, k], NaN if degenerate, and separated.

    `space` float64[4, >= b, n] is written over: memory that is asked for anew in each call costs as much as the fit.
    """
    lean, gram, pull, bend = np.split(counts @ start.sums, start.split, axis=1)
    k = len(start.beta)
    spectrum = np.linalg.eigvalsh(gram[:, rows.unpack])
    degenerate = spectrum[:, 0] <= 1e-12 * spectrum[:, -1]
    beta = np.full((len(counts), k), np.nan)
    usable = np.flatnonzero(~degenerate)
    step = np.full_like(beta, np.nan)
    step[usable] = solve_each((gram - bend)[usable][:, rows.unpack] / 4, (lean - pull)[usable] / 2)
    beta[usable] = start.beta + step[usable]
    space = np.empty((4, len(counts), len(rows.x))) if space is None else space[:, : len(counts)]
    weights = np.take(counts, rows.row, axis=1, out=space[0], mode="clip")
    active, half = usable[_moving(step[usable])], rows.x.T / 2
    for _ in range(_ITERATIONS):
        if not (size := len(active)):
            break
        own = weights if size == len(counts) else np.take(weights, active, axis=0, out=space[3, :size], mode="clip")
        t = np.matmul(beta[active], half, out=space[1, :size])
        np.tanh(t, out=t)
        pulled = np.multiply(own, t, out=space[2, :size])
        score = lean[active] - pulled @ rows.x
        np.multiply(pulled, t, out=pulled)
        hessian = (gram[active] - pulled @ rows.pairs)[:, rows.unpack]
        step[active] = 2 * solve_each(hessian, score)
        beta[active] += step[active]
        active = active[_moving(step[active])]
    separated = np.zeros(len(counts), np.bool_)
    if len(active):
        separated[active] = find_separated(rows.sign[:, None] * rows.x, weights[active] > 0, step[active])
        if (hard := np.setdiff1d(active, np.flatnonzero(separated))).size:
            beta[hard] = fit_firth(rows.x, rows.sign, weights[hard], penalty=False).coef
            separated[hard] = np.isnan(beta[hard, 0])
    for b in np.flatnonzero(~separated & (np.abs(beta).max(axis=1) > _FAR)):
        v = weights[b] * (1 - np.tanh(rows.x @ beta[b] / 2) ** 2)
        spectrum = np.linalg.eigvalsh((v @ rows.pairs)[rows.unpack])
        separated[b] = spectrum[0] <= 1e-12 * spectrum[-1]
    firth = np.flatnonzero(separated)
    if firth.size:
        beta[firth] = fit_firth(rows.x, rows.sign, weights[firth]).coef
    return beta, separated


def _moving(step: Floats) -> NDArray[np.bool_]:
    return ~(np.abs(step).max(axis=1) < _STEP)  # NaN moves


def robust_errors(rows: Rows, counts: Floats, beta: Floats, columns: Sequence[int]) -> Floats:
    """Return float64[b, len(columns)]: cluster sandwich errors with statsmodels' correction G/(G-1) (n-1)/(n-k)."""
    weights = counts[:, rows.row]
    t = np.tanh(beta @ rows.x.T / 2)
    information = ((weights * (1 - t**2) / 4) @ rows.pairs)[:, rows.unpack]
    residual, n, size = (rows.sign - t) / 2, weights.sum(axis=1), counts.sum(axis=1)
    correction = size / (size - 1) * (n - 1) / (n - rows.x.shape[1])
    errors = np.empty((len(beta), len(columns)))
    for j, column in enumerate(columns):
        unit = np.zeros((len(beta), rows.x.shape[1]))
        unit[:, column] = 1.0
        influence = np.add.reduceat(residual * (solve_each(information, unit) @ rows.x.T), rows.first, axis=1)
        errors[:, j] = np.sqrt(correction * (counts * influence**2).sum(axis=1))
    return errors
