"""What `make simulate` puts to the test: each statistic of the notebooks as a function from one study to rows.

Why: an interval is only as good as its coverage where the truth is known. In: a population, a Generator, the
number of bootstrap replicates. Out: a `Row` per quantity and method, by the same public functions that the
notebooks call; `register` says which statistic meets which populations. Never: a study left out in silence; one that a
function refuses keeps its rows, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from dontblink.statistics.auroc import (
    AurocInterval,
    AurocTest,
    auroc_difference,
    auroc_interval,
    clustered_test,
    delong_test,
    place_scores,
)
from dontblink.statistics.bootstrap import (
    EstimateError,
    Interval,
    Method,
    Resampling,
    bootstrap_sums,
    divide,
    interval_of,
)
from dontblink.statistics.logit import bootstrap_logit
from dontblink.studies.cells import keep_usable
from dontblink.studies.collapse import signed_rank
from dontblink.studies.interaction import TERMS, build_design, marginal_effects
from dontblink.studies.transfer import FEATURES, RULES, fit_rule, transfer_table
from dontblink_simulation.populations import Answers, Benchmarks, Masses, Scores

MIN_ITEMS = 20  # as in the notebooks: a smaller cell gets no estimate
_METHODS: tuple[Method, ...] = ("bca", "percentile")
NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class Row:
    """One method's answer in one study. NaN: it gives none; a test may have no interval, an interval no p-value."""

    quantity: str
    method: str
    estimate: float = np.nan
    ci_low: float = np.nan
    ci_high: float = np.nan
    p: float = np.nan
    n_degenerate: int = 0
    n_separated: int = 0
    truth: float = np.nan  # filled in from the population unless the study has its own
    reason: str = ""  # why there is no answer


@dataclass(frozen=True)
class Statistic:
    """A statistic, the populations it meets by setting, and what is expected of it.

    `methods` are those of each quantity (`one_model` and `several_models` those of them that need it), `primary` the
    one that its notebook leads with, by quantity (a quantity without one stands beside a test that leads), `null` the
    value that tests are of, `absent` why a setting of the requirement is not there, `n_studies` the most that are
    simulated (None: as many as asked). `averaged` methods target the mean over studies of what their rows name as
    truth.
    """

    study: Callable[[Any, np.random.Generator, int], list[Row]]
    settings: Mapping[str, Any]
    methods: Mapping[str, tuple[str, ...]]
    primary: Mapping[str, str]
    null: float = 0.0
    averaged: tuple[str, ...] = ()
    one_model: tuple[str, ...] = ()
    several_models: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    n_studies: int | None = None

    def expected(self, setting: str) -> list[tuple[str, str]]:
        """Return the quantity and method of each row that a study of this setting gives."""
        barred = self.several_models if self.settings[setting].n_models == 1 else self.one_model
        return [(name, method) for name, methods in self.methods.items() for method in methods if method not in barred]


def run_study(statistic: Statistic, setting: str, seed: Sequence[int], n_replicates: int) -> list[Row]:
    """Return the rows of one study, with their truth; one that is refused as a whole gives each row the reason."""
    population, expected = statistic.settings[setting], statistic.expected(setting)
    try:
        rows = statistic.study(population, np.random.default_rng(seed), n_replicates)
    except EstimateError as error:
        rows = [Row(*names, reason=str(error)) for names in expected]
    if sorted((row.quantity, row.method) for row in rows) != sorted(expected):
        found = sorted(f"{row.quantity} {row.method}" for row in rows)
        raise ValueError(f"setting {setting}: rows {found}; expected {sorted(map(' '.join, expected))}, see STATISTICS")
    truth = _find_truth(population)
    return [replace(row, truth=truth[row.quantity]) if row.quantity in truth else row for row in rows]


@lru_cache
def _find_truth(population: Any) -> dict[str, float]:
    return population.truth() if hasattr(population, "truth") else {}


def answer(quantity: str, method: str, make: Callable[[], Interval], **more: Any) -> Row:
    """Return the row of an interval, or of the reason why its method refuses this study."""
    try:
        return show(quantity, method, make(), **more)
    except EstimateError as error:
        return Row(quantity, method, reason=str(error), **more)


def show(quantity: str, method: str, found: Interval, **more: Any) -> Row:
    """Return the row of an interval."""
    return Row(quantity, method, found.estimate, found.ci_low, found.ci_high, n_degenerate=found.n_degenerate, **more)


def study_collapse(population: Masses, rng: np.random.Generator, n_replicates: int) -> list[Row]:
    """Collapse of the evidence, and beyond the uniform look, as `collapse.collapse_table` estimates and tests them.

    Over several models it is the pooled row, which has no test.
    """
    rows, seed = population.draw(rng), int(rng.integers(2**32))
    values = rows[["evidence_first", "evidence_last", "uniform_first", "uniform_last"]].to_numpy()
    quantities, results = ("evidence", "evidence_over_uniform"), []

    def statistic(totals: Any) -> Any:
        kept, uniform = (divide(totals[..., k + 1], totals[..., k]) for k in (0, 2))
        return np.stack([1 - kept, 1 - divide(kept, uniform)], axis=-1)

    for method in ("bca", "percentile", "t"):
        resampling = Resampling(n_replicates, seed, method=method)
        found = bootstrap_sums(values, statistic, rows["item"], rows["cell"], resampling)
        results += [show(name, method, interval) for name, interval in zip(quantities, found, strict=True)]
    if population.n_models == 1:
        first, last, uniform_first, uniform_last = values.T
        shares = [np.divide(a, a + b, out=np.full_like(a, 0.5), where=a + b > 0)
                  for a, b in ((first, uniform_first), (last, uniform_last))]  # fmt: skip
        for name, ends in zip(quantities, ((first, last), shares), strict=True):
            results.append(Row(name, "signed_rank", p=signed_rank(*ends)[1]))
    return results


def study_auroc(population: Scores, rng: np.random.Generator, n_replicates: int) -> list[Row]:
    """AUROC of one score: the mean over cells of that within each."""
    rows, cell, resampling = _prepare(population, rng, n_replicates)
    bootstrap = partial(auroc_interval, rows["correct"], rows["a"], rows["item"], cell=cell)
    closed = place_scores(rows["correct"], [rows["a"]], rows["item"], cell=cell)
    own = answer("auroc", "newcombe", lambda: closed.interval(0))
    return [own, *_auroc_rows("auroc", bootstrap, resampling)]


def study_difference(population: Scores, rng: np.random.Generator, n_replicates: int) -> list[Row]:
    """Paired difference of two AUROCs; Obuchowski's test, and DeLong's over all rows as the known bad contrast."""
    rows, cell, resampling = _prepare(population, rng, n_replicates)
    labels, a, b, item = (rows[name].to_numpy() for name in ("correct", "a", "b", "item"))
    results = _auroc_rows("difference", partial(auroc_difference, labels, a, b, item, cell=cell), resampling)
    closed = place_scores(labels, [a, b], item, cell=cell)
    results.append(answer("difference", "mover", lambda: closed.interval(0, 1)))
    tests: dict[str, Callable[[], AurocTest]] = {
        "obuchowski": lambda: clustered_test(labels, a, b, item, cell=cell)
    }
    if population.n_models > 1:  # with one, rows are independent and DeLong's is Obuchowski's
        tests["delong_pooled"] = lambda: delong_test(labels, a, b)
    for method, test in tests.items():
        try:
            found = test()
        except EstimateError as error:
            results.append(Row("difference", method, reason=str(error)))
        else:
            results.append(Row("difference", method, found.difference, found.ci_low, found.ci_high, found.p))
    return results


def _prepare(population: Scores, rng: np.random.Generator, n_replicates: int) -> tuple[Any, Any, Resampling]:
    rows = keep_usable(population.draw(rng), MIN_ITEMS)
    return rows, rows["cell"].to_numpy(), Resampling(n_replicates, int(rng.integers(2**32)))


def _auroc_rows(quantity: str, bootstrap: Callable[..., AurocInterval], resampling: Resampling) -> list[Row]:
    """Return the rows of BCa and percentile, from the same replicates (those of two calls would be equal)."""
    percentile = replace(resampling, method="percentile")
    try:
        found = bootstrap(resampling=resampling)
    except EstimateError as error:
        plain = answer(quantity, "percentile", lambda: bootstrap(resampling=percentile))
        return [Row(quantity, "bca", reason=str(error)), plain]
    size, replicates = found.n_clusters, found.replicates
    plain = answer(quantity, "percentile", lambda: interval_of(found.estimate, replicates, size, percentile))
    return [show(quantity, "bca", found), plain]


def study_interaction(population: Answers, rng: np.random.Generator, n_replicates: int) -> list[Row]:
    """beta_EV and its effect on probabilities, as `interaction.interaction_table`; the sandwich Wald as a contrast.

    "led" is what the library leads with: the bootstrap-t, or the profile of Firth's likelihood where data are rare.
    """
    rows, seed = keep_usable(population.draw(rng), MIN_ITEMS), int(rng.integers(2**32))
    if not len(rows):
        raise EstimateError("one class only: the cell is left out")
    design, column = build_design(rows), TERMS.index("entropy:vision")
    resampling = Resampling(n_replicates, seed)
    drawn = bootstrap_logit(
        design.x, design.y, design.cluster, resampling,
        strata=design.cell, errors_of=[column],
    )  # fmt: skip
    counts = {"n_separated": drawn.n_separated}
    results = [answer(TERMS[column], m, partial(drawn.interval, column, m), **counts) for m in _METHODS]
    tested = {**counts, "p": drawn.p_value(column)}
    results.append(answer(TERMS[column], "t", lambda: drawn.interval(column, "t"), **tested))
    led = replace(drawn, resampling=replace(resampling, method="t"))
    tested = {**counts, "p": led.p_value(column)}
    results.append(answer(TERMS[column], "led", lambda: led.interval(column), **tested))
    estimate, error = float(drawn.estimate[column]), float(drawn.error[column])
    ends = (estimate - NORMAL_95 * error, estimate + NORMAL_95 * error)
    results.append(Row(TERMS[column], "wald", estimate, *ends, n_separated=drawn.n_separated))

    def find_effect(method: Method) -> Interval:
        made_by = drawn if method == "bca" else led
        found = marginal_effects(design, made_by, method=method)["effect_difference"]
        if np.isnan(found.ci_low):
            raise EstimateError(found.method)
        return found

    return results + [answer("effect_difference", m, partial(find_effect, m), **counts) for m in _METHODS]


def study_transfer(population: Benchmarks, rng: np.random.Generator, n_replicates: int) -> list[Row]:
    """Gain of the linear rule over entropy alone, fitted on one benchmark and tested on the other.

    Fixed fit: the truth is the gain of the rule that THIS study fitted. Both resampled: the mean over studies.
    """
    items, seed = population.draw(rng), int(rng.integers(2**32))
    train, test = (items[items["benchmark"] == name].reset_index(drop=True) for name in ("train", "test"))
    features = train[list(FEATURES.values())].set_axis(list(FEATURES), axis=1)
    full, linear = (fit_rule(train, features, RULES[name]).coef[:, 1:] for name in ("full", "linear"))
    truth = population.gain(full, linear)
    train = train.assign(split="calibration")
    resampling, refit = (Resampling(n, seed) for n in (n_replicates, n_replicates // 2))
    table = transfer_table(train, test, ["linear"], resampling=resampling, refit=refit)
    whole = "all" if population.n_models > 1 else table["model"].iloc[0]
    own = table[(table["train"] == "train") & (table["model"] == whole)].iloc[0]
    value = {name: float(own[name]) for name in ("gain", "gain_low", "gain_high", "refit_gain_low", "refit_gain_high")}
    fixed = Row("gain", "bca_fixed_fit", value["gain"], value["gain_low"], value["gain_high"], truth=truth)
    both = replace(
        fixed,
        method="percentile_refit",
        ci_low=value["refit_gain_low"],
        ci_high=value["refit_gain_high"],
        n_degenerate=int(own["n_degenerate"]),
        n_separated=int(own["n_separated"]),
    )
    return [fixed, both]
