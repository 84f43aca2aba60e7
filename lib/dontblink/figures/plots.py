"""Figures from tables: every function takes the axes (or the figure) to draw on, and gives it back.

Why: a figure reads tables and decides nothing, so that a notebook shows what was computed and a reviewer may
redraw it. In: curves and collapse tables (collapse.py), items and heads tables (tables.py). Out: the same
axes. Models are told apart by colour, line and marker at once, so that a figure survives a grey printer.
Never: compute a statistic that a table should hold (plain counts and means excepted), write a
file, or set a style globally.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from statsmodels.stats.proportion import proportion_confint

from dontblink.figures.picture import COLOUR_MAP
from dontblink.figures.picture import evidence_strip as evidence_strip
from dontblink.figures.picture import head_lift_map as head_lift_map
from dontblink.figures.picture import picture_with_boxes as picture_with_boxes
from dontblink.figures.picture import wrap as wrap

SHADES = (0.0, 0.45, 0.78, 0.2, 0.62)  # along the colour map: far apart in lightness too
MARKERS = ("o", "s", "^", "D", "v")
LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), "-.", (0, (6, 1, 1, 1, 1, 1)))
HATCHES = ("", "////", "....", "xxxx", "----")
LABELS = {
    "evidence": "evidence mass\n(share of attention)",
    "visual": "image mass\n(share of attention)",
    "control_box": "control-box mass\n(share of attention)",
    "prompt": "prompt-text mass\n(share of attention)",
    "uniform": "uniform look at evidence\n(share of attention)",
    "evidence_lift": "evidence lift (ratio;\n1 = no preference)",
    "evidence_over_uniform": "evidence mass /\nuniform look (ratio)",
    "evidence_over_control": "evidence mass /\ncontrol-box mass (ratio)",
    "evidence_over_visual": "evidence share of\nthe image mass (ratio)",
    "evidence_over_prompt": "evidence mass /\nprompt-text mass (ratio)",
}
CONTROLS = {"control_box": "equal area elsewhere", "prompt": "prompt text", "uniform": "uniform look"}
POSITIONS = {"bin": "position in the reasoning (%)", "step_index": "reasoning step (number)"}


def style_models(models: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return colour, line style and marker for each model, by sorted name, so that figures agree."""
    colours = mpl.colormaps[COLOUR_MAP]
    return {
        model: {
            "color": colours(SHADES[k % len(SHADES)]),
            "linestyle": LINES[k % len(LINES)],
            "marker": MARKERS[k % len(MARKERS)],
        }
        for k, model in enumerate(sorted(set(models)))
    }


def collapse_curves(
    ax: Axes,
    curves: pd.DataFrame,
    quantity: str = "evidence",
    *,
    position: str = "bin",
    models: Sequence[str] = (),
    confidence: float = 0.95,
    legend: bool = True,
) -> Axes:
    """Draw one quantity along the reasoning, a line and band per model, for ONE benchmark and head set.

    `position` is `bin` (drawn at the bin's centre, in %) or `step_index` (counted from 1). `models` fixes the
    styles where a panel shows fewer models than its figure. The legend goes beneath the figure (constrained
    layout): ask one panel for it.
    """
    rows = curves[curves["quantity"] == quantity]
    expect_one(rows, "benchmark", "head_set")
    styles = style_models(models or [str(m) for m in rows["model"].unique()])
    n_bins = int(curves[position].max()) + 1
    for model, line in rows.sort_values(position).groupby("model", observed=True):
        index = line[position].to_numpy(float)
        x = 100 * (index + 0.5) / n_bins if position == "bin" else index + 1
        style = styles[str(model)]
        ax.plot(x, line["estimate"], **style, label=str(model))
        if {"ci_low", "ci_high"} <= set(line):
            low, high = line["ci_low"].to_numpy(float), line["ci_high"].to_numpy(float)
            ax.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
    ax.set(xlabel=POSITIONS[position], ylabel=LABELS[quantity], title=str(rows["benchmark"].iloc[0]))
    if position == "bin":
        ax.set_xlim(0, 100)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylim(bottom=0)
    if legend:
        ax.figure.legend(
            *ax.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=3,
            frameon=False,
            title=f"mean over items; band: {confidence:.0%} cluster bootstrap",
        )
    return ax


def expect_one(rows: pd.DataFrame, *columns: str) -> None:
    """Raise ValueError unless each column holds exactly one value: a panel shows one thing."""
    for column in columns:
        if rows[column].nunique() != 1:
            found = sorted(map(str, rows[column].unique()))
            raise ValueError(f"{column}: {found}; expected exactly one, filter the rows")


def curve_grid(
    curves: pd.DataFrame, quantities: Sequence[str] = ("evidence",), *, position: str = "bin", confidence: float = 0.95
) -> Figure:
    """Return a figure with a row per quantity and a column per benchmark: the curves of ONE head set."""
    benchmarks = sorted(curves["benchmark"].astype(str).unique())
    models = [str(model) for model in curves["model"].unique()]
    figure: Figure = plt.figure(figsize=(7, 0.6 + 1.7 * len(quantities)), layout="constrained")
    axes = figure.subplots(len(quantities), len(benchmarks), sharex=position == "bin", sharey="row", squeeze=False)
    for (row, column), ax in np.ndenumerate(axes):
        part = curves[curves["benchmark"].astype(str) == benchmarks[column]]
        collapse_curves(
            ax,
            part,
            quantities[row],
            position=position,
            models=models,
            confidence=confidence,
            legend=row == column == 0,
        )
        ax.label_outer()
        if row:
            ax.set_title("")
    for quantity, ax in zip(quantities, axes[:, 0], strict=True):
        # The panels of a row share their axis, and the first one drawn would fix its top.
        rows = curves[curves["quantity"] == quantity]
        highest = rows[[name for name in ("estimate", "ci_high") if name in rows]].max().max()
        ax.set_ylim(0, 1.05 * float(highest))
    return figure


def collapse_forest(
    ax: Axes,
    table: pd.DataFrame,
    quantity: str = "evidence",
    *,
    controls: Sequence[str] = ("control_box", "prompt", "uniform"),
    confidence: float = 0.95,
) -> Axes:
    """Draw collapse per cell with its interval, and the collapse of the controls as hollow markers.

    `table` is a collapse table of one head set. A full marker right of the hollow ones is collapse beyond
    them.
    """
    expect_one(table, "head_set")
    place = _name_rows(ax, table)
    shade = mpl.colormaps[COLOUR_MAP]
    handles: list[Any] = []
    names: list[str] = []
    for k, name in enumerate((quantity, *controls)):
        rows = table[table["quantity"] == name]
        y = [place[str(b), str(m)] for b, m in zip(rows["benchmark"], rows["model"], strict=True)]
        x = rows["estimate"].to_numpy(float)
        if name == quantity:
            reach = np.abs(np.stack([x - rows["ci_low"], rows["ci_high"] - x]).astype(float))
            bars = ax.errorbar(x, y, xerr=reach, fmt="o", color=shade(0.0), capsize=2.5, zorder=3)
            handles.append(bars)
            names.append(name.replace("_", " "))
        else:
            handles += ax.plot(
                x,
                y,
                linestyle="none",
                marker=("s", "^", "D")[(k - 1) % 3],
                markerfacecolor="none",
                markeredgecolor=shade((0.45, 0.6, 0.3)[(k - 1) % 3]),
            )
            names.append(CONTROLS.get(name, name.replace("_", " ")))
    ax.axvline(0, color="0.5", linewidth=0.8, zorder=0)
    ax.set_xlabel(f"collapse = 1 - last / first (share)\nbar: {confidence:.0%} bootstrap by item")
    ax.legend(handles, names, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return ax


def accuracy_panel(ax: Axes, items: pd.DataFrame, confidence: float = 0.95) -> Axes:
    """Draw the share of correct responses per benchmark and model, with Wilson intervals."""
    models, benchmarks = (sorted(items[c].astype(str).unique()) for c in ("model", "benchmark"))
    styles = style_models(models)
    for k, model in enumerate(models):
        cells = items[items["model"].astype(str) == model].groupby(items["benchmark"].astype(str))["correct"]
        right, n = cells.sum(), cells.size()
        share = (right / n).to_numpy(float)
        low, high = proportion_confint(right.to_numpy(), n.to_numpy(), alpha=1 - confidence, method="wilson")
        x = np.array([benchmarks.index(b) for b in right.index]) + (k - (len(models) - 1) / 2) * 0.2
        style = styles[model]
        reach = 100 * np.abs(np.stack([share - low, high - share]))
        ax.errorbar(x, 100 * share, yerr=reach, fmt=style["marker"], color=style["color"], capsize=2.5, label=model)
    ax.set_xticks(range(len(benchmarks)), [name.replace("_", "\n") for name in benchmarks])
    ax.set(ylabel="accuracy (% of items)", ylim=(0, 100), xlim=(-0.5, len(benchmarks) - 0.5))
    ax.legend(title=f"bar: {confidence:.0%} Wilson interval", loc="lower left", frameon=False)
    return ax


def length_panel(ax: Axes, items: pd.DataFrame) -> Axes:
    """Draw response lengths per benchmark and model: box = quartiles, whiskers = 5th to 95th percentile."""
    models, benchmarks = (sorted(items[c].astype(str).unique()) for c in ("model", "benchmark"))
    styles = style_models(models)
    handles = []
    for k, model in enumerate(models):
        rows = items[items["model"].astype(str) == model]
        lengths = [rows.loc[rows["benchmark"].astype(str) == name, "n_response_tokens"] for name in benchmarks]
        look = {name: styles[model][name] for name in ("color", "linestyle")}
        parts: dict[str, Any] = dict.fromkeys(("boxprops", "whiskerprops", "capprops", "medianprops"), look)
        boxes = ax.boxplot(
            lengths,
            positions=np.arange(len(benchmarks)) + (k - (len(models) - 1) / 2) * 0.26,
            widths=0.2,
            whis=(5, 95),
            showfliers=False,
            manage_ticks=False,
            **parts,
        )
        handles.append(boxes["boxes"][0])
    ax.set_xticks(range(len(benchmarks)), [name.replace("_", "\n") for name in benchmarks])
    ax.set(ylabel="response length (tokens)", ylim=(0, 1.45 * ax.get_ylim()[1]))
    ax.legend(handles, models, title="box: quartiles; whiskers: 5-95 %", loc="upper left", frameon=False)
    return ax


def finish_panel(ax: Axes, items: pd.DataFrame) -> Axes:
    """Draw the shares of finish reasons per cell as stacked bars; what did not stop is counted beside."""
    cells = [items[column].astype(str) for column in ("benchmark", "model")]
    counts = pd.crosstab(cells, items["finish_reason"].astype(str))
    counts = counts[sorted(counts, key=lambda reason: (reason != "stop", reason))]
    shares, place = 100 * counts.div(counts.sum(axis=1), axis=0), _name_rows(ax, items)
    y, left = [place[cell] for cell in shares.index], np.zeros(len(shares))
    for k, reason in enumerate(shares):
        ax.barh(
            y,
            shares[reason],
            left=left,
            height=0.7,
            label=reason,
            hatch=HATCHES[k],
            edgecolor="white",
            color=mpl.colormaps[COLOUR_MAP]((0.85, 0.3, 0.55)[k % 3]),
            linewidth=0.6,
        )
        left += shares[reason].to_numpy()
    for row, cut in zip(y, counts.drop(columns="stop", errors="ignore").sum(axis=1), strict=True):
        ax.text(101, row, f"{cut:.0f}", va="center", fontsize="small")
    ax.set(xlabel="responses (%); beside: how many did not stop", xlim=(0, 100))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, title="finish reason")
    return ax


def _name_rows(ax: Axes, rows: pd.DataFrame) -> dict[tuple[str, str], int]:
    """Name a line per benchmark (bold) and, beneath it, one per model; return the line of each cell."""
    cells = sorted(set(zip(rows["benchmark"].astype(str), rows["model"].astype(str), strict=True)))
    lines = [
        line
        for name in dict.fromkeys(b for b, _ in cells)
        for line in [(name, ""), *(cell for cell in cells if cell[0] == name)]
    ]
    ax.set(
        yticks=range(len(lines)), yticklabels=[model or name for name, model in lines], ylim=(len(lines) - 0.4, -0.6)
    )
    for (_, model), text in zip(lines, ax.get_yticklabels(), strict=False):  # hidden labels have no text
        text.set_fontweight("normal" if model else "bold")
    ax.tick_params(axis="y", length=0)
    return {cell: k for k, cell in enumerate(lines) if cell[1]}


def noise_panel(ax: Axes, items: pd.DataFrame, n_parts: int = 5) -> Axes:
    """Draw accuracy against picture noise: per benchmark, in `n_parts` equal shares of its responses."""
    styles = style_models(items["benchmark"].astype(str).unique())
    for benchmark, rows in items.dropna(subset=["noise_level"]).groupby(items["benchmark"].astype(str)):
        parts = rows.groupby(pd.qcut(rows["noise_level"], n_parts, duplicates="drop"), observed=True)
        means = parts[["noise_level", "correct"]].mean()
        ax.plot(means["noise_level"], 100 * means["correct"], **styles[benchmark], label=benchmark)
    ax.set(xlabel="picture noise (level)", ylabel="accuracy (% of items)", ylim=(0, 100))
    ax.legend(title="all models, equal shares by noise", loc="lower left", frameon=False)
    return ax


def learning_curves(
    ax: Axes,
    history: pd.DataFrame,
    y: str = "accuracy",
    *,
    x: str = "n_samples",
    unit: str = "share",
    legend: bool = True,
) -> Axes:
    """Draw a training measure of each model (columns: model, `x`, `y`) against samples or optimiser steps."""
    styles = style_models(history["model"].astype(str).unique())
    for model, line in history.sort_values(x).groupby(history["model"].astype(str)):
        ax.plot(line[x] / 1000, line[y], **styles[model], label=model, markevery=max(1, len(line) // 8))
    names = {"n_samples": "training samples (thousands)", "step": "optimiser steps (thousands)"}
    ax.set(xlabel=names.get(x, x), ylabel=f"{y.replace('_', ' ')} ({unit})")
    if legend:
        ax.legend(title="model", frameon=False)
    return ax
