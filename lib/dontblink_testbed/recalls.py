"""What a response restates, and the same picture with one word of it altered: where does the restated word come from?

In: an item and the words of a response to it. Out: for one restatement (`f5 was red circle`), drawn among those of the
response, a `Recall` for each of its words, with an item whose picture shows another word there and is else the same,
pixel noise included; or why there is none. Never: alter what the response never said, or two words at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from dontblink.questions.items import Box, Drawing, Item, Recall
from dontblink_testbed.scenes import (
    ARROWS,
    CELLS,
    COLOURS,
    DIGITS,
    SHAPES,
    SPRITE_INDEX,
    Scenes,
    cell_box,
    describe_cell,
)

WORDS = {"digit": DIGITS, "arrow": ARROWS, "colour": COLOURS, "shape": SHAPES}
Statement = tuple[int, int]


def split_statements(words: Sequence[str]) -> list[Statement]:
    """Return the half-open ranges of words that end with a dot; the first begins with a cell, behind any marker."""
    first = next((place for place, word in enumerate(words) if word in CELLS), len(words))
    ends = [first, *(place + 1 for place, word in enumerate(words) if word == "." and place > first)]
    return list(zip(ends, ends[1:], strict=False))


def find_recalls(item: Item, words: Sequence[str], rng: np.random.Generator) -> tuple[list[Recall], str]:
    """Return a `Recall` for each word of one restatement, [] and why there is none, or "" where none is asked.

    It can where the response has read the same cell before, rightly, and restates it in the same words.
    """
    if "recall" not in item.question.split():
        return [], ""
    statements = split_statements(words)
    named = {span: words[span[0]] for span in statements if words[span[0]] in CELLS}
    recalls = [span for span in named if words[span[0] + 1] == "was"]
    if not recalls:
        return [], "restates nothing"
    recall = recalls[rng.integers(len(recalls))]
    cell = CELLS.index(named[recall])
    reads = [span for span in named if words[span[0] + 1] == "is" and span < recall]
    own = [span for span in reads if named[span] == CELLS[cell]]
    if not own:
        return [], "restates what it has not read"
    scene: Scenes = item.images[0].draw.args[0]  # type: ignore[union-attr]
    said = describe_cell(scene.sprite[0, cell], scene.colour[0, cell]).split()
    read, restated = own[-1], list(words[recall[0] + 2 : recall[1] - 1])
    if list(words[read[0] + 2 : read[1] - 1]) != said:
        return [], "has read it wrongly"
    if restated != said:
        return [], "restates other words than it has read"
    kinds = [next((kind for kind, known in WORDS.items() if word in known), "") for word in said]
    if "" in kinds:
        return [], "restates an empty cell"
    needed = {box.label for box in item.boxes}
    elsewhere = rng.choice([place for place, name in enumerate(CELLS) if name not in needed])
    length = recall[1] - recall[0]
    others = [span for span in reads if span != read and span[1] - span[0] == length and named[span] != CELLS[cell]]
    found = []
    for place, (kind, word) in enumerate(zip(kinds, said, strict=True)):
        altered = str(rng.choice([other for other in WORDS[kind] if other != word]))
        boxes = Box(0, *cell_box(cell)), Box(0, *cell_box(elsewhere))
        found.append(Recall(
            kind, word, altered, alter(item, cell, kind, altered), *boxes, read, read[0] + 2 + place, recall,
            recall[0] + 2 + place, others[0] if others else None,
        ))  # fmt: skip
    return found, ""


def alter(item: Item, cell: int, kind: str, word: str) -> Item:
    """Return the item with one word of a cell altered, drawn from the same random numbers."""
    (drawing,) = item.images
    assert isinstance(drawing, Drawing) and isinstance(drawing.draw, partial)
    scene, state = drawing.draw.args
    content = scene.colour if kind == "colour" else scene.sprite
    changed = content.copy()
    changed[0, cell] = COLOURS.index(word) if kind == "colour" else SPRITE_INDEX[word]
    other = replace(scene, **{"colour" if kind == "colour" else "sprite": changed})
    return replace(item, images=(Drawing(partial(drawing.draw.func, other, state), drawing.size),))
