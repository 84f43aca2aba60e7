"""dontblink: does a reasoning VLM still look at the evidence while it writes its chain of thought?"""

import os
import signal
import sys
from typing import Any

_HOMES = {"load_monitor": "studies.risk", "measure": "monitor.gaze", "watch": "monitor.gaze"}
__all__ = ["load_monitor", "measure", "watch"]


def __getattr__(name: str) -> Any:
    """Import what a user's own model needs when it is asked for: commands without torch start at once.

    No `import` names the module here: every stage begins with this file, and would depend on all that lies behind it.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(__import__(f"dontblink.{_HOMES[name]}", fromlist=[name]), name)


def _end(number: int, frame: object) -> None:
    """End a command at Ctrl-C with one line and no traceback: what it writes is whole or not there (tests/faults)."""
    os.write(2, b"stopped; what is finished stays, the same command goes on from there\n")
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


if sys.argv[0] in ("-m", "paper/build.py"):  # being run, not imported into a notebook, a test or another program
    signal.signal(signal.SIGINT, _end)
    sys.warnoptions.append("ignore:resource_tracker")  # for the process that then clears up behind the workers
elif "--multiprocessing-fork" in sys.orig_argv:  # a worker ends without a word
    signal.signal(signal.SIGINT, signal.SIG_DFL)
