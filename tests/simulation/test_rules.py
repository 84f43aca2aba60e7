"""Dealt tables make a claim's null true, and a rule's false positives are counted exactly."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from synthetic_items import make_items

from dontblink.publish import claims
from dontblink.publish.numbers import Row
from dontblink.studies import collapse
from dontblink_simulation import rules


def make_pairs(n_items: int = 300, seed: int = 0) -> pd.DataFrame:
    """Return masses of two models in one cell each: evidence falls by 80 %, a uniform look by half."""
    rng, parts = np.random.default_rng(seed), []
    for model in ("glm", "qwen"):
        rows = pd.DataFrame({"model": model, "benchmark": "b", "head_set": "h"}, index=range(n_items))
        rows["item_id"] = [f"item {k:03d}" for k in range(n_items)]
        for name in collapse.MASSES:
            first = 0.1 * rng.lognormal(0, 0.3, n_items)
            rows[f"{name}_first"] = first
            rows[f"{name}_last"] = first * (0.2 if name == "evidence_mass" else 0.5) * rng.lognormal(0, 0.1, n_items)
        parts.append(rows)
    return pd.concat(parts, ignore_index=True)


def test_exchanged_ends_leave_the_raw_fall_of_a_uniform_look_and_nothing_beyond_it() -> None:
    pairs = make_pairs()
    quantities = ["evidence", "evidence_over_uniform", "evidence_over_prompt"]
    cells = [("glm", "b"), ("qwen", "b")]
    found = []
    for seed in range(40):
        dealt = rules.exchange_ends(pairs, np.random.default_rng(seed))
        sums = dealt.groupby("model").sum(numeric_only=True)
        over = {end: sums[f"evidence_mass_{end}"] / sums[f"uniform_evidence_share_{end}"] for end in ("first", "last")}
        found.append(1 - over["last"] / over["first"])
        moved = (dealt["evidence_mass_first"] != pairs["evidence_mass_first"]).to_numpy().reshape(2, -1)
        assert (moved[0] == moved[1]).all() and moved.any(), "one coin an item, for all models"
    assert abs(np.mean(found)) < 0.05
    real = collapse.collapse_table(pairs, cells, quantities=quantities)
    null = collapse.collapse_table(dealt, cells, quantities=quantities)
    assert (real["ci_low"] > 0).all(), "the planted fall is there before the deal"
    beyond = null[null["quantity"] != "evidence"]
    assert (beyond["ci_low"] < 0).all() and (null.loc[null["quantity"] == "evidence", "estimate"] > 0.3).all()


def test_a_dealt_column_stays_in_its_cell_and_moves_for_all_models_alike() -> None:
    items = make_items(40)
    dealt = rules.deal_columns(items, ["vision_evidence_mass"], np.random.default_rng(0))
    for (_, _), own in items.groupby(["model", "benchmark"]):
        assert sorted(dealt.loc[own.index, "vision_evidence_mass"]) == sorted(own["vision_evidence_mass"])
    origin = [
        dealt.loc[own.index, "vision_evidence_mass"].map(own.set_index("vision_evidence_mass")["item_id"])
        for _, own in items[items["benchmark"] == "visual"].groupby("model")
    ]
    assert origin[0].tolist() == origin[1].tolist() != items["item_id"].iloc[:40].tolist()
    assert dealt.drop(columns="vision_evidence_mass").equals(items.drop(columns="vision_evidence_mass"))


def test_a_rule_fires_where_all_of_its_conditions_hold() -> None:
    claim = claims.read_ledger()["claims"]["C3"]
    rows = {"excess": [Row((str(k),), {"excess_high": high}) for k, high in enumerate((-0.1, -0.1, 0.1, 0.1))]}
    mean = {"mean": [Row((), {"excess_high": 0.01})]}
    assert rules.fires(claim, rows | mean) == {"reproduced": True, "same_direction": False}


def test_rates_have_exact_intervals() -> None:
    found = rules.count_fires([{"reproduced": k < 5, "same_direction": False} for k in range(100)])
    assert found["reproduced"]["rate"] == 0.05 and found["reproduced"]["n_fired"] == 5
    assert found["reproduced"]["low"] == pytest.approx(0.0164, abs=1e-4)
    assert found["reproduced"]["high"] == pytest.approx(0.1128, abs=1e-4)
    assert found["same_direction"]["low"] == 0 and found["same_direction"]["high"] == pytest.approx(0.0362, abs=1e-4)
