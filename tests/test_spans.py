"""Responses are cut on ids: reasoning before the last think-close, steps at sentence ends, answers without markers."""

from __future__ import annotations

import pytest

from dontblink.spans import Markers, Spans, segment

WORDS = ["<eos>", "<think>", "</think>", "<box>", "</box>"]
QWEN = Markers(frozenset({0}), think_close=2, think_open=1, box_open=None, box_close=None, prompt_opens_think=True)
GLM = Markers(frozenset({0}), think_close=2, think_open=1, box_open=3, box_close=4, prompt_opens_think=False)


def cut(text: str, markers: Markers = QWEN, joiner: str = " ") -> tuple[Spans, list[str]]:
    """Segment whitespace-separated words (`_` stands for a space or newline inside a token)."""
    words = [word.replace("_", " ").replace("\\n", "\n") for word in text.split()]
    vocabulary = WORDS + sorted(set(words) - set(WORDS))
    ids = [vocabulary.index(word) for word in words]
    return segment(ids, markers, lambda chosen: [vocabulary[i] for i in chosen], joiner), words


def show(span: tuple[int, int], words: list[str]) -> str:
    return " ".join(words[slice(*span)])


def test_reasoning_steps_and_answer_of_both_families() -> None:
    for markers, text in (
        (QWEN, "a1 is 3 . 3 + 4 is 7 . </think> 7 <eos>"),
        (GLM, "<think> a1 is 3 . 3 + 4 is 7 . </think> <box> 7 </box> <eos>"),
    ):
        spans, words = cut(text, markers)
        assert [show(step, words) for step in spans.steps] == ["a1 is 3 .", "3 + 4 is 7 ."]
        assert show(spans.reasoning, words) == "a1 is 3 . 3 + 4 is 7 ."
        assert show(spans.answer, words) == "7" and spans.closed


def test_a_truncated_chain_is_all_reasoning_and_says_so() -> None:
    spans, words = cut("a1 is 3 . 3 +")
    assert spans.reasoning == (0, len(words)) and spans.answer[0] == spans.answer[1] and not spans.closed
    assert [show(step, words) for step in spans.steps] == ["a1 is 3 .", "3 +"]


@pytest.mark.parametrize("text", ["<eos>", "</think> <eos>"])
def test_a_response_without_words_has_empty_spans(text: str) -> None:
    spans, _ = cut(text)
    assert spans.steps == () and spans.reasoning == (0, 0) and spans.answer[0] == spans.answer[1]


def test_the_last_think_close_ends_the_reasoning() -> None:
    spans, words = cut("a . </think> b . </think> C <eos>")
    assert show(spans.answer, words) == "C" and spans.reasoning[1] == 5


def test_an_answer_marker_is_not_part_of_the_answer() -> None:
    spans, words = cut("x . </think> so the answer is C <eos>")
    assert show(spans.answer, words) == "C"


def test_steps_partition_the_reasoning_without_gaps() -> None:
    spans, _ = cut("So _it is. \\n\\n Then b! _c ? d </think> d <eos>", joiner="")
    edges = [edge for step in spans.steps for edge in step]
    assert edges[0] == spans.reasoning[0] and edges[-1] == spans.reasoning[1]
    assert edges[1:-1:2] == edges[2::2]


def test_a_decimal_point_does_not_end_a_step() -> None:
    spans, _ = cut("pi_is_3. 14_now. </think> x <eos>", joiner="")
    assert len(spans.steps) == 1
