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
from numpy.typing import NDArray

from keycairn.curves import Group
from keycairn.encoding import digest, tag, xof
from keycairn.ports import Rng, randbelow
from keycairn.protocols.dkls23 import gadget, residues, u384
from keycairn.protocols.dkls23.ot_hash import OtHash
from keycairn.protocols.dkls23.ote import AliceRows, BobRows, Lane
from keycairn.protocols.dkls23.parameters import COLUMNS, INPUTS, MASK_LEN, XI
from keycairn.protocols.dkls23.u384 import U384

_CORRECTIONS = tag("vole/corrections")
_THETA = tag("vole/theta", 2)
_MU = tag("vole/mu")


@dataclass(frozen=True)
class Challenge:
    """θ_0 and θ_1: 128-bit integers."""

    theta: tuple[int, int]

    @classmethod
    def of(cls, lane: Lane, od: bytes, a_tilde: bytes, *points: bytes) -> Challenge:
        """The challenge of a chunk: over vid, Bob's whole message, all ã and all Γ.

        ã enters by its SHA-256: 60 kB a slot, hashed on either side, at three times the speed
        of SHAKE128. Another ã that keeps θ would be a collision of SHA-256.
        """
        corrections = digest(_CORRECTIONS, lane.vid, a_tilde)
        raw = xof(32, _THETA, lane.vid, od, corrections, *points)
        return cls((int.from_bytes(raw[:16], "big"), int.from_bytes(raw[16:], "big")))

    @property
    def weights(self) -> tuple[int, int, int]:
        """The factors of the two input columns and of the check column."""
        return (*self.theta, 1)

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
        self._alpha = _masks(ot_hash, rows.columns)
        other = _masks(ot_hash, rows.columns ^ np.frombuffer(delta, np.uint8))
        self.a_tilde = u384.to_bytes(self._correct(self._alpha, other))
        self._digits = u384.digits(self._alpha)
        self.outputs = [
            ((-first) % group.q, (-second) % group.q)
            for first, second in _products(group, self._digits)
        ]

    def _correct(self, alpha0: U384, alpha1: U384) -> U384:
        """ã, in the memory of α¹."""
        flat = [value for triple in self._inputs for value in triple]
        a = u384.empty(*alpha0.shape[:-1])
        a[...] = u384.from_ints(flat).reshape(-1, 1, COLUMNS, u384.LIMBS)
        difference = u384.sub(alpha0, alpha1, out=alpha1)
        return u384.add(difference, a, out=difference)

    def prove(self, challenge: Challenge) -> tuple[bytes, bytes]:
        """(η of all slots, 32 bytes each; μ, 32 bytes)."""
        q = self._group.q
        eta = b"".join(challenge.combine(q, a).to_bytes(32, "big") for a in self._inputs)
        return eta, _mu(self._lane, residues.combine(q, challenge.weights, self._digits))


class Bob:
    """Bob's side of one chunk.

    Attributes:
        scalars: b_s for every slot. Secret.
    """

    def __init__(self, lane: Lane, group: Group, rows: BobRows) -> None:
        self._lane = lane
        self._group = group
        self._choices = rows.choices.reshape(lane.slots, XI)
        self._gamma = _masks(OtHash(lane), rows.columns)
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
        wire = np.frombuffer(a_tilde, np.uint8).reshape(-1, XI, COLUMNS, MASK_LEN)
        correction = u384.from_bytes(wire)
        shares = u384.times_bit(self._choices[:, :, None], correction)
        u384.add(shares, self._gamma, out=shares)
        digits = u384.digits(shares)
        minus = residues.split(eta)[:, :, None] * self._choices  # β·η
        combined = residues.combine(q, challenge.weights, digits, minus)
        fits = hmac.compare_digest(_mu(self._lane, combined), mu)
        return fits, _products(self._group, digits)


def _masks(ot_hash: OtHash, columns: NDArray[np.uint8]) -> U384:
    """The three masks of each of 416·slots columns: (slots, 416, 3, 6) limbs."""
    return u384.from_blocks(ot_hash(columns)).reshape(-1, XI, COLUMNS, u384.LIMBS)


def _products(group: Group, digits: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Inner products with the gadget of the two input columns, for every slot."""
    both = gadget.products(group, digits[:INPUTS])
    slots = len(both) // INPUTS
    return list(zip(both[:slots], both[slots:], strict=True))


def _mu(lane: Lane, combined: bytes) -> bytes:
    return digest(_MU, lane.vid, combined)
