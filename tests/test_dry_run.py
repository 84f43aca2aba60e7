"""A dry run goes through every step without a model, and stops at what would stop the real run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_registry import write_rows

from dontblink import dry_run, params, paths
from dontblink.benchmarks import registry
from dontblink.items import Score

ROOT = Path(__file__).resolve().parents[1]
OFFICIAL = ROOT.parent / "shared" / "fixtures"


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A study of ten made-up rows in MMMU_Pro's layout, no checkpoint and no annotation beside them."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    file = write_rows(tmp_path, 10)
    _, sections = params.load(ROOT / "params" / "paper.yaml")
    params.override(sections, f"extraction.benchmarks=[mmmu_pro] questions.mmmu_pro_source={file}")
    params.override(sections, "questions.n_test_items=6 questions.n_calibration_items=4")
    params.write_sections(sections, paths.results("paper") / "params")
    return "paper"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = dry_run.main(list(arguments))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_every_model_prompts_and_both_scorers_read_the_gold_answers_back(
    profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "--profile", profile, "--items", "3")
    assert code == 0 and out.splitlines()[-1] == "dry run: every step went through; no model was loaded"
    assert "10 items lack accepted evidence boxes" in out and "6 test, 4 calibration items of 2 strata" in out
    for model in ("Qwen3-VL-2B-Thinking", "Qwen3-VL-8B-Thinking", "GLM-4.6V-Flash"):
        assert f"{model}: prompts through a stand-in (one token a byte: texts 3 to 4 times as long); thinks" in out
    assert out.count("3 of 3 prompted") == 3 and out.count("strict 3") == 3


def test_a_scorer_that_cannot_read_the_gold_answer_stops_it(
    profile: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "score", lambda *_: {"strict": Score(False, False, "")})
    code, _, err = run(capsys, "--profile", profile, "--items", "2")
    assert code == 1 and "dry run: 6 problems, the first: item mmmu_pro-test_Art_" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "extraction.models=[LLaVA-9B]",
            "models/paper/LLaVA-9B: no checkpoint, and no stand-in of LLaVA-9B; download it",
        ),
        ("questions.mmmu_pro_source=nowhere/rows.jsonl", "nowhere/rows.jsonl"),
    ],
)
def test_what_is_missing_is_one_line_with_the_remedy(
    profile: str, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    sections: dict[str, dict[str, Any]] = {
        name: params.read_section(profile, name) for name in ("extraction", "questions", "testbed", "server")
    }
    params.override(sections, override)
    params.write_sections(sections, paths.results(profile) / "params")
    code, _, err = run(capsys, "--profile", profile)
    assert code == 1 and message in err and err.count("\n") == 1


def test_official_files_go_through_every_step(profile: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not OFFICIAL.is_dir():
        pytest.skip("official files are not part of the repository: ../shared/fixtures")
    sections = {name: params.read_section(profile, name) for name in ("extraction", "questions")}
    params.override(
        sections, "extraction.benchmarks=[mathvista,mmmu_pro,hallusionbench] extraction.models=[GLM-4.6V-Flash]"
    )
    params.write_sections(sections, paths.results(profile) / "params")
    code, out, err = run(capsys, "--profile", profile, "--official", str(OFFICIAL), "--items", "4")
    assert code == 0, err
    assert "official files of mathvista, mmmu_pro, hallusionbench" in out
    assert "1951 rows have no picture file; grey ones of the recorded size stand in" in out
    assert out.count("4 of 4 prompted") == 3 and out.count("strict 4") == 3
