"""Items -> responses -> traces -> tables: the command that strings the stages together and can stop anywhere.

In: the `testbed` and `extraction` sections of the parameters. Out: response and trace shards, the tidy tables, a
quarantine table, and a manifest that names all of them. Every shard's name carries a hash of everything that it
depends on (checkpoint, items, settings, code, versions), so that a run recomputes what is missing or changed and
nothing else.
Nothing here measures or decides anything: it calls `generate`, `replay` and `tables`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import torch
import transformers
from PIL import __version__ as pillow_version

from dontblink import evidence, params, paths, schema, store, tables
from dontblink.benchmarks import testbed
from dontblink.generate import Response, encode_items, generate_responses, item_generator
from dontblink.items import Item, ItemError, Split, validate
from dontblink.progress import Progress
from dontblink.replay import replay_responses
from dontblink.shards import TraceRecord, pack_responses, pack_traces, unpack_responses, unpack_traces
from dontblink.vlm import VLM, find_backend, load_vlm

SPLITS: tuple[Split, ...] = ("test", "calibration")
# The code that makes a shard is part of its key, as are the versions of what computes it.
RESPONSE_CODE = ("items", "vlm", "spans", "generate")
TRACE_CODE = (*RESPONSE_CODE, "evidence", "capture", "replay", "shards")
GENERATION = ("max_new_tokens", "batch_size", "temperature", "top_p", "top_k", "generation_seed", "device", "dtype")
REPLAY = ("replay_implementation", "control_seed", "device", "dtype")


@dataclass(frozen=True)
class Shard:
    """Some items of one model x benchmark x split, and the hashes that name their two files."""

    model: str
    benchmark: str
    split: Split
    index: int
    items: tuple[Item, ...]
    response_key: str
    trace_key: str


class Extraction:
    """One extraction run of a profile: its settings, its plan and its folders."""

    def __init__(self, profile: str) -> None:
        self.profile = profile
        self.settings = params.read_section(profile, "extraction")
        self.testbed_settings = params.read_section(profile, "testbed")
        self.quarantined: list[store.Quarantine] = []

    @cached_property
    def items(self) -> dict[tuple[str, Split], list[Item]]:
        """The valid items of every benchmark and split; others are quarantined with the reason."""
        loaded: dict[tuple[str, Split], list[Item]] = {}
        for benchmark in self.settings["benchmarks"]:
            difficulty = testbed.read_difficulty(benchmark, self.testbed_settings)
            for split in SPLITS:
                n_items, seed = self.testbed_settings[f"n_{split}_items"], self.testbed_settings["item_seed"]
                found = testbed.load_items(benchmark, split, n_items, seed, difficulty)
                loaded[benchmark, split] = list(self._keep_valid(found))
        return loaded

    def _keep_valid(self, found: Iterator[Item]) -> Iterator[Item]:
        for item in found:
            try:
                validate(item)
            except ItemError as error:
                self.quarantined.append(store.Quarantine(item.id, "", "items", str(error)))
            else:
                yield item

    def plan(self, model: str) -> list[Shard]:
        """Return the shards of one model in order."""
        checkpoint = hash_checkpoint(self.checkpoint(model))
        size = self.settings["shard_items"]
        shards = []
        for (benchmark, split), items in self.items.items():
            for index, start in enumerate(range(0, len(items), size)):
                part = tuple(items[start : start + size])
                response_key = store.shard_key(
                    hash_code(RESPONSE_CODE),
                    checkpoint,
                    [item.content_hash for item in part],
                    {k: self.settings[k] for k in GENERATION},
                )
                trace_key = store.shard_key(hash_code(TRACE_CODE), response_key, {k: self.settings[k] for k in REPLAY})
                shards.append(Shard(model, benchmark, split, index, part, response_key, trace_key))
        return shards

    def files(self, shard: Shard) -> tuple[Path, Path]:
        """Return where a shard's responses and its traces lie."""
        name = f"{shard.benchmark}-{shard.split}-{shard.index:03d}"
        folders = (paths.responses(self.profile), paths.traces(self.profile))
        keys = (shard.response_key, shard.trace_key)
        responses, traces = (f / shard.model / f"{name}-{key}.parquet" for f, key in zip(folders, keys, strict=True))
        return responses, traces

    def checkpoint(self, model: str) -> Path:
        """Return the checkpoint folder of a model."""
        return paths.ROOT / self.settings["checkpoints_folder"] / model

    def run_model(self, model: str, position: int | None = None) -> None:
        """Compute the missing response and trace shards of one model; `position` is its bar's line."""
        shards = self.plan(model)
        missing = [shard for shard in shards if store.missing(self.files(shard))]
        print(f"{model}: {len(shards) - len(missing)} of {len(shards)} shards are there", flush=True)
        if missing:
            vlm = load_vlm(
                self.checkpoint(model), name=model, device=self.settings["device"], dtype=self.settings["dtype"]
            )
            bar = Progress(sum(len(s.items) for s in missing), f"generate and replay {model}", position=position)
            for shard in missing:
                self.write_shard(vlm, shard)
                bar.advance(len(shard.items))
            bar.close()

    def write_shard(self, vlm: VLM, shard: Shard) -> None:
        """Generate and replay one shard, each unless its file is there."""
        response_path, trace_path = self.files(shard)
        if not response_path.exists():
            s = self.settings
            found: list[tuple[str, str]] = []
            responses = list(generate_responses(
                vlm, shard.items, max_new_tokens=s["max_new_tokens"], batch_size=s["batch_size"],
                temperature=s["temperature"], top_p=s["top_p"], top_k=s["top_k"], seed=s["generation_seed"],
                progress=False, quarantine=lambda item_id, reason: found.append((item_id, reason)),
            ))  # fmt: skip
            order = {item.id: row for row, item in enumerate(shard.items)}
            responses.sort(key=lambda response: order[response.item_id])
            store.write_table(response_path, pack_responses(responses), {"quarantined": json.dumps(found)})
        if trace_path.exists():
            return
        responses = unpack_responses(store.read_table(response_path))
        records, reasons = self.replay(vlm, shard, responses)
        found = json.loads(store.read_metadata(response_path)["quarantined"]) + reasons
        metadata = {"quarantined": json.dumps(found), "responses": hash_responses(responses)}
        store.write_table(trace_path, pack_traces(records), metadata)

    def replay(
        self, vlm: VLM, shard: Shard, responses: list[Response]
    ) -> tuple[list[TraceRecord], list[tuple[str, str]]]:
        """Replay the responses of a shard; those without a token come back as (item id, reason)."""
        reasons = [(r.item_id, "empty response: no token to replay") for r in responses if not r.response_ids]
        kept = [r for r in responses if r.response_ids]
        by_id = {item.id: item for item in shard.items}
        prompts = encode_items(vlm, [by_id[r.item_id] for r in kept])
        grids = [vlm.image_grid(prompt) for prompt in prompts]
        coverage = [
            evidence.item_coverage(by_id[p.item_id], grid, p.image_sizes)
            for p, grid in zip(prompts, grids, strict=True)
        ]
        control = [
            evidence.control_coverage(c, grid, item_generator(self.settings["control_seed"], p.item_id))
            for c, grid, p in zip(coverage, grids, prompts, strict=True)
        ]
        spans = [vlm.segment(r.response_ids) for r in kept]
        traces = replay_responses(
            vlm, prompts, [r.response_ids for r in kept], coverage=coverage, control=control,
            steps=[s.steps for s in spans], implementation=self.settings["replay_implementation"],
            token_budget=self.settings["replay_batch_tokens"],
        )  # fmt: skip
        records = []
        for response, trace, span, c, k, grid in zip(kept, traces, spans, coverage, control, grids, strict=True):
            ids = response.response_ids
            records.append(TraceRecord(
                trace, span, tuple(vlm.token_texts(ids)), tuple(vlm.decode(ids[a:b]) for a, b in span.steps),
                vlm.decode(ids[slice(*span.answer)]), c, k, tuple(grid),
            ))  # fmt: skip
        return records, reasons

    def read_shard(self, shard: Shard) -> list[tables.Measured]:
        """Read one finished shard as the records that the tables are made from."""
        response_path, trace_path = self.files(shard)
        found = unpack_responses(store.read_table(response_path))
        if hash_responses(found) != store.read_metadata(trace_path)["responses"]:
            raise store.StoreError(
                f"{paths.show(trace_path)}: measured on other responses than {paths.show(response_path)} holds; "
                "delete it, the next run recomputes it"
            )
        responses = {r.item_id: r for r in found}
        by_id = {item.id: item for item in shard.items}
        return [
            tables.Measured(
                item=by_id[t.trace.item_id], response=responses[t.trace.item_id], trace=t.trace, spans=t.spans,
                token_texts=t.token_texts, step_texts=t.step_texts, coverage=t.coverage, grids=t.grids,
                score=testbed.score(by_id[t.trace.item_id], t.answer_text),
            )
            for t in unpack_traces(store.read_table(trace_path))
        ]  # fmt: skip

    def read_responses(self, model: str, benchmark: str) -> dict[str, Response]:
        """Return the stored test responses of one cell by item id."""
        return {
            response.item_id: response
            for shard in self.plan(model)
            if (shard.benchmark, shard.split) == (benchmark, "test")
            for response in unpack_responses(store.read_table(self.files(shard)[0]))
        }

    def write_tables(self, shards: list[Shard]) -> dict[str, tables.Grounding]:
        """Choose the grounding heads on the calibration split, then write every table, shard by shard."""
        calibration = [shard for shard in shards if shard.split == "calibration"]
        heads = pa.concat_tables([tables.build_heads(self.read_shard(shard)) for shard in calibration])
        grounding = tables.select_grounding(
            heads.to_pandas(), self.settings["grounding_layers"], self.settings["grounding_heads"]
        )
        blocks: dict[str, list[pa.Table]] = {}
        bar = Progress(len(shards), "tables", unit="shards")
        for shard in shards:
            built = tables.build_blocks(
                self.read_shard(shard), grounding[shard.model], sink_rule=self.settings["sink_rule"]
            )
            for name, block in built.items():
                blocks.setdefault(name, []).append(block)
            bar.advance()
        bar.close()
        for name, parts in blocks.items():
            whole = pa.concat_tables(parts).unify_dictionaries()
            schema.write_table(name, whole, paths.tables(self.profile) / f"{name}.parquet")
        return grounding

    def run(self, jobs: int) -> None:
        """Extract everything that is missing, then write the tables, the quarantine and the manifest."""
        store.clean_leftovers(paths.results(self.profile))
        models = self.settings["models"]
        if jobs > 1 and len(models) > 1:
            # Small models use one core each better than one model uses several.
            with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
                list(pool.map(extract_model, [self.profile] * len(models), models, range(len(models))))
        else:
            for model in models:
                self.run_model(model)
        shards = [shard for model in models for shard in self.plan(model)]
        grounding = self.write_tables(shards)
        for shard in shards:
            metadata = store.read_metadata(self.files(shard)[1])
            for item_id, reason in json.loads(metadata["quarantined"]):
                self.quarantined.append(store.Quarantine(item_id, shard.model, "extraction", reason))
        store.write_quarantine(paths.tables(self.profile) / "quarantine.parquet", self.quarantined)
        print(f"quarantined rows: {len(self.quarantined)}", flush=True)
        files = [paths.show(path) for shard in shards for path in self.files(shard)]
        with paths.whole_file(paths.shard_list(self.profile)) as temporary:
            temporary.write_text("".join(f"{name}\n" for name in files))
        manifest = {
            "profile": self.profile, "n_shards": len(shards), "n_quarantined": len(self.quarantined), "files": files,
            "grounding": {model: asdict(chosen) for model, chosen in grounding.items()},
            "tables": {p.stem: hash_file(p) for p in sorted(paths.tables(self.profile).glob("*.parquet"))},
            "n_items": len(self.settings["benchmarks"]) * sum(self.testbed_settings[f"n_{s}_items"] for s in SPLITS),
            "torch": torch.__version__, "transformers": transformers.__version__, "models": self.settings["models"],
            "benchmarks": self.settings["benchmarks"], "pixel_backend": find_backend(),
        }  # fmt: skip
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        target = paths.extraction_manifest(self.profile)
        # What did not change keeps its age, so that make reruns no notebook for it.
        if not target.exists() or target.read_text() != text:
            with paths.whole_file(target) as temporary:
                temporary.write_text(text)


def extract_model(profile: str, model: str, position: int) -> None:
    """Compute the missing shards of one model on one thread, in a process (and on a bar's line) of its own."""
    torch.set_num_threads(1)
    Extraction(profile).run_model(model, position)


def hash_file(path: Path) -> str:
    """Return 64 hex digits of a file's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def hash_code(modules: tuple[str, ...]) -> str:
    """Return a hash of the modules' sources, the pixel backend and the versions of what computes with them."""
    folder = Path(__file__).parent
    return store.shard_key(
        [hash_file(folder / f"{name}.py") for name in modules],
        find_backend(),
        torch.__version__,
        transformers.__version__,
        pillow_version,
    )


def hash_responses(responses: list[Response]) -> str:
    """Return a hash of the token ids of some responses."""
    return store.shard_key([[r.item_id, list(r.response_ids)] for r in responses])


def hash_checkpoint(folder: Path) -> str:
    """Return a hash of every file of a checkpoint that loading reads; the card and the curve do not count."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in (".safetensors", ".json", ".jinja") and not path.name.startswith("training"):
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


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
    except (params.ParamsError, store.StoreError, ValueError, RuntimeError) as error:
        raise SystemExit(f"extract: {error}") from error


if __name__ == "__main__":
    main()
