"""What tests share: profiles of hypothesis, how many workers, one small extraction (see small_extraction.py).

Every temporary folder has spaces and letters beyond ASCII in its path, as the folders of some people have.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dontblink import arithmetic

# Before a library that computes is loaded: workers share results, which must have the same bits in each.
arithmetic.put(arithmetic.find_settings(portable=True))

import bad_input  # noqa: E402
from hypothesis import settings  # noqa: E402

from dontblink import paths  # noqa: E402

settings.register_profile("tests", derandomize=True, deadline=None)
settings.register_profile("campaign", max_examples=100, deadline=None)
settings.load_profile("tests")
TEMPORARY = Path(tempfile.gettempdir(), f"Prüfungen für {getpass.getuser()} 試し")
TEMPORARY.mkdir(exist_ok=True)
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(TEMPORARY))  # below which pytest puts its temporary folders


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what needs a server or a browser."""
    for item in items:
        if {"servers", "chromium"} & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.slow)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what became of the bad inputs under `make campaign`."""
    if settings.get_current_profile_name() == "campaign":
        terminalreporter.write_line(bad_input.summarize())


def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers `-n auto` is: a core that this process may use and 2 GiB of memory each, 8 at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**31
    return max(1, min(cores, memory, 8))


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Put the environment back behind a test: a notebook's arithmetic would reach the processes of the next ones."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a finished small extraction, which no test may change; `paths.ROOT` is not set to it.

    The first worker that needs it makes it for all of them.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    root = folder / "small"
    with (folder / "small.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "done").exists():
            from small_extraction import extract  # torch and a model: only for tests that need it

            root.mkdir()
            extract(root)
            (root / "done").touch()
    return root


@pytest.fixture
def small(small_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the shared extraction's folder, `paths.ROOT` while the test runs; only for reading."""
    monkeypatch.setattr(paths, "ROOT", small_root)
    return small_root


@pytest.fixture
def small_copy(small_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the small extraction that the test may change, `paths.ROOT` while it runs."""
    root = tmp_path / "checkout"
    shutil.copytree(small_root, root, symlinks=True)
    monkeypatch.setattr(paths, "ROOT", root)
    return root
