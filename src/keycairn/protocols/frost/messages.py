"""Parameters and wire messages of the sessions that FROST runs in."""

from __future__ import annotations

from keycairn.encoding import digest, tag
from keycairn.protocols.wire import Message

#: Draw nonces and sign in one session; sign with nonces that the signers hold; draw those.
NAME, USE_NAME, PRESIGN_NAME = "frost/sign", "frost/use", "frost/nonces"
VERSION = 2
#: Items of one request, and nonce pairs of one session.
MAX_ITEMS, MAX_COUNT = 100, 256
MAX_MESSAGE = 64 << 10

_MESSAGE = tag("frost/message")


def message_hash(message: bytes) -> bytes:
    """What stands for a message in parameters and in the ledger of spends: 32 bytes."""
    return digest(_MESSAGE, message)


class Item(Message, frozen=True):
    """Hash of one message (:func:`message_hash`), the path of the child that signs it ("m": the
    key itself), and for BIP-340 keys whether it is signed for the BIP-86 output key."""

    message: bytes
    path: str
    taproot: bool


class SignParams(Message, frozen=True):
    """Parameters of a signing session without stored nonces."""

    request_id: str
    key_id: str
    record_hash: bytes
    items: tuple[Item, ...]


class UseParams(Message, frozen=True):
    """The same with stored nonces: one id (32 bytes) for each item, in order."""

    request_id: str
    key_id: str
    record_hash: bytes
    items: tuple[Item, ...]
    presignatures: tuple[bytes, ...]


class PresignParams(Message, frozen=True):
    """Parameters of a session that draws ``count`` nonce pairs at every signer."""

    key_id: str
    record_hash: bytes
    count: int


class NonceMessage(Message, frozen=True):
    """Round 1, broadcast: D[] and E[] (32 bytes each, 33 on secp256k1)."""

    hiding: bytes
    binding: bytes


class ResponseMessage(Message, frozen=True):
    """The last round, broadcast: z[], and the hashes of what they were made for (32 bytes each)."""

    value: bytes
    package: bytes
