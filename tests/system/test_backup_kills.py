"""kill -9 at random points of a backup: every bundle that is there is whole, and can be booked."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from keycairn.ports.seeded import SeededRng
from keycairn.ports.system import SystemClock
from system.local import LocalVault, keycairn

_SEED = 13


@pytest.mark.parametrize("times", [5, pytest.param(50, marks=pytest.mark.full)])
async def test_a_backup_that_is_killed_leaves_whole_bundles_or_none(
    make_vault: Any, times: int
) -> None:
    vault: LocalVault = make_vault(nodes=2)
    target = vault.operator(1) / "backups"
    rng, clock = SeededRng(_SEED), SystemClock()
    # Enough to copy that a kill hits the middle of it.
    (vault.node_directory(1) / "notes").write_bytes(rng.bytes(24 << 20))
    with vault.editing(1) as config:
        config["backup"]["include"] = ["notes"]
    vault.start()
    async with vault.client() as client:
        await vault.linked()
        [key] = await client.create_keys("schnorr", "ed25519")
        began = clock.monotonic()
        await asyncio.to_thread(keycairn, "backup", "create", "--config", str(vault.config(1)))
        whole = clock.monotonic() - began
        keycairn("backup", "create", "--config", str(vault.config(2)))
        loose = 0
        for number in range(times):
            backup = asyncio.create_task(
                asyncio.to_thread(
                    keycairn, "backup", "create", "--config", str(vault.config(1)), check=False
                )
            )
            part = int.from_bytes(rng.bytes(2), "big") / 65536
            await asyncio.sleep(whole * (0.4 + 0.6 * part))
            vault.kill(1)
            await backup
            vault.start(1)
            where = f"seed {_SEED}, run {number}"
            for bundle in target.glob("*.bundle"):
                found = keycairn("backup", "verify", str(bundle), "--vault", str(vault.profile))
                assert found["verified"] is True, where
            state = keycairn("backup", "status", "--config", str(vault.config(1)), check=False)
            for finding in state["findings"]:
                assert finding["finding"] == "bundle without a receipt", where
                loose += 1
                words = ("--config", str(vault.config(1)))
                assert keycairn("backup", "register", finding["where"], *words)["counts"] is True
            assert state["bundles"] >= 1
        # The next backup removes what the dead ones left, and all that is there is booked.
        assert keycairn("backup", "create", "--config", str(vault.config(1)))["verified"] is True
        assert not list(target.glob(".keycairn-*tmp"))
        assert not (vault.node_directory(1) / "data" / ".backup-scratch").exists()
        rows = keycairn("backup", "list", "--config", str(vault.config(1)))["backups"]
        assert {r["bundle"] for r in rows} == {str(p) for p in target.glob("*.bundle")}
        await vault.linked()
        await client.sign(key["key_id"], message=b"x")
    print(json.dumps({"killed": times, "found_and_booked": loose}))
