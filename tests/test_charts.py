"""Claims about the figures of the statistics: what is drawn is what the table says."""

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
from matplotlib.container import ErrorbarContainer

from dontblink.figures import charts
from dontblink.studies import veto

MODELS, BENCHMARKS = ("glm", "qwen-m", "qwen-s"), ("hallucination", "symbolic", "visual_reference")


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    yield
    plt.close("all")


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


def curves() -> pd.DataFrame:
    p = np.linspace(0.15, 0.95, 5)
    parts = [
        pd.DataFrame({"model": m, "mean_probability": p, "share_correct": p - 0.05 * k, "ci_low": p - 0.05 * k - 0.06,
                      "ci_high": np.minimum(1, p - 0.05 * k + 0.04)})
        for k, m in enumerate(MODELS)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def read_bars(ax: plt.Axes) -> dict[float, tuple[float, float, float]]:
    """Return value and ends of the bars, by their height."""
    found = {}
    for bar in ax.containers:
        if isinstance(bar, ErrorbarContainer):
            x, y = bar.lines[0].get_xydata()[0]
            low, high = bar.lines[2][0].get_segments()[0][:, 0]
            found[round(float(y), 2)] = (float(x), float(low), float(high))
    return found


def test_forest_shows_each_benchmark_above_its_models_and_the_pooled_row_last(scopes: pd.DataFrame) -> None:
    ax = charts.forest(plt.figure().subplots(), scopes.sample(frac=1, random_state=0), label="x (unit)", scale=100)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names[:5] == ["hallucination", "glm", "qwen-m", "qwen-s", "symbolic"] and names[-1] == "pooled"
    assert [text.get_fontweight() == "bold" for text in ax.get_yticklabels()] == [True, False, False, False] * 3 + [
        True
    ]
    bars = read_bars(ax)
    assert sorted(bars) == list(range(13))
    assert bars[1] == pytest.approx((-50, -70, -20)) and bars[12] == pytest.approx((40, 20, 70))
    assert "(unit)" in ax.get_xlabel() and "95% bootstrap by item" in ax.get_xlabel()


def test_forest_draws_a_second_table_hollow_beneath_the_first(scopes: pd.DataFrame) -> None:
    adjusted = scopes.assign(estimate=0.05, ci_low=0.0, ci_high=0.1).sample(frac=1, random_state=1)
    ax = charts.forest(plt.figure().subplots(), scopes, label="x", beside=adjusted, zero=0.5)
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


def test_forest_of_two_terms_at_once_is_refused(scopes: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="several rows"):
        charts.forest(plt.figure().subplots(), pd.concat([scopes, scopes]), label="x")


def test_transfer_map_places_fits_in_rows_and_brackets_what_may_be_zero() -> None:
    ax = charts.transfer_heat_map(plt.figure().subplots(), transfer())
    grid = ax.images[0].get_array()
    assert grid[1, 0] == pytest.approx(-0.05) and grid[0, 2] == pytest.approx(0.05) and np.ma.is_masked(grid[1, 1])
    assert ax.images[0].get_clim() == (pytest.approx(-0.05), pytest.approx(0.05))
    texts = {text.get_position(): text.get_text() for text in ax.texts}
    assert len(texts) == 6 and texts[(2, 0)] == "+0.050\n+0.040 to\n+0.060" and texts[(1, 0)].startswith("(+0.000)")
    assert ax.get_ylabel() == "fitted on" and "mean over models" in ax.get_title()


def test_transfer_map_shows_the_interval_with_refits_where_there_is_one() -> None:
    table = transfer().assign(refit_gain_low=-0.2, refit_gain_high=0.1)
    ax = charts.transfer_heat_map(plt.figure().subplots(), table, reach=0.3)
    assert all(text.get_text().startswith("(") and "-0.200 to" in text.get_text() for text in ax.texts)
    assert ax.images[0].get_clim() == (-0.3, 0.3)


def test_transfer_map_of_auroc_starts_at_chance() -> None:
    ax = charts.transfer_heat_map(plt.figure().subplots(), transfer(), "auroc")
    assert ax.images[0].get_clim() == (0.5, 1.0) and "0.650 to\n0.750" in ax.texts[0].get_text()


def test_surface_shows_percent_over_standard_deviations_and_needs_a_full_grid() -> None:
    ax = charts.interaction_surface(plt.figure().subplots(), surface())
    assert "sd" in ax.get_xlabel() and "sd" in ax.get_ylabel() and ax.get_title() == "symbolic"
    assert ax.collections[0].get_clim() == (0, 100)
    names = [text.get_text() for text in ax.texts if text.get_visible()]
    assert names and all(name.endswith(" %") for name in names)
    with pytest.raises(ValueError, match="full grid"):
        charts.interaction_surface(plt.figure().subplots(), surface().iloc[1:])
    with pytest.raises(ValueError, match="benchmark: .*expected exactly one"):
        both = pd.concat([surface(), surface().assign(benchmark="visual")])
        charts.interaction_surface(plt.figure().subplots(), both)


def test_surface_draws_nothing_where_no_answer_was_seen() -> None:
    table = surface()
    unseen = table["entropy_z"] < 0
    ax = charts.interaction_surface(plt.figure().subplots(), table.assign(n_near=np.where(unseen, 0, 9)))
    drawn = np.concatenate([path.vertices for path in ax.collections[0].get_paths() if len(path.vertices)])
    assert drawn[:, 0].min() == pytest.approx(0, abs=1e-9) and ax.get_xlim() == (-2, 2)
    assert ax.patch.get_hatch()


def test_risk_curves_differ_in_line_marker_and_lightness_and_have_bands(risks: pd.DataFrame) -> None:
    ax = charts.risk_coverage_curves(plt.figure(layout="constrained").subplots(), risks)
    assert len(ax.lines) == 5 and len(ax.collections) == 2  # the bands of entropy and oracle
    assert len({(str(line.get_linestyle()), line.get_marker()) for line in ax.lines}) == 5
    light = sorted(float(np.dot(to_rgb(line.get_color()), (0.299, 0.587, 0.114))) for line in ax.lines)
    assert min(np.diff(light)) > 0.03
    veto_line = next(line for line in ax.lines if line.get_label() == "targeted veto")
    np.testing.assert_allclose(veto_line.get_ydata(), 100 * risks.query("rule == 'veto'")["risk"])
    assert "95% block jackknife" in ax.figure.legends[0].get_title().get_text()


def test_risk_curves_keep_a_rules_style_when_others_are_left_out(risks: pd.DataFrame) -> None:
    both, one = (plt.figure(layout="constrained").subplots() for _ in range(2))
    charts.risk_coverage_curves(both, risks)
    charts.risk_coverage_curves(one, risks, ["veto"])
    found = next(line for line in both.lines if line.get_label() == "targeted veto")
    assert (one.lines[0].get_color(), one.lines[0].get_marker()) == (found.get_color(), found.get_marker())


def test_risk_curves_of_two_scopes_are_refused(risks: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="scope: .*expected exactly one"):
        charts.risk_coverage_curves(plt.figure().subplots(), pd.concat([risks, risks.assign(scope="cell")]))


def test_quadrants_show_counts_and_an_empty_one_has_no_bar(quadrants: pd.DataFrame) -> None:
    ax = charts.quadrant_risk(plt.figure(layout="constrained").subplots(), quadrants)
    assert "95% Wilson" in ax.figure.legends[0].get_title().get_text()
    assert sorted(text.get_text() for text in ax.texts) == ["0/0", "42/70", "8/20", "8/80"]
    heights = [bar.get_height() for bar in ax.patches]
    assert heights[:3] == [40, 60, 10] and np.isnan(heights[3])
    assert len({bar.get_hatch() for bar in ax.patches}) == 2
    assert ax.get_title() == "symbolic, glm"


def test_reliability_has_a_diagonal_and_one_line_a_model() -> None:
    ax = charts.reliability_curve(plt.figure(layout="constrained").subplots(), curves())
    np.testing.assert_array_equal(ax.lines[0].get_xydata(), [[0, 0], [100, 100]])
    assert len(ax.containers) == 3 and ax.get_xlim() == ax.get_ylim() == (-3, 103)
    np.testing.assert_allclose(ax.containers[1].lines[0].get_ydata(), 100 * (np.linspace(0.15, 0.95, 5) - 0.05))
    assert "95% Wilson interval" in ax.figure.legends[0].get_title().get_text()


def test_every_figure_can_be_printed(
    scopes: pd.DataFrame, risks: pd.DataFrame, quadrants: pd.DataFrame, tmp_path: Path
) -> None:
    style = Path(charts.__file__).with_name("dontblink.mplstyle")
    with plt.style.context(style):
        drawings = {
            "forest": lambda ax: charts.forest(ax, scopes, label="b_EV (log-odds per sd)", null="null_high"),
            "transfer": lambda ax: charts.transfer_heat_map(ax, transfer()),
            "surface": lambda ax: charts.interaction_surface(ax, surface()),
            "risks": lambda ax: charts.risk_coverage_curves(ax, risks),
            "quadrants": lambda ax: charts.quadrant_risk(ax, quadrants),
            "reliability": lambda ax: charts.reliability_curve(ax, curves()),
        }
        for name, draw in drawings.items():
            figure = plt.figure(figsize=(3.6, 3.2), layout="constrained")
            assert draw(ax := figure.subplots()) is ax
            figure.savefig(tmp_path / f"{name}.png")
            assert (tmp_path / f"{name}.png").stat().st_size > 5000
