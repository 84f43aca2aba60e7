"""kill -9 of an extraction at random moments, and at every step between two of which a file could be half there.

Each kill is followed by a run that is left alone, whose files must be those of an undisturbed run, byte for byte.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import small_study as study
from trials import Bench

from dontblink import store


def kill_at_random_moments(bench: Bench, n: int) -> None:
    """Kill n extractions at moments drawn over the whole length of one, or over that of a stage drawn first."""
    stages = sorted({stage for stage, _ in bench.begun})
    for k in range(n):
        root = bench.trial()
        child = study.start(root, study.extract_all)
        if k % 2:
            stage = stages[(k // 2) % len(stages)]
            which = bench.random.choice([i for i, (name, _) in enumerate(bench.begun) if name == stage])
            seconds = bench.random.uniform(0, bench.begun[which][1])
            killed = study.kill_at(child, which + 1, seconds)
        else:
            killed = study.kill_within(child, bench.random.uniform(0, bench.seconds))
        settle(bench, root, killed, f"kill {k} at a random moment ({killed})")


def settle(bench: Bench, root: Path, killed: str, what: str) -> None:
    """Count a kill, look at what it left, and resume."""
    if killed:
        bench.report.kills[killed] += 1
    bench.check(root, what)
    bench.resume(root, what)


def die_at(number: int, *, after: bool) -> None:
    """Let this process be killed before or after its `number`-th step that makes a file whole or finished."""
    counted = 0

    def deadly(owner: object, name: str) -> None:
        whole: Callable[..., object] = getattr(owner, name)

        def step(*arguments: object, **named: object) -> object:
            nonlocal counted
            counted += 1
            if counted == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            found = whole(*arguments, **named)
            if counted == number and after:
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        setattr(owner, name, step)

    for owner, name in ((os, "replace"), (os, "fsync"), (store.pq, "write_table")):
        deadly(owner, name)


def kill_at_boundaries(bench: Bench, n: int | None) -> None:
    """Kill at every step (or n of them, drawn) around writing, syncing and renaming a file."""
    number, missed = 0, False
    numbers = range(1, 1000) if n is None else sorted(bench.random.sample(range(1, 100), n))
    for number in numbers:
        for after in (False, True) if n is None else (bench.random.random() < 0.5,):
            root = bench.trial()
            child = study.start(root, study.extract_all, lambda n=number, a=after: die_at(n, after=a))
            killed = study.STAGES[study.WATCH[0]] if study.wait(child) == -signal.SIGKILL else ""
            missed = not killed
            settle(bench, root, killed, f"kill {'after' if after else 'before'} step {number} ({killed})")
        if missed:
            return
