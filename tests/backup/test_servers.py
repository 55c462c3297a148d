"""Bundles of nodes on PostgreSQL and MariaDB, and the way from each database to each."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pyrage
import pytest

from databases import SERVERS, Scratch, scratch
from keycairn.backup import (
    BundleInputs,
    create_bundle,
    execute,
    plan_restore,
    read_manifest,
    verify_bundle,
)
from keycairn.errors import Code, KeycairnError
from keycairn.node.config import load_config
from keycairn.node.storage import database_of

KINDS = ("sqlite", *SERVERS)


async def plan(disk: Any, bundle: str, into: Path, **kw: Any) -> Any:
    given = {"identity": disk.secret, "node_public_key": disk.identity.public, **kw}
    return await plan_restore(Path(bundle), into=into, clock=disk.clock, rng=disk.rng, **given)


async def refused(code: Code, work: Any) -> KeycairnError:
    with pytest.raises(KeycairnError) as caught:
        await work
    assert caught.value.code is code, caught.value
    assert caught.value.next
    return caught.value


async def filled(make_node: Any, on: str) -> Any:
    """Node 2 with some of everything."""
    node = await make_node(2, on=on)
    records = await node.add_keys(3)
    await node.add_keys(1, active=False)
    await node.add_document(records[0])
    return node


def onto(made: Scratch, directory: Path) -> dict[str, Any]:
    """The mapping that names a scratch database."""
    password = directory / f"password-of-{made.name}"
    password.write_text(made.password)
    password.chmod(0o600)
    return {"database": {"url": made.url, "password_file": str(password)}}


def tables(made: Scratch) -> list[Any]:
    if made.kind == "mariadb":
        return made.admin("SHOW TABLES")
    return made.admin("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("on", KINDS)
async def test_a_node_comes_back_on_each_database_from_each(
    make_node: Any, tmp_path: Path, on: str, to: str
) -> None:
    node = await filled(make_node, on)
    await node.store.begin_incarnation(b"inc-1", 1)
    row = await node.backup()
    keys, spends = await node.store.keys(), await node.store.spends()
    manifest = read_manifest(Path(row.location))
    head = await node.store.history_head()
    assert manifest.database == on
    assert manifest.history is not None
    assert (manifest.history.length, manifest.history.head) == (head.length, head.hash)
    # No bundle holds the database's password, nor says more than where it is.
    if node.scratch is not None:
        data = pyrage.decrypt(
            Path(row.location).read_bytes()[-manifest.payload_size :], [node.age_identity]
        )
        assert node.scratch.password.encode() not in data
    found = await verify_bundle(
        Path(row.location),
        node_public_key=node.identity.public,
        identity=node.secret,
        opener=node.opener,
        level="trial",
    )
    assert found.to_json()["proofs_ok"] is True
    await node.store.close()
    shutil.rmtree(node.home)
    into = tmp_path / "again"
    with scratch(to) if to != "sqlite" else nothing() as made:
        mapping: dict[str, Any] = {"database": {"url": "sqlite:///data/node.db"}}
        if made is not None:
            mapping = onto(made, tmp_path)
        dry = await plan(node, row.location, into, mapping=mapping, dry_run=True)
        if made is not None:
            assert dry.steps[0].words.endswith("answers and is free")
            assert tables(made) == []
            assert dry.to_json()["database"]["password"]["source"] == "password_file"
        assert not into.exists()
        result = await execute(await plan(node, row.location, into, mapping=mapping))
        assert (result["keys"], result["proofs_ok"]) == (4, True)
        assert any("keycairn node rejoin --config" in n for n in result["next"])
        config = load_config(into / "node.toml", {})
        files = {p.name for p in (into / "data").iterdir()} - {"node.db-journal"}
        assert files == ({"node.db"} if to == "sqlite" else set())
        store = await node.open(database_of(config))
        try:
            assert await store.keys() == keys
            assert await store.spends() == spends
            assert await store.damaged() == []
            await store.check_audit()
            assert await store.history_head() == head
            assert "restored from the bundle" in (await store.restored() or "")
            for share in await store.key_shares([k.record.key_id for k in keys]):
                assert share.share.reveal() == node.shares[share.record.key_id]
            (receipt,) = [b for b in await store.bundles() if b.location == row.location]
            assert receipt.level == "trial"
            (document,) = await store.documents()
            assert Path(document.path).is_relative_to(into)
        finally:
            await store.close()
        # What is there now is a node's, and no restore touches it.
        if made is not None:
            error = await refused(
                Code.CONFLICT, plan(node, row.location, tmp_path / "third", mapping=mapping)
            )
            assert "not empty" in error.message
            assert "nothing was written" in (error.not_lost or "").lower()


class nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_servers_database_that_is_away_wrong_or_taken_stops_the_restore_first(
    make_node: Any, tmp_path: Path, kind: str
) -> None:
    node = await filled(make_node, "sqlite")
    row = await node.backup()
    into = tmp_path / "again"
    with scratch(kind) as made:
        good = onto(made, tmp_path)

        async def no(code: Code, **database: str) -> KeycairnError:
            mapping = {"database": {**good["database"], **database}}
            error = await refused(code, plan(node, row.location, into, mapping=mapping))
            assert made.password not in str(error)
            # A dry run says the same, and goes on to print the plan.
            dry = await plan(node, row.location, into, mapping=mapping, dry_run=True)
            assert dry.to_json()["findings"][0]["what"] == "database"
            assert dry.steps[0].answer == "warn"
            assert not into.exists()
            return error

        away = made.url.replace(f":{made.port}/", ":1/")
        assert "does not answer" in (await no(Code.UNAVAILABLE, url=away)).message
        await no(Code.NOT_FOUND, password_file=str(tmp_path / "nowhere"))
        wrong = tmp_path / "wrong"
        wrong.write_text("something else entirely")
        wrong.chmod(0o600)
        if kind == "mariadb":  # The PostgreSQL of the tests lets everybody on this machine in.
            error = await no(Code.UNAVAILABLE, password_file=str(wrong))
            assert "refuses this user" in error.message
        # A store that was just made, and one in which there is only a keyring.
        made.admin("CREATE TABLE meta (name varchar(64) PRIMARY KEY, value varchar(64))")
        made.admin("INSERT INTO meta VALUES ('keyring', 'x')")
        if kind == "postgresql":
            made.admin(f"ALTER TABLE meta OWNER TO {made.name}")
        assert "not empty" in (await no(Code.CONFLICT)).message
        # Empty tables are nothing: MariaDB keeps them when a restore is killed.
        made.admin("DELETE FROM meta")
        assert (await execute(await plan(node, row.location, into, mapping=good)))["done"] is True


async def test_a_mapping_that_makes_no_sense_is_refused(make_node: Any, tmp_path: Path) -> None:
    node = await filled(make_node, "sqlite")
    row = await node.backup()
    for database, code in (
        ({"url": "oracle://x@127.0.0.1/x"}, Code.MALFORMED),
        ({"url": "postgresql://x:secret@127.0.0.1/x"}, Code.POLICY),
        ({"url": "postgresql://x@db.example.org/x"}, Code.POLICY),
        ({"password_file": "/x"}, Code.MALFORMED),
        ({"url": "sqlite:///data/node.db", "directory": "data"}, Code.MALFORMED),
        ({"password_file": "/x", "password_env": "X"}, Code.MALFORMED),
        ({"url": "sqlite:////elsewhere/node.db"}, Code.MALFORMED),
    ):
        work = plan(node, row.location, tmp_path / "again", mapping={"database": database})
        await refused(code, work)


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_password_in_a_listed_file_stops_the_backup(make_node: Any, kind: str) -> None:
    """R-01 for the database's password: by its name, by a link, by its content."""
    node = await filled(make_node, kind)
    text = node.config.read_text()
    copy = node.operator / "copy"
    password = node.operator / "database.password"
    for make in (
        lambda: password,
        lambda: (copy.hardlink_to(password), copy)[1],
        lambda: (copy.unlink(), copy.write_text(f"PW={node.scratch.password}"), copy)[2],
    ):
        listed = make()
        node.config.write_text(text.replace('"notes.txt"]', f'"notes.txt", "{listed}"]'))
        error = await refused(Code.POLICY, node.backup())
        assert "password of the database" in error.message
        assert list(node.targets.iterdir()) == []


async def test_a_password_that_is_the_users_name_is_no_secret(make_node: Any) -> None:
    node = await filled(make_node, "postgresql")
    (node.operator / "database.password").write_text(node.scratch.name)
    assert (await node.backup()).level == "hashes"


@pytest.mark.parametrize("kind", SERVERS)
async def test_the_servers_own_dump_goes_along_if_asked_for(
    make_node: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    node = await filled(make_node, kind)

    async def backup() -> Any:
        return await create_bundle(
            node.store,
            BundleInputs(node.config, dump=node.scratch.server),
            node.targets,
            identity=node.identity,
            recipients=[node.recipient],
            clock=node.clock,
            rng=node.rng,
        )

    # A program that is missing refuses the whole backup before anything is written.
    with monkeypatch.context() as without:
        without.setenv("PATH", str(tmp_path))
        error = await refused(Code.POLICY, backup())
        assert "is not installed" in error.message
        assert "is of version" in error.message
    assert list(node.targets.iterdir()) == []
    row = await backup()
    manifest = read_manifest(Path(row.location))
    assert "database/server.dump" in [p.name for p in manifest.parts]
    assert {"pg_dump", "mariadb-dump"} & set(manifest.tools)
    await node.store.close()
    into = tmp_path / "again"
    with scratch(kind) as made:
        await execute(await plan(node, row.location, into, mapping=onto(made, tmp_path)))
    assert not list(into.rglob("server.dump"))
    # It is a dump that the server's own programs read.
    data = pyrage.decrypt(
        Path(row.location).read_bytes()[-manifest.payload_size :], [node.age_identity]
    )
    mark = b"PGDMP" if kind == "postgresql" else b"-- Dump completed"
    assert mark in data


KILLED = """
import os, signal, sys
from keycairn.store import restoring
real, when = restoring.image.read, sys.argv.pop(1)
def read(source, insert_many):
    real(source, insert_many)
    if when == "inside":
        os.kill(os.getpid(), signal.SIGKILL)
restoring.image.read = read
if when == "after":
    import keycairn.backup.install as install
    install._into_place = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
if when == "marked":
    import keycairn.backup.install as install
    install.settled = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
from keycairn.cli.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("kind", SERVERS)
async def test_t054_a_restore_that_is_killed_is_repeated_with_the_same_command(
    make_node: Any, tmp_path: Path, kind: str
) -> None:
    """In the transaction, after it (also once there is a marker), and between rename and
    clean-up."""
    import tomli_w

    node = await filled(make_node, "sqlite")
    row = await node.backup()
    (tmp_path / "age").write_bytes(node.secret.reveal())
    into = tmp_path / "again"
    with scratch(kind) as made:
        (tmp_path / "map.toml").write_text(tomli_w.dumps(onto(made, tmp_path)))
        words = ["node", "restore", row.location, "--into", str(into)]
        words += ["--identity", str(tmp_path / "age"), "--map", str(tmp_path / "map.toml")]
        words += ["--public-key", node.identity.public.hex(), "--json"]

        def run(when: str) -> int | str:
            """The signal that killed it, or the code of its error."""
            command = [sys.executable, "-c", KILLED, when, *words]
            done = subprocess.run(
                command, capture_output=True, timeout=120, check=False, env=os.environ
            )
            return (
                done.returncode if done.returncode < 0 else json.loads(done.stdout)["error"]["code"]
            )

        for when in ("inside", "after", "inside"):
            assert run(when) == -signal.SIGKILL, when
            assert not into.exists(), when
        # Another restore's marker is not this one's.
        error = (
            await refused(
                Code.CONFLICT,
                plan(node, row.location, tmp_path / "other", mapping=onto(made, tmp_path)),
            )
            if run("after") == -signal.SIGKILL
            else None
        )
        assert error is not None
        assert run("marked") == -signal.SIGKILL
        assert (into / "node.toml").exists()
        config = load_config(into / "node.toml", {})
        store = await node.open(database_of(config))
        assert len(await store.keys()) == 4
        assert await store.restored()
        # The node has lived: the marker that still stands there counts no more.
        await store.begin_incarnation(b"inc-2", 2)
        await store.close()
        shutil.rmtree(into)
        assert run("none") == Code.CONFLICT
        store = await node.open(database_of(config))
        assert len(await store.keys()) == 4
        await store.close()


@pytest.mark.parametrize("kind", SERVERS)
async def test_two_restores_at_once_leave_one_store(
    make_node: Any, tmp_path: Path, kind: str
) -> None:
    node = await filled(make_node, "sqlite")
    row = await node.backup()
    with scratch(kind) as made:
        mapping = onto(made, tmp_path)
        plans = [
            await plan(node, row.location, tmp_path / f"n{i}", mapping=mapping) for i in (1, 2)
        ]
        done = await asyncio.gather(*(execute(p) for p in plans), return_exceptions=True)
        lost = [d for d in done if isinstance(d, KeycairnError)]
        assert [e.code for e in lost] == [Code.CONFLICT], done
        homes = [p.into for p in plans if p.into.exists()]
        assert len(homes) == 1
        store = await node.open(database_of(load_config(homes[0] / "node.toml", {})))
        assert await store.damaged() == []
        assert len(await store.keys()) == 4
        await store.close()


async def test_a_bundle_of_a_server_keeps_what_its_url_names(
    make_node: Any, tmp_path: Path
) -> None:
    """Certificates in the query of the URL go along, and the URL follows them."""
    node = await filled(make_node, "postgresql")
    ca, key = node.operator / "tls" / "ca.pem", node.home / "db.key"
    ca.write_text("certificate of the CA")
    key.write_text("key")
    text = node.config.read_text()
    node.config.write_text(
        text.replace(
            f'{node.scratch.url}"',
            f'{node.scratch.url}?sslmode=verify-full&sslrootcert={ca}&sslkey=db.key"',
        )
    )
    row = await node.backup()
    names = {p.name for p in read_manifest(Path(row.location)).parts}
    assert {"files/database.sslrootcert", "files/database.sslkey"} <= names
    await node.store.close()
    ca.unlink()
    into = tmp_path / "again"
    # The server of this test has no TLS: a dry run is as far as it goes.
    dry = await plan(node, row.location, into, dry_run=True)
    url = tomllib.loads(dry.layout.config_bytes.decode())["database"]["url"]
    assert url.endswith("?sslmode=verify-full&sslrootcert=files/database.sslrootcert&sslkey=db.key")
    assert {"files/database.sslrootcert", "db.key"} <= {str(p.to) for p in dry.layout.placed}
    assert "TLS" in dry.findings[0].words or "SSL" in dry.findings[0].words


async def test_without_the_master_secret_the_rows_arrive_and_are_marked(
    make_node: Any, tmp_path: Path
) -> None:
    node = await filled(make_node, "sqlite")
    row = await node.backup()
    hidden = node.operator / "hidden"
    (node.operator / "master.key").rename(hidden)
    with scratch("postgresql") as made:
        into = tmp_path / "again"
        done = await execute(await plan(node, row.location, into, mapping=onto(made, tmp_path)))
        assert done["proofs_ok"] is None
        hidden.rename(node.operator / "master.key")
        store = await node.open(database_of(load_config(into / "node.toml", {})))
        assert await store.restored()
        await store.close()
