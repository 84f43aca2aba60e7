"""A study too small for any estimate is named with its counts, before anything is computed."""

from __future__ import annotations

import pandas as pd
import pytest

from dontblink.studies.cells import EstimateError, require_cells


def make_items(**cells: tuple[int, int]) -> pd.DataFrame:
    """Rows of cells named after their benchmark: (items, correct ones) each."""
    return pd.concat([
        pd.DataFrame({"model": "m", "benchmark": name, "correct": [k < right for k in range(n)]})
        for name, (n, right) in cells.items()
    ])  # fmt: skip


def test_one_cell_that_can_carry_an_estimate_is_enough() -> None:
    require_cells(make_items(large=(20, 8), small=(3, 1)), 20, 8)


@pytest.mark.parametrize("cells", [{"large": (19, 9)}, {"large": (40, 3)}, {"large": (40, 37)}, {"large": (40, 40)}])
def test_too_few_items_of_either_kind_are_an_error_with_the_counts(cells: dict[str, tuple[int, int]]) -> None:
    n, right = cells["large"]
    with pytest.raises(EstimateError, match=rf"no cell has 20 measured items with 4 .* \(m x large has {n}, {right} corr"):
        require_cells(make_items(**cells), 20, 4)
