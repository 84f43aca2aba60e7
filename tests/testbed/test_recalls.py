"""What a response restates is found where it stands, and its altered picture is the same but for one cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from dontblink.models.generate import item_generator
from dontblink.questions.items import Box, Item, open_image
from dontblink_testbed import benchmark
from dontblink_testbed.questions import Difficulty
from dontblink_testbed.recalls import WORDS, alter, find_recalls, split_statements
from dontblink_testbed.scenes import CELLS, cell_box

DIFFICULTY = {
    "symbolic": Difficulty((2, 4), (0.2, 0.6), (2, 3)),
    "visual_reference": Difficulty((2, 6), (0.2, 0.6)),
    "hallucination": Difficulty((2, 3), (0.2, 0.6), typical_share=0.35),
}
KINDS = {"symbolic": {"digit"}, "visual_reference": {"arrow", "colour", "shape"}, "hallucination": {"colour", "shape"}}
every_benchmark = pytest.mark.parametrize("name", benchmark.BENCHMARKS)


def write(item: Item) -> list[str]:
    """Return the words of the chain that a faultless response would write."""
    return " ".join(f"{step.text} ." for step in item.gold_steps).split()


def ask(name: str, kind: str = "recall", n: int = 40) -> Iterator[tuple[Item, list[str]]]:
    """Yield items that are asked for a restatement, or others, with their words."""
    for item in benchmark.load_items(name, "test", n, 5, DIFFICULTY[name]):
        if item.covariates["chain_kind"] == kind:
            yield item, write(item)


def draw(item: Item, seed: int = 1) -> np.random.Generator:
    return item_generator(seed, item.id)


def cut(box: Box) -> tuple[slice, slice]:
    """Return the rows and columns of a box, px."""
    return slice(int(box.y0), int(box.y1)), slice(int(box.x0), int(box.x1))


@every_benchmark
def test_only_the_named_cell_changes_and_the_noise_elsewhere_is_bit_equal(name: str) -> None:
    n_changed, n_words = 0, 0
    for item, words in ask(name):
        recalls, reason = find_recalls(item, words, draw(item))
        own = np.asarray(open_image(item.images[0]))
        assert recalls and reason == ""
        for recall in recalls:
            differs = (own != np.asarray(open_image(recall.item.images[0]))).any(-1)
            inside = np.zeros_like(differs)
            inside[cut(recall.box)] = True
            assert not differs[~inside].any()
            n_changed, n_words = n_changed + bool(differs.any()), n_words + 1
            assert (recall.item.question, recall.item.answer, recall.item.boxes) == (
                item.question, item.answer, item.boxes,
            )  # fmt: skip
    assert n_words > 10 and n_changed > 0.9 * n_words  # a bar may hide a whole sprite, and a hidden one is not seen
    assert np.array_equal(own, np.asarray(open_image(item.images[0]))), "the item itself is left as it was"


def test_the_altered_cell_is_drawn_as_the_altered_word_says() -> None:
    """Without noise two cells that say the same look the same, up to the jitter by which one was altered."""
    clean = Difficulty((2, 3), (0.0, 0.0), typical_share=0.35)
    item = next(item for item in benchmark.load_items("hallucination", "test", 20, 5, clean))
    cell = CELLS.index(item.boxes[0].label)
    word = item.gold_steps[0].text.split()[2]
    back = alter(alter(item, cell, "colour", "cyan" if word != "cyan" else "red"), cell, "colour", word)
    assert np.array_equal(*(np.asarray(open_image(own.images[0])) for own in (item, back)))
    inks = []
    for colour in ("red", "blue"):
        pixels = np.asarray(open_image(alter(item, cell, "colour", colour).images[0])).astype(int)
        inks.append(pixels[cut(Box(0, *cell_box(cell)))].reshape(-1, 3).min(0))
    assert inks[0][0] > inks[0][2] and inks[1][2] > inks[1][0]  # red has more red than blue, blue more blue than red


@every_benchmark
def test_every_kind_of_word_is_altered_into_another_of_its_kind_at_its_own_place(name: str) -> None:
    kinds, drawn = set(), 0
    for item, words in ask(name):
        recalls, _ = find_recalls(item, words, draw(item))
        spans = split_statements(words)
        assert [recall.kind for recall in recalls] in (["digit"], ["arrow"], ["colour", "shape"])
        for recall in recalls:
            kinds.add(recall.kind)
            assert recall.own_word != recall.altered_word
            assert {recall.own_word, recall.altered_word} <= set(WORDS[recall.kind])
            assert words[recall.read_token] == words[recall.recall_token] == recall.own_word
            for span, token, verb in (
                (recall.read, recall.read_token, "is"),
                (recall.recall, recall.recall_token, "was"),
            ):
                assert span in spans and span[0] + 2 <= token < span[1] - 1
                assert (words[span[0] + 1], words[span[1] - 1]) == (verb, ".")
                assert recall.box == Box(0, *cell_box(CELLS.index(words[span[0]])))
            assert recall.read < recall.recall
            needed = {(box.x0, box.y0) for box in item.boxes}
            assert (recall.box.x0, recall.box.y0) in needed and (recall.other_box.x0, recall.other_box.y0) not in needed
            if recall.other:
                drawn += 1
                assert recall.other in spans and recall.other < recall.recall
                assert recall.other != recall.read and words[recall.other[0] + 1] == "is"
                assert recall.other[1] - recall.other[0] == recall.recall[1] - recall.recall[0]
    assert kinds == KINDS[name] and drawn > 0


@every_benchmark
def test_the_same_seed_draws_the_same_and_another_one_another_word(name: str) -> None:
    pairs = [(item, words) for item, words in ask(name)]

    def read(seed: int) -> list[tuple[str, int, Box]]:
        found = (find_recalls(item, words, draw(item, seed))[0][0] for item, words in pairs)
        return [(recall.altered_word, recall.recall_token, recall.other_box) for recall in found]

    assert read(1) == read(1) != read(2)


@every_benchmark
def test_an_item_that_asks_for_no_restatement_has_none_and_no_reason(name: str) -> None:
    pairs = list(ask(name, "step"))
    assert pairs and all(find_recalls(item, words, draw(item)) == ([], "") for item, words in pairs)


def misread(words: list[str]) -> list[str]:
    """Say another colour wherever a colour is read and restated."""
    return [
        "green" if word in WORDS["colour"] and word != "green" else "red" if word == "green" else word for word in words
    ]


def restate_other(words: list[str]) -> list[str]:
    """Say another colour where a colour is restated."""
    spans = split_statements(words)
    return [word for a, b in spans for word in (misread(words[a:b]) if words[a + 1 : a + 2] == ["was"] else words[a:b])]


def drop(words: list[str], verb: str) -> list[str]:
    spans = split_statements(words)
    return [word for a, b in spans for word in words[a:b] if words[a + 1 : a + 2] != [verb]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda words: drop(words, "was"), "restates nothing"),
        (lambda words: [], "restates nothing"),
        (lambda words: drop(words, "is"), "restates what it has not read"),
        (lambda words: drop(words, "is") + words[: words.index(".") + 1], "restates what it has not read"),
        (misread, "has read it wrongly"),
        (restate_other, "restates other words than it has read"),
        (lambda words: words[: words.index("was") + 1], "restates nothing"),  # cut within the statement
    ],
)
def test_why_a_response_restates_nothing_usable(change: Callable[[list[str]], list[str]], reason: str) -> None:
    pairs = list(ask("hallucination"))
    assert len(pairs) > 10
    assert {find_recalls(item, change(words), draw(item))[1] for item, words in pairs} == {reason}
    assert not any(find_recalls(item, change(words), draw(item))[0] for item, words in pairs)


def test_an_empty_cell_has_no_word_to_alter() -> None:
    """A response that reads a cell rightly as empty, and restates that."""
    item, _ = next(ask("hallucination"))
    scene = item.images[0].draw.args[0]  # type: ignore[union-attr]
    empty = CELLS[int(np.flatnonzero(scene.sprite[0] == 0)[0])]
    assert find_recalls(item, f"{empty} is empty . {empty} was empty .".split(), draw(item)) == (
        [], "restates an empty cell",
    )  # fmt: skip


def test_a_thing_that_was_read_twice_is_held_against_its_last_reading() -> None:
    item, words = next(ask("symbolic"))
    recall = find_recalls(item, words, draw(item))[0][0]
    again = words[slice(*recall.read)]
    twice = [*words[: recall.recall[0]], *again, *words[recall.recall[0] :]]
    found = find_recalls(item, twice, draw(item))[0][0]
    assert found.read == recall.recall and found.recall[0] == recall.recall[0] + len(again)


@pytest.mark.parametrize("kind", ["colour", "shape", "digit", "arrow"])
def test_one_word_is_altered_and_the_other_stays(kind: str) -> None:
    item, _ = next(ask("hallucination"))
    cell = CELLS.index(item.boxes[0].label)
    scene, other = (
        own.images[0].draw.args[0]  # type: ignore[union-attr]
        for own in (item, alter(item, cell, kind, WORDS[kind][-1]))
    )
    changed = np.argwhere((scene.sprite != other.sprite) | (scene.colour != other.colour)).tolist()
    assert changed in ([], [[0, cell]])
    stays = "sprite" if kind == "colour" else "colour"
    assert np.array_equal(getattr(scene, stays), getattr(other, stays))


@every_benchmark
def test_a_marker_before_the_first_statement_hides_nothing(name: str) -> None:
    for item, words in ask(name):
        plain, marked = (find_recalls(item, own, draw(item)) for own in (words, ["<think>", *words]))
        assert marked[1] == plain[1] == ""
        assert [recall.recall_token for recall in marked[0]] == [recall.recall_token + 1 for recall in plain[0]]
