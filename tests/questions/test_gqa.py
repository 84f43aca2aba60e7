"""Claims about GQA: every object that a question names has its box, and no row that a box cannot show is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from boxed_rows import draw, gqa_row, write_gqa

from dontblink import paths
from dontblink.questions import gqa
from dontblink.questions.items import ItemError, validate
from dontblink.questions.sources import Row, Source, SourceError, settle_boxes

FIXTURE = paths.ROOT.parent / "shared" / "fixtures" / "boxed" / "gqa" / "gqa_rows.jsonl"


def load(folder: Path) -> list[Row]:
    return gqa.load_rows(Source(str(folder)), str(folder / "val_sceneGraphs.json"))


def test_questions_pictures_and_graphs_are_joined_and_boxes_cut_by_one_px_at_most(tmp_path: Path) -> None:
    row = load(write_gqa(tmp_path / "gqa"))[0]
    item = settle_boxes(gqa.build_item(row), gqa.CLIP_PX, row.fields["picture_size"])
    validate(item)
    assert {(b.label, b.x1) for b in item.boxes} == {("cat", 55.0), ("dog", 96.0)}
    assert gqa.place(row) == ("verify/logical", "0") and item.covariates["stratum"] == "verify/logical"
    row.fields["objects"]["2"]["w"] = 48
    with pytest.raises(ItemError, match="lies outside its 96x64 px image"):
        validate(settle_boxes(gqa.build_item(row), gqa.CLIP_PX, row.fields["picture_size"]))
    with pytest.raises(ItemError, match="the picture has 96x64 px, its boxes are of one of 640x480 px"):
        settle_boxes(gqa.build_item(row), gqa.CLIP_PX, (640, 480))


def test_the_hubs_two_configurations_are_the_same_questions(tmp_path: Path) -> None:
    graphs = write_gqa(tmp_path / "gqa") / "val_sceneGraphs.json"
    hub, row = tmp_path / "hub", gqa_row(0)
    row["annotations"] = {
        key: [{"objectId": k, "value": v} for k, v in part.items()] for key, part in row["annotations"].items()
    }
    picture = {"id": "0", "image": {"bytes": draw(0), "path": "0.jpg"}}
    for part, content in (("instructions", {"id": "q0", **row}), ("images", picture)):
        (hub / f"val_balanced_{part}").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([content]), hub / f"val_balanced_{part}" / "val-00000-of-00001.parquet")
    found, own = (gqa.build_item(gqa.load_rows(Source(str(f)), str(graphs))[0]) for f in (hub, tmp_path / "gqa"))
    assert (found.id, found.question, found.boxes) == (own.id, own.question, own.boxes) and found.images == (draw(0),)


def test_absent_scene_graphs_are_named_with_the_remedy(tmp_path: Path) -> None:
    (write_gqa(tmp_path / "gqa") / "val_sceneGraphs.json").unlink()
    with pytest.raises(SourceError, match=r"val_sceneGraphs.json: cannot be read .*get sceneGraphs.zip"):
        load(tmp_path / "gqa")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"semantic": [{"argument": "train,near,s (-)"}]}, r"asks for 'train,near,s \(-\)', which no box shows"),
        ({"semantic": [{"argument": "scene"}]}, "asks for 'scene', which no box shows"),
        ({"semantic": [{"argument": "cat (9)"}]}, "object 9 is in no scene graph of picture 0"),
        ({"semantic": [], "annotations": {}}, "object any is in no scene graph"),
        ({"types": {}}, "name no structural type"),
    ],
)
def test_a_row_that_no_box_shows_is_left_out(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    folder = write_gqa(tmp_path / "gqa")
    (folder / "val_balanced_questions.json").write_text(json.dumps({"q": gqa_row(0, **changes)}))
    with pytest.raises(ItemError, match=reason):
        gqa.build_item(load(folder)[0])


@pytest.mark.skipif(not FIXTURE.is_file(), reason="../shared/fixtures/boxed is absent")
def test_official_rows_name_their_objects() -> None:
    rows = [json.loads(line) for line in FIXTURE.read_text().splitlines()][:3]
    assert [set(gqa.list_objects(row)) for row in rows] == [{"2486325"}, {"722332", "722335"}, {"7", "6"}]


@pytest.mark.parametrize(
    ("structural", "gold", "response", "official", "strict"),
    [
        ("query", "dog", "dog", True, True), ("query", "dog", "Dog.", False, True),
        ("query", "dog", "**Dog**", False, True),
        ("query", "dog", "It may be\n\nAnswer: dog", False, True), ("query", "dog", "a dog", False, False),
        ("query", "dog", "dog\ncat", False, False), ("query", "dog", "<think>dog", False, False),
        ("query", "dog", "", False, False), ("query", "yes", "Yes, it is.", False, False),
        ("verify", "yes", "Yes, it is.", False, True), ("verify", "no", "no", True, True),
        ("verify", "no", "No dog is there", False, False),
    ],
)  # fmt: skip
def test_both_scorers(tmp_path: Path, structural: str, gold: str, response: str, official: bool, strict: bool) -> None:
    folder = write_gqa(tmp_path / "gqa")
    row = gqa_row(0, answer=gold, types={"structural": structural})
    (folder / "val_balanced_questions.json").write_text(json.dumps({"q": row}))
    found = gqa.scores(response, gqa.build_item(load(folder)[0]))
    assert (found["official"].correct, found["strict"].correct) == (official, strict)
