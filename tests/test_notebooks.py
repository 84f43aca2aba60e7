"""Notebooks read as methods: eight sections, short cells, typed parameters, and numbers beside every figure."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import jupytext
import pytest

from dontblink import params
from dontblink.publish import notebook

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
SECTIONS = ["1 Question", "2 Parameters", "3 Setup", "4 Load and check", "5 Compute", "6 Figure", "7 Record numbers",
            "8 Checks and reading"]  # fmt: skip


def read(source: Path) -> list:
    return jupytext.reads(source.read_text(), fmt="py:percent").cells


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_has_the_eight_sections_in_order(source: Path) -> None:
    text = "\n".join(cell.source for cell in read(source) if cell.cell_type == "markdown")
    assert re.findall(r"^## (.+)$", text, flags=re.M) == SECTIONS


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_cells_are_short_and_hold_no_function_of_more_than_five_lines(source: Path) -> None:
    for cell in read(source):
        if cell.cell_type != "code" or "parameters" in cell.metadata.get("tags", []):
            continue
        assert len(cell.source.splitlines()) <= 15, cell.source
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 5, node.name


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_parameters_cell_is_its_section_of_both_profiles(source: Path) -> None:
    section = source.stem.split("_", 1)[1]
    cell = notebook.find_parameters_cell(notebook.read_source(source), source.name)
    declared = notebook.read_defaults(cell, source.name)
    for profile in ("testbed", "paper"):
        _, sections = params.load(ROOT / "params" / f"{profile}.yaml")
        notebook.check_parameters(declared, {"profile": profile, **sections[section]}, source.name, profile)
    for line in cell.source.splitlines():
        assert re.search(r"  # \S", line), f"{source.name}: a parameter without its comment: {line}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_defaults_of_the_parameters_cell_are_those_of_the_testbed(source: Path) -> None:
    section = source.stem.split("_", 1)[1]
    cell = notebook.find_parameters_cell(notebook.read_source(source), source.name)
    _, sections = params.load(ROOT / "params" / "testbed.yaml")
    assert notebook.read_defaults(cell, source.name) == {"profile": "testbed", **sections[section]}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_no_digit_of_a_result_is_typed_into_prose(source: Path) -> None:
    """Markdown may quote what the paper reported; a decimal number or a percentage of ours may not stand there."""
    for cell in read(source):
        if cell.cell_type == "markdown" and "paper" not in cell.source:
            prose = re.sub(r"`[^`]*`|\$[^$]*\$", "", cell.source)
            allowed = {"55 %", "92 %"}  # the testbed's requirement, stated beforehand
            assert not set(re.findall(r"\d+\.\d+|\d+ ?%", prose)) - allowed, cell.source


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_tracked_figures_of_a_notebook_lie_beside_their_numbers(source: Path) -> None:
    folder = ROOT / "figures" / "testbed"
    stems = set(re.findall(r'save_figure\(figure, f?"([^"]+)"', source.read_text()))
    assert source.stem in stems
    for stem in stems - {s for s in stems if "{" in s}:
        for suffix in ("pdf", "png"):
            assert (folder / f"{stem}.{suffix}").stat().st_size > 1000
    assert json.loads((folder / f"{source.stem}.json").read_text())


def test_the_fixed_difficulty_is_the_one_in_the_parameters() -> None:
    """The calibration record and the parameters are held together: nobody tunes one without the other."""
    record = json.loads((ROOT / "models" / "testbed" / "difficulty.json").read_text())
    _, sections = params.load(ROOT / "params" / "testbed.yaml")
    for benchmark, found in record["benchmarks"].items():
        for key in ("chain_length", "noise_level"):
            assert sections["testbed"][f"{benchmark}_{key}"] == found["chosen"][key]
    symbolic = record["benchmarks"]["symbolic"]["chosen"]
    assert sections["testbed"]["symbolic_operators_per_step"] == symbolic["operators_per_step"]
    hallucination = record["benchmarks"]["hallucination"]["chosen"]
    assert sections["testbed"]["hallucination_typical_share"] == hallucination["typical_share"]
    assert sections["testbed"]["item_seed"] == record["seed"]
