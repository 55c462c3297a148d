"""Making presignatures in the background, for all signers of a pool at once.

The set's lowest player invites; the others join if they may. A node runs one such session at a
time, in chunks, and begins none while users' requests run, unless a pool is below its low-water
mark: requests come first, and they need stock. Who can't refill a pool waits longer and longer.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from keycairn.errors import Code, KeycairnError, PeerAborted
from keycairn.ports import Clock, Rng
from keycairn.protocols import dkls23, frost
from keycairn.protocols.driver import Journal
from keycairn.protocols.link import Link
from keycairn.protocols.presignature import Presignature
from keycairn.protocols.record import KeyShare
from keycairn.protocols.session import SMALL_ROUNDS, SessionSpec
from keycairn.vault.api import VaultParameters
from keycairn.vault.control import RefillInvite
from keycairn.vault.exchange import Exchange
from keycairn.vault.pools import Place, Pool, Pools
from keycairn.vault.ports import KeyRow, Store
from keycairn.vault.sessions import Sessions
from keycairn.vault.setups import SetupBook
from keycairn.vault.shelf import Shelf

_log = logging.getLogger("keycairn.vault")

#: Presignatures of one session: a short one while requests wait, longer ones are cheaper each.
HASTY, CHUNK, MAX_COUNT = 16, 32, 100
#: Sessions that an invitation can name.
_MAX_HELD = 1024
#: No request for so long, and the machine counts as idle.
_QUIET_SECONDS = 0.25
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0
#: After a session that failed, its signer set has to wait so many times as long as that took: who
#: is silent in such sessions must not keep this node from making any with others.
_REST, _LONGEST_REST = 5.0, 600.0
#: What a peer may have made of one node for nothing: so many at once, so many a second after
#: that. What requests use up comes on top.
_BURST, _PER_SECOND = 2000.0, 20.0

Stock = Presignature[Any]


class Refiller:
    """Keeps this node's pools filled."""

    def __init__(
        self,
        params: VaultParameters,
        pools: Pools,
        shelf: Shelf,
        *,
        store: Store,
        sessions: Sessions,
        setups: SetupBook,
        exchange: Exchange,
        link: Link,
        journal: Journal,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self._params = params
        self._pools = pools
        self._shelf = shelf
        self._store = store
        self._sessions = sessions
        self._setups = setups
        self._exchange = exchange
        self._link = link
        self._journal = journal
        self._clock = clock
        self._rng = rng
        self._hungry: dict[Place, None] = {}
        self._wake = asyncio.Event()
        self._stopped = False
        self._making: Place | None = None
        self._resting: dict[tuple[int, ...], float] = {}  # until when, by signer set
        self._made = asyncio.Condition()
        self._budget: dict[int, tuple[float, float]] = {}
        exchange.on(RefillInvite, self._invited)

    def start(self) -> None:
        """Begin to refill, until :meth:`stop`."""
        if self._params.presignature_target > 0:
            self._exchange.spawn(self._run())

    def stop(self) -> None:
        """Begin no more; what is being made may end."""
        self._stopped = True
        self._wake.set()

    # -- what the others tell ------------------------------------------------------------------

    def note(self, pool: Pool) -> None:
        """A pool was used or has lost something."""
        mine = pool.place.players[0] == self._params.index
        if mine and len(pool.ready) < self._params.presignature_target:
            self._hungry[pool.place] = None
            self._wake.set()

    def contact(self, peer: int) -> None:
        """A peer is here (again): what failed without it may work now."""
        for pool in self._pools.all():
            if peer in pool.place.players:
                pool.failures, pool.not_before = 0, 0.0
                self.note(pool)

    def credit(self, peers: Sequence[int], count: int) -> None:
        """A request of our own users used up what was made with these peers."""
        for peer in peers:
            left, then = self._allowance(peer)
            self._budget[peer] = (min(_BURST, left + count), then)

    async def settled(self, place: Place) -> None:
        """Wait until nothing is being made for a pool: the proposer may have it already."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._params.session_seconds), self._made:
                await self._made.wait_for(lambda: self._making != place)

    def making(self, place: Place) -> bool:
        """Whether something is being made for a pool."""
        return self._making == place

    # -- inviting ------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._stopped:
            self._wake.clear()
            pool, pause = self._choose()
            if pool is not None:
                try:
                    await self._refill(pool)
                except Exception:
                    # A fault of ours in one pool must not leave all others dry for good.
                    _log.exception("refill failed")
                    pool.not_before = self._clock.monotonic() + _LONGEST_PAUSE
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    def _choose(self) -> tuple[Pool | None, float | None]:
        """The pool to refill now, or how long to wait at most for one."""
        now = self._clock.monotonic()
        quiet = self._sessions.quiet(_QUIET_SECONDS)
        pause: float | None = None
        best: Pool | None = None
        for place in list(self._hungry):
            pool = self._pools.get(place)
            if pool is None or not self._lacks(pool):
                del self._hungry[place]
                continue
            low = len(pool.ready) < self._params.presignature_low_water
            rest = max(pool.not_before, self._resting.get(place.players, 0.0)) - now
            later = max(rest, 0.0 if quiet or low else _QUIET_SECONDS)
            if self._making is not None:
                later = max(later, 0.02)
            if later > 0:
                pause = later if pause is None else min(pause, later)
            elif best is None or len(pool.ready) < len(best.ready):
                best = pool
        return best, pause

    def _lacks(self, pool: Pool) -> bool:
        peers = [p for p in pool.place.players if p != self._params.index]
        return len(pool.ready) < self._params.presignature_target and all(
            self._link.is_up(p) and not self._sessions.banned(p) for p in peers
        )

    async def _refill(self, pool: Pool) -> None:
        idle = self._sessions.quiet(_QUIET_SECONDS)
        missing = self._params.presignature_target - len(pool.ready)
        count = min(missing, CHUNK if idle else HASTY)
        name = f"refill/{self._params.index}/{self._rng.bytes(16).hex()}"
        held = tuple(pool.sids)[-_MAX_HELD:]
        try:
            await self._make(
                name, pool, count, RefillInvite(name, pool.key_id, *pool.place, count, held=held)
            )
            pool.failures = 0
        except KeycairnError as exc:
            busy = isinstance(exc, PeerAborted) and exc.code is Code.CONFLICT
            pool.failures += not busy
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(pool.failures, 20))
            # Two nodes that invite each other again and again must not stay in step.
            pause *= 0.5 + self._rng.bytes(1)[0] / 255
            pool.not_before = self._clock.monotonic() + pause

    # -- joining -------------------------------------------------------------------------------

    async def _invited(self, peer: int, invite: RefillInvite) -> None:
        # Looked at one after the other: of what one peer sends, only its queue may grow.
        if not _well_formed(peer, self._params.index, invite):
            return
        try:
            self._sessions.require_active()
        except KeycairnError as exc:
            await self._sessions.refuse(invite.name, invite.players, exc.code)
            return
        row = await self._store.key(invite.key_id)
        code = Code.POLICY if row is None else self._refusal(peer, row, invite)
        if row is None or code is not None:
            await self._sessions.refuse(invite.name, invite.players, code or Code.POLICY)
            return
        pool = self._pools.open(row, invite.players)
        self._making = pool.place  # now: the task begins later
        self._exchange.spawn(self._make(invite.name, pool, invite.count))

    def _refusal(self, peer: int, row: KeyRow, invite: RefillInvite) -> Code | None:
        """Why this node does not follow an invitation; None if it does."""
        if not self._may(row, invite):
            return Code.POLICY
        place = Place(invite.record_hash, invite.players)
        if self._pools.get(place) is not None:
            self._pools.keep_sessions(place, invite.held)
        rests = self._resting.get(place.players, 0.0) > self._clock.monotonic()
        if rests or self._making is not None or self._stopped:
            return Code.CONFLICT
        full = self._pools.count(place) > self._params.presignature_target + MAX_COUNT
        return Code.POLICY if full or not self._affordable(peer, invite.count) else None

    def _may(self, row: KeyRow, invite: RefillInvite) -> bool:
        record = row.record
        try:
            record.check_signers(invite.players)
        except KeycairnError:
            return False
        return (
            row.state == "active"
            and record.hash == invite.record_hash
            and f"{record.scheme}.sign" in self._params.operations
            and self._params.presignature_target > 0
            and not any(self._sessions.banned(p) for p in invite.players)
        )

    def _allowance(self, peer: int) -> tuple[float, float]:
        now = self._clock.monotonic()
        left, then = self._budget.get(peer, (_BURST, now))
        return min(_BURST, left + (now - then) * _PER_SECOND), now

    def _affordable(self, peer: int, count: int) -> bool:
        """Each one costs a core milliseconds: a peer gets no more than requests use up, or a
        trickle."""
        left, now = self._allowance(peer)
        self._budget[peer] = (left - count if left >= count else left, now)
        return left >= count

    # -- the session ---------------------------------------------------------------------------

    async def _make(
        self, name: str, pool: Pool, count: int, invite: RefillInvite | None = None
    ) -> None:
        self._making, epoch = pool.place, pool.epoch
        begun = self._clock.monotonic()
        try:
            self._sessions.require_active()
            if invite is not None:
                for peer in invite.players:
                    if peer != self._params.index:
                        await self._exchange.send(peer, invite)
            key = await self._store.key_share(pool.key_id)
            if key.record.hash != pool.place.record_hash:
                raise KeycairnError(Code.EPOCH_MISMATCH, "the pool is of another generation")
            made = await self._session(name, pool.place.players, key, count)
            await self._shelf.lay(made)
            self._pools.add(pool.place, epoch, made)
        except KeycairnError:
            self._rest(pool.place.players, begun)
            raise
        finally:
            self._making = None
            async with self._made:
                self._made.notify_all()

    def _rest(self, players: tuple[int, ...], begun: float) -> None:
        now = self._clock.monotonic()
        self._resting = {p: until for p, until in self._resting.items() if until > now}
        self._resting[players] = now + min(_LONGEST_REST, _REST * (now - begun))

    async def _session(
        self, name: str, players: tuple[int, ...], key: KeyShare, count: int
    ) -> Sequence[Stock]:
        record = key.record
        vault = self._params.vault_id
        if record.scheme != "ecdsa":
            nonces = SessionSpec(
                name,
                frost.PRESIGN_NAME,
                frost.VERSION,
                vault,
                players,
                frost.PresignParams(record.key_id, record.hash, count),
                largest=SMALL_ROUNDS,
            )
            return await self._sessions.run(
                nonces,
                lambda party: frost.presign(party, key, count),
                self._journal,
                public=False,
            )
        peers = [p for p in players if p != self._params.index]
        setups = await self._setups.ensure(peers, self._params.session_seconds)
        spec = SessionSpec(
            name,
            dkls23.PRESIGN_NAME,
            dkls23.VERSION,
            vault,
            players,
            dkls23.PresignParams(record.key_id, record.hash, count),
            {p: s.setup_id for p, s in setups.items()},
            largest=dkls23.largest_round(count),
        )
        return await self._sessions.run(
            spec,
            lambda party: dkls23.presign(party, key, setups, count),
            self._journal,
            public=False,
        )


_NAME = re.compile(r"refill/([0-9]{1,9})/[0-9a-f]{32}")


def _well_formed(peer: int, index: int, invite: RefillInvite) -> bool:
    name = _NAME.fullmatch(invite.name)
    players = invite.players
    return (
        name is not None
        and name[1] == str(peer)
        and len(players) >= 2
        and list(players) == sorted(set(players))
        and players[0] == peer
        and index in players
        and len(invite.key_id) <= 128
        and len(invite.record_hash) == 32
        and 1 <= invite.count <= MAX_COUNT
        and len(invite.held) <= _MAX_HELD
        and all(len(sid) == 32 for sid in invite.held)
    )
