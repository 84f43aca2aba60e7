"""Numbers are read whole or not at all: no part of a fraction, a group, a root, a range or a list is a number."""

from __future__ import annotations

import pytest

from dontblink.questions.mathvista import find_answer
from dontblink.questions.numbers import UNREAD, read_numbers, read_words

INTEGER = {"question_type": "free_form", "answer_type": "integer", "choices": None}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\boxed{-\frac{1}{2}}", -0.5), (r"\boxed{\frac{-1}{2}}", -0.5), (r"The slope is $-\dfrac{1}{2}$.", -0.5),
        (r"The answer is $x = -\frac12$", -0.5), ("Answer: –1/2", -0.5), ("Answer: −0.5", -0.5),
        (r"\boxed{- 0.5}", -0.5), (r"\boxed{\frac1{2}}", 0.5), (r"\boxed{\frac{1}2}", 0.5),
        (r"\boxed{2\frac12}", 2.5), (r"\boxed{\sqrt{16}}", 4), (r"\boxed{2\sqrt{3}}", 12**0.5),
        (r"\boxed{\frac{\sqrt{3}}{2}}", 0.75**0.5), (r"\boxed{2^{10}}", 1024), (r"\boxed{3 \times 10^{4}}", 3e4),
        (r"\boxed{3 \cdot 10^4}", 3e4), ("Answer: 3×10⁻²", 0.03), ("Answer: 10^4", 1e4), ("Answer: 12\u2009000", 12000),
        ("Answer: 12\u00a0000", 12000), ("Answer: 1'000", 1000), ("Answer: 1,00,000", 100000), ("Answer: 3,5", 3.5),
        ("Answer: 1.234,56", 1234.56), ("Answer: 12.5%", 12.5), ("Answer: -$5", -5), ("Answer: US$5", 5),
        ("Answer: €3,50", 3.5), ("Answer: １２", 12), ("Answer: 25 cm²", 25), ("Answer: 90°", 90),
        ("Answer: 12 (5 red and 7 blue)", 12), ("Answer: 12 = 5 + 7", 12), ("Answer: 12 (where n = 3)", 12),
        ("Answer: 12, 5 red and 7 blue", 12), ("There are 7 objects left: 3 cubes and 4 spheres.", 7),
        ("**5**\n\nNote: in 2010 there were 3 others.", 5), ("Answer: 5 million", 5e6), ("Answer: twenty-one", 21),
        ("The answer is one hundred and five.", 105), ("Answer: minus five", -5), ("答案是12", 12),
    ],
)  # fmt: skip
def test_a_number_is_read_whole(text: str, value: float) -> None:
    assert float(find_answer(text, INTEGER)) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "Answer: 5-7",
        "Answer: 5 – 7",
        "Answer: 5 to 7",
        "Answer: 5 or 7",
        "Answer: 5 and 7",
        "Answer: x = 3, y = 4",
        "Answer: (3, 4)",
        "Answer: 3:4",
        "Answer: 3/4/5",
        "Answer: 3 × 4",
        "Answer: 2x",
        "Answer: 1_0",
        "Answer: 5 ± 1",
        r"\boxed{\pm 5}",
        "Answer: 2 hours 30 minutes",
        "Answer: 5 cubes and 7 spheres",
        "Answer: two and a half",
        "Answer: two-thirds",
        "The answer is one of the options.",
        "Answer: sin 30",
        "Answer: x > 5",
        "Answer: 2^n",
        "Answer: 1.2.3",
        "Answer: 12:30",
        "Answer: 5, 10",
    ],
)
def test_a_part_of_an_expression_is_no_number(text: str) -> None:
    assert find_answer(text, INTEGER) == ""


def test_places_and_what_cannot_be_read() -> None:
    assert read_numbers("a 1,000 b 2/4 c 5-7 (that)") == [(2, "1000"), (10, "0.5"), (16, UNREAD)]
    assert read_words("two thousand nineteen") == "2019" and read_words("a dog") == ""


def test_a_scale_that_the_question_asks_in_is_no_factor() -> None:
    asked = INTEGER | {"question": "How many million people?"}
    assert float(find_answer("Answer: 5 million", asked)) == 5
