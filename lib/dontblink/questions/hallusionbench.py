"""HallusionBench: yes/no questions on pictures, original and edited, scored by the usual rule and strictly.

Why it exists: its accuracies count pairs and figures, not rows, and the usual yes/no rule misses `**Yes**`. In: rows of
the official JSON or of the hub mirror, and responses. Out: Items, Scores, the five official accuracies with counts.
Never: ask a language model to judge, or read a "no" that belongs to a noun.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dontblink.questions.answers import compare, only
from dontblink.questions.answers import strict_yes_no as strict_answer
from dontblink.questions.items import Item, ItemError, Score
from dontblink.questions.sources import Row, Source, make_draft, read_rows, require_columns

NAME = "hallusionbench"
LICENCE = "BSD-3-Clause"
KEYS = ("category", "subcategory", "set_id", "figure_id", "question_id", "visual_input")
INSTRUCTION = "Please answer yes or no."  # the data set has no instruction of its own; this is the usual one
UNPACKED = "hallusion_bench"  # the folder that the official archive unpacks to
PUNCTUATION = ';/[]"{}()=+\\_->@<`,?!'  # as the usual rule has it: no colon, no asterisk


def load_rows(source: Source, config: str = "") -> list[Row]:
    """Return the rows with pictures of the hub mirror (split `image`), or all rows of the official JSON."""
    return read_rows(source, split="image", config=config, image_columns=("image", "filename"))


def place(row: Row) -> tuple[str, str]:
    """Return category/subcategory, such as `VD/illusion`, and category/subcategory/set.

    The questions of a set share pictures, and its pictures are edits of one another.
    """
    category, subcategory, set_id = (str(row.fields[key]) for key in KEYS[:3])
    return f"{category}/{subcategory}", f"{category}/{subcategory}/{set_id}"


def build_item(row: Row) -> Item:
    """Return the row as a draft whose answer is `yes` or `no`.

    The picture is the row's own, or the file beside the JSON, or the file in `hallusion_bench/` beside it.
    An ItemError names a row that lacks a column, a picture (178 official rows have none) or its file, or whose answer
    is neither 0 nor 1.
    """
    require_columns(row, (*KEYS, "gt_answer"), texts=("question",))
    picture = row.images.get("image") or row.images.get("filename")
    places = [picture]
    if isinstance(picture, Path):
        root = picture.parents[min(2, len(picture.parents) - 1)]  # of <root>/VD/<subcategory>/<file>
        places.append(root / UNPACKED / picture.relative_to(root))
    gold = str(row.fields["gt_answer"])
    if gold not in ("0", "1"):
        raise ItemError(f"{row.name}: gt_answer {gold!r}; expected '0' (no) or '1' (yes); correct the row")
    return make_draft(
        row, NAME, "-".join(str(row.fields[key]) for key in KEYS[:5]),  # no two rows share all five
        "unpack the official archive there", places=places, answer="yes" if gold == "1" else "no", licence=LICENCE,
        question=f"{row.fields['question'].strip()} {INSTRUCTION}",
        covariates={key: str(row.fields[key]) for key in KEYS},
    )  # fmt: skip


def official_answer(response: str) -> str | None:
    """Return the answer by the usual deterministic rule: exactly one of the words `yes` and `no`, else None.

    Its faults are kept: each punctuation mark becomes a space, or vanishes if it stands beside a space anywhere or a
    number holds a comma (so that `yes/no` may become `yesno`), `:` and `*` stay, and only the first 32 points go.
    """
    text = original = response.lower()
    glued = re.search(r"\d,\d", original) is not None
    for mark in PUNCTUATION:
        text = text.replace(mark, "" if glued or f"{mark} " in original or f" {mark}" in original else " ")
    return only(re.sub(r"\.(?!\d)", "", text, count=32).split())


def scores(response: str, item: Item) -> dict[str, Score]:
    """Score a response by both rules."""
    return compare(item.answer, official=official_answer(response), strict=strict_answer(response))


def metrics(rows: Sequence[Mapping[str, Any]], answers: Sequence[int | str | None]) -> dict[str, tuple[int, int]]:
    """Return the official accuracies aAcc, fAcc, qAcc, easy and hard, each as counts: right, and of how many.

    Parameters
    ----------
    rows : official columns of each row, those without a picture included
    answers : for each row "yes", "no" or None (unclear), or the official verdict: 1 right, 0 wrong, 2 unclear. Any
        other answer, and another number of answers than of rows, is a ValueError.

    Notes
    -----
    A row is right if its answer is, and for VS questions without a figure (figure 0) if it is unclear, too.
    aAcc: right rows. fAcc: figures (category, subcategory, set, figure; VS figure 0 left out) with all rows right.
    qAcc: questions (category, subcategory, set, question) with all rows right; easy: the same over rows with no or the
    original picture (visual_input 0 or 1), hard: over rows with the edited one (visual_input 2).
    """
    if len(rows) != len(answers):
        raise ValueError(f"{len(answers)} answers for {len(rows)} rows; pass one per row, in the same order")
    if odd := [answer for answer in answers if answer not in ("yes", "no", None, 0, 1, 2)]:
        raise ValueError(f"answer {odd[0]!r}; expected 'yes', 'no', None, or a verdict 0, 1, 2")
    import pandas as pd  # nothing else here needs it

    columns = [*KEYS, "gt_answer"]
    table = pd.DataFrame([[str(row[column]) for column in columns] for row in rows], columns=columns)
    figureless = (table["category"] == "VS") & (table["figure_id"] == "0")
    gold = table["gt_answer"].map({"1": "yes"}).fillna("no").astype(object)
    given = pd.Series(list(answers), dtype=object)
    right = (given == gold) | (given == 1) | ((given.isna() | (given == 2)) & figureless)
    edited, figure, question = table["visual_input"] == "2", [*KEYS[:4]], [*KEYS[:3], "question_id"]
    units = {
        "fAcc": (~figureless, figure), "qAcc": (edited | True, question),
        "easy": (~edited, question), "hard": (edited, question),
    }  # fmt: skip
    counted = {"aAcc": (int(right.sum()), len(rows))}
    for name, (counts, keys) in units.items():
        all_right = right[counts].groupby([table[key] for key in keys]).all()
        counted[name] = int(all_right.sum()), len(all_right)
    return counted
