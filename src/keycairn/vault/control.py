"""Control messages: what nodes tell each other at every contact, outside any session.

None of them is trusted further than it proves itself: READY signatures and documents are
verified, an incarnation only ever makes the receiver *drop* things.
"""

from __future__ import annotations

from keycairn.errors import KeycairnError
from keycairn.protocols.wire import Message, decode, encode

#: First byte of a control frame on a link (session frames begin with ``S``).
CONTROL_FRAME = b"C"


class Announce(Message, frozen=True):
    """First message after a link comes up."""

    vault: str
    incarnation: bytes
    version: str


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


_KINDS: dict[bytes, type[Message]] = {
    b"a": Announce,
    b"r": ReadyNote,
    b"i": SetupInvite,
    b"w": SetupWanted,
    b"o": DocumentOffer,
    b"q": DocumentWanted,
    b"d": DocumentHere,
    b"p": RefillInvite,
    b"x": PoolDropped,
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
