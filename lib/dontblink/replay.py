"""Responses to traces: one teacher-forced pass over prompt + response, whatever engine wrote the response.

Why it exists: entropies and attention of a whole response come from ONE forward pass, about as costly as its
prefill, instead of from a slow token-by-token run that stores attention matrices.

In: a loaded VLM, prompts, response token ids (never text), and per item the evidence coverage of its image
tokens, the matched control coverage, and the reasoning steps. Out: one `Trace` per item, in input order.
The row that predicts response token j is P - 1 + j, P the prompt length in tokens.

Never do here: pad on the left or pass a mask (right padding with `attention_mask=None` is the causal fast
path), let the model infer 1-D positions, hold [tokens, vocabulary] logits of a response, or re-tokenise text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from dontblink.capture import MASS_COLUMNS, Implementation, Sample, plan_recording, record

if TYPE_CHECKING:
    from dontblink.vlm import VLM, Prompt

Floats = NDArray[np.float32]
Steps = Sequence[tuple[int, int]]
HEAD_ROWS = 64  # rows of the vocabulary head at a time: bounds memory, changes no result


class ReplayError(ValueError):
    """A response that cannot be replayed; one line that names the item, what was found and what to do."""


@dataclass(frozen=True)
class Trace:
    """The measures of one response of T tokens (its end token included), S steps, M image tokens.

    Attributes
    ----------
    item_id, model : str
    entropy_nats : float32 [T]
        H[t] = -sum_v p(v) log p(v) of the distribution that produced token t, at temperature 1.
    log_probability_nats : float32 [T]
        log p(token t).
    mass : float32 [L, H, T, 6]
        Attention mass on `capture.MASS_COLUMNS`, per layer and head; the first five sum to 1.
    step_map : float32 [S, L, H, M]
        Attention to each image token (images in order, row-major), averaged over the tokens of a step.
    """

    item_id: str
    model: str
    entropy_nats: Floats
    log_probability_nats: Floats
    mass: Floats
    step_map: Floats


def replay_responses(
    vlm: VLM,
    prompts: Sequence[Prompt],
    responses: Sequence[Sequence[int] | NDArray[np.int64]],
    *,
    coverage: Sequence[Floats],
    control: Sequence[Floats],
    steps: Sequence[Steps],
    implementation: Implementation = "fused",
    token_budget: int = 8192,
    progress: Callable[[int], object] | None = None,
) -> list[Trace]:
    """Replay `responses` and return their traces in input order.

    Parameters
    ----------
    vlm, prompts : VLM, Prompts
        `vlm.collate(prompts, responses, side="right")` builds the padded batch with its 3-D positions.
    responses : token ids, each [T] with T >= 1
    coverage, control : float32 [M] each, in 0..1
        Share of each image token inside the evidence boxes, and inside the matched control box.
    steps : half-open ranges of response tokens, each not empty
    implementation : "fused" or "chunk" (the cross-check)
    token_budget : int
        Upper bound, in tokens, of batch size x longest sequence; a longer item runs alone.
    progress : callable, optional
        Called with the number of items that a batch finished, e.g. `tqdm(total=n).update`.

    Raises
    ------
    ReplayError
        Before any computation, if a response is empty, holds an id outside the vocabulary or an image
        placeholder, or if coverage, control or steps do not fit it; after it, if a measure is not finite.
    """
    rows = list(zip(prompts, responses, coverage, control, steps, strict=True))
    samples = [_check_sample(vlm, *row) for row in rows]
    lengths = [len(prompt.ids) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    traces: dict[int, Trace] = {}
    for batch in batch_by_length(lengths, token_budget):
        chosen = [prompts[row] for row in batch]
        ids = [[int(token) for token in responses[row]] for row in batch]
        plan = plan_recording([samples[row] for row in batch], max(lengths[row] for row in batch))
        with record(vlm.model, plan, implementation) as recording:
            tokens = read_tokens(vlm, chosen, ids)
        for place, row in enumerate(batch):
            (entropy, log_probability), (mass, step_map) = tokens[place], recording.read(place)
            item_id = chosen[place].item_id
            traces[row] = _check_finite(Trace(item_id, vlm.name, entropy, log_probability, mass, step_map))
        if progress is not None:
            progress(len(batch))
    return [traces[row] for row in range(len(prompts))]


def batch_by_length(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Yield index lists of len x longest <= `token_budget`, longest first: memory runs out early or never."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > token_budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@torch.inference_mode()
def read_tokens(vlm: VLM, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]]) -> list[tuple[Floats, Floats]]:
    """Run the body once on a right-padded batch; return each response's (entropy, log probability), nats [T].

    The vocabulary head sees 64 rows at a time, and only rows that predict a response token.
    """
    inputs = vlm.collate(prompts, responses, side="right")
    hidden = vlm.model.model(**inputs, use_cache=False).last_hidden_state
    rows = [
        hidden[row, len(prompt.ids) - 1 : len(prompt.ids) - 1 + len(response)]
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
    ]
    predicting = torch.cat(rows)
    targets = torch.tensor([token for response in responses for token in response], device=hidden.device)
    entropy, log_probability = [], []
    for top in range(0, len(targets), HEAD_ROWS):
        logs = vlm.model.lm_head(predicting[top : top + HEAD_ROWS]).float().log_softmax(-1)
        entropy.append(-(logs.exp() * logs).sum(-1).cpu())
        emitted = targets[top : top + HEAD_ROWS, None].to(logs.device)
        log_probability.append(logs.gather(-1, emitted)[:, 0].cpu())
    ends = np.cumsum([len(response) for response in responses])[:-1]
    parts = (np.split(torch.cat(values).numpy(), ends) for values in (entropy, log_probability))
    return list(zip(*parts, strict=True))


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


def _check_sample(
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
    n_vocabulary = vlm.model.get_input_embeddings().num_embeddings
    wrong = np.flatnonzero((ids < 0) | (ids >= n_vocabulary) | (ids == vlm.image_token_id))
    if len(wrong):
        raise ReplayError(
            f"{item}: response token {wrong[0]} has id {ids[wrong[0]]}; expected 0..{n_vocabulary - 1} and "
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


def _check_finite(trace: Trace) -> Trace:
    """Return `trace`; raise ReplayError if a broken checkpoint or a narrow dtype made NaN or inf."""
    for name in ("entropy_nats", "log_probability_nats", "mass", "step_map"):
        if not np.isfinite(getattr(trace, name)).all():
            raise ReplayError(f"item {trace.item_id}: {name} is not finite; check the checkpoint or use a wider dtype")
    return trace
