"""Negative control and cross-check of the collapse: what the estimates are held against in notebook 02.

In: pairs of first and last masses, or attention maps with their evidence coverage, of the test split. Out: small
tables. Never: an estimate that notebook 02 reports as its result.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.tools.sm_exceptions import ConvergenceWarning

from dontblink.bootstrap import Floats
from dontblink.collapse import CollapseError


def log_ratio_check(pairs: pd.DataFrame, head_set: str, mass: str = "evidence_mass") -> pd.DataFrame:
    """Cross-check: the mean over items of log(last / first) per cell, by a paired t and by a mixed model.

    Within a cell an item gives one log-ratio, so a mixed model of log mass on the two ends IS the paired t.
    Over cells items repeat: MixedLM fits log-ratio ~ cell with a random intercept per item. A response with a
    zero mass has no log-ratio: `n_zero` counts them. Estimates and ends are in nats.
    """
    rows = pairs[pairs["head_set"] == head_set]
    positive = (rows[f"{mass}_first"] > 0) & (rows[f"{mass}_last"] > 0)
    used = rows[positive].assign(y=lambda t: np.log(t[f"{mass}_last"] / t[f"{mass}_first"]))
    design = pd.get_dummies(used["model"] + "\n" + used["benchmark"], dtype=float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an item_sd of 0 is a result
        fit = MixedLM(used["y"].to_numpy(float), design.to_numpy(), groups=used["item_id"].to_numpy()).fit()
    low, high = np.asarray(fit.conf_int())[: design.shape[1]].T
    results = []
    for j, cell in enumerate(design):
        model, benchmark = cell.split("\n")
        test = stats.ttest_1samp(used["y"][design[cell] > 0], 0.0)
        interval = test.confidence_interval()
        skipped = rows[~positive & (rows["model"] == model) & (rows["benchmark"] == benchmark)]
        results.append(
            {
                "model": model,
                "benchmark": benchmark,
                "n_items": int(test.df) + 1,
                "n_zero": len(skipped),
                "estimate": float(used["y"][design[cell] > 0].mean()),
                "ci_low": interval.low,
                "ci_high": interval.high,
                "p": test.pvalue,
                "mixed_estimate": fit.fe_params[j],
                "mixed_low": low[j],
                "mixed_high": high[j],
                "item_sd": float(fit.cov_re[0, 0]) ** 0.5,
                "converged": bool(fit.converged),
            }
        )
    return pd.DataFrame(results)


def shuffled_lift(maps: Floats, coverage: Floats, *, n_permutations: int = 1_000, seed: int = 0) -> dict[str, float]:
    """Negative control: the lift of the evidence, and the lift when its boxes are dealt to other items.

    `maps` (attention over the image tokens, any scale) and `coverage` are float[n items, M], all on one grid.
    Lift = mean evidence share / mean evidence fraction. Every deal is one cycle: no item keeps its boxes. The
    shuffled lift is 1 unless attention and boxes share a favourite place in the image. Returns lift,
    shuffled_lift (mean), shuffled_low, shuffled_high (95 % of the deals), p (one-sided) and n_items.
    """
    total = maps.sum(axis=1, keepdims=True)
    if maps.shape != coverage.shape or len(maps) < 2 or not (total > 0).all() or not coverage.sum() > 0:
        raise CollapseError(
            f"maps {maps.shape}, coverage {coverage.shape}; expected one shape, two items or "
            "more, mass in each map and some evidence"
        )
    share, expected = maps / total, coverage.sum() / maps.shape[1]
    rng = np.random.default_rng(seed)
    orders = (rng.permutation(len(maps)) for _ in range(n_permutations))
    deals = np.array([(share[order] * coverage[np.roll(order, 1)]).sum() for order in orders]) / expected
    lift = float((share * coverage).sum() / expected)
    low, high = np.quantile(deals, [0.025, 0.975])
    return {
        "lift": lift,
        "shuffled_lift": float(deals.mean()),
        "shuffled_low": float(low),
        "shuffled_high": float(high),
        "p": float((1 + (deals >= lift).sum()) / (1 + n_permutations)),
        "n_items": float(len(maps)),
    }
