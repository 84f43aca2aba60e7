"""kill -9 of an extraction at random moments, and at every step between two of which a file could be half there.

Each kill is followed by a run that is left alone, whose files must be those of an undisturbed run, byte for byte.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import small_study as study
from trials import NEEDED_STAGES, Bench

from dontblink import schema, store


def kill_at_random_moments(bench: Bench, n: int) -> None:
    """Kill n extractions at moments drawn over the whole length of one, or over that of a stage chosen first.

    A kill that comes after the end is drawn anew, at most n times in all; stages that need a kill come first.
    """
    begun, report = {stage for stage, _ in bench.begun}, bench.report
    for k in range(2 * n):
        if report.random_kills == n:
            break
        needed = [stage for stage in NEEDED_STAGES if stage in begun and not report.kills[stage]]
        stages = needed or sorted(begun)
        root = bench.trial()
        child = study.start(root, study.extract_all)
        if k % 2:
            stage = stages[(k // 2) % len(stages)]
            which = bench.random.choice([i for i, (name, _) in enumerate(bench.begun) if name == stage])
            seconds = bench.random.uniform(0, bench.begun[which][1])
            killed = study.kill_at(child, which + 1, seconds)
        else:
            killed = study.kill_within(child, bench.random.uniform(0, bench.seconds))
        report.random_kills += killed not in ("", "ended")
        settle(bench, root, killed, f"kill {k} at a random moment ({killed})")


def settle(bench: Bench, root: Path, killed: str, what: str) -> None:
    """Count a kill, look at what it left, and resume."""
    if killed:
        bench.report.kills[killed] += 1
    bench.check(root, what)
    bench.resume(root, what)


def die_at(number: int, when: str) -> None:
    """Let this process be killed before or after its `number`-th step that makes a file, or half-way through writing.

    Steps are writing, syncing and renaming; of `half`, which leaves the first half of what is written, writing only.
    """
    counted = 0

    def deadly(owner: object, name: str, find_path: Callable[..., Path] | None = None) -> None:
        whole: Callable[..., object] = getattr(owner, name)

        def step(*arguments: object, **named: object) -> object:
            nonlocal counted
            counted += 1
            is_fatal = counted == number  # a step can be part of another one
            if is_fatal and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            found = whole(*arguments, **named)
            if is_fatal and when == "half" and find_path is not None:
                path = find_path(*arguments)
                os.truncate(path, path.stat().st_size // 2)
            if is_fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        setattr(owner, name, step)

    deadly(store.pq, "write_table", lambda _, path, *__: path)
    deadly(Path, "write_text", lambda path, *_: path)
    deadly(Path, "write_bytes", lambda path, *_: path)
    if when != "half":
        deadly(os, "replace")
        deadly(os, "fsync")


def kill_at_steps(bench: Bench, n: int | None) -> None:
    """Kill before, half-way through and after every step of writing a file, or at n steps of each kind, drawn.

    Most steps write tables: where the drawn ones missed the writing of shards, more are drawn until one hits it.
    """
    n_steps = {"before": 100, "half": 22, "after": 100}  # at least
    for when in n_steps:
        numbers = range(1, 1000) if n is None else sorted(bench.random.sample(range(1, n_steps[when] + 1), n))
        for number in numbers:
            if not kill_at(bench, when, number) and number > n_steps[when]:
                break  # there are no more
    for number in bench.random.sample(range(1, n_steps["before"] + 1), 20):
        if bench.report.kills["shard writing"]:
            break
        kill_at(bench, "before", number)


def kill_at(bench: Bench, when: str, number: int) -> str:
    """Kill at one step, see that nothing is lost, and return what was interrupted; nothing if it had ended before."""
    root = bench.trial()
    child = study.start(root, study.extract_all, lambda: die_at(number, when))
    killed = study.STAGES[study.WATCH[0]] if study.wait(child) == -signal.SIGKILL else ""
    settle(bench, root, killed, f"kill {when} step {number} ({killed})")
    return killed


def kill_with_workers(bench: Bench) -> None:
    """Kill an extraction whose models run side by side: its workers must end, too; then kill a worker alone."""
    root = bench.folder / "side-by-side"
    shutil.copytree(study.HERE / "lib", root / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(study.HERE / "pyproject.toml", root)
    study.prepare(root, models=[study.MODEL, "qwen3vl-tiny-m"])
    environment = {**os.environ, "PYTHONPATH": str(root / "lib")}
    command = [sys.executable, "-m", "dontblink.extraction", "--profile", study.PROFILE, "--jobs", "2"]
    responses = root / "results" / study.PROFILE / "responses"
    for victim in ("parent", "worker"):
        with (root / "log.txt").open("w") as log:
            process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
        there = len(list(responses.rglob("*.parquet")))
        deadline = time.monotonic() + 120
        while (
            len(list(responses.rglob("*.parquet"))) == there and process.poll() is None and time.monotonic() < deadline
        ):
            time.sleep(0.01)
        started = study.find_children(process.pid)
        workers = [n for n in started if b"spawn_main" in Path(f"/proc/{n}/cmdline").read_bytes()]
        os.kill(process.pid if victim == "parent" else workers[0], signal.SIGKILL)
        status = process.wait()
        bench.report.kills["models side by side"] += 1
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        if len(workers) != 2 or time.monotonic() >= deadline:
            bench.report.problems.append(f"{victim} killed: workers {workers} are still there after 20 s")
        if victim == "worker":
            bench.expect_line(root, status, ("a worker", "ended", "--jobs 1"), "a killed worker")
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode or study.run(root, check_both):
        bench.report.problems.append(f"models side by side: the next run ended with {done.returncode}: {done.stderr}")


def check_both() -> None:
    """Fail unless both models have each of the twelve items once."""
    items = schema.read_tables(study.PROFILE, ["items"])["items"][["model", "item_id"]]
    assert len(items) == 2 * study.N_ITEMS and not items.duplicated().any()
