"""Claims about the batched logit and its bootstrap."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from synthetic import draw_logit, separate
from synthetic_items import read_case

from dontblink.statistics.bootstrap import EstimateError, Resampling, resample
from dontblink.statistics.firth import find_separated, firth_logit
from dontblink.statistics.logit import bootstrap_logit, fit_logit


def plain(n_replicates: int, seed: int = 0) -> Resampling:
    """A resampling that needs no jackknife."""
    return Resampling(n_replicates, seed, method="percentile")


def test_reference_cluster_bootstrap() -> None:
    case, expected, tol = read_case("cluster_bootstrap_logit")
    e, v = case["E"], case["V"]
    X = np.column_stack([np.ones(len(e)), e, v, e * v])
    fit = fit_logit(X, case["y"])
    assert fit.coef == pytest.approx(expected["beta_ml"], abs=tol["beta_ml"])
    assert fit.se == pytest.approx(expected["se_model"], abs=tol["se_model"])
    found = bootstrap_logit(X, case["y"], case["cluster"], plain(2000, 99), errors_of=range(4))
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
    X, y, item = draw_logit(50, repeats)
    found = bootstrap_logit(X, y, item, plain(40, 7), errors_of=[3])
    rows = np.arange(len(y)).reshape(50, repeats)
    for draws, coef, error in zip(
        next(resample([np.arange(50)], Resampling(40, 7))), found.coefficients, found.errors, strict=True
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
    X, y, item = draw_logit(20, 2)
    (left_out,) = bootstrap_logit(X, y, item, Resampling(1)).jackknife
    for g in range(20):
        assert left_out[g] == pytest.approx(fit_logit(X[item != g], y[item != g]).coef, abs=1e-9)


def test_separated_replicates_are_firth_fits_and_are_counted() -> None:
    X, y, item = draw_logit(25, 1)
    found = bootstrap_logit(X, y, item, plain(300, 1))
    draws = np.concatenate(list(resample([np.arange(25)], Resampling(300, 1))))
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
    X, y, item = draw_logit(40, 1)
    found = bootstrap_logit(separate(X, y), y, item, plain(100, 2))
    assert found.n_separated == 100 - found.n_degenerate
    assert found.data_separated and not bootstrap_logit(X, y, item, plain(10, 2)).data_separated
    assert found.estimate == pytest.approx(firth_logit(separate(X, y), y).coef, abs=1e-9)


def test_replicates_without_full_rank_are_counted_and_widen_the_interval() -> None:
    X, y, item = draw_logit(30, 1)
    rare = np.column_stack([X, np.arange(30) < 2])  # (28 / 30)^30 = 13 % of the replicates draw neither row
    found = bootstrap_logit(rare, y, item, plain(1000, 3))
    assert found.n_degenerate / 1000 == pytest.approx((28 / 30) ** 30, abs=4 * np.sqrt(0.126 * 0.874 / 1000))
    assert np.isnan(found.coefficients).all(axis=1).sum() == found.n_degenerate
    assert found.interval(4, "percentile").ci_low == -np.inf
    assert found.interval(4, "percentile").n_degenerate == found.n_degenerate


def test_scale_of_a_column_and_order_of_rows_change_nothing() -> None:
    X, y, item = draw_logit()
    scale, order = np.array([1.0, 1e-7, 1e6, 3.0]), np.random.default_rng(0).permutation(len(y))
    first = bootstrap_logit(X, y, item, Resampling(50, 1), errors_of=[1])
    scaled = bootstrap_logit(X * scale, y, item, Resampling(50, 1), errors_of=[1])
    moved = bootstrap_logit(X[order], y[order], item[order], Resampling(50, 1), errors_of=[1])
    for other, unit in ((scaled, scale), (moved, np.ones(4))):
        assert other.coefficients * unit == pytest.approx(first.coefficients, rel=1e-7, abs=1e-9)
        assert other.errors[:, 1] * unit[1] == pytest.approx(first.errors[:, 1], rel=1e-7)
        assert np.array_equal(first.separated, other.separated)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), copies=st.integers(2, 4))
def test_copied_rows_of_a_cluster_change_no_maximum_likelihood_replicate(seed: int, copies: int) -> None:
    X, y, item = draw_logit(60, 1, seed, slope=-0.2)
    first = bootstrap_logit(X, y, item, plain(30, 1))
    second = bootstrap_logit(*(np.repeat(x, copies, axis=0) for x in (X, y, item)), plain(30, 1))
    assert np.array_equal(first.separated, second.separated)
    own = ~first.separated
    assert second.coefficients[own] == pytest.approx(first.coefficients[own], abs=1e-7)


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
    X, y, item = draw_logit(150, 2, seed=4)
    shuffled = np.random.default_rng(1).permutation(y)
    found = bootstrap_logit(
        X, shuffled, item, Resampling(500, method="bca" if method == "bca" else "percentile"), errors_of=[3]
    )
    interval = found.interval(3, method)  # type: ignore[arg-type]
    assert interval.ci_low < 0 < interval.ci_high
    assert found.p_value(3) > 0.05


def test_bootstrap_t_interval_ends_at_zero_at_the_level_of_its_p_value() -> None:
    X, y, item = draw_logit(80, 1, seed=3)
    found = bootstrap_logit(X, y, item, plain(999), errors_of=[3])
    p = found.p_value(3)
    assert 0.002 < p < 0.9
    inside, outside = (
        replace(found, resampling=Resampling(999, confidence=1 - level)).interval(3, "t")
        for level in (p - 0.002, p + 0.002)
    )
    assert inside.ci_low < 0 < inside.ci_high
    assert not outside.ci_low < 0 < outside.ci_high


def test_derived_quantity_has_the_interval_of_its_replicates() -> None:
    X, y, item = draw_logit()
    found = bootstrap_logit(X, y, item, Resampling(400))
    (ratio,) = found.derive(lambda beta: beta[:, 1:2] * 2, "bca")
    plain = found.interval(1, "bca")
    assert (ratio.estimate, ratio.ci_low, ratio.ci_high) == pytest.approx(
        (2 * plain.estimate, 2 * plain.ci_low, 2 * plain.ci_high), rel=1e-9
    )


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
    X, y, item = draw_logit(60, 1)
    given_rows = {"X": X, "y": y} | change
    for call in (fit_logit, firth_logit, lambda X, y: bootstrap_logit(X, y, item, plain(10))):
        with pytest.raises(EstimateError, match=message):
            call(given_rows["X"], given_rows["y"])


def test_too_few_items_are_refused() -> None:
    X, y, item = draw_logit(60, 1)
    with pytest.raises(EstimateError, match="9 items for 60 rows; resampling needs >= 10"):
        bootstrap_logit(X, y, item % 9, plain(10))
    with pytest.raises(EstimateError, match="1 cluster"):
        bootstrap_logit(X, y, np.zeros(60), plain(10))
    with pytest.raises(EstimateError, match="row 2: no cluster label"):
        bootstrap_logit(X, y, np.array(["a", "b", None, *"c" * 57], object), plain(10))


def test_seed_decides_the_draws_and_nothing_else_does() -> None:
    X, y, item = draw_logit()
    np.random.seed(0)
    first = bootstrap_logit(X, y, item, plain(100, 1)).coefficients
    np.random.seed(5)
    assert np.array_equal(first, bootstrap_logit(X, y, item, plain(100, 1)).coefficients)
    assert not np.array_equal(first, bootstrap_logit(X, y, item, plain(100, 2)).coefficients)
    longer = bootstrap_logit(X, y, item, plain(150, 1)).coefficients[:100]
    assert longer == pytest.approx(first, abs=1e-10)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(6, 16), decimals=st.integers(0, 3))
def test_separation_is_what_a_linear_programme_says(seed: int, n: int, decimals: int) -> None:
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), np.round(rng.normal(size=(n, 2)), decimals)])
    margins = np.where(rng.random(n) < 0.5, 1.0, -1.0)[:, None] * x
    found = find_separated(margins, np.ones((1, n), bool), np.full((1, 3), np.nan))[0]
    best = linprog(-margins.sum(axis=0), A_ub=-margins, b_ub=np.zeros(n), bounds=(-1, 1), method="highs")
    assert found == (-best.fun > 1e-6)
