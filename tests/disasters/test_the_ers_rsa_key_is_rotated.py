"""Scenario 22: the RSA key of the recovery documents is replaced by another.

With the commands of today: register the successor, make documents for it, take the old key off the
lists. A command that does it in batches and says what is left comes later.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from disasters.ers import recover_tool, recovered, register_recovery_key, sign_with, spki
from keycairn.errors import Code, KeycairnError
from keycairn.ers.rsa import load_rsa_public_key
from keycairn.ports.system import SystemClock
from system.local import LocalVault, keycairn


async def test_the_ers_rsa_key_is_rotated(make_vault: Any, tmp_path: Path) -> None:
    vault: LocalVault = make_vault()
    vault.start()
    old_private, old = register_recovery_key(vault, tmp_path / "safe", "old")
    old_sha256 = load_rsa_public_key(old.read_bytes()).spki_sha256
    documents = {}
    async with vault.client() as client:
        await vault.linked()
        keys = [
            *await client.create_keys("ecdsa", "secp256k1"),
            *await client.create_keys("schnorr", "ed25519"),
        ]
        ids = [key["key_id"] for key in keys]
        documents["old"] = (await client.ers_create(ids, spki(old)))["document"]

        clock = SystemClock()
        began = clock.monotonic()
        new_private, new = register_recovery_key(vault, tmp_path / "safe", "new")
        documents["new"] = (await client.ers_create(ids, spki(new)))["document"]
        keycairn("ers", "key", "remove", old_sha256, "--vault", str(vault.profile))
        seconds = clock.monotonic() - began

        # No document is made for the old key any more, and keys are backed up all the while.
        with pytest.raises(KeycairnError) as refused:
            await client.ers_create(ids, spki(old))
        assert refused.value.code is Code.KEY_NOT_ALLOWED
        status = await client.ers_status()
        assert {row["status"] for rows in status.values() for row in rows} == {"COMPLETE"}
        await client.sign(ids[0], digest=bytes(32))
        # A new key is backed up under the new RSA key only.
        later = (await client.create_keys("schnorr", "ed25519"))[0]
        documents["later"] = (await client.ers_create([later["key_id"]], spki(new)))["document"]
        await client.sign(later["key_id"], message=b"m")
    for name, text in documents.items():
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
    vault.stop()
    for i in vault.players:
        vault.lose(i)

    # Both keys open what was made for them, and nothing else; the old documents are not revoked.
    private = {"old": old_private, "new": new_private, "later": new_private}
    for name, file in private.items():
        out = tmp_path / f"{name}-recovered"
        where = [str(tmp_path / f"{name}.json"), "--allow-network"]
        done = recovered(*where, "--rsa-key", str(file), "--out", str(out))
        entries = {entry["key_id"]: entry for entry in done["recovered"]}
        for key in [later] if name == "later" else keys:
            assert entries[key["key_id"]]["public_key"] == key["public_key"]
            sign_with(Path(entries[key["key_id"]]["file"]), key)
        other = old_private if file is new_private else new_private
        no = recover_tool(*where, "--rsa-key", str(other), "--out", str(tmp_path / "no"), "--json")
        assert json.loads(no.stdout)["error"]["code"] == "E_ERS_INVALID"
        assert not (tmp_path / "no").exists()
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
