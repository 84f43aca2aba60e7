"""Second looks at a finished extraction: pictures by rule, maps of a cell, another replay, misreads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_extraction import MODEL, N_TEST, PROFILE

from dontblink import schema
from dontblink.extraction import examples, study
from dontblink.extraction.tables import read_bins
from dontblink.studies.collapse import pair_bins
from dontblink_testbed.misreads import count_misreads

CELL = (MODEL, "visual_reference")


def test_the_other_implementation_measures_the_same(small: Path) -> None:
    rows = examples.compare_replays(PROFILE, [MODEL], 3, "generic")
    assert rows["n_items"].tolist() == [3, 3]
    assert (rows[["mass_difference", "step_map_difference"]] <= 1e-5).all(axis=None)
    assert (rows["entropy_difference_nats"] <= 1e-4).all()


def test_a_misread_is_found_where_a_gold_read_is_not_written(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = count_misreads(PROFILE, [MODEL], ["visual_reference"]).set_index("item_id")
    assert len(found) == N_TEST and found["reads_right"].any()
    spoilt = found.index[found["reads_right"]][0]
    whole = study.iterate_traces

    def without_first_step(*cell: str) -> Iterator[Any]:
        for trace in whole(*cell):
            is_spoilt = trace.item_id == spoilt
            yield dataclasses.replace(trace, step_texts=trace.step_texts[1:]) if is_spoilt else trace

    monkeypatch.setattr(study, "iterate_traces", without_first_step)
    again = count_misreads(PROFILE, [MODEL], ["visual_reference"]).set_index("item_id")
    assert not again.loc[spoilt, "reads_right"]
    assert again["reads_right"].sum() == found["reads_right"].sum() - 1


def test_pictures_are_picked_by_quantile_among_correct_answers(small: Path) -> None:
    items = schema.read_tables(PROFILE, ["items"], split="test")["items"]
    pairs = pair_bins(read_bins(PROFILE, 3, split="test"))
    low, high = examples.pick_by_collapse(pairs, items, *CELL, [0.0, 1.0])
    collapse = pairs[pairs["head_set"] == "grounding_layers"].set_index("item_id")
    ratio = collapse["evidence_mass_last"] / collapse["evidence_mass_first"]
    assert ratio[low] >= ratio[high]
    (strip, _) = examples.load_strips(PROFILE, MODEL, [low, high])
    assert strip["step_maps"].shape == (len(strip["step_texts"]), 36)
    ((maps, coverage),) = examples.mean_maps(PROFILE, *CELL, set(items["item_id"].astype(str)))
    assert maps.shape == coverage.shape == (N_TEST, 36) and (maps.sum(axis=1) <= 1).all()
    ((maps, _),) = examples.mean_maps(PROFILE, *CELL, {low, high})
    assert len(maps) == len({low, high}) and examples.mean_maps(PROFILE, *CELL, ()) == []
