"""Claims about generate: no response depends on its batch, and every response says why it stopped."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_items import make_item
from tiny_checkpoints import FAMILIES, tiny_vlm

from dontblink.errors import NamedError
from dontblink.models.generate import (
    Sampling,
    SeededChoice,
    build_response,
    build_warpers,
    check_ids,
    generate_responses,
    is_out_of_memory,
    item_generator,
    try_memory,
)
from dontblink.models.response import Response
from dontblink.models.vlm import VLM
from dontblink.questions.items import Item, ItemError

SIZES = [((96, 48),), ((32, 64), (48, 48)), ((64, 64),), ((32, 32),), ((80, 96),)]
ITEMS = [
    make_item(f"i{k}", *size, question=f"what {'digit ' * k}is f5 ?", covariates={"chain_length": k % 3})
    for k, size in enumerate(SIZES)
]
N_NEW = 12
SAMPLING = ("max_new_tokens", "temperature", "top_p", "top_k", "seed")


def collect(vlm: VLM, items: list[Item] = ITEMS, **options: Any) -> dict[str, Response]:
    fields = {"max_new_tokens": N_NEW} | {key: options.pop(key) for key in SAMPLING if key in options}
    found = generate_responses(vlm, items, Sampling(**fields), **({"batch_size": 3, "progress": False} | options))
    return {response.item_id: response for response in found}


@contextmanager
def shifted_logits(vlm: VLM, shift: dict[int, float]) -> Iterator[None]:
    """Add a constant to some tokens' logits."""

    def add(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        for token, value in shift.items():
            output[..., token] += value
        return output

    handle = vlm.model.lm_head.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_batches_equal_generate_on_each_item_alone(family: str) -> None:
    vlm = tiny_vlm(family)
    responses = collect(vlm)
    assert set(responses) == {item.id for item in ITEMS}
    for item in ITEMS:
        prompt = vlm.encode(item)
        ids = torch.from_numpy(prompt.ids)[None]
        expected = vlm.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=(ids == vlm.image_token_id).long(),
            pixel_values=prompt.inputs["pixel_values"], image_grid_thw=prompt.inputs["image_grid_thw"],
            max_new_tokens=N_NEW, do_sample=False, suppress_tokens=list(vlm.suppressed_ids), pad_token_id=0,
        )[0, ids.shape[1] :]  # fmt: skip
        found = responses[item.id]
        assert list(found.response_ids) == expected.tolist()
        assert found.prompt_ids == tuple(prompt.ids.tolist())
        assert found.text == vlm.decode(found.response_ids) and found.model == vlm.name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_seeded_draw_is_the_same_in_any_batch_order_and_subset(family: str) -> None:
    vlm = tiny_vlm(family)
    options = {"temperature": 1.3, "top_p": 0.95, "seed": 4}
    whole = collect(vlm, batch_size=5, **options)
    assert collect(vlm, batch_size=1, **options) == whole
    assert collect(vlm, ITEMS[::-1], batch_size=2, **options) == whole
    assert collect(vlm, ITEMS[3:4], **options) == {"i3": whole["i3"]}
    other = collect(vlm, **(options | {"seed": 5}))
    assert all(other[key].response_ids != whole[key].response_ids for key in whole)
    assert len({response.response_ids for response in whole.values()}) == len(ITEMS)


def test_top_k_of_one_is_greedy() -> None:
    vlm = tiny_vlm("qwen3_vl")
    assert collect(vlm, temperature=2.0, top_k=1) == collect(vlm)


def test_seeded_choice_inverts_the_cumulative_distribution() -> None:
    scores = torch.tensor([[0.2, -torch.inf, 1.5, 0.0, -torch.inf]])
    shares = torch.softmax(scores.double(), -1)[0].numpy()
    choose = SeededChoice(["a"], seed=3)
    uniform = item_generator(3, "a").random(5000)
    drawn = np.array([int(choose(torch.empty(1, 0), scores).argmax()) for _ in uniform])
    np.testing.assert_array_equal(drawn, np.searchsorted(np.cumsum(shares), uniform, side="right"))
    counts = np.bincount(drawn, minlength=5)
    assert counts[1] == counts[4] == 0
    assert np.abs(counts / 5000 - shares).max() < 4 * np.sqrt(0.25 / 5000)


def test_seeded_choice_never_leaves_the_distribution_at_its_edges() -> None:
    choose = SeededChoice(["a", "b"], seed=0)
    choose.generators = [SimpleNamespace(random=lambda: 0.0), SimpleNamespace(random=lambda: 1.0)]  # type: ignore[list-item]
    scores = torch.tensor([[-torch.inf, 0.3, 0.1, -torch.inf]] * 2)
    assert choose(torch.empty(2, 0), scores).argmax(-1).tolist() == [1, 2]


def test_filters_come_in_the_order_temperature_top_k_top_p_draw() -> None:
    prompts = [tiny_vlm("qwen3_vl").encode(ITEMS[0])]
    names = [type(warper).__name__ for warper in build_warpers(prompts, Sampling(1, 1, 0.9, 5))]
    assert names == ["TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "SeededChoice"]
    assert build_warpers(prompts, Sampling(1, 0.0, 0.9, 5)) == []


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_placeholders_are_never_generated(temperature: float) -> None:
    vlm = tiny_vlm("glm4v")
    with shifted_logits(vlm, dict.fromkeys(vlm.suppressed_ids, 1e4)):
        responses = collect(vlm, temperature=temperature)
    assert not {i for r in responses.values() for i in r.response_ids} & set(vlm.suppressed_ids)


@pytest.mark.parametrize(
    ("new_ids", "kept", "reason"),
    [([20, 7, 7, 21], (20, 7), "stop"), ([20, 21], (20, 21), "length"), ([7, 20], (7,), "empty"), ([], (), "empty")],
)
def test_responses_end_at_their_first_eos_and_say_why(new_ids: list[int], kept: tuple[int, ...], reason: str) -> None:
    vlm = tiny_vlm("qwen3_vl")
    response = build_response(vlm, vlm.encode(ITEMS[0]), new_ids)
    assert (response.response_ids, response.finish_reason) == (kept, reason)


def test_rows_that_finish_early_are_trimmed_in_a_real_batch() -> None:
    vlm = tiny_vlm("qwen3_vl")
    with shifted_logits(vlm, {7: 3.0}):
        responses = collect(vlm, batch_size=5, temperature=1.0, seed=1, max_new_tokens=40)
        alone = collect(vlm, batch_size=1, temperature=1.0, seed=1, max_new_tokens=40)
    assert responses == alone
    assert len({len(r.response_ids) for r in responses.values()}) > 1
    for response in responses.values():
        assert (response.finish_reason == "length") == (7 not in response.response_ids)
        assert 7 not in response.response_ids[:-1]


@pytest.mark.parametrize("wrong", [3, 4, 96, -1])
def test_ids_of_any_engine_are_checked(wrong: int) -> None:
    with pytest.raises(NamedError, match=f"item q: response token 1 has id {wrong}"):
        check_ids(tiny_vlm("qwen3_vl"), "q", [20, wrong])


def test_out_of_memory_halves_the_batch_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = tiny_vlm("qwen3_vl")
    expected = collect(vlm, temperature=1.0)
    generate, tried = vlm.model.generate, []

    def crowded(**inputs: Any) -> torch.Tensor:
        tried.append(len(inputs["input_ids"]))
        if tried[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(**inputs)

    monkeypatch.setattr(vlm.model, "generate", crowded)
    broken = dataclasses.replace(ITEMS[0], id="broken", images=(b"",), covariates={"chain_length": 9})
    refused: list[str] = []
    options = {"batch_size": 5, "temperature": 1.0, "quarantine": lambda name, reason: refused.append(name)}
    assert collect(vlm, [*ITEMS, broken], **options) == expected
    assert tried == [4, 2, 2, 1] and refused == ["broken"]


def test_one_item_that_does_not_fit_is_an_error_or_quarantined_while_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vlm = tiny_vlm("qwen3_vl")
    expected, large = collect(vlm), vlm.encode(ITEMS[2]).ids.tolist()
    generate = vlm.model.generate

    def full(**inputs: Any) -> torch.Tensor:
        if large == inputs["input_ids"][0, -len(large) :].tolist():
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(**inputs)

    monkeypatch.setattr(vlm.model, "generate", full)
    with pytest.raises(NamedError, match="item i2: does not fit .* alone; lower max_new_tokens"):
        collect(vlm)
    lost: list[tuple[str, str]] = []
    found = collect(vlm, quarantine=lambda *row: lost.append(row))
    assert found == {name: response for name, response in expected.items() if name != "i2"}
    assert [name for name, _ in lost] == ["i2"] and "lower max_new_tokens" in lost[0][1]


NO_MEMORY = {
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "hip": RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.98 GiB"),
    "mps": RuntimeError("MPS backend out of memory (MPS allocated: 8.1 GB, max allowed: 9.07 GB)."),
    "metal": RuntimeError("Invalid buffer size: 21.46 GiB"),
    "metal queue": RuntimeError("Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"),
    "runtime": torch.AcceleratorError("CUDA error: out of memory"),
    "driver": RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "cudnn": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "hipblas": RuntimeError("CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"),
    "level zero": RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
                        "tried to allocate 4000000000 bytes. Error code 12 (Cannot allocate memory)"),
    "windows": RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you"),
    "mapped": RuntimeError("unable to mmap 4 bytes from file </w>: Cannot allocate memory (12)"),
    "system": OSError(12, "Cannot allocate memory"),
    "c++": RuntimeError("std::bad_alloc"),
    "numpy": MemoryError("Unable to allocate 3.00 GiB for an array with shape (805306368,)"),
}  # fmt: skip
OTHER = {
    "access": torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    "assert": RuntimeError("CUDA error: device-side assert triggered"),
    "handle": RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    "shape": RuntimeError("The size of tensor a (7) must match the size of tensor b (8) at non-singleton dimension 2"),
    "view": RuntimeError("unsupported operation: more than one element refers to a single memory location"),
    "format": RuntimeError("required rank 4 tensor to use channels_last memory format"),
    "file": FileNotFoundError(2, "No such file or directory"),
    "ours": NamedError("an item about out of memory errors"),
    "value": ValueError("CUDA out of memory"),
}


@pytest.mark.parametrize("name", NO_MEMORY)
def test_every_way_to_say_that_memory_ran_out_lowers_the_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_out_of_memory(NO_MEMORY[name])
    vlm = tiny_vlm("qwen3_vl")
    generate, tried = vlm.model.generate, []

    def crowded(**inputs: Any) -> torch.Tensor:
        tried.append(len(inputs["input_ids"]))
        if tried[-1] > 2:
            raise NO_MEMORY[name]
        return generate(**inputs)

    monkeypatch.setattr(vlm.model, "generate", crowded)
    told: list[int] = []
    assert len(collect(vlm, batch_size=4, max_new_tokens=1, lowered=told.append)) == 5
    assert tried == [4, 2, 2, 1] and told == [2]


@pytest.mark.parametrize("name", OTHER)
def test_other_failures_are_not_taken_for_full_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**inputs: Any) -> None:
        raise OTHER[name]

    vlm = tiny_vlm("qwen3_vl")
    monkeypatch.setattr(vlm.model, "generate", fail)
    with pytest.raises(type(OTHER[name])) as raised:
        collect(vlm, quarantine=lambda *row: None)
    assert raised.value is OTHER[name]


def test_memory_that_ran_out_for_real_is_noticed_and_what_was_held_is_given_back() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def fill(allocate: Callable[[], object]) -> None:
        kept = torch.zeros(8)
        held.append(weakref.ref(kept))
        allocate()

    for allocate in (lambda: torch.empty(10**15), lambda: np.empty(10**17)):
        assert try_memory(fill, allocate) is None
        assert held.pop()() is None
    assert try_memory(lambda: 3) == 3


def test_longest_expected_responses_come_first() -> None:
    assert list(collect(tiny_vlm("qwen3_vl"), max_new_tokens=1)) == ["i2", "i1", "i4", "i0", "i3"]


def test_an_item_that_cannot_be_encoded_raises_unless_it_is_quarantined() -> None:
    vlm = tiny_vlm("qwen3_vl")
    unreadable = dataclasses.replace(ITEMS[0], id="u", images=(b"",))
    placeholder = make_item("v", (32, 32), question="what <|image_pad|> ?")
    for item in (unreadable, placeholder):
        with pytest.raises(ItemError):
            collect(vlm, [item])
    rows: list[tuple[str, str]] = []
    found = collect(vlm, [unreadable, ITEMS[1], placeholder], quarantine=lambda *row: rows.append(row))
    assert set(found) == {"i1"} and [name for name, _ in rows] == ["u", "v"]
    assert "not a readable image" in rows[0][1]


def test_a_batch_without_items_is_one_line() -> None:
    with pytest.raises(NamedError, match="correct the parameters"):
        collect(tiny_vlm("qwen3_vl"), batch_size=0)
