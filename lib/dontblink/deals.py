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

from dontblink.bootstrap import Ints
from dontblink.cells import count_rows, deal_rows, keep_usable, list_scopes, select_rows
from dontblink.interaction import ENTROPY, TERMS, VISION, Design, build_design
from dontblink.logit import fit_logit
from dontblink.newton import fit_replicates, prepare_rows, start_at

Dealt = Literal["labels", "vision"]
_EV = TERMS.index("entropy:vision")


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
    item, cells = pd.factorize(rows["cluster"], sort=True)[0], list(rows.groupby("cell").indices.values())
    orders = [deal_rows(item, cells, rng) for _ in range(n_deals)]
    results: list[dict[str, Any]] = []
    for scope in list_scopes(rows, scopes):
        design = build_design(scope, covariates, entropy=entropy, vision=vision)
        observed = fit_logit(design.x, design.y).coef[_EV]  # checks the design, which a deal leaves usable
        place = np.empty(len(rows), np.int64)
        place[scope["row"]] = np.arange(len(scope))
        own = (place[order[scope["row"]]] for order in orders)
        drawn = np.array([_fit_dealt(design, order, dealt) for order in own])
        low, high = np.quantile(drawn, [0.025, 0.975])
        results.append(
            count_rows(scope)
            | {"dealt": dealt, "observed": observed, "mean": drawn.mean(), "sd": drawn.std(), "low": low, "high": high}
            | {"p": (1 + int((np.abs(drawn) >= abs(observed)).sum())) / (1 + n_deals), "n_deals": n_deals}
        )
    return pd.DataFrame(results)


def _fit_dealt(design: Design, order: Ints, dealt: Dealt) -> float:
    y, x = design.y, design.x
    if dealt == "labels":
        y = y[order]
    else:
        v = x[order, 1]
        x = np.column_stack([x[:, 0], v, x[:, 0] * v, design.rest])
    rows = prepare_rows(x, y, np.zeros(len(y), np.int64))
    beta, _ = fit_replicates(rows, np.ones((1, 1)), start_at(rows, np.zeros(x.shape[1])))
    return float(beta[0, _EV] / rows.scale[_EV])


def find_biased(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a `dealt_table` whose mean lies further from 0 than chance allows a correct program.

    The band is (6 / sqrt(n_deals) + 1 / 4) sd: six standard errors of the mean, and the small-sample bias of a logit.
    """
    band = (6 / np.sqrt(table["n_deals"]) + 0.25) * table["sd"]
    return table[~(table["mean"].abs() <= band) | (table["sd"] == 0)]
