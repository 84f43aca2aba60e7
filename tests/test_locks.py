"""One process at a time changes a folder, the other is told who that is, and a crash leaves nothing to clean up."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dontblink import files as locks
from dontblink import paths
from dontblink.files import LockError, hold

HOLD = """
import sys, time
from pathlib import Path
from dontblink.files import hold
with hold(Path(sys.argv[1]), shared=sys.argv[2] == "shared"):
    print("held", flush=True)
    time.sleep(60)
"""


def start_holder(lock: Path, kind: str) -> subprocess.Popen[str]:
    """Start a process that holds a lock, and wait until it does."""
    environment = os.environ | {"PYTHONPATH": str(Path(locks.__file__).parents[1])}
    command = [sys.executable, "-c", HOLD, str(lock), kind]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "held\n"
    return process


def test_the_second_is_told_who_is_in_the_way_until_that_one_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "results" / ".lock"
    holder = start_holder(lock, "alone")
    for shared in (False, True):
        with pytest.raises(LockError, match=rf"results: in use by process {holder.pid} on .*; wait .* or end it"):
            hold(lock, shared=shared).__enter__()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold(lock), pytest.raises(LockError, match=rf"in use by process {os.getpid()} on "):
        hold(lock).__enter__()
    with hold(lock):
        pass


def test_those_that_share_bear_each_other_and_nobody_alone(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    holder = start_holder(lock, "shared")
    with hold(lock, shared=True):
        pass
    with pytest.raises(LockError, match=rf"in use by .*process {holder.pid} on "):
        hold(lock).__enter__()
    holder.kill()
    holder.wait()


def test_processes_started_meanwhile_do_not_keep_the_lock(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with hold(lock):
        kernel = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        time.sleep(0.2)
    with hold(lock):
        kernel.kill()
    kernel.wait()


def test_a_disk_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with hold(tmp_path / ".lock"):
        pass
    assert "no locks on this disk (No locks available); start one run at a time here" in capsys.readouterr().out


def test_names_of_processes_that_have_ended_are_left_out(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    here = os.uname().nodename
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lock.write_text(f"process {ended.pid} on {here} (x)\nprocess 7 on elsewhere (y)\nnonsense\n")
    if Path("/proc").is_dir():
        assert locks.name_holders(lock) == "process 7 on elsewhere (y)"
    lock.write_text("")
    assert locks.name_holders(lock) == "another process"


def test_a_profile_and_each_notebook_of_it_have_locks_of_their_own() -> None:
    files = {paths.lock("paper"), paths.lock("paper", "02_collapse"), paths.lock("paper", "03_entropy")}
    assert len(files) == 3 and all(file.name.startswith(".") for file in files)
