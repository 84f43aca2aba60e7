"""Claims about samples: each depends on the seed, its item and its number alone, and is cut as a scorer reads it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_items import make_item
from tiny_checkpoints import FAMILIES, tiny_vlm

from dontblink.models.generate import Sampling, generate_responses
from dontblink.models.samples import (
    Sample,
    cut_sample,
    draw_samples,
    pack_samples,
    share_prompts,
    unpack_samples,
)
from dontblink.models.vlm import VLM
from dontblink.questions.items import Item

ITEMS = [make_item(f"i{k}", (64, 32 + 16 * k), question=f"what {'digit ' * k}is f5 ?") for k in range(3)]
N_NEW = 12


def draw(
    vlm: VLM, items: list[Item] = ITEMS, n: int = 4, seed: int = 7, batch_size: int = 5
) -> tuple[dict[tuple[str, int], Sample], list[tuple[str, str]]]:
    def engine(shared: VLM, asked: Any, sampling: Sampling, quarantine: Any) -> Any:
        assert (sampling.temperature, sampling.top_p, sampling.top_k) == (1.0, 1.0, 0)
        return generate_responses(shared, asked, sampling, batch_size=batch_size, progress=False, quarantine=quarantine)

    samples, lost = draw_samples(vlm, items, n, N_NEW, seed, engine)
    assert [(s.item_id, s.sample_index) for s in samples] == sorted((s.item_id, s.sample_index) for s in samples)
    return {(sample.item_id, sample.sample_index): sample for sample in samples}, lost


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_is_the_same_in_any_batch_and_among_any_others(family: str) -> None:
    vlm = tiny_vlm(family)
    whole, lost = draw(vlm)
    assert len(whole) == 12 and not lost
    assert draw(vlm, batch_size=1)[0] == whole
    assert draw(vlm, ITEMS[1:2], n=2)[0] == {key: whole[key] for key in (("i1", 0), ("i1", 1))}
    other, _ = draw(vlm, seed=8)
    assert all(other[key].response_ids != whole[key].response_ids for key in whole)
    assert len({sample.response_ids for sample in whole.values()}) == len(whole)


def test_a_question_is_encoded_once_for_its_samples_and_each_has_the_prompt_of_its_item(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vlm, encoded = tiny_vlm("qwen3_vl"), list[str]()
    encode = VLM.encode
    monkeypatch.setattr(VLM, "encode", lambda own, item: encoded.append(item.id) or encode(own, item))
    shared = share_prompts(vlm)
    asked = [replace(item, id=f"{item.id} again {k}") for item in (*ITEMS, ITEMS[0]) for k in range(3)]
    for item in asked:
        found, alone = shared.encode(item), encode(vlm, item)
        assert found.item_id == item.id and found.ids.tolist() == alone.ids.tolist()
        assert found.inputs.keys() == alone.inputs.keys()
        assert all(torch.equal(found.inputs[name], own) for name, own in alone.inputs.items())
    assert encoded == ["i0 again 0", "i1 again 0", "i2 again 0", "i0 again 0"]  # the last question alone is remembered


def test_an_item_that_cannot_be_shown_is_named_once_a_sample_and_the_others_go_on() -> None:
    broken = make_item("i1", (64, 48))
    object.__setattr__(broken, "images", (b"no image",))
    found, lost = draw(tiny_vlm("qwen3_vl"), [ITEMS[0], broken, ITEMS[2]], n=2)
    assert {item for item, _ in found} == {"i0", "i2"}
    assert [name for name, _ in lost] == ["i1", "i1"]
    for k, (_, reason) in enumerate(lost):
        assert reason.startswith(f"sample {k}: ") and "not a readable image" in reason


def test_samples_are_cut_without_their_end_and_survive_the_disk() -> None:
    vlm = tiny_vlm("qwen3_vl")
    samples = list(draw(vlm)[0].values())
    assert unpack_samples(pack_samples(samples)) == samples
    [response] = generate_responses(vlm, ITEMS[:1], Sampling(N_NEW), batch_size=1, progress=False)
    body = [i for i in response.response_ids if i not in vlm.eos_ids]
    ended = type(response)(**vars(response) | {"response_ids": (*body, vlm.eos_ids[0])})
    sample = cut_sample(vlm, ended, "i0", 3)
    assert sample.text == vlm.decode(body) and sample.n_response_tokens == len(body) + 1 and sample.sample_index == 3
    nothing = cut_sample(vlm, type(response)(**vars(response) | {"response_ids": ()}), "i0", 0)
    assert (nothing.text, nothing.answer_text, nothing.n_response_tokens) == ("", "", 0)
