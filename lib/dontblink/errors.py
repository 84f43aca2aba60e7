"""Errors of one line: whatever they quote from a data set, a terminal and a log show it and obey nothing of it.

Why it exists: a message names what was found, and what was found may be hostile: terminal codes, line breaks, letters
that turn the reading direction, a megabyte. In: a message. Out: one line that can be printed, in which a line break is
a space and every other unprintable letter is its escape. Every error class that may quote a data set, a file or a
server is a `NamedError`, so that no module has to remember this. Never: change a short, printable message.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")
LONGEST = 1500  # characters of a message; of a longer one the middle is left out


def make_line(text: str) -> str:
    """Return a message as one printable line of bounded length; see `make_printable`."""
    line = make_printable(text)
    if len(line) <= LONGEST:
        return line
    half = LONGEST // 2 - 20
    return f"{line[:half]} [{len(line) - 2 * half} characters] {line[-half:]}"


def make_printable(text: str) -> str:
    """Return a text of any length as one line of letters that a terminal prints as they stand."""
    words = re.sub(r"\s*[^\S ]\s*", " ", text)
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in words)


def make_cell(text: str) -> str:
    """Return a text that a spreadsheet takes for text: one that it would compute gets an apostrophe in front."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


class NamedError(Exception):
    """What this package raises: one line that names what was found, what was expected and what to do."""

    def __init__(self, message: object = "") -> None:
        super().__init__(make_line(str(message)))


def first_line(error: BaseException) -> str:
    """Return the first line of what a library says, for messages of one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def as_command(main: Callable[P, int]) -> Callable[P, int]:
    """Make a command of a function: a NamedError is its one line on stderr and the exit code 1, no traceback."""

    @functools.wraps(main)
    def command(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except NamedError as error:
            print(error, file=sys.stderr)
            return 1

    return command
