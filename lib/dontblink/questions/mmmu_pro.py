"""MMMU_Pro: college questions with up to 12 options and several pictures, scored the official way and strictly.

Why it exists: its rows need care (options as text, pictures inside options), and its official parser misreads some
answers and draws the rest at random. In: rows of any of its three configurations, and responses. Out: Items, Scores.
Never: guess; where the official parser would draw an option, its answer here is None.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from dontblink.questions.answers import compare, strict_choice
from dontblink.questions.items import IMAGE_TAG, Item, ItemError, Score
from dontblink.questions.sources import Row, Source, find_picture, make_draft, read_list, read_rows, require_columns

NAME = "mmmu_pro"
LICENCE = "Apache-2.0"
REQUIRED = ("id", "options", "answer")
VISION = "vision"  # the configuration whose pictures hold question and options
DEFAULT_CONFIG = "standard (10 options)"
IMAGE_COLUMNS = ("image", *(f"image_{number}" for number in range(1, 8)))
LAST_LINE = (
    "The last line of your response should be of the following format: 'Answer: $LETTER' (without quotes) "
    "where LETTER is one of options. Think step by step before answering."
)
INSTRUCTION = f"Answer the preceding multiple choice question. {LAST_LINE}"
VISION_INSTRUCTION = f"Write out the multiple-choice question in the image and then solve it. {LAST_LINE}"
COVARIATES = ("subject", "topic_difficulty", "img_type", "config")


def load_rows(source: Source, config: str = "") -> list[Row]:
    """Return the rows of split `test`; a row without id gets its number, and every row its configuration."""
    config = config or DEFAULT_CONFIG
    rows = read_rows(source, split="test", config=config, image_columns=IMAGE_COLUMNS)
    return [
        Row(row.name, {"id": str(number), **row.fields, "config": config}, row.images)
        for number, row in enumerate(rows, start=1)
    ]


def place(row: Row) -> tuple[str, str]:
    """Return the subject, one of 30, and what rows with the same first picture share: its hash, else the row's id."""
    picture = next((image for image in row.images.values() if image is not None), None)
    if isinstance(picture, Path):
        picture = picture.read_bytes() if os.path.isfile(picture) else None
    shared = str(row.fields["id"]) if picture is None else hashlib.sha256(picture).hexdigest()
    return str(row.fields.get("subject") or ""), shared


def build_item(row: Row) -> Item:
    """Return the row as a draft: question, lines `A. option` and instruction, as in the official prompt.

    `images` holds the pictures that question and options name, in the order of first naming, and their tags are
    renumbered to it; all pictures where nothing is named. In the vision configuration the one picture holds question
    and options, so that the instruction is the whole text. An ItemError names a row that lacks a column, a picture that
    its text names, any picture or its file, or that has options that are no list, fewer than two of them, or an answer
    that is no option's letter.
    """
    vision = row.fields.get("config") == VISION
    require_columns(row, REQUIRED, texts=() if vision else ("question",))
    options = parse_options(row)
    answer, letters = str(row.fields["answer"]).strip(), ascii_uppercase[: len(options)]
    if len(options) < 2:
        raise ItemError(f"{row.name}: {len(options)} option; a choice needs two or more; leave the row out")
    if answer not in list(letters):
        raise ItemError(f"{row.name}: answer {answer!r}; expected a letter from A to {letters[-1]}; correct the row")
    if vision:
        text, images = VISION_INSTRUCTION, [row.images.get("image")]
    else:
        lines = [f"{letter}. {option}" for letter, option in zip(letters, options, strict=True)]
        text = "\n".join([row.fields["question"], *lines, INSTRUCTION])
        named = list(dict.fromkeys(int(number[:9]) for number in IMAGE_TAG.findall(text)))
        places = named or [number for number in range(1, 8) if row.images.get(f"image_{number}") is not None]
        images = [row.images.get(f"image_{number}") for number in places]
        if None in images:
            raise ItemError(f"{row.name}: no picture in image_{places[images.index(None)]}, which the row's text names")
        numbers = {number: place for place, number in enumerate(named, start=1)}
        text, *options = (
            IMAGE_TAG.sub(lambda tag: f"<image {numbers[int(tag[1][:9])]}>", part) for part in (text, *options)
        )
    pictures = tuple(find_picture(row, [image], "unpack the pictures there") for image in images or [None])
    return make_draft(
        row, NAME, row.fields["id"], "", images=pictures, question=text, answer=answer, choices=tuple(options),
        covariates={name: read_label(row.fields.get(name)) for name in COVARIATES}, licence=LICENCE,
    )  # fmt: skip


def read_label(value: Any) -> str:
    """Return a covariate as text; the official text "['Diagrams', 'Tables']" becomes `Diagrams, Tables`."""
    return ", ".join(re.findall(r"'([^']*)'", str(value))) if str(value).startswith("[") else str(value or "")


def parse_options(row: Row) -> list[str]:
    """Return the options from a list, or from a text that holds a Python list; a list inside it is flattened.

    One row has such a list. The official code does not flatten it: it sees one option. What is no such list, an empty
    one, and one longer than the alphabet are an ItemError.
    """
    parts = [part if isinstance(part, list | tuple) else (part,) for part in read_list(row, "options")]
    options = [str(option) for part in parts for option in part]
    if not 0 < len(options) <= len(ascii_uppercase):
        raise ItemError(f"{row.name}: {len(options)} options; expected 2 to {len(ascii_uppercase)}; correct the row")
    return options


def official_answer(response: str, options: Sequence[str]) -> str | None:
    """Return the letter that the official parser reads, None exactly where it would draw one at random.

    Its faults are kept. After the last `Answer:` any letter counts, inside words too, if it is the only one. Otherwise
    the whole response, reasoning included, is searched for `(B)`, else `B ` (no left boundary), else `B.`, else, in
    more than five words, for the options' texts; of several the one that stands last wins, but `B.`, and `B ` at the
    end of a word, have no place there and count as absent.
    """
    letters = ascii_uppercase[: len(options)]
    _, marker, rest = response.rpartition("Answer:")
    stated = [letter for letter in letters if marker and letter in rest]
    if len(stated) == 1:
        return stated[0]
    for mark in ",.!?;:'":  # one mark at a time, as the official code does: "B.," keeps its point
        response = response.strip(mark)
    padded = f" {response} "
    # how a letter is looked for, and where it stands: the official code asks for another form than it found
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        if found := [letter for letter in letters if form.format(letter) in padded]:
            return max(found, key=lambda letter: padded.rfind(place.format(letter)))
    placed = {letter: padded.lower().rfind(text.lower()) for letter, text in zip(letters, options, strict=True)}
    found = [letter for letter in letters if placed[letter] >= 0 and len(padded.split()) > 5]
    return max(found, key=lambda letter: placed[letter]) if found else None


def scores(response: str, item: Item) -> dict[str, Score]:
    """Score a response by both parsers."""
    official, strict = official_answer(response, item.choices), strict_choice(response, item.choices)
    return compare(item.answer, official=official, strict=strict)
