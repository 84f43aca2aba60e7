"""Responses replayed: one teacher-forced pass over prompt + response, whatever engine wrote the response.

Why it exists: entropies and attention of a whole response come from ONE forward pass, about as costly as its prefill,
instead of from a slow token-by-token run that stores attention matrices. Which key belongs to which region is decided
here, and whether a response can be replayed at all. In: a loaded VLM, prompts, response token ids (never text), and per
item the evidence coverage of its image tokens, the matched control coverage, the reasoning and its steps. Out: the
`Measures` of each item, of every head or summed over sets of heads (a thousandth of the size: what a study stores). The
row that predicts response token j is P - 1 + j, P the prompt length in tokens. Never: pad on the left or pass a mask
(right padding with `attention_mask=None` is the causal fast path), let the model infer 1-D positions, hold [tokens,
vocabulary] logits of a response, re-tokenise text, or repair an input in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from dontblink.attention.capture import Implementation, RecordingPlan, Sample, plan_recording, record, sum_heads
from dontblink.errors import NamedError
from dontblink.models.generate import check_ids, try_memory

if TYPE_CHECKING:
    from dontblink.models.vlm import VLM, Prompt

Floats = NDArray[np.float32]
Found = TypeVar("Found", bound="Measures")
Span = tuple[int, int]

# All but the control box are a partition of what a row looks at; it overlaps them. schema.REGIONS, which names the
# columns of the tables alike, is not imported here: a new column of a table must not make every stored trace out of
# date. Image tokens that hold no pixel, as those that end the rows of a tile do, are neither evidence nor other image;
# what a model's learned sinks take is no key's, see `capture`.
REGIONS = (
    "evidence", "other_image", "prompt", "earlier_response", "sink", "control_box", "blank_image", "learned_sink",
)  # fmt: skip
TOO_LARGE = "does not fit into the accelerator's memory alone; lower the image size or the dtype"
HEAD_ROWS = 64  # rows of the vocabulary head at a time: bounds memory, changes no result
# Most probable tokens of the truncated entropy: what secondary sources give as the paper's own definition, and as many
# log probabilities as a serving engine commonly returns, so that it can be had without a replay.
SUPPORT = 20


@dataclass(frozen=True)
class Measures:
    """The measures of one response of T tokens (its end token included), S steps, M image tokens.

    Attributes
    ----------
    entropy_nats : float32 [T], H[t] = -sum_v p(v) log p(v) of the distribution that produced token t, at temperature 1
    top20_entropy_nats : float32 [T]
        Entropy of the same distribution renormalised over its `SUPPORT` most probable tokens, or over all of a smaller
        vocabulary. A tie at the last of them is a choice between equal values: the entropy does not depend on it.
    log_probability_nats : float32 [T], log p(token t)
    mass : float32 [L, H, T, 8], or [G, T, 8] over G sets of heads
        Attention mass on `REGIONS`; without the control box it sums to 1.
    step_map : float32 [S, L, H, M], or [S, G, M]
        Attention to each image token (images in order, row-major), averaged over the tokens of a step.
    head_mass : float32 [L, H, 2]
        Mean mass on evidence and on other image over the reasoning, for every head; zeros without a reasoning.
    """

    item_id: str
    model: str
    entropy_nats: Floats
    top20_entropy_nats: Floats
    log_probability_nats: Floats
    mass: Floats
    step_map: Floats
    head_mass: Floats


def weigh_regions(
    is_image: NDArray[np.bool_], n_prompt: int, coverage: ArrayLike, control: ArrayLike,
    blank_index: ArrayLike = (),
) -> NDArray[np.float32]:  # fmt: skip
    """Return float32 [keys, 8]: how much of each key belongs to each of `REGIONS`.

    All columns but `control_box`, which overlaps them, partition the keys (rows sum to 1). An image token that the
    boxes cover by c counts c as evidence and 1 - c as other image; key 0 is the sink alone.
    """
    blanks = np.asarray(blank_index, dtype=np.int64)
    weights = np.zeros((len(is_image), len(REGIONS)), dtype=np.float32)
    column = {name: weights[:, number] for number, name in enumerate(REGIONS)}
    column["prompt"][:n_prompt] = ~is_image[:n_prompt]
    column["earlier_response"][n_prompt:] = 1
    column["evidence"][is_image] = coverage
    column["other_image"][is_image] = 1 - np.asarray(coverage, dtype=np.float32)
    column["control_box"][is_image] = control
    column["prompt"][blanks], column["blank_image"][blanks] = 0, 1
    weights[0] = 0
    column["sink"][0] = 1
    return weights


def plan_sample(
    vlm: VLM, prompt: Prompt, response: Sequence[int], coverage: Floats, control: Floats, steps: Sequence[Span]
) -> Sample:
    """Return what to record for one item; raise a one-line NamedError if it cannot be replayed."""
    item, n_prompt, n_response = f"item {prompt.item_id}", len(prompt.ids), len(response)
    if not n_response:
        raise NamedError(f"{item}: empty response; expected at least one token: quarantine the item")
    check_ids(vlm, prompt.item_id, response)
    image_index, blank_index = prompt.find_image(vlm.image_token_id)
    for name, values in (("coverage", coverage), ("control", control)):
        found = np.asarray(values)
        if found.shape != image_index.shape or not np.all((found >= 0) & (found <= 1)):
            raise NamedError(
                f"{item}: {name} of shape {found.shape}, {found.min(initial=1)} to {found.max(initial=0)}; expected a "
                f"share of each of {len(image_index)} image tokens, 0 to 1: compute it from the prompt's own grid"
            )
    for number, (start, stop) in enumerate(steps):
        if not 0 <= start < stop <= n_response:
            expected = f"expected a non-empty range of its {n_response} tokens: segment the response again"
            raise NamedError(f"{item}: step {number} is [{start}, {stop}); {expected}")
    is_image = np.zeros(n_prompt + n_response, dtype=np.bool_)
    is_image[image_index] = True
    weights = weigh_regions(is_image, n_prompt, coverage, control, blank_index)
    return Sample(weights, n_prompt - 1, n_response, image_index, tuple(steps))


def replay_responses(
    vlm: VLM, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]], *, coverage: Sequence[Floats],
    control: Sequence[Floats], steps: Sequence[Sequence[Span]], reasoning: Sequence[Span] | None = None,
    head_sets: Floats | None = None, implementation: Implementation = "split", token_budget: int = 8192,
    quarantine: Callable[[str, str], None] | None = None, lowered: Callable[[int], None] | None = None,
) -> list[Measures]:  # fmt: skip
    """Replay `responses` and return their measures, in input order.

    Batches are run longest first; where one runs out of memory, it and the rest go on with half as many tokens at a
    time. Memory holds the measures of every head for one batch at a time where there are `head_sets`, else for all
    items.

    Parameters
    ----------
    responses : token ids, each [T] with T >= 1
    coverage, control : float32 [M] each, share of each image token inside the evidence boxes and the control box
    steps : half-open ranges of response tokens, each not empty
    reasoning : half-open range of response tokens per item, for `head_mass`; by default the whole response
    head_sets : float32 [G, L, H], weights of every head in a set, G may be 0; by default every head is kept
    implementation : "split" or "generic" (the cross-check)
    token_budget : upper bound, in tokens, of batch size x longest sequence; a longer item runs alone
    quarantine : called with (item id, reason) for an item that does not fit into the accelerator's memory alone or
        whose measures are not finite; it is left out then. By default that is an error.

    lowered : called with the new budget where memory ran out: the next call need not find it again

    Raises
    ------
    NamedError
        Before any computation, if a response is empty or holds an impossible id, or if coverage, control or steps do
        not fit it; after it, for what `quarantine` would take.
    """
    samples = [plan_sample(vlm, *row) for row in zip(prompts, responses, coverage, control, steps, strict=True)]
    lengths = [len(prompt.ids) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    kinds = [vlm.kind(prompt) for prompt in prompts]
    found: dict[int, Measures] = {}
    queue = list(batch_by_length(lengths, token_budget, kinds))
    while queue:
        batch = queue.pop(0)
        longest = max(lengths[row] for row in batch)
        ids = [[int(token) for token in responses[row]] for row in batch]
        plan = plan_recording([samples[row] for row in batch], longest, head_sets)
        measured = try_memory(read_batch, vlm, [prompts[row] for row in batch], ids, plan, implementation)
        if measured is None:
            # what did not fit here will not fit further on: the rest is batched anew, by half of what was tried
            token_budget = min(token_budget, longest * ((len(batch) + 1) // 2))
            again = batch if len(batch) > 1 else []
            if lowered:
                lowered(token_budget)
            left = sorted(row for part in (again, *queue) for row in part)
            own = [lengths[row] for row in left], token_budget, [kinds[row] for row in left]
            queue = [[left[n] for n in part] for part in batch_by_length(*own)]
            if again:
                continue
        for place, row in enumerate(batch):
            reason = TOO_LARGE if measured is None else find_flaw(measured[place])
            if measured is not None and not reason:
                span = (0, len(responses[row])) if reasoning is None else reasoning[row]
                found[row] = condense(measured[place], span, head_sets)
            elif quarantine is None:
                raise NamedError(f"item {prompts[row].item_id}: {reason}")
            else:
                quarantine(prompts[row].item_id, reason)
    return [found[row] for row in sorted(found)]


def condense(measures: Measures, reasoning: Span, head_sets: Floats | None) -> Measures:
    """Return the measures with the mean looks of every head over the reasoning, and masses summed over each set."""
    begin, end = reasoning
    mass, head_mass = measures.mass, measures.head_mass
    if end > begin:
        head_mass = mass[:, :, begin:end, :2].mean(axis=2, dtype=np.float64).astype(np.float32)
    if head_sets is not None:
        mass = average_mass(mass, head_sets)
    return replace(measures, mass=mass, head_mass=head_mass)


def average_mass(mass: Floats, head_sets: Floats) -> Floats:
    """Return masses [L, H, T, 6] summed over each set of heads, [G, T, 6]."""
    n_layers, n_heads, n_tokens, n_regions = mass.shape
    weights = head_sets.reshape(len(head_sets), n_layers * n_heads)
    return (weights @ mass.reshape(n_layers * n_heads, -1)).reshape(len(weights), n_tokens, n_regions)


def average_heads(measures: Found, head_sets: Floats) -> Found:
    """Return measures of every head averaged over sets of heads: the bits that a replay over these sets gives."""
    layers = zip(head_sets.transpose(1, 0, 2).tolist(), measures.step_map.transpose(1, 2, 0, 3), strict=True)
    maps = sum(np.stack(sum_heads(weights, heads)) for weights, heads in layers)
    return replace(measures, mass=average_mass(measures.mass, head_sets), step_map=np.swapaxes(maps, 0, 1).copy())


def read_batch(
    vlm: VLM, prompts: Sequence[Prompt], ids: Sequence[Sequence[int]], plan: RecordingPlan,
    implementation: Implementation,
) -> list[Measures]:  # fmt: skip
    """Return the measures of each sequence of a batch, `head_mass` still zero."""
    with record(vlm.model, plan, implementation) as recording:
        tokens = read_tokens(vlm, prompts, ids)
    found = []
    for place, (prompt, (exact, truncated, log_probability)) in enumerate(zip(prompts, tokens, strict=True)):
        mass, step_map = recording.read(place)
        looks = np.zeros((*mass.shape[:2], 2), np.float32)
        entropies = exact, truncated
        found.append(Measures(prompt.item_id, vlm.name, *entropies, log_probability, mass, step_map, looks))
    return found


def batch_by_length(
    lengths: Sequence[int], token_budget: int, kinds: Sequence[Hashable] | None = None
) -> Iterator[list[int]]:
    """Yield index lists of one kind and len x longest <= `token_budget`, longest first: memory runs out early or never.

    Of several kinds of prompts, which cannot share a batch, the one with the longest comes first, and whole.
    """
    own = kinds or [None] * len(lengths)
    longest = {kind: max(length for length, of in zip(lengths, own, strict=True) if of == kind) for kind in set(own)}
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-longest[own[row]], hash(own[row]), -lengths[row])):
        is_full = batch and (len(batch) + 1) * lengths[batch[0]] > token_budget
        if batch and (is_full or own[row] != own[batch[0]]):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


@torch.inference_mode()
def read_tokens(
    vlm: VLM, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]]
) -> list[tuple[Floats, Floats, Floats]]:
    """Run the body once on a right-padded batch; return each response's entropies and log probability, in nats, [T].

    The entropies are the exact one and that of the `SUPPORT` most probable tokens, see `Measures`.

    The vocabulary head sees 64 rows at a time, and only rows that predict a response token.
    """
    hidden, read_logits = run_body(vlm.model, vlm.collate(prompts, responses, side="right"))
    rows = [
        hidden[row, len(prompt.ids) - 1 : len(prompt.ids) - 1 + len(response)]
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
    ]
    predicting = torch.cat(rows)
    targets = torch.tensor([token for response in responses for token in response], device=hidden.device)
    exact, truncated, log_probability = [], [], []
    for top in range(0, len(targets), HEAD_ROWS):
        logs = read_logits(predicting[top : top + HEAD_ROWS]).float().log_softmax(-1)
        exact.append(measure_entropy(logs).cpu())
        truncated.append(measure_entropy(logs.topk(min(SUPPORT, logs.shape[-1])).values.log_softmax(-1)).cpu())
        emitted = targets[top : top + HEAD_ROWS, None].to(logs.device)
        log_probability.append(logs.gather(-1, emitted)[:, 0].cpu())
    ends = np.cumsum([len(response) for response in responses])[:-1]
    parts = (np.split(torch.cat(values).numpy(), ends) for values in (exact, truncated, log_probability))
    return list(zip(*parts, strict=True))


def run_body(
    model: Any, inputs: Mapping[str, Any]
) -> tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]:
    """Run a model on a batch; return its last hidden states [B, S, D], and what makes logits [n, V] of some [n, D].

    The logits are the model's own: its forward runs again on these rows alone, its body replaced by what it returned.
    So whatever a type does behind its vocabulary head, such as a soft cap, is done. Logits of all rows are never held.
    NamedError where it runs more than once.
    """
    body, held = model.base_model if model.base_model is not model else model.get_decoder(), list[Any]()
    while hasattr(body, "lm_head"):  # a whole language model inside: its head belongs to the logits
        body = body.model

    def keep_hidden(_: Any, __: Any, output: Any) -> Any:
        held.append(copy(output))
        output.last_hidden_state = output.last_hidden_state[:, -1:]
        return output

    hook = body.register_forward_hook(keep_hidden)
    try:
        model(**inputs, use_cache=False)
    finally:
        hook.remove()
    if len(held) != 1:
        raise NamedError(f"{type(model).__name__}: its body ran {len(held)} times in a pass, not once; not measured")
    (output,) = held
    first = inputs["input_ids"][:1, :1]

    def read_logits(rows: torch.Tensor) -> torch.Tensor:
        own, output.last_hidden_state = vars(body).get("forward"), rows[None]
        body.forward = lambda *_, **__: copy(output)
        try:
            return model(input_ids=first, use_cache=False).logits[0]
        finally:
            del body.forward
            if own is not None:  # accelerate has one there, for a model that is spread over devices
                body.forward = own

    return output.last_hidden_state, read_logits


def measure_entropy(logs: torch.Tensor) -> torch.Tensor:
    """Return H = -sum_v p(v) log p(v) in nats, float32 [rows], of normalised log probabilities [rows, V]."""
    return -(logs.exp() * logs).sum(-1)


def find_flaw(measures: Measures) -> str:
    """Return '' or which measure a broken checkpoint or a narrow dtype made NaN or inf, with the remedy."""
    names = ("entropy_nats", "top20_entropy_nats", "log_probability_nats", "mass", "step_map")
    flawed = [name for name in names if not np.isfinite(getattr(measures, name)).all()]
    return f"{flawed[0]} is not finite; check the checkpoint or use a wider dtype" if flawed else ""
