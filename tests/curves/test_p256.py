"""P-256: both routes against plain integers and OpenSSL; everything that is no point or scalar.

The figures of issue 3 are printed by ``python -m pytest tests/curves/test_p256.py --full -s -k
figures``.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from keycairn.curves import ED25519, P256, SECP256K1, group, p256, p256_libcrypto
from keycairn.curves.addresses import addresses
from keycairn.curves.group import Point
from keycairn.curves.p256 import SWITCH, accelerated, use_accelerator
from keycairn.curves.p256_libcrypto import Libcrypto, LibcryptoError, load, self_test
from keycairn.curves.pem import public_key_pem
from keycairn.curves.pok import check_knowledge, prove_knowledge
from keycairn.curves.polynomial import (
    Polynomial,
    check_degree,
    evaluate_commitment,
    interpolate,
    interpolate_points,
)
from keycairn.encoding import tag
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Rng
from keycairn.ports.seeded import SeededRng
from keycairn.protocols.record import check_kind, protocol_for

Q, P = P256.q, P256.p
A, B = -3, 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
_TAG = tag("test/p256-pok")

Plain = tuple[int, int] | None


# -- the oracle: plain integers, nothing of keycairn


def plain_add(a: Plain, b: Plain) -> Plain:
    if a is None or b is None:
        return b if a is None else a
    (x1, y1), (x2, y2) = a, b
    if x1 == x2 and (y1 + y2) % P == 0:
        return None
    if a == b:
        slope = (3 * x1 * x1 + A) * pow(2 * y1, -1, P) % P
    else:
        slope = (y2 - y1) * pow(x2 - x1, -1, P) % P
    x3 = (slope * slope - x1 - x2) % P
    return x3, (slope * (x1 - x3) - y1) % P


def plain_mul(k: int, a: Plain = G) -> Plain:
    out: Plain = None
    while k:
        if k & 1:
            out = plain_add(out, a)
        a = plain_add(a, a)
        k >>= 1
    return out


def plain_encode(a: Plain) -> bytes:
    assert a is not None
    return bytes([2 + (a[1] & 1)]) + a[0].to_bytes(32, "big")


def refused(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Code:
    with pytest.raises(KeycairnError) as caught:
        call(*args, **kwargs)
    return caught.value.code


EDGES = [
    *range(1, 20), 63, 64, 65, 2**32, 2**64, 2**128 - 1, 2**192, 2**255, Q // 2, Q // 2 + 1,
    *(Q - d for d in range(1, 8)), 1 << 248, (1 << 224) - 1, Q - 2**224,
]  # fmt: skip


@pytest.fixture(params=["wheel", "libcrypto"])
def route(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run a test once on either route."""
    on = request.param == "libcrypto"
    if use_accelerator(on) is not on:
        pytest.skip("no libcrypto on this machine passes the self-test")
    yield request.param
    use_accelerator(True)


# -- right answers


def test_domain_parameters() -> None:
    assert (G[1] ** 2 - G[0] ** 3 - A * G[0] - B) % P == 0
    assert plain_mul(Q) is None
    assert P256.base_mul(1).encode() == plain_encode(G)
    assert P256.coordinates(P256.base_mul(1)) == G
    assert group("p256") is P256


@pytest.mark.usefixtures("route")
def test_edge_scalars_agree_with_plain_integers() -> None:
    rnd = random.Random(2)
    for n, k in enumerate(EDGES):
        mine, plain = P256.base_mul(k), plain_mul(k)
        assert mine.encode() == plain_encode(plain)
        assert P256.coordinates(mine) == plain
        # An edge scalar on G, on a random point, and on points that are edge multiples of G.
        j = rnd.randrange(1, Q) if n % 2 else EDGES[-1 - n]
        base = P256.base_mul(j)
        expected = plain_encode(plain_mul(k * j % Q))
        assert P256.mul_secret(base, k).encode() == expected
        assert P256.mul_public(base, k).encode() == expected
        assert P256.mul_secret(P256.base_mul(1), k).encode() == plain_encode(plain)


@pytest.mark.usefixtures("route")
def test_scalars_are_taken_mod_q_and_minus_one_negates() -> None:
    point = P256.base_mul(0xC0FFEE)
    for multiply in (P256.mul_secret, P256.mul_public):
        assert multiply(point, 1) == multiply(point, Q + 1) == point
        assert multiply(point, Q - 1) == multiply(point, -1) == P256.neg(point)
        assert multiply(P256.neg(point), Q - 1) == point
        assert multiply(point, 5) == multiply(point, 5 - Q) == multiply(point, 5 + 3 * Q)
    assert P256.base_mul(-2) == P256.neg(P256.base_mul(2))


def test_both_routes_are_equal_on_300_random_and_on_edge_scalars() -> None:
    if not use_accelerator(True):
        pytest.skip("no libcrypto on this machine passes the self-test")
    rnd = random.Random("routes")
    cases = [(rnd.randrange(1, Q), rnd.randrange(1, Q)) for _ in range(300)]
    cases += [(rnd.choice([1, Q - 1, 2, rnd.randrange(1, Q)]), k) for k in EDGES]
    points = [P256.base_mul(j) for j, _ in cases]
    fast = [P256.mul_secret(p, k) for p, (_, k) in zip(points, cases, strict=True)]
    use_accelerator(False)
    try:
        slow = [P256.mul_secret(p, k) for p, (_, k) in zip(points, cases, strict=True)]
    finally:
        use_accelerator(True)
    assert fast == slow
    assert fast == [P256.base_mul(j * k) for j, k in cases]


@pytest.mark.usefixtures("route")
def test_products_agree_with_openssl_ecdh() -> None:
    rnd = random.Random(3)
    for _ in range(20):
        j, k = rnd.randrange(1, Q), rnd.randrange(1, Q)
        peer = ec.derive_private_key(j, ec.SECP256R1()).public_key()
        theirs = ec.derive_private_key(k, ec.SECP256R1()).exchange(ec.ECDH(), peer)
        raw = peer.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        assert P256.base_mul(j).encode() == raw
        assert P256.uncompressed(P256.base_mul(j)) == peer.public_bytes(
            Encoding.X962, PublicFormat.UncompressedPoint
        )
        assert P256.mul_secret(P256.decode_point(raw), k).encode()[1:] == theirs


@pytest.mark.usefixtures("route")
def test_nist_ecdh_vector() -> None:
    """CAVS, ECC CDH primitive, P-256, COUNT = 0."""
    k = 0x7D7DC5F71EB29DDAF80D6214632EEAE03D9058AF1FB6D22ED80BADB62BC1A534
    peer = P256.decode_point(
        bytes.fromhex("02700c48f77f56584c5cc632ca65640db91b6bacce3a4df6b42ce7cc838833d287")
    )
    shared = "46fc62106420ff012e54a434fbdd2d25ccc5852060561e68040dd7778997bd7b"
    for other in (peer, P256.neg(peer)):
        assert P256.mul_secret(other, k).encode()[1:].hex() == shared
    assert P256.base_mul(k).encode()[1:].hex() == (
        "ead218590119e8876b29146ff89ca61770c4edbbf97d38ce385ed281d8a6b230"
    )


@pytest.mark.usefixtures("route")
def test_ecdsa_of_openssl_verifies_in_our_group_and_ours_in_openssl() -> None:
    rnd = random.Random(4)
    for _ in range(10):
        x, h = rnd.randrange(1, Q), rnd.randrange(2**256)
        digest = h.to_bytes(32, "big")
        key = ec.derive_private_key(x, ec.SECP256R1())
        public = P256.base_mul(x)
        r, s = decode_dss_signature(key.sign(digest, ec.ECDSA(Prehashed(SHA256()))))
        w = P256.inverse(s)
        point = P256.combine([(h * w, P256.base_mul(1)), (r * w, public)])
        assert P256.coordinates(point)[0] % Q == r
        k = rnd.randrange(1, Q)
        r = P256.coordinates(P256.base_mul(k))[0] % Q
        s = P256.inverse(k) * (h + r * x) % Q
        loaded = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public.encode())
        loaded.verify(encode_dss_signature(r, s), digest, ec.ECDSA(Prehashed(SHA256())))


# -- group laws

SCALAR = st.one_of(st.sampled_from(EDGES), st.integers(1, Q - 1))


@settings(max_examples=60, deadline=None)
@given(SCALAR, SCALAR, SCALAR)
def test_group_laws(a: int, b: int, c: int) -> None:
    pa, pb, pc = (P256.base_mul(k) for k in (a, b, c))

    def total(*ks: int) -> Callable[[], Point]:
        return lambda: P256.add([P256.base_mul(k) for k in ks])

    for ks in ((a, b), (b, a), (a, b, c), (a, a), (a, -a), (a, b, -a), (a, b, -b, -a)):
        if sum(ks) % Q:
            assert total(*ks)() == P256.base_mul(sum(ks))
        else:
            assert refused(total(*ks)) is Code.BAD_POINT
    assert P256.mul_secret(pa, b) == P256.mul_secret(pb, a) == P256.mul_public(pa, b)
    assert P256.neg(P256.neg(pa)) == pa
    if (a + b) % Q:
        left = P256.mul_secret(P256.add([pa, pb]), c)
        assert left == P256.base_mul((a + b) * c)
        assert left == P256.mul_secret(pc, a + b)
    if (a * b + c) % Q:
        assert P256.combine([(b, pa), (1, pc), (0, pb)]) == P256.base_mul(a * b + c)


@pytest.mark.usefixtures("route")
def test_small_public_scalars_and_doubling_inside_a_sum() -> None:
    point, plain = P256.base_mul(12345), plain_mul(12345)
    for k in range(1, 80):
        assert P256.mul_public(point, k).encode() == plain_encode(plain_mul(k, plain))
    assert P256.add([point] * 9) == P256.base_mul(9 * 12345)
    assert P256.add([point, point]).encode() == plain_encode(plain_add(plain, plain))
    assert P256.add([point, P256.base_mul(12345)]) == P256.base_mul(24690)
    assert P256.add([point]) is point


@pytest.mark.usefixtures("route")
def test_t002_the_identity_is_never_a_point() -> None:
    point = P256.base_mul(5)
    for k in (0, Q, -Q, 2 * Q):
        assert refused(P256.base_mul, k) is Code.BAD_POINT
        assert refused(P256.mul_secret, point, k) is Code.BAD_POINT
        assert refused(P256.mul_public, point, k) is Code.BAD_POINT
    assert refused(P256.add, [point, P256.neg(point)]) is Code.BAD_POINT
    assert refused(P256.add, []) is Code.BAD_POINT
    assert refused(P256.combine, []) is Code.BAD_POINT
    assert refused(P256.combine, [(0, point), (Q, point)]) is Code.BAD_POINT
    assert refused(P256.combine, [(2, point), (-2, point)]) is Code.BAD_POINT
    assert P256.add([point, P256.neg(point), point]) == point


# -- T-001: what is no point


def _x(n: int, prefix: int = 2) -> bytes:
    return bytes([prefix]) + n.to_bytes(32, "big")


def _on_curve(x: int) -> bool:
    return pow(x**3 + A * x + B, (P - 1) // 2, P) == 1


OFF = next(x for x in range(1, 100) if not _on_curve(x))
#: x below 2^256 - p on the curve, so that x + p fits into 32 bytes too.
SMALL_X = next(x for x in range(1, 100) if _on_curve(x))
RAW = plain_encode(G)
#: Multiples of secp256k1's generator whose x no point of P-256 has (one in two).
STRANGERS = [
    raw
    for raw in (SECP256K1.base_mul(k).encode() for k in range(1, 40))
    if not _on_curve(int.from_bytes(raw[1:], "big"))
]

BAD_POINTS: dict[str, object] = {
    "off the curve": _x(OFF),
    "off the curve, odd": _x(OFF, 3),
    "x = p": _x(P),
    "x = p + a valid x": _x(P + SMALL_X),
    "x = p + a valid x, odd": _x(P + SMALL_X, 3),
    "x = 2^256 - 1": _x(2**256 - 1),
    "identity, SEC1": b"\x00",
    "identity, padded": bytes(33),
    "identity with a prefix": b"\x02" + bytes(32) if not _on_curve(0) else b"\x00",
    "uncompressed": b"\x04" + G[0].to_bytes(32, "big") + G[1].to_bytes(32, "big"),
    "hybrid, even": b"\x06" + G[0].to_bytes(32, "big") + G[1].to_bytes(32, "big"),
    "hybrid, odd": b"\x07" + G[0].to_bytes(32, "big") + G[1].to_bytes(32, "big"),
    "hybrid prefix, short": _x(G[0], 6),
    "hybrid prefix, short, odd": _x(G[0], 7),
    "prefix 0": _x(G[0], 0),
    "prefix 1": _x(G[0], 1),
    "prefix 4": _x(G[0], 4),
    "prefix 5": _x(G[0], 5),
    "prefix 82": _x(G[0], 0x82),
    "x only": RAW[1:],
    "short": RAW[:-1],
    "long": RAW + b"\x00",
    "empty": b"",
    "text": RAW.hex(),
    "bytearray": bytearray(RAW),
    "none": None,
    "number": G[0],
    "an Ed25519 point": ED25519.base_mul(3).encode(),
    **{f"a point of secp256k1, {n}": raw for n, raw in enumerate(STRANGERS[:5])},
}


@pytest.mark.parametrize("data", BAD_POINTS.values(), ids=BAD_POINTS)
def test_t001_t002_bytes_that_are_no_p256_point(data: object) -> None:
    assert refused(P256.decode_point, data) is Code.BAD_POINT


def test_decoding_agrees_with_openssl_on_random_bytes() -> None:
    rnd = random.Random(5)
    tries = [_x(rnd.randrange(2**256), rnd.choice((2, 3))) for _ in range(300)]
    tries += [
        _x(n % 2**256, 2 + i) for n in (*range(-40, 40), *range(P - 40, P + 40)) for i in (0, 1)
    ]
    seen = {True: 0, False: 0}
    for raw in tries:
        try:
            theirs = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), raw)
        except ValueError:
            seen[False] += 1
            assert refused(P256.decode_point, raw) is Code.BAD_POINT
        else:
            seen[True] += 1
            point = P256.decode_point(raw)
            numbers = theirs.public_numbers()
            assert P256.coordinates(point) == (numbers.x, numbers.y)
            assert point.encode() == raw
            # The same again from coordinates, not from the remembered bytes.
            assert P256.neg(P256.neg(point)).encode() == raw
    assert min(seen.values()) > 100


def test_t001_points_of_other_groups_are_refused_whatever_their_bytes() -> None:
    # A compressed encoding does not name its curve: one x in two of secp256k1 is also one of
    # P-256. Objects know their group, sessions hash it.
    mine = P256.base_mul(3)
    for other in (SECP256K1.base_mul(3), ED25519.base_mul(3)):
        for call in (
            lambda o=other: P256.mul_secret(o, 5),
            lambda o=other: P256.mul_public(o, 5),
            lambda o=other: P256.mul_public(o, 2**100),
            lambda o=other: P256.add([o]),
            lambda o=other: P256.add([mine, o]),
            lambda o=other: P256.neg(o),
            lambda o=other: P256.coordinates(o),
        ):
            assert refused(call) is Code.BAD_POINT
        assert mine != other
    twin = next(
        k for k in range(1, 99) if _on_curve(SECP256K1.coordinates(SECP256K1.base_mul(k))[0])
    )
    foreign = SECP256K1.base_mul(twin)
    assert P256.decode_point(foreign.encode()) != foreign
    assert len({P256.decode_point(foreign.encode()), foreign}) == 2


BAD_SCALARS: dict[str, object] = {
    "q": Q.to_bytes(32, "big"),
    "q + 1": (Q + 1).to_bytes(32, "big"),
    "2^256 - 1": b"\xff" * 32,
    "31 bytes": bytes(30) + b"\x01",
    "33 bytes": bytes(32) + b"\x01",
    "empty": b"",
    "a number": 1,
    "text": "01" * 32,
    "bytearray": bytearray(31) + b"\x01",
    "none": None,
    "q - 1, little-endian": (Q - 1).to_bytes(32, "little")[::-1] + b"\x00",
}


@pytest.mark.parametrize("data", BAD_SCALARS.values(), ids=BAD_SCALARS)
def test_t005_bytes_that_are_no_scalar(data: object) -> None:
    assert refused(P256.decode_scalar, data) is Code.BAD_SCALAR
    assert refused(P256.decode_scalar, data, nonzero=True) is Code.BAD_SCALAR


def test_t005_zero_where_non_zero_is_required() -> None:
    assert P256.decode_scalar(bytes(32)) == 0
    assert refused(P256.decode_scalar, bytes(32), nonzero=True) is Code.BAD_SCALAR
    assert refused(P256.inverse, 0) is Code.BAD_SCALAR
    assert refused(P256.inverse, Q) is Code.BAD_SCALAR
    for k in EDGES:
        assert P256.decode_scalar(P256.encode_scalar(k), nonzero=True) == k
    assert P256.encode_scalar(Q + 1) == (1).to_bytes(32, "big")


# -- what is built on a group


@pytest.mark.usefixtures("route")
def test_sharing_and_proofs_work_on_this_group() -> None:
    rng = SeededRng("p256")
    f = Polynomial.random(P256, 2, rng)
    commitment = f.commit()
    shares = {i: f.evaluate(i) for i in range(1, 6)}
    points = {i: P256.base_mul(s.reveal()) for i, s in shares.items()}
    assert all(evaluate_commitment(commitment, i) == points[i] for i in points)
    check_degree(points, 2, commitment[0])
    some = (1, 3, 5)
    assert interpolate_points({i: points[i] for i in some}) == commitment[0]
    secret = interpolate(P256, {i: shares[i] for i in some}).reveal()
    assert P256.base_mul(secret) == commitment[0]
    bound = {"sid": bytes(32), "prover": 1, "label": 0}
    proof = prove_knowledge(_TAG, secret, commitment[0], rng=rng, **bound)  # type: ignore[arg-type]
    check_knowledge(_TAG, proof, commitment[0], **bound)  # type: ignore[arg-type]
    with pytest.raises(KeycairnError):
        check_knowledge(_TAG, proof, commitment[1], **bound)  # type: ignore[arg-type]


def test_p256_keys_sign_ecdsa_and_nothing_else() -> None:
    assert protocol_for("ecdsa", "p256") == "dkls23"
    assert refused(protocol_for, "schnorr", "p256") is Code.MALFORMED
    check_kind("ecdsa", "p256", None)
    assert refused(check_kind, "ecdsa", "p256", "bip340") is Code.MALFORMED


def test_pem_names_the_right_curve_and_no_chain_has_an_address() -> None:
    # 40 keys: one x in two would also pass as secp256k1.
    for k in range(1, 41):
        raw = P256.base_mul(k).encode()
        key = load_pem_public_key(public_key_pem("p256", raw).encode())
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"
        assert key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint) == raw
    assert set(addresses("ecdsa", "p256", raw).values()) == {None}


# -- the accelerator


#: (point, scalar, right result) to the result that a faulty library gives.
Change = Callable[[bytes | None, bytes, bytes | None], bytes | None]


class Tampered:
    """A libcrypto whose results go through ``change``. A point of None is the generator."""

    def __init__(self, change: Change) -> None:
        self.change = change
        self.real = fast()

    def mul(self, point: bytes | None, scalar: bytes) -> bytes | None:
        return self.change(point, scalar, self.real.mul(point, scalar))

    def errors_left(self) -> bool:
        return self.real.errors_left()


def fast() -> Libcrypto:
    found = load()
    if found is None:
        pytest.skip("no libcrypto on this machine")
    return found


def reference(point: bytes, scalar: bytes) -> bytes | None:
    return p256._reference(point, scalar)


G65 = P256.uncompressed(P256.base_mul(1))


def raw32(k: int) -> bytes:
    return k.to_bytes(32, "big")


def test_self_test_passes_for_the_real_library() -> None:
    assert self_test(fast(), reference, SeededRng(1))


def _negate(raw: bytes | None) -> bytes | None:
    return raw and raw[:33] + raw32(P - int.from_bytes(raw[33:], "big"))


FAULTS: dict[str, Change] = {
    "always the identity": lambda p, k, r: None,
    "always G": lambda p, k, r: G65,
    "returns its input": lambda p, k, r: p,
    "identity becomes zeros": lambda p, k, r: r or b"\x04" + bytes(64),
    "wrong y": lambda p, k, r: _negate(r),
    "wrong y for odd scalars only": lambda p, k, r: _negate(r) if k[-1] & 1 else r,
    "q - 1 is wrong": lambda p, k, r: p if int.from_bytes(k, "big") == Q - 1 else r,
    "ignores the point": lambda p, k, r: fast().mul(G65, k),
    "wrong for points other than G": lambda p, k, r: r if p == G65 else _negate(r),
    "wrong y for the generator only": lambda p, k, r: r if p else _negate(r),
    "the generator's identity is G": lambda p, k, r: r or (None if p else G65),
    "q - 1 is wrong for the generator": lambda p, k, r: (
        G65 if p is None and int.from_bytes(k, "big") == Q - 1 else r
    ),
    "compressed": lambda p, k, r: r and bytes([2 | r[-1] & 1]) + r[1:33],
}


@pytest.mark.parametrize("change", FAULTS.values(), ids=FAULTS)
def test_self_test_fails_for_a_faulty_library(change: Change) -> None:
    assert not self_test(Tampered(change), reference, SeededRng(1))  # type: ignore[arg-type]


def test_self_test_fails_if_wrong_points_pass_or_errors_are_left() -> None:
    class Lenient(Tampered):
        def mul(self, point: bytes | None, scalar: bytes) -> bytes | None:
            try:
                return super().mul(point, scalar)
            except LibcryptoError:
                return G65

    class Untidy(Tampered):
        def errors_left(self) -> bool:
            return True

    def same(_p: bytes | None, _k: bytes, result: bytes | None) -> bytes | None:
        return result

    for cls in (Lenient, Untidy):
        assert not self_test(cls(same), reference, SeededRng(1))  # type: ignore[arg-type]


def test_self_test_fails_without_randomness_and_with_a_failing_reference() -> None:
    class Broken:
        def bytes(self, n: int) -> bytes:
            raise KeycairnError(Code.RNG, "no randomness")

    broken: Rng = Broken()
    assert not self_test(fast(), reference, broken)
    assert not self_test(fast(), lambda p, k: None, SeededRng(1))


@pytest.mark.parametrize("point", p256_libcrypto._NO_POINTS)
def test_libcrypto_refuses_what_is_no_point_and_leaves_no_error(point: bytes) -> None:
    lib = fast()
    for data in (point, point[:64], b"", b"\x06" + G65[1:], b"\x00" + G65[1:]):
        with pytest.raises(LibcryptoError):
            lib.mul(data, raw32(3))
        assert not lib.errors_left()
    with pytest.raises(LibcryptoError):
        lib.mul(G65, raw32(3)[:31])
    assert lib.mul(G65, raw32(0)) is None
    assert lib.mul(G65, raw32(Q)) is None
    assert lib.mul(G65, raw32(Q + 1)) == lib.mul(G65, raw32(1)) == G65


def test_without_libcrypto_the_wheel_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p256_libcrypto, "_libraries", lambda: iter(()))
    assert load() is None
    assert p256._accelerator() is None
    monkeypatch.setattr(p256_libcrypto, "_libraries", lambda: iter([object()]))
    assert load() is None
    monkeypatch.setattr(p256, "_TRUSTED", None)
    assert use_accelerator(True) is False
    assert not P256.accelerated
    assert P256.mul_secret(P256.base_mul(6), 7) == P256.base_mul(42)
    monkeypatch.undo()
    assert use_accelerator(True) is (p256._TRUSTED is not None)


def test_a_library_that_fails_the_self_test_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(p256, "load", lambda: Tampered(FAULTS["wrong y"]))
    assert p256._accelerator() is None


def test_a_failing_call_falls_back_to_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def mul(self, point: bytes | None, scalar: bytes) -> bytes | None:
            raise LibcryptoError("no memory")

    monkeypatch.setattr(P256, "_fast", Failing())
    assert accelerated()
    assert P256.mul_secret(P256.base_mul(6), 7) == P256.base_mul(42)


@pytest.mark.parametrize("value", ["off", "0", "no", "wheel"])
def test_the_environment_keeps_libcrypto_out(value: str) -> None:
    """In a process of its own: the choice is made when the module is imported."""
    code = (
        "from keycairn.curves.p256 import accelerated, use_accelerator\n"
        "import sys\n"
        "assert not accelerated() and not use_accelerator(True)\n"
    )
    environment = {**os.environ, SWITCH: value}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    usual = code.replace("not accelerated() and not", "accelerated() is")
    for same in ("", "on"):
        result = subprocess.run([sys.executable, "-c", usual], env={**environment, SWITCH: same})
        assert (result.returncode == 0) is (p256._TRUSTED is not None)


@pytest.mark.usefixtures("route")
def test_many_threads_get_their_own_results() -> None:
    def work(seed: int) -> bool:
        rnd = random.Random(seed)
        good = True
        for _ in range(25):
            j, k = rnd.randrange(1, Q), rnd.randrange(1, Q)
            point = P256.base_mul(j)
            good &= P256.mul_secret(point, k) == P256.base_mul(j * k)
            good &= P256.add([point, P256.base_mul(k)]) == P256.base_mul(j + k)
        return good

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))


def test_each_thread_has_its_own_objects_and_they_end_with_it() -> None:
    lib = fast()
    freed: list[int] = []
    real = lib.ctx_free
    lib.ctx_free = lambda pointer: (freed.append(pointer), real(pointer))
    seen: list[int] = []

    def work() -> None:
        assert lib.mul(G65, raw32(2)) is not None
        seen.append(lib._scratch().ctx)
        assert lib._scratch() is lib._scratch()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 5
    assert sorted(freed) == sorted(seen)


# -- figures


@pytest.mark.full
def test_figures(capsys: pytest.CaptureFixture[str]) -> None:
    rnd = random.Random(6)
    ks = [rnd.randrange(1, Q) for _ in range(200)]
    points = [P256.base_mul(k) for k in ks]
    raws = [p.encode() for p in points]

    def measure(call: Callable[[int], Any]) -> float:
        rounds = []
        for _ in range(7):
            start = time.perf_counter()
            for i in range(200):
                call(i)
            rounds.append((time.perf_counter() - start) / 200 * 1e6)
        return statistics.median(rounds)

    figures = {
        "decode": measure(lambda i: P256.decode_point(raws[i])),
        "P + Q": measure(lambda i: P256.add([points[i], points[i - 1]])),
        "5·P": measure(lambda i: P256.mul_public(points[i], 5)),
    }
    for on in (False, True):
        if use_accelerator(on) is on:
            name = "libcrypto" if on else "wheel"
            figures[f"k·G, {name}"] = measure(lambda i: P256.base_mul(ks[i]))
            figures[f"k·P, {name}"] = measure(lambda i: P256.mul_secret(points[i], ks[i]))
    start = time.perf_counter()
    p256._accelerator()
    figures["load and self-test, once"] = (time.perf_counter() - start) * 1e6
    with capsys.disabled():
        print()
        for name, figure in figures.items():
            print(f"  {name:26} {figure:8.1f} us")
    if use_accelerator(True):
        for what in ("k·G", "k·P"):
            assert figures[f"{what}, libcrypto"] < figures[f"{what}, wheel"]
