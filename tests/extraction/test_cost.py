"""The estimate is the arithmetic that its docstrings state, on speeds that a probe really measured."""

from __future__ import annotations

import dataclasses
import functools
import json
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dontblink import paths
from dontblink.extraction.cost import PROBE_TOKENS, Speed, describe_costs, describe_needs, estimate, measure_speed
from dontblink.models.checkpoints import load_vlm
from dontblink.models.vlm import VLM
from dontblink.params import load
from dontblink.paths import ROOT
from dontblink.questions.items import Item
from dontblink_testbed import benchmark

SPEED = Speed(n_items=8, prompt_tokens=500, image_tokens=200, prompt_s=2.0, step_s=0.05, replay_s_per_token=0.001)


def make_study(**settings: Any) -> Any:
    return SimpleNamespace(settings={"batch_size": 8, "max_new_tokens": 8000, **settings})


def make_vlm(n_layers: int = 28, n_heads: int = 16) -> Any:
    config = SimpleNamespace(num_hidden_layers=n_layers, num_attention_heads=n_heads)
    return SimpleNamespace(name="model", model=SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: config)))


def test_hours_follow_batches_tokens_and_prompts_and_gigabytes_entropies_masses_maps_and_heads() -> None:
    cost = estimate(make_study(), make_vlm(), SPEED, 800, 2000.0)
    trace = 4 * (2000 * 3 + 2000 * 4 * 8 + 4 * 200 * 2000 / 25 + 2 * 28 * 16)
    assert cost == pytest.approx({
        "generate_h": 100 * (2 + 2000 * 0.05) / 3600, "limit_generate_h": 100 * (2 + 8000 * 0.05) / 3600,
        "replay_h": 800 * 2500 * 0.001 / 3600, "disk_gb": 800 * trace / 1e9,
    })  # fmt: skip
    sampled = estimate(make_study(), make_vlm(), SPEED, 800, 2000.0, n_samples=1600)  # generated, and that is all
    assert sampled == pytest.approx(cost | {name: 3 * cost[name] for name in ("generate_h", "limit_generate_h")})


CHECKPOINT = ROOT / "models" / "testbed" / "qwen3vl-tiny-s"


@functools.cache
def extraction_settings() -> dict[str, Any]:
    return load(ROOT / "params" / "testbed.yaml")[1]["extraction"] | {"batch_size": 4}


def make_items(n: int) -> list[Item]:
    difficulty = benchmark.read_difficulty("symbolic", load(ROOT / "params" / "testbed.yaml")[1]["testbed"])
    return list(benchmark.load_items("symbolic", "test", n, 1, difficulty))


def make_shards(items: Sequence[Item], *models: str, n_sampled: int = 0) -> Any:
    """A study of one shard a model, of which nothing is there yet."""
    return SimpleNamespace(
        settings=extraction_settings() | {"models": list(models)},
        shards=lambda model: [SimpleNamespace(items=tuple(items), n_sampled=n_sampled, benchmark="symbolic")],
        image_tokens=lambda benchmark: extraction_settings()["max_image_tokens"],
        response_file=lambda shard: Path("nowhere"), sample_file=lambda shard: Path("nowhere"),
    )


def spoil(item: Item) -> Item:
    return dataclasses.replace(item, images=(b"no image",))


def test_a_probe_measures_a_real_model() -> None:
    items, vlm = make_items(6), load_vlm(CHECKPOINT)
    speed = measure_speed(make_shards(items), vlm, items)
    assert speed.n_items == 4 and speed.image_tokens == 36
    assert speed.prompt_tokens == sum(len(vlm.encode(item).ids) for item in items[:4]) / 4
    assert speed.prompt_s > 0 and speed.step_s > 0 and speed.replay_s_per_token > 0
    assert speed.step_s * PROBE_TOKENS < 60


def test_pictures_that_cannot_be_encoded_leave_the_probe_to_the_items_behind_them() -> None:
    items, vlm = make_items(6), load_vlm(CHECKPOINT)
    items[0], items[2] = spoil(items[0]), spoil(items[2])
    speed = measure_speed(make_shards(items), vlm, items)
    usable = [items[place] for place in (1, 3, 4, 5)]
    assert speed.n_items == 4 and speed.prompt_tokens == sum(len(vlm.encode(item).ids) for item in usable) / 4
    line, *_ = describe_costs(make_shards(items[:2], "tiny"), lambda name: load_vlm(CHECKPOINT, name=name))
    assert line.startswith("tiny: 2 items left, about ")
    sampled = make_shards(items[:2], "tiny", n_sampled=2)
    line, *_ = describe_costs(sampled, lambda name: load_vlm(CHECKPOINT, name=name))
    assert line.startswith("tiny: 2 items and 10 samples left, about 60 tokens each (0.00 million); ")
    sampled.response_file = lambda shard: CHECKPOINT / "config.json"  # the responses are there
    sampled.read_responses = lambda shard: [SimpleNamespace(response_ids=range(30))]
    line, *_ = describe_costs(sampled, lambda name: load_vlm(CHECKPOINT, name=name))
    assert line.startswith("tiny: 0 items and 10 samples left, about 30 tokens each (0.00 million); ")


def test_where_nothing_can_be_encoded_or_replayed_the_line_says_why_and_the_run_goes_on() -> None:
    items = make_items(2)
    line, *_ = describe_costs(
        make_shards([spoil(item) for item in items], "tiny"), lambda name: load_vlm(CHECKPOINT, name=name)
    )
    assert line.startswith("tiny: 2 items left; what they cost is unknown: none of 2 items can be encoded, the first: ")
    assert items[0].id in line and "not a readable image" in line

    def load_broken(name: str) -> VLM:
        vlm = load_vlm(CHECKPOINT, name=name)
        vlm.model.lm_head.weight.data[-1] = float("nan")
        return vlm

    line, *_ = describe_costs(make_shards(items, "tiny"), load_broken)
    assert "what they cost is unknown: none of 2 items can be replayed: item " in line
    assert "entropy_nats is not finite" in line


def test_no_model_is_in_memory_when_the_next_one_is_loaded_or_when_the_estimate_has_been_made() -> None:
    loaded: list[weakref.ref[Any]] = []

    def load_one(name: str) -> VLM:
        assert not [ref for ref in loaded if ref() is not None], "the model before is still there"
        vlm = load_vlm(CHECKPOINT, name=name)
        loaded.append(weakref.ref(vlm.model))
        return vlm

    lines = describe_costs(make_shards(make_items(1), "one", "two", "three"), load_one)
    for name in ("one", "two", "three"):
        assert next(lines).startswith(f"{name}: 1 items left")
        assert loaded[-1]() is None
    assert len(loaded) == 3


def test_the_needs_of_the_claims_are_a_line_where_power_was_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    assert list(describe_needs()) == []
    file = paths.figures("simulation") / "00_simulation.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"power": {"collapse": {"n_at_80": 761.4}, "hazard": {"effect": 0.05}}}))
    (line,) = describe_needs()
    assert line.endswith("in 80 of 100 studies: collapse 761, hazard more than was simulated")
