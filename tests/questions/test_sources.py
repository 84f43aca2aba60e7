"""Claims about sources: local files and the hub give the same rows, pictures stay encoded, errors name the place."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dontblink import paths
from dontblink.questions import sources
from dontblink.questions.items import ItemError
from dontblink.questions.sources import (
    Row,
    Source,
    SourceError,
    name_item,
    read_rows,
    require_columns,
    resolve_revision,
)


def encode(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 3), shade).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(file: Path, rows: list[dict[str, Any]], image_column: str = "image") -> None:
    """Write rows as the hub stores them: with the data-set library's own picture type."""
    import datasets

    table = datasets.Dataset.from_list(rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    table.cast_column(image_column, datasets.Image()).to_parquet(str(file))


def read(place: Path, split: str = "test", config: str = "", columns: tuple[str, ...] = ("image",)) -> list[Row]:
    return read_rows(Source(str(place)), split=split, config=config, image_columns=columns)


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "downloaded"
    rows = [{"id": f"q{index}", "image": {"bytes": encode(index), "path": None}} for index in range(3)]
    write_parquet(folder / "data" / "test-00000-of-00002.parquet", rows[:2])
    write_parquet(folder / "data" / "test-00001-of-00002.parquet", rows[2:])
    write_parquet(folder / "data" / "non_test-00000-of-00001.parquet", rows[:1])
    return folder


def test_a_downloaded_hub_folder_gives_every_row_and_the_encoded_pictures(hub_folder: Path) -> None:
    rows = read(hub_folder)
    assert [row.fields for row in rows] == [{"id": "q0"}, {"id": "q1"}, {"id": "q2"}]
    assert [row.images["image"] for row in rows] == [encode(index) for index in range(3)]
    assert rows[2].name == "test-00001-of-00002.parquet, row 1"


def test_a_split_is_a_whole_word_of_the_file_name(hub_folder: Path) -> None:
    assert len(read(hub_folder, "non_test")) == 1


TWICE = r"split 'test' is there twice \(.*\b{}.parquet.*\); remove"


@pytest.mark.parametrize(
    ("part", "copy", "message"),
    [
        (1, "", "split 'test' lacks 00001-of-00002 of its parquet files; download the"),
        (0, "data/test-00002-of-00002", "test-00002-of-00002.parquet: a part's number is below their count 2;"),
        *((0, name, TWICE.format(name)) for name in ("test-00000-of-00002", "test-00002-of-00003", "test")),
    ],
)  # fmt: skip
def test_a_part_that_is_missing_or_there_twice_is_named(hub_folder: Path, part: int, copy: str, message: str) -> None:
    file = hub_folder / "data" / f"test-0000{part}-of-00002.parquet"
    if copy:
        (hub_folder / f"{copy}.parquet").write_bytes(file.read_bytes())
    else:
        file.unlink()
    with pytest.raises(SourceError, match=message):
        read(hub_folder)


def test_parts_may_end_in_a_hash_of_many_missing_ones_five_are_named_and_no_other_split_stands_in(
    hub_folder: Path,
) -> None:
    for new, message in (
        ("-of-00002-725687bf7a18d64b", ""), ("-of-99999", "lacks 00002-of-99999, .*, 00006-of-99999 and 99992 more"),
    ):  # fmt: skip
        for file in (hub_folder / "data").glob("test*"):
            file.rename(file.with_name(re.sub("-of-.*.parquet", f"{new}.parquet", file.name)))
        if not message:
            assert len(read(hub_folder)) == 3
    with pytest.raises(SourceError, match=message):
        read(hub_folder)
    for file in (hub_folder / "data").glob("test*"):
        file.unlink()
    with pytest.raises(SourceError, match="expected one file of split 'test'; found data/non_test-00000-of-00001.parq"):
        read(hub_folder)


def test_a_json_under_any_name_is_a_folder_s_split_but_one_that_is_there_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.json").write_text('[{"a": 1}]')
    assert read(tmp_path)[0].fields == {"a": 1}
    (tmp_path / "rows.json").write_text('[{"a": 1}]')
    with pytest.raises(SourceError, match="one file of split 'test'; found (rows|data/rows).json, .*rows.json"):
        read(tmp_path)
    (tmp_path / "test.json").write_text('[{"a": 2}]')
    assert read(tmp_path)[0].fields == {"a": 2}


@pytest.fixture
def on_the_hub(hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder, which the data-set library now reads as it reads the hub."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (hub_folder / "data" / "non_test-00000-of-00001.parquet").unlink()
    monkeypatch.setattr(sources, "find_local", lambda source: None)
    return hub_folder


def test_the_hub_reader_gives_the_rows_of_the_folder_reader_and_names_an_unknown_split(on_the_hub: Path) -> None:
    rows = read(on_the_hub)
    assert [row.fields["id"] for row in rows] == ["q0", "q1", "q2"] and rows[2].name == f"{on_the_hub}, row 3"
    assert [row.images["image"] for row in rows] == [encode(index) for index in range(3)]
    with pytest.raises(SourceError, match=r"validation: ValueError: Unknown split .*point <benchmark>_source"):
        read(on_the_hub, "validation")


def test_the_hub_reader_decodes_no_picture(on_the_hub: Path) -> None:
    write_parquet(on_the_hub / "data" / "test-00000-of-00002.parquet", [{"id": "q", "image": {"bytes": b"no picture"}}])
    assert read(on_the_hub)[0].images["image"] == b"no picture"


def test_offline_the_hub_is_one_line_with_the_remedy_for_rows_and_revision(tmp_path: Path) -> None:
    code = (
        "from dontblink.questions.sources import *\n"
        "for call in (lambda: read_rows(Source('owner/name', 'v1'), split='test', image_columns=()),"
        " lambda: resolve_revision(Source('owner/name', 'v1'))):\n"
        "    try: call()\n"
        "    except SourceError as error: print(error)\n"
    )
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stdout + done.stderr
    assert all("owner/name" in line and "v1" in line and line.endswith(sources.REMEDY) for line in lines)


def test_a_revision_is_the_commit_that_the_hub_says_and_a_full_one_or_a_file_needs_no_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    class Hub:
        def dataset_info(self, name: str, revision: str | None) -> object:
            return type("Info", (), {"sha": {None: "a" * 40, "v1": "b" * 40}[revision]})

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert resolve_revision(Source("owner/name")) == "a" * 40
    assert resolve_revision(Source("owner/name", "v1")) == "b" * 40
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert resolve_revision(Source("owner/name", "c" * 40)) == "c" * 40
    assert resolve_revision(Source(str(tmp_path), "v1")) == ""


def test_a_configuration_is_a_subfolder(tmp_path: Path) -> None:
    for config in ("standard (4 options)", "vision"):
        write_parquet(tmp_path / config / "test-00000-of-00001.parquet", [{"id": config, "image": {"bytes": b"x"}}])
    assert read(tmp_path, config="vision")[0].fields["id"] == "vision"
    with pytest.raises(SourceError, match=r"expected one file of split 'test'; found standard \(4 options\), vision"):
        read(tmp_path)


def test_paths_are_taken_from_the_files_own_folder_and_need_not_exist(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"id": 1, "image": "images/1.png"}\n\n{"id": 2, "image": null}\n{"id": 3}\n')
    rows = read(tmp_path / "items.jsonl")
    assert [row.images["image"] for row in rows] == [tmp_path / "images" / "1.png", None, None]
    assert [row.name for row in rows] == ["items.jsonl, row 1", "items.jsonl, row 3", "items.jsonl, row 4"]
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "1.png"}]}), tmp_path / "test.parquet")
    assert read(tmp_path / "test.parquet")[0].images["image"] == tmp_path / "1.png"


def test_the_official_json_is_a_list_or_a_mapping_from_id_to_row(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps([{"pid": "a"}, {"pid": "b"}]))
    (tmp_path / "mapping.json").write_text(json.dumps({"17": {"pid": "17"}}))
    assert [row.name for row in read(tmp_path / "list.json")] == ["list.json, row 1", "list.json, row 2"]
    assert [row.name for row in read(tmp_path / "mapping.json")] == ["mapping.json, row 17"]


def test_a_location_relative_to_the_project_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "items.jsonl").write_text('{"id": 1}\n')
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert len(read_rows(Source("data/items.jsonl"), split="test", image_columns=())) == 1


def test_errors_name_the_place_and_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    cases = {
        "bad.json": ('[{"a": 1},\n {"b" 2}]', r"bad.json: not JSON at line 2, column 7 \(Expecting ':'"),
        "bad.jsonl": ('{"a": 1}\n\n{"b": 2\n', r"bad.jsonl: not JSON at line 3, column 8"),
        "text.json": ('"hello"', r"text.json: holds a str; expected a list of rows"),
        "numbers.json": ("[1]", r"numbers.json, row 1: holds a int; expected column -> value"),
        "empty.json": ("[]", r"empty.json: split 'test' has no rows"),
        "cut.parquet": ("version https://git-lfs", r"cut.parquet: cannot be read \(ArrowInvalid: .*download it again"),
        "odd.json": ('[{"image": 3}]', r"odd.json, row 1: column 'image' holds a int; expected a picture"),
    }
    for name, (text, message) in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(SourceError, match=message) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)
    (tmp_path / "latin.json").write_bytes(b'[{"a": "\xe9"}]')
    with pytest.raises(SourceError, match=r"latin.json: cannot be read \(UnicodeDecodeError"):
        read(tmp_path / "latin.json")


def test_a_place_that_is_no_file_and_no_hub_id_is_named() -> None:
    for location in ("", "/no/such/folder", "no_slash", "data/missing.json"):
        with pytest.raises(SourceError, match="no such file or folder"):
            read_rows(Source(location), split="test", image_columns=())


def test_a_missing_column_names_those_that_are_there() -> None:
    row = Row("file, row 3", {"b": 1, "a": 2}, {})
    require_columns(row, ("a", "b"))
    with pytest.raises(ItemError, match=r"file, row 3: no column 'c'; the row has a, b"):
        require_columns(row, ("a", "c"))
    with pytest.raises(ItemError, match=r"file, row 3: b is 1; expected a text; correct or remove the row"):
        require_columns(row, ("a",), texts=("b",))


def test_item_ids_hold_letters_digits_points_and_dashes() -> None:
    assert name_item("demo", "a/b c(é).1_x-2") == "demo-a_b_c___.1_x-2"
