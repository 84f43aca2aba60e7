"""Does low vision change what low entropy means? logit P(correct) = cell + b_E zE + b_V zV + b_EV zE zV.

Why: the paper's central claim is the sign of b_EV by task. b_EV < 0: entropy costs more where vision is high, and low
entropy promises less where vision is low. A negative coefficient beside one whose interval holds 0 is no difference
between them, and no proof that the second is near 0: the first takes the contrast of two task types, the second a test
of equivalence. A coefficient is not a risk, so its effect is also given on the probability scale, and as a table of
counts, which assumes no model and shows how few answers an extreme quadrant holds. In: the items table of the TEST
split. Out: a row per scope (cell, benchmark, task type, pooled) and term, contrasts of task types, the surface that the
fit draws, risks by quadrant with Wilson intervals. E is an entropy in nats and V an attention mass, both standardised
WITHIN the cell, once (so they say how an item compares with its own cell); every cell has an intercept of its own, the
slopes are shared by the cells of a scope. Never: a dropped replicate, a plain Wald interval, a risk without its counts,
a cause (attention is observed, not set), or an interval below about 20 items.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import ArrayLike
from scipy.special import expit
from statsmodels.stats.proportion import proportion_confint

from dontblink.statistics import bootstrap
from dontblink.statistics.bootstrap import EstimateError, Floats, Interval, Method, Resampling
from dontblink.statistics.firth import check_design
from dontblink.statistics.logit import LogitBootstrap, bootstrap_logit, fit_logit
from dontblink.studies.cells import (
    ENTROPY,
    ORACLES,
    SCOPES,
    VISION,
    VISIONS,
    adjust_family,
    count_rows,
    each_scope,
    keep_usable,
    name_cell,
    select_rows,
    standardise,
)
from dontblink.studies.hazard import BY_T, LEVELS, add_levels

TERMS = ("entropy", "vision", "entropy:vision")
EFFECTS = (
    "effect_at_low_vision", "effect_at_high_vision", "effect_difference", "difference_without_interaction",
    "difference_by_interaction",
)  # fmt: skip
CONTRAST_COLUMNS = ["vision", "is_oracle", "task_type", "estimate", "ci_low", "ci_high", "p"]
_EV = len(TERMS) - 1
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
    rows: pd.DataFrame, covariates: Sequence[str] = (), *, entropy: str = ENTROPY, vision: str = VISION
) -> Design:
    """Return the design of rows of `select_rows`; raise EstimateError if E or V is constant in a cell.

    Covariates are standardised within the cell too; one that is constant in a cell adjusts nothing there, one that is
    constant in all is left out.
    """
    cell = rows["cell"].to_numpy()
    e, v = (standardise(rows[name], cell, name) for name in (entropy, vision))
    extra = {name: standardise(rows[name], cell, name, constant="zero") for name in covariates}
    extra = {name: values for name, values in extra.items() if values.any()}
    cells = pd.get_dummies(rows["cell"], dtype=np.float64)
    x = np.column_stack([e, v, e * v, *extra.values(), cells.to_numpy()])
    names = (*TERMS, *extra, *map(name_cell, cells))
    return Design(x, rows["correct"].to_numpy(np.float64), names, rows["cluster"].to_numpy(), cell)


def interaction_table(
    items: pd.DataFrame, covariates: Sequence[str] = (), *, scopes: Sequence[str] = SCOPES,
    resampling: Resampling = BY_T, min_items: int = 20, effect_at: float = 1.0, checked: Sequence[str] = ("benchmark",),
    vision: str = VISION,
) -> pd.DataFrame:  # fmt: skip
    """Return the coefficients, their marginal effects and cross-checks, a row per scope and term.

    Columns: scope, model, benchmark, n_rows, n_items, n_wrong (all rows of the scope), n_left_out (rows of the table
    without a number), n_cells (used), adjusted_for, term, unit (log-odds per sd, or probability), estimate, ci_low,
    ci_high, method, n_replicates, n_degenerate, n_separated (replicates fitted by Firth), separated (the data are),
    and for coefficients p (symmetric bootstrap-t), bootstrap_se, and in the scopes `checked` sandwich_se, gee_estimate,
    gee_se, gee_rho. The last terms are those of `marginal_effects`. A cell below `min_items` items or of one class is
    left out; a scope without a cell keeps its counts alone. Scopes of the same answers (a task type that is one
    benchmark) are fitted once.
    """
    rows = select_rows(items, list(dict.fromkeys([ENTROPY, vision, *covariates])))
    n_left_out, rows = rows.attrs["n_left_out"], rows.assign(row=np.arange(len(rows)))
    results: list[dict[str, Any]] = []
    done: dict[bytes, list[dict[str, Any]]] = {}
    for names, scope in each_scope(rows, scopes):
        used = keep_usable(scope, min_items)
        counts = {"n_left_out": n_left_out, "n_cells": used["cell"].nunique(), "adjusted_for": ", ".join(covariates)}
        facts = names | count_rows(scope) | counts
        if not len(used):
            results.append(facts | {"term": TERMS[-1]})
            continue
        design, key = build_design(used, covariates, vision=vision), used["row"].to_numpy().tobytes()
        try:
            if key not in done:
                done[key] = _describe(design, resampling, effect_at)
            checks = cross_check(design.x, design.y, design.cluster) if names["scope"] in checked else pd.DataFrame()
        except EstimateError as error:
            raise EstimateError(f"{facts['scope']} {facts['model']} x {facts['benchmark']}: {error}") from error
        by_term = dict(zip(TERMS, checks.to_dict("records"), strict=False))
        results += [facts | row | by_term.get(row["term"], {}) for row in done[key]]
    return pd.DataFrame(results)


def _describe(design: Design, resampling: Resampling, effect_at: float) -> list[dict[str, Any]]:
    """Return a row per term of one design."""
    drawn = bootstrap_logit(
        design.x, design.y, design.cluster, resampling, strata=design.cell, errors_of=range(len(TERMS))
    )
    counts = {"n_separated": drawn.n_separated, "separated": drawn.data_separated}
    spread = pd.DataFrame(drawn.coefficients).std()  # over the replicates that have a fit; NaN for fewer than two
    rows = [
        {"term": term, "unit": "log-odds per sd", "p": drawn.p_value(j), "bootstrap_se": spread[j]}
        | _show(drawn.interval(j)) for j, term in enumerate(TERMS)
    ]  # fmt: skip
    for term, effect in marginal_effects(design, drawn, effect_at).items():
        rows.append({"term": term, "unit": "probability"} | _show(effect))
    return [row | counts for row in rows]


def _show(interval: Interval) -> dict[str, Any]:
    own = {name: x if np.isfinite(x) else np.nan for name, x in interval.columns().items()}  # no end is no number
    return own | {name: getattr(interval, name) for name in ("method", "n_replicates", "n_degenerate")}


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


def contrast_table(
    items: pd.DataFrame, visual: str, symbolic: str, covariates: Sequence[str] = (),
    visions: Mapping[str, str] = VISIONS, *, margin: float = 0.25, resampling: Resampling = BY_T, min_items: int = 20,
) -> pd.DataFrame:  # fmt: skip
    """Return b_EV of both task types and their contrast, visual minus symbolic, for each vision, and equivalence tests.

    Columns: vision, is_oracle, task_type ("contrast" last), estimate, ci_low, ci_high, p, method, n_items, n_rows, and
    of the test of equivalence equal_low, equal_high, margin, p_equivalence (see `equivalence`). A type is one fit, its
    items drawn within it; the types have no item in common, so that their replicates are independent and pair up as
    they come. All visions have the same rows and draws. A type without a usable cell is left out, and the contrast with
    it.
    """
    rows = select_rows(items, list(dict.fromkeys([ENTROPY, *visions.values(), *covariates])))
    of_type = {
        kind: used
        for kind in (visual, symbolic)
        if len(used := keep_usable(rows[rows["task_type"] == kind].reset_index(drop=True), min_items))
    }
    results = []
    for name, column in visions.items():
        found: dict[str, LogitBootstrap] = {}
        for k, (kind, used) in enumerate(of_type.items()):
            design = build_design(used, covariates, vision=column)
            own = replace(resampling, seed=resampling.seed + k)  # or both types would draw the same places
            drawn = bootstrap_logit(design.x, design.y, design.cluster, own, strata=design.cell, errors_of=[_EV])
            found[kind] = drawn
            sizes = {"n_items": drawn.n_clusters, "n_rows": len(used)}
            lone, p = drawn.interval(_EV), drawn.p_value(_EV)  # Firth's profile where answers of a class are few
            lead = lone.columns() | {"p": p, "method": lone.method}
            results.append(_contrast_row(name, kind, [(1, drawn)], resampling, margin) | lead | sizes)
        if len(found) == 2:
            parts = [(1, found[visual]), (-1, found[symbolic])]
            sizes = {key: sum(row[key] for row in results[-2:]) for key in ("n_items", "n_rows")}
            results.append(_contrast_row(name, "contrast", parts, resampling, margin) | sizes)
    return pd.DataFrame(results, columns=None if results else CONTRAST_COLUMNS)


def _contrast_row(
    vision: str, kind: str, parts: Sequence[tuple[int, LogitBootstrap]], resampling: Resampling, margin: float
) -> dict[str, Any]:
    """Return the row of a sum of b_EV, each with its sign, from independent bootstraps."""
    estimate = float(sum(sign * one.estimate[_EV] for sign, one in parts))
    error = float(np.sqrt(sum(one.error[_EV] ** 2 for _, one in parts)))
    drawn = np.sum([sign * one.coefficients[:, _EV] for sign, one in parts], axis=0)
    errors = np.sqrt(np.sum([one.errors[:, _EV] ** 2 for _, one in parts], axis=0))
    left_out = [
        estimate + sign * (values[:, _EV] - one.estimate[_EV]) for sign, one in parts for values in one.jackknife or ()
    ]
    n_items, t = sum(one.n_clusters for _, one in parts), replace(resampling, method="t")
    interval = bootstrap.interval_of(
        estimate, drawn, n_items, resampling, jackknife=left_out or None, error=error, errors=errors
    )
    narrow = replace(t, confidence=1 - 2 * (1 - resampling.confidence))
    inner = bootstrap.interval_of(estimate, drawn, n_items, narrow, error=error, errors=errors)
    ends = {"equal_low": inner.ci_low, "equal_high": inner.ci_high, **interval.columns()}
    ends = {name: x if np.isfinite(x) else np.nan for name, x in ends.items()}  # too many replicates without a fit
    return (
        {"vision": vision, "is_oracle": vision in ORACLES, "task_type": kind}
        | ends
        | {"p": bootstrap.symmetric_p(estimate, error, drawn, errors), "method": interval.method, "margin": margin}
        | {"p_equivalence": equivalence(estimate, error, drawn, errors, margin)}
    )


def equivalence(estimate: float, error: float, drawn: ArrayLike, errors: ArrayLike, margin: float) -> float:
    """Return the p-value of two one-sided tests (Schuirmann 1987) of |value| >= margin, by the symmetric bootstrap-t.

    Small: the value lies within -margin and margin. At p < a the 1 - 2 a interval lies inside the margin. With t* as in
    `bootstrap.symmetric_p` and t = (margin - |estimate|) / error, p is half the share of |t*| >= t; where the estimate
    lies beyond the margin, what is missing to 1 of the same at -t.
    """
    room = margin - abs(estimate)
    beyond = bootstrap.symmetric_p(abs(room), error, np.asarray(drawn) - estimate + abs(room), errors) / 2
    return beyond if room > 0 else 1 - beyond


def add_holm(table: pd.DataFrame) -> pd.DataFrame:
    """Return the b_EV rows of an `interaction_table` with p_holm: one family a kind of scope, all of its scopes.

    A scope without a p-value (too few items, or one class) counts in its family, see `cells.adjust_family`.
    """
    rows = table[table["term"] == TERMS[-1]].reset_index(drop=True)
    rows = rows if "p" in rows else rows.assign(p=np.nan)
    return rows.assign(p_holm=rows.groupby("scope")["p"].transform(adjust_family))


def describe_row(row: Any) -> str:
    """Return an estimate with its interval, and its p-values where it has some, as text."""
    p = "".join(f", {name} {row[name]:.3g}" for name in ("p", "p_holm") if name in row)
    return f"{row['estimate']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]{p}"


def surface_table(
    items: pd.DataFrame, covariates: Sequence[str] = (), *, scopes: Sequence[str] = ("benchmark",), reach: float = 2.0,
    n_points: int = 41, near: float = 0.25, min_items: int = 20, vision: str = VISION,
) -> pd.DataFrame:  # fmt: skip
    """Return P(correct) of the fit of each scope on a grid of zE and zV from -reach to reach.

    Columns: scope, model, benchmark, entropy_z, vision_z, probability (averaged over the rows of the scope with their
    own cell and covariates) and n_near, the rows within `near` of the point in both: where it is 0 the surface is the
    model's word alone. A scope without a usable cell has no rows.
    """
    rows = select_rows(items, [ENTROPY, vision, *covariates])
    line, parts = np.linspace(-reach, reach, n_points), []
    e, v = (axis.ravel() for axis in np.meshgrid(line, line))
    for names, scope in each_scope(rows, scopes):
        used = keep_usable(scope, min_items)
        if not len(used):
            continue
        design = build_design(used, covariates, vision=vision)
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


QUADRANTS = [(entropy, vision) for entropy in LEVELS for vision in LEVELS]


def quadrant_table(
    items: pd.DataFrame, *, share: float = 0.5, scopes: Sequence[str] = SCOPES, confidence: float = 0.95,
    vision: str = VISION,
) -> pd.DataFrame:  # fmt: skip
    """Return risk (share wrong) by low/high entropy x low/high vision (`add_levels`), with Wilson intervals.

    Four rows a scope: entropy_level, vision_level, n, n_quadrant_wrong, risk (NaN if n = 0), ci_low, ci_high. Wilson
    takes rows as independent: right within a cell, too narrow over several models of the same items.
    """
    rows = select_rows(items, [ENTROPY, vision])
    levels = {"entropy_level": ENTROPY, "vision_level": vision}
    n_left_out, rows = rows.attrs["n_left_out"], add_levels(rows, levels, share)
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
