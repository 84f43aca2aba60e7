"""Responses and traces as shard tables, and back: the only place that knows their columns.

In: Response and Trace records of one model x benchmark x split. Out: Arrow tables (arrays flattened, their shapes
beside them) that `store` writes, and the same records read back. A response shard is the contract between any engine
and the replay; a trace shard holds everything that the tables need, so that they never load a model.

The responses of one shard to trace records: which of them can be measured, with which evidence, spans and controls.

Why it exists: what decides a trace besides the replay itself stands here alone, so that its code is part of a trace's
key (`study`) and the code around it, which only strings stages together, is not. In: a loaded VLM, items, their
responses, the parameters of the extraction and the weights of the head sets. Out: `TraceRecord`s, and a reason for
every response that has none. Never: read or write a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dontblink import paths, store
from dontblink.attention.replay import Floats, SetTrace, replay_sets
from dontblink.boxes import evidence
from dontblink.models.generate import FinishReason, Response, encode_items, item_generator
from dontblink.models.spans import Spans
from dontblink.models.vlm import VLM
from dontblink.questions.items import Item

INTEGERS, REALS, TEXTS = pa.list_(pa.int32()), pa.list_(pa.float32()), pa.list_(pa.string())
RESPONSES = pa.schema({
    "item_id": pa.string(), "model": pa.string(), "prompt_ids": INTEGERS, "response_ids": INTEGERS,
    "text": pa.string(), "finish_reason": pa.string(), "engine": pa.string(), "retokenised": pa.bool_(),
})  # fmt: skip
TRACES = pa.schema({
    "item_id": pa.string(), "model": pa.string(), "n_layers": pa.int32(), "n_heads": pa.int32(),
    "n_sets": pa.int32(), "n_regions": pa.int32(), "entropy_nats": REALS, "log_probability_nats": REALS,
    "head_mass": REALS, "mass": REALS, "step_map": REALS, "coverage": REALS, "control": REALS, "grids": INTEGERS,
    "image_order": INTEGERS, "reasoning": INTEGERS, "answer": INTEGERS,
    "steps": INTEGERS, "closed": pa.bool_(), "token_texts": TEXTS, "step_texts": TEXTS, "answer_text": pa.string(),
})  # fmt: skip


@dataclass(frozen=True)
class TraceRecord:
    """A trace with the spans, texts and evidence that it was measured with.

    Attributes
    ----------
    coverage, control : float32 [M], share of each image token inside the evidence and the control box
    grids, image_order : (rows, columns) of merged tokens, and place in `item.images`, of each picture as shown
    """

    trace: SetTrace
    spans: Spans
    token_texts: tuple[str, ...]
    step_texts: tuple[str, ...]
    answer_text: str
    coverage: npt.NDArray[np.float32]
    control: npt.NDArray[np.float32]
    grids: tuple[tuple[int, int], ...]
    image_order: tuple[int, ...]


def pack_responses(responses: Sequence[Response]) -> pa.Table:
    """Return the responses as rows of `RESPONSES`."""
    return pa.Table.from_pylist([{name: getattr(r, name) for name in RESPONSES.names} for r in responses], RESPONSES)


def unpack_responses(table: pa.Table) -> list[Response]:
    """Return the rows of a response shard as records."""
    return [
        Response(**{**row, "prompt_ids": tuple(row["prompt_ids"]), "response_ids": tuple(row["response_ids"])})
        for row in table.to_pylist()
    ]


def pack_traces(records: Sequence[TraceRecord]) -> pa.Table:
    """Return the trace records as rows of `TRACES`."""
    columns: dict[str, list[Any]] = {name: [] for name in TRACES.names}
    for record in records:
        trace, spans = record.trace, record.spans
        (n_layers, n_heads, _), (n_sets, _, n_regions) = trace.head_mass.shape, trace.mass.shape
        row = {
            "item_id": trace.item_id, "model": trace.model, "n_layers": n_layers, "n_heads": n_heads,
            "n_sets": n_sets, "n_regions": n_regions, "entropy_nats": trace.entropy_nats,
            "log_probability_nats": trace.log_probability_nats, "head_mass": trace.head_mass.ravel(),
            "mass": trace.mass.ravel(), "step_map": trace.step_map.ravel(), "coverage": record.coverage,
            "control": record.control, "grids": np.ravel(record.grids), "image_order": record.image_order,
            "reasoning": spans.reasoning, "answer": spans.answer,
            "steps": np.ravel(spans.steps).astype(np.int32), "closed": spans.closed,
            "token_texts": record.token_texts, "step_texts": record.step_texts, "answer_text": record.answer_text,
        }  # fmt: skip
        for name, value in row.items():
            columns[name].append(value)
    return pa.table({name: pa.array(columns[name], TRACES.field(name).type) for name in TRACES.names}, TRACES)


def unpack_traces(table: pa.Table) -> list[TraceRecord]:
    """Return the rows of a trace shard as records; the arrays are views of the table where possible."""
    columns = {name: table[name].combine_chunks() for name in TRACES.names}
    return [_unpack_row(columns, row) for row in range(table.num_rows)]


def _unpack_row(columns: dict[str, Any], row: int) -> TraceRecord:
    def reals(name: str) -> npt.NDArray[np.float32]:
        return np.asarray(columns[name][row].values.to_numpy(zero_copy_only=False), dtype=np.float32)

    def value(name: str) -> Any:
        return columns[name][row].as_py()

    n_layers, n_heads, n_sets, n_regions = (value(f"n_{part}") for part in ("layers", "heads", "sets", "regions"))
    steps = [(a, b) for a, b in np.reshape(value("steps"), (-1, 2)).tolist()]
    coverage = reals("coverage")
    trace = SetTrace(
        item_id=value("item_id"), model=value("model"), entropy_nats=reals("entropy_nats"),
        log_probability_nats=reals("log_probability_nats"),
        head_mass=reals("head_mass").reshape(n_layers, n_heads, 2),
        mass=reals("mass").reshape(n_sets, -1, n_regions),
        step_map=reals("step_map").reshape(len(steps), n_sets, len(coverage)),
    )  # fmt: skip
    spans = Spans(tuple(value("reasoning")), tuple(value("answer")), tuple(steps), value("closed"))
    grids = tuple((a, b) for a, b in np.reshape(value("grids"), (-1, 2)).tolist())
    return TraceRecord(
        trace, spans, tuple(value("token_texts")), tuple(value("step_texts")), value("answer_text"), coverage,
        reals("control"), grids, tuple(value("image_order")),
    )  # fmt: skip


def read_responses(path: Path) -> list[Response]:
    """Return the responses of a shard file.

    Raises
    ------
    StoreError
        In one line with the file and the remedy: it is damaged, or another version of this package wrote it.
    """
    responses = unpack_responses(_read_shard(path, RESPONSES))
    if odd := [r.finish_reason for r in responses if r.finish_reason not in get_args(FinishReason)]:
        raise _other_version(path, f"finish reason {odd[0]!r}")
    return responses


def read_traces(path: Path) -> list[TraceRecord]:
    """Return the trace records of a shard file; raises like `read_responses`."""
    table = _read_shard(path, TRACES)
    try:
        return unpack_traces(table)
    except ValueError as error:  # arrays that have not the shapes which stand beside them
        raise _other_version(path, str(error)) from error


def read_note(path: Path, name: str) -> str:
    """Return one entry of a shard file's metadata; raises like `read_responses`."""
    metadata = store.read_metadata(path)
    if name not in metadata:
        raise _other_version(path, f"no {name!r} in its metadata")
    return metadata[name]


def _read_shard(path: Path, expected: pa.Schema) -> pa.Table:
    """Return a shard's table with the columns of `expected`, by name; raise StoreError unless it has them, filled."""
    table = store.read_table(path)
    found, wanted = ({field.name: field.type for field in schema} for schema in (table.schema, expected))
    if found != wanted or table.num_columns != len(wanted):
        wrong = (
            sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
            or table.column_names
        )
        raise _other_version(path, f"other columns than expected: {', '.join(wrong)}")
    if empty := [name for name in wanted if table[name].null_count]:
        raise _other_version(path, f"nothing in column {empty[0]}")
    return table.select(expected.names)


def _other_version(path: Path, found: str) -> store.StoreError:
    return store.StoreError(f"{paths.show(path)}: holds {found}; delete it, the next run recomputes it")


def iterate_traces(profile: str, model: str, benchmark: str, split: str = "test") -> Iterator[TraceRecord]:
    """Yield the trace records of one cell in item order, reading one listed shard at a time.

    Raises
    ------
    StoreError
        If no extraction of this profile has finished, or it has no such cell.
    """
    listing = paths.shard_list(profile)
    names = listing.read_text().split() if listing.exists() else []
    folder = paths.traces(profile) / model
    files = [paths.ROOT / name for name in names]
    wanted = [f for f in files if f.parent == folder and f.name.startswith(f"{benchmark}-{split}-")]
    if not wanted:
        raise store.StoreError(
            f"{paths.show(listing)}: no trace shard of {model} x {benchmark}, {split}; run `make extract`"
        )
    for file in sorted(wanted):
        yield from read_traces(file)


Reasons = list[tuple[str, str]]  # (item id, why it was left out)


def choose_traceable(
    responses: Sequence[Response], retokenised: str, lacking_boxes: Mapping[str, str]
) -> tuple[list[Response], Reasons]:
    """Return the responses that can be measured, and the others as (item id, reason)."""
    kept, reasons = [], []
    for response in responses:
        if not response.response_ids:
            reasons.append((response.item_id, "empty response: no token to replay"))
        elif response.retokenised and retokenised != "keep":
            reasons.append((response.item_id, "re-tokenised text: its ids may not be those that the model wrote"))
        elif response.item_id in lacking_boxes:
            reasons.append((response.item_id, lacking_boxes[response.item_id]))
        else:
            kept.append(response)
    return kept, reasons


def trace_responses(
    vlm: VLM,
    items: Sequence[Item],
    responses: Sequence[Response],
    settings: Mapping[str, Any],
    head_sets: Floats | None,
    lacking_boxes: Mapping[str, str],
) -> tuple[list[TraceRecord], Reasons]:
    """Replay the responses of a shard; those that cannot be measured come back as (item id, reason).

    Parameters
    ----------
    settings : section `extraction` of the parameters
    head_sets : float32 [G, L, H], weights of every head in a set; None keeps the looks of every head, without maps
    lacking_boxes : why an item has no evidence to measure, by item id
    """
    kept, reasons = choose_traceable(responses, settings["retokenised"], lacking_boxes)
    by_id = {item.id: item for item in items}
    prompts = encode_items(vlm, [by_id[r.item_id] for r in kept])
    grids = [vlm.image_grid(prompt) for prompt in prompts]
    coverage = [
        evidence.item_coverage(by_id[p.item_id], grid, p.image_sizes, p.image_order)
        for p, grid in zip(prompts, grids, strict=True)
    ]
    control = [
        evidence.control_coverage(c, grid, item_generator(settings["control_seed"], p.item_id))
        for c, grid, p in zip(coverage, grids, prompts, strict=True)
    ]
    spans = [vlm.segment(r.response_ids) for r in kept]
    if head_sets is None:
        config = vlm.model.config.get_text_config()
        head_sets = np.zeros((0, config.num_hidden_layers, config.num_attention_heads), np.float32)
    traces = replay_sets(
        vlm, prompts, [r.response_ids for r in kept], head_sets=head_sets, reasoning=[s.reasoning for s in spans],
        coverage=coverage, control=control, steps=[s.steps if len(head_sets) else () for s in spans],
        implementation=settings["replay_implementation"], token_budget=settings["replay_batch_tokens"],
        quarantine=lambda item_id, reason: reasons.append((item_id, reason)),
    )  # fmt: skip
    measured = {trace.item_id: trace for trace in traces}
    records = []
    for response, span, c, k, grid, prompt in zip(kept, spans, coverage, control, grids, prompts, strict=True):
        if response.item_id in measured:
            ids = response.response_ids
            records.append(TraceRecord(
                measured[response.item_id], span, tuple(vlm.token_texts(ids)),
                tuple(vlm.decode(ids[a:b]) for a, b in span.steps), vlm.decode(ids[slice(*span.answer)]), c, k,
                tuple(grid), prompt.image_order,
            ))  # fmt: skip
    return records, reasons
