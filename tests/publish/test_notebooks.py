"""Notebooks are the methods section: eight titles in order, short cells, the estimator in the open and held to the lib.

00, 01 and 08 hold no study: they leave out the sections in which they have nothing to say.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from pathlib import Path

import jupytext
import pytest

from dontblink import params, paths
from dontblink.publish import notebook

SOURCES = sorted((paths.ROOT / "notebooks").glob("*.py"))
METHODS = ["1 Question", "2 Parameters", "3 Data", "4 The estimator, in the open", "5 Intervals",
           "6 What it is held against", "7 Figure and numbers", "8 Reading", "Appendix: other choices"]  # fmt: skip
SHORT = {"00_testbed", "01_extraction", "08_claims"}
BY_PREFIX = ("symbolic_", "visual_reference_", "hallucination_")  # notebook 00 hands these on by their benchmark's name
EACH = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
METHOD = pytest.mark.parametrize("source", [s for s in SOURCES if s.stem not in SHORT], ids=lambda path: path.stem)


def read(source: Path) -> list:
    return jupytext.reads(source.read_text(), fmt="py:percent").cells


def read_code(source: Path) -> dict[str, list[ast.Module]]:
    """Return the parsed code cells of each section, by its title."""
    sections: dict[str, list[ast.Module]] = {}
    title = ""
    for cell in read(source):
        if cell.cell_type == "markdown":
            title = [title, *re.findall(r"^## (.+)$", cell.source, flags=re.M)][-1]
        else:
            sections.setdefault(title, []).append(ast.parse(cell.source))
    return sections


def list_names(trees: Iterable[ast.AST], kind: type = ast.Load) -> set[str]:
    """Return the names that code reads or, with `ast.Store`, gives a value."""
    nodes = (node for tree in trees for node in ast.walk(tree))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, kind)}


@EACH
def test_a_notebook_has_its_sections_in_order(source: Path) -> None:
    text = "\n".join(cell.source for cell in read(source) if cell.cell_type == "markdown")
    titles = re.findall(r"^## (.+)$", text, flags=re.M)
    if source.stem in SHORT:
        assert titles == [title for title in METHODS if title in titles]
        assert {*METHODS[:4], *METHODS[5:8]} <= {*titles}
    else:
        assert titles in (METHODS, METHODS[:-1])


@EACH
def test_cells_are_short(source: Path) -> None:
    for cell in read(source):
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            assert len(cell.source.splitlines()) <= 15, cell.source


@EACH
def test_only_the_estimator_stands_in_long_functions(source: Path) -> None:
    """A function of the notebook is the method itself or a few lines that save a repetition; others belong in lib."""
    for title, trees in read_code(source).items():
        for node in (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < (15 if title == METHODS[3] else 5), node.name


@METHOD
def test_the_open_estimator_reads_nothing_of_the_lib_and_is_held_to_its_table(source: Path) -> None:
    sections = read_code(source)
    opened, intervals = sections[METHODS[3]], sections[METHODS[4]]
    imports = [n for trees in sections.values() for tree in trees for n in ast.walk(tree)
               if isinstance(n, ast.ImportFrom) and str(n.module).startswith("dontblink")]  # fmt: skip
    ours = {name.asname or name.name for node in imports for name in node.names}
    assert any(isinstance(node, ast.FunctionDef) for tree in opened for node in tree.body)
    assert not list_names(opened) & ours, "open lines use pandas and numpy alone"
    assert list_names(intervals) & ours, "intervals come from the lib"
    cells = [cell for cell in intervals if any(isinstance(node, ast.Assert) for node in ast.walk(cell))]
    both = (list_names(opened, ast.Store), list_names(intervals, ast.Store) - list_names(opened, ast.Store))
    assert any(list_names([cell]) & both[0] and list_names([cell]) & both[1] for cell in cells)


@METHOD
def test_controls_stand_before_any_figure_and_numbers_are_recorded_once(source: Path) -> None:
    text = {title: "\n".join(map(ast.unparse, trees)) for title, trees in read_code(source).items()}
    drawn = [title for title in text if "save_figure" in text[title]]
    assert drawn and set(drawn) <= {METHODS[6], METHODS[8]}
    assert [title for title in text if "save_numbers" in text[title]] == [METHODS[6]]


@EACH
def test_every_parameter_is_read(source: Path) -> None:
    sections = read_code(source)
    given = {name for name in list_names(sections[METHODS[1]], ast.Store) if not name.startswith(BY_PREFIX)}
    assert not given - list_names(tree for trees in sections.values() for tree in trees)


@EACH
def test_the_parameters_cell_is_its_section_of_both_profiles(source: Path) -> None:
    section = source.stem.split("_", 1)[1]
    cell = notebook.find_parameters_cell(notebook.read_source(source), source.name)
    declared = notebook.read_defaults(cell, source.name)
    for profile in ("testbed", "paper"):
        _, sections = params.load(paths.ROOT / "params" / f"{profile}.yaml")
        given = notebook.pick_parameters(declared, sections[section], source.stem)
        notebook.check_parameters(declared, {"profile": profile, **given}, source.name, profile)
    for line in cell.source.splitlines():
        assert re.search(r"  # \S", line), f"{source.name}: a parameter without its comment: {line}"


@EACH
def test_the_defaults_of_the_parameters_cell_are_those_of_the_testbed(source: Path) -> None:
    section = source.stem.split("_", 1)[1]
    cell = notebook.find_parameters_cell(notebook.read_source(source), source.name)
    _, sections = params.load(paths.ROOT / "params" / "testbed.yaml")
    declared = notebook.read_defaults(cell, source.name)
    given = notebook.pick_parameters(declared, sections[section], source.stem)
    assert declared == {"profile": "testbed", **given}


@EACH
def test_no_digit_of_a_result_is_typed_into_prose(source: Path) -> None:
    """Markdown may quote what the paper reported; a decimal number or a percentage of ours may not stand there."""
    for cell in read(source):
        if cell.cell_type == "markdown" and "paper" not in cell.source:
            prose = re.sub(r"`[^`]*`|\$[^$]*\$", "", cell.source)
            allowed = {"55 %", "92 %"}  # the testbed's requirement, stated beforehand
            assert not set(re.findall(r"\d+\.\d+|\d+ ?%", prose)) - allowed, cell.source


@EACH
def test_the_tracked_figures_of_a_notebook_lie_beside_their_numbers(source: Path) -> None:
    folder = paths.ROOT / "figures" / "testbed"
    stems = set(re.findall(r'save_figure\(figure, f?"([^"]+)"', source.read_text()))
    assert source.stem in stems
    for stem in stems - {s for s in stems if "{" in s}:
        for suffix in ("pdf", "png"):
            assert (folder / f"{stem}.{suffix}").stat().st_size > 1000
    assert json.loads((folder / f"{source.stem}.json").read_text())


def test_the_fixed_difficulty_is_the_one_in_the_parameters() -> None:
    """The calibration record and the parameters are held together: nobody tunes one without the other."""
    record = json.loads((paths.ROOT / "models" / "testbed" / "difficulty.json").read_text())
    _, sections = params.load(paths.ROOT / "params" / "testbed.yaml")
    for benchmark, found in record["benchmarks"].items():
        for key in ("chain_length", "noise_level"):
            assert sections["testbed"][f"{benchmark}_{key}"] == found["chosen"][key]
    symbolic = record["benchmarks"]["symbolic"]["chosen"]
    assert sections["testbed"]["symbolic_operators_per_step"] == symbolic["operators_per_step"]
    hallucination = record["benchmarks"]["hallucination"]["chosen"]
    assert sections["testbed"]["hallucination_typical_share"] == hallucination["typical_share"]
    assert sections["testbed"]["item_seed"] == record["seed"]
