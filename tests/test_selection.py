"""Claims about the simulated studies of notebook 05: what is planted is there, and the rows are those of the tables."""

from __future__ import annotations

import numpy as np
import pytest

from dontblink.studies import veto
from dontblink_simulation.selection import Blind, study_selective, study_veto
from dontblink_simulation.populations import Scores


def test_low_vision_costs_answers_in_the_targeted_benchmark_and_nowhere_else() -> None:
    items = Blind(n_items=20_000).draw(np.random.default_rng(0))
    low = items[veto.VISION] < -1.3
    assert low.mean() == pytest.approx(0.0968, abs=0.005)
    for benchmark, danger in (("targeted", True), ("other", False)):
        own = items["benchmark"] == benchmark
        lost = items.loc[own & ~low, "correct"].mean() - items.loc[own & low, "correct"].mean()
        assert (lost > 0.25) if danger else (abs(lost) < 0.04)
    harmless = Blind(n_items=20_000, danger=0.0).draw(np.random.default_rng(0))
    assert abs(harmless["correct"][low].mean() - harmless["correct"][~low].mean()) < 0.03


def test_models_share_their_items() -> None:
    items = Blind(n_items=5_000, n_models=2).draw(np.random.default_rng(1)).query("benchmark == 'other'")
    e = items.pivot_table(index="item_id", columns="model", values=veto.ENTROPY)
    assert e.corr().iloc[0, 1] == pytest.approx(0.3, abs=0.04)


def test_the_rows_of_a_veto_study_are_those_of_the_table() -> None:
    population = Blind(n_items=60, danger=0.0)
    rows = {(row.quantity, row.method): row for row in study_veto(population, np.random.default_rng(2), 0)}
    rng = np.random.default_rng(2)
    items, seed = population.draw(rng), int(rng.integers(2**32))
    table = veto.veto_table(
        items, ["targeted"], rules=("linear", "veto"), n_splits=20, n_blocks=10, n_permutations=19, seed=seed
    )
    pooled = table.query("scope == 'pooled' and rule == 'veto'").iloc[0]
    gain = rows["gain_veto", "block_jackknife"]
    assert (gain.estimate, gain.ci_low, gain.ci_high) == (pooled["gain"], pooled["ci_low"], pooled["ci_high"])
    assert rows["permutation", "permutation"].p == pooled["p"]
    assert rows["best_cell", "permutation"].p == table.query("scope == 'cell' and rule == 'veto'")["p_max"].min()
    assert population.truth() == {"permutation": 0.0, "best_cell": 0.0}
    with_danger = study_veto(Blind(n_items=60), np.random.default_rng(2), 0)
    assert all(np.isnan(row.p) for row in with_danger) and np.isnan(Blind().truth()["permutation"])


def test_the_rows_of_a_selective_study_are_aurc_and_risk_and_one_class_is_a_reason() -> None:
    rows = study_selective(Scores(n_items=50), np.random.default_rng(3), 99)
    assert [row.quantity for row in rows] == ["aurc", "risk"]
    assert all(row.ci_low <= row.estimate <= row.ci_high and row.reason == "" for row in rows)
    hopeless = study_selective(Scores(n_items=20, accuracy=0.999999), np.random.default_rng(3), 9)
    assert all("one class" in row.reason and np.isnan(row.estimate) for row in hopeless)
