"""The context of a part: everything the proof is about, in canonical CBOR.

``ctx``, its tagged SHA-256, enters every hash of the proof; the bytes themselves are hashed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from keycairn.curves import GROUPS, SECP256K1, Group
from keycairn.encoding import canonical_cbor, decode_cbor, digest, tag
from keycairn.ers.faults import as_invalid, invalid
from keycairn.ers.params import Params, params
from keycairn.ers.rsa import RsaPublicKey, load_rsa_public_key, parse_spki
from keycairn.ers.statement import (
    CURVES_1,
    HASH_LEN,
    MAX_INDEX,
    KeyStatement,
    check_bytes,
    check_int,
    check_name,
)

_CONTEXT = tag("ers/context")
_BATCH = tag("ers/batch")

FORMAT = "keycairn-ers-part"
#: What is written; all of VERSIONS is read.
VERSION = 2
VERSIONS = (1, 2)
HASH = "sha256"
MAX_KEYS = 10_000
MAX_LABEL = 256
SECRET_LEN = 32
#: Code points that a label may not hold: controls, invisible and direction-changing characters.
_REFUSED = (
    (0x00, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x61C, 0x61C), (0x180E, 0x180E),
    (0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F), (0xD800, 0xDFFF), (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB), (0xE0000, 0xE007F),
)  # fmt: skip


def check_label(label: object) -> str:
    """The operator's label: at most 256 bytes of UTF-8, nothing invisible; E_ERS_INVALID."""
    if not isinstance(label, str) or any(
        low <= ord(ch) <= high for ch in label for low, high in _REFUSED
    ):
        raise invalid("context", "the label must be text without control characters")
    if len(label.encode("utf-8")) > MAX_LABEL:
        raise invalid("context", f"the label is longer than {MAX_LABEL} bytes")
    return label


def pick_k_group(keys: tuple[KeyStatement, ...]) -> Group:
    """The curve of the part's own secret K: secp256k1 if the batch has it, else its first."""
    if any(key.curve == SECP256K1.name for key in keys):
        return SECP256K1
    return keys[0].group


@dataclass(frozen=True)
class Bundle:
    """The secrets of one curve, in the proof's order.

    Attributes:
        group: the curve.
        keys: positions in ``Context.keys`` of the keys on this curve, rising.
        has_k: whether the part's secret K follows them (it is the last of its group).
        start: offset of the bundle's first secret in a leaf's ``z``, in secrets.
    """

    group: Group
    keys: tuple[int, ...]
    has_k: bool
    start: int

    @property
    def size(self) -> int:
        """How many secrets the bundle has."""
        return len(self.keys) + self.has_k


@dataclass(frozen=True)
class Context:
    """The statement of one part.

    Attributes:
        params_name: row of the parameter table.
        rsa_spki: the RSA key's canonical SubjectPublicKeyInfo.
        label: the operator's words, shown before anything is decrypted.
        vault: vault id.
        node: the prover's player index.
        salt: 32 fresh bytes.
        k_point: K*G, encoded.
        keys: the batch, in the order in which everything else follows it.
        version: of the format; 1 only in documents of older nodes.
    """

    params_name: str
    rsa_spki: bytes
    label: str
    vault: str
    node: int
    salt: bytes
    k_point: bytes
    keys: tuple[KeyStatement, ...]
    version: int = VERSION

    @cached_property
    def encoded(self) -> bytes:
        """Canonical CBOR."""
        return canonical_cbor(
            {
                "format": FORMAT,
                "version": self.version,
                "hash": HASH,
                "params": self.params_name,
                "rsa_spki": self.rsa_spki,
                "label": self.label,
                "vault": self.vault,
                "node": self.node,
                "salt": self.salt,
                "k_point": self.k_point,
                "keys": [key.to_list() for key in self.keys],
            }
        )

    @cached_property
    def ctx(self) -> bytes:
        """``H("ers/context", encoded)``, 32 bytes."""
        return digest(_CONTEXT, self.encoded)

    @cached_property
    def batch(self) -> bytes:
        """What the parts of one document have in common: all but node, salt and K. 32 bytes."""
        return digest(
            _BATCH,
            self.version,
            self.params_name,
            self.rsa_spki,
            self.label,
            self.vault,
            canonical_cbor([key.to_list() for key in self.keys]),
        )

    @property
    def params(self) -> Params:
        return params(self.params_name)

    @property
    def k_group(self) -> Group:
        return pick_k_group(self.keys)

    @cached_property
    def bundles(self) -> tuple[Bundle, ...]:
        """Secrets grouped by curve, curves in order of first appearance among the keys."""
        out: list[Bundle] = []
        start = 0
        for name in dict.fromkeys(key.curve for key in self.keys):
            members = tuple(i for i, key in enumerate(self.keys) if key.curve == name)
            bundle = Bundle(GROUPS[name], members, name == self.k_group.name, start)
            start += bundle.size
            out.append(bundle)
        return tuple(out)

    @property
    def secrets(self) -> int:
        """How many secrets the part encrypts: one per key, and K."""
        return len(self.keys) + 1

    @property
    def chain_codes(self) -> tuple[int, ...]:
        """Positions of the keys that have a chain code."""
        return tuple(i for i, key in enumerate(self.keys) if key.chain_code_hash is not None)

    def rsa(self) -> RsaPublicKey:
        """The RSA key of the context, all checks run again; E_ERS_INVALID."""
        with as_invalid("rsa", node=self.node):
            return load_rsa_public_key(self.rsa_spki, allow_2048=True)

    def check_shape(self) -> None:
        """Types, lengths, ranges, distinct key ids, the node a holder; E_ERS_INVALID."""
        params(self.params_name)
        if not isinstance(self.rsa_spki, bytes):
            raise invalid("context", "rsa_spki must be bytes")
        with as_invalid("rsa"):
            parse_spki(self.rsa_spki)
        check_label(self.label)
        check_name(self.vault, "vault id")
        check_int(self.node, 1, MAX_INDEX, "node")
        check_bytes(self.salt, HASH_LEN, "salt")
        if not 1 <= len(self.keys) <= MAX_KEYS:
            raise invalid("context", f"a batch has 1 to {MAX_KEYS} keys")
        if len({key.key_id for key in self.keys}) != len(self.keys):
            raise invalid("context", "a key id appears twice")
        for key in self.keys:
            key.commitment(self.node)
            if self.version == 1 and key.curve not in CURVES_1:
                raise invalid("context", "version 1 does not know this curve", key=key.key_id)
        check_bytes(self.k_point, self.k_group.point_len, "k_point")

    @classmethod
    def from_cbor(cls, data: bytes) -> Context:
        """Strict inverse of :attr:`encoded`; raises E_ERS_INVALID."""
        with as_invalid("encoding"):
            made = cls.from_fields(decode_cbor(data))
        if made.encoded != data:
            raise invalid("encoding", "the context is not in canonical form")
        return made

    @classmethod
    def from_fields(cls, item: Any) -> Context:
        """A context from its decoded map (keys as lists of fields); raises E_ERS_INVALID."""
        names = {
            "format", "version", "hash", "params", "rsa_spki", "label", "vault", "node", "salt",
            "k_point", "keys",
        }  # fmt: skip
        if not isinstance(item, dict) or set(item) != names:
            raise invalid("context", "the context does not have exactly the documented fields")
        if item["format"] != FORMAT or item["hash"] != HASH:
            raise invalid("context", "not a keycairn-ers part with sha256")
        if type(item["version"]) is not int or item["version"] not in VERSIONS:
            raise invalid("version", "this version of the format is not known here")
        if not isinstance(item["keys"], list):
            raise invalid("context", "keys must be a list")
        if len(item["keys"]) > MAX_KEYS:
            raise invalid("context", f"a batch has 1 to {MAX_KEYS} keys")
        made = cls(
            params_name=item["params"],
            rsa_spki=item["rsa_spki"],
            label=item["label"],
            vault=item["vault"],
            node=item["node"],
            salt=item["salt"],
            k_point=item["k_point"],
            keys=tuple(KeyStatement.from_list(key) for key in item["keys"]),
            version=item["version"],
        )
        made.check_shape()
        return made
