"""Pictures of the testbed: a 6x6 grid of sprites, drawn in batches with a noise knob.

In: which sprite and colour stand in each cell, and a noise level. Out: 96x96 px RGB images, exactly the pixels
that a trained checkpoint saw in training and sees in the benchmark. One 16 px cell is one merged image token, so
the evidence box of a cell is exact. Nothing here may know a question or an answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

GRID = 6
CELL_PX = 16
IMAGE_PX = GRID * CELL_PX
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
COLOURS = ("red", "green", "blue", "orange", "purple", "cyan")
DIGITS = tuple("0123456789")
ARROWS = ("up", "down", "left", "right")
SPRITES = ("empty", *SHAPES, *DIGITS, *ARROWS)
SPRITE_INDEX = {name: index for index, name in enumerate(SPRITES)}
CELLS = tuple(f"{column}{row}" for row in range(1, GRID + 1) for column in "abcdef")
_RGB = {
    "red": (214, 39, 40), "green": (44, 150, 60), "blue": (45, 85, 215),
    "orange": (245, 145, 25), "purple": (140, 60, 175), "cyan": (40, 190, 200),
}  # fmt: skip
PALETTE = np.array([_RGB[name] for name in COLOURS], dtype=np.float32)
BACKGROUND = 250.0
_JITTERS = [(dx, dy) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
_DIGIT_ROWS = {
    "0": "01110 10001 10011 10101 11001 10001 01110", "1": "00100 01100 00100 00100 00100 00100 01110",
    "2": "01110 10001 00001 00110 01000 10000 11111", "3": "11110 00001 00001 01110 00001 00001 11110",
    "4": "00010 00110 01010 10010 11111 00010 00010", "5": "11111 10000 11110 00001 00001 10001 01110",
    "6": "00110 01000 10000 11110 10001 10001 01110", "7": "11111 00001 00010 00100 01000 01000 01000",
    "8": "01110 10001 10001 01110 10001 10001 01110", "9": "01110 10001 10001 01111 00001 00010 01100",
}  # fmt: skip


@dataclass(frozen=True)
class Scenes:
    """A batch of pictures before drawing: sprite and colour per cell and one noise level per picture.

    Attributes
    ----------
    sprite, colour : int8 arrays [n, 36], indices into SPRITES and COLOURS, cells in reading order
    noise_level : float32 array [n], 0 (clean) to 1
    """

    sprite: npt.NDArray[np.int8]
    colour: npt.NDArray[np.int8]
    noise_level: npt.NDArray[np.float32]


def describe_cell(sprite: int, colour: int) -> str:
    """Return the words that name a cell's content: `red circle`, `7`, `left` or `empty`."""
    name = SPRITES[sprite]
    return f"{COLOURS[colour]} {name}" if name in SHAPES else name


def cell_box(cell: int) -> tuple[float, float, float, float]:
    """Return the evidence box (x0, y0, x1, y1) in px of a cell given by its reading-order index."""
    row, column = divmod(cell, GRID)
    x0, y0 = column * CELL_PX, row * CELL_PX
    return float(x0), float(y0), float(x0 + CELL_PX), float(y0 + CELL_PX)


def _draw_mask(name: str) -> npt.NDArray[np.float32]:
    """Draw one sprite as a [16, 16] opacity mask, four times oversampled."""
    scale = 4
    canvas = Image.new("L", (CELL_PX * scale, CELL_PX * scale))
    pen = ImageDraw.Draw(canvas)

    def points(*pairs: tuple[float, float]) -> list[tuple[float, float]]:
        return [(x * scale, y * scale) for x, y in pairs]

    if name in DIGITS:
        for y, row in enumerate(_DIGIT_ROWS[name].split()):
            for x, bit in enumerate(row):
                if bit == "1":
                    pen.rectangle(
                        (*points((3 + 2 * x, 1 + 2 * y))[0], *(v - 1 for v in points((5 + 2 * x, 3 + 2 * y))[0])), 255
                    )
    elif name in ARROWS:
        up = points((8, 1), (14, 8), (10, 8), (10, 15), (6, 15), (6, 8), (2, 8))
        pen.polygon(up, 255)
        turn = {"up": 0, "left": 90, "down": 180, "right": 270}[name]
        canvas = canvas.rotate(turn)
    elif name == "circle":
        pen.ellipse((*points((2, 2))[0], *points((14, 14))[0]), 255)
    elif name == "ring":
        pen.ellipse((*points((2, 2))[0], *points((14, 14))[0]), 255)
        pen.ellipse((*points((5, 5))[0], *points((11, 11))[0]), 0)
    elif name == "square":
        pen.rectangle((*points((3, 3))[0], *points((13, 13))[0]), 255)
    elif name == "triangle":
        pen.polygon(points((8, 2), (14, 14), (2, 14)), 255)
    elif name == "diamond":
        pen.polygon(points((8, 1), (15, 8), (8, 15), (1, 8)), 255)
    elif name == "cross":
        pen.rectangle((*points((6, 2))[0], *points((10, 14))[0]), 255)
        pen.rectangle((*points((2, 6))[0], *points((14, 10))[0]), 255)
    small = canvas.resize((CELL_PX, CELL_PX), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / np.float32(255)


@lru_cache(maxsize=1)
def _mask_bank() -> npt.NDArray[np.float32]:
    """Return opacity masks [n_sprites, 9 jitters, 16, 16]."""
    masks = [_draw_mask(name) for name in SPRITES]
    return np.stack([[np.roll(mask, (dy, dx), (0, 1)) for dx, dy in _JITTERS] for mask in masks])


def draw(scenes: Scenes, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw the pictures.

    The noise level scales four independent disturbances of each cell: fading, a tint towards another colour, an
    occluding bar, and pixel noise. At level 0 only the 1 px jitter remains.

    Returns
    -------
    uint8 array [n, 96, 96, 3]
    """
    n, cells = scenes.sprite.shape
    level = scenes.noise_level.astype(np.float32)[:, None]
    opacity = _mask_bank()[scenes.sprite, rng.integers(0, len(_JITTERS), (n, cells))]
    opacity = opacity * (1 - 0.9 * level * rng.random((n, cells), dtype=np.float32))[..., None, None]
    opacity = opacity * _visible(level, n, cells, rng)
    tint = 0.75 * level * rng.random((n, cells), dtype=np.float32)
    other = PALETTE[rng.integers(0, len(COLOURS), (n, cells))]
    ink = PALETTE[scenes.colour] * (1 - tint[..., None]) + other * tint[..., None]
    pixels = BACKGROUND + opacity[..., None] * (ink[:, :, None, None, :] - BACKGROUND)
    pixels = pixels.reshape(n, GRID, GRID, CELL_PX, CELL_PX, 3).transpose(0, 1, 3, 2, 4, 5)
    pixels = pixels.reshape(n, IMAGE_PX, IMAGE_PX, 3)
    grain = rng.standard_normal(pixels.shape, dtype=np.float32) * (30 * level[:, :, None, None])
    return np.clip(np.rint(pixels + grain), 0, 255).astype(np.uint8)


def _visible(level: npt.NDArray[np.float32], n: int, cells: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return 0/1 masks [n, cells, 16, 16] with a bar of up to 11 px hidden in a share of the cells."""
    width = rng.integers(2, 12, (n, cells)) * (rng.random((n, cells)) < 0.8 * level)
    start = rng.integers(0, CELL_PX, (n, cells))
    line = np.arange(CELL_PX)
    hidden = (line >= start[..., None]) & (line < (start + width)[..., None])
    upright = rng.random((n, cells)) < 0.5
    bars = np.where(upright[..., None, None], hidden[..., None, :], hidden[..., :, None])
    return 1 - bars.astype(np.float32)
