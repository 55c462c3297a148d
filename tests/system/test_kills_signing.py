"""kill -9 around the spend of a presignature: it is gone, and never opened twice (T-048, T-049)."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from keycairn.client import Vault
from keycairn.errors import KeycairnError
from system.local import LocalVault
from system.test_uniqueness import database, verifies

DIGEST = b"\5" * 32
#: In a session from the pool: the spend is durable before step 0's HELLO leaves; step 1 carries
#: the partial. Killed before or after each of these sends.
POINTS = [
    (1, "send:dkls23/use:0:0:*:before"),
    (1, "send:dkls23/use:0:0:*:after"),
    (2, "send:dkls23/use:0:0:*:before"),
    (2, "send:dkls23/use:1:2:*:after"),
]


async def stock(vault: Vault, key_id: str, local: LocalVault) -> list[str]:
    """Wait until nodes 1 and 2 have the same presignatures; their ids."""
    async with asyncio.timeout(30):
        while True:
            got, _ = await vault.presignatures(key_id, nodes=[1, 2])
            ids = [[i for row in got[n] for i in row["ids"]] for n in (1, 2)]
            if len(ids[0]) == 8 and ids[0] == ids[1]:
                return ids[0]
            await asyncio.sleep(0.05)


def spent(local: LocalVault, node: int) -> list[str]:
    with closing(sqlite3.connect(database(local, node))) as db:
        return [row[0].hex() for row in db.execute("SELECT presignature_id FROM spends")]


@pytest.mark.slow
async def test_t048_t049_kill_between_spend_and_send_and_after_it(make_vault: Any) -> None:
    local: LocalVault = make_vault(policy="none", test_profile=True, session_seconds=8)
    for i in local.players:
        with local.editing(i) as config:
            config["presignatures"] = {"target": 8, "low_water": 8}
    local.start()
    await local.linked()
    async with local.client() as vault:
        (key,) = await vault.create_keys("ecdsa", "secp256k1")
        key_id = key["key_id"]
        for number, (victim, point) in enumerate(POINTS):
            request = f"request-{number}"
            local.kill(victim)
            local.start(victim, crash_at=point)
            await local.linked()
            verifies(await vault.sign(key_id, digest=DIGEST, nodes=(1, 2)), DIGEST)
            ids = await stock(vault, key_id, local)
            with pytest.raises(KeycairnError):
                await vault.sign(key_id, digest=DIGEST, nodes=(1, 2), request_id=request)
            assert local.reap(victim) == -signal.SIGKILL, f"{point} was not reached"
            assert ids[0] in spent(local, victim), f"{point}: not durable before it was used"
            local.start(victim)
            await local.linked()
            with pytest.raises(KeycairnError) as caught:
                await vault.sign(key_id, digest=DIGEST, nodes=(1, 2), presignature=ids[0])
            assert caught.value.code in ("E_PRESIG_UNKNOWN", "E_PRESIG_SPENT"), caught.value
            # The same request again: a new presignature, or the bytes that node 1 had already.
            again = await vault.sign(key_id, digest=DIGEST, nodes=(1, 2), request_id=request)
            verifies(again, DIGEST)
            if again["presignature_id"] == ids[0]:
                assert point.startswith("send:dkls23/use:1:"), point
    local.stop()
    for node in local.players:
        found = spent(local, node)
        assert len(found) == len(set(found))
