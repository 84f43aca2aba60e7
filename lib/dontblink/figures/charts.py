"""Charts of the tables: every function takes the axes to draw on, and gives it back (`curve_grid`: the figure).

Why it exists: a figure reads tables and decides nothing, so that a notebook shows what was computed and a reviewer may
redraw it. In: tables of the extraction and of the studies, entries of the ledger. Out: axes. What is compared differs
by colour, line and marker at once, and every interval says what it is. `legend`: it goes beneath the figure (in
constrained layout), so one panel is asked for it. Never: compute a statistic that a table should hold (plain counts and
means excepted), write a file, or set a style globally.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from statsmodels.stats.proportion import proportion_confint

from dontblink.figures.style import COLOUR_MAP, HATCHES, MARKERS, expect_one, shade, style_models

LABELS = {
    "evidence": "evidence mass\n(share of attention)", "visual": "image mass\n(share of attention)",
    "control_box": "control-box mass\n(share of attention)", "prompt": "prompt-text mass\n(share of attention)",
    "uniform": "uniform look at evidence\n(share of attention)",
    "evidence_lift": "evidence lift (ratio;\n1 = no preference)",
    "evidence_over_uniform": "evidence mass /\nuniform look (ratio)",
    "evidence_over_control": "evidence mass /\ncontrol-box mass (ratio)",
    "evidence_over_visual": "evidence share of\nthe image mass (ratio)",
    "evidence_over_prompt": "evidence mass /\nprompt-text mass (ratio)",
    "uniform_visual": "uniform look at the image\n(share of attention)",
    "visual_over_uniform": "image mass /\nuniform look (ratio)",
    "accuracy": "accuracy of an answer\nforced there (share)", "format_mass": "form of an answer\n(probability)",
    "visual_over_prompt": "image mass /\nprompt-text mass (ratio)",
}  # fmt: skip
CONTROLS = {"control_box": "equal area elsewhere", "prompt": "prompt text", "uniform": "uniform look"}
POSITIONS = {
    "bin": "position in the reasoning (%)", "step_index": "reasoning step (number)",
    "reasoning_share": "share of the own reasoning (%)",
}  # fmt: skip
RULE_NAMES = {
    "entropy": "entropy only", "entropy_length": "entropy and length", "linear": "one linear rule",
    "veto": "targeted veto", "oracle": "oracle",
}  # fmt: skip
VALUES = {"gain": "gain in AUROC over entropy alone", "auroc": "AUROC"}
ALL = "all"
UNITS = {
    "percent": (100, "fall of the evidence mass (%)"), "points": (100, "risk saved (points)"),
    "auroc": (1, "difference of AUROCs"), "added_points": (100, "risk added by low vision (points)"),
    "accuracy_points": (100, "accuracy gained (points)"),
}  # fmt: skip


def forest(
    ax: Axes,
    table: pd.DataFrame,
    value: str = "estimate",
    *,
    label: str,
    scale: float = 1.0,
    zero: float = 0.0,
    beside: pd.DataFrame | None = None,
    null: str | tuple[str, str] | None = None,
    controls: Mapping[str, pd.DataFrame] | None = None,
    confidence: float | None = 0.95,
    interval: str = "bootstrap by item",
    in_order: bool = False,
) -> Axes:
    """Draw one value a row with its interval: each benchmark (bold) above its models, the pooled row last.

    `table` has one row a scope (filter the term, rule or score): scope, model, benchmark, `value`, ci_low and ci_high.
    Rows without a value are named and left empty. Without a column scope all rows are cells, and benchmarks only heads;
    with a column `row` the rows stand in their order under that name. Names are sorted, or `in_order` of the table. `label` is the value's, with the unit that it has
    times `scale`; a line stands at `zero`. Drawn with it: `beside`, a second table (adjusted beside unadjusted), hollow
    beneath the first; `null`, the column of its upper end (a mark |), or those of its two ends (a pale bar);
    `controls`, tables by what they are, as hollow marks without intervals. The label names the interval with its
    `confidence`, unless that is None.
    """
    rows = _order_rows(table, in_order)
    place = {_key(row): y for y, (_, row) in enumerate(rows.iterrows())}
    dark = {"color": shade(0.0), "marker": "P" if "scope" in table else "o"}
    styles = style_models(rows.loc[rows["model"] != ALL, "model"]) if "scope" in table else {}
    lift = 0.0 if beside is None else 0.17
    if isinstance(null, tuple):
        low, high = (scale * rows[name].to_numpy(float) for name in null)
        for bar in ax.barh(range(len(rows)), high - low, left=low, height=0.8, color="0.88", zorder=0):
            bar.sticky_edges.x.clear()  # leave a margin beside the bars too
    elif null:
        ax.plot(scale * rows[null], range(len(rows)), marker="|", markersize=9, color="0.35", linestyle="none")
    handles: list[Any] = []
    for part, shift, hollow in ((rows[~rows["_is_head"]], -lift, False), (beside, lift, True)):
        for _, row in () if part is None else part.iterrows():
            y = place[_key(row)] + shift
            if pd.isna(row[value]):
                ax.text(zero, y, "no estimate", va="center", fontsize="small", fontstyle="italic")
                continue
            style = styles.get(str(row.get("model")), dark)
            x, low, high = (scale * float(row[name]) for name in (value, "ci_low", "ci_high"))
            bars = ax.errorbar(
                x, y, xerr=[[max(x - low, 0)], [max(high - x, 0)]], color=style["color"], marker=style["marker"],
                capsize=2, linestyle="none", markersize=5 if row.get("model") == ALL else 3.5, elinewidth=0.9,
                markerfacecolor="white" if hollow else style["color"], zorder=3,
            )  # fmt: skip
            handles = handles or [bars]
    for k, part in enumerate((controls or {}).values()):
        handles += ax.plot(
            scale * part[value], [place[_key(row)] for _, row in part.iterrows()], linestyle="none",
            marker=("s", "^", "D", "v")[k % 4], markerfacecolor="none", markeredgecolor=shade((0.45, 0.6, 0.3, 0.15)[k % 4]),
        )  # fmt: skip
    ax.axvline(zero, color="0.5", linewidth=0.8, zorder=0)
    _name_rows(ax, rows)
    note = "" if confidence is None else f"\nbar: {confidence:.0%} {interval}"
    if null:
        note += f"\n{'|: upper end of' if isinstance(null, str) else 'grey:'} the null"
    ax.set_xlabel(f"{label}{note}")
    if controls:
        names = [str(table["quantity"].iloc[0]).replace("_", " "), *controls]
        ax.legend(handles, names, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    return ax


def _order_rows(table: pd.DataFrame, in_order: bool = False) -> pd.DataFrame:
    """Return the rows by benchmark (its head or all models together, then each model), the pooled row last."""
    if "row" in table:
        return table.assign(_name=table["row"].map(name_row), _is_head=False, model="")
    rows = table.astype({"model": str, "benchmark": str}).assign(_is_head=False)
    if "scope" not in rows:
        heads = pd.DataFrame({"benchmark": rows["benchmark"].unique(), "model": ALL, "scope": "benchmark"})
        rows = pd.concat([rows.assign(scope="cell"), heads.assign(_is_head=True)])
    if (twice := rows.duplicated(["scope", "model", "benchmark"])).any():
        row = rows[twice].iloc[0]
        raise ValueError(f"{_name_scope(row)}: several rows; expected one a scope, filter the term or rule")
    rows["_last"] = rows["scope"] == "pooled"
    rows["_place"] = rows["scope"].map({"benchmark": 0, "cell": 1, "pooled": 2})
    rows["_name"] = [_name_scope(row) if row["model"] == ALL else row["model"] for _, row in rows.iterrows()]
    model, benchmark = (pd.factorize(rows[name], sort=not in_order)[0] for name in ("model", "benchmark"))
    return rows.iloc[np.lexsort([model, rows["_place"], benchmark, rows["_last"]])].reset_index(drop=True)


def _name_rows(ax: Axes, rows: pd.DataFrame) -> None:
    ax.set(yticks=range(len(rows)), yticklabels=rows["_name"], ylim=(len(rows) - 0.4, -0.6))
    for text, is_bold in zip(ax.get_yticklabels(), rows["model"] == ALL, strict=False):  # hidden labels have no text
        text.set_fontweight("bold" if is_bold else "normal")
    ax.tick_params(axis="y", length=0)


def _key(row: Any) -> tuple[str, ...]:
    return (str(row["row"]),) if "row" in row else (str(row["benchmark"]), str(row["model"]))


def guarantee_panel(
    ax: Axes,
    shifted: pd.DataFrame,
    repaired: pd.DataFrame,
    home: pd.DataFrame,
    *,
    max_risk: float,
    confidence: float = 0.95,
) -> Axes:
    """Draw the risk of certified thresholds on other benchmarks for ONE model, a row a source and target.

    The tables are parts of `studies.guarantees.summarise_pairs`, `shifted` and `repaired` with a column `row`. Filled:
    the threshold as it was certified; hollow: certified again on the target; squares: at home, on the source itself,
    without an interval. A row without a certified threshold has no mark.
    """
    expect_one(shifted, "monitor", "model")
    shown = [table.dropna(subset=["risk"]) for table in (shifted, repaired)]
    own = shifted["source"].map(home.set_index("source")["risk"])
    rows = _order_rows(shifted)
    for table, lift, fill, name in zip(shown, (-0.17, 0.17), (shade(0.0), "white"), ("shifted", "repaired"), strict=True):
        y = [list(shifted["row"]).index(row) + lift for row in table["row"]]
        value, low, high = (100 * table[column].to_numpy(float) for column in ("risk", "ci_low", "ci_high"))
        ax.errorbar(
            value, y, xerr=_reach(value, low, high), fmt="o", color=shade(0.0), markerfacecolor=fill, markersize=4,
            capsize=2, elinewidth=0.9, label=name, zorder=3,
        )  # fmt: skip
    ax.plot(100 * own, range(len(own)), "s", markerfacecolor="none", markeredgecolor="0.4", label="home", zorder=2)
    ax.axvline(100 * max_risk, color="0.5", linestyle="--", linewidth=0.9, zorder=0, label="promised at most")
    _name_rows(ax, rows)
    note = f"bar: {confidence:.0%} Clopper-Pearson\nof one draw (mean ends)"
    ax.set_xlabel(f"risk of accepted answers (%)\n{note}")
    return ax


def lead_curves(ax: Axes, flags: pd.DataFrame) -> Axes:
    """Draw for how many of the flagged responses the flag stands already, by tokens before their end, a line a model.

    `flags` are the flagged rows of `studies.need.flag_table`.
    """
    styles = style_models(flags["model"])
    for model, own in flags.groupby("model", observed=True):
        longest, style = int(own["n_tokens"].max()), styles[str(model)]
        share = [100 * (own["lead_tokens"] > before).mean() for before in range(longest)]
        ax.plot(range(longest), share, label=f"{model} ({len(own)})", markevery=5, markersize=3.5, **style)
    ax.set(xlabel="tokens before the end (number)", ylabel="flag stands to the end\n(% of flagged responses)", ylim=(0, 105))
    ax.invert_xaxis()
    ax.legend(frameon=False)
    return ax


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

    `position` is `bin` (drawn at the bin's centre, in %), `reasoning_share` or `step_index` (from 1). `models` fixes the
    styles where a panel shows fewer models than its figure.
    """
    rows = curves[curves["quantity"] == quantity]
    expect_one(rows, "benchmark", "head_set")
    styles = style_models(models or [str(m) for m in rows["model"].unique()])
    n_bins = int(curves[position].max()) + 1
    for model, line in rows.sort_values(position).groupby("model", observed=True):
        index = line[position].to_numpy(float)
        x = {"bin": 100 * (index + 0.5) / n_bins, "reasoning_share": 100 * index}.get(position, index + 1)
        style = styles[str(model)]
        ax.plot(x, line["estimate"], **style, label=str(model))
        ax.fill_between(x, line["ci_low"], line["ci_high"], color=style["color"], alpha=0.18, linewidth=0)
    ax.set(xlabel=POSITIONS[position], ylabel=LABELS[quantity], title=str(rows["benchmark"].iloc[0]))
    if position != "step_index":
        ax.set_xlim(0, 100)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylim(bottom=0)
    if legend:
        forced = "; of shares of answers Wilson" if position == "reasoning_share" else ""
        _legend_below(ax, 3, f"mean over items; band: {confidence:.0%} cluster bootstrap{forced}")
    return ax


def curve_grid(
    curves: pd.DataFrame, quantities: Sequence[str] = ("evidence",), *, position: str = "bin", confidence: float = 0.95
) -> Figure:
    """Return a figure with a row per quantity and a column per benchmark: the curves of ONE head set."""
    benchmarks = sorted(curves["benchmark"].astype(str).unique())
    models = [str(model) for model in curves["model"].unique()]
    figure: Figure = plt.figure(figsize=(7, 0.6 + 1.7 * len(quantities)), layout="constrained")
    axes = figure.subplots(len(quantities), len(benchmarks), sharex=position != "step_index", sharey="row", squeeze=False)
    for (row, column), ax in np.ndenumerate(axes):
        part = curves[curves["benchmark"].astype(str) == benchmarks[column]]
        collapse_curves(
            ax, part, quantities[row], position=position, models=models, confidence=confidence,
            legend=row == column == 0,
        )  # fmt: skip
        ax.label_outer()
        if row:
            ax.set_title("")
    for quantity, ax in zip(quantities, axes[:, 0], strict=True):
        # The panels of a row share their axis, and the first one drawn would fix its top.
        ax.set_ylim(0, 1.05 * float(curves.loc[curves["quantity"] == quantity, ["estimate", "ci_high"]].max().max()))
    return figure


def transfer_heat_map(ax: Axes, table: pd.DataFrame, value: str = "gain", *, reach: float | None = None) -> Axes:
    """Draw the transfer of ONE rule and model as a map: fitted on (rows) x tested on (columns), with intervals.

    `value` is gain or auroc. A gain stands in brackets where its interval contains 0; the interval is the one that
    resamples the fit too, if the table has it. The shades of a gain end at -`reach` and `reach` (default: the largest
    gain), so that maps with one reach compare.
    """
    expect_one(table, "rule", "model")
    names = sorted(set(table["train"]) | set(table["test"]))
    refit, held = {"gain": ("refit_gain", "gain"), "auroc": ("refit", "ci")}[value]
    ends = [f"{refit if f'{refit}_low' in table else held}_{end}" for end in ("low", "high")]
    reach = reach or max(float(table[value].abs().max()), 1e-9)
    low, high = (-reach, reach) if value == "gain" else (0.5, 1.0)
    grid = np.full((len(names), len(names)), np.nan)
    for _, row in table.iterrows():
        y, x = names.index(row["train"]), names.index(row["test"])
        grid[y, x] = number = float(row[value])
        first, left, right = (f"{float(row[name]):{'+' * (value == 'gain')}.3f}" for name in (value, *ends))
        first = f"({first})" if value == "gain" and row[ends[0]] <= 0 <= row[ends[1]] else first
        dark = (number - low) / (high - low) < 0.55
        ax.text(
            x, y, f"{first}\n{left} to\n{right}", ha="center", va="center", fontsize=6, linespacing=1.1,
            color="white" if dark else "black",
        )  # fmt: skip
    image = ax.imshow(grid, cmap=COLOUR_MAP, vmin=low, vmax=high)
    labels = [name.replace("_", "\n") for name in names]
    model = table["model"].iloc[0]
    ax.set(xticks=range(len(names)), yticks=range(len(names)), xticklabels=labels, yticklabels=labels)
    ax.set_title(f"{table['rule'].iloc[0]}, {'mean over models' if model == ALL else model}")
    ax.set(xlabel="tested on", ylabel="fitted on")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.figure.colorbar(image, ax=ax, label=VALUES[value], shrink=0.8)
    return ax


def interaction_surface(ax: Axes, surface: pd.DataFrame, *, min_near: int = 1, colour_bar: bool = True) -> Axes:
    """Draw P(correct) of ONE scope over entropy and vision as filled contours, a labelled line every 10 %.

    `surface` has a row per point of a full grid: entropy_z, vision_z (standard deviations within the cell), n_near and
    probability. Points with fewer than `min_near` rows beside them are hatched: nothing was seen there. The shades are
    the same in every panel, so that one colour bar is enough.
    """
    expect_one(surface, "scope", "model", "benchmark")
    full = surface.pivot(index="vision_z", columns="entropy_z", values=["probability", "n_near"])
    if full.isna().to_numpy().any():
        raise ValueError("interaction surface: points are missing; give a full grid of entropy_z x vision_z")
    grid, near = full["probability"], full["n_near"].to_numpy()
    x, y, marks = grid.columns.to_numpy(float), grid.index.to_numpy(float), np.arange(0, 101, 10)
    z = np.ma.masked_where(near < min_near, 100 * grid.to_numpy(float))
    ax.set_facecolor("0.93")
    ax.patch.set(hatch="////", edgecolor="0.7", linewidth=0)
    filled = ax.contourf(x, y, z, levels=marks, cmap=COLOUR_MAP, vmin=0, vmax=100)
    lines = ax.contour(x, y, z, levels=marks, colors="black", linewidths=0.5)
    for text in ax.clabel(lines, fmt="%.0f %%", fontsize=6, inline=False):
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6})
        shares = [(at - axis.min()) / np.ptp(axis) for at, axis in zip(text.get_position(), (x, y), strict=True)]
        text.set_visible(min(shares) >= 0.1 and max(shares) <= 0.9)  # not at an edge
    ax.set(xlabel="entropy (sd within the cell)", ylabel="vision (sd within the cell)", aspect="equal")
    ax.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()), title=_name_scope(surface.iloc[0]))
    if colour_bar:
        ax.figure.colorbar(filled, ax=ax.figure.axes, label="P(correct) (%)", shrink=0.75)
    return ax


def specification_grid(
    table: pd.DataFrame,
    bands: pd.DataFrame,
    factors: Sequence[str],
    *,
    label: str,
    confidence: float = 0.95,
) -> Figure:
    """Return a figure with a column per task type: its sorted specification curve above the choices that made it.

    `table` has a row per task type and specification: task_type, estimate and a column per factor. `bands` holds the
    sorted curves of dealt vision: task_type, place (0 is the lowest), low, high. Below, a mark stands in the row of each
    choice that a specification made: a choice that matters gathers its marks at one end.
    """
    names = list(dict.fromkeys(table["task_type"]))
    levels = [(factor, level) for factor in factors for level in ["", *dict.fromkeys(table[factor])]]
    figure: Figure = plt.figure(figsize=(7, 2.6 + 0.145 * len(levels)), layout="constrained")
    heights = {"height_ratios": [2.0, 0.145 * len(levels)]}
    axes = figure.subplots(2, len(names), sharey="row", sharex=True, squeeze=False, gridspec_kw=heights)
    for (curve, marks), name in zip(axes.T, names, strict=True):
        rows = table[table["task_type"] == name].sort_values("estimate", kind="stable", ignore_index=True)
        band = bands[bands["task_type"] == name].sort_values("place")
        curve.fill_between(band["place"], band["low"], band["high"], color="0.85", linewidth=0, label="dealt vision")
        curve.plot(rows.index, rows["estimate"], color=shade(0.0), linewidth=1.4, label="observed")
        curve.axhline(0, color="0.5", linewidth=0.8, zorder=0)
        curve.set_title(f"{name.replace('_', ' ')}\n{(rows['estimate'] < 0).mean():.0%} below zero")
        made = [np.zeros(len(rows)) if not level else rows[factor] == level for factor, level in levels]
        marks.imshow(
            np.array(made, float), aspect="auto", cmap="Greys", vmin=0, vmax=1, interpolation="nearest",
            extent=(-0.5, len(rows) - 0.5, len(levels) - 0.5, -0.5),
        )  # fmt: skip
        marks.hlines([y - 0.5 for y in range(len(levels))], -0.5, len(rows) - 0.5, color="0.85", linewidth=0.4)
        marks.tick_params(axis="y", length=0)
    axes[1, 0].set_yticks(range(len(levels)), [level or factor for factor, level in levels])
    for text, (_, level) in zip(axes[1, 0].get_yticklabels(), levels, strict=True):
        text.set(fontweight="normal" if level else "bold", fontsize=6)
    axes[0, 0].set_ylabel(label)
    axes[1, len(names) // 2].set_xlabel("specifications, sorted by their estimate")
    _legend_below(axes[0, 0], 2, f"grey: {confidence:.0%} of the sorted curves of dealt vision, place by place")
    return figure


def risk_coverage_curves(
    ax: Axes,
    table: pd.DataFrame,
    rules: Sequence[str] = tuple(RULE_NAMES),
    *,
    value: str = "risk",
    bands: Sequence[str] = ("entropy", "oracle"),
    confidence: float = 0.95,
    legend: bool = True,
) -> Axes:
    """Draw held-out risk, or the gain over the base, against realised coverage for ONE scope and base of a veto table.

    A line per rule, a band for those of `bands`.
    """
    expect_one(table, "scope", "model", "benchmark")
    styles = style_models([f"{k}" for k in range(len(RULE_NAMES))])
    ends, words = {
        "risk": (("risk_low", "risk_high"), "selective risk\n(% of answers wrong)"),
        "gain": (("ci_low", "ci_high"), "risk saved\n(percentage points)"),
    }[value]
    for k, rule in enumerate(RULE_NAMES):
        line = table[table["rule"] == rule].sort_values("realised_coverage")
        if rule not in rules or line.empty:
            continue
        x, style = 100 * line["realised_coverage"].to_numpy(float), styles[str(k)]
        ax.plot(x, 100 * line[value], **style, label=RULE_NAMES[rule])
        if rule in bands:
            low, high = (100 * line[name].to_numpy(float) for name in ends)
            ax.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
    ax.set(xlabel="coverage (%)", ylabel=words, title=_name_scope(table.iloc[0]))
    if value == "risk":  # panels that share their axis: none may cut another's band
        ax.set_ylim(0, max(ax.get_ylim()[1], 103 * table["risk_high"].max()))
    else:
        ax.axhline(0, color="0.5", linewidth=0.8, zorder=0)
    if legend:
        _legend_below(ax, 3, f"held-out halves, realised coverage; band: {confidence:.0%} block jackknife")
    return ax


def quadrant_risk(ax: Axes, table: pd.DataFrame, *, confidence: float = 0.95, legend: bool = True) -> Axes:
    """Draw the risk of the four quadrants of ONE scope (quadrant table) as bars with Wilson intervals and counts.

    Plain bars: low vision; hatched: high vision. A low count is a wide interval, and both are printed.
    """
    expect_one(table, "scope", "model", "benchmark")
    for j, vision in enumerate(("low", "high")):
        rows = table[table["vision_level"] == vision].set_index("entropy_level").loc[["low", "high"]]
        x = np.arange(2) + (j - 0.5) * 0.44
        risk, low, high = (100 * rows[name].to_numpy(float) for name in ("risk", "ci_low", "ci_high"))
        ax.bar(
            x, risk, width=0.4, color=shade((0.35, 0.9)[j]), hatch=HATCHES[j], edgecolor="black", linewidth=0.6,
            label=f"{vision} vision",
        )  # fmt: skip
        known = ~np.isnan(risk)
        ends = _reach(risk, low, high)[:, known]
        ax.errorbar(x[known], risk[known], yerr=ends, linestyle="none", color="black", capsize=2.5)
        for place, top, bad, n in zip(x, high, rows["n_quadrant_wrong"], rows["n"], strict=True):
            ax.text(place, (top if n else 0) + 3, f"{bad}/{n}", ha="center", fontsize=6)
    ax.set_xticks(range(2), ["low entropy\n(confident)", "high entropy\n(unsure)"])
    ax.set(ylabel="risk (% wrong)", xlim=(-0.5, 1.5), ylim=(0, 119), yticks=range(0, 101, 25))
    ax.set_title(_name_scope(table.iloc[0]))
    if legend:
        _legend_below(ax, 2, f"bar: {confidence:.0%} Wilson interval; above it: wrong / all answers of the quadrant")
    return ax


def reliability_curve(ax: Axes, curves: pd.DataFrame, *, confidence: float = 0.95, legend: bool = True) -> Axes:
    """Draw the share of correct answers against the predicted probability, a line per model.

    `curves` holds the tables of `studies.entropy.reliability_curve` with a column model. On the grey diagonal a prediction
    means what it says; above it the model is right more often than it says.
    """
    models = curves["model"].astype(str)
    ax.plot([0, 100], [0, 100], color="0.6", linewidth=0.8, zorder=0)
    for model, style in style_models(models.unique()).items():
        line = curves[models == model].sort_values("mean_probability")
        columns = ("mean_probability", "share_correct", "ci_low", "ci_high")
        x, share, low, high = (100 * line[name].to_numpy(float) for name in columns)
        ax.errorbar(x, share, yerr=_reach(share, low, high), **style, capsize=1.5, elinewidth=0.7, label=model)
    ax.set(xlabel="predicted probability\nof a correct answer (%)", ylabel="correct answers (%)")
    ticks = range(0, 101, 25)
    ax.set(xlim=(-3, 103), ylim=(-3, 103), xticks=ticks, yticks=ticks, aspect="equal")
    if legend:
        _legend_below(ax, 3, f"bar: {confidence:.0%} Wilson interval of a bin")
    return ax


def claim_panel(ax: Axes, name: str, claim: Mapping[str, Any]) -> Axes:
    """Draw one tested claim: rows with intervals over the band (one number: the line) that was reported."""
    scale, label = UNITS[claim["unit"]]
    rows = pd.DataFrame(claim["shown"])
    forest(ax, rows, label=label, scale=scale, confidence=None).tick_params(axis="y", labelsize=6)
    ends = {end: scale * claim["reported"][end] for end in ("low", "high") if end in claim["reported"]}
    found = [*(scale * rows["ci_low"]), *(scale * rows["ci_high"]), *ends.values(), 0]
    margin = 0.06 * (max(found) - min(found))
    left, right = min(found) - margin, max(found) + margin
    if ends.get("low") == ends.get("high"):
        ax.axvline(ends["low"], color="0.45", linestyle="--", linewidth=1.4, zorder=1)
    else:
        ax.axvspan(ends.get("low", left), ends.get("high", right), color="0.86", linewidth=0, zorder=0)
    ax.set(xlim=(left, right), title=f"{name} {claim['title']}:\n{claim['verdict']}")
    return ax


def name_row(row: str) -> str:
    """Return a row's name as a tick label: words, and the second star on a line of its own if it is long."""
    words = row.replace("_", " ").replace("qwen3vl", "qwen")
    return words if len(words) < 20 else words.replace(" / ", "\n").replace(" to ", "\nto ")


def note_panel(ax: Axes, claims: Mapping[str, Mapping[str, Any]], confidence: float) -> Axes:
    """Write what cannot be drawn: how to read the panels, and the claims that this profile does not test."""
    lines = [
        f"Dots: ours, with {confidence:.0%} intervals. Grey band or dashed line: as reported (a band that runs to the "
        "edge: only a sign was reported)."
    ]
    for name, claim in ((name, claim) for name, claim in claims.items() if "reason" in claim):
        lines.append(f"{name} {claim['title']}: {claim['verdict']}; {claim['reason']}.")
    ax.text(-0.1, 1, "\n".join(textwrap.fill(line, 112) for line in lines), va="top", fontsize=7)
    ax.set_axis_off()
    return ax


def accuracy_panel(ax: Axes, items: pd.DataFrame, confidence: float = 0.95) -> Axes:
    """Draw the share of correct responses per benchmark and model, with Wilson intervals."""
    models, benchmarks = (sorted(items[c].astype(str).unique()) for c in ("model", "benchmark"))
    styles = style_models(models)
    for k, model in enumerate(models):
        cells = items[items["model"].astype(str) == model].groupby(items["benchmark"].astype(str))["correct"]
        right, n = cells.sum(), cells.size()
        share = (100 * right / n).to_numpy(float)
        ends = proportion_confint(right.to_numpy(), n.to_numpy(), alpha=1 - confidence, method="wilson")
        reach = _reach(share, *(100 * end for end in ends))
        x = np.array([benchmarks.index(b) for b in right.index]) + (k - (len(models) - 1) / 2) * 0.2
        look = {"fmt": styles[model]["marker"], "color": styles[model]["color"]}
        ax.errorbar(x, share, yerr=reach, **look, capsize=2.5, label=model)
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
        x = np.arange(len(benchmarks)) + (k - (len(models) - 1) / 2) * 0.26
        parts |= {"whis": (5, 95), "showfliers": False, "manage_ticks": False}
        handles += ax.boxplot(lengths, positions=x, widths=0.2, **parts)["boxes"][:1]
    ax.set_xticks(range(len(benchmarks)), [name.replace("_", "\n") for name in benchmarks])
    ax.set(ylabel="response length (tokens)", ylim=(0, 1.45 * ax.get_ylim()[1]))
    ax.legend(handles, models, title="box: quartiles; whiskers: 5-95 %", loc="upper left", frameon=False)
    return ax


def finish_panel(ax: Axes, items: pd.DataFrame) -> Axes:
    """Draw the shares of finish reasons per cell as stacked bars; what did not stop is counted beside."""
    cells = [items[column].astype(str) for column in ("benchmark", "model")]
    counts = pd.crosstab(cells, items["finish_reason"].astype(str))
    counts = counts[sorted(counts, key=lambda reason: (reason != "stop", reason))]
    shares, left = 100 * counts.div(counts.sum(axis=1), axis=0), np.zeros(len(counts))
    rows = _order_rows(shares.reset_index(names=["benchmark", "model"]))
    y = rows.index[~rows["_is_head"]]
    for k, reason in enumerate(shares):
        ax.barh(
            y, shares[reason], left=left, height=0.7, label=reason, hatch=HATCHES[k], edgecolor="white",
            color=shade((0.85, 0.3, 0.55)[k % 3]), linewidth=0.6,
        )  # fmt: skip
        left += shares[reason].to_numpy()
    for row, cut in zip(y, counts.drop(columns="stop", errors="ignore").sum(axis=1), strict=True):
        ax.text(101, row, f"{cut:.0f}", va="center", fontsize="small")
    ax.set(xlabel="responses (%); beside: how many did not stop", xlim=(0, 100))
    _name_rows(ax, rows)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, title="finish reason")
    return ax


def noise_panel(ax: Axes, items: pd.DataFrame, n_parts: int = 5) -> Axes:
    """Draw accuracy against picture noise: per benchmark, in `n_parts` equal shares of its responses."""
    styles = style_models(items["benchmark"].astype(str).unique())
    for benchmark, rows in items.dropna(subset=["noise_level"]).groupby(items["benchmark"].astype(str)):
        parts = rows.groupby(pd.qcut(rows["noise_level"], n_parts, duplicates="drop"), observed=True)
        means = parts[["noise_level", "correct"]].mean()
        ax.plot(means["noise_level"], 100 * means["correct"], **styles[benchmark], label=benchmark)
    ax.set(xlabel="picture noise (level)", ylabel="accuracy (% of items)", ylim=(0, 100))
    if ax.lines:
        ax.legend(title="all models, equal shares by noise", loc="lower left", frameon=False)
    else:
        ax.text(0.5, 0.5, "no noise levels", transform=ax.transAxes, ha="center", fontstyle="italic")
    return ax


def learning_curves(ax: Axes, history: pd.DataFrame, y: str, *, legend: bool = True) -> Axes:
    """Draw a training measure of each model (columns: model, step, `y`) against optimiser steps."""
    styles = style_models(history["model"].astype(str).unique())
    for model, line in history.sort_values("step").groupby(history["model"].astype(str)):
        ax.plot(line["step"] / 1000, line[y], **styles[model], label=model, markevery=max(1, len(line) // 8))
    ax.set(xlabel="optimiser steps (thousands)", ylabel=f"{y.replace('_', ' ')} (share)")
    if legend:
        ax.legend(title="model", frameon=False)
    return ax


def head_lift_map(ax: Axes, heads: pd.DataFrame, chosen: Sequence[tuple[int, int]] = ()) -> Axes:
    """Draw the evidence lift of each head of ONE model (a ratio of means), the `chosen` heads framed."""
    expect_one(heads, "model")
    rows = heads.assign(expected=heads["visual_mass"] * heads["evidence_fraction"])
    sums = rows.groupby(["layer", "head"])[["evidence_mass", "expected"]].sum()
    lift = (sums["evidence_mass"] / sums["expected"]).unstack("head")
    small = lift.size <= 64
    sns.heatmap(
        lift, ax=ax, cmap=COLOUR_MAP, vmin=0, annot=small, fmt=".2g" if lift.size <= 16 else ".1f",
        linewidths=0.5 * small, xticklabels=-(-lift.shape[1] // 12), yticklabels=-(-lift.shape[0] // 12),
        cbar_kws={"label": "evidence lift (ratio; 1 = no preference)"},
    )  # fmt: skip
    ax.tick_params(axis="y", rotation=0)
    for layer, head in chosen:
        where = (list(lift.columns).index(head), list(lift.index).index(layer))
        for colour, line in (("white", 3.0), ("black", 1.2)):
            ax.add_patch(Rectangle(where, 1, 1, fill=False, edgecolor=colour, linewidth=line, clip_on=False))
    ax.set(xlabel="head (number)", ylabel="layer (number)", title=str(heads["model"].iloc[0]))
    if len(chosen):
        mark = Patch(fill=False, edgecolor="black")
        ax.figure.legend([mark], ["grounding heads"], frameon=False, loc="outside lower center")
    return ax


def _reach(value: Any, low: Any, high: Any) -> Any:
    """Return the two lengths of an error bar; rounding makes none negative."""
    return np.abs(np.stack([value - low, high - value]))


def _legend_below(ax: Axes, ncols: int, title: str) -> None:
    shown = ax.get_legend_handles_labels()
    ax.figure.legend(*shown, loc="outside lower center", ncols=ncols, frameon=False, title=title)


def _name_scope(row: Any) -> str:
    if row["scope"] == "pooled":
        return "pooled"
    return str(row["benchmark"]) if row["scope"] == "benchmark" else f"{row['benchmark']}, {row['model']}"


def knockout_grid(
    table: pd.DataFrame,
    conditions: Mapping[str, str],
    *,
    margin: float,
    flagged: Sequence[tuple[str, str]] = (),
    confidence: float = 0.95,
) -> Figure:
    """Return a panel per benchmark (rows) and model (columns): the accuracy under conditions less the stored one.

    `table` is `studies.causal.control_table`, `conditions` the words for those that are drawn, against the share of the
    reasoning from which on they hold. Grey: -+ `margin`, what counts as none. A `flagged` cell (model, benchmark) is
    hatched and says so: a control there is not shown to stay within it; nothing is to be read from its other lines.
    """
    models, benchmarks = (sorted(table[name].astype(str).unique()) for name in ("model", "benchmark"))
    figure: Figure = plt.figure(figsize=(7, 0.9 + 1.7 * len(benchmarks)), layout="constrained")
    axes = figure.subplots(len(benchmarks), len(models), sharex=True, sharey=True, squeeze=False)
    styles = [style_models([f"{k}" for k in range(len(MARKERS))])[f"{k}"] for k in range(len(MARKERS))]
    for (i, j), ax in np.ndenumerate(axes):
        cell = table[(table["benchmark"] == benchmarks[i]) & (table["model"] == models[j])]
        for k, (name, words) in enumerate(conditions.items()):
            rows = cell[cell["condition"] == name].sort_values("start_share")
            value, low, high = (100 * rows[column].to_numpy(float) for column in ("estimate", "ci_low", "ci_high"))
            x = 100 * rows["start_share"].to_numpy(float) + 1.4 * (k - (len(conditions) - 1) / 2)
            look = styles[k] | {"markerfacecolor": "white" if name != "evidence" else styles[k]["color"]}
            ax.errorbar(x, value, yerr=_reach(value, low, high), **look, capsize=1.5, elinewidth=0.7, label=words)
        ax.axhspan(-100 * margin, 100 * margin, color="0.85", linewidth=0, zorder=0)
        ax.axhline(0, color="0.5", linewidth=0.8, zorder=0)
        if (models[j], benchmarks[i]) in flagged:
            ax.patch.set(hatch="////", edgecolor="0.8", linewidth=0)
            box = {"facecolor": "white", "edgecolor": "black", "linewidth": 0.5, "pad": 2}
            ax.text(0.97, 0.06, "control not within the margin", transform=ax.transAxes, ha="right", fontsize=6, bbox=box)
        ax.set(title=models[j] if i == 0 else "", xticks=range(0, 101, 25))
        if j == 0:
            ax.set_ylabel(f"{benchmarks[i].replace('_', ' ')}\naccuracy change (points)", fontsize="small")
    label = "share of the own reasoning from which on the look is blocked (%; 100: the answer)"
    axes[-1, len(models) // 2].set_xlabel(label)
    note = f"bar: {confidence:.0%} Newcombe interval, paired; grey: -+ {100 * margin:g} points, counted as none"
    _legend_below(axes[0, 0], min(len(conditions), 3), note)
    return figure


def use_grid(pairs: pd.DataFrame, table: pd.DataFrame, *, label: str, confidence: float = 0.95) -> Figure:
    """Return a panel per benchmark (rows) and model (columns): attention at a word against what the word depends on.

    `pairs` has a row a restated word (model, benchmark, attention, use), `table` the rank correlation of each cell with
    its interval (`studies.causal.use_table`, one use). The lines are medians of `use` in fifths of the attention.
    """
    models, benchmarks = (sorted(pairs[name].astype(str).unique()) for name in ("model", "benchmark"))
    figure: Figure = plt.figure(figsize=(7, 0.6 + 1.7 * len(benchmarks)), layout="constrained")
    axes = figure.subplots(len(benchmarks), len(models), sharex="row", sharey=True, squeeze=False)
    for (i, j), ax in np.ndenumerate(axes):
        rows = pairs[(pairs["benchmark"] == benchmarks[i]) & (pairs["model"] == models[j])]
        found = table[(table["benchmark"] == benchmarks[i]) & (table["model"] == models[j])]
        ax.plot(rows["attention"], rows["use"], ".", color="0.6", markersize=1.5, rasterized=True, label="a word")
        if len(rows) > 5:
            fifths = rows.groupby(pd.qcut(rows["attention"], 5, duplicates="drop"), observed=True)[["attention", "use"]]
            middle = fifths.median()
            ax.plot(middle["attention"], middle["use"], "o-", color=shade(0.0), label="median of a fifth")
        said = "too few words"
        if len(found):
            row = found.iloc[0]
            said = f"{row['estimate']:.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
        ax.set_title(f"{models[j]}\n{said}" if i == 0 else said, fontsize="small")
        ax.axhline(0, color="0.5", linewidth=0.8, zorder=0)
        if j == 0:
            ax.set_ylabel(f"{benchmarks[i].replace('_', ' ')}\n{label}", fontsize="small")
    axes[-1, len(models) // 2].set_xlabel("attention to the cell at the row that predicts the word (share of attention)")
    _legend_below(axes[0, 0], 2, f"above a panel: Spearman's correlation with its {confidence:.0%} interval")
    return figure
