"""A short fault campaign (`make campaign` runs the long one): killed, starved and damaged runs lose nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import trials

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the campaign in a process of its own, which forks."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the campaign forks processes that have torch loaded and reads /proc: Linux only")
    file = tmp_path_factory.mktemp("campaign") / "report.json"
    options = ["--short", "--kills", "9", "--seed", "3", "--allow-skips", "--json", str(file)]
    command = [sys.executable, str(HERE / "campaign.py"), *options]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1] / "lib")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert file.exists(), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(file.read_text())
    print(done.stdout)
    assert (done.returncode == 0) == (found["is_clean"] and not found["gaps"])
    return found


def test_killed_runs_lose_and_duplicate_no_item_and_leave_no_torn_file(report: dict[str, Any]) -> None:
    assert report["random_kills"] == 9 and report["gaps"] == []
    assert (report["lost"], report["duplicated"], report["torn"]) == (0, 0, 0)


def test_every_resumed_run_ends_with_the_files_of_an_undisturbed_one(report: dict[str, Any]) -> None:
    assert report["problems"] == []


@pytest.mark.parametrize("fault", ["flipped bit", "cut file", "damaged list", "clock", "two runs at once"])
def test_the_other_faults_were_there(report: dict[str, Any], fault: str) -> None:
    assert report["faults"][fault] >= 1


@pytest.mark.parametrize("fault", ["full disk", "read-only folder"])
def test_disks_were_filled_and_made_read_only(report: dict[str, Any], fault: str) -> None:
    if fault in report["skipped"]:
        pytest.skip(report["skipped"][fault])
    assert report["faults"][fault] >= 2


def make_whole() -> trials.Report:
    """Return the report of a campaign in which nothing is missing."""
    kills, faults = Counter(trials.NEEDED_STAGES), Counter(trials.NEEDED_FAULTS)
    return trials.Report(kills, random_kills=9, faults=faults)


def test_a_campaign_that_tried_everything_is_complete() -> None:
    assert make_whole().find_gaps(9, allow_skips=False) == []


@pytest.mark.parametrize("stage", trials.NEEDED_STAGES)
def test_a_stage_without_a_kill_makes_a_campaign_incomplete(stage: str) -> None:
    report = make_whole()
    report.kills["start"] += report.kills.pop(stage)
    assert report.find_gaps(9, allow_skips=True) == [f"no kill landed in {stage}"]


@pytest.mark.parametrize("fault", trials.NEEDED_FAULTS)
def test_a_fault_that_was_not_tried_makes_a_campaign_incomplete_unless_skips_are_allowed(fault: str) -> None:
    report = make_whole()
    del report.faults[fault]
    assert report.find_gaps(9, allow_skips=True) == [f"no {fault}"]  # without a reason it is no skip
    report.skipped[fault] = "it takes root"
    assert report.find_gaps(9, allow_skips=False) == [f"{fault}: skipped, it takes root; or pass --allow-skips"]
    assert report.find_gaps(9, allow_skips=True) == []


def test_kills_that_come_too_late_make_a_campaign_incomplete_however_many_others_landed() -> None:
    report = make_whole()
    report.kills["shard writing"] += 200
    report.random_kills = 8
    assert report.find_gaps(9, allow_skips=True) == ["8 of 9 kills at random moments landed, the others came too late"]
    assert "\nINCOMPLETE: 8 of 9 kills" in report.describe(report.find_gaps(9, allow_skips=True))


def test_a_campaign_without_kills_is_refused() -> None:
    command = [sys.executable, str(HERE / "campaign.py"), "--kills", "0"]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1] / "lib")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "--kills 0: expected 1 or more" in done.stderr
