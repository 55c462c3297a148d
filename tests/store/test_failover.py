"""Servers that go away, stand still, are read-only, or come back as somebody else: real ones."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from databases import SERVERS
from keycairn.errors import Code, KeycairnError
from keycairn.store import mariadb, postgresql, server
from keycairn.store.database import parse_database
from keycairn.store.sql import SqlStore
from keycairn.vault.ports import BanRow
from own_servers import OwnServer, own_server
from store.worlds import Home, add_keys, spend

pytestmark = pytest.mark.slow


@pytest.fixture(params=SERVERS)
def own(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    with own_server(request.param) as made:
        yield made


def place(*servers: OwnServer) -> Home:
    first = servers[0]
    hosts = ",".join(f"127.0.0.1:{s.port}" for s in servers)
    return Home(first.kind, parse_database(f"{first.kind}://store@{hosts}/store", Path("/")))


async def refused(code: Code, awaitable: object) -> KeycairnError:
    with pytest.raises(KeycairnError) as caught:
        await awaitable  # type: ignore[misc]
    assert caught.value.code is code, caught.value
    assert caught.value.not_lost
    assert caught.value.next
    return caught.value


async def state(store: SqlStore) -> tuple[object, ...]:
    return (
        await store.state_digest(),
        await store.check_audit(),
        await store.history_head(),
        len(await store.spends()),
    )


async def test_r22_a_server_that_was_killed_and_came_back(own: OwnServer) -> None:
    """What was acknowledged is there, what was refused is not, and nobody is told of a rollback."""
    store = await place(own).open(create=True)
    told: list[int] = []
    store.on_rollback(lambda: told.append(1))
    await store.begin_incarnation(b"inc-1", 1)
    await add_keys(store, ["key-a"])
    await store.spend_all([spend(1)])
    before = await state(store)
    own.stop(kill=True)
    error = await refused(Code.UNAVAILABLE, store.spend_all([spend(2)]))
    assert "does not answer" in error.message or "going down" in error.message
    await refused(Code.UNAVAILABLE, store.put_ban(BanRow("b", 2, "r", 1)))
    await refused(Code.UNAVAILABLE, store.key("key-a"))
    await refused(Code.UNAVAILABLE, place(own).open())
    own.start()
    assert await state(store) == before
    await store.spend_all([spend(3)])
    own.stop()
    own.start()
    await store.put_ban(BanRow("b", 2, "r", 1))
    assert [s.at_us for s in await store.spends()] == [1, 3]
    assert told == []
    await store.close()


async def test_a_server_that_stands_still_is_given_up(
    own: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process answers nothing, not even the time-out that it was asked for."""
    for module in (server, postgresql, mariadb):
        monkeypatch.setattr(module, "STATEMENT_SECONDS", 1, raising=False)
        monkeypatch.setattr(module, "GRACE_SECONDS", 1, raising=False)
    store = await place(own).open(create=True)
    await store.begin_incarnation(b"inc-1", 1)
    await store.spend_all([spend(1)])
    before = await state(store)
    assert own.process is not None
    group = family(own.process.pid)
    for pid in group:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        results = await asyncio.wait_for(
            asyncio.gather(store.spend_all([spend(2)]), store.key("key-a"), return_exceptions=True),
            30,
        )
    finally:
        for pid in group:
            os.kill(pid, signal.SIGCONT)
    assert time.monotonic() - began < 30
    for result in results:
        assert isinstance(result, KeycairnError)
        assert result.code is Code.UNAVAILABLE
        assert result.next
    # It may have taken in what was sent before it stood still, though nobody heard it say so.
    await store.spend_all([spend(3)])
    after = await state(store)
    assert after[0] == before[0]
    assert {1, 3} <= {s.at_us for s in await store.spends()}
    await store.close()


def family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [*(int(c) for c in children), pid]


async def test_a_server_that_is_made_read_only_takes_nothing(own: OwnServer) -> None:
    store = await place(own).open(create=True)
    await store.begin_incarnation(b"inc-1", 1)
    before = await state(store)
    on, off = (
        (
            "ALTER SYSTEM SET default_transaction_read_only = on",
            "ALTER SYSTEM RESET default_transaction_read_only",
        )
        if own.kind == "postgresql"
        else ("SET GLOBAL read_only = 1", "SET GLOBAL read_only = 0")
    )
    reload = ["SELECT pg_reload_conf()"] if own.kind == "postgresql" else []
    own.admin(on, *reload)
    await asyncio.sleep(0.3)
    for write in (
        lambda: store.spend_all([spend(1)]),
        lambda: store.note_history("x", {}),
        lambda: store.begin_incarnation(b"inc-2", 2),
        lambda: store.rejoin(b"inc-2", 2, 2, bans=[], revoked=[], detail={}),
    ):
        error = await refused(Code.UNAVAILABLE, write())
        assert "read-only" in error.message
        assert "primary" in error.next
    assert await state(store) == before
    own.admin(off, *reload)
    await asyncio.sleep(0.3)
    await store.spend_all([spend(2)])
    assert [s.at_us for s in await store.spends()] == [2]
    await store.close()


# -- fail-over of a PostgreSQL server to its stand-by


@pytest.fixture
def pair() -> Iterator[tuple[OwnServer, OwnServer]]:
    with own_server("postgresql") as primary:
        standby = primary.standby()
        standby.start()
        yield primary, standby


async def caught_up(primary: OwnServer, standby: OwnServer) -> None:
    [(wanted,)] = primary.admin("SELECT pg_current_wal_lsn()::text")
    for _ in range(600):
        question = f"SELECT pg_last_wal_replay_lsn() >= '{wanted}'::pg_lsn"
        if standby.admin(question) == [(True,)]:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the stand-by does not follow")


async def test_a_fail_over_that_lost_nothing_is_no_event(
    pair: tuple[OwnServer, OwnServer],
) -> None:
    primary, standby = pair
    store = await place(primary, standby).open(create=True)
    told: list[int] = []
    store.on_rollback(lambda: told.append(1))
    await store.begin_incarnation(b"inc-1", 1)
    await add_keys(store, ["key-a"])
    await store.spend_all([spend(1)])
    before = await state(store)
    await caught_up(primary, standby)
    primary.stop(kill=True)
    # Not promoted yet: there is nobody who takes a write, and a read goes nowhere either.
    await refused(Code.UNAVAILABLE, store.spend_all([spend(2)]))
    standby.admin("SELECT pg_promote()")
    assert await state(store) == before
    await store.spend_all([spend(3)])
    await store.put_ban(BanRow("b", 2, "r", 1))
    assert [s.at_us for s in await store.spends()] == [1, 3]
    assert told == []
    await store.close()


async def test_r03_a_fail_over_that_lost_commits_is_noticed(
    pair: tuple[OwnServer, OwnServer],
) -> None:
    """INV-1, INV-14: the stand-by lagged, and was promoted under a live node."""
    primary, standby = pair
    store = await place(primary, standby).open(create=True)
    told: list[int] = []
    store.on_rollback(lambda: told.append(1))
    await store.begin_incarnation(b"inc-1", 1)
    await add_keys(store, ["key-a"])
    await caught_up(primary, standby)
    standby.stop()
    await store.put_ban(BanRow("b", 2, "r", 1))
    await store.spend_all([spend(1)])
    primary.stop(kill=True)
    standby.start()
    standby.admin("SELECT pg_promote()")
    older = await (reading := await place(standby).open()).history_head()
    await reading.close()
    await refused(Code.STORE_ROLLBACK, store.spend_all([spend(2)]))
    await refused(Code.STORE_ROLLBACK, store.note_history("x", {}))
    await refused(Code.STORE_ROLLBACK, store.bans())
    assert told == [1]
    reading = await place(standby).open()
    assert await reading.history_head() == older
    assert await reading.spends() == []
    await reading.close()
    head = await store.rejoin(
        b"inc-2", 2, 2, bans=[BanRow("b", 2, "of a witness", 1)], revoked=[], detail={}
    )
    assert head.era == 2
    await store.spend_all([spend(2, incarnation=b"inc-2")])
    await store.close()


async def test_a_stand_by_alone_can_be_read_and_takes_no_write(
    pair: tuple[OwnServer, OwnServer],
) -> None:
    primary, standby = pair
    store = await place(primary).open(create=True)
    await store.begin_incarnation(b"inc-1", 1)
    before = await state(store)
    await store.close()
    await caught_up(primary, standby)
    store = await place(standby).open()
    assert await state(store) == before
    error = await refused(Code.UNAVAILABLE, store.begin_incarnation(b"inc-2", 2))
    assert "read-only" in error.message
    assert "primary" in error.next
    assert await state(store) == before
    await store.close()
