"""Claims about the choice of grounding layers and heads, and about the weights of the head sets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from dontblink.attention.grounding import Grounding, select_grounding, weigh_heads
from dontblink.errors import NamedError


def test_head_weights_of_each_set_sum_to_one() -> None:
    weights = weigh_heads(Grounding((1,), ((1, 2),), (1.0, 2.0), 10), 2, 3)
    assert weights.shape == (4, 2, 3) and np.allclose(weights.sum(axis=(1, 2)), 1)


def heads_with_lift(best: tuple[int, int], split: str = "calibration", model: str = "m") -> pd.DataFrame:
    rows = [
        {
            "model": model,
            "split": split,
            "item_id": f"i{i}",
            "layer": layer,
            "head": head,
            "visual_mass": 0.4,
            "evidence_mass": 0.3 if (layer, head) == best else 0.04,
            "evidence_fraction": 0.1,
            "evidence_lift": 0.0,
        }
        for i in range(5)
        for layer in range(4)
        for head in range(2)
    ]
    return pd.DataFrame(rows)


def test_grounding_is_where_the_lift_is_largest_in_each_model() -> None:
    heads = pd.concat([heads_with_lift((2, 1)), heads_with_lift((0, 0), model="n")])
    chosen = select_grounding(heads, 1, 1)
    assert chosen["m"].layers == (2,) and chosen["m"].heads == ((2, 1),) and chosen["m"].n_items == 5
    assert chosen["n"].layers == (0,) and chosen["n"].layer_lift[0] == pytest.approx((0.3 + 0.04) / 0.08)


def test_grounding_refuses_test_items_and_more_layers_than_there_are() -> None:
    calibration = heads_with_lift((2, 1))
    with pytest.raises(NamedError, match="test split"):
        select_grounding(pd.concat([calibration, heads_with_lift((2, 1), "test")]), 1, 1)
    with pytest.raises(NamedError, match="5 layers and 1 heads asked of 4 and 8"):
        select_grounding(calibration, 5, 1)
