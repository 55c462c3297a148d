"""The three curves: textbook formulas over Python's integers. Not constant time.

A point is a tuple of integers in the curve's own coordinates; only :meth:`Curve.encode` gives a
unique form. Scalars are integers.
"""

from __future__ import annotations

import abc
from typing import Dict, Iterable, List, Tuple

from .errors import invalid, need

Point = Tuple[int, ...]
WINDOW = 6


class Curve(abc.ABC):
    """A prime-order group: names and numbers in the subclasses, multiplication here."""

    name: str
    p: int
    q: int
    base: Point
    zero: Point
    point_len: int
    byteorder = "big"

    def __init__(self) -> None:
        self._rows: List[List[Point]] = []

    @abc.abstractmethod
    def add(self, a: Point, b: Point) -> Point: ...

    @abc.abstractmethod
    def neg(self, a: Point) -> Point: ...

    @abc.abstractmethod
    def is_zero(self, a: Point) -> bool: ...

    @abc.abstractmethod
    def encode(self, a: Point) -> bytes:
        """The unique encoding; E_ERS_INVALID for the identity, which has none here."""

    @abc.abstractmethod
    def decode(self, raw: bytes) -> Point:
        """A valid point (section 2 of the format); else E_ERS_INVALID."""

    def mul(self, a: Point, k: int) -> Point:
        """k*a for any k >= 0; k is not reduced."""
        total = self.zero
        for bit in bin(k)[2:]:
            total = self.add(total, total)
            if bit == "1":
                total = self.add(total, a)
        return total

    def base_mul(self, k: int) -> Point:
        """k*G by a table of 64 multiples for every 6 bits."""
        if not self._rows:
            start = self.base
            for _ in range(0, 256, WINDOW):
                row = [self.zero]
                for _ in range((1 << WINDOW) - 1):
                    row.append(self.add(row[-1], start))
                self._rows.append(row)
                start = self.add(row[-1], start)
        total = self.zero
        k %= self.q
        for row in self._rows:
            digit = k & ((1 << WINDOW) - 1)
            k >>= WINDOW
            if digit:
                total = self.add(total, row[digit])
        return total

    def combine(self, terms: Iterable[Tuple[int, Point]]) -> Point:
        """The sum of k*a over (k, a)."""
        total = self.zero
        for k, a in terms:
            total = self.add(total, self.mul(a, k))
        return total

    def public(self, k: int) -> bytes:
        """Encoded k*G."""
        return self.encode(self.base_mul(k))

    def scalar(self, raw: bytes) -> int:
        """A valid scalar: 32 bytes, below q; else E_ERS_INVALID."""
        value = int.from_bytes(raw, "little" if self.byteorder == "little" else "big")
        need(len(raw) == 32 and value < self.q, "scalar", "a scalar is not below the group order")
        return value

    def encode_scalar(self, k: int) -> bytes:
        raw = k.to_bytes(32, "big")
        return raw[::-1] if self.byteorder == "little" else raw


class Weierstrass(Curve):
    """y^2 = x^3 + a*x + b, p = 3 mod 4; (X, Y, Z) stands for (X/Z^2, Y/Z^3), Z = 0 for identity."""

    a: int
    b: int
    point_len = 33
    zero = (1, 1, 0)

    def is_zero(self, a: Point) -> bool:
        return a[2] == 0

    def neg(self, a: Point) -> Point:
        return a[0], -a[1] % self.p, a[2]

    def _double(self, a: Point) -> Point:
        p = self.p
        x, y, z = a  # y is never 0: the group order is odd
        yy, zz = y * y % p, z * z % p
        s = 4 * x * yy % p
        m = (3 * x * x + self.a * zz * zz) % p
        x3 = (m * m - 2 * s) % p
        return x3, (m * (s - x3) - 8 * yy * yy) % p, 2 * y * z % p

    def add(self, a: Point, b: Point) -> Point:
        if a[2] == 0:
            return b
        if b[2] == 0:
            return a
        p = self.p
        aa, bb = a[2] * a[2] % p, b[2] * b[2] % p
        u, s = a[0] * bb % p, a[1] * b[2] * bb % p
        h, r = (b[0] * aa - u) % p, (b[1] * a[2] * aa - s) % p
        if h == 0:
            return self.zero if r else self._double(a)
        hh = h * h % p
        hhh, v = h * hh % p, u * hh % p
        x3 = (r * r - hhh - 2 * v) % p
        return x3, (r * (v - x3) - s * hhh) % p, a[2] * b[2] * h % p

    def affine(self, a: Point) -> Tuple[int, int]:
        """x and y; E_ERS_INVALID for the identity."""
        need(not self.is_zero(a), "point", "the identity is not a valid point here")
        inverse = pow(a[2], -1, self.p)
        square = inverse * inverse % self.p
        return a[0] * square % self.p, a[1] * square * inverse % self.p

    def encode(self, a: Point) -> bytes:
        x, y = self.affine(a)
        return bytes([2 | y & 1]) + x.to_bytes(32, "big")

    def decode(self, raw: bytes) -> Point:
        need(len(raw) == 33 and raw[0] in (2, 3), "point", "a point is not SEC 1 compressed")
        x = int.from_bytes(raw[1:], "big")
        need(x < self.p, "point", "a point's coordinate is not below p")
        square = (x * x * x + self.a * x + self.b) % self.p
        y = pow(square, (self.p + 1) // 4, self.p)
        need(y * y % self.p == square, "point", "a point is not on the curve")
        return x, y if y & 1 == raw[0] & 1 else self.p - y, 1


class Secp256k1(Weierstrass):
    """SEC 2, 2.4.1."""

    name = "secp256k1"
    p, a, b = 2**256 - 2**32 - 977, 0, 7
    q = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    base = (
        0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
        0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
        1,
    )


class P256(Weierstrass):
    """FIPS 186-5, P-256."""

    name = "p256"
    p, a = 2**256 - 2**224 + 2**192 + 2**96 - 1, -3
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    q = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    base = (
        0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
        0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
        1,
    )


class Ed25519(Curve):
    """RFC 8032, 5.1; (X, Y, Z, T) with x = X/Z, y = Y/Z, T = X*Y/Z. The addition is complete."""

    name = "ed25519"
    p = 2**255 - 19
    q = 2**252 + 27742317777372353535851937790883648493
    d = -121665 * pow(121666, -1, p) % p
    root = pow(2, (p - 1) // 4, p)  # of -1
    zero = (0, 1, 1, 0)
    point_len = 32
    byteorder = "little"

    def __init__(self) -> None:
        super().__init__()
        self.base = self.decompress(bytes([0x58]) + bytes([0x66]) * 31)

    def is_zero(self, a: Point) -> bool:
        return a[0] % self.p == 0 and (a[1] - a[2]) % self.p == 0

    def neg(self, a: Point) -> Point:
        return -a[0] % self.p, a[1], a[2], -a[3] % self.p

    def add(self, a: Point, b: Point) -> Point:
        p = self.p
        x1, y1, z1, t1 = a
        x2, y2, z2, t2 = b
        e = (y1 - x1) * (y2 - x2) % p
        f = (y1 + x1) * (y2 + x2) % p
        g = 2 * self.d * t1 * t2 % p
        h = 2 * z1 * z2 % p
        i, j, k, m = f - e, h - g, h + g, f + e
        return i * j % p, k * m % p, j * k % p, i * m % p

    def encode(self, a: Point) -> bytes:
        need(not self.is_zero(a), "point", "the identity is not a valid point here")
        inverse = pow(a[2], -1, self.p)
        x, y = a[0] * inverse % self.p, a[1] * inverse % self.p
        return (y | (x & 1) << 255).to_bytes(32, "little")

    def decompress(self, raw: bytes) -> Point:
        """RFC 8032, 5.1.3; canonical encodings of any order."""
        need(len(raw) == 32, "point", "a point does not have 32 bytes")
        p, number = self.p, int.from_bytes(raw, "little")
        sign, y = number >> 255, number & ((1 << 255) - 1)
        need(y < p, "point", "a point's coordinate is not below p")
        square = (y * y - 1) * pow(self.d * y * y + 1, -1, p) % p
        x = pow(square, (p + 3) // 8, p)
        if x * x % p != square:
            x = x * self.root % p
        need(x * x % p == square, "point", "a point is not on the curve")
        need(x or not sign, "point", "a point has the sign of another")
        if x & 1 != sign:
            x = p - x
        return x, y, 1, x * y % p

    def decode(self, raw: bytes) -> Point:
        a = self.decompress(raw)
        need(not self.is_zero(a), "point", "the identity is not a valid point here")
        need(
            self.is_zero(self.mul(a, self.q)), "point", "a point is not in the prime-order subgroup"
        )
        return a


SECP256K1, P_256, ED25519 = Secp256k1(), P256(), Ed25519()
CURVES: Dict[str, Curve] = {c.name: c for c in (SECP256K1, P_256, ED25519)}


def curve(name: str) -> Curve:
    """By name; E_ERS_INVALID for another."""
    if name not in CURVES:
        raise invalid("context", "unknown curve")
    return CURVES[name]


def at(q: int, xs: Iterable[int], i: int, x: int) -> int:
    """Lagrange's coefficient of the value at ``i``, for the value at ``x``, mod q."""
    num = den = 1
    for j in xs:
        if j != i:
            num, den = num * (x - j) % q, den * (i - j) % q
    return num * pow(den, -1, q) % q
