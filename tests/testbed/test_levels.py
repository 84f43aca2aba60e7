"""The second set holds a third of each level in every benchmark, in the words of the first, and asks nothing new."""

from __future__ import annotations

import numpy as np
import pytest

from dontblink_testbed import benchmark, levels
from dontblink_testbed.questions import ASK, Difficulty, Problem, Step
from dontblink_testbed.vocabulary import WORDS

DIFFICULTY = {
    "symbolic": Difficulty((1, 4), (0.0, 0.05), (1, 2)),
    "visual_reference": Difficulty((1, 6), (0.7, 1.0)),
    "hallucination": Difficulty((1, 4), (0.2, 1.0), typical_share=0.7),
}
every_benchmark = pytest.mark.parametrize("name", levels.BENCHMARKS)


def build(*steps: Step) -> Problem:
    """Return a problem of these gold steps."""
    return Problem("symbolic", np.zeros(36, np.int8), np.zeros(36, np.int8), "", steps, "1", 0.0)


def read(text: str, cell: int, kind: str = "read") -> Step:
    return Step(text, kind, (cell,))


FIRST, SECOND = read("a1 is 3", 0), read("b1 is 4", 1)
LONG, SHORT = Step("3 + 4 + 2 + 1 is 0", "compute"), Step("3 + 4 is 7", "compute")


@pytest.mark.parametrize(
    ("steps", "level"),
    [
        ((FIRST, SECOND, LONG), "early"),  # 17 words with the dots, half is 8: b1 is read at word 6
        ((FIRST, SECOND, SHORT), "early"),  # 14, half is 7
        ((FIRST, SHORT, SECOND), "late"),  # b1 is read at word 12 of 14
        ((FIRST, SECOND, read("a1 was 3", 0, "recall"), SHORT), "recall"),  # word 10 of 18
        ((FIRST, read("a1 was 3", 0, "recall"), LONG, SHORT), "early"),  # word 6 of 23
    ],
)
def test_the_level_is_what_the_second_half_of_the_chain_reads(steps: tuple[Step, ...], level: str) -> None:
    assert levels.find_level(build(*steps)) == level


def test_a_no_is_decided_by_what_differs_alone() -> None:
    early = read("a1 is red circle", 0), Step("differ", "judge"), read("b1 is red ring", 1), Step("match", "judge")
    late = read("a1 is red circle", 0), Step("match", "judge"), read("b1 is red ring", 1), Step("differ", "judge")
    assert [levels.find_level(build(*steps)) for steps in (early, late)] == ["early", "late"]


@every_benchmark
def test_a_third_of_the_items_is_of_each_level_in_known_words(name: str) -> None:
    items = list(levels.load_items(name, "test", 60, 5, DIFFICULTY[name]))
    found = [levels.read_level(item.id) for item in items]
    assert [found.count(level) for level in levels.LEVELS] == [20, 20, 20]
    assert {word for item in items for word in item.question.split()} <= {*WORDS}
    firsts = [{*item.question.split()} & {"compute", "follow", "there"} for item in items]
    assert all(own == firsts[0] for own in firsts)  # no level has an opening of its own


@every_benchmark
def test_items_are_made_as_those_of_the_first_set(name: str) -> None:
    items = list(levels.load_items(name, "test", 6, 5, DIFFICULTY[name]))
    again = list(levels.load_items(name, "test", 3, 5, DIFFICULTY[name]))
    assert [item.content_hash for item in items[:3]] == [item.content_hash for item in again]
    other = {item.content_hash for item in levels.load_items(name, "calibration", 6, 5, DIFFICULTY[name])}
    assert not other & {item.content_hash for item in items}
    for item in items:
        assert levels.score(item, item.answer).correct and item.task_type == benchmark.TASK_TYPE[name]


def test_no_level_is_left_to_chance() -> None:
    rng = np.random.default_rng(1)
    drawn = {name: {levels.find_level(ASK[name](rng, DIFFICULTY[name])) for _ in range(300)} for name in ASK}
    assert all(own == {*levels.LEVELS} for own in drawn.values())
