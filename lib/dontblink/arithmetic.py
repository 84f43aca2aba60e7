"""Arithmetic of reported numbers: what must be true of the counts behind them, without any data.

Why it exists: a percentage point at 90 % coverage is a whole number of answers divided by a whole number, a fall of
attention can be mere dilution, and a handful of samples bounds nothing; each can be said from the report alone. In:
reported numbers. Out: tidy tables. Never: a number of ours.
"""

from __future__ import annotations

import math
from fractions import Fraction

import pandas as pd
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from dontblink.risk_coverage import count_accepted


def explain_points(points: float, decimals: int, coverage: float, n_low: int, n_high: int) -> pd.DataFrame:
    """Return every number of saved errors that a reported gain allows, with the item counts that fit it.

    With k = ceil(coverage x n) accepted answers, saving s errors cuts the risk by s / k. Columns: saved_errors,
    n_low, n_high (answered items), accepted_low, accepted_high, n_counts (how many n between them fit).

    Parameters
    ----------
    points
        The reported gain in percentage points, rounded to `decimals`.
    n_low, n_high
        The item counts that are tried, both included.
    """
    half = Fraction(1, 2 * 10**decimals)
    low, high = Fraction(str(points)) - half, Fraction(str(points)) + half
    fits: dict[int, list[int]] = {}
    for n in range(n_low, n_high + 1):
        k = count_accepted(n, coverage)
        for saved in range(math.floor(low * k / 100), math.ceil(high * k / 100) + 1):
            if low <= Fraction(100 * saved, k) < high:
                fits.setdefault(saved, []).append(n)
    return pd.DataFrame(
        {
            "saved_errors": saved,
            "n_low": min(counts),
            "n_high": max(counts),
            "accepted_low": count_accepted(min(counts), coverage),
            "accepted_high": count_accepted(max(counts), coverage),
            "n_counts": len(counts),
        }
        for saved, counts in sorted(fits.items())
    )


def explain_by_dilution(fall: float, bins: int) -> float:
    """Return the length of the reasoning, in prompts, at which a uniform look falls by `fall`; inf if it never does.

    A uniform look gives a fixed set of tokens the share 1 / context. Between the middles of the first and the last of
    K bins the context grows from P + T / 2K to P + (1 - 1 / 2K) T, with P prompt and T reasoning tokens:

        1 / (1 - fall) = (1 + (1 - 1/2K) T/P) / (1 + T/P / 2K)
    """
    growth, first = 1 / (1 - fall), 1 / (2 * bins)
    rest = (1 - first) - growth * first
    return (growth - 1) / rest if rest > 0 else math.inf


def bound_small_counts(counts: list[int], confidence: float) -> pd.DataFrame:
    """Return what n samples of which none is wrong, or half, say about an error rate (Clopper-Pearson)."""
    rows = []
    for n in counts:
        _, none_high = proportion_confint(0, n, alpha=1 - confidence, method="beta")
        low, high = proportion_confint(n // 2, n, alpha=1 - confidence, method="beta")
        rows.append({"n": n, "none_high": float(none_high), "half_low": float(low), "half_high": float(high)})
    return pd.DataFrame(rows)


def sign_probability(n_cells: int) -> float:
    """Return the two-sided p of all n cells moving one way under a fair coin, if the cells were independent."""
    return float(binomtest(n_cells, n_cells).pvalue)
