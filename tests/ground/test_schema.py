"""The tables have the columns that the schema declares, with their units, or the break is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_extraction import N_CALIBRATION, N_TEST, PROFILE

from dontblink import paths, schema, store
from dontblink.errors import NamedError


def read(name: str) -> pa.Table:
    return store.read_table(paths.tables(PROFILE) / f"{name}.parquet")


def test_every_column_says_what_it_means_and_a_caption_names_its_unit() -> None:
    for columns in schema.SCHEMAS.values():
        assert all(spec.meaning for spec in columns.values())
        assert [*columns][:4] == ["model", "benchmark", "split", "item_id"]
    assert schema.describe("token_masses", "evidence_mass") == "evidence mass (share of attention)"
    assert schema.describe("tokens", "entropy_nats") == "entropy (nats)"
    assert schema.describe("items", "n_prompt_tokens") == "number of prompt tokens"
    assert schema.describe("items", "correct") == "correct"


def test_a_table_comes_back_from_the_disk_with_its_units(small: Path, tmp_path: Path) -> None:
    schema.write_table("items", read("items"), tmp_path / "items.parquet")
    assert schema.check_table("items", store.read_table(tmp_path / "items.parquet")).equals(read("items"))
    assert store.read_metadata(tmp_path / "items.parquet")["column:full_entropy_nats"].startswith("[nats]")


def test_read_tables_keeps_the_wanted_split(small: Path) -> None:
    assert len(schema.read_tables(PROFILE, ["items"])["items"]) == 2 * (N_TEST + N_CALIBRATION)
    assert len(schema.read_tables(PROFILE, ["items"], split="test")["items"]) == 2 * N_TEST
    with pytest.raises(NamedError, match=r"bins.parquet: not there; run `make extract`"):
        schema.read_tables(PROFILE, ["bins"])


def test_breaks_of_the_schema_are_named(small: Path) -> None:
    tokens, name = read("tokens"), "entropy_nats"
    place = tokens.column_names.index(name)
    with pytest.raises(NamedError, match=r"columns \['entropy_nats'\]"):
        schema.check_table("tokens", tokens.drop_columns(name))
    with pytest.raises(NamedError, match="double"):
        schema.check_table("tokens", tokens.set_column(place, name, tokens[name].cast(pa.float64())))
    with pytest.raises(NamedError, match="column entropy_nats: .* nulls"):
        schema.check_table("tokens", tokens.set_column(place, name, pa.nulls(len(tokens), pa.float32())))


@pytest.mark.parametrize(
    ("table", "row", "column", "value"), [("tokens", 3, "entropy_nats", np.nan), ("token_masses", 2, "sink_mass", 1.2)]
)
def test_a_value_outside_its_range_is_named(small: Path, table: str, row: int, column: str, value: float) -> None:
    frame = read(table).to_pandas()
    frame.loc[row, column] = value
    with pytest.raises(NamedError, match=f"row {row}, column {column}: {value}"):
        schema.to_table(table, frame)


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "not there; run `make extract"), (b'{"a"', "damaged .*delete it")]
)
def test_a_manifest_that_is_missing_or_damaged_is_named_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, expected: str
) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    file = paths.extraction_manifest("small")
    file.parent.mkdir(parents=True)
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(NamedError, match=rf"results/small/extraction\.json: {expected}"):
        schema.read_manifest("small")


def test_who_only_reads_and_bins_tables_does_not_load_torch() -> None:
    code = "import dontblink.extraction.tables, dontblink.schema, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
