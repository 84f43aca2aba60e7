"""Claims about the pictures: every step on one scale, boxes where they are, texts as they stand."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from dontblink.figures import picture
from dontblink.questions.items import Box


def test_strip_shows_the_image_then_every_step_on_one_scale() -> None:
    maps = np.random.default_rng(0).random((7, 36)) * np.linspace(1, 0.1, 7)[:, None]
    image = np.full((96, 96, 3), 200, np.uint8)
    texts = [f"f{k} is {k} ." for k in range(7)]
    figure = plt.figure(figsize=(7, 3), layout="constrained")
    assert picture.evidence_strip(figure, image, [Box(0, 16, 32, 48, 64)], maps, texts, (6, 6), columns=4) is figure
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    assert [ax.get_xlabel() for ax in panels[1:]] == [f"{k + 1}. f{k} is {k}" for k in range(7)]
    overlays = [ax.images[-1] for ax in panels[1:]]
    assert np.allclose([o.get_array().sum() for o in overlays], maps.sum(axis=1))
    assert {o.get_clim() for o in overlays} == {(0, maps.max())}
    box = panels[3].patches[-1]
    assert (box.get_xy(), box.get_width(), box.get_height()) == ((16, 32), 32, 32)
    plt.close(figure)


def test_strip_refuses_maps_of_another_grid() -> None:
    with pytest.raises(ValueError, match="a value for each token"):
        picture.evidence_strip(plt.figure(), np.zeros((8, 8, 3)), [], np.zeros((1, 36)), ["x"], (5, 6))
