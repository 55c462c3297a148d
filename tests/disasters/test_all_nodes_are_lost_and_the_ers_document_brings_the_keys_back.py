"""Scenario 4: all nodes are lost, only the ERS document and the RSA key are left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import coincurve
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from disasters.ers import recover_tool, register_recovery_key, spki
from keycairn.ports.system import SystemClock
from system.local import LocalVault

MESSAGE = b"signed with a key that came back"
DIGEST = bytes(range(32))


async def test_all_nodes_are_lost_and_the_ers_document_brings_the_keys_back(
    make_vault: Any, tmp_path: Path
) -> None:
    vault: LocalVault = make_vault()
    vault.start()
    private, public = register_recovery_key(vault, tmp_path / "safe")
    async with vault.client() as client:
        await vault.linked()
        keys = [
            *await client.create_keys("schnorr", "ed25519", count=2),
            *await client.create_keys("ecdsa", "secp256k1", count=2),
        ]
        made = await client.ers_create(
            [k["key_id"] for k in keys], spki(public), label="disaster test"
        )
    # What outlives the company: document and public keys in one place, the RSA key in another.
    archive = tmp_path / "archive"
    archive.mkdir()
    document = archive / "document.json"
    document.write_text(made["document"], encoding="utf-8")
    vault.stop()
    for i in vault.players:
        vault.lose(i)

    clock = SystemClock()
    began = clock.monotonic()
    done = recover_tool(
        str(document),
        "--rsa-key",
        str(private),
        "--out",
        str(tmp_path / "recovered"),
        "--allow-network",
        "--json",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    recovered = {r["key_id"]: r for r in json.loads(done.stdout)["recovered"]}
    assert set(recovered) == {k["key_id"] for k in keys}
    for key in keys:
        entry = recovered[key["key_id"]]
        assert entry["public_key"] == key["public_key"]
        file = Path(entry["file"])
        assert file.stat().st_mode & 0o777 == 0o600
        if key["scheme"] == "schnorr":
            signed = recover_tool("sign", "--key", str(file), "--message", MESSAGE.hex(), "--json")
            signature = bytes.fromhex(json.loads(signed.stdout)["signature"])
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(key["public_key"])).verify(
                signature, MESSAGE
            )
        else:
            secret = json.loads(file.read_text(encoding="utf-8"))["private_key"]
            ours = coincurve.PrivateKey(bytes.fromhex(secret))
            assert ours.public_key.format().hex() == key["public_key"]
            signed = recover_tool("sign", "--key", str(file), "--digest", DIGEST.hex(), "--json")
            assert signed.returncode == 0, signed.stdout
    seconds = clock.monotonic() - began
    print(
        json.dumps(
            {
                "scenario": 4,
                "keys_lost": 0,
                "presignatures_reused": 0,
                "seconds_to_first_signature": round(seconds, 2),
            }
        )
    )
