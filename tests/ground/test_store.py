"""Shards survive crashes, never lie about being finished, and notice every changed input."""

import errno
import os
import pickle
import re
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dontblink import paths, store
from dontblink.errors import NamedError
from dontblink.store import DamagedError

TABLE = pa.table({"item_id": ["a", "b"], "entropy_nats": pa.array([0.5, 1.25], pa.float32())})


def read_stated(path: Path) -> dict[str, str]:
    """Return a file's metadata without its hash, which has to be there."""
    stated = store.read_metadata(path)
    assert re.fullmatch("[0-9a-f]{64}", stated.pop("sha256"))
    return stated


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Return a written shard."""
    path = tmp_path / "model" / "symbolic-test-000-0123456789abcdef.parquet"
    store.write_table(path, TABLE, {"checkpoint": "feed"})
    return path


def test_a_table_and_its_metadata_come_back_as_written_and_give_the_same_bytes_again(shard: Path) -> None:
    assert store.read_table(shard).equals(TABLE)
    assert read_stated(shard) == {"checkpoint": "feed"}
    store.write_table(shard.with_name("again.parquet"), TABLE, {"checkpoint": "feed"})
    assert shard.with_name("again.parquet").read_bytes() == shard.read_bytes()


def test_metadata_of_other_writers_is_kept_but_not_reported(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    store.write_table(path, TABLE.replace_schema_metadata({"pandas": "{}"}), {"unit": "nats"})
    assert read_stated(path) == {"unit": "nats"}
    assert store.read_table(path).schema.metadata[b"pandas"] == b"{}"
    store.write_table(path, store.read_table(path), {"other": "1"})
    assert read_stated(path) == {"other": "1"}


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_truncated_file_is_named_with_its_remedy(shard: Path, keep: int) -> None:
    shard.write_bytes(shard.read_bytes()[:keep])
    for read in (store.read_table, store.read_metadata):
        with pytest.raises(NamedError, match=r"symbolic-test-000.*delete it, the next run recomputes it") as error:
            read(shard)
        assert "\n" not in str(error.value)


def test_a_flipped_bit_anywhere_is_noticed_or_changes_nothing_that_is_read(shard: Path) -> None:
    content, unnoticed = shard.read_bytes(), []
    for place in range(len(content)):
        shard.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        os.utime(shard, ns=(place, place))  # a state is read once, and clocks are coarse
        try:
            assert store.read_table(shard).equals(TABLE) and store.read_metadata(shard)["checkpoint"] == "feed"
            unnoticed.append(place)
        except NamedError as error:
            assert "\n" not in str(error)
    key = content.rindex(b"dontblink.sha256")
    assert all(key - 2 <= place < key + 20 for place in unnoticed)  # without its hash a file is one of an older version


def test_a_file_of_an_older_version_that_has_no_hash_is_read(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "old.parquet")
    assert store.read_table(tmp_path / "old.parquet").equals(TABLE)


def test_a_file_that_may_not_be_read_is_not_called_damaged(shard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(pq, "ParquetFile", refuse)
    with pytest.raises(NamedError, match="cannot be read .*Too many open files") as found:
        store.read_table(shard)
    assert not isinstance(found.value, DamagedError)


def test_a_damaged_file_is_set_aside_and_the_work_done_again(shard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])

    def work() -> None:
        if not shard.exists():
            store.write_table(shard, TABLE, {"checkpoint": "feed"})
        store.read_table(shard)

    store.recompute_damaged(work)
    assert shard.read_bytes() == content and shard.with_name(shard.name + ".damaged").read_bytes() == content[:-1]
    (line,) = capsys.readouterr().out.splitlines()
    assert "damaged or truncated" in line and line.endswith(f"kept as {shard.name}.damaged, computed again")


def test_the_error_of_a_damaged_file_survives_the_way_from_another_process(shard: Path) -> None:
    error = pickle.loads(pickle.dumps(DamagedError(shard, "damaged or truncated (x)")))
    assert error.path == shard and str(error) == str(DamagedError(shard, "damaged or truncated (x)"))


def test_a_missing_file_is_named_with_the_remedy(shard: Path) -> None:
    with pytest.raises(NamedError, match=r"other.parquet: not there; run `make extract`"):
        store.read_table(shard.with_name("other.parquet"))
    with pytest.raises(NamedError, match=r"run `make extract` with PROFILE=boxed, which computes"):
        store.read_table(paths.tables("boxed") / "nowhere.parquet")


def test_a_writer_that_is_killed_leaves_no_shard_and_its_leftover_is_ignored_and_cleaned(tmp_path: Path) -> None:
    target = tmp_path / "model" / "symbolic-test-000-feed.parquet"
    if (child := os.fork()) == 0:
        os.replace = lambda *_: os._exit(9)  # type: ignore[assignment]  # dies between the data and the rename
        store.write_table(target, TABLE, {})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (leftover,) = target.parent.iterdir()
    assert not target.exists()
    assert store.clean_leftovers(tmp_path) == []  # a young one may have a writer
    hours_ago = time.time() - 7200
    os.utime(leftover, (hours_ago, hours_ago))
    assert store.clean_leftovers(tmp_path) == [leftover]
    store.write_table(target, TABLE, {})
    assert [file.name for file in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("moment", [0, 4_000_000_000])
def test_a_leftover_of_a_wrong_clock_is_cleaned_and_a_finished_file_left_alone(shard: Path, moment: int) -> None:
    leftover = shard.with_name(".some.parquet.0123.tmp")
    leftover.touch()
    for file in (leftover, shard):
        os.utime(file, (moment, moment))
    assert store.clean_leftovers(shard.parents[1]) == [leftover] and shard.exists()


def test_who_holds_the_lock_cleans_young_leftovers_too(shard: Path) -> None:
    leftover = shard.with_name(".some.parquet.0123.tmp")
    leftover.touch()
    assert store.clean_leftovers(shard.parents[1], older_than_s=0, pattern=".*.tmp") == []
    assert store.clean_leftovers(shard.parents[1], older_than_s=0) == [leftover]


INPUTS = {"checkpoint": "feed", "items": ["a1", "b2"], "settings": {"temperature": 0.0, "max_new_tokens": 160}}


def test_a_key_has_16_hex_digits_and_ignores_the_order_of_settings() -> None:
    turned = {"settings": {"max_new_tokens": 160, "temperature": 0.0}, "items": ["a1", "b2"], "checkpoint": "feed"}
    assert re.fullmatch(r"[0-9a-f]{16}", store.shard_key("1", INPUTS))
    assert store.shard_key("1", INPUTS) == store.shard_key("1", turned)


@pytest.mark.parametrize(
    "changed",
    [
        ("2", INPUTS),
        ("1", INPUTS | {"checkpoint": "beef"}),
        ("1", INPUTS | {"items": ["b2", "a1"]}),
        ("1", INPUTS | {"items": ["a1"]}),
        ("1", INPUTS | {"settings": {"temperature": 0.7, "max_new_tokens": 160}}),
        ("1", INPUTS | {"settings": {"temperature": 0.0, "max_new_tokens": 161}}),
        ("1", INPUTS | {"settings": {"temperature": 0.0, "max_new_tokens": 160, "top_k": None}}),
        ("1", INPUTS, ""),
    ],
)
def test_a_key_changes_with_any_input(changed: tuple[object, ...]) -> None:
    assert store.shard_key(*changed) != store.shard_key("1", INPUTS)


@given(st.lists(st.text(max_size=3), max_size=3), st.lists(st.text(max_size=3), max_size=3))
def test_parts_cannot_run_into_each_other(one: list[str], other: list[str]) -> None:
    assert (store.shard_key(*one) == store.shard_key(*other)) == (one == other)


@pytest.mark.parametrize("part", [float("nan"), float("inf"), Path("x"), {"a": [b"x"]}, object()])
def test_a_part_that_json_cannot_hold_exactly_is_refused(part: object) -> None:
    with pytest.raises(NamedError, match="shard key"):
        store.shard_key(part)
