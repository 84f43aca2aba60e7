"""A figure says in words what is on it, once, and in the order in which it was drawn."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from dontblink.figures import plots
from dontblink.publish.record import describe_figure
from dontblink.questions.items import Box


@pytest.fixture
def panels() -> Figure:
    figure, axes = plt.subplots(1, 3, sharey=True)
    for ax, title in zip(axes, ("symbolic", "visual", "off"), strict=True):
        ax.plot([0, 1], label="glm")
        ax.set(xlabel="position\nin the reasoning (%)", title=title if title != "off" else "")
    axes[0].set_ylabel("mass (share)")
    axes[2].set_axis_off()
    axes[1].legend(title="model")
    figure.suptitle("It falls")
    return figure


def test_titles_labels_and_legends_are_said_once_and_empty_panels_are_not_counted(panels: Figure) -> None:
    assert describe_figure(panels) == (
        "2 panels. It falls; titles: symbolic, visual; horizontally: position in the reasoning (%); "
        "vertically: mass (share); legend: model, glm"
    )


def test_a_colour_bar_is_no_panel() -> None:
    figure, ax = plt.subplots()
    figure.colorbar(ax.imshow([[0, 1]]), label="attention")
    assert describe_figure(figure) == "1 panel. colour: attention"


def test_a_figure_without_words_has_its_count() -> None:
    assert describe_figure(plt.figure()) == "0 panels."


def test_the_evidence_strip_says_its_steps() -> None:
    strip = plots.evidence_strip(
        plt.figure(), np.zeros((4, 4, 3)), [Box(0, 0, 0, 2, 2)], np.eye(2, 4), ["a1 is 3 .", "so 3 ."], (2, 2)
    )
    assert describe_figure(strip) == (
        "3 panels. horizontally: image, evidence framed, 1. a1 is 3, 2. so 3; colour: attention mass per image token"
    )


def test_the_figure_is_left_as_it_was(panels: Figure) -> None:
    panels.canvas.draw()
    before = np.asarray(panels.canvas.buffer_rgba()).copy()
    describe_figure(panels)
    panels.canvas.draw()
    np.testing.assert_array_equal(np.asarray(panels.canvas.buffer_rgba()), before)


@pytest.fixture(autouse=True)
def _close() -> object:
    yield
    plt.close("all")
