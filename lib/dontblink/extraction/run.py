"""Items -> responses -> traces -> tables: the command that strings the stages together and can stop anywhere.

In: a `Study`. Out: response, heads, trace and sample shards, a part of every table for each, a row of quarantine for
everything that was left out, the list of chosen items of every real benchmark, and the manifest that names every file,
written last. Per model: responses of every shard; the looks of every head on the calibration split, which choose the
grounding; then the traces, averaged over the sets of heads, and at once their parts of the tables; and sampled
responses to the first test items, which are scored and never replayed. Workers share the shards of all models; the
items are made once and sent to them. What is there already is not computed again; what turns out to be damaged is kept
aside and is. One run at a time works on a profile, and as long as its files do not belong together there is no
manifest. Never: measure or decide anything here (that is what `models.generate` and
`models.server`, `attention.traces` and `tables` do), or leave a row out without its reason.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import torch
from tqdm import tqdm

from dontblink import files, params, paths, schema, store
from dontblink.attention.grounding import Grounding
from dontblink.attention.traces import Reasons, Trace, average_traces, pack_heads, pack_traces, trace_responses
from dontblink.attention.trial import try_first
from dontblink.errors import NamedError, make_cell
from dontblink.extraction import cost, tables
from dontblink.extraction.study import Shard, Study, hash_responses, read_reasons
from dontblink.files import hash_file, whole_file, writable, write_text
from dontblink.models.checkpoints import find_backend
from dontblink.models.families import read_image_tokens
from dontblink.models.generate import Sampling, generate_responses
from dontblink.models.response import Response, pack_responses
from dontblink.models.samples import draw_samples, pack_samples
from dontblink.models.server import generate_on_server
from dontblink.models.vlm import VLM
from dontblink.questions import registry
from dontblink.questions.items import Item

QUARANTINE = pa.schema([(name, pa.string()) for name in ("item_id", "model", "stage", "reason")])
UNUSED = ("n_cross_checked_items", "expected_response_tokens")  # settings that no result of the extraction depends on
STAGES = {"generate": "write_responses", "look": "write_heads", "replay": "write_traces", "sample": "write_samples"}


class Task(NamedTuple):
    """One stage of one shard."""

    stage: str
    shard: Shard


class Extraction(Study):
    """One extraction run of a profile, or what one of its workers knows."""

    def __init__(self, profile: str) -> None:
        super().__init__(profile)
        self._loaded: dict[tuple[str, bool], VLM] = {}
        self._fits: dict[tuple[object, ...], int] = {}  # items or tokens at a time that memory held where more ran out
        self._looked: dict[str, tuple[list[Trace], Reasons]] = {}  # what replays of single heads found, by replay key

    def load(self, model: str, *, weights: bool = True) -> VLM:
        """Return a model, which is kept until another one is asked for."""
        if any(name != model for name, _ in self._loaded):
            self._loaded.clear()
            self._looked.clear()
            gc.collect()  # a model may be part of a cycle
        if (model, weights) not in self._loaded:
            self._loaded[model, weights] = self.load_model(model, weights=weights)
        return self._loaded[model, weights]

    def do(self, task: Task, grounding: Grounding | None = None) -> None:
        """Do one task; the last stage needs the grounding of the model."""
        if grounding is not None:
            self._grounding[task.shard.model] = grounding
        getattr(self, STAGES[task.stage])(task.shard)

    def write_responses(self, shard: Shard) -> None:
        """Generate the responses of one shard."""
        s, reasons = self.settings, Reasons()
        sampling = Sampling(s["max_new_tokens"], s["temperature"], s["top_p"], s["top_k"], s["generation_seed"])
        vlm = self.load_engine(shard)
        if vlm.model is not None:
            try_first(vlm, shard.items)  # before hours of answers that could not be measured
        responses = self.generate(vlm, shard.items, sampling, lambda *row: reasons.append(row))
        order = [item.id for item in shard.items]
        responses.sort(key=lambda response: order.index(response.item_id))
        self._write(self.response_file(shard), pack_responses(responses), {"quarantined": json.dumps(reasons)})

    def load_engine(self, shard: Shard) -> VLM:
        """Return what a shard's model generates with, with its image budget; a server needs no weights here."""
        vlm = self.load(shard.model, weights=self.settings["engine"] == "local")
        return vlm.limit(self.image_tokens(shard.benchmark))

    def generate(
        self, vlm: VLM, items: Sequence[Item], sampling: Sampling, quarantine: Callable[[str, str], None]
    ) -> list[Response]:
        """Return the responses of some items from their engine; `quarantine` takes what has none, and why."""
        s = self.settings
        shared: dict[str, Any] = {"progress": False, "quarantine": quarantine}
        if s["engine"] == "local":
            key = "generate", vlm.name, read_image_tokens(vlm.processor.image_processor, vlm.family)
            shared |= {"lowered": partial(self._fits.__setitem__, key)}
            batch_size = self._fits.get(key, s["batch_size"])
            return list(generate_responses(vlm, items, sampling, batch_size=batch_size, **shared))
        server = params.read_section(self.profile, "server")
        stated = paths.ROOT / server.pop("fingerprints_folder") / f"{vlm.name}.json"
        is_unverified = server.pop("verification") == "skip"
        return list(generate_on_server(
            vlm, items, sampling, **server, **shared, retokenise=s["retokenised"] != "refuse",
            checkpoint=self.checkpoint(vlm.name), unverified=is_unverified,
            server_fingerprint=None if is_unverified else stated,
        ))  # fmt: skip

    def write_samples(self, shard: Shard) -> None:
        """Sample responses to the first items of one shard, unless they are there, and write their table."""
        (file, part), s = self.sample_files(shard), self.settings
        if not file.is_file():
            vlm = self.load_engine(shard)
            how = s["samples_per_item"], s["max_new_tokens"], s["generation_seed"]
            drawn, reasons = draw_samples(vlm, shard.sampled_items, *how, self.generate)
            self._write(file, pack_samples(drawn), {"quarantined": json.dumps(reasons)})
        generator, made_of = self.question_settings["generator"], store.read_metadata(file)["sha256"]
        if not part.is_file() or store.read_metadata(part).get("samples") != made_of:
            table = tables.build_samples(shard.sampled_items, self.read_samples(shard), generator)
            withdraw_manifest(self.profile)
            schema.write_table("samples", table, part, samples=made_of)

    def write_heads(self, shard: Shard) -> None:
        """Measure every head's look at the evidence on one calibration shard; small measures of single heads stay."""
        responses = self.read_responses(shard)
        traces, reasons = self._trace(shard, responses, None)
        if traces and len(traces[0].mass):
            self._looked[shard.replay_key] = traces, reasons
        heads = pack_heads(shard.benchmark, shard.split, traces)
        self._write(self.heads_file(shard), heads, {"responses": hash_responses(responses)})

    def _trace(
        self, shard: Shard, responses: Sequence[Response], grounding: Grounding | None
    ) -> tuple[list[Trace], Reasons]:
        key, name = ("replay", shard.model), "replay_batch_tokens"
        settings = self.settings | {name: self._fits.get(key, self.settings[name])}
        inputs = settings, dict(shard.lacking), grounding, partial(self._fits.__setitem__, key)
        vlm = self.load(shard.model).limit(self.image_tokens(shard.benchmark))
        return trace_responses(vlm, shard.items, responses, *inputs)

    def write_traces(self, shard: Shard) -> None:
        """Replay one shard over the sets of heads, unless its traces are there, and write its part of each table.

        What `write_heads` kept of single heads is averaged over the sets: the same bits without a second replay.
        """
        responses, file = self.read_responses(shard), self.trace_file(shard)
        looked, grounding = self._looked.pop(shard.replay_key, None), self.grounding(shard.model)
        if file.is_file():
            traces = self.read_traces(shard)
        else:
            traces, reasons = looked or self._trace(shard, responses, grounding)
            traces = average_traces(traces, grounding) if looked else traces
            quarantined = json.dumps(read_reasons(self.response_file(shard)) + reasons)
            metadata = {"quarantined": quarantined, "responses": hash_responses(responses)}
            self._write(file, pack_traces(traces), metadata)
        made_of = store.read_metadata(file)["sha256"]
        generator, sink_rule = self.question_settings["generator"], self.settings["sink_rule"]
        found = shard.items, responses, traces, generator, sink_rule, dict(shard.lacking)
        blocks, files = tables.build_blocks(*found), self.parts(shard)
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
        started = time.monotonic()
        with files.hold(paths.lock(self.profile)):
            kinds = paths.responses, paths.heads, paths.traces, paths.samples, paths.tables, paths.questions
            for folder in kinds:
                store.clean_leftovers(folder(self.profile), older_than_s=0)  # may be large, and can only be ours
            store.clean_leftovers(paths.results(self.profile), older_than_s=0, pattern=".*.tmp")
            store.clean_leftovers(paths.results(self.profile))
            write_questions(self)
            store.recompute_damaged(lambda: self._run(jobs))
            done = schema.read_manifest(self.profile)
        counts = f"{done['n_shards']} shards, {done['n_quarantined']} quarantined rows"
        print(f"extraction: {counts}, {time.monotonic() - started:.0f} s", flush=True)

    def _run(self, jobs: int) -> None:
        models = self.settings["models"]
        self._grounding.clear()  # of responses that were damaged, if this is a repair
        if any(name in registry.REAL for name in self.settings["benchmarks"]):
            for line in cost.describe_costs(self, self.load_model):
                print(f"estimate: {line}", flush=True)
        do: Callable[..., None] = partial(do_there, self.profile) if jobs > 1 else self.do
        workers = [start_worker() for _ in range(jobs)] if jobs > 1 else [Here()]
        try:
            if not paths.extraction_manifest(self.profile).exists():  # they load what they need meanwhile
                for worker in workers:
                    worker.submit(int)
            shards = {model: self.all_shards(model) for model in models}
            share([task for model in models for task in self.plan(shards[model])], self._prepare, workers, do)
        finally:
            for worker in workers:
                worker.shutdown()
        every = [shard for model in models for shard in shards[model] if shard.benchmark in self.questions]
        hashes = []
        for shard in every:
            self.check_measured(shard, self.trace_file(shard))
            own = self.check_parts(shard)
            hashes.append(own | ({"samples": self.check_samples(shard)} if shard.n_sampled else {}))
        withdraw_manifest(self.profile)
        write_manifest(self, every, hashes, write_quarantine(self, every))

    def plan(self, shards: Sequence[Shard]) -> list[Task]:
        """Return what may be to do for the shards of a model, in order; whether to replay is known later.

        What was generated here is replayed next, and its items are asked again while the model is there. A server
        generates everything first: it may need the place.
        """
        calibration = [shard for shard in shards if shard.split == "calibration"]
        test, is_local = [shard for shard in shards if shard.split != "calibration"], self.settings["engine"] == "local"
        look, replay = ([Task(stage, shard) for shard in calibration] for stage in ("look", "replay"))
        replay = [task for task in replay if task.shard.benchmark in self.questions]
        generate = {shard.name: Task("generate", shard) for shard in shards}
        sample = {shard.name: [Task("sample", shard)] for shard in shards if shard.n_sampled}
        if is_local:
            planned = [task for looking in look for task in (generate[looking.shard.name], looking)] + replay
            for shard in test:
                planned += [generate[shard.name], Task("replay", shard), *sample.get(shard.name, ())]
        else:
            sampled = [task for own in sample.values() for task in own]
            planned = [*generate.values(), *sampled, *look, *replay, *(Task("replay", shard) for shard in test)]

        def is_there(task: Task) -> bool:
            if task.stage == "sample":
                return all(file.is_file() for file in self.sample_files(task.shard))
            return {"generate": self.response_file, "look": self.heads_file}[task.stage](task.shard).is_file()

        return [task for task in planned if task.stage == "replay" or not is_there(task)]

    def _prepare(self, task: Task) -> tuple[Any, ...] | None:
        """Return what a task that can begin needs besides itself, None if nothing is to do."""
        if task.stage != "replay":
            return ()
        if (model := task.shard.model) not in self._grounding:
            for shard in self.choosing_shards(model):
                self.check_measured(shard, self.heads_file(shard))
        grounding = self.grounding(model)
        return None if all(file.is_file() for file in self.files(task.shard)) else (grounding,)


class Here(Executor):
    """Does what it is given at once, in this process."""

    def submit(self, do: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Return what is done already."""
        done: Future[Any] = Future()
        done.set_result(do(*arguments, **named))
        return done


def share(
    tasks: Sequence[Task], prepare: Callable[[Task], tuple[Any, ...] | None], workers: Sequence[Executor],
    do: Callable[..., None],
) -> None:  # fmt: skip
    """Let workers do tasks in order, each as soon as those are done that it needs; tell when the last of a stage is.

    A look needs its shard's responses; a replay besides them every look of its model, which choose the grounding;
    samples need nothing. A shard stays with the worker that has begun it, which may still hold what it found. `prepare`
    returns what a task that can begin needs besides itself, None if nothing is to do.
    """
    waiting, running = list(tasks), dict[Future[None], tuple[Executor, Task, float]]()
    homes, spent = dict[tuple[str, str], Executor](), dict[tuple[str, str], list[float]]()

    def find_ready(worker: Executor) -> Task | None:
        before = [task for _, task, _ in running.values()]
        for task in waiting:
            shard, own = task.shard, [other for other in before if other.shard.model == task.shard.model]
            needed = [o for o in own if o.shard.name == shard.name or (task.stage, o.stage) == ("replay", "look")]
            if not needed and homes.get((shard.model, shard.name), worker) is worker:
                return task
            before.append(task)
        return None

    with tqdm(total=len(tasks), desc="extraction", unit="task", disable=None) as bar:
        while waiting or running:
            for worker in workers:
                while worker not in (other for other, *_ in running.values()) and (task := find_ready(worker)):
                    waiting.remove(task)
                    if (needed := prepare(task)) is None:
                        bar.update()
                        continue
                    homes[task.shard.model, task.shard.name] = worker
                    begun = time.monotonic()
                    running[worker.submit(do, task, *needed)] = worker, task, begun
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                _, task, begun = running.pop(done)
                done.result()
                spent.setdefault((task.shard.model, task.stage), []).append(time.monotonic() - begun)
                bar.update()
            left = {(task.shard.model, task.stage) for task in (*waiting, *(task for _, task, _ in running.values()))}
            for model, stage in [key for key in spent if key not in left]:
                seconds = spent.pop((model, stage))
                said = f"{stage}: {len(seconds)} shards, {sum(seconds):.0f} s of work"
                with bar.external_write_mode():
                    print(f"extraction: {model}: {said}", flush=True)


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
            f"evidence boxes{': ' if lacking else ''}{', '.join(lacking[:5])}{', ...' if len(lacking) > 5 else ''}"
            f"{' (measured, but for their evidence)' if lacking else ''}; all in {paths.show(target)}",
            *(f"  {note}" for note in questions.notes),
            sep="\n",
            flush=True,
        )


def write_quarantine(study: Study, shards: Sequence[Shard]) -> int:
    """Write a row for everything that was left out, none where nothing was, and return their number."""
    asked = study.questions | study.outside
    rows = [(item_id, "", "items", reason) for q in asked.values() for item_id, reason in q.rejected]
    for shard in shards:
        rows += [(name, shard.model, "extraction", reason) for name, reason in read_reasons(study.trace_file(shard))]
        if shard.n_sampled:
            rows += [(name, shard.model, "sample", reason) for name, reason in read_reasons(study.sample_file(shard))]
    table = pa.Table.from_pylist([dict(zip(QUARANTINE.names, row, strict=True)) for row in rows], QUARANTINE)
    store.write_table(paths.tables(study.profile) / "quarantine.parquet", table, {"rows": str(len(rows))})
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
    made = [path for shard in shards for path in (*study.files(shard), *study.sample_files(shard))]
    choosing = [shard for model in study.settings["models"] for shard in study.choosing_shards(model)]
    only_looked = [shard for shard in choosing if shard.benchmark in study.outside]
    made += [path for shard in only_looked for path in (study.response_file(shard), study.heads_file(shard))]
    files = [paths.show(path) for path in (*made, quarantine)]
    write_text(paths.shard_list(study.profile), "".join(f"{name}\n" for name in files))
    manifest = {
        "profile": study.profile, "n_shards": len(shards), "n_quarantined": n_left_out, "files": files,
        "grounding": {model: asdict(study.grounding(model)) for model in study.settings["models"]},
        "parts": [study.part(shard) for shard in shards],
        "sample_parts": [f"{shard.model}/{study.sample_part(shard).stem}" for shard in shards if shard.n_sampled],
        "tables": {name: store.shard_key([own[name] for own in hashes if name in own]) for name in schema.SCHEMAS}
        | {"quarantine": hash_file(quarantine)},
        "n_items": sum(len(q.rejected) + sum(map(len, q.items.values())) for q in study.questions.values()),
        "torch": version("torch"), "transformers": version("transformers"), "models": study.settings["models"],
        "benchmarks": study.settings["benchmarks"], "pixel_backend": find_backend(),
        "settings": {key: value for key, value in study.settings.items() if key not in UNUSED},
        "sources": {name: questions.origin for name, questions in (study.questions | study.outside).items()},
    }  # fmt: skip
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    target, withdrawn = paths.extraction_manifest(study.profile), paths.withdrawn_manifest(study.profile)
    if withdrawn.exists() and withdrawn.read_bytes() == text.encode():
        os.replace(withdrawn, target)
        return
    write_text(target, text)
    withdrawn.unlink(missing_ok=True)


_open = functools.cache(Extraction)


def do_there(profile: str, task: Task, *needed: Any) -> None:
    """Do a task in a worker, which keeps its model and what it measured for the next one."""
    _open(profile).do(task, *needed)


def start_worker() -> Executor:
    """Return a process of its own that does one task at a time on one thread."""
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=settle_worker)


def settle_worker() -> None:
    """Use one thread, and end when the process that started this one ends, also when it is killed and cannot say so."""
    torch.set_num_threads(1)

    def follow() -> None:
        if (parent := parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def main() -> None:
    """Run the extraction of a profile."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", default="testbed", help="which params/<profile>.yaml")
    parser.add_argument("--jobs", type=int, help="shards side by side (default: one per CPU core; 1 on a GPU)")
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
