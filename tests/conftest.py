"""What tests of several rooms share: profiles of hypothesis, and one small extraction (see small_extraction.py)."""

from __future__ import annotations

import shutil
from pathlib import Path

import bad_input
import pytest
from hypothesis import settings

from dontblink import paths

settings.register_profile("tests", derandomize=True, deadline=None)
settings.register_profile("campaign", max_examples=100, deadline=None)
settings.load_profile("tests")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what became of the bad inputs under `make campaign`."""
    if settings.get_current_profile_name() == "campaign":
        terminalreporter.write_line(bad_input.summarize())


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a finished small extraction, which no test may change; `paths.ROOT` is not set to it."""
    from small_extraction import extract  # torch and a model: only for tests that need it

    root = tmp_path_factory.mktemp("small")
    extract(root)
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
