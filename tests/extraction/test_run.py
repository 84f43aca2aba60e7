"""An extraction can stop anywhere, recomputes what is missing and nothing else, and loses no item."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_extraction import (
    BENCHMARKS,
    MODEL,
    N_CALIBRATION,
    N_DRAWN,
    N_SAMPLED,
    N_SHARDS,
    N_TEST,
    PROFILE,
    write_settings,
)

from dontblink import files as locks
from dontblink import paths, schema, store
from dontblink.attention import traces
from dontblink.errors import NamedError
from dontblink.extraction import run, study
from dontblink.extraction.run import Extraction, Task, share
from dontblink.models.generate import Sampling
from dontblink.questions.items import Box, read_bytes
from dontblink_testbed import benchmark

ROOT = paths.ROOT
SIZES = {"test": N_TEST, "calibration": N_CALIBRATION}
N_SAMPLE_SHARDS = 4  # of two benchmarks, the first test shard and the beginning of the second


def extract() -> None:
    Extraction(PROFILE).run(jobs=1)


def shard_files(root: Path) -> dict[Path, int]:
    """Return every shard's files, its parts of the tables among them, and their age."""
    return {p: p.stat().st_mtime_ns for p in sorted((root / "results" / PROFILE).glob("*/**/*-*.parquet"))}


def find_shard(root: Path, kind: str) -> Path:
    return next(path for path in shard_files(root) if path.relative_to(root).parts[2:-2] == tuple(kind.split("/")))


def test_every_item_is_in_the_tables_and_the_masses_sum_to_one(small: Path) -> None:
    tables = schema.read_tables(PROFILE, ["items", "token_masses", "tokens"])
    sizes = tables["items"].groupby(["benchmark", "split"], observed=True).size()
    assert sizes.to_dict() == {(b, split): n for b in BENCHMARKS for split, n in SIZES.items()}
    regions = [name for name in schema.MASSES if name not in schema.BOXED]
    np.testing.assert_allclose(tables["token_masses"][regions].sum(axis=1), 1, atol=1e-5)
    assert (tables["tokens"]["entropy_nats"] >= 0).all()
    listed = paths.shard_list(PROFILE).read_text().split()
    assert {small / name for name in listed} == {*shard_files(small), paths.tables(PROFILE) / "quarantine.parquet"}
    # responses, heads of the calibration shards, traces, parts of the tables, samples and their table, quarantine
    assert len(listed) == N_SHARDS + 2 + N_SHARDS + N_SHARDS * len(schema.PARTS) + 2 * N_SAMPLE_SHARDS + 1


def test_the_first_test_items_are_sampled_scored_and_not_replayed(small: Path) -> None:
    samples = schema.read_tables(PROFILE, ["samples"])["samples"]
    asked = [(name, f"{name}-test-{k:04d}", j) for name in BENCHMARKS for k in range(N_SAMPLED) for j in range(N_DRAWN)]
    assert list(samples[["benchmark", "item_id", "sample_index"]].itertuples(index=False, name=None)) == asked
    assert set(samples["split"]) == {"test"} and samples["n_response_tokens"].between(1, 160).all()
    assert not samples["correct"][~samples["parsed"]].any() and 0.2 < samples["correct"].mean() < 1
    # sampled anew: three answers to one item are not always one
    assert samples.groupby("item_id", observed=True)["n_response_tokens"].nunique().max() > 1
    measured = schema.read_tables(PROFILE, ["items", "tokens"])
    assert not any(measured["items"]["item_id"].str.contains("sample")), "a sample was replayed"
    part = schema.read_tables(PROFILE, ["samples", "items"], ["correct", "item_id"], benchmark=BENCHMARKS[1])
    assert len(part["samples"]) == N_SAMPLED * N_DRAWN and "prediction" not in part["samples"]
    with pytest.raises(NamedError, match="samples have shards of their own; read them by themselves"):
        next(schema.iterate_parts(PROFILE, ["items", "samples"]))


def test_other_samples_are_drawn_for_other_settings_and_nothing_else_is_computed(
    small_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, manifest = shard_files(small_copy), schema.read_manifest(PROFILE)
    samples = schema.read_tables(PROFILE, ["samples"])["samples"].astype({"item_id": str, "prediction": str})
    write_settings(small_copy, n_sampled_items=0)
    monkeypatch.setattr(Extraction, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    extract()
    assert shard_files(small_copy) == before and len(schema.read_tables(PROFILE, ["samples"])["samples"]) == 0
    monkeypatch.undo()
    monkeypatch.setattr(paths, "ROOT", small_copy)
    monkeypatch.setattr(Extraction, "write_responses", lambda *_: pytest.fail("a response was generated again"))
    monkeypatch.setattr(Extraction, "write_traces", lambda *_: pytest.fail("a response was replayed again"))
    write_settings(small_copy, n_sampled_items=2, samples_per_item=4)
    extract()
    again = shard_files(small_copy)
    assert before.items() <= again.items() and len(again) - len(before) == 2 * 2  # a shard and its table, twice
    more = schema.read_tables(PROFILE, ["samples"])["samples"].astype({"item_id": str, "prediction": str})
    assert len(more) == 2 * 2 * 4
    keys = ["item_id", "sample_index"]
    shared = more.merge(samples, on=keys, suffixes=("", "_before"))  # the same draws among fewer and more
    assert len(shared) == 2 * 2 * N_DRAWN
    for name in ("prediction", "correct", "n_response_tokens", "finish_reason"):
        assert (shared[name].astype(str) == shared[f"{name}_before"].astype(str)).all()
    write_settings(small_copy)
    extract()
    assert schema.read_manifest(PROFILE) == manifest and shard_files(small_copy) == again


def test_a_second_run_computes_nothing(small_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shard_files(small_copy)
    monkeypatch.setattr(Extraction, "load_model", lambda *_, **__: pytest.fail("the model was loaded again"))
    extract()
    assert shard_files(small_copy) == before


KINDS = ("responses", "heads", "traces", "samples", "tables/bins", "tables/items", "tables/samples")


def lose(file: Path) -> str:
    file.unlink()
    return ""


def damage(file: Path) -> str:
    file.write_bytes(file.read_bytes()[:-50])
    return f"kept as {file.name}.damaged, computed again"


def swap_source(file: Path) -> str:
    """Let a shard say that it was measured on responses, or made of traces, of another day."""
    stated = store.read_metadata(file)
    source = next(name for name in ("traces", "responses", "samples") if name in stated)
    store.write_table(file, store.read_table(file), stated | {source: "of another day"})
    return f"kept as {file.name}.damaged, computed again"


@pytest.mark.parametrize(
    ("kind", "harm"),
    [(kind, lose) for kind in KINDS]
    + [(kind, damage) for kind in KINDS]
    + [(kind, swap_source) for kind in ("heads", "traces", "tables/steps", "tables/samples")],
)
def test_a_lost_or_spoilt_shard_and_only_that_one_is_computed_again_to_the_same_bytes(
    small_copy: Path, kind: str, harm: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    before, file = shard_files(small_copy), find_shard(small_copy, kind)
    content = file.read_bytes()
    said = harm(file)
    spoilt = file.read_bytes() if said else b""
    extract()
    assert file.read_bytes() == content
    lines = [line for line in capsys.readouterr().out.splitlines() if "computed again" in line]
    assert len(lines) == bool(said) and (not said or said in lines[0])
    assert not said or file.with_name(f"{file.name}.damaged").read_bytes() == spoilt
    assert {p: a for p, a in shard_files(small_copy).items() if p != file} == {
        p: a for p, a in before.items() if p != file
    }


def test_a_shard_that_is_damaged_whenever_it_is_written_ends_the_run(
    small_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = store.write_table

    def write_badly(path: Path, *arguments: Any) -> None:
        write(path, *arguments)
        if path.parent.parent.name == "traces":
            path.write_bytes(path.read_bytes()[:-1])

    find_shard(small_copy, "traces").unlink()
    monkeypatch.setattr(store, "write_table", write_badly)
    with pytest.raises(store.DamagedError, match="damaged or truncated"):
        extract()


def test_while_something_is_written_there_is_no_manifest_and_afterwards_it_has_its_old_age(
    small_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, write, seen = paths.extraction_manifest(PROFILE), store.write_table, []
    age = manifest.stat().st_mtime_ns

    def look(*arguments: Any) -> None:
        seen.append(manifest.exists())
        write(*arguments)

    monkeypatch.setattr(store, "write_table", look)
    for kind in ("traces", *(f"tables/{name}" for name in schema.PARTS)):
        find_shard(small_copy, kind).unlink()
    extract()
    assert len(seen) == 1 + len(schema.PARTS) + 1 and not any(seen)  # the quarantine is always written
    assert manifest.stat().st_mtime_ns == age and not paths.withdrawn_manifest(PROFILE).exists()


def test_a_run_on_a_profile_that_another_works_on_says_who_that_is(small_copy: Path) -> None:
    with locks.hold(paths.lock(PROFILE)), pytest.raises(NamedError, match=rf"in use by process {os.getpid()} on "):
        extract()
    extract()


def test_another_way_to_tabulate_builds_the_parts_again_and_replays_nothing(
    small_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, manifest = shard_files(small_copy), schema.read_manifest(PROFILE)
    write_settings(small_copy, sink_rule="border")
    monkeypatch.setattr(Extraction, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    extract()
    again, other = shard_files(small_copy), schema.read_manifest(PROFILE)
    assert before.items() <= again.items()
    assert {file.relative_to(small_copy).parts[2] for file in again.keys() - before.keys()} == {"tables"}
    assert len(again) - len(before) == N_SHARDS * len(schema.PARTS)
    changed = {name for name, digest in manifest["tables"].items() if other["tables"][name] != digest}
    assert changed == {"steps"}
    write_settings(small_copy)
    extract()
    assert schema.read_manifest(PROFILE) == manifest and shard_files(small_copy) == again


def test_parts_made_of_traces_in_memory_are_those_made_of_the_file(
    small_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file: file.read_bytes() for file in shard_files(small_copy)}  # made right after the replay
    for file in before:
        if "tables" in file.parts:
            file.unlink()
    monkeypatch.setattr(Extraction, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    extract()
    assert {file: file.read_bytes() for file in shard_files(small_copy)} == before


def count_replays(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by the number of responses of each replay."""
    counts, replay = list[int](), traces.replay_responses

    def counted(vlm: Any, prompts: Any, *arguments: Any, **named: Any) -> Any:
        counts.append(len(prompts))
        return replay(vlm, prompts, *arguments, **named)

    monkeypatch.setattr(traces, "replay_responses", counted)
    return counts


@pytest.mark.parametrize("kept", [traces.KEPT_BYTES, 0])
def test_a_calibration_response_is_replayed_once_unless_the_measures_of_its_heads_are_too_large_to_keep(
    small_copy: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    before = {file: file.read_bytes() for file in shard_files(small_copy)}
    for file in before:
        if not {"responses", "tables"} & {*file.parts}:
            file.unlink()
    monkeypatch.setattr(traces, "KEPT_BYTES", kept)
    counts = count_replays(monkeypatch)
    extract()
    assert {file: file.read_bytes() for file in shard_files(small_copy)} == before
    assert sum(counts) == 2 * (N_TEST + (1 if kept else 2) * N_CALIBRATION)


def make_task(stage: str, model: str, name: str) -> Task:
    return Task(stage, SimpleNamespace(model=model, name=name))  # type: ignore[arg-type]


@pytest.mark.parametrize(("n_workers", "seed"), [(1, 0), (2, 0), (2, 1), (3, 2), (5, 3)])
def test_workers_do_each_task_once_after_those_that_it_needs_and_keep_their_shards(n_workers: int, seed: int) -> None:
    draw, doing, began, ended = random.Random(seed), threading.Lock(), list[Any](), list[Task]()
    tasks = []
    for model in "ab":
        tasks += [make_task(stage, model, f"c{k}") for k in range(4) for stage in ("generate", "look")]
        tasks += [make_task("replay", model, f"c{k}") for k in range(4)]
        tasks += [make_task(stage, model, f"t{k}") for k in range(6) for stage in ("generate", "replay")]
    nothing_to_do = make_task("replay", "a", "t6")
    seconds = {id(task): draw.choice([0, 0, 0.002, 0.01]) for task in tasks}

    def do(task: Task, needed: str) -> None:
        assert needed == "needed"
        with doing:
            began.append((task, threading.current_thread().name, [*ended]))
        time.sleep(seconds[id(task)])
        with doing:
            ended.append(task)

    workers = [ThreadPoolExecutor(1) for _ in range(n_workers)]
    share([*tasks, nothing_to_do], lambda task: None if task is nothing_to_do else ("needed",), workers, do)
    assert sorted(map(id, ended)) == sorted(map(id, tasks))
    places: dict[Any, set[str]] = {}
    for task, place, before in began:
        key = task.shard.model, task.shard.name
        places.setdefault(key, set()).add(place)
        done = {(other.stage, other.shard.model, other.shard.name) for other in before}
        assert task.stage == "generate" or ("generate", *key) in done
        assert task.stage != "replay" or {("look", key[0], f"c{k}") for k in range(4)} <= done
    assert all(len(place) == 1 for place in places.values()) and len({place for _, place, _ in began}) == n_workers
    assert began[0][0] is tasks[0]


def test_a_task_that_fails_ends_the_sharing_with_its_error() -> None:
    def do(task: Task) -> None:
        raise store.DamagedError(Path("shard"), f"broken by {task.shard.name}")

    with pytest.raises(store.DamagedError, match="broken by c0"):
        share([make_task("generate", "a", "c0")], lambda task: (), [ThreadPoolExecutor(1)], do)


def start_command(root: Path, jobs: int) -> subprocess.Popen[str]:
    """Start the command with so many workers on the parameters of the small study, in a checkout of its own."""
    root.mkdir(exist_ok=True)
    shutil.copytree(ROOT / "lib", root / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", root)
    write_settings(root)
    command = [sys.executable, "-m", "dontblink.extraction", "--profile", PROFILE, "--jobs", str(jobs)]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    environment = os.environ | {"PYTHONPATH": str(root / "lib")}
    return subprocess.Popen(command, cwd=root, env=environment, **pipes)


@pytest.mark.slow
def test_two_workers_write_the_bytes_of_one_and_a_log_has_a_line_a_stage(tmp_path: Path) -> None:
    roots = {1: tmp_path / "one", 2: tmp_path / "two"}
    processes = [start_command(root, jobs) for jobs, root in roots.items()]  # side by side
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0] and not said[0][1] and not said[1][1], said
    one, two = ({f.relative_to(root): f.read_bytes() for f in shard_files(root)} for root in roots.values())
    assert len(one) == 2 * N_SHARDS + 2 + N_SHARDS * len(schema.PARTS) + 2 * N_SAMPLE_SHARDS and one == two
    (out, _) = said[1]
    lines = [re.sub(r"\d+ s\b", "N s", line) for line in out.splitlines()]
    assert sorted(lines[:4]) == [
        f"extraction: {MODEL}: {stage}: {n} shards, N s of work"
        for stage, n in (("generate", N_SHARDS), ("look", 2), ("replay", N_SHARDS), ("sample", N_SAMPLE_SHARDS))
    ]
    assert lines[4:] == [f"extraction: {N_SHARDS} shards, 0 quarantined rows, N s"]


def test_a_repair_chooses_the_grounding_again(small_copy: Path) -> None:
    extraction = Extraction(PROFILE)
    true, file = extraction.grounding(MODEL), find_shard(small_copy, "heads")
    extraction._grounding[MODEL] = dataclasses.replace(true, layers=(99,))
    file.write_bytes(file.read_bytes()[:100])
    extraction.run(jobs=1)
    assert extraction.grounding(MODEL) == true
    assert schema.read_manifest(PROFILE)["grounding"][MODEL]["layers"] == list(true.layers)


def test_what_memory_held_is_not_found_again_for_every_shard(
    small_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extraction, asked = Extraction(PROFILE), list[tuple[str, int]]()

    def generate(vlm: Any, items: Any, sampling: Any, **options: Any) -> list[Any]:
        asked.append(("generate", options["batch_size"]))
        options["lowered"](3)
        return []

    def trace(vlm: Any, items: Any, responses: Any, settings: Any, lacking: Any, grounding: Any, lowered: Any) -> Any:
        asked.append(("replay", settings["replay_batch_tokens"]))
        lowered(500)
        return [], []

    monkeypatch.setattr(run, "generate_responses", generate)
    monkeypatch.setattr(run, "trace_responses", trace)
    first, second = extraction.shards(MODEL)[:2]
    for shard in (first, second):
        extraction.generate(extraction.load_engine(shard), shard.items, Sampling(1), lambda *row: None)
        extraction._trace(shard, [], None)
    settings = extraction.settings
    own = [("generate", settings["batch_size"]), ("replay", settings["replay_batch_tokens"])]
    assert asked == [*own, ("generate", 3), ("replay", 500)]
    smaller = extraction.load(MODEL).limit(extraction.image_tokens(first.benchmark) // 2)  # another try
    extraction.generate(smaller, (), Sampling(1), lambda *row: None)
    assert asked[-1] == own[0]


def test_a_missing_checkpoint_is_one_line_with_the_remedy(small_copy: Path) -> None:
    write_settings(small_copy, checkpoints_folder=str(small_copy / "nowhere"))
    with pytest.raises(NamedError, match=r"nowhere/qwen3vl-tiny-s: no checkpoint here .*; download it") as found:
        extract()
    assert "\n" not in str(found.value)


def test_bad_items_are_quarantined_with_their_reasons_and_the_others_go_on(
    small_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = benchmark.load_items

    def spoil(*arguments: Any) -> Iterator[Any]:
        for item in make(*arguments):
            if item.id == "visual_reference-test-0000":
                item = dataclasses.replace(item, images=(read_bytes(item.images[0])[:200],))
            if item.id == "visual_reference-test-0001":
                item = dataclasses.replace(item, boxes=(Box(0, 90.0, 0.0, 99.0, 5.0),))
            yield item

    monkeypatch.setattr(benchmark, "load_items", spoil)
    extract()
    rows = store.read_table(paths.tables(PROFILE) / "quarantine.parquet").to_pylist()
    assert [row["item_id"] for row in rows] == ["visual_reference-test-0000", "visual_reference-test-0001"]
    samples = schema.read_tables(PROFILE, ["samples"])["samples"]  # of the first items that can be asked
    assert len(samples) == 2 * N_SAMPLED * N_DRAWN and not set(samples["item_id"]) & {row["item_id"] for row in rows}
    assert "not a readable image" in rows[0]["reason"]
    assert "lies outside its 96x96 px image" in rows[1]["reason"]
    items = schema.read_tables(PROFILE, ["items"], split="test")["items"]
    assert len(items) == 2 * N_TEST - 2 and not set(items["item_id"]) & {row["item_id"] for row in rows}


def test_a_response_without_a_token_is_quarantined(small_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack = study.unpack_responses

    def empty_first(table: Any) -> list[Any]:
        responses = unpack(table)
        return [dataclasses.replace(responses[0], response_ids=()), *responses[1:]]

    monkeypatch.setattr(study, "unpack_responses", empty_first)
    for path in shard_files(small_copy):
        if path.parent.parent.name == "traces":
            path.unlink()
    extract()
    reasons = store.read_table(paths.tables(PROFILE) / "quarantine.parquet")["reason"].to_pylist()
    assert len(reasons) == N_SHARDS and set(reasons) == {"empty response: no token to replay"}
