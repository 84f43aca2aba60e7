"""What the scripts of bench/ share: calls timed in turn, peaks of fresh processes, results held against bars.

Why it exists: a claim about cost is a ratio within one run, so that it can be checked on any machine, with the spread
of its repeats. In: calls, or numbers by repeat. Out: `Result`s, printed as they come and written as
results/bench/<script>.json, which `report.py` turns into the README's table. Times are CPU seconds, which other work on
the machine disturbs less than seconds on the clock. Never: a lone number without its repeats, a bar set after the run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dontblink import lineage, params, paths
from dontblink.files import whole_file

FOLDER = paths.ROOT / "results" / "bench"
TINY = paths.ROOT / "tests" / "tiny_models.py"
PACKAGES = ("torch", "transformers", "numpy", "scipy", "statsmodels")
PRELOADED = [
    "dontblink.attention.replay",
    *(f"transformers.models.{name}.modeling_{name}" for name in ("qwen3_vl", "glm4v")),
]


@dataclass(frozen=True)
class Result:
    """One claim, measured `repeats` times: the median, the lowest and the highest value, in `unit`.

    `bar` is '<= 1.05', '>= 10' or '' where a number is for information; `holds` says whether the median meets it.
    """

    claim: str
    unit: str
    value: float
    low: float
    high: float
    bar: str
    bar_value: float | None
    holds: bool | None
    repeats: int
    detail: str = ""


def judge(
    claim: str,
    values: ArrayLike,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    unit: str = "ratio",
    detail: str = "",
) -> Result:
    """Print and return the median of `values` (one a repeat) beside its bar, if it has one.

    Raises
    ------
    ValueError
        If there is no value, one is not finite, or there are two bars.
    """
    numbers = np.atleast_1d(np.asarray(values, dtype=float))
    if not numbers.size or not np.isfinite(numbers).all() or (at_most is not None and at_least is not None):
        raise ValueError(f"{claim}: {numbers}, {at_most=}, {at_least=}; expected finite values and at most one bar")
    value, low, high = (float(f(numbers)) for f in (np.median, np.min, np.max))
    bar = at_least if at_most is None else at_most
    text = "" if bar is None else f"{'>=' if at_most is None else '<='} {bar:g}"
    holds = None if bar is None else value >= bar if at_most is None else value <= bar
    verdict = {True: "ok  ", False: "MISS", None: "    "}[holds]
    shown = (
        f"{value:.4g} [{low:.4g}, {high:.4g}] {unit}" + f"  bar {text}" * bool(text) + f"  ({detail})" * bool(detail)
    )
    print(f"{verdict} {claim}: {shown}", flush=True)
    return Result(claim, unit, value, low, high, text, bar, holds, numbers.size, detail)


def judge_pair(
    claim: str, above: Sequence[float], below: Sequence[float], *, scale: float = 1.0, unit: str = "s",
    at_most: float | None = None, at_least: float | None = None,
) -> Result:  # fmt: skip
    """Judge the ratio above / below, repeat by repeat; `scale` multiplies `above`, `unit` is that of the two."""
    numerator, denominator = scale * np.asarray(above), np.asarray(below)
    detail = f"{np.median(numerator):.3g} / {np.median(denominator):.3g} {unit}"
    return judge(claim, numerator / denominator, at_most=at_most, at_least=at_least, detail=detail)


def time_in_turn(
    calls: Mapping[str, Callable[[], object]], repeats: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Run the calls in turn, `repeats` times, after a first round that does not count; return CPU seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(-int(warm_up), repeats):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if repeat >= 0:
                seconds[name].append(time.process_time() - start)
    return seconds


def fit_exponent(sizes: ArrayLike, values: ArrayLike) -> float:
    """Return k of values = c x sizes^k, by least squares on both logarithms: 1 is linear growth, 2 quadratic."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def read_status(field: str) -> float:
    """Return a memory field of this process in MiB, from the Linux kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def measure_growth(call: Callable[[], object]) -> float:
    """Return by how many MiB the resident memory of this process peaks over its start while `call` runs (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of importing and loading
    before = read_status("VmRSS")
    call()
    return read_status("VmHWM") - before


def run_alone(target: Callable[..., Any], *arguments: Any) -> Any:
    """Return target(*arguments) of a fresh process; raise what it raises, or BrokenProcessPool if it was killed.

    The process is forked from a server that has imported the package and nothing more, which saves seconds a process.
    """
    # glibc then gives every block above 64 KiB back at once: a peak is what was alive, not what the allocator kept
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**16)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(target, *arguments).result()


def can_measure_memory() -> bool:
    """Return whether the kernel tells peaks, and say so if not."""
    if known := Path("/proc/self/clear_refs").exists():
        return known
    print("peak memory: measured on Linux only", flush=True)
    return False


def load_tiny_models() -> ModuleType:
    """Return the random-model builders that the tests use."""
    spec = importlib.util.spec_from_file_location("tiny_models", TINY)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_models"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


def build_parser(text: str, **defaults: int) -> argparse.ArgumentParser:
    """Return a script's parser: its docstring as help, an option for each number, and `--look`."""
    options = {"description": text, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(**options)  # type: ignore[arg-type]
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--look", action="store_true", help="print only: leave results/bench, hence the README, alone")
    return parser


def read_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse and print the command line; stop if the libraries' threads are left to chance."""
    arguments = parser.parse_args()
    if not os.environ.get("OMP_NUM_THREADS", "").isdigit():
        parser.exit(
            2, f"{parser.prog}: OMP_NUM_THREADS is not set; run `make bench`, or put OMP_NUM_THREADS=1 before\n"
        )
    print(f"{parser.prog}:", " ".join(f"{name}={value}" for name, value in vars(arguments).items()), flush=True)
    return arguments


def describe_machine(threads: str) -> dict[str, Any]:
    """Return the machine in general words: nothing that names it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores,
        "threads": threads,
        "versions": {"Python": platform.python_version()} | {name: version(name) for name in PACKAGES},
    }


def hash_code(script: str) -> str:
    """Return a key of the code whose cost a script of bench/ measures: the script and all of ours behind it."""
    if script != "make":
        return lineage.hash_code(f"bench/{script}.py")
    _, sections = params.load(paths.params_file("testbed"))  # make runs everything
    return lineage.hash_entries(lineage.describe_stages("testbed", sections) | {"": lineage.hash_code("bench/make.py")})


def write_results(
    script: str,
    results: Iterable[Result],
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    threads: str = "",
    name: str = "",
) -> None:
    """Write a script's results as results/bench/<name>.json, whole, in place of those of its last run.

    With them go the hash of the code, all settings, and as `changed` those that are not the parser's default; flags
    (`--look`, `--cold`) are none of them, for they choose what is measured and not how.

    Parameters
    ----------
    script : path of the script; its stem is the default name
    parser : the one that read `arguments`
    threads : CPU threads of the measured work; by default OMP_NUM_THREADS
    """
    if arguments.look:
        return
    file = FOLDER / f"{name or Path(script).stem}.json"
    settings = {key: value for key, value in vars(arguments).items() if not isinstance(value, bool)}
    content = {
        "code": hash_code(Path(script).stem),
        "settings": settings,
        "changed": {key: value for key, value in settings.items() if value != parser.get_default(key)},
        "machine": describe_machine(threads or os.environ.get("OMP_NUM_THREADS", "all")),
        "results": [asdict(result) for result in results],
    }
    with whole_file(file) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {paths.show(file)}", flush=True)
