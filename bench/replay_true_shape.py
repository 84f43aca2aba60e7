"""Do the cost bars hold at true size? Prints generate : replay : capture, in time and memory, for Qwen3-VL-2B.

Claims checked (bars in brackets): capture adds <= 5 % to a replay; a replay takes <= 25 % of the greedy generation of
the same number of tokens, at 512 and more; its peak memory is <= 2 x that of the replay without capture.

Run `python bench/replay_true_shape.py [--tokens 512] [--batch 1] [--dtype bfloat16] [--threads 2]`. The text and vision
towers have their true layers, widths, heads and vocabulary; weights are random, cost does not depend on them. One
448 x 448 px picture (196 image tokens) and 64 tokens of text stand before each response. All tokens are generated, none
extrapolated. Ratios are of CPU seconds over all threads, the median over pairs of runs taken in turn; generation runs
once. A peak is the growth of resident memory over the loaded model in a process of its own. The default run takes about
12 minutes and 6 GB on two free cores with bf16 instructions. Beside other work single pairs stray by a quarter on two
threads and by 3 % on one (`--threads 1 --pairs 6 --no-generate`). `--layers 2` is a quick look, not an answer.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch
import transformers
from capture import generate, read_status, time_in_turn  # this folder's script, not the package's module
from PIL import Image

from dontblink.families import FAMILIES
from dontblink.replay import read_tokens, replay_responses
from dontblink.stand_in import SHAPES, build_image_processor, true_shape
from dontblink.vlm import VLM, Prompt

SIDE_PX = 448
N_TEXT = 64
BARS = {"capture": 0.05, "replay": 0.25, "peak": 2.0}


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
    torch.set_num_threads(arguments.threads)
    vlm, rng = build_vlm(arguments), np.random.default_rng(0)
    prompts = draw_prompts(vlm, arguments.batch, rng)
    responses = [rng.integers(0, 100_000, arguments.tokens).tolist() for _ in prompts]
    covered = [rng.random(int((p.ids == vlm.image_token_id).sum())).astype(np.float32) for p in prompts]
    steps = [[(k, min(k + 32, arguments.tokens)) for k in range(0, arguments.tokens, 32)] for _ in prompts]
    return vlm, prompts, responses, {"coverage": covered, "control": covered, "steps": steps}


def measure_peak(arguments: argparse.Namespace, with_capture: bool, queue: Any) -> None:
    """Put the growth of peak resident memory, in MiB, of one replay into `queue`."""
    vlm, prompts, responses, measures = prepare(arguments)
    warm = {key: values[:1] for key, values in measures.items()} | {"steps": [[(0, 8)]]}
    replay_responses(vlm, prompts[:1], [responses[0][:8]], **warm)  # load the kernels before the baseline
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building the model
    before = read_status("VmRSS")
    if with_capture:
        replay_responses(vlm, prompts, responses, token_budget=10**9, **measures)
    else:
        read_tokens(vlm, prompts, responses)
    queue.put(read_status("VmHWM") - before)


def measure_times(arguments: argparse.Namespace, queue: Any) -> None:
    """Put CPU seconds by name into `queue`: pairs for replay without and with capture, one value for generate."""
    vlm, prompts, responses, measures = prepare(arguments)
    calls = {
        "without": lambda: read_tokens(vlm, prompts, responses),
        "capture": lambda: replay_responses(vlm, prompts, responses, token_budget=10**9, **measures),
    }
    seconds = time_in_turn(calls, arguments.pairs)
    print(f"replay without and with capture: {arguments.pairs} pairs done", flush=True)
    if not arguments.no_generate:
        start, wall = time.process_time(), time.perf_counter()
        generate(vlm, prompts, arguments.tokens)
        seconds["generate"] = [time.process_time() - start]
        wall = time.perf_counter() - wall
        print(f"generate: {wall:.0f} s on the clock, {wall / arguments.tokens:.2f} s a step", flush=True)
    queue.put(seconds)


def run_alone(target: Any, *arguments: Any) -> Any:
    """Return what `target` puts into its queue, run in a fresh process: one model in memory at a time."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=target, args=(*arguments, queue))
    process.start()
    while True:
        try:
            found = queue.get(timeout=5)
        except Empty:
            if not process.is_alive():
                raise SystemExit(
                    f"the measuring process ended with {process.exitcode}; is there memory enough?"
                ) from None
        else:
            process.join()
            return found


def report(claim: str, ratio: float, bar: float, above: float, below: float, unit: str) -> None:
    """Print one ratio beside its bar."""
    verdict = "met" if ratio <= bar else "NOT met"
    print(f"{claim}: {ratio:.3f}  ({above:.4g} / {below:.4g} {unit}; bar {bar:g}: {verdict})", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The cost of replay and capture at true size, as ratios.")
    parser.add_argument("--model", choices=tuple(SHAPES), default="Qwen3-VL-2B")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    for name, default in {"tokens": 512, "batch": 1, "pairs": 4, "threads": 2, "layers": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--no-generate", action="store_true", help="leave out generation, which takes most of the time")
    arguments = parser.parse_args()
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # in the measuring processes: a thread that waits does not count
    supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    print(vars(arguments), f"bf16 instructions: {'yes' if supported else 'no, bfloat16 is emulated'}", flush=True)
    seconds = run_alone(measure_times, arguments)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    paired = np.array(seconds["capture"]) / np.array(seconds["without"])
    print(f"capture / without, pair by pair: {np.round(paired, 3).tolist()}")
    added = float(np.median(paired)) - 1
    report("capture adds to replay", added, BARS["capture"], median["capture"], median["without"], "s")
    if "generate" in median:
        share = median["capture"] / median["generate"]
        report("replay with capture / generate", share, BARS["replay"], median["capture"], median["generate"], "s")
        parts = [median[name] / median["without"] for name in ("generate", "without", "capture")]
        print("generate : replay : replay with capture = " + " : ".join(f"{part:.3g}" for part in parts))
    if not Path("/proc/self/clear_refs").exists():
        print("peak memory: measured on Linux only")
        return
    peaks = [run_alone(measure_peak, arguments, with_capture) for with_capture in (True, False)]
    report("peak memory with / without capture", peaks[0] / peaks[1], BARS["peak"], *peaks, "MiB")


if __name__ == "__main__":
    main()
