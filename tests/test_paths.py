"""Folders are found from anywhere, and a file appears whole or not at all."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dontblink import paths
from dontblink.paths import PathsError


def make_checkout(folder: Path, name: str = "dontblink") -> Path:
    """Make a folder look like a checkout of a project."""
    (folder / "lib" / name).mkdir(parents=True)
    (folder / "pyproject.toml").write_text(f'[project]\nname = "{name}"\n')
    return folder


def test_the_root_is_this_checkout_from_any_working_directory(tmp_path: Path) -> None:
    code = "from dontblink import paths; print(paths.ROOT)"
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT / "lib")}
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert Path(printed.strip()) == Path(__file__).resolve().parents[1]


def test_an_editable_package_decides_over_the_working_directory(tmp_path: Path) -> None:
    here, there = make_checkout(tmp_path / "here"), make_checkout(tmp_path / "there")
    assert paths.find_root(here / "lib" / "dontblink", there) == here


def test_a_copied_package_walks_up_past_other_projects(tmp_path: Path) -> None:
    outer = make_checkout(tmp_path / "outer")
    inner = make_checkout(outer / "vendored" / "inner", name="another")
    assert paths.find_root(tmp_path / "site-packages" / "dontblink", inner / "lib") == outer


def test_outside_a_checkout_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PathsError, match="not inside a dontblink checkout; change into one"):
        paths.find_root(tmp_path / "site-packages" / "dontblink", tmp_path)


def test_each_kind_of_file_has_its_folder_below_its_profile() -> None:
    folders = [paths.responses, paths.traces, paths.tables, paths.notebooks, paths.results, paths.figures]
    found = [folder("paper") for folder in folders]
    assert len(set(found)) == len(folders)
    assert all("paper" in folder.relative_to(paths.ROOT).parts for folder in found)
    assert paths.params_file("testbed").is_file()
    assert paths.show(paths.section_file("testbed", "collapse")) == "results/testbed/params/collapse.json"
    assert paths.show(paths.shard_list("testbed")) == "results/testbed/shards.txt"
    assert paths.show(paths.extraction_manifest("testbed")) == "results/testbed/extraction.json"


@pytest.mark.parametrize("profile", ["", "..", "a/b", "Paper", "x y"])
def test_a_profile_that_could_leave_its_folder_is_refused(profile: str) -> None:
    with pytest.raises(PathsError, match="profile"):
        paths.results(profile)


def test_a_path_elsewhere_is_shown_in_full(tmp_path: Path) -> None:
    assert paths.show(tmp_path / "x") == str(tmp_path / "x")


def test_a_whole_file_is_seen_only_when_it_is_finished(tmp_path: Path) -> None:
    file = tmp_path / "new" / "table.csv"
    with paths.whole_file(file) as temporary:
        temporary.write_text("half")
        assert not file.exists()
        temporary.write_text("whole")
    assert file.read_text() == "whole"
    assert list(file.parent.iterdir()) == [file]


def test_a_failure_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("old")
    with pytest.raises(ValueError, match="stop"), paths.whole_file(file) as temporary:
        temporary.write_text("half")
        raise ValueError("stop")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, "No space left on device; free some space and run again, what is finished stays"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "Read-only file system; remount the disk"),
        (errno.EACCES, "Permission denied; become its owner"),
    ],
)
def test_what_cannot_be_written_is_one_line_with_folder_and_remedy(tmp_path: Path, number: int, expected: str) -> None:
    file = tmp_path / "tables" / "items.parquet"
    with pytest.raises(PathsError, match=expected) as found, paths.whole_file(file) as temporary:
        temporary.write_text("half")
        raise OSError(number, "as the system says it")
    assert str(found.value).startswith(f"{file.parent}: items.parquet not written: ") and "\n" not in str(found.value)
    assert list(file.parent.iterdir()) == []


def test_another_failure_to_write_is_left_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), paths.whole_file(tmp_path / "x"):
        raise IsADirectoryError(errno.EISDIR, "a folder")


def test_two_writers_of_one_file_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    with paths.whole_file(tmp_path / "x") as one, paths.whole_file(tmp_path / "x") as other:
        assert one != other
        one.write_text("1")
        other.write_text("2")
    assert (tmp_path / "x").read_text() == "1"
