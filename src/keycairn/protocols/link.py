"""The Link port: authenticated, ordered frames between the players of one vault.

What a link promises, and what it does not:

* The peer number a receiver sees comes from the **authenticated channel** (a pinned identity
  key), never from the bytes of a frame.
* Frames of one sender arrive in the order they were sent, each **at most once**. A frame may be
  lost when a connection breaks; nothing is retransmitted. The session that waits for it times
  out and names the peer.
* A frame is 1 byte to :data:`MAX_FRAME` bytes and is delivered whole or not at all.
* A link does not know sessions. Replay over a *new* connection, equivocation and stale sessions
  are the protocols' business (session ids, transcript hashes).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from keycairn.protocols.wire import MAX_MESSAGE

#: Largest frame in bytes that any link carries.
MAX_FRAME = MAX_MESSAGE


class Receiver(Protocol):
    """Whoever uses a link. All methods run on the event loop's thread and must not block.

    An exception that leaves one of them is a bug of the receiver: the link logs it and goes on.
    """

    def frame(self, peer: int, data: bytes) -> None:
        """A whole frame of the authenticated ``peer`` arrived."""
        ...

    def up(self, peer: int) -> None:
        """``peer`` can be reached from now on. Comes before its first frame."""
        ...

    def down(self, peer: int) -> None:
        """``peer`` can't be reached any more. Comes after its last frame of this connection."""
        ...


class Link(Protocol):
    """One player's connections to all others.

    Order of use: :meth:`attach` once, :meth:`start`, then anything, :meth:`close` at the end.
    """

    def attach(self, receiver: Receiver) -> None:
        """Name the receiver, before :meth:`start`. A link has exactly one."""
        ...

    async def send(self, peer: int, data: bytes) -> None:
        """Queue one frame; returns when it is queued, not when it arrived.

        Frames queued by one task leave in that order. When the bounded queue is full the caller
        waits until there is room or the peer goes down. A frame to a peer that is down is
        dropped silently: the session's time-out names the peer.

        Raises:
            KeycairnError: E_TOO_LARGE for an empty frame or one above :data:`MAX_FRAME`;
                E_BAD_INDEX for a player that is not a peer of this link.
        """
        ...

    def is_up(self, peer: int) -> bool:
        """Whether ``peer`` is connected and authenticated right now."""
        ...

    async def wait_up(self, peers: Iterable[int], timeout: float) -> set[int]:
        """Wait at most ``timeout`` seconds for all of ``peers``; returns those that are up.

        Returns early when all are up. Unknown players never come up. Never raises for a peer
        that is down.
        """
        ...

    async def start(self) -> None:
        """Begin to listen and to dial. E_UNAVAILABLE when the listening address is in use."""
        ...

    async def close(self) -> None:
        """Drop all connections and stop; frames still queued may be lost. Idempotent."""
        ...
