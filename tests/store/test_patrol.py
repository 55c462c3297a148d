"""Large tables are checked in the background, while the store is used."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from databases import SERVERS
from keycairn.errors import Code, KeycairnError
from keycairn.ports.system import SystemRng
from keycairn.store import patrol
from keycairn.store.sqlite import SqliteStore
from keycairn.vault.ports import BanRow, RequestRow
from store.worlds import VAULT, Home, World, add_keys, home, spend


@pytest.fixture(params=("sqlite", *SERVERS))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    with home(request.param, tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large and what is a page, in miniature."""
    monkeypatch.setattr("keycairn.store.core.AT_ONCE", 60)
    monkeypatch.setattr(patrol, "_PAGE", 7)
    monkeypatch.setattr(patrol, "_REST", 0.001)


async def filled(place: Home) -> None:
    store = await place.open(create=True)
    for n in range(6):
        await add_keys(store, [f"key-{n}-{i:02}" for i in range(15)], request_id=f"r-{n}")
    await store.begin_incarnation(b"inc-1", 1)
    await store.spend_all([spend(n) for n in range(1, 101)])
    for n in range(70):
        await store.put_request(RequestRow("shop", f"r-{n:03}", b"", {"n": n}))
    await store.close()


async def settled(store: object) -> None:
    assert hasattr(store, "unchecked")
    for _ in range(3000):
        if not store.unchecked or store._broken is not None:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the patrol did not end")


async def test_the_patrol_finds_nothing_among_writers(
    place: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inserted, replaced and removed rows, before and behind the page that was read last."""
    await filled(place)
    store = await place.open()
    decided: list[str] = []
    monkeypatch.setattr(type(store), "decide", lambda self, table: _note(decided, table.name))
    assert set(store.unchecked) == {"keys", "spends", "requests"}
    await store.begin_incarnation(b"inc-2", 2)
    n = 0
    while store.unchecked:
        n += 1
        await store.put_request(RequestRow("shop", f"a-{n * 37 % 1000:03}-{n}", b"", {}))
        await store.spend_all([spend(1000 + n, incarnation=b"inc-2")])
        await add_keys(store, [f"key-{n % 7}-x{n}"], request_id=f"n-{n}")
        await store.put_ban(BanRow("b", 2, str(n), n))
    assert n > 3
    assert decided == []
    assert await store.damaged() == []
    await store.close()
    monkeypatch.undo()
    store = await place.open()
    assert await store.damaged() == []
    await store.close()


async def _note(decided: list[str], name: str) -> None:
    decided.append(name)


def edit(place: Home, store: object, *statements: str) -> None:
    assert hasattr(store, "_writer")
    with store._writer.connect().execution_options(keycairn_bare=True) as conn, conn.begin():
        for statement in statements:
            quoted = "`keys`" if conn.dialect.name in ("mysql", "mariadb") else "keys"
            conn.exec_driver_sql(statement.replace("KEYS", quoted))


async def test_r20_the_patrol_blocks_edited_and_missing_rows(place: Home) -> None:
    await filled(place)
    store = await place.open()
    edit(
        place,
        store,
        "UPDATE KEYS SET generation = 9 WHERE key_id = 'key-3-03'",
        "DELETE FROM requests WHERE request_id = 'r-007'",
    )
    await settled(store)
    found = {(d.table, d.why) for d in await store.damaged()}
    assert found == {("keys", "edited"), ("requests", "missing")}
    with pytest.raises(KeycairnError) as caught:
        await store.key_share("key-3-03")
    assert caught.value.code is Code.STORE_INTEGRITY
    await store.spend_all([spend(500)])
    await store.close()


async def test_r03_rows_that_went_with_their_entries_close_the_store(place: Home) -> None:
    await filled(place)
    store = await place.open()
    edit(
        place,
        store,
        "DELETE FROM KEYS WHERE key_id = 'key-5-14'",
        "DELETE FROM row_index WHERE row_key = 'key-5-14'",
    )
    await settled(store)
    for call in (store.keys(), store.spend_all([spend(500)]), store.audit("x", {})):
        with pytest.raises(KeycairnError) as caught:
            await call
        assert caught.value.code is Code.STORE_INTEGRITY
    await store.close()


async def test_a_damaged_index_is_made_again(place: Home) -> None:
    await filled(place)
    store = await place.open()
    edit(place, store, "DELETE FROM row_index WHERE row_key = 'key-5-14'")
    await settled(store)
    assert await store.damaged() == []
    assert (await store.key_share("key-5-14")).index == 1
    await store.close()


async def test_a_store_is_closed_in_the_middle_of_a_patrol(place: Home) -> None:
    await filled(place)
    for _ in range(3):
        store = await place.open()
        await asyncio.sleep(0.01)
        assert store.unchecked
        await store.close()


async def test_thorough_means_all_at_once(tmp_path: Path) -> None:
    world = World(tmp_path / "node.db")
    await filled(Home("sqlite", world.path))
    with sqlite3.connect(world.path) as db:
        db.execute("UPDATE keys SET generation = 9 WHERE key_id = 'key-3-03'")
    db.close()
    store = await SqliteStore.open(
        world.path,
        sealer=world.sealer(),
        vault=VAULT,
        node=1,
        clock=world.clock,
        rng=SystemRng(),
        thorough=True,
    )
    assert store.unchecked == []
    assert [d.row for d in await store.damaged()] == ["key-3-03"]
    await store.close()
