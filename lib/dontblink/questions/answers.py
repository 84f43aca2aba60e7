r"""What a response answers once its reasoning is over: its final text, what that states, which option that names.

Why it exists: the scorers of all benchmarks share what counts as the end of a reasoning, as a statement (`Answer: ...`,
"the answer is ...", `\boxed{...}`, `<answer>...</answer>`) and as a named option ("B. dog", "it is a dog"). In: the
text of a whole response, special tokens kept, and a question's options. Out: the text behind the reasoning, or what the
family's answer box holds; marked answers, the surest first; stated texts, first to last; one letter, or None. Never:
guess, look for an answer inside the reasoning, or take a letter for an option that merely stands in a sentence; a
statement that names two options names none.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from string import ascii_uppercase

from dontblink.questions.items import Score

BOX = re.compile(r"<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>|$)", re.DOTALL)
SPECIAL = re.compile(r"<\|[^|<>]*\|>")
# between the marker and the verb there may be words ("the answer to this question is"), but no lone capital letter:
# in "answer choice B is wrong" the letter stands before the verb and what follows names no answer
WORDS = r"(?:[ \t]+(?!(?-i:\(?[A-Z]\b))[\w'-]+){0,6}?[ \t]*"
VERBS = r"\b(?:is|are|be|was)\b"
ANSWER = re.compile(
    r"(?:\b(?:answers?(?! (?:choice|option)s)|(?:correct|right|best|final|closest)[ \t]+(?:option|choice))"
    rf"(?:{WORDS}(?:(?:{VERBS}|[:=：])[ \t]*)+|[ \t]*\n)"
    rf"|\bsolutions?{WORDS}{VERBS}[ \t]*[:=：]?"  # "Solution:" announces a reasoning
    # 答案是, 正确选项为, 所以选 B (never 不选); Japanese, Korean and European words only with a verb or a colon
    r"|(?:答案|(?:正确|正確|最佳)的?(?:选项|選項))(?:应该|應該|应|應)?[是为為选選:：]*"
    r"|(?<![不别別勿])(?:应|應|应该|應該|可|故|只能)?[选選](?:择|擇|项|項)?[为為是:：]*(?=\s*\(?[A-Z](?![A-Za-z0-9]))"
    r"|(?:答え|正解)(?:は|[:：])|(?:정답|답)(?:은|[:：])|\brespuesta(?: \w+){0,2}(?: es\b|[:：])"
    r"|\br[ée]ponse(?: \w+){0,2}(?: est\b|[ \t]?[:：])|\bantwort(?: \w+)?(?: (?:ist|lautet)\b|[:：])"
    r"|\brispost\w+(?: \w+)?(?: è\b|[:：])|\bresposta(?: \w+)?(?: é\b|[:：])|\bответ[:：])(?=\s*\S)",
    re.IGNORECASE,
)
DRESS = [
    (re.compile(pattern), bare)
    for pattern, bare in (
        (r"<answer>", " Answer: "),
        (r"</?[A-Za-z][^<>]{0,100}>|&nbsp;", " "),
        (r"(?<=\d)\*\*(?=\d)", "^"),
        (r"\b(?:US|AU|CA|HK|NT|[ACS])?\\?\$(?=-?[\d.])|[€£¥₹](?=\s?-?[\d.])", ""),
        (r"\\pm\b", "±"),
        (r"\\div\b", "÷"),
        (r"\^?\{?\\circ\}?| ?\bdegrees?\b|&deg;", "°"),
        (r"\\sqrt ?\[3\]", "∛"),
        (r"\\sqrt", "√"),
        (r"\\pi\b", "π"),
        (r"\\(?:times|cdot)\b", "×"),
        (r"\\approx\b", "≈"),
        (r"\\(?:text(?:rm|bf|it)?|math(?:rm|bf|it)|mbox|left|right|displaystyle)\b|\\[,;:! ]", ""),
        (r"\\[()\[\]]", " "),
        (r"\*\*+|[${}`\\]", ""),
    )
]
# full-width, mathematical and circled signs, as the plain ones that they stand for
WIDE = (*range(0xFF01, 0xFF5F), *range(0x1D400, 0x1D800), *range(0x249C, 0x24EA))
SIGNS = str.maketrans(
    {chr(code): unicodedata.normalize("NFKC", chr(code)) for code in WIDE}
    | {sign: "-" for sign in "−–‒‐‑"}
    | {"，": ", ", "。": ". ", "；": "; ", "！": "! ", "？": "? ", "、": ", ", "\u3000": " ", "º": "°", "⋅": "·"}
    | {"½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3", "【": "(", "】": ")", "「": '"', "」": '"'}
)
RAISED = re.compile("[⁻⁰¹²³⁴-⁹]+")
POWERS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
REACH = 2000  # characters that are read behind a marker of the answer
MARKERS = 20  # markers that are read, counted from the last


# C选项正确, 选项C是正确的: one letter that is called right, and no question
CORRECT = re.compile(
    r"(?<![A-Za-z0-9和或与及])(?<![和或] )(?:选项|選項)?\s?\(?([A-Z])\)?\s?(?:选项|選項|项|項)?\s?[是为為]?"
    r"(?:正确|正確)(?:的|答案|选项|選項)*(?![吗嗎?])"
)


def unify(text: str) -> str:
    """Return a text with one sign of a kind: full-width letters, minus signs, Chinese punctuation, raised digits."""
    return RAISED.sub(lambda found: "^" + found[0].translate(POWERS), text).translate(SIGNS)


def read_final(response: str) -> str:
    """Return what stands behind the last `</think>`, in the last answer box where there is one, without special tokens.

    A reasoning that was opened and never closed (a truncated response) leaves nothing: ''. A response without
    reasoning markers is final as a whole.
    """
    final = response.rpartition("</think>")[2]
    if "<think>" in final:
        return ""
    boxes = [text for text in BOX.findall(final) if text.strip()]
    return CORRECT.sub(r" Answer: \1. ", SPECIAL.sub("", unify(boxes[-1] if boxes else final))).strip()


# \frac{1}{2}, \frac12, \frac1{2}; \sqrt{a+b}; 10^{-2}
ARGUMENT = r"\s?(?:\{([^{}]{1,60})\}|([\dA-Za-zπ]))"
SIMPLE_BRACES = re.compile(rf"\\[dtc]?frac{ARGUMENT}{ARGUMENT}|(\\sqrt(?: ?\[3\])?|\^) ?\{{([^{{}}]{{1,60}})\}}")


def _unfold(found: re.Match[str]) -> str:
    """Return a LaTeX fraction, root or power in one line, in brackets where they are needed."""
    if found[5]:
        return found[5] + (found[6] if re.fullmatch(r"-?[\w.π]+|\\circ", found[6]) else f"({found[6]})")
    top, bottom = ((found[k] or found[k + 1]).strip() for k in (1, 3))
    is_plain = [re.fullmatch(r"-?[\w.,]+", part) is not None for part in (top, bottom)]
    before = found.string[: found.start()][-1:]
    joint = "" if not before.isdigit() else " " if all(is_plain) else "×"
    parts = (part if plain else f"({part})" for part, plain in zip((top, bottom), is_plain, strict=True))
    return joint + "/".join(parts)


def make_plain(text: str) -> str:
    r"""Return a text without LaTeX, Markdown and HTML: `\frac{1}{2}` is 1/2, `**B**` is B, `90^\circ` is 90°."""
    text = unify(text)
    for pattern in (SIMPLE_BRACES, SIMPLE_BRACES):  # the inner ones first
        text = pattern.sub(_unfold, text)
    for pattern, bare in DRESS:
        text = pattern.sub(bare, text)
    return text.strip()


def read_marked(text: str) -> list[str]:
    r"""Return what the writer marks as the answer, plain: the last `\boxed{}`, then what follows "the answer is".

    The surest comes first; of several "the answer is" the last. What follows is cut after `REACH` characters, not at
    the end of the sentence: the reader knows what ends an answer of its kind.
    """
    plain = make_plain(text)
    followers = [plain[end : end + REACH].strip(" :=#\"'“”\n\t\r") for end in reversed(find_markers(plain))]
    _, boxed, rest = text.rpartition("\\boxed{")
    return [make_plain(_read_braced(rest[:REACH])), *followers] if boxed else followers


def read_value(text: str) -> float | None:
    """Return the finite number that a text is; None where it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def compare(gold: str, **answers: str | None) -> dict[str, Score]:
    """Return the score of each scorer's answer; what a scorer could not read is wrong and flagged as not parsed."""
    return {scorer: Score(read == gold, read is not None, read or "") for scorer, read in answers.items()}


def find_markers(text: str) -> list[int]:
    """Return where the last `MARKERS` markers of an answer ("the answer is", "Answer:") in a text end, in order."""
    return [match.end() for match in ANSWER.finditer(text)][-MARKERS:]


def _read_braced(text: str) -> str:
    """Return a text up to the brace that closes the one before its start; all of it where none does."""
    depth = 1
    for place, sign in enumerate(text):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return text[:place]
    return text


NESTED = r"[^{}]*"
for _ in range(5):  # \frac inside \sqrt inside \text inside a box
    NESTED = rf"(?:[^{{}}]|\{{{NESTED}\}})*"
BOXED = re.compile(rf"\\boxed\s*\{{({NESTED})\}}|<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
WRAPPER = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|left|right)\b\s*|</?[a-z]+>", re.IGNORECASE)
MARKUP = str.maketrans("", "", "*$`{}#\\")
STATEMENT_REACH = 400  # characters that are read behind a marker


def read_statements(final: str) -> list[str]:
    """Return the last stated answers in reading order: the rest of the marker's line, or the next line if it is empty.

    A box is a statement of its own, and its line goes on behind it. A statement may hold another one ("The answer: the
    correct option is B"). Statements end after `STATEMENT_REACH` characters, and the last `MARKERS` are
    read, so that a response that repeats itself stays cheap.
    """
    lines = BOXED.sub(lambda box: f"\nAnswer: {(box[1] or box[2] or '').strip()} ", final)
    text = strip_markup(lines)
    return [text[end : end + STATEMENT_REACH].lstrip().partition("\n")[0].rstrip() for end in find_markers(text)]


def strip_markup(text: str) -> str:
    """Return the text without bold, code, headings, mathematics' wrappers and tags; lines stay lines."""
    return WRAPPER.sub("", text).translate(MARKUP)


LEAD = re.compile(
    r"\W*(?:(?:option|choice|letter|answer)\b\W*)?(?P<open>\()?(?P<letter>[A-Za-z])(?![A-Za-z0-9'’])\)?(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
OTHERS = re.compile(r"\W*(?:or|and)\b|\s*[/&,]")  # behind a leading letter: more letters may follow
_LETTER = r"(?:(?:[Oo]ption|[Cc]hoice|选项)s?\s*)?\(?[A-Z](?![A-Za-z0-9'’])\)?"
_JOINT = r"\s*(?:[,/&]|\b(?:or|and|nor|o|ou|oder|und|et)\b|[和或与及])\s*(?:(?:or|and)\s+)?"
# not B, isn't B, neither A nor B, 不选 A; B is wrong, B错误
DENIED = re.compile(
    r"(?:\b(?:[Nn]ot|[Nn]ever|[Nn]either|[Nn]or|[Cc]annot|[Rr]ather than|[Ii]nstead of|[Ee]xcept|[Ee]xclud\w+|"
    r"[Ee]liminat\w+|\w+n['’]t)\b(?:\s+(?:be|the|answer|necessarily|definitely))*\s+"
    rf"|(?:不是|不选|不選|不能选|排除|并非)\s*){_LETTER}(?:{_JOINT}{_LETTER})*"
    rf"|{_LETTER}\s*(?:(?:is|are|was|can be|must be|seems)\s+(?:\w+ly\s+)?"
    r"(?:not|wrong|incorrect|false|invalid|impossible|eliminated|excluded|ruled out|out)\b|(?:is|ca)n['’]t\b"
    r"|(?:选项|项|是)*(?:错误|不正确|不对))"
)
SEVERAL = re.compile(rf"\W*(?:(?:both|either|neither)\b\W*)?{_LETTER}{_JOINT}{_LETTER}(?![.]\d)", re.IGNORECASE)
DENIAL = re.compile(r"\b(?:not|no|never|neither|nor|or|cannot|wrong|incorrect|except|\w+n['’]t)\b", re.IGNORECASE)
LISTED = re.compile(r"\s*(?:[-•+*]\s|\**\(?(?:[A-Z]|\d{1,2})[.):])")  # an item of a list, markup kept
MARKED = re.compile(r"\(([A-Z])\)|\b(?:[Oo]ption|[Cc]hoice)\s+([A-Z])(?![A-Za-z0-9'’-])")
PRAISED = re.compile(
    r"(?<![A-Za-z0-9])(?<!\bor )(?<!\band )(?<!\bnor )([A-Z])\)?\s+is\s+"
    r"(?:the\s+)?(?:most\s+)?(?:correct|right|best|appropriate)\b"
)
# a lone capital that is an article, a pronoun or a unit ("A dog", "I think", "5 A") is no letter of an option
BARE = re.compile(
    r"(?<![A-Za-z0-9\\'’.-])(?<!\d )(?:[B-HJ-Z]|[AI](?!\s+[a-z])|"
    r"[AI](?=\s+(?:and|or|nor)\s+\(?[A-Z]\b))(?![A-Za-z0-9'’-])"
)


def strict_choice(response: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that a response's final part names, None where it names none or several.

    The last statement (`Answer: ...`, `\\boxed{...}`) that names any option decides, unless the last line is an
    option's letter alone or with its text. Without a statement the last line does, if it is a conclusion (no item of a
    list, no line that announces more): a letter at its beginning (`(B)`, `B. dog`, `Option B: dog`), one that it calls
    correct, one in brackets or behind "option", else the only option whose text it holds, unless it denies or weighs.
    Where options' texts are letters themselves, "option B" may mean either: only statements count.
    """
    final = read_final(response)
    last = read_last_lines(final)
    line = DENIED.sub("", strip_markup(last[-1]).strip()) if last else ""
    listed = len(last) == 2 and all(map(LISTED.match, last))
    if not listed and (found := leading_letters(line, options, whole=True)):
        return one(found)
    for statement in reversed(read_statements(final)):
        if found := read_statement(statement, options):
            return one(found)
    letters = set(ascii_uppercase[: len(options)])
    if listed or line.endswith(":") or any(plain(option).upper() in letters for option in options):
        return None
    marked = {bracketed or named for bracketed, named in MARKED.findall(line)}
    if found := leading_letters(line, options) or set(PRAISED.findall(line)) & letters or marked & letters:
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
    texts = dict(zip(ascii_uppercase, map(plain, options), strict=False))
    # a lone letter is never an option's whole text, it is the letter of an option
    if whole := {letter for letter, text in texts.items() if plain(statement) == text and len(text) > 1}:
        return whole
    statement = DENIED.sub("", statement)
    if found := leading_letters(statement, options):
        return found
    named, rest = named_texts(statement, options)
    return lone_letters(rest, options) or named


def leading_letters(text: str, options: Sequence[str], whole: bool = False) -> set[str]:
    """Return the letter that opens a text as an option's letter does, with those joined to it ("B or C").

    `whole`: only if nothing stands behind the letter but its option's text.
    """
    lead = LEAD.fullmatch(text)
    letters = ascii_uppercase[: len(options)]
    if lead is None or lead["letter"].upper() not in letters:
        return set()
    if lead["letter"].isupper() and SEVERAL.match(text.lstrip()) and not whole:
        return lone_letters(text, options)
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
    return set(BARE.findall(text)) & set(ascii_uppercase[: len(options)])


def named_texts(text: str, options: Sequence[str]) -> tuple[set[str], str]:
    """Return the letters of the options whose text stands in `text`, and `text` without those texts.

    Longer texts are looked for first, so that "blood cell" is not found inside "red blood cell"; a number is not found
    inside another one. A text that is an option's letter is not looked for.
    """
    letters = ascii_uppercase[: len(options)]
    rest, found = plain(text, lower=False), set[str]()
    for letter, option in sorted(zip(letters, options, strict=False), key=lambda pair: -len(pair[1])):
        words = plain(option)
        if words and words.upper() not in letters:
            wanted = rf"(?<![\w.,−-])(?<!\d[.,]){re.escape(words)}(?![\w%]|[.,]\d)"
            if words[0].isdigit() or words[-1].isdigit():  # no part of a fraction, a power, a range or a sum
                wanted = rf"(?<![/^√+×])(?<![/^√+×-] ){wanted}(?!\s?[/^√π%×±]|\s?[-+]\s?\d|:\d)"
            rest, times = re.subn(wanted, " ", rest, flags=re.IGNORECASE)
            found |= {letter} if times else set()
    return found, rest


def plain(text: str, lower: bool = True) -> str:
    """Return the text without markup, outer punctuation and repeated spaces, in small letters unless told otherwise."""
    words = " ".join(strip_markup(unify(text)).split()).strip(" .,;:!?\"'")
    return words.lower() if lower else words


# yes and no of other languages, where they stand alone between marks: a word of a sentence is no answer
AFFIRMED = "是的?|对的?|對的?|正确的?|正確的?|没错|沒錯|有的?|肯定的?|はい|예|네|sí|oui|ja|sim|да"
REFUSED = (
    "不是的?|不对的?|不對的?|没有|沒有|错误的?|錯誤的?|不正确|不正確|否定的?|否|不|错|"
    "いいえ|아니요|아니오|아뇨|non|nein|não|нет"
)
FOREIGN = re.compile(
    rf"(?:(?<=[\n,.;:!?*\"'])|\A)(\s*(?:所以|因此|故|那么)?,?\s*)(?:({AFFIRMED})|({REFUSED}))"
    r"(?=\s*(?:$|[,.;:!\n*\"']))",
    re.IGNORECASE,
)
# `no` before one of these belongs to no noun: "no they differ", "no both are equal", "no based on the figure"
NO_NOUN = (
    "it|they|there|the|this|that|these|those|i|we|you|he|she|both|all|each|every|either|neither|some|a|an|my|your|his|"
    "its|our|their|because|since|as|based|in|on|at|by|from|for|according|given|due|but|and|so|if|when|while|although|"
    "though|unless|however|actually|indeed|instead|is|are|was|were|do|does|did|can|cannot|could|would|will|should|has|"
    "have|had"
)
# what ends a word that stands alone: the end, a mark on it, a mark behind a space that opens nothing, or a bracket that
# holds more than an adjective (`no (visible) gap` answers nothing, and neither does `no "gap"`, `no-one` or `No. 1`)
LONE_END = r"(?:$|(?!\.\s?\d)[^\w\s-]|-(?!\w)|\s+(?:$|[^\w\s\"'“‘(\[-]|-(?!\w)|\((?!\w+\)\s*\w)))"
SAID = re.compile(rf"\b(?:yes\b|no\b(?={LONE_END}|\s+(?:{NO_NOUN})\b))", re.IGNORECASE)
INNER = re.compile(rf"\byes\b|\bno\b(?={LONE_END})|(?<=\bsay )no\b(?=\s+(?:{NO_NOUN})\b)", re.IGNORECASE)
OPENING = re.compile(rf"\A\W*({SAID.pattern})", re.IGNORECASE)  # as an answer opens a text
DOUBT = re.compile(
    r"\b(?:yes|no)\s*(?:/|or|and|&)\s*(?:yes|no)\b|\bnot\s+(?:a\s+)?(?:yes|no)\b|"
    r"\b(?:if|whether)\s+(?:yes|no)\b|[是对有]\s*[/或]|\bneither\b",
    re.IGNORECASE,
)
BARE_WORDS = {
    **dict.fromkeys(("true", "correct", "yeah", "yep"), "yes"), **dict.fromkeys(("false", "incorrect", "nope"), "no")
}  # fmt: skip


def translate_answer(text: str) -> str:
    """Return a text with the yes and no of other languages, and a lone "True" or "Incorrect", in English."""
    if (bare := BARE_WORDS.get(text.strip(" .,!*'\"").lower())) is not None:
        return bare
    return FOREIGN.sub(lambda found: f"{found[1]}{'yes' if found[2] else 'no'}", text)


def strict_yes_no(response: str) -> str | None:
    """Return `yes` or `no` as a response's final part gives it, None if it gives none or both.

    A `no` that belongs to a noun ("No difference is visible") is none of the two words, wherever it stands. The last
    statement (`Answer: no`, `\\boxed{Yes}`) that holds one of them decides: the one that opens it, else the only one.
    Else the word that opens the text, or its last line if that does not say the opposite. Else the only one.
    """
    final = read_final(response)
    for statement in map(translate_answer, reversed(read_statements(final))):
        if said := OPENING.findall(statement) or SAID.findall(statement):
            return None if DOUBT.search(statement) else only(said)
    lines = [translate_answer(line.strip()) for line in strip_markup(final).splitlines() if re.search(r"\w", line)]
    if any(DOUBT.search(line) for line in lines):
        return None
    first = OPENING.findall(lines[0]) if lines else []
    last = (OPENING.findall(lines[-1]) or INNER.findall(lines[-1])) if len(lines) > 1 else []
    return only(first + last or [word for line in lines for word in INNER.findall(line)])


def only(words: Iterable[str]) -> str | None:
    """Return the answer if yes, or no, is the only one of the two among the words."""
    return one({word.lower() for word in words} & {"yes", "no"})
