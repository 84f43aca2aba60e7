"""Learn then test: a threshold with a guarantee on the risk of the answers it accepts, through MAPIE.

Why: a threshold that looked good on 300 items promises nothing; learn-then-test (Angelopoulos et al. 2021) turns each
candidate into a hypothesis test and keeps the promise. In: confidences and errors of certification items, and
candidates that were fixed WITHOUT these items. Out: `Certificate`, with its guarantee in words. Never: candidates
chosen on the items that certify them, or rows of several models of one item (the bound takes rows as independent).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
from mapie.risk_control import control_fwer
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint

from dontblink.bootstrap import Floats
from dontblink.cells import keep_usable, select_rows
from dontblink.risk_coverage import RiskError, check_rows, count_accepted
from dontblink.veto_rules import fit_veto, prepare_study

CANDIDATES = tuple(k / 20 for k in range(6, 21))  # coverages 0.3, 0.35, ..., 1


@dataclass(frozen=True)
class Certificate:
    """The laxest certified threshold: accept where confidence >= threshold (NaN: none certified, accept nothing).

    n_accepted of n certification items had `risk` (share wrong, NaN if none), tested at `p_value` (1 if none).
    """

    threshold: float
    n_accepted: int
    n: int
    risk: float
    p_value: float
    max_risk: float
    delta: float

    @property
    def guarantee(self) -> str:
        """Return the guarantee as a sentence."""
        chance = f"{1 - self.delta:.6g}"
        if np.isnan(self.threshold):
            return f"no candidate is certified at risk {self.max_risk:.6g} with probability {chance}: accept nothing"
        return (
            f"with probability at least {chance} over the draw of the certification items, an accepted answer "
            f"is wrong with a chance below {self.max_risk:.6g}, for new items drawn independently like these, of this "
            "model and benchmark; not for another benchmark, and not for several cells at once"
        )


def certify_threshold(
    confidence: ArrayLike, error: ArrayLike, thresholds: Sequence[float], *, max_risk: float, delta: float
) -> Certificate:
    """Test thresholds from the strictest to the laxest, each at level delta, and return the last before a failure.

    Parameters
    ----------
    confidence, error : float[n], {0, 1}[n]
        Certification items: independent, and not used to choose `thresholds` or to fit the confidence.
    thresholds : sequence of float
        Candidates. The strictest must accept enough items: m without an error reach delta if (1 - max_risk)^m <= delta.
    max_risk, delta : float in (0, 1)
        The accepted risk, and the probability with which the guarantee may fail.

    Notes
    -----
    H_t: P(wrong | confidence >= t) >= max_risk. Given the number of accepted items their errors are independent with
    that probability, so its p-value is MAPIE's Hoeffding-Bentkus bound for 0/1 losses (here the binomial tail). Testing
    in a fixed order and stopping at the first failure keeps the chance of any false certificate below delta.
    """
    values, wrong = check_rows(confidence, error)
    ordered = np.unique(np.asarray(thresholds, np.float64))[::-1]
    if not (0 < max_risk < 1 and 0 < delta < 1) or not ordered.size or np.isnan(ordered).any():
        raise RiskError(f"risk {max_risk}, delta {delta}, thresholds {thresholds}; expected (0, 1), (0, 1), numbers")
    accepted = values >= ordered[:, None]
    n, errors = accepted.sum(axis=1), accepted @ wrong
    p = bound_p_values(errors, n, max_risk)
    certified = control_fwer(p, delta, "fixed_sequence")
    if not certified.size:
        return Certificate(np.nan, 0, len(values), np.nan, 1.0, max_risk, delta)
    last = int(certified[-1])
    return Certificate(
        float(ordered[last]), int(n[last]), len(values), float(errors[last] / n[last]), float(p[last]), max_risk, delta
    )


def bound_p_values(errors: ArrayLike, n: ArrayLike, max_risk: float) -> Floats:
    """Return the Hoeffding-Bentkus p-values of "the risk is at least max_risk", 0/1 losses; 1 where n = 0."""
    total = np.asarray(n, np.float64)
    risk = np.divide(np.asarray(errors, np.float64), total, out=np.ones_like(total), where=total > 0)
    bound: Floats = compute_hoeffding_bentkus_p_value(risk, total, max_risk, binary=True)[:, 0]
    return bound


def certify_table(
    items: pd.DataFrame,
    targets: Sequence[str] | None,
    *,
    max_risk: float,
    delta: float = 0.1,
    coverage: float | Fraction = 0.9,
    candidates: Sequence[float] = CANDIDATES,
    entropy: str = "full_entropy_nats",
    vision: str = "vision_evidence_mass",
    n_shares: int = 10,
    confidence: float = 0.95,
    min_items: int = 60,
    seed: int = 0,
) -> pd.DataFrame:
    """Return a row per cell and rule (entropy, veto): certified on one third of the items, checked on another.

    A first third fixes the candidate thresholds (the `candidates` are coverages on it) and, for the veto, the vision
    floor as in `veto_rules.fit_veto`; a vetoed answer has confidence -inf. Columns: model, benchmark, n_items, rule,
    max_risk, delta, threshold (minus nats), vision_floor (NaN without a veto), n_certifying, n_accepted, risk, p_value,
    and on the checking third n_checked, n_checked_accepted, checked_coverage, checked_risk, ci_low, ci_high
    (Clopper-Pearson, the risk), guarantee. The guarantee is one cell's: over C cells, use delta / C. A cell below
    `min_items` is left out.
    """
    rows = keep_usable(select_rows(items, [entropy, vision]), min_items)
    if not len(rows):
        raise RiskError(f"no cell has {min_items} items and both right and wrong answers; add items")
    study = prepare_study(
        rows, entropy, vision, targets, n_splits=1, fit_share=Fraction(1, 3), n_shares=n_shares, seed=seed
    )
    checks = np.random.default_rng([seed, 1]).permutation(study.fits_on.shape[1]) % 2 == 0
    e_all, v_all = (rows[name].to_numpy(np.float64) for name in (entropy, vision))
    results: list[dict[str, Any]] = []
    for cell in study.cells:
        e, v, held = e_all[cell.index], np.where(cell.targeted, v_all[cell.index], np.inf), cell.held[0]
        apart = checks[study.row_item[cell.index][held]]
        model, benchmark = cell.name.split("\n")
        for rule in ("entropy", "veto"):
            floor = float(fit_veto(cell, v, coverage, n_shares)[1][0]) if rule == "veto" else -np.inf
            surety = np.where(v >= floor, -e, -np.inf)
            ranked = np.sort(surety[cell.fit[0]])[::-1]
            edges = [float(ranked[count_accepted(len(ranked), share) - 1]) for share in candidates]
            thresholds = [edge for edge in edges if edge > -np.inf]  # -inf would accept the vetoed answers
            tested, seen = held[~apart], held[apart]
            found = certify_threshold(surety[tested], cell.wrong[tested], thresholds, max_risk=max_risk, delta=delta)
            accepted = surety[seen] >= found.threshold
            n, bad = int(accepted.sum()), int(cell.wrong[seen][accepted].sum())
            ends = proportion_confint(bad, n, alpha=1 - confidence, method="beta") if n else (0.0, 1.0)
            vetoed_below = floor if np.isfinite(floor) else np.nan
            results.append({
                "model": model, "benchmark": benchmark, "n_items": len(e), "rule": rule, "max_risk": max_risk,
                "delta": delta, "threshold": found.threshold, "vision_floor": vetoed_below, "n_certifying": found.n,
                "n_accepted": found.n_accepted, "risk": found.risk, "p_value": found.p_value, "n_checked": len(seen),
                "n_checked_accepted": n, "checked_coverage": n / len(seen) if len(seen) else np.nan,
                "checked_risk": bad / n if n else np.nan,
                "ci_low": float(ends[0]), "ci_high": float(ends[1]), "guarantee": found.guarantee,
            })  # fmt: skip
    return pd.DataFrame(results)
