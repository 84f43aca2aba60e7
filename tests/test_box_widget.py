"""Claims about the box widget: what is on screen is what is saved, and no text of a data set runs.

The browser tests drive the widget's own JavaScript in Chromium, joined to the real Python half by a stand-in for the
notebook's channel; they skip where there is no browser.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import open_browser, read_axe
from PIL import Image
from test_image_facts import painted_item
from test_vlm import make_item, png

from dontblink.boxes.annotations import Annotation, AnnotationError, describe_image, read_strictly, write_annotations
from dontblink.boxes.widget import MAX_SIDE_PX, SITE, BoxWidget
from dontblink.questions.items import Box

HOSTILE = '<img src=x onerror="window.ran=1"><script>window.ran=1</script> What does the bar of 1998 show?'
ITEMS = [make_item("a", (400, 300), question=HOSTILE), make_item("b", (160, 160), (200, 100))]


def on_screen(x0: float, y0: float, x1: float, y1: float, reason: str = "") -> dict[str, Any]:
    return {"x0": x0, "y0": y0, "x1": x1, "y1": y1, "reason": reason, "accepted": False}


def propose(file: Path, *boxes: tuple[float, ...], name: str = "M") -> None:
    facts = describe_image(ITEMS[0], 0)
    placed = tuple(Box(0, *corners, "why") for corners in boxes)
    write_annotations(
        file, [Annotation("a", 0, facts.size, facts.sha256, placed, name, "proposed", f"proposed by {name}")]
    )


def test_boxes_that_are_accepted_are_saved_and_shown_again(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    widget = BoxWidget(ITEMS, file, "ana")
    widget.boxes = [on_screen(10, 20, 30.5, 40, " the bar ")]
    widget.act("accept")
    (line,) = read_strictly(file)
    assert line.boxes == (Box(0, 10, 20, 30.5, 40, "the bar"),) and (line.status, line.source) == ("accepted", "drawn")
    assert widget.message == "accepted: 1 boxes" and widget.boxes[0]["accepted"] is True
    again = BoxWidget(ITEMS, file, "ana")
    assert again.boxes == widget.boxes and again.view["status"] == "accepted"


def test_accepting_without_boxes_says_that_there_is_no_evidence(tmp_path: Path) -> None:
    widget = BoxWidget(ITEMS, tmp_path / "x.jsonl", "ana")
    widget.act("accept")
    assert read_strictly(tmp_path / "x.jsonl")[0].boxes == () and "no evidence" in widget.message


def test_going_on_keeps_changes_as_a_draft_and_writes_nothing_of_an_untouched_image(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    widget = BoxWidget(ITEMS, file, "ana")
    widget.act("next")
    assert not file.exists() and (widget.view["item_id"], widget.view["image"]) == ("b", 0)
    widget.boxes = [on_screen(1, 1, 5, 5)]
    widget.act("next")
    assert [(row.item_id, row.status) for row in read_strictly(file)] == [("b", "proposed")]
    widget.act("next")
    assert widget.message == "this is the last image" and widget.view["image"] == 1
    widget.act("previous")
    assert widget.boxes == [on_screen(1, 1, 5, 5)] and widget.message == "not accepted yet"


def test_changing_accepted_boxes_takes_the_acceptance_back(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    widget = BoxWidget(ITEMS, file, "ana")
    widget.boxes = [on_screen(1, 1, 5, 5)]
    widget.act("accept")
    widget.boxes = [on_screen(2, 1, 5, 5)]
    widget.act("next")
    assert [(row.status, row.boxes[0].x0) for row in read_strictly(file)] == [("proposed", 2)]


def test_a_proposal_becomes_accepted_by_a_person_and_keeps_its_origin(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    propose(file, (1, 1, 50, 50))
    widget = BoxWidget(ITEMS, file, "ana")
    assert widget.boxes == [on_screen(1, 1, 50, 50, "why")]
    widget.act("accept")
    assert {row.annotator: (row.status, row.source) for row in read_strictly(file)} == {
        "M": ("proposed", "proposed by M"), "ana": ("accepted", "proposed by M"),
    }  # fmt: skip
    widget.boxes = [on_screen(1, 1, 60, 50, "why")]
    for _ in range(2):
        widget.act("accept")
    assert [row.source for row in read_strictly(file)] == ["proposed by M", "proposed by M, corrected"]


def test_other_peoples_boxes_are_neither_shown_nor_touched(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    other = BoxWidget(ITEMS, file, "bo")
    other.boxes = [on_screen(1, 1, 5, 5)]
    other.act("accept")
    widget = BoxWidget(ITEMS, file, "ana")
    assert widget.boxes == []
    widget.act("accept")
    assert {row.annotator: len(row.boxes) for row in read_strictly(file)} == {"ana": 0, "bo": 1}


def test_boxes_of_another_picture_are_not_shown_and_it_says_so(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    widget = BoxWidget(ITEMS, file, "ana")
    widget.boxes = [on_screen(1, 1, 5, 5)]
    widget.act("accept")
    write_annotations(file, [dataclasses.replace(read_strictly(file)[0], image_sha256="0" * 64)])
    widget = BoxWidget(ITEMS, file, "ana")
    assert widget.boxes == [] and widget.message.endswith("1 annotations belong to another picture")


@pytest.mark.parametrize(
    "box", [on_screen(1, 1, 500, 5), on_screen(5, 1, 5, 5), {"x0": 1}, on_screen(1, 1, float("nan"), 5)]
)
def test_a_box_that_cannot_be_saved_stays_on_screen_with_the_reason(tmp_path: Path, box: dict[str, Any]) -> None:
    widget = BoxWidget(ITEMS, tmp_path / "x.jsonl", "ana")
    widget.boxes = [box]
    for kind in ("accept", "next"):
        widget.act(kind)
        assert "box" in widget.message and widget.view["place"] == 0 and widget.boxes == [box]
    assert not (tmp_path / "x.jsonl").exists()


def test_large_and_turned_pictures_are_shown_upright_with_boxes_in_their_own_px(tmp_path: Path) -> None:
    large = dataclasses.replace(make_item("l"), images=(png(np.zeros((100, 5000, 3), dtype=np.uint8)),))
    for item, size in ((large, (MAX_SIDE_PX, 41)), (painted_item(6)[0], (20, 30))):
        widget = BoxWidget([item], tmp_path / "x.jsonl", "ana")
        assert Image.open(io.BytesIO(widget.picture)).size == size
        assert (widget.view["width"], widget.view["height"]) == describe_image(item, 0).size


def test_a_picture_that_cannot_be_opened_leaves_the_one_on_screen_whole(tmp_path: Path) -> None:
    file, cut = tmp_path / "x.jsonl", png(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    gone = tmp_path / "gone.png"
    gone.write_bytes(cut)
    items = [ITEMS[0], dataclasses.replace(make_item("g"), images=(gone,))]
    for damage in (lambda: gone.write_bytes(cut[: len(cut) // 2]), gone.unlink):
        widget = BoxWidget(items, file, "ana")
        damage()
        widget.boxes = [on_screen(1, 1, 5, 5)]
        widget.act("next")
        assert "gone.png" in widget.message and (widget.view["item_id"], widget.place) == ("a", 0)
        widget.act("accept")
        assert [(row.item_id, row.status) for row in read_strictly(file)] == [("a", "accepted")]


def test_a_file_that_cannot_be_read_any_more_leaves_the_picture_on_screen_whole(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    widget = BoxWidget(ITEMS, file, "ana")
    file.write_text("broken\n")
    widget.act("next")
    assert "x.jsonl, line 1" in widget.message and (widget.place, widget.facts.item_id) == (0, "a")
    file.unlink()
    widget.boxes = [on_screen(1, 1, 390, 290)]
    widget.act("accept")
    assert [row.item_id for row in read_strictly(file)] == ["a"]


def test_paging_past_an_accepted_image_whose_reason_has_outer_blanks_keeps_it_accepted(tmp_path: Path) -> None:
    file, facts = tmp_path / "x.jsonl", describe_image(ITEMS[0], 0)
    boxes = (Box(0, 1, 1, 50, 50, "the bar "),)
    write_annotations(file, [Annotation("a", 0, facts.size, facts.sha256, boxes, "ana", "accepted", "drawn")])
    before = file.read_bytes()
    BoxWidget(ITEMS, file, "ana").act("next")
    assert file.read_bytes() == before


def test_a_draft_that_somebody_else_made_of_a_proposal_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    propose(file, (1, 1, 50, 50))
    other = BoxWidget(ITEMS, file, "bo")
    other.boxes = [on_screen(1, 1, 60, 60, "why")]
    other.act("next")
    assert [row.source for row in read_strictly(file)] == ["proposed by M", "proposed by M, corrected"]
    assert BoxWidget(ITEMS, file, "ana").boxes == [on_screen(1, 1, 50, 50, "why")]


def test_a_widget_needs_images_and_a_name(tmp_path: Path) -> None:
    for items, name in (([], "ana"), (ITEMS, " ")):
        with pytest.raises(AnnotationError, match="expected one at least, and a name"):
            BoxWidget(items, tmp_path / "x.jsonl", name)


def test_no_text_is_ever_set_as_html() -> None:
    script = (SITE / "box_widget.js").read_text()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "DOMParser"):
        assert word not in script


CHANNEL = """
import widget from "data:text/javascript;base64,SCRIPT";
const listeners = {}, state = {}, changed = {};
const decode = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
function take(next) {
  Object.assign(state, next, { picture: decode(next.picture) });
  for (const name of ["view", "message"]) for (const heard of listeners["change:" + name] ?? []) heard();
}
let queue = Promise.resolve();
const model = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; changed[name] = value; },
  save_changes: () => {
    const boxes = JSON.stringify(changed.boxes);
    queue = queue.then(() => window.toPython(boxes, ""));
  },
  send: ({ kind }) => { queue = queue.then(() => window.toPython("", kind)).then((next) => take(JSON.parse(next))); },
  on: (name, heard) => { (listeners[name] ??= []).push(heard); },
  off: () => {},
};
window.settled = () => queue;
Object.assign(state, START, { picture: decode(START.picture) });
widget.render({ model, el: document.getElementById("cell") });
window.ready = true;
"""


@pytest.fixture
def screen(tmp_path: Path) -> Iterator[tuple[Any, BoxWidget]]:
    """Yield a page that shows the widget, with a proposal on its first image, and its Python half."""
    propose(tmp_path / "x.jsonl", (40, 30, 120, 90))
    widget = BoxWidget(ITEMS, tmp_path / "x.jsonl", "ana")

    def state() -> str:
        names = {"view": widget.view, "boxes": widget.boxes, "message": widget.message}
        return json.dumps(names | {"picture": base64.b64encode(widget.picture).decode()})

    def to_python(boxes: str, kind: str) -> str:
        if boxes:
            widget.boxes = json.loads(boxes)
        if kind:
            widget.act(kind)
        return state()

    script = base64.b64encode((SITE / "box_widget.js").read_bytes()).decode()
    code = CHANNEL.replace("SCRIPT", script).replace("START", state().replace("</", "<\\/"))
    style = (SITE / "box_widget.css").read_text()
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 900, "height": 900})
        page.expose_function("toPython", to_python)
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_content(
            f'<!doctype html><html lang="en"><title>boxes</title><style>{style}</style><main id="cell"></main>'
            f'<script type="module">{code}</script></html>'
        )
        page.wait_for_function("window.ready && document.querySelector('.stage img').naturalWidth > 0")
        yield page, widget
        assert errors == []


def settle(page: Any) -> None:
    page.evaluate("window.settled()")


def drag(page: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag between two points in px of the picture, which is shown at some other size."""
    frame, size = page.locator(".stage svg").bounding_box(), page.locator(".stage svg").get_attribute("viewBox").split()
    at = [(frame["x"] + x / float(size[2]) * frame["width"], frame["y"] + y / float(size[3]) * frame["height"])
          for x, y in (start, end)]  # fmt: skip
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move((at[0][0] + at[1][0]) / 2, (at[0][1] + at[1][1]) / 2)
    page.mouse.move(*at[1])
    page.mouse.up()
    settle(page)


def test_draw_name_move_resize_delete_and_accept_in_a_browser(screen: tuple[Any, BoxWidget]) -> None:
    page, widget = screen
    dash = "e => getComputedStyle(e.querySelector('.line')).strokeDasharray"
    assert page.locator("svg g").evaluate(dash) != "none"  # a proposal is dashed
    drag(page, (200, 150), (300, 250))
    new = widget.boxes[1]
    assert [new[side] for side in ("x0", "y0", "x1", "y1")] == pytest.approx([200, 150, 300, 250], abs=1)
    page.locator("li input").nth(1).fill("the <b>bar</b>")
    page.locator("svg g").nth(1).focus()
    for key in ("ArrowRight", "Shift+ArrowDown", "Alt+ArrowLeft"):
        page.keyboard.press(key)
    settle(page)
    moved = widget.boxes[1]
    assert moved["x0"] - new["x0"] == pytest.approx(1) and moved["y0"] - new["y0"] == pytest.approx(10)
    assert moved["x1"] == pytest.approx(new["x1"]) and moved["reason"] == "the <b>bar</b>"
    drag(page, (250, 200), (270, 190))  # the selected box moves
    assert widget.boxes[1]["x0"] - moved["x0"] == pytest.approx(20, abs=1) and len(widget.boxes) == 2
    corner = widget.boxes[1]["x1"], widget.boxes[1]["y1"]
    drag(page, corner, (350, 280))
    assert (widget.boxes[1]["x1"], widget.boxes[1]["y1"]) == pytest.approx((350, 280), abs=1)
    page.locator("svg g").nth(0).focus()
    page.keyboard.press("Delete")
    page.get_by_role("button", name="Accept", exact=True).click()
    page.locator("[role=status]", has_text="accepted: 1 boxes").wait_for()
    line = next(row for row in read_strictly(widget.path) if row.annotator == "ana")
    assert line.status == "accepted" and line.source == "proposed by M, corrected" and len(line.boxes) == 1
    assert line.boxes[0].label == "the <b>bar</b>"
    assert page.locator("svg g").evaluate(dash) == "none"


def test_texts_of_the_data_set_do_not_run_in_a_browser(screen: tuple[Any, BoxWidget]) -> None:
    page, _ = screen
    assert page.locator(".question").text_content() == HOSTILE
    assert page.evaluate("window.ran") is None and page.locator(".question *").count() == 0


def test_next_shows_the_next_picture_and_keys_stay_inside(screen: tuple[Any, BoxWidget]) -> None:
    page, widget = screen
    page.evaluate("document.addEventListener('keydown', () => { window.heard = true; })")
    page.get_by_role("button", name="New box").click()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("window.heard") is None
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("box 2, not accepted")
    page.get_by_role("button", name="Next").click()
    page.locator(".place", has_text="2 of 3: b, image 1 of 2").wait_for()
    assert page.locator("svg g").count() == 0 and page.locator("svg").get_attribute("viewBox") == "0 0 160 160"
    assert [len(row.boxes) for row in read_strictly(widget.path)] == [1, 2]


def test_the_widget_has_no_accessibility_finding(screen: tuple[Any, BoxWidget]) -> None:
    page, _ = screen
    page.locator("svg g").first.focus()
    page.evaluate(read_axe())
    findings = page.evaluate("axe.run('#cell').then((found) => found.violations.map((v) => v.id + ': ' + v.help))")
    assert findings == []
