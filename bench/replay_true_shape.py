"""Do the cost bars hold at true size? Prints generate : replay : capture, in time and memory, for Qwen3-VL-2B.

Claims checked (bars in brackets): a replay with capture takes <= 1.03 x the replay without it, for a short prompt and
response (262 and 512 tokens) and for long ones (1,200 and 2,048); its peak memory is <= 1.1 x that without capture, for
both; it takes <= 0.1 x the greedy generation of the same 512 tokens.

Run `OMP_NUM_THREADS=1 python bench/replay_true_shape.py [--layers 28] [--dtype bfloat16]`. The text and vision towers
have their true layers, widths, heads and vocabulary; weights are random: cost does not depend on them. Maps and masses
are kept for the four sets of heads that a study keeps. One picture and some text stand before each response. All tokens
are generated, none extrapolated. What IS estimated, and every claim says so, is the depth: of the text tower, whose
layers all cost the same, `--layers` are run and timed; each counts for as many as the true model has for it, as does
what a replay with capture does outside the model. `--layers 28` runs them all (half an hour, 6 GB).

Ratios are of CPU seconds over all threads. A replay takes so long that other work on the machine comes and goes
meanwhile. So two replays are not timed one after the other: within one, each layer runs with and without capture in
turn, and what all layers have in common counts for both. A second run without capture is the control: its ratio to the
first says how fine a difference this machine can show. A peak is the growth of resident memory over the loaded model in
a process of its own, and what each layer that was not run would have kept. Five minutes on a free core with bf16
instructions, and 4 GB.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from capture import build_calls, generate, warm_up  # this folder's script, not the package's
from measure import (
    build_parser,
    can_measure_memory,
    judge_pair,
    measure_growth,
    read_arguments,
    run_alone,
    write_results,
)
from PIL import Image

from dontblink.attention import replay
from dontblink.attention.grounding import Grounding, weigh_heads
from dontblink.models.families import find_family
from dontblink.models.vlm import VLM, Prompt
from dontblink_testbed.stand_in import SHAPES, build_image_processor, true_shape

CAPTURE_BAR, GENERATE_BAR, PEAK_BAR = 1.03, 0.1, 1.1
WAYS = ("without", "again", "capture")
# tokens of the response: sides of the picture in px, tokens of text, turns; 196 and 1,122 image tokens
CASES = {512: ((448, 448), 64, 6), 2048: ((1088, 1056), 76, 3)}


def build_vlm(arguments: argparse.Namespace) -> VLM:
    """Return the model with random weights and some of its text layers, made in its final dtype (no copy)."""
    config = true_shape(arguments.model)
    config.text_config.num_hidden_layers = arguments.layers
    family = find_family(SHAPES[arguments.model].family)
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=getattr(torch, arguments.dtype))
    model.eval().requires_grad_(False)
    eos = (config.text_config.eos_token_id,)
    model.generation_config = transformers.GenerationConfig(eos_token_id=list(eos), pad_token_id=eos[0])
    n_vocabulary, image = config.text_config.vocab_size, config.image_token_id
    return VLM(arguments.model, family, model, None, None, "pil", image, (image,), eos, n_vocabulary, True, True)


def draw_prompt(vlm: VLM, size: tuple[int, int], n_text: int, rng: np.random.Generator) -> Prompt:
    """Return a prompt of one noise picture between its two markers and random text; ids int64."""
    config = vlm.model.config
    start, end = (getattr(config, f"{name}_token_id", None) for name in ("vision_start", "vision_end"))
    if start is None:
        start, end = config.image_start_token_id, config.image_end_token_id
    picture = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    inputs = dict(build_image_processor(vlm.name)(images=[picture], return_tensors="pt"))  # type: ignore[arg-type]
    text = rng.integers(0, 100_000, n_text).tolist()
    ids = np.array([start, *[vlm.image_token_id] * (int(inputs["image_grid_thw"].prod()) // 4), end, *text])
    inputs["mm_token_type_ids"] = torch.from_numpy(ids == vlm.image_token_id).int()[None]
    return Prompt("item", ids, inputs, (size[::-1],), (0,))


def prepare(arguments: argparse.Namespace) -> tuple[VLM, list[Prompt], list[list[int]], dict[str, Any]]:
    """Return the model, a prompt, a random response, and what replay measures on them (steps of 32 tokens)."""
    vlm, rng, n_tokens = build_vlm(arguments), np.random.default_rng(0), arguments.tokens
    prompt = draw_prompt(vlm, *CASES[n_tokens][:2], rng)
    covered = rng.random(int((prompt.ids == vlm.image_token_id).sum())).astype(np.float32)
    steps = [(k, min(k + 32, n_tokens)) for k in range(0, n_tokens, 32)]
    text = vlm.model.config.get_text_config()
    sets = weigh_heads(Grounding((0,), ((0, 0), (1, 3)), (), 0), text.num_hidden_layers, text.num_attention_heads)
    measures = {"coverage": [covered], "control": [covered], "steps": [steps], "head_sets": sets}
    return vlm, [prompt], [rng.integers(0, 100_000, n_tokens).tolist()], measures | {"token_budget": 10**9}


def time_layers_in_turn(
    vlm: VLM,
    prompts: list[Prompt],
    responses: list[list[int]],
    measures: dict[str, Any],
    turn: int,
    depth: float = 1.0,
) -> dict[str, float]:
    """Return CPU seconds of a replay without capture, of one again without, and of one with it.

    Each layer runs all three ways before the next one does, in an order that changes with layer and `turn`, on what the
    one before gave with capture. Planning and reading what was captured counts for that way alone. A layer, and what is
    outside the model, counts `depth` times.
    """
    text, layers = vlm.model.config.get_text_config(), vlm.model.model.language_model.layers
    seconds: dict[str, float] = dict.fromkeys((*WAYS, "reading"), 0.0)

    def run_all(layer: int, *inputs: Any, **named: Any) -> Any:
        first, found = (layer + turn) % len(WAYS), None
        for way in (*WAYS[first:], *WAYS[:first]):
            text._attn_implementation = "dontblink_split" if way == "capture" else "sdpa"
            start = time.process_time()
            output = forwards[layer](*inputs, **named)
            seconds[way] += time.process_time() - start
            found = output if way == "capture" else found
        text._attn_implementation = "dontblink_split"
        return found

    def read_timed(*inputs: Any) -> Any:
        start = time.process_time()
        found = read_tokens(*inputs)
        seconds["reading"] = time.process_time() - start
        return found

    forwards, read_tokens = [layer.forward for layer in layers], replay.read_tokens
    try:
        replay.read_tokens = read_timed
        for index, layer in enumerate(layers):
            layer.forward = functools.partial(run_all, index)
        start = time.process_time()
        replay.replay_responses(vlm, prompts, responses, **measures)
        whole = time.process_time() - start
    finally:
        replay.read_tokens = read_tokens
        for layer, forward in zip(layers, forwards, strict=True):
            layer.forward = forward
    common = seconds["reading"] - sum(seconds[way] for way in WAYS)
    found = {way: common + depth * seconds[way] for way in WAYS}
    return found | {"capture": found["capture"] + depth * (whole - seconds["reading"])}


def time_generation(vlm: VLM, prompts: list[Prompt], n_tokens: int, depth: float) -> float:
    """Return CPU seconds of generating `n_tokens`; a layer counts `depth` times."""
    layers, inside = vlm.model.model.language_model.layers, 0.0
    forwards = [layer.forward for layer in layers]

    def run(forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
        nonlocal inside
        start = time.process_time()
        output = forward(*inputs, **named)
        inside += time.process_time() - start
        return output

    for layer, forward in zip(layers, forwards, strict=True):
        layer.forward = functools.partial(run, forward)
    start = time.process_time()
    generate(vlm, prompts, n_tokens)
    whole = time.process_time() - start
    for layer, forward in zip(layers, forwards, strict=True):
        layer.forward = forward
    return whole + (depth - 1) * inside


def measure_times(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return CPU seconds by name: one value a turn for each way of a replay, one value for generate."""
    vlm, prompts, responses, measures = prepare(arguments)
    see, seen = vlm.model.model.get_image_features, []

    def see_once(*inputs: Any, **named: Any) -> Any:
        if not seen:
            start = time.process_time()
            seen.extend((see(*inputs, **named), time.process_time() - start))
        return seen[0]

    vlm.model.model.get_image_features = see_once  # the picture is seen once, not in each turn, and counts in all
    warm_up(vlm, prompts, responses, measures)
    turns = []
    for turn in range(CASES[arguments.tokens][2]):
        turns.append(time_layers_in_turn(vlm, prompts, responses, measures, turn, arguments.depth))
    del vlm.model.model.get_image_features  # back to the method: generation sees the picture itself
    seconds = {way: [found[way] + seen[1] for found in turns] for way in WAYS}
    if arguments.tokens == min(CASES):
        seconds["generate"] = [time_generation(vlm, prompts, arguments.tokens, arguments.depth)]
    return seconds


def measure_peak(arguments: argparse.Namespace, name: str) -> float:
    """Return the growth of peak resident memory, in MiB, of one of the two replays at the true depth.

    It is that of this process and what each layer that is left out would have kept.
    """
    prepared = prepare(arguments)
    warm_up(*prepared)
    peak = measure_growth(build_calls(*prepared)[name])
    if name == "without":
        return peak
    _, n_layers, n_heads = prepared[-1]["head_sets"].shape
    kept = n_heads * (arguments.tokens + 1) * len(replay.REGIONS) * 4  # bytes of a layer's masses; maps are one sum
    return peak + (arguments.depth - 1) * n_layers * kept / 2**20


def main() -> None:
    """Measure, print and write."""
    assert __doc__
    parser = build_parser(__doc__, layers=4)
    parser.add_argument("--model", choices=tuple(SHAPES), default="Qwen3-VL-2B")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    arguments = read_arguments(parser)
    supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    print(f"bf16 instructions: {'yes' if supported else 'no, bfloat16 is emulated'}", flush=True)
    n_layers = true_shape(arguments.model).text_config.num_hidden_layers
    depth = "" if arguments.layers == n_layers else f", estimated from {arguments.layers} of {n_layers} text layers"
    results = []
    for tokens, (size, n_text, _) in CASES.items():
        case = argparse.Namespace(**vars(arguments), tokens=tokens, depth=n_layers / arguments.layers)
        merged = 2 * SHAPES[arguments.model].vision["patch_size"]  # px of an image token
        n_prompt = round(size[0] / merged) * round(size[1] / merged) + 2 + n_text
        where = f"{arguments.model} at true shape, {arguments.dtype}, {n_prompt} + {tokens} tokens{depth}"
        seconds = measure_times(case)
        claim = f"time of a replay with capture / without, {where}"
        results.append(judge_pair(claim, seconds["capture"], seconds["without"], at_most=CAPTURE_BAR))
        control = f"control: time of a replay without capture / the same again, {where}"
        results.append(judge_pair(control, seconds["without"], seconds["again"]))
        if "generate" in seconds:
            again = f"time of a replay with capture / generation, {where}"
            once = [float(np.median(seconds["capture"]))]
            results.append(judge_pair(again, once, seconds["generate"], at_most=GENERATE_BAR))
        if can_measure_memory():
            peaks = [[run_alone(measure_peak, case, name)] for name in ("capture", "without")]
            peak = f"peak memory of a replay with capture / without, {where}"
            results.append(judge_pair(peak, *peaks, unit="MiB", at_most=PEAK_BAR))
    write_results(__file__, results, parser, arguments)


if __name__ == "__main__":
    main()
