"""Which picture is which: the hash, size and turn of every image of an item, and a folder of them to draw on.

Why: a box is only as good as the certainty that it lies on this picture, turned this way. In: Items. Out: one
`ImageFacts` per image, and a folder with upright pictures and `images.jsonl` that any annotation tool can open. Boxes
refer to the picture as EXIF turns it. Never here: boxes, and never a guess which picture a file name means.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from dontblink import paths
from dontblink.items import ID, Item, ItemError, decode_image, open_image, read_bytes

Key = tuple[str, int]  # item id, image counted from 0
Corners = tuple[float, float, float, float]  # x0, y0, x1, y1
LIST_FILE = "images.jsonl"
ORIENTATION = 0x0112  # the EXIF tag that says how a viewer turns the stored picture
SHOWN_AS_STORED = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif"}


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
            with paths.whole_file(folder / found.file) as temporary:
                temporary.write_bytes(encoded)
    lines = [json.dumps(asdict(facts[key]), ensure_ascii=False) + "\n" for key in sorted(facts)]
    with paths.whole_file(folder / LIST_FILE) as temporary:
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
        raise ItemError(f"{file}: cannot be read ({error}); write the folder with image_facts.save_images") from error
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
