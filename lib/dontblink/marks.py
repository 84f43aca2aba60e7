"""Which figures, numbers and papers were made here: a mark under results/ for each one, with its hash.

Why it exists: that a figure's sources changed does not explain a figure that somebody changed by hand; that its
notebook wrote these very bytes does. In: a file that was just written whole. Out: results/<profile>/made/<name>, its
SHA-256. Never: mark a file that this package has not written, or read a mark as more than that.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from dontblink import paths


def hash_file(path: Path) -> str:
    """Return the SHA-256 (64 hex digits) of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def belongs(file: Path, stem: str) -> bool:
    """Return whether a figure or number is a notebook's: of `stem` itself, or of a longer name that starts with it."""
    return f"{file.stem}_".startswith(f"{stem}_")


def mark_made(file: Path, profile: str) -> None:
    """Note that a run wrote `file` with the bytes that it has now."""
    with paths.whole_file(paths.made(profile) / file.name) as temporary:
        temporary.write_text(hash_file(file) + "\n")


def read_mark(file: Path, profile: str) -> str:
    """Return the hash that `file` had when a run here wrote it last, '' if none did."""
    mark = paths.made(profile) / file.name
    return mark.read_text().strip() if mark.is_file() else ""


def forget(stem: str, profile: str) -> None:
    """Remove the marks of a notebook that is about to run again."""
    for mark in paths.made(profile).glob(f"{stem}*"):
        if belongs(mark, stem):
            mark.unlink(missing_ok=True)


def remove_unmarked(stem: str, profile: str) -> list[Path]:
    """Remove and return a notebook's figures that its last run has not made: those of an earlier version of it."""
    figures = sorted(paths.figures(profile).glob(f"{stem}*.*"))
    old = [file for file in figures if belongs(file, stem) and not read_mark(file, profile)]
    for file in old:
        file.unlink()
    return old
