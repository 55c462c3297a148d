"""The node's end of its links: session frames to the router, control messages to handlers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from keycairn.errors import KeycairnError
from keycairn.protocols.driver import SESSION_FRAME
from keycairn.protocols.link import Link
from keycairn.protocols.router import Router
from keycairn.protocols.wire import Message
from keycairn.vault import control

_log = logging.getLogger("keycairn.vault")

M = TypeVar("M", bound=Message)
Handler = Callable[[int, Any], Awaitable[None]]

_CONTROL_BACKLOG = 1024
_CONTROL_BYTES = 64 << 20  # waiting for one peer's handlers: four documents of the largest size


@dataclass
class Peer:
    """What this node knows about a peer right now."""

    index: int
    up: bool = False
    greeted: bool = False  # its Announce of this connection was heard
    incarnation: bytes = b""
    version: str = ""
    state: str = ""
    queue: asyncio.Queue[tuple[Message, int]] = field(
        default_factory=lambda: asyncio.Queue(maxsize=_CONTROL_BACKLOG)
    )
    queued_bytes: int = 0


class Exchange:
    """Receives everything a link delivers.

    Control messages of one peer are handled one after the other by a task of its own, so that a
    slow handler or a flood from one peer holds back nobody else; a full backlog drops.
    """

    def __init__(
        self, link: Link, router: Router, announce: Callable[[], control.Announce]
    ) -> None:
        self.link = link
        self.router = router
        self.peers: dict[int, Peer] = {}
        self.dropped = 0
        self._announce = announce
        self._on_up: list[Callable[[int], None]] = []
        self._handlers: dict[type[Message], Handler] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._workers: dict[int, asyncio.Task[None]] = {}

    def on(self, kind: type[M], handler: Callable[[int, M], Awaitable[None]]) -> None:
        """Register the handler of a control message."""
        self._handlers[kind] = handler

    def on_up(self, do: Callable[[int], None]) -> None:
        """Have ``do`` called with a peer whose link comes up, before anything of it is heard."""
        self._on_up.append(do)

    def announce(self) -> None:
        """Tell every peer that is connected what this node is now."""
        for peer in list(self.peers.values()):
            if peer.up:
                self.spawn(self.send(peer.index, self._announce()))

    async def send(self, peer: int, message: Message) -> None:
        """Send a control message; dropped if the peer is down."""
        await self.link.send(peer, control.pack(message))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run ``work`` in the background until :meth:`close`; its typed errors are not fatal."""

        async def guarded() -> None:
            try:
                await work
            except KeycairnError:
                return

        task = asyncio.get_running_loop().create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Cancelled before its first step, it would never be awaited.
        task.add_done_callback(lambda _: work.close())

    # -- Receiver ----------------------------------------------------------------------------

    def frame(self, peer: int, data: bytes) -> None:
        if data[:1] == SESSION_FRAME:
            self.router.deliver(peer, data[1:])
            return
        message = control.unpack(data)
        if message is None or type(message) not in self._handlers:
            self.dropped += 1
            return
        known = self._peer(peer)
        if known.queue.full() or known.queued_bytes + len(data) > _CONTROL_BYTES:
            self.dropped += 1
            return
        known.queued_bytes += len(data)
        known.queue.put_nowait((message, len(data)))

    def up(self, peer: int) -> None:
        self._peer(peer).up = True
        self._peer(peer).greeted = False
        for do in self._on_up:
            do(peer)
        self.spawn(self.send(peer, self._announce()))

    def down(self, peer: int) -> None:
        self._peer(peer).up = False
        self.router.lost(peer)

    def _peer(self, index: int) -> Peer:
        if index not in self.peers:
            self.peers[index] = Peer(index)
            loop = asyncio.get_running_loop()
            self._workers[index] = loop.create_task(self._work(self.peers[index]))
        return self.peers[index]

    async def _work(self, peer: Peer) -> None:
        while True:
            message, size = await peer.queue.get()
            peer.queued_bytes -= size
            try:
                await self._handlers[type(message)](peer.index, message)
            except KeycairnError:
                # A peer's bad message must not stop the ones behind it.
                self.dropped += 1
            except Exception:
                # Nor may a fault of ours: without this task the peer would be unheard for good.
                self.dropped += 1
                _log.exception("control message failed", extra={"peer": peer.index})

    async def close(self) -> None:
        """Stop all background work."""
        left: set[asyncio.Task[None]] = {*self._tasks, *self._workers.values()}
        while left:
            # More than once: before Python 3.12 asyncio.wait_for can swallow a cancellation.
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=0.5)
