"""Claims about the subset: proportional, seeded, whole groups, independent of order; and about the task rules."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dontblink.questions.items import Split
from dontblink.questions.subset import apportion, draw_subset, find_shortfalls, task_type_of

Rows = list[tuple[str, str, str]]
SINGLES: Rows = [(f"r{index}", "abc"[index % 3], f"g{index}") for index in range(90)]


@st.composite
def draw_rows(draw: st.DrawFn) -> Rows:
    """Rows in 1 to 4 strata, in groups of 1 to 5 rows, each group in one stratum."""
    sizes = draw(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 5)), min_size=1, max_size=25))
    return [
        (f"{group}-{row}", stratum, f"g{group}") for group, (stratum, size) in enumerate(sizes) for row in range(size)
    ]


def draw(rows: Rows, test: int, calibration: int, seed: int = 1) -> dict[str, str]:
    return dict(draw_subset(rows, {"test": test, "calibration": calibration}, seed))


@given(draw_rows(), st.integers(0, 40), st.integers(0, 40), st.integers(0, 9), st.randoms())
def test_the_draw_holds_its_promises(rows: Rows, test: int, calibration: int, seed: int, random: Random) -> None:
    chosen = draw(rows, test, calibration, seed)
    assert draw(random.sample(rows, len(rows)), test, calibration, seed) == chosen
    group_of = {identity: group for identity, _, group in rows}
    splits: dict[str, set[str]] = {}
    for identity, split in chosen.items():
        splits.setdefault(group_of[identity], set()).add(split)
    assert all(len(split) == 1 for split in splits.values())
    drawn = Counter(chosen.values())
    assert drawn["test"] <= test and drawn["calibration"] <= calibration
    slack = len({stratum for _, stratum, _ in rows}) * (max(Counter(group_of.values()).values()) - 1)
    if len(rows) >= test + calibration + slack:
        assert (drawn["test"], drawn["calibration"]) == (test, calibration)
    sizes = {"test": test, "calibration": calibration}
    short = [split for split, size in sizes.items() if drawn[split] < size]
    assert [line.split(":")[0] for line in find_shortfalls(sizes, chosen)] == short  # type: ignore[arg-type]


@given(st.integers(0, 45), st.integers(0, 45), st.integers(0, 20))
def test_single_rows_give_exact_sizes_in_the_strata_s_proportions(test: int, calibration: int, seed: int) -> None:
    chosen = draw(SINGLES, test, calibration, seed)
    stratum_of = {identity: stratum for identity, stratum, _ in SINGLES}
    for split, size in (("test", test), ("calibration", calibration)):
        counts = Counter(stratum_of[identity] for identity, drawn in chosen.items() if drawn == split)
        assert counts.total() == size
        assert all(abs(counts[stratum] - size / 3) < 1 for stratum in "abc")


@given(draw_rows(), st.integers(1, 15), st.integers(0, 15), st.integers(1, 20))
def test_a_larger_draw_keeps_the_earlier_one_where_there_is_one_stratum(
    rows: Rows, test: int, calibration: int, more: int
) -> None:
    rows = [(identity, "a", group) for identity, _, group in rows]
    slack = 2 * (max(Counter(group for _, _, group in rows).values()) - 1)
    if len(rows) < test + more + calibration + slack:
        return
    small, large = draw(rows, test, calibration), draw(rows, test + more, calibration)
    assert small.items() <= large.items()


def test_fewer_rows_than_asked_are_all_drawn_in_proportion() -> None:
    sizes: dict[Split, int] = {"test": 120, "calibration": 60}
    chosen = draw_subset(SINGLES, sizes, 1)
    assert Counter(chosen.values()) == {"test": 60, "calibration": 30}
    assert [line.split(" of ")[0] for line in find_shortfalls(sizes, chosen)] == [
        "test: 60 rows drawn",
        "calibration: 30 rows drawn",
    ]


def test_one_group_cannot_serve_both_splits() -> None:
    rows: Rows = [(f"r{index}", "a", "g") for index in range(6)]
    sizes: dict[Split, int] = {"test": 4, "calibration": 2}
    chosen = draw_subset(rows, sizes, 1)
    assert find_shortfalls(sizes, chosen)[0].startswith("calibration: 0 rows drawn of 2")
    assert list(chosen.values()) == ["test"] * 4


def test_another_seed_draws_other_rows() -> None:
    assert draw(SINGLES, 20, 10, 1).keys() != draw(SINGLES, 20, 10, 2).keys()


def test_a_group_that_spans_strata_stays_whole() -> None:
    rows: Rows = [(f"r{index}", "ab"[index % 2], f"g{index // 4}") for index in range(40)]
    chosen = draw(rows, 16, 16)
    sides = {f"g{index}": {chosen.get(f"r{row}") for row in range(4 * index, 4 * index + 4)} for index in range(10)}
    assert all(not {"test", "calibration"} <= side for side in sides.values())


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="2 rows share 1 ids"):
        draw_subset([("a", "s", "g"), ("a", "s", "h")], {"test": 1}, 1)
    with pytest.raises(ValueError, match="expected 0 rows or more"):
        draw_subset(SINGLES, {"test": -1}, 1)
    assert draw_subset([], {"test": 0}, 1) == {}
    assert find_shortfalls({"test": 2}, {"a": "test"}) == [
        "test: 1 rows drawn of 2 asked for; the data set, or its groups, allow no more"
    ]


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=8), st.integers(0, 200))
def test_shares_sum_to_the_total_and_keep_within_their_room(pairs: list[tuple[int, int]], total: int) -> None:
    weights, room = [weight for weight, _ in pairs], [space for _, space in pairs]
    total = min(total, sum(room))
    shares = apportion(total, weights, room)
    assert sum(shares) == total
    assert all(0 <= share <= space for share, space in zip(shares, room, strict=True))
    if all(total * weight < space * sum(weights) for weight, space in pairs):
        assert all(
            abs(share * sum(weights) - total * weight) < sum(weights)
            for share, weight in zip(shares, weights, strict=True)
        )


RULES = [
    "mathvista.category=math-targeted-vqa:symbolic",
    "mathvista.precision=2:other",
    "mathvista.*:sustained_visual_reference",
    "mmmu_pro.subject=Art: Theory:other",
]


@pytest.mark.parametrize(
    ("benchmark", "covariates", "task_type"),
    [
        ("mathvista", {"category": "math-targeted-vqa", "precision": 2.0}, "symbolic"),
        ("mathvista", {"category": "general-vqa", "precision": 2.0}, "other"),
        ("mathvista", {"category": "general-vqa", "precision": ""}, "sustained_visual_reference"),
        ("mmmu_pro", {"subject": "Art: Theory"}, "other"),
    ],
)
def test_the_first_rule_that_matches_decides(
    benchmark: str, covariates: dict[str, float | str], task_type: str
) -> None:
    assert task_type_of(covariates, benchmark, RULES) == task_type


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (["demo.*:other", "demo:other"], "task rule 'demo:other' is malformed; write '<benchmark>"),
        (["demo.a:other"], "'demo.a:other' is malformed"), (["demo.*"], "'demo.*' is malformed"),
        (["demo.*:visual"], r"'demo.\*:visual': unknown task type; expected one of sustained_visual_reference"),
        (["demo.b=1:other", "demo.*:other"], "'demo.b=1:other': demo items have no 'b'; they have a"),
        (["demo.a=2:other", "rest.*:other"], r"no task rule matches a demo item; end the rules with 'demo.\*:other'"),
        ([], "no task rule matches"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_used_is_named(rules: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task_type_of({"a": "1"}, "demo", rules)
