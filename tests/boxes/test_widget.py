"""Claims about the box widget: what is on screen is saved, whatever the browser sends; no text of a data set runs."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pytest
from PIL import Image
from small_items import annotate, make_item, painted_item, png

from dontblink.boxes.annotations import AnnotationError, describe_image, read_strictly, write_annotations
from dontblink.boxes.widget import MAX_SIDE_PX, BoxWidget
from dontblink.questions.items import Box

HOSTILE = '<img src=x onerror="window.ran=1"><script>window.ran=1</script> What does $\\href{javascript:1}{x}$ show?'
ITEMS = [make_item("a", (400, 300), question=HOSTILE), make_item("b", (160, 160), (200, 100))]


def on_screen(x0: float, y0: float, x1: float, y1: float, reason: str = "", label: str = "evidence") -> dict[str, Any]:
    """A box as the browser sends it."""
    return {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "label": label, "reason": reason}


def place(widget: BoxWidget) -> tuple[str, int]:
    """The item and the image on screen."""
    return widget.facts.item_id, widget.facts.image


def press(widget: BoxWidget, name: str) -> None:
    """Press a button; what fails is said below the picture."""
    (row,) = (part for part in widget.children if isinstance(part, ipywidgets.HBox))
    next(button for button in row.children if button.description == name).click()


def propose(file: Path, *boxes: tuple[float, ...], name: str = "M") -> None:
    changes = {"annotator": name, "status": "proposed", "source": f"proposed by {name}"}
    write_annotations(file, [annotate(describe_image(ITEMS[0], 0), *boxes, **changes)])


def test_boxes_that_are_accepted_are_saved_and_shown_again(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    widget = BoxWidget(ITEMS, file, "ana")
    widget.canvas.bboxes = [on_screen(10, 20, 30.5, 40, " the bar ")]
    press(widget, "Accept")
    (line,) = read_strictly(file)
    assert line.boxes == (Box(0, 10, 20, 30.5, 40, "the bar"),) and (line.status, line.source) == ("accepted", "drawn")
    assert widget.status.value == "accepted: 1 boxes"
    again = BoxWidget(ITEMS, file, "ana")
    assert again.canvas.bboxes == widget.canvas.bboxes and again.status.value == "accepted"
    again.canvas.bboxes = []
    again.accept()
    assert read_strictly(file)[0].boxes == () and again.status.value == "accepted: no evidence in this image"


def test_going_on_keeps_changes_as_a_draft_and_writes_nothing_of_an_untouched_image(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    widget = BoxWidget(ITEMS, file, "ana")
    press(widget, "Next")
    assert not file.exists() and place(widget) == ("b", 0)
    assert widget.title.value == "2 of 3: b, image 1 of 2. You are ana."
    widget.canvas.bboxes = [on_screen(1, 1, 5, 5)]
    press(widget, "Next")
    assert [(row.item_id, row.status) for row in read_strictly(file)] == [("b", "proposed")]
    press(widget, "Next")
    assert widget.status.value == "this is the last image" and place(widget) == ("b", 1)
    press(widget, "Previous")
    assert widget.read_boxes() == (Box(0, 1, 1, 5, 5),) and widget.status.value == "not accepted yet"


def test_changing_accepted_boxes_takes_the_acceptance_back(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    widget = BoxWidget(ITEMS, file, "ana")
    for left in (1, 2):
        widget.canvas.bboxes = [on_screen(left, 1, 5, 5)]
        assert widget.status.value == ("" if left == 1 else "not accepted yet")
        widget.accept() if left == 1 else widget.step(1)
    assert [(row.status, row.boxes[0].x0) for row in read_strictly(file)] == [("proposed", 2)]


def test_a_proposal_becomes_accepted_by_a_person_and_keeps_its_origin(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    propose(file, (1, 1, 50, 50))
    widget = BoxWidget(ITEMS, file, "ana")
    assert widget.canvas.bboxes == [on_screen(1, 1, 50, 50, "why", "proposed")]
    widget.accept()
    assert {row.annotator: (row.status, row.source) for row in read_strictly(file)} == {
        "M": ("proposed", "proposed by M"), "ana": ("accepted", "proposed by M"),
    }  # fmt: skip
    assert [row["label"] for row in widget.canvas.bboxes] == ["evidence"]
    widget.canvas.bboxes = [on_screen(1, 1, 60, 50, "why")]
    for _ in range(2):
        widget.accept()
    assert [row.source for row in read_strictly(file)] == ["proposed by M", "proposed by M, corrected"]


def test_other_peoples_boxes_and_their_drafts_of_a_proposal_are_neither_shown_nor_touched(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    propose(file, (1, 1, 50, 50))
    other = BoxWidget(ITEMS, file, "bo")
    other.canvas.bboxes = [on_screen(1, 1, 60, 60, "why")]
    other.step(1)
    other.canvas.bboxes = [on_screen(1, 1, 5, 5)]
    other.accept()
    widget = BoxWidget(ITEMS, file, "ana")
    assert widget.canvas.bboxes == [on_screen(1, 1, 50, 50, "why", "proposed")]
    widget.step(1)
    assert widget.canvas.bboxes == []
    widget.accept()
    lines = {row.key(): (len(row.boxes), row.source) for row in read_strictly(file)}
    assert lines["b", 0, "ana"] == (0, "drawn") and lines["b", 0, "bo"] == (1, "drawn")
    assert lines["a", 0, "bo"] == (1, "proposed by M, corrected") and ("a", 0, "ana") not in lines


def test_boxes_of_another_picture_are_not_shown_and_it_says_so(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    widget = BoxWidget(ITEMS, file, "ana")
    widget.canvas.bboxes = [on_screen(1, 1, 5, 5)]
    widget.accept()
    write_annotations(file, [read_strictly(file)[0].model_copy(update={"image_sha256": "0" * 64})])
    widget = BoxWidget(ITEMS, file, "ana")
    assert widget.canvas.bboxes == [] and widget.status.value.endswith("1 annotations belong to another picture")


@pytest.mark.parametrize(
    "box",
    [
        on_screen(1, 1, 500, 5), on_screen(-1, 1, 5, 5), on_screen(9, 9, 2, 2), {"x": 1}, "box", None, [1, 2, 3, 4],
        on_screen(1, 1, float("nan"), 5), on_screen(1, 1, float("inf"), 5), on_screen(1, 1, 10**400, 5),
        on_screen(1, 1, 5, 5, "two\nlines"), {"x": [], "y": 1, "width": 5, "height": 5},
    ],
)  # fmt: skip
def test_a_box_that_cannot_be_saved_stays_on_screen_with_the_reason(tmp_path: Path, box: Any) -> None:
    widget = BoxWidget(ITEMS, tmp_path / "x.jsonl", "ana")
    widget.canvas.bboxes = [box]
    for name in ("Accept", "Next"):
        press(widget, name)
        assert "box" in widget.status.value or "reason" in widget.status.value
        assert place(widget) == ("a", 0) and widget.canvas.bboxes == [box] and "\n" not in widget.status.value
    assert not (tmp_path / "x.jsonl").exists()


def test_a_click_that_drew_nothing_is_no_box(tmp_path: Path) -> None:
    widget = BoxWidget(ITEMS, tmp_path / "x.jsonl", "ana")
    widget.canvas.bboxes = [on_screen(7, 7, 7, 7), on_screen(1, 1, 5, 5), on_screen(8, 8, 20, 8.5)]
    widget.accept()
    assert read_strictly(tmp_path / "x.jsonl")[0].boxes == (Box(0, 1, 1, 5, 5),)


def test_the_reason_is_that_of_the_selected_box_whatever_is_said_to_be_selected(tmp_path: Path) -> None:
    widget = BoxWidget(ITEMS, tmp_path / "x.jsonl", "ana")
    widget.canvas.bboxes = [on_screen(1, 1, 5, 5), on_screen(2, 2, 9, 9, "second"), 3]
    assert widget.reason.disabled
    widget.canvas.selected_index = 0
    widget.reason.value = "first"
    widget.canvas.selected_index = 1
    assert widget.reason.value == "second" and not widget.reason.disabled
    for odd in (2, 3, 99, -7):
        widget.canvas.selected_index = odd
        assert widget.reason.disabled and widget.reason.value == ""
        widget.reason.value = "nobody's"
    assert [box.get("reason") for box in widget.canvas.bboxes[:2]] == ["first", "second"]
    widget.canvas.bboxes = widget.canvas.bboxes[:2]
    widget.step(1)
    assert [box.label for box in read_strictly(widget.path)[0].boxes] == ["first", "second"]
    assert widget.canvas.selected_index == -1 and widget.reason.value == ""


def test_large_and_turned_pictures_are_shown_upright_with_boxes_in_their_own_px(tmp_path: Path) -> None:
    large = dataclasses.replace(make_item("l"), images=(png(np.zeros((100, 5000, 3), dtype=np.uint8)),))
    for item, size in ((large, (MAX_SIDE_PX, 41)), (painted_item(6)[0], (20, 30))):
        file = tmp_path / f"{item.id}.jsonl"
        widget, whole = BoxWidget([item], file, "ana"), describe_image(item, 0).size
        assert Image.open(io.BytesIO(widget.canvas.image_bytes)).size == size
        widget.canvas.bboxes = [on_screen(0, 0, *size)]
        widget.accept()
        assert read_strictly(file)[0].boxes == (Box(0, 0, 0, *whole),)


def test_a_box_that_nobody_moves_keeps_its_corners_to_the_last_digit(tmp_path: Path) -> None:
    item = dataclasses.replace(make_item("l"), images=(png(np.zeros((97, 4999, 3), dtype=np.uint8)),))
    facts, file = describe_image(item, 0), tmp_path / "x.jsonl"
    boxes = tuple(Box(0, k / 7, k / 3, 4998 + k / 11, 90 + k / 13, f"why {k}") for k in range(1, 9))
    write_annotations(file, [annotate(facts, *boxes)])
    before = file.read_bytes()
    widget = BoxWidget([item], file, "ana")
    widget.accept()
    assert file.read_bytes() == before


def test_a_picture_or_a_file_that_cannot_be_read_any_more_leaves_the_picture_on_screen_whole(tmp_path: Path) -> None:
    file, cut = tmp_path / "x.jsonl", png(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    gone = tmp_path / "gone.png"
    for damage, message in (
        (lambda: gone.write_bytes(cut[: len(cut) // 2]), "gone.png"), (gone.unlink, "gone.png"),
        (lambda: file.write_text("broken\n"), "x.jsonl, line 1"),
    ):  # fmt: skip
        gone.write_bytes(cut)
        widget = BoxWidget([ITEMS[0], dataclasses.replace(make_item("g"), images=(gone,))], file, "ana")
        damage()
        widget.canvas.bboxes = widget.canvas.bboxes if message.startswith("x") else [on_screen(1, 1, 390, 290)]
        press(widget, "Next")
        assert message in widget.status.value and (place(widget), widget.place) == (("a", 0), 0)
        file.unlink(missing_ok=True)
        widget.canvas.bboxes = [on_screen(1, 1, 5, 5)]
        widget.accept()
        assert [(row.item_id, row.status) for row in read_strictly(file)] == [("a", "accepted")]


def test_paging_past_an_accepted_image_whose_reason_has_outer_blanks_keeps_it_accepted(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    write_annotations(file, [annotate(describe_image(ITEMS[0], 0), Box(0, 1, 1, 50, 50, "the bar "))])
    before = file.read_bytes()
    BoxWidget(ITEMS, file, "ana").step(1)
    assert file.read_bytes() == before


def test_texts_of_the_data_set_stand_in_plain_fields_only(tmp_path: Path) -> None:
    widget, parts = BoxWidget(ITEMS, tmp_path / "x.jsonl", "ana"), []
    todo = [widget]
    while todo:
        parts.append(todo.pop())
        todo += getattr(parts[-1], "children", ())
    plain = (ipywidgets.Text, ipywidgets.Textarea)
    texts = {part: getattr(part, "value", "") for part in parts}
    assert widget.question.value == HOSTILE and isinstance(widget.question, plain)
    assert not [part for part, text in texts.items() if HOSTILE in str(text) and not isinstance(part, plain)]
    kinds = {type(part).__name__ for part in parts}
    assert kinds == {"BoxWidget", "Text", "Textarea", "BBoxWidget", "HBox", "Button", "Label"}


def test_a_widget_needs_images_and_a_name(tmp_path: Path) -> None:
    for items, name in (([], "ana"), (ITEMS, " ")):
        with pytest.raises(AnnotationError, match="expected one at least, and a name"):
            BoxWidget(items, tmp_path / "x.jsonl", name)
