"""Claims about a response's end: what stands behind the reasoning, a text's plain form, and marked answers."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dontblink.questions.answers import make_plain, read_final, read_marked


@pytest.mark.parametrize(
    ("response", "final"),
    [
        ("B", "B"),
        ("", ""),
        ("A or B?</think>\n\nB", "B"),
        ("<think>A</think> no, <think>B</think>C", "C"),
        ("<think>A, still thinking", ""),
        ("<think>A</think> so <think>again", ""),
        ("x</think>I say <|begin_of_box|>B<|end_of_box|>.<|im_end|>", "B"),
        ("<|begin_of_box|>A<|end_of_box|> then <|begin_of_box|>B<|end_of_box|>", "B"),
        ("<|begin_of_box|> <|end_of_box|>B", "B"),
        ("<|begin_of_box|>B", "B"),
        ("<|begin_of_box|>A<|end_of_box|></think>B", "B"),
    ],
)
def test_the_final_answer_stands_behind_the_reasoning_and_inside_the_last_box(response: str, final: str) -> None:
    assert read_final(response) == final


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (r"$\dfrac{3}{4}$", "3/4"),
        (r"90^\circ and 90^{\circ} and 90 degrees and 90&deg;", "90° and 90° and 90° and 90°"),
        (r"\textbf{(C) }52", "(C) 52"),
        ("**B**", "B"),
        ("<p>B</p>", "B"),
        ("a < b and b > c", "a < b and b > c"),
        (r"\(2\sqrt{3}\pi \times 10^{-2}\)", "2√3π × 10^-2"),
        ("−5（a）", "-5(a)"),
        ("12{,}500", "12,500"),
        ("2*3", "2*3"),
    ],
)
def test_plain_text_has_no_latex_markdown_or_html(text: str, plain: str) -> None:
    assert make_plain(text) == plain


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        (r"so \boxed{\textbf{(C) }52}. Done.", ["(C) 52"]),
        (r"\boxed{1} and \boxed{\frac{1}{2}}", ["1/2"]),
        (r"\boxed{7", ["7"]),
        ("The answer is B", ["B"]),
        ("The correct answer would be:\n\n(C) grass", ["(C) grass"]),
        ("**Answer:** B", ["B"]),
        ("### Final Answer\n\nB", ["B"]),
        ("<answer>B</answer>", ["B"]),
        ("答案是B", ["B"]),
        ("The correct option is D.", ["D."]),
        ("The answer is A. Wait. The answer is B.", ["B.", "A. Wait. The answer is B."]),
        ("Option A: 5 cm, wrong.", []),
        ("The answer choices are: 5, 6", []),
        ("I answer", []),
        ("The answer is", []),
    ],
)
def test_what_the_writer_marks_as_the_answer_is_read_the_surest_first(text: str, marked: list[str]) -> None:
    assert read_marked(text) == marked


@given(st.text() | st.text("<think>/|begin_of_box answer:is{}\\boxed\n", max_size=300))
def test_no_text_raises_and_no_box_is_left(text: str) -> None:
    assert "<|end_of_box|>" not in read_final(text)
    assert all(marked == marked.strip() for marked in read_marked(text))
    make_plain(text)


@pytest.mark.parametrize(
    "piece", ["<think>", "<|", "<|begin_of_box|>", "answer is ", "answer\n", r"\boxed{", "<a", " ", "\\frac{"]
)
def test_a_hundred_thousand_characters_take_a_moment(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    started = time.perf_counter()
    read_final(text)
    read_marked(text)
    assert time.perf_counter() - started < 5
