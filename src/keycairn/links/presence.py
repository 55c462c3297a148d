"""Who is reachable, and what every link has in common: its receiver and its checks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from keycairn.errors import Code, KeycairnError
from keycairn.protocols.link import MAX_FRAME, Receiver

_log = logging.getLogger("keycairn.links")


class Presence:
    """The set of peers that are up, with waiters; calls the receiver and survives its bugs."""

    def __init__(self, peers: Iterable[int]) -> None:
        self.peers = frozenset(peers)
        self._receiver: Receiver | None = None
        self._up: set[int] = set()
        self._waiters: set[asyncio.Event] = set()

    def attach(self, receiver: Receiver) -> None:
        """Name the one receiver."""
        if self._receiver is not None:
            raise KeycairnError(Code.CONFLICT, "this link has a receiver already")
        self._receiver = receiver

    def is_up(self, peer: int) -> bool:
        return peer in self._up

    def all_up(self) -> set[int]:
        """The peers that are up now."""
        return set(self._up)

    async def wait_up(self, peers: Iterable[int], timeout: float) -> set[int]:
        """Those of ``peers`` that are up, as soon as all are or ``timeout`` seconds are over."""
        wanted = set(peers)
        changed = asyncio.Event()
        self._waiters.add(changed)
        try:
            async with asyncio.timeout(max(timeout, 0)):
                while not wanted <= self._up:
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            pass
        finally:
            self._waiters.discard(changed)
        return wanted & self._up

    def set_up(self, peer: int) -> None:
        """Tell the receiver that ``peer`` is up, unless it knows."""
        if peer in self._up:
            return
        self._up.add(peer)
        self._wake()
        if self._receiver is not None:
            self._guard("up", peer, None)

    def set_down(self, peer: int) -> None:
        """Tell the receiver that ``peer`` is down, unless it knows."""
        if peer not in self._up:
            return
        self._up.discard(peer)
        self._wake()
        self._guard("down", peer, None)

    def deliver(self, peer: int, data: bytes) -> None:
        """Hand one frame of the authenticated ``peer`` to the receiver."""
        self._guard("frame", peer, data)

    def _wake(self) -> None:
        for event in self._waiters:
            event.set()

    def _guard(self, what: str, peer: int, data: bytes | None) -> None:
        receiver = self._receiver
        if receiver is None:
            return
        try:
            if data is not None:
                receiver.frame(peer, data)
            elif what == "up":
                receiver.up(peer)
            else:
                receiver.down(peer)
        # A bug behind the port must not cost the connections of other sessions.
        except Exception:
            _log.exception("receiver failed", extra={"peer": peer, "kind": what})


def check_frame(peers: frozenset[int], peer: int, data: bytes) -> None:
    """The checks of ``Link.send``: E_BAD_INDEX for a stranger, E_TOO_LARGE for the size."""
    if peer not in peers:
        raise KeycairnError(Code.BAD_INDEX, f"player {peer} is not a peer of this link")
    if not 0 < len(data) <= MAX_FRAME:
        raise KeycairnError(
            Code.TOO_LARGE, f"a frame has 1 to {MAX_FRAME} bytes, this one {len(data)}"
        )
