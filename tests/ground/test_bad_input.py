"""The judge of bad inputs finds what it looks for, and counts it."""

from __future__ import annotations

from pathlib import Path

import bad_input
import pytest
from bad_input import Fault, Rows, attack, find_fault, judge, summarize
from hypothesis import strategies as st

from dontblink.errors import NamedError


def end(value: BaseException | Rows | None) -> Rows | None:
    """Raise or return what is given."""
    if isinstance(value, BaseException):
        raise value
    return value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "accepted"),
        (Rows(2, 2, []), "accepted"),
        (NamedError("item x: no; remove it"), "named error"),
        (Rows(2, 1, ["a reason"]), "quarantined"),
        (KeyError("x"), "traceback"),
        (SystemExit(3), "traceback"),
        (NamedError(""), "message"),
        (Rows(3, 1, ["a reason"]), "silent drop"),
        (Rows(2, 1, ["two\nlines"]), "message"),
    ],
)
def test_the_judge_finds_what_it_looks_for(
    value: BaseException | Rows | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bad_input, "COUNTS", bad_input.Counter())
    if expected in ("accepted", "named error", "quarantined"):
        assert judge(lambda: end(value)) == expected
    else:
        with pytest.raises(Fault, match=expected):
            judge(lambda: end(value))
    assert {("", expected): 1} == bad_input.COUNTS


def test_a_message_is_one_line_that_a_terminal_prints_as_it_stands() -> None:
    assert find_fault("") and find_fault("a\x1bb") and find_fault("a\u2028b") and not find_fault("a — b")


def test_an_attack_counts_and_fails_on_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def use(value: int, folder: Path) -> Rows | None:
        if value == 3:
            raise KeyError(value)
        return Rows(1, 0, ["odd"]) if value % 2 else None

    monkeypatch.setattr(bad_input, "COUNTS", bad_input.Counter())
    with pytest.raises(AssertionError, match=r"traceback: KeyError.*\n    input: 3$"):
        attack("numbers", use, st.just(0), [0, 1, 2, 3])(tmp_path)
    assert summarize() == (
        "4 bad inputs (numbers 4): accepted 2, named errors 0, quarantined 1, tracebacks 1, silent drops 0"
    )
