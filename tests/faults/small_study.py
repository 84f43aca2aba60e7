"""A study of twelve items that runs in seconds in a forked process, so that it can be killed a hundred times.

The process that imports this has torch and the package loaded; every run is a fork of it that works in a folder of its
own (`paths.ROOT`). One of the twelve items has a broken picture: what is left out must survive faults, too. The model
is a shipped checkpoint, loaded once before the forks; that loading works is not what is tested here.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from dontblink import params, paths, schema, store
from dontblink.extraction import run as extract
from dontblink.extraction import study, tables
from dontblink.publish import notebook, record
from dontblink.questions.items import read_bytes
from dontblink_testbed import benchmark

HERE = paths.ROOT
PROFILE, MODEL, N_ITEMS = "small", "qwen3vl-tiny-s", 12
CHANGES: dict[str, dict[str, Any]] = {
    "extraction": {
        "models": [MODEL], "checkpoints_folder": str(HERE / "models" / "testbed"), "benchmarks": ["visual_reference"],
        "max_new_tokens": 80, "batch_size": 4, "shard_items": 3,
        "n_sampled_items": 4, "samples_per_item": 2,
    },
    "testbed": {
        "n_test_items": 8, "n_calibration_items": 4, "n_example_items": 1, "item_seed": 1,
        "visual_reference_chain_length": [2, 3], "visual_reference_noise_level": [0.0, 0.2],
    },
}  # fmt: skip
# What a process is doing, innermost first to be named; a byte of shared memory holds the index and outlives a kill.
STAGES = (
    "start", "generation", "heads", "replay", "shard writing", "table building", "table writing", "manifest writing",
    "figure writing", "number writing", "notebook execution", "ended",
)  # fmt: skip
WATCH = mmap.mmap(-1, 2)  # stage, and how often a stage has begun (modulo 256)


def prepare(folder: Path, **extraction: Any) -> Path:
    """Return a new folder that looks like a checkout with the parameters of the study split."""
    _, sections = params.load(HERE / "params" / "testbed.yaml")
    for section, values in CHANGES.items():
        sections[section] |= values
    sections["extraction"] |= extraction
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "lib").exists():
        (folder / "lib").symlink_to(HERE / "lib")  # its sources are part of the shards' names
    params.write_sections(sections, folder / "results" / PROFILE / "params")
    return folder


def load_once(folder: Path) -> None:
    """Load the model here, so that forks have it, and spoil one picture; `folder` is for the parameters."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    load, loaded, make = study.Study.load_model, {}, benchmark.load_items

    def load_model(own: Any, model: str, **options: Any) -> Any:
        if model not in loaded:
            loaded[model] = load(own, model, **options)
        return loaded[model]

    def spoil(*arguments: Any) -> Iterator[Any]:
        for index, item in enumerate(make(*arguments)):
            is_spoilt = item.split == "test" and index == 0
            yield dataclasses.replace(item, images=(read_bytes(item.images[0])[:200],)) if is_spoilt else item

    study.Study.load_model, benchmark.load_items = load_model, spoil  # type: ignore[method-assign]
    root, paths.ROOT = paths.ROOT, prepare(folder)
    study.Study(PROFILE).load_model(MODEL)
    paths.ROOT = root


def watch_stages() -> None:
    """Let this process say in shared memory what it is doing."""

    def watched(owner: Any, name: str, stage: str | Callable[..., str]) -> None:
        whole = getattr(owner, name)

        def run(*arguments: Any, **named: Any) -> Any:
            before = WATCH[0]
            WATCH[0] = STAGES.index(stage if isinstance(stage, str) else stage(*arguments))
            WATCH[1] = (WATCH[1] + 1) % 256
            try:
                return whole(*arguments, **named)
            finally:
                WATCH[0] = before

        setattr(owner, name, run)

    def name_writing(path: Path, *_: Any) -> str:
        return "table writing" if "tables" in path.parts[-4:] else "shard writing"

    watched(extract.Extraction, "generate", "generation")
    watched(extract.Extraction, "write_heads", "heads")
    watched(extract.Extraction, "write_traces", "replay")
    watched(store, "write_table", name_writing)
    watched(tables, "build_blocks", "table building")
    watched(extract, "write_manifest", "manifest writing")
    watched(record, "save_figure", "figure writing")
    watched(record, "save_numbers", "number writing")
    watched(notebook.papermill, "execute_notebook", "notebook execution")


def start(root: Path, work: Callable[[], object], before: Callable[[], None] = lambda: None) -> int:
    """Fork a process that does some work in `root`, its output in root/log.txt, and return its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    WATCH[0] = WATCH[1] = 0
    if child := os.fork():
        return child
    status = 99
    try:
        os.setpgid(0, 0)
        log = os.open(root / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(log, 1)
        os.dup2(log, 2)
        paths.ROOT = root
        watch_stages()
        before()
        work()
        status = 0
    except SystemExit as error:
        print(error, file=sys.stderr)
        status = 1 if isinstance(error.code, str) else int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        WATCH[0] = len(STAGES) - 1
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                status = status or 98
        os._exit(status)


def wait(child: int) -> int:
    """Return the exit status of a child, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def extract_all() -> None:
    """Run the command of the extraction in this process."""
    sys.argv = ["extract", "--profile", PROFILE, "--jobs", "1"]
    extract.main()


def run(root: Path, work: Callable[[], object] = extract_all, before: Callable[[], None] = lambda: None) -> int:
    """Do some work in a fork and return its exit status."""
    return wait(start(root, work, before))


def kill_within(child: int, seconds: float) -> str:
    """Kill a child after some seconds; return the stage that it was in, '' if it had ended."""
    time.sleep(seconds)
    return kill(child)


def kill_at(child: int, count: int, seconds: float) -> str:
    """Kill a child some seconds after it has begun stages `count` times; return the stage, '' if it had ended."""
    deadline = time.monotonic() + 60
    while WATCH[1] < count and WATCH[0] != len(STAGES) - 1 and time.monotonic() < deadline:
        time.sleep(2e-4)
    return kill_within(child, seconds)


def kill(child: int) -> str:
    """Kill a child and return the stage that it was in, '' if it had ended."""
    os.kill(child, signal.SIGKILL)
    return STAGES[WATCH[0]] if wait(child) == -signal.SIGKILL else ""


def read_files(root: Path) -> dict[str, bytes]:
    """Return every file that stands as a finished one, by its name below `root`."""
    found = {}
    for path in sorted((root / "results" / PROFILE).rglob("*")):
        is_finished = not path.name.startswith(".") and path.suffix not in (".damaged", ".ipynb", ".unfinished")
        if path.is_file() and is_finished:
            found[str(path.relative_to(root))] = path.read_bytes()
    return found


def count_leftovers(root: Path) -> int:
    """Return how many unfinished files lie around."""
    return len([*(root / "results" / PROFILE).rglob(".*.tmp")])


def count_items(root: Path) -> dict[str, int]:
    """Return how many of the twelve items are in no table and not in the quarantine, and how many are there twice."""

    def count() -> None:
        items = schema.read_tables(PROFILE, ["items"])["items"]["item_id"].astype(str).tolist()
        left_out = store.read_table(paths.tables(PROFILE) / "quarantine.parquet")["item_id"].to_pylist()
        there = [*items, *left_out]
        expected = {f"visual_reference-test-{k:04d}" for k in range(8)}
        expected |= {f"visual_reference-calibration-{k:04d}" for k in range(4)}
        assert len(expected) == N_ITEMS
        counted = {"lost": len(expected - set(there)), "duplicated": len(there) - len(set(there))}
        (root / "count.json").write_text(json.dumps(counted))

    (root / "count.json").unlink(missing_ok=True)
    if run(root, count) != 0:
        return {"lost": N_ITEMS, "duplicated": 0}
    return dict(json.loads((root / "count.json").read_text()))


def copy(root: Path, target: Path) -> Path:
    """Return a copy of a study's folder with the times of change kept."""
    shutil.copytree(root, target, symlinks=True)
    return target


def find_children(process: int) -> list[int]:
    """Return the processes that a process has started (Linux)."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        found += [int(number) for number in task.read_text().split()]
    return found
