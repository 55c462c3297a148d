"""A row of results: a figure, its runs, the primitives of the same run, floor and target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from keycairn.cli.bench import floors
from keycairn.cli.bench.primitives import least, primitives
from keycairn.cli.bench.sample import Sample, rounded
from keycairn.cli.bench.targets import REFERENCE_US, TARGETS


@dataclass(frozen=True)
class Subject:
    """What is measured. ``kind`` is scheme and curve, ``ecdsa/secp256k1``; of a setup the curve."""

    what: str
    kind: str
    players: int
    batch: int = 1

    @property
    def name(self) -> str:
        """How baselines call it."""
        return f"{self.what} {self.kind} players={self.players} batch={self.batch}"

    @property
    def target(self) -> float | None:
        """Milliseconds, if there is a target."""
        return TARGETS.get((self.what, self.kind, self.players, self.batch))


def measured(
    subject: Subject,
    figure: str,
    once: Callable[[], float],
    floor: floors.Count,
    *,
    runs: int,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Run ``once`` (milliseconds of a party for one unit) ``runs`` times, with primitives before
    and after; what it makes once, tables and the like, is made in a run that does not count.

    Args:
        figure: the row's name for the median.
        more: what else stands in the row, before the figure.
    """
    scheme, _, curve = subject.kind.rpartition("/")
    once()
    before = primitives(scheme or "ecdsa", curve)
    sample = Sample([once() for _ in range(runs)])
    us = least(before, primitives(scheme or "ecdsa", curve))
    floor_ms = floors.cost_ms(floor, us)
    target = subject.target
    # The target in calls of this curve's multiplication, as the machine it was set for made them.
    calls = None if target is None else 1000 * target / REFERENCE_US[curve]
    ratio_to = {
        name: rounded(1000 * sample.median / us[name])
        for name in ("base_mult", "constant_time_mult", "verify")
    }
    return {
        "what": subject.what,
        "name": subject.name,
        **more,
        figure: rounded(sample.median),
        **sample.row(),
        "microseconds": us,
        "ratio_to": ratio_to,
        "floor_ms": rounded(floor_ms),
        "ratio_to_floor": rounded(sample.median / floor_ms),
        "least_ratio_to_floor": rounded(sample.least / floor_ms),
        "target_ms": target,
        "target_met": None if target is None else sample.median <= target,
        "target_met_by_ratio": None if calls is None else ratio_to["constant_time_mult"] <= calls,
    }
