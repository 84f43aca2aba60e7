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
from dontblink.studies.cells import ENTROPY, VISION, adjust, keep_usable, select_rows, standardise


class Rule(NamedTuple):
    """Terms of the logit beside the constant ("a:b" is a product), and whether each task type has its own."""

    terms: tuple[str, ...]
    by_task: bool = False


RULES: dict[str, Rule] = {
    "full": Rule(("full",)),
    "answer": Rule(("answer",)),
    "linear": Rule(("full", "vision")),
    "interaction": Rule(("full", "vision", "full:vision")),
    "per_task": Rule(("full", "vision", "full:vision"), by_task=True),
}
FEATURES = {"full": ENTROPY, "answer": "answer_entropy_nats", "vision": VISION}
Scaling = Literal["train", "test"]
Features = Mapping[str, Floats]  # of each row, by the keys of FEATURES
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
    rows: pd.DataFrame,
    features: Features,
    rule: Rule,
    *,
    refit: Resampling | None = None,
    dealt: Iterable[Features] = (),
    min_items: int = 20,
) -> FittedRule:
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
    fit_items: pd.DataFrame,
    items: pd.DataFrame,
    rules: Sequence[str],
    scaling: Scaling = "train",
    covariates: Sequence[str] = (),
    min_items: int = 20,
    min_class: int = 10,
) -> Iterator[tuple[str, str, Pair]]:
    """Yield benchmark of the fit, benchmark to judge on, and their rows: those with every feature of the rules.

    `scaling` says whose mean and standard deviation standardise the test features: those of the fit, or of the
    unlabelled test cell itself. `covariates` are first taken out of every feature within its cell (labels unseen).
    """
    if not rules or any(name not in RULES for name in rules) or scaling not in ("train", "test"):
        raise EstimateError(f"rules {list(rules)}, scaling {scaling!r}; expected rules of {list(RULES)}, train or test")
    columns = {FEATURES[part]: part for name in rules for term in RULES[name].terms for part in term.split(":")}
    sides = []
    for part, split in ((fit_items, "calibration"), (items, "test")):
        rows = select_rows(part, [*columns, *covariates], split=split)
        n_left_out = rows.attrs["n_left_out"]
        used = keep_usable(adjust(rows, columns, covariates), min_items, min_class)
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
    fit_items: pd.DataFrame,
    items: pd.DataFrame,
    rules: Sequence[str] = tuple(RULES),
    *,
    resampling: Resampling = STANDARD,
    refit: Resampling | None = None,
    min_items: int = 20,
    **choice: Any,
) -> pd.DataFrame:
    """Return a row per pair of benchmarks, model ("all": mean over models of the AUROC within each) and rule.

    Columns: train, test, model, rule, auroc, ci_low, ci_high (fit fixed, test items resampled), gain over the rule
    `full`, gain_low, gain_high, refit_low, refit_high, refit_gain_low, refit_gain_high (both resampled, percentile: a
    refit is noisier than the fit, so that this interval leans towards the worse side), brier of the carried-over
    probability, brier_constant of the accuracy on the items of the fit, n_train_items, n_test_items, n_text_only (test
    rows without a group), n_separated (Firth fits among the refits, of all models), n_degenerate (refits without an
    AUROC), n_left_out (test rows of the table without all features). Without `refit` the second kind of interval is
    left out, columns and all. `choice` goes to the pairing: scaling ("train" or "test"), covariates, min_class.
    """
    results, names = [], list(dict.fromkeys(["full", *rules]))
    fitted: dict[tuple[str, ...], dict[str, FittedRule]] = {}
    for train, test, pair in pair_benchmarks(fit_items, items, rules and names, min_items=min_items, **choice):
        if (key := (train, *pair.train["model"].unique())) not in fitted:  # the same fit for every benchmark judged
            fitted[key] = {
                name: fit_rule(pair.train, pair.learnt, RULES[name], refit=refit, min_items=min_items)
                for name in names
            }
        fits = fitted[key]
        scores: dict[str, Floats] = {}
        redrawn: dict[str, Floats] = {}
        code = {name: number_groups(pair.test, fit.rule, fit.groups) for name, fit in fits.items()}
        for name, fit in fits.items():
            text = (scores["full"], redrawn["full"]) if name != "full" else (np.zeros(len(pair.test)),) * 2
            scores[name] = score_rows(fit.rule, fit.coef, code[name], pair.seen, text[0])
            redrawn[name] = score_rows(fit.rule, fit.replicates, code[name], pair.seen, text[1])
        judged = _judge(pair, fits, code, scores, redrawn, rules, resampling, refit)
        results += [{"train": train, "test": test} | row | {"n_left_out": pair.n_left_out} for row in judged]
    return pd.DataFrame(results)


def _judge(
    pair: Pair,
    fits: dict[str, FittedRule],
    code: dict[str, Ints],
    scores: dict[str, Floats],
    redrawn: dict[str, Floats],
    rules: Sequence[str],
    resampling: Resampling,
    refit: Resampling | None,
) -> Iterator[dict[str, Any]]:
    test, names = pair.test, list(fits)
    correct, cluster, models = (test[column].to_numpy() for column in ("correct", "cluster", "model"))
    draws = draw_aurocs(correct, list(scores.values()), cluster, resampling, cell=models)
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
            yield row


def _redraw(rows: pd.DataFrame, scores: dict[str, Floats], refit: Resampling) -> dict[str, Floats]:
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
