"""Do rules carry over: fitted on one benchmark, does a rule tell correct from wrong answers on another?

Why: one global text + vision rule can be better where it was fitted and worse elsewhere, which in-sample comparisons of
nested models cannot show. In: the items table, its CALIBRATION split to fit on and its TEST split to judge on. Out: for
every pair of benchmarks (the same one twice included: its items differ) and every rule the AUROC on the second, its
gain over text alone, an interval with the fit fixed and one that resamples both. Never: an evaluation on the items of
the fit, a test label in a scale or a coefficient, or a fit on a group that is too small or of one class.

A rule is one logit per model (`per_task`: per model and task type) on standardised features. A test row whose task type
the fit has not seen gets the text-only score of `full`: a rule that knows the task uses vision only where it was
learnt. The AUROC of a rule with ONE feature depends on its fit through a sign alone; its Brier score shows the fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit

from dontblink.statistics import bootstrap
from dontblink.statistics.auroc import auroc_each, draw_aurocs
from dontblink.statistics.bootstrap import STANDARD, EstimateError, Floats, Ints, Resampling
from dontblink.statistics.logit import bootstrap_logit, fit_logit
from dontblink.studies.cells import (
    ENTROPY,
    VISION,
    adjust,
    deal_rows,
    keep_usable,
    number_items,
    rank_missing_last,
    select_rows,
    standardise,
)


class Rule(NamedTuple):
    """Terms of the logit beside the constant ("a:b" is a product), and whether each task type has its own."""

    terms: tuple[str, ...]
    by_task: bool = False


RULES: dict[str, Rule] = {
    "full": Rule(("full",)), "answer": Rule(("answer",)), "linear": Rule(("full", "vision")),
    "interaction": Rule(("full", "vision", "full:vision")),
    "per_task": Rule(("full", "vision", "full:vision"), by_task=True),
}  # fmt: skip
FEATURES = {"full": ENTROPY, "answer": "answer_entropy_nats", "vision": VISION}
SIGNS = {"full": -1.0, "answer": -1.0, "vision": 1.0}  # 1: more of it is confident
Scaling = Literal["train", "test"]
Features = Mapping[str, Floats]  # of each row, by the keys of FEATURES
Key = str | tuple[str, int]  # a rule, or a rule and the number of a deal of vision
_CHUNK = 64  # replicates sorted at once; changes no result


class FittedRule(NamedTuple):
    """Coefficients float64[groups, 1 + terms] of each group (a model, or model and task type), and their replicates.

    `replicates` float64[n_replicates, groups, 1 + terms]; `n_separated` counts Firth fits among them.
    """

    rule: Rule
    groups: tuple[str, ...]
    coef: Floats
    replicates: Floats
    n_separated: int


def fit_rule(
    rows: pd.DataFrame, features: Features, rule: Rule, *, refit: Resampling | None = None,
    dealt: Iterable[Features] = (), min_items: int = 20,
) -> FittedRule:  # fmt: skip
    """Fit a rule on the rows of one benchmark; with `refit` also on resamplings of its items, else on `dealt` features.

    For the resamplings all groups stand in one block-diagonal design, so that an item is drawn for all models at once.
    A group below `min_items` rows or of one class is left out.
    """
    right = rows["correct"].groupby(label_groups(rows, rule))
    groups = tuple(name for name, own in right if len(own) >= min_items and own.nunique() == 2)
    if not groups:
        raise EstimateError(f"{len(rows)} rows of {rows['benchmark'].iloc[0]}: no group with both classes to fit on")
    code, k = number_groups(rows, rule, groups), 1 + len(rule.terms)
    used = code >= 0
    code, y = code[used], rows["correct"].to_numpy(np.float64)[used]
    if refit is None:
        own = [code == g for g in range(len(groups))]
        designs = (_design(each, rule)[used] for each in (features, *dealt))
        coef = np.array([[fit_logit(x[g], y[g]).coef for g in own] for x in designs])
        return FittedRule(rule, groups, coef[0], coef[1:], 0)
    x = _design(features, rule)[used]
    blocks = np.zeros((len(x), len(groups), k))
    blocks[np.arange(len(x)), code] = x
    wide = blocks.reshape(len(x), -1)
    cluster, cell = rows["cluster"][used].to_numpy(), rows["cell"][used].to_numpy()
    drawn = bootstrap_logit(wide, y, cluster, replace(refit, method="percentile"), strata=cell)
    replicates = drawn.coefficients.reshape(-1, len(groups), k)
    return FittedRule(rule, groups, drawn.estimate.reshape(-1, k), replicates, drawn.n_separated)


def score_rows(rule: Rule, coef: Floats, code: Ints, features: Features, fallback: Floats) -> Floats:
    """Return log-odds float64[..., n] under coefficients [..., groups, 1 + terms]; `fallback` where `code` is -1."""
    design, scores = _design(features, rule), np.broadcast_to(fallback, (*coef.shape[:-2], len(code))).copy()
    for group in range(coef.shape[-2]):
        own = np.flatnonzero(code == group)
        scores[..., own] = np.einsum("nk,...k->...n", design[own], coef[..., group, :])
    return scores


def number_groups(rows: pd.DataFrame, rule: Rule, groups: Sequence[str]) -> Ints:
    """Return the number of each row's group, -1 where it is none of the groups."""
    return pd.Index(groups).get_indexer(label_groups(rows, rule)).astype(np.int64)


def label_groups(rows: pd.DataFrame, rule: Rule) -> pd.Series:
    return rows["model"] + "\n" + rows["task_type"] if rule.by_task else rows["model"]


def _design(features: Features, rule: Rule) -> Floats:
    terms = [np.prod([features[part] for part in term.split(":")], axis=0) for term in rule.terms]
    return np.column_stack([np.ones(len(terms[0])), *terms])


class Pair(NamedTuple):
    """Rows of the fit and rows to judge on, of the models in both, with the standardised features of each."""

    train: pd.DataFrame
    test: pd.DataFrame
    learnt: Features
    seen: Features
    n_left_out: int


def pair_benchmarks(
    fit_items: pd.DataFrame, items: pd.DataFrame, rules: Sequence[str], scaling: Scaling = "train",
    covariates: Sequence[str] = (), min_items: int = 20, min_class: int = 10, entropy: str = ENTROPY,
    vision: str = VISION,
) -> Iterator[tuple[str, str, Pair]]:  # fmt: skip
    """Yield benchmark of the fit, benchmark to judge on, and their rows.

    A feature that a response lacks (no answer span, no reasoning) counts as the least confident one of its cell: to
    drop the row would select on the outcome. `entropy` and `vision` are the columns of the features full and vision.

    `scaling` says whose mean and standard deviation standardise the test features: those of the fit, or of the
    unlabelled test cell itself. `covariates` are first taken out of every feature within its cell (labels unseen).
    """
    if not rules or any(name not in RULES for name in rules) or scaling not in ("train", "test"):
        raise EstimateError(f"rules {list(rules)}, scaling {scaling!r}; expected rules of {list(RULES)}, train or test")
    chosen = FEATURES | {"full": entropy, "vision": vision}
    columns = {chosen[part]: part for name in rules for term in RULES[name].terms for part in term.split(":")}
    signs = {column: SIGNS[part] for column, part in columns.items()}
    sides = []
    for part, split in ((fit_items, "calibration"), (items, "test")):
        rows = select_rows(part, [*covariates], [*columns], split=split)
        n_left_out = rows.attrs["n_left_out"]
        filled = rank_missing_last(adjust(rows, columns, covariates), signs)
        whole = np.isfinite(filled[[*columns]].to_numpy(np.float64)).all(axis=1)
        n_left_out += int((~whole).sum())
        used = keep_usable(filled[whole], min_items, min_class)
        sides.append(({str(name): own for name, own in used.groupby("benchmark")}, set(used["cluster"]), n_left_out))
    (fits, seen_items, _), (tests, test_items, n_left_out) = sides
    if shared := seen_items & test_items:
        item = min(shared).split("\n")[1]
        raise EstimateError(f"item {item} is in the fit and in the test; keep the splits apart")
    enough = f"{min_items} items and {min_class} of each class"
    if not fits or not tests:
        raise EstimateError(f"no benchmark to {'judge on' if fits else 'fit on'}: no cell has {enough}; add items")
    for train, test in product(fits, tests):
        models = sorted(set(fits[train]["model"]) & set(tests[test]["model"]))
        if not models:
            raise EstimateError(f"{train} -> {test}: no model with {enough} in both; add items")
        rows = [part[part["model"].isin(models)].reset_index(drop=True) for part in (fits[train], tests[test])]
        scaled = [_scale(rows[0], rows[0], columns), _scale(rows[1], rows[0 if scaling == "train" else 1], columns)]
        yield train, test, Pair(rows[0], rows[1], scaled[0], scaled[1], n_left_out)


def transfer_table(
    fit_items: pd.DataFrame, items: pd.DataFrame, rules: Sequence[str] = tuple(RULES), *,
    resampling: Resampling = STANDARD, refit: Resampling | None = None, n_deals: int = 0, min_items: int = 20,
    **choice: Any,
) -> pd.DataFrame:  # fmt: skip
    """Return a row per pair of benchmarks, model ("all": mean over models of the AUROC within each) and rule.

    Columns: train, test, model, rule, auroc, ci_low, ci_high (fit fixed, test items resampled), gain over the rule
    `full`, gain_low, gain_high, refit_low, refit_high, refit_gain_low, refit_gain_high (both resampled, percentile: a
    refit is noisier than the fit, so that this interval leans towards the worse side), brier of the carried-over
    probability, brier_constant of the accuracy on the items of the fit, n_train_items, n_test_items, n_text_only (test
    rows without a group), n_separated (Firth fits among the refits, of all models), n_degenerate (refits without an
    AUROC), n_left_out (test rows whose cell lacks a feature). Without `refit` the second kind of interval is left out,
    columns and all. With `n_deals` also excess, excess_low, excess_high, between two benchmarks: for a rule with
    vision, its AUROC less the mean AUROC of the same rule with vision dealt to other items of its cell, before the fit
    and after, every deal refitted and judged on the same replicates. A deal keeps the scale of vision and loses its
    meaning, so that its loss is the price of any useless feature, and the excess is vision's own; its mean over the
    ordered pairs stands under train and test "all". `choice` goes to the pairing: scaling ("train" or
    "test"), covariates, min_class, entropy, vision.
    """
    if n_deals and refit is None:
        raise EstimateError(f"{n_deals} deals without refits; an excess is paired within a refit, give `refit`")
    results, names = [], list(dict.fromkeys(["full", *rules]))
    fitted: dict[tuple[str, ...], dict[str, FittedRule]] = {}
    useless: dict[tuple[str, ...], dict[tuple[str, int], FittedRule]] = {}
    for train, test, pair in pair_benchmarks(fit_items, items, rules and names, min_items=min_items, **choice):
        if (key := (train, *pair.train["model"].unique())) not in fitted:  # the same fit for every benchmark judged
            fitted[key] = {
                name: fit_rule(pair.train, pair.learnt, RULES[name], refit=refit, min_items=min_items) for name in names
            }
            learnt = deal_vision(pair.learnt, pair.train, n_deals, [refit.seed, 0] if refit else [0])
            useless[key] = {
                (name, j): fit_rule(pair.train, dealt, RULES[name], refit=refit, min_items=min_items) for name in names
                if any("vision" in term for term in RULES[name].terms) for j, dealt in enumerate(learnt)
            }  # fmt: skip
        fits = fitted[key]
        scores: dict[Key, Floats] = {}
        redrawn: dict[Key, Floats] = {}
        code = {name: number_groups(pair.test, fit.rule, fit.groups) for name, fit in fits.items()}
        for name, fit in fits.items():
            text = (scores["full"], redrawn["full"]) if name != "full" else (np.zeros(len(pair.test)),) * 2
            scores[name] = score_rows(fit.rule, fit.coef, code[name], pair.seen, text[0])
            redrawn[name] = score_rows(fit.rule, fit.replicates, code[name], pair.seen, text[1])
        seen = deal_vision(pair.seen, pair.test, n_deals, [refit.seed, 1] if refit else [1])
        for (name, j), fit in useless[key].items() if train != test else ():
            scores[name, j] = score_rows(fit.rule, fit.coef, code[name], seen[j], scores["full"])
            redrawn[name, j] = score_rows(fit.rule, fit.replicates, code[name], seen[j], redrawn["full"])
        judged = _judge(pair, fits, code, scores, redrawn, rules, resampling, refit)
        results += [{"train": train, "test": test} | row | {"n_left_out": pair.n_left_out} for row in judged]
    return pd.DataFrame([*results, *_average_excess(results, refit)])


def _average_excess(results: list[dict[str, Any]], refit: Resampling | None) -> Iterator[dict[str, Any]]:
    """Yield the mean excess over the ordered pairs, per model and rule; take the replicates out of their rows."""
    parts: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in results:
        if "drawn" in row:
            parts.setdefault((row["model"], row["rule"]), []).append({**row, "drawn": row.pop("drawn")})
    for (model, name), rows in parts.items():
        assert refit is not None, "an excess comes from refits"
        n_items = sum({row["test"]: row["n_test_items"] for row in rows}.values())
        estimate, drawn = (np.mean([row[key] for row in rows], axis=0) for key in ("excess", "drawn"))
        found = bootstrap.interval_of(float(estimate), drawn, n_items, replace(refit, method="percentile"))
        facts = {"train": "all", "test": "all", "model": model, "rule": name, "n_deals": rows[0]["n_deals"]}
        yield facts | found.columns("excess") | {"n_test_items": n_items}


def _judge(
    pair: Pair, fits: dict[str, FittedRule], code: dict[str, Ints], scores: dict[Key, Floats],
    redrawn: dict[Key, Floats], rules: Sequence[str], resampling: Resampling, refit: Resampling | None,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    test, names = pair.test, list(fits)
    correct, cluster, models = (test[column].to_numpy() for column in ("correct", "cluster", "model"))
    draws = draw_aurocs(correct, [scores[name] for name in names], cluster, resampling, cell=models)
    dealt = {key: scores[key] for key in scores if not isinstance(key, str)}
    useless = {key: _auroc_by_model(test, values) for key, values in dealt.items()}
    # the items of the fit and of the test are different ones, so their draws must not share a seed
    again = _redraw(test, redrawn, replace(refit, seed=refit.seed + 1)) if refit else {}
    constant = test["model"].map(pair.train.groupby("model")["correct"].mean()).to_numpy(np.float64)
    scopes = [(str(model), [k]) for k, model in enumerate(draws.cells)]
    for model, cells in [("all", list(range(len(scopes)))), *scopes] if len(scopes) > 1 else scopes:
        own = np.isin(models, [draws.cells[k] for k in cells])
        fitted_on = pair.train["cluster"][pair.train["model"].isin(set(models[own]))].nunique()
        for name in rules:
            whole = draws.interval(names.index(name), None, cells)
            gain = draws.interval(names.index(name), names.index("full"), cells)
            row: dict[str, Any] = {"model": model, "rule": name, "auroc": whole.estimate}
            row |= {"ci_low": whole.ci_low, "ci_high": whole.ci_high} | gain.columns("gain")
            row["brier"] = float(((expit(scores[name][own]) - correct[own]) ** 2).mean())
            row["brier_constant"] = float(((constant[own] - correct[own]) ** 2).mean())
            row |= {"n_test_items": len(set(cluster[own])), "n_train_items": fitted_on}
            row["n_text_only"] = int((code[name][own] < 0).sum())
            row |= {"n_separated": fits[name].n_separated, "n_degenerate": 0}
            if refit:
                drawn, base = (again[which][:, cells].mean(axis=1) for which in (name, "full"))
                both = (("refit", whole.estimate, drawn), ("refit_gain", gain.estimate, drawn - base))
                for prefix, value, values in both:
                    found = bootstrap.interval_of(value, values, whole.n_clusters, replace(refit, method="percentile"))
                    row |= {f"{prefix}_low": found.ci_low, f"{prefix}_high": found.ci_high}
                row["n_degenerate"] = found.n_degenerate
            if refit and (deals := [key for key in useless if key[0] == name]):
                excess = whole.estimate - float(np.mean([useless[key][cells] for key in deals]))
                under = np.mean([again[key][:, cells].mean(axis=1) for key in deals], axis=0)
                kept = replace(refit, method="percentile")
                found = bootstrap.interval_of(excess, drawn - under, whole.n_clusters, kept)
                row |= found.columns("excess") | {"n_deals": len(deals), "drawn": drawn - under}
            yield row


def deal_vision(features: Features, rows: pd.DataFrame, n_deals: int, seed: Sequence[int]) -> list[Features]:
    """Return the features `n_deals` times with vision dealt to other items of the cell, one deal for all models."""
    rng, places = np.random.default_rng(seed), number_items(rows)
    return [{**features, "vision": features["vision"][deal_rows(*places, rng)]} for _ in range(n_deals)]


def _auroc_by_model(rows: pd.DataFrame, score: Floats) -> Floats:
    """Return float64[models], in order of their names."""
    correct, ones = rows["correct"].to_numpy(bool), np.ones((1, len(rows)))
    parts = (np.flatnonzero(rows["model"] == model) for model in sorted(set(rows["model"])))
    return np.concatenate([auroc_each(correct[own], score[None, own], ones[:, own]) for own in parts])


def _redraw(rows: pd.DataFrame, scores: dict[Key, Floats], refit: Resampling) -> dict[Key, Floats]:
    """Return, per rule, float64[n_replicates, models]: AUROC of replicate b of the fit on replicate b of the items."""
    groups = bootstrap.number_clusters(rows["cluster"].to_numpy(), rows["cell"].to_numpy())
    parts: list[Ints] = [np.flatnonzero(rows["model"] == model) for model in sorted(set(rows["model"]))]
    correct = rows["correct"].to_numpy(bool)
    found = {name: np.empty((refit.n_replicates, len(parts))) for name in scores}
    done = 0
    for indices in bootstrap.resample(bootstrap.split_strata(groups.stratum), refit, _CHUNK):
        counts, block = bootstrap.count_draws(indices), slice(done, done := done + len(indices))
        for m, own in enumerate(parts):
            weights, known = counts[:, groups.row[own]], dict[bytes, Floats]()
            for name, values in scores.items():
                drawn = np.ascontiguousarray(values[block][:, own])
                if (key := drawn.tobytes()) not in known:  # a rule that fell back to text costs nothing
                    known[key] = auroc_each(correct[own], drawn, weights)
                found[name][block, m] = known[key]
    return found


def predict_rows(fit_items: pd.DataFrame, items: pd.DataFrame, rule: str = "full", **choice: Any) -> pd.DataFrame:
    """Return the test rows with `probability`, by the rule fitted on the calibration items of their own benchmark.

    `constant` is the accuracy of the model on those items, the probability of one who knows nothing else. `choice` as
    in `transfer_table`.
    """
    parts = []
    for train, test, pair in pair_benchmarks(fit_items, items, [rule], **choice):
        if train == test:
            fit = fit_rule(pair.train, pair.learnt, RULES[rule], min_items=choice.get("min_items", 20))
            code = number_groups(pair.test, fit.rule, fit.groups)
            odds = score_rows(fit.rule, fit.coef, code, pair.seen, np.full(len(pair.test), np.nan))
            accuracy = pair.train.groupby("model")["correct"].mean()
            parts.append(pair.test.assign(probability=expit(odds), constant=pair.test["model"].map(accuracy)))
    if not parts:
        raise EstimateError("no benchmark in both splits; a probability needs calibration items of the same benchmark")
    return pd.concat(parts, ignore_index=True)


def _scale(rows: pd.DataFrame, reference: pd.DataFrame, columns: Mapping[str, str]) -> Features:
    """Return the features standardised, within each model, by the mean and deviation of the reference rows."""
    scaled, models = {}, rows["model"].to_numpy()
    for column, name in columns.items():
        standardise(reference[column], reference["cell"], column)  # refuses a constant feature, by name
        by_model = reference.groupby("model")[column]
        mean, spread = by_model.mean().loc[models].to_numpy(), by_model.std(ddof=0).loc[models].to_numpy()
        scaled[name] = (rows[column].to_numpy(np.float64) - mean) / spread
    return scaled
