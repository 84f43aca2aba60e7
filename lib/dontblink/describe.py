"""A figure in words: what a reader hears who cannot see it.

Why it exists: every picture of the pages needs a text that says what it shows, and a text typed by hand would soon
describe last month's figure. In: a matplotlib figure that is finished. Out: one line of text, from its own titles,
axis labels, legends and colour bars. Never: say what a figure means (its notebook does), or change it.
"""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.figure import Figure

from dontblink.messages import make_printable


def describe_figure(figure: Figure) -> str:
    """Return one line that says what a figure shows: its panels, axes, legend entries and colour bars.

    A text that several panels share is said once, in the order in which the panels were made.
    """
    drawn = [ax for ax in figure.axes if ax.axison or ax.get_title()]
    bars = [ax for ax in drawn if ax.get_label() == "<colorbar>"]
    panels = [ax for ax in drawn if ax not in bars]
    legends = [*figure.legends, *(legend for ax in panels if (legend := ax.get_legend()) is not None)]
    parts = {
        "": [figure.get_suptitle()],
        "titles": [ax.get_title(loc) for ax in panels for loc in ("left", "center", "right")],
        "horizontally": [figure.get_supxlabel(), *(ax.get_xlabel() for ax in panels)],
        "vertically": [figure.get_supylabel(), *(ax.get_ylabel() for ax in panels)],
        "legend": [text.get_text() for legend in legends for text in (legend.get_title(), *legend.get_texts())],
        "colour": [text for ax in bars for text in (ax.get_ylabel(), ax.get_xlabel())],
    }
    said = [f"{name}: {words}" if name else words for name, texts in parts.items() if (words := _join(texts))]
    return f"{len(panels)} panel{'' if len(panels) == 1 else 's'}. {'; '.join(said)}".rstrip()


def _join(texts: Iterable[str]) -> str:
    whole = dict.fromkeys(make_printable(" ".join(text.split()).replace(r"\$", "$")) for text in texts)
    return ", ".join(text for text in whole if text and text != "None")
