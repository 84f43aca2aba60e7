"""Claims about vlm: prompts, batches, spans and errors of both families, on real but tiny checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from small_items import make_item, noise, png
from tiny_checkpoints import FAMILIES, SPECIAL, cut, show_images, tiny_vlm
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Glm46VProcessor, PreTrainedTokenizerFast, Qwen3VLProcessor

from dontblink.boxes.evidence import item_coverage
from dontblink.models.checkpoints import find_backend, load_vlm
from dontblink.models.vlm import VLM, Prompt
from dontblink.paths import ROOT
from dontblink.questions.items import Box, ItemError
from dontblink_testbed import architectures, benchmark, questions, vocabulary
from dontblink_testbed.stand_in import SHAPES, SPECIAL_TOKENS, build_stand_in

PROMPTS = {
    "qwen3_vl": "<|im_start|> user {} <|im_end|> <|im_start|> assistant <think>",
    "glm4v": "[gMASK] <sop> <|user|> {} <|assistant|>",
}
both_families = pytest.mark.parametrize("family", FAMILIES)


def with_bytelevel_tokenizer(family: str, text: str) -> tuple[VLM, list[int]]:
    """The family's model with a byte-level BPE tokenizer trained on the text, and the text's ids."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator([text], trainer)
    bpe.add_special_tokens([token for token in SPECIAL[family] if token != "<unk>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=SPECIAL[family][7])
    vlm = dataclasses.replace(tiny_vlm(family), tokenizer=tokenizer, eos_ids=(tokenizer.eos_token_id,))
    return vlm, tokenizer(text, add_special_tokens=False)["input_ids"]


@both_families
def test_prompt_is_the_familys_template_with_one_placeholder_per_image_token(family: str) -> None:
    vlm = tiny_vlm(family)
    prompt = vlm.encode(make_item("a", (96, 48), (32, 64)))
    assert vlm.image_grid(prompt) == [(3, 6), (4, 2)]
    assert vlm.decode(prompt.ids) == PROMPTS[family].format(f"{show_images(family, 18, 8)} what digit is f5 ?")
    assert prompt.ids.dtype == np.int64 and prompt.inputs["pixel_values"].dtype is torch.float32
    assert prompt.inputs["image_grid_thw"].tolist() == [[1, 6, 12], [1, 8, 4]]
    assert prompt.image_sizes == ((96, 48), (32, 64))


@both_families
def test_ids_come_from_the_checkpoint(family: str) -> None:
    vlm = tiny_vlm(family)
    assert vlm.image_token_id == tiny_models.IMAGE
    assert vlm.suppressed_ids == (tiny_models.IMAGE, tiny_models.VIDEO)
    assert vlm.eos_ids == (tiny_models.EOS,)
    assert vlm.backend == find_backend() and vlm.family.name == family


@both_families
def test_encode_equals_the_real_processor(family: str) -> None:
    """The processor without its video half makes the ids and pixels of the real class."""
    vlm = tiny_vlm(family)
    item = make_item("b", (100, 70), (41, 90))
    real_class = Qwen3VLProcessor if family == "qwen3_vl" else Glm46VProcessor
    real = real_class.__new__(real_class)
    real.__dict__.update(vlm.processor.__dict__)
    real.video_token = SPECIAL[family][4]
    real.video_token_id = tiny_models.VIDEO
    images = [Image.open(io.BytesIO(source)) for source in item.images]
    text = vlm.tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}] * 2 + [{"type": "text", "text": item.question}]}],
        tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    expected = real(images=images, text=[text], return_tensors="pt")
    prompt = vlm.encode(item)
    np.testing.assert_array_equal(prompt.ids, expected["input_ids"][0])
    np.testing.assert_array_equal(prompt.inputs["pixel_values"].numpy(), expected["pixel_values"])
    np.testing.assert_array_equal(prompt.inputs["image_grid_thw"], expected["image_grid_thw"])
    types = vlm.collate([prompt])["mm_token_type_ids"]
    np.testing.assert_array_equal(types[0], expected["mm_token_type_ids"][0])


@both_families
def test_exif_turned_image_encodes_like_the_turned_pixels(family: str) -> None:
    pixels = noise(np.random.default_rng(0), 96, 48)
    turned = np.rot90(pixels, -1)  # orientation 6: turn 90 degrees clockwise to view
    item = dataclasses.replace(make_item("c", (16, 16)), images=(png(pixels, orientation=6),))
    plain = dataclasses.replace(item, images=(png(np.ascontiguousarray(turned)),))
    found, expected = tiny_vlm(family).encode(item), tiny_vlm(family).encode(plain)
    assert found.image_sizes == ((48, 96),)
    np.testing.assert_array_equal(found.inputs["pixel_values"].numpy(), expected.inputs["pixel_values"].numpy())
    np.testing.assert_array_equal(found.inputs["image_grid_thw"], expected.inputs["image_grid_thw"])


@both_families
def test_right_padding_equals_single(family: str) -> None:
    vlm = tiny_vlm(family)
    prompts = [vlm.encode(make_item("a", (96, 48), (32, 64))), vlm.encode(make_item("b", (48, 48)))]
    responses = [[20, 21, 22], [23, 24, 25, 26, 27, 28, 29]]
    batch = vlm.collate(prompts, responses)
    assert batch["attention_mask"].all()  # of padding as well: transformers then makes no mask
    together = vlm.model(**batch).logits
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        alone = vlm.model(**vlm.collate([prompt], [response])).logits[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, rtol=0, atol=2e-5)


@both_families
def test_left_padding_equals_single(family: str) -> None:
    vlm = tiny_vlm(family)
    prompts = [vlm.encode(make_item("a", (96, 48), (32, 64))), vlm.encode(make_item("b", (48, 48)))]
    batch = vlm.collate(prompts, side="left")
    assert "position_ids" not in batch
    assert (batch["input_ids"][:, -1] == torch.tensor([p.ids[-1] for p in prompts])).all()
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "return_dict_in_generate": True, "output_logits": True}
    scores = vlm.model.generate(**batch, **options)
    for row, prompt in enumerate(prompts):
        alone = vlm.model.generate(**vlm.collate([prompt], side="left"), **options)
        for together, single in zip(scores.logits, alone.logits, strict=True):
            torch.testing.assert_close(together[row], single[0], rtol=0, atol=5e-5)


@both_families
def test_positions_of_image_tokens_are_row_major_on_the_merged_grid(family: str) -> None:
    vlm = tiny_vlm(family)
    prompt = vlm.encode(make_item("a", (96, 48)))
    seen = []
    hook = vlm.model.model.language_model.register_forward_pre_hook(
        lambda module, args, given: seen.append(given["position_ids"][:, 0]), with_kwargs=True
    )
    vlm.model(**vlm.collate([prompt], [[20, 21]]))
    hook.remove()
    positions = seen[0][-3:]
    tokens = np.flatnonzero(prompt.ids == vlm.image_token_id)
    start = positions[0, tokens[0]]
    np.testing.assert_array_equal(positions[1, tokens] - start, np.repeat(np.arange(3), 6))
    np.testing.assert_array_equal(positions[2, tokens] - start, np.tile(np.arange(6), 3))


@both_families
def test_response_tokens_are_text_even_where_an_engine_wrote_a_placeholder(family: str) -> None:
    vlm = tiny_vlm(family)
    prompt = vlm.encode(make_item("a", (32, 32)))
    types = vlm.collate([prompt], [[vlm.image_token_id, 20]])["mm_token_type_ids"][0]
    assert types.sum() == 4 and types[-2:].tolist() == [0, 0]


@both_families
def test_decode_keeps_special_tokens(family: str) -> None:
    vlm = tiny_vlm(family)
    text = "<think> f5 is 3 . </think> 3"
    assert vlm.decode(vlm.tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@pytest.mark.parametrize(
    ("family", "text", "expected"),
    [
        ("qwen3_vl", "f5 is 3 . 3 + 4 is 7 . </think> answer is 7 <|im_end|>",
         ("f5 is 3 . 3 + 4 is 7 .", "7", ["f5 is 3 .", "3 + 4 is 7 ."], True)),
        ("qwen3_vl", "f5 is <|im_end|>", ("f5 is", "", ["f5 is"], False)),
        ("glm4v", "<think> f5 is 3 . </think> <|begin_of_box|> 7 <|end_of_box|> <|endoftext|>",
         ("f5 is 3 .", "7", ["f5 is 3 ."], True)),
    ],
)  # fmt: skip
def test_responses_are_cut_at_the_markers_of_their_family(family: str, text: str, expected: tuple[object, ...]) -> None:
    """All other cases are those of `spans`."""
    vlm = tiny_vlm(family)
    assert cut(vlm, vlm.tokenizer(text, add_special_tokens=False)["input_ids"]) == expected


def test_spans_of_byte_level_responses_cut_at_sentences_and_lines_only() -> None:
    text = "\nSo pi is 3.14, e.g. here. Is it?\n\nYes! Done\nnow.</think>\n\nThe answer depends. **Answer:** B"
    vlm, ids = with_bytelevel_tokenizer("qwen3_vl", text)
    reasoning, answer, steps, closed = cut(vlm, ids)
    assert reasoning == text.split("</think>")[0] and "".join(steps) == reasoning and closed
    assert [step.strip() for step in steps] == ["So pi is 3.14, e.g.", "here.", "Is it?", "Yes!", "Done", "now."]
    assert not any(step.startswith("\n") for step in steps[1:])  # blank lines join the step before them
    assert answer.strip() == "B"


def test_byte_level_answer_without_a_marker_is_the_text_behind_the_reasoning() -> None:
    vlm, ids = with_bytelevel_tokenizer("qwen3_vl", "Look.</think>\n\nThe answers vary: 42 cats.\n<|im_end|>")
    assert cut(vlm, ids)[1].strip() == "The answers vary: 42 cats."


@both_families
def test_an_item_that_cannot_be_shown_is_named(family: str) -> None:
    tokens = SPECIAL_TOKENS[family]
    unreadable = dataclasses.replace(make_item("x", (32, 32)), images=(b"no image",))
    for item, message in (
        *((make_item("bad", (32, 32), question=f"what is {token} ?"), "item bad: .*; (correct|remove)")
          for token in (tokens.image, tokens.video)),
        *((make_item("none", question=f"what is {what} ?"), "item none: ") for what in ("3", "<image 1>")),
        (unreadable, "not a readable image"),
        (make_item("thin", (3000, 4)), "item thin: (cannot be encoded .*aspect ratio|image 1 of .* crop it)"),
    ):  # fmt: skip
        with pytest.raises(ItemError, match=message):
            tiny_vlm(family).encode(item)


def runs_of_images(vlm: VLM, prompt: Prompt) -> list[int]:
    """The lengths of the runs of image tokens, in prompt order."""
    edges = np.flatnonzero(np.diff((prompt.ids == vlm.image_token_id).astype(int), prepend=0, append=0))
    return np.diff(edges)[::2].tolist()


@both_families
def test_pictures_stand_where_their_tags_do_and_untagged_ones_first(family: str) -> None:
    """Three pictures of 1, 2 and 3 columns: the third is shown twice, the first has no tag."""
    vlm = tiny_vlm(family)
    sizes = (32, 32), (64, 32), (96, 32)
    item = make_item("o", *sizes, question="what <image 3> is <image 2> plus <image 3> ?")
    prompt = vlm.encode(item)
    assert prompt.image_order == (0, 2, 1, 2)
    assert prompt.image_sizes == tuple(sizes[place] for place in prompt.image_order)
    assert vlm.image_grid(prompt) == [(2, 2), (2, 6), (2, 4), (2, 6)]
    assert runs_of_images(vlm, prompt) == [4, 12, 8, 12]
    shown = [show_images(family, n) for n in (4, 12, 8, 12)]
    content = f"{shown[0]} what {shown[1]} is {shown[2]} plus {shown[3]} ?"
    assert vlm.decode(prompt.ids) == PROMPTS[family].format(content)
    pixels, grids = (prompt.inputs[name].numpy() for name in ("pixel_values", "image_grid_thw"))
    per_picture = np.split(pixels, np.cumsum(grids.prod(axis=1))[:-1])
    np.testing.assert_array_equal(per_picture[1], per_picture[3])
    assert vlm.collate([prompt], [[20]])["mm_token_type_ids"].shape[-1] == len(prompt.ids) + 1


@both_families
def test_evidence_follows_the_order_in_which_pictures_are_shown(family: str) -> None:
    vlm = tiny_vlm(family)
    whole = Box(1, 0, 0, 64, 32)  # all of the second picture
    item = make_item("e", (32, 32), (64, 32), question="what <image 2> is <image 1> plus <image 2> ?", boxes=(whole,))
    prompt = vlm.encode(item)
    found = item_coverage(item, vlm.image_grid(prompt), prompt.image_sizes, prompt.image_order)
    np.testing.assert_array_equal(found, np.repeat([1.0, 0.0, 1.0], [8, 4, 8]))


@pytest.mark.parametrize("name", list(architectures.MODELS))
def test_testbed_prompts_are_the_ones_that_the_checkpoints_were_trained_on(name: str) -> None:
    vlm = load_vlm(ROOT / "models" / "testbed" / name, weights=False)
    family = architectures.MODELS[name]["family"]
    for item in benchmark.load_items("symbolic", "test", 3, 5, questions.Difficulty((1, 4), (0.0, 0.3), (1, 3))):
        words = vocabulary.prompt_words(family, item.question, architectures.N_IMAGE_TOKENS)
        assert vlm.encode(item).ids.tolist() == vocabulary.encode_words(family, words)
    assert vlm.thinks and vlm.prompt_opens_think == (family == "qwen3_vl") and vlm.template_options == {}
    text = vocabulary.response_words(family, "a1 is 3 .", "3")
    assert cut(vlm, vocabulary.encode_words(family, text)) == ("a1 is 3 .", "3", ["a1 is 3 ."], True)


@functools.cache
def stand_in(model: str, instruct: bool = False, **options: object) -> VLM:
    with tempfile.TemporaryDirectory() as folder:
        build_stand_in(model, Path(folder), weights="none", instruct=instruct)  # type: ignore[arg-type]
        return load_vlm(Path(folder), name=model, weights=False, **options)  # type: ignore[arg-type]


GRIDS = {  # (width, height) px -> (rows, columns) of Qwen and of GLM
    (1514, 720): ((22, 47), (26, 54)),
    (448, 448): ((14, 14), (16, 16)),
    (3000, 2000): ((62, 94), (64, 96)),
}


@pytest.mark.parametrize("model", list(SHAPES))
@pytest.mark.parametrize("size", list(GRIDS))
def test_grids_of_the_real_geometry(model: str, size: tuple[int, int]) -> None:
    vlm = stand_in(model)
    prompt = vlm.encode(make_item("g", size))
    assert vlm.image_grid(prompt) == [GRIDS[size]["GLM" in model]]


@pytest.mark.parametrize("model", list(SHAPES))
def test_a_budget_of_image_tokens_holds_and_leaves_small_pictures_alone(model: str) -> None:
    vlm = stand_in(model, max_image_tokens=100)
    counts = [
        sum(rows * columns for rows, columns in vlm.image_grid(vlm.encode(make_item("g", size)))) for size in GRIDS
    ]
    assert all(70 < count <= 100 for count in counts)
    small = make_item("s", (200, 180))
    assert vlm.image_grid(vlm.encode(small)) == [((6, 6), (6, 7))["GLM" in model]]


def test_a_picture_too_thin_for_the_budget_is_named() -> None:
    vlm = stand_in("Qwen3-VL-2B", max_image_tokens=64)
    with pytest.raises(ItemError, match="item t: image 2 of 19000x100 px takes .* expected at most 64; crop it"):
        vlm.encode(make_item("t", (448, 448), (19000, 100)))


def test_an_instruct_checkpoint_is_the_contrast_that_does_not_think() -> None:
    for thinking in (True, False):
        vlm = stand_in("Qwen3-VL-2B", True, thinking=thinking)
        prompt = vlm.encode(make_item("i", (448, 448)))
        assert vlm.decode(prompt.ids).endswith("?<|im_end|>\n<|im_start|>assistant\n") and not vlm.thinks
        ids = vlm.tokenizer("It shows 3.\n\nAnswer: B<|im_end|>", add_special_tokens=False)["input_ids"]
        assert cut(vlm, ids) == ("It shows 3.\n\n", "B", ["It shows 3.\n\n"], True)


def test_glm_is_told_whether_to_think() -> None:
    on, off = stand_in("GLM-4.6V-Flash"), stand_in("GLM-4.6V-Flash", thinking=False)
    item = make_item("i", (448, 448))
    assert on.decode(on.encode(item).ids).endswith("?<|assistant|>\n") and on.thinks
    assert off.decode(off.encode(item).ids).endswith("?/nothink<|assistant|>\n<think></think>\n") and not off.thinks
    ids = off.tokenizer("Two.\nSo the answer is <|begin_of_box|>2<|end_of_box|>", add_special_tokens=False)["input_ids"]
    assert cut(off, ids) == ("Two.\n", "2", ["Two.\n"], True)


def test_a_budget_does_not_depend_on_the_budgets_before_it() -> None:
    vlm = stand_in("Qwen3-VL-2B", max_image_tokens=64)
    small, large = vlm.limit(80), vlm.limit(80).limit(4096)
    sizes = [dict(one.processor.image_processor.size) for one in (small, large, vlm.limit(4096), vlm)]
    assert sizes[1] == sizes[2] and len({str(size) for size in sizes}) == 3
    assert sizes[1]["shortest_edge"] == 64 * 32**2  # the checkpoint's own, which 80 tokens had lowered
