"""Claims about the register: every demanded setting is met or excused, and every test meets a null."""

from __future__ import annotations

import pytest

from dontblink_simulation.coverage import MARKS
from dontblink_simulation.register import STATISTICS

DEMANDED = ("iid", "clustered", "tied", "small", "null_v", "separation")


@pytest.mark.parametrize("name", STATISTICS)
def test_each_demanded_setting_is_there_or_its_absence_is_explained(name: str) -> None:
    statistic = STATISTICS[name]
    assert set(DEMANDED) <= set(statistic.settings) | set(statistic.absent)
    assert not set(statistic.settings) & set(statistic.absent)
    assert all(len(reason) > 10 for reason in statistic.absent.values())


@pytest.mark.parametrize("name", [name for name in STATISTICS if name not in ("transfer", "selective")])
def test_every_method_meets_a_null(name: str) -> None:
    statistic = STATISTICS[name]
    for quantity, methods in statistic.methods.items():
        if quantity.startswith("gain_"):
            continue  # a rule with useless vision loses on average: its gain has no null value
        nulls = [s for s, p in statistic.settings.items() if abs(p.truth()[quantity] - statistic.null) < 1e-9]
        met = {method for setting in nulls for q, method in statistic.expected(setting) if q == quantity}
        assert met == set(methods), quantity


def test_each_method_has_a_mark_of_its_own_and_each_primary_is_a_method() -> None:
    for statistic in STATISTICS.values():
        for quantity, methods in statistic.methods.items():
            assert statistic.primary.get(quantity, methods[0]) in methods
            marks = [MARKS[method]["marker"] for method in methods]
            assert len(set(marks)) == len(marks)
