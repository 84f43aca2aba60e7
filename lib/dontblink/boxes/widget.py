"""Draw, correct and accept evidence boxes in a notebook.

Why: the person who knows the question should draw the box where the question stands. In: items, a file of annotations
and the annotator's name. Out: that person's lines in the file: "accepted" when they say so, else a draft with status
"proposed". Other people's boxes are not shown, so that agreement stays meaningful; a model's proposals are, dashed.
Never here: HTML made of a data set's text, accepting by itself, or a change of another annotator's line.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from dontblink.boxes.annotations import (
    Annotation,
    AnnotationError,
    ImageFacts,
    Status,
    check_annotation,
    describe_image,
    is_on,
    read_strictly,
    write_annotations,
)
from dontblink.errors import NamedError
from dontblink.questions.items import Box, Item, open_image

SITE = Path(__file__).with_name("site")
MAX_SIDE_PX = 2048  # what is sent to the browser; boxes stay in px of the whole picture
CORRECTED = ", corrected"


class BoxWidget(anywidget.AnyWidget):
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

    _esm = SITE / "box_widget.js"
    _css = SITE / "box_widget.css"
    view = traitlets.Dict().tag(sync=True)
    picture = traitlets.Bytes().tag(sync=True)
    boxes: traitlets.List[dict[str, Any]] = traitlets.List().tag(sync=True)
    message = traitlets.Unicode().tag(sync=True)

    def __init__(self, items: Sequence[Item], annotations_path: Path, annotator: str) -> None:
        super().__init__()
        self.places = [(item, image) for item in items for image in range(len(item.images))]
        self.path, self.annotator = Path(annotations_path), annotator
        if not self.places or not annotator.strip():
            raise AnnotationError(
                f"{len(self.places)} images, annotator {annotator!r}; expected one at least, and a name"
            )
        self.place = 0
        self.on_msg(lambda _, content, buffers: self.act(str(content.get("kind"))))
        self.open_place(0)

    def open_place(self, place: int) -> None:
        """Show one image with the annotator's own boxes, or, where there are none, with what models propose."""
        item, image = self.places[place]
        facts, picture = describe_image(item, image), encode_picture(item, image)
        lines = [found for found in read_strictly(self.path) if found.key()[:2] == (item.id, image)]
        current = [found for found in lines if is_on(found, facts)]
        own = next((found for found in current if found.annotator == self.annotator), None)
        offered = [found for found in current if found.is_models_own()]
        shown = [own] if own else offered
        boxes = (replace(box, label=box.label.strip()) for found in shown for box in found.boxes)
        names = ", ".join(dict.fromkeys(found.annotator for found in offered))
        # all that can fail is done: from here on the boxes on screen are those of this picture
        self.place, self.opened = place, tuple(dict.fromkeys(boxes))
        self.facts: ImageFacts = facts
        self.origin = own.source if own else f"proposed by {names}" if names else "drawn"
        status = own.status if own else "proposed" if names else "new"
        notes = [f"{len(lines) - len(current)} annotations belong to another picture"] * (len(current) < len(lines))
        with self.hold_sync():
            self.picture = picture
            self.boxes = [
                {"x0": b.x0, "y0": b.y0, "x1": b.x1, "y1": b.y1, "reason": b.label, "accepted": status == "accepted"}
                for b in self.opened
            ]
            self.view = {
                "place": place, "n_places": len(self.places), "item_id": item.id, "image": image, "status": status,
                "n_images": len(item.images), "width": facts.size[0], "height": facts.size[1],
                "question": item.question, "annotator": self.annotator, "step": int(self.view.get("step", 0)) + 1,
            }  # fmt: skip
            self.message = "; ".join([{"accepted": "accepted", "proposed": "not accepted yet"}.get(status, ""), *notes])

    def act(self, kind: str) -> None:
        """Do what a button says: accept, next or previous; what fails is named, and the picture and its boxes stay."""
        try:
            if kind == "accept":
                self.save("accepted")
                self.open_place(self.place)
                n_boxes = len(self.opened)
                self.message = f"accepted: {n_boxes} boxes" if n_boxes else "accepted: no evidence in this image"
            elif kind in ("next", "previous"):
                self.save_draft()
                place = self.place + (1 if kind == "next" else -1)
                if 0 <= place < len(self.places):
                    self.open_place(place)
                else:
                    self.message = "this is the last image" if kind == "next" else "this is the first image"
        except (NamedError, OSError) as error:
            self.message = str(error)

    def read_boxes(self) -> tuple[Box, ...]:
        """Return the boxes on screen."""
        image = self.facts.image
        try:
            return tuple(
                Box(image, float(b["x0"]), float(b["y0"]), float(b["x1"]), float(b["y1"]), str(b["reason"]).strip())
                for b in self.boxes
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise AnnotationError(f"a box on screen cannot be read ({error!r}); delete it") from error

    def save(self, status: Status) -> None:
        """Write the boxes on screen as this annotator's line; the source tells where they came from."""
        boxes, facts, source = self.read_boxes(), self.facts, self.origin
        if corners(boxes) != corners(self.opened) and source != "drawn" and not source.endswith(CORRECTED):
            source += CORRECTED
        line = Annotation(facts.item_id, facts.image, facts.size, facts.sha256, boxes, self.annotator, status, source)
        write_annotations(self.path, [check_annotation(line, f"item {facts.item_id}")], may_withdraw=True)
        self.opened, self.origin = boxes, source

    def save_draft(self) -> None:
        """Keep changes that were not accepted as a draft; an untouched image is not written."""
        if self.read_boxes() != self.opened:
            self.save("proposed")


def corners(boxes: Sequence[Box]) -> set[tuple[float, float, float, float]]:
    """Return where boxes lie, without their order and reasons."""
    return {(box.x0, box.y0, box.x1, box.y1) for box in boxes}


def encode_picture(item: Item, image: int) -> bytes:
    """Return the upright picture as a PNG of at most MAX_SIDE_PX."""
    picture, buffer = open_image(item.images[image]), io.BytesIO()
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    picture.save(buffer, "PNG")
    return buffer.getvalue()
