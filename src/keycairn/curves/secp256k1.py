"""secp256k1 through libsecp256k1 (coincurve's bundled build).

``base_mul`` is ``secp256k1_ec_pubkey_create`` and ``mul_secret`` is ``secp256k1_ecdh`` with a hash
callback that hands out the whole point: both constant time in the scalar. The low-level ``lib``
is used because coincurve's ``PublicKey.multiply`` is the variable-time tweak.

The points in memory are libsecp256k1's own (uncompressed) form, and are encoded or parsed only
where bytes are wanted or were given.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

from coincurve._libsecp256k1 import ffi, lib
from coincurve.context import GLOBAL_CONTEXT

from keycairn.curves.group import Group, Point, identity_error
from keycairn.errors import Code, KeycairnError

_CTX = GLOBAL_CONTEXT.ctx
_COMPRESSED = 258  # SECP256K1_EC_COMPRESSED
_UNCOMPRESSED = 2  # SECP256K1_EC_UNCOMPRESSED
_PUBKEY = ffi.typeof("secp256k1_pubkey *")
_BYTES_32, _BYTES_33, _BYTES_64, _BYTES_65 = (
    ffi.typeof(f"unsigned char[{n}]") for n in (32, 33, 64, 65)
)
_SIZE = ffi.typeof("size_t *")


@ffi.callback(  # type: ignore[untyped-decorator]
    "int(unsigned char *, const unsigned char *, const unsigned char *, void *)"
)
def _raw_point(output: Any, x: Any, y: Any, _data: Any) -> int:
    ffi.memmove(output, x, 32)
    ffi.memmove(output + 32, y, 32)
    return 1


#: By the parity of y. Python keeps one object for each single byte and for each small integer, and
#: finding another of 256 takes another time (tests/protocols/timing); so no secret byte is made.
_PREFIX = (b"\2", b"\3")


class _Product(Point):
    """A result of ``mul_secret``: it has its bytes, and is parsed when it is calculated with."""

    __slots__ = ("_raw",)

    def __init__(self, group: Group, raw: bytes) -> None:
        self.group = group
        self._raw = raw  # x and y
        self._encoded = _PREFIX[int.from_bytes(raw[32:], "big") & 1] + raw[:32]

    def __getattr__(self, name: str) -> Any:
        if name != "inner":  # the slot that is still empty
            raise AttributeError(name)
        inner = ffi.new(_PUBKEY)
        if not lib.secp256k1_ec_pubkey_parse(_CTX, inner, b"\4" + self._raw, 65):
            raise identity_error()
        self.inner = inner
        return inner


class Secp256k1(Group):
    """Points are 33-byte compressed SEC1; scalars 32 bytes big-endian."""

    name = "secp256k1"
    q = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    p = 2**256 - 2**32 - 977
    point_len = 33

    def decode_point(self, data: object) -> Point:
        if not isinstance(data, bytes) or len(data) != 33 or data[0] not in (2, 3):
            raise KeycairnError(Code.BAD_POINT, "not a compressed secp256k1 point")
        inner = ffi.new(_PUBKEY)
        # Parsing checks x < p and the curve equation; the cofactor is 1.
        if not lib.secp256k1_ec_pubkey_parse(_CTX, inner, data, 33):
            raise KeycairnError(Code.BAD_POINT, "not a point of secp256k1")
        return Point(self, inner, data)

    def base_mul(self, k: int) -> Point:
        inner = ffi.new(_PUBKEY)
        if not lib.secp256k1_ec_pubkey_create(_CTX, inner, self._scalar(k)):
            raise identity_error()
        return Point(self, inner)

    def mul_secret(self, p: Point, k: int) -> Point:
        out = ffi.new(_BYTES_64)
        if not lib.secp256k1_ecdh(_CTX, out, p.inner, self._scalar(k), _raw_point, ffi.NULL):
            raise identity_error()
        return _Product(self, bytes(ffi.buffer(out)))

    def is_product(self, p: Point, k: int, expected: Point) -> bool:
        # The library's own hash of an ECDH result is SHA-256 of the compressed point.
        out = ffi.new(_BYTES_32)
        if not lib.secp256k1_ecdh(_CTX, out, p.inner, self._scalar(k), ffi.NULL, ffi.NULL):
            raise identity_error()
        return hmac.compare_digest(
            bytes(ffi.buffer(out)), hashlib.sha256(expected.encode()).digest()
        )

    def mul_public(self, p: Point, k: int) -> Point:
        inner = ffi.new(_PUBKEY, p.inner[0])
        if not lib.secp256k1_ec_pubkey_tweak_mul(_CTX, inner, self._scalar(k)):
            raise identity_error()
        return Point(self, inner)

    def add(self, points: Sequence[Point]) -> Point:
        if len(points) == 1:
            return points[0]
        inner = ffi.new(_PUBKEY)
        handles = [p.inner for p in points]
        if not handles or not lib.secp256k1_ec_pubkey_combine(_CTX, inner, handles, len(handles)):
            raise identity_error()
        return Point(self, inner)

    def neg(self, p: Point) -> Point:
        inner = ffi.new(_PUBKEY, p.inner[0])
        lib.secp256k1_ec_pubkey_negate(_CTX, inner)
        return Point(self, inner)

    def coordinates(self, p: Point) -> tuple[int, int]:
        """Affine (x, y)."""
        raw = self.uncompressed(p)
        return int.from_bytes(raw[1:33], "big"), int.from_bytes(raw[33:], "big")

    def uncompressed(self, p: Point) -> bytes:
        """65-byte uncompressed SEC1 encoding."""
        return self._out(p.inner, _BYTES_65, 65, _UNCOMPRESSED)

    def hash_to_point(self, uniform: bytes) -> Point:
        """ElligatorSwift decoding of 64 uniform bytes (SwiftEC: indifferentiable from random).

        Takes variable time in its input (dkls23.md section 2 says what that means for base OTs).
        """
        if len(uniform) != 64:
            raise ValueError("ElligatorSwift takes 64 bytes")
        inner = ffi.new(_PUBKEY)
        lib.secp256k1_ellswift_decode(_CTX, inner, uniform)
        return Point(self, inner)

    def _serialize(self, inner: Any) -> bytes:
        return self._out(inner, _BYTES_33, 33, _COMPRESSED)

    def _scalar(self, k: int) -> bytes:
        return (k % self.q).to_bytes(32, "big")

    @staticmethod
    def _out(inner: Any, kind: Any, size: int, flags: int) -> bytes:
        buf = ffi.new(kind)
        lib.secp256k1_ec_pubkey_serialize(_CTX, buf, ffi.new(_SIZE, size), inner, flags)
        return bytes(ffi.buffer(buf))


SECP256K1 = Secp256k1()
