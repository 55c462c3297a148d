"""Plain integer arithmetic on secp256k1, P-256 and edwards25519, sharing no code with keycairn.

Slow, variable time, and simple enough to be checked by reading; tests only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Weierstrass:
    """y² = x³ + a·x + b over GF(p), p = 3 mod 4, secp256k1 by default; None is the identity."""

    a: int = 0
    b: int = 7
    p: int = 2**256 - 2**32 - 977
    q: int = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    g: tuple[int, int] = (
        0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
        0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
    )

    def add(self, a: tuple[int, int] | None, b: tuple[int, int] | None) -> tuple[int, int] | None:
        if a is None or b is None:
            return b if a is None else a
        (x1, y1), (x2, y2) = a, b
        if x1 == x2 and (y1 + y2) % self.p == 0:
            return None
        slope = (
            (3 * x1 * x1 + self.a) * pow(2 * y1, -1, self.p)
            if a == b
            else (y2 - y1) * pow(x2 - x1, -1, self.p)
        ) % self.p
        x3 = (slope * slope - x1 - x2) % self.p
        return x3, (slope * (x1 - x3) - y1) % self.p

    def mul(self, k: int, a: tuple[int, int] | None = None) -> tuple[int, int] | None:
        out, step = None, a or self.g
        while k:
            if k & 1:
                out = self.add(out, step)
            step = self.add(step, step)  # type: ignore[assignment]
            k >>= 1
        return out

    def encode(self, a: tuple[int, int]) -> bytes:
        return bytes([2 + (a[1] & 1)]) + a[0].to_bytes(32, "big")

    def has_point(self, x: int) -> bool:
        """Whether x is the coordinate of a point."""
        square = (x**3 + self.a * x + self.b) % self.p
        return x < self.p and pow(square, (self.p + 1) // 4, self.p) ** 2 % self.p == square

    def decode(self, raw: bytes) -> tuple[int, int]:
        """The point of a compressed encoding; ValueError if there is none."""
        x = int.from_bytes(raw[1:], "big")
        if raw[0] not in (2, 3) or not self.has_point(x):
            raise ValueError("not on the curve")
        y = pow(x**3 + self.a * x + self.b, (self.p + 1) // 4, self.p)
        return x, y if y & 1 == raw[0] & 1 else self.p - y


@dataclass(frozen=True)
class Edwards:
    """-x² + y² = 1 + d·x²·y² over GF(2^255 - 19); (0, 1) is the identity."""

    p: int = 2**255 - 19
    q: int = 2**252 + 27742317777372353535851937790883648493

    @property
    def d(self) -> int:
        return -121665 * pow(121666, -1, self.p) % self.p

    @property
    def g(self) -> tuple[int, int]:
        y = 4 * pow(5, -1, self.p) % self.p
        return self.x_of(y, 0), y

    def x_of(self, y: int, sign: int) -> int:
        """x with the given lowest bit; ValueError if there is no point with this y."""
        square = (y * y - 1) * pow(self.d * y * y + 1, -1, self.p) % self.p
        x = pow(square, (self.p + 3) // 8, self.p)
        if (x * x - square) % self.p:
            x = x * pow(2, (self.p - 1) // 4, self.p) % self.p
        if (x * x - square) % self.p:
            raise ValueError("not on the curve")
        return x if x & 1 == sign else -x % self.p

    def add(self, a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
        (x1, y1), (x2, y2) = a, b
        t = self.d * x1 * x2 * y1 * y2
        x = (x1 * y2 + y1 * x2) * pow(1 + t, -1, self.p) % self.p
        return x, (y1 * y2 + x1 * x2) * pow(1 - t, -1, self.p) % self.p

    def mul(self, k: int, a: tuple[int, int] | None = None) -> tuple[int, int]:
        out, step = (0, 1), a or self.g
        while k:
            if k & 1:
                out = self.add(out, step)
            step = self.add(step, step)
            k >>= 1
        return out

    def encode(self, a: tuple[int, int]) -> bytes:
        return (a[1] | (a[0] & 1) << 255).to_bytes(32, "little")

    def torsion(self) -> list[tuple[int, int]]:
        """The eight points whose order divides 8, beginning with the identity."""
        y = 2
        while True:
            try:
                point = self.mul(self.q, (self.x_of(y, 0), y))
            except ValueError:
                point = (0, 1)
            if self.mul(4, point) != (0, 1):
                return [self.mul(k, point) for k in range(8)]
            y += 1


SECP = Weierstrass()
P256 = Weierstrass(
    a=-3,
    b=0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    p=2**256 - 2**224 + 2**192 + 2**96 - 1,
    q=0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    g=(
        0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
        0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
    ),
)
EDWARDS = Edwards()
