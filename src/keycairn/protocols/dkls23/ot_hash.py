"""The OT hash: from a 16-byte OT column to three masks of 384 bits.

TMMO of Guo, Katz, Wang, Yu, *Efficient and Secure Multiparty Computation from Fixed-Key Block
Ciphers* (eprint 2019/074), with an AES-128 key of its own for every chunk::

    y' = AES_K(y),      block b = AES_K(y' ⊕ (C ‖ b)) ⊕ y',      b = 0 … 8

C (the column's number in the chunk) and b are 8 bytes little-endian each. It is tweakable
correlation-robust in the ideal-cipher model: with Δ unknown, the hashes of y and y ⊕ Δ look
unrelated. The column number is in the tweak because equal columns would else give equal masks,
and session, chunk, direction and setup are in the key.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from keycairn.encoding import tag, xof
from keycairn.protocols.dkls23.ote import Lane
from keycairn.protocols.dkls23.parameters import COLUMNS, MASK_LEN

_BLOCKS: Final = COLUMNS * MASK_LEN // 16  # 9
_KEY = tag("ote/hashkey")


class OtHash:
    """The hash of one chunk's columns."""

    def __init__(self, lane: Lane) -> None:
        key = xof(16, _KEY, lane.vid)
        # ECB is the bare permutation here: every block is its own input to the hash.
        self._aes = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305

    def _permute(self, blocks: NDArray[np.uint64]) -> NDArray[np.uint64]:
        out = self._aes.encryptor().update(blocks.tobytes())
        return np.frombuffer(out, np.dtype("<u8")).reshape(blocks.shape)

    def __call__(self, columns: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Hash column C = 0 … n-1 of an (n, 16) array; gives (n, 3, 48): the masks' bytes."""
        n = len(columns)
        inner = self._permute(np.ascontiguousarray(columns).view(np.dtype("<u8")))
        tweak = np.empty((n, _BLOCKS, 2), np.dtype("<u8"))
        tweak[:, :, 0] = np.arange(n)[:, None]
        tweak[:, :, 1] = np.arange(_BLOCKS)
        outer = self._permute(tweak ^ inner[:, None, :]) ^ inner[:, None, :]
        return outer.view(np.uint8).reshape(n, COLUMNS, MASK_LEN)
