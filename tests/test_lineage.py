"""What a figure depends on is found in the sources, agrees with what is really imported, and with what make watches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_makefile import read_variable

from dontblink import lineage, params, paths
from dontblink.lineage import LineageError, Stage

ROOT = Path(__file__).resolve().parents[1]
IMPORT_ALL = """
import ast, sys
from pathlib import Path
import dontblink.extraction.run
loaded = lambda: {sys.modules[name].__file__ for name in sys.modules if name.split(".")[0] == "dontblink"}
print(*loaded())
for file in sorted(Path("notebooks").glob("*.py")):
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "dontblink":
            exec(compile(ast.Module([node], []), file, "exec"))
import dontblink.publish.notebook
print(*loaded())
"""
# what make guards by other means: a changed parameter by the section's values, a changed schema likewise
VALUES = {"paths", "params", "params_schema"}


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    """Return the stages of this checkout."""
    return lineage.list_stages("testbed", params.load(ROOT / "params" / "testbed.yaml")[1])


def name_modules(files: list[str]) -> set[str]:
    """Return the modules among the files of a stage, as the Makefile writes them."""
    package = "lib/dontblink/"
    return {f.removeprefix(package).removesuffix(".py") for f in files if f.startswith(package) and f.endswith(".py")}


def test_every_module_that_really_runs_is_found(stages: dict[str, Stage]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "lib"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", IMPORT_ALL]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    extraction, everything = (
        {str(Path(f).relative_to(ROOT)) for f in line.split()} for line in done.stdout.split("\n", 1)
    )
    found = {file for file in stages["extraction"].files if file.startswith("lib/")}
    assert len(found) > 40 and found == extraction
    notebooks = [stage for name, stage in stages.items() if name != lineage.PAPER]
    assert everything <= {file for stage in notebooks for file in stage.files}


NOTEBOOKS = sorted(file.stem for file in (ROOT / "notebooks").glob("*.py"))


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_make_watches_every_module_behind_a_figure(stages: dict[str, Stage], stem: str) -> None:
    extraction, draw = (read_variable(name) for name in ("EXTRACT", "DRAW"))
    own = read_variable(f"uses_{stem}") if f"uses_{stem} :=" in (ROOT / "Makefile").read_text() else []
    watched = name_modules([*extraction, *draw]) | set(own)
    behind = name_modules([*stages["extraction"].files, *stages[stem].files])
    assert behind - watched - VALUES == set(), "name them in its uses_ line, or `make all` writes a manifest unseen"


def test_every_module_of_the_extraction_and_of_drawing_is_behind_a_figure(stages: dict[str, Stage]) -> None:
    behind = {name for stage in stages.values() for name in name_modules(stage.files)}
    assert name_modules(read_variable("EXTRACT")) <= behind, "add the others to `aside` in the Makefile"
    assert name_modules(read_variable("DRAW")) <= behind


def test_every_tracked_figure_belongs_to_one_notebook_and_its_section_is_known(stages: dict[str, Stage]) -> None:
    made = [file for stage in stages.values() for file in stage.made]
    there = {lineage.relative(f) for f in (ROOT / "figures" / "testbed").glob("*.*") if f.name != "manifest.json"}
    assert len(made) == len(set(made)) and set(made) == there | {"paper/paper.pdf"}
    for stem in NOTEBOOKS:
        assert stem.partition("_")[2] in stages[stem].parameters
    assert stages["extraction"].parameters == ["extraction", "questions", "server", "testbed"]


def test_the_ledger_stands_behind_all_notebooks_before_it_and_the_paper_behind_all(stages: dict[str, Stage]) -> None:
    assert stages["08_claims"].after == NOTEBOOKS[:-1] and stages[lineage.PAPER].after == NOTEBOOKS
    assert all(stages[stem].after == ["extraction"] for stem in NOTEBOOKS[:-1])


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a checkout of a few lines: modules a to d, of which one notebook reaches a, b, c and data."""
    package = tmp_path / "lib" / "dontblink"
    for name, text in {
        "__init__": "", "extract": "from dontblink.params import read_section\nread_section('p', 'extraction')",
        "params": "", "notebook": "", "numbers": "", "a": "import dontblink.deep.b", "deep/__init__": "",
        "deep/b": "def late():\n    from dontblink import c", "c": "here = FILE.with_name('c.css')", "d": "",
    }.items():  # fmt: skip
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text(text)
    (package / "c.css").write_text("x")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "02_collapse.py").write_text("from dontblink.a import thing")
    figures = tmp_path / "figures" / "small"
    figures.mkdir(parents=True)
    for suffix in ("json", "pdf", "png"):
        (figures / f"02_collapse.{suffix}").write_text("")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "symbolic.jsonl").write_text("")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


SECTIONS = {
    "extraction": {"checkpoints_folder": "models/paper", "benchmarks": ["symbolic", "mathvista"]},
    "questions": {"evidence_folder": "data"},
}


def test_imports_are_followed_through_packages_late_imports_and_data_beside_a_module(small: Path) -> None:
    stages = lineage.list_stages("small", SECTIONS)
    inside = {file.removeprefix("lib/dontblink/") for file in stages["02_collapse"].files}
    expected = {"a.py", "deep/__init__.py", "deep/b.py", "c.py", "c.css", "notebook.py", "notebooks/02_collapse.py"}
    assert inside == expected and "d.py" not in inside
    assert stages["extraction"] == Stage(
        [], ["data/symbolic.jsonl", "lib/dontblink/__init__.py", "lib/dontblink/extract.py",
             "lib/dontblink/params.py", "requirements.lock", "results/small/extraction.json"], ["extraction"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("file", "message"), [("02_collapse.png", "not there"), ("07_other.png", "no notebook of this name")]
)
def test_figures_and_notebooks_that_do_not_fit_are_named(small: Path, file: str, message: str) -> None:
    target = small / "figures" / "small" / file
    target.unlink() if target.exists() else target.write_text("")
    with pytest.raises(LineageError, match=f"figures/small/{file}: {message}"):
        lineage.list_stages("small", SECTIONS)
