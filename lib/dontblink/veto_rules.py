"""Rules that withhold answers, fitted and judged on repeated splits by item: the arithmetic under `veto`.

Why: 100 splits, 9 cells and hundreds of permutations are millions of threshold fits, done here as arrays. In: rows of
`cells.select_rows` with an entropy and a vision column. Out: for every rule, cell and split which held-out answers are
accepted, and how many errors that saves against the entropy rule AT THE SAME NUMBER of accepted answers. Never: a label
of a held-out item in a threshold, a coefficient or a choice; an item that is in both halves for two models.

Arrays have a row per split: fit int64[S, F] and held int64[S, G] number the items of a cell, in the order of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dontblink.bootstrap import Floats, Ints, number_clusters, split_strata
from dontblink.cells import standardise
from dontblink.firth import check_design
from dontblink.logit import fit_logit
from dontblink.newton import fit_replicates, prepare_rows, start_at
from dontblink.risk_coverage import accepted_errors, count_accepted, count_surer

Bools = NDArray[np.bool_]
RULES = ("entropy", "linear", "interaction", "veto", "oracle")
_CHUNK = 32  # logits fitted at once: their row weights stay in the cache; changes no result


class VetoError(ValueError):
    """Rows or options without a veto study; the message says which and what to do."""


@dataclass(frozen=True, eq=False)
class Cell:
    """Rows `index` of one model and benchmark, their splits, and what the entropy rule alone makes of them.

    by_entropy int64[S, F] is `fit` sorted by entropy, tie_end the last place of each place's group of ties, fit_errors
    float64[S, F + 1] and held_errors [S, G + 1] the expected errors among the k of lowest entropy.
    """

    name: str
    index: Ints
    entropy: Floats
    wrong: Floats
    targeted: Bools
    fit: Ints
    held: Ints
    by_entropy: Ints
    tie_end: Ints
    fit_errors: Floats
    held_errors: Floats


@dataclass(frozen=True, eq=False)
class Study:
    """Rows (model, right, item, E, V), items by their set of cells, and the items a split fits on (bool[S, items])."""

    models: NDArray[np.str_]
    right: Floats
    cells: tuple[Cell, ...]
    row_item: Ints
    strata: tuple[Ints, ...]
    fits_on: Bools
    entropy: Floats
    vision: Floats
    n_shares: int


class Accepted(NamedTuple):
    """Acceptance float64[S, G] of held-out answers, the veto's share of the fit items [S], separated fits of the model.

    Acceptance is 0 or 1, or the share that the oracle accepts of its ties.
    """

    weight: Floats
    veto_share: Floats
    n_separated: int = 0


def prepare_study(
    rows: pd.DataFrame,
    entropy: str,
    vision: str,
    targets: Sequence[str] | None,
    *,
    n_splits: int,
    fit_share: float | Fraction,
    n_shares: int,
    seed: int,
) -> Study:
    """Split the items `n_splits` times, the same way for all models; each set of cells keeps its size in every split.

    `targets` are the task types that the veto is for (None: all). Entropy and vision are standardised within the cell
    with the features of all its rows: no label, but the scale of a cell is taken as known.
    """
    if n_splits < 1 or n_shares < 1 or not 0 < fit_share < 1:
        raise VetoError(f"{n_splits} splits, fit share {fit_share}, {n_shares} shares; expected >= 1, (0, 1), >= 1")
    groups = number_clusters(rows["cluster"], rows["cell"])
    # items in a replicate of a bootstrap repeat: those drawn equally often are split together, so that sizes stay
    times = np.unique(np.bincount(groups.row) * (1 + groups.stratum.max()) + groups.stratum, return_inverse=True)[1]
    strata, fits_on = split_strata(times), np.zeros((n_splits, len(groups.labels)), bool)
    rng = np.random.default_rng(seed)
    for members in strata:
        n_fit = count_accepted(len(members), fit_share)
        drawn = np.argsort(rng.random((n_splits, len(members))), axis=1)[:, :n_fit]
        fits_on[np.arange(n_splits)[:, None], members[drawn]] = True
    labels = rows["cell"].to_numpy()
    e, v = (standardise(rows[name], labels, name) for name in (entropy, vision))
    right = rows["correct"].to_numpy(np.float64)
    targeted = np.ones(len(rows), bool) if targets is None else rows["task_type"].isin(list(targets)).to_numpy()
    cells = tuple(
        _split_cell(str(name), index, fits_on[:, groups.row[index]], e[index], 1 - right[index], targeted[index])
        for name, index in rows.groupby("cell", sort=True).indices.items()
    )
    return Study(
        rows["model"].to_numpy(str), right, cells, groups.row, tuple(strata), fits_on, e, v, n_shares
    )  # fmt: skip


def _split_cell(name: str, index: Ints, in_fit: Bools, entropy: Floats, wrong: Floats, targeted: Bools) -> Cell:
    fit, held = np.split(np.argsort(~in_fit, axis=1, kind="stable"), [int(in_fit[0].sum())], axis=1)
    if not (fit.size and held.size):
        where = name.replace("\n", " x ")
        raise VetoError(f"cell {where}: {len(index)} items leave one half empty; add items or leave the cell out")
    low = np.take_along_axis(fit, np.argsort(entropy[fit], axis=1, kind="stable"), 1)
    curves = [accepted_errors(-entropy[part], wrong[part]) for part in (fit, held)]
    ends = count_surer(-entropy[low])[1] - 1
    return Cell(name, index, entropy, wrong, targeted, fit, held, low, ends, curves[0], curves[1])


def permute_vision(study: Study, rng: np.random.Generator) -> Floats:
    """Return the vision column with items dealt anew within each cell, the same deal for all models of a benchmark.

    An item keeps its vision values of different models together, so that what cells share under the null stays shared.
    """
    deal = np.arange(study.fits_on.shape[1])
    for members in study.strata:
        deal[members] = rng.permutation(members)
    dealt, by_item = np.empty_like(study.vision), np.full(len(deal), np.nan)
    for cell in study.cells:
        items = study.row_item[cell.index]
        by_item[items] = study.vision[cell.index]
        dealt[cell.index] = by_item[deal[items]]
    return dealt


def apply_rule(study: Study, rule: str, vision: Floats, coverage: float | Fraction) -> list[Accepted]:
    """Fit the rule in every split and return what it accepts of the held-out items, a cell at a time.

    entropy: E <= t. linear, interaction: b . (E, V) and b . (E, V, EV) >= t with ONE b per model over its benchmarks
    (`fit_splits`). veto: E <= t and not (task type targeted and V < u), see `fit_veto`. oracle: right answers first.
    t makes the rule accept ceil(coverage F) of the F fit items of the cell; rows tied at t are accepted, so the
    realised coverage can differ.
    """
    if rule in ("linear", "interaction"):
        scores, n_separated = fit_splits(study, vision, interaction=rule == "interaction")
        return [
            _accept_cheapest(cell, -score, coverage)._replace(n_separated=count)
            for cell, score, count in zip(study.cells, scores, n_separated, strict=True)
        ]
    if rule not in RULES:
        raise VetoError(f"rule {rule!r}; expected one of {', '.join(RULES)}")
    found = []
    for cell in study.cells:
        if rule == "oracle":
            found.append(_accept_right(cell, coverage))
        elif rule == "entropy" or not cell.targeted.any():
            found.append(_accept_cheapest(cell, cell.entropy[None], coverage))
        else:
            values = np.where(cell.targeted, vision[cell.index], np.inf)
            limit, floor, share = fit_veto(cell, values, coverage, study.n_shares)
            kept = (cell.entropy[cell.held] <= limit[:, None]) & (values[cell.held] >= floor[:, None])
            found.append(Accepted(kept.astype(np.float64), share))
    return found


def count_saved(cell: Cell, accepted: Accepted) -> tuple[Ints, Floats]:
    """Return int64[S] accepted answers and float64[S] errors saved: those of entropy alone at that number, less own."""
    k = np.rint(accepted.weight.sum(axis=1)).astype(np.int64)
    own = (accepted.weight * cell.wrong[cell.held]).sum(axis=1)
    return k, np.take_along_axis(cell.held_errors, k[:, None], 1)[:, 0] - own


def trace_saved(cell: Cell, accepted: Accepted) -> Floats:
    """Return float64[n, 4] sums over splits for each row of the cell: saved errors, own errors, entropy's, accepted.

    Entropy alone accepts row i with probability p_i at the rule's number of answers, the rule with a_i. The saved
    errors sum (p_i - a_i) wrong_i are written as sum (p_i - a_i) (wrong_i - m), the same number because p and a have
    one sum; m, the risk of entropy at the margin, makes a row's term its influence, which is what a bootstrap needs.
    """
    k, _ = count_saved(cell, accepted)
    wrong, last = cell.wrong[cell.held], cell.held.shape[1]
    above, through = count_surer(-cell.entropy[cell.held])
    p = np.clip((k[:, None] - above) / (through - above), 0.0, 1.0)
    reach = max(1, last // 20)
    low, high = np.maximum(k - reach, 0)[:, None], np.minimum(k + reach, last)[:, None]
    margin = np.diff(np.take_along_axis(cell.held_errors, np.hstack([low, high]), 1)) / (high - low)
    parts = ((p - accepted.weight) * (wrong - margin), accepted.weight * wrong, p * wrong, accepted.weight)
    flat = cell.held.reshape(-1)
    return np.stack([np.bincount(flat, part.reshape(-1), len(cell.index)) for part in parts], axis=1)


def fit_splits(study: Study, vision: Floats, *, interaction: bool) -> tuple[list[Floats], list[int]]:
    """Return for each cell scores float64[S, n], log-odds of being right less the constant of the cell, and in how many
    splits the logit of its model was separated (and fitted by Firth).

    One logit per model and split, over all its benchmarks: constant per cell + E + V (+ EV), standardised.
    """
    features = np.column_stack([study.entropy, vision, study.entropy * vision][: 2 + interaction])
    scores, n_separated = [np.empty(0)] * len(study.cells), [0] * len(study.cells)
    width = features.shape[1]
    for model in dict.fromkeys(study.models):
        own = [c for c, cell in enumerate(study.cells) if study.models[cell.index[0]] == model]
        index = np.concatenate([study.cells[c].index for c in own])
        constants = np.repeat(np.eye(len(own)), [len(study.cells[c].index) for c in own], axis=0)
        x, y = check_design(np.hstack([features[index], constants]), study.right[index])
        items, code = np.unique(study.row_item[index], return_inverse=True)
        rows, near = prepare_rows(x, y, code), np.zeros(x.shape[1])
        near[[0, *range(width, len(near))]] = fit_logit(np.delete(x, range(1, width), 1), y).coef
        start, counts = start_at(rows, near * rows.scale), study.fits_on[:, items].astype(np.float64)
        fits = [fit_replicates(rows, counts[k : k + _CHUNK], start) for k in range(0, len(counts), _CHUNK)]
        coef = np.concatenate([beta for beta, _ in fits]) / rows.scale
        if np.isnan(coef).any():
            raise VetoError(f"model {model}: entropy and vision depend on each other in a split; add items")
        for c in own:
            # term by term, not a matrix product: equal rows must get equal scores to the last bit
            terms = [coef[:, j, None] * features[study.cells[c].index, j] for j in range(width)]
            scores[c], n_separated[c] = np.sum(terms, axis=0), sum(int(flag.sum()) for _, flag in fits)
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
    seen, wrong = vision[cell.by_entropy], cell.wrong[cell.by_entropy]
    floors = np.sort(seen, axis=1)[:, vetoed]
    floors[:, 0] = -np.inf  # no veto, on new items either
    kept = seen[:, None, :] >= floors[:, :, None]
    n_kept = np.cumsum(kept, axis=2, dtype=np.int32)
    place = np.take_along_axis(cell.tie_end, (n_kept < k).sum(axis=2), 1)
    size = np.take_along_axis(n_kept, place[:, :, None], 2)[:, :, 0]
    errors = np.take_along_axis(np.cumsum(kept * wrong[:, None, :], axis=2), place[:, :, None], 2)[:, :, 0]
    gain = (np.take_along_axis(cell.fit_errors, size, 1) - errors) / size
    best = np.argmax(gain >= gain.max(axis=1, keepdims=True) - 1e-12, axis=1)[:, None]
    at = np.take_along_axis(cell.by_entropy, np.take_along_axis(place, best, 1), 1)[:, 0]
    return cell.entropy[at], np.take_along_axis(floors, best, 1)[:, 0], vetoed[best[:, 0]] / n


def _accept_cheapest(cell: Cell, cost: Floats, coverage: float | Fraction) -> Accepted:
    """Accept what costs no more than the K-th cheapest fit item; cost float64[S or 1, n]."""
    k, wide = count_accepted(cell.fit.shape[1], coverage), np.broadcast_to(cost, (len(cell.fit), cost.shape[1]))
    fit, held = (np.take_along_axis(wide, part, 1) for part in (cell.fit, cell.held))
    limit = np.partition(fit, k - 1, axis=1)[:, k - 1, None]
    return Accepted((held <= limit).astype(np.float64), np.zeros(len(held)))


def _accept_right(cell: Cell, coverage: float | Fraction) -> Accepted:
    """Accept K held-out items, right ones first: no threshold, the labels are known; wrong ones share what is left."""
    wrong, k = cell.wrong[cell.held], count_accepted(cell.held.shape[1], coverage)
    above, through = count_surer(-wrong)
    return Accepted(np.clip((k - above) / (through - above), 0.0, 1.0), np.zeros(len(wrong)))
