"""What each parameter may hold: its kind, its bounds, how many entries.

Why it exists: a reviewer may change any number in params/, and a wrong one must stop before anything runs. In: nothing.
Out: SCHEMA, a section for each notebook and command. Never: a value or a default, which stand in the YAML files alone.

To add a key: one line here and one in each YAML file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Rule:
    """What one key may hold: a kind of entry, bounds or a pattern for it, and how many entries."""

    kind: str  # 'whole number' | 'number' | 'text'
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    pattern: str = r"\S+"
    form: str = "one"  # 'one' | 'list' (different entries) | 'range' (two entries, ascending)

    def describe(self) -> str:
        """Return the rule in words, for messages."""
        words = {"one": "a ", "list": "a list, each entry a ", "range": "[low, high], each a "}[self.form] + self.kind
        open_ends = {(True, True): " (ends excluded)", (True, False): f" ({self.low:g} excluded)"}
        bounds = f" from {self.low:g} to {self.high:g}" + open_ends.get((self.open_low, self.open_high), "")
        pattern = "" if self.pattern == r"\S+" else f" matching {self.pattern}"
        return words + (pattern if self.kind == "text" else bounds)

    def admits(self, number: float) -> bool:
        """Return whether a number lies within the bounds."""
        return (self.low < number if self.open_low else self.low <= number) and (
            number < self.high if self.open_high else number <= self.high
        )


def whole(low: float = -math.inf, high: float = math.inf) -> Rule:
    """Return the rule of a whole number within closed bounds."""
    return Rule("whole number", low, high)


def real(low: float = -math.inf, high: float = math.inf, *, open_low: bool = False, open_ends: bool = False) -> Rule:
    """Return the rule of a number; a whole number is accepted and becomes a float."""
    return Rule("number", low, high, open_low or open_ends, open_ends)


def text(pattern: str = r"\S+") -> Rule:
    """Return the rule of a text that matches the pattern as a whole."""
    return Rule("text", pattern=pattern)


def several(entry: Rule) -> Rule:
    """Return the rule of a list, not empty, without repetition."""
    return replace(entry, form="list")


def span(entry: Rule) -> Rule:
    """Return the rule of an inclusive range [low, high]."""
    return replace(entry, form="range")


NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"  # of a model: a folder's and a file's, and never a way out of one
SCHEMA: dict[str, dict[str, Rule]] = {
    "testbed": {
        "item_seed": whole(0),
        "n_test_items": whole(1),
        "n_calibration_items": whole(1),
        "n_example_items": whole(1),
        "symbolic_chain_length": span(whole(1, 12)),
        "symbolic_noise_level": span(real(0, 1)),
        "symbolic_operators_per_step": span(whole(1, 4)),
        "visual_reference_chain_length": span(whole(1, 12)),
        "visual_reference_noise_level": span(real(0, 1)),
        "hallucination_chain_length": span(whole(1, 12)),
        "hallucination_noise_level": span(real(0, 1)),
        "hallucination_typical_share": real(0, 1),
    },
    "extraction": {
        "models": several(text(NAME)),
        "checkpoints_folder": text(),
        "benchmarks": several(text(r"[a-z0-9_]+")),
        "engine": text("local|server"),
        "attention": text("sdpa|flash_attention_2"),
        "thinking": text("enabled|disabled"),
        "max_image_tokens": whole(1),
        "expected_response_tokens": whole(1),
        "retokenised": text("refuse|leave_out|keep"),
        "max_new_tokens": whole(1),
        "batch_size": whole(1),
        "temperature": real(0),
        "top_p": real(0, 1, open_low=True),
        "top_k": whole(0),
        "generation_seed": whole(0),
        "device": text(r"cpu|cuda(:\d+)?|mps|auto"),
        "dtype": text(r"float32|bfloat16|float16"),
        "replay_implementation": text(r"fused|chunk"),
        "replay_batch_tokens": whole(1),
        "shard_items": whole(1),
        "control_seed": whole(0),
        "grounding_layers": whole(1),
        "grounding_heads": whole(1),
        "sink_rule": text(r"first|border"),
        "n_cross_checked_items": whole(1),
    },
    "questions": {
        **{
            f"{name}_{part}": text(r".*" if part == "config" else r".+")
            for name in ("mathvista", "mmmu_pro", "hallusionbench")
            for part in ("source", "revision", "config")
        },
        "n_test_items": whole(1),
        "n_calibration_items": whole(1),
        "subset_seed": whole(0),
        "task_types": several(text(r"[a-z_]+\..+:[a-z_]+")),
        "evidence_folder": text(),
    },
    "server": {
        "url": text(r"https?://\S+"),
        "fingerprints_folder": text(),
        "verification": text("required|skip"),
        "concurrent_requests": whole(1),
        "requests_per_minute": whole(1),
        "timeout_s": real(1),
        "retries": whole(0),
    },
    "collapse": {
        "bins": whole(2),
        "bootstrap_replicates": whole(1),
        "band_replicates": whole(1),
        "interval": text(r"bca|t|percentile"),
        "confidence_level": real(0, 1, open_ends=True),
        "bootstrap_seed": whole(0),
        "shuffled_deals": whole(1),
        "picture_model": text(NAME),
        "picture_benchmark": text(),
        "picture_quantiles": span(real(0, 1)),
    },
    "entropy": {
        "bootstrap_replicates": whole(1),
        "transfer_replicates": whole(1),
        "refit_replicates": whole(1),
        "confidence_level": real(0, 1, open_ends=True),
        "bootstrap_seed": whole(0),
        "min_items": whole(10),
        "min_class_items": whole(2),
        "covariates": several(text(r"[a-z0-9_]+")),
        "reliability_bins": whole(2),
        "shuffled_deals": whole(2),
        "vision_deals": whole(2),
    },
    "interaction": {
        "bootstrap_replicates": whole(1),
        "robustness_replicates": whole(1),
        "interval": text(r"bca|t|percentile"),
        "confidence_level": real(0, 1, open_ends=True),
        "bootstrap_seed": whole(0),
        "min_items": whole(10),
        "covariates": several(text(r"[a-z0-9_]+")),
        "effect_at": real(0, 4, open_ends=True),
        "quadrant_share": real(0.01, 0.5),
        "extreme_share": real(0.01, 0.5),
        "surface_reach": real(0, 4, open_ends=True),
        "surface_min_rows": whole(1),
        "shuffled_deals": whole(20),
    },
    "veto": {
        "coverage": real(0.01, 1),
        "curve_coverages": several(real(0.01, 1)),
        "targets": several(text(r"[a-z0-9_]+")),
        "splits": whole(1),
        "fit_share": real(0, 1, open_ends=True),
        "veto_shares": whole(1),
        "jackknife_blocks": whole(2),
        "permutations": whole(1),
        "confidence_level": real(0, 1, open_ends=True),
        "bootstrap_replicates": whole(1),
        "split_seed": whole(0),
        "planted_share": real(0, 1, open_ends=True),
        "min_items": whole(10),
        "covariates": several(text(r"[a-z0-9_]+")),
        "max_risk": real(0, 1, open_ends=True),
        "delta": real(0, 1, open_ends=True),
    },
    "claims": {
        "reported_points": real(0, 100),
        "reported_decimals": whole(0, 6),
        "coverage": real(0.01, 1),
        "item_counts": span(whole(1)),
        "reported_falls": span(real(0, 1, open_ends=True)),
        "reasoning_parts": whole(2),
        "small_counts": several(whole(1)),
        "reported_cells": whole(1),
        "confidence_level": real(0, 1, open_ends=True),
    },
    "pages": {
        "item_quantiles": several(real(0, 1)),
    },
}
