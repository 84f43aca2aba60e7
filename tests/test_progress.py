"""Progress is a bar for a person and a few plain lines for a log."""

from __future__ import annotations

import io

from dontblink.files import Progress


def test_progress_without_a_terminal_is_a_few_plain_lines() -> None:
    stream = io.StringIO()
    progress = Progress(1000, "generate tiny", stream=stream)
    for _ in range(125):
        progress.advance(8)
    progress.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10 and lines[-1].startswith("generate tiny: 1000/1000 items, ")
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


def test_progress_in_a_terminal_is_a_bar_and_can_be_switched_off() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = Progress(4, "generate tiny", stream=stream)
    progress.advance(4)
    progress.close()
    assert "100%" in stream.getvalue() and "generate tiny" in stream.getvalue()
    for silent in (Progress(4, "x", enabled=False, stream=stream), Progress(0, "x", stream=stream)):
        size = len(stream.getvalue())
        silent.advance(4)
        silent.close()
        assert len(stream.getvalue()) == size
