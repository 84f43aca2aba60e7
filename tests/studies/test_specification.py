"""Claims about the specification curve: every fit is a logit, and all together are held against dealt vision."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy.stats import rankdata
from synthetic_items import make_items

from dontblink.statistics.bootstrap import EstimateError
from dontblink.statistics.logit import fit_logit
from dontblink.studies import specification
from dontblink.studies.cells import ENTROPY, VISION, deal_rows, number_items, select_rows
from dontblink.studies.specification import (
    ENTROPIES,
    FACTORS,
    FORMS,
    LOOKS,
    Base,
    Curves,
    add_looks,
    explain_spread,
    fit_curves,
    list_adjustments,
    list_deals,
    summarise_curves,
)

COVARIATES = ["log_n_response_tokens", "noise_level", "chain_length"]
KINDS = ("type of visual", "type of symbolic")


def widen(items: pd.DataFrame) -> pd.DataFrame:
    """Items with all looks, as `add_looks` makes them of bins."""
    keys = items[["model", "benchmark", "item_id"]]
    noise = np.random.default_rng(6).normal(size=len(items))
    thirds = [
        keys.assign(
            head_set=name, bin=part, n_bins=3, uniform_evidence_share=0.05 + 0.001 * part,
            evidence_mass=items[VISION] + (0.01 * noise if name == "grounding_heads" else 0.0) + part - 2,
        )
        for name, part in product(("grounding_layers", "grounding_heads"), range(3))
    ]  # fmt: skip
    return add_looks(items.assign(evidence_fraction=0.1), pd.concat(thirds))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two looks and two entropies in place of all."""
    monkeypatch.setattr(specification, "LOOKS", dict(list(LOOKS.items())[:2]))
    monkeypatch.setattr(specification, "ENTROPIES", dict(list(ENTROPIES.items())[:2]))


def fit_by_formula(rows: pd.DataFrame, vision: str, entropy: str, form: str, covariates: list[str]) -> float:
    """b_EV of one specification, by statsmodels."""
    x = rows[[entropy, vision, *covariates]].copy()
    if form == "ranks":
        x[[entropy, vision]] = rows.groupby("cell")[[entropy, vision]].transform(rankdata)
    of_cell = x.groupby(rows["cell"])
    z = ((x - of_cell.transform("mean")) / of_cell.transform("std", ddof=0)).set_axis(["E", "V", *covariates], axis=1)
    terms = ["C(cell)", "E * V", *covariates]
    if form in ("squares", "flexible"):
        terms += ["I(E ** 2)", "I(V ** 2)"]
    if form == "flexible":
        terms += [f"{a}:{b}" for a in covariates for b in "EV"]
    data = z.assign(cell=rows["cell"], correct=rows["correct"].astype(float))
    return float(smf.logit("correct ~ " + " + ".join(terms), data).fit(disp=0).params["E:V"])


def test_every_specification_is_one_logit() -> None:
    items = widen(make_items(150, interaction=-0.5, vision=0.3))
    curves = fit_curves(items, COVARIATES, n_deals=2)
    adjustments = list_adjustments(COVARIATES)
    keys = list(product(LOOKS.values(), ENTROPIES.values(), FORMS, adjustments))
    assert curves.estimates.shape == (2, 480) and curves.dealt.shape == (2, 480, 2)
    rows = select_rows(items, [*LOOKS.values(), *ENTROPIES.values(), *COVARIATES])
    for k, name in enumerate(curves.types):
        own = rows[rows["task_type"] == name]
        for j in range(k, 480, 23):
            vision, entropy, form, adjustment = keys[j]
            expected = fit_by_formula(own, vision, entropy, form, adjustments[adjustment])
            assert curves.estimates[k, j] == pytest.approx(expected, abs=1e-6), keys[j]
    table = curves.table()
    assert list(table[list(FACTORS)].nunique()) == [10, 3, 4, 4] and len(table) == 960
    assert {*table["vision"]} > {"evidence (oracle)", "image", "lift (oracle)", "log image"}


@pytest.mark.usefixtures("small")
def test_a_deal_moves_every_look_together_and_its_fits_have_arrived() -> None:
    items = widen(make_items(200, interaction=-0.5, vision=0.3, benchmarks=("visual",)))
    curves = fit_curves(items, COVARIATES, n_deals=5, seed=9)
    rows = select_rows(items, [*LOOKS.values(), *ENTROPIES.values(), *COVARIATES])
    rng, places = np.random.default_rng([9, 0]), number_items(rows)
    keys = list(product(list(LOOKS.values())[:2], list(ENTROPIES.values())[:2], FORMS, list_adjustments(COVARIATES)))
    for d in range(5):
        order, dealt = deal_rows(*places, rng), rows.copy()
        dealt[list(LOOKS.values())] = rows[list(LOOKS.values())].to_numpy()[order]
        for j in range(d, len(keys), 7):
            vision, entropy, form, adjustment = keys[j]
            expected = fit_by_formula(dealt, vision, entropy, form, list_adjustments(COVARIATES)[adjustment])
            assert curves.dealt[0, j, d] == pytest.approx(expected, abs=2e-3), keys[j]  # a fiftieth of their spread


def test_a_planted_interaction_is_found_in_its_task_type_and_in_the_contrast() -> None:
    items = widen(make_items(300, interaction={"visual": -0.7}))
    curves = fit_curves(items, COVARIATES, n_deals=40).contrast(*KINDS)
    table = summarise_curves(curves).set_index("task_type")
    assert list(table.index) == ["type of symbolic", "type of visual", "contrast"]
    for name in ("type of visual", "contrast"):
        assert table.loc[name, "median"] < table.loc[name, "low"] < 0 < table.loc[name, "high"]
        assert table.loc[name, "p_median"] == pytest.approx(1 / 41)
    own = curves.table().query("task_type == 'type of visual' and vision == 'evidence (oracle)'")
    assert (own.loc[own["entropy"] != "last tenth", "estimate"] < 0).all()  # of these answers the last tenth is noise
    assert table.loc["type of symbolic", "p_median"] > 0.05
    assert (table["n_specifications"] == 480).all() and table["n_rows"].tolist() == [600, 600, 1200]
    both = curves.estimates[1] - curves.estimates[0]
    assert np.array_equal(curves.estimates[2], both) and len(list_deals(curves)) == 3 * 40
    assert curves.contrast("no", "such").types == curves.types


@pytest.mark.usefixtures("small")
def test_vision_that_knows_nothing_has_p_values_as_flat_as_chance() -> None:
    found = []
    for seed in range(50):
        items = widen(make_items(80, benchmarks=("visual",), seed=seed))
        [row] = summarise_curves(fit_curves(items, [], n_deals=39, seed=seed)).to_dict("records")
        found.append([row["p_median"], row["p_share"]])
    p = np.array(found)
    assert (p.mean(axis=0) > 0.38).all() and (p.mean(axis=0)[0] < 0.62) and ((p <= 0.05).mean(axis=0) <= 0.14).all()
    assert (p[:, 0] <= 0.5).mean() > 0.3


def test_the_flexible_form_and_squares_take_a_bend_that_passes_for_an_interaction() -> None:
    rng = np.random.default_rng(1)
    e = rng.normal(size=3000)
    v = 0.8 * e + 0.6 * rng.normal(size=3000)
    y = (rng.random(3000) < 1 / (1 + np.exp(-(1.0 - 0.4 * e**2)))).astype(float)  # E alone, and bent
    ones = np.ones((3000, 1))
    plain, bent = (Base.build(ones, e, [], y, form) for form in ("product", "squares"))
    powers = [v[:, None] ** k for k in range(1, 5)]
    assert plain.fit(powers)[0] < -0.3 and abs(bent.fit(powers)[0]) < 0.15
    design = bent.design(v)
    assert bent.fit(powers)[0] == pytest.approx(fit_logit(design, y).coef[design.shape[1] - 2], abs=1e-7)


@pytest.mark.usefixtures("small")
def test_separated_answers_are_fitted_by_firth_and_a_hopeless_design_is_named() -> None:
    items = widen(make_items(40, benchmarks=("visual",)))
    items["correct"] = items[ENTROPY] < items.groupby("model")[ENTROPY].transform("median")
    curves = fit_curves(items, [], n_deals=3)
    assert np.isfinite(curves.estimates).all() and np.isfinite(curves.dealt).all()
    with pytest.raises(EstimateError, match="no task type has a cell of 20 answers"):
        fit_curves(items.assign(correct=True), [], n_deals=3)
    with pytest.raises(EstimateError, match="rank"):
        doubled = widen(make_items(60)).assign(twice=lambda x: 2 * x["noise_level"])
        fit_curves(doubled, ["twice", "noise_level"], n_deals=2)


@pytest.mark.usefixtures("small")
def test_a_row_is_missing_from_all_specifications_or_from_none() -> None:
    items = widen(make_items(60, benchmarks=("visual",)))
    items.loc[:4, "vision_visual_mass"] = np.nan
    curves = fit_curves(items, [], n_deals=2, types=[KINDS[0]])
    assert curves.n_left_out == 5 and curves.n_rows == (115,)


def test_adjustments_that_a_profile_does_not_have_occur_once() -> None:
    assert list(list_adjustments(COVARIATES)) == ["none", "length", "noise_level + chain_length", "all"]
    assert list_adjustments(["log_n_response_tokens"]) == {"none": [], "length": ["log_n_response_tokens"]}
    assert list_adjustments(COVARIATES)["all"] == COVARIATES


def test_looks_come_from_the_last_third_of_their_head_set() -> None:
    items = make_items(30)
    wide = widen(items)
    assert wide["vision_over_uniform"].to_numpy() == pytest.approx(items[VISION] / 0.052)
    assert wide["vision_image_share"].to_numpy() == pytest.approx(items[VISION] / items["vision_visual_mass"])
    assert wide["vision_lift"].to_numpy() == pytest.approx(10 * wide["vision_image_share"].to_numpy())
    assert not np.allclose(wide["vision_heads_evidence_mass"], items[VISION])


def make_curves(values: np.ndarray, dealt: np.ndarray) -> Curves:
    choices = pd.DataFrame(list(product("ab", "cd", "ef", "gh")), columns=list(FACTORS))
    return Curves(("t",), choices, values[None], dealt[None], (100,), 0)


def test_spread_is_divided_among_the_choices_that_made_it() -> None:
    a, b, c, d = (np.array(x) for x in zip(*product((0, 1), repeat=4), strict=True))
    table = explain_spread(make_curves(3.0 * a + 1.0 * b + 0.0 * c + 2.0 * (d * a), np.zeros((16, 2))))
    # deviations: a 4, b 1, d 1 and their product 1 (in units of half the effect), squares 16 : 1 : 1 : 1
    expected = [16 / 19, 1 / 19, 0, 1 / 19, 1 / 19]
    assert table["factor"].tolist() == [*FACTORS, "interactions"]
    assert table["eta_squared"].to_numpy() == pytest.approx(expected, abs=1e-12)


def test_p_values_are_ranks_among_the_deals() -> None:
    dealt = np.tile(np.array([-0.3, -0.1, 0.05, 0.2]), (16, 1))
    row = summarise_curves(make_curves(np.full(16, -0.2), dealt)).iloc[0]
    assert (row["p_median"], row["p_share"]) == (3 / 5, 3 / 5)  # -0.3 and 0.2 are as far; two deals are below zero
    curves = make_curves(np.full(16, -0.2), dealt)
    bands = curves.bands(0.5)
    assert len(bands) == 16 and np.allclose(bands["low"], np.quantile(dealt[0], 0.25))
