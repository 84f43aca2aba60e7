"""The eight combinations of text, memory and picture are what exchanging texts and caches by hand comes to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_extraction import MODEL, PROFILE
from tiny_models import FAMILY_NAMES, FIRST_TEXT, VLM, build_vlm, draw_prompt, draw_response, read_logs, repaint

from dontblink.attention import conditions
from dontblink.attention.capture import Sample, plan_recording, record
from dontblink.attention.conditions import Case
from dontblink.attention.intervention import Block, Intervention, intervene, plan_interventions
from dontblink.attention.replay import read_tokens
from dontblink.attention.sources import (
    FACTORS,
    KNOCKOUTS,
    Restated,
    Source,
    find_sources,
    place_recall,
    see_sources,
)  # fmt: skip
from dontblink.attention.traces import Placed
from dontblink.extraction.study import Study
from dontblink.models.spans import Spans
from dontblink.questions.items import Box, Item, Recall
from dontblink_testbed.recalls import find_recalls

NATS_BAR = 1e-4
SPANS = Spans((0, 12), (13, 14), ((0, 4), (4, 8), (8, 12)), True)
BUDGET = 10_000


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def vlm(request: pytest.FixtureRequest) -> VLM:
    return build_vlm(request.param)


@pytest.fixture(scope="module")
def cases(vlm: VLM) -> list[Restated]:
    """Return two responses that read something in tokens 4 to 7 and restate it in 8 to 11, the word in 6 and 10.

    The first has read another thing before; the restated word is the most probable one there in both.
    """
    rng, cases = np.random.default_rng(5), list[Restated]()
    for name, n_text, other in (("a", 4, (0, 4)), ("b", 15, None)):
        prompt, ids, word = draw_prompt(rng, name, n_text=n_text), [8] * 15, -1
        while word < FIRST_TEXT or word != int(read_logs(vlm, prompt, ids)[10].argmax()):
            ids = draw_response(rng, 15)
            word = ids[6] = ids[10] = int(read_logs(vlm, prompt, ids)[10].argmax())
        altered, shares = repaint(prompt, len(cases)), np.zeros(12, np.float32)
        likeliest = read_logs(vlm, altered, ids)[10].topk(2).indices.tolist()
        altered_id = next(token for token in likeliest if token != ids[10])
        item = Item(name, "", "test", (), "", "", "other")
        recall = Recall("digit", "", "", item, Box(0, 0, 0, 1, 1), Box(0, 1, 1, 2, 2), (4, 8), 6, (8, 12), 10, other)
        image, n_prompt = prompt.find_image(vlm.image_token_id)[0], len(prompt.ids)
        cases.append(Restated(
            prompt, tuple(ids), SPANS, Placed(shares, shares, ((3, 4),), (shares, shares)), recall=recall,
            altered=altered, altered_id=altered_id, image=image, cell=image[[2]], other_cell=image[[7]],
            read=n_prompt + np.arange(4, 8), other_read=n_prompt + np.arange(*other or (0, 0)),
        ))  # fmt: skip
    return cases


def judge(case: Restated, logs: torch.Tensor) -> Source:
    """Return what log p [T, V] says of the restated word."""
    own, word = case.ids[10], logs[10]
    return Source(
        float(word[own]), float(word[case.altered_id]), int(word.argmax()) == case.altered_id, int(word.argmax()) == own
    )


def check(found: Source, expected: Source) -> None:
    np.testing.assert_allclose(found[:2], expected[:2], atol=NATS_BAR)
    assert found[2:] == expected[2:]


def test_the_edit_changes_one_token_of_the_own_reading(cases: list[Restated]) -> None:
    for case in cases:
        assert [t for t in range(15) if case.ids[t] != case.edited[t]] == [case.recall.read_token]
        assert case.edited[6] == case.altered_id and len(case.edited) == 15
        assert case.first == len(case.prompt.ids) - 1 + 8


def test_every_combination_is_what_exchanging_by_hand_comes_to(vlm: VLM, cases: list[Restated]) -> None:
    for case, found in zip(cases, find_sources(vlm, cases, budget=BUDGET), strict=True):
        for name in FACTORS:
            text = case.edited if "T" in name else case.ids
            memory, picture = (case.altered if factor in name else case.prompt for factor in "MP")
            swapped = None if memory is picture else (picture, case.first)
            check(found[name], judge(case, read_logs(vlm, memory, text, swapped)))
        assert found["none"].kept and not found["none"].turned
        several = {round(source.own_nats, 4) for name, source in found.items() if name in FACTORS}
        assert len(several) == 8, "no two combinations are the same"


def test_a_knockout_hides_what_it_names_from_the_restatement_on(vlm: VLM, cases: list[Restated]) -> None:
    found = find_sources(vlm, cases, budget=BUDGET)
    assert {*found[0]} == {*FACTORS, *KNOCKOUTS}
    assert {*found[1]} == {*FACTORS, *KNOCKOUTS} - {"block_other_statement"}, "it has read nothing else"
    case, n_prompt = cases[0], len(cases[0].prompt.ids)
    keys = {
        "block_cell": case.cell, "block_read": n_prompt + np.arange(4, 8), "block_image": case.image,
        "block_both": np.array([*case.cell, *(n_prompt + np.arange(4, 8))]), "block_other_cell": case.other_cell,
        "block_other_statement": n_prompt + np.arange(4),
    }  # fmt: skip
    assert {*keys} == {*KNOCKOUTS}
    for name, hidden in keys.items():
        plan = plan_interventions([n_prompt + 15], [[Intervention(hidden, Block(), n_prompt + 7)]], "right")
        with torch.inference_mode(), intervene(vlm.model, plan):
            logits = vlm.model(**vlm.collate([case.prompt], [case.ids]), use_cache=False).logits[0, n_prompt - 1 : -1]
        check(found[0][name], judge(case, logits.float().log_softmax(-1)))
        assert found[0][name].own_nats != found[0]["none"].own_nats


def test_a_cell_without_a_token_is_left_out(vlm: VLM, cases: list[Restated]) -> None:
    nothing = replace(cases[0], other_cell=cases[0].image[:0])
    assert "block_other_cell" not in find_sources(vlm, [nothing], budget=BUDGET)[0]


def test_a_batch_is_its_cases_whether_planned_or_halved(
    vlm: VLM, cases: list[Restated], monkeypatch: pytest.MonkeyPatch
) -> None:
    together, alone = (find_sources(vlm, cases, budget=budget) for budget in (BUDGET, 1))
    own = conditions.try_memory
    monkeypatch.setattr(conditions, "try_memory", lambda do, part: own(do, part) if len(part) == 1 else None)
    halved = find_sources(vlm, cases, budget=BUDGET)
    for parts in zip(together, alone, halved, strict=True):
        assert [*parts[0]] == [*parts[1]] == [*parts[2]]
        for name in parts[0]:
            check(parts[1][name], parts[0][name])
            check(parts[2][name], parts[0][name])


def test_a_sight_is_the_mass_of_the_row_that_predicts_the_word(vlm: VLM, cases: list[Restated]) -> None:
    config = vlm.model.config.get_text_config()
    heads = np.zeros((config.num_hidden_layers, config.num_attention_heads), np.float32)
    heads[1, [0, 3]] = 0.5
    for case, sight in zip(cases, see_sources(vlm, cases, heads, budget=BUDGET), strict=True):
        n_keys = len(case.prompt.ids) + 15
        weights = np.zeros((n_keys, n_keys + 1), np.float32)
        weights[range(n_keys), range(n_keys)] = 1  # every key is a region
        sample = Sample(weights, len(case.prompt.ids) + 9, 1, case.image, ((0, 1),))
        with record(vlm.model, plan_recording([sample], n_keys)) as recording:
            read_tokens(vlm, [case.prompt], [case.ids])
        mass = recording.read(0)[0][1, [0, 3], 0].mean(0)
        expected = mass[case.cell].sum(), mass[case.read].sum()
        np.testing.assert_allclose(sight, expected, atol=1e-6)
        assert min(sight) > 0


# -- the shipped checkpoint -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def restated(small_root: Path) -> Iterator[tuple[VLM, list[tuple[Case, Recall]]]]:
    """Return a model with some responses of the small extraction, as cases, and a recall of each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dontblink.paths.ROOT", small_root)
        study = Study(PROFILE)
        vlm, found, nothing = study.load_model(MODEL), list[tuple[Case, Recall]](), np.zeros(36, np.float32)
        responses = {r.item_id: r for shard in study.shards(MODEL) for r in study.read_responses(shard)}
        for (benchmark, split), items in study.items.items():
            for item in items if split == "test" else ():
                own = vlm.limit(study.image_tokens(benchmark))
                ids = responses[item.id].response_ids
                spans, prompt = own.segment(ids), own.encode(item)
                words = own.token_texts(ids[: spans.reasoning[1]])
                placed = Placed(nothing, nothing, ((6, 6),), (nothing, nothing))
                recalls = find_recalls(item, words, np.random.default_rng(1))[0]
                found += [(Case(prompt, ids, spans, placed), recall) for recall in recalls]
        yield vlm, found


def test_a_recall_is_placed_on_its_own_cell_and_words(restated: tuple[VLM, list[tuple[Case, Recall]]]) -> None:
    (vlm, found), n_changed = restated, 0
    assert {recall.kind for _, recall in found} >= {"colour", "shape"}
    for case, recall in found:
        own = place_recall(vlm, case, recall)
        assert own is not None and own.prompt is case.prompt and own.ids == case.ids
        places = [int(box.y0 // 16 * 6 + box.x0 // 16) for box in (recall.box, recall.other_box)]
        assert [(own.cell - own.image[0]).tolist(), (own.other_cell - own.image[0]).tolist()] == [[p] for p in places]
        assert vlm.token_texts(own.edited)[recall.read_token] == recall.altered_word
        assert vlm.token_texts([case.ids[recall.recall_token]]) == [recall.own_word]
        assert (own.read - len(case.prompt.ids)).tolist() == list(range(*recall.read))
        assert len(own.other_read) == (len(own.read) if recall.other else 0)
        assert np.array_equal(own.altered.ids, case.prompt.ids)
        n_changed += not torch.equal(*(shown.inputs["pixel_values"] for shown in (own.prompt, own.altered)))
    assert n_changed > 0.9 * len(found)


def test_a_word_of_several_tokens_or_a_picture_of_another_size_is_not_placed(
    restated: tuple[VLM, list[tuple[Case, Recall]]],
) -> None:
    vlm, [(case, recall), *_] = restated
    assert place_recall(vlm, case, replace(recall, altered_word="red circle")) is None
    shorter = replace(case, prompt=replace(case.prompt, ids=case.prompt.ids[:-1]))
    assert place_recall(vlm, shorter, recall) is None


def test_where_all_sources_say_the_altered_word_the_model_says_it(
    restated: tuple[VLM, list[tuple[Case, Recall]]],
) -> None:
    vlm, found = restated
    cases = [own for case, recall in found if (own := place_recall(vlm, case, recall))]
    sources = find_sources(vlm, cases, budget=4096)
    assert all(own["none"].kept and not own["none"].turned for own in sources) and len(sources) > 5
    assert np.mean([own["TMP"].turned for own in sources]) > 0.7
