"""PostgreSQL and MariaDB only: durability, broken connections, servers that say no."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from databases import SERVERS, Scratch, admin, scratch
from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError
from keycairn.store import mariadb, postgresql, schema
from keycairn.store.opening import read_keyring, require_unused, write_keyring
from keycairn.store.server import ServerStore
from store.worlds import Home, add_keys, spend


@pytest.fixture(params=SERVERS)
def base(request: pytest.FixtureRequest) -> Iterator[Scratch]:
    with scratch(request.param) as made:
        yield made


@pytest.fixture
def place(base: Scratch) -> Home:
    return Home(base.kind, base.server)


@pytest.fixture
async def store(place: Home) -> AsyncIterator[ServerStore]:
    made = await place.open(create=True)
    assert isinstance(made, ServerStore)
    await made.begin_incarnation(b"inc-1", 1)
    yield made
    await made.close()


async def test_rows_of_a_restore_come_back_as_they_were(store: ServerStore, base: Scratch) -> None:
    """However a database takes many at once: bytes of every value, text that means something to
    its own formats, nothing, truth, and the largest number."""
    every = bytes(range(256)) * 3
    row = {"batch_id": every[:32], "body": every, "created_us": 2**63 - 1, "version": 1}
    batches = [
        row
        | {"batch_id": bytes([n]) * 32, "application": name, "request_id": "r", "active": active}
        for n, (name, active) in enumerate(
            [("a\tb", True), ("\\N", False), ("\\.", True), ("\n\\t", False), ("ä€😀'\"", True)]
        )
    ]
    spend = {"incarnation": b"i", "key_id": "", "digest": b"", "at_us": 0, "version": 0}
    spends = [spend | {"presignature_id": b, "base_r": r} for b, r in ((b"1", None), (b"2", b""))]
    engine = type(store).engine(base.server, 1, writes=True)
    with engine.connect().execution_options(keycairn_bare=True) as conn, conn.begin():
        for table, rows in ((schema.batches, batches), (schema.spends, spends)):
            type(store).insert_many(conn, table, rows)
            found = conn.execute(select(table).order_by(*table.primary_key.columns)).mappings()
            assert [dict(r) for r in found] == rows
    # What the server says no to is said in the operator's words.
    with pytest.raises(DBAPIError) as caught, engine.begin() as conn:
        type(store).insert_many(conn, schema.spends, spends[:1])
    assert "duplicate" in str(caught.value.orig).lower()
    engine.dispose()


async def refused(code: Code, awaitable: Any) -> KeycairnError:
    with pytest.raises(KeycairnError) as caught:
        await awaitable
    assert caught.value.code is code, caught.value
    assert caught.value.not_lost
    assert caught.value.next
    return caught.value


def kill_connections(base: Scratch) -> None:
    """What a restart of the server does to everybody."""
    if base.kind == "postgresql":
        base.admin(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{base.name}' AND pid <> pg_backend_pid()"
        )
        return
    with admin("mariadb") as execute:
        for (number,) in execute(
            f"SELECT id FROM information_schema.processlist WHERE user = '{base.name}'"
        ):
            with contextlib.suppress(Exception):
                execute(f"KILL {number}")


# -- connections


async def test_every_connection_that_broke_is_made_again(base: Scratch, store: ServerStore) -> None:
    await add_keys(store, ["key-a"])
    for n in range(1, 4):
        kill_connections(base)
        await asyncio.sleep(0.05)
        assert (await store.key_share("key-a")).index == 1
        await store.spend_all([spend(n)])
    assert len(await store.spends()) == 3
    await store.check_audit()


async def test_r02_a_commit_without_an_answer_counts_as_spent(
    base: Scratch, store: ServerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit arrives, its answer does not: no write of the group is tried again."""
    await store.spend_all([spend(1)])
    dialect = store._writer.dialect
    commit = dialect.do_commit

    def lost(connection: Any) -> None:
        commit(connection)
        connection.dbapi_connection.close()
        monkeypatch.undo()
        raise _broken(base.kind)

    monkeypatch.setattr(dialect, "do_commit", lost)
    results = await asyncio.gather(
        store.spend_all([spend(2)]), store.spend_all([spend(3)]), return_exceptions=True
    )
    assert [r.code for r in results if isinstance(r, KeycairnError)] == [Code.UNAVAILABLE] * 2
    # It did arrive, and this process goes on from there without taking it for a rollback.
    for n in (2, 3):
        with pytest.raises(KeycairnError) as caught:
            await store.spend_all([spend(n)])
        assert caught.value.code is Code.PRESIG_SPENT
    await store.spend_all([spend(4)])
    assert len(await store.spends()) == 4


async def test_r02_a_commit_that_never_arrived_is_unknown_too(
    base: Scratch, store: ServerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialect = store._writer.dialect

    def lost(connection: Any) -> None:
        connection.dbapi_connection.close()
        monkeypatch.undo()
        raise _broken(base.kind)

    monkeypatch.setattr(dialect, "do_commit", lost)
    await refused(Code.UNAVAILABLE, store.spend_all([spend(1)]))
    await store.audit("the chain goes on from the state before", {})
    await store.spend_all([spend(2)])
    assert [s.at_us for s in await store.spends()] == [2]


def _broken(kind: str) -> Exception:
    if kind == "postgresql":
        import psycopg

        return psycopg.OperationalError("the connection is lost")
    import pymysql

    return pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query")


async def test_a_server_that_is_away_is_said_and_found_again(
    base: Scratch, place: Home, store: ServerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = postgresql if base.kind == "postgresql" else mariadb
    connect = module._connect
    monkeypatch.setattr(
        module, "_connect", lambda server: connect(replace(server, hosts=(("127.0.0.1", 1),)))
    )
    kill_connections(base)
    await asyncio.sleep(0.05)
    error = await refused(Code.UNAVAILABLE, store.spend_all([spend(1)]))
    assert "does not answer" in error.message
    await refused(Code.UNAVAILABLE, store.keys())
    await refused(Code.UNAVAILABLE, place.open())
    results = await asyncio.gather(
        *[store.audit("x", {"n": n}) for n in range(50)], return_exceptions=True
    )
    assert {r.code for r in results if isinstance(r, KeycairnError)} == {Code.UNAVAILABLE}
    monkeypatch.undo()
    await store.spend_all([spend(2)])
    assert await store.keys() == []


async def test_r03_behind_the_same_address_is_an_older_server(
    base: Scratch, place: Home, store: ServerStore
) -> None:
    """A fail-over that lost the last commits: the first reading on a new connection sees it."""
    await store.spend_all([spend(1)])
    tables = ["row_index", "spends", "digests", "audit"]
    keep = [f"CREATE TABLE kept_{t} AS SELECT * FROM {t}" for t in tables]
    back = [
        statement
        for t in tables
        for statement in (f"DELETE FROM {t}", f"INSERT INTO {t} SELECT * FROM kept_{t}")
    ]
    base.admin(*keep)
    await store.spend_all([spend(2)])
    kill_connections(base)
    base.admin(*back)
    await refused(Code.STORE_ROLLBACK, store.keys())
    await refused(Code.STORE_ROLLBACK, store.spend_all([spend(3)]))
    await refused(Code.STORE_ROLLBACK, store.audit("nothing is written to it", {}))
    again = await place.open()
    assert len(await again.spends()) == 1
    await again.begin_incarnation(b"inc-2", 2)
    await again.close()


# -- servers that say no


async def test_a_lock_that_another_program_holds(
    base: Scratch, store: ServerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store._writer.connect().execution_options(keycairn_bare=True) as conn:
        wait = (
            "SET lock_timeout = '300ms'"
            if base.kind == "postgresql"
            else "SET SESSION innodb_lock_wait_timeout = 1"
        )
        conn.exec_driver_sql(wait)
        conn.commit()
    with admin(base.kind, base.name) as execute:
        execute("BEGIN")
        execute("SELECT 1 FROM digests WHERE name = 'audit' FOR UPDATE")
        error = await refused(Code.UNAVAILABLE, store.spend_all([spend(1)]))
        assert "locked" in error.message
        execute("ROLLBACK")
    await store.spend_all([spend(1)])


async def test_a_slow_server_is_given_up(base: Scratch, store: ServerStore) -> None:
    with store._writer.connect().execution_options(keycairn_bare=True) as conn:
        conn.exec_driver_sql(
            "SET statement_timeout = '300ms'"
            if base.kind == "postgresql"
            else "SET SESSION max_statement_time = 0.3"
        )
        conn.commit()
    with admin(base.kind, base.name) as execute:
        execute("BEGIN")
        execute("SELECT 1 FROM digests WHERE name = 'audit' FOR UPDATE")
        error = await refused(Code.UNAVAILABLE, store.spend_all([spend(1)]))
        assert "slow" in error.message
        execute("ROLLBACK")
    await store.spend_all([spend(1)])


async def test_a_read_only_server_takes_nothing(base: Scratch, store: ServerStore) -> None:
    with store._writer.connect().execution_options(keycairn_bare=True) as conn:
        conn.exec_driver_sql(
            "SET default_transaction_read_only = on"
            if base.kind == "postgresql"
            else "SET SESSION TRANSACTION READ ONLY"
        )
        conn.commit()
    error = await refused(Code.UNAVAILABLE, store.spend_all([spend(1)]))
    assert "read-only" in error.message
    assert "primary" in error.next
    assert await store.keys() == []


@pytest.mark.parametrize("kind", SERVERS)
def test_r22_a_server_that_forgets_is_refused(kind: str) -> None:
    with scratch(kind) as base:
        if kind == "postgresql":
            answers = {"server_version": "15.1", "synchronous_commit": "off", "fsync": "off"}
            connection = _FakePostgres(answers)
            prepare = lambda: postgresql._prepare(connection, base.server)  # noqa: E731
        else:
            cursor = _FakeMariadb(("10.11.6-MariaDB", 2, 1))
            prepare = lambda: mariadb._prepare(cursor, base.server)  # noqa: E731
        with pytest.raises(KeycairnError) as caught:
            prepare()
        assert caught.value.code is Code.POLICY
        assert "nonce would be used twice" in caught.value.message
        assert caught.value.next


class _FakePostgres:
    def __init__(self, answers: dict[str, str], version: int = 150001) -> None:
        self.answers, self.info, self.said = answers, self, []
        self.server_version = version

    def execute(self, statement: str) -> _FakePostgres:
        self.said.append(statement)
        self.last = statement.removeprefix("SHOW ")
        return self

    def fetchone(self) -> tuple[str]:
        return (self.answers.get(self.last, "on"),)


class _FakeMariadb:
    def __init__(self, answer: tuple[Any, ...]) -> None:
        self.answer, self.said = answer, []

    def execute(self, statement: str, _: Any = None) -> None:
        self.said.append(statement)

    def fetchone(self) -> tuple[Any, ...]:
        return self.answer


async def test_r22_the_session_flushes_whatever_the_default_is(base: Scratch, place: Home) -> None:
    if base.kind == "postgresql":
        base.admin(f"ALTER ROLE {base.name} SET synchronous_commit = off")
    store = await place.open(create=True)
    assert isinstance(store, ServerStore)
    question = (
        "SHOW synchronous_commit"
        if base.kind == "postgresql"
        else "SELECT @@innodb_flush_log_at_trx_commit"
    )
    with store._writer.connect() as conn:
        assert str(conn.exec_driver_sql(question).scalar()) in ("on", "1")
    await store.close()


@pytest.mark.parametrize("kind", SERVERS)
def test_an_old_or_foreign_server_is_refused(kind: str) -> None:
    with scratch(kind) as base:
        for prepare, found in (
            [(mariadb._prepare, _FakeMariadb((v, 1, 1))) for v in ("10.6.1-MariaDB", "8.0.36")]
            if kind == "mariadb"
            else [(postgresql._prepare, _FakePostgres({}, 140009))]
        ):
            with pytest.raises(KeycairnError) as caught:
                prepare(found, base.server)
            assert caught.value.code is Code.POLICY
            assert "needs" in caught.value.message


async def test_no_such_user_or_database(base: Scratch, place: Home) -> None:
    missing = replace(place, place=replace(base.server, name="no_such"))
    if base.kind == "postgresql":
        await refused(Code.NOT_FOUND, missing.open())
    else:  # MariaDB tells only those who may see it; PostgreSQL may trust everybody here
        await refused(Code.UNAVAILABLE, missing.open())
        wrong = replace(base.server, password=SecretBytes(b"wrong"))
        error = await refused(Code.UNAVAILABLE, replace(place, place=wrong).open())
        assert "refuses this user" in error.message


async def test_foreign_objects_in_the_schema_are_refused(base: Scratch, place: Home) -> None:
    await (await place.open(create=True)).close()
    if base.kind == "postgresql":
        base.admin("CREATE RULE r AS ON INSERT TO bans DO INSTEAD NOTHING")
    else:
        base.admin("CREATE TRIGGER t BEFORE INSERT ON bans FOR EACH ROW SET NEW.peer = 0")
    error = await refused(Code.STORE_INTEGRITY, place.open())
    assert "triggers" in error.message


async def test_r20_an_edited_key_is_blocked_and_no_other(base: Scratch, place: Home) -> None:
    store = await place.open(create=True)
    await add_keys(store, ["key-a", "key-b"])
    await store.close()
    base.admin("UPDATE keys SET generation = 2 WHERE key_id = 'key-a'".replace("keys", _q(base)))
    store = await place.open()
    assert [(d.table, d.row, d.why) for d in await store.damaged()] == [("keys", "key-a", "edited")]
    await refused(Code.STORE_INTEGRITY, store.key_share("key-a"))
    assert (await store.key_share("key-b")).index == 1
    await store.close()


def _q(base: Scratch) -> str:
    return "keys" if base.kind == "postgresql" else "`keys`"


async def test_values_that_do_not_fit_are_refused_and_nothing_is_cut(store: ServerStore) -> None:
    with pytest.raises(KeycairnError) as caught:
        await store.audit("e" * 65, {})
    assert caught.value.code is Code.MALFORMED
    await store.spend_all([spend(1)])
    await store.check_audit()


# -- keyring, half-made stores


async def test_keyring_before_there_is_a_store(base: Scratch, place: Home) -> None:
    server = base.server
    require_unused(server)
    assert read_keyring(server) is None
    write_keyring(server, b"first")
    assert read_keyring(server) == b"first"
    for replaces in (None, b"other"):
        with pytest.raises(KeycairnError) as caught:
            write_keyring(server, b"second", replaces=replaces)
        assert caught.value.code is Code.CONFLICT
    write_keyring(server, b"second", replaces=b"first")
    await refused(Code.STORE_INTEGRITY, place.open())  # half made
    with pytest.raises(KeycairnError) as caught:
        require_unused(server)
    assert caught.value.code is Code.CONFLICT
    store = await place.open(create=True)
    await store.close()
    assert read_keyring(server) == b"second"
    await (await place.open()).close()


def test_no_address_of_a_store_shows_its_password(base: Scratch) -> None:
    for text in (str(base.server), repr(base.server), base.url):
        assert base.password not in text


async def test_a_snapshot_among_writers_is_consistent(store: ServerStore, tmp_path: Path) -> None:
    async def write() -> None:
        for n in range(100):
            await store.spend_all([spend(n + 1)], [f"m/{n}"])

    async def copies() -> list[Path]:
        made = [tmp_path / f"copy-{n}.db" for n in range(3)]
        for path in made:
            await asyncio.sleep(0.05)
            await store.snapshot(path)
        return made

    _, made = await asyncio.gather(write(), copies())
    for path in made:
        copy = await Home("sqlite", path).open()
        assert await copy.damaged() == []
        await copy.check_audit()
        await copy.close()
