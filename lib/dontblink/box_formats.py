"""How COCO and Label Studio write boxes: their documents <-> shapes in px of the picture that the tool showed.

Why: each tool measures otherwise (px from the top-left, percent) and each keeps another part of who drew what. In: a
parsed document, or annotations. Out: `Shape`s with everything that the tool recorded, or a document. Never here: which
picture a name means, EXIF, clipping, or what counts; `exchange` decides that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dontblink.annotation_schema import Annotation, Rejected, Status
from dontblink.image_facts import Corners, ImageFacts

LABEL = "evidence"


@dataclass(frozen=True)
class Shape:
    """One box, or one verdict "no evidence here" (`corners` None), as a tool recorded it.

    Empty fields were not recorded. `batch` names what holds the shapes of one annotator on one picture; `size` is
    (width, height) in px of the picture that the tool showed; `is_upright` says that it showed the turned picture.
    `error` says why the box cannot be used.
    """

    where: str
    batch: str
    name: str
    size: tuple[float, float] | None = None
    corners: Corners | None = None
    reason: str = ""
    annotator: str = ""
    status: Status = "accepted"
    source: str = ""
    sha256: str = ""
    is_upright: bool = False
    key: tuple[str, int] | None = None
    note: str = ""
    error: str = ""


def turn_rectangle(
    corner: tuple[float, float], size: tuple[float, float], degrees: float, about: tuple[float, float]
) -> Corners:
    """Return the bounding box of a rectangle (px) that is turned clockwise about a point."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    points = [(corner[0] + a * size[0] - about[0], corner[1] + b * size[1] - about[1]) for a in (0, 1) for b in (0, 1)]
    x = [about[0] + cosine * right - sine * down for right, down in points]
    y = [about[1] + sine * right + cosine * down for right, down in points]
    return min(x), min(y), max(x), max(y)


def read_coco(document: Any, file: str) -> Iterator[Shape | Rejected]:
    """Yield the shapes of a COCO document: bbox [x, y, width, height] px from the top-left, categories as reasons."""
    categories = {row["id"]: str(row["name"]) for row in document.get("categories", [])}
    images: dict[Any, Shape] = {}
    for row in document["images"]:
        where = f"{file}, image {row['id']}"
        size = (float(row["width"]), float(row["height"])) if row.get("width") and row.get("height") else None
        key = (str(row["item_id"]), int(row["image_index"])) if "item_id" in row and "image_index" in row else None
        sha256, upright = str(row.get("image_sha256", "")), row.get("is_upright") is True
        images[row["id"]] = image = Shape(
            where, where, str(row["file_name"]), size, sha256=sha256, is_upright=upright, key=key
        )
        for verdict in row.get("no_evidence_by", []):
            yield replace(image, **_read_people(verdict))
    for row in document.get("annotations", []):
        where, kept = f"{file}, annotation {row.get('id')}", row.get("attributes") or {}
        if row.get("image_id") not in images:
            yield Rejected(where, f"{where}: image_id {row.get('image_id')!r} is not in images; export the file anew")
            continue
        shape = replace(images[row["image_id"]], where=where, **_read_people(kept))
        try:
            x, y, width, height = (float(value) for value in row["bbox"])
            reason = kept["reason"] if "reason" in kept else categories[row["category_id"]]
            yield replace(shape, corners=(x, y, x + width, y + height), reason=str(reason))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            yield replace(shape, error=f"{error!r}; expected bbox [x, y, width, height] and a category")


def _read_people(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an export of ours recorded of who drew a box."""
    return {name: str(fields[name]) for name in ("annotator", "status", "source") if name in fields}


def write_coco(rows: Sequence[tuple[ImageFacts, Sequence[Annotation]]]) -> dict[str, Any]:
    """Return a COCO document of every picture and its annotations; what COCO lacks stands in extra fields."""
    reasons = sorted({box.label for _, lines in rows for found in lines for box in found.boxes})
    numbers = {reason: number for number, reason in enumerate(reasons, 1)}
    images, annotations = [], list[dict[str, Any]]()
    for number, (facts, lines) in enumerate(rows, 1):
        people = [{"annotator": f.annotator, "status": f.status, "source": f.source} for f in lines]
        empty = [row for row, found in zip(people, lines, strict=True) if not found.boxes]
        images.append({"id": number, "file_name": facts.file, "width": facts.size[0], "height": facts.size[1],
                       "item_id": facts.item_id, "image_index": facts.image, "image_sha256": facts.sha256,
                       "is_upright": True, "no_evidence_by": empty})  # fmt: skip
        for row, found in zip(people, lines, strict=True):
            for box in found.boxes:
                bbox = [box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0]
                annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": numbers[box.label],
                                    "bbox": bbox, "area": bbox[2] * bbox[3], "iscrowd": 0,
                                    "attributes": row | {"reason": box.label}})  # fmt: skip
    categories = [{"id": number, "name": reason or LABEL} for reason, number in numbers.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def read_label_studio(document: Any, file: str) -> Iterator[Shape | Rejected]:
    """Yield the shapes of Label Studio's JSON: percent of the picture, `predictions` as proposals."""
    if not isinstance(document, list):
        raise TypeError(f"a {type(document).__name__} where a list of tasks should be")
    for number, task in enumerate(document):
        data, where = task["data"], f"{file}, task {task.get('id', number)}"
        key = (str(data["item_id"]), int(data["image_index"])) if "item_id" in data and "image_index" in data else None
        base = Shape(where, where, str(data.get("image", "")), key=key, sha256=str(data.get("image_sha256", "")),
                     is_upright=data.get("is_upright") is True)  # fmt: skip
        kinds: tuple[tuple[str, Status], ...] = (("annotations", "accepted"), ("predictions", "proposed"))
        for kind, status in kinds:
            for place, row in enumerate(task.get(kind) or []):
                batch, person = f"{where}, {kind}[{place}]", row.get("completed_by", "")
                if isinstance(person, dict):
                    person = person.get("email") or person.get("id", "")
                annotator = str(row.get("model_version") or "" if status == "proposed" else person)
                default = f"proposed by {annotator}" if annotator and status == "proposed" else ""
                source = str((data.get("sources") or {}).get(annotator, default))
                shape = replace(base, batch=batch, where=batch, annotator=annotator, status=status, source=source)
                if row.get("was_cancelled"):
                    yield Rejected(
                        batch, f"{batch}: skipped by {annotator or 'its annotator'}; annotate it or leave it"
                    )
                else:
                    yield from _read_result(row.get("result") or [], shape)


def _read_result(result: Sequence[Mapping[str, Any]], shape: Shape) -> Iterator[Shape]:
    """Yield the rectangles of one annotation; the text of a region's own text area is its reason."""
    texts = {row.get("id"): row["value"]["text"] for row in result if row.get("type") == "textarea"}
    regions = [row for row in result if row.get("type") in ("rectanglelabels", "rectangle")]
    other = [row.get("type") for row in result if row.get("type") not in ("rectanglelabels", "rectangle", "textarea")]
    yield from (replace(shape, error=f"a region of type {kind!r}; expected rectangles only") for kind in other)
    if not regions and not other:
        yield shape
    for number, row in enumerate(regions):
        where = f"{shape.where}, region {row.get('id', number)}"
        try:
            if row.get("image_rotation"):
                raise ValueError(f"drawn on a picture turned by {row['image_rotation']} degrees in the tool")
            value, size = row["value"], (float(row["original_width"]), float(row["original_height"]))
            x, width = (float(value[name]) / 100 * size[0] for name in ("x", "width"))
            y, height = (float(value[name]) / 100 * size[1] for name in ("y", "height"))
            degrees = float(value.get("rotation") or 0)
            turned = turn_rectangle((x, y), (width, height), degrees, (x, y))
            corners = turned if degrees else (x, y, x + width, y + height)
            text = texts.get(row.get("id"), value.get("rectanglelabels", []))
            reason = text if isinstance(text, str) else ", ".join(text)
            note = f"a rectangle turned by {degrees:g} degrees came in as its bounding box" if degrees else ""
            yield replace(shape, where=where, corners=corners, size=size, reason=reason, note=note)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            text = "expected x, y, width, height in percent, original_width and original_height, the picture not turned"
            yield replace(shape, where=where, error=f"{error!r}; {text}")


def write_label_studio(rows: Sequence[tuple[ImageFacts, Sequence[Annotation]]]) -> list[dict[str, Any]]:
    """Return tasks for Label Studio: accepted boxes as annotations, proposals as predictions."""
    tasks = []
    for facts, lines in rows:
        data = {"image": facts.file, "question": facts.question, "item_id": facts.item_id, "image_index": facts.image,
                "image_sha256": facts.sha256, "is_upright": True,
                "sources": {found.annotator: found.source for found in lines}}  # fmt: skip
        task: dict[str, Any] = {"data": data, "annotations": [], "predictions": []}
        width, height = facts.size
        for found in lines:
            result = list[dict[str, Any]]()
            for number, box in enumerate(found.boxes):
                sides = 100 * (box.x1 - box.x0) / width, 100 * (box.y1 - box.y0) / height
                place = {"x": 100 * box.x0 / width, "y": 100 * box.y0 / height, "rotation": 0,
                         "width": sides[0], "height": sides[1]}  # fmt: skip
                common = {"id": f"box{number}", "to_name": "image", "original_width": width,
                          "original_height": height, "image_rotation": 0}  # fmt: skip
                region = {"type": "rectanglelabels", "from_name": LABEL, "value": place | {"rectanglelabels": [LABEL]}}
                text = {"type": "textarea", "from_name": "reason", "value": place | {"text": [box.label]}}
                result += [common | region, common | text]
            if found.status == "accepted":
                task["annotations"].append({"completed_by": {"email": found.annotator}, "result": result})
            else:
                task["predictions"].append({"model_version": found.annotator, "result": result})
        tasks.append(task)
    return tasks
