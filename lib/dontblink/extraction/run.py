"""Items -> responses -> traces -> tables: the command that strings the stages together and can stop anywhere.

In: a `Study`. Out: response, heads and trace shards; then `collect` makes the tables from them. Per model: responses of
every shard; the looks of every head on the calibration split, which choose the grounding; then the traces, averaged
over the sets of heads. What is there already is not computed again; what turns out to be damaged is kept aside and is.
One run at a time works on a profile, and as long as its files do not belong together there is no manifest.
Nothing here measures or decides anything: it calls `engines`, `traces` and `collect`.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from tqdm import tqdm

from dontblink import files, paths, store
from dontblink.attention.grounding import weigh_heads
from dontblink.attention.traces import Reasons, TraceRecord, pack_responses, pack_traces, read_note, trace_responses
from dontblink.errors import NamedError
from dontblink.extraction import cost, tables
from dontblink.extraction.study import Shard, Study, generate_shard, load_model
from dontblink.models.vlm import VLM
from dontblink.questions import registry


class Extraction(Study):
    """One extraction run of a profile."""

    def run_model(self, model: str, position: int | None = None) -> None:
        """Compute the missing shards of one model, stage by stage; `position` is its bar's line."""
        self.forget_grounding()  # of responses that were damaged, if this is a repair
        shards, loaded = self.shards(model), ModelLoader(self, model)
        self._fill("generate", model, shards, self.response_file, loaded, self.write_responses, position)
        calibration = [shard for shard in shards if shard.split == "calibration"]
        self._fill("heads of", model, calibration, self.heads_file, loaded, self.write_heads, position)
        for shard in calibration:
            tables.check_responses(self, shard, self.heads_file(shard))
        self._fill("replay", model, shards, self.trace_file, loaded, self.write_traces, position)

    def _fill(
        self, stage: str, model: str, shards: list[Shard], file: Callable[[Shard], Any], loaded: ModelLoader,
        write: Callable[[ModelLoader, Shard], None], position: int | None,
    ) -> None:  # fmt: skip
        """Write the files of a stage that are not there."""
        missing = [shard for shard in shards if not file(shard).is_file()]
        print(f"{model}: {stage}: {len(shards) - len(missing)} of {len(shards)} shards are there", flush=True)
        for shard in tqdm(missing, f"{stage} {model}", unit="shard", position=position, disable=None):
            write(loaded, shard)

    def write_responses(self, loaded: ModelLoader, shard: Shard) -> None:
        """Generate the responses of one shard."""
        found: Reasons = []
        responses = generate_shard(self, loaded.for_generation(), shard, lambda i, reason: found.append((i, reason)))
        order = {item.id: row for row, item in enumerate(shard.items)}
        responses.sort(key=lambda response: order[response.item_id])
        self._write(self.response_file(shard), pack_responses(responses), {"quarantined": json.dumps(found)})

    def _write(self, file: Path, table: pa.Table, metadata: Mapping[str, str]) -> None:
        """Write a shard; from here on the manifest is out of date."""
        tables.withdraw_manifest(self.profile)
        store.write_table(file, table, metadata)

    def write_heads(self, loaded: ModelLoader, shard: Shard) -> None:
        """Measure every head's look at the evidence on one calibration shard."""
        records, _ = self.trace(loaded.for_replay(), shard, None)
        heads = tables.build_heads(tables.join_records(self, shard, records))
        measured = {"responses": tables.hash_responses(self.read_shard_responses(shard))}
        self._write(self.heads_file(shard), heads, measured)

    def write_traces(self, loaded: ModelLoader, shard: Shard) -> None:
        """Replay one shard over the sets of heads."""
        vlm = loaded.for_replay()
        config = vlm.model.config.get_text_config()
        sets = weigh_heads(self.grounding(shard.model), config.num_hidden_layers, config.num_attention_heads)
        records, reasons = self.trace(vlm, shard, sets)
        response_file = self.response_file(shard)
        found = json.loads(read_note(response_file, "quarantined")) + reasons
        metadata = {
            "quarantined": json.dumps(found),
            "responses": tables.hash_responses(self.read_shard_responses(shard)),
        }
        self._write(self.trace_file(shard), pack_traces(records), metadata)

    def trace(self, vlm: VLM, shard: Shard, head_sets: Any | None) -> tuple[list[TraceRecord], Reasons]:
        """Return the trace records of a shard; see `traces.trace_responses`."""
        responses = self.read_shard_responses(shard)
        return trace_responses(vlm, shard.items, responses, self.settings, head_sets, self.lacking_boxes)

    def run(self, jobs: int) -> None:
        """Extract everything that is missing, then write the tables, the quarantine and the manifest.

        Raises
        ------
        NamedError
            If another run works on this profile; if the disk is full or the folder cannot be written to.
        """
        with files.hold(paths.lock(self.profile)):
            for folder in (paths.responses, paths.heads, paths.traces, paths.tables, paths.questions):
                store.clean_leftovers(folder(self.profile), older_than_s=0)  # may be large, and can only be ours
            store.clean_leftovers(paths.results(self.profile), older_than_s=0, pattern=".*.tmp")
            store.clean_leftovers(paths.results(self.profile))
            tables.write_questions(self)
            store.recompute_damaged(lambda: self._run(jobs))

    def _run(self, jobs: int) -> None:
        models = self.settings["models"]
        self.forget_grounding()
        if any(name in registry.REAL for name in self.settings["benchmarks"]):
            for line in cost.describe_costs(self, lambda model: load_model(self, model)):
                print(f"estimate: {line}", flush=True)
        if jobs > 1 and len(models) > 1:
            # Small models use one core each better than one model uses several.
            with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=end_with_parent) as pool:
                list(pool.map(extract_model, [self.profile] * len(models), models, range(len(models))))
        else:
            for model in models:
                self.run_model(model)
        shards = [shard for model in models for shard in self.shards(model)]
        tables.withdraw_manifest(self.profile)
        tables.write_tables(self, shards)
        tables.write_manifest(self, shards, tables.write_quarantine(self, shards))


class ModelLoader:
    """Loads a model when a stage first needs it: with its weights, or for a server without them."""

    def __init__(self, study: Study, model: str) -> None:
        self.study, self.model = study, model
        self._whole: VLM | None = None
        self._light: VLM | None = None

    def for_replay(self) -> VLM:
        """Return the model with its weights."""
        if self._whole is None:
            self._whole = load_model(self.study, self.model, weights=True)
        return self._whole

    def for_generation(self) -> VLM:
        """Return the model, without weights where a server generates."""
        if self.study.settings["engine"] == "local":
            return self.for_replay()
        if self._light is None:
            self._light = load_model(self.study, self.model, weights=False)
        return self._light


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


if __name__ == "__main__":
    main()
