"""A small study made again here: with other arithmetic it is within tolerance, with another estimator it is not.

The third case, the same bytes on another vendor's processor, takes emulation: `make portable`.
"""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import portable
import pytest

pytestmark = pytest.mark.slow
PLANTED = ("risk.mean(axis=1)", "risk[:, size // 10 :].mean(axis=1)")  # the area without the surest tenth


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository whose tracked results were made natively, with the portable settings."""
    folder = portable.make_repository(tmp_path_factory.mktemp("portable") / "native")
    portable.make_study(folder)
    portable.conclude(folder)
    portable.commit(folder)
    return folder


@pytest.fixture
def repository(committed: Path, tmp_path: Path) -> Path:
    """Return a copy of it."""
    return Path(shutil.copytree(committed, tmp_path / "copy", symlinks=True))


def list_status(folder: Path) -> list[str]:
    """Return what git says has changed."""
    return portable.run(["git", "status", "--porcelain"], folder).splitlines()


def test_a_study_that_estimates_something_is_the_same_bytes_again(repository: Path) -> None:
    for stem in portable.NOTEBOOKS:
        assert len(portable.list_finite(repository, stem)) > 10, stem
    before = portable.read_results(repository)
    shutil.rmtree(repository / "results")
    portable.make_study(repository)
    after = portable.read_results(repository)
    assert [name for name in {*before, *after} if before.get(name) != after.get(name)] == []
    said = portable.conclude(repository)
    assert said.returncode == 0 and said.stdout.startswith("reproduced: ") and ", the same bytes as " in said.stdout
    assert list_status(repository) == []


@pytest.mark.skipif(
    platform.machine() != "x86_64" or "avx512f" not in Path("/proc/cpuinfo").read_text(),
    reason="without AVX-512 the settings change next to nothing here",
)
def test_without_the_settings_it_is_within_tolerance_and_the_tracked_files_stay(repository: Path) -> None:
    portable.make_study(repository, overrides="arithmetic.portable=false")
    said = portable.conclude(repository)
    assert said.returncode == 0, said.stdout
    assert said.stdout.startswith("reproduced within tolerance: largest move ") and len(said.stdout.splitlines()) == 1
    assert list_status(repository) == []


def test_a_planted_change_of_an_estimator_is_not_reproduced(repository: Path) -> None:
    module = repository / "lib" / "dontblink" / "studies" / "risk_coverage.py"
    text = module.read_text()
    assert text.count(PLANTED[0]) == 1
    module.write_text(text.replace(*PLANTED))
    portable.make_study(repository)
    said = portable.conclude(repository)
    *moves, last = said.stdout.splitlines()
    assert said.returncode == 1 and last.startswith("NOT reproduced: ") and 1 <= len(moves) <= 10
    sizes = [float(line.rsplit("(", 1)[1].split(" %")[0]) for line in moves if line.endswith(")")]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1
    assert "lib/dontblink/studies/risk_coverage.py" in last and "in 05_veto" in last
    changed = {line.split()[-1] for line in list_status(repository)}
    assert "figures/small/05_veto_selective.csv" in changed and not any("03_entropy" in name for name in changed)
