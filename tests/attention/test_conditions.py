"""Conditions begin where they say, change what they say, and nothing else: generation, replay and cache agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny_cases import HOW, N_TOKENS, build, make_cases, place
from tiny_models import FAMILY_NAMES, VLM, build_vlm, draw_prompt, read_logs
from tiny_models import FIRST_TEXT as TEXT

from dontblink.attention import conditions
from dontblink.attention.conditions import (
    Case,
    Choices,
    Condition,
    continue_responses,
    cut_response,
    find_keys,
    force_answer,
    hold_half,
    iterate_forced,
    measure_looks,
    plan_case,
    read_choices,
    replay_cases,
    take_batches,
)  # fmt: skip
from dontblink.attention.intervention import Bias, Block, intervene, plan_interventions
from dontblink.attention.replay import read_tokens
from dontblink.errors import NamedError
from dontblink.models.generate import Sampling, generate_batch
from dontblink.models.spans import Spans

NATS_BAR = 1e-4
@pytest.fixture(scope="module", params=FAMILY_NAMES)
def vlm(request: pytest.FixtureRequest) -> VLM:
    return build(request.param)


@pytest.fixture(scope="module")
def cases(vlm: VLM) -> list[Case]:
    return make_cases(vlm)


def read_nats(found: Sequence[Choices]) -> np.ndarray:
    return np.stack([choices.log_probability_nats for choices in found])


@pytest.mark.parametrize(
    ("share", "token"), [(0.0, 1), (0.09, 1), (0.1, 2), (0.5, 6), (0.75, 9), (0.99, 11), (1.0, 12)]
)
def test_a_condition_begins_at_the_floor_of_its_share(vlm: VLM, cases: list[Case], share: float, token: int) -> None:
    for case in cases:
        assert case.start(share) == token
        (one,) = plan_case(vlm, case, Condition("image", share), seed=3)
        assert one.first == len(case.prompt.ids) - 1 + token and one.last is None and isinstance(one.action, Block)


def test_a_share_that_is_a_whole_number_of_tokens_loses_none_to_round_off() -> None:
    case = replace(make_cases(build("glm4v"))[0], spans=Spans((0, 10), (10, 12), (), True))
    assert [case.start(tenth / 10) for tenth in range(11)] == list(range(11))


@pytest.mark.parametrize("text", ["evidence", "evidence@", "evidence@1.5", "evidence@-1", "blank@0", "empty@.", ""])
def test_a_condition_of_another_form_is_refused(text: str) -> None:
    with pytest.raises((NamedError, ValueError)):
        Condition.parse(text)


def test_the_keys_are_those_of_the_target(vlm: VLM, cases: list[Case]) -> None:
    for case in cases:
        image = case.prompt.find_image(vlm.image_token_id)[0]
        keys = {
            name: find_keys(vlm, case, name, 3).tolist() for name in ("evidence", "control", "image", "own", "random")
        }
        assert keys["evidence"] == image[[1, 2, 5]].tolist()  # the one that is covered in part, too
        assert keys["control"] == image[[8, 9, 10]].tolist() and keys["image"] == image.tolist()
        assert keys["own"] == image[[0, 7]].tolist()
        assert len({*keys["random"]}) == 3 and {*keys["random"]} <= {*keys["image"]} - {*keys["evidence"]}
        assert keys["random"] == sorted(keys["random"]) == find_keys(vlm, case, "random", 3).tolist()
    several = [[find_keys(vlm, case, "random", seed).tolist() for seed in range(8)] for case in cases]
    assert all(len({*map(tuple, own)}) > 1 for own in several), "another seed draws others"
    assert len({tuple(find_keys(vlm, case, "random", 3) - case.prompt.find_image(vlm.image_token_id)[0][0])
                for case in cases}) > 1, "another item, too"  # fmt: skip


def test_where_the_evidence_is_most_of_the_picture_random_takes_what_is_left(vlm: VLM, cases: list[Case]) -> None:
    most = replace(cases[0], placed=place(12, list(range(9)), [9]))
    assert len(find_keys(vlm, most, "random", 3)) == 3


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_nothing_changed_gives_back_the_own_response(vlm: VLM, cases: list[Case], share: float) -> None:
    found = continue_responses(vlm, cases, Condition("empty", share), most_tokens=N_TOKENS, **HOW)
    assert found == [case.ids for case in cases]


def test_a_response_without_an_end_is_cut_and_kept(vlm: VLM, cases: list[Case]) -> None:
    """Those that are longer than that already stay as they are."""
    begun = [case.ids[:n] for case, n in zip(cases, (2, 9, 14), strict=True)]
    found = continue_responses(vlm, cases, Condition("empty", 0.0), most_tokens=9, begun=begun, **HOW)
    assert found == [cases[0].ids[:9], cases[1].ids[:9], cases[2].ids[:14]]
    end = vlm.eos_ids[0]
    assert cut_response(vlm, (9, 10), [11, end, 12, end], 8) == (9, 10, 11, end)
    assert cut_response(vlm, (9, end), [11, 12], 8) == (9, end, 11, 12), "an end in what was given is none"
    assert cut_response(vlm, (9,), [11, 12, 13], 3) == (9, 11, 12)


@pytest.mark.parametrize("name", ["image", "evidence", "random", "raise_own", "other_picture"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_what_is_written_is_what_a_replay_finds_most_probable(
    vlm: VLM, cases: list[Case], name: str, share: float
) -> None:
    condition = Condition(name, share)
    texts = continue_responses(vlm, cases, condition, most_tokens=N_TOKENS, nats=2.0, **HOW)
    under = replay_cases(vlm, cases, condition, texts=texts, nats=2.0, **HOW)
    plain = replay_cases(vlm, cases, Condition("empty", 0.0), texts=texts, **HOW)
    for case, text, own, before in zip(cases, texts, under, plain, strict=True):
        start = case.start(share)
        assert text[:start] == case.ids[:start]
        written = np.where(np.isin(own.best, vlm.suppressed_ids), text, own.best)  # a placeholder is never written
        np.testing.assert_array_equal(written[start:], text[start:])
        np.testing.assert_allclose(own.log_probability_nats[:start], before.log_probability_nats[:start], atol=NATS_BAR)
        assert abs(own.log_probability_nats[start] - before.log_probability_nats[start]) > 1e-4, "from its first row on"


def test_a_replay_under_a_condition_is_that_of_its_plan(vlm: VLM, cases: list[Case]) -> None:
    condition, responses = Condition("image", 0.0), [case.ids for case in cases]
    lengths = [len(case.prompt.ids) + len(case.ids) for case in cases]
    planned = [plan_case(vlm, case, condition, seed=3) for case in cases]
    with intervene(vlm.model, plan_interventions(lengths, planned, "right")):
        expected = read_tokens(vlm, [case.prompt for case in cases], responses)
    found = replay_cases(vlm, cases, condition, **HOW)
    for own, (entropy, _, log_probability) in zip(found, expected, strict=True):
        np.testing.assert_allclose(own.log_probability_nats, log_probability, atol=1e-5)
        np.testing.assert_allclose(own.entropy_nats, entropy, atol=1e-5)
    plain = read_nats(replay_cases(vlm, cases, Condition("empty", 0.0), **HOW))
    assert np.abs(read_nats(found) - plain).max() > 0.01


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_another_picture_is_the_cache_of_that_picture(vlm: VLM, cases: list[Case], share: float) -> None:
    """Against a cache in which the image's keys and values were exchanged by hand."""
    found = replay_cases(vlm, cases, Condition("other_picture", share), **HOW)
    for case, own in zip(cases, found, strict=True):
        assert case.other is not None
        logs = read_logs(vlm, case.prompt, case.ids, (case.other, case.row(case.start(share))))
        np.testing.assert_allclose(own.log_probability_nats, logs[range(N_TOKENS), list(case.ids)], atol=NATS_BAR)
        np.testing.assert_array_equal(own.best, logs.argmax(-1))
    plain = read_nats(replay_cases(vlm, cases, Condition("empty", 0.0), **HOW))
    assert (np.abs(read_nats(found) - plain)[:, cases[0].start(share) :].max(1) > 1e-3).all()


def test_another_prompt_is_the_prompt_with_that_picture(vlm: VLM, cases: list[Case]) -> None:
    condition = Condition("other_prompt", 0.0)
    found = replay_cases(vlm, cases, condition, **HOW)
    texts = continue_responses(vlm, cases, condition, most_tokens=N_TOKENS, **HOW)
    for case, own, text in zip(cases, found, texts, strict=True):
        assert case.other is not None
        logs = read_logs(vlm, case.other, case.ids)
        np.testing.assert_allclose(own.log_probability_nats, logs[range(N_TOKENS), list(case.ids)], atol=NATS_BAR)
        begun = case.ids[: case.start(0)]
        assert text == (*begun, *generate_batch(vlm, [case.other], Sampling(N_TOKENS - len(begun)), [begun])[0])


@pytest.mark.parametrize("name", ["other_picture", "other_prompt"])
def test_another_picture_needs_one(vlm: VLM, cases: list[Case], name: str) -> None:
    alone = [replace(cases[0], other=None)]
    with pytest.raises((NamedError, ValueError)):
        continue_responses(vlm, alone, Condition(name, 0.0), most_tokens=N_TOKENS, **HOW)


@pytest.mark.parametrize("name", ["evidence", "other_picture", "raise_evidence"])
def test_a_batch_is_its_responses(vlm: VLM, cases: list[Case], name: str) -> None:
    condition, alone = Condition(name, 0.5), {**HOW, "budget": 1}
    together, single = (replay_cases(vlm, cases, condition, nats=1.0, **how) for how in (HOW, alone))
    np.testing.assert_allclose(read_nats(together), read_nats(single), atol=NATS_BAR)
    texts = [continue_responses(vlm, cases, condition, most_tokens=20, nats=1.0, **how) for how in (HOW, alone)]
    assert texts[0] == texts[1]


def test_a_batch_without_memory_is_halved_and_a_case_that_does_not_fit_is_named(
    vlm: VLM, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def try_small(do: Any, part: Sequence[Case], largest: int = 1) -> Any:
        sizes.append(len(part))
        return do(part) if len(part) <= largest else None

    expected = read_nats(replay_cases(vlm, cases, Condition("image", 0.0), **HOW))
    monkeypatch.setattr(conditions, "try_memory", try_small)
    np.testing.assert_allclose(
        read_nats(replay_cases(vlm, cases, Condition("image", 0.0), **HOW)), expected, atol=NATS_BAR
    )
    assert sizes == [3, 1, 2, 1, 1]
    names = take_batches(vlm, cases, [9, 30, 20], 1000, lambda part: [case.prompt.item_id for case in part])
    assert names == ["a", "b", "c"], "in the order of the cases"
    monkeypatch.setattr(conditions, "try_memory", lambda *_: None)
    with pytest.raises(NamedError, match=r"item [abc]: .*memory"):
        replay_cases(vlm, cases, Condition("image", 0.0), **HOW)


def test_the_log_probabilities_of_other_tokens_are_those_of_the_same_pass(vlm: VLM, cases: list[Case]) -> None:
    case, places, others = cases[1], [0, 5, 15], [TEXT, TEXT + 7]
    (found,) = read_choices(vlm, [case], [case.ids], [places], [[]], [others])
    logs = read_logs(vlm, case.prompt, case.ids)[places]
    np.testing.assert_allclose(found.others_nats, logs[:, others], atol=NATS_BAR)
    np.testing.assert_allclose(found.log_probability_nats, logs[range(3), [case.ids[t] for t in places]], atol=NATS_BAR)
    np.testing.assert_allclose(found.entropy_nats, -(logs.exp() * logs).sum(-1), atol=NATS_BAR)
    assert found.others_nats.shape == (3, 2)


def test_half_a_map_is_held_by_the_fewest_tokens() -> None:
    def held(*weights: float) -> list[int]:
        return np.flatnonzero(hold_half(np.array(weights, np.float32))).tolist()

    assert held(0.1, 0.6, 0.3) == [1]
    assert held(0.4, 0.1, 0.3, 0.2) == [0, 2]
    assert held(1, 1, 1, 1) == [0, 1], "of equal ones the first"
    assert held(1, 1, 1) == [0, 1] and held(5) == [0]
    weights = np.random.default_rng(0).random(50).astype(np.float32)
    inside = hold_half(weights)
    assert weights[inside].sum() >= weights.sum() / 2 > weights[inside].sum() - weights[inside].min()


def test_looks_are_lifted_by_a_raise_and_taken_by_a_block(vlm: VLM, cases: list[Case]) -> None:
    config = vlm.model.config.get_text_config()
    heads = np.full((1, config.num_hidden_layers, 4), 1 / (4 * config.num_hidden_layers), np.float32)

    def look(name: str) -> np.ndarray:
        def plan(case: Case) -> Any:
            return plan_case(vlm, case, Condition(name, 0.0), seed=3, nats=1.0)

        looks = measure_looks(vlm, cases, heads, planned=plan, budget=10_000)
        assert all(one.mass.shape[:2] == (1, N_TOKENS) and one.map.shape == (1, 12) for one in looks)
        return np.stack([one.map[0] for one in looks])

    plain = look("empty")
    assert (look("raise_own")[:, [0, 7]].sum(1) > plain[:, [0, 7]].sum(1)).all()
    blocked = look("evidence")
    assert (blocked[:, [1, 2, 5]] == 0).all() and (plain[:, [1, 2, 5]] > 0).all()
    assert (look("image") == 0).all()
    assert isinstance(plan_case(vlm, cases[0], Condition("raise_own", 0.0), seed=3, nats=1.0)[0].action, Bias)


def test_a_forced_answer_stands_behind_a_part_of_the_reasoning(cases: list[Case]) -> None:
    case = cases[0]
    assert force_answer(case, 0.0) == (case.ids[0], case.ids[12])  # what opens the reasoning, what ends it
    assert force_answer(case, 0.5) == (*case.ids[:6], case.ids[12])
    assert force_answer(case, 1.0) == case.ids[:13]


def test_an_answer_forced_behind_the_whole_reasoning_is_the_own_one(vlm: VLM, cases: list[Case]) -> None:
    found = list(iterate_forced(vlm, cases, [0.0, 0.5, 1.0], n_tokens=3, **HOW))
    assert [share for share, _, _ in found] == [0.0, 0.5, 1.0]
    for share, texts, format_mass in found:
        begun = [force_answer(case, share) for case in cases]
        assert all(
            text[: len(own)] == own and len(text) == len(own) + 3 for text, own in zip(texts, begun, strict=True)
        )
        assert all(0 <= mass <= 1 + 1e-6 for mass in format_mass)
        firsts = sorted({case.ids[13] for case in cases})
        for case, own, mass in zip(cases, begun, format_mass, strict=True):
            logs = read_logs(vlm, case.prompt, [*own, TEXT])[-1]
            assert mass == pytest.approx(float(logs[firsts].exp().sum()), abs=1e-5)
    assert found[2][1] == [case.ids for case in cases]


def test_a_case_without_another_picture_is_named() -> None:
    """Its own prompt would be replayed without a word where no case of a batch has another."""
    vlm, prompt = build_vlm(FAMILY_NAMES[0]), draw_prompt(np.random.default_rng(0), "alone")
    case = Case(prompt, (9, 10), Spans((0, 1), (1, 2), (), True), None)  # type: ignore[arg-type]
    for name in ("other_prompt", "other_picture"):
        with pytest.raises(NamedError, match="item alone: no other item has pictures of its grids"):
            replay_cases(vlm, [case], Condition(name, 0.0), budget=100, seed=0)
