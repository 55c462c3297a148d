"""Links between players of one process, with a hook through which a test can play the network.

    network = InProcessNetwork([1, 2, 3])
    link = network.link(1)
    network.tamper = lambda sender, receiver, data: [] if sender == 2 else None   # 2 is mute

The hook sees every frame before it is delivered:

* it returns ``None``: deliver as it is;
* it returns frames: deliver these instead, in this order (none: drop; twice: repeat; others:
  change);
* to delay or reorder, it keeps the frame and returns ``()``, and the test hands it over later
  with :meth:`InProcessNetwork.inject`.

Delivery happens in a later turn of the event loop, in order per pair of players.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeAlias

from keycairn.errors import Code, KeycairnError
from keycairn.links.presence import Presence, check_frame
from keycairn.protocols.link import Receiver

#: ``(sender, receiver, frame) -> frames to deliver instead, or None for the frame itself``.
Tamper: TypeAlias = "Callable[[int, int, bytes], Iterable[bytes] | None]"


class InProcessLink:
    """One player's end of an :class:`InProcessNetwork`; implements the Link port."""

    def __init__(self, network: InProcessNetwork, index: int) -> None:
        self.index = index
        self.started = False
        self._network = network
        self.presence = Presence(j for j in network.players if j != index)

    def attach(self, receiver: Receiver) -> None:
        self.presence.attach(receiver)

    async def send(self, peer: int, data: bytes) -> None:
        check_frame(self.presence.peers, peer, data)
        if self.started:
            self._network._carry(self.index, peer, bytes(data))
        # Let the receivers run: a sender in a tight loop can't fill memory with undelivered frames.
        await asyncio.sleep(0)

    def is_up(self, peer: int) -> bool:
        return self.presence.is_up(peer)

    async def wait_up(self, peers: Iterable[int], timeout: float) -> set[int]:
        return await self.presence.wait_up(peers, timeout)

    async def start(self) -> None:
        self.started = True
        self._network._refresh()

    async def close(self) -> None:
        self.started = False
        self._network._refresh()


class InProcessNetwork:
    """All links of a vault inside one process.

    Attributes:
        players: the indices, sorted.
        tamper: the hook described above, or None.
    """

    def __init__(self, players: Iterable[int], tamper: Tamper | None = None) -> None:
        self.players = tuple(sorted(set(players)))
        self.tamper = tamper
        self._offline: set[int] = set()
        self._links = {i: InProcessLink(self, i) for i in self.players}

    def link(self, index: int) -> InProcessLink:
        """Player ``index``'s link; the same object each time. E_BAD_INDEX for a stranger."""
        if index not in self._links:
            raise KeycairnError(Code.BAD_INDEX, f"player {index} is not on this network")
        return self._links[index]

    def replace(self, index: int) -> InProcessLink:
        """A fresh link for a player that restarts; the old one goes down for good."""
        self.link(index).started = False
        self._refresh()
        self._links[index] = InProcessLink(self, index)
        return self._links[index]

    def take_down(self, index: int) -> None:
        """Cut a player off: its peers see it go down, frames to and from it are dropped."""
        self.link(index)
        self._offline.add(index)
        self._refresh()

    def bring_up(self, index: int) -> None:
        """Undo :meth:`take_down`."""
        self._offline.discard(index)
        self._refresh()

    def inject(self, sender: int, receiver: int, data: bytes) -> None:
        """Deliver a frame as if it came from ``sender``, past the hook."""
        asyncio.get_running_loop().call_soon(self._arrive, sender, receiver, data)

    def _works(self, i: int) -> bool:
        return i not in self._offline and self._links[i].started

    def _refresh(self) -> None:
        for i, link in self._links.items():
            for j in link.presence.peers:
                if self._works(i) and self._works(j):
                    link.presence.set_up(j)
                else:
                    link.presence.set_down(j)

    def _carry(self, sender: int, receiver: int, data: bytes) -> None:
        if not (self._works(sender) and self._works(receiver)):
            return
        frames = None if self.tamper is None else self.tamper(sender, receiver, data)
        for frame in (data,) if frames is None else frames:
            self.inject(sender, receiver, frame)

    def _arrive(self, sender: int, receiver: int, data: bytes) -> None:
        if self._works(sender) and self._works(receiver):
            self._links[receiver].presence.deliver(sender, data)
