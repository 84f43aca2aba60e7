"""Finished shards to the tidy tables, the quarantine and the manifest of a study.

Why it exists: every later number reads these tables, one row per token, step, head, item, scorer or bin, in the columns
that `schema` declares; a measure is computed here and nowhere else. In: a `Study` and its shards, that is items, their
responses and traces. Out: the tables, a row of quarantine for everything that was left out, the list of chosen items of
every real benchmark, and the manifest that names every file, written last. Never: load a model, fill an empty bin or a
missing measure in silence (NaN only where the schema allows it), or leave a row out without its reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from dontblink import paths, schema, store
from dontblink.attention.grounding import list_looks
from dontblink.boxes.evidence import border_mask, map_auc, mass_set_iou, pointing_hit
from dontblink.errors import NamedError, make_cell
from dontblink.files import hash_file, whole_file, writable, write_text
from dontblink.questions import registry
from dontblink.questions.items import GoldStep, Item, Score
from dontblink.schema import HEAD_SETS, KEYS, MASSES, REGIONS, SCHEMAS, to_table

if TYPE_CHECKING:  # they bring torch, which is not needed to bin a table
    from dontblink.attention.traces import Trace
    from dontblink.extraction.study import Shard, Study
    from dontblink.models.response import Response

QUARANTINE = pa.schema([(name, pa.string()) for name in ("item_id", "model", "stage", "reason")])
OVERLAPS = {"pointing_hit": pointing_hit, "iou50": mass_set_iou, "map_auc": map_auc}
STEP_PATTERNS = (
    (r"^\S+ is ", "read"),
    (r"^\S+ was ", "recall"),
    (r"^(match|differ)\b", "judge"),
    (r"^\S+ \S+ (match|differ)\b", "scan"),
    (r" is ", "compute"),
)


def build_blocks(
    items: Sequence[Item], responses: Sequence[Response], traces: Sequence[Trace], generator: str, sink_rule: str
) -> dict[str, pa.Table]:
    """Return a block of each table from the traces of one shard.

    Parameters
    ----------
    items, responses : those of the shard, in any order; one without a trace has no row
    generator : the module of the generated benchmarks, `questions.generator`
    sink_rule : image tokens that the sink-masked variant drops, see `evidence.border_mask`
    """
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
            "heads": list_looks(trace.head_mass, trace.coverage, trace.spans.reasoning),
            "steps": _step_rows(trace, kinds, tokens["uniform_evidence_share"], sink_rule),
            "items": _item_row(item, response, trace, scores["strict"]),
            "scores": _score_rows(scores),
        })  # fmt: skip
    return {name: join_rows(name, keys, [part[name] for part in parts]) for name in SCHEMAS if name != "bins"}


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
    lengths = [len(part) for part in (trace.entropy_nats, trace.token_texts, trace.step_texts)]
    found = (trace.mass.shape, *lengths, trace.step_map.shape, sum(rows * columns for rows, columns in trace.grids))
    n_tokens, n_steps = len(response.response_ids), len(trace.spans.steps)
    n_image, n_sets = len(trace.coverage), len(HEAD_SETS)
    expected = ((n_sets, n_tokens, len(REGIONS)), *[n_tokens] * 2, n_steps, (n_steps, n_sets, n_image), n_image)
    if found != expected:
        parts = "(mass, entropies, token texts, step texts, maps, grid)"
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
    return {name: masses[..., k].reshape(-1) for k, name in enumerate(MASSES)}


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
        "entropy_nats": trace.entropy_nats, "log_probability_nats": trace.log_probability_nats,
        "context_length_tokens": context, "uniform_evidence_share": trace.coverage.sum() / context,
    }  # fmt: skip


def _step_rows(trace: Trace, kinds: Sequence[str], uniform: NDArray[Any], sink_rule: str) -> dict[str, Any]:
    steps = np.asarray(trace.spans.steps, np.int64).reshape(-1, 2)
    n_steps, sizes = len(steps), steps[:, 1] - steps[:, 0]
    look = np.broadcast_to(uniform[:, None], (len(HEAD_SETS), len(uniform), 1))
    columns = np.concatenate([trace.mass, look], axis=2)
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
        "step_kind": np.tile(np.asarray(kinds, object), len(HEAD_SETS)),
        "head_set": np.repeat(HEAD_SETS, n_steps),
        "step_text": np.tile(np.asarray(trace.step_texts, object), len(HEAD_SETS)),
        "n_tokens": np.tile(sizes, len(HEAD_SETS)),
        **_name_masses(means),
        "uniform_evidence_share": means[..., -1].reshape(-1),
        **overlaps,
        "sink_masked_evidence_mass": ((maps * kept) @ trace.coverage / off_sinks).reshape(-1),
    }


def _item_row(item: Item, response: Response, trace: Trace, score: Score) -> dict[str, Any]:
    entropy = np.asarray(trace.entropy_nats, np.float64)
    begin, end = trace.spans.reasoning
    # of the grounding layers; never empty while there is a reasoning token
    late = trace.mass[0, begin + 2 * (end - begin) // 3 : end]
    covariates = item.covariates
    row = {
        "correct": score.correct, "parsed": score.parsed, "answer": item.answer,
        "prediction": score.prediction, "finish_reason": response.finish_reason,
        "engine": response.engine, "retokenised": response.retokenised,
        "n_prompt_tokens": len(response.prompt_ids), "n_response_tokens": len(entropy),
        "n_reasoning_tokens": end - begin, "n_steps": len(trace.spans.steps),
        "evidence_fraction": trace.coverage.mean(),
        "noise_level": float(covariates.get("noise_level", np.nan)),
        "chain_length": float(covariates.get("chain_length", np.nan)),
        "chain_kind": str(covariates.get("chain_kind", "")),
        "prior_side": str(covariates.get("prior_side", "")),
        "task_type": item.task_type, "full_entropy_nats": _mean(entropy),
        "answer_entropy_nats": _mean(entropy[slice(*trace.spans.answer)]),
        "max_entropy_nats": entropy.max() if len(entropy) else np.nan,
        "last_decile_entropy_nats": _mean(entropy[9 * len(entropy) // 10 :]),
        "vision_evidence_mass": _mean(late[:, 0]), "vision_visual_mass": _mean(late[:, :2].sum(axis=1)),
    }  # fmt: skip
    return {name: np.array([value]) for name, value in row.items()}


def _score_rows(scores: Mapping[str, Score]) -> dict[str, Any]:
    names = sorted(scores, key=lambda name: name != "strict")
    fields = ("correct", "parsed", "prediction")
    columns = {field: np.array([getattr(scores[name], field) for name in names], object) for field in fields}
    return {"scorer": np.asarray(names, object), **columns}


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean(dtype=np.float64)) if len(values) else float("nan")


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
        raise NamedError(f"{len(joined)} masses for {len(rows)} tokens; build both from the same shards")
    groups = joined.groupby([*keys, "head_set", "bin"], observed=True)
    binned = groups[[*MASSES, "uniform_evidence_share"]].mean().assign(n_tokens=groups.size()).reset_index()
    filled = binned.groupby([*keys, "head_set"], observed=True)["bin"].transform("size")
    binned = binned.assign(n_bins=bins, n_empty_bins=bins - filled)
    return to_table("bins", binned).to_pandas()


def write_tables(study: Study, shards: Sequence[Shard]) -> None:
    """Write every table, shard by shard; raises like `Study.read_traces`."""
    blocks: dict[str, list[pa.Table]] = {}
    generator, sink_rule = study.question_settings["generator"], study.settings["sink_rule"]
    for shard in tqdm(shards, "tables", unit="shard", disable=None):
        responses, traces = study.read_responses(shard), study.read_traces(shard)
        for name, block in build_blocks(shard.items, responses, traces, generator, sink_rule).items():
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


def write_quarantine(study: Study, shards: Sequence[Shard]) -> int:
    """Write a row for everything that was left out, none where nothing was, and return their number."""
    from dontblink.extraction.study import read_reasons

    rows = [(item_id, "", "items", reason) for q in study.questions.values() for item_id, reason in q.rejected]
    for shard in shards:
        rows += [(name, shard.model, "extraction", reason) for name, reason in read_reasons(study.trace_file(shard))]
    table = pa.Table.from_pylist([dict(zip(QUARANTINE.names, row, strict=True)) for row in rows], QUARANTINE)
    store.write_table(paths.tables(study.profile) / "quarantine.parquet", table, {"rows": str(len(rows))})
    print(f"quarantined rows: {len(rows)}", flush=True)
    return len(rows)


def withdraw_manifest(profile: str) -> None:
    """Put the manifest aside, because files that it names are about to change; `write_manifest` puts it back."""
    manifest = paths.extraction_manifest(profile)
    with contextlib.suppress(FileNotFoundError), writable(manifest):
        os.replace(manifest, paths.withdrawn_manifest(profile))


UNUSED = ("n_cross_checked_items", "expected_response_tokens")  # settings that no result of the extraction depends on


def write_manifest(study: Study, shards: Sequence[Shard], n_quarantined: int) -> None:
    """Write which files hold what; what did not change keeps its age, so that make reruns no notebook for it."""
    from dontblink.models.checkpoints import find_backend

    files = [paths.show(path) for shard in shards for path in study.files(shard)]
    written = sorted(paths.tables(study.profile).glob("*.parquet"))
    write_text(paths.shard_list(study.profile), "".join(f"{name}\n" for name in [*files, *map(paths.show, written)]))
    manifest = {
        "profile": study.profile, "n_shards": len(shards), "n_quarantined": n_quarantined, "files": files,
        "grounding": {model: asdict(study.grounding(model)) for model in study.settings["models"]},
        "tables": {file.stem: hash_file(file) for file in written},
        "n_items": sum(len(q.rejected) + sum(map(len, q.items.values())) for q in study.questions.values()),
        "torch": version("torch"), "transformers": version("transformers"), "models": study.settings["models"],
        "benchmarks": study.settings["benchmarks"], "pixel_backend": find_backend(),
        "settings": {key: value for key, value in study.settings.items() if key not in UNUSED},
        "sources": {name: questions.origin for name, questions in study.questions.items()},
    }  # fmt: skip
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    target, withdrawn = paths.extraction_manifest(study.profile), paths.withdrawn_manifest(study.profile)
    if withdrawn.exists() and withdrawn.read_bytes() == text.encode():
        os.replace(withdrawn, target)
        return
    write_text(target, text)
    withdrawn.unlink(missing_ok=True)
