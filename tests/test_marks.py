"""A mark says that a run here wrote a file with these bytes, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from dontblink import files, paths


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    folder = paths.figures("small")
    folder.mkdir(parents=True)
    for name in ("02_collapse.json", "02_collapse_steps.png", "02_collapsed.png", "03_entropy.png"):
        (folder / name).write_text(name)
        files.mark_made(folder / name, "small")
    return folder


def test_a_mark_holds_the_bytes_that_were_written_and_not_those_of_a_later_edit(figures: Path) -> None:
    file = figures / "03_entropy.png"
    assert files.read_mark(file, "small") == files.hash_file(file)
    file.write_text("edited")
    assert files.read_mark(file, "small") != files.hash_file(file)
    assert files.read_mark(figures / "04_never.png", "small") == ""


def test_a_notebook_that_begins_forgets_its_own_marks_only(figures: Path) -> None:
    files.forget("02_collapse", "small")
    left = {mark.name for mark in paths.made("small").iterdir()}
    assert left == {"02_collapsed.png", "03_entropy.png"}


def test_what_a_notebook_no_longer_makes_is_removed_and_other_figures_stay(figures: Path) -> None:
    files.forget("02_collapse", "small")
    files.mark_made(figures / "02_collapse.json", "small")
    assert files.remove_unmarked("02_collapse", "small") == [figures / "02_collapse_steps.png"]
    assert {file.name for file in figures.iterdir()} == {"02_collapse.json", "02_collapsed.png", "03_entropy.png"}
