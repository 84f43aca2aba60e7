"""Was the recorded result reproduced here? What this machine made is held against what is committed, and kept if equal.

Why it exists: for a reproducible paper the answer is the product, on any processor. In: results/<profile>/figures,
which the notebooks of this machine wrote, and figures/<profile> as the last commit holds it (without one, as it lies
there). Out: one short paragraph and an exit status; figures/<profile>, with the committed bytes of every notebook whose
values agree and the new files of the others. Never: call a move small that the parameters do not, list more than ten
names, or take the files of a notebook that has not come to its end.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dontblink import lineage, params, paths
from dontblink.arithmetic import describe_processor
from dontblink.errors import NamedError, as_command
from dontblink.files import belongs, write_bytes
from dontblink.publish import changes, claims, verify
from dontblink.publish.changes import Change, Files, Rule

COUNTS = ("replicates", "permutations", "deals")  # ends of the parameters behind a p-value
NUMBERED = "[0-9][0-9]_*.*"


@dataclass(frozen=True)
class Verdict:
    """What a comparison came to.

    Attributes
    ----------
    reference : what the new files were held against, in words; '' if there was nothing
    counts : how many numbers, cells of tables and figures there are, by the kind of their file
    moved, minor : the values that differ beyond the tolerance, largest first, and within it
    ledger : how many verdicts are as recorded, and how many there are
    other_sources, other_sections : what differs from the sources and parameters behind the reference
    """

    profile: str
    reference: str
    counts: dict[str, int]
    moved: list[Change]
    minor: list[Change]
    ledger: tuple[int, int]
    other_sources: list[str]
    other_sections: list[str]

    @property
    def status(self) -> int:
        """The exit status: 1 if the same parameters gave something else."""
        asked = {*self.other_sections} - {"arithmetic"}  # other kernels are no other study
        return int(bool(self.moved) and not (asked and not self.other_sources))

    def describe(self) -> str:
        """Return the paragraph that ends `make all`."""
        what = f"{self.counts['json']} numbers, {self.counts['csv']} table cells and {self.counts['png']} figures"
        here = f"{self.ledger[0]} of {self.ledger[1]} verdicts as recorded; this processor: {describe_processor()}"
        if not self.reference:
            return f"recorded: {what}, nothing to hold them against yet; this processor: {describe_processor()}"
        if not self.moved and not self.minor:
            return f"reproduced: {what}, the same bytes as {self.reference}; {here}"
        if not self.moved:
            largest = max(self.minor, key=lambda change: change.size)
            move = f"largest move {100 * largest.size:.2g} % of its {largest.scale} ({largest.key})"
            return f"reproduced within tolerance: {move}, {len(self.minor)} of {what} differ; {here}; old files stay"
        moved = f"{len(self.moved)} of {what} moved beyond tolerance, in {', '.join(list_stems(self.moved))}"
        verdict = "NOT reproduced" if self.status else f"other parameters ({', '.join(self.other_sections)})"
        cause = [*self.other_sources, *(f"section {name}" for name in self.other_sections)]
        because = f"changed since {self.reference}: {shorten(cause)}" if cause else "no source and no parameter changed"
        return (
            f"{verdict}: {moved}; {because}; {here}. The new files of these notebooks are in place; `make diff` lists "
            "every move, `git checkout figures paper README.md` takes the old ones back"
        )


def shorten(names: list[str]) -> str:
    """Return some names, at most `verify.MOST`, and how many more there are."""
    most = verify.MOST
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def find_stem(name: str) -> str:
    """Return the notebook that a file belongs to, by its name; the name itself if there is none."""
    return next((stem for stem in lineage.list_notebooks() if belongs(Path(name), stem)), name)


def list_stems(found: list[Change]) -> list[str]:
    """Return the notebooks of some changes, in order."""
    return sorted({find_stem(f"{name}.json") for name in {change.key.partition(".")[0] for change in found}})


def rank(change: Change) -> tuple[int, float]:
    """Return the place of a change in a list: verdicts, then the largest moves, then what must be equal."""
    return (0 if change.key.endswith(".verdict") else 1 + (change.size == float("inf")), -change.size)


def read_folder(folder: Path) -> Files:
    """Return the figures, numbers and tables of a folder by name."""
    return {file.name: file.read_bytes() for file in lineage.list_sources(folder, NUMBERED)}


def read_commit(profile: str, revision: str) -> Files:
    """Return figures/<profile> of a commit by name; nothing where there is no git, no such commit or no such folder."""
    command = ["git", "-c", "core.autocrlf=false", "archive", revision, lineage.relative(paths.figures(profile))]
    try:
        packed = subprocess.run(command, cwd=paths.ROOT, capture_output=True, check=False).stdout
    except FileNotFoundError:
        return {}
    found = {}
    with tarfile.open(fileobj=io.BytesIO(packed or bytes(10240))) as archive:
        for member in archive:
            if (stream := archive.extractfile(member)) is not None:
                found[Path(member.name).name] = stream.read()
    return found


def compare(new: Files, old: Files, sections: lineage.Sections, *, same_code: bool = True) -> Iterator[Change]:
    """Yield every value in which two sets of files differ, judged by the parameters of `sections`.

    A picture may differ by its last pixels between processors; between two versions of the code any difference counts.
    """
    rule = Rule(**sections["reproduction"])
    rule = rule if same_code else replace(rule, pixels=None)
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            own = sections.get(find_stem(name).partition("_")[2], {})
            fewest = min((value for key, value in own.items() if key.endswith(COUNTS)), default=0)
            own_rule = replace(rule, n_replicates=fewest)
            yield from changes.compare_file(name, old.get(name), new.get(name), own_rule)


def judge(profile: str, revision: str = "HEAD") -> tuple[Verdict, Files, Files]:
    """Return the verdict on what this machine made, its files and those of the reference.

    NamedError if a notebook has not come to its end here.
    """
    if not paths.outputs(profile).is_dir():
        where = paths.show(paths.outputs(profile))
        raise NamedError(f"{where}: nothing was made here yet; {verify.command(profile)} makes and compares it")
    sections = {name: params.read_section(profile, name) for name in params.SECTIONS}
    lineage.recall(paths.results(profile) / ".sources.json")  # what make has parsed a second ago
    if old_stems := lineage.find_moved(profile, sections) or lineage.find_unfinished(profile):
        names = shorten(old_stems)
        raise NamedError(f"{names}: not made here by these sources; {verify.command(profile)} makes and compares them")
    new, committed, where = read_folder(paths.outputs(profile)), read_commit(profile, revision), "the last commit"
    old: Files = {name: content for name, content in committed.items() if Path(name).match(NUMBERED)}
    if not old:
        old, where = read_folder(paths.figures(profile)), "the files that lay here"
    counts = dict.fromkeys(("json", "csv", "png", "pdf"), 0)
    for name, content in new.items():
        counts[name.rpartition(".")[2]] += changes.count_values(name, content)
    sources: tuple[list[str], list[str]] = [], []
    if old not in ({}, new) and (verify.MANIFEST in committed or verify.manifest_file(profile).is_file()):
        stored = committed.get(verify.MANIFEST) or verify.manifest_file(profile).read_bytes()
        now = verify.describe_sources(profile, sections)
        sources = verify.find_other_sources(verify.read_manifest(stored, profile), now)
    found = list(compare(new, old, sections, same_code=not sources[0])) if old else []
    moved = sorted((change for change in found if not change.agrees), key=rank)
    verdicts = [read_verdicts(files.get(f"{claims.STEM}.json")) for files in (new, old)]
    same = sum(verdicts[1].get(name) == verdict for name, verdict in verdicts[0].items())
    minor = [change for change in found if change.agrees]
    ledger = same, len(verdicts[0])
    return Verdict(profile, where if old else "", counts, moved, minor, ledger, *sources), new, old


def read_verdicts(ledger: bytes | None) -> dict[str, str]:
    """Return the verdict on every claim of a recorded ledger."""
    return {name: claim["verdict"] for name, claim in json.loads(ledger or b'{"claims": {}}')["claims"].items()}


def take(verdict: Verdict, new: Files, old: Files) -> list[Path]:
    """Put what was decided into figures/<profile>; return the files that were written or removed.

    A notebook whose values agree keeps the reference's bytes, so that the checkout stays clean on every processor.
    """
    lost = list_stems(verdict.moved)
    stays = {name: content for name, content in old.items() if find_stem(name) not in lost}
    kept = stays | {name: content for name, content in new.items() if not old or find_stem(name) in lost}
    folder, touched = paths.figures(verdict.profile), []
    for name, content in kept.items():
        touched += [folder / name] if write_bytes(folder / name, content) else []
    for file in lineage.list_sources(folder, NUMBERED):
        if file.name not in kept:
            file.unlink()
            touched.append(file)
    return touched


@as_command
def main(arguments: list[str] | None = None) -> int:
    """Say whether the result was reproduced: `python -m dontblink.publish.verdict [--take | --list]`."""
    parser = argparse.ArgumentParser(prog="python -m dontblink.publish.verdict", description=main.__doc__)
    parser.add_argument("--profile", default="testbed")
    parser.add_argument("--against", default="HEAD", help="a git revision")
    parser.add_argument("--take", action="store_true", help="keep or replace figures/<profile>, and say what")
    parser.add_argument("--list", action="store_true", help="list every move, largest first")
    parser.add_argument("--where-made", action="store_true", help="only if this machine has made them")
    help_above = "list only moves of more than so many percent of their scale, and of what must be equal"
    parser.add_argument("--above", type=float, default=0.0, metavar="PERCENT", help=help_above)
    given = parser.parse_args(arguments)
    try:
        verdict, new, old = judge(given.profile, given.against)
    except NamedError as error:
        if not given.where_made:
            raise
        print(error)
        return 0
    if given.take:
        touched = [paths.show(file) for file in take(verdict, new, old)]
        print(f"figures/{given.profile}: {f'written or removed: {shorten(touched)}' if touched else 'kept'}")
        return 0
    every = sorted([*verdict.moved, *verdict.minor], key=rank)
    listed = [change for change in every if not 100 * change.size <= given.above]
    for change in listed if given.list else verdict.moved[: verify.MOST]:
        print(change.describe())
    print(verdict.describe())
    return 0 if given.list else verdict.status


if __name__ == "__main__":
    sys.exit(main())
