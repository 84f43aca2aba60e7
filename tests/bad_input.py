"""The contract of bad inputs: each is used, refused in one line that says how to go on, or left out with a reason.

A test file takes what a run does with an input, and a strategy and a list of inputs, and makes a test of them: `test_x =
attack("x", use, inputs, corpus)`. What fails: an exception that is no `NamedError`, a message of several lines or with
characters that a terminal obeys, a row that is neither kept nor left out with a reason, an input that holds the run up.
`make campaign` runs the same tests under the hypothesis profile `campaign` (every known input, many drawn ones) and
prints `COUNTS`; by default some known inputs and a few drawn ones are used.
"""

from __future__ import annotations

import io
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dontblink.errors import NamedError

N_KNOWN, N_DRAWN = 40, 12  # used by default, of every kind
LARGE = 50_000  # characters of an input that only the campaign uses
SLOW_S = 20.0  # of one input on a busy machine; most take milliseconds
LONGEST = 4000  # characters of a message
COUNTS: Counter[tuple[str, str]] = Counter()  # of (kind, what became of an input)
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
MARKUP = [
    "</script><script>hacked=1</script>", "<!--", "--><img src=x onerror=hacked=1>", "\u2028hacked=1",
    "javascript:hacked=1", "]]>",
    "<svg/onload=hacked=1>", "&lt;script&gt;", "<base href=//x>", "\0<script>", "{{ 7 * 7 }}", "{% raw %}",
    "'\"><style>*{}</style>",
    "[a](javascript:hacked=1)", "[a]: javascript:hacked=1\n\n[a]", "<javascript:hacked=1>", "![a](x.png)",
    "$<script>$", "```\n</code>",
]  # fmt: skip
# those that a page and a paper can hold
SHORT = [text for text in (*HOSTILE, *MARKUP) if text.encode("utf-8", "replace").decode() == text and len(text) < 1000]
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
LINES = [
    b"", b"\0", b"{", b"[]", b"1", b"null", b'"text"', b"{" * 50_000, b"[" * 100_000, b'{"a": ' * 50_000, b"9" * 5000,
    b"\xff\xfe{}", b'{"pid": 1, "pid": 2}', b"\xef\xbb\xbf{}", b"NaN", b"{}", b"x" * 1_000_000,
    b'{"a": ' + b"9" * 5000 + b"}",
]  # fmt: skip


class Rows(NamedTuple):
    """How many rows went in, how many are kept, and why the others are not."""

    total: int
    kept: int
    reasons: Sequence[str]


class Fault(AssertionError):
    """What must not become of an input: its kind and the details."""


def make_picture(number: int) -> bytes:
    """Return a small PNG of its own colour."""
    held = io.BytesIO()
    Image.new("RGB", (40, 30), (number * 40 % 255, 90, 90)).save(held, "PNG")
    return held.getvalue()


def find_fault(message: str) -> str:
    """Return what is wrong with a message: it must be one line that a terminal prints as it stands."""
    if not message.strip():
        return "an empty message"
    odd = sorted({letter for letter in message if not letter.isprintable()})
    if odd:
        return f"a message with {odd[:4]!r}: {message[:200]!r}"
    return f"a message of {len(message)} characters: {message[:200]!r}" if len(message) > LONGEST else ""


def judge(call: Callable[[], Rows | None], kind: str = "") -> str:
    """Return and count what became of an input: 'accepted', 'named error' or 'quarantined'; else raise Fault."""
    started = time.monotonic()
    try:
        verdict, messages = _use(call)
        if faults := [fault for message in messages if (fault := find_fault(message))]:
            raise Fault("message", faults[0])
        if (spent := time.monotonic() - started) > SLOW_S:
            raise Fault("hold-up", f"{spent:.0f} s")
    except Fault as fault:
        COUNTS[kind, fault.args[0]] += 1
        raise
    COUNTS[kind, verdict] += 1
    return verdict


def _use(call: Callable[[], Rows | None]) -> tuple[str, Sequence[str]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = call()
    except KeyboardInterrupt:
        raise
    except NamedError as error:
        return "named error", [str(error)]
    except BaseException as error:  # a panic of a Rust library is no Exception
        place = traceback.extract_tb(error.__traceback__)
        own = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in place if "dontblink" in frame.filename]
        what = f"{type(error).__name__}: {ascii(str(error))[:200]}"
        raise Fault("traceback", f"{what} at {' > '.join(own[-4:]) or place[-1]}") from error
    if found is not None and found.total != found.kept + len(found.reasons):
        reasons = f"{len(found.reasons)} left out with a reason"
        raise Fault("silent drop", f"{found.total} rows, {found.kept} kept, {reasons}")
    return ("quarantined", found.reasons) if found is not None and found.reasons else ("accepted", [])


def attack(
    kind: str, use: Callable[[Any, Path], Rows | None], inputs: st.SearchStrategy[Any], corpus: Sequence[Any] = ()
) -> Callable[[Path], None]:
    """Return a test that uses the known inputs and drawn ones, each as a run would in the same folder.

    Parameters
    ----------
    kind
        What the inputs are, for the counts.
    use
        What a run does with one: returns None or what became of its rows, or raises.
    """

    def test(tmp_path: Path) -> None:
        is_campaign = settings.get_current_profile_name() == "campaign"
        known = corpus if is_campaign else [v for v in corpus[:: max(1, len(corpus) // N_KNOWN)] if len(str(v)) < LARGE]
        faults = []
        for value in known:
            try:
                judge(lambda value=value: use(value, tmp_path), kind)
            except Fault as fault:
                shown = ascii(value)
                shown = shown if len(shown) < 600 else f"{shown[:300]} ... {shown[-200:]}"
                faults.append(f"{': '.join(fault.args)}\n    input: {shown}")
        assert not faults, "\n".join(faults)

        @settings(
            max_examples=settings().max_examples if is_campaign else N_DRAWN,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(inputs)
        def use_drawn(value: Any) -> None:
            judge(lambda: use(value, tmp_path), kind)

        use_drawn()

    return pytest.mark.bad_input(test)


def summarize() -> str:
    """Return the counts of this session in one line."""
    by_kind, by_end = Counter[str](), Counter[str]()
    for (kind, end), count in COUNTS.items():
        by_kind[kind] += count
        by_end[end] += count
    other = by_end["message"] + by_end["hold-up"]
    return (
        f"{COUNTS.total()} bad inputs ({', '.join(f'{name} {count}' for name, count in by_kind.items())}): "
        f"accepted {by_end['accepted']}, named errors {by_end['named error']}, "
        f"quarantined {by_end['quarantined']}, tracebacks {by_end['traceback']}, "
        f"silent drops {by_end['silent drop']}" + (f", bad messages or hold-ups {other}" if other else "")
    )
