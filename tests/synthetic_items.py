"""Synthetic items tables with known coefficients, for the tests of entropy, transfer and interaction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dontblink.studies.cells import PLACEBOS, VISION, VISIONS

MODELS, BENCHMARKS = ("glm", "qwen"), ("symbolic", "visual")
VECTORS = Path(__file__).parents[1].parent / "shared" / "fixtures" / "stats" / "vectors.json"


def make_items(
    n_items: int = 60,
    interaction: float | dict[str, float] = 0.0,
    vision: float | dict[str, float] = 0.0,
    benchmarks: tuple[str, ...] = BENCHMARKS,
    seed: int = 0,
) -> pd.DataFrame:
    """Items whose log-odds of a correct answer are 0.7 - zE + vision zV + interaction zE zV, per benchmark."""
    rng = np.random.default_rng(seed)
    parts = []
    for benchmark in benchmarks:
        shared = rng.normal(size=n_items)  # an item is hard for every model
        for model in MODELS:
            e, v = rng.normal(size=(2, n_items)) + 0.3 * shared
            b_v, b_ev = (x.get(benchmark, 0.0) if isinstance(x, dict) else x for x in (vision, interaction))
            odds = 0.7 - e + b_v * v + b_ev * e * v
            parts.append(
                pd.DataFrame({
                    "model": model, "benchmark": benchmark, "split": "test", "task_type": f"type of {benchmark}",
                    "item_id": [f"item {k:03d}" for k in range(n_items)],
                    "correct": rng.random(n_items) < 1 / (1 + np.exp(-odds)),
                    "full_entropy_nats": 0.5 + 0.1 * e, "answer_entropy_nats": 0.2 + 0.02 * rng.normal(size=n_items),
                    "max_entropy_nats": 1.5 + 0.1 * e + 0.1 * rng.normal(size=n_items),
                    "last_decile_entropy_nats": 0.5 + 0.1 * rng.normal(size=n_items),
                    "vision_evidence_mass": 0.1 + 0.02 * v, "n_response_tokens": rng.integers(20, 90, n_items),
                    "noise_level": rng.uniform(0, 0.7, n_items), "chain_length": rng.integers(2, 6, n_items),
                })
            )  # fmt: skip
    items = pd.concat(parts, ignore_index=True)
    # other looks at the same picture: like the first one, and a placebo that knows nothing of the answer
    noise = np.random.default_rng([seed, 1]).normal(size=(4, len(items)))
    for name, own in zip((*list(VISIONS.values())[1:], PLACEBOS["elsewhere"]), noise, strict=True):
        items[name] = (items[VISION] if name != PLACEBOS["elsewhere"] else 0.1) + 0.01 * own
    # a truncated entropy is lower, and orders responses nearly as the exact one does
    shares = np.random.default_rng([seed, 2]).uniform(0.8, 1, (2, len(items)))
    for span, kept in zip(("full", "answer"), shares, strict=True):
        items[f"{span}_top20_entropy_nats"] = kept * items[f"{span}_entropy_nats"]
    return items


def make_fit(n_items: int = 60, seed: int = 9, **options: Any) -> pd.DataFrame:
    """Calibration items: as the test items, and others."""
    items = make_items(n_items, seed=seed, **options)
    return items.assign(split="calibration", item_id="fit " + items["item_id"])


def read_case(name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """Return the input, expected values and tolerances of a reference case, or skip the test."""
    if not VECTORS.exists():
        pytest.skip("reference vectors are not part of the repository: ../shared/fixtures/stats/vectors.json")
    case = json.loads(VECTORS.read_text())[name]
    given = {key: np.asarray(value) for key, value in case["input"].items()}
    expected = {key: np.asarray(found["value"]) for key, found in case["expected"].items()}
    return given, expected, {key: found["tol"] for key, found in case["expected"].items()}
