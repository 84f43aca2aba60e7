"""Every defensible fit of b_EV at once, and what all of them together would look like if vision knew nothing.

Why: entropy, vision, the form of the model and its covariates can each be chosen in several honest ways, and a table of
a few of them invites the doubt that others were tried. Here the choices are declared, all their combinations are fitted
to the same answers (Simonsohn, Simmons and Nelson 2020, Nature Human Behaviour 4: 1208-1214), and the whole curve is
held against curves of dealt vision: one deal moves an item's vision of every kind together, within its cell and for all
models, so that the fits stay as alike as they are. In: the items table of the TEST split with the looks of
`add_looks`. Out: an estimate per task type and combination, the curve's median and share below zero with p by rank
among deals, and the share of the spread that each choice explains. Never: a combination left out because of what it
says, a p-value of a single one, a row that one choice drops and another keeps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from dontblink.statistics.bootstrap import EstimateError, Floats, permutation_p
from dontblink.statistics.firth import check_design
from dontblink.statistics.logit import fit_logit, fit_replicates, prepare_rows, start_at
from dontblink.studies.cells import (
    ENTROPY,
    ORACLES,
    VISIONS,
    deal_rows,
    each_scope,
    keep_usable,
    number_items,
    select_rows,
    standardise,
)

# Declared before the results: ten looks at the same attention.
LOOKS = {
    **VISIONS,  # evidence or whole image, over the last third or over all of the reasoning
    "evidence over uniform": "vision_over_uniform",  # takes the length of the context out
    "share of the image": "vision_image_share",  # where within the picture, not how much of it
    "lift": "vision_lift",  # the same for the size of the evidence; the share again where that is constant in a cell
    "log evidence": f"log_{VISIONS['evidence']}",  # ratios count, not differences
    "log image": f"log_{VISIONS['image']}",
    "evidence, heads": "vision_heads_evidence_mass",  # the grounding heads in place of their layers
}
BOXED = {*ORACLES, "evidence over uniform", "share of the image", "lift", "log evidence", "evidence, heads"}
ENTROPIES = {
    "mean": ENTROPY,  # of the whole response, as everywhere
    "largest token": "max_entropy_nats",  # one moment of doubt
    "last tenth": "last_decile_entropy_nats",  # doubt near the answer
}
FORMS = ("product", "squares", "flexible", "ranks")
LENGTH = "log_n_response_tokens"
FACTORS = ("vision", "entropy", "form", "adjustment")
_CLOSE = 1e-3  # a dealt coefficient, whose spread is near a tenth, has arrived when its step is smaller
_EXACT, _FAR = 1e-8, 20.0  # the same for a fit of its own; beyond the second it may be separated
_STEPS = 12


def add_looks(items: pd.DataFrame, thirds: pd.DataFrame) -> pd.DataFrame:
    """Return the items with the columns that `LOOKS` needs; `thirds` are bins of three parts, both grounding head sets.

    An answer without a last third has NaN there.
    """
    keys = ["model", "benchmark", "item_id"]
    late = thirds[thirds["bin"] == thirds["n_bins"] - 1].astype(dict.fromkeys([*keys, "head_set"], "str"))
    late = late.assign(over=late["evidence_mass"] / late["uniform_evidence_share"])
    wide = late.pivot(index=keys, columns="head_set", values=["evidence_mass", "over"])
    wanted = {"vision_over_uniform": ("over", "grounding_layers"),
              "vision_heads_evidence_mass": ("evidence_mass", "grounding_heads")}  # fmt: skip
    found = pd.DataFrame({name: wide[column] for name, column in wanted.items()}).reset_index()
    wider = items.astype(dict.fromkeys(keys, "str")).merge(found, on=keys, how="left", validate="1:1")
    share = wider[VISIONS["evidence"]] / wider[VISIONS["image"]]
    return wider.assign(vision_image_share=share, vision_lift=share / wider["evidence_fraction"])


def list_adjustments(covariates: Sequence[str]) -> dict[str, list[str]]:
    """Return what may be adjusted for, by name: nothing, the length, the other covariates, all; each set once."""
    rest = [name for name in covariates if name != LENGTH]
    named = {"none": [], "length": [LENGTH], " + ".join(rest): rest, "all": [LENGTH, *rest]}
    return {name: own for k, (name, own) in enumerate(named.items()) if own not in list(named.values())[:k]}


@dataclass(frozen=True, eq=False)
class Curves:
    """b_EV of every combination and task type, float64[types, specifications], and of dealt vision [..., deals]."""

    types: tuple[str, ...]
    choices: pd.DataFrame
    estimates: Floats
    dealt: Floats
    n_rows: tuple[int, ...]
    n_left_out: int

    def table(self) -> pd.DataFrame:
        """Return a row per task type and specification: the four choices, task_type, estimate."""
        parts = [
            self.choices.assign(task_type=name, estimate=own)
            for name, own in zip(self.types, self.estimates, strict=True)
        ]
        return pd.concat(parts, ignore_index=True)

    def bands(self, confidence: float = 0.95) -> pd.DataFrame:
        """Return where the sorted curves of the deals lie: task_type, place (0 is the lowest estimate), low, high."""
        tails = [(1 - confidence) / 2, (1 + confidence) / 2]
        parts = []
        for name, dealt in zip(self.types, self.dealt, strict=True):
            low, high = np.quantile(np.sort(dealt, axis=0), tails, axis=1)
            parts.append(pd.DataFrame({"task_type": name, "place": np.arange(len(low)), "low": low, "high": high}))
        return pd.concat(parts, ignore_index=True)

    def contrast(self, visual: str, symbolic: str) -> Curves:
        """Return these curves and, last, that of the visual type minus that of the symbolic one, where both are."""
        if not {visual, symbolic} <= {*self.types}:
            return self
        a, b = self.types.index(visual), self.types.index(symbolic)
        estimates, dealt = (np.concatenate([x, x[[a]] - x[[b]]]) for x in (self.estimates, self.dealt))
        size = self.n_rows[a] + self.n_rows[b]
        return Curves((*self.types, "contrast"), self.choices, estimates, dealt, (*self.n_rows, size), self.n_left_out)


def fit_curves(
    items: pd.DataFrame, covariates: Sequence[str], *, looks: Collection[str] = tuple(LOOKS),
    types: Sequence[str] | None = None, n_deals: int = 100, seed: int = 0, min_items: int = 20,
) -> Curves:  # fmt: skip
    """Fit every combination of `looks` (of LOOKS), ENTROPIES, FORMS and adjustments to the answers of each task type.

    All fits of a type are over the same rows: those with a number in every column. E and V are standardised within the
    cell; `ranks` takes their ranks in the cell first, `squares` adds E^2 and V^2, `flexible` the products of every
    covariate with E and with V as well (without a covariate it is `squares` once more, so that each choice occurs as
    often with every other). A type without a usable cell has no curve. Raises EstimateError where no type has one.
    """
    adjustments = list_adjustments(covariates)
    entropies = {name: column for name, column in ENTROPIES.items() if column in items}
    seen = {name: column for name, column in LOOKS.items() if name in looks}
    columns = [*seen.values(), *entropies.values(), *dict.fromkeys(x for own in adjustments.values() for x in own)]
    rows = select_rows(items, columns)
    names, estimates, dealt, sizes = [], [], [], []
    for k, (facts, scope) in enumerate(each_scope(rows, ["task_type"])):
        used = keep_usable(scope, min_items)
        if len(used) and (types is None or facts["benchmark"] in types):
            own, drawn = _fit_type(used, seen, entropies, adjustments, n_deals, [seed, k])
            names.append(facts["benchmark"])
            estimates.append(own)
            dealt.append(drawn)
            sizes.append(len(used))
    if not names:
        raise EstimateError(f"no task type has a cell of {min_items} answers of both classes; annotate more items")
    names_of = [f"{name} (oracle)" if name in BOXED else name for name in seen]
    choices = pd.DataFrame(list(product(names_of, entropies, FORMS, adjustments)), columns=list(FACTORS))
    return Curves(tuple(names), choices, np.array(estimates), np.array(dealt), tuple(sizes), rows.attrs["n_left_out"])


def _fit_type(
    rows: pd.DataFrame, looks: Mapping[str, str], entropies: Mapping[str, str],
    adjustments: Mapping[str, Sequence[str]], n_deals: int, seed: Sequence[int],
) -> tuple[Floats, Floats]:  # fmt: skip
    """Return b_EV float64[specifications] and of dealt vision [specifications, deals]."""
    cell, y = rows["cell"].to_numpy(), rows["correct"].to_numpy(np.float64)
    rng, places = np.random.default_rng(seed), number_items(rows)
    order = np.stack([np.arange(len(rows)), *(deal_rows(*places, rng) for _ in range(n_deals))], axis=1)

    def scale(column: str, ranked: bool = False, constant: str = "error") -> Floats:
        values = rows[column].to_numpy(np.float64)
        if ranked:
            values = rows.groupby("cell")[column].transform(rankdata).to_numpy(np.float64)
        return standardise(values, cell, column, constant=constant)

    intercepts = pd.get_dummies(rows["cell"], dtype=np.float64).to_numpy()
    bases = {}
    for (label, column), form, (name, covariates) in product(entropies.items(), FORMS, adjustments.items()):
        extra = [x for own in covariates if (x := scale(own, constant="zero")).any()]
        bases[label, form, name] = Base.build(intercepts, scale(column, form == "ranks"), extra, y, form)
    results, dealt = {}, {}
    for look, column in looks.items():
        plain, ranked = (scale(column, ranked=is_ranked)[order] for is_ranked in (False, True))
        powers = {False: _powers(plain, 4), True: _powers(ranked, 2)}
        for (label, form, name), base in bases.items():
            drawn = base.fit(powers[form == "ranks"])
            results[look, label, form, name], dealt[look, label, form, name] = drawn[0], drawn[1:]
    keys = list(product(looks, entropies, FORMS, adjustments))
    return np.array([results[key] for key in keys]), np.stack([dealt[key] for key in keys])


def _powers(values: Floats, highest: int) -> list[Floats]:
    found = [values]
    for _ in range(highest - 1):
        found.append(found[-1] * values)
    return found


@dataclass(frozen=True, eq=False)
class Base:
    """One form without vision, fitted, and how vision enters it: V times each column of `times`, and V^2 if `bends`.

    `x` float64[n, k] are the columns that no deal touches, `times` [n, m] = 1, E and the covariates whose products with
    V are wanted, `beta` [k] the fit without vision, `y` [n].
    """

    x: Floats
    times: Floats
    bends: bool
    beta: Floats
    y: Floats

    @classmethod
    def build(cls, intercepts: Floats, e: Floats, extra: Sequence[Floats], y: Floats, form: str) -> Base:
        """Return the base of a form, with standardised entropy and covariates float64[n]."""
        bends, crossed = form in ("squares", "flexible"), list(extra) if form == "flexible" else []
        x = np.column_stack([e, *extra, *[e * e] * bends, *(e * own for own in crossed), intercepts])
        return cls(x, np.column_stack([np.ones(len(y)), e, *crossed]), bends, fit_logit(x, y).coef, y)

    def design(self, v: Floats) -> Floats:
        """Return the whole design for one standardised vision float64[n]: columns without V, V times `times`, V^2."""
        return np.column_stack([self.x, v[:, None] * self.times, *[v * v] * self.bends])

    def fit(self, powers: Sequence[Floats]) -> Floats:
        """Return b_EV float64[deals] for each column of V float64[n, deals] (`powers`: V, V^2, ...), the first exact.

        Notes
        -----
        Deals differ in V alone. From the fit without vision, where all share residuals and weights p (1 - p), scores
        and Hessians of all deals are a few matrix products with the powers of V, and later steps keep those Hessians (a
        dealt vision hardly moves the weights): one pass over the rows a step, for the deals that still move. One that
        has not arrived after a few steps, and the first column, are fitted by themselves, by Newton.
        """
        k, at, n_deals = self.x.shape[1], self.x.shape[1] + 1, powers[0].shape[1]
        size = k + self.times.shape[1] + self.bends
        beta = np.tile(np.r_[self.beta, np.zeros(size - k)], (n_deals, 1))
        try:
            inverse = np.linalg.inv(self._hessians(powers))
        except np.linalg.LinAlgError:
            inverse = np.full((n_deals, size, size), np.nan)
        residual = (2 * self.y - 1 - np.tanh(self.x @ self.beta / 2)) / 2
        bend = [residual @ powers[1]] if self.bends else []
        score = np.vstack([np.zeros((k, n_deals)), (self.times * residual[:, None]).T @ powers[0], *bend]).T
        moving, v = np.arange(n_deals), powers[0]
        for _ in range(_STEPS):
            step = np.matmul(inverse[moving], score[:, :, None])[:, :, 0]
            beta[moving] += step
            left = ~(np.abs(step[:, at]) <= _CLOSE)
            moving, v = moving[left], v if left.all() else v[:, left]
            if not moving.size:
                break
            score = self._scores(beta[moving], v)
        found = beta[:, at].copy()
        for d in {0, *moving.tolist()}:
            found[d] = _fit_one(self.design(powers[0][:, d]), self.y, beta[d])[at]
        return found

    def _scores(self, beta: Floats, v: Floats) -> Floats:
        """Return the scores float64[deals, size] at coefficients [deals, size] of visions float64[n, deals]."""
        k, m, half = self.x.shape[1], self.times.shape[1], beta.T / 2
        inner = self.times @ half[k : k + m]
        if self.bends:
            inner += half[-1] * v
        inner *= v
        inner += self.x @ half[:k]
        np.tanh(inner, out=inner)
        residual = np.subtract((2 * self.y - 1)[:, None], inner, out=inner)
        parts = [self.x.T @ residual]
        residual *= v
        parts.append(self.times.T @ residual)
        if self.bends:
            parts.append(np.einsum("nd,nd->d", residual, v)[None])
        return np.concatenate(parts).T / 2

    def _hessians(self, powers: Sequence[Floats]) -> Floats:
        """Return the Hessians float64[deals, size, size] of the fit without vision, vision added."""
        k, m = self.x.shape[1], self.times.shape[1]
        weight = (1 - np.tanh(self.x @ self.beta / 2) ** 2) / 4
        h = np.empty((powers[0].shape[1], k + m + self.bends, k + m + self.bends))
        heavy, own = self.x * weight[:, None], self.times * weight[:, None]
        h[:, :k, :k] = self.x.T @ heavy
        for j in range(m):
            h[:, :k, k + j] = h[:, k + j, :k] = (heavy * self.times[:, [j]]).T.dot(powers[0]).T
            h[:, k : k + m, k + j] = (own * self.times[:, [j]]).T.dot(powers[1]).T
        if self.bends:
            h[:, :k, -1] = h[:, -1, :k] = heavy.T.dot(powers[1]).T
            h[:, k : k + m, -1] = h[:, -1, k : k + m] = own.T.dot(powers[2]).T
            h[:, -1, -1] = weight @ powers[3]
        return h


def _fit_one(x: Floats, y: Floats, beta: Floats) -> Floats:
    """Return the coefficients of one fit from a start, Firth's where the data are separated; see `fit_logit`."""
    sign = 2 * y - 1
    for _ in range(_STEPS):
        t = np.tanh(x @ beta / 2)
        heavy = x * (1 - t**2)[:, None]
        try:
            step = 2 * np.linalg.solve(heavy.T @ x, x.T @ (sign - t))
        except np.linalg.LinAlgError:
            break
        beta = beta + step
        size = np.abs(step).max()
        if size < _EXACT and np.abs(beta).max() < _FAR:
            return beta
        if not size < _FAR:
            break
    rows = prepare_rows(x, y, np.zeros(len(y), np.int64))
    fitted, _ = fit_replicates(rows, np.ones((1, 1)), start_at(rows, np.zeros(x.shape[1])))
    if np.isnan(fitted).any():
        check_design(x, y)  # says what is wrong with it
        raise EstimateError(f"no fit of {x.shape[1]} columns to {len(y)} rows; fewer covariates, or more items")
    return np.asarray(fitted[0] / rows.scale)


def summarise_curves(curves: Curves, confidence: float = 0.95) -> pd.DataFrame:
    """Return the joint test of each curve: task_type, median, low, high, p_median, share_below_zero, p_share, counts.

    low and high hold `confidence` of the deals' medians: where the median lies if vision knows nothing. p_median is the
    share of deals whose median is as far from zero (two-sided), p_share that of deals with as large a share of
    specifications below zero, the side that the paper claims (one-sided); both count the observed curve among the
    deals.
    """
    rows = []
    for name, own, dealt, size in zip(curves.types, curves.estimates, curves.dealt, curves.n_rows, strict=True):
        median, medians = float(np.median(own)), np.median(dealt, axis=0)
        share, shares = float((own < 0).mean()), (dealt < 0).mean(axis=0)
        low, high = np.quantile(medians, [(1 - confidence) / 2, (1 + confidence) / 2])
        row = {"task_type": name, "median": median, "low": float(low), "high": float(high)}
        row |= {"p_median": permutation_p(np.abs(medians), abs(median)), "share_below_zero": share}
        counts = {"n_specifications": len(own), "n_deals": dealt.shape[1], "n_rows": size}
        rows.append(row | {"p_share": permutation_p(shares, share)} | counts)
    return pd.DataFrame(rows)


def list_deals(curves: Curves) -> pd.DataFrame:
    """Return the two statistics of every deal: task_type, deal, median, share_below_zero."""
    parts = [
        pd.DataFrame({
            "task_type": name, "deal": np.arange(dealt.shape[1]), "median": np.median(dealt, axis=0),
            "share_below_zero": (dealt < 0).mean(axis=0),
        })
        for name, dealt in zip(curves.types, curves.dealt, strict=True)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def explain_spread(curves: Curves) -> pd.DataFrame:
    """Return eta^2 of each choice: task_type, factor, n_levels, eta_squared; what is left is that of interactions.

    eta^2 = sum over levels of n (mean - grand mean)^2 / sum of squares. Every level occurs as often with each of the
    others, so that the main effects add up without overlap. NaN where all specifications say the same.
    """
    return pd.DataFrame(_each_effect(curves))


def _each_effect(curves: Curves) -> Iterator[dict[str, Any]]:
    for name, own in zip(curves.types, curves.estimates, strict=True):
        total, left = float(((own - own.mean()) ** 2).sum()), 1.0
        for factor in FACTORS:
            levels = curves.choices[factor].to_numpy()
            means = pd.Series(own).groupby(levels).transform("mean").to_numpy()
            explained = float(((means - own.mean()) ** 2).sum()) / total if total > 0 else np.nan
            left -= explained
            yield {"task_type": name, "factor": factor, "n_levels": len({*levels}), "eta_squared": explained}
        yield {"task_type": name, "factor": "interactions", "n_levels": 0, "eta_squared": left}
