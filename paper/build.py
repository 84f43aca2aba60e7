"""Build the paper: paper.md and the recorded numbers to paper.pdf (pandoc and typst, no TeX) or to LaTeX.

Why it exists: text, numbers, figures and references become one document, byte for byte the same on any day and in any
folder. In: paper.md, refs.bib, allowed.yaml, template.typ beside this file; figures/<profile>. Out: paper/paper.pdf
(of another profile: results/<profile>/paper/paper.pdf), with `--tex` results/<profile>/paper/paper.tex and its
figures. Never: a number of its own, a system font, a date.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import typst

from dontblink import files, paths
from dontblink.errors import NamedError
from dontblink.params import read_yaml
from dontblink.publish import claims, manuscript
from dontblink.publish.numbers import Numbers

FOLDER = Path(__file__).resolve().parent
READER = "markdown-auto_identifiers"
REFERENCE = {"fig": "Figure", "tbl": "Table", "sec": "Section"}


def read_text(profile: str, folder: Path = FOLDER) -> tuple[str, str]:
    """Return the filled markdown and a short hash of the numbers behind it; every check of the text is made here."""
    source = (folder / "paper.md").read_text(encoding="utf-8")
    allowed = read_yaml(folder / "allowed.yaml")
    manuscript.check_digits(source, allowed["digits"])
    numbers = Numbers(profile)
    names = claims.read_ledger(folder / "claims.yaml")["names"]
    text = manuscript.fill(source, numbers, names)
    there = sorted(file.stem for file in paths.figures(profile).glob("[0-9][0-9]_*.pdf"))
    left_out = allowed["figures_left_out"] if profile == "testbed" else {"*": "a study may lack them"}
    manuscript.check_figures(text, there, left_out)
    return text, numbers.hash_files()


def find_gap(profile: str) -> str:
    """Return what says that a notebook judged no evidence, of which every section speaks; no text is written then."""
    numbers = Numbers(profile)
    stems = [s for s in numbers.stems() if not dict(numbers.read(s)).get("judges_evidence", True)]
    figures = paths.show(paths.figures(profile))
    return f"no text: {', '.join(stems)} judged no evidence boxes; figures and ledger are in {figures}" if stems else ""


def walk(node: Any, change: Any) -> Any:
    """Return a pandoc JSON tree with `change` applied to every element, from the leaves up."""
    if isinstance(node, list):
        return [walk(entry, change) for entry in node]
    if isinstance(node, dict):
        return change({key: walk(value, change) for key, value in node.items()})
    return node


def make_filter(to: str, figures: str) -> Any:
    """Return the filter: `@fig:x` and `@tbl:x` become references, figure stems files, table widths the engine's own."""

    def change(element: Any) -> dict[str, Any]:
        kind, content = element.get("t"), element.get("c", [])
        if kind == "Cite":
            label = content[0][0]["citationId"]
            word = REFERENCE.get(label.split(":")[0])
            if word:
                raw = f"@{label}" if to == "typst" else f"{word}~\\ref{{{label}}}"
                return {"t": "RawInline", "c": [to, raw]}
        if kind == "Image":
            attributes, caption, (stem, title) = content
            return {"t": "Image", "c": [attributes, caption, [f"{figures}/{stem}.pdf", title]]}
        if kind == "Table" and to == "typst" and "wrapped" not in content[0][1]:
            # typst finds the widths itself; LaTeX takes them from the dashes beneath a table's head
            content[2] = [[alignment, {"t": "ColWidthDefault"}] for alignment, _ in content[2]]
        return element

    return change


def convert(text: str, to: str, figures: str, metadata: dict[str, str]) -> str:
    """Return the document in `typst` or `latex`, references resolved and the bibliography appended."""
    tree = json.loads(manuscript.convert(text, READER, "json"))
    tree["blocks"] = walk(tree["blocks"], make_filter(to, figures))
    tree["meta"] = walk(tree["meta"], make_filter(to, figures))
    arguments = [
        "--standalone",
        "--columns=10000",
        "--citeproc",
        f"--bibliography={FOLDER / 'refs.bib'}",
        "--metadata=link-citations:false",
    ]
    arguments += [f"--variable={key}:{value}" for key, value in metadata.items()]
    if to == "typst":
        arguments.append(f"--template={FOLDER / 'template.typ'}")
    return manuscript.convert(json.dumps(tree), "json", to, arguments)


def compile_pdf(document: str) -> bytes:
    """Return the PDF: no date, no system font, the same bytes anywhere."""
    compiler = typst.Compiler(root=paths.ROOT, ignore_system_fonts=True)
    pdf = compiler.compile(input=document.encode(), format="pdf", timestamp=0)
    assert isinstance(pdf, bytes)
    return pdf


def build_pdf(profile: str) -> bytes:
    """Return the paper of a profile as PDF."""
    text, numbers = read_text(profile)
    figures = "/" + str(paths.figures(profile).relative_to(paths.ROOT))
    return compile_pdf(convert(text, "typst", figures, {"numbers": numbers}))


def write_tex(profile: str) -> Path:
    """Write LaTeX and the figures that it shows into results/<profile>/paper; return the .tex file."""
    folder = paths.results(profile) / "paper"
    folder.mkdir(parents=True, exist_ok=True)
    text, numbers = read_text(profile)
    options = {"documentclass": "article", "fontsize": "10pt", "geometry": "a4paper,margin=0.635in"}
    small = r"\usepackage{etoolbox}\AtBeginEnvironment{longtable}{\footnotesize\setlength{\tabcolsep}{3pt}}"
    options["header-includes"] = small
    options["pdf-trailer-id"] = f"<{numbers}> <{numbers}>"  # pandoc's own depends on the day
    document = convert(text, "latex", ".", options).replace("\N{MINUS SIGN}", "\\ensuremath{-}")
    for stem in manuscript.FIGURE.findall(text):
        shutil.copy(paths.figures(profile) / f"{stem}.pdf", folder)
    file = folder / "paper.tex"
    with files.whole_file(file) as temporary:
        temporary.write_text(document, encoding="utf-8")
    return file


def check_tex(file: Path) -> int:
    """Compile the LaTeX where latexmk exists; return its exit status, 0 where it does not."""
    if not (latexmk := shutil.which("latexmk")):
        print("tex-check: no latexmk here, nothing compiled; install TeX to check the LaTeX")
        return 0
    command = [latexmk, "-xelatex", "-interaction=nonstopmode", "-halt-on-error", file.name]
    return subprocess.run(command, cwd=file.parent, check=False).returncode


def main(arguments: list[str] | None = None) -> int:
    """Build paper.pdf, or with --tex the LaTeX, with --check compile that, too."""
    parser = argparse.ArgumentParser(prog="python paper/build.py", description=main.__doc__)
    parser.add_argument("--profile", default="testbed")
    parser.add_argument("--tex", action="store_true")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args(arguments)
    try:
        if gap := find_gap(given.profile):
            print(f"paper of profile {given.profile}: {gap}")
            return 0
        if given.tex or given.check:
            file = write_tex(given.profile)
            print(f"{paths.show(file)}: written")
            return check_tex(file) if given.check else 0
        pdf = build_pdf(given.profile)
    except NamedError as error:
        print(f"paper/paper.md: {error}", file=sys.stderr)
        return 1
    own = given.profile == "testbed"
    file = FOLDER / "paper.pdf" if own else paths.results(given.profile) / "paper" / "paper.pdf"
    files.write_bytes(file, pdf)
    print(f"{paths.show(file)}: {len(pdf) / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
