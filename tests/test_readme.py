"""A stranger finds every module, figure and target that the README names, and nothing is left out of its table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_module_table_names_every_module_and_no_other() -> None:
    table = README.split("## Where everything is")[1].split("To change a setting")[0]
    named = set(re.findall(r"`([a-z_/]+)`", table)) - {"lib/dontblink"}
    modules = {p.stem for p in (ROOT / "lib" / "dontblink").rglob("*.py") if p.stem != "__init__"}
    assert {name.split("/")[-1] for name in named} == modules | {"testbed"}


def test_every_figure_that_the_readme_names_is_there() -> None:
    shown = re.findall(r"\(([^)]+\.png)\)", README)
    assert shown and all((ROOT / path).is_file() for path in shown)
    table = README.split("## From claim to figure")[1].split("## ")[0]
    for stem in re.findall(r"`(\d\d_[a-z_]+)`(?!\])", table):
        assert (ROOT / "figures" / "testbed" / f"{stem}.png").is_file(), stem
    for path in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / path).exists(), path


def test_the_two_commands_are_targets() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z]+)", README, flags=re.M):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


def read_imports(path: Path) -> set[str]:
    """Return the last name of every module of this package that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "dontblink":
            is_package = (ROOT / "lib" / Path(*node.module.split("."))).is_dir()
            names |= {a.name for a in node.names} if is_package else {node.module.split(".")[-1]}
    return names


def test_a_module_imports_only_from_rows_above_it_or_its_own() -> None:
    table = README.split("## Where everything is")[1].split("To change a setting")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    place = {name.split("/")[-1]: k for k, row in enumerate(rows) for name in re.findall(r"`([a-z_/]+)`", row)}
    for path in (ROOT / "lib" / "dontblink").rglob("*.py"):
        if path.stem in place and path.stem != "calibrate":  # a command, as the README says
            later = {name for name in read_imports(path) if place.get(name, -1) > place[path.stem]}
            assert not later, f"{path.stem} imports {later}, which stand below it"
