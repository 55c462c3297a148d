"""Ports that every floor may use: randomness and time.

Nothing else in this project may import ``secrets``, ``random``, ``time`` or call ``os.urandom``
(ruff's banned-api enforces it), so that one seed can replay a whole vault.
"""

from __future__ import annotations

from typing import Protocol


class Rng(Protocol):
    """A source of cryptographically strong random bytes.

    Raises ``KeycairnError(E_RNG)`` when the source fails; there is no fallback.
    """

    def bytes(self, n: int) -> bytes:
        """``n`` fresh bytes."""
        ...


class Clock(Protocol):
    """Wall time for records, monotonic time for time-outs."""

    def now_us(self) -> int:
        """Microseconds since the Unix epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...


def randbelow(rng: Rng, bound: int) -> int:
    """Uniform integer in [0, bound) by rejection (no modular bias)."""
    if bound <= 0:
        raise ValueError("bound must be positive")
    n = (bound.bit_length() + 7) // 8
    mask = (1 << bound.bit_length()) - 1
    while True:
        x = int.from_bytes(rng.bytes(n), "big") & mask
        if x < bound:
            return x
