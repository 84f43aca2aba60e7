"""A user's own model watched and measured: one table either way, rules that stop it, and refusals by name."""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import tiny_types
import torch
from nbclient import NotebookClient
from PIL import Image
from small_monitor import build_monitor
from tiny_checkpoints import FAMILIES, tiny_vlm

import dontblink
from dontblink.errors import NamedError
from dontblink.models.vlm import VLM
from dontblink.monitor.gaze import Gaze
from dontblink.questions.items import Box
from dontblink.studies.risk import COLUMNS, Known, Monitor, Scale, Signals

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


def test_asked_every_few_tokens_a_rule_ends_a_response_later_and_the_tables_where_it_first_held(vlm: VLM) -> None:
    _, inputs = prepare(vlm)
    gaze, output = watch(vlm)
    free = gaze.table(output)
    bar = float(np.sort(free["visual_mass"])[3] + 1e-5)
    first = int((free["visual_mass"] <= bar).to_numpy().argmax())
    for every_tokens in (1, 5, 20):
        with dontblink.watch(vlm.model, inputs) as gaze:
            rule = gaze.stop_when(lambda row: row["visual_mass"] <= bar, every_tokens)
            output = generate(vlm, inputs, stopping_criteria=[rule], min_new_tokens=0)
        n_written = output.shape[1] - inputs["input_ids"].shape[1]
        assert n_written == min(-(-(first + 1) // every_tokens) * every_tokens, 12)
        table = gaze.table(output)
        assert table["flag"].tolist() == [False] * first + [True]
        np.testing.assert_allclose(table["visual_mass"], free["visual_mass"][: first + 1], rtol=0, atol=1e-6)


def monitor_of(vlm: VLM, **numbers: Any) -> Monitor:
    """Return the monitor by hand, on scales that the tiny checkpoint's tokens have, and knowing it."""
    signals = Signals(Scale(4.0, 0.1), Scale(0.2, 0.02))
    known = Known(vlm.model.config.model_type, vlm.model.num_parameters(), signals)
    wide = [replace(stage, low=(-99.0,) * 4, high=(99.0,) * 4) for stage in build_monitor().stages]
    return replace(build_monitor(), models={"tiny": known}, stages=tuple(wide), **numbers)


def test_a_monitor_says_the_same_online_and_behind_the_response(vlm: VLM) -> None:
    messages, inputs = prepare(vlm)
    monitor, seen = monitor_of(vlm), list[dict[str, float]]()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with dontblink.watch(
            vlm.model, inputs, BOXES, processor=vlm.processor, messages=messages, monitor=monitor
        ) as gaze:
            rule = gaze.stop_when(lambda row: bool(seen.append(dict(row))), 5)  # type: ignore[func-returns-value]
            output = generate(vlm, inputs, stopping_criteria=[rule])
        watched = gaze.table(output)
        response = output[0, inputs["input_ids"].shape[1] :]
        read = dontblink.measure(vlm.model, vlm.processor, messages, response, BOXES, monitor=monitor)
    measured = read.table()
    assert list(measured)[-6:] == list(watched)[-6:] == list(COLUMNS) and len(measured) == 12
    bars = {"mean_entropy_nats": 2e-5, "look_mass": 2e-6, "need": 1e-4, "risk": 1e-4}
    for found in (watched, pd.DataFrame(seen)):
        for name, bar in bars.items():
            np.testing.assert_allclose(found[name], measured[name], rtol=0, atol=bar)
    assert watched["in_domain"].tolist() == measured["in_domain"].tolist() == [False] + [True] * 11
    assert watched["risk"].notna().tolist() == [False] + [True] * 11 and watched["risk"].nunique() > 5
    assert watched["is_blind"].equals(pd.Series([row["is_blind"] for row in seen]))


def test_a_model_that_the_monitor_does_not_know_is_told_once_in_a_line(vlm: VLM) -> None:
    messages, inputs = prepare(vlm)
    monitor = build_monitor()
    with pytest.warns(UserWarning, match="unknown to the monitor.* calibrated on a, b on first, second") as told:
        with dontblink.watch(vlm.model, inputs, monitor=monitor) as gaze:
            output = generate(vlm, inputs)
        table = gaze.table(output)
    assert len([each for each in told if each.category is UserWarning]) == 1
    assert not table["in_domain"].any() and table["risk"].notna().sum() == 11
    with pytest.warns(UserWarning, match=r"of [\d,]+ parameters: unknown to the monitor"):
        dontblink.measure(vlm.model, vlm.processor, messages, [9, 10], monitor=monitor)


def test_a_blind_response_is_ended_and_asked_to_look_again(vlm: VLM) -> None:
    messages, inputs = prepare(vlm)
    monitor = monitor_of(vlm, sure=99.0, least_look=99.0, least_need=0.0)  # blind as soon as there is a need
    with dontblink.watch(vlm.model, inputs, processor=vlm.processor, messages=messages, monitor=monitor) as gaze:
        rule = gaze.stop_when(lambda row: bool(row["is_blind"]), 4)
        output = generate(vlm, inputs, stopping_criteria=[rule], min_new_tokens=0)
    (own,) = gaze.read(output)
    assert len(own.token_ids) == 2 and output.shape[1] == inputs["input_ids"].shape[1] + 4
    again = gaze.look_again(output, "what digit was 3 ?")
    more = vlm.tokenizer("what digit was 3 ?", add_special_tokens=False)["input_ids"]
    tail = torch.tensor([[*own.token_ids, *more]])
    long_way = {**inputs, "input_ids": torch.cat([inputs["input_ids"], tail], 1)}
    for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):  # text is of kind 0
        if name in inputs:
            long_way[name] = torch.cat([inputs[name], torch.full_like(tail, value)], 1)
    assert again.keys() == long_way.keys()
    assert all(torch.equal(again[name], given) for name, given in long_way.items())
    plain = generate(vlm, long_way)
    with dontblink.watch(vlm.model, again, monitor=monitor) as second:
        output = generate(vlm, again)
    assert torch.equal(output, plain) and len(second.table(output)) == 12


def test_to_look_again_leaves_the_end_token_out_and_refuses_what_it_cannot_write(vlm: VLM) -> None:
    messages, inputs = prepare(vlm)
    gaze, output = watch(vlm)
    n_prompt = inputs["input_ids"].shape[1]
    gaze.vlm.eos_ids = (int(output[0, -1]),)
    written = [token for token in output[0, n_prompt:].tolist() if token != output[0, -1]]
    first = output[0, n_prompt:].tolist().index(int(output[0, -1]))
    assert gaze.look_again(output, "")["input_ids"][0, n_prompt:].tolist() == written[:first]
    with pytest.raises(NamedError, match="holds a token that stands for a picture"):
        gaze.look_again(output, vlm.decode([vlm.image_token_id]))
    with dontblink.watch(vlm.model, inputs) as bare:
        output = generate(vlm, inputs)
    with pytest.raises(NamedError, match="nothing knows the tokens of a text; give dontblink.watch the processor"):
        bare.look_again(output, "what")


def test_elsewhere_the_live_view_is_a_line_a_token_and_changes_none(
    vlm: VLM, capsys: pytest.CaptureFixture[str]
) -> None:
    messages, inputs = prepare(vlm)
    with dontblink.watch(
        vlm.model, inputs, processor=vlm.processor, messages=messages, monitor=monitor_of(vlm)
    ) as gaze:
        output = generate(vlm, inputs, stopping_criteria=[gaze.live(5)])
    assert torch.equal(output, generate(vlm, inputs))
    lines, table = capsys.readouterr().err.splitlines(), gaze.table(output)
    assert len(lines) == 12  # the last two behind the last fifth
    for line, (_, row) in zip(lines, table.iterrows(), strict=True):
        risk = f"{row['risk']:.2f}"
        expected = f"entropy {row['entropy_nats']:6.3f} nats  image {row['visual_mass']:.3f}  risk {risk}  "
        assert line == expected + row["token_text"]
    with dontblink.watch(vlm.model, inputs) as gaze:
        output = generate(vlm, inputs, stopping_criteria=[gaze.live(1)])
    assert "risk" not in (told := capsys.readouterr().err) and told.splitlines()[-1].endswith(f"  {output[0, -1]}")
    assert len(gaze.draw().axes) == 2  # masses and entropy, no picture
    two = {name: torch.cat([given, given]) for name, given in inputs.items()}
    with (
        dontblink.watch(vlm.model, two) as gaze,
        pytest.raises(NamedError, match="2 sequences, a live view shows one"),
    ):
        gaze.live()


KERNEL = """
import sys
sys.path[:0] = {tests}
import dontblink, torch
from test_gaze import monitor_of, prepare, generate, BOXES
from tiny_checkpoints import tiny_vlm
vlm = tiny_vlm({family!r})
messages, inputs = prepare(vlm)
with dontblink.watch(
    vlm.model, inputs, BOXES, processor=vlm.processor, messages=messages, monitor=monitor_of(vlm, least_need=0.0)
) as gaze:
    generate(vlm, inputs, stopping_criteria=[gaze.live(3)])
"""


@pytest.mark.slow
def test_in_a_kernel_the_live_view_is_one_picture_that_is_drawn_anew(vlm: VLM) -> None:
    tests = Path(__file__).parents[1]
    family = "glm4v" if vlm.model.config.model_type.startswith("glm4v") else "qwen3_vl"
    cell = nbformat.v4.new_code_cell(KERNEL.format(tests=[str(tests), str(tests / "monitor")], family=family))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    updates = list[str]()

    class Counting(NotebookClient):
        def process_message(self, msg: Any, *rest: Any) -> Any:
            if "image/png" in msg["content"].get("data", {}):  # not a progress bar
                updates.append(msg["msg_type"])
            return super().process_message(msg, *rest)

    Counting(notebook, timeout=None, kernel_name="python3").execute()
    (shown,) = [out for out in notebook.cells[0].outputs if "image/png" in out.get("data", {})]
    assert updates == ["display_data"] + ["update_display_data"] * 3  # 12 tokens by threes
    with Image.open(io.BytesIO(base64.b64decode(shown["data"]["image/png"]))) as picture:
        assert min(picture.size) > 300 and len(picture.convert("L").getcolors(256) or []) > 30


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
