"""Every reference case is used by a test, and the libraries that compute a measure for us give the reference values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from statsmodels.stats.contingency_tables import mcnemar
from synthetic_items import VECTORS, read_case


def test_every_reference_case_is_named_in_a_test() -> None:
    if not VECTORS.exists():
        pytest.skip("reference vectors are not part of the repository: ../shared/fixtures/stats/vectors.json")
    texts = "".join(path.read_text() for path in Path(__file__).parents[1].rglob("test_*.py"))
    unused = [case for case in json.loads(VECTORS.read_text()) if case != "meta" and case not in texts]
    assert not unused


def test_statsmodels_gives_the_exact_mcnemar_p_of_the_reference() -> None:
    given, expected, tolerance = read_case("mcnemar")
    found = mcnemar(given["table"], exact=True).pvalue
    assert found == pytest.approx(float(expected["exact_p"]), abs=tolerance["exact_p"])
