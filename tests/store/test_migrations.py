"""Databases of every version that ever was, kept in fixtures/, open with this one."""

from __future__ import annotations

import gzip
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from databases import SERVERS, Scratch, admin, scratch
from keycairn.backup.database import check_plain
from keycairn.errors import Code, KeycairnError
from keycairn.ports.system import SystemRng
from keycairn.store import schema
from keycairn.store.integrity import SPENT, Macs
from keycairn.store.migrations import STEPS, TABLES
from keycairn.store.sqlite import SqliteStore, read_keyring
from keycairn.vault.sealing import Sealer
from store.worlds import DATA_KEY, VAULT, Home, World, add_keys, home, spend

FIXTURES = Path(__file__).parent / "fixtures"
#: Of the state that every fixture holds.
DIGEST = "e6f56dcf5c7d292a78d0f4adfaaa21b67a3c6a11f142cd7d61bf4435e111c8af"
RECORDS = {version: 13 for version in (1, 2, 3)} | {4: 15}


def test_there_is_a_step_and_a_fixture_for_every_version() -> None:
    versions = set(range(1, schema.SCHEMA_VERSION + 1))
    assert [step.version for step in STEPS] == sorted(versions - {1})
    assert set(TABLES) == versions - {schema.SCHEMA_VERSION}
    kept = {p.name for p in FIXTURES.glob("sqlite-v*.db.gz")}
    assert kept == {f"sqlite-v{n}.db.gz" for n in versions}


def unpacked(version: int, directory: Path) -> Path:
    path = directory / "node.db"
    path.write_bytes(gzip.decompress((FIXTURES / f"sqlite-v{version}.db.gz").read_bytes()))
    return path


async def is_whole(store: object, version: int) -> None:
    """Everything that the fixture's maker put in, and nothing else."""
    assert hasattr(store, "state_digest")
    assert (await store.state_digest()).hex() == DIGEST
    assert await store.check_audit() == RECORDS[version] + (version < schema.SCHEMA_VERSION)
    assert await store.damaged() == []
    assert [k.record.key_id for k in await store.keys()] == ["key-a", "key-b", "key-c", "key-p"]
    assert [(await store.key(k)).state for k in ("key-a", "key-p")] == ["active", "pending"]
    shares = await store.key_shares(["key-a", "key-b", "key-c", "key-p"])
    assert [s.index for s in shares] == [1, 1, 1, 1]
    assert len(await store.spends()) == 3
    assert [b.ban_id for b in await store.bans()] == ["b1"]
    assert len(await store.documents("key-a")) == len(await store.bundles()) == 1
    if version == 1:  # it counted no spends, so nothing goes on from a process of before
        with pytest.raises(KeycairnError) as caught:
            await store.spend_all([spend(9)])
        assert caught.value.code is Code.QUARANTINED
    # Older ones begin with an empty history: nobody has a word of it.
    events = [e.kind for e in await store.history()]
    assert events == ([] if version < 4 else ["keys", "start", "ban", "ers_key"])
    assert await store.witness(2) == (None if version < 4 else b"word of 2")
    assert [b.batch_id for b in await store.behind()] == ([] if version < 4 else [b"batch"])
    head = await store.begin_incarnation(b"inc-new", 9)
    assert head == await store.history_head()
    assert head.length == len(events) + 1
    with pytest.raises(KeycairnError) as caught:
        await store.spend_all([spend(1, incarnation=b"inc-new")])
    assert caught.value.code is Code.PRESIG_SPENT
    await store.spend_all([spend(10, incarnation=b"inc-new")], ["m/7"])
    await add_keys(store, ["key-new"], request_id="r-new")


@pytest.mark.parametrize("version", range(1, schema.SCHEMA_VERSION + 1))
async def test_an_older_file_opens(version: int, tmp_path: Path) -> None:
    path = unpacked(version, tmp_path)
    before = path.read_bytes()
    older = version < schema.SCHEMA_VERSION
    store = await _open(path, keep_older=True)
    await is_whole(store, version)
    await store.close()
    assert read_keyring(path) == b"ring of the fixture"
    kept = tmp_path / f"node.db.schema-{version}"
    assert kept.exists() == older
    if older:
        assert kept.stat().st_mode & 0o777 == 0o600
        path.write_bytes(before)
        again = kept.read_bytes()
        await (await _open(path, keep_older=True)).close()
        assert kept.read_bytes() == again  # the first copy is not written over
        await is_whole(await _open(kept), version)
    store = await _open(path)
    assert await store.damaged() == []
    await store.close()


async def _open(path: Path, *, keep_older: bool = False) -> SqliteStore:
    world = World(path)
    return await SqliteStore.open(
        path,
        sealer=world.sealer(),
        vault=VAULT,
        node=1,
        clock=world.clock,
        rng=SystemRng(),
        keep_older=keep_older,
    )


async def test_an_edited_older_file_is_not_made_good_by_a_migration(tmp_path: Path) -> None:
    path = unpacked(1, tmp_path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE digests SET count = count + 1 WHERE name = 'keys'")
    db.close()
    with pytest.raises(KeycairnError) as caught:
        await _open(path)
    assert caught.value.code is Code.STORE_INTEGRITY
    path.unlink()
    path = unpacked(1, tmp_path)
    with sqlite3.connect(path) as db:
        db.execute("CREATE TRIGGER t AFTER INSERT ON digests BEGIN DELETE FROM bans; END")
    db.close()
    with pytest.raises(KeycairnError) as caught:
        await _open(path)
    assert caught.value.code is Code.STORE_INTEGRITY
    path.unlink()
    path = unpacked(1, tmp_path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE keys SET generation = 7 WHERE key_id = 'key-b'")
    db.close()
    store = await _open(path)
    assert [(d.table, d.row) for d in await store.damaged()] == [("keys", "key-b")]
    await store.close()


# -- on every database: back to version 1 by hand, then forward


@pytest.fixture(params=("sqlite", *SERVERS))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    with home(request.param, tmp_path) as made:
        yield made


def make_older(store: object) -> None:
    """What version 1 would have left: five tables and five digests less."""
    assert hasattr(store, "_writer")
    macs = Macs(Sealer(DATA_KEY, vault=VAULT, node=1, rng=SystemRng()))
    with store._writer.connect() as conn, conn.begin():
        rows = conn.exec_driver_sql("SELECT name, count, total, mac FROM digests").fetchall()
        digests = macs.loaded({n: (c, bytes(t), bytes(m)) for n, c, t, m in rows})
        assert digests is not None
        newer = ("paths", SPENT, "history", "witnesses", "behind")
        older = {n: d for n, d in digests.items() if n not in newer}
        conn.execute(schema.digests.delete())
        stored = macs.stored(older)
        conn.execute(
            schema.digests.insert(),
            [
                {"name": n, "count": older[n].count, "total": stored[n][0], "mac": stored[n][1]}
                for n in older
            ],
        )
        conn.execute(schema.meta.update().where(schema.meta.c.name == "schema").values(value=b"1"))
    with store._writer.connect().execution_options(keycairn_bare=True) as conn, conn.begin():
        if conn.dialect.name in ("mysql", "mariadb"):
            conn.exec_driver_sql("DROP INDEX ix_batches_active ON batches")
        else:
            conn.exec_driver_sql("DROP INDEX ix_batches_active")
        for table in (schema.paths, schema.history, schema.witnesses, schema.behind):
            table.drop(conn)
        schema.presignatures.drop(conn)


async def test_every_database_goes_forward(place: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await place.open(create=True)
    keys = await add_keys(store, ["key-a", "key-b"])
    digest = await store.state_digest()
    make_older(store)
    await store.close()

    # The process dies between the halves: the tables are there, the version is the old one.
    async def dies(*_: object) -> None:
        raise KeyboardInterrupt

    step = STEPS[0]
    broken = type(step)(step.version, step.tables, dies)
    monkeypatch.setattr("keycairn.store.core.steps_from", lambda _: (broken,))
    with pytest.raises(KeyboardInterrupt):
        await place.open()
    monkeypatch.undo()
    store = await place.open()
    assert await store.state_digest() == digest
    assert await store.damaged() == []
    await store.check_audit()
    await store.begin_incarnation(b"inc-1", 1)
    await store.put_presignatures(b"inc-1", {b"p": b"s"})
    await store.spend_all([spend(1)], ["m/1"])
    assert await store.paths("key-a") == ["m/1"]
    assert (await store.key_share("key-b")).share.reveal() == keys[1].share.reveal()
    await store.close()
    await (await place.open()).close()


async def test_a_newer_database_is_refused_in_words(place: Home) -> None:
    store = await place.open(create=True)
    newer = str(schema.SCHEMA_VERSION + 1).encode()
    with store._writer.connect() as conn, conn.begin():
        conn.execute(schema.meta.update().where(schema.meta.c.name == "schema").values(value=newer))
    await store.close()
    with pytest.raises(KeycairnError) as caught:
        await place.open()
    assert caught.value.code is Code.POLICY
    assert "written by a newer keycairn" in caught.value.message
    assert newer.decode() in caught.value.message
    assert caught.value.next


# -- dumps of servers


def load(base: Scratch, dump: bytes) -> None:
    """As an operator would, with the database's own client."""
    if base.kind == "postgresql":
        words = ["psql", "-q", "-v", "ON_ERROR_STOP=1", "-h", base.host, "-p", str(base.port)]
        words += ["-U", base.name, base.name]
        env = {"PGPASSWORD": base.password, "PATH": "/usr/bin:/bin"}
    else:
        words = ["mariadb", "-h", base.host, "-P", str(base.port), "-u", base.name, base.name]
        env = {"MYSQL_PWD": base.password, "PATH": "/usr/bin:/bin"}
    subprocess.run(words, input=dump, env=env, check=True, capture_output=True, timeout=60)


DUMPS = sorted(p.name for kind in SERVERS for p in FIXTURES.glob(f"{kind}-v*.sql.gz"))


def test_there_is_a_dump_of_every_server_since_version_2() -> None:
    since = range(2, schema.SCHEMA_VERSION + 1)
    assert sorted(f"{kind}-v{n}.sql.gz" for kind in SERVERS for n in since) == DUMPS


@pytest.mark.parametrize("name", DUMPS)
async def test_an_older_dump_opens(name: str) -> None:
    found = re.match(r"(\w+)-v(\d+)", name)
    assert found is not None
    with scratch(found[1]) as base:
        with admin(base.kind, base.name):
            load(base, gzip.decompress((FIXTURES / name).read_bytes()))
        store = await Home(base.kind, base.server).open()
        await is_whole(store, int(found[2]))
        await store.close()


@pytest.mark.parametrize("version", range(1, schema.SCHEMA_VERSION + 1))
def test_a_bundle_of_an_older_version_is_read(version: int, tmp_path: Path) -> None:
    path = unpacked(version, tmp_path)
    manifest: Any = SimpleNamespace(keys={}, history=None)
    report = check_plain(path, manifest, {})
    assert report.keys == 4
    assert len(report.pending) == 1
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE hidden (x)")
    db.close()
    with pytest.raises(KeycairnError) as caught:
        check_plain(path, manifest, {})
    assert caught.value.code is Code.STORE_INTEGRITY
