"""Synthetic tables with known truth, for the tests of the statistics."""

from __future__ import annotations

import numpy as np
import pandas as pd

MODELS, BENCHMARKS = ("glm", "qwen"), ("symbolic", "visual")
CELLS = [(model, benchmark) for model in MODELS for benchmark in BENCHMARKS]


def make_bins(
    n_items: int = 30, n_bins: int = 4, fall: float = 0.75, dilution: float = 0.5, noise: float = 0.2, seed: int = 0
) -> pd.DataFrame:
    """Bins whose evidence mass falls by `fall` and whose uniform share falls by `dilution` in every cell."""
    rng = np.random.default_rng(seed)
    rows = []
    for model, benchmark in CELLS:
        for item in range(n_items):
            start = np.exp(noise * rng.normal())
            for k in range(n_bins):
                done = k / (n_bins - 1)
                evidence, uniform = 0.2 * start * (1 - fall * done), 0.05 * (1 - dilution * done)
                rows.append({
                    "model": model, "benchmark": benchmark, "split": "test", "item_id": f"{benchmark}-{item:03d}",
                    "head_set": "grounding_layers", "bin": k, "n_bins": n_bins, "n_empty_bins": 0, "n_tokens": 5,
                    "evidence_mass": evidence, "visual_mass": evidence + 0.2, "prompt_mass": 0.1, "sink_mass": 0.1,
                    "earlier_response_mass": 0.6 - evidence, "control_box_mass": 0.04 * (1 - dilution * done),
                    "uniform_evidence_share": uniform, "uniform_visual_share": 10 * uniform,
                })  # fmt: skip
    return pd.DataFrame(rows)


def draw_logit(n_items: int = 60, repeats: int = 2, seed: int = 0, slope: float = -0.8) -> tuple[np.ndarray, ...]:
    """Design (constant, E, V, E V), outcome and item, with an item effect."""
    rng = np.random.default_rng(seed)
    item = np.repeat(np.arange(n_items), repeats)
    e, v = rng.normal(size=(2, len(item)))
    X = np.column_stack([np.ones(len(item)), e, v, e * v])
    odds = X @ [0.4, slope, 0.3, -0.3] + 0.5 * np.repeat(rng.normal(size=n_items), repeats)
    return X, (rng.random(len(item)) < 1 / (1 + np.exp(-odds))).astype(float), item


def separate(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Add an indicator that is 1 only in rows with y = 1 (quasi-separation)."""
    return np.column_stack([X, (y == 1) & (np.arange(len(y)) % 3 == 0)])
