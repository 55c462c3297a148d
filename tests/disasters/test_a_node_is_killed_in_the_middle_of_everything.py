"""Scenario 13: a node is killed in the middle of a creation, a signature, its backup, its restore.

Each at a known moment of it; random moments, on one database, are in ``tests/system``.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from disasters.conftest import everywhere, first_signature
from keycairn.client import Vault
from keycairn.errors import KeycairnError
from keycairn.ports.system import SystemClock
from system.local import LocalVault, keycairn

DIGEST = bytes(range(32))
#: It has promised to keep the key; it has spent the presignature, and told so.
CREATING, SIGNING = "keygen/pending:after", "send:dkls23/use:0:0:*:after"
VICTIM = 2


async def becomes(what: Callable[[], Any], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not what():
            await asyncio.sleep(0.002)


async def stocked(client: Vault, key: str) -> None:
    """Until nodes 1 and 2 have presignatures for each other."""
    async with asyncio.timeout(30):
        while True:
            got, _ = await client.presignatures(key, nodes=[1, 2])
            if all(any(row["ids"] for row in got.get(i, ())) for i in (1, 2)):
                return
            await asyncio.sleep(0.05)


async def active(client: Vault, before: set[str]) -> str:
    """The one key that is new, once every node has it in use."""
    async with asyncio.timeout(20):
        while True:
            rows = [await node.list_keys() for node in client.nodes.values()]
            new = [{r["key_id"] for r in own if r["state"] == "active"} - before for own in rows]
            if new[0] and all(one == new[0] for one in new):
                [key] = new[0]
                return key
            await asyncio.sleep(0.1)


def restore_words(vault: LocalVault, bundle: Path) -> list[str]:
    words = ["node", "restore", str(bundle), "--into", str(vault.node_directory(VICTIM))]
    words += ["--identity", str(vault.operator(VICTIM) / "backup-identity.age")]
    return [*words, "--vault", str(vault.profile)]


@everywhere(always=False)
async def test_a_node_is_killed_in_the_middle_of_everything(make_vault: Any, on: str) -> None:
    vault: LocalVault = make_vault(on=on, test_profile=True, session_seconds=8)
    clock, seconds = SystemClock(), {}
    nonces: list[str] = []
    vault.start()
    async with vault.client() as client:

        async def back(work: str, key: str) -> None:
            """It runs again, and signs."""
            began = clock.monotonic()
            vault.start(VICTIM)
            await vault.linked()
            made = await first_signature(client, key, digest=DIGEST, nodes=[VICTIM, 3])
            nonces.append(made["base_r"])
            seconds[work] = round(clock.monotonic() - began, 2)

        await vault.linked()
        [first] = await client.create_keys("ecdsa", "secp256k1")
        key = first["key_id"]
        keycairn("backup", "create", "--vault", str(vault.profile))

        # Creation: what it promised comes alive.
        vault.kill(VICTIM)
        vault.start(VICTIM, crash_at=CREATING)
        await vault.linked()
        with pytest.raises(KeycairnError):
            await client.create_keys("ecdsa", "secp256k1")
        assert vault.reap(VICTIM) == -signal.SIGKILL
        await back("create", key)
        made = await active(client, {key})

        # A signature: the presignature counts as used, whatever became of it.
        vault.kill(VICTIM)
        vault.start(VICTIM, crash_at=SIGNING)
        await vault.linked()
        nonces.append((await client.sign(key, digest=DIGEST, nodes=[1, VICTIM]))["base_r"])
        await stocked(client, key)
        with pytest.raises(KeycairnError):
            await client.sign(key, digest=bytes(32), nodes=[1, VICTIM])
        assert vault.reap(VICTIM) == -signal.SIGKILL
        await back("sign", key)
        nonces.append((await client.sign(key, digest=bytes(32), nodes=[1, VICTIM]))["base_r"])

        # Its backup: no bundle, or a whole one.
        targets = vault.operator(VICTIM) / "backups"
        with vault.editing(VICTIM) as config:
            config["backup"]["include"] = ["notes"]
        (vault.node_directory(VICTIM) / "notes").write_bytes(bytes(40 << 20))
        vault.kill(VICTIM)
        vault.start(VICTIM)
        await vault.linked()
        before = set(targets.glob("*.bundle"))
        words = ("backup", "create", "--config", str(vault.config(VICTIM)))
        backup = asyncio.create_task(asyncio.to_thread(keycairn, *words, check=False))
        await becomes(lambda: any(p.stat().st_size for p in targets.glob(".keycairn-*.tmp")))
        vault.kill(VICTIM)
        assert "error" in await backup
        assert set(targets.glob("*.bundle")) == before
        await back("backup", key)
        keycairn("backup", "create", "--vault", str(vault.profile))
        assert not list(targets.glob(".keycairn-*.tmp"))
        nonces.append((await client.sign(made, digest=DIGEST, nodes=[VICTIM, 3]))["base_r"])

        # Its restore: as before, or complete; the same command ends it.
        vault.lose(VICTIM)
        restoring = restore_words(vault, vault.newest_bundle(VICTIM))
        process = subprocess.Popen(
            [sys.executable, "-m", "keycairn.cli", *restoring, "--json"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        staging = vault.directory / f".node{VICTIM}.restoring"
        await becomes(lambda: (staging / "files").exists() or any(staging.glob("**/*.db")))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert staging.exists()
        assert not vault.node_directory(VICTIM).exists()
        done = keycairn(*restoring)
        assert (done["keys"], done["proofs_ok"], done["presignatures"]) == (2, True, 0)
        assert not staging.exists()
        await back("restore", key)
        for signers in ([1, VICTIM], [VICTIM, 3], [1, 3]):
            for each in (key, made):
                nonces.append((await client.sign(each, digest=DIGEST, nodes=signers))["base_r"])
    assert len(set(nonces)) == len(nonces)
    print(
        json.dumps(
            {
                "scenario": 13,
                "database": on,
                "keys_lost": 0,
                "presignatures_reused": 0,
                "seconds_to_first_signature": seconds,
            }
        )
    )
