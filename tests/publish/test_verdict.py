"""The verdict: the same bytes, within tolerance, NOT reproduced; and what becomes of the tracked files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dontblink import lineage, params, paths
from dontblink.publish import verdict, verify

ROOT = paths.ROOT
NUMBERS = "03_entropy.json"
Edit = Callable[[dict[str, Any]], None]


def git(*words: str) -> str:
    """Run git in the root and return what it printed."""
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    done = subprocess.run(["git", *who, *words], cwd=paths.ROOT, check=True, capture_output=True, text=True)
    return done.stdout


def prepare(overrides: str = "") -> None:
    """Do what make does: look at the sources, and stamp every notebook as run."""
    _, sections = params.load(paths.params_file("testbed"))
    params.override(sections, overrides)
    params.write_sections(sections, paths.results("testbed") / "params")
    lineage.write_stages("testbed", sections)
    for stem in lineage.list_notebooks():
        stamp = paths.stamp("testbed", stem)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository in which `make all` has just made what is committed."""
    root = tmp_path_factory.mktemp("built")
    for part in ("figures/testbed", "lib", "notebooks", "paper", "params"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for folder in (ROOT / "models" / "testbed").iterdir():  # weights are not what is looked at here
        if folder.is_dir():
            (root / folder.relative_to(ROOT)).mkdir(parents=True)
            shutil.copy(folder / "config.json", root / folder.relative_to(ROOT))
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, root)
    (root / ".gitignore").write_text("results/\n__pycache__/\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "ROOT", root)
        shutil.copytree(paths.figures("testbed"), paths.outputs("testbed"), ignore=shutil.ignore_patterns("man*"))
        prepare()
        verify.manifest_file("testbed").unlink()
        verify.write("testbed")
        for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "result"]):
            git(*words)
    return root


@pytest.fixture
def repository(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of it that the test may change."""
    root = tmp_path / "checkout"
    shutil.copytree(built, root)
    monkeypatch.setattr(paths, "ROOT", root)
    return root


def change_numbers(change: Edit, name: str = NUMBERS) -> None:
    """Change numbers that this machine has made."""
    file = paths.outputs("testbed") / name
    numbers = json.loads(file.read_text())
    change(numbers)
    file.write_text(json.dumps(numbers, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def find_row(numbers: dict[str, Any]) -> dict[str, Any]:
    """Return one row with an interval."""
    row: dict[str, Any] = numbers["auroc"]["unadjusted"]["cell"]["full"]["symbolic"]["glm4v-tiny"]
    return row


def nudge(share: float) -> Edit:
    """Return what moves one estimate by a share of half its interval."""

    def change(numbers: dict[str, Any]) -> None:
        row = find_row(numbers)
        row["estimate"] += share * (row["ci_high"] - row["ci_low"]) / 2

    return change


def plant(root: Path) -> None:
    """Change a module behind notebook 03."""
    with (root / "lib" / "dontblink" / "studies" / "entropy.py").open("a") as module:
        module.write("PLANTED = 1\n")


def conclude(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str]]:
    """Do what ends `make all`; return the exit status and the lines of the verdict."""
    assert verdict.main(["--take"]) == 0
    verify.write("testbed")
    capsys.readouterr()
    status = verdict.main(list(words))
    return status, capsys.readouterr().out.splitlines()


def test_the_same_bytes_are_said_so_and_nothing_is_touched(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, (line,) = conclude(capsys)
    assert status == 0 and git("status", "--porcelain") == ""
    n_figures = len([*paths.figures("testbed").glob("*.png")])
    said = rf"reproduced: \d+ numbers, \d+ table cells and {n_figures} figures, the same bytes as the last commit; "
    assert re.match(said + r"(\d) of \1 verdicts as recorded; this processor: ", line)


def test_within_tolerance_the_tracked_files_stay(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_numbers(nudge(0.003))
    status, (line,) = conclude(capsys)
    assert status == 0 and git("status", "--porcelain") == ""
    assert line.startswith("reproduced within tolerance: largest move 0.3 % of its half interval (03_entropy.auroc.")
    assert ", 1 of " in line
    assert verify.main([]) == 0


def test_a_move_beyond_it_is_not_reproduced_and_the_new_files_of_that_notebook_are_taken(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(repository)
    prepare()
    change_numbers(nudge(0.4))
    status, lines = conclude(capsys)
    assert status == 1 and len(lines) == 2
    assert lines[0].startswith("03_entropy.auroc.unadjusted.cell.full.symbolic.glm4v-tiny.estimate: ")
    assert lines[0].endswith("(40 % of its half interval)") and lines[1].startswith("NOT reproduced: 1 of ")
    assert "in 03_entropy; changed since the last commit: lib/dontblink/studies/entropy.py; " in lines[1]
    taken = {line.split()[-1] for line in git("status", "--porcelain").splitlines()}
    assert taken == {
        "figures/testbed/03_entropy.json", "figures/testbed/manifest.json", "lib/dontblink/studies/entropy.py",
    }  # fmt: skip
    assert verify.main([]) == 0, "the manifest is that of the new files"
    assert conclude(capsys)[0] == 1, "a second look is held against the commit, too"
    git("commit", "-q", "-a", "-m", "another estimator")
    status, (line,) = conclude(capsys)
    assert status == 0 and line.startswith("reproduced: ")


def test_the_largest_moves_come_first_verdicts_before_them_and_no_more_than_ten_are_named(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(numbers: dict[str, Any]) -> None:
        for number, row in enumerate(numbers["auroc"]["unadjusted"]["cell"]["full"].values(), 1):
            for cell in row.values():
                cell["estimate"] += 0.1 * number * (cell["ci_high"] - cell["ci_low"]) / 2
                cell["n_items"] += 1

    change_numbers(change)
    change_numbers(lambda ledger: ledger["claims"]["C1"].update(verdict="reproduced"), "08_claims.json")
    status, lines = conclude(capsys)
    assert status == 1 and len(lines) == 11
    assert lines[0].startswith("08_claims.claims.C1.verdict: ")
    sizes = [float(line.rsplit("(", 1)[1].split(" %")[0]) for line in lines[1:10]]
    assert sizes == pytest.approx([30] * 3 + [20] * 3 + [10] * 3)
    n = len(json.loads((paths.outputs("testbed") / "08_claims.json").read_text())["claims"])
    assert f"; {n - 1} of {n} verdicts as recorded; " in lines[10] and "no source and no parameter changed" in lines[10]
    assert verdict.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 18 + 1


def test_other_parameters_are_no_failure_and_are_named(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare("entropy.min_items=30")
    change_numbers(nudge(0.4))
    status, lines = conclude(capsys)
    assert status == 0 and lines[-1].startswith("other parameters (entropy): 1 of ")


def test_overridden_parameters_that_move_nothing_keep_the_manifest(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare("arithmetic.portable=false")
    change_numbers(nudge(0.003))
    status, lines = conclude(capsys)
    assert status == 0 and lines[0].startswith("reproduced within tolerance") and git("status", "--porcelain") == ""


def test_a_tracked_file_changed_or_lost_by_hand_is_restored_where_the_result_agrees(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (paths.figures("testbed") / NUMBERS).write_text("{}")
    (paths.figures("testbed") / "02_collapse.png").unlink()
    (paths.figures("testbed") / "02_collapse_old.png").write_bytes(b"old")
    status, (line,) = conclude(capsys)
    assert status == 0 and line.startswith("reproduced: ") and git("status", "--porcelain") == ""


def test_a_figure_that_is_made_no_longer_counts_and_goes(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in ("png", "pdf"):
        (paths.outputs("testbed") / f"02_collapse_steps.{suffix}").unlink()
    status, lines = conclude(capsys)
    assert status == 1
    assert lines[:2] == [f"02_collapse_steps.{suffix}: a file -> nothing" for suffix in ("pdf", "png")]
    assert not (paths.figures("testbed") / "02_collapse_steps.png").exists()


def test_without_git_what_lies_there_is_the_reference(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(repository / ".git")
    change_numbers(nudge(0.003))
    before = (paths.figures("testbed") / NUMBERS).read_bytes()
    status, (line,) = conclude(capsys)
    assert status == 0 and line.startswith("reproduced within tolerance")
    assert (paths.figures("testbed") / NUMBERS).read_bytes() == before
    change_numbers(nudge(0.4))
    assert verdict.main([]) == 1


def test_a_first_result_is_recorded(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(repository / ".git")
    shutil.rmtree(paths.figures("testbed"))
    verdict.main([])
    assert capsys.readouterr().out.startswith("recorded: ")
    conclude(capsys)
    assert {f.name for f in paths.figures("testbed").glob("0*")} == {f.name for f in paths.outputs("testbed").iterdir()}


def test_a_clone_in_which_nothing_was_made_says_so(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(repository / "results")
    assert verdict.main([]) == 1 and verdict.main(["--where-made"]) == 0
    said = "results/testbed/figures: nothing was made here yet; `make all` makes and compares it\n"
    printed = capsys.readouterr()
    assert (printed.err, printed.out) == (said, said)


@pytest.mark.parametrize("how", ["no stamp", "no figure", "older stamp", "other sources"])
def test_what_these_sources_have_not_made_here_is_not_compared(
    repository: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    stamp = paths.stamp("testbed", "03_entropy")
    if how == "no stamp":
        stamp.unlink()
    elif how == "no figure":
        (paths.outputs("testbed") / "03_entropy.png").unlink()
    elif how == "older stamp":
        paths.stage("testbed", "03_entropy").write_bytes(paths.stage("testbed", "03_entropy").read_bytes())
    else:
        plant(repository)
    assert verdict.main([]) == 1
    assert "03_entropy" in (said := capsys.readouterr().err) and "not made here by these sources; `make all`" in said
    assert verdict.main(["--where-made"]) == 0


def test_another_look_of_a_figure_is_taken_where_the_code_is_another(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawing = paths.outputs("testbed") / "03_entropy.png"
    with Image.open(drawing) as old:
        picture = old.convert("RGB")
    picture.putpixel((5, 5), (0, 0, 0))
    picture.save(drawing)
    assert conclude(capsys)[0] == 0 and git("status", "--porcelain") == "", "the last pixels of another processor"
    plant(repository)
    prepare()
    status, lines = conclude(capsys)
    assert status == 1 and lines[0] == "03_entropy.png: a picture -> another"
    assert "figures/testbed/03_entropy.png" in git("status", "--porcelain")
