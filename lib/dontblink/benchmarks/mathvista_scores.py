"""MathVista's two scorers: the official one, with rules in the place of its LLM, and a strict one.

In: a response and the official columns of its row. Out: extraction, prediction, Score. `score` is the strict one.
Never: guess under the strict scorer.

`official` is the official code with `mathvista_extraction` in the place of its LLM. `strict` (the one that `score`
returns) differs from it where the official code

- reads the whole response, a reasoning that never closed included: strict reads what `answers.read_final` leaves;
- takes the Levenshtein-nearest choice when no choice was named, even for '': strict has no parse, and is wrong;
- reads `(b)` as a letter though option D is "(b)": strict takes the option that is the response, capitals excepted;
- truncates for integers (14.9 is 14): strict compares values, so 14.9 is wrong and 14.0 is right;
- compares texts: strict compares values, so 1.50 is 1.5 at two decimals and [2007,2008] is [2007, 2008];
- takes no `1,000` in its normalisation: under both scorers our extraction has made it 1000 before;
- accepts inf, nan and `1_000` as numbers: strict finds no number in the first two and the number 1 in the last.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from string import ascii_uppercase
from typing import Any

import numpy as np

from dontblink.benchmarks.answers import read_final, read_value
from dontblink.benchmarks.mathvista_extraction import find_answer, list_choices, quote_refusal
from dontblink.items import Score


def extract(response: str, row: Mapping[str, Any]) -> str:
    """Return the official extraction, rules in place of the LLM; where no choice is named, the response's own refusal.

    The official code asks the LLM for an answer also where there is none; it then mostly quotes the sentence that
    declines, and the nearest choice to that sentence is what the official code scores.
    """
    refusal = quote_refusal(response) if row["question_type"] == "multi_choice" else ""
    return _extract_official(response, row) or refusal


def _extract_official(response: str, row: Mapping[str, Any]) -> str:
    """Return the answer that the official code's own rules find, else the one that ours find, else ''."""
    if row["question_type"] == "multi_choice" and response in list_choices(row):
        return response
    kind = {"integer": int, "float": float}.get(str(row["answer_type"]))
    try:
        if kind is not None:
            return str(kind(response))
    except ValueError:
        pass  # prose: the official code goes on, too
    for line in response.split("\n"):
        quoted, closed, _ = line.partition('The answer is "')[2].rpartition('".')
        if closed:
            return quoted
    return find_answer(read_final(response) or response, row)


def official_normalise(extraction: str, row: Mapping[str, Any]) -> str | None:
    """Return the official prediction of an extraction: a choice, a number or a list as text; None where it is none.

    For multi_choice the first `(X)`, then a letter, then the Levenshtein-nearest choice, ties to the first.
    """
    if row["question_type"] == "multi_choice":
        choices = list_choices(row)
        letter = re.search(r"\(([a-zA-Z])\)", extraction)
        text = letter[1].upper() if letter else extraction.strip()
        letters = list(ascii_uppercase[: len(choices)])
        if text in letters:
            return choices[letters.index(text)]
        return min(choices, key=lambda choice: count_edits(text, choice), default=None)
    try:
        if row["answer_type"] == "integer":
            return str(int(float(extraction)))
        if row["answer_type"] == "float":
            return str(round(float(extraction), int(row["precision"])))  # the hub's precision is a float64
    except (ValueError, TypeError, OverflowError, KeyError):
        return None
    return extraction


def score(response: str, row: Mapping[str, Any]) -> Score:
    """Return the strict score of a response; see the module for how it differs from the official one."""
    answer, gold = find_answer(read_final(response), row), str(row["answer"])
    if not answer:
        return Score(False, False, "")
    if row["question_type"] == "multi_choice":
        choice = list_choices(row)[ascii_uppercase.index(answer)]
        return Score(choice == gold, True, choice)
    if row["answer_type"] == "list":
        values, golds = ([read_value(part) for part in text.strip("[] ").split(",")] for text in (answer, gold))
        parsed = None not in values
        return Score(parsed and values == golds, parsed, answer if parsed else "")
    value, precision = read_value(answer), read_precision(row)
    if value is None:
        return Score(False, False, "")
    if row["answer_type"] == "float" and precision is not None:
        value = round(value, precision)
    return Score(value == read_value(gold), True, str(int(value)) if value.is_integer() else repr(value))


def scores(response: str, row: Mapping[str, Any]) -> dict[str, Score]:
    """Return both scores of a response.

    The official code always answers for multi_choice; its score is `parsed` only where the extraction found something,
    so a correct score without a parse is a right guess by the nearest choice.
    """
    prediction = official_normalise(extract(response, row), row)
    parsed = bool(_extract_official(response, row)) and prediction is not None
    official = Score(prediction == str(row["answer"]), parsed, prediction or "")
    return {"official": official, "strict": score(response, row)}


def list_disagreements(stored: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the pids whose stored official verdict (`true_false`) ours does not reach, by kind.

    A stored row has the official columns, `response`, `extraction`, `prediction` and `true_false`.
    """
    kinds: dict[str, list[str]] = {}
    for row in stored:
        ours = scores(row["response"], row)["official"]
        if ours.correct == row["true_false"]:
            continue
        quoted = str(row["extraction"]).strip()
        letter = re.fullmatch(r"\(?[A-Z]\)?|\([A-Z]\).*", quoted) or quoted in list_choices(row)
        theirs = bool(letter) if row["question_type"] == "multi_choice" else row["prediction"] is not None
        kind = {
            (True, True): "both found an answer, another one",
            (True, False): "we found an answer, they none",
            (False, True): "they found an answer, we none",
            (False, False): "neither found an answer: the nearest choice to another refusal",
        }[ours.parsed, theirs]
        kinds.setdefault(kind, []).append(str(row["pid"]))
    return kinds


def read_precision(row: Mapping[str, Any]) -> int | None:
    """Return a row's decimal places, whether the reader made an int, a float64, a NaN or a None of them."""
    precision = read_value(str(row.get("precision")))
    return None if precision is None else int(precision)


def count_edits(text: str, other: str) -> int:
    """Return the Levenshtein distance, in time len(text) * len(other), vectorised along the first."""
    codes, places = np.array([ord(sign) for sign in text], dtype=np.int64), np.arange(len(text) + 1)
    row = places
    for sign in other:
        row = np.concatenate(([row[0] + 1], np.minimum(row[1:] + 1, row[:-1] + (codes != ord(sign)))))
        row = np.minimum.accumulate(row - places) + places
    return int(row[-1])
