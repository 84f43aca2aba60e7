"""One run at a time: a lock on a folder that two processes must not change together.

Why it exists: two extractions of one profile would compute everything twice and remove each other's unfinished files,
and a notebook must not read tables while they are written. In: a lock file (see `paths.lock`). Out: nothing, or one
line that names the process in the way. The kernel holds the lock, not the file: it is gone with its process, so that
nothing has to be cleaned up after a crash. Never wait here (a second run at night would hang unseen), and never take
the presence of the file as a sign that somebody works.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dontblink import paths
from dontblink.messages import NamedError

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
