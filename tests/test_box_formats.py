"""Claims about COCO and Label Studio: their numbers become the px that the tool meant."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dontblink.boxes.annotations import Rejected
from dontblink.boxes.exchange import Shape, read_coco, read_label_studio, turn_rectangle


def region(name: str = "r1", **changes: Any) -> dict[str, Any]:
    """A rectangle as Label Studio exports it, on a picture of 200 x 100 px."""
    value = {"x": 10.0, "y": 20.0, "width": 30.0, "height": 40.0, "rotation": 0, "rectanglelabels": ["bar"]}
    value |= changes.pop("value", {})
    return {"id": name, "type": "rectanglelabels", "from_name": "evidence", "to_name": "image", "original_width": 200,
            "original_height": 100, "image_rotation": 0, "value": value} | changes  # fmt: skip


def task(*results: dict[str, Any], kind: str = "annotations", **fields: Any) -> dict[str, Any]:
    row = (
        {"result": list(results)} | ({"completed_by": 4} if kind == "annotations" else {"model_version": "M"}) | fields
    )
    return {"id": 9, "data": {"image": "/data/upload/1/a-0.png", "item_id": "a", "image_index": 0}, kind: [row]}


def read(*tasks: dict[str, Any]) -> list[Shape | Rejected]:
    return list(read_label_studio(list(tasks), "x.json"))


def test_percent_become_px_of_the_recorded_size() -> None:
    (shape,) = read(task(region()))
    assert isinstance(shape, Shape) and shape.corners == pytest.approx((20, 20, 80, 60))
    assert (shape.size, shape.reason, shape.annotator, shape.status) == ((200, 100), "bar", "4", "accepted")
    assert (shape.key, shape.where) == (("a", 0), "x.json, task 9, annotations[0], region r1")


def test_a_regions_own_text_is_its_reason() -> None:
    text = {"id": "r1", "type": "textarea", "from_name": "reason", "value": {"text": ["the axis", "its unit"]}}
    shapes = read(task(region(), text, region("r2")))
    assert [shape.reason for shape in shapes if isinstance(shape, Shape)] == ["the axis, its unit", "bar"]


def test_a_turned_rectangle_is_its_bounding_box_about_its_own_corner_and_says_so() -> None:
    (shape,) = read(task(region(value={"rotation": 90})))
    # 60 x 40 px turned clockwise by 90 degrees about (20, 20): it hangs 40 px to the left and 60 px down
    assert isinstance(shape, Shape) and shape.corners == pytest.approx((-20, 20, 20, 80))
    assert "turned by 90 degrees came in as its bounding box" in shape.note


@given(st.floats(0, 360), st.floats(1, 50), st.floats(1, 50))
def test_the_bounding_box_of_a_turned_rectangle_keeps_its_middle_and_holds_its_area(
    degrees: float, width: float, height: float
) -> None:
    x0, y0, x1, y1 = turn_rectangle((7, 8), (width, height), degrees, (7 + width / 2, 8 + height / 2))
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((7 + width / 2, 8 + height / 2))
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    assert x1 - x0 == pytest.approx(width * cosine + height * sine)


def test_predictions_are_proposals_of_their_model() -> None:
    (shape,) = read(task(region(), kind="predictions"))
    assert isinstance(shape, Shape)
    assert (shape.status, shape.annotator, shape.source) == ("proposed", "M", "proposed by M")


def test_people_are_named_by_their_address_where_it_is_known() -> None:
    shapes = read(task(region(), completed_by={"id": 3, "email": "ana@x.org"}), task(region(), completed_by={"id": 3}))
    assert [shape.annotator for shape in shapes if isinstance(shape, Shape)] == ["ana@x.org", "3"]


@pytest.mark.parametrize("person", [4, {"email": "ana@x.org"}])
def test_what_a_person_drew_is_no_proposal_where_the_file_records_no_source(person: Any) -> None:
    (shape,) = read(task(region(), completed_by=person))
    assert isinstance(shape, Shape) and (shape.status, shape.source) == ("accepted", "")


def test_a_submitted_empty_task_says_no_evidence_and_a_skipped_one_nothing() -> None:
    empty, skipped = read(task(), task(region(), was_cancelled=True))
    assert isinstance(empty, Shape) and empty.corners is None and not empty.error
    assert isinstance(skipped, Rejected) and "skipped by 4" in skipped.reason
    assert read({"id": 1, "data": {"image": "a.png"}, "annotations": []}) == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (region(image_rotation=90), "turned by 90 degrees in the tool"),
        (region(value={"x": "left"}), "expected x, y, width, height in percent"),
        (region(value={"x": 10**400}), "expected x, y, width, height in percent"),
        ({**region(), "original_width": None}, "expected x, y, width, height in percent"),
        ({"id": "p", "type": "polygonlabels", "value": {}}, "a region of type 'polygonlabels'"),
    ],
)
def test_regions_that_are_no_plain_rectangle_are_errors_and_never_no_evidence(
    row: dict[str, Any], message: str
) -> None:
    (shape,) = read(task(row))
    assert isinstance(shape, Shape) and message in shape.error


def test_coco_boxes_of_an_unknown_image_or_category_are_named() -> None:
    image = {"id": 1, "file_name": "a-0.png", "width": 9, "height": 9}
    rows = [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 1, 2, 2]},
        {"id": 2, "image_id": 1, "category_id": 8, "bbox": [1, 1, 2, 2]},
    ]
    unknown, nameless = read_coco({"images": [image], "annotations": rows, "categories": []}, "x.json")
    assert isinstance(unknown, Rejected) and "image_id 7 is not in images" in unknown.reason
    assert isinstance(nameless, Shape) and "KeyError(8)" in nameless.error
