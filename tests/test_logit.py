"""Claims about the batched logit, its bootstrap, and Firth's fit."""

from __future__ import annotations

import warnings

import firthmodels
import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import chi2
from synthetic_items import read_case

from dontblink.statistics.bootstrap import EstimateError, delete_one, interval_of, resample, symmetric_p
from dontblink.statistics.firth import EstimateError, find_separated, firth_logit
from dontblink.statistics.logit import bootstrap_logit, fit_logit


def draw(n_items: int = 60, repeats: int = 2, seed: int = 0, slope: float = -0.8) -> tuple[np.ndarray, ...]:
    """Design (constant, E, V, E V), outcome and item, with an item effect."""
    rng = np.random.default_rng(seed)
    item = np.repeat(np.arange(n_items), repeats)
    e, v = rng.normal(size=(2, len(item)))
    X = np.column_stack([np.ones(len(item)), e, v, e * v])
    odds = X @ [0.4, slope, 0.3, -0.3] + 0.5 * np.repeat(rng.normal(size=n_items), repeats)
    return X, (rng.random(len(item)) < 1 / (1 + np.exp(-odds))).astype(float), item


def separate(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Add an indicator that is 1 only in rows with y = 1 (quasi-separation)."""
    return np.column_stack([X, (y == 1) & (np.arange(len(y)) % 3 == 0)])


def test_reference_cluster_bootstrap() -> None:
    case, expected, tol = read_case("cluster_bootstrap_logit")
    e, v = case["E"], case["V"]
    X = np.column_stack([np.ones(len(e)), e, v, e * v])
    fit = fit_logit(X, case["y"])
    assert fit.coef == pytest.approx(expected["beta_ml"], abs=tol["beta_ml"])
    assert fit.se == pytest.approx(expected["se_model"], abs=tol["se_model"])
    found = bootstrap_logit(X, case["y"], case["cluster"], 2000, 99, errors_of=range(4))
    assert found.estimate == pytest.approx(expected["beta_ml"], abs=tol["beta_ml"])
    assert found.error == pytest.approx(expected["se_cluster"], abs=tol["se_cluster"])
    assert found.coefficients[:3] == pytest.approx(expected["boot_first3"], abs=tol["boot_first3"])
    assert found.coefficients.std(axis=0, ddof=1) == pytest.approx(expected["boot_se"], abs=tol["boot_se"])
    ends = np.percentile(found.coefficients, [2.5, 97.5], axis=0)
    assert ends == pytest.approx(expected["boot_pct95"].reshape(2, 4), abs=tol["boot_pct95"])
    assert np.abs(found.coefficients).max() == pytest.approx(float(expected["boot_max_abs"]), abs=tol["boot_max_abs"])
    assert (found.n_separated, found.n_degenerate, found.n_clusters) == (0, 0, 60)
    both = [found.interval(j, "percentile") for j in range(4)]
    assert [x.ci_low for x in both] == pytest.approx(list(ends[0]), abs=1e-12)


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


def test_reference_spector() -> None:
    case, expected, tol = read_case("logit_spector")
    X = np.column_stack([np.ones(32), case["GPA"], case["TUCE"], case["PSI"]])
    fit = fit_logit(X, case["GRADE"])
    assert fit.coef == pytest.approx(expected["const_GPA_TUCE_PSI"], abs=tol["const_GPA_TUCE_PSI"])
    assert fit.se == pytest.approx(expected["se"], abs=tol["se"])
    assert fit.log_likelihood == pytest.approx(float(expected["llf"]), abs=tol["llf"])


def test_published_spector_fit() -> None:
    # Spector and Mazzeo (1980) as fitted in Greene, Econometric Analysis, chapter on discrete choice, logit column:
    # constant -13.021 (4.931), GPA 2.826 (1.263), TUCE 0.095 (0.142), PSI 2.379 (1.065), log-likelihood -12.890
    data = sm.datasets.spector.load_pandas().data
    fit = fit_logit(sm.add_constant(data[["GPA", "TUCE", "PSI"]]), data["GRADE"])
    assert fit.coef == pytest.approx([-13.021, 2.826, 0.095, 2.379], abs=6e-4)
    assert fit.se == pytest.approx([4.931, 1.263, 0.142, 1.065], abs=6e-4)
    assert fit.log_likelihood == pytest.approx(-12.890, abs=6e-4)
    assert not fit.separated


@pytest.mark.parametrize("repeats", [1, 3])
def test_each_replicate_is_a_refit_of_the_drawn_rows(repeats: int) -> None:
    X, y, item = draw(50, repeats)
    found = bootstrap_logit(X, y, item, 40, 7, errors_of=[3])
    rows = np.arange(len(y)).reshape(50, repeats)
    for draws, coef, error in zip(
        next(resample([np.arange(50)], 40, 7)), found.coefficients, found.errors, strict=True
    ):
        chosen = rows[draws].ravel()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = sm.Logit(y[chosen], X[chosen]).fit(
                disp=0, tol=1e-14, cov_type="cluster", cov_kwds={"groups": np.repeat(np.arange(50), repeats)}
            )
        assert coef == pytest.approx(theirs.params, abs=1e-10)
        assert error[3] == pytest.approx(theirs.bse[3], rel=1e-9)
    assert np.isnan(found.errors[:, :3]).all()


def test_jackknife_is_a_refit_without_each_item() -> None:
    X, y, item = draw(20, 2)
    (left_out,) = bootstrap_logit(X, y, item, 1, jackknife=True).jackknife
    for g in range(20):
        assert left_out[g] == pytest.approx(fit_logit(X[item != g], y[item != g]).coef, abs=1e-9)


def test_separated_replicates_are_firth_fits_and_are_counted() -> None:
    X, y, item = draw(25, 1)
    found = bootstrap_logit(X, y, item, 300, 1)
    draws = np.concatenate(list(resample([np.arange(25)], 300, 1)))
    separated = [b for b in range(300) if found.separated[b]]
    assert 5 < found.n_separated == len(separated) < 295
    assert np.isfinite(found.coefficients).all()
    for b in separated[:5]:
        assert found.coefficients[b] == pytest.approx(firth_logit(X[draws[b]], y[draws[b]]).coef, abs=1e-8)
        margins = (2 * y[draws[b]] - 1)[:, None] * X[draws[b]]
        assert find_separated(margins, np.ones((1, 25), bool), np.full((1, 4), np.nan))[0]  # the programme agrees
    for b in [b for b in range(300) if not found.separated[b]][:5]:
        margins = (2 * y[draws[b]] - 1)[:, None] * X[draws[b]]
        assert not find_separated(margins, np.ones((1, 25), bool), np.full((1, 4), np.nan))[0]


def test_separated_data_give_separated_replicates_only() -> None:
    X, y, item = draw(40, 1)
    found = bootstrap_logit(separate(X, y), y, item, 100, 2)
    assert found.n_separated == 100 - found.n_degenerate
    assert found.data_separated and not bootstrap_logit(X, y, item, 10, 2).data_separated
    assert found.estimate == pytest.approx(firth_logit(separate(X, y), y).coef, abs=1e-9)


def test_replicates_without_full_rank_are_counted_and_widen_the_interval() -> None:
    X, y, item = draw(30, 1)
    rare = np.column_stack([X, np.arange(30) < 2])  # (28 / 30)^30 = 13 % of the replicates draw neither row
    found = bootstrap_logit(rare, y, item, 1000, 3)
    assert found.n_degenerate / 1000 == pytest.approx((28 / 30) ** 30, abs=4 * np.sqrt(0.126 * 0.874 / 1000))
    assert np.isnan(found.coefficients).all(axis=1).sum() == found.n_degenerate
    assert found.interval(4, "percentile").ci_low == -np.inf
    assert found.interval(4, "percentile").n_degenerate == found.n_degenerate


def test_items_keep_all_their_rows_and_each_stratum_its_size() -> None:
    X, y, item = draw(40, 2)
    cells = np.where(np.arange(80) % 2, "a", "b")
    alone = np.where(item < 15, "both", cells)
    strata = np.where(item < 15, cells, "only " + alone)
    found = bootstrap_logit(np.column_stack([X, np.arange(80) % 2]), y, item, 50, strata=strata)
    assert found.n_clusters == 40
    assert np.isfinite(found.coefficients).all()


def test_scale_of_a_column_does_not_matter() -> None:
    X, y, item = draw()
    scale = np.array([1.0, 1e-7, 1e6, 3.0])
    found = [bootstrap_logit(x, y, item, 50, 1, errors_of=[1], jackknife=True) for x in (X, X * scale)]
    assert found[1].coefficients * scale == pytest.approx(found[0].coefficients, rel=1e-7, abs=1e-9)
    assert found[1].errors[:, 1] * scale[1] == pytest.approx(found[0].errors[:, 1], rel=1e-7)
    assert firth_logit(X * scale, y).coef * scale == pytest.approx(firth_logit(X, y).coef, rel=1e-7)
    ours, theirs = firth_logit(X * scale, y), firth_logit(X, y)
    assert ours.log_likelihood - np.log(scale).sum() == pytest.approx(theirs.log_likelihood, rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(60)))
def test_row_order_changes_nothing(seed: int, order: list[int]) -> None:
    X, y, item = draw(30, 2, seed, slope=-0.2)
    first, second = (bootstrap_logit(X[o], y[o], item[o], 30, 1, errors_of=[3]) for o in (list(range(60)), order))
    assert second.coefficients == pytest.approx(first.coefficients, abs=1e-7, nan_ok=True)
    assert np.array_equal(first.separated, second.separated)
    assert firth_logit(X[order], y[order]).coef == pytest.approx(firth_logit(X, y).coef, abs=1e-8)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), copies=st.integers(2, 4))
def test_copied_rows_of_a_cluster_change_no_maximum_likelihood_replicate(seed: int, copies: int) -> None:
    X, y, item = draw(60, 1, seed, slope=-0.2)
    first = bootstrap_logit(X, y, item, 30, 1)
    second = bootstrap_logit(*(np.repeat(x, copies, axis=0) for x in (X, y, item)), 30, 1)
    assert np.array_equal(first.separated, second.separated)
    own = ~first.separated
    assert second.coefficients[own] == pytest.approx(first.coefficients[own], abs=1e-7)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_flipping_the_outcome_flips_the_coefficients(seed: int) -> None:
    X, y, _ = draw(30, 1, seed, slope=-0.2)
    assert firth_logit(X, 1 - y).coef == pytest.approx(-firth_logit(X, y).coef, abs=1e-8)
    assert firth_logit(X, 1 - y).lrt_p == pytest.approx(firth_logit(X, y).lrt_p, abs=1e-7)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_firth_maximises_the_penalised_likelihood(seed: int) -> None:
    X, y, _ = draw(15, 1, seed)

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
    X, y, _ = draw(30, 1, seed)
    X = separate(X, y)
    theirs = firthmodels.FirthLogisticRegression(fit_intercept=False, gtol=1e-6, xtol=1e-6, max_iter=500).fit(X, y)
    assert firth_logit(X, y).coef == pytest.approx(theirs.coef_, abs=1e-5)
    theirs.lrt()
    assert firth_logit(X, y).lrt_p == pytest.approx(theirs.lrt_pvalues_, abs=1e-5)


def test_one_observation_of_a_column_does_not_make_the_steps_oscillate() -> None:
    # the hat value of such a row is 1: unaugmented scoring steps overshoot twofold and never end
    X, y, _ = draw(20, 1)
    alone = np.column_stack([X[:, :2], np.arange(20) == 4])
    found = firth_logit(alone, y)
    p = 1 / (1 + np.exp(-alone[4] @ found.coef))
    assert p == pytest.approx((y[4] + 0.5) / 2, abs=1e-10)  # where the penalised score of the row is 0


def test_fit_on_a_flat_ridge_of_the_penalised_likelihood_converges() -> None:
    # separated by E, so that the penalty alone holds two directions: augmented scoring steps shrink by 3 % each there
    X, y, item = draw(30, 1, seed=3)
    split = (X[:, 1] < np.median(X[:, 1])).astype(float)
    found = bootstrap_logit(X, split, item, 300, 0)
    assert found.n_separated == 300
    assert np.isfinite(found.coefficients).all()


def test_data_on_the_brink_of_separation_are_fitted_by_firth() -> None:
    # the indicator's two rows lie far apart in x, on their own sides: at the slope that the others want, ML is finite,
    # but their probabilities are within rounding of 0 and 1
    x = np.r_[np.linspace(-1, -0.02, 20), np.linspace(0.02, 1, 20), 0.001, -0.001, -0.8, 0.8]
    y = np.r_[np.zeros(20), np.ones(20), 0, 1, 0, 1]
    X = np.column_stack([np.ones(44), x, np.arange(44) >= 42])
    fit = fit_logit(X, y)
    assert fit.separated
    assert fit.coef == pytest.approx(firth_logit(X, y).coef, abs=1e-9)
    assert np.isfinite(fit.se).all()


@pytest.mark.parametrize("method", ["percentile", "bca", "t"])
def test_no_effect_gives_an_interval_around_zero(method: str) -> None:
    X, y, item = draw(150, 2, seed=4)
    shuffled = np.random.default_rng(1).permutation(y)
    found = bootstrap_logit(X, shuffled, item, 500, errors_of=[3], jackknife=method == "bca")
    interval = found.interval(3, method)  # type: ignore[arg-type]
    assert interval.ci_low < 0 < interval.ci_high
    assert found.p_value(3) > 0.05


def test_bootstrap_t_interval_ends_at_zero_at_the_level_of_its_p_value() -> None:
    X, y, item = draw(80, 1, seed=3)
    found = bootstrap_logit(X, y, item, 999, errors_of=[3])
    p = found.p_value(3)
    assert 0.002 < p < 0.9
    inside, outside = (found.interval(3, "t", 1 - level) for level in (p - 0.002, p + 0.002))
    assert inside.ci_low < 0 < inside.ci_high
    assert not outside.ci_low < 0 < outside.ci_high


def test_derived_quantity_has_the_interval_of_its_replicates() -> None:
    X, y, item = draw()
    found = bootstrap_logit(X, y, item, 400, jackknife=True)
    (ratio,) = found.derive(lambda beta: beta[:, 1:2] * 2, "bca")
    plain = found.interval(1, "bca")
    assert (ratio.estimate, ratio.ci_low, ratio.ci_high) == pytest.approx(
        (2 * plain.estimate, 2 * plain.ci_low, 2 * plain.ci_high), rel=1e-9
    )


def test_intervals_without_their_ingredients_are_refused() -> None:
    X, y, item = draw()
    found = bootstrap_logit(X, y, item, 50)
    with pytest.raises(EstimateError, match="BCa needs one"):
        found.interval(1, "bca")
    with pytest.raises(EstimateError, match="bootstrap-t needs one"):
        found.interval(1, "t")
    with pytest.raises(EstimateError, match="'basic'"):
        interval_of(0.0, np.zeros(5), 5, method="basic")  # type: ignore[arg-type]


def test_symmetric_p_counts_degenerate_replicates_as_extreme() -> None:
    replicates, errors = np.array([1.0, 2.0, 9.0, np.nan]), np.ones(4)
    assert symmetric_p(2.0, 1.0, replicates, errors) == (1 + 2) / 5  # |9 - 2| and the degenerate one


def test_leave_one_out_weights_keep_the_size_of_each_stratum() -> None:
    weights = delete_one([np.array([0, 2]), np.array([1, 3, 4]), np.array([5])], 6)
    assert [w.shape for w in weights] == [(2, 6), (3, 6)]
    assert np.allclose(weights[0].sum(axis=1), 6) and np.allclose(weights[1].sum(axis=1), 6)
    assert weights[1][0].tolist() == [1, 0, 1, 1.5, 1.5, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.ones(60)}, "one class only"),
        ({"y": np.zeros(60)}, "one class only"),
        ({"y": np.full(60, 0.5)}, "row 0: y is 0.5"),
        ({"y": np.ones(59)}, "expected \\(rows, columns\\) and one y a row"),
        ({"X": np.ones((60, 2))}, "2 columns and rank 1"),
        ({"X": np.column_stack([np.ones(60), np.zeros(60)])}, "2 columns and rank 1"),
        ({"X": np.where(np.arange(120).reshape(60, 2) == 9, np.nan, 1.0)}, "row 4: X is"),
        ({"X": np.random.default_rng(0).normal(size=(60, 60))}, "60 rows for 60 columns"),
    ],
)
def test_unusable_designs_are_named(change: dict, message: str) -> None:
    X, y, item = draw(60, 1)
    given_rows = {"X": X, "y": y} | change
    for call in (fit_logit, firth_logit, lambda X, y: bootstrap_logit(X, y, item, 10)):
        with pytest.raises(EstimateError, match=message):
            call(given_rows["X"], given_rows["y"])


def test_too_few_items_are_refused() -> None:
    X, y, item = draw(60, 1)
    with pytest.raises(EstimateError, match="9 items for 60 rows; resampling needs >= 10"):
        bootstrap_logit(X, y, item % 9, 10)
    with pytest.raises(EstimateError, match="1 cluster"):
        bootstrap_logit(X, y, np.zeros(60), 10)
    with pytest.raises(EstimateError, match="row 2: no cluster label"):
        bootstrap_logit(X, y, np.array(["a", "b", None, *"c" * 57], object), 10)


def test_seed_decides_the_draws_and_nothing_else_does() -> None:
    X, y, item = draw()
    np.random.seed(0)
    first = bootstrap_logit(X, y, item, 100, 1).coefficients
    np.random.seed(5)
    assert np.array_equal(first, bootstrap_logit(X, y, item, 100, 1).coefficients)
    assert not np.array_equal(first, bootstrap_logit(X, y, item, 100, 2).coefficients)
    longer = bootstrap_logit(X, y, item, 150, 1).coefficients[:100]
    assert longer == pytest.approx(first, abs=1e-10)
