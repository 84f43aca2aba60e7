"""A response measured: its trace, from the replay of a shard of responses to a row of a file and back.

Why it exists: what decides a trace stands here and in the modules that this one imports, and nowhere else: their code
is part of the key of a heads shard and of a trace shard. A trace holds everything that the tables need, so that they
never load a model. In: a loaded VLM, items, their responses, the parameters of the extraction and the grounding. Out: a
`Trace` of each response that can be measured, a reason for each that cannot, and Arrow tables of traces (arrays
flattened, their shapes beside them) and of what every head looks at. Never: read or write a file, or import what only
names or draws a measure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dontblink.attention.grounding import Grounding, list_looks, weigh_heads
from dontblink.attention.replay import REGIONS, Floats, Measures, average_heads, replay_responses
from dontblink.attention.trial import try_prompt
from dontblink.boxes import evidence
from dontblink.models.generate import encode_items, item_generator
from dontblink.models.placement import Placement
from dontblink.models.response import Response
from dontblink.models.spans import Spans
from dontblink.models.vlm import VLM, Prompt
from dontblink.questions.items import Item, ItemError

SIDE = 32  # cells across a picture
KEPT_BYTES = 2**26  # of the masses and maps of every head of a shard, so that its responses are replayed once
Reasons = list[tuple[str, str]]  # (item id, why it was left out)
KEY = pa.dictionary(pa.int32(), pa.string())
HEADS = pa.schema({
    "model": KEY, "benchmark": KEY, "split": KEY, "item_id": KEY, "layer": pa.int32(), "head": pa.int32(),
    **dict.fromkeys(("evidence_mass", "visual_mass", "evidence_fraction", "evidence_lift"), pa.float32()),
})  # fmt: skip
INTEGERS, REALS, TEXTS = pa.list_(pa.int32()), pa.list_(pa.float32()), pa.list_(pa.string())
TRACES = pa.schema({
    "item_id": pa.string(), "model": pa.string(), "n_layers": pa.int32(), "n_heads": pa.int32(),
    "n_sets": pa.int32(), "n_regions": pa.int32(), "entropy_nats": REALS, "top20_entropy_nats": REALS,
    "log_probability_nats": REALS, "head_mass": REALS, "mass": REALS, "step_map": REALS, "coverage": REALS,
    "control": REALS, "evidence_tokens": pa.float64(), "image_tokens": pa.int32(), "grids": INTEGERS,
    "image_order": INTEGERS, "reasoning": INTEGERS, "answer": INTEGERS,
    "steps": INTEGERS, "closed": pa.bool_(), "token_texts": TEXTS, "step_texts": TEXTS, "answer_text": pa.string(),
})  # fmt: skip


@dataclass(frozen=True)
class Trace(Measures):
    """The measures of a response over the sets of heads, with the spans, texts and evidence behind them.

    Attributes
    ----------
    token_texts, step_texts : T and S texts, decoded by the model's tokenizer
    coverage, control : float32 [M], share of each image token inside evidence and control box; NaN without boxes
    evidence_tokens, image_tokens : sum of the coverage, and how many image tokens hold pixels
    grids, image_order : (rows, columns) of merged tokens, and place in `item.images`, of each picture as shown

    Of a model whose image tokens are no grid on a picture (tiles, crops), `coverage`, `control` and `step_map` are
    those of `SIDE` x `SIDE` cells of each picture, over which its tokens are spread; masses are those of its tokens.
    """

    spans: Spans
    token_texts: tuple[str, ...]
    step_texts: tuple[str, ...]
    answer_text: str
    coverage: Floats
    control: Floats
    evidence_tokens: float
    image_tokens: int
    grids: tuple[tuple[int, int], ...]
    image_order: tuple[int, ...]


    @property
    def evidence_fraction(self) -> float:
        """The mean share of an image token inside the evidence, NaN where that is not known."""
        return float(np.float32(self.evidence_tokens / self.image_tokens))


def trace_responses(
    vlm: VLM, items: Sequence[Item], responses: Sequence[Response], settings: Mapping[str, Any],
    lacking_boxes: Collection[str], grounding: Grounding | None,
    lowered: Callable[[int], None] | None = None,
) -> tuple[list[Trace], Reasons]:  # fmt: skip
    """Replay the responses of a shard; those that cannot be measured come back as (item id, reason).

    Parameters
    ----------
    settings : section `extraction` of the parameters
    lacking_boxes : items whose evidence is not known: all that takes it is NaN, `other_image` the whole image
    grounding : chooses two of the four sets of heads; None keeps what each head measures where all of it is small (see
        `KEPT_BYTES`), else no mass and no map, only the looks of every head
    """
    kept, reasons = [], []
    for response in responses:
        if not response.response_ids:
            reasons.append((response.item_id, "empty response: no token to replay"))
        elif response.retokenised and settings["retokenised"] != "keep":
            reasons.append((response.item_id, "re-tokenised text: its ids may not be those that the model wrote"))
        else:
            kept.append(response)
    by_id = {item.id: item for item in items}
    prompts = encode_items(vlm, [by_id[r.item_id] for r in kept])
    if not kept:
        return [], reasons
    shape = try_prompt(vlm, prompts[0])
    placed = [place_evidence(vlm, p, by_id[p.item_id], settings["control_seed"]) for p in prompts]
    coverage, control = [own.coverage for own in placed], [own.control for own in placed]
    spans = [vlm.segment(r.response_ids) for r in kept]
    n_floats = sum(
        len(r.response_ids) * len(REGIONS) + len(s.steps) * len(c)
        for r, s, c in zip(kept, spans, coverage, strict=True)
    )
    is_small = 4 * n_floats * shape[0] * shape[1] <= KEPT_BYTES
    of_heads = None if is_small else np.zeros((0, *shape), np.float32)
    measured = replay_responses(
        vlm, prompts, [r.response_ids for r in kept], coverage=coverage, control=control,
        steps=[s.steps if grounding or is_small else () for s in spans], reasoning=[s.reasoning for s in spans],
        head_sets=weigh_heads(grounding, *shape) if grounding else of_heads,
        implementation=settings["replay_implementation"], token_budget=settings["replay_batch_tokens"],
        quarantine=lambda item_id, reason: reasons.append((item_id, reason)), lowered=lowered,
    )  # fmt: skip
    row = {response.item_id: number for number, response in enumerate(kept)}
    traces = []
    for measures in measured:
        k = row[measures.item_id]
        ids, cut, place = kept[k].response_ids, spans[k], placed[k]
        if measures.item_id in lacking_boxes:
            hide_evidence(measures)
            place = place.hide()
        if place.placement is not None:
            measures = replace(measures, step_map=paint_steps(measures.step_map, place.placement))
        traces.append(Trace(
            **vars(measures), spans=cut, token_texts=tuple(vlm.token_texts(ids)),
            step_texts=tuple(vlm.decode(ids[a:b]) for a, b in cut.steps),
            answer_text=vlm.decode(ids[slice(*cut.answer)]),
            coverage=place.shown[0], control=place.shown[1], image_tokens=len(place.coverage),
            evidence_tokens=float(place.coverage.sum(dtype=np.float64)), grids=place.grids,
            image_order=prompts[k].image_order,
        ))  # fmt: skip
    return traces, reasons


@dataclass(frozen=True)
class Placed:
    """The evidence and control coverage of image tokens, float32 [M] each, and both as they are shown on `grids`."""

    coverage: Floats
    control: Floats
    grids: tuple[tuple[int, int], ...]
    shown: tuple[Floats, Floats]
    placement: Placement | None = None  # of tokens that are no grid

    def hide(self) -> Placed:
        """Return the same without evidence: what is not known is NaN."""
        hidden = [np.full_like(own, np.nan) for own in (self.coverage, self.control, *self.shown)]
        return replace(self, coverage=hidden[0], control=hidden[1], shown=(hidden[2], hidden[3]))


def place_evidence(vlm: VLM, prompt: Prompt, item: Item, seed: int) -> Placed:
    """Return where an item's evidence is, and a control of the same area elsewhere.

    ItemError if there are boxes and the image tokens of the type cannot be placed.
    """
    shown, rng = (item, prompt.image_sizes, prompt.image_order), item_generator(seed, prompt.item_id)
    if prompt.unplaced:
        if item.boxes:
            raise ItemError(f"item {item.id}: {prompt.unplaced}")
        nothing = np.zeros(len(prompt.find_image(vlm.image_token_id)[0]), np.float32)
        return Placed(nothing, nothing, ((1, len(nothing)),), (nothing, nothing))
    placement = prompt.placement if prompt.placement and not prompt.placement.find_grids() else None
    grids = [(SIDE, SIDE)] * len(prompt.image_sizes) if placement else vlm.image_grid(prompt)
    cells = evidence.item_coverage(item, grids, *shown[1:])
    elsewhere = evidence.control_coverage(cells, grids, rng)
    if not placement:
        return Placed(cells, elsewhere, tuple(grids), (cells, elsewhere))
    holds = placement.picture >= 0
    control = placement.gather(elsewhere.reshape(-1, SIDE, SIDE))[holds]
    return Placed(vlm.cover(prompt, item.boxes), control, tuple(grids), (cells, elsewhere), placement)


def paint_steps(step_map: Floats, placement: Placement) -> Floats:
    """Return maps [..., M] of tokens that hold pixels as maps [..., cells] of all pictures."""
    values = np.zeros((*step_map.shape[:-1], len(placement.picture)), np.float32)
    values[..., placement.picture >= 0] = step_map
    painted = [placement.paint(own, SIDE).ravel() for own in values.reshape(-1, values.shape[-1])]
    n_cells = SIDE**2 * (int(placement.picture.max()) + 1)
    return np.reshape(painted, (*step_map.shape[:-1], n_cells)).astype(np.float32)


def hide_evidence(measures: Measures) -> None:
    """Set to NaN what a replay without boxes found on evidence and control box: no mass there would be a false zero."""
    measures.mass[..., [REGIONS.index("evidence"), REGIONS.index("control_box")]] = np.nan
    measures.head_mass[..., 0] = np.nan


def average_traces(traces: Sequence[Trace], grounding: Grounding) -> list[Trace]:
    """Return traces of every head averaged over the sets of heads: what a replay over these would give."""
    return [average_heads(t, weigh_heads(grounding, *t.head_mass.shape[:2])) for t in traces]


def pack_heads(benchmark: str, split: str, traces: Sequence[Trace]) -> pa.Table:
    """Return the looks of every head over the reasoning: L * H rows of each response that has one, none of others."""
    looks = [list_looks(t.head_mass, t.evidence_fraction, t.spans.reasoning) for t in traces]
    sizes = [len(look["layer"]) for look in looks]
    keys = {
        "model": [t.model for t in traces], "benchmark": [benchmark] * len(traces), "split": [split] * len(traces),
        "item_id": [t.item_id for t in traces],
    }  # fmt: skip
    columns = {name: np.repeat(np.asarray(values, object), sizes) for name, values in keys.items()}
    columns |= {name: np.concatenate([np.zeros(0), *(look[name] for look in looks)]) for name in HEADS.names[4:]}
    return pa.table({name: pa.array(columns[name], HEADS.field(name).type) for name in HEADS.names}, HEADS)


def pack_traces(traces: Sequence[Trace]) -> pa.Table:
    """Return the traces as rows of `TRACES`."""
    rows = []
    for trace in traces:
        (n_layers, n_heads, _), (n_sets, _, n_regions) = trace.head_mass.shape, trace.mass.shape
        rows.append(vars(trace) | {
            "n_layers": n_layers, "n_heads": n_heads, "n_sets": n_sets, "n_regions": n_regions,
            "head_mass": trace.head_mass.ravel(), "mass": trace.mass.ravel(), "step_map": trace.step_map.ravel(),
            "grids": np.ravel(trace.grids), **vars(trace.spans), "steps": np.ravel(trace.spans.steps).astype(np.int32),
        })  # fmt: skip
    return pa.Table.from_pylist(rows, TRACES)


def unpack_traces(table: pa.Table) -> list[Trace]:
    """Return the rows of a trace shard; raise ValueError where an array has not the shape that stands beside it."""
    columns = {name: table[name].combine_chunks() for name in TRACES.names}
    return [_unpack_row(columns, row) for row in range(table.num_rows)]


def _unpack_row(columns: dict[str, Any], row: int) -> Trace:
    def reals(name: str) -> npt.NDArray[np.float32]:
        return np.asarray(columns[name][row].values.to_numpy(zero_copy_only=False), dtype=np.float32)

    def value(name: str) -> Any:
        return columns[name][row].as_py()

    def pairs(name: str) -> tuple[tuple[int, int], ...]:
        return tuple((a, b) for a, b in np.reshape(value(name), (-1, 2)).tolist())

    steps, coverage, n_sets = pairs("steps"), reals("coverage"), value("n_sets")
    return Trace(
        item_id=value("item_id"), model=value("model"), entropy_nats=reals("entropy_nats"),
        top20_entropy_nats=reals("top20_entropy_nats"),
        log_probability_nats=reals("log_probability_nats"), mass=reals("mass").reshape(n_sets, -1, value("n_regions")),
        step_map=reals("step_map").reshape(len(steps), n_sets, len(coverage)),
        head_mass=reals("head_mass").reshape(value("n_layers"), value("n_heads"), 2),
        spans=Spans(tuple(value("reasoning")), tuple(value("answer")), steps, value("closed")),
        token_texts=tuple(value("token_texts")), step_texts=tuple(value("step_texts")),
        answer_text=value("answer_text"), coverage=coverage,
        control=reals("control"), evidence_tokens=value("evidence_tokens"), image_tokens=value("image_tokens"),
        grids=pairs("grids"), image_order=tuple(value("image_order")),
    )  # fmt: skip
