"""Nonce pairs made ahead: FROST's presignatures (RFC 9591 section 5.1, in batches).

One round: every signer broadcasts the commitments of its pairs, the driver's echo confirms that
all got the same, and every point is decoded, so validated, on arrival. What is kept is bound to
the session, the slot and the signer set, and used once.
"""

from __future__ import annotations

from dataclasses import dataclass

from keycairn.encoding import digest, tag
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.protocols.form import (
    Inbox,
    Party,
    Protocol,
    Round,
    blame,
    elements,
)
from keycairn.protocols.frost.core import (
    NonceCommitment,
    NoncePair,
    check_commitment_list,
    encode_commitment_list,
    nonce_generate,
)
from keycairn.protocols.frost.messages import MAX_COUNT, NonceMessage
from keycairn.protocols.frost.suite import Suite
from keycairn.protocols.presignature import Presignature as Base
from keycairn.protocols.record import KeyShare

_ID = tag("frost/nonce-id")


@dataclass(frozen=True, repr=False)
class NonceSecrets:
    """The hiding and the binding nonce, mod q."""

    hiding: int
    binding: int


class Presignature(Base[NonceSecrets]):
    """One signer's nonce pair, with the commitments of all signers.

    Attributes:
        suite: whose points these are.
        commitments: every signer's (D, E), sorted by player.
    """

    __slots__ = ("commitments", "suite")

    def __init__(
        self,
        *,
        id: bytes,
        sid: bytes,
        slot: int,
        index: int,
        players: tuple[int, ...],
        key_id: str,
        record_hash: bytes,
        suite: Suite,
        commitments: tuple[NonceCommitment, ...],
        secrets: NonceSecrets,
    ) -> None:
        super().__init__(
            id=id,
            sid=sid,
            slot=slot,
            index=index,
            players=players,
            key_id=key_id,
            record_hash=record_hash,
            secrets=secrets,
        )
        self.suite = suite
        self.commitments = commitments

    def take_pair(self) -> NoncePair:
        """The nonces, once. E_PRESIG_SPENT the second time."""
        secrets = self.take()
        own = self.commitments[self.players.index(self.index)]
        return NoncePair(self.index, secrets.hiding, secrets.binding, self.suite, own)

    def _encode(self, secrets: NonceSecrets) -> bytes:
        encode = self.suite.group.encode_scalar
        return encode(secrets.hiding) + encode(secrets.binding)

    def _decode(self, data: bytes) -> NonceSecrets:
        group = self.suite.group
        if len(data) != 2 * group.scalar_len:
            raise malformed("the secrets of a nonce pair are two scalars")
        return NonceSecrets(
            group.decode_scalar(data[: group.scalar_len]),
            group.decode_scalar(data[group.scalar_len :]),
        )


def presign(
    party: Party, key: KeyShare, suite: Suite, count: int, *, echo: bool = True
) -> Protocol[list[Presignature]]:
    """Draw ``count`` nonce pairs and exchange their commitments.

    Args:
        count: 1 to 256.
        echo: False only where the shares made with them follow in the same session: signers who
            were shown different lists then make shares that don't add up (RFC 9591 section 7).

    Raises:
        KeycairnError: E_MALFORMED, E_BAD_INDEX for the caller's own input.
        Abort: E_BAD_LENGTH, E_BAD_POINT naming the sender.
    """
    group, record, me = suite.group, key.record, party.index
    record.check_signers(party.players)
    if me != key.index or me not in party.players:
        raise KeycairnError(Code.BAD_INDEX, "this player is not among the signers of its key")
    if type(count) is not int or not 1 <= count <= MAX_COUNT:
        raise malformed(f"count must be 1 to {MAX_COUNT}")

    def draw() -> int:
        return nonce_generate(key.share, party.rng.bytes(32), suite)

    secrets = [NonceSecrets(draw(), draw()) for _ in range(count)]
    own = [
        NonceCommitment(me, group.base_mul(s.hiding), group.base_mul(s.binding)) for s in secrets
    ]
    inbox: Inbox = yield Round(
        broadcast=NonceMessage(
            b"".join(c.hiding.encode() for c in own), b"".join(c.binding.encode() for c in own)
        ),
        echo=echo,
    )
    listed = {me: own}
    for j, m in inbox.broadcast.items():
        listed[j] = _commitments(j, m, suite, count)
    slots = [tuple(listed[j][s] for j in party.players) for s in range(count)]
    for s, commitments in enumerate(slots):
        check_commitment_list(commitments, party.players, own[s])
    return [
        Presignature(
            id=digest(_ID, party.sid, s, encode_commitment_list(slots[s])),
            sid=party.sid,
            slot=s,
            index=me,
            players=party.players,
            key_id=record.key_id,
            record_hash=record.hash,
            suite=suite,
            commitments=slots[s],
            secrets=secrets[s],
        )
        for s in range(count)
    ]


def _commitments(j: int, m: NonceMessage, suite: Suite, count: int) -> list[NonceCommitment]:
    decode, size = suite.group.decode_point, suite.group.point_len
    hiding = elements(j, "D", m.hiding, size, count, Code.BAD_POINT)
    binding = elements(j, "E", m.binding, size, count, Code.BAD_POINT)
    with blame(j):
        return [
            NonceCommitment(j, decode(d), decode(e)) for d, e in zip(hiding, binding, strict=True)
        ]
