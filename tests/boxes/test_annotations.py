"""Claims about annotations: a line is read as it was written or refused, a box turns with its picture, nothing is lost
on writing and nothing guessed on attaching."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_items import NAMES, TEXTS, annotate, list_images, make_item, painted_item, png

from dontblink.boxes.annotations import (
    FIELDS,
    REMEDY,
    Annotation,
    AnnotationError,
    ImageFacts,
    attach_boxes,
    describe_image,
    find_images,
    format_line,
    judge_items,
    read_annotations,
    read_images,
    read_strictly,
    save_images,
    summarize_coverage,
    turn_corners,
    validate,
    write_annotations,
)
from dontblink.questions.items import Box, Item, ItemError, open_image

LINE: dict[str, Any] = {
    "item_id": "mathvista-7", "image": 0, "image_size": [40, 30], "image_sha256": "ab" * 32,
    "boxes": [[1.0, 2.0, 10.5, 20.0]], "reasons": ["the bar of 1998"], "annotator": "ana", "status": "accepted",
    "source": "drawn",
}  # fmt: skip


@st.composite
def annotations(draw: st.DrawFn, size: tuple[int, int] = (40, 30)) -> Annotation:
    """A valid annotation of an image of `size` px."""
    corner = lambda side: st.floats(0, side, allow_subnormal=False)  # noqa: E731
    boxes = []
    for _ in range(draw(st.integers(0, 3))):
        (x0, x1), (y0, y1) = (sorted(draw(st.lists(corner(s), min_size=2, max_size=2, unique=True))) for s in size)
        boxes.append(Box(0, x0, y0, x1, y1, draw(TEXTS)))
    status = draw(st.sampled_from(["accepted", "proposed"]))
    source = draw(st.sampled_from(["drawn", "imported from a.json", "proposed by M, corrected"]))
    return ImageFacts("a", 0, size, "cd" * 32, 1, "a-0.png").annotate(boxes, draw(NAMES), status, source)


def parse(line: str, where: str = "here") -> Annotation:
    return validate(Annotation.model_validate_json, line, where, REMEDY)


@given(annotations())
def test_a_line_is_read_as_it_was_written(annotation: Annotation) -> None:
    line = format_line(annotation)
    assert parse(line) == annotation and format_line(parse(line)) == line
    assert line.count("\n") == 1 and list(json.loads(line)) == FIELDS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": -1}, "image: found -1, expected greater than or equal to 0"), ({"image": True}, "image: found True"),
        ({"image_size": [40]}, "image_size.1: Field required"), ({"image_size": [0, 9]}, "image_size.0: found 0"),
        ({"image_size": [40.5, 30]}, "image_size.0: found 40.5, expected a valid integer"),
        ({"image_sha256": "AB" * 32}, "image_sha256: found 'ABAB.*pattern"),
        ({"status": "accept"}, "status: found 'accept', expected 'accepted' or 'proposed'"),
        ({"source": "found"}, "source: found 'found', .*drawn"), ({"source": "proposed by "}, "source: found .*drawn"),
        ({"source": "proposed by a\x7f"}, "source: found .* expected one line of text"),
        ({"annotator": " "}, "annotator: found ' ', "), ({"item_id": 7}, "item_id: found 7, expected a valid string"),
        ({"reasons": []}, "1 boxes, 0 reasons; expected one reason each"),
        ({"reasons": ["two\nlines"]}, "reasons.0: found 'two.*expected one line of text"),
        ({"boxes": [[1, 2, 3]]}, "boxes.0.3: Field required"), ({"boxes": [[1, 2, 1, 9]]}, "has no area"),
        ({"boxes": [[9, 2, 1, 9]]}, "expected x0 < x1"),
        ({"boxes": [[1, 2, 41, 9]]}, "leaves its picture; expected a box inside 40 x 30 px"),
        ({"boxes": [[-0.5, 2, 4, 9]]}, "leaves its picture"),
        ({"boxes": [[1, 2, float("nan"), 9]]}, "boxes.0.2: found nan, expected a finite number"),
        ({"boxes": [[1, 2, "3", 9]]}, "boxes.0.2: found '3', expected a valid number"),
        ({"boxes": [[1, 2, 10**400, 9]]}, "boxes.0.2: .*expected a finite number"),
        ({"image_size": [10**400, 30]}, "at most 64000000 px in all"),
        ({"extra": 1}, "extra: Extra inputs are not permitted; .* a line has the fields item_id, "),
    ],
)  # fmt: skip
def test_each_wrong_field_is_named_with_what_was_expected(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AnnotationError, match=f"file.jsonl, line 3: .*{message}") as caught:
        parse(json.dumps(LINE | change), "file.jsonl, line 3")
    assert "\n" not in str(caught.value) and "correct or remove it" in str(caught.value)


def test_what_is_no_line_and_what_code_made_wrongly_is_refused_and_no_boxes_is_a_valid_statement() -> None:
    for line in ("", "[1]", "{", '{"item_id": "a"}', "null"):
        with pytest.raises(AnnotationError, match="here: "):
            parse(line)
    assert parse(json.dumps(LINE | {"boxes": [], "reasons": []})).boxes == ()
    with pytest.raises(AnnotationError, match="item 'a', image 0: box 0 .* no area"):
        annotate(describe_image(ITEMS[0], 0), (1, 1, 1, 1))


ITEMS = [make_item("a", (40, 30)), make_item("b", (16, 16), (20, 10)), make_item("c", (8, 8))]
BOX = (1.0, 2.0, 6.0, 7.0)


def say(item: Item, image: int = 0, *boxes: tuple[float, ...], **changes: Any) -> Annotation:
    return annotate(describe_image(item, image), *boxes, **changes)


@given(st.lists(annotations(), max_size=6), st.randoms())
@settings(max_examples=30, deadline=None)
def test_the_same_annotations_are_the_same_bytes_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Annotation], random: Any
) -> None:
    rows = list({row.key(): row for row in rows}.values())
    folder = tmp_path_factory.mktemp("order")
    write_annotations(folder / "one.jsonl", rows)
    random.shuffle(rows)
    for row in rows:
        write_annotations(folder / "two.jsonl", [row])
    write_annotations(folder / "two.jsonl", [])
    assert (folder / "one.jsonl").read_bytes() == (folder / "two.jsonl").read_bytes()
    assert sorted(read_strictly(folder / "one.jsonl"), key=Annotation.key) == sorted(rows, key=Annotation.key)


def test_only_the_same_annotators_line_on_the_same_image_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    write_annotations(file, [say(ITEMS[0], 0, BOX), say(ITEMS[0], 0, annotator="bo"), say(ITEMS[1], 1)])
    write_annotations(file, [say(ITEMS[0], 0)])
    assert {found.key(): len(found.boxes) for found in read_strictly(file)} == {
        ("a", 0, "ana"): 0, ("a", 0, "bo"): 0, ("b", 1, "ana"): 0,
    }  # fmt: skip


def test_writers_at_the_same_time_lose_no_line(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    rows = [say(ITEMS[0], annotator=f"person {k}") for k in range(24)]
    threads = [threading.Thread(target=write_annotations, args=(file, [row])) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {found.annotator for found in read_strictly(file)} == {row.annotator for row in rows}
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_a_file_with_a_bad_line_is_read_around_it_and_never_written_over(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    write_annotations(file, [say(ITEMS[0], 0, BOX), say(ITEMS[2])])
    text = file.read_text().replace('"c"', '"c", "more": 1')
    file.write_text(text)
    found, rejected = read_annotations(file)
    assert [row.item_id for row in found] == ["a"] and len(rejected) == 1
    assert rejected[0].where.endswith("x.jsonl, line 2") and "more: Extra inputs" in rejected[0].reason
    for attempt in (lambda: read_strictly(file), lambda: write_annotations(file, [say(ITEMS[1])])):
        with pytest.raises(AnnotationError, match="x.jsonl, line 2"):
            attempt()
    assert file.read_text() == text


def test_two_lines_of_one_annotator_on_one_image_are_both_left_out(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    write_annotations(file, [say(ITEMS[0], 0, BOX), say(ITEMS[2])])
    file.write_text(file.read_text() + file.read_text().split("\n")[0] + "\n")
    found, rejected = read_annotations(file)
    assert [row.item_id for row in found] == ["c"]
    assert [row.where[-6:] for row in rejected] == ["line 1", "line 3"] and "keep one" in rejected[0].reason


def test_a_file_that_is_not_text_is_an_error_and_one_that_is_not_there_is_empty(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"\xff\x00")
    with pytest.raises(AnnotationError, match="cannot be read as UTF-8"):
        read_annotations(tmp_path / "x.jsonl")
    assert read_annotations(tmp_path / "none.jsonl") == ([], [])


def test_a_proposal_never_replaces_accepted_boxes_unless_their_annotator_withdraws_them(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    write_annotations(file, [say(ITEMS[0], 0, BOX)])
    proposal = say(ITEMS[0], 0, status="proposed", source="imported from x.json")
    refused = write_annotations(file, [proposal, say(ITEMS[2])])
    assert list(refused) == [proposal]
    assert "replace boxes that 'ana' has accepted, which stay" in refused[proposal].reason
    assert [row.status for row in read_strictly(file)] == ["accepted", "accepted"]
    write_annotations(file, [proposal], may_withdraw=True)
    assert read_strictly(file)[0] == proposal


def test_only_accepted_boxes_on_the_same_picture_are_attached() -> None:
    rows = [
        say(ITEMS[0], 0, BOX), say(ITEMS[1], 0, BOX),
        say(ITEMS[1], 1, status="proposed", annotator="M"), say(ITEMS[2], 0, BOX, image_sha256="0" * 64),
    ]  # fmt: skip
    attached, lacking = attach_boxes(ITEMS, rows)
    assert [(item.id, item.boxes) for item in attached] == [("a", (Box(0, *BOX, "why"),))]
    reasons = dict(lacking)
    assert reasons["b"] == "image 1: proposed by M, accepted by nobody"
    assert "image 0: accepted on another picture (8 x 8 px, sha256 00000000; here 8 x 8 px" in reasons["c"]
    _, lacking = attach_boxes(ITEMS[:1], [say(ITEMS[0], 0, BOX, image_size=(30, 40))])
    assert "another picture (30 x 40 px" in lacking[0][1]


def test_several_annotators_are_joined_unless_one_is_named() -> None:
    other = (3.0, 3.0, 9.0, 9.0)
    rows = [say(ITEMS[0], 0, BOX), say(ITEMS[0], 0, BOX, other, annotator="bo")]
    assert attach_boxes(ITEMS[:1], rows)[0][0].boxes == (Box(0, *BOX, "why"), Box(0, *other, "why"))
    assert len(attach_boxes(ITEMS[:1], rows, annotator="ana")[0][0].boxes) == 1
    assert attach_boxes(ITEMS[:1], rows, annotator="cy") == ([], [("a", "image 0: not annotated")])
    (nothing,), lacking = attach_boxes(ITEMS[:2], [say(ITEMS[0], 0)])  # "no evidence" is no missing annotation
    assert nothing.boxes == () and lacking == [("b", "image 0: not annotated; image 1: not annotated")]


def test_an_item_that_brings_boxes_is_an_error_and_one_that_cannot_be_read_lacks_them() -> None:
    with pytest.raises(AnnotationError, match="item 'a': has 1 boxes of its own"):
        attach_boxes([dataclasses.replace(ITEMS[0], boxes=(Box(0, *BOX),))], [])
    broken = dataclasses.replace(ITEMS[0], images=(b"no",))
    assert "not a readable image" in attach_boxes([broken], [])[1][0][1]


def test_the_report_names_every_item_without_boxes_and_why() -> None:
    rows = [
        say(ITEMS[0], 0), say(ITEMS[1], 0, BOX), say(ITEMS[1], 1, BOX, image_sha256="0" * 64),
        say(ITEMS[2], 0, BOX, status="proposed"),
    ]  # fmt: skip
    images = list_images([*ITEMS, make_item("d", (4, 4))])
    verdicts = judge_items(images, rows)
    statuses = {item_id: verdict.status for item_id, verdict in verdicts.items()}
    assert statuses == {"a": "annotated", "b": "stale", "c": "proposed only", "d": "lacking"}
    assert summarize_coverage("demo", verdicts).split("\n") == [
        "demo: 1 of 4 items annotated (1 of them as without evidence)",
        "  proposed only (1): c", "  stale (1): b", "  lacking (1): d",
    ]  # fmt: skip


@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 77])
def test_a_turned_box_holds_the_same_pixels_in_all_eight_orientations_and_others_turn_nothing(orientation: int) -> None:
    item, box = painted_item(orientation)
    facts, upright = describe_image(item, 0), np.array(open_image(item.images[0]))
    assert facts.size == upright.shape[1::-1] and facts.stored_size == (30, 20)
    assert facts.orientation == (orientation if orientation in range(1, 9) else 1)
    x0, y0, x1, y1 = (int(value) for value in turn_corners(box, facts.stored_size, facts.orientation))
    expected = np.zeros_like(upright)
    expected[y0:y1, x0:x1] = 255
    np.testing.assert_array_equal(upright, expected)


def test_saved_pictures_are_upright_without_a_tag_and_others_keep_their_bytes(tmp_path: Path) -> None:
    turned, plain, buffer = painted_item(6, "turned")[0], make_item("plain", (8, 4), (5, 5)), io.BytesIO()
    Image.new("RGB", (4, 6)).save(buffer, "BMP")  # no browser shows it
    foreign = dataclasses.replace(make_item("foreign"), images=(buffer.getvalue(),))
    saved = save_images([turned, plain, foreign], tmp_path)
    with Image.open(tmp_path / "foreign-0.png") as copy:
        assert copy.format == "PNG" and copy.size == (4, 6)
    assert (tmp_path / "plain-1.png").read_bytes() == plain.images[1]
    with Image.open(tmp_path / "turned-0.png") as copy:
        assert copy.size == (20, 30) and copy.getexif().get(0x0112, 1) == 1
        np.testing.assert_array_equal(np.array(copy), np.array(open_image(turned.images[0])))
    assert saved["turned", 0].sha256 == hashlib.sha256(turned.images[0]).hexdigest()
    assert read_images(tmp_path) == saved == list_images([turned, plain, foreign])


def test_names_that_tools_make_of_a_copy_are_known() -> None:
    images = list_images([make_item("a", (4, 4)), make_item("a-0", (4, 4))])
    names = ("a-0.png", "x/y/a-0.jpg", "C:\\x\\a-0.png", "/data/local-files/?d=x/a-0.png", "/upload/1/0a1b2c3d-a-0.png")
    for name in names:
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
    with pytest.raises(AnnotationError, match="write the folder with"):
        read_images(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": ["a"]}, "size.0: found 'a'"), ({"size": [4, 0]}, "size.1: found 0"),
        ({"more": 1}, "more: .*Unexpected"), ({"item_id": 5}, "item_id: found 5"), ({"image": "0"}, "image: found '0'"),
        ({"orientation": 9}, "orientation: found 9, expected less than or equal to 8"),
        ({"original": None}, "original: found None"),
    ],
)  # fmt: skip
def test_a_list_of_pictures_with_a_wrong_field_is_one_line_that_names_it(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    save_images([make_item("a", (4, 4))], tmp_path)
    list_file = tmp_path / "images.jsonl"
    list_file.write_text(json.dumps(json.loads(list_file.read_text()) | change) + "\n")
    with pytest.raises(AnnotationError, match=f"images.jsonl, line 1: {message}.*; write the folder with"):
        read_images(tmp_path)


def test_a_picture_that_viewers_show_differently_is_saved_as_a_model_sees_it(tmp_path: Path) -> None:
    clear, black = Image.new("RGBA", (9, 7), (0, 0, 0, 0)), Image.new("L", (9, 7))
    clear.paste((0, 0, 0, 255), (2, 2, 5, 5))
    items = []
    for name, kind, picture, more in (
        ("clear", "PNG", clear, {}), ("webp", "WEBP", clear, {"lossless": True}),
        ("moving", "GIF", black, {"save_all": True, "append_images": [Image.new("L", (9, 7), 255)]}),
        ("still", "GIF", black, {}),
    ):  # fmt: skip
        picture.save(buffer := io.BytesIO(), kind, **more)  # type: ignore[arg-type]
        items.append(dataclasses.replace(make_item(name), images=(buffer.getvalue(),)))
    saved = save_images(items, tmp_path)
    assert [facts.file for facts in saved.values()] == ["clear-0.png", "webp-0.png", "moving-0.png", "still-0.gif"]
    for item in items:
        with Image.open(tmp_path / saved[item.id, 0].file) as copy:
            assert not copy.has_transparency_data and getattr(copy, "n_frames", 1) == 1
            np.testing.assert_array_equal(np.array(copy.convert("RGB")), np.array(open_image(item.images[0])))
    assert (tmp_path / "still-0.gif").read_bytes() == items[3].images[0]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_and_windows_line_ends_change_no_line(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "x.jsonl").write_bytes((json.dumps(LINE) + "\r\n").encode(encoding))
    found, rejected = read_annotations(tmp_path / "x.jsonl")
    assert rejected == [] and found == [Annotation.model_validate_json(json.dumps(LINE))]
