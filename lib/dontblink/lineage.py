"""What every result depends on, read from the sources: the one register behind make, shards, simulation and verify.

Why it exists: a list of dependencies that somebody keeps by hand goes stale in silence. In: the checkout and the values
of its parameters. Out: the stages from sources to the paper, each with the files and the sections of parameters that it
reads; a key of the code behind any module; and, as a command, what make looks at: results/<profile>/params and one
fingerprint a stage under results/<profile>/stages, rewritten only if it changed. Never: import what is looked at,
follow a modification time, or keep a list of modules by hand.

What counts as reached from a source: the modules that it imports, at its top or late in a function; data beside it that
it opens `with_name`; files of data/, models/testbed and paper/ that it or one of its parameters names; the sections
that it reads (`read_section`); and, where it calls `import_module`, the modules that a parameter names. Of a module
the code counts, not its comments and docstrings; of everything else, notebooks among them, every byte.

Weights outside the repository are not listed: the extraction manifest, which names the tables made with them, stands
for them.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import io
import json
import os
import sys
import time
import tokenize
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dontblink import paths
from dontblink.errors import NamedError, as_command
from dontblink.files import belongs, hash_file, write_text

EXTRACTION, PAPER, PAGES, LEDGER = "extraction", "paper", "pages", "08_claims"
PACKAGES = ("dontblink", "dontblink_testbed", "dontblink_simulation")
# what a source may read besides modules; of them not:
DATA = (
    "data/", "models/testbed/", "paper/", "figures/simulation/", "figures/evidence/", "figures/causal/",
    "figures/needs_causal/", "figures/seeds/08_claims.json",
)  # fmt: skip
NO_DATA = (".md", ".pdf")
Sections = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Stage:
    """One step: what it reads besides the results of the stages before it, and what it makes.

    Paths are relative to the root, with `/`. `after` names stages, `parameters` sections of the parameters file.
    """

    after: list[str]
    files: list[str]
    parameters: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """What one source names (modules, data beside it, paths of the checkout, sections), and the hash of its code."""

    modules: list[str]
    beside: list[str]
    places: list[str]
    sections: list[str]
    loads_by_name: bool
    code: str


KNOWN: dict[str, Source] = {}  # by the hash of a source's text: what was read once is not parsed again


def relative(path: Path) -> str:
    """Return a path as stages name it."""
    return path.relative_to(paths.ROOT).as_posix()


def list_sources(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that a checkout brings: not those of editors, notebooks and desktops beside them."""
    found = sorted(file for file in folder.glob(pattern) if file.is_file() and not file.name.endswith("~"))
    return [file for file in found if not any(part[0] in "._" for part in file.relative_to(folder).parts[:-1])
            and not file.name.startswith(".")]  # fmt: skip


def find_module(dotted: str, script: Path | None = None) -> Path | None:
    """Return the file of a module or package of ours (or of one beside a script), None where it is something else."""
    folder = paths.ROOT / "lib" if dotted.split(".")[0] in PACKAGES else script.parent if script else None
    if folder is None:
        return None
    base = folder.joinpath(*dotted.split("."))
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)


def find_data(place: str) -> list[Path]:
    """Return the files of the checkout that a text names: itself, or those below it."""
    target = paths.ROOT / place
    if not f"{place}/".startswith(DATA) and not (target.suffix == ".py" and target.is_file()):
        return []
    found = [target] if target.is_file() else list_sources(target, "**/*")
    return [file for file in found if file.suffix not in NO_DATA]


def read_source(text: str) -> Source:
    """Return what a Python source names, and the hash of its code."""
    key = hashlib.sha256(text.encode()).hexdigest()
    if key not in KNOWN:
        KNOWN[key] = parse_source(text)
    return KNOWN[key]


def parse_source(text: str) -> Source:
    """Return the same by parsing."""
    modules, beside, sections, loads_by_name = set[str](), set[str](), set[str](), False
    places: dict[ast.expr, str] = {}  # without those that are the beginning of a longer one
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            texts = [a.value if isinstance(a, ast.Constant) and isinstance(a.value, str) else "" for a in node.args]
            sections |= set(texts[1:2]) - {""} if called == "read_section" else set()
            beside |= set(texts) - {""} if called == "with_name" else set()
            loads_by_name |= called == "import_module"
        elif isinstance(node, ast.BinOp) and (parts := read_path(node)):
            places[node] = "/".join(parts)
    # a package's __init__ runs before any module in it
    modules |= {dotted.rsplit(".", depth)[0] for dotted in modules for depth in range(1, dotted.count(".") + 1)}
    beginnings = {getattr(node, "left", None) for node in places}
    longest = {place for node, place in places.items() if node not in beginnings}
    code = hashlib.sha256(strip_prose(text).encode()).hexdigest()
    return Source(sorted(modules), sorted(beside), sorted(longest), sorted(sections), loads_by_name, code)


def read_path(node: ast.expr) -> list[str]:
    """Return the parts of `ROOT / "a" / "b"` as it stands in a source, [] of anything else."""
    parts: list[str] = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        if not isinstance(node.right, ast.Constant) or not isinstance(node.right.value, str):
            return []
        parts.insert(0, node.right.value)
        node = node.left
    is_root = getattr(node, "attr", getattr(node, "id", "")) == "ROOT"
    return parts if is_root else []


def trace(sources: Iterable[Path], settings: Sections | None = None) -> tuple[set[str], set[str]]:
    """Return sources with all files of the checkout behind them, directly or not, and the sections that they read."""
    settings = settings or {}
    found, sections, todo = set[Path](), set[str](), set(sources)
    while todo:
        found |= todo
        reached: set[Path] = set()
        for file in (file for file in todo if file.suffix == ".py"):
            try:
                names = read_source(file.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError) as error:
                raise NamedError(f"{relative(file)}: not Python ({error}); correct it") from error
            sections |= set(names.sections)
            script = None if paths.ROOT / "lib" in file.parents else file
            reached |= {module for dotted in names.modules if (module := find_module(dotted, script))}
            for path in (file.with_name(text) for text in names.beside):
                reached |= {path} if path.is_file() else set(list_sources(path, "**/*"))
            for place in names.places:
                reached |= set(find_data(place))
            if names.loads_by_name:
                reached |= {m for value in list_texts(settings) if (m := find_module(value))}
        for value in list_texts({name: settings[name] for name in sections & settings.keys()}):
            reached |= set(find_data(value))
        todo = reached - found
    return {relative(file) for file in found}, sections


def list_texts(settings: Sections) -> set[str]:
    """Return the parameters that are texts."""
    return {value for values in settings.values() for value in values.values() if isinstance(value, str)}


def hash_source(file: Path) -> str:
    """Return the SHA-256 (64 hex digits) of a file; of a module of lib/ without its comments and docstrings."""
    if file.suffix != ".py" or paths.ROOT / "lib" not in file.parents:
        return hash_file(file)
    return read_source(file.read_text(encoding="utf-8")).code


def strip_prose(source: str) -> str:
    """Return Python code without comments, docstrings, blank lines and white space at the ends of lines."""
    lines, inside, prose = source.splitlines(), set[int](), set[int]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno is not None:
            inside |= set(range(node.lineno, node.end_lineno))  # a text of several lines is left as it is
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body:
            first = body[0]
            if isinstance(first, ast.Expr) and isinstance(getattr(first.value, "value", None), str):
                prose |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    code = [(line if n in inside else line.rstrip(), n in inside) for n, line in enumerate(lines, 1) if n not in prose]
    return "\n".join(line for line, is_text in code if line or is_text)


def hash_code(*entries: str) -> str:
    """Return a key (16 hex digits) of the code that modules or scripts run: theirs, and all of ours behind it.

    Shards, blocks of simulated studies and measured costs carry it, so that none outlives the code that made it.
    NamedError if one is not there.
    """
    files = {entry: paths.ROOT / entry if entry.endswith(".py") else find_module(entry) for entry in entries}
    if unknown := [entry for entry, file in files.items() if file is None or not file.is_file()]:
        raise NamedError(f"{unknown[0]}: no module of lib/; correct the name where the key is made")
    reached, _ = trace(file for file in files.values() if file)
    return hash_entries({name: hash_source(paths.ROOT / name) for name in reached})


def hash_entries(entries: Mapping[str, str]) -> str:
    """Return a key (16 hex digits) of named hashes, whatever their order."""
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()[:16]


def list_made(profile: str, stems: Iterable[str]) -> dict[str, list[str]]:
    """Return the figures, tables and numbers of every notebook that are there.

    NamedError if a figure belongs to no notebook.
    """
    made: dict[str, list[str]] = {stem: [] for stem in stems}
    for file in list_sources(paths.figures(profile), "[0-9][0-9]_*.*"):
        owner = max((stem for stem in made if belongs(file, stem)), key=len, default=None)
        if owner is None:
            raise NamedError(f"{relative(file)}: no notebook of this name makes it; remove it")
        made[owner].append(relative(file))
    return made


def list_notebooks() -> dict[str, Path]:
    """Return the notebooks by stem, in order."""
    return {file.stem: file for file in list_sources(paths.ROOT.joinpath("notebooks"), "[0-9][0-9]_*.py")}


def list_stages(profile: str, sections: Sections) -> dict[str, Stage]:
    """Return the stages in order: extraction, every notebook, the paper and the pages.

    NamedError if figures and notebooks do not fit together.
    """
    notebooks, boxes = list_notebooks(), sections.get("questions", {}).get("evidence_folder", "")

    def reach(*entries: Path | None) -> tuple[list[str], list[str]]:
        files, read = trace([entry for entry in entries if entry], sections)
        asked = {f"{boxes}/{name}.jsonl" for name in sections["extraction"]["benchmarks"]}
        files = {file for file in files if not file.startswith(f"{boxes}/") or file in asked}
        return sorted({*files, "requirements.lock"}), sorted(read)

    files, read = reach(find_module("dontblink.extraction.run"))
    if not f"{sections['extraction']['checkpoints_folder']}/".startswith(DATA):
        files.append(relative(paths.extraction_manifest(profile)))
    stages = {EXTRACTION: Stage([], files, read)}
    runner = find_module("dontblink.publish.notebook")
    for stem, made in list_made(profile, notebooks).items():
        files, read = reach(notebooks[stem], runner)
        after = [name for name in stages if name != EXTRACTION] if stem == LEDGER else [EXTRACTION]
        stages[stem] = Stage(after, files, sorted({stem.partition("_")[2], *read} & {*sections}), made)
    build = paths.ROOT.joinpath("paper", "build.py")
    if build.is_file():
        files, read = reach(build, *list_sources(build.parent, "*.*"))
        made = [relative(paths.paper(profile))] if profile == "testbed" and paths.paper(profile).is_file() else []
        stages[PAPER] = Stage(list(notebooks), [f for f in files if not f.endswith(".pdf")], read, made)
    if pages := find_module("dontblink.publish.pages"):
        files, read = reach(pages)
        stages[PAGES] = Stage(list(notebooks), files, read)
    return stages


def hash_stages(stages: Mapping[str, Stage], sections: Sections) -> tuple[dict[str, str], dict[str, str]]:
    """Return the hashes of all files that stages read, as far as they are there, and of the sections' values."""
    files = sorted({file for stage in stages.values() for file in stage.files})
    values = sorted({name for stage in stages.values() for name in stage.parameters})
    return (
        {file: hash_source(paths.ROOT / file) for file in files if (paths.ROOT / file).is_file()},
        {name: hash_entries({key: repr(value) for key, value in sections[name].items()}) for name in values},
    )


def describe_stages(profile: str, sections: Sections) -> dict[str, str]:
    """Return what make compares: for every stage a line for each file and section that it reads, with its hash."""
    stages = list_stages(profile, sections)
    files, values = hash_stages(stages, sections)
    outside = f"results/{profile}/"  # what another stage makes there, make looks at itself
    return {
        name: "".join(
            [f"{files[file]} {file}\n" for file in stage.files if file in files and not file.startswith(outside)]
            + [f"{values[section]} section {section}\n" for section in stage.parameters]
        )
        for name, stage in stages.items()
    }


def write_stages(profile: str, sections: Sections) -> list[str]:
    """Write the fingerprints that changed, remove the stamps of stages whose results are lost; name both."""
    changed = []
    for name, text in describe_stages(profile, sections).items():
        if write_text(paths.stage(profile, name), text):
            changed.append(name)
    for name, files in list_results(profile).items():
        stamp = paths.stamp(profile, name)
        is_whole = all(file.is_file() for file in files) and not paths.unfinished(profile, name).is_file()
        if stamp.is_file() and not is_whole:
            stamp.unlink()
            changed.append(name)
    return changed


def list_results(profile: str) -> dict[str, list[Path]]:
    """Return, for everything that make stamps as done, the files that must still be there."""
    listed = paths.shard_list(profile)
    shards = listed.read_text(encoding="utf-8", errors="replace").splitlines() if listed.is_file() else []
    figures = paths.outputs(profile)
    return {
        EXTRACTION: [paths.extraction_manifest(profile), listed, *(paths.ROOT / name for name in shards)],
        **{stem: [figures / f"{stem}.{suffix}" for suffix in ("json", "pdf", "png")] for stem in list_notebooks()},
        PAPER: [paths.paper(profile)],
        PAGES: [paths.pages(profile) / "index.html"],
    }


def find_moved(profile: str, sections: Sections) -> list[str]:
    """Return the stages whose sources are not those that make looked at when it began."""
    return [
        name
        for name, text in describe_stages(profile, sections).items()
        if not (file := paths.stage(profile, name)).is_file() or file.read_text(encoding="utf-8") != text
    ]


def find_unfinished(profile: str) -> list[str]:
    """Return the notebooks that have not come to their end here, or not with the sources that make looked at."""
    return [
        name
        for name, files in list_results(profile).items()
        if name in list_notebooks()
        and not (
            all(file.is_file() for file in files)
            and (stamp := paths.stamp(profile, name)).is_file()
            and stamp.stat().st_mtime_ns >= paths.stage(profile, name).stat().st_mtime_ns
        )
    ]


def recall(file: Path) -> None:
    """Know again what an earlier look at the sources left in `file`, if this module has not changed since."""
    try:
        held = json.loads(file.read_bytes())
        if held["by"] == hash_file(Path(__file__)):
            KNOWN.update({key: Source(*values) for key, values in held["sources"].items()})
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return


def remember(file: Path) -> None:
    """Leave what is known of the sources in `file`, for the next look."""
    sources = {key: [*vars(source).values()] for key, source in KNOWN.items()}
    held = {"by": hash_file(Path(__file__)), "sources": sources}
    write_text(file, json.dumps(held))


def forget_the_future(profile: str) -> None:
    """Date results that a wrong clock put into the future back: they would hide every later change from make."""
    now = time.time()
    for file in paths.results(profile).rglob("*"):
        if file.is_file() and file.stat().st_mtime > now + 1:
            os.utime(file, None if file.parent.name == "stages" else (0, 0))  # a fingerprint counts as just written


@as_command
def main(arguments: list[str] | None = None) -> int:
    """Write what make looks at: `python -m dontblink.lineage --profile testbed [--set SECTION.KEY=VALUE ...]`."""
    parser = argparse.ArgumentParser(prog="python -m dontblink.lineage", description=main.__doc__)
    parser.add_argument("--profile", default="testbed")
    parser.add_argument("--set", default="", metavar="SECTION.KEY=VALUE ...", help="values in place of the file's")
    given = parser.parse_args(arguments)
    from dontblink import params

    _, sections = params.load(paths.params_file(given.profile))
    params.override(sections, given.set)
    params.write_sections(sections, paths.section_file(given.profile, "any").parent)
    forget_the_future(given.profile)
    memory = paths.results(given.profile) / ".sources.json"
    recall(memory)
    n_known = len(KNOWN)
    write_stages(given.profile, sections)
    if len(KNOWN) > n_known:
        remember(memory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
