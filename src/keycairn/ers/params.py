"""The parameter table (R-40): constants in code, never numbers from a document."""

from __future__ import annotations

import math
from dataclasses import dataclass

from keycairn.ers.faults import invalid


@dataclass(frozen=True)
class Params:
    """N leaves of which tau stay closed.

    A Fiat-Shamir prover may grind, so ``C(N, tau)`` is at least 2^128 for every row.
    """

    name: str
    leaves: int
    closed: int

    @property
    def bits(self) -> float:
        """log2 of the number of challenges, C(N, tau)."""
        return math.log2(math.comb(self.leaves, self.closed))


#: name -> (N, tau). ``balanced`` is the default everywhere.
TABLE: dict[str, Params] = {
    p.name: p
    for p in (
        Params("fast", 136, 55),
        Params("balanced", 256, 30),
        Params("compact", 1024, 19),
    )
}
DEFAULT = "balanced"


def params(name: object) -> Params:
    """The row called ``name``.

    Raises:
        KeycairnError: E_ERS_INVALID for any other name.
    """
    if isinstance(name, str) and name in TABLE:
        return TABLE[name]
    raise invalid("params", "unknown parameter set")
