"""Where the rows of a real benchmark come from: the hub at a pinned revision, or files that somebody downloaded.

Why it exists: a GPU machine is often offline and a laptop is not, and both must see the same rows. In: a Source, a
split, a configuration and the names of the image columns. Out: Rows in file order, official columns untouched, pictures
as encoded bytes or as paths; the evidence boxes that a row brings. Never: decode a picture, drop or repair a row, know
one benchmark's columns, or move a box further than its benchmark says.
"""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dontblink import paths
from dontblink.errors import NamedError, make_line
from dontblink.paths import show
from dontblink.questions.items import Box, Item, ItemError, decode_image

FORMATS = (".parquet", ".jsonl", ".json", ".tsv")  # in this order where a folder holds the same split twice
PART = re.compile(r"-(\d+)-of-(\d+)(?!\d)")  # of a split's parquet file: its number, counted from 0, and their count
MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF")  # how a picture that a cell holds as base64 begins
LONGEST_CELL = 2**30  # characters of a .tsv
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")
REMEDY = "go online and check the names, or download the data set and point <benchmark>_source at the folder"


class SourceError(NamedError, ValueError):
    """The data set cannot be read; the message names the place, what was found and what to do."""


@dataclass(frozen=True)
class Source:
    """A hub id `owner/name`, or a folder or file (absolute, or relative to the project); a revision means the hub."""

    location: str
    revision: str = ""


@dataclass(frozen=True)
class Row:
    """One row as it came: a name for messages, official columns, pictures (bytes, a path that need not exist, None)."""

    name: str
    fields: dict[str, Any]
    images: dict[str, bytes | Path | None]


Named = tuple[str, dict[str, Any]]
Keyed = Iterable[tuple[Any, Any]]  # rows by what tells them apart in their file: a number or an id


def read_rows(source: Source, *, split: str, config: str = "", image_columns: Sequence[str]) -> list[Row]:
    """Return all rows of a split, pictures still encoded.

    Parameters
    ----------
    source : What exists as a file or folder is local, and its revision is not used; else it must be a hub id. A folder
        is laid out as on the hub: its configuration's subfolder where there is one, there or in `data/` all parquet
        files of the split, or one .jsonl, .json or .tsv. A source that is a file is read alone, whatever its name.
    split, config : As on the hub. A file belongs to a split if its name holds it as a word
        (`test-00000-of-00002.parquet`); the only other file of a folder does under any name.
    image_columns : columns that go to `Row.images`; a column that the rows lack is None there. A path is taken from the
        folder of the file that names it.

    Raises
    ------
    SourceError
        No such file, split or configuration, a part of a split missing or there twice, a file that cannot be read
        (with line and column), or no rows.
    """
    if (place := find_local(source)) is None:
        named = [(Path(), row) for row in name_rows(source.location, read_hub(source, split, config))]
    else:
        named = [(file.parent, row) for file in find_files(place, split, config) for row in read_file(file)]
    if not named:
        raise SourceError(f"{source.location}: split {split!r} has no rows; download it again")
    return [
        Row(
            name,
            {column: value for column, value in fields.items() if column not in image_columns},
            {column: read_picture(fields.get(column), folder, name, column) for column in image_columns},
        )
        for folder, (name, fields) in named
    ]


def find_local(source: Source) -> Path | None:
    """Return the file or folder that a source names, or None where it must be on the hub."""
    path = paths.ROOT / source.location
    if source.location and path.exists():
        return path
    if HUB_ID.fullmatch(source.location) and Path(source.location).suffix not in FORMATS:
        return None
    raise SourceError(f"{source.location!r}: no such file or folder, and not a hub id 'owner/name'; correct the source")


def find_files(place: Path, split: str, config: str) -> list[Path]:
    """Return the files that hold a split, in the order of their names; see `read_rows`."""
    if place.is_file():
        return [place]
    folder = place / config if config and (place / config).is_dir() else place
    there = sorted(
        (file for part in (folder, folder / "data") for file in part.glob("*") if file.suffix in FORMATS),
        key=lambda file: (file.name, file),
    )
    word = re.compile(rf"(?<![A-Za-z0-9_]){re.escape(split)}(?![A-Za-z0-9_])")
    ours = [file for file in there if word.search(file.name)] or [file for file in there if file.suffix != ".parquet"]
    suffix = min((file.suffix for file in ours), key=FORMATS.index, default="")
    best = [file for file in ours if file.suffix == suffix]
    wanted = f"split {split!r}" + (f", configuration {config!r}" if config else "")
    if suffix == ".parquet":
        check_parts(best, folder, wanted)
    elif len(best) != 1:
        shown = there or sorted(folder.glob("*"))
        names = ", ".join(str(file.relative_to(folder)) for file in shown) or "nothing"
        raise SourceError(f"{show(folder)}: expected one file of {wanted}; found {names}; point the source at a file")
    return best


def check_parts(files: Sequence[Path], folder: Path, wanted: str) -> None:
    """Raise SourceError unless the files are one parquet, or all N parts of a `-of-N`, each of them once."""
    held: dict[tuple[int, int], Path] = {}
    for file in files:
        part = PART.search(file.name)
        number, total = map(int, part.groups()) if part else (0, 1)
        if number >= total:
            raise SourceError(f"{show(file)}: a part's number is below their count {total}; download it again")
        doubles = (other for (place, count), other in held.items() if place == number or count != total)
        if first := next(doubles, None):
            both = f"{first.relative_to(folder)} and {file.relative_to(folder)}"
            raise SourceError(f"{show(folder)}: {wanted} is there twice ({both}); remove the files of one download")
        held[number, total] = file
    missing = (f"{number:05d}-of-{total:05d}" for number in range(total) if (number, total) not in held)
    if names := list(islice(missing, 5)):
        more = total - len(held) - len(names)
        lost = ", ".join(names) + (f" and {more} more" if more else "")
        raise SourceError(f"{show(folder)}: {wanted} lacks {lost} of its parquet files; download the rest")


def read_file(file: Path) -> Iterator[Named]:
    """Yield the rows of a .parquet, .jsonl, .tsv or official .json (a list, or a mapping from id to row), named."""
    read = {".parquet": read_parquet, ".tsv": read_table}.get(file.suffix, read_text)
    try:
        yield from name_rows(file.name, read(file))
    except SourceError:
        raise
    except (pa.ArrowException, csv.Error, ValueError, OSError, RecursionError) as error:  # too long or nested too deep
        raise SourceError(f"{show(file)}: cannot be read ({first_line(error)}); download it again") from error


def name_rows(place: str, rows: Keyed) -> Iterator[Named]:
    """Yield rows with their names; raise SourceError unless each maps columns to values."""
    for key, fields in rows:
        name = make_line(f"{place}, row {key}")
        if not isinstance(fields, dict):
            found = type(fields).__name__
            raise SourceError(f"{name}: holds a {found}; expected column -> value; point at another file")
        yield name, fields


def read_parquet(file: Path) -> Keyed:
    """Yield the rows of one parquet file."""
    with pq.ParquetFile(file) as parquet:
        yield from count_rows(parquet.iter_batches(batch_size=64))


def count_rows(batches: Iterable[Any]) -> Keyed:
    """Return the rows of Arrow batches, counted from 1, one batch in memory at a time."""
    return enumerate((fields for batch in batches for fields in batch.to_pylist()), start=1)


def read_table(file: Path) -> Keyed:
    """Yield the rows of a .tsv with a header, counted from 1; a line with other columns than that is a ValueError."""
    csv.field_size_limit(LONGEST_CELL)
    with file.open(encoding="utf-8-sig", newline="") as lines:
        for number, fields in enumerate(csv.DictReader(lines, delimiter="\t"), start=1):
            if None in fields or None in fields.values():
                raise ValueError(f"row {number} has not the columns of the header")
            yield number, fields


def read_text(file: Path) -> Keyed:
    """Yield the rows of a .jsonl by line, of an official JSON by number from 1 (a list) or by key (a mapping)."""
    text, is_lines = file.read_text(encoding="utf-8"), file.suffix == ".jsonl"
    for number, part in enumerate(text.split("\n") if is_lines else [text], start=1):
        if is_lines and not part.strip():
            continue
        try:
            content = json.loads(part)
        except json.JSONDecodeError as error:
            at = f"line {number - 1 + error.lineno}, column {error.colno}"
            raise SourceError(f"{show(file)}: not JSON at {at} ({error.msg}); download it again") from error
        if is_lines:
            yield number, content
        elif isinstance(content, list | dict):
            yield from content.items() if isinstance(content, dict) else enumerate(content, start=1)
        else:
            raise SourceError(f"{show(file)}: holds a {type(content).__name__}; expected a list of rows, or id -> row")


def read_hub(source: Source, split: str, config: str) -> Keyed:
    """Return the rows of a hub data set as they are stored: nothing is decoded.

    SourceError if it knows no such data set, revision, configuration or split, or is away and its cache lacks the data.
    """
    import datasets  # takes seconds, and only the hub needs it

    try:
        rows = datasets.load_dataset(source.location, config or None, split=split, revision=source.revision or None)
        batches = rows.with_format("arrow").iter(batch_size=64)
    except Exception as error:  # its errors share no base class below this one
        asked = " ".join(filter(None, (source.location, config, split, source.revision)))
        raise SourceError(f"hub data set {asked}: {first_line(error)}; {REMEDY}") from error
    return count_rows(batches)


def fetch_folder(source: Source) -> Path:
    """Return the local folder of a source, of a hub data set a download of all its files; raises like `read_hub`."""
    if (place := find_local(source)) is not None:
        return place if place.is_dir() else place.parent
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source.location, repo_type="dataset", revision=source.revision or None))
    except Exception as error:  # its errors share no base class below this one
        raise SourceError(f"hub data set {source.location}: {first_line(error)}; {REMEDY}") from error


def read_beside(file: Path, remedy: str) -> Any:
    """Return what a JSON file beside the rows holds; raise SourceError with the remedy where it is absent or broken."""
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{show(file)}: cannot be read ({first_line(error)}); {remedy}") from error


def resolve_revision(source: Source) -> str:
    """Return the commit of a hub source, '' for local files; SourceError if the hub cannot be reached or knows none."""
    if find_local(source) is not None:
        return ""
    if COMMIT.fullmatch(source.revision):
        return source.revision
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(source.location, revision=source.revision or None).sha)
    except Exception as error:  # its errors share no base class below this one
        asked = f"{source.location}, revision {source.revision or 'main'}"
        raise SourceError(f"hub data set {asked}: {first_line(error)}; {REMEDY}") from error


def read_picture(value: Any, folder: Path, name: str, column: str) -> bytes | Path | None:
    """Return the encoded picture of one cell, its path, or None where the cell holds none."""
    if isinstance(value, dict):  # as the hub stores it: {'bytes': ..., 'path': ...}
        value = value.get("bytes") or value.get("path")
    if value is None or value == "":
        return None
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        if held := decode_base64(value):
            return held
        path = PurePath(value)
        if path.is_absolute() or ".." in path.parts:
            expected = "expected a path from its file's folder"
            raise SourceError(f"{name}: picture {value!r} lies outside the data set; {expected}")
        return folder / path
    raise SourceError(f"{name}: column {column!r} holds a {type(value).__name__}; expected a picture or its path")


def decode_base64(text: str) -> bytes | None:
    """Return the picture that a text is, as the .tsv files of benchmarks hold it; None where it is a path."""
    try:
        held = base64.b64decode(text.partition(";base64,")[2] or text, validate=True)
    except ValueError:
        return None
    return held if held.startswith(MAGIC) else None


def read_box(row: Row, corners: Any, label: str = "", *, extent: bool = True) -> Box:
    """Return the box of four numbers in px: x, y, width, height, or x0, y0, x1, y1 without `extent`.

    They come in a list or as {x, y, w, h}. ItemError unless they are finite; that they lie in the picture is looked at
    when it is opened (`settle_boxes`).
    """
    values: Any = [corners.get(key) for key in "xywh"] if isinstance(corners, Mapping) else corners
    is_four = isinstance(values, list | tuple) and len(values) == 4
    if not is_four or not all(type(v) in (int, float) and abs(v) < 1e9 for v in values):  # False for NaN
        expected = "x, y, width, height" if extent else "x0, y0, x1, y1"
        raise ItemError(f"{row.name}: box {corners!r}; expected {expected} in px; correct the row")
    x, y, a, b = map(float, values)
    return Box(0, x, y, x + a if extent else a, y + b if extent else b, label)


def settle_boxes(item: Item, clip_px: float, size: tuple[int, int] | None = None) -> Item:
    """Return an item whose boxes came with its row, cut off at the picture's edges by at most `clip_px`.

    ItemError where the picture has not the recorded (width, height), or its file says that it is to be turned, as
    nobody says which of both ways the boxes count. What sticks out further stays, for `validate` to refuse.
    """
    with decode_image(item.images[0]) as image:
        found, turn = image.size, image.getexif().get(0x0112, 1)
    if size is not None and found != tuple(size):
        of = f"its boxes are of one of {size[0]}x{size[1]} px"
        raise ItemError(f"item {item.id}: the picture has {found[0]}x{found[1]} px, {of}; take the benchmark's own")
    if turn not in (0, 1):
        raise ItemError(f"item {item.id}: EXIF orientation {turn}, and boxes that may count before or behind the turn")

    def cut(value: float, edge: int) -> float:
        inside = min(max(value, 0.0), float(edge))
        return inside if abs(inside - value) <= clip_px else value

    w, h = found
    cuts = (Box(0, cut(b.x0, w), cut(b.y0, h), cut(b.x1, w), cut(b.y1, h), b.label) for b in item.boxes)
    return replace(item, boxes=tuple(dict.fromkeys(cuts)))


def find_picture(row: Row, places: Iterable[bytes | Path | None], remedy: str) -> bytes | Path:
    """Return the first encoded picture or file that is there; raise ItemError, naming the row and the places, if none.

    `remedy` says what to do where the row names a picture.
    """
    named = [place for place in places if place is not None]
    for place in named:
        if isinstance(place, bytes) or os.path.isfile(place):  # False for a name that no file system can hold
            return place
    if not named:
        raise ItemError(f"{row.name}: no picture; this package measures attention to images, leave the row out")
    raise ItemError(f"{row.name}: no picture {', nor '.join(map(str, named))}; {remedy}")


def name_picture(row: Row) -> str:
    """Return what rows on one picture share: a hash of its bytes, or its file's name; else the row."""
    picture = next(filter(None, row.images.values()), None)
    own = "/".join(picture.parts[-2:]) if isinstance(picture, Path) else row.name
    return hashlib.sha256(picture).hexdigest() if isinstance(picture, bytes) else own


def require_columns(row: Row, columns: Sequence[str], texts: Sequence[str] = ()) -> None:
    """Raise ItemError, naming what is there, unless the row has all columns, and a text in those that need one."""
    if absent := [column for column in (*columns, *texts) if column not in row.fields]:
        there = ", ".join(sorted(row.fields)) or "none"
        raise ItemError(f"{row.name}: no column {absent[0]!r}; the row has {there}; point the source at another file")
    for column in texts:
        value = row.fields[column]
        if not isinstance(value, str) or not value.strip():
            raise ItemError(f"{row.name}: {column} is {value!r}; expected a text; correct or remove the row")


def require_writable(row: Row) -> None:
    """Raise ItemError if a text of the row holds half a character (a lone surrogate), which no file can hold."""
    try:
        json.dumps(row.fields, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ItemError(f"{row.name}: holds {half!r}, half a character; correct the row") from error


def name_item(benchmark: str, row_id: str) -> str:
    """Return an item's id: `<benchmark>-<row id>` in letters, digits and `_.-`."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", f"{benchmark}-{row_id}")


def read_list(row: Row, column: str) -> list[Any]:
    """Return the list of a column, which may hold it as the text of a Python list; ItemError where it is none."""
    value: Any = row.fields[column]
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:  # as nested as a row may be
            raise ItemError(f"{row.name}: {column} {value[:40]!r} are not a Python list; correct the row") from error
    if not isinstance(value, list | tuple):
        raise ItemError(f"{row.name}: {column} hold a {type(value).__name__}; expected a list; correct the row")
    return list(value)


def make_draft(
    row: Row, benchmark: str, row_id: Any, remedy: str, *, places: Iterable[bytes | Path | None] | None = None,
    images: tuple[bytes | Path, ...] = (), source: str = "", **fields: Any,
) -> Item:  # fmt: skip
    """Return the draft that a row makes: its `images`, else the picture that `find_picture` finds in `places`.

    By default those are the row's own pictures. `fields` are the other fields of an Item; the registry sets split and
    task type.
    """
    images = images or (find_picture(row, row.images.values() if places is None else places, remedy),)
    name = name_item(benchmark, str(row_id))
    return Item(name, benchmark, "test", images, task_type="other", source=source or row.name, **fields)


def first_line(error: BaseException) -> str:
    """Return an error's class and the first line of what it says."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), 'no message')}"
