"""Rules that withhold answers, fitted and judged on repeated splits by item: the arithmetic under `veto`.

Why: 100 splits, 9 cells and thousands of permutations are millions of threshold fits, done here as arrays. In: rows of
`cells.select_rows` with entropy, the length of the response and visions. Out: for every rule, cell and split which
held-out answers are accepted, and how many errors that saves against the base rule AT THE SAME NUMBER of accepted
answers. The base is what a monitor has without a look at attention: entropy, or entropy and length. Never: a label of a
held-out item in a threshold, a coefficient or a choice; an item that is in both halves for two models.

Arrays have a row per split: fit int64[S, F] numbers items of a cell in the order of the base's cost, held int64[S, G]
the rest. Items are dealt into blocks, and every split halves every block: without a block the splits are what they
were, which the jackknife of `veto` needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dontblink.statistics import bootstrap
from dontblink.statistics.bootstrap import EstimateError, Floats, Ints, number_clusters, split_strata
from dontblink.statistics.logit import Rows, Start, fit_logit, fit_replicates, prepare_rows, start_at
from dontblink.studies.cells import ENTROPY, deal_rows, name_cell, standardise
from dontblink.studies.risk_coverage import count_accepted, errors_in_order

Bools = NDArray[np.bool_]
LENGTH = "log_n_response_tokens"
BASES = {"entropy": (ENTROPY,), "entropy_length": (ENTROPY, LENGTH)}  # what each base rule reads
RULES = ("entropy", "entropy_length", "linear", "veto", "oracle")
VISION_RULES = ("linear", "veto")
_CHUNK = 32  # logits fitted at once: their row weights stay in the cache; changes no result


class Ranked(NamedTuple):
    """Answers in the order of a cost, [S, F]: the cost, is it wrong, and the last place of each place's group of ties.

    errors float64[S, F + 1] are the expected errors among the k cheapest. S may be 1, for all splits.
    """

    cost: Floats
    wrong: Floats
    tie_end: Ints
    errors: Floats


@dataclass(frozen=True, eq=False)
class Cell:
    """Rows `index` of one model and benchmark, their splits, and what the base rule makes of them.

    `ranked` are the fit items; `held_cost` float64[S, G] and `held_errors` float64[S, G + 1], the expected errors among
    the k cheapest, the held-out ones. `parts` has for each task type its rows bool[n] and the held-out errors among
    ITS k cheapest. `n_separated` says in how many splits the base's logit was separated.
    """

    name: str
    index: Ints
    wrong: Floats
    targeted: Bools
    fit: Ints
    held: Ints
    ranked: Ranked
    held_cost: Floats
    held_errors: Floats
    parts: dict[str, tuple[Bools, Floats]]
    n_separated: int


@dataclass(frozen=True, eq=False)
class Splits:
    """Rows (cell, right, task type, is it targeted, item), features in standard deviations, and the splits.

    `features` holds what the bases read (`BASES`), `looks` the visions and placebos by name. `block` is that of each
    item, `fits_on` bool[S, items] says what a split fits on, `base` (of BASES) in which order answers are accepted.
    """

    names: NDArray[np.str_]
    right: Floats
    task: NDArray[np.str_]
    targeted: Bools
    row_item: Ints
    features: dict[str, Floats]
    looks: dict[str, Floats]
    block: Ints
    fits_on: Bools
    n_shares: int
    base: str

    def deal(self, rng: np.random.Generator) -> Ints:
        """Return int64[n], whose vision each row gets: items dealt anew within each cell (`cells.deal_rows`).

        An item keeps its vision values of different models together, so that what cells share under the null stays.
        """
        return deal_rows(self.row_item, list(self.places.values()), rng)

    @cached_property
    def places(self) -> dict[str, Ints]:
        """Return the row numbers of each cell."""
        found = pd.Series(self.names).groupby(self.names, sort=True).indices
        return {str(name): np.asarray(index) for name, index in found.items()}

    def price(self, base: str) -> list[tuple[Floats, int]]:
        """Return each cell's cost of its answers by a base rule, and how many of its logits were separated.

        float64[S, n], or [1, n] if nothing is fitted: `fit_weights` on the half that a split fits on.
        """
        found = []
        for name, index in self.places.items():
            columns = [self.features[column][index] for column in BASES[base]]
            if len(columns) == 1:
                found.append((columns[0][None], 0))
                continue
            items, item = np.unique(self.row_item[index], return_inverse=True)
            counts = self.fits_on[:, items].astype(np.float64)
            weights, n_separated = fit_weights(columns, 1 - self.right[index], item, counts, name)
            found.append((weigh(weights, columns), n_separated))
        return found

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Return each cell with its splits; one with an empty half is an error."""
        return tuple(
            _split_cell(
                name, index, self.fits_on[:, self.row_item[index]], cost, 1 - self.right[index], self.targeted[index],
                self.task[index], n_separated,
            )
            for (name, index), (cost, n_separated) in zip(self.places.items(), self.price(self.base), strict=True)
        )  # fmt: skip

    @cached_property
    def models(self) -> list[tuple[str, list[int], Ints, Floats, Ints, Floats, Floats]]:
        """Return what a deal of vision leaves of the logit of each model: its name, its cells, their rows, a constant
        a cell, the item of each row, the coefficients of entropy and the constants without vision, and the items that
        each split fits on.
        """
        found = []
        names = [cell.name.split("\n")[0] for cell in self.cells]
        entropy = self.features[ENTROPY]
        for model in dict.fromkeys(names):
            own = [c for c, name in enumerate(names) if name == model]
            sizes = [len(self.cells[c].index) for c in own]
            index, constants = np.concatenate([self.cells[c].index for c in own]), np.repeat(np.eye(len(own)), sizes, 0)
            items, item = np.unique(self.row_item[index], return_inverse=True)
            near = fit_logit(np.column_stack([entropy[index], constants]), self.right[index]).coef
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
    rows: pd.DataFrame, targets: Sequence[str] | None, *, looks: Mapping[str, str], base: str = "entropy",
    n_splits: int, fit_share: float | Fraction, n_shares: int, n_blocks: int = 1, seed: int,
) -> Splits:  # fmt: skip
    """Split the items `n_splits` times, the same way for all models; every block of a stratum is split by itself.

    `targets` are the task types that the veto is for (None: all), `looks` the columns of visions and placebos by name.
    Features are standardised within the cell with the values of all its rows: no label, but the scale of a cell is
    taken as known. Options out of range, or a cell without items in one of the halves, are errors.
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
    zero = {"constant": "zero"}  # answers of one length say nothing by it
    features = {name: standardise(rows[name], labels, name, **zero) for name in BASES["entropy_length"] if name in rows}
    seen = {name: standardise(rows[column], labels, column, **zero) for name, column in looks.items()}
    right = rows["correct"].to_numpy(np.float64)
    task = rows["task_type"].to_numpy(str)
    targeted = np.ones(len(rows), bool) if targets is None else np.isin(task, list(targets))
    return Splits(labels, right, task, targeted, groups.row, features, seen, block, fits_on, n_shares, base)


def leave_out(splits: Splits, block: int) -> Splits:
    """Return the study without the items of a block, every split as it was for the others."""
    stays = splits.block != block
    rows = stays[splits.row_item]
    item = (np.cumsum(stays) - 1)[splits.row_item[rows]]
    kept = {name: getattr(splits, name)[rows] for name in ("names", "right", "task", "targeted")}
    features, looks = ({name: x[rows] for name, x in part.items()} for part in (splits.features, splits.looks))
    kept |= {"row_item": item, "block": splits.block[stays], "fits_on": splits.fits_on[:, stays]}
    return replace(splits, **kept, features=features, looks=looks)


def fit_weights(columns: Sequence[Floats], wrong: Floats, item: Ints, counts: Floats, name: str) -> tuple[Floats, int]:
    """Return the weights of the columns in the log-odds of being wrong, float64[S, J], and how many were separated.

    One logit of wrong on the columns (float64[n] each) and a constant for each row of `counts` float64[S, items], the
    weight of each item (`item` int64[n] numbers them); a separated fit is Firth's. A column of zeros has no weight.
    `name` is the cell's, for errors.
    """
    used = [j for j, column in enumerate(columns) if column.any()]
    x = np.column_stack([*(columns[j] for j in used), np.ones(len(wrong))])
    rows = prepare_rows(x, wrong, item)
    start = start_at(rows, fit_logit(x, wrong).coef * rows.scale)
    coef, separated = (np.concatenate(part) for part in zip(*_fit_chunks(rows, counts, start), strict=True))
    if np.isnan(coef).any():
        raise EstimateError(f"cell {name_cell(name)}: entropy and length depend on each other in a split; add items")
    weights = np.zeros((len(coef), len(columns)))
    weights[:, used] = coef[:, :-1]
    return weights, int(separated.sum())


def weigh(weights: Floats, columns: Sequence[Floats]) -> Floats:
    """Return the weighted sums float64[S, n] of columns float64[n]; equal rows get equal sums to the last bit."""
    return sum((weights[:, j, None] * column for j, column in enumerate(columns)), np.zeros(1))  # no matrix product


def _fit_chunks(rows: Rows, counts: Floats, start: Start) -> Iterator[tuple[Floats, Bools]]:
    space = np.empty((4, _CHUNK, len(rows.x)))
    for k in range(0, len(counts), _CHUNK):
        beta, separated = fit_replicates(rows, counts[k : k + _CHUNK], start, space)
        yield beta / rows.scale, separated


def _split_cell(
    name: str, index: Ints, in_fit: Bools, cost: Floats, wrong: Floats, targeted: Bools, task: NDArray[np.str_],
    n_separated: int,
) -> Cell:  # fmt: skip
    if in_fit[0].all() or not in_fit[0].any():
        found = f"cell {name_cell(name)}: {len(index)} items leave one half empty"
        raise EstimateError(f"{found}; add items or leave the cell out")
    order = np.broadcast_to(np.argsort(cost, axis=1), in_fit.shape)  # the order of ties says nothing: see `Ranked`
    first, cost = np.take_along_axis(in_fit, order, 1), np.broadcast_to(cost, in_fit.shape)
    fit, held = (order[part].reshape(len(order), -1) for part in (first, ~first))
    own, prices = rank_answers(np.take_along_axis(cost, fit, 1), wrong.take(fit)), np.take_along_axis(cost, held, 1)
    errors, parts = errors_in_order(prices, wrong.take(held)), {}
    for kind in np.unique(task):
        rows = task == kind
        if rows.all():
            parts[str(kind)] = (rows, errors)
            break
        place = np.argsort(~rows.take(held), axis=1, kind="stable")  # the others last, and never counted
        ranked = (np.take_along_axis(x, place, 1) for x in (prices, wrong.take(held)))
        parts[str(kind)] = (rows, errors_in_order(*ranked))
    return Cell(name, index, wrong, targeted, fit, held, own, prices, errors, parts, n_separated)


def rank_answers(cost: Floats, wrong: Floats) -> Ranked:
    """Return answers that are sorted by cost along the last axis, with their ties and their expected errors."""
    return Ranked(cost, wrong, bootstrap.find_ties(cost)[1], errors_in_order(cost, wrong))


def apply_rule(
    splits: Splits, rule: str, vision: Floats, coverages: Sequence[float | Fraction], *, targeted_only: bool = False
) -> Iterator[list[Accepted | None]]:
    """Fit the rule in every split; yield, for each coverage, what it accepts of the held-out items, a cell at a time.

    entropy, entropy_length: cost <= t, see `Splits.price`. linear: b . (E, V) >= t with ONE b per model over its
    benchmarks (`fit_splits`). veto: cost of the base <= t and not (task type targeted and V < u), see `fit_veto`.
    oracle: right answers first. t makes the rule accept ceil(coverage F) of the F fit items of the cell; rows tied at t
    are accepted, so the realised coverage can differ. With `targeted_only` a veto leaves cells without targeted rows as
    None: there it is the base rule, whatever the vision.
    """
    if rule not in RULES:
        raise EstimateError(f"rule {rule!r}; expected one of {', '.join(RULES)}")
    cells = splits.cells
    separated = [cell.n_separated for cell in cells]
    costs = [(cell.ranked.cost, cell.held_cost) for cell in cells]
    if rule == "linear":
        scores, separated = fit_splits(splits, vision)
        costs = [_take_costs(cell, -score, coverages) for cell, score in zip(cells, scores, strict=True)]
    elif rule in BASES and rule != splits.base:
        priced = splits.price(rule)
        separated = [n_separated for _, n_separated in priced]
        costs = [_take_costs(cell, cost, coverages) for cell, (cost, _) in zip(cells, priced, strict=True)]
    for coverage in coverages:
        found: list[Accepted | None] = []
        for c, cell in enumerate(cells):
            if rule == "oracle":
                found.append(_accept_right(cell, coverage))
            elif rule == "veto" and cell.targeted.any():
                found.append(_accept_seen(cell, vision, coverage, splits.n_shares))
            elif targeted_only:
                found.append(None)
            else:
                found.append(_accept_cheapest(*costs[c], coverage, separated[c]))
        yield found


def count_errors(cell: Cell, accepted: Accepted, part: str = "") -> Floats:
    """Return float64[4, S]: accepted answers, wrong ones among them, those of the base at that number, held-out ones.

    `part` counts one task type of a cell that holds several: of its accepted answers, against the base's own cheapest
    of that type.
    """
    weight, errors, n_held = accepted.weight, cell.held_errors, np.full(len(cell.held), cell.held.shape[1])
    if part:
        rows, errors = cell.parts.get(part, (np.zeros(len(cell.index), bool), errors))  # no item of the type is left
        inside = rows.take(cell.held)
        weight, n_held = weight * inside, inside.sum(axis=1)
    k = np.rint(weight.sum(axis=1)).astype(np.int64)
    own = np.einsum("sg,sg->s", weight, cell.wrong.take(cell.held))
    return np.stack([k, own, np.take_along_axis(errors, k[:, None], 1)[:, 0], n_held]).astype(np.float64)


def fit_splits(splits: Splits, vision: Floats) -> tuple[list[Floats], list[int]]:
    """Return for each cell scores float64[S, n], log-odds of being right less the constant of the cell, and in how many
    splits the logit of its model was separated (and fitted by Firth).

    One logit per model and split, over all its benchmarks: constant per cell + E + V, standardised.
    """
    features = np.column_stack([splits.features[ENTROPY], vision])
    scores, n_separated = [np.empty(0)] * len(splits.cells), [0] * len(splits.cells)
    for name, own, index, constants, item, near, counts in splits.models:
        rows = prepare_rows(np.hstack([features[index], constants]), splits.right[index], item)
        start = start_at(rows, np.insert(near, 1, 0.0) * rows.scale)
        coef, separated = (np.concatenate(part) for part in zip(*_fit_chunks(rows, counts, start), strict=True))
        if np.isnan(coef).any():
            raise EstimateError(f"model {name}: entropy and vision depend on each other in a split; add items")
        for c in own:
            scores[c] = weigh(coef, list(features[splits.cells[c].index].T))
            n_separated[c] = int(separated.sum())
    return scores, n_separated


def try_floors(ranked: Ranked, seen: Floats, k: int, vetoed: Ints) -> tuple[Floats, Ints, Ints, Floats]:
    """Return what each candidate veto gains on the answers it is fitted on, the number that it keeps, the place of its
    limit, and its floor; [S, J] each.

    `seen` float64[S, F] is the vision of answers in the order of their cost, +inf where the veto does not apply;
    `vetoed` int64[J], from 0, how many of the blindest each candidate vetoes. The limit is the cost of the K-th kept
    answer, and answers tied with it are kept. gain = (errors of the base alone among as many answers as are kept -
    errors kept) / number kept.
    """
    n = seen.shape[1]
    blind = np.argpartition(seen, n - k, axis=1)[:, : n - k + 1].astype(np.int32)  # places by cost
    low = np.take_along_axis(seen, blind, 1)
    floors = np.sort(low, axis=1)[:, vetoed]
    floors[:, 0] = -np.inf  # no veto, on new items either
    floors[np.isposinf(floors)] = -np.inf  # more than the veto applies to: it would withhold these whatever they see
    gone = low[:, None] < floors[:, :, None]
    # the i-th vetoed place comes before the K-th kept one if less than K kept ones come before it
    places = np.sort(np.where(gone, blind[:, None], n + k), axis=2)
    place = np.take_along_axis(ranked.tie_end, k - 1 + (places - np.arange(n - k + 1) < k).sum(axis=2), 1)
    gone &= blind[:, None] <= place[:, :, None]
    size = place + 1 - gone.sum(axis=2)
    wrong = np.einsum("sjm,sm->sj", gone, np.take_along_axis(ranked.wrong, blind, 1))
    errors = np.take_along_axis(ranked.errors, place + 1, 1) - wrong
    gain = (np.take_along_axis(ranked.errors, size, 1) - errors) / size
    return gain, size, place, floors


def fit_veto(ranked: Ranked, seen: Floats, coverage: float | Fraction, n_shares: int) -> tuple[Floats, Floats, Floats]:
    """Return the limit t of the base's cost, the vision floor u and the vetoed share of the fit items, float64[S] each.

    Candidates: u is the order statistic below which j/n_shares of the F - K withheld fit items lie, j = 0..n_shares,
    and t then the cost of the K-th kept item, K = ceil(coverage F). The candidate of `try_floors` wins that gains most,
    the smallest veto among equals: without a saving there is no veto.
    """
    n = seen.shape[1]
    k = count_accepted(n, coverage)
    vetoed = np.unique((n - k) * np.arange(n_shares + 1) // n_shares)
    gain, _, place, floors = try_floors(ranked, seen, k, vetoed)
    best = np.argmax(gain >= gain.max(axis=1, keepdims=True) - 1e-12, axis=1)[:, None]
    limit = np.take_along_axis(ranked.cost, np.take_along_axis(place, best, 1), 1)[:, 0]
    return limit, np.take_along_axis(floors, best, 1)[:, 0], vetoed[best[:, 0]] / n


def _accept_seen(cell: Cell, vision: Floats, coverage: float | Fraction, n_shares: int) -> Accepted:
    """Accept what the base does and what looks enough at the picture."""
    seen = np.where(cell.targeted, vision[cell.index], np.inf)
    limit, floor, share = fit_veto(cell.ranked, seen.take(cell.fit), coverage, n_shares)
    kept = (cell.held_cost <= limit[:, None]) & (seen.take(cell.held) >= floor[:, None])
    return Accepted(kept.astype(np.float64), share, cell.n_separated)


def _take_costs(cell: Cell, cost: Floats, coverages: Sequence[float | Fraction]) -> tuple[Floats, Floats]:
    """Return the costs of the fit items, in order at the places that `coverages` need, and of the held-out items.

    cost float64[S, n], or [1, n] in all splits.
    """
    n, cost = cell.fit.shape[1], np.broadcast_to(cost, (len(cell.fit), cost.shape[1]))
    fit, held = (np.take_along_axis(cost, part, 1) for part in (cell.fit, cell.held))
    fit.partition([count_accepted(n, coverage) - 1 for coverage in coverages], axis=1)
    return fit, held


def _accept_cheapest(fit: Floats, held: Floats, coverage: float | Fraction, n_separated: int) -> Accepted:
    """Accept what costs no more than the K-th cheapest fit item."""
    limit = fit[:, count_accepted(fit.shape[1], coverage) - 1, None]
    return Accepted((held <= limit).astype(np.float64), np.zeros(len(held)), n_separated)


def _accept_right(cell: Cell, coverage: float | Fraction) -> Accepted:
    """Accept K held-out items, right ones first: no threshold, the labels are known; wrong ones share what is left."""
    wrong, k = cell.wrong[cell.held], count_accepted(cell.held.shape[1], coverage)
    n_wrong = wrong.sum(axis=1, keepdims=True)
    n_right = wrong.shape[1] - n_wrong
    share = np.where(wrong > 0, bootstrap.divide(k - n_right, n_wrong), bootstrap.divide(k, n_right))
    return Accepted(np.clip(share, 0.0, 1.0), np.zeros(len(wrong)))
