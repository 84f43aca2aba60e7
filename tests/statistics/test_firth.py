"""Claims about Firth's penalised logit."""

from __future__ import annotations

import firthmodels
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import chi2
from synthetic import draw_logit, separate
from synthetic_items import read_case

from dontblink.statistics.bootstrap import Resampling
from dontblink.statistics.firth import firth_logit, profile_interval
from dontblink.statistics.logit import bootstrap_logit, fit_logit
from dontblink.studies.interaction import build_design
from dontblink_simulation.populations import Answers
from dontblink_simulation.simulate import seed_study


def test_reference_firth() -> None:
    case, expected, tol = read_case("firth_synthetic")
    X = np.column_stack([np.ones(40), case["x1"], case["x2"]])
    found = firth_logit(X, case["y"])
    assert found.coef == pytest.approx(expected["coef_const_x1_x2"], abs=tol["coef_const_x1_x2"])
    assert found.se == pytest.approx(expected["se_fisher"], abs=tol["se_fisher"])
    p = expected["lrt_p_x1_x2_const"]
    assert found.lrt_p[[1, 2, 0]] == pytest.approx(p, abs=tol["lrt_p_x1_x2_const"])
    fit = fit_logit(X, case["y"])
    assert fit.separated
    assert fit.coef == pytest.approx(found.coef, abs=1e-10)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_firth_maximises_the_penalised_likelihood(seed: int) -> None:
    X, y, _ = draw_logit(15, 1, seed)

    def penalised(beta: np.ndarray) -> float:
        p = 1 / (1 + np.exp(-X @ beta))
        information = (X * (p * (1 - p))[:, None]).T @ X
        return -float(np.log(np.where(y == 1, p, 1 - p)).sum() + np.linalg.slogdet(information)[1] / 2)

    found = firth_logit(X, y)
    best = minimize(penalised, found.coef + 0.1, method="BFGS", options={"gtol": 1e-9})
    assert -penalised(found.coef) == pytest.approx(found.log_likelihood, rel=1e-12)
    assert found.coef == pytest.approx(best.x, abs=1e-4)
    free = minimize(lambda b: penalised(np.r_[b, 0.0]), found.coef[:3], method="BFGS", options={"gtol": 1e-9})
    assert found.lrt_p[3] == pytest.approx(chi2.sf(2 * (free.fun - penalised(found.coef)), 1), abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_firth_agrees_with_firthmodels(seed: int) -> None:
    X, y, _ = draw_logit(30, 1, seed)
    X = separate(X, y)
    theirs = firthmodels.FirthLogisticRegression(fit_intercept=False, gtol=1e-6, xtol=1e-6, max_iter=500).fit(X, y)
    assert firth_logit(X, y).coef == pytest.approx(theirs.coef_, abs=1e-5)
    theirs.lrt()
    assert firth_logit(X, y).lrt_p == pytest.approx(theirs.lrt_pvalues_, abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_flipping_the_outcome_flips_the_coefficients(seed: int) -> None:
    X, y, _ = draw_logit(30, 1, seed, slope=-0.2)
    assert firth_logit(X, 1 - y).coef == pytest.approx(-firth_logit(X, y).coef, abs=1e-8)
    assert firth_logit(X, 1 - y).lrt_p == pytest.approx(firth_logit(X, y).lrt_p, abs=1e-7)


def test_row_order_and_scale_change_nothing() -> None:
    X, y, _ = draw_logit()
    scale, order = np.array([1.0, 1e-7, 1e6, 3.0]), np.random.default_rng(0).permutation(len(y))
    first = firth_logit(X, y)
    assert firth_logit(X[order], y[order]).coef == pytest.approx(first.coef, abs=1e-8)
    scaled = firth_logit(X * scale, y)
    assert scaled.coef * scale == pytest.approx(first.coef, rel=1e-7)
    assert scaled.log_likelihood - np.log(scale).sum() == pytest.approx(first.log_likelihood, rel=1e-9)


def test_one_observation_of_a_column_does_not_make_the_steps_oscillate() -> None:
    # the hat value of such a row is 1: unaugmented scoring steps overshoot twofold and never end
    X, y, _ = draw_logit(20, 1)
    alone = np.column_stack([X[:, :2], np.arange(20) == 4])
    found = firth_logit(alone, y)
    p = 1 / (1 + np.exp(-alone[4] @ found.coef))
    assert p == pytest.approx((y[4] + 0.5) / 2, abs=1e-10)  # where the penalised score of the row is 0


def test_fit_on_a_flat_ridge_of_the_penalised_likelihood_converges() -> None:
    # separated by E, so that the penalty alone holds two directions: augmented scoring steps shrink by 3 % each there
    X, y, item = draw_logit(30, 1, seed=3)
    split = (X[:, 1] < np.median(X[:, 1])).astype(float)
    found = bootstrap_logit(X, split, item, Resampling(300, 0, method="percentile"))
    assert found.n_separated == 300
    assert np.isfinite(found.coefficients).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_profile_ends_are_those_of_firthmodels(seed: int) -> None:
    X, y, _ = draw_logit(30, 1, seed)
    X = separate(X, y)
    theirs = firthmodels.FirthLogisticRegression(fit_intercept=False, gtol=1e-8, xtol=1e-8, max_iter=500).fit(X, y)
    expected = theirs.conf_int(method="pl")
    for column in range(X.shape[1]):
        assert profile_interval(X, y, column)[1:] == pytest.approx(expected[column], abs=1e-5)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), column=st.integers(0, 3))
def test_profile_ends_are_where_the_penalised_likelihood_has_fallen_by_the_quantile(seed: int, column: int) -> None:
    X, y, _ = draw_logit(25, 1, seed)

    def penalised(beta: np.ndarray) -> float:
        p = 1 / (1 + np.exp(-X @ beta))
        information = (X * (p * (1 - p))[:, None]).T @ X
        return -float(np.log(np.where(y == 1, p, 1 - p)).sum() + np.linalg.slogdet(information)[1] / 2)

    centre, *ends = profile_interval(X, y, column)
    fit = firth_logit(X, y)
    assert centre == pytest.approx(fit.coef[column], abs=1e-9)
    for end in ends:
        others = np.delete(fit.coef, column)
        best = minimize(lambda b, end=end: penalised(np.insert(b, column, end)), others, method="BFGS")
        assert 2 * (fit.log_likelihood + best.fun) == pytest.approx(chi2.ppf(0.95, 1), abs=1e-3)
    level = 1 - fit.lrt_p[column]  # at this confidence one end is 0
    near = min(map(abs, profile_interval(X, y, column, float(level))[1:]))
    assert near == pytest.approx(0, abs=1e-6)


def test_profile_leads_where_one_models_errors_are_rare_and_nowhere_else() -> None:
    X, y, item = draw_logit(60, 1, seed=2)
    t = Resampling(200, 0, method="t")
    rare = bootstrap_logit(X, y, item, t, errors_of=[1])
    assert rare.interval(1).method == "firth profile" and rare.interval(1, "t").method == "t"
    assert (rare.interval(1).ci_low, rare.interval(1).ci_high) == profile_interval(X, y, 1)[1:]
    assert rare.p_value(1) == firth_logit(X, y).lrt_p[1]
    [refused] = rare.derive(lambda coefficients: coefficients[:, [1]], "percentile")
    assert np.isnan(refused.ci_low) and refused.method.startswith("refused") and np.isfinite(refused.estimate)
    assert bootstrap_logit(X, y, item, Resampling(200, 0, method="percentile")).interval(1).method == "percentile"
    twice = bootstrap_logit(np.repeat(X, 2, 0), np.repeat(y, 2), np.repeat(item, 2), t, errors_of=[1])
    assert twice.interval(1).method == "t"  # rows of one item are not independent
    X, y, item = draw_logit(400, 1, seed=2)
    assert min(y.sum(), len(y) - y.sum()) >= 10 * X.shape[1]
    assert bootstrap_logit(X, y, item, t, errors_of=[1]).interval(1).method == "t"


def test_a_profile_that_does_not_fall_has_an_infinite_end() -> None:
    # 20 rows, 5 of a class, separated: the profile of the product has several maxima and is flat between them
    population, study = Answers(n_items=20, vision=0.0, interaction=0.0), 0
    rows = population.draw(np.random.default_rng(seed_study("interaction", "null_v_small", study)))
    design = build_design(rows)
    centre, low, high = profile_interval(design.x, design.y, 2)
    assert low < centre < high and np.isinf([low, high]).any()
