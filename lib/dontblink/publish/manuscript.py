"""The paper's text with its numbers: a jinja2 template filled from what the notebooks recorded.

Why it exists: no number of a result is typed by hand, and no sentence may claim what another run would not show. In:
paper/paper.md and the recorded numbers. Out: plain markdown for pandoc. Never: compute a statistic, or let a key, a
figure or a digit pass that nobody accounts for. What a template may write:

    {{ collapse.n_cells | count }}                     figures/<profile>/02_collapse.json; every number needs a format
    {{ C1.verdict | text }}                            an entry of the ledger, figures/<profile>/08_claims.json
    {{ veto.planted.entropy_length.image.pooled.all.all | interval("points") }} estimate (or gain) [ci_low, ci_high]
    {{ interaction.hazard.image.benchmark.all[visual] | two }}              visual, symbolic, other: this profile's
    {% for model in collapse.collapse.grounding_layers.evidence %} ... {% endfor %}                     sorted keys
    {% if C1 is reproduced %}...{% elif C1 is same_direction %}...{% elif C1 is not_reproduced %}...
      {% elif C1 is not_testable %}...{% endif %}      all four, also those that this run does not show
    {% if extraction.n_quarantined > 0 %}...{% else %}...{% endif %}           never without its other side
    {% if profile == "testbed" %}...{% endif %}                                which may, of a profile, be empty
"""

from __future__ import annotations

import locale
import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import jinja2
import pypandoc
from jinja2 import nodes
from jinja2.sandbox import SandboxedEnvironment

from dontblink.errors import NamedError, make_printable
from dontblink.publish.claims import STEM, VERDICTS, show_estimate, show_verdict
from dontblink.publish.numbers import Numbers

TAG = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", flags=re.S)
FIGURE = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
# what may hold digits: front matter fences, comments, equations, citations, labels, targets, headings
ACCOUNTED = re.compile(
    r"<!--.*?-->|\$\$.*?\$\$|\$[^$]+\$|\{#[^}]*\}|\]\([^)]*\)|-?@[A-Za-z][\w:.-]*|^#+ [^\n]*|\{[.=][^}]*\}",
    flags=re.S | re.M,
)
TOKEN = re.compile(r"[^\s()\[\]{},;:*|/]*\d[^\s()\[\]{},;:*|/]*")
MARKS = re.compile(r"[\\`*_{}\[\]<>$@#^~|!&]")  # what markdown, or pandoc's, reads as more than a letter
NO_BREAK, MINUS, DASH = "\N{NO-BREAK SPACE}", "\N{MINUS SIGN}", "\N{EN DASH}"
TESTS = {verdict.replace(" ", "_"): verdict for verdict in VERDICTS}


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
    items = headline["clusters"]
    n = headline["n" if "n" in headline else "clusters"]
    return f"{items:,}" if n == items else f"{items:,} ({n:,})"


def _needed(simulated: Mapping[str, Any], rule: str) -> str:
    """Return the items at which a rule, or where only that was simulated its claim's test, finds the effect."""
    own, key = (simulated["n_at_80_by_rule"], rule) if "n_at_80_by_rule" in simulated else (simulated, "n_at_80")
    return f"{own[key]:,.0f}" if key in own else DASH


def _interval(row: Mapping[str, Any], kind: str) -> str:
    """Return `estimate [low, high]` of a row, or its gain where it has no estimate, in one of the formats."""
    middle, low, high = (
        FORMATS[kind](row[key]) for key in ("estimate" if "estimate" in row else "gain", "ci_low", "ci_high")
    )
    low, high = (text.removesuffix(f"{NO_BREAK}%") for text in (low, high))
    return f"{middle}{NO_BREAK}[{low},{NO_BREAK}{high}]"


FORMATS: dict[str, Callable[..., str]] = {
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
    "interval": _interval,  # of a row
    # of a whole entry of the ledger
    "claim_estimate": lambda claim: show_estimate(claim).replace(" ", NO_BREAK),
    "claim_power": lambda claim, rule: _needed(claim["simulated"], rule),
    "claim_row": lambda claim: escape(str(claim["headline"]["row"]).replace("_", " ")) if claim["tested"] else DASH,
    "claim_counts": lambda claim: _counts(claim["headline"]) if claim["tested"] else DASH,
    "claim_p": lambda claim: _p(claim["headline"]["p"], "") if claim["tested"] and "p" in claim["headline"] else DASH,
    "claim_verdict": lambda claim: escape(show_verdict(claim)),
    "claim_source": lambda claim: f"{claim['source'][:2]}, {claim['seed']}" if claim["tested"] else DASH,
}


class Shown(str):
    """A text that a format made: nothing else may stand in the paper."""


class Branch:
    """Recorded numbers below a key; a key that is not there is an error, and none is hidden by a method's name."""

    def __init__(self, numbers: Numbers, path: tuple[str, ...]) -> None:
        self._numbers, self._path = numbers, path

    def __getitem__(self, key: object) -> Any:
        value = self._numbers.get((*self._path, str(key)))
        return Branch(self._numbers, (*self._path, str(key))) if isinstance(value, Mapping) else value

    def __contains__(self, key: object) -> bool:
        return key in self._numbers.get(self._path)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._numbers.get(self._path)))


def make_format(name: str) -> Callable[..., Shown]:
    """Return a format as a filter that names itself and the value where they do not fit."""

    def show(value: Any, *kind: str) -> Shown:
        if isinstance(value, Branch) and not name.startswith(("claim", "interval")):
            raise NamedError(f"holds several values, {', '.join(value)}; name one of them")
        try:
            return Shown(FORMATS[name](value, *kind))
        except (KeyError, TypeError, ValueError) as error:  # a value of another kind than its format
            raise NamedError(f"{value!r} is nothing for the format {name}: {error}; correct either") from error

    return show


def expect_format(value: Any) -> Shown:
    """Return what a placeholder shows; raise NamedError where no format made it."""
    if not isinstance(value, Shown):
        undefined = isinstance(value, jinja2.Undefined)
        found = value._undefined_message if undefined else f"{value!r}: expected `key | format`"
        raise NamedError(f"{found}; formats are {', '.join(FORMATS)}")
    return value


def make_environment() -> SandboxedEnvironment:
    """Return the sandbox with the formats as filters and the verdicts as tests."""
    environment = SandboxedEnvironment(
        undefined=jinja2.StrictUndefined, finalize=expect_format, keep_trailing_newline=True,
        comment_start_string="<#", comment_end_string="#>",  # `{#` begins a label of pandoc's
    )  # fmt: skip
    environment.filters = {name: make_format(name) for name in FORMATS}
    for word, verdict in TESTS.items():
        environment.tests[word] = lambda claim, wanted=verdict: claim["verdict"] == wanted
    return environment


def check_alternatives(tree: nodes.Template) -> None:
    """Raise NamedError for an `if` without its other side, a verdict without a sentence, or a number typed in a tag."""
    branches = list(tree.find_all(nodes.If))
    later = {id(branch) for node in branches for branch in node.elif_}
    for node in (node for node in branches if id(node) not in later):
        asked = [branch.test.name for branch in (node, *node.elif_) if isinstance(branch.test, nodes.Test)]
        if asked and sorted(asked) != sorted(TESTS):
            found = f"sentences for {', '.join(asked)}; expected exactly {', '.join(TESTS)}"
            raise NamedError(f"line {node.lineno}: {found}")
        is_choice = asked or {name.name for name in node.test.find_all(nodes.Name)} == {"profile"}
        if not is_choice and not node.else_:
            raise NamedError(f"line {node.lineno}: a sentence decided by a number lacks its {{% else %}}")
    for output in tree.find_all(nodes.Output):
        for tag in (part for part in output.nodes if not isinstance(part, nodes.TemplateData)):
            if not isinstance(tag, nodes.Name) and tag.find(nodes.Name) is None:
                raise NamedError(f"line {tag.lineno}: a value typed by hand; name a recorded number")


def fill(source: str, numbers: Numbers, names: Mapping[str, str]) -> str:
    """Return the text with every placeholder filled and every sentence chosen.

    `names` says what `visual`, `symbolic` and `other` stand for in this profile. Whatever the template asks that nobody
    recorded is a NamedError with its line and key.
    """
    environment = make_environment()
    claims = Branch(numbers, (STEM, "claims"))
    known = {stem.partition("_")[2]: Branch(numbers, (stem,)) for stem in numbers.stems()}
    known |= {name: claims[name] for name in claims} | {**names, "profile": numbers.profile}
    try:
        check_alternatives(environment.parse(source))
        return environment.from_string(source).render(known)
    except jinja2.TemplateSyntaxError as error:
        raise NamedError(f"line {error.lineno}: {error.message}; see the docstring of publish/manuscript.py") from error
    except (jinja2.TemplateError, NamedError, TypeError) as error:
        if (line := find_line(error)) is None:
            raise
        what = f"{error}; known are {', '.join(known)}" if isinstance(error, jinja2.UndefinedError) else error
        raise NamedError(f"line {line}: {what}") from error


def find_line(error: BaseException) -> int | None:
    """Return the template's line in which an error came up, None where it did not come from the template."""
    lines = [n for frame, n in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    return lines[-1] if lines else None


def check_digits(source: str, allowed: Mapping[str, str]) -> None:
    """Raise NamedError for a digit that nobody accounts for, or for an allowance that nothing uses."""
    rest = ACCOUNTED.sub(" ", TAG.sub(" ", source))
    found = {token.strip("\"'.`_!?") for token in TOKEN.findall(rest)}
    if stray := sorted(found - set(allowed)):
        raise NamedError(f"digits typed by hand: {', '.join(stray)}; use a placeholder, or allow each with a reason")
    if idle := sorted(set(allowed) - found):
        raise NamedError(f"allowed digits that the text does not have: {', '.join(idle)}; remove them")


def check_figures(source: str, there: Sequence[str], left_out: Mapping[str, str]) -> list[str]:
    """Return the figures that the text shows; raise NamedError if one is not there, or one there is unaccounted.

    `left_out` names figures (a pattern may end in `*`) that the paper leaves out, each with a reason.
    """
    shown = list(dict.fromkeys(FIGURE.findall(source)))
    if lost := sorted(set(shown) - set(there)):
        raise NamedError(f"figures that no notebook made: {', '.join(lost)}; expected some of {', '.join(there)}")
    spare = [name for name in there if name not in shown]
    if unused := [name for name in spare if not any(fnmatch(name, pattern) for pattern in left_out)]:
        raise NamedError(f"unused figures: {', '.join(unused)}; show them, or leave them out with a reason")
    if idle := [pattern for pattern in left_out if not any(fnmatch(name, pattern) for name in spare)]:
        raise NamedError(f"figures left out that are shown or not there: {', '.join(idle)}; remove the line")
    return shown


def convert(text: str, source: str, to: str, arguments: Sequence[str] = ()) -> str:
    """Return what pandoc makes of a text. It reads paths by the locale, and a folder may have letters beyond ASCII."""
    if locale.getencoding().lower() != "utf-8":
        os.environ["LC_ALL"] = "C.UTF-8"
    return str(pypandoc.convert_text(text, to, format=source, extra_args=list(arguments)))
