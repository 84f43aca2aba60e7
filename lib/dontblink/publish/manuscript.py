"""The paper's text with its numbers: placeholders filled, sentences chosen by verdict, stray digits refused.

Why it exists: no number of a result is typed by hand, and no sentence may claim what another run would not show. In:
the markdown of paper/ and the recorded numbers. Out: plain markdown for pandoc. Never: compute a statistic, or let a
key, a figure or a digit pass that nobody accounts for. The whole language:

    {{02_collapse.n_cells | count}}               one number; `| format` is one of FORMATS, and <visual> a benchmark
    {{05_veto.rules.pooled.all.all.veto | interval points}}    estimate (or gain) [ci_low, ci_high] of a row
    {{#case C1}}{{:reproduced}}...{{:same direction}}...{{:not reproduced}}...{{:not testable}}...{{/case}}
    {{#case profile}}{{:testbed}}...{{:paper}}...{{/case}}
    {{#if KEY above 0}}...{{:else}}...{{/if}}     above, below, at_least, at_most a number or another key
    {{#each 02_collapse.collapse.grounding_layers.evidence.*.*}}...{{@1 | name}} {{.estimate | percent}}...{{/each}}

Every alternative of a case and of an if has to be written, also those that this run does not show.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, NamedTuple

from dontblink.errors import NamedError, make_printable
from dontblink.publish.claims import COMPARISONS, STEM, VERDICTS, show_estimate
from dontblink.publish.numbers import Numbers, Row

PROFILES = ("testbed", "paper")
TAG = re.compile(r"\{\{(.*?)\}\}", flags=re.S)
FIGURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
# what may hold digits: front matter fences, comments, equations, citations, labels, targets, headings
ACCOUNTED = re.compile(
    r"<!--.*?-->|\$\$.*?\$\$|\$[^$]+\$|\{#[^}]*\}|\]\([^)]*\)|-?@[A-Za-z][\w:.-]*|^#+ [^\n]*|\{[.=][^}]*\}",
    flags=re.S | re.M,
)
TOKEN = re.compile(r"[^\s()\[\]{},;:*|/]*\d[^\s()\[\]{},;:*|/]*")
MARKS = re.compile(r"[\\`*_{}\[\]<>$@#^~|!&]")  # what markdown, or pandoc's, reads as more than a letter
NO_BREAK, MINUS, DASH = "\N{NO-BREAK SPACE}", "\N{MINUS SIGN}", "\N{EN DASH}"


class ManuscriptError(NamedError, ValueError):
    """A text that cannot be built; the message names the tag, the digit or the figure, and the remedy."""


def escape(text: str) -> str:
    """Return a recorded text as markdown that shows it: no formula, citation, link, raw block or tag of its own."""
    return MARKS.sub(r"\\\g<0>", make_printable(text))


def _fixed(scale: float, decimals: int, suffix: str = "") -> Callable[[Any], str]:
    def show(value: Any) -> str:
        text = f"{scale * float(value):.{decimals}f}"
        text = text.lstrip("-") if float(text) == 0 else text
        return text.replace("-", MINUS) + suffix

    return show


def _p(value: Any, name: str = "p = ") -> str:
    return f"{name[:2]}< 0.001" if float(value) < 0.001 else f"{name}{float(value):.3f}"


def _counts(headline: Mapping[str, Any]) -> str:
    items, n = headline["clusters"], headline.get("n", headline["clusters"])
    return f"{items:,}" if n == items else f"{items:,} ({n:,})"


FORMATS: dict[str, Callable[[Any], str]] = {
    "percent": _fixed(100, 0, f"{NO_BREAK}%"),
    "percent1": _fixed(100, 1, f"{NO_BREAK}%"),
    "points": _fixed(100, 2),
    "points1": _fixed(100, 1),
    "one": _fixed(1, 1),
    "two": _fixed(1, 2),
    "three": _fixed(1, 3),
    "share": _fixed(100, 0),
    "share1": _fixed(100, 1),
    "million": _fixed(1e-6, 1),
    "small": lambda value: "$" + f"{float(value):.1e}".replace("e-0", r" \times 10^{-") + "}$",
    "count": lambda value: f"{round(float(value)):,}",
    "p": _p,
    "p_value": lambda value: _p(value, ""),
    "name": lambda value: escape(str(value).replace("_", " ")),
    "text": lambda value: escape(str(value)),
}
# of a whole entry of the ledger
LEDGER: dict[str, Callable[[Any], str]] = {
    "claim_estimate": lambda claim: show_estimate(claim).replace(" ", NO_BREAK),
    "claim_row": lambda claim: escape(str(claim["headline"]["row"]).replace("_", " ")) if claim["tested"] else DASH,
    "claim_counts": lambda claim: _counts(claim["headline"]) if claim["tested"] else DASH,
    "claim_p": lambda claim: _p(claim["headline"]["p"], "") if "p" in claim.get("headline", {}) else DASH,
    "claim_source": lambda claim: f"{claim['data_hash'][:8]}, {claim['seed']}" if claim["tested"] else DASH,
}


class Block(NamedTuple):
    """A tag with alternatives: its kind, what it asks, and the text under each label (`""` before the first)."""

    kind: str
    question: str
    parts: dict[str, list[Any]]


def parse(source: str) -> list[Any]:
    """Return the text as a list of texts, placeholders (`Tag`) and `Block`s."""
    stack: list[Block] = [Block("", "", {"": []})]
    end = 0
    for found in TAG.finditer(source):
        here = list(stack[-1].parts.values())[-1]
        here.append(source[end : found.start()])
        end, content = found.end(), " ".join(found[1].split())
        if content.startswith("#"):
            kind, _, question = content[1:].partition(" ")
            if kind not in ("case", "if", "each"):
                raise ManuscriptError(f"{{{{{content}}}}}: expected #case, #if or #each")
            stack.append(Block(kind, question, {"": []}))
            here.append(stack[-1])
        elif content.startswith(":"):
            if content[1:] in stack[-1].parts or stack[-1].kind not in ("case", "if"):
                raise ManuscriptError(f"{{{{{content}}}}}: stands twice in its block, or in none; correct it")
            stack[-1].parts[content[1:]] = []
        elif content.startswith("/"):
            if len(stack) < 2 or stack.pop().kind != content[1:]:
                raise ManuscriptError(f"{{{{{content}}}}}: closes what is not open; correct the nesting")
        else:
            here.append(Tag(content))
    if len(stack) > 1:
        raise ManuscriptError(f"{{{{#{stack[-1].kind} {stack[-1].question}}}}}: is never closed")
    stack[0].parts[""].append(source[end:])
    return stack[0].parts[""]


class Tag(str):
    """The content of a placeholder."""


class Writer:
    """Fills a parsed text from the recorded numbers of a profile."""

    def __init__(self, numbers: Numbers, names: Mapping[str, str]) -> None:
        self.numbers, self.names = numbers, names
        self.claims: Any = numbers.read(STEM)["claims"]

    def write(self, parts: Sequence[Any], row: Row | None = None) -> str:
        """Return the filled text; `row` is that of the loop around it."""
        return "".join(self._write_one(part, row) for part in parts)

    def _write_one(self, part: Any, row: Row | None) -> str:
        if isinstance(part, Tag):
            return self._fill(part, row)
        if isinstance(part, str):
            return part
        if part.kind == "each":
            rows = self.numbers.select(self._name(part.question))
            return "".join(self.write(part.parts[""], found) for found in rows)
        return self.write(self._choose(part, row), row)

    def _choose(self, block: Block, row: Row | None) -> Sequence[Any]:
        labels = [label for label in block.parts if label]
        if block.kind == "if":
            asked = re.fullmatch(rf"(.+) ({'|'.join(COMPARISONS)}) (.+)", block.question)
            if not asked or labels != ["else"]:
                raise ManuscriptError(
                    f"{{{{#if {block.question}}}}}: expected KEY, a comparison, a bound, and {{{{:else}}}}"
                )
            key, comparison, bound = asked.groups()
            limit = float(bound) if re.fullmatch(r"-?\d+(\.\d+)?", bound) else self.value(bound, row)
            return block.parts["" if COMPARISONS[comparison](self.value(key, row), limit) else "else"]
        expected = PROFILES if block.question == "profile" else VERDICTS
        if set(labels) != set(expected) or "".join(map(str, block.parts[""])).strip():
            raise ManuscriptError(f"{{{{#case {block.question}}}}}: found {labels}, expected exactly {list(expected)}")
        if block.question == "profile":
            return block.parts[self.numbers.profile]
        if block.question not in self.claims:
            raise ManuscriptError(f"{{{{#case {block.question}}}}}: no such claim, nor `profile`")
        return block.parts[self.claims[block.question]["verdict"]]

    def _name(self, path: str) -> str:
        for name, value in self.names.items():
            path = path.replace(f"<{name}>", value)
        return path

    def value(self, key: str, row: Row | None = None) -> Any:
        """Return the value of a key: `stem.key`, `.field` of the loop's row, `@1` for its first star."""
        if key.startswith("."):
            if row is None:
                raise ManuscriptError(f"{{{{{key}}}}}: stands outside of an #each")
            value = row.fields
            for field in key[1:].split(".") if key[1:] else []:
                if field not in value:
                    raise ManuscriptError(f"{{{{{key}}}}}: no such field; expected one of {', '.join(sorted(value))}")
                value = value[field]
            return value
        parts = [self._star(part, row) for part in self._name(key).split(".")]
        return parts[0] if key.startswith("@") else self.numbers.get(tuple(parts))

    def _star(self, part: str, row: Row | None) -> str:
        if not part.startswith("@"):
            return part
        if row is None or not part[1:].isdigit() or not 0 < int(part[1:]) <= len(row.stars):
            raise ManuscriptError(f"{{{{{part}}}}}: no such star of the #each around it")
        return row.stars[int(part[1:]) - 1]

    def _fill(self, tag: str, row: Row | None) -> str:
        key, bar, wanted = (text.strip() for text in tag.partition("|"))
        kind, _, name = wanted.partition(" ")
        if not bar or (name if kind == "interval" else kind) not in {**FORMATS, **LEDGER}:
            known = ", ".join((*FORMATS, *LEDGER))
            raise ManuscriptError(f"{{{{{tag}}}}}: expected `key | format`, format one of {known}")
        try:
            found = self.value(key, row)
            if kind == "interval":
                middle = found["estimate"] if "estimate" in found else found["gain"]
                low, high = (FORMATS[name](found[end]).removesuffix(f"{NO_BREAK}%") for end in ("ci_low", "ci_high"))
                return f"{FORMATS[name](middle)}{NO_BREAK}[{low},{NO_BREAK}{high}]"
            if kind in LEDGER:
                return LEDGER[kind](found)
            if isinstance(found, Mapping | list):
                raise ManuscriptError(f"{{{{{tag}}}}}: holds several values; name one of {', '.join(map(str, found))}")
            return FORMATS[kind](found)
        except ManuscriptError:
            raise
        except (KeyError, TypeError, ValueError) as error:  # a value of another kind than its format
            raise ManuscriptError(f"{{{{{tag}}}}}: {error}") from error


def fill(source: str, numbers: Numbers, names: Mapping[str, str]) -> str:
    """Return the text with every placeholder filled and every block decided."""
    return Writer(numbers, names).write(parse(source))


def check_digits(source: str, allowed: Mapping[str, str]) -> None:
    """Raise ManuscriptError for a digit that nobody accounts for, or for an allowance that nothing uses."""
    rest = ACCOUNTED.sub(" ", TAG.sub(" ", source))
    found = {token.strip("\"'.`_!?") for token in TOKEN.findall(rest)}
    if stray := sorted(found - set(allowed)):
        raise ManuscriptError(
            f"digits typed by hand: {', '.join(stray)}; use a placeholder, or allow each with a reason"
        )
    if idle := sorted(set(allowed) - found):
        raise ManuscriptError(f"allowed digits that the text does not have: {', '.join(idle)}; remove them")


def check_figures(source: str, there: Sequence[str], left_out: Mapping[str, str]) -> list[str]:
    """Return the figures that the text shows; raise ManuscriptError if one is not there, or one there is unaccounted.

    `left_out` names figures (a pattern may end in `*`) that the paper leaves out, each with a reason.
    """
    shown = list(dict.fromkeys(FIGURE.findall(source)))
    if lost := sorted(set(shown) - set(there)):
        raise ManuscriptError(f"figures that no notebook made: {', '.join(lost)}; expected some of {', '.join(there)}")
    spare = [name for name in there if name not in shown]
    if unused := [name for name in spare if not any(fnmatch(name, pattern) for pattern in left_out)]:
        raise ManuscriptError(f"unused figures: {', '.join(unused)}; show them, or leave them out with a reason")
    if idle := [pattern for pattern in left_out if not any(fnmatch(name, pattern) for name in spare)]:
        raise ManuscriptError(f"figures left out that are shown or not there: {', '.join(idle)}; remove the line")
    return shown
