"""Intervals from replicates that a rank statistic or a model fit has made for itself.

Why: `bootstrap.bootstrap_sums` draws and evaluates functions of column sums; an AUROC and a logit are not such
functions, but their intervals must mean the same. In: the estimate, its replicates, and what the method needs (the
jackknife for BCa, standard errors for t). Out: `Interval` records and a p-value. Never: a second definition of a
quantile, of BCa, or of what a degenerate replicate does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from dontblink.bootstrap import (
    BootstrapError,
    Floats,
    Interval,
    Ints,
    Method,
    check_options,
    make_interval,
    quantile_ends,
    t_ends,
)


def interval_of(
    estimate: float,
    replicates: ArrayLike,
    n_clusters: int,
    *,
    jackknife: Sequence[Floats] = (),
    error: float = np.nan,
    errors: ArrayLike | None = None,
    method: Method = "bca",
    confidence: float = 0.95,
) -> Interval:
    """Return the interval of `estimate` from its replicates (float[n_boot], NaN where degenerate).

    Parameters
    ----------
    jackknife : sequence of float[n_h]
        Leave-one-cluster-out values of each stratum with more than one cluster; BCa needs them.
    error, errors : float and float[n_boot]
        Standard error of the estimate and of each replicate; the symmetric bootstrap-t needs them.

    Raises
    ------
    BootstrapError
        If the options are unusable, or what the method needs is missing.
    """
    values = np.asarray(replicates, np.float64)
    check_options(method, len(values), confidence)
    if method == "t":
        if errors is None or not np.isfinite(error):
            raise BootstrapError(f"standard error {error}: bootstrap-t needs one for the estimate and each replicate")
        ends = t_ends(estimate, error, values, np.asarray(errors, np.float64), confidence)
    elif method == "bca" and not jackknife:
        raise BootstrapError("no jackknife values: BCa needs one for each cluster; pass them or use 'percentile'")
    else:
        ends = quantile_ends(estimate, values, list(jackknife), method, confidence)
    return make_interval(estimate, ends, n_clusters, values, method, confidence)


def symmetric_p(estimate: float, error: float, replicates: ArrayLike, errors: ArrayLike) -> float:
    """Return the two-sided bootstrap-t p-value of "the true value is 0": (1 + #{|t*| >= |t|}) / (1 + n_boot).

    t = estimate / error and t* = (replicate - estimate) / its error; a degenerate replicate counts as extreme. It is
    the level at which the symmetric bootstrap-t interval ends at 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        drawn = np.abs(np.asarray(replicates, np.float64) - estimate) / np.asarray(errors, np.float64)
        own = np.abs(np.float64(estimate) / error)
    return float((1 + (~(drawn < own)).sum()) / (1 + drawn.size))


def block_interval(estimate: float, left_out: ArrayLike, n_clusters: int, confidence: float = 0.95) -> Interval:
    """Return the delete-a-block jackknife interval of any statistic: estimate -+ t(G - 1) se.

    se^2 = (G - 1) / G sum (v_b - mean v)^2, v_b (float[G]) the statistic without block b. By the inequality of Efron
    and Stein (1981, Annals of Statistics 9) it is on average no smaller than the variance at the size of the rest: a
    statistic that fits something to the data, such as a threshold, gets an interval that is rather too wide than too
    narrow (unless all values are equal, as for a rule that never acts: then it has no width).

    Raises
    ------
    BootstrapError
        For fewer than two blocks, or a value that is not finite.
    """
    values = np.asarray(left_out, np.float64)
    if values.size < 2 or not np.isfinite(values).all() or not np.isfinite(estimate):
        raise BootstrapError(f"estimate {estimate}, without each block {values}; expected two or more finite numbers")
    reach = math.sqrt((values.size - 1) ** 2 / values.size * values.var(ddof=1)) * float(
        stats.t.ppf((1 + confidence) / 2, values.size - 1)
    )
    ends = (float(estimate - reach), float(estimate + reach))
    return make_interval(estimate, ends, n_clusters, values, "block jackknife", confidence)


def delete_one(strata: Sequence[Ints], n_clusters: int) -> list[Floats]:
    """Return, per stratum with n_h > 1 clusters, weights float64[n_h, G] that leave out one cluster each.

    The rest of its stratum is scaled back to the stratum's size, n_h / (n_h - 1), as in `bootstrap_sums`.
    """
    weights = []
    for members in strata:
        if (n := len(members)) > 1:
            one = np.ones((n, n_clusters))
            one[:, members] = n / (n - 1)
            one[np.arange(n), members] = 0.0
            weights.append(one)
    return weights
