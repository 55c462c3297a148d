"""Which presignatures a request takes: the proposer's choice, and what the others make of it.

The signer set's lowest player proposes. If its pool holds enough it claims the oldest, and its
HELLO names them; if not, its HELLO opens a full session. The other signers read that HELLO first
and take exactly what it names, or refuse with nothing of their own opened. What one signer lacks is
of no use to the others: it, and all that was made in the same session, is dropped.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from keycairn.errors import Code, KeycairnError
from keycairn.ports import Rng
from keycairn.protocols.presignature import Presignature
from keycairn.vault.jobs import Job
from keycairn.vault.pools import Pool, Pools
from keycairn.vault.ports import KeyRow
from keycairn.vault.refill import Refiller
from keycairn.vault.sessions import Sessions
from keycairn.vault.shelf import Shelf

Stock = Presignature[Any]
#: From so many items on, a claim is worked out in a thread.
_MANY = 4


@dataclass(frozen=True)
class Taken:
    """Presignatures that a request has used up.

    Attributes:
        claim: the protocol's claim on them.
    """

    pool: Pool
    presignatures: tuple[Stock, ...]
    claim: Any

    @property
    def ids(self) -> list[bytes]:
        return [p.id for p in self.presignatures]


class Claims:
    """Takes presignatures out of the pools, for one request at a time and for good."""

    def __init__(
        self,
        index: int,
        target: int,
        pools: Pools,
        shelf: Shelf,
        refiller: Refiller,
        sessions: Sessions,
        rng: Rng,
    ) -> None:
        self._index = index
        self._target = target
        self._pools = pools
        self._shelf = shelf
        self._refiller = refiller
        self._sessions = sessions
        self._rng = rng

    async def take(
        self, row: KeyRow, job: Job, explicit: bytes | None, check: Callable[[], Awaitable[None]]
    ) -> Taken | None:
        """What the request uses, as all its signers will; None: a full session.

        Args:
            explicit: id of the presignature that this node's user named.
            check: whether the request was answered before; done while there is time.

        Raises:
            KeycairnError: E_SESSION_REPLAY, with nothing used; E_PRESIG_SPENT, E_PRESIG_UNKNOWN;
                of a named one, or of those that the proposer named. Whatever was named counts as
                spent.
            Abort: what waiting for the proposer gives.
        """
        players = job.names.players
        self._sessions.check_fresh(job.names)
        if not await self._sessions.reach(players):
            if explicit is not None:
                raise _unknown(explicit)
            return None  # the session says who is missing
        if players[0] == self._index:
            return await self._propose(row, job, explicit)
        return await self._follow(row, job, explicit, check)

    def end(self, taken: Taken) -> None:
        """The request has ended."""
        self._pools.done(taken.pool.place, taken.presignatures)
        peers = [p for p in taken.pool.place.players if p != self._index]
        self._refiller.credit(peers, len(taken.presignatures))
        self._refiller.note(taken.pool)

    def refused(self, taken: Taken) -> None:
        """A signer does not have what was claimed."""
        for sid in {p.sid for p in taken.presignatures}:
            self._pools.drop_session(taken.pool.place, sid)

    async def _propose(self, row: KeyRow, job: Job, explicit: bytes | None) -> Taken | None:
        players = job.names.players
        if explicit is not None:
            pool = self._pools.open(row, players)
            return await self._use(pool, job, self._pools.named(pool.place, [explicit]))
        if self._target == 0:
            return None
        pool = self._pools.open(row, players)
        epoch = pool.epoch
        found = self._pools.oldest(pool.place, len(job.items))
        if not found:
            self._refiller.note(pool)
            return None
        try:
            return await self._use(pool, job, found)
        except KeycairnError as exc:
            self._pools.give_back(pool.place, epoch, found)
            if exc.code in (Code.PRESIG_UNKNOWN, Code.UNAVAILABLE):
                return None  # a setup has just ended, or the database lost them: make new ones
            raise

    async def _follow(
        self, row: KeyRow, job: Job, explicit: bytes | None, check: Callable[[], Awaitable[None]]
    ) -> Taken | None:
        hello = await self._sessions.proposal(job.names, job.names.players[0], check)
        ids = job.proposed(hello)
        if ids is None:
            if explicit is not None:
                raise _unknown(explicit)
            return None
        pool = self._pools.open(row, job.names.players)
        place = pool.place
        if explicit is not None and ids != (explicit,):
            self._pools.retire(place, [*ids, explicit])
            raise _unknown(explicit)
        if self._refiller.making(place) and not set(ids) <= set(self._pools.ids(place)):
            await self._refiller.settled(place)
        try:
            return await self._use(pool, job, self._pools.named(place, ids))
        except KeycairnError:
            # The proposer has opened its part of them.
            self._pools.retire(place, ids)
            raise

    async def _use(self, pool: Pool, job: Job, found: Sequence[Stock]) -> Taken:
        done = False
        try:
            await self._shelf.bring(found)
            if len(found) > _MANY:
                claim = await self._sessions.off_loop(lambda: job.claim(found, self._rng))
            else:
                claim = job.claim(found, self._rng)
            done = True
        finally:
            if not done:
                self._pools.done(pool.place, found)
        return Taken(pool, tuple(found), claim)


def _unknown(presignature_id: bytes) -> KeycairnError:
    return KeycairnError(
        Code.PRESIG_UNKNOWN,
        "the signers were not all given this presignature, or one of them does not have it",
        not_lost="The key is safe: nothing was signed by this request.",
        next="repeat the request without naming a presignature; over HTTP under a fresh session_id",
        detail={"presignature_id": presignature_id.hex()},
    )
