"""Random vector OLE of one chunk: Alice's two inputs times Bob's random scalar, shared.

Doerner, Kondi, Lee, shelat, *Threshold ECDSA in Three Rounds* (eprint 2023/765), the two-party
multiplication. For slot s, Bob holds ``b_s = Σ_j β_j·g_j``, Alice two inputs ``a_{s,0}, a_{s,1}``
and afterwards ``c_{s,w} + d_{s,w} = a_{s,w}·b_s mod q``, c at Alice and d at Bob.

    column C = 416·s + j, masks modulo 2^384 from the OT hash: α⁰, α¹ at Alice, γ = α^β at Bob
    Alice   ã = α⁰ - α¹ + a                     (w = 0, 1 and the check column with a random â)
            c_w = -Σ_j g_j·α⁰_w
    both    θ_0, θ_1 from a hash of everything so far and of the points that go with ã
    Alice   η = â + θ_0·a_0 + θ_1·a_1 mod q,    μ = H(all α⁰_2 + θ_0·α⁰_0 + θ_1·α⁰_1 mod q)
    Bob     ḋ = γ + β·ã mod 2^384
            check: H(all ḋ_2 + θ_0·ḋ_0 + θ_1·ḋ_1 - β·η mod q) = μ
            d_w = Σ_j g_j·ḋ_w

The check is computed modulo q; computed modulo 2^384 it would let every error of 2^383 pass.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keycairn.curves import Group
from keycairn.encoding import digest, tag, xof
from keycairn.ports import Rng, randbelow
from keycairn.protocols.dkls23 import gadget, u384
from keycairn.protocols.dkls23.ot_hash import OtHash
from keycairn.protocols.dkls23.ote import AliceRows, BobRows, Lane
from keycairn.protocols.dkls23.parameters import COLUMNS, INPUTS, MASK_LEN, XI
from keycairn.protocols.dkls23.u384 import U384

_THETA = tag("vole/theta")
_MU = tag("vole/mu")


@dataclass(frozen=True)
class Challenge:
    """θ_0 and θ_1: 128-bit integers."""

    theta: tuple[int, int]

    @classmethod
    def of(cls, lane: Lane, od: bytes, a_tilde: bytes, *points: bytes) -> Challenge:
        """The challenge of a chunk: over vid, Bob's whole message, all ã and all Γ."""
        raw = xof(32, _THETA, lane.vid, od, a_tilde, *points)
        return cls((int.from_bytes(raw[:16], "big"), int.from_bytes(raw[16:], "big")))

    def combine(self, q: int, values: Sequence[int]) -> int:
        """``values[2] + θ_0·values[0] + θ_1·values[1] mod q``."""
        first, second, check = values
        return (check + self.theta[0] * first + self.theta[1] * second) % q


def correction_len(slots: int) -> int:
    """Bytes of ã in a chunk: 144 for every column."""
    return COLUMNS * MASK_LEN * XI * slots


class Alice:
    """Alice's side of one chunk, after Bob's OT message was found consistent.

    Args:
        inputs: ``(a_0, a_1)`` in [0, q) for every slot.
        rng: the source of the check inputs â, fresh for every slot.

    Attributes:
        a_tilde: ã of all columns, 144 bytes each (three integers of 48, big-endian). Sent.
        outputs: ``(c_0, c_1)`` mod q for every slot. Secret.
    """

    def __init__(
        self,
        lane: Lane,
        group: Group,
        delta: bytes,
        rows: AliceRows,
        inputs: Sequence[tuple[int, int]],
        rng: Rng,
    ) -> None:
        self._lane = lane
        self._group = group
        self._inputs = [(*pair, randbelow(rng, group.q)) for pair in inputs]
        ot_hash = OtHash(lane)
        self._alpha = _by_slot(ot_hash(rows.columns))
        other = _by_slot(ot_hash(rows.columns ^ np.frombuffer(delta, np.uint8)))
        self.a_tilde = u384.to_bytes(self._correct(self._alpha, other))
        self.outputs = [
            ((-first) % group.q, (-second) % group.q)
            for first, second in _products(group, self._alpha)
        ]

    def _correct(self, alpha0: U384, alpha1: U384) -> U384:
        flat = [value for triple in self._inputs for value in triple]
        a = u384.from_ints(flat).reshape(-1, 1, COLUMNS, u384.LIMBS)
        return u384.add(u384.sub(alpha0, alpha1), a)

    def prove(self, challenge: Challenge) -> tuple[bytes, bytes]:
        """(η of all slots, 32 bytes each; μ, 32 bytes)."""
        q = self._group.q
        eta = b"".join(challenge.combine(q, a).to_bytes(32, "big") for a in self._inputs)
        return eta, _mu(self._lane, _combined(challenge, self._alpha, q))


class Bob:
    """Bob's side of one chunk.

    Attributes:
        scalars: b_s for every slot. Secret.
    """

    def __init__(self, lane: Lane, group: Group, rows: BobRows) -> None:
        self._lane = lane
        self._group = group
        self._choices = rows.choices.reshape(lane.slots, XI)
        self._gamma = _by_slot(OtHash(lane)(rows.columns))
        self.scalars = gadget.encode_choices(group, rows.choices)

    def receive(
        self, challenge: Challenge, a_tilde: bytes, eta: Sequence[int], mu: bytes
    ) -> tuple[bool, list[tuple[int, int]]]:
        """Whether Alice's check values fit, and ``(d_0, d_1)`` mod q for every slot.

        Does not raise and does not stop early; call it under the setup's ``judge``.

        Args:
            a_tilde: exactly :func:`correction_len` bytes.
            eta: one scalar in [0, q) for every slot.
            mu: 32 bytes.
        """
        q = self._group.q
        correction = _by_slot(np.frombuffer(a_tilde, np.uint8).reshape(-1, COLUMNS, MASK_LEN))
        bits = self._choices[:, :, None]
        shares = u384.add(self._gamma, u384.select(bits, np.zeros_like(correction), correction))
        # -β·η mod q as q or 2q-η: both have full size, whichever the bit chooses.
        minus_eta = u384.to_ints(
            u384.select(
                self._choices,
                u384.from_ints([q])[None, :],
                u384.from_ints([2 * q - e for e in eta])[:, None, :],
            )
        )
        combined = [
            (value + minus) % q
            for value, minus in zip(_combined(challenge, shares, q), minus_eta, strict=True)
        ]
        fits = hmac.compare_digest(_mu(self._lane, combined), mu)
        return fits, _products(self._group, shares)


def _by_slot(masks: np.typing.NDArray[np.uint8]) -> U384:
    """(416·slots, 3, 48) bytes to (slots, 416, 3, 6) limbs."""
    return u384.from_bytes(masks).reshape(-1, XI, COLUMNS, u384.LIMBS)


def _products(group: Group, values: U384) -> list[tuple[int, int]]:
    """Inner products with the gadget of the two input columns, for every slot."""
    first, second = (gadget.inner_products(group, values[:, :, w]) for w in range(INPUTS))
    return list(zip(first, second, strict=True))


def _combined(challenge: Challenge, values: U384, q: int) -> list[int]:
    """The challenge's combination of the three columns of every OT, mod q."""
    flat = iter(u384.to_ints(values))
    return [challenge.combine(q, triple) for triple in zip(flat, flat, flat, strict=True)]


def _mu(lane: Lane, combined: list[int]) -> bytes:
    return digest(_MU, lane.vid, b"".join([value.to_bytes(32, "big") for value in combined]))
