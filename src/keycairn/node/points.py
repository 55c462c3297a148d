"""This node's part in a backup point: a short session of all nodes.

Two ways lead to it. Over the links, where the node of whoever asked leads
(:mod:`keycairn.vault.points`); and step by step over the management listeners, for somebody who
reaches all of them (``backup create --vault``). Either way:

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
from contextlib import suppress
from typing import Any

from keycairn.backup.manifest import Point
from keycairn.errors import Code, KeycairnError
from keycairn.vault.hold import LONGEST, CreationHold
from keycairn.vault.points import PeerPoints, PointSessions

#: How long a copy waits for creations that began before the hold.
SETTLE_SECONDS = 3.0
#: Mark of a hold that an operator asked for without naming one.
_NO_MARK = b""

#: Makes bundles: the point, what to call when the copy is there; the result of ``backup create``.
Create = Callable[[Point, Callable[[], None]], Awaitable[dict[str, Any]]]


class Points:
    """Takes part in one backup point at a time. Implements :class:`keycairn.vault.points.Part`.

    Args:
        hold: holds back creations.
        create: makes bundles.
        newest: the number of the newest point that this node knows.
        busy: whether another bundle is being made.
        led: called with a peer's number when that peer's point made this node write a bundle.
    """

    def __init__(
        self,
        hold: CreationHold,
        create: Create,
        newest: Callable[[], Awaitable[int]],
        *,
        busy: Callable[[], bool] = lambda: False,
        led: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self._hold = hold
        self._create = create
        self._newest = newest
        self._busy = busy
        self._led = led
        self._holder: bytes | None = None
        self._operators: bytes | None = None
        self._taken_for: bytes | None = None
        self._task: asyncio.Task[dict[str, Any]] | None = None
        self._after: asyncio.Task[None] | None = None
        self._taken = asyncio.Event()
        self._sessions: PointSessions | None = None
        self._own = 0

    def join(self, sessions: PointSessions, policy: PeerPoints, own: int) -> None:
        """Take part in points over the links from now on; ``own`` is this node's number."""
        self._sessions, self._own = sessions, own
        sessions.serve(self, policy)

    async def lead(self) -> dict[str, Any]:
        """Lead a point over the links; :meth:`keycairn.vault.points.PointSessions.lead`."""
        if self._sessions is None:
            raise KeycairnError(Code.UNAVAILABLE, "this node is starting", next="try again")
        return await self._sessions.lead()

    # -- over the management listener ----------------------------------------------------------

    async def step(
        self, step: str, *, number: int | None, id: bytes | None, seconds: int | None
    ) -> dict[str, Any]:
        """Do one step, or ``lead`` all of them at all nodes.

        Raises:
            KeycairnError: E_CONFLICT (out of order, or another point), what making a bundle
                raises.
        """
        if step == "lead":
            return await self.lead()
        if step == "hold":
            mark = id or _NO_MARK
            newest = await self.hold(mark, seconds or LONGEST)
            self._operators = mark
            return {"newest": newest, "seconds": int(LONGEST)}
        if step == "take":
            if number is None or id is None:
                raise KeycairnError(Code.MALFORMED, "take needs number and id")
            if self._holder == self._operators == _NO_MARK:
                self._holder = self._operators = id
            held, creating = await self.take(id, number)
            return {"held": held, "creating": creating}
        if step == "release":
            # Only what an operator began: a hold of somebody else's point stays.
            begun = self._operators if id is None else id
            was = self._hold.held and self._holder == begun
            self._release(begun)
            return {"held": was}
        if self._task is None:
            raise _order("no backup point was begun")
        return await asyncio.shield(self._task)

    # -- Part ----------------------------------------------------------------------------------

    async def hold(self, mark: bytes, seconds: float = LONGEST) -> int:
        if self._task is not None and not self._task.done():
            raise _order("the bundle of an earlier backup point is still being written")
        if self._busy():
            raise _order("this node is writing another bundle")
        self._hold.hold(seconds)
        self._holder = mark
        return await self._newest()

    async def take(self, mark: bytes, number: int, leader: int = 0) -> tuple[bool, int]:
        self._require_hold(mark)
        left = await self._hold.settled(SETTLE_SECONDS)
        self._require_hold(mark)
        if self._busy():
            # It would wait for the other one, and copy when no other node does.
            raise _order("this node is writing another bundle")
        self._taken.clear()
        self._taken_for = mark
        self._task = asyncio.create_task(self._run(Point(number, mark), leader))
        await self._taken.wait()
        if self._task.done() and self._task.exception() is not None:
            await self._task
        # The copy was taken under the hold, or it is a bundle like any other.
        return self._hold.held and self._holder == mark, left

    def _require_hold(self, mark: bytes) -> None:
        if not self._hold.held or self._holder != mark:
            raise _order("the hold is over; nothing was copied")

    async def _run(self, point: Point, leader: int) -> dict[str, Any]:
        try:
            made = await self._create(point, self._taken.set)
        finally:
            self._taken.set()
        if self._led is not None and leader not in (0, self._own):
            self._after = asyncio.create_task(self._tidy(self._led, leader))
        return made

    @staticmethod
    async def _tidy(led: Callable[[int], Awaitable[None]], leader: int) -> None:
        with suppress(KeycairnError):  # Said when asked for; the bundle is made.
            await led(leader)

    def release(self, mark: bytes) -> None:
        self._release(mark)

    def _release(self, mark: bytes | None) -> None:
        if mark is not None and self._holder == mark:
            self._hold.release()

    async def result(self, mark: bytes) -> dict[str, Any]:
        if self._task is None or self._taken_for != mark:
            raise _order("nothing was copied")
        return await asyncio.shield(self._task)

    async def stop(self) -> None:
        """Let a bundle that is being written end, and creations go on."""
        self._hold.release()
        left = [task for task in (self._task, self._after) if task is not None]
        if left:
            await asyncio.wait(left, timeout=LONGEST)


def _order(why: str) -> KeycairnError:
    return KeycairnError(
        Code.CONFLICT,
        f"backup point: {why}",
        not_lost="Older bundles and the node itself are untouched.",
        next="keycairn backup create --vault FILE",
    )
