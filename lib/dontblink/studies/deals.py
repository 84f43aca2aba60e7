"""Negative controls: labels, vision or boxes dealt to other items of the same cell, and everything computed again.

Why: a pipeline that finds discrimination in dealt labels, an interaction in dealt looks or a lift in dealt boxes finds
it in nothing, whatever its intervals say. In: the items tables, or attention maps with their evidence coverage. Out:
the observed value beside many deals. A deal moves an item's value in the same way for every model of its benchmark, so
that answers to one item stay related. Never: a value moved to another cell, where it would carry the scale of its own,
or a test of an observed interaction that pretends to keep its main effects (dealt labels lose b_E as well, dealt looks
b_V). What dealt vision costs a rule under transfer: `transfer.transfer_table`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from dontblink.statistics.bootstrap import EstimateError, Floats, Ints, permutation_p
from dontblink.statistics.logit import fit_logit, fit_replicates, prepare_rows, start_at
from dontblink.studies.cells import (
    ENTROPY,
    SCOPES,
    VISION,
    count_rows,
    deal_rows,
    each_scope,
    keep_usable,
    number_items,
    select_rows,
)
from dontblink.studies.entropy import Contrasts, contrast_scores
from dontblink.studies.interaction import TERMS, Design, build_design

Dealt = Literal["labels", "vision"]
_EV = TERMS.index("entropy:vision")


def _summarise(observed: float, deals: Floats, confidence: float) -> dict[str, Any]:
    low, high = np.quantile(deals, [(1 - confidence) / 2, (1 + confidence) / 2])
    spread = {"shuffled_mean": float(deals.mean()), "shuffled_low": float(low), "shuffled_high": float(high)}
    return spread | {"share_below": float((deals < observed).mean()), "n_deals": len(deals)}


def shuffled_labels(
    items: pd.DataFrame, *, n_deals: int = 200, seed: int = 0, confidence: float = 0.95, **choice: Any
) -> pd.DataFrame:
    """Negative control: the quantities of `auroc_table` after the labels were dealt to other items of their cell.

    A deal moves the labels of an item for all models together, so that they stay as alike as they are. Over all deals
    the mean is exactly 0.5 for an AUROC and 0 for a difference, whatever the scores. Columns: the counts of
    `auroc_table`, null (0.5 or 0), observed, shuffled_mean, shuffled_se (Monte Carlo error of that mean), shuffled_low
    and shuffled_high (`confidence` of the deals), share_below (deals below the observed value), p (two-sided).
    """
    found = contrast_scores(items, **choice)
    dealt, own = _deal_aurocs(found, n_deals, seed)
    results = []
    for facts, _, a, b, cells in found.scopes():
        if cells:
            null = 0.5 if b is None else 0.0
            observed, deals = (x[a, cells].mean(axis=0) - (0 if b is None else x[b, cells].mean(axis=0))
                               for x in (own, dealt))  # fmt: skip
            facts |= {"null": null, "observed": float(observed)} | _summarise(observed, deals, confidence)
            facts |= {"shuffled_se": float(deals.std(ddof=1) / n_deals**0.5)}
            facts |= {"p": permutation_p(np.abs(deals - null), abs(observed - null))}
        results.append(facts)
    return pd.DataFrame(results)


def _deal_aurocs(found: Contrasts, n_deals: int, seed: int) -> tuple[Floats, Floats]:
    """Return AUROCs float64[columns, cells, deals] of dealt labels and [columns, cells] of the real ones."""
    if n_deals < 2:
        raise EstimateError(f"{n_deals} deals; a spread needs >= 2")
    rows, correct = found.rows, found.rows["correct"].to_numpy(np.float64)
    item = pd.factorize(rows["cluster"], sort=True)[0]
    keys = np.random.default_rng(seed).random((n_deals, item.max() + 1))  # one order of the items per deal, all models
    cells = sorted(rows["cell"].unique())
    dealt = np.full((len(found.values), len(cells), n_deals), np.nan)
    own = dealt[:, :, 0].copy()
    for c, cell in enumerate(cells):
        inside = (rows["cell"] == cell).to_numpy()
        orders: dict[bytes, Any] = {}
        for k, usable in enumerate(found.usable):
            if not (used := np.flatnonzero(inside & usable)).size:
                continue
            labels = correct[used]
            if used.tobytes() not in orders:
                orders[used.tobytes()] = labels[np.argsort(keys[:, item[used]], axis=1)]
            ranks, m = rankdata(found.values[k, used]), labels.sum()
            both = np.vstack([orders[used.tobytes()], labels])
            aurocs = (both @ ranks - m * (m + 1) / 2) / (m * (len(labels) - m))
            dealt[k, c], own[k, c] = aurocs[:-1], aurocs[-1]
    return dealt, own


def dealt_table(
    items: pd.DataFrame, dealt: Dealt, covariates: Sequence[str] = (), *, scopes: Sequence[str] = SCOPES,
    vision: str = VISION, n_deals: int = 200, seed: int = 0, min_items: int = 20,
) -> pd.DataFrame:  # fmt: skip
    """Return b_EV of each scope over the deals: scope, model, benchmark, dealt, observed, mean, sd, low, high, p.

    low and high hold 95 % of the deals; p is the two-sided share (1 + #{|dealt| >= |observed|}) / (1 + n_deals). A
    scope without a usable cell has no row. Values are standardised within the cell, which no deal changes.
    """
    rows = keep_usable(select_rows(items, [ENTROPY, vision, *covariates]), min_items)
    rows = rows.assign(row=np.arange(len(rows)))
    rng, places = np.random.default_rng(seed), number_items(rows)
    orders = [deal_rows(*places, rng) for _ in range(n_deals)]
    results: list[dict[str, Any]] = []
    for names, scope in each_scope(rows, scopes):
        design = build_design(scope, covariates, vision=vision)
        observed = fit_logit(design.x, design.y).coef[_EV]  # checks the design, which a deal leaves usable
        place = np.empty(len(rows), np.int64)
        place[scope["row"]] = np.arange(len(scope))
        own = (place[order[scope["row"]]] for order in orders)
        drawn = np.array([_fit_dealt(design, order, dealt) for order in own])
        low, high = np.quantile(drawn, [0.025, 0.975])
        results.append(
            names
            | count_rows(scope)
            | {"dealt": dealt, "observed": observed, "mean": drawn.mean(), "sd": drawn.std(), "low": low, "high": high}
            | {"p": permutation_p(np.abs(drawn), abs(observed)), "n_deals": n_deals}
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


def shuffled_lift(grids: Iterable[tuple[Floats, Floats]], *, n_deals: int = 1_000, seed: int = 0) -> dict[str, float]:
    """Negative control: the lift of the evidence, and the lift when its boxes are dealt to other items.

    `grids`: maps (attention over the image tokens, any scale) and coverages float[n items, M] of the items whose
    pictures have one grid, for each grid. A box is dealt only to a picture of its own grid, where it covers as much; an
    item that is alone on its grid has no partner: it is left out of both lifts and counted. Lift = mean evidence share
    / mean evidence fraction. Every deal is one cycle a grid: no item keeps its boxes. The shuffled lift is 1 unless
    attention and boxes share a favourite place in the image. Returns lift, shuffled_lift (mean), shuffled_low,
    shuffled_high (95 % of the deals), p (one-sided), n_items and n_alone; without any partners NaN and the counts.
    """
    rng, lift, expected, n_items, n_alone = np.random.default_rng(seed), 0.0, 0.0, 0, 0
    deals = np.zeros(n_deals)
    for maps, coverage in grids:
        total = maps.sum(axis=1, keepdims=True)
        if maps.shape != coverage.shape or not (total > 0).all():
            raise EstimateError(f"maps {maps.shape}, coverage {coverage.shape}; expected one shape, mass in each map")
        if len(maps) < 2:
            n_alone += len(maps)
            continue
        share, n_items = maps / total, n_items + len(maps)
        expected += coverage.sum() / maps.shape[1]
        orders = (rng.permutation(len(maps)) for _ in range(n_deals))
        deals += [(share[order] * coverage[np.roll(order, 1)]).sum() for order in orders]
        lift += (share * coverage).sum()
    counts = {"n_items": float(n_items), "n_alone": float(n_alone)}
    if not n_items:
        return dict.fromkeys(("lift", "shuffled_lift", "shuffled_low", "shuffled_high", "p"), np.nan) | counts
    if not expected > 0:
        raise EstimateError(f"{n_items} items without evidence; expected some evidence")
    deals, lift = deals / expected, float(lift / expected)
    low, high = (float(end) for end in np.quantile(deals, [0.025, 0.975]))
    dealt = {"shuffled_lift": float(deals.mean()), "shuffled_low": low, "shuffled_high": high}
    return {"lift": lift} | dealt | {"p": permutation_p(deals, lift)} | counts
