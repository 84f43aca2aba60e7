"""Claims about guarantees: they hold at home, fail under a shift that is planted, and a few labels repair them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint
from synthetic_items import make_items, read_case

from dontblink.statistics.bootstrap import EstimateError
from dontblink.studies import guarantees

OPTIONS: dict[str, Any] = {"max_risk": 0.3, "n_draws": 6}


def test_p_values_are_those_of_the_reference_vectors() -> None:
    from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value

    given, expected, tolerance = read_case("ltt_hb")
    n, alpha = int(given["n"]), float(given["alpha"])
    found = guarantees.bound_p_values(np.rint(given["r_hat"] * n), np.full(4, n), alpha)
    np.testing.assert_allclose(found, expected["p_binary"], rtol=0, atol=tolerance["p_binary"])
    bounded = compute_hoeffding_bentkus_p_value(given["r_hat"], n, alpha)[:, 0]
    np.testing.assert_allclose(bounded, expected["p"], rtol=0, atol=tolerance["p"])


def test_p_value_of_whole_errors_is_the_binomial_tail_and_one_where_nothing_is_accepted() -> None:
    found = guarantees.bound_p_values([0, 3, 8, 0], [20, 20, 20, 0], 0.3)
    np.testing.assert_allclose(found, [*binom.cdf([0, 3, 8], 20, 0.3), 1.0], atol=1e-12)


def test_the_laxest_threshold_before_the_first_failure_is_taken() -> None:
    confidence = np.arange(200)[::-1]
    error = np.arange(200) >= 100  # the surer half is right
    found = guarantees.certify_threshold(confidence, error, [50, 120, 150, 100, 20], max_risk=0.1, delta=0.1)
    assert (found.threshold, found.n_accepted, found.n_certifying, found.risk) == (100.0, 100, 200, 0.0)
    assert found.p_value == pytest.approx(0.9**100) and "at least 0.9" in found.guarantee
    error[:20] = True  # now the strictest fails, and nothing after it is tested
    none = guarantees.certify_threshold(confidence, error, [50, 120, 150, 185], max_risk=0.1, delta=0.1)
    assert np.isnan(none.threshold) and none.n_accepted == 0 and "accept nothing" in none.guarantee


def test_false_certificates_are_rarer_than_delta() -> None:
    rng = np.random.default_rng(0)
    thresholds, delta, false = np.linspace(0.9, 0.0, 10), 0.1, 0
    for _ in range(1000):
        # the risk rises from 0.1 to 0.3 as confidence falls from 1 to 0: above t it is 0.2 - 0.1 t
        confidence = rng.random(200)
        error = rng.random(200) < 0.3 - 0.2 * confidence
        found = guarantees.certify_threshold(confidence, error, thresholds, max_risk=0.15, delta=delta)
        false += bool(0.2 - 0.1 * found.threshold >= 0.15)
    assert false <= binom.ppf(0.999, 1000, delta)


@pytest.mark.parametrize(
    ("thresholds", "max_risk", "delta"), [([], 0.1, 0.1), ([np.nan], 0.1, 0.1), ([0.5], 0.0, 0.1), ([0.5], 0.1, 1.0)]
)
def test_uncertifiable_options_are_refused(thresholds: list[float], max_risk: float, delta: float) -> None:
    with pytest.raises(EstimateError, match="expected"):
        guarantees.certify_threshold([0.1, 0.9], [1, 0], thresholds, max_risk=max_risk, delta=delta)


def make_shifted(n_items: int = 600, seed: int = 0, shift: float = 1.5) -> pd.DataFrame:
    """Two benchmarks; the log-odds of a right answer are 2 - E on one, and less by `shift` on the other."""
    rng, parts = np.random.default_rng(seed), []
    for benchmark, lower in (("symbolic", 0.0), ("visual", shift)):
        items = make_items(n_items, benchmarks=(benchmark,), seed=seed)
        odds = 2.0 - 10 * (items["full_entropy_nats"] - 0.5) - lower
        parts.append(items.assign(correct=rng.random(len(items)) < 1 / (1 + np.exp(-odds))))
    return pd.concat(parts, ignore_index=True)


def test_a_certificate_holds_at_home_breaks_under_a_planted_shift_and_is_repaired() -> None:
    options: dict[str, Any] = {"max_risk": 0.15, "delta": 0.1, "n_draws": 10, "monitors": ("entropy_length",)}
    tables = [guarantees.shift_table(make_shifted(seed=k), None, seed=k, **options) for k in range(20)]
    table = pd.concat(tables, ignore_index=True)
    aimed = table[(table["source"] == "symbolic") & table["target"].isin(["symbolic", "visual"])]
    # draws share their answers: only the first of each data set counts as one more trial
    surely = aimed[aimed["draw"] == 0].groupby("kind")["violates_surely"].sum()
    n = (aimed["draw"] == 0).groupby(aimed["kind"]).sum()
    for kind in ("home", "repaired"):
        assert surely[kind] <= binom.ppf(0.999, n[kind], 0.1)
    assert surely["shifted"] >= 0.8 * n["shifted"]
    kinds = guarantees.summarise_kinds(aimed).set_index("kind")
    assert kinds.loc["home", "worst_risk"] < 0.15 < kinds.loc["shifted", "worst_risk"]
    # the promise is over draws, with or without a certificate: of the few that are issued near the limit many are false
    assert kinds.loc["repaired", "share_of_draws"] < 0.5 * kinds.loc["shifted", "share_of_draws"]
    words = guarantees.describe_kinds(kinds.reset_index(), 0.15, 0.1)
    assert f"{kinds.loc['shifted', 'n_violations']} of {kinds.loc['shifted', 'n_certificates']} certified" in words


def test_the_table_has_every_ordered_pair_and_keeps_apart_what_fits_certifies_and_checks() -> None:
    table = guarantees.shift_table(make_items(300), ["type of visual"], repair_items=50, **OPTIONS)
    counts = table.groupby(["monitor", "kind"]).size()
    assert (counts.xs("home", level="kind") == 4 * 6).all() and (counts.xs("shifted", level="kind") == 4 * 6).all()
    home, shifted, repaired = (table[table["kind"] == kind] for kind in guarantees.KINDS)
    assert (home["source"] == home["target"]).all() and (shifted["source"] != shifted["target"]).all()
    assert (home["n_certifying"] + home["n_checked"] == 200).all() and home["n_checked"].between(80, 120).all()
    assert (shifted["n_checked"] == 300).all() and (shifted["n_certifying"] == home["n_certifying"].iloc[0]).any()
    assert (repaired["n_certifying"] == 50).all() and (repaired["n_checked"] == 250).all()
    none = table["threshold"].isna()
    assert (table["n_accepted"][none] == 0).all() and table["risk"][none].isna().all()
    assert not table["violates"][none].any()
    row = table[~none].iloc[0]
    ends = proportion_confint(row["n_wrong"], row["n_accepted"], alpha=0.05, method="beta")
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(ends) and row["risk"] == row["n_wrong"] / row["n_accepted"]
    pairs = guarantees.summarise_pairs(table)
    assert len(pairs) == 3 * (4 + 4 + 4) and (pairs["n_draws"] == 6).all() and (pairs["n_certified"] <= 6).all()


def test_labels_of_checked_answers_change_no_threshold() -> None:
    items = make_shifted(200)
    options: dict[str, Any] = {"monitors": ("entropy_length",), "repair_items": 60, **OPTIONS}
    table = guarantees.shift_table(items, None, **options)
    visual = items["benchmark"] == "visual"
    turned = items.assign(correct=items["correct"] ^ visual)
    other = guarantees.shift_table(turned, None, **options)
    home = (table["source"] == "symbolic") & (table["kind"] != "repaired")
    pd.testing.assert_series_equal(table["threshold"][home], other["threshold"][home])
    shifted = home & (table["kind"] == "shifted")
    total = table["n_wrong"][shifted] + other["n_wrong"][shifted]
    assert (total == table["n_accepted"][shifted]).all() and (total > 0).any()


def test_a_target_with_too_few_answers_is_not_repaired() -> None:
    table = guarantees.shift_table(make_items(80), None, monitors=("entropy",), repair_items=80, **OPTIONS)
    assert set(table["kind"]) == {"home", "shifted"}


@pytest.mark.parametrize(
    ("options", "message"), [({"monitors": ("magic",)}, "magic"), ({"min_items": 500}, "no cell has 500 items")]
)
def test_unusable_tables_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EstimateError, match=message):
        guarantees.shift_table(make_items(40), None, **OPTIONS | options)


def test_a_vetoed_answer_is_never_accepted_even_where_all_others_are() -> None:
    items = make_items(900, seed=3).assign(correct=True)
    rng = np.random.default_rng(0)
    low = items["vision_evidence_mass"] < items.groupby(["model", "benchmark"])["vision_evidence_mass"].transform(
        lambda x: x.quantile(0.1)
    )
    items["correct"] = ~(low & (rng.random(len(items)) < 0.9)) & (rng.random(len(items)) < 0.99)
    table = guarantees.shift_table(items, None, max_risk=0.15, n_draws=2)
    every, vetoed = (table[table["monitor"] == name].reset_index(drop=True) for name in ("entropy_length", "veto"))
    full = (every["n_accepted"] > 0.98 * every["n_checked"]) & vetoed["threshold"].notna()
    assert full.sum() >= 8
    assert (vetoed["n_accepted"] < 0.95 * every["n_accepted"])[full].all()
    assert (vetoed["risk"] < every["risk"])[full].all()


def test_a_target_of_which_every_answer_is_vetoed_has_no_certificate() -> None:
    promise = {"max_risk": 0.2, "delta": 0.1}
    found = guarantees._certify(np.full(30, -np.inf), np.zeros(30), np.arange(20), np.arange(20, 30), promise)
    assert np.isnan(found.threshold) and (found.n_certifying, found.n_accepted, found.p_value) == (20, 0, 1.0)
