"""Claims about CVAT: corners, boxes turned about their middle, proposals, and no document type."""

from __future__ import annotations

import pytest
from dontblink.cvat_format import read_cvat

from dontblink.boxes.annotations import AnnotationError
from dontblink.boxes.exchange import Shape

DOCUMENT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><job><assignee><username>ana</username></assignee></job></meta>
<image id="0" name="sub/a-0.png" width="40" height="30">{}</image></annotations>"""
BOX = '<box label="bar" source="{}" occluded="0" xtl="1" ytl="2.5" xbr="11" ybr="8" z_order="0"{}>{}</box>'


def read(*elements: str) -> list[Shape]:
    return list(read_cvat(DOCUMENT.format("".join(elements)).encode(), "x.xml"))


def test_corners_label_and_assignee_are_read() -> None:
    (shape,) = read(BOX.format("manual", "", ""))
    assert (shape.corners, shape.size, shape.reason) == ((1, 2.5, 11, 8), (40, 30), "bar")
    assert (shape.annotator, shape.status, shape.name) == ("ana", "accepted", "sub/a-0.png")


def read_people(meta: str, *images: str) -> list[str]:
    """The annotator of one box on each image, whose further attributes are given."""
    box = BOX.format("manual", "", "")
    rows = "".join(
        f'<image name="{k}.png" width="40" height="30" {more}>{box}</image>' for k, more in enumerate(images)
    )
    document = f"<annotations><meta>{meta}</meta>{rows}</annotations>"
    return [shape.annotator for shape in read_cvat(document.encode(), "x.xml")]


def test_boxes_are_those_of_the_assignee_of_their_own_task() -> None:
    def task(number: int, person: str) -> str:
        return f"<task><id>{number}</id>{person and f'<assignee><username>{person}</username></assignee>'}</task>"

    images = ['task_id="5"', 'task_id="7"', 'task_id="9"', ""]
    three = f"<project><tasks>{task(5, 'ana')}{task(7, 'bo')}{task(9, '')}</tasks></project>"
    assert read_people(three, *images) == ["ana", "bo", "", ""]
    assert read_people(f"<project><tasks>{task(5, 'ana')}{task(9, '')}</tasks></project>", *images) == [
        "ana",
        "",
        "",
        "ana",
    ]
    assert read_people(task(5, "ana"), "", "") == ["ana", "ana"]


def test_a_box_made_by_a_model_is_a_proposal() -> None:
    (shape,) = read(BOX.format("auto", "", ""))
    assert (shape.annotator, shape.status, shape.source) == ("cvat auto", "proposed", "proposed by cvat auto")


def test_an_attribute_reason_is_the_reason() -> None:
    (shape,) = read(BOX.format("manual", "", '<attribute name="reason">the &lt;axis&gt;</attribute>'))
    assert shape.reason == "the <axis>"


def test_a_turned_box_turns_about_its_middle_and_says_so() -> None:
    (shape,) = read(BOX.format("manual", ' rotation="90.0"', ""))
    assert shape.corners == pytest.approx((6 - 2.75, 5.25 - 5, 6 + 2.75, 5.25 + 5)) and "bounding box" in shape.note


def test_only_the_tag_no_evidence_says_that_there_is_none() -> None:
    said, other = read('<tag label="no evidence" source="manual"/>', '<tag label="blurred" source="manual"/>')
    assert said.corners is None and not said.error
    assert "a tag 'blurred'; expected boxes only" in other.error
    assert read() == []


def test_polygons_and_boxes_without_a_corner_are_errors() -> None:
    polygon, box = read('<polygon label="bar" points="1,2;3,4"/>', '<box label="bar" xtl="1" ytl="x" xbr="2" ybr="3"/>')
    assert "a polygon 'bar'" in polygon.error and "expected width, height, xtl" in box.error


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "head", ['<!DOCTYPE a [<!ENTITY e "eeee">]>', '<!DOCTYPE a SYSTEM "file:///etc/passwd">', "<!DOCTYPE a>"]
)
def test_a_document_type_is_refused_before_anything_of_it_is_used(head: str, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?>{head}<annotations>&e;</annotations>'
    with pytest.raises(AnnotationError, match="x.xml: the file declares a document type 'a'"):
        list(read_cvat(text.encode(encoding), "x.xml"))


def test_what_is_no_xml_is_one_line() -> None:
    with pytest.raises(AnnotationError, match="x.xml: not XML"):
        list(read_cvat(b"{}", "x.xml"))
    with pytest.raises(AnnotationError, match="x.xml: starts with <annotation>"):
        list(read_cvat(b"<annotation/>", "x.xml"))
