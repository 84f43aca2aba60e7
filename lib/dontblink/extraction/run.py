"""Items -> responses -> traces -> tables: the command that strings the stages together and can stop anywhere.

In: a `Study`. Out: response, heads and trace shards, a part of every table for each of them, a row of quarantine for
everything that was left out, the list of chosen items of every real benchmark, and the manifest that names every file,
written last. Per model: responses of every shard; the looks of every head on the calibration split, which choose the
grounding; then the traces, averaged over the sets of heads, and at once their parts of the tables. What is there
already is not computed again; what turns out to be damaged is kept aside and is. One run at a time works on a profile,
and as long as its files do not belong together there is no manifest. Never: measure or decide anything here (that is
what `models.generate` and `models.server`, `attention.traces` and `tables` do), or leave a row out without its reason.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import asdict
from importlib.metadata import version
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch
from tqdm import tqdm

from dontblink import files, params, paths, schema, store
from dontblink.attention.traces import Reasons, pack_heads, pack_traces, trace_responses
from dontblink.errors import NamedError, make_cell
from dontblink.extraction import cost, tables
from dontblink.extraction.study import Shard, Study, hash_responses, read_reasons
from dontblink.files import hash_file, whole_file, writable, write_text
from dontblink.models.checkpoints import find_backend
from dontblink.models.generate import Sampling, generate_responses
from dontblink.models.response import Response, pack_responses
from dontblink.models.server import generate_on_server
from dontblink.models.vlm import VLM
from dontblink.questions import registry

QUARANTINE = pa.schema([(name, pa.string()) for name in ("item_id", "model", "stage", "reason")])
UNUSED = ("n_cross_checked_items", "expected_response_tokens")  # settings that no result of the extraction depends on
Load = Callable[[bool], VLM]  # returns the model of a run, with its weights or without


class Extraction(Study):
    """One extraction run of a profile."""

    def run_model(self, model: str, position: int | None = None) -> None:
        """Compute the missing shards of one model, stage by stage; `position` is its bar's line."""
        self._grounding.clear()  # of responses that were damaged, if this is a repair
        shards, load = self.shards(model), functools.cache(lambda weights: self.load_model(model, weights=weights))
        calibration = [shard for shard in shards if shard.split == "calibration"]
        self._fill("generate", model, shards, lambda s: [self.response_file(s)], self.write_responses, load, position)
        self._fill("heads of", model, calibration, lambda s: [self.heads_file(s)], self.write_heads, load, position)
        for shard in calibration:
            self.check_measured(shard, self.heads_file(shard))
        self._fill("replay", model, shards, self.files, self.write_traces, load, position)

    def _fill(
        self, stage: str, model: str, shards: Sequence[Shard], files: Callable[[Shard], Sequence[Path]],
        write: Callable[[Load, Shard], None], load: Load, position: int | None,
    ) -> None:  # fmt: skip
        """Write the files of a stage that are not there."""
        missing = [shard for shard in shards if not all(file.is_file() for file in files(shard))]
        print(f"{model}: {stage}: {len(shards) - len(missing)} of {len(shards)} shards are there", flush=True)
        for shard in tqdm(missing, f"{stage} {model}", unit="shard", position=position, disable=None):
            write(load, shard)

    def write_responses(self, load: Load, shard: Shard) -> None:
        """Generate the responses of one shard; a server needs no weights here."""
        responses, reasons = self.generate(load(self.settings["engine"] == "local"), shard)
        order = [item.id for item in shard.items]
        responses.sort(key=lambda response: order.index(response.item_id))
        self._write(self.response_file(shard), pack_responses(responses), {"quarantined": json.dumps(reasons)})

    def generate(self, vlm: VLM, shard: Shard) -> tuple[list[Response], Reasons]:
        """Return the responses of one shard from its engine, and (item id, reason) of each item that has none."""
        s, reasons = self.settings, Reasons()
        sampling = Sampling(s["max_new_tokens"], s["temperature"], s["top_p"], s["top_k"], s["generation_seed"])
        shared: dict[str, Any] = {"progress": False, "quarantine": lambda *row: reasons.append(row)}
        if s["engine"] == "local":
            found = generate_responses(vlm, shard.items, sampling, batch_size=s["batch_size"], **shared)
        else:
            server = params.read_section(self.profile, "server")
            stated = paths.ROOT / server.pop("fingerprints_folder") / f"{shard.model}.json"
            is_unverified = server.pop("verification") == "skip"
            found = generate_on_server(
                vlm, shard.items, sampling, **server, **shared, retokenise=s["retokenised"] != "refuse",
                checkpoint=self.checkpoint(shard.model), unverified=is_unverified,
                server_fingerprint=None if is_unverified else stated,
            )  # fmt: skip
        return list(found), reasons

    def write_heads(self, load: Load, shard: Shard) -> None:
        """Measure every head's look at the evidence on one calibration shard."""
        responses = self.read_responses(shard)
        traces, _ = trace_responses(load(True), shard.items, responses, self.settings, self.lacking_boxes, None)
        heads = pack_heads(shard.benchmark, shard.split, traces)
        self._write(self.heads_file(shard), heads, {"responses": hash_responses(responses)})

    def write_traces(self, load: Load, shard: Shard) -> None:
        """Replay one shard over the sets of heads, unless its traces are there, and write its part of each table."""
        responses, file = self.read_responses(shard), self.trace_file(shard)
        if file.is_file():
            traces = self.read_traces(shard)
        else:
            inputs = self.settings, self.lacking_boxes, self.grounding(shard.model)
            traces, reasons = trace_responses(load(True), shard.items, responses, *inputs)
            quarantined = json.dumps(read_reasons(self.response_file(shard)) + reasons)
            metadata = {"quarantined": quarantined, "responses": hash_responses(responses)}
            self._write(file, pack_traces(traces), metadata)
        made_of = store.read_metadata(file)["sha256"]
        generator, sink_rule = self.question_settings["generator"], self.settings["sink_rule"]
        blocks, files = tables.build_blocks(shard.items, responses, traces, generator, sink_rule), self.parts(shard)
        for name, block in blocks.items():
            if not files[name].is_file() or store.read_metadata(files[name]).get("traces") != made_of:
                withdraw_manifest(self.profile)
                schema.write_table(name, block, files[name], traces=made_of)

    def _write(self, file: Path, table: pa.Table, metadata: Mapping[str, str]) -> None:
        """Write a shard; from here on the manifest is out of date."""
        withdraw_manifest(self.profile)
        store.write_table(file, table, metadata)

    def run(self, jobs: int) -> None:
        """Extract everything that is missing, then write the quarantine and the manifest.

        NamedError if another run works on this profile; if the disk is full or the folder cannot be written to.
        """
        with files.hold(paths.lock(self.profile)):
            for folder in (paths.responses, paths.heads, paths.traces, paths.tables, paths.questions):
                store.clean_leftovers(folder(self.profile), older_than_s=0)  # may be large, and can only be ours
            store.clean_leftovers(paths.results(self.profile), older_than_s=0, pattern=".*.tmp")
            store.clean_leftovers(paths.results(self.profile))
            write_questions(self)
            store.recompute_damaged(lambda: self._run(jobs))

    def _run(self, jobs: int) -> None:
        models = self.settings["models"]
        self._grounding.clear()
        if any(name in registry.REAL for name in self.settings["benchmarks"]):
            for line in cost.describe_costs(self, self.load_model):
                print(f"estimate: {line}", flush=True)
        if jobs > 1 and len(models) > 1:
            # Small models use one core each better than one model uses several.
            with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=end_with_parent) as pool:
                list(pool.map(extract_model, [self.profile] * len(models), models, range(len(models))))
        else:
            for model in models:
                self.run_model(model)
        shards = [shard for model in models for shard in self.shards(model)]
        hashes = []
        for shard in shards:
            self.check_measured(shard, self.trace_file(shard))
            hashes.append(self.check_parts(shard))
        withdraw_manifest(self.profile)
        write_manifest(self, shards, hashes, write_quarantine(self, shards))


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


def write_manifest(study: Study, shards: Sequence[Shard], hashes: Sequence[Mapping[str, str]], n_left_out: int) -> None:
    """Write which files hold what; what did not change keeps its age, so that make reruns no notebook for it.

    `hashes` are those of each shard's part of each table. Parts stand in the order of the rows of their table.
    """
    quarantine = paths.tables(study.profile) / "quarantine.parquet"
    files = [paths.show(path) for path in (*(path for shard in shards for path in study.files(shard)), quarantine)]
    write_text(paths.shard_list(study.profile), "".join(f"{name}\n" for name in files))
    manifest = {
        "profile": study.profile, "n_shards": len(shards), "n_quarantined": n_left_out, "files": files,
        "grounding": {model: asdict(study.grounding(model)) for model in study.settings["models"]},
        "parts": [study.part(shard) for shard in shards],
        "tables": {name: store.shard_key([own[name] for own in hashes]) for name in schema.SCHEMAS}
        | {"quarantine": hash_file(quarantine)},
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


def extract_model(profile: str, model: str, position: int) -> None:
    """Compute the missing shards of one model on one thread, in a process (and on a bar's line) of its own."""
    torch.set_num_threads(1)
    extraction = Extraction(profile)
    store.recompute_damaged(lambda: extraction.run_model(model, position))


def end_with_parent() -> None:
    """End this worker when the process that started it ends, also when that one is killed and cannot say so."""

    def wait() -> None:
        if (parent := parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Run the extraction of a profile."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", default="testbed", help="which params/<profile>.yaml")
    parser.add_argument("--jobs", type=int, help="models side by side (default: one per CPU core; 1 on a GPU)")
    arguments = parser.parse_args()
    try:
        extraction = Extraction(arguments.profile)
        on_cpu = extraction.settings["device"] == "cpu"
        extraction.run(arguments.jobs or ((os.cpu_count() or 1) if on_cpu else 1))
    except BrokenExecutor as error:
        remedy = "if memory ran out, run again with --jobs 1, else just run again; what is finished stays"
        raise SystemExit(f"extract: a worker process has ended abruptly; {remedy}") from error
    except (NamedError, ValueError, RuntimeError) as error:
        raise SystemExit(f"extract: {error}") from error
