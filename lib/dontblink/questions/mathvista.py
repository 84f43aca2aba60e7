r"""MathVista (testmini, 1000 rows): its rows as Items, the rules that find a response's answer, and its two scorers.

Why it exists: the official code gives the step from a response to its answer to an LLM, and normalises what that finds
in ways that score some right answers wrong and some wrong ones right. In: rows of the hub data set `AI4Math/MathVista`,
or of the official `testmini.json` beside its folder `images`; the text of a response. Out: Items,
and Scores. Never: an Item whose answer no scorer can reach, a look at the gold answer while a response is read, or a
guess under the strict scorer.

`find_answer` takes the place of the LLM: an option letter ("B"), a plain number ("1000") or a list ("[2014, 2016]"), ''
where the text gives no answer, in time linear in the text. It looks at the text as a whole; the last `\boxed{}`; what
follows "the answer is"; then, behind the last sentence that declines to answer, an option alone on a line or at the
start, the last `(B)`, what the last sentences state.

`official` is the official code with these rules. `strict` differs from it where the official code

- reads the whole response, a reasoning that never closed included: strict reads what `answers.read_final` leaves;
- takes the Levenshtein-nearest choice when no choice was named, even for '': strict has no parse, and is wrong;
- reads `(b)` as a letter though option D is "(b)": strict takes the option that is the response, capitals excepted;
- truncates for integers (14.9 is 14): strict compares values, so 14.9 is wrong and 14.0 is right;
- compares texts: strict compares values, so 1.50 is 1.5 at two decimals and [2007,2008] is [2007, 2008];
- takes no `1,000` in its normalisation: under both scorers our extraction has made it 1000 before;
- accepts inf, nan and `1_0` as numbers: strict finds no number in them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from dontblink.questions.answers import DENIED, SEVERAL, make_plain, read_final, read_marked, read_value, strict_yes_no
from dontblink.questions.items import Item, ItemError, Score
from dontblink.questions.numbers import SCALES, UNREAD, read_numbers, read_words
from dontblink.questions.sources import Row, Source, make_draft, read_rows, require_columns

NAME = "mathvista"
LICENCE = "CC BY-SA 4.0 (test use)"
REQUIRED = ("pid", "question_type", "answer_type", "choices", "answer", "metadata")
IMAGE_COLUMNS = ("decoded_image", "image")
REMEDY = "unpack images.zip of AI4Math/MathVista beside the rows, or read the hub's set"
KNOWN_WRONG = {"479": "the published answer is known to be wrong"}
DECIMALS = {1: ("one decimal place", "1.2, 1.3, 1.4"), 2: ("two decimal places", "1.23, 1.34, 1.45")}
# verbs and signs behind which a sentence states its result
STATES = re.compile(
    r"[=≈]|:(?=\s)|\b(?:is|are|was|were|be|by|equals?|gives?|gets?|yields?|has|have|had|totals?|approximately|about)\b",
    re.IGNORECASE,
)
DECLINES = re.compile(
    r"\b(?:can ?not|can't|could not|couldn't|unable|impossible|not possible|insufficient|incomplete|unclear|vague|"
    r"nonsensical|subjective|missing|lacks?|mistake|please provide|none of the|neither of the|"
    r"no (?:\w+ )?(?:option|choice)s?|"
    r"(?:does|do|did)(?: not|n't) (?:provide|contain|include|have|specify|give|show|mention)|"
    r"not? (?:enough|sufficient|information|provided|given|clear|valid|applicable)|"
    r"not (?:an?|one|any|among|in|listed|available|present)\b[ \w]{0,30}\b(?:options?|choices?)|"
    r"without (?:the|a|an|any|more|knowing|seeing|additional|further|specific))\b",
    re.IGNORECASE,
)
LIST = re.compile(r"\[(?= ?[-+]?\d)[-+\d., ]++\]")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
CLAUSE_END = re.compile(r"(?<=[.!?;])\s|,\s|\n|\b(?:because|since|where|which)\b")
LETTER = re.compile(r"(?:(?i:option|choice)\s+)?(?:[(\[]\s?([A-Za-z])\s?[)\]]|([A-Z])(?=$|[.):,;\s\u4e00-\u9fff]))")
WHOLE_LETTER = re.compile(r"(?:(?i:option|choice)\s+)?[(\[]?\s?([A-Za-z])\s?[)\]]?[.:]?")
NAMED_LETTER = re.compile(
    r"(?<!\w)\(([A-Z])\)|\b(?i:option|choice|answer) ([B-Z])\b|\b([A-Z])(?= is (?:the )?(?:correct|right|best))"
)
# a breakdown in brackets behind a number, two unknowns, a list of numbers, a measure in two units
BREAKDOWN = re.compile(r"(\d[^()=≈\n]{0,40}?[\sA-Za-z%°])\([^()]*\)(?!\s?[/^×])")
UNKNOWN = re.compile(r"(?<![\w])([a-zA-Z])\s?=\s?-?[\d√(.]")
PART = r"-?\d[\d.]*\s?(?:%|°|[a-zA-Z]+)?"
LISTED = re.compile(rf"\W*{PART}(?:\s*(?:[,;]\s+(?:and\s|or\s)?|\band\b|\bor\b|&|[和或])\s*{PART})+[\s.)\]]*")
COMPOUND = re.compile(
    r"\d\s?(?:hours?|hrs?|h|minutes?|min|days?|weeks?|years?|feet|foot|ft|yards?|pounds?|lbs?|dollars?|km|m|kg)"
    r"\s?(?:and\s)?\d"
)
BOLD = re.compile(r"\*\*\s*([^*\n]{1,40}?)\s*\*\*")
ALONE = re.compile(r"\W{0,3}\d[\d.,/]*\W{0,3}(?:[A-Za-z°%]+\W?)?")


def load_rows(source: Source, config: str = "") -> list[Row]:
    """Return the rows of testmini."""
    return read_rows(source, split="testmini", config=config, image_columns=IMAGE_COLUMNS)


def build_item(row: Row) -> Item:
    """Return a row as a draft, asked in the words of the official prompt.

    A row that lacks a column or a picture, has too few options, or an answer that cannot be scored is an ItemError.
    """
    fields = row.fields
    require_columns(row, REQUIRED, texts=("question",))
    where, choices = f"{row.name} (pid {fields['pid']})", list_choices(fields)
    answer = "" if fields["answer"] is None else str(fields["answer"])
    _check_answer(where, fields, answer, choices)
    if not isinstance(metadata := fields["metadata"], Mapping) or not metadata.get("category"):
        raise ItemError(f"{where}: metadata {metadata!r} names no category; take the row of AI4Math/MathVista")
    return make_draft(
        row, NAME, fields["pid"], REMEDY, places=map(row.images.get, IMAGE_COLUMNS),
        question=str(fields.get("query") or compose_query(fields)), answer=answer, choices=tuple(choices),
        covariates=_list_covariates(fields), source=f"AI4Math/MathVista testmini, pid {fields['pid']}", licence=LICENCE,
    )  # fmt: skip


def _check_answer(where: str, fields: Mapping[str, Any], answer: str, choices: list[str]) -> None:
    """Raise ItemError unless a response can be right."""
    kind, remedy = fields["answer_type"], "correct or remove the row"
    if not isinstance(fields["answer"], str | int | float | None):
        raise ItemError(f"{where}: answer {fields['answer']!r}; expected a text or a number; {remedy}")
    if not answer.strip():
        raise ItemError(f"{where}: no answer (those of the split `test` are withheld); take the split testmini")
    if fields["question_type"] not in ("multi_choice", "free_form") or kind not in ("text", "integer", "float", "list"):
        raise ItemError(f"{where}: {fields['question_type']}/{kind} is no MathVista question; {remedy}")
    if fields["question_type"] == "multi_choice":
        if not 2 <= len(choices) <= len(ascii_uppercase):
            raise ItemError(f"{where}: {len(choices)} choice(s) of a multi_choice row; expected 2 to 26; {remedy}")
        if answer not in choices:
            raise ItemError(f"{where}: answer {answer!r} is none of the choices {choices}; {remedy}")
    elif kind != "list" and read_value(answer) is None:
        raise ItemError(f"{where}: answer {answer!r} of a row of type {kind}; expected a number; {remedy}")


def _list_covariates(fields: Mapping[str, Any]) -> dict[str, float | str]:
    """Return what the task-type rule and the scorers read of a row; columns without a value are left out."""
    metadata, precision, note = fields["metadata"], read_precision(fields), KNOWN_WRONG.get(str(fields["pid"]))
    skills = metadata.get("skills")
    texts = {name: metadata.get(name) for name in ("category", "task", "context", "grade", "language", "source")}
    texts |= {name: fields.get(name) for name in ("question_type", "answer_type", "unit")}
    texts |= {"skills": ", ".join(map(str, skills)) if isinstance(skills, list | tuple) else skills, "note": note}
    known: dict[str, float | str] = {name: str(text) for name, text in texts.items() if text}
    return known if precision is None else {**known, "precision": precision}


def compose_query(row: Mapping[str, Any]) -> str:
    """Return the official prompt text of a row: hint, question, unit and lettered choices."""
    decimals, example = DECIMALS.get(int(read_precision(row) or 0), ("decimals", "1.2, 1.3, 1.4"))
    hint = {
        "integer": "requiring an integer answer and provide the final value, e.g., 1, 2, 3",
        "float": f"requiring a floating-point number with {decimals} and provide the final value, e.g., {example}",
        "list": "requiring a Python list as an answer and provide the final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4]",
    }.get(str(row["answer_type"]), "and provide the correct option letter, e.g., A, B, C, D")
    unit = f" (Unit: {row['unit']})" if row.get("unit") else ""
    lines = [f"Hint: Please answer the question {hint}, at the end.", f"Question: {row['question']}{unit}"]
    choices = list_choices(row)
    lines += ["Choices:", *(f"({letter}) {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False))]
    return "\n".join(lines if choices else lines[:2]).strip()


def place(row: Row) -> tuple[str, str]:
    """Return category and answer type, as in 'general-vqa/integer', and what rows on one picture share.

    That is its file's folder and name, else a hash of its bytes, else the pid.
    """
    named, held = row.images.get("image"), row.images.get("decoded_image")
    own = sha256(held).hexdigest() if isinstance(held, bytes) else str(row.fields["pid"])
    picture = "/".join(named.parts[-2:]) if isinstance(named, Path) else own
    return f"{row.fields['metadata']['category']}/{row.fields['answer_type']}", picture


def find_answer(text: str, row: Mapping[str, Any]) -> str:
    """Return the answer that a text gives: a letter, a number or a list as text; '' where it gives none."""
    if row["question_type"] == "multi_choice":
        return find_choice(text, list_choices(row))
    if row["answer_type"] == "list":
        return ["", *LIST.findall(text)][-1]
    asked = f"{row.get('question') or ''} {row.get('unit') or ''}".lower()
    for scale in filter(asked.__contains__, SCALES):  # "how many million?": the answer counts in it
        text = re.sub(rf"(?<=\d) {scale}s?\b", "", text, flags=re.IGNORECASE)
    return find_number(text)


def list_choices(row: Mapping[str, Any]) -> list[str]:
    """Return a row's choices; none for null, NaN or an empty column, whatever the reader made of it."""
    choices = row.get("choices")
    if not isinstance(choices, Iterable) or isinstance(choices, str | Mapping):
        return []
    return [str(choice) for choice in choices]


def split_sentences(text: str) -> list[str]:
    """Return the sentences and lines of a text, empty ones left out."""
    return [sentence.strip() for sentence in SENTENCE_END.split(text) if sentence.strip()]


def read_committed(text: str, spared: Sequence[str] = ()) -> list[str]:
    """Return the sentences behind the last one that declines to answer; a spared text ("can't tell") is no refusal."""
    sentences = split_sentences(text)
    spare = re.compile("|".join(map(re.escape, spared)) or r"(?!)", re.IGNORECASE)
    declining = [place for place, sentence in enumerate(sentences) if DECLINES.search(spare.sub("", sentence))]
    return sentences[declining[-1] + 1 if declining else 0 :]


def quote_refusal(text: str) -> str:
    """Return the last sentence that declines to answer, else the last sentence: what a reader quotes as no answer."""
    sentences = split_sentences(text)
    return ([*filter(DECLINES.search, sentences)] or sentences or [""])[-1]


def read_clause(text: str) -> str:
    """Return the number of a text's first clause, `UNREAD` where it gives several or a part of an expression.

    It is the first number of the last side of its equation that is one number, else a number word. What breaks a total
    down behind it ("12 (5 red and 7 blue)", "12 = 5 + 7") is no second answer.
    """
    sentence = re.split(r"(?<=[.!?])\s|\n|\b(?:because|since|where|which)\b", text, maxsplit=1)[0]
    clause = BREAKDOWN.sub(r"\1", CLAUSE_END.split(text, maxsplit=1)[0])
    if len(set(UNKNOWN.findall(sentence))) > 1 or COMPOUND.search(clause):
        return UNREAD
    if LISTED.fullmatch(BREAKDOWN.sub(r"\1", sentence).rpartition("=")[2]):
        first, *rest = [float(number) for _, number in read_numbers(sentence.rpartition("=")[2])] or [math.nan]
        if rest and not math.isclose(first, sum(rest)):
            return UNREAD
    found = ""
    for side in reversed(re.split("[=≈]", clause)):
        numbers = [number for _, number in read_numbers(side)] or [read_words(side)]
        found = numbers[0] or found
        if found not in ("", UNREAD):
            break
    return found


def state_number(sentence: str) -> str:
    """Return the number that a sentence states: the first behind its last "is", "=" and the like, else its last one.

    A colon with several numbers behind it breaks down the number before it.
    """
    head, colon, list_of = sentence.partition(": ")
    if colon and len(read_numbers(list_of)) > 1 and read_numbers(head) and not STATES.search(list_of):
        sentence = head
    numbers = read_numbers(sentence)
    if not numbers:
        return ""
    stated = [verb.end() for verb in STATES.finditer(sentence) if verb.end() <= numbers[-1][0]]
    return next(number for start, number in numbers if start >= stated[-1]) if stated else numbers[-1][1]


def find_number(text: str) -> str:
    """Return the number that a text answers with; '' where there is none, or where its answer is not one number."""
    found = next(filter(None, map(read_clause, read_marked(text))), "")
    if not found:
        alone = {read_clause(make_plain(bold)) for bold in BOLD.findall(text) if ALONE.fullmatch(bold)}
        found = alone.pop() if len(alone) == 1 else ""
    plain = make_plain(text)
    found = found or next(filter(None, map(state_number, reversed(read_committed(plain)))), "")
    return "" if found == UNREAD else found


def find_choice(text: str, choices: Sequence[str]) -> str:
    """Return the letter of the option that a text answers with; '' where there is none."""
    options, plain = Options(choices), make_plain(text)
    if letter := options.match_whole(plain):
        return letter
    plain = DENIED.sub(" ", plain)
    for marked in read_marked(text):
        if options.match_several(marked.partition("\n")[0]):
            return ""
        if letter := options.match_start(DENIED.sub(" ", marked)):
            return letter
    sentences = read_committed(plain, [option for option in options.plain if DECLINES.search(option)])
    if not sentences or options.match_several(sentences[-1], letters_only=True):
        return ""
    found = options.match_lines(sentences) or options.match_conclusion(sentences)
    said = "" if found or sorted(options.plain) != ["no", "yes"] else strict_yes_no(text) or ""
    return found or options.match_whole(said)


def trim(text: str) -> str:
    """Return a text in small letters without the punctuation around it."""
    return text.strip(" .):,").casefold()


class Options:
    """The options (26 at most) of a question and the ways in which a text names one: each returns its letter or ''."""

    def __init__(self, choices: Sequence[str]) -> None:
        self.choices = [choice.strip() for choice in choices[: len(ascii_uppercase)]]
        self.letters = ascii_uppercase[: len(self.choices)]
        self.plain = [make_plain(choice).casefold() for choice in self.choices]
        numbers = [read_numbers(plain) for plain in self.plain]
        self.numeric = bool(numbers) and all(len(n) == 1 and n[0][0] == 0 and n[0][1] != UNREAD for n in numbers)
        self.values = [float(found[0][1]) for found in numbers] if self.numeric else []
        words = sorted({plain for plain in self.plain if len(plain) > 1 or plain.isdigit()}, key=len, reverse=True)
        either = "|".join(map(re.escape, words)) or r"(?!)"
        denying = re.compile(r"(?:not|no|none|neither|cannot|never)\b")
        own = r"(?!)" if any(map(denying.match, self.plain)) else ""  # options that deny are read as they stand
        self.denied = re.compile(
            own + r"(?:\b(?:not|never|neither|nor|cannot|rather than|instead of|\w+n['’]t)\s+(?:(?:be|an?|the|any|"
            rf"really|definitely|actually|likely)\s+){{0,3}}|不是|并非)(?:{either})(?![a-z0-9_])"
        )
        self.mention = re.compile(rf"(?<![a-z0-9_.])(?<!not )(?<!not the )(?:{either})(?![a-z0-9_]|\.\d)")

    def name_first(self, matches: Sequence[bool]) -> str:
        """Return the letter of the first option that matches."""
        return self.letters[matches.index(True)] if True in matches else ""

    def match_value(self, number: str) -> str:
        """Match an option that is a number (with a unit or none) by its value."""
        return self.name_first(
            [math.isclose(value, float(number), rel_tol=1e-9) for value in self.values if number]
        )  # nan is close to none

    def match_several(self, text: str, letters_only: bool = False) -> bool:
        """Whether a text opens with two options joined to each other: "A or C", "a cat or a dog"."""
        found = SEVERAL.match(text)
        letters = {*re.findall(r"(?<![A-Za-z])[A-Z](?![A-Za-z])", found[0])} & {*self.letters} if found else set()
        words = [(m.end(), m.start(), m[0]) for m in self.mention.finditer(text.casefold())][:2]
        between = text[words[0][0] : words[1][1]] if len(words) == 2 and words[0][2] != words[1][2] else "-"
        if letters_only:
            return len(letters) > 1
        return len(letters) > 1 or re.fullmatch(r"\W*(?:or|and|nor|/)\W*(?:(?:an?|the)\s)?", between) is not None

    def match_whole(self, text: str) -> str:
        """Match a text that is nothing but a letter, the words of an option, or both; a bare capital is a letter."""
        if text in self.choices and not (len(text) == 1 and text.isupper()):
            return self.name_first([text == choice for choice in self.choices])
        if whole := WHOLE_LETTER.fullmatch(text):
            return whole[1].upper() if whole[1].upper() in self.letters else ""
        start = LETTER.match(text)
        letters = [start is not None and letter in (start[1] or start[2]).upper() for letter in self.letters]
        rest = trim(text[start.end() :]) if start else ""
        both = [named and rest == trim(plain) for named, plain in zip(letters, self.plain, strict=True)]
        return self.name_first(both) or self.name_first([trim(text) == trim(plain) for plain in self.plain])

    def match_start(self, text: str) -> str:
        """Match what follows a marker: an option as a whole, a leading letter, a number by value, the first mention."""
        line = text.partition("\n")[0].strip()
        letter = LETTER.match(line)
        if whole := self.match_whole(line):
            return whole
        if letter and not (letter[2] in ("A", "I") and re.match(r"\s+[a-z]", line[letter.end() :])):
            return self.name_first([(letter[1] or letter[2]).upper() == own for own in self.letters])
        if self.numeric:
            return self.match_value(read_clause(line))
        mention = self.mention.search(line.casefold())
        return self.name_first([mention is not None and mention[0] == plain for plain in self.plain])

    def match_lines(self, sentences: Sequence[str]) -> str:
        """Match the last option alone on a line, else one that opens the text ("Yes, ..."), else the last `(B)`."""
        whole = [letter for sentence in sentences if (letter := self.match_whole(sentence))]
        first = sentences[0].casefold()
        start = self.mention.match(first)
        if not whole and start and re.match(r"[,.;:!]|$", first[start.end() :]):
            return self.name_first([start[0] == plain for plain in self.plain])
        named = ["".join(groups) for groups in NAMED_LETTER.findall("\n".join(sentences))]
        return (whole or [letter for letter in named if letter in self.letters] or [""])[-1]

    def match_conclusion(self, sentences: Sequence[str]) -> str:
        """Match what the last sentence with a number (where all options are numbers) or with a mention states."""
        if self.numeric:
            return self.match_value(next(filter(None, map(state_number, reversed(sentences))), ""))
        for sentence in (self.denied.sub(" ", text.casefold()) for text in reversed(sentences)):
            mentions = [(match.start(), match[0]) for match in self.mention.finditer(sentence)]
            if mentions:
                stated = [verb.end() for verb in STATES.finditer(sentence) if verb.end() <= mentions[-1][0]]
                behind = {word for start, word in mentions if stated and start >= stated[-1]}
                named = behind if len(behind) == 1 else {word for _, word in mentions}
                return self.name_first([named == {plain} for plain in self.plain])
        return ""


def extract(response: str, row: Mapping[str, Any]) -> str:
    """Return the answer that the official code's own rules find, else the one that ours find, else ''."""
    if row["question_type"] == "multi_choice" and response in list_choices(row):
        return response
    kinds: dict[str, Callable[[str], float]] = {"integer": int, "float": float}
    with suppress(KeyError, ValueError):  # prose: the official code goes on, too
        return str(kinds[row["answer_type"]](response))
    for line in response.split("\n"):
        quoted, closed, _ = line.partition('The answer is "')[2].rpartition('".')
        if closed:
            return quoted
    return find_answer(read_final(response) or response, row)


def official_normalise(extraction: str, row: Mapping[str, Any]) -> str | None:
    """Return the official prediction of an extraction: a choice, a number or a list as text; None where it is none.

    For multi_choice the first `(X)`, then a letter, then the Levenshtein-nearest choice, ties to the first.
    """
    if row["question_type"] == "multi_choice":
        choices = list_choices(row)
        letter = re.search(r"\(([a-zA-Z])\)", extraction)
        text = letter[1].upper() if letter else extraction.strip()
        letters = list(ascii_uppercase[: len(choices)])
        if text in letters:
            return choices[letters.index(text)]
        return min(choices, key=lambda choice: count_edits(text, choice), default=None)
    try:
        if row["answer_type"] == "integer":
            return str(int(float(extraction)))
        if row["answer_type"] == "float":
            return str(round(float(extraction), int(row["precision"])))  # the hub's precision is a float64
    except (ValueError, TypeError, OverflowError, KeyError):
        return None
    return extraction


def score_strictly(response: str, row: Mapping[str, Any]) -> Score:
    """Return the strict score of a response; see the module for how it differs from the official one."""
    answer, gold = find_answer(read_final(response), row), str(row["answer"])
    if not answer:
        return Score(False, False, "")
    if row["question_type"] == "multi_choice":
        choice = list_choices(row)[ascii_uppercase.index(answer)]
        return Score(choice == gold, True, choice)
    if row["answer_type"] == "list":
        values, golds = ([read_value(part) for part in text.strip("[] ").split(",")] for text in (answer, gold))
        parsed = None not in values
        return Score(parsed and values == golds, parsed, answer if parsed else "")
    value, precision = read_value(answer), read_precision(row)
    if value is None:
        return Score(False, False, "")
    if row["answer_type"] == "float" and precision is not None:
        value = round(value, int(precision))
    return Score(value == read_value(gold), True, str(int(value)) if value.is_integer() else repr(value))


def score_officially(response: str, row: Mapping[str, Any]) -> Score:
    """Return the official score of a response, rules in place of the LLM.

    The official code asks the LLM for an answer also where there is none; it then mostly quotes the sentence that
    declines, and the nearest choice to that sentence is what the official code scores. `parsed` only where the
    extraction found something: a correct score without a parse is a right guess by the nearest choice.
    """
    found = extract(response, row)
    refusal = quote_refusal(response) if row["question_type"] == "multi_choice" else ""
    prediction = official_normalise(found or refusal, row)
    return Score(prediction == str(row["answer"]), bool(found) and prediction is not None, prediction or "")


def scores(response: str, item: Item) -> dict[str, Score]:
    """Return both scores of a response, by the official columns rebuilt from an Item."""
    row = {**item.covariates, "choices": item.choices, "answer": item.answer, "question": item.question}
    return {"official": score_officially(response, row), "strict": score_strictly(response, row)}


def read_precision(row: Mapping[str, Any]) -> float | None:
    """Return a row's decimal places, whether the reader made an int, a float64, a NaN or a None of them."""
    return read_value(str(row.get("precision")))


def count_edits(text: str, other: str) -> int:
    """Return the Levenshtein distance, in time len(text) * len(other), vectorised along the first."""
    codes, places = np.array([ord(sign) for sign in text], dtype=np.int64), np.arange(len(text) + 1)
    row = places
    for sign in other:
        row = np.concatenate(([row[0] + 1], np.minimum(row[1:] + 1, row[:-1] + (codes != ord(sign)))))
        row = np.minimum.accumulate(row - places) + places
    return int(row[-1])
