"""Parts and documents, and their two byte forms (docs/ers-format.md).

A :class:`Part` is one node's proof for a batch. A :class:`Document` is the parts of one batch,
from one node or several. The CBOR form is the document proper (its SHA-256 is the document's
name); the JSON form holds the same data so that people can look at it. Both have exactly one
rendering per document, and anything else is refused.

Nothing here checks a proof: that is ``verify``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from keycairn.encoding import canonical_cbor, decode_cbor, decode_hex, decode_json
from keycairn.ers.context import FORMAT as PART_FORMAT
from keycairn.ers.context import HASH, VERSIONS, Context
from keycairn.ers.faults import as_invalid, invalid
from keycairn.ers.statement import HASH_LEN, KeyStatement

FORMAT = "keycairn-ers"
MAX_CBOR = 64 << 20
MAX_JSON = 96 << 20
MAX_PARTS = 255

_PROOF_FIELDS = ("e", "box", "copath", "siblings", "leaves")


@dataclass(frozen=True)
class Part:
    """One node's encryption of its shares of a batch, with the proof.

    Attributes:
        context: the statement.
        e: the challenge, 32 bytes.
        box: AES-256-GCM box of chain codes and path ledger.
        copath: seeds (32 bytes each) that open all leaves but the closed ones, by node number.
        siblings: Merkle values (32 bytes each) at the same nodes.
        leaves: for every closed leaf, rising: ciphertext, all z (32 bytes each), salt (32).
    """

    context: Context
    e: bytes
    box: bytes
    copath: bytes
    siblings: bytes
    leaves: bytes

    @property
    def node(self) -> int:
        """The prover's player index."""
        return self.context.node

    @property
    def proof_size(self) -> int:
        """Bytes of the proof, without the context."""
        return sum(len(getattr(self, name)) for name in _PROOF_FIELDS)

    def _item(self) -> dict[str, bytes]:
        proof = {name: getattr(self, name) for name in _PROOF_FIELDS}
        return {"context": self.context.encoded, **proof}

    @cached_property
    def encoded(self) -> bytes:
        return canonical_cbor(self._item())

    def to_cbor(self) -> bytes:
        """Canonical CBOR of the part alone: what nodes send each other."""
        return self.encoded

    @classmethod
    def from_cbor(cls, data: bytes) -> Part:
        """Strict inverse of :meth:`to_cbor`.

        Raises:
            KeycairnError: E_ERS_INVALID for anything that is not canonical and complete. Lengths
                that depend on the proof are the verifier's business.
        """
        with as_invalid("encoding"):
            return cls._from_item(decode_cbor(data, max_bytes=MAX_CBOR))

    @classmethod
    def _from_item(cls, item: object) -> Part:
        if not isinstance(item, dict) or set(item) != {"context", *_PROOF_FIELDS}:
            raise invalid("encoding", "a part does not have exactly the documented fields")
        if not all(isinstance(value, bytes) for value in item.values()):
            raise invalid("encoding", "the fields of a part are byte strings")
        if len(item["e"]) != HASH_LEN:
            raise invalid("length", "e must be 32 bytes")
        return cls(
            context=Context.from_cbor(item["context"]),
            **{name: item[name] for name in _PROOF_FIELDS},
        )

    def _json(self) -> dict[str, Any]:
        c = self.context
        return {
            "context": {
                "format": PART_FORMAT,
                "version": c.version,
                "hash": HASH,
                "params": c.params_name,
                "rsa_spki": _to_base64(c.rsa_spki),
                "label": c.label,
                "vault": c.vault,
                "node": c.node,
                "salt": c.salt.hex(),
                "k_point": c.k_point.hex(),
                "keys": [key.to_json() for key in c.keys],
            },
            "proof": {name: _to_base64(getattr(self, name)) for name in _PROOF_FIELDS},
        }

    @classmethod
    def _from_json(cls, item: object) -> Part:
        outer = _fields(item, {"context", "proof"})
        context = dict(_fields(outer["context"], None))
        for name, decode in (("rsa_spki", _from_base64), ("salt", _hex), ("k_point", _hex)):
            context[name] = decode(context.get(name))
        keys = context.get("keys")
        if not isinstance(keys, list):
            raise invalid("context", "keys must be a list")
        context["keys"] = [_key_from_json(key) for key in keys]
        proof = _fields(outer["proof"], set(_PROOF_FIELDS))
        made = cls(
            context=Context.from_fields(context),
            **{name: _from_base64(proof[name]) for name in _PROOF_FIELDS},
        )
        if len(made.e) != HASH_LEN:
            raise invalid("length", "e must be 32 bytes")
        return made


@dataclass(frozen=True)
class Document:
    """The parts of one batch: those of all holders, or of some.

    Parts are brought into order (node index, then SHA-256 of the part) and exact duplicates
    dropped. Two different parts of one node are both kept and count once.

    Raises:
        KeycairnError: E_ERS_INVALID when there is no part, too many, or when parts differ in
            version, label, vault, parameters, RSA key, key records or generations.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        unique = {part.encoded: part for part in self.parts}.values()
        ordered = sorted(unique, key=lambda p: (p.node, hashlib.sha256(p.encoded).digest()))
        if not 1 <= len(ordered) <= MAX_PARTS:
            raise invalid("parts", f"a document has 1 to {MAX_PARTS} parts")
        object.__setattr__(self, "parts", tuple(ordered))
        first = ordered[0].context
        for part in ordered[1:]:
            if part.context.batch != first.batch:
                raise _mixed(first, part.context)

    @classmethod
    def combine(cls, documents: Iterable[Document]) -> Document:
        """One document with all parts of several; refuses to mix batches (E_ERS_INVALID)."""
        return cls(tuple(part for document in documents for part in document.parts))

    @property
    def context(self) -> Context:
        """The first part's context; label, vault, RSA key and keys are those of every part."""
        return self.parts[0].context

    @property
    def keys(self) -> tuple[KeyStatement, ...]:
        return self.context.keys

    @property
    def nodes(self) -> tuple[int, ...]:
        """Distinct node indices of the parts, rising."""
        return tuple(sorted({part.node for part in self.parts}))

    @cached_property
    def encoded(self) -> bytes:
        return canonical_cbor(
            {
                "format": FORMAT,
                "version": self.context.version,
                "parts": [part._item() for part in self.parts],
            }
        )

    @property
    def sha256(self) -> str:
        """SHA-256 of the CBOR form, lower-case hex; equal for both forms of a document."""
        return hashlib.sha256(self.encoded).hexdigest()

    def file_name(self, form: str = "json") -> str:
        """A suggested file name: ``ers-<vault>-<12 hex digits of sha256>.json`` or ``.cbor``."""
        vault = re.sub(r"[^A-Za-z0-9_-]", "_", self.context.vault)[:40]
        return f"ers-{vault}-{self.sha256[:12]}.{form}"

    def to_cbor(self) -> bytes:
        """The document proper: canonical CBOR."""
        return self.encoded

    def to_json(self) -> bytes:
        """The JSON form: ASCII, sorted keys, two spaces of indentation, newline at the end."""
        value = {
            "format": FORMAT,
            "version": self.context.version,
            "parts": [part._json() for part in self.parts],
        }
        return (json.dumps(value, sort_keys=True, indent=2) + "\n").encode("ascii")

    @classmethod
    def from_cbor(cls, data: bytes) -> Document:
        """Strict inverse of :meth:`to_cbor`; raises E_ERS_INVALID."""
        with as_invalid("encoding"):
            item = decode_cbor(data, max_bytes=MAX_CBOR)
            made = cls(tuple(Part._from_item(part) for part in _parts(item)))
            made._check_version(item["version"])
        if made.encoded != data:
            raise invalid("encoding", "the document is not in canonical form")
        return made

    @classmethod
    def from_json(cls, data: bytes) -> Document:
        """Strict inverse of :meth:`to_json`; raises E_ERS_INVALID."""
        with as_invalid("encoding"):
            item = decode_json(data, max_bytes=MAX_JSON, max_string=MAX_JSON)
            made = cls(tuple(Part._from_json(part) for part in _parts(item)))
            made._check_version(item["version"])
        if made.to_json() != data:
            raise invalid("encoding", "the JSON form is not equal to its own rendering")
        return made

    def _check_version(self, claimed: int) -> None:
        if claimed != self.context.version:
            raise invalid("version", "the document and its parts are of different versions")

    @classmethod
    def load(cls, data: bytes) -> Document:
        """A document in either form (JSON starts with ``{``); raises E_ERS_INVALID."""
        return cls.from_json(data) if data[:1] == b"{" else cls.from_cbor(data)


def looks_like_document(head: bytes) -> bool:
    """Whether a file's first bytes are those of a document or a part, in either form."""
    # JSON begins with the format's name; CBOR with a map whose first key is "parts" or "e".
    return head.startswith((b"\xa3eparts", b"\xa6aeX ")) or b'"keycairn-ers"' in head[:64]


def _parts(item: object) -> list[Any]:
    fields = _fields(item, {"format", "version", "parts"})
    if fields["format"] != FORMAT:
        raise invalid("encoding", "not a keycairn-ers document")
    if type(fields["version"]) is not int or fields["version"] not in VERSIONS:
        raise invalid("version", "this version of the format is not known here")
    parts = fields["parts"]
    if not isinstance(parts, list) or not 1 <= len(parts) <= MAX_PARTS:
        raise invalid("parts", f"a document has 1 to {MAX_PARTS} parts")
    return parts


def _fields(item: object, names: set[str] | None) -> dict[str, Any]:
    if not isinstance(item, dict) or (names is not None and set(item) != names):
        raise invalid("encoding", "an object does not have exactly the documented fields")
    return item


def _to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _from_base64(text: object) -> bytes:
    if not isinstance(text, str):
        raise invalid("encoding", "binary fields are base64 text")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise invalid("encoding", "a binary field is not base64") from exc


def _hex(text: object) -> bytes:
    return decode_hex(text)


def _key_from_json(item: object) -> list[Any]:
    names = [f for f in KeyStatement.__dataclass_fields__]
    key = _fields(item, set(names))
    commitments = key["share_commitments"]
    if not isinstance(commitments, list):
        raise invalid("context", "share commitments are a list")
    code = key["chain_code_hash"]
    binary = {
        "public_key": _hex(key["public_key"]),
        "share_commitments": [_hex(raw) for raw in commitments],
        "chain_code_hash": None if code is None else _hex(code),
        "record_hash": _hex(key["record_hash"]),
    }
    return [binary.get(name, key[name]) for name in names]


def _mixed(a: Context, b: Context) -> Exception:
    for check, left, right in (
        ("version", a.version, b.version),
        ("label", a.label, b.label),
        ("vault", a.vault, b.vault),
        ("rsa", a.rsa_spki, b.rsa_spki),
        ("params", a.params_name, b.params_name),
        ("generation", [k.generation for k in a.keys], [k.generation for k in b.keys]),
    ):
        if left != right:
            return invalid(f"mixed {check}", f"the parts do not have the same {check}", node=b.node)
    return invalid("mixed keys", "the parts are not about the same key records", node=b.node)
