"""A notebook runs with strict parameters in this interpreter, and says in one line why it failed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pyarrow as pa
import pytest

from dontblink import files, params, paths, store
from dontblink.errors import NamedError
from dontblink.publish import notebook

SOURCE = """\
# ---
# jupyter:
#   kernelspec: {name: elsewhere, display_name: Another machine's, language: python}
# ---

# %% [markdown]
# # 02 Collapse
#
# ## 1 Question

# %% [markdown]
# ## 2 Parameters

# %% tags=["parameters"]
profile = "testbed"  # which params/<profile>.yaml
bins: int = 10  # equal parts of the reasoning
level = 0.95  # of every interval
quantiles = [0.1, 0.9]  # of the pictures

# %% [markdown]
# ## 5 Compute

# %%
import json, os, sys
from pathlib import Path

# %%
seen = {"profile": profile, "bins": bins, "level": level, "quantiles": quantiles}
Path(OUT).write_text(json.dumps(seen | {"python": sys.executable, "folder": os.getcwd()}))
"""
COUNT_THREADS = """\
import json, os, sys
import numpy, torch
from threadpoolctl import threadpool_info
print(max(pool["num_threads"] for pool in threadpool_info()), torch.get_num_threads())
"""
PARAMETERS = {"bins": 12, "level": 0.9, "quantiles": [0.25, 0.75]}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a temporary root; a notebook's `OUT` is its file `seen.json`."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "no_such_kernels"))
    return tmp_path


def write(root: Path, text: str = SOURCE) -> Path:
    """Write a notebook source and return it."""
    source = root / "notebooks" / "02_collapse.py"
    source.parent.mkdir(exist_ok=True)
    source.write_text(text.replace("OUT", repr(str(root / "seen.json"))))
    return source


def run(root: Path, source: Path, values: object = PARAMETERS) -> int:
    """Run the command on a notebook with these values as its section."""
    (root / "collapse.json").write_text(json.dumps(values))
    params.write_sections({"arithmetic": {"portable": True}}, paths.section_file("scratch", "any").parent)
    return notebook.main([str(source), "--params", str(root / "collapse.json"), "--profile", "scratch"])


@pytest.mark.slow
def test_a_notebook_gets_its_typed_parameters_and_leaves_an_executed_copy(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(root)
    os.utime(source, (1000, 1000))
    assert run(root, source) == 0
    seen = json.loads((root / "seen.json").read_text())
    assert seen == PARAMETERS | {"profile": "scratch", "python": sys.executable, "folder": str(root)}
    assert source.stat().st_mtime == 1000
    assert list(source.parent.iterdir()) == [source]
    executed = nbformat.read(root / "results" / "scratch" / "notebooks" / "02_collapse.ipynb", as_version=4)
    assert executed.metadata["kernelspec"] == {"name": "python3", "display_name": "Python 3", "language": "python"}
    tags = [cell.metadata["tags"] for cell in executed.cells if cell.metadata.get("tags")]
    assert tags == [["parameters", "remove-cell"], ["injected-parameters"]]
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("02_collapse: done in ")


@pytest.mark.parametrize(("tokens", "n_reasoning", "left"), [(2.0, 6, 2), (2.0, 5, 1), (0.5, 6, 1), (None, 6, 1)])
def test_cells_about_boxes_are_left_out_where_no_cell_has_enough_evidence(
    root: Path, monkeypatch: pytest.MonkeyPatch, tokens: float | None, n_reasoning: int, left: int
) -> None:
    row = {"model": "m", "benchmark": "b", "n_reasoning_tokens": n_reasoning, "evidence_tokens": tokens or float("nan")}
    items = pd.DataFrame([row | {"item_id": str(k), "evidence_missing": "" if tokens else "no"} for k in range(3)])
    monkeypatch.setattr(notebook, "read_tables", lambda *_, **__: {"items": items})
    source = notebook.read_source(write(root, '# %% tags=["needs_boxes"]\nboxed = 1\n\n# %%\nfree = 1\n'))
    notebook.leave_out(source, "scratch", {"bins": 10, "min_items": 3})
    assert len(source.cells) == left and source.cells[-1].source == "free = 1"
    notebook.leave_out(source, "scratch", {"bins": 10, "min_items": 4})
    assert len(source.cells) == 1
    notebook.leave_out(source, "scratch", {})  # nothing is tagged: a notebook of another kind is not asked


@pytest.mark.parametrize("n_effects", [0, 1])
def test_cells_about_effects_are_left_out_where_nobody_ran_the_causal_study(
    root: Path, monkeypatch: pytest.MonkeyPatch, n_effects: int
) -> None:
    table = pa.table({"item_id": ["a"] * n_effects})
    monkeypatch.setattr(paths, "ROOT", root)
    store.write_table(paths.causal("scratch") / "effects.parquet", table, {})
    source = notebook.read_source(write(root, '# %% tags=["needs_effects"]\ncaused = 1\n\n# %%\nfree = 1\n'))
    notebook.leave_out(source, "scratch", {})
    assert [cell.source for cell in source.cells] == ["caused = 1"] * n_effects + ["free = 1"]


@pytest.mark.slow
def test_the_kernel_is_this_interpreter_even_where_another_is_installed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = root / "other" / "kernels" / "python3"
    other.mkdir(parents=True)
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "Wrong", "language": "python"}
    (other / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(root / "other"))
    assert run(root, write(root)) == 0
    assert json.loads((root / "seen.json").read_text())["python"] == sys.executable


@pytest.mark.slow
def test_a_kernel_computes_with_one_thread_where_the_environment_says_two(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
    outside = subprocess.run([sys.executable, "-c", COUNT_THREADS], capture_output=True, text=True, check=True)
    assert outside.stdout == "2 2\n", "the count sees two threads where there are two"
    assert run(root, write(root, SOURCE.replace("import json, os, sys\n", COUNT_THREADS))) == 0
    executed = nbformat.read(root / "results" / "scratch" / "notebooks" / "02_collapse.ipynb", as_version=4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert [output.text for output in outputs if output.output_type == "stream"] == ["1 1\n"]


@pytest.mark.slow
def test_a_failing_cell_is_one_line_with_cell_error_and_where_to_look(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(root, SOURCE.replace("import json, os, sys", 'raise ValueError("no tables:\\nrun extract")'))
    assert run(root, source) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "notebooks/02_collapse.py: cell 3: ValueError: no tables: run extract; "
        "see results/scratch/notebooks/02_collapse.ipynb"
    )
    assert (root / "results" / "scratch" / "notebooks" / "02_collapse.ipynb").exists()


@pytest.mark.slow
def test_a_kernel_that_dies_is_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, write(root, SOURCE.replace("import json, os, sys", "import os; os._exit(3)"))) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("notebooks/")]
    assert "Kernel died" in line


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (PARAMETERS | {"binns": 3}, r"parameters cell lacks binns, which collapse\.json holds"),
        ({"bins": 12, "level": 0.9}, "unknown parameter quantiles, not in collapse.json"),
        (PARAMETERS | {"bins": 12.5}, "parameter bins is declared as int 10, collapse.json holds float 12.5"),
        (PARAMETERS | {"level": "0.9"}, "parameter level is declared as float 0.95"),
        (PARAMETERS | {"quantiles": ["0.1", "0.9"]}, "parameter quantiles is declared as list"),
        (PARAMETERS | {"bins": True}, "parameter bins is declared as int"),
    ],
)
def test_parameters_that_do_not_fit_stop_before_anything_runs(
    root: Path, capsys: pytest.CaptureFixture[str], values: object, expected: str
) -> None:
    assert run(root, write(root), values) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("notebooks/02_collapse.py: ")
    assert expected.replace("\\", "") in line
    assert not (root / "seen.json").exists()


def test_a_whole_number_is_accepted_for_a_declared_float() -> None:
    notebook.check_parameters({"level": 0.95}, {"level": 1}, "n.py", "p.json")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("bins: int = 10", "bins = 5 + 5", "bins is computed"),
        ("bins: int = 10", "import numpy", "expected only `name = value`"),
        ("bins: int = 10", "bins: int", "expected only `name = value`"),
        ("bins: int = 10", "bins = more = 10", "expected only `name = value`"),
        (' tags=["parameters"]', "", "0 cells tagged 'parameters', expected one"),
        ("# %%\nimport", '# %% tags=["parameters"]\nimport', "2 cells tagged 'parameters', expected one"),
    ],
)
def test_a_parameters_cell_holds_only_named_literals(root: Path, old: str, new: str, expected: str) -> None:
    assert old in SOURCE
    with pytest.raises(NamedError, match=expected):
        notebook.run_notebook(write(root, SOURCE.replace(old, new)), PARAMETERS, "scratch")


def test_files_that_are_not_there_are_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, root / "notebooks" / "99_none.py") == 1
    assert "notebooks/99_none.py: not there" in capsys.readouterr().err
    command = [str(write(root)), "--params", str(root / "none.json"), "--profile", "scratch"]
    assert notebook.main(command) == 1
    assert capsys.readouterr().err == "none.json: not there; run `make params`\n"


@pytest.mark.slow
def test_a_notebook_leaves_a_mark_until_its_last_cell_has_run(root: Path) -> None:
    mark = paths.unfinished("scratch", "02_collapse")
    assert run(root, write(root, SOURCE.replace("import json, os, sys", "assert False"))) == 1
    assert mark.exists()
    assert (
        run(root, write(root, SOURCE.replace("import json, os, sys", f"import json, os, sys; open({str(mark)!r})")))
        == 0
    )
    assert not mark.exists()


def test_a_notebook_says_which_run_is_in_its_way(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for lock in (paths.lock("scratch"), paths.lock("scratch", "02_collapse")):
        with files.hold(lock):
            assert run(root, write(root)) == 1
        assert f"in use by process {os.getpid()} on " in capsys.readouterr().err
    assert not (root / "seen.json").exists()


def test_notebooks_run_side_by_side_and_what_an_earlier_run_of_one_left_is_removed(root: Path) -> None:
    folder = paths.outputs("scratch")
    leftovers = [folder / name for name in (".02_collapse_steps.pdf.0123.tmp", "02_collapse_old.png")]
    others = [folder / name for name in (".03_entropy.pdf.0123.tmp", "03_entropy.json", "02_collapsed.png")]
    folder.mkdir(parents=True)
    for file in (*leftovers, *others):
        file.touch()
    with notebook.begin("03_entropy", "scratch"):
        assert [file.exists() for file in (*leftovers, *others)] == [True, True, False, False, True]
        with notebook.begin("02_collapse", "scratch"):
            assert not any(file.exists() for file in leftovers) and others[2].exists()
