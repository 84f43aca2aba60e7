"""The profile that a GPU owner runs first: benchmarks that ship boxes go from their files to the tables, unannotated.

The model is a stand-in with random weights: no number here means anything.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from boxed_rows import N, write_sources

from dontblink import params, paths, schema
from dontblink.boxes.annotations import AnnotationError, describe_image, write_annotations
from dontblink.errors import NamedError
from dontblink.extraction.run import Extraction
from dontblink.extraction.study import Study
from dontblink.questions.items import Item
from dontblink_testbed import dry_run
from dontblink_testbed.stand_in import build_stand_in

ROOT = paths.ROOT
MODEL = "Qwen3-VL-2B-Thinking"
SMALL = (
    f"extraction.models=[{MODEL}] extraction.max_new_tokens=24 extraction.batch_size=4 extraction.device=cpu "
    "extraction.dtype=float32 extraction.max_image_tokens=64 extraction.image_budgets=[vstar:96] "
    "extraction.grounding_layers=1 extraction.grounding_heads=1 extraction.n_sampled_items=1 "
    "extraction.samples_per_item=2 extraction.temperature=1.0 extraction.grounding_source=visual_cot "
    "questions.n_test_items=4 questions.n_calibration_items=2"
)


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The profile `boxed` on six made-up rows of each benchmark."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / "lib").symlink_to(ROOT / "lib")  # a shard's key holds the code that makes it
    _, sections = params.load(ROOT / "params" / "boxed.yaml")
    params.override(sections, f"{write_sources(tmp_path)} {SMALL}")
    params.write_sections(sections, paths.results("boxed") / "params")
    return "boxed"


def list_items(study: Study) -> list[Item]:
    return [item for items in study.items.values() for item in items]


def test_every_benchmark_has_its_boxes_without_an_annotation(profile: str) -> None:
    study = Study(profile)
    items = list_items(study)
    assert {item.benchmark for item in items} == {"treebench", "gqa", "refchartqa", "vstar"} and len(items) == 4 * N
    unboxed = {item.id for item in items if not item.boxes}
    assert unboxed == {f"treebench-{N - 1}"} == set(study.lacking_boxes)
    assert study.lacking_boxes[f"treebench-{N - 1}"].startswith("the question is printed in the picture")
    assert {box.x1 for item in items for box in item.boxes if box.label == "dog"} == {96.0}  # 97 without the cut
    assert study.image_tokens("vstar") == 96 and study.image_tokens("gqa") == 64


def test_an_item_that_ships_boxes_and_is_annotated_is_refused(profile: str) -> None:
    file = Study(profile).evidence_file("gqa")
    study = Study(profile)
    item = next(item for item in list_items(study) if item.benchmark == "gqa")
    write_annotations(file, [describe_image(item, 0).annotate(list(item.boxes), "ana", "accepted", "drawn")])
    with pytest.raises(AnnotationError, match="boxes of its own"):
        _ = Study(profile).questions


def test_another_benchmark_chooses_the_grounding_and_its_faulty_box_is_left_out(profile: str) -> None:
    study = Study(profile)
    found = study.outside["visual_cot"]
    assert len(found.items["calibration"]) == 2 and not found.items["test"]
    assert [reason for _, reason in found.rejected] == [
        f"gqa.jsonl, row {N}: box [40, 8, 20, 30] in a picture of 96x64 px; leave the row out"
    ]
    study.settings["grounding_source"] = "mathvista"
    study.question_settings["mathvista_source"] = "data/nothing"
    del study.__dict__["outside"]
    with pytest.raises(NamedError, match="data/nothing"):
        _ = study.outside


def test_the_dry_run_prompts_every_benchmark_and_reads_its_gold_answers_back(
    profile: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dry_run.main(["--profile", profile, "--items", "2"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert out.count("2 of 2 prompted") == 4 and out.count("strict 2") == 4


def test_the_study_goes_from_files_to_tables(profile: str, tmp_path: Path) -> None:
    build_stand_in("Qwen3-VL-2B", tmp_path / "models" / "paper" / MODEL, seed=1)
    Extraction(profile).run(1)
    tables = schema.read_tables(profile, ["items", "scores", "quarantine", "heads"])
    items = tables["items"].astype({"benchmark": str, "split": str})
    assert set(items["benchmark"]) == {"treebench", "gqa", "refchartqa", "vstar"}
    assert len(items) >= 4 * N - 1
    assert "visual_cot" not in set(tables["heads"]["benchmark"].astype(str))  # it chose, and is not studied
    manifest = json.loads(paths.extraction_manifest(profile).read_text())
    assert manifest["grounding"][MODEL]["n_items"] == 2  # those of visual_cot
    assert (
        sum("visual_cot-calibration" in name for name in manifest["files"]) == 2 and "visual_cot" in manifest["sources"]
    )
    assert any("box [40, 8, 20, 30]" in reason for reason in tables["quarantine"]["reason"].astype(str))
    scorers = set(tables["scores"]["scorer"].astype(str))
    assert scorers == {"official", "official_toolkit", "official_repository", "strict"}


def test_a_budget_changes_the_responses_of_its_benchmark_alone(profile: str, tmp_path: Path) -> None:
    build_stand_in("Qwen3-VL-2B", tmp_path / "models" / "paper" / MODEL, weights="none")
    keys = {}
    for budgets in (["vstar:96"], ["vstar:80"]):
        study = Study(profile)
        study.settings["image_budgets"] = budgets
        keys[budgets[0]] = {(s.benchmark, s.split): s.response_key for s in study.all_shards(MODEL)}
    changed = {key for key, value in keys["vstar:96"].items() if keys["vstar:80"][key] != value}
    assert changed == {("vstar", "test"), ("vstar", "calibration")}
