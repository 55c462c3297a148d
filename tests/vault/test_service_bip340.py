"""BIP-340 keys at whole nodes: made, shown, signed with, recovered, signed with again (T-064)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from embit import ec, script

from curves import bip340_reference as reference
from keycairn.client import verify_signature
from keycairn.errors import Code, KeycairnError
from keycairn.ers import cli
from keycairn.vault.api import KeyView, Sign, SignItem
from vault.nodes import APP, Vault

SIGHASH = bytes(range(32))


async def bip340_key(vault: Vault, **more: Any) -> KeyView:
    return await vault.key("schnorr", curve="secp256k1", variant="bip340", **more)


def accepted(x_only: bytes, message: bytes, signature: bytes) -> bool:
    theirs = ec.PublicKey.from_xonly(x_only).schnorr_verify(ec.SchnorrSig(signature), message)
    assert theirs == reference.verify(x_only, message, signature)
    return bool(theirs)


async def test_t064_from_creation_to_coins_that_move_after_recovery(
    vault: Vault, recovery_key: RSAPrivateKey, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = await bip340_key(vault)
    assert (key.scheme, key.curve, len(key.public_key)) == ("schnorr", "secp256k1", 33)
    assert set(key.addresses.values()) == {None}
    await vault.allow(recovery_key)
    document = (await vault.document([key], recovery_key)).result.document
    shown = await vault.services[1].show_key(APP, key.key_id, None)
    internal = ec.PublicKey.parse(key.public_key)
    assert shown.addresses["bitcoin_p2tr"] == script.p2tr(internal).address()
    assert [n for n, a in shown.addresses.items() if a] == ["bitcoin_p2tr"]

    output = internal.taproot_tweak().xonly()
    signed = (await vault.sign(key, (1, 3), SIGHASH, taproot=True)).result
    assert signed.public_key == b"\2" + output
    assert accepted(output, SIGHASH, signed.signature)
    plain = (await vault.sign(key, (2, 3), SIGHASH)).result
    assert plain.public_key == key.public_key
    assert accepted(key.public_key[1:], SIGHASH, plain.signature)
    assert not accepted(output, SIGHASH, plain.signature)
    for made, taproot in ((signed, True), (plain, False)):
        verify_signature(
            "schnorr", "secp256k1", key.public_key, made.signature, message=SIGHASH, taproot=taproot
        )

    (tmp_path / "document.json").write_bytes(document)
    (tmp_path / "rsa.pem").write_bytes(
        recovery_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )

    def tool(code: int, *args: str) -> dict[str, Any]:
        capsys.readouterr()
        assert cli.main([*args, "--json"]) == code
        return dict(json.loads(capsys.readouterr().out))

    expected = f"{key.key_id}=secp256k1:{key.public_key.hex()}"
    back = tool(
        0, str(tmp_path / "document.json"), "--rsa-key", str(tmp_path / "rsa.pem"),
        "--out", str(tmp_path / "out"), "--allow-network", "--public-key", expected,
    )  # fmt: skip
    file = back["recovered"][0]["file"]
    assert json.loads(Path(file).read_text())["scheme"] == "schnorr"
    for flags, x_only in (((), key.public_key[1:]), (("--taproot",), output)):
        for message in (SIGHASH, b"", b"of any length " * 9):
            made = tool(0, "sign", "--key", file, "--message", message.hex(), *flags)
            assert bytes.fromhex(made["public_key"])[1:] == x_only
            assert reference.verify(x_only, message, bytes.fromhex(made["signature"]))
    error = tool(2, "sign", "--key", file, "--digest", SIGHASH.hex())
    assert error["error"]["code"] == Code.MALFORMED.value


@pytest.mark.parametrize("variant", [None, "odd", "BIP340", ""])
async def test_a_schnorr_key_on_secp256k1_must_name_its_variant(
    open_vault: Vault, variant: str | None
) -> None:
    made = await open_vault.create("schnorr", curve="secp256k1", variant=variant)
    assert made.only(Code.MALFORMED)


async def test_no_other_key_has_a_variant_or_a_taproot_address(open_vault: Vault) -> None:
    for scheme in ("ecdsa", "schnorr"):
        assert (await open_vault.create(scheme, variant="bip340")).only(Code.MALFORMED)
        key = await open_vault.key(scheme)
        assert (await open_vault.sign(key, taproot=True)).only(Code.MALFORMED)
    assert not await open_vault.stores[1].spends()


async def test_bip340_keys_sign_messages_not_digests_and_one_request_is_one_tweak(
    open_vault: Vault,
) -> None:
    key = await bip340_key(open_vault, count=3)
    refused = await open_vault.sign(key, digest=SIGHASH, message=None)
    assert refused.only(Code.MALFORMED)
    names = open_vault.names((1, 2))
    first = (await open_vault.sign(key, names=names, payload=SIGHASH, taproot=True)).result
    for _ in range(2):
        again = open_vault.names((1, 2), request=names.request_id)
        repeated = await open_vault.sign(key, names=again, payload=SIGHASH, taproot=True)
        assert repeated.result == first
    other = open_vault.names((1, 2), request=names.request_id)
    assert (await open_vault.sign(key, names=other, payload=SIGHASH)).only(Code.CONFLICT)


async def test_nodes_that_were_asked_for_different_tweaks_sign_nothing(open_vault: Vault) -> None:
    key, names = await bip340_key(open_vault), open_vault.names((1, 2))
    answers = await asyncio.gather(
        *(
            open_vault.services[i].sign(
                APP, Sign(names, key.key_id, (SignItem(message=SIGHASH),), taproot=i == 1)
            )
            for i in (1, 2)
        ),
        return_exceptions=True,
    )
    assert all(isinstance(a, KeycairnError) and a.code is Code.SESSION_MISMATCH for a in answers)
    assert not await open_vault.stores[1].spends()
