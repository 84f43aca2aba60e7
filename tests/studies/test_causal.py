"""Claims about the causal study: known effects are found, noise gets no word, each word hangs on its rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_causal import CELLS, make_effects, make_forced, make_heads, make_recalls

from dontblink import schema
from dontblink.statistics.bootstrap import EstimateError, Resampling
from dontblink.statistics.paired import compare_pairs
from dontblink.studies import causal

FAST: dict[str, Any] = {"resampling": Resampling(200, 1)}
MARGIN = {"equivalence_margin": 0.05}  # 200 items cannot show two points
ONE = [("glm", "visual")]


def words(effects: pd.DataFrame, recalls: pd.DataFrame) -> pd.DataFrame:
    return causal.find_words(
        causal.need_table(effects), causal.control_table(effects, **MARGIN), causal.effect_table(effects),
        causal.source_table(recalls, **FAST), rewritten_share=0.5, **MARGIN,
    )  # fmt: skip


def test_the_synthetic_tables_have_the_schemas_columns() -> None:
    for name, table in (("effects", make_effects(20)), ("recalls", make_recalls(20, 15)),
                        ("forced", make_forced(20)), ("head_losses", make_heads(20))):  # fmt: skip
        assert {*table} == {*schema.SCHEMAS[name]}, name


def test_newcombes_interval_is_that_of_his_table_and_none_discordant_still_has_a_width() -> None:
    counts = (20, 12, 2, 16)  # both, first only, second only, neither: Newcombe 1998, method 10
    first, second = ([x for value, n in zip(values, counts, strict=True) for x in [value] * n]
                     for values in ((1, 1, 0, 0), (1, 0, 1, 0)))  # fmt: skip
    found = compare_pairs(first, second, range(50))
    assert found[:3] == pytest.approx((0.2, 0.0562, 0.3292), abs=5e-5)
    assert (found.n_first_only, found.n_second_only) == (12, 2)
    assert found.p == pytest.approx(2 * (1 + 14 + 91) / 2**14)
    none = compare_pairs(first, first, range(50))
    assert none[:4] == pytest.approx((0, 0.025 ** (1 / 50) - 1, 1 - 0.025 ** (1 / 50), 1.0))
    with pytest.raises(EstimateError, match="0 and 0 answers"):
        compare_pairs([], [], [])


def test_rows_of_one_item_are_no_independent_rows() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 100)) < [[0.7], [0.5]]
    once = compare_pairs(first, second, range(100))
    assert compare_pairs(np.tile(first, 3), np.tile(second, 3), [*range(100)] * 3) == pytest.approx(once)


def test_newcombes_interval_covers_a_known_difference() -> None:
    rng, held = np.random.default_rng(3), 0
    for _ in range(400):
        kind = rng.choice(4, 60, p=[0.5, 0.25, 0.05, 0.2])
        found = compare_pairs(kind <= 1, (kind == 0) | (kind == 2), range(60))
        held += found.ci_low <= 0.2 <= found.ci_high
    assert held / 400 > 0.92


def test_need_is_what_the_evidence_costs_beyond_its_control_and_falls_with_a_later_start() -> None:
    table = causal.need_table(make_effects(need=0.5, control_loss=0.1))
    assert len(table) == 3 * len(CELLS) and (table["n_items"] == 200).all()
    by_start = table.groupby("start_share")["estimate"].unique()
    assert [list(found) for found in by_start] == [pytest.approx([0.4]), pytest.approx([0.15]), pytest.approx([-0.1])]
    start = table[table["start_share"] == 0]
    assert (start["n_first_only"] == 80).all() and (start["n_second_only"] == 0).all()
    assert np.allclose(start["p_holm"], start["p"].iloc[0] * len(CELLS))  # four equal p: the smallest, times four
    assert causal.need_table(make_effects(15)).empty  # fewer than min_items


def test_a_control_that_moves_the_accuracy_is_flagged_and_one_that_does_not_is_not() -> None:
    for loss, flagged in ((0.0, False), (0.01, False), (0.1, True)):
        table = causal.control_table(make_effects(control_loss=loss, cells=ONE), **MARGIN)
        own = table[table["condition"] == "control"]
        assert own["estimate"].tolist() == pytest.approx([-loss] * 3) and (own["is_flagged"] == flagged).all()
        other = table[~table["condition"].isin(["control"])]
        assert not other["is_flagged"].any() and {"evidence", "other_prompt", "empty"} <= {*other["condition"]}
    few = causal.control_table(make_effects(30, cells=ONE), **MARGIN)  # nothing moved, but 30 items cannot say so
    assert few.loc[few["condition"] == "control", "is_flagged"].all()


def test_effects_are_counted_as_they_were_made() -> None:
    table = causal.effect_table(make_effects(need=0.5, rewritten=0.9, cells=ONE))
    table = table.set_index(["condition", "start_share"])
    own = table.loc[("evidence", 0.0)]
    assert own[["accuracy", "rewritten_share", "changed_share"]].tolist() == pytest.approx([0.3, 0.9, 0.5])
    assert own["mean_tokens"] == pytest.approx(44.5) and own["mean_reasoning_lost_nats"] == pytest.approx(0.04975)
    assert np.isnan(table.loc[("other_prompt", 0.0), "replay_changed_share"]) and own["n_items"] == 200


def test_sources_are_shares_of_the_usable_items_and_redundancy_is_what_both_knockouts_add() -> None:
    table = causal.source_table(make_recalls(kept=(0.9, 0.8, 0.2)), **FAST)
    whole = table[(table["word"] == "all") & (table["model"] == "glm") & (table["benchmark"] == "visual")]
    found = whole.set_index(["quantity", "condition"])
    for key, value in {("turned", "T"): 0.1, ("turned", "P"): 0.8, ("turned", "M"): 0.0, ("turned", "TMP"): 1.0,
                       ("kept", "block_both"): 0.2, ("picture less text", ""): 0.7,
                       ("redundancy", ""): 0.9 + 0.8 - 1 - 0.2}.items():  # fmt: skip
        row = found.loc[key]
        assert row["estimate"] == pytest.approx(value, abs=1e-9), key
        assert row["ci_low"] - 1e-9 <= value <= row["ci_high"] + 1e-9, key
        assert (row["n_usable"], row["n_items"]) == (150, 200)
    twice = causal.source_table(make_recalls(words=("colour", "shape")), **FAST)
    assert set(twice["word"]) == {"all", "colour", "shape"}
    ends = twice[(twice["quantity"] == "picture less text") & (twice["model"] == "glm")].groupby("word")["ci_low"].max()
    assert ends["all"] == pytest.approx(ends["shape"])  # two words of an item are one item


def test_too_few_usable_recalls_are_counted_and_have_no_estimate() -> None:
    table = causal.source_table(make_recalls(usable=99), **FAST)
    assert table["estimate"].isna().all() and set(table["n_usable"]) == {99}
    assert (words(make_effects(), make_recalls(usable=99))["source_word"] == "").all()
    assert causal.source_table(make_recalls(usable=100), **FAST)["estimate"].notna().all()


def test_preservation_stands_beside_its_manipulation_check() -> None:
    table = causal.preservation_table(make_effects(gain=0.1), **FAST).set_index(["quantity", "condition", "against"])
    gained = table.loc[("accuracy", "raise_evidence", "raise_control")]
    assert np.allclose(gained["estimate"], 0.1) and (gained["ci_low"] > 0).all() and (gained["p_holm"] < 0.05).all()
    null = table.loc[("accuracy", "raise_own", "raise_control")]
    assert (null["estimate"] == 0).all() and (null["p_holm"] == 1).all()
    assert np.allclose(null["width"], 2 * (1 - 0.025 ** (1 / 200)))  # a null has its width
    for key, ratio in {("evidence_mass", "raise_evidence"): 1.5, ("control_box_mass", "raise_control"): 1.5,
                       ("evidence_mass", "raise_own"): 1.3}.items():  # fmt: skip
        assert np.allclose(table.loc[(*key, "baseline"), "estimate"], ratio, atol=1e-6), key


def test_accuracy_along_the_reasoning_stands_beside_the_mass() -> None:
    table = causal.accuracy_curve(make_forced(cells=ONE), **FAST).set_index(["quantity", "reasoning_share"])["estimate"]
    assert table["accuracy"].loc[[0.0, 0.1, 1.0]].tolist() == pytest.approx([0.3, 0.3, 0.8])
    over = table["evidence_over_uniform"]
    assert 0.0 not in over.index and over[1.0] / over[0.1] == pytest.approx(0.5, abs=0.03)
    assert np.allclose(table["format_mass"], 0.95)


@pytest.mark.parametrize(
    ("gain", "fall", "rises", "falls"),
    [(0.5, 0.5, True, True), (0.0, 0.5, False, True), (0.5, 0.0, True, False), (0.5, -0.5, True, False)],
)
def test_c6_needs_a_gain_and_a_fall_beyond_dilution_in_the_same_cell(
    gain: float, fall: float, rises: bool, falls: bool
) -> None:
    table = causal.c6_table(make_forced(gain=gain, fall=fall), order_deals=200, **FAST)
    assert np.allclose(table["gain"], gain) and np.allclose(table["fall"], fall, atol=0.05)
    assert ((table["gain_low"] > 0) == rises).all()
    if falls or fall < 0:
        assert ((table["fall_low"] > 0) == falls).all()
    assert ((table["weaker_low"] > 0) & (table["p_holm"] < 0.05)).all() == (rises and falls)
    assert (table["joint_low"] > 0).all() == (table["joint_low"] > 0).any() == (rises and falls)
    if rises and falls:
        assert np.allclose(table["p"], 1 / 201) and np.allclose(table["format_mass_first"], 0.95)


def test_deals_too_few_for_holm_leave_no_cell_that_shows_both() -> None:
    table = causal.c6_table(make_forced(), order_deals=40, **FAST)  # the smallest p is 1 / 41, times four cells
    assert (table["weaker_low"] > 0).all() and (table["p_holm"] > 0.05).all() and (table["joint_low"] <= 0).all()


def test_items_without_masses_at_both_ends_are_left_out_of_c6() -> None:
    forced = make_forced(cells=ONE)
    short = (forced["item_id"].astype(str) < "item 050") & forced["reasoning_share"].between(0.05, 0.45)
    forced.loc[short, ["evidence_mass", "uniform_evidence_share"]] = np.nan
    table = causal.c6_table(forced, order_deals=20, **FAST)
    assert table["n_items"].tolist() == [150]
    assert causal.c6_table(forced[forced["reasoning_share"] > 0.2], order_deals=20, **FAST).empty


def test_attention_that_says_the_use_is_told_from_attention_that_does_not() -> None:
    effects = make_effects(cells=ONE)
    items = effects[(effects["condition"] == "baseline")].assign(
        vision_evidence_mass=lambda t: np.arange(len(t)) / 1000
    )[["model", "benchmark", "split", "item_id", "vision_evidence_mass"]]  # fmt: skip
    for link, holds_zero in ((0.0, True), (30.0, False)):
        table = causal.use_table(make_recalls(link=link, cells=ONE), effects, items).set_index("use")
        for use in ("picture", "knockout"):
            assert (table.loc[use, "ci_low"] < 0) == holds_zero and table.loc[use, "n_items"] == 150
    assert table.loc["answer", "estimate"] == pytest.approx(1.0) and table.loc["answer", "n_items"] == 200


def test_heads_are_shares_of_what_all_lose() -> None:
    table = causal.head_table(make_heads(), **FAST).set_index(["chosen", "n_heads"])
    assert np.allclose(table.loc[("top", 4), "estimate"], 0.4) and np.allclose(table.loc[("random", 1), "estimate"], 0)
    none = make_heads().assign(lost_nats=np.float32(0))
    assert causal.head_table(none, **FAST).empty


@pytest.mark.parametrize(
    ("effects", "recalls", "expected"),
    [
        ({"need": 0.5}, {}, ("needs", "re-reads")),
        ({"need": 0.5}, {"by_text": 0.9, "by_picture": 0.2}, ("needs", "copies")),
        ({"need": 0.0, "rewritten": 0.9}, {"by_text": 0.5, "by_picture": 0.5}, ("ignores", "undecided")),
        ({"need": 0.0, "rewritten": 0.4}, {}, ("undecided", "re-reads")),  # it hardly rewrites: nothing was done
        ({"need": 0.03, "rewritten": 0.9}, {}, ("undecided", "re-reads")),  # neither 0 nor within the margin
        ({"need": 0.5, "control_loss": 0.1}, {}, ("", "")),  # a flagged control takes the words
    ],
)
def test_each_word_hangs_on_its_rule(
    effects: dict[str, float], recalls: dict[str, float], expected: tuple[str, str]
) -> None:
    table = words(make_effects(**effects), make_recalls(**recalls))
    assert len(table) == len(CELLS)
    assert {*zip(table["need_word"], table["source_word"], strict=True)} == {expected}


def test_noise_gets_no_word() -> None:
    given = 0
    for seed in range(10):
        effects, rng = make_effects(need=0.0, rewritten=0.3, seed=seed), np.random.default_rng(seed)
        flips = effects["condition"].isin(["evidence", "control"]) & (rng.random(len(effects)) < 0.02)
        effects["correct"] ^= flips
        recalls = make_recalls(by_text=0.5, by_picture=0.5, seed=seed)
        swapped = recalls["condition"].isin(["T", "P"])
        recalls.loc[swapped, "turned"] = rng.random(swapped.sum()) < 0.5
        table = words(effects, recalls)
        given += (~table["need_word"].isin(["", "undecided"]) | ~table["source_word"].isin(["", "undecided"])).any()
    assert given <= 1  # Holm over the cells of each of two families, ten studies


def test_calibration_rows_and_repeated_rows_are_refused() -> None:
    effects = make_effects(20, cells=ONE)
    with pytest.raises(EstimateError, match="calibration"):
        causal.need_table(effects.assign(split="calibration"))
    with pytest.raises(EstimateError, match="two rows for glm / visual"):
        causal.effect_table(pd.concat([effects, effects.head(1)]))
