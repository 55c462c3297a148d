"""The pools by themselves: order, exactly once from any thread, bounds, and what ends a stock."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from keycairn.errors import Code, KeycairnError
from keycairn.protocols.presignature import Presignature
from keycairn.vault.pools import Pool, Pools
from keycairn.vault.ports import KeyRow
from store.worlds import new_key


@dataclass(frozen=True)
class Secret:
    number: int


class Fake(Presignature[Secret]):
    setup_alive = True

    def _encode(self, secrets: Secret) -> bytes:
        return secrets.number.to_bytes(4, "big")

    def _decode(self, data: bytes) -> Secret:
        return Secret(int.from_bytes(data, "big"))


def row(name: str = "key-a") -> KeyRow:
    return KeyRow(new_key(name).record, "app", "active", b"batch", 0)


def made(pool: Pool, session: str, slots: Sequence[int]) -> list[Any]:
    return [
        Fake(
            id=f"{session}-{slot:04}".encode().ljust(32, b"."),
            sid=session.encode().ljust(32, b"."),
            slot=slot,
            index=1,
            players=pool.place.players,
            key_id=pool.key_id,
            record_hash=pool.place.record_hash,
            secrets=Secret(slot),
        )
        for slot in slots
    ]


def names(found: Sequence[Any]) -> list[str]:
    return [p.id.decode().rstrip(".") for p in found]


class Kit:
    """Pools that report what they drop."""

    def __init__(self, **bounds: int) -> None:
        self.dropped: list[bytes] = []
        self.evicted: list[str] = []
        self.dead: set[bytes] = set()
        self.pools = Pools(
            usable=lambda p: p.sid not in self.dead,
            dropped=self.dropped.extend,
            evicted=lambda pool: self.evicted.append(pool.key_id),
            **bounds,
        )

    def pool(
        self, *stock: tuple[str, Sequence[int]], key: str = "key-a", who: tuple[int, ...] = (1, 2)
    ) -> Pool:
        pool = self.pools.open(row(key), who)
        for session, slots in stock:
            assert self.pools.add(pool.place, pool.epoch, made(pool, session, slots))
        return pool


def refused(code: Code, call: Any) -> None:
    with pytest.raises(KeycairnError) as caught:
        call()
    assert caught.value.code is code
    assert caught.value.next


def test_oldest_first_by_session_then_slot() -> None:
    kit = Kit()
    pool = kit.pool(("s1", [2, 0, 1]), ("s0", [1, 0]))
    assert names(kit.pools.oldest(pool.place, 2)) == ["s1-0000", "s1-0001"]
    assert names(kit.pools.oldest(pool.place, 2)) == ["s1-0002", "s0-0000"]
    assert kit.pools.oldest(pool.place, 2) == [], "all or none"
    assert names(kit.pools.oldest(pool.place, 1)) == ["s0-0001"]
    assert kit.pools.oldest(pool.place, 1) == []
    assert kit.dropped == []


def test_t045_by_id_once_and_all_or_none() -> None:
    kit = Kit()
    pool = kit.pool(("s1", range(4)))
    ids = kit.pools.ids(pool.place)
    assert names(kit.pools.named(pool.place, [ids[2], ids[0]])) == ["s1-0002", "s1-0000"]
    refused(Code.PRESIG_SPENT, lambda: kit.pools.named(pool.place, [ids[0]]))
    refused(Code.PRESIG_SPENT, lambda: kit.pools.named(pool.place, [ids[1], ids[2]]))
    refused(Code.PRESIG_UNKNOWN, lambda: kit.pools.named(pool.place, [ids[1], b"?" * 32]))
    refused(Code.PRESIG_SPENT, lambda: kit.pools.named(pool.place, [ids[1], ids[1]]))
    assert kit.pools.ids(pool.place) == [ids[1], ids[3]]


def test_t046_each_leaves_once_whatever_the_threads_do() -> None:
    kit = Kit()
    pool = kit.pool(("s1", range(400)))
    ids = kit.pools.ids(pool.place)
    got: list[list[Any]] = [[] for _ in range(8)]
    start = threading.Barrier(8)

    def worker(n: int) -> None:
        start.wait()
        for k in range(200):
            try:
                if n % 2:
                    got[n] += kit.pools.oldest(pool.place, 1 + k % 3)
                else:
                    got[n] += kit.pools.named(pool.place, [ids[(k * 7 + n) % 400]])
            except KeycairnError:
                continue

    threads = [threading.Thread(target=worker, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    taken = [p.id for part in got for p in part]
    assert len(taken) == len(set(taken))
    assert set(taken) | set(kit.pools.ids(pool.place)) == set(ids)
    assert len(taken) + kit.pools.count(pool.place) == 400


def test_what_comes_back_unused_is_first_again() -> None:
    kit = Kit()
    pool = kit.pool(("s1", range(4)))
    taken = kit.pools.oldest(pool.place, 3)
    taken[1].take()
    kit.pools.give_back(pool.place, pool.epoch, taken)
    assert [i.decode()[:7] for i in kit.pools.ids(pool.place)] == ["s1-0000", "s1-0002", "s1-0003"]
    assert kit.dropped == [taken[1].id]
    assert kit.pools.named(pool.place, [taken[0].id]) == [taken[0]]
    refused(Code.PRESIG_SPENT, lambda: kit.pools.named(pool.place, [taken[1].id]))


def test_what_was_being_made_when_all_was_dropped_is_dropped_too() -> None:
    kit = Kit()
    pool = kit.pool(("s1", range(2)))
    old = pool.epoch
    late, taken = made(pool, "s2", range(2)), kit.pools.oldest(pool.place, 1)
    assert kit.pools.drop_peer(2) == [pool]
    assert not kit.pools.add(pool.place, old, late)
    kit.pools.give_back(pool.place, old, taken)
    assert kit.pools.count(pool.place) == 0
    assert all(p.spent for p in (*late, *taken)), "the secrets are gone"
    assert len(kit.dropped) == 4
    count, forgotten = kit.pools.forget(lambda p: p is pool)
    assert (count, forgotten) == (0, [pool])
    again = kit.pool()
    assert again is not pool
    assert not kit.pools.add(again.place, pool.epoch, made(pool, "s3", range(2)))
    assert kit.pools.add(again.place, again.epoch, made(again, "s4", range(2)))


def test_sessions_dead_setups_and_other_generations() -> None:
    kit = Kit()
    pool = kit.pool(("s1", range(2)), ("s2", range(2)), ("s3", range(2)))
    s1, s2, s3 = pool.sids
    (used,) = kit.pools.oldest(pool.place, 1)
    assert kit.pools.drop_session(pool.place, s2) == 2
    assert kit.pools.keep_sessions(pool.place, [s3]) == 1
    assert pool.sids == (s1, s3), "one of s1 is in use"
    kit.pools.done(pool.place, [used])
    assert pool.sids == (s3,)
    kit.dead.add(s3)
    assert kit.pools.drop_unusable() == 2
    kit.dead.clear()
    kit.pools.add(pool.place, pool.epoch, made(pool, "s5", range(2)))
    kit.dead.add(pool.sids[0])
    refused(
        Code.PRESIG_UNKNOWN,
        lambda: kit.pools.named(pool.place, kit.pools.ids(pool.place)[:1]),
    )
    assert kit.pools.oldest(pool.place, 1) == []
    assert not kit.pools.add(pool.place, pool.epoch, made(pool, "s5", range(2, 4)))
    kit.dead.clear()
    kit.pools.add(pool.place, pool.epoch, made(pool, "s6", range(2)))
    kit.pools.drop_key("key-a", keep=pool.place.record_hash)
    assert kit.pools.count(pool.place) == 2
    kit.pools.drop_key("key-a", keep=b"the next generation's")
    assert kit.pools.count(pool.place) == 0
    assert kit.pools.get(pool.place) is None


def test_t047_retired_ids_count_as_spent() -> None:
    kit = Kit()
    pool = kit.pool(("s1", range(3)))
    ids = kit.pools.ids(pool.place)
    kit.pools.retire(pool.place, [ids[1], b"?" * 32])
    refused(Code.PRESIG_SPENT, lambda: kit.pools.named(pool.place, [ids[1]]))
    refused(Code.PRESIG_UNKNOWN, lambda: kit.pools.named(pool.place, [b"?" * 32]))
    assert kit.dropped == [ids[1]]


def test_pools_that_nobody_uses_make_room() -> None:
    kit = Kit(max_pools=3, max_stock=10)
    pools = [kit.pool(("s", range(3)), key=f"key-{n}") for n in range(3)]
    kit.pools.open(row("key-0"), (1, 2))  # used again
    kit.pool(("t", range(1)), key="key-new")
    assert kit.evicted == ["key-1"]
    assert kit.pools.count(pools[0].place) == 3
    big = kit.pool(key="key-0", who=(1, 3))
    assert kit.evicted == ["key-1", "key-2"]
    kit.pools.add(big.place, big.epoch, made(big, "u", range(9)))
    assert kit.evicted == ["key-1", "key-2", "key-0"]
    assert kit.pools.count(big.place) == 9
    assert len(kit.dropped) == 9


def test_a_proposer_makes_room_among_its_own_pools() -> None:
    kit = Kit(max_pools=4, max_stock=20)
    mine = kit.pool(("s", range(3)), key="key-mine", who=(2, 3))
    for n in range(6):  # what a peer invites to, without end
        kit.pool(("t", range(3)), key=f"key-{n}", who=(1, 3))
    assert kit.evicted == ["key-0", "key-1", "key-2"]
    assert kit.pools.count(mine.place) == 3
    last = kit.pools.all()[0]
    kit.pools.add(last.place, last.epoch, made(last, "u", range(11)))
    assert kit.evicted == ["key-0", "key-1", "key-2", "key-3"]
    assert kit.pools.count(mine.place) == 3, "stock is counted in the same way"
