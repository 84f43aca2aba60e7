"""Everything but kills: damaged files, full and read-only disks, a wrong clock, two runs at once."""

from __future__ import annotations

import ctypes
import json
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import small_study as study
from trials import Bench

from dontblink import paths, schema, store
from dontblink.errors import NamedError
from dontblink.publish import notebook

KINDS = tuple(f"{kind}/*/*.parquet" for kind in ("responses", "heads", "traces", "samples", "tables/*"))
TEXTS = ("checkpoint_hashes.json", "extraction.json", "shards.txt")
NOBODY = 65534


def spoil(content: bytes, how: str, draw: random.Random) -> bytes:
    """Return damaged content: cut off somewhere, or with one bit flipped anywhere."""
    if how == "cut":
        return content[: draw.choice([0, 3, len(content) // 2, len(content) - 1, draw.randrange(len(content))])]
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def damage_files(bench: Bench, n_each: int) -> None:
    """Cut a file or flip a bit of it, n times per kind: a reader must refuse it, and the next run repair it."""
    for kind in KINDS:
        for k in range(n_each):
            root = bench.trial(finished=True)
            file = bench.random.choice(sorted((root / "results" / study.PROFILE).glob(kind)))
            how, content = ("flip", "cut")[k % 3 == 2], file.read_bytes()
            file.write_bytes(spoil(content, how, bench.random))
            what = f"{how} in {file.relative_to(root)}"
            bench.report.faults["flipped bit" if how == "flip" else "cut file"] += 1
            if study.run(root, lambda f=file: read_all(f)) == 0:
                bench.report.problems.append(f"{what}: read without an error")
            bench.resume(root, what)


def read_all(file: Path) -> None:
    """Read a file as the package does; it ends with status 1 and the package's own error if it is damaged."""
    try:
        store.read_table(file)
        store.read_metadata(file)
    except store.DamagedError as error:
        raise SystemExit(str(error)) from error


def damage_texts(bench: Bench) -> None:
    """Cut the small files that are no parquet or fill them with garbage: a run ignores and rewrites them."""
    for name in TEXTS:
        for content in (b"", b"half", b"\xff\xfe\x00"):
            root = bench.trial(finished=True)
            file = root / "results" / study.PROFILE / name
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2] if content == b"half" else content)
            bench.report.faults["damaged list"] += 1
            if name == "extraction.json":
                study.run(root, lambda: schema.read_manifest(study.PROFILE))
                if "Error: results/small/extraction.json: damaged" not in (root / "log.txt").read_text():
                    bench.report.problems.append(f"{name} with {content!r}: its readers do not name it")
            bench.resume(root, f"{name} with {content!r}")
    root = bench.trial()
    file = root / "results" / study.PROFILE / "params" / "testbed.json"
    whole = file.read_bytes()
    file.write_bytes(whole[:20])
    bench.report.faults["damaged list"] += 1
    bench.expect_line(root, study.run(root), ("params/testbed.json", "delete it and run `make params`"), "cut params")
    file.write_bytes(whole)
    bench.resume(root, "cut params")


def own_mounts() -> bool:
    """Give this process mounts of its own, which end with it; False where that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare") or libc.unshare(0x20000) != 0:  # CLONE_NEWNS
        return False
    return subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True).returncode == 0


@contextmanager
def small_disk(folder: Path, size_kb: int) -> Iterator[Callable[[str], None]]:
    """Mount a disk of some size on a folder; yields a function that remounts it with other options."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", folder], check=True)
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True) and None
    finally:
        subprocess.run(["umount", folder], check=True)


def fill_disks(bench: Bench, n: int) -> None:
    """Run on disks from far too small to almost large enough: one line, nothing half there, and on it goes."""
    sections = study.prepare(bench.folder / "disk-sections") / "results" / study.PROFILE / "params"
    least = 4 * (len(list(sections.iterdir())) + 6)  # kB: what `prepare` itself writes, a page a file, and its folders
    needed = sum(-(-len(content) // 4096) * 4 for content in bench.files.values()) + 40
    for k in range(n):
        size = least + (needed * 4 // 5 - least) * k // n
        root = bench.folder / f"disk-{k}"
        with small_disk(root / "results", size) as remount:
            study.prepare(root)
            status, what = study.run(root), f"disk of {size} kB"
            bench.report.faults["full disk"] += 1
            expected = ("results/small", "No space left", "free some space and run again, what is finished stays")
            bench.expect_line(root, status, expected, what)
            bench.check(root, what)
            remount("size=16m")
            bench.resume(study.copy(root, bench.folder / f"disk-{k}-copy"), what)
    figures = bench.folder / "disk-figures"
    study.prepare(figures)
    with small_disk(recorded := figures / "results" / study.PROFILE / "figures", 12):
        bench.report.faults["full disk"] += 1
        status = study.run(figures, record_on_full_disk)
        left = [path.name for path in recorded.rglob("*") if path.is_file()]
        if status or any(name.endswith(".tmp") for name in left):
            bench.report.problems.append(f"figures on a full disk: status {status}, files {left}")


def record_on_full_disk() -> None:
    """Write figures until the disk is full; what is there must be whole."""
    from notebook_kills import draw

    for version in range(9):
        try:
            draw(version)
        except NamedError as error:
            assert "No space left" in str(error)
    for file in paths.outputs(study.PROFILE).iterdir():
        ends = {".pdf": b"%%EOF\n", ".png": b"IEND\xaeB`\x82", ".json": b"}\n"}
        assert file.read_bytes().endswith(ends[file.suffix]), file


def refuse_writing(bench: Bench) -> None:
    """Run on a disk that has become read-only, with shards still to write and with none."""
    for finished in (False, True):
        root = bench.folder / f"read-only-{finished}"
        with small_disk(root / "results", 16384) as remount:
            if finished:
                shutil.copytree(bench.undisturbed / "results", root / "results", dirs_exist_ok=True)
            study.prepare(root)
            remount("ro")
            bench.report.faults["read-only folder"] += 1
            expected = ("results/small", "Read-only file system", "remount")
            bench.expect_line(root, study.run(root), expected, "read-only disk")
            remount("rw")
            bench.resume(study.copy(root, bench.folder / f"read-only-{finished}-copy"), "read-only disk")


def refuse_owner(bench: Bench) -> None:
    """Run as a user to whom the results do not belong."""
    root = bench.trial(finished=True, without=("tables/**/*.parquet",))
    bench.report.faults["another user's folder"] += 1

    def become_nobody() -> None:
        os.setgid(NOBODY)
        os.setuid(NOBODY)

    expected = ("results/small", "Permission denied", "become its owner")
    bench.expect_line(root, study.run(root, before=become_nobody), expected, "another user's folder")
    bench.resume(root, "another user's folder")


def turn_clocks(bench: Bench) -> None:
    """Let the clock jump by years during a run; give files and leftovers times of change in the past and the future."""
    root = bench.trial()
    bench.report.faults["clock"] += 1

    def jump() -> None:
        draw = random.Random(1)
        time.time = lambda: draw.uniform(-1e9, 4e9)  # type: ignore[assignment]

    if status := study.run(root, before=jump):
        bench.report.problems.append(f"a clock that jumps: status {status}")
    bench.resume(root, "a clock that jumps")
    for moment in (1.0, 4e9):
        root = bench.trial(finished=True)
        results = root / "results" / study.PROFILE
        left = results / "traces" / study.MODEL / ".some.parquet.0123.tmp"
        left.write_text("half")
        for file in [*results.rglob("*.*")]:
            os.utime(file, (moment, moment))
        before = {file: file.stat().st_ino for file in results.glob("*/**/*-*.parquet")}
        bench.report.faults["clock"] += 1
        if study.run(root) or before != {file: file.stat().st_ino for file in results.glob("*/**/*-*.parquet")}:
            bench.report.problems.append(f"files of {moment}: computed again")
        if (results / "extraction.json").stat().st_mtime != moment:
            bench.report.problems.append(f"files of {moment}: the manifest did not keep its age")
        bench.resume(root, f"files of {moment}")


def run_two(bench: Bench, n: int) -> None:
    """Start two runs at once, and a notebook during an extraction: one works, the other says who is in the way."""
    for _ in range(n):
        root = bench.trial()
        bench.report.faults["two runs at once"] += 1
        children = [study.start(root, study.extract_all) for _ in range(2)]
        ended = {child: study.wait(child) for child in children}
        said = re.findall(r"in use by process (\d+) on .*; wait until it has ended", (root / "log.txt").read_text())
        winners = [str(child) for child, status in ended.items() if status == 0]
        if sorted(ended.values()) != [0, 1] or said != winners:
            bench.report.problems.append(f"two runs at once: {json.dumps(ended)}, said {said}")
        bench.resume(root, "two runs at once")
    root = bench.trial()
    bench.report.faults["two runs at once"] += 1
    child = study.start(root, study.extract_all)
    while study.WATCH[1] < 3:
        time.sleep(1e-3)
    try:
        paths.ROOT, kept = root, paths.ROOT
        with notebook.begin("01_small", study.PROFILE):
            bench.report.problems.append("a notebook began during an extraction")
    except NamedError as error:
        if f"process {child} " not in str(error):
            bench.report.problems.append(f"a notebook during an extraction: {error}")
    finally:
        paths.ROOT = kept
    if study.wait(child):
        bench.report.problems.append("an extraction was disturbed by a notebook")
    bench.resume(root, "a notebook during an extraction")
