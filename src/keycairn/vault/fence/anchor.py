"""The anchor: a node's newest witness outside its database, renewed every minute.

It is what convicts a database that was put back when no peer is there to ask. The bytes are signed
as a whole with the identity key: a damaged anchor, or another node's, is no anchor.
"""

from __future__ import annotations

from typing import Protocol

from keycairn.encoding import encode as transcript
from keycairn.encoding import tag
from keycairn.errors import KeycairnError
from keycairn.protocols.form import Signer
from keycairn.protocols.wire import Message, decode, encode
from keycairn.vault.fence.history import begin
from keycairn.vault.fence.witness import Anchor, Witness, check_witness, sign_witness

_ANCHOR = tag("fence/anchor")
FORMAT = 1


class AnchorStore(Protocol):
    """Keeps the bytes of one anchor. Both calls may block; they are made in a thread.

    Errors: E_UNAVAILABLE.
    """

    def read(self) -> bytes | None:
        """What was written last; None if there is nothing."""
        ...

    def write(self, data: bytes) -> None:
        """Replace it, whole or not at all; durable when it returns."""
        ...


class MemoryAnchor:
    """An anchor for tests: lasts as long as the object."""

    def __init__(self, data: bytes | None = None) -> None:
        self.data = data
        self.writes = 0

    def read(self) -> bytes | None:
        return self.data

    def write(self, data: bytes) -> None:
        self.data = data
        self.writes += 1


class _Body(Message, frozen=True):
    format: int
    witness: Witness
    heartbeat_us: int
    signature: bytes


def _statement(witness: Witness, heartbeat_us: int) -> bytes:
    return transcript(_ANCHOR, FORMAT, witness.signature, heartbeat_us)


def seal_anchor(anchor: Anchor, signer: Signer) -> bytes:
    """The bytes of an anchor, signed by this node."""
    signature = signer.sign(_statement(anchor.witness, anchor.heartbeat_us))
    return encode(_Body(FORMAT, anchor.witness, anchor.heartbeat_us, signature))


def open_anchor(data: bytes | None, *, vault: str, node: int, signer: Signer) -> Anchor | None:
    """The anchor, or None for everything that is not this node's own intact one."""
    if data is None:
        return None
    try:
        body = decode(_Body, data)
        check_witness(body.witness, vault=vault, node=node, signer=signer)
    except KeycairnError:
        return None
    statement = _statement(body.witness, body.heartbeat_us)
    if body.format != FORMAT or not signer.verify(node, statement, body.signature):
        return None
    return Anchor(body.witness, body.heartbeat_us)


def first_anchor(vault: str, node: int, signer: Signer, now_us: int) -> bytes:
    """The anchor of a node that has just been made and never ran."""
    head = begin(vault, node)
    nobody = bytes(32)
    unsigned = Witness(vault, node, head.era, head.length, head.hash, nobody, 0, (), ())
    return seal_anchor(Anchor(sign_witness(unsigned, signer), now_us), signer)
