"""Claims about HallusionBench: official accuracies are exact, both roots are found, both rules read their forms."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from dontblink import paths
from dontblink.questions.hallusionbench import (
    build_item,
    load_rows,
    metrics,
    official_answer,
    place,
    scores,
    strict_answer,
)
from dontblink.questions.items import ItemError
from dontblink.questions.sources import Row, Source

OFFICIAL = paths.ROOT.parent / "shared" / "fixtures" / "hallusionbench" / "HallusionBench.json"
needs_fixtures = pytest.mark.skipif(not OFFICIAL.is_file(), reason="../shared/fixtures/hallusionbench is absent")


def make_fields(**fields: Any) -> dict[str, Any]:
    return {
        "category": "VD", "subcategory": "illusion", "visual_input": "1", "set_id": "3", "figure_id": "1",
        "question_id": "2", "question": "Is it round? ", "gt_answer": "1", **fields,
    }  # fmt: skip


def make_row(picture: bytes | Path | None = b"picture", **fields: Any) -> Row:
    return Row("demo, row 1", make_fields(**fields), {"image": picture, "filename": None})


def gold(row: dict[str, str]) -> str:
    return "yes" if row["gt_answer"] == "1" else "no"


@needs_fixtures
@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        ("yes", (484, 25, 18, 211, 147)), ("no", (645, 42, 88, 242, 250)), (None, (178, 0, 0, 8, 0)),
        (2, (178, 0, 0, 8, 0)), (1, (1129, 346, 455, 455, 430)), ("gold", (1129, 346, 455, 455, 430)),
    ],
)  # fmt: skip
def test_the_official_accuracies_are_exact(answer: int | str | None, counts: tuple[int, ...]) -> None:
    rows = json.loads(OFFICIAL.read_text())
    found = metrics(rows, [gold(row) if answer == "gold" else answer for row in rows])
    assert list(found) == ["aAcc", "fAcc", "qAcc", "easy", "hard"]
    assert list(found.values()) == list(zip(counts, (1129, 346, 455, 455, 430), strict=True))


@needs_fixtures
@pytest.mark.parametrize(("answer", "counts"), [("yes", (401, 25, 21)), ("no", (550, 42, 91))])
def test_the_official_accuracies_are_exact_on_the_951_rows_with_pictures(answer: str, counts: tuple[int, ...]) -> None:
    rows = [row for row in json.loads(OFFICIAL.read_text()) if row["filename"]]
    found = list(metrics(rows, [answer] * len(rows)).values())[:3]
    assert found == list(zip(counts, (951, 346, 455), strict=True))


def test_words_and_official_verdicts_may_stand_side_by_side_and_no_rows_count_nothing() -> None:
    rows = [make_fields(set_id=str(place)) for place in range(6)]
    assert metrics(rows, ["yes", 1, "no", 0, None, 2])["aAcc"] == (2, 6)
    assert metrics([], []) == dict.fromkeys(("aAcc", "fAcc", "qAcc", "easy", "hard"), (0, 0))


def test_metrics_refuse_other_answers_and_other_lengths() -> None:
    with pytest.raises(ValueError, match="answer 'maybe'; expected 'yes', 'no', None"):
        metrics([make_fields()], ["maybe"])
    with pytest.raises(ValueError, match="1 answers for 2 rows"):
        metrics([make_fields()] * 2, ["yes"])


@pytest.mark.parametrize(
    ("response", "official", "strict"),
    [
        ("Yes", "yes", "yes"), ("yes, it is", "yes", "yes"), ("Answer: Yes", "yes", "yes"),
        (r"\boxed{Yes}", "yes", "yes"), ("Yes...", "yes", "yes"), ("<|begin_of_box|>Yes<|end_of_box|>", "yes", "yes"),
        ("No.", "no", "no"), ("No, the circles differ.", "no", "no"), ("<answer>no</answer>", "no", "no"),
        ("There is no difference", "no", None), ("No difference is visible", "no", None), ("**Yes**", None, "yes"),
        ("Yes: correct", None, "yes"), ("Yes and no", None, None), ("Not sure", None, None), ("know", None, None),
        ("", None, None), ("Yes/no", None, None), ("<think>no</think>Yes", None, "yes"), ("<think>So no", "no", None),
        ("Yes, there is no gap.", None, "yes"), ("yes\n\nWait, no.", None, None), ("Not yes", "yes", None),
        ("I see two dots.\n\n**No**", None, "no"), ("They differ, so no.", "no", "no"),
        ("**Answer:** No, since there is no yes.", None, "no"), ("Answer: Yes or no", None, None),
        ("Answer: definitely yes", "yes", "yes"), ("The answer is clearly no because they differ", "no", "no"),
        ("The answer is a clear no.", "no", "no"), ("Final answer: no doubt, yes", None, "yes"),
    ],
)  # fmt: skip
def test_the_rules_read_each_form(response: str, official: str | None, strict: str | None) -> None:
    assert official_answer(response) == official
    assert strict_answer(response) == strict


@pytest.mark.parametrize(
    "response",
    [
        "Answer: There is no difference in size, they are the same.", "Answer: No difference is visible",
        "Final answer: the left one is bigger, there is no doubt", "Answer: no-one can tell", "No-one is there.",
        'There is no "gap" here.', "Answer: **No** (visible) difference", "<answer>No differences.</answer>",
    ],
)  # fmt: skip
def test_a_no_that_belongs_to_a_noun_answers_nothing_behind_a_marker_either(response: str) -> None:
    assert strict_answer(response) is None
    assert strict_answer(f"{response}\n\nAnswer: no") == "no"


def test_the_official_rule_keeps_its_faults() -> None:
    assert official_answer("It is 1,000 high/no") is None  # a number with a comma glues marks away: `highno`
    assert official_answer("a. " * 31 + "No.") == "no"
    assert official_answer("a. " * 32 + "No.") is None  # only 32 points go


def test_scores_flag_what_was_not_parsed() -> None:
    both = scores("**Yes**", build_item(make_row()))
    assert both == {"official": (False, False, ""), "strict": (True, True, "yes")}


def test_an_item_asks_for_yes_or_no() -> None:
    row = make_row(gt_answer="0")
    item = build_item(row)
    assert item.question == "Is it round? Please answer yes or no."
    assert (item.id, item.answer, item.licence) == ("hallusionbench-VD-illusion-3-1-2", "no", "BSD-3-Clause")
    assert item.covariates["visual_input"] == "1"
    assert place(row) == ("VD/illusion", "VD/illusion/3")


@pytest.mark.parametrize("root", ["VD/illusion", "hallusion_bench/VD/illusion"])
def test_pictures_lie_beside_the_json_or_where_the_archive_unpacks(tmp_path: Path, root: str) -> None:
    (tmp_path / root).mkdir(parents=True)
    (tmp_path / root / "3_1.png").write_bytes(b"picture")
    (tmp_path / "HallusionBench.json").write_text(json.dumps([make_fields(filename="./VD/illusion/3_1.png")]))
    row = load_rows(Source(str(tmp_path)))[0]
    assert build_item(row).images == (tmp_path / root / "3_1.png",)


def test_an_unusable_row_names_what_is_wrong(tmp_path: Path) -> None:
    no_answer = {key: value for key, value in make_fields().items() if key != "gt_answer"}
    cases = {
        "no picture; this package measures attention": make_row(None),
        "no picture .*3_1.png, nor .*hallusion_bench/VD/illusion/3_1.png; unpack": make_row(
            tmp_path / "VD" / "illusion" / "3_1.png"
        ),
        r"gt_answer '2'; expected '0' \(no\) or '1'": make_row(gt_answer="2"),
        "no column 'gt_answer'": dataclasses.replace(make_row(), fields=no_answer),
    }
    for message, row in cases.items():
        with pytest.raises(ItemError, match=f"demo, row 1: {message}"):
            build_item(row)


@needs_fixtures
def test_all_official_rows_are_told_apart_and_178_have_no_picture() -> None:
    rows = load_rows(Source(str(OFFICIAL)))
    shown = [dataclasses.replace(row, images={"image": b"picture"}) for row in rows]
    assert len({build_item(row).id for row in shown}) == len(rows) == 1129
    assert sum(row.images["filename"] is None for row in rows) == 178
