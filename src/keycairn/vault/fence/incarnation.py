"""The name of this process' present life, shared by everything that bears it."""

from __future__ import annotations

from keycairn.ports import Rng


class Incarnation:
    """32 random bytes, drawn at process start and at every rejoin; nothing crosses over.

    Whoever begins work takes :attr:`id` then and keeps it to the end: what an earlier incarnation
    began must not end in the name of a later one.
    """

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self.id = rng.bytes(32)

    def renew(self) -> bytes:
        """Draw the next one."""
        self.id = self._rng.bytes(32)
        return self.id
