"""What does capture cost? Prints ratios: capture / replay, replay / generate, and peak memory.

Claims checked (bars in brackets): a replay with `fused` capture takes <= 1.05 x the replay without it; a replay
takes <= 0.25 x the greedy generation of the same responses at 512 tokens and more; its peak memory is <= 2 x
that of the replay without capture.

Run `python bench/capture.py [--family glm4v] [--tokens 512] [--batch 4] [--layers 4] [--width 512]`. Weights are
random: cost does not depend on them. The testbed models are `--width 128`, where attention is a larger part of
everything and the first ratio is at its worst. Each ratio is the median over pairs of runs taken in turn, in CPU
seconds of one thread; a peak is the growth of resident memory over the loaded model in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from dontblink.replay import read_tokens, replay_responses

NAMES = ("fused", "chunk")
TINY = Path(__file__).resolve().parents[1] / "tests" / "tiny_models.py"


def load_tiny_models() -> ModuleType:
    """Return the random-model builders that the tests use."""
    spec = importlib.util.spec_from_file_location("tiny_models", TINY)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_models"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def prepare(arguments: argparse.Namespace) -> tuple[Any, list[Any], list[list[int]], dict[str, Any]]:
    """Return a model, prompts with a 6 x 6 image each, random responses, and what replay measures on them."""
    tiny = load_tiny_models()
    size = {"width": arguments.width, "n_layers": arguments.layers, "n_vocabulary": arguments.vocabulary}
    vlm = tiny.build_vlm(arguments.family, **size)
    rng = np.random.default_rng(0)
    prompts = [tiny.draw_prompt(rng, f"item {row}", grids=[(6, 6)], n_text=24) for row in range(arguments.batch)]
    responses = [tiny.draw_response(rng, arguments.tokens, arguments.vocabulary) for _ in prompts]
    covered = [rng.random(36).astype(np.float32) for _ in prompts]
    steps = [[(start, start + 16) for start in range(0, arguments.tokens - 15, 16)] for _ in prompts]
    return vlm, prompts, responses, {"coverage": covered, "control": covered, "steps": steps}


def time_in_turn(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Run the calls in turn, `repeats` times after one warm-up; return seconds of CPU time for each."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if repeat:
                seconds[name].append(time.process_time() - start)
    return seconds


def generate(vlm: Any, prompts: list[Any], n_tokens: int) -> None:
    """Generate exactly `n_tokens` greedy tokens for each prompt in one batch."""
    vlm.model.generate(
        **vlm.collate(prompts, side="left"),
        max_new_tokens=n_tokens,
        min_new_tokens=n_tokens,
        do_sample=False,
        suppress_tokens=[vlm.image_token_id],
    )


def read_status(field: str) -> float:
    """Return a memory field of this process in MiB, from the Linux kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def measure_peak(arguments: argparse.Namespace, name: str, queue: Any) -> None:
    """Put the growth of peak resident memory, in MiB, of one replay into `queue`."""
    torch.set_num_threads(1)
    vlm, prompts, responses, measures = prepare(arguments)
    warm = {key: values[:1] for key, values in measures.items()} | {"steps": [[(0, 8)]]}
    replay_responses(vlm, prompts[:1], [responses[0][:8]], **warm)  # load the kernels before the baseline
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far was reached while importing: forget it
    before = read_status("VmRSS")
    if name == "without":
        read_tokens(vlm, prompts, responses)
    else:
        replay_responses(vlm, prompts, responses, token_budget=10**9, implementation=name, **measures)  # type: ignore[arg-type]
    queue.put(read_status("VmHWM") - before)


def read_peak(arguments: argparse.Namespace, name: str) -> float:
    """Return `measure_peak` of a fresh process."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measure_peak, args=(arguments, name, queue))
    process.start()
    peak = float(queue.get())
    process.join()
    return peak


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The cost of capture, as ratios.")
    parser.add_argument("--family", choices=("qwen3_vl", "glm4v"), default="qwen3_vl")
    defaults = {"tokens": 512, "batch": 4, "layers": 4, "width": 512, "vocabulary": 150, "repeats": 9}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    vlm, prompts, responses, measures = prepare(arguments)

    def replay(implementation: Any) -> Callable[[], object]:
        return lambda: replay_responses(
            vlm, prompts, responses, implementation=implementation, token_budget=10**9, **measures
        )

    def report(claim: str, above: float, below: float, unit: str) -> None:
        print(f"{claim}: {above / below:.3f}  ({above:.3g} / {below:.3g} {unit})", flush=True)

    calls: dict[str, Callable[[], object]] = {"without": lambda: read_tokens(vlm, prompts, responses)}
    seconds = time_in_turn(calls | {name: replay(name) for name in NAMES}, arguments.repeats)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    print(vars(arguments))
    for name in NAMES:
        paired = np.median(np.array(seconds[name]) / np.array(seconds["without"]))
        report(f"replay with {name} / without capture", float(paired) * median["without"], median["without"], "s")
    generated = time_in_turn({"generate": lambda: generate(vlm, prompts, arguments.tokens)}, 1)["generate"][0]
    report("replay with fused / generate", median["fused"], generated, "s")
    if sys.platform != "linux":
        print("peak memory: measured on Linux only")
        return
    peaks = {name: read_peak(arguments, name) for name in ("without", *NAMES)}
    for name in NAMES:
        report(f"peak memory of {name} / without capture", peaks[name], peaks["without"], "MiB")


if __name__ == "__main__":
    main()
