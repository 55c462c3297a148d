"""What ERS documents say about a key at one node: NONE, PARTIAL, COMPLETE or STALE.

Pure functions over a node's own rows.

* COMPLETE: a document with the parts of all holders, about the key's record of now, under an RSA
  key that stands on this node's list. (An RSA key whose entry has expired gets no new documents;
  those that exist still count.)
* PARTIAL: the same with the parts of t+1 holders or more, but not of all. It recovers the key; it
  is no evidence for the backup policy.
* STALE: there is a document, but of an earlier generation or record, or under an RSA key that was
  taken off the list or never stood on it.
* NONE: no document.

An RSA key is *retired* once this node's operator took it off the list: nothing under it counts as
a backup any more. One that is merely not listed (after a rejoin run-time entries have to be made
again) makes the status STALE and is shown, but what was backed up stays backed up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keycairn.vault.ports import DocumentRow, KeyRow

NONE, STALE, PARTIAL, COMPLETE = "NONE", "STALE", "PARTIAL", "COMPLETE"
STATUSES = (NONE, STALE, PARTIAL, COMPLETE)

#: States of an RSA key under which documents count.
_STANDING = ("allowed", "expired")


@dataclass(frozen=True)
class ErsStatus:
    """One key's status.

    Attributes:
        status: NONE, STALE, PARTIAL or COMPLETE.
        parts: how many parts a complete document has.
        players: whose parts are in the best document that counts.
        document: the best document, whether it counts or not.
        why: words for an answer other than COMPLETE.
        rsa_keys: names of all RSA keys under which a complete document of now exists here, those
            off the list among them: a rotation compares these.
    """

    key_id: str
    status: str
    parts: int
    players: tuple[int, ...]
    document: DocumentRow | None
    why: str
    rsa_keys: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """One element of ``keys[]`` of ``ers status``."""
        best = self.document
        return {
            "key_id": self.key_id,
            "status": self.status,
            "parts": self.parts,
            "have": len(self.players),
            "players": list(self.players),
            "generation": None if best is None else best.keys[self.key_id][0],
            "sha256": None if best is None else best.sha256,
            "rsa_spki_sha256": None if best is None else best.spki_sha256,
            "rsa_keys": list(self.rsa_keys),
            "verified_us": None if best is None else best.verified_us,
            "why": self.why,
        }


@dataclass(frozen=True)
class ErsEvidence:
    """A node's documents by the keys that they name, and how its RSA keys stand."""

    named: Mapping[str, Sequence[DocumentRow]]
    standing: Mapping[str, str]


def key_status(
    row: KeyRow,
    documents: Iterable[DocumentRow],
    standing: Mapping[str, str],
    players: Callable[[DocumentRow], tuple[int, ...]],
) -> ErsStatus:
    """The status of one key.

    Args:
        row: the key.
        documents: rows that name it (others are ignored), oldest first.
        standing: state of every RSA key that this node's list knows, by SPKI SHA-256: "allowed",
            "expired", "challenged" or "removed".
        players: whose parts a document without all of them holds.
    """
    record = row.record
    now = (record.generation, record.hash)
    best: tuple[int, str, DocumentRow, tuple[int, ...]] | None = None
    under: dict[str, None] = {}
    for document in documents:
        if record.key_id not in document.keys:
            continue
        held = document.keys[record.key_id]
        state = standing.get(document.spki_sha256, "unlisted")
        have: tuple[int, ...] = ()
        if held == now and document.complete:
            under[document.spki_sha256] = None
        if held != now:
            rank, why = 1, _other_record(held, now)
        elif state not in _STANDING:
            rank, why = 1, _not_standing(state)
        elif document.complete:
            rank, why, have = 3, "", record.holders
        else:
            have = tuple(p for p in players(document) if p in record.holders)
            missing = [p for p in record.holders if p not in have]
            rank, why = 2, f"the part of player {', '.join(map(str, missing))} is missing"
        newer = best is None or (rank, len(have)) >= (best[0], len(best[3]))
        best = (rank, why, document, have) if newer else best
    if best is None:
        why = "no document of this node names this key"
        return ErsStatus(record.key_id, NONE, len(record.holders), (), None, why, ())
    rank, why, document, have = best
    return ErsStatus(
        record.key_id, STATUSES[rank], len(record.holders), have, document, why, tuple(under)
    )


def _other_record(held: tuple[int, bytes], now: tuple[int, bytes]) -> str:
    if held[0] != now[0]:
        return f"it holds generation {held[0]}, the key is at {now[0]}"
    return "it was made for another record of this key"


def _not_standing(state: str) -> str:
    if state == "removed":
        return "its RSA key was taken off this node's list"
    return "its RSA key does not stand on this node's list"


def by_key(documents: Iterable[DocumentRow]) -> dict[str, list[DocumentRow]]:
    """Documents by the keys that they name, oldest first."""
    found: dict[str, list[DocumentRow]] = {}
    for document in sorted(documents, key=lambda d: d.created_us):
        for key_id in document.keys:
            found.setdefault(key_id, []).append(document)
    return found


def only_under(
    spki_sha256: str, documents: Sequence[DocumentRow], retired: Iterable[str] = ()
) -> dict[str, tuple[int, bytes]]:
    """Keys, with the generation and record hash, whose only complete documents are under one RSA
    key (or under retired ones)."""
    gone = {spki_sha256, *retired}
    elsewhere = {
        (key_id, held)
        for d in documents
        if d.complete and d.spki_sha256 not in gone
        for key_id, held in d.keys.items()
    }
    return {
        key_id: held
        for d in documents
        if d.complete and d.spki_sha256 == spki_sha256
        for key_id, held in d.keys.items()
        if (key_id, held) not in elsewhere
    }
