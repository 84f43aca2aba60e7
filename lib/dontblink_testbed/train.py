"""Train the testbed's checkpoints from scratch: `python -m dontblink_testbed.train`.

In: a model name and a seed. Out: a folder that transformers' own `from_pretrained` loads (safetensors weights, config,
tokenizer, image processor), the learning curve, and the facts for its card. Training data is drawn from (seed, step),
so that a run stopped at any moment resumes to the same result. Training sees gold chains and pictures only: never an
attention map, an evidence box or a benchmark item.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from dontblink import paths
from dontblink.files import whole_file
from dontblink_testbed.architectures import (
    MODELS,
    Positions,
    build_image_processor,
    build_model,
    prepare,
    response_logits,
)
from dontblink_testbed.lessons import CLEAN, MicroBatch, make_step, pack, teach_chain, teach_perception
from dontblink_testbed.questions import ASK
from dontblink_testbed.scenes import ARROWS, COLOURS, DIGITS, SHAPES
from dontblink_testbed.vocabulary import FORMATS, build_tokenizer, token_ids

EVALUATION_SEED = 900_000_000
PERCEPTION_CLASSES = {"shape": SHAPES, "colour": COLOURS, "digit": DIGITS, "arrow": ARROWS}


@dataclass(frozen=True)
class Schedule:
    """Optimiser settings and the length of training.

    Phase 1 ends when perception passes `gate` in every class (checked every `check_every` steps), or at its cap;
    phase 2 has a fixed length and ends in a linear decay over its last `decay_share`.
    """

    phase_1_cap_steps: int
    phase_2_steps: int
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    decay_share: float = 0.4
    gate: float = 0.95
    check_every: int = 200
    save_every: int = 400


SCHEDULES = {
    "qwen3vl-tiny-s": Schedule(phase_1_cap_steps=2500, phase_2_steps=3000),
    "qwen3vl-tiny-m": Schedule(phase_1_cap_steps=1600, phase_2_steps=1200, learning_rate=1.5e-3),
    "glm4v-tiny": Schedule(phase_1_cap_steps=3000, phase_2_steps=3000),
}
RUNS = (("qwen3vl-tiny-m", 0), ("glm4v-tiny", 0), ("qwen3vl-tiny-s", 0), ("qwen3vl-tiny-s", 1))


def read_commit() -> str:
    """Return the commit of the code that this process loaded, or 'unknown' outside a git checkout."""
    command = ["git", "-C", str(paths.ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


class Trainer:
    """One training run: the model, its optimiser and its place in the schedule."""

    def __init__(self, name: str, seed: int, schedule: Schedule) -> None:
        self.name, self.seed, self.schedule = name, seed, schedule
        self.family: str = MODELS[name]["family"]
        self.model: nn.Module = build_model(name, seed)
        prepare(self.model)
        self.positions = Positions(self.model, len(FORMATS[self.family].before_image.split()))
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        plain = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=schedule.learning_rate, betas=(0.9, 0.98), fused=True)
        self.history = [{"commit": read_commit(), "step": 0}]
        self.step = 0
        self.phase_2_start: int | None = None
        self.seconds = 0.0
        self.curve: list[dict[str, Any]] = []

    @property
    def finished(self) -> bool:
        """Whether phase 2 has run its length."""
        return self.phase_2_start is not None and self.step >= self.phase_2_start + self.schedule.phase_2_steps

    def learning_rate(self) -> float:
        """Return the rate for the coming step: warm-up, constant, then a linear decay at the end of phase 2."""
        rate = self.schedule.learning_rate * min(1.0, (self.step + 1) / self.schedule.warmup_steps)
        if self.phase_2_start is None:
            return rate
        left = self.phase_2_start + self.schedule.phase_2_steps - self.step
        return rate * min(1.0, left / (self.schedule.decay_share * self.schedule.phase_2_steps))

    def logits(self, batch: MicroBatch) -> torch.Tensor:
        """Return float32 logits of the response rows, computed under bfloat16 autocast."""
        with torch.autocast("cpu", torch.bfloat16):
            out = response_logits(self.model, batch.ids, batch.rows, batch.patches, self.positions)
        return out.float()

    def train_step(self) -> float:
        """Take one optimiser step on fresh lessons and return the mean loss per response token (nats)."""
        phase = 1 if self.phase_2_start is None else 2
        batches = make_step(self.family, phase, np.random.default_rng([self.seed, self.step]))
        n_targets = sum(len(batch.targets) for batch in batches)
        total = 0.0
        for batch in batches:
            loss = cross_entropy(self.logits(batch), batch.targets, reduction="sum") / n_targets
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.step += 1
        if not math.isfinite(total):
            raise FloatingPointError(f"{self.name} seed {self.seed}: loss {total} at step {self.step}; lower the rate")
        return total

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return teacher-forced accuracies on fixed held-out lessons: per perception class, and whole chains."""
        rng = np.random.default_rng(EVALUATION_SEED)
        batch = pack(self.family, [teach_perception(rng, CLEAN, 12) for _ in range(40)], rng)
        right = (self.logits(batch).argmax(-1) == batch.targets).numpy()
        ids = token_ids(self.family)
        # Only the word right after `is` (and the shape after its colour) depends on the picture alone.
        result = {
            f"perception_{name}": float(right[np.isin(batch.targets, [ids[word] for word in words])].mean())
            for name, words in PERCEPTION_CLASSES.items()
        }
        for name in ASK:
            chains = pack(self.family, [teach_chain(rng, name) for _ in range(40)], rng)
            hits = (self.logits(chains).argmax(-1) == chains.targets).numpy()
            result[f"tokens_{name}"] = float(hits.mean())
            result[f"chains_{name}"] = float(np.mean([hits[chains.owner == row].all() for row in range(40)]))
        return result

    def check(self, loss: float) -> dict[str, float]:
        """Evaluate, append to the curve, and leave phase 1 when the gate (or its cap) is reached."""
        scores = self.evaluate()
        self.curve.append({
            "step": self.step, "phase": 1 if self.phase_2_start is None else 2, "loss_nats": loss,
            "seconds": round(self.seconds, 1), **{k: round(v, 4) for k, v in scores.items()},
        })  # fmt: skip
        passed = min(scores[f"perception_{name}"] for name in PERCEPTION_CLASSES) > self.schedule.gate
        if self.phase_2_start is None and (passed or self.step >= self.schedule.phase_1_cap_steps):
            self.phase_2_start = self.step
        return scores

    def save(self, path: Path) -> None:
        """Write everything that a resumed run needs: tensors, and the rest as a JSON text beside them (no pickle)."""
        optimiser = self.optimiser.state_dict()
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, held in optimiser["state"].items():
            tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in held.items()}
        rest = {
            "groups": optimiser["param_groups"], "step": self.step, "phase_2_start": self.phase_2_start,
            "seconds": self.seconds, "curve": self.curve, "schedule": asdict(self.schedule), "history": self.history,
        }  # fmt: skip
        own = {name: tensor.detach().clone() for name, tensor in tensors.items()}  # tied weights share memory
        with whole_file(path) as temporary:
            save_file(own, temporary, {"rest": json.dumps(rest)})

    def resume(self, path: Path) -> None:
        """Load a state written by `save`; refuse one of another schedule."""
        with safe_open(path, "pt") as file:
            saved = json.loads(file.metadata()["rest"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        if saved["schedule"] != asdict(self.schedule):
            raise ValueError(f"{path}: written by another schedule; delete it to train from scratch")
        model, optimiser = dict[str, torch.Tensor](), dict[int, dict[str, torch.Tensor]]()
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            if part == "model":
                model[rest] = tensor
            else:
                index, _, key = rest.partition(".")
                optimiser.setdefault(int(index), {})[key] = tensor
        self.model.load_state_dict(model)
        self.optimiser.load_state_dict({"state": optimiser, "param_groups": saved["groups"]})
        self.step, self.phase_2_start = saved["step"], saved["phase_2_start"]
        self.history = [*saved["history"], {"commit": read_commit(), "step": self.step}]
        self.seconds, self.curve = saved["seconds"], saved["curve"]


def train(name: str, seed: int, work: Path, position: int | None = None) -> Path:
    """Train one checkpoint to its end, resuming where an earlier run stopped, and export it.

    Parameters
    ----------
    name, seed : which model of `MODELS`, and the seed of its weights and lessons
    work : folder of the resumable state and of the finished run, `work`/<name>-seed<seed>
    position : line of the progress bar where several runs are side by side
    """
    trainer = Trainer(name, seed, SCHEDULES[name])
    state = work / f"{name}-seed{seed}.safetensors"
    if state.exists():
        trainer.resume(state)
    label, schedule = f"train {name} seed {seed}", trainer.schedule
    cap = schedule.phase_1_cap_steps + schedule.phase_2_steps
    bar = tqdm(total=cap, initial=trainer.step, desc=label, unit="step", position=position, disable=None)
    while not trainer.finished:
        start = time.perf_counter()
        loss = trainer.train_step()
        trainer.seconds += time.perf_counter() - start
        bar.update()
        if trainer.step % schedule.check_every == 0 or trainer.finished:
            scores = trainer.check(loss)
            tqdm.write(f"{label}, step {trainer.step}: loss {loss:.3f} nats, " + describe(scores))
        if trainer.step % schedule.save_every == 0 or trainer.finished:
            trainer.save(state)
    bar.close()
    return export(trainer, work / f"{name}-seed{seed}")


def describe(scores: dict[str, float]) -> str:
    """Return the scores in words: perception per class, then the share of whole chains without a wrong token."""
    return ", ".join(f"{key.replace('_', ' ')} {value:.2f}" for key, value in scores.items() if "tokens" not in key)


def train_all(runs: list[tuple[str, int]], work: Path, jobs: int) -> None:
    """Train runs side by side, one single-threaded process each, longest first."""
    with ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        waiting = [pool.submit(train, name, seed, work, place) for place, (name, seed) in enumerate(runs)]
        for done in waiting:
            print(done.result())


def export(trainer: Trainer, folder: Path) -> Path:
    """Write the checkpoint as transformers reads it, with `training.json` (schedule, curve, commit) beside it."""
    official = build_model(trainer.name, trainer.seed)
    official.load_state_dict(trainer.model.state_dict())
    official.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    build_tokenizer(trainer.family).save_pretrained(folder)
    build_image_processor(trainer.name).save_pretrained(folder)
    facts = {
        "name": trainer.name, "seed": trainer.seed, "schedule": asdict(trainer.schedule), "steps": trainer.step,
        "phase_2_start": trainer.phase_2_start, "train_minutes": round(trainer.seconds / 60, 1),
        "history": trainer.history, "curve": trainer.curve,
        "parameters": sum(p.numel() for p in official.parameters()),
    }  # fmt: skip
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    return folder


def main() -> None:
    """Train the named run, or all runs side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", choices=sorted(MODELS), help="one model (default: every run of RUNS)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and lessons")
    parser.add_argument("--work", type=Path, default=Path("results/training"), help="folder for resumable states")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side (default: CPU cores)")
    arguments = parser.parse_args()
    runs = [(arguments.model, arguments.seed)] if arguments.model else list(RUNS)
    train_all(runs, arguments.work, arguments.jobs)


if __name__ == "__main__":
    main()
