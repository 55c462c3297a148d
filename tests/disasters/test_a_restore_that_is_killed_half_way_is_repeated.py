"""Scenario 24: ``node restore`` killed at any time; the same command works again."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from disasters.conftest import everywhere
from keycairn.ports.seeded import SeededRng
from keycairn.ports.system import SystemClock
from system.local import LocalVault, keycairn

_SEED = 24


@pytest.mark.parametrize("times", [5, pytest.param(50, marks=pytest.mark.full)])
@everywhere()
async def test_a_restore_that_is_killed_half_way_is_repeated(
    make_vault: Any, times: int, on: str
) -> None:
    vault: LocalVault = make_vault(on=on)
    vault.start()
    async with vault.client() as client:
        await vault.linked()
        [key] = await client.create_keys("schnorr", "ed25519")
        keycairn("backup", "create", "--vault", str(vault.profile))
        vault.lose(2)
        words = [
            "node",
            "restore",
            str(vault.newest_bundle(2)),
            "--into",
            str(vault.node_directory(2)),
            "--identity",
            str(vault.operator(2) / "backup-identity.age"),
            "--vault",
            str(vault.profile),
            "--json",
        ]
        command = [sys.executable, "-m", "keycairn.cli", *words]
        clock, rng = SystemClock(), SeededRng(_SEED)
        began = clock.monotonic()
        dry = subprocess.run([*command, "--dry-run"], capture_output=True, check=True)
        whole = clock.monotonic() - began
        assert json.loads(dry.stdout)["done"] is False
        killed = 0
        for number in range(times):
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
            )
            part = int.from_bytes(rng.bytes(2), "big") / 65536
            await asyncio.sleep(whole * (0.3 + 0.8 * part))
            if process.poll() is None:
                killed += 1
            process.kill()
            process.wait()
            home = vault.node_directory(2)
            # All or nothing: what is there is complete.
            if home.exists():
                assert (home / "node.toml").is_file(), f"seed {_SEED}, run {number}"
                complete = on != "sqlite" or (home / "data" / "node.db").is_file()
                assert complete, f"seed {_SEED}, run {number}"
                (home / ".keycairn-restore").unlink(missing_ok=True)
                vault.lose(2)
        assert killed or times < 10
        done = keycairn(*words[:-1])
        assert (done["done"], done["proofs_ok"], done["presignatures"]) == (True, True, 0)
        assert not list(vault.directory.glob(".node2*"))
        vault.start(2)
        await vault.linked()
        await client.sign(key["key_id"], message=b"x", nodes=[2, 3])
    print(json.dumps({"scenario": 24, "database": on, "killed": killed, "keys_lost": 0}))
