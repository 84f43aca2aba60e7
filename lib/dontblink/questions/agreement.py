"""How far two scorers of the same responses agree, and where they do not.

Why it exists: a benchmark's official scorer and the strict one differ, and a result must not hang on which is used.
In: one row per response and scorer. Out: one row per model and benchmark with counts, agreement and Cohen's kappa, and
the list of disagreements by kind. Never: leave out an unparsed response; it is wrong, and counted.
"""

from __future__ import annotations

import pandas as pd

from dontblink.questions.answers import read_value

Side = tuple[bool, bool, str | float]  # right, parsed, prediction
KEY = ["model", "benchmark", "item_id"]
COLUMNS = (*KEY, "scorer", "correct", "parsed", "prediction")
FIRST, SECOND = "official", "strict"
COUNTS = (
    "n", "both_right", "both_wrong", "only_official_right", "only_strict_right", "official_unparsed", "strict_unparsed",
)  # fmt: skip


def pair_scores(scores: pd.DataFrame) -> pd.DataFrame:
    """Return one row per response, with correct, parsed and prediction of both scorers (`correct_official`, ...).

    A benchmark that has one scorer only (the testbed's) has no row.

    Raises
    ------
    ValueError
        If a column is missing, a scorer is unknown, or a response lacks a scorer or has one twice.
    """
    if absent := [column for column in COLUMNS if column not in scores]:
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
    first, second = (
        scores.loc[scores["scorer"] == scorer, [*KEY, "correct", "parsed", "prediction"]] for scorer in (FIRST, SECOND)
    )
    pairs = first.merge(second, on=KEY, suffixes=(f"_{FIRST}", f"_{SECOND}")).sort_values(KEY, ignore_index=True)
    flags = [f"{column}_{scorer}" for column in ("correct", "parsed") for scorer in (FIRST, SECOND)]
    return pairs.astype(dict.fromkeys(flags, bool))


def tabulate_agreement(scores: pd.DataFrame) -> pd.DataFrame:
    """Return how the two scorers agree on who is right, one row per model and benchmark.

    Parameters
    ----------
    scores
        Columns model, benchmark, item_id, scorer ('official' or 'strict'), correct, parsed (bool), prediction (text).

    Returns
    -------
    Columns model, benchmark, n, both_right, both_wrong, only_official_right, only_strict_right, official_unparsed,
    strict_unparsed (counts of responses), agreement (share, 0 to 1), kappa (-1 to 1) and kappa_defined (bool).
    Where every response gets the same verdict from both, chance alone would agree as often: kappa is undefined, stands
    as 0 and is marked.

    Notes
    -----
    kappa = (p - e) / (1 - e), p the agreement, e = sum over verdicts of the product of both scorers' shares.

    Raises
    ------
    ValueError
        As `pair_scores`.
    """
    rows = []
    for (model, benchmark), pairs in pair_scores(scores).groupby(["model", "benchmark"]):
        first, second = pairs[f"correct_{FIRST}"], pairs[f"correct_{SECOND}"]
        n, right, wrong = len(pairs), int((first & second).sum()), int((~first & ~second).sum())
        expected = int(first.sum()) * int(second.sum()) + int((~first).sum()) * int((~second).sum())  # times n squared
        defined = expected < n * n
        counts = (n, right, wrong, int((first & ~second).sum()), int((~first & second).sum()))
        unparsed = (int((~pairs[f"parsed_{scorer}"]).sum()) for scorer in (FIRST, SECOND))
        kappa = ((right + wrong) * n - expected) / (n * n - expected) if defined else 0.0
        rows.append((model, benchmark, *counts, *unparsed, (right + wrong) / n, kappa, defined))
    return pd.DataFrame(rows, columns=["model", "benchmark", *COUNTS, "agreement", "kappa", "kappa_defined"])


def list_disagreements(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the responses on which the scorers differ in verdict, parse or prediction, sorted by kind.

    Returns
    -------
    The columns of `pair_scores`, and `kind`: who is right ("only official right", "only strict right", "both right",
    "both wrong") and what was read ("official reads nothing", "strict reads nothing", "other answer", "same answer",
    "neither reads an answer": then the nearest choice was right). Numbers are the same answer if their values are.

    Raises
    ------
    ValueError
        As `pair_scores`.
    """
    pairs = pair_scores(scores)
    kinds = [
        None if before == after else f"{name_verdict(before[0], after[0])}, {name_reading(before, after)}"
        for before, after in zip(*(read_side(pairs, scorer) for scorer in (FIRST, SECOND)), strict=True)
    ]
    pairs["kind"] = pd.Series(kinds, index=pairs.index, dtype=object)
    return pairs[pairs["kind"].notna()].sort_values(["kind", *KEY], ignore_index=True)


def read_side(pairs: pd.DataFrame, scorer: str) -> list[Side]:
    """Return one scorer's side of each response; what was not parsed predicts nothing, a number predicts its value."""
    columns = (pairs[f"{column}_{scorer}"] for column in ("correct", "parsed", "prediction"))
    sides = []
    for correct, parsed, text in zip(*columns, strict=True):
        value = read_value(str(text))
        sides.append((correct, parsed, "" if not parsed else str(text) if value is None else value))
    return sides


def name_verdict(official: bool, strict: bool) -> str:
    """Return who is right."""
    if official == strict:
        return "both right" if official else "both wrong"
    return "only official right" if official else "only strict right"


def name_reading(official: Side, strict: Side) -> str:
    """Return what the two read differently."""
    if official[1] != strict[1]:
        return "strict reads nothing" if official[1] else "official reads nothing"
    if not strict[1]:
        return "neither reads an answer"
    return "same answer" if official[2] == strict[2] else "other answer"
