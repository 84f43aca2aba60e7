"""Claims about MathVista's own annotations: boxes of another figure are none, and every item without says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dontblink import paths
from dontblink.questions import mathvista_annotated as annotated
from dontblink.questions.items import Item
from dontblink.questions.sources import Row, Source, SourceError

FIXTURE = paths.ROOT.parent / "shared" / "fixtures" / "boxed" / "mathvista_annot" / "mathvista_annot_rows.jsonl"
MARKS = [{"x": 10, "y": 10, "w": 8, "h": 8}]


def load(folder: Path, models: Any, question: str, source: str = "PlotQA") -> Item:
    row = {
        "pid": "7", "question": question, "image": "7.png", "choices": None, "unit": None, "precision": None,
        "answer": "3", "question_type": "free_form", "answer_type": "integer",
        "metadata": {"category": "general-vqa", "source": source, "img_width": 96, "img_height": 64},
    }  # fmt: skip
    (folder / "7.png").touch()
    (folder / "testmini.json").write_text(json.dumps({"7": row}))
    (folder / "annot.json").write_text(json.dumps({"7": {"models": models}}))
    return annotated.build_item(
        annotated.load_rows(Source(str(folder / "testmini.json")), str(folder / "annot.json"))[0]
    )


def test_marks_of_the_series_that_the_question_names_are_evidence(tmp_path: Path) -> None:
    models = [{"name": "Chad", "bboxes": MARKS}, {"name": "Mali", "bboxes": [{"x": 30, "y": 10, "w": 8, "h": 8}]}]
    item = load(tmp_path, models, "What is the rate in Chad?")
    assert [(b.x0, b.x1) for b in item.boxes] == [(10.0, 18.0)] and "no_evidence" not in item.covariates
    assert item.id == "mathvista_annotated-7" and item.benchmark == annotated.NAME
    assert annotated.scores("Answer: 3", item)["strict"].correct


@pytest.mark.parametrize(
    ("models", "question", "source", "reason"),
    [
        ([{"name": "Mali", "bboxes": MARKS}], "What is the rate in Chad?", "PlotQA", "names none of Mali"),
        ([{"name": "Chad", "bboxes": [{"x": 90, "y": 1, "w": 8, "h": 8}]}], "In Chad?", "PlotQA", "marks outside"),
        ([{"name": "Chad", "bboxes": MARKS}], "Ticks on the Y-axis of Chad?", "PlotQA", "about an axis"),
        ([], "In Chad?", "DocVQA", "a person who chooses"),
    ],
)  # fmt: skip
def test_an_item_without_boxes_says_why(tmp_path: Path, models: Any, question: str, source: str, reason: str) -> None:
    item = load(tmp_path, models, question, source)
    assert not item.boxes and reason in str(item.covariates["no_evidence"])


def test_absent_annotations_are_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"annot.json: cannot be read .*download data/annot_testmini.json"):
        annotated.load_rows(Source(str(tmp_path)), str(tmp_path / "annot.json"))


@pytest.mark.skipif(not FIXTURE.is_file(), reason="../shared/fixtures/boxed is absent")
def test_no_official_plot_that_could_be_looked_at_has_the_annotation_of_its_own_figure() -> None:
    found = [json.loads(line) for line in FIXTURE.read_text().splitlines()]
    plots = [one for one in found if one["row"]["metadata"]["source"] == "PlotQA"]
    for one in plots:
        size = one["row"]["metadata"]["img_width"], one["row"]["metadata"]["img_height"]
        boxes, reason = annotated.read_marks(Row("row", one["row"] | {"picture_size": size}, {}), one["annot"])
        assert not boxes and "another figure" in reason
    assert len(plots) == 4
