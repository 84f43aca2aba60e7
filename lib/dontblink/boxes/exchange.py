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
import re
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
    decode_text,
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
PLACING = re.compile(
    r"rotat|(?<!rect)(?<!tri)angle|theta|orient|flip|mirror|crop|padd|offset|shift|zoom|scale|transform|outside|page"
)
MANNER = re.compile(r"(bbox|box|coord\w*)_?(mode|format|type|units?)|(is_)?(normali[sz]\w*|relative)")
NEUTRAL = ("", "0", "0.0", "none", "false", "xywh", "xywh_abs", "px", "pixel", "pixels", "absolute")
SIDE = {"choices", "textarea", "rating", "number", "datetime", "taxonomy", "pairwise", "ranker", "relation", "labels"}
SIDE |= {"hypertext", "hypertextlabels", "paragraphs", "paragraphlabels", "timeseries", "timeserieslabels"}  # on a text
PICTURE = re.compile(r"\.(png|jpe?g|gif|webp|bmp|tiff?)([?#].*)?$", re.IGNORECASE)
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


def refuse_placing(row: Mapping[str, Any], *known: str) -> None:
    """Raise ValueError if a field that is not `known` here says that a box lies elsewhere than its numbers do.

    Tools record turns, crops, pages and units under names of their own. One that is not read may not be passed over, or
    the box lands on another place in silence. Neutral values say nothing, nor do words, which are people's own labels.
    """
    for name, value in row.items():
        low, text = name.lower(), str(value).strip().lower()
        inner = [value] if isinstance(value, dict) else value if isinstance(value, list) and name not in known else []
        for part in inner:
            if isinstance(part, dict) and name not in known:
                refuse_placing(part if "name" not in part else {str(part["name"]): part.get("value")})
        if name in known or value in (None, False, 0, [], {}) or text in NEUTRAL:
            continue
        is_number = re.fullmatch(r"[-+.\deE]*\d[-+.\deE]*|true|[\[{].*\d.*[\]}]", text)
        is_one = text in ("1", "1.0") and re.search("scale|zoom|orient", low)
        if (PLACING.search(low) and is_number and not is_one) or MANNER.fullmatch(low):
            raise ValueError(f"the field {name!r} is {value!r}, which moves a box and is not read; undo it in the tool")


def read_angle(value: Any) -> float:
    """Return degrees; raise ValueError unless they are a finite number (none recorded is 0)."""
    degrees = 0.0 if value in (None, "") else float(value)
    if isinstance(value, bool) or not math.isfinite(degrees):
        raise ValueError(f"a rotation of {value!r}; expected degrees")
    return degrees


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


def make_id(value: Any) -> str:
    """Return an id as every tool means it: 7, 7.0 and "7" are the same."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def read_coco(document: Any, file: str) -> Iterator[Shape]:
    """Yield the shapes of a COCO document: bbox [x, y, width, height] px from the top-left, categories as reasons."""
    categories = {make_id(row["id"]): str(row["name"]) for row in document.get("categories", [])}
    images: dict[str, Shape] = {}
    for row in document["images"]:
        sides, number, where = (row.get("width"), row.get("height")), make_id(row["id"]), f"{file}, image {row['id']}"
        shape = read_picture(row, row["file_name"], where, sides if all(sides) else None)
        if number in images:
            shared = f"{images[number].name!r} and {row['file_name']!r}"
            shape = Shape(where, error=f"the id of {shared}; number images anew")
        try:
            refuse_placing(row)
            if any(sides) != all(sides):
                raise ValueError(f"width and height are {sides}; expected both in px")
        except ValueError as error:
            shape = replace(shape, error=str(error))
        images[number] = shape
        for verdict in row.get("no_evidence_by", []):
            people: dict[str, Any] = {name: str(verdict[name]) for name in PEOPLE & set(verdict)}
            yield replace(shape, **people)
    for row in document["annotations"]:
        where, kept = f"{file}, annotation {row.get('id')}", row.get("attributes") or {}
        if make_id(row.get("image_id")) not in images:
            yield Shape(where, error=f"image_id {row.get('image_id')!r} is not in images; export the file anew")
            continue
        if isinstance(kept, list):  # of pairs, as some tools write them
            kept = {str(pair["name"]): pair.get("value") for pair in kept}
        people = {name: str(kept[name]) for name in PEOPLE & set(kept)}
        shape = replace(images[make_id(row["image_id"])], where=where, **people)
        if shape.error:
            yield replace(shape, error=f"{shape.batch or 'its image'}: {shape.error}")
            continue
        try:
            refuse_placing(kept, "rotation")
            refuse_placing(row, "attributes", "segmentation")
            corners, note = read_bbox(row, kept, is_ours=shape.key is not None)
            reason = kept["reason"] if "reason" in kept else categories[make_id(row["category_id"])]
            yield replace(shape, corners=corners, reason=str(reason), note=note)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            text = f"{error!r}; expected bbox [x, y, width, height] in px and a category"
            yield replace(shape, where=where, error=text)


def read_bbox(row: Mapping[str, Any], kept: Mapping[str, Any], *, is_ours: bool) -> tuple[Corners, str]:
    """Return where the box of a COCO annotation lies, and what came in as its bounding box.

    CVAT records the unturned box and, in the attributes, degrees clockwise about its middle. What else is recorded of
    the place, the area and the outline, has to agree with the box: files exist that count from other corners, or in
    fractions of the picture.

    Raises
    ------
    KeyError, TypeError, ValueError
        If there is no such box, or the row contradicts itself.
    """
    if row.get("iscrowd") not in (None, 0, False, "0"):
        raise ValueError("iscrowd: a mask or a crowd is not a box; draw a rectangle")
    if row.get("num_keypoints") or any(row.get("keypoints") or []):
        raise ValueError("keypoints: a skeleton is not a box; draw a rectangle")
    x, y, width, height = box = tuple(float(value) for value in row["bbox"])
    if not is_ours and 0 < x + width <= 1 and 0 < y + height <= 1 and min(box) >= 0:
        raise ValueError(f"bbox {list(box)} lies in the first px, as fractions of a picture do")
    area, note = float(row.get("area") or 0), ""
    if not is_ours and area > 0:
        as_corners = (width - x) * (height - y)  # of [x0, y0, x1, y1]
        is_other = math.isclose(area, as_corners, rel_tol=1e-3) and not math.isclose(area, width * height)
        if is_other or area > 1.05 * (width + 1) * (height + 1):
            raise ValueError(f"bbox {list(box)} has not the recorded area of {area:g} px")
    corners = x, y, x + width, y + height
    if degrees := read_angle(kept.get("rotation")):
        x0, y0, x1, y1 = turn_rectangle((x, y), (width, height), degrees)  # about a corner: moved to the same middle
        right, down = x + width / 2 - (x0 + x1) / 2, y + height / 2 - (y0 + y1) / 2
        corners = x0 + right, y0 + down, x1 + right, y1 + down
        note = f"a rectangle turned by {degrees:g} degrees came in as its bounding box"
    outline = row.get("segmentation")
    if isinstance(outline, dict):
        raise ValueError("segmentation: a mask is not a box; draw a rectangle")
    if points := [float(value) for part in outline or [] for value in part]:
        extent = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
        if not np.abs(np.subtract(extent, corners)).max() <= 2 * TOLERANCE_PX:
            raise ValueError(f"the segmentation reaches from and to {list(extent)}, the bbox {list(corners)}")
        if len(outline or []) > 1 or len(points) > 10 or len({*points[::2]}) > 2 or len({*points[1::2]}) > 2:
            note = note or "a polygon came in as its bounding box"
    return corners, note


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
        if not {"annotations", "predictions"} & set(task):
            raise KeyError(f"{place} has no annotations")
        pictures = list_pictures(data, place)
        for (kind, status), (count, row) in ((k, pair) for k in kinds for pair in enumerate(task.get(k[0]) or [])):
            where = f"{place}, {kind}[{count}]"
            person = row.get("completed_by", "") if status == "accepted" else str(row.get("model_version") or "")
            if isinstance(person, dict):
                person = person.get("email") or person.get("id", "")
            annotator, drafted = str(person), f"proposed by {person}" if person and status == "proposed" else ""
            source = str((data.get("sources") or {}).get(annotator, drafted))
            if row.get("was_cancelled"):
                yield Shape(where, error=f"skipped by {annotator or 'its annotator'}; annotate it or leave it")
            elif isinstance(row.get("task"), int) and row["task"] != task.get("id", row["task"]):
                yield Shape(where, error=f"belongs to task {row['task']}; export the project anew")
            else:
                shown = {
                    name: [replace(one, batch=where, where=where, annotator=annotator, status=status, source=source)
                           for one in shapes] for name, shapes in pictures.items()
                }  # fmt: skip
                yield from _read_result(row.get("result") or [], shown, where)


def list_pictures(data: Mapping[str, Any], where: str) -> dict[str, list[Shape]]:
    """Return the pictures of a task by its field, in their order where a field lists pages.

    What an export of ours recorded speaks of the one picture in `image`. Raises ValueError if a task shows none.
    """
    found: dict[str, list[Shape]] = {}
    for name, value in data.items():
        names = value if isinstance(value, list) else [value]
        is_shown = (isinstance(one, str) and (name == "image" or PICTURE.search(one)) for one in names)
        if names and name != "question" and all(is_shown):
            ours = data if name == "image" and not isinstance(value, list) else {}
            found[name] = [read_picture(ours, one, where) for one in names]
    if not found:
        raise ValueError(f"{where} shows no picture; expected a field `image` in its data")
    return found


def find_page(row: Mapping[str, Any], pictures: Mapping[str, Sequence[Shape]], is_alone: bool) -> Shape:
    """Return the picture that a region lies on; raise ValueError where the row does not tell.

    `is_alone` says that all regions of the annotation lie on one tag.

    `to_name` is the name of the tag that shows the picture. Where a task has several, it tells which one only if it is
    that field's own name: the export holds no labelling configuration. `item_index` counts the pages of a list from 0.
    """
    name, value = str(row.get("to_name")), row.get("value")
    if name not in pictures and (len(pictures) > 1 or not is_alone):
        names = ", ".join(pictures)
        raise ValueError(f"to_name {name!r} is none of the task's pictures ({names}); name each tag as its field")
    pages = pictures[name] if name in pictures else next(iter(pictures.values()))
    parts = [part for part in (row, value) if isinstance(part, dict)]
    places = [part["item_index"] for part in parts if part.get("item_index") is not None]
    page = places[0] if places else 0 if len(pages) == 1 else None
    if type(page) is not int or not 0 <= page < len(pages) or len({*map(str, places)}) > 1:
        raise ValueError(f"item_index {page!r}; expected one of the task's {len(pages)} pages, from 0")
    return pages[page]


def has_place(row: Mapping[str, Any]) -> bool:
    """Say whether a row is one of a region, not of the whole picture."""
    return isinstance(row.get("value"), dict) and bool({"x", "points", "rle"} & set(row["value"]))


def _read_result(
    result: Sequence[Mapping[str, Any]], pictures: Mapping[str, Sequence[Shape]], where: str
) -> Iterator[Shape]:
    """Yield the rectangles of one annotation; answers about the picture and relations are none.

    Rows with the same id speak of the same region: its rectangle, its labels, its answers. The text of its own text
    area is its reason, or else its labels are. An annotation that draws nothing says so of every picture that it shows.
    """
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for number, row in enumerate(result):
        name = row.get("id")
        groups.setdefault(("", number) if name is None else make_id(name), []).append(row)
    drew: set[Shape] = set()
    answers = list[str]()
    is_alone = len({str(row.get("to_name")) for row in result if row.get("type") not in SIDE}) <= 1
    for number, (name, rows) in enumerate(groups.items()):
        drawn = [row for row in rows if row.get("type") not in SIDE]
        place = f"{where}, region {name if isinstance(name, str) else number}"
        every = [shape for shapes in pictures.values() for shape in shapes]
        if not drawn and not any(map(has_place, rows)):
            answers += [str(row.get("from_name") or row.get("type")) for row in rows]
            continue
        try:
            shape = find_page((drawn or rows)[0], pictures, is_alone)
        except ValueError as error:  # nobody knows which picture it is on, so none of them has all its boxes
            drew.update(every)
            yield from (replace(one, where=place, error=str(error)) for one in every)
            continue
        drew.add(shape)
        try:
            yield _read_region(drawn, rows, replace(shape, where=place))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            text = "expected x, y, width, height in percent, original_width and original_height, the picture not turned"
            yield replace(shape, where=place, error=f"{error!r}; {text}")
    # a picture beside one with boxes is not annotated by that: nobody said that it shows no evidence
    said = f"drew no box and answered {', '.join(sorted(set(answers)))}; taken as no evidence" if answers else ""
    if not drew:
        yield from (replace(one, note=said) for shapes in pictures.values() for one in shapes)


def _read_region(drawn: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], shape: Shape) -> Shape:
    """Return the rectangle of the rows of one region, which have to agree on where it lies."""
    for row in drawn:
        if row.get("type") not in ("rectanglelabels", "rectangle"):
            return replace(shape, error=f"a region of type {row.get('type')!r}; expected rectangles only")
    if not drawn:
        raise ValueError(f"a row of type {rows[0].get('type')!r} without its rectangle")
    for row in rows:
        if row.get("image_rotation"):
            raise ValueError(f"drawn on a picture turned by {row['image_rotation']} degrees in the tool")
        refuse_placing(row, "value")
        if has_place(row):
            refuse_placing(row["value"], "rotation")
    row, value = drawn[0], drawn[0]["value"]
    numbers = ("x", "y", "width", "height", "rotation")
    for other in filter(has_place, rows):
        parts = (other["value"], value)
        one, two = ([read_angle(part.get(name)) for name in numbers] for part in parts)
        sides = ("original_width", "original_height")
        sizes = {str([part.get(name, row[name]) for name in sides]) for part in (other, row)}
        pages = {(str(part.get("to_name", row.get("to_name"))), str(part.get("item_index"))) for part in (other, row)}
        if not np.allclose(one, two) or len(sizes) > 1 or len(pages) > 1:
            raise ValueError(f"two rows of one region lie on different places: {one} and {two}")
    size = float(row["original_width"]), float(row["original_height"])
    x, y, width, height = (float(value[name]) for name in numbers[:4])
    if shape.status == "proposed" and shape.key is None and 0 < x + width <= 1 and 0 < y + height <= 1:
        raise ValueError(f"{[x, y, width, height]} are fractions of a picture")
    x, width, y, height = x * size[0] / 100, width * size[0] / 100, y * size[1] / 100, height * size[1] / 100
    degrees = read_angle(value.get("rotation"))
    corners = turn_rectangle((x, y), (width, height), degrees) if degrees else (x, y, x + width, y + height)
    note = f"a rectangle turned by {degrees:g} degrees came in as its bounding box" if degrees else ""
    texts = [part["value"]["text"] for part in rows if part.get("type") == "textarea"]
    labels = [part["value"].get(part["type"], []) for part in rows if part.get("type") in ("rectanglelabels", "labels")]
    words = list(chain.from_iterable([one] if isinstance(one, str) else one for one in texts or labels))
    return replace(shape, size=size, corners=corners, reason=", ".join(dict.fromkeys(words)), note=note)


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


def name_kind(content: bytes) -> str:
    """Return what a file is, and what to do with it, in words; empty if nobody knows."""
    if content.startswith(b"PK"):
        return "a zip archive; unpack it and name the file of boxes in it"
    try:
        text = decode_text(content).lstrip()
    except UnicodeDecodeError:
        return ""
    if text.startswith("<"):
        root = next(iter(re.findall(r"<(\w+)", re.sub(r"<[?!][^>]*>", "", text))), "")
        video = " for video (tracks over frames)" if "<track" in text else " for images"
        is_known = root in ("annotations", "annotation")
        kind = f"CVAT's own XML{video}" if root == "annotations" else "Pascal VOC's XML" if is_known else "XML"
        return f"{kind}; export COCO (in CVAT `COCO 1.0`, of a task of pictures)"
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        lines = text.splitlines()
        if lines and all(re.fullmatch(r"\d+( +[-\d.eE]+){4,}", line.strip()) for line in lines if line.strip()):
            return "YOLO's text, which names no picture; export COCO"
        return "a table; export JSON" if lines and re.match(r'"?\w+"?[,\t]', lines[0]) else ""
    row = next(iter(document), None) if isinstance(document, list) else document
    keys = set(row) if isinstance(row, dict) else set()
    inner = next(iter(row.values()), None) if isinstance(row, dict) and row else None
    kinds = (
        ({"images", "annotations"}, "COCO; say --format coco"),
        ({"images"}, "COCO without annotations (only pictures); export the instances"),
        ({"data", "annotations"}, "Label Studio's JSON; say --format label-studio"),
        ({"completions"}, "an export of Label Studio before 1.0 (completions); export it from 1.0 or later"),
        ({"image_id", "bbox"}, "a list of COCO results, without pictures; export the whole COCO document"),
        ({"shapes"}, "LabelMe's JSON; convert it to COCO"),
        ({"categories", "items"}, "Datumaro's JSON; export COCO"),
        ({"_via_img_metadata"}, "a project of VIA; export COCO"),
        ({"image", "annotations"}, "CreateML's JSON; export COCO"),
        ({"annotation_id"}, "Label Studio's JSON-MIN, which leaves out regions' fields; export JSON"),
        ({"image", "label"}, "Label Studio's JSON-MIN, which leaves out regions' fields; export JSON"),
        ({"data", "id"}, "tasks of Label Studio without annotations; export JSON"),
    )
    if isinstance(inner, dict) and "regions" in inner:
        return "VIA's JSON; export COCO"
    return next((text for found, text in kinds if found <= keys), "")


def refuse_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; raise ValueError where a name stands twice: the last would win in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a field stands twice among {', '.join(name for name, _ in pairs)}")
    return found


def read_shapes(path: Path, kind: Format) -> list[Shape]:
    """Return what a tool's file holds; raise AnnotationError if it is not of that kind, naming the one that it is."""
    content, readers = b"", {"coco": read_coco, "label-studio": read_label_studio}
    try:
        content = path.read_bytes()
        document = json.loads(decode_text(content), object_pairs_hook=refuse_repetition)
        return list(readers[kind](document, path.name))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        found = name_kind(content)
        remedy = f"it is {found}" if found and f"--format {kind}" not in found else "export it anew"
        raise AnnotationError(f"{paths.show(path)}: not a {kind} file ({error!r}); {remedy}") from error


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
        ours = images.get(shape.key)
        if ours and found and ours not in found:
            says = f"item_id and image_index say {shape.key[0]!r}, {shape.key[1]}"
            raise AnnotationError(f"picture {shape.name!r} is that of {found[0].item_id!r}, {found[0].image}; {says}")
        found = [ours] if ours else []
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
    if facts.orientation == 1:
        shown = "turned"
    elif is_copy or fits_turned != fits_stored:
        known: Shown = "turned" if fits_turned else "stored"
        if shown not in (known, "unknown"):
            reason = "its name says that it is the upright copy" if is_copy else "its recorded size"
            text = f"--shown {shown}, but {reason} says {known}; draw on one kind of pictures, or leave --shown out"
            return replace(shape, error=text)
        shown = known
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
