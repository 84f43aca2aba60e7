"""RefChartQA: questions on charts, with the boxes of the bars, points and labels that support the answer.

Why it exists: charts are where reading and reckoning meet, and its boxes leave axes and legend out. In: the rows of the
hub set or of files in its layout, and responses. Out: Items with boxes, Scores. Never: a copy of a row (the data are
AGPL-3.0), or a box moved further than to the chart's edge.

`official` is relaxed accuracy, as charts are scored everywhere: a number within 5 % is right, else texts must be the
same but for capitals. So 10.5 is 10, 1,234 is not 1234, 0.0 is not 0, and 2019 is 2018. `strict` keeps the 5 % and
compares values: digit groups and signs of percent and money are no part of them (0.12 is 12%), 0 is only 0, and a whole
number from 1500 to 2199, which may be a year, must be met exactly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dontblink.questions.answers import make_plain, plain, read_final, read_value
from dontblink.questions.gqa import read_short
from dontblink.questions.items import Box, Item, ItemError, Score
from dontblink.questions.sources import Row, Source, make_draft, name_picture, read_box, read_rows, require_columns

NAME = "refchartqa"
LICENCE = "AGPL-3.0"
INSTRUCTION = "Answer the question using a single number, word or phrase."
CLIP_PX = float("inf")  # at the edge
BOXES = ("grounding_bboxes", "bboxes", "boxes", "bbox")  # the column of the supporting elements
TYPES = {"human": "human", "machine": "machine", "0": "human", "1": "machine"}
REACH = 0.05
YEAR = re.compile(r"1[5-9]\d\d|20\d\d|21\d\d")
GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def load_rows(source: Source, config: str = "") -> list[Row]:
    """Return the rows of split `test` that people or a model asked of whole charts: type human and machine."""
    rows = read_rows(source, split="test", config=config, image_columns=("image",))
    numbered = [Row(r.name, {"id": str(n), **r.fields}, r.images) for n, r in enumerate(rows, start=1)]
    return [row for row in numbered if read_type(row) or row.fields.get("type") is None]


def read_type(row: Row) -> str:
    """Return human or machine, '' for the other types."""
    return TYPES.get(str(row.fields.get("type")).strip().lower(), "")


def place(row: Row) -> tuple[str, str]:
    """Return human or machine, and the chart."""
    return read_type(row), name_picture(row)


def build_item(row: Row) -> Item:
    """Return the row as a draft; ItemError for a row without chart, question, answer, type or a box."""
    require_columns(row, ("label", "type"), texts=("query",))
    label: Any = row.fields["label"]
    label = label[0] if isinstance(label, list | tuple) and len(label) == 1 else label
    if not isinstance(label, str | int | float) or not str(label).strip():
        raise ItemError(f"{row.name}: label {label!r}; expected one answer; correct or remove the row")
    if not read_type(row):
        raise ItemError(f"{row.name}: type {row.fields['type']!r}; expected human or machine; leave the row out")
    return make_draft(
        row, NAME, row.fields["id"], "download the charts with the rows", answer=str(label).strip(),
        question=f"{row.fields['query'].strip()} {INSTRUCTION}", boxes=read_elements(row),
        covariates={"type": read_type(row)}, licence=LICENCE,
    )  # fmt: skip


def read_elements(row: Row) -> tuple[Box, ...]:
    """Return the boxes of a list of {x, y, w, h}, or of {x: [...], y: [...], ...} as the hub may store the same."""
    column = next((name for name in BOXES if row.fields.get(name)), None)
    if column is None:
        there = ", ".join(sorted(row.fields))
        raise ItemError(f"{row.name}: no supporting element in any of {', '.join(BOXES)} ({there}); leave the row out")
    value = row.fields[column]
    if isinstance(value, Mapping) and all(isinstance(value.get(key), list) for key in "xywh"):
        value = [dict(zip("xywh", four, strict=True)) for four in zip(*(value[key] for key in "xywh"), strict=False)]
    if not isinstance(value, list | tuple):
        raise ItemError(f"{row.name}: {column} hold {value!r:.40}; expected a list of boxes; correct the row")
    return tuple(read_box(row, box) for box in value)


def official_relaxed(answer: str, gold: str) -> bool:
    """Say whether an answer is right by relaxed accuracy, its faults kept; see the module."""

    def read(text: str) -> float | None:
        value = read_value(text.rstrip("%")) if text.endswith("%") else read_value(text)
        return value / 100 if value is not None and text.endswith("%") else value

    value, target = read(answer), read(gold)
    if value is not None and target:
        return abs(value - target) / abs(target) <= REACH
    return answer.lower() == gold.lower()


def strict_relaxed(answer: str, gold: str) -> bool:
    """Say whether an answer is right by our rule; see the module."""
    value, target = read_number(answer), read_number(gold)
    if value is None or target is None:
        return plain(answer) == plain(gold)
    if "%" in gold and "%" not in answer and abs(value) <= 1 < abs(target):
        value *= 100  # a share for a percentage
    if YEAR.fullmatch(gold.strip()) or not target:
        return value == target
    return abs(value - target) / abs(target) <= REACH * (1 + 1e-12)  # 10.5 is 5 % from 10 whatever its last bit says


def read_number(text: str) -> float | None:
    """Return the number that a text is, digit groups and signs of money and percent left out; None where it is none."""
    bare = re.sub(r"^\s*([-+]?)\s*[$€£]\s*|\s*[%€]\s*$", r"\1", make_plain(text)).strip()
    return read_value(bare.replace(",", "") if GROUPED.fullmatch(bare) else bare)


def scores(response: str, item: Item) -> dict[str, Score]:
    """Score a response by both rules."""
    final, answer = read_final(response), read_short(response)
    return {
        "official": Score(official_relaxed(final, item.answer), bool(final), final),
        "strict": Score(answer is not None and strict_relaxed(answer, item.answer), answer is not None, answer or ""),
    }
