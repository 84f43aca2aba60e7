"""Claims about certificates: MAPIE's p-values, nothing beyond what is tested, and a guarantee that holds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom
from synthetic_items import make_items, read_case

from dontblink.studies.risk_coverage import EstimateError
from dontblink.studies.veto import bound_p_values, certify_table, certify_threshold


def test_p_values_are_those_of_the_reference_vectors() -> None:
    from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value

    given, expected, tolerance = read_case("ltt_hb")
    n, alpha = int(given["n"]), float(given["alpha"])
    found = bound_p_values(np.rint(given["r_hat"] * n), np.full(4, n), alpha)
    np.testing.assert_allclose(found, expected["p_binary"], rtol=0, atol=tolerance["p_binary"])
    bounded = compute_hoeffding_bentkus_p_value(given["r_hat"], n, alpha)[:, 0]
    np.testing.assert_allclose(bounded, expected["p"], rtol=0, atol=tolerance["p"])


def test_p_value_of_whole_errors_is_the_binomial_tail_and_one_where_nothing_is_accepted() -> None:
    found = bound_p_values([0, 3, 8, 0], [20, 20, 20, 0], 0.3)
    np.testing.assert_allclose(found, [*binom.cdf([0, 3, 8], 20, 0.3), 1.0], atol=1e-12)


def test_the_laxest_threshold_before_the_first_failure_is_taken() -> None:
    confidence = np.arange(200)[::-1]
    error = np.arange(200) >= 100  # the surer half is right
    found = certify_threshold(confidence, error, [50, 120, 150, 100, 20], max_risk=0.1, delta=0.1)
    assert (found.threshold, found.n_accepted, found.n, found.risk) == (100.0, 100, 200, 0.0)
    assert found.p_value == pytest.approx(0.9**100) and "at least 0.9" in found.guarantee
    error[:20] = True  # now the strictest fails, and nothing after it is tested
    none = certify_threshold(confidence, error, [50, 120, 150, 185], max_risk=0.1, delta=0.1)
    assert np.isnan(none.threshold) and none.n_accepted == 0 and "accept nothing" in none.guarantee


def test_false_certificates_are_rarer_than_delta() -> None:
    rng = np.random.default_rng(0)
    thresholds, delta, false = np.linspace(0.9, 0.0, 10), 0.1, 0
    for _ in range(1000):
        # the risk rises from 0.1 to 0.3 as confidence falls from 1 to 0: above t it is 0.2 - 0.1 t
        confidence = rng.random(200)
        error = rng.random(200) < 0.3 - 0.2 * confidence
        found = certify_threshold(confidence, error, thresholds, max_risk=0.15, delta=delta)
        false += bool(0.2 - 0.1 * found.threshold >= 0.15)
    assert false <= binom.ppf(0.999, 1000, delta)


@pytest.mark.parametrize(
    ("thresholds", "max_risk", "delta"), [([], 0.1, 0.1), ([np.nan], 0.1, 0.1), ([0.5], 0.0, 0.1), ([0.5], 0.1, 1.0)]
)
def test_unusable_options_are_refused(thresholds: list[float], max_risk: float, delta: float) -> None:
    with pytest.raises(EstimateError, match="expected"):
        certify_threshold([0.1, 0.9], [1, 0], thresholds, max_risk=max_risk, delta=delta)


def test_table_certifies_every_cell_on_items_apart_from_those_that_check_it() -> None:
    items = make_items(300)
    table = certify_table(items, ["type of visual"], max_risk=0.35)
    assert len(table) == 4 * 2 and set(table["rule"]) == {"entropy", "veto"}
    sizes = table["n_certifying"] + table["n_checked"]
    assert (sizes == 200).all() and (table["n_checked"].between(80, 120)).all()
    certified = table["threshold"].notna()
    assert certified.any() and (table.loc[certified, "risk"] < 0.35).all()
    assert (table.loc[certified, "p_value"] <= 0.1).all()
    untargeted = table.query("benchmark == 'symbolic' and rule == 'veto'")
    assert untargeted["vision_floor"].isna().all()


def test_small_table_is_refused() -> None:
    with pytest.raises(EstimateError, match="no cell has 60 items"):
        certify_table(make_items(30), None, max_risk=0.3)


def test_a_vetoed_answer_is_never_accepted_even_where_all_others_are() -> None:
    items = make_items(900, seed=3).assign(correct=True)
    rng = np.random.default_rng(0)
    low = items["vision_evidence_mass"] < items.groupby(["model", "benchmark"])["vision_evidence_mass"].transform(
        lambda x: x.quantile(0.1)
    )
    items["correct"] = ~(low & (rng.random(len(items)) < 0.9))
    table = certify_table(items, None, max_risk=0.15)
    vetoed = table[(table["rule"] == "veto") & table["vision_floor"].notna()]
    assert len(vetoed) and np.isfinite(vetoed["threshold"]).all() and (vetoed["checked_coverage"] < 1).all()
