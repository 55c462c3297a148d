"""Arithmetic on whole vectors of secrets: masking, and random linear combinations.

Two ways to the same numbers. Few secrets: Python integers. Many: numpy limbs, exact integers in
float64 (below 2^53) and int64. Array operations have no branch that depends on the data; for the
few-secret path the pads, uniform and fresh, blind whatever timing shows. Tests compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from keycairn.curves import Group

PAD_LEN = 48
_SCALAR = 32
#: From how many secrets on numpy wins.
VECTOR_FROM = 12

_Limbs = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]
#: Rows of one step: limb columns of this length stay in the cache.
_ROWS = 2048


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

    def mask(self, streams: Sequence[bytes]) -> list[bytes]:
        """For every pad stream (48 bytes per secret) the encoded masked secrets, 32 bytes each."""
        if len(self._secrets) < VECTOR_FROM:
            return [self._mask_few(stream) for stream in streams]
        step = max(1, _ROWS // len(self._secrets))
        xs = np.tile(_secret_limbs(self._secrets), min(step, len(streams)))
        out: list[bytes] = []
        for i in range(0, len(streams), step):
            out += self._mask_many(streams[i : i + step], xs)
        return out

    def _mask_few(self, stream: bytes) -> bytes:
        encode = self._group.encode_scalar
        starts = range(0, len(stream), PAD_LEN)
        pads = [int.from_bytes(stream[i : i + PAD_LEN], "big") for i in starts]
        return b"".join([encode(x + p) for x, p in zip(self._secrets, pads, strict=True)])

    def _mask_many(self, streams: Sequence[bytes], xs: _Ints) -> list[bytes]:
        wide = np.frombuffer(b"".join(streams), dtype=">u2").reshape(-1, PAD_LEN // 2)
        z = _reduce(self._group.q, wide.T[::-1], xs[:, : wide.shape[0]])
        if self._group.byteorder == "big":
            raw = z[::-1].T.astype(">u2").tobytes()
        else:
            raw = z.T.astype("<u2").tobytes()
        size = _SCALAR * len(self._secrets)
        return [raw[i : i + size] for i in range(0, len(raw), size)]


def _secret_limbs(values: Sequence[int]) -> _Ints:
    # (16, m) limbs, least significant first.
    raw = b"".join([x.to_bytes(_SCALAR, "little") for x in values])
    return np.frombuffer(raw, dtype="<u2").reshape(-1, 16).T.astype(np.int64)


@lru_cache(maxsize=8)
def _constants(q: int) -> tuple[int, _Limbs, _Ints, _Ints]:
    # Bits of q, rounded (252 or 256); 2^(256+16i) mod q as columns of limbs; limbs of q and of
    # q - 2^bits (small for the curves used here, and negative for secp256k1).
    bits = (q * 3 // 2).bit_length() - 1
    fold = [(1 << (256 + 16 * i)) % q for i in range(8)]
    rest = q - (1 << bits)
    sign = 1 if rest > 0 else -1
    return (
        bits,
        _secret_limbs(fold).astype(np.float64),
        _secret_limbs([q])[:, 0],
        sign * _secret_limbs([abs(rest)])[:, 0],
    )


def _carry(v: _Ints) -> None:
    # Limbs to 16 bits, in place; what is left over, with its sign, is in the last row.
    for j in range(len(v) - 1):
        v[j + 1] += v[j] >> 16
        v[j] &= 0xFFFF


def _reduce(q: int, wide: npt.NDArray[np.uint16], xs: _Ints) -> _Ints:
    """``(wide + xs) mod q`` by columns.

    Args:
        q: a group order close to 2^252 or 2^256.
        wide: (24, m) limbs of 384-bit numbers.
        xs: (16, m) limbs of numbers below q.

    Returns:
        (16, m) limbs below 2^16.
    """
    bits, fold, q_limbs, rest = _constants(q)
    v = np.zeros((17, wide.shape[1]), dtype=np.int64)
    # The upper 128 bits come down as multiples of 2^(256+16i) mod q: sums below 2^35, exact.
    v[:16] = fold @ wide[16:].astype(np.float64)
    v[:16] += wide[:16]
    v[:16] += xs
    _carry(v)
    # v < 2^276. With top = v >> bits, v - top*q is in (-2^160, 2^bits + 2^160).
    top = v[16] << (256 - bits)
    if bits < 256:
        top |= v[15] >> (bits - 240)
        v[15] &= (1 << (bits - 240)) - 1
    v[16] = 0
    v[:16] -= rest[:, None] * top
    _carry(v)
    if rest[0] > 0 or bits < 256:  # q above 2^bits: at most one q is missing
        v[:16] += q_limbs[:, None] * -v[16]
        v[16] = 0
        _carry(v)
        return v[:16]
    less = v.copy()
    less[:16] -= q_limbs[:, None]
    _carry(less)
    return np.where(less[16] >= 0, less[:16], v[:16])
