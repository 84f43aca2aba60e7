"""The site: executed notebooks and the trace viewer as pages that open from a file, `make pages`.

Why it exists: a reader without Python should see every figure, table, parameter and line of code, and single
responses. In: the executed notebooks, figures and traces of a profile. Out: results/<profile>/pages, a folder that
appears whole: plain HTML, one style, two small scripts, no network. Never: execute a notebook, compute a result, or
let a text from data into a page unescaped (templates escape; `markup` renders the rest).
"""

from __future__ import annotations

import argparse
import base64
import platform
import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import jinja2
import nbformat
from markupsafe import Markup

from dontblink import markup, params, paths, schema, store, viewer
from dontblink.messages import NamedError
from dontblink.params_schema import SCHEMA

SITE = Path(__file__).with_name("site")
ASSETS = ("style.css", "site.js", "viewer.js")
PACKAGES = (
    "torch", "transformers", "numpy", "scipy", "pandas", "scikit-learn", "statsmodels", "pingouin", "matplotlib",
)  # fmt: skip
DESCRIPTION = re.compile(r"^(\d\d_[a-z0-9_]+): (\d+ panels?\. .*)$", flags=re.MULTILINE)  # record.save_figure prints it
RECORDED = re.compile(r"^\[?PosixPath\('[^']*?(\d\d_[a-z0-9_]+\.\w+)'\)")


class PagesError(NamedError, RuntimeError):
    """A site that cannot be built; the message is one line with file and remedy."""


@dataclass
class Page:
    """One page: where it lies, what it is called, and what its template shows."""

    file: str
    title: str
    note: str = ""
    body: Markup = Markup("")
    sections: list[tuple[str, str]] = field(default_factory=list)
    parameters: list[tuple[str, Markup]] = field(default_factory=list)
    environment: list[tuple[str, str]] = field(default_factory=list)

    @property
    def short(self) -> str:
        """Return the title up to its colon, for the navigation."""
        return self.title.split(":")[0]


def describe_environment(python: str) -> list[tuple[str, str]]:
    """Return names and values: Python, system, and the versions of what computes."""
    system = f"{platform.system()} {platform.machine()}"
    return [("Python", python), ("system", system), *((name, version(name)) for name in PACKAGES)]


class Renderer:
    """Turns one executed notebook into a page; pictures go to media/ below `folder`, records to figures/."""

    def __init__(self, stem: str, folder: Path, profile: str) -> None:
        self.stem, self.folder, self.figures = stem, folder, paths.figures(profile)
        self.n_figures, self.declared, self.prose = 0, "", ""

    def render(self, notebook: nbformat.NotebookNode) -> Page:
        """Return the page of a notebook."""
        body = Markup("\n").join(Markup(self.render_cell(cell)) for cell in notebook.cells)
        headings = re.findall(r'<h([12]) id="([^"]+)">(.*?)</h\1>', body)
        titles = [Markup(text).striptags() for level, _, text in headings if level == "1"]
        if not titles:
            raise PagesError(f"{self.stem}: no heading `# NN Name: ...` in its first cell; add one")
        page = Page(f"{self.stem}.html", titles[0], body=body)
        page.sections = [(name, Markup(text).striptags()) for level, name, text in headings if level == "2"]
        python = notebook.metadata.get("language_info", {}).get("version", platform.python_version())
        page.environment = describe_environment(python)
        if seconds := notebook.metadata.get("papermill", {}).get("duration"):
            page.environment.append(("ran for", f"{seconds:.0f} s"))
        return page

    def render_cell(self, cell: nbformat.NotebookNode) -> Markup:
        """Return one cell; declared defaults are left out, injected parameters become a table."""
        tags = cell.metadata.get("tags", [])
        if cell.cell_type == "markdown":
            self.prose = cell.source
            return markup.render_markdown(cell.source)
        if "parameters" in tags:
            self.declared = cell.source
        if cell.cell_type != "code" or "remove-cell" in tags or not cell.source.strip():
            return Markup("")
        parts = [Markup('<details class="code"><summary>code</summary>{}</details>')]
        parts = [parts[0].format(markup.render_code(cell.source))]
        if "injected-parameters" in tags:
            parts.insert(0, markup.render_parameters(markup.read_parameters(self.declared, cell.source)))
        described = [
            (found[1], found[2])
            for output in cell.outputs
            if output.output_type == "stream"
            for found in DESCRIPTION.finditer(output.text)
        ]
        parts += [self.render_output(output, described) for output in cell.outputs]
        return Markup("\n").join(parts)

    def render_output(self, output: nbformat.NotebookNode, described: list[tuple[str, str]]) -> Markup:
        """Return one output; a picture takes the next of the `described` (stem, description)."""
        if output.output_type == "stream":
            text = DESCRIPTION.sub("", output.text).strip("\n")
            return markup.render_text(self.hide_root(text)) if text.strip() else Markup("")
        if output.output_type == "error":
            return markup.render_text(self.hide_root("\n".join(output.traceback)))
        data = output.get("data", {})
        if "image/png" in data:
            self.n_figures += 1
            fallback = f"Figure {self.n_figures} of {self.stem}. {self.read_prose()}"
            stem, alt = described.pop(0) if described else ("", fallback)
            return self.render_figure(base64.b64decode(data["image/png"]), stem, alt)
        if "<table" in data.get("text/html", ""):
            return markup.render_table(data["text/html"], f"table: {self.read_prose()}")
        text = data.get("text/plain", "")
        if recorded := RECORDED.match(text):
            return self.link_records([recorded[1]] if recorded[1].endswith(".json") else [])
        return markup.render_text(self.hide_root(text)) if text else Markup("")

    def read_prose(self) -> str:
        """Return the last markdown in one line of plain text, to name what follows it."""
        text = Markup(markup.render_markdown(self.prose)).striptags()
        return text if len(text) <= 160 else text[:160].rsplit(" ", 1)[0] + " ..."

    def hide_root(self, text: str) -> str:
        """Return the text without the folder of the checkout: a page names no machine."""
        return text.replace(f"{paths.ROOT}/", "")

    def render_figure(self, png: bytes, stem: str, alt: str) -> Markup:
        """Return a picture as it stood in the notebook, with links to its tracked files."""
        name = f"media/{stem or f'{self.stem}-{self.n_figures}'}.png"
        (self.folder / name).write_bytes(png)
        width, height = struct.unpack(">II", png[16:24])
        caption = self.link_records([f"{stem}.pdf", f"{stem}.png"]) if stem else Markup("")
        return Markup(
            '<figure><div class="scroll" role="group" tabindex="0" aria-label="figure {}"><img src="{}" width="{}" '
            'height="{}" alt="{}" loading="lazy"></div><figcaption>{}</figcaption></figure>'
        ).format(stem or self.n_figures, name, width, height, alt, caption)

    def link_records(self, names: Sequence[str]) -> Markup:
        """Copy tracked files into the site and return links to them; one that is not there is left out."""
        links = []
        for name in names:
            if (self.figures / name).is_file():
                shutil.copyfile(self.figures / name, self.folder / "figures" / name)
                links.append(Markup('<a href="figures/{0}">{0}</a>').format(name))
        if not links:
            return Markup("")
        return Markup('<span class="recorded">recorded as {}</span>').format(Markup(", ").join(links))


def read_notebook(profile: str, stem: str) -> nbformat.NotebookNode:
    """Return an executed notebook; raise PagesError where it is not there or did not finish."""
    file = paths.notebooks(profile) / f"{stem}.ipynb"
    remedy = f"delete figures/{profile}/{stem}.json and run `make all`"
    if not file.is_file():
        raise PagesError(f"{paths.show(file)}: not there; {remedy}")
    notebook: nbformat.NotebookNode = nbformat.read(file, as_version=4)  # type: ignore[no-untyped-call]
    if notebook.metadata.get("papermill", {}).get("exception"):
        raise PagesError(f"{paths.show(file)}: its last run failed; {remedy}")
    return notebook


def read_meanings(profile: str) -> dict[str, dict[str, str]]:
    """Return what the comments of the parameters file say, by section and key."""
    meanings: dict[str, dict[str, str]] = {}
    section = ""
    for line in paths.params_file(profile).read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r"(\w+):\s*(#.*)?", line):
            section = found[1]
        elif found := re.fullmatch(r"  (\w+): .*?\s# (.+)", line):
            meanings.setdefault(section, {})[found[1]] = found[2]
    return meanings


def show_sections(profile: str) -> dict[str, Markup]:
    """Return the table of every section's parameters, as they stood when the pages were made."""
    meanings = read_meanings(profile)
    tables = {}
    for section in SCHEMA:
        values, own = params.read_section(profile, section), meanings.get(section, {})
        tables[section] = markup.render_parameters([(name, repr(v), own.get(name, "")) for name, v in values.items()])
    return tables


def write_pages(profile: str, stems: Sequence[str], folder: Path) -> int:
    """Write the whole site below `folder`, which is empty; return the number of items in the viewer."""
    for name in ("media", "figures"):
        (folder / name).mkdir()
    notebooks = [Renderer(stem, folder, profile).render(read_notebook(profile, stem)) for stem in stems]
    n_items = viewer.write_viewer(profile, folder, params.read_section(profile, "pages")["item_quantiles"])
    environment = describe_environment(platform.python_version())
    index = Page("index.html", "Overview", environment=environment)
    index.parameters = list(show_sections(profile).items())
    trace = Page("viewer.html", "Trace viewer", environment=environment)
    trace.note = f"{n_items} responses, step by step: picture, attention map, masses and entropy per token"
    trace.body = dict(index.parameters)["pages"]
    pages = [index, *notebooks, trace]
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(SITE), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    for k, page in enumerate(pages):
        template = templates.get_template(page.file if page.file in ("index.html", "viewer.html") else "notebook.html")
        before, after = (pages[k - 1] if k else None), (pages[k + 1] if k + 1 < len(pages) else None)
        text = template.render(page=page, pages=pages, before=before, after=after, profile=profile)
        (folder / page.file).write_text(text, encoding="utf-8")
    for name in ASSETS:
        shutil.copyfile(SITE / name, folder / name)
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


def main(arguments: list[str] | None = None) -> int:
    """Build the site: `python -m dontblink.pages --profile testbed 00_testbed 02_collapse`."""
    parser = argparse.ArgumentParser(prog="python -m dontblink.pages", description=main.__doc__)
    parser.add_argument("stems", nargs="+", help="executed notebooks, in the order of the pages")
    parser.add_argument("--profile", default="testbed")
    given = parser.parse_args(arguments)
    try:
        build_site(given.profile, given.stems)
    except (PagesError, params.ParamsError, paths.PathsError, store.StoreError, schema.TableError) as error:
        print(f"pages: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
