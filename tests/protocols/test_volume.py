"""10,000 signatures of each kind from presignatures, in batches (T-041); a tenth without --full.

Each is verified by libraries that share no code with the product: ECDSA by OpenSSL and
python-ecdsa, Ed25519 by OpenSSL, BIP-340 by embit's libsecp256k1; every hundredth by the textbook
formula over plain integers as well. P-256 has its own count in dkls23/test_p256.py; signatures in
sessions of their own are counted in dkls23/test_signatures.py and test_frost_suites.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import coincurve
import ecdsa
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from embit import ec as embit

from curves import bip340_reference
from curves.oracle import Weierstrass
from keycairn.curves import SECP256K1
from keycairn.ports.seeded import SeededRng
from keycairn.protocols import dkls23, frost
from keycairn.protocols.record import KeyShare
from protocols.lockstep import deal, deal_setups, parties, run

PLAIN = Weierstrass()
PAIRS = list(itertools.combinations((1, 2, 3), 2))
PRESIGN, ITEMS = 200, 100

COUNTS = pytest.mark.parametrize(
    "count", [1000, pytest.param(10_000, marks=pytest.mark.full)], ids=["1000", "10000"]
)


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def results(outcomes: dict[int, Any]) -> dict[int, Any]:
    for i, outcome in outcomes.items():
        assert outcome.error is None, f"player {i}: {outcome.error!r}"
    return {i: o.result for i, o in outcomes.items()}


def used(members: dict[int, Any], claims: dict[int, Any], use: Callable[..., Any]) -> list[Any]:
    """One session from presignatures; what both signers have, which must be equal."""
    nonces = {i: made.opening.nonce for i, made in claims.items()}
    made = results(
        run({i: use(dataclasses.replace(members[i], nonces=nonces), claims[i]) for i in members})
    )
    first, second = made.values()
    assert first == second
    return list(first)


def batches(count: int) -> Iterator[tuple[int, tuple[int, int], Any]]:
    """(number, signers, how many) of presigning sessions, by all pairs in turn."""
    for number in range(0, count, PRESIGN):
        yield number // PRESIGN, PAIRS[number // PRESIGN % 3], min(PRESIGN, count - number)


def child(key: KeyShare, tweak: int) -> bytes:
    public, group = key.record.public_point(), key.record.group
    return (group.add([public, group.base_mul(tweak)]) if tweak else public).encode()


def ecdsa_elsewhere(public: bytes, digest: bytes, one: Any, number: int) -> None:
    assert 0 < one.s <= SECP256K1.q // 2
    assert one.der() == utils.encode_dss_signature(one.r, one.s)
    openssl = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), public)
    openssl.verify(one.der(), digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    second = ecdsa.VerifyingKey.from_string(public, curve=ecdsa.SECP256k1)
    assert second.verify_digest(one.compact(), digest)
    recoverable = one.compact() + bytes([one.recovery_id])
    recovered = coincurve.PublicKey.from_signature_and_message(recoverable, digest, hasher=None)
    assert recovered.format() == public
    if number % 100 == 0:
        w = pow(one.s, -1, PLAIN.q)
        u, v = int.from_bytes(digest, "big") * w % PLAIN.q, one.r * w % PLAIN.q
        point = PLAIN.add(PLAIN.mul(u), PLAIN.mul(v, PLAIN.decode(public)))
        assert point is not None
        assert point[0] % PLAIN.q == one.r


@COUNTS
def test_t041_secp256k1_from_presignatures(count: int) -> None:
    keys, setups = deal(n=3, t=1), deal_setups((1, 2, 3))
    bases: set[bytes] = set()
    done = 0
    for number, signers, size in batches(count):
        members = parties(signers, f"presign/{count}/{number}")
        made = results(
            run({i: dkls23.presign(members[i], keys[i], setups[i], size) for i in signers})
        )
        for start in range(0, size, ITEMS):
            requests = [
                dkls23.Request(sha(f"{done + k}"), int.from_bytes(sha(f"tweak {k}"), "big") % 2**k)
                for k in range(min(ITEMS, size - start))
            ]
            claims = {
                i: dkls23.claim(
                    keys[i], i, signers, setups[i], made[i][start : start + ITEMS], requests
                )
                for i in signers
            }
            signatures = used(parties(signers, f"use/{done}"), claims, dkls23.use)
            for request, one in zip(requests, signatures, strict=True):
                ecdsa_elsewhere(child(keys[1], request.tweak), request.digest, one, done)
                bases.add(one.base_r)
                done += 1
    assert done == len(bases) == count


def ed25519_elsewhere(public: bytes, message: bytes, signature: bytes, _: int) -> None:
    Ed25519PublicKey.from_public_bytes(public).verify(signature, message)


def bip340_elsewhere(public: bytes, message: bytes, signature: bytes, number: int) -> None:
    key = embit.PublicKey.from_xonly(public[1:])
    assert key.schnorr_verify(embit.SchnorrSig(signature), message)
    if number % 100 == 0:
        assert bip340_reference.verify(public[1:], message, signature)


@COUNTS
@pytest.mark.parametrize("curve", ["ed25519", "secp256k1"])
def test_frost_from_stored_nonces(curve: str, count: int) -> None:
    keys = deal(curve, 3, 1, scheme="schnorr")
    elsewhere = ed25519_elsewhere if curve == "ed25519" else bip340_elsewhere
    root = (
        (lambda k: (None, b"", sha(f"root {k}"))[k % 3])
        if curve == "secp256k1"
        else (lambda _: None)
    )
    bases: set[bytes] = set()
    done = 0
    for number, signers, size in batches(count):
        members = parties(signers, f"nonces/{count}/{number}")
        made = results(run({i: frost.presign(members[i], keys[i], size) for i in signers}))
        for start in range(0, size, ITEMS):
            requests = [
                frost.Request(
                    sha(f"m{done + k}")[: k % 33 if curve == "ed25519" else 32],
                    2**k if k % 2 else 0,
                    root(k),
                )
                for k in range(min(ITEMS, size - start))
            ]
            claims = {
                i: frost.claim(
                    keys[i], i, signers, made[i][start : start + ITEMS], requests,
                    SeededRng(f"{i}/{done}").bytes(32),
                )
                for i in signers
            }  # fmt: skip
            for request, one in zip(
                requests, used(parties(signers, f"use/{done}"), claims, frost.use), strict=True
            ):
                if request.merkle_root is None:
                    assert one.public_key == child(keys[1], request.tweak)
                elsewhere(one.public_key, request.message, one.signature, done)
                bases.add(one.base_r)
                done += 1
    assert done == len(bases) == count


@COUNTS
def test_frost_secp256k1_of_the_rfc(count: int) -> None:
    """The suite without a kind of key: RFC 9591's functions, verified by the plain equation."""
    suite = frost.SECP256K1_SHA256
    keys = deal("secp256k1", 3, 1, scheme="schnorr")
    public = keys[1].record.public_point()
    key, raw = frost.SigningKey(suite, public), public.encode()
    seen = set()
    for number in range(count):
        signers, message = PAIRS[number % 3], sha(f"rfc {number}")[: number % 33]
        pairs = {
            i: frost.commit(i, keys[i].share, SeededRng(f"rfc/{number}/{i}"), suite)
            for i in signers
        }
        package = frost.SigningPackage.build([pairs[i].commitment for i in signers], message, key)
        signature = frost.aggregate(
            package, {i: frost.sign_share(package, pairs[i], keys[i].share, i) for i in signers}
        )
        suite.verify(raw, message, signature)
        if number % 10 == 0:  # z·G - c·X = R over plain integers; the challenge by the suite
            c = suite.challenge(SECP256K1.decode_point(signature[:33]), public, message)
            z = int.from_bytes(signature[33:], "big")
            total = PLAIN.add(PLAIN.mul(z), PLAIN.mul(PLAIN.q - c, PLAIN.decode(raw)))
            assert total is not None
            assert PLAIN.encode(total) == signature[:33]
        seen.add(signature[:33])
    assert len(seen) == count
