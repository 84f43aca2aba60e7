"""Where a response reasons, where it answers, and where its steps begin and end: cut on token ids.

Why: the measures are means over these spans, so they are defined once. In: response ids, the ids of a family's
markers, and the text of single tokens. Out: half-open token ranges. Never here: a tokenizer's offsets, or text that
was decoded as a whole and found again in the ids.

A checkpoint that thinks puts its reasoning before </think>; a reasoning that the prompt or the model opened and that
was not closed was truncated, also where it stopped. A hybrid checkpoint thinks at will: where none was opened and the
response came to its end it is a whole answer WITHOUT reasoning, as it is behind an empty or blank
<think></think>: no reasoning token and no step, so no measure over the reasoning. A checkpoint that does not think
(Instruct, or thinking switched off) has no such border: there the reasoning is what stands before the answer box, or
else before the last answer marker ("Answer: B", "so the final answer is 7"), the answer what follows. Without either a
single step ("B. dog") is a whole answer and a chain of several is all reasoning, with an empty answer: where its
conclusion begins would be a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

SENTENCE_ENDS = (".", "?", "!")
# "Answer:", "the final answer is", a bare "answer" that opens the text behind </think>, or their Chinese forms
ANSWER_MARKER = re.compile(
    r"(?:(?:^\W*(?:final\s+)?answer\b|\banswer\b\W{0,2}(?=\s*(?:is\b|[:：])))(?:\s*is\b)?"
    r"|(?:最终|正确|正確)*(?:的)?答案(?=\s*[是为為:：])[是为為]?|(?:故|应|應|所以|因此)[选選](?=[\s:：（(]*[A-ZＡ-Ｚ]))[\s:：*]*",
    re.IGNORECASE,
)

# words and opening marks that lead into an answer marker: they belong to the answer's sentence, not to the reasoning
LEAD = re.compile(r"(?:\b(?:so|thus|hence|therefore|the|my|correct|best|final)\b,?|[\s*_#>\[({$\"'`])*$", re.IGNORECASE)
LEAD_CHARACTERS = 60


@dataclass(frozen=True)
class Spans:
    """Half-open token ranges of a response; `closed` is False where the answer never came (truncated).

    That is: a reasoning that was opened never ended; a hybrid checkpoint that opened none wrote no EOS; a checkpoint
    that does not think wrote neither an answer marker, a box nor EOS. An empty `reasoning` means that there is none.
    """

    reasoning: tuple[int, int]
    answer: tuple[int, int]
    steps: tuple[tuple[int, int], ...]
    closed: bool


@dataclass(frozen=True)
class Markers:
    """The marker ids of one tokenizer; None where it has no such token. `thinks`: see the module's head."""

    eos: frozenset[int]
    think_close: int | None
    think_open: int | None
    box_open: int | None
    box_close: int | None
    prompt_opens_think: bool
    thinks: bool = True


def segment(
    response_ids: Sequence[int], markers: Markers, token_texts: Callable[[Sequence[int]], list[str]], joiner: str
) -> Spans:
    """Cut a response on its ids into reasoning, steps and answer.

    The reasoning ends before the last think-close token. Where one was opened and none closed, all that is behind
    the opening is reasoning; where none was opened, nothing is. The answer is what the box tokens hold, else what
    follows an answer marker, else all the rest. EOS is in neither. A checkpoint that does not think is cut at its
    box or last answer marker instead, unless it wrote think tokens all the same.

    Parameters
    ----------
    token_texts : returns the text of each id alone
    joiner : what decoding puts between two plain tokens, '' (byte-level) or ' ' (word-level)
    """
    ids = [int(i) for i in response_ids]
    end = next((k for k, i in enumerate(ids) if i in markers.eos), len(ids))
    if not markers.thinks and not {markers.think_open, markers.think_close} & {*ids[:end]}:
        return _segment_plain(ids, end, markers, token_texts, joiner)
    closes = [k for k in range(end) if ids[k] == markers.think_close]
    opens = [k for k in range(end) if ids[k] == markers.think_open]
    if not closes and not opens and not markers.prompt_opens_think:
        return _cut_answer(ids, 0, end, markers, token_texts, joiner, Spans((0, 0), (end, end), (), end < len(ids)))
    is_closed = bool(closes) and opens[-1:] < closes[-1:]  # behind the last closed one no other was opened
    stop = closes[-1] if is_closed else end
    start = opens[0] + 1 if opens and opens[0] < stop and not markers.prompt_opens_think else 0
    texts = token_texts(ids[start:stop])
    written = zip(ids[start:stop], texts, strict=True)
    if not any(text.strip() for i, text in written if i not in (markers.think_open, markers.think_close)):
        start, texts = stop, []
    cut = Spans((start, stop), (end, end), _find_steps(texts, start, joiner), is_closed)
    return _cut_answer(ids, min(stop + 1, end), end, markers, token_texts, joiner, cut)


def _cut_answer(
    ids: list[int], start: int, end: int, markers: Markers, token_texts: Callable[[Sequence[int]], list[str]],
    joiner: str, cut: Spans,
) -> Spans:  # fmt: skip
    """Return the spans with the answer between start and end; one that never came to its end is none."""
    if not cut.closed:
        return cut
    first, last = _find_box(ids, markers, start, end)
    return replace(cut, answer=_find_answer(token_texts(ids[first:last]), first, joiner))


def _segment_plain(
    ids: list[int], end: int, markers: Markers, token_texts: Callable[[Sequence[int]], list[str]], joiner: str
) -> Spans:
    """Cut a response without think tokens before its last box or answer marker."""
    texts = token_texts(ids[:end])
    first, last = _find_box(ids, markers, 0, end)
    boxed = first > 0
    head = texts[: first - 1] if boxed else texts
    whole = joiner.join(head)
    # a marker before the box belongs to it only if nothing but white space stands between the two
    found = [m for m in ANSWER_MARKER.finditer(whole) if bool(whole[m.end() :].strip()) != boxed]
    answer, stop = (end, end), len(head)
    if found:
        at = found[-1].start()
        if lead := LEAD.search(whole, max(0, at - LEAD_CHARACTERS), at):
            at -= len(lead.group().lstrip())
        ends = list(accumulate((len(joiner) + len(text) for text in head), initial=-len(joiner)))[1:]
        stop = sum(edge <= at for edge in ends)
    steps = _find_steps(texts[:stop], 0, joiner)
    is_step = [bool(re.search(r"\w\W*\w", joiner.join(texts[a:b]))) for a, b in steps]  # "B." opens the step "dog"
    whole_answer = not boxed and not found and end < len(ids) and (len(steps) == 1 or is_step == [False, True])
    if whole_answer:
        stop, steps = 0, ()
    if boxed or found or whole_answer:
        answer = _find_answer(texts[first:last], first, joiner)
    return Spans((0, stop), answer, steps, boxed or bool(found) or end < len(ids))


def _find_box(ids: list[int], markers: Markers, start: int, end: int) -> tuple[int, int]:
    """Return the inside of the last answer box between start and end, or start and end."""
    if boxes := [k for k in range(start, end) if ids[k] == markers.box_open]:
        start = boxes[-1] + 1
        end = next((k for k in range(start, end) if ids[k] == markers.box_close), end)
    return start, end


def _find_answer(texts: list[str], start: int, joiner: str) -> tuple[int, int]:
    """Return the range of tokens behind the last answer marker, without white space around it."""
    whole = joiner.join(texts)
    found = [m.end() for m in ANSWER_MARKER.finditer(whole) if whole[m.end() :].strip()]
    first = len(whole) - len(whole[max(found, default=0) :].lstrip())
    ends = list(accumulate((len(joiner) + len(text) for text in texts), initial=-len(joiner)))[1:]
    spans = enumerate(zip(ends, texts, strict=True))
    kept = [k for k, (at, text) in spans if at > first and at - len(text) < len(whole.rstrip())]
    return (start + kept[0], start + kept[-1] + 1) if kept else (start, start)


def _find_steps(texts: list[str], start: int, joiner: str) -> tuple[tuple[int, int], ...]:
    """Cut after newlines and after . ? ! before white space; blank tokens join the step before them."""
    steps: list[tuple[int, int]] = []
    begin, is_blank = 0, True
    for k, text in enumerate(texts):
        is_blank = is_blank and not text.strip()
        after = text[len(text.rstrip()) :] + joiner + "".join(texts[k + 1 : k + 2]) or " "
        is_end = "\n" in text or (text.rstrip().endswith(SENTENCE_ENDS) and after[0].isspace())
        if is_blank and steps:
            steps[-1], begin = (steps[-1][0], start + k + 1), k + 1
        elif is_end and not is_blank:
            steps.append((start + begin, start + k + 1))
            begin, is_blank = k + 1, True
    return (*steps, (start + begin, start + len(texts))) if begin < len(texts) else tuple(steps)
