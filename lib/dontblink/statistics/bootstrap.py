"""Intervals and tests for statistics of items that repeat: the bootstrap that resamples items, not rows.

Why: every model answers the same items, so an interval over rows is too narrow. In: rows with the numbers that a
statistic adds up, or replicates that a rank statistic or a fit has made for itself, the cluster (item) and the stratum
(cell) of each row, and a `Resampling`. Out: `Interval` records, p-values, p-values adjusted over a family. A cluster is
drawn with ALL its rows, among the clusters that appear in the same set of strata: every cell keeps its size and a
cluster of several cells is drawn together. Never: a table or a cell by name; a replicate dropped in silence (a
degenerate one counts as -inf for the lower end and +inf for the upper end: it can only widen); a second definition of
a quantile, of BCa or of t; global randomness; a family of tests that shrinks because a member has no value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

from dontblink.errors import NamedError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Method = Literal["percentile", "bca", "t"]
Statistic = Callable[[Any], Any]
MIN_CLUSTERS = 10  # fewer items give no interval of a rank statistic or a fit
_CHUNK = 256  # replicates held at once: 256 x 3000 clusters of float64 are 6 MB; changes no result


class EstimateError(NamedError, ValueError):
    """Rows or options for which an estimate, an interval or a test does not exist; the message says why."""


@dataclass(frozen=True)
class Resampling:
    """How often items are resampled, by which seed, and how an interval is read from the replicates.

    `method`: "bca" (bias-corrected and accelerated), "percentile", or "t" (symmetric bootstrap-t). The draws depend on
    `n_replicates` and `seed` alone. Values out of range raise EstimateError.
    """

    n_replicates: int = 10_000
    seed: int = 0
    confidence: float = 0.95
    method: Method = "bca"

    def __post_init__(self) -> None:
        if self.method not in ("percentile", "bca", "t") or self.n_replicates < 1 or not 0 < self.confidence < 1:
            raise EstimateError(
                f"method {self.method!r}, {self.n_replicates} replicates, confidence {self.confidence}; "
                "expected percentile, bca or t, >= 1 replicate, a confidence in (0, 1)"
            )


STANDARD = Resampling()


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; `n_degenerate` of `n_replicates` had no defined statistic."""

    estimate: float
    ci_low: float
    ci_high: float
    n_clusters: int
    n_replicates: int
    n_degenerate: int
    method: str
    confidence: float

    def columns(self, name: str = "") -> dict[str, float]:
        """Return the estimate and its ends as columns: name, name_low, name_high, or estimate, ci_low, ci_high."""
        names = (name, f"{name}_low", f"{name}_high") if name else ("estimate", "ci_low", "ci_high")
        return dict(zip(names, (self.estimate, self.ci_low, self.ci_high), strict=True))


@dataclass(frozen=True)
class Clusters:
    """Rows numbered by cluster: `row` int64[n rows], `stratum` int64[G clusters], `labels` [G], sorted."""

    row: Ints
    stratum: Ints
    labels: NDArray[Any]


def number_clusters(clusters: ArrayLike, strata: ArrayLike | None = None) -> Clusters:
    """Number the clusters in sorted order; the stratum of a cluster is the set of strata it has rows in."""
    row, labels = pd.factorize(np.asarray(clusters), sort=True)
    if (row < 0).any():
        raise EstimateError(f"row {int(np.argmax(row < 0))}: no cluster label; give every row its item id")
    if len(labels) < 2:
        raise EstimateError(f"{len(labels)} cluster(s); resampling needs >= 2, report the value alone")
    stratum = np.zeros(len(labels), np.int64)
    if strata is not None:
        codes, names = pd.factorize(np.asarray(strata), sort=True)
        if len(codes) != len(row) or (codes < 0).any():
            raise EstimateError(f"{len(codes)} strata for {len(row)} rows, or a gap; give each row one")
        seen = np.zeros((len(labels), len(names)), bool)
        seen[row, codes] = True
        stratum = np.unique(seen, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return Clusters(row.astype(np.int64), stratum, np.asarray(labels))


def split_strata(stratum: ArrayLike) -> list[Ints]:
    """Return the cluster numbers of each stratum, strata numbered from 0."""
    codes = np.asarray(stratum, np.int64)
    return [np.flatnonzero(codes == h) for h in range(int(codes.max()) + 1)]


def resample(strata: Sequence[Ints], resampling: Resampling, chunk: int = _CHUNK) -> Iterator[Ints]:
    """Yield int64[b, G] cluster numbers drawn with replacement within each stratum, n_replicates rows in all.

    The draws do not depend on `chunk`. With one stratum they are those of `scipy.stats.bootstrap` for
    `numpy.random.default_rng(seed)`; stratum h > 0 has a generator of its own, seeded with (seed, h).
    """
    n_replicates, seed = resampling.n_replicates, resampling.seed
    generators = [np.random.default_rng([seed, h] if h else seed) for h in range(len(strata))]
    for start in range(0, n_replicates, chunk):
        size = min(chunk, n_replicates - start)
        yield np.concatenate(
            [
                members[rng.integers(0, len(members), (size, len(members)))]
                for members, rng in zip(strata, generators, strict=True)
            ],
            axis=1,
        )


def count_draws(indices: Ints) -> Floats:
    """Return float64[b, G]: how often each cluster occurs in each row of `indices` (int64[b, G])."""
    size, n = indices.shape
    flat = indices + np.arange(size, dtype=np.int64)[:, None] * n
    return np.bincount(flat.reshape(-1), minlength=size * n).reshape(size, n).astype(np.float64)


def divide(numerator: Any, denominator: Any) -> Any:
    """Return numerator / denominator, NaN (a degenerate replicate) where the denominator is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.real(denominator) > 0, numerator / denominator, np.nan)


def ratios(totals: Any) -> Any:
    """Statistic of k numerators and k denominators summed [..., 2 k] -> [..., k]: the ratios of the means."""
    return divide(*np.split(totals, 2, axis=-1))


def find_ties(ranked: Floats) -> tuple[Ints, Ints]:
    """Return int64[..., n] twice: the first and last place of each value's ties in rows sorted along the last axis."""
    changes, edge = ranked[..., 1:] != ranked[..., :-1], np.ones((*ranked.shape[:-1], 1), bool)
    place = np.arange(ranked.shape[-1], dtype=np.int64)
    if changes.all():  # no ties
        return (np.broadcast_to(place, ranked.shape),) * 2
    first = np.maximum.accumulate(np.where(np.concatenate([edge, changes], -1), place, 0), axis=-1)
    ends = np.where(np.concatenate([changes, edge], -1), place, len(place))
    return first, np.minimum.accumulate(ends[..., ::-1], axis=-1)[..., ::-1]


def check_labelled(
    values: ArrayLike,
    labels: ArrayLike,
    names: tuple[str, str] = ("score", "label"),
    wanted: str = "a finite number",
    valid: Callable[[Floats], NDArray[np.bool_]] = np.isfinite,
) -> tuple[Floats, Floats]:
    """Return both as float64[n]; raise EstimateError unless each row has a `valid` value and a label of 0 or 1."""
    numbers, outcome = np.asarray(values, np.float64), np.asarray(labels).astype(np.float64)
    if numbers.ndim != 1 or numbers.shape != outcome.shape or not len(numbers):
        found = f"{names[0]} of shape {numbers.shape}, {names[1]} {outcome.shape}"
        raise EstimateError(f"{found}; expected one of each a row, >= 1 row")
    if (bad := ~(valid(numbers) & np.isin(outcome, (0.0, 1.0)))).any():
        row = int(np.argmax(bad))
        found = f"row {row}: {names[0]} {numbers[row]}, {names[1]} {outcome[row]}"
        raise EstimateError(f"{found}; expected {wanted} and 0 or 1, drop the row and count it")
    return numbers, outcome


def bootstrap_ratio(
    numerator: ArrayLike,
    denominator: ArrayLike,
    clusters: ArrayLike,
    strata: ArrayLike | None = None,
    resampling: Resampling = STANDARD,
) -> Interval:
    """Return the interval of sum(numerator) / sum(denominator), float[n rows]: never a mean of ratios."""
    values = np.stack([np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)], axis=1)
    return bootstrap_sums(values, ratios, clusters, strata, resampling)[0]


def bootstrap_sums(
    values: ArrayLike,
    statistic: Statistic,
    clusters: ArrayLike,
    strata: ArrayLike | None = None,
    resampling: Resampling = STANDARD,
) -> list[Interval]:
    """Return one interval for each output of a statistic of column sums; all outputs share the draws.

    `values` float[n rows, k] are added up over the rows of the drawn clusters: replicates are count matrices times
    cluster sums. `statistic` maps totals [..., k] to [..., q], NaN where undefined (see `divide`). For method "t" it
    must be plain arithmetic, because its gradient is taken by a complex step.

    Notes
    -----
    BCa: z0 from the share of replicates below the estimate (ties half); a = sum(u^3) / 6 sum(u^2)^1.5,
    u = (jackknife mean - jackknife value) (1 - 1/n) in each stratum, in closed form (total minus own sum).
    Symmetric bootstrap-t: estimate -+ quantile(|t*|) * se, se linearised.
    """
    groups = number_clusters(clusters, strata)
    table, members = np.asarray(values, np.float64), split_strata(groups.stratum)
    if table.ndim != 2 or len(table) != len(groups.row):
        raise EstimateError(f"values of shape {table.shape}; expected ({len(groups.row)} rows, columns)")
    if not np.isfinite(table).all():
        row, column = (int(k) for k in np.argwhere(~np.isfinite(table))[0])
        raise EstimateError(
            f"row {row}, column {column}: {table[row, column]}; expected a finite number, "
            "drop the item and count it before resampling"
        )
    sums: Floats = np.stack([np.bincount(groups.row, column, len(groups.labels)) for column in table.T], axis=1)
    estimate = np.asarray(statistic(sums.sum(axis=0)), np.float64)
    if not np.isfinite(estimate).all():
        raise EstimateError(
            f"output {int(np.argmin(np.isfinite(estimate)))} is undefined on the data (its "
            "denominator is not positive); leave this cell out and say so"
        )
    by_t = resampling.method == "t"
    drawn, errors = [], []
    for indices in resample(members, resampling):
        counts = count_draws(indices)
        drawn.append(np.asarray(statistic(counts @ sums), np.float64))
        if by_t:
            errors.append(_standard_error(statistic, counts, sums, members))
    replicates = np.concatenate(drawn).T
    own, spread = np.full(len(estimate), np.nan), replicates
    if by_t:
        own = _standard_error(statistic, np.ones((1, len(sums))), sums, members)[0]
        spread = np.concatenate(errors).T
    left_out = [] if by_t else [np.asarray(statistic(_leave_one_out(sums, m))) for m in members if len(m) > 1]
    return [
        interval_of(
            value, replicates[j], len(sums), resampling,
            jackknife=[part[:, j] for part in left_out], error=own[j], errors=spread[j],
        )
        for j, value in enumerate(estimate)
    ]  # fmt: skip


def linearise_sums(
    values: ArrayLike, statistic: Statistic, clusters: ArrayLike, strata: ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """Return the outputs of a statistic of column sums and their linearised standard errors, float64[q] each.

    Arguments as in `bootstrap_sums` with method "t", whose standard error it is, without any resampling: a Wald test
    for simulations in which many items make it right.
    """
    groups, table = number_clusters(clusters, strata), np.asarray(values, np.float64)
    sums: Floats = np.stack([np.bincount(groups.row, column, len(groups.labels)) for column in table.T], axis=1)
    error = _standard_error(statistic, np.ones((1, len(sums))), sums, split_strata(groups.stratum))[0]
    return np.asarray(statistic(sums.sum(axis=0)), np.float64), error


def _leave_one_out(sums: Floats, members: Ints) -> Floats:
    """Totals [n_h, k] without each member, the rest of its stratum scaled back to the stratum's size."""
    own, n = sums[members], len(members)
    return cast(Floats, sums.sum(axis=0) - own.sum(axis=0) + (own.sum(axis=0) - own) * n / (n - 1))


def _standard_error(statistic: Statistic, counts: Floats, sums: Floats, strata: Sequence[Ints]) -> Floats:
    """Linearised standard errors [b, q]: gradient' (covariance of the totals, over strata) gradient."""
    k, totals = sums.shape[1], counts @ sums
    covariance = np.zeros((len(counts), k, k))
    for m in strata:
        own, n = sums[m], len(m)
        if n > 1:
            second = counts[:, m] @ (own[:, :, None] * own[:, None, :]).reshape(n, k * k)
            first = counts[:, m] @ own
            covariance += (second.reshape(-1, k, k) - first[:, :, None] * first[:, None, :] / n) * n / (n - 1)
    step = 1e-30
    gradient = np.stack([np.imag(statistic(totals + 1j * step * axis)) / step for axis in np.eye(k)], axis=-1)
    variance = np.einsum("bqj,bjl,bql->bq", gradient, covariance, gradient)
    return cast(Floats, np.sqrt(np.maximum(variance, 0.0)))


def interval_of(
    estimate: float,
    replicates: ArrayLike,
    n_clusters: int,
    resampling: Resampling,
    *,
    jackknife: Sequence[Floats] | None = None,
    error: float = np.nan,
    errors: ArrayLike | None = None,
) -> Interval:
    """Return the interval of `estimate` from its replicates (float[n_replicates], NaN where degenerate).

    BCa needs `jackknife`, the leave-one-cluster-out values float[n_h] of each stratum with more than one cluster; the
    symmetric bootstrap-t needs `error` and `errors`, the standard error of the estimate and of each replicate.
    """
    values, level = np.asarray(replicates, np.float64), resampling.confidence
    if resampling.method == "t":
        if errors is None or not np.isfinite(error):
            raise EstimateError(f"standard error {error}: bootstrap-t needs one for the estimate and each replicate")
        ends = _find_t_ends(estimate, error, values, np.asarray(errors, np.float64), level)
    else:
        levels = np.array([(1 - level) / 2, (1 + level) / 2])
        if resampling.method == "bca":
            if jackknife is None:
                raise EstimateError("no jackknife values: BCa needs one for each cluster; pass them or use percentile")
            levels = _find_bca_levels(estimate, values, jackknife, levels)
        missing = np.isnan(values)
        ends = (
            _quantile(np.where(missing, -np.inf, values), levels[0], "lower"),
            _quantile(np.where(missing, np.inf, values), levels[1], "higher"),
        )
    low, high, n_degenerate = float(ends[0]), float(ends[1]), int(np.isnan(values).sum())
    return Interval(float(estimate), low, high, n_clusters, len(values), n_degenerate, resampling.method, level)


def _find_t_ends(
    estimate: float, error: float, replicates: Floats, errors: Floats, confidence: float
) -> tuple[float, float]:
    if error == 0:  # every cluster says the same: nothing varies, whatever is drawn
        return estimate, estimate
    distance = np.abs(replicates - estimate)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(distance <= 1e-12 * abs(estimate), 0.0, distance / errors)
    reach = _quantile(np.where(np.isnan(t), np.inf, t), confidence, "higher") * error
    return estimate - reach, estimate + reach


def _find_bca_levels(estimate: float, replicates: Floats, jackknife: Sequence[Floats], tails: Floats) -> Floats:
    """Bias-corrected, accelerated quantile levels (Efron and Tibshirani 1993, equation 14.10)."""
    equal = np.isnan(replicates) | (np.abs(replicates - estimate) <= 1e-12 * abs(estimate))
    below = float((~equal & (replicates < estimate)).mean()) + float(equal.mean()) / 2
    half = 0.5 / len(replicates)  # all replicates on one side: the furthest bias that so many can show
    z0 = ndtri(np.clip(below, half, 1 - half))
    influence = [(part.mean() - part) * (1 - 1 / len(part)) for part in jackknife]
    cubes, squares = (sum(float((u**power).sum()) for u in influence) for power in (3, 2))
    if np.isnan(cubes):
        raise EstimateError(
            "the statistic is undefined without one of the clusters; use method 'percentile' or leave this cell out"
        )
    acceleration = cubes / (6 * squares**1.5) if squares > 0 else 0.0
    z = z0 + ndtri(tails)
    return cast(Floats, ndtr(z0 + z / (1 - acceleration * z)))


def _quantile(values: Floats, level: float, outward: Literal["lower", "higher"]) -> float:
    """Linear quantile; an order statistic, taken outward, where infinite values forbid interpolation."""
    return float(np.quantile(values, level, method="linear" if np.isfinite(values).all() else outward))


def symmetric_p(estimate: float, error: float, replicates: ArrayLike, errors: ArrayLike) -> float:
    """Return the two-sided bootstrap-t p-value of "the true value is 0": (1 + #{|t*| >= |t|}) / (1 + n_replicates).

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
    narrow (unless all values are equal, as for a rule that never acts: then it has no width). Fewer than two blocks, or
    a value that is not finite, raise EstimateError.
    """
    from scipy.stats import t  # half a second to load

    values = np.asarray(left_out, np.float64)
    if values.size < 2 or not np.isfinite(values).all() or not np.isfinite(estimate):
        raise EstimateError(f"estimate {estimate}, without each block {values}; expected two or more finite numbers")
    quantile = float(t.ppf((1 + confidence) / 2, values.size - 1))
    reach = math.sqrt((values.size - 1) ** 2 / values.size * values.var(ddof=1)) * quantile
    ends = (float(estimate - reach), float(estimate + reach))
    return Interval(float(estimate), *ends, n_clusters, values.size, 0, "block jackknife", confidence)


def permutation_p(drawn: Floats, observed: float) -> float:
    """Return the one-sided p of `observed` among permutations `drawn` float64[b]: (1 + #{d >= observed}) / (1 + b).

    A permutation that says what the data say is a tie, whatever the order of its sums.
    """
    return float((1 + (drawn >= observed - 1e-12).sum()) / (1 + len(drawn)))


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


def adjust_holm(p: ArrayLike) -> Floats:
    """Return Holm-adjusted p-values float64[n] (Holm 1979), by pingouin; NaN, or no number in [0, 1], is an error."""
    import pingouin  # it loads what draws

    given = np.asarray(p, np.float64)
    if not ((given >= 0) & (given <= 1)).all():
        raise EstimateError(f"p-values {given.tolist()}; expected numbers in [0, 1], one for each declared member")
    adjusted: Floats = pingouin.multicomp(given, method="holm")[1]
    return adjusted
