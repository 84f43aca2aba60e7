"""Logistic regression and its item-clustered bootstrap: thousands of refits in numpy, a few rows of work each.

Why: 10,000 refits by a general library take minutes and hide separation behind a warning; the replicates of a bootstrap
differ by the weights of clusters alone, so that most of a fit is shared. In: a design matrix X (float[n, k], with its
constant column), y in {0, 1}, the item of each row. Out: `LogitFit`, and `LogitBootstrap` with every replicate and the
counts of separated and degenerate ones. Never: drop a replicate, or return an unconverged one: a replicate whose Newton
steps do not arrive is shown to be separated, or is fitted by damped steps, or counts as separated because rounding
leaves no information along some direction; Firth's penalty refits the separated ones (`firth`). Never add a constant or
rescale what the caller passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
from dontblink.statistics.firth import (
    check_design,
    find_separated,
    firth_logit,
    fit_firth,
    pair_columns,
    profile_interval,
    solve_each,
)

RARE = 10  # rows of the rarer class a coefficient, below which the bootstrap-t gives way to the profile
_STEP = 1e-6  # Newton stops at a step (of scaled coefficients) below this: what is left is its square
_FAR = 30.0  # a scaled coefficient beyond this may have arrived where rounding leaves no information
_BLOCK = 90_000  # row weights held at once: 16 to 64 replicates, so that a pass stays in the cache
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
    """Return the rows as `fit_replicates` takes them; `cluster` int64[n] numbers the cluster of each row from 0."""
    order = np.argsort(cluster, kind="stable")
    row, scale = cluster[order], np.abs(X).max(axis=0)
    x = np.ascontiguousarray(X[order] / scale)
    pairs, unpack = pair_columns(x)
    return Rows(x, pairs, 2 * y[order] - 1, row, np.flatnonzero(np.diff(row, prepend=-1)), scale, unpack)


def start_at(rows: Rows, beta: Floats) -> Start:
    """Return what all replicates share: the sums over clusters at scaled coefficients `beta` float64[k]."""
    t, k, n_pairs = np.tanh(rows.x @ beta / 2), rows.x.shape[1], rows.pairs.shape[1]
    parts = [rows.sign[:, None] * rows.x, rows.pairs, t[:, None] * rows.x, (t**2)[:, None] * rows.pairs]
    return Start(beta, _add_up(rows, np.hstack(parts), 0), np.cumsum([k, n_pairs, k]))


def _add_up(rows: Rows, values: Floats, axis: int) -> Floats:
    """Return the sums over clusters of values of rows along an axis."""
    return values if len(rows.first) == len(rows.row) else np.add.reduceat(values, rows.first, axis=axis)


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
        influence = _add_up(rows, residual * (solve_each(information, unit) @ rows.x.T), 1)
        errors[:, j] = np.sqrt(correction * (counts * influence**2).sum(axis=1))
    return errors


@dataclass(frozen=True, eq=False)
class LogitFit:
    """Coefficients and model-based standard errors, float64[k]; Firth's, if `separated` (then ML is infinite)."""

    coef: Floats
    se: Floats
    log_likelihood: float
    separated: bool


@dataclass(frozen=True, eq=False)
class LogitBootstrap:
    """Replicates of a logit: `coefficients` float64[n_replicates, k], NaN in degenerate ones (X without full rank).

    `estimate` [k] is the fit on the data, Firth's if `data_separated`. `errors` float64[n_replicates, k] and `error`
    [k] are cluster-robust standard errors (NaN in the columns that were not asked for). `jackknife` holds
    float64[n_h, k] per stratum, for BCa. `rare` is the data (X, y) where rows are independent (one each item) and the
    rarer class has fewer than RARE of them a coefficient, else None.
    """

    coefficients: Floats
    estimate: Floats
    separated: NDArray[np.bool_]
    n_separated: int
    n_degenerate: int
    n_clusters: int
    errors: Floats
    error: Floats
    jackknife: tuple[Floats, ...] | None
    data_separated: bool
    resampling: Resampling
    rare: tuple[Floats, Floats] | None = None

    @property
    def leads_by_profile(self) -> bool:
        """Say whether Firth's profile leads in place of the bootstrap-t: the t is far too wide where data are rare."""
        return self.rare is not None and self.resampling.method == "t"

    def interval(self, column: int, method: Method | None = None) -> Interval:
        """Return the interval of one coefficient, by the method of the resampling unless one is named.

        BCa needs the jackknife, t the errors of that column. Where the resampling says t and `rare` rows are all there
        is, it is the profile interval of Firth's likelihood around Firth's estimate, unless t is named here.
        """
        if self.rare is not None and self.leads_by_profile and method is None:
            X, y = self.rare
            ends = profile_interval(X, y, column, self.resampling.confidence)
            n, level = len(self.coefficients), self.resampling.confidence
            return Interval(*ends, self.n_clusters, n, self.n_degenerate, "firth profile", level)
        chosen, error = method or self.resampling.method, float(self.error[column])
        return self._derive(lambda coefficients: coefficients[:, [column]], chosen, error, self.errors[:, column])[0]

    def derive(self, function: Callable[[Floats], Floats], method: Method) -> list[Interval]:
        """Return one interval for each output of `function`, which maps coefficients [b, k] to [b, q].

        Where the profile leads its ends are NaN and its method says "refused": with so few answers of a class neither
        the percentile interval of a probability nor BCa covers what it says (`make simulate`), show counts instead.
        """
        found = self._derive(function, method)
        if self.leads_by_profile:
            return [replace(x, ci_low=np.nan, ci_high=np.nan, method="refused: few of a class") for x in found]
        return found

    def _derive(
        self, function: Callable[[Floats], Floats], method: Method, error: float = np.nan, errors: Floats | None = None
    ) -> list[Interval]:
        own, drawn = function(self.estimate[None])[0], function(self.coefficients)
        left_out = None if self.jackknife is None else [function(part) for part in self.jackknife]
        return [
            bootstrap.interval_of(
                float(value),
                drawn[:, j],
                self.n_clusters,
                replace(self.resampling, method=method),
                jackknife=None if left_out is None else [part[:, j] for part in left_out],
                error=error,
                errors=errors,
            )
            for j, value in enumerate(own)
        ]

    def p_value(self, column: int) -> float:
        """Return the p-value of "this coefficient is 0": bootstrap-t (it needs the errors of that column), or Firth's
        penalised likelihood ratio where the profile leads.
        """
        if self.rare is not None and self.leads_by_profile:
            return float(firth_logit(*self.rare).lrt_p[column])
        return bootstrap.symmetric_p(
            float(self.estimate[column]), float(self.error[column]), self.coefficients[:, column],
            self.errors[:, column],
        )  # fmt: skip


def fit_logit(X: ArrayLike, y: ArrayLike) -> LogitFit:
    """Return the maximum-likelihood fit of logit P(y = 1) = X b, or Firth's where the data are separated."""
    rows = prepare_rows(*check_design(X, y), np.zeros(np.size(y), np.int64))  # one cluster: the sums are over all rows
    beta, separated = fit_replicates(rows, np.ones((1, 1)), start_at(rows, np.zeros(rows.x.shape[1])))
    margin, t = rows.sign * (rows.x @ beta[0]), np.tanh(rows.x @ beta[0] / 2)
    information = ((1 - t**2) / 4 @ rows.pairs)[rows.unpack]
    se = np.sqrt(np.diag(np.linalg.inv(information)))
    return LogitFit(beta[0] / rows.scale, se / rows.scale, float(-np.logaddexp(0.0, -margin).sum()), bool(separated[0]))


def bootstrap_logit(
    X: ArrayLike,
    y: ArrayLike,
    cluster: ArrayLike,
    resampling: Resampling = STANDARD,
    *,
    strata: ArrayLike | None = None,
    errors_of: Sequence[int] = (),
) -> LogitBootstrap:
    """Return the item-clustered bootstrap of a logit, items drawn with all their rows within each set of strata.

    X float[n, k] as it is fitted (give it a constant column or cell effects), y {0, 1}[n], `cluster` and `strata` the
    item and cell of each row. For method "bca" each cluster is left out in turn as well; `errors_of` are the columns
    whose cluster-robust standard error each replicate needs (bootstrap-t).

    Notes
    -----
    Newton from the estimate b0. The score and Hessian at b0 are sums over clusters, so the first step of all
    replicates is one matrix product with the draws. After it, with t = tanh(x b / 2) and row weights w (the draws of
    the row's cluster): 2 score = sum w (sign - t) x and 4 H = sum w (1 - t^2) x x'; the sums without t are matrix
    products with the draws again.
    """
    design, outcome = check_design(X, y)
    groups = bootstrap.number_clusters(cluster, strata)
    size, k = len(groups.labels), design.shape[1]
    if size < MIN_CLUSTERS or len(groups.row) != len(outcome):
        raise EstimateError(
            f"{size} items for {len(outcome)} rows; resampling needs >= {MIN_CLUSTERS}, report a table alone"
        )
    rows, members = prepare_rows(design, outcome, groups.row), bootstrap.split_strata(groups.stratum)
    estimate, own = fit_replicates(rows, np.ones((1, size)), start_at(rows, np.zeros(k)))
    start = start_at(rows, estimate[0])
    chunk, columns = int(np.clip(_BLOCK // len(rows.x), 16, 64)), list(errors_of)
    beta, separated = np.empty((resampling.n_replicates, k)), np.empty(resampling.n_replicates, np.bool_)
    errors, error, done = np.full_like(beta, np.nan), np.full(k, np.nan), 0
    space = np.empty((4, chunk, len(rows.x)))
    for indices in bootstrap.resample(members, resampling, chunk):
        counts, block = bootstrap.count_draws(indices), slice(done, done := done + len(indices))
        beta[block], separated[block] = fit_replicates(rows, counts, start, space)
        if columns:
            errors[block, columns] = robust_errors(rows, counts, beta[block], columns)
    if columns:
        error[columns] = robust_errors(rows, np.ones((1, size)), estimate, columns)[0]
    left_out = None
    if resampling.method == "bca":
        left_out = tuple(
            np.concatenate([fit_replicates(rows, w[b : b + chunk], start, space)[0] for b in range(0, len(w), chunk)])
            / rows.scale
            for w in bootstrap.delete_one(members, size)
        )
    return LogitBootstrap(
        beta / rows.scale, estimate[0] / rows.scale, separated, int(separated.sum()), int(np.isnan(beta[:, 0]).sum()),
        size, errors / rows.scale, error / rows.scale, left_out, bool(own[0]), resampling,
        (design, outcome) if size == len(outcome) and _is_rare(outcome, k) else None,
    )  # fmt: skip


def _is_rare(y: Floats, n_columns: int) -> bool:
    return bool(min(y.sum(), len(y) - y.sum()) < RARE * n_columns)
