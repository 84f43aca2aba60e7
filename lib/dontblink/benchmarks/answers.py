"""What a response says once its reasoning is over: the text that a strict scorer reads.

In: the text of a whole response, special tokens kept. Out: the text behind the reasoning, or what the family's answer
box holds. Never: guess an answer, or look for one inside the reasoning.
"""

from __future__ import annotations

import re

BOX = re.compile(r"<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>|$)", re.DOTALL)
SPECIAL = re.compile(r"<\|[^|<>]*\|>")


def read_final(response: str) -> str:
    """Return what stands behind the last `</think>`, in the last answer box where there is one, without special tokens.

    A reasoning that was opened and never closed (a truncated response) leaves nothing: ''. A response without
    reasoning markers is final as a whole.
    """
    _, closed, final = response.rpartition("</think>")
    if not closed and "<think>" in response:
        return ""
    boxes = [text for text in BOX.findall(final) if text.strip()]
    return SPECIAL.sub("", boxes[-1] if boxes else final).strip()
