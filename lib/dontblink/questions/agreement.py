"""How far two scorers of the same responses agree, and where they do not.

Why it exists: a benchmark's official scorer and the strict one differ, and a result must not hang on which is used.
In: one row per response and scorer. Out: one row per model and benchmark with counts, agreement and Cohen's kappa, and
the list of disagreements by kind. Never: leave out an unparsed response; it is wrong, and counted.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from dontblink.questions.answers import read_value

KEY = ["model", "benchmark", "item_id"]
SIDE = ["correct", "parsed", "prediction"]
FIRST, SECOND = "official", "strict"


def pair_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per response, with correct, parsed and prediction of both scorers (`correct_official`, ...).

    A benchmark that has one scorer only (the testbed's) has no row. A column that is missing, an unknown scorer, and a
    response that lacks a scorer or has one twice are a ValueError.
    """
    if absent := [column for column in (*KEY, "scorer", *SIDE) if column not in scores]:
        raise ValueError(f"scores lack column {absent[0]!r}; they have {', '.join(map(str, scores.columns))}")
    if unknown := sorted(set(scores["scorer"]) - {FIRST, SECOND}):
        raise ValueError(f"scorer {unknown[0]!r}; expected {FIRST!r} and {SECOND!r}; leave the others out")
    benchmark = scores["benchmark"].astype(str)
    scores = scores[benchmark.isin(benchmark[scores["scorer"] == FIRST])].astype(dict.fromkeys([*KEY, "scorer"], str))
    twice = scores[scores.duplicated([*KEY, "scorer"])]
    if len(twice):
        name, scorer = " ".join(twice.iloc[0][KEY]), twice.iloc[0]["scorer"]
        raise ValueError(f"{name}: scored twice by {scorer!r}; keep one row per response")
    alone = scores[~scores.duplicated(KEY, keep=False)]
    if len(alone):
        raise ValueError(f"{' '.join(alone.iloc[0][KEY])}: scored by one scorer only; score it by both")
    first, second = (scores.loc[scores["scorer"] == scorer, [*KEY, *SIDE]] for scorer in (FIRST, SECOND))
    pairs = first.merge(second, on=KEY, suffixes=(f"_{FIRST}", f"_{SECOND}")).sort_values(KEY, ignore_index=True)
    flags = [f"{column}_{scorer}" for column in SIDE[:2] for scorer in (FIRST, SECOND)]
    return pairs.astype(dict.fromkeys(flags, bool))


def tabulate_agreement(scores: pd.DataFrame) -> pd.DataFrame:
    """Return how the two scorers agree on who is right, one row per model and benchmark.

    Parameters
    ----------
    scores : columns model, benchmark, item_id, scorer ('official' or 'strict'), correct, parsed (bool), prediction
        (text)

    Returns
    -------
    Columns model, benchmark, n, both_right, both_wrong, only_official_right, only_strict_right, official_unparsed,
    strict_unparsed (counts of responses), agreement (share, 0 to 1), kappa (-1 to 1) and kappa_defined (bool).
    Where every response gets the same verdict from both, chance alone would agree as often: kappa is undefined, stands
    as 0 and is marked.

    Notes
    -----
    kappa = (p - e) / (1 - e), p the agreement, e = sum over verdicts of the product of both scorers' shares.
    """
    pairs = pair_scores(scores)
    first, second = pairs[f"correct_{FIRST}"], pairs[f"correct_{SECOND}"]
    flags = {
        "n": first | True, "both_right": first & second, "both_wrong": ~first & ~second,
        "only_official_right": first & ~second, "only_strict_right": ~first & second,
        "official_unparsed": ~pairs[f"parsed_{FIRST}"], "strict_unparsed": ~pairs[f"parsed_{SECOND}"],
    }  # fmt: skip
    table = pd.DataFrame(flags).groupby([pairs["model"], pairs["benchmark"]]).sum().reset_index()
    n, agreed = table["n"], table["both_right"] + table["both_wrong"]
    right, right_too = (table["both_right"] + table[f"only_{scorer}_right"] for scorer in (FIRST, SECOND))
    expected = right * right_too + (n - right) * (n - right_too)  # times n squared
    table["agreement"] = agreed / n
    table["kappa"] = ((agreed * n - expected) / (n * n - expected)).where(expected < n * n, 0.0)
    table["kappa_defined"] = expected < n * n
    return table


def list_disagreements(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the responses on which the scorers differ in verdict, parse or prediction, sorted by kind.

    Returns
    -------
    The columns of `pair_scores`, and `kind`: who is right ("only official right", "only strict right", "both right",
    "both wrong") and what was read ("official reads nothing", "strict reads nothing", "other answer", "same answer",
    "neither reads an answer": then the nearest choice was right). Numbers are the same answer if their values are.
    """
    pairs = pair_scores(scores)
    (right, parsed, answer), (right_too, parsed_too, answer_too) = (read_side(pairs, name) for name in (FIRST, SECOND))
    verdict = np.select(
        [right & right_too, right, right_too], ["both right", "only official right", "only strict right"], "both wrong"
    )
    reading = np.select(
        [parsed & ~parsed_too, parsed_too & ~parsed, ~parsed, answer == answer_too],
        ["strict reads nothing", "official reads nothing", "neither reads an answer", "same answer"],
        "other answer",
    )
    pairs["kind"] = pd.Series(verdict, dtype=object) + ", " + reading
    differ = (right != right_too) | (parsed != parsed_too) | (answer != answer_too)
    return pairs[differ].sort_values(["kind", *KEY], ignore_index=True)


def read_side(pairs: pd.DataFrame, scorer: str) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Return who is right, what was parsed, and the answers: '' where none was parsed, a number as its value."""
    texts = pairs[f"prediction_{scorer}"].astype(str)
    answers = [text if (value := read_value(text)) is None else value for text in texts]
    parsed = pairs[f"parsed_{scorer}"]
    return pairs[f"correct_{scorer}"], parsed, pd.Series(answers, dtype=object).where(parsed, "")
