"""Claims about answers: what stands behind the reasoning, what its writer states, and which option that names."""

from __future__ import annotations

import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dontblink.questions.answers import (
    compare,
    make_plain,
    read_final,
    read_marked,
    read_statements,
    strict_choice,
    strict_yes_no,
)

OPTIONS = ["cat", "dog", "bird", "fish", "0.5 A", "Vitamin C", "red blood cell", "blood cell", "5", "-5"]


@pytest.mark.parametrize(
    ("response", "final"),
    [
        ("B", "B"), ("", ""), ("A or B?</think>\n\nB", "B"), ("<think>A</think> no, <think>B</think>C", "C"),
        ("<think>A, still thinking", ""), ("<think>A</think> so <think>again", ""),
        ("x</think>I say <|begin_of_box|>B<|end_of_box|>.<|im_end|>", "B"),
        ("<|begin_of_box|>A<|end_of_box|> then <|begin_of_box|>B<|end_of_box|>", "B"),
        ("<|begin_of_box|> <|end_of_box|>B", "B"), ("<|begin_of_box|>B", "B"),
        ("<|begin_of_box|>A<|end_of_box|></think>B", "B"),
    ],
)  # fmt: skip
def test_the_final_answer_stands_behind_the_reasoning_and_inside_the_last_box(response: str, final: str) -> None:
    assert read_final(response) == final


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (r"$\dfrac{3}{4}$", "3/4"),
        (r"90^\circ and 90^{\circ} and 90 degrees and 90&deg;", "90° and 90° and 90° and 90°"),
        (r"\textbf{(C) }52", "(C) 52"), ("**B**", "B"), ("<p>B</p>", "B"), ("a < b and b > c", "a < b and b > c"),
        (r"\(2\sqrt{3}\pi \times 10^{-2}\)", "2√3π × 10^-2"), ("−5（a）", "-5(a)"), ("12{,}500", "12,500"),
        ("2*3", "2*3"),
    ],
)  # fmt: skip
def test_plain_text_has_no_latex_markdown_or_html(text: str, plain: str) -> None:
    assert make_plain(text) == plain


@pytest.mark.parametrize(
    ("text", "marked"),
    [
        (r"so \boxed{\textbf{(C) }52}. Done.", ["(C) 52"]), (r"\boxed{1} and \boxed{\frac{1}{2}}", ["1/2"]),
        (r"\boxed{7", ["7"]), ("The answer is B", ["B"]), ("The correct answer would be:\n\n(C) grass", ["(C) grass"]),
        ("**Answer:** B", ["B"]), ("### Final Answer\n\nB", ["B"]), ("<answer>B</answer>", ["B"]), ("答案是B", ["B"]),
        ("The correct option is D.", ["D."]),
        ("The answer is A. Wait. The answer is B.", ["B.", "A. Wait. The answer is B."]),
        ("Option A: 5 cm, wrong.", []), ("The answer choices are: 5, 6", []), ("I answer", []), ("The answer is", []),
    ],
)  # fmt: skip
def test_what_the_writer_marks_as_the_answer_is_read_the_surest_first(text: str, marked: list[str]) -> None:
    assert read_marked(text) == marked


@given(st.text() | st.text("<think>/|begin_of_box answer:is{}\\boxed\n", max_size=300))
def test_no_text_raises_and_no_box_is_left(text: str) -> None:
    assert "<|end_of_box|>" not in read_final(text)
    assert all(marked == marked.strip() for marked in read_marked(text))
    make_plain(text)


@pytest.mark.parametrize(
    ("final", "stated"),
    [
        ("Answer: B", ["B"]), ("**Answer:** B\nI am sure.", ["B"]), ("### Final Answer\n\n**B**", ["B"]),
        ("The answer to this question is B.", ["B."]), ("So the best option would be: D", ["D"]),
        (r"Thus $\boxed{\text{B}}$.", ["B ."]), (r"\boxed{\frac{1}{\sqrt{2}}} m", ["frac1sqrt2  m"]),
        ("<answer>no</answer>", ["no"]), ("Answer: B\nAnswer: C", ["B", "C"]),
        ("The answer: the correct option is B", ["the correct option is B", "B"]), ("Answer choice B is wrong", []),
        ("I can answer that. It is a dog.", []), ("", []),
    ],
)  # fmt: skip
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


def test_what_a_scorer_cannot_read_is_wrong_and_flagged() -> None:
    assert compare("B", official=None, strict="B") == {"official": (False, False, ""), "strict": (True, True, "B")}
    assert compare("B", strict="A") == {"strict": (False, True, "A")}


PIECES = ["<think>", "<|", "<|begin_of_box|>", "answer is ", "answer\n", r"\boxed{", "<a", " ", "\\frac{"]


@pytest.mark.parametrize("piece", [*PIECES, "答案", "<answer>", "answer a ", "solution "])
def test_a_hundred_thousand_characters_take_a_moment(piece: str) -> None:
    text = piece * (100_000 // len(piece))
    started = time.perf_counter()
    read_final(text)
    read_marked(text)
    statements = read_statements(text)
    assert time.perf_counter() - started < 5 and len(statements) <= 20


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


@pytest.mark.parametrize(
    ("final", "letter"),
    [
        ("答案是 B", "B"), ("所以选 B", "B"), ("故选：B", "B"), ("应选B。", "B"), ("正确答案为Ｂ。", "B"),
        ("本题选（B）", "B"),
        ("B选项正确。", "B"), ("选项B是正确的", "B"), ("答えはBです", "B"), ("정답은 B", "B"), ("정답: B", "B"),
        ("La respuesta correcta es B.", "B"), ("La réponse est B.", "B"), ("Die richtige Antwort ist B.", "B"),
        ("Antwort: B", "B"), ("Ｂ", "B"), ("𝐁", "B"), ("Answer: Ⓑ", "B"), ("A错误，B正确。", "B"),
        ("The answer is B, not A or C.", "B"), ("Option A is wrong. Answer: B", "B"),
    ],
)  # fmt: skip
def test_an_answer_is_read_in_other_languages_and_forms(final: str, letter: str) -> None:
    assert strict_choice(final, OPTIONS) == letter


@pytest.mark.parametrize(
    "final",
    [
        "Answer: A and C", "Answer: A or C", "The correct answers are A and C.", "Answer: I or J", "Answer: A/B",
        "Answer: either A or B", "Answer: neither A nor B", "Answer: not B", "It isn't B.", "Option C is wrong.",
        "either A or B is correct", "我不选 A，也不选 B。", "不是B", "A和C正确", "B选项错误。", "B正确吗？",
        "Answer: 5/6", "Answer: √5", "Answer: 5π", "Answer: 5-7",
    ],
)  # fmt: skip
def test_two_options_a_denied_one_or_a_part_of_a_number_name_none(final: str) -> None:
    assert strict_choice(final, OPTIONS) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("是", "yes"), ("是的，两条线平行。", "yes"), ("不是。", "no"), ("否", "no"), ("答案：是", "yes"),
        ("答案是：否", "no"),
        ("没有。", "no"), ("正确", "yes"), ("错误。", "no"), ("不正确", "no"), ("对", "yes"), ("所以，不是。", "no"),
        ("はい", "yes"),
        ("いいえ、違います。", "no"), ("네", "yes"), ("아니요.", "no"), ("Sí, son paralelas.", "yes"), ("Oui.", "yes"),
        ("Non, ils diffèrent.", "no"), ("Nein.", "no"), ("ＹＥＳ", "yes"), ("True.", "yes"), ("Incorrect", "no"),
        ("In conclusion, yes the lines are parallel.", "yes"), ("No both circles are equal.", "no"),
        ("No based on the figure, they are equal.", "no"), ("I would say no since they look equal.", "no"),
        ("是否平行？", None), ("是或否", None), ("这是一个圆。", None), ("不同的颜色", None), ("无法确定", None),
        ("Nonsense", None),
        ("No difference is visible.", None), ("No. 1 is larger than No. 2.", None), ("No one is there.", None),
        ("Neither yes nor no.", None), ("If yes then it is round.", None), ("That is true of circles", None),
        ("No more than two.", None), ("No visible gap", None),
    ],
)  # fmt: skip
def test_yes_and_no_are_read_without_a_comma_and_in_other_languages(text: str, answer: str | None) -> None:
    assert strict_yes_no(text) == answer
