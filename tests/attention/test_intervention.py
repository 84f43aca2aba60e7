"""Interventions: nothing planned changes no bit, what is hidden cannot matter, generation and replay agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny_types
import torch
from tiny_models import FAMILY_NAMES, UNPLAIN, VLM, Prompt, build_vlm, count_image_tokens, draw_prompt, draw_response
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

from dontblink.attention.capture import Sample, plan_recording, record
from dontblink.attention.intervention import (
    Action,
    Bias,
    Block,
    Intervention,
    InterventionPlan,
    Replace,
    collect,
    intervene,
    plan_interventions,
)  # fmt: skip
from dontblink.attention.replay import read_tokens
from dontblink.attention.watching import watch_generation
from dontblink.errors import NamedError

NATS_BAR = 1e-4  # log probabilities in generation against a replay
N_TOKENS = 7


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def vlm(request: pytest.FixtureRequest) -> VLM:
    return build_vlm(request.param)


def draw_pair(seed: int = 3) -> list[Prompt]:
    """Return a short and a long prompt: in a batch the first is padded."""
    rng = np.random.default_rng(seed)
    return [draw_prompt(rng, "short", n_text=3), draw_prompt(rng, "long", grids=[(2, 3), (4, 4)], n_text=20)]


def repaint(prompt: Prompt, seed: int) -> Prompt:
    """Return the prompt with another picture of the same grid."""
    other = torch.from_numpy(np.random.default_rng(seed).normal(size=prompt.inputs["pixel_values"].shape))
    return replace(prompt, inputs={**prompt.inputs, "pixel_values": other.float()})


def hide(vlm: VLM, prompt: Prompt, action: Action, first: int, **options: Any) -> Intervention:
    """Return what an action does to all image tokens, from response token `first` on."""
    return Intervention(prompt.find_image(vlm.image_token_id)[0], action, len(prompt.ids) - 1 + first, **options)


def generate(vlm: VLM, prompts: Sequence[Prompt], planned: Sequence[Sequence[Intervention]]) -> tuple[Any, Any]:
    """Return ids [B, 7] and logits [B, 7, V] of left-padded generation under interventions."""
    plan = plan_interventions([len(prompt.ids) for prompt in prompts], planned, "left")
    with torch.inference_mode(), intervene(vlm.model, plan):
        output = vlm.model.generate(
            **vlm.collate(prompts, side="left"), max_new_tokens=N_TOKENS, min_new_tokens=N_TOKENS, do_sample=False,
            suppress_tokens=[*vlm.suppressed_ids], output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
    return output.sequences[:, -N_TOKENS:], torch.stack(output.logits, 1)


def replay(
    vlm: VLM, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]], planned: Sequence[Sequence[Intervention]]
) -> list[Any]:
    """Return entropies and log probabilities of each response, under interventions."""
    lengths = [len(p.ids) + len(r) for p, r in zip(prompts, responses, strict=True)]
    with intervene(vlm.model, plan_interventions(lengths, planned, "right")):
        return read_tokens(vlm, prompts, responses)


def read_bits(found: Sequence[Any]) -> list[bytes]:
    return [part.tobytes() for sample in found for part in sample]


def test_nothing_planned_is_bit_equal(vlm: VLM) -> None:
    prompts, responses = draw_pair(), [draw_response(np.random.default_rng(n), 5 + n) for n in (1, 2)]
    nothing = [Intervention(np.zeros(0, np.int64), Block(), 3)]
    behind = [hide(vlm, prompts[0], Block(), 400), hide(vlm, prompts[0], Bias(2.0), 2, last=len(prompts[0].ids) + 1)]
    plain = read_bits(read_tokens(vlm, prompts, responses))
    assert read_bits(replay(vlm, prompts, responses, [[], nothing])) == plain
    assert read_bits(replay(vlm, prompts, responses, [behind[:1], []])) == plain  # rows that never come
    assert read_bits(replay(vlm, prompts, responses, [behind[1:], []])) == plain  # no row between first and last
    empty, unplanned = (generate(vlm, prompts, planned) for planned in ([nothing, []], [[], []]))
    assert all(torch.equal(a, b) for a, b in zip(empty, unplanned, strict=True))


def test_what_is_hidden_from_all_that_follows_cannot_matter(vlm: VLM) -> None:
    """Every token behind the pictures is blocked from them: two pictures, the same bits."""
    prompts = draw_pair()
    others = [repaint(prompt, 9) for prompt in prompts]
    planned = []
    for prompt in prompts:
        (image, _), one = prompt.find_image(vlm.image_token_id), hide(vlm, prompt, Block(), 0)
        behind = [n for n in range(int(image[0]), len(prompt.ids)) if n not in image]
        planned.append([*(replace(one, keys=image[image < n], first=n, last=n + 1) for n in behind), one])
    (ids, logits), (other_ids, other_logits) = (generate(vlm, own, planned) for own in (prompts, others))
    # of two pictures in a prompt the second one's own tokens see the first
    assert torch.equal(ids[0], other_ids[0]) and torch.equal(logits[0], other_logits[0])
    assert not torch.equal(*(generate(vlm, own, [[], []])[1][0] for own in (prompts, others)))
    responses = [ids[0].tolist()]
    found = [read_bits(replay(vlm, own[:1], responses, planned[:1])) for own in (prompts, others)]
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["block", "bias", "replace", "replaces", "heads"])
def test_generation_and_replay_agree_and_a_batch_is_its_samples(vlm: VLM, kind: str) -> None:
    prompts = draw_pair()

    def plan(own: Sequence[Prompt], responses: Sequence[Sequence[int]], side: Any) -> list[list[Intervention]]:
        if kind == "heads":
            parts = [{"layers": (0,), "heads": (1,)}, {"layers": (1, 2), "heads": (0, 2, 3)}]
            return [[hide(vlm, p, Block(), 2, **part) for part in parts] for p in own]
        action: Action = {"block": Block(), "bias": Bias(1.5)}.get(kind) or Block()
        if kind.startswith("replace"):
            donors = []
            for seed in (9, 10):
                others = [repaint(prompt, seed) for prompt in own]
                with torch.inference_mode(), collect(vlm.model) as donor:
                    vlm.model(**vlm.collate(others, responses, side=side), use_cache=False)
                donors.append(donor)
            action = Replace(donors[0])
        if kind == "replaces":  # one picture for some steps, another one for half of its keys from some step on
            first = [hide(vlm, p, action, 2 + n, last=len(p.ids) + 3) for n, p in enumerate(own)]
            second = [hide(vlm, p, Replace(donors[1]), 3) for p in own]
            return [[one, replace(two, keys=two.keys[::2])] for one, two in zip(first, second, strict=True)]
        return [[hide(vlm, p, action, 2 + n)] for n, p in enumerate(own)]

    ids, logits = generate(vlm, prompts, plan(prompts, [(), ()], "left"))
    responses = [row.tolist() for row in ids]
    found = replay(vlm, prompts, responses, plan(prompts, responses, "right"))
    for n in range(2):
        expected = logits[n].float().log_softmax(-1).gather(-1, ids[n, :, None])[:, 0]
        np.testing.assert_allclose(found[n][2], expected, atol=NATS_BAR)
    alone = plan(prompts[:1], responses[:1], "right")  # the padded one
    np.testing.assert_allclose(replay(vlm, prompts[:1], responses[:1], alone)[0][2], found[0][2], atol=NATS_BAR)
    plain_ids, plain_logits = generate(vlm, prompts, [[], []])
    assert torch.equal(ids[0, :2], plain_ids[0, :2]) and torch.equal(ids[1, :2], plain_ids[1, :2])
    torch.testing.assert_close(logits[:, :2], plain_logits[:, :2], rtol=0, atol=NATS_BAR)  # before the first row
    assert (logits[0, 2] - plain_logits[0, 2]).abs().max() > 1e-3  # the first row itself


def test_a_bias_multiplies_the_odds_of_its_keys_and_a_block_takes_them(vlm: VLM) -> None:
    """In the first layer, whose scores nothing before it has changed: m' = m e^b / (1 - m + m e^b)."""
    prompt, response = draw_pair()[0], draw_response(np.random.default_rng(1), 6)
    image, n_keys = prompt.find_image(vlm.image_token_id)[0], len(prompt.ids) + len(response)
    weights = np.zeros((n_keys, 2), np.float32)
    weights[image, 0] = 1
    recorded = plan_recording([Sample(weights, len(prompt.ids) - 1, len(response), image, [(0, 6)])], n_keys)
    masses = {}
    for name, action in {"plain": None, "bias": Bias(0.7), "block": Block()}.items():
        planned = [] if action is None else [hide(vlm, prompt, action, 3)]
        plan = plan_interventions([n_keys], [planned], "right")
        with record(vlm.model, recorded) as recording, intervene(vlm.model, plan):
            read_tokens(vlm, [prompt], [response])
        masses[name] = recording.read(0)[0][0, :, :, 0]
    odds = masses["plain"] * np.exp(0.7)
    expected = np.concatenate([masses["plain"][:, :3], (odds / (1 - masses["plain"] + odds))[:, 3:]], axis=1)
    np.testing.assert_allclose(masses["bias"], expected, atol=2e-6)
    assert (masses["block"][:, 3:] == 0).all() and (masses["block"][:, :3] > 0).all()


def test_replaced_keys_are_those_of_the_other_pass(vlm: VLM) -> None:
    """A row that sees a whole foreign prompt attends as the next row of that prompt's own cache does."""
    prompt = draw_pair()[0]
    other, n_prompt = repaint(prompt, 9), len(prompt.ids)
    with torch.inference_mode():
        with collect(vlm.model) as donor:
            output = vlm.model(**vlm.collate([other], [()]), past_key_values=DynamicCache(), use_cache=True)
        token = int(output.logits[0, -1].argmax())
        own = vlm.model(**vlm.collate([prompt], [[token]]), use_cache=False).logits[0, -1]
        keys = np.arange(n_prompt)
        plan = plan_interventions([n_prompt + 1], [[Intervention(keys, Replace(donor), n_prompt)]], "right")
        with intervene(vlm.model, plan):
            found = vlm.model(**vlm.collate([prompt], [[token]]), use_cache=False).logits[0, -1]
        expected = vlm.model(**vlm.collate([other], [[token]]), use_cache=False).logits[0, -1]
    torch.testing.assert_close(found, expected, rtol=0, atol=NATS_BAR)
    assert (found - own).abs().max() > 1e-3


def test_a_row_is_never_blocked_from_itself_nor_from_the_sink(vlm: VLM) -> None:
    prompts = draw_pair()
    planned = [[Intervention(np.arange(len(p.ids)), Block(), 0)] for p in prompts]
    _, logits = generate(vlm, prompts, planned)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("is_bool", [True, False])
def test_a_block_is_done_in_the_mask_of_each_layer(vlm: VLM, is_bool: bool) -> None:
    """Layers may make masks of their own, one in the place of memory that another one has left."""
    prompt = draw_pair()[0]
    image, n_keys = prompt.find_image(vlm.image_token_id)[0], len(prompt.ids)
    hidden = torch.zeros(n_keys, n_keys, dtype=torch.bool)
    hidden[-3:, image] = True

    def read(blocks: bool) -> torch.Tensor:
        def give(module: Any, _: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            sees = torch.ones(n_keys, n_keys, dtype=torch.bool).tril()
            sees[4:, 1 + module.layer_idx] = False  # another key in each layer
            sees &= ~(hidden & blocks)
            mask = sees if is_bool else torch.zeros(sees.shape).masked_fill_(~sees, torch.finfo(torch.float32).min)
            return (), {**given, "attention_mask": mask[None, None]}

        attentions = [layer.self_attn for layer in vlm.model.model.language_model.layers]
        hooks = [module.register_forward_pre_hook(give, with_kwargs=True) for module in attentions]
        try:
            return torch.as_tensor(vlm.model(**vlm.collate([prompt]), use_cache=False).logits[0, -4:])
        finally:
            for hook in hooks:
                hook.remove()

    plan = plan_interventions([n_keys], [[Intervention(image, Block(), n_keys - 3)]], "right")
    with torch.inference_mode():
        with intervene(vlm.model, plan):
            found = read(False)
        expected, plain = read(True), read(False)
    torch.testing.assert_close(found, expected, rtol=0, atol=NATS_BAR)
    assert (found - plain).abs().amax(-1)[1:].min() > 1e-3


@pytest.mark.parametrize("name", UNPLAIN)
def test_a_type_with_scores_of_its_own_is_changed_by_its_own_function(name: str) -> None:
    """Learned sinks and soft caps: what is blocked cannot matter, and nothing else is lost."""
    torch.manual_seed(0)
    config = type(UNPLAIN[name])(**{**UNPLAIN[name].to_dict(), "sliding_window": 64})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    ids = torch.randint(8, 60, (1, 12))
    changed = ids.clone()
    changed[0, 3] = (ids[0, 3] - 7) % 52 + 8
    # rows behind token 3 do not see it: only its own row may differ
    plan = plan_interventions([12], [[Intervention(np.array([3]), Block(), 4)]], "right")
    with torch.inference_mode():
        with intervene(model, plan):
            blocked = [model(input_ids=given, use_cache=False).logits[0, 4:] for given in (ids, changed)]
        plain = [model(input_ids=given, use_cache=False).logits[0, 4:] for given in (ids, changed)]
    assert torch.equal(*blocked)
    assert not torch.equal(*plain) and not torch.equal(blocked[0], plain[0])


@pytest.mark.parametrize("model_type", ["llava", "idefics3", "internvl"])
def test_other_families_are_changed_alike_in_generation_and_replay(model_type: str) -> None:
    found = tiny_types.build(model_type)
    ids = found.inputs["input_ids"][0].numpy()
    keys, n_prompt = np.flatnonzero(ids == found.image_token_id), len(ids)
    one = [[Intervention(keys, Block(), n_prompt + 1), Intervention(keys, Bias(-1.0), n_prompt - 1, n_prompt + 1)]]
    with torch.inference_mode():
        with intervene(found.model, plan_interventions([n_prompt], one, "left")):
            output = found.model.generate(
                **found.inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False, output_logits=True,
                suppress_tokens=list(range(tiny_types.IMAGE, tiny_types.FIRST)), return_dict_in_generate=True,
            )  # fmt: skip
        response = output.sequences[0, n_prompt:].tolist()
        extended = tiny_types.extend(found.model, found.inputs, response)
        with intervene(found.model, plan_interventions([n_prompt + 6], one, "right")):
            logits = found.model(**extended, use_cache=False).logits[0, n_prompt - 1 : -1]
        plain = found.model(**extended, use_cache=False).logits[0, n_prompt - 1 : -1]
    torch.testing.assert_close(torch.cat(output.logits).float(), logits, rtol=0, atol=NATS_BAR)
    assert (logits - plain).abs().max() > 1e-3


def test_what_cannot_be_changed_is_refused_by_name(vlm: VLM) -> None:
    prompts = draw_pair()
    with pytest.raises(NamedError, match="keys 0 to 99, expected 0 to"):
        plan_interventions([20], [[Intervention(np.arange(100), Block(), 3)]], "left")
    with pytest.raises(NamedError, match="rows 5 to 3; give a range"):
        plan_interventions([20], [[Intervention(np.arange(3), Block(), 5, 3)]], "left")
    planned = [[hide(vlm, prompt, Block(), 0)] for prompt in prompts]
    plan = plan_interventions([len(p.ids) for p in prompts], planned, "left")
    inputs = vlm.collate(prompts, side="left")
    with torch.inference_mode(), intervene(vlm.model, plan), pytest.raises(NamedError, match="no beams"):
        vlm.model.generate(**inputs, max_new_tokens=3, num_beams=2, do_sample=False)
    cache = StaticCache(config=vlm.model.config.get_text_config(), max_cache_len=200)
    with torch.inference_mode(), intervene(vlm.model, plan), pytest.raises(NamedError, match="no static cache"):
        vlm.model.generate(**inputs, max_new_tokens=3, past_key_values=cache, do_sample=False)
    with torch.inference_mode(), collect(vlm.model) as donor:
        vlm.model(**vlm.collate(prompts[:1], side="left"), use_cache=False)
    foreign = [[hide(vlm, prompt, Replace(donor), 0)] for prompt in prompts]
    with pytest.raises(NamedError, match="expected those of a batch of the same layout"):
        generate(vlm, prompts, foreign)


def test_a_window_keeps_too_few_keys() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(UNPLAIN["gemma2"], attn_implementation="eager").eval()
    plan = plan_interventions([6], [[Intervention(np.array([3]), Block(), 5)]], "left")
    ids = torch.randint(8, 60, (1, 6))
    with torch.inference_mode(), intervene(model, plan), pytest.raises(NamedError, match="window"):
        model.generate(input_ids=ids, max_new_tokens=3, do_sample=False)


def test_a_watched_generation_shows_what_is_left(vlm: VLM) -> None:
    prompt = draw_pair()[0]
    image, n_prompt = prompt.find_image(vlm.image_token_id)[0], len(prompt.ids)
    weights = torch.zeros(1, n_prompt + 1, 2)
    weights[0, image, 0] = 1
    plan = plan_interventions([n_prompt], [[hide(vlm, prompt, Block(), 2)]], "left")
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    with torch.inference_mode(), watch_generation(vlm.model, weights) as watching, intervene(vlm.model, plan):
        output = vlm.model.generate(**vlm.collate([prompt], side="left"), **options)
    watching.take_tokens(output[:, -1])
    mass = watching.read(0, 5, image)["mass"][..., 0]
    assert (mass[:, :, :2] > 0).all() and np.abs(mass[:, :, 2:]).max() == 0
    with watch_generation(vlm.model, weights), pytest.raises(NamedError, match="single heads cannot be changed while"):
        generate(vlm, [prompt], [[hide(vlm, prompt, Block(), 2, heads=(1,))]])


def test_counting(vlm: VLM) -> None:
    prompt = draw_pair()[1]
    plan = plan_interventions([len(prompt.ids), 80], [[hide(vlm, prompt, Block(), 1)], []], "left")
    assert isinstance(plan, InterventionPlan) and plan.pads == (80 - len(prompt.ids), 0)
    (slot,) = plan.slots
    assert int(slot.keys[0].sum()) == count_image_tokens(prompt) and not slot.keys[1].any()
    assert slot.rows == ((80, 2**31), (0, 0))
