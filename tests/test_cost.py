"""The estimate is the arithmetic that its docstrings state, on speeds that a probe really measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dontblink.benchmarks import testbed
from dontblink.cost import PROBE_TOKENS, Speed, count_trace_bytes, estimate, measure_speed
from dontblink.params import load
from dontblink.paths import ROOT
from dontblink.vlm import load_vlm

SPEED = Speed(n_items=8, prompt_tokens=500, image_tokens=200, prompt_s=2.0, step_s=0.05, replay_s_per_token=0.001)


def make_study(**settings: Any) -> Any:
    return SimpleNamespace(settings={"batch_size": 8, "max_new_tokens": 8000, **settings})


def make_vlm(n_layers: int = 28, n_heads: int = 16) -> Any:
    config = SimpleNamespace(num_hidden_layers=n_layers, num_attention_heads=n_heads)
    return SimpleNamespace(name="model", model=SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: config)))


def test_hours_follow_batches_tokens_and_prompts() -> None:
    cost = estimate(make_study(), make_vlm(), SPEED, 800, 2000.0)
    assert cost.generate_h == pytest.approx(100 * (2 + 2000 * 0.05) / 3600)
    assert cost.limit_generate_h == pytest.approx(100 * (2 + 8000 * 0.05) / 3600)
    assert cost.replay_h == pytest.approx(800 * 2500 * 0.001 / 3600)
    assert cost.disk_gb == pytest.approx(800 * count_trace_bytes(SPEED, 2000, 28 * 16) / 1e9)
    assert "model: 800 items left, about 2000 tokens each (1.60 million)" in cost.describe()


def test_trace_size_counts_entropies_masses_maps_and_heads() -> None:
    expected = 4 * (2000 * 2 + 2000 * 4 * 6 + 4 * 200 * 2000 / 25 + 2 * 448)
    assert count_trace_bytes(SPEED, 2000, 448) == pytest.approx(expected)


def test_a_probe_measures_a_real_model() -> None:
    _, sections = load(ROOT / "params" / "testbed.yaml")
    difficulty = testbed.read_difficulty("symbolic", sections["testbed"])
    items = list(testbed.load_items("symbolic", "test", 6, 1, difficulty))
    vlm = load_vlm(ROOT / "models" / "testbed" / "qwen3vl-tiny-s")
    study = SimpleNamespace(settings={**sections["extraction"], "batch_size": 4})
    speed = measure_speed(study, vlm, items)  # type: ignore[arg-type]
    assert speed.n_items == 4 and speed.image_tokens == 36
    assert speed.prompt_tokens == sum(len(vlm.encode(item).ids) for item in items[:4]) / 4
    assert speed.prompt_s > 0 and speed.step_s > 0 and speed.replay_s_per_token > 0
    assert speed.step_s * PROBE_TOKENS < 60
