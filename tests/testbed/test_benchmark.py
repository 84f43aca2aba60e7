"""The testbed asks what it says, draws what it says, and knows the answer and the evidence of what it asks."""

from __future__ import annotations

import numpy as np
import pytest

from dontblink.errors import NamedError
from dontblink.questions.items import open_image, validate
from dontblink_testbed import benchmark, questions, scenes
from dontblink_testbed.questions import Difficulty

DIFFICULTY = {
    "symbolic": Difficulty((1, 4), (0.0, 0.3), (1, 3)),
    "visual_reference": Difficulty((2, 6), (0.0, 0.3)),
    "hallucination": Difficulty((1, 3), (0.0, 0.3), typical_share=0.35),
}
every_benchmark = pytest.mark.parametrize("name", benchmark.BENCHMARKS)


def make_items(name: str, n: int = 40, split: str = "test", seed: int = 5) -> list:
    return list(benchmark.load_items(name, split, n, seed, DIFFICULTY[name]))


@every_benchmark
def test_items_are_valid_and_the_same_from_the_same_seed(name: str) -> None:
    items = make_items(name)
    for item in items:
        validate(item)
    assert [i.content_hash for i in items] == [i.content_hash for i in make_items(name)]
    assert items[3].content_hash == make_items(name, 4)[3].content_hash
    other = {i.content_hash for i in make_items(name, split="calibration")}
    assert not other & {i.content_hash for i in items}
    assert {i.content_hash for i in make_items(name, seed=6)}.isdisjoint(i.content_hash for i in items)


@every_benchmark
def test_a_picture_is_drawn_when_somebody_looks_at_it_and_is_then_the_one_of_the_seed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = benchmark.BENCHMARKS.index(name)
    rng = np.random.default_rng([5, index, 0, 0])
    problem = questions.ASK[name](rng, DIFFICULTY[name])
    noise = np.array([problem.noise_level], np.float32)
    drawn = scenes.draw(scenes.Scenes(problem.sprite[None], problem.colour[None], noise), rng)[0]
    monkeypatch.setattr(benchmark, "draw", lambda *_: pytest.fail("drawn before anybody looked"))
    first, second = make_items(name, 2)
    validate(first)
    monkeypatch.undo()
    np.testing.assert_array_equal(np.asarray(open_image(first.images[0])), drawn)
    assert first == make_items(name, 1)[0] and first.images != second.images


@every_benchmark
def test_the_boxes_of_a_read_step_hold_what_it_says(name: str) -> None:
    """Blanking the box changes the picture inside it only, and the clean cell is the sprite that the step names."""
    clean = Difficulty(DIFFICULTY[name].chain_length, (0.0, 0.0), typical_share=0.35)
    for index in range(20):
        rng = np.random.default_rng([7, index])
        problem = questions.ASK[name](rng, clean)
        for step in problem.steps:
            for cell in step.cells:
                assert step.text.split()[0] == scenes.CELLS[cell]
                said = step.text.split(" is ")[-1].split(" was ")[-1]
                assert said == scenes.describe_cell(problem.sprite[cell], problem.colour[cell])


def test_a_cell_box_covers_exactly_the_pixels_of_its_sprite() -> None:
    sprite = np.zeros((1, 36), np.int8)
    colour = np.zeros((1, 36), np.int8)
    level = np.zeros(1, np.float32)
    blank = scenes.draw(scenes.Scenes(sprite, colour, level), np.random.default_rng(0))[0]
    for cell in (0, 8, 35):
        filled = sprite.copy()
        filled[0, cell] = scenes.SPRITE_INDEX["square"]
        image = scenes.draw(scenes.Scenes(filled, colour, level), np.random.default_rng(0))[0]
        rows, columns = np.nonzero((image != blank).any(axis=-1))
        x0, y0, x1, y1 = scenes.cell_box(cell)
        assert x0 <= columns.min() and columns.max() < x1 and y0 <= rows.min() and rows.max() < y1


def test_symbolic_steps_compute_left_to_right_modulo_10() -> None:
    assert questions.evaluate("8 * 3 + 7") == 1
    assert questions.evaluate("3 - 7") == 6
    for item in make_items("symbolic"):
        steps = [s.text for s in item.gold_steps if s.kind == "compute"]
        for text in steps:
            expression, value = text.split(" is ")
            assert questions.evaluate(expression) == int(value)
        assert item.answer == steps[-1].split(" is ")[1]
        assert all(a.split(" is ")[1] == b.split()[0] for a, b in zip(steps, steps[1:], strict=False))


def test_the_question_of_a_symbolic_item_has_the_answer_that_the_picture_gives() -> None:
    """Solve it from the question and the read cells alone, without the gold chain."""
    for item in make_items("symbolic"):
        seen = dict(s.text.split(" is ") for s in item.gold_steps if s.kind == "read")
        words = item.question.removeprefix("compute ").replace(";", "").replace("recall", "").replace("?", "").split()
        assert str(questions.evaluate(" ".join(seen.get(word, word) for word in words))) == item.answer


def test_arrows_lead_to_the_named_option() -> None:
    for item in make_items("visual_reference"):
        reads = [s.text.split(" is ") for s in item.gold_steps if s.kind == "read"]
        for (cell, move), (following, _) in zip(reads, reads[1:], strict=False):
            column, row = "abcdef".index(cell[0]), int(cell[1])
            across, along = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}[move]
            assert following == f"{'abcdef'[column + across]}{row + along}"
        assert item.choices["ABCD".index(item.answer)] == reads[-1][1].split()[-1]
        assert len(set(item.choices)) == 4


def test_hallucination_answers_follow_from_the_picture_and_name_the_side_of_the_prior() -> None:
    items = make_items("hallucination", 200)
    for item in items:
        seen = dict(s.text.split(" is ") for s in item.gold_steps if s.kind == "read")
        asked = item.question.removeprefix("is there ").split(" recall")[0].rstrip(" ?").split(" and ")
        truth = all(seen[cell] == thing for thing, cell in (part.split(" at ") for part in asked))
        assert item.answer == ("yes" if truth else "no")
        assert item.covariates["prior_side"] == ("with" if truth else "against")
    share = np.mean([item.covariates["prior_side"] == "against" for item in items])
    assert 0.5 < share < 0.75  # the prior misleads in most test items: 1 - typical_share, a little noise


def test_recall_steps_restate_an_earlier_read_and_only_in_recall_chains() -> None:
    for name in benchmark.BENCHMARKS:
        kinds = {"recall": 0, "step": 0}
        for item in make_items(name):
            kind = item.covariates["chain_kind"]
            kinds[str(kind)] += 1
            seen: set[str] = set()
            for step in item.gold_steps:
                if step.kind == "recall":
                    assert step.text.replace(" was ", " is ") in seen
                seen.add(step.text)
            assert any(s.kind == "recall" for s in item.gold_steps) == (kind == "recall")
            assert ("recall" in item.question.split()) == (kind == "recall")
        assert min(kinds.values()) > 5


def test_the_scorer_takes_one_word_and_flags_everything_else() -> None:
    item = make_items("symbolic", 1)[0]
    assert benchmark.score(item, f" {item.answer} ") == (True, True, item.answer)
    assert benchmark.score(item, "") == (False, False, "")
    assert benchmark.score(item, f"{item.answer} {item.answer}") == (False, False, "")


def test_an_unknown_benchmark_is_an_error() -> None:
    with pytest.raises(NamedError, match="benchmark 'maths' has no loader; expected one of symbolic, "):
        benchmark.read_difficulty("maths", {})
