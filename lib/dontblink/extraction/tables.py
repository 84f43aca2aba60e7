"""Traces to tidy tables: one row per token, step, head, item or bin, each table with a declared schema.

Why: every later number reads these tables, so a column's unit and meaning are fixed here, once. In:
`Measured` records (an item, its response, trace, spans and score), one shard at a time. Out: pyarrow blocks,
checked against `SCHEMAS`. Head sets weigh the (layer, head) pairs; the regions of capture sum to 1 and
`control_box` overlaps them. Never: fill an empty bin or a missing measure silently (NaN only where the schema
allows it), or choose grounding layers on items that a test uses.

Finished shards to the tidy tables, the quarantine and the manifest of a study.

In: a `Study` and its shards. Out: tables, one row of quarantine for everything that was left out, the list of chosen
items of every real benchmark, and the manifest that names every file, written last. Never: load a model, or leave a
row out without its reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import transformers
from numpy.typing import NDArray
from tqdm import tqdm

from dontblink import paths, schema, store
from dontblink.attention.grounding import list_looks
from dontblink.attention.traces import TraceRecord, read_note, read_traces
from dontblink.boxes.evidence import border_mask, map_auc, mass_set_iou, pointing_hit
from dontblink.errors import make_cell
from dontblink.extraction.study import Shard, Study
from dontblink.files import hash_file, whole_file, writable
from dontblink.models.checkpoints import find_backend
from dontblink.models.generate import Response
from dontblink.questions import registry
from dontblink.questions.items import GoldStep, Item, Score
from dontblink.schema import HEAD_SETS, KEYS, MASSES, REGIONS, SCHEMAS, TableError, to_table

OVERLAPS = {"pointing_hit": pointing_hit, "iou50": mass_set_iou, "map_auc": map_auc}
STEP_PATTERNS = (
    (r"^\S+ is ", "read"),
    (r"^\S+ was ", "recall"),
    (r"^(match|differ)\b", "judge"),
    (r"^\S+ \S+ (match|differ)\b", "scan"),
    (r" is ", "compute"),
)


@dataclass(frozen=True)
class Measured:
    """One response with all that was measured on it.

    `response` is a generate.Response, `trace` a replay.SetTrace over the sets of `HEAD_SETS`, `spans` a vlm.Spans;
    `token_texts` [T] and `step_texts` [S] are decoded by the model's tokenizer; `coverage` float32[M] and `grids` are
    the evidence over the image tokens; `scores` holds the benchmark's scorers by name, `strict` among them.
    """

    item: Item
    response: Any
    trace: Any
    spans: Any
    token_texts: Sequence[str]
    step_texts: Sequence[str]
    coverage: NDArray[np.float32]
    grids: Sequence[tuple[int, int]]
    scores: Mapping[str, Score]


def build_heads(records: Iterable[Measured]) -> pa.Table:
    """Return the heads block: means over the reasoning span, L * H rows per response that has a reasoning."""
    return join_blocks(
        "heads",
        [(record, list_looks(record.trace.head_mass, record.coverage, record.spans.reasoning)) for record in records],
    )


def build_blocks(
    records: Sequence[Measured],
    *,
    sink_rule: str = "border",
    patterns: Sequence[tuple[str, str]] = STEP_PATTERNS,
) -> dict[str, pa.Table]:
    """Return the tokens, token_masses, heads, steps, items and scores blocks of a shard (one model)."""
    parts: dict[str, list[tuple[Measured, dict[str, Any]]]] = {
        name: [] for name in ("tokens", "token_masses", "heads", "steps", "items", "scores")
    }
    for record in records:
        check_record(record)
        masses, n_tokens = record.trace.mass, record.trace.mass.shape[1]
        kinds = name_steps(record.step_texts, record.item.gold_steps, patterns)
        tokens = _token_rows(record, kinds)
        parts["tokens"].append((record, tokens))
        parts["token_masses"].append(
            (
                record,
                {
                    "token_index": np.tile(np.arange(n_tokens), len(HEAD_SETS)),
                    "head_set": np.repeat(HEAD_SETS, n_tokens),
                    **_name_masses(masses),
                },
            )
        )
        parts["heads"].append((record, list_looks(record.trace.head_mass, record.coverage, record.spans.reasoning)))
        uniform = tokens["uniform_evidence_share"]
        parts["steps"].append((record, _step_rows(record, kinds, masses, uniform, sink_rule)))
        parts["items"].append((record, _item_row(record, masses[0])))
        parts["scores"].append((record, _score_rows(record)))
    return {name: join_blocks(name, rows) for name, rows in parts.items()}


def check_record(record: Measured) -> None:
    """Raise TableError unless ids, texts, trace, steps and image tokens of a record fit together."""
    mass, steps = record.trace.mass, record.trace.step_map
    found = (
        mass.shape,
        len(record.trace.entropy_nats),
        len(record.token_texts),
        len(record.step_texts),
        steps.shape,
        sum(r * c for r, c in record.grids),
    )
    n_tokens, n_steps = len(record.response.response_ids), len(record.spans.steps)
    n_image = len(record.coverage)
    n_sets = len(HEAD_SETS)
    expected = ((n_sets, n_tokens, len(REGIONS)), *[n_tokens] * 2, n_steps, (n_steps, n_sets, n_image), n_image)
    if found != expected:
        raise TableError(
            f"item {record.item.id}: (mass, entropies, token texts, step texts, maps, "
            f"grid) = {found}, expected {expected}; replay this response"
        )


def name_steps(
    texts: Sequence[str], gold: Sequence[GoldStep], patterns: Sequence[tuple[str, str]] = STEP_PATTERNS
) -> list[str]:
    """Return each step's kind: that of the gold step with its text, else of the first pattern that fits it.

    A kind that none of the item's gold steps has is never given; '' where nothing fits.
    """
    exact = {step.text.strip(" ."): step.kind for step in gold}
    known = set(exact.values())
    kinds = []
    for text in (text.strip(" .\n") for text in texts):
        fitting = (kind for pattern, kind in patterns if kind in known and re.search(pattern, text))
        kinds.append(exact[text] if text in exact else next(fitting, ""))
    return kinds


def _name_masses(masses: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    return {name: masses[..., k].reshape(-1) for k, name in enumerate(MASSES)}


def _token_rows(record: Measured, kinds: Sequence[str]) -> dict[str, Any]:
    n_tokens, spans = len(record.response.response_ids), record.spans
    span, step = np.full(n_tokens, "marker", "<U9"), np.full(n_tokens, -1)
    span[slice(*spans.reasoning)], span[slice(*spans.answer)] = "reasoning", "answer"
    for index, (begin, end) in enumerate(spans.steps):
        step[begin:end] = index
    context = len(record.response.prompt_ids) + np.arange(n_tokens)
    return {
        "token_index": np.arange(n_tokens),
        "token_id": np.asarray(record.response.response_ids),
        "token_text": np.asarray(record.token_texts, object),
        "span": span,
        "step_index": step,
        "step_kind": np.asarray([*kinds, ""], object)[step],
        "entropy_nats": record.trace.entropy_nats,
        "log_probability_nats": record.trace.log_probability_nats,
        "context_length_tokens": context,
        "uniform_evidence_share": record.coverage.sum() / context,
    }


def _step_rows(
    record: Measured,
    kinds: Sequence[str],
    masses: NDArray[np.float32],
    uniform: NDArray[Any],
    sink_rule: str,
) -> dict[str, Any]:
    steps = np.asarray(record.spans.steps, np.int64).reshape(-1, 2)
    n_steps, sizes = len(steps), steps[:, 1] - steps[:, 0]
    look = np.broadcast_to(uniform[:, None], (len(HEAD_SETS), len(uniform), 1))
    columns = np.concatenate([masses, look], axis=2)
    total = np.pad(np.cumsum(columns, axis=1, dtype=np.float64), ((0, 0), (1, 0), (0, 0)))
    means = (total[:, steps[:, 1]] - total[:, steps[:, 0]]) / sizes[:, None]
    maps = record.trace.step_map.transpose(1, 0, 2)
    kept = ~border_mask(record.grids, sink_rule)  # type: ignore[arg-type]
    off_sinks = 1 - maps[..., ~kept].sum(axis=-1)
    flat = maps.reshape(len(HEAD_SETS) * n_steps, len(record.coverage))
    overlaps = {
        name: np.array([measure(row, record.coverage) for row in flat], np.float64)
        for name, measure in OVERLAPS.items()
    }
    return {
        "step_index": np.tile(np.arange(n_steps), len(HEAD_SETS)),
        "step_kind": np.tile(np.asarray(kinds, object), len(HEAD_SETS)),
        "head_set": np.repeat(HEAD_SETS, n_steps),
        "step_text": np.tile(np.asarray(record.step_texts, object), len(HEAD_SETS)),
        "n_tokens": np.tile(sizes, len(HEAD_SETS)),
        **_name_masses(means),
        "uniform_evidence_share": means[..., -1].reshape(-1),
        **overlaps,
        "sink_masked_evidence_mass": ((maps * kept) @ record.coverage / off_sinks).reshape(-1),
    }


def _item_row(record: Measured, masses: NDArray[np.float32]) -> dict[str, Any]:
    item, response, spans, score = record.item, record.response, record.spans, record.scores["strict"]
    entropy = np.asarray(record.trace.entropy_nats, np.float64)
    begin, end = spans.reasoning
    late = masses[begin + 2 * (end - begin) // 3 : end]  # never empty while there is a reasoning token
    covariates = item.covariates
    row = {
        "correct": score.correct, "parsed": score.parsed, "answer": item.answer,
        "prediction": score.prediction, "finish_reason": response.finish_reason,
        "engine": response.engine, "retokenised": response.retokenised,
        "n_prompt_tokens": len(response.prompt_ids), "n_response_tokens": len(entropy),
        "n_reasoning_tokens": end - begin, "n_steps": len(spans.steps),
        "evidence_fraction": record.coverage.mean(),
        "noise_level": float(covariates.get("noise_level", np.nan)),
        "chain_length": float(covariates.get("chain_length", np.nan)),
        "chain_kind": str(covariates.get("chain_kind", "")),
        "prior_side": str(covariates.get("prior_side", "")),
        "task_type": item.task_type, "full_entropy_nats": _mean(entropy),
        "answer_entropy_nats": _mean(entropy[slice(*spans.answer)]),
        "max_entropy_nats": entropy.max() if len(entropy) else np.nan,
        "last_decile_entropy_nats": _mean(entropy[9 * len(entropy) // 10 :]),
        "vision_evidence_mass": _mean(late[:, 0]), "vision_visual_mass": _mean(late[:, :2].sum(axis=1)),
    }  # fmt: skip
    return {name: np.array([value]) for name, value in row.items()}


def _score_rows(record: Measured) -> dict[str, Any]:
    names = sorted(record.scores, key=lambda name: name != "strict")
    scores = [record.scores[name] for name in names]
    return {
        "scorer": np.asarray(names, object),
        **{
            field: np.array([getattr(s, field) for s in scores], object)
            for field in ("correct", "parsed", "prediction")
        },
    }


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else float("nan")


def join_blocks(name: str, parts: Sequence[tuple[Measured, dict[str, Any]]]) -> pa.Table:
    """Stack the rows of all records into one table of schema `name`, key columns first, and check it."""
    sizes = [len(next(iter(rows.values()))) for _, rows in parts]
    keys = {
        "model": [r.response.model for r, _ in parts],
        "benchmark": [r.item.benchmark for r, _ in parts],
        "split": [r.item.split for r, _ in parts],
        "item_id": [r.item.id for r, _ in parts],
    }
    columns: dict[str, Any] = {}
    for key, values in keys.items():
        columns[key] = np.repeat(np.asarray(values, object), sizes)
    for column in SCHEMAS[name].keys() - KEYS.keys():
        columns[column] = np.concatenate([rows[column] for _, rows in parts]) if parts else np.array([])
    return to_table(name, columns)


def bin_table(
    tokens: pd.DataFrame, token_masses: pd.DataFrame, bins: int, step_kinds: Sequence[str] = ()
) -> pd.DataFrame:
    """Return mean masses per response, head set and bin: `bins` equal parts of the reasoning span.

    Reasoning token t of T falls in bin floor(bins * (t + 0.5) / T). A response with fewer tokens than bins
    has empty bins: they have no row and `n_empty_bins` counts them. `step_kinds` keeps the tokens of such
    steps only, at their place in the whole reasoning.
    """
    keys = [*KEYS]
    columns = [*keys, "token_index", "step_kind", "uniform_evidence_share"]
    rows = tokens.loc[tokens["span"] == "reasoning", columns]
    by_response = rows.groupby(keys, observed=True)["token_index"]
    place, length = by_response.rank(method="first") - 0.5, by_response.transform("size")
    rows = rows.assign(bin=np.floor(bins * place / length).astype(np.int32))
    rows = rows[rows["step_kind"].isin(list(step_kinds))] if step_kinds else rows
    joined = token_masses.merge(rows.drop(columns="step_kind"), on=[*keys, "token_index"], validate="m:1")
    if len(joined) != len(rows) * token_masses["head_set"].nunique():
        raise TableError(f"{len(joined)} masses for {len(rows)} tokens; build both from the same shards")
    groups = joined.groupby([*keys, "head_set", "bin"], observed=True)
    binned = groups[[*MASSES, "uniform_evidence_share"]].mean().assign(n_tokens=groups.size()).reset_index()
    filled = binned.groupby([*keys, "head_set"], observed=True)["bin"].transform("size")
    binned = binned.assign(n_bins=bins, n_empty_bins=bins - filled)
    return to_table("bins", binned).to_pandas()



def join_records(study: Study, shard: Shard, records: Sequence[TraceRecord]) -> list[Measured]:
    """Return trace records with their items, responses and scores."""
    responses = {response.item_id: response for response in study.read_shard_responses(shard)}
    by_id = {item.id: item for item in shard.items}
    generator = study.question_settings["generator"]
    joined = []
    for t in records:
        item, response = by_id[t.trace.item_id], responses[t.trace.item_id]
        # the scorers of the benchmarks know nothing of an end-of-sequence token
        end = t.token_texts[-1] if response.finish_reason == "stop" else ""
        scores = registry.score(item, response.text.removesuffix(end), t.answer_text, t.spans.closed, generator)
        joined.append(Measured(
            item=item, response=response, trace=t.trace, spans=t.spans, token_texts=t.token_texts,
            step_texts=t.step_texts, coverage=t.coverage, grids=t.grids, scores=scores,
        ))  # fmt: skip
    return joined


def hash_responses(responses: list[Response]) -> str:
    """Return a hash of the token ids of some responses."""
    return store.shard_key([[r.item_id, list(r.response_ids)] for r in responses])


def check_responses(study: Study, shard: Shard, file: Path) -> None:
    """Check that heads or traces were measured on the responses that are there, in case those were written again.

    Raises
    ------
    DamagedError
        If not; computing `file` again repairs it.
    """
    measured, there = store.read_metadata(file).get("responses"), study.read_shard_responses(shard)
    if measured is not None and measured != hash_responses(there):
        found = f"measured on other responses than {paths.show(study.response_file(shard))} holds"
        raise store.DamagedError(file, found)


def read_shard(study: Study, shard: Shard) -> list[Measured]:
    """Read one finished shard as the records that the tables are made from.

    Raises
    ------
    StoreError, DamagedError
        If a file is missing; if one is damaged, or the traces were measured on other responses.
    """
    trace_file = study.trace_file(shard)
    check_responses(study, shard, trace_file)
    return join_records(study, shard, read_traces(trace_file))


def write_tables(study: Study, shards: list[Shard]) -> None:
    """Write every table, shard by shard."""
    blocks: dict[str, list[pa.Table]] = {}
    for shard in tqdm(shards, "tables", unit="shard", disable=None):
        built = build_blocks(read_shard(study, shard), sink_rule=study.settings["sink_rule"])
        for name, block in built.items():
            blocks.setdefault(name, []).append(block)
    for name, parts in blocks.items():
        whole = pa.concat_tables(parts).unify_dictionaries()
        schema.write_table(name, whole, paths.tables(study.profile) / f"{name}.parquet")


def write_questions(study: Study) -> None:
    """List the chosen items of every real benchmark, and say what is missing, before anything starts."""
    for benchmark in (name for name in study.questions if name in registry.REAL):
        questions = study.questions[benchmark]
        rows = [
            {"item_id": item.id, "split": item.split, "stratum": make_cell(questions.strata[item.id]),
             "task_type": item.task_type, "n_images": len(item.images), "n_boxes": len(item.boxes),
             "lacks": make_cell(study.lacking_boxes.get(item.id, "")), "content_hash": item.content_hash}
            for split in registry.SPLITS for item in questions.items[split]
        ]  # fmt: skip
        target = paths.questions(study.profile) / f"{benchmark}.csv"
        with whole_file(target) as temporary:
            pd.DataFrame(rows).to_csv(temporary, index=False)
        lacking = [str(row["item_id"]) for row in rows if row["lacks"]]
        print(
            f"{benchmark}: {len(rows)} items; {len(questions.rejected)} rows cannot be used; {len(lacking)} items lack "
            f"evidence boxes{': ' if lacking else ''}{', '.join(lacking[:5])}{', ...' if len(lacking) > 5 else ''}; "
            f"all in {paths.show(target)}",
            *(f"  {note}" for note in questions.notes),
            sep="\n",
            flush=True,
        )


def write_quarantine(study: Study, shards: list[Shard]) -> int:
    """Write a row for everything that was left out, and return their number."""
    rows = [store.Quarantine(row, "", "items", reason) for q in study.questions.values() for row, reason in q.rejected]
    for shard in shards:
        for item_id, reason in json.loads(read_note(study.trace_file(shard), "quarantined")):
            rows.append(store.Quarantine(item_id, shard.model, "extraction", reason))
    store.write_quarantine(paths.tables(study.profile) / "quarantine.parquet", rows)
    print(f"quarantined rows: {len(rows)}", flush=True)
    return len(rows)


def withdraw_manifest(profile: str) -> None:
    """Put the manifest aside, because files that it names are about to change; `write_manifest` puts it back."""
    manifest = paths.extraction_manifest(profile)
    with contextlib.suppress(FileNotFoundError), writable(manifest):
        os.replace(manifest, paths.withdrawn_manifest(profile))


def write_manifest(study: Study, shards: list[Shard], n_quarantined: int) -> None:
    """Write which files hold what; what did not change keeps its age, so that make reruns no notebook for it."""
    files = [paths.show(path) for shard in shards for path in study.files(shard)]
    written = sorted(paths.tables(study.profile).glob("*.parquet"))
    with whole_file(paths.shard_list(study.profile)) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in [*files, *map(paths.show, written)]))
    manifest = {
        "profile": study.profile, "n_shards": len(shards), "n_quarantined": n_quarantined, "files": files,
        "grounding": {model: asdict(study.grounding(model)) for model in study.settings["models"]},
        "tables": {file.stem: hash_file(file) for file in written},
        "n_items": sum(len(q.rejected) + sum(map(len, q.items.values())) for q in study.questions.values()),
        "torch": torch.__version__, "transformers": transformers.__version__, "models": study.settings["models"],
        "benchmarks": study.settings["benchmarks"], "pixel_backend": find_backend(),
        "sources": {name: questions.origin for name, questions in study.questions.items()},
    }  # fmt: skip
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    target, withdrawn = paths.extraction_manifest(study.profile), paths.withdrawn_manifest(study.profile)
    if withdrawn.exists() and withdrawn.read_bytes() == text.encode():
        os.replace(withdrawn, target)
        return
    with whole_file(target) as temporary:
        temporary.write_text(text)
    withdrawn.unlink(missing_ok=True)
