"""Answers forced along the reasoning of which the truth is known: what the rule of C6 is tried on.

Why: two things have to happen in one cell, so that the null is that either does not, and one that only kept both still
would flatter the rule. In: a frozen population and a Generator. Out: a table as `make causal` writes it, of
3 models x 3 benchmarks; the settings, fixed before the first of them was simulated. Orders of magnitude are those of
the tracked table (figures/causal/forced.parquet): accuracies at a tenth, what a uniform look loses, spread of masses
over items, how alike the shares of an item and the answers of two models are. Never: a field that a rate was looked at
to choose.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import ndtr

from dontblink.statistics.bootstrap import Floats
from dontblink.studies.causal import FIRST, LAST

SHARES = np.round(np.linspace(0, LAST, 11), 1)


@dataclass(frozen=True)
class Forced:
    """Answers whose chance rises by `rise` from a tenth to all of the reasoning, masses that fall by `fall`.

    `accuracy` is the chance at a tenth, one a benchmark. The evidence mass is log-normal around `lift` times a uniform
    look, which loses `dilution`; `fall` is what it loses beyond. Behind answer and mass stand normal numbers; two
    shares of an item correlate by `share_alike`, so that dealing them is fair, unless the answers wander: by
    `wander`^(steps between the two). `model_alike` is the correlation of two models on an item.
    """

    n_items: int = 250
    n_models: int = 3
    accuracy: tuple[float, ...] = (0.1, 0.3, 0.6)
    rise: float = 0.0
    fall: float = 0.0
    dilution: float = 0.35
    lift: float = 2.0
    spread: float = 1.0
    model_alike: float = 0.4
    share_alike: float = 0.3
    wander: float = 0.0

    def truth(self) -> dict[str, float]:
        """Return the rise in accuracy and the fall beyond a uniform look, the same in every cell."""
        return {"gain": self.rise, "fall": self.fall}

    def draw(self, rng: np.random.Generator) -> pd.DataFrame:
        """Return a row per model, benchmark, item and share, with the columns that `causal.c6_table` reads."""
        along = np.clip((SHARES - FIRST) / (LAST - FIRST), 0, 1)
        chance = np.array(self.accuracy)[:, None, None] + self.rise * along
        steps = np.abs(np.subtract.outer(np.arange(len(SHARES)), np.arange(len(SHARES))))
        alike = np.where(steps > 0, self.share_alike, 1.0)
        correct = ndtr(self._draw_paths(rng, self.wander**steps if self.wander else alike)) < chance
        look = 0.06 * rng.lognormal(-0.02, 0.2, (len(self.accuracy), self.n_items, 1)) * (1 - self.dilution * along)
        noise = np.exp(self.spread * self._draw_paths(rng, alike) - self.spread**2 / 2)
        mass = np.where(SHARES > 0, self.lift * look * (1 - self.fall * along) * noise, np.nan)
        look = np.broadcast_to(np.where(SHARES > 0, look, np.nan), mass.shape)
        names = [range(size) for size in mass.shape[:3]]
        keys = pd.MultiIndex.from_product([*names, SHARES], names=["model", "benchmark", "item_id", "reasoning_share"])
        values = {"correct": correct, "evidence_mass": mass, "uniform_evidence_share": look}
        table = pd.DataFrame({name: value.reshape(-1) for name, value in values.items()}, index=keys).reset_index()
        return table.assign(split="test", format_mass=1.0)

    def _draw_paths(self, rng: np.random.Generator, correlation: Floats) -> Floats:
        """Return standard normals float64[models, benchmarks, items, shares]."""
        factor = np.linalg.cholesky(correlation).T
        item = rng.normal(size=(len(self.accuracy), self.n_items, len(SHARES))) @ factor
        own = rng.normal(size=(self.n_models, *item.shape)) @ factor
        return np.asarray(np.sqrt(self.model_alike) * item + np.sqrt(1 - self.model_alike) * own)


# Both have to happen, so that either alone is null. Of the tracked answers neighbours agree (phi about .35) and ends do
# not, which the rule's deals of shares do not know; its masses do not wander.
NULLS = {
    "nothing": ("neither moves", Forced()),
    "no_fall": ("accuracy rises, grounding stays", Forced(rise=0.3)),
    "no_rise": ("grounding falls, answers wander without a rise", Forced(fall=0.6, wander=0.6)),
}
EFFECT = Forced(rise=0.05, fall=0.3)  # the smallest effect of interest, in every cell, with the smallest measured fall
SIZES = (250, 500, 1000, 1500)
SETTINGS = {name: population for name, (_, population) in NULLS.items()} | {
    f"with_{n}": replace(EFFECT, n_items=n) for n in SIZES
}
