"""Rules that tell correct from wrong answers: what they look at, their fit, and the score of a row.

In: rows of `cells.select_rows` with standardised features. Out: coefficients, on the data and on resamplings of their
items, and log-odds. Never: a feature's scale from a label, or a group that is too small or of one class.

A rule is one logit per model (`per_task`: per model and task type) on standardised features. A test row whose task
type the fit has not seen gets the text-only score of `full`: a rule that knows the task uses vision only where it was
learnt. The AUROC of a rule with ONE feature depends on its fit through a sign alone; its Brier score shows the fit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd

from dontblink.bootstrap import Floats
from dontblink.logit import bootstrap_logit, fit_logit
from dontblink.messages import NamedError


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


class TransferError(NamedError, ValueError):
    """Benchmarks between which no rule can be carried over; the message names them and what to do."""


class FittedRule(NamedTuple):
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

    For the resamplings all groups stand in one block-diagonal design, so that an item is drawn for all models at once.
    A group below `min_items` rows or of one class is left out.
    """
    label = label_groups(rows, rule)
    groups = [name for name, own in rows["correct"].groupby(label) if len(own) >= min_items and own.nunique() == 2]
    used = label.isin(groups).to_numpy()
    if not groups:
        raise TransferError(f"{len(rows)} rows of {rows['benchmark'].iloc[0]}: no group with both classes to fit on")
    x, k = _design(features[used], rule), 1 + len(rule.terms)
    code = np.searchsorted(groups, label[used].to_numpy())
    y = rows["correct"][used].to_numpy(np.float64)
    if not n_refits:
        coef = np.stack([fit_logit(x[code == g], y[code == g]).coef for g in range(len(groups))])
        return FittedRule(rule, tuple(groups), coef, np.empty((0, len(groups), k)), 0)
    blocks = np.zeros((len(x), len(groups), k))
    blocks[np.arange(len(x)), code] = x
    wide = blocks.reshape(len(x), -1)
    cluster, cell = rows["cluster"][used].to_numpy(), rows["cell"][used].to_numpy()
    drawn = bootstrap_logit(wide, y, cluster, n_refits, seed, strata=cell)
    replicates = drawn.coefficients.reshape(n_refits, len(groups), k)
    return FittedRule(rule, tuple(groups), drawn.estimate.reshape(-1, k), replicates, drawn.n_separated)


def score_rows(
    fitted: FittedRule, coef: Floats, rows: pd.DataFrame, features: pd.DataFrame, fallback: Floats
) -> Floats:
    """Return log-odds float64[..., n] under coefficients [..., groups, 1 + terms]; `fallback` where no group fits."""
    code = pd.Index(fitted.groups).get_indexer(label_groups(rows, fitted.rule))
    scores = np.einsum("nk,...nk->...n", _design(features, fitted.rule), coef[..., code, :])
    return np.where(code >= 0, scores, fallback)


def label_groups(rows: pd.DataFrame, rule: Rule) -> pd.Series:
    return rows["model"] + "\n" + rows["task_type"] if rule.by_task else rows["model"]


def _design(features: pd.DataFrame, rule: Rule) -> Floats:
    columns = {name: features[name].to_numpy(np.float64) for name in features}
    terms = [np.prod([columns[part] for part in term.split(":")], axis=0) for term in rule.terms]
    return np.column_stack([np.ones(len(features)), *terms])
