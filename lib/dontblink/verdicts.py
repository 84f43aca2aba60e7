"""Verdicts: does a claim's rule hold on its rows, evaluated from data alone.

Why it exists: a rule that was fixed beforehand has to be small enough to be read, and its evaluation small enough to
be trusted. In: a claim of paper/claims.yaml and the rows that it names. Out: how many rows meet each condition, and the
verdict. Never: read a file, evaluate a text as code, or give a verdict where a number lacks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dontblink.messages import NamedError
from dontblink.numbers import Row

VERDICTS = ("reproduced", "same direction", "not reproduced", "not testable")
COMPARISONS = {
    "above": lambda value, bound: value > bound,
    "below": lambda value, bound: value < bound,
    "at_least": lambda value, bound: value >= bound,
    "at_most": lambda value, bound: value <= bound,
}
SHARES = {"all": 1.0, "half": 0.5, "any": 0.0}
PICKS = ("lowest", "median", "highest")
TEXTS = ("title", "statement", "estimand", "reported_in", "reported_as")
TESTED = ("rows", "show", "headline", "unit", "test", "seed", "why", "conditions", "reproduced", "same_direction")


class ClaimsError(NamedError, ValueError):
    """A ledger that cannot be used; the message names the claim, what was found and the remedy."""


def check_claim(claim: Mapping[str, Any]) -> None:
    """Raise ClaimsError unless a claim holds exactly what an evaluation needs."""
    tested = "not_testable" not in claim
    expected = {*TEXTS, *(TESTED if tested else ("not_testable",))}
    if wrong := (set(claim) - {"reported"}) ^ expected:
        raise ClaimsError(f"unknown or missing keys {', '.join(sorted(wrong))}; expected {', '.join(sorted(expected))}")
    if not tested:
        return
    if claim["headline"]["pick"] not in PICKS:
        raise ClaimsError(f"pick is one of {', '.join(PICKS)}; correct it")
    for name, condition in claim["conditions"].items():
        comparison = set(condition) & set(COMPARISONS)
        others = set(condition) - comparison - {"only_in"}
        if len(comparison) != 1 or others != {"says", "rows", "field", "in"} or condition["in"] not in SHARES:
            raise ClaimsError(f"condition {name}: expected says, rows, field, in (all, half, any) and one comparison")
        if condition["rows"] not in claim["rows"]:
            raise ClaimsError(
                f"condition {name}: rows {condition['rows']!r}, expected one of {', '.join(claim['rows'])}"
            )
    for rule in ("reproduced", "same_direction"):
        if not claim[rule] or (unknown := set(claim[rule]) - set(claim["conditions"])):
            raise ClaimsError(f"{rule}: {unknown if claim[rule] else 'no conditions'}; name conditions of the claim")


def judge_condition(condition: Mapping[str, Any], rows: Mapping[str, list[Row]]) -> dict[str, Any]:
    """Return how many rows meet a condition, of how many, how many are needed, and whether it holds."""
    chosen = rows[condition["rows"]]
    (comparison,) = set(condition) & set(COMPARISONS)
    bound = condition[comparison]
    n_met = 0
    for row in chosen:
        limit = bound
        if isinstance(bound, Mapping):
            origin = rows[bound["rows"]] if "rows" in bound else [row]
            if len(origin) != 1:
                raise ClaimsError(f"bound {dict(bound)} names {len(origin)} rows; expected one")
            limit = origin[0].fields[bound["field"]]
        value = row.fields.get(condition["field"])
        if value is None or not math.isfinite(value):
            raise ClaimsError(f"row {' / '.join(row.stars)} has no {condition['field']}; correct the condition")
        n_met += bool(COMPARISONS[comparison](value, limit))
    needed = max(1, math.ceil(SHARES[condition["in"]] * len(chosen)))
    return {"n_met": n_met, "n_rows": len(chosen), "n_needed": needed, "holds": n_met >= needed}


def decide(claim: Mapping[str, Any], judged: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the verdict: the strongest rule of which every condition (of this profile) holds."""
    for rule in ("reproduced", "same_direction"):
        asked = [judged[name]["holds"] for name in claim[rule] if name in judged]
        if asked and all(asked):  # a rule without a condition in this profile decides nothing
            return rule.replace("_", " ")
    return "not reproduced"
