"""Where image tokens lie is derived from processor and model: right where it is known, refused where it cannot be."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import tiny_types
import torch
from PIL import Image

from dontblink.boxes.evidence import token_coverage
from dontblink.errors import NamedError
from dontblink.models import placement as placement_module
from dontblink.models.placement import Placement, derive_placement
from dontblink.models.vlm import describe_model
from dontblink.questions.items import Box

SIZE = (150, 120)
STATED = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v", "video_llama_3", "ernie4_5_vl_moe", "paddleocr_vl")
MEAN_BAR = 0.005  # of a token's covered share, over random boxes


def make_encode(model_type: str, *order: int) -> Any:
    """Return a model, its processor on a question with its pictures in an order, and the id of its image tokens."""
    tiny = tiny_types.build(model_type)
    vlm = describe_model(tiny.model, tiny.processor)

    def encode(pictures: Sequence[Image.Image]) -> Mapping[str, Any]:
        shown = [{"type": "image", "image": pictures[place]} for place in order or range(len(pictures))]
        content = [*shown, {"type": "text", "text": tiny_types.QUESTION}]
        return vlm._process([{"role": "user", "content": content}], "item")

    return tiny.model, encode, vlm.image_token_id


@functools.cache
def place(model_type: str, *sizes: tuple[int, int]) -> Placement:
    model, encode, token = make_encode(model_type)
    return derive_placement(model, encode, sizes or [SIZE], token)


def draw_boxes(n: int, size: tuple[int, int] = SIZE) -> list[Box]:
    """Return boxes of any size and place, their corners between the pixels."""
    rng = np.random.default_rng(0)
    corners = np.sort(rng.random((n, 2, 2)) * np.array(size)[None, :, None], axis=-1)
    return [Box(0, x0, y0, x1, y1) for (x0, x1), (y0, y1) in corners.tolist()]


def mean_error(found: Placement, expect: Any, boxes: Sequence[Box] = ()) -> float:
    """Return the mean difference from what is expected of each token that holds pixels."""
    own = [found.cover([box], [SIZE])[found.picture >= 0] - expect(box) for box in boxes or draw_boxes(60)]
    return float(np.abs(own).mean())


@pytest.mark.parametrize("model_type", STATED)
def test_the_derived_map_is_the_grid_that_the_processor_states(model_type: str) -> None:
    model, encode, _ = make_encode(model_type)
    inputs = encode([Image.new("RGB", SIZE)])
    merge = tiny_types.build(model_type).processor.image_processor.merge_size
    _, rows, columns = (inputs["image_grid_thw"][0] // torch.tensor([1, merge, merge])).tolist()
    found = place(model_type)
    assert found.find_grids() == [(rows, columns)]
    assert mean_error(found, lambda box: token_coverage([box], SIZE, (rows, columns))) <= MEAN_BAR


@pytest.mark.parametrize(("model_type", "grid"), [("paligemma", (4, 4)), ("gemma3", (2, 2))])
def test_a_picture_that_is_squashed_into_a_square_is_one_grid(model_type: str, grid: tuple[int, int]) -> None:
    found = place(model_type)
    assert found.find_grids() == [grid]
    assert mean_error(found, lambda box: token_coverage([box], SIZE, grid)) <= MEAN_BAR


def test_what_a_centre_crop_leaves_out_is_in_no_token() -> None:
    """The shorter side, 120 px, becomes 32; of the longer one the middle 120 px stay."""
    found = place("llava")
    assert found.find_grids() is None
    assert found.cover([Box(0, 0, 0, 12, 120)], [SIZE]).max() == 0

    def expect(box: Box) -> Any:
        inside = Box(0, max(box.x0 - 15, 0), box.y0, min(box.x1 - 15, 120), box.y1)
        nothing = np.zeros(16, np.float32)
        return token_coverage([inside], (120, 120), (4, 4)) if inside.x0 < inside.x1 else nothing

    assert mean_error(found, expect) <= MEAN_BAR


@pytest.mark.parametrize(
    "model_type", ["internvl", "aya_vision", "llava_next", "llava_onevision", "smolvlm", "idefics3"]
)
def test_tiles_and_thumbnail_hold_the_picture_twice_and_row_ends_hold_nothing(model_type: str) -> None:
    found = place(model_type)
    assert found.find_grids() is None
    holds = found.picture >= 0
    assert (~holds).any() == model_type.startswith("llava")
    assert not found.x[~holds].any() and not found.y[~holds].any()
    np.testing.assert_allclose(found.cover([Box(0, 0, 0, *SIZE)], [SIZE])[holds], 1, rtol=0, atol=1e-5)
    # of a row that is even over w of n strips: 1 / (n sum p^2) = w / n
    width, height = (1 / (axis.shape[1] * (axis**2).sum(axis=1)) for axis in (found.x[holds], found.y[holds]))
    assert (width * height).sum() == pytest.approx(2, abs=0.2)
    left = found.cover([Box(0, 0, 0, SIZE[0] / 2, SIZE[1])], [SIZE])[holds]
    assert ((width * height) @ left) / (width * height).sum() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("model_type", ["idefics2", "aria", "chameleon", "emu3", "deepseek_vl_hybrid"])
def test_a_type_that_mixes_the_picture_is_refused_by_name(model_type: str) -> None:
    with pytest.raises(NamedError, match=r"has no map from picture to tokens: .*; measure its visual mass only, no box"):
        place(model_type)


def average_all(query: Any, value: Any) -> Any:
    return value.mean(2, keepdim=True).expand_as(value)


def average_neighbours(query: Any, value: Any) -> Any:
    return (value.roll(1, 2) + value + value.roll(-1, 2)) / 3


@pytest.mark.parametrize("mix", [average_all, average_neighbours])
@pytest.mark.parametrize("model_type", ["qwen2_vl", "paligemma", "internvl"])
def test_attention_that_mixes_patches_is_noticed(model_type: str, mix: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were a tower to mix them in spite of the function that it is given (llava reads what is before its one layer)."""
    def attend(module: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return mix(query, value).transpose(1, 2).contiguous(), None

    monkeypatch.setitem(placement_module.AttentionInterface._global_mapping, "dontblink_itself", attend)
    model, encode, token = make_encode(model_type)
    with pytest.raises(NamedError, match="has no map from picture to tokens"):
        derive_placement(model, encode, [SIZE], token)


@pytest.mark.parametrize("model_type", ["qwen3_vl", "paligemma"])
def test_several_pictures_keep_their_tokens_apart(model_type: str) -> None:
    sizes = [SIZE, (90, 150)]
    model, encode, token = make_encode(model_type)
    found = derive_placement(model, encode, sizes, token)
    grids = found.find_grids()
    assert grids is not None and len(grids) == 2
    counts = [rows * columns for rows, columns in grids]
    assert found.picture.tolist() == [0] * counts[0] + [1] * counts[1]
    second = found.cover([Box(7, 0, 0, 45, 150)], sizes, image_order=[3, 7])
    assert not second[: counts[0]].any()
    expected = token_coverage([Box(0, 0, 0, 45, 150)], sizes[1], grids[1])
    np.testing.assert_allclose(second[counts[0] :], expected, rtol=0, atol=0.05)
    with pytest.raises(ValueError, match="one of each per picture"):
        found.cover([], sizes[:1])


def test_painting_keeps_the_sum_and_gathering_is_its_inverse_on_even_maps() -> None:
    found = place("internvl")
    values = np.random.default_rng(0).random(len(found.picture))
    for side in (None, 32):
        painted = found.paint(values, side)
        assert painted.shape == (1, side or 256, side or 256)
        assert painted.sum() == pytest.approx(values[found.picture >= 0].sum(), rel=1e-5)
    np.testing.assert_allclose(found.gather(np.full((1, 32, 32), 0.3))[found.picture >= 0], 0.3, rtol=1e-5)


def test_what_was_found_is_kept_by_what_decides_it_and_no_random_number_is_used_up() -> None:
    model, encode, token = make_encode("llava")
    kept: dict[str, Placement] = {}
    state = torch.random.get_rng_state()
    first = derive_placement(model, encode, [SIZE], token, cache=kept)
    assert torch.equal(state, torch.random.get_rng_state()) and len(kept) == 1
    assert derive_placement(model, encode, [SIZE], token, cache=kept) is first
    assert derive_placement(model, encode, [(120, 150)], token, cache=kept) is not first
    model, encode, token = make_encode("paligemma")
    assert derive_placement(model, encode, [SIZE], token, cache=kept) is not first and len(kept) == 3
