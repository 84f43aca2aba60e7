"""The rule on proposed evidence: it passes what recovers the collapse, and not what the control passes as well."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from dontblink.attention.occlusion import Reading
from dontblink.extraction.readings import Ends, Read
from dontblink.publish.evidence import compare, describe, find_densest_half, judge, share_readings
from dontblink.statistics.bootstrap import Resampling

RULE = {"least_auc": 0.95, "least_iou": 0.6, "most_difference": 0.05}
FEW = Resampling(400, 1, 0.95, "t")


def make_study(n: int = 40, *, own_is_true: bool = False, shift: int = 0) -> tuple[dict, dict, dict]:  # type: ignore[type-arg]
    """Items of 36 tokens with two of evidence, a look that falls there by half, and readings `shift` tokens aside."""
    rng = np.random.default_rng(3)
    reads, ends, true = {}, {}, {}
    for k in range(n):
        boxes, level = np.zeros(36), rng.uniform(0.5, 1.5)
        boxes[rng.choice(36, 2, replace=False)] = 1
        found = np.roll(boxes, shift) > 0
        first = np.where(boxes > 0, 0.1, 0.01) * level
        last = np.where(boxes > 0, 0.05, 0.01) * level * rng.uniform(0.9, 1.1)
        # the densest half of a look that dwells on a bright corner, or on the evidence
        whole = np.where(boxes > 0, 1.0, 0.001) if own_is_true else np.where(np.arange(36) < 3, 1.0, 0.01)
        drop = np.where(found, 5.0, 0.0).astype(np.float32)
        reads[f"i{k}"] = Read(Reading(drop, found, 10.0, 9.0, 0.5, 0.0, 41), ((6, 6),), (0,))
        ends[f"i{k}"] = Ends(*(look.astype(np.float32) for look in (first, last, whole)))
        true[f"i{k}"] = boxes
    return reads, ends, true


def test_exact_evidence_is_recovered_and_aside_it_is_not() -> None:
    row = compare(*make_study(), seed=1, resampling=FEW)
    assert row["n_items"] == 40 and row["auc"] == row["iou"] == 1 and row["estimate"] == 0
    assert row["true_collapse"] == row["recovered_collapse"] and abs(row["true_collapse"] - 0.5) < 0.05
    assert row["elsewhere_difference"] < -0.4  # tokens elsewhere lose nothing
    assert judge(row, RULE) == "recovered"
    aside = compare(*make_study(shift=1), seed=1, resampling=FEW)
    assert judge(aside, RULE) == "misses AUC, IoU, collapse" and aside["estimate"] < -0.3


def test_a_control_that_passes_makes_the_rule_uninformative() -> None:
    row = compare(*make_study(own_is_true=True), seed=1, resampling=FEW)
    assert row["own_auc"] == 1 and judge(row, RULE) == "uninformative"


def test_too_few_items_have_a_count_and_no_estimate() -> None:
    row = compare(*make_study(n=19), seed=1, resampling=FEW)
    assert row == {"n_items": 19} and judge(row, RULE) == "too few items"


def test_what_annotators_share_is_the_common_evidence_of_items_that_all_have() -> None:
    here, _, _ = make_study(n=3)
    opposite = replace(here["i1"].reading, evidence=~here["i1"].reading.evidence)
    other = {"i0": here["i0"], "i1": here["i1"]._replace(reading=opposite)}
    assert set(share_readings({"a": here, "b": other})) == {"i0"}


def test_the_densest_half_is_the_fewest_tokens_that_hold_it() -> None:
    assert find_densest_half(np.array([0.1, 0.6, 0.3], np.float32)).tolist() == [0, 1, 0]
    assert find_densest_half(np.array([0.25, 0.25, 0.3, 0.2], np.float32)).sum() == 2


def test_the_sentence_counts_what_is_near_and_what_the_controls_do() -> None:
    near, far = (compare(*make_study(shift=shift), seed=1, resampling=FEW) for shift in (0, 1))
    rows = pd.DataFrame([row | {"verdict": judge(row, RULE)} for row in (near, far, {"n_items": 3})])
    said = describe(rows, RULE)
    assert "inside +-0.05 in 1 of 2" in said and "0.95 or more in 1" in said
    assert "Acceptance not met in every row" in said and "too few items 1" in said
    assert "Acceptance met: recovered 1" in describe(rows[:1], RULE)
