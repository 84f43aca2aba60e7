"""Bad annotations: lines of our own file, and Label Studio and COCO documents changed at random places."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any, get_args

from bad_input import HOSTILE, LINES, TEXTS, VALUES, Rows, attack, make_picture
from hypothesis import strategies as st

from dontblink.boxes.annotations import (
    FIELDS,
    Annotation,
    attach_boxes,
    describe_image,
    format_line,
    read_annotations,
    write_annotations,
)
from dontblink.boxes.exchange import Format, export_boxes, import_boxes, read_shapes
from dontblink.questions.items import Box, Item, validate

ITEMS = [
    Item(f"q{k}", "demo", "test", (make_picture(k),), "which ?", "a", "other", licence="none") for k in range(3)
]  # fmt: skip
IMAGES = {(item.id, 0): describe_image(item, 0) for item in ITEMS}
BOXES = (Box(0, 1, 2, 10, 20, "the number"), Box(0, 5, 5, 40, 30, ""))
GOOD = [
    facts.annotate(boxes, "ann", "accepted", "drawn")
    for facts, boxes in zip(IMAGES.values(), (BOXES, BOXES[:1], ()), strict=True)
]
FORMATS: tuple[Format, ...] = get_args(Format)
DOCUMENTS = {kind: export_boxes(GOOD, IMAGES, kind)[0] for kind in FORMATS}
ODD = [
    None, "", 0, -1, 2**70, 10**400, 1e308, float("nan"), float("inf"), "7", "x", True, [], {}, [1], {"a": 1}, "\ud800",
    "a\nb",
]  # fmt: skip
XML = [b"<", b"<annotations/>", b"<?xml version='1.0' encoding='x'?><a/>", b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'>"]
Edit = tuple[int, Any]


def list_places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a parsed document."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, inner in list(pairs) for place in [(value, key), *list_places(inner)]]


def change(document: Any, edits: list[Edit]) -> Any:
    """Return a document with values at numbered places replaced (`...` removes one)."""
    document = copy.deepcopy(document)
    for number, value in edits:
        places = list_places(document)
        if places:
            container, key = places[number % len(places)]
            if value is ...:
                del container[key]
            else:
                container[key] = value
    return document


def check_boxes(annotations: list[Annotation]) -> None:
    """Attach what was read: items that get boxes are valid with them."""
    attached, lacking = attach_boxes(ITEMS, annotations)
    assert len(attached) + len(lacking) == len(ITEMS)
    for item in attached:
        validate(item)


def use_lines(lines: list[bytes], folder: Path) -> Rows:
    """Read a file of annotations, attach and rewrite what can be used."""
    file = folder / "demo.jsonl"
    file.write_bytes(b"\n".join(lines))
    found, rejected = read_annotations(file)
    check_boxes(found)
    (folder / "again.jsonl").unlink(missing_ok=True)
    write_annotations(folder / "again.jsonl", found)
    assert len(read_annotations(folder / "again.jsonl")[0]) == len(found)
    n_lines = sum(bool(line.strip()) for line in b"\n".join(lines).decode().split("\n"))
    return Rows(n_lines, len(found), [row.reason for row in rejected])


def use_document(value: tuple[Format, bytes], folder: Path) -> Rows | None:
    """Import a tool's file; each shape is a box, a verdict, or left out by itself or with its group."""
    kind, content = value
    file = folder / "boxes.json"
    file.write_bytes(content)
    result = import_boxes(file, kind, IMAGES, annotator="me")
    check_boxes(result.annotations)
    (folder / "imported.jsonl").unlink(missing_ok=True)
    write_annotations(folder / "imported.jsonl", {found.key(): found for found in result.annotations}.values())
    reasons = [row.reason for row in result.rejected] + result.notes
    groups = sum(re.search(r", by [^,]*$", row.where) is not None for row in result.rejected)
    n_shapes, kept = len(read_shapes(file, kind)), sum(max(1, len(found.boxes)) for found in result.annotations)
    if n_shapes > kept + len(result.rejected) and not groups:
        return Rows(n_shapes, kept, [row.reason for row in result.rejected])
    return Rows(kept + len(reasons), kept, reasons)


def edit_line(edits: list[tuple[str, Any]]) -> bytes:
    """Return a good line with fields replaced."""
    fields = json.loads(format_line(GOOD[0])) | dict(edits)
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def edit_json(kind: Format, edits: list[Edit]) -> tuple[Format, bytes]:
    """Return a good document of a tool with places changed."""
    return kind, json.dumps(change(json.loads(DOCUMENTS[kind]), edits)).encode()


GOOD_LINES = [format_line(found).strip().encode() for found in GOOD]
N_PLACES = {kind: len(list_places(json.loads(DOCUMENTS[kind]))) for kind in ("coco", "label-studio")}
LINE_EDITS = st.lists(st.tuples(st.sampled_from(FIELDS) | TEXTS, VALUES | st.just(...)), min_size=1, max_size=2)
PLACES = st.integers(0, 200)
CORNERS = [
    [0, 0, 0, 0], [5, 5, 1, 1], [-1, 0, 5, 5], [0, 0, 1e308, 5], [float("nan")] * 4, ["1", "2", "3", "4"],
    [0, 0, 2**70, 1], [0, 0, 10**400, 1], [[], 1, 2, 3],
]  # fmt: skip
test_lines_of_annotations = attack(
    "annotation lines",
    use_lines,
    st.lists(st.sampled_from(GOOD_LINES + LINES) | LINE_EDITS.map(edit_line), max_size=4),
    [[line] for line in LINES]
    + [[edit_line([(name, value)]), GOOD_LINES[1]] for name in FIELDS for value in [..., *ODD]]
    + [[edit_line([("boxes", [corners]), ("reasons", [""])])] for corners in CORNERS]
    + [[edit_line([("annotator", text), ("reasons", [text, text])])] for text in HOSTILE],
)
test_documents_of_other_tools = attack(
    "box documents",
    use_document,
    st.builds(
        edit_json,
        st.sampled_from(FORMATS),
        st.lists(st.tuples(PLACES, VALUES | st.sampled_from(ODD) | st.just(...)), min_size=1, max_size=3),
    ),
    [(kind, line) for kind in FORMATS for line in LINES + XML]
    + [
        edit_json(kind, [(place, value)])
        for kind, count in N_PLACES.items()
        for place in range(0, count, 3)
        for value in (..., ODD[place % len(ODD)], ODD[(place + 5) % len(ODD)])
    ],
)
