"""Responses under conditions: what becomes of an answer when a look is taken away, replaced or kept up.

Why it exists: an intervention is a change of some scores; a study asks what it does to a response. In: `Case`s, a
response each with its prompt, spans and evidence, and a `Condition`: which keys, changed how, from which share of the
response's own reasoning on. Out: the response that is written then (total effect: the text itself changes), the own
response's log probabilities under the same condition (direct effect), answers forced after a share of the reasoning,
and what the grounding layers look at meanwhile. What stands before the first changed row is the stored response, taken
in one pass: it is identical by construction. Never: choose a strength by accuracy, or a place by what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from dontblink.attention.capture import plan_recording, record
from dontblink.attention.intervention import (
    Bias,
    Block,
    Donor,
    Intervention,
    Replace,
    collect,
    intervene,
    plan_interventions,
)  # fmt: skip
from dontblink.attention.replay import (
    HEAD_ROWS,
    TOO_LARGE,
    batch_by_length,
    measure_entropy,
    plan_sample,
    read_tokens,
    run_body,
)  # fmt: skip
from dontblink.attention.traces import Placed
from dontblink.errors import NamedError
from dontblink.models.generate import Sampling, generate_batch, item_generator, try_memory
from dontblink.models.spans import Spans
from dontblink.models.vlm import VLM, Prompt

Floats = NDArray[np.float32]
Keys = NDArray[np.int64]
Planned = list[Intervention]
BLOCKED = "evidence", "control", "random", "image"
RAISED = {"raise_evidence": "evidence", "raise_control": "control", "raise_own": "own"}
CONDITIONS = "empty", *BLOCKED, "other_picture", "other_prompt", *RAISED, "no_reasoning"


class Condition(NamedTuple):
    """One of `CONDITIONS`, and the share of the response's own reasoning from which on it holds; 1 is the answer."""

    name: str
    start_share: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read `evidence@0.5`; NamedError for another form or name."""
        name, _, share = text.partition("@")
        if name not in CONDITIONS or not share.replace(".", "", 1).isdigit() or not 0 <= float(share) <= 1:
            raise NamedError(f"condition {text!r}: expected one of {', '.join(CONDITIONS)}, @ and a share of 0 to 1")
        return cls(name, float(share))


@dataclass(frozen=True, eq=False)
class Case:
    """A response of token ids [T] that may be changed, and `other`: its prompt with the picture of another item."""

    prompt: Prompt
    ids: tuple[int, ...]
    spans: Spans
    placed: Placed
    other: Prompt | None = None
    own: Keys | None = None  # image tokens that hold half of the grounding heads' own map, by place in the prompt

    def start(self, share: float) -> int:
        """Return the first response token that a condition changes."""
        begin, end = self.spans.reasoning
        return begin + int(share * (end - begin) + 1e-9)

    def row(self, token: int) -> int:
        """Return the row that predicts a response token."""
        return len(self.prompt.ids) - 1 + token


Taken = TypeVar("Taken", bound=Case)
Made = TypeVar("Made")


class Choices(NamedTuple):
    """At n places: log p of the token there, the most probable token, log p of m other tokens [n, m], the entropy."""

    log_probability_nats: Floats
    best: NDArray[np.int64]
    others_nats: Floats
    entropy_nats: Floats


def find_keys(vlm: VLM, case: Case, target: str, seed: int) -> Keys:
    """Return the places in the prompt of a target's image tokens, those that it covers in part, too."""
    image = case.prompt.find_image(vlm.image_token_id)[0]
    inside = case.placed.coverage > 0
    if target == "random":
        outside, rng = np.flatnonzero(~inside), item_generator(seed, case.prompt.item_id)
        return image[np.sort(rng.permutation(outside)[: int(inside.sum())])]
    if target == "own":
        assert case.own is not None
        return case.own
    return image[{"evidence": inside, "control": case.placed.control > 0, "image": image >= 0}[target]]


def plan_case(
    vlm: VLM, case: Case, condition: Condition, *, seed: int, nats: float = 0.0, donor: Donor | None = None
) -> Planned:
    """Return the interventions of a condition on one case; `nats` is the strength of a raise."""
    name, first = condition.name, case.row(case.start(condition.start_share))
    if name in BLOCKED:
        return [Intervention(find_keys(vlm, case, name, seed), Block(), first)]
    if name in RAISED:
        return [Intervention(find_keys(vlm, case, RAISED[name], seed), Bias(nats), first)]
    if name == "other_picture" and donor:
        return [Intervention(find_keys(vlm, case, "image", seed), Replace(donor), first)]
    return []


def take_batches(
    vlm: VLM, cases: Sequence[Taken], lengths: Sequence[int], budget: int,
    do: Callable[[Sequence[Taken]], Sequence[Made]],
) -> list[Made]:  # fmt: skip
    """Return what `do` makes of batches of cases, in their order: tokens of a batch <= budget, less where memory ends.

    NamedError for a case that does not fit alone.
    """
    kinds = [vlm.kind(case.prompt) for case in cases]
    queue, found = list(batch_by_length(lengths, budget, kinds)), dict[int, Made]()
    while queue:
        rows = queue.pop(0)
        made = try_memory(do, [cases[row] for row in rows])
        if made is not None:
            found |= dict(zip(rows, made, strict=True))
        elif len(rows) == 1:
            raise NamedError(f"item {cases[rows[0]].prompt.item_id}: {TOO_LARGE}")
        else:
            queue[:0] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return [found[row] for row in range(len(cases))]


def show_other(vlm: VLM, cases: Sequence[Case], texts: Sequence[Sequence[int]], side: Any) -> Donor:
    """Return the keys and values of the same texts behind another item's picture."""
    with torch.inference_mode(), collect(vlm.model) as donor:
        vlm.model(**vlm.collate(find_others(cases), texts, side=side), use_cache=False)
    return donor


def find_others(cases: Sequence[Case]) -> list[Prompt]:
    """Return the prompts with another item's picture; NamedError for a case that has none."""
    others = [case.other for case in cases if case.other]
    if len(others) < len(cases):
        lacking = next(case.prompt.item_id for case in cases if not case.other)
        raise NamedError(f"item {lacking}: no other item has pictures of its grids; leave it out of this condition")
    return others


def continue_responses(
    vlm: VLM, cases: Sequence[Case], condition: Condition, *, most_tokens: int, budget: int, seed: int,
    nats: float = 0.0, begun: Sequence[Sequence[int]] | None = None,
) -> list[tuple[int, ...]]:  # fmt: skip
    """Return the responses that are written, greedily, behind the own beginnings under a condition.

    Parameters
    ----------
    most_tokens : of a whole response
    begun : what stands there already; by default the own response up to the condition's start
    """
    texts = begun or [case.ids[: case.start(condition.start_share)] for case in cases]
    held = {case.prompt.item_id: tuple(text) for case, text in zip(cases, texts, strict=True)}

    def write(part: Sequence[Case]) -> list[tuple[int, ...]]:
        own = [held[case.prompt.item_id] for case in part]
        shown = find_others(part) if condition.name == "other_prompt" else [case.prompt for case in part]
        donor = show_other(vlm, part, own, "left") if condition.name == "other_picture" else None
        planned = [plan_case(vlm, case, condition, seed=seed, nats=nats, donor=donor) for case in part]
        lengths = [len(prompt.ids) + len(text) for prompt, text in zip(shown, own, strict=True)]
        left = max(most_tokens - len(text) for text in own)
        with intervene(vlm.model, plan_interventions(lengths, planned, "left")):
            rows = generate_batch(vlm, shown, Sampling(left), own)
        return [cut_response(vlm, text, row, most_tokens) for text, row in zip(own, rows, strict=True)]

    going = [case for case in cases if len(held[case.prompt.item_id]) < most_tokens]
    lengths = [len(case.prompt.ids) + max(len(case.ids), len(held[case.prompt.item_id])) for case in going]
    written = take_batches(vlm, going, lengths, budget, write)
    made = dict(zip((case.prompt.item_id for case in going), written, strict=True))
    return [made.get(name, text) for name, text in held.items()]


def cut_response(vlm: VLM, begun: Sequence[int], new_ids: Sequence[int], most_tokens: int) -> tuple[int, ...]:
    """Return a response up to its end-of-sequence token, or cut at its most tokens."""
    ids = [*begun, *new_ids][:most_tokens]
    stop = next((k for k in range(len(begun), len(ids)) if ids[k] in vlm.eos_ids), len(ids))
    return tuple(int(token) for token in ids[: stop + 1])


def replay_cases(
    vlm: VLM, cases: Sequence[Case], condition: Condition, *, budget: int, seed: int, nats: float = 0.0,
    texts: Sequence[Sequence[int]] | None = None,
) -> list[Choices]:  # fmt: skip
    """Return what is chosen at every token of the own responses, or of other texts, under a condition."""
    held = {case.prompt.item_id: text for case, text in zip(cases, texts or [case.ids for case in cases], strict=True)}

    def read(part: Sequence[Case]) -> list[Choices]:
        own = [held[case.prompt.item_id] for case in part]
        donor = show_other(vlm, part, own, "right") if condition.name == "other_picture" else None
        shown = find_others(part) if condition.name == "other_prompt" else None
        planned = [plan_case(vlm, case, condition, seed=seed, nats=nats, donor=donor) for case in part]
        return read_choices(vlm, part, own, [range(len(text)) for text in own], planned, shown=shown)

    lengths = [len(case.prompt.ids) + len(held[case.prompt.item_id]) for case in cases]
    return take_batches(vlm, cases, lengths, budget, read)


@torch.inference_mode()
def read_choices(
    vlm: VLM, cases: Sequence[Case], texts: Sequence[Sequence[int]], places: Sequence[Sequence[int]],
    planned: Sequence[Planned], others: Sequence[Sequence[int]] | None = None, *, donor: Donor | None = None,
    shown: Sequence[Prompt] | None = None,
) -> list[Choices]:  # fmt: skip
    """Replay texts behind the prompts of a batch of cases, or those `shown`; return what is chosen at some places.

    `others` are the tokens whose log p is wanted besides; keys and values of the pass go into `donor`, where one is
    given.
    """
    prompts = [case.prompt for case in cases] if shown is None else shown
    lengths = [len(prompt.ids) + len(text) for prompt, text in zip(prompts, texts, strict=True)]
    inputs = vlm.collate(prompts, texts, side="right")
    if donor is None:
        with intervene(vlm.model, plan_interventions(lengths, planned, "right")):
            hidden, read_logits = run_body(vlm.model, inputs)
    else:
        with collect(vlm.model) as found:
            hidden, read_logits = run_body(vlm.model, inputs)
        donor.layers.update(found.layers)
    rows = [torch.tensor([len(p.ids) - 1 + t for t in own]) for p, own in zip(prompts, places, strict=True)]
    unwritten = torch.tensor(vlm.suppressed_ids, dtype=torch.int64)  # placeholders, which generation never chooses
    choices = []
    for number, (text, own) in enumerate(zip(texts, places, strict=True)):
        wanted, parts = torch.tensor(list(others[number] if others else ()), dtype=torch.int64), list[Any]()
        tokens = torch.tensor([text[t] for t in own], dtype=torch.int64)
        for top in range(0, len(tokens), HEAD_ROWS):
            logs = read_logits(hidden[number, rows[number][top : top + HEAD_ROWS]]).float().log_softmax(-1).cpu()
            emitted = tokens[top : top + HEAD_ROWS, None]
            best = logs.index_fill(-1, unwritten, -torch.inf).argmax(-1)
            parts.append((logs.gather(-1, emitted)[:, 0], best, logs[:, wanted], measure_entropy(logs)))
        choices.append(Choices(*(torch.cat(part).numpy() for part in zip(*parts, strict=True))))
    return choices


class Looks(NamedTuple):
    """What sets of heads look at: masses [G, T, regions] of each token, and the mean map [G, M] of the reasoning."""

    mass: Floats
    map: Floats


def measure_looks(
    vlm: VLM, cases: Sequence[Case], head_sets: Floats, *, budget: int, planned: Callable[[Case], Planned] | None = None
) -> list[Looks]:
    """Record the own responses, under interventions where some are planned; sets of heads float32 [G, L, H]."""

    def look(part: Sequence[Case]) -> list[Looks]:
        lengths = [len(case.prompt.ids) + len(case.ids) for case in part]
        samples = [
            plan_sample(vlm, case.prompt, case.ids, case.placed.coverage, case.placed.control, (case.spans.reasoning,))
            for case in part
        ]
        plan = plan_interventions(lengths, [planned(case) if planned else [] for case in part], "right")
        recorded = plan_recording(samples, max(lengths), head_sets)
        with record(vlm.model, recorded) as recording, intervene(vlm.model, plan):
            read_tokens(vlm, [case.prompt for case in part], [case.ids for case in part])
        found = (recording.read(place) for place in range(len(part)))
        return [Looks(np.einsum("glh,lhtr->gtr", head_sets, mass), step_map[0]) for mass, step_map in found]

    return take_batches(vlm, cases, [len(case.prompt.ids) + len(case.ids) for case in cases], budget, look)


def hold_half(weights: Floats) -> NDArray[np.bool_]:
    """Return the fewest image tokens that hold half of a map, bool [M]; of equal ones the first."""
    order = np.argsort(-weights, kind="stable")
    held = np.cumsum(weights[order], dtype=np.float64)
    inside = np.zeros(len(weights), bool)
    inside[order[: int(np.searchsorted(held, held[-1] / 2)) + 1]] = True
    return inside


def force_answer(case: Case, share: float) -> tuple[int, ...]:
    """Return the beginning that forces an answer after a share of the own reasoning.

    It is what stands between the own reasoning and the own answer: the end of the reasoning, the answer's marker.
    """
    return (*case.ids[: case.start(share)], *case.ids[case.spans.reasoning[1] : case.spans.answer[0]])


def iterate_forced(
    vlm: VLM, cases: Sequence[Case], shares: Sequence[float], *, n_tokens: int, budget: int, seed: int
) -> Iterator[tuple[float, list[tuple[int, ...]], list[float]]]:
    """Yield for each share the whole responses with a forced answer, and the probability of the answer's format.

    That is the probability that the first token of the answer is one with which some own answer of these cases begins.
    """
    firsts = sorted({case.ids[case.spans.answer[0]] for case in cases})
    for share in shares:
        begun = [force_answer(case, share) for case in cases]
        own = dict(zip((case.prompt.item_id for case in cases), begun, strict=True))

        def read(part: Sequence[Case], own: dict[str, tuple[int, ...]] = own) -> list[float]:
            texts = [(*own[case.prompt.item_id], firsts[0]) for case in part]
            ends, nothing = [[len(text) - 1] for text in texts], [Planned() for _ in part]
            found = read_choices(vlm, part, texts, ends, nothing, [firsts] * len(part))
            return [float(np.exp(choice.others_nats[0], dtype=np.float64).sum()) for choice in found]

        lengths = [len(case.prompt.ids) + len(text) + n_tokens for case, text in zip(cases, begun, strict=True)]
        format_mass = take_batches(vlm, cases, lengths, budget, read)
        most = max(map(len, begun)) + n_tokens
        written = continue_responses(
            vlm, cases, Condition("empty", share), most_tokens=most, budget=budget, seed=seed, begun=begun
        )
        yield share, [ids[: len(text) + n_tokens] for ids, text in zip(written, begun, strict=True)], format_mass
