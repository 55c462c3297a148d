"""Parameters of the sessions that DKLs23 runs in."""

from __future__ import annotations

from keycairn.protocols.wire import Message

NAME, VERSION = "dkls23/sign", 1
SETUP_NAME, SETUP_VERSION = "pair-setup", 1


class SetupParams(Message, frozen=True):
    """A pair setup serves all keys and curves: nothing to agree on but the pair itself."""

    purpose: str


class SignParams(Message, frozen=True):
    """Parameters of a signing session without a stored presignature."""

    request_id: str
    key_id: str
    record_hash: bytes
    digest: bytes
    tweak: bytes
