"""`make diff` names every number that moved, by how much, and an edited verdict rule."""

import json
import subprocess
from pathlib import Path

import pytest

from dontblink import paths
from dontblink.publish import changes
from dontblink.publish.changes import Change, compare

ROOT = paths.ROOT


def test_every_kind_of_change_is_described_by_its_key() -> None:
    old = {"a": {"b": 0.5, "c": 1}, "d": [1, 2], "gone": 3, "zero": 0, "verdict": "reproduced"}
    new = {"a": {"b": 0.6, "c": 1}, "d": [1, 4], "new": "x", "zero": 1, "verdict": "not reproduced"}
    found = list(compare(old, new))
    assert found[0] == Change("a.b", 0.5, 0.6)
    assert [change.describe() for change in found] == [
        "a.b: 0.5 -> 0.6 (+20 %)", "d.1: 2 -> 4 (+1e+02 %)", "gone: 3 -> nothing", "new: nothing -> x",
        "verdict: reproduced -> not reproduced", "zero: 0 -> 1",
    ]  # fmt: skip


@pytest.fixture
def committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small repository with the recorded numbers and the ledger committed."""
    for pattern in ("figures/testbed/*.json", "paper/claims.yaml", "params/testbed.yaml"):
        for file in ROOT.glob(pattern):
            copy = tmp_path / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-C", str(tmp_path)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "numbers"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


def test_nothing_moved_is_said(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert changes.main([]) == 0
    assert capsys.readouterr().out == "0 numbers of testbed differ from HEAD\n"


def test_an_edited_verdict_rule_shows_before_the_notebook_ran_again(committed: Path) -> None:
    file = committed / "paper" / "claims.yaml"
    file.write_text(file.read_text().replace("at_least: 0.57", "at_least: 0.4"))
    found = {change.key: change for change in changes.find_changes("testbed")}
    assert found["08_claims.claims.C1.rule.conditions.large_enough.at_least"][1:] == (0.57, 0.4)
    assert found["08_claims.claims.C1.conditions.large_enough.n_met"].new == 9
    assert all(key.startswith("08_claims.claims.C1.") for key in found)


def test_a_moved_number_shows_with_what_hangs_on_it(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = committed / "figures" / "testbed" / "05_veto.json"
    numbers = json.loads(file.read_text())
    numbers["rules"]["benchmark"]["all"]["visual_reference"]["veto"]["ci_low"] = 0.001
    file.write_text(json.dumps(numbers))
    assert changes.main([]) == 0
    printed = capsys.readouterr().out
    assert "05_veto.rules.benchmark.all.visual_reference.veto.ci_low: " in printed
    assert "08_claims.claims.C5.verdict: not reproduced -> same direction" in printed


def test_changes_below_a_size_are_counted_and_not_listed(committed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = committed / "figures" / "testbed" / "02_collapse.json"
    numbers = json.loads(file.read_text())
    numbers |= {"small": 1.0, "large": 1.0, "zero": 0, "text": "a"}
    file.write_text(json.dumps(numbers))
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "-C", str(committed)]
    subprocess.run([*git, "commit", "-q", "-a", "-m", "more"], check=True)
    file.write_text(json.dumps(numbers | {"small": 1.0005, "large": 0.99, "zero": 1e-9, "text": "b"}))
    assert changes.main(["--above", "0.1"]) == 0
    printed = capsys.readouterr().out.splitlines()
    listed = [line.split(":")[0].removeprefix("02_collapse.") for line in printed if line.startswith("02_collapse.")]
    assert listed == ["large", "text", "zero"]
    n_changed = int(printed[-1].split()[0])  # the ledger's hash of its inputs is among them
    assert printed[-1] == f"{n_changed} numbers of testbed differ from HEAD, {n_changed - 1} by more than 0.1 %"
