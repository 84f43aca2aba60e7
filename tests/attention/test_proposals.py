"""Claims about proposals: a reply becomes boxes or reasons, and a model's boxes are never accepted ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_items import make_item, png

from dontblink import paths
from dontblink.attention import proposals
from dontblink.attention.proposals import build_prompt, parse_proposals, propose_boxes
from dontblink.boxes.annotations import attach_boxes, read_strictly, write_annotations
from dontblink.models.checkpoints import load_vlm
from dontblink.models.response import Response
from dontblink.questions.items import Box, Item

SIZE = (200, 100)
CHECKPOINTS = sorted(path for path in (paths.ROOT / "models" / "testbed").iterdir() if path.is_dir())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"bbox_2d": [100, 200, 500, 400], "label": "bar"}]', [(20, 20, 100, 40, "bar")]),
        ('```json\n[\n\t{"bbox_2d": [100, 200, 500, 400], "label": "a"}\n]\n```', [(20, 20, 100, 40, "a")]),
        ('{"bbox_2d": [0, 0, 1000, 1000]}', [(0, 0, 200, 100, "")]),
        ("[[100, 200, 500, 400], [0, 0, 10, 10]]", [(20, 20, 100, 40, ""), (0, 0, 2, 1, "")]),
        ("[100.0, 200, 500, 402.5]", [(20, 20, 100, 40.25, "")]),
        ("See [the bars]: [[100, 200, 500, 400]]", [(20, 20, 100, 40, "")]),
        ("The bars: <|begin_of_box|>[[100,200,500,400]]<|end_of_box|>.", [(20, 20, 100, 40, "")]),
        ("<think>[[1,1,2,2]]</think> [1] <|begin_of_box|>[100,200,500,400]<|end_of_box|>", [(20, 20, 100, 40, "")]),
        ('[[1,1,2,2]] no</think>\n[{"bbox_2d": [100, 200, 500, 400], "label": "a\\nb"}]', [(20, 20, 100, 40, "a b")]),
        ('[{"bbox_2d": [100, 200, 500, 400]}, {"bbox_2d": [100, 200, 500, 400]}]', [(20, 20, 100, 40, "")]),
    ],
)
def test_replies_of_both_families_become_boxes_in_px(text: str, expected: list[tuple[Any, ...]]) -> None:
    boxes, problems = parse_proposals(text, SIZE, 2)
    assert boxes == tuple(Box(2, *row) for row in expected) and problems == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no JSON in ''"), ("I see a chart.", "no JSON in 'I see a chart.'"),
        ("[{'bbox_2d': [1, 2, 3, 4]}]", "broken JSON"), ('[{"bbox_2d": [1, 2, 3, 4]}, {"bbox_2d": [5', "broken JSON"),
        ("[]", "the model names no region"), ("<|begin_of_box|>[]<|end_of_box|>", "the model names no region"),
        ("[[1, 2, 3, 4]]</think>", "no JSON"), ("[[1, 2, 3]]", "expected four numbers"),
        ("[[1, 2, 3, 1001]]", "expected four numbers x1, y1, x2, y2 from 0 to 1000"),
        ("[[-1, 2, 3, 4]]", "from 0 to 1000"),
        ("[[1, 2, NaN, 4]]", "from 0 to 1000"), (f"[[1, 2, {'9' * 400}, 4]]", "from 0 to 1000"),
        ("[[5, 2, 3, 4]]", "inverted or without area"), ("[[3, 2, 3, 4]]", "inverted or without area"),
        ('[{"label": "bar"}]', "expected four numbers"), ('[{"bbox_2d": [true, 0, 3, 4]}]', "expected four numbers"),
        ("[" * 500_000, "broken JSON"),
    ],
)  # fmt: skip
def test_every_reply_without_boxes_says_why(text: str, reason: str) -> None:
    boxes, problems = parse_proposals(text, SIZE)
    assert boxes == () and reason in problems[0] and "\n" not in problems[0]


def test_a_bad_box_does_not_hide_the_good_ones() -> None:
    boxes, problems = parse_proposals('[{"bbox_2d": [1, 1, 9, 9]}, {"bbox_2d": [9, 1, 1, 9]}]', SIZE)
    assert len(boxes) == 1 and len(problems) == 1 and "inverted" in problems[0]


def test_the_prompt_asks_for_one_image_and_keeps_the_question_and_its_tags() -> None:
    item = make_item(
        "m", (32, 32), (64, 32), question="Compare <image 1> and <image 2>.", covariates={"chain_length": 3}
    )
    prompt = build_prompt(item, 1)
    assert prompt.id == "m#1" and prompt.images == item.images and prompt.question.startswith(item.question)
    assert "region of image 2 of 2" in prompt.question and '[{"bbox_2d": [x1, y1, x2, y2]' in prompt.question
    assert build_prompt(item, 0).id != prompt.id


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda path: path.name)
def test_a_model_that_cannot_ground_gives_a_reason_for_every_image_and_no_box(tmp_path: Path, checkpoint: Path) -> None:
    vlm = load_vlm(checkpoint)
    pixels = np.full((64, 96, 3), 200, dtype=np.uint8)
    items = [dataclasses.replace(make_item(name), images=(png(pixels),) * n) for name, n in (("a", 1), ("b", 2))]
    items.append(dataclasses.replace(make_item("broken"), images=(b"no",)))
    file = tmp_path / "x.jsonl"
    rejected = propose_boxes(vlm, items, file, max_new_tokens=12, progress=False)
    assert sorted(row.where for row in rejected) == ["a#0", "b#0", "b#1", "broken#0"]
    assert all("no JSON" in r.reason or "cut off" in r.reason or "not a readable" in r.reason for r in rejected)
    assert read_strictly(file) == []


class FakeVLM:
    name = "grounder"


def answer(monkeypatch: pytest.MonkeyPatch, texts: dict[str, str], reason: str = "stop") -> list[str]:
    """Let the model answer with canned texts; return the list of what it is asked."""
    asked: list[str] = []

    def generate(vlm: Any, items: list[Item], sampling: Any, **options: Any) -> Any:
        for item in items:
            asked.append(item.id)
            yield Response(item.id, vlm.name, (1,), (2, 3), texts[item.id], reason)  # type: ignore[arg-type]

    monkeypatch.setattr(proposals, "generate_responses", generate)
    return asked


def test_proposals_are_written_as_such_and_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items, file = [make_item("a", (40, 30)), make_item("b", (16, 16))], tmp_path / "x.jsonl"
    asked = answer(monkeypatch, {"a#0": '[{"bbox_2d": [0, 0, 500, 1000], "label": "why"}]', "b#0": "[]"})
    rejected = propose_boxes(FakeVLM(), items, file, max_new_tokens=9)  # type: ignore[arg-type]
    (line,) = read_strictly(file)
    assert (line.status, line.annotator, line.source) == ("proposed", "grounder", "proposed by grounder")
    assert line.boxes == (Box(0, 0, 0, 20, 30, "why"),) and [row.where for row in rejected] == ["b#0"]
    assert dict(attach_boxes(items, [line])[1])["a"] == "image 0: proposed by grounder, accepted by nobody"
    propose_boxes(FakeVLM(), items, file, max_new_tokens=9)  # type: ignore[arg-type]
    assert asked == ["a#0", "b#0", "b#0"]
    write_annotations(file, [line.model_copy(update={"image_sha256": "0" * 64})])
    propose_boxes(FakeVLM(), items, file, max_new_tokens=9)  # type: ignore[arg-type]
    assert asked[3:] == ["a#0", "b#0"]


def test_a_reply_that_was_cut_off_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, {"a#0": "maybe [[1, 1, 9, 9]]"}, reason="length")
    rejected = propose_boxes(FakeVLM(), [make_item("a", (40, 30))], tmp_path / "x.jsonl", max_new_tokens=2)  # type: ignore[arg-type]
    assert "cut off after 2 tokens" in rejected[0].reason and read_strictly(tmp_path / "x.jsonl") == []
