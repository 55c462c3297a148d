"""What protocols ask the journal to make durable before anything else leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keycairn.encoding import SecretBytes, SecretScalar
from keycairn.protocols.record import KeyRecord


@dataclass(frozen=True)
class PendingKey:
    """One key of a creation session: the record and this holder's secrets."""

    record: KeyRecord
    share: SecretScalar
    chain_code: SecretBytes


@dataclass(frozen=True)
class PendingBatch:
    """All keys of a creation session, with this holder's READY signature (a promise)."""

    batch_id: bytes
    index: int
    generation: int
    keys: tuple[PendingKey, ...]
    ready: bytes


@dataclass(frozen=True)
class Certified:
    """READY of all holders: the certificate of a batch."""

    batch_id: bytes
    ready: Mapping[int, bytes]


@dataclass(frozen=True)
class Spend:
    """A presignature or nonce pair is used up, whatever happens next (R-02).

    ``base_r`` is the encoded base nonce point (before re-randomisation): uniqueness is checked on
    it, not on the final r.
    """

    presignature_id: bytes
    base_r: bytes
    key_id: str
    digest: bytes


@dataclass(frozen=True)
class Ban:
    """Peers whose messages failed an OT or multiplication check."""

    peers: tuple[int, ...]
    reason: str
    evidence: Mapping[str, Any]


@dataclass(frozen=True)
class Release:
    """This holder's part of a recovery document is about to leave under an RSA key.

    The journal refuses if that key is not on this node's allow-list any more (R-31).
    """

    session: bytes
    rsa_spki_sha256: str
    key_ids: tuple[str, ...]
