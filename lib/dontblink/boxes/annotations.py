"""Evidence annotations: which regions of which picture an item needs, who says so, and whether a person accepted it.

Why: no real benchmark ships evidence boxes, so they are an input of this study and need a provenance. They decide every
evidence mass, and a box is only as good as the certainty that it lies on this picture, turned this way. In: Items, and
`data/evidence/<benchmark>.jsonl`, one line per image of an item by one annotator (data/evidence/README.md). Out: one
`ImageFacts` per image, and a folder of upright pictures that any tool can open; `Annotation`s, each line used as it is
or refused with the reason; Items with the boxes of ACCEPTED lines on the same picture. Never here: a guess, or a
repair. An image without an accepted line has no boxes, which is something else than an accepted line that says "no
evidence in this image".
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dontblink import paths
from dontblink.errors import NamedError, make_line
from dontblink.files import whole_file
from dontblink.questions.items import ID, MOST_PIXELS, Box, Item, ItemError, decode_image, open_image, read_bytes

Status = Literal["accepted", "proposed"]
Key = tuple[str, int]  # item id, image counted from 0
Corners = tuple[float, float, float, float]  # x0, y0, x1, y1
FIELDS = (
    "item_id", "image", "image_size", "image_sha256", "boxes", "reasons", "annotator", "status", "source",
)  # fmt: skip
SOURCE = re.compile(r"drawn|(imported from|proposed by) .*\S.*")
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
LIST_FILE = "images.jsonl"
ORIENTATION = 0x0112  # the EXIF tag that says how a viewer turns the stored picture
SHOWN_AS_STORED = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif"}


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


@dataclass(frozen=True)
class ImageFacts:
    """One image of an item. `size` is (width, height) in px after the EXIF turn, `sha256` of the encoded bytes.

    `file` is its name in a folder of `save_images`, `original` its own file name where it had one.
    """

    item_id: str
    image: int
    size: tuple[int, int]
    sha256: str
    orientation: int
    file: str
    original: str = ""
    benchmark: str = ""
    question: str = ""

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) in px as stored, before the EXIF turn."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def describe_image(item: Item, image: int) -> ImageFacts:
    """Return the facts of one image of an item, from its header; a PNG without EXIF there is decoded to its end.

    Raises
    ------
    ItemError
        If it cannot be read, or the item's id cannot be a part of a file name.
    """
    source = item.images[image]
    if not ID.fullmatch(item.id):
        raise ItemError(f"item {item.id!r}: expected an id of letters, digits and _.- only; rename it in the loader")
    encoded = read_bytes(source)
    try:
        with decode_image(source) as opened:
            turn, (width, height), kind = opened.getexif().get(ORIENTATION, 1), opened.size, opened.format or ""
    except ItemError as error:
        raise ItemError(f"item {item.id}: image {image}: {error}") from error
    turn = turn if turn in range(1, 9) else 1
    return ImageFacts(
        item.id, image, (height, width) if turn >= 5 else (width, height), hashlib.sha256(encoded).hexdigest(), turn,
        f"{item.id}-{image}{SHOWN_AS_STORED.get(kind, '.png') if turn == 1 else '.png'}",
        source.name if isinstance(source, Path) else "", item.benchmark, item.question,
    )  # fmt: skip


def save_images(items: Iterable[Item], folder: Path) -> dict[Key, ImageFacts]:
    """Write every picture upright, as `<item id>-<image>.<png|jpg|...>`, and `images.jsonl` beside them.

    A PNG, JPEG, WebP or GIF that no EXIF tag turns keeps its bytes. Others become PNGs without the tag, so that every
    browser shows them, and a tool that ignores EXIF the same picture as one that does not.
    """
    facts: dict[Key, ImageFacts] = {}
    for item in items:
        for image, source in enumerate(item.images):
            found = facts[item.id, image] = describe_image(item, image)
            encoded = read_bytes(source)
            with decode_image(source) as opened:
                if found.orientation != 1 or opened.format not in SHOWN_AS_STORED:
                    buffer = io.BytesIO()
                    open_image(source).save(buffer, "PNG")
                    encoded = buffer.getvalue()
            with whole_file(folder / found.file) as temporary:
                temporary.write_bytes(encoded)
    lines = [json.dumps(asdict(facts[key]), ensure_ascii=False) + "\n" for key in sorted(facts)]
    with whole_file(folder / LIST_FILE) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    return facts


def read_images(folder: Path) -> dict[Key, ImageFacts]:
    """Return the facts that `save_images` wrote.

    Raises
    ------
    ItemError
        If there is no list, or a line of it does not hold the facts of an image.
    """
    file = folder / LIST_FILE
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        remedy = "write the folder with `python -m dontblink.boxes pictures`"
        raise ItemError(f"{file}: cannot be read ({error}); {remedy}") from error
    facts: dict[Key, ImageFacts] = {}
    for number, line in enumerate(lines, 1):
        if line:
            try:
                fields = json.loads(line)
                found = _check_facts(ImageFacts(**fields | {"size": tuple(fields["size"])}))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise ItemError(f"{file}, line {number}: not the facts of an image ({error}); save it anew") from error
            facts[found.item_id, found.image] = found
    return facts


def _check_facts(found: ImageFacts) -> ImageFacts:
    """Return the facts; raise ValueError, naming the first field that `save_images` cannot have written."""
    texts = ("item_id", "sha256", "file", "original", "benchmark", "question")
    good = {name: isinstance(getattr(found, name), str) for name in texts}
    good["image"] = type(found.image) is int and found.image >= 0
    good["size"] = len(found.size) == 2 and all(type(side) is int and side > 0 for side in found.size)
    good["orientation"] = type(found.orientation) is int and 1 <= found.orientation <= 8
    for name in (name for name, is_good in good.items() if not is_good):
        raise ValueError(f"{name} is {getattr(found, name)!r}")
    return found


def find_images(name: str, images: Mapping[Key, ImageFacts]) -> tuple[list[ImageFacts], bool]:
    """Return the images that a tool's file name may mean and whether that file is the upright copy of `save_images`.

    Tools add folders and prefixes: a copy is known by the whole last part of the path without its suffix, also
    behind the `<8 letters>-` that Label Studio puts before uploads. A file name of the benchmark's own may belong to
    the images of several items.
    """
    path = name.split("?d=")[-1].split("?")[0]  # Label Studio serves local files as /data/local-files/?d=<path>
    last = re.split(r"[/\\]", path)[-1]
    stem = last.rsplit(".", 1)[0]
    copies = {facts.file.rsplit(".", 1)[0]: facts for facts in images.values()}
    for wanted in (stem, re.sub(r"^[0-9a-f]{8}-", "", stem)):
        if wanted in copies:
            return [copies[wanted]], True
    return [facts for facts in images.values() if facts.original and facts.original == last], False


def turn_corners(corners: Corners, stored_size: tuple[float, float], orientation: int) -> Corners:
    """Return a box of the stored picture, (width, height) px, on the picture as its EXIF orientation turns it."""
    (x0, y0, x1, y1), (width, height) = corners, stored_size
    if orientation in (2, 3, 7, 8):
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 6, 7):
        y0, y1 = height - y1, height - y0
    return (y0, x0, y1, x1) if orientation >= 5 else (x0, y0, x1, y1)



def read_annotations(path: Path) -> tuple[list[Annotation], list[Rejected]]:
    """Return a file's annotations and the lines that were left out; a file that is not there holds none.

    Of several lines on one image by one annotator none counts: which of them is meant cannot be known.

    Raises
    ------
    AnnotationError
        If the file as a whole cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{paths.show(path)}: cannot be read as UTF-8 text ({error}); restore it") from error
    found: dict[tuple[str, int, str], list[tuple[str, Annotation]]] = {}
    rejected: list[Rejected] = []
    for number, line in enumerate(lines, 1):
        where = f"{paths.show(path)}, line {number}"
        if line.strip():
            try:
                annotation = parse_line(line, where)
                found.setdefault(annotation.key(), []).append((where, annotation))
            except AnnotationError as error:
                rejected.append(Rejected(where, str(error)))
    for (item_id, image, annotator), rows in found.items():
        if len(rows) > 1:
            text = f"one of {len(rows)} lines of {annotator!r} on image {image} of {item_id!r}; expected one; keep one"
            rejected += [Rejected(where, f"{where}: {text}") for where, _ in rows]
    return [rows[0][1] for rows in found.values() if len(rows) == 1], rejected


def read_strictly(path: Path) -> list[Annotation]:
    """Return a file's annotations; raise AnnotationError at the first line that cannot be used."""
    annotations, rejected = read_annotations(path)
    if rejected:
        raise AnnotationError(rejected[0].reason)
    return annotations


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder for oneself: two annotators who save at once both keep their lines."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_annotations(
    path: Path,
    annotations: Iterable[Annotation],
    *,
    may_withdraw: bool = False,
    refused: dict[Annotation, Rejected] | None = None,
) -> int:
    """Put annotations into a file and return its number of lines; only lines with the same key are replaced.

    The file appears whole, sorted by item, image and annotator; the same annotations are the same bytes. A proposal
    that would replace accepted boxes goes to `refused`, where that is given, and the others are written.

    Raises
    ------
    AnnotationError
        If an annotation or a line that is there cannot be used, or, without `refused`, a proposal would replace
        accepted boxes (unless their annotator `may_withdraw` them); nothing is written then.
    """
    with lock_folder(path.parent):
        lines = {annotation.key(): annotation for annotation in read_strictly(path)}
        for annotation in annotations:
            check_annotation(annotation, f"item {annotation.item_id!r}, image {annotation.image}")
            before, where = lines.get(annotation.key()), f"item {annotation.item_id!r}, image {annotation.image}"
            demotes = before and (before.status, annotation.status) == ("accepted", "proposed")
            if demotes and not may_withdraw:
                reason = (
                    f"{where}: a proposal, {annotation.source!r}, would replace boxes that {annotation.annotator!r} "
                    f"has accepted, which stay; correct it in the tool and import anew, or name the proposing model"
                )
                if refused is None:
                    raise AnnotationError(reason)
                refused[annotation] = Rejected(where, reason)
                continue
            lines[annotation.key()] = annotation
        with whole_file(path) as temporary:
            temporary.write_text("".join(format_line(lines[key]) for key in sorted(lines)), encoding="utf-8")
    return len(lines)


@dataclass(frozen=True)
class Verdict:
    """What the annotations say of one item; `reason` is empty where every image has an accepted line."""

    status: str
    boxes: tuple[Box, ...]
    reason: str


def group_by_image(annotations: Iterable[Annotation], annotator: str | None = None) -> dict[Key, list[Annotation]]:
    """Return the annotations of each image in the order of their annotators, of one annotator if one is named."""
    groups: dict[Key, list[Annotation]] = {}
    for found in sorted(annotations, key=Annotation.key):
        if annotator is None or found.annotator == annotator:
            groups.setdefault((found.item_id, found.image), []).append(found)
    return groups


def is_on(found: Annotation, facts: ImageFacts) -> bool:
    """Say whether an annotation was made on this very picture."""
    return found.image_sha256 == facts.sha256 and found.image_size == facts.size


def judge_item(images: Sequence[ImageFacts], groups: dict[Key, list[Annotation]]) -> Verdict:
    """Return an item's boxes (the union over annotators), or why it has none: every image needs an accepted line."""
    boxes: dict[Box, None] = {}
    problems: dict[str, list[str]] = {"stale": [], "lacking": [], "proposed only": []}
    for facts in images:
        lines = groups.get((facts.item_id, facts.image), [])
        accepted = [found for found in lines if found.status == "accepted"]
        if current := [found for found in accepted if is_on(found, facts)]:
            boxes |= dict.fromkeys(box for found in current for box in found.boxes)
        elif accepted:
            old = accepted[0]
            problems["stale"].append(
                f"image {facts.image}: accepted on another picture ({old.image_size[0]} x {old.image_size[1]} px, "
                f"sha256 {old.image_sha256[:8]}; here {facts.size[0]} x {facts.size[1]} px, {facts.sha256[:8]}); "
                f"draw the boxes anew"
            )
        elif lines:
            names = ", ".join(found.annotator for found in lines)
            problems["proposed only"].append(f"image {facts.image}: proposed by {names}, accepted by nobody")
        else:
            problems["lacking"].append(f"image {facts.image}: not annotated")
    reason = "; ".join(text for texts in problems.values() for text in texts) or ("" if images else "no image")
    if reason:
        status = next((status for status, texts in problems.items() if texts), "lacking")
        return Verdict(status, (), reason)
    return Verdict("annotated", tuple(boxes), "")


def attach_boxes(
    items: Iterable[Item], annotations: Iterable[Annotation], annotator: str | None = None
) -> tuple[list[Item], list[tuple[str, str]]]:
    """Return the items whose every image is annotated, with their boxes, and (item id, reason) of the others.

    Only accepted boxes on the same picture count; of several annotators the union does, or the one who is named. An
    item that is annotated as having no evidence comes back with `boxes == ()`.

    Raises
    ------
    AnnotationError
        If an item brings boxes of its own: its gold steps may count on them.
    """
    groups = group_by_image(annotations, annotator)
    attached: list[Item] = []
    lacking: list[tuple[str, str]] = []
    for item in items:
        if item.boxes:
            raise AnnotationError(f"item {item.id!r}: has {len(item.boxes)} boxes of its own; attach none to it")
        try:
            verdict = judge_item([describe_image(item, image) for image in range(len(item.images))], groups)
        except ItemError as error:
            verdict = Verdict("lacking", (), str(error))
        if verdict.reason:
            lacking.append((item.id, verdict.reason))
        else:
            attached.append(replace(item, boxes=verdict.boxes))
    return attached, lacking


def judge_items(images: Mapping[Key, ImageFacts], annotations: Iterable[Annotation]) -> dict[str, Verdict]:
    """Return what the annotations say of every item, by item id; `images` are the facts of every image of each."""
    groups, by_item = group_by_image(annotations), dict[str, list[ImageFacts]]()
    for _, facts in sorted(images.items()):
        by_item.setdefault(facts.item_id, []).append(facts)
    return {item_id: judge_item(facts, groups) for item_id, facts in by_item.items()}


def summarize_coverage(images: Mapping[Key, ImageFacts], verdicts: Mapping[str, Verdict]) -> str:
    """Return a text for people: how many items of each benchmark have boxes, and the names of those that lack them."""
    lines = []
    names = {benchmark: dict[str, Verdict]() for benchmark in sorted({facts.benchmark for facts in images.values()})}
    for (item_id, _), facts in sorted(images.items()):
        names[facts.benchmark][item_id] = verdicts[item_id]
    for benchmark, items in names.items():
        boxes = [verdict.boxes for verdict in items.values() if verdict.status == "annotated"]
        empty = f"({boxes.count(())} of them as without evidence)"
        lines.append(f"{benchmark}: {len(boxes)} of {len(items)} items annotated {empty}")
        for status in ("proposed only", "stale", "lacking"):
            if found := [item_id for item_id, verdict in items.items() if verdict.status == status]:
                text = f"  {status} ({len(found)}): {', '.join(found)}"
                lines.append(textwrap.fill(text, 118, subsequent_indent="    ", break_on_hyphens=False))
    return "\n".join(lines) or "no items"
