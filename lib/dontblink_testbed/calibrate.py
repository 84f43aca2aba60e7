"""Fix the difficulty of the benchmarks on calibration items: `python -m dontblink_testbed.calibrate`.

In: the trained checkpoints. Out: `difficulty.json` beside them, with the accuracy of every model at every candidate
range, and the range that a rule picks. Only answers are looked at: no attention, no entropy, no test
item. The chosen ranges are then written into the parameters by hand, and a test holds the two together.

The rule: of the candidates, take the one at which the worst model is least outside 0.60 to 0.88 (inside the 0.55 to
0.92 that the testbed asks for, with room for sampling error); of equals, the one whose mean accuracy over the models
is nearest to 0.75; of equals, the first. Picking the best of many candidates flatters it, so the winner is measured
again, on calibration items drawn at its own difficulty; `in_range` says whether every model then lies within 0.55 to
0.92.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from dontblink.models.checkpoints import load_vlm
from dontblink.models.generate import Sampling, generate_responses
from dontblink.models.vlm import VLM
from dontblink.questions.items import Item
from dontblink_testbed import benchmark as testbed
from dontblink_testbed.architectures import MODELS
from dontblink_testbed.questions import Difficulty

LOWEST, HIGHEST, TARGET = 0.60, 0.88, 0.75
REQUIRED = (0.55, 0.92)
CONFIRMED_ITEMS = 500
FEWEST_ITEMS = 60  # a candidate with fewer items is not measured well enough to be chosen
CHAIN_LENGTHS = {
    "symbolic": [(low, high) for low in (1, 2) for high in (3, 4, 5)],
    "visual_reference": [(low, 6) for low in (2, 3, 4)],
    "hallucination": [(1, 2), (1, 3), (1, 4), (2, 4)],
}
# The symbolic pictures stay nearly clean, so that its errors are textual; the others range up to heavy noise.
NOISE_LEVELS = {
    "symbolic": [(0.0, 0.05), (0.0, 0.1)],
    "visual_reference": [(low / 10, high / 10) for low in range(2, 9) for high in (8, 9, 10) if high - low >= 2],
    "hallucination": [(low / 10, high / 10) for low in range(9) for high in (4, 6, 8, 10) if high - low >= 2],
}
OPERATORS = {"symbolic": [(1, 2), (1, 3), (2, 3)]}
TYPICAL_SHARES = {"hallucination": [0.35, 0.5, 0.6, 0.7]}


def candidate_difficulties(benchmark: str) -> list[Difficulty]:
    """Return the candidate ranges of a benchmark."""
    return [
        Difficulty(chain, noise, operators, typical)
        for operators in OPERATORS.get(benchmark, [(2, 2)])
        for typical in TYPICAL_SHARES.get(benchmark, [0.9])
        for noise in NOISE_LEVELS[benchmark]
        for chain in CHAIN_LENGTHS[benchmark]
    ]


def group_of(candidate: Difficulty) -> tuple[tuple[int, int], float]:
    """Return what cannot be selected among finished items: candidates that share it share their items."""
    return candidate.operators_per_step, candidate.typical_share


def widest(candidates: list[Difficulty]) -> list[Difficulty]:
    """Return, per group, the one difficulty that covers all its candidates: what is generated."""
    covers = []
    for group in dict.fromkeys(map(group_of, candidates)):
        same = [c for c in candidates if group_of(c) == group]
        chain = (min(c.chain_length[0] for c in same), max(c.chain_length[1] for c in same))
        noise = (min(c.noise_level[0] for c in same), max(c.noise_level[1] for c in same))
        covers.append(Difficulty(chain, noise, *group))
    return covers


def answer_items(vlm: VLM, items: list[Item], max_new_tokens: int) -> dict[str, bool]:
    """Return whether each item was answered correctly."""
    by_id = {item.id: item for item in items}
    correct = {}
    for response in generate_responses(vlm, items, Sampling(max_new_tokens), batch_size=64):
        begin, end = vlm.segment(response.response_ids).answer
        score = testbed.score(by_id[response.item_id], vlm.decode(response.response_ids[begin:end]))
        correct[response.item_id] = score.correct
    return correct


def is_inside(item: Item, candidate: Difficulty) -> bool:
    """Return whether an item could have been drawn from the candidate's ranges."""
    chain, noise = float(item.covariates["chain_length"]), float(item.covariates["noise_level"])
    return candidate.chain_length[0] <= chain <= candidate.chain_length[1] and (
        candidate.noise_level[0] <= noise <= candidate.noise_level[1]
    )


def measure_candidates(
    vlms: list[VLM], benchmark: str, n_items: int, seed: int, max_new_tokens: int
) -> list[dict[str, Any]]:
    """Return one row per candidate: its ranges, the number of items inside them, and the accuracy per model."""
    candidates = candidate_difficulties(benchmark)
    rows = []
    for cover in widest(candidates):
        items = list(testbed.load_items(benchmark, "calibration", n_items, seed, cover))
        answers = {vlm.name: answer_items(vlm, items, max_new_tokens) for vlm in vlms}
        for candidate in (c for c in candidates if group_of(c) == group_of(cover)):
            inside = [item.id for item in items if is_inside(item, candidate)]
            if len(inside) < FEWEST_ITEMS:
                continue
            accuracy = {name: float(np.mean([correct[i] for i in inside])) for name, correct in answers.items()}
            rows.append({**asdict(candidate), "n_items": len(inside), "accuracy": accuracy})
    return rows


def choose(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Apply the rule of this module's docstring to the rows of one benchmark."""

    def rank(row: dict[str, Any]) -> tuple[float, float]:
        values = list(row["accuracy"].values())
        return max(0.0, LOWEST - min(values), max(values) - HIGHEST), abs(float(np.mean(values)) - TARGET)

    return min(rows, key=rank)


def read_ranges(row: dict[str, Any]) -> Difficulty:
    """Return the difficulty that a row of candidates, or of the record, stands for."""
    values: dict[str, Any] = {
        field.name: tuple(row[field.name]) if isinstance(row[field.name], list | tuple) else row[field.name]
        for field in fields(Difficulty)
    }
    return Difficulty(**values)


def is_chosen(difficulty: Difficulty, record: dict[str, Any], benchmark: str) -> bool:
    """Return whether a difficulty is the one that a record of this command holds for the benchmark."""
    return difficulty == read_ranges(record["benchmarks"][benchmark]["chosen"])


def confirm(
    chosen: dict[str, Any], vlms: list[VLM], benchmark: str, n_items: int, seed: int, limit: int
) -> dict[str, Any]:
    """Measure the chosen difficulty again on calibration items drawn at it: these numbers the cards report."""
    items = list(testbed.load_items(benchmark, "calibration", n_items, seed, read_ranges(chosen)))
    accuracy = {vlm.name: float(np.mean(list(answer_items(vlm, items, limit).values()))) for vlm in vlms}
    in_range = REQUIRED[0] <= min(accuracy.values()) and max(accuracy.values()) <= REQUIRED[1]
    return {**chosen, "accuracy_confirmed": accuracy, "n_confirmed": n_items, "in_range": in_range}


def main() -> None:
    """Measure all candidates with all checkpoints and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoints", type=Path, default=Path("models/testbed"))
    parser.add_argument(
        "--items", type=int, default=800, help="calibration items generated per benchmark and group of candidates"
    )
    parser.add_argument("--seed", type=int, default=2026, help="the testbed's item seed")
    parser.add_argument("--max-new-tokens", type=int, default=160)
    arguments = parser.parse_args()
    vlms = [load_vlm(arguments.checkpoints / name, name=name) for name in MODELS]
    record: dict[str, Any] = {
        "rule": (__doc__ or "").split("The rule: ")[1].strip(),
        "seed": arguments.seed,
        "benchmarks": {},
    }
    for benchmark in testbed.BENCHMARKS:
        rows = measure_candidates(vlms, benchmark, arguments.items, arguments.seed, arguments.max_new_tokens)
        chosen = confirm(choose(rows), vlms, benchmark, CONFIRMED_ITEMS, arguments.seed, arguments.max_new_tokens)
        record["benchmarks"][benchmark] = {"chosen": chosen, "candidates": rows}
        print(benchmark, json.dumps(record["benchmarks"][benchmark]["chosen"]))
    path = arguments.checkpoints / "difficulty.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"written: {path}; copy the chosen ranges into the testbed section of the parameters")


if __name__ == "__main__":
    main()
