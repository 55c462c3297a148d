"""Threshold ECDSA on P-256: lockstep runs, by four verifiers that share no code with ours.

OpenSSL, python-ecdsa and pycryptodome are libraries; the fourth is the textbook formula over the
plain integers of the curve tests.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from typing import Any

import ecdsa
import pytest
from Crypto.PublicKey import ECC
from Crypto.Signature import DSS
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from curves.oracle import P256 as PLAIN
from keycairn.client import verify_signature
from keycairn.curves import P256, SECP256K1
from keycairn.curves.ecdsa import recovery_id
from keycairn.curves.p256 import use_accelerator
from keycairn.encoding import to_scalar
from keycairn.encoding.transcript import registered_tags
from keycairn.errors import Code, KeycairnError
from keycairn.protocols.dkls23 import EcdsaSignature, verify_ecdsa
from keycairn.protocols.dkls23 import gadget as gadgets
from keycairn.protocols.dkls23.ecdsa import finish
from protocols.dkls23.vault import Vault, sha, signature_of

Q = P256.q


class Hashed:
    """A digest in the shape of pycryptodome's hash objects."""

    oid = "2.16.840.1.101.3.4.2.1"
    digest_size = 32

    def __init__(self, digest: bytes) -> None:
        self._digest = digest

    def digest(self) -> bytes:
        return self._digest


def by_openssl(public: bytes, digest: bytes, der: bytes) -> bool:
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public)
    try:
        key.verify(der, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    except InvalidSignature:
        return False
    return True


def by_ecdsa(public: bytes, digest: bytes, compact: bytes) -> bool:
    key = ecdsa.VerifyingKey.from_string(public, curve=ecdsa.NIST256p)
    try:
        return bool(key.verify_digest(compact, digest))
    except ecdsa.BadSignatureError:
        return False


def by_pycryptodome(public: bytes, digest: bytes, compact: bytes) -> bool:
    key = ECC.import_key(public, curve_name="P-256")
    verifier: Any = DSS.new(key, "fips-186-3")
    try:
        verifier.verify(Hashed(digest), compact)
    except ValueError:
        return False
    return True


def by_formula(public: bytes, digest: bytes, compact: bytes) -> bool:
    """SEC 1, 4.1.4, over plain integers."""
    r, s = int.from_bytes(compact[:32], "big"), int.from_bytes(compact[32:], "big")
    if not (0 < r < PLAIN.q and 0 < s < PLAIN.q):
        return False
    w = pow(s, -1, PLAIN.q)
    u, v = int.from_bytes(digest, "big") * w % PLAIN.q, r * w % PLAIN.q
    point = PLAIN.add(PLAIN.mul(u), PLAIN.mul(v, PLAIN.decode(public)))
    return point is not None and point[0] % PLAIN.q == r


def verdicts(public: bytes, digest: bytes, signature: EcdsaSignature) -> list[bool]:
    compact = signature.compact()
    return [
        by_openssl(public, digest, signature.der()),
        by_ecdsa(public, digest, compact),
        by_pycryptodome(public, digest, compact),
        by_formula(public, digest, compact),
    ]


def recovered(digest: bytes, signature: EcdsaSignature) -> bytes:
    """The public key that the recovery id names, over plain integers (SEC 1, 4.1.6)."""
    x = signature.r + (signature.recovery_id >> 1) * PLAIN.q
    point = PLAIN.decode(bytes([2 + (signature.recovery_id & 1)]) + x.to_bytes(32, "big"))
    inverse = pow(signature.r, -1, PLAIN.q)
    left = PLAIN.mul(signature.s * inverse % PLAIN.q, point)
    right = PLAIN.mul(-int.from_bytes(digest, "big") * inverse % PLAIN.q)
    total = PLAIN.add(left, right)
    assert total is not None
    return PLAIN.encode(total)


def check(signature: EcdsaSignature, public: bytes, digest: bytes) -> None:
    assert 0 < signature.r < Q
    assert 0 < signature.s <= Q // 2
    assert signature.der() == utils.encode_dss_signature(signature.r, signature.s)
    assert verdicts(public, digest, signature) == [True] * 4
    assert recovered(digest, signature) == public
    assert recovery_id(P256, public, digest, signature.r, signature.s) == signature.recovery_id
    verify_signature("ecdsa", "p256", public, signature.compact(), digest=digest)


def many(n: int, t: int, signers: tuple[int, ...], count: int) -> None:
    vault = Vault(n, t, signers, curve="p256")
    batch = vault.presignatures(count)
    used: set[bytes] = set()
    for s in range(count):
        digest, tweak = sha(f"{signers}{s}"), 0 if s % 2 else int.from_bytes(sha(s)) % Q
        mine = {i: batch[i][s] for i in signers}
        signature = signature_of(vault.sign(mine, digest, tweak))
        check(signature, vault.public_key(tweak), digest)
        assert signature.base_r == mine[signers[0]].base_r
        used.add(signature.base_r)
    assert len(used) == count


def test_t041_p256_two_of_two() -> None:
    many(2, 1, (1, 2), 40)


@pytest.mark.parametrize("signers", list(itertools.combinations((1, 2, 3), 2)))
def test_t041_p256_two_of_three(signers: tuple[int, int]) -> None:
    many(3, 1, signers, 17)


@pytest.mark.parametrize("signers", [(1, 2, 3), (1, 3, 4), (2, 4, 5)])
def test_t041_p256_three_of_five(signers: tuple[int, ...]) -> None:
    many(5, 2, signers, 5)


@pytest.mark.full
@pytest.mark.parametrize("part", range(20))
@pytest.mark.timeout(900)
def test_t041_p256_10000_signatures(part: int) -> None:
    """By OpenSSL and the low s; every hundredth by all four verifiers."""
    vault = Vault(3, 1, (1, 3), seed=part, curve="p256")
    for block in range(2):
        batch = vault.presignatures(250)
        for s in range(250):
            digest = sha(f"{part}/{block}/{s}")
            signature = signature_of(vault.sign({i: batch[i][s] for i in (1, 3)}, digest))
            assert 0 < signature.s <= Q // 2
            assert by_openssl(vault.public_key(), digest, signature.der())
            if s % 100 == 0:
                check(signature, vault.public_key(), digest)


@pytest.mark.parametrize("libcrypto", [False, True])
def test_p256_presign_and_sign_in_one_session(
    libcrypto: bool, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(lambda: use_accelerator(True))
    if use_accelerator(libcrypto) is not libcrypto:
        pytest.skip("no libcrypto on this machine passes the self-test")
    vault = Vault(3, 1, (1, 3), curve="p256")
    for tweak in (0, 1, Q - 1, 12345):
        digest = sha(tweak)
        check(signature_of(vault.sign_full(digest, tweak)), vault.public_key(tweak), digest)


@pytest.mark.parametrize("digest", [bytes(32), b"\xff" * 32, Q.to_bytes(32, "big")])
def test_p256_digests_at_the_edges(digest: bytes) -> None:
    vault = Vault(2, 1, (1, 2), curve="p256")
    signature = signature_of(vault.sign_full(digest))
    assert by_openssl(vault.public_key(), digest, signature.der())
    assert by_formula(vault.public_key(), digest, signature.compact())
    verify_ecdsa(P256, vault.public_key(), digest, signature.r, signature.s)


def test_the_verifiers_can_say_no() -> None:
    vault = Vault(2, 1, (1, 2), curve="p256")
    digest, public = sha("no"), vault.public_key()
    good = signature_of(vault.sign_full(digest))
    assert verdicts(public, digest, good) == [True] * 4
    for r, s in ((good.r, good.s + 1), (good.r + 1, good.s), (good.s, good.r)):
        bad = dataclasses.replace(good, r=r, s=s)
        assert verdicts(public, digest, bad) == [False] * 4
        for call in (
            lambda r=r, s=s: verify_ecdsa(P256, public, digest, r, s),
            lambda r=r, s=s: recovery_id(P256, public, digest, r, s),
            lambda b=bad: verify_signature("ecdsa", "p256", public, b.compact(), digest=digest),
        ):
            with pytest.raises(KeycairnError) as caught:
                call()
            assert caught.value.code is Code.SIG_INVALID
    assert verdicts(public, sha("other"), good) == [False] * 4
    # Both forms of s are valid ECDSA; the client takes the low one only.
    high = dataclasses.replace(good, s=Q - good.s)
    assert verdicts(public, digest, high) == [True] * 4
    verify_ecdsa(P256, public, digest, high.r, high.s)
    with pytest.raises(KeycairnError) as caught:
        verify_signature("ecdsa", "p256", public, high.compact(), digest=digest)
    assert caught.value.code is Code.SIG_INVALID


def x_on_secp256k1(k: int) -> int:
    return SECP256K1.coordinates(SECP256K1.base_mul(k))[0]


def test_p256_verifier_refuses_what_is_out_of_range() -> None:
    key = ec.derive_private_key(7, ec.SECP256R1())
    public, digest = P256.base_mul(7).encode(), sha("m")
    r, s = utils.decode_dss_signature(key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256()))))
    foreign = next(k for k in range(1, 99) if not PLAIN.has_point(x_on_secp256k1(k)))
    verify_ecdsa(P256, public, digest, r, s)
    for bad in [(0, s), (r, 0), (r, Q), (Q, s), (Q + r, s), (r, Q + s), (r, -s), (-r, s)]:
        with pytest.raises(KeycairnError) as caught:
            verify_ecdsa(P256, public, digest, *bad)
        assert caught.value.code is Code.SIG_INVALID
    for other, message, code in [
        (bytes(33), digest, Code.BAD_POINT),
        (b"\2" + b"\xff" * 32, digest, Code.BAD_POINT),
        (SECP256K1.base_mul(foreign).encode(), digest, Code.BAD_POINT),
        (public, digest[:31], Code.MALFORMED),
        (public, digest + b"\0", Code.MALFORMED),
    ]:
        with pytest.raises(KeycairnError) as caught:
            verify_ecdsa(P256, other, message, r, s)
        assert caught.value.code is code


def test_p256_signature_whose_nonce_point_overflows_recovers_with_ids_2_and_3() -> None:
    """p - q is about 2^224 here: x(R') >= q happens once in 2^32 signatures."""
    x = next(x for x in range(Q, Q + 100) if PLAIN.has_point(x) and x != Q)
    point = P256.decode_point(b"\x02" + x.to_bytes(32, "big"))
    digest, r, s = sha("overflow"), x - Q, 77
    h, inverse = int.from_bytes(digest, "big"), pow(x - Q, -1, Q)
    key = P256.combine([(s * inverse, point), (-h * inverse, P256.base_mul(1))]).encode()
    verify_ecdsa(P256, key, digest, r, s)
    assert finish(P256, x, 0, s, 1) == (r, s, 2)
    made = signature_of(Vault(2, 1, (1, 2), curve="p256").sign_full(digest))
    signature = dataclasses.replace(made, r=r, s=s, recovery_id=2)
    assert verdicts(key, digest, signature) == [True] * 4
    assert recovery_id(P256, key, digest, r, s) == 2
    assert recovery_id(P256, key, digest, r, Q - s) == 3
    assert recovered(digest, signature) == key


# -- 48 bytes, never 32 (design of DKLs23, 11.5) ----------------------------------------------


def test_hash_to_scalar_on_p256_reduces_48_bytes_and_not_32() -> None:
    """32 bytes mod q would hit the lowest 2^224 residues twice as often: 2^-32 from uniform."""
    seen = []

    class Order(int):
        def __rmod__(self, value: int) -> int:
            seen.append(value)
            return value % int(self)

    for k in range(64):
        assert to_scalar(Order(Q), registered_tags()["gadget"], "wide", k) == seen[-1] % Q
    assert max(value.bit_length() for value in seen) > 376
    assert all(value < 1 << 384 for value in seen)


@pytest.mark.parametrize("signers", [(1, 2), (1, 2, 3)])
def test_nothing_in_presigning_and_signing_reduces_32_bytes_of_a_hash(
    signers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No 32 bytes that SHAKE128 or SHA-256 gave are, mod q, a scalar of the run."""
    squeezed: list[bytes] = []

    def watched(real: Any) -> Any:
        class Hash:
            def __init__(self, data: bytes = b"") -> None:
                self._inner = real(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(self._inner, name)

            def digest(self, *size: int) -> bytes:
                out: bytes = self._inner.digest(*size)
                if len(out) == 32:
                    squeezed.append(out)
                return out

        return Hash

    for name in ("shake_128", "sha256"):
        monkeypatch.setattr(hashlib, name, watched(getattr(hashlib, name)))
    gadgets.vector.cache_clear()
    vault = Vault(3, 1, signers, curve="p256")
    outcomes = vault.sign_full(sha("wide"))
    signature = signature_of(outcomes)
    assert len(squeezed) > 10
    reduced = {int.from_bytes(raw, "big") % Q for raw in squeezed}
    scalars = {signature.r, signature.s, *gadgets.vector(P256)}
    for outcome in outcomes.values():
        for round_ in outcome.sent:
            for message in (round_.broadcast, *round_.direct.values()):
                for name in ("psi", "eta", "w", "u"):
                    raw = getattr(message, name, b"")
                    for piece in raw if isinstance(raw, tuple) else (raw,):
                        scalars |= {
                            int.from_bytes(piece[i : i + 32], "big")
                            for i in range(0, len(piece), 32)
                        }
    assert not reduced & scalars
    gadgets.vector.cache_clear()
