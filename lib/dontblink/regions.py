"""Which key of the attention belongs to which region, and whether a response can be replayed at all.

In: a prompt, response token ids, the evidence coverage of its image tokens, the control coverage, the steps. Out: the
`capture.Sample` that says what to record. Never: run a model, or repair an input in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dontblink.capture import MASS_COLUMNS, Sample
from dontblink.messages import NamedError

if TYPE_CHECKING:
    from dontblink.vlm import VLM, Prompt

Floats = NDArray[np.float32]
Steps = Sequence[tuple[int, int]]


class ReplayError(NamedError, ValueError):
    """A response that cannot be replayed; one line that names the item, what was found and what to do."""


def weigh_regions(
    is_image: NDArray[np.bool_], n_prompt: int, coverage: ArrayLike, control: ArrayLike
) -> NDArray[np.float32]:
    """Return float32 [keys, 6]: how much of each key belongs to each of `capture.MASS_COLUMNS`.

    The first five columns partition the keys (rows sum to 1). An image token that the boxes cover by c counts
    c as evidence and 1 - c as other image; key 0 is the sink alone; `control_box` overlaps the rest.
    """
    weights = np.zeros((len(is_image), len(MASS_COLUMNS)), dtype=np.float32)
    column = {name: weights[:, number] for number, name in enumerate(MASS_COLUMNS)}
    column["prompt"][:n_prompt] = ~is_image[:n_prompt]
    column["earlier_response"][n_prompt:] = 1
    column["evidence"][is_image] = coverage
    column["other_image"][is_image] = 1 - np.asarray(coverage, dtype=np.float32)
    column["control_box"][is_image] = control
    weights[0] = 0
    column["sink"][0] = 1
    return weights


def plan_sample(
    vlm: VLM,
    prompt: Prompt,
    response: Sequence[int] | NDArray[np.int64],
    coverage: Floats,
    control: Floats,
    steps: Steps,
) -> Sample:
    """Return what to record for one item; raise a one-line ReplayError if it cannot be replayed."""
    item, n_prompt, n_response = f"item {prompt.item_id}", len(prompt.ids), len(response)
    if n_response == 0:
        raise ReplayError(f"{item}: empty response; expected at least one token: quarantine the item")
    ids = np.asarray(response)
    wrong = np.flatnonzero((ids < 0) | (ids >= vlm.n_vocabulary) | (ids == vlm.image_token_id))
    if len(wrong):
        raise ReplayError(
            f"{item}: response token {wrong[0]} has id {ids[wrong[0]]}; expected 0..{vlm.n_vocabulary - 1} and "
            "no image placeholder: check the engine's tokenizer, or quarantine the item"
        )
    image_index = np.flatnonzero(np.asarray(prompt.ids) == vlm.image_token_id)
    for name, values in (("coverage", coverage), ("control", control)):
        if np.shape(values) != (len(image_index),):
            raise ReplayError(
                f"{item}: {name} of shape {np.shape(values)}; expected ({len(image_index)},), one per image "
                "token: compute it from image_grid(prompt)"
            )
        if not np.all((np.asarray(values) >= 0) & (np.asarray(values) <= 1)):
            raise ReplayError(f"{item}: {name} outside 0..1; expected shares of a token's area: recompute it")
    for number, (start, stop) in enumerate(steps):
        if not 0 <= start < stop <= n_response:
            raise ReplayError(
                f"{item}: step {number} is [{start}, {stop}); expected a non-empty range of its {n_response} "
                "tokens: segment the response again"
            )
    is_image = np.zeros(n_prompt + n_response, dtype=np.bool_)
    is_image[image_index] = True
    weights = weigh_regions(is_image, n_prompt, coverage, control)
    return Sample(weights, n_prompt - 1, n_response, image_index, tuple(steps))
