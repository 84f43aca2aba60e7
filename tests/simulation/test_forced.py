"""Claims about forced answers: populations are what they say, and the rule of C6 tells them apart."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dontblink import paths
from dontblink.publish import claims
from dontblink_simulation import rules
from dontblink_simulation.forced import EFFECT, NULLS, SETTINGS, SHARES, SIZES, Forced

LARGE = 20_000


def spread_shares(table: pd.DataFrame, column: str, benchmark: int = 1) -> pd.DataFrame:
    own = table[(table["model"] == 0) & (table["benchmark"] == benchmark)]
    return own.pivot(index="item_id", columns="reasoning_share", values=column).astype(float)


@pytest.mark.parametrize("population", [Forced(), NULLS["no_fall"][1], NULLS["no_rise"][1], EFFECT])
def test_means_rise_and_fall_as_declared_in_every_benchmark(population: Forced) -> None:
    table = replace(population, n_items=LARGE).draw(np.random.default_rng(0))
    for benchmark, accuracy in enumerate(population.accuracy):
        right = spread_shares(table, "correct", benchmark).mean()
        assert right[0.1] == pytest.approx(accuracy, abs=0.012) == right[0.0]
        assert right[1.0] - right[0.1] == pytest.approx(population.truth()["gain"], abs=0.015)
        mass, look = (spread_shares(table, name, benchmark) for name in ("evidence_mass", "uniform_evidence_share"))
        assert mass[0.0].isna().all() and look[0.0].isna().all()
        kept, uniform = (values.mean()[1.0] / values.mean()[0.1] for values in (mass, look))
        assert uniform == pytest.approx(1 - population.dilution, abs=1e-9)
        assert 1 - kept / uniform == pytest.approx(population.truth()["fall"], abs=0.04)


def test_shares_of_an_item_are_alike_unless_answers_wander_and_models_share_items() -> None:
    fair, wandering = (Forced(n_items=LARGE, wander=wander).draw(np.random.default_rng(1)) for wander in (0.0, 0.6))
    alike, apart = (spread_shares(table, "correct").corr() for table in (fair, wandering))
    others = alike.to_numpy()[np.triu_indices(len(SHARES), 1)]
    assert others.min() > 0.15 and np.ptp(others) < 0.05  # which two shares does not matter
    assert 0.3 < apart.loc[0.4, 0.5] < 0.45 and abs(apart.loc[0.1, 1.0]) < 0.03
    logs = np.log(spread_shares(wandering, "evidence_mass")[SHARES[1:]])
    assert logs.std().to_numpy() == pytest.approx(1.02, abs=0.03)
    assert logs.corr().to_numpy()[np.triu_indices(10, 1)] == pytest.approx(0.32, abs=0.04)
    last = fair[(fair["reasoning_share"] == 1) & (fair["benchmark"] == 1)]
    models = last.pivot(index="item_id", columns="model", values="correct").astype(float).corr().to_numpy()
    assert models[np.triu_indices(3, 1)] == pytest.approx(0.25, abs=0.03)


def test_every_null_lacks_one_of_the_two_and_the_effect_has_the_declared_size() -> None:
    for _, population in NULLS.values():
        assert min(population.truth().values()) == 0
    assert sum(max(population.truth().values()) > 0 for _, population in NULLS.values()) == 2
    smallest = claims.read_ledger()["claims"]["C6"]["smallest_effect"]
    assert EFFECT.rise == smallest["value"] and EFFECT.fall > 0 and EFFECT.wander == 0
    assert {f"C6 {setting}" for setting in SETTINGS} < {*rules.DEALS}


@pytest.mark.parametrize(
    ("population", "fired"),
    [
        (Forced(n_items=60, rise=0.4, fall=0.8, accuracy=(0.2, 0.3, 0.4)), True),
        (Forced(n_items=60), False),
        (Forced(n_items=60, rise=0.39), False),
        (Forced(n_items=60, fall=0.8), False),
    ],
)
def test_the_rule_fires_on_both_together_and_not_on_either(population: Forced, fired: bool) -> None:
    claim = claims.read_ledger()["claims"]["C6"]
    series = rules.draw_order(population, np.random.default_rng(3))
    assert len(series["both"]) == 9
    assert rules.fires(claim, series) == {"reproduced": fired, "same_direction": fired}


def test_holm_over_nine_cells_can_pass_with_as_many_deals() -> None:
    assert 9 / (rules.ORDER_DEALS + 1) < 0.05


def test_a_study_is_its_number_and_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {f"C6 {name}": lambda rng: {"both": [rules.Row((), {"seed": rng.random()})]} for name in ("a", "b")}
    monkeypatch.setattr(rules, "DEALS", small)
    monkeypatch.setattr(rules, "fires", lambda claim, series: series["both"][0].fields["seed"])
    drawn = [rules.run_deal(name, number) for name in small for number in (0, 1)]
    assert len({*drawn}) == 4 and drawn[0] == rules.run_deal("C6 a", 0)


def count(n_fired: int, n: int = 40) -> dict[str, dict[str, float]]:
    return rules.count_fires([{"reproduced": k < n_fired // 2, "same_direction": k < n_fired} for k in range(n)])


def test_the_least_favourable_null_leads_and_power_is_read_off_by_rule() -> None:
    fired = {"nothing": 0, "no_fall": 6, "no_rise": 3}
    fired |= {f"with_{n}": n_fired for n, n_fired in zip(SIZES, (8, 20, 36, 40), strict=True)}
    found = rules.summarise({"C1": count(1)} | {f"C6 {name}": count(n) for name, n in fired.items()})
    assert found["rules"]["C1"] == count(1) and found["rules"]["C6"] == count(6)
    assert found["nulls"]["C6"]["no_rise"] == {"says": NULLS["no_rise"][0]} | count(3)
    power = found["power"]["accuracy"]
    assert 500 < power["n_at_80"] < 1000 and power["n_at_80"] == power["n_at_80_by_rule"]["same_direction"]
    assert power["n_at_80_low"] < power["n_at_80"] < power["n_at_80_high"]
    assert "reproduced" not in power["n_at_80_by_rule"] and power["effect"] == 0.05
    assert set(rules.summarise({"C1": count(1)})) == {"rules"}


def test_a_run_of_one_claim_leaves_the_others_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim, made = claims.read_ledger()["claims"]["C6"], []

    def run(name: str, number: int) -> dict[str, bool]:
        made.append(name)
        return {"reproduced": False, "same_direction": number < 3}

    for owner, name, value in (
        (rules, "run_deal", run), (rules, "ProcessPoolExecutor", lambda n, _: ThreadPoolExecutor(n)),
        (rules, "hash_code", lambda *_: "code"), (rules, "hash_file", lambda _: "tables"),
        (rules, "read_claim", lambda _: claim), (paths, "ROOT", tmp_path),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, value)
    file = tmp_path / claims.SIMULATED[0]
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"rules": {"C1": count(1)}}))
    assert rules.main(["--claims", "C6", "--deals", "200"]) == 0
    found = json.loads(file.read_text())
    assert found["rules"]["C1"] == count(1)
    assert found["rules"]["C6"]["same_direction"]["rate"] == 3 / 200  # of `nothing`, which has the fewest studies
    n_made = {"nothing": 200, "no_fall": 400, "no_rise": 400} | {f"with_{n}": 50 for n in SIZES}
    assert {name: made.count(f"C6 {name}") for name in SETTINGS} == n_made
    made.clear()
    assert rules.main(["--claims", "C6", "--deals", "204"]) == 0
    assert len(made) == 4 + 8 + 8 + 4 * 1 and json.loads(file.read_text())["rules"]["C1"] == count(1)
