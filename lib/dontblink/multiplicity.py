"""Several tests at once: Holm's adjustment over a family that was declared beforehand.

In: one p-value for each member of the family. Out: adjusted p-values. Never: a NaN, which statsmodels would count as a
test, or a family that shrinks because a member has no value.
"""

from __future__ import annotations

from typing import cast

from statsmodels.stats.multitest import multipletests

from dontblink.bootstrap import Floats
from dontblink.messages import NamedError


class MultiplicityError(NamedError, ValueError):
    """A family with a p-value missing; the message shows the values."""


def adjust_holm(p: Floats) -> Floats:
    """Return Holm-adjusted p-values float64[n] (Holm 1979); NaN, or a number outside [0, 1], is an error."""
    if not ((p >= 0) & (p <= 1)).all():
        raise MultiplicityError(f"p-values {p.tolist()}; expected numbers in [0, 1], one for each declared member")
    return cast(Floats, multipletests(p, method="holm")[1])
