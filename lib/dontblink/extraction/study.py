"""One study: its questions, its shards, the names under which they are kept, and what a finished shard holds.

Why it exists: extraction, second looks and pictures must agree on which items a profile asks and where their results
lie. In: the parameters of a profile. Out: items, shards, file names, loaded models, and the responses and traces read
back from their files. A file's name carries a hash of everything that its content depends on, so that a run recomputes
what is missing or changed and nothing else: of a response what the model was shown and with which settings; of heads
and traces besides the evidence boxes and how they are replayed; of a part of a table besides the whole items and the
code that tabulates and scores. A response shard is the contract between any engine and
the replay. Never: measure anything, or write anything except the cache of checkpoint hashes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar, get_args

import pyarrow as pa
from transformers import AutoConfig

from dontblink import lineage, params, paths, store
from dontblink.attention.grounding import Grounding, select_grounding
from dontblink.attention.traces import HEADS, TRACES, Reasons, Trace, unpack_traces
from dontblink.boxes.annotations import attach_boxes, read_annotations
from dontblink.errors import NamedError
from dontblink.files import hash_file, write_text
from dontblink.models.checkpoints import find_backend, load_vlm
from dontblink.models.fingerprint import list_checkpoint
from dontblink.models.response import RESPONSES, FinishReason, Response, unpack_responses
from dontblink.models.samples import SAMPLES, Sample, unpack_samples
from dontblink.models.vlm import VLM
from dontblink.questions import registry
from dontblink.questions.items import Item, Split
from dontblink.questions.sources import Row
from dontblink.schema import PARTS

# The modules that make a shard: the code behind them is part of its key, as are the versions of what computes it.
MADE_BY = {
    "local": ("dontblink.models.checkpoints", "dontblink.models.generate"),
    "server": ("dontblink.models.checkpoints", "dontblink.models.server"),
}
SAMPLED_BY = ("dontblink.models.samples",)  # and what makes responses
MEASURED_BY = ("dontblink.attention.traces",)  # heads and traces
TABLED_BY = ("dontblink.extraction.tables",)  # and the generator, which scores
VERSIONS = ("torch", "transformers", "tokenizers", "numpy", "pillow")
TABLE_VERSIONS = ("numpy", "pandas", "pyarrow")
# And so are the parameters that can change it; those of LOCAL are of no effect where a server generates.
GENERATION = (
    "engine", "max_new_tokens", "temperature", "top_p", "top_k", "generation_seed", "thinking", "max_image_tokens",
)  # fmt: skip
LOCAL = ("batch_size", "device", "dtype", "attention")
GREEDY = ("temperature", "top_p", "top_k")  # of them, what samples do not follow
Written = TypeVar("Written", Response, Sample)
ANEW = "delete it, the next run recomputes it"
REPLAY = ("replay_implementation", "replay_batch_tokens", "control_seed", "device", "dtype", "retokenised")


@dataclass(frozen=True)
class Shard:
    """Some items of one model x benchmark x split, and the hashes of what its files depend on."""

    model: str
    benchmark: str
    split: Split
    index: int
    items: tuple[Item, ...]
    response_key: str
    replay_key: str
    tables_key: str
    lacking: tuple[tuple[str, str], ...] = ()  # why an item has no evidence that is known, by item id
    n_sampled: int = 0  # the first so many items are asked again, see `models.samples`
    sample_key: str = ""
    sample_table_key: str = ""

    @property
    def name(self) -> str:
        """The part of its files' names that does not change with their content."""
        return f"{self.benchmark}-{self.split}-{self.index:03d}"

    @property
    def sampled_items(self) -> tuple[Item, ...]:
        """The items that are asked again; a shard without one has no samples."""
        return self.items[: self.n_sampled]


class Study:
    """The questions and the files of one profile."""

    def __init__(self, profile: str, prepare_row: Callable[[Row], Row] = lambda row: row) -> None:
        self.profile, self.prepare_row = profile, prepare_row
        self.settings = params.read_section(profile, "extraction")
        self.testbed_settings = params.read_section(profile, "testbed")
        self.question_settings = params.read_section(profile, "questions")
        self.lacking_boxes: dict[str, str] = {}  # why an item has no evidence; filled while the questions are loaded
        self._grounding: dict[str, Grounding] = {}

    @cached_property
    def questions(self) -> dict[str, registry.Questions]:
        """The questions of every benchmark, the boxes of real ones attached; rejected rows with their reasons."""
        found = {}
        for benchmark in self.settings["benchmarks"]:
            settings = self.testbed_settings, self.question_settings
            questions = registry.load_questions(benchmark, *settings, self.prepare_row)
            found[benchmark] = questions
            if benchmark not in registry.REAL:
                continue
            annotations, rejected = read_annotations(self.evidence_file(benchmark))
            questions.rejected.extend(rejected)
            drawn_by_hand = {found.item_id for found in annotations}
            for split, items in questions.items.items():
                # an item that brings boxes and is annotated, too, is refused there: nobody knows which of both is meant
                open_to = [item for item in items if not item.boxes or item.id in drawn_by_hand]
                attached, lacking = attach_boxes(open_to, annotations)
                why = {item.id: str(item.covariates.get("no_evidence") or "") for item in items}
                lacking = [(name, f"{why[name]}; {reason}" if why[name] else reason) for name, reason in lacking]
                boxed = {item.id: item for item in attached}
                questions.items[split] = [boxed.get(item.id, item) for item in items]
                nowhere = "annotated as having no evidence in its pictures: nothing to measure"
                self.lacking_boxes |= dict(lacking) | {item.id: nowhere for item in attached if not item.boxes}
        return found

    @cached_property
    def outside(self) -> dict[str, registry.Questions]:
        """The `grounding_source` where it is none of the benchmarks: its calibration items with boxes, and no others.

        NamedError if it has none.
        """
        name = self.settings["grounding_source"]
        if name in ("all", *self.settings["benchmarks"]):
            return {}
        testbed, settings = (own | {"n_test_items": 0} for own in (self.testbed_settings, self.question_settings))
        found = registry.load_questions(name, testbed, settings, self.prepare_row)
        found.items["calibration"] = [item for item in found.items["calibration"] if item.boxes]
        if not found.items["calibration"]:
            reason = f"no item with boxes ({found.rejected[0][1] if found.rejected else 'it ships none'})"
            raise NamedError(f"extraction.grounding_source {name!r}: {reason}; name another benchmark")
        return {name: found}

    def image_tokens(self, benchmark: str) -> int:
        """Return the image budget of a benchmark: its own of `image_budgets`, else `max_image_tokens`."""
        budgets = dict(entry.split(":") for entry in self.settings["image_budgets"])
        return int(budgets.get(benchmark, self.settings["max_image_tokens"]))

    def evidence_file(self, benchmark: str) -> Path:
        """Return the annotations of a real benchmark."""
        return paths.ROOT / self.question_settings["evidence_folder"] / f"{benchmark}.jsonl"

    @property
    def items(self) -> dict[tuple[str, Split], list[Item]]:
        """The usable items of every benchmark and split."""
        return {(name, split): q.items[split] for name, q in self.questions.items() for split in registry.SPLITS}

    def checkpoint(self, model: str) -> Path:
        """Return the checkpoint folder of a model."""
        return paths.ROOT / self.settings["checkpoints_folder"] / model

    @cached_property
    def code(self) -> tuple[str, str, str, str]:
        """The keys of what makes responses, samples, measures and tables: code as the run began, and its arithmetic."""
        portable = params.read_section(self.profile, "arithmetic")["portable"]
        tabled_by = *TABLED_BY, *filter(lineage.find_module, [self.question_settings["generator"]])
        made_by = MADE_BY[self.settings["engine"]]
        modules = {
            made_by: VERSIONS, (*made_by, *SAMPLED_BY): VERSIONS, MEASURED_BY: VERSIONS, tabled_by: TABLE_VERSIONS,
        }  # fmt: skip
        made, sampled, measured, tabled = (
            store.shard_key(hash_code(names, packages), portable) for names, packages in modules.items()
        )
        return made, sampled, measured, tabled

    def shards(self, model: str) -> list[Shard]:
        """Return the shards of one model in order, those left out that only choose the grounding."""
        return [shard for shard in self.all_shards(model) if shard.benchmark in self.questions]

    def choosing_shards(self, model: str) -> list[Shard]:
        """Return the calibration shards whose looks choose the grounding: of `grounding_source`, or of all tested."""
        source = self.settings["grounding_source"]
        calibration = [shard for shard in self.all_shards(model) if shard.split == "calibration"]
        return [shard for shard in calibration if source in ("all", shard.benchmark)]

    def all_shards(self, model: str) -> list[Shard]:
        """Return the shards of one model in order."""
        checkpoint = hash_checkpoint(self.checkpoint(model), paths.checkpoint_hashes(self.profile))
        size, made = self.settings["shard_items"], []
        is_local = self.settings["engine"] == "local"
        generation = {name: self.settings[name] for name in (*GENERATION, *(LOCAL if is_local else ()))}
        made_by, sampled_by, measured_by, tabled_by = self.code
        if not is_local:
            generation["verification"] = params.read_section(self.profile, "server")["verification"]
        outside = [((name, split), q.items[split]) for name, q in self.outside.items() for split in registry.SPLITS]
        for (benchmark, split), items in (*self.items.items(), *outside):
            generation["max_image_tokens"] = self.image_tokens(benchmark)
            drawn = {name: value for name, value in generation.items() if name not in GREEDY}
            drawn["samples_per_item"] = self.settings["samples_per_item"]
            for index, start in enumerate(range(0, len(items), size)):
                part = tuple(items[start : start + size])
                prompts = [item.prompt_hash for item in part]
                lacking = {item.id: self.lacking_boxes[item.id] for item in part if item.id in self.lacking_boxes}
                boxes = [[item.boxes_hash, lacking.get(item.id, "")] for item in part]
                response_key = store.shard_key(made_by, checkpoint, prompts, generation)
                replay = {name: self.settings[name] for name in REPLAY}
                replay_key = store.shard_key(measured_by, response_key, boxes, replay)
                whole = [item.content_hash for item in part]
                tables_key = store.shard_key(tabled_by, whole, self.settings["sink_rule"])
                keys = response_key, replay_key, tables_key
                n_sampled = max(min(self.settings["n_sampled_items"] - start, len(part)), 0) if split == "test" else 0
                sample_key = store.shard_key(sampled_by, checkpoint, prompts[:n_sampled], drawn)
                sample_table_key = store.shard_key(sample_key, tabled_by, whole[:n_sampled])
                samples = n_sampled, sample_key, sample_table_key
                made.append(Shard(model, benchmark, split, index, part, *keys, tuple(lacking.items()), *samples))
        return made

    def response_file(self, shard: Shard) -> Path:
        """Return where a shard's responses lie."""
        return paths.responses(self.profile) / shard.model / f"{shard.name}-{shard.response_key}.parquet"

    def heads_file(self, shard: Shard) -> Path:
        """Return where the looks of every head lie, which choose the grounding (calibration shards only)."""
        return paths.heads(self.profile) / shard.model / f"{shard.name}-{shard.replay_key}.parquet"

    def trace_file(self, shard: Shard) -> Path:
        """Return where a shard's traces lie; the grounding, which they average over, must be known."""
        return paths.traces(self.profile) / shard.model / f"{shard.name}-{self.trace_key(shard)}.parquet"

    def trace_key(self, shard: Shard) -> str:
        """Return the hash of all that a shard's traces depend on."""
        chosen = self.grounding(shard.model)
        return store.shard_key(shard.replay_key, [list(chosen.layers), [list(pair) for pair in chosen.heads]])

    def part(self, shard: Shard) -> str:
        """Return the name of a shard's part of every table, see `paths.part`."""
        return f"{shard.model}/{shard.name}-{store.shard_key(self.trace_key(shard), shard.tables_key)}"

    def parts(self, shard: Shard) -> dict[str, Path]:
        """Return where a shard's part of each table lies."""
        return {name: paths.part(self.profile, name, self.part(shard)) for name in PARTS}

    def sample_file(self, shard: Shard) -> Path:
        """Return where the sampled responses to the first items of a shard lie."""
        return paths.samples(self.profile) / shard.model / f"{shard.name}-{shard.sample_key}.parquet"

    def sample_part(self, shard: Shard) -> Path:
        """Return where a shard's part of the table of samples lies."""
        return paths.part(self.profile, "samples", f"{shard.model}/{shard.name}-{shard.sample_table_key}")

    def sample_files(self, shard: Shard) -> list[Path]:
        """Return both, none of a shard whose items are not asked again."""
        return [self.sample_file(shard), self.sample_part(shard)] if shard.n_sampled else []

    def files(self, shard: Shard) -> list[Path]:
        """Return every file of a shard's measured responses."""
        heads = [self.heads_file(shard)] if shard.split == "calibration" else []
        return [self.response_file(shard), *heads, self.trace_file(shard), *self.parts(shard).values()]

    def grounding(self, model: str) -> Grounding:
        """Return a model's grounding layers and heads, chosen on the calibration split; all, where none can choose.

        NamedError if the heads of a calibration shard are not there yet.
        """
        if model not in self._grounding:
            files = [self.heads_file(shard) for shard in self.choosing_shards(model)]
            heads = pa.concat_tables([read_shard(file, HEADS) for file in files])
            sizes = self.settings["grounding_layers"], self.settings["grounding_heads"]
            self._grounding |= select_grounding(heads.unify_dictionaries().to_pandas(), *sizes)
            if model not in self._grounding:
                print(f"{model}: no calibration item has a reasoning and evidence boxes; its grounding is all layers")
                last = heads.group_by([]).aggregate([("layer", "max"), ("head", "max")]).to_pylist()[0]
                if last["layer_max"] is None:  # no calibration response has a reasoning
                    config = AutoConfig.from_pretrained(self.checkpoint(model)).get_text_config(decoder=True)
                    shape = config.num_hidden_layers, config.num_attention_heads
                else:
                    shape = last["layer_max"] + 1, last["head_max"] + 1
                self._grounding[model] = Grounding.of_all(*shape)
        return self._grounding[model]

    def load_model(self, model: str, *, weights: bool = True) -> VLM:
        """Return a model as the parameters say; without weights it still prompts, decodes and cuts spans."""
        s = self.settings
        return load_vlm(
            self.checkpoint(model), name=model, device=s["device"], dtype=s["dtype"], attention=s["attention"],
            thinking=s["thinking"] == "enabled", max_image_tokens=s["max_image_tokens"], weights=weights,
        )  # fmt: skip

    def read_responses(self, shard: Shard) -> list[Response]:
        """Return the stored responses of one shard."""
        return read_responses(self.response_file(shard))

    def read_traces(self, shard: Shard) -> list[Trace]:
        """Return the stored traces of one shard; raises like `check_measured`."""
        file = self.trace_file(shard)
        self.check_measured(shard, file)
        return read_traces(file)

    def check_parts(self, shard: Shard) -> dict[str, str]:
        """Return the hash of a shard's part of each table; DamagedError unless they were made of the traces there."""
        traces = self.trace_file(shard)
        made_of, hashes = store.read_metadata(traces)["sha256"], {}
        for name, file in self.parts(shard).items():
            held = store.read_metadata(file)
            if held.get("traces") != made_of:
                raise store.DamagedError(file, f"made of other traces than {paths.show(traces)} holds")
            hashes[name] = held["sha256"]
        return hashes

    def read_samples(self, shard: Shard) -> list[Sample]:
        """Return the stored samples of one shard."""
        return read_samples(self.sample_file(shard))

    def check_samples(self, shard: Shard) -> str:
        """Return the hash of a shard's part of the table of samples; DamagedError unless it was made of those there."""
        samples, held = self.sample_file(shard), store.read_metadata(part := self.sample_part(shard))
        if held.get("samples") != store.read_metadata(samples)["sha256"]:
            raise store.DamagedError(part, f"made of other samples than {paths.show(samples)} holds")
        return str(held["sha256"])

    def check_measured(self, shard: Shard, file: Path) -> None:
        """Check that heads or traces were measured on the responses that are there, in case those were written again.

        DamagedError if not: computing `file` again repairs it.
        """
        measured = store.read_metadata(file).get("responses")
        if measured is not None and measured != hash_responses(self.read_responses(shard)):
            found = f"measured on other responses than {paths.show(self.response_file(shard))} holds"
            raise store.DamagedError(file, found)


def hash_responses(responses: Sequence[Response]) -> str:
    """Return a hash of the token ids of some responses."""
    return store.shard_key([[r.item_id, list(r.response_ids)] for r in responses])


def read_shard(file: Path, expected: pa.Schema) -> pa.Table:
    """Return a shard's table with the columns of `expected`, by name; raise NamedError unless it has them, filled."""
    table, columns = store.read_table(file), dict(zip(expected.names, expected.types, strict=True))
    store.check_columns(paths.show(file), table, columns, ANEW)
    return table.select(expected.names)


def read_responses(file: Path) -> list[Response]:
    """Return the responses of a shard file; NamedError if it is damaged or another version of this package wrote it."""
    return check_reasons(file, unpack_responses(read_shard(file, RESPONSES)))


def read_samples(file: Path) -> list[Sample]:
    """Return the samples of a shard file; raises like `read_responses`."""
    return check_reasons(file, unpack_samples(read_shard(file, SAMPLES)))


def check_reasons(file: Path, responses: list[Written]) -> list[Written]:
    """Return responses or samples; NamedError if one ended in a way that this version does not know."""
    if odd := [r.finish_reason for r in responses if r.finish_reason not in get_args(FinishReason)]:
        raise other_version(file, f"finish reason {odd[0]!r}")
    return responses


def read_traces(file: Path) -> list[Trace]:
    """Return the traces of a shard file; raises like `read_responses`."""
    table = read_shard(file, TRACES)
    try:
        return unpack_traces(table)
    except ValueError as error:  # arrays that have not the shapes which stand beside them
        raise other_version(file, str(error)) from error


def read_reasons(file: Path) -> Reasons:
    """Return which items a shard of responses or traces left out, and why; raises like `read_responses`."""
    if (noted := store.read_metadata(file).get("quarantined")) is None:
        raise other_version(file, "no 'quarantined' in its metadata")
    return [(item_id, reason) for item_id, reason in json.loads(noted)]


def other_version(file: Path, found: str) -> NamedError:
    """Return the error about a file that is whole and not what this version of the package writes."""
    return NamedError(f"{paths.show(file)}: holds {found}; {ANEW}")


def list_shards(
    kind: Callable[[str], Path], profile: str, model: str, benchmark: str, split: str = "test"
) -> list[Path]:
    """Return the finished shards of one cell in item order, `kind` as `paths.traces`; NamedError without any."""
    listing, folder = paths.shard_list(profile), kind(profile) / model
    files = [paths.ROOT / name for name in (listing.read_text().splitlines() if listing.exists() else [])]
    wanted = sorted(f for f in files if f.parent == folder and f.name.startswith(f"{benchmark}-{split}-"))
    if not wanted:
        what = f"no shard of {model} x {benchmark}, {split}, in {folder.parent.name}"
        raise NamedError(f"{paths.show(listing)}: {what}; run `make extract PROFILE={profile}`")
    return wanted


def iterate_traces(profile: str, model: str, benchmark: str, split: str = "test") -> Iterator[Trace]:
    """Yield the traces of one cell in item order, reading one shard at a time; raises like `list_shards`."""
    for file in list_shards(paths.traces, profile, model, benchmark, split):
        yield from read_traces(file)


def hash_code(modules: Sequence[str], packages: Sequence[str]) -> str:
    """Return a hash of the code behind modules, the pixel backend and the versions of what computes with it."""
    backend = find_backend()
    versions = [*map(version, packages), version(backend) if backend == "torchvision" else ""]
    return store.shard_key(lineage.hash_code(*modules), backend, versions)


def hash_checkpoint(folder: Path, cache: Path) -> str:
    """Return a hash of every file of a checkpoint that loading reads; the card and the curve do not count.

    Hashing gigabytes takes minutes: `cache` (JSON) keeps a file's hash under its name, size and time of change; what is
    damaged there is hashed again.
    """
    try:
        entries = json.loads(cache.read_bytes())
        known = {key: value for key, value in entries.items() if re.fullmatch("[0-9a-f]{64}", value)}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        known = {}
    digest, seen = hashlib.sha256(), dict(known)
    for path in list_checkpoint(folder):
        status = path.stat()
        key = f"{path} {status.st_size} {status.st_mtime_ns}"
        seen[key] = known.get(key) or hash_file(path)
        digest.update(path.name.encode() + bytes.fromhex(seen[key]))
    write_text(cache, json.dumps(seen, indent=0, sort_keys=True))
    return digest.hexdigest()
