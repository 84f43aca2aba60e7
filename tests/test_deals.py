"""Claims about the negative controls of the interaction."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from synthetic_items import make_items

from dontblink.statistics.logit import fit_logit
from dontblink.studies.cells import EstimateError, deal_rows, select_rows
from dontblink.studies.deals import dealt_table, find_biased
from dontblink.studies.interaction import ENTROPY, VISION, build_design


def deal(rows: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    return deal_rows(pd.factorize(rows["cluster"], sort=True)[0], rows.groupby("cell").indices.values(), rng)


def test_a_deal_stays_within_the_cell_and_is_the_same_for_all_models_of_a_benchmark() -> None:
    rows = select_rows(make_items(50).sample(frac=1, random_state=0), [ENTROPY, VISION])
    order = deal(rows, np.random.default_rng(0))
    assert sorted(order) == list(range(200))
    assert (rows["cell"].to_numpy()[order] == rows["cell"]).all()
    donor = rows.assign(donor=rows["item_id"].to_numpy()[order])
    for _, part in donor.groupby("benchmark"):
        assert part.groupby("item_id")["donor"].nunique().eq(1).all()
    given = donor.groupby("benchmark")["donor"].agg(list)
    assert given["symbolic"] != given["visual"]


def test_a_deal_of_incomplete_cells_is_a_permutation_too() -> None:
    rows = select_rows(make_items(30).drop(index=[0, 5, 40]), [ENTROPY, VISION])
    order = deal(rows, np.random.default_rng(0))
    assert sorted(order) == list(range(len(rows)))
    assert (rows["cell"].to_numpy()[order] == rows["cell"]).all()


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
    order = deal(rows, np.random.default_rng(4))
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


def test_cells_of_one_class_and_calibration_rows_are_no_control() -> None:
    items = make_items(40)
    items.loc[items["model"] == "glm", "correct"] = True
    assert set(dealt_table(items, "labels", n_deals=2, scopes=["cell"])["model"]) == {"qwen"}
    with pytest.raises(EstimateError, match="calibration"):
        dealt_table(items.assign(split="calibration"), "labels", n_deals=2)
