"""Every benchmark by name: what can be asked, what cannot and why, and what a response scores."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_items import write_rows

from dontblink.errors import NamedError
from dontblink.params import load
from dontblink.paths import ROOT
from dontblink.questions import answers, hallusionbench, items, registry, sources
from dontblink.questions.items import Score, validate

_, SECTIONS = load(ROOT / "params" / "paper.yaml")


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
    [({"options": "['a cat']"}, "option"), ({"image_1": "lost.png"}, "lost.png"), ({"question": " "}, "question")],
)
def test_a_row_that_cannot_be_used_is_named_with_its_reason_and_the_others_go_on(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    found = load_rows(write_rows(tmp_path, 12, **change), n_test_items=8)
    assert len(found.rejected) == 1 and sum(map(len, found.items.values())) == 11
    assert "row 12" in found.rejected[0][0] + found.rejected[0][1] and reason in found.rejected[0][1]
    assert "\n" not in found.rejected[0][1]


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
    assert sum(sizes.values()) == 9 and [row for row, _ in found.rejected] == ["mmmu_pro-test_Art_3"]
    assert "not a readable image" in found.rejected[0][1]
    asked = {"test": 6, "calibration": 4}
    lines = [f"{split}: {size} rows drawn of {asked[split]}" for split, size in sizes.items() if size < asked[split]]
    assert [note.split(" asked")[0] for note in found.notes] == lines and lines


def test_rules_of_the_parameters_decide_the_task_type(tmp_path: Path) -> None:
    rules = ["mmmu_pro.subject=Music:symbolic", "mmmu_pro.*:other"]
    found = load_rows(write_rows(tmp_path, 10), task_types=rules)
    kinds = {(item.covariates["subject"], item.task_type) for items in found.items.values() for item in items}
    assert kinds == {("Music", "symbolic"), ("Art", "other")}


def test_an_unknown_benchmark_is_named() -> None:
    with pytest.raises(NamedError, match="benchmark 'chess' has no loader; expected one of symbolic, .*hallusionbench"):
        registry.load_questions("chess", SECTIONS["testbed"], SECTIONS["questions"])


def test_a_chain_that_never_ends_has_no_strict_answer_and_keeps_its_official_score(tmp_path: Path) -> None:
    item, generator = load_rows(write_rows(tmp_path, 12)).items["test"][0], "nobody"
    scores = registry.score(item, "I look at it. Answer: B", "", is_closed=False, generator=generator)
    assert scores["strict"] == Score(False, False, "") and scores["official"].correct
    scores = registry.score(item, "So</think>Answer: B", "B", is_closed=True, generator=generator)
    assert scores["strict"] == Score(True, True, "B")


def test_the_worked_example_is_a_whole_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for line in (registry.__doc__ or "").splitlines() if line.startswith("    ") or not line]
    module = ModuleType("spot")
    module.__dict__.update(vars(items) | vars(sources) | vars(answers))
    module.__dict__.update(official_answer=hallusionbench.official_answer, strict_answer=hallusionbench.strict_answer)
    exec(textwrap.dedent("\n".join(lines)), module.__dict__)
    wanted = {*registry.Benchmark.__annotations__, *vars(registry.Benchmark)}
    assert all(hasattr(module, name) for name in wanted if not name.startswith("_"))
    monkeypatch.setitem(registry.REAL, "spot", module)
    rows = []
    for k in range(6):
        Image.fromarray(np.full((8, 8, 3), k, dtype=np.uint8)).save(tmp_path / f"{k}.png")
        rows.append({"id": k, "topic": "ab"[k % 2], "question": "Red?", "answer": "yes", "picture": f"{k}.png"})
    rows[5]["picture"] = None
    (tmp_path / "test.json").write_text(json.dumps(rows))
    settings = {"spot_source": str(tmp_path), "spot_revision": "", "spot_config": "", "task_types": ["spot.*:other"]}
    sizes = {"n_test_items": 3, "n_calibration_items": 2, "subset_seed": 1}
    found = registry.load_questions("spot", {}, settings | sizes)
    assert [len(found.items[split]) for split in registry.SPLITS] == [3, 2] and set(found.strata.values()) == {"a", "b"}
    assert [reason for _, reason in found.rejected] == [
        "test.json, row 6: no picture; this package measures attention to images, leave the row out"
    ]
    item = found.items["test"][0]
    assert item.question == "Red? Please answer yes or no."
    assert registry.score(item, "**Yes**", "", True, "nobody")["strict"] == Score(True, True, "yes")
