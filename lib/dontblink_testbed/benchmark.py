"""The three procedural benchmarks as Items: what the parameter questions.generator names.

In: a benchmark name, a split, a seed and a difficulty. Out: Items with exact evidence boxes, made anew from the seed
every time and never stored, their pictures drawn when somebody looks at them, and the scorer of a response. Never
here: a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dontblink.errors import NamedError
from dontblink.questions.items import Box, Drawing, GoldStep, Item, Score, Split, TaskType
from dontblink_testbed.questions import ASK, Difficulty, Problem
from dontblink_testbed.recalls import find_recalls as find_recalls
from dontblink_testbed.scenes import CELLS, IMAGE_PX, Scenes, cell_box, draw

BENCHMARKS = tuple(ASK)
TASK_TYPE: dict[str, TaskType] = {
    "symbolic": "symbolic",
    "visual_reference": "sustained_visual_reference",
    "hallucination": "other",
}
SPLITS: tuple[Split, ...] = ("test", "calibration")


def read_difficulty(benchmark: str, settings: dict[str, Any]) -> Difficulty:
    """Return a benchmark's difficulty from the `testbed` section of the parameters.

    The keys are `<benchmark>_chain_length`, `<benchmark>_noise_level`, `symbolic_operators_per_step` and
    `hallucination_typical_share`; a pair of numbers is an inclusive range.

    Raises
    ------
    NamedError
        If the benchmark is unknown.
    """
    if benchmark not in ASK:
        raise NamedError(f"benchmark {benchmark!r} has no loader; expected one of {', '.join(BENCHMARKS)}")
    chosen: dict[str, Any] = {
        "chain_length": tuple(settings[f"{benchmark}_chain_length"]),
        "noise_level": tuple(settings[f"{benchmark}_noise_level"]),
    }
    if benchmark == "symbolic":
        chosen["operators_per_step"] = tuple(settings["symbolic_operators_per_step"])
    if benchmark == "hallucination":
        chosen["typical_share"] = settings["hallucination_typical_share"]
    return Difficulty(**chosen)


def load_items(benchmark: str, split: Split, n_items: int, seed: int, difficulty: Difficulty) -> Iterator[Item]:
    """Make the items of one split; item number k is the same whatever `n_items` is."""
    for index in range(n_items):
        rng = np.random.default_rng([seed, BENCHMARKS.index(benchmark), SPLITS.index(split), index])
        problem = ASK[benchmark](rng, difficulty)
        yield make_item(problem, f"{benchmark}-{split}-{index:04d}", split, rng)


def make_item(problem: Problem, item_id: str, split: Split, rng: np.random.Generator) -> Item:
    """Make the item of a problem; the generator draws its picture from where it stands now, whoever looks at it."""
    scene = Scenes(problem.sprite[None], problem.colour[None], np.array([problem.noise_level], dtype=np.float32))
    image = Drawing(partial(_draw_one, scene, rng.bit_generator.state), (IMAGE_PX, IMAGE_PX))
    cells = sorted({cell for step in problem.steps for cell in step.cells})
    return Item(
        id=item_id,
        benchmark=problem.benchmark,
        split=split,
        images=(image,),
        question=problem.question,
        answer=problem.answer,
        task_type=TASK_TYPE[problem.benchmark],
        choices=problem.choices,
        boxes=tuple(Box(0, *cell_box(cell), label=CELLS[cell]) for cell in cells),
        covariates=problem.covariates,
        gold_steps=tuple(
            GoldStep(step.text, step.kind, tuple(cells.index(cell) for cell in step.cells)) for step in problem.steps
        ),
        source="generated",
        licence="MIT",
    )


def _draw_one(scene: Scenes, state: Mapping[str, Any]) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    rng.bit_generator.state = state
    return draw(scene, rng)[0]


def score(item: Item, answer_text: str) -> Score:
    """Score the text of the answer span.

    A prediction is the single word of the answer span. Anything else is recorded as no parse, which is wrong.
    """
    words = answer_text.split()
    parsed = len(words) == 1
    prediction = words[0] if parsed else ""
    return Score(prediction == item.answer, parsed, prediction)
