r"""What a response to a MathVista question answers, found by rules: the step that the official code gives to an LLM.

In: the text of a response and the row that it answers. Out: an option letter ("B"), a plain number ("1000") or a list
("[2014, 2016]"); '' where the text gives no answer. The rules take time linear in the text and never see the gold
answer. Never: guess, or compute what the text does not state.

Order: the text as a whole; the last `\boxed{}`; what follows "the answer is"; then, behind the last sentence that
declines to answer, an option alone on a line or at the start, the last `(B)`, what the last sentences state.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from dontblink.benchmarks.answers import make_plain, read_marked

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
NUMBER = re.compile(
    r"(?P<sign>(?<![\w).%°\]])-)?(?<![A-Za-z_\d.])"
    r"(?P<digits>(?>\d{1,3}(?:[,\u00a0\u2009\u202f]\d{3}){1,8}+(?!\d)|\d++)(?:\.\d++)?|\.\d++)"
    r"(?:[eE](?P<e>[-+]?\d{1,4})(?!\w)| ?[×x*] ?10\^?(?P<ten>-?\d{1,4}))?"
    r"(?: ?/ ?(?P<denominator>\d++(?:\.\d++)?)(?!/))?+(?! ?[√π])"  # 5√3 is not 5
)
LIST = re.compile(r"\[(?= ?[-+]?\d)[-+\d., ]++\]")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
CLAUSE_END = re.compile(r"(?<=[.!?;])\s|,\s|\n|\b(?:because|since|where|which)\b")
LETTER = re.compile(r"(?:(?i:option|choice)\s+)?(?:[(\[]\s?([A-Za-z])\s?[)\]]|([A-Z])(?=$|[.):,;\s]))")
WHOLE_LETTER = re.compile(r"(?:(?i:option|choice)\s+)?[(\[]?\s?([A-Za-z])\s?[)\]]?[.:]?")
NAMED_LETTER = re.compile(
    r"(?<!\w)\(([A-Z])\)|\b(?i:option|choice|answer) ([B-Z])\b|\b([A-Z])(?= is (?:the )?(?:correct|right|best))"
)
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def find_answer(text: str, row: Mapping[str, Any]) -> str:
    """Return the answer that a text gives: a letter, a number or a list as text; '' where it gives none."""
    if row["question_type"] == "multi_choice":
        return find_choice(text, list_choices(row))
    return find_list(text) if row["answer_type"] == "list" else find_number(text)


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
    return ([sentence for sentence in sentences if DECLINES.search(sentence)] or sentences or [""])[-1]


def read_numbers(text: str) -> list[tuple[int, str]]:
    """Return the numbers of a plain text with their places: no separators, fractions and powers of ten worked out.

    A whole number, a space and a proper fraction are one number: 2 1/2 is 2.5.
    """
    numbers: list[tuple[int, str]] = []
    whole, end = "", -1  # of the number before, '' where it is none that a fraction may follow
    for match in NUMBER.finditer(text):
        digits = ("-" if match["sign"] else "") + re.sub(r"[^\d.]", "", match["digits"])
        power, denominator = match["e"] or match["ten"], float(match["denominator"] or 1)
        plain = "" if power or match["denominator"] or "." in digits else digits
        if power or match["denominator"]:
            value = float(f"{digits}e{power or 0}") / denominator if denominator else math.nan
            if whole and not power and text[end : match.start()] in (" ", "  ") and 0 < value < 1:
                place, _ = numbers.pop()
                numbers.append((place, repr(float(whole) + (-value if whole[0] == "-" else value))))
                digits = ""
            else:
                digits = repr(value) if denominator else ""
        numbers += [(match.start(), digits)] if digits else []
        whole, end = plain, match.end()
    return numbers


def read_clause(text: str) -> str:
    """Return the number of a text's first clause: the first behind its last "=", else its first one or number word."""
    head, _, last = CLAUSE_END.split(text, maxsplit=1)[0].rpartition("=")
    if numbers := read_numbers(last) or read_numbers(head):
        return numbers[0][1]
    word = re.match(r"[a-z]{3,5}\b", last.strip().lower())
    return str(WORDS.index(word[0])) if word and word[0] in WORDS else ""


def state_number(sentence: str) -> str:
    """Return the number that a sentence states: the first behind its last "is", "=" and the like, else its last one."""
    numbers = read_numbers(sentence)
    if not numbers:
        return ""
    stated = [verb.end() for verb in STATES.finditer(sentence) if verb.end() <= numbers[-1][0]]
    return next(number for start, number in numbers if start >= stated[-1]) if stated else numbers[-1][1]


def find_number(text: str) -> str:
    """Return the number that a text answers with; '' where there is none."""
    if marked := next(filter(None, map(read_clause, read_marked(text))), ""):
        return marked
    return next(filter(None, map(state_number, reversed(read_committed(make_plain(text))))), "")


def find_list(text: str) -> str:
    """Return the last list of numbers in a text."""
    return next(iter(LIST.findall(text)[-1:]), "")


def find_choice(text: str, choices: Sequence[str]) -> str:
    """Return the letter of the option that a text answers with; '' where there is none."""
    options, plain = Options(choices), make_plain(text)
    if letter := options.match_whole(plain) or next(filter(None, map(options.match_start, read_marked(text))), ""):
        return letter
    sentences = read_committed(plain, [option for option in options.plain if DECLINES.search(option)])
    return options.match_lines(sentences) or options.match_conclusion(sentences) if sentences else ""


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
        self.numeric = bool(numbers) and all(len(found) == 1 and found[0][0] == 0 for found in numbers)
        self.values = [float(found[0][1]) for found in numbers] if self.numeric else []
        words = sorted({plain for plain in self.plain if len(plain) > 1 or plain.isdigit()}, key=len, reverse=True)
        either = "|".join(map(re.escape, words)) or r"(?!)"
        self.mention = re.compile(rf"(?<![a-z0-9_.])(?<!not )(?<!not the )(?:{either})(?![a-z0-9_]|\.\d)")

    def name_first(self, matches: Sequence[bool]) -> str:
        """Return the letter of the first option that matches."""
        return self.letters[matches.index(True)] if True in matches else ""

    def match_value(self, number: str) -> str:
        """Match an option that is a number (with a unit or none) by its value."""
        return self.name_first([math.isclose(value, float(number), rel_tol=1e-9) for value in self.values if number])

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
        for sentence in map(str.casefold, reversed(sentences)):
            mentions = [(match.start(), match[0]) for match in self.mention.finditer(sentence)]
            if mentions:
                stated = [verb.end() for verb in STATES.finditer(sentence) if verb.end() <= mentions[-1][0]]
                behind = {word for start, word in mentions if stated and start >= stated[-1]}
                named = behind if len(behind) == 1 else {word for _, word in mentions}
                return self.name_first([named == {plain} for plain in self.plain])
        return ""
