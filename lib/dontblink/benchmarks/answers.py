"""What a response says once its reasoning is over, and what its writer marks as the answer.

In: the text of a whole response, special tokens kept. Out: the text behind the reasoning, or what the family's answer
box holds; a text without its dress; the marked answers. Never: guess an answer, or look for one inside the reasoning.
"""

from __future__ import annotations

import math
import re

BOX = re.compile(r"<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>|$)", re.DOTALL)
SPECIAL = re.compile(r"<\|[^|<>]*\|>")
# between the marker and the verb there may be words ("the answer to this question is"), but no lone capital letter:
# in "answer choice B is wrong" the letter stands before the verb and what follows names no answer
WORDS = r"(?:[ \t]+(?!(?-i:\(?[A-Z]\b))[\w'-]+){0,6}?[ \t]*"
VERBS = r"\b(?:is|are|be|was)\b"
ANSWER = re.compile(
    r"(?:\b(?:answers?(?! (?:choice|option)s)|(?:correct|right|best|final|closest)[ \t]+(?:option|choice))"
    rf"(?:{WORDS}(?:(?:{VERBS}|[:=：])[ \t]*)+|[ \t]*\n)"
    rf"|\bsolutions?{WORDS}{VERBS}[ \t]*[:=：]?"  # "Solution:" announces a reasoning
    r"|(?:答案|故选)[是为:：]*)(?=\s*\S)",
    re.IGNORECASE,
)
DRESS = [
    (re.compile(pattern), bare)
    for pattern, bare in (
        (r"<answer>", " Answer: "),
        (r"</?[A-Za-z][^<>]{0,100}>|&nbsp;", " "),
        (r"\\[dt]?frac ?\{([^{}]{1,60})\}\{([^{}]{1,60})\}", r" \1/\2"),
        (r"\^?\{?\\circ\}?| ?\bdegrees?\b|&deg;", "°"),
        (r"\\sqrt", "√"),
        (r"\\pi\b", "π"),
        (r"\\(?:times|cdot)\b", "×"),
        (r"\\approx\b", "≈"),
        (r"\\(?:text(?:rm|bf|it)?|math(?:rm|bf|it)|mbox|left|right|displaystyle)\b|\\[,;:! ]", ""),
        (r"\\[()\[\]]", " "),
        (r"\*\*+|[${}`\\]", ""),
    )
]
SIGNS = str.maketrans(
    {"−": "-", "–": "-", "（": "(", "）": ")", "：": ":", "，": ", ", "。": ". ", "＝": "=", "º": "°"}
)
REACH = 2000  # characters that are read behind a marker of the answer
MARKERS = 20  # markers that are read, counted from the last


def read_final(response: str) -> str:
    """Return what stands behind the last `</think>`, in the last answer box where there is one, without special tokens.

    A reasoning that was opened and never closed (a truncated response) leaves nothing: ''. A response without
    reasoning markers is final as a whole.
    """
    final = response.rpartition("</think>")[2]
    if "<think>" in final:
        return ""
    boxes = [text for text in BOX.findall(final) if text.strip()]
    return SPECIAL.sub("", boxes[-1] if boxes else final).strip()


def make_plain(text: str) -> str:
    r"""Return a text without LaTeX, Markdown and HTML: `\frac{1}{2}` is 1/2, `**B**` is B, `90^\circ` is 90°."""
    text = text.translate(SIGNS)
    for pattern, bare in DRESS:
        text = pattern.sub(bare, text)
    return text.strip()


def read_marked(text: str) -> list[str]:
    r"""Return what the writer marks as the answer, plain: the last `\boxed{}`, then what follows "the answer is".

    The surest comes first; of several "the answer is" the last. What follows is cut after `REACH` characters, not at
    the end of the sentence: the reader knows what ends an answer of its kind.
    """
    plain = make_plain(text)
    followers = [plain[end : end + REACH].strip(" :=#\"'“”\n\t\r") for end in reversed(find_markers(plain))]
    _, boxed, rest = text.rpartition("\\boxed{")
    return [make_plain(_read_braced(rest[:REACH])), *followers] if boxed else followers


def read_value(text: str) -> float | None:
    """Return the finite number that a text is; None where it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def find_markers(text: str) -> list[int]:
    """Return where the last `MARKERS` markers of an answer ("the answer is", "Answer:") in a text end, in order."""
    return [match.end() for match in ANSWER.finditer(text)][-MARKERS:]


def _read_braced(text: str) -> str:
    """Return a text up to the brace that closes the one before its start; all of it where none does."""
    depth = 1
    for place, sign in enumerate(text):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return text[:place]
    return text
