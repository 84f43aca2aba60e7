"""Claims about TreeBench: every gold is recovered from odd options, boxes are refused where they show the question."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dontblink import paths
from dontblink.questions import treebench
from dontblink.questions.items import Item, ItemError
from dontblink.questions.sources import Row

FIXTURE = paths.ROOT.parent / "shared" / "fixtures" / "boxed" / "treebench" / "treebench_rows.jsonl"
FIELDS = {
    "question_id": 3, "question": "Which?", "options": "A. a cat\nB. a dog", "answer": "B",
    "category": "Reasoning/Ordering", "target_instances": "[[1.0, 2.0, 30.5, 40.0]]",
}  # fmt: skip


def build(**changes: Any) -> Item:
    return treebench.build_item(Row("row 1", {**FIELDS, **changes}, {"image": b"x"}))


@pytest.mark.skipif(not FIXTURE.is_file(), reason="../shared/fixtures/boxed is absent")
def test_every_official_row_has_its_gold_among_its_options_and_all_its_boxes() -> None:
    for fields in map(json.loads, FIXTURE.read_text().splitlines()):
        item = treebench.build_item(Row("row", fields, {"image": b"x"}))
        is_printed = fields["category"] == "Perception/OCR"
        assert item.answer == fields["answer"] and all(item.choices)
        assert len(item.boxes) == (0 if is_printed else len(json.loads(fields["target_instances"])))
        assert ("no_evidence" in item.covariates) == is_printed


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("A. one\nB. two ", ["one", "two"]),
        ("A one\nB two words\nC three", ["one", "two words", "three"]),
        ("A. Plan B. it is\nB. Type C road\nC. none", ["Plan B. it is", "Type C road", "none"]),
        ("A. one B. two C. three", ["one", "two", "three"]),
        ("(A) one\n(B) two", ["one", "two"]),
        ("A.one\nB.two", ["one", "two"]),
        ("A one B two C three", ["one", "two", "three"]),
        ("A. one\nB. two\nC. three\nC. four", ["one", "two", "three\nC. four"]),
        ("Choose. A. one\nB. two", []),
        ("", []),
    ],
)
def test_options_are_read_in_sequence(text: str, options: list[str]) -> None:
    assert treebench.split_options(text) == options


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"answer": "F"}, "answer 'F' is none of 2 options"), ({"options": "nothing"}, "none of 0 options"),
        ({"target_instances": "[]"}, "expected one box or more"), ({"target_instances": "[1, 2"}, "not a Python list"),
        ({"target_instances": "[[1, 2, 3]]"}, "expected x0, y0, x1, y1 in px"),
        ({"target_instances": [[1, 2, float("nan"), 4]]}, "expected x0, y0, x1, y1 in px"),
    ],
)  # fmt: skip
def test_what_is_no_item_says_why(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ItemError, match=reason):
        build(**changes)


def test_two_options_of_one_letter_are_noted() -> None:
    item = build(options="A. one\nB. two\nB. three")
    assert item.covariates["note"] == treebench.TWICE and "note" not in build().covariates


@pytest.mark.parametrize(
    ("response", "gold", "toolkit", "repository", "strict"),
    [
        ("C", "C", True, True, True), ("(C)", "C", True, False, True), ("C. red", "C", True, True, True),
        ("F", "F", False, True, True), ("", "A", True, False, False), ("The answer is C", "C", True, False, True),
        ("Black, so C.", "C", False, False, False), ("so A or B</think>\n<answer>C</answer>", "C", True, True, True),
        ("<think>C", "C", False, False, False), ("B or C", "B", True, True, False),
    ],
)  # fmt: skip
def test_the_three_scorers_read_as_they_are_told(
    response: str, gold: str, toolkit: bool, repository: bool, strict: bool
) -> None:
    item = build(
        options="\n".join(f"{letter}. option {letter.lower()}{letter.lower()}" for letter in "ABCDEF"), answer=gold
    )
    found = treebench.scores(response, item)
    assert {name: score.correct for name, score in found.items()} == {
        "official_toolkit": toolkit, "official_repository": repository, "strict": strict,
    }  # fmt: skip
