"""Claims about the charts: what is drawn is what the table says, with units, named intervals and grey-safe styles."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer

from dontblink.figures import charts, style
from dontblink.publish import claims
from dontblink.publish.numbers import Numbers
from dontblink.studies import veto

MODELS, BENCHMARKS = ("glm", "qwen-m", "qwen-s"), ("hallucination", "symbolic", "visual_reference")
LEDGER = Numbers("testbed").read(claims.STEM)["claims"]
TESTED = [name for name, claim in LEDGER.items() if claim["tested"]]


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    with plt.style.context(style.STYLE):
        yield
    plt.close("all")


@pytest.fixture
def ax() -> Axes:
    return plt.figure(layout="constrained").subplots()


def lightness(colour: object) -> float:
    return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))  # type: ignore[arg-type]


@pytest.fixture
def curves() -> pd.DataFrame:
    keys = [(m, b, q, k) for m in MODELS for b in BENCHMARKS for q in ("evidence", "visual") for k in range(10)]
    table = pd.DataFrame(keys, columns=["model", "benchmark", "quantity", "bin"]).assign(head_set="grounding_layers")
    estimate = 0.3 - 0.02 * table["bin"]
    return table.assign(estimate=estimate, ci_low=estimate - 0.02, ci_high=estimate + 0.03)


@pytest.fixture
def cells() -> dict[str, pd.DataFrame]:
    """Tables of the evidence and of three controls, a row a cell."""
    keys = pd.DataFrame([(m, b) for m in MODELS for b in BENCHMARKS], columns=["model", "benchmark"])
    falls = {"evidence": 0.7 - 0.02 * keys.index, "control_box": 0.2, "prompt": 0.1, "uniform": 0.3}
    tables = {name: keys.assign(quantity=name, estimate=value) for name, value in falls.items()}
    return {name: t.assign(ci_low=t["estimate"] - 0.1, ci_high=t["estimate"] + 0.05) for name, t in tables.items()}


@pytest.fixture
def items() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    keys = [(m, b, k) for m in MODELS for b in BENCHMARKS for k in range(40)]
    table = pd.DataFrame(keys, columns=["model", "benchmark", "k"])
    return table.assign(
        correct=table["k"] % 4 > 0, n_response_tokens=20 + table["k"], noise_level=rng.random(len(table)),
        finish_reason=np.where(table["k"] == 0, "length", "stop"),
    )  # fmt: skip


@pytest.fixture
def scopes() -> pd.DataFrame:
    keys = [("cell", m, b) for b in BENCHMARKS for m in MODELS]
    keys += [("benchmark", "all", b) for b in BENCHMARKS] + [("pooled", "all", "all")]
    table = pd.DataFrame(keys, columns=["scope", "model", "benchmark"])
    x = np.linspace(-0.5, 0.4, len(table))
    return table.assign(estimate=x, ci_low=x - 0.2, ci_high=x + 0.3, null_high=0.1)


@pytest.fixture
def risks() -> pd.DataFrame:
    rows = [
        {
            "scope": "pooled", "model": "all", "benchmark": "all", "rule": rule, "coverage": c, "realised_coverage": c,
            "risk": c * (0.1 + 0.05 * k), "risk_low": c * (0.08 + 0.05 * k), "risk_high": c * (0.13 + 0.05 * k),
        }
        for k, rule in enumerate(reversed(veto.RULES))
        for c in (0.5, 0.7, 0.9, 1.0)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def quadrants() -> pd.DataFrame:
    rows = [
        ("low", "low", 20, 8, 0.4, 0.2, 0.6), ("low", "high", 80, 8, 0.1, 0.05, 0.2),
        ("high", "low", 70, 42, 0.6, 0.5, 0.7), ("high", "high", 0, 0, np.nan, 0.0, 1.0),
    ]  # fmt: skip
    names = ["entropy_level", "vision_level", "n", "n_quadrant_wrong", "risk", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=names).assign(scope="cell", model="glm", benchmark="symbolic")


def transfer(value: float = 0.05) -> pd.DataFrame:
    rows = [
        {
            "train": a, "test": b, "rule": "linear", "model": "all", "auroc": 0.7, "ci_low": 0.65, "ci_high": 0.75,
            "gain": value * (j - 1), "gain_low": value * (j - 1) - 0.01, "gain_high": value * (j - 1) + 0.01,
        }
        for a in BENCHMARKS for j, b in enumerate(BENCHMARKS) if a != b
    ]  # fmt: skip
    return pd.DataFrame(rows)


def surface() -> pd.DataFrame:
    e, v = np.meshgrid(np.linspace(-2, 2, 21), np.linspace(-2, 2, 21))
    p = 1 / (1 + np.exp(-(1 - e + 0.4 * v - 0.3 * e * v)))
    rows = {"entropy_z": e.ravel(), "vision_z": v.ravel(), "probability": p.ravel(), "n_near": 9}
    return pd.DataFrame(rows).assign(scope="benchmark", model="all", benchmark="symbolic")


def reliability() -> pd.DataFrame:
    p = np.linspace(0.15, 0.95, 5)
    parts = [
        pd.DataFrame({"model": m, "mean_probability": p, "share_correct": p - 0.05 * k, "ci_low": p - 0.05 * k - 0.06,
                      "ci_high": np.minimum(1, p - 0.05 * k + 0.04)})
        for k, m in enumerate(MODELS)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def read_bars(ax: Axes) -> dict[float, tuple[float, float, float]]:
    """Return value and ends of the bars, by their height."""
    found = {}
    for bar in ax.containers:
        if isinstance(bar, ErrorbarContainer):
            x, y = bar.lines[0].get_xydata()[0]
            low, high = bar.lines[2][0].get_segments()[0][:, 0]
            found[round(float(y), 2)] = (float(x), float(low), float(high))
    return found


def test_models_differ_in_lightness_line_and_marker_whatever_their_order(ax: Axes) -> None:
    styles = list(style.style_models(MODELS).values())
    assert np.diff(sorted(lightness(look["color"]) for look in styles)).min() > 0.15
    assert len({str(look["linestyle"]) for look in styles}) == len({look["marker"] for look in styles}) == 3
    assert style.style_models(MODELS) == style.style_models(MODELS[::-1])


def test_forest_shows_each_benchmark_above_its_models_and_the_pooled_row_last(ax: Axes, scopes: pd.DataFrame) -> None:
    charts.forest(ax, scopes.sample(frac=1, random_state=0), label="x (unit)", scale=100)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names[:5] == ["hallucination", "glm", "qwen-m", "qwen-s", "symbolic"] and names[-1] == "pooled"
    assert [text.get_fontweight() == "bold" for text in ax.get_yticklabels()] == [True, False, False, False] * 3 + [
        True
    ]
    bars = read_bars(ax)
    assert sorted(bars) == list(range(13))
    assert bars[1] == pytest.approx((-50, -70, -20)) and bars[12] == pytest.approx((40, 20, 70))
    assert "(unit)" in ax.get_xlabel() and "95% bootstrap by item" in ax.get_xlabel()


def test_forest_draws_a_second_table_hollow_beneath_the_first(ax: Axes, scopes: pd.DataFrame) -> None:
    adjusted = scopes.assign(estimate=0.05, ci_low=0.0, ci_high=0.1).sample(frac=1, random_state=1)
    charts.forest(ax, scopes, label="x", beside=adjusted, zero=0.5)
    bars = read_bars(ax)
    assert bars[0.83][0] == pytest.approx(-0.5) and bars[1.17] == pytest.approx((0.05, 0.0, 0.1))
    faces = {bar.lines[0].get_markerfacecolor() for bar in ax.containers if bar.lines[0].get_ydata()[0] % 1 < 0.5}
    assert faces == {"white"} and len(bars) == 26
    assert any(list(line.get_xdata()) == [0.5, 0.5] for line in ax.lines)


def test_forest_marks_the_null_and_says_where_there_is_no_estimate(scopes: pd.DataFrame) -> None:
    scopes.loc[0, ["estimate", "ci_low", "ci_high"]] = np.nan
    ax = charts.forest(plt.figure().subplots(), scopes, label="x", null="null_high")
    marks = [line for line in ax.lines if line.get_marker() == "|" and len(line.get_xdata()) == 13]
    assert [line.get_xdata()[5] for line in marks] == [0.1] and "|: upper end of the null" in ax.get_xlabel()
    assert [text.get_text() for text in ax.texts] == ["no estimate"]
    ends = charts.forest(
        plt.figure().subplots(), scopes.assign(null_low=-0.2), label="x", null=("null_low", "null_high")
    )
    assert {(round(bar.get_x(), 9), round(bar.get_width(), 9)) for bar in ends.patches} == {(-0.2, 0.3)}
    assert "grey: the null" in ends.get_xlabel() and ends.get_xlim()[0] < -0.2


def test_forest_in_order_keeps_the_order_of_heads_and_rows(ax: Axes) -> None:
    rows = pd.DataFrame({
        "benchmark": ["z", "z", "a"], "model": ["second", "first", "first"], "estimate": [1.0, 2.0, 3.0],
        "ci_low": [0.0, 1.0, 2.0], "ci_high": [2.0, 3.0, 4.0],
    })  # fmt: skip
    charts.forest(ax, rows, label="x", in_order=True)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["z", "second", "first", "a", "first"]
    charts.forest(other := plt.figure().subplots(), rows, label="x")
    assert [text.get_text() for text in other.get_yticklabels()] == ["a", "first", "z", "first", "second"]


def test_specification_grid_sorts_each_curve_and_marks_the_choices_beneath_it() -> None:
    table = pd.DataFrame({
        "task_type": ["b"] * 4 + ["a"] * 4, "vision": ["x", "x", "y", "y"] * 2, "form": ["p", "q"] * 4,
        "estimate": [0.4, 0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3],
    })  # fmt: skip
    ends = pd.DataFrame({"place": range(4), "low": -0.5, "high": 0.5})
    bands = pd.concat([ends.assign(task_type=name) for name in "ab"])
    figure = charts.specification_grid(table, bands, ["vision", "form"], label="b_EV (log-odds)")
    first, second, marks, _ = figure.axes
    assert first.get_title() == "b\n50% below zero" and second.get_title() == "a\n0% below zero"
    assert np.allclose(first.lines[0].get_ydata(), [-0.2, -0.1, 0.3, 0.4])
    names = [text.get_text() for text in marks.get_yticklabels()]
    assert names == ["vision", "x", "y", "form", "p", "q"]
    expected = [[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1], [0, 1, 1, 0]]
    assert np.array_equal(marks.images[0].get_array(), expected)


def test_forest_of_two_terms_at_once_is_refused(ax: Axes, scopes: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="several rows"):
        charts.forest(ax, pd.concat([scopes, scopes]), label="x")


def test_forest_of_cells_has_heads_of_benchmarks_and_controls_as_hollow_marks(cells: dict[str, pd.DataFrame]) -> None:
    axes = plt.figure(layout="constrained").subplots(1, 2, sharey=True)
    controls = {words: cells[name] for name, words in charts.CONTROLS.items()}
    for ax, shown in zip(axes, (controls, {"prompt text": cells["prompt"]}), strict=True):
        charts.forest(ax, cells["evidence"], label="collapse (share)", controls=shown)
    names = [text.get_text() for text in axes[0].get_yticklabels()]
    assert names == [name for b in BENCHMARKS for name in (b, *MODELS)] and not axes[0].texts
    evidence, bars = cells["evidence"].set_index(["benchmark", "model"]), read_bars(axes[0])
    for place, (benchmark, model) in zip((1, 2, 3, 5, 6, 7, 9, 10, 11), sorted(evidence.index), strict=True):
        row = evidence.loc[benchmark, model]
        assert bars[place] == pytest.approx((row["estimate"], row["ci_low"], row["ci_high"]))
    hollow = [line for line in axes[0].lines if line.get_markerfacecolor() == "none" and len(line.get_xdata()) == 9]
    assert [set(line.get_xdata()) for line in hollow] == [{0.2}, {0.1}, {0.3}]
    legend = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert legend == ["evidence", "equal area elsewhere", "prompt text", "uniform look"]
    assert "95% bootstrap by item" in axes[0].get_xlabel() and axes[0].get_ylim() == axes[1].get_ylim()


def test_curve_draws_the_estimates_at_bin_centres_with_units_and_band(curves: pd.DataFrame) -> None:
    figure, ax = plt.subplots(layout="constrained")
    assert charts.collapse_curves(ax, curves[curves["benchmark"] == "symbolic"]) is ax
    x, y = ax.lines[0].get_data()
    assert np.allclose(x, np.arange(5, 100, 10)) and np.allclose(y, 0.3 - 0.02 * np.arange(10))
    assert len(ax.lines) == 3 == len(ax.collections)
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0.1) and band[:, 1].max() == pytest.approx(0.33)
    assert ax.get_xlabel().endswith("(%)") and "share of attention" in ax.get_ylabel()
    assert "95% cluster bootstrap" in figure.legends[0].get_title().get_text()


def test_curve_of_steps_counts_steps_from_one(ax: Axes, curves: pd.DataFrame) -> None:
    rows = curves[curves["benchmark"] == "symbolic"].rename(columns={"bin": "step_index"})
    charts.collapse_curves(ax, rows, position="step_index")
    assert ax.lines[0].get_xdata()[0] == 1 and "number" in ax.get_xlabel()


def test_curves_of_two_benchmarks_in_one_panel_are_refused(ax: Axes, curves: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="benchmark: .*expected exactly one"):
        charts.collapse_curves(ax, curves)


def test_grid_has_a_row_per_quantity_a_column_per_benchmark_and_one_legend(curves: pd.DataFrame) -> None:
    figure = charts.curve_grid(curves, ["evidence", "visual"])
    assert len(figure.axes) == 6 and len(figure.legends) == 1
    assert [ax.get_title() for ax in figure.axes[:3]] == list(BENCHMARKS)


def test_no_panel_of_the_grid_cuts_a_curve_that_is_higher_than_the_first(ax: Axes) -> None:
    rows = pd.DataFrame({"benchmark": ["a"] * 3 + ["b"] * 3, "bin": [0, 1, 2] * 2, "estimate": [0.2] * 3 + [0.8] * 3})
    rows = rows.assign(
        model="m", head_set="g", quantity="visual", ci_low=rows["estimate"] - 0.1, ci_high=rows["estimate"] + 0.1
    )
    figure = charts.curve_grid(rows, ["visual"])
    assert all(ax.get_ylim()[1] >= 0.9 for ax in figure.axes)


def test_transfer_map_places_fits_in_rows_and_brackets_what_may_be_zero(ax: Axes) -> None:
    charts.transfer_heat_map(ax, transfer())
    grid = ax.images[0].get_array()
    assert grid[1, 0] == pytest.approx(-0.05) and grid[0, 2] == pytest.approx(0.05) and np.ma.is_masked(grid[1, 1])
    assert ax.images[0].get_clim() == (pytest.approx(-0.05), pytest.approx(0.05))
    texts = {text.get_position(): text.get_text() for text in ax.texts}
    assert len(texts) == 6 and texts[(2, 0)] == "+0.050\n+0.040 to\n+0.060" and texts[(1, 0)].startswith("(+0.000)")
    assert ax.get_ylabel() == "fitted on" and "mean over models" in ax.get_title()


def test_transfer_map_shows_the_interval_with_refits_where_there_is_one(ax: Axes) -> None:
    table = transfer().assign(refit_gain_low=-0.2, refit_gain_high=0.1)
    charts.transfer_heat_map(ax, table, reach=0.3)
    assert all(text.get_text().startswith("(") and "-0.200 to" in text.get_text() for text in ax.texts)
    assert ax.images[0].get_clim() == (-0.3, 0.3)


def test_transfer_map_of_auroc_starts_at_chance(ax: Axes) -> None:
    charts.transfer_heat_map(ax, transfer(), "auroc")
    assert ax.images[0].get_clim() == (0.5, 1.0) and "0.650 to\n0.750" in ax.texts[0].get_text()


def test_surface_shows_percent_over_standard_deviations_and_needs_a_full_grid(ax: Axes) -> None:
    charts.interaction_surface(ax, surface())
    assert "sd" in ax.get_xlabel() and "sd" in ax.get_ylabel() and ax.get_title() == "symbolic"
    assert ax.collections[0].get_clim() == (0, 100)
    names = [text.get_text() for text in ax.texts if text.get_visible()]
    assert names and all(name.endswith(" %") for name in names)
    with pytest.raises(ValueError, match="full grid"):
        charts.interaction_surface(plt.figure().subplots(), surface().iloc[1:])
    with pytest.raises(ValueError, match="benchmark: .*expected exactly one"):
        both = pd.concat([surface(), surface().assign(benchmark="visual")])
        charts.interaction_surface(plt.figure().subplots(), both)


def test_surface_draws_nothing_where_no_answer_was_seen(ax: Axes) -> None:
    table = surface()
    unseen = table["entropy_z"] < 0
    charts.interaction_surface(ax, table.assign(n_near=np.where(unseen, 0, 9)))
    drawn = np.concatenate([path.vertices for path in ax.collections[0].get_paths() if len(path.vertices)])
    assert drawn[:, 0].min() == pytest.approx(0, abs=1e-9) and ax.get_xlim() == (-2, 2)
    assert ax.patch.get_hatch()


def test_risk_curves_differ_in_line_marker_and_lightness_and_have_bands(ax: Axes, risks: pd.DataFrame) -> None:
    charts.risk_coverage_curves(ax, risks)
    assert len(ax.lines) == 5 and len(ax.collections) == 2  # the bands of entropy and oracle
    assert len({(str(line.get_linestyle()), line.get_marker()) for line in ax.lines}) == 5
    light = sorted(float(np.dot(to_rgb(line.get_color()), (0.299, 0.587, 0.114))) for line in ax.lines)
    assert min(np.diff(light)) > 0.03
    veto_line = next(line for line in ax.lines if line.get_label() == "targeted veto")
    np.testing.assert_allclose(veto_line.get_ydata(), 100 * risks.query("rule == 'veto'")["risk"])
    assert "95% block jackknife" in ax.figure.legends[0].get_title().get_text()


def test_risk_curves_keep_a_rules_style_when_others_are_left_out(risks: pd.DataFrame) -> None:
    both, one = plt.figure(layout="constrained").subplots(1, 2)
    charts.risk_coverage_curves(both, risks)
    charts.risk_coverage_curves(one, risks, ["veto"])
    found = next(line for line in both.lines if line.get_label() == "targeted veto")
    assert (one.lines[0].get_color(), one.lines[0].get_marker()) == (found.get_color(), found.get_marker())


def test_risk_curves_of_two_scopes_are_refused(ax: Axes, risks: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="scope: .*expected exactly one"):
        charts.risk_coverage_curves(ax, pd.concat([risks, risks.assign(scope="cell")]))


def test_quadrants_show_counts_and_an_empty_one_has_no_bar(ax: Axes, quadrants: pd.DataFrame) -> None:
    charts.quadrant_risk(ax, quadrants)
    assert "95% Wilson" in ax.figure.legends[0].get_title().get_text()
    assert sorted(text.get_text() for text in ax.texts) == ["0/0", "42/70", "8/20", "8/80"]
    heights = [bar.get_height() for bar in ax.patches]
    assert heights[:3] == [40, 60, 10] and np.isnan(heights[3])
    assert len({bar.get_hatch() for bar in ax.patches}) == 2
    assert ax.get_title() == "symbolic, glm"


def test_reliability_has_a_diagonal_and_one_line_a_model(ax: Axes) -> None:
    charts.reliability_curve(ax, reliability())
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[0, 0], [100, 100]])
    assert len(ax.containers) == 3 and ax.get_xlim() == ax.get_ylim() == (-3, 103)
    np.testing.assert_allclose(ax.containers[1].lines[0].get_ydata(), 100 * (np.linspace(0.15, 0.95, 5) - 0.05))
    assert "95% Wilson interval" in ax.figure.legends[0].get_title().get_text()


@pytest.mark.parametrize("name", TESTED)
def test_every_interval_and_what_was_reported_lie_inside_the_panel(ax: Axes, name: str) -> None:
    claim = LEDGER[name]
    charts.claim_panel(ax, name, claim)
    scale, _ = charts.UNITS[claim["unit"]]
    ends = [scale * row[key] for row in claim["shown"] for key in ("ci_low", "ci_high")]
    ends += [scale * value for key, value in claim["reported"].items() if key in ("low", "high")]
    assert ax.get_xlim()[0] < min(ends) and max(ends) < ax.get_xlim()[1]
    assert claim["verdict"] in ax.get_title() and len(ax.get_yticklabels()) == len(claim["shown"])


def test_a_single_reported_number_is_a_line_and_a_range_a_band(ax: Axes) -> None:
    band, line = ax.figure.subplots(1, 2)
    charts.claim_panel(band, "C1", LEDGER["C1"])
    charts.claim_panel(line, "C5", LEDGER["C5"])
    assert len(band.patches) == 1 and not line.patches
    dashed = [found for found in line.lines if found.get_linestyle() == "--"]
    assert np.allclose([found.get_xdata()[0] for found in dashed], 1.9)


def test_what_is_not_tested_is_written_out(ax: Axes) -> None:
    untested = {"C6": LEDGER["C6"] | {"verdict": "not testable", "reason": "needs effects"}}
    charts.note_panel(ax, LEDGER | untested, 0.95)
    assert "C6" in ax.texts[0].get_text() and "not testable" in ax.texts[0].get_text()


def test_names_of_rows_are_words(ax: Axes) -> None:
    assert charts.name_row("glm4v-tiny / visual_reference") == "glm4v-tiny\nvisual reference"
    assert charts.name_row("symbolic") == "symbolic"


def test_accuracy_panel_shows_percent_and_wilson_intervals(ax: Axes, items: pd.DataFrame) -> None:
    charts.accuracy_panel(ax, items)
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


def test_length_panel_names_its_boxes_and_unit(ax: Axes, items: pd.DataFrame) -> None:
    charts.length_panel(ax, items)
    assert "tokens" in ax.get_ylabel() and "quartiles" in ax.get_legend().get_title().get_text()


def test_finish_panel_counts_what_did_not_stop(ax: Axes, items: pd.DataFrame) -> None:
    charts.finish_panel(ax, items)
    assert [text.get_text() for text in ax.texts] == ["1"] * 9
    assert {round(patch.get_width(), 6) for patch in ax.patches} == {97.5, 2.5}


def test_noise_panel_has_a_line_per_benchmark(ax: Axes, items: pd.DataFrame) -> None:
    charts.noise_panel(ax, items)
    assert len(ax.lines) == 3 and all(len(line.get_xdata()) == 5 for line in ax.lines)


def test_learning_curves_name_their_unit(ax: Axes) -> None:
    rows = {"model": ["a", "a", "b", "b"], "step": [2000, 1000, 1000, 2000], "accuracy": [0.6, 0.5, 0.3, 0.4]}
    charts.learning_curves(ax, pd.DataFrame(rows), "accuracy", legend=False)
    assert "steps (thousands)" in ax.get_xlabel() and ax.get_legend() is None
    assert np.allclose(ax.lines[0].get_xdata(), [1, 2]) and np.allclose(ax.lines[0].get_ydata(), [0.5, 0.6])


def test_head_map_is_a_ratio_of_means_with_the_chosen_head_framed(ax: Axes) -> None:
    heads = pd.DataFrame([
        {"model": "m", "item_id": i, "layer": layer, "head": head, "evidence_mass": e, "visual_mass": v,
         "evidence_fraction": 0.1}
        for layer in range(2) for head in range(3) for i, e, v in (("a", 0.3, 0.5), ("b", 0.0, 0.1))
    ])  # fmt: skip
    charts.head_lift_map(ax, heads, [(1, 2)])
    assert np.allclose(ax.collections[0].get_array(), 0.3 / 0.06)
    assert {patch.get_xy() for patch in ax.patches} == {(2, 1)}
    with pytest.raises(ValueError, match="expected exactly one"):
        charts.head_lift_map(ax, pd.concat([heads, heads.assign(model="n")]))


def pairs(kind: str, risks: list[float]) -> pd.DataFrame:
    rows = pd.DataFrame({"source": ["a", "b"], "target": ["b", "a"], "risk": risks})
    rows = rows.assign(monitor="entropy", model="m", kind=kind, row=rows["source"] + " to " + rows["target"])
    return rows.assign(ci_low=rows["risk"] - 0.02, ci_high=rows["risk"] + 0.04)


def test_guarantees_stand_beside_the_promise_and_a_pair_without_a_certificate_has_no_mark(ax: Axes) -> None:
    shifted, repaired, home = (pairs("x", risks) for risks in ([0.2, np.nan], [0.05, 0.06], [0.08, 0.09]))
    charts.guarantee_panel(ax, shifted, repaired, home, max_risk=0.1)
    bars = [container.lines[0] for container in ax.containers]
    assert [list(bar.get_xdata()) for bar in bars] == [[20.0], [5.0, 6.0]]
    assert [list(bar.get_ydata()) for bar in bars] == [[-0.17], [0.17, 1.17]]
    marks = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(marks["home"].get_xdata(), [8, 9])
    assert list(marks["promised at most"].get_xdata()) == [10, 10]
    assert "95% Clopper-Pearson" in ax.get_xlabel() and ax.get_yticklabels()[0].get_text() == "a to b"
    with pytest.raises(ValueError, match="expected exactly one"):
        charts.guarantee_panel(ax, pd.concat([shifted, shifted.assign(model="n")]), repaired, home, max_risk=0.1)


def test_every_chart_can_be_printed_and_leaves_the_global_style_alone(
    scopes: pd.DataFrame, risks: pd.DataFrame, quadrants: pd.DataFrame, items: pd.DataFrame, tmp_path: Path
) -> None:
    drawings = {
        "forest": lambda ax: charts.forest(ax, scopes, label="b_EV (log-odds per sd)", null="null_high"),
        "transfer": lambda ax: charts.transfer_heat_map(ax, transfer()),
        "surface": lambda ax: charts.interaction_surface(ax, surface()),
        "risks": lambda ax: charts.risk_coverage_curves(ax, risks),
        "quadrants": lambda ax: charts.quadrant_risk(ax, quadrants),
        "reliability": lambda ax: charts.reliability_curve(ax, reliability()),
        "lengths": lambda ax: charts.length_panel(ax, items),
    }
    before = dict(matplotlib.rcParams)
    for name, draw in drawings.items():
        figure = plt.figure(figsize=(3.6, 3.2), layout="constrained")
        assert draw(ax := figure.subplots()) is ax
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    assert dict(matplotlib.rcParams) == before


def test_a_knockout_grid_marks_a_cell_whose_control_moved_in_its_own_panel() -> None:
    keys = [(m, b, c, s) for m in MODELS for b in BENCHMARKS for c in ("evidence", "control") for s in (0.0, 0.5, 1.0)]
    table = pd.DataFrame(keys, columns=["model", "benchmark", "condition", "start_share"])
    value = np.where(table["condition"] == "evidence", -0.5 * (1 - table["start_share"]), 0.0)
    table = table.assign(estimate=value, ci_low=value - 0.01, ci_high=value + 0.02)
    words = {"evidence": "evidence blocked", "control": "equal area elsewhere"}
    figure = charts.knockout_grid(table, words, margin=0.02, flagged=[("qwen-m", "symbolic")])
    figure.canvas.draw()
    marked = [ax for ax in figure.axes if any(text.get_text() == "control not within the margin" for text in ax.texts)]
    assert len(figure.axes) == 9 and marked == [figure.axes[4]] and marked[0].patch.get_hatch()
    bars = [part for part in figure.axes[0].containers if isinstance(part, ErrorbarContainer)]
    assert [list(part.lines[0].get_ydata()) for part in bars] == [[-50, -25, 0], [0, 0, 0]]
    assert [part.lines[0].get_linestyle() for part in bars][0] != [part.lines[0].get_linestyle() for part in bars][1]
    said = " ".join(text.get_text() for legend in figure.legends for text in (legend.get_title(), *legend.get_texts()))
    assert "95% Newcombe" in said and "2 points" in said and "points" in figure.axes[0].get_ylabel()


def test_attention_is_drawn_against_use_with_its_correlation_or_the_lack_of_one() -> None:
    rng = np.random.default_rng(0)
    pairs = pd.DataFrame([(m, b) for m in MODELS for b in BENCHMARKS for _ in range(40)], columns=["model", "benchmark"])
    pairs = pairs.assign(attention=rng.uniform(0, 0.4, len(pairs)), use=rng.normal(size=len(pairs)))
    table = pairs[["model", "benchmark"]].drop_duplicates().assign(estimate=0.25, ci_low=0.1, ci_high=0.4).iloc[1:]
    figure = charts.use_grid(pairs, table, label="log-odds turned (nats)")
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[0] == "glm\ntoo few words" and titles[1] == "qwen-m\n0.25 [0.10, 0.40]"
    lines = figure.axes[1].lines
    assert len(lines[0].get_xdata()) == 40 and len(lines[1].get_xdata()) == 5
    assert "nats" in figure.axes[0].get_ylabel() and "share of attention" in figure.axes[7].get_xlabel()


def test_curves_along_the_reasoning_stand_at_their_share(ax: Axes, curves: pd.DataFrame) -> None:
    rows = curves[(curves["benchmark"] == "symbolic") & (curves["bin"] > 0)]
    rows = rows.assign(reasoning_share=rows["bin"] / 10, quantity="accuracy").drop_duplicates(["model", "bin"])
    charts.collapse_curves(ax, rows, "accuracy", position="reasoning_share")
    assert list(ax.lines[0].get_xdata()) == pytest.approx([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert "Wilson" in ax.figure.legends[0].get_title().get_text() and "(%)" in ax.get_xlabel()
