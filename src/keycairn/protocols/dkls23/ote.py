"""Correlated OT extension: SoftSpokenOT with k = 1, in the form of the corrected KOS.

Roy, *SoftSpokenOT* (eprint 2022/192); Keller, Orsini, Scholl (eprint 2015/546, the revision with
the replaced protocol). From 128 base OTs, Bob (the receiver) with choice bits x and Alice (the
sender) with Δ get rows with ``Q_i = T_i ⊕ Δ_i·x``, or by columns ``q_C = t_C ⊕ x_C·Δ``.

    Bob     T_i = PRG(k_{i,0}),  u_i = T_i ⊕ PRG(k_{i,1}) ⊕ x          sends u
            challenge from the whole u, universal hash R of whole rows
            x̂ = R(x),  t̂_i = R(T_i)                                   sends x̂, t̂
    Alice   Q_i = PRG(k_{i,Δi}) ⊕ Δ_i·u_i
            check: R(Q_i) = t̂_i ⊕ Δ_i·x̂  for all 128 rows

The check compares a hash of every *row*; the one of KOS as first printed compared a combination
of columns and is not used. A cheater passes it on an inconsistent row only by guessing that row's
Δ_i, so each failure tells it something about the long-lived Δ: hence the ban, and hence nothing
here raises on failure (the caller judges all peers and all chunks first).

Bit order: bit C of a row is bit ``C mod 8``, least significant first, of byte ``C // 8``.
"""

from __future__ import annotations

import dataclasses
import hmac
from functools import cached_property
from hashlib import shake_128
from typing import TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from keycairn.encoding import digest, encode, field, header, tag, xof
from keycairn.ports import Rng
from keycairn.protocols.dkls23.parameters import CHECK_LEN, ROWS, XI, choice_len, row_len

Bytes2D: TypeAlias = NDArray[np.uint8]

_VOLE = tag("vole")
_PRG = tag("ote/prg")
_U = tag("ote/u")
_CHI = tag("ote/chi")
_MESSAGE = tag("ote/msg")

_NONCE = bytes(12)
#: How a row's number and key length are encoded, between vid and the key.
_ROW_FIELDS = [field(i) + field(bytes(16))[:-16] for i in range(ROWS)]
#: Transposition of 8 × 8 bits in a word: distance of the two that are swapped, mask of one.
_SWAPS = [
    (np.uint64(7), np.uint64(0x00AA00AA00AA00AA)),
    (np.uint64(14), np.uint64(0x0000CCCC0000CCCC)),
    (np.uint64(28), np.uint64(0x00000000F0F0F0F0)),
]


@dataclasses.dataclass(frozen=True)
class Lane:
    """One direction of one chunk between two players: everything that its hashes bind.

    Attributes:
        sid: the session id, 32 bytes (covers key, generation, signer set, all nonces).
        chunk: number of the chunk in the session.
        bob: the player who has the choice bits.
        alice: the player who has Δ.
        setup_id: the pair's setup, 32 bytes.
        slots: presignatures in this chunk, 1 to 16.
    """

    sid: bytes
    chunk: int
    bob: int
    alice: int
    setup_id: bytes
    slots: int

    @cached_property
    def vid(self) -> bytes:
        """The injective encoding of (sid, chunk, bob, alice, setup id)."""
        return encode(_VOLE, self.sid, self.chunk, self.bob, self.alice, self.setup_id)


@dataclasses.dataclass(frozen=True)
class OtMessage:
    """What Bob sends for one chunk; lengths are checked before it is made from a message.

    Attributes:
        u: 128 rows of ``row_len(slots)`` bytes, concatenated.
        x_hat: R(x), 32 bytes.
        t_hat: R(T_0) … R(T_127), 128 × 32 bytes.
    """

    u: bytes
    x_hat: bytes
    t_hat: bytes
    _digests: dict[bytes, bytes] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def u_digest(self, lane: Lane) -> bytes:
        """``d`` of this message, hashed once: two challenges want it."""
        if lane.vid not in self._digests:
            self._digests[lane.vid] = _u_digest(lane, self.u)
        return self._digests[lane.vid]

    def transcript(self, lane: Lane) -> bytes:
        """``od``: the hash by which later challenges bind this message."""
        return digest(_MESSAGE, lane.vid, self.u_digest(lane), self.x_hat, self.t_hat)


class RowHash:
    """The universal hash R of the check: two GMAC keys with the pads added (32 bytes).

    For a row of blocks ``Y_1 … Y_m`` and pads ``p_1, p_2``, in GF(2^128) of GCM::

        R_a = Σ_n Y_n·h_a^(m-n+2) ⊕ p_a,      h_a = AES_{K_a}(0),      a = 1, 2

    computed as ``GMAC(Y) ⊕ GMAC(0…0) ⊕ p_a`` with a zero nonce and Y as associated data. The tag
    of the zero row takes off the length block and the nonce's mask: a raw tag is not linear.
    """

    def __init__(self, lane: Lane, u_digest: bytes) -> None:
        self._body = choice_len(lane.slots)
        self._keys = [AESGCM(xof(16, _CHI, lane.vid, a, u_digest)) for a in (1, 2)]
        zero = bytes(self._body)
        self._zero = b"".join(key.encrypt(_NONCE, b"", zero) for key in self._keys)

    def __call__(self, rows: Bytes2D) -> Bytes2D:
        """Hash each row of an (n, L) array; gives (n, 32)."""
        bodies = [row.tobytes() for row in rows[:, : self._body]]
        tags = b"".join([key.encrypt(_NONCE, b"", body) for body in bodies for key in self._keys])
        hashed = np.frombuffer(tags, np.uint8).reshape(len(rows), CHECK_LEN)
        return hashed ^ np.frombuffer(self._zero, np.uint8) ^ rows[:, self._body :]


@dataclasses.dataclass(frozen=True, repr=False)
class BobRows:
    """Bob's output: choice bits (416·slots,) of 0 and 1, and columns t_C (416·slots, 16)."""

    choices: NDArray[np.uint8]
    columns: Bytes2D


@dataclasses.dataclass(frozen=True, repr=False)
class AliceRows:
    """Alice's output: columns q_C (416·slots, 16), and whether Bob's check values fit."""

    columns: Bytes2D
    consistent: bool


def extend_bob(lane: Lane, keys: bytes, rng: Rng) -> tuple[OtMessage, BobRows]:
    """Bob's side of one chunk, with fresh choice bits.

    Args:
        keys: both base-OT keys of every row, 128 × 2 × 16 bytes.
    """
    length = row_len(lane.slots)
    x = np.frombuffer(rng.bytes(length), np.uint8)
    pairs = [keys[k : k + 32] for k in range(0, 32 * ROWS, 32)]
    t = _expand(lane, [pair[:16] for pair in pairs])
    u = t ^ _expand(lane, [pair[16:] for pair in pairs]) ^ x
    u_bytes = u.tobytes()
    u_digest = _u_digest(lane, u_bytes)
    row_hash = RowHash(lane, u_digest)
    message = OtMessage(u_bytes, row_hash(x[None, :]).tobytes(), row_hash(t).tobytes())
    message._digests[lane.vid] = u_digest
    choices = np.unpackbits(x, bitorder="little")[: XI * lane.slots]
    return message, BobRows(choices, _columns(t, lane.slots))


def extend_alice(lane: Lane, delta: bytes, keys: bytes, message: OtMessage) -> AliceRows:
    """Alice's side of one chunk, and the consistency check.

    Call it under :meth:`keycairn.protocols.setup.PairSetup.judge`: the result of the check may
    be known only once per setup if it is a failure.

    Args:
        delta: Δ, 16 bytes.
        keys: the chosen base-OT key of every row, 128 × 16 bytes.
        message: Bob's, with lengths as :class:`OtMessage` says.
    """
    bits = np.unpackbits(np.frombuffer(delta, np.uint8), bitorder="little")
    mask = np.negative(bits)[:, None]  # 0x00 or 0xff
    u = np.frombuffer(message.u, np.uint8).reshape(ROWS, row_len(lane.slots))
    q = _expand(lane, [keys[k : k + 16] for k in range(0, 16 * ROWS, 16)]) ^ (u & mask)
    row_hash = RowHash(lane, message.u_digest(lane))
    x_hat = np.frombuffer(message.x_hat, np.uint8)
    t_hat = np.frombuffer(message.t_hat, np.uint8).reshape(ROWS, CHECK_LEN)
    expected = t_hat ^ (x_hat & mask)
    consistent = hmac.compare_digest(row_hash(q).tobytes(), expected.tobytes())
    return AliceRows(_columns(q, lane.slots), consistent)


def _expand(lane: Lane, keys: list[bytes]) -> Bytes2D:
    """The PRG of the rows: SHAKE128 of (vid, row, key)."""
    length = row_len(lane.slots)
    head = header(_PRG, 3) + field(lane.vid)
    rows = [
        shake_128(head + row + key).digest(length)
        for row, key in zip(_ROW_FIELDS, keys, strict=True)
    ]
    return np.frombuffer(b"".join(rows), np.uint8).reshape(ROWS, length)


def _u_digest(lane: Lane, u: bytes) -> bytes:
    """``d``: the hash of all 128 rows, from which the check's challenge is drawn."""
    return digest(_U, lane.vid, u)


def _columns(rows: Bytes2D, slots: int) -> Bytes2D:
    """Transpose the used part of (128, L) rows: (416·slots, 16), bit i of a column = row i.

    Eight rows by eight bits at a time: such a square is one 64-bit word, with row r in byte r,
    and is transposed by swapping its bits, pairs and nibbles across the diagonal.
    """
    used = XI * slots // 8
    squares = rows[:, :used].reshape(ROWS // 8, 8, used).transpose(2, 0, 1)
    words = np.ascontiguousarray(squares).view(np.dtype("<u8"))[..., 0]
    for shift, mask in _SWAPS:
        swap = (words ^ (words >> shift)) & mask
        words ^= swap
        words ^= swap << shift
    bits = words[..., None].view(np.uint8)  # (byte of the row, eight rows, bit of the byte)
    return np.ascontiguousarray(bits.transpose(0, 2, 1)).reshape(XI * slots, ROWS // 8)
