"""The difference of two shares that the same items decide: how often is it right under one condition, not the other?

Why: a knockout and its control answer the same items, so that most pairs agree and only the discordant ones speak. In:
two answers (true or false) a row and the item of each row. Out: the difference with Newcombe's interval, and McNemar's
exact p. An item with several rows counts once, by their mean, so that rows of one item never pass for independent ones.
Never: an interval of no width because no pair was discordant.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from dontblink.statistics.bootstrap import EstimateError


class PairedDifference(NamedTuple):
    """Share of the first less that of the second, over `n_items` items; of the discordant ones, how many for which."""

    estimate: float
    ci_low: float
    ci_high: float
    p: float
    n_items: int
    n_first_only: int
    n_second_only: int


def compare_pairs(
    first: ArrayLike, second: ArrayLike, items: ArrayLike, confidence: float = 0.95
) -> PairedDifference:
    """Return the difference of two paired shares, bool[n rows] each; `items` [n rows] names the item of each row.

    Interval: Newcombe (1998, Statistics in Medicine 17, 2635), method 10: Wilson intervals of both shares, squared and
    added with the corrected correlation of the pairs. Where no pair is discordant it is -+ the upper end of
    Clopper-Pearson for none of n. p: McNemar's exact test over items (the sign of the mean difference of each), 1
    without a discordant one. EstimateError for no rows, or unequal numbers of them.
    """
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    row, labels = pd.factorize(np.asarray(items))
    if not len(a) or not len(a) == len(b) == len(row):
        raise EstimateError(f"{len(a)} and {len(b)} answers of {len(row)} items; expected one of each a row, >= 1 row")
    n, weight = len(labels), 1 / np.bincount(row)[row]
    sign = np.sign(np.bincount(row, a.astype(float) - b))
    n_first, n_second = int((sign > 0).sum()), int((sign < 0).sum())
    p = float(binomtest(n_first, n_first + n_second).pvalue) if n_first + n_second else 1.0
    e, f, g, h = (float((weight * kind).sum()) for kind in (a & b, a & ~b, ~a & b, ~a & ~b))
    if f + g == 0:
        reach = float(proportion_confint(0, n, alpha=1 - confidence, method="beta")[1])
        return PairedDifference(0.0, -reach, reach, p, n, 0, 0)
    shares = ((e + f) / n, (e + g) / n)
    ends = [proportion_confint(n * share, n, alpha=1 - confidence, method="wilson") for share in shares]
    reaches = ((share - low, high - share) for share, (low, high) in zip(shares, ends, strict=True))
    (low_1, high_1), (low_2, high_2) = reaches
    spread, lean = np.sqrt((e + f) * (g + h) * (e + g) * (f + h)), e * h - f * g
    phi = 0.0 if spread == 0 else (max(lean - n / 2, 0) if lean > 0 else lean) / spread
    below = low_1**2 - 2 * phi * low_1 * high_2 + high_2**2
    above = high_1**2 - 2 * phi * high_1 * low_2 + low_2**2
    low, high = (f - g) / n - float(below) ** 0.5, (f - g) / n + float(above) ** 0.5
    return PairedDifference((f - g) / n, low, high, p, n, n_first, n_second)
