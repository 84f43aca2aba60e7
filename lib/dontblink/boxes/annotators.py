"""How well two annotators agree on what the evidence is: on boxes, and on the image tokens that are measured.

Why: an evidence mass means as much as its boxes, so a study states their agreement. In: annotations of two
annotators (people, or a model that proposed). Out: one row per image that both annotated, and a mean with an
interval over items. A case without a defined value says so in words; no NaN takes part in a mean. Never here:
accepting, merging or correcting boxes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dontblink.boxes.annotations import Annotation, AnnotationError, Corners, Key, group_by_image
from dontblink.boxes.evidence import Grid, token_coverage
from dontblink.statistics.bootstrap import Resampling, bootstrap_ratio

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """What two annotators say of one image; `reason` says why a value is not defined, or the image not compared.

    `hard` and `soft` are the observed and the chance disagreement on the `n_tokens` image tokens: on tokens that count
    as evidence or not, and on their coverage; `iou` is the mean best IoU of the boxes.
    """

    item_id: str
    image: int
    reason: str
    n_tokens: int = 0
    iou: float | None = None
    hard: tuple[float, float] = (0.0, 0.0)
    soft: tuple[float, float] = (0.0, 0.0)


def mean_best_iou(a: Sequence[Corners], b: Sequence[Corners]) -> float | None:
    """Return how well two sets of boxes in one image match, 0 to 1; None where neither has a box.

    Notes
    -----
    m = (mean_i max_j IoU(a_i, b_j) + mean_j max_i IoU(a_i, b_j)) / 2; 0 where one of the two sets is empty.
    """
    if not a or not b:
        return None if not a and not b else 0.0
    first, second = np.array(a, dtype=np.float64)[:, None], np.array(b, dtype=np.float64)[None, :]
    low, high = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(axis=2) for boxes in (first, second)]
    iou = shared / (areas[0] + areas[1] - shared)
    return float((iou.max(axis=1).mean() + iou.max(axis=0).mean()) / 2)


def disagreement(a: ArrayLike, b: ArrayLike) -> tuple[float, float]:
    """Return the observed and the chance disagreement of two token maps [M] with values in 0 to 1.

    Notes
    -----
    observed = mean_t |a_t - b_t|, expected = mean_{t,u} |a_t - b_u|. On maps of 0 and 1, 1 - observed / expected is
    Cohen's kappa; on coverages it is the soft version (linear weights).
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    ranked = np.sort(second)
    # sum_u |a - b_u| in closed form: tokens below a count a - b, those above b - a
    sums = np.concatenate([[0.0], np.cumsum(ranked)])
    below = np.searchsorted(ranked, first, side="right")
    totals = first * (2 * below - len(ranked)) - 2 * sums[below] + sums[-1]
    return float(np.abs(first - second).mean()), float(totals.mean() / len(ranked))


def token_grid(image_size: tuple[int, int], token_px: int) -> Grid:
    """Return the (rows, columns) of image tokens of `token_px` px for an image (width, height), no pixel budget."""
    width, height = image_size
    return max(1, round(height / token_px)), max(1, round(width / token_px))


def compare_annotators(annotations: Iterable[Annotation], a: str, b: str, *, token_px: int = 32) -> list[Comparison]:
    """Return a comparison for each image that one of two annotators has annotated, in the order of items and images.

    A token counts as evidence where the union of boxes covers at least half of it; the soft version takes the coverage
    itself. An image that only one of the two has annotated, of which a person has but a draft, or of which they had
    different pictures is not compared: it has a reason and no tokens.

    Raises
    ------
    AnnotationError
        If the two are one, one of them has annotated nothing, or `token_px` is less than 1.
    """
    groups = group_by_image(annotations)
    names = sorted({found.annotator for lines in groups.values() for found in lines})
    if a == b or not {a, b} <= set(names):
        raise AnnotationError(f"{a!r} and {b!r}; expected two of the annotators {', '.join(names) or '(none)'}")
    if token_px < 1:
        raise AnnotationError(f"token_px is {token_px}; expected the side of an image token in px, 1 or more")
    pairs = ((key, [one for name in (a, b) for one in lines if one.annotator == name]) for key, lines in groups.items())
    return [compare_image(key, pair, token_px) for key, pair in pairs if pair]


def compare_image(key: Key, pair: Sequence[Annotation], token_px: int) -> Comparison:
    """Return the comparison of one image."""
    if len(pair) < 2:
        return Comparison(*key, "annotated by one of the two only")
    if not all(found.status == "accepted" or found.is_models_own() for found in pair):
        return Comparison(*key, "a draft that its annotator has not accepted")
    if len({(found.image_sha256, found.image_size) for found in pair}) > 1:
        return Comparison(*key, "annotated on different pictures")
    (rows, columns) = grid = token_grid(pair[0].image_size, token_px)
    maps = [token_coverage(found.boxes, found.image_size, grid).astype(np.float64) for found in pair]
    hard, iou = disagreement(*(coverage >= 0.5 for coverage in maps)), mean_best_iou(*(f.corners for f in pair))
    reasons = ["no IoU: neither has a box"] * (iou is None)
    reasons += ["no kappa: both call every token the same"] * (hard[1] == 0)
    return Comparison(*key, "; ".join(reasons), rows * columns, iou, hard, disagreement(*maps))


def summarize_agreement(found: Sequence[Comparison], a: str, b: str, *, seed: int = 0) -> str:
    """Return the overall agreement of two annotators as a text, with 95% intervals from resampled items.

    Notes
    -----
    mean best IoU: the mean over the images where it is defined. kappa = 1 - sum_i n_i observed_i / sum_i n_i expected_i
    over images i of n_i tokens: chance is that of each image, so that images of different evidence size cannot pass
    for agreement. Intervals: BCa bootstrap over items.
    """
    compared = [row for row in found if row.n_tokens]
    items = np.array([row.item_id for row in compared])
    lines = [f"{a} and {b}: {len(compared)} images of {len(set(items))} items annotated by both"]
    for name, pairs, offset, sign in (
        ("mean best IoU", [(row.iou or 0.0, row.iou is not None) for row in compared], 0, 1),
        ("kappa on tokens", [np.multiply(row.n_tokens, row.hard) for row in compared], 1, -1),
        ("soft kappa on tokens", [np.multiply(row.n_tokens, row.soft) for row in compared], 1, -1),
    ):
        top, bottom = np.array(pairs, np.float64).reshape(-1, 2).T
        lines.append(f"  {name}: {describe_ratio(top, bottom, items, offset, sign, Resampling(seed=seed))}")
    reasons = Counter(row.reason for row in found if row.reason)
    return "\n".join(lines + [f"  {reason}: {n} images" for reason, n in sorted(reasons.items())])


def describe_ratio(
    top: Vector, bottom: Vector, items: NDArray[np.str_], offset: int, sign: int, resampling: Resampling
) -> str:
    """Return `estimate [low, high]` of offset + sign * sum(top) / sum(bottom), or why it has no interval or value."""
    if not bottom.sum() > 0:
        return "not defined on these images"
    estimate = f"{offset + sign * float(top.sum() / bottom.sum()):.3f}"
    if len(set(items)) < 2:
        return f"{estimate} (one item: no interval)"
    try:
        found = bootstrap_ratio(top, bottom, items, resampling=resampling)
    except ValueError as error:  # the jackknife of a handful of items may leave nothing to divide by
        return f"{estimate} (no interval: {error})"
    low, high = sorted((offset + sign * found.ci_low, offset + sign * found.ci_high))
    return f"{estimate} [{low:.3f}, {high:.3f}]"
