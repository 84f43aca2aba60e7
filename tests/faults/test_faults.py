"""A short fault campaign (`make campaign` runs the long one): killed, starved and damaged runs lose nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import trials

from dontblink import paths

CAMPAIGN = [sys.executable, str(paths.ROOT / "tests" / "faults" / "campaign.py")]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the campaign in a process of its own, which forks."""
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT / "lib")}
    return subprocess.run([*CAMPAIGN, *options], env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_killed_starved_and_damaged_runs_lose_nothing_and_end_as_an_undisturbed_one(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("the campaign forks processes that have torch loaded and reads /proc: Linux only")
    file = tmp_path / "report.json"
    done = run("--short", "--kills", "9", "--seed", "3", "--allow-skips", "--json", str(file))
    assert file.exists(), done.stdout + done.stderr
    report = json.loads(file.read_text())
    assert (report["problems"], report["gaps"], done.returncode) == ([], [], 0), done.stdout
    assert (report["lost"], report["duplicated"], report["torn"], report["random_kills"]) == (0, 0, 0, 9)
    assert set(report["faults"]) | set(report["skipped"]) == set(trials.NEEDED_FAULTS)
    assert not {fault for fault in report["skipped"] if not re.search("disk|folder|user", fault)}  # these take root


@pytest.mark.parametrize("missing", ["", "kills", *trials.NEEDED_STAGES, *trials.NEEDED_FAULTS])
def test_a_campaign_that_did_not_try_everything_is_incomplete(missing: str) -> None:
    kills, faults = Counter(trials.NEEDED_STAGES), Counter(trials.NEEDED_FAULTS)
    kills["start"] += 200  # however many others landed
    report = trials.Report(kills, random_kills=8 if missing == "kills" else 9, faults=faults)
    del kills[missing], faults[missing]
    gaps = {"": [], "kills": ["8 of 9 kills at random moments landed, the others came too late"]}
    gaps |= {stage: [f"no kill landed in {stage}"] for stage in trials.NEEDED_STAGES}
    expected = gaps.get(missing, [f"no {missing}"])
    assert report.find_gaps(9, allow_skips=True) == expected  # without a reason it is no skip
    assert all(f"INCOMPLETE: {gap}" in report.describe(expected) for gap in expected)
    if missing in trials.NEEDED_FAULTS:
        report.skipped[missing] = "it takes root"
        assert report.find_gaps(9, allow_skips=False) == [f"{missing}: skipped, it takes root; or pass --allow-skips"]
        assert report.find_gaps(9, allow_skips=True) == []


@pytest.mark.slow
def test_a_campaign_without_kills_is_refused() -> None:
    done = run("--kills", "0")
    assert done.returncode == 2 and "--kills 0: expected 1 or more" in done.stderr
