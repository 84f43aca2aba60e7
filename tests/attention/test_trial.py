"""A model is believed only where its own eager attention and its own output say the same."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_types
import torch
from tiny_types import build

from dontblink.attention import capture, trial
from dontblink.attention.trial import TRIED, try_model
from dontblink.errors import NamedError
from dontblink.models.vlm import VLM, describe_model
from dontblink.monitor.gaze import describe_alone


def describe(model_type: str) -> tuple[VLM, dict[str, Any]]:
    tiny = build(model_type)
    vlm = describe_model(tiny.model, tiny.processor)
    prompt = vlm.encode_messages([{"role": "user", "content": [
        {"type": "image", "image": tiny_types.draw_picture(0)}, {"type": "text", "text": tiny_types.QUESTION},
    ]}])  # fmt: skip
    return vlm, vlm.collate([prompt])


@pytest.mark.parametrize(("model_type", "shape"), [
    ("qwen2_5_vl", (2, 4)), ("internvl", (2, 4)), ("paligemma", (2, 4)), ("gemma3", (2, 4)),
    ("qwen3_5", (1, 4)),  # one of its two layers attends
])  # fmt: skip
def test_a_model_that_is_right_is_tried_once_and_its_layers_and_heads_are_counted(
    model_type: str, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm, inputs = describe(model_type)
    assert vlm.model not in TRIED
    assert try_model(vlm, inputs) == shape
    monkeypatch.setattr(trial, "compare_words", lambda *_: pytest.fail("tried again"))
    assert try_model(vlm, inputs) == shape


def spoil(function: Any, change: Any) -> Any:
    """Return an attention function whose inputs are changed in the last of two text layers."""

    def spoilt(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        if getattr(module, "layer_idx", 0) != 1:
            return function(module, query, key, value, mask, **kwargs)
        return function(module, *change(query, key, value), mask, **kwargs)

    return spoilt


@pytest.mark.parametrize(("change", "said"), [
    (lambda q, k, v: (1.1 * q, k, v), "masses differ by .* from its own eager attention; not measured"),
    (lambda q, k, v: (q, k, 1.1 * v), "recording changes what it computes, by .*; not measured"),
])  # fmt: skip
def test_scores_or_values_that_are_not_the_models_own_refuse_it(
    change: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm, inputs = describe("qwen2_5_vl")
    mapping = capture.AttentionInterface._global_mapping
    monkeypatch.setitem(mapping, "dontblink_split", spoil(mapping["dontblink_split"], change))
    with pytest.raises(NamedError, match=f"qwen2_5_vl: {said}"):
        try_model(vlm, inputs)
    assert vlm.model not in TRIED


def test_layers_that_are_not_recorded_refuse_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm, inputs = describe("qwen2_5_vl")
    own = vlm.model.model.language_model.layers[1].self_attn
    monkeypatch.delattr(own, "layer_idx")
    with pytest.raises((NamedError, AttributeError), match="1 layers recorded, its eager attention has 2|layer_idx"):
        try_model(vlm, inputs)


@pytest.mark.parametrize(("model_type", "said"), [
    ("mistral_large4", "passes indices to attention, which its eager function does not read"),
    ("minimax_m3_vl", "passes .*indices to attention, which its eager function does not read"),
    ("mllama", "1 layers attend to words, 2 where there is a picture"),
])  # fmt: skip
def test_a_type_whose_scores_go_another_way_is_refused_by_name(model_type: str, said: str) -> None:
    tiny = build(model_type)
    inputs = {name: given for name, given in tiny.inputs.items() if name != "labels"}
    vlm = describe_alone(tiny.model)
    with torch.no_grad(), pytest.raises(NamedError, match=said):
        try_model(vlm, inputs)
