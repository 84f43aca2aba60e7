"""MathVista (testmini, 1000 rows): its rows as Items; its scorers stand in `mathvista_scores`.

In: rows of the hub data set `AI4Math/MathVista`, or of the official `testmini.json` beside its `query.json` and its
folder `images`. Out: Items, and what a subset of them is drawn by. Never: an Item whose answer no scorer can reach.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from dontblink.benchmarks.answers import read_value
from dontblink.benchmarks.mathvista_extraction import list_choices
from dontblink.benchmarks.mathvista_scores import extract, official_normalise, read_precision, score, scores
from dontblink.benchmarks.sources import (
    Row,
    Source,
    SourceError,
    is_file,
    name_item,
    read_rows,
    require_columns,
    require_text,
)
from dontblink.items import Item, ItemError, Split, TaskType
from dontblink.paths import ROOT

__all__ = [
    "LICENCE", "NAME", "REQUIRED", "build_item", "compose_query", "extract", "group", "item_fields", "load_rows",
    "official_normalise", "row_id", "score", "scores", "stratum",
]  # fmt: skip

NAME = "mathvista"
LICENCE = "CC BY-SA 4.0 (test use)"
REQUIRED = ("pid", "question", "question_type", "answer_type", "choices", "answer", "metadata")
IMAGE_COLUMNS = ("decoded_image", "image")
KNOWN_WRONG = {"479": "the published answer is known to be wrong"}
DECIMALS = {1: ("one decimal place", "1.2, 1.3, 1.4"), 2: ("two decimal places", "1.23, 1.34, 1.45")}


def load_rows(source: Source, config: str = "") -> list[Row]:
    """Return the rows of testmini, with the official prompt text (`query`) where a `query.json` lies beside them.

    Raises
    ------
    SourceError
        If the source cannot be read, or `query.json` is not a mapping of row ids to texts.
    """
    rows = read_rows(source, split="testmini", config=config, image_columns=IMAGE_COLUMNS)
    place = ROOT / source.location
    folder = place.parent if place.is_file() else place
    path = next((path for path in (folder / "query.json", folder / "data" / "query.json") if path.is_file()), None)
    if path is None:
        return rows
    try:
        queries = json.loads(path.read_text(encoding="utf-8"))
        texts = {str(pid): text for pid, text in queries.items() if isinstance(text, str)}
    except (ValueError, AttributeError, OSError) as error:
        raise SourceError(
            f"{path}: not a JSON mapping of pid to text ({error}); fetch it again or remove it"
        ) from error
    named = [(row, texts.get(str(row.fields.get("pid")))) for row in rows]
    return [replace(row, fields={**row.fields, "query": text}) if text else row for row, text in named]


def build_item(row: Row, split: Split, task_type: TaskType) -> Item:
    """Return a row as an Item, asked in the words of the official prompt.

    Raises
    ------
    ItemError
        If a column is missing, the answer cannot be scored, options are too few, or there is no picture.
    """
    fields = row.fields
    require_columns(row, REQUIRED)
    require_text(row, "question")
    where, choices = f"{row.name} (pid {fields['pid']})", list_choices(fields)
    answer = "" if fields["answer"] is None else str(fields["answer"])
    _check_answer(where, fields, answer, choices)
    if not isinstance(fields["metadata"], Mapping) or not fields["metadata"].get("category"):
        raise ItemError(
            f"{where}: metadata {fields['metadata']!r} names no category; take the row of AI4Math/MathVista"
        )
    return Item(
        id=name_item(NAME, row_id(row)),
        benchmark=NAME,
        split=split,
        images=(_find_image(row, where),),
        question=str(fields.get("query") or compose_query(fields)),
        answer=answer,
        task_type=task_type,
        choices=tuple(choices),
        covariates=_list_covariates(fields),
        source=f"AI4Math/MathVista testmini, pid {row_id(row)}",
        licence=LICENCE,
    )


def _check_answer(where: str, fields: Mapping[str, Any], answer: str, choices: list[str]) -> None:
    """Raise ItemError unless a response can be right."""
    kind, remedy = fields["answer_type"], "correct or remove the row"
    if not isinstance(fields["answer"], str | int | float | None):
        raise ItemError(f"{where}: answer {fields['answer']!r}; expected a text or a number; {remedy}")
    if not answer.strip():
        raise ItemError(f"{where}: no answer (those of the split `test` are withheld); take the split testmini")
    if fields["question_type"] not in ("multi_choice", "free_form") or kind not in ("text", "integer", "float", "list"):
        raise ItemError(f"{where}: {fields['question_type']}/{kind} is no MathVista question; {remedy}")
    if fields["question_type"] == "multi_choice":
        if not 2 <= len(choices) <= len(ascii_uppercase):
            raise ItemError(f"{where}: {len(choices)} choice(s) of a multi_choice row; expected 2 to 26; {remedy}")
        if answer not in choices:
            raise ItemError(f"{where}: answer {answer!r} is none of the choices {choices}; {remedy}")
    elif kind != "list" and read_value(answer) is None:
        raise ItemError(f"{where}: answer {answer!r} of a row of type {kind}; expected a number; {remedy}")


def _list_covariates(fields: Mapping[str, Any]) -> dict[str, float | str]:
    """Return what the task-type rule and the scorers read of a row; columns without a value are left out."""
    metadata, precision, note = fields["metadata"], read_precision(fields), KNOWN_WRONG.get(str(fields["pid"]))
    skills = metadata.get("skills")
    texts = {name: metadata.get(name) for name in ("category", "task", "context", "grade", "language", "source")}
    texts |= {name: fields.get(name) for name in ("question_type", "answer_type", "unit")}
    texts |= {"skills": ", ".join(map(str, skills)) if isinstance(skills, list | tuple) else skills, "note": note}
    known: dict[str, float | str] = {name: str(text) for name, text in texts.items() if text}
    return known if precision is None else {**known, "precision": float(precision)}


def _find_image(row: Row, where: str) -> bytes | Path:
    absent = ""
    for column in IMAGE_COLUMNS:
        image = row.images.get(column)
        if isinstance(image, bytes) or (image is not None and is_file(image)):
            return image
        absent = str(image) if image is not None else absent
    found = f"{absent} is no file" if absent else f"no picture in {' or '.join(IMAGE_COLUMNS)}"
    raise ItemError(f"{where}: {found}; unpack images.zip of AI4Math/MathVista beside the rows, or read the hub's set")


def compose_query(row: Mapping[str, Any]) -> str:
    """Return the official prompt text of a row: hint, question, unit and lettered choices."""
    decimals, example = DECIMALS.get(read_precision(row) or 0, ("decimals", "1.2, 1.3, 1.4"))
    hint = {
        "integer": "requiring an integer answer and provide the final value, e.g., 1, 2, 3",
        "float": f"requiring a floating-point number with {decimals} and provide the final value, e.g., {example}",
        "list": "requiring a Python list as an answer and provide the final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4]",
    }.get(str(row["answer_type"]), "and provide the correct option letter, e.g., A, B, C, D")
    unit = f" (Unit: {row['unit']})" if row.get("unit") else ""
    lines = [f"Hint: Please answer the question {hint}, at the end.", f"Question: {row['question']}{unit}"]
    choices = list_choices(row)
    lines += ["Choices:", *(f"({letter}) {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False))]
    return "\n".join(lines if choices else lines[:2]).strip()


def row_id(row: Row) -> str:
    """Return a row's official number (pid) as text."""
    return str(row.fields.get("pid", row.name))


def stratum(row: Row) -> str:
    """Return what a subset is balanced over: category and answer type, as in 'general-vqa/integer'."""
    metadata = row.fields.get("metadata")
    category = metadata.get("category") if isinstance(metadata, Mapping) else None
    return f"{category}/{row.fields.get('answer_type')}"


def group(row: Row) -> str:
    """Return what rows on one picture share: its file's folder and name, else a hash of its bytes, else the pid."""
    named, held = row.images.get("image"), row.images.get("decoded_image")
    if isinstance(named, Path):
        return "/".join(named.parts[-2:])
    return sha256(held).hexdigest() if isinstance(held, bytes) else row_id(row)


def item_fields(item: Item) -> dict[str, Any]:
    """Return the official columns that the scorers read, rebuilt from an Item."""
    names = ("question_type", "answer_type", "precision", "unit")
    columns = {name: item.covariates.get(name) for name in names}
    return {**columns, "choices": list(item.choices) or None, "answer": item.answer}
