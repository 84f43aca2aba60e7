"""Annotations from and for other tools: COCO and Label Studio files <-> annotations on known pictures.

Why: people annotate in the tool they know; each tool measures otherwise (px from the top-left, percent) and loses
another part of who drew what. In: a file of a tool and the facts of the benchmark's images; or annotations. Out:
annotations with every row that was left out and everything that was changed on the way, in words; or a document for the
tool. First a reader makes `Shape`s of what the tool recorded, then the import finds their pictures and judges them; a
picture that EXIF turns takes its boxes with it. Never here: a silent clip, or an image without a box taken for an image
without evidence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from dontblink import paths
from dontblink.boxes.annotations import (
    UNPRINTABLE,
    Annotation,
    AnnotationError,
    Corners,
    ImageFacts,
    Key,
    Rejected,
    Status,
    find_images,
    group_by_image,
    is_on,
    turn_corners,
)
from dontblink.questions.items import Box

Format = Literal["coco", "label-studio"]
Shown = Literal["turned", "stored", "unknown"]
LABEL = "evidence"
PEOPLE = {"annotator", "status", "source"}  # what an export of ours records of who drew a box
TOLERANCE_PX = 1.0  # how far a tool's rounding may put a box over the edge before it is a mistake


@dataclass(frozen=True)
class Shape:
    """One box, or one verdict "no evidence here" (`corners` None), as a tool recorded it.

    Empty fields were not recorded. `batch` names what holds the shapes of one annotator on one picture; `size` is
    (width, height) in px of the picture that the tool showed; `is_upright` says that it showed the turned picture;
    `excess` is how many px it was clipped; `error` why it cannot be used, without a `batch` on any picture.
    """

    where: str
    batch: str = ""
    name: str = ""
    size: tuple[float, float] | None = None
    corners: Corners | None = None
    reason: str = ""
    annotator: str = ""
    status: Status = "accepted"
    source: str = ""
    sha256: str = ""
    is_upright: bool = False
    key: Key | None = None
    excess: float = 0.0
    note: str = ""
    error: str = ""


def turn_rectangle(corner: tuple[float, float], size: tuple[float, float], degrees: float) -> Corners:
    """Return the bounding box of a rectangle (px) that is turned clockwise about its top-left corner."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    points = [(a * size[0], b * size[1]) for a in (0, 1) for b in (0, 1)]
    x = [corner[0] + cosine * right - sine * down for right, down in points]
    y = [corner[1] + sine * right + cosine * down for right, down in points]
    return min(x), min(y), max(x), max(y)


def read_picture(fields: Mapping[str, Any], name: Any, where: str, size: Sequence[float] | None = None) -> Shape:
    """Return a verdict on a picture with what an export of ours recorded of it."""
    key = (str(fields["item_id"]), int(fields["image_index"])) if {"item_id", "image_index"} <= set(fields) else None
    size = (float(size[0]), float(size[1])) if size else None
    sha256, is_upright = str(fields.get("image_sha256", "")), fields.get("is_upright") is True
    return Shape(where, where, str(name), size, sha256=sha256, is_upright=is_upright, key=key)


def read_coco(document: Any, file: str) -> Iterator[Shape]:
    """Yield the shapes of a COCO document: bbox [x, y, width, height] px from the top-left, categories as reasons."""
    categories = {row["id"]: str(row["name"]) for row in document.get("categories", [])}
    images: dict[Any, Shape] = {}
    for row in document["images"]:
        size = (row["width"], row["height"]) if row.get("width") and row.get("height") else None
        images[row["id"]] = read_picture(row, row["file_name"], f"{file}, image {row['id']}", size)
        for verdict in row.get("no_evidence_by", []):
            people: dict[str, Any] = {name: str(verdict[name]) for name in PEOPLE & set(verdict)}
            yield replace(images[row["id"]], **people)
    for row in document.get("annotations", []):
        where, kept = f"{file}, annotation {row.get('id')}", row.get("attributes") or {}
        if row.get("image_id") not in images:
            yield Shape(where, error=f"image_id {row.get('image_id')!r} is not in images; export the file anew")
            continue
        people = {name: str(kept[name]) for name in PEOPLE & set(kept)}
        shape = replace(images[row["image_id"]], where=where, **people)
        try:
            x, y, width, height = (float(value) for value in row["bbox"])
            reason = kept["reason"] if "reason" in kept else categories[row["category_id"]]
            yield replace(shape, corners=(x, y, x + width, y + height), reason=str(reason))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            yield replace(shape, error=f"{error!r}; expected bbox [x, y, width, height] and a category")


def write_picture(facts: ImageFacts) -> dict[str, Any]:
    """Return what `read_picture` reads."""
    return {"item_id": facts.item_id, "image_index": facts.image, "image_sha256": facts.sha256, "is_upright": True}


def write_coco(rows: Sequence[tuple[ImageFacts, Sequence[Annotation]]]) -> dict[str, Any]:
    """Return a COCO document of every picture and its annotations; what COCO lacks stands in extra fields."""
    reasons = sorted({reason for _, lines in rows for found in lines for reason in found.reasons})
    images, annotations = [], list[dict[str, Any]]()
    for number, (facts, lines) in enumerate(rows, 1):
        empty = [found.model_dump(include=PEOPLE) for found in lines if not found.corners]
        images.append({"id": number, "file_name": facts.file, "width": facts.size[0], "height": facts.size[1],
                       **write_picture(facts), "no_evidence_by": empty})  # fmt: skip
        for found in lines:
            for (x0, y0, x1, y1), reason in zip(found.corners, found.reasons, strict=True):
                attributes = found.model_dump(include=PEOPLE) | {"reason": reason}
                annotations.append({"id": len(annotations) + 1, "image_id": number,
                                    "category_id": reasons.index(reason) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0],
                                    "area": (x1 - x0) * (y1 - y0), "iscrowd": 0, "attributes": attributes})  # fmt: skip
    categories = [{"id": number, "name": reason or LABEL} for number, reason in enumerate(reasons, 1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def read_label_studio(document: Any, file: str) -> Iterator[Shape]:
    """Yield the shapes of Label Studio's JSON: percent of the picture, `predictions` as proposals."""
    if not isinstance(document, list):
        raise TypeError(f"a {type(document).__name__} where a list of tasks should be")
    kinds: tuple[tuple[str, Status], ...] = (("annotations", "accepted"), ("predictions", "proposed"))
    for number, task in enumerate(document):
        data, place = task["data"], f"{file}, task {task.get('id', number)}"
        base = read_picture(data, data.get("image", ""), place)
        for (kind, status), (count, row) in ((k, pair) for k in kinds for pair in enumerate(task.get(k[0]) or [])):
            where = f"{place}, {kind}[{count}]"
            person = row.get("completed_by", "") if status == "accepted" else str(row.get("model_version") or "")
            if isinstance(person, dict):
                person = person.get("email") or person.get("id", "")
            annotator, drafted = str(person), f"proposed by {person}" if person and status == "proposed" else ""
            source = str((data.get("sources") or {}).get(annotator, drafted))
            if row.get("was_cancelled"):
                yield Shape(where, error=f"skipped by {annotator or 'its annotator'}; annotate it or leave it")
            else:
                shape = replace(base, batch=where, where=where, annotator=annotator, status=status, source=source)
                yield from _read_result(row.get("result") or [], shape)


def _read_result(result: Sequence[Mapping[str, Any]], shape: Shape) -> Iterator[Shape]:
    """Yield the rectangles of one annotation; the text of a region's own text area is its reason."""
    texts = {row.get("id"): row["value"]["text"] for row in result if row.get("type") == "textarea"}
    regions = [row for row in result if row.get("type") != "textarea"]
    if not regions:
        yield shape
    for number, row in enumerate(regions):
        where = f"{shape.where}, region {row.get('id', number)}"
        if row.get("type") not in ("rectanglelabels", "rectangle"):
            yield replace(shape, where=where, error=f"a region of type {row.get('type')!r}; expected rectangles only")
            continue
        try:
            if row.get("image_rotation"):
                raise ValueError(f"drawn on a picture turned by {row['image_rotation']} degrees in the tool")
            value, size = row["value"], (float(row["original_width"]), float(row["original_height"]))
            x, width = (float(value[name]) / 100 * size[0] for name in ("x", "width"))
            y, height = (float(value[name]) / 100 * size[1] for name in ("y", "height"))
            degrees = float(value.get("rotation") or 0)
            corners = turn_rectangle((x, y), (width, height), degrees) if degrees else (x, y, x + width, y + height)
            note = f"a rectangle turned by {degrees:g} degrees came in as its bounding box" if degrees else ""
            text = texts.get(row.get("id"), value.get("rectanglelabels", []))
            reason = text if isinstance(text, str) else ", ".join(text)
            yield replace(shape, where=where, size=size, corners=corners, reason=reason, note=note)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            text = "expected x, y, width, height in percent, original_width and original_height, the picture not turned"
            yield replace(shape, where=where, error=f"{error!r}; {text}")


def write_label_studio(rows: Sequence[tuple[ImageFacts, Sequence[Annotation]]]) -> list[dict[str, Any]]:
    """Return tasks for Label Studio: accepted boxes as annotations, proposals as predictions."""
    tasks = []
    for facts, lines in rows:
        data = {"image": facts.file, "question": facts.question, **write_picture(facts),
                "sources": {found.annotator: found.source for found in lines}}  # fmt: skip
        task: dict[str, Any] = {"data": data, "annotations": [], "predictions": []}
        width, height = facts.size
        for found in lines:
            result = list[dict[str, Any]]()
            for number, ((x0, y0, x1, y1), reason) in enumerate(zip(found.corners, found.reasons, strict=True)):
                place = {"x": 100 * x0 / width, "y": 100 * y0 / height, "rotation": 0,
                         "width": 100 * (x1 - x0) / width, "height": 100 * (y1 - y0) / height}  # fmt: skip
                common = {"id": f"box{number}", "to_name": "image", "original_width": width,
                          "original_height": height, "image_rotation": 0}  # fmt: skip
                region = {"type": "rectanglelabels", "from_name": LABEL, "value": place | {"rectanglelabels": [LABEL]}}
                text = {"type": "textarea", "from_name": "reason", "value": place | {"text": [reason]}}
                result += [common | region, common | text]
            if found.status == "accepted":
                task["annotations"].append({"completed_by": {"email": found.annotator}, "result": result})
            else:
                task["predictions"].append({"model_version": found.annotator, "result": result})
        tasks.append(task)
    return tasks


class Imported(NamedTuple):
    """What a file gave: annotations, the rows that were left out, and what was changed on the way."""

    annotations: list[Annotation]
    rejected: list[Rejected]
    notes: list[str]


def read_shapes(path: Path, kind: Format) -> list[Shape]:
    """Return what a tool's file holds; raise AnnotationError if it is not of that kind."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return list((read_coco if kind == "coco" else read_label_studio)(document, path.name))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
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
    result = Imported([], [], [])
    groups: dict[tuple[Key, str], list[Shape]] = {}
    for shape in read_shapes(path, kind):
        try:
            facts, name, is_copy = identify(shape, images, annotator)
        except AnnotationError as error:
            result.rejected.append(Rejected(shape.where, f"{shape.where}: {error}"))
            continue
        placed = shape if shape.error else place_shape(shape, facts, is_copy, shown)
        groups.setdefault(((facts.item_id, facts.image), name), []).append(placed)
        if placed.note and not placed.error:
            result.notes.append(f"{shape.where}: {placed.note}")
    for (key, name), shapes in groups.items():
        close_group(name, shapes, images[key], f"imported from {path.name}", result)
    # what the conversion's round-off alone puts over the edge is no mistake of anybody
    if clipped := [key for (key, _), shapes in groups.items() for shape in shapes if shape.excess > 1e-6]:
        text = f"{len(clipped)} boxes reached up to {TOLERANCE_PX:g} px over the edge of {len(set(clipped))} pictures"
        result.notes.append(f"{path.name}: {text} and were clipped")
    if silent := set(images) - {key for key, _ in groups}:
        result.notes.append(f"{path.name}: says nothing of {len(silent)} of {len(images)} images: not annotated")
    return result


def identify(shape: Shape, images: Mapping[Key, ImageFacts], annotator: str) -> tuple[ImageFacts, str, bool]:
    """Return the image that a shape lies on, who drew it, and whether the tool showed our upright copy of the image.

    Raises AnnotationError where the name means none or several, or another picture, or nobody is named.
    """
    if shape.error and not shape.batch:
        raise AnnotationError(shape.error)
    found, is_copy = find_images(shape.name, images)
    if shape.key is not None:
        found = [images[shape.key]] if shape.key in images else []
    if len(found) > 1:
        names = ", ".join(other.item_id for other in found[:3]) + ", ..." * (len(found) > 3)
        text = f"picture {shape.name!r} is that of {len(found)} images ({names})"
        raise AnnotationError(f"{text}, and a box answers one question; draw on the pictures of save_images")
    if not found:
        raise AnnotationError(f"picture {shape.name!r} is none of this benchmark; name files <item id>-<image>.png")
    if shape.sha256 and shape.sha256 != found[0].sha256:
        raise AnnotationError(f"was drawn on another picture (sha256 {shape.sha256[:8]}, here {found[0].sha256[:8]})")
    if not (name := shape.annotator or annotator):
        raise AnnotationError("names no annotator; give one to the import")
    return found[0], name, is_copy or shape.is_upright


def place_shape(shape: Shape, facts: ImageFacts, is_copy: bool, shown: Shown) -> Shape:
    """Return the shape with corners in px of the turned picture, clipped by at most TOLERANCE_PX, or with its error."""
    if shape.corners is None:
        return shape
    (width, height), corners, note = facts.size, shape.corners, shape.note
    fits_turned, fits_stored = (shape.size in (None, size) for size in (facts.size, facts.stored_size))
    if not fits_turned and not fits_stored:
        found, expected = (f"{w:g} x {h:g} px" for w, h in (shape.size or (0, 0), facts.size))
        return replace(shape, error=f"was drawn on {found}; expected {expected}; use the benchmark's own picture")
    if facts.orientation == 1 or is_copy or fits_turned != fits_stored:
        shown = "turned" if fits_turned else "stored"
    if shown == "unknown":
        text = f"EXIF turns this picture (orientation {facts.orientation}) and its size does not tell whether the tool"
        return replace(shape, error=f"{text} did, too; say which: --shown turned or --shown stored")
    if shown == "stored":
        corners = turn_corners(corners, facts.stored_size, facts.orientation)
        turn = f"turned with its picture (EXIF orientation {facts.orientation})"
        note = "; ".join(filter(None, (note, turn)))
    x0, y0, x1, y1 = inside = tuple(np.clip(corners, 0.0, (width, height) * 2).tolist())
    excess = float(np.abs(np.subtract(corners, inside)).max())
    found = f"{[round(value, 2) for value in corners]}"
    if not excess <= TOLERANCE_PX:
        text = f"{found} leaves its picture of {width} x {height} px; correct it in the tool"
        return replace(shape, error=text)
    if not (x0 < x1 and y0 < y1):
        return replace(shape, error=f"{found} has no area; remove it in the tool")
    return replace(shape, corners=(x0, y0, x1, y1), note=note, excess=excess)


def close_group(name: str, shapes: list[Shape], facts: ImageFacts, source: str, result: Imported) -> None:
    """Make one annotation of an annotator's shapes on one image, or reject them; their own draft gives way to it."""
    accepted = {shape.batch for shape in shapes if shape.status == "accepted"}
    if accepted and (drafts := sorted({shape.batch for shape in shapes} - accepted)):
        shapes = [shape for shape in shapes if shape.batch in accepted]
        result.notes.append(f"{', '.join(drafts)}, by {name}: a draft; what {name} has accepted takes its place")
    good, where = [shape for shape in shapes if not shape.error], f"{shapes[0].batch}, by {name}"
    result.rejected.extend(Rejected(bad.where, f"{bad.where}: {bad.error}") for bad in shapes if bad.error)
    boxes = [Box(facts.image, *s.corners, UNPRINTABLE.sub(" ", s.reason).strip()) for s in good if s.corners]
    problem = ""
    if len(batches := sorted({shape.batch for shape in shapes})) > 1:
        problem = f"annotated the image {len(batches)} times ({', '.join(batches)}); keep one"
    elif len(boxes) < len(good) and (boxes or len(good) > 1):
        problem = 'says "no evidence" and draws boxes, or says it twice; keep one'
    if problem:
        result.rejected.extend(Rejected(shape.where, f"{where}: {problem}") for shape in good)
    elif good:
        status: Status = "accepted" if {shape.status for shape in good} == {"accepted"} else "proposed"
        if len(good) < len(shapes) and status == "accepted":
            status = "proposed"
            text = f"{len(shapes) - len(good)} of {len(shapes)} boxes rejected, so the image came in as proposed"
            result.notes.append(f"{where}: {text}")
        recorded = next((s.source for s in good if s.source.startswith("proposed by ")), source)
        try:
            result.annotations.append(facts.annotate(boxes, name, status, recorded))
        except AnnotationError as error:
            result.rejected.append(Rejected(where, f"{where}: {error}"))


def export_boxes(
    annotations: Iterable[Annotation], images: Mapping[Key, ImageFacts], kind: Format
) -> tuple[bytes, list[Rejected]]:
    """Return a document of every image, annotated or not, for a tool, and the annotations that fit no picture here."""
    groups = group_by_image(annotations)
    rows = [(facts, [one for one in groups.get(key, []) if is_on(one, facts)]) for key, facts in sorted(images.items())]
    lost = set(chain(*groups.values())) - {found for _, lines in rows for found in lines}
    text = "item {!r}, image {}, by {}: no such picture here"
    left_out = [Rejected(one.item_id, text.format(*one.key())) for one in sorted(lost, key=Annotation.key)]
    document = write_coco(rows) if kind == "coco" else write_label_studio(rows)
    return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode(), left_out
