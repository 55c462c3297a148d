"""A node's signed word about its own history, kept where a restore does not reach it.

One copy lies in the anchor, a file outside the database, and one at every peer. Only the node's
own signature makes a witness: what a peer *says* about a node's past proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from keycairn.encoding import encode as transcript
from keycairn.encoding import tag
from keycairn.errors import Code, KeycairnError
from keycairn.protocols.form import Signer
from keycairn.protocols.wire import Message
from keycairn.vault.fence.history import Head

_WITNESS = tag("fence/witness")

#: Bans and revocations that a witness can name; more would not fit a message.
MAX_WORDS = 10_000
_HASH_LEN = 32
_NAME = 128


class BanWord(Message, frozen=True):
    """A ban that was in force, or that was lifted after it had been."""

    ban_id: str
    peer: int
    lifted: bool


class Witness(Message, frozen=True):
    """What a node said of itself.

    Attributes:
        vault, node: whose word it is.
        era, length, head: its history then.
        incarnation: the process that said it (32 bytes).
        started: length of the history at which that process began.
        bans: every ban that the node ever knew, sorted by id.
        revoked: allow-list entries that it had revoked (SPKI hashes), sorted.
        signature: of the node's identity key, 64 bytes.
    """

    vault: str
    node: int
    era: int
    length: int
    head: bytes
    incarnation: bytes
    started: int
    bans: tuple[BanWord, ...]
    revoked: tuple[str, ...]
    signature: bytes = b""

    @property
    def place(self) -> Head:
        return Head(self.era, self.length, self.head)

    @property
    def in_force(self) -> tuple[BanWord, ...]:
        return tuple(ban for ban in self.bans if not ban.lifted)


@dataclass(frozen=True)
class Anchor:
    """The witness that the node keeps beside its database, and when it last proved alive."""

    witness: Witness
    heartbeat_us: int = field(compare=False)


def _statement(w: Witness) -> bytes:
    return transcript(
        _WITNESS,
        w.vault,
        w.node,
        w.era,
        w.length,
        w.head,
        w.incarnation,
        w.started,
        [[ban.ban_id, ban.peer, ban.lifted] for ban in w.bans],
        list(w.revoked),
    )


def sign_witness(unsigned: Witness, signer: Signer) -> Witness:
    """The same words, signed by this node."""
    w = unsigned
    return Witness(
        w.vault, w.node, w.era, w.length, w.head, w.incarnation, w.started, w.bans, w.revoked,
        signer.sign(_statement(w)),
    )  # fmt: skip


def check_witness(witness: Witness, *, vault: str, node: int, signer: Signer) -> None:
    """Refuse what is not ``node``'s own well-formed word.

    Raises:
        KeycairnError: E_MALFORMED, E_BAD_PROOF for the signature.
    """
    w = witness
    shape = (
        w.vault == vault
        and w.node == node
        and w.era >= 1
        and w.length >= 0
        and 0 <= w.started <= w.length
        and len(w.head) == len(w.incarnation) == _HASH_LEN
        and len(w.bans) <= MAX_WORDS
        and len(w.revoked) <= MAX_WORDS
        and all(0 < len(ban.ban_id) <= _NAME for ban in w.bans)
        and all(0 < len(name) <= _NAME for name in w.revoked)
        and list(w.revoked) == sorted(set(w.revoked))
        and [b.ban_id for b in w.bans] == sorted({b.ban_id for b in w.bans})
    )
    if not shape:
        raise KeycairnError(Code.MALFORMED, "not a witness of this node")
    if not signer.verify(node, _statement(w), w.signature):
        raise KeycairnError(Code.BAD_PROOF, "the witness is not signed by the node it speaks for")
