"""A real Chromium for the tests of pages and of JupyterLab; a test that cannot have one skips with the reason.

Chromium: the file that DONTBLINK_CHROMIUM names, else `chromium`, `chromium-browser` or `google-chrome` on the path.
axe-core: the file that DONTBLINK_AXE names, else node_modules/axe-core/axe.min.js (npm install --no-save axe-core).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dontblink import paths

ROOT = paths.ROOT
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
]  # fmt: skip


def find_chromium() -> str:
    """Return the browser's file, or skip the test."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is not installed: pip install playwright")
    named = os.environ.get("DONTBLINK_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine; DONTBLINK_CHROMIUM may name one")
    return found


def read_axe() -> str:
    """Return the source of axe-core, or skip the test."""
    file = Path(os.environ.get("DONTBLINK_AXE", ROOT / "node_modules" / "axe-core" / "axe.min.js"))
    if not file.is_file():
        pytest.skip(f"no axe-core at {file}; DONTBLINK_AXE may name its axe.min.js")
    return file.read_text(encoding="utf-8")


@contextmanager
def open_browser() -> Iterator[Any]:
    """Yield a headless Chromium with a fresh profile."""
    executable = find_chromium()
    playwright = importlib.import_module("playwright.sync_api").sync_playwright()
    with playwright as driver:
        browser = driver.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()
