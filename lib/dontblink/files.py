"""Which figures, numbers and papers were made here: a mark under results/ for each one, with its hash.

Why it exists: that a figure's sources changed does not explain a figure that somebody changed by hand; that its
notebook wrote these very bytes does. In: a file that was just written whole. Out: results/<profile>/made/<name>, its
SHA-256. Never: mark a file that this package has not written, or read a mark as more than that.

One run at a time: a lock on a folder that two processes must not change together.

Why it exists: two extractions of one profile would compute everything twice and remove each other's unfinished files,
and a notebook must not read tables while they are written. In: a lock file (see `paths.lock`). Out: nothing, or one
line that names the process in the way. The kernel holds the lock, not the file: it is gone with its process, so that
nothing has to be cleaned up after a crash. Never wait here (a second run at night would hang unseen), and never take
the presence of the file as a sign that somebody works.

Progress of long work: a bar in a terminal, plain lines elsewhere (papermill, a log file, make's output).

In: how much there is to do. Out: text on stderr. Never: a carriage return into a log.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from dontblink import paths
from dontblink.errors import NamedError


def hash_file(path: Path) -> str:
    """Return the SHA-256 (64 hex digits) of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def belongs(file: Path, stem: str) -> bool:
    """Return whether a figure or number is a notebook's: of `stem` itself, or of a longer name that starts with it."""
    return f"{file.stem}_".startswith(f"{stem}_")


def mark_made(file: Path, profile: str) -> None:
    """Note that a run wrote `file` with the bytes that it has now."""
    with paths.whole_file(paths.made(profile) / file.name) as temporary:
        temporary.write_text(hash_file(file) + "\n")


def read_mark(file: Path, profile: str) -> str:
    """Return the hash that `file` had when a run here wrote it last, '' if none did."""
    mark = paths.made(profile) / file.name
    return mark.read_text().strip() if mark.is_file() else ""


def forget(stem: str, profile: str) -> None:
    """Remove the marks of a notebook that is about to run again."""
    for mark in paths.made(profile).glob(f"{stem}*"):
        if belongs(mark, stem):
            mark.unlink(missing_ok=True)


def remove_unmarked(stem: str, profile: str) -> list[Path]:
    """Remove and return a notebook's figures that its last run has not made: those of an earlier version of it."""
    figures = sorted(paths.figures(profile).glob(f"{stem}*.*"))
    old = [file for file in figures if belongs(file, stem) and not read_mark(file, profile)]
    for file in old:
        file.unlink()
    return old


PROC = Path("/proc")


class LockError(NamedError, RuntimeError):
    """Another process works on the same files; the message names it and says what to do."""


@contextmanager
def hold(lock: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock file while the block runs; processes that are started meanwhile do not inherit it.

    Parameters
    ----------
    shared
        Bear others that share, but nobody who does not.

    Raises
    ------
    LockError
        If another process is in the way.
    PathsError
        If the lock file cannot be written.
    """
    with paths.writable(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            remedy = "wait until it has ended, or end it (`kill` and its number), then run again"
            raise LockError(f"{paths.show(lock.parent)}: in use by {name_holders(lock)}; {remedy}") from error
        except OSError as error:  # some network disks have no locks
            print(f"{paths.show(lock.parent)}: no locks on this disk ({error.strerror}); start one run at a time here")
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
        with paths.writable(lock):
            if not shared:
                os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename} ({command})\n".encode())
        yield
    finally:
        os.close(descriptor)


def name_holders(lock: Path) -> str:
    """Return what the last holders wrote into a lock file, without those that are known to have ended."""
    names = []
    for line in lock.read_text(encoding="utf-8", errors="replace").splitlines():
        found = re.match(r"process (\d+) on (\S+) ", line)
        is_here = found is not None and found[2] == os.uname().nodename and PROC.is_dir()
        if found is not None and not (is_here and not (PROC / found[1]).exists()):
            names.append(line)
    return ", ".join(names[-3:]) or "another process"



class Progress:
    """A bar in a terminal; elsewhere a plain line about every tenth of the way.

    `done` is where resumed work starts; `position` is the bar's line where several run side by side.
    """

    def __init__(
        self,
        total: int,
        label: str,
        *,
        unit: str = "items",
        done: int = 0,
        position: int | None = None,
        enabled: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        self.total, self.label, self.unit, self.done, self.started = total, label, unit, done, time.monotonic()
        self.stream = sys.stderr if stream is None else stream
        self.enabled = enabled and total > 0
        is_terminal = self.enabled and self.stream.isatty()
        options = {"total": total, "initial": done, "desc": label, "unit": f" {unit}", "position": position}
        self.bar = tqdm(**options, file=self.stream) if is_terminal else None

    def advance(self, n: int = 1) -> None:
        """Count n more as done."""
        tenth, self.done = 10 * self.done // max(self.total, 1), self.done + n
        if self.bar is not None:
            self.bar.update(n)
        elif self.enabled and 10 * self.done // self.total > tenth:
            seconds = time.monotonic() - self.started
            print(f"{self.label}: {self.done}/{self.total} {self.unit}, {seconds:.0f} s", file=self.stream, flush=True)

    def write(self, line: str) -> None:
        """Print a line without breaking the bar."""
        if self.bar is not None:
            self.bar.write(line, file=self.stream)
        else:
            print(line, file=self.stream, flush=True)

    def close(self) -> None:
        """End the bar's line."""
        if self.bar is not None:
            self.bar.close()
