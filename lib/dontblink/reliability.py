"""Does a predicted probability mean what it says: reliability curves, calibration errors, Brier scores.

Why: a score can rank answers well and still promise the wrong share of correct ones. In: probabilities that were
FITTED ON OTHER ITEMS (`transfer.predict_rows`: the calibration split) and the test rows that they are judged on. Out:
curves and a table. Never: a probability judged on the items that it was fitted on, or a calibration error without the
name of its bin rule and what it would be under perfect calibration.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint

from dontblink.bootstrap import Floats, Ints, bootstrap_sums
from dontblink.cells import count_rows, list_scopes
from dontblink.messages import NamedError

BinRule = Literal["equal_width", "equal_mass"]
BIN_RULES: tuple[BinRule, ...] = ("equal_width", "equal_mass")


class ReliabilityError(NamedError, ValueError):
    """Probabilities that support no estimate; the message says which row and what to do."""


def reliability_curve(
    probability: ArrayLike,
    correct: ArrayLike,
    n_bins: int = 10,
    rule: BinRule = "equal_width",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return a row per bin that holds rows: bin, low, high, n, mean_probability, share_correct, ci_low, ci_high.

    Parameters
    ----------
    probability : float[n] in [0, 1]
        Predicted probability that the answer is correct.
    rule : {"equal_width", "equal_mass"}
        Equal width: [k / K, (k + 1) / K), the last one closed. Equal mass: bin floor(K r / n) with r the number of
        rows of a smaller probability, so that equal probabilities share a bin whatever the order of the rows; low and
        high are then the smallest and largest probability in it.

    Notes
    -----
    The interval is Wilson's for the share of correct rows: it takes rows as independent (one model at a time).
    """
    values, labels = _check_probabilities(probability, correct)
    bins = _assign_bins(values, n_bins, rule)
    results = []
    for k in np.unique(bins):
        own = bins == k
        count, right = int(own.sum()), int(labels[own].sum())
        low, high = proportion_confint(right, count, alpha=1 - confidence, method="wilson")
        ends = (k / n_bins, (k + 1) / n_bins) if rule == "equal_width" else (values[own].min(), values[own].max())
        results.append((int(k), *ends, count, values[own].mean(), right / count, low, high))
    names = ["bin", "low", "high", "n", "mean_probability", "share_correct", "ci_low", "ci_high"]
    return pd.DataFrame(results, columns=names)


def expected_calibration_error(
    probability: ArrayLike, correct: ArrayLike, n_bins: int = 10, rule: BinRule = "equal_width"
) -> float:
    """Return sum over bins of n_k / n |mean probability - share correct|; see `reliability_curve` for the rules.

    It depends on the bins and is biased upwards at small n: compare at equal n and bins only.
    """
    values, labels = _check_probabilities(probability, correct)
    bins = _assign_bins(values, n_bins, rule)
    return float(np.abs(np.bincount(bins, values - labels)).sum() / len(values))


def calibration_table(
    rows: pd.DataFrame,
    n_bins: int = 10,
    *,
    n_boot: int = 10_000,
    n_draws: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return how well the probabilities of `transfer.predict_rows` hold, per cell, per benchmark and pooled.

    Columns: the counts of the scope, brier, brier_constant (everyone promised the accuracy on the items of the fit),
    estimate = brier_constant - brier (> 0: better than the constant) with ci_low and ci_high (item-clustered BCa),
    and per bin rule ece_RULE, ece_calibrated_RULE and ece_calibrated_high_RULE: the mean and the upper end of `n_draws`
    draws of labels from the probabilities themselves, what perfect calibration would show at this n.
    """
    _check_probabilities(rows["probability"], rows["correct"])
    rng, results = np.random.default_rng(seed), []
    for scope in list_scopes(rows):
        correct = scope["correct"].to_numpy(np.float64)
        probability, constant = (scope[name].to_numpy(np.float64) for name in ("probability", "constant"))
        brier, plain = (probability - correct) ** 2, (constant - correct) ** 2
        [gain] = bootstrap_sums(
            np.column_stack([plain - brier, np.ones(len(brier))]),
            lambda totals: (totals[..., 0] / totals[..., 1])[..., None],
            scope["cluster"],
            scope["cell"],
            n_replicates=n_boot,
            confidence=confidence,
            seed=seed,
        )
        facts = count_rows(scope) | {"brier": brier.mean(), "brier_constant": plain.mean()}
        facts |= {name: getattr(gain, name) for name in ("estimate", "ci_low", "ci_high")}
        drawn = rng.random((n_draws, len(scope))) < probability
        for rule in BIN_RULES:
            null = [expected_calibration_error(probability, labels, n_bins, rule) for labels in drawn]
            facts[f"ece_{rule}"] = expected_calibration_error(probability, correct, n_bins, rule)
            facts[f"ece_calibrated_{rule}"] = np.mean(null)
            facts[f"ece_calibrated_high_{rule}"] = np.quantile(null, (1 + confidence) / 2)
        results.append(facts)
    return pd.DataFrame(results)


def _check_probabilities(probability: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    values, labels = np.asarray(probability, np.float64), np.asarray(correct).astype(np.float64)
    if values.ndim != 1 or values.shape != labels.shape or not len(values):
        raise ReliabilityError(
            f"probabilities {values.shape}, labels {labels.shape}; expected one of each a row, >= 1 row"
        )
    bad = ~((values >= 0) & (values <= 1) & np.isin(labels, (0.0, 1.0)))
    if bad.any():
        row = int(np.argmax(bad))
        raise ReliabilityError(
            f"row {row}: probability {values[row]}, correct {labels[row]}; expected [0, 1] and 0 or 1, "
            "drop the row and count it"
        )
    return values, labels


def _assign_bins(values: Floats, n_bins: int, rule: str) -> Ints:
    if n_bins < 1 or rule not in ("equal_width", "equal_mass"):
        raise ReliabilityError(f"{n_bins} bins, rule {rule!r}; expected >= 1 bin, equal_width or equal_mass")
    if rule == "equal_width":
        # edges as k / K: 0.3 lies in [0.3, 0.4), which 3 * 0.1 would not say
        bins = np.searchsorted(np.arange(n_bins + 1) / n_bins, values, "right") - 1
        return np.minimum(bins, n_bins - 1).astype(np.int64)
    smaller = np.searchsorted(np.sort(values), values, "left")
    return (n_bins * smaller // len(values)).astype(np.int64)
