"""The stock of presignatures: one pool for each key record and set of signers.

A pool holds this node's parts of presignatures (ECDSA) or nonce pairs (Schnorr), oldest first. The
set's lowest player proposes which of them a request takes, in order; the others take exactly those
by their ids. Whatever is taken is out of the pool for good: it comes back only while nothing of it
was used or opened. Nothing here is ever stored; secrets may rest elsewhere meanwhile
(:mod:`keycairn.vault.shelf`).

All methods are safe from any thread.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from keycairn.errors import Code, KeycairnError
from keycairn.protocols.presignature import Presignature
from keycairn.vault.ports import KeyRow

#: Pools and presignatures of a node at most. Beyond, whole pools go: of the proposer that has most,
#: those used longest ago first, so that no peer's invitations push out what others made.
MAX_POOLS = 1024
MAX_STOCK = 50_000
#: Ids that are remembered as spent, to tell "spent" from "unknown".
_REMEMBERED = 100_000

Stock = Presignature[Any]


class Place(NamedTuple):
    """Names a pool: the key's record (so its generation), and the signers, sorted."""

    record_hash: bytes
    players: tuple[int, ...]


@dataclass
class Pool:
    """The stock of one place.

    Attributes:
        ready: by id, oldest first.
        in_use: how many of a session's are taken by requests that run, by session.
        epoch: another one whenever everything is dropped, so that what was being made then is, too.
        failures: attempts to refill in a row that failed.
        not_before: monotonic time of the next attempt.
    """

    place: Place
    key_id: str
    application: str
    protocol: str
    epoch: int
    ready: OrderedDict[bytes, Stock] = field(default_factory=OrderedDict)
    in_use: Counter[bytes] = field(default_factory=Counter)
    failures: int = 0
    not_before: float = 0.0

    @property
    def sids(self) -> tuple[bytes, ...]:
        """The sessions that made what is there or in use."""
        return tuple(dict.fromkeys([*self.in_use, *(p.sid for p in self.ready.values())]))


class Pools:
    """All pools of a node.

    Args:
        usable: whether a presignature could still be used (its pair setups live).
        dropped: called with the ids of presignatures that left unused; their secrets are gone.
        evicted: called with a pool that had to make room for others.
    """

    def __init__(
        self,
        *,
        usable: Callable[[Stock], bool] = lambda _: True,
        dropped: Callable[[Sequence[bytes]], None] = lambda _: None,
        evicted: Callable[[Pool], None] = lambda _: None,
        max_pools: int = MAX_POOLS,
        max_stock: int = MAX_STOCK,
    ) -> None:
        self._usable = usable
        self._dropped = dropped
        self._evicted = evicted
        self._max_pools = max_pools
        self._max_stock = max_stock
        self._lock = threading.RLock()
        self._pools: OrderedDict[Place, Pool] = OrderedDict()
        self._total = 0
        self._epochs = itertools.count(1)
        self._gone: OrderedDict[bytes, None] = OrderedDict()
        self.made = 0

    # -- pools -------------------------------------------------------------------------------

    def open(self, row: KeyRow, players: tuple[int, ...]) -> Pool:
        """The pool of an active key and its signers, made if needed; it counts as used now."""
        record = row.record
        place = Place(record.hash, players)
        with self._lock:
            pool = self._pools.get(place)
            if pool is None:
                # One generation of a key signs: whatever another one left is useless.
                self.drop_key(record.key_id, keep=record.hash)
                pool = Pool(
                    place, record.key_id, row.application, record.protocol, next(self._epochs)
                )
                self._pools[place] = pool
            self._pools.move_to_end(place)
            self._bound()
            return pool

    def get(self, place: Place) -> Pool | None:
        """The pool, if there is one."""
        with self._lock:
            return self._pools.get(place)

    def all(self) -> list[Pool]:
        """Every pool, the last used one first."""
        with self._lock:
            return list(reversed(self._pools.values()))

    def count(self, place: Place) -> int:
        """Presignatures that are ready."""
        with self._lock:
            pool = self._pools.get(place)
            return len(pool.ready) if pool else 0

    def ids(self, place: Place) -> list[bytes]:
        """Their ids, oldest first."""
        with self._lock:
            pool = self._pools.get(place)
            return list(pool.ready) if pool else []

    def _bound(self) -> None:
        while len(self._pools) > 1:
            crowded = len(self._pools) > self._max_pools
            if not crowded and self._total <= self._max_stock:
                return
            has: Counter[int] = Counter()
            for place, pool in self._pools.items():
                has[place.players[0]] += 1 if crowded else len(pool.ready)
            *older, _ = self._pools
            pool = self._pools.pop(max(older, key=lambda place: has[place.players[0]]))
            self._empty(pool)
            self._evicted(pool)

    # -- in ------------------------------------------------------------------------------------

    def add(self, place: Place, epoch: int, made: Sequence[Stock]) -> bool:
        """Take in what a session made, in order of its slots.

        False, and they are gone, if everything was dropped since ``epoch``.
        """
        with self._lock:
            pool = self._pools.get(place)
            if pool is None or pool.epoch != epoch or not all(self._usable(p) for p in made):
                self._discard(made)
                return False
            for p in sorted(made, key=lambda p: p.slot):
                pool.ready[p.id] = p
            self._total += len(made)
            self.made += len(made)
            self._bound()
            return True

    def give_back(self, place: Place, epoch: int, taken: Sequence[Stock]) -> None:
        """Put back what was taken and not used: it comes first again."""
        with self._lock:
            pool = self._pools.get(place)
            if pool is None or pool.epoch != epoch:
                self._discard(taken)
                return
            whole = [p for p in taken if not p.spent and self._usable(p)]
            self._discard([p for p in taken if p not in whole])
            for p in reversed(whole):
                self._gone.pop(p.id, None)
                pool.ready[p.id] = p
                pool.ready.move_to_end(p.id, last=False)
            self._total += len(whole)

    # -- out -----------------------------------------------------------------------------------

    def oldest(self, place: Place, count: int) -> list[Stock]:
        """Take the ``count`` oldest; none if there are fewer."""
        with self._lock:
            pool = self._pools.get(place)
            if pool is None:
                return []
            found: list[bytes] = []
            stale: list[bytes] = []
            for p in pool.ready.values():
                (found if self._usable(p) else stale).append(p.id)
                if len(found) == count:
                    break
            self._discard(self._pop(pool, stale))
            return self._take(pool, found) if len(found) == count else []

    def named(self, place: Place, ids: Sequence[bytes]) -> list[Stock]:
        """Take exactly these, all or none.

        Raises:
            KeycairnError: E_PRESIG_SPENT, E_PRESIG_UNKNOWN.
        """
        with self._lock:
            pool = self._pools.get(place)
            for i in ids:
                if i in self._gone:
                    raise _refusal(Code.PRESIG_SPENT, i)
                if pool is None or i not in pool.ready or not self._usable(pool.ready[i]):
                    raise _refusal(Code.PRESIG_UNKNOWN, i)
            if len(set(ids)) != len(ids):
                raise _refusal(Code.PRESIG_SPENT, ids[0])
            return [] if pool is None else self._take(pool, ids)

    def done(self, place: Place, taken: Sequence[Stock]) -> None:
        """The request that took these has ended."""
        with self._lock:
            pool = self._pools.get(place)
            if pool is not None:
                pool.in_use.subtract(p.sid for p in taken)
                pool.in_use = +pool.in_use

    def _take(self, pool: Pool, ids: Sequence[bytes]) -> list[Stock]:
        taken = self._pop(pool, ids)
        pool.in_use.update(p.sid for p in taken)
        self._remember(ids)
        return taken

    def _remember(self, ids: Iterable[bytes]) -> None:
        self._gone.update(dict.fromkeys(ids))
        while len(self._gone) > _REMEMBERED:
            self._gone.popitem(last=False)

    def _pop(self, pool: Pool, ids: Iterable[bytes]) -> list[Stock]:
        taken = [pool.ready.pop(i) for i in ids]
        self._total -= len(taken)
        return taken

    # -- gone ----------------------------------------------------------------------------------

    def retire(self, place: Place, ids: Iterable[bytes]) -> None:
        """Whoever named these has spent them: they count as spent here, too."""
        with self._lock:
            pool = self._pools.get(place)
            if pool is not None:
                found = [i for i in ids if i in pool.ready]
                self._remember(found)
                self._discard(self._pop(pool, found))

    def drop_session(self, place: Place, sid: bytes) -> int:
        """Drop what one session made: a signer doesn't have it any more."""
        with self._lock:
            pool = self._pools.get(place)
            if pool is None:
                return 0
            found = [p.id for p in pool.ready.values() if p.sid == sid]
            self._discard(self._pop(pool, found))
            return len(found)

    def keep_sessions(self, place: Place, sids: Iterable[bytes]) -> int:
        """Drop what is from none of these sessions."""
        with self._lock:
            pool = self._pools.get(place)
            known = set(sids)
            held = pool.sids if pool else ()
            return sum(self.drop_session(place, sid) for sid in held if sid not in known)

    def drop_unusable(self) -> int:
        """Drop what was made on pair setups that have ended."""
        with self._lock:
            found = 0
            for pool in self._pools.values():
                stale = [p.id for p in pool.ready.values() if not self._usable(p)]
                self._discard(self._pop(pool, stale))
                found += len(stale)
            return found

    def drop_peer(self, peer: int) -> list[Pool]:
        """Drop everything shared with a peer, and what is being made with it; those pools."""
        with self._lock:
            found = [pool for pool in self._pools.values() if peer in pool.place.players]
            for pool in found:
                self._empty(pool)
            return found

    def drop_key(self, key_id: str, keep: bytes = b"") -> None:
        """Forget the pools of a key, but of its record ``keep``."""
        self.forget(lambda pool: pool.key_id == key_id and pool.place.record_hash != keep)

    def forget(self, which: Callable[[Pool], bool]) -> tuple[int, list[Pool]]:
        """Drop pools with all that is in them and all that is being made for them.

        Returns:
            How many presignatures there were, and the pools.
        """
        with self._lock:
            found = [pool for pool in self._pools.values() if which(pool)]
            for pool in found:
                del self._pools[pool.place]
            return sum(self._empty(pool) for pool in found), found

    def _empty(self, pool: Pool) -> int:
        pool.epoch = next(self._epochs)
        found = list(pool.ready)
        self._discard(self._pop(pool, found))
        return len(found)

    def _discard(self, gone: Sequence[Stock]) -> None:
        for p in gone:
            with suppress(KeycairnError):
                p.take()
            p.lose()
        if gone:
            self._dropped([p.id for p in gone])


def _refusal(code: Code, presignature_id: bytes) -> KeycairnError:
    spent = code is Code.PRESIG_SPENT
    return KeycairnError(
        code,
        "this presignature was used before"
        if spent
        else "this node has no such presignature for this key and these signers",
        not_lost="The key is safe: nothing was signed by this request.",
        next="repeat the request without naming a presignature; over HTTP under a fresh session_id",
        detail={"presignature_id": presignature_id.hex()},
    )
