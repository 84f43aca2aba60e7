"""Claims about MMMU_Pro: rows become items with the pictures their text names; both parsers read what they should."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from dontblink import paths
from dontblink.questions.answers import strict_choice
from dontblink.questions.items import ItemError, split_question, validate
from dontblink.questions.mmmu_pro import (
    INSTRUCTION,
    VISION_INSTRUCTION,
    build_item,
    load_rows,
    official_answer,
    parse_options,
    place,
    scores,
)
from dontblink.questions.sources import Row, Source

FIXTURES = paths.ROOT.parent / "shared" / "fixtures" / "mmmu_pro"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="../shared/fixtures/mmmu_pro is absent")
ANIMALS = ["cat", "dog", "bird", "fish", "horse", "cow", "bee", "ant", "owl", "fox"]


def make_row(images: tuple[int, ...] = (1,), **fields: Any) -> Row:
    whole = {"id": "test_Art_1", "question": "Who? <image 1>", "options": str(ANIMALS), "answer": "B", **fields}
    return Row("demo, row 1", whole, {f"image_{number}": b"picture %d" % number for number in images})


@needs_fixtures
def test_the_official_parser_replays_all_1730_stored_predictions_and_the_strict_one_misreads_less() -> None:
    rows = [json.loads(line) for line in (FIXTURES / "gpt4o_standard10_cot.jsonl").read_text().splitlines()]
    official = [official_answer(row["response"], list(map(str, ast.literal_eval(row["options"])))) for row in rows]
    assert len(rows) == 1730
    assert official == [row["pred_indexs"] for row in rows]
    assert sum(row["answer"] == letter for row, letter in zip(rows, official, strict=True)) == 952
    strict = [strict_choice(row["response"], parse_options(Row("", row, {}))) for row in rows]
    assert strict.count(None) <= 3
    assert sum(row["answer"] == letter for row, letter in zip(rows, strict, strict=True)) >= 952
    assert sum(letter != other for letter, other in zip(official, strict, strict=True)) <= 8


@pytest.mark.parametrize(
    ("response", "official", "strict"),
    [
        ("Answer: B", "B", "B"), ("Answer: $B", "B", "B"), (r"Answer: \boxed{F}", "F", "F"),
        ("**Answer: E**", "E", "E"), ("Answer: B. dog", "B", "B"), ("Answer: B\nAnswer: C", "C", "C"),
        ("The answer is B.", "B", "B"), ("(A) is wrong, (C) is right", "C", "C"),
        ("<think>B or C</think>Answer: C", "C", "C"), ("Answer: C\n\nI am sure.", "I", "C"), ("", None, None),
        ("b", None, "B"), ("Answer: b", None, "B"), (r"\boxed{B}", None, "B"), ("Option B: dog", None, "B"),
        ("<|begin_of_box|>C<|end_of_box|>", None, "C"), ("I am sure that it is a fish there", "I", "D"),
        ("we are sure that it is a fish there", "D", "D"), ("<think>Answer: B", "B", None),
    ],
)  # fmt: skip
def test_the_parsers_read_each_form(response: str, official: str | None, strict: str | None) -> None:
    assert official_answer(response, ANIMALS) == official
    assert strict_choice(response, ANIMALS) == strict


def test_the_official_parser_keeps_its_faults_and_letters_go_beyond_j() -> None:
    assert official_answer("PlanB works", ANIMALS) == "B"  # no left boundary
    # neither `B.` nor `C.` has a place: the first letter wins
    assert official_answer("It is C.or B.or so", ANIMALS) == "B"
    assert official_answer("Answer: C", ["['A', 'B', 'C']"]) is None  # a nested list is one option
    options = [f"choice {number}" for number in range(12)]
    assert official_answer("Answer: L", options) == strict_choice("Answer: L", options) == "L"
    assert strict_choice("Answer: L", options[:11]) is None


def test_scores_flag_what_was_not_parsed() -> None:
    item = build_item(make_row())
    assert scores(r"\boxed{B}", item) == {"official": (False, False, ""), "strict": (True, True, "B")}
    assert scores("Answer: C", item)["official"] == (False, True, "C")


@pytest.mark.parametrize(
    ("value", "options"),
    [
        ("['A cat', \"it's\"]", ["A cat", "it's"]), (["a", 2], ["a", "2"]), ([["A", "B"], "C"], ["A", "B", "C"]),
        ("[['A', 'B']]", ["A", "B"]), (("one",), ["one"]),
    ],
)  # fmt: skip
def test_options_are_a_list_or_a_text_that_holds_one(value: Any, options: list[str]) -> None:
    assert parse_options(make_row(options=value)) == options


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[a, b", "are not a Python list"), ("__import__('os')", "are not"), ("3", "hold a int"),
        (None, "hold a NoneType"), ([], "0 options"), ([["x"] * 27], "27 options"),
    ],
)  # fmt: skip
def test_unusable_options_are_named(value: Any, message: str) -> None:
    with pytest.raises(ItemError, match=f"demo, row 1: .*{message}"):
        build_item(make_row(options=value))


def test_an_item_shows_question_lettered_options_and_instruction() -> None:
    row = make_row(subject="Art", topic_difficulty="Easy", img_type="['Diagrams', 'Tables']", config="standard")
    item = build_item(row)
    assert item.question.splitlines()[:3] == ["Who? <image 1>", "A. cat", "B. dog"]
    assert item.question.endswith(f"J. fox\n{INSTRUCTION}")
    assert (item.id, item.answer, item.licence) == ("mmmu_pro-test_Art_1", "B", "Apache-2.0")
    assert item.choices == tuple(ANIMALS)
    assert item.covariates == {
        "subject": "Art", "topic_difficulty": "Easy", "img_type": "Diagrams, Tables", "config": "standard",
    }  # fmt: skip
    assert place(row)[0] == "Art"


def test_an_item_holds_the_named_pictures_in_the_order_of_their_naming() -> None:
    item = build_item(
        make_row((1, 2, 3, 4), question="<image 3> or", options=["<image 1>", "<image 4>, not <image 3>"])
    )
    assert item.images == (b"picture 3", b"picture 1", b"picture 4")
    assert item.question.splitlines()[:3] == ["<image 1> or", "A. <image 2>", "B. <image 3>, not <image 1>"]
    assert item.choices == ("<image 2>", "<image 3>, not <image 1>")
    assert [part for part in split_question(item) if isinstance(part, int)] == [0, 1, 2, 0]


def test_pictures_that_nothing_names_all_come_first() -> None:
    item = build_item(make_row((1, 3), question="Who?"))
    assert item.images == (b"picture 1", b"picture 3")
    assert split_question(item)[:2] == [0, 1]


def test_in_the_vision_configuration_the_picture_holds_the_question() -> None:
    row = Row("demo", {"id": "1", "options": ANIMALS, "answer": "B", "config": "vision"}, {"image": b"screen"})
    item = build_item(row)
    assert (item.images, item.question, item.choices) == ((b"screen",), VISION_INSTRUCTION, tuple(ANIMALS))


def test_an_unusable_row_names_what_is_wrong(tmp_path: Path) -> None:
    row = make_row()
    cases = {
        r"no column 'question'; the row has answer, id, options": dataclasses.replace(
            row, fields={key: value for key, value in row.fields.items() if key != "question"}
        ),
        r"1 option; a choice needs two": make_row(options=["cat"], answer="A"),
        r"answer 'K'; expected a letter from A to J": make_row(answer="K"),
        r"answer ''; expected": make_row(answer=""),
        r"no picture in image_2, which the row's text names": make_row(question="<image 2>"),
        r"no picture; this package": make_row((), question="Who?"),
        r"no picture .*absent.png; unpack": dataclasses.replace(row, images={"image_1": tmp_path / "absent.png"}),
    }
    for message, broken in cases.items():
        with pytest.raises(ItemError, match=f"demo, row 1: {message}"):
            build_item(broken)


def test_rows_with_the_same_first_picture_are_one_group(tmp_path: Path) -> None:
    file = tmp_path / "1.png"
    file.write_bytes(b"picture 1")
    same = dataclasses.replace(make_row(id="2"), images={"image_1": file})
    assert place(make_row((1, 2))) == place(make_row((1,), id="3")) == place(same) != place(make_row((2,)))
    assert place(make_row(())) == ("", "test_Art_1")


@needs_fixtures
def test_the_21_items_with_pictures_all_build() -> None:
    rows = load_rows(Source(str(FIXTURES / "mini" / "items.jsonl")))
    items = [build_item(row) for row in rows]
    assert len({item.id for item in items}) == 21
    for item in items:
        validate(item)
    music = next(item for item in items if item.choices[:1] == ("<image 2>",))
    assert [path.name[-5] for path in music.images if isinstance(path, Path)] == ["1", "4", "2", "5", "3"]
    assert all(
        item.covariates["config"] == "standard (10 options)" and item.covariates["subject"] == "" for item in items
    )
