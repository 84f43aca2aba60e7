"""Which image tokens a response was read from: what its own tokens lose when a region of the picture is covered.

Why it exists: the evidence mass needs evidence boxes, no benchmark of the paper ships any, and where a model LOOKS must
not say where the evidence is. Here a correct response of an annotator model, another than the studied one, is
teacher-forced while regions of the picture are filled with its mean colour. In: a loaded VLM, a prompt, a response and
its spans. Out: a `Reading`: the drop that each image token causes, the smallest set of tokens that holds most of it,
and whether that set is needed and enough. Never: read the drop of the answer alone (given the chain it says nothing of
the picture), use the annotator's attention, or call the result evidence before a person accepted it.

With d(r, t) = log p(t | picture) - log p(t | picture without region r), over the tokens of reasoning and answer,
D(r) = sum_t max(d(r, t), 0) nats. Covering regions is Zeiler and Fergus's (2014); they watched the score of a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dontblink.attention.replay import TOO_LARGE, read_tokens
from dontblink.boxes.evidence import Grid, control_coverage
from dontblink.errors import NamedError
from dontblink.models.generate import item_generator, try_memory
from dontblink.models.spans import Spans
from dontblink.models.vlm import VLM, Prompt

Tokens = NDArray[np.bool_]  # [M] which image tokens, images in prompt order, row-major
GRIDS = 3  # of regions, shifted against each other by a third of a region


@dataclass(frozen=True)
class Occlusion:
    """How to cover: regions across the longer side of a picture, and when a token counts as evidence."""

    regions_across: int
    most_refined: int  # tokens that are covered alone, those of the greatest share of their regions' drops
    held_share: float  # of the sum of drops, that the evidence holds
    least_drop_nats: float  # of every token of the evidence
    needed_share: float  # of the whole picture's drop, that covering the evidence costs at least
    enough_share: float  # of it, that covering all but the evidence costs at most


@dataclass(frozen=True)
class Reading:
    """What one response was read from.

    Attributes
    ----------
    drop_nats : float32 [M], D of each image token: alone where it was refined, else its share of its regions' mean D
    evidence : bool [M], the tokens that together hold `held_share` of the sum of drops, none below `least_drop_nats`
    whole_nats, evidence_nats, rest_nats, control_nats
        D of the whole picture, of the evidence, of all but the evidence, of a random place of the evidence's shape
    n_passes : sequences that were run, the uncovered one among them
    """

    drop_nats: NDArray[np.float32]
    evidence: Tokens
    whole_nats: float
    evidence_nats: float
    rest_nats: float
    control_nats: float
    n_passes: int

    def find_flaw(self, how: Occlusion) -> str:
        """Return '' or why this reading says nothing: the evidence is empty, not needed, not enough; or nothing is."""
        if not self.evidence.any():
            return "no image token is read: none costs enough when it is covered"
        if not self.whole_nats > 0:
            return "the whole picture covered costs nothing, which a part of it does"
        needed, left = (part / self.whole_nats for part in (self.evidence_nats, self.rest_nats))
        if needed < how.needed_share:
            return f"covered, the evidence costs {needed:.0%} of the whole picture's drop, not {how.needed_share:.0%}"
        if left > how.enough_share:
            return f"alone, the evidence leaves {left:.0%} of the whole picture's drop, over {how.enough_share:.0%}"
        return ""


def tile_regions(grids: Sequence[Grid], regions_across: int) -> list[NDArray[np.int64]]:
    """Return `GRIDS` shifted coverings of the pictures by squares, int64 [M] each: the number of a token's region.

    A region is ceil(longer side / regions_across) image tokens wide, smaller at a border; shifts are whole tokens.
    Regions of one token have one covering: a shift would cover the same again.
    """
    sides = [-(-max(grid) // regions_across) for grid in grids]
    coverings = []
    for number in range(GRIDS if max(sides) > 1 else 1):
        regions, before = [], 0
        for (rows, columns), side in zip(grids, sides, strict=True):
            shift = round(number * side / GRIDS)
            down, right = ((np.arange(length) + shift) // side for length in (rows, columns))
            pairs = (down[:, None] * (columns + 1) + right[None, :]).ravel()
            regions.append(np.unique(pairs, return_inverse=True)[1].reshape(-1) + before)
            before = int(regions[-1].max()) + 1
        coverings.append(np.concatenate(regions))
    return coverings


def cover(prompt: Prompt, tokens: Tokens, grids: Sequence[Grid]) -> Prompt:
    """Return the prompt with the pixels of some image tokens replaced by the mean colour of their picture.

    Both families put the patches of a token side by side, and the channels of a patch first.
    """
    shown = prompt.inputs["pixel_values"].numpy()
    pixels = shown.copy().reshape(len(tokens), len(shown) // len(tokens), 3, -1)
    start = 0
    for rows, columns in grids:
        own = slice(start, start + rows * columns)
        mean = pixels[own].mean(axis=(0, 1, 3), dtype=np.float64).astype(np.float32)
        pixels[own][tokens[own]] = mean[:, None]
        start = own.stop
    return replace(prompt, inputs={**prompt.inputs, "pixel_values": torch.from_numpy(pixels.reshape(shown.shape))})


def read_evidence(
    vlm: VLM, prompt: Prompt, response: Sequence[int], spans: Spans, how: Occlusion, *, seed: int, token_budget: int
) -> Reading:
    """Return what a response was read from; `seed` places the control, `token_budget` bounds a batch.

    A batch that runs out of memory is halved, and those after it; NamedError if one sequence alone does not fit.
    """
    if not vlm.states_grid(prompt):
        raise NamedError(f"{vlm.name}: occlusion needs pictures cut into the patches of each token; draw boxes instead")
    grids = vlm.image_grid(prompt)
    spoken = np.zeros(len(response), bool)
    for begin, end in (spans.reasoning, spans.answer):
        spoken[begin:end] = True
    nothing = np.zeros(sum(rows * columns for rows, columns in grids), bool)
    counted, size = 0, max(token_budget // (len(prompt.ids) + len(response)), 1)

    def log_probabilities(covered: Sequence[Tokens]) -> list[NDArray[np.float32]]:
        nonlocal counted, size
        queue, read = list(covered), list[NDArray[np.float32]]()
        while queue:
            batch = [cover(prompt, tokens, grids) for tokens in queue[:size]]
            found = try_memory(read_tokens, vlm, batch, [response] * len(batch))
            if found is not None:
                read += [log_probability[spoken] for _, _, log_probability in found]
                counted, queue = counted + len(batch), queue[len(batch) :]
            elif len(batch) == 1:
                raise NamedError(f"item {prompt.item_id}: {TOO_LARGE}")
            else:
                size = (len(batch) + 1) // 2
        return read

    (uncovered,) = log_probabilities([nothing])

    def drops(covered: Sequence[Tokens]) -> NDArray[np.float64]:
        return np.array([np.maximum(uncovered - own, 0).sum(dtype=np.float64) for own in log_probabilities(covered)])

    coverings = tile_regions(grids, how.regions_across)
    drop = np.zeros(len(nothing))
    for region in coverings:
        area = np.bincount(region)
        drop += (drops([region == one for one in range(len(area))]) / area)[region] / len(coverings)
    if len(coverings) > 1:
        best = np.argsort(-drop, kind="stable")[: how.most_refined]
        drop[best] = drops([np.arange(len(nothing)) == token for token in best])
    evidence = choose_evidence(drop, how)
    control = control_coverage(evidence, grids, item_generator(seed, prompt.item_id)) > 0.5
    whole, own, rest, elsewhere = drops([~nothing, evidence, ~evidence, control]).tolist()
    return Reading(drop.astype(np.float32), evidence, whole, own, rest, elsewhere, counted)


def choose_evidence(drop_nats: NDArray[np.float64], how: Occlusion) -> Tokens:
    """Return the fewest tokens that hold `held_share` of the sum of drops, without those below `least_drop_nats`."""
    order = np.argsort(-drop_nats, kind="stable")
    held = np.cumsum(drop_nats[order])
    n_held = int(np.searchsorted(held, how.held_share * held[-1] * (1 - 1e-12))) + 1 if held[-1] > 0 else 0
    evidence = np.zeros(len(drop_nats), bool)
    evidence[order[:n_held]] = True
    return evidence & (drop_nats >= how.least_drop_nats)
