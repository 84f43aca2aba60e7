"""Claims about the negative controls: dealt labels, vision and boxes say nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_items import make_items

from dontblink.statistics.bootstrap import EstimateError, Resampling
from dontblink.statistics.logit import fit_logit
from dontblink.studies.cells import ENTROPY, VISION, deal_rows, number_items, select_rows
from dontblink.studies.deals import dealt_table, find_biased, shuffled_labels, shuffled_lift
from dontblink.studies.entropy import auroc_table
from dontblink.studies.interaction import build_design


def test_dealt_labels_separate_nothing_and_observed_ones_do() -> None:
    table = shuffled_labels(make_items(150), n_deals=200)
    assert ((table["shuffled_mean"] - table["null"]).abs() < 5 * table["shuffled_se"]).all()
    pooled = table[(table["scope"] == "pooled")].set_index("score")
    assert pooled.loc["full", "share_below"] == 1 and pooled.loc["full", "p"] == pytest.approx(1 / 201)
    assert pooled.loc["last_decile", "p"] > 0.01  # it says nothing in the simulation
    assert (table["shuffled_low"] < table["null"]).all() and (table["null"] < table["shuffled_high"]).all()


def test_observed_values_are_those_of_the_table() -> None:
    items = make_items(60)
    items.loc[:5, "answer_entropy_nats"] = np.nan
    keys = ["scope", "model", "benchmark", "score"]
    control = shuffled_labels(items, covariates=["noise_level"], n_deals=2).set_index(keys)
    table = auroc_table(items, covariates=["noise_level"], resampling=Resampling(20)).set_index(keys)
    assert control["observed"].to_numpy() == pytest.approx(table.loc[control.index, "estimate"].to_numpy(), abs=1e-12)
    assert (control["n_left_out"] == table.loc[control.index, "n_left_out"]).all()


def test_spread_of_the_deals_is_that_of_the_rank_sum_test() -> None:
    items = make_items(400, benchmarks=("symbolic",)).query("model == 'glm'")
    found = shuffled_labels(items, pairs=(), n_deals=2000).query("scope == 'cell' and score == 'full'").iloc[0]
    n, m = len(items), items["correct"].sum()
    error = ((n + 1) / (12 * m * (n - m))) ** 0.5  # of an AUROC without discrimination and ties
    assert found["shuffled_se"] * 2000**0.5 == pytest.approx(error, rel=0.06)


def test_labels_of_an_item_move_together_for_all_models() -> None:
    """Two models that are one: their mean spreads as either does, not by the square root of two less."""
    items = make_items(100, benchmarks=("symbolic",)).query("model == 'glm'")
    twins = pd.concat([items, items.assign(model="twin")])
    table = shuffled_labels(twins, pairs=(), n_deals=100).query("score == 'full'").set_index("scope")
    assert table.loc["pooled", "shuffled_se"] == pytest.approx(table.loc["cell", "shuffled_se"].iloc[0], rel=1e-9)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1_000))
def test_increasing_transforms_and_row_order_change_no_deal(seed: int) -> None:
    items = make_items(40, seed=seed)
    other = items.sample(frac=1, random_state=seed).assign(
        full_entropy_nats=lambda t: np.exp(t["full_entropy_nats"]),
        max_entropy_nats=lambda t: t["max_entropy_nats"] ** 3,
    )
    first, second = (shuffled_labels(x, n_deals=20, min_class=5, seed=seed) for x in (items, other))
    numbers = first.select_dtypes("number").columns
    assert first[numbers].to_numpy(float) == pytest.approx(second[numbers].to_numpy(float), abs=1e-12, nan_ok=True)


def test_a_cell_of_one_class_has_no_deal_and_one_deal_has_no_spread() -> None:
    items = make_items()
    items.loc[items["model"] == "glm", "correct"] = True
    table = shuffled_labels(items, n_deals=5)
    assert table.query("model == 'glm'")["observed"].isna().all() and table.query("model == 'qwen'")["p"].notna().all()
    with pytest.raises(EstimateError, match="1 deals; a spread needs >= 2"):
        shuffled_labels(items, n_deals=1)


@pytest.mark.parametrize("dealt", ["labels", "vision"])
def test_dealt_labels_or_vision_leave_no_interaction(dealt: str) -> None:
    table = dealt_table(make_items(150, interaction=-0.8), dealt, n_deals=60)  # type: ignore[arg-type]
    assert len(table) == 7
    assert find_biased(table).empty
    pooled = table[table["scope"] == "pooled"].iloc[0]
    assert pooled["observed"] < pooled["low"] < 0 < pooled["high"]
    assert pooled["p"] == pytest.approx(1 / 61)


def test_observed_value_and_deals_are_those_of_the_library_fit() -> None:
    items = make_items(60, interaction=-0.5)
    table = dealt_table(items, "vision", ["noise_level"], scopes=["pooled"], n_deals=1, seed=4)
    rows = select_rows(items, [ENTROPY, VISION, "noise_level"])
    design = build_design(rows, ["noise_level"])
    assert table["observed"][0] == pytest.approx(fit_logit(design.x, design.y).coef[2], abs=1e-9)
    order = deal_rows(*number_items(rows), np.random.default_rng(4))
    moved = build_design(rows.assign(**{VISION: rows[VISION].to_numpy()[order]}), ["noise_level"])
    assert table["mean"][0] == pytest.approx(fit_logit(moved.x, moved.y).coef[2], abs=1e-9)


def test_an_observed_value_without_interaction_lies_among_the_deals() -> None:
    p = [dealt_table(make_items(80, seed=s), "vision", scopes=["pooled"], n_deals=40)["p"][0] for s in range(12)]
    assert 0.2 < np.mean(p) < 0.8


def test_a_control_that_is_not_one_is_found() -> None:
    table = dealt_table(make_items(150, interaction=-0.8), "labels", scopes=["pooled"], n_deals=60)
    assert len(find_biased(table.assign(mean=table["observed"]))) == 1
    assert len(find_biased(table.assign(mean=np.nan))) == 1
    assert len(find_biased(table.assign(sd=0.0, mean=0.0))) == 1  # nothing was dealt


def make_maps(n: int = 300, n_tokens: int = 36, focus: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    coverage = np.zeros((n, n_tokens))
    coverage[np.arange(n)[:, None], rng.random((n, n_tokens)).argsort(axis=1)[:, :3]] = 1
    return rng.dirichlet(np.ones(n_tokens), n) + focus * coverage, coverage


def test_boxes_dealt_to_other_items_have_a_lift_of_one() -> None:
    found = shuffled_lift([make_maps(focus=0.2)], n_deals=300)
    assert found["lift"] > 4 and found["p"] < 0.01
    assert found["shuffled_lift"] == pytest.approx(1, abs=0.05)
    assert found["shuffled_low"] < 1 < found["shuffled_high"]


def test_look_without_preference_has_a_lift_of_one() -> None:
    found = shuffled_lift([make_maps()], n_deals=300)
    assert found["lift"] == pytest.approx(1, abs=0.15) and found["p"] > 0.01


def test_no_item_keeps_its_boxes_and_the_scale_of_a_map_does_not_matter() -> None:
    found = shuffled_lift([(np.eye(8), np.eye(8))], n_deals=50)
    assert found["lift"] == 8 and found["shuffled_high"] == 0
    maps, coverage = make_maps(focus=0.1)
    scaled = maps * np.random.default_rng(2).uniform(0.1, 9, (len(maps), 1))
    one, two = (shuffled_lift([(x, coverage)], n_deals=5)["lift"] for x in (maps, scaled))
    assert one == pytest.approx(two)


def test_boxes_are_dealt_within_a_grid_and_an_item_alone_on_its_grid_is_counted() -> None:
    small, large, lone = make_maps(20, 36, 0.2), make_maps(30, 64, 0.2), make_maps(1, 9)
    found = shuffled_lift([small, large, lone], n_deals=200)
    assert (found["n_items"], found["n_alone"]) == (50, 1)
    shares = [maps / maps.sum(axis=1, keepdims=True) for maps, _ in (small, large)]
    on_boxes = sum((share * own).sum() for share, (_, own) in zip(shares, (small, large), strict=True))
    expected = 20 * 3 / 36 + 30 * 3 / 64  # three of the tokens of each picture are evidence
    assert found["lift"] == pytest.approx(on_boxes / expected)
    assert found["shuffled_lift"] == pytest.approx(1, abs=0.15)
    assert shuffled_lift([small, lone], n_deals=9) == {**shuffled_lift([small], n_deals=9), "n_alone": 1}
    nothing = shuffled_lift([lone], n_deals=9)
    assert nothing["n_alone"] == 1 and np.isnan(nothing["lift"]) and np.isnan(nothing["p"])


def test_maps_without_mass_or_evidence_are_refused() -> None:
    with pytest.raises(EstimateError, match="some evidence"):
        shuffled_lift([(np.ones((4, 6)), np.zeros((4, 6)))])
    with pytest.raises(EstimateError, match="mass in each map"):
        shuffled_lift([(np.zeros((4, 6)), np.ones((4, 6)))])
