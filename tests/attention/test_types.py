"""Every image-text model type: its measures are those of eager attention, its replay is its generation."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import tiny_types
import torch
from tiny_types import IMAGE, TYPES, Tiny, extend, read_eager
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as ALL

from dontblink.attention.capture import Sample, plan_recording, record

pytestmark = pytest.mark.slow
MASS_BAR, LOGIT_BAR = 1e-5, 1e-4
LOOSER: dict[str, tuple[float, str]] = {}  # type -> mass bar and why


@functools.cache
def tiny(model_type: str) -> Tiny:
    return tiny_types.build(model_type)


def draw_response(seed: int, length: int) -> list[int]:
    """Words only: no placeholder, no special token."""
    words = range(tiny_types.N_VOCABULARY - 40, tiny_types.N_VOCABULARY)
    return [int(token) for token in np.random.default_rng(seed).choice(words, length)]


@pytest.mark.parametrize("implementation", ["split", "generic"])
@pytest.mark.parametrize("model_type", TYPES)
def test_masses_are_those_of_eager_attention(model_type: str, implementation: Any) -> None:
    found, response = tiny(model_type), draw_response(1, 7)
    ids = found.inputs["input_ids"][0].numpy()
    n_prompt, n_keys = len(ids), len(ids) + len(response)
    image = np.flatnonzero(ids == found.image_token_id)
    assert len(image)
    # every image key alone, the rest of the prompt, the response, and four regions that overlap at random
    weights = np.zeros((n_keys, len(image) + 6), np.float32)
    weights[image, np.arange(len(image))] = 1
    weights[:n_prompt, -6] = ids != found.image_token_id
    weights[n_prompt:, -5] = 1
    weights[:n_prompt, -4:] = np.random.default_rng(0).random((n_prompt, 4))
    plan = plan_recording([Sample(weights, n_prompt - 1, len(response), image, [(0, 3), (3, 7)])], n_keys)
    reference = read_eager(found.model, found.inputs, response)
    with record(found.model, plan, implementation) as recording:
        logits = found.model(**extend(found.model, found.inputs, response), use_cache=False).logits[0]
    mass, step_map = recording.read(0)
    bar, _ = LOOSER.get(model_type, (MASS_BAR, ""))
    assert len(mass) == len(reference.attention)
    for layer, attention in enumerate(reference.attention):
        np.testing.assert_allclose(mass[layer], attention.numpy() @ weights, rtol=0, atol=bar)
        for step, rows in enumerate((slice(0, 3), slice(3, 7))):
            expected = attention[:, rows][..., image].mean(1)
            np.testing.assert_allclose(step_map[step, layer], expected, rtol=0, atol=bar)
    torch.testing.assert_close(logits[n_prompt - 1 : -1], reference.logits, rtol=0, atol=LOGIT_BAR)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_replay_gives_the_logits_of_generation(model_type: str) -> None:
    found = tiny(model_type)
    n_prompt = found.inputs["input_ids"].shape[1]
    with torch.no_grad():
        output = found.model.generate(
            **found.inputs, max_new_tokens=6, do_sample=False, suppress_tokens=list(range(IMAGE, tiny_types.FIRST)),
            output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    response = output.sequences[0, n_prompt:].tolist()
    logits = read_eager(found.model, found.inputs, response).logits
    torch.testing.assert_close(torch.cat(output.logits).float(), logits, rtol=0, atol=LOGIT_BAR)


def test_every_type_of_transformers_is_measured_refused_or_named() -> None:
    listed = [*TYPES, *tiny_types.REFUSED, *tiny_types.NOT_BUILT]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(ALL)
