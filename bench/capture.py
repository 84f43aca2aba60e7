"""What does capture cost? Ratios of CPU time: capture / replay and replay / generate; and of peak memory.

Claims checked (bars in brackets), at the head widths of real models: a replay with capture takes <= 1.05 x the replay
without it; it takes <= 0.25 x the greedy generation of the same responses, at 512 tokens and more; its peak memory is
<= 1.1 x that of the replay without capture. Besides, without a bar: the first ratio at the testbed's width, where heads
are four times narrower, attention is a larger part of everything and the ratio is at its worst.

Run `OMP_NUM_THREADS=1 python bench/capture.py [--family glm4v] [--implementation generic] [--tokens 512]`.
A head is a quarter of the width: 128 values by default, as in Qwen3-VL and GLM-4V. Weights are random: cost does not
depend on them. Runs are timed in turn; a peak is the growth of resident memory over the loaded model in a process of
its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from measure import (
    build_parser,
    can_measure_memory,
    judge_pair,
    load_tiny_models,
    measure_growth,
    read_arguments,
    run_alone,
    time_in_turn,
    write_results,
)

from dontblink.attention.replay import read_tokens, replay_responses

CAPTURE_BAR, GENERATE_BAR, PEAK_BAR = 1.05, 0.25, 1.1
TESTBED_WIDTH = 128


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
    measures = {"coverage": covered, "control": covered, "steps": steps, "token_budget": 10**9}
    return vlm, prompts, responses, measures | {"implementation": arguments.implementation}


def generate(vlm: Any, prompts: list[Any], n_tokens: int) -> None:
    """Generate exactly `n_tokens` greedy tokens for each prompt in one batch."""
    vlm.model.generate(
        **vlm.collate(prompts, side="left"),
        max_new_tokens=n_tokens,
        min_new_tokens=n_tokens,
        do_sample=False,
        suppress_tokens=[vlm.image_token_id],
    )


def warm_up(vlm: Any, prompts: list[Any], responses: list[list[int]], measures: dict[str, Any]) -> None:
    """Replay 8 tokens of the first response, which loads the kernels."""
    first = {key: measures[key][:1] for key in ("coverage", "control")} | {"steps": [[(0, 8)]]}
    replay_responses(vlm, prompts[:1], [responses[0][:8]], **measures | first)


def build_calls(
    vlm: Any, prompts: list[Any], responses: list[list[int]], measures: dict[str, Any]
) -> dict[str, Callable[[], object]]:
    """Return the two replays that are compared: without and with capture."""
    return {
        "without": lambda: read_tokens(vlm, prompts, responses),
        "capture": lambda: replay_responses(vlm, prompts, responses, **measures),
    }


def measure_peak(prepare: Callable[..., Any], arguments: argparse.Namespace, name: str) -> float:
    """Return the growth of peak resident memory, in MiB, of one of the two replays in this process."""
    prepared = prepare(arguments)
    warm_up(*prepared)
    return measure_growth(build_calls(*prepared)[name])


def time_replays(arguments: argparse.Namespace, repeats: int) -> dict[str, list[float]]:
    """Return CPU seconds of replays without and with capture, in pairs."""
    return time_in_turn(build_calls(*prepare(arguments)), repeats)


def main() -> None:
    """Measure, print and write."""
    assert __doc__
    defaults = {"tokens": 512, "batch": 4, "layers": 4, "width": 512, "vocabulary": 150, "repeats": 9, "generations": 3}
    parser = build_parser(__doc__, **defaults)
    parser.add_argument("--family", choices=("qwen3_vl", "glm4v"), default="qwen3_vl")
    parser.add_argument("--implementation", choices=("split", "generic"), default="split")
    arguments = read_arguments(parser)
    where = f"{arguments.tokens} tokens, heads of {arguments.width // 4} values"
    seconds = time_replays(arguments, arguments.repeats)
    claim = "time of a replay with capture / without"
    results = [judge_pair(f"{claim}, {where}", seconds["capture"], seconds["without"], at_most=CAPTURE_BAR)]

    vlm, prompts, responses, measures = prepare(arguments)
    calls = {
        "capture": build_calls(vlm, prompts, responses, measures)["capture"],
        "generate": lambda: generate(vlm, prompts, arguments.tokens),
    }
    seconds = time_in_turn(calls, arguments.generations, warm_up=False)
    bar = GENERATE_BAR if arguments.tokens >= 512 else None
    again = f"time of a replay with capture / generation, {where}"
    results.append(judge_pair(again, seconds["capture"], seconds["generate"], at_most=bar))

    if can_measure_memory():
        names = ("capture", "without")
        peaks = [[run_alone(measure_peak, prepare, arguments, n) for n in names] for _ in range(arguments.generations)]
        with_capture, without = zip(*peaks, strict=True)
        peak = f"peak memory of a replay with capture / without, {where}"
        results.append(judge_pair(peak, with_capture, without, unit="MiB", at_most=PEAK_BAR))

    if arguments.width != TESTBED_WIDTH:
        small = argparse.Namespace(**vars(arguments) | {"width": TESTBED_WIDTH})
        seconds = time_replays(small, arguments.repeats)
        where = f"{arguments.tokens} tokens, the testbed's heads of {TESTBED_WIDTH // 4} values"
        results.append(judge_pair(f"{claim}, {where}", seconds["capture"], seconds["without"]))
    write_results(__file__, results, parser, arguments)


if __name__ == "__main__":
    main()
