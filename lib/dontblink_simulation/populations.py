"""Populations of which the truth is known: what the simulated studies of `make simulate` are drawn from.

Why: whether a 95 % interval covers in 95 of 100 studies can be seen only where the true value is known. In: a frozen
population (its fields are the setting) and a Generator. Out: one study as the statistics take it, and `truth()` by
quantity, exact or by quadrature, never from a simulated sample. Never: a field that a result was looked at to choose,
or a truth that depends on a study.

Models answer the same items. Each normal number of a row is sqrt(share) (its item's) + sqrt(1 - share) (its own), so
that `share` is the correlation between two models on one item and every row has the same distribution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, ndtr, ndtri

from dontblink.statistics.bootstrap import Floats
from dontblink.statistics.firth import pair_columns
from dontblink.studies.cells import ENTROPY, VISION

_NODES = 60  # of the quadrature, an axis; 40 give the same coefficients to 1e-8


@dataclass(frozen=True)
class Masses:
    """Evidence mass and uniform look in the first and last bin, all log-normal; `step` rounds them (ties, zeros).

    `fall` and `dilution` are the true collapses of the two before rounding; `spread` is the standard deviation of the
    log evidence mass.
    """

    n_items: int = 200
    n_models: int = 1
    fall: float = 0.6
    dilution: float = 0.3
    spread: float = 0.8
    share: float = 0.5
    step: float = 0.0

    def margins(self) -> dict[str, tuple[float, float]]:
        """Return median and log standard deviation of each column."""
        return {
            "evidence_first": (0.1, self.spread),
            "evidence_last": (0.1 * (1 - self.fall), self.spread),
            "uniform_first": (0.05, self.spread / 2),
            "uniform_last": (0.05 * (1 - self.dilution), self.spread / 2),
        }

    def draw(self, rng: np.random.Generator) -> pd.DataFrame:
        """Return a row per item and model: item, cell and the four masses; the logs of any two correlate by 0.5."""
        common, rows = draw_shared(rng, self.n_items, self.n_models, self.share), number_rows(self)
        for name, (median, spread) in self.margins().items():
            own = draw_shared(rng, self.n_items, self.n_models, self.share)
            rows[name] = round_to(median * np.exp(spread * (common + own) / np.sqrt(2)), self.step)
        return rows

    def truth(self) -> dict[str, float]:
        """Return the collapse 1 - E(last) / E(first) of the evidence, and beyond the uniform look."""
        mean = {}
        for name, (median, spread) in self.margins().items():
            if self.step:  # E round(X) = step * sum over k >= 1 of P(X > (k - 1/2) step)
                edges = np.arange(0.5, 40 * median * np.exp(3 * spread) / self.step) * self.step
                mean[name] = self.step * float(ndtr(-np.log(edges / median) / spread).sum())
            else:
                mean[name] = median * float(np.exp(spread**2 / 2))
        kept, uniform = (mean[f"{name}_last"] / mean[f"{name}_first"] for name in ("evidence", "uniform"))
        return {"evidence": 1 - kept, "evidence_over_uniform": 1 - kept / uniform}


@dataclass(frozen=True)
class Scores:
    """Two scores of answers, normal, where correct with standard deviation 1 and higher by shift_a and shift_b.

    `label_share` and `score_share` are the shares of the item in the answer (on the normal scale behind it) and in
    the scores; `common` is the correlation of the two scores; `spread` is their standard deviation where wrong; `step`
    rounds them.
    """

    n_items: int = 250
    n_models: int = 1
    accuracy: float = 0.7
    shift_a: float = 1.0
    shift_b: float = 0.6
    label_share: float = 0.5
    score_share: float = 0.5
    common: float = 0.5
    spread: float = 1.0
    step: float = 0.0

    def draw(self, rng: np.random.Generator) -> pd.DataFrame:
        """Return a row per item and model: item, cell, correct (bool), a, b."""
        rows = number_rows(self)
        rows["correct"] = draw_shared(rng, self.n_items, self.n_models, self.label_share) < ndtri(self.accuracy)
        common, *own = (draw_shared(rng, self.n_items, self.n_models, self.score_share) for _ in range(3))
        for name, noise, shift in zip("ab", own, (self.shift_a, self.shift_b), strict=True):
            score = np.sqrt(self.common) * common + np.sqrt(1 - self.common) * noise
            score = np.where(rows["correct"], score + shift, self.spread * score)
            rows[name] = round_to(score, self.step)
        return rows

    def truth(self) -> dict[str, float]:
        """Return the two AUROCs, within a cell and between items, and their difference."""
        a, b = (self._auroc(shift) for shift in (self.shift_a, self.shift_b))
        return {"auroc": a, "auroc_b": b, "difference": a - b}

    def _auroc(self, shift: float) -> float:
        if not self.step:
            return float(ndtr(shift / np.hypot(1.0, self.spread)))
        edges = np.arange(-10.5, 11 + shift / self.step) * self.step
        wrong, right = np.diff(ndtr(edges / self.spread)), np.diff(ndtr(edges - shift))
        return float(right @ (np.cumsum(wrong) - wrong / 2))


@dataclass(frozen=True)
class Answers:
    """Answers with log-odds constant + entropy zE + vision zV + interaction zE zV + difficulty_sd (item's difficulty).

    zE and zV are standardised in the population. `skew` is the standard deviation of log E (half of it for V; 0:
    normal), `step` rounds them, `hard` is the correlation between an item's difficulty and its part of E.
    """

    n_items: int = 250
    n_models: int = 1
    constant: float = 1.2
    entropy: float = -0.8
    vision: float = 0.2
    interaction: float = -0.3
    difficulty_sd: float = 0.0
    hard: float = 0.5
    share: float = 0.5
    skew: float = 0.0
    step: float = 0.0

    def draw(self, rng: np.random.Generator) -> pd.DataFrame:
        """Return a row per item and model as `interaction.build_design` takes them."""
        normal = rng.normal(size=(3, self.n_items, 1))
        difficulty = self.hard * normal[0] + np.sqrt(1 - self.hard**2) * normal[2]
        own = rng.normal(size=(2, self.n_items, self.n_models))
        e, v = (np.sqrt(self.share) * x + np.sqrt(1 - self.share) * y for x, y in zip(normal[:2], own, strict=True))
        ze, zv = self._standard(e, self.skew), self._standard(v, self.skew / 2)
        odds = self.constant + self.entropy * ze + self.vision * zv + self.interaction * ze * zv
        right = rng.random(odds.shape) < expit(odds - self.difficulty_sd * difficulty)
        rows = number_rows(self).rename(columns={"item": "cluster"})
        rows["correct"] = right.T.reshape(-1)
        rows[ENTROPY], rows[VISION] = 0.5 + 0.1 * ze.T.reshape(-1), 0.1 + 0.02 * zv.T.reshape(-1)
        return rows

    def _standard(self, normal: Floats, skew: float) -> Floats:
        """Return the standardised value that a standard normal number stands for."""
        if self.step:
            points, weights = self._nodes()
            return round_to(normal, self.step) / float(np.sqrt(weights @ points**2))
        if not skew:
            return normal
        spread = np.sqrt(np.expm1(skew**2) * np.exp(skew**2))
        return np.asarray((np.exp(skew * normal) - np.exp(skew**2 / 2)) / spread)

    def _nodes(self) -> tuple[Floats, Floats]:
        """Return nodes (of the normal number, rounded if there is a step) and weights of an expectation."""
        if self.step:
            points = np.arange(-np.ceil(9 / self.step), np.ceil(9 / self.step) + 1) * self.step
            return points, np.asarray(ndtr(points + self.step / 2) - ndtr(points - self.step / 2))
        points, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        return points, weights / weights.sum()

    def truth(self) -> dict[str, float]:
        """Return the MARGINAL coefficients, those of the logit over the whole population, and the effect difference.

        A difficulty that the logit does not see shrinks them: they solve E (P(correct) - expit(x b)) x = 0, the
        expectation by quadrature over E, V and difficulty. Without it they are the fields themselves.
        """
        if self.step and self.difficulty_sd:
            raise ValueError("a step and a difficulty: their quadrature is not written; set one of them to 0")
        (e, we), (v, wv) = self._nodes(), self._nodes()
        d, wd = np.polynomial.hermite_e.hermegauss(_NODES) if self.difficulty_sd else (np.zeros(1), np.ones(1))
        r = self.hard * np.sqrt(self.share)
        difficulty = r * e[:, None] + np.sqrt(1 - r**2) * d
        ze, zv = (x.reshape(-1) for x in np.meshgrid(self._standard(e, self.skew), self._standard(v, self.skew / 2)))
        x = np.column_stack([ze, zv, ze * zv, np.ones_like(ze)])
        odds = x @ [self.entropy, self.vision, self.interaction, self.constant]
        shift = self.difficulty_sd * np.tile(difficulty, (len(v), 1))
        chance = expit(odds[:, None] - shift) @ (wd / wd.sum())
        coef = fit_population(x, chance, np.outer(wv, we).reshape(-1))
        cost = {at: expit(coef @ [1, at, at, 1]) - expit(coef @ [-1, at, -at, 1]) for at in (-1, 1)}
        return {"entropy:vision": float(coef[2]), "effect_difference": float(cost[1] - cost[-1])}


@dataclass(frozen=True)
class Benchmarks:
    """Two benchmarks on which entropy and vision say different things; every model answers both.

    Given the answer a feature is normal with standard deviation 1, higher where correct by `full` (both benchmarks),
    `vision_train` or `vision_test`: a linear rule's AUROC has a closed form.
    """

    n_items: int = 150
    n_models: int = 1
    accuracy: float = 0.7
    full: float = 0.8
    vision_train: float = 0.5
    vision_test: float = -0.3
    share: float = 0.5

    def draw(self, rng: np.random.Generator) -> pd.DataFrame:
        """Return an items table of the benchmarks `train` and `test`, as `transfer.transfer_table` takes it."""
        parts = []
        for name, vision in (("train", self.vision_train), ("test", self.vision_test)):
            rows = number_rows(self).rename(columns={"cell": "model"})
            right = draw_shared(rng, self.n_items, self.n_models, self.share) < ndtri(self.accuracy)
            full, answer, seen = (draw_shared(rng, self.n_items, self.n_models, self.share) for _ in range(3))
            rows = rows.assign(benchmark=name, split="test", correct=right, item_id=rows["item"].astype("str"))
            rows = rows.assign(full_entropy_nats=full + self.full * right, answer_entropy_nats=answer)
            parts.append(rows.assign(vision_evidence_mass=seen + vision * right, task_type="other"))
        return pd.concat(parts, ignore_index=True)

    def gain(self, full: Floats, linear: Floats) -> float:
        """Return the true gain on `test` of rules `linear` float[models, 2] over `full` float[models, 1]."""
        shift = np.array([self.full, self.vision_test])
        aucs = [ndtr(w @ shift[: w.shape[1]] / np.sqrt(2 * (w**2).sum(axis=1))) for w in (full, linear)]
        return float((aucs[1] - aucs[0]).mean())


def number_rows(population: Any) -> pd.DataFrame:
    """Return item (int) and cell (text) of each row, cell by cell, items in order."""
    items, models = np.arange(population.n_items), [f"model {m}" for m in range(population.n_models)]
    return pd.DataFrame({"item": np.tile(items, len(models)), "cell": np.repeat(models, len(items))})


def draw_shared(rng: np.random.Generator, n_items: int, n_models: int, share: float) -> Floats:
    """Return standard normals float64[n_models * n_items], cell by cell; two rows of an item correlate by `share`."""
    item, own = rng.normal(size=n_items), rng.normal(size=(n_models, n_items))
    return (np.sqrt(share) * item + np.sqrt(1 - share) * own).reshape(-1)


def round_to(values: Floats, step: float) -> Floats:
    """Return the values rounded to multiples of `step`; 0 leaves them alone."""
    return np.round(values / step) * step if step else values


def fit_population(x: Floats, chance: Floats, weights: Floats) -> Floats:
    """Return the logit's coefficients on a whole population: nodes x float64[n, k], P(correct) and weight of each."""
    pairs, unpack = pair_columns(x)
    coef = np.zeros(x.shape[1])
    for _ in range(100):
        fitted = expit(x @ coef)
        step = np.linalg.solve(((weights * fitted * (1 - fitted)) @ pairs)[unpack], x.T @ (weights * (chance - fitted)))
        coef = coef + step
        if np.abs(step).max() < 1e-12:
            return coef
    raise ValueError(f"the logit of this population did not converge, last step {step}; its effects are too large")
