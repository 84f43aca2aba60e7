"""Bring finished training runs to `models/testbed` and write their cards: `python -m ...testbed.publish weights|cards`.

In: the exported runs of `train` (and, for the cards, the record of `calibrate`). Out: one folder per model with the
weights of seed 0, `training.json` (schedule, curve, commit), `training-seed1.json` where a second seed was trained,
and a card that says in plain words what the checkpoint is, how it was made, how long it took and how good it is; beside
it <name>-seed1 with the weights of that seed, which params/seeds.yaml puts in the place of the first.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from dontblink_testbed.architectures import MODELS
from dontblink_testbed.train import RUNS

CARD = """\
---
license: mit
library_name: transformers
---
# {name}

A {parameters:,}-parameter vision-language model of the real `{architecture}` class, trained from scratch by this
project on generated pictures and chains of thought. It is part of an instrument check and answers nothing but the
testbed's questions. It was trained on pictures, questions and gold chains only: on no attention map, no evidence
box and no benchmark item.

Load it with transformers' own `{architecture}.from_pretrained` (bfloat16 weights, {megabytes:.1f} MB).

| training | {columns} |
|---|{rules}|
{rows}

Accuracy on {n_items} calibration items at the benchmark's fixed difficulty (greedy):

| benchmark | accuracy | all models inside the intended range |
|---|---|---|
{accuracy}

The learning curves are in `training*.json` and in figure `00_testbed_learning`. {notes}
"""
SEED_CARD = """\
---
license: mit
library_name: transformers
---
# {name}, training seed {seed}

The same architecture, lessons and schedule as `{name}` from another seed of weights and lessons; its curve and facts
stand in the card of `{name}` and in `training-seed{seed}.json` there. It exists so that a verdict that hangs on one
training run shows.
"""


def publish_weights(work: Path, destination: Path) -> None:
    """Copy seed 0 of every model; another seed into a folder of its own, its training facts to those of seed 0.

    Raises
    ------
    FileNotFoundError
        If a run of `RUNS` has not been trained to its end.
    """
    for name, seed in RUNS:
        source, target = work / f"{name}-seed{seed}", destination / name
        if not (source / "training.json").exists():
            raise FileNotFoundError(f"{source}: not trained to its end; run `make testbed`")
        target.mkdir(parents=True, exist_ok=True)
        if seed == 0:
            shutil.copytree(source, target, dirs_exist_ok=True)
            continue
        shutil.copy(source / "training.json", target / f"training-seed{seed}.json")
        other = target.with_name(f"{name}-seed{seed}")
        shutil.copytree(source, other, dirs_exist_ok=True, ignore=shutil.ignore_patterns("training.json"))
        (other / "README.md").write_text(SEED_CARD.format(name=name, seed=seed))


def write_card(folder: Path, difficulty: dict[str, Any]) -> None:
    """Write README.md of one model from its training facts and the calibration record."""
    trainings = [json.loads(path.read_text()) for path in sorted(folder.glob("training*.json"))]
    trainings.sort(key=lambda facts: facts["seed"])
    first = trainings[0]
    last = [facts["curve"][-1] for facts in trainings]

    def row(label: str, values: list[Any]) -> str:
        return f"| {label} | {' | '.join(str(value) for value in values)} |"

    rows = [
        row(
            "code (commit from step)",
            ["; ".join(f"{h['commit']} from {h['step']}" for h in f["history"]) for f in trainings],
        ),
        row("optimiser steps", [f["steps"] for f in trainings]),
        row("steps of phase 1 (perception and text)", [f["phase_2_start"] for f in trainings]),
        row("minutes of wall clock, one thread, several runs at once", [f["train_minutes"] for f in trainings]),
        row("final loss (nats per response token)", [f"{c['loss_nats']:.3f}" for c in last]),
        *(
            row(key.replace("_", " ") + " (held-out, teacher-forced)", [f"{c[key]:.3f}" for c in last])
            for key in last[0]
            if key.startswith(("perception_", "chains_"))
        ),
    ]
    chosen = {name: record["chosen"] for name, record in difficulty["benchmarks"].items()}
    accuracy = [
        row(name, [f"{c['accuracy_confirmed'][first['name']]:.3f}", "yes" if c["in_range"] else "no"])
        for name, c in chosen.items()
    ]
    outside = [name for name, c in chosen.items() if not c["in_range"]]
    notes = ""
    if outside:
        notes = (
            f"On {', '.join(outside)} at least one model is outside 0.55 to 0.92 at the chosen difficulty, because no "
            "candidate suited all models; the candidate least outside was kept (see `difficulty.json`)."
        )
    weights = folder / "model.safetensors"
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    (folder / "README.md").write_text(CARD.format(
        name=first["name"], parameters=first["parameters"], architecture=architecture,
        megabytes=weights.stat().st_size / 1e6, columns=" | ".join(f"seed {f['seed']}" for f in trainings),
        rules="|".join("---" for _ in trainings), rows="\n".join(rows), accuracy="\n".join(accuracy),
        n_items=max(c["n_confirmed"] for c in chosen.values()), notes=notes,
    ))  # fmt: skip


def main() -> None:
    """Publish weights or write the cards."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["weights", "cards"])
    parser.add_argument("--work", type=Path, default=Path("results/training"), help="folder of the training runs")
    parser.add_argument("--destination", type=Path, default=Path("models/testbed"))
    arguments = parser.parse_args()
    if arguments.what == "weights":
        publish_weights(arguments.work, arguments.destination)
        return
    difficulty = json.loads((arguments.destination / "difficulty.json").read_text())
    for name in MODELS:
        write_card(arguments.destination / name, difficulty)


if __name__ == "__main__":
    main()
