"""Evidence without annotators: correct responses of annotator models read by occlusion, shard by shard.

Why it exists: `attention.occlusion` reads one response; a study needs hundreds, on several cores, with a cost known
before they start, and none of it twice. In: a finished extraction, and section `occlusion` of the parameters. Out:
shards of readings, where the studied models look at the two ends of their reasoning, and, for items without boxes,
proposals in data/evidence. Never: accept a proposal, read a wrong answer, or let a model propose evidence for its own
collapse: whoever judges must leave the annotators out.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dontblink import files, params, paths, schema, store
from dontblink.attention.grounding import weigh_heads
from dontblink.attention.occlusion import Occlusion, Reading, read_evidence
from dontblink.attention.replay import replay_responses
from dontblink.boxes.annotations import describe_image, write_annotations
from dontblink.boxes.evidence import Grid, find_rectangles, place_rectangle, split_images
from dontblink.errors import NamedError
from dontblink.extraction.run import Here, Task, share, start_worker
from dontblink.extraction.study import VERSIONS, Shard, Study, hash_code, hash_responses, read_shard
from dontblink.models.generate import encode_items
from dontblink.models.vlm import VLM
from dontblink.questions.items import Box, Item

READ_BY = ("dontblink.attention.occlusion",)
READINGS = pa.schema({
    "item_id": pa.string(), "regions_across": pa.int32(), "drop_nats": pa.list_(pa.float32()),
    "evidence": pa.list_(pa.bool_()), "whole_nats": pa.float64(), "evidence_nats": pa.float64(),
    "rest_nats": pa.float64(), "control_nats": pa.float64(), "n_passes": pa.int32(), "grids": pa.list_(pa.int32()),
    "image_order": pa.list_(pa.int32()),
})  # fmt: skip
ENDS = pa.schema({"item_id": pa.string(), **dict.fromkeys(("first", "last", "whole"), pa.list_(pa.float32()))})
PROBED = 2  # responses that are read for the estimate
Maps = NDArray[np.float32]


class Read(NamedTuple):
    """One response read with regions of one size."""

    reading: Reading
    grids: tuple[Grid, ...]
    image_order: tuple[int, ...]


class Ends(NamedTuple):
    """Mean attention of the grounding layers to each image token, [M] each: first part, last part, whole reasoning.

    A mass on any boxes is such a map times their coverage: a mean over tokens of a sum over image tokens.
    """

    first: Maps
    last: Maps
    whole: Maps


class Readings:
    """The readings of one profile: which responses, where they are kept, and how a reading is made."""

    def __init__(self, profile: str) -> None:
        self.study = Study(profile)
        self.settings = params.read_section(profile, "occlusion")
        if unknown := set(self.settings["annotators"]) - set(self.study.settings["models"]):
            raise NamedError(
                f"occlusion.annotators: {', '.join(sorted(unknown))} not asked in this study; expected some of "
                f"{', '.join(self.study.settings['models'])}; correct the parameters"
            )
        shared = {key: self.settings[key] for key in Occlusion.__dataclass_fields__ if key != "regions_across"}
        self.ways = {across: Occlusion(across, **shared) for across in self.settings["regions_across"]}
        self.n_bins = params.read_section(profile, "collapse")["bins"]
        self.code = hash_code(READ_BY, VERSIONS)
        self.load = functools.lru_cache(maxsize=1)(self.study.load_model)

    @functools.cached_property
    def correct(self) -> dict[tuple[str, str], list[str]]:
        """The first test items of each model x benchmark that it answered correctly, after a reasoning."""
        columns = ["model", "benchmark", "item_id", "correct", "n_reasoning_tokens"]
        rows = schema.read_tables(self.study.profile, ["items"], columns, split="test")["items"]
        rows = rows[rows["correct"] & (rows["n_reasoning_tokens"] > 0)]
        cells = rows.groupby(["model", "benchmark"], observed=True)["item_id"]
        return {(str(model), str(benchmark)): list(map(str, ids)) for (model, benchmark), ids in cells}

    def wanted(self, shard: Shard) -> list[str]:
        """Return which items of a shard are read: of the first `n_items` of the test split, the correct ones."""
        first = self.study.items[shard.benchmark, "test"][: self.settings["n_items"]]
        right = {item.id for item in first} & set(self.correct.get((shard.model, shard.benchmark), ()))
        return [item.id for item in shard.items if item.id in right]

    def test_shards(self, model: str, benchmark: str = "") -> list[Shard]:
        """Return the test shards of a model, of one benchmark or of all."""
        every = [shard for shard in self.study.shards(model) if shard.split == "test"]
        return [shard for shard in every if benchmark in ("", shard.benchmark)]

    def file(self, shard: Shard) -> Path:
        """Return where the readings of a shard lie; the name holds all that they depend on."""
        settings = self.settings["seed"], self.study.settings["replay_batch_tokens"]
        how = [vars(way) for way in self.ways.values()]
        key = store.shard_key(self.code, shard.response_key, self.wanted(shard), how, settings)
        return paths.readings(self.study.profile) / shard.model / f"{shard.name}-{key}.parquet"

    def limited(self, shard: Shard) -> VLM:
        """Return a shard's model with the image budget of its benchmark."""
        return self.load(shard.model).limit(self.study.image_tokens(shard.benchmark))

    def read(self, shard: Shard, item_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Yield the rows of some items of a shard, one for each size of regions."""
        vlm, items = self.limited(shard), {item.id: item for item in shard.items}
        responses = {response.item_id: response for response in self.study.read_responses(shard)}
        budget, seed = self.study.settings["replay_batch_tokens"], self.settings["seed"]
        for item_id in item_ids:
            (prompt,), ids = encode_items(vlm, [items[item_id]]), responses[item_id].response_ids
            place = {"grids": np.ravel(vlm.image_grid(prompt)), "image_order": prompt.image_order}
            for across, how in self.ways.items():
                reading = read_evidence(vlm, prompt, ids, vlm.segment(ids), how, seed=seed, token_budget=budget)
                yield {"item_id": item_id, "regions_across": across, **vars(reading), **place}

    def write_readings(self, shard: Shard) -> None:
        """Read the responses of one shard and keep what was found."""
        rows = list(self.read(shard, self.wanted(shard)))
        made_of = {"responses": hash_responses(self.study.read_responses(shard))}
        store.write_table(self.file(shard), pa.Table.from_pylist(rows, READINGS), made_of)

    def estimate(self, shards: Sequence[Shard], jobs: int) -> str:
        """Return what is still to read and how long it takes, from a probe of the first responses of one model."""
        n_left = sum(len(self.wanted(shard)) for shard in shards)
        started = time.monotonic()
        rows = list(self.read(shards[0], self.wanted(shards[0])[:PROBED]))
        hours = (time.monotonic() - started) / len({row["item_id"] for row in rows}) * n_left / jobs / 3600
        passes = sum(row["n_passes"] for row in rows) / len({row["item_id"] for row in rows})
        return f"{shards[0].model}: {n_left} responses to read, about {passes:.0f} passes each, {hours:.2f} h"

    def run(self, jobs: int) -> None:
        """Read every response that is not read yet, and then look at the ends of every model's reasoning."""
        tasks = []
        for model in self.settings["annotators"]:
            missing = [shard for shard in self.test_shards(model) if self.wanted(shard)]
            if missing := [shard for shard in missing if not self.file(shard).is_file()]:
                print(f"estimate: {self.estimate(missing, jobs)}", flush=True)
                tasks += [Task("write_readings", shard) for shard in missing]
        for model in self.study.settings["models"]:
            ends = [shard for shard in self.test_shards(model) if not self.ends_file(shard).is_file()]
            tasks += [Task("write_ends", shard) for shard in ends]
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(start_worker() if jobs > 1 else Here()) for _ in range(jobs)]
            share(tasks, lambda task: (), workers, functools.partial(do_there, self.study.profile))

    def collect(self, model: str, benchmark: str) -> dict[int, dict[str, Read]]:
        """Return an annotator's finished readings of a benchmark, by size of regions and item."""
        found: dict[int, dict[str, Read]] = {across: {} for across in self.ways}
        for shard in filter(self.wanted, self.test_shards(model, benchmark)):
            for row in read_shard(self.file(shard), READINGS).to_pylist():
                grids = tuple((a, b) for a, b in np.reshape(row.pop("grids"), (-1, 2)).tolist())
                item_id, across, order = (row.pop(name) for name in ("item_id", "regions_across", "image_order"))
                row["drop_nats"] = np.array(row["drop_nats"], np.float32)
                row["evidence"] = np.array(row["evidence"], bool)
                found[across][item_id] = Read(Reading(**row), grids, tuple(order))
        return found

    def ends_file(self, shard: Shard) -> Path:
        """Return where the looks at the ends of a shard's reasonings lie."""
        grounding = self.study.grounding(shard.model).layers
        key = store.shard_key(self.code, shard.response_key, list(grounding), self.n_bins)
        return paths.readings(self.study.profile) / shard.model / f"ends-{shard.name}-{key}.parquet"

    def write_ends(self, shard: Shard) -> None:
        """Keep where a model looks in the first and in the last of `collapse.bins` equal parts of each reasoning.

        Responses too short to have both are left out.
        """
        vlm, steps = self.limited(shard), {}
        responses = {r.item_id: r.response_ids for r in self.study.read_responses(shard)}
        for item_id, ids in responses.items():
            begin, end = vlm.segment(ids).reasoning
            first, last = cut_ends(end - begin, self.n_bins)
            if first and last:
                steps[item_id] = [(begin, begin + first), (end - last, end), (begin, end)]
        prompts = encode_items(vlm, [item for item in shard.items if item.id in steps])
        nothing = [np.zeros(sum(a * b for a, b in vlm.image_grid(prompt)), np.float32) for prompt in prompts]
        config = vlm.model.config.get_text_config()
        sets = weigh_heads(self.study.grounding(shard.model), config.num_hidden_layers, config.num_attention_heads)
        measured = replay_responses(
            vlm, prompts, [responses[p.item_id] for p in prompts], coverage=nothing, control=nothing,
            steps=[steps[p.item_id] for p in prompts], head_sets=sets[:1],
            implementation=self.study.settings["replay_implementation"],
            token_budget=self.study.settings["replay_batch_tokens"],
        )  # fmt: skip
        rows = [{"item_id": m.item_id, **dict(zip(Ends._fields, m.step_map[:, 0], strict=True))} for m in measured]
        store.write_table(self.ends_file(shard), pa.Table.from_pylist(rows, ENDS), {})

    def read_ends(self, model: str, benchmark: str) -> dict[str, Ends]:
        """Return where a studied model looks at the ends of its reasoning, by item."""
        found: dict[str, Ends] = {}
        for shard in self.test_shards(model, benchmark):
            for row in read_shard(self.ends_file(shard), ENDS).to_pylist():
                found[row["item_id"]] = Ends(*(np.array(row[name], np.float32) for name in Ends._fields))
        return found

    def propose(self, benchmark: str) -> tuple[int, dict[str, str]]:
        """Write what the annotators share as proposals for items without boxes; return their number and who has none.

        Of the first size of regions. An item that one annotator alone answered correctly is proposed by that one.
        """
        annotators, across = self.settings["annotators"], self.settings["regions_across"][0]
        by_model = {model: self.collect(model, benchmark)[across] for model in annotators}
        lines, left_out = [], {}
        for item in self.study.items[benchmark, "test"][: self.settings["n_items"]]:
            if item.id not in self.study.lacking_boxes:
                continue
            reads = {model: found[item.id] for model, found in by_model.items() if item.id in found}
            flaws = [f"{m}: {flaw}" for m, read in reads.items() if (flaw := read.reading.find_flaw(self.ways[across]))]
            shared = np.logical_and.reduce([read.reading.evidence for read in reads.values()]) if reads else None
            if not reads or flaws or shared is None or not shared.any():
                left_out[item.id] = "; ".join(flaws) or ("nothing that all share" if reads else "nobody was right")
                continue
            boxes = outline(item, next(iter(reads.values())), shared)
            names = f"occlusion by {' and '.join(reads)}"
            for image in range(len(item.images)):
                own = [box for box in boxes if box.image == image]
                lines.append(describe_image(item, image).annotate(own, names, "proposed", f"proposed by {names}"))
        write_annotations(self.study.evidence_file(benchmark), lines)
        return len({line.item_id for line in lines}), left_out


def cut_ends(n_tokens: int, n_bins: int) -> tuple[int, int]:
    """Return how many of n tokens fall in the first and in the last bin: token t in bin floor(n_bins (t + 1/2) / n)."""
    number = np.floor(n_bins * (np.arange(n_tokens) + 0.5) / max(n_tokens, 1))
    return int((number == 0).sum()), int((number == n_bins - 1).sum())


def outline(item: Item, read: Read, tokens: NDArray[np.bool_]) -> list[Box]:
    """Return the boxes of an item's pictures that cover these image tokens and no others, with the nats they cost."""
    boxes = []
    drops = split_images(read.reading.drop_nats, read.grids)
    for place, inside, nats in zip(read.image_order, split_images(tokens, read.grids), drops, strict=True):
        size = describe_image(item, place).size
        for rows, columns in find_rectangles(inside > 0):
            label = f"{nats[rows, columns].sum():.1f} nats"
            boxes.append(Box(place, *place_rectangle((rows, columns), size, inside.shape), label=label))
    return list(dict.fromkeys(boxes))


_open = functools.cache(Readings)


def do_there(profile: str, task: Task) -> None:
    """Do one shard in a worker, which keeps its model for the next one."""
    getattr(_open(profile), task.stage)(task.shard)


def describe_left_out(left_out: Mapping[str, str], n_named: int = 5) -> str:
    """Return the reasons of the first items that have no proposal."""
    named = [f"{item_id} ({reason})" for item_id, reason in list(left_out.items())[:n_named]]
    return f"{len(left_out)} items without a proposal: {', '.join(named)}{', ...' if len(left_out) > n_named else ''}"


def main() -> None:
    """Read the responses of a profile's annotator models, and propose boxes for items that have none."""
    parser = argparse.ArgumentParser(prog="python -m dontblink.extraction evidence", description=main.__doc__)
    parser.add_argument("--profile", default="testbed", help="which params/<profile>.yaml")
    parser.add_argument("--jobs", type=int, help="shards side by side (default: one per CPU core; 1 on a GPU)")
    arguments = parser.parse_args()
    readings = Readings(arguments.profile)
    on_cpu = readings.study.settings["device"] == "cpu"
    with files.hold(paths.lock(arguments.profile)):
        store.clean_leftovers(paths.readings(arguments.profile), older_than_s=0)
        readings.run(arguments.jobs or ((os.cpu_count() or 1) if on_cpu else 1))
    for benchmark in readings.study.settings["benchmarks"]:
        n_proposed, left_out = readings.propose(benchmark)
        if n_proposed or left_out:
            target = paths.show(readings.study.evidence_file(benchmark))
            print(f"{benchmark}: {n_proposed} items proposed in {target}; {describe_left_out(left_out)}")
