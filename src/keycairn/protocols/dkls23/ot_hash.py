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
_WORD: Final = np.dtype("<u8")
_KEY = tag("ote/hashkey")


class OtHash:
    """The hash of one chunk's columns."""

    def __init__(self, lane: Lane) -> None:
        key = xof(16, _KEY, lane.vid)
        # ECB is the bare permutation here: every block is its own input to the hash.
        self._aes = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305

    def __call__(self, columns: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Hash column C = 0 … n-1 of an (n, 16) array; gives (n, 9, 16): the masks' bytes.

        In memory block b of all columns is contiguous: so each step is a pass over whole arrays.
        """
        n = len(columns)
        inner = self._permute(np.ascontiguousarray(columns).view(_WORD).reshape(n, 2))
        numbered = inner.copy()
        numbered[:, 0] ^= np.arange(n, dtype=_WORD)
        tweaked = np.empty((_BLOCKS, n, 2), _WORD)
        tweaked[...] = numbered
        tweaked[:, :, 1] ^= np.arange(_BLOCKS, dtype=_WORD)[:, None]
        outer = self._permute(tweaked)
        outer ^= inner
        return outer.view(np.uint8).transpose(1, 0, 2)

    def _permute(self, blocks: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """AES_K of every block, in one call; the result is a new array."""
        size = blocks.nbytes
        out = np.empty(size + 15, np.uint8)  # update_into asks for room of a block less one byte
        self._aes.encryptor().update_into(blocks.reshape(-1).view(np.uint8).data, out.data)
        return out[:size].view(_WORD).reshape(blocks.shape)
