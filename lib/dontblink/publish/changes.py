"""Which numbers moved: the number files as they are against those of the last commit.

Why it exists: a rerun, an edited parameter or another verdict rule must show what it did to every recorded number. In:
figures/<profile>/NN_*.json, the same files at a git revision, and paper/claims.yaml (whose verdicts are decided anew,
so that an edited rule shows before the notebook ran again). Out: lines of key, old, new, relative change; all of them,
or those above a size that the reader names. Never: write a file, or call a difference small.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dontblink import paths
from dontblink.errors import as_command
from dontblink.publish import claims
from dontblink.publish.numbers import Numbers


class Change(NamedTuple):
    """One value that differs; None stands for a value that is not there."""

    key: str
    old: Any
    new: Any

    @property
    def percent(self) -> float:
        """The change in percent of the old value, infinite from zero and where a value is no number."""
        if any(isinstance(v, bool) or not isinstance(v, int | float) for v in (self.old, self.new)) or not self.old:
            return math.inf
        return 100 * float(self.new - self.old) / abs(self.old)

    def describe(self) -> str:
        """Return `key: old -> new (+1.2 %)`."""
        texts = ["nothing" if value is None else f"{value}" for value in (self.old, self.new)]
        relative = f" ({self.percent:+.2g} %)" if math.isfinite(self.percent) else ""
        return f"{self.key}: {texts[0]} -> {texts[1]}{relative}"


def compare(old: Any, new: Any, key: str = "") -> Iterator[Change]:
    """Yield every value that differs, by its dotted key; lists are compared entry by entry."""
    if isinstance(old, list) and isinstance(new, list):
        old, new = ({str(k): v for k, v in enumerate(values)} for values in (old, new))
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            yield from compare(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
    elif isinstance(old, Mapping | list) or isinstance(new, Mapping | list):
        yield Change(key, *("several values" if isinstance(v, Mapping | list) else v for v in (old, new)))
    elif old != new:
        yield Change(key, old, new)


def find_changes(profile: str, revision: str = "HEAD") -> list[Change]:
    """Return every number of a profile that differs from the revision's, the ledger's verdicts decided anew."""
    numbers, found = Numbers(profile), list[Change]()
    for stem in numbers.stems():
        new = numbers.read(stem)
        if stem == claims.STEM:
            new = new | {"claims": claims.build_ledger(profile), "inputs": claims.hash_inputs(profile)}
        command = ["git", "show", f"{revision}:{paths.show(numbers.file(stem))}"]
        shown = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=False)
        found += compare(json.loads(shown.stdout) if shown.returncode == 0 else None, new, stem)
    return found


@as_command
def main(arguments: list[str] | None = None) -> int:
    """Print which numbers moved since a commit: `python -m dontblink.publish.changes --profile testbed`."""
    parser = argparse.ArgumentParser(prog="python -m dontblink.publish.changes", description=main.__doc__)
    parser.add_argument("--profile", default="testbed")
    parser.add_argument("--against", default="HEAD", help="a git revision")
    help_above = "list only changes of more than so many percent, and of what is no number; the others are counted"
    parser.add_argument("--above", type=float, default=0.0, metavar="PERCENT", help=help_above)
    given = parser.parse_args(arguments)
    found = find_changes(given.profile, given.against)
    shown = [change for change in found if abs(change.percent) > given.above]
    for change in shown:
        print(change.describe())
    above = f", {len(shown)} by more than {given.above:g} %" if given.above else ""
    print(f"{len(found)} numbers of {given.profile} differ from {given.against}{above}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
