"""A user's own model watched and measured: one table either way, rules that stop it, and refusals by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_types
import torch
from PIL import Image
from tiny_checkpoints import FAMILIES, tiny_vlm

import dontblink
from dontblink.errors import NamedError
from dontblink.models.vlm import VLM
from dontblink.monitor.gaze import Gaze
from dontblink.questions.items import Box

BOXES = [(0, 0, 24, 40), (10, 10, 60, 30)]  # on 16 px a token: some tokens are covered in part
NUMBERS = {
    "visual_mass": 4.2e-6,  # a sum of two masses
    "evidence_mass": 2.1e-6, "prompt_mass": 2.1e-6, "earlier_response_mass": 2.1e-6, "sink_mass": 2.1e-6,
    "blank_image_mass": 2.1e-6, "learned_sink_mass": 2.1e-6,
    "entropy_nats": 2e-5, "top20_entropy_nats": 2e-5, "log_probability_nats": 2e-5,
}  # fmt: skip
PARTITION = [name for name in NUMBERS if name.endswith("_mass") and name != "evidence_mass"]


@pytest.fixture(scope="module", params=FAMILIES)
def vlm(request: pytest.FixtureRequest) -> VLM:
    return tiny_vlm(request.param)


def draw_messages(side: int = 64) -> list[dict[str, Any]]:
    """Return one question about a picture of noise, 16 px a token."""
    pixels = np.random.default_rng(side).integers(0, 256, (48, side, 3), dtype=np.uint8)
    content = [{"type": "image", "image": Image.fromarray(pixels)}, {"type": "text", "text": "what digit is 3 ?"}]
    return [{"role": "user", "content": content}]


def prepare(vlm: VLM) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return messages, and what the processor makes of them."""
    messages = draw_messages()
    return messages, vlm.collate([vlm.encode_messages(messages)], side="left")


def generate(vlm: VLM, inputs: dict[str, Any], **options: Any) -> Any:
    """Write 12 tokens that the tokenizer knows."""
    unknown = range(len(vlm.tokenizer), vlm.n_vocabulary)
    settings: dict[str, Any] = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    settings["suppress_tokens"] = [*vlm.suppressed_ids, *unknown]
    return vlm.model.generate(**inputs, **settings | options)


def watch(vlm: VLM, boxes: Any = BOXES, **options: Any) -> tuple[Any, torch.Tensor]:
    """Return a watch that has ended, and its output."""
    messages, inputs = prepare(vlm)
    with dontblink.watch(vlm.model, inputs, boxes, processor=vlm.processor, messages=messages) as gaze:
        output = generate(vlm, inputs, **options)
    return gaze, output


def test_watching_and_measuring_give_one_table(vlm: VLM) -> None:
    messages, inputs = prepare(vlm)
    gaze, output = watch(vlm)
    assert torch.equal(output, generate(vlm, inputs))
    watched = gaze.table(output)
    assert (watched.pop("sequence_index") == 0).all()
    read = dontblink.measure(vlm.model, vlm.processor, messages, output[0, inputs["input_ids"].shape[1] :], BOXES)
    measured = read.table()
    assert list(watched) == list(measured) and len(measured) == 12
    for name in measured:
        if name in NUMBERS:
            np.testing.assert_allclose(watched[name], measured[name], rtol=0, atol=NUMBERS[name])
        else:
            assert watched[name].equals(measured[name]), name
    assert set(NUMBERS) < set(measured)
    np.testing.assert_allclose(measured[PARTITION].sum(axis=1), 1, rtol=0, atol=1e-5)
    assert (measured["evidence_mass"] > 0.01).all() and (measured["evidence_mass"] < measured["visual_mass"]).all()
    assert measured["token_text"].tolist() == vlm.tokenizer.convert_ids_to_tokens(output[0, -12:])
    (own,) = gaze.read(output)
    np.testing.assert_allclose(own.step_map, read.step_map, rtol=0, atol=2.1e-6)


def test_all_boxes_over_the_picture_are_all_that_is_seen_and_none_is_not_a_number(vlm: VLM) -> None:
    gaze, output = watch(vlm, [Box(0, -1, -1, 999, 999)])
    table = gaze.table(output)
    np.testing.assert_allclose(table["evidence_mass"], table["visual_mass"], rtol=0, atol=1e-6)
    gaze, output = watch(vlm, None)
    bare = gaze.table(output)
    assert bare["evidence_mass"].isna().all()
    np.testing.assert_allclose(bare["visual_mass"], table["visual_mass"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"do_sample": True}], ids=["greedy", "sampled"])
def test_a_padded_batch_without_a_processor_gives_what_each_of_its_prompts_gives_alone(
    vlm: VLM, options: dict[str, Any]
) -> None:
    prompts = [vlm.encode_messages(draw_messages(side)) for side in (48, 96)]
    inputs = vlm.collate(prompts, side="left")
    torch.manual_seed(0)
    plain = generate(vlm, inputs, **options)
    torch.manual_seed(0)
    with dontblink.watch(vlm.model, inputs) as gaze:
        output = generate(vlm, inputs, **options)
    assert torch.equal(output, plain)
    table = gaze.table(output)
    assert table["sequence_index"].tolist() == [0] * 12 + [1] * 12
    assert (table["token_text"] == "").all() and (table["span"] == "answer").all()
    n_prompt = inputs["input_ids"].shape[1]
    for row, side in enumerate((48, 96)):
        ids = output[row, n_prompt:]
        alone = dontblink.measure(vlm.model, vlm.processor, draw_messages(side), ids).table()
        own = table[table["sequence_index"] == row].reset_index(drop=True)
        for name in NUMBERS.keys() - {"evidence_mass"}:
            np.testing.assert_allclose(own[name], alone[name], rtol=0, atol=NUMBERS[name])


def test_a_response_ends_with_its_end_token(vlm: VLM) -> None:
    messages, inputs = prepare(vlm)
    n_prompt = inputs["input_ids"].shape[1]
    end = int(generate(vlm, inputs)[0, n_prompt + 4])
    first = generate(vlm, inputs)[0, n_prompt:].tolist().index(end)
    two = {name: torch.cat([given, given]) for name, given in inputs.items()}
    with dontblink.watch(vlm.model, two) as gaze:
        output = generate(vlm, two)
    gaze.vlm.eos_ids = (end,)
    assert [len(own.token_ids) for own in gaze.read(output)] == [first + 1] * 2


def test_a_rule_ends_a_response_where_it_first_holds_and_its_flags_are_kept(vlm: VLM) -> None:
    messages, inputs = prepare(vlm)
    gaze, output = watch(vlm)
    free = gaze.table(output)
    bar = float(np.sort(free["visual_mass"])[3] + 1e-5)  # four tokens are below
    first = int((free["visual_mass"] <= bar).to_numpy().argmax())
    seen: list[dict[str, float]] = []

    def is_blind(row: Any) -> bool:
        seen.append(dict(row))
        return bool(row["visual_mass"] <= bar)

    with dontblink.watch(vlm.model, inputs, BOXES, processor=vlm.processor, messages=messages) as gaze:
        stopped = generate(vlm, inputs, stopping_criteria=[gaze.stop_when(is_blind)], min_new_tokens=0)
    table = gaze.table(stopped)
    assert len(table) == first + 1 == stopped.shape[1] - inputs["input_ids"].shape[1]
    assert table["flag"].tolist() == [False] * first + [True]
    for name in NUMBERS:  # what the rule is told is what the table says
        np.testing.assert_allclose([row[name] for row in seen], table[name], rtol=0, atol=1e-6)
        np.testing.assert_allclose(table[name], free[name][: first + 1], rtol=0, atol=1e-6)


def test_of_a_batch_each_response_ends_where_its_own_rule_holds(vlm: VLM) -> None:
    prompts = [vlm.encode_messages(draw_messages(side)) for side in (48, 96)]
    inputs, calls = vlm.collate(prompts, side="left"), list[int]()

    def is_third_of_the_first_or_fifth(_: Any) -> bool:
        calls.append(0)
        return len(calls) in (5, 10)  # two rows a step

    with dontblink.watch(vlm.model, inputs) as gaze:
        rule = gaze.stop_when(is_third_of_the_first_or_fifth)
        output = generate(vlm, inputs, stopping_criteria=[rule], min_new_tokens=0, pad_token_id=9)
    assert [len(own.token_ids) for own in gaze.read(output)] == [3, 5]
    assert gaze.table(output).groupby("sequence_index")["flag"].sum().tolist() == [1, 1]


def test_the_picture_has_a_panel_for_each_step_besides_itself(vlm: VLM) -> None:
    gaze, output = watch(vlm)
    (own,) = gaze.read(output)
    figure = gaze.plot(output)
    n_steps = max(len(own.spans.steps), 1)
    assert sum(bool(axes.images) for axes in figure.axes) == n_steps + 1
    assert isinstance(own, Gaze) and own.step_map.shape[0] == n_steps
    _, inputs = prepare(vlm)
    with dontblink.watch(vlm.model, inputs) as bare:
        output = generate(vlm, inputs)
    with pytest.raises(NamedError, match="no picture to draw on; give dontblink.watch the processor"):
        bare.plot(output)


def test_the_output_of_another_generation_is_refused(vlm: VLM) -> None:
    gaze, output = watch(vlm)
    other = output.clone()
    other[0, -5] = 9 if output[0, -5] != 9 else 10
    for wrong in (other, output[:, :-1], torch.cat([output, output])):
        with pytest.raises(NamedError, match="others were watched; give what generate returned inside"):
            gaze.read(wrong)
    assert len(gaze.table(output)) == 12


def enter(vlm: VLM, inputs: Any, boxes: Any = None, **more: Any) -> None:
    """Open and close a watch."""
    with dontblink.watch(vlm.model, inputs, boxes, **more):
        pass


def test_what_cannot_be_watched_is_refused_by_name(vlm: VLM) -> None:
    messages, inputs = prepare(vlm)
    whole = {"processor": vlm.processor, "messages": messages}
    with pytest.raises(NamedError, match="boxes without what maps a picture to its tokens"):
        enter(vlm, inputs, BOXES)
    longer = [{**messages[0], "content": [*messages[0]["content"], {"type": "text", "text": "A"}]}]
    for other in (draw_messages(96), longer):
        with pytest.raises(NamedError, match="not what the processor makes of these messages"):
            enter(vlm, inputs, BOXES, processor=vlm.processor, messages=other)
    flat = (5, 5, 5, 9), (9, 5, 5, 9), (float("nan"), 0, 9, 9)
    for box in (*flat, Box(1, 0, 0, 9, 9), Box(-1, 0, 0, 9, 9), (64, 0, 140, 9), (0, -9, 9, 0)):
        message = "expected one of 1 pictures" if isinstance(box, Box) else "expected x0 < x1 .* picture of 64x48"
        with pytest.raises(NamedError, match=message):
            enter(vlm, inputs, [box], **whole)
        with pytest.raises(NamedError, match=message):
            dontblink.measure(vlm.model, vlm.processor, messages, [9, 10], [box])
    with pytest.raises(NamedError, match=r"expected \(x0, y0, x1, y1\) in px"):
        enter(vlm, inputs, [(1, 2, 3)], **whole)
    with pytest.raises(NamedError, match="empty response"):
        dontblink.measure(vlm.model, vlm.processor, messages, [])
    vlm.model.train()
    try:
        with pytest.raises(NamedError, match="training mode"):
            enter(vlm, inputs)
    finally:
        vlm.model.eval()


def test_right_padding_and_a_batch_without_a_mask_are_refused(vlm: VLM) -> None:
    prompts = [vlm.encode_messages(draw_messages(side)) for side in (48, 96)]
    inputs = vlm.collate(prompts, side="left")
    mask = inputs.pop("attention_mask")
    with pytest.raises(NamedError, match="several sequences without an attention_mask"):
        enter(vlm, inputs)
    for wrong in (mask.flip(1), mask[:, 1:], mask * 0):
        with pytest.raises(NamedError, match="padded on the left"):
            enter(vlm, inputs | {"attention_mask": wrong})


def test_an_error_inside_leaves_the_model_as_it_was(vlm: VLM) -> None:
    _, inputs = prepare(vlm)
    plain = generate(vlm, inputs)
    with pytest.raises(KeyError, match="stop"), dontblink.watch(vlm.model, inputs):
        raise KeyError("stop")
    assert vlm.model.config.get_text_config()._attn_implementation == "sdpa"
    assert torch.equal(generate(vlm, inputs), plain)


def test_without_outputs_there_is_no_table_to_trust(vlm: VLM) -> None:
    messages, inputs = prepare(vlm)
    with dontblink.watch(vlm.model, inputs) as gaze:
        pass
    with pytest.raises(NamedError, match="0 others were watched"):
        gaze.table(generate(vlm, inputs))
    assert isinstance(dontblink.measure(vlm.model, vlm.processor, messages, [9]).table(), pd.DataFrame)


@pytest.mark.parametrize("model_type", ["llava_onevision", "internvl", "llava", "mistral3"])
def test_tiles_crops_and_row_ends_are_watched_with_boxes_and_drawn_on_the_picture(model_type: str) -> None:
    tiny, picture = tiny_types.build(model_type), tiny_types.draw_picture(0)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": tiny_types.QUESTION}]
    messages, boxes = [{"role": "user", "content": content}], [(10, 5, 30, 35)]
    suppressed = list(range(tiny_types.IMAGE, tiny_types.FIRST))
    inputs = {name: given for name, given in tiny.inputs.items() if name != "labels"}
    with dontblink.watch(tiny.model, inputs, boxes, processor=tiny.processor, messages=messages) as gaze:
        output = tiny.model.generate(**inputs, max_new_tokens=4, do_sample=False, suppress_tokens=suppressed)
    (watched,) = gaze.read(output)
    measured = dontblink.measure(tiny.model, tiny.processor, messages, watched.token_ids, boxes)
    np.testing.assert_allclose(watched.mass, measured.mass, rtol=0, atol=1e-5)
    for found in (watched, measured):
        panels = [ax for ax in found.plot().axes if len(ax.images) > 1]  # a map over the picture
        assert len(panels) == len(found.step_map)
        for ax, step in zip(panels, found.step_map, strict=True):
            assert ax.images[-1].get_array().sum() == pytest.approx(step.sum(), rel=1e-4)
