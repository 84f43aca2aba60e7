"""JupyterLab opens notebooks/*.py as notebooks by double click, runs them, and saves nothing but what was edited."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jupytext
import pytest
from browser import open_browser

from dontblink import paths

ROOT = paths.ROOT
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
QUICK = """
# %% [markdown]
# # 09 Quick

# %% tags=["parameters"]
bins = 10  # bars
title = "ten"  # of the figure

# %%
import matplotlib.pyplot as plt

from dontblink import paths

# %%
plt.bar(range(bins), range(bins))
print(f"{bins} bars, package in {paths.ROOT.name}")
"""
LAB_KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}


def read_header() -> str:
    text = SOURCES[0].read_text()
    return text[: text.index("# ---\n", 5) + len("# ---\n")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the repository's JupyterLab and jupytext settings and one quick notebook."""
    shutil.copytree(ROOT / ".jupyter" / "labconfig", tmp_path / ".jupyter" / "labconfig")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "09_quick.py").write_text(read_header() + QUICK)
    return tmp_path


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_saving_an_unedited_notebook_changes_no_byte(folder: Path, source: Path) -> None:
    copy = folder / "notebooks" / source.name
    shutil.copy(source, copy)
    manager = jupytext.TextFileContentsManager()
    manager.root_dir = str(folder)
    notebook = manager.get(f"notebooks/{source.name}", type="notebook")["content"]
    notebook["metadata"] |= {"kernelspec": LAB_KERNEL, "language_info": {"name": "python", "version": "3.11.0"}}
    for cell in notebook["cells"]:
        cell["metadata"] |= {"trusted": True, "execution": {"iopub.status.busy": "now"}}
    manager.save({"type": "notebook", "content": notebook, "format": "json"}, f"notebooks/{source.name}")
    assert copy.read_text() == source.read_text()
    assert [file.name for file in copy.parent.iterdir() if file.suffix == ".ipynb"] == []


def test_make_lab_starts_it_with_the_settings_of_the_repository() -> None:
    printed = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True).stdout
    assert 'JUPYTER_CONFIG_DIR="$PWD/.jupyter" ' in printed and " -m jupyterlab" in printed


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """Start JupyterLab on the folder and yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(8)
    own = {"JUPYTER_CONFIG_DIR": str(folder / ".jupyter"), "JUPYTER_RUNTIME_DIR": str(folder / "runtime")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
               f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]  # fmt: skip
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=os.environ | own, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                assert server.poll() is None, (folder / "lab.log").read_text()
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks?token={token}"
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.mark.slow
def test_lab_opens_notebooks_with_the_settings_of_the_repository(address: str) -> None:
    base, token = address.split("lab/tree/notebooks?token=")

    def ask(place: str) -> Any:
        return httpx.get(f"{base}{place}", params={"token": token}, timeout=60).json()

    (found,) = (e for e in ask("lab/api/settings")["settings"] if e["id"] == "@jupyterlab/docmanager-extension:plugin")
    viewers = found["schema"]["properties"]["defaultViewers"]["default"]
    assert viewers == {"python": "Jupytext Notebook"}
    assert ask("api/contents/notebooks/09_quick.py")["type"] == "notebook"


@pytest.mark.slow
def test_double_click_edit_a_parameter_run_all_and_a_figure_appears(
    folder: Path, request: pytest.FixtureRequest
) -> None:
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(request.getfixturevalue("address"))
        page.locator(".jp-DirListing-item", has_text="09_quick.py").dblclick()
        cell = page.locator(".jp-Notebook .jp-CodeCell").first
        cell.wait_for(timeout=60_000)
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=60_000)  # before, Lab asks for a kernel
        assert page.locator(".jp-Dialog").count() == 0
        cell.locator(".cm-line", has_text="bins = 10").click()
        page.keyboard.press("Home")
        for key in ["ArrowRight"] * len("bins = ") + ["Delete", "Delete", "1", "2"]:
            page.keyboard.press(key)
        page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.locator(".jp-OutputArea-output img").first.wait_for(timeout=120_000)
        page.get_by_text(f"12 bars, package in {ROOT.name}").wait_for(timeout=30_000)
        page.keyboard.press("Control+s")
        saved = folder / "notebooks" / "09_quick.py"
        expected = (read_header() + QUICK).replace("bins = 10", "bins = 12")
        for _ in range(80):
            if saved.read_text() == expected:
                break
            page.wait_for_timeout(250)
        assert saved.read_text() == expected
