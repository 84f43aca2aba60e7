"""Rules that withhold answers, fitted and judged on repeated splits by item: the arithmetic under `veto`.

Why: 100 splits, 9 cells and hundreds of permutations are millions of threshold fits, done here as arrays. In: rows of
`cells.select_rows` with an entropy and a vision column. Out: for every rule, cell and split which held-out answers are
accepted, and how many errors that saves against the entropy rule AT THE SAME NUMBER of accepted answers. Never: a label
of a held-out item in a threshold, a coefficient or a choice; an item that is in both halves for two models.

Arrays have a row per split: fit int64[S, F] numbers items of a cell in the order of entropy, held int64[S, G] the rest.
Items are dealt into blocks, and every split halves every block: without a block the splits are what they were, which
the jackknife of `veto` needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dontblink.statistics import bootstrap
from dontblink.statistics.bootstrap import EstimateError, Floats, Ints, number_clusters, split_strata
from dontblink.statistics.logit import fit_logit, fit_replicates, prepare_rows, start_at
from dontblink.studies.cells import ENTROPY, VISION, deal_rows, name_cell, standardise
from dontblink.studies.risk_coverage import count_accepted, errors_in_order

Bools = NDArray[np.bool_]
RULES = ("entropy", "linear", "interaction", "veto", "oracle")
_CHUNK = 32  # logits fitted at once: their row weights stay in the cache; changes no result


@dataclass(frozen=True, eq=False)
class Cell:
    """Rows `index` of one model and benchmark, their splits, and what the entropy rule alone makes of them.

    tie_end int64[S, F] is the last place in `fit` of each place's group of ties, fit_errors float64[S, F + 1] and
    held_errors [S, G + 1] the expected errors among the k of lowest entropy.
    """

    name: str
    index: Ints
    entropy: Floats
    wrong: Floats
    targeted: Bools
    fit: Ints
    held: Ints
    tie_end: Ints
    fit_errors: Floats
    held_errors: Floats


@dataclass(frozen=True, eq=False)
class Splits:
    """Rows (cell, right, is it targeted, item, E, V in standard deviations), the block of each item, and the splits.

    `fits_on` bool[S, items] says what a split fits on.
    """

    names: NDArray[np.str_]
    right: Floats
    targeted: Bools
    row_item: Ints
    entropy: Floats
    vision: Floats
    block: Ints
    fits_on: Bools
    n_shares: int

    def deal_vision(self, rng: np.random.Generator) -> Floats:
        """Return the vision column with items dealt anew within each cell (`cells.deal_rows`).

        An item keeps its vision values of different models together, so that what cells share under the null stays.
        """
        return self.vision[deal_rows(self.row_item, [cell.index for cell in self.cells], rng)]

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Return each cell with its splits; one with an empty half is an error."""
        return tuple(
            _split_cell(
                str(name), index, self.fits_on[:, self.row_item[index]], self.entropy[index], 1 - self.right[index],
                self.targeted[index],
            )
            for name, index in pd.Series(self.names).groupby(self.names, sort=True).indices.items()
        )  # fmt: skip

    @cached_property
    def models(self) -> list[tuple[str, list[int], Ints, Floats, Ints, Floats, Floats]]:
        """Return what a deal of vision leaves of the logit of each model: its name, its cells, their rows, a constant
        a cell, the item of each row, the coefficients of entropy and the constants without vision, and the items that
        each split fits on.
        """
        found = []
        names = [cell.name.split("\n")[0] for cell in self.cells]
        for model in dict.fromkeys(names):
            own = [c for c, name in enumerate(names) if name == model]
            sizes = [len(self.cells[c].index) for c in own]
            index, constants = np.concatenate([self.cells[c].index for c in own]), np.repeat(np.eye(len(own)), sizes, 0)
            items, item = np.unique(self.row_item[index], return_inverse=True)
            near = fit_logit(np.column_stack([self.entropy[index], constants]), self.right[index]).coef
            found.append((model, own, index, constants, item, near, self.fits_on[:, items].astype(np.float64)))
        return found


class Accepted(NamedTuple):
    """Acceptance float64[S, G] of held-out answers, the veto's share of the fit items [S], separated fits of the model.

    Acceptance is 0 or 1, or the share that the oracle accepts of its ties.
    """

    weight: Floats
    veto_share: Floats
    n_separated: int = 0


def prepare_splits(
    rows: pd.DataFrame,
    targets: Sequence[str] | None,
    *,
    n_splits: int,
    fit_share: float | Fraction,
    n_shares: int,
    n_blocks: int = 1,
    seed: int,
) -> Splits:
    """Split the items `n_splits` times, the same way for all models; every block of a stratum is split by itself.

    `targets` are the task types that the veto is for (None: all). Entropy and vision are standardised within the cell
    with the features of all its rows: no label, but the scale of a cell is taken as known. Options out of range, or a
    cell without items in one of the halves, are errors.
    """
    if n_splits < 1 or n_shares < 1 or n_blocks < 1 or not 0 < fit_share < 1:
        found = f"{n_splits} splits, fit share {fit_share}, {n_shares} shares, {n_blocks} blocks"
        raise EstimateError(f"{found}; expected whole numbers from 1, and a fit share in (0, 1)")
    groups = number_clusters(rows["cluster"], rows["cell"])
    block = np.zeros(len(groups.labels), np.int64)
    fits_on, rng = np.zeros((n_splits, len(block)), bool), np.random.default_rng(seed)
    for members in split_strata(groups.stratum):
        dealt, n_own = rng.permutation(members), max(1, min(n_blocks, len(members) // 2))
        block[dealt] = np.arange(len(dealt)) % n_own  # two items a block at least: one would never be held out
        for own in (dealt[b::n_own] for b in range(n_own)):
            order = np.argsort(rng.random((n_splits, len(own))), axis=1)
            fits_on[np.arange(n_splits)[:, None], own[order[:, : count_accepted(len(own), fit_share)]]] = True
    labels = rows["cell"].to_numpy()
    e, v = (standardise(rows[name], labels, name) for name in (ENTROPY, VISION))
    right = rows["correct"].to_numpy(np.float64)
    targeted = np.ones(len(rows), bool) if targets is None else rows["task_type"].isin(list(targets)).to_numpy()
    return Splits(labels, right, targeted, groups.row, e, v, block, fits_on, n_shares)


def leave_out(splits: Splits, block: int) -> Splits:
    """Return the study without the items of a block, every split as it was for the others."""
    stays = splits.block != block
    rows = stays[splits.row_item]
    item = (np.cumsum(stays) - 1)[splits.row_item[rows]]
    kept = {name: getattr(splits, name)[rows] for name in ("names", "right", "targeted", "entropy", "vision")}
    return replace(splits, **kept, row_item=item, block=splits.block[stays], fits_on=splits.fits_on[:, stays])


def _split_cell(name: str, index: Ints, in_fit: Bools, entropy: Floats, wrong: Floats, targeted: Bools) -> Cell:
    if in_fit[0].all() or not in_fit[0].any():
        found = f"cell {name_cell(name)}: {len(index)} items leave one half empty"
        raise EstimateError(f"{found}; add items or leave the cell out")
    rows, order = np.arange(len(index)), np.argsort(entropy, kind="stable")  # sorted once for all splits
    parts = ((in_fit, order), (~in_fit, order), (~in_fit, rows))
    fit, high, held = (r.take(np.flatnonzero(part[:, r]).reshape(len(part), -1) % len(r)) for part, r in parts)
    ends = bootstrap.find_ties(entropy.take(fit))[1]
    curves = [errors_in_order(entropy.take(part), wrong.take(part)) for part in (fit, high)]
    return Cell(name, index, entropy, wrong, targeted, fit, held, ends, curves[0], curves[1])


def apply_rule(
    splits: Splits, rule: str, vision: Floats, coverages: Sequence[float | Fraction]
) -> Iterator[list[Accepted]]:
    """Fit the rule in every split; yield, for each coverage, what it accepts of the held-out items, a cell at a time.

    entropy: E <= t. linear, interaction: b . (E, V) and b . (E, V, EV) >= t with ONE b per model over its benchmarks
    (`fit_splits`). veto: E <= t and not (task type targeted and V < u), see `fit_veto`. oracle: right answers first.
    t makes the rule accept ceil(coverage F) of the F fit items of the cell; rows tied at t are accepted, so the
    realised coverage can differ.
    """
    if rule not in RULES:
        raise EstimateError(f"rule {rule!r}; expected one of {', '.join(RULES)}")
    costs = [cell.entropy for cell in splits.cells]
    separated = [0] * len(costs)
    if rule in ("linear", "interaction"):
        scores, separated = fit_splits(splits, vision, interaction=rule == "interaction")
        costs = [-score for score in scores]
    for coverage in coverages:
        found = []
        for cell, cost, n_separated in zip(splits.cells, costs, separated, strict=True):
            if rule == "oracle":
                found.append(_accept_right(cell, coverage))
            elif rule == "veto" and cell.targeted.any():
                seen = np.where(cell.targeted, vision[cell.index], np.inf)
                limit, floor, share = fit_veto(cell, seen, coverage, splits.n_shares)
                kept = (cell.entropy.take(cell.held) <= limit[:, None]) & (seen.take(cell.held) >= floor[:, None])
                found.append(Accepted(kept.astype(np.float64), share))
            else:
                found.append(_accept_cheapest(cell, cost, coverage)._replace(n_separated=n_separated))
        yield found


def count_errors(cell: Cell, accepted: Accepted) -> Floats:
    """Return float64[3, S]: accepted answers, wrong ones among them, and those of entropy alone at that number."""
    k = np.rint(accepted.weight.sum(axis=1)).astype(np.int64)
    own = (accepted.weight * cell.wrong.take(cell.held)).sum(axis=1)
    return np.stack([k.astype(np.float64), own, np.take_along_axis(cell.held_errors, k[:, None], 1)[:, 0]])


def fit_splits(splits: Splits, vision: Floats, *, interaction: bool) -> tuple[list[Floats], list[int]]:
    """Return for each cell scores float64[S, n], log-odds of being right less the constant of the cell, and in how many
    splits the logit of its model was separated (and fitted by Firth).

    One logit per model and split, over all its benchmarks: constant per cell + E + V (+ EV), standardised.
    """
    features = np.column_stack([splits.entropy, vision, splits.entropy * vision][: 2 + interaction])
    scores, n_separated = [np.empty(0)] * len(splits.cells), [0] * len(splits.cells)
    width = features.shape[1]
    for name, own, index, constants, item, near, counts in splits.models:
        rows = prepare_rows(np.hstack([features[index], constants]), splits.right[index], item)
        start = start_at(rows, np.insert(near, 1, np.zeros(width - 1)) * rows.scale)
        space = np.empty((4, _CHUNK, len(index)))
        fits = [fit_replicates(rows, counts[k : k + _CHUNK], start, space) for k in range(0, len(counts), _CHUNK)]
        coef = np.concatenate([beta for beta, _ in fits]) / rows.scale
        if np.isnan(coef).any():
            raise EstimateError(f"model {name}: entropy and vision depend on each other in a split; add items")
        for c in own:
            # term by term, not a matrix product: equal rows must get equal scores to the last bit
            terms = (coef[:, j, None] * features[splits.cells[c].index, j] for j in range(width))
            scores[c], n_separated[c] = sum(terms, np.zeros(1)), sum(int(flag.sum()) for _, flag in fits)
    return scores, n_separated


def fit_veto(cell: Cell, vision: Floats, coverage: float | Fraction, n_shares: int) -> tuple[Floats, Floats, Floats]:
    """Return the entropy limit t, the vision floor u and the vetoed share of the fit items, float64[S] each.

    Candidates: u is the order statistic below which j/n_shares of the F - K withheld fit items lie, j = 0..n_shares,
    and t then the entropy of the K-th kept item, K = ceil(coverage F). The candidate that saves most errors against
    entropy alone at its own number of accepted fit items wins, the smallest veto among equals: without a saving there
    is no veto. `vision` float64[n] is +inf where the veto does not apply.
    """
    n = cell.fit.shape[1]
    k = count_accepted(n, coverage)
    vetoed = np.unique((n - k) * np.arange(n_shares + 1) // n_shares)
    seen = vision.take(cell.fit)
    blind = np.argpartition(seen, n - k, axis=1)[:, : n - k + 1].astype(np.int32)  # places by entropy
    low = np.take_along_axis(seen, blind, 1)
    floors = np.sort(low, axis=1)[:, vetoed]
    floors[:, 0] = -np.inf  # no veto, on new items either
    gone = low[:, None] < floors[:, :, None]
    # the i-th vetoed place comes before the K-th kept one if less than K kept ones come before it
    places = np.sort(np.where(gone, blind[:, None], n + k), axis=2)
    place = np.take_along_axis(cell.tie_end, k - 1 + (places - np.arange(n - k + 1) < k).sum(axis=2), 1)
    gone &= blind[:, None] <= place[:, :, None]
    size = place + 1 - gone.sum(axis=2)
    wrong = np.einsum("sjm,sm->sj", gone, cell.wrong.take(np.take_along_axis(cell.fit, blind, 1)))
    errors = np.take_along_axis(cell.fit_errors, place + 1, 1) - wrong
    gain = (np.take_along_axis(cell.fit_errors, size, 1) - errors) / size
    best = np.argmax(gain >= gain.max(axis=1, keepdims=True) - 1e-12, axis=1)[:, None]
    at = np.take_along_axis(cell.fit, np.take_along_axis(place, best, 1), 1)[:, 0]
    return cell.entropy[at], np.take_along_axis(floors, best, 1)[:, 0], vetoed[best[:, 0]] / n


def _accept_cheapest(cell: Cell, cost: Floats, coverage: float | Fraction) -> Accepted:
    """Accept what costs no more than the K-th cheapest fit item; cost float64[S, n], or [n] in all splits."""
    k, by_split = count_accepted(cell.fit.shape[1], coverage), cost.ndim == 2
    first = np.arange(len(cost))[:, None] * cost.shape[1] if by_split else 0
    fit, held = (cost.take(part + first) for part in (cell.fit, cell.held))
    if by_split:  # entropy is in order
        fit.partition(k - 1, axis=1)
    return Accepted((held <= fit[:, k - 1, None]).astype(np.float64), np.zeros(len(held)))


def _accept_right(cell: Cell, coverage: float | Fraction) -> Accepted:
    """Accept K held-out items, right ones first: no threshold, the labels are known; wrong ones share what is left."""
    wrong, k = cell.wrong[cell.held], count_accepted(cell.held.shape[1], coverage)
    n_wrong = wrong.sum(axis=1, keepdims=True)
    n_right = wrong.shape[1] - n_wrong
    share = np.where(wrong > 0, bootstrap.divide(k - n_right, n_wrong), bootstrap.divide(k, n_right))
    return Accepted(np.clip(share, 0.0, 1.0), np.zeros(len(wrong)))
