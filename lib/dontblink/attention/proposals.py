"""Evidence boxes proposed by a vision-language model that can ground: a draft for a person, never evidence by itself.

Why: correcting boxes is faster than drawing them. In: a loaded VLM, items, and a file of annotations. Out: lines with
status "proposed" in that file, and the reason for every image and every box that gave none. The model is asked once
per image, with all images before it. Never here: accepting, repairing a box, or reading one out of the reasoning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dontblink.boxes.annotations import (
    UNPRINTABLE,
    AnnotationError,
    ImageFacts,
    Rejected,
    describe_image,
    is_on,
    read_strictly,
    write_annotations,
)
from dontblink.models.generate import Sampling, generate_responses
from dontblink.models.vlm import VLM
from dontblink.questions.items import Box, Item, ItemError

SCALE = 1000  # both families give coordinates as thousandths of the width and of the height
REASONING_END, BOX_OPEN, BOX_CLOSE = "</think>", "<|begin_of_box|>", "<|end_of_box|>"
REQUEST = """{question}

Do not answer the question. Find every region of image {number} of {n_images} that somebody must look at to answer it.
Reply with JSON only, a list with one entry for each region:
[{{"bbox_2d": [x1, y1, x2, y2], "label": "why this region is needed"}}]
x1, y1 is the top-left and x2, y2 the bottom-right corner, each from 0 to 1000, relative to the width and the height of
the image. Reply with [] if the image is not needed."""


def build_prompt(item: Item, image: int = 0) -> Item:
    """Return the item that asks a model for the regions of one image that its question needs; its id names both."""
    question = REQUEST.format(question=item.question, number=image + 1, n_images=len(item.images))
    return replace(item, id=f"{item.id}#{image}", question=question, boxes=(), gold_steps=(), covariates={})


def parse_proposals(text: str, image_size: tuple[int, int], image: int = 0) -> tuple[tuple[Box, ...], tuple[str, ...]]:
    """Return the boxes (px of an image of (width, height)) that a reply names, and what was wrong with the others.

    Read is what follows the reasoning: `[{"bbox_2d": [x1, y1, x2, y2], "label": ...}, ...]`, one such object, lists of
    four numbers, plain or in a code fence or in GLM's box tokens. Without boxes there is at least one reason.
    """
    reply = text.rsplit(REASONING_END, 1)[-1]
    pieces = [piece.split(BOX_CLOSE)[0] for piece in reply.split(BOX_OPEN)[1:]] or [reply]
    try:
        found = [value for piece in pieces for value in find_json(piece)]
    except ValueError as error:
        return (), (f"broken JSON in {shorten(reply)} ({error}); expected a list of boxes",)
    if not found:
        return (), (f"no JSON in {shorten(reply)}; expected a list of boxes",)
    boxes: list[Box] = []
    problems: list[str] = []
    for entry in (entry for value in found for entry in list_entries(value)):
        label = entry.get("label", "") if isinstance(entry, dict) else ""
        corners = entry.get("bbox_2d", entry.get("bbox")) if isinstance(entry, dict) else entry
        try:
            place = scale_corners(corners, image_size)
        except ValueError as error:
            problems.append(f"{shorten(json.dumps(entry))}: {error}")
            continue
        boxes.append(Box(image, *place, label=UNPRINTABLE.sub(" ", str(label)).strip()))
    if not boxes and not problems:
        problems.append("the model names no region: a person has to say whether the image holds evidence")
    return tuple(dict.fromkeys(boxes)), tuple(problems)


def find_json(text: str) -> Iterator[Any]:
    """Yield every JSON list and object of a text, outermost only; words around them, also in brackets, are skipped.

    Raises ValueError where one begins and cannot be read: its inner parts may not be what the model meant.
    """
    decoder, start = json.JSONDecoder(), 0
    while opening := re.compile(r"""\[\s*[-\d\[{\]"']|\{\s*["'}]""").search(text, start):
        try:
            value, start = decoder.raw_decode(text, opening.start())
        except RecursionError:
            raise ValueError("nested too deeply") from None
        yield value


def list_entries(value: Any) -> list[Any]:
    """Return the entries that should each be a box: one box alone, or a list of them, however deep."""
    if not isinstance(value, list) or any(isinstance(v, int | float | str) for v in value):
        return [value]
    return [entry for part in value for entry in list_entries(part)]


def scale_corners(corners: Any, image_size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return x0, y0, x1, y1 in px of four thousandths; raise ValueError saying what is wrong with them."""
    is_four = isinstance(corners, list) and len(corners) == 4
    if not is_four or not all(type(value) in (int, float) and 0 <= value <= SCALE for value in corners):
        raise ValueError(f"expected four numbers x1, y1, x2, y2 from 0 to {SCALE}")
    if not (corners[0] < corners[2] and corners[1] < corners[3]):
        raise ValueError("inverted or without area; expected x1 < x2 and y1 < y2")
    x0, y0, x1, y1 = (value / SCALE * side for value, side in zip(corners, image_size * 2, strict=True))
    return x0, y0, x1, y1


def shorten(text: str, n_letters: int = 60) -> str:
    """Return the text as a quotation of limited length."""
    return repr(text if len(text) <= n_letters else text[: n_letters - 3] + "...")


def propose_boxes(
    vlm: VLM, items: Iterable[Item], path: Path, *, max_new_tokens: int, batch_size: int = 1, progress: bool = True
) -> list[Rejected]:
    """Ask a model for the boxes of every image, write them as proposals, and return what gave none, with the reason.

    Every reply is written as it comes (greedy decoding); an image that this model has a line for on the same picture
    is not asked again, so an interrupted run goes on where it was.

    Raises
    ------
    AnnotationError
        If the file holds a line that cannot be used.
    """
    done = {(found.item_id, found.image): found for found in read_strictly(path) if found.annotator == vlm.name}
    rejected: list[Rejected] = []
    asked: dict[str, tuple[Item, ImageFacts]] = {}
    for item in items:
        for image in range(len(item.images)):
            prompt = build_prompt(item, image)
            try:
                facts = describe_image(item, image)
            except ItemError as error:
                rejected.append(Rejected(prompt.id, str(error)))
                continue
            if (item.id, image) not in done or not is_on(done[item.id, image], facts):
                asked[prompt.id] = prompt, facts
    responses = generate_responses(
        vlm, [prompt for prompt, _ in asked.values()], Sampling(max_new_tokens), batch_size=batch_size,
        progress=progress, quarantine=lambda name, reason: rejected.append(Rejected(name, reason)),
    )  # fmt: skip
    for response in responses:
        _, facts = asked[response.item_id]
        boxes, problems = parse_proposals(response.text, facts.size, facts.image)
        if response.finish_reason == "length":  # its boxes may be of the reasoning
            found = f"cut off after {len(response.response_ids)} tokens: {shorten(response.text)}"
            boxes, problems = (), (f"{found}; raise max_new_tokens",)
        rejected += [Rejected(response.item_id, f"{response.item_id}: {problem}") for problem in problems]
        if boxes:
            try:
                line = facts.annotate(boxes, vlm.name, "proposed", f"proposed by {vlm.name}")
                rejected += write_annotations(path, [line]).values()
            except AnnotationError as error:
                rejected.append(Rejected(response.item_id, str(error)))
    return rejected
