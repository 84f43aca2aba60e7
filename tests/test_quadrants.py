"""Claims about the risks of the quadrants of entropy and vision."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_items import make_items

from dontblink.studies.cells import EstimateError
from dontblink.studies.interaction import ENTROPY, VISION, _newcombe, hazard_table, quadrant_table


def test_quadrants_count_every_row_once_and_follow_the_risk() -> None:
    items = make_items(400, interaction=-0.9)
    table = quadrant_table(items)
    for _, part in table.groupby(["scope", "model", "benchmark"]):
        assert part["n"].sum() == part["n_rows"].iloc[0]
        assert part["n_quadrant_wrong"].sum() == part["n_wrong"].iloc[0]
    pooled = table.query("scope == 'pooled'").set_index(["entropy_level", "vision_level"])
    assert pooled["risk"].idxmax() == ("high", "high")  # b_EV < 0: entropy costs most where vision is high
    assert (pooled["ci_low"] < pooled["risk"]).all() and (pooled["risk"] < pooled["ci_high"]).all()
    by_hand = sm.stats.proportion_confint(*pooled.loc[("low", "low"), ["n_quadrant_wrong", "n"]], method="wilson")
    assert tuple(pooled.loc[("low", "low"), ["ci_low", "ci_high"]]) == pytest.approx(by_hand)


def test_extreme_quadrants_leave_the_middle_out_and_empty_ones_are_defined() -> None:
    items = make_items(40, benchmarks=("symbolic",))
    items[VISION] = -items[ENTROPY]  # low entropy with low vision never happens
    table = quadrant_table(items, share=0.25, scopes=["cell"]).set_index(["model", "entropy_level", "vision_level"])
    assert table.loc[("glm", "low", "high"), "n"] == 10
    empty = table.loc[("glm", "low", "low")]
    assert (empty["n"], empty["ci_low"], empty["ci_high"]) == (0, 0.0, 1.0) and np.isnan(empty["risk"])
    with pytest.raises(EstimateError, match="share 0.7"):
        quadrant_table(items, share=0.7)


def test_all_tied_entropy_is_low_in_every_row() -> None:
    table = quadrant_table(make_items(20).assign(full_entropy_nats=0.3), scopes=["pooled"])
    assert table.query("entropy_level == 'high'")["n"].eq(0).all()
    assert table["n"].sum() == 80


def test_row_order_and_a_rising_transformation_change_no_quadrant() -> None:
    items = make_items(40, interaction=-0.4)
    table = quadrant_table(items)
    assert table.equals(quadrant_table(items.sample(frac=1, random_state=3)))
    assert table.equals(quadrant_table(items.assign(**{ENTROPY: np.exp(items[ENTROPY]), VISION: items[VISION] ** 3})))


def test_rows_without_a_number_are_counted_and_in_no_quadrant() -> None:
    items = make_items(40)
    items.loc[:2, VISION] = np.nan
    table = quadrant_table(items, scopes=["pooled"])
    assert table["n"].sum() == 157 and table["n_left_out"].eq(3).all()


def test_hazard_is_the_difference_of_two_risks_of_the_quadrant_table() -> None:
    items = make_items(300, vision={"visual": 0.8})
    risks = quadrant_table(items).set_index(["scope", "model", "benchmark", "entropy_level", "vision_level"])["risk"]
    table = hazard_table(items, n_replicates=300)
    for row in table.itertuples():
        low, high = (risks[row.scope, row.model, row.benchmark, row.entropy_level, v] for v in ("low", "high"))
        assert row.estimate == pytest.approx(low - high, abs=1e-12)
    assert (table["ci_low"] <= table["estimate"]).all() and (table["estimate"] <= table["ci_high"]).all()
    own = table.set_index(["scope", "benchmark", "entropy_level"])
    assert own.loc[("benchmark", "visual", "high"), "ci_low"] > 0
    assert (
        own.loc[("benchmark", "symbolic", "high"), "ci_low"] < 0 < own.loc[("benchmark", "symbolic", "high"), "ci_high"]
    )
    assert set(table.loc[table["scope"] == "cell", "method"]) == {"newcombe"}
    assert set(table.loc[table["scope"] != "cell", "method"]) == {"bca"}


def test_published_newcombe_interval() -> None:
    # Newcombe (1998), Statistics in Medicine 17: 873-890, table II, method 10: 56/70 - 48/80 is 0.2 [0.0524, 0.3339]
    found = _newcombe([56, 48], [70, 80], 0.95)
    assert found["estimate"] == pytest.approx(0.2)
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_a_quadrant_without_any_wrong_answer_gets_no_interval_of_no_width() -> None:
    items = make_items(100).assign(correct=True)
    table = hazard_table(items, n_replicates=50)
    cells = table[table["scope"] == "cell"]
    assert (cells["ci_high"] - cells["ci_low"]).min() > 0.05
    assert table.loc[table["scope"] != "cell", "estimate"].isna().all()
    few = hazard_table(make_items(12), n_replicates=50, scopes=["cell"])
    assert "estimate" not in few or few["estimate"].isna().all()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_model_that_repeats_another_changes_no_interval(seed: int) -> None:
    items = make_items(120, seed=seed, benchmarks=("visual",))
    one = items[items["model"] == "glm"]
    twice = pd.concat([one, one.assign(model="copy")], ignore_index=True)
    first, second = (hazard_table(x, scopes=["benchmark"], n_replicates=100) for x in (one, twice))
    columns = ["estimate", "ci_low", "ci_high"]
    assert second[columns].to_numpy() == pytest.approx(first[columns].to_numpy(), abs=1e-12)
