"""Scenario 23: the bundle target is full, then the node's own volume, during backup and signing.

On file systems of a few hundred kilobytes, which only root can mount.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from disasters.conftest import everywhere, first_signature
from keycairn.errors import Code, KeycairnError
from keycairn.ports.system import SystemClock
from system.local import LocalVault, keycairn


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Any]:
    """``small_disk(path, kilobytes)`` mounts a file system of that size there."""
    mounted: list[Path] = []

    def mount(path: Path, kilobytes: int) -> None:
        path.mkdir(parents=True, exist_ok=True)
        words = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(path)]
        if os.geteuid() != 0 or subprocess.run(words, capture_output=True).returncode:
            pytest.skip("this needs the right to mount a file system")
        mounted.append(path)

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


def backup(vault: LocalVault) -> dict[str, Any]:
    return keycairn("backup", "create", "--config", str(vault.config(1)), check=False)


def fill(path: Path) -> None:
    """Write until there is no room left."""
    with path.open("wb", buffering=0) as out, suppress(OSError):
        for _ in range(10_000):
            out.write(bytes(4096))
    assert shutil.disk_usage(path.parent).free == 0


@everywhere()
async def test_a_full_backup_target_costs_no_bundle_and_no_evidence(
    make_vault: Any, small_disk: Any, on: str
) -> None:
    vault: LocalVault = make_vault(nodes=2, on=on)
    target = vault.operator(1) / "backups"
    small_disk(target, 640)
    vault.start()
    async with vault.client() as client:
        await vault.linked()
        [key] = await client.create_keys("schnorr", "ed25519")
        keycairn("backup", "create", "--vault", str(vault.profile))
        made = 1
        for _ in range(10):
            answer = backup(vault)
            if "error" in answer:
                break
            made += 1
        assert answer["error"]["code"] == "E_UNAVAILABLE", answer
        assert "No space left" in answer["error"]["message"]
        assert "make room" in answer["error"]["next"]
        assert len(list(target.glob("*.bundle"))) == made
        assert not list(target.glob(".keycairn-*tmp"))
        # What was there counts as before: the key signs, and every bundle is good.
        await client.sign(key["key_id"], message=b"x")
        for bundle in target.glob("*.bundle"):
            found = keycairn("backup", "verify", str(bundle), "--vault", str(vault.profile))
            assert found["verified"] is True
        state = keycairn("backup", "status", "--config", str(vault.config(1)), check=False)
        assert state["failure"]["code"] == "E_UNAVAILABLE"
        assert state["bundles"] == made
        # Room again: one bundle less, and it goes on by itself.
        oldest = min(target.glob("*.bundle"))
        oldest.unlink()
        assert backup(vault)["verified"] is True


@everywhere()
async def test_a_full_volume_of_the_node_costs_no_bundle_and_no_nonce(
    make_vault: Any, small_disk: Any, on: str
) -> None:
    """On a server the volume holds all but the database; with SQLite no spend can be written, and
    without one nothing is signed (INV-1)."""
    vault: LocalVault = make_vault(nodes=2, on=on)
    data = vault.node_directory(1) / "data"
    kept = vault.directory / "kept"
    shutil.move(data, kept)
    small_disk(data, 2048)
    data.chmod(0o700)
    for file in kept.iterdir():
        shutil.copy2(file, data)
    vault.start()
    async with vault.client() as client:
        await vault.linked()
        [key] = await client.create_keys("schnorr", "ed25519")
        keycairn("backup", "create", "--vault", str(vault.profile))
        before = {p.name for p in (vault.operator(1) / "backups").glob("*.bundle")}
        filler = data / "filler"
        fill(filler)
        answer = backup(vault)
        assert answer["error"]["code"] == "E_UNAVAILABLE", answer
        assert {p.name for p in (vault.operator(1) / "backups").glob("*.bundle")} == before
        nonces, refused = [], []
        for number in range(40):
            fill(data / f"filler{number}")
            try:
                made = await client.sign(key["key_id"], message=b"full")
            except KeycairnError as exc:
                refused.append(exc.code)
            else:
                nonces.append(made["base_r"])
        assert refused or on != "sqlite"
        assert set(refused) <= {Code.UNAVAILABLE}
        clock = SystemClock()
        began = clock.monotonic()
        for file in data.glob("filler*"):
            file.unlink()
        nonces.append((await first_signature(client, key["key_id"], message=b"x"))["base_r"])
        seconds = clock.monotonic() - began
        assert len(set(nonces)) == len(nonces)
        assert backup(vault)["verified"] is True
    figures = {"scenario": 23, "database": on, "keys_lost": 0, "presignatures_reused": 0}
    print(json.dumps({**figures, "refused": len(refused), "seconds_to_first_signature": seconds}))
