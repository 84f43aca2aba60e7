"""Claims about V*Bench: letters come from the shuffled questions, boxes from the .json beside the picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from boxed_rows import write_vstar

from dontblink import paths
from dontblink.questions import vstar
from dontblink.questions.items import ItemError
from dontblink.questions.sources import Row, Source, SourceError

FIXTURE = paths.ROOT.parent / "shared" / "fixtures" / "boxed" / "vstar_bench" / "vstar_rows.jsonl"


def test_the_letter_is_the_shuffled_one_and_the_box_the_one_beside_the_picture(tmp_path: Path) -> None:
    rows = vstar.load_rows(Source(str(write_vstar(tmp_path))))
    item = vstar.build_item(rows[0])
    assert item.answer == "B" and item.choices == ("rubber", "wool")  # the .json says that its first one is right
    assert [(b.x0, b.y0, b.x1, b.y1, b.label) for b in item.boxes] == [(8, 8, 38, 38, "glove")]
    assert item.question.count(vstar.INSTRUCTION) == 1


@pytest.mark.skipif(not FIXTURE.is_file(), reason="../shared/fixtures/boxed is absent")
def test_official_rows_have_the_right_option_and_boxes_inside_their_pictures() -> None:
    for fields in map(json.loads, FIXTURE.read_text().splitlines()):
        row = Row("row", fields["test_questions_row"] | {"beside": fields["annotation"]}, {"image": b"x"})
        item, (width, height) = vstar.build_item(row), fields["image_size"]
        chosen = item.choices["ABCD".index(item.answer)]
        assert chosen in fields["annotation"]["options"][0] and len(item.boxes) == len(fields["annotation"]["bbox"])
        assert all(0 <= b.x0 < b.x1 <= width and 0 <= b.y0 < b.y1 <= height for b in item.boxes)


def test_a_picture_without_its_json_is_named_with_the_remedy(tmp_path: Path) -> None:
    (write_vstar(tmp_path) / "direct_attributes" / "sa_2.json").unlink()
    with pytest.raises(SourceError, match=r"sa_2.json: cannot be read .*download every file"):
        vstar.load_rows(Source(str(tmp_path)))


@pytest.mark.parametrize("beside", [None, {"bbox": []}, {"bbox": [[1, 2, 3, 4]], "target_object": []}])
def test_a_row_without_a_box_an_object_is_refused(beside: Any) -> None:
    fields = {"question_id": 1, "question": "?", "options": "(A) x\n(B) y", "answer": "A", "category": "c"}
    with pytest.raises(ItemError, match="expected a box an object"):
        vstar.build_item(Row("row 1", fields | {"beside": beside}, {"image": b"x"}))


@pytest.mark.parametrize(
    ("response", "official", "strict"),
    [
        ("B", "B", "B"), ("(B) wool", "B", "B"), ("so A</think>B.", "B", "B"), ("A glove", "A", None),
        ("The answer is B", "B", "B"), ("I cannot see it", None, None), ("", None, None),
    ],
)  # fmt: skip
def test_both_rules_read_the_letter(tmp_path: Path, response: str, official: str | None, strict: str | None) -> None:
    found = vstar.scores(response, vstar.build_item(vstar.load_rows(Source(str(write_vstar(tmp_path))))[0]))
    assert [found[name].prediction or None for name in ("official", "strict")] == [official, strict]
