"""Claims about image_facts: a box turns with its picture, and a file name means one picture or none."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_vlm import make_item, png

from dontblink.boxes.annotations import (
    ImageFacts,
    Key,
    describe_image,
    find_images,
    read_images,
    save_images,
    turn_corners,
)
from dontblink.questions.items import Item, ItemError, open_image


def painted_item(orientation: int, name: str = "t") -> tuple[Item, tuple[int, int, int, int]]:
    """An item whose stored picture (30 x 20 px) has one white box, and that box."""
    pixels, box = np.zeros((20, 30, 3), dtype=np.uint8), (3, 5, 10, 9)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    return dataclasses.replace(make_item(name), images=(png(pixels, orientation),)), box


def list_images(items: list[Item]) -> dict[Key, ImageFacts]:
    """The facts of every image of every item."""
    return {(item.id, k): describe_image(item, k) for item in items for k in range(len(item.images))}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_box_holds_the_same_pixels_in_all_eight_orientations(orientation: int) -> None:
    item, box = painted_item(orientation)
    facts, upright = describe_image(item, 0), np.array(open_image(item.images[0]))
    assert facts.size == upright.shape[1::-1] and facts.stored_size == (30, 20) and facts.orientation == orientation
    x0, y0, x1, y1 = (int(value) for value in turn_corners(box, facts.stored_size, orientation))
    expected = np.zeros_like(upright)
    expected[y0:y1, x0:x1] = 255
    np.testing.assert_array_equal(upright, expected)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int) -> None:
    item, _ = painted_item(orientation)
    assert describe_image(item, 0).orientation == 1 and open_image(item.images[0]).size == (30, 20)


def test_saved_pictures_are_upright_without_a_tag_and_others_keep_their_bytes(tmp_path: Path) -> None:
    turned, plain = painted_item(6, "turned")[0], make_item("plain", (8, 4), (5, 5))
    saved = save_images([turned, plain], tmp_path)
    assert (tmp_path / "plain-1.png").read_bytes() == plain.images[1]
    with Image.open(tmp_path / "turned-0.png") as copy:
        assert copy.size == (20, 30) and copy.getexif().get(0x0112, 1) == 1
        np.testing.assert_array_equal(np.array(copy), np.array(open_image(turned.images[0])))
    assert saved["turned", 0].sha256 == hashlib.sha256(turned.images[0]).hexdigest()
    assert read_images(tmp_path) == saved == list_images([turned, plain])


def test_a_picture_format_that_browsers_do_not_show_is_saved_as_png(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 6)).save(buffer, "BMP")
    save_images([dataclasses.replace(make_item("b"), images=(buffer.getvalue(),))], tmp_path)
    with Image.open(tmp_path / "b-0.png") as copy:
        assert copy.format == "PNG" and copy.size == (4, 6)


def test_names_that_tools_make_of_a_copy_are_known(tmp_path: Path) -> None:
    images = list_images([make_item("a", (4, 4)), make_item("a-0", (4, 4))])
    for name in (
        "a-0.png",
        "x/y/a-0.jpg",
        "C:\\x\\a-0.png",
        "/data/local-files/?d=x/a-0.png",
        "/upload/1/0a1b2c3d-a-0.png",
    ):
        found, is_copy = find_images(name, images)
        assert ([facts.item_id for facts in found], is_copy) == (["a"], True), name
    assert find_images("a-0-0.png", images)[0] == [images["a-0", 0]]
    assert find_images("a-1.png", images) == ([], False)


def test_a_file_name_of_the_benchmark_means_every_image_that_has_it(tmp_path: Path) -> None:
    items = []
    for k, name in enumerate(("one/1.png", "two/1.png", "one/2.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(np.zeros((4, 4, 3), dtype=np.uint8)))
        items.append(dataclasses.replace(make_item(f"i{k}"), images=(tmp_path / name,)))
    images = list_images(items)
    assert find_images("2.png", images) == ([images["i2", 0]], False)
    assert find_images("1.png", images) == ([images["i0", 0], images["i1", 0]], False)


def test_unreadable_pictures_lists_and_ids_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ItemError, match="image 0: .*not a readable image"):
        describe_image(dataclasses.replace(make_item("u"), images=(b"no",)), 0)
    with pytest.raises(ItemError, match="rename it in the loader"):
        describe_image(make_item("../up", (4, 4)), 0)
    with pytest.raises(ItemError, match="write the folder with"):
        read_images(tmp_path)
    (tmp_path / "images.jsonl").write_text('{"item_id": "a"}\n')
    with pytest.raises(ItemError, match="images.jsonl, line 1: not the facts"):
        read_images(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": ["a"]}, r"size is \('a',\)"),
        ({"size": [4, 0]}, r"size is \(4, 0\)"),
        ({"item_id": 5}, "item_id is 5"),
        ({"image": "0"}, "image is '0'"),
        ({"orientation": 9}, "orientation is 9"),
        ({"original": None}, "original is None"),
    ],
)
def test_a_list_of_pictures_with_a_wrong_field_is_one_line_that_names_it(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    save_images([make_item("a", (4, 4))], tmp_path)
    list_file = tmp_path / "images.jsonl"
    list_file.write_text(json.dumps(json.loads(list_file.read_text()) | change) + "\n")
    with pytest.raises(ItemError, match=f"images.jsonl, line 1: not the facts of an image .{message}"):
        read_images(tmp_path)
