"""BIP-340 and BIP-341: the BIPs' vectors, and the tweak against other implementations (T-064)."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from embit import ec

from curves import bip340_reference as reference
from keycairn.client import verify_signature
from keycairn.curves import SECP256K1, bip340
from keycairn.curves.addresses import addresses
from keycairn.errors import Code, KeycairnError


def refused(*args: Any, **options: Any) -> Code:
    with pytest.raises(KeycairnError) as caught:
        verify_signature(*args, **options)
    return caught.value.code


def valid(public_key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        bip340.verify(public_key, message, signature)
    except KeycairnError as error:
        if error.code is not Code.SIG_INVALID:
            raise
        return False
    return True


def test_t064_every_bip_340_vector(vectors: Path) -> None:
    with (vectors / "bip340" / "test-vectors.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) >= 19
    for row in rows:
        key, message, signature = (
            bytes.fromhex(row[n]) for n in ("public key", "message", "signature")
        )
        expected = row["verification result"] == "TRUE"
        assert valid(key, message, signature) is expected, row
        assert reference.verify(key, message, signature) is expected, row
        if expected:
            verify_signature("schnorr", "secp256k1", key, signature, message=message)
        else:
            assert refused("schnorr", "secp256k1", key, signature, message=message) in (
                Code.SIG_INVALID,
                Code.BAD_POINT,
            )


@pytest.fixture
def wallet(vectors: Path) -> dict[str, Any]:
    return dict(json.loads((vectors / "bip341" / "wallet-test-vectors.json").read_text()))


def test_t064_bip_341_output_keys_and_addresses(wallet: dict[str, Any]) -> None:
    cases = wallet["scriptPubKey"]
    assert len(cases) == 7
    for case in cases:
        internal = b"\x02" + bytes.fromhex(case["given"]["internalPubkey"])
        root = bytes.fromhex(case["intermediary"]["merkleRoot"] or "")
        made = bip340.taproot_key(SECP256K1.decode_point(internal), root)
        assert bip340.x_only(made.point).hex() == case["intermediary"]["tweakedPubkey"]
        assert made.point.encode()[0] == 2
        tweak = int(case["intermediary"]["tweak"], 16)
        assert made.offset in (tweak, SECP256K1.q - tweak)
        if not root:
            found = addresses("schnorr", "secp256k1", internal)
            assert found["bitcoin_p2tr"] == case["expected"]["bip350Address"]


def test_t064_bip_341_private_keys_and_witnesses(wallet: dict[str, Any]) -> None:
    (spending,) = wallet["keyPathSpending"]
    cases = spending["inputSpending"]
    assert len(cases) == 7
    for case in cases:
        x = int(case["given"]["internalPrivkey"], 16)
        root = bytes.fromhex(case["given"]["merkleRoot"] or "")
        public = SECP256K1.base_mul(x)
        assert bip340.x_only(public).hex() == case["intermediary"]["internalPubkey"]
        made = bip340.taproot_key(public, root)
        # The BIP's private key may have an odd y; ours is the one that signs.
        theirs = int(case["intermediary"]["tweakedPrivkey"], 16)
        assert made.private(x) in (theirs, SECP256K1.q - theirs)
        assert SECP256K1.base_mul(made.private(x)) == made.point
        signature = bytes.fromhex(case["expected"]["witness"][0])[:64]
        message = bytes.fromhex(case["intermediary"]["sigHash"])
        bip340.verify(made.point.encode(), message, signature)
        if not root:
            verify_signature(
                "schnorr", "secp256k1", public.encode(), signature, message=message, taproot=True
            )
        code = refused("schnorr", "secp256k1", public.encode(), signature, message=message)
        assert code is Code.SIG_INVALID


def scalars(count: int) -> Iterator[int]:
    rnd = random.Random(341)
    return (rnd.randrange(1, SECP256K1.q) for _ in range(count))


def test_all_four_pairs_of_signs_against_two_other_implementations() -> None:
    seen = set()
    for n, x in enumerate(scalars(200)):
        public = SECP256K1.base_mul(x)
        root = b"" if n % 2 else n.to_bytes(32, "big")
        made = bip340.taproot_key(public, root)
        theirs = ec.PublicKey.parse(public.encode()).taproot_tweak(root)
        assert bip340.x_only(made.point) == theirs.xonly()
        if n < 20:
            assert bip340.x_only(made.point) == reference.output_key(bip340.x_only(public), root)
        assert SECP256K1.base_mul(made.private(x)) == made.point
        odd = public.encode()[0] == 3
        seen.add((odd, made.negated))
        even = bip340.even_key(public)
        assert (even.negated, even.offset) == (odd, 0)
        assert SECP256K1.base_mul(even.private(x)) == even.point
    assert len(seen) == 4


@pytest.mark.parametrize("root", [b"\0", bytes(31), bytes(33), bytes(64)])
def test_a_merkle_root_of_another_length_is_refused(root: bytes) -> None:
    with pytest.raises(KeycairnError) as caught:
        bip340.taproot_key(SECP256K1.base_mul(5), root)
    assert caught.value.code is Code.MALFORMED


def test_what_is_no_bip_340_input_is_refused() -> None:
    key = SECP256K1.base_mul(3).encode()
    for public, signature in (
        (key, b""), (key, bytes(63)), (key, bytes(64)), (key, bytes(65)), (key[:31], bytes(64)),
        (b"", bytes(64)), (key + b"\0", bytes(64)), (b"\xff" * 32, bytes(64)),
    ):  # fmt: skip
        assert not valid(public, b"", signature)
    schnorr = ("schnorr", "secp256k1", key, bytes(64))
    assert refused(*schnorr, digest=bytes(32)) is Code.MALFORMED
    assert refused(*schnorr) is Code.MALFORMED
    assert refused("schnorr", "secp256k1", key, bytes(63), message=b"") is Code.MALFORMED
    assert refused("schnorr", "secp256k1", key[:31], bytes(64), message=b"") is Code.BAD_POINT
    for scheme, curve in (("ecdsa", "secp256k1"), ("schnorr", "ed25519")):
        raw = key if curve == "secp256k1" else b"\x58" + b"\x66" * 31
        code = refused(scheme, curve, raw, bytes(64), digest=bytes(32), taproot=True)
        assert code is Code.MALFORMED
