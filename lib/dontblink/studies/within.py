"""Do entropy and look move together from step to step of one response?

Why: between responses a hard picture raises entropy and moves the look at once; within a response the picture is the
same. In: the steps table of the TEST split. Out: the repeated-measures correlation per cell. Never: rows of
different responses correlated with each other, or a cause: what a step must do (read, recall, compute) drives both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import norm
from scipy.stats import t as student

from dontblink.statistics.bootstrap import STANDARD, EstimateError, Floats, Resampling, bootstrap_sums

RESPONSE = ["model", "benchmark", "item_id"]


def centre_within(x: ArrayLike, y: ArrayLike, subject: ArrayLike) -> tuple[Floats, int]:
    """Return [x y, x^2, y^2] of values less the mean of their subject, float64[n, 3], and the degrees of freedom.

    dof = rows - subjects - 1, over the subjects with two rows or more (the others have no within part).
    """
    codes = pd.factorize(np.asarray(subject))[0]
    values = np.column_stack([np.asarray(x, np.float64), np.asarray(y, np.float64)])
    if not np.isfinite(values).all() or (codes < 0).any() or not len(values):
        gaps = (~np.isfinite(values)).sum()
        raise EstimateError(f"{len(values)} rows with {gaps} gaps; expected numbers, drop and count")
    size = np.bincount(codes)
    means = np.stack([np.bincount(codes, column) for column in values.T], axis=1) / size[:, None]
    centred = values - means[codes]
    centred[np.abs(centred) <= 1e-12 * np.abs(values)] = 0.0
    a, b = centred.T
    return np.column_stack([a * b, a * a, b * b]), int(size[size > 1].sum() - (size > 1).sum() - 1)


def within_correlation(x: ArrayLike, y: ArrayLike, subject: ArrayLike, confidence: float = 0.95) -> dict[str, Any]:
    """Return the repeated-measures correlation (Bland and Altman 1995): r, ci_low, ci_high, dof, p.

    r = sum of products / root of the sums of squares of values less the mean of their subject, which is the r of an
    analysis of covariance with parallel lines. Interval: tanh(atanh r -+ z / sqrt(dof - 1)); p by t with dof. A gap,
    dof < 2, or an x or y that is constant within every subject is an error.
    """
    parts, dof = centre_within(x, y, subject)
    both, xx, yy = parts.sum(axis=0)
    if dof < 2 or not xx > 0 or not yy > 0:
        raise EstimateError(f"dof {dof}, sums of squares {xx:g} and {yy:g}; expected dof >= 2 and values that vary")
    r = float(np.clip(both / np.sqrt(xx * yy), -1, 1))
    with np.errstate(divide="ignore"):
        centre, reach = np.arctanh(r), norm.ppf((1 + confidence) / 2) / np.sqrt(dof - 1)
        t = np.abs(r) * np.sqrt(dof / (1 - r**2)) if abs(r) < 1 else np.inf
    low, high = np.tanh([centre - reach, centre + reach])
    return {"r": r, "ci_low": float(low), "ci_high": float(high), "dof": dof, "p": float(2 * student.sf(t, dof))}


def link_table(
    steps: pd.DataFrame, kinds: Sequence[str] = ("all", "read"), resampling: Resampling = STANDARD,
    mass: str = "evidence_mass",
) -> pd.DataFrame:  # fmt: skip
    """Return r of step entropy and a mass per cell and kind of step ("all", or one of step_kind).

    The steps are those of one head set. Columns: model, benchmark, kind, r, ci_low, ci_high (Fisher's z: steps of a
    response taken as independent given its mean), boot_low, boot_high (bootstrap by response, which does not), dof, p,
    n_responses (with two steps or more), n_steps. A cell without such steps has no row.
    """
    if steps.duplicated([*RESPONSE, "step_index"]).any():
        raise EstimateError("a step has several rows; pass those of one head set")
    results = []
    steps = steps.astype({name: "str" for name in (*RESPONSE, "step_kind")})
    for (model, benchmark), cell in steps.groupby(RESPONSE[:2]):
        for kind in kinds:
            rows = cell if kind == "all" else cell[cell["step_kind"] == kind]
            rows = rows[rows.groupby("item_id")["step_index"].transform("size") > 1]
            if rows["item_id"].nunique() < 2:
                continue
            x, y, subject = (rows[name].to_numpy() for name in ("entropy_nats", mass, "item_id"))
            found = within_correlation(x, y, subject, resampling.confidence)
            drawn = bootstrap_sums(centre_within(x, y, subject)[0], _correlation, subject, resampling=resampling)[0]
            row = {"model": model, "benchmark": benchmark, "kind": kind} | found
            row |= {"boot_low": drawn.ci_low, "boot_high": drawn.ci_high}
            results.append(row | {"n_responses": int(rows["item_id"].nunique()), "n_steps": len(rows)})
    return pd.DataFrame(results)


def _correlation(totals: Any) -> Any:
    both, xx, yy = np.moveaxis(totals, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (both / np.sqrt(xx * yy))[..., None]
