"""The one look of every figure: colours, lines and markers that a grey printer keeps apart, and the style file.

Why it exists: a model looks the same in every figure, and figures look the same on every machine. In: names. Out:
colours, line styles, markers, and the path of dontblink.mplstyle. Never: set a style globally (`record` does).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd

STYLE = Path(__file__).with_name("dontblink.mplstyle")
COLOUR_MAP = "cividis"
SHADES = (0.0, 0.45, 0.78, 0.2, 0.62)  # along the colour map: far apart in lightness too
MARKERS = ("o", "s", "^", "D", "v")
LINES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), "-.", (0, (6, 1, 1, 1, 1, 1)))
HATCHES = ("", "////", "....", "xxxx", "----")


def shade(share: float) -> Any:
    """Return the colour at a share of the colour map, from 0 (dark) to 1."""
    return mpl.colormaps[COLOUR_MAP](share)


def style_models(models: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return colour, line style and marker for each model, by sorted name, so that figures agree."""
    looks = [{"color": shade(a), "linestyle": b, "marker": c} for a, b, c in zip(SHADES, LINES, MARKERS, strict=True)]
    return {model: looks[k % len(looks)] for k, model in enumerate(sorted(set(models)))}


def expect_one(rows: pd.DataFrame, *columns: str) -> None:
    """Raise ValueError unless each column holds exactly one value: a panel shows one thing."""
    for column in columns:
        if rows[column].nunique() != 1:
            found = sorted(map(str, rows[column].unique()))
            raise ValueError(f"{column}: {found}; expected exactly one, filter the rows")
