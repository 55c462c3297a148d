"""Integers modulo 2^384 in numpy arrays: six 64-bit limbs, least significant first.

Whole arrays at a time: no branch, no index and no early exit depends on a value, which Python's
integers could not promise.

The limbs are the last axis of the shape, but not of the memory: :func:`empty` lays out *limb
columns*, in which the same limb of all numbers is contiguous, and the operations below keep that
layout. So each step of a carry chain is a few passes over contiguous memory. Any other layout
gives the same results, slower.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

LIMBS: Final = 6
BYTES: Final = 8 * LIMBS
#: 16-bit digits of a number.
DIGITS: Final = BYTES // 2

_DIGIT = np.uint64(0xFFFF)
_ALL_ONES = np.uint64(2**64 - 1)

# A chunk's arrays are some megabytes. glibc gives such blocks back to the system as soon as they
# are freed, and the page faults of the next ones would cost more than the arithmetic in them. It
# learns from what is freed: one large block, never touched, makes it keep up to twice as much.
# Other allocators are not impressed, and nothing depends on it.
np.empty(31 << 20, np.uint8)

#: Shape (…, 6).
U384: TypeAlias = NDArray[np.uint64]


def empty(*shape: int) -> U384:
    """An uninitialised (*shape, 6) array in limb columns; in memory the order of axes is (limb,
    last axis of ``shape``, the others)."""
    *rest, last = shape
    return np.moveaxis(np.empty((LIMBS, last, *rest), np.uint64), (1, 0), (-2, -1))


def from_bytes(data: NDArray[np.uint8]) -> U384:
    """(…, 48) big-endian bytes to (…, 6) limbs."""
    out = empty(*data.shape[:-1])
    out[...] = np.ascontiguousarray(data).view(np.dtype(">u8"))[..., ::-1]
    return out


def from_blocks(blocks: NDArray[np.uint8]) -> U384:
    """(n, 3w, 16) bytes, three blocks for each number, to (n, w, 6) limbs."""
    count, per_row, _ = blocks.shape
    words = blocks.view(np.dtype(">u8")).transpose(1, 2, 0).reshape(-1, 3, 2, count)
    out = np.empty((per_row // 3, 3, 2, count), np.uint64)
    out[:, ::-1, ::-1] = words
    return out.reshape(-1, LIMBS, count).transpose(2, 0, 1)


def to_bytes(x: U384) -> bytes:
    """All numbers of a (…, w, 6) array in order, 48 bytes big-endian each."""
    out = np.empty(x.shape, np.dtype("<u8"))
    for w in range(x.shape[-2]):
        for k in range(LIMBS):  # A limb column at a time is read in order.
            out[..., w, LIMBS - 1 - k] = x[..., w, k]
    return out.byteswap(inplace=True).tobytes()


def from_ints(values: list[int]) -> U384:
    """(n, 6) limbs of integers in [0, 2^384)."""
    raw = b"".join([v.to_bytes(BYTES, "big") for v in values])
    return from_bytes(np.frombuffer(raw, np.uint8).reshape(len(values), BYTES))


def to_ints(x: U384) -> list[int]:
    """The numbers of an array of any shape, in order."""
    raw = to_bytes(x)
    return [int.from_bytes(raw[k : k + BYTES], "big") for k in range(0, len(raw), BYTES)]


def add(x: U384, y: U384, out: U384 | None = None) -> U384:
    """``x + y mod 2^384``; y may be broadcast to the shape of x. ``out`` may be x, but not y."""
    out = np.add(x, y, out=np.empty_like(x) if out is None else out)
    # A limb of all ones passes on the carry that comes in; it did not overflow by itself.
    out[..., 1:] += _carries(out < y, out == _ALL_ONES)
    return out


def sub(x: U384, y: U384, out: U384 | None = None) -> U384:
    """``x - y mod 2^384``; y may be broadcast to the shape of x. ``out`` may be x or y."""
    borrows = x < y
    out = np.subtract(x, y, out=np.empty_like(x) if out is None else out)
    out[..., 1:] -= _carries(borrows, out == 0)
    return out


def _carries(made: NDArray[np.bool_], passed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Carries (or borrows) into limbs 1 … 5, of those that each limb makes or would pass on."""
    for k in range(1, LIMBS - 1):
        made[..., k] |= passed[..., k] & made[..., k - 1]
    return made[..., :-1]


def digits(x: U384) -> NDArray[np.float64]:
    """(…, w, 6) limbs to (w, 24, …) 16-bit digits, least significant first, for exact products."""
    limbs = np.moveaxis(x, (-2, -1), (0, 1))
    out = np.empty((limbs.shape[0], LIMBS, 4, *limbs.shape[2:]))
    digit = np.empty_like(limbs)
    for k in range(4):
        np.right_shift(limbs, np.uint64(16 * k), out=digit)
        if k < 3:
            digit &= _DIGIT
        out[:, :, k] = digit.view(np.int64)  # signed numbers are faster to make floats of
    return out.reshape(out.shape[0], DIGITS, *limbs.shape[2:])


def select(bits: NDArray[np.uint8], if_zero: U384, if_one: U384) -> U384:
    """``if_one`` where the bit is 1, else ``if_zero``: by masks. ``bits`` lacks the limb axis."""
    return if_zero ^ ((if_zero ^ if_one) & _mask(bits))


def times_bit(bits: NDArray[np.uint8], x: U384) -> U384:
    """``x`` where the bit is 1, else 0: by masks. ``bits`` lacks the limb axis."""
    return x & _mask(bits)


def _mask(bits: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.negative(bits.astype(np.uint64))[..., None]
