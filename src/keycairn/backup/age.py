"""age encryption (https://age-encryption.org/v1) by way of pyrage, with types and typed errors.

Only X25519 recipients (``age1…``) and identities (``AGE-SECRET-KEY-1…``): what ``age-keygen``
writes. Streams are encrypted in 64 KiB chunks, each authenticated, so nothing is held in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import pyrage  # type: ignore[import-untyped]

from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError

_MAX_IDENTITY_FILE = 1 << 16


class Reader(Protocol):
    """What is encrypted or decrypted."""

    def read(self, size: int, /) -> bytes: ...


class Writer(Protocol):
    """Where the result goes."""

    def write(self, data: bytes, /) -> object: ...


class _Guard:
    """Remembers what our own side raised: pyrage would turn it into text."""

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self._reader = reader
        self._writer = writer
        self.error: BaseException | None = None

    def read(self, size: int) -> bytes:
        try:
            return self._reader.read(size)
        except BaseException as exc:
            self.error = exc
            raise

    def write(self, data: bytes) -> int:
        try:
            self._writer.write(data)
        except BaseException as exc:
            self.error = exc
            raise
        return len(data)

    def flush(self) -> None:
        """Nothing is buffered here."""


def check_recipients(recipients: Sequence[str]) -> None:
    """Refuse a list that nothing can be encrypted to.

    Raises:
        KeycairnError: E_MALFORMED naming the position (the text itself may be a pasted secret).
    """
    _recipients(recipients)


def _recipients(recipients: Sequence[str]) -> list[Any]:
    if not recipients:
        raise KeycairnError(
            Code.MALFORMED,
            "a bundle needs at least one age recipient",
            next='age-keygen -o FILE; put its public key ("age1…") under [backup] recipients',
        )
    out = []
    for number, text in enumerate(recipients, 1):
        try:
            out.append(pyrage.x25519.Recipient.from_str(text))
        except (pyrage.RecipientError, TypeError) as exc:
            raise KeycairnError(
                Code.MALFORMED,
                f"backup recipient {number} is not an age X25519 recipient (age1…)",
                detail={"field": "backup.recipients", "number": number},
            ) from exc
    return out


def _identities(text: SecretBytes) -> list[Any]:
    raw = text.reveal()
    problem = "the identity file holds no age identity (a line AGE-SECRET-KEY-1…)"
    if len(raw) > _MAX_IDENTITY_FILE:
        raise KeycairnError(Code.TOO_LARGE, "the age identity file is too large")
    try:
        lines = [line.strip() for line in raw.decode("utf-8").splitlines()]
        keys = [line for line in lines if line and not line.startswith("#")]
        out = [pyrage.x25519.Identity.from_str(key) for key in keys]
    except (UnicodeDecodeError, pyrage.IdentityError) as exc:
        raise KeycairnError(Code.MALFORMED, problem) from exc
    if not out:
        raise KeycairnError(Code.MALFORMED, problem)
    return out


def recipient_of(identity: SecretBytes) -> list[str]:
    """The public recipients (``age1…``) of an identity file's content.

    Raises:
        KeycairnError: E_MALFORMED when it holds no identity.
    """
    return [str(one.to_public()) for one in _identities(identity)]


def encrypt(reader: Reader, writer: Writer, recipients: Sequence[str]) -> None:
    """Encrypt everything that ``reader`` gives to all of ``recipients``.

    Raises:
        KeycairnError: E_MALFORMED for a bad recipient; whatever reader and writer raise.
    """
    guard = _Guard(reader, writer)
    made = _recipients(recipients)
    try:
        pyrage.encrypt_io(guard, guard, made)
    except Exception as exc:
        raise guard.error or KeycairnError(Code.UNAVAILABLE, "age encryption failed") from exc


def decrypt(reader: Reader, writer: Writer, identity: SecretBytes) -> None:
    """Decrypt an age file with any identity of an identity file's content.

    ``writer`` may have received a part of the plaintext when this raises.

    Raises:
        KeycairnError: E_MALFORMED for a bad identity file, E_UNWRAP_FAILED when the file isn't
            for this identity or is damaged; whatever reader and writer raise.
    """
    guard = _Guard(reader, writer)
    keys = _identities(identity)
    try:
        pyrage.decrypt_io(guard, guard, keys)
    except Exception as exc:
        raise guard.error or KeycairnError(
            Code.UNWRAP_FAILED,
            "the payload can't be decrypted: not encrypted to this age identity, or damaged",
            not_lost="The bundle was not changed; nothing was written.",
            next="use the age identity whose recipient the manifest lists",
        ) from exc
