"""A monitor by hand: its numbers, that a token knows nothing of later ones, its file, and its domain."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_monitor import build_monitor

import dontblink
from dontblink.errors import NamedError
from dontblink.studies.risk import COLUMNS, FEATURES, RISK_TERMS, Line, first_features, risk_terms

MONITOR = build_monitor()


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_the_first_features_are_those_of_their_names() -> None:
    entropy = np.array([[1.0, 5, 0, 2], [0, 0, 0, 0]])
    visual = np.array([[1.0, 3, 0, 1], [2, 2, 4, 5]])
    assert FEATURES == ("mean_entropy_z", "largest_entropy_z", "mean_visual_z", "visual_change_z")
    assert first_features(entropy, visual).tolist() == [[2, 5, 1.25, -1.5], [0, 0, 3.25, 2.5]]


def test_a_row_is_what_is_computed_by_hand() -> None:
    entropy, visual = [0.5, 1.5, 1.0, 3.0, 0.0], [0.2, 0.4, 0.6, 0.0, 0.1]
    table = MONITOR.follow(np.float32(entropy), np.float64(visual), "a")  # scales: (1, 0.5) and (0.3, 0.1)
    assert tuple(table) == COLUMNS and len(table) == 5
    np.testing.assert_allclose(table["mean_entropy_nats"], [0.5, 1, 1, 1.5, 1.2])
    np.testing.assert_allclose(table["look_mass"], [0.2, 0.3, 0.4, 1 / 3, 0.7 / 3])  # a window of 3
    assert table["need"].isna().tolist() == table["risk"].isna().tolist() == [True, False, False, False, False]
    first = logistic(0.1 + 0.5 * 0 + 0.25 * 1 + 1 * 0 - 0.5 * 2)  # z: entropy -1, 1; visual -1, 1
    second = logistic(-0.2 + 1 * 1 + 0 * 4 + 0.5 * 0 + 0.25 * -1.5 * 0)  # its weights take three features
    np.testing.assert_allclose(table["need"][1:], [first, first, second, second])
    mean_z, look_z = (1.2 - 1) / 0.5, (0.7 / 3 - 0.3) / 0.1
    risk = logistic(-1 + 0.8 * mean_z - 0.6 * look_z + 0.5 * second - 0.4 * second * look_z + 0.3 * math.log(5))
    assert table["risk"][4] == pytest.approx(risk, abs=1e-12)


def test_a_token_is_blind_where_it_is_sure_and_needed_and_does_not_look() -> None:
    sure, unsure = [0.5] * 4, [4.0] * 4
    looks, looks_away = [0.6] * 4, [0.1] * 4
    blind = replace(MONITOR, least_need=0.08)  # need is logistic(-2.65) = 0.066, then logistic(-2.2) = 0.100
    assert blind.follow(sure, looks_away, "a")["is_blind"].tolist() == [False, False, False, True]
    eager = replace(MONITOR, least_need=0.0)  # before the first stage nothing is known
    assert eager.follow(sure, looks_away, "a")["is_blind"].tolist() == [False, True, True, True]
    for entropy, visual in ((unsure, looks_away), (sure, looks)):
        assert not blind.follow(entropy, visual, "a")["is_blind"].any()
    assert not replace(blind, least_need=1.0).follow(sure, looks_away, "a")["is_blind"].any()


@given(st.integers(1, 40), st.integers(0, 2**16))
def test_a_token_knows_nothing_of_later_ones(n_tokens: int, seed: int) -> None:
    entropy, visual = np.random.default_rng(seed).uniform(0, 1, (2, 40))
    whole, part = (MONITOR.follow(entropy[:n], visual[:n], "b") for n in (40, n_tokens))
    assert whole[:n_tokens].equals(part)


def test_an_unknown_model_takes_the_pooled_scales_and_is_outside() -> None:
    entropy, visual = [1.0, 1.2, 0.9, 1.1], [0.3, 0.3, 0.35, 0.3]
    known, unknown = MONITOR.follow(entropy, visual, "a"), MONITOR.follow(entropy, visual)
    assert known["in_domain"].tolist() == [False, True, True, True] and not unknown["in_domain"].any()
    pooled = replace(MONITOR, models={"a": replace(MONITOR.models["a"], signals=MONITOR.pooled)})
    columns = ["need", "risk"]
    assert unknown[columns].equals(pooled.follow(entropy, visual, "a")[columns])
    assert not unknown[columns].equals(known[columns])


def test_features_that_calibration_never_had_are_outside_until_a_stage_is_inside_again() -> None:
    entropy = [9.0, 9.0, 0.0, 0.0]  # z 16 at first; the second stage sees a mean z of 7 and bears it
    wide = replace(MONITOR.stages[1], low=(-99.0,) * 4, high=(99.0,) * 4)
    monitor = replace(MONITOR, stages=(MONITOR.stages[0], wide))
    assert monitor.follow(entropy, [0.3] * 4, "a")["in_domain"].tolist() == [False, False, False, True]


def test_no_logit_is_too_far() -> None:
    assert [Line((1.0,), 0.0).read([x]) for x in (-1e4, 0, 1e4)] == [0, 0.5, 1]
    assert Line((2.0, -1.0), 0.5).read([1, 3]) == pytest.approx(logistic(-0.5))
    terms = risk_terms(np.array([1.0]), np.array([2.0]), np.array([0.5]), np.log([3.0]))
    assert len(terms) == len(RISK_TERMS) and np.stack(terms)[:, 0].tolist() == [1, 2, 0.5, 1, math.log(3)]


def test_a_saved_monitor_is_the_same_one(tmp_path: Path) -> None:
    file = tmp_path / "a" / "monitor.json"
    odd = replace(MONITOR, sure=-1 / 3, n_items=7)
    odd.save(file)
    assert dontblink.load_monitor(str(file)) == odd != MONITOR
    with pytest.raises(ValueError, match="JSON"):
        replace(MONITOR, sure=math.nan).save(tmp_path / "b.json")
    assert not (tmp_path / "b.json").exists()


def break_file(file: Path, place: list[str | int], value: object) -> None:
    """Put a value into a monitor's file, or take it out where it is ...."""
    content = at = json.loads(file.read_text())
    for key in place[:-1]:
        at = at[key]
    if value is ...:
        del at[place[-1]]
    else:
        at[place[-1]] = value
    file.write_text(json.dumps(content))


BREAKS = [
    (["sure"], ..., "sure: "), (["sure"], math.nan, "sure: "), (["risk", "weights"], [1, 2], "2 weights of risk"),
    (["stages"], [], "stages: "), (["stages", 0, "weights"], [1, 2, 3], "stages.0.weights.3: "),
    (["stages", 0, "n_tokens"], 4, r"stages of \[4, 4\] tokens"), (["pooled", "visual_mass", "spread"], 0, "spread: "),
    (["models", "a", "model_type"], ..., "models.a.model_type: "), (["n_items"], "many", "n_items: "),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "named"), BREAKS)
def test_a_damaged_file_is_named_with_its_remedy(
    tmp_path: Path, place: list[str | int], value: object, named: str
) -> None:
    file = tmp_path / "monitor.json"
    MONITOR.save(file)
    break_file(file, place, value)
    with pytest.raises(NamedError, match=rf"monitor.json: .*{named}.*; make it anew with notebooks/07_monitor.py"):
        dontblink.load_monitor(file)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "3", '{"numbers": {}}', "\x00"])
def test_another_file_is_no_monitor(tmp_path: Path, content: str) -> None:
    file = tmp_path / "monitor.json"
    file.write_text(content)
    with pytest.raises(NamedError, match=r"monitor.json: .*make it anew with notebooks/07_monitor.py"):
        dontblink.load_monitor(file)
    with pytest.raises(NamedError, match="not there; make it anew"):
        dontblink.load_monitor(tmp_path / "none.json")
