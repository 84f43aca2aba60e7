"""The items that a claim needs: power and level by number of items, the number that reaches 80 %, the figure.

Why: "underpowered" is a number of items, not a feeling. In: the rows of the studies of `power`. Out: rates with exact
Monte-Carlo intervals, `n_at_80`, a panel a claim. Never: a number of items beyond those that were simulated.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import ndtri
from statsmodels.stats.proportion import proportion_confint

from dontblink import params, paths
from dontblink_simulation.power import CLAIMS

LEVEL, WANTED = 0.05, 0.8
PAPER_ITEMS = 300  # of a cell of the paper


def summarise_power(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return a row per claim and number of items: power and level (of the claimed side and of both) with intervals.

    Columns: claim, n_items, n_studies, n_refused (both kinds), power, power_low, power_high (p <= 0.05 and on the
    claimed side, a refused study counts as none), level, level_low, level_high (p <= 0.05 without the effect).
    """
    results = []
    for name, claim in CLAIMS.items():
        table = tables[f"power_{name}"]
        for n in claim.sizes:
            own, nothing = (table[table["setting"] == f"{kind}_{n}"] for kind in ("with", "without"))
            hits = (own["p"] <= LEVEL + 1e-12) & (np.sign(own["estimate"]) == claim.side)
            row: dict[str, Any] = {"claim": name, "n_items": n, "n_studies": len(own)}
            row["n_refused"] = int((own["reason"] != "").sum() + (nothing["reason"] != "").sum())
            for rate, found in (("power", hits), ("level", nothing["p"] <= LEVEL + 1e-12)):
                ends = proportion_confint(int(found.sum()), len(found), alpha=0.05, method="beta")
                row |= {rate: float(found.mean()), f"{rate}_low": float(ends[0]), f"{rate}_high": float(ends[1])}
            results.append(row)
    return pd.DataFrame(results)


def items_at(n_items: Sequence[int], power: Sequence[float], wanted: float = WANTED) -> float:
    """Return the number of items at which the power first reaches `wanted`; NaN if it never does.

    Between two numbers the probit of the power is taken as linear in the root of n, as it is for a Wald test. A power
    that is reached at the smallest number already returns that number, which is then an upper bound.
    """
    if power[0] >= wanted:
        return float(n_items[0])
    for (n0, p0), (n1, p1) in pairwise(zip(n_items, power, strict=True)):
        if p1 >= wanted:
            z0, z1 = ndtri(np.clip([p0, p1], 1e-3, 1 - 1e-3))
            root = np.sqrt(n0) + (np.sqrt(n1) - np.sqrt(n0)) * (ndtri(wanted) - z0) / (z1 - z0)
            return float(root**2)
    return float("nan")


def list_power(summary: pd.DataFrame) -> dict[str, Any]:
    """Return the claims as numbers: effect, population, the rates by number of items, and n_at_80 with its ends.

    The ends of n_at_80 are where the upper and the lower Monte-Carlo ends of the power reach 80 %.
    """
    found: dict[str, Any] = {}
    for name, rows in summary.groupby("claim", sort=False):
        claim, sizes = CLAIMS[str(name)], rows["n_items"].tolist()
        at = {
            key: items_at(sizes, rows[column].tolist())
            for key, column in (("n_at_80", "power"), ("n_at_80_low", "power_high"), ("n_at_80_high", "power_low"))
        }
        rates = {str(row.pop("n_items")): row for row in rows.drop(columns="claim").to_dict("records")}
        found[str(name)] = {
            "effect": claim.effect, "population": asdict(claim.population), "by_items": rates,
            **{key: value for key, value in at.items() if np.isfinite(value)},
        }  # fmt: skip
    return found


def draw_power(summary: pd.DataFrame) -> Figure:
    """Return the figure: a panel a claim, power (filled) and level (open) against items per benchmark."""
    figure: Figure = plt.figure(figsize=(7, 4.8), layout="constrained")
    axes = figure.subplots(2, 3, sharey=True).ravel()
    testbed = params.load(paths.ROOT / "params" / "testbed.yaml")[1]["testbed"]["n_test_items"]
    for ax, (name, rows) in zip(axes, summary.groupby("claim", sort=False), strict=False):
        for rate, face, label in (("power", "0.0", "with the effect"), ("level", "white", "without it")):
            reach = [rows[rate] - rows[f"{rate}_low"], rows[f"{rate}_high"] - rows[rate]]
            ax.errorbar(
                rows["n_items"], 100 * rows[rate], yerr=100 * np.array(reach), marker="o", markersize=3.8, color="0.0",
                markerfacecolor=face, linewidth=0.8, linestyle="-" if rate == "power" else ":", label=label,
            )  # fmt: skip
        ax.axhline(100 * WANTED, color="0.6", linewidth=0.6)
        for n, style, label in ((PAPER_ITEMS, "--", "the paper's cells"), (testbed, "-.", "testbed")):
            ax.axvline(n, color="0.6", linewidth=0.8, linestyle=style, label=f"{label}: {n} items")
        needed = items_at(rows["n_items"].tolist(), rows["power"].tolist())
        most = "most " if needed == rows["n_items"].iloc[0] else ""
        text = f"80 % at {most}{needed:.0f} items" if np.isfinite(needed) else "80 % beyond the axis"
        ax.set(xscale="log", ylim=(0, 103), xlabel="items per benchmark")
        ax.set_title("\n".join([*textwrap.wrap(CLAIMS[str(name)].words, 34), text]), fontsize=7)
        ax.set_xticks(rows["n_items"], [str(n) for n in rows["n_items"]], fontsize=6)
        ax.minorticks_off()
    for ax in axes[::3]:
        ax.set_ylabel("studies that find it (%)")
    axes[-1].axis("off")
    handles, labels = axes[0].get_legend_handles_labels()
    axes[-1].legend(handles, labels, loc="center", frameon=False, title="bar: exact 95 % Monte-Carlo interval")
    return figure
