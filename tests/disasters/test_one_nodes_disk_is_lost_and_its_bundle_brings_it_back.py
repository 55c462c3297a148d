"""Scenario 1: one node's disk is lost, its bundle exists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from disasters.conftest import everywhere, first_signature
from disasters.ers import prove_possession, register_recovery_key, spki
from keycairn.errors import Code, KeycairnError
from keycairn.ports.system import SystemClock
from system.local import LocalVault, keycairn

MESSAGE = b"after the disaster"
DIGEST = bytes(range(32))


@everywhere()
async def test_one_nodes_disk_is_lost_and_its_bundle_brings_it_back(
    make_vault: Any, tmp_path: Path, on: str
) -> None:
    vault: LocalVault = make_vault(on=on)
    vault.start()
    private, public = register_recovery_key(vault, tmp_path / "safe")
    async with vault.client() as client:
        await vault.linked()
        keys = [
            *await client.create_keys("schnorr", "ed25519", count=3),
            *await client.create_keys("ecdsa", "secp256k1", count=2),
        ]
        ids = [k["key_id"] for k in keys]
        with pytest.raises(KeycairnError) as refused:
            await client.sign(ids[0], message=MESSAGE)
        assert refused.value.code is Code.KEY_NOT_BACKED_UP

        made = keycairn("backup", "create", "--vault", str(vault.profile))
        assert all(b["verified"] for b in made["bundles"]), made
        # A document made after the bundle: the restored node has to get it from its peers.
        await client.ers_create(ids[:2], spki(public))
        spent = [(await client.sign(i, message=MESSAGE, nodes=[1, 2])) for i in ids[:3]]
        before = {i: (await client.show_key(i))["record_hash"] for i in ids}

        vault.lose(2)
        clock = SystemClock()
        lost_at = clock.monotonic()
        await client.sign(ids[0], message=MESSAGE, nodes=[1, 3])
        await client.sign(ids[3], digest=DIGEST, nodes=[1, 3])

        restored = keycairn(
            "node",
            "restore",
            str(vault.newest_bundle(2)),
            "--into",
            str(vault.node_directory(2)),
            "--identity",
            str(vault.operator(2) / "backup-identity.age"),
            "--vault",
            str(vault.profile),
        )
        assert restored["keys"] == len(ids)
        assert restored["presignatures"] == 0
        assert restored["proofs_ok"] is True
        vault.start(2)
        await vault.linked()
        signature = await first_signature(client, ids[0], message=MESSAGE, nodes=[2, 3])
        seconds = clock.monotonic() - lost_at
        assert seconds < 60

        # Nothing was lost: every key, at every pair of nodes that includes the restored one.
        for key in keys:
            for signers in ([1, 2], [2, 3]):
                if key["scheme"] == "schnorr":
                    await client.sign(key["key_id"], message=MESSAGE, nodes=signers)
                else:
                    await client.sign(key["key_id"], digest=DIGEST, nodes=signers)
        assert {i: (await client.show_key(i))["record_hash"] for i in ids} == before
        # Nothing was reused: no nonce of before the disaster appears after it.
        nonces = [s["base_r"] for s in spent] + [signature["base_r"]]
        assert len(set(nonces)) == len(nonces)
        # The document that the bundle couldn't hold came back from a peer, verified again. The RSA
        # key was allowed at run time: the rejoin forgets that, and the operator repeats it.
        status = await client.nodes[2].ers_status(ids[0])
        assert [k["status"] for k in status] == ["STALE"]
        for file in (tmp_path / "safe").glob("*2.json"):
            file.unlink()
        prove_possession(vault, tmp_path / "safe", public, ["--rsa-key", str(private)], nodes=[2])
        status = await client.nodes[2].ers_status(ids[0])
        assert [k["status"] for k in status] == ["COMPLETE"]
    print(
        json.dumps(
            {
                "scenario": 1,
                "database": on,
                "keys_lost": 0,
                "presignatures_reused": 0,
                "seconds_to_first_signature": round(seconds, 2),
            }
        )
    )
