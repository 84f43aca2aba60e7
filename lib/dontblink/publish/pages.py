"""Notebook cells to HTML that is safe to open: text, maths, code, tables, figures.

Why it exists: a page must work from a file without a network, on a phone and with a screen reader, and nothing that
came out of data may run in it. In: the source and the outputs of single cells. Out: `Markup` fragments. Every text
is escaped; of an HTML output only the cells of its tables are kept, as text; maths becomes outlines through
matplotlib, with its TeX as the spoken text. Never: pass foreign HTML through, or name a file here.

The site: executed notebooks and the trace viewer as pages that open from a file, `make pages`.

Why it exists: a reader without Python should see every figure, table, parameter and line of code, and single
responses. In: the executed notebooks, figures and traces of a profile. Out: results/<profile>/pages, a folder that
appears whole: plain HTML, one style, two small scripts, no network. Never: execute a notebook, compute a result, or
let a text from data into a page unescaped (templates escape; `markup` renders the rest).
"""

from __future__ import annotations

import argparse
import ast
import base64
import platform
import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import mistune
import nbformat
from markupsafe import Markup, escape
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath, text_to_path
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from dontblink import params, paths
from dontblink.errors import NamedError
from dontblink.publish import viewer

MATH_SIZE = 18.0  # px of an em in the drawn formulas, the pages' text is as large
LETTERS = {
    Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C", Outline.CLOSEPOLY: "Z",
}  # fmt: skip
NUMBER = re.compile(r"[-+−]?[\d.,]+(e[-+]?\d+)?%?|-?inf|nan", flags=re.IGNORECASE)


def slugify(text: str) -> str:
    """Return an id for a heading: small letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"


def render_math(tex: str, display: bool = False) -> Markup:
    """Return a formula as outlines; one that matplotlib cannot draw is shown as its TeX."""
    plain = tex.strip().replace(r"\tfrac", r"\frac")
    if display:
        plain = plain.replace(r"\frac", r"\dfrac")
    font = FontProperties(family="DejaVu Sans", math_fontfamily="dejavusans")
    kind = "math display" if display else "math"
    try:
        width, height, depth = text_to_path.get_text_width_height_descent(f"${plain}$", font, ismath=True)
        outline = TextPath((0, 0), f"${plain}$", size=MATH_SIZE, prop=font)
    except (ValueError, AttributeError, RecursionError):  # the second: of a formula without a single line, as `~`
        return Markup('<span class="{}"><code>{}</code></span>').format(kind, tex.strip())
    scale = MATH_SIZE / font.get_size_in_points()
    width, height, depth = width * scale + 2, height * scale + 2, depth * scale + 1
    strokes = " ".join(
        LETTERS[code] + ("" if code == Outline.CLOSEPOLY else " ".join(f"{value:.1f}" for value in points))
        for points, code in outline.iter_segments(curves=True, simplify=False)
    )
    # y points up in an outline and down in a picture
    return Markup(
        '<span class="{0}" role="img" aria-label="{1}"{2}><svg aria-hidden="true" width="{3:.1f}" height="{4:.1f}" '
        'viewBox="-1 {5:.1f} {3:.1f} {4:.1f}" style="vertical-align:{6:.1f}px"><path transform="scale(1,-1)" d="{7}"/>'
        "</svg></span>"
    ).format(
        kind,
        f"formula: {tex.strip()}",
        Markup(' tabindex="0"' if display else ""),
        width,
        height,
        depth - height,
        -depth,
        strokes,
    )


class _Renderer(mistune.HTMLRenderer):
    """Mistune's HTML with ids on headings, drawn maths and tables that scroll on their own."""

    def heading(self, text: str, level: int, **attributes: Any) -> str:
        name = slugify(Markup(text).striptags())
        return f'<h{level} id="{name}">{text}</h{level}>\n'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        return text  # escaped by now; a picture of a page comes from an output, never from an address

    def display_math(self, text: str) -> str:
        return str(render_math(text, display=True))

    def inline_math(self, text: str) -> str:
        return str(render_math(text))

    def table(self, text: str) -> str:
        scroll = '<div class="scroll" role="group" tabindex="0" aria-label="table">'
        return f'{scroll}<table class="text">\n{text}</table></div>\n'


def _read_math(markdown: Any) -> None:
    """Teach mistune `$$...$$` and `$...$` within a paragraph."""

    def parse(inline: Any, match: re.Match[str], state: Any) -> int:
        kind = "display_math" if match["display_tex"] else "inline_math"
        state.append_token({"type": kind, "raw": match["display_tex"] or match["tex"]})
        return match.end()

    pattern = r"\$\$(?P<display_tex>[^$]+)\$\$|\$(?![\s$])(?P<tex>[^$\n]+?)(?<!\s)\$(?!\d)"
    markdown.inline.register("formula", pattern, parse, before="link")


_markdown = mistune.create_markdown(escape=True, renderer=_Renderer(escape=True), plugins=["table"])
_read_math(_markdown)


def render_markdown(text: str) -> Markup:
    """Return a markdown cell as HTML; HTML inside it is shown as text."""
    found = str(_markdown(text))
    # the notebooks open with a table of inputs, outputs and cost that has no head: its first column names the rows
    found = re.sub(r"<thead>\s*<tr>\s*(<th[^>]*></th>\s*)+</tr>\s*</thead>\s*", "", found)
    return Markup(found)


def render_code(source: str) -> Markup:
    """Return Python code as highlighted lines."""
    return Markup('<pre class="code" tabindex="0"><code>{}</code></pre>').format(
        Markup(highlight(source, PythonLexer(), HtmlFormatter(nowrap=True)))
    )


@dataclass
class _Cell:
    head: bool
    text: str = ""
    columns: int = 1
    rows: int = 1


class _Table(HTMLParser):
    """The cells of a table, as text; every other tag is dropped, with what style and script hold."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: list[list[_Cell]] = []
        self.body: list[list[_Cell]] = []
        self.target = self.body
        self.cell: _Cell | None = None
        self.silent = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("thead", "tbody"):
            self.target = self.heads if tag == "thead" else self.body
        elif tag == "tr":
            self.target.append([])
        elif tag in ("td", "th") and self.target:
            spans = {name: int(value) for name, value in attrs if value and re.fullmatch(r"[1-9]\d{0,2}", value)}
            self.cell = _Cell(tag == "th", "", spans.get("colspan", 1), spans.get("rowspan", 1))
            self.target[-1].append(self.cell)
        elif tag in ("style", "script"):
            self.silent += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.cell = None
        elif tag in ("style", "script"):
            self.silent -= 1

    def handle_data(self, data: str) -> None:
        if self.cell is not None and not self.silent:
            self.cell.text += data


def render_table(html: str, label: str) -> Markup:
    """Return the table of a DataFrame's HTML, rebuilt from its texts.

    Row numbers without a name (a default index) are left out. Numbers stand right, heads have a scope.
    """
    table = _Table()
    table.feed(html)
    first = [row[0] for row in table.body if row]
    is_numbered = all(cell.head and re.fullmatch(r"\d+", cell.text.strip()) for cell in first)
    if is_numbered and all(row and not row[0].text.strip() and row[0].columns == 1 for row in table.heads):
        table.heads = [row[1:] for row in table.heads]
        table.body = [row[1:] for row in table.body]
    if not table.body and table.heads:
        table.body = [[_Cell(False, "no rows", sum(cell.columns for cell in table.heads[-1]))]]
    # counted from the right: a row beneath a cell that spans several has fewer cells on its left
    numeric = {-k for row in table.body for k, c in enumerate(reversed(row), 1) if NUMBER.fullmatch(c.text.strip())}
    parts = [Markup('<div class="scroll" role="group" tabindex="0" aria-label="{}"><table>').format(label)]
    for name, rows in (("thead", table.heads), ("tbody", table.body)):
        parts.append(Markup(f"<{name}>"))
        for row in rows:
            cells, place = [], 0
            for cell in reversed(row):
                place -= cell.columns
                cells.append(_render_cell(cell, name == "thead", place in numeric and cell.columns == 1))
            parts.append(Markup("<tr>{}</tr>").format(Markup("").join(reversed(cells))))
        parts.append(Markup(f"</{name}>"))
    return Markup("").join([*parts, Markup("</table></div>")])


def _render_cell(cell: _Cell, in_head: bool, is_number: bool) -> Markup:
    text = escape(cell.text.strip())
    spans = "".join(f' {n}="{v}"' for n, v in (("colspan", cell.columns), ("rowspan", cell.rows)) if v > 1)
    kind = ' class="number"' if is_number else ""
    if not cell.head or not text:
        return Markup("<td{}{}>{}</td>").format(Markup(spans), Markup(kind), text)
    scope = ("col" if in_head else "row") + ("group" if (cell.columns if in_head else cell.rows) > 1 else "")
    return Markup('<th scope="{}"{}{}>{}</th>').format(
        scope, Markup(spans), Markup(kind), break_name(text) if in_head else text
    )


def break_name(text: str) -> Markup:
    """Return a name that may break into lines after its underscores."""
    return Markup(str(escape(text)).replace("_", "_<wbr>"))


def read_parameters(declared: str, injected: str) -> list[tuple[str, str, str]]:
    """Return (name, value, meaning) of each parameter: values as given, comments as the notebook declares them."""
    meanings = dict(re.findall(r"^(\w+)(?:: \w+)? = .*?  # (.+)$", declared, flags=re.M))
    return [
        (node.targets[0].id, ast.unparse(node.value), meanings.get(node.targets[0].id, ""))
        for node in ast.parse(injected).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    ]


def render_parameters(rows: list[tuple[str, str, str]]) -> Markup:
    """Return the table of parameters: name, value and meaning."""
    cells = Markup('<tr><th scope="row"><code>{}</code></th><td><code>{}</code></td><td>{}</td></tr>\n')
    return Markup(
        '<div class="scroll" role="group" tabindex="0" aria-label="parameters"><table class="text"><thead><tr>'
        '<th scope="col">parameter</th><th scope="col">value</th><th scope="col">meaning</th></tr></thead>'
        "<tbody>\n{}</tbody></table></div>"
    ).format(Markup("").join(cells.format(break_name(row[0]), break_name(row[1]), row[2]) for row in rows))


def render_text(text: str) -> Markup:
    """Return printed text, wrapped; terminal colours are dropped."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).rstrip("\n")
    return Markup('<pre class="printed">{}</pre>').format(escape(plain))


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
            return render_markdown(cell.source)
        if "parameters" in tags:
            self.declared = cell.source
        if cell.cell_type != "code" or "remove-cell" in tags or not cell.source.strip():
            return Markup("")
        parts = [Markup('<details class="code"><summary>code</summary>{}</details>')]
        parts = [parts[0].format(render_code(cell.source))]
        if "injected-parameters" in tags:
            parts.insert(0, render_parameters(read_parameters(self.declared, cell.source)))
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
            return render_text(self.hide_root(text)) if text.strip() else Markup("")
        if output.output_type == "error":
            return render_text(self.hide_root("\n".join(output.traceback)))
        data = output.get("data", {})
        if "image/png" in data:
            self.n_figures += 1
            fallback = f"Figure {self.n_figures} of {self.stem}. {self.read_prose()}"
            stem, alt = described.pop(0) if described else ("", fallback)
            return self.render_figure(base64.b64decode(data["image/png"]), stem, alt)
        if "<table" in data.get("text/html", ""):
            return render_table(data["text/html"], f"table: {self.read_prose()}")
        text = data.get("text/plain", "")
        if recorded := RECORDED.match(text):
            return self.link_records([recorded[1]] if recorded[1].endswith(".json") else [])
        return render_text(self.hide_root(text)) if text else Markup("")

    def read_prose(self) -> str:
        """Return the last markdown in one line of plain text, to name what follows it."""
        text = Markup(render_markdown(self.prose)).striptags()
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


def show_sections(profile: str) -> dict[str, Markup]:
    """Return the table of every section's parameters, as they stood when the pages were made."""
    tables = {}
    for section in params.SECTIONS:
        values, meanings = params.read_section(profile, section), params.describe(section)
        tables[section] = render_parameters([(name, repr(v), meanings.get(name, "")) for name, v in values.items()])
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
    """Build the site: `python -m dontblink.publish.pages --profile testbed 00_testbed 02_collapse`."""
    parser = argparse.ArgumentParser(prog="python -m dontblink.publish.pages", description=main.__doc__)
    parser.add_argument("stems", nargs="+", help="executed notebooks, in the order of the pages")
    parser.add_argument("--profile", default="testbed")
    given = parser.parse_args(arguments)
    try:
        build_site(given.profile, given.stems)
    except NamedError as error:
        print(f"pages: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
