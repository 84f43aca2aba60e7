"""Claims about annotations: nothing is lost on writing, nothing is guessed on attaching."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_annotation_schema import annotations
from test_vlm import make_item

from dontblink.boxes.annotations import (
    Annotation,
    AnnotationError,
    Rejected,
    attach_boxes,
    cover_images,
    describe_image,
    read_annotations,
    read_strictly,
    summarize_coverage,
    write_annotations,
)
from dontblink.questions.items import Box, Item

ITEMS = [make_item("a", (40, 30)), make_item("b", (16, 16), (20, 10)), make_item("c", (8, 8))]
BOX = (1.0, 2.0, 6.0, 7.0)


def annotate(item: Item, image: int = 0, *boxes: tuple[float, ...], **changes: Any) -> Annotation:
    """An accepted annotation of an item's image by ana."""
    size = {"a": [(40, 30)], "b": [(16, 16), (20, 10)], "c": [(8, 8)]}[item.id][image]
    sha256 = hashlib.sha256(item.images[image]).hexdigest()  # type: ignore[arg-type]
    placed = tuple(Box(image, *corners, "why") for corners in boxes)
    found = Annotation(item.id, image, size, sha256, placed, "ana", "accepted", "drawn")
    return dataclasses.replace(found, **changes)


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
    write_annotations(file, [annotate(ITEMS[0], 0, BOX), annotate(ITEMS[0], 0, annotator="bo"), annotate(ITEMS[1], 1)])
    assert write_annotations(file, [annotate(ITEMS[0], 0)]) == 3
    assert {found.key(): len(found.boxes) for found in read_strictly(file)} == {
        ("a", 0, "ana"): 0, ("a", 0, "bo"): 0, ("b", 1, "ana"): 0,
    }  # fmt: skip


def test_writers_at_the_same_time_lose_no_line(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    rows = [annotate(ITEMS[0], annotator=f"person {k}") for k in range(24)]
    threads = [threading.Thread(target=write_annotations, args=(file, [row])) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {found.annotator for found in read_strictly(file)} == {row.annotator for row in rows}
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_a_file_with_a_bad_line_is_read_around_it_and_never_written_over(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    write_annotations(file, [annotate(ITEMS[0], 0, BOX), annotate(ITEMS[2])])
    text = file.read_text().replace('"c"', '"c", "more": 1')
    file.write_text(text)
    found, rejected = read_annotations(file)
    assert [row.item_id for row in found] == ["a"] and len(rejected) == 1
    assert rejected[0].where.endswith("x.jsonl, line 2") and "expected exactly the fields" in rejected[0].reason
    for attempt in (lambda: read_strictly(file), lambda: write_annotations(file, [annotate(ITEMS[1])])):
        with pytest.raises(AnnotationError, match="x.jsonl, line 2"):
            attempt()
    assert file.read_text() == text


def test_two_lines_of_one_annotator_on_one_image_are_both_left_out(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    write_annotations(file, [annotate(ITEMS[0], 0, BOX), annotate(ITEMS[2])])
    line = file.read_text().split("\n")[0]
    file.write_text(file.read_text() + line + "\n")
    found, rejected = read_annotations(file)
    assert [row.item_id for row in found] == ["c"]
    assert [row.where[-6:] for row in rejected] == ["line 1", "line 3"] and "keep one" in rejected[0].reason


def test_a_file_that_is_not_text_is_an_error_and_one_that_is_not_there_is_empty(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(AnnotationError, match="cannot be read as UTF-8"):
        read_annotations(tmp_path / "x.jsonl")
    assert read_annotations(tmp_path / "none.jsonl") == ([], [])


def test_a_proposal_never_replaces_accepted_boxes_unless_their_annotator_withdraws_them(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    write_annotations(file, [annotate(ITEMS[0], 0, BOX)])
    proposal = annotate(ITEMS[0], 0, status="proposed", source="imported from x.json")
    with pytest.raises(AnnotationError, match="would replace boxes that 'ana' has accepted"):
        write_annotations(file, [proposal])
    assert read_strictly(file)[0].status == "accepted"
    refused: dict[Annotation, Rejected] = {}
    assert write_annotations(file, [proposal, annotate(ITEMS[2])], refused=refused) == 2
    assert list(refused) == [proposal] and "has accepted, which stay" in refused[proposal].reason
    assert [row.status for row in read_strictly(file)] == ["accepted", "accepted"]
    write_annotations(file, [proposal], may_withdraw=True)
    assert read_strictly(file)[0] == proposal


def test_only_accepted_boxes_on_the_same_picture_are_attached() -> None:
    rows = [
        annotate(ITEMS[0], 0, BOX),
        annotate(ITEMS[1], 0, BOX),
        annotate(ITEMS[1], 1, status="proposed", annotator="M"),
        annotate(ITEMS[2], 0, BOX, image_sha256="0" * 64),
    ]
    attached, lacking = attach_boxes(ITEMS, rows)
    assert [(item.id, item.boxes) for item in attached] == [("a", (Box(0, *BOX, "why"),))]
    reasons = dict(lacking)
    assert reasons["b"] == "image 1: proposed by M, accepted by nobody"
    assert "image 0: accepted on another picture (8 x 8 px, sha256 00000000; here 8 x 8 px" in reasons["c"]


def test_boxes_of_another_size_are_not_put_on_the_picture() -> None:
    _, lacking = attach_boxes(ITEMS[:1], [annotate(ITEMS[0], 0, BOX, image_size=(30, 40))])
    assert "another picture (30 x 40 px" in lacking[0][1]


def test_no_evidence_is_something_else_than_no_annotation() -> None:
    attached, lacking = attach_boxes(ITEMS[:2], [annotate(ITEMS[0], 0)])
    assert [(item.id, item.boxes) for item in attached] == [("a", ())]
    assert lacking == [("b", "image 0: not annotated; image 1: not annotated")]


def test_several_annotators_are_joined_unless_one_is_named() -> None:
    other = (3.0, 3.0, 9.0, 9.0)
    rows = [annotate(ITEMS[0], 0, BOX), annotate(ITEMS[0], 0, BOX, other, annotator="bo")]
    assert attach_boxes(ITEMS[:1], rows)[0][0].boxes == (Box(0, *BOX, "why"), Box(0, *other, "why"))
    assert len(attach_boxes(ITEMS[:1], rows, annotator="ana")[0][0].boxes) == 1
    assert attach_boxes(ITEMS[:1], rows, annotator="cy")[1] == [("a", "image 0: not annotated")]


def test_an_item_that_brings_boxes_is_an_error_and_one_that_cannot_be_read_lacks_them() -> None:
    with pytest.raises(AnnotationError, match="item 'a': has 1 boxes of its own"):
        attach_boxes([dataclasses.replace(ITEMS[0], boxes=(Box(0, *BOX),))], [])
    broken = dataclasses.replace(ITEMS[0], images=(b"no",))
    assert "not a readable image" in attach_boxes([broken], [])[1][0][1]


def test_the_report_names_every_item_without_boxes_and_why() -> None:
    rows = [
        annotate(ITEMS[0], 0),
        annotate(ITEMS[1], 0, BOX),
        annotate(ITEMS[1], 1, BOX, image_sha256="0" * 64),
        annotate(ITEMS[2], 0, BOX, status="proposed"),
    ]
    items = [*ITEMS, make_item("d", (4, 4))]
    images = {item.id: [describe_image(item, image) for image in range(len(item.images))] for item in items}
    report = cover_images(images, rows).set_index("item_id")
    assert report["status"].to_dict() == {"a": "annotated", "b": "stale", "c": "proposed only", "d": "lacking"}
    assert report["n_images"].to_list() == [1, 2, 1, 1] and set(report["benchmark"]) == {"demo"}
    text = summarize_coverage(report.reset_index())
    assert "demo: 1 of 4 items annotated (1 of them as without evidence)" in text
    for line in ("proposed only (1): c", "stale (1): b", "lacking (1): d"):
        assert line in text
