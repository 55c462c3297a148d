"""What is claimed about a key: its public facts at one generation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from keycairn.curves import GROUPS, Group, Point
from keycairn.encoding import digest, tag
from keycairn.ers.degree import check_degree
from keycairn.ers.faults import as_invalid, invalid

_CHAIN_CODE = tag("ers/chain-code")

#: Curves of the format (docs/ers-format.md), whatever else has a group by now.
CURVES = ("secp256k1", "p256", "ed25519")
#: Those of version 1 of it.
CURVES_1 = ("secp256k1", "ed25519")
HASH_LEN = 32
MAX_INDEX = 255
MAX_GENERATION = 1 << 53
_NAME = re.compile(r"[!-~]{1,128}\Z")


def chain_code_hash(chain_code: bytes) -> bytes:
    """Tagged SHA-256 of a 32-byte chain code: what key records and contexts carry of it."""
    if len(chain_code) != HASH_LEN:
        raise ValueError("a chain code has 32 bytes")
    return digest(_CHAIN_CODE, chain_code)


def check_name(value: object, what: str) -> str:
    """A name: 1 to 128 printable ASCII characters without spaces; else E_ERS_INVALID."""
    if not isinstance(value, str) or not _NAME.match(value):
        raise invalid("context", f"{what} must be 1 to 128 printable ASCII characters")
    return value


def check_int(value: object, low: int, high: int, what: str) -> int:
    """An integer (no boolean) in [low, high]; else E_ERS_INVALID."""
    if type(value) is not int or not low <= value <= high:
        raise invalid("context", f"{what} must be an integer in [{low}, {high}]")
    return value


def check_bytes(value: object, length: int, what: str) -> bytes:
    """Exactly ``length`` bytes; else E_ERS_INVALID."""
    if not isinstance(value, bytes) or len(value) != length:
        raise invalid("context", f"{what} must be {length} bytes")
    return value


@dataclass(frozen=True)
class KeyStatement:
    """Public facts of one key, as they stand in the context of a part.

    Attributes:
        key_id: the key's name, 1 to 128 printable ASCII characters.
        curve: "secp256k1", "p256" or "ed25519".
        scheme, protocol: what the key signs with; names, not interpreted here.
        threshold: t; any t+1 holders' shares give the key.
        holders: player indices, rising, 1..255, more than t of them.
        public_key: encoded point X.
        share_commitments: encoded X_i = x_i*G, one per holder, in ``holders``' order.
        generation: share epoch, from 1.
        chain_code_hash: :func:`chain_code_hash` of the chain code, or None if there is none.
        record_hash: 32 bytes; the key record this statement was taken from.
    """

    key_id: str
    curve: str
    scheme: str
    protocol: str
    threshold: int
    holders: tuple[int, ...]
    public_key: bytes
    share_commitments: tuple[bytes, ...]
    generation: int
    chain_code_hash: bytes | None
    record_hash: bytes

    @property
    def group(self) -> Group:
        """The curve's group; E_ERS_INVALID for a curve that this version does not know."""
        if self.curve not in CURVES:
            raise invalid("context", "unknown curve", key=self.key_id)
        return GROUPS[self.curve]

    def commitment(self, node: int) -> bytes:
        """Encoded X_i of holder ``node``; E_ERS_INVALID if it is none."""
        if node not in self.holders:
            raise invalid("holder", "the node holds no share of this key", key=self.key_id)
        return self.share_commitments[self.holders.index(node)]

    def check_shape(self) -> None:
        """Types, lengths and ranges; no curve arithmetic. Raises E_ERS_INVALID."""
        check_name(self.key_id, "key id")
        check_name(self.scheme, "scheme")
        check_name(self.protocol, "protocol")
        group = self.group
        for i in self.holders:
            check_int(i, 1, MAX_INDEX, "holder")
        if not self.holders or list(self.holders) != sorted(set(self.holders)):
            raise invalid("context", "holders must rise", key=self.key_id)
        check_int(self.threshold, 1, max(1, len(self.holders) - 1), "threshold")
        if len(self.holders) <= self.threshold:
            raise invalid("context", "more than t holders are needed", key=self.key_id)
        if len(self.share_commitments) != len(self.holders):
            raise invalid("context", "one share commitment per holder", key=self.key_id)
        for point in (self.public_key, *self.share_commitments):
            check_bytes(point, group.point_len, "point")
        check_int(self.generation, 1, MAX_GENERATION, "generation")
        check_bytes(self.record_hash, HASH_LEN, "record hash")
        if self.chain_code_hash is not None:
            check_bytes(self.chain_code_hash, HASH_LEN, "chain code hash")

    def check_points(self) -> dict[int, Point]:
        """Decode all points, check that the shares are one sharing of the public key.

        Returns:
            the share commitments by holder.

        Raises:
            KeycairnError: E_ERS_INVALID naming the key, for a point that is not canonical, not
                in the prime-order group or the identity, or share commitments that are not on
                one polynomial of degree <= t with the public key.
        """
        group = self.group
        with as_invalid("point", key=self.key_id):
            public = group.decode_point(self.public_key)
            points = {
                i: group.decode_point(raw)
                for i, raw in zip(self.holders, self.share_commitments, strict=True)
            }
        with as_invalid("polynomial", key=self.key_id):
            check_degree(points, self.threshold, public)
        return points

    def to_list(self) -> list[Any]:
        """The context's CBOR item: the eleven fields in the order of the attributes."""
        return [
            self.key_id,
            self.curve,
            self.scheme,
            self.protocol,
            self.threshold,
            list(self.holders),
            self.public_key,
            list(self.share_commitments),
            self.generation,
            self.chain_code_hash,
            self.record_hash,
        ]

    @classmethod
    def from_list(cls, item: object) -> KeyStatement:
        """Inverse of :meth:`to_list` with all shape checks; raises E_ERS_INVALID."""
        if not isinstance(item, list) or len(item) != 11:
            raise invalid("context", "a key statement has eleven fields")
        if not isinstance(item[5], list) or not isinstance(item[7], list):
            raise invalid("context", "holders and share commitments are lists")
        if not isinstance(item[1], str):
            raise invalid("context", "curve must be text")
        item[5], item[7] = tuple(item[5]), tuple(item[7])
        made = cls(*item)
        made.check_shape()
        return made

    def to_json(self) -> dict[str, Any]:
        """Named fields, bytes as lower-case hex."""
        return {
            "key_id": self.key_id,
            "curve": self.curve,
            "scheme": self.scheme,
            "protocol": self.protocol,
            "threshold": self.threshold,
            "holders": list(self.holders),
            "public_key": self.public_key.hex(),
            "share_commitments": [raw.hex() for raw in self.share_commitments],
            "generation": self.generation,
            "chain_code_hash": self.chain_code_hash.hex() if self.chain_code_hash else None,
            "record_hash": self.record_hash.hex(),
        }
