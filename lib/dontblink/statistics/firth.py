"""Firth's penalised logit, for one data set or a batch of resampled ones.

Why: under separation the maximum-likelihood coefficient is infinite; Jeffreys' penalty keeps it finite and takes away
the first-order bias. In: X (float[n, k], with its constant column), y in {0, 1}. Out: `FirthFit`. Never: an unconverged
fit, or a Wald test as the test of a coefficient (`lrt_p` is the penalised likelihood ratio).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog, nnls
from scipy.special import chdtrc, chdtri

from dontblink.statistics.bootstrap import EstimateError, Floats, Ints

_TOLERANCE = 1e-9  # of a step of scaled coefficients; what is left is its square
_ITERATIONS = 200
_HALVINGS = 40
_PROFILE_STEPS = 60
_LARGEST_STEP = 5.0  # of a scaled coefficient, at first; it doubles with each step that succeeds and halves with others
_BLOCK = 200_000  # row weights held at once


@dataclass(frozen=True, eq=False)
class FirthFit:
    """Coefficients, standard errors and penalised likelihood-ratio p-values, each float64[k]."""

    coef: Floats
    se: Floats
    lrt_p: Floats
    log_likelihood: float


class Fits(NamedTuple):
    """Batch of fits: coef float64[b, k], penalised log-likelihood [b] in nats, information float64[b, k, k]."""

    coef: Floats
    log_likelihood: Floats
    information: Floats


def firth_logit(X: ArrayLike, y: ArrayLike) -> FirthFit:
    """Fit by Firth's penalised likelihood (Firth 1993; Heinze and Schemper 2002).

    l*(b) = l(b) + log det I(b) / 2, I = X' W X. `se` is from the inverse of I (brglm2's convention; logistf's is that
    of augmented data). `lrt_p[j]` is from 2 (l* - max l* with b_j = 0), the penalty that of all k columns.
    """
    design, outcome = check_design(X, y)
    scale, k = np.abs(design).max(axis=0), design.shape[1]
    free = np.vstack([np.ones((1, k), bool), ~np.eye(k, dtype=bool)])
    fits = fit_firth(design / scale, 2 * outcome - 1, np.ones((k + 1, len(outcome))), free)
    se = np.sqrt(np.diag(np.linalg.inv(fits.information[0])))
    ratio = 2 * (fits.log_likelihood[0] - fits.log_likelihood[1:])
    return FirthFit(
        fits.coef[0] / scale, se / scale, np.asarray(chdtrc(1, np.maximum(ratio, 0.0)), np.float64),
        float(fits.log_likelihood[0] + np.log(scale).sum()),
    )  # fmt: skip


def profile_interval(X: ArrayLike, y: ArrayLike, column: int, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return one coefficient of Firth's fit and the ends of its profile penalised-likelihood interval.

    The ends are where 2 (l*(b) - max l* with b_j = end) is the `confidence` quantile of chi-squared with one degree of
    freedom (Heinze and Schemper 2002, Statistics in Medicine 21; the interval of logistf and brglm2), the penalty that
    of all columns: it is finite under separation and excludes 0 where `FirthFit.lrt_p` is below 1 - confidence. Rows
    must be independent. An end is infinite where none is found: with a handful of rows of a class the profile can be
    flat, or have several maxima.
    """
    design, outcome = check_design(X, y)
    scale, k = np.abs(design).max(axis=0), design.shape[1]
    x, sign, wanted = design / scale, 2 * outcome - 1, float(chdtri(1, 1 - confidence)) ** 0.5
    best = fit_firth(x, sign, np.ones((1, len(sign))))
    centre, level = best.coef[0], best.log_likelihood[0]
    error = float(np.sqrt(np.linalg.inv(best.information[0])[column, column]))
    side, free = np.array([-1.0, 1.0]), np.tile(np.arange(k) != column, (2, 1))
    known = [(np.zeros(2), np.zeros(2))]  # steps from the centre in standard errors, and the roots of the ratios there
    step, start = np.full(2, wanted), np.tile(centre, (2, 1))
    root, at = np.zeros(2), step
    for _ in range(_PROFILE_STEPS):
        start[:, column] = centre[column] + side * step * error
        found = fit_firth(x, sign, np.ones((2, len(sign))), free, start=start)
        root, at = np.sqrt(2 * np.maximum(level - found.log_likelihood, 0.0)), step
        if np.abs(root - wanted).max() < 1e-9:
            break
        known.append((step, root))
        below, above = _bracket(known, wanted)
        (s0, r0), (s1, r1) = known[-2:]
        with np.errstate(divide="ignore", invalid="ignore"):
            near = step + (wanted - root) * (s1 - s0) / (r1 - r0)  # the root is almost a line in the coefficient
        inside = (near > below) & (near < np.minimum(above, 2 * np.maximum(below, step)))
        middle = np.where(np.isinf(above), 2 * np.maximum(below, step), (below + above) / 2)
        step, start = np.where(np.abs(root - wanted) < 1e-9, step, np.where(inside, near, middle)), found.coef.copy()
    ends = np.where(np.abs(root - wanted) < 1e-6, (centre[column] + side * at * error) / scale[column], side * np.inf)
    return float(centre[column] / scale[column]), float(ends[0]), float(ends[1])


def _bracket(known: Sequence[tuple[Floats, Floats]], wanted: float) -> tuple[Floats, Floats]:
    """Return the largest step known to stay below the wanted root, and the smallest known to reach it, of each side."""
    steps, roots = (np.stack(column) for column in zip(*known, strict=True))
    below = np.where(roots < wanted, steps, 0.0).max(axis=0)
    return below, np.where(roots >= wanted, steps, np.inf).min(axis=0)


def check_design(X: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    """Return X float64[n, k] and y float64[n]; raise EstimateError unless a logit on them is identified."""
    design, outcome = np.asarray(X, np.float64), np.asarray(y).astype(np.float64)
    if design.ndim != 2 or outcome.shape != design.shape[:1] or not design.shape[1]:
        raise EstimateError(f"X of shape {design.shape}, y {outcome.shape}; expected (rows, columns) and one y a row")
    if (bad := ~np.isfinite(design).all(axis=1)).any():
        row = int(np.argmax(bad))
        raise EstimateError(f"row {row}: X is {design[row].tolist()}; expected finite numbers; drop and count it")
    if (bad := ~np.isin(outcome, (0.0, 1.0))).any():
        raise EstimateError(f"row {np.argmax(bad)}: y is {outcome[np.argmax(bad)]}; expected 0 or 1")
    n, k = design.shape
    if outcome.sum() in (0, n):
        raise EstimateError(
            f"y is {outcome[0] if n else '-'} in all {n} rows: one class only; report the accuracy of this cell"
        )
    if n <= k:
        raise EstimateError(f"{n} rows for {k} columns; expected more rows; add items or leave columns out")
    largest = np.abs(design).max(axis=0)
    rank = np.linalg.matrix_rank(design / np.where(largest > 0, largest, 1.0), tol=1e-8 * n**0.5)
    if rank < k:
        raise EstimateError(f"X has {k} columns and rank {rank}: a column is constant or repeats others; leave it out")
    return design, outcome


def pair_columns(x: Floats) -> tuple[Floats, Ints]:
    """Return the products of columns float64[n, k (k + 1) / 2], and for each (i, j) the number of its product."""
    i, j = np.triu_indices(x.shape[1])
    unpack = np.zeros((x.shape[1],) * 2, np.int64)
    unpack[i, j] = unpack[j, i] = np.arange(len(i))
    return np.ascontiguousarray(x[:, i] * x[:, j]), unpack


def solve_each(matrices: Floats, vectors: Floats) -> Floats:
    """Return float64[b, k]: the solution of each system, NaN where its matrix is singular."""
    try:
        return cast(Floats, np.linalg.solve(matrices, vectors[..., None])[..., 0])
    except np.linalg.LinAlgError:
        if len(matrices) == 1:
            return np.full_like(vectors, np.nan)
        halves = zip(np.array_split(matrices, 2), np.array_split(vectors, 2), strict=True)
        return np.concatenate([solve_each(*half) for half in halves])


def find_separated(margins: Floats, present: NDArray[np.bool_], step: Floats) -> NDArray[np.bool_]:
    """Return bool[b]: is there a direction that no present row contradicts (Albert and Anderson 1984)?

    `margins` float64[n, k] are sign x, the rows as seen from their own class. The last Newton `step` of a separated
    fit is such a direction, which a product shows. Else the shortest sum d = sum l m with weights l >= 1 (non-negative
    least squares) says it: if d = 0 no direction separates (Stiemke's lemma), and if not, m d >= 0 for all rows, so
    that d is one. Where rounding leaves both open a linear programme decides: maximise sum m d subject to m d >= 0,
    |d| <= 1.
    """
    along = np.where(present, step @ margins.T, 0.0)
    with np.errstate(invalid="ignore"):
        separated = along.min(axis=1) >= -1e-9 * along.max(axis=1)
    for b in np.flatnonzero(~separated):
        m = np.unique(margins[present[b]], axis=0)
        if (proven := _prove(m)) is not None:
            separated[b] = proven
            continue
        found = linprog(-m.sum(axis=0), A_ub=-m, b_ub=np.zeros(len(m)), bounds=(-1, 1), method="highs")
        if not found.success:
            raise EstimateError(f"the search for a separating direction failed: {found.message}; look at this cell's X")
        separated[b] = -found.fun > 1e-6
    return separated


def _prove(m: Floats) -> bool | None:
    """Return whether a direction separates rows m float64[n, k] with weights that show it, None if they do not."""
    try:
        more, length = nnls(m.T, -m.sum(axis=0))
    except RuntimeError:  # too many steps
        return None
    if length <= 1e-9 * np.abs(m).max():
        return False
    along = m @ (m.sum(axis=0) + more @ m)
    return True if along.min() >= -1e-9 * along.max() else None


def fit_firth(
    x: Floats,
    sign: Floats,
    weights: Floats,
    free: NDArray[np.bool_] | None = None,
    *,
    penalty: bool = True,
    start: Floats | None = None,
) -> Fits:
    """Fit each row of `weights` float64[b, n] by Newton steps, halved until the penalised likelihood rises.

    `sign` is 2 y - 1; a row of weight w counts as w equal rows. Coefficients where `free` (bool[b, k]) is False stay
    where they `start` (float64[b, k], default 0). Without the penalty it is a damped maximum-likelihood fit; its
    coefficients are NaN where it does not arrive: the data are so nearly separated that rounding leaves no information
    along some direction.
    """
    block = max(1, _BLOCK // len(x))
    if len(weights) > block:
        starts = range(0, len(weights), block)
        parts = []
        for s in starts:
            own, at = None if free is None else free[s : s + block], None if start is None else start[s : s + block]
            parts.append(fit_firth(x, sign, weights[s : s + block], own, penalty=penalty, start=at))
        return Fits(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    k, everyone = x.shape[1], np.arange(len(weights))
    products = _Products(x, *pair_columns(x), (x[:, :, None] * x[:, None, :]).reshape(len(x), k * k).T.copy())
    fixed = np.zeros((len(weights), k), bool) if free is None else ~free
    blocked = fixed[:, :, None] | fixed[:, None, :]
    beta = np.zeros((len(weights), k)) if start is None else start.astype(np.float64)
    state = _evaluate(products, sign, weights, beta, penalty)
    reach, active = np.full(len(weights), _LARGEST_STEP), everyone
    for _ in range(_ITERATIONS):
        score = np.where(fixed[active], 0.0, state.score[active])
        size, axes = np.linalg.eigh(np.where(blocked[active], np.eye(k), state.hessian[active]))
        # l* is not concave everywhere: on a ridge the absolute curvature still gives a step that rises
        size = np.maximum(np.abs(size), 1e-9 * np.abs(size).max(axis=1, keepdims=True))
        step = (axes @ ((np.swapaxes(axes, 1, 2) @ score[:, :, None]) / size[:, :, None]))[:, :, 0]
        length = np.abs(step).max(axis=1)
        step *= np.minimum(1.0, reach[active] / np.maximum(length, 1e-300))[:, None]
        arrived = length < _TOLERANCE
        active, step = active[~arrived], step[~arrived]
        if not len(active):
            return Fits(beta, state.level, state.information)
        todo = active
        for _ in range(_HALVINGS):
            trial = _evaluate(products, sign, weights[todo], beta[todo] + step, penalty)
            better = trial.level >= state.level[todo] - 1e-12 * (1 + np.abs(state.level[todo]))
            beta[todo[better]] += step[better]
            reach[todo] *= np.where(better, 2.0, 0.5)
            for old, new in zip(state, trial, strict=True):
                old[todo[better]] = new[better]
            todo, step = todo[~better], step[~better] / 2
            if not len(todo):
                break
    if not penalty:
        beta[active] = np.nan
        return Fits(beta, state.level, state.information)
    raise EstimateError(f"{len(active)} of {len(weights)} fits have not converged after {_ITERATIONS} steps; look at X")


class _Products(NamedTuple):
    """x float64[n, k], its pair products and their numbers (`pair_columns`), and x x' as float64[k k, n]."""

    x: Floats
    pairs: Floats
    unpack: Ints
    full: Floats


class _State(NamedTuple):
    """Penalised log-likelihood [b] in nats, score [b, k], information and minus the Hessian, float64[b, k, k]."""

    level: Floats
    score: Floats
    information: Floats
    hessian: Floats


def _evaluate(products: _Products, sign: Floats, w: Floats, beta: Floats, penalty: bool) -> _State:
    """Evaluate l*, its score sum (w (y - p) + h (1/2 - p)) x and its Hessian at beta float64[b, k].

    h = w v x' I^-1 x is the hat diagonal, v = p (1 - p). Minus the Hessian is sum (w + h) v x x' + sum x (p - 1/2)
    dh/db; without its second part steps can take thousands of iterations where the penalty alone holds a coefficient.
    """
    x, pairs, unpack, full = products
    k = x.shape[1]
    eta = beta @ x.T
    t = np.tanh(eta / 2)
    v = w * (1 - t**2) / 4
    information = (v @ pairs)[:, unpack]
    level = -(w * np.logaddexp(0.0, -sign * eta)).sum(axis=1)
    residual = w * (sign - t)
    if not penalty:
        return _State(level, residual @ x / 2, information, information.copy())
    size, log_determinant = np.linalg.slogdet(information)
    lost = ~(size > 0)  # a trial so far out that every weight is 0: its level is -inf
    inverse = np.linalg.inv(np.where(lost[:, None, None], np.eye(k), information))
    hat = v * (inverse.reshape(-1, k * k) @ full)
    hessian = ((v + hat * (1 - t**2) / 4) @ pairs)[:, unpack]
    for j in range(k):
        turn = inverse @ ((v * t * x[:, j]) @ pairs)[:, unpack] @ inverse
        slope = v * (turn.reshape(-1, k * k) @ full) - hat * t * x[:, j]  # dh / db_j
        hessian[:, :, j] += (slope * t) @ x / 2
    level += np.where(lost, -np.inf, log_determinant) / 2
    return _State(level, (residual - hat * t) @ x / 2, information, hessian)
