"""What does a bootstrap cost, and is it right? Seconds, ratios and differences against public libraries.

Claims checked on one core, B = 10,000 replicates of 2700 rows in 900 items, 4 coefficients [bars in brackets]: the
cluster-bootstrap logit takes <= 1.0 s end to end, a loop of `sm.Logit` on arrays >= 10 times and a formula loop >= 40
times that, with coefficients equal to 1e-10; the BCa interval of an AUROC difference takes <= 0.6 s and equals that of
`scipy.stats.bootstrap` on the same draws; Firth fits take <= 1/10 of a loop of `firthmodels`.

Run `OMP_NUM_THREADS=1 python bench/bootstrap.py [--replicates 10000] [--looped 200]`. Ours and theirs are timed in turn
after a round that does not count. A loop runs its first `--looped` replicates and is scaled up to B (each replicate
costs the same); the differences are over those replicates. scipy runs all of them, once.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
import statsmodels.formula.api as smf
from measure import Result, build_parser, judge, judge_pair, read_arguments, time_in_turn, write_results
from scipy import stats

from dontblink.statistics.auroc import auroc_difference
from dontblink.statistics.bootstrap import Resampling, count_draws, resample
from dontblink.statistics.firth import fit_firth
from dontblink.statistics.logit import bootstrap_logit

N_ITEMS, N_MODELS, SEED = 900, 3, 0


def draw_rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return X (constant, E, V, E V), y and the item of each row, with an item effect."""
    rng = np.random.default_rng(SEED)
    item = np.repeat(np.arange(N_ITEMS), N_MODELS)
    e, v = rng.normal(size=(2, len(item)))
    X = np.column_stack([np.ones(len(item)), e, v, e * v])
    odds = X @ [0.8, -0.7, 0.3, -0.25] + 0.7 * np.repeat(rng.normal(size=N_ITEMS), N_MODELS)
    return X, (rng.random(len(item)) < 1 / (1 + np.exp(-odds))).astype(float), item


def bench_logit(n_replicates: int, n_looped: int, repeats: int) -> list[Result]:
    """Cluster-bootstrap logit against loops of statsmodels."""
    X, y, item = draw_rows()
    plain = Resampling(n_replicates, SEED, method="percentile")
    rows = np.arange(len(y)).reshape(N_ITEMS, N_MODELS)
    looped = next(resample([np.arange(N_ITEMS)], Resampling(n_looped, SEED), n_looped))
    draws = [rows[index].ravel() for index in looped]
    table = pd.DataFrame(X[:, 1:3], columns=["e", "v"]).assign(y=y)
    some = draws[: max(1, n_looped // 4)]
    calls = {
        "ours": lambda: bootstrap_logit(X, y, item, plain),
        "bca": lambda: bootstrap_logit(X, y, item, Resampling(n_replicates, SEED), errors_of=[3]),
        "loop": lambda: [sm.Logit(y[d], X[d]).fit(disp=0) for d in draws],
        "formula": lambda: [smf.logit("y ~ e * v", table.iloc[d]).fit(disp=0) for d in some],
    }
    took = time_in_turn(calls, repeats)
    ours = bootstrap_logit(X, y, item, plain).coefficients[:n_looped]
    tight, loose = (
        np.array([sm.Logit(y[d], X[d]).fit(disp=0, **options).params for d in draws])
        for options in ({"tol": 1e-14}, {})
    )
    name = f"cluster-bootstrap logit, B = {n_replicates}"
    scale = n_replicates / n_looped
    return [
        judge(f"{name}, CPU seconds", took["ours"], unit="s", at_most=1.0 * n_replicates / 10_000),
        judge_pair(f"{name}: loop of sm.Logit / ours", took["loop"], took["ours"], scale=scale, at_least=10),
        judge_pair(
            f"{name}: loop of formula fits / ours",
            took["formula"],
            took["ours"],
            scale=n_replicates / len(some),
            at_least=40,
        ),
        judge_pair(f"{name}: with all that BCa and bootstrap-t need / without", took["bca"], took["ours"]),
        judge(
            f"{name}: largest difference of a coefficient from sm.Logit at tolerance 1e-14",
            np.abs(ours - tight).max(),
            unit="log odds",
            at_most=1e-10,
        ),
        judge(
            f"{name}: the same at sm.Logit's default tolerance",
            np.abs(ours - loose).max(),
            unit="log odds",
            at_most=1e-6,
        ),
    ]


def bench_auroc(n_replicates: int, repeats: int) -> list[Result]:
    """BCa interval of a paired AUROC difference against scipy on the same draws."""
    X, y, item = draw_rows()
    correct, rng = y > 0, np.random.default_rng(SEED + 1)
    a = np.round(-X[:, 1] + rng.normal(size=len(y)), 2)
    b = np.round(-X[:, 1] + 1.5 * rng.normal(size=len(y)), 2)
    rows = np.arange(len(y)).reshape(N_ITEMS, N_MODELS)

    def difference(index: np.ndarray) -> float:
        chosen = rows[index].ravel()
        right = correct[chosen]
        n = right.sum()
        sums = [stats.rankdata(score[chosen])[right].sum() for score in (a, b)]
        return float((sums[0] - sums[1]) / (n * (len(right) - n)))

    resampling = Resampling(n_replicates, SEED)
    took = time_in_turn({"ours": lambda: auroc_difference(correct, a, b, item, resampling)}, repeats)
    found, scipys = auroc_difference(correct, a, b, item, resampling), []
    options = {"method": "BCa", "n_resamples": n_replicates, "vectorized": False}

    def run_scipy() -> None:
        rng = np.random.default_rng(SEED)
        scipys.append(stats.bootstrap((np.arange(N_ITEMS),), difference, rng=rng, **options))

    loop = time_in_turn({"scipy": run_scipy}, 1, warm_up=False)["scipy"]
    theirs = scipys[0].confidence_interval
    ends = np.abs([found.ci_low - theirs.low, found.ci_high - theirs.high]).max()
    drawn = np.abs(found.replicates - scipys[0].bootstrap_distribution).max()
    name = f"AUROC difference with BCa, B = {n_replicates}"
    return [
        judge(f"{name}, CPU seconds", took["ours"], unit="s", at_most=0.6 * n_replicates / 10_000),
        judge_pair(f"{name}: scipy with a rank statistic / ours", loop, [float(np.median(took["ours"]))]),
        judge(f"{name}: largest difference of an end from scipy's", ends, unit="AUROC", at_most=1e-12),
        judge(f"{name}: largest difference of a replicate", drawn, unit="AUROC", at_most=1e-12),
    ]


def bench_firth(n_looped: int, repeats: int) -> list[Result]:
    """Firth fits of resampled separated data against a loop of firthmodels, which the `dev` extra installs."""
    from firthmodels import FirthLogisticRegression

    rng, n, n_fits = np.random.default_rng(SEED), 60, 1000
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 3))])
    X[:, 3] = X[:, 3] > 0.8
    y = ((rng.random(n) < 0.5) | (X[:, 3] > 0)).astype(float)  # the indicator is 1 in correct rows only
    counts = count_draws(next(resample([np.arange(n)], Resampling(n_fits, SEED), n_fits)))
    chosen = [np.repeat(np.arange(n), row.astype(int)) for row in counts[:n_looped]]

    def fit(rows: np.ndarray, **options: Any) -> Any:
        return FirthLogisticRegression(fit_intercept=False, **options).fit(X[rows], y[rows]).coef_

    calls = {
        "ours": lambda: fit_firth(X, 2 * y - 1, counts),
        "loop": lambda: [fit(rows) for rows in chosen],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        took = time_in_turn(calls, repeats)
        tight = [fit(rows, gtol=1e-10, xtol=1e-10, max_iter=1000) for rows in chosen[:50]]
    difference = np.abs(fit_firth(X, 2 * y - 1, counts).coef[: len(tight)] - tight).max()
    name, scale = "Firth fit of 60 separated rows", n_fits / len(chosen)
    claim = f"{name}: loop of firthmodels (tolerance 1e-4) / ours (1e-9)"
    # theirs is the coarser: scoring steps that shrink linearly, so that 1e-10 in a step is not 1e-10 in a coefficient
    finest = f"{name}: largest difference of a coefficient from firthmodels at 1e-10"
    return [
        judge_pair(claim, took["loop"], took["ours"], scale=scale, unit=f"s for {n_fits} fits", at_least=10),
        judge(finest, difference, unit="log odds", at_most=1e-6),
    ]


def main() -> None:
    """Measure, print and write."""
    assert __doc__
    parser = build_parser(__doc__, replicates=10_000, looped=200, repeats=5)
    arguments = read_arguments(parser)
    results = bench_logit(arguments.replicates, arguments.looped, arguments.repeats)
    results += bench_auroc(arguments.replicates, arguments.repeats)
    results += bench_firth(arguments.looped, arguments.repeats)
    write_results(__file__, results, parser, arguments)


if __name__ == "__main__":
    main()
