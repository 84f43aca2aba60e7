"""Where things lie: the project's root, and one function for each kind of file.

Why it exists: a notebook, a test and a command must find the same folder from any working directory, and no other
module may build such a path by hand. In: a profile's name. Out: paths below ROOT; nothing is created here. Never: a
file's format or content, or an environment variable that leads to a folder (two runs in one checkout must not disagree
on where results are).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from dontblink.errors import NamedError

MARKER = "pyproject.toml"


def find_root(package: Path, start: Path) -> Path:
    """Return the project's root: above `package` (`lib/dontblink` in a checkout), or the nearest parent of `start`.

    `start` counts if the package was installed as a copy. NamedError if neither leads to a folder whose pyproject.toml
    names dontblink.
    """
    for folder in (package.parent.parent, start, *start.parents):
        marker = folder / MARKER
        if marker.is_file() and re.search(r'^name = "dontblink"$', marker.read_text(), flags=re.M):
            return folder
    raise NamedError(f"{start}: not inside a dontblink checkout; change into one, or run `make env` in it")


ROOT: Path  # found when it is first asked for: a user's own model is watched without a checkout


def __getattr__(name: str) -> Path:
    """Find the root once; NamedError outside a checkout."""
    if name != "ROOT":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["ROOT"] = found = find_root(Path(__file__).resolve().parent, Path.cwd().resolve())
    return found


def root() -> Path:
    """Return `ROOT`, for functions of this module."""
    return globals().get("ROOT") or __getattr__("ROOT")


def check_profile(profile: str) -> str:
    """Return the profile's name; raise NamedError unless it can be a folder's and a file's name."""
    if not re.fullmatch(r"[a-z0-9_]+", profile):
        raise NamedError(f"profile {profile!r}; expected small letters, digits and _; correct it")
    return profile


def params_file(profile: str) -> Path:
    """Return the YAML file that a reviewer edits."""
    return root() / "params" / f"{check_profile(profile)}.yaml"


def results(profile: str) -> Path:
    """Return the folder of everything that is generated and ignored by git."""
    return root() / "results" / check_profile(profile)


def section_file(profile: str, section: str) -> Path:
    """Return one section's parameters as the notebooks get them (JSON)."""
    return results(profile) / "params" / f"{section}.json"


def _within(name: str) -> Callable[[str], Path]:
    """Return the function of a profile that gives what lies under this name in its results."""
    return lambda profile: results(profile) / name


responses = _within("responses")  # shards, <model>/<benchmark>-<split>-<index>-<key>.parquet
heads = _within("heads")  # what every head looks at on the calibration split, named like the response shards
traces = _within("traces")  # named like the response shards
samples = _within("samples")  # shards of sampled responses, named like the response shards
effects = _within("effects")  # what became of responses under conditions, named like the response shards
readings = _within("readings")  # what responses were read from, named like the response shards
questions = _within("questions")  # the lists of chosen items, <benchmark>.csv
checkpoint_hashes = _within("checkpoint_hashes.json")  # the cache of the hashes of checkpoint files
tables = _within("tables")  # tidy tables
notebooks = _within("notebooks")  # executed ones
pages = _within("pages")  # the static site
extraction_manifest = _within("extraction.json")  # what `dontblink.extraction.run` writes last
withdrawn_manifest = _within(".extraction.json.withdrawn")  # where it waits while its files change: nothing is finished
shard_list = _within("shards.txt")  # every shard and part of a table, one path (relative to ROOT) a line
outputs = _within("figures")  # the figures and numbers that a run here has made; see `publish.verdict`


def part(profile: str, table: str, name: str) -> Path:
    """Return a shard's part of a table; `name` is <model>/ and a name like those of the response shards."""
    return tables(profile) / table / f"{name}.parquet"


def lock(profile: str, stem: str = "") -> Path:
    """Return the lock file of a profile's results, or of one notebook of it."""
    return notebooks(profile) / f".{stem}.lock" if stem else results(profile) / ".lock"


def unfinished(profile: str, stem: str) -> Path:
    """Return the mark of a notebook that has begun and has not come to its end."""
    return notebooks(profile) / f"{stem}.unfinished"


def paper(profile: str) -> Path:
    """Return the paper of a profile; the testbed's is tracked."""
    return (root() if profile == "testbed" else results(profile)) / "paper" / "paper.pdf"


def stage(profile: str, name: str) -> Path:
    """Return the fingerprint of what a stage reads, which make compares; see `lineage`."""
    return results(profile) / "stages" / name


def stamp(profile: str, name: str) -> Path:
    """Return the mark of a stage that has come to its end, which is as old as its last run."""
    return results(profile) / "done" / name


def figures(profile: str) -> Path:
    """Return the folder of tracked figures and numbers."""
    return root() / "figures" / check_profile(profile)


def causal(profile: str) -> Path:
    """Return the folder of the tables that `make causal` writes, tracked for the testbed."""
    return figures("causal" if profile == "testbed" else f"{profile}_causal")


def show(path: Path) -> str:
    """Return the path as messages print it: relative to ROOT where there is one and it lies inside."""
    try:
        return str(path.relative_to(root())) if path.is_relative_to(root()) else str(path)
    except NamedError:
        return str(path)
