"""Parameters of the sessions that DKLs23 runs in."""

from __future__ import annotations

from keycairn.protocols.wire import Message

#: Presign and sign in one session; sign with presignatures that the signers hold; make those.
NAME, USE_NAME, PRESIGN_NAME = "dkls23/sign", "dkls23/use", "dkls23/presign"
VERSION = 2
SETUP_NAME, SETUP_VERSION = "pair-setup", 1
#: Items of one request.
MAX_ITEMS = 100


def largest_round(count: int) -> int:
    """Bytes that the body of a round may have in a session that makes ``count`` presignatures."""
    return (64 << 10) + 80_000 * count


class SetupParams(Message, frozen=True):
    """A pair setup serves all keys and curves: nothing to agree on but the pair itself."""

    purpose: str


class Item(Message, frozen=True):
    """One digest (32 bytes), and the path of the child that signs it ("m": the key itself)."""

    digest: bytes
    path: str


class SignParams(Message, frozen=True):
    """Parameters of a signing session without stored presignatures."""

    request_id: str
    key_id: str
    record_hash: bytes
    items: tuple[Item, ...]


class UseParams(Message, frozen=True):
    """The same from presignatures: one id (32 bytes) for each item, in order."""

    request_id: str
    key_id: str
    record_hash: bytes
    items: tuple[Item, ...]
    presignatures: tuple[bytes, ...]


class PresignParams(Message, frozen=True):
    """Parameters of a session that makes ``count`` presignatures."""

    key_id: str
    record_hash: bytes
    count: int
