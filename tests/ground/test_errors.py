"""A message of this package is one line that a terminal prints and obeys nothing of, whatever it quotes."""

from __future__ import annotations

import pickle

import pytest
from bad_input import TEXTS, find_fault
from hypothesis import given

from dontblink.errors import LONGEST, NamedError, as_command, make_cell, make_line, make_printable
from dontblink.questions.items import ItemError


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\n  b", "a b"), ("\x1b[31mred", "\\x1b[31mred"), ("\u202ex", "\\u202ex"), ("x\u2028y", "x y"),
        (" two  spaces", " two  spaces"),
        ("\ud800", "\\ud800"), ("é 漢", "é 漢"),
    ],
)  # fmt: skip
def test_a_message_is_one_line_that_a_terminal_only_prints(text: str, line: str) -> None:
    assert make_line(text) == line and str(NamedError(text)) == line


def test_a_message_of_a_megabyte_keeps_its_ends() -> None:
    line = make_line("start" + "x" * 1_000_000 + "end")
    assert line.startswith("start") and line.endswith("end") and len(line) < LONGEST + 50


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_computes_no_cell(text: str) -> None:
    assert make_cell(text) == "'" + text and make_cell("x" + text) == "x" + text


@given(TEXTS)
def test_no_text_is_more_than_a_printable_line(text: str) -> None:
    assert not find_fault("item " + make_line(text)) and make_printable(text).isprintable()
    assert make_line(make_line(text)) == make_line(text)


def test_an_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ItemError("item \x1b: no")))
    assert type(error) is ItemError and str(error) == "item \\x1b: no"


def test_a_command_says_a_named_error_in_one_line_and_lets_others_pass(capsys: pytest.CaptureFixture[str]) -> None:
    @as_command
    def run(error: Exception | None) -> int:
        if error:
            raise error
        return 3

    assert run(None) == 3 and run(ItemError("item \x1b: no")) == 1
    assert capsys.readouterr().err == "item \\x1b: no\n"
    with pytest.raises(KeyError):
        run(KeyError("x"))
