"""Claims about Visual-CoT: boxes and answers are joined by id, and a faulty box names its row and is left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from boxed_rows import N, write_visual_cot

from dontblink import paths
from dontblink.questions import visual_cot
from dontblink.questions.items import ItemError
from dontblink.questions.sources import Row, Source, SourceError

FIXTURE = paths.ROOT.parent / "shared" / "fixtures" / "boxed" / "visual_cot" / "viscot_rows.jsonl"
FAULTY = {("docvqa", 128), ("gqa", 640), ("dude", 36)}


def test_boxes_and_answers_are_joined(tmp_path: Path) -> None:
    rows = visual_cot.load_rows(Source(str(write_visual_cot(tmp_path / "set"))), "default")
    item = visual_cot.build_item(rows[0])
    assert len(rows) == N and item.answer == "Foliage." and item.id == "visual_cot-gqa-0"
    assert [(b.x0, b.y0, b.x1, b.y1) for b in item.boxes] == [(8, 8, 40, 30)]
    found = visual_cot.scores("so</think>foliage", item)
    assert found["strict"].correct and not found["official"].correct
    with pytest.raises(ItemError, match=r"box \[40, 8, 20, 30\] in a picture of 96x64 px"):
        visual_cot.build_item(rows[-1])


@pytest.mark.skipif(not FIXTURE.is_file(), reason="../shared/fixtures/boxed is absent")
def test_of_the_official_rows_the_faulty_ones_are_left_out() -> None:
    refused = set()
    for one in map(json.loads, FIXTURE.read_text().splitlines()):
        det = one["benchmark_det"]
        fields = det | {"subset": one["subset"], "answer": "x", "picture_size": (det["width"], det["height"])}
        try:
            visual_cot.build_item(Row("row", fields, {"img_path": b"x"}))
        except ItemError:
            refused.add((one["subset"], det["question_id"]))
    assert refused == FAULTY


def test_an_absent_folder_or_subset_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"expected a .jsonl a subset, found gqa.jsonl; clone"):
        visual_cot.load_rows(Source(str(write_visual_cot(tmp_path / "set"))), "docvqa")
