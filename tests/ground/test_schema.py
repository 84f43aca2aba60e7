"""The tables have the columns that the schema declares, with their units, or the break is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from small_extraction import N_CALIBRATION, N_TEST, PROFILE

from dontblink import paths, schema, store
from dontblink.errors import NamedError


def find_parts(name: str) -> list[Path]:
    return [paths.part(PROFILE, name, part) for part in schema.read_manifest(PROFILE)["parts"]]


def read(name: str) -> pa.Table:
    return store.read_table(find_parts(name)[0])


def test_every_column_says_what_it_means_and_a_caption_names_its_unit() -> None:
    for name, columns in schema.SCHEMAS.items():
        assert all(spec.meaning for spec in columns.values())
        keys = ["model", "benchmark", "split", "item_id"]
        assert [*columns][:4] == keys or (name == "strengths" and [*columns][:2] == keys[:2])  # of cells, not of items
    assert schema.describe("token_masses", "evidence_mass") == "evidence mass (share of attention)"
    assert schema.describe("tokens", "entropy_nats") == "entropy (nats)"
    assert schema.describe("items", "n_prompt_tokens") == "number of prompt tokens"
    assert schema.describe("items", "correct") == "correct"


def test_a_table_comes_back_from_the_disk_with_its_units(small: Path, tmp_path: Path) -> None:
    schema.write_table("items", read("items"), tmp_path / "items.parquet")
    assert schema.check_table("items", store.read_table(tmp_path / "items.parquet")).equals(read("items"))
    assert store.read_metadata(tmp_path / "items.parquet")["column:full_entropy_nats"].startswith("[nats]")


def test_read_tables_keeps_the_wanted_rows_and_columns_in_the_order_of_the_parts(small: Path) -> None:
    whole = pd.concat([store.read_table(file).to_pandas().astype({"item_id": "str"}) for file in find_parts("items")])
    assert len(whole) == 2 * (N_TEST + N_CALIBRATION)
    read = schema.read_tables(PROFILE, ["items"])["items"]
    assert read["item_id"].tolist() == whole["item_id"].tolist() and [*read] == [*whole] == [*schema.SCHEMAS["items"]]
    read = schema.read_tables(PROFILE, ["items", "steps"], ["correct", "evidence_mass"], split="test", step_index=0)
    tested = whole[whole["split"] == "test"]
    assert read["items"]["correct"].tolist() == tested["correct"].tolist()
    assert {name: [*table] for name, table in read.items()} == {
        "items": ["split", "correct"], "steps": ["split", "step_index", "evidence_mass"],
    }  # fmt: skip
    assert (read["steps"]["step_index"] == 0).all() and (read["steps"]["split"] == "test").all()
    assert len(read["steps"]) == 4 * (tested["n_steps"] > 0).sum()


def test_a_shard_without_wanted_rows_is_not_opened(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, read = list[Path](), store.read_table
    monkeypatch.setattr(store, "read_table", lambda file, *_: opened.append(file) or read(file))  # type: ignore
    list(schema.iterate_parts(PROFILE, ["items"], split="calibration", benchmark="hallucination"))
    assert [file.name.split("-")[:2] for file in opened] == [["hallucination", "calibration"]]


def test_a_part_that_is_not_there_or_lacks_what_is_read_of_it_is_named(small_copy: Path) -> None:
    file, others = find_parts("scores")[0], store.read_table(find_parts("scores")[0]).drop_columns("scorer")
    store.write_table(file, others, {})
    assert len(schema.read_tables(PROFILE, ["scores"], ["correct"])["scores"])
    said = rf"{file.name}: table scores: columns \['scorer'\] .*build the table again"
    for columns in (None, ["scorer"]):
        with pytest.raises(NamedError, match=said):
            schema.read_tables(PROFILE, ["scores"], columns)
    file.unlink()
    with pytest.raises(NamedError, match=rf"{file.name}: not there; run `make extract`"):
        schema.read_tables(PROFILE, ["scores"])


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
