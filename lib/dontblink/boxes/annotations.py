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

import codecs
import fcntl
import hashlib
import json
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain, groupby
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args
from urllib.parse import unquote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass as checked_dataclass

from dontblink import paths
from dontblink.errors import NamedError, make_line
from dontblink.files import whole_file
from dontblink.questions.items import (
    ID,
    MOST_PIXELS,
    Box,
    Item,
    ItemError,
    decode_image,
    has_one_look,
    open_image,
    read_bytes,
)

Status = Literal["accepted", "proposed"]
Coverage = Literal["annotated", "proposed only", "stale", "lacking"]  # what annotations say of an item
Key = tuple[str, int]  # item id, image counted from 0
Corners = tuple[float, float, float, float]  # x0, y0, x1, y1
Checked = TypeVar("Checked")
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


def refuse_unprintable(text: str) -> str:
    """Return one line of text."""
    if UNPRINTABLE.search(text):
        raise ValueError("expected one line of text")
    return text


STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
Text = Annotated[str, AfterValidator(refuse_unprintable)]
Name = Annotated[Text, Field(pattern=r"\S")]
Count = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=1)]


class Annotation(BaseModel):
    """What one annotator says of one image: a line of a file, its fields in this order (`corners` is written `boxes`).

    Boxes are [x0, y0, x1, y1] in px of the turned image, each with its reason; none says "no evidence in this image".
    `source`: 'drawn', 'imported from ...' or 'proposed by <model>', the last with ', corrected' behind it where a
    person moved the boxes before accepting them. An annotation that cannot be used cannot be made.
    """

    model_config = ConfigDict(frozen=True, **STRICT)

    item_id: Name
    image: Count
    image_size: tuple[Side, Side]
    image_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    corners: tuple[Corners, ...] = Field(alias="boxes")
    reasons: tuple[Text, ...]
    annotator: Name
    status: Status
    source: Annotated[Text, Field(pattern=r"^(drawn|(imported from|proposed by) .*\S.*)$")]

    @model_validator(mode="after")
    def check_boxes(self) -> Annotation:
        """Return the annotation; raise ValueError unless each box has a reason and an area inside the picture."""
        width, height = self.image_size
        if width * height > MOST_PIXELS:
            raise ValueError(f"image_size: found {width} x {height}, expected at most {MOST_PIXELS} px in all")
        if len(self.corners) != len(self.reasons):
            raise ValueError(f"found {len(self.corners)} boxes, {len(self.reasons)} reasons; expected one reason each")
        for number, (x0, y0, x1, y1) in enumerate(self.corners):
            found = f"box {number} {[x0, y0, x1, y1]}"
            if not (x0 < x1 and y0 < y1):
                raise ValueError(f"{found} has no area; expected x0 < x1 and y0 < y1")
            if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
                raise ValueError(f"{found} leaves its picture; expected a box inside {width} x {height} px")
        return self

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The boxes as an item holds them, each with its reason as label."""
        return tuple(Box(self.image, *row, reason) for row, reason in zip(self.corners, self.reasons, strict=True))

    def key(self) -> tuple[str, int, str]:
        """What a file holds once: the item, the image and the annotator."""
        return self.item_id, self.image, self.annotator

    def is_models_own(self) -> bool:
        """Say whether a model speaks for itself here; a person's draft that came of a proposal is that person's."""
        return self.status == "proposed" and self.source == f"proposed by {self.annotator}"


FIELDS = [field.alias or name for name, field in Annotation.model_fields.items()]
REMEDY = f"correct or remove it; a line has the fields {', '.join(FIELDS)}"


def validate(check: Callable[[Any], Checked], given: Any, where: str, remedy: str) -> Checked:
    """Return what a model makes of a value; its first complaint becomes an AnnotationError that names the place."""
    try:
        return check(given)
    except ValidationError as error:
        # an unknown field first: it is the reason why a known one is missing
        first = min(error.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    name, kind = ".".join(map(str, first["loc"])), first["type"]
    text = first["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if name and kind not in ("extra_forbidden", "missing"):
        text = f"found {first['input']!r}, {text}"
    raise AnnotationError(f"{where}: {name}{': ' * bool(name)}{text}; {remedy}")


def format_line(found: Annotation) -> str:
    """Return the line of one annotation."""
    return json.dumps(found.model_dump(by_alias=True), ensure_ascii=False) + "\n"


def corners(box: Box) -> Corners:
    """Return where a box lies, without its reason."""
    return box.x0, box.y0, box.x1, box.y1


@checked_dataclass(frozen=True, config=STRICT)
class ImageFacts:
    """One image of an item. `size` is (width, height) in px after the EXIF turn, `sha256` of the encoded bytes.

    `file` is its name in a folder of `save_images`, `original` its own file name where it had one.
    """

    item_id: str
    image: Count
    size: tuple[Side, Side]
    sha256: str
    orientation: Annotated[int, Field(ge=1, le=8)]
    file: str
    original: str = ""
    benchmark: str = ""
    question: str = ""

    @property
    def stored_size(self) -> tuple[int, int]:
        """(width, height) in px as stored, before the EXIF turn."""
        return self.size[::-1] if self.orientation >= 5 else self.size

    def annotate(self, boxes: Sequence[Box], annotator: str, status: Status, source: str) -> Annotation:
        """Return what an annotator says of this image; raise AnnotationError, naming it, if it cannot be used."""
        fields = {"item_id": self.item_id, "image": self.image, "image_size": self.size, "image_sha256": self.sha256,
                  "boxes": tuple(map(corners, boxes)), "reasons": tuple(box.label for box in boxes),
                  "annotator": annotator, "status": status, "source": source}  # fmt: skip
        return validate(Annotation.model_validate, fields, f"item {self.item_id!r}, image {self.image}", REMEDY)


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
            turn, size = opened.getexif().get(ORIENTATION, 1), opened.size
            kind = opened.format or "" if has_one_look(opened) else ""
    except ItemError as error:
        raise ItemError(f"item {item.id}: image {image}: {error}") from error
    turn = turn if turn in range(1, 9) else 1
    return ImageFacts(
        item.id, image, size[::-1] if turn >= 5 else size, hashlib.sha256(encoded).hexdigest(), turn,
        f"{item.id}-{image}{SHOWN_AS_STORED.get(kind, '.png') if turn == 1 else '.png'}",
        source.name if isinstance(source, Path) else "", item.benchmark, item.question,
    )  # fmt: skip


def save_images(items: Iterable[Item], folder: Path) -> dict[Key, ImageFacts]:
    """Write every picture upright, as `<item id>-<image>.<png|jpg|...>`, and `images.jsonl` beside them.

    A PNG, JPEG, WebP or GIF that no EXIF tag turns, on which nothing is clear and nothing moves keeps its bytes. Others
    become what `open_image` shows to a model, as a PNG: every browser shows it, on any ground, whether or not it knows
    EXIF.
    """
    facts: dict[Key, ImageFacts] = {}
    for item in items:
        for image, source in enumerate(item.images):
            found = facts[item.id, image] = describe_image(item, image)
            with decode_image(source) as opened:
                is_kept = found.orientation == 1 and opened.format in SHOWN_AS_STORED and has_one_look(opened)
            with whole_file(folder / found.file) as temporary:
                if is_kept:
                    temporary.write_bytes(read_bytes(source))
                else:
                    open_image(source).save(temporary, "PNG")
    lines = [json.dumps(asdict(facts[key]), ensure_ascii=False) + "\n" for key in sorted(facts)]
    with whole_file(folder / LIST_FILE) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    return facts


def read_images(folder: Path) -> dict[Key, ImageFacts]:
    """Return the facts that `save_images` wrote; raise AnnotationError if there is no list, or it holds others."""
    file, read = folder / LIST_FILE, TypeAdapter(ImageFacts).validate_json
    remedy = "write the folder with `python -m dontblink.boxes pictures`"
    try:
        lines = decode_text(file.read_bytes()).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{file}: cannot be read ({error}); {remedy}") from error
    rows = [validate(read, line, f"{file}, line {number}", remedy) for number, line in enumerate(lines, 1) if line]
    return {(facts.item_id, facts.image): facts for facts in rows}


def decode_text(content: bytes) -> str:
    """Return the text of a file that is UTF-8, or whatever its byte order mark says: Windows' editors write one."""
    marks = [(codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")]
    marks += [(codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")]  # behind the longer ones
    return content.decode(next((encoding for mark, encoding in marks if content.startswith(mark)), "utf-8"))


def find_images(name: str, images: Mapping[Key, ImageFacts]) -> tuple[list[ImageFacts], bool]:
    """Return the images that a tool's file name may mean and whether that file is the upright copy of `save_images`.

    Tools add folders and prefixes: a copy is known by the whole last part of the path without its suffix, also
    behind the `<8 letters>-` that Label Studio puts before uploads. A file name of the benchmark's own may belong to
    the images of several items.
    """
    path = name.split("?d=")[-1].split("?")[0]  # Label Studio serves local files as /data/local-files/?d=<path>
    path = unquote(path) if "?d=" in name or "://" in name else path
    last = re.split(r"[/\\]", path)[-1]
    copies = {facts.file.rsplit(".", 1)[0]: facts for facts in images.values()}
    for stem in (last.rsplit(".", 1)[0], re.sub(r"^[0-9a-f]{8}-", "", last.rsplit(".", 1)[0])):
        if stem in copies:
            return [copies[stem]], True
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
        lines = decode_text(path.read_bytes()).split("\n") if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{paths.show(path)}: cannot be read as UTF-8 text ({error}); restore it") from error
    found: dict[tuple[str, int, str], list[tuple[str, Annotation]]] = {}
    rejected: list[Rejected] = []
    for number, line in enumerate(lines, 1):
        where = f"{paths.show(path)}, line {number}"
        if line.strip():
            try:
                annotation = validate(Annotation.model_validate_json, line, where, REMEDY)
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


def write_annotations(
    path: Path, annotations: Iterable[Annotation], *, may_withdraw: bool = False
) -> dict[Annotation, Rejected]:
    """Put annotations into a file, in which only lines with the same key are replaced; return those that were not put.

    The file appears whole, sorted by item, image and annotator; the same annotations are the same bytes. A proposal
    that would replace accepted boxes is left out, unless their annotator `may_withdraw` them.

    Raises
    ------
    AnnotationError
        If a line that is there cannot be used; nothing is written then.
    """
    refused: dict[Annotation, Rejected] = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # two annotators who save at once both keep their lines
        lines = {found.key(): found for found in read_strictly(path)}
        for new in annotations:
            before, where = lines.get(new.key()), f"item {new.item_id!r}, image {new.image}"
            if before and (before.status, new.status) == ("accepted", "proposed") and not may_withdraw:
                reason = (
                    f"{where}: a proposal, {new.source!r}, would replace boxes that {new.annotator!r} has accepted, "
                    f"which stay; correct it in the tool and import anew, or name the proposing model"
                )
                refused[new] = Rejected(where, reason)
            else:
                lines[new.key()] = new
        with whole_file(path) as temporary:
            temporary.write_text("".join(format_line(lines[key]) for key in sorted(lines)), encoding="utf-8")
    finally:
        os.close(folder)
    return refused


class Verdict(NamedTuple):
    """What the annotations say of one item; `reason` is empty where every image has an accepted line."""

    status: Coverage
    boxes: tuple[Box, ...]
    reason: str


def group_by_image(annotations: Iterable[Annotation]) -> dict[Key, list[Annotation]]:
    """Return the annotations of each image in the order of their annotators."""
    ordered = sorted(annotations, key=Annotation.key)
    return {key: list(lines) for key, lines in groupby(ordered, key=lambda found: found.key()[:2])}


def is_on(found: Annotation, facts: ImageFacts) -> bool:
    """Say whether an annotation was made on this very picture."""
    return found.image_sha256 == facts.sha256 and found.image_size == facts.size


def judge_item(images: Sequence[ImageFacts], groups: dict[Key, list[Annotation]]) -> Verdict:
    """Return an item's boxes (the union over annotators), or why it has none: every image needs an accepted line."""
    boxes: dict[Box, None] = {}
    problems: dict[Coverage, list[str]] = {"stale": [], "lacking": [] if images else ["no image"], "proposed only": []}
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
    for status, texts in problems.items():
        if texts:
            return Verdict(status, (), "; ".join(chain(*problems.values())))
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
    groups = group_by_image(found for found in annotations if annotator in (None, found.annotator))
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
    groups, items = group_by_image(annotations), groupby(sorted(images), key=lambda key: key[0])
    return {item_id: judge_item([images[key] for key in keys], groups) for item_id, keys in items}


def summarize_coverage(benchmark: str, verdicts: Mapping[str, Verdict]) -> str:
    """Return a text for people: how many items of a benchmark have boxes, and the names of those that lack them."""
    names = {status: [name for name, one in verdicts.items() if one.status == status] for status in get_args(Coverage)}
    annotated = names.pop("annotated")
    empty = f"({sum(not verdicts[name].boxes for name in annotated)} of them as without evidence)"
    lines = [f"{benchmark}: {len(annotated)} of {len(verdicts)} items annotated {empty}"]
    for status, found in names.items():
        text = f"  {status} ({len(found)}): {', '.join(found)}"
        lines += [textwrap.fill(text, 118, subsequent_indent="    ", break_on_hyphens=False)] * bool(found)
    return "\n".join(lines)
