"""Claims about evidence: the box-to-token mapping, checked on the pixels that processors and towers see,
and the overlap measures, checked against plain definitions."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score
from small_items import make_item, noise, png
from tiny_checkpoints import FAMILIES, tiny_vlm

from dontblink.boxes.evidence import (
    border_mask,
    control_coverage,
    find_rectangles,
    item_coverage,
    map_auc,
    mass_set_iou,
    place_rectangle,
    pointing_hit,
    token_coverage,
)
from dontblink.models.vlm import VLM, Prompt
from dontblink.questions.items import Box, Item, open_image


def repaint(item: Item, box: Box) -> Item:
    """The same item with every pixel of the box (whole px) inverted."""
    images = list(item.images)
    pixels = np.array(open_image(images[box.image]))
    inside = (slice(int(box.y0), int(box.y1)), slice(int(box.x0), int(box.x1)))
    pixels[inside] = 255 - pixels[inside]
    images[box.image] = png(pixels)
    return dataclasses.replace(item, images=tuple(images))


def patches_of_tokens(prompt: Prompt) -> np.ndarray:
    """Pixels behind each merged token [M, 4 * dim]: four consecutive patch rows make one token."""
    pixels: np.ndarray = prompt.inputs["pixel_values"].numpy()
    return pixels.reshape(len(pixels) // 4, -1)


CASES = [
    (((96, 96),), Box(0, 16, 32, 48, 80)),  # on token borders
    (((96, 48),), Box(0, 5, 3, 20, 37)),  # wide image, free box
    (((48, 112),), Box(0, 40, 90, 47, 111)),  # tall image, small box in a corner
    (((96, 48), (32, 80), (64, 64)), Box(1, 0, 20, 9, 60)),  # middle one of three images
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("sizes", "box"), CASES)
def test_covered_tokens_are_those_whose_pixels_change_when_the_box_does(
    family: str, sizes: tuple[tuple[int, int], ...], box: Box
) -> None:
    vlm, item = tiny_vlm(family), make_item("p", *sizes, boxes=(box,))
    before, after = vlm.encode(item), vlm.encode(repaint(item, box))
    share = (patches_of_tokens(before) != patches_of_tokens(after)).mean(axis=1)
    # 255 - p differs from p for every p, so the changed share of a token's pixels is its coverage, exactly
    np.testing.assert_allclose(item_coverage(item, vlm.image_grid(before)), share, atol=1e-6)


def features_without_attention(vlm: VLM, prompt: Prompt) -> np.ndarray:
    """Features [M, d] of the real vision tower with its attention silenced, so that tokens stay apart."""
    tower = copy.deepcopy(vlm.model)
    for block in tower.model.visual.blocks:
        for parameter in block.attn.proj.parameters():
            parameter.zero_()
    shown = prompt.inputs["pixel_values"], prompt.inputs["image_grid_thw"]
    found = tower.model.get_image_features(*shown).pooler_output
    return torch.cat(list(found)).numpy()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("sizes", "box"), CASES)
def test_covered_tokens_are_those_whose_vision_features_change(
    family: str, sizes: tuple[tuple[int, int], ...], box: Box
) -> None:
    vlm, item = tiny_vlm(family), make_item("p", *sizes, boxes=(box,))
    before, after = vlm.encode(item), vlm.encode(repaint(item, box))
    difference = np.abs(features_without_attention(vlm, before) - features_without_attention(vlm, after)).max(axis=1)
    coverage = item_coverage(item, vlm.image_grid(before), before.image_sizes)
    assert 0 < (coverage > 0).sum() < len(coverage)
    np.testing.assert_array_equal(difference > 1e-5, coverage > 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(150, 70), (37, 141), (620, 410)])
def test_boxes_follow_a_resize_that_changes_the_aspect(family: str, size: tuple[int, int]) -> None:
    vlm = tiny_vlm(family)
    width, height = size
    box = Box(0, width // 4, height // 2, (3 * width) // 4, height)
    item = make_item("r", size, boxes=(box,))
    before, after = vlm.encode(item), vlm.encode(repaint(item, box))
    (rows, columns) = vlm.image_grid(before)[0]
    assert rows * 16 != height or columns * 16 != width
    share = (np.abs(patches_of_tokens(before) - patches_of_tokens(after)) > 0.02).mean(axis=1)
    coverage = item_coverage(item, [(rows, columns)])
    # bicubic resampling smears the edge by up to two pixels of the larger raster
    smear = 2 * 2 * max(1, 16 * columns / width, 16 * rows / height, width / 16 / columns) / 16
    assert np.abs(share - coverage).max() < smear + 0.05
    assert abs(share.mean() - coverage.mean()) < 0.05


@pytest.mark.parametrize("orientation", [2, 3, 5, 6, 8])
def test_boxes_on_an_exif_turned_image_land_on_the_turned_pixels(orientation: int) -> None:
    vlm = tiny_vlm("qwen3_vl")
    source = png(noise(np.random.default_rng(1), 96, 48), orientation)
    width, height = open_image(source).size
    assert (width, height) == ((48, 96) if orientation > 4 else (96, 48))
    box = Box(0, 3, 7, 29, 41)
    item = dataclasses.replace(make_item("e", (16, 16)), images=(source,), boxes=(box,))
    before, after = vlm.encode(item), vlm.encode(repaint(item, box))
    share = (patches_of_tokens(before) != patches_of_tokens(after)).mean(axis=1)
    np.testing.assert_allclose(item_coverage(item, vlm.image_grid(before)), share, atol=1e-6)


@st.composite
def boxes_in_image(draw: st.DrawFn) -> tuple[list[Box], tuple[int, int], tuple[int, int]]:
    width, height = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    grid = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))

    def edges(length: int) -> st.SearchStrategy[list[int]]:
        return st.lists(st.integers(0, length), min_size=2, max_size=2, unique=True).map(sorted)

    corners = draw(st.lists(st.tuples(edges(width), edges(height)), max_size=5))
    return [Box(0, x0, y0, x1, y1) for (x0, x1), (y0, y1) in corners], (width, height), grid


@given(boxes_in_image())
@settings(max_examples=300, deadline=None)
def test_each_token_holds_its_own_part_of_the_union(
    drawn: tuple[list[Box], tuple[int, int], tuple[int, int]],
) -> None:
    boxes, (width, height), (rows, columns) = drawn
    # scale the raster so that token borders fall on whole pixels; whole-px boxes stay whole
    painted = np.zeros((height * rows, width * columns))
    for box in boxes:
        x, y = (slice(int(a) * n, int(b) * n) for a, b, n in ((box.x0, box.x1, columns), (box.y0, box.y1, rows)))
        painted[y, x] = 1
    expected = painted.reshape(rows, height, columns, width).mean(axis=(1, 3)).ravel()
    coverage = token_coverage(boxes, (width, height), (rows, columns))
    np.testing.assert_allclose(coverage, expected, atol=1e-6)
    assert coverage.dtype == np.float32 and coverage.min() >= 0 and coverage.max() <= 1


def test_control_has_equal_area_in_the_same_image_and_avoids_the_evidence() -> None:
    grids = [(6, 6), (4, 8)]
    first = token_coverage([Box(0, 20, 20, 43, 37)], (96, 96), (6, 6))
    coverage = np.concatenate([first, np.zeros(32, dtype=np.float32)])
    for seed in range(20):
        control = control_coverage(coverage, grids, np.random.default_rng(seed))
        np.testing.assert_array_equal(np.sort(control[:36]), np.sort(first))
        assert control[36:].sum() == 0 and control.dtype == np.float32
        assert (control * coverage).sum() == 0


def test_control_is_uniform_over_the_offsets_of_least_overlap() -> None:
    coverage = np.zeros((3, 4), dtype=np.float32)
    coverage[1, 2] = 1
    rng = np.random.default_rng(5)
    counts = sum(control_coverage(coverage.ravel(), [(3, 4)], rng) for _ in range(2200))
    assert counts[6] == 0
    others = np.delete(counts, 6)
    assert others.sum() == 2200 and np.abs(others - 200).max() < 5 * np.sqrt(200)


def test_control_of_evidence_that_leaves_no_room_overlaps_as_little_as_it_can() -> None:
    coverage = np.ones((2, 5), dtype=np.float32)
    coverage[:, 0] = 0  # a roll by 1 to 4 columns leaves 3 of 4 columns inside, a roll by rows all 4
    control = control_coverage(coverage.ravel(), [(2, 5)], np.random.default_rng(0))
    assert (control * coverage.ravel()).sum() == 6


def test_pointing_hit_is_the_coverage_under_the_peak_and_flat_maps_score_chance() -> None:
    coverage = np.array([0, 1, 0.25, 0])
    assert pointing_hit([0.1, 0.6, 0.2, 0.1], coverage) == 1
    assert pointing_hit([0.6, 0.1, 0.2, 0.1], coverage) == 0
    assert pointing_hit([0.1, 0.1, 0.7, 0.1], coverage) == 0.25
    assert pointing_hit([0.25] * 4, coverage) == pytest.approx(1.25 / 4)
    assert np.isnan(pointing_hit([0.1, 0.9], [0, 0]))


def test_iou_takes_the_smallest_set_that_holds_half_of_the_mass() -> None:
    weights = np.array([0.05, 0.3, 0.25, 0.2, 0.2])
    assert mass_set_iou(weights, [0, 1, 1, 0, 0]) == 1  # 0.3 + 0.25 >= 0.5
    assert mass_set_iou(weights, [0, 1, 0, 0, 1]) == pytest.approx(1 / 3)
    assert mass_set_iou([0.5, 0.5, 0, 0], [1, 0, 0, 0]) == pytest.approx(0.5 / 1.5)  # tied: half of each
    assert mass_set_iou([0.25] * 4, [1, 1, 0, 0]) == pytest.approx(1 / 3)
    assert np.isnan(mass_set_iou([0.0, 0.0], [1, 0])) and np.isnan(mass_set_iou([0.5, 0.5], [0, 0]))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4)), min_size=2, max_size=40))
@settings(max_examples=200, deadline=None)
def test_auc_is_sklearns_with_tokens_weighted_by_coverage(rows: list[tuple[int, int]]) -> None:
    weights = np.array([w for w, _ in rows]) / 7
    coverage = np.array([c for _, c in rows]) / 4
    found = map_auc(weights, coverage)
    if coverage.sum() == 0 or (1 - coverage).sum() == 0:
        assert np.isnan(found)
        return
    labels = np.repeat([1, 0], len(rows))
    shares = np.concatenate([coverage, 1 - coverage])
    assert found == pytest.approx(roc_auc_score(labels, np.tile(weights, 2), sample_weight=shares), abs=1e-9)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_overlap_measures_do_not_depend_on_the_order_of_tied_tokens(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights, coverage = rng.integers(0, 4, 24) / 8, rng.random(24)
    shuffle = rng.permutation(24)
    for measure in (pointing_hit, mass_set_iou, map_auc):
        first, second = measure(weights, coverage), measure(weights[shuffle], coverage[shuffle])
        assert first == pytest.approx(second, nan_ok=True, abs=1e-9)


def test_border_mask_holds_the_outermost_tokens_of_each_image() -> None:
    mask = border_mask([(3, 4), (2, 2)])
    assert mask[:12].reshape(3, 4).tolist() == [[True] * 4, [True, False, False, True], [True] * 4]
    assert mask[12:].all() and mask.dtype == bool
    assert np.flatnonzero(border_mask([(3, 4), (2, 2)], rule="first")).tolist() == [0, 12]


def test_maps_of_another_shape_or_with_nan_are_errors() -> None:
    with pytest.raises(ValueError, match="expected one .M. each"):
        map_auc([0.1, 0.2], [1, 0, 0])
    with pytest.raises(ValueError, match="NaN"):
        pointing_hit([0.1, float("nan")], [1, 0])
    with pytest.raises(ValueError, match="for grids of 12 tokens"):
        control_coverage(np.zeros(11), [(3, 4)], np.random.default_rng(0))


def test_item_coverage_of_a_picture_shown_twice_counts_it_twice() -> None:
    item = dataclasses.replace(make_item("m", (16, 16), (32, 16)), boxes=(Box(1, 0, 0, 16, 16),))
    found = item_coverage(item, [(1, 2), (1, 1), (1, 2)], image_order=(1, 0, 1))
    np.testing.assert_array_equal(found, [1, 0, 0, 1, 0])
    with pytest.raises(ValueError, match="item m: 1 grids, image order .* for 2 images"):
        item_coverage(item, [(1, 1)])
    with pytest.raises(ValueError, match="order .1, 2. for 2 images"):
        item_coverage(item, [(1, 2), (1, 1)], image_order=(1, 2))


@given(inside=arrays(np.bool_, st.tuples(st.integers(1, 7), st.integers(1, 7))))
def test_rectangles_of_tokens_cover_these_tokens_and_no_others(inside: Any) -> None:
    size = (13 * inside.shape[1] + 5, 11 * inside.shape[0] + 3)  # tokens end between pixels
    boxes = [Box(0, *place_rectangle(found, size, inside.shape)) for found in find_rectangles(inside)]
    covered = token_coverage(boxes, size, inside.shape).reshape(inside.shape)
    np.testing.assert_allclose(covered, inside, rtol=0, atol=1e-6)
    assert sum(found[0].stop - found[0].start for found in find_rectangles(inside)) <= inside.sum()
