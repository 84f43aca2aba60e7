"""A dry run goes through every step without a model, and stops at what would stop the real run."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from small_items import write_rows
from test_makefile import Tree

from dontblink import params, paths
from dontblink.questions import registry
from dontblink.questions.items import Score
from dontblink.questions.sources import Row
from dontblink_testbed import dry_run

ROOT = paths.ROOT
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


def change(profile: str, overrides: str) -> None:
    """Override parameters of the profile."""
    sections: dict[str, dict[str, Any]] = {name: params.read_section(profile, name) for name in params.SECTIONS}
    params.override(sections, overrides)
    params.write_sections(sections, paths.results(profile) / "params")


def test_every_model_prompts_and_both_scorers_read_the_gold_answers_back(
    profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "--profile", profile, "--items", "3")
    assert code == 0 and out.splitlines()[-1] == "dry run: every step went through; no model was loaded"
    assert "10 items lack accepted evidence boxes" in out and "6 test, 4 calibration items of 2 strata" in out
    for model in ("Qwen3-VL-2B-Thinking", "Qwen3-VL-8B-Thinking", "GLM-4.6V-Flash"):
        assert f"{model}: prompts through a stand-in (one token a byte: texts 3 to 4 times as long); thinks" in out
    assert out.count("3 of 3 prompted") == 3 and out.count("strict 3") == 3
    missing = [line for line in out.splitlines() if "the extraction would end here: " in line]
    assert len(missing) == 3 + (not torch.cuda.is_available()) 
    assert torch.cuda.is_available() or "device cuda: torch" in missing[0]
    assert "paper/GLM-4.6V-Flash: no checkpoint here" in missing[-1]


def test_a_picture_of_a_model_or_benchmark_that_is_not_asked_is_told_beforehand(
    profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(profile, "extraction.models=[GLM-4.6V-Flash] collapse.picture_benchmark=vstar")
    _, out, _ = run(capsys, "--profile", profile, "--items", "1")
    assert "collapse.picture_model is Qwen3-VL-8B-Thinking, expected one of extraction.models, GLM-4.6V-Flash;" in out
    assert "collapse.picture_benchmark is vstar, expected one of extraction.benchmarks, mmmu_pro;" in out
    change(profile, "collapse.picture_model=GLM-4.6V-Flash collapse.picture_benchmark=mmmu_pro")
    assert "notebook 02" not in run(capsys, "--profile", profile, "--items", "1")[1]


def test_a_scorer_that_cannot_read_the_gold_answer_stops_it(
    profile: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "score", lambda *_: {"strict": Score(False, False, "")})
    code, _, err = run(capsys, "--profile", profile, "--items", "2")
    assert code == 1 and "dry run: 6 problems, the first: item mmmu_pro-test_Art_" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("extraction.models=[LLaVA-9B]", "paper/LLaVA-9B: no checkpoint, and no stand-in of LLaVA-9B; download it"),
        ("questions.mmmu_pro_source=nowhere/rows.jsonl", "nowhere/rows.jsonl"),
        ("extraction.thinking=disabled extraction.models=[Qwen3-VL-2B-Thinking]",
         "Qwen3-VL-2B-Thinking: its chat template always thinks, thinking is disabled here; use the -Instruct"),
    ],
)  # fmt: skip
def test_what_is_missing_is_one_line_with_the_remedy(
    profile: str, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    change(profile, override)
    code, _, err = run(capsys, "--profile", profile)
    assert code == 1 and message in err and err.count("\n") == 1


@pytest.mark.slow
def test_official_files_go_through_every_step(profile: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not OFFICIAL.is_dir():
        pytest.skip("official files are not part of the repository: ../shared/fixtures")
    change(profile, "extraction.benchmarks=[mathvista,mmmu_pro,hallusionbench] extraction.models=[GLM-4.6V-Flash]")
    code, out, err = run(capsys, "--profile", profile, "--official", str(OFFICIAL), "--items", "4")
    assert code == 0, err
    assert "official files of mathvista, mmmu_pro, hallusionbench" in out
    assert "1951 rows have no picture file; grey ones of the recorded size stand in" in out
    assert out.count("4 of 4 prompted") == 3 and out.count("strict 4") == 3


def test_models_that_can_be_told_not_to_think_go_through_without_thinking(
    profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(profile, "extraction.thinking=disabled extraction.models=[Qwen3-VL-2B-Instruct,GLM-4.6V-Flash]")
    code, out, err = run(capsys, "--profile", profile, "--items", "2")
    assert code == 0, err
    assert out.count("; does not think") == 2 and out.count("strict 2, official 2 of 2") == 2


def test_a_profile_that_is_no_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--profile", "../x")
    assert code == 1 and err == "dry run: profile '../x'; expected small letters, digits and _; correct it\n"


def test_a_machine_that_fails_while_it_reads_pictures_is_one_line(
    profile: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", fail)
    code, _, err = run(capsys, "--profile", profile)
    assert code == 1 and "memory ran out" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("metadata", "size"),
    [({"img_width": 30, "img_height": 20}, (30, 20))]
    + [(odd, (512, 512)) for odd in (
        "img_width: 30", None, [30, 20], {"img_width": 30}, {"img_width": "wide", "img_height": 20},
        {"img_width": -30, "img_height": -20}, {"img_width": 10**6, "img_height": 10**6},
    )],
)  # fmt: skip
def test_a_grey_picture_has_the_recorded_size_where_a_picture_can_have_it(metadata: Any, size: tuple[int, int]) -> None:
    assert Image.open(io.BytesIO(dry_run.draw_grey(Row("row 1", {"metadata": metadata}, {})))).size == size


def test_a_picture_whose_name_no_file_can_have_is_a_grey_one(tmp_path: Path) -> None:
    pictures = dry_run.GreyPictures()
    row = pictures(Row("row 1", {}, {"image": tmp_path / ("x" * 300)}))
    assert isinstance(row.images["image"], bytes) and pictures.n_rows == 1


def test_a_folder_without_an_official_file_is_one_line(
    profile: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(capsys, "--profile", profile, "--official", str(tmp_path))
    assert code == 1 and err.startswith(
        f"dry run: {tmp_path}: no official file; expected one of mathvista/testmini.json"
    )
    assert err.count("\n") == 1


def test_make_asks_the_configured_sources_unless_a_folder_of_official_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    tree = Tree(tmp_path / "tree")
    (tmp_path / "shared" / "fixtures").mkdir(parents=True)

    def recipe(*arguments: str) -> str:
        printed = tree.make("-n", "extract", "PROFILE=paper", "DRY=1", *arguments).stdout
        return next(line for line in printed.splitlines() if "dontblink_testbed.dry_run" in line).rstrip()

    assert recipe().endswith("-m dontblink_testbed.dry_run --profile paper")
    assert recipe("OFFICIAL=it's here").endswith(r"--profile paper --official 'it'\''s here'")
