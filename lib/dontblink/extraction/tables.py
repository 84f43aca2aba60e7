"""A measured shard to its part of each tidy table.

Why it exists: every later number reads these tables, one row per token, step, head, item, scorer or bin, in the columns
that `schema` declares; a measure is computed here and nowhere else. The code behind this module is part of the name of
every part, so that a changed scorer builds the parts again and replays nothing. In: items, their responses and traces.
Out: a part of every table, and the bins of other counts than those that the parts hold. Never: load a model, need more
than one shard, or fill an empty bin or a missing measure in silence (NaN only where the schema allows it).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from dontblink import schema
from dontblink.attention.grounding import add_visual, list_looks
from dontblink.boxes.evidence import border_mask, map_auc, mass_set_iou, pointing_hit
from dontblink.errors import NamedError
from dontblink.questions import registry
from dontblink.questions.items import GoldStep, Item, Score
from dontblink.schema import HEAD_SETS, KEYS, MASSES, PARTS, REGIONS, SCHEMAS, UNIFORM, UNTABLED, to_table

if TYPE_CHECKING:  # they bring torch, which is not needed to bin a table
    from dontblink.attention.traces import Trace
    from dontblink.models.response import Response
    from dontblink.models.samples import Sample

BINS = (3, 10)  # equal parts of the reasoning: counts that every part holds, see `read_bins`
OVERLAPS = {"pointing_hit": pointing_hit, "iou50": mass_set_iou, "map_auc": map_auc}
STEP_PATTERNS = (
    (r"^\S+ is ", "read"), (r"^\S+ was ", "recall"), (r"^(match|differ)\b", "judge"),
    (r"^\S+ \S+ (match|differ)\b", "scan"), (r" is ", "compute"),
)  # fmt: skip


def build_blocks(
    items: Sequence[Item], responses: Sequence[Response], traces: Sequence[Trace], generator: str, sink_rule: str,
    lacking_boxes: Mapping[str, str] | None = None,
) -> dict[str, pa.Table]:
    """Return one shard's part of each table; `items`, the mark of a whole shard, comes last.

    Parameters
    ----------
    items, responses : those of the shard, in any order; one without a trace has no row
    generator : the module of the generated benchmarks, `questions.generator`
    sink_rule : image tokens that the sink-masked variant drops, see `evidence.border_mask`
    lacking_boxes : why an item's evidence is not known, by item id; what takes it is NaN in its rows
    """
    lacking = lacking_boxes or {}
    by_id, written = {item.id: item for item in items}, {response.item_id: response for response in responses}
    keys, parts = [], []
    for trace in traces:
        item, response = by_id[trace.item_id], written[trace.item_id]
        check_trace(response, trace)
        kinds = name_steps(trace.step_texts, item.gold_steps)
        tokens, n_tokens = _token_rows(response, trace, kinds), len(trace.token_texts)
        # the scorers of the benchmarks know nothing of an end-of-sequence token
        end = trace.token_texts[-1] if response.finish_reason == "stop" else ""
        text = response.text.removesuffix(end)
        scores = registry.score(item, text, trace.answer_text, trace.spans.closed, generator)
        keys.append((trace.model, item.benchmark, item.split, item.id))
        parts.append({
            "tokens": tokens,
            "token_masses": {
                "token_index": np.tile(np.arange(n_tokens), len(HEAD_SETS)),
                "head_set": np.repeat(HEAD_SETS, n_tokens), **_name_masses(trace.mass),
            },
            "heads": list_looks(trace.head_mass, trace.evidence_fraction, trace.spans.reasoning),
            "steps": _step_rows(trace, kinds, [tokens[name] for name in UNIFORM], sink_rule),
            "items": _item_row(item, response, trace, scores["strict"], lacking.get(item.id, "")),
            "scores": _score_rows(scores),
        })  # fmt: skip
    names = [name for name in PARTS if name not in ("bins", "items")]
    blocks = {name: join_rows(name, keys, [part[name] for part in parts]) for name in (*names, "items")}
    tokens, masses = (blocks[name].to_pandas() for name in ("tokens", "token_masses"))
    bins = pa.concat_tables(bin_table(tokens, masses, n_bins) for n_bins in BINS).unify_dictionaries()
    return {"bins": bins, **blocks}


def build_samples(items: Sequence[Item], samples: Sequence[Sample], generator: str) -> pa.Table:
    """Return one shard's part of the table of samples, each scored strictly; see `build_blocks`."""
    by_id = {item.id: item for item in items}
    keys, parts = [], []
    for sample in samples:
        item = by_id[sample.item_id]
        score = registry.score(item, sample.text, sample.answer_text, sample.closed, generator)["strict"]
        keys.append((sample.model, item.benchmark, item.split, item.id))
        row = {
            "sample_index": sample.sample_index, "prediction": score.prediction, "parsed": score.parsed,
            "correct": score.correct, "n_response_tokens": sample.n_response_tokens,
            "finish_reason": sample.finish_reason,
        }  # fmt: skip
        parts.append({name: np.array([value]) for name, value in row.items()})
    return join_rows("samples", keys, parts)


def join_rows(name: str, keys: Sequence[tuple[str, ...]], parts: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Stack the rows of all responses into one table of schema `name`, their keys in front, and check it."""
    sizes = [len(next(iter(rows.values()))) for rows in parts]
    columns: dict[str, Any] = {}
    for place, key in enumerate(KEYS):
        columns[key] = np.repeat(np.asarray([own[place] for own in keys], object), sizes)
    for column in SCHEMAS[name].keys() - KEYS.keys():
        columns[column] = np.concatenate([rows[column] for rows in parts]) if parts else np.array([])
    return to_table(name, columns)


def check_trace(response: Response, trace: Trace) -> None:
    """Raise NamedError unless ids, texts, measures, steps and image tokens of a trace fit together."""
    measured = trace.entropy_nats, trace.top20_entropy_nats, trace.token_texts, trace.step_texts
    lengths = [len(part) for part in measured]
    found = (trace.mass.shape, *lengths, trace.step_map.shape, sum(rows * columns for rows, columns in trace.grids))
    n_tokens, n_steps = len(response.response_ids), len(trace.spans.steps)
    n_image, n_sets = len(trace.coverage), len(HEAD_SETS)
    masses, maps = (n_sets, n_tokens, len(REGIONS + UNTABLED)), (n_steps, n_sets, n_image)
    expected = (masses, *[n_tokens] * 3, n_steps, maps, n_image)
    if found != expected:
        parts = "(mass, entropies, top-20 entropies, token texts, step texts, maps, grid)"
        raise NamedError(f"item {trace.item_id}: {parts} = {found}, expected {expected}; replay this response")


def name_steps(texts: Sequence[str], gold: Sequence[GoldStep]) -> list[str]:
    """Return each step's kind: that of the gold step with its text, else of the first of `STEP_PATTERNS` that fits it.

    A kind that none of the item's gold steps has is never given; '' where nothing fits.
    """
    exact = {step.text.strip(" ."): step.kind for step in gold}
    known = set(exact.values())
    kinds = []
    for text in (text.strip(" .\n") for text in texts):
        fitting = (kind for pattern, kind in STEP_PATTERNS if kind in known and re.search(pattern, text))
        kinds.append(exact[text] if text in exact else next(fitting, ""))
    return kinds


def _name_masses(masses: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    named = dict(zip(MASSES, np.moveaxis(masses, -1, 0), strict=False))
    named["visual_mass"] = add_visual(named["evidence_mass"], named["visual_mass"])
    return {name: values.reshape(-1) for name, values in named.items()}


def _token_rows(response: Response, trace: Trace, kinds: Sequence[str]) -> dict[str, Any]:
    n_tokens, spans = len(response.response_ids), trace.spans
    span, step = np.full(n_tokens, "marker", "<U9"), np.full(n_tokens, -1)
    span[slice(*spans.reasoning)], span[slice(*spans.answer)] = "reasoning", "answer"
    for index, (begin, end) in enumerate(spans.steps):
        step[begin:end] = index
    context = len(response.prompt_ids) + np.arange(n_tokens)
    return {
        "token_index": np.arange(n_tokens), "token_id": np.asarray(response.response_ids),
        "token_text": np.asarray(trace.token_texts, object), "span": span,
        "step_index": step, "step_kind": np.asarray([*kinds, ""], object)[step],
        "entropy_nats": trace.entropy_nats, "top20_entropy_nats": trace.top20_entropy_nats,
        "log_probability_nats": trace.log_probability_nats,
        "context_length_tokens": context, "uniform_evidence_share": trace.evidence_tokens / context,
        "uniform_visual_share": trace.image_tokens / context,
    }  # fmt: skip


def _step_rows(trace: Trace, kinds: Sequence[str], uniform: Sequence[NDArray[Any]], sink_rule: str) -> dict[str, Any]:
    steps = np.asarray(trace.spans.steps, np.int64).reshape(-1, 2)
    n_steps, sizes = len(steps), steps[:, 1] - steps[:, 0]
    looks = np.broadcast_to(np.stack(uniform, axis=1), (len(HEAD_SETS), len(uniform[0]), len(uniform)))
    columns = np.concatenate([trace.mass[..., : len(REGIONS)], looks], axis=2)
    total = np.pad(np.cumsum(columns, axis=1, dtype=np.float64), ((0, 0), (1, 0), (0, 0)))
    means = (total[:, steps[:, 1]] - total[:, steps[:, 0]]) / sizes[:, None]
    maps = trace.step_map.transpose(1, 0, 2)
    kept = ~border_mask(trace.grids, sink_rule)  # type: ignore[arg-type]
    off_sinks = 1 - maps[..., ~kept].sum(axis=-1)
    flat = maps.reshape(len(HEAD_SETS) * n_steps, len(trace.coverage))
    overlaps = {
        name: np.array([measure(row, trace.coverage) for row in flat], np.float64) for name, measure in OVERLAPS.items()
    }
    return {
        "step_index": np.tile(np.arange(n_steps), len(HEAD_SETS)),
        "step_kind": np.tile(np.asarray(kinds, object), len(HEAD_SETS)), "head_set": np.repeat(HEAD_SETS, n_steps),
        "step_text": np.tile(np.asarray(trace.step_texts, object), len(HEAD_SETS)),
        "n_tokens": np.tile(sizes, len(HEAD_SETS)),
        "entropy_nats": np.tile([_mean(trace.entropy_nats[a:b]) for a, b in steps], len(HEAD_SETS)),
        **_name_masses(means[..., : len(REGIONS)]),
        **dict(zip(UNIFORM, means[..., len(REGIONS) :].reshape(-1, len(uniform)).T, strict=True)), **overlaps,
        "sink_masked_evidence_mass": ((maps * kept) @ trace.coverage / off_sinks).reshape(-1),
    }  # fmt: skip


def _item_row(item: Item, response: Response, trace: Trace, score: Score, missing: str) -> dict[str, Any]:
    entropy, top20 = (np.asarray(values, np.float64) for values in (trace.entropy_nats, trace.top20_entropy_nats))
    begin, end = trace.spans.reasoning
    # of the grounding layers; never empty while there is a reasoning token
    whole, late = trace.mass[0, begin:end], trace.mass[0, begin + 2 * (end - begin) // 3 : end]
    covariates = item.covariates
    row = {
        "correct": score.correct, "parsed": score.parsed, "answer": item.answer,
        "prediction": score.prediction, "finish_reason": response.finish_reason,
        "engine": response.engine, "retokenised": response.retokenised,
        "n_prompt_tokens": len(response.prompt_ids), "n_response_tokens": len(entropy),
        "n_reasoning_tokens": end - begin, "n_answer_tokens": -np.subtract(*trace.spans.answer),
        "n_steps": len(trace.spans.steps),
        "evidence_fraction": trace.evidence_fraction, "evidence_tokens": trace.evidence_tokens,
        "evidence_missing": missing,
        "noise_level": float(covariates.get("noise_level", np.nan)),
        "chain_length": float(covariates.get("chain_length", np.nan)),
        "chain_kind": str(covariates.get("chain_kind", "")),
        "prior_side": str(covariates.get("prior_side", "")),
        "task_type": item.task_type, "full_entropy_nats": _mean(entropy),
        "answer_entropy_nats": _mean(entropy[slice(*trace.spans.answer)]),
        "full_top20_entropy_nats": _mean(top20),
        "answer_top20_entropy_nats": _mean(top20[slice(*trace.spans.answer)]),
        "max_entropy_nats": entropy.max() if len(entropy) else np.nan,
        "last_decile_entropy_nats": _mean(entropy[9 * len(entropy) // 10 :]),
        "vision_evidence_mass": _mean(late[:, 0]), "vision_visual_mass": _mean(add_visual(*late[:, :2].T)),
        "vision_cumulative_evidence_mass": _mean(whole[:, 0]),
        "vision_cumulative_visual_mass": _mean(add_visual(*whole[:, :2].T)), "placebo_prompt_mass": _mean(late[:, 2]),
    }  # fmt: skip
    return {name: np.array([value]) for name, value in row.items()}


def _score_rows(scores: Mapping[str, Score]) -> dict[str, Any]:
    names = sorted(scores, key=lambda name: name != "strict")
    fields = ("correct", "parsed", "prediction")
    columns = {field: np.array([getattr(scores[name], field) for name in names], object) for field in fields}
    return {"scorer": np.asarray(names, object), **columns}


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else float("nan")


def bin_table(tokens: pd.DataFrame, token_masses: pd.DataFrame, n_bins: int) -> pa.Table:
    """Return mean masses per response, head set and bin: `n_bins` equal parts of the reasoning span.

    Reasoning token t of T falls in bin floor(n_bins (t + 1/2) / T). A response with fewer tokens than bins has empty
    bins: they have no row and `n_empty_bins` counts them.
    """
    keys = [*KEYS]
    rows = tokens.loc[tokens["span"] == "reasoning", [*keys, "token_index", *UNIFORM]]
    by_response = rows.groupby(keys, observed=True)["token_index"]
    place, length = by_response.rank(method="first") - 0.5, by_response.transform("size")
    rows = rows.assign(bin=np.floor(n_bins * place / length).astype(np.int32))
    joined = token_masses.merge(rows, on=[*keys, "token_index"], validate="m:1")
    if len(joined) != len(rows) * token_masses["head_set"].nunique():
        raise NamedError(f"{len(joined)} masses for {len(rows)} tokens; build both from the same shards")
    groups = joined.groupby([*keys, "head_set", "bin"], observed=True)
    binned = groups[[*MASSES, *UNIFORM]].mean().assign(n_tokens=groups.size()).reset_index()
    filled = binned.groupby([*keys, "head_set"], observed=True)["bin"].transform("size")
    return to_table("bins", binned.assign(n_bins=n_bins, n_empty_bins=n_bins - filled))


def read_bins(profile: str, n_bins: int, **only: Any) -> pd.DataFrame:
    """Return the rows of the bins table with `n_bins` parts of the reasoning, and other values as in `read_tables`.

    Those of `BINS` are there; others are made of the token masses, a shard at a time.
    """
    if n_bins in BINS:
        return schema.read_tables(profile, ["bins"], n_bins=n_bins, **only)["bins"]
    columns = [*KEYS, "token_index", "span", *UNIFORM, *MASSES, "head_set"]
    parts = schema.iterate_parts(profile, ["tokens", "token_masses"], columns, **only)
    made = [bin_table(part["tokens"], part["token_masses"], n_bins) for part in parts]
    return pa.concat_tables(made).unify_dictionaries().to_pandas()
