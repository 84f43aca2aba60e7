"""Training lessons of the testbed: what the small models are taught, as batches of token ids and pictures.

In: a numpy Generator and the phase. Out: Lessons (prompt and response words, a scene or none), packed into
micro-batches. Three kinds: `perception` (name the contents of many cells), `text` (arithmetic, walks and option scans
without a picture) and the gold chains of the three benchmarks. Nothing here uses attention or evidence boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from dontblink_testbed import questions
from dontblink_testbed.architectures import N_IMAGE_TOKENS, patchify
from dontblink_testbed.questions import Difficulty
from dontblink_testbed.scenes import CELLS, COLOURS, GRID, SHAPES, Scenes, describe_cell, draw
from dontblink_testbed.stand_in import SPECIAL_TOKENS
from dontblink_testbed.vocabulary import encode_words, prompt_words, response_words

TRAINING_DIFFICULTY = {
    "symbolic": Difficulty((1, 5), (0.0, 0.8), operators_per_step=(1, 3)),
    "visual_reference": Difficulty((1, 6), (0.0, 0.8)),
    "hallucination": Difficulty((1, 4), (0.0, 0.8), typical_share=0.9),
}
CLEAN = (0.0, 0.0)


@dataclass(frozen=True)
class Lesson:
    """One training example in words; `sprite` is None for a lesson without a picture."""

    kind: str
    question: str
    reasoning: str
    answer: str
    sprite: npt.NDArray[np.int8] | None = None
    colour: npt.NDArray[np.int8] | None = None
    noise_level: float = 0.0


@dataclass(frozen=True)
class MicroBatch:
    """Token ids [batch, length], flat rows that predict a response token, their targets, and patches or None.

    `kinds` [batch] names each lesson's kind and `owner` [n_rows] says which lesson a row belongs to.
    """

    ids: torch.Tensor
    rows: torch.Tensor
    targets: torch.Tensor
    patches: torch.Tensor | None
    kinds: list[str]
    owner: npt.NDArray[np.int64]


def teach_perception(rng: np.random.Generator, noise: tuple[float, float], n_cells: int) -> Lesson:
    """Name the contents of whole rows or of scattered cells, in the words that the chains use."""
    sprite, colour = questions.fill_cells(rng)
    shape = np.array([1 <= s <= len(SHAPES) for s in sprite])
    typical = np.array([
        COLOURS.index(questions.TYPICAL_COLOUR[SHAPES[s - 1]]) if is_shape else 0
        for s, is_shape in zip(sprite, shape, strict=True)
    ])  # fmt: skip
    colour = np.where(shape & (rng.random(len(CELLS)) < 0.5), typical, colour).astype(np.int8)
    if rng.random() < 0.5:
        rows = np.sort(rng.choice(GRID, n_cells // GRID, replace=False))
        cells = [row * GRID + column for row in rows for column in range(GRID)]
        question = f"describe {' '.join(str(row + 1) for row in rows)} ?"
    else:
        cells = [int(c) for c in rng.choice(len(CELLS), n_cells, replace=False)]
        question = f"look {' '.join(CELLS[c] for c in cells)} ?"
    reasoning = " ".join(f"{CELLS[c]} is {describe_cell(sprite[c], colour[c])} ." for c in cells)
    return Lesson("perception", question, reasoning, "done", sprite, colour, float(rng.uniform(*noise)))


def teach_text(rng: np.random.Generator) -> Lesson:
    """Teach, without a picture, one of: arithmetic modulo 10, a walk over the grid, a scan of the options."""
    choice = rng.random()
    if choice < 0.55:
        problem = questions.ask_symbolic(rng, TRAINING_DIFFICULTY["symbolic"], cells=False)
        return Lesson("text", problem.question, problem.reasoning, problem.answer)
    problem = questions.ask_visual_reference(rng, TRAINING_DIFFICULTY["visual_reference"])
    reads = [step for step in problem.steps if step.kind == "read"]
    if choice < 0.8:
        seen = " ".join(step.text.split(" is ")[1] for step in reads)
        question = f"walk {reads[0].text.split()[0]} ; {seen} ?"
        return Lesson("text", question, " ".join(f"{step.text} ." for step in reads), "done")
    scans = " ".join(f"{step.text} ." for step in problem.steps if step.kind == "scan")
    listed = problem.question.split(";")[1].split("recall")[0].replace("?", "").strip()
    return Lesson("text", f"scan {reads[-1].text} ; {listed} ?", scans, problem.answer)


def teach_chain(rng: np.random.Generator, benchmark: str) -> Lesson:
    """A gold chain of one benchmark, at the training difficulty."""
    problem = questions.ASK[benchmark](rng, TRAINING_DIFFICULTY[benchmark])
    return Lesson(
        benchmark, problem.question, problem.reasoning, problem.answer, problem.sprite, problem.colour,
        problem.noise_level,
    )  # fmt: skip


Plan = list[tuple[int, Callable[[np.random.Generator], Lesson]]]


def plan_step(phase: int) -> list[Plan]:
    """Return the micro-batches of one optimiser step as (count, teacher) lists: phase 1 has no chains."""
    if phase == 1:
        return [[(24, lambda rng: teach_perception(rng, CLEAN, 18))], [(16, teach_text)]]
    pictures: Plan = [(9, lambda rng, name=name: teach_chain(rng, name)) for name in questions.ASK]  # type: ignore[misc]
    pictures += [(4, lambda rng: teach_perception(rng, CLEAN, 12))]
    pictures += [(4, lambda rng: teach_perception(rng, (0.0, 0.8), 12))]
    return [pictures, [(9, teach_text)]]


def pack(family: str, lessons: list[Lesson], rng: np.random.Generator) -> MicroBatch:
    """Pack lessons of one micro-batch (all with a picture or all without), right-padded."""
    has_image = lessons[0].sprite is not None
    pad = encode_words(family, SPECIAL_TOKENS[family].pad)[0]
    prompts = [encode_words(family, prompt_words(family, x.question, N_IMAGE_TOKENS * has_image)) for x in lessons]
    responses = [encode_words(family, response_words(family, x.reasoning, x.answer)) for x in lessons]
    length = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True))
    ids = np.full((len(lessons), length), pad)
    rows, targets, owner = [], [], []
    for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        ids[index, : len(prompt) + len(response)] = prompt + response
        rows.append(index * length + len(prompt) - 1 + np.arange(len(response)))
        targets.append(response)
        owner.append(np.full(len(response), index))
    patches = None
    if has_image:
        scenes = Scenes(
            np.stack([x.sprite for x in lessons if x.sprite is not None]),
            np.stack([x.colour for x in lessons if x.colour is not None]),
            np.array([x.noise_level for x in lessons], dtype=np.float32),
        )
        patches = patchify(draw(scenes, rng))
    return MicroBatch(
        torch.from_numpy(ids), torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(targets)),
        patches, [x.kind for x in lessons], np.concatenate(owner),
    )  # fmt: skip


def make_step(family: str, phase: int, rng: np.random.Generator) -> list[MicroBatch]:
    """Draw the micro-batches of one optimiser step; lessons of similar length share one, to save padding."""
    batches = []
    for plan in plan_step(phase):
        lessons = [teach(rng) for count, teach in plan for _ in range(count)]
        lessons.sort(key=lambda x: len(x.question.split()) + len(x.reasoning.split()))
        half = (len(lessons) + 1) // 2 if lessons[0].sprite is not None else len(lessons)
        batches += [pack(family, lessons[start : start + half], rng) for start in range(0, len(lessons), half)]
    return batches
