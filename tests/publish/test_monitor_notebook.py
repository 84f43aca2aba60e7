"""Notebook 07 runs on a part of the tracked tables, on a set without levels that judges itself, and on none."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from dontblink import params, paths
from dontblink.publish import notebook
from dontblink.studies import need
from dontblink.studies.risk import load_monitor

ROOT = paths.ROOT
SOURCE = ROOT / "notebooks" / "07_monitor.py"
FEW = {
    "splits": 4, "jackknife_blocks": 5, "permutations": 4, "guarantee_draws": 2, "repair_items": 20, "min_items": 15,
    "bootstrap_replicates": 60,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return where the recorded figures and numbers of a project of its own lie."""
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "needs_causal").symlink_to(ROOT / "figures" / "needs_causal")
    (tmp_path / "models").symlink_to(ROOT / "models")
    _, sections = params.load(ROOT / "params" / "testbed.yaml")
    params.write_sections(sections, tmp_path / "results" / "testbed" / "params")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    yield paths.outputs("testbed")
    plt.close("all")


def run(**changes: Any) -> None:
    """Execute the cells in this process, with few replicates."""
    source = notebook.read_source(SOURCE)
    cell = notebook.find_parameters_cell(source, "07_monitor")
    given = notebook.read_defaults(cell, "07_monitor") | FEW | changes
    notebook.leave_out(source, "testbed", given)
    space: dict[str, Any] = {}
    for number, part in enumerate(source.cells):
        if part is cell:
            space |= given
        elif part.cell_type == "code":
            exec(compile(ast.parse(part.source), f"07_monitor, cell {number}", "exec"), space)


def take_part(monkeypatch: pytest.MonkeyPatch, **columns: Any) -> pd.DataFrame:
    """Let notebook 07 read every fourth item of each level of the second set, some columns changed."""
    rows = need.read_needs("needs")
    rows = rows[rows["item_id"].str[-4:].astype(int) % 12 < 3].assign(**columns)
    signals = need.read_signals("needs")
    signals = signals[signals["item_id"].isin(set(rows["item_id"]))]
    monkeypatch.setattr(need, "read_needs", lambda profile: rows if profile == "needs" else rows.head(0))
    monkeypatch.setattr(need, "read_signals", lambda _: signals)
    return rows


def test_levels_that_a_model_cannot_answer_and_responses_without_a_token_are_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = take_part(monkeypatch)
    signals = need.read_signals("needs")
    spoken = signals[signals["item_id"] != rows.loc[rows["split"] == "test", "item_id"].iloc[5]]
    monkeypatch.setattr(need, "read_signals", lambda _: spoken)
    run()
    numbers = json.loads((folder / "07_monitor.json").read_text())
    assert numbers["has_monitor"] and numbers["has_levels"] and numbers["n_levels"] == 27
    assert numbers["n_unanswered"] >= 2  # the two Qwen models say yes to every early question of hallucination
    assert set(numbers["quality"]) == {"nothing", "benchmark", "model"}
    assert {"all_answers", "needed_oracle_", "predicted_benchmark_left_out"} <= set(numbers["gains"])
    assert {"07_monitor", "07_monitor_needs"} <= {file.stem for file in folder.glob("*.png")}
    monitor = load_monitor(folder / "07_monitor_fitted.json")
    assert set(monitor.models) == set(rows["model"]) and [stage.n_tokens for stage in monitor.stages] == [8, 16, 32]
    assert "3 of 675 test responses have no token" in capsys.readouterr().out


def test_a_set_without_levels_fits_and_judges_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = take_part(monkeypatch, level="")
    monkeypatch.setattr(need, "read_needs", lambda _: rows)
    for module in (need, notebook):
        monkeypatch.setattr(module, "is_measured", lambda *_: True)
    run(second_profile="testbed")
    numbers = json.loads((folder / "07_monitor.json").read_text())
    assert not numbers["has_levels"] and set(numbers["levels"]) == {"none"}
    assert numbers["n_unknown"] == int(rows["need_nats"].isna().sum())  # no cell is left out without levels


def test_it_runs_to_its_end_where_nobody_measured_need_or_of_other_models(folder: Path) -> None:
    run(second_profile="seeds")
    assert json.loads((folder / "07_monitor.json").read_text()) == {"has_monitor": False}
    _, sections = params.load(ROOT / "params" / "testbed.yaml")
    sections["extraction"]["models"] = ["another"]
    params.write_sections(sections, paths.results("testbed") / "params")
    assert not need.is_measured("testbed", "needs")
