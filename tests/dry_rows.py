"""Rows of every benchmark for a dry study: official ones where ../shared/fixtures has them, else made-up ones.

Pictures are noise, boxes of made-up rows are where somebody could have drawn them. Only the shape of a study is real.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import boxed_rows
import pytest
from boxed_rows import draw
from small_items import write_rows

from dontblink import paths

FIXTURES = paths.ROOT.parent / "shared" / "fixtures"


def read_lines(name: str) -> list[dict[str, Any]]:
    """Return the official rows of a file of the fixtures, none where they are absent."""
    file = FIXTURES / name
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def read_json(name: str) -> Any:
    file = FIXTURES / name
    return json.loads(file.read_text()) if file.is_file() else []


def place(folder: Path, name: str, size: tuple[int, int] = (96, 64)) -> None:
    """Put a picture of noise where a row says that one is."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(draw(crc32(name.encode()), *size))


def write_mathvista(folder: Path, n: int) -> Path:
    """Official rows of testmini of both categories, or made-up ones."""
    made = {
        str(k): {
            "pid": str(k), "question": "How many?", "image": f"images/{k}.jpg", "choices": None, "unit": None,
            "precision": None, "answer": "3", "question_type": "free_form", "answer_type": "integer",
            "metadata": {"category": ("math-targeted-vqa", "general-vqa")[k % 2], "source": "made up",
                         "img_width": 96, "img_height": 64, "task": "t", "context": "c", "skills": []},
        }
        for k in range(n)
    }  # fmt: skip
    rows = dict(list((read_json("mathvista/testmini.json") or made).items())[:n])
    for row in rows.values():
        place(folder, row["image"])
    (folder / "testmini.json").write_text(json.dumps(rows))
    return folder


def write_hallusionbench(folder: Path, n: int) -> Path:
    """Official rows with a picture, or made-up ones."""
    made = [
        {"category": "VD", "subcategory": "illusion", "visual_input": "1", "set_id": str(k), "figure_id": "1",
         "question_id": "0", "question": "Are both equal?", "gt_answer": str(k % 2), "gt_answer_details": "x",
         "filename": f"./VD/illusion/{k}_1.png"}
        for k in range(n)
    ]  # fmt: skip
    rows = [row for row in read_json("hallusionbench/HallusionBench.json") or made if row["filename"]][:: 951 // n][:n]
    for row in rows if len(rows) == n else (rows := made):
        place(folder, row["filename"])
    (folder / "HallusionBench.json").write_text(json.dumps(rows))
    return folder


def write_mmmu_pro(folder: Path, n: int) -> Path:
    """The official mini rows with pictures of noise, or made-up ones."""
    folder.mkdir(parents=True)
    rows = read_lines("mmmu_pro/mini/items.jsonl")
    if not rows:
        write_rows(folder, n)
        return folder
    for row in rows:
        for name in (value for key, value in row.items() if key.startswith("image_") and value):
            place(folder, name)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_mathvista_annotated(folder: Path, n: int) -> Path:
    """The official rows, of which none has a box, and made-up plots that do."""
    found = read_lines("boxed/mathvista_annot/mathvista_annot_rows.jsonl")
    rows, annotations = {one["pid"]: one["row"] for one in found}, {one["pid"]: one["annot"] for one in found}
    for k in range(n - len(rows)):
        pid = str(9000 + k)
        rows[pid] = {
            "pid": pid, "question": "What is the rate in Chad?", "image": f"images/{pid}.jpg", "choices": None,
            "unit": None, "precision": None, "answer": "3", "question_type": "free_form", "answer_type": "integer",
            "metadata": {"category": "general-vqa", "source": "PlotQA", "img_width": 96, "img_height": 64},
        }  # fmt: skip
        annotations[pid] = {"models": [{"name": "Chad", "bboxes": [{"x": 10, "y": 10, "w": 60, "h": 40}]}]}
    for row in rows.values():
        place(folder, row["image"], (row["metadata"]["img_width"], row["metadata"]["img_height"]))
    (folder / "testmini.json").write_text(json.dumps(rows))
    (folder / "annot.json").write_text(json.dumps(annotations))
    return folder


def add_official(folder: Path, name: str) -> None:
    """Put the official rows of a benchmark that ships boxes behind the made-up ones, in its files."""
    if name == "vstar":
        lines = []
        for one in read_lines("boxed/vstar_bench/vstar_rows.jsonl"):
            row, shown = one["test_questions_row"], Path(one["annotation_file"]).with_suffix(".jpg")
            place(folder, str(shown), tuple(one["image_size"]))
            (folder / one["annotation_file"]).write_text(json.dumps(one["annotation"]))
            text = f"{row['question']}\n{row['options']}\n{boxed_rows.INSTRUCTION}"
            kept = {"image": str(shown), "category": row["category"], "label": row["answer"]}
            lines.append(json.dumps(kept | {"text": text, "question_id": f"o{row['question_id']}"}))
        with (folder / "test_questions.jsonl").open("a") as file:
            file.writelines(f"\n{line}" for line in lines)
    if name == "visual_cot":
        for one in read_lines("boxed/visual_cot/viscot_rows.jsonl"):
            det, subset = one["benchmark_det"], one["subset"]
            place(folder, det["img_path"], (det["width"], det["height"]))
            with (folder / "benchmark_det" / f"{subset}.jsonl").open("a") as file:
                file.write(f"\n{json.dumps(det)}" if file.tell() else json.dumps(det))
            answers = folder / "benchmark" / f"{subset}.json"
            known = json.loads(answers.read_text()) if answers.is_file() else []
            answers.write_text(json.dumps([*known, one["benchmark"]]))


WRITERS: dict[str, Callable[[Path, int], Path]] = {
    "mathvista": write_mathvista, "mmmu_pro": write_mmmu_pro, "hallusionbench": write_hallusionbench,
    "mathvista_annotated": write_mathvista_annotated,
}  # fmt: skip


# made-up boxes below one image token of 32 x 32 px, and larger ones in their place
TINY = {"vstar": ("[[8, 8, 30, 30]]", "[[8, 8, 60, 48]]"), "visual_cot": ("[8, 8, 40, 30]", "[8, 8, 80, 60]")}


def write_all(root: Path, n: int, patch: pytest.MonkeyPatch, tiny: bool) -> str:
    """Write sources of about n rows of every benchmark below `root`; return the overrides that name them.

    With `tiny` there are boxes below one image token, and the official rows of benchmarks that ship boxes.
    """
    patch.setattr(boxed_rows, "N", n)
    shutil.rmtree(root / "data", ignore_errors=True)
    overrides = boxed_rows.write_sources(root)
    for name, (small, large) in TINY.items():
        for file in (root / "data" / name).rglob("*.json*") if not tiny else ():
            file.write_text(file.read_text().replace(f'"bbox": {small}', f'"bbox": {large}'))
        if tiny:
            add_official(root / "data" / name, name)
    for name, write in WRITERS.items():
        write(root / "data" / name, n)
        overrides += f" questions.{name}_source=data/{name}"
    return (
        f"{overrides} questions.gqa_config=data/gqa/val_sceneGraphs.json "
        "questions.mathvista_annotated_config=data/mathvista_annotated/annot.json"
    )
