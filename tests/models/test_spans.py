"""Responses are cut on ids: reasoning before the last think-close, steps at sentence ends, answers without markers."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dontblink.models.spans import Markers, Spans, segment

WORDS = ["<eos>", "<think>", "</think>", "<box>", "</box>"]
QWEN = Markers(frozenset({0}), think_close=2, think_open=1, box_open=None, box_close=None, prompt_opens_think=True)
GLM = Markers(frozenset({0}), think_close=2, think_open=1, box_open=3, box_close=4, prompt_opens_think=False)
PLAIN = dataclasses.replace(GLM, thinks=False)


def cut(text: str, markers: Markers = QWEN, joiner: str = " ") -> tuple[Spans, list[str]]:
    """Segment whitespace-separated words (`_` stands for a space or newline inside a token)."""
    words = [word.replace("_", " ").replace("\\n", "\n") for word in text.split()]
    vocabulary = WORDS + sorted(set(words) - set(WORDS))
    ids = [vocabulary.index(word) for word in words]
    return segment(ids, markers, lambda chosen: [vocabulary[i] for i in chosen], joiner), words


def show(span: tuple[int, int], words: list[str]) -> str:
    return " ".join(words[slice(*span)])


@pytest.mark.parametrize(
    ("markers", "text", "steps", "answer", "closed"),
    [
        (QWEN, "f5 is 3 . 3 + 4 is 7 . </think> 7 <eos>", ["f5 is 3 .", "3 + 4 is 7 ."], "7", True),
        (QWEN, "f5 . </think> answer is 7 <eos>", ["f5 ."], "7", True),
        (QWEN, "f5 . </think> so the answer is C <eos>", ["f5 ."], "C", True),
        (QWEN, "f5 . </think> answer B <eos>", ["f5 ."], "B", True),
        (QWEN, "f5 </think> 3 . </think> 7", ["f5 </think> 3 ."], "7", True),  # the last think-close ends the reasoning
        (QWEN, "f5 is 3 . 3 + 4", ["f5 is 3 .", "3 + 4"], "", False),  # truncated: all is reasoning
        (QWEN, "f5 is <eos>", ["f5 is"], "", False),
        (QWEN, "f5 </think> <eos>", ["f5"], "", True),
        (QWEN, "</think>", [], "", True),
        (QWEN, "<eos>", [], "", False),
        (QWEN, "", [], "", False),
        (GLM, "<think> f5 . 3 . </think> <box> 7 </box> <eos>", ["f5 .", "3 ."], "7", True),
        (GLM, "<think> f5 </think> final Answer : <box> B A </box> . <eos>", ["f5"], "B A", True),
        (GLM, "<think> f5 </think> <box> 7", ["f5"], "7", True),
        (GLM, "<think> f5 <box> 4 </box> </think> 7 <eos>", ["f5 <box> 4 </box>"], "7", True),
        (GLM, "<think> f5 is 3 .", ["f5 is 3 ."], "", False),
        (GLM, "<think>", [], "", False),
        (GLM, "f5 </think> 7 <eos>", ["f5"], "7", True),
    ],
)
def test_a_chain_that_thinks_ends_at_its_last_think_close(
    markers: Markers, text: str, steps: list[str], answer: str, closed: bool
) -> None:
    spans, words = cut(text, markers)
    assert [show(step, words) for step in spans.steps] == steps
    assert show(spans.reasoning, words) == " ".join(steps)
    assert (show(spans.answer, words), spans.closed) == (answer, closed)


def test_a_decimal_point_does_not_end_a_step() -> None:
    spans, _ = cut("pi_is_3. 14_now. </think> x <eos>", joiner="")
    assert len(spans.steps) == 1


@pytest.mark.parametrize(
    ("text", "reasoning", "answer", "closed"),
    [
        ("a is 3 . Answer : B", "a is 3 .", "B", True),
        ("a is 3 . Answer : B <eos>", "a is 3 .", "B", True),
        ("a is 3 . So the final answer is B . <eos>", "a is 3 .", "B .", True),
        ("the answer is A ? no . ** Answer: ** B", "the answer is A ? no .", "B", True),
        ("answer B", "", "B", True),
        ("a is 3 . b is 4 .", "a is 3 . b is 4 .", "", False),
        ("a is 3 . b is 4 . <eos>", "a is 3 . b is 4 .", "", True),
        ("a is 3 . Answer:", "a is 3 . Answer:", "", False),
        ("a is 3 . <box> B </box> <eos>", "a is 3 .", "B", True),
        ("a is 3 . The answer is <box> B </box> . <eos>", "a is 3 .", "B", True),
        ("the answer is A . no : <box> 4 </box> and <box> B", "the answer is A . no : <box> 4 </box> and", "B", True),
        ("<eos>", "", "", True),
        ("", "", "", False),
    ],
)
def test_a_checkpoint_that_does_not_think_is_cut_at_its_answer(
    text: str, reasoning: str, answer: str, closed: bool
) -> None:
    spans, words = cut(text, PLAIN)
    assert (show(spans.reasoning, words), show(spans.answer, words), spans.closed) == (reasoning, answer, closed)


@pytest.mark.parametrize(
    ("markers", "text", "answer"),
    [
        (GLM, "The answer is <box> 12 </box> <eos>", "12"), (GLM, "12 <eos>", "12"),
        (GLM, "<box> 12 </box> <eos>", "12"), (GLM, "3 + 4 is 7 . So the answer is 7 . <eos>", "7 ."),
        (GLM, "a is 3 . b is 4 . <eos>", "a is 3 . b is 4 ."), (GLM, "<think> </think> 12 <eos>", "12"),
        (GLM, "<think> _\\n\\n_ </think> Answer: 12 <eos>", "12"), (GLM, "</think> 12 <eos>", "12"),
        (GLM, "<think> </think> </think> 12 <eos>", "12"), (GLM, "Sure . <think> </think> 12 <eos>", "12"),
        (QWEN, "</think> 12 <eos>", "12"), (QWEN, "<think> _\\n </think> 12 <eos>", "12"),
        (QWEN, "_\\n </think> B", "B"),
        (PLAIN, "12 <eos>", "12"), (PLAIN, "B. dog <eos>", "B. dog"), (PLAIN, "It is a dog . <eos>", "It is a dog ."),
        (PLAIN, "<think> _\\n </think> 12 <eos>", "12"), (PLAIN, "答案是 B <eos>", "B"), (GLM, "<eos>", ""),
    ],
)  # fmt: skip
def test_a_finished_answer_without_reasoning_is_whole_and_has_no_reasoning(
    markers: Markers, text: str, answer: str
) -> None:
    spans, words = cut(text, markers)
    assert (show(spans.answer, words), spans.closed) == (answer, True)
    assert spans.steps == () and spans.reasoning[0] == spans.reasoning[1]


@pytest.mark.parametrize(
    ("markers", "text", "reasoning"),
    [
        (QWEN, "The answer is 12 <eos>", "The answer is 12"),  # the prompt opened a reasoning that never ended
        (QWEN, "12", "12"), (GLM, "<think> The answer is <box> 12 </box> <eos>", "The answer is <box> 12 </box>"),
        (GLM, "<think> a </think> 7 <think> b <eos>", "a </think> 7 <think> b"),  # opened a second time
        (GLM, "Sure . <think> a <eos>", "a"), (GLM, "The answer is 1", ""),  # cut off without a reasoning: 1 of 12?
        (GLM, "The answer is <box> 1", ""), (GLM, "The answer", ""), (PLAIN, "12", "12"), (PLAIN, "B. do", "B. do"),
    ],
)  # fmt: skip
def test_what_never_came_to_its_end_has_no_answer(markers: Markers, text: str, reasoning: str) -> None:
    spans, words = cut(text, markers)
    assert (show(spans.reasoning, words), show(spans.answer, words), spans.closed) == (reasoning, "", False)


def test_text_before_an_opened_reasoning_is_no_part_of_it() -> None:
    spans, words = cut("Sure . <think> f5 . </think> f6 . </think> 7 <eos>", GLM)
    assert (show(spans.reasoning, words), show(spans.answer, words)) == ("f5 . </think> f6 .", "7")


@pytest.mark.parametrize(
    "text", ["<think> a . </think> <box> B </box> <eos>", "a </think> B", "<think> a . answer is b"]
)
def test_think_tokens_are_believed_whoever_writes_them(text: str) -> None:
    assert cut(text, PLAIN) == cut(text, GLM)


def test_byte_level_tokens_at_the_cut_fall_to_the_side_that_they_begin_on() -> None:
    spans, words = cut("It _is _3.\\n\\n The _answer _is: _B. \\n", PLAIN, joiner="")
    assert show(spans.reasoning, words) == "It  is  3.\n\n" and show(spans.answer, words) == " B."
    spans, words = cut("It _is _3. _So, _the _answer _is _B", PLAIN, joiner="")
    assert show(spans.reasoning, words) == "It  is  3." and show(spans.answer, words) == " B"


PIECES = [*WORDS, "So", "_the", "answer", "_Answer:", "_is", "B", ".", "\\n", "_", "3.\\n\\n", "**", "final"]


@settings(max_examples=400, deadline=None)
@given(
    pieces=st.lists(st.sampled_from(PIECES), max_size=24),
    thinks=st.booleans(),
    opens=st.booleans(),
    joiner=st.sampled_from(["", " "]),
)
def test_spans_are_nested_disjoint_and_inside_the_response(
    pieces: list[str], thinks: bool, opens: bool, joiner: str
) -> None:
    markers = dataclasses.replace(GLM, thinks=thinks, prompt_opens_think=opens)
    spans, words = cut(" ".join(pieces), markers, joiner)
    end = words.index("<eos>") if "<eos>" in words else len(words)
    (first, stop), (start, last) = spans.reasoning, spans.answer
    assert 0 <= first <= stop <= start <= last <= end
    assert all(a < b for a, b in spans.steps)
    edges = [first, *(edge for step in spans.steps for edge in step), stop]
    assert edges[::2] == edges[1::2]  # the steps tile the reasoning
    if start < last:
        assert spans.closed and joiner.join(words[start:last]).strip()
    if not thinks and not {"<think>", "</think>"} & set(words[:end]):
        assert first == 0 and spans.closed >= (end < len(words))
