"""`make verify`: silent and fast where everything belongs together; a changed byte is named with what depends on it."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dontblink import lineage, params, paths
from dontblink.publish import verify

ROOT = paths.ROOT
PARTS = ("figures/testbed", "lib", "models/testbed", "notebooks", "paper", "params")
Edit = Callable[[str, Callable[[bytes], bytes | None]], None]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what a clone holds, with a manifest of its own."""
    root = tmp_path_factory.mktemp("clone")
    for part in PARTS:
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "ROOT", root)
        _, sections = params.load(paths.params_file("testbed"))
        params.write_sections(sections, paths.results("testbed") / "params")
        lineage.write_stages("testbed", sections)
        verify.manifest_file("testbed").unlink(missing_ok=True)
        assert verify.main(["--write"]) == 0
    shutil.rmtree(root / "results")
    return root


@pytest.fixture
def edit(clone: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edit]:
    """Yield what changes a file of the clone (None removes it) until the test ends."""
    monkeypatch.setattr(paths, "ROOT", clone)
    kept: dict[Path, bytes | None] = {}

    def change(name: str, how: Callable[[bytes], bytes | None]) -> None:
        file = clone / name
        content = file.read_bytes() if file.is_file() else None
        kept.setdefault(file, content)
        new = how(content or b"")
        if new is None:
            file.unlink()
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(new)

    yield change
    for file, content in kept.items():
        file.unlink(missing_ok=True)
        if content is not None:
            file.write_bytes(content)
    shutil.rmtree(clone / "results", ignore_errors=True)


def flip(content: bytes) -> bytes:
    """Return the content with its last bit flipped."""
    return content[:-1] + bytes([content[-1] ^ 1])


def say(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    """Run the command; return its status and the lines of its errors."""
    capsys.readouterr()
    status = verify.main(list(arguments))
    return status, capsys.readouterr().err.splitlines()


def split(clone: Path, overrides: str = "") -> None:
    """Do what make does first in the clone."""
    _, sections = params.load(clone / "params" / "testbed.yaml")
    params.override(sections, overrides)
    params.write_sections(sections, paths.results("testbed") / "params")
    lineage.write_stages("testbed", sections)


def test_the_tracked_figures_belong_to_these_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert say(capsys) == (0, []), "run `make all`"


def test_a_fresh_clone_passes_within_seconds_and_without_a_model_library(clone: Path) -> None:
    code = (
        "import sys, time\nbegin = time.process_time()\n"
        "from dontblink.publish import verify\nassert verify.main([]) == 0\n"
        "assert not {'torch', 'transformers', 'numpy', 'pandas', 'matplotlib'} & sys.modules.keys()\n"
        "assert time.process_time() - begin < 5"
    )
    environment = {**os.environ, "PYTHONPATH": str(clone / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "are those of the manifest" in done.stdout and not (clone / "results").exists()


@pytest.mark.parametrize(
    ("file", "who"),
    [
        ("notebooks/03_entropy.py", "03_entropy, 08_claims, paper"),
        ("lib/dontblink/studies/collapse.py", "02_collapse, 08_claims, paper"),
        ("lib/dontblink/studies/veto.py", "05_veto, 07_monitor, 08_claims, paper"),
        ("lib/dontblink_testbed/benchmark.py", "every figure and the paper"),
        ("lib/dontblink/paths.py", "every figure and the paper"),
        ("lib/dontblink/figures/dontblink.mplstyle", "every figure and the paper"),
        ("lib/dontblink/publish/manuscript.py", "paper"),
        ("models/testbed/glm4v-tiny/model.safetensors", "every figure and the paper"),
        ("requirements.lock", "every figure and the paper"),
        ("paper/claims.yaml", "08_claims, paper"),
        ("paper/refs.bib", "paper"),
    ],
)
def test_one_flipped_bit_of_an_input_is_named_with_what_depends_on_it(
    edit: Edit, capsys: pytest.CaptureFixture[str], file: str, who: str
) -> None:
    edit(file, (lambda content: content + b"\nadded = 1\n") if file.endswith(".py") else flip)
    assert say(capsys) == (1, [f"{file}: changed; depend on it: {who}; run `make all`"])


@pytest.mark.parametrize(
    ("file", "maker", "first"),
    [
        ("figures/testbed/02_collapse_steps.png", "02_collapse", "figures/testbed/02_collapse.json"),
        ("figures/testbed/05_veto.json", "05_veto", "figures/testbed/05_veto.json"),
        ("figures/testbed/08_claims.pdf", "08_claims", "figures/testbed/08_claims.json"),
        ("paper/paper.pdf", "paper", "paper/paper.pdf"),
    ],
)
def test_one_flipped_bit_of_a_figure_or_number_is_named(
    edit: Edit, capsys: pytest.CaptureFixture[str], file: str, maker: str, first: str
) -> None:
    edit(file, flip)
    status, (line,) = say(capsys)
    assert status == 1 and line.startswith(f"{file}: changed, not the file that {maker} made")
    assert line.endswith(f"restore it, or remove {first} and run `make all`")


def test_every_single_entry_of_the_manifest_counts(edit: Edit) -> None:
    stored = verify.read_tracked("testbed")
    assert len(stored.files) > 150 and len(stored.parameters) >= 9
    for part in ("files", "parameters"):
        for entry in getattr(stored, part):
            now = dataclasses.replace(stored, **{part: getattr(stored, part) | {entry: "0" * 64}})
            (line,) = verify.compare(stored, now)
            assert entry in line and "run `make all`" in line
            assert "depend on it: " in line or entry == "paper/paper.pdf"


def test_a_value_counts_and_a_comment_does_not(edit: Edit, capsys: pytest.CaptureFixture[str]) -> None:
    edit("params/testbed.yaml", lambda content: content.replace(b"# 02:", b"# 02, collapse:"))
    assert say(capsys) == (0, [])
    edit("params/testbed.yaml", lambda content: content.replace(b"\n  bins: 10", b"\n  bins: 12"))
    who = "depend on it: 02_collapse, 08_claims, paper; run `make all`"
    assert say(capsys) == (1, [f"params/testbed.yaml: section collapse: other values; {who}"])


def test_figures_made_with_an_override_do_not_pass_for_those_of_the_file(
    edit: Edit, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = verify.manifest_file("testbed").read_bytes()
    edit("figures/testbed/manifest.json", lambda content: content)
    edit("figures/testbed/05_veto.json", lambda content: content + b"\n")
    split(clone, "veto.coverage=0.8")
    assert say(capsys, "--write") == (0, [])
    who = "depend on it: 05_veto, 08_claims, paper; run `make all`"
    assert say(capsys) == (1, [f"params/testbed.yaml: section veto: other values; {who}"])
    edit("figures/testbed/05_veto.json", lambda content: content[:-1])
    split(clone)
    assert say(capsys, "--write") == (0, []) and say(capsys) == (0, [])
    assert verify.manifest_file("testbed").read_bytes() == before


def test_an_override_that_changes_no_figure_keeps_the_manifest(
    edit: Edit, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = verify.manifest_file("testbed").read_bytes()
    split(clone, "veto.coverage=0.8")
    assert verify.main(["--write"]) == 0 and "kept with its figures" in capsys.readouterr().out
    assert verify.manifest_file("testbed").read_bytes() == before


def test_ten_files_are_named_and_the_others_counted(edit: Edit, capsys: pytest.CaptureFixture[str]) -> None:
    for file in sorted(paths.figures("testbed").glob("0*.png"))[:12]:
        edit(lineage.relative(file), flip)
    status, lines = say(capsys)
    assert status == 1 and len(lines) == 11 and lines[-1] == "and 2 more"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("lib/dontblink/studies/collapse.py", None, "collapse.py: gone; depend on it: 02_collapse, 08_claims"),
        ("figures/testbed/02_collapse.pdf", None, "figures/testbed/02_collapse.pdf: not there; restore it, or run"),
        ("figures/testbed/02_collapse_forest.pdf", None, "gone, not the file that 02_collapse made"),
        ("figures/testbed/02_collapse_new.pdf", b"%", "02_collapse_new.pdf: new, not the file that 02_collapse made"),
        ("figures/testbed/07_lost.png", b"P", "figures/testbed/07_lost.png: no notebook of this name makes it"),
        ("models/testbed/glm4v-tiny/processor_config.json", b"{}", "processor_config.json: new; depend on it: every"),
        ("paper/paper.pdf", None, "paper/paper.pdf: not there; restore it, or run `make all`"),
        ("figures/testbed/manifest.json", b"[]", "manifest.json: not a manifest"),
        ("figures/testbed/manifest.json", None, "manifest.json: not there"),
    ],
)
def test_what_is_gone_or_new_is_named(
    edit: Edit, capsys: pytest.CaptureFixture[str], file: str, content: bytes | None, message: str
) -> None:
    edit(file, lambda _: content)
    status, lines = say(capsys)
    assert status == 1 and len(lines) == 1 and message in lines[0]


def test_a_profile_whose_figures_were_never_made_says_how_to_make_them(
    edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    status, (line,) = say(capsys, "--profile", "paper")
    assert status == 1 and "make extract PROFILE=paper`, then `make all PROFILE=paper`" in line


def test_the_manifest_is_written_only_if_it_changed_and_names_no_folder(
    edit: Edit, clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split(clone)
    file = verify.manifest_file("testbed")
    os.utime(file, (0, 0))
    assert verify.main(["--write"]) == 0 and "unchanged" in capsys.readouterr().out
    assert file.stat().st_mtime == 0
    assert str(clone) not in file.read_text() and set(json.loads(file.read_text())) == {
        "about", "profile", "files", "parameters", "stages",
    }  # fmt: skip


@pytest.mark.parametrize(
    "file",
    [
        "paper/.paper.md.swp", "paper/.DS_Store", "paper/paper.md~", "paper/.ipynb_checkpoints/paper.md",
        "models/testbed/glm4v-tiny/.ipynb_checkpoints/config-checkpoint.json", "figures/testbed/02_collapse.png~",
    ],
)  # fmt: skip
def test_what_editors_and_desktops_leave_behind_is_no_source(
    edit: Edit, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    edit(file, lambda _: b"{}")
    assert say(capsys) == (0, [])


def test_without_the_values_that_figures_were_made_with_nothing_is_written(
    edit: Edit, capsys: pytest.CaptureFixture[str]
) -> None:
    before = verify.manifest_file("testbed").read_bytes()
    status, (line,) = say(capsys, "--write")
    assert status == 1 and "run `make params`" in line
    assert verify.manifest_file("testbed").read_bytes() == before


def test_results_that_a_clone_does_not_have_are_not_compared_and_others_are() -> None:
    stage = {"extraction": verify.Stage([], ["lib/a.py", "results/paper/extraction.json"])}
    stage |= {"01_extraction": verify.Stage(["extraction"], [], [], ["figures/paper/01_extraction.json"])}
    files = {"lib/a.py": "1", "results/paper/extraction.json": "2", "figures/paper/01_extraction.json": "3"}
    stored = verify.Manifest("paper", files, {}, stage)
    absent = {name: value for name, value in files.items() if not name.startswith("results/")}
    assert verify.compare(stored, verify.Manifest("paper", absent, {}, stage)) == []
    other = verify.Manifest("paper", files | {"results/paper/extraction.json": "9"}, {}, stage)
    assert verify.compare(stored, other) == [
        "results/paper/extraction.json: changed; depend on it: 01_extraction; run `make all PROFILE=paper`"
    ]
