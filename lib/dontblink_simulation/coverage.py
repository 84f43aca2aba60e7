"""Coverage and type-I error of simulated studies: the table, the numbers and the figure of `make simulate`.

Why: 1000 studies say a coverage to 1.4 points, and a figure without that interval says more than it knows. In: the rows
of `simulate` by statistic. Out: a row per statistic, setting, quantity and method with exact (Clopper-Pearson)
Monte-Carlo intervals; the figure. Never: a refused study counted as covered, or as missing: it is counted on its own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from statsmodels.stats.proportion import proportion_confint

from dontblink_simulation.register import STATISTICS

COVERAGE_BAND, REJECTION_BAND = (0.93, 0.97), (0.03, 0.07)
LEVEL = 0.05  # of the tests; the intervals are 1 - LEVEL
_KEYS = ["statistic", "setting", "quantity", "method"]
_COLUMNS = [
    *("primary", "n_studies", "n_refused", "coverage", "coverage_low", "coverage_high", "truth_below", "truth_above"),
    *("median_width", "n_infinite", "rejection", "rejection_low", "rejection_high", "truth", "mean_estimate"),
    *("mean_degenerate", "mean_separated"),
]
_LIMITS = {"coverage": (0.86, 1.0), "rejection": (0.0, 0.14)}
MARKS: dict[str, dict[str, Any]] = {
    "bca": {"marker": "o", "label": "BCa"},
    "percentile": {"marker": "s", "label": "percentile"},
    "t": {"marker": "^", "label": "bootstrap-t"},
    "wald": {"marker": "x", "label": "sandwich, Wald"},
    "signed_rank": {"marker": "D", "label": "signed rank"},
    "obuchowski": {"marker": "v", "label": "Obuchowski"},
    "delong_pooled": {"marker": "+", "label": "DeLong, pooled rows"},
    "newcombe": {"marker": "*", "label": "Newcombe"},
    "mover": {"marker": "d", "label": "MOVER"},
    "led": {"marker": "<", "label": "t, or Firth's profile"},
    "bca_fixed_fit": {"marker": "o", "label": "BCa"},
    "block_jackknife": {"marker": "h", "label": "block jackknife"},
    "permutation": {"marker": "P", "label": "permutation"},
    "percentile_refit": {"marker": "p", "label": "percentile, refitted"},
}


def summarise(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a row per statistic, setting, quantity and method.

    Columns: primary, n_studies, n_refused; coverage, coverage_low, coverage_high, truth_below, truth_above (shares of
    the intervals that miss, by the side on which the truth lies), median_width, n_infinite; rejection, rejection_low,
    rejection_high (where the truth is the null value: p <= 0.05, without a p-value the interval excludes it); truth,
    mean_estimate, mean_degenerate, mean_separated (replicates of a study). NaN where a method gives no such answer.
    """
    results = []
    for name, table in tables.items():
        for (setting, quantity, method), rows in table.groupby(_KEYS[1:], sort=False):
            keys = dict(zip(_KEYS, (name, setting, quantity, method), strict=True))
            results.append(keys | _count(rows, name, quantity, method))
    return pd.DataFrame(results, columns=[*_KEYS, *_COLUMNS])


def _count(rows: pd.DataFrame, name: str, quantity: str, method: str) -> dict[str, Any]:
    statistic, answered = STATISTICS[name], rows[rows["reason"] == ""]
    truth = answered["truth"].to_numpy()
    if method in statistic.averaged:
        truth = np.full_like(truth, truth.mean())
    found: dict[str, Any] = {
        "primary": method == statistic.primary.get(quantity),
        "n_studies": len(rows),
        "n_refused": len(rows) - len(answered),
        "truth": truth.mean() if len(truth) else np.nan,
        "mean_estimate": answered["estimate"].mean(),
        "mean_degenerate": answered["n_degenerate"].mean(),
        "mean_separated": answered["n_separated"].mean(),
    }
    low, high, p = (answered[column].to_numpy() for column in ("ci_low", "ci_high", "p"))
    if len(answered) and not np.isnan(low).any():
        below, above = truth < low, truth > high
        found |= _rate("coverage", ~below & ~above)
        found |= {"truth_below": below.mean(), "truth_above": above.mean()}
        found |= {"median_width": np.median(high - low), "n_infinite": int(np.isinf(high - low).sum())}
    is_null = len(truth) > 0 and bool(np.all(np.abs(truth - statistic.null) < 1e-9))
    if is_null and np.isfinite(p).all():
        found |= _rate("rejection", p <= LEVEL + 1e-12)
    elif is_null:
        found |= _rate("rejection", (low > statistic.null) | (high < statistic.null))
    return found


def _rate(name: str, hits: Any) -> dict[str, float]:
    low, high = proportion_confint(int(hits.sum()), len(hits), alpha=0.05, method="beta")
    return {name: float(hits.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}


def find_outside(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose coverage or rejection lies outside its band, of what leads."""
    out = pd.Series(False, index=summary.index)
    for value, band in (("coverage", COVERAGE_BAND), ("rejection", REJECTION_BAND)):
        out |= summary[value].notna() & ~summary[value].between(*band)
    return summary[out & summary["primary"]]


def list_numbers(summary: pd.DataFrame, n_studies: int, n_replicates: int) -> dict[str, Any]:
    """Return what `record.save_numbers` takes: the table, nested; what a method does not give is left out."""
    nested: dict[str, Any] = {}
    for row in summary.to_dict("records"):
        *place, last = (str(row.pop(key)) for key in _KEYS)
        level = nested
        for name in place:
            level = level.setdefault(name, {})
        given = {str(key): value for key, value in row.items() if isinstance(value, bool) or np.isfinite(value)}
        # a column of counts with a gap holds floats
        level[last] = {key: int(value) if key.startswith("n_") else value for key, value in given.items()}
    return {
        "n_studies": n_studies,
        "n_replicates": n_replicates,
        "confidence": 1 - LEVEL,
        "coverage_band": list(COVERAGE_BAND),
        "rejection_band": list(REJECTION_BAND),
        "outside": [
            {key: row[key] for key in (*_KEYS, "coverage", "rejection") if not pd.isna(row[key])}
            for row in find_outside(summary).to_dict("records")
        ],
        "n_primary": int(summary["primary"].sum()),
        "simulated": nested,
        "primary": {name: dict(statistic.primary) for name, statistic in STATISTICS.items()},
        "settings": {
            name: {setting: asdict(population) for setting, population in statistic.settings.items()}
            for name, statistic in STATISTICS.items()
        },
        "absent": {name: dict(statistic.absent) for name, statistic in STATISTICS.items() if statistic.absent},
    }


def draw_coverage(summary: pd.DataFrame, n_studies: int) -> Figure:
    """Return the figure: a line per quantity and setting, coverage left and type-I error right, a mark per method.

    Filled: the primary method. What lies outside the axes stands at their edge with its value. A setting that gives a
    quantity neither rate (a test where nothing is null) has no line.
    """
    summary = summary.dropna(subset=["coverage", "rejection"], how="all")
    lines = [
        (title, setting)
        for title, rows in _title(summary).groupby("title", sort=False)
        for setting in ("", *dict.fromkeys(rows["setting"]))
    ]
    figure: Figure = plt.figure(figsize=(7, 1.1 + 0.137 * len(lines)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True, width_ratios=(1.25, 1))
    for ax, value, band in zip(axes, ("coverage", "rejection"), (COVERAGE_BAND, REJECTION_BAND), strict=True):
        ax.axvspan(*(100 * end for end in band), color="0.9", zorder=0)
        ax.axvline(100 * (1 - LEVEL if value == "coverage" else LEVEL), color="0.6", linewidth=0.6, zorder=0)
        for k in range(0, len(lines), 2):
            ax.axhspan(k - 0.5, k + 0.5, color="0.97", linewidth=0, zorder=-1)
        _draw_rates(ax, _title(summary).dropna(subset=[value]), value, lines)
        ax.set_xlim(*(100 * end for end in _LIMITS[value]))
        ax.tick_params(axis="y", length=0)
    axes[0].set(xlabel="intervals that hold the truth (%)", ylim=(len(lines) - 0.3, -0.7))
    axes[1].set(xlabel="true nulls rejected at 5 % (%)")
    labels = [setting.replace("_", " ").replace("null v", "null V") or title for title, setting in lines]
    axes[0].set_yticks(range(len(lines)), labels)
    for (_, setting), text in zip(lines, axes[0].get_yticklabels(), strict=True):
        text.set_fontweight("normal" if setting else "bold")
    handles = {h.get_label(): h for ax in axes for h in ax.get_legend_handles_labels()[0]}
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=4, frameon=False,
        title=f"{n_studies} studies a setting; bar: exact 95 % Monte-Carlo interval; filled: the notebook's primary",
    )  # fmt: skip
    counts = {
        value: (rows[value].between(*band).sum(), len(rows))
        for value, band in (("coverage", COVERAGE_BAND), ("rejection", REJECTION_BAND))
        for rows in [summary[summary["primary"]].dropna(subset=[value])]
    }
    inside = [f"{inside} of {n}" for inside, n in counts.values()]
    title = f"Primary intervals within the band: coverage in {inside[0]} settings, type-I error in {inside[1]}"
    outside = _title(find_outside(summary))[["title", "setting"]].to_numpy()
    names = [f"{title}, {setting.replace('_', ' ')}" for title, setting in outside]
    figure.suptitle("\n".join([title, *textwrap.wrap(f"outside: {'; '.join(names) or 'none'}", 100)]), fontsize=8)
    return figure


def _title(summary: pd.DataFrame) -> pd.DataFrame:
    titles = summary["statistic"] + ": " + summary["quantity"]
    same = summary["statistic"] == summary["quantity"]
    return summary.assign(title=titles.where(~same, summary["statistic"]).str.replace("_", " "))


def _draw_rates(ax: Axes, rows: pd.DataFrame, value: str, lines: list[tuple[str, str]]) -> None:
    low, high = _LIMITS[value]
    for (title, setting), own in rows.groupby(["title", "setting"], sort=False):
        y = lines.index((title, setting)) + np.linspace(-0.3, 0.3, len(own) + 2)[1:-1]
        for place, (_, row) in zip(y, own.iterrows(), strict=True):
            mark, rate = MARKS[row["method"]], float(row[value])
            shown = min(max(rate, low), high)
            reach = [[max(shown - max(row[f"{value}_low"], low), 0)], [max(min(row[f"{value}_high"], high) - shown, 0)]]
            ax.errorbar(
                100 * shown, place, xerr=100 * np.array(reach), marker=mark["marker"], label=mark["label"],
                linestyle="none", color="0.0" if row["primary"] else "0.4", elinewidth=0.7, markeredgewidth=0.7,
                markerfacecolor="0.0" if row["primary"] else "white", markersize=3.8, zorder=3 if row["primary"] else 2,
                clip_on=False,
            )  # fmt: skip
            if shown != rate:
                inward = 1 if shown == low else -1
                ax.annotate(
                    f"{100 * rate:.0f}", (100 * shown, place), xytext=(4 * inward, 0), textcoords="offset points",
                    va="center", ha="left" if inward > 0 else "right", fontsize=5,
                )  # fmt: skip
