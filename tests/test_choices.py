"""Claims about named choices: a letter or a text is read where it is the answer, and nowhere else."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dontblink.questions.answers import strict_choice

OPTIONS = ["cat", "dog", "bird", "fish", "0.5 A", "Vitamin C", "red blood cell", "blood cell", "5", "-5"]


@pytest.mark.parametrize(
    ("final", "letter"),
    [
        ("b", "B"), ("**B**", "B"), ("(B)", "B"), ("B) dog", "B"), ("Option B: dog", "B"), ("Answer: b", "B"),
        (r"$\boxed{\text{(B) dog}}$", "B"), ("Answer: dog", "B"), ("It is a dog.", "B"), ("Answer: B (dog)", "B"),
        ("Answer: I think it is B", "B"), ("The answer is B, not C.", "B"), ("(A) is wrong, (C) is right", "C"),
        ("Answer: Vitamin C", "F"), ("red blood cell", "G"), ("So it is 5.", "I"), ("So it is -5.", "J"),
        ("Answer: 0.5 A", "E"), ("Answer: B\n\nOption C is wrong because of its legs.", "B"),
        ("The correct answer is A.\n\nWait.\n\n**B. dog**", "B"), ("Answer: D\nAnswer: unclear", "D"),
        ("I see legs.\n\n- four legs\n- a tail\n\n**B. dog**", "B"),
    ],
)  # fmt: skip
def test_an_answer_is_read(final: str, letter: str) -> None:
    assert strict_choice(final, OPTIONS) == letter


@pytest.mark.parametrize(
    "final",
    [
        "", "I think so.", "A dog and a cat", "It is not a dog.", "A dog or something else", "Answer: B or C",
        "Answer: B, C", "(A) or (C)", "The answer is not B", "Vitamin K helps", "It weighs 5.5 kg", "15 or so",
        "Answer: K", "A. cat\nB. dog", "* (A) a cat?\n* (B) a dog?", "The correct answer is:",
        "Option B is better than option C", "A is bigger", "It has a tail, so it is a dog, and the following holds:",
    ],
)  # fmt: skip
def test_where_no_single_option_is_named_nothing_is_read(final: str) -> None:
    assert strict_choice(final, OPTIONS) is None


def test_where_options_are_letters_only_a_statement_counts() -> None:
    options = ["B", "C", "A"]
    assert strict_choice("So it is option A.", options) is None
    assert strict_choice("Answer: A", options) == "A"


def test_a_text_that_begins_like_a_letter_is_read_as_the_text() -> None:
    options = ["A: 1; B: 2", "A: 2; B: 1", "A: 2; B: 2"]
    assert strict_choice("Answer: A: 2; B: 1", options) == "B"


@given(
    index=st.integers(0, 25),
    words=st.lists(st.sampled_from(["so", "the", "picture", "shows", "legs", "and", "it"]), max_size=30),
    form=st.sampled_from(
        ["Answer: {}", "The answer is ({}).", "**{}**", "{}.", r"\boxed{{{}}}", "Final answer: **{}**"]
    ),
)
def test_every_letter_is_read_behind_any_reasoning(index: int, words: list[str], form: str) -> None:
    letter = string.ascii_uppercase[index]
    options = [f"choice number {number} of many" for number in range(26)]
    assert strict_choice(" ".join(words) + "\n\n" + form.format(letter), options) == letter
