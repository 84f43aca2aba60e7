"""Claims about agreement: counts add up, kappa is the textbook's, disagreements are listed by kind."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from dontblink.questions.agreement import list_disagreements, tabulate_agreement

Side = tuple[bool, bool, str]


def make_scores(pairs: list[tuple[Side, Side]], model: str = "small", benchmark: str = "demo") -> pd.DataFrame:
    """Scores of both scorers, (correct, parsed, prediction) each."""
    rows = [
        (model, benchmark, f"q{index}", scorer, *side)
        for index, sides in enumerate(pairs)
        for scorer, side in zip(("official", "strict"), sides, strict=True)
    ]
    return pd.DataFrame(rows, columns=["model", "benchmark", "item_id", "scorer", "correct", "parsed", "prediction"])


RIGHT, WRONG, NOTHING = (True, True, "A"), (False, True, "B"), (False, False, "")
PAIRS: list[tuple[Side, Side]] = [
    (RIGHT, RIGHT), (RIGHT, WRONG), (NOTHING, RIGHT), (WRONG, WRONG), (WRONG, (False, True, "C")), (RIGHT, NOTHING),
    (NOTHING, NOTHING), (NOTHING, WRONG),
]  # fmt: skip
GUESS = (True, False, "A")


def test_the_table_counts_each_kind_of_response() -> None:
    row = tabulate_agreement(make_scores(PAIRS)).iloc[0].to_dict()
    assert row == {
        "model": "small", "benchmark": "demo", "n": 8, "both_right": 1, "both_wrong": 4, "only_official_right": 2,
        "only_strict_right": 1, "official_unparsed": 3, "strict_unparsed": 2, "agreement": 5 / 8,
        "kappa": pytest.approx((5 / 8 - 36 / 64) / (1 - 36 / 64)), "kappa_defined": True,
    }  # fmt: skip


def test_the_listing_names_who_is_right_and_what_was_read() -> None:
    listed = list_disagreements(make_scores(PAIRS)).set_index("item_id")["kind"].to_dict()
    assert listed == {
        "q1": "only official right, other answer",
        "q2": "only strict right, official reads nothing",
        "q4": "both wrong, other answer",
        "q5": "only official right, strict reads nothing",
        "q7": "both wrong, official reads nothing",
    }


def test_the_nearest_choice_to_a_refusal_is_nobody_s_other_answer() -> None:
    listed = list_disagreements(make_scores([(GUESS, NOTHING), (NOTHING, GUESS)]))["kind"].to_list()
    assert listed == ["only official right, neither reads an answer", "only strict right, neither reads an answer"]


@pytest.mark.parametrize(
    ("official", "strict", "kind"),
    [
        ("45.0", "45", None), ("1e3", "1000", None), ("45.0", "46", "both wrong, other answer"),
        ("nan", "nan", None), ("45.0 cm", "45 cm", "both wrong, other answer"), ("", "0", "both wrong, other answer"),
    ],
)  # fmt: skip
def test_numbers_are_compared_by_value_and_texts_as_they_stand(official: str, strict: str, kind: str | None) -> None:
    listed = list_disagreements(make_scores([((False, True, official), (False, True, strict))]))["kind"].to_list()
    assert listed == ([] if kind is None else [kind])


def test_one_answer_may_be_right_for_one_scorer_only() -> None:
    listed = list_disagreements(make_scores([((False, True, "1.50"), (True, True, "1.5"))]))["kind"].to_list()
    assert listed == ["only strict right, same answer"]


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.sampled_from([RIGHT, WRONG, NOTHING]), st.sampled_from([RIGHT, WRONG, NOTHING])), min_size=1)
)
def test_kappa_is_the_textbook_s_and_never_nan(pairs: list[tuple[Side, Side]]) -> None:
    row = tabulate_agreement(make_scores(pairs)).iloc[0]
    assert row["n"] == row[["both_right", "both_wrong", "only_official_right", "only_strict_right"]].sum()
    first, second = ([side[0] for side in sides] for sides in zip(*pairs, strict=True))
    if row["kappa_defined"]:
        assert row["kappa"] == pytest.approx(cohen_kappa_score(first, second))
    else:
        assert len({*first, *second}) == 1 and row["kappa"] == 0.0
    assert math.isfinite(row["kappa"])


def test_models_and_benchmarks_have_a_row_each() -> None:
    scores = pd.concat([make_scores(PAIRS), make_scores(PAIRS[:1], "large"), make_scores(PAIRS[:2], benchmark="other")])
    table = tabulate_agreement(scores.sample(frac=1, random_state=1))
    assert table[["model", "benchmark", "n"]].values.tolist() == [
        ["large", "demo", 1], ["small", "demo", 8], ["small", "other", 2],
    ]  # fmt: skip


def test_no_scores_give_an_empty_table_with_its_columns() -> None:
    assert list(tabulate_agreement(make_scores([])).columns) == list(tabulate_agreement(make_scores(PAIRS)).columns)
    assert list_disagreements(make_scores([])).empty


def test_unusable_scores_are_named() -> None:
    scores = make_scores(PAIRS)
    cases = {
        "small demo q7: scored by one scorer only": scores.iloc[:-1],
        "small demo q0: scored twice by 'official'": pd.concat([scores, scores.iloc[:1]]),
        "scores lack column 'parsed'; they have model": scores.drop(columns="parsed"),
        "scorer 'judge'; expected 'official' and 'strict'": scores.replace({"scorer": {"strict": "judge"}}),
    }
    for message, broken in cases.items():
        with pytest.raises(ValueError, match=message):
            tabulate_agreement(broken)
