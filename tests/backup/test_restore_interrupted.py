"""A restore that dies at any step can be repeated; a hostile bundle that is signed can't climb."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from keycairn.backup import age, execute, plan_restore
from keycairn.backup.archive import ArchiveSource
from keycairn.backup.bundle import read_bundle, unpack, write_header
from keycairn.backup.collect import INDEX, Index, from_bytes
from keycairn.backup.manifest import sign_manifest
from keycairn.errors import Code, KeycairnError

#: One process that imports once, and for every point a child of it that dies there.
SCRIPT = """
import asyncio, os, sys
from pathlib import Path
from keycairn.backup import install, restore
from keycairn.encoding import SecretBytes
from keycairn.ports.system import SystemClock, SystemRng
from keycairn.store.sqlite import SqliteStore

def kill(owner, name, before, at=1):
    real, calls = getattr(owner, name), 0
    def dying(*args, **kw):
        nonlocal calls
        calls += 1
        if before and calls == at:
            os._exit(9)
        result = real(*args, **kw)
        if calls == at:
            os._exit(9)
        return result
    setattr(owner, name, dying)

async def main(into, point):
    plan = await restore.plan_restore(
        Path({bundle!r}), into=Path(into), identity=SecretBytes({identity!r}),
        node_public_key={public!r}, clock=SystemClock(), rng=SystemRng())
    exec("kill(" + point + ")")
    await install.execute(plan)

for into, point in {points!r}:
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(main(into, point))
        finally:
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 9:
        sys.exit("did not die at " + point)
"""

POINTS = {
    "staging made": "install, '_clear', True",
    "marker written": "install, '_write_files', True",
    "first file": "install, 'create_private', False, 2",
    "some files": "install, 'create_private', False, 6",
    "files written": "install, '_write_files', False",
    "receipt": "SqliteStore, 'put_bundle', True",
    "database settled": "install, '_into_place', True",
    "flushed": "install, 'sync_tree', False",
    "before rename": "Path, 'rename', True",
    "behind rename": "Path, 'rename', False",
}


def kill_at_every_point(node: Any, bundle: Path) -> dict[str, Path]:
    """Die at every point, each in a restore of its own; where each of them went."""
    places = {point: node.home.parent / f"into{i}" for i, point in enumerate(POINTS)}
    code = SCRIPT.format(
        bundle=str(bundle),
        identity=node.secret.reveal(),
        public=node.identity.public,
        points=[(str(places[point]), call) for point, call in POINTS.items()],
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert done.returncode == 0, done.stderr
    return places


async def lost(node: Any) -> Path:
    row = await node.backup()
    await node.store.close()
    shutil.rmtree(node.home)
    return Path(row.location)


async def restore(node: Any, bundle: Path, into: Path) -> dict[str, Any]:
    return await execute(
        await plan_restore(
            bundle,
            into=into,
            identity=node.secret,
            node_public_key=node.identity.public,
            clock=node.clock,
            rng=node.rng,
        )
    )


async def test_killed_at_every_step_and_repeated(node: Any) -> None:
    bundle = await lost(node)
    places = kill_at_every_point(node, bundle)
    complete = places.pop("behind rename")
    for point, into in places.items():
        staging = into.with_name(f".{into.name}.restoring")
        # Nothing at the target looks like a node until all of it is there.
        assert not into.exists(), point
        assert staging.exists(), point
        result = await restore(node, bundle, into)
        assert result["proofs_ok"] is True, point
        assert not staging.exists(), point
        assert not (into / ".keycairn-restore").exists(), point
        assert (into / "identity.key").is_file(), point
    # Once it has its name, all of it is there, and a second attempt says so.
    assert (complete / "identity.key").is_file()
    with pytest.raises(KeycairnError) as caught:
        await restore(node, bundle, complete)
    assert caught.value.code is Code.CONFLICT
    assert "already, completely" in caught.value.message
    store = await node.opener(complete / "data" / "node.db")
    assert len(await store.bundles()) == 1
    await store.close()


@pytest.mark.parametrize("function", ["sync_tree", "fsync_path", "create_private"])
async def test_a_disk_that_fails_leaves_nothing(node: Any, monkeypatch: Any, function: str) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    bundle = await lost(node)
    with monkeypatch.context() as patch:
        patch.setattr(f"keycairn.backup.install.{function}", full)
        with pytest.raises(KeycairnError) as caught:
            await restore(node, bundle, node.home)
    assert caught.value.code is Code.UNAVAILABLE
    assert not (node.home.parent / ".node2.restoring").exists()
    if function == "fsync_path":
        shutil.rmtree(node.home)  # It was renamed already: complete, but perhaps not durable.
    assert (await restore(node, bundle, node.home))["done"] is True


async def test_a_full_disk_is_not_answered_with_words_about_a_running_node(
    node: Any, monkeypatch: Any
) -> None:
    async def full(*_: Any) -> None:
        raise KeycairnError(
            Code.UNAVAILABLE,
            "the disk is full",
            not_lost="A presignature that was to be used counts as used.",
            next="free space on the disk; the node goes on by itself",
        )

    bundle = await lost(node)
    monkeypatch.setattr("keycairn.backup.install._settle_database", full)
    with pytest.raises(KeycairnError) as caught:
        await restore(node, bundle, node.home)
    assert str(node.home) in caught.value.message
    assert "presignature" not in caught.value.not_lost
    assert "run the same command again" in caught.value.next


def forge(node: Any, path: Path, change: Any) -> Path:
    """A bundle that this node signed, with an index that ``change`` made hostile."""
    bundle = read_bundle(path)
    kept: dict[str, BytesIO] = {}
    unpack(bundle, node.secret, lambda part: kept.setdefault(part.name, BytesIO()))
    index = change(Index.from_bytes(kept[INDEX].getvalue()))
    contents = {name: out.getvalue() for name, out in kept.items()}
    contents[INDEX] = index.to_bytes()
    archive = ArchiveSource([from_bytes(name, data, name) for name, data in contents.items()])
    payload = BytesIO()
    age.encrypt(archive, payload, [node.recipient])
    manifest = replace(
        bundle.manifest,
        parts=tuple(archive.parts),
        payload_size=len(payload.getvalue()),
        payload_sha256=hashlib.sha256(payload.getvalue()).digest(),
    )
    raw = manifest.to_bytes()
    forged = path.with_name("forged.bundle")
    with forged.open("wb") as out:
        write_header(out, raw, sign_manifest(raw, node.identity))
        out.write(payload.getvalue())
    return forged


@pytest.mark.parametrize(
    "inside", ["../../escaped", "/tmp/escaped", "a/../../escaped", "..", "", "node.toml"]
)
async def test_a_signed_index_cannot_climb(node: Any, inside: str) -> None:
    bundle = await lost(node)

    def change(index: Index) -> Index:
        name = "include/002-notes.txt"
        moved = replace(index.origins[name], inside=inside)
        return replace(index, origins={**index.origins, name: moved})

    forged = forge(node, bundle, change)
    before = sorted(node.home.parent.rglob("*"))
    if inside == "":
        await restore(node, forged, node.home)  # No place inside: it goes beside.
        return
    with pytest.raises(KeycairnError) as caught:
        await restore(node, forged, node.home)
    assert caught.value.code is Code.STORE_INTEGRITY
    assert sorted(node.home.parent.rglob("*")) == before


async def test_a_signed_index_lists_every_part(node: Any) -> None:
    bundle = await lost(node)

    def change(index: Index) -> Index:
        origins = dict(index.origins)
        del origins["include/002-notes.txt"]
        return replace(index, origins=origins)

    with pytest.raises(KeycairnError) as caught:
        await restore(node, forge(node, bundle, change), node.home)
    assert caught.value.code is Code.STORE_INTEGRITY
