"""Groups against independent oracles, and everything that is no point or scalar of them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from embit.ec import PrivateKey as EmbitKey
from hypothesis import given, settings
from hypothesis import strategies as st

from curves.oracle import EDWARDS, SECP
from keycairn.curves import ED25519, GROUPS, SECP256K1, group
from keycairn.curves.group import Group, Point
from keycairn.errors import Code, KeycairnError
from keycairn.ports.seeded import SeededRng
from keycairn.protocols.frost import verify

BOTH = pytest.mark.parametrize("g", [SECP256K1, ED25519], ids=lambda g: g.name)
ORACLE: dict[str, Any] = {"secp256k1": SECP, "ed25519": EDWARDS}
INTERESTING = (1, 2, 3, 7, 8, 15, 16, 17, 2**128, 2**252, 2**255 - 19)


def refused(call: Any, *args: Any, **kwargs: Any) -> Code:
    with pytest.raises(KeycairnError) as caught:
        call(*args, **kwargs)
    return caught.value.code


def scalars(g: Group, count: int = 12) -> list[int]:
    rnd = random.Random(g.name)
    edges = [k % g.q for k in (*INTERESTING, g.q - 1, g.q - 2, g.q // 2)]
    return edges + [rnd.randrange(1, g.q) for _ in range(count)]


# -- right answers ---


@BOTH
def test_multiplication_addition_and_negation_agree_with_plain_integers(g: Group) -> None:
    plain, rnd = ORACLE[g.name], random.Random(1)
    for k in scalars(g):
        p = plain.mul(k)
        point = g.base_mul(k)
        assert point.encode() == plain.encode(p)
        assert g.decode_point(point.encode()) == point
        m = rnd.choice(scalars(g))
        product = plain.encode(plain.mul(m, p))
        assert g.mul_secret(point, m).encode() == product
        assert g.mul_public(point, m).encode() == product
        if (k + 2 * m) % g.q and (k - m) % g.q:
            other = g.base_mul(m)
            total = plain.encode(plain.mul((k + 2 * m) % g.q))
            assert g.add([point, other, other]).encode() == total
            assert g.combine([(1, point), (2, other), (0, other)]).encode() == total
            assert g.add([point, g.neg(other)]) == g.base_mul(k - m)


def test_small_public_scalars_agree_with_the_constant_time_multiplication() -> None:
    for g in GROUPS.values():
        point = g.base_mul(12345)
        for k in range(1, 40):
            assert g.mul_public(point, k) == g.mul_secret(point, k)


def test_public_keys_agree_with_cryptography_and_embit() -> None:
    for k in scalars(SECP256K1):
        mine = SECP256K1.base_mul(k)
        numbers = ec.derive_private_key(k, ec.SECP256K1()).public_key().public_numbers()
        assert SECP256K1.coordinates(mine) == (numbers.x, numbers.y)
        assert EmbitKey(k.to_bytes(32, "big")).get_public_key().sec() == mine.encode()


def test_ed25519_base_multiplication_agrees_with_rfc_8032_keys_of_cryptography() -> None:
    import hashlib

    for n in range(20):
        seed = hashlib.sha256(bytes([n])).digest()
        h = bytearray(hashlib.sha512(seed).digest()[:32])
        h[0] &= 248
        h[31] = h[31] & 127 | 64
        scalar = int.from_bytes(h, "little")
        expected = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        assert ED25519.base_mul(scalar).encode() == expected


@BOTH
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 2**256), st.integers(1, 2**256))
def test_the_group_law_holds(g: Group, a: int, b: int) -> None:
    if a % g.q == 0 or b % g.q == 0 or (a + b) % g.q == 0:
        return
    pa, pb = g.base_mul(a), g.base_mul(b)
    assert g.add([pa, pb]) == g.base_mul(a + b) == g.add([pb, pa])
    assert g.mul_public(pa, b) == g.mul_secret(pb, a) == g.base_mul(a * b % g.q)


@BOTH
def test_the_identity_is_never_a_point(g: Group) -> None:
    point = g.base_mul(5)
    for k in (0, g.q, -g.q, 2 * g.q):
        assert refused(g.base_mul, k) is Code.BAD_POINT
        assert refused(g.mul_secret, point, k) is Code.BAD_POINT
        assert refused(g.mul_public, point, k) is Code.BAD_POINT
    assert refused(g.add, [point, g.neg(point)]) is Code.BAD_POINT
    assert refused(g.add, []) is Code.BAD_POINT
    assert refused(g.combine, []) is Code.BAD_POINT
    assert refused(g.combine, [(0, point), (g.q, point)]) is Code.BAD_POINT
    assert refused(g.combine, [(2, point), (-2, point)]) is Code.BAD_POINT
    # A partial sum may be the identity where the whole is not.
    assert g.add([point, g.neg(point), point]) == point


def test_points_of_different_groups_are_never_equal_and_unknown_groups_are_refused() -> None:
    assert SECP256K1.base_mul(1) != ED25519.base_mul(1)
    assert len({SECP256K1.base_mul(1), SECP256K1.base_mul(1), ED25519.base_mul(1)}) == 2
    for name in ("p384", "P256", "", "SECP256K1", "Ed25519"):
        assert refused(group, name) is Code.MALFORMED


# -- T-001, T-002, T-003: what is no point ---


def _x(n: int, prefix: int = 2) -> bytes:
    return bytes([prefix]) + n.to_bytes(32, "big")


G_BYTES = SECP.encode(SECP.g)
SECP_BAD = {
    "off the curve": _x(5),
    "zero x": _x(0),
    "x = p": _x(SECP.p),
    "x = p + 1": _x(SECP.p + 1),
    "largest x": _x(2**256 - 1),
    "hybrid prefix 6": _x(SECP.g[0], 6),
    "hybrid prefix 7": _x(SECP.g[0], 7),
    "prefix 0": _x(SECP.g[0], 0),
    "prefix 1": _x(SECP.g[0], 1),
    "prefix 4": _x(SECP.g[0], 4),
    "prefix 255": _x(SECP.g[0], 255),
    "a point of P-256": bytes.fromhex(
        "037cf27b188d034f7e8a52380304b51ac3c08969e277f21b35a60b48fc47669978"
    ),
    "uncompressed": b"\x04" + SECP.g[0].to_bytes(32, "big") + SECP.g[1].to_bytes(32, "big"),
    "uncompressed hybrid": b"\x06" + SECP.g[0].to_bytes(32, "big") + SECP.g[1].to_bytes(32, "big"),
    "x only": G_BYTES[1:],
    "too short": G_BYTES[:-1],
    "too long": G_BYTES + b"\0",
    "identity as one zero": b"\0",
    "identity padded": bytes(33),
    "empty": b"",
    "an Ed25519 point": ED25519.base_mul(3).encode(),
}


@pytest.mark.parametrize("data", SECP_BAD.values(), ids=SECP_BAD.keys())
def test_t001_t002_bytes_that_are_no_secp256k1_point(data: bytes) -> None:
    assert refused(SECP256K1.decode_point, data) is Code.BAD_POINT


@BOTH
@pytest.mark.parametrize("wrong", [None, 2, "02" * 33, bytearray(33), memoryview(bytes(33)), [2]])
def test_t001_points_are_bytes_and_nothing_else(g: Group, wrong: Any) -> None:
    assert refused(g.decode_point, wrong) is Code.BAD_POINT


SMALL_ORDER = [EDWARDS.encode(p) for p in EDWARDS.torsion()]
#: y ≥ p (19 values fit into 255 bits), and x = 0 with the sign bit set.
NON_CANONICAL = [
    (y | sign << 255).to_bytes(32, "little") for y in range(EDWARDS.p, 2**255) for sign in (0, 1)
] + [(1 | 1 << 255).to_bytes(32, "little"), (EDWARDS.p - 1 | 1 << 255).to_bytes(32, "little")]


def test_t002_t003_all_eight_small_order_points_are_refused() -> None:
    assert len(set(SMALL_ORDER)) == 8
    assert (1).to_bytes(32, "little") in SMALL_ORDER  # the identity is one of them
    for data in SMALL_ORDER:
        assert refused(ED25519.decode_point, data) is Code.BAD_POINT


def test_t003_all_non_canonical_encodings_are_refused() -> None:
    assert len(set(NON_CANONICAL)) == 40
    for data in NON_CANONICAL:
        assert refused(ED25519.decode_point, data) is Code.BAD_POINT


def test_t003_points_with_a_torsion_component_are_refused() -> None:
    for k in (1, 2, 9, EDWARDS.q - 1):
        p = EDWARDS.mul(k)
        for i, t in enumerate(EDWARDS.torsion()):
            data = EDWARDS.encode(EDWARDS.add(p, t))
            if i == 0:
                assert ED25519.decode_point(data) == ED25519.base_mul(k)
            else:
                assert refused(ED25519.decode_point, data) is Code.BAD_POINT


def test_t001_bytes_that_are_no_ed25519_point() -> None:
    off_curve = 0
    for y in range(2, 60):
        data = y.to_bytes(32, "little")
        try:
            EDWARDS.x_of(y, 0)
        except ValueError:
            off_curve += 1
            assert refused(ED25519.decode_point, data) is Code.BAD_POINT
    assert off_curve > 10
    good = ED25519.base_mul(9).encode()
    for data in (b"", good[:-1], good + b"\0", SECP256K1.base_mul(9).encode()):
        assert refused(ED25519.decode_point, data) is Code.BAD_POINT


def test_t003_ed25519_speccheck(vectors: Path) -> None:
    """The twelve corner cases of "Taming the many EdDSAs", as far as the file has them.

    Points of small or mixed order and non-canonical ones must not decode, and signatures that
    contain such a point, or an S ≥ q, must not verify: whatever other verifiers say.
    """
    cases = json.loads((vectors / "ed25519-speccheck" / "cases.json").read_text())
    assert len(cases) >= 10
    accepted = 0
    for case in cases:
        key, signature = bytes.fromhex(case["pub_key"]), bytes.fromhex(case["signature"])
        clean = [_prime_order(key), _prime_order(signature[:32])]
        for data, good in zip((key, signature[:32]), clean, strict=True):
            if good:
                ED25519.decode_point(data)
            else:
                assert refused(ED25519.decode_point, data) is Code.BAD_POINT
        canonical_s = int.from_bytes(signature[32:], "little") < EDWARDS.q
        if not canonical_s:
            assert refused(ED25519.decode_scalar, signature[32:]) is Code.BAD_SCALAR
        # libsodium refuses small order, not mixed order: our keys and nonces are decoded before
        # they are ever verified against, so mixed order does not get that far.
        small = key in SMALL_ORDER + NON_CANONICAL or signature[:32] in SMALL_ORDER + NON_CANONICAL
        if small or not canonical_s:
            assert refused(verify, key, bytes.fromhex(case["message"]), signature) is (
                Code.SIG_INVALID
            )
        else:
            accepted += all(clean)
    assert accepted < len(cases)


def _prime_order(data: bytes) -> bool:
    y = int.from_bytes(data, "little") & (2**255 - 1)
    if y >= EDWARDS.p:
        return False
    try:
        x = EDWARDS.x_of(y, data[31] >> 7)
    except ValueError:
        return False
    return EDWARDS.encode((x, y)) == data and EDWARDS.mul(EDWARDS.q, (x, y)) == (0, 1) != (x, y)


# -- T-005: what is no scalar ---


@BOTH
def test_t005_scalars_out_of_range_or_length_are_refused(g: Group) -> None:
    order: Any = g.byteorder
    for value in (g.q, g.q + 1, 2**256 - 1):
        assert refused(g.decode_scalar, value.to_bytes(32, order)) is Code.BAD_SCALAR
    one = g.encode_scalar(1)
    for data in (b"", one[:31], one + b"\0", b"\0" + one, bytearray(one), 1, "01", None):
        assert refused(g.decode_scalar, data) is Code.BAD_SCALAR
    assert g.decode_scalar(bytes(32)) == 0
    assert refused(g.decode_scalar, bytes(32), nonzero=True) is Code.BAD_SCALAR
    for k in (0, 1, g.q - 1):
        assert g.decode_scalar(g.encode_scalar(k)) == k
    assert g.encode_scalar(g.q + 5) == g.encode_scalar(5)


@BOTH
def test_zero_has_no_inverse_and_random_scalars_are_in_range(g: Group) -> None:
    assert refused(g.inverse, 0) is Code.BAD_SCALAR
    assert refused(g.inverse, g.q) is Code.BAD_SCALAR
    assert g.inverse(7) * 7 % g.q == 1
    drawn = [g.random_scalar(SeededRng(n)) for n in range(200)]
    assert all(0 < k < g.q for k in drawn)
    assert len(set(drawn)) == 200


def test_the_byte_order_is_part_of_the_curve() -> None:
    assert SECP256K1.encode_scalar(1)[-1] == 1
    assert ED25519.encode_scalar(1)[0] == 1


@BOTH
def test_point_representation_is_public_and_stable(g: Group) -> None:
    point = g.base_mul(1)
    assert isinstance(point, Point)
    assert g.name in repr(point)
    assert point.encode().hex() in repr(point)
    assert point != "not a point"
