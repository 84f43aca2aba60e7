"""Shards: parquet files that appear whole, say what they hold, and are recomputed when damaged or out of date.

Why it exists: extraction takes hours on real models and must survive a crash, a full disk and impatience. A
shard's name holds a key, the hash of everything that determines its content, so a finished file is never
computed again and a changed input never meets a stale file; a hash of the whole file inside it tells when a bit of it
has changed since. In: arrow tables. Out: files below results/<profile>, which one run at a time may change. Never write
a file in place, trust a list of finished work instead of the files, or delete a damaged file.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import mmap
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dontblink import paths
from dontblink.errors import NamedError
from dontblink.files import whole_file, writable

PREFIX = b"dontblink."  # of our metadata keys, beside those that arrow and pandas keep in the same place
# A file's hash stands in its own metadata. While it is computed, this text of the same length stands in its place.
PLACEHOLDER = b"the sha256 of this file with these sixty-four characters in here"
# As parquet writes the key, the hash's length and the hash:
DIGEST = re.compile(rb"dontblink\.sha256\x18\x40(.{64})", re.DOTALL)


class DamagedError(NamedError):
    """A file of ours that is not what was written; computing it again repairs it."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(f"{paths.show(path)}: {found}; delete it, the next run recomputes it")
        self.path, self.found = path, found

    def __reduce__(self) -> tuple[type[DamagedError], tuple[Path, str]]:
        """Let the error survive the way from another process."""
        return type(self), (self.path, self.found)


def shard_key(*parts: Any) -> str:
    """Return 16 hex digits that change with any part.

    A part is what JSON holds exactly: text, a whole number, a finite float, a truth value, None, a list, a mapping with
    text keys (in any order). NamedError for others: turn a path or an array into its content's hash first.
    """
    try:
        canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise NamedError(f"shard key: {error}; give text, a finite number or a hash") from error
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def clean_leftovers(folder: Path, older_than_s: float = 3600.0, pattern: str = "**/.*.tmp") -> list[Path]:
    """Remove temporary files that a crash left behind and return them.

    A shard takes seconds to write: what is older than `older_than_s`, or that far in the future because a clock was
    wrong, has no writer any more. Whoever holds the folder's lock gives 0: nobody else writes there.
    """
    now = time.time()
    removed = [file for file in sorted(folder.glob(pattern)) if abs(now - file.stat().st_mtime) >= older_than_s]
    for file in removed:
        file.unlink(missing_ok=True)
    return removed


def recompute_damaged(work: Callable[[], None]) -> None:
    """Do some work; set each damaged file that it meets aside and do it again, which computes the file anew.

    DamagedError if a file is damaged again although it was just computed.
    """
    seen: set[Path] = set()
    while True:
        try:
            return work()
        except DamagedError as error:
            if error.path in seen:
                raise
            seen.add(error.path)
            kept = error.path.with_name(f"{error.path.name}.damaged")
            with writable(kept):
                os.replace(error.path, kept)
            print(f"{paths.show(error.path)}: {error.found}; kept as {kept.name}, computed again", flush=True)


def write_table(path: Path, table: pa.Table, metadata: Mapping[str, str]) -> None:
    """Write a table in one step, with checksums and metadata; the same input gives the same bytes."""
    kept = {key: value for key, value in (table.schema.metadata or {}).items() if not key.startswith(PREFIX)}
    ours = {PREFIX + key.encode(): value.encode() for key, value in sorted(metadata.items())}
    ours[PREFIX + b"sha256"] = PLACEHOLDER
    with whole_file(path) as temporary:
        pq.write_table(
            table.replace_schema_metadata({**kept, **ours}), temporary, compression="zstd", write_page_checksum=True
        )
        with temporary.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
            digest = hashlib.sha256(content).hexdigest().encode()
            place = content.rfind(PLACEHOLDER)
            content[place : place + 64] = digest


@functools.lru_cache(maxsize=4096)
def _find_damage(path: Path, size: int, *_: int) -> str:
    """Return what is wrong with a file according to the hash inside it, '' if nothing is or it has none.

    What identifies the file's state (inode, time of change) is given only so that each state is read once.
    """
    if not size:
        return "it is empty"
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        footer = content.rfind(PREFIX + b"sha256\x18")
        if (stated := DIGEST.match(content, max(footer, 0))) is None:
            return ""
        start, end = stated.span(1)
        with memoryview(content) as view:
            found = hashlib.sha256(view[:start])
            found.update(PLACEHOLDER)
            found.update(view[end:])
        return "" if found.hexdigest().encode() == stated[1] else "its content does not fit its hash"


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn the failure to read a file of ours into a NamedError with the remedy.

    A file of which the disk returns other bytes than were written is damaged; one that may not be read is not.
    """
    if not path.is_file():
        place = paths.show(path).split("/")
        of = f" with PROFILE={place[1]}" if place[0] == "results" else ""
        raise NamedError(f"{paths.show(path)}: not there; run `make extract`{of}, which computes what is missing")
    try:
        status = path.stat()
        if damage := _find_damage(path, status.st_size, status.st_mtime_ns, status.st_ino):
            raise DamagedError(path, f"damaged or truncated ({damage})")
        yield
    except (pa.ArrowException, OSError, UnicodeError) as error:
        found = " ".join(str(error).split())
        if isinstance(error, MemoryError) or getattr(error, "errno", None) not in (None, errno.EIO):
            raise NamedError(f"{paths.show(path)}: cannot be read ({found}); make it readable, run again") from error
        raise DamagedError(path, f"damaged or truncated ({found})") from error


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table, or those of some columns that it has.

    NamedError if the file is not there or may not be read, DamagedError if it is damaged.
    """
    with _readable(path):
        return pq.ParquetFile(path, page_checksum_verification=True).read(columns)


def check_columns(where: str, table: pa.Table, expected: Mapping[str, pa.DataType], remedy: str) -> None:
    """Raise NamedError unless a table has these columns, of these types and filled, and no others."""
    found = dict(zip(table.column_names, table.schema.types, strict=True))
    if found != expected or table.num_columns != len(expected):
        wrong = sorted(c for c in expected.keys() | found.keys() if found.get(c) != expected.get(c))
        types = [[str(columns.get(c)) for c in wrong] for columns in (found, expected)]
        raise NamedError(
            f"{where}: columns {wrong or table.column_names} are {types[0]}, expected {types[1]}; {remedy}"
        )
    for column in expected:
        if n_nulls := table[column].null_count:
            raise NamedError(f"{where}, column {column}: {n_nulls} nulls; {remedy}")


def read_metadata(path: Path) -> dict[str, str]:
    """Return what `write_table` was given as metadata, and its `sha256`; raises like `read_table`."""
    with _readable(path):
        stored = pq.read_metadata(path).metadata or {}  # a schema's has no hash
    ours = {key.removeprefix(PREFIX): value for key, value in stored.items() if key.startswith(PREFIX)}
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in ours.items()}
