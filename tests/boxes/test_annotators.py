"""Claims about annotators: agreement is that of plain definitions, and what is undefined is said, never averaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from small_items import annotate as say

from dontblink.boxes.annotations import Annotation, AnnotationError, ImageFacts
from dontblink.boxes.annotators import (
    compare_annotators,
    disagreement,
    mean_best_iou,
    summarize_agreement,
    token_grid,
)

TOKEN_MAPS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40)


def annotate(item: str, name: str, *boxes: tuple[float, ...], **changes: Any) -> Annotation:
    return say(ImageFacts(item, 0, (64, 64), "ab" * 32, 1, "x.png"), *boxes, **{"annotator": name} | changes)


def find_kappa(observed: float, expected: float) -> float | None:
    return 1 - observed / expected if expected > 0 else None


def test_mean_best_iou_is_the_mean_of_both_directions() -> None:
    a, b = [(0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 30.0, 30.0)], [(0.0, 0.0, 10.0, 5.0)]
    assert mean_best_iou(a, b) == mean_best_iou(b, a) == pytest.approx(((0.5 + 0) / 2 + 0.5) / 2)
    assert mean_best_iou(a, a) == 1 and mean_best_iou(a, []) == 0 and mean_best_iou([], []) is None


@given(TOKEN_MAPS)
@settings(max_examples=150, deadline=None)
def test_the_chance_disagreement_is_the_mean_over_all_pairs(rows: list[tuple[int, int]]) -> None:
    a, b = np.array(rows).T / 4
    observed, expected = disagreement(a, b)
    assert observed == pytest.approx(np.abs(a - b).mean())
    assert expected == pytest.approx(np.abs(a[:, None] - b[None, :]).mean(), abs=1e-12)


@given(TOKEN_MAPS)
@settings(max_examples=150, deadline=None)
def test_kappa_on_covered_tokens_is_cohens(rows: list[tuple[int, int]]) -> None:
    a, b = (np.array(rows).T >= 2).astype(int)
    kappa = find_kappa(*disagreement(a, b))
    if len({*a, *b}) == 1:
        assert kappa is None
    else:
        assert kappa == pytest.approx(cohen_kappa_score(a, b), abs=1e-9)


def test_the_grid_is_the_models_for_pictures_within_the_budget() -> None:
    assert token_grid((1514, 720), 32) == (22, 47) and token_grid((1514, 720), 28) == (26, 54)
    assert token_grid((3000, 2000), 32) == (62, 94) and token_grid((5, 5), 32) == (1, 1)


def test_each_image_is_compared_once_and_what_cannot_be_says_why() -> None:
    rows = [
        annotate("same", "ana", (0, 0, 32, 32)), annotate("same", "bo", (0, 0, 32, 32)),
        annotate("half", "ana", (0, 0, 64, 32)), annotate("half", "bo", (0, 0, 32, 32)),
        annotate("empty", "ana"), annotate("empty", "bo"),
        annotate("alone", "ana", (0, 0, 9, 9)), annotate("alone", "cy", (0, 0, 9, 9)),
        annotate("moved", "ana", (0, 0, 9, 9)), annotate("moved", "bo", (0, 0, 9, 9), image_sha256="0" * 64),
    ]  # fmt: skip
    report = compare_annotators(rows, "ana", "bo")
    found = {row.item_id: row for row in report}
    assert (found["same"].iou, find_kappa(*found["same"].hard), find_kappa(*found["same"].soft)) == (1, 1, 1)
    assert found["half"].iou == 0.5 and find_kappa(*found["half"].hard) == pytest.approx(0.5)
    assert found["empty"].iou is None and find_kappa(*found["empty"].hard) is None
    assert found["empty"].reason == "no IoU: neither has a box; no kappa: both call every token the same"
    assert found["alone"].reason == "annotated by one of the two only"
    assert found["moved"].reason == "annotated on different pictures"
    text = summarize_agreement(report, "ana", "bo")
    assert text.startswith("ana and bo: 3 images of 3 items annotated by both\n  mean best IoU: 0.750 [")
    assert "annotated on different pictures: 1 images" in text and "nan" not in text


def test_the_soft_version_counts_less_than_half_covered_tokens() -> None:
    rows = [annotate("x", "ana", (0, 0, 10, 32)), annotate("x", "bo", (0, 0, 10, 32), (32, 32, 40, 64))]
    (row,) = compare_annotators(rows, "ana", "bo")
    soft = find_kappa(*row.soft)
    assert find_kappa(*row.hard) is None and soft is not None and 0 < soft < 1


def test_overall_kappa_weighs_images_by_tokens_and_its_interval_holds_it() -> None:
    rng = np.random.default_rng(0)
    rows = []
    for k in range(12):
        x, y = rng.integers(0, 30, 2).tolist()
        rows += [
            annotate(f"i{k}", "ana", (x, y, x + 30, y + 30)),
            annotate(f"i{k}", "bo", (x, y, x + 30, min(64, y + 40))),
        ]
    report = compare_annotators(rows, "ana", "bo", token_px=8)
    line = next(row for row in summarize_agreement(report, "ana", "bo").split("\n") if "  kappa on tokens" in row)
    value, low, high = (float(number.strip("[],")) for number in line.split(": ")[1].split())
    expected = 1 - sum(row.hard[0] for row in report) / sum(row.hard[1] for row in report)
    assert value == pytest.approx(expected, abs=5e-4) and low < value < high


def test_one_item_has_no_interval_and_none_no_value() -> None:
    rows = [annotate("x", "ana", (0, 0, 32, 32)), annotate("x", "bo", (0, 0, 32, 32))]
    assert "1.000 (one item: no interval)" in summarize_agreement(compare_annotators(rows, "ana", "bo"), "ana", "bo")
    rows.append(annotate("y", "cy"))
    nobody = summarize_agreement(compare_annotators(rows, "ana", "cy"), "ana", "cy")
    assert "0 images" in nobody and nobody.count("not defined") == 3


def test_a_persons_draft_is_not_compared_and_a_models_own_proposal_is() -> None:
    box, draft, model = (0, 0, 32, 32), {"status": "proposed"}, {"status": "proposed", "source": "proposed by M"}
    rows = [
        annotate("x", "ana", box), annotate("x", "bo", box, **draft, source="imported from x.json"),
        annotate("x", "cy", box, **model), annotate("x", "M", box, **model),
    ]  # fmt: skip
    for name in ("bo", "cy"):
        report = compare_annotators(rows, "ana", name)
        assert [row.reason for row in report] == ["a draft that its annotator has not accepted"]
        assert "0 images" in summarize_agreement(report, "ana", name)
    assert [row.iou for row in compare_annotators(rows, "ana", "M")] == [1]


def test_a_name_that_nobody_has_or_that_is_given_twice_and_a_token_without_a_side_are_errors() -> None:
    rows = [annotate("x", "ana"), annotate("x", "bo")]
    for pair in (("ana", "boo"), ("an", "bo"), ("ana", "ana")):
        with pytest.raises(AnnotationError, match="expected two of the annotators ana, bo$"):
            compare_annotators(rows, *pair)
    for token_px in (0, -8):
        with pytest.raises(AnnotationError, match=f"token_px is {token_px}; expected .* 1 or more"):
            compare_annotators(rows, "ana", "bo", token_px=token_px)
