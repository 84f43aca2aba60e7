"""What every figure depends on, read from the sources themselves.

Why it exists: a list of dependencies that somebody keeps by hand goes stale in silence. In: the checkout and the values
of its parameters. Out: the stages from sources to the paper, each with the files and the sections of parameters that it
reads and the files that it makes. Modules are found by following the import statements of a notebook, sections by its
calls of `read_section` and by its name. Never: import what is looked at, or hash anything (`verify` does).

Weights outside the repository (other profiles than the testbed's) are not listed: the extraction manifest under
results/, which names the tables made with them, stands for them.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from dontblink import paths
from dontblink.errors import NamedError
from dontblink.files import belongs

EXTRACTION, PAPER = "extraction", "paper"  # the stages that are no notebook
PACKAGES = ("dontblink", "dontblink_testbed", "dontblink_simulation")
SHIPPED = "models/testbed"  # the only weights that are part of the repository
LEDGER = "paper/claims.yaml"
Sections = Mapping[str, Mapping[str, Any]]


class LineageError(NamedError, RuntimeError):
    """A figure without its notebook or a notebook without its figure; the message names the file and the remedy."""


@dataclass(frozen=True)
class Stage:
    """One step: what it reads besides the results of the stages before it, and what it makes.

    Paths are relative to the root, with `/`. `after` names stages, `parameters` sections of the parameters file.
    """

    after: list[str]
    files: list[str]
    parameters: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)


def relative(path: Path) -> str:
    """Return a path as stages name it."""
    return path.relative_to(paths.ROOT).as_posix()


def list_sources(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that a checkout brings: not those of editors, notebooks and desktops beside them."""
    found = sorted(file for file in folder.glob(pattern) if file.is_file() and not file.name.endswith("~"))
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def find_module(dotted: str) -> Path | None:
    """Return the file of a module or package of ours, None where the name is something else."""
    base = paths.ROOT.joinpath("lib", *dotted.split("."))
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)


@cache
def read_names(source: str) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Return the names of our modules that a source imports, of data beside it (`with_name`), and of its sections."""
    modules, data, sections = set[str](), set[str](), set[str]()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            texts = [a.value if isinstance(a, ast.Constant) and isinstance(a.value, str) else "" for a in node.args]
            sections |= set(texts[1:2]) - {""} if called == "read_section" else set()
            data |= set(texts) - {""} if called == "with_name" else set()
    ours = {dotted for dotted in modules if dotted.split(".")[0] in PACKAGES}
    # a package's __init__ runs before any module in it
    ours |= {dotted.rsplit(".", depth)[0] for dotted in ours for depth in range(1, dotted.count(".") + 1)}
    return frozenset(ours), frozenset(data), frozenset(sections)


def trace(sources: Iterable[Path]) -> tuple[set[str], set[str]]:
    """Return sources with all files of our package behind them, directly or not, and the sections that they read."""
    found, sections, todo = set[Path](), set[str](), set(sources)
    while todo:
        found |= todo
        reached: set[Path] = set()
        for file in (file for file in todo if file.suffix == ".py"):
            modules, data, read = read_names(file.read_text(encoding="utf-8"))
            sections |= read
            reached |= {module for dotted in modules if (module := find_module(dotted))}
            beside = [file.with_name(text) for text in data]
            reached |= {f for path in beside for f in ([path] if path.is_file() else list_sources(path, "**/*"))}
        todo = reached - found
    return {relative(file) for file in found}, sections


def list_made(profile: str, stems: Iterable[str]) -> dict[str, list[str]]:
    """Return the figures and numbers of every notebook.

    Raises
    ------
    LineageError
        If a notebook's figure or numbers are not there, or a figure belongs to no notebook.
    """
    made: dict[str, list[str]] = {stem: [] for stem in stems}
    for file in list_sources(paths.figures(profile), "[0-9][0-9]_*.*"):
        owner = max((stem for stem in made if belongs(file, stem)), key=len, default=None)
        if owner is None:
            raise LineageError(f"{relative(file)}: no notebook of this name makes it; remove it")
        made[owner].append(relative(file))
    for stem, files in made.items():
        for suffix in ("json", "pdf", "png"):
            file = paths.figures(profile) / f"{stem}.{suffix}"
            if relative(file) not in files:
                raise LineageError(f"{relative(file)}: not there; restore it, or run `make all PROFILE={profile}`")
    return made


def list_stages(profile: str, sections: Sections) -> dict[str, Stage]:
    """Return the stages in order: extraction, every notebook, and the paper where it is tracked.

    Raises
    ------
    LineageError
        If figures and notebooks do not fit together.
    """
    package, settings = paths.ROOT / "lib" / "dontblink", sections["extraction"]
    shipped = settings["checkpoints_folder"] == SHIPPED
    base, read = trace([package / "extraction" / "run.py", find_module(sections["questions"]["generator"])])
    models = (f for f in list_sources(paths.ROOT / SHIPPED, "**/*") if f.suffix in (".json", ".safetensors", ".jinja"))
    boxes = paths.ROOT / sections["questions"]["evidence_folder"]
    annotations = (file for name in settings["benchmarks"] if (file := boxes / f"{name}.jsonl").is_file())
    inputs = [*annotations, *(models if shipped else [paths.extraction_manifest(profile)])]
    base |= {"requirements.lock", *(relative(file) for file in inputs)}
    stages = {EXTRACTION: Stage([], sorted(base), sorted(read))}
    notebooks = {file.stem: file for file in sorted((paths.ROOT / "notebooks").glob("[0-9][0-9]_*.py"))}
    for stem, made in list_made(profile, notebooks).items():
        own, read = trace([notebooks[stem], package / "publish" / "notebook.py"])
        after = [EXTRACTION]
        if relative(package / "publish" / "numbers.py") in own:  # it reads what the notebooks before it recorded
            after, own = [earlier for earlier in stages if earlier != EXTRACTION], own | {LEDGER}
        stages[stem] = Stage(after, sorted(own - base), sorted({stem.partition("_")[2]} | read), made)
    if shipped:
        own, read = trace([paths.ROOT / "paper" / "build.py"])
        own |= {relative(f) for f in list_sources(paths.ROOT / "paper", "*.*") if f.suffix != ".pdf"}
        stages[PAPER] = Stage(list(notebooks), sorted(own - base), sorted(read), ["paper/paper.pdf"])
    return stages
