"""Rows of the tables to and from the port's dataclasses.

Bodies are canonical CBOR maps with the dataclass's field names (docs: one row per field there).
What comes from the database is trusted only after its MAC was checked; these functions still
decode strictly, so that a bug shows as an error and not as a wrong value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keycairn.encoding import canonical_cbor, decode_cbor
from keycairn.errors import Code, KeycairnError
from keycairn.protocols.record import KeyRecord
from keycairn.vault.ports import (
    BanRow,
    Batch,
    BehindRow,
    BundleRow,
    DocumentRow,
    ErsKeyRow,
    KeyRow,
    RequestRow,
    SpendRow,
)

Row = Mapping[str, Any]


def pack(value: Mapping[str, Any], what: str) -> bytes:
    """Canonical CBOR of ``value``; E_MALFORMED if it would not read back (floats, other keys)."""
    try:
        data = canonical_cbor(value)
        decode_cbor(data)
    except KeycairnError:
        raise
    # cbor2 raises errors of several families for what it can't encode.
    except Exception as exc:
        raise KeycairnError(Code.MALFORMED, f"{what} holds a value that can't be stored") from exc
    return data


def _unpack(data: bytes) -> dict[str, Any]:
    value = decode_cbor(data)
    if not isinstance(value, dict):
        raise KeycairnError(Code.STORE_INTEGRITY, "a stored value is not a map")
    return value


def record_to_bytes(record: KeyRecord) -> bytes:
    """The record's fields as canonical CBOR."""
    return canonical_cbor(
        {
            "key_id": record.key_id,
            "vault": record.vault,
            "scheme": record.scheme,
            "curve": record.curve,
            "protocol": record.protocol,
            "purpose": record.purpose,
            "threshold": record.threshold,
            "holders": list(record.holders),
            "public_key": record.public_key,
            "share_commitments": list(record.share_commitments),
            "chain_code_hash": record.chain_code_hash,
            "generation": record.generation,
        }
    )


def record_from_bytes(data: bytes) -> KeyRecord:
    """Inverse of :func:`record_to_bytes`."""
    f = _unpack(data)
    f["holders"] = tuple(f["holders"])
    f["share_commitments"] = tuple(f["share_commitments"])
    return KeyRecord(**f)


def batch_to_row(b: Batch) -> dict[str, Any]:
    body = {
        "request_hash": b.request_hash,
        "generation": b.generation,
        "record_hashes": list(b.record_hashes),
        "key_ids": list(b.key_ids),
        "holders": list(b.holders),
        "ready": {str(i): s for i, s in b.ready.items()},
    }
    return {
        "batch_id": b.batch_id,
        "application": b.application,
        "request_id": b.request_id,
        "active": b.active,
        "body": pack(body, "a batch"),
        "created_us": b.created_us,
    }


def batch_from_row(row: Row) -> Batch:
    f = _unpack(row["body"])
    return Batch(
        batch_id=row["batch_id"],
        application=row["application"],
        request_id=row["request_id"],
        request_hash=f["request_hash"],
        generation=f["generation"],
        record_hashes=tuple(f["record_hashes"]),
        key_ids=tuple(f["key_ids"]),
        holders=tuple(f["holders"]),
        ready={int(i): s for i, s in f["ready"].items()},
        active=row["active"],
        created_us=row["created_us"],
    )


def key_from_row(row: Row, *, active: bool) -> KeyRow:
    return KeyRow(
        record=record_from_bytes(row["record"]),
        application=row["application"],
        state="active" if active else "pending",
        batch_id=row["batch_id"],
        created_us=row["created_us"],
    )


def spend_to_row(s: SpendRow) -> dict[str, Any]:
    return {
        "presignature_id": s.presignature_id,
        "incarnation": s.incarnation,
        "key_id": s.key_id,
        "base_r": s.base_r or None,
        "digest": s.digest,
        "at_us": s.at_us,
    }


def spend_from_row(row: Row) -> SpendRow:
    return SpendRow(
        presignature_id=row["presignature_id"],
        incarnation=row["incarnation"],
        key_id=row["key_id"],
        base_r=row["base_r"] or b"",
        digest=row["digest"],
        at_us=row["at_us"],
    )


def request_to_row(r: RequestRow) -> dict[str, Any]:
    return {
        "application": r.application,
        "request_id": r.request_id,
        "request_hash": r.request_hash,
        "result": pack(r.result, "a request's result"),
    }


def request_from_row(row: Row) -> RequestRow:
    return RequestRow(
        application=row["application"],
        request_id=row["request_id"],
        request_hash=row["request_hash"],
        result=_unpack(row["result"]),
    )


def ban_to_row(b: BanRow) -> dict[str, Any]:
    return {
        "ban_id": b.ban_id,
        "peer": b.peer,
        "reason": b.reason.encode(),
        "at_us": b.at_us,
        "lifted_us": b.lifted_us,
    }


def ban_from_row(row: Row) -> BanRow:
    return BanRow(
        ban_id=row["ban_id"],
        peer=row["peer"],
        reason=row["reason"].decode(),
        at_us=row["at_us"],
        lifted_us=row["lifted_us"],
    )


def ers_key_to_row(k: ErsKeyRow) -> dict[str, Any]:
    body = {
        "spki": k.spki,
        "bits": k.bits,
        "added_us": k.added_us,
        "expires_us": k.expires_us,
        "attested_us": k.attested_us,
        "state": k.state,
        "legacy_2048": k.legacy_2048,
        "challenge": None if k.challenge is None else dict(k.challenge),
    }
    return {"spki_sha256": k.spki_sha256, "body": pack(body, "an ERS key")}


def ers_key_from_row(row: Row) -> ErsKeyRow:
    return ErsKeyRow(spki_sha256=row["spki_sha256"], **_unpack(row["body"]))


def _key_map(keys: Mapping[str, tuple[int, bytes]]) -> dict[str, list[Any]]:
    return {k: [generation, record_hash] for k, (generation, record_hash) in keys.items()}


def _key_map_back(keys: Mapping[str, Any]) -> dict[str, tuple[int, bytes]]:
    return {k: (generation, record_hash) for k, (generation, record_hash) in keys.items()}


def document_to_row(d: DocumentRow) -> dict[str, Any]:
    body = {
        "path": d.path,
        "spki_sha256": d.spki_sha256,
        "label": d.label,
        "complete": d.complete,
        "keys": _key_map(d.keys),
        "created_us": d.created_us,
    }
    return {
        "sha256": d.sha256,
        "body": pack(body, "a document row"),
        "verified_us": d.verified_us,
    }


def document_from_row(row: Row) -> DocumentRow:
    f = _unpack(row["body"])
    f["keys"] = _key_map_back(f["keys"])
    return DocumentRow(sha256=row["sha256"], verified_us=row["verified_us"], **f)


def bundle_to_row(b: BundleRow) -> dict[str, Any]:
    body = {
        "location": b.location,
        "size": b.size,
        "created_us": b.created_us,
        "level": b.level,
        "keys": _key_map(b.keys),
        "detail": dict(b.detail),
    }
    return {
        "sha256": b.sha256,
        "body": pack(body, "a bundle receipt"),
        "verified_us": b.verified_us,
    }


def bundle_from_row(row: Row) -> BundleRow:
    f = _unpack(row["body"])
    f["keys"] = _key_map_back(f["keys"])
    return BundleRow(sha256=row["sha256"], verified_us=row["verified_us"], **f)


def behind_to_row(b: BehindRow) -> dict[str, Any]:
    body = {"key_ids": list(b.key_ids), "peer": b.peer, "at_us": b.at_us}
    return {"batch_id": b.batch_id, "body": pack(body, "a batch that is missing")}


def behind_from_row(row: Row) -> BehindRow:
    f = _unpack(row["body"])
    f["key_ids"] = tuple(f["key_ids"])
    return BehindRow(batch_id=row["batch_id"], **f)
