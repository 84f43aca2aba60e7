"""Annotations from and for other tools: COCO, Label Studio and CVAT files <-> annotations on known pictures.

Why: people annotate in the tool they know, and each tool loses something. In: a file of a tool and the facts of the
benchmark's images; or annotations. Out: annotations with every row that was left out and everything that was
changed on the way, in words; or a document for the tool. A picture that EXIF turns takes its boxes with it. Never
here: a silent clip, or an image without a box taken for an image without evidence.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from dontblink import paths
from dontblink.annotation_schema import UNPRINTABLE, Annotation, AnnotationError, Rejected, Status, check_annotation
from dontblink.annotations import group_by_image, is_on
from dontblink.box_formats import Shape, read_coco, read_label_studio, write_coco, write_label_studio
from dontblink.cvat_format import read_cvat, write_cvat
from dontblink.image_facts import Corners, ImageFacts, Key, find_images, turn_corners
from dontblink.items import Box

Format = Literal["coco", "label-studio", "cvat"]
Shown = Literal["turned", "stored", "unknown"]
TOLERANCE_PX = 1.0  # how far a tool's rounding may put a box over the edge before it is a mistake


@dataclass
class Imported:
    """What a file gave: annotations, the rows that were left out, and what was changed on the way."""

    annotations: list[Annotation] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_shapes(path: Path, kind: Format) -> list[Shape | Rejected]:
    """Return what a tool's file holds; raise AnnotationError if it is not of that kind."""
    file = path.name
    try:
        if kind == "cvat":
            return list(read_cvat(path.read_bytes(), file))
        document = json.loads(path.read_text(encoding="utf-8"))
        return list((read_coco if kind == "coco" else read_label_studio)(document, file))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, AnnotationError):
            raise
        raise AnnotationError(f"{paths.show(path)}: not a {kind} file ({error!r}); export it anew") from error


def import_boxes(
    path: Path, kind: Format, images: Mapping[Key, ImageFacts], *, annotator: str = "", shown: Shown = "unknown"
) -> Imported:
    """Read a tool's file into annotations on known pictures.

    An image of which a box is rejected comes in as `proposed`: its boxes are not all that was drawn, so a person has
    to look. The recorded source is kept where it names a proposal; others become "imported from <file>".

    Parameters
    ----------
    annotator
        Who drew what the file names nobody for.
    shown
        Whether the tool showed pictures 'turned' by EXIF or as 'stored'; 'unknown' decides by the recorded size and
        rejects the boxes of a picture where the size cannot tell.

    Raises
    ------
    AnnotationError
        If the file is not of that kind.
    """
    result = Imported()
    groups: dict[tuple[Key, str], list[tuple[Shape, ImageFacts]]] = {}
    clipped = Counter[str]()
    for shape in read_shapes(path, kind):
        if isinstance(shape, Rejected):
            result.rejected.append(shape)
            continue
        try:
            facts, is_copy = identify(shape, images)
            name = shape.annotator or annotator
            if not name:
                raise AnnotationError("names no annotator; give one to the import")
            placed = shape if shape.error else place_shape(shape, facts, is_copy, shown, clipped)
            groups.setdefault(((facts.item_id, facts.image), name), []).append((placed, facts))
            if placed.note and not placed.error:
                result.notes.append(f"{shape.where}: {placed.note}")
        except AnnotationError as error:
            result.rejected.append(Rejected(shape.where, f"{shape.where}: {error}"))
    for (_, name), shapes in groups.items():
        _close_group(name, shapes, f"imported from {path.name}", result)
    if clipped:
        text = f"{clipped.total()} boxes reached up to {TOLERANCE_PX:g} px over the edge of {len(clipped)} pictures"
        result.notes.append(f"{path.name}: {text} and were clipped")
    if silent := [facts for key, facts in images.items() if key not in {group[0] for group in groups}]:
        result.notes.append(f"{path.name}: says nothing of {len(silent)} of {len(images)} images: not annotated")
    return result


def identify(shape: Shape, images: Mapping[Key, ImageFacts]) -> tuple[ImageFacts, bool]:
    """Return the image that a shape lies on and whether the tool showed our upright copy of it.

    Raises AnnotationError where the name means none or several, or another picture.
    """
    found, is_copy = find_images(shape.name, images)
    facts = found[0] if len(found) == 1 else None
    if shape.key is not None:
        facts = images.get(shape.key)
    elif len(found) > 1:
        names = ", ".join(other.item_id for other in found[:3])
        text = f"picture {shape.name!r} is that of {len(found)} images ({names}{', ...' * (len(found) > 3)})"
        raise AnnotationError(f"{text}, and a box answers one question; draw on the pictures of save_images")
    if facts is None:
        raise AnnotationError(f"picture {shape.name!r} is none of this benchmark; name files <item id>-<image>.png")
    if shape.sha256 and shape.sha256 != facts.sha256:
        raise AnnotationError(f"was drawn on another picture (sha256 {shape.sha256[:8]}, here {facts.sha256[:8]})")
    return facts, is_copy or shape.is_upright


def place_shape(shape: Shape, facts: ImageFacts, is_copy: bool, shown: Shown, clipped: Counter[str]) -> Shape:
    """Return the shape with corners in px of the turned picture; `error` says why it cannot be placed."""
    if shape.corners is None:
        return shape
    stored = facts.stored_size
    fits_turned, fits_stored = (shape.size in (None, size) for size in (facts.size, stored))
    if not fits_turned and not fits_stored:
        found, expected = (f"{w:g} x {h:g} px" for w, h in (shape.size or (0, 0), facts.size))
        return replace(shape, error=f"was drawn on {found}; expected {expected}; use the benchmark's own picture")
    corners, note = shape.corners, shape.note
    if facts.orientation != 1:
        if fits_turned != fits_stored:
            shown = "turned" if fits_turned else "stored"
        elif is_copy:
            shown = "turned"
        elif shown == "unknown":
            text = f"EXIF turns this picture (orientation {facts.orientation}) and its size does not tell whether the"
            return replace(shape, error=f"{text} tool did, too; say which: --shown turned or --shown stored")
        if shown == "stored":
            corners = turn_corners(corners, stored, facts.orientation)
            turn = f"turned with its picture (EXIF orientation {facts.orientation})"
            note = "; ".join(filter(None, (note, turn)))
    return finish_shape(shape, corners, note, facts, clipped)


def finish_shape(shape: Shape, corners: Corners, note: str, facts: ImageFacts, clipped: Counter[str]) -> Shape:
    """Return the shape with its final corners: at most TOLERANCE_PX are clipped, and counted."""
    width, height = facts.size
    x0, y0, x1, y1 = corners
    inside = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    if not all(abs(a - b) <= TOLERANCE_PX for a, b in zip(corners, inside, strict=True)):
        text = f"{[round(value, 2) for value in corners]} leaves its picture of {width} x {height} px"
        return replace(shape, error=f"{text}; correct it in the tool")
    if not (inside[0] < inside[2] and inside[1] < inside[3]):
        return replace(shape, error=f"{[round(value, 2) for value in corners]} has no area; remove it in the tool")
    # what the conversion's round-off alone puts over the edge is no mistake of anybody
    clipped.update([facts.file] * any(abs(a - b) > 1e-6 for a, b in zip(corners, inside, strict=True)))
    return replace(shape, corners=inside, note=note)


def _close_group(name: str, shapes: list[tuple[Shape, ImageFacts]], source: str, result: Imported) -> None:
    """Make one annotation of an annotator's shapes on one image, or reject them; their own draft gives way to it."""
    accepted = {shape.batch for shape, _ in shapes if shape.status == "accepted"}
    if accepted and (drafts := sorted({shape.batch for shape, _ in shapes} - accepted)):
        shapes = [(shape, facts) for shape, facts in shapes if shape.batch in accepted]
        result.notes.append(f"{', '.join(drafts)}, by {name}: a draft; what {name} has accepted takes its place")
    facts, good = shapes[0][1], [shape for shape, _ in shapes if not shape.error]
    where = f"{shapes[0][0].batch}, by {name}"
    for shape, _ in shapes:
        if shape.error:
            result.rejected.append(Rejected(shape.where, f"{shape.where}: {shape.error}"))
    boxes = tuple(
        Box(facts.image, *shape.corners, UNPRINTABLE.sub(" ", shape.reason).strip()) for shape in good if shape.corners
    )
    problem = ""
    if len(batches := sorted({shape.batch for shape, _ in shapes})) > 1:
        problem = f"annotated the image {len(batches)} times ({', '.join(batches)}); keep one"
    elif len(boxes) < len(good) and (boxes or len(good) > 1):
        problem = 'says "no evidence" and draws boxes, or says it twice; keep one'
    if problem:
        result.rejected += [Rejected(shape.where, f"{where}: {problem}") for shape in good]
    elif good:
        status: Status = "proposed" if any(shape.status != "accepted" for shape in good) else "accepted"
        if len(good) < len(shapes) and status == "accepted":
            status = "proposed"
            text = f"{len(shapes) - len(good)} of {len(shapes)} boxes rejected, so the image came in as proposed"
            result.notes.append(f"{where}: {text}")
        recorded = next((s.source for s in good if s.source.startswith("proposed by ")), source)
        found = Annotation(facts.item_id, facts.image, facts.size, facts.sha256, boxes, name, status, recorded)
        try:
            result.annotations.append(check_annotation(found, where))
        except AnnotationError as error:
            result.rejected.append(Rejected(where, str(error)))


def export_boxes(
    annotations: Iterable[Annotation], images: Mapping[Key, ImageFacts], kind: Format
) -> tuple[bytes, list[Rejected]]:
    """Return a document of every image, annotated or not, for a tool, and the annotations that fit no picture here."""
    groups = group_by_image(annotations)
    rows: list[tuple[ImageFacts, Sequence[Annotation]]] = []
    for key in sorted(images):
        rows.append((images[key], [found for found in groups.get(key, []) if is_on(found, images[key])]))
    kept = {found.key() for _, lines in rows for found in lines}
    left_out = [
        Rejected(
            found.item_id, f"item {found.item_id!r}, image {found.image}, by {found.annotator}: no such picture here"
        )
        for lines in groups.values()
        for found in lines
        if found.key() not in kept
    ]
    if kind == "cvat":
        return write_cvat(rows), left_out
    document = write_coco(rows) if kind == "coco" else write_label_studio(rows)
    return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode(), left_out
