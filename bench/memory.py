"""How does memory grow with the length of a response? A replay against eager attention that keeps its matrices.

Claims checked for responses of 128, 256, 512, 1024 and 2048 tokens (bars in brackets): the peak memory of one eager
forward pass with `output_attentions` over the same ids grows as a power of the sequence length that tends to 2
[>= 1.8]. That of a replay, which measures every head, grows as a power of about 1, for each token has its own measures
[<= 1.1], and from the shortest to the longest response by little of what eager attention grows by [<= 0.02].

Flat it is not. The aim was "flat in response length where eager grows quadratically"; what a replay takes over the
loaded model grows linearly with the response, for activations and masses are kept for each token, a map for each step.
The bars hold it to that: no faster than linearly, and by a small part of eager's growth.

Run `OMP_NUM_THREADS=1 python bench/memory.py [--family glm4v] [--layers 32]`. The model is random, narrow and deep (32
layers of 4 heads), so that attention outweighs the rest; the largest run takes about 3 GB. Each peak is the growth of
resident memory over the loaded model in a fresh process. Linux only.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from capture import prepare, warm_up
from measure import (
    build_parser,
    can_measure_memory,
    fit_exponent,
    judge,
    measure_growth,
    read_arguments,
    run_alone,
    write_results,
)

from dontblink.attention.replay import replay_responses

LENGTHS = (128, 256, 512, 1024, 2048)
EAGER_BAR, REPLAY_BAR, SHARE_BAR = 1.8, 1.1, 0.02


def measure_replay(arguments: argparse.Namespace, length: int) -> tuple[int, float]:
    """Return the tokens of one sequence and the growth of peak memory, in MiB, of its replay with all measures."""
    arguments.tokens = length
    vlm, prompts, responses, measures = prepare(arguments)
    warm_up(vlm, prompts, responses, measures)
    n_tokens = len(prompts[0].ids) + length
    return n_tokens, measure_growth(lambda: replay_responses(vlm, prompts, responses, **measures))


def measure_eager(arguments: argparse.Namespace, length: int) -> tuple[int, float]:
    """Return the same of one eager forward pass that keeps the attention matrices."""
    arguments.tokens = length
    vlm, prompts, responses, _ = prepare(arguments)
    vlm.model.set_attn_implementation("eager")

    @torch.inference_mode()
    def forward(response: list[int]) -> None:
        vlm.model(**vlm.collate(prompts, [response]), use_cache=False, output_attentions=True, logits_to_keep=length)

    forward(responses[0][:8])  # loads the kernels
    return len(prompts[0].ids) + length, measure_growth(lambda: forward(responses[0]))


def main() -> None:
    """Measure, print and write."""
    assert __doc__
    parser = build_parser(__doc__, layers=32, width=64, vocabulary=150, repeats=3)
    parser.add_argument("--family", choices=("qwen3_vl", "glm4v"), default="qwen3_vl")
    arguments = read_arguments(parser)
    if not can_measure_memory():
        return
    one = argparse.Namespace(**vars(arguments), batch=1, implementation="split")
    peaks: dict[str, list[list[float]]] = {"replay": [], "eager": []}  # by repeat and length, MiB
    for _ in range(arguments.repeats):
        for name, target in (("replay", measure_replay), ("eager", measure_eager)):
            sizes, row = zip(*(run_alone(target, one, length) for length in LENGTHS), strict=True)
            peaks[name].append(list(row))
            print(f"     {name}, tokens and MiB:", *(f"{n}: {peak:.4g}" for n, peak in zip(sizes, row, strict=True)))
    replay, eager = np.array(peaks["replay"]), np.array(peaks["eager"])
    span = f"responses of {LENGTHS[0]} to {LENGTHS[-1]} tokens"
    results = []
    for name, found, bar in (("replay", replay, {"at_most": REPLAY_BAR}), ("eager", eager, {"at_least": EAGER_BAR})):
        detail = " ".join(f"{peak:.3g}" for peak in np.median(found, axis=0)) + " MiB"
        claim = {"replay": "a replay", "eager": "eager `output_attentions`"}[name]
        exponents = [fit_exponent(sizes, row) for row in found]
        results.append(
            judge(f"growth exponent of the peak of {claim}, {span}", exponents, unit="exponent", detail=detail, **bar)
        )
    growth = (replay[:, -1] - replay[:, 0]) / (eager[:, -1] - eager[:, 0])
    results.append(judge(f"what a replay's peak grows by / what eager's does, {span}", growth, at_most=SHARE_BAR))
    claim = f"peak memory of eager / replay, {LENGTHS[-1]} tokens"
    results.append(judge(claim, eager[:, -1] / replay[:, -1], detail=f"{eager[0, -1]:.4g} / {replay[0, -1]:.3g} MiB"))
    write_results(__file__, results, parser, arguments)


if __name__ == "__main__":
    main()
