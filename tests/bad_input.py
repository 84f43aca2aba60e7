"""What becomes of a bad input: accepted, a named error, rows left out with their reasons, or a failure.

In: a `Kind`, which draws inputs and uses them as a run would. Out: a `Ledger` that counts what became of each. A
failure is an exception that this package does not define, a message of several lines or with characters that a
terminal obeys, a row that is neither kept nor left out with a reason, and an input that holds the run up.
"""

from __future__ import annotations

import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SLOW_S = 20.0  # of one input on a busy machine; most take milliseconds
LONGEST = 4000  # characters of a message
GOOD = ("accepted", "named error", "quarantined")
HOSTILE = [
    "", " ", "\n", "a\nb", "\r\n", "\t", "\0", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\u202ereversed", "\u200b",
    "\u2028", "\ufeff", "\ud800", "\udfff x", "مرحبا بالعالم", "שלום", "e\u0301\u0301\u0301",
    "\U0001f468\u200d\U0001f469",
    "$\\frac{", "$x$ and $\\undefined{y}$", "\\end{document}\\input{/etc/passwd}", "<script>alert(1)</script>",
    "</script>",
    "<!-- ", "-->", "javascript:alert(1)", "\"' onmouseover=alert(1)", "#read(\"/etc/passwd\")", "`#panic()`{=typst}",
    "{{08_claims}}", "# heading", "| a | b |", "[x](javascript:x)", "![x](file:///etc/passwd)", "=1+1", "@SUM(A1)",
    "-2+3",
    "../../etc/passwd", "..", ".", "/etc/passwd", "~", "C:\\x", "$(touch canary)", "`touch canary`",
    "; touch canary", "a" * 5000,
    "<image 1>", "<image 2>", "<image 0>", f"<image {'9' * 5000}>", "<image ٣>", "<think>", "</think>", "<|image_pad|>",
    "nan", "inf", "1e999", "9" * 5000, "True", "None", "[", "(" * 300, "-" * 3000 + "1", "{[]: 1}", "['a', 'b'",
    "%s %n {0}",
]  # fmt: skip
TEXTS = (
    st.sampled_from(HOSTILE) | st.text(st.characters(), max_size=40) | st.text(alphabet="${}\\^_<>&'\"#`|", max_size=20)
)
NUMBERS = (
    st.sampled_from([0, -1, 2**31, 2**63, -(2**70), 10**400, float("nan"), float("inf"), -float("inf"), 1e308, 5e-324])
    | st.integers()
    | st.floats()
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


class Rows(NamedTuple):
    """How many rows went in, how many are kept, and why the others are not."""

    total: int
    kept: int
    reasons: Sequence[str]


@dataclass(frozen=True)
class Kind:
    """One kind of bad input: a strategy and a list of them, and what a run does with one in a folder of its own."""

    name: str
    use: Callable[[Any, Path], Rows | None]
    inputs: st.SearchStrategy[Any]
    corpus: Sequence[Any] = ()


@dataclass
class Ledger:
    """What became of the inputs of each kind, and the failures in words."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def total(self, verdict: str) -> int:
        """Return how many inputs ended so."""
        return sum(count for (_, found), count in self.counts.items() if found == verdict)

    def enter(self, kind: Kind, value: Any, folder: Path) -> None:
        """Use one input and write down what became of it."""
        verdict, why = judge(lambda: kind.use(value, folder))
        self.counts[kind.name, verdict] += 1
        if verdict not in GOOD:
            shown = ascii(value)
            shown = shown if len(shown) < 600 else f"{shown[:300]} ... {shown[-200:]}"
            self.failures.append(f"{kind.name}: {verdict}: {why}\n    input: {shown}")


def find_fault(message: str) -> str:
    """Return what is wrong with a message: it must be one line that a terminal prints as it stands."""
    if not message.strip():
        return "an empty message"
    odd = sorted({letter for letter in message if not letter.isprintable()})
    if odd:
        return f"a message with {odd[:4]!r}: {message[:200]!r}"
    return f"a message of {len(message)} characters: {message[:200]!r}" if len(message) > LONGEST else ""


def judge(call: Callable[[], Rows | None]) -> tuple[str, str]:
    """Return what became of an input, and why: one of GOOD, or 'traceback', 'message', 'silent drop', 'slow'."""
    started = time.monotonic()
    verdict, why = _judge_end(call)
    spent = time.monotonic() - started
    return ("slow", f"{spent:.0f} s") if spent > SLOW_S and verdict in GOOD else (verdict, why)


def _judge_end(call: Callable[[], Rows | None]) -> tuple[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = call()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a panic of a Rust library is no Exception
        if type(error).__module__.partition(".")[0] == "dontblink":
            fault = find_fault(str(error))
            return ("message", fault) if fault else ("named error", str(error))
        place = traceback.extract_tb(error.__traceback__)
        own = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in place if "dontblink" in frame.filename]
        what = f"{type(error).__name__}: {ascii(str(error))[:200]}"
        return "traceback", f"{what} at {' > '.join(own[-4:]) or place[-1]}"
    if found is None:
        return "accepted", ""
    if found.total != found.kept + len(found.reasons):
        return "silent drop", f"{found.total} rows, {found.kept} kept, {len(found.reasons)} left out with a reason"
    if faults := [fault for reason in found.reasons if (fault := find_fault(reason))]:
        return "message", faults[0]
    return ("quarantined", found.reasons[0]) if found.reasons else ("accepted", "")


def run(kinds: Sequence[Kind], examples: int, seed: int, folder: Path, ledger: Ledger) -> None:
    """Use the corpus of every kind, and as many drawn inputs of each as asked for."""
    for number, kind in enumerate(kinds):
        own = folder / f"{number:02d}"
        own.mkdir(parents=True, exist_ok=True)
        for value in kind.corpus:
            ledger.enter(kind, value, own)
        if examples:
            use = partial(ledger.enter, kind, folder=own)
            quiet = settings(
                max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
            )
            hypothesis.seed(seed)(quiet(given(kind.inputs)(_passing_to(use))))()


def _passing_to(use: Callable[..., None]) -> Callable[[Any], None]:
    """Return a function of one argument, as hypothesis wants it."""
    return lambda value: use(value)
