"""P-256 (NIST, secp256r1, prime256v1), put together from what OpenSSL hands out.

No package exposes the group operations of P-256 at OpenSSL's speed, so each comes from where it
is safe and fast enough (performance.md section 1):

``base_mul`` and ``mul_secret``
    Two ways to the same point.

    * *Wheel*: ``derive_private_key`` of ``cryptography`` is OpenSSL's constant-time multiplication
      of G. For another point, ECDH gives the x-coordinate of k·P only. A second ECDH gives that of
      (k+1)·P, and the addition law Q + P = S then gives y of Q = k·P::

          y_Q = ((a + x_P·x_Q)·(x_P + x_Q) + 2b − x_S·(x_Q − x_P)²) / (2·y_P)

    * *libcrypto* of the system through ctypes, if it passed a self-test when this module was
      imported (:mod:`keycairn.curves.p256_libcrypto`). :func:`use_accelerator` switches it off in
      a process; with the environment variable KEYCAIRN_P256_LIBCRYPTO set to ``off`` (anything but
      empty and ``on``) it is not even loaded. Results are equal, byte for byte.
``add``, ``neg``, ``decode_point``
    Affine arithmetic on gmpy2 integers: a few products and one inverse. Variable time, for public
    points, like libsecp256k1's ``combine``.

What is constant time in the wheel's way, and what is not
    All work on the bits of k is OpenSSL's (the base multiplication inside ``derive_private_key``,
    then the ECDH): constant time. Around it are Python integers, which never are: k and k + 1
    become 32 bytes (as every scalar in this program does), k is compared with 0 and −1 mod q, and
    y is recovered. For that step all coordinates are multiplied by a fresh random z first
    (projective blinding: the formula is homogeneous of degree 3), so that additions, products and
    the inverse see values independent of k. What is left are the two products x_Q·z and x_S·z,
    the last reduction, which gives y_Q itself, its parity, and the conversions to and from bytes:
    their time may tell how many of the leading 30-bit digits of x or y are zero. That tells of the
    *product* k·P, which most protocols publish, and of k nothing that k·P doesn't.

The randomness for z is :class:`SystemRng`'s: it changes no result, so a replayed run stays equal.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, cast

import gmpy2  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keycairn.curves.group import Group, Point, identity_error
from keycairn.curves.p256_libcrypto import Libcrypto, LibcryptoError, load, self_test
from keycairn.errors import Code, KeycairnError
from keycairn.ports import randbelow
from keycairn.ports.system import SystemRng

_CURVE = ec.SECP256R1()
_ECDH = ec.ECDH()
_Q = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_P = gmpy2.mpz(2**256 - 2**224 + 2**192 + 2**96 - 1)
_B = gmpy2.mpz(0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B)
_ROOT = (_P + 1) // 4  # p = 3 mod 4: a square's root is its power to this
_RNG = SystemRng()
#: Up to this public scalar, doubling and adding beats a multiplication.
_SMALL = 64

#: Environment variable: "off" keeps the system's libcrypto out.
SWITCH = "KEYCAIRN_P256_LIBCRYPTO"

#: Affine coordinates (x, y), both below p.
_Affine = tuple[int, int]


class NistP256(Group):
    """Points are 33-byte compressed SEC1; scalars 32 bytes big-endian.

    Safe to use from many threads at once.
    """

    name = "p256"
    q = _Q
    p = int(_P)
    point_len = 33

    def __init__(self) -> None:
        self._fast: Libcrypto | None = None

    @property
    def accelerated(self) -> bool:
        """Whether multiplications use the system's libcrypto."""
        return self._fast is not None

    def decode_point(self, data: object) -> Point:
        if not isinstance(data, bytes) or len(data) != 33 or data[0] not in (2, 3):
            raise KeycairnError(Code.BAD_POINT, "not a compressed P-256 point")
        x = int.from_bytes(data[1:], "big")
        square = ((x * x - 3) * x + _B) % _P
        y = int(gmpy2.powmod(square, _ROOT, _P))
        # The order is an odd prime: no point has y = 0, and every other point has prime order.
        if x >= self.p or y * y % _P != square:
            raise KeycairnError(Code.BAD_POINT, "not a point of P-256")
        return Point(self, (x, y if y & 1 == data[0] & 1 else self.p - y), data)

    def base_mul(self, k: int) -> Point:
        k %= _Q
        if k == 0:
            raise identity_error()
        return Point(self, self._accelerated(None, k) or _base(k))

    def mul_secret(self, p: Point, k: int) -> Point:
        affine, k = self._own(p), k % _Q
        if k == 0:
            raise identity_error()
        return Point(self, self._accelerated(_uncompressed(affine), k) or _wheel_mul(affine, k))

    def mul_public(self, p: Point, k: int) -> Point:
        k %= _Q
        if not 0 < k < _SMALL:
            return self.mul_secret(p, k)
        affine = self._own(p)
        total: _Affine | None = affine
        for bit in bin(k)[3:]:
            total = _add(total, total)
            if bit == "1":
                total = _add(total, affine)
        return self._point(total)

    def add(self, points: Sequence[Point]) -> Point:
        total: _Affine | None = None
        for p in points:
            total = _add(total, self._own(p))
        return points[0] if len(points) == 1 else self._point(total)

    def neg(self, p: Point) -> Point:
        x, y = self._own(p)
        return Point(self, (x, self.p - y))

    def coordinates(self, p: Point) -> tuple[int, int]:
        """Affine (x, y)."""
        return self._own(p)

    def uncompressed(self, p: Point) -> bytes:
        """65-byte uncompressed SEC1 encoding."""
        return _uncompressed(self._own(p))

    def _accelerated(self, point: bytes | None, k: int) -> _Affine | None:
        """k·point, or k·G for None; None if the wheel has to do it."""
        fast = self._fast
        if fast is None:
            return None
        try:
            product = fast.mul(point, k.to_bytes(32, "big"))
        except LibcryptoError:  # out of memory: the other way needs none of libcrypto's
            return None
        return None if product is None else _affine(product)

    def _serialize(self, inner: Any) -> bytes:
        affine: _Affine = inner
        return bytes([2 | affine[1] & 1]) + affine[0].to_bytes(32, "big")

    def _own(self, p: Point) -> _Affine:
        if p.group is not self:
            raise KeycairnError(Code.BAD_POINT, "a point of another group")
        return cast(_Affine, p.inner)

    def _point(self, affine: _Affine | None) -> Point:
        if affine is None:
            raise identity_error()
        return Point(self, (int(affine[0]), int(affine[1])))


def _add(a: _Affine | None, b: _Affine | None) -> _Affine | None:
    # None is the identity. Coordinates may be gmpy2 integers on the way.
    if a is None or b is None:
        return b if a is None else a
    (x1, y1), (x2, y2) = a, b
    if x1 != x2:
        slope = (y2 - y1) * gmpy2.invert(x2 - x1, _P) % _P
    elif y1 == y2:
        slope = 3 * (x1 * x1 - 1) * gmpy2.invert(2 * y1, _P) % _P
    else:
        return None
    x3 = (slope * slope - x1 - x2) % _P
    return x3, (slope * (x1 - x3) - y1) % _P


def _uncompressed(a: _Affine) -> bytes:
    return b"\x04" + a[0].to_bytes(32, "big") + a[1].to_bytes(32, "big")


def _affine(raw: bytes) -> _Affine:
    return int.from_bytes(raw[1:33], "big"), int.from_bytes(raw[33:], "big")


def _base(k: int) -> _Affine:
    public = ec.derive_private_key(k, _CURVE).public_key()
    return _affine(public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def _wheel_mul(point: _Affine, k: int) -> _Affine:
    # k*P for 0 < k < q with the cryptography wheel alone; the module's text explains it.
    x, y = point
    if k == _Q - 1:  # (k+1)*P is the identity, which has no x
        return x, int(_P) - y
    # Loading the point checks the curve equation once more.
    public = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, _uncompressed(point))
    xq = ec.derive_private_key(k, _CURVE).exchange(_ECDH, public)
    xs = ec.derive_private_key(k + 1, _CURVE).exchange(_ECDH, public)
    x_q = int.from_bytes(xq, "big")
    z = 1 + gmpy2.mpz(randbelow(_RNG, int(_P) - 1))
    p_z, q_z, s_z = z * x % _P, z * x_q % _P, z * int.from_bytes(xs, "big") % _P
    zz = z * z % _P
    zzz = zz * z % _P
    top = (p_z * q_z - 3 * zz) * (p_z + q_z) + 2 * _B * zzz - s_z * (q_z - p_z) ** 2
    return x_q, int(top % _P * gmpy2.invert(2 * y * zzz, _P) % _P)


def _reference(point: bytes, scalar: bytes) -> bytes:
    return _uncompressed(_wheel_mul(_affine(point), int.from_bytes(scalar, "big")))


def _accelerator() -> Libcrypto | None:
    if os.environ.get(SWITCH, "") not in ("", "on"):
        return None
    try:
        fast = load()
        return fast if fast is not None and self_test(fast, _reference, _RNG) else None
    except KeycairnError:  # no randomness: whoever needs it will say so
        return None


P256 = NistP256()
_TRUSTED = _accelerator()


def accelerated() -> bool:
    """Whether P-256 runs on the system's libcrypto now; for reports and measurements."""
    return P256.accelerated


def use_accelerator(on: bool) -> bool:
    """Switch the system's libcrypto on or off, for measurements and tests.

    On is the default where the self-test passed; where it did not, nothing switches it on.

    Returns:
        whether it is in use now (``P256.accelerated``).
    """
    P256._fast = _TRUSTED if on else None
    return P256.accelerated


use_accelerator(True)
