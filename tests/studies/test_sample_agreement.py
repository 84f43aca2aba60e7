"""Claims about agreement: the share of samples that say what the response says, and no row lost for its outcome."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from small_extraction import BENCHMARKS, N_DRAWN, N_SAMPLED, PROFILE

from dontblink import schema
from dontblink.statistics.bootstrap import EstimateError
from dontblink.studies.sample_agreement import join_agreement

KEY = {"model": "m", "benchmark": "b", "split": "test"}


def make_items(*rows: tuple[str, str, bool]) -> pd.DataFrame:
    """Rows of (item, prediction, parsed)."""
    return pd.DataFrame([KEY | {"item_id": i, "prediction": p, "parsed": found} for i, p, found in rows])


def make_samples(item: str, *answers: str) -> pd.DataFrame:
    """Samples of one item; '' is not parsed."""
    rows = [{"item_id": item, "sample_index": k, "prediction": a, "parsed": bool(a)} for k, a in enumerate(answers)]
    return pd.DataFrame([KEY | row for row in rows])


def test_agreement_is_the_share_of_samples_with_the_answer_of_the_response() -> None:
    items = make_items(("c", "4", True), ("a", "7", True), ("b", "", False), ("not asked again", "7", True))
    items.index = pd.Index([9, 3, 5, 7])
    drawn = [("a", "7", "7", "8", "", "7"), ("b", "7", "", "7", "", ""), ("c", "1", "2", "3", "", "5")]
    samples = pd.concat([make_samples(*row) for row in drawn]).sample(frac=1, random_state=0)
    found = join_agreement(items, samples)
    assert found["item_id"].tolist() == ["c", "a", "b"] and found["n_samples"].tolist() == [5, 5, 5]
    np.testing.assert_array_equal(found["sample_agreement"], [0.0, 0.6, np.nan])  # '' equals '' and yet agrees not


def test_every_model_has_samples_of_its_own_and_a_split_does_not_lend_them() -> None:
    items = pd.concat([make_items(("a", "7", True)).assign(model=model) for model in "mn"])
    items = pd.concat([items, items.assign(split="calibration")])
    samples = pd.concat([make_samples("a", "7", "7"), make_samples("a", "7", "1").assign(model="n")])
    found = join_agreement(items, samples)
    assert found["model"].tolist() == ["m", "n"] and found["sample_agreement"].tolist() == [1.0, 0.5]
    assert set(found["split"]) == {"test"}


def test_samples_that_occur_twice_or_of_no_item_are_an_error() -> None:
    items, samples = make_items(("a", "7", True)), make_samples("a", "7")
    with pytest.raises(EstimateError, match="occurs twice"):
        join_agreement(items, pd.concat([samples, samples]))
    with pytest.raises(EstimateError, match="no item of this table was sampled; raise extraction.n_sampled_items"):
        join_agreement(items, make_samples("z", "7"))
    with pytest.raises(EstimateError, match="no item of this table was sampled"):
        join_agreement(items, samples.head(0))


def test_the_small_study_has_the_first_items_of_each_benchmark_whatever_was_answered(small: None) -> None:
    tables = schema.read_tables(PROFILE, ["items", "samples"], split="test")
    found = join_agreement(tables["items"], tables["samples"])
    first = [f"{name}-test-{k:04d}" for name in BENCHMARKS for k in range(N_SAMPLED)]
    assert sorted(found["item_id"]) == sorted(first) and (found["n_samples"] == N_DRAWN).all()
    assert found["sample_agreement"].between(0, 1).all() and 0 < found["sample_agreement"].mean() < 1
