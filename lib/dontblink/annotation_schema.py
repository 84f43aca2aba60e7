"""The schema of an evidence annotation: one line of `data/evidence/<benchmark>.jsonl`, checked field by field.

Why: boxes decide every evidence mass, so a line is used as it is or refused with the reason. In: a line, or an
`Annotation`. Out: an `Annotation`, or its line. Never here: files, or a repair of what is wrong.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from dontblink.items import MOST_PIXELS, Box
from dontblink.messages import NamedError, make_line

Status = Literal["accepted", "proposed"]
FIELDS = (
    "item_id", "image", "image_size", "image_sha256", "boxes", "reasons", "annotator", "status", "source",
)  # fmt: skip
SOURCE = re.compile(r"drawn|(imported from|proposed by) .*\S.*")
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class AnnotationError(NamedError, ValueError):
    """An annotation that cannot be used; one line with the file, the row, what was found and the remedy."""


class Rejected(NamedTuple("Rejected", [("where", str), ("reason", str)])):
    """A row that was left out, and why; each is one printable line, whatever the file holds."""

    __slots__ = ()

    def __new__(cls, where: str, reason: str) -> Rejected:
        return super().__new__(cls, make_line(where), make_line(reason))


@dataclass(frozen=True)
class Annotation:
    """What one annotator says of one image: boxes in px of the turned image, each label the reason for the box.

    No boxes means "no evidence in this image". `source`: 'drawn', 'imported from ...' or 'proposed by <model>', the
    last with ', corrected' behind it where a person moved the boxes before accepting them.
    """

    item_id: str
    image: int
    image_size: tuple[int, int]
    image_sha256: str
    boxes: tuple[Box, ...]
    annotator: str
    status: Status
    source: str

    def key(self) -> tuple[str, int, str]:
        """What a file holds once: the item, the image and the annotator."""
        return self.item_id, self.image, self.annotator

    def is_models_own(self) -> bool:
        """Say whether a model speaks for itself here; a person's draft that came of a proposal is that person's."""
        return self.status == "proposed" and self.source == f"proposed by {self.annotator}"


def is_finite(value: object) -> bool:
    """Say whether a value is a number that a float64 holds; an integer of a JSON file may have any length."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def check_annotation(found: Annotation, where: str) -> Annotation:
    """Return the annotation; raise AnnotationError, naming the place and the remedy, unless it can be used."""

    def expect(good: object, what: str, expected: str) -> None:
        if not good:
            raise AnnotationError(f"{where}: {what}; expected {expected}; correct or remove it")

    def is_count(value: object, least: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    for name in ("item_id", "annotator", "source", "image_sha256", "status"):
        text = getattr(found, name)
        one_line = isinstance(text, str) and text.strip() and not UNPRINTABLE.search(text)
        expect(one_line, f"{name} is {text!r}", "one line of text")
    expect(is_count(found.image, 0), f"image is {found.image!r}", "a whole number from 0")
    size = found.image_size
    is_size = isinstance(size, tuple) and len(size) == 2 and all(is_count(side, 1) for side in size)
    is_size = is_size and size[0] * size[1] <= MOST_PIXELS
    expect(is_size, f"image_size is {size!r}", f"[width, height] in px, whole numbers, at most {MOST_PIXELS} px in all")
    expect(re.fullmatch("[0-9a-f]{64}", found.image_sha256), f"image_sha256 is {found.image_sha256!r}", "64 hex digits")
    expect(found.status in ("accepted", "proposed"), f"status is {found.status!r}", "accepted or proposed")
    expect(SOURCE.fullmatch(found.source), f"source is {found.source!r}", "drawn, imported from ... or proposed by ...")
    for number, box in enumerate(found.boxes):
        corners, name = [box.x0, box.y0, box.x1, box.y1], f"box {number}"
        expect(all(map(is_finite, corners)), f"{name} is {corners}", "four finite numbers x0, y0, x1, y1 in px")
        expect(box.x0 < box.x1 and box.y0 < box.y1, f"{name} {corners} has no area", "x0 < x1 and y0 < y1")
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= size[0] and box.y1 <= size[1]
        expect(inside, f"{name} {corners} leaves its picture", f"a box inside {size[0]} x {size[1]} px")
        is_text = isinstance(box.label, str) and not UNPRINTABLE.search(box.label)
        expect(is_text, f"reason {number} is {box.label!r}", "one line of text, '' for none")
    return found


def parse_line(line: str, where: str) -> Annotation:
    """Return the annotation of one line of a file; raise AnnotationError naming what is wrong."""
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{where}: not JSON ({error}); expected one object a line; correct it") from error
    if not isinstance(fields, dict) or sorted(fields) != sorted(FIELDS):
        found = sorted(fields) if isinstance(fields, dict) else type(fields).__name__
        raise AnnotationError(f"{where}: {found}; expected exactly the fields {', '.join(FIELDS)}; correct it")
    boxes, reasons, size = fields.pop("boxes"), fields.pop("reasons"), fields.pop("image_size")
    lists = isinstance(boxes, list) and isinstance(reasons, list) and len(boxes) == len(reasons)
    if not lists or not all(isinstance(box, list) and len(box) == 4 for box in boxes):
        raise AnnotationError(
            f"{where}: boxes {boxes!r}, reasons {reasons!r}; expected [[x0, y0, x1, y1], ...] and one reason each; "
            f"correct them"
        )
    placed = tuple(
        Box(fields["image"], b[0], b[1], b[2], b[3], reason) for b, reason in zip(boxes, reasons, strict=True)
    )
    size = tuple(size) if isinstance(size, list) else size
    return check_annotation(Annotation(**fields, image_size=size, boxes=placed), where)


def format_line(found: Annotation) -> str:
    """Return the line of one annotation, fields in the order of FIELDS."""
    boxes = [[float(corner) for corner in (box.x0, box.y0, box.x1, box.y1)] for box in found.boxes]
    values = (
        found.item_id, found.image, list(found.image_size), found.image_sha256, boxes,
        [box.label for box in found.boxes], found.annotator, found.status, found.source,
    )  # fmt: skip
    return json.dumps(dict(zip(FIELDS, values, strict=True)), ensure_ascii=False) + "\n"
