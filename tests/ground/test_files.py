"""A file appears whole or not at all, its mark says who wrote it, and one process at a time changes a folder."""

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

from dontblink import files, paths
from dontblink.errors import NamedError
from dontblink.files import hold, whole_file


def test_a_whole_file_is_seen_only_when_it_is_finished(tmp_path: Path) -> None:
    file = tmp_path / "new" / "table.csv"
    with whole_file(file) as temporary:
        temporary.write_text("half")
        assert not file.exists()
        temporary.write_text("whole")
    assert file.read_text() == "whole"
    assert list(file.parent.iterdir()) == [file]


def test_a_text_that_a_file_holds_already_leaves_its_age(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    assert files.write_text(file, "1 \N{EN DASH}\n")
    os.utime(file, (0, 0))
    assert not files.write_text(file, "1 \N{EN DASH}\n") and file.stat().st_mtime == 0
    assert files.write_text(file, "2\n") and file.read_text() == "2\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "not there; run this"),
        (b'{"a', "damaged .*delete it and run"),
        (b"\xff{", "damaged"),
        (b"[" * 99999, "damaged"),
    ],
)
def test_json_that_is_missing_or_damaged_is_one_line_with_its_remedy(
    tmp_path: Path, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(NamedError, match=rf"a\.json: {expected}"):
        files.read_json(tmp_path / "a.json", "run this")


def test_a_failure_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("old")
    with pytest.raises(ValueError, match="stop"), whole_file(file) as temporary:
        temporary.write_text("half")
        raise ValueError("stop")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, "No space left on device; free some space and run again, what is finished stays"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "Read-only file system; remount the disk"),
        (errno.EACCES, "Permission denied; become its owner"),
    ],
)
def test_what_cannot_be_written_is_one_line_with_folder_and_remedy(tmp_path: Path, number: int, expected: str) -> None:
    file = tmp_path / "tables" / "items.parquet"
    with pytest.raises(NamedError, match=expected) as found, whole_file(file) as temporary:
        temporary.write_text("half")
        raise OSError(number, "as the system says it")
    assert str(found.value).startswith(f"{file.parent}: items.parquet not written: ") and "\n" not in str(found.value)
    assert list(file.parent.iterdir()) == []


def test_another_failure_to_write_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), whole_file(tmp_path / "x"):
        raise IsADirectoryError(errno.EISDIR, "a folder")


def test_two_writers_of_one_file_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    with whole_file(tmp_path / "x") as one, whole_file(tmp_path / "x") as other:
        assert one != other
        one.write_text("1")
        other.write_text("2")
    assert (tmp_path / "x").read_text() == "1"


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
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT / "lib")}
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
        with pytest.raises(NamedError, match=rf"results: in use by process {holder.pid} on .*; wait .* or end it"):
            hold(lock, shared=shared).__enter__()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold(lock), pytest.raises(NamedError, match=rf"in use by process {os.getpid()} on "):
        hold(lock).__enter__()
    with hold(lock):
        pass


def test_those_that_share_bear_each_other_and_nobody_alone(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    holder = start_holder(lock, "shared")
    with hold(lock, shared=True):
        pass
    with pytest.raises(NamedError, match=rf"in use by .*process {holder.pid} on "):
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
        assert files.name_holders(lock) == "process 7 on elsewhere (y)"
    lock.write_text("")
    assert files.name_holders(lock) == "another process"
