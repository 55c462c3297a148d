"""P-256 keys at whole nodes: made, shown and signed with, beside secp256k1 keys."""

from __future__ import annotations

import itertools

import pytest
from bip_utils import Bip32ChainCode, Bip32KeyData, Bip32Slip10Nist256p1
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256

from keycairn.client import verify_signature
from keycairn.curves.addresses import NAMES
from keycairn.errors import Code
from keycairn.ers.decrypt import SoftwareKey
from keycairn.ers.document import Document
from keycairn.ers.recover import recover
from keycairn.vault.api import KeyView, Signature
from vault.nodes import APP, Vault

OPENSSL = {"p256": ec.SECP256R1(), "secp256k1": ec.SECP256K1()}


def check(key: KeyView, made: Signature, digest: bytes) -> None:
    public = ec.EllipticCurvePublicKey.from_encoded_point(OPENSSL[key.curve], key.public_key)
    assert made.der is not None
    public.verify(made.der, digest, ec.ECDSA(utils.Prehashed(SHA256())))
    r, s = utils.decode_dss_signature(made.der)
    assert made.signature == r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert made.recovery_id in range(4)
    verify_signature("ecdsa", key.curve, key.public_key, made.signature, digest=digest)


@pytest.mark.parametrize(("n", "threshold"), [(2, 1), (3, 1), (5, 2)])
async def test_p256_keys_are_made_and_every_set_of_signers_signs(
    n: int, threshold: int, tmp_path
) -> None:
    async with Vault.of(tmp_path, n, policy="none") as vault:
        made = await vault.create("ecdsa", curve="p256", threshold=threshold)
        key: KeyView = made.result[0]
        assert len({v[0].record_hash for v in made.by_node.values()}) == 1
        assert (key.scheme, key.curve, key.state) == ("ecdsa", "p256", "active")
        assert set(key.addresses) == set(NAMES)
        shown = await vault.services[1].show_key(APP, key.key_id, None)
        assert set(shown.addresses.values()) == {None}, "no chain that we know takes this curve"
        sets = list(itertools.combinations(vault.players, threshold + 1))
        for number, who in enumerate(sets[:4]):
            digest = bytes([number]) * 32
            signed = await vault.sign(key, who, digest)
            assert len({s.signature for s in signed.by_node.values()}) == 1
            check(key, signed.result, digest)


async def test_t096_a_document_of_every_curve_brings_keys_and_paths_back(
    vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    """The whole story: gate, document, signature; then no node is needed any more."""
    keys = [
        await vault.key("ecdsa", curve="p256"),
        await vault.key("ecdsa"),
        await vault.key("schnorr"),
    ]
    assert (await vault.sign(keys[0], (1, 2))).only(Code.KEY_NOT_BACKED_UP)
    await vault.stores[1].note_paths(keys[0].key_id, ["m/0/10", "m/0/2"], 1)
    await vault.stores[3].note_paths(keys[0].key_id, ["m/0/2", "m/7"], 1)
    await vault.stores[2].note_paths(keys[2].key_id, ["m"], 1)
    await vault.allow(recovery_key)
    made = (await vault.document(keys, recovery_key)).result
    document = Document.load(made.document)
    assert document.context.version == 2
    check(keys[0], (await vault.sign(keys[0], (1, 2), b"\1" * 32)).result, b"\1" * 32)
    assert [part.node for part in document.parts] == [1, 2, 3]
    two = Document(document.parts[:2])
    for parts, expected in ((document, ("m/0/2", "m/0/10", "m/7")), (two, ("m/0/2", "m/0/10"))):
        found = {k.key_id: k for k in recover(parts, SoftwareKey(recovery_key))}
        for key in keys:
            back = found[key.key_id]
            group = back.statement.group
            assert group.base_mul(back.private_key.reveal()).encode() == key.public_key
        assert found[keys[0].key_id].paths == expected
        assert found[keys[1].key_id].paths == ()
        assert found[keys[2].key_id].paths == ("m",)


async def test_keys_of_both_curves_live_side_by_side(open_vault: Vault) -> None:
    digest = b"\7" * 32
    keys = {}
    for curve in OPENSSL:
        keys[curve] = (await open_vault.create("ecdsa", curve=curve, count=3)).result
    for curve, batch in keys.items():
        assert {k.curve for k in batch} == {curve}
        for key in batch:
            check(key, (await open_vault.sign(key, (1, 3), digest)).result, digest)
    listed = await open_vault.services[2].list_keys(APP, "", 100)
    assert sorted(k.curve for k in listed) == ["p256"] * 3 + ["secp256k1"] * 3


async def test_t042_a_derived_p256_key_signs_and_its_path_comes_back_from_recovery(
    open_vault: Vault, recovery_key: RSAPrivateKey
) -> None:
    key = await open_vault.key("ecdsa", curve="p256")
    digest = b"\5" * 32
    signed = (await open_vault.sign(key, (1, 2), digest, path="m/3/1")).result
    assert signed.public_key != key.public_key
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), signed.public_key)
    public.verify(signed.der, digest, ec.ECDSA(utils.Prehashed(SHA256())))
    await open_vault.allow(recovery_key)
    made = (await open_vault.document([key], recovery_key)).result
    (back,) = recover(Document.load(made.document), SoftwareKey(recovery_key))
    assert back.paths == ("m/3/1",)
    assert back.chain_code is not None
    # The wallet's side: an independent SLIP-10 from what recovery gave, and nothing else.
    root = Bip32Slip10Nist256p1.FromPublicKey(
        back.public_key, Bip32KeyData(chain_code=Bip32ChainCode(back.chain_code.reveal()))
    )
    child = root.ChildKey(3).ChildKey(1)
    assert child.PublicKey().RawCompressed().ToBytes() == signed.public_key


async def test_a_p256_key_signs_digests_and_is_no_taproot_key(open_vault: Vault) -> None:
    key = await open_vault.key("ecdsa", curve="p256")
    for item in ({"message": b"m", "digest": None}, {"digest": b"\1" * 31}):
        assert (await open_vault.sign(key, (1, 2), **item)).only(Code.MALFORMED)
    assert (await open_vault.sign(key, (1, 2), b"\1" * 32, taproot=True)).only(Code.MALFORMED)
    check(key, (await open_vault.sign(key, (1, 2), b"\1" * 32)).result, b"\1" * 32)


@pytest.mark.parametrize(
    ("scheme", "more"),
    [("schnorr", {"curve": "p256"}), ("ecdsa", {"curve": "p256", "variant": "bip340"})],
)
async def test_other_kinds_of_keys_on_p256_are_refused(
    open_vault: Vault, scheme: str, more: dict[str, str]
) -> None:
    assert (await open_vault.create(scheme, **more)).only(Code.MALFORMED)
