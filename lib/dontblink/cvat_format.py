"""How CVAT writes boxes: its "for images" XML <-> shapes in px of the picture that it showed.

Why: CVAT keeps corners (xtl, ytl, xbr, ybr) and turns boxes about their middle, in XML. In: the bytes of a file, or
annotations. Out: `Shape`s, or a file. Never here: a document type or an entity (refused: a file of boxes needs none,
an attack does), or what `exchange` decides.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

from dontblink.annotation_schema import Annotation, AnnotationError, Status
from dontblink.box_formats import LABEL, Shape, turn_rectangle
from dontblink.image_facts import ImageFacts

NO_EVIDENCE = "no evidence"


class NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type, and with it every entity."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise AnnotationError(f"the file declares a document type {name!r}; expected plain XML; remove the line")


def read_cvat(text: bytes, file: str) -> Iterator[Shape]:
    """Yield the shapes of a CVAT "for images" document; source="auto" is a proposal, a tag "no evidence" a verdict.

    Whoever the image's task is assigned to drew its boxes; of a file that does not name the task of each image, the
    only assignee there is. Where that tells nobody the annotator stays empty.
    """
    try:
        root = ElementTree.fromstring(text, ElementTree.XMLParser(target=NoDoctype()))
    except AnnotationError as error:
        raise AnnotationError(f"{file}: {error}") from error
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: of an unknown encoding
        raise AnnotationError(f"{file}: not XML ({error}); export it as 'CVAT for images 1.1'") from error
    if root.tag != "annotations":
        raise AnnotationError(f"{file}: starts with <{root.tag}>; export it as 'CVAT for images 1.1'")
    people = {name for row in root.iterfind(".//assignee/username") if (name := row.text)}
    tasks = {row.findtext("id"): row.findtext("assignee/username") or "" for row in root.iterfind("meta//task")}
    alone = people.pop() if len(people) == 1 else ""
    for image in root.iter("image"):
        where, task = f"{file}, image {image.get('name')!r}", image.get("task_id")
        person = tasks.get(task, "") if task and tasks else alone
        for number, row in enumerate(image):
            yield _read_element(row, person, Shape(f"{where}, {row.tag} {number}", where, image.get("name", "")), image)


def _read_element(row: ElementTree.Element, person: str, shape: Shape, image: ElementTree.Element) -> Shape:
    """Return the shape of one element of an image."""
    kept = {str(child.get("name")): child.text or "" for child in row.iter("attribute")}
    origin = (
        ("cvat auto", "proposed", "proposed by cvat auto") if row.get("source") == "auto" else (person, "accepted", "")
    )
    annotator, status, source = (kept.get(n, o) for n, o in zip(("annotator", "status", "source"), origin, strict=True))
    shape = replace(shape, annotator=annotator, status=cast(Status, status), source=source)
    if row.tag == "tag" and row.get("label") == NO_EVIDENCE:
        return shape
    if row.tag != "box":
        return replace(shape, error=f"a {row.tag} {row.get('label')!r}; expected boxes only")
    try:
        size = float(image.attrib["width"]), float(image.attrib["height"])
        x0, y0, x1, y1 = (float(row.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
        degrees, about = float(row.get("rotation", 0)), ((x0 + x1) / 2, (y0 + y1) / 2)
    except (KeyError, ValueError) as error:
        return replace(shape, error=f"{error!r}; expected width, height, xtl, ytl, xbr and ybr in px")
    note = f"a rectangle turned by {degrees:g} degrees came in as its bounding box" if degrees else ""
    turned = turn_rectangle((x0, y0), (x1 - x0, y1 - y0), degrees, about) if degrees else (x0, y0, x1, y1)
    return replace(shape, size=size, corners=turned, reason=kept.get("reason", row.get("label", "")), note=note)


def write_cvat(rows: Sequence[tuple[ImageFacts, Sequence[Annotation]]]) -> bytes:
    """Return a CVAT "for images" document."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    for number, (facts, lines) in enumerate(rows):
        frame = {"id": str(number), "name": facts.file, "width": str(facts.size[0]), "height": str(facts.size[1])}
        image = ElementTree.SubElement(root, "image", frame)
        for found in lines:
            fields = {"source": "auto" if found.status == "proposed" else "manual"}
            kept = {"annotator": found.annotator, "status": found.status, "source": found.source}
            if not found.boxes:
                _add_attributes(ElementTree.SubElement(image, "tag", fields | {"label": NO_EVIDENCE}), kept)
            for box in found.boxes:
                sides = zip(("xtl", "ytl", "xbr", "ybr"), (box.x0, box.y0, box.x1, box.y1), strict=True)
                place = (
                    fields | {"label": LABEL, "occluded": "0", "z_order": "0"} | {n: repr(float(v)) for n, v in sides}
                )
                _add_attributes(ElementTree.SubElement(image, "box", place), kept | {"reason": box.label})
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _add_attributes(element: ElementTree.Element, fields: Mapping[str, str]) -> None:
    for name, text in fields.items():
        ElementTree.SubElement(element, "attribute", {"name": name}).text = text
