"""Evidence boxes on the grid of image tokens, and how well an attention map overlaps them.

Why: a model sees merged image tokens, annotators draw pixel boxes; every evidence mass rests on this mapping.
In: an Item's boxes, image sizes and merged grids (rows, columns). Out: float32 maps over the image tokens in
prompt order (image by image, token = row * columns + column). Coverage is the exact share of a token's area
inside the union of the boxes: no threshold decides what is evidence. Never here: models, attention, scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dontblink.questions.items import Box, Item, open_image

Grid = tuple[int, int]


def token_coverage(boxes: Sequence[Box], image_size: tuple[int, int], grid: Grid) -> NDArray[np.float32]:
    """Return the share of each token's area inside the union of the boxes, float32 [rows * columns], 0 to 1.

    Boxes (px of an image of `image_size` = (width, height)) scale by columns/width in x and rows/height in y,
    separately, because the processor's resize changes the aspect. The union is exact: the grid lines and box
    edges cut the plane into cells that are inside or outside as a whole, and each token sums its cells.

    Notes
    -----
    c[r, k] = area(token[r, k] & union of boxes) / area(token[r, k]); the mean of c is the share of the image
    that the union covers.
    """
    (width, height), (rows, columns) = image_size, grid
    edges = np.array([(b.x0, b.x1, b.y0, b.y1) for b in boxes], dtype=np.float64).reshape(-1, 4)
    x = np.clip(edges[:, :2] * columns / width, 0, columns)
    y = np.clip(edges[:, 2:] * rows / height, 0, rows)
    lines_x = np.unique(np.concatenate([np.arange(columns + 1.0), x.ravel()]))
    lines_y = np.unique(np.concatenate([np.arange(rows + 1.0), y.ravel()]))
    inside = np.zeros((len(lines_y) - 1, len(lines_x) - 1), dtype=bool)
    for (left, right), (top, bottom) in zip(
        np.searchsorted(lines_x, x).tolist(), np.searchsorted(lines_y, y).tolist(), strict=True
    ):
        inside[top:bottom, left:right] = True
    area = inside * np.diff(lines_y)[:, None] * np.diff(lines_x)[None, :]
    by_row = np.add.reduceat(area, np.searchsorted(lines_y, np.arange(rows)), axis=0)
    by_token = np.add.reduceat(by_row, np.searchsorted(lines_x, np.arange(columns)), axis=1)
    return np.clip(by_token, 0, 1).astype(np.float32).ravel()


def item_coverage(
    item: Item,
    grids: Sequence[Grid],
    image_sizes: Sequence[tuple[int, int]] | None = None,
    image_order: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """Return the coverage of all of an item's image tokens in prompt order, float32 [M].

    Grids, sizes and order have one entry for each shown picture, in prompt order (Prompt.image_order: places in
    `item.images`; a picture that is shown twice is evidence twice); without an order each picture is shown once, as
    stored. `image_sizes` are (width, height) in px after the EXIF turn; the images are opened where they are not given.

    Raises
    ------
    ValueError
        If there are not as many grids as shown pictures, or the order names one that is not there.
    """
    order = range(len(item.images)) if image_order is None else image_order
    if not (set(order) <= set(range(len(item.images))) and len(grids) == len(order) == len(image_sizes or order)):
        found = f"{len(grids)} grids, image order {list(order)} for {len(item.images)} images"
        raise ValueError(f"item {item.id}: {found}; pass the prompt's own, one of each per image")
    sizes = image_sizes or [open_image(item.images[place]).size for place in order]
    per_image = [
        token_coverage([box for box in item.boxes if box.image == place], size, grid)
        for place, size, grid in zip(order, sizes, grids, strict=True)
    ]
    return np.concatenate(per_image)


def split_images(values: ArrayLike, grids: Sequence[Grid]) -> list[NDArray[np.float64]]:
    """Return a map over an item's image tokens [M] as one [rows, columns] array per image."""
    flat = np.asarray(values, dtype=np.float64)
    sizes = [rows * columns for rows, columns in grids]
    if flat.shape != (sum(sizes),):
        raise ValueError(f"map of shape {flat.shape} for grids of {sum(sizes)} tokens; pass the prompt's own grids")
    parts = np.split(flat, np.cumsum(sizes)[:-1])
    return [part.reshape(grid) for part, grid in zip(parts, grids, strict=True)]


def find_rectangles(inside: NDArray[np.bool_]) -> list[tuple[slice, slice]]:
    """Return rectangles of tokens (rows, columns) that together are the tokens of a map bool [rows, columns].

    Runs of a row become one rectangle, and grow downwards as long as the next row has the same run.
    """
    found, growing = [], dict[tuple[int, int], int]()
    for row, line in enumerate([*inside, np.zeros(inside.shape[1], bool)]):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(int), [0]])))
        runs = {(int(left), int(right)) for left, right in edges.reshape(-1, 2)}
        for left, right in sorted(set(growing) - runs):
            found.append((slice(growing.pop((left, right)), row), slice(left, right)))
        growing |= {run: row for run in runs - set(growing)}
    return found


def place_rectangle(
    rectangle: tuple[slice, slice], image_size: tuple[int, int], grid: Grid
) -> tuple[float, float, float, float]:
    """Return x0, y0, x1, y1 in px, of an image of (width, height), of a rectangle of tokens."""
    (down, right), (width, height), (rows, columns) = rectangle, image_size, grid
    x0, x1, y0, y1 = right.start, right.stop, down.start, down.stop
    return x0 * width / columns, y0 * height / rows, x1 * width / columns, y1 * height / rows


def control_coverage(coverage: ArrayLike, grids: Sequence[Grid], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a random map of equal area and shape elsewhere in the same image, float32 [M].

    The evidence of each image is rolled (wrapping around the borders) to an offset drawn uniformly among
    those whose overlap sum(c * rolled c) with the evidence is least; images without evidence stay empty.
    """
    controls = []
    for image in split_images(coverage, grids):
        spectrum = np.fft.fft2(image)
        overlap = np.fft.ifft2(np.abs(spectrum) ** 2).real
        # the transform's round-off must not break ties between offsets that overlap equally
        offsets = np.argwhere(overlap <= overlap.min() + 1e-9 * image.size)
        down, right = offsets[rng.integers(len(offsets))].tolist()
        controls.append(np.roll(image, (down, right), axis=(0, 1)).ravel())
    return np.concatenate(controls).astype(np.float32)


def border_mask(grids: Sequence[Grid], rule: Literal["border", "first"] = "border") -> NDArray[np.bool_]:
    """Return which image tokens count as attention sinks, bool [M].

    'border': the outermost tokens on every side of each image (which takes in the first token);
    'first': the top-left token of each image only, for grids too small to lose their border.
    """
    masks = [np.ones(grid, dtype=bool) for grid in grids]
    for mask in masks:
        if rule == "first":
            mask.ravel()[1:] = False
        else:
            mask[1:-1, 1:-1] = False
    return np.concatenate([mask.ravel() for mask in masks])


def pointing_hit(weights: ArrayLike, coverage: ArrayLike) -> float:
    """Return the coverage of the token with the largest weight (the mean over tied tokens), in [0, 1].

    It is 1 or 0 where boxes end on token borders; a flat map scores the evidence's share of the image.
    NaN without evidence.
    """
    values, inside = as_maps(weights, coverage)
    return float(inside[values == values.max()].mean()) if inside.any() else float("nan")


def mass_set_iou(weights: ArrayLike, coverage: ArrayLike) -> float:
    """Return the IoU of the evidence and the smallest set of tokens that holds half of the weight.

    Tokens tied at the edge of the set share its last places equally, so their order does not matter.

    Notes
    -----
    IoU = sum(min(s, c)) / sum(max(s, c)), s membership in the set, c coverage; NaN without evidence or mass.
    """
    values, inside = as_maps(weights, coverage)
    if not (inside.any() and values.sum() > 0):
        return float("nan")
    ranked = np.sort(values)[::-1]
    held = np.cumsum(ranked)
    # a half summed in another order may miss 0.5 by round-off and would take one token more
    size = int(np.searchsorted(held, 0.5 * held[-1] * (1 - 1e-12))) + 1
    edge = ranked[min(size, len(ranked)) - 1]
    members, tied = (values > edge).astype(np.float64), values == edge
    members[tied] = (size - members.sum()) / tied.sum()
    return float(np.minimum(members, inside).sum() / np.maximum(members, inside).sum())


def map_auc(weights: ArrayLike, coverage: ArrayLike) -> float:
    """Return the probability that a random point of the evidence outweighs one outside; ties count 1/2.

    Each token counts as evidence by its coverage c and as background by 1 - c: a token's weight is spread
    evenly over its area. NaN without evidence or without background.
    """
    values, inside = as_maps(weights, coverage)
    _, level = np.unique(values, return_inverse=True)
    positive, negative = (np.bincount(level, weights=share) for share in (inside, 1 - inside))
    pairs = positive.sum() * negative.sum()
    if pairs <= 0:
        return float("nan")
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / pairs)


def as_maps(weights: ArrayLike, coverage: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both maps as float64 [M]; raise ValueError unless they have one shape and finite weights."""
    values, inside = np.asarray(weights, dtype=np.float64), np.asarray(coverage, dtype=np.float64)
    if values.ndim != 1 or values.shape != inside.shape:
        raise ValueError(f"map of shape {values.shape} and coverage of shape {inside.shape}; expected one [M] each")
    if not np.isfinite(values).all():
        raise ValueError("map holds NaN or infinite weights; drop such steps first")
    return values, inside
