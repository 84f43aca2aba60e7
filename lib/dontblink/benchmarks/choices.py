"""Which of several options a response names: by letter, or by the option's own text.

Why it exists: a strict scorer must tell "B. dog", "the answer is (B)" and "it is a dog" from a letter that happens to
stand in a sentence. In: the final part of a response, and the options. Out: one letter, or None. Never: guess; a
statement that names two options names none.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from dontblink.benchmarks.statements import read_statements, strip_markup

LEAD = re.compile(
    r"\W*(?:(?:option|choice|letter|answer)\b\W*)?(?P<open>\()?(?P<letter>[A-Za-z])(?![A-Za-z0-9'’])\)?(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
OTHERS = re.compile(r"\W*(?:or|and)\b|\s*[/&,]")  # behind a leading letter: more letters may follow
DENIED = re.compile(r"\bnot\s+(?:option\s+|choice\s+)?\(?[A-Z](?![A-Za-z0-9])\)?")
DENIAL = re.compile(r"\b(?:not|no|never|neither|nor|or|cannot|wrong|incorrect|except|\w+n['’]t)\b", re.IGNORECASE)
LISTED = re.compile(r"\s*(?:[-•+*]\s|\**\(?(?:[A-Z]|\d{1,2})[.):])")  # an item of a list, markup kept
MARKED = re.compile(r"\(([A-Z])\)|\b(?:[Oo]ption|[Cc]hoice)\s+([A-Z])(?![A-Za-z0-9'’-])")
PRAISED = re.compile(r"(?<![A-Za-z0-9])([A-Z])\)?\s+is\s+(?:the\s+)?(?:most\s+)?(?:correct|right|best|appropriate)\b")
# a lone capital that is an article, a pronoun or a unit ("A dog", "I think", "5 A") is no letter of an option
BARE = re.compile(r"(?<![A-Za-z0-9\\'’.-])(?<!\d )(?:[B-HJ-Z]|[AI](?!\s+[a-z]))(?![A-Za-z0-9'’-])")


def strict_choice(final: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that the text names, None where it names none or several.

    The last statement (`Answer: ...`, `\\boxed{...}`) that names any option decides, unless the last line is an
    option's letter alone or with its text. Without a statement the last line does, if it is a conclusion (no item of a
    list, no line that announces more): a letter at its beginning (`(B)`, `B. dog`, `Option B: dog`), one that it calls
    correct, one in brackets or behind "option", else the only option whose text it holds, unless it denies or weighs.
    Where options' texts are letters themselves, "option B" may mean either: only statements count.
    """
    last = read_last_lines(final)
    line = DENIED.sub("", strip_markup(last[-1]).strip()) if last else ""
    listed = len(last) == 2 and all(map(LISTED.match, last))
    if not listed and (found := leading_letters(line, options, whole=True)):
        return one(found)
    for statement in reversed(read_statements(final)):
        if found := read_statement(statement, options):
            return one(found)
    letters = set(string.ascii_uppercase[: len(options)])
    if listed or line.endswith(":") or any(plain(option).upper() in letters for option in options):
        return None
    for found in (
        leading_letters(line, options),
        set(PRAISED.findall(line)) & letters,
        {bracketed or named for bracketed, named in MARKED.findall(line)} & letters,
    ):
        if found:
            return one(found)
    return None if DENIAL.search(line) else one(named_texts(line, options)[0])


def read_last_lines(final: str) -> list[str]:
    """Return the last line that holds a word, behind the one before it in its paragraph; [] where there is none."""
    paragraphs = [paragraph.splitlines() for paragraph in re.split(r"\n\s*\n", final) if re.search(r"\w", paragraph)]
    return [line for line in paragraphs[-1] if re.search(r"\w", line)][-2:] if paragraphs else []


def one(letters: set[str]) -> str | None:
    """Return the only letter, None where there is none or more than one."""
    return next(iter(letters)) if len(letters) == 1 else None


def read_statement(statement: str, options: Sequence[str]) -> set[str]:
    """Return the letters that a stated answer names: an option's whole text, else a leading letter, else lone letters.

    Else the letters of the options whose texts it holds.
    """
    whole = {letter for letter, text in zip(string.ascii_uppercase, options, strict=False) if same(statement, text)}
    if whole:
        return whole
    statement = DENIED.sub("", statement)
    if found := leading_letters(statement, options):
        return found
    texts, rest = named_texts(statement, options)
    return lone_letters(rest, options) or texts


def same(statement: str, option: str) -> bool:
    """Say whether a statement is an option's whole text; a lone letter never is, it is the letter of an option."""
    return plain(statement) == plain(option) and len(plain(option)) > 1


def leading_letters(text: str, options: Sequence[str], whole: bool = False) -> set[str]:
    """Return the letter that opens a text as an option's letter does, with those joined to it ("B or C").

    `whole`: only if nothing stands behind the letter but its option's text.
    """
    lead = LEAD.fullmatch(text)
    letters = string.ascii_uppercase[: len(options)]
    if lead is None or lead["letter"].upper() not in letters:
        return set()
    letter, rest = lead["letter"].upper(), lead["rest"].strip()
    option = plain(options[letters.index(letter)])
    alone = not re.search(r"\w", rest)
    bare = plain(rest.lstrip(".):([ -–—"))
    if whole:
        return {letter} if alone or bare == option else set()
    marked = rest[:1] in (".", ")", ":", "(") or rest[:2] in ("- ", "– ", "— ") or lead["open"] is not None
    if not (alone or marked or (bare.startswith(option) and option)):
        return set()
    return {letter} | (lone_letters(rest, options) if OTHERS.match(rest) else set())


def lone_letters(text: str, options: Sequence[str]) -> set[str]:
    """Return the options' letters that stand alone as capitals."""
    return set(BARE.findall(text)) & set(string.ascii_uppercase[: len(options)])


def named_texts(text: str, options: Sequence[str]) -> tuple[set[str], str]:
    """Return the letters of the options whose text stands in `text`, and `text` without those texts.

    Longer texts are looked for first, so that "blood cell" is not found inside "red blood cell"; a number is not found
    inside another one. A text that is an option's letter is not looked for.
    """
    letters = string.ascii_uppercase[: len(options)]
    rest, found = plain(text, lower=False), set()
    for index in sorted(range(len(options)), key=lambda index: -len(options[index])):
        words = plain(options[index])
        if not words or words.upper() in letters:
            continue
        wanted = rf"(?<![\w.,−-])(?<!\d[.,]){re.escape(words)}(?![\w%]|[.,]\d)"
        shorter, times = re.subn(wanted, " ", rest, flags=re.IGNORECASE)
        if times:
            rest = shorter
            found.add(string.ascii_uppercase[index])
    return found, rest


def plain(text: str, lower: bool = True) -> str:
    """Return the text without markup, outer punctuation and repeated spaces, in small letters unless told otherwise."""
    words = " ".join(strip_markup(text).split()).strip(" .,;:!?\"'")
    return words.lower() if lower else words
