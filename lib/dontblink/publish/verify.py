"""Do the tracked figures belong to these sources, parameters and models? Hashes say so within seconds (`make verify`).

Why it exists: a figure in git is worth what its sources are worth, and nobody runs everything again to find out whether
they still match. In: the checkout. Out: figures/<profile>/manifest.json, written at the end of `make all`, or one line
for every file that differs from it, with the figures that depend on the file and the remedy. Never: run a stage, import
a model library, follow a modification time, or write a time or a folder of this machine.

What counts is what `lineage` says: of a module its code, of a notebook every byte, of params/<profile>.yaml the values.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dontblink import lineage, params, paths
from dontblink.errors import NamedError, as_command
from dontblink.files import hash_file, write_text
from dontblink.lineage import EXTRACTION, PAGES, PAPER, Sections, Stage, relative

ABOUT = (
    "Written by `make all`, checked by `make verify`: SHA-256 of what every figure is made from, and of the figures."
)
MANIFEST = "manifest.json"
MOST = 10  # names in a message
RESULTS = "results/"  # not part of the repository: compared where they are there
SECTION = "section:"  # before the name of a section, where files and sections stand side by side


@dataclass(frozen=True)
class Manifest:
    """SHA-256 (64 hex digits) of every file and of every section's values, and the stages that they belong to."""

    profile: str
    files: dict[str, str]
    parameters: dict[str, str]
    stages: dict[str, Stage]

    def upstream(self, name: str) -> set[str]:
        """Return all files and sections that a stage depends on, directly or not."""
        stage = self.stages[name]
        found = {*stage.files, *(SECTION + section for section in stage.parameters)}
        for earlier in stage.after:
            found |= self.upstream(earlier) | set(self.stages[earlier].made)
        return found

    def dependents(self, entry: str) -> str:
        """Return the figures (stems of notebooks) and the paper that a file or section is behind, in words."""
        stems = [name for name in self.stages if name != EXTRACTION]
        found = [name for name in stems if entry in self.upstream(name)]
        return "every figure and the paper" if found == stems and PAPER in stems else ", ".join(found)

    def maker(self, entry: str) -> str | None:
        """Return the stage that makes a file, None for a source."""
        return next((name for name, stage in self.stages.items() if entry in stage.made), None)

    def entries(self) -> dict[str, str]:
        """Return all hashes, those of sections too."""
        return self.files | {SECTION + name: value for name, value in self.parameters.items()}


def manifest_file(profile: str) -> Path:
    """Return the tracked file that holds the hashes of a profile."""
    return paths.figures(profile) / MANIFEST


def command(profile: str) -> str:
    """Return the command that makes a profile's figures, for messages."""
    return "`make all`" if profile == "testbed" else f"`make all PROFILE={profile}`"


def describe_sources(profile: str, sections: Sections) -> Manifest:
    """Return the manifest of the checkout as it is now, without what its stages make."""
    stages = {name: stage for name, stage in lineage.list_stages(profile, sections).items() if name != PAGES}
    return Manifest(profile, *lineage.hash_stages(stages, sections), stages)


def describe(profile: str, sections: Sections) -> Manifest:
    """Return the manifest of the checkout as it is now; raise NamedError if a figure or the paper is not there."""
    sources = describe_sources(profile, sections)
    folder = paths.figures(profile)
    tracked = [folder / f"{stem}.{suffix}" for stem in lineage.list_notebooks() for suffix in ("json", "pdf", "png")]
    tracked += [paths.paper(profile)] if profile == "testbed" and PAPER in sources.stages else []
    if lacking := [file for file in tracked if not file.is_file()]:
        raise NamedError(f"{relative(lacking[0])}: not there; restore it, or run {command(profile)}")
    made = {file: hash_file(paths.ROOT / file) for stage in sources.stages.values() for file in stage.made}
    return replace(sources, files=sources.files | made)


def read_manifest(content: bytes | None, profile: str) -> Manifest:
    """Return a stored manifest; raise NamedError if it is not there or not one of ours."""
    file, how = manifest_file(profile), command(profile)
    if content is None:
        first = "" if profile == "testbed" else f"`make extract PROFILE={profile}`, then "
        raise NamedError(f"{relative(file)}: not there; run {first}{how}: without it no figure can be checked")
    try:
        held = json.loads(content)
        stages = {name: Stage(**parts) for name, parts in held["stages"].items()}
        return Manifest(held["profile"], held["files"], held["parameters"], stages)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NamedError(f"{relative(file)}: not a manifest ({error}); remove it and run {how}") from error


def read_tracked(profile: str) -> Manifest:
    """Return the manifest that lies in figures/<profile>; raises like `read_manifest`."""
    file = manifest_file(profile)
    return read_manifest(file.read_bytes() if file.is_file() else None, profile)


def find_changes(stored: Manifest, now: Manifest) -> list[str]:
    """Return the files and sections that differ; results that a clone does not have are not compared."""
    old, new = stored.entries(), now.entries()
    changed = [entry for entry in {*old, *new} if old.get(entry) != new.get(entry)]
    return sorted(entry for entry in changed if entry in new or not entry.startswith(RESULTS))


def compare(stored: Manifest, now: Manifest) -> list[str]:
    """Return one line for every file and section that differs: its name, the figures behind it, the remedy."""
    lines, old, new = [], stored.entries(), now.entries()
    run = command(now.profile)
    for entry in find_changes(stored, now):
        holder = stored if entry in old else now
        what = "gone" if entry not in new else "new" if entry not in old else "changed"
        figures, maker = holder.dependents(entry), holder.maker(entry)
        if entry.startswith(SECTION):
            entry, what = f"params/{now.profile}.yaml: section {entry.removeprefix(SECTION)}", "other values"
        if maker:
            first = "paper/paper.pdf" if maker == PAPER else f"figures/{now.profile}/{maker}.json"
            rest = f"; depend on it: {figures}" if figures else ""
            remedy = f"restore it, or remove {first} and run {run}"
            lines.append(f"{entry}: {what}, not the file that {maker} made{rest}; {remedy}")
        else:
            lines.append(f"{entry}: {what}; depend on it: {figures}; run {run}")
    if not lines and stored.stages != now.stages:
        lines = [f"{relative(manifest_file(now.profile))}: not the stages that the sources say; run {run}"]
    return lines


def find_other_sources(stored: Manifest, now: Manifest) -> tuple[list[str], list[str]]:
    """Return the source files and the sections of parameters in which two manifests differ."""
    changed = [e for e in find_changes(stored, now) if not stored.maker(e) and not now.maker(e)]
    sections = [entry.removeprefix(SECTION) for entry in changed if entry.startswith(SECTION)]
    return [entry for entry in changed if not entry.startswith((SECTION, RESULTS))], sections


def write(profile: str) -> str:
    """Write the manifest if it changed; return what was done.

    It stays where the tracked figures do and only results or overridden parameters differ: it belongs to the figures.
    """
    sections = {section: params.read_section(profile, section) for section in params.SECTIONS}
    lineage.recall(paths.results(profile) / ".sources.json")  # what make has parsed a second ago
    if moved := lineage.find_moved(profile, sections):
        raise NamedError(f"{', '.join(moved)}: a source changed while make ran; run {command(profile)} again")
    now, file = describe(profile, sections), manifest_file(profile)
    if file.is_file():
        own = params.load(paths.params_file(profile))[1]
        overridden = {SECTION + name for name, values in sections.items() if values != own[name]}
        changed = find_changes(read_tracked(profile), now)
        if changed and all(entry in overridden or entry.startswith(RESULTS) for entry in changed):
            return f"{relative(file)}: kept with its figures"
    text = json.dumps({"about": ABOUT} | asdict(now), indent=1) + "\n"
    return f"{relative(file)}: {f'written, {len(now.files)} files' if write_text(file, text) else 'unchanged'}"


@as_command
def main(arguments: list[str] | None = None) -> int:
    """Compare the checkout with its manifest: `python -m dontblink.publish.verify [--profile testbed] [--write]`."""
    parser = argparse.ArgumentParser(prog="python -m dontblink.publish.verify", description=main.__doc__)
    parser.add_argument("--profile", default="testbed")
    parser.add_argument("--write", action="store_true", help="write the manifest: the last step of `make all`")
    given = parser.parse_args(arguments)
    if given.write:
        print(write(given.profile))
        return 0
    stored = read_tracked(given.profile)
    now = describe(given.profile, params.load(paths.params_file(given.profile))[1])
    lines = compare(stored, now)
    for line in lines[:MOST]:
        print(line, file=sys.stderr)
    if len(lines) > MOST:
        print(f"and {len(lines) - MOST} more", file=sys.stderr)
    if not lines:
        print(f"{given.profile}: {len(now.files)} files and {len(now.parameters)} sections are those of the manifest")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
