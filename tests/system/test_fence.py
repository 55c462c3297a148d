"""The fence with real processes: what an operator sees, and crashes between its steps."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from system.local import LocalVault, keycairn

DIGEST = "44" * 32


@pytest.mark.slow
async def test_r03_r04_a_database_put_back_with_plain_tools(make_vault: Any) -> None:
    """A copied file, no keycairn command: the anchor convicts it, with no peer running; `vault up`
    says so at once, doctor names the command, and rejoin brings the node back."""
    vault: LocalVault = make_vault(policy="none")
    directory, config = str(vault.directory), str(vault.config(1))
    of_all = ("--vault", str(vault.profile))
    keycairn("vault", "up", directory)
    try:
        create = ("key", "create", "--scheme", "schnorr", "--curve", "ed25519", *of_all)
        key = keycairn(*create)["keys"][0]["key_id"]
        keycairn("vault", "down", directory, "--nodes", "1")
        data = vault.node_directory(1) / "data"
        copy = vault.directory / "copy-of-data"
        shutil.copytree(data, copy)
        keycairn("vault", "up", directory, "--nodes", "1")
        keycairn(*create)
        keycairn("vault", "down", directory)
        shutil.rmtree(data)
        shutil.copytree(copy, data)

        alone = keycairn("vault", "up", directory, "--nodes", "1", check=False)
        assert alone["exit"] == 3
        assert alone["error"]["code"] == "E_QUARANTINED"
        assert "anchor" in alone["error"]["message"]
        state = keycairn("node", "status", "--config", config)
        assert (state["state"], state["cause"]) == ("QUARANTINED", "witness")
        row = keycairn("vault", "status", directory)["nodes"][0]
        assert row["next"].startswith(f"keycairn node status --config {config}; ")
        bundle = keycairn("backup", "create", "--config", config, check=False)
        assert (bundle["exit"], bundle["error"]["code"]) == (3, "E_QUARANTINED")
        doctor = keycairn("doctor", *of_all, check=False)
        said = "node 1 is QUARANTINED and takes part in nothing"
        [finding] = [f for f in doctor["findings"] if f["what"].startswith(said)]
        assert f"keycairn node rejoin --config {config}" in finding["next"]

        result = keycairn("node", "rejoin", "--config", config)
        assert (result["state"], result["era"], result["missing"]) == ("ACTIVE", 2, None)
        again = keycairn("node", "rejoin", "--config", config, check=False)
        assert again["error"]["code"] == "E_CONFLICT"
        keycairn("vault", "up", directory)
        signed = keycairn("sign", key, "--message", DIGEST, "--nodes", "1,2", *of_all)
        assert signed["signature"]
    finally:
        keycairn("vault", "down", directory, check=False)


@pytest.mark.parametrize("point", ["fence.committed", "fence.anchored"])
async def test_r03_a_kill_between_database_and_anchor_is_no_rollback(
    make_vault: Any, point: str
) -> None:
    """At the start, and at a key's activation; each time the node comes back by itself, alone."""
    vault: LocalVault = make_vault(policy="none", test_profile=True)
    vault.start(1, crash_at=point, wait=False)
    assert vault.reap(1) == -9
    vault.start(1)
    vault.kill(1)
    if point == "fence.anchored":
        vault.start(1, crash_at=f"{point}#2")
        vault.start(2, 3)
        await vault.linked()
        create = ("key", "create", "--scheme", "schnorr", "--curve", "ed25519")
        keycairn(*create, "--vault", str(vault.profile), check=False)
        assert vault.reap(1) == -9
        vault.start(1)
        state = keycairn("node", "status", "--config", str(vault.config(1)))
        assert state["state"] == "ACTIVE"
