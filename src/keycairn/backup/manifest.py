"""The manifest: what a bundle is and holds, in the clear, public data only.

Anybody can read it without a key; whoever knows the node's public key can tell that the node
wrote it (docs/bundle-format.md gives every field). Written is format 2; format 1, which lacks
what a comparison of all nodes' bundles needs, is still read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from keycairn.encoding import canonical_json, decode_hex, decode_json, encode, tag
from keycairn.errors import Code, KeycairnError
from keycairn.vault.api import Identity

FORMAT = 2
#: Formats that are read. The first knew neither players, holders nor backup points.
FORMATS = (1, FORMAT)
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
    """What the bundle holds of one key. Format 1 says nothing of holders and threshold."""

    generation: int
    record_hash: bytes
    state: str  # "pending" | "active"
    holders: tuple[int, ...] = ()
    threshold: int = 0


@dataclass(frozen=True)
class PendingBatch:
    """A batch without a certificate: its keys, and the holders whose READY is known or not."""

    batch_id: bytes
    keys: tuple[str, ...]
    ready: tuple[int, ...]
    missing: tuple[int, ...]


@dataclass(frozen=True)
class Point:
    """A backup point: all nodes' bundles of one moment bear the same number and id."""

    number: int
    id: bytes  # 16 bytes, drawn by whoever asked for the point


@dataclass(frozen=True)
class History:
    """Where the node's own history stood: era, number of entries, and head."""

    era: int
    length: int
    head: bytes


@dataclass(frozen=True)
class Manifest:
    """See docs/bundle-format.md. Times in microseconds since the epoch, sizes in bytes.

    ``players`` are the identity keys of all players as this node pins them, its own among them.
    """

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
    format: int = FORMAT
    players: Mapping[int, bytes] = field(default_factory=dict)
    threshold: int = 0
    database: str = "sqlite"
    tools: Mapping[str, str] = field(default_factory=dict)
    point: Point | None = None
    history: History | None = None

    def receipt_keys(self) -> dict[str, tuple[int, bytes]]:
        """Key id to (generation, record hash): what a receipt says is held."""
        return {k: (held.generation, held.record_hash) for k, held in self.keys.items()}

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        body: dict[str, Any] = {
            "created_us": self.created_us,
            "format": self.format,
            "keycairn": self.keycairn,
            "keys": {key_id: self._key(held) for key_id, held in self.keys.items()},
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
        if self.format > 1:
            body |= {
                "database": self.database,
                "history": None
                if self.history is None
                else {
                    "era": self.history.era,
                    "head": self.history.head.hex(),
                    "length": self.history.length,
                },
                "players": {str(i): key.hex() for i, key in self.players.items()},
                "point": None
                if self.point is None
                else {"id": self.point.id.hex(), "number": self.point.number},
                "threshold": self.threshold,
                "tools": dict(self.tools),
            }
        return canonical_json(body)

    def _key(self, held: HeldKey) -> dict[str, Any]:
        out: dict[str, Any] = {
            "generation": held.generation,
            "record_hash": held.record_hash.hex(),
            "state": held.state,
        }
        if self.format > 1:
            out |= {"holders": list(held.holders), "threshold": held.threshold}
        return out

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


def _read_later(body: Any) -> dict[str, Any]:
    """The fields that format 1 lacks."""
    history, point = body["history"], body["point"]
    return {
        "players": {int(i): _hash(key, "player") for i, key in body["players"].items()},
        "threshold": _natural(body["threshold"], "threshold"),
        "database": _text(body["database"], "database"),
        "tools": {_text(k, "tool"): _text(v, "version") for k, v in body["tools"].items()},
        "point": None
        if point is None
        else Point(
            _natural(point["number"], "point"), decode_hex(point["id"], length=16, what="point id")
        ),
        "history": None
        if history is None
        else History(
            _natural(history["era"], "era"),
            _natural(history["length"], "length"),
            _hash(history["head"], "head"),
        ),
    }


def _read(cls: type[Manifest], body: Any) -> Manifest:
    number = body["format"]
    if type(number) is not int or number not in FORMATS:
        _bad("it has another format than this keycairn reads")
    later = number > 1
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
            tuple(_natural(i, "holder") for i in held["holders"]) if later else (),
            _natural(held["threshold"], "threshold") if later else 0,
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
        format=number,
        **(_read_later(body) if later else {}),
    )


def check_part_name(name: object) -> str:
    """A safe relative name: plain segments that begin with a letter or digit, joined by ``/``.

    Raises:
        KeycairnError: E_MALFORMED for anything else (absolute, ``..``, hidden, too long, …).
    """
    if not isinstance(name, str) or len(name) > MAX_PART_NAME or not _PART_NAME.match(name):
        raise KeycairnError(Code.MALFORMED, "a part's name in the bundle is not a plain name")
    return name


def sign_manifest(manifest: bytes, identity: Identity, number: int = FORMAT) -> bytes:
    """64-byte Ed25519 signature of the manifest's bytes by the node's identity key."""
    key = Ed25519PrivateKey.from_private_bytes(identity.private.reveal())
    return key.sign(encode(_SIGNED, number, manifest))


def check_signature(
    manifest: bytes, signature: bytes, public_key: bytes, number: int = FORMAT
) -> None:
    """Raise E_STORE_INTEGRITY unless ``public_key`` signed exactly these manifest bytes."""
    try:
        key = Ed25519PublicKey.from_public_bytes(public_key)
        key.verify(signature, encode(_SIGNED, number, manifest))
    except (InvalidSignature, ValueError) as exc:
        raise KeycairnError(
            Code.STORE_INTEGRITY,
            "the manifest's signature is not valid: altered, or signed by another node",
            not_lost="Nothing was written.",
            next="use another copy of this bundle, or an older bundle of this node",
        ) from exc
