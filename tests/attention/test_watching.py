"""Watched generation against the replay and eager attention; tokens as when nobody watches; refusals by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import FAMILY_NAMES, UNPLAIN, VLM, Prompt, build_vlm, count_image_tokens, draw_prompt
from transformers import AutoModelForCausalLM

from dontblink.attention import capture
from dontblink.attention import watching as watching_module
from dontblink.attention.replay import REGIONS, replay_responses, weigh_regions
from dontblink.attention.watching import Watching, watch_generation
from dontblink.errors import NamedError

MASS_BAR, NATS_BAR = 2.1e-6, 2e-5  # float32, a cached row against one of a whole pass


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def vlm(request: pytest.FixtureRequest) -> VLM:
    return build_vlm(request.param)


def draw_pair() -> list[Prompt]:
    """Return a short and a long prompt with other pictures: the first is padded."""
    rng = np.random.default_rng(3)
    return [draw_prompt(rng, "short", n_text=3), draw_prompt(rng, "long", grids=[(2, 3), (4, 4)], n_text=20)]


def weigh_pair(vlm: VLM, prompts: list[Prompt], coverage: list[Any]) -> torch.Tensor:
    """Return the weights of a left-padded batch."""
    longest = max(len(prompt.ids) for prompt in prompts)
    weights = torch.zeros(len(prompts), longest + 1, len(REGIONS))
    for row, (prompt, covered) in enumerate(zip(prompts, coverage, strict=True)):
        is_image = np.append(prompt.ids == vlm.image_token_id, False)
        own = weigh_regions(is_image, len(prompt.ids), covered, covered)
        weights[row, longest - len(prompt.ids) :] = torch.from_numpy(own)
    return weights


def generate(vlm: VLM, inputs: dict[str, Any], **options: Any) -> torch.Tensor:
    """Generate 9 tokens; sampled ones are drawn anew from the same seed."""
    torch.manual_seed(5)
    settings = {"max_new_tokens": 9, "min_new_tokens": 9, "do_sample": False, "suppress_tokens": [*vlm.suppressed_ids]}
    return vlm.model.generate(**inputs, **settings | options)  # type: ignore[no-any-return]


def watch_pair(vlm: VLM, **options: Any) -> tuple[list[Prompt], list[Any], torch.Tensor, Watching]:
    """Return two prompts, their coverage, what was generated and watched; tokens are those of plain generation."""
    prompts, rng = draw_pair(), np.random.default_rng(4)
    coverage = [rng.random(count_image_tokens(prompt)).astype(np.float32) for prompt in prompts]
    inputs = vlm.collate(prompts, side="left")
    plain = generate(vlm, inputs, **options)
    with watch_generation(vlm.model, weigh_pair(vlm, prompts, coverage)) as watching:
        output = generate(vlm, inputs, **options)
    assert torch.equal(plain, output)
    watching.take_tokens(output[:, -1])
    return prompts, coverage, output[:, inputs["input_ids"].shape[1] :], watching


@pytest.mark.parametrize(
    "options",
    [{}, {"do_sample": True, "temperature": 1.5}, {"cache_implementation": "static", "disable_compile": True}],
    ids=["greedy", "sampled", "static"],
)
def test_what_was_watched_is_what_a_replay_measures(vlm: VLM, options: dict[str, Any]) -> None:
    prompts, coverage, ids, watching = watch_pair(vlm, **options)
    responses = ids.tolist()
    steps = [[(token, token + 1) for token in range(9)]] * 2
    truth = replay_responses(vlm, prompts, responses, coverage=coverage, control=coverage, steps=steps)
    for row, (prompt, expected) in enumerate(zip(prompts, truth, strict=True)):
        image = prompt.find_image(vlm.image_token_id)[0] + watching.n_prompt - len(prompt.ids)
        found = watching.read(row, 9, image)
        assert found["mass"].shape == expected.mass.shape and found["mass"].dtype == np.float32
        np.testing.assert_allclose(found["mass"], expected.mass, rtol=0, atol=MASS_BAR)
        np.testing.assert_allclose(found["attention"], expected.step_map.mean((1, 2)), rtol=0, atol=MASS_BAR)
        for name in ("entropy_nats", "top20_entropy_nats", "log_probability_nats"):
            np.testing.assert_allclose(found[name], getattr(expected, name), rtol=0, atol=NATS_BAR)


@pytest.mark.parametrize("own", ["sdpa", "eager"])
def test_logits_are_those_of_the_models_own_attention_bit_for_bit(vlm: VLM, own: str) -> None:
    prompts = draw_pair()
    inputs = vlm.collate(prompts, side="left")
    weights = weigh_pair(vlm, prompts, [np.zeros(count_image_tokens(prompt)) for prompt in prompts])
    options = {"output_logits": True, "return_dict_in_generate": True}
    vlm.model.set_attn_implementation({"text_config": own})
    try:
        plain = generate(vlm, inputs, **options)
        with watch_generation(vlm.model, weights):
            watched = generate(vlm, inputs, **options)
        assert vlm.model.config.get_text_config()._attn_implementation == own
    finally:
        vlm.model.set_attn_implementation({"text_config": "sdpa"})
    assert all(map(torch.equal, plain.logits, watched.logits))  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", UNPLAIN)
@pytest.mark.parametrize("is_static", [False, True])
def test_windows_and_learned_sinks_are_those_of_eager_attention(name: str, is_static: bool) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(UNPLAIN[name], attn_implementation="eager").eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.5)  # sinks begin empty
    n_prompt, n_tokens = 7, 8
    ids = torch.randint(5, 60, (2, n_prompt), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    weights = torch.eye(n_prompt + 1, n_prompt + 2).repeat(2, 1, 1)  # a region each, one behind them, one of sinks
    weights[0, :3] = 0
    options: dict[str, Any] = {"max_new_tokens": n_tokens, "min_new_tokens": n_tokens, "do_sample": False}
    options |= {"cache_implementation": "static", "disable_compile": True} if is_static else {}
    plain = model.generate(ids, attention_mask=mask, **options)
    with watch_generation(model, weights) as watching:
        output = model.generate(ids, attention_mask=mask, **options)
    assert torch.equal(plain, output)
    watching.take_tokens(output[:, -1])
    mask = torch.cat([mask, torch.ones(2, n_tokens - 1, dtype=torch.int64)], 1)
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        truth = model(output[:, :-1], attention_mask=mask, position_ids=places, output_attentions=True)
    for row in range(2):
        found = watching.read(row, n_tokens, np.arange(n_prompt))
        layers = torch.stack([layer[row, :, n_prompt - 1 :] for layer in truth.attentions])
        behind, sinks = layers[..., n_prompt:].sum(-1), 1 - layers.sum(-1)
        np.testing.assert_allclose(found["mass"][..., :n_prompt], layers[..., :n_prompt], rtol=0, atol=MASS_BAR)
        np.testing.assert_allclose(found["mass"][..., n_prompt], behind, rtol=0, atol=MASS_BAR)
        np.testing.assert_allclose(found["mass"][..., -1], sinks, rtol=0, atol=MASS_BAR)
        np.testing.assert_allclose(found["attention"], layers[..., :n_prompt].mean((0, 1)), rtol=0, atol=MASS_BAR)
        logs = truth.logits[row, n_prompt - 1 :].log_softmax(-1)
        own = logs.gather(-1, output[row, n_prompt:, None])[:, 0]
        np.testing.assert_allclose(found["log_probability_nats"], own, rtol=0, atol=NATS_BAR)
    assert (found["mass"][..., -1].max() > 0.01) == (name == "gpt_oss")


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2},
        {"num_return_sequences": 2, "do_sample": True},
        {"prompt_lookup_num_tokens": 3},
        {"prefill_chunk_size": 8},
    ],
    ids=lambda options: next(iter(options)),
)
def test_generation_that_gives_rows_to_others_is_refused_and_leaves_no_trace(vlm: VLM, options: dict[str, Any]) -> None:
    prompt = draw_pair()[1]
    if "prompt_lookup_num_tokens" in options:  # so that there is something to look up
        prompt = Prompt("again", prompt.ids.copy(), prompt.inputs, prompt.image_sizes, prompt.image_order)
        prompt.ids[-6:] = [20, 21, 22, 20, 21, 22]
    inputs = vlm.collate([prompt], side="left")
    weights = weigh_pair(vlm, [prompt], [np.zeros(count_image_tokens(prompt))])
    plain = generate(vlm, inputs)
    with (
        pytest.raises(NamedError, match="watch generation without beams, num_return_sequences, an assistant"),
        watch_generation(vlm.model, weights),
    ):
        generate(vlm, inputs, **options)
    assert vlm.model.config.get_text_config()._attn_implementation == "sdpa" and capture.ACTIVE.get() is None
    assert not vlm.model._forward_hooks and not vlm.model._forward_pre_hooks
    assert torch.equal(generate(vlm, inputs), plain)


def test_nothing_is_kept_after_the_end_and_a_second_generation_is_refused(vlm: VLM) -> None:
    _, _, ids, watching = watch_pair(vlm)
    generate(vlm, vlm.collate(draw_pair(), side="left"))
    assert watching.n_steps == ids.shape[1] == 9 and not watching.layers
    prompts = draw_pair()
    inputs = vlm.collate(prompts, side="left")
    weights = weigh_pair(vlm, prompts, [np.zeros(count_image_tokens(prompt)) for prompt in prompts])
    with watch_generation(vlm.model, weights), pytest.raises(NamedError, match=r"are \(2, \d+\), expected \(2, 1\)"):
        generate(vlm, inputs)
        generate(vlm, inputs)


def test_training_mode_and_other_attention_are_refused(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.zeros(1, 3, len(REGIONS))
    with monkeypatch.context() as patch:
        patch.setattr(vlm.model, "training", True)
        with pytest.raises(NamedError, match="training mode"), watch_generation(vlm.model, weights):
            pass
    monkeypatch.setattr(vlm.model.config.get_text_config(), "_attn_implementation_internal", "flash_attention_2")
    with (
        pytest.raises(NamedError, match="attends by 'flash_attention_2', expected one of sdpa, eager"),
        watch_generation(vlm.model, weights),
    ):
        pass


def test_when_steps_are_turned_into_measures_changes_none(vlm: VLM, monkeypatch: pytest.MonkeyPatch) -> None:
    late = watch_pair(vlm)[-1]
    monkeypatch.setattr(watching_module, "MOST_WAITING", 1)
    soon = watch_pair(vlm)[-1]
    assert (len(soon.numbers), len(soon.steps), len(late.numbers), len(late.steps)) == (9, 0, 0, 9)
    for row in range(2):
        one, other = (watching.read(row, 9, np.arange(3)) for watching in (late, soon))
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=0, atol=2e-6)
