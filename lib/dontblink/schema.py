"""The tidy tables' columns: the only place of a measure's name, type, unit and meaning, checked on each write.

Why it exists: a number is only as good as the column it was read from. In: columns of a table by name. Out: Arrow
tables that have exactly the columns of `SCHEMAS`, on disk with their units and meanings as metadata, one file (a part)
for each shard and table, read back as DataFrames of the wanted columns and rows, whole or part by part; and `describe`,
by which captions, the trace viewer and the paper name a measure. Never: a column without a meaning, or a NaN where the
schema does not allow one.

To add a measure, say the share of a step's attention that goes to its most attended image token: one line here, in
SCHEMAS["steps"],

    "peak_share": Column(REAL, "share", "largest part of the visual mass on one image token", True),

and one where the others of its table are computed, in `extraction.tables._step_rows`,

    "peak_share": (maps.max(axis=-1) / maps.sum(axis=-1)).reshape(-1),

then `make extract`, which builds the tables again and replays nothing. A measure of what no trace holds starts in
`attention.replay`, and every response is replayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dontblink import paths, store
from dontblink.errors import NamedError
from dontblink.files import read_json

REGIONS = ("evidence", "other_image", "prompt", "earlier_response", "sink", "control_box")
UNTABLED = ("blank_image", "learned_sink")  # in traces alone: what those of the tables, control box apart, miss of 1
MASSES = tuple(f"{'visual' if region == 'other_image' else region}_mass" for region in REGIONS)  # with the evidence
BOXED = ("evidence_mass", "control_box_mass")  # of them, those that an item without boxes does not have
HEAD_SETS = ("grounding_layers", "grounding_heads", "all_layers", "layer_0")
UNITS = {"mass": "share of attention"}  # units in words, where their name does not say it
TEXT, INT, REAL = pa.dictionary(pa.int32(), pa.string()), pa.int32(), pa.float32()


class Column(NamedTuple):
    """Type, unit and meaning of a column; only a column with `may_be_nan` may hold NaN."""

    type: pa.DataType
    unit: str
    meaning: str
    may_be_nan: bool = False


KEYS = {
    "model": Column(TEXT, "", "checkpoint name"), "benchmark": Column(TEXT, "", "question set"),
    "split": Column(TEXT, "", "test or calibration"), "item_id": Column(TEXT, "", "item"),
}  # fmt: skip
_HEAD_SET = {"head_set": Column(TEXT, "", "heads averaged over: " + ", ".join(HEAD_SETS))}
_MASSES = {
    name: Column(REAL, "mass", f"attention mass on the region {name[:-5]}".replace("visual", "image"), name in BOXED)
    for name in MASSES
}
UNIFORM = {
    "uniform_evidence_share": Column(REAL, "mass", "evidence tokens / visible keys: a uniform look", True),
    "uniform_visual_share": Column(REAL, "mass", "image tokens / visible keys: a uniform look"),
}
_STEP = {
    "step_index": Column(INT, "", "step from 0; -1 outside the steps"),
    "step_kind": Column(TEXT, "", "gold kind whose pattern the step's text has; empty if none"),
}
_LATE = "mean over the last third of the reasoning, grounding layers: mass on the "
_WHOLE = "mean over the whole reasoning, grounding layers: mass on the "
SCHEMAS: dict[str, dict[str, Column]] = {
    "tokens": KEYS | {
        "token_index": Column(INT, "", "position in the response, from 0"),
        "token_id": Column(INT, "", "vocabulary id"), "token_text": Column(TEXT, "", "decoded token"),
        "span": Column(TEXT, "", "reasoning, answer or marker"), **_STEP,
        "entropy_nats": Column(REAL, "nats", "entropy of the distribution that produced the token"),
        "top20_entropy_nats": Column(REAL, "nats", "the same, renormalised over its 20 most probable tokens"),
        "log_probability_nats": Column(REAL, "nats", "log probability of the token"),
        "context_length_tokens": Column(INT, "tokens", "keys that its row sees"), **UNIFORM},
    "token_masses": KEYS | {
        "token_index": Column(INT, "", "position in the response, from 0"), **_HEAD_SET, **_MASSES},
    "heads": KEYS | {
        "layer": Column(INT, "", "text layer, from 0"), "head": Column(INT, "", "query head, from 0"),
        "evidence_mass": Column(REAL, "mass", "mean over the reasoning", True),
        "visual_mass": Column(REAL, "mass", "evidence + other image, mean over the reasoning"),
        "evidence_fraction": Column(REAL, "share", "share of the image tokens that are evidence", True),
        "evidence_lift": Column(REAL, "ratio", "evidence share of visual mass / evidence fraction", True)},
    "steps": KEYS | _STEP | _HEAD_SET | {
        "step_text": Column(TEXT, "", "the step as decoded"),
        "n_tokens": Column(INT, "tokens", "tokens of the step"),
        "entropy_nats": Column(REAL, "nats", "mean entropy of the step's tokens"), **_MASSES, **UNIFORM,
        "pointing_hit": Column(REAL, "share", "coverage of the most attended image token", True),
        "iou50": Column(REAL, "share", "IoU of the smallest set with half the visual mass", True),
        "map_auc": Column(REAL, "probability", "AUC of the map as a score of in-box tokens", True),
        "sink_masked_evidence_mass": Column(REAL, "mass", "evidence mass / mass off the image sinks", True)},
    "items": KEYS | {
        "correct": Column(pa.bool_(), "", "by the benchmark's strict scorer"),
        "parsed": Column(pa.bool_(), "", "an answer was found"),
        "answer": Column(TEXT, "", "gold"), "prediction": Column(TEXT, "", "as parsed"),
        "finish_reason": Column(TEXT, "", "stop, length or empty"),
        "engine": Column(TEXT, "", "local, or the server that generated the response"),
        "retokenised": Column(pa.bool_(), "", "the ids were made from text and may not be those that the model wrote"),
        **{f"n_{part}": Column(INT, "tokens", f"{part.replace('_', ' ')}")
           for part in ("prompt_tokens", "response_tokens", "reasoning_tokens", "answer_tokens")},
        "n_steps": Column(INT, "steps", "reasoning steps"),
        "evidence_fraction": Column(REAL, "share", "share of the image tokens that are evidence", True),
        "evidence_tokens": Column(REAL, "tokens", "image tokens that the evidence covers, parts added up", True),
        "evidence_missing": Column(TEXT, "", "why evidence is not measured; empty where it is"),
        "noise_level": Column(REAL, "", "picture noise", True),
        "chain_length": Column(REAL, "", "length of the gold chain", True),
        "chain_kind": Column(TEXT, "", "step or recall"),
        "prior_side": Column(TEXT, "", "does the prior agree with the picture"),
        "task_type": Column(TEXT, "", "declared task type"),
        **{f"{part}_entropy_nats": Column(REAL, "nats", f"{meaning}", True) for part, meaning in (
            ("full", "mean token entropy"), ("answer", "mean over the answer span"),
            ("full_top20", "mean token entropy, each renormalised over the 20 most probable tokens"),
            ("answer_top20", "the same over the answer span"), ("max", "largest token entropy"),
            ("last_decile", "mean over the last 10 % of tokens"))},
        "vision_evidence_mass": Column(REAL, "mass", _LATE + "evidence", True),
        "vision_visual_mass": Column(REAL, "mass", _LATE + "image", True),
        "vision_cumulative_evidence_mass": Column(REAL, "mass", _WHOLE + "evidence", True),
        "vision_cumulative_visual_mass": Column(REAL, "mass", _WHOLE + "image", True),
        "placebo_prompt_mass": Column(REAL, "mass", _LATE + "prompt's text", True)},
    "scores": KEYS | {
        "scorer": Column(TEXT, "", "strict (every result's) or official (bug-compatible with the benchmark's code)"),
        "correct": Column(pa.bool_(), "", "by this scorer"), "parsed": Column(pa.bool_(), "", "an answer was found"),
        "prediction": Column(TEXT, "", "as parsed")},
    "samples": KEYS | {
        "sample_index": Column(INT, "", "from 0; sampled at temperature 1, never replayed"),
        "prediction": Column(TEXT, "", "as the strict scorer parsed it"),
        "parsed": Column(pa.bool_(), "", "an answer was found"),
        "correct": Column(pa.bool_(), "", "by the benchmark's strict scorer"),
        "n_response_tokens": Column(INT, "tokens", "response tokens"),
        "finish_reason": Column(TEXT, "", "stop, length or empty")},
    "bins": KEYS | _HEAD_SET | {
        "bin": Column(INT, "", "part of the reasoning, from 0"), "n_bins": Column(INT, "", "parts in all"),
        "n_empty_bins": Column(INT, "", "parts of this response without a token; they have no row"),
        "n_tokens": Column(INT, "tokens", "tokens averaged")} | _MASSES | UNIFORM,
}  # fmt: skip
PARTS = tuple(name for name in SCHEMAS if name != "samples")  # tables with a part of every measured shard
# What `make causal` measures, a file a table; see `attention.conditions` and `attention.sources`.
_UNDER = "grounding layers, mean over the reasoning in the own response's replay under the condition: mass on the "
CAUSAL: dict[str, dict[str, Column]] = {
    "effects": KEYS | {
        "condition": Column(TEXT, "", "what was changed; baseline: nothing"),
        "start_share": Column(REAL, "share", "of the own reasoning, from which on it was; 1 is the answer"),
        "correct": Column(pa.bool_(), "", "what was written under the condition, by the strict scorer"),
        "parsed": Column(pa.bool_(), "", "an answer was found"), "prediction": Column(TEXT, "", "as parsed"),
        "same_prediction": Column(pa.bool_(), "", "as in the baseline"),
        "same_text": Column(pa.bool_(), "", "every token as in the baseline"),
        "n_response_tokens": Column(INT, "tokens", "response tokens"),
        "finish_reason": Column(TEXT, "", "stop, length or empty"),
        "full_entropy_nats": Column(REAL, "nats", "mean token entropy", True),
        "answer_lost_nats": Column(REAL, "nats", "log p of the own answer, baseline less condition", True),
        "reasoning_lost_nats": Column(REAL, "nats", "log p of the own reasoning, baseline less condition", True),
        "answer_changed": Column(pa.bool_(), "", "in the own response's replay another answer is more probable"),
        "evidence_mass": Column(REAL, "mass", _UNDER + "evidence", True),
        "control_box_mass": Column(REAL, "mass", _UNDER + "control box", True),
        "visual_mass": Column(REAL, "mass", _UNDER + "image", True)},
    "strengths": {name: KEYS[name] for name in ("model", "benchmark")} | {
        "bias_nats": Column(REAL, "nats", "added to the scores of the evidence, calibration items"),
        "mass_ratio": Column(REAL, "ratio", "evidence mass with it over without, sums over items"),
        "is_chosen": Column(pa.bool_(), "", "the strength of the raises"),
        "n_items": Column(INT, "", "calibration items")},
    "recalls": KEYS | {
        "word": Column(TEXT, "", "kind of the restated word: digit, colour, shape, arrow; empty where none is usable"),
        "is_usable": Column(pa.bool_(), "", "read rightly and restated in the same words"),
        "why_not": Column(TEXT, "", "why there is none"),
        "own_word": Column(TEXT, "", "in the picture"), "altered_word": Column(TEXT, "", "in its altered copy"),
        "condition": Column(TEXT, "", "none, the factors T, M and P that say the altered word, or a knockout"),
        "turned": Column(pa.bool_(), "", "the altered word is the most probable"),
        "kept": Column(pa.bool_(), "", "the own word is"),
        "log_odds_nats": Column(REAL, "nats", "log p of the altered word less that of the own", True),
        "lost_nats": Column(REAL, "nats", "log p of the own word, none less here", True),
        "cell_mass": Column(REAL, "mass", "of the row that predicts the word, on its cell", True),
        "read_mass": Column(REAL, "mass", "of the same row, on the own reading", True)},
    "forced": KEYS | {
        "reasoning_share": Column(REAL, "share", "of the own reasoning, behind which an answer was forced"),
        "correct": Column(pa.bool_(), "", "by the strict scorer"),
        "parsed": Column(pa.bool_(), "", "an answer was found"), "prediction": Column(TEXT, "", "as parsed"),
        "format_mass": Column(REAL, "probability", "of the first tokens with which own answers begin"),
        "evidence_mass": Column(REAL, "mass", "grounding layers, in the part of the reasoning before it", True),
        "uniform_evidence_share": Column(REAL, "mass", "the same of a uniform look", True),
        "n_bins": Column(INT, "", "parts of the reasoning")},
    "head_losses": KEYS | {
        "n_heads": Column(INT, "", "heads that do not see the evidence"),
        "chosen": Column(TEXT, "", "top by lift, random of the same layers, all"),
        "lost_nats": Column(REAL, "nats", "log p of reasoning and answer, baseline less this", True)},
    "needs": KEYS | {
        "start_share": Column(REAL, "share", "of the own reasoning, from which on another item's picture is seen"),
        "level": Column(TEXT, "", "of need that the item was made for: early, recall, late; empty: for none"),
        "task_type": Column(TEXT, "", "declared task type"),
        "question": Column(TEXT, "", "as asked"), "correct": Column(pa.bool_(), "", "the own response"),
        "prediction": Column(TEXT, "", "as parsed"),
        "other_prediction": Column(TEXT, "", "of what is written where the other picture is seen"),
        "why_not": Column(TEXT, "", "why need is not known"),
        "own_log_odds_nats": Column(REAL, "nats", "of the own answer, behind the own text", True),
        "other_log_odds_nats": Column(REAL, "nats", "of it, behind the text that follows the other picture", True),
        "need_nats": Column(REAL, "nats", "need for looking: the first less the second", True)},
    "looks": KEYS | {
        "token_index": Column(INT, "", "position in the response, from 0"),
        "entropy_nats": Column(REAL, "nats", "entropy of the distribution that produced the token"),
        "visual_mass": Column(REAL, "mass", "attention mass on the image, mean of all heads")},
    "swaps": KEYS | {
        "token_index": Column(INT, "", "position in the response, from 0"), "token_text": Column(TEXT, "", "own token"),
        "altered_text": Column(TEXT, "", "most probable token where the picture is altered"),
        "log_probability_nats": Column(REAL, "nats", "of the own token"),
        "altered_log_probability_nats": Column(REAL, "nats", "of the own token where the picture is altered"),
        "word": Column(TEXT, "", "altered"), "own_word": Column(TEXT, "", "in the picture"),
        "altered_word": Column(TEXT, "", "in its altered copy")},
}  # fmt: skip
SCHEMAS |= CAUSAL


def describe(table: str, column: str) -> str:
    """Return a column's name and unit as an axis or a caption says them, as "evidence mass (share of attention)"."""
    unit = SCHEMAS[table][column].unit
    if column.startswith("n_"):
        return f"number of {column[2:]}".replace("_", " ")
    words = (column if unit in UNITS else column.removesuffix(f"_{unit}")).replace("_", " ")
    return f"{words} ({UNITS.get(unit, unit)})" if unit else words


def to_table(name: str, columns: Mapping[str, Any] | pd.DataFrame) -> pa.Table:
    """Cast columns to the schema `name` (text becomes a dictionary) and return the checked table."""
    arrays = {}
    for column, spec in SCHEMAS[name].items():
        values = pd.Series(columns[column]) if column in columns else None
        if values is None:
            raise NamedError(f"table {name}: no column {column}; expected {', '.join(SCHEMAS[name])}")
        if spec.type == TEXT:
            codes, labels = pd.factorize(values.astype("str"))
            indices, words = pa.array(codes, pa.int32()), pa.array(list(labels), pa.string())
            arrays[column] = pa.DictionaryArray.from_arrays(indices, words)
        else:
            arrays[column] = pa.array(values.to_numpy(), from_pandas=False).cast(spec.type)
    return check_table(name, pa.table(arrays))


def check_table(name: str, table: pa.Table, file: Path | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the table; raise NamedError unless columns, types and values are those of `SCHEMAS[name]`.

    Of some `columns` only, where that is all that was read. A message names the file where the table was read from one:
    delete it, and the next run builds it again.
    """
    where = f"table {name}" if file is None else f"{paths.show(file)}: table {name}"
    wanted = {column: SCHEMAS[name][column] for column in columns or SCHEMAS[name]}
    expected = {column: spec.type for column, spec in wanted.items()}
    store.check_columns(where, table, expected, "build the table again")
    for column, spec in wanted.items():
        if spec.type != REAL:
            continue
        values = table[column].to_numpy()
        bad = ~np.isfinite(values) & ~(spec.may_be_nan & np.isnan(values))
        if spec.unit in ("mass", "share", "probability"):
            bad |= (values < -1e-6) | (values > 1 + 1e-3)
        if bad.any():
            row = int(np.argmax(bad))
            what = f"{values[row]}; expected a finite {spec.unit or 'number'} in its range; look at this item's trace"
            raise NamedError(f"{where}, row {row}, column {column}: {what}")
    return table


def write_table(name: str, table: pa.Table, path: Path, **metadata: str) -> None:
    """Check the table against `SCHEMAS[name]` and write it, units and meanings beside other metadata."""
    units = {f"column:{c}": f"[{spec.unit}] {spec.meaning}" for c, spec in SCHEMAS[name].items()}
    store.write_table(path, check_table(name, table), units | {"table": name} | metadata)


def read_manifest(profile: str) -> dict[str, Any]:
    """Return what the last finished extraction says about itself; NamedError if none has finished, or it is damaged."""
    remedy = f"run `make extract PROFILE={profile}` to its end"
    manifest: dict[str, Any] = read_json(paths.extraction_manifest(profile), remedy)
    return manifest


def iterate_parts(
    profile: str, names: Sequence[str], columns: Sequence[str] | None = None, **only: Any
) -> Iterator[dict[str, pd.DataFrame]]:
    """Yield the tables of one shard after the other, in the order of the manifest, checked against their schemas.

    Parameters
    ----------
    columns : to read; a table has those that its schema knows, and those of `only`. All by default
    only : values that columns must have, as `split="test"`, in every table whose schema knows the column; a shard
        without such rows is not opened
    """
    for part in _scan_parts(profile, names, columns, only):
        yield {name: table.to_pandas() for name, table in part.items()}


def _scan_parts(
    profile: str, names: Sequence[str], columns: Sequence[str] | None, only: Mapping[str, Any]
) -> Iterator[dict[str, pa.Table]]:
    kinds = {"sample_parts" if name == "samples" else "parts" for name in names}
    if len(kinds) > 1:
        raise NamedError(f"tables {', '.join(names)}: samples have shards of their own; read them by themselves")
    for part in read_manifest(profile)[kinds.pop() if kinds else "parts"]:
        model, shard = part.split("/")
        held = {"model": model, **dict(zip(("benchmark", "split"), shard.split("-"), strict=False))}
        if all(value == only.get(key, value) for key, value in held.items()):
            yield {name: _read_part(name, paths.part(profile, name, part), columns, only) for name in names}


def _read_part(name: str, file: Path, columns: Sequence[str] | None, only: Mapping[str, Any]) -> pa.Table:
    wanted = None if columns is None else [c for c in SCHEMAS[name] if c in columns or c in only]
    table = check_table(name, store.read_table(file, wanted), file, wanted)
    for column in only.keys() & SCHEMAS[name].keys():
        table = table.filter(pc.field(column) == only[column])
    return table.replace_schema_metadata()  # what pandas keeps there may be damaged


def read_tables(
    profile: str, names: Sequence[str], columns: Sequence[str] | None = None, **only: Any
) -> dict[str, pd.DataFrame]:
    """Return whole tables, as `iterate_parts` reads them.

    `quarantine` has no measure and no schema here: see `extraction.run`.
    """
    parts = list(_scan_parts(profile, [name for name in names if name in PARTS], columns, only))
    found = {name: [part[name] for part in parts] for name in names if name in PARTS}
    if "samples" in names:  # none where none are asked for
        none = to_table("samples", {name: [] for name in SCHEMAS["samples"]})
        sampled = [part["samples"] for part in _scan_parts(profile, ["samples"], columns, only)]
        found["samples"] = sampled or [none.select([c for c in none.column_names if columns is None or c in columns])]
    tables = {
        name: pa.concat_tables(found[name]).unify_dictionaries() if name in SCHEMAS
        else store.read_table(paths.tables(profile) / f"{name}.parquet").replace_schema_metadata()
        for name in names
    }  # fmt: skip
    return {name: table.to_pandas() for name, table in tables.items()}
