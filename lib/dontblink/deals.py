"""Negative controls of the interaction: the same fits after labels, or looks, were dealt to other items of the cell.

Why: a program that finds an interaction where none can be is wrong, whatever its intervals say. In: the items table of
the TEST split. Out: b_EV of each scope over many deals, beside the observed one. A deal moves an item's value in the
same way for every model of its benchmark, so that answers to one item stay related. Never: a deal across cells, or a
test of the observed value that pretends to keep its main effects (dealt labels lose b_E as well, dealt looks b_V).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from dontblink.bootstrap import Floats, Ints
from dontblink.cells import count_rows, keep_usable, list_scopes, select_rows
from dontblink.interaction import ENTROPY, TERMS, VISION, build_design
from dontblink.logit import fit_logit

Dealt = Literal["labels", "vision"]


def deal_rows(rows: pd.DataFrame, rng: np.random.Generator) -> Ints:
    """Return int64[n]: for each row of `select_rows` the row of the same cell whose value it is dealt.

    The order comes from one random key per item, so that complete cells of a benchmark share one permutation.
    """
    cluster = pd.factorize(rows["cluster"], sort=True)[0]
    key, order = rng.random(cluster.max() + 1)[cluster], np.empty(len(rows), np.int64)
    for own in rows.groupby("cell").indices.values():
        order[own[np.argsort(cluster[own])]] = own[np.argsort(key[own])]
    return order


def dealt_table(
    items: pd.DataFrame,
    dealt: Dealt,
    covariates: Sequence[str] = (),
    *,
    entropy: str = ENTROPY,
    vision: str = VISION,
    scopes: Sequence[str] = ("cell", "benchmark", "pooled"),
    n_deals: int = 200,
    seed: int = 0,
    min_items: int = 20,
) -> pd.DataFrame:
    """Return b_EV of each scope over the deals: scope, model, benchmark, dealt, observed, mean, sd, low, high, p.

    low and high hold 95 % of the deals; p is the two-sided share (1 + #{|dealt| >= |observed|}) / (1 + n_deals). A
    scope without a usable cell has no row. Values are standardised within the cell, which no deal changes.
    """
    rows = keep_usable(select_rows(items, list(dict.fromkeys([entropy, vision, *covariates]))), min_items)
    rows = rows.assign(row=np.arange(len(rows)))
    rng = np.random.default_rng(seed)
    orders = [deal_rows(rows, rng) for _ in range(n_deals)]
    results: list[dict[str, Any]] = []
    for scope in list_scopes(rows, scopes):
        design = build_design(scope, covariates, entropy=entropy, vision=vision)
        place = np.empty(len(rows), np.int64)
        place[scope["row"]] = np.arange(len(scope))
        e, v, rest = design.x[:, 0], design.x[:, 1], design.rest

        def fit(y: Floats, v: Floats, e: Floats = e, rest: Floats = rest) -> float:
            return float(fit_logit(np.column_stack([e, v, e * v, rest]), y).coef[len(TERMS) - 1])

        own = (place[order[scope["row"]]] for order in orders)
        drawn = np.array([fit(design.y[o], v) if dealt == "labels" else fit(design.y, v[o]) for o in own])
        observed = fit(design.y, v)
        low, high = np.quantile(drawn, [0.025, 0.975])
        results.append(
            count_rows(scope)
            | {"dealt": dealt, "observed": observed, "mean": drawn.mean(), "sd": drawn.std(), "low": low, "high": high}
            | {"p": (1 + int((np.abs(drawn) >= abs(observed)).sum())) / (1 + n_deals), "n_deals": n_deals}
        )
    return pd.DataFrame(results)


def find_biased(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a `dealt_table` whose mean lies further from 0 than chance allows a correct program.

    The band is (6 / sqrt(n_deals) + 1 / 4) sd: six standard errors of the mean, and the small-sample bias of a logit.
    """
    band = (6 / np.sqrt(table["n_deals"]) + 0.25) * table["sd"]
    return table[~(table["mean"].abs() <= band) | (table["sd"] == 0)]
