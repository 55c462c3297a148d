"""Control messages: what nodes tell each other at every contact, outside any session.

None of them is trusted further than it proves itself: READY signatures and documents are
verified, an incarnation only ever makes the receiver *drop* things.
"""

from __future__ import annotations

from keycairn.errors import KeycairnError
from keycairn.protocols.wire import Message, decode, encode
from keycairn.vault.fence.batches import BatchWord
from keycairn.vault.fence.twins import Alive
from keycairn.vault.fence.witness import Witness

#: First byte of a control frame on a link (session frames begin with ``S``).
CONTROL_FRAME = b"C"


class Announce(Message, frozen=True):
    """First message after a link comes up, and again when state or incarnation changed.

    ``state`` is ACTIVE, WAITING or QUARANTINED: with a node that isn't ACTIVE nothing is begun.
    """

    vault: str
    incarnation: bytes
    version: str
    state: str


class WitnessHeld(Message, frozen=True):
    """What the sender durably holds of the receiver; sent at every contact.

    ``twin``: the sender heard two processes of the receiver that were alive at the same time.
    """

    witness: Witness | None
    twin: bool


class WitnessWanted(Message, frozen=True):
    """Please say again what you hold of me."""

    reason: str


class WitnessNote(Message, frozen=True):
    """The sender's own newest word, which contains the witness with head ``over`` (b"": none).

    Recorded only over the record that the receiver holds: a history that was put back and grew
    can't overwrite the word that convicts it.
    """

    witness: Witness
    over: bytes


class TwinQuestion(Message, frozen=True):
    """Another process of the receiver said this after the sender first heard the receiver."""

    newer: Witness


class BatchWanted(Message, frozen=True):
    """Which batch is that?"""

    batch_id: bytes


class BatchHere(Message, frozen=True):
    """That one."""

    batch: BatchWord


class BatchesWanted(Message, frozen=True):
    """Which active batches do I hold shares of? Of keys behind ``after``."""

    after: str


class BatchesHere(Message, frozen=True):
    """Their ids; ``more`` is where the next page begins, "" at the end."""

    ids: tuple[bytes, ...]
    more: str


class ReadyNote(Message, frozen=True):
    """READY signatures that the sender knows for a batch; ``ask`` wants the receiver's back."""

    batch_id: bytes
    ready: tuple[tuple[int, bytes], ...]
    ask: bool


class SetupInvite(Message, frozen=True):
    """The lower player opens a pair setup under this session name."""

    name: str


class SetupWanted(Message, frozen=True):
    """The higher player has no live setup with the lower one."""

    reason: str


class DocumentOffer(Message, frozen=True):
    """Hashes of complete ERS documents that the sender holds."""

    sha256: tuple[str, ...]


class DocumentWanted(Message, frozen=True):
    """Please send this document."""

    sha256: str


class DocumentHere(Message, frozen=True):
    """A document in CBOR form."""

    sha256: str
    data: bytes


class DocumentInvite(Message, frozen=True):
    """The sender opens a session that makes an ERS document of these keys, under an RSA key that
    the receiver looks up on its own list. ``players`` are all holders, or t+1 of them and more."""

    name: str
    key_ids: tuple[str, ...]
    record_hashes: tuple[bytes, ...]
    rsa_spki: bytes
    players: tuple[int, ...]


class RefillInvite(Message, frozen=True):
    """The lowest player of a signer set opens a session that makes ``count`` presignatures.

    ``held`` are the sessions (32 bytes each) from which it still has some for this key record and
    set. It alone proposes which are used, so whatever the receiver has from others is useless.
    """

    name: str
    key_id: str
    record_hash: bytes
    players: tuple[int, ...]
    count: int
    held: tuple[bytes, ...]


class PoolDropped(Message, frozen=True):
    """The sender dropped its presignatures for this key record and signer set."""

    record_hash: bytes
    players: tuple[int, ...]


class PointAsk(Message, frozen=True):
    """A step of the backup point ``mark`` (16 bytes) that the sender leads: "hold", "take" with
    the point's number, "release" or "result" (:mod:`keycairn.vault.points`)."""

    mark: bytes
    step: str
    number: int


class PointAnswer(Message, frozen=True):
    """The receiver's answer to a step; ``code`` is empty, or why it refused.

    hold: ``number`` is the newest point that it knows. take: ``held`` says whether its copy was
    made under its hold, ``creating`` how many creations ran on. result: its bundle.
    """

    mark: bytes
    step: str
    code: str
    wait_seconds: int
    number: int
    held: bool
    creating: int
    sha256: bytes
    keys: int
    size: int


_KINDS: dict[bytes, type[Message]] = {
    b"a": Announce,
    b"r": ReadyNote,
    b"i": SetupInvite,
    b"w": SetupWanted,
    b"o": DocumentOffer,
    b"q": DocumentWanted,
    b"d": DocumentHere,
    b"E": DocumentInvite,
    b"p": RefillInvite,
    b"x": PoolDropped,
    b"m": PointAsk,
    b"M": PointAnswer,
    b"h": WitnessHeld,
    b"v": WitnessWanted,
    b"n": WitnessNote,
    b"t": TwinQuestion,
    b"l": Alive,
    b"b": BatchWanted,
    b"k": BatchesWanted,
    b"c": BatchesHere,
    b"y": BatchHere,
}
_BYTES = {kind: byte for byte, kind in _KINDS.items()}


def pack(message: Message) -> bytes:
    """A control frame."""
    return CONTROL_FRAME + _BYTES[type(message)] + encode(message)


def unpack(frame: bytes) -> Message | None:
    """The message of a control frame, or None for junk."""
    kind = _KINDS.get(frame[1:2])
    if frame[:1] != CONTROL_FRAME or kind is None:
        return None
    try:
        return decode(kind, frame[2:])
    except KeycairnError:
        return None
