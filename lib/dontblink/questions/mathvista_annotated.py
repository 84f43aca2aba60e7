"""The rows of MathVista whose source annotation, which MathVista itself ships, has boxes: 19 of PlotQA, 12 of DocVQA.

Why it exists: of MathVista's thousand rows these could be measured without an annotator, were it not for three faults,
each of which leaves an item without evidence and says so. In: testmini as `mathvista` reads it, and
`annot_testmini.json` of the official repository. Out: Items, scored as MathVista's. Never: boxes of another figure.

An annotation of PlotQA counts if it names a series that the question names and every mark lies in the picture: of the
rows that could be looked at, none did, their annotations describe other figures. Questions on axes are not about marks.
The lines of DocVQA's text recognition need a person who chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dontblink import paths
from dontblink.questions import mathvista
from dontblink.questions.answers import plain
from dontblink.questions.items import Box, Item, ItemError, Score
from dontblink.questions.sources import Row, Source, read_beside, read_box

NAME = "mathvista_annotated"
REMEDY = "download data/annot_testmini.json of github.com/lupantech/MathVista and name it in mathvista_annotated_config"
SOURCES = ("PlotQA", "DocVQA")
CHOOSE = "its lines of text need a person who chooses: draw the evidence"
place = mathvista.place


def load_rows(source: Source, config: str = "") -> list[Row]:
    """Return the rows of both sources with their annotation; `config` is where `annot_testmini.json` lies."""
    annotations = read_beside(paths.ROOT / config, REMEDY)
    rows = [row for row in mathvista.load_rows(source) if read_metadata(row).get("source") in SOURCES]
    made = []
    for row in rows:
        size = tuple(read_metadata(row).get(name) for name in ("img_width", "img_height"))
        fields = {**row.fields, "annotation": annotations.get(str(row.fields.get("pid"))), "picture_size": size}
        made.append(Row(row.name, fields, row.images))
    return made


def read_metadata(row: Row) -> Mapping[str, Any]:
    """Return a row's metadata, empty where they are no mapping."""
    found = row.fields.get("metadata")
    return found if isinstance(found, Mapping) else {}


def build_item(row: Row) -> Item:
    """Return the row as a draft, with boxes or with the reason why it has none in the covariate `no_evidence`."""
    draft, annotation = mathvista.build_item(row), row.fields.get("annotation")
    if not isinstance(annotation, Mapping):
        raise ItemError(f"{row.name}: no annotation of pid {row.fields['pid']}; {REMEDY}")
    boxes, reason = read_marks(row, annotation) if read_metadata(row)["source"] == "PlotQA" else ((), CHOOSE)
    covariates = draft.covariates | ({"no_evidence": reason} if reason else {})
    renamed = draft.id.replace(mathvista.NAME, NAME, 1)
    return replace(draft, id=renamed, benchmark=NAME, boxes=boxes, covariates=covariates)


def read_marks(row: Row, annotation: Mapping[str, Any]) -> tuple[tuple[Box, ...], str]:
    """Return the marks of the series that the question names, or no box and why."""
    question, (width, height) = plain(row.fields["question"]), row.fields["picture_size"]
    series = [one for one in annotation.get("models") or [] if isinstance(one, Mapping)]
    names = [str(one.get("label") or one.get("labels") or one.get("name") or "") for one in series]
    if "axis" in question:
        return (), "the question is about an axis, and the annotation about marks"
    asked = [one for one, name in zip(series, names, strict=True) if plain(name) and plain(name) in question]
    if not asked:
        return (), f"the annotation is of another figure: the question names none of {', '.join(names) or 'no series'}"
    boxes = tuple(read_box(row, box, str(one.get("name"))) for one in asked for box in one.get("bboxes") or [])
    if any(b.x0 < 0 or b.y0 < 0 or b.x1 > width or b.y1 > height for b in boxes) or not boxes:
        return (), f"marks outside the picture of {width}x{height} px: the annotation is of another figure"
    return boxes, ""


def scores(response: str, item: Item) -> dict[str, Score]:
    """Score a response by MathVista's rules."""
    return mathvista.scores(response, item)
