"""Claims about statements: what counts as a stated answer, and where it ends."""

from __future__ import annotations

import pytest

from dontblink.benchmarks.statements import read_statements


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
