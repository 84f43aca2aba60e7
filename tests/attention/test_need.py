"""Need is the fall of the own answer's log-odds, and none where the other picture changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dontblink import paths
from dontblink.attention.conditions import Case, Choices, Condition, continue_responses, cut_response, read_choices
from dontblink.attention.need import SURE_NATS, find_log_odds, measure_need, place_answer
from dontblink.attention.traces import place_evidence
from dontblink.errors import NamedError
from dontblink.models.checkpoints import load_vlm
from dontblink.models.generate import Sampling, encode_items, generate_batch
from dontblink.models.spans import Spans
from dontblink.models.vlm import VLM
from dontblink_testbed import levels
from dontblink_testbed.questions import Difficulty

HOW: dict[str, Any] = {"budget": 10_000, "seed": 3, "most_tokens": 90}
BAR = 1e-3


@pytest.fixture(scope="module", params=["qwen3vl-tiny-s", "glm4v-tiny"])
def vlm(request: pytest.FixtureRequest) -> VLM:
    return load_vlm(paths.ROOT / "models" / "testbed" / request.param)


@pytest.fixture(scope="module")
def cases(vlm: VLM) -> list[Case]:
    """Return responses to questions that a testbed model reads well: early ones, and late ones behind them."""
    items = list(levels.load_items("visual_reference", "test", 18, 7, Difficulty((1, 6), (0.0, 0.2))))
    items = [*items[0::3], *items[2::3]]
    prompts = list(encode_items(vlm, items))
    found = []
    for place, (item, prompt) in enumerate(zip(items, prompts, strict=True)):
        ids = cut_response(vlm, (), generate_batch(vlm, [prompt], Sampling(90))[0], 90)
        other = vlm.encode(replace(item, images=items[place - 1].images))
        spans = vlm.segment(ids)
        assert spans.closed
        found.append(Case(prompt, ids, spans, place_evidence(vlm, prompt, item, 1), other))
    return found


def test_the_own_picture_once_more_takes_nothing_from_the_answer(vlm: VLM, cases: list[Case]) -> None:
    same = [replace(case, other=case.prompt) for case in cases[:4]]
    found = measure_need(vlm, same, 0.5, **HOW)
    assert np.abs([need.need_nats for need in found]).max() < BAR
    assert [need.ids for need in found] == [case.ids for case in same]


def test_answers_that_are_read_late_need_the_picture_and_early_ones_do_not(vlm: VLM, cases: list[Case]) -> None:
    found = [need.need_nats for need in measure_need(vlm, cases, 0.5, **HOW)]
    half = len(cases) // 2
    assert np.median(found[:half]) < 2 and np.median(found[half:]) > 5


def test_the_odds_are_those_of_the_own_answer_behind_what_follows(vlm: VLM, cases: list[Case]) -> None:
    asked = cases[-3:]
    found = measure_need(vlm, asked, 0.5, **HOW)
    texts = continue_responses(vlm, asked, Condition("other_picture", 0.5), **HOW)
    assert [need.ids for need in found] == texts
    for need, case in zip(found, asked, strict=True):
        (own,) = read_choices(vlm, [case], [case.ids], [range(*case.spans.answer)], [[]])
        p = np.exp(own.log_probability_nats.sum(dtype=np.float64))
        assert need.own_nats == pytest.approx(np.log(p / (1 - p)), abs=0.05)  # p is near 1 in single precision


def test_a_case_without_another_picture_is_named(vlm: VLM, cases: list[Case]) -> None:
    with pytest.raises(NamedError, match="no other item"):
        measure_need(vlm, [replace(cases[0], other=None)], 0.5, **HOW)


class _Cut:
    """Cuts a response at its marker 90, as `VLM.segment` does; 99 ends it."""

    eos_ids = (99,)

    def segment(self, ids: Any) -> Spans:
        if 90 not in ids:
            return Spans((0, len(ids)), (len(ids), len(ids)), (), False)
        begin = ids.index(90)
        return Spans((0, begin), (begin + 1, len(ids) - (ids[-1] == 99)), (), True)


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ((5, 6, 90, 8, 99), (5, 6, 90, 7)),  # another answer gives way to the own one
        ((5, 6), (5, 6, 90, 7)),  # none came: its place is forced as the own response has it
        ((5, 6, 99), (5, 6, 90, 7)),
    ],
)
def test_the_own_answer_stands_where_the_other_text_answers(text: tuple[int, ...], placed: tuple[int, ...]) -> None:
    case = Case(None, (1, 2, 90, 7, 99), Spans((0, 2), (3, 4), (), True), None)  # type: ignore[arg-type]
    assert place_answer(_Cut(), case, text) == (placed, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(("nats", "odds"), [(np.log(0.5), 0.0), (np.log(0.9), np.log(9)), (0.0, SURE_NATS), (-40, -15)])
def test_log_odds_of_a_sure_token_are_bounded(nats: float, odds: float) -> None:
    one = Choices(np.array([-3.0, nats], np.float32), np.zeros(2, np.int64), np.zeros((2, 0), np.float32), np.zeros(2))  # type: ignore[arg-type]
    assert find_log_odds(one, slice(1, 2)) == pytest.approx(odds, abs=1e-5)
