"""Models train on what they will see, by a forward that equals the official one, and resume to the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dontblink_testbed import architectures, lessons, train, vocabulary

FAMILIES = tuple(vocabulary.FORMATS)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_prompts_are_what_the_tokenizer_makes_of_the_chat(family: str) -> None:
    tokenizer = vocabulary.build_tokenizer(family)
    content = [{"type": "image"}, {"type": "text", "text": "follow a1 ; A ring B cross C square D circle ?"}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    words = vocabulary.prompt_words(family, content[1]["text"], 1)
    assert tokenizer(text)["input_ids"] == vocabulary.encode_words(family, words)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_lesson_is_inside_the_vocabulary(family: str) -> None:
    for step in range(20):
        for phase in (1, 2):
            for batch in lessons.make_step(family, phase, np.random.default_rng([3, step])):
                assert len(batch.rows) == len(batch.targets) == len(batch.owner)
                flat = batch.ids.flatten()
                assert torch.equal(flat[batch.rows + 1], batch.targets)


@pytest.mark.parametrize("name", ["qwen3vl-tiny-s", "glm4v-tiny"])
def test_the_training_patches_are_those_of_the_real_image_processor(name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2, 96, 96, 3)).astype(np.uint8)
    processor = architectures.build_image_processor(name)
    official = processor([Image.fromarray(p) for p in pixels], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(architectures.patchify(pixels), official, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", list(architectures.MODELS))
def test_the_training_forward_equals_the_official_one(name: str) -> None:
    family = architectures.MODELS[name]["family"]
    model = architectures.build_model(name, 0).eval()
    rng = np.random.default_rng(1)
    batch = lessons.pack(family, [lessons.teach_chain(rng, "symbolic") for _ in range(3)], rng)
    token_types = (batch.ids == model.config.image_token_id).int()
    grid = torch.tensor([[1, 12, 12]] * 3)
    with torch.no_grad():
        official = model(
            input_ids=batch.ids, pixel_values=batch.patches, image_grid_thw=grid, mm_token_type_ids=token_types
        ).logits.flatten(0, 1)[batch.rows]
        architectures.prepare(model)
        positions = architectures.Positions(model, len(vocabulary.FORMATS[family].before_image.split()))
        fast = architectures.response_logits(model, batch.ids, batch.rows, batch.patches, positions)
    torch.testing.assert_close(fast.softmax(-1), official.softmax(-1), rtol=0, atol=1e-6)


def test_a_resumed_training_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    schedule = train.Schedule(phase_1_cap_steps=2, phase_2_steps=2, warmup_steps=2, check_every=2, save_every=1)
    torch.set_num_threads(1)
    whole = train.Trainer("qwen3vl-tiny-s", 3, schedule)
    for _ in range(2):
        whole.train_step()
    whole.save(tmp_path / "state.safetensors")
    resumed = train.Trainer("qwen3vl-tiny-s", 3, schedule)
    resumed.resume(tmp_path / "state.safetensors")
    assert whole.train_step() == resumed.train_step()
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="another schedule"):
        train.Trainer("qwen3vl-tiny-s", 3, train.Schedule(9, 9)).resume(tmp_path / "state.safetensors")
