"""Evidence annotations: which regions of an image an item needs, who says so, and whether a person has accepted it.

Why: no real benchmark ships evidence boxes, so they are an input of this study and need a provenance. In and out:
`data/evidence/<benchmark>.jsonl`, one line per image of an item by one annotator (data/evidence/README.md). Items
get boxes from ACCEPTED lines on the same picture only. Never here: a guess. An image without an accepted line has
no boxes, which is something else than an accepted line that says "no evidence in this image".
"""

from __future__ import annotations

import fcntl
import os
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from dontblink import paths
from dontblink.annotation_schema import (
    Annotation,
    AnnotationError,
    Rejected,
    Status,
    check_annotation,
    format_line,
    parse_line,
)
from dontblink.image_facts import ImageFacts, Key, describe_image
from dontblink.items import Box, Item, ItemError

__all__ = [
    "Annotation", "AnnotationError", "Rejected", "Status", "attach_boxes", "cover_images", "read_annotations",
    "read_strictly", "summarize_coverage", "write_annotations",
]  # fmt: skip
COVERAGE = ("benchmark", "item_id", "status", "n_images", "n_boxes", "n_annotators", "reason")


def read_annotations(path: Path) -> tuple[list[Annotation], list[Rejected]]:
    """Return a file's annotations and the lines that were left out; a file that is not there holds none.

    Of several lines on one image by one annotator none counts: which of them is meant cannot be known.

    Raises
    ------
    AnnotationError
        If the file as a whole cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{paths.show(path)}: cannot be read as UTF-8 text ({error}); restore it") from error
    found: dict[tuple[str, int, str], list[tuple[str, Annotation]]] = {}
    rejected: list[Rejected] = []
    for number, line in enumerate(lines, 1):
        where = f"{paths.show(path)}, line {number}"
        if line.strip():
            try:
                annotation = parse_line(line, where)
                found.setdefault(annotation.key(), []).append((where, annotation))
            except AnnotationError as error:
                rejected.append(Rejected(where, str(error)))
    for (item_id, image, annotator), rows in found.items():
        if len(rows) > 1:
            text = f"one of {len(rows)} lines of {annotator!r} on image {image} of {item_id!r}; expected one; keep one"
            rejected += [Rejected(where, f"{where}: {text}") for where, _ in rows]
    return [rows[0][1] for rows in found.values() if len(rows) == 1], rejected


def read_strictly(path: Path) -> list[Annotation]:
    """Return a file's annotations; raise AnnotationError at the first line that cannot be used."""
    annotations, rejected = read_annotations(path)
    if rejected:
        raise AnnotationError(rejected[0].reason)
    return annotations


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder for oneself: two annotators who save at once both keep their lines."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_annotations(
    path: Path,
    annotations: Iterable[Annotation],
    *,
    may_withdraw: bool = False,
    refused: dict[Annotation, Rejected] | None = None,
) -> int:
    """Put annotations into a file and return its number of lines; only lines with the same key are replaced.

    The file appears whole, sorted by item, image and annotator; the same annotations are the same bytes. A proposal
    that would replace accepted boxes goes to `refused`, where that is given, and the others are written.

    Raises
    ------
    AnnotationError
        If an annotation or a line that is there cannot be used, or, without `refused`, a proposal would replace
        accepted boxes (unless their annotator `may_withdraw` them); nothing is written then.
    """
    with lock_folder(path.parent):
        lines = {annotation.key(): annotation for annotation in read_strictly(path)}
        for annotation in annotations:
            check_annotation(annotation, f"item {annotation.item_id!r}, image {annotation.image}")
            before, where = lines.get(annotation.key()), f"item {annotation.item_id!r}, image {annotation.image}"
            demotes = before and (before.status, annotation.status) == ("accepted", "proposed")
            if demotes and not may_withdraw:
                reason = (
                    f"{where}: a proposal, {annotation.source!r}, would replace boxes that {annotation.annotator!r} "
                    f"has accepted, which stay; correct it in the tool and import anew, or name the proposing model"
                )
                if refused is None:
                    raise AnnotationError(reason)
                refused[annotation] = Rejected(where, reason)
                continue
            lines[annotation.key()] = annotation
        with paths.whole_file(path) as temporary:
            temporary.write_text("".join(format_line(lines[key]) for key in sorted(lines)), encoding="utf-8")
    return len(lines)


@dataclass(frozen=True)
class Verdict:
    """What the annotations say of one item; `reason` is empty where every image has an accepted line."""

    status: str
    boxes: tuple[Box, ...]
    annotators: frozenset[str]
    reason: str


def group_by_image(annotations: Iterable[Annotation], annotator: str | None = None) -> dict[Key, list[Annotation]]:
    """Return the annotations of each image in the order of their annotators, of one annotator if one is named."""
    groups: dict[Key, list[Annotation]] = {}
    for found in sorted(annotations, key=Annotation.key):
        if annotator is None or found.annotator == annotator:
            groups.setdefault((found.item_id, found.image), []).append(found)
    return groups


def is_on(found: Annotation, facts: ImageFacts) -> bool:
    """Say whether an annotation was made on this very picture."""
    return found.image_sha256 == facts.sha256 and found.image_size == facts.size


def judge_item(images: Sequence[ImageFacts], groups: dict[Key, list[Annotation]]) -> Verdict:
    """Return an item's boxes (the union over annotators), or why it has none: every image needs an accepted line."""
    boxes: dict[Box, None] = {}
    annotators: set[str] = set()
    problems: dict[str, list[str]] = {"stale": [], "lacking": [], "proposed only": []}
    for facts in images:
        lines = groups.get((facts.item_id, facts.image), [])
        accepted = [found for found in lines if found.status == "accepted"]
        if current := [found for found in accepted if is_on(found, facts)]:
            boxes |= dict.fromkeys(box for found in current for box in found.boxes)
            annotators |= {found.annotator for found in current}
        elif accepted:
            old = accepted[0]
            problems["stale"].append(
                f"image {facts.image}: accepted on another picture ({old.image_size[0]} x {old.image_size[1]} px, "
                f"sha256 {old.image_sha256[:8]}; here {facts.size[0]} x {facts.size[1]} px, {facts.sha256[:8]}); "
                f"draw the boxes anew"
            )
        elif lines:
            names = ", ".join(found.annotator for found in lines)
            problems["proposed only"].append(f"image {facts.image}: proposed by {names}, accepted by nobody")
        else:
            problems["lacking"].append(f"image {facts.image}: not annotated")
    reason = "; ".join(text for texts in problems.values() for text in texts) or ("" if images else "no image")
    if reason:
        status = next((status for status, texts in problems.items() if texts), "lacking")
        return Verdict(status, (), frozenset(annotators), reason)
    return Verdict("annotated", tuple(boxes), frozenset(annotators), "")


def attach_boxes(
    items: Iterable[Item], annotations: Iterable[Annotation], annotator: str | None = None
) -> tuple[list[Item], list[tuple[str, str]]]:
    """Return the items whose every image is annotated, with their boxes, and (item id, reason) of the others.

    Only accepted boxes on the same picture count; of several annotators the union does, or the one who is named. An
    item that is annotated as having no evidence comes back with `boxes == ()`.

    Raises
    ------
    AnnotationError
        If an item brings boxes of its own: its gold steps may count on them.
    """
    groups = group_by_image(annotations, annotator)
    attached: list[Item] = []
    lacking: list[tuple[str, str]] = []
    for item in items:
        if item.boxes:
            raise AnnotationError(f"item {item.id!r}: has {len(item.boxes)} boxes of its own; attach none to it")
        try:
            verdict = judge_item([describe_image(item, image) for image in range(len(item.images))], groups)
        except ItemError as error:
            verdict = Verdict("lacking", (), frozenset(), str(error))
        if verdict.reason:
            lacking.append((item.id, verdict.reason))
        else:
            attached.append(replace(item, boxes=verdict.boxes))
    return attached, lacking


def cover_images(images: dict[str, list[ImageFacts]], annotations: Iterable[Annotation]) -> pd.DataFrame:
    """Return one row per item: is it annotated, proposed only, lacking or stale (columns COVERAGE), and why.

    `images`: the facts of every image of each item, by item id.
    """
    groups = group_by_image(annotations)
    rows = []
    for item_id, facts in images.items():
        verdict = judge_item(facts, groups)
        benchmark, n_boxes = facts[0].benchmark if facts else "", len(verdict.boxes)
        counts = len(facts), n_boxes, len(verdict.annotators)
        rows.append((benchmark, item_id, verdict.status, *counts, verdict.reason))
    return pd.DataFrame(rows, columns=list(COVERAGE))


def summarize_coverage(report: pd.DataFrame) -> str:
    """Return a text for people: how many items of each benchmark have boxes, and the names of those that lack them."""
    lines = []
    for benchmark, rows in report.groupby("benchmark", sort=True):
        counts = rows["status"].value_counts()
        empty = int(((rows["status"] == "annotated") & (rows["n_boxes"] == 0)).sum())
        n_annotated = f"{counts.get('annotated', 0)} of {len(rows)} items annotated"
        lines.append(f"{benchmark}: {n_annotated} ({empty} of them as without evidence)")
        for status in ("proposed only", "stale", "lacking"):
            names = rows.loc[rows["status"] == status, "item_id"]
            if len(names):
                text = f"  {status} ({len(names)}): {', '.join(names)}"
                lines.append(textwrap.fill(text, 118, subsequent_indent="    ", break_on_hyphens=False))
    return "\n".join(lines) or "no items"
