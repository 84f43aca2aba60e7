"""Files: they appear whole, have a hash, and belong to one run at a time.

Why it exists: a reader must never see half a file, whatever crashes, and two extractions of a profile would remove each
other's unfinished files. In: paths. Out: whole files, SHA-256, or one line that says what is wrong and what to do. The
kernel holds a lock, not its file: it is gone with its process and
leaves nothing to clean up (filelock's shared locks are a SQLite file, which network disks do not bear, or leases that
outlive a killed process). Never: write a file in place, wait for a lock (a second run at night would hang unseen), or
import more than the standard library.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dontblink import paths
from dontblink.errors import NamedError

TEMPORARY = ".{name}.{token}.tmp"
REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or ask for a larger quota",
    errno.EROFS: "remount the disk, or use a checkout that can be written to",
    errno.EACCES: "become its owner, or use a checkout of your own",
    errno.EPERM: "become its owner, or use a checkout of your own",
}
PROC = Path("/proc")


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn the failure to write `path` into a NamedError that names its folder and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        reason = f"{path.name} not written: {os.strerror(error.errno)}"
        remedy = f"{REMEDIES[error.errno]} and run again, what is finished stays"
        raise NamedError(f"{paths.show(path.parent)}: {reason}; {remedy}") from error


def sync(path: Path) -> None:
    """Return when a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, it becomes `path` in one step.

    A reader sees the old file or the whole new one, never a part, even after a crash or a power cut. When the block
    raises, the temporary file is removed and `path` stays as it was. NamedError if the disk does not take it.
    """
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(TEMPORARY.format(name=path.name, token=secrets.token_hex(6)))
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)  # the rename itself must survive a power cut, too


def write_bytes(file: Path, content: bytes) -> bool:
    """Write a whole file unless it holds this content already and so keeps its age; return whether it was written."""
    if file.is_file() and file.read_bytes() == content:
        return False
    with whole_file(file) as temporary:
        temporary.write_bytes(content)
    return True


def write_text(file: Path, text: str) -> bool:
    """Write a text like `write_bytes`."""
    return write_bytes(file, text.encode())


def read_json(file: Path, remedy: str) -> Any:
    """Return what a JSON file holds; `remedy` says how to make it anew where it is not there or damaged."""
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise NamedError(f"{paths.show(file)}: not there; {remedy}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise NamedError(f"{paths.show(file)}: damaged or unreadable ({error}); delete it and {remedy}") from error


def hash_file(path: Path) -> str:
    """Return the SHA-256 (64 hex digits) of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def belongs(file: Path, stem: str) -> bool:
    """Return whether a figure or number is a notebook's: of `stem` itself, or of a longer name that starts with it."""
    return f"{file.stem}_".startswith(f"{stem}_")


@contextmanager
def hold(lock: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock file while the block runs; processes that are started meanwhile do not inherit it.

    `shared` bears others that share, but nobody who does not. NamedError if another process is in the way (it is
    named), or the lock file cannot be written.
    """
    with writable(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("ab", buffering=0)  # what a full disk refuses must not be tried again at the end
    with stream:
        try:
            fcntl.flock(stream, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as error:
            remedy = "wait until it has ended, or end it (`kill` and its number), then run again"
            raise NamedError(f"{paths.show(lock.parent)}: in use by {name_holders(lock)}; {remedy}") from error
        except OSError as error:  # some network disks have no locks
            print(f"{paths.show(lock.parent)}: no locks on this disk ({error.strerror}); start one run at a time here")
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
        with writable(lock):
            if not shared:
                stream.truncate(0)
            stream.write(f"process {os.getpid()} on {os.uname().nodename} ({command})\n".encode(errors="replace"))
        yield


def name_holders(lock: Path) -> str:
    """Return what the last holders wrote into a lock file, without those that are known to have ended."""
    names = []
    for line in lock.read_text(encoding="utf-8", errors="replace").splitlines():
        found = re.match(r"process (\d+) on (\S+) ", line)
        if found and not (found[2] == os.uname().nodename and PROC.is_dir() and not (PROC / found[1]).exists()):
            names.append(line)
    return ", ".join(names[-3:]) or "another process"
