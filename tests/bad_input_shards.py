"""Bad shards: files of an older version, with columns lost, renamed and retyped, other metadata, damaged bytes."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bad_input import TEXTS, Kind
from bad_input_responses import EOS, ITEMS, PROMPT, VLM, token_texts, trace_of
from hypothesis import strategies as st

from dontblink import params, paths, schema, store
from dontblink.attention import traces
from dontblink.attention.traces import TraceRecord, pack_responses, pack_traces
from dontblink.extraction import tables
from dontblink.models.generate import build_response
from dontblink.models.spans import Spans
from dontblink.questions import registry

Deed = tuple[str, int, int]
RESPONSE = build_response(VLM, PROMPT, [6, 9, 2, 7, 8, EOS])
SPANS = Spans((0, 2), (4, 5), ((0, 2),), True)
COVERAGE = np.array([0, 0, 1, 0, 0.5, 0], np.float32)
RECORD = TraceRecord(
    trace_of(RESPONSE, 1),
    SPANS,
    tuple(token_texts(RESPONSE.response_ids)),
    ("word",),
    "B",
    COVERAGE,
    COVERAGE,
    ((2, 3),),
    (0,),
)
MEASURED = tables.Measured(
    ITEMS[-1], RESPONSE, RECORD.trace, SPANS, RECORD.token_texts, RECORD.step_texts, COVERAGE, RECORD.grids,
    registry.score(ITEMS[-1], "7", "7", True),
)  # fmt: skip
DEEDS = ["drop", "rename", "retype", "null", "empty", "double", "shorten", "swap", "extra", "rows", "strip", "pandas"]
DAMAGE = ["cut", "byte", "zero", "text", "folder", "missing"]


@functools.cache
def good_tables() -> dict[str, pa.Table]:
    """Return one good table of each kind."""
    blocks = tables.build_blocks([MEASURED], sink_rule="first")
    blocks["bins"] = schema.to_table(
        "bins", tables.bin_table(blocks["tokens"].to_pandas(), blocks["token_masses"].to_pandas(), 2)
    )
    return {"responses": pack_responses([RESPONSE]), "traces": pack_traces([RECORD]), **blocks}


def alter(table: pa.Table, deed: str, column: int, to: int) -> pa.Table:
    """Return a table as another version might have written it."""
    names = table.column_names
    place = column % len(names)
    values = table.column(place)
    types: list[pa.DataType] = [
        pa.string(),
        pa.int64(),
        pa.float64(),
        pa.bool_(),
        pa.list_(pa.int64()),
        pa.binary(),
        pa.null(),
    ]
    if deed == "drop":
        return table.remove_column(place)
    if deed == "rename":
        return table.rename_columns(
            [*names[:place], ["text", "old_name", names[0], "", "\x1b[2J"][to % 5], *names[place + 1 :]]
        )
    if deed in ("retype", "null", "empty"):
        kind = types[to % len(types)] if deed == "retype" else values.type
        content = {"retype": ["1"], "null": [None], "empty": ["1"]}[deed] * len(values)
        if deed == "empty" and pa.types.is_list(values.type):
            made = pa.array([[]] * len(values), values.type)
        elif deed == "null":
            made = pa.nulls(len(values), values.type)
        elif pa.types.is_list(kind):
            made = pa.array([[1]] * len(values), kind)
        else:
            made = pa.nulls(len(values), kind) if kind == pa.null() else pa.array(content).cast(pa.string())
            made = made if kind in (pa.string(), pa.null()) or pa.types.is_dictionary(kind) else _cast(made, kind)
        return table.set_column(place, names[place], made)
    if deed == "double":
        return table.append_column(names[place], values)
    if deed == "shorten" and pa.types.is_list(values.type):
        cut = [row[: to % 3] if row else row for row in values.to_pylist()]
        return table.set_column(place, names[place], pa.array(cut, values.type))
    if deed == "swap":
        return table.select([*range(1, len(names)), 0])
    if deed == "extra":
        return table.append_column("new_column", pa.array(["x"] * table.num_rows))
    if deed == "rows":
        return table.slice(0, 0)
    if deed == "pandas":
        return table.replace_schema_metadata(
            {b"pandas": [b"{", b"[]", b'{"index_columns": ["x"]}', b"\xff"][to % 4], b"dontblink.x": b"\xff"}
        )
    return table.replace_schema_metadata(None)


def _cast(values: pa.Array, kind: pa.DataType) -> pa.Array:
    return values.cast(pa.int64()).cast(kind) if kind == pa.bool_() else values.cast(kind)


def use(value: tuple[str, list[Deed], tuple[str, int]], folder: Path) -> None:
    """Read a table as the stages after its writer do; a file that is read has what the schema says."""
    name, deeds, (damage, place) = value
    table = good_tables()[name]
    for deed in deeds:
        if table.num_columns:
            table = alter(table, *deed)
    file = folder / "results" / "testbed" / "tables" / f"{name}.parquet"
    if file.is_dir():
        file.rmdir()
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)
    content = file.read_bytes()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "missing":
        file.unlink()
    elif damage:
        k = place % len(content)
        spoilt = {
            "cut": content[:k],
            "byte": content[:k] + bytes([content[k] ^ 0xFF]) + content[k + 1 :],
            "zero": b"",
            "text": b"x" * k,
        }
        file.write_bytes(spoilt[damage])
    try:
        if name == "responses":
            [found] = traces.read_responses(file) or [RESPONSE]
            assert found == RESPONSE or (damage or deeds)
            traces.read_note(file, "quarantined")
        elif name == "traces":
            for record in traces.read_traces(file):
                tables.check_record(tables.Measured(
                    ITEMS[-1], RESPONSE, record.trace, record.spans, record.token_texts, record.step_texts,
                    record.coverage, record.grids, {}
                ))  # fmt: skip
            traces.read_note(file, "responses")
        else:
            with patch.object(paths, "ROOT", folder):
                found = schema.read_tables("testbed", [name], split="test")[name]
            assert sorted(found) == sorted(schema.SCHEMAS[name])
    except (store.StoreError, schema.TableError) as error:
        # a record whose parts do not fit together is named by its item, everything else by its file
        assert file.name in str(error) or "item " in str(error), f"does not name the file: {error}"
        assert ";" in str(error), f"names no remedy: {error}"
        raise


def use_json(value: bytes, folder: Path) -> None:
    """Read back what make hands from one stage to the next."""
    file = folder / "results" / "testbed" / "params" / "extraction.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(value)
    with patch.object(paths, "ROOT", folder):
        params.read_section("testbed", "extraction")


NAMES = ["responses", "traces", *schema.SCHEMAS]
KINDS = [
    Kind(
        "shards of another version",
        use,
        st.tuples(
            st.sampled_from(NAMES),
            st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 30), st.integers(0, 20)), max_size=3),
            st.tuples(st.sampled_from(["", "", "", "", *DAMAGE]), st.integers(0, 10**6)),
        ),
        [
            (name, [(deed, column, column)], ("", 0))
            for name in ("responses", "traces", "items", "steps")
            for deed in DEEDS
            for column in range(0, 22, 3)
        ]
        + [("traces", [("shorten", column, to)], ("", 0)) for column in range(22) for to in range(3)]
        + [("responses", [("retype", column, to)], ("", 0)) for column in range(8) for to in range(7)]
        + [
            (name, [], (damage, place))
            for name in ("responses", "traces", "tokens")
            for damage in DAMAGE
            for place in (0, 4, 999, 3001)
        ],
    ),
    Kind(
        "parameters of a stage",
        use_json,
        st.binary(max_size=30) | TEXTS.map(lambda text: json.dumps({"a": text})[:-1].encode()),
        [b"", b"{", b"\xff", b"[]", b"1", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"],
    ),
]
