"""Claims about the rows of an estimate: cells that can carry one, values within a cell, deals within a cell."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pandas as pd
import pytest
from synthetic_items import make_items

from dontblink import params
from dontblink.schema import SCHEMAS
from dontblink.statistics.bootstrap import EstimateError
from dontblink.studies.cells import (
    ENTROPY,
    EVIDENCE,
    ORACLES,
    VISION,
    VISIONS,
    choose_visions,
    count_evidence,
    deal_rows,
    describe_signs,
    name_entropy,
    name_main,
    number_items,
    of_items,
    require_cells,
    select_rows,
    size_evidence,
    standardise,
)


def make_cell(n: int, right: int) -> pd.DataFrame:
    """Rows of one cell."""
    return pd.DataFrame({"model": "m", "benchmark": "large", "correct": [k < right for k in range(n)]})


def test_one_cell_that_can_carry_an_estimate_is_enough() -> None:
    require_cells(pd.concat([make_cell(20, 8), make_cell(3, 1).assign(benchmark="small")]), 20, 8)


@pytest.mark.parametrize(("n", "right"), [(19, 9), (40, 3), (40, 37), (40, 40)])
def test_too_few_items_of_either_kind_are_an_error_with_the_counts(n: int, right: int) -> None:
    with pytest.raises(
        EstimateError, match=rf"no cell has 20 measured items with 4 .* \(m x large has {n}, {right} corr"
    ):
        require_cells(make_cell(n, right), 20, 4)


def test_both_entropies_of_both_spans_are_columns_of_the_items_table() -> None:
    asked = [(support, span) for support in ("full", "top20") for span in ("full", "answer")]
    named = {(support, span): name_entropy(support, span) for support, span in asked}
    assert len({*named.values()}) == 4 and {*named.values()} <= SCHEMAS["items"].keys()
    assert name_entropy("full") == ENTROPY and "top20" in name_entropy("top20", "answer")
    kept = params.Measures.model_fields["entropy_support"].annotation
    assert set(get_args(kept)) == {support for support, _ in named}  # what a parameters file may hold
    for support, span in (("top50", "full"), ("full", "reasoning")):
        with pytest.raises(EstimateError, match="expected one of full, top20 with full, answer"):
            name_entropy(support, span)


def test_rows_are_those_with_a_number_of_the_split_that_is_named() -> None:
    items = make_items(20)
    rows = select_rows(items, ["log_n_response_tokens", "n_response_tokens"])
    assert rows["log_n_response_tokens"].to_numpy() == pytest.approx(np.log(rows["n_response_tokens"].to_numpy()))
    signed = select_rows(items, ["minus_log_n_response_tokens", "minus_n_response_tokens"])
    assert (signed["minus_log_n_response_tokens"] == -rows["log_n_response_tokens"]).all()
    assert (signed["minus_n_response_tokens"] == -rows["n_response_tokens"]).all()
    for other, columns, message in (
        (
            items.assign(n_response_tokens=0),
            ["log_n_response_tokens"],
            "column n_response_tokens: 0.0 has no logarithm",
        ),
        (items.assign(split="calibration"), [], "rows of the calibration split, test expected"),
        (items.drop(columns="max_entropy_nats"), ["max_entropy_nats"], "no numeric column max_entropy_nats"),
        (pd.concat([items, items.head(1)]), [], "occurs twice"),
    ):
        with pytest.raises(EstimateError, match=message):
            select_rows(other, columns)


def test_standardised_values_have_mean_zero_and_deviation_one_in_each_cell() -> None:
    values, cell = np.random.default_rng(0).gamma(2, 3, 50), np.repeat(["a", "b"], 25)
    scaled = standardise(values, cell)
    for name in ("a", "b"):
        assert scaled[cell == name].mean() == pytest.approx(0, abs=1e-12)
        assert scaled[cell == name].std() == pytest.approx(1)
    assert not standardise(np.ones(50), cell, constant="zero").any()


@pytest.mark.parametrize("lost", [[], [0, 5, 40]])
def test_a_deal_stays_within_the_cell_and_is_the_same_for_all_models_of_a_benchmark(lost: list[int]) -> None:
    rows = select_rows(make_items(50).drop(index=lost).sample(frac=1, random_state=0), [ENTROPY, VISION])
    order = deal_rows(*number_items(rows), np.random.default_rng(0))
    assert sorted(order) == list(range(len(rows)))
    assert (rows["cell"].to_numpy()[order] == rows["cell"]).all()
    if not lost:
        donor = rows.assign(donor=rows["item_id"].to_numpy()[order])
        for _, part in donor.groupby("benchmark"):
            assert part.groupby("item_id")["donor"].nunique().eq(1).all()
        given = donor.groupby("benchmark")["donor"].agg(list)
        assert given["symbolic"] != given["visual"]


def test_a_sentence_counts_signs_intervals_and_the_tested_direction() -> None:
    rows = pd.DataFrame({"estimate": [-0.5, -0.1, 0.3, 9], "ci_low": [-0.8, -0.3, 0.1, 8],
                         "ci_high": [-0.2, 0.1, 0.5, 9], "p_holm": [0.003, 0.4, 0.02, np.nan],
                         "rank": [-0.9, -0.1, 0.8, 1]})  # fmt: skip
    counts = "falls in 1 and the reverse in 2 of 3 (interval above 0 in 1, below 0 in 1); from -0.500 to 0.300"
    tests = "; Holm-adjusted p < 0.05 for the claim in 1, for the reverse in 1"
    assert describe_signs("falls", rows, "rank") == counts + tests == describe_signs("falls", rows)
    turned = describe_signs("falls", rows.assign(rank=-rows["rank"] * (rows.index > 0)), "rank")
    assert turned.endswith("for the claim in 0, for the reverse in 1")
    assert describe_signs("falls", rows.iloc[:3].drop(columns="p_holm")) == counts


SIZED = pd.DataFrame({
    "model": "m", "benchmark": "b", "item_id": ["whole", "tiny", "unboxed", "edge"],
    "evidence_missing": pd.Categorical(["", "", "not annotated", ""]),
    "evidence_tokens": np.array([2.5, 0.4, np.nan, 1 - 1e-6], np.float32),
})  # fmt: skip


def test_evidence_has_three_strata_and_below_one_token_is_pooled_with_none() -> None:
    assert size_evidence(SIZED).tolist() == [EVIDENCE[0], EVIDENCE[1], EVIDENCE[2], EVIDENCE[0]]
    said = count_evidence(SIZED)
    assert "4 responses" in said and "below one token 1" in said and "no boxes 1" in said


def test_all_items_are_judged_without_the_oracles_or_boxed_ones_with_them(capsys: pytest.CaptureFixture[str]) -> None:
    items, visions = choose_visions(SIZED, "all")
    assert len(items) == 4 and [*visions] == ["image", "cumulative image"] and name_main(visions) == "image"
    said = capsys.readouterr().out
    assert all(name in said for name in ORACLES) and "set measures.items to boxed" in said
    items, visions = choose_visions(SIZED, "boxed")
    assert items["item_id"].tolist() == ["whole", "edge"] and visions == VISIONS and name_main(visions) == "evidence"
    assert "set measures.items to all" in capsys.readouterr().out
    with pytest.raises(EstimateError, match="no item has evidence of one token or more; set it to all"):
        choose_visions(SIZED[1:3], "boxed")


@pytest.mark.parametrize("which", get_args(params.Measures.model_fields["items"].annotation))
def test_a_study_whose_items_all_have_boxes_is_left_as_it_is(which: str, capsys: pytest.CaptureFixture[str]) -> None:
    items, visions = choose_visions(SIZED[::3], which)
    assert items is not None and items["item_id"].tolist() == ["whole", "edge"] and visions == VISIONS
    assert not capsys.readouterr().out


def test_rows_of_another_table_are_those_of_the_same_responses() -> None:
    steps = pd.concat([SIZED.assign(step_index=k) for k in range(2)]).astype({"item_id": "category"})
    steps = pd.concat([steps, steps.assign(model="other")])
    kept = of_items(steps, SIZED[:1])
    assert kept["item_id"].tolist() == ["whole", "whole"] and set(kept["model"]) == {"m"}
