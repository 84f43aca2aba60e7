r"""What a response states as its answer: `Answer: ...`, "the answer is ...", `\boxed{...}`, `<answer>...</answer>`.

Why it exists: the strict scorers of yes/no questions and lettered options share these statements, and with MathVista's
numbers (`answers.read_marked`) the markers. In: the final part of a response (`read_final`). Out: the stated texts,
first to last, without markup. Never: decide which choice a text means.
"""

from __future__ import annotations

import re

from dontblink.benchmarks.answers import find_markers

NESTED = r"[^{}]*"
for _ in range(5):  # \frac inside \sqrt inside \text inside a box
    NESTED = rf"(?:[^{{}}]|\{{{NESTED}\}})*"
BOXED = re.compile(rf"\\boxed\s*\{{({NESTED})\}}|<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|left|right)\b\s*|</?[a-z]+>", re.IGNORECASE)
MARKUP = str.maketrans("", "", "*$`{}#\\")
REACH = 400  # characters that are read behind a marker


def read_statements(final: str) -> list[str]:
    """Return the last stated answers in reading order: the rest of the marker's line, or the next line if it is empty.

    A box is a statement of its own, and its line goes on behind it. A statement may hold another one ("The answer: the
    correct option is B"). Statements end after `REACH` characters, and the last `answers.MARKERS` are read, so that a
    response that repeats itself stays cheap.
    """
    lines = BOXED.sub(lambda box: f"\nAnswer: {(box[1] or box[2] or '').strip()} ", final)
    text = strip_markup(lines)
    return [text[end : end + REACH].lstrip().partition("\n")[0].rstrip() for end in find_markers(text)]


def strip_markup(text: str) -> str:
    """Return the text without bold, code, headings, mathematics' wrappers and tags; lines stay lines."""
    return WRAPPER.sub("", text).translate(MARKUP)
