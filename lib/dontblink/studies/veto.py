"""Does a vision veto make accepted answers safer than entropy alone, at the same coverage and out of sample?

Why: the paper reports the best of nine cells; with vision that is pure noise the best of nine looks as good. And a
threshold that looked good on 300 items promises nothing: learn-then-test (Angelopoulos et al. 2021) turns candidates
into hypothesis tests and keeps a promise. In: the items table of the TEST split. Out: per rule and scope the risk of
the accepted answers, the gain over entropy alone at equal realised coverage, its interval, and a permutation null that
repeats every fit; thresholds with a guarantee in words. The pooled gain is the primary one; all cells are shown. Never:
a threshold judged on its own items, a best cell as the headline, rules compared at different coverages, an interval
that takes the fitted thresholds as given, a candidate chosen on the items that certify it, or a certificate over the
rows of several models of one item (the bound takes rows as independent).

Every rule is fitted on half of the items and judged on the other half, in many splits; a result is a ratio of sums
over splits. Resampling items with the fits as they are gives intervals that are too narrow; the block jackknife leaves
blocks of items out of BOTH halves and repeats every fit (the scale of the features and their adjustment are held). It
errs to the wide side (`bootstrap.block_interval`), except where a rule acts in no split: its gain is then exactly 0
with an interval of no width, although the expected gain of such a rule is a little below 0. That is common in small
cells without a danger zone (`make simulate`: 60 items).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from mapie.risk_control import control_fwer
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint

from dontblink.statistics.bootstrap import EstimateError, Floats, Ints, block_interval, divide, permutation_p
from dontblink.studies.cells import ENTROPY, VISION, adjust, count_rows, each_scope, keep_usable, select_rows
from dontblink.studies.risk_coverage import check_rows, count_accepted
from dontblink.studies.veto_rules import RULES, Splits, apply_rule, count_errors, fit_veto, leave_out, prepare_splits

CANDIDATES = tuple(k / 20 for k in range(6, 21))  # coverages 0.3, 0.35, ..., 1 that thresholds to certify stand for
VISION_RULES = ("linear", "interaction", "veto")


class _Setting(NamedTuple):
    """A rule at a coverage: `counts` float64[3, S, C] of `count_errors`, and per cell the share vetoed and separated.

    `left_out` float64[3, G, C] and `dealt` float64[3, deals, C] are the sums over splits without each block, and with
    vision dealt anew.
    """

    counts: Floats
    veto_share: Floats
    n_separated: Ints
    left_out: Floats
    dealt: Floats


def veto_table(
    items: pd.DataFrame,
    targets: Sequence[str] | None,
    *,
    coverages: Sequence[float | Fraction] = (0.9,),
    rules: Sequence[str] = RULES,
    covariates: Sequence[str] = (),
    n_splits: int = 100,
    fit_share: float | Fraction = 0.5,
    n_shares: int = 10,
    n_blocks: int = 20,
    n_deals: int = 0,
    confidence: float = 0.95,
    min_items: int = 60,
    seed: int = 0,
) -> pd.DataFrame:
    """Return a row per scope (cell, benchmark, pooled), coverage and rule.

    The veto is for the task types `targets`, declared beforehand; None vetoes in all (the contrast that shows what
    targeting spares). Elsewhere the veto is the entropy rule and its gain is 0 by construction. `coverages` are shares
    of the FIT items of a cell that a rule accepts. `covariates` are taken out of entropy and vision by least squares
    within the cell first. `n_blocks` blocks of items are left out in turn by the jackknife, and vision is dealt
    `n_deals` times (`veto_rules.Splits.deal_vision`); each repeats all fits.

    Columns: the counts of the scope, n_left_out, n_cells, n_splits, adjusted_for, coverage, rule, realised_coverage (of
    the held-out items), risk (of accepted answers) with risk_low, risk_high, entropy_risk (at equal realised coverage),
    gain = entropy_risk - risk with ci_low, ci_high, method, split_low, split_high (the middle 95 % of splits),
    veto_share (mean share of the fit items vetoed), n_separated (split logits fitted by Firth). With deals, for rules
    that use vision: p (one-sided share of deals with at least this gain), null_mean, null_low, null_high (95 % of
    deals); for cells p_max and null_max_high (95 % quantile), against the largest gain of ANY cell in a deal. A cell
    below `min_items` or of one class keeps its counts alone.

    Notes
    -----
    gain = sum over splits and cells of (errors of entropy alone among its k lowest, expected over ties, - errors of
    the rule among its k) / sum of k, k the number that the rule accepts in that split and cell. Null hypothesis:
    within a cell vision is independent of entropy AND correctness together. A rule that fits noise loses a little, so
    the null lies below 0 and a small p says "vision is informative", not "the rule helps": that is the gain's interval.
    """
    if unknown := [name for name in rules if name not in RULES]:
        raise EstimateError(f"rules {unknown}; expected some of {', '.join(RULES)}")
    known = sorted(set(items["task_type"].astype("str")))
    if targets is not None and not set(targets) & set(known):
        raise EstimateError(f"targets {list(targets)}: no row has such a task type, found {known}; correct targets")
    if min_items < 3 * n_blocks:
        raise EstimateError(f"{n_blocks} blocks in cells of {min_items} items; a block needs 3, give fewer blocks")
    rows = select_rows(items, [ENTROPY, VISION, *covariates])
    n_left_out = rows.attrs["n_left_out"]
    rows = adjust(rows, (ENTROPY, VISION), covariates)
    usable, settings = keep_usable(rows, min_items), [(coverage, rule) for rule in rules for coverage in coverages]
    found: list[_Setting] = []
    judged: list[str] = []
    if len(usable):
        splits = prepare_splits(
            usable, targets, n_splits=n_splits, fit_share=fit_share, n_shares=n_shares, n_blocks=n_blocks, seed=seed
        )
        judged = [cell.name for cell in splits.cells]
        rng, without = np.random.default_rng([seed, 2]), [leave_out(splits, k) for k in np.unique(splits.block)]
        dealt = [splits.deal_vision(rng) for _ in range(n_deals)]
        for rule in rules:
            found += _run(splits, rule, coverages, without, dealt if rule in VISION_RULES else [])
    results: list[dict[str, Any]] = []
    for names, scope in each_scope(rows):
        cells = np.flatnonzero(np.isin(judged, scope["cell"].unique()))
        facts = names | count_rows(scope) | {"n_left_out": n_left_out, "n_cells": len(cells), "n_splits": n_splits}
        facts |= {"adjusted_for": ", ".join(covariates)}
        for j, (coverage, rule) in enumerate(settings):
            row: dict[str, Any] = {"coverage": float(coverage), "rule": rule}
            if len(cells):
                row |= _describe(found[j], cells, facts["n_items"], confidence)
                row["realised_coverage"] /= sum(splits.cells[c].held.size for c in cells)
                if rule in VISION_RULES and n_deals:
                    row |= _compare(row["gain"], found[j].dealt, cells, with_max=facts["scope"] == "cell")
            results.append(facts | row)
    return pd.DataFrame(results)


def plant_blind_errors(items: pd.DataFrame, targets: Sequence[str], share: float) -> pd.DataFrame:
    """Return the items with the blindest `share` of each targeted cell made wrong: the positive control.

    What the paper describes, put into the data: answers with the lowest vision are wrong, however low their entropy.
    A study that finds no gain here could not have found one.
    """
    cell = items.groupby([items["model"].astype("str"), items["benchmark"].astype("str")])[VISION]
    blind = items[VISION] <= cell.transform(lambda values: np.quantile(values, share, method="inverted_cdf"))
    return items.assign(correct=items["correct"] & ~(blind & items["task_type"].astype("str").isin(targets)))


def describe_gain(name: str, table: pd.DataFrame) -> str:
    """Return a sentence on the rows of ONE rule and coverage: the pooled gain, and the cells beside it."""
    if table.duplicated(["scope", "model", "benchmark"]).any():
        raise EstimateError(f"{name}: several rows a scope; expected those of one rule and coverage")
    cells = table[(table["scope"] == "cell") & table["gain"].notna()]
    pooled = table[table["scope"] == "pooled"].iloc[0]
    gain, low, high = (100 * pooled[column] for column in ("gain", "ci_low", "ci_high"))
    side = "saves risk" if low > 0 else "costs risk" if high < 0 else "cannot be told from entropy alone"
    points = f"{gain:+.2f} points ({low:+.2f} to {high:+.2f})"
    words = f"{name}: {side}, {points} at coverage {pooled['realised_coverage']:.3f}"
    acts = cells[(cells["gain"] != 0) | (cells["ci_low"] < cells["ci_high"])]
    if acts.empty:
        return f"{words}; it acts in none of {len(cells)} cells"
    best = acts.loc[acts["gain"].idxmax()]
    return (
        f"{words}; it acts in {len(acts)} of {len(cells)} cells, saves beyond its interval in "
        f"{(acts['ci_low'] > 0).sum()} and costs in {(acts['ci_high'] < 0).sum()}; best: {best['benchmark']}, "
        f"{best['model']} with {100 * best['gain']:+.2f}"
    )


def _run(
    splits: Splits, rule: str, coverages: Sequence[float | Fraction], without: Sequence[Splits], dealt: Sequence[Floats]
) -> list[_Setting]:
    """Judge a rule on the data, without each block, and on dealt vision; one entry a coverage."""
    own = list(_count(splits, rule, splits.vision, coverages))
    turns = [(rest, rest.vision) for rest in without] + [(splits, vision) for vision in dealt]
    again = [[counts.sum(axis=1) for counts, *_ in _count(rest, rule, vision, coverages)] for rest, vision in turns]
    sums = [np.stack(turn, axis=1) for turn in zip(*again, strict=True)]
    return [
        _Setting(*facts, left_out=part[:, : len(without)], dealt=part[:, len(without) :])
        for facts, part in zip(own, sums, strict=True)
    ]


def _count(
    splits: Splits, rule: str, vision: Floats, coverages: Sequence[float | Fraction]
) -> Iterator[tuple[Floats, Floats, Ints]]:
    for found in apply_rule(splits, rule, vision, coverages):
        counts = [count_errors(cell, accepted) for cell, accepted in zip(splits.cells, found, strict=True)]
        shares = np.array([accepted.veto_share.mean() for accepted in found])
        yield np.stack(counts, axis=2), shares, np.array([accepted.n_separated for accepted in found])


def _describe(found: _Setting, cells: Ints, n_items: int, confidence: float) -> dict[str, Any]:
    accepted, own, base = found.counts[:, :, cells].sum(axis=2)
    without = found.left_out[:, :, cells].sum(axis=2)
    total, by_split = accepted.sum(), divide(base - own, accepted)
    gain = block_interval((base - own).sum() / total, (without[2] - without[1]) / without[0], n_items, confidence)
    risk = block_interval(own.sum() / total, without[1] / without[0], n_items, confidence)
    return {
        "realised_coverage": float(total), "entropy_risk": float(base.sum() / total),
        "risk": risk.estimate, "risk_low": max(0.0, risk.ci_low), "risk_high": min(1.0, risk.ci_high),
        "gain": gain.estimate, "ci_low": gain.ci_low, "ci_high": gain.ci_high, "method": gain.method,
        "split_low": float(np.nanquantile(by_split, 0.025)), "split_high": float(np.nanquantile(by_split, 0.975)),
        "veto_share": float(found.veto_share[cells].mean()), "n_separated": int(found.n_separated[cells].max()),
    }  # fmt: skip


def _compare(gain: float, dealt: Floats, cells: Ints, *, with_max: bool) -> dict[str, float]:
    accepted, own, base = dealt[:, :, cells].sum(axis=2)
    drawn = (base - own) / accepted
    row = {"p": permutation_p(drawn, gain), "null_mean": float(drawn.mean())}
    row |= dict(zip(("null_low", "null_high"), map(float, np.quantile(drawn, (0.025, 0.975))), strict=True))
    if with_max:
        largest = ((dealt[2] - dealt[1]) / dealt[0]).max(axis=1)
        row |= {"p_max": permutation_p(largest, gain), "null_max_high": float(np.quantile(largest, 0.95))}
    return row


@dataclass(frozen=True)
class Certificate:
    """The laxest certified threshold: accept where confidence >= threshold (NaN: none certified, accept nothing).

    n_accepted of n_certifying items had `risk` (share wrong, NaN if none), tested at `p_value` (1 if none).
    """

    max_risk: float
    delta: float
    threshold: float
    n_certifying: int
    n_accepted: int
    risk: float
    p_value: float

    @property
    def guarantee(self) -> str:
        """Return the guarantee as a sentence."""
        chance = f"{1 - self.delta:.6g}"
        if np.isnan(self.threshold):
            return f"no candidate is certified at risk {self.max_risk:.6g} with probability {chance}: accept nothing"
        return (
            f"with probability at least {chance} over the draw of the certification items, an accepted answer "
            f"is wrong with a chance below {self.max_risk:.6g}, for new items drawn independently like these, of this "
            "model and benchmark; not for another benchmark, and not for several cells at once"
        )


def certify_threshold(
    confidence: ArrayLike, error: ArrayLike, thresholds: Sequence[float], *, max_risk: float, delta: float
) -> Certificate:
    """Test thresholds from the strictest to the laxest, each at level delta, and return the last before a failure.

    The certification items, float[n] and {0, 1}[n], are independent and were not used to choose `thresholds` or to fit
    the confidence. The strictest threshold must accept enough of them: m without an error reach delta if
    (1 - max_risk)^m <= delta. `delta` is the probability with which the guarantee may fail.

    H_t: P(wrong | confidence >= t) >= max_risk. Given the number of accepted items their errors are independent with
    that probability, so its p-value is MAPIE's Hoeffding-Bentkus bound for 0/1 losses (here the binomial tail). Testing
    in a fixed order and stopping at the first failure keeps the chance of any false certificate below delta.
    """
    values, wrong = check_rows(confidence, error)
    ordered = np.unique(np.asarray(thresholds, np.float64))[::-1]
    if not (0 < max_risk < 1 and 0 < delta < 1) or not ordered.size or np.isnan(ordered).any():
        found = f"risk {max_risk}, delta {delta}, thresholds {thresholds}"
        raise EstimateError(f"{found}; expected (0, 1), (0, 1), numbers")
    accepted = values >= ordered[:, None]
    n, errors = accepted.sum(axis=1), accepted @ wrong
    p = bound_p_values(errors, n, max_risk)
    certified = control_fwer(p, delta, "fixed_sequence")
    if not certified.size:
        return Certificate(max_risk, delta, np.nan, len(values), 0, np.nan, 1.0)
    k = int(certified[-1])
    risk = float(errors[k] / n[k])
    return Certificate(max_risk, delta, float(ordered[k]), len(values), int(n[k]), risk, float(p[k]))


def bound_p_values(errors: ArrayLike, n: ArrayLike, max_risk: float) -> Floats:
    """Return the Hoeffding-Bentkus p-values of "the risk is at least max_risk", 0/1 losses; 1 where n = 0."""
    total = np.asarray(n, np.float64)
    risk = np.divide(np.asarray(errors, np.float64), total, out=np.ones_like(total), where=total > 0)
    bound: Floats = compute_hoeffding_bentkus_p_value(risk, total, max_risk, binary=True)[:, 0]
    return bound


def certify_table(
    items: pd.DataFrame,
    targets: Sequence[str] | None,
    *,
    max_risk: float,
    delta: float = 0.1,
    coverage: float | Fraction = 0.9,
    n_shares: int = 10,
    confidence: float = 0.95,
    min_items: int = 60,
    seed: int = 0,
) -> pd.DataFrame:
    """Return a row per cell and rule (entropy, veto): certified on one third of the items, checked on another.

    A first third fixes the candidate thresholds (those of coverages 0.3, 0.35, ..., 1 of it) and, for the veto, the
    vision floor as in `veto_rules.fit_veto`; a vetoed answer has confidence -inf. Columns: model, benchmark, n_items,
    rule, max_risk, delta, threshold (minus nats), vision_floor (NaN without a veto), n_certifying, n_accepted, risk,
    p_value, and on the checking third n_checked, n_checked_accepted, checked_coverage, checked_risk, ci_low, ci_high
    (Clopper-Pearson, the risk), guarantee. The guarantee is one cell's: over C cells, use delta / C. A cell below
    `min_items` is left out.
    """
    rows = keep_usable(select_rows(items, [ENTROPY, VISION]), min_items)
    if not len(rows):
        raise EstimateError(f"no cell has {min_items} items and both right and wrong answers; add items")
    splits = prepare_splits(rows, targets, n_splits=1, fit_share=Fraction(1, 3), n_shares=n_shares, seed=seed)
    checks = np.random.default_rng([seed, 1]).permutation(splits.fits_on.shape[1]) % 2 == 0
    e_all, v_all = (rows[name].to_numpy(np.float64) for name in (ENTROPY, VISION))
    results: list[dict[str, Any]] = []
    for cell in splits.cells:
        e, v, held = e_all[cell.index], np.where(cell.targeted, v_all[cell.index], np.inf), cell.held[0]
        apart = checks[splits.row_item[cell.index][held]]
        model, benchmark = cell.name.split("\n")
        for rule in ("entropy", "veto"):
            floor = float(fit_veto(cell, v, coverage, n_shares)[1][0]) if rule == "veto" else -np.inf
            surety = np.where(v >= floor, -e, -np.inf)
            ranked = np.sort(surety[cell.fit[0]])[::-1]
            edges = [float(ranked[count_accepted(len(ranked), share) - 1]) for share in CANDIDATES]
            thresholds = [edge for edge in edges if edge > -np.inf]  # -inf would accept the vetoed answers
            tested, seen = held[~apart], held[apart]
            found = certify_threshold(surety[tested], cell.wrong[tested], thresholds, max_risk=max_risk, delta=delta)
            accepted = surety[seen] >= found.threshold
            n, bad = int(accepted.sum()), int(cell.wrong[seen][accepted].sum())
            ends = proportion_confint(bad, n, alpha=1 - confidence, method="beta") if n else (0.0, 1.0)
            row = {"model": model, "benchmark": benchmark, "n_items": len(e), "rule": rule}
            row |= {"vision_floor": floor if np.isfinite(floor) else np.nan} | asdict(found)
            row |= {"n_checked": len(seen), "n_checked_accepted": n, "checked_risk": bad / n if n else np.nan}
            row |= {"checked_coverage": n / len(seen) if len(seen) else np.nan}
            results.append(row | {"ci_low": float(ends[0]), "ci_high": float(ends[1]), "guarantee": found.guarantee})
    return pd.DataFrame(results)
