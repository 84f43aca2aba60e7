"""Synthetic tables of the causal study with known truth, with the columns and types of `schema.CAUSAL`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

MODELS, BENCHMARKS = ("glm", "qwen"), ("symbolic", "visual")
CELLS = [(model, benchmark) for model in MODELS for benchmark in BENCHMARKS]
STARTS = (0.0, 0.5, 1.0)
SHARES = np.round(np.arange(11) / 10, 1)
KNOCKOUTS = ("block_cell", "block_read", "block_both", "block_other_cell", "block_other_statement", "block_image")
SWAPS = ("T", "M", "P", "TM", "TP", "MP", "TMP")


def _table(rows: list[dict[str, Any]], model: str, benchmark: str) -> pd.DataFrame:
    table = pd.DataFrame(rows).assign(model=model, benchmark=benchmark, split="test")
    reals = table.select_dtypes("float").columns
    texts = ["model", "benchmark", "split", "item_id", *(c for c in ("condition", "word", "chosen") if c in table)]
    return table.astype(dict.fromkeys(reals, "float32") | dict.fromkeys(texts, "category"))


def make_effects(
    n_items: int = 200, need: float = 0.5, control_loss: float = 0.0, rewritten: float = 0.9, gain: float = 0.0,
    cells: Any = CELLS, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Effects where 80 % are right; exact shares of the items are lost without evidence (less the later it starts).

    `need` and `control_loss` are shares of all items, `rewritten` that of the texts that the knockout rewrites, `gain`
    the share of all items that raising the evidence makes right.
    """
    parts = []
    for number, (model, benchmark) in enumerate(cells):
        order = np.random.default_rng([seed, number]).permutation(n_items)
        right = order < 0.8 * n_items
        conditions = [("baseline", 0.0), ("empty", 0.5), ("random", 0.0), ("other_prompt", 0.0)]
        conditions += [(name, start) for name in ("evidence", "control") for start in STARTS]
        conditions += [(name, 0.0) for name in ("raise_evidence", "raise_control", "raise_own")]
        rows = []
        for name, start in conditions:
            lost = {"evidence": need * (1 - start), "control": control_loss, "other_prompt": 0.6}.get(name, 0.0)
            correct = right & (order >= lost * n_items)
            if name == "raise_evidence":
                correct = right | (order >= (1 - gain) * n_items)
            new = order < (rewritten if name == "evidence" else lost) * n_items
            lifted = {"raise_evidence": (1.5, 1.0), "raise_control": (1.0, 1.5), "raise_own": (1.3, 1.0)}
            up = lifted.get(name, (1.0, 1.0) if name == "baseline" else (np.nan, np.nan))
            base = np.nan if name == "other_prompt" else 0.0
            for k in range(n_items):
                rows.append({
                    "item_id": f"item {k:03d}", "condition": name, "start_share": start, "correct": bool(correct[k]),
                    "parsed": True, "prediction": "3", "same_prediction": bool(correct[k] == right[k]),
                    "same_text": not new[k], "n_response_tokens": 40 + 5 * int(new[k]), "finish_reason": "stop",
                    "full_entropy_nats": 0.2, "answer_lost_nats": base, "answer_changed": False,
                    "reasoning_lost_nats": base + (0.1 * k / n_items if name == "evidence" else 0.0),
                    "evidence_mass": 0.1 * (1 + k % 3) * up[0], "control_box_mass": 0.02 * (1 + k % 3) * up[1],
                    "visual_mass": 0.5 * up[0],
                })  # fmt: skip
        parts.append(_table(rows, model, benchmark))
    return pd.concat(parts).astype(dict.fromkeys(["model", "benchmark", "condition"], "category"))


def make_recalls(
    n_items: int = 200, usable: int = 150, by_text: float = 0.1, by_picture: float = 0.8, kept: Any = (0.9, 0.9, 0.2),
    link: float = 0.0, cells: Any = CELLS, words: tuple[str, ...] = ("digit",), seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Recalls of which exact shares turn by the text alone and by the picture alone; two of them by both.

    `kept` without cell, without read, without both; `link`, nats a unit of the cell's mass, is what ties use to it.
    """
    parts = []
    for number, (model, benchmark) in enumerate(cells):
        rng = np.random.default_rng([seed, number])
        places, mass = rng.permutation(usable), rng.uniform(0.05, 0.4, n_items)
        rows = []
        for k in range(n_items):
            row = {"item_id": f"item {k:03d}", "is_usable": k < usable, "why_not": "" if k < usable else "misread"}
            if k >= usable:
                rows.append(row | dict.fromkeys(("own_word", "altered_word", "word"), "") | {
                    "condition": "none", "turned": False, "kept": False, "log_odds_nats": np.nan,
                    "lost_nats": np.nan, "cell_mass": np.nan, "read_mass": np.nan})  # fmt: skip
                continue
            place = (places[k] + 0.5) / usable
            shares = {"T": by_text, "P": by_picture, "M": 0.0, "TMP": 1.0}
            blocks = dict(zip(KNOCKOUTS[:3], kept, strict=True))
            for word in words:
                for name in ("none", *SWAPS, *KNOCKOUTS):
                    turned = place < shares.get(name, max(by_text, by_picture)) if name in SWAPS else False
                    stays = place < blocks.get(name, 1.0) if name in KNOCKOUTS else not turned
                    used = link * mass[k] + rng.normal()
                    rows.append(row | {
                        "word": word, "own_word": "3", "altered_word": "7", "condition": name, "turned": bool(turned),
                        "kept": bool(stays), "log_odds_nats": used if name == "P" else -5.0,
                        "lost_nats": used if name == "block_cell" else 0.0, "cell_mass": mass[k], "read_mass": 0.1,
                    })  # fmt: skip
        parts.append(_table(rows, model, benchmark))
    return pd.concat(parts).astype(dict.fromkeys(["model", "benchmark", "condition", "word"], "category"))


def make_forced(
    n_items: int = 200, gain: float = 0.5, fall: float = 0.5, dilution: float = 0.3, cells: Any = CELLS, seed: int = 0
) -> pd.DataFrame:
    """Forced answers whose accuracy rises by `gain` from 10 % to all of the reasoning, evenly, and whose evidence mass
    falls by `fall` beyond a uniform look, which falls by `dilution`."""
    parts = []
    for number, (model, benchmark) in enumerate(cells):
        rng = np.random.default_rng([seed, number])
        order, scale = rng.permutation(n_items), np.exp(0.3 * rng.normal(size=n_items))
        rows = []
        for share in SHARES:
            done = max(share - 0.1, 0) / 0.9
            uniform = np.nan if share == 0 else 0.05 * (1 - dilution * done)
            for k in range(n_items):
                mass = 4 * scale[k] * uniform * (1 - fall * done) * np.exp(0.1 * rng.normal())
                rows.append({
                    "item_id": f"item {k:03d}", "reasoning_share": share, "prediction": "3", "parsed": True,
                    "correct": bool(order[k] < (0.3 + gain * done) * n_items), "format_mass": 0.95,
                    "evidence_mass": mass, "uniform_evidence_share": uniform, "n_bins": 10,
                })  # fmt: skip
        parts.append(_table(rows, model, benchmark))
    return pd.concat(parts).astype(dict.fromkeys(["model", "benchmark"], "category"))


def make_heads(n_items: int = 60, cells: Any = CELLS, seed: int = 0) -> pd.DataFrame:
    """Losses of which k top heads carry a tenth of k, and random ones none."""
    parts = []
    for number, (model, benchmark) in enumerate(cells):
        total = np.random.default_rng([seed, number]).exponential(2.0, n_items)
        rows = [
            {"item_id": f"item {k:03d}", "n_heads": n, "chosen": chosen, "lost_nats": share * total[k]}
            for k in range(n_items)
            for n, chosen, share in [(1, "top", 0.1), (4, "top", 0.4), (1, "random", 0), (16, "all", 1)]
        ]
        parts.append(_table(rows, model, benchmark))
    return pd.concat(parts).astype(dict.fromkeys(["model", "benchmark", "chosen"], "category"))
