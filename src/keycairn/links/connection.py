"""One authenticated websocket to one peer: bounded queue, one writer, one reader."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

from websockets.asyncio.connection import Connection as WebSocket
from websockets.exceptions import ConnectionClosed

from keycairn.protocols.link import MAX_FRAME

#: Bytes that may wait for one peer: two largest frames.
QUEUE_BYTES = 2 * MAX_FRAME


class Connection:
    """A live connection. Made after authentication; :meth:`run` ends when it is over.

    Attributes:
        peer: index that the pinned key stands for.
        by_lower: whether the player with the lower index dialled.
        since: monotonic seconds when it was authenticated.
    """

    def __init__(self, ws: WebSocket, peer: int, *, by_lower: bool, since: float) -> None:
        self.peer = peer
        self.by_lower = by_lower
        self.since = since
        self._ws = ws
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._over = False

    async def send(self, data: bytes) -> None:
        """Queue a frame; waits while the queue is full. Dropped once the connection is over."""
        while self._queue and self._bytes + len(data) > QUEUE_BYTES and not self._over:
            self._room.clear()
            await self._room.wait()
        if not self._over:
            self._queue.append(data)
            self._bytes += len(data)
            self._work.set()

    async def run(
        self, deliver: Callable[[Connection, bytes], None], junk: Callable[[], None]
    ) -> None:
        """Read and write until the connection ends, for whatever reason."""
        writer = asyncio.create_task(self._write())
        try:
            async for message in self._ws:
                if isinstance(message, bytes) and message:
                    deliver(self, message)
                else:
                    junk()  # text and empty frames mean nothing here
        except ConnectionClosed:
            pass
        finally:
            self._end()
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer

    async def close(self, code: int, reason: str) -> None:
        """Close it; :meth:`run` ends."""
        self._end()
        await self._ws.close(code, reason)

    def abort(self) -> None:
        """Drop it at once, without the closing handshake."""
        self._end()
        self._ws.transport.abort()

    def _end(self) -> None:
        self._over = True
        self._queue.clear()
        self._bytes = 0
        self._room.set()

    async def _write(self) -> None:
        try:
            while True:
                while self._queue:
                    data = self._queue.popleft()
                    await self._ws.send(data)
                    self._bytes = max(0, self._bytes - len(data))
                    self._room.set()
                self._work.clear()
                await self._work.wait()
        except ConnectionClosed:
            self._end()
