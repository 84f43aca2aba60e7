"""What does an intervention cost? CPU time of `generate` under one / of `generate` alone, the same number of tokens.

Claims checked (bar <= 1.3): all image tokens blocked, favoured by a bias, or replaced by those of another picture, for
every row that predicts a token; with the shipped checkpoints of the testbed on items of its benchmarks in a batch of 64
(padded, so that there is a mask), and at width 512 and batch 1 and 8, a picture of 256 tokens and both families. The
pass over the other picture, which one has once for many interventions, is not timed.

Run `OMP_NUM_THREADS=1 python bench/intervene.py [--width 512] [--layers 8] [--tokens 96]`. Weights at width 512 are
random, because cost does not depend on them. Plain and changed runs are timed in turn, a ratio is taken within a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from batches import draw_items
from measure import Result, build_parser, judge_pair, load_tiny_models, read_arguments, time_in_turn, write_results

from dontblink import params, paths
from dontblink.attention.intervention import (
    Action,
    Bias,
    Block,
    Intervention,
    Replace,
    collect,
    intervene,
    plan_interventions,
)
from dontblink.models.checkpoints import load_vlm
from dontblink.models.vlm import VLM, Prompt

BAR = 1.3
BATCHES, CHECKPOINTS, TESTBED_BATCH = (1, 8), ("qwen3vl-tiny-s", "glm4v-tiny"), 64
GRID = (16, 16)


def build_calls(vlm: VLM, prompts: Sequence[Prompt], n_tokens: int) -> dict[str, Callable[[], object]]:
    """Return calls that generate `n_tokens` from a batch: as it is, and under each intervention."""
    inputs = vlm.collate(prompts, side="left")
    other = inputs | {"pixel_values": inputs["pixel_values"].flip(0)}  # of the same grid
    with torch.inference_mode(), collect(vlm.model) as donor:
        vlm.model(**other, use_cache=False)

    def generate(action: Action | None) -> Callable[[], object]:
        planned: list[list[Intervention]] = [
            [Intervention(prompt.find_image(vlm.image_token_id)[0], action, len(prompt.ids) - 1)] if action else []
            for prompt in prompts
        ]
        plan = plan_interventions([len(prompt.ids) for prompt in prompts], planned, "left")

        def call() -> None:
            with torch.inference_mode(), intervene(vlm.model, plan):
                vlm.model.generate(
                    **inputs, max_new_tokens=n_tokens, min_new_tokens=n_tokens, do_sample=False,
                    suppress_tokens=[*vlm.suppressed_ids],
                )  # fmt: skip

        return call

    actions = {"plain": None, "blocked": Block(), "favoured": Bias(1.0), "replaced": Replace(donor)}
    return {name: generate(action) for name, action in actions.items()}


def measure_batch(vlm: VLM, prompts: Sequence[Prompt], where: str, arguments: Any) -> list[Result]:
    """Return the ratios of one batch."""
    seconds = time_in_turn(build_calls(vlm, prompts, arguments.tokens), arguments.repeats)
    plain = seconds.pop("plain")
    claim = "time of generation with image tokens {} / plain, {}, batch {}"
    return [
        judge_pair(claim.format(name, where, len(prompts)), own, plain, at_most=BAR) for name, own in seconds.items()
    ]


def measure_testbed(arguments: Any) -> list[Result]:
    """Return the ratios of the shipped checkpoints on items of their benchmarks."""
    _, sections = params.load(paths.params_file("testbed"))
    items, results = draw_items(TESTBED_BATCH, sections["testbed"]), list[Result]()
    for name in CHECKPOINTS:
        vlm = load_vlm(paths.ROOT / "models" / "testbed" / name)
        results += measure_batch(vlm, [vlm.encode(item) for item in items], name, arguments)
    return results


def measure_wide(arguments: Any) -> list[Result]:
    """Return the ratios at the width of real heads, with random weights."""
    tiny, results = load_tiny_models(), list[Result]()
    sizes = {"width": arguments.width, "n_layers": arguments.layers, "n_vocabulary": arguments.vocabulary}
    for family in tiny.FAMILY_NAMES:
        vlm, rng = tiny.build_vlm(family, **sizes), np.random.default_rng(0)
        prompts = [tiny.draw_prompt(rng, f"item {row}", grids=[GRID], n_text=24) for row in range(max(BATCHES))]
        for n in BATCHES:
            results += measure_batch(vlm, prompts[:n], f"{family} of width {arguments.width}", arguments)
    return results


def main() -> None:
    """Measure, print and write."""
    assert __doc__
    parser = build_parser(__doc__, width=512, layers=8, tokens=96, vocabulary=2048, repeats=5)
    arguments = read_arguments(parser)
    write_results(__file__, [*measure_testbed(arguments), *measure_wide(arguments)], parser, arguments)


if __name__ == "__main__":
    main()
