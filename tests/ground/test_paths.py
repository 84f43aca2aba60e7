"""Folders are found from anywhere and never lead out of the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dontblink import paths
from dontblink.errors import NamedError


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
    assert Path(printed.strip()) == Path(__file__).resolve().parents[2]


def test_an_editable_package_decides_over_the_working_directory(tmp_path: Path) -> None:
    here, there = make_checkout(tmp_path / "here"), make_checkout(tmp_path / "there")
    assert paths.find_root(here / "lib" / "dontblink", there) == here


def test_a_copied_package_walks_up_past_other_projects(tmp_path: Path) -> None:
    outer = make_checkout(tmp_path / "outer")
    inner = make_checkout(outer / "vendored" / "inner", name="another")
    assert paths.find_root(tmp_path / "site-packages" / "dontblink", inner / "lib") == outer


def test_outside_a_checkout_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NamedError, match="not inside a dontblink checkout; change into one"):
        paths.find_root(tmp_path / "site-packages" / "dontblink", tmp_path)


@pytest.mark.parametrize("profile", ["", "..", "a/b", "Paper", "x y", "$(x)", "a\n", "A"])
def test_a_profile_that_could_leave_its_folder_is_refused(profile: str) -> None:
    with pytest.raises(NamedError, match="profile"):
        paths.results(profile)


def test_a_path_elsewhere_is_shown_in_full(tmp_path: Path) -> None:
    assert paths.show(tmp_path / "x") == str(tmp_path / "x")


def test_without_a_checkout_only_what_needs_the_root_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Path) -> Path:
        raise NamedError("not inside a checkout")

    with monkeypatch.context() as patch:
        patch.delattr(paths, "ROOT")
        patch.setattr(paths, "find_root", refuse)
        assert paths.show(tmp_path / "x") == str(tmp_path / "x")
        for ask in (lambda: paths.ROOT, lambda: paths.results("testbed"), lambda: paths.params_file("testbed")):
            with pytest.raises(NamedError, match="not inside a checkout"):
                ask()
    with pytest.raises(AttributeError, match="no attribute 'OTHER'"):
        _ = paths.OTHER
    assert (paths.ROOT / "pyproject.toml").is_file()
