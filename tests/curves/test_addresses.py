"""Addresses and PEM against libraries that share no code with ours."""

import pytest
from bip_utils import P2TRAddrEncoder, P2WPKHAddrEncoder
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from embit import ec, script
from eth_keys.backends import NativeECCBackend
from eth_keys.datatypes import PublicKey
from solders.pubkey import Pubkey

from keycairn.curves import ED25519, P256, SECP256K1
from keycairn.curves.addresses import NAMES, addresses
from keycairn.curves.pem import public_key_pem
from keycairn.errors import Code, KeycairnError

SCALARS = [1, 2, 3, 0xC0FFEE, SECP256K1.q - 1, *(7**n for n in range(60, 80))]


@pytest.mark.parametrize("k", SCALARS)
def test_ecdsa_key_has_ethereum_and_p2wpkh(k: int) -> None:
    raw = SECP256K1.base_mul(k).encode()
    got = addresses("ecdsa", "secp256k1", raw)
    theirs = PublicKey.from_compressed_bytes(raw, backend=NativeECCBackend())
    assert got["ethereum"] == theirs.to_checksum_address()
    assert got["bitcoin_p2wpkh"] == script.p2wpkh(ec.PublicKey.parse(raw)).address()
    assert got["bitcoin_p2wpkh"] == P2WPKHAddrEncoder.EncodeKey(raw, hrp="bc")
    assert got["bitcoin_p2tr"] is None
    assert got["solana"] is None


@pytest.mark.parametrize("k", SCALARS)
def test_ed25519_key_has_solana_only(k: int) -> None:
    raw = ED25519.base_mul(k).encode()
    got = addresses("schnorr", "ed25519", raw)
    assert got["solana"] == str(Pubkey.from_bytes(raw))
    assert [n for n in NAMES if got[n] is not None] == ["solana"]


@pytest.mark.parametrize("k", SCALARS)
def test_bip340_key_has_p2tr_only(k: int) -> None:
    raw = SECP256K1.base_mul(k).encode()
    got = addresses("schnorr", "secp256k1", raw)
    assert got["bitcoin_p2tr"] == script.p2tr(ec.PublicKey.parse(raw)).address()
    assert got["bitcoin_p2tr"] == P2TRAddrEncoder.EncodeKey(raw, hrp="bc")
    assert [n for n in NAMES if got[n] is not None] == ["bitcoin_p2tr"]
    # The sign of y means nothing to BIP-340.
    flipped = bytes([5 - raw[0]]) + raw[1:]
    assert addresses("schnorr", "secp256k1", flipped) == got


def test_no_address_without_a_matching_scheme() -> None:
    raw = P256.base_mul(5).encode()
    assert set(addresses("ecdsa", "p256", raw).values()) == {None}
    raw = ED25519.base_mul(5).encode()
    assert set(addresses("ecdsa", "ed25519", raw).values()) == {None}


@pytest.mark.parametrize(
    ("curve", "raw"),
    [
        ("secp256k1", b"\x02" + b"\xff" * 32),
        ("secp256k1", b"\x04" + bytes(64)),
        ("ed25519", b"\x01" + bytes(31)),
        ("ed25519", bytes(33)),
    ],
)
def test_bad_points_have_no_address(curve: str, raw: bytes) -> None:
    for call in (lambda: addresses("ecdsa", curve, raw), lambda: public_key_pem(curve, raw)):
        with pytest.raises(KeycairnError) as caught:
            call()
        assert caught.value.code is Code.BAD_POINT


def test_pem_is_read_back_by_openssl() -> None:
    ed = ED25519.base_mul(9).encode()
    loaded = load_pem_public_key(public_key_pem("ed25519", ed).encode())
    assert isinstance(loaded, Ed25519PublicKey)
    assert loaded.public_bytes_raw() == ed
    k1 = SECP256K1.base_mul(9).encode()
    key = load_pem_public_key(public_key_pem("secp256k1", k1).encode())
    assert key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint) == k1
