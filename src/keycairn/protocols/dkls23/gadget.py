"""The gadget vector: 416 public scalars per curve, and inner products with it.

``g_j`` comes from a hash of the curve's name and j alone, so no party ever chooses it. Bob's
multiplicand is ``Σ_j β_j·g_j`` of his choice bits β (DKLs18/23 encode a scalar as random bits).

The inner products are two exact float64 matrix products:

1. 16-bit digits of the numbers by 28-bit limbs of the gadget. A product is below 2^44, a sum of
   416 of them below 2^53, up to which float64 is exact.
2. Those sums again in 16-bit digits, by ``2^(16t + 28s + 16p) mod q`` in balanced 28-bit limbs
   (at most 2^27 in size): 960 products below 2^43, a sum below 2^53.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from keycairn.curves import Group
from keycairn.encoding import tag, to_scalar
from keycairn.protocols.dkls23 import u384
from keycairn.protocols.dkls23.parameters import XI
from keycairn.protocols.dkls23.u384 import DIGITS, U384

_GADGET = tag("gadget")

_BITS: Final = 28
_LIMBS: Final = 10
_POSITIVE: Final = 1 << 53
_ADDED: Final = sum(_POSITIVE << (_BITS * s) for s in range(_LIMBS))
#: 16-bit digits of a sum below 2^53.
_PARTS: Final = 4


@cache
def vector(group: Group) -> tuple[int, ...]:
    """``g_0 … g_415``."""
    return tuple(to_scalar(group.q, _GADGET, group.name, j) for j in range(XI))


@cache
def _limbs(group: Group) -> NDArray[np.float64]:
    """(416, 10): limb s of g_j at [j, s]."""
    rows = [[(g >> (_BITS * s)) % (1 << _BITS) for s in range(_LIMBS)] for g in vector(group)]
    return np.array(rows, np.float64)


@cache
def _reduction(group: Group) -> NDArray[np.float64]:
    """(960, 10): limbs of ``2^(16t + 28s + 16p) mod q``; rows in the order (t, s, p)."""
    exponents = [
        16 * t + _BITS * s + 16 * p
        for t in range(DIGITS)
        for s in range(_LIMBS)
        for p in range(_PARTS)
    ]
    return np.array([_balanced(pow(2, e, group.q), group.q) for e in exponents], np.float64)


def _balanced(value: int, q: int) -> list[int]:
    """Limbs of the representative of ``value`` in (-q/2, q/2)."""
    half = 1 << (_BITS - 1)
    if value > q // 2:
        value -= q
    out = []
    for _ in range(_LIMBS):
        limb = (value + half) % (2 * half) - half
        out.append(limb)
        value = (value - limb) >> _BITS
    return out


def _from_limbs(limbs: NDArray[np.float64], q: int) -> list[int]:
    """Rows of ten limbs to base 2^28, each of size below 2^53 (not normalised), mod q."""
    # Made positive, a limb fits the seven bytes from one limb to the next but one: so a row is
    # two integers whose bytes lie side by side.
    raw = (limbs.astype(np.dtype("<i8")) + _POSITIVE).view(np.uint8).reshape(-1, _LIMBS // 2, 2, 8)
    even, odd = (raw[:, :, k, :7].tobytes() for k in (0, 1))
    size = 7 * _LIMBS // 2
    return [
        (
            int.from_bytes(even[k : k + size], "little")
            + (int.from_bytes(odd[k : k + size], "little") << _BITS)
            - _ADDED
        )
        % q
        for k in range(0, len(even), size)
    ]


def encode_choices(group: Group, choices: NDArray[np.uint8]) -> list[int]:
    """``Σ_j β_{s,j}·g_j mod q`` for every slot; ``choices`` is (416·slots,) of 0 and 1."""
    return _from_limbs(choices.reshape(-1, XI).astype(np.float64) @ _limbs(group), group.q)


def inner_products(group: Group, values: U384) -> list[int]:
    """``Σ_j g_j·values[s, j] mod q`` for every slot s; ``values`` is (slots, 416, 6)."""
    return products(group, u384.digits(values[:, :, None, :]))


def products(group: Group, digits: NDArray[np.float64]) -> list[int]:
    """``Σ_j g_j·x_{w,s,j} mod q`` for every w and, within it, every slot s.

    Args:
        digits: (w, 24, slots, 416): the digits of the numbers x.
    """
    # Both steps in products that are small enough for OpenBLAS to stay on one thread: one for
    # every slot, then one for every w.
    sums = np.matmul(digits.transpose(0, 2, 1, 3), _limbs(group)).astype(np.dtype("<i8"))
    parts = sums.view(np.dtype("<u2"))  # (w, slots, 24, 10 · 4)
    rows = parts.reshape(*sums.shape[:2], -1).astype(np.float64)
    return _from_limbs(np.matmul(rows, _reduction(group)), group.q)
