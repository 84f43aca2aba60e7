"""Other people's checkouts: clones whose git converts line ends, archives without git, interrupted runs."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import yaml

from dontblink import paths

ROOT = paths.ROOT


def test_a_clone_with_autocrlf_holds_the_same_bytes_and_its_scripts_start(tmp_path: Path) -> None:
    git = ["git", "-c", "core.autocrlf=true", f"--git-dir={tmp_path}/git"]
    clone = tmp_path / "clone"
    clone.mkdir()
    subprocess.run([*git, "init", "-q", "--bare"], check=True)
    subprocess.run([*git, f"--work-tree={ROOT}", "add", "-A"], cwd=ROOT, check=True)  # uncommitted work counts, too
    subprocess.run([*git, f"--work-tree={clone}", "checkout-index", "-a"], cwd=clone, check=True)
    files = [file.relative_to(clone) for file in clone.rglob("*") if file.is_file()]
    assert len(files) > 300
    assert [file for file in files if (clone / file).read_bytes() != (ROOT / file).read_bytes()] == []
    started = subprocess.run(["./.ci/install", tmp_path / "none", "no-such-python"], cwd=clone, capture_output=True)
    assert started.stderr.startswith(b"no-such-python not found: install Python 3.11")


def interrupt(process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C: a signal to every process of the group; return what they said, once all of them have ended."""
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return said
        time.sleep(0.05)
    raise AssertionError(f"processes of the group {process.pid} are still there")


def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
    """Start a command as the only one of its process group."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    return subprocess.Popen(command, **pipes, **options)


def open_when_read(pipe: Path, process: subprocess.Popen[str]) -> IO[str]:
    """Open a pipe for writing as soon as a process reads it; fail with what the process said if it ends instead."""
    while process.poll() is None:
        try:
            return os.fdopen(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "w")
        except OSError:  # nobody reads yet
            time.sleep(0.05)
    raise AssertionError(f"ended with {process.returncode} before it read {pipe.name}: {process.communicate()[0]}")


STOPPED = "stopped; what is finished stays, the same command goes on from there\n"


def test_ctrl_c_ends_a_command_with_one_line(tmp_path: Path) -> None:
    pipe = tmp_path / "values.json"
    os.mkfifo(pipe)
    process = start([sys.executable, "-m", "dontblink.publish.notebook", "x.py", "--params", str(pipe)])
    with open_when_read(pipe, process):
        assert interrupt(process) == STOPPED
    assert process.returncode == -signal.SIGINT


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the checkout with a profile of its own, small, whose environment is that of the test."""
    root = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("lib", "notebooks", "params", "paper"):
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, root)
    (root / "models").symlink_to(ROOT / "models")
    sections = {
        "extraction": {"models": ["qwen3vl-tiny-s", "qwen3vl-tiny-m"], "benchmarks": ["visual_reference"]}
        | {"max_new_tokens": 80, "batch_size": 4, "shard_items": 3, "n_sampled_items": 2},
        "testbed": {"n_test_items": 9, "n_calibration_items": 3, "n_example_items": 1},
    }
    (root / "params" / "small.yaml").write_text(yaml.safe_dump({"profile": "small", "based_on": "testbed"} | sections))
    (root / ".ci").mkdir()
    (root / ".ci" / "install").write_text("#!/bin/sh\n")
    python = root / "an environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    for file in (root / ".ci" / "install", python):
        file.chmod(0o755)
    return root


def make(root: Path, *words: str) -> subprocess.Popen[str]:
    """Start make in a copy of the checkout."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    environment |= {"VIRTUAL_ENV": str(root / "an environment"), "PYTHONPATH": str(root / "lib")}
    return start(["make", *words], cwd=root, env=environment)


def wait_for(found: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something is there; fail if the process ends before."""
    deadline = time.monotonic() + 300
    while not found():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.01)


@pytest.mark.slow
def test_ctrl_c_ends_an_extraction_under_make_and_the_next_one_goes_on(checkout: Path) -> None:
    command = ("extract", "PROFILE=small")
    results = checkout / "results" / "small"
    process = make(checkout, *command)
    wait_for(lambda: len([*results.glob("responses/*/*.parquet")]) >= 2, process)
    said = interrupt(process)
    assert "Traceback" not in said and said.count(STOPPED) == 1 and said.endswith(" Interrupt\n"), said
    kept = {file: file.read_bytes() for file in results.glob("responses/*/*.parquet")}
    for lost in results.glob("*/*/*.parquet"):
        assert lost.read_bytes()[-4:] == b"PAR1"
    process = make(checkout, *command)
    said = process.communicate()[0]
    assert process.returncode == 0 and (results / "extraction.json").exists(), said
    assert kept and all(file.read_bytes() == content for file, content in kept.items())
    assert [*results.rglob(".*.tmp")] == []


@pytest.mark.slow
def test_ctrl_c_ends_a_notebook_and_its_kernel(tmp_path: Path) -> None:
    source = tmp_path / "01_long.py"
    here = tmp_path / "here"
    source.write_text(f"""# %% tags=["parameters"]
profile = "small"

# %%
import os, time
open({str(here)!r}, "w").write(str(os.getpid()))
time.sleep(600)
""")
    (tmp_path / "values.json").write_text("{}")
    arithmetic = tmp_path / "results" / "small" / "params" / "arithmetic.json"
    arithmetic.parent.mkdir(parents=True)
    arithmetic.write_text('{"portable": true}')
    lib = tmp_path / "lib"
    shutil.copytree(ROOT / "lib", lib, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    command = [sys.executable, "-m", "dontblink.publish.notebook", str(source), "--profile", "small", "--params"]
    process = start([*command, str(tmp_path / "values.json")], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(lib)})
    wait_for(lambda: here.exists() and bool(here.read_text()), process)
    assert interrupt(process) == STOPPED
    deadline = time.monotonic() + 20
    while Path(f"/proc/{here.read_text()}").exists():
        assert time.monotonic() < deadline, "the kernel is still there"
        time.sleep(0.05)
    assert (tmp_path / "results" / "small" / "notebooks" / "01_long.unfinished").exists()
