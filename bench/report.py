"""Write the table of costs from results/bench: every result of every script beside its bar.

In: the JSON files that the scripts of bench/ wrote, whichever are there. Out: the block between the bench markers of
bench/README.md; no date, so that its bytes change only where a number or the measured code does. A missed bar is
shown as missed, named on standard error, and makes the exit code 1. What was measured with settings of its own says so
and is not held against its bar; a script whose code has changed since is named below the table. Never measure, round
for a comparison, or leave a result out.

Run `python bench/report.py` (`make bench` does); `--print` shows the block and leaves the page alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure import FOLDER, Result, hash_code

from dontblink import paths
from dontblink.errors import NamedError
from dontblink.files import whole_file

PAGE = "bench/README.md"
START, END = "<!-- bench: written by `make bench` -->", "<!-- /bench -->"
ORDER = ("capture", "watch", "intervene", "replay_true_shape", "memory", "batches", "bootstrap", "make", "make_cold")
HOLDS = {True: "yes", False: "**no**", None: ""}
PLAIN = ("ratio", "exponent")  # units that the claim says


class ReportError(ValueError):
    """Results or a page that cannot be used; one line with the remedy."""


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what each script wrote, in the order of ORDER, others after them; its results as `Result`s.

    Results of changed settings name them in their claim and are not judged; `is_old`: of code that has changed since.

    Raises
    ------
    ReportError
        If there is no file, or one does not hold results.
    """
    found = {}
    files = {file.stem: file for file in sorted(folder.glob("*.json"))}
    for name in [*(name for name in ORDER if name in files), *(name for name in files if name not in ORDER)]:
        file = files[name]
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            changed = ", ".join(f"{key}={value}" for key, value in content["changed"].items())
            results = [Result(**result) for result in content["results"]]
            if changed:
                results = [replace(r, claim=f"{r.claim}, with {changed}", holds=None) for r in results]
            try:
                is_old = content["code"] != hash_code(find_stem(name))
            except NamedError:  # its script is gone
                is_old = True
            found[name] = content | {"results": results, "changed": changed, "is_old": is_old}
            describe_machine(content["machine"])
        except (ValueError, TypeError, KeyError) as error:
            raise ReportError(f"{paths.show(file)}: {error!r}, expected results; run its script again") from error
    if not found:
        raise ReportError(f"{paths.show(folder)}: no results; run `make bench`")
    return found


def find_stem(name: str) -> str:
    """Return the script whose results a name stands for: those of a cold build are of the script `make`."""
    return name.removesuffix("_cold")


def show_number(value: float, bar: float | None = None) -> str:
    """Return a number with three digits, or as many as tell it from its bar."""
    digits = 3
    while bar is not None and value != bar and digits < 17 and f"{value:.{digits}g}" == f"{bar:.{digits}g}":
        digits += 1
    return f"{value:.{digits}g}"


def render_row(script: str, result: Result) -> str:
    """Return one line of the table: script, claim, median [lowest, highest], bar, whether it holds."""
    unit = "" if result.unit in PLAIN else f" {result.unit}"
    value = show_number(result.value, result.bar_value)
    if result.repeats > 1:
        value += f" [{show_number(result.low)}, {show_number(result.high)}]"
    claim = result.claim.replace("|", "\\|")
    return f"| {script} | {claim} | {value}{unit} | {result.bar} | {HOLDS[result.holds]} |"


def describe_machine(machine: Mapping[str, Any]) -> str:
    """Return a machine in a line of general words."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    threads = f"{machine['threads']} CPU thread{'' if machine['threads'] == '1' else 's'}"
    return f"{threads} of {machine['cores']} cores ({machine['system']}), {versions}"


def render_block(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the block, markers included."""
    rows = [START, "", "| script | claim | median [lowest, highest] | bar | holds |", "|---|---|---|---|---|"]
    for script, content in found.items():
        path = f"[`{script}`]({find_stem(script)}.py)"
        for place, result in enumerate(content["results"]):
            rows.append(render_row("" if place else path, result))
    judged = [result for content in found.values() for result in content["results"] if result.holds is not None]
    machines: dict[str, list[str]] = {}
    for script, content in found.items():
        machines.setdefault(describe_machine(content["machine"]), []).append(f"`{script}`")
    where = [f"{', '.join(scripts)} with {machine}" for machine, scripts in machines.items()]
    last = f"{sum(result.holds is True for result in judged)} of {len(judged)} bars hold. Measured: {'; '.join(where)}."
    if old := [f"`{script}`" for script, content in found.items() if content["is_old"]]:
        last += f" Measured on an earlier version of the code: {', '.join(old)}."
    return "\n".join([*rows, "", last, END])


def replace_block(text: str, block: str) -> str:
    """Return the page with its bench block replaced; raise ReportError unless the markers stand there once."""
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ReportError(f"{PAGE}: expected one {START} and, after it, one {END}; put them back")
    return text[: text.index(START)] + block + text[text.index(END) + len(END) :]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the block, and name the bars that are missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", help="show the block and leave the page alone")
    given = parser.parse_args(arguments)
    file = paths.ROOT / PAGE
    try:
        found = read_results(FOLDER)
        block = render_block(found)
        old = file.read_text(encoding="utf-8")
        new = replace_block(old, block)
    except ReportError as error:
        print(error, file=sys.stderr)
        return 1
    if given.print:
        print(block)
    elif new != old:
        with whole_file(file) as temporary:
            temporary.write_text(new, encoding="utf-8")
    for script, content in found.items():
        if content["changed"]:
            again = f"run bench/{find_stem(script)}.py without options"
            print(f"{script}: not judged, measured with {content['changed']}; {again}", file=sys.stderr)
    missed = [r for content in found.values() for r in content["results"] if r.holds is False]
    for result in missed:
        print(f"MISS {result.claim}: {result.value:.4g} {result.unit}, bar {result.bar}", file=sys.stderr)
    if not given.print:
        print(f"{PAGE}: bench block {'written' if new != old else 'unchanged'}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
