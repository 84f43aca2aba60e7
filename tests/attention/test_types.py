"""Every image-text model type: its measures are those of eager attention, its replay is its generation."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tiny_types
import torch
from tiny_types import FIRST, IMAGE, N_VOCABULARY, NOT_BUILT, REFUSED, SPARSE, TYPES, Tiny, extend, read_eager
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as ALL

from dontblink.attention.capture import Sample, plan_recording, record
from dontblink.attention.intervention import Block, Intervention, collect, intervene, plan_interventions
from dontblink.attention.replay import replay_responses, weigh_regions
from dontblink.attention.trial import moves_in_batch, try_model
from dontblink.errors import NamedError
from dontblink.models.vlm import Prompt
from dontblink.monitor.gaze import describe_alone, watch

pytestmark = pytest.mark.slow
MASS_BAR, LOGIT_BAR = 1e-5, 1e-4  # float32; no type needs a looser one
ALONE_IN_BATCH = {"hunyuan_vl", "molmo2", "minicpmv4_6", "minicpmv4_7", "minicpm_ocr"}
UNWATCHED = {"instructblip"}  # its generate calls that of the language model inside
WINDOWED = {  # their cache drops keys behind a window, here of 8: generation is refused there, and right inside it
    "llava_next", "aya_vision", "gemma3", "idefics2", "mistral3", "cohere_compass", "exaone4_5", "gemma4",
    "shieldgemma2", "cohere2_vision", "llama4", "gemma4_unified", "muse_glimmer", "muse_spark", "inkling_mm_model",
    "inkling2",
}  # fmt: skip
WINDOWS = "sliding_window", "sliding_window_size", "attention_chunk_size"
CHOOSING = {"glm5_next"}  # all 8 keys that a row of it chooses can be the picture's: then nothing would be left


@functools.cache
def tiny(model_type: str) -> Tiny:
    return tiny_types.build(model_type)


def draw_response(length: int) -> list[int]:
    """Draw words only: no placeholder, no special token, none of the words that stand for pictures."""
    return [int(token) for token in np.random.default_rng(1).integers(N_VOCABULARY - 40, N_VOCABULARY, length)]


@pytest.mark.parametrize("implementation", ["split", "generic"])
@pytest.mark.parametrize("model_type", TYPES)
def test_masses_are_those_of_eager_attention(model_type: str, implementation: Any) -> None:
    found, response = tiny(model_type), draw_response(7)
    ids = found.inputs["input_ids"][0].numpy()
    n_prompt, n_keys = len(ids), len(ids) + len(response)
    image = np.flatnonzero(ids == found.image_token_id)
    # every image key alone, the rest of the prompt, the response, four random shares of the prompt's keys, and no key
    weights = np.zeros((n_keys, len(image) + 7), np.float32)
    weights[image, np.arange(len(image))] = 1
    weights[:n_prompt, -7] = ids != found.image_token_id
    weights[n_prompt:, -6] = 1
    weights[:n_prompt, -5:-1] = np.random.default_rng(0).dirichlet(np.ones(4), n_prompt)
    plan = plan_recording([Sample(weights, n_prompt - 1, len(response), image, [(0, 3), (3, 7)])], n_keys)
    reference = read_eager(found.model, found.inputs, response)
    with record(found.model, plan, implementation) as recording:
        logits = found.model(**extend(found.model, found.inputs, response), use_cache=False).logits[0]
    mass, step_map = recording.read(0)
    assert len(mass) == len(reference.attention)
    for layer, attention in enumerate(reference.attention):
        expected = attention.numpy() @ weights
        expected[..., -1] = 1 - attention.sum(-1).numpy()  # learned sinks
        np.testing.assert_allclose(mass[layer], expected, rtol=0, atol=MASS_BAR)
        for step, rows in enumerate((slice(0, 3), slice(3, 7))):
            expected = attention[:, rows][..., image].mean(1)
            np.testing.assert_allclose(step_map[step, layer], expected, rtol=0, atol=MASS_BAR)
    torch.testing.assert_close(logits[n_prompt - 1 : -1], reference.logits, rtol=0, atol=LOGIT_BAR)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_replay_gives_the_logits_of_generation(model_type: str) -> None:
    found = tiny(model_type)
    n_prompt = found.inputs["input_ids"].shape[1]
    with torch.no_grad():
        output = found.model.generate(
            **found.inputs, max_new_tokens=6, do_sample=False, suppress_tokens=list(range(IMAGE, FIRST)),
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    response = output.sequences[0, n_prompt:].tolist()
    logits = read_eager(found.model, found.inputs, response).logits
    torch.testing.assert_close(torch.cat(output.logits).float(), logits, rtol=0, atol=LOGIT_BAR)


@pytest.mark.parametrize("model_type", TYPES)
def test_the_picture_is_there_and_reaches_the_answer(model_type: str) -> None:
    """Otherwise every parity above would hold of a model that sees nothing."""
    found = tiny(model_type)
    is_image = found.inputs["input_ids"] == found.image_token_id
    assert is_image.any()
    if "mm_token_type_ids" in found.inputs:
        assert torch.equal(found.inputs["mm_token_type_ids"].bool(), is_image)
    other = {
        name: 0.7 * value.flip(-2) + 0.2 if value.is_floating_point() else value
        for name, value in found.inputs.items()
    }  # fmt: skip
    with torch.no_grad():
        here, there = (found.model(**inputs).logits[0, -1] for inputs in (found.inputs, other))
    assert (here - there).abs().max() > 1e-2


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_type_that_cannot_be_measured_is_refused_by_name(model_type: str) -> None:
    found = tiny(model_type)
    with pytest.raises(NamedError, match=r"^[\w.-]+: .*(not|cannot be) measured|names the image token|not once"):
        try_model(describe_alone(found.model), found.inputs)


@pytest.mark.parametrize("model_type", TYPES)
def test_watching_and_replaying_give_what_eager_attention_and_its_logits_give(model_type: str) -> None:
    """By the package's own ways: nothing of a type but what its model and its inputs say."""
    found = tiny(model_type)
    vlm, inputs = describe_alone(found.model), {k: v for k, v in found.inputs.items() if k != "labels"}
    shape = try_model(vlm, inputs)
    if model_type in UNWATCHED:
        with pytest.raises(NamedError, match="use dontblink.measure instead"), watch(found.model, inputs):
            found.model.generate(**inputs, max_new_tokens=2)
        return
    with watch(found.model, inputs) as gaze:
        output = found.model.generate(
            **inputs, max_new_tokens=6, do_sample=False, suppress_tokens=list(range(IMAGE, FIRST)), pad_token_id=0,
        )
    (watched,) = gaze.read(output)
    ids, response = inputs["input_ids"][0].numpy(), watched.token_ids
    others = {name: given for name, given in inputs.items() if name not in ("input_ids", "attention_mask")}
    prompt = Prompt("a", ids, others, (), ())
    image, _ = prompt.find_image(vlm.image_token_id)
    coverage = np.random.default_rng(0).random(len(image)).astype(np.float32)
    asked = {"coverage": [coverage], "control": [1 - coverage], "steps": [[(0, len(response))]]}
    (measured,) = replay_responses(vlm, [prompt], [response], **asked)
    reference = read_eager(found.model, inputs, list(response))
    attention = np.stack([layer.numpy() for layer in reference.attention])
    is_image = np.isin(np.arange(len(ids) + len(response)), image)
    expected = attention @ weigh_regions(is_image, len(ids), coverage, 1 - coverage)
    expected[..., -1] = 1 - attention.sum(-1)
    assert measured.mass.shape[:2] == shape
    np.testing.assert_allclose(measured.mass, expected, rtol=0, atol=MASS_BAR)
    visual = measured.mass[..., 0] + measured.mass[..., 1]  # all that is known without boxes
    np.testing.assert_allclose(watched.mass[..., 1], visual, rtol=0, atol=MASS_BAR)
    np.testing.assert_allclose(watched.mass[..., 2:5], measured.mass[..., 2:5], rtol=0, atol=MASS_BAR)
    logs = reference.logits.log_softmax(-1)
    for own in (watched, measured):
        np.testing.assert_allclose(own.entropy_nats, -(logs.exp() * logs).sum(-1), rtol=0, atol=LOGIT_BAR)
        chosen = logs.gather(-1, torch.tensor(response)[:, None])[:, 0]
        np.testing.assert_allclose(own.log_probability_nats, chosen, rtol=0, atol=LOGIT_BAR)
    assert moves_in_batch(vlm, prompt) == (model_type in ALONE_IN_BATCH)
    if model_type in ALONE_IN_BATCH:
        return
    both = {name: [own[0], own[0]] for name, own in asked.items()} | {"steps": [[], []]}
    longer, shorter = replay_responses(vlm, [prompt, prompt], [response, response[:3]], **both)
    for own, n_tokens in ((longer, len(response)), (shorter, 3)):  # side by side, the shorter one padded
        np.testing.assert_allclose(own.mass, measured.mass[:, :, :n_tokens], rtol=0, atol=MASS_BAR)


@pytest.mark.parametrize("model_type", TYPES)
def test_blocked_generation_and_its_replay_agree_and_only_the_rows_that_are_meant_change(model_type: str) -> None:
    """From response token 2 on no row sees the picture."""
    found = tiny_types.build(model_type)
    ids = found.inputs["input_ids"][0].numpy()
    n_prompt, n_tokens = len(ids), 7
    image = np.flatnonzero(ids == found.image_token_id)
    planned = [[Intervention(image, Block(), n_prompt + 1)]]

    def generate() -> tuple[list[int], torch.Tensor]:
        with torch.inference_mode(), intervene(found.model, plan_interventions([n_prompt], planned, "left")):
            output = found.model.generate(
                **found.inputs, max_new_tokens=n_tokens, min_new_tokens=n_tokens, do_sample=False, output_logits=True,
                suppress_tokens=list(range(IMAGE, FIRST)), return_dict_in_generate=True, pad_token_id=0,
            )  # fmt: skip
        return output.sequences[0, n_prompt:].tolist(), torch.cat(output.logits).float().log_softmax(-1)

    if model_type in CHOOSING:
        with pytest.raises(NamedError, match="this type chooses its keys"):
            generate()
        return
    if model_type in WINDOWED:
        with pytest.raises(NamedError, match="window"):
            generate()
        config = found.model.config.get_text_config(decoder=True)
        for name in WINDOWS:
            if getattr(config, name, None):
                setattr(config, name, 512)
    response, generated = generate()
    inputs = extend(found.model, found.inputs, response)
    plan = plan_interventions([n_prompt + n_tokens], planned, "right")
    with torch.inference_mode():
        plain = found.model(**inputs, use_cache=False).logits[0, n_prompt - 1 : -1].log_softmax(-1)
        with intervene(found.model, plan):
            replayed = found.model(**inputs, use_cache=False).logits[0, n_prompt - 1 : -1].log_softmax(-1)
    torch.testing.assert_close(generated, replayed, rtol=0, atol=LOGIT_BAR)
    torch.testing.assert_close(replayed[:2], plain[:2], rtol=0, atol=LOGIT_BAR)
    assert (replayed - plain).abs().amax(-1)[2:].min() > 10 * LOGIT_BAR


@pytest.mark.parametrize("model_type", [name for name, why in REFUSED.items() if why == SPARSE])
def test_a_type_that_would_see_other_keys_by_another_function_is_not_changed(model_type: str) -> None:
    found = tiny(model_type)
    planned = [[Intervention(np.array([3]), Block(), 4)]]
    plan = plan_interventions([found.inputs["input_ids"].shape[1]], planned, "right")
    for changed in (intervene(found.model, plan), collect(found.model)):
        with torch.no_grad(), changed, pytest.raises(NamedError, match="which its eager function does not read"):
            found.model(**found.inputs)


def test_every_type_of_transformers_is_measured_refused_or_named() -> None:
    listed = [*TYPES, *REFUSED, *NOT_BUILT]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(ALL)
    assert len(TYPES) >= 40
