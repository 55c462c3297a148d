"""Scenario 5: the operating company is gone; the kit and the RSA key in a token are left."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from disasters.ers import MESSAGE, prove_possession, recovered, sign_with, spki
from encryptors.components import make_softhsm, private
from keycairn.ports.system import SystemClock
from kit.making import unpacked
from kit.tool import result
from system.local import LocalVault, keycairn

#: Raw RSA in the token: what `pkcs11-tool --decrypt --mechanism RSA-X-509` does.
DECRYPT = """\
import sys
import pkcs11

module, label, name, pin = sys.argv[1:]
with pkcs11.lib(module).get_token(token_label=label).open(user_pin=pin) as session:
    key = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=name)
    raw = key.decrypt(sys.stdin.buffer.read(), mechanism=pkcs11.Mechanism.RSA_X_509)
sys.stdout.buffer.write(raw)
"""
PATHS = ("m/0/0", "m/0/7", "m/44/60/3")


async def test_the_operating_company_is_gone_and_the_ers_kit_and_an_hsm_are_left(
    make_vault: Any, tmp_path: Path
) -> None:
    safe = tmp_path / "safe"
    safe.mkdir(mode=0o700)
    token = make_softhsm(safe)
    env = {"SOFTHSM2_CONF": str(token.conf)}
    public = safe / "recovery.pub"
    hsm = [
        f"--pkcs11-module={token.module}",
        f"--token-label={token.token}",
        "--key-label=recovery",
        f"--pin-file={private(safe / 'pin', token.pin)}",
    ]
    recovered("keygen", "--bits", "3072", *hsm, "--out", str(public), env=env)

    vault: LocalVault = make_vault()
    vault.start()
    prove_possession(vault, safe, public, hsm, env)
    async with vault.client() as client:
        await vault.linked()
        keys = [
            *await client.create_keys("ecdsa", "secp256k1", count=2),
            *await client.create_keys("ecdsa", "p256"),
            *await client.create_keys("schnorr", "secp256k1", variant="bip340"),
            *await client.create_keys("schnorr", "ed25519", count=2),
        ]
        ids = [key["key_id"] for key in keys]
        await client.ers_create(ids, spki(public), label="before use")
        children = {}
        for key in keys:
            for path in PATHS:
                what: dict[str, Any] = {"message": MESSAGE}
                if key["scheme"] == "ecdsa":
                    what = {"digest": bytes(range(32))}
                await client.sign(key["key_id"], path=path, **what)
                children[key["key_id"], path] = await client.show_key(key["key_id"], path=path)
    # What the customer has: the kit, made while the company was there, and its printed page.
    kit = tmp_path / "customer" / "KIT.zip"
    kit.parent.mkdir()
    made = keycairn(
        "kit", "create", "--all", "--rsa-public-key", str(public), "--label", "the kit",
        "--out", str(kit), "--vault", str(vault.profile),
    )  # fmt: skip
    assert set(made["keys"]) == set(ids)
    assert made["paths"] == dict.fromkeys(ids, len(PATHS))
    assert made["warnings"] == []
    vault.stop()
    shutil.rmtree(vault.directory)

    clock = SystemClock()
    began = clock.monotonic()
    # Verified twice: where keycairn is installed, and where nothing is.
    keycairn("kit", "verify", str(kit), "--fingerprint", made["fingerprint"])
    folder = unpacked(kit, tmp_path / "unpacked")
    tool = folder / "keycairn-offline.pyz"
    seen = result(tool, "verify", "--fingerprint", made["fingerprint"])
    assert seen["not_checked"] == []
    assert {k["key_id"] for d in seen["documents"] for k in d["keys"]} == set(ids)
    [document] = (folder / "documents").iterdir()
    listed = json.loads((folder / "paths.json").read_text(encoding="utf-8"))["keys"]
    for (key_id, path), child in children.items():
        [row] = [row for row in listed[key_id]["paths"] if row["path"] == path]
        assert row["public_key"] == child["public_key"]

    # The tool of the kit, with the token behind a program such as pkcs11-tool.
    (safe / "decrypt.py").write_text(DECRYPT, encoding="utf-8")
    words = [sys.executable, safe / "decrypt.py", token.module, token.token, "recovery", token.pin]
    command = shlex.join(["env", f"SOFTHSM2_CONF={token.conf}", *map(str, words)])
    own = result(
        tool, "recover", "--decrypt-command", command, "--out", tmp_path / "own", "--allow-network"
    )
    assert own["warnings"] == []
    seconds_own = clock.monotonic() - began

    # And keycairn-recover, which speaks PKCS #11 itself.
    known = [f"--public-key={k['key_id']}={k['curve']}:{k['public_key']}" for k in keys]
    done = recovered(
        str(document), *hsm, *known, "--label=the kit", "--allow-network",
        "--out", str(tmp_path / "recovered"), env=env,
    )  # fmt: skip
    for path in (tmp_path / "own").iterdir():
        assert path.read_bytes() == (tmp_path / "recovered" / path.name).read_bytes()
    first = None
    files = {entry["key_id"]: entry["files"] for entry in done["recovered"]}
    assert set(files) == set(ids)
    assert done["warnings"] == []
    for key in keys:
        file = Path(files[key["key_id"]]["json"])
        assert file.stat().st_mode & 0o777 == 0o600
        sign_with(file, key)
        first = first or clock.monotonic() - began
        # Every child that was in use, with the addresses that the vault's nodes showed.
        table = json.loads(Path(files[key["key_id"]]["children"]).read_text(encoding="utf-8"))
        rows = {row["path"]: row for row in table["children"]}
        assert set(rows) == set(PATHS)
        for path, row in rows.items():
            child = children[key["key_id"], path]
            assert row["public_key"] == child["public_key"]
            shown = {name: text for name, text in child["addresses"].items() if text}
            assert row["addresses"] == shown
        sign_with(file, children[key["key_id"], PATHS[-1]], PATHS[-1])
    print(
        json.dumps(
            {
                "scenario": 5,
                "keys": len(keys),
                "keys_lost": 0,
                "presignatures_reused": 0,
                "seconds_to_first_signature": round(first or 0.0, 2),
                "seconds_offline_tool": round(seconds_own, 2),
                "seconds": round(clock.monotonic() - began, 2),
            }
        )
    )
