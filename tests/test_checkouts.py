"""Other people's checkouts: clones whose git converts line ends, archives without git, interrupted runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from dontblink import paths

ROOT = paths.ROOT


def test_a_clone_with_autocrlf_holds_the_same_bytes_and_its_scripts_start(tmp_path: Path) -> None:
    git = ["git", "-c", "core.autocrlf=true", f"--git-dir={tmp_path}/git"]
    clone = tmp_path / "clone"
    clone.mkdir()
    subprocess.run([*git, "init", "-q", "--bare"], check=True)
    subprocess.run([*git, f"--work-tree={ROOT}", "add", "-A"], cwd=ROOT, check=True)  # uncommitted work counts, too
    subprocess.run([*git, f"--work-tree={clone}", "checkout-index", "-a"], cwd=clone, check=True)
    files = [file.relative_to(clone) for file in clone.rglob("*") if file.is_file()]
    assert len(files) > 300
    assert [file for file in files if (clone / file).read_bytes() != (ROOT / file).read_bytes()] == []
    started = subprocess.run(["./.ci/install", tmp_path / "none", "no-such-python"], cwd=clone, capture_output=True)
    assert started.stderr.startswith(b"no-such-python not found: install Python 3.11")
