"""The base oblivious transfers of a pairwise setup: 128 endemic OTs over secp256k1.

Masny and Rindal, *Endemic Oblivious Transfer* (CCS 2019, eprint 2019/706), the one-round variant
from Diffie-Hellman. Both messages cross in one round. For every ``i`` the receiver sends two
points, of which one is random and the other is ``t_i*G`` minus a hash of the random one; the
sender cannot tell which::

    receiver   r_{Δi} = t_i*G - P(psid, i, Δ_i, o)      r_{1-Δi} = o, a random point
    sender     A = a*G                                   K_{i,b} = a*(r_b + P(psid, i, b, r_{1-b}))
    receiver   K_{i,Δi} = t_i*A
    both       k_{i,b} = X_16(psid, setup_id, i, b, K_{i,b})

Hashing ``setup_id``, which covers both parties' messages, turns the endemic keys (a cheater may
choose its own) into keys that nobody chooses. The curve is secp256k1 whatever curve is signed
with, because it has a hash to the curve (ElligatorSwift) in the library.

Timing: which of the two points was hashed is the secret bit, and the ElligatorSwift decoding
takes time that depends on its input, which the peer learns later. All 128 are therefore computed
before anything leaves, and leave in one message.
"""

from __future__ import annotations

from hashlib import shake_128
from typing import Final

import numpy as np

from keycairn.curves import SECP256K1, Point
from keycairn.encoding import encode, field, header, tag
from keycairn.ports import Rng

#: Number of base OTs; Δ has as many bits.
COUNT: Final = 128
#: Bytes of one resulting key.
KEY_LEN: Final = 16
#: Bytes of one column (``r0`` or ``r1``) of receiver points.
COLUMN_LEN: Final = COUNT * SECP256K1.point_len

_PAIR = tag("baseot/pair")
_HASH = tag("baseot/h")
_KEY = tag("baseot/k")


def pair_id(session: bytes, sender: int, receiver: int) -> bytes:
    """``psid``: names one direction of one setup session."""
    return encode(_PAIR, session, sender, receiver)


# X_n("baseot/h", psid, i, b, point) and X_n("baseot/k", psid, setup_id, i, b, point) are computed
# some hundred times in a row, so they are put together from the parts of their encoding: a head
# that stays, and per OT the rest. b is encoded as one byte, so that the hashed length does not
# depend on it.
_ROW: Final = [field(i) + field(bytes(1))[:-1] for i in range(COUNT)]
_BIT: Final = [
    bytes((b,)) + field(bytes(SECP256K1.point_len))[: -SECP256K1.point_len] for b in (0, 1)
]


def _hash_head(psid: bytes) -> bytes:
    return header(_HASH, 4) + field(psid)


def _hash_to_point(head: bytes, i: int, b: int, other: bytes) -> Point:
    """``P("baseot/h", psid, i, b, other)`` for an encoded point ``other``."""
    return SECP256K1.hash_to_point(shake_128(head + _ROW[i] + _BIT[b] + other).digest(64))


def _key_head(psid: bytes, setup_id: bytes) -> bytes:
    return header(_KEY, 5) + field(psid) + field(setup_id)


def _derive(head: bytes, i: int, b: int, shared: Point) -> bytes:
    """``X_16("baseot/k", psid, setup_id, i, b, shared)``."""
    return shake_128(head + _ROW[i] + _BIT[b] + shared.encode()).digest(KEY_LEN)


def decode_column(column: bytes) -> list[Point]:
    """The 128 points of a column of exactly :data:`COLUMN_LEN` bytes.

    Raises:
        KeycairnError: E_BAD_POINT for anything that is not a point of secp256k1.
    """
    size = SECP256K1.point_len
    return [SECP256K1.decode_point(column[k : k + size]) for k in range(0, COLUMN_LEN, size)]


class Receiver:
    """The receiver of one direction, who will be Alice: chooses Δ, gets ``k_{i,Δi}``.

    Attributes:
        r0, r1: what goes to the sender, 128 points of 33 bytes each.
    """

    def __init__(self, psid: bytes, rng: Rng) -> None:
        group = SECP256K1
        self._psid = psid
        self._delta = rng.bytes(COUNT // 8)
        self._bits = np.unpackbits(
            np.frombuffer(self._delta, np.uint8), bitorder="little"
        ).tobytes()
        self._t = [group.random_scalar(rng) for _ in range(COUNT)]
        other: list[bytes] = []
        chosen: list[bytes] = []
        head = _hash_head(psid)
        for i, (bit, t) in enumerate(zip(self._bits, self._t, strict=True)):
            # Nobody needs the logarithm of o: what 64 random bytes decode to is as random a point
            # as a multiple of G, at half the cost.
            free = group.hash_to_point(rng.bytes(64)).encode()
            hashed = _hash_to_point(head, i, bit, free)
            other.append(free)
            chosen.append(group.add([group.base_mul(t), group.neg(hashed)]).encode())
        self.r0, self.r1 = self._ordered(b"".join(chosen), b"".join(other))

    def _ordered(self, chosen: bytes, other: bytes) -> tuple[bytes, bytes]:
        # Swap (chosen, other) where the bit is 1, by masks over whole arrays.
        first = np.frombuffer(chosen, np.uint8).reshape(COUNT, -1)
        second = np.frombuffer(other, np.uint8).reshape(COUNT, -1)
        # (An array made from a list of integers would take longer for ones than for zeros.)
        mask = np.negative(np.frombuffer(self._bits, np.uint8))[:, None]
        swap = (first ^ second) & mask
        return (first ^ swap).tobytes(), (second ^ swap).tobytes()

    @property
    def delta(self) -> bytes:
        """The choice bits Δ, 16 bytes; bit i is bit ``i mod 8`` of byte ``i // 8``. Secret."""
        return self._delta

    def keys(self, setup_id: bytes, sender_point: Point) -> bytes:
        """``k_{0,Δ0} … k_{127,Δ127}``, 2,048 bytes. Secret."""
        head = _key_head(self._psid, setup_id)
        return b"".join(
            [
                _derive(head, i, bit, SECP256K1.mul_secret(sender_point, t))
                for i, (bit, t) in enumerate(zip(self._bits, self._t, strict=True))
            ]
        )


class Sender:
    """The sender of one direction, who will be Bob: gets both keys of every OT.

    Attributes:
        point: A = a*G, sent to the receiver.
    """

    def __init__(self, psid: bytes, rng: Rng) -> None:
        self._psid = psid
        self._a = SECP256K1.random_scalar(rng)
        self.point = SECP256K1.base_mul(self._a)

    def keys(self, setup_id: bytes, r0: list[Point], r1: list[Point]) -> bytes:
        """``k_{0,0}, k_{0,1}, k_{1,0}, …``, 4,096 bytes. Secret.

        Raises:
            KeycairnError: E_BAD_POINT if the receiver made some ``r_b + P(…)`` the identity.
        """
        group = SECP256K1
        hash_head, key_head = _hash_head(self._psid), _key_head(self._psid, setup_id)
        keys: list[bytes] = []
        for i, pair in enumerate(zip(r0, r1, strict=True)):
            for b in (0, 1):
                hashed = _hash_to_point(hash_head, i, b, pair[1 - b].encode())
                shared = group.mul_secret(group.add([pair[b], hashed]), self._a)
                keys.append(_derive(key_head, i, b, shared))
        return b"".join(keys)
