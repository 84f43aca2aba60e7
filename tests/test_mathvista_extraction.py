"""Claims about the rules that find a MathVista answer, in phrases that no fixture holds."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dontblink.questions.mathvista import find_answer, list_choices, quote_refusal, read_numbers

NUMBER = {"question_type": "free_form", "answer_type": "integer", "choices": None}
LIST = NUMBER | {"answer_type": "list"}


def choose(*choices: str) -> dict[str, Any]:
    return {"question_type": "multi_choice", "answer_type": "text", "choices": list(choices)}


ANGLES, ANSWERS = choose("145°", "35°", "55°", "125°"), choose("Yes", "No")
ANIMALS = choose("red fox", "deer", "deer mouse", "oak")
HALVES = choose("1/2", r"\frac{3}{4}")


@pytest.mark.parametrize(
    "text",
    [
        *("B", "b", "B.", "(B)", "(b)", "**B**", "B) 35°", "(B) 35°", "Option B", "option (b)", "35°", "35"),
        *(r"\boxed{B}", r"$\boxed{\text{B}}$", r"\boxed{\textbf{(B)}\ 35}", r"\boxed{35^\circ}"),
        *(
            "Answer: B",
            "**Answer:** (B)",
            "### Final Answer\n\n**B**",
            "The answer is B because A is wrong.",
            "答案是B",
        ),
        *("The correct answer is:\n\n(B) 35°", "The correct option is **B**.", "Thus, the answer is option B."),
        *('The answer is "35°".', "Answer: 35 degrees", "<answer>B</answer>", "故选：B"),
        *("So x = 180 - 145 = 35 degrees.", "Hence the angle is 35°.", "I take (B).", "(A) is too large.\n\n(B)"),
        *(
            "B is the correct answer.",
            "Option A: 145°, no. Option B: 35°, yes.",
            "The answer is x = 180° - 145° = 35°.",
        ),
        "The options are: (A) 145 (C) 55. Of these 35 is smaller, so (B)",
        "The figure is missing. Still, for a right angle:\n\n(B)",
    ],
)
def test_an_option_is_found_by_letter_text_or_value(text: str) -> None:
    assert find_answer(text, ANGLES) == "B"


@pytest.mark.parametrize(
    "text",
    [
        *("", "   ", "E", "(E)", "I cannot see the picture.", "Therefore x is 36°.", "Please provide the figure."),
        "The result is 70°. None of the options (A), (B), (C), (D) matches.",
        "I would take (B). However, this cannot be determined without the figure.",
        "The correct answer should be 70°, but that is not one of the options.",
    ],
)
def test_no_option_is_guessed(text: str) -> None:
    assert find_answer(text, ANGLES) == ""


@pytest.mark.parametrize(
    ("text", "row", "letter"),
    [
        ("Yes, there is no other way.", ANSWERS, "A"),
        ("No, they differ.", ANSWERS, "B"),
        ("NO", ANSWERS, "B"),
        ("The answer is no, as yes would need more.", ANSWERS, "B"),
        ("There is no information about it.", ANSWERS, ""),
        ("The deer mouse population falls.", ANIMALS, "C"),
        ("It is not the oak but the deer.", ANIMALS, "B"),
        ("Between oak and deer, the larger one is the deer.", ANIMALS, "B"),
        ("Either the oak or the deer.", ANIMALS, ""),
        ("The deeryard.", ANIMALS, ""),
        (r"It is \frac{3}{4}", HALVES, "B"),
        ("The probability is 0.75.", HALVES, "B"),
        (r"\boxed{\dfrac{1}{2}}", HALVES, "A"),
        ("From this, it cannot be determined.", choose("5 cm", "6 cm", "cannot be determined"), "C"),
        ("(B) Unable to tell.", choose("It rains.", "Unable to tell."), "B"),
        ("A", choose("B", "A", "C"), "A"),
        ("The answer is (A).", choose("B", "A", "C"), "A"),
        ("(b)", choose("(c)", "(d)", "(a)", "(b)"), "D"),
        ("The answer is A cat.", choose("dog", "cat"), "B"),
        ("18", choose("9", "18", "18"), "B"),
        ("Z", choose(*map(str, range(30))), "Z"),
        ("29", choose(*map(str, range(30))), ""),
        ("A", choose(), ""),
    ],
)
def test_the_words_of_an_option_are_found_in_the_conclusion(text: str, row: dict[str, Any], letter: str) -> None:
    assert find_answer(text, row) == letter


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(
            ("7", "7"),
            ("-3", "-3"),
            ("−3", "-3"),
            ("14 apples", "14"),
            ("2/4", "0.5"),
            (r"\boxed{7}", "7"),
            ("45%", "45"),
        ),
        *(("The answer is 1,000.", "1000"), ("1,234,567.5", "1234567.5"), ("12{,}500", "12500"), ("$1.45", "1.45")),
        *((r"1.5 \times 10^{3} J", "1500.0"), ("2 x 10^-2", "0.02"), ("1e3", "1000.0"), (r"\frac{1}{8}", "0.125")),
        *(("3 - 5 = -2", "-2"), ("7-3", "3"), ("It has 3 red and 4 blue balls, so 3+4 = 7 balls.", "7")),
        *(
            ("Answer: 12 (I subtract 3)", "12"),
            ("The answer is 55 - 12 = 43 apples.", "43"),
            ("The answer is three.", "3"),
        ),
        *(
            ("The width is 0.5 m, or 50 cm.", "0.5"),
            ("- 5 pears\n- 6 plums\nTotal: 11", "11"),
            ("It is 2√3 ≈ 3.46", "3.46"),
        ),
        *(("x = 5. Then y = 6.", "6"), ("The answer is 5. It was 6 before.", "5"), ("**Answer**\n\n5", "5")),
        *(
            ("As an AI I cannot see the 5 people.", ""),
            ("The area is 16π.", ""),
            ("H2O", ""),
            ("none", ""),
            ("1/0", ""),
        ),
        *(("In 2019 there were 5. I do not have more: please provide the table.", ""), ("It is unclear. Say 4.", "4")),
    ],
)
def test_a_number_is_read_as_its_writer_states_it(text: str, number: str) -> None:
    assert find_answer(text, NUMBER) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Answer: 2 1/2", "2.5"), (r"\boxed{2\frac{1}{2}}", "2.5"), (r"Answer: $2 \frac{1}{2}$ cups", "2.5"),
        ("Answer: -2 1/2", "-2.5"), ("The answer is 1,000 1/4.", "1000.25"), ("Answer: 2 3/2", "2"),
        ("Answer: 2.5 1/2", "2.5"), ("Answer: 2\n1/2", "2"), ("Answer: 7/8 1/2", "0.875"), ("Answer: 10 1/0", "10"),
    ],
)  # fmt: skip
def test_a_whole_number_and_a_proper_fraction_are_one_number(text: str, number: str) -> None:
    assert find_answer(text, NUMBER) == number


def test_options_that_are_mixed_numbers_are_matched_by_value() -> None:
    assert find_answer("The probability is 2.5.", choose("1 1/2", "2 1/2", "3")) == "B"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[2007,2008]", "[2007,2008]"),
        (r"$\boxed{[1.5, -2]}$", "[1.5, -2]"),
        ("From [1, 2] we get [2, 1].", "[2, 1]"),
        ("See [A] and [].", ""),
    ],
)
def test_the_last_list_of_numbers_is_found(text: str, found: str) -> None:
    assert find_answer(text, LIST) == found


def test_numbers_keep_their_places() -> None:
    assert read_numbers("a 1,000 b 2/4") == [(2, "1000"), (10, "0.5")]


def test_choices_may_be_null_or_nan() -> None:
    assert list_choices({"choices": None}) == list_choices({"choices": float("nan")}) == list_choices({}) == []


def test_the_sentence_that_declines_is_quoted() -> None:
    assert quote_refusal("A spring is given. The table is not provided. Good luck!") == "The table is not provided."
    assert quote_refusal("One. Two.") == "Two."
    assert quote_refusal("") == ""


PIECES = [
    "answer is ",
    "(A)",
    r"\boxed{",
    "}",
    "1,000",
    "/",
    "-",
    "√",
    "yes",
    "\n",
    ". ",
    "[",
    "]",
    "<b>",
    "א",
    "٣",
    "e9",
    " ",
    "B",
]


@given(
    st.text(max_size=200) | st.lists(st.sampled_from(PIECES), max_size=40).map("".join), st.lists(st.text(max_size=9))
)
def test_no_text_and_no_choices_raise(text: str, choices: list[str]) -> None:
    letter = find_answer(text, choose(*choices))
    assert letter == "" or ord(letter) - ord("A") < len(choices)
    number = find_answer(text, NUMBER)
    assert number == "" or isinstance(float(number), float)
    find_answer(text, LIST)


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "a ",
            "1",
            "1,111,",
            ",111",
            "[1",
            " ",
            "\n",
            "answer is ",
            "answer\n",
            "(A) ",
            r"\boxed{",
            "<a",
            r"\frac{",
            "= 1 ",
            "yes no ",
        ),
        *(". ", "not ", '"', "1/", "1×10^", "without an ", "not an option ", "no word ", "答案", "🙂", "א", "٣", "&#9"),
    ],
)
def test_a_hundred_thousand_characters_take_a_moment(piece: str) -> None:
    text = "[" + piece * (100_000 // len(piece))
    started = time.perf_counter()
    for row in (ANGLES, ANIMALS, NUMBER, LIST):
        find_answer(text, row)
    quote_refusal(text)
    assert time.perf_counter() - started < 5
