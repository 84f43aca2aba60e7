"""A small monitor by hand: stages of 2 and 4 tokens, a window of 3, two models that no checkpoint is."""

from __future__ import annotations

from dontblink.studies.risk import Known, Line, Monitor, Scale, Signals, Stage


def build_monitor() -> Monitor:
    """Return a monitor whose numbers are easy to compute with."""
    own, other = Signals(Scale(1.0, 0.5), Scale(0.3, 0.1)), Signals(Scale(0.5, 0.25), Scale(0.2, 0.2))
    first = Stage(2, (0.5, 0.25, 1.0, -0.5), 0.1, (-3.0, -3.0, -3.0, -3.0), (3.0, 3.0, 3.0, 3.0))
    second = Stage(4, (1.0, 0.0, 0.5, 0.0), -0.2, (-2.0, -2.0, -2.0, -2.0), (2.0, 2.0, 2.0, 2.0))
    return Monitor(
        (first, second), Line((0.8, -0.6, 0.5, -0.4, 0.3), -1.0), sure=0.5, least_look=-0.5, least_need=0.6,
        models={"a": Known("qwen3_vl", 10, own), "b": Known("glm4v", 20, other)},
        pooled=Signals(Scale(0.75, 0.4), Scale(0.25, 0.15)), benchmarks=("first", "second"), n_items=100,
        window_tokens=3,
    )  # fmt: skip
