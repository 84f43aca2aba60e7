"""Notebook cells to HTML that is safe to open: text, maths, code, tables, figures.

Why it exists: a page must work from a file without a network, on a phone and with a screen reader, and nothing that
came out of data may run in it. In: the source and the outputs of single cells. Out: `Markup` fragments. Every text
is escaped; of an HTML output only the cells of its tables are kept, as text; maths becomes outlines through
matplotlib, with its TeX as the spoken text. Never: pass foreign HTML through, or name a file here.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

import mistune
from markupsafe import Markup, escape
from matplotlib.font_manager import FontProperties
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath, text_to_path
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

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
