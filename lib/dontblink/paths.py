"""Where things lie: the project's root, and one function for each kind of file.

Why it exists: a notebook, a test and a command must find the same folder from any working directory, and no other
module may build such a path by hand. In: a profile's name. Out: paths below ROOT; nothing is created here. Never: a
file's format or content, or an environment variable that leads to a folder (two runs in one checkout must not disagree
on where results are).
"""

from __future__ import annotations

import re
from pathlib import Path

from dontblink.errors import NamedError

MARKER = "pyproject.toml"


def find_root(package: Path, start: Path) -> Path:
    """Return the project's root: above the editable package, or the nearest parent of `start` that is it.

    Parameters
    ----------
    package
        The package's own folder (`lib/dontblink` in a checkout).
    start
        Where to walk up from if the package was installed as a copy.

    Raises
    ------
    NamedError
        If neither leads to a folder whose pyproject.toml names dontblink.
    """
    for folder in (package.parent.parent, start, *start.parents):
        marker = folder / MARKER
        if marker.is_file() and re.search(r'^name = "dontblink"$', marker.read_text(), flags=re.M):
            return folder
    raise NamedError(f"{start}: not inside a dontblink checkout; change into one, or run `make env` in it")


ROOT = find_root(Path(__file__).resolve().parent, Path.cwd().resolve())


def check_profile(profile: str) -> str:
    """Return the profile's name; raise NamedError unless it can be a folder's and a file's name."""
    if not re.fullmatch(r"[a-z0-9_]+", profile):
        raise NamedError(f"profile {profile!r}; expected small letters, digits and _; correct it")
    return profile


def params_file(profile: str) -> Path:
    """Return the YAML file that a reviewer edits."""
    return ROOT / "params" / f"{check_profile(profile)}.yaml"


def results(profile: str) -> Path:
    """Return the folder of everything that is generated and ignored by git."""
    return ROOT / "results" / check_profile(profile)


def section_file(profile: str, section: str) -> Path:
    """Return one section's parameters as the notebooks get them (JSON)."""
    return results(profile) / "params" / f"{section}.json"


def responses(profile: str) -> Path:
    """Return the folder of response shards, <model>/<benchmark>-<split>-<index>-<key>.parquet."""
    return results(profile) / "responses"


def heads(profile: str) -> Path:
    """Return the folder of what every head looks at on the calibration split, named like the response shards."""
    return results(profile) / "heads"


def traces(profile: str) -> Path:
    """Return the folder of trace shards, named like the response shards."""
    return results(profile) / "traces"


def samples(profile: str) -> Path:
    """Return the folder of shards of sampled responses, named like the response shards."""
    return results(profile) / "samples"


def questions(profile: str) -> Path:
    """Return the folder of the lists of chosen items, <benchmark>.csv."""
    return results(profile) / "questions"


def checkpoint_hashes(profile: str) -> Path:
    """Return the cache of the hashes of checkpoint files."""
    return results(profile) / "checkpoint_hashes.json"


def tables(profile: str) -> Path:
    """Return the folder of tidy tables."""
    return results(profile) / "tables"


def part(profile: str, table: str, name: str) -> Path:
    """Return a shard's part of a table; `name` is <model>/ and a name like those of the response shards."""
    return tables(profile) / table / f"{name}.parquet"


def notebooks(profile: str) -> Path:
    """Return the folder of executed notebooks."""
    return results(profile) / "notebooks"


def pages(profile: str) -> Path:
    """Return the folder of the static site."""
    return results(profile) / "pages"


def extraction_manifest(profile: str) -> Path:
    """Return the file that `dontblink.extraction.run` writes last."""
    return results(profile) / "extraction.json"


def withdrawn_manifest(profile: str) -> Path:
    """Return where the manifest waits while its files change: make sees that nothing is finished."""
    return results(profile) / ".extraction.json.withdrawn"


def shard_list(profile: str) -> Path:
    """Return the file that lists every shard and part of a table, one path (relative to ROOT) a line."""
    return results(profile) / "shards.txt"


def lock(profile: str, stem: str = "") -> Path:
    """Return the lock file of a profile's results, or of one notebook of it."""
    return notebooks(profile) / f".{stem}.lock" if stem else results(profile) / ".lock"


def unfinished(profile: str, stem: str) -> Path:
    """Return the mark of a notebook that has begun and has not come to its end."""
    return notebooks(profile) / f"{stem}.unfinished"


def paper(profile: str) -> Path:
    """Return the paper of a profile; the testbed's is tracked."""
    return (ROOT if profile == "testbed" else results(profile)) / "paper" / "paper.pdf"


def stage(profile: str, name: str) -> Path:
    """Return the fingerprint of what a stage reads, which make compares; see `lineage`."""
    return results(profile) / "stages" / name


def stamp(profile: str, name: str) -> Path:
    """Return the mark of a stage that has come to its end, which is as old as its last run."""
    return results(profile) / "done" / name


def outputs(profile: str) -> Path:
    """Return the folder of the figures and numbers that a run here has made; see `publish.verdict`."""
    return results(profile) / "figures"


def figures(profile: str) -> Path:
    """Return the folder of tracked figures and numbers."""
    return ROOT / "figures" / check_profile(profile)


def show(path: Path) -> str:
    """Return the path as messages print it: relative to ROOT where it lies inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
