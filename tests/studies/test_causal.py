"""The causal estimands on tables with known truth: each word by its rule, none for noise or where a control moved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from dontblink.statistics.bootstrap import Resampling
from dontblink.studies import causal

RULE = {"equivalence_margin": 0.02, "rewritten_share": 0.5}
LIGHT = Resampling(400, 1, 0.95, "t")
N = 600


def make_effects(seed: int = 0, cells: int = 3, **accuracy: float) -> pd.DataFrame:
    """Return effects in which a condition keeps the baseline's answers but for what its accuracy asks for."""
    rng, rows = np.random.default_rng(seed), []
    shares = {"baseline": 0.8, "control": 0.8, "random": 0.8, "empty": 0.8, "evidence": 0.8} | accuracy
    for number in range(cells):
        right = rng.random(N) < shares["baseline"]
        for condition, share in shares.items():
            # the answers of a condition are those of the baseline, and so many of them turn
            change = share - shares["baseline"]
            turned = rng.random(N) < (change / (1 - shares["baseline"]) if change > 0 else -change / shares["baseline"])
            correct = right & ~turned if share <= shares["baseline"] else right | turned
            rows += [
                {"model": f"m{number}", "benchmark": "b", "split": "test", "item_id": f"i{k}", "condition": condition,
                 "start_share": 0.0, "correct": bool(correct[k]), "parsed": True, "prediction": "x",
                 "same_prediction": True, "same_text": condition != "evidence", "n_response_tokens": 9,
                 "finish_reason": "stop", "full_entropy_nats": 0.1, "answer_lost_nats": 0.0,
                 "reasoning_lost_nats": 1.0, "answer_changed": False, "evidence_mass": 0.2, "control_box_mass": 0.1,
                 "visual_mass": 0.4}
                for k in range(N)
            ]  # fmt: skip
    return pd.DataFrame(rows)


def find(effects: pd.DataFrame, recalls: pd.DataFrame | None = None) -> pd.DataFrame:
    sources = pd.DataFrame() if recalls is None else causal.source_table(recalls, min_usable=50, resampling=LIGHT)
    controls = causal.control_table(effects, RULE["equivalence_margin"])
    return causal.find_words(effects, causal.need_table(effects), controls, sources, RULE)


def make_recalls(seed: int = 0, n_items: int = 150, **turned: float) -> pd.DataFrame:
    """Return recalls of one cell; words turn by a factor, and are kept under a knockout, as often as asked for."""
    rng, rows = np.random.default_rng(seed), []
    shares = dict.fromkeys(("none", *causal.FACTORS), 0.0) | {"TMP": 1.0} | turned
    kept = dict.fromkeys(causal.KNOCKOUTS, 1.0) | {"block_both": 0.2}
    for k in range(n_items):
        shared = {"model": "m0", "benchmark": "b", "split": "test", "item_id": f"i{k}", "word": "digit",
                  "is_usable": True, "why_not": "", "own_word": "3", "altered_word": "4", "read_mass": 0.1}  # fmt: skip
        mass = rng.random()
        for condition in (*shares, *kept):
            turns = bool(rng.random() < shares.get(condition, 0.0))
            stays = bool(rng.random() < kept[condition]) if condition in kept else not turns
            odds = float(rng.normal() + 10 * mass) if condition == "P" else 0.0
            rows.append(shared | {"condition": condition, "turned": turns, "kept": stays, "log_odds_nats": odds,
                                  "lost_nats": 0.0, "cell_mass": mass})  # fmt: skip
    unusable = shared | {"item_id": "none", "word": "", "is_usable": False, "why_not": "restates nothing",
                         "condition": "none", "turned": False, "kept": False, "log_odds_nats": np.nan}  # fmt: skip
    return pd.DataFrame([*rows, unusable])


def test_a_difference_of_pairs_is_that_of_its_table() -> None:
    rng = np.random.default_rng(3)
    first = rng.random(200) < 0.8
    second = first ^ (rng.random(200) < 0.1)
    found = causal.compare_pairs(first, second, 0.95)
    table = pd.crosstab(first, second).to_numpy()
    assert found["estimate"] == pytest.approx(first.mean() - second.mean())
    assert found["p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert found["ci_low"] < found["estimate"] < found["ci_high"]
    error = (found["n_gained"] + found["n_lost"]) ** 0.5 / 200  # Wald, which a large sample comes near
    assert found["ci_high"] - found["ci_low"] == pytest.approx(2 * stats.norm.ppf(0.975) * error, rel=0.15)


def test_newcombes_interval_is_the_published_one() -> None:
    """Newcombe 1998, table III: 36, 12, 2 and 0 of 50 pairs, method 10 without continuity."""
    first = np.repeat([True, True, False, False], [36, 12, 2, 0])
    second = np.repeat([True, False, True, False], [36, 12, 2, 0])
    found = causal.compare_pairs(first, second, 0.95)
    assert found["estimate"] == pytest.approx(0.2)
    assert [found["ci_low"], found["ci_high"]] == pytest.approx([0.0569, 0.3404], abs=5e-5)


def test_no_discordant_pair_has_an_exact_width() -> None:
    same = np.arange(100) < 70
    found = causal.compare_pairs(same, same, 0.95)
    assert found["estimate"] == 0 and found["p"] == 1
    assert found["ci_high"] == pytest.approx(1 - 0.025 ** (1 / 100)) and found["ci_low"] == -found["ci_high"]


def test_a_need_is_found_where_it_is_and_its_cell_needs() -> None:
    effects = make_effects(evidence=0.4)
    needs = causal.need_table(effects)
    assert (needs["estimate"] - 0.4).abs().max() < 0.06 and (needs["p_holm"] >= needs["p"]).all()
    assert (find(effects)["need"] == "needs").all()


def test_a_model_that_rewrites_and_answers_the_same_ignores() -> None:
    words = find(make_effects())
    assert (words["need"] == "ignores").all() and (words["rewritten"] == 1).all()
    quiet = make_effects().assign(same_text=True)
    assert (find(quiet)["need"] == "undecided").all()


def test_noise_needs_nothing() -> None:
    """Both conditions are the baseline with as many answers turned at random: in twenty studies no cell needs."""
    found = [find(make_effects(seed, evidence=0.75, control=0.75))["need"] for seed in range(20)]
    assert not (pd.concat(found) == "needs").any()


def test_a_cell_whose_control_moved_gets_no_word() -> None:
    words = find(make_effects(evidence=0.2, control=0.6), make_recalls(P=1.0))
    assert words["is_flagged"].all() and (words[["need", "recall"]] == "undecided").all().all()
    controls = causal.control_table(make_effects(control=0.6), 0.02)
    assert controls.set_index("condition")["is_flagged"].groupby(level=0).all().to_dict() == {
        "control": True, "empty": False, "random": False,
    }  # fmt: skip


@pytest.mark.parametrize(("turned", "word"), [({"P": 0.9, "T": 0.1}, "re-reads"), ({"P": 0.1, "T": 0.9}, "copies")])
def test_who_turns_the_word_gives_it(turned: dict[str, float], word: str) -> None:
    recalls = make_recalls(**turned)
    table = causal.source_table(recalls, min_usable=50, resampling=LIGHT)
    whole = table[table["word"] == "all"].iloc[0]
    assert whole["n_items"] == 150 and whole["n_asked"] == 151
    assert whole["estimate"] == pytest.approx(whole["turned_P"] - whole["turned_T"])
    assert whole["redundancy"] == pytest.approx(1 - whole["kept_block_both"])
    words = find(make_effects(evidence=0.4, cells=1), recalls)
    assert words["recall"].tolist() == [word]


def test_words_that_turn_alike_are_undecided_and_few_are_not_estimated() -> None:
    words = find(make_effects(evidence=0.4, cells=1), make_recalls(P=0.5, T=0.5))
    assert words["recall"].tolist() == ["undecided"]
    few = causal.source_table(make_recalls(n_items=20), min_usable=50, resampling=LIGHT)
    assert "estimate" not in few and few["n_words"].tolist() == [20, 20]


def make_forced(gain: float, fall: float, parsed: float = 1.0, seed: int = 0) -> pd.DataFrame:
    """Return forced answers of a cell: accuracy .5 to .5 + gain, evidence mass .3 to .3 (1 - fall), a uniform .1."""
    rng, rows = np.random.default_rng(seed), []
    for k in range(400):
        luck = rng.random()
        for share in np.linspace(0, 1, 11):
            rows.append({
                "model": "m", "benchmark": "b", "split": "test", "item_id": f"i{k}", "reasoning_share": round(share, 1),
                "correct": bool(luck < 0.5 + gain * (share - 0.1) / 0.9), "prediction": "x", "n_bins": 10,
                "parsed": bool(rng.random() < parsed), "format_mass": 1.0, "uniform_evidence_share": 0.1,
                "evidence_mass": float(0.3 * (1 - fall * (share - 0.1) / 0.9) * rng.uniform(0.9, 1.1)),
            })  # fmt: skip
    rows = pd.DataFrame(rows)
    rows.loc[rows["reasoning_share"] == 0, ["evidence_mass", "uniform_evidence_share"]] = np.nan
    return rows


@pytest.mark.parametrize(
    ("truth", "holds"),
    [({"gain": 0.3, "fall": 0.5}, True), ({"gain": 0.0, "fall": 0.5}, False), ({"gain": 0.3, "fall": 0.0}, False),
     ({"gain": 0.3, "fall": 0.5, "parsed": 0.5}, False)],
)  # fmt: skip
def test_accuracy_up_and_grounding_down_need_both_and_the_format(truth: dict[str, float], holds: bool) -> None:
    (row,) = causal.grounding_table(make_forced(**truth), n_deals=100, resampling=LIGHT).to_dict("records")
    assert row["gain"] == pytest.approx(truth["gain"], abs=0.05)
    assert row["fall"] == pytest.approx(truth["fall"], abs=0.03)
    assert (row["least_margin"] > 0) is holds
    if "parsed" not in truth:
        assert (row["p_holm"] < 0.05) is holds


def test_curves_and_effects_are_plain_means() -> None:
    forced = make_forced(0.3, 0.5)
    curve = causal.accuracy_curve(forced)
    assert len(curve) == 11 and curve["accuracy"].is_monotonic_increasing
    assert (curve["ci_low"] < curve["accuracy"]).all()
    effects = causal.effect_table(make_effects(evidence=0.4))
    row = effects[effects["condition"] == "evidence"].iloc[0]
    assert row["rewritten"] == 1 and row["accuracy"] == pytest.approx(0.4, abs=0.06) and row["reasoning_lost_nats"] == 1


def test_a_raise_is_held_against_the_same_raise_elsewhere_and_its_mass_is_checked() -> None:
    effects = make_effects(raise_evidence=0.85, raise_control=0.8, raise_own=0.8)
    raised = effects["condition"] == "raise_evidence"
    effects.loc[raised, "evidence_mass"] *= 1.5
    table = causal.preservation_table(effects)
    gain = table[(table["condition"] == "raise_evidence") & (table["less"] == "raise_control")]
    assert (gain["estimate"] - 0.05).abs().max() < 0.03 and (gain["half_width"] > 0).all()
    masses = causal.mass_table(effects, LIGHT).set_index("condition")["estimate"]
    assert masses["raise_evidence"].to_numpy() == pytest.approx(1.5)
    assert masses["raise_own"].to_numpy() == pytest.approx(1)


def test_attention_against_use_is_a_rank_correlation_with_its_interval() -> None:
    uses = causal.use_table(make_recalls(P=0.5)).set_index("use")
    assert uses.loc["turned", "estimate"] > 0.8 and uses.loc["turned", "ci_low"] > 0.7
    assert uses.loc["lost", ["estimate", "ci_low", "ci_high"]].tolist() == [0, -1, 1]  # nothing varies
    x, y = np.random.default_rng(0).normal(size=(2, 50))
    found = causal.correlate_ranks(x, y, 0.95)
    assert found["estimate"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found["ci_low"] < found["estimate"] < found["ci_high"]


def test_heads_are_shares_of_what_all_lose_together() -> None:
    rows: list[dict[str, Any]] = [
        {"model": "m", "benchmark": "b", "item_id": f"i{k}", "n_heads": n, "chosen": chosen, "lost_nats": lost}
        for k in range(3)
        for n, chosen, lost in ((1, "top", 1.0), (1, "random", 0.0), (16, "all", 4.0))
    ]  # fmt: skip
    table = causal.head_table(pd.DataFrame(rows)).set_index("chosen")["share"]
    assert table.to_dict() == {"random": 0.0, "top": 0.25}


def test_a_profile_without_effects_has_empty_tables() -> None:
    assert causal.read_causal("nobody", "effects").empty and "condition" in causal.read_causal("nobody", "effects")
