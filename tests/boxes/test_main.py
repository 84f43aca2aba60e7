"""Claims about the commands: their exit code says whether all is well, and no help waits for a library."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_items import annotate, make_item

from dontblink.boxes.__main__ import main
from dontblink.boxes.annotations import read_strictly, save_images, write_annotations

ITEMS = [make_item("a", (40, 30)), make_item("b", (16, 16))]
Out = pytest.CaptureFixture[str]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Return a folder with pictures and one accepted image of two annotators."""
    facts = save_images(ITEMS, tmp_path / "pictures")["a", 0]
    for name, right in (("ana", 20.0), ("bo", 22.0)):
        write_annotations(tmp_path / "x.jsonl", [annotate(facts, (1.0, 1.0, right, 20.0), annotator=name)])
    return tmp_path


def call(desk: Path, command: str, *more: object, file: str = "x.jsonl", kind: str = "") -> int:
    """Run a command on a file of the desk, with its pictures where the command wants some."""
    pictures = [] if command == "agree" else ["--images", str(desk / "pictures")]
    return main([command, str(desk / file), *pictures, *(["--format", kind] if kind else []), *map(str, more)])


def write_coco(desk: Path, images: list[dict[str, Any]], boxes: list[tuple[int, list[int]]]) -> Path:
    """Write a COCO file of boxes on numbered images."""
    rows = [{"id": k, "image_id": image, "category_id": 1, "bbox": box} for k, (image, box) in enumerate(boxes)]
    document = {"images": images, "annotations": rows, "categories": [{"id": 1, "name": "bar"}]}
    (desk / "coco.json").write_text(json.dumps(document))
    return desk / "coco.json"


def test_report_names_what_lacks_boxes_and_fails_until_all_have_them(desk: Path, capsys: Out) -> None:
    assert call(desk, "report") == 1
    assert capsys.readouterr().out == "demo: 1 of 2 items annotated (0 of them as without evidence)\n  lacking (1): b\n"
    facts = save_images(ITEMS, desk / "pictures")["b", 0]
    write_annotations(desk / "x.jsonl", [annotate(facts)])
    assert call(desk, "report") == 0 and "2 of 2 items annotated (1 of them" in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "answer"), [("cvat", "CVAT reads and writes COCO"), ("voc", "expected coco or")])
def test_a_format_that_is_not_read_is_named_with_what_to_do(desk: Path, capsys: Out, kind: str, answer: str) -> None:
    with pytest.raises(SystemExit):
        call(desk, "export", "--to", desk / "tool", kind=kind)
    assert answer in capsys.readouterr().err


def test_an_import_that_would_take_back_an_acceptance_leaves_out_that_line_only(desk: Path, capsys: Out) -> None:
    images = [
        {"id": 0, "file_name": "a-0.png", "width": 40, "height": 30},
        {"id": 1, "file_name": "b-0.png", "width": 16, "height": 16},
    ]
    file = write_coco(desk, images, [(0, [1, 1, 2, 2]), (0, [1, 1, 90, 2]), (1, [1, 1, 2, 2])])
    before = read_strictly(desk / "x.jsonl")
    assert call(desk, "import", "--annotator", "ana", "--from", file, kind="coco") == 1
    shown = capsys.readouterr()
    lines = shown.out.split("\n")
    assert lines[0].startswith("left out: coco.json, annotation 1: [1.0, 1.0, 91.0, 3.0] leaves its picture")
    assert "correct it in the tool and import anew" in lines[-3] and "item 'a', image 0: a proposal" in lines[-3]
    assert "1 images with 1 boxes" in lines[-2] and shown.err == ""
    after = read_strictly(desk / "x.jsonl")
    assert after[:2] == before and [(row.item_id, row.annotator) for row in after[2:]] == [("b", "ana")]


def test_what_an_import_leaves_out_is_printed_even_where_nothing_can_be_written(desk: Path, capsys: Out) -> None:
    file = write_coco(desk, [{"id": 1, "file_name": "a-0.png"}], [(1, [])])
    (desk / "x.jsonl").write_text("{}\n")
    assert call(desk, "import", "--annotator", "ana", "--from", file, kind="coco") == 1
    shown = capsys.readouterr()
    assert "left out: coco.json, annotation 0" in shown.out and "x.jsonl, line 1" in shown.err


def test_agree_prints_every_pair_and_names_who_is_there_where_a_name_is_unknown(desk: Path, capsys: Out) -> None:
    assert call(desk, "agree", "--token-px", "8") == 0
    assert "ana and bo: 1 images of 1 items" in capsys.readouterr().out
    assert call(desk, "agree", "--between", "bo", "ana") == 0
    assert "bo and ana: 1 images" in capsys.readouterr().out
    for more in (["--between", "ana", "boo"], ["--token-px", "0"], ["--token-px", "-8"]):
        assert call(desk, "agree", *more) == 1
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.count("\n") == 1
        assert "the annotators ana, bo" in shown.err or f"token_px is {more[1]}; expected" in shown.err


def test_what_cannot_be_written_or_read_is_one_line_on_standard_error(desk: Path, capsys: Out) -> None:
    (desk / "file").touch()
    for place in (desk / "pictures", desk / "file" / "tool.json"):
        assert call(desk, "export", "--to", place, kind="coco") == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and str(place).startswith(error.split(":")[0]), error
    assert call(desk, "export", "--to", desk / "tool.json", kind="coco") == 0
    assert call(desk, "import", "--from", desk / "tool.json", file="file/x.jsonl", kind="coco") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert call(desk, "agree", file="none.jsonl") == 1 and "no annotations yet" in capsys.readouterr().err
    assert main(["report", str(desk / "x.jsonl"), "--images", str(desk / "nowhere")]) == 1
    assert "write the folder with" in capsys.readouterr().err
    (desk / "bad.jsonl").write_text("{}\n")
    command = [sys.executable, "-m", "dontblink.boxes", "agree", str(desk / "bad.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "bad.jsonl, line 1" in done.stderr


def test_the_help_loads_no_library_that_takes_seconds() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['boxes', '--help']\n"
        "try: runpy.run_module('dontblink.boxes', run_name='__main__')\n"
        "except SystemExit: print(*sys.modules)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert all(word in shown for word in ("pictures", "report", "import", "export", "agree"))
    loaded = set(shown.splitlines()[-1].split())
    assert "dontblink.errors" in loaded
    assert not loaded & {"torch", "transformers", "pandas", "datasets", "scipy", "matplotlib", "pyarrow", "numpy"}


def test_an_import_that_gave_nothing_is_not_all_well(desk: Path, capsys: Out) -> None:
    file = write_coco(desk, [{"id": 1, "file_name": "a-0.png", "width": 40, "height": 30}], [])
    assert call(desk, "import", "--annotator", "cleo", "--from", file, kind="coco") == 1
    assert "says nothing of 2 of 2 images" in capsys.readouterr().out
    file = write_coco(desk, [{"id": 1, "file_name": "a-0.png", "width": 40, "height": 30}], [(1, [1, 1, 9, 9])])
    assert call(desk, "import", "--annotator", "cleo", "--from", file, kind="coco") == 0
