"""Hashes of the proof (docs/ers-format.md, 2.1), and canonical CBOR (section 5)."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any, Dict, List, Tuple

from .errors import invalid, need

MAX_DEPTH = 16


def big(value: int, size: int) -> bytes:
    """A number as ``size`` bytes, big-endian."""
    return value.to_bytes(size, "big")


def field(value: Any) -> bytes:
    """One field of the transcript: bytes, text, number, or list of those."""
    if isinstance(value, bytes):
        kind, raw = b"b", value
    elif isinstance(value, str):
        kind, raw = b"s", value.encode("utf-8")
    elif isinstance(value, int):
        kind, raw = b"i", big(value, (value.bit_length() + 7) // 8)
    else:
        kind, raw = b"l", big(len(value), 8) + b"".join(map(field, value))
    return kind + big(len(raw), 8) + raw


def prefix(tag: str) -> bytes:
    """What every transcript of a tag begins with."""
    return b"KCT1" + big(len(tag), 2) + tag.encode("ascii") + big(1, 2)


def encode(tag: str, *fields: Any) -> bytes:
    """The injective encoding of a tag and its fields."""
    return prefix(tag) + big(len(fields), 8) + b"".join(map(field, fields))


def tagged(tag: str, *fields: Any) -> bytes:
    """``Hash`` of the format: 32 bytes."""
    return hashlib.sha256(encode(tag, *fields)).digest()


def xof(n: int, tag: str, *fields: Any) -> bytes:
    """``Xof_n`` of the format."""
    return hashlib.shake_128(encode(tag, *fields)).digest(n)


def hkdf(salt: bytes, material: bytes, info: bytes, n: int) -> bytes:
    """HKDF-SHA256 (RFC 5869)."""
    key = hmac.new(salt, material, hashlib.sha256).digest()
    out, last = b"", b""
    while len(out) < n:
        last = hmac.new(key, last + info + bytes([len(out) // 32 + 1]), hashlib.sha256).digest()
        out += last
    return out[:n]


# -- CBOR: numbers from 0, bytes, text, lists, maps with text keys, null; one encoding each


def to_cbor(value: Any) -> bytes:
    """The canonical encoding."""
    if value is None:
        return b"\xf6"
    if isinstance(value, int):
        return _head(0, value)
    if isinstance(value, bytes):
        return _head(2, len(value)) + value
    if isinstance(value, str):
        raw = value.encode("utf-8")
        return _head(3, len(raw)) + raw
    if isinstance(value, list):
        return _head(4, len(value)) + b"".join(map(to_cbor, value))
    pairs = sorted(((to_cbor(k), to_cbor(v)) for k, v in value.items()), key=_map_order)
    return _head(5, len(pairs)) + b"".join(k + v for k, v in pairs)


def _map_order(pair: Tuple[bytes, bytes]) -> Tuple[int, bytes]:
    return len(pair[0]), pair[0]


def _head(major: int, value: int) -> bytes:
    if value < 24:
        return bytes([major << 5 | value])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 1 << 8 * size:
            return bytes([major << 5 | info]) + big(value, size)
    raise invalid("encoding", "a number is too large")


def from_cbor(data: bytes) -> Any:
    """Strict inverse of :func:`to_cbor`; E_ERS_INVALID for anything else."""
    reader = _Reader(data)
    value = reader.item(0)
    need(reader.at == len(data), "encoding", "bytes follow the CBOR item")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        need(n <= len(self.data) - self.at, "encoding", "the CBOR item is cut off")
        self.at += n
        return self.data[self.at - n : self.at]

    def head(self) -> Tuple[int, int]:
        first = self.take(1)[0]
        major, info = first >> 5, first & 31
        if major == 7:
            need(info == 22, "encoding", "a CBOR item of a kind that does not occur")
            return major, info
        if info < 24:
            return major, info
        need(info <= 27, "encoding", "a CBOR item without a definite length")
        size = 1 << (info - 24)
        value = int.from_bytes(self.take(size), "big")
        least = 24 if size == 1 else 1 << 4 * size
        need(value >= least, "encoding", "a CBOR number is longer than it needs to be")
        return major, value

    def item(self, depth: int) -> Any:
        need(depth < MAX_DEPTH, "encoding", "the CBOR item is nested too deeply")
        major, value = self.head()
        if major == 0:
            return value
        if major == 2:
            return self.take(value)
        if major == 3:
            try:
                return self.take(value).decode("utf-8")
            except UnicodeDecodeError:
                raise invalid("encoding", "a CBOR text is not UTF-8") from None
        if major == 4:
            out: List[Any] = []
            for _ in range(value):
                out.append(self.item(depth + 1))
            return out
        if major == 5:
            return self.mapping(value, depth)
        need(major == 7, "encoding", "a CBOR item of a kind that does not occur")
        return None

    def mapping(self, count: int, depth: int) -> Dict[str, Any]:
        found: Dict[str, Any] = {}
        last = (0, b"")
        for _ in range(count):
            start = self.at
            key = self.item(depth + 1)
            raw = self.data[start : self.at]
            need(isinstance(key, str), "encoding", "a CBOR map key is not text")
            need((len(raw), raw) > last, "encoding", "CBOR map keys do not rise")
            last = (len(raw), raw)
            found[key] = self.item(depth + 1)
        return found
