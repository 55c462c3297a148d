"""Scenario 22: the RSA key of the recovery documents is replaced by another.

Register the successor, `ers rotate` makes the documents anew in batches and goes on where it was
broken off, then the old key leaves the lists. Keys that are made meanwhile and later have their
documents made by the nodes.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from disasters.ers import recover_tool, recovered, register_recovery_key, sign_with, spki
from keycairn.client import OperatorClient
from keycairn.errors import Code, KeycairnError
from keycairn.ers.document import Document
from keycairn.ers.rsa import load_rsa_public_key
from keycairn.node.config import load_config
from keycairn.ports.system import SystemClock
from system.local import LocalVault, keycairn


def stored_document(vault: LocalVault, sha256: str) -> str:
    """What node 1 has in its store, as the JSON that people keep."""
    data = (vault.node_directory(1) / "ers" / f"{sha256}.kcers").read_bytes()
    return Document.load(data).to_json().decode()


async def operator_metrics(vault: LocalVault, i: int) -> str:
    async with OperatorClient.of(load_config(vault.config(i), {})) as node:
        return await node.metrics()


async def test_the_ers_rsa_key_is_rotated(make_vault: Any, tmp_path: Path) -> None:
    vault: LocalVault = make_vault()
    sink = tmp_path / "sink"
    sink.mkdir()
    with vault.editing(1) as config:
        config["ers"]["sinks"] = [str(sink)]
    vault.start()
    old_private, old = register_recovery_key(vault, tmp_path / "safe", "old")
    old_sha256 = load_rsa_public_key(old.read_bytes()).spki_sha256
    documents = {}
    async with vault.client() as client:
        await vault.linked()
        keys = [
            *await client.create_keys("ecdsa", "secp256k1", count=2),
            *await client.create_keys("schnorr", "ed25519"),
        ]
        ids = [key["key_id"] for key in keys]
        documents["old"] = (await client.ers_create(ids, spki(old)))["document"]

        clock = SystemClock()
        began = clock.monotonic()
        new_private, new = register_recovery_key(vault, tmp_path / "safe", "new")
        profile = ["--vault", str(vault.profile)]
        rotation = ["ers", "rotate", "--from", old_sha256, "--to", str(new), "--batch", "1"]
        # Not before every key has another document.
        said = keycairn("ers", "key", "remove", old_sha256, *profile, check=False)
        assert said["error"]["code"] == "E_CONFLICT"
        assert "ers rotate" in said["error"]["next"]
        # Broken off: one key is done, then a node is down.
        documents["first"] = (await client.ers_create(ids[:1], spki(new)))["document"]
        vault.kill(3)
        said = keycairn(*rotation, *profile, check=False)
        assert (said["exit"], said["documents"], said["removable"]) == (7, 0, False)
        assert {row["key_id"] for row in said["left"]} == set(ids)
        vault.start(3)
        await vault.linked()
        said = keycairn(*rotation, *profile)
        assert (said["keys"], said["already"], said["rotated"]) == (3, 1, 2)
        assert (said["documents"], said["left"], said["removable"]) == (2, [], True)
        again = keycairn(*rotation, *profile)
        assert (again["already"], again["documents"]) == (3, 0)
        status = keycairn("ers", "status", *profile)
        new_sha256 = load_rsa_public_key(new.read_bytes()).spki_sha256
        assert all(new_sha256 in row["rsa_keys"] for row in status["keys"])
        for row in status["keys"]:
            documents[f"new-{row['key_id']}"] = stored_document(vault, row["sha256"])
        keycairn("ers", "key", "remove", old_sha256, *profile)
        seconds = clock.monotonic() - began

        # No document is made for the old key any more, and keys are backed up all the while.
        with pytest.raises(KeycairnError) as refused:
            await client.ers_create(ids, spki(old))
        assert refused.value.code is Code.KEY_NOT_ALLOWED
        now = await client.ers_status()
        assert {row["status"] for rows in now.values() for row in rows} == {"COMPLETE"}
        await client.sign(ids[0], digest=bytes(32))
        # A new key is backed up under the new RSA key only, without anybody asking.
        later = (await client.create_keys("schnorr", "ed25519"))[0]
        async with asyncio.timeout(60):
            while True:
                by_node = await client.ers_status(later["key_id"])
                rows = [row for each in by_node.values() for row in each]
                if len(rows) == 3 and {r["status"] for r in rows} == {"COMPLETE"}:
                    break
                await asyncio.sleep(0.1)
        assert {r["rsa_spki_sha256"] for r in rows} == {new_sha256}
        documents["later"] = stored_document(vault, rows[0]["sha256"])
        await client.sign(later["key_id"], message=b"m")
        # Everything that node 1 holds is at its sink, byte for byte.
        store = vault.node_directory(1) / "ers"
        async with asyncio.timeout(60):
            while {f.name for f in sink.glob("*.kcers")} != {f.name for f in store.glob("*.kcers")}:
                await asyncio.sleep(0.2)
        assert all((sink / f.name).read_bytes() == f.read_bytes() for f in store.glob("*.kcers"))
        metrics = await operator_metrics(vault, 1)
        assert 'keycairn_ers_keys{status="complete"} 4.0' in metrics
        assert 'keycairn_ers_sink_failing{kind="directory",sink="1"} 0.0' in metrics
    for name, text in documents.items():
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
    vault.stop()
    for i in vault.players:
        vault.lose(i)

    # Both keys open what was made for them, and nothing else; the old documents are not revoked.
    back: dict[bool, set[str]] = {}
    for name in documents:
        file = old_private if name == "old" else new_private
        out = tmp_path / f"{name}-recovered"
        where = [str(tmp_path / f"{name}.json"), "--allow-network"]
        done = recovered(*where, "--rsa-key", str(file), "--out", str(out))
        for entry in done["recovered"]:
            (key,) = [k for k in [*keys, later] if k["key_id"] == entry["key_id"]]
            assert entry["public_key"] == key["public_key"]
            sign_with(Path(entry["file"]), key)
            back.setdefault(name == "old", set()).add(key["key_id"])
        other = old_private if file is new_private else new_private
        no = recover_tool(*where, "--rsa-key", str(other), "--out", str(tmp_path / "no"), "--json")
        assert json.loads(no.stdout)["error"]["code"] == "E_ERS_INVALID"
        assert not (tmp_path / "no").exists()
    assert back == {True: set(ids), False: {*ids, later["key_id"]}}
    print(
        json.dumps(
            {
                "scenario": 22,
                "keys_lost": 0,
                "presignatures_reused": 0,
                "seconds_to_rotate": round(seconds, 2),
            }
        )
    )
