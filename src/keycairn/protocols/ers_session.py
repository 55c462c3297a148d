"""Making an ERS document: every holder proves its part, everybody checks every part.

Parts are broadcast with echo, so all holders end with the same document, byte for byte, or with
none. The proof itself is :mod:`keycairn.ers`; this session only carries it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keycairn.ers.document import Document, Part
from keycairn.ers.prove import make_part
from keycairn.ers.rsa import RsaPublicKey
from keycairn.ers.statement import KeyStatement
from keycairn.ers.verify import verify_document
from keycairn.errors import Abort, Code, KeycairnError
from keycairn.protocols.form import Inbox, Party, Protocol, Round
from keycairn.protocols.record import KeyRecord, KeyShare
from keycairn.protocols.wire import Message

NAME, VERSION = "ers/document", 1
MAX_KEYS = 1000


class ErsParams(Message):
    """Parameters of an ERS session, equal at every holder."""

    request_id: str
    key_ids: tuple[str, ...]
    record_hashes: tuple[bytes, ...]
    rsa_spki_sha256: str
    params: str
    label: str


class PartMessage(Message):
    """Round 1, broadcast: one holder's part, canonical CBOR."""

    part: bytes


@dataclass(frozen=True)
class ErsOutput:
    """The complete document, verified against this holder's own records."""

    document: Document


def statement_of(record: KeyRecord) -> KeyStatement:
    """What a part says about a key, from its record."""
    return KeyStatement(
        key_id=record.key_id,
        curve=record.curve,
        scheme=record.scheme,
        protocol=record.protocol,
        threshold=record.threshold,
        holders=record.holders,
        public_key=record.public_key,
        share_commitments=record.share_commitments,
        generation=record.generation,
        chain_code_hash=record.chain_code_hash,
        record_hash=record.hash,
    )
