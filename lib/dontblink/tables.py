"""Traces to tidy tables: one row per token, step, head, item or bin, each table with a declared schema.

Why: every later number reads these tables, so a column's unit and meaning are fixed here, once. In: `Measured`
records (an item, its response, trace, spans and score), one shard at a time. Out: pyarrow blocks, checked against
`SCHEMAS`. Head sets weigh the (layer, head) pairs; the regions of capture sum to 1 and `control_box` overlaps
them. Never: fill an empty bin or a missing measure silently (NaN only where the schema allows it), or choose
grounding layers on items that a test uses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from dontblink import store
from dontblink.evidence import border_mask, map_auc, mass_set_iou, pointing_hit
from dontblink.items import GoldStep, Item

REGIONS = ("evidence", "other_image", "prompt", "earlier_response", "sink", "control_box")
MASSES = tuple(f"{region}_mass" for region in REGIONS)
HEAD_SETS = ("grounding_layers", "grounding_heads", "all_layers", "layer_0")
STEP_PATTERNS = ((r"^\S+ is ", "read"), (r"^\S+ was ", "recall"), (r"^(match|differ)\b", "judge"),
                 (r"^\S+ \S+ (match|differ)\b", "scan"), (r" is ", "compute"))
TEXT, INT, REAL = pa.dictionary(pa.int32(), pa.string()), pa.int32(), pa.float32()


class TableError(ValueError):
    """A table or record that breaks its schema; the message says where, what was found and what to do."""


class Column(NamedTuple):
    """Type, unit and meaning of a column; only a column with `may_be_nan` may hold NaN."""

    type: pa.DataType
    unit: str
    meaning: str
    may_be_nan: bool = False


KEYS = {"model": Column(TEXT, "", "checkpoint name"), "benchmark": Column(TEXT, "", "question set"),
        "split": Column(TEXT, "", "test or calibration"), "item_id": Column(TEXT, "", "item")}
_HEAD_SET = {"head_set": Column(TEXT, "", "heads averaged over: " + ", ".join(HEAD_SETS))}
_MASSES = {name: Column(REAL, "mass", f"attention mass on the region {name[:-5]}") for name in MASSES}
_UNIFORM = {"uniform_evidence_share": Column(REAL, "mass", "evidence tokens / keys visible: a uniform look's mass")}
_STEP = {"step_index": Column(INT, "", "step from 0; -1 outside the steps"),
         "step_kind": Column(TEXT, "", "gold kind whose pattern the step's text has; empty if none")}
_VISION = "mean over the last third of the reasoning, grounding layers: mass on the "
SCHEMAS: dict[str, dict[str, Column]] = {
    "tokens": KEYS | {
        "token_index": Column(INT, "", "position in the response, from 0"),
        "token_id": Column(INT, "", "vocabulary id"), "token_text": Column(TEXT, "", "decoded token"),
        "span": Column(TEXT, "", "reasoning, answer or marker"), **_STEP,
        "entropy_nats": Column(REAL, "nats", "entropy of the distribution that produced the token"),
        "log_probability_nats": Column(REAL, "nats", "log probability of the token"),
        "context_length_tokens": Column(INT, "tokens", "keys visible to the row that predicts the token"), **_UNIFORM},
    "token_masses": KEYS | {"token_index": Column(INT, "", "position in the response, from 0")} | _HEAD_SET | _MASSES,
    "heads": KEYS | {
        "layer": Column(INT, "", "text layer, from 0"), "head": Column(INT, "", "query head, from 0"),
        "evidence_mass": Column(REAL, "mass", "mean over the reasoning"),
        "visual_mass": Column(REAL, "mass", "evidence + other image, mean over the reasoning"),
        "evidence_fraction": Column(REAL, "share", "share of the image tokens that are evidence"),
        "evidence_lift": Column(REAL, "ratio", "evidence share of the visual mass / evidence fraction", True)},
    "steps": KEYS | _STEP | _HEAD_SET | {"n_tokens": Column(INT, "tokens", "tokens of the step")} | _MASSES | _UNIFORM | {
        "pointing_hit": Column(REAL, "share", "coverage of the most attended image token", True),
        "iou50": Column(REAL, "share", "IoU of the smallest set with half the visual mass", True),
        "map_auc": Column(REAL, "probability", "AUC of the map as a score of in-box tokens", True),
        "sink_masked_evidence_mass": Column(REAL, "mass", "evidence mass / mass off the image sinks", True)},
    "items": KEYS | {
        "correct": Column(pa.bool_(), "", "by the benchmark's scorer"), "parsed": Column(pa.bool_(), "", "answer found"),
        "answer": Column(TEXT, "", "gold"), "prediction": Column(TEXT, "", "as parsed"),
        "finish_reason": Column(TEXT, "", "stop, length or empty"),
        **{f"n_{part}": Column(INT, "tokens", f"{part.replace('_', ' ')}")
           for part in ("prompt_tokens", "response_tokens", "reasoning_tokens")},
        "n_steps": Column(INT, "steps", "reasoning steps"),
        "evidence_fraction": Column(REAL, "share", "share of the image tokens that are evidence"),
        "noise_level": Column(REAL, "", "picture noise", True), "chain_length": Column(REAL, "", "chain units", True),
        "chain_kind": Column(TEXT, "", "step or recall"), "prior_side": Column(TEXT, "", "prior against picture"),
        "task_type": Column(TEXT, "", "declared task type"),
        **{f"{part}_entropy_nats": Column(REAL, "nats", f"{meaning} token entropy", True) for part, meaning in (
            ("full", "mean"), ("answer", "mean answer-span"), ("max", "largest"), ("last_decile", "mean last-10-%"))},
        "vision_evidence_mass": Column(REAL, "mass", _VISION + "evidence", True),
        "vision_visual_mass": Column(REAL, "mass", _VISION + "image", True)},
    "bins": KEYS | _HEAD_SET | {
        "bin": Column(INT, "", "part of the reasoning, from 0"), "n_bins": Column(INT, "", "parts in all"),
        "n_empty_bins": Column(INT, "", "parts of this response without a token; they have no row"),
        "n_tokens": Column(INT, "tokens", "tokens averaged")} | _MASSES | _UNIFORM,
}  # fmt: skip


class Score(NamedTuple):
    """What the benchmark's scorer says of a response."""

    correct: bool
    parsed: bool
    prediction: str


@dataclass(frozen=True)
class Measured:
    """One response with all that was measured on it.

    `response` is a generate.Response, `trace` a replay.Trace, `spans` a vlm.Spans; `token_texts` [T] and `step_texts` [S]
    are decoded by the model's tokenizer; `coverage` float32[M] and `grids` are the evidence over the image tokens.
    """

    item: Item
    response: Any
    trace: Any
    spans: Any
    token_texts: Sequence[str]
    step_texts: Sequence[str]
    coverage: NDArray[np.float32]
    grids: Sequence[tuple[int, int]]
    score: Score


@dataclass(frozen=True)
class Grounding:
    """Layers and (layer, head) pairs with the largest evidence lift of a model on its calibration items."""

    layers: tuple[int, ...]
    heads: tuple[tuple[int, int], ...]
    layer_lift: tuple[float, ...]
    n_items: int


def build_heads(records: Iterable[Measured]) -> pa.Table:
    """Return the heads block: means over the reasoning span, L * H rows per response that has a reasoning."""
    return join_blocks("heads", [(record, _head_rows(record)) for record in records])


def build_blocks(records: Sequence[Measured], grounding: Grounding, *, sink_rule: str = "border",
                 patterns: Sequence[tuple[str, str]] = STEP_PATTERNS) -> dict[str, pa.Table]:
    """Return the tokens, token_masses, heads, steps and items blocks of a shard (one model)."""
    parts: dict[str, list[tuple[Measured, dict[str, Any]]]] = {
        name: [] for name in ("tokens", "token_masses", "heads", "steps", "items")}
    for record in records:
        check_record(record)
        n_layers, n_heads, n_tokens, _ = record.trace.mass.shape
        weights = weigh_heads(grounding, n_layers, n_heads)
        masses = (weights @ record.trace.mass.reshape(n_layers * n_heads, -1)).reshape(len(HEAD_SETS), n_tokens, -1)
        kinds = name_steps(record.step_texts, record.item.gold_steps, patterns)
        tokens = _token_rows(record, kinds)
        parts["tokens"].append((record, tokens))
        parts["token_masses"].append((record, {
            "token_index": np.tile(np.arange(n_tokens), len(HEAD_SETS)),
            "head_set": np.repeat(HEAD_SETS, n_tokens), **_name_masses(masses)}))
        parts["heads"].append((record, _head_rows(record)))
        parts["steps"].append((record, _step_rows(record, kinds, masses, tokens["uniform_evidence_share"], weights, sink_rule)))
        parts["items"].append((record, _item_row(record, masses[0])))
    return {name: join_blocks(name, rows) for name, rows in parts.items()}


def check_record(record: Measured) -> None:
    """Raise TableError unless ids, texts, trace and steps of a record have one length and one image size."""
    mass, steps = record.trace.mass, record.trace.step_map
    found = (mass.shape[2:], len(record.trace.entropy_nats), len(record.token_texts), len(record.step_texts),
             steps.shape[0], steps.shape[-1], sum(r * c for r, c in record.grids))
    n_tokens, n_steps, n_image = len(record.response.response_ids), len(record.spans.steps), len(record.coverage)
    expected = ((n_tokens, len(REGIONS)), n_tokens, n_tokens, n_steps, n_steps, n_image, n_image)
    if found != expected:
        raise TableError(f"item {record.item.id}: (mass, entropies, token texts, step texts, maps, map tokens, grid) = "
                         f"{found}, expected {expected}; replay this response")


def name_steps(texts: Sequence[str], gold: Sequence[GoldStep],
               patterns: Sequence[tuple[str, str]] = STEP_PATTERNS) -> list[str]:
    """Return the kind of each step: that of the gold step with the same text, else of the first pattern that fits and
    whose kind the item's gold steps know, else ''."""
    exact = {step.text.strip(" ."): step.kind for step in gold}
    known = set(exact.values())
    kinds = []
    for text in (text.strip(" .\n") for text in texts):
        fitting = (kind for pattern, kind in patterns if kind in known and re.search(pattern, text))
        kinds.append(exact[text] if text in exact else next(fitting, ""))
    return kinds


def weigh_heads(grounding: Grounding, n_layers: int, n_heads: int) -> NDArray[np.float32]:
    """Return float32[4 head sets, L * H] weights that sum to 1: the mean over the heads of each set."""
    weights = np.zeros((len(HEAD_SETS), n_layers, n_heads), np.float32)
    weights[0, list(grounding.layers)] = 1
    weights[1, [layer for layer, _ in grounding.heads], [head for _, head in grounding.heads]] = 1
    weights[2], weights[3, 0] = 1, 1
    flat = weights.reshape(len(HEAD_SETS), -1)
    return flat / flat.sum(axis=1, keepdims=True)


def _name_masses(masses: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    return {name: masses[..., k].reshape(-1) for k, name in enumerate(MASSES)}


def _token_rows(record: Measured, kinds: Sequence[str]) -> dict[str, Any]:
    n_tokens, spans = len(record.response.response_ids), record.spans
    span, step = np.full(n_tokens, "marker", "<U9"), np.full(n_tokens, -1)
    span[slice(*spans.reasoning)], span[slice(*spans.answer)] = "reasoning", "answer"
    for index, (begin, end) in enumerate(spans.steps):
        step[begin:end] = index
    context = len(record.response.prompt_ids) + np.arange(n_tokens)
    return {"token_index": np.arange(n_tokens), "token_id": np.asarray(record.response.response_ids),
            "token_text": np.asarray(record.token_texts, object), "span": span, "step_index": step,
            "step_kind": np.asarray([*kinds, ""], object)[step], "entropy_nats": record.trace.entropy_nats,
            "log_probability_nats": record.trace.log_probability_nats, "context_length_tokens": context,
            "uniform_evidence_share": record.coverage.sum() / context}


def _head_rows(record: Measured) -> dict[str, Any]:
    begin, end = record.spans.reasoning
    n_layers, n_heads = record.trace.mass.shape[:2] if end > begin else (0, 0)
    mass = record.trace.mass[:n_layers, :n_heads, begin:end, :2].mean(axis=2, dtype=np.float64) if n_layers else np.zeros((0, 0, 2))
    evidence, visual = mass[..., 0].reshape(-1), mass.sum(axis=-1).reshape(-1)
    expected = visual * float(record.coverage.mean())
    return {"layer": np.repeat(np.arange(n_layers), n_heads), "head": np.tile(np.arange(n_heads), n_layers),
            "evidence_mass": evidence, "visual_mass": visual,
            "evidence_fraction": np.full(len(visual), record.coverage.mean()),
            "evidence_lift": np.divide(evidence, expected, out=np.full_like(evidence, np.nan), where=expected > 0)}


def _step_rows(record: Measured, kinds: Sequence[str], masses: NDArray[np.float32], uniform: NDArray[Any],
               weights: NDArray[np.float32], sink_rule: str) -> dict[str, Any]:
    steps = np.asarray(record.spans.steps, np.int64).reshape(-1, 2)
    n_steps, sizes = len(steps), steps[:, 1] - steps[:, 0]
    columns = np.concatenate([masses, np.broadcast_to(uniform[:, None], (len(HEAD_SETS), len(uniform), 1))], axis=2)
    total = np.pad(np.cumsum(columns, axis=1, dtype=np.float64), ((0, 0), (1, 0), (0, 0)))
    means = ((total[:, steps[:, 1]] - total[:, steps[:, 0]]) / sizes[:, None])
    maps = (weights @ record.trace.step_map.reshape(n_steps, weights.shape[1], -1)).transpose(1, 0, 2)
    kept = ~border_mask(record.grids, sink_rule)  # type: ignore[arg-type]
    off_sinks = 1 - maps[..., ~kept].sum(axis=-1)
    flat = maps.reshape(len(HEAD_SETS) * n_steps, -1)
    overlaps = {name: np.array([measure(row, record.coverage) for row in flat], np.float64)
                for name, measure in (("pointing_hit", pointing_hit), ("iou50", mass_set_iou), ("map_auc", map_auc))}
    return {"step_index": np.tile(np.arange(n_steps), len(HEAD_SETS)), "step_kind": np.tile(np.asarray(kinds, object), 4),
            "head_set": np.repeat(HEAD_SETS, n_steps), "n_tokens": np.tile(sizes, len(HEAD_SETS)),
            **_name_masses(means), "uniform_evidence_share": means[..., -1].reshape(-1), **overlaps,
            "sink_masked_evidence_mass": ((maps * kept) @ record.coverage / off_sinks).reshape(-1)}


def _item_row(record: Measured, masses: NDArray[np.float32]) -> dict[str, Any]:
    item, response, spans = record.item, record.response, record.spans
    entropy = np.asarray(record.trace.entropy_nats, np.float64)
    begin, end = spans.reasoning
    late = masses[begin + 2 * (end - begin) // 3 : end]  # never empty while there is a reasoning token
    covariates = item.covariates
    row = {
        "correct": record.score.correct, "parsed": record.score.parsed, "answer": item.answer,
        "prediction": record.score.prediction, "finish_reason": response.finish_reason,
        "n_prompt_tokens": len(response.prompt_ids), "n_response_tokens": len(entropy),
        "n_reasoning_tokens": end - begin, "n_steps": len(spans.steps),
        "evidence_fraction": record.coverage.mean(), "noise_level": float(covariates.get("noise_level", np.nan)),
        "chain_length": float(covariates.get("chain_length", np.nan)),
        "chain_kind": str(covariates.get("chain_kind", "")), "prior_side": str(covariates.get("prior_side", "")),
        "task_type": item.task_type, "full_entropy_nats": _mean(entropy),
        "answer_entropy_nats": _mean(entropy[slice(*spans.answer)]), "max_entropy_nats": entropy.max(initial=-np.inf),
        "last_decile_entropy_nats": _mean(entropy[9 * len(entropy) // 10 :]),
        "vision_evidence_mass": _mean(late[:, 0]), "vision_visual_mass": _mean(late[:, :2].sum(axis=1)),
    }  # fmt: skip
    row["max_entropy_nats"] = row["max_entropy_nats"] if len(entropy) else np.nan
    return {name: np.array([value]) for name, value in row.items()}


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else float("nan")


def join_blocks(name: str, parts: Sequence[tuple[Measured, dict[str, Any]]]) -> pa.Table:
    """Stack the rows of all records into one table of schema `name`, key columns first, and check it."""
    sizes = [len(next(iter(rows.values()))) for _, rows in parts]
    keys = {"model": [r.response.model for r, _ in parts], "benchmark": [r.item.benchmark for r, _ in parts],
            "split": [r.item.split for r, _ in parts], "item_id": [r.item.id for r, _ in parts]}
    columns: dict[str, Any] = {key: np.repeat(np.asarray(values, object), sizes) for key, values in keys.items()}
    columns |= {column: np.concatenate([rows[column] for _, rows in parts]) if parts else [] for column in
                SCHEMAS[name] if column not in KEYS}
    return to_table(name, columns)


def to_table(name: str, columns: Mapping[str, Any] | pd.DataFrame) -> pa.Table:
    """Cast columns to the schema `name` (text becomes a dictionary) and return the checked table."""
    arrays = {}
    for column, spec in SCHEMAS[name].items():
        values = pd.Series(columns[column]) if column in columns else None
        if values is None:
            raise TableError(f"table {name}: no column {column}; expected {', '.join(SCHEMAS[name])}")
        if spec.type == TEXT:
            codes, labels = pd.factorize(values.astype("str"))
            arrays[column] = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(labels, pa.string()))
        else:
            arrays[column] = pa.array(values.to_numpy(), from_pandas=False).cast(spec.type)
    return check_table(name, pa.table(arrays))


def check_table(name: str, table: pa.Table) -> pa.Table:
    """Return the table; raise TableError unless it has the columns, types and value ranges of `SCHEMAS[name]`."""
    expected = {column: spec.type for column, spec in SCHEMAS[name].items()}
    found = dict(zip(table.column_names, table.schema.types, strict=True))
    if found != expected:
        wrong = sorted(c for c in expected.keys() | found.keys() if found.get(c) != expected.get(c))
        raise TableError(f"table {name}: columns {wrong} are {[str(found.get(c)) for c in wrong]}, expected "
                         f"{[str(expected.get(c)) for c in wrong]}; build the table again")
    for column, spec in SCHEMAS[name].items():
        if table[column].null_count:
            raise TableError(f"table {name}, column {column}: {table[column].null_count} nulls; expected none")
        if spec.type != REAL:
            continue
        values = table[column].to_numpy()
        bad = ~np.isfinite(values) & ~(spec.may_be_nan & np.isnan(values))
        if spec.unit in ("mass", "share", "probability"):
            bad |= (values < -1e-6) | (values > 1 + 1e-3)
        if bad.any():
            row = int(np.argmax(bad))
            raise TableError(f"table {name}, row {row}, column {column}: {values[row]}; expected a {spec.unit or 'number'} "
                             "in its range; look at this item's trace")
    return table


def write_table(name: str, table: pa.Table, path: Path) -> None:
    """Check the table against `SCHEMAS[name]` and write it with each column's unit and meaning as metadata."""
    units = {f"column:{c}": f"[{spec.unit}] {spec.meaning}" for c, spec in SCHEMAS[name].items()}
    store.write_table(path, check_table(name, table), units | {"table": name})


def select_grounding(heads: pd.DataFrame, n_layers: int, n_heads: int) -> dict[str, Grounding]:
    """Return each model's layers and (layer, head) pairs of largest evidence lift, from calibration items only.

    Lift of a layer = sum of evidence mass / sum of (visual mass * evidence fraction), over its heads and all items: a
    ratio of means, 1 for a look that has no preference within the image. Ties go to the lower number.

    Raises
    ------
    TableError
        If a row of another split is passed, or a model has fewer layers or heads than asked for.
    """
    if (heads["split"].astype(str) != "calibration").any():
        raise TableError("heads of the test split: grounding is chosen on the calibration split only; filter the rows")
    rows = heads.assign(expected=heads["visual_mass"] * heads["evidence_fraction"])
    chosen = {}
    for model, part in rows.groupby("model", observed=True):
        layers, pairs = (part.groupby(by)[["evidence_mass", "expected"]].sum() for by in ("layer", ["layer", "head"]))
        layer_lift, pair_lift = (sums["evidence_mass"] / sums["expected"] for sums in (layers, pairs))
        if layer_lift.isna().any() or not (0 < n_layers <= len(layers) and 0 < n_heads <= len(pairs)):
            raise TableError(f"model {model}: {n_layers} layers and {n_heads} heads asked of {len(layers)} and {len(pairs)}, "
                             "or no evidence at all; lower the numbers or add boxes")
        best = [lift.sort_values(ascending=False, kind="stable").index for lift in (layer_lift, pair_lift)]
        chosen[str(model)] = Grounding(tuple(sorted(int(k) for k in best[0][:n_layers])),
                                       tuple(sorted((int(a), int(b)) for a, b in best[1][:n_heads])),
                                       tuple(float(x) for x in layer_lift), int(part["item_id"].nunique()))
    return chosen


def bin_table(tokens: pd.DataFrame, token_masses: pd.DataFrame, bins: int,
              step_kinds: Sequence[str] = ()) -> pd.DataFrame:
    """Return mean masses per response, head set and bin: `bins` equal parts of the reasoning span.

    Reasoning token t of T falls in bin floor(bins * (t + 0.5) / T). A response with fewer tokens than bins has empty
    bins: they have no row and `n_empty_bins` counts them. `step_kinds` keeps the tokens of such steps only, at their
    place in the whole reasoning.
    """
    keys = [*KEYS]
    rows = tokens.loc[tokens["span"] == "reasoning", [*keys, "token_index", "step_kind", "uniform_evidence_share"]]
    by_response = rows.groupby(keys, observed=True)["token_index"]
    place, length = by_response.rank(method="first") - 0.5, by_response.transform("size")
    rows = rows.assign(bin=np.floor(bins * place / length).astype(np.int32))
    rows = rows[rows["step_kind"].isin(list(step_kinds))] if step_kinds else rows
    joined = token_masses.merge(rows.drop(columns="step_kind"), on=[*keys, "token_index"], validate="m:1")
    if len(joined) != len(rows) * token_masses["head_set"].nunique():
        raise TableError(f"{len(joined)} masses for {len(rows)} tokens; rebuild tokens and token_masses from one shard")
    groups = joined.groupby([*keys, "head_set", "bin"], observed=True)
    binned = groups[[*MASSES, "uniform_evidence_share"]].mean().assign(n_tokens=groups.size()).reset_index()
    filled = binned.groupby([*keys, "head_set"], observed=True)["bin"].transform("size")
    binned = binned.assign(n_bins=bins, n_empty_bins=bins - filled)
    return to_table("bins", binned).to_pandas()
