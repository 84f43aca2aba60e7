"""Claims about the schema: a line is read as it was written, or refused in one line that says what to do."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dontblink.boxes.annotations import FIELDS, Annotation, AnnotationError, check_annotation, format_line, parse_line
from dontblink.questions.items import Box

LINE: dict[str, Any] = {
    "item_id": "mathvista-7", "image": 0, "image_size": [40, 30], "image_sha256": "ab" * 32,
    "boxes": [[1.0, 2.0, 10.5, 20.0]], "reasons": ["the bar of 1998"], "annotator": "ana", "status": "accepted",
    "source": "drawn",
}  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="\ufffe\uffff"))
NAMES = TEXTS.filter(str.strip)


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
    return Annotation("a", 0, size, "cd" * 32, tuple(boxes), draw(NAMES), status, source)


@given(annotations())
def test_a_line_is_read_as_it_was_written(annotation: Annotation) -> None:
    line = format_line(annotation)
    assert parse_line(line, "here") == annotation and format_line(parse_line(line, "here")) == line
    assert line.count("\n") == 1 and tuple(json.loads(line)) == FIELDS


def test_no_boxes_is_a_valid_statement() -> None:
    assert parse_line(json.dumps(LINE | {"boxes": [], "reasons": []}), "here").boxes == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": -1}, "image is -1; expected a whole number from 0"),
        ({"image": True}, "image is True"),
        ({"image_size": [40]}, r"image_size is \(40,\); expected \[width, height\]"),
        ({"image_size": [40.5, 30]}, "whole numbers"),
        ({"image_sha256": "AB" * 32}, "64 hex digits"),
        ({"status": "accept"}, "status is 'accept'; expected accepted or proposed"),
        ({"source": "found"}, "source is 'found'; expected drawn"),
        ({"source": "proposed by "}, "expected drawn"),
        ({"annotator": " "}, "annotator is ' '; expected one line"),
        ({"item_id": 7}, "item_id is 7"),
        ({"reasons": []}, "one reason each"),
        ({"reasons": ["two\nlines"]}, "reason 0 is"),
        ({"boxes": [[1, 2, 3]]}, r"expected \[\[x0, y0, x1, y1\]"),
        ({"boxes": [[1, 2, 1, 9]]}, "has no area"),
        ({"boxes": [[9, 2, 1, 9]]}, "expected x0 < x1"),
        ({"boxes": [[1, 2, 41, 9]]}, "leaves its picture; expected a box inside 40 x 30 px"),
        ({"boxes": [[-0.5, 2, 4, 9]]}, "leaves its picture"),
        ({"boxes": [[1, 2, float("nan"), 9]]}, "four finite numbers"),
        ({"boxes": [[1, 2, "3", 9]]}, "four finite numbers"),
        ({"boxes": [[1, 2, 10**400, 9]]}, "four finite numbers"),
        ({"image_size": [10**400, 30]}, "at most 64000000 px in all"),
        ({"extra": 1}, "expected exactly the fields"),
    ],
)
def test_each_wrong_field_is_named_with_what_was_expected(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AnnotationError, match=f"file.jsonl, line 3: .*{message}") as caught:
        parse_line(json.dumps(LINE | change), "file.jsonl, line 3")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("line", ["", "[1]", "{", '{"item_id": "a"}', "null"])
def test_a_line_that_is_no_object_of_these_fields_is_refused(line: str) -> None:
    with pytest.raises(AnnotationError, match="here: "):
        parse_line(line, "here")


def test_an_annotation_made_in_code_is_checked_as_well() -> None:
    good = parse_line(json.dumps(LINE), "here")
    assert check_annotation(good, "here") is good
    with pytest.raises(AnnotationError, match="no area"):
        check_annotation(dataclasses.replace(good, boxes=(Box(0, 1, 1, 1, 1),)), "here")
