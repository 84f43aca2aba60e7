"""Claims about the figures: what is drawn is what the table says, with units, bands named, and grey-safe styles."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from dontblink.figures import plots
from dontblink.questions.items import Box

MODELS, BENCHMARKS = ("glm", "qwen-m", "qwen-s"), ("hallucination", "symbolic", "visual_reference")


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def curves() -> pd.DataFrame:
    rows = [
        {
            "model": m,
            "benchmark": b,
            "head_set": "grounding_layers",
            "quantity": q,
            "bin": k,
            "estimate": 0.3 - 0.02 * k,
            "ci_low": 0.28 - 0.02 * k,
            "ci_high": 0.33 - 0.02 * k,
        }
        for m in MODELS
        for b in BENCHMARKS
        for q in ("evidence", "visual")
        for k in range(10)
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def table() -> pd.DataFrame:
    rows = [
        {
            "model": m,
            "benchmark": b,
            "head_set": "grounding_layers",
            "quantity": q,
            "estimate": value,
            "ci_low": value - 0.1,
            "ci_high": value + 0.05,
            "p_holm": 0.01 if m == "glm" else 0.2,
        }
        for k, m in enumerate(MODELS)
        for b in BENCHMARKS
        for q, value in (("evidence", 0.7 - 0.1 * k), ("control_box", 0.2), ("prompt", 0.1), ("uniform", 0.3))
    ]
    return pd.DataFrame(rows)


@pytest.fixture
def items() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {
            "model": m,
            "benchmark": b,
            "correct": k % 4 > 0,
            "n_response_tokens": 20 + k,
            "noise_level": rng.random(),
            "finish_reason": "length" if k == 0 else "stop",
        }
        for m in MODELS
        for b in BENCHMARKS
        for k in range(40)
    ]
    return pd.DataFrame(rows)


def test_models_differ_in_lightness_line_and_marker() -> None:
    styles = list(plots.style_models(MODELS).values())
    lightness = [np.dot(to_rgb(style["color"]), (0.299, 0.587, 0.114)) for style in styles]
    assert np.diff(sorted(lightness)).min() > 0.15
    assert len({str(style["linestyle"]) for style in styles}) == len({style["marker"] for style in styles}) == 3


def test_style_of_a_model_does_not_depend_on_the_row_order() -> None:
    assert plots.style_models(MODELS) == plots.style_models(MODELS[::-1])


def test_curve_draws_the_estimates_at_bin_centres_with_units_and_band(curves: pd.DataFrame) -> None:
    figure, ax = plt.subplots(layout="constrained")
    assert plots.collapse_curves(ax, curves[curves["benchmark"] == "symbolic"]) is ax
    x, y = ax.lines[0].get_data()
    assert np.allclose(x, np.arange(5, 100, 10)) and np.allclose(y, 0.3 - 0.02 * np.arange(10))
    assert len(ax.lines) == 3 == len(ax.collections)
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0.1) and band[:, 1].max() == pytest.approx(0.33)
    assert ax.get_xlabel().endswith("(%)") and "share of attention" in ax.get_ylabel()
    assert "95% cluster bootstrap" in figure.legends[0].get_title().get_text()


def test_curve_of_steps_counts_steps_from_one(curves: pd.DataFrame) -> None:
    rows = curves[curves["benchmark"] == "symbolic"].rename(columns={"bin": "step_index"})
    ax = plots.collapse_curves(plt.figure(layout="constrained").subplots(), rows, position="step_index")
    assert ax.lines[0].get_xdata()[0] == 1 and "number" in ax.get_xlabel()


def test_curves_of_two_benchmarks_in_one_panel_are_refused(curves: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="benchmark: .*expected exactly one"):
        plots.collapse_curves(plt.figure().subplots(), curves)


def test_grid_has_a_row_per_quantity_a_column_per_benchmark_and_one_legend(curves: pd.DataFrame) -> None:
    figure = plots.curve_grid(curves, ["evidence", "visual"])
    assert len(figure.axes) == 6 and len(figure.legends) == 1
    assert [ax.get_title() for ax in figure.axes[:3]] == list(BENCHMARKS)


def test_forest_draws_every_cell_with_its_interval_and_hollow_controls(table: pd.DataFrame) -> None:
    ax = plots.collapse_forest(plt.figure().subplots(), table)
    bars = ax.containers[0]
    segments = sorted(tuple(segment[:, 0]) for segment in bars[2][0].get_segments())
    evidence = table[table["quantity"] == "evidence"]
    assert np.allclose(segments, sorted(zip(evidence["ci_low"], evidence["ci_high"], strict=True)))
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "none" and len(line.get_xdata()) == 9]
    assert len(hollow) == 3
    assert "share" in ax.get_xlabel() and "95% bootstrap" in ax.get_xlabel()
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == [name for b in BENCHMARKS for name in (b, *MODELS)]


def test_forest_shares_its_rows_between_panels(table: pd.DataFrame) -> None:
    axes = plt.figure(layout="constrained").subplots(1, 2, sharey=True)
    for ax in axes:
        plots.collapse_forest(ax, table, controls=["prompt"])
    assert axes[0].get_ylim() == axes[1].get_ylim()


def test_accuracy_panel_shows_percent_and_wilson_intervals(items: pd.DataFrame) -> None:
    ax = plots.accuracy_panel(plt.figure().subplots(), items)
    points, _, (segments,) = ax.containers[0]
    assert np.allclose(points.get_ydata(), 75)
    low, high = segments.get_segments()[0][:, 1]
    z, n, p = 1.959964, 40, 0.75
    centre, reach = (
        (p + z**2 / (2 * n)) / (1 + z**2 / n),
        z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n),
    )
    assert (low, high) == (
        pytest.approx(100 * (centre - reach), abs=1e-3),
        pytest.approx(100 * (centre + reach), abs=1e-3),
    )
    assert "%" in ax.get_ylabel() and "Wilson" in ax.get_legend().get_title().get_text()


def test_length_panel_names_its_boxes_and_unit(items: pd.DataFrame) -> None:
    ax = plots.length_panel(plt.figure().subplots(), items)
    assert "tokens" in ax.get_ylabel() and "quartiles" in ax.get_legend().get_title().get_text()


def test_finish_panel_counts_what_did_not_stop(items: pd.DataFrame) -> None:
    ax = plots.finish_panel(plt.figure().subplots(), items)
    assert [text.get_text() for text in ax.texts] == ["1"] * 9
    assert {round(patch.get_width(), 6) for patch in ax.patches} == {97.5, 2.5}


def test_no_panel_of_the_grid_cuts_a_curve_that_is_higher_than_the_first() -> None:
    rows = pd.DataFrame({"benchmark": ["a"] * 3 + ["b"] * 3, "bin": [0, 1, 2] * 2, "estimate": [0.2] * 3 + [0.8] * 3})
    rows = rows.assign(
        model="m", head_set="g", quantity="visual", ci_low=rows["estimate"] - 0.1, ci_high=rows["estimate"] + 0.1
    )
    figure = plots.curve_grid(rows, ["visual"])
    assert all(ax.get_ylim()[1] >= 0.9 for ax in figure.axes)


def test_noise_panel_has_a_line_per_benchmark(items: pd.DataFrame) -> None:
    ax = plots.noise_panel(plt.figure().subplots(), items)
    assert len(ax.lines) == 3 and all(len(line.get_xdata()) == 5 for line in ax.lines)


@pytest.mark.parametrize(("x", "unit"), [("n_samples", "samples (thousands)"), ("step", "steps (thousands)")])
def test_learning_curves_name_their_unit(x: str, unit: str) -> None:
    history = pd.DataFrame(
        {"model": ["a", "a", "b", "b"], x: [2000, 1000, 1000, 2000], "accuracy": [0.6, 0.5, 0.3, 0.4]}
    )
    ax = plots.learning_curves(plt.figure().subplots(), history, x=x, legend=False)
    assert unit in ax.get_xlabel() and ax.get_legend() is None
    assert np.allclose(ax.lines[0].get_xdata(), [1, 2])
    assert np.allclose(ax.lines[0].get_ydata(), [0.5, 0.6])


def test_head_map_is_a_ratio_of_means_with_the_chosen_head_framed() -> None:
    heads = pd.DataFrame([
        {"model": "m", "item_id": i, "layer": layer, "head": head, "evidence_mass": e, "visual_mass": v,
         "evidence_fraction": 0.1}
        for layer in range(2) for head in range(3) for i, e, v in (("a", 0.3, 0.5), ("b", 0.0, 0.1))
    ])  # fmt: skip
    ax = plots.head_lift_map(plt.figure(layout="constrained").subplots(), heads, [(1, 2)])
    assert np.allclose(ax.collections[0].get_array(), 0.3 / 0.06)
    assert {patch.get_xy() for patch in ax.patches} == {(2, 1)}
    with pytest.raises(ValueError, match="expected exactly one"):
        plots.head_lift_map(ax, pd.concat([heads, heads.assign(model="n")]))


def test_strip_shows_the_image_then_every_step_on_one_scale() -> None:
    maps = np.random.default_rng(0).random((7, 36)) * np.linspace(1, 0.1, 7)[:, None]
    image = np.full((96, 96, 3), 200, np.uint8)
    texts = [f"f{k} is {k} ." for k in range(7)]
    figure = plt.figure(figsize=(7, 3), layout="constrained")
    assert plots.evidence_strip(figure, image, [Box(0, 16, 32, 48, 64)], maps, texts, (6, 6), columns=4) is figure
    panels = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
    assert [ax.get_xlabel() for ax in panels[1:]] == [f"{k + 1}. f{k} is {k}" for k in range(7)]
    overlays = [ax.images[-1] for ax in panels[1:]]
    assert np.allclose([o.get_array().sum() for o in overlays], maps.sum(axis=1))
    assert {o.get_clim() for o in overlays} == {(0, maps.max())}
    box = panels[3].patches[-1]
    assert (box.get_xy(), box.get_width(), box.get_height()) == ((16, 32), 32, 32)


def test_strip_refuses_maps_of_another_grid() -> None:
    with pytest.raises(ValueError, match="a value for each token"):
        plots.evidence_strip(plt.figure(), np.zeros((8, 8, 3)), [], np.zeros((1, 36)), ["x"], (5, 6))


def test_functions_leave_the_global_style_alone(table: pd.DataFrame, items: pd.DataFrame, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    figure, (left, right) = plt.subplots(1, 2, layout="constrained")
    plots.collapse_forest(left, table)
    plots.length_panel(right, items)
    figure.savefig(tmp_path / "figure.png")
    assert dict(matplotlib.rcParams) == before
