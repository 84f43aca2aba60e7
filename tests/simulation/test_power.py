"""Claims about power: the populations have the declared effects, tests find them, and 80 % is read off as it says."""

from __future__ import annotations

from dataclasses import replace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import beta

from dontblink.statistics.bootstrap import Resampling, bootstrap_sums, linearise_sums, ratios
from dontblink.studies.cells import ENTROPY, VISION
from dontblink_simulation.needed import draw_power, items_at, list_power, summarise_power
from dontblink_simulation.power import CLAIMS, Confident, gain_of_veto, list_statistics
from dontblink_simulation.selection import Blind
from dontblink_simulation.trials import run_study


@pytest.mark.parametrize("name", CLAIMS)
def test_each_population_has_the_declared_effect_and_its_twin_has_none(name: str) -> None:
    claim = CLAIMS[name]
    quantity = {"beta": "entropy:vision"}.get(claim.row, claim.row)

    def truth(population: object) -> float:
        return gain_of_veto(population) if isinstance(population, Blind) else population.truth()[quantity]

    assert truth(claim.population) == pytest.approx(claim.effect, abs=1e-5)
    assert np.sign(claim.effect) == claim.side
    if name != "veto":  # vetoing answers that are no worse costs, whatever V says
        assert truth(claim.nothing) == pytest.approx(0, abs=1e-9)
    assert claim.nothing.n_models == claim.population.n_models


def test_the_gain_of_a_veto_is_what_it_saves_on_a_large_sample() -> None:
    population = Blind(n_items=400_000, danger=2.9)
    items = population.draw(np.random.default_rng(0)).query("benchmark == 'targeted'").sort_values(ENTROPY)
    k = int(0.9 * len(items))
    alone, kept = items.head(k), items[items[VISION] >= -1.3].head(k)
    assert len(kept) == k
    saved = kept["correct"].mean() - alone["correct"].mean()
    assert gain_of_veto(population) == pytest.approx(saved, abs=0.001)


def test_confident_answers_carry_the_contrast_and_share_their_items() -> None:
    rows = Confident(n_items=60_000, added=0.1).draw(np.random.default_rng(1))
    risk = rows[rows["confident"]].groupby(["visual", "low"])["wrong"].mean()
    assert risk[True, True] - risk[True, False] == pytest.approx(0.1, abs=0.006)
    assert risk[False, True] - risk[False, False] == pytest.approx(0, abs=0.006)
    wide = rows.pivot(index="item", columns="cell", values="wrong").astype(float)
    assert wide.corr().iloc[0, 1] > 0.08


def test_linearised_errors_are_those_of_the_bootstrap_t() -> None:
    rng = np.random.default_rng(2)
    values = rng.lognormal(size=(400, 2))
    item = np.repeat(np.arange(200), 2)
    [estimate], [error] = linearise_sums(values, ratios, item)
    found = bootstrap_sums(values, ratios, item, resampling=Resampling(2000, 0, method="percentile"))[0]
    assert estimate == found.estimate
    assert error == pytest.approx((found.ci_high - found.ci_low) / 3.92, rel=0.06)


@pytest.mark.parametrize("name", CLAIMS)
def test_every_study_gives_one_p_value_that_a_large_effect_makes_small(name: str) -> None:
    statistic = list_statistics()[f"power_{name}"]
    largest = f"with_{CLAIMS[name].sizes[-1]}"
    rows = [row for seed in range(3) for row in run_study(statistic, largest, [seed], 9)]
    assert [row.method for row in rows] == ["test"] * 3
    assert all(0 < row.p <= 1 for row in rows)
    assert np.median([row.p for row in rows]) <= 0.05
    assert np.sign(np.median([row.estimate for row in rows])) == CLAIMS[name].side


def make_tables(power: float = 0.9, level: float = 0.05, n: int = 100) -> dict[str, pd.DataFrame]:
    tables = {}
    for name, claim in CLAIMS.items():
        parts = []
        for setting in list_statistics()[f"power_{name}"].settings:
            share = power if setting.startswith("with_") else level
            p = np.where(np.arange(n) < round(share * n), 0.01, 0.5)
            parts.append(pd.DataFrame({"setting": setting, "estimate": claim.side * 1.0, "p": p, "reason": ""}))
        tables[f"power_{name}"] = pd.concat(parts, ignore_index=True)
    return tables


def test_power_is_counted_on_the_claimed_side_and_a_refused_study_finds_nothing() -> None:
    tables = make_tables(power=1.0)
    rows = tables["power_beta"]
    own = rows.index[rows["setting"] == "with_300"]
    rows.loc[own[:10], "estimate"] *= -1
    rows.loc[own[10:30], ["p", "estimate", "reason"]] = [np.nan, np.nan, "separated"]
    found = summarise_power(tables).set_index(["claim", "n_items"]).loc[("beta", 300)]
    exact = beta.ppf([0.025, 0.975], [70, 71], [31, 30])
    assert (found["power"], found["n_refused"], found["level"]) == (0.7, 20, 0.05)
    assert [found["power_low"], found["power_high"]] == pytest.approx(list(exact))


def test_items_at_80_follow_the_root_of_n() -> None:
    sizes = [100, 300, 600, 1000]
    power = [float(ndtr(0.1 * n**0.5 - 1.96)) for n in sizes]  # of a Wald test
    exact = ((ndtri(0.8) + 1.96) / 0.1) ** 2
    assert items_at(sizes, power) == pytest.approx(exact, rel=1e-9)
    assert np.isnan(items_at(sizes, [0.1, 0.2, 0.3, 0.4]))
    assert items_at(sizes, [0.9, 1, 1, 1]) == 100
    assert 300 < items_at(sizes, [0.0, 0.0, 1.0, 1.0]) < 600


def test_the_numbers_hold_what_80_percent_take_and_the_figure_a_panel_a_claim() -> None:
    summary = summarise_power(make_tables())
    numbers = list_power(summary)
    assert list(numbers) == list(CLAIMS)
    assert numbers["hazard"]["n_at_80"] == 100 and numbers["hazard"]["effect"] == 0.05
    assert numbers["beta"]["by_items"]["300"]["power"] == 0.9
    assert "n_at_80" not in list_power(summarise_power(make_tables(power=0.1)))["auroc"]
    figure = draw_power(summary)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert len(titles) == len(CLAIMS) and all("at most" in title for title in titles)
    plt.close(figure)


def test_a_claims_settings_are_its_sizes_with_and_without_the_effect() -> None:
    for name, statistic in list_statistics().items():
        claim = CLAIMS[name.removeprefix("power_")]
        assert len(statistic.settings) == 2 * len(claim.sizes)
        assert statistic.settings[f"with_{claim.sizes[0]}"] == replace(claim.population, n_items=claim.sizes[0])

