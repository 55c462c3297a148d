"""Plain integer arithmetic on secp256k1 and edwards25519, sharing no code with keycairn.

Slow, variable time, and simple enough to be checked by reading; tests only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Weierstrass:
    """y² = x³ + 7 over GF(p); None is the identity."""

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
            3 * x1 * x1 * pow(2 * y1, -1, self.p)
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
EDWARDS = Edwards()
