"""The site: executed notebooks and the trace viewer as pages that open from a file, `make pages`.

Why it exists: a reader without Python should see every figure, table, parameter and line of code, and single
responses. In: the executed notebooks, figures and traces of a profile. Out: results/<profile>/pages, a folder that
appears whole. A notebook becomes one self-contained file by pandoc: MathML, native tables, pictures inside, no script,
no network. `site/page.lua` says what pandoc keeps: nothing that came out of data is markup. Never: execute a notebook,
compute a result, or let a text into a page past pandoc or an escaping template.
"""

from __future__ import annotations

import argparse
import ast
import json
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import unescape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import nbformat
import pandas as pd

from dontblink import params, paths
from dontblink.errors import NamedError, as_command
from dontblink.files import belongs
from dontblink.publish import manuscript, viewer

SITE = Path(__file__).with_name("site")
PACKAGES = (
    "torch", "transformers", "numpy", "scipy", "pandas", "scikit-learn", "statsmodels", "pingouin", "matplotlib",
)  # fmt: skip
PANDOC = (
    f"--lua-filter={SITE / 'page.lua'}", "--ipynb-output=all", "--mathml", "--embed-resources", "--sandbox",
    "--wrap=preserve", "--syntax-highlighting=monochrome",
)  # fmt: skip
DESCRIPTION = re.compile(r"^(\d\d_[a-z0-9_]+): (\d+ panels?\. .*)$", flags=re.MULTILINE)  # record.save_figure prints it
RECORDED = re.compile(r"^\[?PosixPath\('")  # what its return value looks like
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
Rows = Sequence[tuple[str, str, str]]  # name, value, meaning


@dataclass
class Page:
    """One page: where it lies, what it is called, and what its template shows."""

    file: str
    title: str
    note: str = ""
    body: str = ""
    sections: list[tuple[str, str]] = field(default_factory=list)
    parameters: dict[str, Rows] = field(default_factory=dict)
    recorded: list[str] = field(default_factory=list)
    environment: list[tuple[str, str]] = field(default_factory=list)

    @property
    def short(self) -> str:
        """Return the title up to its colon, for the navigation."""
        return self.title.split(":")[0]


def describe_environment(python: str) -> list[tuple[str, str]]:
    """Return names and values: Python, system, and the versions of what computes."""
    system = f"{platform.system()} {platform.machine()}"
    return [("Python", python), ("system", system), *((name, version(name)) for name in PACKAGES)]


def read_parameters(declared: str, injected: str) -> list[tuple[str, str, str]]:
    """Return (name, value, meaning) of each parameter: values as given, comments as the notebook declares them."""
    meanings = dict(re.findall(r"^(\w+)(?:: \w+)? = .*?  # (.+)$", declared, flags=re.M))
    return [
        (node.targets[0].id, ast.unparse(node.value), meanings.get(node.targets[0].id, ""))
        for node in ast.parse(injected).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    ]


def make_output(data: dict[str, str], words: str = "") -> dict[str, Any]:
    """Return a notebook's output that holds one thing; `words` are a picture's."""
    metadata = {"image/png": {"alt": words}} if words else {}
    return {"output_type": "display_data", "metadata": metadata, "data": data}


def prepare_outputs(outputs: Sequence[Any], prose: str) -> list[dict[str, Any]]:
    """Return what a page shows of a cell's outputs, each in one form: a table, a picture with its words, or text."""
    printed = [output.text for output in outputs if output.output_type == "stream"]
    words = [found[2] for text in printed for found in DESCRIPTION.finditer(text)]
    shown = []
    for output in outputs:
        data = output.get("data", {})
        text = DESCRIPTION.sub("", output.get("text", data.get("text/plain", "")))
        if "image/png" in data:
            said = words.pop(0) if words else f"figure: {prose}"
            shown.append(make_output({"image/png": data["image/png"]}, said))
        elif "<table" in data.get("text/html", ""):
            shown.append(make_output({"text/html": data["text/html"]}))
        elif text.strip() and not RECORDED.match(text):
            plain = COLOUR.sub("", text).replace(f"{paths.ROOT}/", "").strip("\n")
            shown.append(make_output({"text/plain": plain}))
    return shown


def prepare(notebook: Any) -> dict[str, Any]:
    """Return a notebook of the cells that a page shows, with nothing but what `site/page.lua` renders.

    Declared defaults are left out; the parameters that were given become a table with the declared meanings.
    """
    cells: list[dict[str, Any]] = []
    declared, prose = "", ""
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            prose = " ".join(cell.source.replace("#", "").split())[:160]
            cells.append({"cell_type": "markdown", "metadata": {}, "source": cell.source})
        elif "parameters" in tags:
            declared = cell.source
        elif cell.cell_type == "code" and "remove-cell" not in tags and cell.source.strip():
            outputs, source = prepare_outputs(cell.outputs, prose), cell.source
            if "injected-parameters" in tags:
                rows = pd.DataFrame(read_parameters(declared, source), columns=["parameter", "value", "meaning"])
                with pd.option_context("display.max_colwidth", None):
                    outputs, source = [make_output({"text/html": rows.to_html(index=False, classes="text")})], ""
            code = {"cell_type": "code", "metadata": {}, "execution_count": None, "source": source}
            cells.append(code | {"outputs": outputs})
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}


def render_notebook(stem: str, notebook: Any) -> Page:
    """Return the page of an executed notebook, without its frame."""
    body = manuscript.convert(json.dumps(prepare(notebook)), "ipynb", "html5", PANDOC)
    found = re.findall(r'<h([12])\s+id="([^"]+)">(.*?)</h\1>', body, flags=re.S)
    headings = [(level, name, unescape(re.sub("<[^>]*>", "", text))) for level, name, text in found]
    titles = [text for level, _, text in headings if level == "1"]
    if not titles:
        raise NamedError(f"{stem}: no heading `# NN Name: ...` in its first cell; add one")
    page = Page(f"{stem}.html", titles[0], body=body)
    page.sections = [(name, text) for level, name, text in headings if level == "2"]
    page.environment = describe_environment(notebook.metadata.language_info.version)
    page.environment.append(("ran for", f"{notebook.metadata.papermill.duration:.0f} s"))
    return page


def read_notebook(profile: str, stem: str) -> Any:
    """Return an executed notebook; raise NamedError where it is not there or did not finish."""
    file = paths.notebooks(profile) / f"{stem}.ipynb"
    remedy = f"delete results/{profile}/done/{stem} and run `make all`"
    if not file.is_file():
        raise NamedError(f"{paths.show(file)}: not there; {remedy}")
    notebook = nbformat.read(file, as_version=4)  # type: ignore[no-untyped-call]
    if notebook.metadata.get("papermill", {}).get("exception"):
        raise NamedError(f"{paths.show(file)}: its last run failed; {remedy}")
    return notebook


def write_pages(profile: str, stems: Sequence[str], folder: Path) -> int:
    """Write the whole site below `folder`, which is empty; return the number of items in the viewer."""
    (folder / "figures").mkdir()
    notebooks = []
    for stem in stems:
        notebooks.append(render_notebook(stem, read_notebook(profile, stem)))
        for file in sorted(file for file in paths.outputs(profile).glob(f"{stem}*.*") if belongs(file, stem)):
            shutil.copyfile(file, folder / "figures" / file.name)
            notebooks[-1].recorded.append(file.name)
    n_items = viewer.write_viewer(profile, folder, params.read_section(profile, "pages")["item_quantiles"])
    parameters: dict[str, Rows] = {}
    for section in params.SECTIONS:
        meanings, values = params.describe(section), params.read_section(profile, section)
        parameters[section] = [(name, repr(value), meanings.get(name, "")) for name, value in values.items()]
    environment = describe_environment(platform.python_version())
    index = Page("index.html", "Overview", parameters=parameters, environment=environment)
    note = f"{n_items} responses, step by step: picture, attention map, masses and entropy per token"
    own = {"pages": parameters["pages"]}
    trace = Page("viewer.html", "Trace viewer", note, parameters=own, environment=environment)
    pages = [index, *notebooks, trace]
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(SITE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    style = (SITE / "style.css").read_text(encoding="utf-8")
    for before, page, after in zip([None, *pages], pages, [*pages[1:], None], strict=False):
        template = templates.get_template(page.file if page in (index, trace) else "frame.html")
        text = template.render(page=page, pages=pages, before=before, after=after, profile=profile, style=style)
        (folder / page.file).write_text(text, encoding="utf-8")
    shutil.copyfile(SITE / "viewer.js", folder / "viewer.js")
    return n_items


def build_site(profile: str, stems: Sequence[str]) -> Path:
    """Build the site and put it in place of the old one; return its first page."""
    target = paths.pages(profile)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pages-", dir=target.parent) as temporary:
        new = Path(temporary) / "new"
        new.mkdir(mode=0o755)
        n_items = write_pages(profile, stems, new)
        if target.exists():
            target.rename(Path(temporary) / "old")
        new.rename(target)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file()) / 1e6
    print(f"pages: {len(stems)} notebooks and {n_items} responses, {size:.1f} MB; open {paths.show(target)}/index.html")
    return target / "index.html"


@as_command
def main(arguments: list[str] | None = None) -> int:
    """Build the site: `python -m dontblink.publish.pages --profile testbed 00_testbed 02_collapse`."""
    parser = argparse.ArgumentParser(prog="python -m dontblink.publish.pages", description=main.__doc__)
    parser.add_argument("stems", nargs="+", help="executed notebooks, in the order of the pages")
    parser.add_argument("--profile", default="testbed")
    given = parser.parse_args(arguments)
    build_site(given.profile, given.stems)
    return 0


if __name__ == "__main__":
    sys.exit(main())
