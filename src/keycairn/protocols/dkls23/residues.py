"""Linear combinations of many numbers modulo q, as one exact float64 matrix product.

The VOLE check needs ``Σ_w weight_w·x_w mod q`` for every OT, as 32 canonical bytes. The numbers
come as 16-bit digits (:func:`u384.digits`), and the matrix holds ``weight_w·2^(16t) mod q`` for
every digit t of every w, in eight digits to base 2^32, balanced around zero. Its product with the
digits of the numbers is the combination modulo q, up to carries and a small multiple of q.

Bounds, for 2^255 < q < 2^256. A digit of a number is below 2^16, one of the matrix at most 2^31
in size; of the 72 products in a sum, those of the 16 low digits of the number with weight 1 make
up one plain digit below 2^32, the other 56 stay below 2^47 each. The matrix stands for numbers of
size at most h = Σ_k 2^(31+32k) < 2^255·(1 + 2^-31)::

    |sum| < 56·2^47 + 2^32 < 2^53         so float64 adds them exactly, in any order
    |V|   < 56·2^16·h + 2^256 < 2^22·q    for V = Σ_k sum_k·2^(32k)

Everything after the product is int64 on whole arrays: no branch or index depends on a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from keycairn.protocols.dkls23.u384 import DIGITS

_BITS: Final = 32
_COUNT: Final = 256 // _BITS
_BASE: Final = 1 << _BITS
#: Added as a multiple of q, so that V becomes positive: |V| < 2^22·q.
_OFFSET: Final = 1 << 22
#: h, 2^31 in every digit. The plain digits of x + h, less 2^31 each, are balanced digits of x.
_HALVES: Final = sum((_BASE // 2) << (_BITS * k) for k in range(_COUNT))
#: Plain digits of 2^(16t), t < 16: the low digits of the number with weight 1 stand as they are.
_ONE: Final = np.array(
    [[(1 << (16 * t)) >> (_BITS * k) & (_BASE - 1) for k in range(_COUNT)] for t in range(16)],
    np.float64,
)

Columns = NDArray[np.int64]


def combine(
    q: int, weights: Sequence[int], digits: NDArray[np.float64], minus: Columns | None = None
) -> bytes:
    """``Σ_w weights[w]·x_w - minus mod q`` for every number, 32 bytes big-endian each.

    Args:
        weights: in [0, q), at most three; public. The last is 1.
        digits: (w, 24, slots, n): the digits of the numbers.
        minus: (8, slots, n): base-2^32 digits of numbers in [0, q].
    """
    slots, count = digits.shape[2:]
    # A product for every slot: small ones that OpenBLAS does not spread over threads, whose
    # waiting for each other would cost more than they save.
    by_slot = digits.reshape(-1, slots, count).transpose(1, 0, 2)
    sums = np.empty((_COUNT, slots, count))
    np.matmul(_matrix(q, weights), by_slot, out=sums.transpose(1, 0, 2))
    value = sums.astype(np.int64)
    value += split([_OFFSET * q])[:, :, None]
    if minus is not None:
        value -= minus
    return _bytes(_reduced(value.reshape(_COUNT, -1), q))


def split(values: Sequence[int]) -> Columns:
    """(8, n): base-2^32 digits of numbers below 2^287; the last digit takes what is left."""
    rows = [[(v >> (_BITS * k)) % _BASE for v in values] for k in range(_COUNT - 1)]
    rows.append([v >> (_BITS * (_COUNT - 1)) for v in values])
    return np.array(rows, np.int64)


def _matrix(q: int, weights: Sequence[int]) -> NDArray[np.float64]:
    """(8, 24·w): at [k, 24·w + t] digit k of ``weights[w]·2^(16t) mod q``."""
    shifted = [(weight << (16 * t)) + _HALVES for weight in weights for t in range(DIGITS)]
    rows = b"".join([(value % q).to_bytes(32, "little") for value in shifted])
    terms = np.frombuffer(rows, np.dtype("<u4")).reshape(-1, _COUNT) - float(_BASE // 2)
    last = DIGITS * (len(weights) - 1)
    terms[last : last + len(_ONE)] = _ONE
    return np.ascontiguousarray(terms.T)


def _reduced(value: Columns, q: int) -> Columns:
    """Canonical digits of V mod q, for 0 ≤ V < 2^23·q and digits below 2^54 (the last 2^56)."""
    # The last digit alone, before any carry, gives V/q up to 2^-8: the others make up less than
    # 2^55·2^192, and q is above 2^255. With 2^-8 off, the quotient is right or one too small.
    quotient = np.floor(value[-1] * (2.0**224 / q) - 2.0**-8).astype(np.int64)
    value -= quotient * split([q])
    _carry(value)
    less = value - split([q])
    _carry(less)
    # 0 ≤ value < 2q. All ones where value < q, which shows as a negative top digit of value - q.
    keep = less[-1] >> 63
    less ^= (less ^ value) & keep
    return less


def _carry(value: Columns) -> None:
    """Bring all digits but the last into [0, 2^32), in place."""
    for k in range(_COUNT - 1):
        value[k + 1] += value[k] >> _BITS
        value[k] &= _BASE - 1


def _bytes(value: Columns) -> bytes:
    return value[::-1].T.astype(np.dtype(">u4")).tobytes()
