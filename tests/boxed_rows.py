"""Small made-up sources of the benchmarks that ship boxes, in their documented layouts, with pictures that fit."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from small_items import noise, png

from dontblink.questions.vstar import INSTRUCTION

N = 6  # rows of each benchmark


def draw(number: int, width: int = 96, height: int = 64) -> bytes:
    return png(noise(np.random.default_rng(number), width, height))


def write_treebench(folder: Path) -> Path:
    """A .tsv with pictures as base64; its last row is of the task that has no evidence."""
    folder.mkdir(parents=True)
    rows = [
        {"image": base64.b64encode(draw(k)).decode(), "question": f"Which is {k}?", "answer": "B",
         "multi-choice options": "A. a cat\nB. a dog\nC. none", "category": "Reasoning/Ordering",
         "target_instances": "[[8.0, 8.0, 40.5, 40.0], [50.0, 8.0, 70.0, 30.0]]"}
        for k in range(N)
    ]  # fmt: skip
    rows[-1]["category"] = "Perception/OCR"
    with (folder / "TreeBench.tsv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        table.writeheader()
        table.writerows(rows)
    return folder


def write_vstar(folder: Path) -> Path:
    """Questions in the hub's form, and beside each picture the .json whose first option is the right one."""
    lines = []
    for k in range(N):
        name = f"direct_attributes/sa_{k}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jpg").write_bytes(draw(k))
        beside = {"target_object": ["glove"], "bbox": [[8, 8, 30, 30]], "question": "?", "options": ["right", "wrong"]}
        (folder / f"{name}.json").write_text(json.dumps(beside))
        text = f"What is the glove made of?\n(A) rubber\n(B) wool\n{INSTRUCTION}"
        row = {
            "image": f"{name}.jpg",
            "text": text,
            "category": "direct_attributes",
            "label": "B",
            "question_id": str(k),
        }
        lines.append(json.dumps(row))
    (folder / "test_questions.jsonl").write_text("\n".join(lines))
    return folder


def gqa_row(k: int, **changes: Any) -> dict[str, Any]:
    """A verify question on objects 1 and 2 of picture k, or what the changes make of it."""
    return {
        "imageId": str(k), "question": "Is the dog left of the cat?", "answer": "yes", "fullAnswer": "Yes.",
        "semantic": [{"operation": "select", "dependencies": [], "argument": "cat (1)"},
                     {"operation": "verify rel", "dependencies": [0], "argument": "dog,to the left of,s (2)"}],
        "annotations": {"answer": {}, "question": {"2": "2", "6": "1"}, "fullAnswer": {"1": "2"}},
        "types": {"structural": "verify", "semantic": "rel", "detailed": "verifyRel"}, **changes,
    }  # fmt: skip


def write_gqa(folder: Path) -> Path:
    """Questions, pictures and scene graphs; the box of object 2 sticks out by one px, as GQA's do."""
    (folder / "images").mkdir(parents=True)
    rows, graphs = {}, {}
    for k in range(N):
        (folder / "images" / f"{k}.jpg").write_bytes(draw(k))
        query = {"question": "What is it?", "answer": "Dog", "types": {"structural": "query"}}
        rows[f"q{k}"] = gqa_row(k, **(query if k % 2 else {}))
        one, two = ({"name": name, "x": x, "y": 8, "w": 47, "h": 40} for name, x in (("cat", 8), ("dog", 50)))
        graphs[str(k)] = {"width": 96, "height": 64, "objects": {"1": one, "2": two}}
    (folder / "val_balanced_questions.json").write_text(json.dumps(rows))
    (folder / "val_sceneGraphs.json").write_text(json.dumps(graphs))
    return folder


def write_refchartqa(folder: Path) -> Path:
    """Rows of both types, and one of another type, which is not asked."""
    folder.mkdir(parents=True)
    lines = []
    for k in range(N + 1):
        (folder / f"{k}.png").write_bytes(draw(k))
        row = {"id": k, "image": f"{k}.png", "query": "How much?", "label": "12", "type": "other" if k == N else
               ("human", "machine")[k % 2], "grounding_bboxes": [{"x": 60, "y": 10, "w": 40, "h": 30}]}  # fmt: skip
        lines.append(json.dumps(row))
    (folder / "test.jsonl").write_text("\n".join(lines))
    return folder


def write_visual_cot(folder: Path) -> Path:
    """One subset with answers; the box of its last row has x0 > x1."""
    for part in ("benchmark", "benchmark_det", "cot"):
        (folder / part).mkdir(parents=True)
    lines, answers = [], []
    for k in range(N):
        (folder / "cot" / f"{k}.jpg").write_bytes(draw(k))
        box = [40, 8, 20, 30] if k == N - 1 else [8, 8, 40, 30]
        lines.append(json.dumps({"img_path": f"cot/{k}.jpg", "expression": "What is there?", "bbox": box, "height": 64,
                                 "width": 96, "question_id": k, "split": "val"}))  # fmt: skip
        turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "Foliage."}]
        answers.append({"question_id": k, "conversations": turns})
    (folder / "benchmark_det" / "gqa.jsonl").write_text("\n".join(lines))
    (folder / "benchmark" / "gqa.json").write_text(json.dumps(answers))
    return folder


def write_sources(folder: Path) -> str:
    """Write all of them and return the overrides of the parameters that name them, paths relative to the folder."""
    found = []
    for name, write in (
        ("treebench", write_treebench), ("vstar", write_vstar), ("gqa", write_gqa), ("refchartqa", write_refchartqa),
        ("visual_cot", write_visual_cot),
    ):  # fmt: skip
        write(folder / "data" / name)
        found.append(f"questions.{name}_source=data/{name}")
    return " ".join(found)
