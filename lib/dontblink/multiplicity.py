"""Several tests at once: Holm's adjustment over a family that was declared beforehand.

Why it exists: statsmodels' function collects all of Python's garbage at each call, 0.4 s in a notebook, hundreds of
times. In: one p-value for each member of the family. Out: adjusted p-values, the same to the last bit. Never: a NaN
that counts as a test, or a family that shrinks because a member has no value.
"""

from __future__ import annotations

import numpy as np

from dontblink.bootstrap import Floats
from dontblink.messages import NamedError


class MultiplicityError(NamedError, ValueError):
    """A family with a p-value missing; the message shows the values."""


def adjust_holm(p: Floats) -> Floats:
    """Return Holm-adjusted p-values float64[n] (Holm 1979); NaN, or a number outside [0, 1], is an error.

    The k-th smallest of n is multiplied by n - k + 1, raised to what a smaller one got, and is 1 at most.
    """
    given = np.asarray(p, dtype=np.float64)
    if not ((given >= 0) & (given <= 1)).all():
        raise MultiplicityError(f"p-values {given.tolist()}; expected numbers in [0, 1], one for each declared member")
    order = np.argsort(given)
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)), 1)
    return adjusted
