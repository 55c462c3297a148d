"""Integers modulo 2^384 in numpy arrays: six 64-bit limbs, least significant first.

Whole arrays at a time: no branch, no index and no early exit depends on a value, which Python's
integers could not promise.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

LIMBS: Final = 6
BYTES: Final = 8 * LIMBS

#: Shape (…, 6).
U384: TypeAlias = NDArray[np.uint64]


def from_bytes(data: NDArray[np.uint8]) -> U384:
    """(…, 48) big-endian bytes to (…, 6) limbs."""
    words = np.ascontiguousarray(data).view(np.dtype(">u8")).astype(np.uint64)
    return words[..., ::-1]


def to_bytes(x: U384) -> bytes:
    """All numbers in order, 48 bytes big-endian each."""
    return x[..., ::-1].astype(np.dtype(">u8")).tobytes()


def from_ints(values: list[int]) -> U384:
    """(n, 6) limbs of integers in [0, 2^384)."""
    raw = b"".join([v.to_bytes(BYTES, "big") for v in values])
    return from_bytes(np.frombuffer(raw, np.uint8).reshape(len(values), BYTES))


def to_ints(x: U384) -> list[int]:
    """The numbers of an array of any shape, in order."""
    raw = to_bytes(x)
    return [int.from_bytes(raw[k : k + BYTES], "big") for k in range(0, len(raw), BYTES)]


def add(x: U384, y: U384) -> U384:
    """``x + y mod 2^384`` (with broadcasting)."""
    out = x + y
    carry_in = np.zeros(out.shape[:-1], np.uint64)
    for k in range(LIMBS):
        # At most one of the two additions of a limb overflows.
        overflow = out[..., k] < x[..., k]
        limb = out[..., k] + carry_in
        overflow |= limb < carry_in
        out[..., k] = limb
        carry_in = overflow.astype(np.uint64)
    return out


def sub(x: U384, y: U384) -> U384:
    """``x - y mod 2^384`` (with broadcasting): ``x + not y + 1``."""
    return add(add(x, ~y), from_ints([1])[0])


def select(bits: NDArray[np.uint8], if_zero: U384, if_one: U384) -> U384:
    """``if_one`` where the bit is 1, else ``if_zero``: by masks. ``bits`` lacks the limb axis."""
    mask = np.negative(bits.astype(np.uint64))[..., None]
    return if_zero ^ ((if_zero ^ if_one) & mask)
