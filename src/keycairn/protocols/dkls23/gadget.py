"""The gadget vector: 416 public scalars per curve, and inner products with it.

``g_j`` comes from a hash of the curve's name and j alone, so no party ever chooses it. Bob's
multiplicand is ``Σ_j β_j·g_j`` of his choice bits β (DKLs18/23 encode a scalar as random bits).
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from keycairn.curves import Group
from keycairn.encoding import tag, to_scalar
from keycairn.protocols.dkls23.parameters import XI
from keycairn.protocols.dkls23.u384 import U384

_GADGET = tag("gadget")

# Inner products are float64 matrix products of 16-bit limbs. A product of two limbs is below
# 2^32, a sum of 416 of them below 2^41, and float64 is exact up to 2^53.
_LIMB_BITS: Final = 16
_SCALAR_LIMBS: Final = 256 // _LIMB_BITS
_MASK_LIMBS: Final = 384 // _LIMB_BITS


@cache
def vector(group: Group) -> tuple[int, ...]:
    """``g_0 … g_415``."""
    return tuple(to_scalar(group.q, _GADGET, group.name, j) for j in range(XI))


@cache
def _limbs(group: Group) -> NDArray[np.float64]:
    """(16, 416): limb s of g_j at [s, j]."""
    raw = b"".join(g.to_bytes(32, "little") for g in vector(group))
    limbs = np.frombuffer(raw, np.dtype("<u2")).reshape(XI, _SCALAR_LIMBS)
    return np.ascontiguousarray(limbs.T.astype(np.float64))


def _from_digits(digits: NDArray[np.int64], q: int) -> list[int]:
    """Rows of (not normalised) base-2^16 digits to integers mod q."""
    return [
        sum(digit << (_LIMB_BITS * k) for k, digit in enumerate(row)) % q for row in digits.tolist()
    ]


def encode_choices(group: Group, choices: NDArray[np.uint8]) -> list[int]:
    """``Σ_j β_{s,j}·g_j mod q`` for every slot; ``choices`` is (416·slots,) of 0 and 1."""
    digits = choices.reshape(-1, XI).astype(np.float64) @ _limbs(group).T
    return _from_digits(digits.astype(np.int64), group.q)


def inner_products(group: Group, values: U384) -> list[int]:
    """``Σ_j g_j·values[s, j] mod q`` for every slot s; ``values`` is (slots, 416, 6)."""
    raw = np.ascontiguousarray(values.astype(np.dtype("<u8")))
    limbs = raw.view(np.dtype("<u2")).astype(np.float64)  # (slots, 416, 24)
    products = np.matmul(_limbs(group), limbs).astype(np.int64)  # (slots, 16, 24)
    digits = np.zeros((len(values), _SCALAR_LIMBS + _MASK_LIMBS - 1), np.int64)
    for s in range(_SCALAR_LIMBS):
        digits[:, s : s + _MASK_LIMBS] += products[:, s]
    return _from_digits(digits, group.q)
