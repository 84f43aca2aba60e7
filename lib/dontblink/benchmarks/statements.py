r"""What a response states as its answer: `Answer: ...`, "the answer is ...", `\boxed{...}`, `<answer>...</answer>`.

Why it exists: strict scorers share one idea of an explicit answer. In: the final part of a response (`read_final`).
Out: the stated texts, first to last, without markup. Never: decide which choice a text means.
"""

from __future__ import annotations

import re

NESTED = r"[^{}]*"
for _ in range(5):  # \frac inside \sqrt inside \text inside a box
    NESTED = rf"(?:[^{{}}]|\{{{NESTED}\}})*"
BOXED = re.compile(rf"\\boxed\s*\{{({NESTED})\}}|<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|left|right)\b\s*|</?[a-z]+>", re.IGNORECASE)
MARKUP = str.maketrans("", "", "*$`{}#\\")
# between the marker and the verb there may be words ("the answer to this question is"), but no lone capital letter:
# in "answer choice B is wrong" the letter stands before the verb and what follows names no answer
WORDS = r"(?:[ \t]+(?!(?-i:\(?[A-Z]\b))[\w'-]+){0,6}?"
MARKER = re.compile(
    rf"\b(?:answer|(?:correct|right|best|final|closest)[ \t]+(?:option|choice)){WORDS}[ \t]*"
    r"(?:(?:\b(?:is|be|was)\b|[:=：])[ \t]*)+(?P<same>[^\n\w]{0,40}\w[^\n]{0,400})"
    r"|\banswer[ \t]*(?:is)?[ \t]*[:：]?[ \t]*\n\s*(?P<next>[^\n]{1,400})",
    re.IGNORECASE,
)


def read_statements(final: str) -> list[str]:
    """Return every stated answer in reading order: the rest of the marker's line, or the next line where it is empty.

    A box is a statement of its own, and its line goes on behind it. A statement ends after 400 characters, so that a
    response that repeats itself on one line stays cheap.
    """
    lines = BOXED.sub(lambda box: f"\nAnswer: {(box[1] or box[2] or '').strip()} ", final)
    text = strip_markup(lines)
    statements, position = [], 0
    while found := MARKER.search(text, position):
        statements.append((found["same"] or found["next"]).strip())
        # a statement may hold another one ("The answer: the correct option is B")
        position = found.start("same") if found["same"] else found.start("next")
    return statements


def strip_markup(text: str) -> str:
    """Return the text without bold, code, headings, mathematics' wrappers and tags; lines stay lines."""
    return WRAPPER.sub("", text).translate(MARKUP)
