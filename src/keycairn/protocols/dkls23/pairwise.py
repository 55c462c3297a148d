"""The multiplications with one peer over a whole presigning session: both directions.

As Bob, this player multiplies its random χ with the peer's inputs (r_j, sk_j); as Alice, it gives
its own inputs (r_i, sk_i) to be multiplied with the peer's χ. Every chunk is a unit of proof.
"""

from __future__ import annotations

from collections.abc import Sequence

from keycairn.curves import Group, Point
from keycairn.errors import KeycairnError
from keycairn.ports import Rng
from keycairn.protocols.dkls23 import ote, vole
from keycairn.protocols.dkls23.messages import OtRequest, ReplyChunk, VoleReply
from keycairn.protocols.dkls23.ote import AliceRows, Lane, OtMessage
from keycairn.protocols.setup import PairSetup


class Pairwise:
    """One player's state toward one peer. Lives for one session and is dropped with it.

    Attributes:
        me, peer: player numbers.
        chi: χ_ij, this player's random scalar as Bob, for every slot (set by :meth:`request`).
        alice_outputs: ``(c^u, c^v)`` for every slot (set by :meth:`reply`).
        bob_outputs: ``(d^u, d^v)`` for every slot (set by :meth:`judge_reply`).
    """

    def __init__(
        self, sid: bytes, group: Group, setup: PairSetup, chunks: tuple[int, ...], rng: Rng
    ) -> None:
        self.me, self.peer = setup.index, setup.peer
        self.chi: list[int] = []
        self.alice_outputs: list[tuple[int, int]] = []
        self.bob_outputs: list[tuple[int, int]] = []
        self._group = group
        self._setup = setup
        self._chunks = chunks
        self._rng = rng
        lanes = [
            (
                Lane(sid, n, self.me, self.peer, setup.setup_id, slots),
                Lane(sid, n, self.peer, self.me, setup.setup_id, slots),
            )
            for n, slots in enumerate(chunks)
        ]
        self._bob_lanes = [bob for bob, _ in lanes]
        self._alice_lanes = [alice for _, alice in lanes]
        self._bobs: list[vole.Bob] = []
        self._sent: list[OtMessage] = []
        self._received: list[OtMessage] = []
        self._rows: list[AliceRows] = []

    def request(self) -> OtRequest:
        """Round 1, as Bob: fresh choice bits for every chunk."""
        keys = self._setup.state().bob_keys
        for lane in self._bob_lanes:
            message, rows = ote.extend_bob(lane, keys, self._rng)
            bob = vole.Bob(lane, self._group, rows)
            self._sent.append(message)
            self._bobs.append(bob)
            self.chi += bob.scalars
        return OtRequest(
            tuple(m.u for m in self._sent),
            tuple(m.x_hat for m in self._sent),
            tuple(m.t_hat for m in self._sent),
        )

    def judge_request(self, messages: Sequence[OtMessage]) -> bool:
        """Round 1, as Alice: the OT check over all chunks, all of them evaluated."""
        state = self._setup.state()
        self._received = list(messages)
        self._rows = [
            ote.extend_alice(lane, state.delta, state.alice_keys, message)
            for lane, message in zip(self._alice_lanes, messages, strict=True)
        ]
        return all([rows.consistent for rows in self._rows])

    def reply(self, inputs: Sequence[tuple[int, int]], phi: Sequence[int]) -> VoleReply:
        """Round 2, as Alice with ``inputs`` (r, sk), and ψ = φ - χ; for every slot."""
        group, q = self._group, self._group.q
        delta = self._setup.state().delta
        columns: list[tuple[bytes, ...]] = []
        start = 0
        for lane, rows, sent in zip(self._alice_lanes, self._rows, self._received, strict=True):
            span = slice(start, start + lane.slots)
            start += lane.slots
            alice = vole.Alice(lane, group, delta, rows, inputs[span], self._rng)
            self.alice_outputs += alice.outputs
            gamma_u = b"".join(group.base_mul(c).encode() for c, _ in alice.outputs)
            gamma_v = b"".join(group.base_mul(c).encode() for _, c in alice.outputs)
            challenge = self.challenge(lane, sent, alice.a_tilde, gamma_u, gamma_v)
            eta, mu = alice.prove(challenge)
            psi = b"".join(
                group.encode_scalar((p - x) % q)
                for p, x in zip(phi[span], self.chi[span], strict=True)
            )
            columns.append((alice.a_tilde, eta, mu, gamma_u, gamma_v, psi))
        return VoleReply(*zip(*columns, strict=True))

    def judge_reply(
        self,
        chunks: Sequence[ReplyChunk],
        nonce_points: Sequence[Point],
        key_points: Sequence[Point],
    ) -> bool:
        """Round 2, as Bob: VOLE check of every chunk, then Γ checks of every slot.

        Everything is evaluated; the answer is one bit.
        """
        results: list[bool] = []
        for bob, lane, sent, chunk in zip(
            self._bobs, self._bob_lanes, self._sent, chunks, strict=True
        ):
            challenge = self.challenge(
                lane, sent, chunk.a_tilde, chunk.gamma_u_bytes, chunk.gamma_v_bytes
            )
            fits, outputs = bob.receive(challenge, chunk.a_tilde, chunk.eta, chunk.mu)
            results.append(fits)
            self.bob_outputs += outputs
        gammas = [
            pair for chunk in chunks for pair in zip(chunk.gamma_u, chunk.gamma_v, strict=True)
        ]
        for chi, (d_u, d_v), (gamma_u, gamma_v), nonce_point, key_point in zip(
            self.chi, self.bob_outputs, gammas, nonce_points, key_points, strict=True
        ):
            results.append(_product_fits(chi, nonce_point, d_u, gamma_u))
            results.append(_product_fits(chi, key_point, d_v, gamma_v))
        return all(results)

    @staticmethod
    def challenge(
        lane: Lane, sent: OtMessage, a_tilde: bytes, gamma_u: bytes, gamma_v: bytes
    ) -> vole.Challenge:
        """θ of a chunk: covers Bob's OT message and Alice's ã, Γu and Γv."""
        return vole.Challenge.of(lane, sent.transcript(lane), a_tilde, gamma_u, gamma_v)


def _product_fits(chi: int, point: Point, share: int, gamma: Point) -> bool:
    """Whether ``χ·P = d·G + Γ``: then P's discrete logarithm was Alice's input."""
    group = point.group
    try:
        return group.is_product(point, chi, group.add([group.base_mul(share), gamma]))
    except KeycairnError:
        # Some term is the identity: with honest messages only with probability 2^-255.
        return False
