"""Thresholds with a guarantee, at home, on another benchmark, and repaired there with a few labels.

Why: a threshold that looked good on 300 items promises nothing. Learn-then-test (Angelopoulos et al. 2021) turns
candidates into hypothesis tests and keeps a promise, for new items of the SAME kind; a monitor that is certified on one
benchmark and used on another has none. In: the items table of the TEST split. Out: how often and by how much the risk
of accepted answers passes the promised one at home (items of the cell that certified), shifted (the same threshold on
another benchmark of the model) and repaired (certified again on some labelled items of the target). Never: a guarantee
without its domain, a candidate chosen on the items that certify it, or a certificate over the rows of several models of
one item (the bound takes rows as independent).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from mapie.risk_control import control_fwer
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint

from dontblink.statistics.bootstrap import EstimateError, Floats, Ints
from dontblink.studies.cells import VISION
from dontblink.studies.risk_coverage import check_rows, count_accepted
from dontblink.studies.veto import select_answers
from dontblink.studies.veto_rules import BASES, Splits, fit_veto, fit_weights, prepare_splits, rank_answers, weigh

CANDIDATES = tuple(k / 20 for k in range(6, 21))  # coverages 0.3, 0.35, ..., 1 that thresholds to certify stand for
KINDS = ("home", "shifted", "repaired")
MONITORS = (*BASES, "veto")  # the veto stands on entropy and length


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


@dataclass(frozen=True, eq=False)
class _Monitor:
    """A monitor of ONE cell and draw: how sure it is of every answer of its model (-inf: vetoed), float64[n rows]."""

    cell: str
    draw: int
    surety: Floats


def shift_table(
    items: pd.DataFrame, targets: Sequence[str] | None, *, vision: str = VISION, monitors: Sequence[str] = MONITORS,
    max_risk: float, delta: float = 0.1, coverage: float | Fraction = 0.9, n_shares: int = 10, n_draws: int = 20,
    repair_items: int = 100, confidence: float = 0.95, min_items: int = 60, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Return a row per monitor, model, ordered pair of benchmarks (source, target), kind and draw.

    In every draw the items are divided by thirds. On the first of a cell its monitor is fitted (`MONITORS`: a base's
    cost, in the units of the table, and for the veto a floor of `vision` for the task types `targets` as
    `veto_rules.fit_veto` finds it) and the candidate thresholds are fixed, those of coverages 0.3, 0.35, ..., 1. The
    second third certifies one of them at `max_risk` with probability 1 - `delta`. Kinds: home, checked on the third
    third; shifted, the same threshold on ALL answers of the target; repaired, the same monitor, its threshold certified
    again on `repair_items` labelled answers of the target, with the candidates of the coverages of the target's other
    answers (without their labels), on which it is checked.

    Columns: monitor, model, source, target, kind, draw, max_risk, delta, threshold (NaN: none is certified, nothing
    accepted), n_certifying, n_checked, n_accepted, n_wrong, risk, ci_low, ci_high (Clopper-Pearson), violates (risk
    above max_risk), violates_surely (the interval lies above max_risk), guarantee (in words, with its domain). A target
    with no more than `repair_items` answers has no repaired row.
    """
    if unknown := [name for name in monitors if name not in MONITORS]:
        raise EstimateError(f"monitors {unknown}; expected some of {', '.join(MONITORS)}")
    columns = BASES["entropy"] if set(monitors) == {"entropy"} else BASES["entropy_length"]
    _, rows = select_answers(items, targets, {"vision": vision}, (), min_items, columns)
    if not len(rows):
        raise EstimateError(f"no cell has {min_items} items and both right and wrong answers; add items")
    splits = prepare_splits(
        rows, targets, looks={}, n_splits=n_draws, fit_share=Fraction(1, 3), n_shares=n_shares, seed=seed
    )
    rng = np.random.default_rng([seed, 1])
    checks = rng.permuted(np.tile(np.arange(splits.fits_on.shape[1]) % 2 == 0, (n_draws, 1)), axis=1)
    repairs = rng.random(splits.fits_on.shape)  # the labelled items of a target are those with the smallest keys
    wrong, promise = 1 - splits.right, {"max_risk": max_risk, "delta": delta}
    results: list[dict[str, Any]] = []
    for name in monitors:
        for source in _build(splits, rows, name, vision, coverage, n_shares):
            model, own = source.cell.split("\n")
            fit, rest = (
                index[splits.fits_on[source.draw, splits.row_item[index]] == is_fit]
                for index, is_fit in ((splits.places[source.cell], True), (splits.places[source.cell], False))
            )
            apart = checks[source.draw, splits.row_item[rest]]
            found = _certify(source.surety, wrong, rest[~apart], fit, promise)
            facts = {"monitor": name, "model": model, "source": own, "draw": source.draw} | promise
            results.append(facts | {"target": own, "kind": "home"} | _check(found, source.surety, wrong, rest[apart]))
            for cell, index in splits.places.items():
                other = cell.split("\n")[1]
                if cell == source.cell or cell.split("\n")[0] != model:
                    continue
                facts["target"] = other
                results.append(facts | {"kind": "shifted"} | _check(found, source.surety, wrong, index))
                if len(index) > repair_items:
                    order = index[np.argsort(repairs[source.draw, splits.row_item[index]], kind="stable")]
                    labelled, others = np.split(order, [repair_items])
                    again = _certify(source.surety, wrong, labelled, others, promise)
                    results.append(facts | {"kind": "repaired"} | _check(again, source.surety, wrong, others))
    table = pd.DataFrame(results)
    n, bad = table["n_accepted"].to_numpy(), table["n_wrong"].to_numpy()
    with np.errstate(invalid="ignore"):
        table["risk"] = np.where(n > 0, bad / n, np.nan)
        ends = proportion_confint(bad, n, alpha=1 - confidence, method="beta")
    table["ci_low"], table["ci_high"] = (np.where(n > 0, end, np.nan) for end in ends)
    table["violates"], table["violates_surely"] = table["risk"] > max_risk, table["ci_low"] > max_risk
    first = ["monitor", "model", "source", "target", "kind", "draw"]
    return table[[*first, *(name for name in table if name not in {*first, "guarantee"}), "guarantee"]]


def summarise_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per monitor, model, source, target and kind of a `shift_table`: what its draws say together.

    Columns: n_draws, n_certified (draws with a threshold), mean_coverage (of the checked answers, none accepted without
    a threshold), risk (wrong / accepted over the draws), ci_low, ci_high (the ends of the draws' Clopper-Pearson
    intervals, averaged: how far ONE draw of this size can be wrong), share (of the certified draws that violate).
    """
    keys = ["monitor", "model", "source", "target", "kind"]
    groups, certified = table.groupby(keys, sort=True), table[table["n_accepted"] > 0].groupby(keys, sort=True)
    pairs = groups.agg(n_draws=("draw", "size"), n_accepted=("n_accepted", "sum"), n_checked=("n_checked", "sum"))
    pairs["mean_coverage"] = pairs.pop("n_accepted") / pairs.pop("n_checked")
    sums = certified[["n_wrong", "n_accepted"]].sum()
    pairs["n_certified"] = certified.size()
    pairs["n_certified"] = pairs["n_certified"].fillna(0).astype(np.int64)
    pairs["risk"] = sums["n_wrong"] / sums["n_accepted"]
    pairs[["ci_low", "ci_high"]] = certified[["ci_low", "ci_high"]].mean()
    pairs["share"] = certified["violates"].mean()
    return pairs.reset_index()


def summarise_kinds(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per monitor and kind of a `shift_table`: how often a certified threshold breaks its promise.

    Columns: n_pairs (of source and target with a certificate in some draw), n_certificates (over pairs and draws),
    n_violations (of them, risk above the promised one), n_sure (violations whose Clopper-Pearson interval lies above
    the promised risk), n_draws (over pairs, with and without a certificate), share = n_violations / n_certificates,
    share_of_draws = n_violations / n_draws (what `delta` limits at home, for the true risk), worst_risk (of a pair,
    over its draws), mean_coverage.
    """
    pairs, rows = summarise_pairs(table), []
    for (monitor, kind), part in table.groupby(["monitor", "kind"], sort=True):
        own = pairs[(pairs["monitor"] == monitor) & (pairs["kind"] == kind)]
        n, bad = int(own["n_certified"].sum()), int(part["violates"].sum())
        row = {"monitor": monitor, "kind": kind, "n_pairs": int((own["n_certified"] > 0).sum()), "n_certificates": n}
        row |= {"n_violations": bad, "share": bad / n if n else np.nan, "n_sure": int(part["violates_surely"].sum())}
        row |= {"n_draws": len(part), "share_of_draws": bad / len(part), "worst_risk": float(own["risk"].max())}
        rows.append(row | {"mean_coverage": float(part["n_accepted"].sum() / part["n_checked"].sum())})
    return pd.DataFrame(rows)


def describe_kinds(table: pd.DataFrame, max_risk: float, delta: float) -> str:
    """Return a sentence on the rows of `summarise_kinds` of ONE monitor, each kind with its domain."""
    domain = {"home": "on new items of the cell that certified", "shifted": "on another benchmark of the same model"}
    domain |= {"repaired": "on another benchmark, certified again on labelled answers of it"}
    rows = table.set_index("kind", drop=False)
    parts = [
        f"{row.kind} ({domain[str(row.kind)]}): {row.n_violations} of {row.n_certificates} certified thresholds "
        + f"({row.n_draws} draws)"
        + (f", worst risk of a pair {row.worst_risk:.3f}" if row.n_certificates else "")
        for row in rows.loc[[kind for kind in KINDS if kind in rows.index]].itertuples()
    ]
    promise = f"a risk above {max_risk:g}, promised in at most {delta:g} of draws at home"
    return f"{promise}, was found {'; '.join(parts)}"


def _build(
    splits: Splits, rows: pd.DataFrame, name: str, vision: str, coverage: float | Fraction, n_shares: int
) -> Iterator[_Monitor]:
    """Yield the monitor of every cell and draw, fitted on the draw's fit items."""
    base = "entropy" if name == "entropy" else "entropy_length"
    columns = [rows[column].to_numpy(np.float64) for column in BASES[base]]
    look = np.where(splits.targeted, rows[vision].to_numpy(np.float64), np.inf)
    wrong, n_draws = 1 - splits.right, len(splits.fits_on)
    for cell, index in splits.places.items():
        items, item = np.unique(splits.row_item[index], return_inverse=True)
        weights = np.ones((n_draws, 1))
        if len(columns) > 1:
            counts = splits.fits_on[:, items].astype(np.float64)
            weights = fit_weights([column[index] for column in columns], wrong[index], item, counts, cell)[0]
        for draw in range(n_draws):
            cost, floor = weigh(weights[draw : draw + 1], columns)[0], -np.inf
            if name == "veto" and splits.targeted[index].any():
                fit = index[splits.fits_on[draw, splits.row_item[index]]]
                fit = fit[np.argsort(cost[fit], kind="stable")]
                ranked = rank_answers(cost[None, fit], wrong[None, fit])
                floor = float(fit_veto(ranked, look[None, fit], coverage, n_shares)[1][0])
            yield _Monitor(cell, draw, np.where(look >= floor, -cost, -np.inf))


def _certify(surety: Floats, wrong: Floats, tested: Ints, seen: Ints, promise: Mapping[str, float]) -> Certificate:
    """Certify on the answers `tested` one of the thresholds that accept the candidate shares of the answers `seen`."""
    ranked = np.sort(surety[seen])[::-1]
    edges = [float(ranked[count_accepted(len(ranked), share) - 1]) for share in CANDIDATES]
    thresholds = [edge for edge in edges if edge > -np.inf]  # -inf would accept the vetoed answers
    if not thresholds:  # on another benchmark the floor may veto every answer: nothing can be accepted
        return Certificate(promise["max_risk"], promise["delta"], np.nan, len(tested), 0, np.nan, 1.0)
    return certify_threshold(surety[tested], wrong[tested], thresholds, **promise)


def _check(found: Certificate, surety: Floats, wrong: Floats, checked: Ints) -> dict[str, Any]:
    accepted = surety[checked] >= found.threshold
    row = {"threshold": found.threshold, "n_certifying": found.n_certifying, "n_checked": len(checked)}
    row |= {"n_accepted": int(accepted.sum()), "n_wrong": int(wrong[checked][accepted].sum())}
    return row | {"guarantee": found.guarantee}
