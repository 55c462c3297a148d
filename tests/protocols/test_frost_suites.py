"""What holds for every FROST suite: vectors with every intermediate value, and volume (T-057)."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from embit import ec

from curves import bip340_reference as reference
from keycairn.curves import ED25519, SECP256K1
from keycairn.encoding import SecretScalar
from keycairn.errors import Code, KeycairnError
from keycairn.ports.seeded import SeededRng
from keycairn.protocols import frost
from protocols.lockstep import deal, frost_sign, parties, run

HERE = Path(__file__).parent


class Bytes:
    """An Rng that gives what the vector says."""

    def __init__(self, *chunks: str) -> None:
        self._chunks = [bytes.fromhex(c) for c in chunks]

    def bytes(self, n: int) -> bytes:
        out = self._chunks.pop(0)
        assert len(out) == n
        return out


def check_vector(vector: dict[str, Any], suite: frost.Suite) -> None:
    """Every value of an RFC 9591 vector file, with and without the short cut for one's own R."""
    g, inputs = suite.group, vector["inputs"]
    number = lambda text: g.decode_scalar(bytes.fromhex(text))  # noqa: E731
    message = bytes.fromhex(inputs["message"])
    raw = inputs.get("group_public_key") or inputs["verifying_key_key"]
    public = g.decode_point(bytes.fromhex(raw))
    assert g.base_mul(number(inputs["group_secret_key"])) == public
    shares = {
        s["identifier"]: SecretScalar(number(s["participant_share"]))
        for s in inputs["participant_shares"]
    }
    outputs = {o["identifier"]: o for o in vector["round_one_outputs"]["outputs"]}
    pairs = {}
    for i, o in outputs.items():
        drawn = o["hiding_nonce_randomness"], o["binding_nonce_randomness"]
        for random_bytes, nonce in zip(drawn, (o["hiding_nonce"], o["binding_nonce"]), strict=True):
            made = frost.nonce_generate(shares[i], bytes.fromhex(random_bytes), suite)
            assert made == number(nonce)
        pairs[i] = frost.commit(i, shares[i], Bytes(*drawn), suite)
        assert pairs[i].commitment.hiding.encode().hex() == o["hiding_nonce_commitment"]
        assert pairs[i].commitment.binding.encode().hex() == o["binding_nonce_commitment"]
    listed = [pairs[i].commitment for i in inputs["participant_list"]]
    prefix = public.encode() + suite.h4(message) + suite.h5(frost.encode_commitment_list(listed))
    factors = frost.compute_binding_factors(public, listed, message, suite)
    for i, o in outputs.items():
        assert (prefix + suite.encode_index(i)).hex() == o["binding_factor_input"]
        assert factors[i] == number(o["binding_factor"])
    key = frost.SigningKey(suite, public)
    package = frost.SigningPackage.build(listed, message, key)
    assert all(
        frost.SigningPackage.build(listed, message, key, p) == package for p in pairs.values()
    )
    responses = {}
    for o in vector["round_two_outputs"]["outputs"]:
        i = o["identifier"]
        responses[i] = frost.sign_share(package, pairs[i], shares[i], i)
        assert responses[i] == number(o["sig_share"])
        assert frost.verify_signature_share(
            package, i, responses[i], g.base_mul(shares[i].reveal())
        )
    signature = frost.aggregate(package, responses)
    assert signature.hex() == vector["final_output"]["sig"]
    suite.verify(public.encode(), message, signature)


@pytest.mark.parametrize(
    ("name", "suite"),
    [
        ("frost-ed25519-sha512", frost.ED25519_SHA512),
        ("frost-secp256k1-sha256", frost.SECP256K1_SHA256),
    ],
    ids=str,
)
def test_t057_rfc_9591_every_value(vectors: Path, name: str, suite: frost.Suite) -> None:
    check_vector(json.loads((vectors / "rfc9591" / f"{name}.json").read_text()), suite)


def test_t057_zf_frosts_vector_for_bip_340() -> None:
    check_vector(json.loads((HERE / "frost-secp256k1-tr.json").read_text()), frost.BIP340)


def test_no_hash_of_one_suite_is_a_hash_of_another() -> None:
    suites = (frost.ED25519_SHA512, frost.SECP256K1_SHA256, frost.BIP340)
    hashes = [str(h(b"data")) for s in suites for h in (s.h1, s.h2, s.h3, s.h4, s.h5)]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("one", [frost.ED25519_SHA512, frost.BIP340], ids=str)
def test_suites_do_not_mix(one: frost.Suite) -> None:
    other = frost.BIP340 if one is frost.ED25519_SHA512 else frost.ED25519_SHA512
    share = SecretScalar(5)
    pairs = [frost.commit(i, share, SeededRng(i), one) for i in (1, 2)]
    key = frost.SigningKey(other, other.group.base_mul(7))
    with pytest.raises(KeycairnError) as caught:
        frost.SigningPackage.build([p.commitment for p in pairs], b"m", key)
    assert caught.value.code is Code.MALFORMED


def test_rfc_9591_secp256k1_verification_refuses() -> None:
    suite, g = frost.SECP256K1_SHA256, SECP256K1
    share = SecretScalar(11)
    pair = frost.commit(1, share, SeededRng(1), suite)
    key = frost.SigningKey(suite, g.base_mul(11))
    package = frost.SigningPackage.build([pair.commitment], b"m", key)
    signature = frost.aggregate(package, {1: frost.sign_share(package, pair, share, 1)})
    public = key.public_key.encode()
    suite.verify(public, b"m", signature)
    for bad in (
        (public, b"n", signature), (public, b"m", signature[:-1]), (public, b"m", b""),
        (g.base_mul(12).encode(), b"m", signature), (public[:32], b"m", signature),
        (public, b"m", signature[:33] + bytes(32)),
    ):  # fmt: skip
        with pytest.raises(KeycairnError) as caught:
            suite.verify(*bad)
        assert caught.value.code is Code.SIG_INVALID


# -- volume ---


def ed25519_elsewhere(key: bytes, message: bytes, signature: bytes, _number: int) -> None:
    Ed25519PublicKey.from_public_bytes(key).verify(signature, message)


def bip340_elsewhere(key: bytes, message: bytes, signature: bytes, number: int) -> None:
    assert ec.PublicKey.from_xonly(key[1:]).schnorr_verify(ec.SchnorrSig(signature), message)
    if number % 100 == 0:
        assert reference.verify(key[1:], message, signature)


Elsewhere = Callable[[bytes, bytes, bytes, int], None]


def sign_many(curve: str, count: int, elsewhere: Elsewhere) -> set[tuple[bool, ...]]:
    """``count`` signatures by 2 of 3, each of another key; the combinations of signs."""
    rnd = random.Random(count)
    signs, nonces = set(), set()
    for n in range(count):
        keys = deal(curve, 3, 1, scheme="schnorr", key_id=f"{count}/{n}")
        root = rnd.choice((None, b"", rnd.randbytes(32))) if curve == "secp256k1" else None
        message, players = rnd.randbytes(32), sorted(rnd.sample((1, 2, 3), 2))
        members = parties(players, f"volume/{n}", count)
        outcomes = run(
            {i: frost_sign(members[i], keys[i], message, merkle_root=root) for i in players}
        )
        made = {o.result for o in outcomes.values()}
        (one,) = made
        elsewhere(one.public_key, message, one.signature, n)
        nonces.add(one.base_r)
        target = frost.signing_key(keys[1].record, merkle_root=root)
        signs.add((keys[1].record.public_key[0] == 3, target.negated, root is None))
    assert len(nonces) == count
    return signs


@pytest.mark.parametrize(
    "count", [1000, pytest.param(10_000, marks=pytest.mark.full)], ids=["1000", "10000"]
)
@pytest.mark.parametrize("curve", ["ed25519", "secp256k1"])
def test_signatures_by_the_thousand_verify_elsewhere(curve: str, count: int) -> None:
    elsewhere = ed25519_elsewhere if curve == "ed25519" else bip340_elsewhere
    signs = sign_many(curve, count, elsewhere)
    if curve == "secp256k1":
        # Odd or even key, negated or not, with a tweak; and without (where one implies the other).
        assert len({s[:2] for s in signs if not s[2]}) == 4
        assert {s[:2] for s in signs if s[2]} == {(True, True), (False, False)}


def test_ed25519_is_the_suite_of_functions_that_are_told_none() -> None:
    rng, share = SeededRng(0), SecretScalar(9)
    assert frost.commit(1, share, rng).commitment.hiding.group is ED25519
    assert frost.verify == frost.ED25519_SHA512.verify
    assert frost.ED25519_SHA512.context == frost.CONTEXT
