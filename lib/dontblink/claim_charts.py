"""The claims figure: the reported value beside our estimates, a panel a claim.

Why it exists: one look must tell what was reported, what came out here, and what the rule said. In: an axes and an
entry of the ledger. Out: the axes. Never: compute an estimate or a verdict, or tell things apart by colour alone.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from dontblink.picture import COLOUR_MAP

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
