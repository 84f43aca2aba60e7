"""TreeBench: 405 multiple-choice questions on dense photographs, with a person's box for every object they name.

Why it exists: it is the benchmark whose boxes mean most directly what evidence means here, every instance that question
and answer speak of; and its rows need care. In: the rows of `TreeBench.tsv` (pictures as base64) or of a repacked
.jsonl, and responses. Out: Items with boxes, Scores. Never: boxes for the task Perception/OCR, of which the picture
itself holds the printed question: its boxes cover that, too.

The two official scorers disagree, and both are kept with their faults: that of the evaluation toolkit takes the first
capital from A to E wherever it stands, can never find F, and reads an empty answer as A; that of the data set's own
repository takes the first character, so that "(C)" is none. `strict` is `answers.strict_choice`.
"""

from __future__ import annotations

import re
from string import ascii_uppercase

from dontblink.questions import sources
from dontblink.questions.answers import compare, read_final, strict_choice
from dontblink.questions.items import Box, Item, ItemError, Score
from dontblink.questions.sources import Row, Source, make_draft, read_box, read_list, read_rows, require_columns

NAME = "treebench"
LICENCE = "Apache-2.0 (pictures: SA-1B, their own)"
INSTRUCTION = "Answer with the option's letter from the given choices."
PRINTED = "Perception/OCR"
NO_EVIDENCE = "the question is printed in the picture and its boxes cover it: no evidence to measure"
TWICE = "two options have one letter"
PREFIXES = (
    "The best answer is", "The correct answer is", "The answer is", "The answer",
    "The best option isThe correct option is", "Best answer:Best option:",
)  # fmt: skip


def load_rows(source: Source, config: str = "") -> list[Row]:
    """Return all rows; those without an id get their number from 0, as the .tsv counts them."""
    rows = read_rows(source, split="train", config=config, image_columns=("image",))
    return [Row(r.name, {"question_id": str(number), **r.fields}, r.images) for number, r in enumerate(rows)]


def place(row: Row) -> tuple[str, str]:
    """Return the task, such as `Reasoning/Ordering`, and the picture."""
    return str(row.fields["category"]), sources.name_picture(row)


def build_item(row: Row) -> Item:
    """Return the row as a draft; ItemError for a row without picture, options or an answer among them, or a bad box."""
    column = "options" if "options" in row.fields else "multi-choice options"
    require_columns(row, ("target_instances",), texts=("question", "answer", "category", column))
    text, answer = row.fields[column].strip(), row.fields["answer"].strip()
    options = split_options(text)
    if answer not in list(ascii_uppercase[: len(options)]):
        raise ItemError(f"{row.name}: answer {answer!r} is none of {len(options)} options in {text!r}; correct the row")
    is_printed = row.fields["category"] == PRINTED
    notes = {"no_evidence": NO_EVIDENCE} if is_printed else {}
    if len(re.findall(rf"^\W*{answer}[.):]", text, re.MULTILINE)) > 1:
        notes["note"] = TWICE
    return make_draft(
        row, NAME, row.fields["question_id"], "take TreeBench.tsv, which holds the pictures",
        question=f"{row.fields['question'].strip()}\n{text}\n{INSTRUCTION}", answer=answer, choices=tuple(options),
        boxes=() if is_printed else read_instances(row), covariates={"category": row.fields["category"], **notes},
        licence=LICENCE,
    )  # fmt: skip


def read_instances(row: Row) -> tuple[Box, ...]:
    """Return the boxes of `target_instances`, a list or the text of a Python list of [x0, y0, x1, y1] in px."""
    if not (found := read_list(row, "target_instances")):
        raise ItemError(f"{row.name}: target_instances {found!r}; expected one box or more; correct the row")
    return tuple(read_box(row, corners, extent=False) for corners in found)


def split_options(text: str) -> list[str]:
    """Return the options of a text "A. ...", "(A) ..." or "A ...", on lines or on one: A, then B, ... in sequence.

    A letter that begins a line comes before one with a mark inside a line; letters without a mark inside a line count
    only where the text has no other sign of a second option. A letter that is used twice begins one option only.
    """
    begins = [r"^\s*\(?{0}[.):]?(?=\s|(?<=[.):])\S)", r"(?<=\s)\(?{0}[.):]"]
    if not any(re.search(form.format("B"), text, re.MULTILINE) for form in begins):
        begins.append(r"(?<=\s){0}(?=\s)")
    cuts: list[tuple[int, int]] = []
    for letter in ascii_uppercase:
        behind = cuts[-1][1] if cuts else 0
        found = (re.compile(form.format(letter), re.MULTILINE).search(text, behind) for form in begins)
        if (match := next(filter(None, found), None)) is None or (not cuts and text[: match.start()].strip()):
            break
        cuts.append(match.span())
    ends = [start for start, _ in cuts[1:]] + [len(text)]
    return [text[behind:end].strip() for (_, behind), end in zip(cuts, ends, strict=False)]


def official_toolkit_answer(response: str) -> str:
    """Return the letter that the evaluation toolkit's rule reads from the text behind the reasoning, faults kept."""
    text = read_final(response)
    for prefix in PREFIXES:
        text = text.replace(prefix, "")
    text = text.strip()
    found = re.search("[ABCDE]", text)
    if found or len(text.split()) > 10:
        return found[0] if found else ""
    return next((letter for letter in "ABCDE" if text.lower() in f"({letter})".lower()), "")


def official_repository_answer(response: str) -> str:
    """Return the first character behind the reasoning, in the last <answer> where there is one."""
    final = read_final(response)
    tagged, closed, _ = final.rpartition("</answer>")
    return (tagged.rpartition("<answer>")[2] if closed else final).strip()[:1]


def scores(response: str, item: Item) -> dict[str, Score]:
    """Score a response by both official rules and strictly."""
    return compare(
        item.answer,
        official_toolkit=official_toolkit_answer(response) or None,
        official_repository=official_repository_answer(response) or None,
        strict=strict_choice(response, item.choices),
    )
