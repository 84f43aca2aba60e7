"""Does entropy separate correct from wrong answers, and does a probability made of it mean what it says?

Why: the discrimination of notebook 03 needs one definition, the adjustment for covariates included; and a score can
rank answers well and still promise the wrong share of correct ones. In: the items table of the TEST split; for
calibration, probabilities that were FITTED ON OTHER ITEMS (`transfer.predict_rows`: the calibration split). Out: AUROCs
and their differences per cell, per benchmark and pooled, with item-clustered intervals; reliability curves, calibration
errors, Brier scores. A score is higher where an answer is more likely correct: minus an entropy. Never: rows of two
cells compared with each other, a NaN handed to Holm, a probability judged on the items that it was fitted on, or a
calibration error without the name of its bin rule and what it would be under perfect calibration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint

from dontblink.statistics import bootstrap
from dontblink.statistics.auroc import draw_aurocs, place_scores
from dontblink.statistics.bootstrap import STANDARD, EstimateError, Floats, Ints, Resampling
from dontblink.studies.cells import (
    ENTROPY,
    VISION,
    adjust,
    adjust_family,
    count_rows,
    each_scope,
    rank_missing_last,
    select_rows,
)

# name of a score: (column of the items table, sign that makes higher mean "more likely correct")
SCORES: dict[str, tuple[str, float]] = {
    "full": (ENTROPY, -1.0), "answer": ("answer_entropy_nats", -1.0), "max": ("max_entropy_nats", -1.0),
    "last_decile": ("last_decile_entropy_nats", -1.0), "length": ("n_response_tokens", -1.0), "vision": (VISION, 1.0),
}  # fmt: skip
PAIRS: tuple[tuple[str, str], ...] = (("full", "answer"), ("full", "max"), ("full", "length"))


@dataclass(frozen=True, eq=False)
class Contrasts:
    """AUROCs to estimate: `values` float64[columns, n rows], NaN where a row has no score, and what to do with them.

    `contrasts` names each quantity, its column and the column to subtract (None: the AUROC itself). `usable`
    bool[columns, n rows] is False in cells that are too small for an estimate, `missing` True where a row had no score
    and is ranked last.
    """

    rows: pd.DataFrame
    values: Floats
    usable: Floats
    missing: Floats
    contrasts: tuple[tuple[str, int, int | None], ...]
    adjusted_for: str

    def scopes(self) -> Iterator[tuple[dict[str, Any], str, int, int | None, list[int]]]:
        """Yield, per scope and quantity, its counts, its name, its columns and the numbers of the cells to use."""
        cells = sorted(self.rows["cell"].unique())
        code = np.searchsorted(cells, self.rows["cell"])
        for names, scope in each_scope(self.rows.assign(code=code, place=np.arange(len(self.rows)))):
            place = scope["place"].to_numpy()
            for name, a, b in self.contrasts:
                used = np.unique(scope["code"][self.usable[[a] if b is None else [a, b]][:, place].all(axis=0)])
                facts = (
                    names
                    | count_rows(scope)
                    | {
                        "n_left_out": int(np.isnan(self.values[a, place]).sum()),
                        "n_ranked_last": int(self.missing[[a] if b is None else [a, b]][:, place].any(axis=0).sum()),
                        "n_cells": len(used),
                        "adjusted_for": self.adjusted_for,
                        "score": name,
                    }
                )
                yield facts, name, a, b, [int(c) for c in used]


def contrast_scores(
    items: pd.DataFrame, scores: Mapping[str, tuple[str, float]] = SCORES, pairs: Sequence[tuple[str, str]] = PAIRS, *,
    covariates: Sequence[str] = (), min_items: int = 20, min_class: int = 10,
) -> Contrasts:  # fmt: skip
    """Return every score and every pair of scores; a response without a score is ranked last in its cell.

    `covariates` are taken out of each score by least squares within the cell; a score that is a covariate itself (or
    whose logarithm is) is then left out with its pairs: nothing of it would remain but curvature. A cell with fewer
    than `min_items` rows, or than `min_class` correct or wrong ones, gets no estimate.
    """
    if unknown := {name for pair in pairs for name in pair} - scores.keys():
        raise EstimateError(f"pairs of {sorted(unknown)}; expected scores of {', '.join(scores)}")
    kept = {k: v for k, v in scores.items() if not {v[0], f"log_{v[0]}"} & set(covariates)}
    rows = select_rows(items, [], list(dict.fromkeys([*(column for column, _ in kept.values()), *covariates])))
    known = np.isfinite(rows[list(covariates)].to_numpy(np.float64)).all(axis=1)
    single: dict[str, Floats] = {}
    missing = []
    for name, (column, sign) in kept.items():
        own = adjust(rows[known].reset_index(drop=True), [column], covariates)[["cell", column]]
        missing.append(known & rows[column].isna().to_numpy())
        single[name] = np.full(len(rows), np.nan)
        single[name][known] = sign * rank_missing_last(own, {column: sign})[column]
    names = list(single)
    contrasts: list[tuple[str, int, int | None]] = [(name, k, None) for k, name in enumerate(names)]
    contrasts += [(f"{a} - {b}", names.index(a), names.index(b)) for a, b in pairs if {a, b} <= kept.keys()]
    values = list(single.values())
    table = np.stack(values)
    usable = ~np.isnan(table)
    for own in rows.groupby("cell").indices.values():
        right = (usable[:, own] & rows["correct"].to_numpy(bool)[own]).sum(axis=1)
        n = usable[:, own].sum(axis=1)
        enough = (n >= min_items) & (right >= min_class) & (n - right >= min_class)
        usable[:, own] &= enough[:, None]
    return Contrasts(rows, table, usable, np.stack(missing), tuple(contrasts), ", ".join(covariates))


def auroc_table(
    items: pd.DataFrame, scores: Mapping[str, tuple[str, float]] = SCORES, pairs: Sequence[tuple[str, str]] = PAIRS, *,
    resampling: Resampling = STANDARD, **choice: Any,
) -> pd.DataFrame:  # fmt: skip
    """Return the AUROC of each score and the difference a - b of each pair: per cell, per benchmark and pooled.

    Over several cells it is the mean of the AUROCs within each. Columns: scope, model, benchmark, n_rows, n_items,
    n_wrong, n_left_out (rows of the scope without a covariate), n_ranked_last (without the score), n_cells (used),
    adjusted_for, score ("a" or "a - b"), estimate, ci_low, ci_high, method, boot_low, boot_high, boot_method,
    n_degenerate; for a difference also auc_a, auc_b, and `se` and `p` by Obuchowski's clustered variance (within a
    cell, where an item has one row: DeLong's test). The interval is Newcombe's, means and differences by MOVER
    (`auroc.Placements.interval`), which holds where wrong answers are few; the item-clustered bootstrap stands beside
    it as a check (of a difference the percentile one, whatever the method of the AUROCs: BCa moves it away from 0). A
    scope without a usable cell keeps its counts alone. `choice` goes to `contrast_scores` (covariates, min_items,
    min_class). The fit of the covariates is held, which makes the adjusted intervals a little too wide (simulated
    without discrimination, 40 and 150 items: 95 % intervals cover 97 to 98 %).
    """
    found = contrast_scores(items, scores, pairs, **choice)
    correct, cluster, cell = (found.rows[name].to_numpy() for name in ("correct", "cluster", "cell"))
    shown = np.where(found.usable, found.values, np.nan)
    draws = draw_aurocs(correct, list(shown), cluster, resampling, cell=cell)
    placed = place_scores(correct, list(shown), cluster, cell=cell, confidence=resampling.confidence)
    results = []
    for facts, name, a, b, cells in found.scopes():
        if cells:
            try:
                interval = placed.interval(a, b, cells)
                test = None if b is None else placed.test(a, b, cells)
            except EstimateError as error:
                raise EstimateError(f"{facts['benchmark']}, {facts['model']}, {name}: {error}") from error
            check = draws.interval(a, b, cells, method=None if b is None else "percentile")
            facts |= interval.columns() | {"method": interval.method, "n_degenerate": check.n_degenerate}
            facts |= {"boot_low": check.ci_low, "boot_high": check.ci_high, "boot_method": check.method}
            if test is not None:
                facts |= {"auc_a": test.auc_a, "auc_b": test.auc_b, "se": test.se, "p": test.p}
        results.append(facts)
    return pd.DataFrame(results)


def add_holm(table: pd.DataFrame, declared_cells: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Return the table with `p_holm`, adjusted over the declared cells (model, benchmark) within each difference.

    NaN for AUROCs, benchmarks and the pooled row, which are not tested against each other. A declared cell without a
    p-value counts in its family, see `cells.adjust_family`; one that is not in the table is an EstimateError.
    """
    table = table.assign(p_holm=np.nan)
    tested = table[(table["scope"] == "cell") & table["score"].str.contains(" - ")]
    for (score, _), rows in tested.groupby(["score", "adjusted_for"]):
        index = pd.MultiIndex.from_frame(rows[["model", "benchmark"]])
        if lacking := [cell for cell in declared_cells if cell not in index]:
            raise EstimateError(f"{score}: no row for {' x '.join(lacking[0])}; add items, or declare other cells")
        own = rows.index[index.isin(declared_cells)]
        table.loc[own, "p_holm"] = adjust_family(table.loc[own, "p"])
    return table


BinRule = Literal["equal_width", "equal_mass"]
BIN_RULES: tuple[BinRule, ...] = ("equal_width", "equal_mass")


def reliability_curve(
    probability: ArrayLike,
    correct: ArrayLike,
    n_bins: int = 10,
    rule: BinRule = "equal_width",
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Return a row per bin that holds rows: bin, low, high, n, mean_probability, share_correct, ci_low, ci_high.

    Equal width: [k / K, (k + 1) / K), the last one closed. Equal mass: bin floor(K r / n) with r the number of rows of
    a smaller probability, so that equal probabilities share a bin whatever the order of the rows; low and high are then
    the smallest and largest probability in it.

    The interval is Wilson's for the share of correct rows: it takes rows as independent (one model at a time).
    """
    values, labels = _check_probabilities(probability, correct)
    bins = _assign_bins(values, n_bins, rule)
    results = []
    for k in np.unique(bins):
        own = bins == k
        count, right = int(own.sum()), int(labels[own].sum())
        low, high = proportion_confint(right, count, alpha=1 - confidence, method="wilson")
        ends = (k / n_bins, (k + 1) / n_bins) if rule == "equal_width" else (values[own].min(), values[own].max())
        results.append((int(k), *ends, count, values[own].mean(), right / count, low, high))
    names = ["bin", "low", "high", "n", "mean_probability", "share_correct", "ci_low", "ci_high"]
    return pd.DataFrame(results, columns=names)


def expected_calibration_error(
    probability: ArrayLike, correct: ArrayLike, n_bins: int = 10, rule: BinRule = "equal_width"
) -> float:
    """Return sum over bins of n_k / n |mean probability - share correct|; see `reliability_curve` for the rules.

    It depends on the bins and is biased upwards at small n: compare at equal n and bins only.
    """
    values, labels = _check_probabilities(probability, correct)
    return float(_average_bins(_assign_bins(values, n_bins, rule), (values - labels)[None])[0])


def _average_bins(bins: Ints, off: Floats) -> Floats:
    """Return float64[b]: the calibration error of each row of `off` float64[b, n], probabilities less labels."""
    size = int(bins.max()) + 1
    place = bins + size * np.arange(len(off))[:, None]
    sums = np.bincount(place.ravel(), off.ravel(), size * len(off)).reshape(-1, size)
    error: Floats = np.abs(sums).sum(axis=1) / len(bins)
    return error


def calibration_table(
    rows: pd.DataFrame, n_bins: int = 10, *, resampling: Resampling = STANDARD, n_draws: int = 200
) -> pd.DataFrame:
    """Return how well the probabilities of `transfer.predict_rows` hold, per cell, per benchmark and pooled.

    Columns: the counts of the scope, brier, brier_constant (everyone promised the accuracy on the items of the fit),
    estimate = brier_constant - brier (> 0: better than the constant) with ci_low and ci_high (item-clustered BCa),
    and per bin rule ece_RULE, ece_calibrated_RULE and ece_calibrated_high_RULE: the mean and the upper end of `n_draws`
    draws of labels from the probabilities themselves, what perfect calibration would show at this n.
    """
    _check_probabilities(rows["probability"], rows["correct"])
    rng, results = np.random.default_rng(resampling.seed), []
    for names, scope in each_scope(rows):
        correct = scope["correct"].to_numpy(np.float64)
        probability, constant = (scope[name].to_numpy(np.float64) for name in ("probability", "constant"))
        brier, plain = (probability - correct) ** 2, (constant - correct) ** 2
        ones, item, cell = np.ones(len(brier)), scope["cluster"], scope["cell"]
        gain = bootstrap.bootstrap_ratio(plain - brier, ones, item, cell, resampling)
        facts = names | count_rows(scope) | {"brier": brier.mean(), "brier_constant": plain.mean()} | gain.columns()
        drawn = rng.random((n_draws, len(scope))) < probability
        for rule in BIN_RULES:
            null = _average_bins(_assign_bins(probability, n_bins, rule), probability - drawn)
            facts[f"ece_{rule}"] = expected_calibration_error(probability, correct, n_bins, rule)
            facts[f"ece_calibrated_{rule}"] = np.mean(null)
            facts[f"ece_calibrated_high_{rule}"] = np.quantile(null, (1 + resampling.confidence) / 2)
        results.append(facts)
    return pd.DataFrame(results)


def _check_probabilities(probability: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    names = ("probability", "correct")
    return bootstrap.check_labelled(probability, correct, names, "[0, 1]", lambda x: (x >= 0) & (x <= 1))


def _assign_bins(values: Floats, n_bins: int, rule: str) -> Ints:
    if n_bins < 1 or rule not in BIN_RULES:
        raise EstimateError(f"{n_bins} bins, rule {rule!r}; expected >= 1 bin, equal_width or equal_mass")
    if rule == "equal_width":
        # edges as k / K: 0.3 lies in [0.3, 0.4), which 3 * 0.1 would not say
        bins = np.searchsorted(np.arange(n_bins + 1) / n_bins, values, "right") - 1
        return np.minimum(bins, n_bins - 1).astype(np.int64)
    smaller = np.searchsorted(np.sort(values), values, "left")
    return (n_bins * smaller // len(values)).astype(np.int64)
