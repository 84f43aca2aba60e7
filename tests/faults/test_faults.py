"""A short fault campaign (`make campaign` runs the long one): killed, starved and damaged runs lose nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the campaign in a process of its own, which forks."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the campaign forks processes that have torch loaded and reads /proc: Linux only")
    file = tmp_path_factory.mktemp("campaign") / "report.json"
    command = [sys.executable, str(HERE / "campaign.py"), "--short", "--kills", "9", "--seed", "3", "--json", str(file)]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1] / "lib")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert file.exists(), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(file.read_text())
    print(done.stdout)
    assert (done.returncode == 0) == found["is_clean"]
    return found


def test_killed_runs_lose_and_duplicate_no_item_and_leave_no_torn_file(report: dict[str, Any]) -> None:
    assert sum(report["kills"].values()) >= 12 and len(report["kills"]) >= 5
    assert (report["lost"], report["duplicated"], report["torn"]) == (0, 0, 0)


def test_every_resumed_run_ends_with_the_files_of_an_undisturbed_one(report: dict[str, Any]) -> None:
    assert report["problems"] == []


@pytest.mark.parametrize("fault", ["flipped bit", "cut file", "damaged list", "clock", "two runs at once"])
def test_the_other_faults_were_there(report: dict[str, Any], fault: str) -> None:
    assert report["faults"][fault] >= 1


@pytest.mark.parametrize("fault", ["full disk", "read-only folder"])
def test_disks_were_filled_and_made_read_only(report: dict[str, Any], fault: str) -> None:
    if report["skipped"]:
        pytest.skip("; ".join(report["skipped"]))
    assert report["faults"][fault] >= 2
