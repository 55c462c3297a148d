"""Schnorr signatures for Bitcoin: the public side of BIP-340, and the taproot tweak of BIP-341.

BIP-340 knows a public key by its x-coordinate alone and means the point with the even y. A key
whose point X has an odd y therefore signs as -x; a taproot key signs as (±x + t), negated once
more if that sum's point is odd. Both are the same kind of rule, ``±x + offset``, which
:class:`OutputKey` writes down: it is applied where a key is *used* and never stored, so that a
key record stays a plain secp256k1 record.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from coincurve import PublicKeyXOnly

from keycairn.curves.group import Point
from keycairn.curves.secp256k1 import SECP256K1
from keycairn.errors import Code, KeycairnError, malformed

_Q = SECP256K1.q


@lru_cache(maxsize=8)
def _started(tag: str) -> Any:
    # The doubled hash of the tag fills one block of SHA-256: it is hashed once per tag.
    half = hashlib.sha256(tag.encode("ascii")).digest()
    return hashlib.sha256(half + half)


def tagged_hash(tag: str, data: bytes) -> bytes:
    """BIP-340's ``hash_tag(data)``. ``tag`` is a literal of a standard."""
    state = _started(tag).copy()
    state.update(data)
    return bytes(state.digest())


def x_only(p: Point) -> bytes:
    """The 32 bytes by which BIP-340 knows a point."""
    return p.encode()[1:]


def with_even_y(p: Point) -> tuple[bool, Point]:
    """The point that BIP-340 means by the x-coordinate of ``p``, and whether that is ``-p``."""
    odd = p.encode()[0] == 3
    return odd, SECP256K1.neg(p) if odd else p


@dataclass(frozen=True)
class OutputKey:
    """The key Q, with even y, that verifiers see of a key X: ``Q = ±X + offset·G``.

    Attributes:
        point: Q.
        negated: whether X is taken with a minus sign.
        offset: below the group order; public.
    """

    point: Point
    negated: bool
    offset: int

    def private(self, x: int) -> int:
        """Q's private key from X's, and a share of it from a share of X's."""
        return ((-x if self.negated else x) + self.offset) % _Q


def even_key(x: Point) -> OutputKey:
    """The key as BIP-340 signs with it, without a tweak."""
    odd, point = with_even_y(x)
    return OutputKey(point, odd, 0)


def taproot_key(x: Point, merkle_root: bytes = b"") -> OutputKey:
    """The taproot output key of an internal key (BIP-341, ``taproot_tweak_pubkey``).

    Args:
        x: the internal key; its sign is dropped first, as the BIP has it.
        merkle_root: root of the script tree, 32 bytes, or empty for an output that can be spent
            with the key only (BIP-86).

    Raises:
        KeycairnError: E_MALFORMED for a root of another length; E_BAD_SCALAR and E_BAD_POINT for
            the keys, one in 2^128, that have no output key.
    """
    if len(merkle_root) not in (0, 32):
        raise malformed("a merkle root has 32 bytes")
    odd, inner = with_even_y(x)
    t = int.from_bytes(tagged_hash("TapTweak", x_only(x) + merkle_root), "big")
    if not 0 < t < _Q:
        raise KeycairnError(Code.BAD_SCALAR, "this key has no taproot output key")
    flipped, point = with_even_y(SECP256K1.add([inner, SECP256K1.base_mul(t)]))
    return OutputKey(point, odd != flipped, (-t if flipped else t) % _Q)


def verify(public_key: bytes, message: bytes, signature: bytes) -> None:
    """BIP-340 verification (libsecp256k1) of a message of any length.

    Args:
        public_key: x-only (32 bytes), or a compressed point (33), whose sign is ignored.

    Raises:
        KeycairnError: E_SIG_INVALID.
    """
    if len(signature) != 64 or len(public_key) not in (32, 33):
        raise KeycairnError(
            Code.SIG_INVALID, "a BIP-340 signature is 64 bytes, a key 32, or 33 with its sign"
        )
    try:
        valid = PublicKeyXOnly(public_key[-32:]).verify(signature, message)
    except ValueError:
        valid = False
    if not valid:
        raise KeycairnError(Code.SIG_INVALID, "the signature does not verify")
