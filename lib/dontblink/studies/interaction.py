"""Does low vision change what low entropy means? logit P(correct) = cell + b_E zE + b_V zV + b_EV zE zV.

Why: the paper's central claim is the sign of b_EV by task. b_EV < 0: entropy costs more where vision is high, and low
entropy promises less where vision is low. A coefficient is not a risk, so its effect is also given on the probability
scale, and as a table of counts, which assumes no model and shows how few answers an extreme quadrant holds (the
hazardous one of the paper is low entropy with low vision). In: the items table of the TEST split. Out: a row per scope
(cell, benchmark, task type, pooled) and term, the surface that the fit draws, risks by quadrant with Wilson intervals,
and the difference that low vision makes at one level of entropy. E is an entropy in nats and V an attention mass, both
standardised WITHIN the cell, once (so they say how an item compares with its own cell), and levels are those of the
item's own cell; every cell has an intercept of its own, the slopes are shared by the cells of a scope. Never: a dropped
replicate, a plain Wald interval, a risk without its counts, a cause (attention is observed, not set), or an interval
below about 20 items.
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
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from dontblink.statistics import bootstrap
from dontblink.statistics.bootstrap import STANDARD, EstimateError, Floats, Interval, Method, Resampling
from dontblink.statistics.firth import check_design
from dontblink.statistics.logit import LogitBootstrap, bootstrap_logit, fit_logit
from dontblink.studies.cells import (
    ENTROPY,
    SCOPES,
    VISION,
    count_rows,
    each_scope,
    keep_usable,
    name_cell,
    select_rows,
    standardise,
)

TERMS = ("entropy", "vision", "entropy:vision")
EFFECTS = (
    "effect_at_low_vision",
    "effect_at_high_vision",
    "effect_difference",
    "difference_without_interaction",
    "difference_by_interaction",
)
BY_T = Resampling(method="t")
_BLOCK = 500_000  # probabilities held at once


@dataclass(frozen=True, eq=False)
class Design:
    """X float64[n, k] = zE, zV, zE zV, covariates, one indicator per cell; y [n]; item and cell of each row."""

    x: Floats
    y: Floats
    names: tuple[str, ...]
    cluster: Any
    cell: Any

    @property
    def rest(self) -> Floats:
        """Columns of the covariates and the cells, float64[n, k - 3]."""
        return self.x[:, len(TERMS) :]


def build_design(
    rows: pd.DataFrame,
    covariates: Sequence[str] = (),
    *,
    entropy: str = ENTROPY,
    vision: str = VISION,
    flexible: bool = False,
) -> Design:
    """Return the design of rows of `select_rows`; raise EstimateError if E or V is constant in a cell.

    Covariates are standardised within the cell too; one that is constant in a cell adjusts nothing there, one that is
    constant in all is left out. `flexible` adds zE^2, zV^2 and the product of each covariate with zE and with zV: b_EV
    also picks up curvature where E and V go together, and a covariate that changes the slope of E or V.
    """
    cell = rows["cell"].to_numpy()
    e, v = (standardise(rows[name], cell, name) for name in (entropy, vision))
    extra = {name: standardise(rows[name], cell, name, constant="zero") for name in covariates}
    if flexible:
        own = {"entropy": e, "vision": v}
        products = {f"{name}:{other}": x * z for name, x in extra.items() for other, z in own.items()}
        extra |= {"entropy^2": e * e, "vision^2": v * v} | products
    extra = {name: values for name, values in extra.items() if values.any()}
    cells = pd.get_dummies(rows["cell"], dtype=np.float64)
    x = np.column_stack([e, v, e * v, *extra.values(), cells.to_numpy()])
    names = (*TERMS, *extra, *map(name_cell, cells))
    return Design(x, rows["correct"].to_numpy(np.float64), names, rows["cluster"].to_numpy(), cell)


def interaction_table(
    items: pd.DataFrame,
    covariates: Sequence[str] = (),
    *,
    entropy: str = ENTROPY,
    vision: str = VISION,
    flexible: bool = False,
    scopes: Sequence[str] = SCOPES,
    resampling: Resampling = BY_T,
    min_items: int = 20,
    effect_at: float = 1.0,
    brief: bool = False,
) -> pd.DataFrame:
    """Return the coefficients, their marginal effects and cross-checks, a row per scope and term.

    Columns: scope, model, benchmark, n_rows, n_items, n_wrong (all rows of the scope), n_left_out (rows of the table
    without a number), n_cells (used), adjusted_for, term, unit (log-odds per sd, or probability), estimate, ci_low,
    ci_high, method, n_replicates, n_degenerate, n_separated (replicates fitted by Firth), separated (the data are),
    log_likelihood (nats, of the fit: between designs of as many columns, the higher one describes the data better), and
    for coefficients p (symmetric bootstrap-t), bootstrap_se, sandwich_se, gee_estimate, gee_se, gee_rho. The last terms
    are those of `marginal_effects`; a `flexible` design, whose squares would have to move with E and V, has none. A
    `brief` table has neither cross-checks nor marginal effects. A cell below `min_items` items or of one class is left
    out; a scope without a cell keeps its counts alone.
    """
    rows = select_rows(items, list(dict.fromkeys([entropy, vision, *covariates])))
    results: list[dict[str, Any]] = []
    for names, scope in each_scope(rows, scopes):
        used = keep_usable(scope, min_items)
        facts = names | count_rows(scope) | {
            "n_left_out": rows.attrs["n_left_out"],
            "n_cells": used["cell"].nunique(),
            "adjusted_for": ", ".join(covariates) + " (flexible)" * flexible,
        }
        if not len(used):
            results.append(facts | {"term": TERMS[-1]})
            continue
        design = build_design(used, covariates, entropy=entropy, vision=vision, flexible=flexible)
        try:
            drawn = bootstrap_logit(
                design.x, design.y, design.cluster, resampling, strata=design.cell, errors_of=range(len(TERMS))
            )
            checks = pd.DataFrame(index=design.names) if brief else cross_check(design.x, design.y, design.cluster)
            coefficients = [(drawn.interval(j), drawn.p_value(j), checks.iloc[j].to_dict()) for j in range(len(TERMS))]
            plain = not (brief or flexible)
            effects = marginal_effects(design, drawn, effect_at) if plain else {}
        except EstimateError as error:
            raise EstimateError(f"{facts['scope']} {facts['model']} x {facts['benchmark']}: {error}") from error
        spread = pd.DataFrame(drawn.coefficients).std()  # over the replicates that have a fit; NaN for fewer than two
        terms = [
            _show(x) | {"term": term, "unit": "log-odds per sd", "p": p, "bootstrap_se": se} | check
            for term, se, (x, p, check) in zip(TERMS, spread, coefficients, strict=False)
        ]
        terms += [_show(x) | {"term": term, "unit": "probability"} for term, x in effects.items()]
        level = fit_logit(design.x, design.y).log_likelihood
        counts = {"n_separated": drawn.n_separated, "separated": drawn.data_separated, "log_likelihood": level}
        results += [facts | counts | row for row in terms]
    return pd.DataFrame(results)


def _show(interval: Interval) -> dict[str, Any]:
    return interval.columns() | {name: getattr(interval, name) for name in ("method", "n_replicates", "n_degenerate")}


def marginal_effects(
    design: Design, drawn: LogitBootstrap, at: float = 1.0, method: Method | None = None
) -> dict[str, Interval]:
    """Return effects on P(correct), averaged over the rows of the design with their own cell and covariates.

    d(v) = mean of P(zE = +at, zV = v) - P(zE = -at, zV = v), what going from -at to +at standard deviations of entropy
    does at that level of vision. `effect_at_low_vision` = d(-at), `effect_at_high_vision` = d(+at), and
    `effect_difference` = d(+at) - d(-at), a difference of differences of risks.

    The last is not 0 where b_EV = 0: the logit is steepest at one half, so b_E costs less wherever b_V has brought the
    risk close to 0 or 1. `difference_without_interaction` is what it would be with the same coefficients and b_EV = 0,
    and `difference_by_interaction` the rest, 0 exactly if b_EV = 0. For method "t", which has
    no standard error here, the interval is the percentile one. The rows averaged over are held fixed.
    """
    rest, count = np.unique(design.rest, axis=0, return_counts=True)
    weight, k = count / count.sum(), len(TERMS)

    def cost(coefficients: Floats, base: Floats, v: float) -> Floats:
        ends = (base + (coefficients[:, :k] @ np.array([e, v, e * v]))[:, None] for e in (-at, at))
        low, high = (np.tanh(odds / 2, out=odds) @ weight for odds in ends)
        return np.asarray(high - low) / 2  # P = (1 + tanh(odds / 2)) / 2, and numpy's tanh is the fastest way to it

    def effects(coefficients: Floats) -> Floats:
        parts = []
        for block in np.array_split(coefficients, 1 + len(coefficients) * len(rest) // _BLOCK):
            base, flat = block[:, k:] @ rest.T, block * (np.arange(block.shape[1]) != k - 1)
            low, high = (cost(block, base, v) for v in (-at, at))
            without = cost(flat, base, at) - cost(flat, base, -at)
            parts.append(np.stack([low, high, high - low, without, high - low - without], axis=1))
        return np.concatenate(parts)

    chosen: Method = "bca" if (method or drawn.resampling.method) == "bca" else "percentile"
    return dict(zip(EFFECTS, drawn.derive(effects, chosen), strict=True))


def add_holm(table: pd.DataFrame) -> pd.DataFrame:
    """Return the b_EV rows of an `interaction_table` with p_holm: one family a kind of scope, all of its scopes.

    Raises EstimateError for a scope without a p-value: a family is declared beforehand, so nobody drops out of it.
    """
    rows = table[table["term"] == TERMS[-1]].reset_index(drop=True)
    if "p" not in rows or (missing := rows["p"].isna()).any():
        named = rows if "p" not in rows else rows[missing]
        names = ", ".join(f"{row.model} x {row.benchmark}" for row in named.itertuples())
        raise EstimateError(f"no p-value for {names}: too few items or one class; declare the family without it")
    return rows.assign(p_holm=rows.groupby("scope")["p"].transform(lambda p: bootstrap.adjust_holm(p.to_numpy())))


def describe_row(row: Any) -> str:
    """Return an estimate with its interval, and its p-values where it has some, as text."""
    p = "".join(f", {name} {row[name]:.3g}" for name in ("p", "p_holm") if name in row)
    return f"{row['estimate']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]{p}"


def surface_table(
    items: pd.DataFrame,
    covariates: Sequence[str] = (),
    *,
    scopes: Sequence[str] = ("benchmark",),
    reach: float = 2.0,
    n_points: int = 41,
    near: float = 0.25,
    min_items: int = 20,
) -> pd.DataFrame:
    """Return P(correct) of the fit of each scope on a grid of zE and zV from -reach to reach.

    Columns: scope, model, benchmark, entropy_z, vision_z, probability (averaged over the rows of the scope with their
    own cell and covariates) and n_near, the rows within `near` of the point in both: where it is 0 the surface is the
    model's word alone. A scope without a usable cell has no rows.
    """
    rows = select_rows(items, [ENTROPY, VISION, *covariates])
    line, parts = np.linspace(-reach, reach, n_points), []
    e, v = (axis.ravel() for axis in np.meshgrid(line, line))
    for names, scope in each_scope(rows, scopes):
        used = keep_usable(scope, min_items)
        if not len(used):
            continue
        design = build_design(used, covariates)
        beta, k = fit_logit(design.x, design.y).coef, len(TERMS)
        rest, count = np.unique(design.rest @ beta[k:], return_counts=True)
        odds = np.column_stack([e, v, e * v]) @ beta[:k]
        chance = np.array([expit(rest + own) @ count for own in odds]) / count.sum()
        n_near = [int((np.abs(design.x[:, :2] - point).max(axis=1) <= near).sum()) for point in zip(e, v, strict=True)]
        parts.append(pd.DataFrame({**names, "entropy_z": e, "vision_z": v, "probability": chance, "n_near": n_near}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def cross_check(X: ArrayLike, y: ArrayLike, cluster: ArrayLike) -> pd.DataFrame:
    """Return, per column of X, statsmodels' cluster sandwich and GEE: sandwich_se, gee_estimate, gee_se, gee_rho.

    The working correlation is exchangeable, or independent where no cluster has two rows (rho is then NaN). All NaN
    under separation, and GEE's where it has not converged: statsmodels only warns, and its numbers mean nothing.
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
    table = pd.DataFrame({"sandwich_se": plain.bse, "gee_estimate": gee.params, "gee_se": gee.bse, "gee_rho": rho})
    return table if gee.converged else table.assign(gee_estimate=np.nan, gee_se=np.nan, gee_rho=np.nan)


LEVELS = ("low", "high")
QUADRANTS = [(entropy, vision) for entropy in LEVELS for vision in LEVELS]


def add_levels(rows: pd.DataFrame, share: float) -> pd.DataFrame:
    """Return the rows with entropy_level and vision_level: low, high or middle, by quantiles of the own cell.

    Low is at or below the `share` quantile (an order statistic: no value between two rows), high is above the
    1 - `share` quantile; at 0.5 every row is in a quadrant. Values that tie at a quantile are on its low side.
    """
    if not 0 < share <= 0.5:
        raise EstimateError(f"share {share}; expected a number in (0, 0.5], the part of a cell that is called low")
    levels = {}
    for name, column in (("entropy_level", ENTROPY), ("vision_level", VISION)):
        by_cell = rows.groupby("cell")[column]
        low, high = (
            by_cell.transform(lambda x, q=q: np.quantile(x, q, method="inverted_cdf")) for q in (share, 1 - share)
        )
        levels[name] = np.select([rows[column] <= low, rows[column] > high], LEVELS, "middle")
    return rows.assign(**levels)


def quadrant_table(
    items: pd.DataFrame,
    *,
    share: float = 0.5,
    scopes: Sequence[str] = SCOPES,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return risk (share wrong) by low/high entropy x low/high vision (`add_levels`), with Wilson intervals.

    Four rows a scope: entropy_level, vision_level, n, n_quadrant_wrong, risk (NaN if n = 0), ci_low, ci_high. Wilson
    takes rows as independent: right within a cell, too narrow over several models of the same items.
    """
    rows = select_rows(items, [ENTROPY, VISION])
    n_left_out, rows = rows.attrs["n_left_out"], add_levels(rows, share)
    results = []
    for names, scope in each_scope(rows, scopes):
        facts = names | count_rows(scope) | {"n_left_out": n_left_out, "share": share}
        for e, v in QUADRANTS:
            wrong = ~scope["correct"][(scope["entropy_level"] == e) & (scope["vision_level"] == v)]
            n, bad = len(wrong), int(wrong.sum())
            ends = proportion_confint(bad, n, alpha=1 - confidence, method="wilson") if n else (0.0, 1.0)
            row: dict[str, Any] = {"entropy_level": e, "vision_level": v, "n": n, "n_quadrant_wrong": bad}
            row |= {"risk": bad / n if n else np.nan, "ci_low": float(ends[0]), "ci_high": float(ends[1])}
            results.append(facts | row)
    return pd.DataFrame(results)


def hazard_table(
    items: pd.DataFrame,
    *,
    share: float = 0.5,
    min_items: int = 20,
    scopes: Sequence[str] = SCOPES,
    resampling: Resampling = STANDARD,
) -> pd.DataFrame:
    """Return, per scope and entropy level, risk at low vision - risk at high vision.

    Columns: scope, model, benchmark, entropy_level, n_low_vision, n_high_vision, estimate, ci_low, ci_high, method.
    Positive at low entropy: a confident answer is worse where the model hardly looked. The interval is Newcombe's in a
    cell (rows are independent there, and counts may be 0), else a bootstrap by item;
    the levels are held fixed. A pair with fewer than `min_items` rows on a side, or a bootstrap of nothing but right
    or nothing but wrong answers (which would give an interval of no width), keeps its counts alone.
    """
    rows = add_levels(select_rows(items, [ENTROPY, VISION]), share)
    results = []
    for names, scope in each_scope(rows, scopes):
        wrong = ~scope["correct"].to_numpy()
        for e in LEVELS:
            inside = [((scope["entropy_level"] == e) & (scope["vision_level"] == v)).to_numpy() for v in LEVELS]
            sizes = [int(part.sum()) for part in inside]
            row = names | {"entropy_level": e, "n_low_vision": sizes[0], "n_high_vision": sizes[1]}
            values = np.column_stack([column for part in inside for column in (part & wrong, part)]).astype(np.float64)
            bad = [int((part & wrong).sum()) for part in inside]
            enough = min(sizes) >= min_items
            if enough and names["scope"] == "cell":
                row |= _newcombe(bad, sizes, resampling.confidence)
            elif enough and 0 < sum(bad) < sum(sizes):
                [found] = bootstrap.bootstrap_sums(values, _difference, scope["cluster"], scope["cell"], resampling)
                row |= found.columns() | {"method": found.method}
            results.append(row)
    return pd.DataFrame(results)


def _difference(totals: Any) -> Any:
    low, high = (bootstrap.divide(totals[..., k], totals[..., k + 1]) for k in (0, 2))
    return (low - high)[..., None]


def _newcombe(bad: Sequence[int], n: Sequence[int], confidence: float) -> dict[str, Any]:
    """Return the difference of two independent shares with Newcombe's hybrid score interval (1998, method 10)."""
    low, high = confint_proportions_2indep(bad[0], n[0], bad[1], n[1], method="newcomb", alpha=1 - confidence)
    estimate = bad[0] / n[0] - bad[1] / n[1]
    return {"estimate": estimate, "ci_low": float(low), "ci_high": float(high), "method": "newcombe"}
