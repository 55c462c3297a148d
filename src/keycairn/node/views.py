"""Results of the service as JSON: lower-case hex for bytes, names of docs/operations/cli.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keycairn.curves.addresses import NAMES
from keycairn.curves.pem import public_key_pem
from keycairn.vault.api import DocumentResult, ErsKeyView, KeyView, Signature
from keycairn.vault.ports import BundleRow


def key_json(view: KeyView) -> dict[str, Any]:
    """A key, or the child at its ``path``. Addresses are null while this node's policy gates them;
    ``missing`` says why."""
    path = {} if view.path is None else {"path": view.path}
    return {
        "key_id": view.key_id,
        "scheme": view.scheme,
        "curve": view.curve,
        "public_key": view.public_key.hex(),
        "public_key_pem": public_key_pem(view.curve, view.public_key),
        "generation": view.generation,
        "threshold": view.threshold,
        "players": list(view.players),
        "state": view.state,
        "record_hash": view.record_hash.hex(),
        "backed_up": view.backed_up,
        "addresses": {name: view.addresses.get(name) for name in NAMES},
        "missing": list(view.missing),
        "next": list(view.next),
        **path,
    }


def signatures_json(results: Sequence[Signature], *, many: bool) -> dict[str, Any]:
    """Signatures in the order of what was asked for; the bare one if the request was no list."""
    if many:
        return {"signatures": [signature_json(r) for r in results]}
    return signature_json(results[0])


def signature_json(result: Signature) -> dict[str, Any]:
    """A verified signature."""
    return {
        "signature": result.signature.hex(),
        "der": None if result.der is None else result.der.hex(),
        "recovery_id": result.recovery_id,
        "public_key": result.public_key.hex(),
        "nodes": list(result.nodes),
        "base_r": result.base_r.hex(),
        "presignature_id": result.presignature_id.hex(),
    }


def document_json(result: DocumentResult) -> dict[str, Any]:
    """An ERS document; ``document`` is its canonical JSON text, whole."""
    return {
        "document": result.document.decode("utf-8"),
        "sha256": result.sha256,
        "keys": list(result.keys),
        "parts": list(result.parts),
        "rsa_spki_sha256": result.rsa_spki_sha256,
    }


def ers_key_json(view: ErsKeyView, node: int) -> dict[str, Any]:
    """An ERS key on the allow-list of ``node``."""
    return {
        "rsa_spki_sha256": view.rsa_spki_sha256,
        "bits": view.bits,
        "state": view.state,
        "nodes": [node],
        "added": view.added_us,
        "attested_at": view.attested_us,
        "attested_days": view.attested_days,
        "attestation": view.attestation,
        "rsa_spki": view.spki.hex() or None,
        "expires": view.expires_us,
        "origin": view.origin,
    }


def bundle_json(row: BundleRow, *, operator: bool) -> dict[str, Any]:
    """Receipt of a bundle; where it lies is for the operator only."""
    public: dict[str, Any] = {
        "sha256": row.sha256,
        "size": row.size,
        "created_us": row.created_us,
        "verified_us": row.verified_us,
        "level": row.level,
    }
    return public | {"bundle": row.location, "keys": len(row.keys)} if operator else public


def plain(value: Any) -> Any:
    """A JSON value out of the service's free-form results: bytes to hex, mappings to objects."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [plain(v) for v in items]
    return value
