"""Do the cost bars hold at true size? Prints generate : replay : capture, in time and memory, for Qwen3-VL-2B.

Claims checked (bars in brackets): a replay with capture takes <= 1.05 x the replay without it; it takes <= 0.25 x the
greedy generation of the same number of tokens, at 512 and more; its peak memory is <= 2 x that without capture.

Run `OMP_NUM_THREADS=1 python bench/replay_true_shape.py [--tokens 512] [--batch 1] [--dtype bfloat16]`. The text and
vision towers have their true layers, widths, heads and vocabulary; weights are random: cost does not depend on them.
One 448 x 448 px picture (196 image tokens) and 64 tokens of text stand before each response. All tokens are generated,
none extrapolated; generation runs once. Ratios are of CPU seconds over all threads. A replay takes so long that other
work on the machine comes and goes meanwhile. So two replays are not timed one after the other: within one, each layer
runs with and without capture in turn, and what all layers have in common counts for both. A second run without capture
is the control: its ratio to the first says how fine a difference this machine can show. A peak is the growth of
resident memory over the loaded model in a process of its own. The default run takes about 15 minutes and 6 GB on a free
core with bf16 instructions, `--no-generate` five. `--layers 2` is a look, not an answer.
"""

from __future__ import annotations

import argparse
import functools
import os
import time
from typing import Any

import numpy as np
import torch
import transformers
from capture import (  # this folder's script, not the package's
    CAPTURE_BAR,
    GENERATE_BAR,
    PEAK_BAR,
    generate,
    measure_peak,
    warm_up,
)
from measure import (
    build_parser,
    can_measure_memory,
    judge_pair,
    read_arguments,
    run_alone,
    time_in_turn,
    write_results,
)
from PIL import Image

from dontblink.attention import replay
from dontblink.models.families import FAMILIES
from dontblink.models.vlm import VLM, Prompt
from dontblink_testbed.stand_in import SHAPES, build_image_processor, true_shape

WAYS = ("without", "again", "capture")
SIDE_PX = 448
N_TEXT = 64


def build_vlm(arguments: argparse.Namespace) -> VLM:
    """Return the full-size model with random weights, made in its final dtype (no copy), without a tokenizer."""
    config = true_shape(arguments.model)
    if arguments.layers:
        config.text_config.num_hidden_layers = arguments.layers
    family = FAMILIES[SHAPES[arguments.model].family]
    torch.manual_seed(0)
    model = family.model_class._from_config(config, dtype=getattr(torch, arguments.dtype))
    model.eval().requires_grad_(False)
    eos = (config.text_config.eos_token_id,)
    model.generation_config = transformers.GenerationConfig(eos_token_id=list(eos), pad_token_id=eos[0])
    n_vocabulary, image = config.text_config.vocab_size, config.image_token_id
    return VLM(arguments.model, family, model, None, None, "pil", image, (image,), eos, n_vocabulary, True, True)


def draw_prompts(vlm: VLM, n: int, rng: np.random.Generator) -> list[Prompt]:
    """Return prompts of one noise picture between its two markers and random text; ids int64."""
    config = vlm.model.config
    start, end = (getattr(config, f"{name}_token_id", None) for name in ("vision_start", "vision_end"))
    if start is None:
        start, end = config.image_start_token_id, config.image_end_token_id
    prompts = []
    for row in range(n):
        picture = Image.fromarray(rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8))
        batch = build_image_processor(vlm.name)(images=[picture], return_tensors="np")  # type: ignore[arg-type]
        grid = batch["image_grid_thw"]
        text = rng.integers(0, 100_000, N_TEXT).tolist()
        ids = [start, *[vlm.image_token_id] * (int(grid.prod()) // 4), end, *text]
        pixels = np.asarray(batch["pixel_values"], dtype=np.float32)
        prompts.append(Prompt(f"item {row}", np.array(ids), pixels, grid, ((SIDE_PX, SIDE_PX),), (0,)))
    return prompts


def prepare(arguments: argparse.Namespace) -> tuple[VLM, list[Prompt], list[list[int]], dict[str, Any]]:
    """Return the model, prompts, random responses, and what replay measures on them (steps of 32 tokens)."""
    vlm, rng = build_vlm(arguments), np.random.default_rng(0)
    prompts = draw_prompts(vlm, arguments.batch, rng)
    responses = [rng.integers(0, 100_000, arguments.tokens).tolist() for _ in prompts]
    covered = [rng.random(int((p.ids == vlm.image_token_id).sum())).astype(np.float32) for p in prompts]
    steps = [[(k, min(k + 32, arguments.tokens)) for k in range(0, arguments.tokens, 32)] for _ in prompts]
    measures = {"coverage": covered, "control": covered, "steps": steps, "token_budget": 10**9}
    return vlm, prompts, responses, measures


def time_layers_in_turn(
    vlm: VLM, prompts: list[Prompt], responses: list[list[int]], measures: dict[str, Any], turn: int
) -> dict[str, float]:
    """Return CPU seconds of a replay without capture, of one again without, and of one with it.

    Each layer runs all three ways before the next one does, in an order that changes with layer and `turn`, on what the
    one before gave with capture. Planning and reading what was captured counts for that way alone.
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
    found = {way: common + seconds[way] for way in WAYS}
    return found | {"capture": found["capture"] + whole - seconds["reading"]}


def measure_times(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return CPU seconds by name: one value a turn for each way of a replay, one value for generate."""
    prepared = prepare(arguments)
    warm_up(*prepared)
    turns = [time_layers_in_turn(*prepared, turn) for turn in range(arguments.turns)]
    seconds = {way: [found[way] for found in turns] for way in WAYS}
    print(f"replay without and with capture: {arguments.turns} turns done", flush=True)
    if not arguments.no_generate:
        vlm, prompts, *_ = prepared
        once = {"generate": lambda: generate(vlm, prompts, arguments.tokens)}
        seconds |= time_in_turn(once, 1, warm_up=False)
    return seconds


def main() -> None:
    """Measure, print and write."""
    assert __doc__
    parser = build_parser(__doc__, tokens=512, batch=1, turns=6, layers=0)
    parser.add_argument("--model", choices=tuple(SHAPES), default="Qwen3-VL-2B")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--no-generate", action="store_true", help="leave out generation, which takes most of the time")
    arguments = read_arguments(parser)
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # of the measuring processes: a thread that waits is no cost
    supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    print(f"bf16 instructions: {'yes' if supported else 'no, bfloat16 is emulated'}", flush=True)
    where = f"{arguments.model} at true shape, {arguments.tokens} tokens, {arguments.dtype}"
    seconds = run_alone(measure_times, arguments)
    claim = f"time of a replay with capture / without, {where}"
    results = [judge_pair(claim, seconds["capture"], seconds["without"], at_most=CAPTURE_BAR)]
    control = f"control: time of a replay without capture / the same again, {where}"
    results.append(judge_pair(control, seconds["without"], seconds["again"]))
    if "generate" in seconds:
        again = f"time of a replay with capture / generation, {where}"
        bar = GENERATE_BAR if arguments.tokens >= 512 else None
        middle = [float(np.median(seconds[name])) for name in ("generate", "without", "capture")]
        results.append(judge_pair(again, middle[2:], middle[:1], at_most=bar))
        parts = " : ".join(f"{value / middle[1]:.3g}" for value in middle)
        print(f"generate : replay : replay with capture = {parts}")
    if can_measure_memory():
        peaks = [[run_alone(measure_peak, prepare, arguments, name)] for name in ("capture", "without")]
        peak = f"peak memory of a replay with capture / without, {where}"
        results.append(judge_pair(peak, *peaks, unit="MiB", at_most=PEAK_BAR))
    write_results(__file__, results, parser, arguments)


if __name__ == "__main__":
    main()
