"""Traces survive the disk unchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_extraction import MODEL, N_TEST, PROFILE
from small_items import make_item
from tiny_types import N_VOCABULARY, QUESTION, build, read_eager

from dontblink.attention.grounding import Grounding
from dontblink.attention.replay import REGIONS
from dontblink.attention.traces import pack_traces, place_evidence, trace_responses, unpack_traces
from dontblink.attention.trial import try_model
from dontblink.errors import NamedError
from dontblink.extraction.study import iterate_traces
from dontblink.models.checkpoints import load_vlm
from dontblink.models.generate import Sampling, generate_responses
from dontblink.models.response import Response
from dontblink.models.vlm import describe_model
from dontblink.questions.items import Box, ItemError


def test_traces_survive_the_disk_unchanged(small: Path) -> None:
    traces = list(iterate_traces(PROFILE, MODEL, "visual_reference"))
    assert [trace.item_id for trace in traces] == [f"visual_reference-test-{k:04d}" for k in range(N_TEST)]
    for trace, again in zip(traces, unpack_traces(pack_traces(traces)), strict=True):
        for name, value in vars(trace).items():
            found = getattr(again, name)
            assert type(found) is type(value) and np.shape(found) == np.shape(value)
            assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value
    with pytest.raises(NamedError, match="no shard of nobody x visual_reference, test, in traces"):
        next(iterate_traces(PROFILE, "nobody", "visual_reference"))


@pytest.mark.parametrize("model_type", ["internvl", "llava_onevision", "llava", "paligemma"])
def test_tiles_crops_and_squashed_pictures_are_traced_by_their_tokens_and_shown_on_their_picture(
    model_type: str,
) -> None:
    tiny = build(model_type)
    vlm = describe_model(tiny.model, tiny.processor)
    item = make_item("a", (56, 40), question=QUESTION)
    item = replace(item, boxes=(Box(0, 10, 5, 30, 35),))
    words = tuple(range(N_VOCABULARY - 30, N_VOCABULARY - 20))
    response = Response("a", "m", (), words, "", "length")
    settings = {
        "retokenised": "keep", "control_seed": 0, "replay_implementation": "split", "replay_batch_tokens": 4096,
    }  # fmt: skip
    (trace,), reasons = trace_responses(vlm, [item], [response], settings, (), None)
    assert not reasons
    prompt = vlm.encode(item)
    image, blank = prompt.find_image(vlm.image_token_id)
    covered = vlm.cover(prompt, item.boxes)
    reference = read_eager(tiny.model, {"input_ids": torch.from_numpy(prompt.ids)[None], **prompt.inputs}, words)
    attention = np.stack([layer.numpy() for layer in reference.attention])
    mass = dict(zip(REGIONS, np.moveaxis(trace.mass, -1, 0), strict=True))
    np.testing.assert_allclose(mass["evidence"], attention[..., image] @ covered, rtol=0, atol=1e-5)
    np.testing.assert_allclose(mass["blank_image"], attention[..., blank].sum(-1), rtol=0, atol=1e-5)
    partition = sum(own for name, own in mass.items() if name != "control_box")
    np.testing.assert_allclose(partition, 1, rtol=0, atol=1e-5)
    assert (trace.image_tokens, trace.evidence_tokens) == (len(image), pytest.approx(covered.sum(), rel=1e-6))
    assert trace.step_map.shape[-1] == sum(rows * columns for rows, columns in trace.grids) == len(trace.coverage)
    assert trace.coverage.mean() == pytest.approx(20 * 30 / 56 / 40, abs=1e-6)  # of the picture
    for (begin, end), step_map in zip(trace.spans.steps, trace.step_map, strict=True):
        seen = attention[:, :, begin:end][..., image].mean(2).sum(-1)
        np.testing.assert_allclose(step_map.sum(-1), seen, rtol=0, atol=1e-5)  # painted, and nothing lost


@pytest.mark.parametrize("model_type", ["llava", "paligemma", "aya_vision", "idefics3"])
def test_a_checkpoint_of_another_type_is_named_by_its_folder_answers_in_batches_and_is_traced(
    model_type: str, tmp_path: Path
) -> None:
    tiny = build(model_type)
    tiny.model.save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    vlm = load_vlm(tmp_path)
    boxes = (Box(0, 10, 5, 30, 35),)
    sizes = {"one": [(56, 40)], "two": [(56, 40), (40, 56)], "wide": [(80, 40)], "three": [(56, 40)]}
    items = [replace(make_item(name, *own, question=QUESTION), boxes=boxes) for name, own in sizes.items()]
    responses = list(generate_responses(vlm, items, Sampling(8), batch_size=4, progress=False))
    alone = [next(generate_responses(vlm, [item], Sampling(8), batch_size=1, progress=False)) for item in items]
    assert {r.item_id: r.response_ids for r in responses} == {r.item_id: r.response_ids for r in alone}
    settings = {
        "retokenised": "keep", "control_seed": 0, "replay_implementation": "split", "replay_batch_tokens": 4096,
    }  # fmt: skip
    grounding = Grounding.of_all(*try_model(vlm, vlm.collate([vlm.encode(items[0])])))
    together, reasons = trace_responses(vlm, items, responses, settings, (), grounding)
    assert not reasons and len(together) == 4
    for trace, again in zip(together, unpack_traces(pack_traces(together)), strict=True):
        assert np.array_equal(trace.mass, again.mass) and trace.image_tokens == again.image_tokens
        one = [r for r in responses if r.item_id == trace.item_id]
        ((single,), _) = trace_responses(vlm, items, one, settings, (), grounding)
        np.testing.assert_allclose(trace.mass, single.mass, rtol=0, atol=1e-5)


def test_a_type_that_places_no_token_is_traced_without_boxes_and_refused_with_them() -> None:
    tiny = build("aria")
    vlm = describe_model(tiny.model, tiny.processor)
    item = make_item("a", (56, 40), question=QUESTION)
    prompt = vlm.encode(item)
    placed = place_evidence(vlm, prompt, item, 0)
    assert placed.grids == ((1, int((prompt.ids == vlm.image_token_id).sum())),) and not placed.coverage.any()
    with pytest.raises(ItemError, match="no map from picture to tokens.*visual mass only"):
        place_evidence(vlm, prompt, replace(item, boxes=(Box(0, 10, 5, 30, 35),)), 0)
