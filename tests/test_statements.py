"""Claims about statements: what counts as a stated answer for every scorer, and where it ends."""

from __future__ import annotations

import time

import pytest

from dontblink.questions.answers import read_marked, read_statements


@pytest.mark.parametrize(
    ("final", "stated"),
    [
        ("Answer: B", ["B"]),
        ("**Answer:** B\nI am sure.", ["B"]),
        ("### Final Answer\n\n**B**", ["B"]),
        ("The answer to this question is B.", ["B."]),
        ("So the best option would be: D", ["D"]),
        (r"Thus $\boxed{\text{B}}$.", ["B ."]),
        (r"\boxed{\frac{1}{\sqrt{2}}} m", ["frac1sqrt2  m"]),
        ("<answer>no</answer>", ["no"]),
        ("Answer: B\nAnswer: C", ["B", "C"]),
        ("The answer: the correct option is B", ["the correct option is B", "B"]),
        ("Answer choice B is wrong", []),
        ("I can answer that. It is a dog.", []),
        ("", []),
    ],
)
def test_a_statement_is_what_stands_behind_its_marker(final: str, stated: list[str]) -> None:
    assert read_statements(final) == stated


@pytest.mark.parametrize(
    "text",
    [
        "Answer: B", "The closest option is B", "The final choice would be: B", "The answer to this question is B",
        "The best option, I think, was C. The correct answer\n\nB", "The solution is B", "The answers are: B",
        "故选：B", "Final answer: <answer>B</answer>", "The answer was not C: the right choice is B",
    ],
)  # fmt: skip
def test_all_scorers_share_the_markers_of_an_answer(text: str) -> None:
    assert read_statements(text)[-1] == read_marked(text)[0] == "B"


@pytest.mark.parametrize("text", ["Answer choice B is wrong", "Option B is too large", "Solution:\nB is the base"])
def test_what_announces_no_answer_is_a_marker_for_none(text: str) -> None:
    assert read_statements(text) == read_marked(text) == []


@pytest.mark.parametrize("piece", ["答案", "<answer>", "answer is ", "answer a ", "solution ", r"\boxed{", "answer\n"])
def test_a_hundred_thousand_characters_take_a_moment(piece: str) -> None:
    started = time.perf_counter()
    statements = read_statements(piece * (100_000 // len(piece)))
    assert time.perf_counter() - started < 2 and len(statements) <= 20
