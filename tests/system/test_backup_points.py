"""Backup points of real processes: all bundles of one moment, and no hold outlives its bound."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

from keycairn.ports.system import SystemClock
from system.local import LocalVault, keycairn


def status(vault: LocalVault, *words: str) -> dict[str, Any]:
    return keycairn("backup", "status", *words, "--vault", str(vault.profile), check=False)


async def test_a_point_taken_while_keys_are_made_is_consistent_and_survives_the_nodes(
    make_vault: Any, tmp_path: Path
) -> None:
    vault: LocalVault = make_vault()
    vault.start()
    async with vault.client() as client:
        await vault.linked()
        made: list[str] = []
        stop = asyncio.Event()

        async def create() -> None:
            while not stop.is_set():
                keys = await client.create_keys("schnorr", "ed25519", count=2)
                made.extend(k["key_id"] for k in keys)

        creating = asyncio.create_task(create())
        points = []
        for _ in range(3):
            result = await asyncio.to_thread(
                keycairn, "backup", "create", "--vault", str(vault.profile)
            )
            assert result["point"] is not None, result["why"]
            points.append(result["point"])
            answer = await asyncio.to_thread(status, vault)
            assert answer["answer"] == "consistent", answer["findings"]
            assert answer["point"] == result["point"]
        stop.set()
        await creating
        assert points == [1, 2, 3]
        assert made
        # Signing went on; creation was delayed and not refused.
        await client.sign(made[0], message=b"x", nodes=[1, 2])
        last = await asyncio.to_thread(status, vault)
        assert last["keys"] <= len(made)

    # The nodes are gone, then all but their bundles.
    bundles = tmp_path / "copies"
    bundles.mkdir()
    for i in (1, 2, 3):
        vault.lose(i)
        shutil.copy(vault.newest_bundle(i), bundles)
    gone = status(vault)
    assert (gone["answer"], gone["point"]) == ("consistent", 3)
    alone = keycairn("backup", "status", str(bundles))
    assert (alone["answer"], alone["point"]) == ("consistent", 3)
    assert alone["not_checked"]
    two = keycairn("backup", "status", *map(str, sorted(bundles.iterdir())[:2]), check=False)
    assert two["answer"] == "cant_tell"


async def test_a_leader_that_dies_holds_up_no_creation_for_longer_than_the_bound(
    make_vault: Any,
) -> None:
    from keycairn.client import OperatorClient
    from keycairn.node.config import load_config

    vault: LocalVault = make_vault(nodes=2)
    vault.start()
    clock = SystemClock()
    async with vault.client() as client:
        await vault.linked()
        for i in (1, 2):
            async with OperatorClient.of(load_config(vault.config(i), {})) as operator:
                await operator.backup_point("hold", seconds=3)
        # Nobody says anything any more.
        began = clock.monotonic()
        [key] = await client.create_keys("schnorr", "ed25519")
        seconds = clock.monotonic() - began
        assert 1.5 < seconds < 8
        # The key was made after the hold; without bundles of both its use still waits.
        made = await asyncio.to_thread(keycairn, "backup", "create", "--vault", str(vault.profile))
        assert made["point"] == 1
        await client.sign(key["key_id"], message=b"x")
    print(json.dumps({"hold_seconds": 3, "creation_waited_seconds": round(seconds, 2)}))


async def test_bundles_of_different_days_name_the_key_and_the_node(make_vault: Any) -> None:
    vault: LocalVault = make_vault()
    vault.start()
    async with vault.client() as client:
        await vault.linked()
        await client.create_keys("schnorr", "ed25519")
        first = await asyncio.to_thread(keycairn, "backup", "create", "--vault", str(vault.profile))
        [late] = await client.create_keys("schnorr", "ed25519")
        for i in (1, 3):
            await asyncio.to_thread(keycairn, "backup", "create", "--config", str(vault.config(i)))
    found = await asyncio.to_thread(status, vault)
    assert found["answer"] == "inconsistent"
    lacking = [f for f in found["findings"] if f["finding"] == "missing key"]
    assert [(f["node"], f["keys"], f["recoverable"]) for f in lacking] == [
        (2, [late["key_id"]], True)
    ]
    assert any(f"point {first['point']}" in f["text"] for f in found["findings"])
    # One that can't be read is doubt, and does not hide the difference.
    vault.newest_bundle(3).write_bytes(b"")
    again = await asyncio.to_thread(status, vault)
    assert any(f["finding"] == "can't be read" for f in again["findings"])
