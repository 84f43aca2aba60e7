"""Where a model looks at the evidence: its grounding layers and heads, and the sets of heads that traces keep.

Why it exists: most heads never look at the picture, so a mean over all of them hides a look; which ones do is chosen
once, from data that no test sees. In: every head's mean masses; the heads block of calibration items. Out: the rows
of that block, a `Grounding` per model, and the weights of the four head sets over its (layer, head) pairs. Never:
choose on items that a test uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dontblink.errors import NamedError


@dataclass(frozen=True)
class Grounding:
    """Layers and (layer, head) pairs with the largest evidence lift of a model on its calibration items."""

    layers: tuple[int, ...]
    heads: tuple[tuple[int, int], ...]
    layer_lift: tuple[float, ...]
    n_items: int

    @classmethod
    def of_all(cls, n_layers: int, n_heads: int) -> Grounding:
        """Return every layer and head, chosen on no item: for a model without evidence in any calibration reasoning."""
        pairs = tuple((layer, head) for layer in range(n_layers) for head in range(n_heads))
        return cls(tuple(range(n_layers)), pairs, (), 0)


def select_grounding(heads: pd.DataFrame, n_layers: int, n_heads: int) -> dict[str, Grounding]:
    """Return each model's layers and (layer, head) pairs of largest evidence lift on calibration items.

    Lift of a layer = sum of evidence mass / sum of (visual mass * evidence fraction), over its heads and all items: a
    ratio of means, 1 for a look that has no preference within the image. Ties go to the lower number. An item without
    boxes chooses nothing, and a model without one that has some is not there. NamedError if a row of another split is
    passed, or a model has fewer layers or heads than asked for.
    """
    if (heads["split"].astype(str) != "calibration").any():
        raise NamedError("heads of the test split; calibration items choose the grounding, filter the rows")
    rows = heads.assign(expected=heads["visual_mass"] * heads["evidence_fraction"])
    rows, chosen = rows.dropna(subset=["expected"]), {}
    for model, part in rows.groupby("model", observed=True):
        sums = (part.groupby(by)[["evidence_mass", "expected"]].sum() for by in ("layer", ["layer", "head"]))
        layer_lift, pair_lift = (total["evidence_mass"] / total["expected"] for total in sums)
        if not (0 < n_layers <= len(layer_lift) and 0 < n_heads <= len(pair_lift)) or layer_lift.isna().any():
            found = f"{len(layer_lift)} and {len(pair_lift)}, or no boxes"
            raise NamedError(f"model {model}: {n_layers} layers and {n_heads} heads asked of {found}; ask for fewer")
        best = [lift.sort_values(ascending=False, kind="stable").index for lift in (layer_lift, pair_lift)]
        chosen[str(model)] = Grounding(
            tuple(sorted(map(int, best[0][:n_layers]))),
            tuple(sorted((int(a), int(b)) for a, b in best[1][:n_heads])),
            tuple(map(float, layer_lift)), int(part["item_id"].nunique()),
        )  # fmt: skip
    return chosen


def add_visual(evidence: NDArray[Any], other_image: NDArray[Any]) -> NDArray[Any]:
    """Return the visual mass: the sum, or `other_image`, which is then the whole image, where evidence is NaN."""
    return np.asarray(np.where(np.isnan(evidence), other_image, evidence + other_image))


def list_looks(
    head_mass: NDArray[np.float32], evidence_fraction: float, reasoning: tuple[int, int]
) -> dict[str, NDArray[Any]]:
    """Return the columns of the heads block for one response: L * H rows, none without a reasoning.

    Lift = evidence mass / (visual mass * evidence fraction): 1 for a look without a preference within the image, NaN
    for a head that never looks at it.

    Parameters
    ----------
    head_mass : float32 [L, H, 2], mean mass on evidence and on other image over the reasoning
    evidence_fraction : mean share of an image token inside the evidence, NaN where that is not known
    """
    mass = head_mass.astype(np.float64) if reasoning[1] > reasoning[0] else np.zeros((0, 0, 2))
    n_layers, n_heads = mass.shape[:2]
    evidence, visual = mass[..., 0].reshape(-1), add_visual(*np.moveaxis(mass, -1, 0)).reshape(-1)
    expected = visual * evidence_fraction
    lift = np.divide(evidence, expected, out=np.full_like(evidence, np.nan), where=expected > 0)
    layer, head = np.divmod(np.arange(n_layers * n_heads), max(n_heads, 1))
    return {
        "layer": layer, "head": head, "evidence_mass": evidence, "visual_mass": visual,
        "evidence_fraction": np.full(len(visual), np.float32(evidence_fraction)), "evidence_lift": lift,
    }  # fmt: skip


def weigh_heads(grounding: Grounding, n_layers: int, n_heads: int) -> NDArray[np.float32]:
    """Return float32 [4, L, H], the weights of a mean over each set of heads, in the order of `schema.HEAD_SETS`.

    The sets are the heads of the grounding layers, the grounding heads, all heads, and those of layer 0.
    """
    weights = np.zeros((4, n_layers, n_heads), np.float32)
    weights[0, list(grounding.layers)] = 1
    weights[1, [layer for layer, _ in grounding.heads], [head for _, head in grounding.heads]] = 1
    weights[2], weights[3, 0] = 1, 1
    weights /= weights.sum(axis=(1, 2), keepdims=True)
    return weights
