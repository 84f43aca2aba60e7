"""What does `make all` cost when all, one thing or nothing has changed? Seconds on the clock, and their ratios.

Claims checked, the only absolute bars: with nothing changed it ends in <= 2 s and, with `--cold`, from nothing under
results/ (extraction, every notebook) in <= 7 minutes on two quiet cores, installation apart; `make test` in <= 4
minutes. The last two are one run each, so one value without a spread. Besides, without a bar: how much more `make all`
costs with one parameter of one notebook changed (warm: the notebook, the ledger, the paper).

Run `python bench/make.py [--cold]` after `make all`. It works in a temporary copy of the files that git knows or would
add, with results/<profile> and the figures as they are, so that this checkout stays as it was; libraries use as many
threads as they like, as under `make all`. The copy uses the active environment without installing anything into it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import Result, build_parser, judge, judge_pair, write_results

from dontblink import paths

NO_OP_BAR_S, COLD_BAR_S, TEST_BAR_S = 2.0, 420.0, 240.0
PROFILE = "testbed"
CHANGES = ("collapse.bins=12", "")  # one notebook's parameter, and back
BUILT = (f"results/{PROFILE}", f"figures/{PROFILE}")


class BenchError(RuntimeError):
    """A copy that cannot be measured; one line with the remedy."""


def copy_tree(root: Path, copy: Path, built: bool) -> None:
    """Copy the files that git tracks or would add, with their times; `built`: and what `make all` made of them."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"{root}: git knows no files here; put the folder under git: git init && git add .")
    for name in filter(None, done.stdout.split("\0")):
        if (source := root / name).is_file():  # not one that was deleted, nor another repository
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy / name)
    for name in BUILT if built else ():
        if (root / name).is_dir():
            shutil.copytree(root / name, copy / name, dirs_exist_ok=True)


def build_environment(copy: Path) -> dict[str, str]:
    """Return the environment of a make in `copy`: this interpreter, the copy's package, no settings of a bench."""
    left_out = ("MAKE", "MFLAGS", "PROFILE", "SET", "COLD", "CONDA_", "OMP_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    return kept | {"VIRTUAL_ENV": sys.prefix, "PYTHONPATH": str(copy / "lib")}


def check_package(copy: Path) -> None:
    """Raise BenchError unless the copy's own package is imported there."""
    command = [sys.executable, "-c", "import dontblink; print(dontblink.__file__)"]
    found = subprocess.run(command, cwd=copy, env=build_environment(copy), capture_output=True, text=True)
    if not Path(found.stdout.strip() or "/").is_relative_to(copy.resolve()):
        raise BenchError(
            f"{copy}: the copy imports {found.stdout.strip() or found.stderr.strip()}; unset what sets paths"
        )


def run_make(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in the copy, told that the environment is there, so that nothing is installed."""
    command = ["make", *arguments, f"PROFILE={PROFILE}", "READY="]
    return subprocess.run(command, cwd=copy, env=build_environment(copy), capture_output=True, text=True)


def time_make(copy: Path, change: str = "") -> tuple[float, list[str]]:
    """Return the seconds on the clock of `make all` with one override, and the notebooks that it ran."""
    start = time.perf_counter()
    done = run_make(copy, "all", f"SET={change}")
    seconds = time.perf_counter() - start
    if done.returncode:
        raise BenchError(f"make all {change}: failed; the end of what it said:\n{(done.stdout + done.stderr)[-2000:]}")
    return seconds, read_notebooks(done.stdout)


def read_notebooks(printed: str) -> list[str]:
    """Return the stems of the notebooks that make's output says it ran."""
    return [line.split(":")[0] for line in printed.splitlines() if ": done in " in line]


def time_tests() -> float:
    """Return the seconds on the clock of `make test` in this checkout, which it leaves as it is."""
    start = time.perf_counter()
    done = run_make(paths.ROOT, "test")
    if done.returncode:
        raise BenchError(f"make test: failed; the end of what it said:\n{done.stdout[-2000:]}")
    return time.perf_counter() - start


def measure(copy: Path, repeats: int) -> list[Result]:
    """Return the results of an up-to-date copy."""
    no_op, warm, ran = [], [], set()
    for repeat in range(repeats):
        seconds, notebooks = time_make(copy, CHANGES[repeat % 2])
        warm.append(seconds)
        ran |= set(notebooks)
        # with the same override, which an empty make again would undo
        seconds, notebooks = time_make(copy, CHANGES[repeat % 2])
        no_op.append(seconds)
        if notebooks:
            raise BenchError(f"make all: ran {', '.join(notebooks)} although nothing had changed")
    if len(ran) != 2:
        raise BenchError(f"make all {CHANGES[0]}: ran {sorted(ran)}, expected one notebook and the ledger")
    changed = "one parameter of one notebook changed"
    return [
        judge("`make all`, nothing changed, on the clock", no_op, unit="s", at_most=NO_OP_BAR_S),
        judge_pair(f"`make all`, {changed} / nothing changed", warm, no_op),
    ]


def main() -> int:
    """Measure, print and write."""
    assert __doc__
    parser = build_parser(__doc__, repeats=4)
    parser.add_argument(
        "--cold", action="store_true", help="build everything from nothing first, and run the tests: 12 minutes"
    )
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            results, cold_results = measure_copy(Path(folder).resolve(), arguments)
    except BenchError as error:
        print(f"bench/make.py: {error}", file=sys.stderr)
        return 1
    write_results(__file__, results, parser, arguments, threads="all")
    if cold_results:  # a file of its own: a later run without --cold leaves it
        write_results(__file__, cold_results, parser, arguments, threads="all", name="make_cold")
    return 0


def measure_copy(copy: Path, arguments: argparse.Namespace) -> tuple[list[Result], list[Result]]:
    """Fill `copy`, build it if asked to, and measure it."""
    copy_tree(paths.ROOT, copy, built=not arguments.cold)
    check_package(copy)
    cold = []
    if arguments.cold:
        seconds, _ = time_make(copy)
        cold = [
            judge("`make all`, nothing built, on the clock", seconds, unit="s", at_most=COLD_BAR_S),
            judge("`make test`, on the clock", time_tests(), unit="s", at_most=TEST_BAR_S),
        ]
    elif time_make(copy)[1]:
        raise BenchError("`make all` has work to do here; run it first, or pass --cold")
    return measure(copy, arguments.repeats), cold


if __name__ == "__main__":
    sys.exit(main())
