"""Claims about the negative control and the cross-check of the collapse."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import make_bins

from dontblink.studies.collapse import EstimateError, log_ratio_check, pair_bins, shuffled_lift


def test_log_ratio_by_paired_t_and_by_mixed_model_agree() -> None:
    bins = make_bins(40, fall=0.6, seed=8)
    bins["evidence_mass"] *= np.exp(0.3 * np.random.default_rng(1).normal(size=len(bins)))
    check = log_ratio_check(pair_bins(bins), "grounding_layers")
    assert len(check) == 4 and check["converged"].all() and (check["n_zero"] == 0).all()
    assert np.allclose(check["estimate"], np.log(0.4), atol=0.3)
    assert np.allclose(check["estimate"], check["mixed_estimate"], atol=0.02)
    assert ((check["ci_low"] < check["estimate"]) & (check["estimate"] < check["ci_high"])).all()


def test_item_with_zero_mass_has_no_log_ratio_and_is_counted() -> None:
    bins = make_bins(40, seed=8)
    bins["evidence_mass"] *= np.exp(0.3 * np.random.default_rng(1).normal(size=len(bins)))
    bins.loc[(bins["item_id"] == "visual-003") & (bins["bin"] == 3), "evidence_mass"] = 0.0
    check = log_ratio_check(pair_bins(bins), "grounding_layers").set_index(["model", "benchmark"])
    assert check.loc[("glm", "visual"), "n_zero"] == 1 and check.loc[("glm", "visual"), "n_items"] == 39


def make_maps(n: int = 300, n_tokens: int = 36, focus: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    coverage = np.zeros((n, n_tokens))
    coverage[np.arange(n)[:, None], rng.random((n, n_tokens)).argsort(axis=1)[:, :3]] = 1
    return rng.dirichlet(np.ones(n_tokens), n) + focus * coverage, coverage


def test_boxes_dealt_to_other_items_have_a_lift_of_one() -> None:
    found = shuffled_lift(*make_maps(focus=0.2), n_permutations=300)
    assert found["lift"] > 4 and found["p"] < 0.01
    assert found["shuffled_lift"] == pytest.approx(1, abs=0.05)
    assert found["shuffled_low"] < 1 < found["shuffled_high"]


def test_look_without_preference_has_a_lift_of_one() -> None:
    found = shuffled_lift(*make_maps(), n_permutations=300)
    assert found["lift"] == pytest.approx(1, abs=0.15) and found["p"] > 0.01


def test_no_item_keeps_its_boxes_in_a_deal() -> None:
    found = shuffled_lift(np.eye(8), np.eye(8), n_permutations=50)
    assert found["lift"] == 8 and found["shuffled_high"] == 0


def test_lift_does_not_depend_on_the_scale_of_a_map() -> None:
    maps, coverage = make_maps(focus=0.1)
    scaled = maps * np.random.default_rng(2).uniform(0.1, 9, (len(maps), 1))
    assert shuffled_lift(scaled, coverage, n_permutations=5)["lift"] == pytest.approx(
        shuffled_lift(maps, coverage, n_permutations=5)["lift"]
    )


def test_maps_without_mass_or_evidence_are_refused() -> None:
    with pytest.raises(EstimateError, match="some evidence"):
        shuffled_lift(np.ones((4, 6)), np.zeros((4, 6)))
    with pytest.raises(EstimateError, match="mass in each map"):
        shuffled_lift(np.zeros((4, 6)), np.ones((4, 6)))
