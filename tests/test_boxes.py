"""Claims about the commands: they work as the README shows them, and say by their exit code whether all is well."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_vlm import make_item

from dontblink.boxes.__main__ import main
from dontblink.boxes.annotations import Annotation, read_strictly, save_images, write_annotations
from dontblink.questions.items import Box

ITEMS = [make_item("a", (40, 30)), make_item("b", (16, 16))]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Return a folder with pictures and one accepted image of two annotators."""
    images = save_images(ITEMS, tmp_path / "pictures")
    facts = images["a", 0]
    for name, right in (("ana", 20.0), ("bo", 22.0)):
        boxes = (Box(0, 1.0, 1.0, right, 20.0, "why"),)
        row = Annotation("a", 0, facts.size, facts.sha256, boxes, name, "accepted", "drawn")
        write_annotations(tmp_path / "x.jsonl", [row])
    return tmp_path


def test_report_names_what_lacks_boxes_and_fails_until_all_have_them(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["report", str(desk / "x.jsonl"), "--images", str(desk / "pictures")]
    assert main(command) == 1
    assert capsys.readouterr().out == "demo: 1 of 2 items annotated (0 of them as without evidence)\n  lacking (1): b\n"
    facts = save_images(ITEMS, desk / "pictures")["b", 0]
    write_annotations(desk / "x.jsonl", [Annotation("b", 0, facts.size, facts.sha256, (), "ana", "accepted", "drawn")])
    assert main(command) == 0 and "2 of 2 items annotated (1 of them" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["coco", "label-studio", "cvat"])
def test_what_export_writes_import_reads(desk: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--images", str(desk / "pictures"), "--format", kind]
    assert main(["export", str(desk / "x.jsonl"), *common, "--to", str(desk / "tool")]) == 0
    assert main(["import", str(desk / "back.jsonl"), *common, "--from", str(desk / "tool")]) == 0
    assert "2 images with 2 boxes" in capsys.readouterr().out
    assert [(row.annotator, row.source) for row in read_strictly(desk / "back.jsonl")] == [
        ("ana", "imported from tool"), ("bo", "imported from tool"),
    ]  # fmt: skip


def test_a_rejected_row_is_printed_and_fails_the_import(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}]
    document = {"images": [{"id": 1, "file_name": "z.png"}], "annotations": rows, "categories": []}
    (desk / "coco.json").write_text(json.dumps(document))
    arguments = [
        "import",
        str(desk / "x.jsonl"),
        "--images",
        str(desk / "pictures"),
        "--format",
        "coco",
        "--annotator",
        "cy",
    ]
    assert main([*arguments, "--from", str(desk / "coco.json")]) == 1
    assert "left out: coco.json, annotation 1: picture 'z.png' is none of this benchmark" in capsys.readouterr().out
    assert len(read_strictly(desk / "x.jsonl")) == 2


def test_an_import_that_would_take_back_an_acceptance_leaves_out_that_line_only(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [
        {"id": k, "file_name": f"{name}-0.png", "width": size[0], "height": size[1]}
        for k, (name, size) in enumerate((("a", (40, 30)), ("b", (16, 16))))
    ]
    boxes = [(0, [1, 1, 2, 2]), (0, [1, 1, 90, 2]), (1, [1, 1, 2, 2])]
    rows = [{"id": k, "image_id": image, "category_id": 1, "bbox": box} for k, (image, box) in enumerate(boxes)]
    document = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "bar"}]}
    (desk / "coco.json").write_text(json.dumps(document))
    before = [row for row in read_strictly(desk / "x.jsonl")]
    arguments = ["--images", str(desk / "pictures"), "--format", "coco", "--annotator", "ana"]
    assert main(["import", str(desk / "x.jsonl"), *arguments, "--from", str(desk / "coco.json")]) == 1
    shown = capsys.readouterr()
    lines = shown.out.split("\n")
    assert lines[0].startswith("left out: coco.json, annotation 1: [1.0, 1.0, 91.0, 3.0] leaves its picture")
    assert "correct it in the tool and import anew" in lines[-3] and "item 'a', image 0: a proposal" in lines[-3]
    assert "1 images with 1 boxes" in lines[-2] and shown.err == ""
    after = read_strictly(desk / "x.jsonl")
    assert after[:2] == before and [(row.item_id, row.annotator) for row in after[2:]] == [("b", "ana")]


def test_what_an_import_leaves_out_is_printed_even_where_nothing_can_be_written(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {"images": [{"id": 1, "file_name": "a-0.png"}], "annotations": [{"id": 1, "image_id": 1}]}
    (desk / "coco.json").write_text(json.dumps(document))
    (desk / "x.jsonl").write_text("{}\n")
    arguments = ["--images", str(desk / "pictures"), "--format", "coco", "--annotator", "ana"]
    assert main(["import", str(desk / "x.jsonl"), *arguments, "--from", str(desk / "coco.json")]) == 1
    shown = capsys.readouterr()
    assert "left out: coco.json, annotation 1" in shown.out and "x.jsonl, line 1" in shown.err


def test_agree_names_who_is_there_where_a_name_is_unknown_and_wants_a_token(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in (["--between", "ana", "boo"], ["--token-px", "0"], ["--token-px", "-8"]):
        assert main(["agree", str(desk / "x.jsonl"), *more]) == 1
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.count("\n") == 1
        assert "the annotators ana, bo" in shown.err or f"token_px is {more[1]}; expected" in shown.err


def test_a_place_that_cannot_be_written_is_one_line(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--images", str(desk / "pictures"), "--format", "coco"]
    (desk / "file").touch()
    for place in (desk / "pictures", desk / "file" / "tool.json"):
        assert main(["export", str(desk / "x.jsonl"), *common, "--to", str(place)]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and str(place).startswith(error.split(":")[0]), error
    assert main(["export", str(desk / "x.jsonl"), *common, "--to", str(desk / "tool.json")]) == 0
    into = ["import", str(desk / "file" / "x.jsonl"), *common, "--from", str(desk / "tool.json")]
    assert main(into) == 1 and capsys.readouterr().err.count("\n") == 1


def test_agree_prints_every_pair(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agree", str(desk / "x.jsonl"), "--token-px", "8"]) == 0
    assert "ana and bo: 1 images of 1 items" in capsys.readouterr().out
    assert main(["agree", str(desk / "x.jsonl"), "--between", "bo", "ana"]) == 0
    assert "bo and ana: 1 images" in capsys.readouterr().out


def test_missing_files_are_one_line_on_standard_error(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agree", str(desk / "none.jsonl")]) == 1
    assert "no annotations yet" in capsys.readouterr().err
    assert main(["report", str(desk / "x.jsonl"), "--images", str(desk / "nowhere")]) == 1
    assert "write the folder with" in capsys.readouterr().err


def test_the_module_is_a_command_whose_errors_are_one_line(desk: Path) -> None:
    command = [sys.executable, "-m", "dontblink.boxes"]
    shown = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(word in shown for word in ("report", "import", "export", "agree"))
    (desk / "bad.jsonl").write_text("{}\n")
    done = subprocess.run([*command, "agree", str(desk / "bad.jsonl")], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "bad.jsonl, line 1" in done.stderr
