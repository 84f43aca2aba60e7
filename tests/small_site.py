"""A small finished extraction and a hostile notebook, from which the pages are built within seconds."""

from __future__ import annotations

import base64
import dataclasses
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from small_extraction import PROFILE

from dontblink import paths
from dontblink.publish import pages
from dontblink.questions.items import Item
from dontblink_testbed import benchmark

STEM = "02_collapse"
HOSTILE = '</script><img src=x onerror="hacked=1"><script>hacked=1</script>\'"&'
LOAD = benchmark.load_items
DESCRIBED = "1 panel. titles: one & only; horizontally: step (number)"


def load_hostile(*arguments: Any) -> Iterator[Item]:
    """Yield the testbed's items with a question and box labels that try to run a script."""
    for item in LOAD(*arguments):
        boxes = tuple(dataclasses.replace(box, label=HOSTILE) for box in item.boxes)
        yield dataclasses.replace(item, question=HOSTILE, boxes=boxes, choices=("first <b>", "second"))


def make_notebook(root: Path) -> nbformat.NotebookNode:
    """Return an executed notebook with every kind of cell and output, some of it hostile."""
    png, folder = io.BytesIO(), root / "results" / "small" / "figures"
    Image.new("RGB", (40, 30), "grey").save(png, "png")
    picture = {"image/png": base64.b64encode(png.getvalue()).decode(), "text/plain": "<Figure size 40x30>"}
    table = (
        '<div><style scoped>td {x: y}</style><table border="1"><thead><tr><th></th><th>model</th><th>mass_share</th>'
        f'</tr></thead><tbody><tr><th>7</th><td>{HOSTILE}</td><td>0.25</td></tr><tr><th>9</th><td onclick="hacked=1">'
        "b</td><td>-1</td></tr></tbody></table><script>hacked=1</script></div>"
    )

    def result(**data: str) -> nbformat.NotebookNode:
        return new_output("execute_result", {k.replace("_", "/"): v for k, v in data.items()}, execution_count=1)

    cells = [
        new_markdown_cell(f"# 02 Collapse: does it fall?\n\n## 1 Question\n\nWhat {HOSTILE} is $x_i$?\n\n| | |\n"
                          "|---|---|\n| cost | a minute |\n\n$$y = \\frac{1}{2}$$\n\n[bad](javascript:hacked=1)"),
        new_markdown_cell("## 2 Parameters"),
        new_code_cell('profile = "testbed"  # which file\nbins = 10  # equal parts <b>',
                      metadata={"tags": ["parameters", "remove-cell"]}),
        new_code_cell('# Parameters\nprofile = "small"\nbins = 12\n', metadata={"tags": ["injected-parameters"]}),
        new_markdown_cell("## 6 Figure\n\nThe table first."),
        new_code_cell("table  # <b>", outputs=[result(text_html=table, text_plain="model")]),
        new_code_cell('record.save_figure(figure, "02_collapse", profile)', outputs=[
            new_output("stream", name="stdout", text=f"02_collapse: {DESCRIBED}\n{root}/results after </pre>\n"),
            result(text_plain=f"[PosixPath('{folder}/02_collapse.pdf'),\n PosixPath('{root}/x.png')]"),
            new_output("display_data", picture)]),
        new_code_cell("figure", outputs=[new_output("display_data", picture)]),
        new_code_cell("record", outputs=[result(text_plain=f"PosixPath('{folder}/02_collapse.json')")]),
        new_code_cell(""),
    ]  # fmt: skip
    metadata = {"language_info": {"name": "python", "version": "3.11.99"}, "papermill": {"duration": 41.6}}
    return new_notebook(cells=cells, metadata=metadata)


def write_notebook(root: Path, **metadata: Any) -> None:
    """Write the executed notebook and its files."""
    notebook = make_notebook(root)
    notebook.metadata.papermill.update(metadata)
    file = paths.notebooks(PROFILE) / f"{STEM}.ipynb"
    file.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, file)
    paths.outputs(PROFILE).mkdir(parents=True, exist_ok=True)
    for suffix in ("pdf", "png", "json"):
        (paths.outputs(PROFILE) / f"{STEM}.{suffix}").write_text("made here")


def build(small: Path, root: Path, patch: pytest.MonkeyPatch) -> Path:
    """Build the whole site in a copy of the small extraction and return its folder."""
    shutil.copytree(small, root)
    patch.setattr(paths, "ROOT", root)
    write_notebook(root)
    patch.setattr(benchmark, "load_items", load_hostile)
    return pages.build_site(PROFILE, [STEM]).parent
