"""Claims about the link of entropy and look within a response."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pingouin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_items import read_case

from dontblink.statistics.bootstrap import EstimateError, Resampling
from dontblink.studies.within import link_table, within_correlation


def draw(n: int = 12, repeats: int = 5, seed: int = 0, slope: float = -0.5) -> pd.DataFrame:
    """Subjects whose means rise together while their own values fall together (for a negative slope)."""
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(n), repeats)
    x = rng.normal(size=n * repeats)
    own = 5.0 * rng.normal(size=n)[subject]
    return pd.DataFrame({"s": subject, "x": x + own, "y": slope * x + own + rng.normal(size=n * repeats)})


def test_reference_rm_corr() -> None:
    case, expected, tol = read_case("rm_corr")
    found = within_correlation(case["a"], case["b"], case["s"])
    assert found["r"] == pytest.approx(float(expected["r"]), abs=tol["r"])
    assert found["dof"] == int(expected["dof"])
    assert found["p"] == pytest.approx(float(expected["p"]), abs=tol["p"])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), confidence=st.sampled_from([0.95]))
def test_it_is_the_analysis_of_covariance_of_pingouin(seed: int, confidence: float) -> None:
    data = draw(seed=seed)
    found = within_correlation(data["x"], data["y"], data["s"], confidence)
    theirs = pingouin.rm_corr(data, x="x", y="y", subject="s").iloc[0]
    assert (found["r"], found["dof"]) == (pytest.approx(theirs["r"], abs=1e-9), theirs["dof"])
    name = "p_val" if "p_val" in theirs else "pval"
    assert found["p"] == pytest.approx(theirs[name], abs=1e-9)
    ends = theirs["CI95"] if "CI95" in theirs else theirs["CI95%"]
    assert np.round([found["ci_low"], found["ci_high"]], 2) == pytest.approx(ends, abs=1e-9)  # theirs are rounded


def test_differences_between_subjects_do_not_count() -> None:
    data = draw(30)
    assert np.corrcoef(data["x"], data["y"])[0, 1] > 0.8
    assert within_correlation(data["x"], data["y"], data["s"])["ci_high"] < 0


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.01, 100), order=st.permutations(range(60)))
def test_order_scale_and_shifts_of_subjects_change_nothing(seed: int, scale: float, order: list[int]) -> None:
    data = draw(seed=seed)
    found = within_correlation(data["x"], data["y"], data["s"])
    moved = data.assign(x=scale * data["x"] + 3 * data["s"], y=data["y"] - data["s"] ** 2).iloc[order]
    again = within_correlation(moved["x"], moved["y"], moved["s"])
    assert again["r"] == pytest.approx(found["r"], abs=1e-9)
    assert within_correlation(-data["x"], data["y"], data["s"])["r"] == pytest.approx(-found["r"], abs=1e-12)


def test_subjects_with_one_row_add_nothing() -> None:
    data = draw()
    alone = pd.DataFrame({"s": [100, 101], "x": [50.0, -50.0], "y": [9.0, 9.0]})
    first, second = (within_correlation(d["x"], d["y"], d["s"]) for d in (data, pd.concat([data, alone])))
    assert first == pytest.approx(second)


def test_a_perfect_line_is_a_correlation_of_one() -> None:
    data = draw()
    found = within_correlation(data["x"], 2 * data["x"] + data["s"], data["s"])
    assert found["r"] == pytest.approx(1) and found["p"] < 1e-12


@pytest.mark.parametrize(
    ("x", "y", "s", "message"),
    [
        ([1, 2, np.nan, 4], [1, 2, 3, 5], [0, 0, 1, 1], "4 rows with 1 gaps"),
        ([1, 1, 4, 4, 7, 7], [1, 2, 3, 5, 6, 9], [0, 0, 1, 1, 2, 2], "sums of squares 0"),
        ([1, 2], [1, 2], [0, 1], "dof -1"),
        ([1, 2], [1, 3], [0, 0], "dof 0"),
        ([], [], [], "0 rows"),
    ],
)
def test_unusable_numbers_are_named(x: list, y: list, s: list, message: str) -> None:
    with pytest.raises(EstimateError, match=message):
        within_correlation(np.array(x, float), np.array(y, float), s)


def make_steps(n_items: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    steps = []
    for k in range(n_items):
        for step in range(4):
            look = rng.random()
            key = {"model": "glm", "benchmark": "symbolic", "item_id": f"item {k}", "step_index": step}
            kind = "read" if step < 2 else "compute"
            entropy = 1 - look + 0.1 * rng.normal(size=3).mean()  # of three tokens
            steps.append(key | {"step_kind": kind, "evidence_mass": look, "entropy_nats": entropy})
    return pd.DataFrame(steps)


def test_link_correlates_the_mean_entropy_of_a_step_with_its_look() -> None:
    table = link_table(make_steps(), ("all", "read", "recall"), resampling=Resampling(200)).set_index("kind")
    assert table.index.tolist() == ["all", "read"]  # nobody recalls
    assert table.loc["all", ["n_steps", "n_responses", "dof"]].tolist() == [120, 30, 89]
    assert table.loc["read", "n_steps"] == 60 and (table["ci_high"] < -0.9).all()
    assert (table["boot_low"] <= table["r"]).all() and (table["r"] <= table["boot_high"]).all()


def test_steps_of_several_head_sets_are_an_error() -> None:
    with pytest.raises(EstimateError, match="a step has several rows"):
        link_table(pd.concat([make_steps(), make_steps()]))
