"""A database put back with a file copy brings no presignature back, whoever runs what."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any

import pytest

from system.local import LocalVault, keycairn

DIGEST = "33" * 32


def stock(vault: LocalVault, node: int) -> set[str]:
    """Ids of a node's presignatures."""
    rows = keycairn("presignature", "list", "--all", "--config", str(vault.config(node)))
    return {i for row in rows["presignatures"] for i in row["ids"]}


async def filled(vault: LocalVault, node: int, seconds: float = 30.0) -> set[str]:
    async with asyncio.timeout(seconds):
        while not (found := stock(vault, node)):
            await asyncio.sleep(0.2)
    return found


@pytest.mark.parametrize("storage", ["memory", "database"])
async def test_t055_no_presignature_survives_a_database_put_back(
    make_vault: Any, storage: str
) -> None:
    vault: LocalVault = make_vault(policy="none")
    for i in vault.players:
        with vault.editing(i) as config:
            config["presignatures"] = {"storage": storage, "target": 8, "low_water": 2}
    vault.start()
    await vault.linked()
    of_all = ("--vault", str(vault.profile))
    key = keycairn("key", "create", "--scheme", "ecdsa", "--curve", "secp256k1", *of_all)
    key_id = key["keys"][0]["key_id"]
    sign = ("sign", key_id, "--digest", DIGEST, "--nodes", "1,2", *of_all)
    keycairn(*sign)
    old = await filled(vault, 2)
    assert old & await filled(vault, 1)

    # The operator copies the whole data directory of the running node, and puts it back later.
    data = vault.node_directory(2) / "data"
    copy = vault.directory / "copy-of-data"
    shutil.copytree(data, copy)
    used = keycairn(*sign)["presignature_id"]
    assert used in old
    vault.kill(2)
    shutil.rmtree(data)
    shutil.copytree(copy, data)
    (data / "management.token").unlink(missing_ok=True)
    vault.start(2)
    await vault.linked()

    assert not stock(vault, 2) & old
    # Its peer drops what it shared with the incarnation that is gone.
    async with asyncio.timeout(10):
        while stock(vault, 1) & old:
            await asyncio.sleep(0.1)
    named = ("--presignature", next(iter(old - {used})))
    refused = keycairn(*sign, *named, check=False)
    assert refused["exit"] == 3
    assert refused["error"]["code"] in ("E_PRESIG_UNKNOWN", "E_PRESIG_SPENT")
    # What the page tells an operator to run is never wrong, and never needed.
    done = keycairn("presignature", "delete", "--all", "--config", str(vault.config(2)))
    assert done["failed"] == []
    again = keycairn("presignature", "delete", "--all", *of_all)
    assert [row["node"] for row in again["deleted"]] == [1, 2, 3]
    made = keycairn(*sign)
    assert made["presignature_id"] not in old
