"""Negative controls of notebook 03: labels, or vision, dealt to other items of the same cell.

Why: a pipeline that finds discrimination in dealt labels, or a loss from dealt vision as large as from the real one,
finds it in nothing. In: the items tables. Out: tables beside those of `entropy.auroc_table` and
`transfer.transfer_table`. Never: a value moved to another cell, where it would carry the scale of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from dontblink.bootstrap import Floats
from dontblink.cells import deal_rows
from dontblink.entropy import PAIRS, SCORES, Contrasts, EntropyError, contrast_scores
from dontblink.ranks import auroc_each
from dontblink.transfer import Scaling, pair_benchmarks
from dontblink.transfer_rules import RULES, FittedRule, fit_rule, score_rows


def shuffled_labels(
    items: pd.DataFrame,
    scores: Mapping[str, tuple[str, float]] = SCORES,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    *,
    n_deals: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
    **choice: Any,
) -> pd.DataFrame:
    """Negative control: the quantities of `auroc_table` after the labels were dealt to other items of their cell.

    A deal moves the labels of an item for all models together, so that they stay as alike as they are. Over all deals
    the mean is exactly 0.5 for an AUROC and 0 for a difference, whatever the scores. Columns: the counts of
    `auroc_table`, null (0.5 or 0), observed, shuffled_mean, shuffled_se (Monte Carlo error of that mean), shuffled_low
    and shuffled_high (`confidence` of the deals), share_below (deals below the observed value), p (two-sided).
    """
    found = contrast_scores(items, scores, pairs, **choice)
    dealt, own = _deal_aurocs(found, n_deals, seed)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    results = []
    for facts, _, a, b, cells in found.scopes():
        if cells:
            null = 0.5 if b is None else 0.0
            observed, deals = (x[a, cells].mean(axis=0) - (0 if b is None else x[b, cells].mean(axis=0))
                               for x in (own, dealt))  # fmt: skip
            low, high = np.quantile(deals, tails)
            facts |= {"null": null, "observed": float(observed), "shuffled_mean": float(deals.mean())}
            facts |= {"shuffled_se": float(deals.std(ddof=1) / n_deals**0.5), "n_deals": n_deals}
            facts |= {"shuffled_low": float(low), "shuffled_high": float(high)}
            further = np.abs(deals - null) >= abs(observed - null) - 1e-12
            facts |= {"share_below": float((deals < observed).mean()), "p": float((1 + further.sum()) / (1 + n_deals))}
        results.append(facts)
    return pd.DataFrame(results)


def _deal_aurocs(found: Contrasts, n_deals: int, seed: int) -> tuple[Floats, Floats]:
    """Return AUROCs float64[columns, cells, deals] of dealt labels and [columns, cells] of the real ones."""
    if n_deals < 2:
        raise EntropyError(f"{n_deals} deals; a spread needs >= 2")
    rows, correct = found.rows, found.rows["correct"].to_numpy(np.float64)
    item = pd.factorize(rows["cluster"], sort=True)[0]
    keys = np.random.default_rng(seed).random((n_deals, item.max() + 1))  # one order of the items per deal, all models
    cells = sorted(rows["cell"].unique())
    dealt, own = (
        np.full((len(found.values), len(cells), n_deals), np.nan),
        np.full((len(found.values), len(cells)), np.nan),
    )
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


def shuffled_vision(
    fit_items: pd.DataFrame,
    items: pd.DataFrame,
    rules: Sequence[str] = ("linear", "interaction"),
    scalings: Sequence[Scaling] = ("train", "test"),
    *,
    n_deals: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
    min_items: int = 20,
    **choice: Any,
) -> pd.DataFrame:
    """Negative control: the gain of rules with vision after it was dealt to other items, before the fit and after.

    A deal moves vision within its cell, in both splits, so that it keeps its scale and loses its meaning: what a rule
    then gains or loses is the price of a useless feature. Columns: scaling, train, test, rule, gain (observed, mean
    over models), shuffled_mean, shuffled_low, shuffled_high (`confidence` of the deals), share_below (deals below the
    observed gain), n_deals. `choice` as in `transfer_table`.
    """
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    fitted: dict[tuple[str, ...], list[dict[str, FittedRule]]] = {}
    results = []
    for scaling in scalings:
        pairs = pair_benchmarks(fit_items, items, ["full", *rules], scaling, min_items=min_items, **choice)
        for train, test, pair in pairs:
            if (key := (train, *pair.train["model"].unique())) not in fitted:  # one fit for every benchmark judged
                fitted[key] = [
                    {name: fit_rule(pair.train, learnt, RULES[name], min_items=min_items) for name in rules}
                    for learnt in _deal_vision(pair.learnt, pair.train, n_deals, [seed, 0])
                ]
            text = fit_rule(pair.train, pair.learnt, RULES["full"], min_items=min_items)
            base = score_rows(text, text.coef, pair.test, pair.seen, np.zeros(len(pair.test)))
            scores: dict[str, list[Floats]] = {name: [base] for name in rules}
            for fits, seen in zip(fitted[key], _deal_vision(pair.seen, pair.test, n_deals, [seed, 1]), strict=True):
                for name in rules:
                    scores[name].append(score_rows(fits[name], fits[name].coef, pair.test, seen, base))
            for name in rules:
                aurocs = _mean_aurocs(pair.test, np.stack(scores[name]))
                gain, deals = float(aurocs[1] - aurocs[0]), aurocs[2:] - aurocs[0]
                low, high = np.quantile(deals, tails)
                row = {"scaling": scaling, "train": train, "test": test, "rule": name, "gain": gain}
                row |= {"shuffled_mean": float(deals.mean()), "shuffled_low": float(low), "shuffled_high": float(high)}
                results.append(row | {"share_below": float((deals < gain).mean()), "n_deals": n_deals})
    return pd.DataFrame(results)


def _deal_vision(
    features: pd.DataFrame, rows: pd.DataFrame, n_deals: int, seed: Sequence[int]
) -> Iterator[pd.DataFrame]:
    """Yield the features as they are, then `n_deals` times with vision dealt, one deal for all models."""
    rng, vision = np.random.default_rng(seed), features["vision"].to_numpy()
    item, cells = pd.factorize(rows["cluster"], sort=True)[0], list(rows.groupby("cell").indices.values())
    yield features
    for _ in range(n_deals):
        yield features.assign(vision=vision[deal_rows(item, cells, rng)])


def _mean_aurocs(rows: pd.DataFrame, scores: Floats) -> Floats:
    """Return float64[b]: the mean over models of the AUROC of each row of `scores` float64[b, n]."""
    correct, ones = rows["correct"].to_numpy(bool), np.ones_like(scores)
    by_model = [
        auroc_each(correct[own], scores[:, own], ones[:, own]) for own in rows.groupby("model").indices.values()
    ]
    mean: Floats = np.mean(by_model, axis=0)
    return mean
