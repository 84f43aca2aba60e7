"""`python -m dontblink_simulation`: are the notebooks' intervals and tests right where the truth is known?

Why: an interval that misses too often looks like any other. In: `register`, the statistics and their settings. Out: a
row per study and method in results/simulation/<statistic>.parquet, and from all of them figures/simulation. A study's
seed is (statistic, setting, number): neither the number of processes nor the order matters. Blocks of studies are files
named by the hash of what decides them, so that a run resumes and only what changed is simulated again. Never: fewer
than 1000 studies, or a part of the register, in the tracked figure.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from dontblink import arithmetic, lineage, paths, store
from dontblink.errors import NamedError, as_command
from dontblink.files import write_bytes
from dontblink_simulation.coverage import draw_coverage, list_numbers, summarise
from dontblink_simulation.needed import draw_power, list_power, summarise_power
from dontblink_simulation.power import list_statistics
from dontblink_simulation.register import STATISTICS
from dontblink_simulation.trials import Statistic, run_study

PROFILE, STEM, POWER_STEM = "simulation", "00_simulation", "00_power"
FITTED = ("interaction", "transfer", "veto")  # statistics that fit something, on a figure of their own
MIN_STUDIES = 1000  # of the tracked figure: 150 have misled by 7 points
# The coverage of a bootstrap interval does not hang on their number where (B + 1) 0.025 is whole (Hall 1986, Annals of
# Statistics 14: 1453-1462); the notebooks take more, because one study should not hang on its seed.
REPLICATES = 399
_BLOCK = 25  # studies a file: what an interruption can lose
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("setting", "quantity", "method", "reason")]
    + [(name, pa.float64()) for name in ("estimate", "ci_low", "ci_high", "p", "truth")]
    + [(name, pa.int64()) for name in ("study", "n_degenerate", "n_separated")]
)


def find_statistics() -> dict[str, Statistic]:
    """Return the register and the claims of `power`, by name."""
    return STATISTICS | list_statistics()


@dataclass(frozen=True)
class Block:
    """Studies start <= number < stop of one setting, and the file that holds their rows."""

    statistic: str
    setting: str
    start: int
    stop: int
    n_replicates: int
    file: Path


def plan_blocks(
    n_studies: int, n_replicates: int, statistics: Sequence[str] = (), settings: Sequence[str] = ()
) -> list[Block]:
    """Return the blocks of the chosen statistics and settings (all, if none is named), in the register's order."""
    known_statistics = find_statistics()
    for kind, asked, known in (
        ("statistic", statistics, set(known_statistics)),
        ("setting", settings, {name for statistic in known_statistics.values() for name in statistic.settings}),
    ):
        if unknown := sorted(set(asked) - known):
            raise NamedError(f"{kind} {', '.join(unknown)}: not known; choose of {', '.join(sorted(known))}")
    if n_studies < 1 or n_replicates < 1:
        raise NamedError(f"{n_studies} studies of {n_replicates} replicates; expected at least one of each")
    blocks = []
    for name, statistic in known_statistics.items():
        code = hash_code(statistic.study.__module__)
        for setting, population in statistic.settings.items():
            if (statistics and name not in statistics) or (settings and setting not in settings):
                continue
            fields = {"kind": type(population).__name__, **asdict(population)}
            wanted = min(n_studies, statistic.n_studies or n_studies)
            for start in range(0, wanted, _BLOCK):
                stop = min(start + _BLOCK, wanted)
                key = store.shard_key(code, name, setting, fields, start, stop, n_replicates)
                file = paths.results(PROFILE) / "blocks" / name / f"{setting}-{start:05d}-{key}.parquet"
                blocks.append(Block(name, setting, start, stop, n_replicates, file))
    if not blocks:
        raise NamedError("no setting of these statistics has that name; see --help for what there is")
    return blocks


def hash_code(*modules: str) -> str:
    """Return a key of the code behind modules and of the versions and kernels of what computes with it."""
    packages = ("numpy", "scipy", "pandas", "scikit-learn", "statsmodels", "pingouin")
    kernels = [os.environ.get(name, "") for name in arithmetic.AVX2]
    return store.shard_key(lineage.hash_code(*modules), [metadata.version(package) for package in packages], kernels)


def seed_study(statistic: str, setting: str, study: int) -> list[int]:
    """Return the seed of one study: it depends on nothing but these names and the number."""
    name = hashlib.sha256(f"{statistic}/{setting}".encode()).digest()
    return [int.from_bytes(name[:8], "big"), study]


def run_block(block: Block) -> pa.Table:
    """Return the rows of a block of studies."""
    rows = []
    for study in range(block.start, block.stop):
        seed = seed_study(block.statistic, block.setting, study)
        found = run_study(find_statistics()[block.statistic], block.setting, seed, block.n_replicates)
        rows += [{"setting": block.setting, "study": study, **asdict(row)} for row in found]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def run_missing(blocks: Sequence[Block], n_processes: int = 2) -> None:
    """Simulate the blocks whose file is not there, those of many rows first, with a bar of the time that is left."""
    missing = [block for block in blocks if not block.file.exists()]
    print(f"{len(blocks) - len(missing)} of {len(blocks)} blocks of {_BLOCK} studies are there", flush=True)
    if not missing:
        return
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the processes are the parallel part
    started, context = time.monotonic(), multiprocessing.get_context("spawn")
    # pandas collects garbage after some operations; without the frozen modules that is half of a short study
    with ProcessPoolExecutor(n_processes, context, initializer=gc.freeze) as pool:
        futures = {pool.submit(run_block, block): block for block in sorted(missing, key=_count_rows, reverse=True)}
        try:
            for future in tqdm(as_completed(futures), "simulated", len(futures), unit="block", disable=None):
                block = futures[future]
                store.write_table(block.file, future.result(), {"statistic": block.statistic, "setting": block.setting})
        except BaseException:
            pool.shutdown(cancel_futures=True)  # what is finished stays; the next run goes on from there
            raise
    used = os.times()
    seconds = used.children_user + used.children_system
    print(f"simulated in {(time.monotonic() - started) / 60:.1f} minutes, {seconds:.0f} CPU seconds", flush=True)


def _count_rows(block: Block) -> int:
    population = find_statistics()[block.statistic].settings[block.setting]
    return int(population.n_items * population.n_models * (block.stop - block.start))


def read_rows(blocks: Sequence[Block]) -> dict[str, pd.DataFrame]:
    """Return the rows of all blocks by statistic, and write each table to results/simulation."""
    tables = {}
    for name in dict.fromkeys(block.statistic for block in blocks):
        table = pa.concat_tables([store.read_table(block.file) for block in blocks if block.statistic == name])
        store.write_table(paths.results(PROFILE) / f"{name}.parquet", table, {"statistic": name})
        tables[name] = table.to_pandas()
    return tables


def publish(
    summary: pd.DataFrame, n_studies: int, n_replicates: int, power: pd.DataFrame | None = None
) -> list[Path]:
    """Write the tracked figures (a printed page each) and numbers."""
    from dontblink.publish import record  # sets the look of figures, which a worker process does not need

    numbers = list_numbers(summary, n_studies, n_replicates)
    if power is not None:
        numbers["power"] = list_power(power)
    files = [record.save_numbers(STEM, numbers, PROFILE)]
    fits = summary["statistic"].isin(FITTED)
    for stem, rows in ((STEM, summary[~fits]), (f"{STEM}_fits", summary[fits])):
        files += record.save_figure(draw_coverage(rows, n_studies), stem, PROFILE)
    if power is not None:
        files += record.save_figure(draw_power(power), POWER_STEM, PROFILE)
    for file in files:
        write_bytes(paths.figures(PROFILE) / file.name, file.read_bytes())
    return [paths.figures(PROFILE) / file.name for file in files]


@as_command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    text = __doc__.split("\n\n")[0]
    parser = argparse.ArgumentParser(prog="python -m dontblink_simulation", description=text)
    parser.add_argument("--studies", type=int, default=MIN_STUDIES, help="studies a setting (default %(default)s)")
    parser.add_argument("--replicates", type=int, default=REPLICATES, help="bootstrap replicates (default %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="worker processes; changes no number")
    names = ", ".join(find_statistics())
    parser.add_argument("--statistics", nargs="+", default=[], metavar="NAME", help=f"of {names}")
    parser.add_argument("--settings", nargs="+", default=[], metavar="NAME", help="such as iid, clustered, tied, small")
    parser.epilog = (
        f"Finished blocks under results/{PROFILE}/blocks are kept and used again: interrupt and run again at will; "
        "more studies go on from those that are there. With --statistics, --settings or fewer than "
        f"{MIN_STUDIES} studies the table is printed and the tracked figure stays as it is."
    )
    options = parser.parse_args(arguments)
    blocks = plan_blocks(options.studies, options.replicates, options.statistics, options.settings)
    if options.processes < 1:
        raise NamedError(f"{options.processes} processes; expected at least one")
    run_missing(blocks, options.processes)
    tables = read_rows(blocks)
    claims = {name: tables.pop(name) for name in list_statistics() if name in tables}
    summary = summarise(tables)
    shown = ["statistic", "setting", "quantity", "method", "n_studies", "n_refused", "coverage", "rejection"]
    print(summary[shown].round(3).to_string(index=False))
    whole = not options.statistics and not options.settings
    power = summarise_power(claims) if whole else None
    if power is not None:
        print(power.round(3).to_string(index=False))
    if options.studies >= MIN_STUDIES and whole:
        for file in publish(summary, options.studies, options.replicates, power):
            print(paths.show(file))
    return 0


if __name__ == "__main__":
    sys.exit(main())
