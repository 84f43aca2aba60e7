"""A model tried on its first prompt, before anything of it is believed.

Why it exists: nobody can have tested every type, and a wrong attention mass looks like a right one. In: a loaded model
and one encoded prompt. Out: nothing, or one line that refuses it. Held against each other are what the recording
attention function finds on a few words of the prompt and the weights that the model's own eager attention returns for
them; and what the model itself makes of the whole prompt, its picture included, recorded and not recorded. Never: trust
a type because it has been tried elsewhere, or compare only what both ways share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from dontblink.attention.capture import Sample, attending, plan_recording, record
from dontblink.attention.replay import run_body
from dontblink.errors import NamedError
from dontblink.models.generate import is_out_of_memory
from dontblink.models.vlm import ALONE, VLM, Prompt
from dontblink.questions.items import Item, ItemError

N_WORDS = 32
# Largest difference of a mass, and of hidden states by their size: float32, and narrower numbers, whose eager weights
# are rounded before they are summed. What is computed otherwise than the model does it is off by a tenth or more.
BARS = {True: (1e-4, 1e-4), False: (0.03, 0.1)}
TRIED: WeakKeyDictionary[Any, tuple[int, int]] = WeakKeyDictionary()


def try_model(vlm: VLM, inputs: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many layers and heads of a model are recorded, or raise a one-line NamedError if they are not right.

    What has passed once is not tried again.

    `inputs` is what its processor makes of a prompt, `input_ids` int64 [B, P] padded on the left.
    """
    model = vlm.model
    if model in TRIED:
        return TRIED[model]
    if model.config.is_encoder_decoder:
        raise NamedError(f"{vlm.name}: an encoder-decoder: a response attends to no key of its prompt; not measured")
    mass_bar, hidden_bar = BARS[model.dtype is torch.float32]
    off, shape = compare_words(vlm, inputs)
    if off > mass_bar:
        raise NamedError(f"{vlm.name}: masses differ by {off:.2g} from its own eager attention; not measured")
    off, n_layers = compare_output(vlm, inputs)
    if n_layers != shape[0]:
        found = f"{shape[0]} layers attend to words, {n_layers} where there is a picture"
        raise NamedError(f"{vlm.name}: {found}: it is attended to in layers of its own; not measured")
    if off > hidden_bar:
        raise NamedError(f"{vlm.name}: recording changes what it computes, by {off:.2g} of its size; not measured")
    TRIED[model] = shape
    return shape


def try_first(vlm: VLM, items: Iterable[Item]) -> None:
    """Try a model, unless it has been, on the first of some items that it can be shown."""
    for item in () if vlm.model in TRIED else items:
        try:
            prompt = vlm.encode(item)
        except ItemError:
            continue
        try_prompt(vlm, prompt)
        return


def try_prompt(vlm: VLM, prompt: Prompt) -> tuple[int, int]:
    """Return what `try_model` does, and find out whether prompts of this model may share a batch."""
    if vlm.model not in TRIED and moves_in_batch(vlm, prompt):
        ALONE.add(vlm.model)
    return try_model(vlm, vlm.collate([prompt]))


def moves_in_batch(vlm: VLM, prompt: Prompt) -> bool:
    """Return whether another prompt in its batch, with another picture and padded, changes what a model computes."""
    turned = {k: -v if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in prompt.inputs.items()}
    end, bar = vlm.eos_ids[0], BARS[vlm.model.dtype is torch.float32][1]
    pair, tails = [prompt, replace(prompt, inputs=turned)], [[end] * 3, [end]]
    try:
        with torch.no_grad():
            both, _ = run_body(vlm.model, vlm.collate(pair, tails))
            for found, one, tail in zip(both, pair, tails, strict=True):
                own, _ = run_body(vlm.model, vlm.collate([one], [tail]))
                if float((found[: own.shape[1]] - own[0]).float().norm() / own.float().norm()) > bar:
                    return True
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        return not is_out_of_memory(error)  # that says nothing; batches are halved where it happens
    return False


def compare_words(vlm: VLM, inputs: Mapping[str, Any]) -> tuple[float, tuple[int, int]]:
    """Return the largest difference of masses, over 4 random regions, from the model's eager weights of some words.

    With it, how many layers and heads were recorded.

    A model that takes no words without a picture is given the whole prompt, at the cost of its eager weights.
    """
    model, ids = vlm.model, inputs["input_ids"][0]
    words = ids[~torch.isin(ids, torch.tensor(vlm.suppressed_ids, device=ids.device))][-N_WORDS:]
    kept = {name: given[:1, -len(words) :] for name, given in inputs.items() if is_by_token(given, inputs)}
    given = kept | {"input_ids": words[None], "attention_mask": torch.ones_like(words)[None]}
    given |= {name: torch.zeros_like(words)[None] for name in kept if name.endswith("token_type_ids")}
    try:
        own = read_eager(model, given)
    except (TypeError, ValueError):
        given, words = dict(inputs), ids
        own = read_eager(model, given)
    weights = np.random.default_rng(0).dirichlet(np.ones(4), len(words)).astype(np.float32)
    first = len(words) // 2
    sample = Sample(np.pad(weights, ((0, 0), (0, 1))), first, len(words) - first, np.zeros(0, np.int64), ())
    with record(model, plan_recording([sample], len(words))) as recording:
        model(**given, use_cache=False)
    mass, _ = recording.read(0)
    if len(own) != len(mass):
        raise NamedError(f"{vlm.name}: {len(mass)} layers recorded, its eager attention has {len(own)}; not measured")
    expected = torch.stack([layer[0, :, first:].float().cpu() for layer in own]).numpy() @ weights
    return float(np.abs(mass[..., :4] - expected).max()), mass.shape[:2]


def read_eager(model: Any, inputs: Mapping[str, Any]) -> list[Any]:
    """Return the weights [B, H, P, P] that the model's own eager attention gives, of each layer that has some."""
    with torch.no_grad(), attending(model, "eager", None):
        found = model(**inputs, use_cache=False, output_attentions=True)
    found = getattr(found, "language_model_outputs", found)
    return [layer for layer in getattr(found, "attentions", None) or () if layer is not None]


def compare_output(vlm: VLM, inputs: Mapping[str, Any]) -> tuple[float, int]:
    """Return how far recording moves the hidden states of a prompt, relative to their size, and the layers recorded."""
    n_prompts, n_keys = inputs["input_ids"].shape
    sample = Sample(np.ones((n_keys, 1), np.float32), n_keys - 1, 1, np.zeros(0, np.int64), ())
    with torch.no_grad():
        own, _ = run_body(vlm.model, inputs)
        with record(vlm.model, plan_recording([sample] * n_prompts, n_keys)) as recording:
            found, _ = run_body(vlm.model, inputs)
    seen = inputs["attention_mask"].bool() if "attention_mask" in inputs else ...
    return float((found - own)[seen].float().norm() / own[seen].float().norm()), len(recording.layers)


def is_by_token(given: Any, inputs: Mapping[str, Any]) -> bool:
    """Return whether an input holds one value a token."""
    return isinstance(given, torch.Tensor) and given.shape == inputs["input_ids"].shape
