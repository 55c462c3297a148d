"""Documents in their two byte forms, decoded strictly (docs/ers-format.md, 5, 6 and 8)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

from .curves import CURVES, Curve, curve
from .encoding import from_cbor, tagged, to_cbor
from .errors import invalid, need

FORMAT, PART_FORMAT = "keycairn-ers", "keycairn-ers-part"
MAX_CBOR, MAX_JSON = 64 << 20, 96 << 20
MAX_LEDGER = 1 << 20
PARAMS = {"fast": (136, 55), "balanced": (256, 30), "compact": (1024, 19)}
#: Curves of each version of the format.
VERSIONS = {1: ("secp256k1", "ed25519"), 2: ("secp256k1", "p256", "ed25519")}
PROOF = ("e", "box", "copath", "siblings", "leaves")
KEY = (
    "key_id", "curve", "scheme", "protocol", "threshold", "holders", "public_key",
    "share_commitments", "generation", "chain_code_hash", "record_hash",
)  # fmt: skip
CONTEXT = (
    "hash", "keys", "node", "salt", "label", "vault", "format", "params", "k_point", "version",
    "rsa_spki",
)  # fmt: skip
#: Code points that a label may not hold.
REFUSED = (
    (0x00, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x61C, 0x61C), (0x180E, 0x180E),
    (0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F), (0xD800, 0xDFFF), (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB), (0xE0000, 0xE007F),
)  # fmt: skip


@dataclass(frozen=True)
class Key:
    """A key statement: section 5."""

    key_id: str
    curve: str
    scheme: str
    protocol: str
    threshold: int
    holders: Tuple[int, ...]
    public_key: bytes
    share_commitments: Tuple[bytes, ...]
    generation: int
    chain_code_hash: Optional[bytes]
    record_hash: bytes

    @property
    def group(self) -> Curve:
        return CURVES[self.curve]

    def commitment(self, node: int) -> bytes:
        """X_i of a holder."""
        need(node in self.holders, "holder", "the node holds no share of this key", self.key_id)
        return self.share_commitments[self.holders.index(node)]


@dataclass(frozen=True)
class Group:
    """The secrets of one curve, in order: positions of its keys, then perhaps K."""

    curve: Curve
    keys: Tuple[int, ...]
    has_k: bool

    @property
    def size(self) -> int:
        return len(self.keys) + self.has_k


class Part:
    """One node's part: its context's fields as attributes, ``ctx``, ``groups`` and the proof."""

    def __init__(self, context: bytes, proof: Dict[str, bytes]) -> None:
        fields = from_cbor(context)
        self.context = context
        self.keys = _check_context(fields)
        self.ctx = tagged("ers/context", context)
        self.node: int = fields["node"]
        self.label: str = fields["label"]
        self.vault: str = fields["vault"]
        self.params: str = fields["params"]
        self.n, self.tau = PARAMS[self.params]
        self.k_point: bytes = fields["k_point"]
        self.version: int = fields["version"]
        self.rsa_spki: bytes = fields["rsa_spki"]
        self.e, self.box = proof["e"], proof["box"]
        self.copath, self.siblings = proof["copath"], proof["siblings"]
        self.leaves = proof["leaves"]
        self.encoded = to_cbor({"context": context, **proof})
        names = list(dict.fromkeys(key.curve for key in self.keys))
        self.k_curve = curve("secp256k1" if "secp256k1" in names else names[0])
        self.groups = [
            Group(
                CURVES[name],
                tuple(i for i, key in enumerate(self.keys) if key.curve == name),
                name == self.k_curve.name,
            )
            for name in names
        ]

    @property
    def secrets(self) -> int:
        return len(self.keys) + 1

    @property
    def chain_codes(self) -> List[int]:
        """Positions of the keys that have one."""
        return [i for i, key in enumerate(self.keys) if key.chain_code_hash is not None]

    @property
    def batch(self) -> Tuple[Any, ...]:
        """What all parts of one document have in common."""
        return self.version, self.params, self.rsa_spki, self.label, self.vault, self.keys


class Document:
    """Parts of one batch, sorted; ``sha256`` is the document's name."""

    def __init__(self, parts: Sequence[Part]) -> None:
        need(1 <= len(parts) <= 255, "parts", "a document has 1 to 255 parts")
        first = parts[0]
        for part in parts:
            need(part.batch == first.batch, "mixed", "the parts are not of one batch")
        self.parts = list(parts)
        self.version, self.label, self.vault = first.version, first.label, first.vault
        self.params, self.rsa_spki, self.keys = first.params, first.rsa_spki, first.keys
        items = [from_cbor(part.encoded) for part in parts]
        whole = {"parts": items, "format": FORMAT, "version": self.version}
        self.sha256 = hashlib.sha256(to_cbor(whole)).hexdigest()

    @property
    def nodes(self) -> List[int]:
        return sorted({part.node for part in self.parts})


def order(part: Part) -> Tuple[int, bytes]:
    """Parts stand in this order."""
    return part.node, hashlib.sha256(part.encoded).digest()


def load(data: bytes) -> Document:
    """A document in either form; E_ERS_INVALID."""
    parts = _from_json(data) if data[:1] == b"{" else _from_cbor(data)
    for a, b in zip(parts, parts[1:]):
        need(order(a) < order(b), "order", "the parts are not in order")
    return Document(parts)


def combine(documents: Sequence[Document]) -> List[Document]:
    """Documents of one batch become one."""
    batches: Dict[Tuple[Any, ...], Dict[bytes, Part]] = {}
    for document in documents:
        for part in document.parts:
            batches.setdefault(part.batch, {})[part.encoded] = part
    return [Document(sorted(found.values(), key=order)) for found in batches.values()]


# -- the forms


def _version(outer: Dict[str, Any]) -> int:
    need(outer["format"] == FORMAT, "encoding", "not a keycairn-ers document")
    version = outer["version"]
    need(type(version) is int and version in VERSIONS, "version", "an unknown format version")
    return int(version)


def _from_cbor(data: bytes) -> List[Part]:
    need(len(data) <= MAX_CBOR, "encoding", "the document is larger than 64 MiB")
    outer = _fields(from_cbor(data), ("parts", "format", "version"))
    version = _version(outer)
    need(isinstance(outer["parts"], list), "encoding", "parts must be a list")
    parts = []
    for item in outer["parts"]:
        fields = dict(_fields(item, (*PROOF, "context")))
        need(all(isinstance(v, bytes) for v in fields.values()), "encoding", "not byte strings")
        parts.append(_part(fields.pop("context"), fields, version))
    return parts


def _part(context: bytes, proof: Dict[str, bytes], version: int) -> Part:
    part = Part(context, proof)
    need(part.version == version, "version", "a part has another version than the document")
    return part


def _from_json(data: bytes) -> List[Part]:
    need(len(data) <= MAX_JSON, "encoding", "the document is larger than 96 MiB")
    try:
        value = json.loads(data.decode("ascii"))
        again = json.dumps(value, sort_keys=True, indent=2) + "\n"
    except (ValueError, RecursionError, TypeError):
        raise invalid("encoding", "the document is not JSON") from None
    # One rendering only: that refuses doubled keys, floats and odd escapes too.
    need(again.encode("ascii") == data, "encoding", "the JSON is not rendered as documented")
    outer = _fields(value, ("parts", "format", "version"))
    version = _version(outer)
    need(isinstance(outer["parts"], list), "encoding", "parts must be a list")
    parts = []
    for item in outer["parts"]:
        part = _fields(item, ("context", "proof"))
        context = dict(_fields(part["context"], CONTEXT))
        context["rsa_spki"] = _base64(context["rsa_spki"])
        context["salt"], context["k_point"] = _hex(context["salt"]), _hex(context["k_point"])
        need(isinstance(context["keys"], list), "context", "keys must be a list")
        context["keys"] = [_key_from_json(key) for key in context["keys"]]
        _check_context(context)
        proof = _fields(part["proof"], PROOF)
        raw = {name: _base64(proof[name]) for name in PROOF}
        parts.append(_part(to_cbor(context), raw, version))
    return parts


def _key_from_json(item: Any) -> List[Any]:
    key = dict(_fields(item, KEY))
    for name in ("public_key", "record_hash", "chain_code_hash"):
        if name != "chain_code_hash" or key[name] is not None:
            key[name] = _hex(key[name])
    need(isinstance(key["share_commitments"], list), "context", "commitments must be a list")
    key["share_commitments"] = [_hex(point) for point in key["share_commitments"]]
    return [key[name] for name in KEY]


def _fields(item: Any, names: Sequence[str]) -> Dict[str, Any]:
    good = isinstance(item, dict) and set(item) == set(names)
    need(good, "encoding", "an object does not have exactly the documented fields")
    return dict(item)


def _base64(text: Any) -> bytes:
    need(isinstance(text, str), "encoding", "not base64")
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid("encoding", "not base64") from None
    need(base64.b64encode(raw).decode("ascii") == text, "encoding", "not canonical base64")
    return raw


def _hex(text: Any) -> bytes:
    good = isinstance(text, str) and len(text) % 2 == 0 and set(text) <= set("0123456789abcdef")
    need(good, "encoding", "not lower-case hex")
    return bytes.fromhex(text)


# -- the context


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 128 and all("!" <= c <= "~" for c in value)


def _is_int(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_bytes(value: Any, length: int) -> bool:
    return isinstance(value, bytes) and len(value) == length


def _check_context(c: Any) -> Tuple[Key, ...]:
    c = _fields(c, CONTEXT)
    version = c["version"]
    need(c["format"] == PART_FORMAT and c["hash"] == "sha256", "context", "not an ERS part")
    need(type(version) is int and version in VERSIONS, "version", "an unknown format version")
    known = isinstance(c["params"], str) and c["params"] in PARAMS
    need(known, "params", "unknown parameters")
    need(_is_int(c["node"], 1, 255), "context", "the node's index is not in 1 to 255")
    need(_is_bytes(c["salt"], 32), "context", "the salt does not have 32 bytes")
    need(_is_name(c["vault"]), "context", "the vault id is no name")
    need(isinstance(c["rsa_spki"], bytes), "context", "the RSA key is not a byte string")
    need(isinstance(c["k_point"], bytes), "context", "K*G is not a byte string")
    label = c["label"]
    need(isinstance(label, str), "context", "the label is not text")
    odd = any(low <= ord(ch) <= high for ch in label for low, high in REFUSED)
    need(not odd, "context", "the label has invisible or control characters")
    need(len(label.encode("utf-8")) <= 256, "context", "the label is too long")
    keys = c["keys"]
    need(isinstance(keys, list) and 1 <= len(keys) <= 10_000, "context", "1 to 10,000 keys")
    found = tuple(_check_key(key, version) for key in keys)
    need(len({key.key_id for key in found}) == len(found), "context", "two keys have one id")
    for key in found:
        key.commitment(c["node"])
    return found


def _check_key(item: Any, version: int) -> Key:
    need(isinstance(item, list) and len(item) == len(KEY), "context", "not a key statement")
    f = dict(zip(KEY, item))
    for name in ("key_id", "scheme", "protocol"):
        need(_is_name(f[name]), "context", "the %s of a key is no name" % name)
    key_id = f["key_id"]
    known = isinstance(f["curve"], str) and f["curve"] in VERSIONS[version]
    need(known, "context", "unknown curve", key_id)
    holders, points = f["holders"], f["share_commitments"]
    need(isinstance(holders, list) and holders, "context", "holders must be a list", key_id)
    need(all(_is_int(h, 1, 255) for h in holders), "context", "holders are 1 to 255", key_id)
    need(holders == sorted(set(holders)), "context", "holders must rise", key_id)
    good = _is_int(f["threshold"], 1, len(holders) - 1)
    need(good, "context", "t is at least 1, and there are more than t holders", key_id)
    good = isinstance(points, list) and len(points) == len(holders)
    need(good, "context", "one share commitment per holder", key_id)
    length = CURVES[f["curve"]].point_len
    good = all(_is_bytes(point, length) for point in [f["public_key"], *points])
    need(good, "context", "a point has a wrong length", key_id)
    need(_is_int(f["generation"], 1, 1 << 53), "context", "the generation", key_id)
    code = f["chain_code_hash"]
    need(code is None or _is_bytes(code, 32), "context", "the chain code's hash", key_id)
    need(_is_bytes(f["record_hash"], 32), "context", "the record hash", key_id)
    f["holders"], f["share_commitments"] = tuple(holders), tuple(points)
    return Key(**f)
