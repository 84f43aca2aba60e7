"""A change of what a file depends on gives exactly the files that depend on it another name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_extraction import MODEL, N_SAMPLED, PROFILE, write_settings

from dontblink import lineage
from dontblink.errors import NamedError
from dontblink.extraction.study import MADE_BY, MEASURED_BY, SAMPLED_BY, Study, hash_checkpoint

MEASURED, SAMPLED = {"heads", "traces", "parts"}, {"samples", "sample tables"}
ALL = {"responses", *MEASURED, *SAMPLED}


def name_files() -> dict[str, set[Path]]:
    """Return the files of every shard by stage; no traces and parts where the heads that choose the grounding lack."""
    study = Study(PROFILE)
    shards = study.shards(MODEL)
    try:
        traces = {study.trace_file(shard) for shard in shards}
        parts = {file for shard in shards for file in study.parts(shard).values()}
    except NamedError:
        traces, parts = set[Path](), set[Path]()
    heads = {study.heads_file(shard) for shard in shards if shard.split == "calibration"}
    responses = {study.response_file(shard) for shard in shards}
    sampled = [shard for shard in shards if shard.n_sampled]
    return {
        "responses": responses, "heads": heads, "traces": traces, "parts": parts,
        "samples": {study.sample_file(shard) for shard in sampled},
        "sample tables": {study.sample_part(shard) for shard in sampled},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "renamed"),
    [
        *(({name: value}, ALL) for name, value in (
            ("max_new_tokens", 90), ("generation_seed", 3), ("thinking", "disabled"),
            ("max_image_tokens", 100), ("attention", "eager"), ("batch_size", 2), ("dtype", "bfloat16"),
            ("device", "cuda"), ("item_seed", 2),
        )),
        *(({name: value}, ALL - SAMPLED) for name, value in (("temperature", 0.5), ("top_p", 0.5), ("top_k", 7))),
        ({"samples_per_item": 4}, SAMPLED),
        *(({name: value}, MEASURED) for name, value in (
            ("control_seed", 2), ("replay_batch_tokens", 4000), ("replay_implementation", "generic"),
            ("retokenised", "keep"),
        )),
        ({"grounding_layers": 2}, {"traces", "parts"}),
        ({"grounding_heads": 2}, {"traces", "parts"}),
        ({"sink_rule": "border"}, {"parts"}),
        *(({name: value}, set()) for name, value in (
            ("n_cross_checked_items", 3), ("expected_response_tokens", 9), ("timeout_s", 9.0),
        )),
    ],
)  # fmt: skip
def test_another_setting_renames_exactly_the_files_that_depend_on_it(
    small_copy: Path, change: dict[str, Any], renamed: set[str]
) -> None:
    before = name_files()
    write_settings(small_copy, **change)
    after = name_files()
    assert {stage for stage in ALL if before[stage] != after[stage]} == renamed
    assert all(before[stage].isdisjoint(after[stage]) for stage in renamed)


@pytest.mark.parametrize(
    ("change", "renamed"),
    [
        ({"verification": "skip"}, {"responses", "heads", *SAMPLED}),
        ({"temperature": 0.5}, {"responses", "heads"}),
        ({"dtype": "bfloat16"}, {"heads"}),
        ({"device": "cuda"}, {"heads"}),
        ({"retokenised": "keep"}, {"heads"}),
        ({"batch_size": 2}, set()),
        ({"url": "http://elsewhere/v1"}, set()),
    ],
)
def test_what_a_server_wrote_depends_on_how_it_was_checked_and_not_on_this_machine(
    small_copy: Path, change: dict[str, Any], renamed: set[str]
) -> None:
    write_settings(small_copy, engine="server")
    before = name_files()
    write_settings(small_copy, engine="server", **change)
    after = name_files()
    assert {stage for stage in ALL if before[stage] != after[stage]} == renamed and not after["traces"]


def test_more_sampled_items_rename_the_samples_of_the_shards_that_have_them(small_copy: Path) -> None:
    before = name_files()
    for n_sampled, n_shards in ((N_SAMPLED + 1, 4), (12, 2), (1, 2), (0, 0)):
        write_settings(small_copy, n_sampled_items=n_sampled)
        after = name_files()
        assert {stage for stage in ALL if before[stage] != after[stage]} == SAMPLED
        kept = n_sampled >= 12  # the first shard of a benchmark, all of whose items are sampled as before
        for stage in SAMPLED:
            assert len(after[stage]) == n_shards and len(after[stage] & before[stage]) == 2 * kept


@pytest.mark.parametrize("modules", [*MADE_BY.values(), MEASURED_BY, SAMPLED_BY])
def test_no_shard_depends_on_code_that_names_stores_or_tabulates_what_it_holds(modules: tuple[str, ...]) -> None:
    files, _ = lineage.trace(file for name in modules if (file := lineage.find_module(name)))
    reached = {file.removeprefix("lib/dontblink/") for file in files}
    assert {"models/generate.py", "models/vlm.py", "questions/items.py"} <= reached
    assert not reached & {"schema.py", "store.py", "extraction/tables.py", "extraction/study.py", "extraction/run.py"}
    assert ("attention/replay.py" in reached) == (modules == MEASURED_BY)


def test_a_checkpoint_is_hashed_once_and_again_when_it_changes(tmp_path: Path) -> None:
    folder, cache = tmp_path / "model", tmp_path / "hashes.json"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "notes.txt").write_text("no part of it")
    first = hash_checkpoint(folder, cache)
    (folder / "notes.txt").write_text("changed")
    assert hash_checkpoint(folder, cache) == first and len(json.loads(cache.read_text())) == 1
    (folder / "config.json").write_text('{"a": 1}')
    assert hash_checkpoint(folder, cache) != first


@pytest.mark.parametrize("content", [b"", b'{"a": "b', b"[1]", b"\xff\xfe", b'{"a": 1}', b'{"a": "no hash"}'])
def test_a_damaged_cache_of_hashes_is_ignored_and_written_anew(tmp_path: Path, content: bytes) -> None:
    folder, cache = tmp_path / "model", tmp_path / "hashes.json"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    first, whole = hash_checkpoint(folder, cache), cache.read_bytes()
    cache.write_bytes(content)
    assert hash_checkpoint(folder, cache) == first and cache.read_bytes() == whole
