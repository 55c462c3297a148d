"""Pair setups (base OTs and zero-sharing seeds): one per pair of incarnations, in memory only.

The lower player of a pair invites, the higher joins; a player that has none asks. A new
incarnation of a peer, a ban or a failed check drops the setup; nothing of it is ever stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from keycairn.errors import Abort, Code, KeycairnError
from keycairn.ports import Clock, Rng
from keycairn.protocols.setup import PairSetup
from keycairn.vault.control import SetupInvite, SetupWanted
from keycairn.vault.exchange import Exchange

RunSetup = Callable[[str, int], Awaitable[PairSetup]]

#: Setups with one peer: so many at once, so many a second after that.
_BURST, _PER_SECOND = 30.0, 0.5
_NAME_LEN = 64


class Banned(Protocol):
    """Who is banned right now."""

    def __call__(self, peer: int) -> bool: ...


class SetupBook:
    """The live setups of this node.

    Args:
        run: runs the pair-setup session of a name with a peer.
        banned: setups with a banned peer are neither made nor used.
        dropped: called whenever a setup is dropped.
        end: ends the session of a name, if it runs.
    """

    def __init__(
        self,
        index: int,
        exchange: Exchange,
        run: RunSetup,
        banned: Banned,
        clock: Clock,
        rng: Rng,
        dropped: Callable[[], None] = lambda: None,
        end: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._index = index
        self._end = end
        self._dropped = dropped
        self._exchange = exchange
        self._run = run
        self._banned = banned
        self._clock = clock
        self._rng = rng
        self._live: dict[int, PairSetup] = {}
        self._life = 0  # counts incarnations
        self._budget: dict[int, tuple[float, float]] = {}
        self._making: dict[int, str] = {}  # session name, by peer
        # What came while one was being made: an invitation, or "" for a new contact.
        self._later: dict[int, str] = {}
        self._changed = asyncio.Condition()
        exchange.on(SetupInvite, self._invited)
        exchange.on(SetupWanted, self._wanted)

    def get(self, peer: int) -> PairSetup | None:
        """The live setup with ``peer``, or None."""
        setup = self._live.get(peer)
        if setup is None or setup.dead or setup.expired(self._clock.now_us()):
            return None
        return setup

    def drop_all(self) -> None:
        """Kill every setup, also those that are being made: this node's incarnation ended."""
        self._life += 1
        for peer in list(self._live):
            self.drop(peer)

    def drop(self, peer: int) -> None:
        """Kill the setup with ``peer``; sessions on it end without judging anything."""
        setup = self._live.pop(peer, None)
        if setup is not None:
            setup.kill()
            self._dropped()

    def lost(self, peer: int) -> None:
        """The incarnation of ``peer`` has ended: so have the setup with it and one that is being
        made, which nothing of the next one may wait for."""
        self.drop(peer)
        self._later.pop(peer, None)
        name = self._making.pop(peer, None)
        if name is not None:
            self._end(name)

    async def ensure(self, peers: Iterable[int], timeout: float) -> dict[int, PairSetup]:
        """Live setups with all of ``peers``, made if needed.

        Raises:
            Abort: E_PEER_TIMEOUT naming the peers without one after ``timeout`` seconds.
        """
        wanted = set(peers)
        for peer in wanted:
            if self.get(peer) is None:
                await self._begin(peer)

        async def all_there() -> None:
            async with self._changed:
                await self._changed.wait_for(lambda: all(self.get(p) is not None for p in wanted))

        try:
            await asyncio.wait_for(all_there(), timeout)
        except TimeoutError:
            late = sorted(p for p in wanted if self.get(p) is None)
            raise Abort(
                Code.PEER_TIMEOUT,
                f"no pair setup with player {', '.join(map(str, late))} within {timeout:g} s",
                next="keycairn node peers shows who is connected",
                detail={"waiting_for": late},
            ) from None
        return {p: s for p in wanted if (s := self.get(p)) is not None}

    async def contact(self, peer: int) -> None:
        """A peer announced itself: make a setup with it ahead of the first use."""
        if self._index < peer and self.get(peer) is None:
            if peer in self._making:
                # The invitation, or the session's messages, may have been lost with the last
                # connection: invite again, and begin again if this one fails.
                self._later.setdefault(peer, "")
                await self._exchange.send(peer, SetupInvite(self._making[peer]))
            await self._begin(peer)

    def _affordable(self, peer: int) -> bool:
        """Base OTs cost a core 30 ms: a peer that asks for them again and again is not served."""
        now = self._clock.monotonic()
        left, then = self._budget.get(peer, (_BURST, now))
        left = min(_BURST, left + (now - then) * _PER_SECOND)
        self._budget[peer] = (left - 1 if left >= 1 else left, now)
        return left >= 1

    async def _begin(self, peer: int) -> None:
        if self._banned(peer) or peer in self._making:
            return
        if self._index > peer:
            await self._exchange.send(peer, SetupWanted("none"))
            return
        if not self._affordable(peer):
            return
        name = f"setup/{self._index}-{peer}/{self._rng.bytes(16).hex()}"
        self._making[peer] = name
        self._exchange.spawn(self._make(name, peer, invite=True))

    async def _make(self, name: str, peer: int, *, invite: bool) -> None:
        made: PairSetup | None = None
        life = self._life
        try:
            if invite:
                await self._exchange.send(peer, SetupInvite(name))
            made = await self._run(name, peer)
        except KeycairnError:
            pass  # who needs it finds none, and says so
        finally:
            current = self._making.get(peer) == name
            if current:
                del self._making[peer]
        if not current:  # the peer's incarnation has ended meanwhile
            if made is not None:
                made.kill()
            return
        if made is not None and life != self._life:
            made.kill()
            made = None
        if made is not None:
            self.drop(peer)
            self._live[peer] = made
            async with self._changed:
                self._changed.notify_all()
        later = self._later.pop(peer, None)
        if later:
            self._join(later, peer)
        elif later is not None and made is None:
            await self._begin(peer)

    async def _invited(self, peer: int, invite: SetupInvite) -> None:
        expected = f"setup/{peer}-{self._index}/"
        ours = peer < self._index and invite.name.startswith(expected)
        if ours and len(invite.name) <= _NAME_LEN:
            self._join(invite.name, peer)

    def _join(self, name: str, peer: int) -> None:
        if self._banned(peer):
            return
        if peer not in self._making:
            if self._affordable(peer):
                self._making[peer] = name
                # Who invites has none, so ours is useless, and no session may begin on it.
                self.drop(peer)
                self._exchange.spawn(self._make(name, peer, invite=False))
        elif self._making[peer] != name:
            self._later[peer] = name

    async def _wanted(self, peer: int, _: SetupWanted) -> None:
        if self._index < peer:
            # The peer has none, so ours is useless.
            if peer not in self._making:
                self.drop(peer)
            await self._begin(peer)
