"""The manifest: what a bundle is and holds, in the clear, public data only.

Anybody can read it without a key; whoever knows the node's public key can tell that the node
wrote it (docs/bundle-format.md gives every field).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keycairn.encoding import canonical_json, decode_hex, decode_json, encode, tag
from keycairn.errors import Code, KeycairnError
from keycairn.vault.api import Identity

FORMAT = 1
KIND = "keycairn node bundle"
MAX_MANIFEST = 64 << 20

#: Said in every manifest, so that nobody believes a bundle to be enough on its own.
NOT_INSIDE = (
    "the master secret (password or key file) that opens the sealed rows",
    "the age identity that decrypts this bundle",
    "presignatures, nonces and pair setups",
)

_SIGNED = tag("backup/manifest")
_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_PART_NAME = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*\Z")
MAX_PART_NAME = 100


@dataclass(frozen=True)
class Part:
    """One file of the payload: name inside the archive, bytes, SHA-256 of its content."""

    name: str
    size: int
    sha256: bytes


@dataclass(frozen=True)
class HeldKey:
    """What the bundle holds of one key."""

    generation: int
    record_hash: bytes
    state: str  # "pending" | "active"


@dataclass(frozen=True)
class PendingBatch:
    """A batch without a certificate: its keys, and the holders whose READY is known or not."""

    batch_id: bytes
    keys: tuple[str, ...]
    ready: tuple[int, ...]
    missing: tuple[int, ...]


@dataclass(frozen=True)
class Manifest:
    """See docs/bundle-format.md. Times in microseconds since the epoch, sizes in bytes."""

    keycairn: str
    vault: str
    node: int
    node_public_key: bytes
    created_us: int
    keys: Mapping[str, HeldKey]
    pending: tuple[PendingBatch, ...]
    policy: str
    parts: tuple[Part, ...]
    payload_size: int
    payload_sha256: bytes
    recipients: tuple[str, ...]
    not_inside: tuple[str, ...] = NOT_INSIDE

    def receipt_keys(self) -> dict[str, tuple[int, bytes]]:
        """Key id to (generation, record hash): what a receipt says is held."""
        return {k: (held.generation, held.record_hash) for k, held in self.keys.items()}

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(
            {
                "created_us": self.created_us,
                "format": FORMAT,
                "keycairn": self.keycairn,
                "keys": {
                    key_id: {
                        "generation": held.generation,
                        "record_hash": held.record_hash.hex(),
                        "state": held.state,
                    }
                    for key_id, held in self.keys.items()
                },
                "kind": KIND,
                "node": self.node,
                "node_public_key": self.node_public_key.hex(),
                "not_inside": list(self.not_inside),
                "parts": [
                    {"name": p.name, "sha256": p.sha256.hex(), "size": p.size} for p in self.parts
                ],
                "payload": {
                    "encryption": "age",
                    "sha256": self.payload_sha256.hex(),
                    "size": self.payload_size,
                },
                "pending": [
                    {
                        "batch_id": b.batch_id.hex(),
                        "keys": list(b.keys),
                        "missing": list(b.missing),
                        "ready": list(b.ready),
                    }
                    for b in self.pending
                ],
                "policy": self.policy,
                "recipients": list(self.recipients),
                "vault": self.vault,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Strict inverse of :meth:`to_bytes`.

        Raises:
            KeycairnError: E_MALFORMED or E_TOO_LARGE for anything else, down to the last byte.
        """
        body = decode_json(data, max_bytes=MAX_MANIFEST)
        try:
            made = _read(cls, body)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise KeycairnError(Code.MALFORMED, "the bundle's manifest lacks a field") from exc
        # Catches unknown fields, other types and other spellings in one comparison.
        if made.to_bytes() != data:
            _bad("it is not in canonical form, or holds unknown fields")
        return made


def _bad(why: str) -> NoReturn:
    raise KeycairnError(Code.MALFORMED, f"the bundle's manifest is malformed: {why}")


def _natural(value: Any, what: str) -> int:
    if type(value) is not int or value < 0:
        _bad(f"{what} must be a whole number")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        _bad(f"{what} must be text")
    return value


def _hash(value: Any, what: str) -> bytes:
    return decode_hex(value, length=32, what=what)


def _read(cls: type[Manifest], body: Any) -> Manifest:
    parts = tuple(
        Part(check_part_name(p["name"]), _natural(p["size"], "size"), _hash(p["sha256"], "sha256"))
        for p in body["parts"]
    )
    if len({p.name for p in parts}) != len(parts):
        _bad("two parts have one name")
    keys = {
        key_id: HeldKey(
            _natural(held["generation"], "generation"),
            _hash(held["record_hash"], "record_hash"),
            _text(held["state"], "state"),
        )
        for key_id, held in body["keys"].items()
    }
    pending = tuple(
        PendingBatch(
            _hash(b["batch_id"], "batch_id"),
            tuple(_text(k, "key id") for k in b["keys"]),
            tuple(_natural(i, "player") for i in b["ready"]),
            tuple(_natural(i, "player") for i in b["missing"]),
        )
        for b in body["pending"]
    )
    return cls(
        keycairn=_text(body["keycairn"], "keycairn"),
        vault=_text(body["vault"], "vault"),
        node=_natural(body["node"], "node"),
        node_public_key=_hash(body["node_public_key"], "node_public_key"),
        created_us=_natural(body["created_us"], "created_us"),
        keys=keys,
        pending=pending,
        policy=_text(body["policy"], "policy"),
        parts=parts,
        payload_size=_natural(body["payload"]["size"], "payload size"),
        payload_sha256=_hash(body["payload"]["sha256"], "payload sha256"),
        recipients=tuple(_text(r, "recipient") for r in body["recipients"]),
        not_inside=tuple(_text(n, "not_inside") for n in body["not_inside"]),
    )


def check_part_name(name: object) -> str:
    """A safe relative name: plain segments that begin with a letter or digit, joined by ``/``.

    Raises:
        KeycairnError: E_MALFORMED for anything else (absolute, ``..``, hidden, too long, …).
    """
    if not isinstance(name, str) or len(name) > MAX_PART_NAME or not _PART_NAME.match(name):
        raise KeycairnError(Code.MALFORMED, "a part's name in the bundle is not a plain name")
    return name


def sign_manifest(manifest: bytes, identity: Identity) -> bytes:
    """64-byte Ed25519 signature of the manifest's bytes by the node's identity key."""
    key = Ed25519PrivateKey.from_private_bytes(identity.private.reveal())
    return key.sign(encode(_SIGNED, FORMAT, manifest))


def check_signature(manifest: bytes, signature: bytes, public_key: bytes) -> None:
    """Raise E_STORE_INTEGRITY unless ``public_key`` signed exactly these manifest bytes."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
        key.verify(signature, encode(_SIGNED, FORMAT, manifest))
    except (InvalidSignature, ValueError) as exc:
        raise KeycairnError(
            Code.STORE_INTEGRITY,
            "the manifest's signature is not valid: altered, or signed by another node",
            not_lost="Nothing was written.",
            next="use another copy of this bundle, or an older bundle of this node",
        ) from exc
