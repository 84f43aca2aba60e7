"""Which numbers moved: the number files as they are against those of the last commit.

Why it exists: a rerun, an edited parameter or another verdict rule must show what it did to every recorded number. In:
figures/<profile>/NN_*.json, the same files at a git revision, and paper/claims.yaml (whose verdicts are decided anew,
so that an edited rule shows before the notebook ran again). Out: lines of key, old, new, relative change. Never: write
a file, or call a difference small.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dontblink import claims, paths
from dontblink.numbers import Numbers, NumbersError
from dontblink.verdicts import ClaimsError


class Change(NamedTuple):
    """One value that differs; None stands for a value that is not there."""

    key: str
    old: Any
    new: Any

    def describe(self) -> str:
        """Return `key: old -> new (+1.2 %)`."""
        texts = ["nothing" if value is None else f"{value}" for value in (self.old, self.new)]
        relative = ""
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (self.old, self.new))
        if numbers and self.old:
            relative = f" ({100 * (self.new - self.old) / abs(self.old):+.2g} %)"
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


def read_committed(file: str, revision: str = "HEAD") -> Any:
    """Return the numbers of a file at a revision, None if it was not there."""
    command = ["git", "show", f"{revision}:{file}"]
    done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def find_changes(profile: str, revision: str = "HEAD") -> list[Change]:
    """Return every number of a profile that differs from the revision's, the ledger's verdicts decided anew."""
    numbers, found = Numbers(profile), list[Change]()
    for stem in numbers.stems():
        new = numbers.read(stem)
        if stem == claims.STEM:
            new = new | {"claims": claims.build_ledger(profile), "inputs": claims.hash_inputs(profile)}
        found += compare(read_committed(paths.show(numbers.file(stem)), revision), new, stem)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Print which numbers moved since a commit: `python -m dontblink.changes --profile testbed`."""
    parser = argparse.ArgumentParser(prog="python -m dontblink.changes", description=main.__doc__)
    parser.add_argument("--profile", default="testbed")
    parser.add_argument("--against", default="HEAD", help="a git revision")
    given = parser.parse_args(arguments)
    try:
        found = find_changes(given.profile, given.against)
    except (ClaimsError, NumbersError) as error:
        print(error, file=sys.stderr)
        return 1
    for change in found:
        print(change.describe())
    print(f"{len(found)} numbers of {given.profile} differ from {given.against}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
