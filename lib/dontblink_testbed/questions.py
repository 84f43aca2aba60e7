"""Questions of the testbed with their gold reasoning: what is asked, what is read where, and the answer.

In: a numpy Generator and the difficulty. Out: a Problem, i.e. the contents of the 36 cells, the question, the gold
steps (each with the cells that it needs), the answer and the covariates. Training chains and benchmark items come
from the same functions; only the seeds and the difficulty differ. Nothing here draws pixels or knows a model.

Every benchmark has two kinds of chain. In a `step` chain each thing read is used at once or copied silently. In a
`recall` chain the word `recall` ends the question and some steps restate what was read before (`f5 was 3 .`): at
these tokens the model may look at the picture again or copy its own text. Training rewards the right word from either
source, though the text of a gold chain is never wrong while the picture is noisy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from dontblink_testbed.scenes import ARROWS, CELLS, COLOURS, DIGITS, GRID, SHAPES, SPRITE_INDEX, describe_cell

OPERATORS = ("+", "-", "*")
OPTION_LETTERS = ("A", "B", "C", "D")
TYPICAL_COLOUR = {
    "circle": "red", "square": "blue", "triangle": "green",
    "diamond": "purple", "cross": "orange", "ring": "cyan",
}  # fmt: skip
_MOVES = {"up": -GRID, "down": GRID, "left": -1, "right": 1}


@dataclass(frozen=True)
class Difficulty:
    """The ranges that items are drawn from: both ends are included.

    Attributes
    ----------
    chain_length : compound steps (symbolic), hops (visual_reference) or conjuncts (hallucination)
    noise_level : uniform range of the picture noise
    operators_per_step : operators joined in one compound step (symbolic only)
    typical_share : how often the decisive shape has its typical colour (hallucination only)
    """

    chain_length: tuple[int, int]
    noise_level: tuple[float, float]
    operators_per_step: tuple[int, int] = (2, 2)
    typical_share: float = 0.9


@dataclass(frozen=True)
class Step:
    """One gold step: its text without the closing dot, its kind, and the cells it needs (reading order)."""

    text: str
    kind: str
    cells: tuple[int, ...] = ()


@dataclass(frozen=True)
class Problem:
    """A question over a grid of cells, with the gold reasoning. `sprite` and `colour` are int8 [36]."""

    benchmark: str
    sprite: npt.NDArray[np.int8]
    colour: npt.NDArray[np.int8]
    question: str
    steps: tuple[Step, ...]
    answer: str
    noise_level: float
    choices: tuple[str, ...] = ()
    covariates: dict[str, float | str] = field(default_factory=dict)

    @property
    def reasoning(self) -> str:
        """The gold chain of thought: every step closed by a dot."""
        return " ".join(f"{step.text} ." for step in self.steps)


def evaluate(expression: str) -> int:
    """Evaluate `8 * 3 + 7` strictly from left to right, modulo 10."""
    words = expression.split()
    value = int(words[0])
    for operator, operand in zip(words[1::2], words[2::2], strict=True):
        value = {"+": value + int(operand), "-": value - int(operand), "*": value * int(operand)}[operator] % 10
    return value


def fill_cells(rng: np.random.Generator) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    """Fill all cells at random: 20 % empty, the rest shapes (with a weak colour prior), digits and arrows."""
    kind = rng.choice(4, size=len(CELLS), p=[0.2, 0.3, 0.25, 0.25])
    first = np.array([0, 1, 1 + len(SHAPES), 1 + len(SHAPES) + len(DIGITS)])[kind]
    count = np.array([1, len(SHAPES), len(DIGITS), len(ARROWS)])[kind]
    sprite = (first + rng.integers(0, count)).astype(np.int8)
    colour = rng.integers(0, len(COLOURS), len(CELLS)).astype(np.int8)
    return sprite, colour


def ask_symbolic(rng: np.random.Generator, difficulty: Difficulty, cells: bool = True) -> Problem:
    """Three digits are read at named cells; compound steps modulo 10 then run on text alone.

    With `cells=False` the operands are literal digits: the image-free arithmetic lesson.
    """
    sprite, colour = fill_cells(rng)
    length = _draw_length(rng, difficulty)
    low, high = difficulty.operators_per_step
    counts = rng.integers(low, high + 1, length)
    counts[0] = max(counts[0], 3 - length)  # two operands at least: two of them are read
    operands = list(rng.choice(DIGITS, counts.sum()))
    steps: list[Step] = []
    named: dict[int, int] = {}
    start = str(rng.choice(DIGITS))
    shown = [start, *operands]
    if cells:
        read = rng.choice(len(CELLS), 3, replace=False)
        for slot, cell in zip([0, *sorted(1 + rng.choice(len(operands), 2, replace=False))], read, strict=True):
            sprite[cell] = SPRITE_INDEX[[start, *operands][slot]]
            named[int(slot)] = int(cell)
            shown[slot] = CELLS[cell]
            steps.append(Step(f"{CELLS[cell]} is {[start, *operands][slot]}", "read", (int(cell),)))
    recall = cells and bool(rng.random() < 0.5)
    value, done, asked = start, 0, [shown[0]]
    for count in counts:
        slots = range(1 + done, 1 + done + count)
        signs = list(rng.choice(OPERATORS, count))
        if recall:
            used = [named[slot] for slot in slots if slot in named]
            steps += [Step(f"{CELLS[c]} was {describe_cell(sprite[c], 0)}", "recall", (c,)) for c in used]
        expression = " ".join(
            [value, *(f"{sign} {operands[slot - 1]}" for sign, slot in zip(signs, slots, strict=True))]
        )
        asked.append(" ".join(f"{sign} {shown[slot]}" for sign, slot in zip(signs, slots, strict=True)))
        value = str(evaluate(expression))
        steps.append(Step(f"{expression} is {value}", "compute"))
        done += count
    question = f"compute {asked[0]} {' ; '.join(asked[1:])}{' recall' if recall else ''} ?"
    return _close("symbolic", rng, difficulty, sprite, colour, question, steps, value, length, recall)


def ask_visual_reference(rng: np.random.Generator, difficulty: Difficulty) -> Problem:
    """Arrows are followed from a named cell to a shape, which is then looked up among four options."""
    sprite, colour = fill_cells(rng)
    length = _draw_length(rng, difficulty)
    path, moves = _draw_path(rng, length)
    for cell, move in zip(path, moves, strict=False):
        sprite[cell] = SPRITE_INDEX[move]
    goal = path[-1]
    options = list(rng.permutation(SHAPES)[: len(OPTION_LETTERS)])
    answer = int(rng.integers(len(options)))
    sprite[goal] = SPRITE_INDEX[options[answer]]
    steps = [Step(f"{CELLS[c]} is {describe_cell(sprite[c], colour[c])}", "read", (c,)) for c in path]
    recall = bool(rng.random() < 0.5)
    if recall:
        recalled = (path[0], goal)
        steps += [Step(f"{CELLS[c]} was {describe_cell(sprite[c], colour[c])}", "recall", (c,)) for c in recalled]
    steps += scan_options(options, answer)
    listed = " ".join(f"{letter} {shape}" for letter, shape in zip(OPTION_LETTERS, options, strict=True))
    question = f"follow {CELLS[path[0]]} ; {listed}{' recall' if recall else ''} ?"
    return _close(
        "visual_reference", rng, difficulty, sprite, colour, question, steps, OPTION_LETTERS[answer], length, recall,
        choices=tuple(str(option) for option in options),
    )  # fmt: skip


def scan_options(options: list[str], answer: int) -> list[Step]:
    """Return the steps that compare the options in order with what was found, up to the match."""
    verdicts = ["differ"] * answer + ["match"]
    return [
        Step(f"{letter} {option} {verdict}", "scan")
        for letter, option, verdict in zip(OPTION_LETTERS, options, verdicts, strict=False)
    ]


def ask_hallucination(rng: np.random.Generator, difficulty: Difficulty) -> Problem:
    """Is there a <colour> <shape> at each of some cells? The questions mostly name the typical colour.

    One conjunct is decisive: its shape has the typical colour in a `typical_share` of the problems. The others
    always match. `prior_side` says whether the picture agrees with what the priors of training suggest (yes).
    """
    sprite, colour = fill_cells(rng)
    length = _draw_length(rng, difficulty)
    cells = [int(c) for c in rng.choice(len(CELLS), length, replace=False)]
    decisive = int(rng.integers(length))
    asked: list[str] = []
    verdicts: list[str] = []
    for row, cell in enumerate(cells):
        shape = str(rng.choice(SHAPES))
        typical = COLOURS.index(TYPICAL_COLOUR[shape])
        sprite[cell] = SPRITE_INDEX[shape]
        atypical = row == decisive and rng.random() >= difficulty.typical_share
        colour[cell] = (typical + rng.integers(1, len(COLOURS))) % len(COLOURS) if atypical else typical
        ask_other = row == decisive and rng.random() < 0.08
        named = int(rng.integers(len(COLOURS))) if ask_other else typical
        asked.append(f"{COLOURS[named]} {shape} at {CELLS[cell]}")
        verdicts.append("match" if named == colour[cell] else "differ")
    reads = [Step(f"{CELLS[c]} is {describe_cell(sprite[c], colour[c])}", "read", (c,)) for c in cells]
    recall = bool(rng.random() < 0.5)
    steps: list[Step] = list(reads) if recall else []
    for cell, read, verdict in zip(cells, reads, verdicts, strict=True):
        again = Step(f"{CELLS[cell]} was {describe_cell(sprite[cell], colour[cell])}", "recall", (cell,))
        steps += [again if recall else read, Step(verdict, "judge")]
    answer = "yes" if all(verdict == "match" for verdict in verdicts) else "no"
    question = f"is there {' and '.join(asked)}{' recall' if recall else ''} ?"
    problem = _close("hallucination", rng, difficulty, sprite, colour, question, steps, answer, length, recall)
    problem.covariates["prior_side"] = "with" if answer == "yes" else "against"
    return problem


def _draw_length(rng: np.random.Generator, difficulty: Difficulty) -> int:
    low, high = difficulty.chain_length
    return int(rng.integers(low, high + 1))


def _draw_path(rng: np.random.Generator, hops: int) -> tuple[list[int], list[str]]:
    """Draw a self-avoiding walk of `hops` moves between neighbouring cells; start again when stuck."""
    while True:
        path, moves = [int(rng.integers(len(CELLS)))], []
        for _ in range(hops):
            row, column = divmod(path[-1], GRID)
            blocked = {"up": row == 0, "down": row == GRID - 1, "left": column == 0, "right": column == GRID - 1}
            open_moves = [m for m in ARROWS if not blocked[m] and path[-1] + _MOVES[m] not in path]
            if not open_moves:
                break
            moves.append(str(rng.choice(open_moves)))
            path.append(path[-1] + _MOVES[moves[-1]])
        if len(moves) == hops:
            return path, moves


def _close(
    benchmark: str,
    rng: np.random.Generator,
    difficulty: Difficulty,
    sprite: npt.NDArray[np.int8],
    colour: npt.NDArray[np.int8],
    question: str,
    steps: list[Step],
    answer: str,
    length: int,
    recall: bool,
    choices: tuple[str, ...] = (),
) -> Problem:
    noise = float(rng.uniform(*difficulty.noise_level))
    covariates: dict[str, float | str] = {
        "noise_level": noise,
        "chain_length": float(length),
        "chain_kind": "recall" if recall else "step",
        "prior_side": "none",
    }
    return Problem(benchmark, sprite, colour, question, tuple(steps), answer, noise, choices, covariates)


ASK: dict[str, Callable[[np.random.Generator, Difficulty], Problem]] = {
    "symbolic": ask_symbolic,
    "visual_reference": ask_visual_reference,
    "hallucination": ask_hallucination,
}
