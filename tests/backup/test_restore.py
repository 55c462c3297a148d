"""Restoring a node: the way back, and everything that must stop it before it writes."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tomllib
from pathlib import Path
from typing import Any

import pyrage
import pytest

from keycairn.backup import RestorePlan, execute, parse_mapping, plan_restore
from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError
from keycairn.node.config import load_config
from keycairn.store.lock import DirectoryLock
from keycairn.vault.coverage import key_coverage
from keycairn.vault.policy import Answer, parse


async def plan(disk: Any, bundle: Path, into: Path, **kw: Any) -> RestorePlan:
    """A plan with this node's identity and pinned key."""
    given = {"identity": disk.secret, "node_public_key": disk.identity.public, **kw}
    return await plan_restore(bundle, into=into, clock=disk.clock, rng=disk.rng, **given)


async def lost(node: Any) -> Path:
    """Back the node up, stop it, delete its directory; the bundle."""
    row = await node.backup()
    await node.store.close()
    shutil.rmtree(node.home)
    return Path(row.location)


async def refused(code: Code, disk: Any, bundle: Path, into: Path, **kw: Any) -> KeycairnError:
    """Planning fails with ``code``, and nothing was written."""
    before = sorted(into.parent.rglob("*"))
    with pytest.raises(KeycairnError) as caught:
        await plan(disk, bundle, into, **kw)
    assert caught.value.code is code
    assert sorted(into.parent.rglob("*")) == before
    return caught.value


def modes(root: Path) -> set[int]:
    return {p.stat().st_mode & 0o777 for p in root.rglob("*") if p.is_file()}


async def test_a_lost_directory_comes_back(node: Any) -> None:
    spends = await node.store.spends()
    keys = await node.store.keys()
    config = node.config.read_bytes()
    bundle = await lost(node)
    result = await execute(await plan(node, bundle, node.home))
    assert result["done"] is True
    assert [s["name"] for s in result["steps"]] == [
        "database",
        "encryptor",
        "machine",
        "addresses and credentials",
        "in place",
        "presignatures",
    ]
    assert (result["keys"], result["presignatures"], result["proofs_ok"]) == (3, 0, True)
    assert result["next"][0] == f"keycairn node run --config {node.config}"
    assert "pending batch" in {f["what"] for f in result["findings"]}
    assert node.config.read_bytes() == config
    assert load_config(node.config, {}).index == 2
    assert modes(node.home) == {0o600, 0o700}  # 0700: the launch script
    assert node.home.stat().st_mode & 0o777 == 0o700
    assert {p.name for p in node.home.iterdir()} == {
        "node.toml",
        "identity.key",
        "notes.txt",
        "data",
        "anchor",
        "ers",
        "restored-files",
    }
    store = await node.opener(node.database)
    try:
        assert await store.keys() == keys
        assert await store.spends() == spends
        for share in await store.key_shares([k.record.key_id for k in keys]):
            assert share.share.reveal() == node.shares[share.record.key_id]
        # Its own receipt can't lie in the bundle, and yet the bundle counts.
        (receipt,) = [b for b in await store.bundles() if b.location == str(bundle)]
        assert receipt.level == "trial"
        (document,) = await store.documents()
        assert Path(document.path).read_bytes().startswith(b"document for ")
        for row in keys:
            cover = key_coverage(
                row, parse("node_backup"), documents=[], bundles=await store.bundles()
            )
            assert cover.holds is Answer.YES
    finally:
        await store.close()
    assert [p.name for p in node.home.parent.iterdir() if p.name.startswith(".")] == []


async def test_to_another_place_with_other_addresses(node: Any, free_ports: Any) -> None:
    port = free_ports(3)
    into = node.home.parent / "elsewhere" / "two"
    into.mkdir(parents=True)
    bundle = await lost(node)
    shutil.rmtree(node.operator / "tls")
    shutil.rmtree(node.operator / "launch")
    moved = node.operator / "moved.key"
    (node.operator / "master.key").rename(moved)
    mapping = f"""
api.listen = "127.0.0.1:{port}"
links.listen = "127.0.0.1:{port + 1}"
management.listen = "127.0.0.1:{port + 2}"
encryptor.secret_file = "{moved}"
database.url = "sqlite:///db/two.db"
ers.store = "papers"
[peers]
1 = "wss://10.0.0.1:9000"
3.address = "incoming"
"""
    parsed = tomllib.loads(mapping)
    parse_mapping(mapping.encode())
    result = await execute(await plan(node, bundle, into, mapping=parsed))
    assert load_config(into / "node.toml", {}).database == into / "db" / "two.db"
    new = tomllib.loads((into / "node.toml").read_text())
    assert new["api"] == {
        "listen": f"127.0.0.1:{port}",
        "tls_cert": "files/api.tls_cert",
        "tls_key": "files/api.tls_key",
    }
    assert [p["address"] for p in new["peers"]] == ["wss://10.0.0.1:9000", "incoming"]
    assert new["encryptor"] == {"kind": "keyfile", "secret_file": str(moved)}
    start = f"restored-files{node.operator}/launch/start.sh"
    assert new["backup"]["include"] == [start, "notes.txt"]
    assert new["backup"]["targets"] == [str(node.targets)]
    assert new["backup"]["policy"]["gate"] == ["address", "sign"]
    assert (into / "files" / "api.tls_key").read_text() == "private key of TLS"
    assert (into / start).read_text().startswith("#!/bin/sh")
    assert (into / start).stat().st_mode & 0o777 == 0o700
    assert "a comment" in (into / "restored-files" / "node.toml.original").read_text()
    assert start in (into / "restored-files" / "where-these-belong.txt").read_text()
    assert {c["key"] for c in result["changes"]} >= {"api.listen", "peers.1.address"}
    told = "\n".join(result["next"])  # Nobody finds a node at its new addresses by itself.
    assert f"new address 127.0.0.1:{port}: url of node 2 in their vault.toml" in told
    assert f"new address 127.0.0.1:{port + 1}: address of peer 2 in their node.toml" in told
    assert "launch file" in {f["what"] for f in result["findings"]}
    assert result["proofs_ok"] is True
    store = await node.opener_at(moved)(into / "db" / "two.db")
    try:
        (document,) = await store.documents()
        assert Path(document.path).parent == into / "papers"
        assert Path(document.path).is_file()
    finally:
        await store.close()


async def test_a_dry_run_writes_nothing(node: Any) -> None:
    row = await node.backup()
    into = node.home.parent / "new"
    before = sorted(node.home.parent.rglob("*"))
    with socket.socket() as taken:
        listen = tomllib.loads(node.config.read_text())["api"]["listen"]
        taken.bind(("127.0.0.1", int(listen.split(":")[1])))
        taken.listen()
        found = await plan(node, Path(row.location), into, dry_run=True)
        out = found.to_json()
        assert out["done"] is False
        assert [s["answer"] for s in out["steps"] if s["name"] == "machine"] == ["warn"]
        assert "port" in {f["what"] for f in out["findings"]}
        with pytest.raises(KeycairnError):
            await execute(found)
        error = await refused(Code.CONFLICT, node, Path(row.location), into)
        assert "api.listen" in error.message
    assert sorted(node.home.parent.rglob("*")) == before


async def test_without_the_master_secret_nothing_is_claimed(node: Any) -> None:
    bundle = await lost(node)
    secret = node.operator / "master.key"
    secret.rename(node.operator / "safe")
    result = await execute(await plan(node, bundle, node.home))
    assert result["proofs_ok"] is None
    assert "master secret" in {f["what"] for f in result["findings"]}
    (node.operator / "safe").rename(secret)
    store = await node.opener(node.database)
    try:
        assert len(await store.keys()) == 3
        assert await store.bundles() == []
    finally:
        await store.close()


async def test_a_wrong_or_loose_master_secret_is_found_before_writing(node: Any) -> None:
    bundle = await lost(node)
    secret = node.operator / "master.key"
    right = secret.read_bytes()
    secret.write_bytes(bytes(32))
    error = await refused(Code.STORE_INTEGRITY, node, bundle, node.home)
    assert str(secret) in error.message
    assert "--secret-file" in error.next
    assert "node restore" not in error.next  # That is what was tried.
    secret.write_bytes(right)
    secret.chmod(0o644)
    await refused(Code.POLICY, node, bundle, node.home)
    other = node.operator / "copy"
    other.write_bytes(right)
    other.chmod(0o400)
    found = await plan(node, bundle, node.home, secret_file=other)
    assert found.report.proofs is Answer.YES


async def test_a_wrong_age_identity_is_refused(node: Any) -> None:
    bundle = await lost(node)
    stranger = SecretBytes(str(pyrage.x25519.Identity.generate()).encode())
    error = await refused(Code.UNWRAP_FAILED, node, bundle, node.home, identity=stranger)
    assert "use the age identity of age1" in error.next  # Which one, not "the right one".
    for junk in (b"", b"# only a comment", b"AGE-SECRET-KEY-1", b"\xff"):
        await refused(Code.MALFORMED, node, bundle, node.home, identity=SecretBytes(junk))


async def test_a_bundle_of_another_node_is_refused(node: Any, make_node: Any) -> None:
    other = await make_node(3)
    await other.add_keys(1)
    bundle = Path((await other.backup()).location)
    into = node.home.parent / "new"
    error = await refused(Code.CONFLICT, node, bundle, into, identity=other.secret)
    assert "node 3" in error.message
    await refused(
        Code.CONFLICT, node, bundle, into, identity=other.secret, node_public_key=None, node=2
    )
    # Without a pin it is a finding: nobody can tell.
    found = await plan(
        other, bundle, into, node_public_key=None, dry_run=True, mapping={"peers.1": "incoming"}
    )
    assert "signer" in {f.what for f in found.findings}


async def test_a_damaged_bundle_is_refused_before_writing(node: Any) -> None:
    bundle = await lost(node)
    data = bytearray(bundle.read_bytes())
    data[-1] ^= 1
    bundle.write_bytes(data)
    await refused(Code.STORE_INTEGRITY, node, bundle, node.home)
    bundle.write_bytes(data[:-1])
    await refused(Code.STORE_INTEGRITY, node, bundle, node.home)


async def test_a_taken_place_is_refused(node: Any) -> None:
    bundle = Path((await node.backup()).location)
    with DirectoryLock(node.home / "data"):
        error = await refused(Code.CONFLICT, node, bundle, node.home)
        assert "running" in error.message
        assert error.next.startswith("if it must be replaced, stop it first")
    error = await refused(Code.CONFLICT, node, bundle, node.home)
    assert "not empty" in error.message
    file = node.home.parent / "file"
    file.write_text("mine")
    await refused(Code.CONFLICT, node, bundle, file)
    link = node.home.parent / "link"
    link.symlink_to(node.home.parent / "nowhere")
    await refused(Code.CONFLICT, node, bundle, link)
    await refused(Code.UNAVAILABLE, node, bundle, file / "x")
    await refused(Code.UNAVAILABLE, node, bundle, node.home.parent / "no" / "where")


@pytest.mark.parametrize(
    "mapping",
    [
        {"backup": {"policy": {"require": "none"}}},
        {"operations.ecdsa.sign": True},
        {"peers": {"1": {"public_key": "00" * 32}}},
        {"peers": {"9": "incoming"}},
        {"peers": {"1": ""}},
        {"api.listen": 8080},
        {"api": {"listen": ""}},
        {"database.url": "postgresql://db"},
        {"database.url": "sqlite:////var/lib/elsewhere.db"},
        {"database.url": "sqlite:///../out.db"},
        {"ers.store": "/srv/ers"},
        {"anchor.directory": "../anchor"},
        {"backup.targets": ["a", 1]},
        {"encryptor": {"secret_env": "X", "secret_file": "y"}},
        {"api.listen": "127.0.0.1:1", "api": {"listen": "127.0.0.1:2"}},
    ],
)
async def test_a_mapping_changes_places_only(node: Any, mapping: dict[str, Any]) -> None:
    bundle = await lost(node)
    await refused(Code.MALFORMED, node, bundle, node.home, mapping=mapping)


@pytest.mark.parametrize(
    "place", ["node.toml", "node.toml/x", "identity.key", "ers", "notes.txt/db"]
)
async def test_two_parts_never_share_a_place(node: Any, place: str) -> None:
    bundle = await lost(node)
    mapping = {"database.url": f"sqlite:///{place}"}
    await refused(Code.STORE_INTEGRITY, node, bundle, node.home, mapping=mapping)


async def test_another_restore_and_foreign_directories_are_left_alone(node: Any) -> None:
    bundle = await lost(node)
    found = await plan(node, bundle, node.home)
    staging = node.home.parent / ".node2.restoring"
    staging.mkdir()
    (staging / "mine").write_text("not a restore's")
    with pytest.raises(KeycairnError) as caught:
        await execute(found)
    assert caught.value.code is Code.CONFLICT
    assert (staging / "mine").exists()
    (staging / "mine").unlink()
    with staging.joinpath(".keycairn-restore").open("w"):
        pass
    fd = os.open(staging, 0)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(KeycairnError) as caught:
        await execute(found)
    assert caught.value.code is Code.CONFLICT
    os.close(fd)
    assert (await execute(found))["done"] is True


async def test_a_target_that_fills_up_meanwhile_is_kept(node: Any) -> None:
    bundle = await lost(node)
    found = await plan(node, bundle, node.home)
    node.home.mkdir()
    (node.home / "new").write_text("mine")
    with pytest.raises(KeycairnError) as caught:
        await execute(found)
    assert caught.value.code is Code.CONFLICT
    assert (node.home / "new").read_text() == "mine"
    assert not (node.home.parent / ".node2.restoring").exists()


async def test_missing_documents_do_not_count(node: Any) -> None:
    (document,) = await node.store.documents()
    Path(document.path).unlink()
    bundle = await lost(node)
    result = await execute(await plan(node, bundle, node.home))
    (finding,) = [f for f in result["findings"] if f["what"] == "ers document"]
    assert document.sha256 in finding["words"]
    store = await node.opener(node.database)
    try:
        assert await store.documents() == []
    finally:
        await store.close()
