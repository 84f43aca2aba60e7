"""Reading occlusion: what is covered, what counts as evidence, and where shipped models were read."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from dontblink import params, paths
from dontblink.attention.occlusion import Occlusion, Reading, choose_evidence, cover, read_evidence, tile_regions
from dontblink.boxes.evidence import item_coverage, map_auc
from dontblink.models.checkpoints import load_vlm
from dontblink.models.generate import Sampling, encode_items, generate_responses
from dontblink.models.vlm import VLM
from dontblink.questions.items import Item, open_image
from dontblink_testbed import benchmark

HOW = Occlusion(
    regions_across=6, most_refined=12, held_share=0.95, least_drop_nats=0.5, needed_share=0.8, enough_share=0.2
)
MODELS = ("qwen3vl-tiny-s", "glm4v-tiny")


@cache
def load(model: str) -> VLM:
    return load_vlm(
        paths.ROOT / "models" / "testbed" / model, name=model, device="cpu", dtype="float32", attention="sdpa",
        thinking=True, max_image_tokens=144,
    )  # fmt: skip


@cache
def make_items(n: int) -> list[Item]:
    _, sections = params.load(paths.params_file("testbed"))
    difficulty = benchmark.read_difficulty("symbolic", sections["testbed"])
    return list(benchmark.load_items("symbolic", "calibration", n, 7, difficulty))


@pytest.mark.parametrize("model", MODELS)
def test_covered_image_tokens_are_the_pixels_of_a_covered_picture(model: str) -> None:
    vlm, (item, *_) = load(model), make_items(1)
    (prompt,) = encode_items(vlm, [item])
    (rows, columns), picture = vlm.image_grid(prompt)[0], np.array(open_image(item.images[0]))
    tokens = np.zeros(rows * columns, bool)
    tokens[[0, 8, rows * columns - 1]] = True
    inside = np.kron(tokens.reshape(rows, columns), np.ones((len(picture) // rows, picture.shape[1] // columns), bool))
    covered = picture.copy()
    covered[inside.astype(bool)] = picture.reshape(-1, 3).mean(axis=0).round()
    Image.fromarray(covered).save(encoded := io.BytesIO(), "PNG")
    (wanted,) = encode_items(vlm, [replace(item, images=(encoded.getvalue(),))])
    found = cover(prompt, tokens, [(rows, columns)])
    step = 1 / 255 / min(vlm.processor.image_processor.image_std)  # of a colour that is rounded to a whole number
    nothing = cover(prompt, np.zeros_like(tokens), [(rows, columns)])
    own, hidden, expected, same = (p.inputs["pixel_values"] for p in (prompt, found, wanted, nothing))
    assert (hidden - expected).abs().max() <= 0.51 * step
    assert np.array_equal(found.ids, prompt.ids) and not torch.equal(hidden, own)
    assert torch.equal(same, own)


def test_regions_cover_every_token_once_and_are_shifted_by_a_third() -> None:
    grids = [(6, 6), (4, 9)]
    coverings = tile_regions(grids, 3)
    assert len(coverings) == 3 and all(len(own) == 72 for own in coverings)
    for own in coverings:
        assert set(own) == set(range(own.max() + 1))  # numbered without a gap, none of two pictures
        assert not set(own[:36]) & set(own[36:])
        assert np.bincount(own).max() <= 9
    assert np.bincount(coverings[0][:36]).tolist() == [4] * 9
    first = [own.reshape(-1)[:36].reshape(6, 6) for own in coverings]
    assert (first[0][0, :3] == [0, 0, 1]).all() and (first[1][0, :3] == [0, 1, 1]).all()
    assert [own.tolist() for own in tile_regions([(6, 6)], 6)] == [list(range(36))]  # one token each: one covering


def test_evidence_is_the_fewest_tokens_that_hold_the_share_each_of_weight() -> None:
    assert choose_evidence(np.array([0.6, 9.0, 0.4, 0.0]), HOW).tolist() == [True, True, False, False]
    assert choose_evidence(np.array([96.0, 2.0, 2.0]), HOW).tolist() == [True, False, False]  # one alone holds it
    assert not choose_evidence(np.array([0.4, 0.4]), HOW).any()
    assert not choose_evidence(np.zeros(3), HOW).any()


def test_a_reading_that_is_not_needed_or_not_enough_says_so() -> None:
    whole = Reading(np.ones(2, np.float32), np.array([True, False]), 10.0, 9.0, 1.0, 0.0, 5)
    assert whole.find_flaw(HOW) == ""
    assert "costs 79%" in replace(whole, evidence_nats=7.9).find_flaw(HOW)
    assert "leaves 21%" in replace(whole, rest_nats=2.1).find_flaw(HOW)
    assert "costs nothing" in replace(whole, whole_nats=0.0).find_flaw(HOW)
    assert "no image token" in replace(whole, evidence=np.zeros(2, bool), whole_nats=0.0).find_flaw(HOW)


@pytest.mark.parametrize("model", MODELS)
def test_a_shipped_model_was_read_where_the_boxes_are(model: str) -> None:
    vlm, items = load(model), make_items(8)
    by_id, scores, passes = {item.id: item for item in items}, [], []
    for response in generate_responses(vlm, items, Sampling(160), batch_size=8, progress=False):
        item = by_id[response.item_id]
        spans = vlm.segment(response.response_ids)
        if benchmark.score(item, vlm.decode(response.response_ids[slice(*spans.answer)])).correct:
            (prompt,) = encode_items(vlm, [item])
            reading = read_evidence(vlm, prompt, response.response_ids, spans, HOW, seed=1, token_budget=4096)
            scores.append(map_auc(reading.drop_nats, item_coverage(item, vlm.image_grid(prompt))))
            passes.append(reading.n_passes)
            again = read_evidence(vlm, prompt, response.response_ids, spans, HOW, seed=1, token_budget=1)
            assert np.allclose(again.drop_nats, reading.drop_nats, atol=1e-3)  # one at a time
    assert len(scores) >= 3 and np.mean(scores) > 0.9  # chance is one half
    assert set(passes) == {1 + 36 + 4}
