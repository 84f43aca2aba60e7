"""Claims about RefChartQA: relaxed accuracy has its faults, ours compares years exactly, boxes keep to charts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from boxed_rows import N, draw, write_refchartqa

from dontblink.questions import refchartqa
from dontblink.questions.items import ItemError, validate
from dontblink.questions.sources import Row, Source, settle_boxes

FIELDS = {
    "id": 1,
    "query": "How much?",
    "label": "12",
    "type": "human",
    "boxes": [{"x": 60, "y": 10, "w": 40, "h": 30}],
}


@pytest.mark.parametrize(
    ("gold", "answer", "official", "strict"),
    [
        ("10", "10.5", True, True), ("10", "10.6", False, False), ("0", "0.0", False, True),
        ("1234", "1,234", False, True),
        ("2018", "2019", True, False), ("2018", "2018", True, True), ("2018", "2018.0", True, True),
        ("12%", "12", False, True), ("12%", "0.12", True, True), ("0.12%", "0.12", False, True),
        ("0", "0.01", False, False), ("-5", "5", False, False), ("5", "$5", False, True),
        ("Yes", "yes", True, True), ("Yes", "Yes.", False, True), ("1,5", "15", False, False),
        ("300", "314", True, True),
    ],
)  # fmt: skip
def test_relaxed_accuracy(gold: str, answer: str, official: bool, strict: bool) -> None:
    assert refchartqa.official_relaxed(answer, gold) == official
    assert refchartqa.strict_relaxed(answer, gold) == strict


def test_people_and_a_model_asked_and_other_rows_are_not_loaded(tmp_path: Path) -> None:
    rows = refchartqa.load_rows(Source(str(write_refchartqa(tmp_path / "charts"))))
    assert len(rows) == N and {refchartqa.place(row)[0] for row in rows} == {"human", "machine"}
    item = settle_boxes(refchartqa.build_item(rows[0]), refchartqa.CLIP_PX)
    validate(item)
    assert item.boxes[0].x1 == 96.0  # of 100


@pytest.mark.parametrize("boxes", [[[60, 10, 40, 30]], {"x": [60], "y": [10], "w": [40], "h": [30]}])
def test_both_forms_of_the_hub_are_the_same_box(boxes: Any) -> None:
    build = refchartqa.build_item
    assert (
        build(Row("r", FIELDS | {"boxes": boxes}, {"image": draw(0)})).boxes
        == build(Row("r", FIELDS, {"image": draw(0)})).boxes
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"boxes": []}, "no supporting element"), ({"type": "pot"}, "expected human or machine"),
        ({"label": ["1", "2"]}, "expected one answer"), ({"boxes": [{"x": 1}]}, "expected x, y, width, height in px"),
        ({"boxes": "[[1, 2, 3, 4]]"}, "expected a list of boxes"),
    ],
)  # fmt: skip
def test_what_is_no_item_says_why(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ItemError, match=reason):
        refchartqa.build_item(Row("row 1", FIELDS | changes, {"image": draw(0)}))


def test_a_stated_answer_counts_and_a_reasoning_does_not() -> None:
    item = refchartqa.build_item(Row("row 1", FIELDS, {"image": draw(0)}))
    assert refchartqa.scores("I add 5 and 7</think>\nAnswer: 12", item)["strict"].correct
    assert not refchartqa.scores("<think>12", item)["strict"].parsed
