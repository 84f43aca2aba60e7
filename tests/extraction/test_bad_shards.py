"""Bad shards: token ids that no model should write, and files of an older version: columns lost, renamed and retyped,
other metadata, damaged bytes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bad_input import HOSTILE, attack, make_picture
from hypothesis import strategies as st

from dontblink import paths, schema, store
from dontblink.attention.replay import REGIONS
from dontblink.attention.traces import Trace, pack_traces, unpack_traces
from dontblink.errors import NamedError
from dontblink.extraction import study, tables
from dontblink.models.generate import build_response
from dontblink.models.response import Response, pack_responses, unpack_responses
from dontblink.models.samples import Sample, pack_samples
from dontblink.models.spans import Markers, Spans, segment
from dontblink.models.vlm import Prompt
from dontblink.publish import viewer
from dontblink.questions.items import GoldStep, Item
from dontblink.schema import HEAD_SETS

EOS, IMAGE, CLOSE, OPEN, BOX, END_BOX = range(6)
VOCABULARY = [
    "<|end|>", "<|image_pad|>", "</think>", "<think>", "<|begin_of_box|>", "<|end_of_box|>", "word ", "Answer:",
    " B", ".", "\n", "",
    *(text for text in HOSTILE if text.isascii() or text.encode("utf-8", "ignore").decode() == text), "\ufffd",
]  # fmt: skip
GRID, N_PROMPT = (2, 3), 9


def token_texts(ids: Sequence[int]) -> list[str]:
    """Return the text of each id alone."""
    return [VOCABULARY[i] for i in ids]


VLM: Any = SimpleNamespace(
    name="m", model=None, n_vocabulary=len(VOCABULARY), eos_ids=(EOS,), suppressed_ids=(IMAGE,),
    decode=lambda ids: "".join(token_texts(ids)),
)  # fmt: skip
PROMPT = Prompt("q1", np.arange(N_PROMPT), np.zeros((1, 1), np.float32), np.array([[1, 4, 6]]), ((40, 30),), (0,))
GENERATOR = "dontblink_testbed.benchmark"
ITEM = Item(
    "q1", "symbolic", "test", (make_picture(1),), HOSTILE[10], "7", "other", ("a",),
    gold_steps=(GoldStep("$x$ is <b>", "read", ()),),
)  # fmt: skip


def trace_of(response: Response, spans: Spans) -> Trace:
    """Return a trace whose parts fit together."""
    n, sets, m = len(response.response_ids), len(HEAD_SETS), GRID[0] * GRID[1]
    texts = tuple(token_texts(response.response_ids))
    coverage = np.array([0, 0, 1, 0, 0.5, 0], np.float32)
    return Trace(
        "q1", "m", np.ones(n, np.float32), np.full(n, 0.5, np.float32), -np.ones(n, np.float32),
        np.full((sets, n, len(REGIONS)), 0.2, np.float32), np.full((len(spans.steps), sets, m), 0.05, np.float32),
        np.full((2, 2, 2), 0.1, np.float32), spans, texts, tuple("".join(texts[a:b]) for a, b in spans.steps),
        "".join(texts[slice(*spans.answer)]), coverage, coverage[::-1], float(coverage.sum()), m, (GRID,), (0,),
    )  # fmt: skip


def use_ids(ids: list[int], folder: Path) -> None:
    """Take ids from an engine to shards, tables and the viewer, and find them unchanged in each."""
    response = build_response(VLM, PROMPT, ids)
    if not response.response_ids:
        return
    for thinks, opens in ((True, True), (True, False), (False, False)):
        markers = Markers(frozenset([EOS]), CLOSE, OPEN, BOX, END_BOX, opens, thinks)
        spans = segment(response.response_ids, markers, token_texts, "")
    store.write_table(folder / "responses.parquet", pack_responses([response]), {})
    [again] = unpack_responses(store.read_table(folder / "responses.parquet"))
    assert again == response
    trace = trace_of(response, spans)
    store.write_table(folder / "traces.parquet", pack_traces([trace]), {})
    [found] = unpack_traces(store.read_table(folder / "traces.parquet"))
    texts = trace.token_texts
    assert (found.spans, found.token_texts, found.step_texts) == (spans, texts, trace.step_texts)
    assert found.mass.shape == trace.mass.shape
    blocks = tables.build_blocks([ITEM], [response], [found], GENERATOR, "first")
    assert blocks["tokens"].num_rows == len(texts) and blocks["items"].num_rows == 1
    assert blocks["tokens"]["token_text"].to_pylist() == list(texts)
    if len(texts) < 1000:
        row = blocks["items"].to_pylist()[0] | {"collapse": 0.1, "quantile": 0.5}
        script = viewer.to_script("show", viewer.describe_response(ITEM, found, row, [0]))
        assert script.isascii() and not set("<>&") & set(script) and "\n" not in script[:-1]
        assert json.loads(script.removeprefix("dontblink.show(").removesuffix(");\n"))["tokens"] == list(texts)


ANY_ID = range(11, len(VOCABULARY))
ID_LISTS = [
    [], [EOS], [EOS, EOS], [CLOSE], [OPEN], [OPEN, 6, 6], [OPEN, 6, CLOSE], [6, 6, 6], [CLOSE, EOS], [IMAGE],
    [6, IMAGE, EOS], [-1], [10**6], [2**63], [-(2**70)], [BOX], [END_BOX, BOX], [CLOSE, BOX, END_BOX], [CLOSE] * 50,
    [BOX] * 50, [10] * 50, [11] * 50, [6] * 100_000, [6, 9] * 20_000 + [CLOSE, 7, 8, EOS],
    *([6, k, 9, CLOSE, 7, k, EOS] for k in ANY_ID),
]  # fmt: skip
IDS = st.integers(0, len(VOCABULARY) - 1)
test_ids_of_a_response = attack(
    "response ids",
    use_ids,
    st.lists(IDS | st.integers(-3, len(VOCABULARY) + 3), max_size=30) | st.lists(IDS, max_size=40),
    ID_LISTS,
)

Deed = tuple[str, int, int]
RESPONSE = build_response(VLM, PROMPT, [6, 9, 2, 7, 8, EOS])
TRACE = trace_of(RESPONSE, Spans((0, 2), (4, 5), ((0, 2),), True))
SAMPLE = Sample("q1", "m", 0, 6, "x 7", "7", True, "stop", "local", (6, 9, 2, 7, 8, EOS))
DEEDS = ["drop", "rename", "retype", "null", "empty", "double", "shorten", "swap", "extra", "rows", "strip", "pandas"]
DAMAGE = ["cut", "byte", "zero", "text", "folder", "missing"]


@functools.cache
def good_tables() -> dict[str, pa.Table]:
    """Return one good table of each kind."""
    blocks = tables.build_blocks([ITEM], [RESPONSE], [TRACE], GENERATOR, "first")
    shards = {"responses": pack_responses([RESPONSE]), "traces": pack_traces([TRACE]), "sampled": pack_samples([SAMPLE])}
    return shards | blocks | {"samples": tables.build_samples([ITEM], [SAMPLE], GENERATOR)}


def alter(table: pa.Table, deed: str, column: int, to: int) -> pa.Table:
    """Return a table as another version might have written it."""
    names = table.column_names
    place = column % len(names)
    values = table.column(place)
    types = [pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.list_(pa.int64()), pa.binary(), pa.null()]
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
    results = folder / "results" / "testbed"
    file = results / "tables" / name / "m" / "symbolic-test-000-key.parquet"
    if file.is_dir():
        file.rmdir()
    file.parent.mkdir(parents=True, exist_ok=True)
    parts = ["m/symbolic-test-000-key"]
    (results / "extraction.json").write_text(json.dumps({"parts": parts, "sample_parts": parts}))
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
            [found] = study.read_responses(file) or [RESPONSE]
            assert found == RESPONSE or (damage or deeds)
            study.read_reasons(file)
        elif name == "sampled":
            found = study.read_samples(file)
            assert found == [SAMPLE] or (damage or deeds)
        elif name == "traces":
            for trace in study.read_traces(file):
                tables.check_trace(RESPONSE, trace)
            study.read_reasons(file)
        else:
            with patch.object(paths, "ROOT", folder):
                found = schema.read_tables("testbed", [name], split="test")[name]
            assert sorted(found) == sorted(schema.SCHEMAS[name])
    except NamedError as error:
        # a record whose parts do not fit together is named by its item, everything else by its file
        assert file.name in str(error) or "item " in str(error), f"does not name the file: {error}"
        assert ";" in str(error), f"names no remedy: {error}"
        raise


NAMES = ["responses", "sampled", "traces", *(name for name in schema.SCHEMAS if name not in schema.CAUSAL)]
test_shards_of_another_version = attack(
    "shards of another version",
    use,
    st.tuples(
        st.sampled_from(NAMES),
        st.lists(st.tuples(st.sampled_from(DEEDS), st.integers(0, 30), st.integers(0, 20)), max_size=3),
        st.tuples(st.sampled_from(["", "", "", "", *DAMAGE]), st.integers(0, 10**6)),
    ),
    [
        (name, [(deed, column, column)], ("", 0))
        for name in ("responses", "sampled", "traces", "items", "steps", "samples")
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
)
