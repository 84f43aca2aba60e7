"""The simulated studies of notebook 05: answers with a danger zone of low vision, the veto's gain, AURC.

Why: a threshold that is fitted and judged on the same items repeats its luck, and an interval may too. In: as `trials`.
Out: rows of the same kind. The expected gain of refitting on such items has no closed form: it is the mean over studies
of the estimate, which every split makes on items that its fit has not seen. Never: a gain of one study as its truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit

from dontblink.statistics.bootstrap import Resampling
from dontblink.studies.cells import ENTROPY, VISION
from dontblink.studies.risk_coverage import selective_table
from dontblink.studies.veto import veto_table
from dontblink_simulation.populations import Scores, draw_shared, round_to
from dontblink_simulation.trials import Row

_SPLITS, _BLOCKS = 10, 10  # the notebook has 100 and 20; fewer cost less and are the same interval, a little wider
_DEALS = 19  # with the observed value a permutation p of exactly 0.05 is possible


@dataclass(frozen=True)
class Blind:
    """Benchmarks `targeted` and `other`; log-odds of a right answer 1.5 - E, less `danger` where V is low and targeted.

    E and V are standard normal, shared by the models of an item to `share`; V is low below -1.3, one answer in ten;
    `step` rounds both.
    """

    n_items: int = 150
    n_models: int = 1
    danger: float = 2.0
    share: float = 0.3
    step: float = 0.0

    def draw(self, rng: np.random.Generator) -> pd.DataFrame:
        """Return an items table as `veto.veto_table` takes it."""
        parts = []
        for benchmark in ("targeted", "other"):
            e, v = (round_to(draw_shared(rng, self.n_items, self.n_models, self.share), self.step) for _ in range(2))
            odds = 1.5 - e - self.danger * ((v < -1.3) & (benchmark == "targeted"))
            names = [f"model {m}" for m in range(self.n_models)]
            parts.append(
                pd.DataFrame({
                    "model": np.repeat(names, self.n_items), "benchmark": benchmark, "split": "test",
                    "task_type": benchmark, "item_id": np.tile([f"{k:05d}" for k in range(self.n_items)], len(names)),
                    "correct": rng.random(len(e)) < expit(odds), ENTROPY: e, VISION: v,
                })
            )  # fmt: skip
        return pd.concat(parts, ignore_index=True)

    def truth(self) -> dict[str, float]:
        """Return 0 for the permutation tests where vision says nothing; elsewhere nothing is null."""
        return dict.fromkeys(("permutation", "best_cell"), 0.0 if self.danger == 0 else np.nan)


def study_veto(population: Blind, rng: np.random.Generator, _: int) -> list[Row]:
    """Gain of the targeted veto and of the linear rule; the permutation p of the veto, pooled and of its best cell."""
    items, is_null = population.draw(rng), population.danger == 0
    table = veto_table(
        items, ["targeted"], rules=("linear", "veto"), n_splits=_SPLITS, n_blocks=_BLOCKS,
        n_deals=_DEALS if is_null else 0, seed=int(rng.integers(2**32)),
    )  # fmt: skip
    pooled = table[table["scope"] == "pooled"].set_index("rule")
    rows = []
    for rule in ("linear", "veto"):
        gain, low, high = (float(pooled.loc[rule, name]) for name in ("gain", "ci_low", "ci_high"))
        rows.append(Row(f"gain_{rule}", "block_jackknife", gain, low, high, truth=gain))
    cells = table[(table["scope"] == "cell") & (table["rule"] == "veto")]
    p = (float(pooled.loc["veto", "p"]), float(cells["p_max"].min())) if is_null else (np.nan, np.nan)
    return [
        *rows,
        *(Row(name, "permutation", p=value) for name, value in zip(("permutation", "best_cell"), p, strict=True)),
    ]


def study_selective(population: Scores, rng: np.random.Generator, n_replicates: int) -> list[Row]:
    """AURC and the risk at coverage 0.9 of one score in one cell, with their bootstrap intervals."""
    rows = population.draw(rng)
    items = rows.assign(model=rows["cell"], benchmark="b", split="test", item_id=rows["item"].astype("str"))
    resampling = Resampling(n_replicates, int(rng.integers(2**32)))
    found = selective_table(items, {"a": ("a", 1.0)}, resampling=resampling).iloc[0]
    results = []
    for name in ("aurc", "risk"):
        value = {key: float(found.get(f"{name}{key}", np.nan)) for key in ("", "_low", "_high")}
        refused = "one class only: the cell is left out" if np.isnan(value[""]) else ""
        results.append(Row(name, "bca", value[""], value["_low"], value["_high"], truth=value[""], reason=refused))
    return results
