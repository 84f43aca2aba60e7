"""The paper is built from the recorded numbers, on any day and in any folder the same, for both profiles."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from dontblink import params, paths
from dontblink.publish import claims, manuscript
from dontblink.publish.numbers import Numbers
from dontblink.questions import registry

ROOT = paths.ROOT
PAPER = ROOT / "paper"
RENAMED = {"symbolic": "mathvista", "visual_reference": "mmmu_pro", "hallucination": "hallusionbench"}
RENAMED |= {"qwen3vl-tiny-s": "Qwen3-VL-2B", "qwen3vl-tiny-m": "Qwen3-VL-8B", "glm4v-tiny": "GLM-4.6V-Flash"}
# the notebook of the ledger, its block, the paper: what stands downstream of all other numbers
BUILD = """
import json, shutil, sys
from pathlib import Path
from dontblink import params, paths
from dontblink.publish import claims, notebook
assert str(paths.ROOT) == sys.argv[1], paths.ROOT
values = params.load(paths.params_file("testbed"))[1]["claims"]
notebook.run_notebook(paths.ROOT / "notebooks" / "08_claims.py", values, "testbed")
for file in paths.outputs("testbed").glob("08_*"):
    shutil.copy(file, paths.figures("testbed"))
assert claims.main(["--readme"]) == 0
sys.path.insert(0, str(paths.ROOT / "paper"))
import build
assert build.main([]) == 0 and build.main(["--tex"]) == 0
"""


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """Return paper/build.py as a module."""
    spec = importlib.util.spec_from_file_location("build", PAPER / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_pdf_is_of_the_committed_numbers_carries_their_hash_and_no_date(build: ModuleType) -> None:
    content = (PAPER / "paper.pdf").read_bytes()
    assert build.build_pdf("testbed") == content, "run `make all`"
    assert f"numbers {Numbers('testbed').hash_files()}".encode() in content
    assert b"CreationDate" not in content and b"ModDate" not in content


@pytest.mark.slow
def test_two_builds_in_two_folders_under_two_clocks_have_the_same_bytes(tmp_path: Path) -> None:
    kept = []
    for day, zone in (("0", "UTC"), ("1700000000", "Asia/Tokyo")):
        folder = tmp_path / f"of-day-{day}"
        for name in ("paper", "figures", "lib", "notebooks", "params"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md"):
            shutil.copy(ROOT / name, folder)
        shutil.copytree(folder / "figures" / "testbed", folder / "results" / "testbed" / "figures")
        for made in [*folder.glob("figures/testbed/08_*"), folder / "paper" / "paper.pdf"]:
            made.unlink()
        environment = {**os.environ, "PYTHONPATH": str(folder / "lib"), "SOURCE_DATE_EPOCH": day, "TZ": zone}
        command = [sys.executable, "-c", BUILD, str(folder)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        made = [*folder.glob("figures/testbed/08_*"), *folder.glob("paper/paper.pdf"), folder / "README.md"]
        made += folder.glob("results/testbed/paper/paper.tex")
        kept.append({file.relative_to(folder): file.read_bytes() for file in made})
    assert len(kept[0]) == 6
    for name in kept[0]:
        assert kept[0][name] == kept[1][name], name
    assert kept[0][Path("paper/paper.pdf")] == (PAPER / "paper.pdf").read_bytes()


def test_references_figures_and_allowances_are_used_and_accounted_for() -> None:
    text = (PAPER / "paper.md").read_text()
    cited = {key for key in re.findall(r"@([a-z]+\d{4}[a-z0-9]*)", text)}
    assert cited == set(re.findall(r"^@\w+\{([^,]+),", (PAPER / "refs.bib").read_text(), flags=re.M))
    for label in re.findall(r"\{#((?:fig|tbl):\w+)[ }]", text):
        assert f"@{label}" in text, label
    allowed = yaml.safe_load((PAPER / "allowed.yaml").read_text())
    assert all(len(reason) > 5 for part in allowed.values() for reason in part.values())


def test_what_the_paper_says_about_the_package_is_so() -> None:
    text = (PAPER / "paper.md").read_text()
    testbed, real = (params.load(paths.params_file(profile))[1] for profile in ("testbed", "paper"))
    assert "a second profile with the same keys" in text
    assert {name: set(values) for name, values in testbed.items()} == {name: set(real[name]) for name in real}
    assert "loaders and scorers for the three benchmarks are in the package" in text and "not written" not in text
    names = set(real["extraction"]["benchmarks"])
    assert len(names) == 3 and names <= set(registry.REAL)
    assert "Three models of two real architectures" in text and len(testbed["extraction"]["models"]) == 3
    folders = [ROOT / "models" / "testbed" / model for model in testbed["extraction"]["models"]]
    assert len({json.loads((folder / "config.json").read_text())["model_type"] for folder in folders}) == 2
    assert "simulated studies whose truth is known (part of the package)" in text
    assert (ROOT / "lib" / "dontblink_simulation" / "simulate.py").is_file()
    assert "Two independent implementations of the replay" in text
    assert real["extraction"]["replay_implementation"] in ("split", "generic")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("# Measures", "# Measures\n\nIt fell by 45 %.", "digits typed by hand: 45"),
        ("= collapse.collapse.grounding_layers %}", "= collapse.colapse.grounding_layers %}",
         "line 42: figures/testbed/02_collapse.json: top level has no key"),
        ("](02_collapse_forest)", "](02_collapse_woods)", "no notebook made: 02_collapse_woods"),
    ],
)
def test_a_stray_digit_an_unknown_key_and_a_missing_figure_fail_the_build(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    old: str, new: str, message: str,
) -> None:  # fmt: skip
    for name in ("paper.md", "allowed.yaml", "claims.yaml"):
        text = (PAPER / name).read_text()
        (tmp_path / name).write_text(text.replace(old, new, 1) if name == "paper.md" else text)
    monkeypatch.setattr(build.read_text, "__defaults__", (tmp_path,))
    assert build.main([]) == 1
    assert message in capsys.readouterr().err


def rename(value: Any, below_type: bool = False) -> Any:
    """Return numbers with models and benchmarks renamed; a task type may be called like a benchmark and stays."""
    if isinstance(value, dict):
        names = {key: key if below_type else RENAMED.get(key, key) for key in value}
        return {names[key]: rename(own, below_type or key == "task_type") for key, own in value.items()}
    if isinstance(value, list):
        return [rename(own, below_type) for own in value]
    return RENAMED.get(value, value) if isinstance(value, str) else value


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project whose paper profile holds numbers of the shape that real models would give."""
    folder = tmp_path / "figures" / "paper"
    folder.mkdir(parents=True)
    for file in sorted((ROOT / "figures" / "testbed").glob("0[0-7]_*")):
        if file.suffix == ".pdf":
            shutil.copy(file, folder)
        elif file.suffix == ".json":
            (folder / file.name).write_text(json.dumps(rename(json.loads(file.read_text()))))
    collapse = json.loads((folder / "02_collapse.json").read_text())
    (folder / "02_collapse.json").write_text(json.dumps({k: v for k, v in collapse.items() if k != "recall"}))
    shutil.copytree(ROOT / "figures" / "simulation", tmp_path / "figures" / "simulation")
    shutil.copytree(ROOT / "params", tmp_path / "params")
    shutil.copytree(PAPER, tmp_path / "paper")
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


def test_the_paper_of_real_models_is_built_and_speaks_of_no_testbed_result(build: ModuleType, real: Path) -> None:
    names = claims.read_ledger()["names"]
    ledger = claims.build_ledger(Numbers("paper"))  # without recall steps, which are marked in the testbed alone
    assert "beyond_script" not in ledger["C1"]["conditions"]
    recorded = json.loads((ROOT / "figures" / "testbed" / "08_claims.json").read_text())
    folder = real / "figures" / "paper"
    (folder / "08_claims.json").write_text(json.dumps(recorded | {"claims": ledger}))
    shutil.copy(ROOT / "figures" / "testbed" / "08_claims.pdf", folder)
    text = manuscript.fill((PAPER / "paper.md").read_text(), Numbers("paper"), names)
    assert "trained from scratch" not in text and "Qwen3-VL-8B" in text and "mmmu pro" in text
    assert build.build_pdf("paper").startswith(b"%PDF")
