"""What does a bootstrap cost, and is it right? Prints seconds, ratios and differences against public libraries.

Claims checked on one core, B = 10,000 replicates of 2700 rows in 900 items, 4 coefficients [bars in brackets]: the
cluster-bootstrap logit takes <= 1.0 s end to end, a loop of `sm.Logit` on arrays >= 10 times and a formula loop >= 40
times that, with coefficients equal to 1e-10; the BCa interval of an AUROC difference takes <= 0.6 s and equals that of
`scipy.stats.bootstrap` on the same draws; Firth fits take <= 1/10 of a loop of `firthmodels`.

Run `OMP_NUM_THREADS=1 python bench/bootstrap.py [--replicates 10000] [--looped 200]`. Times are CPU seconds; ours are
the median of `--repeats` runs after a warm-up. A loop is timed on its first `--looped` replicates and scaled up to B
(each replicate costs the same); the differences are over those replicates, and scipy runs all of them.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
import statsmodels.formula.api as smf
from scipy import stats

from dontblink.auroc import auroc_difference
from dontblink.bootstrap import count_draws, resample
from dontblink.firth import fit_firth
from dontblink.logit import bootstrap_logit

N_ITEMS, N_MODELS, SEED = 900, 3, 0


def time_cpu(call: Callable[[], Any], repeats: int = 1) -> tuple[float, Any]:
    """Return the median CPU seconds of `repeats` calls, and what the last one returned."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = call()
        seconds.append(time.process_time() - start)
    return float(np.median(seconds)), result


def report(claim: str, value: float, bar: float, at_least: bool = False, detail: str = "") -> None:
    """Print one measured number beside its bar."""
    passed = value >= bar if at_least else value <= bar
    sign = ">=" if at_least else "<="
    print(f"{'ok  ' if passed else 'MISS'} {claim}: {value:.3g} [{sign} {bar:g}]  {detail}", flush=True)


def draw_rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return X (constant, E, V, E V), y and the item of each row, with an item effect."""
    rng = np.random.default_rng(SEED)
    item = np.repeat(np.arange(N_ITEMS), N_MODELS)
    e, v = rng.normal(size=(2, len(item)))
    X = np.column_stack([np.ones(len(item)), e, v, e * v])
    odds = X @ [0.8, -0.7, 0.3, -0.25] + 0.7 * np.repeat(rng.normal(size=N_ITEMS), N_MODELS)
    return X, (rng.random(len(item)) < 1 / (1 + np.exp(-odds))).astype(float), item


def bench_logit(n_boot: int, n_looped: int, repeats: int) -> None:
    """Cluster-bootstrap logit against loops of statsmodels."""
    X, y, item = draw_rows()
    bootstrap_logit(X, y, item, 200, SEED)
    ours, found = time_cpu(lambda: bootstrap_logit(X, y, item, n_boot, SEED), repeats)
    report(f"cluster-bootstrap logit, B = {n_boot}, seconds", ours, 1.0 * n_boot / 10_000)
    rows = np.arange(len(y)).reshape(N_ITEMS, N_MODELS)
    draws = [rows[index].ravel() for index in next(resample([np.arange(N_ITEMS)], n_looped, SEED, n_looped))]
    table = pd.DataFrame(X[:, 1:3], columns=["e", "v"]).assign(y=y)
    loop, theirs = time_cpu(lambda: [sm.Logit(y[d], X[d]).fit(disp=0).params for d in draws])
    formula, _ = time_cpu(
        lambda: [smf.logit("y ~ e * v", table.iloc[d]).fit(disp=0).params for d in draws[: n_looped // 4]]
    )
    loop, formula = loop * n_boot / n_looped, formula * n_boot / (n_looped // 4)
    report("  sm.Logit loop / ours", loop / ours, 10, True, f"({loop:.3g} s)")
    report("  formula loop / ours", formula / ours, 40, True, f"({formula:.3g} s)")
    tight = np.array([sm.Logit(y[d], X[d]).fit(disp=0, tol=1e-14).params for d in draws])
    report("  largest difference of a coefficient", float(np.abs(found.coefficients[:n_looped] - tight).max()), 1e-10)
    report(
        "  ... from sm.Logit at its default tolerance",
        float(np.abs(found.coefficients[:n_looped] - theirs).max()),
        1e-6,
    )
    with_bca, _ = time_cpu(lambda: bootstrap_logit(X, y, item, n_boot, SEED, jackknife=True, errors_of=[3]))
    print(f"     with the jackknife and the errors of one coefficient (BCa, bootstrap-t): {with_bca:.3g} s")


def bench_auroc(n_boot: int, repeats: int) -> None:
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

    auroc_difference(correct, a, b, item, 200, SEED)
    ours, found = time_cpu(lambda: auroc_difference(correct, a, b, item, n_boot, SEED), repeats)
    report(f"AUROC difference with BCa, B = {n_boot}, seconds", ours, 0.6 * n_boot / 10_000)
    generator = np.random.default_rng(SEED)
    scipys, theirs = time_cpu(
        lambda: stats.bootstrap(
            (np.arange(N_ITEMS),), difference, method="BCa", n_resamples=n_boot, rng=generator, vectorized=False
        )
    )
    ends = np.array([found.ci_low - theirs.confidence_interval.low, found.ci_high - theirs.confidence_interval.high])
    report("  largest difference of an end from scipy's", float(np.abs(ends).max()), 1e-12)
    drawn = np.abs(found.replicates - theirs.bootstrap_distribution).max()
    report("  largest difference of a replicate", float(drawn), 1e-12)
    print(f"     scipy with a rank statistic: {scipys:.3g} s, {scipys / ours:.3g} times ours")


def bench_firth(n_looped: int, repeats: int) -> None:
    """Firth fits of resampled separated data against a loop of firthmodels."""
    try:
        from firthmodels import FirthLogisticRegression
    except ImportError:
        print("MISS Firth: install firthmodels to compare with it")
        return
    rng, n = np.random.default_rng(SEED), 60
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 3))])
    X[:, 3] = X[:, 3] > 0.8
    y = ((rng.random(n) < 0.5) | (X[:, 3] > 0)).astype(float)  # the indicator is 1 in correct rows only
    counts = count_draws(next(resample([np.arange(n)], 1000, SEED, 1000)))
    chosen = [np.repeat(np.arange(n), row.astype(int)) for row in counts[:n_looped]]
    ours, found = time_cpu(lambda: fit_firth(X, 2 * y - 1, counts).coef, repeats)
    ours /= len(counts)

    def fit(rows: np.ndarray, **options: Any) -> Any:
        return FirthLogisticRegression(fit_intercept=False, **options).fit(X[rows], y[rows]).coef_

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loop, loose = time_cpu(lambda: [fit(rows) for rows in chosen])
        tight = [fit(rows, gtol=1e-10, xtol=1e-10, max_iter=1000) for rows in chosen[:50]]
    report("firthmodels loop (default tolerance 1e-4) / ours (1e-9), 60 rows", loop / len(chosen) / ours, 10, True,
           f"({1e3 * loop / len(chosen):.3g} ms and {1e3 * ours:.3g} ms a fit)")  # fmt: skip
    # theirs is the coarser: scoring steps that shrink linearly, so that 1e-10 in a step is not 1e-10 in a coefficient
    report("  largest difference, firthmodels at 1e-10", float(np.abs(found[:50] - tight).max()), 1e-6)
    print(f"     at its default tolerance: {np.abs(found[: len(loose)] - loose).max():.2g}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The cost of the bootstrap, as ratios.")
    for name, default in {"replicates": 10_000, "looped": 200, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    print(vars(arguments))
    bench_logit(arguments.replicates, arguments.looped, arguments.repeats)
    bench_auroc(arguments.replicates, arguments.repeats)
    bench_firth(arguments.looped, arguments.repeats)


if __name__ == "__main__":
    main()
