"""Visual-CoT: questions of a dozen data sets, each with one box of the region that helps to answer.

Why it exists: the paper chooses its grounding layers on 100 held-out items of it (`extraction.grounding_source`). In:
`viscot_benchmark` of the official repository, in `benchmark_det` a .jsonl a subset with the boxes and in `benchmark` a
.json with the answers, and the pictures of the data sets under the paths that the rows name. Out: Items with boxes,
Scores. Never: a faulty box (78 of 9,937 lie outside their picture or have no area): its item is named and left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dontblink.questions import sources
from dontblink.questions.answers import compare, plain, read_final
from dontblink.questions.gqa import INSTRUCTION, read_short
from dontblink.questions.items import Item, ItemError, Score
from dontblink.questions.sources import Row, Source, make_draft, read_box, read_rows, require_columns

NAME = "visual_cot"
LICENCE = "Apache-2.0 (pictures: those of their data sets)"
REMEDY = "clone github.com/deepcs233/Visual-CoT and point visual_cot_source at its viscot_benchmark"
PICTURES = "put the pictures of the data sets there"


def load_rows(source: Source, config: str = "") -> list[Row]:
    """Return the rows of every subset: those of `benchmark_det`, with the answer of the row of the same id.

    Pictures are looked for beside `benchmark_det`. `config` names one subset, '' and 'default' all.
    """
    folder = sources.fetch_folder(source)
    files = sorted((folder / "benchmark_det").glob("*.jsonl"))
    if not (chosen := [file for file in files if config in ("", "default", file.stem)]):
        found = ", ".join(file.name for file in files) or "none"
        raise sources.SourceError(f"{folder / 'benchmark_det'}: expected a .jsonl a subset, found {found}; {REMEDY}")
    return [row for file in chosen for row in load_subset(folder, file)]


def load_subset(folder: Path, file: Path) -> list[Row]:
    """Return the rows of one subset."""
    answered = sources.read_beside(folder / "benchmark" / f"{file.stem}.json", REMEDY)
    answers: dict[Any, Any] = {one.get("question_id"): one.get("conversations") for one in answered}
    made = []
    for row in read_rows(Source(str(file)), split=file.stem, image_columns=()):
        turns = answers.get(row.fields.get("question_id")) or [{}]
        fields = {**row.fields, "subset": file.stem, "answer": turns[-1].get("value")}
        fields["picture_size"] = (fields.get("width"), fields.get("height"))
        picture = sources.read_picture(fields.get("img_path"), folder, row.name, "img_path")
        made.append(Row(f"{row.name}", fields, {"img_path": picture}))
    return made


def place(row: Row) -> tuple[str, str]:
    """Return the subset and the picture."""
    return str(row.fields["subset"]), str(row.fields["img_path"])


def build_item(row: Row) -> Item:
    """Return the row as a draft; ItemError for a row without picture, question, answer, or with a faulty box."""
    require_columns(row, ("question_id", "bbox"), texts=("expression", "answer", "subset"))
    box = read_box(row, row.fields["bbox"], extent=False)
    width, height = row.fields["picture_size"]
    if not (isinstance(width, int) and isinstance(height, int)):
        raise ItemError(f"{row.name}: width {width!r}, height {height!r}; expected px; correct the row")
    if not (0 <= box.x0 < box.x1 <= width and 0 <= box.y0 < box.y1 <= height):
        raise ItemError(f"{row.name}: box {row.fields['bbox']} in a picture of {width}x{height} px; leave the row out")
    return make_draft(
        row, NAME, f"{row.fields['subset']}-{row.fields['question_id']}", PICTURES, boxes=(box,), licence=LICENCE,
        question=f"{re.sub(r'^<image>', '', row.fields['expression']).strip()} {INSTRUCTION}",
        answer=row.fields["answer"].strip(), covariates={"subset": row.fields["subset"]},
    )  # fmt: skip


def scores(response: str, item: Item) -> dict[str, Score]:
    """Score a response by equality of the short answer, as it stands (`official`) and in small letters (`strict`).

    The data set's own scorer asks a language model; this one serves where its questions only choose layers.
    """
    final = read_final(response)
    official = Score(final == item.answer, bool(final), final)
    return {"official": official, **compare(plain(item.answer), strict=read_short(response))}
