"""Draw, correct and accept evidence boxes in a notebook.

Why: the person who knows the question should draw the box where the question stands. In: items, a file of annotations
and the annotator's name. Out: that person's lines in the file: "accepted" when they say so, else a draft with status
"proposed". Other people's boxes are not shown, so that agreement stays meaningful; a model's proposals are, in another
colour. jupyter-bbox-widget draws; what it sends is checked here like any other annotation. Never here: HTML or LaTeX
made of a data set's text, accepting by itself, or a change of another annotator's line.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets  # type: ignore[import-untyped]
from jupyter_bbox_widget import BBoxWidget

from dontblink.boxes.annotations import (
    AnnotationError,
    Corners,
    Status,
    corners,
    describe_image,
    is_on,
    read_strictly,
    write_annotations,
)
from dontblink.errors import NamedError
from dontblink.questions.items import Box, Item, open_image

MAX_SIDE_PX = 2048  # what is sent to the browser; annotations stay in px of the whole picture
MIN_SIDE_PX = 1.0  # a click without a drag leaves a box that nobody sees; it is not taken for one
CORRECTED = ", corrected"
DRAWN, PROPOSED = "evidence", "proposed"  # the classes of boxes on screen, told apart by colour
RECTANGLE = ("x", "y", "width", "height")  # of a box on screen
HINT = "Drag to draw, then say why the box is needed. Delete removes the selected box, Tab selects the next one."


class BoxWidget(ipywidgets.VBox):
    """One image at a time with its boxes; the last expression of a cell shows it.

    Parameters
    ----------
    items
        Whose images are annotated, in this order.
    annotations_path
        data/evidence/<benchmark>.jsonl; read at every step, so that several people can work at once.
    annotator
        The name or initials in every line that this widget writes.

    Raises
    ------
    AnnotationError
        If there is no image, no annotator, or a line of the file cannot be used.
    ItemError
        If an image cannot be read.
    """

    def __init__(self, items: Sequence[Item], annotations_path: Path, annotator: str) -> None:
        self.places = [(item, image) for item in items for image in range(len(item.images))]
        self.path, self.annotator = Path(annotations_path), annotator
        if not self.places or not annotator.strip():
            found = f"{len(self.places)} images, annotator {annotator!r}"
            raise AnnotationError(f"{found}; expected one at least, and a name")
        # texts of a data set stand in fields that show letters as they are, never in a label: that one reads LaTeX
        wide = ipywidgets.Layout(width="98%")
        self.title, self.status = (ipywidgets.Text(disabled=True, layout=wide) for _ in range(2))
        self.question = ipywidgets.Textarea(disabled=True, layout=wide, rows=4)
        self.canvas = BBoxWidget(classes=[DRAWN, PROPOSED], hide_buttons=True)
        self.reason = ipywidgets.Text(description="Because", disabled=True, layout=wide)
        self.canvas.observe(self._show_reason, ["selected_index", "bboxes"])
        self.reason.observe(self._keep_reason, "value")
        actions = {"Previous": lambda: self.step(-1), "Next": lambda: self.step(1), "Accept": self.accept}
        buttons = ipywidgets.HBox([ipywidgets.Button(description=name) for name in actions])
        for button in buttons.children:
            button.on_click(lambda pressed: self._act(actions[pressed.description]))
        parts = [self.title, self.question, self.canvas, self.reason, buttons, self.status, ipywidgets.Label(HINT)]
        super().__init__(parts)
        self.open_place(0)

    def _act(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (NamedError, OSError) as error:  # the picture and its boxes stay
            self.status.value = str(error)

    def open_place(self, place: int) -> None:
        """Show one image with the annotator's own boxes, or, where there are none, with what models propose."""
        item, image = self.places[place]
        facts, (picture, sent) = describe_image(item, image), encode_picture(item, image)
        lines = [found for found in read_strictly(self.path) if found.key()[:2] == (item.id, image)]
        current = [found for found in lines if is_on(found, facts)]
        own = [found for found in current if found.annotator == self.annotator]
        shown = own or [found for found in current if found.is_models_own()]
        boxes = (replace(box, label=box.label.strip()) for found in shown for box in found.boxes)
        # all that can fail is done: from here on the boxes on screen are those of this picture
        self.place, self.facts, self.opened = place, facts, tuple(dict.fromkeys(boxes))
        self.scale = facts.size * 2, sent * 2
        proposed = f"proposed by {', '.join(dict.fromkeys(found.annotator for found in shown))}" if shown else "drawn"
        self.origin = own[0].source if own else proposed
        is_accepted = bool(own) and own[0].status == "accepted"
        rows = [self._show_box(box, DRAWN if is_accepted else PROPOSED) for box in self.opened]
        # a box that nobody moves keeps its corners to the last digit, whatever the scale
        self.exact = {read_rectangle(row): corners(box) for row, box in zip(rows, self.opened, strict=True)}
        self.canvas.selected_index = -1
        self.canvas.image_bytes, self.canvas.bboxes = picture, rows
        where = f"{place + 1} of {len(self.places)}: {item.id}, image {image + 1} of {len(item.images)}"
        self.title.value, self.question.value = f"{where}. You are {self.annotator}.", item.question
        said = ["accepted" if is_accepted else "not accepted yet"] * bool(shown)
        if len(current) < len(lines):
            said.append(f"{len(lines) - len(current)} annotations belong to another picture")
        self.status.value = "; ".join(said)

    def accept(self) -> None:
        """Save the boxes on screen as what this annotator stands for; none says that the image holds no evidence."""
        self.save("accepted")
        self.open_place(self.place)
        n_boxes = len(self.opened)
        self.status.value = f"accepted: {n_boxes} boxes" if n_boxes else "accepted: no evidence in this image"

    def step(self, by: int) -> None:
        """Go to another image; changes that were not accepted stay as a draft, an untouched image is not written."""
        if self.read_boxes() != self.opened:
            self.save("proposed")
        if 0 <= self.place + by < len(self.places):
            self.open_place(self.place + by)
        else:
            self.status.value = "this is the last image" if by > 0 else "this is the first image"

    def read_boxes(self) -> tuple[Box, ...]:
        """Return the boxes on screen, in px of the whole picture."""
        found = []
        try:
            for row in self.canvas.bboxes:
                x, y, width, height = place = read_rectangle(row)
                if place not in self.exact and min(abs(width), abs(height)) < MIN_SIDE_PX:
                    continue
                drawn = zip((x, y, x + width, y + height), *self.scale, strict=True)
                x0, y0, x1, y1 = self.exact.get(place) or (px * whole / sent for px, whole, sent in drawn)
                found.append(Box(self.facts.image, x0, y0, x1, y1, str(row.get("reason", "")).strip()))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise AnnotationError(f"a box on screen cannot be read ({error!r}); delete it") from error
        return tuple(found)

    def save(self, status: Status) -> None:
        """Write the boxes on screen as this annotator's line; the source tells where they came from."""
        boxes, source = self.read_boxes(), self.origin
        if set(map(corners, boxes)) != set(map(corners, self.opened)) and source != "drawn":
            source = source.removesuffix(CORRECTED) + CORRECTED
        line = self.facts.annotate(boxes, self.annotator, status, source)
        write_annotations(self.path, [line], may_withdraw=True)
        self.opened, self.origin = boxes, source

    def _show_box(self, box: Box, name: str) -> dict[str, Any]:
        place = box.x0, box.y0, box.x1 - box.x0, box.y1 - box.y0
        shown = (px * sent / whole for px, whole, sent in zip(place, *self.scale, strict=True))
        return dict(zip(RECTANGLE, shown, strict=True)) | {"label": name, "reason": box.label}

    def _find_selected(self) -> dict[str, Any] | None:
        index, rows = self.canvas.selected_index, self.canvas.bboxes
        row = rows[index] if 0 <= index < len(rows) else None
        return row if isinstance(row, dict) else None

    def _show_reason(self, change: dict[str, Any]) -> None:
        if change["name"] == "bboxes" and self.status.value.startswith("accepted"):  # all of them were, as they stood
            self.status.value = "not accepted yet"
        row = self._find_selected()
        self.reason.disabled, self.reason.value = row is None, str((row or {}).get("reason", ""))

    def _keep_reason(self, change: dict[str, Any]) -> None:
        row = self._find_selected()
        if row is not None and str(row.get("reason", "")) != change["new"]:
            rows = list(self.canvas.bboxes)
            rows[self.canvas.selected_index] = {**row, "reason": change["new"]}
            self.canvas.bboxes = rows


def read_rectangle(row: dict[str, Any]) -> Corners:
    """Return x, y, width and height of a box on screen, in px of the picture that was sent."""
    x, y, width, height = (float(row[name]) for name in RECTANGLE)
    return x, y, width, height


def encode_picture(item: Item, image: int) -> tuple[bytes, tuple[int, int]]:
    """Return the upright picture as a PNG of at most MAX_SIDE_PX, and its (width, height) in px."""
    picture, buffer = open_image(item.images[image]), io.BytesIO()
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    picture.save(buffer, "PNG")
    return buffer.getvalue(), picture.size
