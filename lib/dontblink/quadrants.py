"""Is a confident answer that hardly looked a risky one? Risks by low/high entropy x low/high vision.

Why: a table of counts assumes no model, and shows how few answers an extreme quadrant holds. The hazardous quadrant of
the paper is low entropy with low vision. In: the items table of the TEST split. Out: risks with Wilson intervals, and
the difference that low vision makes at one level of entropy with an item-clustered interval. Levels are those of the
item's own cell. Never: a level from another cell's quantile, or a risk without its counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from dontblink.bootstrap import bootstrap_sums, divide
from dontblink.cells import CellError, count_rows, list_scopes, select_rows
from dontblink.interaction import ENTROPY, VISION

LEVELS = ("low", "high")
QUADRANTS = [(entropy, vision) for entropy in LEVELS for vision in LEVELS]


def add_levels(rows: pd.DataFrame, entropy: str, vision: str, share: float) -> pd.DataFrame:
    """Return the rows with entropy_level and vision_level: low, high or middle, by quantiles of the own cell.

    Low is at or below the `share` quantile (an order statistic: no value between two rows), high is above the
    1 - `share` quantile; at 0.5 every row is in a quadrant. Values that tie at a quantile are on its low side.
    """
    if not 0 < share <= 0.5:
        raise CellError(f"share {share}; expected a number in (0, 0.5], the part of a cell that is called low")
    levels = {}
    for name, column in (("entropy_level", entropy), ("vision_level", vision)):
        by_cell = rows.groupby("cell")[column]
        low, high = (
            by_cell.transform(lambda x, q=q: np.quantile(x, q, method="inverted_cdf")) for q in (share, 1 - share)
        )
        levels[name] = np.select([rows[column] <= low, rows[column] > high], LEVELS, "middle")
    return rows.assign(**levels)


def quadrant_table(
    items: pd.DataFrame,
    *,
    entropy: str = ENTROPY,
    vision: str = VISION,
    share: float = 0.5,
    scopes: Sequence[str] = ("cell", "benchmark", "pooled"),
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return risk (share wrong) by low/high entropy x low/high vision (`add_levels`), with Wilson intervals.

    Four rows a scope: entropy_level, vision_level, n, n_quadrant_wrong, risk (NaN if n = 0), ci_low, ci_high. Wilson
    takes rows as independent: right within a cell, too narrow over several models of the same items.
    """
    rows = select_rows(items, [entropy, vision])
    n_left_out, rows = rows.attrs["n_left_out"], add_levels(rows, entropy, vision, share)
    results = []
    for scope in list_scopes(rows, scopes):
        facts = count_rows(scope) | {"n_left_out": n_left_out, "share": share}
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
    entropy: str = ENTROPY,
    vision: str = VISION,
    share: float = 0.5,
    min_items: int = 20,
    scopes: Sequence[str] = ("cell", "benchmark", "pooled"),
    confidence: float = 0.95,
    **options: Any,
) -> pd.DataFrame:
    """Return, per scope and entropy level, risk at low vision - risk at high vision.

    Columns: scope, model, benchmark, entropy_level, n_low_vision, n_high_vision, estimate, ci_low, ci_high, method.
    Positive at low entropy: a confident answer is worse where the model hardly looked. The interval is Newcombe's in a
    cell (rows are independent there, and counts may be 0), else a bootstrap by item with `options` of `bootstrap_sums`;
    the levels are held fixed. A pair with fewer than `min_items` rows on a side, or a bootstrap of nothing but right
    or nothing but wrong answers (which would give an interval of no width), keeps its counts alone.
    """
    rows = add_levels(select_rows(items, [entropy, vision]), entropy, vision, share)
    results = []
    for scope in list_scopes(rows, scopes):
        wrong = ~scope["correct"].to_numpy()
        for e in LEVELS:
            inside = [((scope["entropy_level"] == e) & (scope["vision_level"] == v)).to_numpy() for v in LEVELS]
            sizes = [int(part.sum()) for part in inside]
            row: dict[str, Any] = {name: scope.attrs[name] for name in ("scope", "model", "benchmark")}
            row |= {"entropy_level": e, "n_low_vision": sizes[0], "n_high_vision": sizes[1]}
            values = np.column_stack([column for part in inside for column in (part & wrong, part)]).astype(np.float64)
            bad = [int((part & wrong).sum()) for part in inside]
            if min(sizes) < min_items:
                results.append(row)
            elif scope.attrs["scope"] == "cell":
                results.append(row | _newcombe(bad, sizes, confidence))
            elif 0 < sum(bad) < sum(sizes):
                found = bootstrap_sums(
                    values, _difference, scope["cluster"], scope["cell"], confidence=confidence, **options
                )
                names = ("estimate", "ci_low", "ci_high", "method")
                results.append(row | {name: getattr(found[0], name) for name in names})
            else:
                results.append(row)
    return pd.DataFrame(results)


def _difference(totals: Any) -> Any:
    low, high = (divide(totals[..., k], totals[..., k + 1]) for k in (0, 2))
    return (low - high)[..., None]


def _newcombe(bad: Sequence[int], n: Sequence[int], confidence: float) -> dict[str, Any]:
    """Return the difference of two independent shares with Newcombe's hybrid score interval (1998, method 10)."""
    low, high = confint_proportions_2indep(bad[0], n[0], bad[1], n[1], method="newcomb", alpha=1 - confidence)
    estimate = bad[0] / n[0] - bad[1] / n[1]
    return {"estimate": estimate, "ci_low": float(low), "ci_high": float(high), "method": "newcombe"}
