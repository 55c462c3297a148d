"""The wire codec: frozen, typed, array-like structs in canonical MessagePack.

msgspec accepts non-minimal integers and over-long strings headers, so :func:`decode` re-encodes
what it read and refuses anything that is not byte-equal: every message has exactly one encoding.
Lengths and ranges of the *contents* (points, scalars, vectors) are the protocols' own checks.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from keycairn.errors import Code, KeycairnError

MAX_MESSAGE = 16 << 20
T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all wire messages: fields in declaration order, no names on the wire."""


def encode(message: Message) -> bytes:
    """Canonical bytes of a message."""
    return _encoder.encode(message)


def prepare() -> None:
    """Make the decoders of all message types that are loaded.

    Making one compiles type annotations and takes milliseconds; a node does it before it serves,
    not in the middle of its first session.
    """
    kinds: list[type[Message]] = [Message]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        if kind is not Message and kind not in _decoders:
            _decoders[kind] = msgspec.msgpack.Decoder(kind)


def decode(kind: type[T], data: bytes) -> T:
    """Strict inverse of :func:`encode`.

    Raises:
        KeycairnError: E_TOO_LARGE, or E_MALFORMED for other types, extra or missing fields, a
            non-canonical encoding, trailing bytes.
    """
    if len(data) > MAX_MESSAGE:
        raise KeycairnError(Code.TOO_LARGE, "message too large")
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        value = decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as exc:
        raise KeycairnError(
            Code.MALFORMED, f"not a {getattr(kind, '__name__', 'message')}"
        ) from exc
    if _encoder.encode(value) != data:
        raise KeycairnError(Code.MALFORMED, "message is not in canonical form")
    return value  # type: ignore[no-any-return]
