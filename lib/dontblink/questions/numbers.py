"""Numbers as writers write them: digit groups, fractions, roots, powers, words; each read whole or not at all.

Why it exists: a part of a number (the 1 of `-1/2`, the 5 of 5√3, the 12 of 12 000) is a wrong answer that looks like a
right one. In: plain text, as `answers.make_plain` leaves it. Out: places and values; `UNREAD` for what is one
expression but no one value (a range, a ratio, a product of sizes, an equation in x). Never: a part of an expression, or
a choice between two numbers.
"""

from __future__ import annotations

import math
import re

UNREAD = "nan"  # stands where an expression is not one number
# 1,000.5; 1,00,000; 12 000 and 12'000; 1.234,56; 1.000.000; 3,5; 3.5; .5
DIGITS = (
    r"(?:\d{1,3}(?:,\d{2,3}){0,7},\d{3}(?!\d|,\d)(?:\.\d++)?"
    r"|[1-9]\d{0,2}(?:[\u00a0\u2009\u202f '’_]\d{3}){1,8}(?!\d)(?:[.,]\d++)?"
    r"|\d{1,3}(?:\.\d{3}){1,8},\d++|\d{1,3}(?:\.\d{3}){2,8}(?!\d)|\d++,\d++(?!,\d)|\d++(?:\.\d++)?|\.\d++)"
)
START = re.compile(rf"(?<![A-Za-z_\d.,^])(?:{DIGITS}|[√∛π(])")
TOKEN = re.compile(rf"({DIGITS})(?:[eE]([-+]?\d{{1,4}})(?!\w))?| ?([-+±×*·÷/^()√∛π]|x(?= ?\d)) ?")
MIXED = re.compile(r" {1,2}(\d++) ?/ ?(\d++)(?![\d/]|\.\d)")
# what makes the number before it a part: a range, a ratio, a clock or a date, a letter that is no unit
PART = re.compile(
    r"_\w|[,.:/]\d|[~～]\s*\d|(?:[xyzn]|\([a-z]\))(?=\s*(?:$|[-+^)=.,]))"
    r"|\s?[-+×·*^]\s?[a-z](?![\w-])|\s?(?:%|°|[a-z]{1,9})?\s?(?:\bto\b|\bor\b|\bthrough\b|[至到或])\s?-?\d",
)
SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "dozen": 12.0}
SCALE = re.compile(rf"[ -]?({'|'.join(SCALES)})s?\b", re.IGNORECASE)
FUNCTION = re.compile(r"\b(?:sin|cos|tan|cot|sec|csc|log|ln|exp|arc\w+)\s?\(?$|[<>≤≥±|]\s?$", re.IGNORECASE)
ONES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
ONES += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
WORDS = {word: float(value) for value, word in enumerate(ONES)} | {
    word: 20.0 + 10 * place for place, word in enumerate(TENS)
}
WORD = "|".join((*WORDS, *SCALES))
SPOKEN = re.compile(
    rf"(?:(?P<sign>minus|negative)\s+)?(?:an?\s+(?={'|'.join(SCALES)}))?(?P<words>\b(?:{WORD})s?\b"
    rf"(?:(?:[ -]|\s+and\s+)(?:{WORD})\b)*)"
    r"(?P<part>\s+(?:and|or|to|point|of)\b|[ -](?:half|halves|thirds?|quarters?|\w+ths?)\b)?",
    re.IGNORECASE,
)


class _Unread(Exception):
    """An expression is not one number."""


def write_value(value: float) -> str:
    """Return a value as text, `UNREAD` for what is none."""
    return repr(value) if math.isfinite(value) else UNREAD


def read_digits(digits: str) -> str:
    """Return digits without their groups and with a decimal point."""
    digits = re.sub(r"[\u00a0\u2009\u202f '’_]", "", digits)
    if re.fullmatch(r"\d{1,3}(?:,\d{2,3})*,\d{3}(?:\.\d+)?", digits) and not digits.startswith("0,"):
        return digits.replace(",", "")
    if re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}|\d+,\d+", digits):
        return digits.replace(".", "").replace(",", ".")
    return digits


def read_numbers(text: str) -> list[tuple[int, str]]:
    """Return the numbers of a plain text with their places, expressions worked out, `UNREAD` for what is no one number.

    A whole number, a space and a proper fraction are one number: 2 1/2 is 2.5.
    """
    numbers: list[tuple[int, str]] = []
    place = 0
    while match := START.search(text, place):
        start, value, place = read_expression(text, match.start())
        numbers += [(start, value)] if value else []
    return numbers


def read_expression(text: str, start: int) -> tuple[int, str, int]:
    """Return where the expression at `start` begins (a minus belongs to it), its value as text, and where it ends."""
    reader = _Reader(text, start)
    try:
        value = reader.read_sum()
    except (_Unread, ZeroDivisionError, OverflowError, ValueError):
        value = math.nan
    end = max(reader.place, start + 1)
    if text[start] == "(" and math.isnan(value):  # a bracket of words, or of two numbers
        return start, "", start + 1
    before = text[max(0, start - 12) : start]
    minus = re.search(
        r"(?<![\w).%°\]])- ?$" if re.search(r"^\s*-|[=≈(:]\s*- $", before) else r"(?<![\w).%°\]])-$", before
    )
    scale = SCALE.match(text, end)
    if scale:
        value, end, reader.literal = value * SCALES[scale[1].lower()], scale.end(), ""
    part = PART.match(text, end)
    if part:
        end = max(end, part.end())
    if part or FUNCTION.search(before.removesuffix("-")) or math.isnan(value) or not math.isfinite(value):
        return start, UNREAD, end
    sign = "-" if minus else ""
    begin = start - len(minus[0]) if minus else start
    return begin, sign + reader.literal if reader.literal else write_value(-value if minus else value), end


class _Reader:
    """A reader of one expression: sum, product, power, atom; what is written like a range or a size is `_Unread`."""

    def __init__(self, text: str, start: int) -> None:
        self.text, self.place, self.depth, self.count = text, start, 0, 0
        self.literal = ""  # the digits, where the expression is nothing else
        self.exact = False  # a root, π, a power or brackets: no range and no size is written so

    def peek(self) -> str:
        found = TOKEN.match(self.text, self.place)
        return "" if found is None else found[3] or "0"

    def take(self) -> re.Match[str]:
        found = TOKEN.match(self.text, self.place)
        if found is None:
            raise _Unread
        self.place = found.end()
        return found

    def follows(self) -> bool:
        """Whether an operand stands behind the operator here."""
        found = TOKEN.match(self.text, self.place)
        behind = TOKEN.match(self.text, found.end()) if found else None
        return behind is not None and (behind[1] is not None or behind[3] in "√∛π(")

    def read_sum(self) -> float:
        value = self.read_product()
        while self.peek() in ("+", "-", "±") and self.follows():
            sign = self.take()[3]
            self.literal = ""
            other = self.read_product()
            if sign == "±" or (sign == "-" and not self.exact):
                raise _Unread
            value += other if sign == "+" else -other
        return value

    def read_product(self) -> float:
        value, n_divided = self.read_power(), 0
        while True:
            sign = self.peek()
            if sign in ("√", "∛", "π") or (sign == "(" and self.text[self.place : self.place + 1] == "("):
                self.literal, value = "", value * self.read_power()
            elif sign in ("×", "*", "·", "x", "/", "÷") and self.follows():
                self.take()
                power, before = re.match(r"10(?: ?\^|(?![\d.,]))", self.text[self.place : self.place + 6]), self.exact
                other = self.read_power()
                self.literal = ""
                n_divided += sign in ("/", "÷")
                if n_divided > 1 or (sign in ("×", "*", "·", "x") and not (power or before or self.exact)):
                    raise _Unread
                value = value / other if sign in ("/", "÷") else value * other
            else:
                return value

    def read_power(self) -> float:
        value = self.read_atom()
        if self.peek() == "^":
            self.take()
            sign = -1 if self.peek() == "-" and self.take() else 1
            self.literal, self.exact = "", True
            value = float(value ** (sign * self.read_atom()))
        return value

    def read_atom(self) -> float:
        self.count, self.depth = self.count + 1, self.depth + 1
        if self.count > 40 or self.depth > 12:
            raise _Unread
        found = self.take()
        if found[1]:
            self.literal = "" if self.count > 1 or found[2] else read_digits(found[1])
            value = float(f"{read_digits(found[1])}e{found[2] or 0}")
            mixed = MIXED.match(self.text, self.place)
            if mixed and self.literal.isdigit() and 0 < int(mixed[1]) < int(mixed[2]):
                self.place, self.literal = mixed.end(), ""
                value += int(mixed[1]) / int(mixed[2])
        else:
            self.exact, self.literal = True, ""
            if found[3] == "π":
                value = math.pi
            elif found[3] in ("√", "∛"):
                value = self.read_atom() ** (1 / (2 if found[3] == "√" else 3))
            elif found[3] == "(":
                minus = self.peek() == "-" and bool(self.take())
                value = self.read_sum() * (-1 if minus else 1)
                if self.peek() != ")":
                    raise _Unread
                self.place = self.text.index(")", self.place) + 1
                self.literal = ""
            else:
                raise _Unread
        self.depth -= 1
        return value


def read_words(text: str) -> str:
    """Return the number that a text opens with in English words ("twenty-one apples"), '' where it opens with none."""
    opening = r"\s*(?:(?:only|about|exactly|approximately|just|the number|a total of)\s+)?"
    found = SPOKEN.match(text, re.match(opening, text).end())  # type: ignore[union-attr]
    if found is None:
        return ""
    if found["part"]:
        return UNREAD
    whole, part = 0.0, 0.0
    for word in re.findall(r"[a-z]+", found["words"].lower()):
        scale = SCALES.get(word.removesuffix("s"))
        if scale is None:
            part += WORDS.get(word, 0.0)
        elif scale in (100.0, 12.0):
            part = (part or 1.0) * scale
        else:
            whole, part = whole + (part or 1.0) * scale, 0.0
    value = (whole + part) * (-1 if found["sign"] else 1)
    return str(int(value))
