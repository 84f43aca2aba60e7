"""Progress of long work: a bar in a terminal, plain lines elsewhere (papermill, a log file, make's output).

In: how much there is to do. Out: text on stderr. Never: a carriage return into a log.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

from tqdm import tqdm


class Progress:
    """A bar in a terminal; elsewhere a plain line about every tenth of the way.

    `done` is where resumed work starts; `position` is the bar's line where several run side by side.
    """

    def __init__(
        self,
        total: int,
        label: str,
        *,
        unit: str = "items",
        done: int = 0,
        position: int | None = None,
        enabled: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        self.total, self.label, self.unit, self.done, self.started = total, label, unit, done, time.monotonic()
        self.stream = sys.stderr if stream is None else stream
        self.enabled = enabled and total > 0
        is_terminal = self.enabled and self.stream.isatty()
        options = {"total": total, "initial": done, "desc": label, "unit": f" {unit}", "position": position}
        self.bar = tqdm(**options, file=self.stream) if is_terminal else None

    def advance(self, n: int = 1) -> None:
        """Count n more as done."""
        tenth, self.done = 10 * self.done // max(self.total, 1), self.done + n
        if self.bar is not None:
            self.bar.update(n)
        elif self.enabled and 10 * self.done // self.total > tenth:
            seconds = time.monotonic() - self.started
            print(f"{self.label}: {self.done}/{self.total} {self.unit}, {seconds:.0f} s", file=self.stream, flush=True)

    def write(self, line: str) -> None:
        """Print a line without breaking the bar."""
        if self.bar is not None:
            self.bar.write(line, file=self.stream)
        else:
            print(line, file=self.stream, flush=True)

    def close(self) -> None:
        """End the bar's line."""
        if self.bar is not None:
            self.bar.close()
