"""The Item: one question about one or more images, with everything that a later stage may need.

In: nothing. Out: frozen records that every benchmark yields and every later stage reads. An item knows its
evidence boxes and (in the testbed) the gold reasoning steps; it never knows a model, a response or a score.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from dontblink.errors import NamedError

Split = Literal["test", "calibration"]
TaskType = Literal["sustained_visual_reference", "symbolic", "other"]
SPLITS: tuple[Split, ...] = get_args(Split)
TASK_TYPES: tuple[TaskType, ...] = get_args(TaskType)
STEP_KINDS = ("read", "recall", "compute", "scan", "judge")
ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")  # an item's id becomes a part of file names
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")  # of pictures that are opened; MPO counts as JPEG
MOST_PIXELS = 64_000_000  # of one picture: about a gigabyte while it is prepared for a model
OF_THE_PICTURE = (errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
WHITE = (255, 255, 255)  # the ground of clear pixels: a diagram in black ink would vanish on black
IMAGE_TAG = re.compile(r"<image\s+(\d+)>")


class ItemError(NamedError, ValueError):
    """An item that cannot be used; the message names the item, what was found and what to do."""


@dataclass(frozen=True)
class Box:
    """An evidence box in pixels of image number `image`: left-top inclusive, right-bottom exclusive."""

    image: int
    x0: float
    y0: float
    x1: float
    y1: float
    label: str = ""


@dataclass(frozen=True)
class GoldStep:
    """One step of the reference reasoning: its text, what it does, and which evidence boxes it needs."""

    text: str
    kind: str
    boxes: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Drawing:
    """A picture that a generator draws, (width, height) px, when somebody looks at it, and that is kept from then on.

    `draw` returns uint8 [height, width, 3] and draws the same whenever it is called.
    """

    draw: Callable[[], NDArray[np.uint8]]
    size: tuple[int, int]

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """The picture."""
        return self.draw()

    def __eq__(self, other: object) -> bool:
        """Return whether both show the same."""
        return isinstance(other, Drawing) and np.array_equal(self.pixels, other.pixels)

    __hash__ = None  # type: ignore[assignment]


Picture = bytes | Path | Drawing


@dataclass(frozen=True)
class Item:
    """One question. `images` holds encoded image bytes, files or drawings, looked at only when they are needed.

    `<image 2>` in the question is where the second image stands; see `split_question`.
    """

    id: str
    benchmark: str
    split: Split
    images: tuple[Picture, ...]
    question: str
    answer: str
    task_type: TaskType
    choices: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    covariates: dict[str, float | str] = field(default_factory=dict)
    gold_steps: tuple[GoldStep, ...] = ()
    source: str = ""
    licence: str = ""

    @cached_property
    def content_hash(self) -> str:
        """Return 64 hex digits that change when anything in the item, image bytes included, changes."""
        return hash_fields({f.name: getattr(self, f.name) for f in fields(self)} | {"images": self._image_hashes})

    @cached_property
    def prompt_hash(self) -> str:
        """Return 64 hex digits that change with what a model is shown; annotating evidence changes none of them."""
        return hash_fields({"id": self.id, "question": self.question, "images": self._image_hashes})

    @cached_property
    def boxes_hash(self) -> str:
        """Return 64 hex digits that change with the evidence boxes, and with nothing else."""
        return hash_fields({"boxes": self.boxes})

    @cached_property
    def _image_hashes(self) -> list[str]:
        contents = (
            repr(s.size).encode() + s.pixels.tobytes() if isinstance(s, Drawing) else read_bytes(s) for s in self.images
        )
        return [hashlib.sha256(content).hexdigest() for content in contents]


@dataclass(frozen=True, eq=False)
class Recall:
    """A word that a response says twice, where it reads a thing and restates it, and a picture that says another.

    `read` and `recall` are the half-open token ranges of the two statements in the response, `read_token` and
    `recall_token` the places of the word in it; `other` is another earlier statement of equal length, None where there
    is none. `item` shows `altered_word` in place of `own_word`, in `box`, and is else the same; `other_box` is a place
    of the same size that the question does not need.
    """

    kind: str  # what is altered: digit, colour, shape, arrow
    own_word: str
    altered_word: str
    item: Item
    box: Box
    other_box: Box
    read: tuple[int, int]
    read_token: int
    recall: tuple[int, int]
    recall_token: int
    other: tuple[int, int] | None


class Score(NamedTuple):
    """What a benchmark's scorer says of a response: no parse counts as wrong and is flagged."""

    correct: bool
    parsed: bool
    prediction: str


def hash_fields(fields: dict[str, Any]) -> str:
    """Return 64 hex digits of some fields, whatever their order."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=vars).encode()).hexdigest()


def split_question(item: Item) -> list[int | str]:
    """Return the prompt's parts in order: texts, and images as their place in `item.images`.

    An image stands where its tag `<image 2>` does (as often as it does); images without a tag come first. A tag of an
    image that the item does not have is an ItemError.
    """
    pieces = IMAGE_TAG.split(item.question)  # text, number, text, number, ..., text
    named = [int(number[:9]) - 1 for number in pieces[1::2]]
    if absent := [place + 1 for place in named if not 0 <= place < len(item.images)]:
        found = f"<image {absent[0]}> in the question, {len(item.images)} images"
        raise ItemError(f"item {item.id}: {found}; add the image or remove the tag")
    parts: list[int | str] = [place for place in range(len(item.images)) if place not in named]
    for number, text in enumerate(pieces[::2]):
        parts += [named[number - 1]] if number else []
        parts += [text] if text.strip() else []
    return parts


def read_bytes(source: Picture) -> bytes:
    """Return the encoded image, of a drawing a PNG.

    A file that is not there or may not be read is an ItemError: the picture's own fault, which another try would not
    mend. Where the machine fails (files open, memory, a disk) a NamedError ends the run, which must not drop the item.
    """
    if isinstance(source, bytes):
        return source
    if isinstance(source, Drawing):
        Image.fromarray(source.pixels).save(buffer := io.BytesIO(), "PNG")
        return buffer.getvalue()
    try:
        return source.read_bytes()
    except (OSError, ValueError, MemoryError) as error:  # ValueError: a name that no file system can hold
        fault = f"cannot read the image ({getattr(error, 'strerror', error)}); restore or remove it"
        raise blame(str(source), error, fault) from error


def blame(name: str, error: Exception, fault: str) -> NamedError:
    """Return an ItemError of this fault, or the error that ends a run if another try may go well.

    It may if memory ran out, or the system failed as no picture makes it fail. A decoder's own OSError has no number,
    and says in words that memory ran out.
    """
    number = getattr(error, "errno", None)
    of_the_system = number not in (None, *OF_THE_PICTURE) or str(error).startswith("out of memory")
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and of_the_system):
        reason = os.strerror(number) if number else "memory ran out"
        return NamedError(
            f"{name}: cannot read the image now ({reason}); that is the machine's fault, not the picture's: mend it "
            f"and run again, what is finished stays"
        )
    return ItemError(f"{name}: {fault}")


@contextmanager
def decode_image(source: Picture) -> Iterator[Image.Image]:
    """Yield an image of which the header is read; whatever its decoder raises inside becomes an ItemError.

    What the machine is to blame for becomes a NamedError, as in `read_bytes`. Formats that run a program of their
    own (EPS starts Ghostscript) are not opened, nor are pictures of more than `MOST_PIXELS`: a file of a kilobyte can
    claim gigabytes.
    """
    name = str(source) if isinstance(source, Path) else "embedded image"
    try:
        with Image.open(io.BytesIO(read_bytes(source)), formats=FORMATS) as image:
            if (n_pixels := image.width * image.height) > MOST_PIXELS:
                size = f"{image.width}x{image.height}"
                raise ItemError(f"{name}: {size} px are {n_pixels}, expected at most {MOST_PIXELS}; scale it down")
            yield image
    except NamedError:
        raise
    except Exception as error:  # decoders share no error class: struct.error, zlib.error, DecompressionBombError, ...
        unknown = isinstance(error, UnidentifiedImageError)  # its own text holds an address in memory
        reason = f"none of {', '.join(FORMATS)}" if unknown else str(error) or type(error).__name__
        raise blame(name, error, f"not a readable image ({reason}); replace the file") from error


def open_image(source: Picture) -> Image.Image:
    """Decode an image to RGB as a viewer shows it: turned as its EXIF orientation says, on white where it is clear.

    Boxes refer to this picture, and everybody is shown this one: models, annotators, readers of the pages. Of 16 bits a
    channel the upper eight are kept, of an animation the first frame. Errors are those of `decode_image`; an image of
    which the values have no range that is known is an ItemError, too.
    """
    if isinstance(source, Drawing):
        return Image.fromarray(source.pixels)
    with decode_image(source) as image:
        if image.mode in ("I", "F"):
            name = source if isinstance(source, Path) else "embedded image"
            raise ItemError(f"{name}: pixels of mode {image.mode}; expected 8 or 16 bits a channel; save it anew")
        if image.format == "WEBP" and image.mode == "RGB" and getattr(image, "is_animated", False):
            whole = bytearray(read_bytes(source))  # opaque frames may leave parts of the canvas clear: bit 4 says so
            whole[20] |= 0x10
            return open_image(bytes(whole))
        file: Any = image  # of the class of its format, which has `fp` and `tile`
        depth = file.fp.getbuffer()[24] if image.format == "PNG" else 8  # bits a channel, as the PNG's header says
        frame = file.tile[0][1] if image.format == "GIF" and file.tile else None
        flat = lay_on_white(ImageOps.exif_transpose(image), depth)
        if frame and frame != (0, 0, *image.size):  # a decoder's fill, no pixels of the file, surrounds a smaller frame
            flat, part = Image.new("RGB", image.size, WHITE), flat.crop(frame)
            flat.paste(part, frame[:2])
        return flat


def lay_on_white(image: Image.Image, depth: int) -> Image.Image:
    """Return an image as RGB, its alpha channel, clear palette entries or clear colour composed on white.

    A clear colour (`tRNS` of a PNG) is written in the file's own `depth`, in bits a channel, which decoding scales to
    eight; Pillow compares the two as they are, so they are compared here: of three channels of 16 bits the upper eight.
    """
    key = image.info.get("transparency")
    if image.mode.startswith("I;16"):
        deep = np.asarray(image)
        image, is_clear = Image.fromarray((deep >> 8).astype(np.uint8)), None if key is None else deep == key
    elif image.mode in ("1", "L", "RGB") and key is not None:
        image = image.convert("L") if image.mode == "1" else image
        scaled = np.asarray(key) >> 8 if depth == 16 else np.asarray(key) * 255 // (2**depth - 1)
        pixels = np.asarray(image)
        is_clear = (pixels.reshape(*pixels.shape[:2], -1) == scaled).all(axis=-1)
    elif not image.has_transparency_data:
        return image.convert("RGB")
    else:
        is_clear = None
        image = image.convert("LA") if image.mode == "La" else image
        image = image.convert("RGBA")
    if is_clear is not None:
        image = image.convert("RGB")
        image.putalpha(Image.fromarray(np.where(is_clear, 0, 255).astype(np.uint8)))
    if image.mode != "RGBA":
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, (*WHITE, 255)), image).convert("RGB")


def has_one_look(image: Image.Image) -> bool:
    """Say whether every viewer shows an upright picture alike: nothing is clear, nothing moves."""
    return not image.has_transparency_data and not getattr(image, "is_animated", False)


def validate(item: Item) -> None:
    """Raise ItemError, naming item and remedy, unless every field can be used; a NamedError is as in `read_bytes`.

    A drawing is not drawn for that.
    """
    if not ID.fullmatch(item.id):
        expected = "expected an id of at most 200 letters, digits and _.-"
        raise ItemError(f"item {item.id!r}: {expected}; rename it in the loader")
    for part, text in (("question", item.question), ("answer", item.answer)):
        if not text.strip():
            raise ItemError(f"item {item.id}: empty {part}; fill it or remove the item")
    if item.task_type not in TASK_TYPES:
        raise ItemError(f"item {item.id}: task type {item.task_type!r}; expected one of {', '.join(TASK_TYPES)}")
    if not item.images:
        raise ItemError(f"item {item.id}: no image; this package measures attention to images")
    split_question(item)
    try:
        sizes = [s.size if isinstance(s, Drawing) else open_image(s).size for s in item.images]
    except NamedError as error:
        raise type(error)(f"item {item.id}: {error}") from error
    for row, box in enumerate(item.boxes):
        check_box(item.id, row, box, sizes)
    for step in item.gold_steps:
        if step.kind not in STEP_KINDS:
            raise ItemError(f"item {item.id}: gold step kind {step.kind!r}; expected one of {STEP_KINDS}")


def check_box(item_id: str, row: int, box: Box, sizes: list[tuple[int, int]]) -> None:
    """Raise ItemError unless the box has a positive area inside its image of size (width, height) px."""
    where = f"item {item_id}: box {row}"
    if not 0 <= box.image < len(sizes):
        raise ItemError(f"{where} names image {box.image} of {len(sizes)}; images count from 0")
    width, height = sizes[box.image]
    corners = (box.x0, box.y0, box.x1, box.y1)
    if not (box.x0 < box.x1 and box.y0 < box.y1):
        raise ItemError(f"{where} {corners} has no area; expected x0 < x1 and y0 < y1 in px")
    if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height:
        raise ItemError(f"{where} {corners} lies outside its {width}x{height} px image; correct the box")
