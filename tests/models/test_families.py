"""Claims about families: thinking is read from the rendered prompt, and budgets of image tokens hold in both."""

from __future__ import annotations

import sys

import pytest
import tiny_checkpoints
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoints import tiny_vlm
from transformers import LlavaImageProcessorPil
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.glm46v import image_processing_pil_glm46v as glm
from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl as qwen

from dontblink.errors import NamedError
from dontblink.models.families import (
    FAMILIES,
    Family,
    Thinking,
    find_family,
    find_thinking,
    limit_image_tokens,
    pixels_per_token,
    read_image_tokens,
)
from dontblink_testbed.stand_in import SHAPES, build_image_processor, build_tokenizer

HEAD = "{%- for message in messages %}{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endfor -%}"
MODELS = tuple(SHAPES)
SIDES = {"Qwen3-VL-2B": 32, "Qwen3-VL-8B": 32, "GLM-4.6V-Flash": 28}  # px of a merged token


class Renderer:
    """What find_thinking uses of a processor."""

    def __init__(self, family: str, behind: str) -> None:
        self.tokenizer = build_tokenizer(family)
        self.chat_template = HEAD + behind


@pytest.mark.parametrize(
    ("family", "behind", "wanted", "expected"),
    [
        ("qwen3_vl", "<think>\n", True, (True, True, None)),
        ("qwen3_vl", "", True, (False, False, None)),
        ("qwen3_vl", "", False, (False, False, None)),
        ("glm4v", "", True, (True, False, None)),
        ("glm4v", "<think></think>", True, (False, False, None)),
        ("glm4v", "{{ '' if enable_thinking else '<think></think>' }}", True, (True, False, True)),
        ("glm4v", "{{ '' if enable_thinking else '<think></think>' }}", False, (False, False, False)),
        ("glm4v", "{{ '' if enable_thinking else '/nothink' }}", False, (False, False, False)),
        ("qwen3_vl", "{{ '<think>' if enable_thinking else '<think></think>' }}", True, (True, True, True)),
        ("qwen3_vl", "{{ '' if enable_thinking else '<think>\n\n</think>' }}", True, (True, False, True)),
    ],
)  # fmt: skip
def test_thinking_is_found_by_rendering_the_prompt(
    family: str, behind: str, wanted: bool, expected: tuple[bool, bool, bool | None]
) -> None:
    """Expected: thinks, opens <think> in the prompt, and what the switch is told (None: the template has none)."""
    thinks, opens, told = expected
    options = {} if told is None else {"enable_thinking": told}
    assert find_thinking(Renderer(family, behind), FAMILIES[family], wanted) == Thinking(thinks, opens, options)


@pytest.mark.parametrize(
    ("family", "behind", "remedy"),
    [("qwen3_vl", "<think>\n", "use the -Instruct checkpoint"), ("glm4v", "", "enable_thinking .GLM-4.6V")],
)
def test_a_template_that_always_thinks_cannot_be_silenced(family: str, behind: str, remedy: str) -> None:
    with pytest.raises(NamedError, match=f"always thinks.*{remedy}") as caught:
        find_thinking(Renderer(family, behind), FAMILIES[family], False)
    assert "\n" not in str(caught.value)


def test_a_question_about_think_tokens_does_not_decide() -> None:
    """Only what stands behind the question counts: a system text may speak of <think>."""
    renderer = Renderer("qwen3_vl", "")
    renderer.chat_template = "write <think> first." + renderer.chat_template
    assert not find_thinking(renderer, FAMILIES["qwen3_vl"], True).thinks


def grid(images: object, width: int, height: int) -> tuple[int, int]:
    """The merged grid (rows, columns) that a processor makes of a picture."""
    size = dict(images.size)  # type: ignore[attr-defined]
    side = images.patch_size * images.merge_size  # type: ignore[attr-defined]
    limits = {"factor": side, "min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    if type(images).__name__.startswith("Glm"):
        high, wide = glm.smart_resize(2, height, width, 2, **limits)
    else:
        high, wide = qwen.smart_resize(height, width, **limits)
    return high // side, wide // side


@pytest.mark.parametrize("model", MODELS)
def test_the_checkpoints_own_limits_are_read_in_tokens_and_kept(model: str) -> None:
    images, family = build_image_processor(model), FAMILIES[SHAPES[model].family]
    before = dict(images.size)
    assert pixels_per_token(images, family) == SIDES[model] ** 2 * (2 if "GLM" in model else 1)
    assert read_image_tokens(images, family) == SHAPES[model].image_tokens
    limit_image_tokens(images, family, None)
    assert dict(images.size) == before


@pytest.mark.parametrize("model", MODELS)
@settings(max_examples=300, deadline=None)
@given(most=st.integers(16, 20000), width=st.integers(1, 6000), aspect=st.floats(0.1, 10))
def test_no_picture_of_ordinary_aspect_takes_more_tokens_than_the_budget(
    model: str, most: int, width: int, aspect: float
) -> None:
    images, family = build_image_processor(model), FAMILIES[SHAPES[model].family]
    limit_image_tokens(images, family, most)
    height = min(max(round(width * aspect), -(-width // 10)), 10 * width)
    rows, columns = grid(images, width, height)
    assert 1 <= rows * columns <= most
    assert images.size["longest_edge"] == most * pixels_per_token(images, family)


@pytest.mark.parametrize("most", [0, -1])
def test_a_budget_that_cannot_be_kept_is_an_error(most: int) -> None:
    with pytest.raises(NamedError, match=f"1 to {most} image tokens a picture; expected 1 <= least <= max_image_tok"):
        limit_image_tokens(build_image_processor("Qwen3-VL-2B"), FAMILIES["qwen3_vl"], most)


def test_every_family_is_registered_under_its_model_type() -> None:
    assert set(FAMILIES) <= set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    for name in tiny_checkpoints.FAMILIES:
        assert tiny_vlm(name).family == find_family(name) and find_family(name).name == name


def test_a_type_without_a_row_has_the_defaults_and_a_processor_without_a_budget_no_bound() -> None:
    assert find_family("llava") == Family("llava")
    images = LlavaImageProcessorPil()
    before = dict(images.size)
    limit_image_tokens(images, find_family("llava"), 100)
    assert read_image_tokens(images, find_family("llava")) == (1, sys.maxsize) and dict(images.size) == before
