"""Derived keys of whole nodes: addresses and signatures by path, the ledger of paths (T-042)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from embit import bip32 as embit_bip32
from embit import ec as embit_ec
from embit import script as embit_script

from keycairn.curves import bip340
from keycairn.curves.secp256k1 import SECP256K1
from keycairn.errors import Code
from keycairn.vault.api import KeyView, Sign, SignItem
from vault.nodes import APP, Vault
from vault.test_service_pools import PAYLOAD, filled, item, sign_many

KINDS: dict[str, dict[str, Any]] = {
    "secp256k1": {"scheme": "ecdsa"},
    "p256": {"scheme": "ecdsa", "curve": "p256"},
    "ed25519": {"scheme": "schnorr"},
    "bip340": {"scheme": "schnorr", "curve": "secp256k1", "variant": "bip340"},
}
PATHS = [None, "m", "m/0", "m/0/5", "m/2147483647", "m/1/2/3/4/5/6/7/8"]


async def shown(vault: Vault, key: KeyView, path: str | None, node: int = 1) -> KeyView:
    return await vault.services[node].show_key(APP, key.key_id, path)


def accepts(key: KeyView, child: bytes, made: Any, payload: bytes, taproot: bool = False) -> None:
    """A library that is not ours accepts the signature for the child."""
    if key.scheme == "ecdsa":
        curve: Any = ec.SECP256R1() if key.curve == "p256" else ec.SECP256K1()
        public = ec.EllipticCurvePublicKey.from_encoded_point(curve, child)
        public.verify(made.der, payload, ec.ECDSA(utils.Prehashed(SHA256())))
    elif key.curve == "ed25519":
        Ed25519PublicKey.from_public_bytes(child).verify(made.signature, payload)
    else:
        point = SECP256K1.decode_point(child)
        if taproot:
            point = bip340.taproot_key(point).point
        public = embit_ec.PublicKey.from_xonly(point.encode()[1:])
        signature = embit_ec.SchnorrSig(made.signature)
        assert public.schnorr_verify(signature, payload)


@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_children_sign_from_pools_and_in_full_sessions(tmp_path: Path, kind: str) -> None:
    async with Vault.of(tmp_path, policy="none", presignature_target=8) as vault:
        key = await vault.key(**KINDS[kind])
        children = [(await shown(vault, key, path)).public_key for path in PATHS]
        assert children[0] == children[1] == key.public_key
        assert len(set(children)) == 5
        for how in ("full", "pool"):
            if how == "pool":
                await filled(vault, key=key.key_id)
            before = vault.services[1].statistics()["signatures"][how]
            made = await sign_many(vault, key, [item(key, PAYLOAD, p) for p in PATHS])
            assert made[1] == made[2]
            for child, signature in zip(children, made.result, strict=True):
                assert signature.public_key == child
                accepts(key, child, signature, PAYLOAD)
            assert vault.services[1].statistics()["signatures"][how] == before + 6
        if kind == "bip340":
            tweaked = await sign_many(
                vault, key, [item(key, PAYLOAD, p) for p in PATHS[2:4]], taproot=True
            )
            for child, signature in zip(children[2:4], tweaked.result, strict=True):
                accepts(key, child, signature, PAYLOAD, taproot=True)
        assert sorted(await vault.stores[2].paths(key.key_id)) == sorted(
            p for p in PATHS if p not in (None, "m")
        )


@pytest.mark.parametrize("kind", ["secp256k1", "bip340"])
async def test_addresses_of_children_are_those_of_a_wallet(tmp_path: Path, kind: str) -> None:
    """From public key and chain code alone, embit derives the same addresses."""
    async with Vault.of(tmp_path, policy="none") as vault:
        key = await vault.key(**KINDS[kind])
        share = await vault.stores[1].key_share(key.key_id)
        assert share.chain_code is not None
        root = embit_bip32.HDKey(
            embit_ec.PublicKey.parse(key.public_key), share.chain_code.reveal()
        )
        for path in ("m/0", "m/44/0/7"):
            mine = await shown(vault, key, path, node=3)
            assert mine.path == path
            child = root.derive(path).key
            if kind == "bip340":
                expected = embit_script.p2tr(child).address()
                assert mine.addresses["bitcoin_p2tr"] == expected
            else:
                expected = embit_script.p2wpkh(child).address()
                assert mine.addresses["bitcoin_p2wpkh"] == expected
        assert await vault.stores[3].paths(key.key_id) == ["m/0", "m/44/0/7"]
        assert await vault.stores[1].paths(key.key_id) == []


async def test_a_path_is_noted_when_an_address_is_shown_and_gated_like_the_root_s(
    vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    key = await vault.key("ecdsa")
    hidden = await shown(vault, key, "m/3")
    assert hidden.public_key != key.public_key
    assert set(hidden.addresses.values()) == {None}
    assert await vault.stores[1].paths(key.key_id) == []
    refused = await sign_many(vault, key, [item(key, PAYLOAD, "m/3")])
    assert refused.only(Code.KEY_NOT_BACKED_UP)
    await vault.allow(recovery_key)
    await vault.document([key], recovery_key)
    open_now = await shown(vault, key, "m/3")
    assert open_now.addresses["ethereum"]
    assert open_now.public_key == hidden.public_key
    assert await vault.stores[1].paths(key.key_id) == ["m/3"]


@pytest.mark.parametrize(
    "path",
    ["m/0'", "m/0h", "m/2147483648", "m//0", "m/", "0/1", "M/0", "m/01", "m/-1", "m/٣", "", "m"
     + "/1" * 9, "m" + "/0" * 255],
)  # fmt: skip
async def test_t042_bad_paths_are_refused_before_anything_is_spent(
    module_vault: Vault, path: str
) -> None:
    keys = {k.scheme: k for k in await module_vault.services[1].list_keys(APP, "", 10)}
    key = keys.get("ecdsa") or await module_vault.key("ecdsa")
    good = item(key)
    answers = await sign_many(module_vault, key, [good, item(key, PAYLOAD, path)])
    assert answers.only(Code.MALFORMED)
    got = await module_vault.ask(lambda s: s.show_key(APP, key.key_id, path))
    assert got.only(Code.MALFORMED)
    assert not await module_vault.stores[1].spends()
    assert await module_vault.stores[1].paths(key.key_id) == []


async def test_t020_signers_who_were_asked_for_different_paths_sign_nothing(
    tmp_path: Path,
) -> None:
    async with Vault.of(tmp_path, policy="none", presignature_target=4) as vault:
        key = await vault.key("ecdsa")
        for stage in ("full", "pool"):
            if stage == "pool":
                await filled(vault, count=4)
            names = vault.names((1, 2))

            async def one(node: int, names: Any = names) -> Any:
                asked = SignItem(digest=PAYLOAD, path=f"m/{node}")
                return await vault.services[node].sign(APP, Sign(names, key.key_id, (asked,)))

            got = await asyncio.gather(one(1), one(2), return_exceptions=True)
            assert {getattr(e, "code", None) for e in got} == {Code.SESSION_MISMATCH}
            assert not [p for p in await vault.services[1].peers() if p["banned"]]
        # From the pool the presignature is gone at both; the full session had none yet.
        assert [len(await vault.stores[i].spends()) for i in (1, 2)] == [1, 1]
