"""A reproducible Rng for tests and simulation. Refused by nodes in the production profile."""

from __future__ import annotations

import hashlib


class SeededRng:
    """SHAKE128 of (seed, counter): the same seed gives the same bytes. Not for production."""

    def __init__(self, seed: bytes | str | int) -> None:
        self._seed = hashlib.sha256(repr(seed).encode()).digest()
        self._counter = 0

    def bytes(self, n: int) -> bytes:
        self._counter += 1
        return hashlib.shake_128(self._seed + self._counter.to_bytes(8, "big")).digest(n)


class ManualClock:
    """A clock that only moves when told."""

    def __init__(self, now_us: int = 1_700_000_000_000_000) -> None:
        self._now = now_us

    def advance(self, seconds: float) -> None:
        self._now += int(seconds * 1_000_000)

    def now_us(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return self._now / 1_000_000
