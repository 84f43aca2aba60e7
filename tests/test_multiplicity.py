"""Holm's adjustment agrees with the reference and refuses a family with a hole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests
from synthetic_items import read_case

from dontblink.statistics.bootstrap import EstimateError, adjust_holm


def test_holm_equals_the_nine_test_reference() -> None:
    given_values, expected, tolerance = read_case("multiplicity9")
    np.testing.assert_allclose(adjust_holm(given_values["p"]), expected["holm"], atol=tolerance["holm"], rtol=0)


@settings(max_examples=30, deadline=None)  # each call of the other one collects all garbage
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels_to_the_last_bit(p: list[float]) -> None:
    values = np.array(p)
    np.testing.assert_array_equal(adjust_holm(values), multipletests(values, method="holm")[1])


@pytest.mark.parametrize("p", [[0.01, np.nan, 0.2], [0.1, 1.2], [-0.1, 0.5]])
def test_nan_or_no_probability_is_an_error(p: list[float]) -> None:
    with pytest.raises(EstimateError, match="expected numbers in"):
        adjust_holm(np.array(p))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms())
def test_adjusting_keeps_the_order_raises_and_does_not_depend_on_the_order_of_the_family(p: list[float], rng) -> None:
    values = np.array(p)
    adjusted = adjust_holm(values)
    assert (adjusted >= values).all() and (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(values, kind="stable")]) >= 0).all()
    order = rng.sample(range(len(p)), len(p))
    np.testing.assert_array_equal(adjust_holm(values[order]), adjusted[order])
