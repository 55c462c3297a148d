"""SQLite only: the file, several processes, snapshots, full disks, schema versions, keyrings."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError
from keycairn.store import schema
from keycairn.store.sqlite import SqliteStore, read_keyring, write_keyring
from keycairn.vault.ports import BundleRow, RequestRow
from store.worlds import World, add_keys, home, spend


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "node.db")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def opening_fails(world: World, code: Code) -> KeycairnError:
    with pytest.raises(KeycairnError) as caught:
        await world.open()
    assert caught.value.code is code
    assert caught.value.not_lost
    return caught.value


async def test_the_file_and_its_journal_are_private(world: World) -> None:
    old = os.umask(0)
    try:
        store = await world.open(create=True)
        await add_keys(store, ["key-a"])
    finally:
        os.umask(old)
    assert mode(world.path) == 0o600
    for other in world.path.parent.iterdir():
        assert mode(other) == 0o600
    await store.close()
    world.path.chmod(0o644)
    await (await world.open()).close()
    assert mode(world.path) == 0o600


async def test_pragmas_hold_on_both_connections(world: World) -> None:
    store = await world.open(create=True)
    for engine in (store._writer, store._reader):
        with engine.connect() as conn:
            got = {
                name: conn.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("synchronous", "foreign_keys", "journal_mode", "busy_timeout")
            }
        assert got == {
            "synchronous": 2,
            "foreign_keys": 1,
            "journal_mode": "persist",
            "busy_timeout": 30000,
        }
    await store.close()


async def test_no_secret_is_in_the_file(world: World) -> None:
    store = await world.open(create=True)
    keys = await add_keys(store, ["key-a", "key-b"])
    await store.close()
    content = world.path.read_bytes()
    for key in keys:
        g = key.record.group
        assert g.encode_scalar(key.share.reveal()) not in content
        assert key.share.reveal().to_bytes(32, "big") not in content
        if key.chain_code is not None:
            assert key.chain_code.reveal() not in content
    assert world.data_key.reveal() not in content
    assert b"key-a" in content


async def test_a_missing_store_is_not_made_by_accident(world: World) -> None:
    await opening_fails(world, Code.NOT_FOUND)
    assert not world.path.exists()
    world.path.touch()
    await opening_fails(world, Code.STORE_INTEGRITY)
    world.path.write_bytes(b"this is not a database, it only takes the place of one" * 100)
    await opening_fails(world, Code.STORE_INTEGRITY)


async def test_what_was_written_is_there_after_a_restart(world: World) -> None:
    store = await world.open(create=True)
    await add_keys(store, ["key-a", "key-b"])
    await store.begin_incarnation(b"inc-1", 1)
    await store.spend_all([spend(1)])
    digest = await store.state_digest()
    await store.close()
    await store.close()
    store = await world.open()
    assert await store.state_digest() == digest
    assert await store.damaged() == []
    with pytest.raises(KeycairnError) as caught:
        await store.spend_all([spend(1)])
    assert caught.value.code is Code.PRESIG_SPENT
    await store.close()


async def test_creating_twice_changes_nothing(world: World) -> None:
    store = await world.open(create=True)
    await add_keys(store, ["key-a"])
    await store.close()
    store = await world.open(create=True)
    assert len(await store.keys()) == 1
    await store.close()


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"1", Code.STORE_INTEGRITY),  # it has the digests of version 2
        (str(schema.SCHEMA_VERSION + 1).encode(), Code.POLICY),
        (b"999", Code.POLICY),
        (b"0", Code.STORE_INTEGRITY),
        (b"x", None),
    ],
)
async def test_schema_version(world: World, value: bytes, code: Code | None) -> None:
    await (await world.open(create=True)).close()
    with contextlib.closing(sqlite3.connect(world.path)) as db, db:
        db.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (value,))
    error = await opening_fails(world, code or Code.STORE_INTEGRITY)
    if code is Code.POLICY:
        assert "a newer keycairn" in error.message
        assert error.next
        assert value.decode() in error.message


async def test_a_half_made_store_is_not_opened(world: World) -> None:
    write_keyring(world.path, b"ring")
    await opening_fails(world, Code.STORE_INTEGRITY)
    store = await world.open(create=True)
    assert read_keyring(world.path) == b"ring"
    await store.close()
    await (await world.open()).close()


async def test_foreign_objects_in_the_schema_are_refused(world: World) -> None:
    await (await world.open(create=True)).close()
    with contextlib.closing(sqlite3.connect(world.path)) as db, db:
        db.execute("CREATE TRIGGER t AFTER INSERT ON bans BEGIN DELETE FROM bans; END")
    await opening_fails(world, Code.STORE_INTEGRITY)


# -- keyring


def test_keyring_before_there_is_a_store(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    assert read_keyring(path) is None
    write_keyring(path, b"first")
    assert mode(path) == 0o600
    assert read_keyring(path) == b"first"
    for replaces in (None, b"other"):
        with pytest.raises(KeycairnError) as caught:
            write_keyring(path, b"second", replaces=replaces)
        assert caught.value.code is Code.CONFLICT
    write_keyring(path, b"second", replaces=b"first")
    assert read_keyring(path) == b"second"
    path.write_bytes(b"junk" * 1000)
    with pytest.raises(KeycairnError) as caught:
        read_keyring(path)
    assert caught.value.code is Code.STORE_INTEGRITY


async def test_keyring_is_in_the_snapshot(world: World, tmp_path: Path) -> None:
    write_keyring(world.path, b"ring")
    store = await world.open(create=True)
    await store.snapshot(tmp_path / "copy.db")
    assert read_keyring(tmp_path / "copy.db") == b"ring"
    await store.close()


_CHANGING = """
import os, sys
from pathlib import Path
from keycairn.store.sqlite import read_keyring, write_keyring

path = Path(sys.argv[1])
os.write(1, b"go")
n = 0
while True:
    n += 1
    write_keyring(path, b"%d" % n * 3000, replaces=read_keyring(path))
"""


def test_t080_a_kill_during_the_change_leaves_one_whole_keyring(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    write_keyring(path, b"0" * 3000)
    draw = random.Random(80)
    for _ in range(10):
        run = subprocess.Popen([sys.executable, "-c", _CHANGING, str(path)], stdout=subprocess.PIPE)
        assert run.stdout is not None
        assert run.stdout.read(2) == b"go"
        time.sleep(draw.uniform(0.005, 0.1))
        run.kill()
        run.communicate()
        ring = read_keyring(path)
        assert ring is not None
        number = ring[: len(ring) // 3000]
        assert ring == number * 3000


# -- snapshots and copies


async def test_a_snapshot_opens_and_equals(world: World, tmp_path: Path) -> None:
    store = await world.open(create=True)
    await add_keys(store, [f"key-{n}" for n in range(20)])
    digest, records = await store.state_digest(), await store.check_audit()
    target = tmp_path / "copy.db"
    await store.snapshot(target)
    assert mode(target) == 0o600
    await add_keys(store, ["later"], request_id="r-2")
    copy = await World(target).open()
    assert await copy.state_digest() == digest
    assert await copy.check_audit() == records
    assert await copy.damaged() == []
    assert (await copy.key_share("key-7")).record.key_id == "key-7"
    assert await copy.key("later") is None
    await copy.close()
    with pytest.raises(KeycairnError) as caught:
        await store.snapshot(target)
    assert caught.value.code is Code.CONFLICT
    with pytest.raises(KeycairnError) as caught:
        await store.snapshot(tmp_path / "nowhere" / "copy.db")
    assert caught.value.code is Code.UNAVAILABLE
    await store.close()


async def test_snapshots_among_writers_are_consistent(world: World, tmp_path: Path) -> None:
    store = await world.open(create=True)

    async def write() -> None:
        for n in range(60):
            await store.put_request(RequestRow("shop", f"r-{n}", b"", {"pad": "x" * 2000}))

    async def snapshots() -> list[Path]:
        made = [tmp_path / f"copy-{n}.db" for n in range(4)]
        for path in made:
            await asyncio.sleep(0.03)
            await store.snapshot(path)
        return made

    _, made = await asyncio.gather(write(), snapshots())
    await store.close()
    for path in made:
        copy = await World(path).open()
        assert await copy.damaged() == []
        await copy.check_audit()
        await copy.close()


async def test_a_copy_of_the_stopped_file_is_a_store(world: World, tmp_path: Path) -> None:
    store = await world.open(create=True)
    await add_keys(store, ["key-a"])
    # Not closed: as after a kill. Only the one file is copied.
    shutil.copyfile(world.path, tmp_path / "copy.db")
    copy = await World(tmp_path / "copy.db").open()
    assert (await copy.key_share("key-a")).index == 1
    await copy.close()
    await store.close()


_KILLED = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from store.worlds import World, spend

async def main():
    store = await World(Path(sys.argv[2])).open()
    await store.begin_incarnation(b"inc-k", 1)
    n = 0
    while True:
        n += 1
        await store.spend_all([spend(n, incarnation=b"inc-k")])
        os.write(1, b"%d\\n" % n)

asyncio.run(main())
"""


async def test_t048_what_was_acknowledged_survives_a_kill(world: World) -> None:
    await (await world.open(create=True)).close()
    run = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(Path(__file__).parents[1]), str(world.path)],
        stdout=subprocess.PIPE,
    )
    assert run.stdout is not None
    lines = [run.stdout.readline() for _ in range(25)]
    run.kill()
    acknowledged = int((lines + run.stdout.read().splitlines())[-1])
    run.wait()
    store = await world.open()
    assert await store.damaged() == []
    await store.check_audit()
    assert len(await store.spends()) in (acknowledged, acknowledged + 1)
    await store.begin_incarnation(b"inc-2", 2)
    for n in (1, acknowledged):
        with pytest.raises(KeycairnError) as caught:
            await store.spend_all([spend(n, incarnation=b"inc-2")])
        assert caught.value.code is Code.PRESIG_SPENT
    with pytest.raises(KeycairnError) as caught:
        await store.spend_all([spend(10**6, incarnation=b"inc-k")])
    assert caught.value.code is Code.QUARANTINED
    await store.close()


async def test_400_concurrent_updates_through_two_stores(world: World) -> None:
    """Two stores on one file, as two processes would be: nothing is lost between them."""
    first = await world.open(create=True)
    second = await world.open()
    before = await first.check_audit()
    await asyncio.gather(*[(first, second)[n % 2].audit("update", {"n": n}) for n in range(400)])
    assert await second.check_audit() == before + 400
    await first.close()
    await second.close()


async def test_t046_two_stores_spend_one_presignature_once(world: World) -> None:
    first = await world.open(create=True)
    second = await world.open()
    await first.begin_incarnation(b"inc-1", 1)
    results = await asyncio.gather(
        *[(first, second)[n % 2].spend_all([spend(1)]) for n in range(64)], return_exceptions=True
    )
    assert sum(r is None for r in results) == 1
    # Whoever lost may also have seen a counter that it did not leave there.
    codes = {e.code for e in results if isinstance(e, KeycairnError)}
    assert codes <= {Code.PRESIG_SPENT, Code.STORE_ROLLBACK}
    await first.close()
    await second.close()


async def rolled_back(store: SqliteStore, n: int) -> None:
    with pytest.raises(KeycairnError) as caught:
        await store.spend_all([spend(n)])
    assert caught.value.code is Code.STORE_ROLLBACK
    assert "restart" in caught.value.next


async def test_r02_nothing_is_spent_from_a_database_put_back_under_the_process(
    world: World, tmp_path: Path
) -> None:
    store = await world.open(create=True)
    await store.begin_incarnation(b"inc-1", 1)
    await store.spend_all([spend(1)])
    older = world.path.read_bytes()
    await store.spend_all([spend(2)])
    # In place, as a page-wise restore does; the connections stay open.
    newer = world.path.read_bytes()
    world.path.write_bytes(older)
    await rolled_back(store, 2)
    await rolled_back(store, 3)
    world.path.write_bytes(newer)
    await rolled_back(store, 4)  # what happened meanwhile is not known
    await store.begin_incarnation(b"inc-2", 2)
    await store.spend_all([spend(5, incarnation=b"inc-2")])
    await store.close()


async def test_r02_a_second_writer_of_the_same_incarnation_is_noticed(world: World) -> None:
    store = await world.open(create=True)
    await store.begin_incarnation(b"inc-1", 1)
    clone = await world.open()
    await clone.spend_all([spend(1)])
    await rolled_back(store, 2)
    await clone.spend_all([spend(3)])
    await clone.close()
    await store.close()


async def test_r02_a_second_process_quarantines_the_first(world: World) -> None:
    first = await world.open(create=True)
    await first.begin_incarnation(b"inc-1", 1)
    await first.spend_all([spend(1)])
    second = await world.open()
    await second.begin_incarnation(b"inc-2", 2)
    for n in (2, 3):
        with pytest.raises(KeycairnError) as caught:
            await first.spend_all([spend(n)])
        assert caught.value.code is Code.QUARANTINED
    await second.spend_all([spend(2, incarnation=b"inc-2")])
    await first.close()
    await second.close()


async def test_t054_no_copy_of_the_store_holds_a_presignature(world: World, tmp_path: Path) -> None:
    store = await world.open(create=True)
    await store.begin_incarnation(b"inc-1", 1)
    sealed = {b"presig-%03d" % n: b"SEALED-%03d-" % n * 40 for n in range(200)}
    await store.put_presignatures(b"inc-1", sealed)
    await store.drop_presignatures(list(sealed)[:100])
    await store.snapshot(tmp_path / "copy.db")
    live, copy = world.path.read_bytes(), (tmp_path / "copy.db").read_bytes()
    assert b"SEALED-150-" in live
    assert b"SEALED-050-" not in live  # deleted is gone, not only unlinked
    assert b"SEALED-" not in copy
    assert len(await store.presignatures(list(sealed))) == 100
    await store.close()
    twin = World(tmp_path / "copy.db")
    opened = await twin.open()
    assert await opened.presignatures(list(sealed)) == {}
    assert await opened.damaged() == []
    await opened.close()


# -- disks that say no (T-078)


def page_limit(store: SqliteStore, pages: int) -> None:
    with store._writer.connect() as conn:
        conn.exec_driver_sql(f"PRAGMA max_page_count={pages}")


async def test_t078_a_full_disk_loses_nothing_and_ends(world: World) -> None:
    store = await world.open(create=True)
    await store.begin_incarnation(b"inc-1", 1)
    await add_keys(store, ["key-a"])
    digest, records = await store.state_digest(), await store.check_audit()
    page_limit(store, 1)

    async def fill() -> None:
        for n in range(1000):
            await store.put_request(RequestRow("shop", f"r-{n}", b"", {"pad": "x" * 4000}))

    with pytest.raises(KeycairnError) as caught:
        await fill()
    assert caught.value.code is Code.UNAVAILABLE
    assert "full" in caught.value.message
    assert caught.value.not_lost
    assert caught.value.next
    assert (await store.key_share("key-a")).index == 1
    assert await store.state_digest() == digest
    records = await store.check_audit()
    page_limit(store, 1_000_000)
    await store.spend_all([spend(1)])
    assert await store.check_audit() == records + 1
    await store.close()
    store = await world.open()
    assert await store.damaged() == []
    await store.close()


_LIMITED = """
import asyncio, resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from store.worlds import World
from keycairn.errors import KeycairnError
from keycairn.vault.ports import BundleRow, RequestRow

async def main():
    path = Path(sys.argv[2])
    store = await World(path).open()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    size = path.stat().st_size + 40_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    done = 0
    try:
        for n in range(1000):
            await store.put_request(RequestRow("shop", f"r-{n}", b"", {"pad": "x" * 4000}))
            done += 1
    except KeycairnError as exc:
        print(exc.code.value, done)
    print((await store.check_audit()))

asyncio.run(main())
"""


async def test_t078_a_file_that_can_not_grow(world: World) -> None:
    store = await world.open(create=True)
    records = await store.check_audit()
    await store.close()
    run = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(Path(__file__).parents[1]), str(world.path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    code, done, seen = run.stdout.split()
    assert code == "E_UNAVAILABLE"
    assert int(done) > 0
    assert int(seen) == records + int(done)
    store = await world.open()
    assert await store.damaged() == []
    assert await store.check_audit() == records + int(done)
    assert await store.request("shop", f"r-{int(done) - 1}") is not None
    assert await store.request("shop", f"r-{int(done)}") is None
    await store.close()


async def test_t078_a_lock_that_another_program_holds(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await world.open(create=True)
    await store.begin_incarnation(b"inc-1", 1)
    with store._writer.connect() as conn:
        conn.exec_driver_sql("PRAGMA busy_timeout=100")
    with contextlib.closing(sqlite3.connect(world.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(KeycairnError) as caught:
            await store.spend_all([spend(1)])
        assert caught.value.code is Code.UNAVAILABLE
        assert "locked" in caught.value.message
    await store.spend_all([spend(1)])
    await store.close()


async def test_wrong_data_key_vault_or_node(world: World) -> None:
    store = await world.open(create=True)
    await add_keys(store, ["key-a"])
    await store.close()
    for wrong in (
        World(world.path, data_key=SecretBytes(bytes(32))),
        World(world.path, vault="another"),
        World(world.path, node=2),
    ):
        await opening_fails(wrong, Code.STORE_INTEGRITY)
    await (await world.open()).close()


def test_only_types_that_every_database_has() -> None:
    from sqlalchemy.dialects import mysql, postgresql
    from sqlalchemy.schema import CreateTable

    for dialect in (postgresql.dialect(), mysql.dialect()):
        for table in schema.metadata.tables.values():
            assert str(CreateTable(table).compile(dialect=dialect))


async def test_receipts_of_another_process_are_seen_and_damaged_ones_are_not_kept(
    tmp_path: Path,
) -> None:
    row = BundleRow("cd" * 32, "file:x", 10, 1, 2, "hashes", {"key-a": (1, b"h" * 32)}, {})
    with home("sqlite", tmp_path) as place:
        store = await place.open(create=True)
        assert await store.bundles() == []
        other = await place.open()
        await other.put_bundle(row)
        assert await store.bundles() == [row]
        await other.delete_bundle(row.sha256)
        assert await store.bundles() == []
        await other.put_bundle(row)
        await store.close()
        with contextlib.closing(sqlite3.connect(next(tmp_path.rglob("*.db")))) as db:
            (body,) = db.execute("SELECT body FROM bundles").fetchone()
            db.execute("UPDATE bundles SET body = x'a0'")
            db.commit()
            store = await place.open()
            assert [await store.bundles() for _ in range(2)] == [[], []]
            db.execute("UPDATE bundles SET body = ?", (body,))
            db.commit()
        assert await store.bundles() == [row]
        await store.close()
        await other.close()
