"""Trials: an undisturbed run, folders to disturb runs in, and the comparison of what comes out."""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import small_study as study

# what a campaign must have tried to count as one; a stage is that of the process at the moment of the kill
NEEDED_STAGES = ("generation", "replay", "shard writing", "notebook execution", "figure writing")
NEEDED_FAULTS = (
    "flipped bit", "cut file", "damaged list", "full disk", "read-only folder", "another user's folder", "clock",
    "two runs at once",
)  # fmt: skip


@dataclass
class Report:
    """What the campaign tried and found.

    `kills` that landed by stage, of them `random_kills` of extractions at random moments before their end, other
    `faults` by kind, `skipped` kinds with the reason; what is lost, duplicated, torn or a problem must stay empty.
    """

    kills: Counter[str] = field(default_factory=Counter)
    random_kills: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    duplicated: int = 0
    torn: int = 0
    problems: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, duplicated, torn or otherwise wrong."""
        return not (self.lost or self.duplicated or self.torn or self.problems)

    def find_gaps(self, n_kills: int, allow_skips: bool) -> list[str]:
        """Return what the campaign did not try although it should have: kills, stages, kinds of faults."""
        gaps = [f"no kill landed in {stage}" for stage in NEEDED_STAGES if not self.kills[stage]]
        if self.random_kills < n_kills:
            gaps.insert(0, f"{self.random_kills} of {n_kills} kills at random moments landed, the others came too late")
        for fault in NEEDED_FAULTS:
            if fault not in self.skipped and not self.faults[fault]:
                gaps.append(f"no {fault}")
        if not allow_skips:
            gaps += [f"{fault}: skipped, {reason}; or pass --allow-skips" for fault, reason in self.skipped.items()]
        return gaps

    def describe(self, gaps: list[str]) -> str:
        """Return the report as text, with the gaps that make it incomplete."""
        by_stage = ", ".join(f"{stage} {n}" for stage, n in self.kills.most_common())
        others = ", ".join(f"{fault} {n}" for fault, n in self.faults.most_common())
        found = f"lost {self.lost}, duplicated {self.duplicated}, torn {self.torn}"
        kills = f"kills {self.kills.total()}, {self.random_kills} of extractions at random moments ({by_stage})"
        lines = [f"{kills}, {found}, other faults {self.faults.total()} ({others})"]
        lines += [f"skipped: {fault}: {reason}" for fault, reason in self.skipped.items()]
        lines += [f"PROBLEM: {problem}" for problem in self.problems]
        lines += [f"INCOMPLETE: {gap}" for gap in gaps]
        return "\n".join(lines)


class Bench:
    """A place for trials: an undisturbed run to compare with, and folders that are thrown away."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random, self.report, self.n_trials = folder, random.Random(seed), Report(), 0
        study.load_once(folder / "loaded")
        self.undisturbed = study.prepare(folder / "undisturbed")
        started = time.monotonic()
        child = study.start(self.undisturbed, study.extract_all)
        self.begun = watch(child)  # stage and seconds of each stage that began
        if study.wait(child) != 0:
            raise SystemExit(f"the undisturbed run failed:\n{(self.undisturbed / 'log.txt').read_text()}")
        self.seconds = time.monotonic() - started
        self.files = study.read_files(self.undisturbed)

    def trial(self, *, finished: bool = False, without: tuple[str, ...] = ()) -> Path:
        """Return the folder of a new trial: only parameters, or the undisturbed run without some of its files."""
        self.n_trials += 1
        root = self.folder / f"trial-{self.n_trials:04d}"
        if not finished:
            return study.prepare(root)
        study.copy(self.undisturbed, root)
        (root / "log.txt").unlink()
        for pattern in without:
            for file in (root / "results" / study.PROFILE).glob(pattern):
                file.unlink()
        return root

    def check(self, root: Path, what: str) -> None:
        """Count what stands as a finished file after a fault and is not whole."""
        for name, content in study.read_files(root).items():
            if name in self.files and self.files[name] != content:
                self.report.torn += 1
                self.report.problems.append(f"{what}: {name} is not what an undisturbed run writes")

    def resume(self, root: Path, what: str) -> None:
        """Let a run finish and compare everything with the undisturbed one; then remove the folder."""
        before = len(self.report.problems)
        if status := study.run(root):
            log = (root / "log.txt").read_text().strip().splitlines()
            self.report.problems.append(f"{what}: the resumed run ended with {status}: {' / '.join(log[-3:])}")
        else:
            found = study.read_files(root)
            for name in sorted(found.keys() | self.files.keys()):
                if found.get(name) != self.files.get(name):
                    kind = "differs" if name in found and name in self.files else "is missing or too many"
                    self.report.problems.append(f"{what}: {name} {kind} after the resumed run")
            counted = study.count_items(root)
            self.report.lost += counted["lost"]
            self.report.duplicated += counted["duplicated"]
            if left := study.count_leftovers(root):
                self.report.problems.append(f"{what}: {left} unfinished files lie around")
        if len(self.report.problems) == before:
            shutil.rmtree(root)

    def expect_line(self, root: Path, status: int, expected: tuple[str, ...], what: str) -> None:
        """Check that a run failed with one line that has all the expected words, and no traceback."""
        log = (root / "log.txt").read_text()
        last = ([line for line in log.splitlines() if line.startswith("extract: ")] or [""])[-1]
        if status != 1 or "Traceback" in log or not all(word in last for word in expected):
            self.report.problems.append(f"{what}: status {status}, said {last!r}; expected one with {expected}")


def watch(child: int) -> list[tuple[str, float]]:
    """Return the stages that a child begins, in order, each with its seconds until the next one begins."""
    begun: list[tuple[str, float]] = []
    count, since = 0, time.monotonic()
    deadline = since + 120
    while study.WATCH[0] != len(study.STAGES) - 1 and since < deadline:
        if study.WATCH[1] != count:
            now, count = time.monotonic(), study.WATCH[1]
            if begun:
                begun[-1] = (begun[-1][0], now - since)
            begun.append((study.STAGES[study.WATCH[0]], 0.01))
            since = now
        time.sleep(2e-4)
    return begun
