"""This node's part in a backup point: a short session of all nodes, led by whoever asked for it.

Four steps, each a call to the management listener of every node:

* ``hold``: creation of keys waits from here on, for 20 seconds at most.
* ``take``: what was being created gets a moment to end; then this node copies its database.
* ``release``: creation goes on. Encrypting and storing the copy takes longer; nobody waits for it.
* ``result``: the finished bundle.

Nothing depends on the leader: a hold ends by itself, and a bundle that was begun is finished and
booked. A number that not all nodes' bundles bear is no point, which ``backup status`` tells from
the bundles alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from keycairn.backup.manifest import Point
from keycairn.errors import Code, KeycairnError
from keycairn.vault.hold import LONGEST, CreationHold

#: How long a copy waits for creations that began before the hold.
SETTLE_SECONDS = 3.0

#: Makes bundles: the point, what to call when the copy is there; the result of ``backup create``.
Create = Callable[[Point, Callable[[], None]], Awaitable[dict[str, Any]]]


class Points:
    """Takes part in one backup point at a time."""

    def __init__(
        self, hold: CreationHold, create: Create, newest: Callable[[], Awaitable[int]]
    ) -> None:
        self._hold = hold
        self._create = create
        self._newest = newest
        self._task: asyncio.Task[dict[str, Any]] | None = None
        self._taken = asyncio.Event()

    async def step(
        self, step: str, *, number: int | None, id: bytes | None, seconds: int | None
    ) -> dict[str, Any]:
        """Do one step.

        Raises:
            KeycairnError: E_CONFLICT (out of order, or another point), what making a bundle
                raises.
        """
        if step == "hold":
            if self._task is not None and not self._task.done():
                raise _order("the bundle of an earlier backup point is still being written")
            self._hold.hold(seconds or LONGEST)
            return {"newest": await self._newest(), "seconds": int(LONGEST)}
        if step == "take":
            if number is None or id is None:
                raise KeycairnError(Code.MALFORMED, "take needs number and id")
            return await self._take(Point(number, id))
        if step == "release":
            return {"held": self._hold.release()}
        if self._task is None:
            raise _order("no backup point was begun")
        return await asyncio.shield(self._task)

    async def _take(self, point: Point) -> dict[str, Any]:
        if not self._hold.held:
            raise _order("the hold is over; nothing was copied")
        left = await self._hold.settled(SETTLE_SECONDS)
        if not self._hold.held:
            raise _order("the hold is over; nothing was copied")
        self._taken.clear()
        self._task = asyncio.create_task(self._run(point))
        await self._taken.wait()
        if self._task.done() and self._task.exception() is not None:
            await self._task
        # The copy was taken under the hold, or it is a bundle like any other.
        return {"held": self._hold.held, "creating": left}

    async def _run(self, point: Point) -> dict[str, Any]:
        try:
            return await self._create(point, self._taken.set)
        finally:
            self._taken.set()

    async def stop(self) -> None:
        """Let a bundle that is being written end, and creations go on."""
        self._hold.release()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=LONGEST)


def _order(why: str) -> KeycairnError:
    return KeycairnError(
        Code.CONFLICT,
        f"backup point: {why}",
        not_lost="Older bundles and the node itself are untouched.",
        next="keycairn backup create --vault FILE",
    )
