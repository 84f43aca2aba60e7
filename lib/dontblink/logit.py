"""Logistic regression for the bootstrap: thousands of refits on resampled items, in numpy, a few rows of work each.

Why: 10,000 refits by a general library take minutes and hide separation behind a warning. In: a design matrix X
(float[n, k], with its constant column), y in {0, 1}, the item of each row. Out: `LogitFit`, and `LogitBootstrap`
with every replicate and the counts of separated and degenerate ones. A separated replicate (maximum likelihood is
infinite) is refitted by Firth's penalty (`firth`). Never: drop a replicate, return an unconverged one, add a constant
or rescale what the caller passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dontblink.bootstrap import Floats, Interval, Method, count_draws, number_clusters, resample, split_strata
from dontblink.firth import LogitError, check_design
from dontblink.newton import fit_replicates, prepare_rows, robust_errors, start_at
from dontblink.replicates import delete_one, interval_of, symmetric_p

_BLOCK = 90_000  # row weights held at once: 16 to 64 replicates, so that a pass stays in the cache


@dataclass(frozen=True, eq=False)
class LogitFit:
    """Coefficients and model-based standard errors, float64[k]; Firth's, if `separated` (then ML is infinite)."""

    coef: Floats
    se: Floats
    log_likelihood: float
    separated: bool


@dataclass(frozen=True, eq=False)
class LogitBootstrap:
    """Replicates of a logit: `coefficients` float64[n_boot, k], NaN in the degenerate ones (X without full rank there).

    `estimate` [k] is the fit on the data, Firth's if `data_separated`. `errors` float64[n_boot, k] and `error` [k] are
    cluster-robust standard errors (NaN in the columns that were not asked for). `jackknife` holds float64[n_h, k] per
    stratum, if asked for.
    """

    coefficients: Floats
    estimate: Floats
    separated: NDArray[np.bool_]
    n_separated: int
    n_degenerate: int
    n_clusters: int
    errors: Floats
    error: Floats
    jackknife: tuple[Floats, ...]
    data_separated: bool

    def interval(self, column: int, method: Method = "bca", confidence: float = 0.95) -> Interval:
        """Return the interval of one coefficient; BCa needs the jackknife, t the errors of that column."""
        return interval_of(
            float(self.estimate[column]),
            self.coefficients[:, column],
            self.n_clusters,
            jackknife=[part[:, column] for part in self.jackknife],
            error=float(self.error[column]),
            errors=self.errors[:, column],
            method=method,
            confidence=confidence,
        )

    def derive(
        self, function: Callable[[Floats], Floats], method: Method = "bca", confidence: float = 0.95
    ) -> list[Interval]:
        """Return one interval for each output of `function`, which maps coefficients [b, k] to [b, q]."""
        own, drawn = function(self.estimate[None])[0], function(self.coefficients)
        left_out = [function(part) for part in self.jackknife]
        return [
            interval_of(
                float(value),
                drawn[:, j],
                self.n_clusters,
                jackknife=[part[:, j] for part in left_out],
                method=method,
                confidence=confidence,
            )
            for j, value in enumerate(own)
        ]

    def p_value(self, column: int) -> float:
        """Return the bootstrap-t p-value of "this coefficient is 0"; needs the errors of that column."""
        return symmetric_p(
            float(self.estimate[column]),
            float(self.error[column]),
            self.coefficients[:, column],
            self.errors[:, column],
        )


def fit_logit(X: ArrayLike, y: ArrayLike) -> LogitFit:
    """Return the maximum-likelihood fit of logit P(y = 1) = X b, or Firth's where the data are separated.

    Raises
    ------
    LogitError
        For NaN, one class only, fewer rows than columns + 1, or columns that depend on each other.
    """
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
    n_boot: int = 10_000,
    seed: int = 0,
    *,
    strata: ArrayLike | None = None,
    errors_of: Sequence[int] = (),
    jackknife: bool = False,
    min_clusters: int = 10,
) -> LogitBootstrap:
    """Return the item-clustered bootstrap of a logit, items drawn with all their rows within each set of strata.

    Parameters
    ----------
    X, y : float[n, k], {0, 1}[n]
        X as it is fitted: give it a constant column or cell effects.
    cluster, strata : label[n]
        Item and cell of each row.
    errors_of : columns whose cluster-robust standard error each replicate needs (bootstrap-t)
    jackknife : leave each cluster out in turn as well (BCa)
    min_clusters : fewer raise LogitError

    Notes
    -----
    Newton from the estimate b0. The score and Hessian at b0 are sums over clusters, so the first step of all
    replicates is one matrix product with the draws. After it, with t = tanh(x b / 2) and row weights w (the draws of
    the row's cluster): 2 score = sum w (sign - t) x and 4 H = sum w (1 - t^2) x x'; the sums without t are matrix
    products with the draws again.
    """
    design, outcome = check_design(X, y)
    groups = number_clusters(cluster, strata)
    size, k = len(groups.labels), design.shape[1]
    if size < min_clusters or len(groups.row) != len(outcome):
        raise LogitError(
            f"{size} items for {len(outcome)} rows; resampling needs >= {min_clusters}, report a table alone"
        )
    rows, members = prepare_rows(design, outcome, groups.row), split_strata(groups.stratum)
    estimate, own = fit_replicates(rows, np.ones((1, size)), start_at(rows, np.zeros(k)))
    start = start_at(rows, estimate[0])
    chunk, columns = int(np.clip(_BLOCK // len(rows.x), 16, 64)), list(errors_of)
    beta, separated = np.empty((n_boot, k)), np.empty(n_boot, np.bool_)
    errors, error, done = np.full((n_boot, k), np.nan), np.full(k, np.nan), 0
    space = np.empty((4, chunk, len(rows.x)))
    for indices in resample(members, n_boot, seed, chunk):
        counts, block = count_draws(indices), slice(done, done := done + len(indices))
        beta[block], separated[block] = fit_replicates(rows, counts, start, space)
        if columns:
            errors[block, columns] = robust_errors(rows, counts, beta[block], columns)
    if columns:
        error[columns] = robust_errors(rows, np.ones((1, size)), estimate, columns)[0]
    left_out = [
        np.concatenate([fit_replicates(rows, part, start, space)[0] for part in _cut(weights, chunk)])
        for weights in (delete_one(members, size) if jackknife else [])
    ]
    return LogitBootstrap(
        beta / rows.scale,
        estimate[0] / rows.scale,
        separated,
        int(separated.sum()),
        int(np.isnan(beta[:, 0]).sum()),
        size,
        errors / rows.scale,
        error / rows.scale,
        tuple(part / rows.scale for part in left_out),
        bool(own[0]),
    )


def _cut(weights: Floats, size: int) -> list[Floats]:
    return [weights[k : k + size] for k in range(0, len(weights), size)]
