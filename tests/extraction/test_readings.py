"""Evidence without annotators, on the small study: read once, resumed, looked at, proposed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_extraction import BENCHMARKS, HERE, MODEL, PROFILE

from dontblink import params, paths, schema
from dontblink.boxes.annotations import read_annotations
from dontblink.boxes.evidence import item_coverage
from dontblink.errors import NamedError
from dontblink.extraction.readings import Readings, cut_ends
from dontblink.models.generate import encode_items


def settle(**changes: object) -> Readings:
    """Return the readings of two test items of each benchmark of the small study."""
    _, sections = params.load(HERE / "params" / "testbed.yaml")
    own = sections["occlusion"] | {"annotators": [MODEL], "n_items": 4, "regions_across": [2, 6]} | changes
    (paths.results(PROFILE) / "params" / "occlusion.json").write_text(json.dumps(own))
    return Readings(PROFILE)




def test_responses_are_read_once_and_proposals_lie_on_their_tokens(small_copy: Path) -> None:
    readings = settle()
    readings.run(jobs=1)
    files = sorted(paths.readings(PROFILE).rglob("*.parquet"))
    ages = [file.stat().st_mtime_ns for file in files]
    settle().run(jobs=1)
    assert [file.stat().st_mtime_ns for file in files] == ages and len(files) >= 5

    items = schema.read_tables(PROFILE, ["items"], split="test")["items"].astype({"item_id": str})
    right = set(items[items["correct"]]["item_id"])
    bins = schema.read_tables(PROFILE, ["bins"], split="test", n_bins=10, head_set="grounding_layers")["bins"]
    bins = bins.astype({"item_id": str}).set_index(["item_id", "bin"])["evidence_mass"]
    vlm = readings.study.load_model(MODEL)
    for benchmark in BENCHMARKS:
        asked = {item.id: item for item in readings.study.items[benchmark, "test"]}
        found = readings.collect(MODEL, benchmark)
        assert set(found) == {2, 6} and set(found[2]) == set(found[6]) == {*list(asked)[:4]} & right
        assert all(read.reading.whole_nats > 0 for read in found[6].values())
        ends = readings.read_ends(MODEL, benchmark)
        assert len(ends) > 15
        for item_id, look in ends.items():
            (prompt,) = encode_items(vlm, [asked[item_id]])
            boxes = item_coverage(asked[item_id], vlm.image_grid(prompt))
            masses = [bins[item_id, number] for number in (0, 9)]
            assert np.allclose([look.first @ boxes, look.last @ boxes], masses, atol=2e-6)

    readings.study.question_settings["evidence_folder"] = str(small_copy / "evidence")
    assert readings.propose(BENCHMARKS[0]) == (0, {})  # every item brings its boxes
    readings.study.lacking_boxes |= dict.fromkeys(asked, "taken away")
    n_proposed, left_out = readings.propose(BENCHMARKS[1])
    assert n_proposed + len(left_out) == 4 and n_proposed
    proposed, rejected = read_annotations(readings.study.evidence_file(BENCHMARKS[1]))
    assert not rejected and {line.status for line in proposed} == {"proposed"}
    for line in proposed:
        read = readings.collect(MODEL, BENCHMARKS[1])[2][line.item_id]
        covered = item_coverage(replace(asked[line.item_id], boxes=line.boxes), read.grids)
        assert np.array_equal(covered > 0.5, read.reading.evidence) and set(np.unique(covered)) <= {0, 1}
        assert line.source == f"proposed by occlusion by {MODEL}" and line.is_models_own()


def test_an_annotator_that_is_not_asked_is_named(small_copy: Path) -> None:
    with pytest.raises(NamedError, match="occlusion.annotators: nobody not asked in this study"):
        settle(annotators=["nobody"])


def test_ends_are_the_tokens_of_the_first_and_the_last_bin() -> None:
    for n_tokens in (1, 4, 9, 10, 11, 37):
        number = [int(10 * (t + 0.5) / n_tokens) for t in range(n_tokens)]
        assert cut_ends(n_tokens, 10) == (number.count(0), number.count(9))
    assert cut_ends(0, 10) == (0, 0)
