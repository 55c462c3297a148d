"""Many runs of the same, and the figures that are taken from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median


@dataclass(frozen=True)
class Sample:
    """Milliseconds of several runs, at least one."""

    ms: Sequence[float]

    @property
    def median(self) -> float:
        return median(self.ms)

    @property
    def least(self) -> float:
        """The run that others disturbed least."""
        return min(self.ms)

    def percentile(self, percent: int) -> float:
        """Nearest rank: that many per cent of the runs took no longer."""
        return sorted(self.ms)[max(0, ceil(len(self.ms) * percent / 100) - 1)]

    def row(self) -> dict[str, float | int]:
        """How the figures are called in a row of results."""
        return {
            "runs": len(self.ms),
            "min_ms": rounded(self.least),
            "p50_ms": rounded(self.percentile(50)),
            "p99_ms": rounded(self.percentile(99)),
        }


def rounded(value: float) -> float:
    """Four digits that mean something, and no more."""
    return float(f"{value:.4g}")
