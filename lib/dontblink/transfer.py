"""Do rules carry over: fitted on one benchmark, does a rule tell correct from wrong answers on another?

Why: one global text + vision rule can be better where it was fitted and worse elsewhere, which in-sample comparisons
of nested models cannot show. In: the items table of the TEST split. Out: for every ordered pair of benchmarks and every
rule the AUROC on the second, its gain over text alone, an interval with the fit fixed and one that resamples both
benchmarks. Never: an evaluation on the items of the fit, or a test label in a scale or a coefficient.

A rule is one logit per model (`per_task`: per model and task type) on standardised features. A test row whose task
type the fit has not seen gets the text-only score of `full`: a rule that knows the task uses vision only where it was
learnt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit

from dontblink.auroc import auroc_difference, auroc_interval
from dontblink.bootstrap import Floats, Ints, Method, count_draws, number_clusters, resample, split_strata
from dontblink.cells import keep_usable, list_scopes, select_rows, standardise
from dontblink.logit import bootstrap_logit, fit_logit
from dontblink.ranks import auroc_each
from dontblink.replicates import interval_of

_CHUNK = 64  # replicates sorted at once; changes no result
Scaling = Literal["train", "test"]


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
FEATURES = {"full": "full_entropy_nats", "answer": "answer_entropy_nats", "vision": "vision_evidence_mass"}


class TransferError(ValueError):
    """Benchmarks between which no rule can be carried over; the message names them and what to do."""


@dataclass(frozen=True, eq=False)
class FittedRule:
    """Coefficients float64[groups, 1 + terms] of each group (a model, or model and task type), and their replicates.

    `replicates` float64[n_refits, groups, 1 + terms]; `n_separated` counts Firth fits among them.
    """

    rule: Rule
    groups: tuple[str, ...]
    coef: Floats
    replicates: Floats
    n_separated: int


def fit_rule(
    rows: pd.DataFrame, features: pd.DataFrame, rule: Rule, *, n_refits: int = 0, seed: int = 0, min_items: int = 20
) -> FittedRule:
    """Fit a rule on the rows of one benchmark; with `n_refits` also on as many resamplings of its items.

    All groups stand in one block-diagonal design, so that a replicate draws an item for all models at once. A group
    below `min_items` rows or of one class is left out.
    """
    label = _label_groups(rows, rule)
    groups = [name for name, own in rows["correct"].groupby(label) if len(own) >= min_items and own.nunique() == 2]
    used = label.isin(groups).to_numpy()
    if not groups:
        raise TransferError(f"{len(rows)} rows of {rows['benchmark'].iloc[0]}: no group with both classes to fit on")
    x, k = _design(features[used], rule), 1 + len(rule.terms)
    code = np.searchsorted(groups, label[used].to_numpy())
    blocks = np.zeros((len(x), len(groups), k))
    blocks[np.arange(len(x)), code] = x
    wide, y = blocks.reshape(len(x), -1), rows["correct"][used].to_numpy(np.float64)
    if not n_refits:
        coef = fit_logit(wide, y).coef
        return FittedRule(rule, tuple(groups), coef.reshape(-1, k), np.empty((0, len(groups), k)), 0)
    cluster, cell = rows["cluster"][used].to_numpy(), rows["cell"][used].to_numpy()
    drawn = bootstrap_logit(wide, y, cluster, n_refits, seed, strata=cell)
    replicates = drawn.coefficients.reshape(n_refits, len(groups), k)
    return FittedRule(rule, tuple(groups), drawn.estimate.reshape(-1, k), replicates, drawn.n_separated)


def score_rows(
    fitted: FittedRule, coef: Floats, rows: pd.DataFrame, features: pd.DataFrame, fallback: Floats
) -> Floats:
    """Return log-odds float64[..., n] under coefficients [..., groups, 1 + terms]; `fallback` where no group fits."""
    label = _label_groups(rows, fitted.rule)
    code = pd.Index(fitted.groups).get_indexer(label)
    scores = np.einsum("nk,...nk->...n", _design(features, fitted.rule), coef[..., code, :])
    return np.where(code >= 0, scores, fallback)


def transfer_table(
    items: pd.DataFrame,
    rules: Sequence[str] = tuple(RULES),
    *,
    scaling: Scaling = "train",
    n_boot: int = 10_000,
    n_refits: int = 2_000,
    seed: int = 0,
    method: Method = "bca",
    confidence: float = 0.95,
    min_items: int = 20,
) -> pd.DataFrame:
    """Return a row per ordered pair of benchmarks, model ("all": mean over models of the AUROC within each) and rule.

    Columns: train, test, model, rule, auroc, ci_low, ci_high (fit fixed, test items resampled), gain over the rule
    `full`, gain_low, gain_high, refit_low, refit_high, refit_gain_low, refit_gain_high (both resampled, percentile),
    brier (of the carried-over probability), n_train_items, n_test_items, n_text_only (test rows without a group),
    n_separated, n_degenerate (of the refits), n_left_out (rows of the table without all features).

    `scaling` says whose mean and standard deviation standardise the test features: those of the fit, or of the
    unlabelled test cell itself. `n_refits=0` leaves the second kind of interval out, columns and all.
    """
    if not rules or any(name not in RULES for name in rules) or scaling not in ("train", "test"):
        raise TransferError(f"rules {list(rules)}, scaling {scaling!r}; expected rules of {list(RULES)}, train or test")
    rows = select_rows(items, [*FEATURES.values()])
    benchmarks = {
        str(part.attrs["benchmark"]): keep_usable(part, min_items) for part in list_scopes(rows, ["benchmark"])
    }
    results = []
    for train, test in permutations(benchmarks, 2):
        models = sorted(set(benchmarks[train]["model"]) & set(benchmarks[test]["model"]))
        if not models:
            raise TransferError(
                f"{train} -> {test}: no model with {min_items} items and both classes in each; add items"
            )
        both = [benchmarks[name] for name in (train, test)]
        pair = [part[part["model"].isin(models)].reset_index(drop=True) for part in both]
        options = {"n_boot": n_boot, "seed": seed, "method": method, "confidence": confidence}
        table = _transfer(pair[0], pair[1], rules, scaling, n_refits, min_items, options)
        results.append(table.assign(train=train, test=test, n_left_out=rows.attrs["n_left_out"]))
    if not results:
        raise TransferError(f"benchmarks {sorted(benchmarks)}; a transfer needs two, add one")
    combined = pd.concat(results, ignore_index=True)
    leading = ["train", "test", "model", "rule"]
    return combined[leading + [name for name in combined if name not in leading]]


def _transfer(
    train: pd.DataFrame,
    test: pd.DataFrame,
    rules: Sequence[str],
    scaling: Scaling,
    n_refits: int,
    min_items: int,
    options: dict[str, Any],
) -> pd.DataFrame:
    learnt, seen = _scale(train, train), _scale(test, train if scaling == "train" else test)
    scores: dict[str, Floats] = {}
    redrawn: dict[str, Floats] = {}
    facts: dict[str, dict[str, int]] = {}
    for name in dict.fromkeys(["full", *rules]):
        fit = fit_rule(train, learnt, RULES[name], n_refits=n_refits, seed=options["seed"], min_items=min_items)
        none = np.zeros(len(test))
        scores[name] = score_rows(fit, fit.coef, test, seen, scores.get("full", none))
        redrawn[name] = score_rows(fit, fit.replicates, test, seen, redrawn.get("full", none))
        unseen = ~_label_groups(test, fit.rule).isin(fit.groups)
        facts[name] = {"n_text_only": int(unseen.sum()), "n_separated": fit.n_separated}
    # the two benchmarks share no item, so their draws must not share a seed
    replicates = _redraw(test, redrawn, options["seed"] + 1) if n_refits else {}
    results = []
    models = sorted(set(test["model"]))
    for model in ["all", *models] if len(models) > 1 else models:
        own = np.ones(len(test), bool) if model == "all" else (test["model"] == model).to_numpy()
        part, columns = test[own], [m for m in range(len(models)) if model in ("all", models[m])]
        correct, cluster, cell = (part[column].to_numpy() for column in ("correct", "cluster", "cell"))
        size = {"n_test_items": len(set(cluster)), "n_train_items": train["cluster"].nunique()}
        for name in rules:
            whole = auroc_interval(correct, scores[name][own], cluster, cell=cell, **options)
            gain = auroc_difference(correct, scores[name][own], scores["full"][own], cluster, cell=cell, **options)
            row = {"model": model, "rule": name, **size, **facts[name], "n_degenerate": 0}
            row |= {"auroc": whole.estimate, "ci_low": whole.ci_low, "ci_high": whole.ci_high}
            row |= {"gain": gain.estimate, "gain_low": gain.ci_low, "gain_high": gain.ci_high}
            row["brier"] = float(((expit(scores[name][own]) - correct) ** 2).mean())
            if n_refits:
                drawn, base = (replicates[which][:, columns].mean(axis=1) for which in (name, "full"))
                for prefix, value, values in (
                    ("refit", whole.estimate, drawn),
                    ("refit_gain", gain.estimate, drawn - base),
                ):
                    found = interval_of(
                        value, values, whole.n_clusters, method="percentile", confidence=options["confidence"]
                    )
                    row |= {f"{prefix}_low": found.ci_low, f"{prefix}_high": found.ci_high}
                row["n_degenerate"] = found.n_degenerate
            results.append(row)
    return pd.DataFrame(results)


def _redraw(rows: pd.DataFrame, scores: dict[str, Floats], seed: int) -> dict[str, Floats]:
    """Return, per rule, float64[n_refits, models]: AUROC of replicate b of the fit on replicate b of the test items."""
    groups = number_clusters(rows["cluster"].to_numpy(), rows["cell"].to_numpy())
    parts: list[Ints] = [np.flatnonzero(rows["model"] == model) for model in sorted(set(rows["model"]))]
    correct, n_refits = rows["correct"].to_numpy(bool), len(next(iter(scores.values())))
    found = {name: np.empty((n_refits, len(parts))) for name in scores}
    done = 0
    for indices in resample(split_strata(groups.stratum), n_refits, seed, _CHUNK):
        counts, block = count_draws(indices), slice(done, done := done + len(indices))
        for m, own in enumerate(parts):
            weights = counts[:, groups.row[own]]
            for name, values in scores.items():
                found[name][block, m] = auroc_each(correct[own], values[block][:, own], weights)
    return found


def _scale(rows: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Return the features standardised, within each model, by the mean and deviation of the reference rows."""
    scaled = pd.DataFrame(index=rows.index)
    models = rows["model"].to_numpy()
    for name, column in FEATURES.items():
        standardise(reference[column], reference["cell"], column)  # refuses a constant feature, by name
        by_model = reference.groupby("model")[column]
        mean, spread = by_model.mean().loc[models].to_numpy(), by_model.std(ddof=0).loc[models].to_numpy()
        scaled[name] = (rows[column].to_numpy(np.float64) - mean) / spread
    return scaled


def _label_groups(rows: pd.DataFrame, rule: Rule) -> pd.Series:
    return rows["model"] + "\n" + rows["task_type"] if rule.by_task else rows["model"]


def _design(features: pd.DataFrame, rule: Rule) -> Floats:
    columns = [features[term.split(":")].prod(axis=1).to_numpy(np.float64) for term in rule.terms]
    return np.column_stack([np.ones(len(features)), *columns])
