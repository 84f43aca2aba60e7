"""The picture that people look at first: an image, its evidence, and where the reasoning looks, step by step.

Why: a mass is believed once it has been seen. In: one image, its boxes, the step maps of one response
averaged over a head set, the steps' texts. Out: the axes or figure that was passed in. Never: rescale a panel
on its own (all steps share one scale, so that a fading look fades), smooth a map, or pick the steps to show.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, FigureBase
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from dontblink.errors import make_printable
from dontblink.figures.style import COLOUR_MAP
from dontblink.questions.items import Box

PER_TOKEN = "attention mass\nper image token"


def wrap(text: str, width: int) -> str:
    """Break a text into lines of at most `width` letters, between words where there is a choice.

    Matplotlib shows it as it stands: `$x$` of a question or a step is no formula, and half a one no error.
    """
    return textwrap.fill(make_printable(text), max(1, width)).replace("$", r"\$")


def picture_with_boxes(ax: Axes, image: Any, boxes: Sequence[Box]) -> Axes:
    """Draw an image (PIL, or array [height, width(, 3)]) and its evidence boxes (px)."""
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    ax.imshow(pixels, extent=(0, width, height, 0), interpolation="nearest", cmap="gray", vmin=0, vmax=255)
    for box in boxes:
        for colour, line in (("white", 2.6), ("black", 1.2)):
            corner, size = (box.x0, box.y0), (box.x1 - box.x0, box.y1 - box.y0)
            ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=line))
    ax.set(xticks=[], yticks=[], frame_on=False)
    return ax


def evidence_strip(
    fig: Figure,
    image: Any,
    boxes: Sequence[Box],
    step_maps: NDArray[Any],
    step_texts: Sequence[str],
    grid: tuple[int, int],
    *,
    columns: int = 6,
) -> Figure:
    """Draw the image with its evidence boxes, then the attention of successive reasoning steps over it.

    `boxes` are in px of the image; `step_maps` float[S, rows * columns] is the attention mass per image token, on one
    scale for all steps; `grid` is (rows, columns) of image tokens. A chain of more than `columns` panels goes on below.
    """
    if len(step_maps) != len(step_texts) or np.shape(step_maps)[-1] != grid[0] * grid[1]:
        raise ValueError(
            f"maps {np.shape(step_maps)}, {len(step_texts)} texts, grid {grid}; expected a text "
            "for each map and a value for each token"
        )
    pixels = np.asarray(image)[..., :3]
    n_panels = len(step_maps) + 1
    panels = fig.subplots(-(-n_panels // columns), min(columns, n_panels), squeeze=False).ravel()
    letter = 0.56 * mpl.rcParams["font.size"] / 72  # inches, on average
    letters = int(0.85 * fig.get_figwidth() / min(columns, n_panels) / letter)
    for ax in panels[n_panels:]:
        ax.set_axis_off()
    picture_with_boxes(panels[0], pixels, boxes).set_xlabel(wrap("image, evidence framed", letters))
    for k, (ax, step_map, text) in enumerate(zip(panels[1:], step_maps, step_texts, strict=False), start=1):
        shown = lay_over(ax, pixels, boxes, np.reshape(step_map, grid), np.max(step_maps))
        ax.set_xlabel(wrap(f"{k}. {text.strip(' .')}", letters))
    if n_panels > 1:
        fig.colorbar(shown, ax=list(panels), label=PER_TOKEN, shrink=0.8, pad=0.02)
    return fig


def lay_over(ax: Axes, pixels: NDArray[Any], boxes: Sequence[Box], attention: NDArray[Any], most: float) -> AxesImage:
    """Draw attention [rows, columns] of image tokens, 0 to `most`, over an image in greys; return what has a scale."""
    picture_with_boxes(ax, pixels.mean(axis=-1), boxes)
    height, width = pixels.shape[:2]
    return ax.imshow(
        attention, cmap=COLOUR_MAP, vmin=0, vmax=most, alpha=0.8, extent=(0, width, height, 0), interpolation="nearest"
    )


def watched_tokens(
    fig: Figure, tokens: pd.DataFrame, image: Any = None, boxes: Sequence[Box] = (),
    attention: NDArray[Any] | None = None,
) -> Figure:  # fmt: skip
    """Draw what the tokens of a response show so far: where they looked on average, and their numbers one by one.

    `tokens` has a row a token: `visual_mass`, `evidence_mass` (NaN is not drawn), `entropy_nats`, and with a monitor
    `need`, `risk`, `is_blind`. `attention` float [rows, columns] of image tokens lies over the image, if there is one.
    """
    panels = {
        "attention mass": {"visual_mass": "image", "evidence_mass": "evidence"},
        "entropy (nats)": {"entropy_nats": "entropy"}, "probability": {"risk": "risk", "need": "need"},
    }  # fmt: skip
    panels = {label: named for label, named in panels.items() if {*named} <= {*tokens}}
    right: FigureBase = fig
    if image is not None and attention is not None:
        left, right = fig.subfigures(1, 2, squeeze=False, width_ratios=(1, 1.6))[0]
        ax = left.subplots()
        shown = lay_over(ax, np.asarray(image)[..., :3], boxes, attention, float(attention.max()))
        left.colorbar(shown, ax=ax, label=PER_TOKEN, location="bottom", shrink=0.8)
        ax.set_xlabel(f"mean of {len(tokens)} tokens")
    axes = right.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for ax, (label, named) in zip(axes, panels.items(), strict=True):
        for name, text in named.items():
            if tokens[name].notna().any():
                ax.plot(tokens[name], label=text)
        ax.set(ylabel=label, ylim=(0, 1) if label == "probability" else (0, None))
    if "is_blind" in tokens and tokens["is_blind"].any():
        blind = np.flatnonzero(tokens["is_blind"])
        axes[-1].plot(blind, np.full(len(blind), 0.03), "kx", label="blind")
    for ax in axes:
        ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    axes[-1].set_xlabel("token of the response")
    return fig
