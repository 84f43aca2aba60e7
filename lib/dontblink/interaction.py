"""Does low vision change what high entropy means? logit P(correct) = cell + b_E zE + b_V zV + b_EV zE zV.

Why: the paper's central claim is the sign of b_EV by task; a coefficient is not a risk, so its effect is also given on
the probability scale and as a table of quadrants. In: the items table of the TEST split. Out: one row per scope (cell,
benchmark, pooled) and term. E is an entropy in nats and V an attention mass, both standardised WITHIN the cell (so they
say how an item compares with its own cell); every cell has an intercept of its own. Never: a dropped replicate, a plain
Wald interval, or an interval below about 20 items.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import ArrayLike
from scipy.special import expit
from statsmodels.stats.proportion import proportion_confint

from dontblink.bootstrap import Floats, Interval, Method
from dontblink.cells import count_rows, keep_usable, list_scopes, select_rows, standardise
from dontblink.firth import FirthFit, LogitError, check_design, firth_logit
from dontblink.logit import LogitBootstrap, LogitFit, bootstrap_logit, fit_logit

__all__ = [
    "Design",
    "FirthFit",
    "LogitBootstrap",
    "LogitError",
    "LogitFit",
    "TERMS",
    "bootstrap_logit",
    "build_design",
    "cross_check",
    "firth_logit",
    "fit_logit",
    "interaction_table",
    "marginal_effects",
    "quadrant_table",
]

ENTROPY, VISION = "full_entropy_nats", "vision_evidence_mass"
TERMS = ("entropy", "vision", "entropy:vision")


@dataclass(frozen=True, eq=False)
class Design:
    """X float64[n, k] = zE, zV, zE zV, covariates, one indicator per cell; y [n]; item and cell of each row."""

    x: Floats
    y: Floats
    names: tuple[str, ...]
    cluster: Any
    cell: Any

    @property
    def n_base(self) -> int:
        """Number of columns before the covariates and the cells."""
        return len(TERMS)


def build_design(
    rows: pd.DataFrame, covariates: Sequence[str] = (), *, entropy: str = ENTROPY, vision: str = VISION
) -> Design:
    """Return the design of rows of `select_rows`; raise CellError if E or V is constant in a cell.

    Covariates are standardised within the cell too; one that is constant in a cell adjusts nothing there, one that is
    constant in all is left out.
    """
    cell = rows["cell"].to_numpy()
    e, v = (standardise(rows[name], cell, name) for name in (entropy, vision))
    extra = {name: standardise(rows[name], cell, name, constant="zero") for name in covariates}
    extra = {name: values for name, values in extra.items() if values.any()}
    cells = pd.get_dummies(rows["cell"], dtype=np.float64)
    x = np.column_stack([e, v, e * v, *extra.values(), cells.to_numpy()])
    names = (*TERMS, *extra, *(str(name).replace("\n", " x ") for name in cells))
    return Design(x, rows["correct"].to_numpy(np.float64), names, rows["cluster"].to_numpy(), cell)


def interaction_table(
    items: pd.DataFrame,
    covariates: Sequence[str] = (),
    *,
    entropy: str = ENTROPY,
    vision: str = VISION,
    scopes: Sequence[str] = ("cell", "benchmark", "pooled"),
    n_boot: int = 10_000,
    seed: int = 0,
    method: Method = "bca",
    confidence: float = 0.95,
    min_items: int = 20,
    effect_at: float = 1.0,
) -> pd.DataFrame:
    """Return the coefficients, their marginal effects and cross-checks, a row per scope and term.

    Columns: scope, model, benchmark, n_rows, n_items, n_wrong (all rows of the scope), n_left_out (rows of the table
    without a number), n_cells (used), adjusted_for, term, unit (log-odds per sd, or probability), estimate, ci_low,
    ci_high, method, p (symmetric bootstrap-t), n_replicates, n_separated (refitted by Firth), n_degenerate, and for
    coefficients separated (Firth on the data themselves), sandwich_se, gee_estimate, gee_se. The last terms are those
    of `marginal_effects`. A cell below `min_items` items or of one class is left out; a scope without a cell keeps its
    counts alone.
    """
    rows = select_rows(items, [entropy, vision, *covariates])
    results: list[dict[str, Any]] = []
    for scope in list_scopes(rows, scopes):
        used = keep_usable(scope, min_items)
        facts = count_rows(scope) | {
            "n_left_out": rows.attrs["n_left_out"],
            "n_cells": used["cell"].nunique(),
            "adjusted_for": ", ".join(covariates),
        }
        if not len(used):
            results.append(facts | {"term": "entropy:vision"})
            continue
        design = build_design(used, covariates, entropy=entropy, vision=vision)
        n_terms = len(TERMS)
        drawn = bootstrap_logit(
            design.x, design.y, design.cluster, n_boot, seed, strata=design.cell,
            errors_of=range(n_terms), jackknife=method == "bca",
        )  # fmt: skip
        counts = {"n_separated": drawn.n_separated}
        checks = cross_check(design.x, design.y, design.cluster)
        for j, term in enumerate(TERMS):
            row = _show(drawn.interval(j, method, confidence)) | {"term": term, "unit": "log-odds per sd"}
            row |= {"p": drawn.p_value(j), "separated": bool(np.isnan(checks["sandwich_se"][0]))}
            results.append(facts | counts | row | checks.iloc[j].to_dict())
        effects = marginal_effects(design, drawn, at=effect_at, method=method, confidence=confidence)
        for term, interval in effects.items():
            results.append(facts | counts | _show(interval) | {"term": term, "unit": "probability"})
    return pd.DataFrame(results)


def _show(interval: Interval) -> dict[str, Any]:
    columns = ("estimate", "ci_low", "ci_high", "method", "n_replicates", "n_degenerate")
    return {name: getattr(interval, name) for name in columns}


def marginal_effects(
    design: Design, drawn: LogitBootstrap, *, at: float = 1.0, method: Method = "bca", confidence: float = 0.95
) -> dict[str, Interval]:
    """Return effects on P(correct), averaged over the rows of the design with their own cell and covariates.

    d(v) = mean of P(zE = +at, zV = v) - P(zE = -at, zV = v), what two `at` standard deviations of entropy cost at that
    level of vision. `effect_at_low_vision` = d(-at), `effect_at_high_vision` = d(+at), and `effect_difference` =
    d(+at) - d(-at): the interaction as a difference of risks. For t, give the jackknife and it is BCa.
    """
    rest, weight = np.unique(design.x[:, design.n_base :], axis=0, return_counts=True)
    weight = weight / weight.sum()

    def effects(coefficients: Floats) -> Floats:
        base = coefficients[:, design.n_base :] @ rest.T
        cost = []
        for v in (-at, at):
            ends = [coefficients[:, : design.n_base] @ np.array([e, v, e * v]) for e in (-at, at)]
            low, high = (expit(base + end[:, None]) @ weight for end in ends)
            cost.append(high - low)
        return np.stack([cost[0], cost[1], cost[1] - cost[0]], axis=1)

    chosen: Method = "percentile" if not drawn.jackknife else "bca" if method == "t" else method
    names = ("effect_at_low_vision", "effect_at_high_vision", "effect_difference")
    return dict(zip(names, drawn.derive(effects, chosen, confidence), strict=True))


def cross_check(X: ArrayLike, y: ArrayLike, cluster: ArrayLike) -> pd.DataFrame:
    """Return, per column of X, statsmodels' cluster sandwich and GEE: sandwich_se, gee_estimate, gee_se, gee_rho.

    The working correlation is exchangeable, or independent where no cluster has two rows (rho is then NaN). All NaN
    under separation, where statsmodels only warns and its numbers mean nothing.
    """
    design, outcome = check_design(X, y)
    codes = np.unique(np.asarray(cluster), return_inverse=True)[1]
    columns = ["sandwich_se", "gee_estimate", "gee_se", "gee_rho"]
    if fit_logit(design, outcome).separated:
        return pd.DataFrame(np.nan, range(design.shape[1]), columns)
    order = np.argsort(codes, kind="stable")
    design, outcome, codes = design[order], outcome[order], codes[order]
    plain = sm.Logit(outcome, design).fit(disp=0, cov_type="cluster", cov_kwds={"groups": codes})
    repeated = np.bincount(codes).max() > 1
    structure = sm.cov_struct.Exchangeable() if repeated else sm.cov_struct.Independence()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        gee = sm.GEE(outcome, design, groups=codes, family=sm.families.Binomial(), cov_struct=structure).fit()
    rho = float(structure.dep_params) if repeated else np.nan
    numbers = (np.asarray(values, np.float64) for values in (plain.bse, gee.params, gee.bse))
    return pd.DataFrame(dict(zip(columns, numbers, strict=False))).assign(gee_rho=rho)


def quadrant_table(
    items: pd.DataFrame,
    *,
    entropy: str = ENTROPY,
    vision: str = VISION,
    share: float = 0.5,
    scopes: Sequence[str] = ("cell", "benchmark", "pooled"),
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return risk (share wrong) by low/high entropy x low/high vision, with counts and Wilson intervals.

    Low is at or below the `share` quantile of the cell (an order statistic: no value between two rows), high is above
    the 1 - `share` quantile; at 0.5 every row is in a quadrant, at less only the extremes are. Four rows a scope:
    entropy_level, vision_level, n, n_quadrant_wrong, risk (NaN if n = 0), ci_low, ci_high. Wilson takes rows as
    independent: exact within a cell; over several models of the same items, read the interval of a cell.
    """
    if not 0 < share <= 0.5:
        raise LogitError(f"share {share}; expected a number in (0, 0.5], the part of a cell that is called low")
    rows = select_rows(items, [entropy, vision])
    for name, column in (("entropy_level", entropy), ("vision_level", vision)):
        by_cell = rows.groupby("cell")[column]
        low = by_cell.transform(lambda x: np.quantile(x, share, method="inverted_cdf"))
        high = by_cell.transform(lambda x: np.quantile(x, 1 - share, method="inverted_cdf"))
        rows[name] = np.select([rows[column] <= low, rows[column] > high], ["low", "high"], "middle")
    results = []
    for scope in list_scopes(rows, scopes):
        facts = count_rows(scope) | {"n_left_out": rows.attrs["n_left_out"], "share": share}
        for e in ("low", "high"):
            for v in ("low", "high"):
                wrong = ~scope["correct"][(scope["entropy_level"] == e) & (scope["vision_level"] == v)]
                n, bad = len(wrong), int(wrong.sum())
                ends = proportion_confint(bad, n, alpha=1 - confidence, method="wilson") if n else (0.0, 1.0)
                row: dict[str, Any] = {"entropy_level": e, "vision_level": v, "n": n, "n_quadrant_wrong": bad}
                row |= {"risk": bad / n if n else np.nan, "ci_low": float(ends[0]), "ci_high": float(ends[1])}
                results.append(facts | row)
    return pd.DataFrame(results)
