"""Shards: parquet files that appear whole, say what they hold, and are recomputed when an input changes.

Why it exists: extraction takes hours on real models and must survive a crash, a full disk and impatience. A
shard's name holds a key, the hash of everything that determines its content, so a finished file is never
computed again and a changed input never meets a stale file. In: arrow tables and rows of items that could not be
used. Out: files below results/<profile>. Never write a file in place, never trust a list of finished work
instead of the files, and never drop an unusable item without a quarantine row.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dontblink import paths
from dontblink.messages import NamedError

PREFIX = b"dontblink."  # of our metadata keys, beside those that arrow and pandas keep in the same place
QUARANTINE_SCHEMA = pa.schema([(name, pa.string()) for name in ("item_id", "model", "stage", "reason")])


class StoreError(NamedError, RuntimeError):
    """A stored file or a key that cannot be used; the message names it and the remedy."""


@dataclass(frozen=True)
class Quarantine:
    """One item that a stage could not use, and why (one line)."""

    item_id: str
    model: str
    stage: str
    reason: str


def shard_key(*parts: Any) -> str:
    """Return 16 hex digits that change with any part.

    Parameters
    ----------
    parts
        What JSON can hold exactly: texts, whole numbers, finite floats, truth values, None, lists and mappings
        with text keys. The order of a mapping's keys does not matter; the order of a list does.

    Raises
    ------
    StoreError
        If a part cannot be written as JSON; a path or an array must be turned into its content's hash first.
    """
    for part in parts:
        _check_part(part)
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _check_part(part: Any) -> None:
    """Raise StoreError for what JSON would write in a way that two different parts could share."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            if not isinstance(key, str):
                raise StoreError(f"shard key: mapping key {key!r}; expected text, because JSON turns it into one")
            _check_part(value)
    elif isinstance(part, list | tuple):
        for value in part:
            _check_part(value)
    elif not (part is None or isinstance(part, str | int) or (isinstance(part, float) and part - part == 0)):
        raise StoreError(f"shard key: found {part!r} ({type(part).__name__}); give text, a finite number or a hash")


def missing(files: Iterable[Path]) -> list[Path]:
    """Return the files that are still to be computed, in order. The files decide, nothing else."""
    return [file for file in files if not file.is_file()]


def clean_leftovers(folder: Path, older_than_s: float = 3600.0) -> list[Path]:
    """Remove temporary files that a crash left behind and return them.

    A shard takes seconds to write; what is older than `older_than_s` has no writer any more, also when several
    machines write into one folder.
    """
    oldest = time.time() - older_than_s
    removed = [file for file in sorted(folder.rglob(".*.tmp")) if file.stat().st_mtime <= oldest]
    for file in removed:
        file.unlink(missing_ok=True)
    return removed


def write_table(path: Path, table: pa.Table, metadata: Mapping[str, str]) -> None:
    """Write a table in one step, with checksums and metadata; the same input gives the same bytes."""
    kept = {key: value for key, value in (table.schema.metadata or {}).items() if not key.startswith(PREFIX)}
    ours = {PREFIX + key.encode(): value.encode() for key, value in sorted(metadata.items())}
    with paths.whole_file(path) as temporary:
        pq.write_table(
            table.replace_schema_metadata({**kept, **ours}), temporary, compression="zstd", write_page_checksum=True
        )


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table, or some columns of it.

    Raises
    ------
    StoreError
        If the file is not there, is damaged, or lacks a column.
    """
    with _Readable(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
        lacking = sorted(set(columns or ()) - set(file.schema_arrow.names))
        if lacking:
            found = f"no column {', '.join(lacking)}, it has {', '.join(file.schema_arrow.names)}"
            raise StoreError(f"{paths.show(path)}: {found}; delete it, the next run recomputes it")
        return file.read(columns=None if columns is None else list(columns))


def read_metadata(path: Path) -> dict[str, str]:
    """Return what `write_table` was given as metadata; raises like `read_table`."""
    with _Readable(path):
        stored = pq.read_schema(path).metadata or {}
    return {
        key.removeprefix(PREFIX).decode(errors="replace"): value.decode(errors="replace")
        for key, value in stored.items()
        if key.startswith(PREFIX)
    }


class _Readable:
    """A context in which failures to read `path` become StoreErrors with a remedy."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        if not self.path.is_file():
            raise StoreError(f"{paths.show(self.path)}: not there; run `make extract`, which computes what is missing")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, pa.ArrowException | OSError | UnicodeError):
            found = " ".join(str(error).split())
            remedy = "delete it, the next run recomputes it"
            raise StoreError(f"{paths.show(self.path)}: damaged or truncated ({found}); {remedy}") from error


def write_quarantine(path: Path, rows: Sequence[Quarantine]) -> None:
    """Write the quarantine table; without rows it is an empty table, which says that nothing was left out."""
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=QUARANTINE_SCHEMA)
    write_table(path, table, {"rows": str(len(rows))})


def read_quarantine(path: Path) -> list[Quarantine]:
    """Return the rows of a quarantine table, in order; raises like `read_table`."""
    return [Quarantine(**row) for row in read_table(path).to_pylist()]
