"""The ledger is what the recorded numbers give, in the files, in the README, and to the last digit."""

import json
from pathlib import Path

import pytest

from dontblink import paths
from dontblink.publish import claims
from dontblink.publish.claims import ClaimsError
from dontblink.publish.numbers import Numbers, NumbersError

ROOT = Path(__file__).resolve().parents[1]
LEDGER = claims.read_ledger()
RECORDED = Numbers("testbed").read(claims.STEM)


def test_the_six_claims_are_there_and_nothing_is_testable_without_its_numbers() -> None:
    assert list(LEDGER["claims"]) == ["C1", "C2", "C3", "C4", "C5", "C6"]
    assert RECORDED["claims"]["C6"]["verdict"] == "not testable"


def test_the_recorded_ledger_is_what_the_recorded_numbers_give() -> None:
    """One digit changed by hand, in any number file, and this or the next test fails."""
    assert RECORDED["inputs"] == claims.hash_inputs("testbed")
    assert RECORDED["claims"] == json.loads(json.dumps(claims.build_ledger("testbed")))


def test_the_readme_shows_the_recorded_ledger() -> None:
    text = (ROOT / "README.md").read_text()
    assert claims.replace_block(text, claims.render_block(RECORDED, "testbed")) == text, "run `make all`"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the recorded numbers as a project of its own."""
    folder = tmp_path / "figures" / "testbed"
    folder.mkdir(parents=True)
    for file in (ROOT / "figures" / "testbed").glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    for name in ("paper/claims.yaml", "params/testbed.yaml", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return folder


@pytest.mark.parametrize("stem", [*RECORDED["inputs"], claims.STEM])
def test_a_digit_changed_by_hand_is_noticed_in_every_number_file(project: Path, stem: str) -> None:
    file = project / f"{stem}.json"
    text = file.read_text()
    place = max(k for k, letter in enumerate(text) if letter.isdigit())
    file.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])
    recorded = Numbers("testbed").read(claims.STEM)
    block = claims.render_block(recorded, "testbed")
    readme = (ROOT / "README.md").read_text()
    assert recorded["inputs"] != claims.hash_inputs("testbed") or claims.replace_block(readme, block) != readme


def test_an_unknown_unit_is_refused_with_the_claims_name(project: Path) -> None:
    file = project.parents[1] / "paper" / "claims.yaml"
    file.write_text(file.read_text().replace("unit: points", "unit: miles"))
    with pytest.raises(ClaimsError, match=r"paper/claims.yaml: C5: unit 'miles', expected one of percent"):
        claims.read_ledger()


def test_a_lost_number_file_is_named(project: Path) -> None:
    (project / "05_veto.json").unlink()
    with pytest.raises((ClaimsError, NumbersError), match=r"C5: figures/testbed/05_veto.json: not there"):
        claims.build_ledger("testbed")


def test_the_command_writes_the_block_once(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = project.parents[1] / "README.md"
    text = file.read_text().replace("| C5 targeted vision veto |", "| C5 something else |")
    file.write_text(text)
    assert claims.main(["--readme"]) == 0 and "written" in capsys.readouterr().out
    assert "C5 targeted vision veto" in file.read_text()
    assert claims.main(["--readme"]) == 0 and "unchanged" in capsys.readouterr().out
    file.write_text("no markers")
    assert claims.main(["--readme"]) == 1 and "put them back" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.574, "percent", "57 %"),
        (-0.0003, "points", "−0.03 points"),
        (-0.0004, "auroc", "0.000"),
        (2, "log_odds", "2.000"),
    ],
)
def test_a_number_is_shown_in_its_unit_and_zero_has_no_sign(value: float, unit: str, text: str) -> None:
    assert claims.show_value(value, unit) == text
