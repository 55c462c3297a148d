"""Arithmetic on whole vectors of secrets: masking, and random linear combinations.

Two ways to the same numbers. Few secrets: Python integers. Many: numpy limbs, exact integers in
float64 (below 2^53) and int64. Array operations have no branch that depends on the data; for the
few-secret path the pads, uniform and fresh, blind whatever timing shows. Tests compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from keycairn.curves import Group

PAD_LEN = 48
_SCALAR = 32
#: From how many secrets on numpy wins.
VECTOR_FROM = 12

_Limbs = npt.NDArray[np.float64]


def _limbs(data: bytes, width: int, order: str) -> _Limbs:
    """``(m, width/2)`` 16-bit limbs, least significant first, of m integers of ``width`` bytes."""
    raw = np.frombuffer(data, dtype=">u2" if order == "big" else "<u2").reshape(-1, width // 2)
    return (raw[:, ::-1] if order == "big" else raw).astype(np.float64)


class Combiner:
    """``sum rho_m * v_m mod q`` for fixed coefficients rho (128 bits) and many vectors v."""

    def __init__(self, group: Group, rho: Sequence[int]) -> None:
        self._group = group
        self._rho = list(rho)
        self._matrix: _Limbs | None = None
        if len(self._rho) >= VECTOR_FROM:
            raw = b"".join([r.to_bytes(16, "little") for r in self._rho])
            self._matrix = _limbs(raw, 16, "little").T.copy()

    def pads(self, stream: bytes) -> int:
        """Of unreduced pads, 48 bytes each, big-endian."""
        return self._combine(stream, PAD_LEN, "big")

    def scalars(self, z: bytes) -> int:
        """Of encoded scalars."""
        return self._combine(z, _SCALAR, self._group.byteorder)

    def _combine(self, data: bytes, width: int, order: str) -> int:
        if self._matrix is None:
            total = 0
            for i, r in enumerate(self._rho):
                raw = data[i * width : (i + 1) * width]
                total += r * int.from_bytes(raw, order)  # type: ignore[arg-type]
            return total % self._group.q
        # Products of 16-bit limbs: below 2^32, so 2^21 of them sum exactly in a float64.
        product = self._matrix @ _limbs(data, width, order)
        total = 0
        for i, row in enumerate(product.astype(np.int64).tolist()):
            value = 0
            for limb in reversed(row):
                value = (value << 16) + limb
            total += value << (16 * i)
        return total % self._group.q


class Masker:
    """``z = x + p mod q`` for one curve's fixed secrets x and many pad streams."""

    def __init__(self, group: Group, secrets: Sequence[int]) -> None:
        self._group = group
        self._secrets = list(secrets)

    def mask(self, stream: bytes) -> bytes:
        """Encoded masked secrets, 32 bytes each."""
        group = self._group
        return b"".join(
            [
                group.encode_scalar(x + int.from_bytes(stream[i : i + PAD_LEN], "big"))
                for x, i in zip(self._secrets, range(0, len(stream), PAD_LEN), strict=True)
            ]
        )
