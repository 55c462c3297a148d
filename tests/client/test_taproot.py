"""The client and the taproot option: it asks for it, and checks that it got it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from coincurve import PrivateKey

from client.test_vault import Node, key
from keycairn.client import NodeProfile, Vault, VaultProfile, verify_signature
from keycairn.curves import SECP256K1, bip340
from keycairn.encoding import SecretScalar
from keycairn.errors import Code, KeycairnError
from keycairn.ers.sign import sign_bip340
from keycairn.node.models import CreateKeysBody, SignBody, parse
from keycairn.ports.seeded import SeededRng

X = 0xC0FFEE
PUBLIC = SECP256K1.base_mul(X).encode()
OUTPUT = bip340.taproot_key(SECP256K1.base_mul(X)).point.encode()
MESSAGE = bytes(range(32))


def answer(signed_taproot: bool, shown: bytes) -> Any:
    def sign(body: dict[str, Any]) -> dict[str, Any]:
        message = bytes.fromhex(body["message"])
        signature, _ = sign_bip340(SecretScalar(X), message, SeededRng(1), taproot=signed_taproot)
        return {"signature": signature.hex(), "public_key": shown.hex(), "recovery_id": None}

    return sign


def vault_of(sign: Any) -> tuple[Vault, dict[int, Node]]:
    nodes = {i: Node() for i in (1, 2, 3)}
    for node in nodes.values():
        node.view, node.sign = key(curve="secp256k1", public_key=PUBLIC.hex()), sign
    profile = VaultProfile(
        Path("vault.toml"),
        "v1",
        1,
        tuple(NodeProfile(i, f"http://n{i}", "k" * 32, bytes(32)) for i in nodes),
    )
    transports = {i: httpx.MockTransport(n.answer) for i, n in nodes.items()}
    return Vault(profile, transports=transports), nodes


async def test_the_option_goes_to_the_nodes_only_if_it_is_set() -> None:
    vault, nodes = vault_of(answer(True, OUTPUT))
    result = await vault.sign("K1", message=MESSAGE, taproot=True)
    assert result["public_key"] == OUTPUT.hex()
    assert nodes[1].bodies[0]["taproot"] is True
    vault, nodes = vault_of(answer(False, PUBLIC))
    assert (await vault.sign("K1", message=MESSAGE))["public_key"] == PUBLIC.hex()
    assert "taproot" not in nodes[1].bodies[0]


@pytest.mark.parametrize(
    ("asked", "signed", "shown"),
    [
        (True, False, PUBLIC), (True, False, OUTPUT), (True, True, PUBLIC),
        (False, True, OUTPUT), (False, True, PUBLIC), (False, False, OUTPUT),
    ],
)  # fmt: skip
async def test_a_signature_for_the_other_key_is_not_given_out(
    asked: bool, signed: bool, shown: bytes
) -> None:
    vault, _ = vault_of(answer(signed, shown))
    with pytest.raises(KeycairnError) as caught:
        await vault.sign("K1", message=MESSAGE, taproot=asked)
    assert caught.value.code is Code.SIG_INVALID


def test_T081_the_output_key_in_the_own_keys_place_is_told_apart() -> None:
    made = answer(True, OUTPUT)({"message": MESSAGE.hex()})
    signature = bytes.fromhex(made["signature"])
    verify_signature("schnorr", "secp256k1", PUBLIC, signature, message=MESSAGE, taproot=True)
    verify_signature("schnorr", "secp256k1", OUTPUT, signature, message=MESSAGE)
    with pytest.raises(KeycairnError) as caught:
        verify_signature("schnorr", "secp256k1", OUTPUT, signature, message=MESSAGE, taproot=True)
    assert caught.value.code is Code.SIG_INVALID
    assert "without --taproot" in caught.value.next


@pytest.mark.parametrize("value", ["true", 1, 0, None, "bip86", []])
def test_the_body_takes_a_boolean_and_nothing_else(value: object) -> None:
    body = {"session_id": "s", "request_id": "r", "players": [1, 2], "message": "00"}
    assert parse(SignBody, body).request("K").taproot is False
    assert parse(SignBody, body | {"taproot": True}).request("K").taproot is True
    with pytest.raises(KeycairnError) as caught:
        parse(SignBody, body | {"taproot": value})
    assert caught.value.code is Code.MALFORMED


def test_the_body_of_a_creation_takes_the_variant() -> None:
    body = {
        "session_id": "s", "request_id": "r", "players": [1, 2], "threshold": 1,
        "scheme": "schnorr", "curve": "secp256k1", "variant": "bip340",
    }  # fmt: skip
    assert parse(CreateKeysBody, body).request().variant == "bip340"


def test_coincurve_agrees_on_the_tweaked_key() -> None:
    mine = bip340.taproot_key(SECP256K1.base_mul(X)).private(X)
    assert PrivateKey.from_int(mine).public_key_xonly.format() == OUTPUT[1:]
