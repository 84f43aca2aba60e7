"""Responses of tiny models that may be changed: three cases behind prompts of one grid, with another picture each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tiny_models import EOS, VLM, build_vlm, draw_prompt, repaint

from dontblink.attention.conditions import Case
from dontblink.attention.traces import Placed
from dontblink.models.generate import Sampling, generate_batch
from dontblink.models.spans import Spans

HOW: dict[str, Any] = {"budget": 10_000, "seed": 3}
N_TOKENS = 16
SPANS = Spans((1, 12), (13, 15), ((1, 6), (6, 12)), True)  # token 12 ends the reasoning


def build(family: str) -> VLM:
    """Return a tiny model that ends where its own generation does."""
    return replace(build_vlm(family), eos_ids=(EOS,))


def place(n_tokens: int, evidence: Sequence[int], control: Sequence[int]) -> Placed:
    """Return where the evidence is: its first token is covered in part only."""
    shares = np.zeros((2, n_tokens), np.float32)
    shares[0, evidence], shares[1, control] = 1, 1
    shares[0, evidence[0]] = 0.25
    return Placed(shares[0], shares[1], ((3, 4),), (shares[0], shares[1]))


def make_cases(vlm: VLM) -> list[Case]:
    """Return three responses, greedily written, behind prompts of unequal length with one grid of 3 x 4 tokens."""
    rng, cases = np.random.default_rng(4), list[Case]()
    while len(cases) < 3:
        prompt = draw_prompt(rng, "abc"[len(cases)], n_text=(3, 15, 7)[len(cases)])
        ids = tuple(generate_batch(vlm, [prompt], Sampling(N_TOKENS))[0])
        if len(ids) == N_TOKENS and EOS not in ids:
            image, other = prompt.find_image(vlm.image_token_id)[0], repaint(prompt, len(cases))
            cases.append(Case(prompt, ids, SPANS, place(12, [1, 2, 5], [8, 9, 10]), other, image[[0, 7]]))
    return cases
