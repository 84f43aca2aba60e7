"""Claims about the table and figure of coverage: rates are counted as they say, and a wrong interval is seen."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from scipy.stats import beta

from dontblink.statistics.bootstrap import Resampling, bootstrap_ratio
from dontblink_simulation.coverage import COVERAGE_BAND, draw_coverage, list_numbers, summarise
from dontblink_simulation.populations import Masses
from dontblink_simulation.register import STATISTICS


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def make_rows(n: int = 100, **columns: object) -> pd.DataFrame:
    """Rows of one method; by default an interval 0 to 1 of the truth 0.5."""
    rows = {"setting": "iid", "quantity": "difference", "method": "bca", "reason": "", "study": range(n)}
    numbers = {"estimate": 0.5, "ci_low": 0.0, "ci_high": 1.0, "p": np.nan, "truth": 0.5}
    return pd.DataFrame({**rows, **numbers, "n_degenerate": 0, "n_separated": 0, **columns})


def summarise_one(rows: pd.DataFrame, statistic: str = "auroc_difference") -> pd.Series:
    table = summarise({statistic: rows})
    assert len(table) == 1
    return table.iloc[0]


def test_coverage_and_the_side_of_each_miss_are_counted_with_exact_intervals() -> None:
    truth = np.r_[np.full(90, 0.5), np.full(7, -0.1), np.full(3, 1.1)]
    row = summarise_one(make_rows(truth=truth, method="mover"))
    assert (row["coverage"], row["truth_below"], row["truth_above"]) == pytest.approx((0.9, 0.07, 0.03))
    exact = beta.ppf([0.025, 0.975], [90, 91], [11, 10])
    assert [row["coverage_low"], row["coverage_high"]] == pytest.approx(list(exact), rel=1e-9)
    assert (row["primary"], row["n_studies"], row["n_infinite"]) == (True, 100, 0)


def test_a_refused_study_is_counted_on_its_own() -> None:
    refused = np.arange(100) < 20
    rows = make_rows(reason=np.where(refused, "one class", ""))
    rows.loc[refused, ["estimate", "ci_low", "ci_high"]] = np.nan
    row = summarise_one(rows)
    assert (row["n_studies"], row["n_refused"], row["coverage"]) == (100, 20, 1.0)


def test_when_every_study_is_refused_there_is_no_rate() -> None:
    row = summarise_one(make_rows(reason="one class", ci_low=np.nan, ci_high=np.nan, estimate=np.nan))
    assert row["n_refused"] == 100 and np.isnan(row["coverage"])


def test_rejection_is_counted_under_the_null_only_and_by_p_where_there_is_one() -> None:
    p = np.r_[np.full(6, 0.01), np.full(94, 0.5)]
    assert np.isnan(summarise_one(make_rows(p=p))["rejection"])
    assert summarise_one(make_rows(p=p, truth=0.0))["rejection"] == pytest.approx(0.06)
    low = np.r_[np.full(9, 0.1), np.full(91, -0.1)]
    assert summarise_one(make_rows(ci_low=low, truth=0.0))["rejection"] == pytest.approx(0.09)
    chance = make_rows(ci_low=low + 0.5, truth=0.5, quantity="auroc")
    assert summarise_one(chance, "auroc")["rejection"] == pytest.approx(0.09)


def test_an_infinite_interval_covers_and_is_counted() -> None:
    row = summarise_one(make_rows(ci_high=np.r_[np.inf, np.ones(99)]))
    assert (row["coverage"], row["n_infinite"], row["median_width"]) == (1.0, 1, 1.0)


def test_an_averaged_method_is_held_against_the_mean_of_the_truths() -> None:
    truth = np.r_[np.full(50, -2.0), np.full(50, 3.0)]  # no study's own truth lies in its interval, their mean does
    rows = make_rows(truth=truth, quantity="gain", method="percentile_refit")
    assert summarise_one(rows, "transfer")["coverage"] == 1.0
    assert summarise_one(rows.assign(method="bca_fixed_fit"), "transfer")["coverage"] == 0.0


def simulate_ratio(by_item: bool, n_studies: int = 150) -> pd.DataFrame:
    """Studies of a ratio of masses over 6 models, by an interval that draws items or (wrongly) rows."""
    population = Masses(n_items=40, n_models=6, share=0.9)
    found = []
    for study in range(n_studies):
        rows = population.draw(np.random.default_rng([17, study]))
        cluster = rows["item"] if by_item else np.arange(len(rows))
        interval = bootstrap_ratio(
            rows["evidence_last"], rows["evidence_first"], cluster, resampling=Resampling(199, study, method="bca")
        )
        found.append((1 - interval.ci_high, 1 - interval.ci_low))
    low, high = np.array(found).T
    return make_rows(n_studies, ci_low=low, ci_high=high, truth=population.truth()["evidence"])


def test_an_interval_that_draws_rows_instead_of_items_is_seen_to_undercover() -> None:
    wrong, right = (summarise_one(simulate_ratio(by_item)) for by_item in (False, True))
    assert wrong["coverage_high"] < COVERAGE_BAND[0] - 0.1
    assert right["coverage_high"] > COVERAGE_BAND[0]


def make_tables() -> dict[str, pd.DataFrame]:
    """Tables of the whole register with made-up rates: the primary at 95 %, everything else at 90 % or 50 %."""
    tables = {}
    for name, statistic in STATISTICS.items():
        parts = []
        for setting, population in statistic.settings.items():
            truth = population.truth() if hasattr(population, "truth") else {}
            for quantity, method in statistic.expected(setting):
                value = truth.get(quantity, 0.2)
                share = 0.95 if method == statistic.primary.get(quantity) else 0.5 if method == "wald" else 0.9
                low = np.where(np.arange(100) < 100 * share, value - 0.1, value + 0.1)
                is_test = method in ("signed_rank", "firth_lr", "permutation")
                own = {"ci_low": np.nan, "ci_high": np.nan, "p": np.linspace(0, 1, 100)} if is_test else {"ci_low": low}
                names = {"setting": setting, "quantity": quantity, "method": method, "truth": value}
                parts.append(make_rows(**{**names, "ci_high": value + 0.2, **own}))
        tables[name] = pd.concat(parts, ignore_index=True)
    return tables


def test_the_numbers_hold_every_row_and_only_finite_values() -> None:
    summary = summarise(make_tables())
    numbers = list_numbers(summary, 1000, 999)
    for name, statistic in STATISTICS.items():
        for setting in statistic.settings:
            for quantity, method in statistic.expected(setting):
                row = numbers["simulated"][name][setting][quantity][method]
                assert row["n_studies"] == 100
                assert all(isinstance(value, int) for key, value in row.items() if key.startswith("n_"))
                assert ("coverage" in row) == (method not in ("signed_rank", "firth_lr", "permutation"))
    assert numbers["absent"]["collapse"]["separation"]
    assert numbers["settings"]["collapse"]["small"]["n_items"] == 20


def test_the_figure_has_a_line_for_each_setting_and_a_mark_for_each_rate() -> None:
    summary = summarise(make_tables())
    figure = draw_coverage(summary, 1000)
    left, right = figure.axes
    labels = [text.get_text() for text in left.get_yticklabels()]
    rated = summary.dropna(subset=["coverage", "rejection"], how="all")
    assert len(rated) < len(summary)  # a test where nothing is null has no rate and no line
    keys = ["statistic", "quantity", "setting"]
    assert len(labels) == sum(len(rated[keys[:n]].drop_duplicates()) for n in (2, 3))
    assert len(left.containers) == summary["coverage"].notna().sum()
    assert len(right.containers) == summary["rejection"].notna().sum()
    assert {text.get_text() for text in left.texts} == {"50"}  # off the axes, so its value stands at the edge
    assert "coverage in" in figure.get_suptitle()
    marks = [container.lines[0] for container in left.containers]
    for line in marks:
        assert len(set(to_rgb(line.get_color()))) == 1  # grey
        filled = to_rgb(line.get_markerfacecolor()) == (0, 0, 0)
        assert filled == (to_rgb(line.get_color()) == (0, 0, 0))
    shown = [100 * value for value in summary.loc[summary["primary"], "coverage"].dropna()]
    drawn = [line.get_xdata()[0] for line in marks if to_rgb(line.get_color()) == (0, 0, 0)]
    assert sorted(drawn) == pytest.approx(sorted(shown))


def test_the_title_counts_the_primaries_within_the_band() -> None:
    tables = make_tables()
    rows = tables["auroc"]
    bad = (rows["setting"] == "iid") & (rows["method"] == "newcombe")
    tables["auroc"].loc[bad, "ci_low"] = rows.loc[bad, "truth"] + 0.1
    one_less, all_in = (draw_coverage(summarise(t), 1000).get_suptitle() for t in (tables, make_tables()))
    total = int(all_in.split("of ")[1].split(" ")[0])
    assert f"coverage in {total} of {total} settings" in all_in
    assert f"coverage in {total - 1} of {total} settings" in one_less
    assert "outside: none" in all_in and "outside: auroc, iid" in one_less.replace("\n", " ")


def test_what_lies_outside_is_listed_with_its_rates_and_nothing_that_does_not_lead() -> None:
    tables = make_tables()
    assert list_numbers(summarise(tables), 1000, 999)["outside"] == []  # contrasts at 90 % and 50 % lead nothing
    rows = tables["auroc_difference"]
    lost = (rows["setting"] == "null") & (rows["method"] == "mover") & (rows.index % 100 < 10)
    tables["auroc_difference"].loc[lost, "ci_low"] = rows.loc[lost, "truth"] + 0.1
    numbers = list_numbers(summarise(tables), 1000, 999)
    (found,) = numbers["outside"]
    assert (found["statistic"], found["setting"], found["method"]) == ("auroc_difference", "null", "mover")
    assert found["coverage"] == pytest.approx(1 - found["rejection"]) and found["coverage"] < COVERAGE_BAND[0]
    assert numbers["n_primary"] == sum(
        (q, statistic.primary.get(q)) in statistic.expected(s)
        for statistic in STATISTICS.values() for s in statistic.settings for q in statistic.methods
    )  # fmt: skip
    assert "gain_veto" in numbers["simulated"]["veto"]["iid"]  # it stands beside the test that leads
