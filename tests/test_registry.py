"""Every benchmark by name: what can be asked, what cannot and why, and what a response scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dontblink.params import load
from dontblink.paths import ROOT
from dontblink.questions import registry
from dontblink.questions.items import Score, validate

_, SECTIONS = load(ROOT / "params" / "paper.yaml")


def write_rows(folder: Path, n_rows: int, **last: Any) -> Path:
    """Write rows of MMMU_Pro's layout with pictures; `last` changes the last row."""
    rows = []
    for k in range(n_rows):
        pixels = np.full((20, 30, 3), k, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
        rows.append({
            "id": f"test_Art_{k}", "question": "What is in <image 1>?", "options": "['a cat', 'a dog']", "answer": "B",
            "image_1": f"{k}.png", "subject": "Art" if k % 2 else "Music", "topic_difficulty": "Easy",
            "img_type": "['Photographs']", "explanation": "?",
        })  # fmt: skip
    rows[-1] |= last
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def load_rows(file: Path, **settings: Any) -> registry.Questions:
    given = {**SECTIONS["questions"], "mmmu_pro_source": str(file), "n_test_items": 6, "n_calibration_items": 4}
    return registry.load_questions("mmmu_pro", SECTIONS["testbed"], given | settings)


def test_the_subset_shares_no_item_and_is_the_same_in_any_order(tmp_path: Path) -> None:
    file = write_rows(tmp_path, 20)
    found = load_rows(file)
    ids = {split: [item.id for item in items] for split, items in found.items.items()}
    assert len(ids["test"]) == 6 and len(ids["calibration"]) == 4 and not set(ids["test"]) & set(ids["calibration"])
    assert {found.strata[item_id] for item_id in ids["test"]} == {"Art", "Music"}
    file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    assert {s: {i.id for i in items} for s, items in load_rows(file).items.items()} == {
        s: set(i) for s, i in ids.items()
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"options": "['a cat']"}, "option"),
        ({"options": "[a cat"}, "options"),
        ({"image_1": None}, "image"),
        ({"image_1": "lost.png"}, "lost.png"),
        ({"question": "What is in <image 3>?"}, "image"),
        ({"answer": "Z"}, "Z"),
        ({"question": " "}, "question"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_reason_and_the_others_go_on(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    found = load_rows(write_rows(tmp_path, 12, **change), n_test_items=8)
    assert len(found.rejected) == 1 and sum(map(len, found.items.values())) == 11
    assert "row 12" in found.rejected[0][0] + found.rejected[0][1] and reason in found.rejected[0][1]
    assert "\n" not in found.rejected[0][1]


def test_a_corrupt_picture_is_found_before_anything_starts(tmp_path: Path) -> None:
    file = write_rows(tmp_path, 10)
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:40])
    found = load_rows(file)
    assert [row for row, _ in found.rejected] == ["mmmu_pro-test_Art_3"]
    assert "not a readable image" in found.rejected[0][1]


def test_a_corrupt_picture_is_replaced_and_each_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_rows(tmp_path, 20)
    corrupt = {f"mmmu_pro-test_Art_{k}" for k in range(0, 20, 3)}
    for k in range(0, 20, 3):
        (tmp_path / f"{k}.png").write_bytes(b"version https://git-lfs %d" % k)
    seen: list[str] = []
    monkeypatch.setattr(registry, "validate", lambda item: (seen.append(item.id), validate(item)))
    found = load_rows(file)
    assert {split: len(items) for split, items in found.items.items()} == {"test": 6, "calibration": 4}
    kept, rejected = found.strata.keys(), {row for row, _ in found.rejected}
    assert kept == {item.id for items in found.items.values() for item in items} and not kept & corrupt
    assert rejected and rejected <= corrupt and found.notes == []
    assert sorted(seen) == sorted(kept | rejected)


def test_where_nothing_can_replace_a_corrupt_picture_a_note_gives_the_number_that_is_left(tmp_path: Path) -> None:
    file = write_rows(tmp_path, 10)
    (tmp_path / "3.png").write_bytes(b"version https://git-lfs")
    found = load_rows(file)
    sizes = {split: len(items) for split, items in found.items.items()}
    assert sum(sizes.values()) == 9
    asked = {"test": 6, "calibration": 4}
    lines = [f"{split}: {size} rows drawn of {asked[split]}" for split, size in sizes.items() if size < asked[split]]
    assert [note.split(" asked")[0] for note in found.notes] == lines and lines


def test_rules_of_the_parameters_decide_the_task_type(tmp_path: Path) -> None:
    rules = ["mmmu_pro.subject=Music:symbolic", "mmmu_pro.*:other"]
    found = load_rows(write_rows(tmp_path, 10), task_types=rules)
    kinds = {(item.covariates["subject"], item.task_type) for items in found.items.values() for item in items}
    assert kinds == {("Music", "symbolic"), ("Art", "other")}


def test_an_unknown_benchmark_is_named() -> None:
    with pytest.raises(ValueError, match="benchmark 'chess' has no loader; expected one of symbolic, .*hallusionbench"):
        registry.load_questions("chess", SECTIONS["testbed"], SECTIONS["questions"])


def test_a_chain_that_never_ends_has_no_strict_answer_and_keeps_its_official_score(tmp_path: Path) -> None:
    item = load_rows(write_rows(tmp_path, 12)).items["test"][0]
    scores = registry.score(item, "I look at it. Answer: B", "", is_closed=False)
    assert scores["strict"] == Score(False, False, "") and scores["official"].correct
    assert registry.score(item, "So</think>Answer: B", "B", is_closed=True)["strict"] == Score(True, True, "B")
