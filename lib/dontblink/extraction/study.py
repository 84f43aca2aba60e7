"""One study: its questions, its shards, and the names under which they are kept.

Why it exists: extraction, second looks and pictures must agree on which items a profile asks and where their results
lie. In: the parameters of a profile. Out: items, shards and file names. A file's name carries a hash of everything that
its content depends on, so that a run recomputes what is missing or changed and nothing else: of a response what the
model was shown and with which settings; of heads and traces besides the evidence boxes and how they are replayed.
Never: a model, or anything that is written here except the cache of checkpoint hashes.

Who writes the responses: the local engine, or a server elsewhere.

In: a study's settings and items. Out: loaded models and the responses of a shard. Never: measure anything.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyarrow as pa

from dontblink import lineage, params, paths, store
from dontblink.attention.grounding import Grounding, select_grounding
from dontblink.attention.traces import read_responses
from dontblink.boxes.annotations import attach_boxes, read_annotations
from dontblink.files import hash_file, whole_file
from dontblink.models.checkpoints import find_backend, load_vlm
from dontblink.models.fingerprint import list_checkpoint
from dontblink.models.generate import Response, Sampling, generate_responses
from dontblink.models.server import generate_on_server
from dontblink.models.vlm import VLM
from dontblink.questions import registry
from dontblink.questions.items import Item, Split
from dontblink.questions.sources import Row
from dontblink.schema import check_table

# The modules that make a shard: the code behind them is part of its key, as are the versions of what computes it.
RESPONSES = {
    "local": ("dontblink.models.checkpoints", "dontblink.models.generate"),
    "server": ("dontblink.models.checkpoints", "dontblink.models.server"),
}
TRACES = ("dontblink.attention.traces", "dontblink.attention.grounding")
VERSIONS = ("torch", "transformers", "tokenizers", "numpy", "pillow", "torchvision")
# And so are the parameters that can change it; those of LOCAL are of no effect where a server generates.
GENERATION = (
    "engine", "max_new_tokens", "temperature", "top_p", "top_k", "generation_seed", "thinking", "max_image_tokens",
)  # fmt: skip
LOCAL = ("batch_size", "device", "dtype", "attention")
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

    @property
    def name(self) -> str:
        """The part of its files' names that does not change with their content."""
        return f"{self.benchmark}-{self.split}-{self.index:03d}"


class Study:
    """The questions and the files of one profile."""

    def __init__(self, profile: str, prepare_row: Callable[[Row], Row] = lambda row: row) -> None:
        self.profile, self.prepare_row = profile, prepare_row
        self.settings = params.read_section(profile, "extraction")
        self.testbed_settings = params.read_section(profile, "testbed")
        self.question_settings = params.read_section(profile, "questions")
        self._grounding: dict[str, Grounding] = {}

    @cached_property
    def questions(self) -> dict[str, registry.Questions]:
        """The questions of every benchmark, the boxes of real ones attached; rejected rows with their reasons."""
        found = {}
        for benchmark in self.settings["benchmarks"]:
            questions = registry.load_questions(
                benchmark, self.testbed_settings, self.question_settings, self.prepare_row
            )
            if benchmark in registry.REAL:
                self._attach_boxes(questions, self.evidence_file(benchmark))
            found[benchmark] = questions
        return found

    def _attach_boxes(self, questions: registry.Questions, file: Path) -> None:
        """Give the items their accepted boxes; remember which items lack them, and which lines cannot be used."""
        annotations, rejected = read_annotations(file)
        questions.rejected.extend(rejected)
        for split, items in questions.items.items():
            attached, lacking = attach_boxes(items, annotations)
            boxed = {item.id: item for item in attached}
            questions.items[split] = [boxed.get(item.id, item) for item in items]
            self.lacking_boxes |= dict(lacking)
            nowhere = "annotated as having no evidence in its pictures: nothing to measure"
            self.lacking_boxes |= {item.id: nowhere for item in attached if not item.boxes}

    def evidence_file(self, benchmark: str) -> Path:
        """Return the annotations of a real benchmark."""
        return paths.ROOT / self.question_settings["evidence_folder"] / f"{benchmark}.jsonl"

    @cached_property
    def lacking_boxes(self) -> dict[str, str]:
        """Why an item has no evidence to measure, by item id; filled while the questions are loaded."""
        return {}

    @property
    def items(self) -> dict[tuple[str, Split], list[Item]]:
        """The usable items of every benchmark and split."""
        return {(name, split): q.items[split] for name, q in self.questions.items() for split in registry.SPLITS}

    def checkpoint(self, model: str) -> Path:
        """Return the checkpoint folder of a model."""
        return paths.ROOT / self.settings["checkpoints_folder"] / model

    def shards(self, model: str) -> list[Shard]:
        """Return the shards of one model in order."""
        checkpoint = hash_checkpoint(self.checkpoint(model), paths.checkpoint_hashes(self.profile))
        size, made = self.settings["shard_items"], []
        is_local = self.settings["engine"] == "local"
        generation = {name: self.settings[name] for name in (*GENERATION, *(LOCAL if is_local else ()))}
        made_by, measured_by = hash_code(RESPONSES[self.settings["engine"]]), hash_code(TRACES)
        if not is_local:
            generation["verification"] = params.read_section(self.profile, "server")["verification"]
        for (benchmark, split), items in self.items.items():
            for index, start in enumerate(range(0, len(items), size)):
                part = tuple(items[start : start + size])
                prompts = [item.prompt_hash for item in part]
                boxes = [[item.boxes_hash, self.lacking_boxes.get(item.id, "")] for item in part]
                response_key = store.shard_key(made_by, checkpoint, prompts, generation)
                replay = {name: self.settings[name] for name in REPLAY}
                replay_key = store.shard_key(measured_by, response_key, boxes, replay)
                made.append(Shard(model, benchmark, split, index, part, response_key, replay_key))
        return made

    def response_file(self, shard: Shard) -> Path:
        """Return where a shard's responses lie."""
        return paths.responses(self.profile) / shard.model / f"{shard.name}-{shard.response_key}.parquet"

    def heads_file(self, shard: Shard) -> Path:
        """Return where the looks of every head lie, which choose the grounding (calibration shards only)."""
        return paths.heads(self.profile) / shard.model / f"{shard.name}-{shard.replay_key}.parquet"

    def trace_file(self, shard: Shard) -> Path:
        """Return where a shard's traces lie; the grounding, which they average over, must be known."""
        chosen = self.grounding(shard.model)
        key = store.shard_key(shard.replay_key, [list(chosen.layers), [list(pair) for pair in chosen.heads]])
        return paths.traces(self.profile) / shard.model / f"{shard.name}-{key}.parquet"

    def files(self, shard: Shard) -> list[Path]:
        """Return every file of a shard."""
        heads = [self.heads_file(shard)] if shard.split == "calibration" else []
        return [self.response_file(shard), *heads, self.trace_file(shard)]

    def grounding(self, model: str) -> Grounding:
        """Return a model's grounding layers and heads, chosen on the calibration split.

        Raises
        ------
        StoreError, TableError
            If the heads of a calibration shard are not there yet; if no calibration item has evidence.
        """
        if model not in self._grounding:
            files = [self.heads_file(shard) for shard in self.shards(model) if shard.split == "calibration"]
            heads = pa.concat_tables([check_table("heads", store.read_table(file), file) for file in files])
            if not heads.num_rows:
                raise store.StoreError(
                    f"{model}: no calibration item has a reasoning and accepted evidence boxes, so no grounding layer "
                    f"can be chosen; annotate {self.question_settings['evidence_folder']} and run again"
                )
            self._grounding |= select_grounding(
                heads.unify_dictionaries().to_pandas(), self.settings["grounding_layers"],
                self.settings["grounding_heads"],
            )  # fmt: skip
        return self._grounding[model]

    def forget_grounding(self) -> None:
        """Choose every model's grounding again when it is asked for next: the heads may have been measured again."""
        self._grounding.clear()

    def read_shard_responses(self, shard: Shard) -> list[Response]:
        """Return the stored responses of one shard."""
        return read_responses(self.response_file(shard))

    def read_responses(self, model: str, benchmark: str) -> dict[str, Response]:
        """Return the stored test responses of one cell by item id."""
        return {
            response.item_id: response
            for shard in self.shards(model)
            if (shard.benchmark, shard.split) == (benchmark, "test")
            for response in self.read_shard_responses(shard)
        }


def hash_code(modules: tuple[str, ...]) -> str:
    """Return a hash of the code behind modules, the pixel backend and the versions of what computes with it."""
    return store.shard_key(lineage.hash_code(*modules), find_backend(), [read_version(name) for name in VERSIONS])


def read_version(package: str) -> str:
    """Return an installed package's version, '' where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def read_hashes(cache: Path) -> dict[str, str]:
    """Return the entries of a cache of hashes that are hashes, none of a file that is damaged or not there."""
    try:
        entries = json.loads(cache.read_bytes())
        return {key: value for key, value in entries.items() if re.fullmatch("[0-9a-f]{64}", value)}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


def hash_checkpoint(folder: Path, cache: Path) -> str:
    """Return a hash of every file of a checkpoint that loading reads; the card and the curve do not count.

    Hashing gigabytes takes minutes: `cache` (JSON) keeps a file's hash under its name, size and time of change.
    """
    known = read_hashes(cache)
    digest, seen = hashlib.sha256(), dict(known)
    for path in list_checkpoint(folder):
        status = path.stat()
        key = f"{path} {status.st_size} {status.st_mtime_ns}"
        seen[key] = known.get(key) or hash_file(path)
        digest.update(path.name.encode() + bytes.fromhex(seen[key]))
    if seen != known:
        with whole_file(cache) as temporary:
            temporary.write_text(json.dumps(seen, indent=0, sort_keys=True))
    return digest.hexdigest()



def load_model(study: Study, model: str, *, weights: bool = True) -> VLM:
    """Return a model of the study as its parameters say; without weights it still prompts, decodes and cuts spans."""
    s = study.settings
    return load_vlm(
        study.checkpoint(model), name=model, device=s["device"], dtype=s["dtype"], attention=s["attention"],
        thinking=s["thinking"] == "enabled", max_image_tokens=s["max_image_tokens"], weights=weights,
    )  # fmt: skip


def generate_shard(study: Study, vlm: VLM, shard: Shard, quarantine: Callable[[str, str], None]) -> list[Response]:
    """Return the responses of one shard; `quarantine` gets (item id, reason) for an item that has none."""
    s = study.settings
    sampling = Sampling(s["max_new_tokens"], s["temperature"], s["top_p"], s["top_k"], s["generation_seed"])
    if s["engine"] == "local":
        found = generate_responses(
            vlm, shard.items, sampling, batch_size=s["batch_size"], progress=False, quarantine=quarantine,
        )  # fmt: skip
    else:
        server = params.read_section(study.profile, "server")
        stated = paths.ROOT / server.pop("fingerprints_folder") / f"{shard.model}.json"
        is_unverified = server.pop("verification") == "skip"
        found = generate_on_server(
            vlm, shard.items, sampling, **server, progress=False, quarantine=quarantine,
            retokenise=s["retokenised"] != "refuse", checkpoint=study.checkpoint(shard.model), unverified=is_unverified,
            server_fingerprint=None if is_unverified else stated,
        )  # fmt: skip
    return list(found)
