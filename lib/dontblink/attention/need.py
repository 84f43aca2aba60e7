"""Does the rest of a response still need the picture? How far its own answer falls where another picture is seen.

Why it exists: the name of a benchmark, or the words of a question, say little about whether a model still looks; what
becomes of the answer does. In: cases that have another item's picture. Out: the log-odds of the own answer behind the
own text, and behind the text that is written where that picture stands from a share of the reasoning on.

    need = log-odds(own answer | own picture, own text) - log-odds(own answer | other picture, what follows from it)

The total effect: in the replay of the own text alone the chain still says what was read. Never: a response dropped
because it comes to no end under the other picture; its answer's place is then forced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dontblink.attention.conditions import Case, Choices, Condition, continue_responses, replay_cases
from dontblink.models.vlm import VLM

SURE_NATS = 15.0  # log-odds of single-precision probabilities carry no further than this


class Need(NamedTuple):
    """Log-odds of the own answer before and behind the change, nats, and the whole response that is written under it.

    `need_nats` is above 0 where the answer needs the picture; each of the two log-odds lies within `SURE_NATS` of 0.
    """

    own_nats: float
    other_nats: float
    ids: tuple[int, ...]

    @property
    def need_nats(self) -> float:
        return self.own_nats - self.other_nats


def measure_need(
    vlm: VLM, cases: Sequence[Case], share: float, *, most_tokens: int, budget: int, seed: int
) -> list[Need]:
    """Return the need of each response for its picture from a share of its own reasoning on.

    `most_tokens` may a response take that is written under the other picture, and `budget` a batch. NamedError for a
    case without another picture.
    """
    how: dict[str, Any] = {"budget": budget, "seed": seed}
    other = Condition("other_picture", share)
    texts = continue_responses(vlm, cases, other, most_tokens=most_tokens, **how)
    own = replay_cases(vlm, cases, Condition("empty", 0.0), **how)
    asked = [place_answer(vlm, *pair) for pair in zip(cases, texts, strict=True)]
    under = replay_cases(vlm, cases, other, texts=[ids for ids, _ in asked], **how)
    return [
        Need(find_log_odds(before, slice(*case.spans.answer)), find_log_odds(after, slice(begin, len(ids))), text)
        for case, before, after, (ids, begin), text in zip(cases, own, under, asked, texts, strict=True)
    ]


def place_answer(vlm: VLM, case: Case, text: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Return another response up to its answer with the own answer in that place, and where the answer begins.

    Where it has no answer, behind all that it says stands what parts the own reasoning from the own answer.
    """
    spans, (begin, end) = vlm.segment(text), case.spans.answer
    if spans.closed and spans.answer[1] > spans.answer[0]:
        before = tuple(text[: spans.answer[0]])
    else:
        spoken = tuple(text[:-1] if text and text[-1] in vlm.eos_ids else text)
        before = (*spoken, *case.ids[case.spans.reasoning[1] : begin])
    return (*before, *case.ids[begin:end]), len(before)


def find_log_odds(choices: Choices, place: slice) -> float:
    """Return log p / (1 - p) of the tokens at a place together, nats."""
    total = float(choices.log_probability_nats[place].sum(dtype=np.float64))
    rest = -np.expm1(min(total, 0.0))
    return float(np.clip(total - np.log(rest) if rest > 0 else SURE_NATS, -SURE_NATS, SURE_NATS))
