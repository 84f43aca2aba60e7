"""A second test set of the three benchmarks: how long an answer needs the picture differs INSIDE each of them.

Why it exists: in the first set the benchmark tells whether the picture is still needed behind half of the reasoning, so
that whoever recognises a benchmark seems to know need. In: as `dontblink_testbed.benchmark`. Out: items of the same
wording, from the same functions, a third of them of each level; what `questions.generator` names. Never: a level that
is told to the model, or a question that the shipped models were not trained to read.

The level says what the gold chain does with the cells that decide the answer behind half of its words:

- late: one of them is first read there
- recall: none is, and one of them is restated there: the model may look again or copy its own text
- early: neither

A "no" of `hallucination` is decided by what differs alone, a "yes" by every cell: all its early items are a "no".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dontblink.questions.items import Item, Split
from dontblink_testbed.benchmark import BENCHMARKS as BENCHMARKS
from dontblink_testbed.benchmark import SPLITS, make_item
from dontblink_testbed.benchmark import read_difficulty as read_difficulty
from dontblink_testbed.benchmark import score as score
from dontblink_testbed.questions import ASK, Difficulty, Problem
from dontblink_testbed.recalls import find_recalls as find_recalls

LEVELS = ("early", "recall", "late")


def load_items(benchmark: str, split: Split, n_items: int, seed: int, difficulty: Difficulty) -> Iterator[Item]:
    """Make the items of one split, of each level in turn; item number k is the same whatever `n_items` is."""
    for index in range(n_items):
        level = LEVELS[index % len(LEVELS)]
        rng = np.random.default_rng([seed, BENCHMARKS.index(benchmark), SPLITS.index(split), index])
        problem = ASK[benchmark](rng, difficulty)
        while find_level(problem) != level:
            problem = ASK[benchmark](rng, difficulty)
        yield make_item(problem, f"{benchmark}-{level}-{split}-{index:04d}", split, rng)


def find_level(problem: Problem) -> str:
    """Return the level of a problem, see the module's head.

    All cells decide the answer, but for a "no" to `is there`: then only those that differ from what is asked.
    """
    ends = np.cumsum([len(step.text.split()) + 1 for step in problem.steps])
    differing = [
        cell for step, judged in zip(problem.steps, problem.steps[1:], strict=False) if judged.text == "differ"
        for cell in step.cells
    ]  # fmt: skip
    behind = {
        step.kind for step, end in zip(problem.steps, ends, strict=True)
        if end - 2 >= ends[-1] // 2 and step.cells and (not differing or {*step.cells} & {*differing})
    }  # fmt: skip
    return "late" if "read" in behind else "recall" if "recall" in behind else "early"


def read_level(item_id: str) -> str:
    """Return the level that an item was made for."""
    return item_id.split("-")[1]
