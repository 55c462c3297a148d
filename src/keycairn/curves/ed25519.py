"""The prime-order subgroup of edwards25519 through libsodium (PyNaCl).

libsodium's ``is_valid_point`` refuses non-canonical encodings, points off the curve, small order
points and points outside the prime-order subgroup (security.md 2.3, "Baby Sharks").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nacl.bindings as sodium
import nacl.exceptions

from keycairn.curves.group import Group, Point, identity_error
from keycairn.errors import Code, KeycairnError

_IDENTITY = b"\x01" + bytes(31)
_SMALL = 16


class Ed25519(Group):
    """Points are 32-byte RFC 8032 encodings; scalars 32 bytes little-endian."""

    name = "ed25519"
    q = 2**252 + 27742317777372353535851937790883648493
    point_len = 32
    byteorder = "little"

    def decode_point(self, data: object) -> Point:
        if not isinstance(data, bytes) or len(data) != 32:
            raise KeycairnError(Code.BAD_POINT, "an Ed25519 point must be 32 bytes")
        if not sodium.crypto_core_ed25519_is_valid_point(data):
            raise KeycairnError(
                Code.BAD_POINT, "not a canonical point of the prime-order subgroup of Ed25519"
            )
        return Point(self, data, data)

    def base_mul(self, k: int) -> Point:
        scalar = (k % self.q).to_bytes(32, "little")
        try:
            inner = sodium.crypto_scalarmult_ed25519_base_noclamp(scalar)
        except nacl.exceptions.CryptoError as exc:
            raise identity_error() from exc
        return Point(self, inner, inner)

    def mul_secret(self, p: Point, k: int) -> Point:
        scalar = (k % self.q).to_bytes(32, "little")
        try:
            inner = sodium.crypto_scalarmult_ed25519_noclamp(scalar, p.inner)
        except nacl.exceptions.CryptoError as exc:
            raise identity_error() from exc
        return Point(self, inner, inner)

    def mul_public(self, p: Point, k: int) -> Point:
        # libsodium has no variable-time multiplication of its own; the constant-time one serves,
        # except for scalars as small as player indices, where a few additions are cheaper.
        k %= self.q
        if not 0 < k < _SMALL:
            return self.mul_secret(p, k)
        total = p.inner
        for bit in bin(k)[3:]:
            total = sodium.crypto_core_ed25519_add(total, total)
            if bit == "1":
                total = sodium.crypto_core_ed25519_add(total, p.inner)
        return Point(self, total, total)

    def add(self, points: Sequence[Point]) -> Point:
        if not points:
            raise identity_error()
        total: bytes = points[0].inner
        for p in points[1:]:
            total = sodium.crypto_core_ed25519_add(total, p.inner)
        if total == _IDENTITY:
            raise identity_error()
        return Point(self, total, total)

    def neg(self, p: Point) -> Point:
        inner = sodium.crypto_core_ed25519_sub(_IDENTITY, p.inner)
        return Point(self, inner, inner)

    def _serialize(self, inner: Any) -> bytes:
        return bytes(inner)


ED25519 = Ed25519()
