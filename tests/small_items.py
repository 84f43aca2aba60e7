"""Small items with pictures made here, for the tests of every room."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from dontblink.boxes.annotations import Annotation, ImageFacts, Key, describe_image
from dontblink.questions.items import Box, Item

TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"))
NAMES = TEXTS.filter(str.strip)


def png(pixels: np.ndarray, orientation: int = 1) -> bytes:
    """Encode uint8 [height, width, 3]; the orientation goes into the EXIF block."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def noise(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_item(name: str, *sizes: tuple[int, int], question: str = "what digit is f5 ?", **fields: object) -> Item:
    """An item with one noise image per (width, height)."""
    rng = np.random.default_rng(sum(name.encode()))
    images = tuple(png(noise(rng, *size)) for size in sizes)
    return Item(name, "demo", "test", images, question, "3", "symbolic", **fields)  # type: ignore[arg-type]


def painted_item(orientation: int, name: str = "t") -> tuple[Item, tuple[int, int, int, int]]:
    """An item whose stored picture (30 x 20 px) has one white box, and that box."""
    pixels, box = np.zeros((20, 30, 3), dtype=np.uint8), (3, 5, 10, 9)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    return dataclasses.replace(make_item(name), images=(png(pixels, orientation),)), box


def list_images(items: list[Item]) -> dict[Key, ImageFacts]:
    """The facts of every image of every item."""
    return {(item.id, k): describe_image(item, k) for item in items for k in range(len(item.images))}


def annotate(facts: ImageFacts, *boxes: tuple[float, ...] | Box, **changes: Any) -> Annotation:
    """An accepted annotation of an image by ana."""
    placed = [box if isinstance(box, Box) else Box(facts.image, *box, label="why") for box in boxes]  # type: ignore[misc]
    found = facts.annotate(placed, "ana", "accepted", "drawn")
    return Annotation.model_validate(found.model_dump(by_alias=True) | changes)


def write_rows(folder: Path, n_rows: int, **last: Any) -> Path:
    """Write rows of MMMU_Pro's layout with pictures; `last` changes the last row."""
    rows = []
    for k in range(n_rows):
        pixels = np.full((20, 30, 3), k, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        rows.append({
            "id": f"test_Art_{k}", "question": "What is in <image 1>?", "options": "['a cat', 'a dog']", "answer": "B",
            "image_1": f"{k}.png", "subject": "Art" if k % 2 else "Music", "topic_difficulty": "Easy",
            "img_type": "['Photographs']", "explanation": "?",
        })  # fmt: skip
    rows[-1] |= last
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"
