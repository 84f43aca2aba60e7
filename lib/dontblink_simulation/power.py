"""How many items does a claim need? Power against items per benchmark, for the smallest effect of each claim.

Why: a lab should know before it rents GPUs whether its study can see what it looks for. In: a population whose fields
are the declared effect, and the same one without it. Out: a row per study with a p-value, which `needed` counts and
draws. Tests are the fast ones (sandwich, Obuchowski, one permutation test): the same population without the effect says
at every number of items whether their level holds. Never: an effect chosen for its power, or a power without the level
of its test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, ndtr, ndtri

from dontblink.statistics.auroc import clustered_test
from dontblink.statistics.bootstrap import EstimateError, Floats, divide, linearise_sums
from dontblink.statistics.logit import fit_replicates, prepare_rows, robust_errors, start_at
from dontblink.studies.interaction import TERMS, build_design
from dontblink.studies.veto import veto_table
from dontblink_simulation.populations import Answers, Masses, Scores, draw_shared, number_rows
from dontblink_simulation.selection import Blind
from dontblink_simulation.trials import Row, Statistic

SIZES = (100, 300, 600, 1000, 2000)
_SPLITS, _BLOCKS, _DEALS = 10, 10, 19  # of the veto: with the observed gain a permutation p of exactly 0.05 is possible


@dataclass(frozen=True)
class Confident:
    """Confident answers of two task types: wrong with chance `risk`, and `added` more where vision is low and visual.

    Every item is answered by every model; half of the answers are confident and half of those have low vision. `share`
    is the share of the item in vision, entropy and the answer.
    """

    n_items: int = 300
    n_models: int = 3
    risk: float = 0.1
    added: float = 0.05
    share: float = 0.3

    def draw(self, rng: np.random.Generator) -> pd.DataFrame:
        """Return a row per item, model and task type: item, cell, visual, confident, low, wrong (bool)."""
        parts = []
        for visual in (True, False):
            rows = number_rows(self)
            entropy, vision, hard = (draw_shared(rng, self.n_items, self.n_models, self.share) for _ in range(3))
            low = vision < 0
            rows = rows.assign(item=rows["item"] + self.n_items * visual, visual=visual, confident=entropy < 0, low=low)
            parts.append(rows.assign(wrong=ndtr(hard) < self.risk + self.added * (low & visual)))
        return pd.concat(parts, ignore_index=True)

    def truth(self) -> dict[str, float]:
        """Return the contrast: risk added by low vision, visual minus symbolic."""
        return {"hazard": self.added}


def gain_of_veto(population: Blind, coverage: float = 0.9, floor: float = -1.3) -> float:
    """Return what vetoing all answers with V < floor saves of the risk at a coverage, in the targeted benchmark.

    Entropy alone accepts the `coverage` of lowest E; the veto accepts as many of those that are left. By summation over
    a fine grid of E, which has no step.
    """
    e = np.linspace(-8, 8, 20_001)
    mass = np.exp(-(e**2) / 2)
    mass /= mass.sum()
    blind, order = float(ndtr(floor)), np.cumsum(mass)
    seen, unseen = (1 - expit(1.5 - e - lost) for lost in (0.0, population.danger))

    def add_up(risk: Floats, share: float) -> float:
        return float(np.interp(share, order, np.cumsum(mass * risk)))

    alone = add_up(blind * unseen + (1 - blind) * seen, coverage)
    return (alone - (1 - blind) * add_up(seen, coverage / (1 - blind))) / coverage


def study_beta(population: Answers, rng: np.random.Generator, _: int) -> list[Row]:
    """Wald test of b_EV by the cluster sandwich."""
    design = build_design(population.draw(rng))
    rows = prepare_rows(design.x, design.y, np.unique(design.cluster, return_inverse=True)[1])
    ones, column = np.ones((1, len(rows.first))), TERMS.index("entropy:vision")
    beta, separated = fit_replicates(rows, ones, start_at(rows, np.zeros(design.x.shape[1])))
    if separated[0]:
        raise EstimateError("the data are separated: no Wald test")
    error = robust_errors(rows, ones, beta, [column])[0, 0]
    return [_wald("beta", beta[0, column] / rows.scale[column], error / rows.scale[column])]


def study_gain(population: Blind, rng: np.random.Generator, _: int) -> list[Row]:
    """Permutation test of the targeted veto's gain in its benchmark, over its models, and its interval above 0.

    The permutation alone says that vision is informative, which is seen long before that a veto helps: a study finds a
    gain where both say so, and p is 1 where the interval does not.
    """
    table = veto_table(
        population.draw(rng), ["targeted"], rules=("veto",), n_splits=_SPLITS, n_blocks=_BLOCKS, n_deals=_DEALS,
        seed=int(rng.integers(2**32)),
    )  # fmt: skip
    own = table[(table["scope"] == "benchmark") & (table["benchmark"] == "targeted")].iloc[0]
    return [Row("gain", "test", float(own["gain"]), p=float(own["p"]) if own["ci_low"] > 0 else 1.0)]


def study_lead(population: Scores, rng: np.random.Generator, _: int) -> list[Row]:
    """Obuchowski's test of two AUROCs, means over the models' cells."""
    rows = population.draw(rng)
    test = clustered_test(rows["correct"], rows["a"], rows["b"], rows["item"], cell=rows["cell"])
    return [Row("difference", "test", test.difference, p=test.p)]


def study_hazard(population: Confident, rng: np.random.Generator, _: int) -> list[Row]:
    """Wald test of the contrast of the risks that low vision adds among confident answers, clustered by item."""
    rows = population.draw(rng)
    inside = [rows["confident"] & (rows["visual"] == v) & (rows["low"] == low) for v, low in _CORNERS]
    values = np.column_stack([column for part in inside for column in (part & rows["wrong"], part)]).astype(np.float64)
    return [_wald("hazard", *(x[0] for x in linearise_sums(values, _contrast, rows["item"], rows["cell"])))]


_CORNERS = ((True, True), (True, False), (False, True), (False, False))


def _contrast(totals: Any) -> Any:
    risk = [divide(totals[..., k], totals[..., k + 1]) for k in (0, 2, 4, 6)]
    return (risk[0] - risk[1] - risk[2] + risk[3])[..., None]


def study_fall(population: Masses, rng: np.random.Generator, _: int) -> list[Row]:
    """Wald test of the collapse beyond a uniform look in one cell."""
    rows = population.draw(rng)
    values = rows[["evidence_first", "evidence_last", "uniform_first", "uniform_last"]].to_numpy()
    found = linearise_sums(values, _beyond, rows["item"])
    return [_wald("evidence_over_uniform", *(x[0] for x in found))]


def _beyond(totals: Any) -> Any:
    kept, uniform = (divide(totals[..., k + 1], totals[..., k]) for k in (0, 2))
    return (1 - divide(kept, uniform))[..., None]


def _wald(quantity: str, estimate: float, error: float) -> Row:
    if not error > 0:
        raise EstimateError(f"standard error {error}: no Wald test")
    return Row(quantity, "test", float(estimate), p=float(2 * ndtr(-abs(estimate) / error)))


@dataclass(frozen=True)
class Claim:
    """An effect as words, its size, the quantity of its rows, a study, populations with and without it, sizes to try.

    `side` is the sign of the claimed effect, `n_studies` what is simulated at most of a setting.
    """

    words: str
    effect: float
    row: str
    side: int
    study: Callable[..., list[Row]]
    population: Any
    nothing: Any
    sizes: Sequence[int] = SIZES
    n_studies: int = 500


_WELL, _LESS = (float(np.sqrt(2) * ndtri(auroc)) for auroc in (0.85, 0.80))
_HARD = Answers(n_models=3, difficulty_sd=1.2, skew=0.6)
CLAIMS: dict[str, Claim] = {
    "beta": Claim(
        "$\\beta_{EV}$ = -0.2, three models", -0.2, "beta", -1, study_beta,
        replace(_HARD, interaction=-0.234245), replace(_HARD, vision=0.0, interaction=0.0),
    ),
    "veto": Claim(
        "veto gain of 1.9 points at 90 %", 0.019, "gain", 1, study_gain,
        Blind(n_models=3, danger=2.926982), Blind(n_models=3, danger=0.0), (100, 200, 300, 600, 1000), 200,
    ),
    "auroc": Claim(
        "AUROC .85 against .80, three models", 0.05, "difference", 1, study_lead,
        Scores(n_models=3, shift_a=_WELL, shift_b=_LESS), Scores(n_models=3, shift_a=_WELL, shift_b=_WELL),
    ),
    "hazard": Claim(
        "5 points of risk by low vision, visual - symbolic", 0.05, "hazard", 1, study_hazard,
        Confident(), Confident(added=0.0), (*SIZES, 4000),
    ),
    "collapse": Claim(
        "collapse of 10 % beyond dilution, one cell", 0.1, "evidence_over_uniform", 1, study_fall,
        Masses(fall=1 - 0.9 * 0.7), Masses(fall=0.3), (50, *SIZES[:4]),
    ),
}  # fmt: skip


def list_statistics() -> dict[str, Statistic]:
    """Return the claims as `simulate` takes them: a setting for each number of items, with and without the effect."""
    return {
        f"power_{name}": Statistic(
            claim.study,
            {
                f"{kind}_{n}": replace(population, n_items=n)
                for kind, population in (("with", claim.population), ("without", claim.nothing))
                for n in claim.sizes
            },
            {claim.row: ("test",)},
            {claim.row: "test"},
            n_studies=claim.n_studies,
        )
        for name, claim in CLAIMS.items()
    }
