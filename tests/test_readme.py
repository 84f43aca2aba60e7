"""A stranger finds every module, figure and target that the README names, and nothing is left out of its table."""

from __future__ import annotations

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
