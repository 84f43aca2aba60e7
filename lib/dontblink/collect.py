"""Finished shards to the tidy tables, the quarantine and the manifest of a study.

In: a `Study` and its shards. Out: tables, one row of quarantine for everything that was left out, the list of chosen
items of every real benchmark, and the manifest that names every file, written last. Never: load a model, or leave a
row out without its reason.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pyarrow as pa
import torch
import transformers

from dontblink import paths, schema, store, tables
from dontblink.benchmarks import registry
from dontblink.generate import Response
from dontblink.loading import find_backend
from dontblink.marks import hash_file
from dontblink.messages import make_cell
from dontblink.progress import Progress
from dontblink.shards import TraceRecord, read_note, read_traces
from dontblink.study import Shard, Study


def join_records(study: Study, shard: Shard, records: Sequence[TraceRecord]) -> list[tables.Measured]:
    """Return trace records with their items, responses and scores."""
    responses = {response.item_id: response for response in study.read_shard_responses(shard)}
    by_id = {item.id: item for item in shard.items}
    joined = []
    for t in records:
        item, response = by_id[t.trace.item_id], responses[t.trace.item_id]
        # the scorers of the benchmarks know nothing of an end-of-sequence token
        end = t.token_texts[-1] if response.finish_reason == "stop" else ""
        scores = registry.score(item, response.text.removesuffix(end), t.answer_text, t.spans.closed)
        joined.append(tables.Measured(
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


def read_shard(study: Study, shard: Shard) -> list[tables.Measured]:
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
    bar = Progress(len(shards), "tables", unit="shards")
    for shard in shards:
        built = tables.build_blocks(read_shard(study, shard), sink_rule=study.settings["sink_rule"])
        for name, block in built.items():
            blocks.setdefault(name, []).append(block)
        bar.advance()
    bar.close()
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
        with paths.whole_file(target) as temporary:
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
    with contextlib.suppress(FileNotFoundError), paths.writable(manifest):
        os.replace(manifest, paths.withdrawn_manifest(profile))


def write_manifest(study: Study, shards: list[Shard], n_quarantined: int) -> None:
    """Write which files hold what; what did not change keeps its age, so that make reruns no notebook for it."""
    files = [paths.show(path) for shard in shards for path in study.files(shard)]
    written = sorted(paths.tables(study.profile).glob("*.parquet"))
    with paths.whole_file(paths.shard_list(study.profile)) as temporary:
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
    with paths.whole_file(target) as temporary:
        temporary.write_text(text)
    withdrawn.unlink(missing_ok=True)
