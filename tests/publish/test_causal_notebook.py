"""Notebook 06 runs with the tables of the causal study, with a reduced grid, and where nobody made any."""

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
import pyarrow as pa
import pytest
from synthetic_causal import make_effects, make_forced, make_heads, make_recalls

from dontblink import params, paths, schema, store
from dontblink.publish import notebook

SOURCE = paths.ROOT / "notebooks" / "06_causal.py"
CELLS = [(m, b) for m in ("glm4v-tiny", "qwen3vl-tiny-m", "qwen3vl-tiny-s")
         for b in ("hallucination", "symbolic", "visual_reference")]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return where the recorded figures and numbers of a project of its own lie."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    yield paths.outputs("testbed")
    plt.close("all")


def write(tables: dict[str, pd.DataFrame]) -> None:
    """Write the causal tables; strengths are made up."""
    strengths = pd.DataFrame({"bias_nats": 1.0, "mass_ratio": 1.5, "is_chosen": True, "n_items": 100}, index=[0])
    strengths = strengths.assign(model="glm4v-tiny", benchmark="symbolic")
    for name, table in (tables | {"strengths": strengths}).items():
        plain = table.astype({c: "str" for c in table if isinstance(table[c].dtype, pd.CategoricalDtype)})
        file = paths.causal("testbed") / f"{name}.parquet"
        store.write_table(file, schema.to_table(name, plain), {"table": name})


def run(monkeypatch: pytest.MonkeyPatch, effects: pd.DataFrame | None = None) -> None:
    """Execute the cells in this process, with few replicates."""
    if effects is not None:
        items = effects[effects["condition"] == "baseline"].assign(vision_evidence_mass=0.1, extra=1)
        items["vision_evidence_mass"] += items.groupby(["model", "benchmark"], observed=True).cumcount() / 1000
        more = items.head(1).assign(item_id="without a row")  # of the run, though no reasoning could be changed
        monkeypatch.setattr(schema, "read_tables", lambda *_, **__: {"items": pd.concat([items, more])})
        monkeypatch.setattr(params, "read_section", lambda *_: {"n_items": 10_000})
    source = notebook.read_source(SOURCE)
    cell = notebook.find_parameters_cell(source, "06_causal")
    given = notebook.read_defaults(cell, "06_causal") | {"bootstrap_replicates": 100, "order_deals": 200}
    notebook.leave_out(source, "testbed", given)
    space: dict[str, Any] = {}
    for number, part in enumerate(source.cells):
        if part is cell:
            space |= given
        elif part.cell_type == "code":
            exec(compile(ast.parse(part.source), f"06_causal, cell {number}", "exec"), space)


def test_it_finds_what_the_tables_were_made_with(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    effects = pd.concat([
        make_effects(500, cells=CELLS[:7]), make_effects(500, need=0.004, rewritten=0.93, cells=CELLS[7:8]),
        make_effects(500, control_loss=0.1, cells=CELLS[8:]),
    ])  # fmt: skip
    recalls = pd.concat([
        make_recalls(500, 320, by_text=0.95, by_picture=0.2, cells=CELLS[:3]),
        make_recalls(500, 300, link=3.0, cells=CELLS[3:6], words=("colour", "shape")),
        make_recalls(500, 300, kept=(0.9, 0.8, 0.1), cells=CELLS[6:8]), make_recalls(500, 90, cells=CELLS[8:]),
    ])  # fmt: skip
    forced, heads = make_forced(500, cells=CELLS), make_heads(cells=CELLS)
    write({"effects": effects, "recalls": recalls, "forced": forced, "head_losses": heads})
    run(monkeypatch, effects)
    numbers = json.loads((folder / "06_causal.json").read_text())
    assert numbers["has_effects"] and numbers["judges_order"] and numbers["n_flagged"] == 1
    assert numbers["n_words"] == {"needs": 7, "ignores": 1, "re-reads": 5, "copies": 3}
    assert numbers["words"]["qwen3vl-tiny-s"]["visual_reference"]["need_word"] == "" and numbers["n_without_row"] == 1
    assert numbers["need"]["from_0"]["glm4v-tiny"]["symbolic"]["estimate"] == pytest.approx(0.5)
    assert numbers["raised_highest_mass_ratio"] == pytest.approx(1.5, abs=1e-6)
    assert all(row["joint_low"] > 0 for part in numbers["c6"].values() for row in part.values())
    figures = {file.stem for file in folder.glob("*.png")}
    assert figures == {"06_causal", *(f"06_causal_{name}" for name in ("knockout", "order", "raised", "use"))}


def test_a_reduced_grid_without_restated_words_heads_or_raises_is_enough(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    effects = make_effects(60, cells=CELLS[:2])
    effects = effects[effects["condition"].isin(["baseline", "evidence", "control"])]
    write({"effects": effects, "forced": make_forced(60, cells=CELLS[:2])})
    run(monkeypatch, effects)
    numbers = json.loads((folder / "06_causal.json").read_text())
    assert numbers["judges_order"] and not numbers["has_recalls"] and "raised" not in numbers


def test_it_runs_to_its_end_where_nobody_made_the_tables(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch)
    assert "make causal PROFILE=testbed" in capsys.readouterr().out
    expected = {"has_effects": False, "has_recalls": False, "judges_order": False}
    assert json.loads((folder / "06_causal.json").read_text()) == expected


def test_the_tables_are_of_their_schemas() -> None:
    for name in ("effects", "recalls", "forced", "head_losses"):
        made = {"effects": make_effects, "recalls": make_recalls, "forced": make_forced, "head_losses": make_heads}
        table = made[name](30, **({"usable": 20} if name == "recalls" else {}))
        plain = table.astype({c: "str" for c in table if isinstance(table[c].dtype, pd.CategoricalDtype)})
        assert isinstance(schema.to_table(name, plain), pa.Table)
