"""The small interface that every curve gives to the protocols.

Rules for callers
    * A secret scalar goes only through :meth:`Group.base_mul` and :meth:`Group.mul_secret`: these
      are single calls into constant-time C code (performance.md section 1). ``mul_public`` and
      ``combine`` take variable time.
    * Bytes from outside become points and scalars only through ``decode_point`` and
      ``decode_scalar`` (R-07).
    * The identity is not a :class:`Point`. An operation that would give it raises
      ``KeycairnError(E_BAD_POINT)``; a protocol treats that as an abort.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import gmpy2  # type: ignore[import-untyped]

from keycairn.errors import Code, KeycairnError
from keycairn.ports import Rng, randbelow


class Point:
    """A checked element of a prime-order group, never the identity. Immutable.

    Equality is that of the canonical encodings. ``inner`` is the library's own form and belongs
    to the group that made it.
    """

    __slots__ = ("_encoded", "group", "inner")

    def __init__(self, group: Group, inner: Any, encoded: bytes | None = None) -> None:
        self.group = group
        self.inner = inner
        self._encoded = encoded

    def encode(self) -> bytes:
        """Canonical encoding, ``group.point_len`` bytes."""
        if self._encoded is None:
            self._encoded = self.group._serialize(self.inner)
        return self._encoded

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Point)
            and self.group is other.group
            and self.encode() == other.encode()
        )

    def __hash__(self) -> int:
        return hash((self.group.name, self.encode()))

    def __repr__(self) -> str:
        return f"Point({self.group.name}, {self.encode().hex()})"


class Group(ABC):
    """A group of prime order ``q`` with generator G.

    Attributes:
        name: the curve's name in records and on the wire.
        q: the group order.
        point_len: bytes of an encoded point (33 SEC1 compressed, or 32 for Ed25519).
        scalar_len: bytes of an encoded scalar, 32.
        byteorder: "big", or "little" for Ed25519 (as RFC 8032 and RFC 9591 have it).
    """

    name: str
    q: int
    point_len: int
    scalar_len: int = 32
    byteorder: str = "big"

    # -- scalars ---------------------------------------------------------------------------

    def random_scalar(self, rng: Rng) -> int:
        """Uniform in [1, q)."""
        return 1 + randbelow(rng, self.q - 1)

    def encode_scalar(self, k: int) -> bytes:
        """``k mod q`` as ``scalar_len`` bytes in this curve's byte order."""
        return (k % self.q).to_bytes(self.scalar_len, self.byteorder)  # type: ignore[arg-type]

    def decode_scalar(self, data: object, *, nonzero: bool = False) -> int:
        """Strict inverse of :meth:`encode_scalar`.

        Raises:
            KeycairnError: E_BAD_SCALAR for another type or length, a value >= q, or a zero where
                ``nonzero`` is asked.
        """
        if not isinstance(data, bytes) or len(data) != self.scalar_len:
            raise KeycairnError(Code.BAD_SCALAR, f"a scalar must be {self.scalar_len} bytes")
        k = int.from_bytes(data, self.byteorder)  # type: ignore[arg-type]
        if k >= self.q:
            raise KeycairnError(Code.BAD_SCALAR, "scalar is not below the group order")
        if nonzero and k == 0:
            raise KeycairnError(Code.BAD_SCALAR, "scalar is zero")
        return k

    def inverse(self, k: int) -> int:
        """1/k mod q for a *public* k (variable time). Raises E_BAD_SCALAR for 0."""
        if k % self.q == 0:
            raise KeycairnError(Code.BAD_SCALAR, "zero has no inverse")
        return int(gmpy2.invert(k, self.q))

    # -- points ----------------------------------------------------------------------------

    @abstractmethod
    def decode_point(self, data: object) -> Point:
        """Decode a canonical encoding: on the curve, prime-order subgroup, not the identity.

        Raises:
            KeycairnError: E_BAD_POINT for anything else.
        """

    @abstractmethod
    def base_mul(self, k: int) -> Point:
        """``k*G``, constant time in k. Raises E_BAD_POINT if k is 0 mod q."""

    @abstractmethod
    def mul_secret(self, p: Point, k: int) -> Point:
        """``k*P``, constant time in k. Raises E_BAD_POINT if k is 0 mod q."""

    def is_product(self, p: Point, k: int, expected: Point) -> bool:
        """Whether ``k*P`` is ``expected``; constant time in k. Raises E_BAD_POINT if k is 0."""
        return self.mul_secret(p, k) == expected

    @abstractmethod
    def mul_public(self, p: Point, k: int) -> Point:
        """``k*P``, variable time: public k only. Raises E_BAD_POINT if k is 0 mod q."""

    @abstractmethod
    def add(self, points: Sequence[Point]) -> Point:
        """Sum of one or more points. Raises E_BAD_POINT if it is the identity."""

    @abstractmethod
    def neg(self, p: Point) -> Point:
        """``-P``."""

    @abstractmethod
    def _serialize(self, inner: Any) -> bytes: ...

    def combine(self, terms: Iterable[tuple[int, Point]]) -> Point:
        """``sum k*P`` with public scalars (variable time); terms with k = 0 are skipped.

        Raises:
            KeycairnError: E_BAD_POINT if the sum is the identity or there is no term left.
        """
        parts = [
            p if k == 1 else self.mul_public(p, k)
            for k, p in ((k % self.q, p) for k, p in terms)
            if k
        ]
        if not parts:
            raise KeycairnError(Code.BAD_POINT, "the sum is the identity")
        return self.add(parts)

    def __repr__(self) -> str:
        return f"Group({self.name})"


def identity_error() -> KeycairnError:
    """The error for a result that is the identity."""
    return KeycairnError(Code.BAD_POINT, "the result is the identity")
