"""Claims about exchange: a tool's numbers become the px that it meant, what goes out comes back, boxes stay on their
pixels, and nothing is changed in silence."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_items import NAMES, TEXTS, annotate, list_images, make_item, painted_item

from dontblink.boxes.annotations import Annotation, AnnotationError, ImageFacts, Key
from dontblink.boxes.exchange import (
    Format,
    Imported,
    Shape,
    export_boxes,
    import_boxes,
    read_coco,
    read_label_studio,
    turn_rectangle,
)
from dontblink.questions.items import Box, open_image

KINDS: tuple[Format, ...] = ("coco", "label-studio")
ITEMS = [make_item("a", (40, 30)), make_item("b", (16, 16), (20, 10)), painted_item(6, "turned")[0]]
IMAGES = list_images(ITEMS)


def coco(facts: ImageFacts, *boxes: tuple[float, ...], **changes: Any) -> dict[str, Any]:
    """A COCO document as another tool writes it: no annotator, no item."""
    image = {"id": 1, "file_name": facts.file, "width": facts.size[0], "height": facts.size[1]} | changes
    rows = [{"id": k, "image_id": 1, "category_id": 5, "bbox": list(box)} for k, box in enumerate(boxes)]
    return {"images": [image], "annotations": rows, "categories": [{"id": 5, "name": "bar"}]}


def load(
    folder: Path, document: Any, kind: Format = "coco", images: dict[Key, ImageFacts] = IMAGES, **options: Any
) -> Imported:
    file = folder / "x.json"
    file.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    return import_boxes(file, kind, images, **({"annotator": "ana"} | options))


# --- the tools' documents ---


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


def read(*tasks: dict[str, Any]) -> list[Shape]:
    return list(read_label_studio(list(tasks), "x.json"))


def test_percent_become_px_of_the_recorded_size_and_a_regions_own_text_is_its_reason() -> None:
    text = {"id": "r1", "type": "textarea", "from_name": "reason", "value": {"text": ["the axis", "its unit"]}}
    first, second = read(task(region(), text, region("r2")))
    assert first.corners == pytest.approx((20, 20, 80, 60))
    assert (first.reason, second.reason) == ("the axis, its unit", "bar")
    assert (first.size, first.annotator, first.status, first.key) == ((200, 100), "4", "accepted", ("a", 0))
    assert first.where == "x.json, task 9, annotations[0], region r1"


def test_a_turned_rectangle_is_its_bounding_box_about_its_own_corner_and_says_so() -> None:
    (shape,) = read(task(region(value={"rotation": 90})))
    # 60 x 40 px turned clockwise by 90 degrees about (20, 20): it hangs 40 px to the left and 60 px down
    assert shape.corners == pytest.approx((-20, 20, 20, 80))
    assert "turned by 90 degrees came in as its bounding box" in shape.note


@given(st.floats(0, 360), st.floats(1, 50), st.floats(1, 50))
def test_the_bounding_box_of_a_turned_rectangle_turns_its_middle_about_the_corner_and_holds_its_area(
    degrees: float, width: float, height: float
) -> None:
    x0, y0, x1, y1 = turn_rectangle((7, 8), (width, height), degrees)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    middle = 7 + (width * cosine - height * sine) / 2, 8 + (width * sine + height * cosine) / 2
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx(middle)
    assert x1 - x0 == pytest.approx(width * abs(cosine) + height * abs(sine))


@pytest.mark.parametrize(
    ("document", "person", "status", "source"),
    [
        ({"kind": "predictions"}, "M", "proposed", "proposed by M"),
        ({"completed_by": {"id": 3, "email": "ana@x.org"}}, "ana@x.org", "accepted", ""),
        ({"completed_by": {"id": 3}}, "3", "accepted", ""), ({"completed_by": 4}, "4", "accepted", ""),
    ],
)  # fmt: skip
def test_predictions_are_their_models_proposals_and_what_a_person_drew_is_none(
    document: dict[str, Any], person: str, status: str, source: str
) -> None:
    (shape,) = read(task(region(), **document))
    assert (shape.annotator, shape.status, shape.source) == (person, status, source)


def test_a_submitted_empty_task_says_no_evidence_and_a_skipped_one_nothing() -> None:
    empty, skipped = read(task(), task(region(), was_cancelled=True))
    assert empty.corners is None and not empty.error
    assert not skipped.batch and "skipped by 4" in skipped.error
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
    assert message in shape.error


def test_coco_boxes_of_an_unknown_image_or_category_are_named() -> None:
    image = {"id": 1, "file_name": "a-0.png", "width": 9, "height": 9}
    rows = [
        {"id": 1, "image_id": 7, "category_id": 1, "bbox": [1, 1, 2, 2]},
        {"id": 2, "image_id": 1, "category_id": 8, "bbox": [1, 1, 2, 2]},
    ]
    unknown, nameless = read_coco({"images": [image], "annotations": rows, "categories": []}, "x.json")
    assert not unknown.batch and "image_id 7 is not in images" in unknown.error
    assert "KeyError('8')" in nameless.error


# --- annotations ---


@st.composite
def many(draw: st.DrawFn) -> list[Annotation]:
    """Annotations of the images by several annotators, each box at least a hundredth of a px wide."""
    found: dict[tuple[str, int, str], Annotation] = {}
    for facts in IMAGES.values():
        for _ in range(draw(st.integers(0, 2))):
            boxes = []
            for _ in range(draw(st.integers(0, 2))):
                sides = [sorted(draw(st.tuples(st.integers(0, 100 * s), st.integers(0, 100 * s)))) for s in facts.size]
                if all(low < high for low, high in sides):
                    (x0, x1), (y0, y1) = sides
                    boxes.append(Box(facts.image, x0 / 100, y0 / 100, x1 / 100, y1 / 100, draw(TEXTS)))
            name, status = draw(NAMES), draw(st.sampled_from(["accepted", "proposed"]))
            source = draw(st.sampled_from([f"proposed by {name}", "proposed by M, corrected", "imported from x.json"]))
            row = annotate(facts, *boxes, annotator=name, status=status, source=source)
            found[row.key()] = row
    return list(found.values())


@pytest.mark.parametrize("kind", KINDS)
@given(rows=many())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_what_is_exported_comes_back_up_to_round_off(tmp_path: Path, kind: Format, rows: list[Annotation]) -> None:
    document, left_out = export_boxes(rows, IMAGES, kind)
    found = load(tmp_path, document, kind)
    assert left_out == [] and found.rejected == [] and not [note for note in found.notes if "clipped" in note]
    back, sent = (sorted(part, key=Annotation.key) for part in (found.annotations, rows))
    kept = {"corners", "reasons"}
    assert [row.model_dump(exclude=kept) for row in back] == [row.model_dump(exclude=kept) for row in sent]
    for one, other in zip(back, sent, strict=True):
        assert [box.label for box in one.boxes] == [box.label.strip() for box in other.boxes]
        for a, b in zip(one.boxes, other.boxes, strict=True):
            assert (a.x0, a.y0, a.x1, a.y1) == pytest.approx((b.x0, b.y0, b.x1, b.y1), abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_an_annotation_of_another_picture_is_not_exported_and_named(kind: Format) -> None:
    rows = [annotate(IMAGES["a", 0], (1, 1, 2, 2)), annotate(IMAGES["b", 0], (1, 1, 2, 2), image_sha256="0" * 64)]
    document, left_out = export_boxes(rows, IMAGES, kind)
    assert [row.where for row in left_out] == ["b"] and "no such picture here" in left_out[0].reason
    assert document.count(b"ana") >= 1


def test_drawn_boxes_become_imported_ones_and_images_without_boxes_stay_unannotated(tmp_path: Path) -> None:
    found = load(tmp_path, coco(IMAGES["a", 0], (1, 2, 10, 5)))
    assert found.annotations == [
        annotate(IMAGES["a", 0], Box(0, 1, 2, 11, 7, "bar"), source="imported from x.json")
    ]
    assert found.notes == ["x.json: says nothing of 3 of 4 images: not annotated"]
    silent = load(tmp_path, coco(IMAGES["a", 0]))
    assert silent.annotations == [] and "nothing of 4 of 4" in silent.notes[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_of_the_stored_picture_turn_with_it(tmp_path: Path, orientation: int) -> None:
    item, (x0, y0, x1, y1) = painted_item(orientation)
    images = {key: dataclasses.replace(facts, original="photo.jpg") for key, facts in list_images([item]).items()}
    facts = images["t", 0]
    document = coco(facts, (x0, y0, x1 - x0, y1 - y0), file_name="photo.jpg", width=30, height=20)
    by_size = load(tmp_path, document, images=images)
    told = load(tmp_path, document, images=images, shown="stored")
    box = told.annotations[0].boxes[0]
    white = open_image(item.images[0]).convert("L").getbbox()
    assert (box.x0, box.y0, box.x1, box.y1) == white
    assert any("turned with its picture" in note for note in told.notes) == (orientation != 1)
    if orientation in (2, 3, 4):  # the size of a mirrored picture tells nothing
        assert by_size.annotations == [] and "--shown turned or --shown stored" in by_size.rejected[0].reason
        assert load(tmp_path, document, images=images, shown="turned").annotations[0].boxes[0].x0 == x0
    else:
        assert by_size.annotations == told.annotations


def test_the_upright_copy_is_known_to_be_upright(tmp_path: Path) -> None:
    facts = list_images([painted_item(3)[0]])
    found = load(tmp_path, coco(facts["t", 0], (1, 2, 3, 4)), images=facts)
    assert found.annotations[0].boxes[0].x0 == 1 and found.notes == []


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((39, 5, 2.5, 5), "leaves its picture of 40 x 30 px"), ((-1.5, 5, 9, 5), "leaves its picture"),
        ((5, 5, 0, 5), "has no area"), ((9, 9, -3, 2), "has no area"), ((float("nan"), 5, 2, 5), "leaves its picture"),
        ((1, 2, 3), "expected bbox"), (("a", 5, 2, 5), "expected bbox"),
    ],
)  # fmt: skip
def test_impossible_boxes_are_rejected_rows_and_the_rest_of_the_image_waits_for_a_person(
    tmp_path: Path, box: tuple[Any, ...], message: str
) -> None:
    found = load(tmp_path, coco(IMAGES["a", 0], (1, 1, 4, 4), box))
    assert [row.where for row in found.rejected] == ["x.json, annotation 1"] and message in found.rejected[0].reason
    assert [(row.status, len(row.boxes)) for row in found.annotations] == [("proposed", 1)]
    assert any("1 of 2 boxes rejected" in note for note in found.notes)


def test_up_to_one_px_over_the_edge_is_clipped_and_counted(tmp_path: Path) -> None:
    found = load(tmp_path, coco(IMAGES["a", 0], (-0.5, 5, 9, 5), (31, 25, 10, 6), (1, 1, 4, 4)))
    corners = [(b.x0, b.y0, b.x1, b.y1) for b in found.annotations[0].boxes]
    assert corners == [(0, 5, 8.5, 10), (31, 25, 40, 30), (1, 1, 5, 5)]
    assert "x.json: 2 boxes reached up to 1 px over the edge of 1 pictures and were clipped" in found.notes
    assert found.annotations[0].status == "accepted"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"file_name": "other.png"}, "is none of this benchmark"),
        ({"width": 80, "height": 60}, "was drawn on 80 x 60 px; expected 40 x 30 px"),
        ({"item_id": "a", "image_index": 0, "image_sha256": "1" * 64}, "was drawn on another picture"),
        ({"item_id": "a", "image_index": 3}, "is none of this benchmark"),
    ],
)
def test_boxes_of_another_picture_are_rejected(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    found = load(tmp_path, coco(IMAGES["a", 0], (1, 1, 2, 2), **change))
    assert found.annotations == [] and len(found.rejected) == 1 and message in found.rejected[0].reason


def test_a_file_name_that_several_items_share_is_not_said_to_be_unknown(tmp_path: Path) -> None:
    images = {key: dataclasses.replace(facts, original="photo.jpg") for key, facts in IMAGES.items()}
    document = coco(images["a", 0], (1, 1, 2, 2), file_name="photo.jpg")
    found = load(tmp_path, document, images=images)
    assert found.annotations == [] and len(found.rejected) == 1
    assert "'photo.jpg' is that of 4 images (a, b, b, ...), and a box answers one question" in found.rejected[0].reason
    document["images"][0] |= {"item_id": "a", "image_index": 0}
    assert [row.item_id for row in load(tmp_path, document, images=images).annotations] == ["a"]


def label_studio(facts: ImageFacts, **rows: dict[str, Any]) -> list[dict[str, Any]]:
    """A task of Label Studio with one rectangle in each of its annotations and predictions."""
    result = [region(original_width=facts.size[0], original_height=facts.size[1])]
    return [{"id": 1, "data": {"image": facts.file}} | {kind: [row | {"result": result}] for kind, row in rows.items()}]


def test_what_an_annotator_accepted_takes_the_place_of_their_own_draft_and_of_nobody_elses(tmp_path: Path) -> None:
    rows = {"annotations": {"completed_by": {"email": "ana"}}, "predictions": {"model_version": "ana"}}
    found = load(tmp_path, label_studio(IMAGES["a", 0], **rows), "label-studio")
    assert [(row.annotator, row.status) for row in found.annotations] == [("ana", "accepted")] and found.rejected == []
    assert found.notes[0] == "x.json, task 1, predictions[0], by ana: a draft; what ana has accepted takes its place"
    rows["predictions"]["model_version"] = "M"
    found = load(tmp_path, label_studio(IMAGES["a", 0], **rows), "label-studio")
    assert [(row.annotator, row.status) for row in found.annotations] == [("ana", "accepted"), ("M", "proposed")]


def test_what_names_nobody_comes_twice_or_contradicts_itself_is_left_out(tmp_path: Path) -> None:
    document = coco(IMAGES["a", 0], (1, 1, 2, 2))
    nobody = load(tmp_path, document, annotator="")
    document["images"].append(document["images"][0] | {"id": 2})
    document["annotations"].append(document["annotations"][0] | {"id": 9, "image_id": 2})
    verdict = {"annotator": "ana", "status": "accepted", "source": "drawn"}
    contradiction = load(tmp_path, coco(IMAGES["a", 0], (1, 1, 2, 2), no_evidence_by=[verdict]))
    for found, n_rejected, message in (
        (nobody, 1, "names no annotator"), (load(tmp_path, document), 2, "2 times"),
        (contradiction, 2, 'says "no evidence" and draws boxes'),
    ):  # fmt: skip
        assert found.annotations == [] and len(found.rejected) == n_rejected and message in found.rejected[0].reason


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("document", [b"", b"{}", b"[1]", b"\xff", b'[{"data": 3}]', b'{"images": [{}]}', b"<a>"])
def test_a_file_of_another_kind_gives_nothing_and_says_so(tmp_path: Path, kind: Format, document: bytes) -> None:
    with pytest.raises(AnnotationError, match="x.json"):
        load(tmp_path, document, kind)


# --- fields that place a box are read, or refused by name ---

PAGES = {"id": 9, "data": {"image": ["/x/b-0.png", "/x/b-1.png"]}}
SIZES = [{"original_width": 16, "original_height": 16}, {"original_width": 20, "original_height": 10}]
HALF = {"x": 50.0, "y": 50.0, "width": 20.0, "height": 20.0}


def load_task(folder: Path, data: dict[str, Any], *rows: dict[str, Any], **fields: Any) -> Imported:
    document = [{"id": 9, "data": data, "annotations": [{"completed_by": 4, "result": list(rows)} | fields]}]
    return load(folder, document, "label-studio")


def placed(found: Imported) -> list[tuple[str, int, str, list[list[float]]]]:
    """Where boxes came in: item, image, status, rounded corners."""
    rows = [
        (row.item_id, row.image, row.status, [[round(px, 6) for px in box] for box in row.corners])
        for row in found.annotations
    ]
    return sorted(rows)


@pytest.mark.parametrize("place", ["row", "value"])
def test_a_region_lies_on_the_page_that_it_names(tmp_path: Path, place: str) -> None:
    rows = [region(f"r{k}", value=HALF, **SIZES[k]) for k in (0, 1)]
    for k, row in enumerate(rows):
        (row if place == "row" else row["value"])["item_index"] = k
    found = load_task(tmp_path, PAGES["data"], *rows)  # type: ignore[arg-type]
    assert placed(found) == [
        ("b", 0, "accepted", [[8, 8, 11.2, 11.2]]), ("b", 1, "accepted", [[10, 5, 14, 7]])
    ] and not found.rejected  # fmt: skip


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        ({"image": ["b-0.png", "b-1.png"]}, {}, "item_index None; expected one of the task's 2 pages"),
        ({"image": ["b-0.png", "b-1.png"]}, {"item_index": 2}, "item_index 2"),
        ({"image": ["b-0.png", "b-1.png"]}, {"item_index": "1"}, "item_index '1'"),
        ({"image": ["b-0.png", "b-1.png"]}, {"item_index": True}, "item_index True"),
        ({"image": "b-0.png"}, {"item_index": 1}, "item_index 1; expected one of the task's 1 pages"),
        ({"image": "b-0.png", "image2": "b-1.png"}, {"to_name": "img"}, "to_name 'img' is none of the task's pictures"),
        ({"left": "b-0.png", "right": "b-1.png"}, {}, "to_name 'image' is none of the task's pictures (left, right)"),
    ],
)
def test_a_region_that_does_not_tell_its_picture_lies_on_none(
    tmp_path: Path, data: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    found = load_task(tmp_path, data, region(value=HALF, **SIZES[0], **changes))
    assert placed(found) == [] and message in found.rejected[0].reason


def test_of_several_pictures_the_tag_tells_which_one_and_two_tags_on_one_picture_tell_none(tmp_path: Path) -> None:
    rows = [region("r", value=HALF, **SIZES[0]), region("s", value=HALF, to_name="image2", **SIZES[1])]
    both = {"image": "b-0.png", "image2": "b-1.png", "question": "as in a-0.png"}
    assert [row[:3] for row in placed(load_task(tmp_path, both, *rows))] == [
        ("b", 0, "accepted"), ("b", 1, "accepted")
    ]  # fmt: skip
    unknown = load_task(tmp_path, {"image": "b-0.png", "second": "https://x/81"}, *rows)
    assert [row[:3] for row in placed(unknown)] == [("b", 0, "proposed")]
    assert "to_name 'image2' is none of the task's pictures" in unknown.rejected[0].reason
    blank = load_task(tmp_path, {"image": "b-0.png", "image2": "b-1.png"})
    assert placed(blank) == [("b", 0, "accepted", []), ("b", 1, "accepted", [])]
    alone = load_task(tmp_path, {"photo": "b-0.png"}, region(value=HALF, to_name="img", **SIZES[0]))
    assert [row[:3] for row in placed(alone)] == [("b", 0, "accepted")]


def test_what_is_recorded_of_an_item_and_its_pictures_name_have_to_agree(tmp_path: Path) -> None:
    data = {"image": "b-0.png", "item_id": "a", "image_index": 0}
    found = load_task(tmp_path, data, region(value=HALF, **SIZES[0]))
    assert placed(found) == [] and "is that of 'b', 0; item_id and image_index say 'a', 0" in found.rejected[0].reason
    other = load_task(tmp_path, {"image": "b-0.png"}, region(value=HALF, **SIZES[0]), task=8)
    assert placed(other) == [] and "belongs to task 8" in other.rejected[0].reason


def test_side_answers_take_no_acceptance_away_and_rows_of_one_region_agree(tmp_path: Path) -> None:
    rectangle = region("r", value=HALF, **SIZES[0]) | {"type": "rectangle"}
    labels = rectangle | {"type": "labels", "value": {**HALF, "labels": ["the bar"]}}
    side = [
        {"id": "q", "type": "choices", "from_name": "quality", "to_name": "image", "value": {"choices": ["clear"]}},
        {"id": "t", "type": "textarea", "from_name": "why", "to_name": "image", "value": {"text": ["no reason"]}},
        {"id": "h", "type": "hypertextlabels", "to_name": "text", "value": {"start": "/p", "hypertextlabels": ["x"]}},
        {"id": "n", "type": "rating", "value": {"rating": 3}}, {"type": "relation", "from_id": "r", "to_id": "r"},
    ]  # fmt: skip
    found = load_task(tmp_path, {"image": "b-0.png"}, rectangle, labels, *side)
    assert placed(found) == [("b", 0, "accepted", [[8, 8, 11.2, 11.2]])] and not found.rejected
    assert found.annotations[0].reasons == ("the bar",)
    only = load_task(tmp_path, {"image": "b-0.png"}, *side)
    assert placed(only) == [("b", 0, "accepted", [])] and "taken as no evidence" in only.notes[0]
    moved = labels | {"value": {**HALF, "x": 1, "labels": ["the bar"]}}
    for rows, message in (
        ([rectangle, moved], "two rows of one region lie on different places"),
        ([labels], "a row of type 'labels' without its rectangle"),
        ([rectangle | {"type": "ellipse"}, labels], "a region of type 'ellipse'"),
        ([{"id": "z", "type": "newshape", "value": {"x": 1}}], "a region of type 'newshape'"),
    ):
        found = load_task(tmp_path, {"image": "b-0.png"}, *rows)
        assert placed(found) == [] and message in found.rejected[0].reason


@pytest.mark.parametrize(
    ("field", "value"),
    [("rotation", 5), ("angle", "30"), ("flipped", True), ("crop", [0, 0, 9, 9]), ("page", 2), ("zoomScale", 1.5),
     ("bbox_mode", "xyxy"), ("normalized", True), ("coordinates_unit", "percent"), ("outside", 1)],
)  # fmt: skip
def test_a_field_that_moves_a_box_and_is_not_read_is_named(tmp_path: Path, field: str, value: Any) -> None:
    document = coco(IMAGES["a", 0], (1, 2, 10, 5))
    document["annotations"][0][field] = value
    of_image = coco(IMAGES["a", 0], (1, 2, 10, 5), **{field: value})
    of_label_studio = label_studio(IMAGES["a", 0], annotations={"completed_by": 4})
    of_label_studio[0]["annotations"][0]["result"][0][field] = value
    nested, pairs = (coco(IMAGES["a", 0], (1, 2, 10, 5)) for _ in range(2))
    nested["annotations"][0]["extra"] = {"tool": {field: value}}
    pairs["annotations"][0]["extra"] = [{"name": field, "value": value}]
    documents = [(made, "coco") for made in (document, of_image, nested, pairs)]
    for made, kind in (*documents, (of_label_studio, "label-studio")):
        found = load(tmp_path, made, kind)  # type: ignore[arg-type]
        assert found.annotations == [] and f"the field {field!r} is {value!r}" in found.rejected[0].reason


def test_fields_that_say_nothing_or_are_peoples_words_are_passed_over(tmp_path: Path) -> None:
    document = coco(IMAGES["a", 0], (1, 2, 10, 5), orientation=1, page=0, rotation=None)
    quiet = {"rotation": 0.0, "occluded": True, "orientation": "left", "scale": 1, "page": "cover", "track_id": 3}
    document["annotations"][0] |= {"attributes": quiet, "bbox_mode": "xywh", "score": 0.5, "segmentation": []}
    assert placed(load(tmp_path, document)) == [("a", 0, "accepted", [[1, 2, 11, 7]])]


def test_cvats_turned_box_is_its_bounding_box_about_its_middle(tmp_path: Path) -> None:
    document = coco(IMAGES["a", 0], (10, 10, 20, 4))
    document["annotations"][0]["attributes"] = {"rotation": 90.0}
    found = load(tmp_path, document)
    assert placed(found) == [("a", 0, "accepted", [[18, 2, 22, 22]])] and "turned by 90 degrees" in found.notes[0]
    document["annotations"][0]["attributes"] = [{"name": "rotation", "value": 90}]
    assert placed(load(tmp_path, document)) == placed(found)
    for value in ("x", float("nan"), True, [3]):
        document["annotations"][0]["attributes"] = {"rotation": value}
        assert placed(load(tmp_path, document)) == []


@pytest.mark.parametrize(
    ("box", "changes", "message"),
    [
        ((0.1, 0.2, 0.5, 0.5), {}, "as fractions of a picture do"),
        ((5, 5, 15, 25), {"area": 200}, "has not the recorded area of 200 px"),
        ((5, 5, 2, 2), {"area": 400}, "has not the recorded area"),
        ((5, 5, 10, 10), {"segmentation": [[5, 5, 30, 5, 30, 25]]}, "the segmentation reaches from and to"),
        ((5, 5, 10, 10), {"segmentation": {"counts": "x", "size": [30, 40]}}, "a mask is not a box"),
        ((5, 5, 10, 10), {"iscrowd": 1}, "a mask or a crowd is not a box"),
        ((5, 5, 10, 10), {"keypoints": [6, 6, 2]}, "a skeleton is not a box"),
        ((), {"segmentation": [[5, 5, 30, 5, 30, 25]]}, "expected bbox"),
    ],
)
def test_a_coco_row_that_is_no_box_or_contradicts_itself_is_named(
    tmp_path: Path, box: tuple[float, ...], changes: dict[str, Any], message: str
) -> None:
    document = coco(IMAGES["a", 0], box)
    document["annotations"][0] |= changes
    found = load(tmp_path, document)
    assert found.annotations == [] and message in found.rejected[0].reason


def test_an_outline_that_agrees_is_the_same_box_and_a_polygon_says_so(tmp_path: Path) -> None:
    document = coco(IMAGES["a", 0], (5, 5, 10, 10))
    document["annotations"][0] |= {"area": 100, "segmentation": [[5, 5, 15, 5, 15, 15, 5, 15]]}
    found = load(tmp_path, document)
    assert placed(found) == [("a", 0, "accepted", [[5, 5, 15, 15]])] and len(found.notes) == 1
    document["annotations"][0] |= {"area": 50, "segmentation": [[5, 5, 15, 9, 9, 15]]}
    assert "a polygon came in as its bounding box" in load(tmp_path, document).notes[0]


def test_ids_are_the_same_as_text_and_one_that_two_pictures_have_means_none(tmp_path: Path) -> None:
    document = coco(IMAGES["a", 0], (1, 2, 10, 5))
    document["annotations"][0] |= {"image_id": "1", "category_id": "5"}
    assert placed(load(tmp_path, document)) == [("a", 0, "accepted", [[1, 2, 11, 7]])]
    document["images"].append({"id": 1.0, "file_name": "b-0.png", "width": 16, "height": 16})
    found = load(tmp_path, document)
    assert found.annotations == [] and "number images anew" in found.rejected[0].reason


@pytest.mark.parametrize("orientation", [3, 6])
def test_what_a_person_says_of_turns_is_not_overruled_in_silence(tmp_path: Path, orientation: int) -> None:
    facts = dataclasses.replace(list_images([painted_item(orientation)[0]])["t", 0], original="photo.jpg")
    images = {("t", 0): facts}
    copy = load(tmp_path, coco(facts, (1, 2, 3, 4)), images=images, shown="stored")
    assert copy.annotations == [] and "--shown stored, but its name says" in copy.rejected[0].reason
    if orientation == 6:
        document = coco(facts, (1, 2, 3, 4), file_name="photo.jpg")  # of the turned picture's size
        found = load(tmp_path, document, images=images, shown="stored")
        assert found.annotations == []
        assert "--shown stored, but its recorded size says turned" in found.rejected[0].reason
        assert len(load(tmp_path, document, images=images, shown="turned").annotations) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_how_a_file_is_written(tmp_path: Path, encoding: str) -> None:
    document = json.dumps(coco(IMAGES["a", 0], (1, 2, 10, 5))).encode(encoding)
    assert placed(load(tmp_path, document)) == [("a", 0, "accepted", [[1, 2, 11, 7]])]


@pytest.mark.parametrize(
    ("document", "kind", "message"),
    [
        (b"<annotations><track id='0'/></annotations>", "coco", "CVAT's own XML for video"),
        (b"<?xml version='1.0'?><annotations><image/></annotations>", "label-studio", "CVAT's own XML for images"),
        (b"<annotation><object/></annotation>", "coco", "Pascal VOC's XML"), (b"PK\3\4", "coco", "a zip archive"),
        (b"0 0.5 0.5 0.1 0.1\n", "coco", "YOLO's text"), (b"image,label\na.png,1\n", "coco", "a table"),
        (b'{"images": []}', "coco", "COCO without annotations"), (b'{"shapes": []}', "coco", "LabelMe's JSON"),
        (b'[{"id": 1, "data": {"image": "a"}, "completions": []}]', "label-studio", "before 1.0"),
        (b'[{"image": "a", "label": [], "annotation_id": 1}]', "label-studio", "JSON-MIN"),
        (b'[{"image_id": 1, "bbox": [1, 2, 3, 4]}]', "coco", "a list of COCO results"),
        (b'{"a.png1": {"regions": []}}', "coco", "VIA's JSON"), (b'{"images": [], "annotations": []}', "label-studio",
        "COCO; say --format coco"),
        (b'[{"id": 1, "data": {"image": "a"}, "annotations": []}]', "coco", "say --format label-studio"),
        (b'{"images": [{"id": 1, "id": 2, "file_name": "a"}], "annotations": []}', "coco", "a field stands twice"),
    ],
)  # fmt: skip
def test_an_export_of_another_kind_is_named_with_what_to_export(
    tmp_path: Path, document: bytes, kind: Format, message: str
) -> None:
    with pytest.raises(AnnotationError, match="not a .* file") as caught:
        load(tmp_path, document, kind)
    assert message in str(caught.value)
