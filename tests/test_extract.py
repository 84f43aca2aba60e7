"""An extraction can stop anywhere, recomputes what is missing and nothing else, and loses no item."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dontblink import files as locks
from dontblink import lineage, params, paths, schema, store
from dontblink.attention import traces as shards
from dontblink.errors import NamedError
from dontblink.extraction import examples, run, study
from dontblink.extraction.run import Extraction
from dontblink.extraction.tables import bin_table
from dontblink.questions.items import Box
from dontblink.studies.collapse import pair_bins
from dontblink_testbed import benchmark

ROOT = Path(__file__).parents[1]
MODEL = "qwen3vl-tiny-s"
SETTINGS: dict[str, Any] = {
    "models": [MODEL], "checkpoints_folder": str(ROOT / "models" / "testbed"), "benchmarks": ["visual_reference"],
    "max_new_tokens": 100, "batch_size": 4, "shard_items": 4, "control_seed": 1, "n_cross_checked_items": 2,
}  # fmt: skip
TESTBED: dict[str, Any] = {
    "item_seed": 1, "n_test_items": 7, "n_calibration_items": 4, "n_example_items": 1,
    "visual_reference_chain_length": [2, 3], "visual_reference_noise_level": [0.0, 0.2],
}  # fmt: skip


def write_settings(root: Path, **changes: Any) -> None:
    _, sections = params.load(ROOT / "params" / "testbed.yaml")
    for section, values in (("extraction", SETTINGS), ("testbed", TESTBED), ("server", {})):
        sections[section] |= values | {key: value for key, value in changes.items() if key in sections[section]}
    params.write_sections(sections, root / "results" / "small" / "params")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run one small extraction with a shipped checkpoint; tests copy it."""
    root = tmp_path_factory.mktemp("checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "ROOT", root)
        write_settings(root)
        Extraction("small").run(jobs=1)
    return root


@pytest.fixture
def checkout(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = tmp_path / "copy"
    shutil.copytree(finished, root)
    monkeypatch.setattr(paths, "ROOT", root)
    yield root


def shard_files(root: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in sorted((root / "results" / "small").glob("*/*/*.parquet"))}


def test_every_item_is_in_the_tables_and_the_masses_sum_to_one(checkout: Path) -> None:
    tables = schema.read_tables("small", ["items", "token_masses", "tokens"])
    assert len(tables["items"]) == 7 + 4 and (tables["items"]["split"] == "test").sum() == 7
    regions = [f"{name}_mass" for name in schema.REGIONS if name != "control_box"]
    np.testing.assert_allclose(tables["token_masses"][regions].sum(axis=1), 1, atol=1e-5)
    assert (tables["tokens"]["entropy_nats"] >= 0).all()
    listed = paths.shard_list("small").read_text().split()
    tables_there = set((checkout / "results" / "small" / "tables").iterdir())
    assert {checkout / name for name in listed} == set(shard_files(checkout)) | tables_there


def test_a_second_run_computes_nothing(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shard_files(checkout)
    monkeypatch.setattr(run, "load_model", lambda *_, **__: pytest.fail("the model was loaded again"))
    Extraction("small").run(jobs=1)
    assert shard_files(checkout) == before


@pytest.mark.parametrize("kind", ["responses", "traces"])
def test_a_deleted_shard_and_only_that_one_is_computed_again_to_the_same_bytes(checkout: Path, kind: str) -> None:
    before = shard_files(checkout)
    lost = next(path for path in before if path.parent.parent.name == kind)
    content = lost.read_bytes()
    lost.unlink()
    Extraction("small").run(jobs=1)
    after = shard_files(checkout)
    assert lost.read_bytes() == content
    assert {path: age for path, age in after.items() if path != lost} == {p: a for p, a in before.items() if p != lost}


@pytest.mark.parametrize("kind", ["responses", "heads", "traces"])
def test_a_damaged_shard_is_kept_aside_with_a_line_and_computed_again_to_the_same_bytes(
    checkout: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shard_files(checkout)
    broken = next(path for path in before if path.parent.parent.name == kind)
    content = broken.read_bytes()
    broken.write_bytes(content[:-50])
    Extraction("small").run(jobs=1)
    assert broken.read_bytes() == content
    assert broken.with_name(f"{broken.name}.damaged").read_bytes() == content[:-50]
    said = [line for line in capsys.readouterr().out.splitlines() if "damaged" in line]
    assert len(said) == 1 and f"kept as {broken.name}.damaged, computed again" in said[0]
    assert {p: a for p, a in shard_files(checkout).items() if p != broken} == {
        p: a for p, a in before.items() if p != broken
    }


@pytest.mark.parametrize("kind", ["heads", "traces"])
def test_what_was_measured_on_other_responses_is_measured_again(checkout: Path, kind: str) -> None:
    stale = next(path for path in shard_files(checkout) if path.parent.parent.name == kind)
    content = stale.read_bytes()
    store.write_table(stale, store.read_table(stale), store.read_metadata(stale) | {"responses": "of another day"})
    Extraction("small").run(jobs=1)
    assert stale.read_bytes() == content


def test_a_shard_that_is_damaged_whenever_it_is_written_ends_the_run(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = store.write_table

    def write_badly(path: Path, *arguments: Any) -> None:
        write(path, *arguments)
        if path.parent.parent.name == "traces":
            path.write_bytes(path.read_bytes()[:-1])

    next((checkout / "results" / "small" / "traces" / MODEL).iterdir()).unlink()
    monkeypatch.setattr(store, "write_table", write_badly)
    with pytest.raises(store.DamagedError, match="damaged or truncated"):
        Extraction("small").run(jobs=1)


def test_while_something_is_written_there_is_no_manifest_and_afterwards_it_has_its_old_age(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, write, seen = paths.extraction_manifest("small"), store.write_table, []
    age = manifest.stat().st_mtime_ns

    def look(*arguments: Any) -> None:
        seen.append(manifest.exists())
        write(*arguments)

    monkeypatch.setattr(store, "write_table", look)
    next((checkout / "results" / "small" / "traces" / MODEL).iterdir()).unlink()
    Extraction("small").run(jobs=1)
    assert len(seen) > 5 and not any(seen)
    assert manifest.stat().st_mtime_ns == age and not paths.withdrawn_manifest("small").exists()


def test_a_run_on_a_profile_that_another_works_on_says_who_that_is(checkout: Path) -> None:
    with locks.hold(paths.lock("small")), pytest.raises(NamedError, match=rf"in use by process {os.getpid()} on "):
        Extraction("small").run(jobs=1)
    Extraction("small").run(jobs=1)


def test_other_settings_never_meet_old_shards(checkout: Path) -> None:
    keys = {shard.replay_key for shard in Extraction("small").shards(MODEL)}
    for change in (
        {"max_new_tokens": 90}, {"control_seed": 2}, {"item_seed": 2}, {"dtype": "bfloat16"},
        {"replay_batch_tokens": 4000}, {"attention": "eager"}, {"batch_size": 2},
    ):  # fmt: skip
        write_settings(checkout, **change)
        assert keys.isdisjoint(shard.replay_key for shard in Extraction("small").shards(MODEL)), change
    write_settings(checkout)
    traces = {Extraction("small").trace_file(shard) for shard in Extraction("small").shards(MODEL)}
    write_settings(checkout, grounding_layers=2)
    assert keys == {shard.replay_key for shard in Extraction("small").shards(MODEL)}
    assert traces.isdisjoint({Extraction("small").trace_file(shard) for shard in Extraction("small").shards(MODEL)})


def test_what_a_server_wrote_depends_on_how_it_was_checked_and_not_on_this_machine(checkout: Path) -> None:
    write_settings(checkout, engine="server")
    (known,) = {shard.response_key for shard in Extraction("small").shards(MODEL) if shard.split == "calibration"}
    for change in ({"dtype": "bfloat16"}, {"device": "cuda"}, {"batch_size": 2}, {"retokenised": "keep"}):
        write_settings(checkout, engine="server", **change)
        shards = Extraction("small").shards(MODEL)
        assert known in {shard.response_key for shard in shards}, change
    write_settings(checkout, engine="server", verification="skip")
    assert known not in {shard.response_key for shard in Extraction("small").shards(MODEL)}


# they name, check, store or show what others made, and decide no value of a shard
MAKE_NO_VALUE = {"__init__", "messages", "paths", "progress", "schema", "store"}


@pytest.mark.parametrize(
    ("makers", "code"),
    [
        (["generate"], study.RESPONSE_CODE),
        (["server"], (*study.RESPONSE_CODE, *study.SERVER_CODE, "fingerprint")),  # that one refuses or lets pass
        (["traces", "grounding"], study.TRACE_CODE),
    ],
)
def test_the_code_that_makes_a_shard_is_part_of_its_key(makers: list[str], code: tuple[str, ...]) -> None:
    package = Path(study.__file__).parent
    files, _ = lineage.trace([package / f"{name}.py" for name in makers])
    modules = {file.removeprefix("lib/dontblink/").removesuffix(".py") for file in files}
    assert len(modules) > 8 and modules - set(code) <= MAKE_NO_VALUE
    assert all((package / f"{name}.py").is_file() for name in code)


def test_a_repair_chooses_the_grounding_again(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extraction = Extraction("small")
    extraction.run(jobs=1)
    true, (file,) = extraction.grounding(MODEL), paths.heads("small").rglob("*.parquet")
    extraction._grounding[MODEL] = dataclasses.replace(true, layers=(99,))
    file.write_bytes(file.read_bytes()[:100])
    extraction.run(jobs=1)
    assert extraction.grounding(MODEL) == true
    assert schema.read_manifest("small")["grounding"][MODEL]["layers"] == list(true.layers)


def test_a_missing_checkpoint_is_one_line_with_the_remedy(checkout: Path) -> None:
    write_settings(checkout, checkpoints_folder=str(checkout / "nowhere"))
    with pytest.raises(NamedError, match=r"nowhere/qwen3vl-tiny-s: no checkpoint here .*; run `make testbed`") as found:
        Extraction("small").run(jobs=1)
    assert "\n" not in str(found.value)


def test_bad_items_are_quarantined_with_their_reasons_and_the_others_go_on(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = benchmark.load_items

    def spoil(*arguments: Any) -> Iterator[Any]:
        for index, item in enumerate(make(*arguments)):
            if item.split == "test" and index == 0:
                item = dataclasses.replace(item, images=(item.images[0][:200],))
            if item.split == "test" and index == 1:
                item = dataclasses.replace(item, boxes=(Box(0, 90.0, 0.0, 99.0, 5.0),))
            yield item

    monkeypatch.setattr(benchmark, "load_items", spoil)
    Extraction("small").run(jobs=1)
    rows = store.read_quarantine(paths.tables("small") / "quarantine.parquet")
    assert [row.item_id for row in rows] == ["visual_reference-test-0000", "visual_reference-test-0001"]
    assert "not a readable image" in rows[0].reason
    assert "lies outside its 96x96 px image" in rows[1].reason
    items = schema.read_tables("small", ["items"], split="test")["items"]
    assert len(items) == 5 and not set(items["item_id"]) & {row.item_id for row in rows}


def test_a_response_without_a_token_is_quarantined(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack = shards.unpack_responses

    def empty_first(table: Any) -> list[Any]:
        responses = unpack(table)
        return [dataclasses.replace(responses[0], response_ids=()), *responses[1:]]

    monkeypatch.setattr(shards, "unpack_responses", empty_first)
    for path in shard_files(checkout):
        if path.parent.parent.name == "traces":
            path.unlink()
    Extraction("small").run(jobs=1)
    rows = store.read_quarantine(paths.tables("small") / "quarantine.parquet")
    assert len(rows) == 3 and {row.reason for row in rows} == {"empty response: no token to replay"}


def test_shard_records_survive_the_disk_unchanged(checkout: Path) -> None:
    records = list(shards.iterate_traces("small", MODEL, "visual_reference"))
    again = shards.unpack_traces(shards.pack_traces(records))
    assert [r.trace.item_id for r in records] == [f"visual_reference-test-{k:04d}" for k in range(7)]
    for a, b in zip(records, again, strict=True):
        for name in ("mass", "step_map", "entropy_nats", "log_probability_nats"):
            np.testing.assert_array_equal(getattr(a.trace, name), getattr(b.trace, name))
        assert (a.spans, a.token_texts, a.step_texts, a.answer_text, a.grids) == (
            b.spans, b.token_texts, b.step_texts, b.answer_text, b.grids)  # fmt: skip
    with pytest.raises(store.StoreError, match="no trace shard of nobody x visual_reference"):
        next(shards.iterate_traces("small", "nobody", "visual_reference"))


def test_the_other_implementation_measures_the_same(checkout: Path) -> None:
    row = examples.compare_replays("small", [MODEL], 3, "chunk").iloc[0]
    assert row["mass"] <= 1e-5 and row["step_map"] <= 1e-5 and row["entropy_nats"] <= 1e-4


def test_a_misread_is_found_where_a_gold_read_is_not_written(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = examples.count_misreads("small", [MODEL], ["visual_reference"]).set_index("item_id")
    assert len(found) == 7 and found["reads_right"].any()
    spoilt = found.index[found["reads_right"]][0]
    whole = shards.iterate_traces

    def without_first_step(*cell: str) -> Iterator[Any]:
        for record in whole(*cell):
            is_spoilt = record.trace.item_id == spoilt
            yield dataclasses.replace(record, step_texts=record.step_texts[1:]) if is_spoilt else record

    monkeypatch.setattr(shards, "iterate_traces", without_first_step)
    again = examples.count_misreads("small", [MODEL], ["visual_reference"]).set_index("item_id")
    assert not again.loc[spoilt, "reads_right"]
    assert again["reads_right"].sum() == found["reads_right"].sum() - 1


def test_pictures_are_picked_by_quantile_among_correct_answers(checkout: Path) -> None:
    tables = schema.read_tables("small", ["items", "tokens", "token_masses"], split="test")
    pairs = pair_bins(bin_table(tables["tokens"], tables["token_masses"], 3))
    low, high = examples.pick_by_collapse(pairs, tables["items"], MODEL, "visual_reference", [0.0, 1.0])
    collapse = pairs[pairs["head_set"] == "grounding_layers"].set_index("item_id")
    ratio = collapse["evidence_mass_last"] / collapse["evidence_mass_first"]
    assert ratio[low] >= ratio[high]
    strip = examples.load_strip("small", MODEL, low)
    assert strip["step_maps"].shape == (len(strip["step_texts"]), 36)
    maps, coverage = examples.mean_maps("small", MODEL, "visual_reference")
    assert maps.shape == coverage.shape == (7, 36) and (maps.sum(axis=1) <= 1).all()
