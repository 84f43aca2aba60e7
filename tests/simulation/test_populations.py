"""Claims about the simulated populations: each has the truth that it says, and its rows depend as they should."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from dontblink.studies.interaction import ENTROPY, VISION, build_design, fit_logit
from dontblink.studies.transfer import FEATURES, RULES, fit_rule
from dontblink_simulation.populations import Answers, Benchmarks, Masses, Scores, fit_population


def correlate_models(rows: pd.DataFrame, item: str, column: str) -> float:
    """Correlation of a column between the first two models on the same items."""
    wide = rows.pivot(index=item, columns="cell", values=column).astype(float)
    return float(wide.corr().iloc[0, 1])


@pytest.mark.parametrize("step", [0.0, 0.05])
def test_masses_fall_by_the_true_collapse(step: float) -> None:
    population = Masses(n_items=300_000, step=step)
    means = population.draw(np.random.default_rng(1)).drop(columns=["item", "cell"]).mean()
    kept = means["evidence_last"] / means["evidence_first"]
    uniform = means["uniform_last"] / means["uniform_first"]
    truth = population.truth()
    # the standard error of a mean of 300,000 masses is 0.2 % of it
    assert 1 - kept == pytest.approx(truth["evidence"], abs=0.005)
    assert 1 - kept / uniform == pytest.approx(truth["evidence_over_uniform"], abs=0.01)


def test_collapse_is_known_in_closed_form_and_rounding_changes_it() -> None:
    assert Masses(fall=0.6, dilution=0.2).truth() == pytest.approx({"evidence": 0.6, "evidence_over_uniform": 0.5})
    assert Masses(fall=0.0, dilution=0.0, step=0.05).truth() == {"evidence": 0.0, "evidence_over_uniform": 0.0}
    assert abs(Masses(step=0.05).truth()["evidence"] - 0.6) > 0.005


@pytest.mark.parametrize("step", [0.0, 1.0])
def test_scores_have_the_true_auroc_within_each_cell(step: float) -> None:
    population = Scores(n_items=40_000, n_models=2, step=step)
    rows, truth = population.draw(np.random.default_rng(2)), population.truth()
    for _, cell in rows.groupby("cell"):
        assert roc_auc_score(cell["correct"], cell["a"]) == pytest.approx(truth["auroc"], abs=0.012)
        assert roc_auc_score(cell["correct"], cell["b"]) == pytest.approx(truth["auroc_b"], abs=0.012)
    assert truth["difference"] == truth["auroc"] - truth["auroc_b"]
    assert rows["correct"].mean() == pytest.approx(0.7, abs=0.01)
    assert rows["a"].nunique() < 20 if step else rows["a"].is_unique


def test_equal_shifts_are_a_null_and_no_shift_is_chance() -> None:
    for step in (0.0, 0.7):
        assert Scores(shift_a=1.3, shift_b=1.3, step=step).truth()["difference"] == 0
        assert Scores(shift_a=0.0, step=step).truth()["auroc"] == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(
    "population",
    [
        Answers(n_items=150_000, n_models=2, difficulty_sd=1.2),
        Answers(n_items=150_000, n_models=2, difficulty_sd=1.2, skew=0.6),
        Answers(n_items=300_000, step=1.0),
    ],
)
def test_a_logit_on_many_items_finds_the_marginal_coefficient(population: Answers) -> None:
    design = build_design(population.draw(np.random.default_rng(3)))
    fit, truth = fit_logit(design.x, design.y), population.truth()["entropy:vision"]
    assert fit.coef[2] == pytest.approx(truth, abs=5 * fit.se[2])
    assert fit.se[2] < 0.01  # so that the claim can fail: the coefficient itself is about -0.25


def test_a_difficulty_that_the_logit_does_not_see_shrinks_the_coefficient() -> None:
    assert Answers().truth()["entropy:vision"] == pytest.approx(-0.3, abs=1e-10)
    assert -0.29 < Answers(difficulty_sd=1.2).truth()["entropy:vision"] < -0.2


@pytest.mark.parametrize(
    "population", [Answers(vision=0.0, interaction=0.0, difficulty_sd=1.2, skew=s) for s in (0, 0.6)]
)
def test_vision_independent_of_everything_has_no_coefficient_and_no_effect(population: Answers) -> None:
    assert max(map(abs, population.truth().values())) < 1e-12


@pytest.mark.parametrize(
    "population", [Answers(n_items=200_000), Answers(n_items=200_000, skew=0.6), Answers(n_items=200_000, step=1.0)]
)
def test_entropy_and_vision_are_standardised_in_the_population(population: Answers) -> None:
    rows = population.draw(np.random.default_rng(4))
    for name, centre, spread in ((ENTROPY, 0.5, 0.1), (VISION, 0.1, 0.02)):
        assert rows[name].mean() == pytest.approx(centre, abs=0.02 * spread)
        assert rows[name].std() == pytest.approx(spread, rel=0.03)
    assert (rows[ENTROPY].skew() > 1.5) == bool(population.skew)


def test_a_step_with_a_difficulty_is_refused() -> None:
    with pytest.raises(ValueError, match="set one of them to 0"):
        Answers(step=1.0, difficulty_sd=1.0).truth()


def test_rows_of_one_item_are_alike_and_rows_of_different_items_are_not() -> None:
    rng = np.random.default_rng(5)
    scores = Scores(n_items=20_000, n_models=2, shift_a=0.0, score_share=0.5).draw(rng)
    assert correlate_models(scores, "item", "a") == pytest.approx(0.5, abs=0.03)
    assert correlate_models(scores, "item", "correct") > 0.2
    answers = Answers(n_items=20_000, n_models=2, share=0.5).draw(rng)
    assert correlate_models(answers, "cluster", ENTROPY) == pytest.approx(0.5, abs=0.03)
    masses = Masses(n_items=20_000, n_models=2).draw(rng)
    assert correlate_models(masses.assign(log=np.log(masses["evidence_last"])), "item", "log") == pytest.approx(
        0.5, abs=0.03
    )
    shifted = scores["a"].to_numpy().reshape(2, -1)
    assert abs(np.corrcoef(shifted[0, 1:], shifted[0, :-1])[0, 1]) < 0.03


def test_a_rules_true_gain_is_its_auroc_on_a_large_sample() -> None:
    population = Benchmarks(n_items=40_000, n_models=2)
    items = population.draw(np.random.default_rng(6)).rename(
        columns={column: name for name, column in FEATURES.items()}
    )
    train, test = (items[items["benchmark"] == name].reset_index(drop=True) for name in ("train", "test"))
    full, linear = (fit_rule(train, train[list(FEATURES)], RULES[name]).coef[:, 1:] for name in ("full", "linear"))
    found = []
    for m, (_, cell) in enumerate(test.groupby("model")):
        scores = [cell[["full"]] @ full[m], cell[["full", "vision"]] @ linear[m]]
        text, both = (roc_auc_score(cell["correct"], score) for score in scores)
        found.append(both - text)
    truth = population.gain(full, linear)
    assert np.mean(found) == pytest.approx(truth, abs=0.01)
    assert truth < -0.02  # vision turned round: the global rule hurts
    assert Benchmarks(vision_test=0.5).gain(full, linear) > 0.02


def test_a_population_fit_is_the_fit_of_its_nodes() -> None:
    x = np.column_stack([np.ones(4), [0.0, 0.0, 1.0, 1.0]])
    coef = fit_population(x, np.array([0.2, 0.4, 0.6, 0.8]), np.array([1.0, 3.0, 1.0, 1.0]))
    assert 1 / (1 + np.exp(-coef[0])) == pytest.approx((0.2 + 3 * 0.4) / 4)
    assert 1 / (1 + np.exp(-coef.sum())) == pytest.approx(0.7)


def test_equal_seeds_give_equal_studies() -> None:
    for population in (Masses(), Scores(), Answers(), Benchmarks()):
        one, other, third = (population.draw(np.random.default_rng(seed)) for seed in (7, 7, 8))
        pd.testing.assert_frame_equal(one, other)
        assert not one.equals(third)
