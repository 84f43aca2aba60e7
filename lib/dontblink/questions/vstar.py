"""V*Bench: 191 questions on small objects in large photographs, with a person's box for every object named.

Why it exists: its evidence is as small as evidence gets, so it shows what an image budget can measure at all: the boxes
cover less than one token of 1,024 for half of the items. In: a folder as on the hub (`test_questions.jsonl`, and beside
each picture a .json of the same name), and responses. Out: Items with boxes, Scores. Never: an answer from the .json
beside the picture, where the first option is always the right one.

`official` is the usual rule of evaluation toolkits; it reads "A" from "A glove". `strict` is `answers.strict_choice`.
"""

from __future__ import annotations

import re
from string import ascii_uppercase

from dontblink.questions import sources
from dontblink.questions.answers import compare, read_final, strict_choice
from dontblink.questions.items import Item, ItemError, Score
from dontblink.questions.sources import Row, Source, make_draft, read_box, read_rows, require_columns
from dontblink.questions.treebench import split_options

NAME = "vstar"
LICENCE = "MIT (code); pictures: SA-1B, their own"
INSTRUCTION = "Answer with the option's letter from the given choices directly."
QUESTIONS = "test_questions.jsonl"
REMEDY = "download every file of craigwu/vstar_bench and point vstar_source at the folder"


def load_rows(source: Source, config: str = "") -> list[Row]:
    """Return the rows of the shuffled questions, each with what stands beside its picture in the column `beside`."""
    folder = sources.fetch_folder(source)
    rows = read_rows(Source(str(folder / QUESTIONS)), split="test", config=config, image_columns=("image",))
    return [
        Row(r.name, {**r.fields, "beside": sources.read_beside(picture.with_suffix(".json"), REMEDY)}, r.images)
        if (picture := folder / str(r.fields.get("image") or r.images["image"])).suffix else r
        for r in rows
    ]  # fmt: skip


def place(row: Row) -> tuple[str, str]:
    """Return the task, `direct_attributes` or `relative_position`, and the row's id: no two rows share a picture."""
    return str(row.fields["category"]), str(row.fields["question_id"])


def build_item(row: Row) -> Item:
    """Return the row as a draft; ItemError for a row without picture, boxes, or an answer among its options."""
    fields = dict(row.fields)
    if "text" in fields:  # the hub's form: question, options and instruction in one text
        head, sign, tail = str(fields["text"]).replace(INSTRUCTION, "").partition("(A)")
        fields |= {"question": head, "options": sign + tail, "answer": fields.get("label")}
    row = Row(row.name, fields, row.images)
    require_columns(row, ("question_id", "beside"), texts=("question", "options", "answer", "category"))
    options, answer = split_options(str(fields["options"]).strip()), str(fields["answer"]).strip()
    if answer not in list(ascii_uppercase[: len(options)]):
        raise ItemError(f"{row.name}: answer {answer!r} is none of {len(options)} options; correct the row")
    beside = fields["beside"]
    boxes, names = (beside.get(key) for key in ("bbox", "target_object")) if isinstance(beside, dict) else (None, None)
    if not isinstance(boxes, list) or not boxes or not isinstance(names, list) or len(names) != len(boxes):
        raise ItemError(f"{row.name}: {boxes!r} of {names!r} beside the picture; expected a box an object; {REMEDY}")
    lines = [f"({letter}) {option}" for letter, option in zip(ascii_uppercase, options, strict=False)]
    return make_draft(
        row, NAME, fields["question_id"], REMEDY, question="\n".join([fields["question"].strip(), *lines, INSTRUCTION]),
        answer=answer, choices=tuple(options), covariates={"category": fields["category"]}, licence=LICENCE,
        boxes=tuple(read_box(row, box, str(name)) for box, name in zip(boxes, names, strict=True)),
    )  # fmt: skip


FORMS = (
    r"^([A-D])\s*[.)\]]*", r"(?:THE\s+)?(?:ANSWER|CHOICE|OPTION)(?:\s+IS)?[\s:]+([A-D])", r"\(([A-D])\)",
    r"([A-D])\s*[.)\]]", r"(?:^|\s)([A-D])(?:\s|$)",
)  # fmt: skip


def official_answer(response: str) -> str | None:
    """Return the letter that the usual rule reads behind the reasoning: the first form that is there decides."""
    text = read_final(response).upper()
    found = next((match[1] for form in FORMS if (match := re.search(form, text))), None)
    letters = re.findall("[A-D]", text)
    return found or (letters[0] if len(letters) == 1 else None)


def scores(response: str, item: Item) -> dict[str, Score]:
    """Score a response by both rules."""
    strict = strict_choice(response, item.choices)
    return compare(item.answer, official=official_answer(response), strict=strict)
