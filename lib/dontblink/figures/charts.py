"""Figures of the statistics: coefficients, transfer, interaction surface, selective risk, quadrants, calibration.

Why: as `plots`, a figure reads a table and decides nothing. In: the tables of entropy.py, transfer.py, reliability.py,
interaction.py and veto.py. Out: the same axes. What is compared differs by colour, line and marker at once, and every
interval says what it is. Never: compute a statistic that a table should hold, write a file, or set a style globally.

The claims figure: the reported value beside our estimates, a panel a claim.

Why it exists: one look must tell what was reported, what came out here, and what the rule said. In: an axes and an
entry of the ledger. Out: the axes. Never: compute an estimate or a verdict, or tell things apart by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from dontblink.figures.picture import COLOUR_MAP
from dontblink.figures.plots import HATCHES, expect_one, style_models
import textwrap
from collections.abc import Mapping

RULE_NAMES = {
    "entropy": "entropy only",
    "linear": "one linear rule",
    "interaction": "one rule with E x V",
    "veto": "targeted veto",
    "oracle": "oracle",
}
VALUES = {"gain": "gain in AUROC over entropy alone", "auroc": "AUROC"}
ALL = "all"


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
    confidence: float = 0.95,
    interval: str = "bootstrap by item",
) -> Axes:
    """Draw one value per scope with its interval: each benchmark (bold) above its models, the pooled row last.

    `table` has one row per scope (filter the term, rule or score), with columns scope, model, benchmark, `value`,
    ci_low and ci_high; rows without a value are named and left empty. `beside` is a second table of the same kind,
    drawn hollow beneath the first (adjusted beside unadjusted). `null` names a column, the upper end of a null (a mark
    |), or two, a null's ends (a pale bar). `label` names the value and its unit; `scale` multiplies (100 for percentage
    points); the vertical line stands at `zero`.
    """
    rows = _order_scopes(table)
    place = {(row["benchmark"], row["model"]): y for y, (_, row) in enumerate(rows.iterrows())}
    styles = style_models([m for m in rows["model"] if m != ALL])
    lift = 0.0 if beside is None else 0.17
    if isinstance(null, tuple):
        low, high = (scale * rows[name].to_numpy(float) for name in null)
        for bar in ax.barh(range(len(rows)), high - low, left=low, height=0.8, color="0.88", zorder=0):
            bar.sticky_edges.x.clear()  # leave a margin beside the bars too
    elif null:
        ax.plot(scale * rows[null], range(len(rows)), marker="|", markersize=9, color="0.35", linestyle="none")
    for part, shift, hollow in ((rows, -lift, False), (beside, lift, True)):
        for _, row in () if part is None else part.iterrows():
            y = place[row["benchmark"], row["model"]] + shift
            if pd.isna(row[value]):
                ax.text(zero, y, "no estimate", va="center", fontsize="small", fontstyle="italic")
                continue
            style = styles.get(str(row["model"]), {"color": mpl.colormaps[COLOUR_MAP](0.0), "marker": "P"})
            x, low, high = (scale * float(row[name]) for name in (value, "ci_low", "ci_high"))
            ax.errorbar(
                x, y, xerr=[[max(x - low, 0)], [max(high - x, 0)]], color=style["color"], marker=style["marker"],
                capsize=2, linestyle="none", markersize=5 if row["model"] == ALL else 3.5, elinewidth=0.9,
                markerfacecolor="white" if hollow else style["color"],
            )  # fmt: skip
    ax.axvline(zero, color="0.5", linewidth=0.8, zorder=0)
    names = [_name_scope(row) if row["model"] == ALL else str(row["model"]) for _, row in rows.iterrows()]
    ax.set(yticks=range(len(rows)), yticklabels=names, ylim=(len(rows) - 0.4, -0.6))
    for text, (_, row) in zip(ax.get_yticklabels(), rows.iterrows(), strict=False):  # hidden labels have no text
        text.set_fontweight("bold" if row["model"] == ALL else "normal")
    ax.tick_params(axis="y", length=0)
    note = f"bar: {confidence:.0%} {interval}"
    if null:
        note += f"\n{'|: upper end of' if isinstance(null, str) else 'grey:'} the null"
    ax.set_xlabel(f"{label}\n{note}")
    return ax


def transfer_heat_map(ax: Axes, table: pd.DataFrame, value: str = "gain", *, reach: float | None = None) -> Axes:
    """Draw the transfer of ONE rule and model as a map: fitted on (rows) x tested on (columns), with intervals.

    `value` is gain or auroc. A gain stands in brackets where its interval contains 0; the interval is the one that
    resamples the fit too, if the table has it. The shades of a gain end at -`reach` and `reach` (default: the largest
    gain), so that maps with one reach compare.
    """
    expect_one(table, "rule", "model")
    names = sorted(set(table["train"]) | set(table["test"]))
    prefix = {"gain": "gain", "auroc": "ci"}[value]
    both = {"gain": "refit_gain", "auroc": "refit"}[value]
    ends = [f"{both if f'{both}_low' in table else prefix}_{end}" for end in ("low", "high")]
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
    ax.set(xticks=range(len(names)), yticks=range(len(names)), xticklabels=labels, yticklabels=labels)
    ax.set(xlabel="tested on", ylabel="fitted on", title=f"{table['rule'].iloc[0]}, {_say(table['model'].iloc[0])}")
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
        near_edge = [
            min(at - axis.min(), axis.max() - at) < 0.1 * np.ptp(axis)
            for at, axis in zip(text.get_position(), (x, y), strict=True)
        ]
        text.set_visible(not any(near_edge))
    ax.set(xlabel="entropy (sd within the cell)", ylabel="vision (sd within the cell)", aspect="equal")
    ax.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()), title=_name_scope(surface.iloc[0]))
    if colour_bar:
        ax.figure.colorbar(filled, ax=ax.figure.axes, label="P(correct) (%)", shrink=0.75)
    return ax


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
    """Draw held-out risk, or the gain over entropy alone, against realised coverage for ONE scope of a veto table.

    A line per rule, a band for those of `bands`. The legend goes beneath the figure (constrained layout): ask one panel
    for it.
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
        ax.figure.legend(
            *ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False,
            title=f"held-out halves, realised coverage; band: {confidence:.0%} block jackknife",
        )  # fmt: skip
    return ax


def quadrant_risk(ax: Axes, table: pd.DataFrame, *, confidence: float = 0.95, legend: bool = True) -> Axes:
    """Draw the risk of the four quadrants of ONE scope (quadrant table) as bars with Wilson intervals and counts.

    Plain bars: low vision; hatched: high vision. A low count is a wide interval, and both are printed. The legend goes
    beneath the figure (constrained layout): ask one panel for it.
    """
    expect_one(table, "scope", "model", "benchmark")
    shade = mpl.colormaps[COLOUR_MAP]
    for j, vision in enumerate(("low", "high")):
        rows = table[table["vision_level"] == vision].set_index("entropy_level").loc[["low", "high"]]
        x, risk = np.arange(2) + (j - 0.5) * 0.44, 100 * rows["risk"].to_numpy(float)
        low, high = (100 * rows[name].to_numpy(float) for name in ("ci_low", "ci_high"))
        ax.bar(
            x, risk, width=0.4, color=shade((0.35, 0.9)[j]), hatch=HATCHES[j], edgecolor="black", linewidth=0.6,
            label=f"{vision} vision",
        )  # fmt: skip
        known = ~np.isnan(risk)
        reach = np.abs(np.stack([risk - low, high - risk]))[:, known]
        ax.errorbar(x[known], risk[known], yerr=reach, linestyle="none", color="black", capsize=2.5)
        for place, top, bad, n in zip(x, high, rows["n_quadrant_wrong"], rows["n"], strict=True):
            ax.text(place, (top if n else 0) + 3, f"{bad}/{n}", ha="center", fontsize=6)
    ax.set_xticks(range(2), ["low entropy\n(confident)", "high entropy\n(unsure)"])
    ax.set(ylabel="risk (% wrong)", xlim=(-0.5, 1.5), ylim=(0, 119), yticks=range(0, 101, 25))
    ax.set_title(_name_scope(table.iloc[0]))
    if legend:
        ax.figure.legend(
            *ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False,
            title=f"bar: {confidence:.0%} Wilson interval; above it: wrong / all answers of the quadrant",
        )  # fmt: skip
    return ax


def reliability_curve(ax: Axes, curves: pd.DataFrame, *, confidence: float = 0.95, legend: bool = True) -> Axes:
    """Draw the share of correct answers against the predicted probability, a line per model.

    `curves` holds the tables of `reliability.reliability_curve` with a column model. On the grey diagonal a prediction
    means what it says; above it the model is right more often than it says. The legend goes beneath the figure
    (constrained layout): ask one panel for it.
    """
    models = curves["model"].astype(str)
    ax.plot([0, 100], [0, 100], color="0.6", linewidth=0.8, zorder=0)
    for model, style in style_models(models.unique()).items():
        line = curves[models == model].sort_values("mean_probability")
        share = line["share_correct"].to_numpy(float)
        reach = 100 * np.abs(np.stack([share - line["ci_low"], line["ci_high"] - share]).astype(float))
        x = 100 * line["mean_probability"].to_numpy(float)
        ax.errorbar(x, 100 * share, yerr=reach, **style, capsize=1.5, elinewidth=0.7, label=model)
    ax.set(xlabel="predicted probability\nof a correct answer (%)", ylabel="correct answers (%)")
    ticks = range(0, 101, 25)
    ax.set(xlim=(-3, 103), ylim=(-3, 103), xticks=ticks, yticks=ticks, aspect="equal")
    if legend:
        ax.figure.legend(
            *ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False,
            title=f"bar: {confidence:.0%} Wilson interval of a bin",
        )  # fmt: skip
    return ax


def _order_scopes(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows by benchmark (all models together, then each of them), the pooled row last."""
    if (twice := table.duplicated(["scope", "model", "benchmark"])).any():
        row = table[twice].iloc[0]
        raise ValueError(f"{_name_scope(row)}: several rows; expected one a scope, filter the term or rule")
    place = {"benchmark": 0, "cell": 1, "pooled": 2}
    rows = table.assign(_last=table["scope"] == "pooled", _place=table["scope"].map(place))
    return rows.sort_values(["_last", "benchmark", "_place", "model"], ignore_index=True)


def _name_scope(row: Any) -> str:
    if row["scope"] == "pooled":
        return "pooled"
    return str(row["benchmark"]) if row["scope"] == "benchmark" else f"{row['benchmark']}, {row['model']}"


def _say(model: str) -> str:
    return "mean over models" if model == ALL else str(model)


AXES = {
    "percent": (100, "fall of the evidence mass (%)"),
    "points": (100, "risk saved (points)"),
    "auroc": (1, "difference of AUROCs"),
    "log_odds": (1, "entropy x vision (log-odds)"),
}


def claim_panel(ax: Axes, name: str, claim: Mapping[str, Any]) -> Axes:
    """Draw one tested claim: rows with intervals over the band (one number: the line) that was reported."""
    scale, label = AXES[claim["unit"]]
    rows = claim["shown"]
    value, low, high = (scale * np.array([row[key] for row in rows]) for key in ("estimate", "ci_low", "ci_high"))
    y = np.arange(len(rows))
    reach = np.stack([value - low, high - value])
    ax.errorbar(value, y, xerr=reach, fmt="o", color=mpl.colormaps[COLOUR_MAP](0.0), capsize=2, zorder=3)
    ends = {end: scale * claim["reported"][end] for end in ("low", "high") if end in claim["reported"]}
    found = [*low, *high, *ends.values(), 0]
    margin = 0.06 * (max(found) - min(found))
    left, right = min(found) - margin, max(found) + margin
    if ends.get("low") == ends.get("high"):
        ax.axvline(ends["low"], color="0.45", linestyle="--", linewidth=1.4, zorder=1)
    else:
        ax.axvspan(ends.get("low", left), ends.get("high", right), color="0.86", linewidth=0, zorder=0)
    ax.axvline(0, color="0.3", linewidth=0.6, zorder=1)
    ax.set(xlim=(left, right), ylim=(len(rows) - 0.5, -0.5), xlabel=label)
    ax.set_yticks(y, [name_row(row["row"]) for row in rows], fontsize=6)
    ax.tick_params(axis="y", length=0)
    ax.set_title(f"{name} {claim['title']}:\n{claim['verdict']}")
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
    lines += [
        f"{name} {claim['title']}: {claim['verdict']}; {claim['reason']}."
        for name, claim in claims.items()
        if "reason" in claim
    ]
    ax.text(-0.1, 1, "\n".join(textwrap.fill(line, 112) for line in lines), va="top", fontsize=7)
    ax.set_axis_off()
    return ax
