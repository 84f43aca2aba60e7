"""Recorded numbers by name: `02_collapse.collapse.grounding_layers.evidence.*.*` to the values in figures/<profile>.

Why it exists: the claims ledger, the paper and the README must read the same number by the same key, and a key that
leads nowhere must stop them. In: the JSON files that notebooks recorded, those in figures/<profile> or those that a run
here has just made. Out: values at full precision, and the rows that a path with stars names. Never: round, format, or
fall back on a default.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dontblink import paths
from dontblink.errors import NamedError
from dontblink.files import hash_file, read_json

STAR, OTHER = "*", "*other"


class Row(NamedTuple):
    """One mapping that a path with stars names: what the stars stand for, and its fields."""

    stars: tuple[str, ...]
    fields: Any


class Numbers:
    """The number files of one profile, each read once when it is first asked for."""

    def __init__(self, profile: str, folder: Path | None = None) -> None:
        self.folder = folder or paths.figures(profile)
        self.profile = profile
        self._read: dict[str, Any] = {}

    def stems(self) -> list[str]:
        """Return the stems of all number files, sorted."""
        return sorted(file.stem for file in self.folder.glob("[0-9][0-9]_*.json"))

    def hash_files(self) -> str:
        """Return one short hash over all number files: a changed digit in any of them changes it."""
        hashes = [[stem, hash_file(self.file(stem))] for stem in self.stems()]
        return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:12]

    def file(self, stem: str) -> Path:
        """Return where a stem's numbers lie."""
        return self.folder / f"{stem}.json"

    def read(self, stem: str) -> Any:
        """Return all numbers of a stem; raise NamedError if they are not there."""
        if stem not in self._read:
            self._read[stem] = read_json(self.file(stem), f"run `make figures PROFILE={self.profile}`")
        return self._read[stem]

    def get(self, path: str | tuple[str, ...]) -> Any:
        """Return the value at `stem.key.key`; a tuple may hold keys with dots."""
        parts = tuple(path.split(".")) if isinstance(path, str) else path
        value = self.read(parts[0])
        for depth, part in enumerate(parts[1:], 1):
            value = self._step(value, part, parts[:depth])
        return value

    def _step(self, value: Any, part: str, done: tuple[str, ...]) -> Any:
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            return value[int(part)]
        if not isinstance(value, Mapping) or part not in value:
            there = ", ".join(sorted(value)[:12]) if isinstance(value, Mapping) else f"a {type(value).__name__}"
            where = f"{paths.show(self.file(done[0]))}: {'.'.join(done[1:]) or 'top level'}"
            raise NamedError(f"{where} has no key {part!r}; there stands {there}; correct the key")
        return value[part]

    def select(self, path: str) -> list[Row]:
        """Return every row that a path names, in the order of its keys; without a star, the one row.

        `*` takes every key, `*other` every key that no earlier star of the path took. No row is a NamedError.
        """
        stem, *parts = path.split(".")
        found: list[tuple[Row, tuple[str, ...]]] = [(Row((), self.read(stem)), (stem,))]
        for part in parts:
            grown: list[tuple[Row, tuple[str, ...]]] = []
            for row, done in found:
                if part in (STAR, OTHER):
                    if not isinstance(row.fields, Mapping):
                        raise NamedError(f"{path}: {'.'.join(done)} holds no keys for {part}; correct the path")
                    free = sorted(key for key in row.fields if part == STAR or key not in row.stars)
                    grown += [(Row((*row.stars, key), row.fields[key]), (*done, key)) for key in free]
                else:
                    grown.append((Row(row.stars, self._step(row.fields, part, done)), (*done, part)))
            found = grown
        if not found:
            raise NamedError(f"{path}: names no row; correct the path")
        return [row for row, _ in found]
