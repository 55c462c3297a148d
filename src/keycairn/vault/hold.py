"""Holding back the creation of keys for a moment, so that all nodes' copies hold the same keys.

While it is held, a creation waits before its session begins; it is not refused, and signing goes
on. A hold ends by itself after its time: whoever asked for it may be dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from keycairn.errors import Code, KeycairnError

#: Longest hold, in seconds. Below the shortest useful session limit of the peers that wait.
LONGEST = 20.0


class CreationHold:
    """One node's gate before key creation."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._running = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def held(self) -> bool:
        """Whether creations wait now."""
        return not self._open.is_set()

    def hold(self, seconds: float) -> None:
        """Hold back creations for at most ``seconds`` (and at most :data:`LONGEST`).

        Raises:
            KeycairnError: E_CONFLICT while another hold is in force: two backup points at a time
                would release each other's.
        """
        if self.held:
            raise KeycairnError(
                Code.CONFLICT,
                "another backup point is being taken",
                not_lost="Nothing was changed.",
                next=f"try again in {int(LONGEST)} seconds; a hold never lasts longer",
            )
        self._open.clear()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(min(max(seconds, 0.0), LONGEST), self.release)

    def release(self) -> bool:
        """Let creations go on; whether a hold was still in force."""
        was = self.held
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._open.set()
        return was

    async def settled(self, seconds: float) -> int:
        """Wait until no creation that began before the hold runs any more; how many still do."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            pass
        return self._running

    @asynccontextmanager
    async def creating(self) -> AsyncIterator[None]:
        """Around a creation's session."""
        while self.held:
            await self._open.wait()
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()
