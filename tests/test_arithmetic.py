"""Reported numbers are held against the counts that they imply."""

import math

import numpy as np
import pytest

from dontblink.publish import claims
from dontblink.studies.risk_coverage import count_accepted


def test_a_gain_of_one_and_nine_tenths_points_is_five_answers_of_about_three_hundred() -> None:
    table = claims.explain_points(1.9, 1, 0.9, 280, 320)
    assert table["saved_errors"].tolist() == [5]
    assert (table["n_low"].item(), table["n_high"].item()) == (285, 300)


@pytest.mark.parametrize("points", [0.4, 1.9, 2.5])
def test_the_fits_are_exactly_those_that_round_to_the_report(points: float) -> None:
    table = claims.explain_points(points, 1, 0.9, 200, 400)
    expected: dict[int, list[int]] = {}
    for n in range(200, 401):
        k = count_accepted(n, 0.9)
        for saved in range(0, 40):
            if math.floor(1000 * saved / k + 0.5) == round(10 * points):
                expected.setdefault(saved, []).append(n)
    assert table["saved_errors"].tolist() == sorted(expected)
    assert table["n_counts"].tolist() == [len(expected[saved]) for saved in sorted(expected)]


def test_no_count_of_ten_items_gives_the_gain() -> None:
    assert claims.explain_points(1.9, 1, 0.9, 10, 10).empty


def test_a_uniform_look_over_a_reasoning_of_that_length_falls_by_that_much() -> None:
    bins, fall, prompt = 10, 0.57, 1000.0
    reasoning = prompt * claims.explain_by_dilution(fall, bins)
    middles = prompt + reasoning * (np.arange(bins) + 0.5) / bins
    assert 1 - middles[0] / middles[-1] == pytest.approx(fall)


def test_a_fall_beyond_what_the_bins_can_show_needs_an_endless_reasoning() -> None:
    assert claims.explain_by_dilution(0.96, 10) == math.inf


def test_eight_samples_without_an_error_leave_a_third_possible() -> None:
    table = claims.bound_small_counts([2, 8], 0.95).set_index("n")
    assert table.loc[8, "none_high"] == pytest.approx(1 - 0.025 ** (1 / 8))
    assert table.loc[2, "half_low"] < 0.05 and table.loc[2, "half_high"] > 0.95


def test_nine_of_nine_is_two_in_two_to_the_nine() -> None:
    assert claims.sign_probability(9) == pytest.approx(2 / 2**9)
