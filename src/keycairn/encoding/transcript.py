"""One injective encoder for everything that is hashed (docs/protocols/index.md, R-11).

Layout of :func:`encode`, all integers big-endian::

    "KCT1" | len(tag) (2) | tag (ASCII) | version (2) | count (8) | field*
    field  = type (1) | length (8) | content

Types: ``b`` bytes, ``s`` UTF-8 text, ``i`` non-negative integer (minimal big-endian, empty for
0), ``t`` / ``f`` booleans (empty content), ``n`` none (empty content), ``l`` list (content =
count (8) and fields). Because every field carries type and length, two different field tuples
never encode to the same bytes, and concatenation cannot be re-parsed another way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

Field: TypeAlias = "bytes | bytearray | memoryview | str | int | bool | Sequence[Field] | None"

_MAGIC = b"KCT1"
_LONG = 4096
_REGISTRY: dict[str, Tag] = {}


@dataclass(frozen=True)
class Tag:
    """A domain-separation tag with a version. Make one with :func:`tag`."""

    name: str
    version: int

    @cached_property
    def prefix(self) -> bytes:
        """The bytes that start every encoding under this tag."""
        raw = self.name.encode("ascii")
        return _MAGIC + len(raw).to_bytes(2, "big") + raw + self.version.to_bytes(2, "big")


def tag(name: str, version: int = 1) -> Tag:
    """Register a tag. Each name is registered exactly once in the program.

    Raises:
        ValueError: the name was registered before, or is not printable ASCII.
    """
    if name in _REGISTRY:
        raise ValueError(f"tag {name!r} is registered twice")
    if not name.isascii() or not name.isprintable() or not name:
        raise ValueError("tags are printable ASCII")
    made = Tag(name, version)
    _REGISTRY[name] = made
    return made


def registered_tags() -> dict[str, Tag]:
    """All tags registered so far (a test checks uniqueness and documentation)."""
    return dict(_REGISTRY)


def field(value: Field) -> bytes:
    """The encoding of one field: type, length, content."""
    if type(value) is bytes:  # Most are.
        return b"b" + len(value).to_bytes(8, "big") + value
    # bool first: it is a subclass of int.
    if value is True:
        return b"t" + bytes(8)
    if value is False:
        return b"f" + bytes(8)
    if value is None:
        return b"n" + bytes(8)
    if isinstance(value, (bytes, bytearray, memoryview)):
        raw = bytes(value)
        return b"b" + len(raw).to_bytes(8, "big") + raw
    if isinstance(value, str):
        raw = value.encode("utf-8")
        return b"s" + len(raw).to_bytes(8, "big") + raw
    if isinstance(value, int):
        if value < 0:
            raise ValueError("negative integers have no encoding")
        raw = value.to_bytes((value.bit_length() + 7) // 8, "big")
        return b"i" + len(raw).to_bytes(8, "big") + raw
    if isinstance(value, Sequence):
        raw = len(value).to_bytes(8, "big") + b"".join([field(v) for v in value])
        return b"l" + len(raw).to_bytes(8, "big") + raw
    raise TypeError(f"{type(value).__name__} has no transcript encoding")


def header(t: Tag, count: int) -> bytes:
    """What an encoding of ``count`` fields starts with; the fields follow one by one.

    For loops that hash many tuples with a common beginning: ``encode(t, *fields)`` is
    ``header(t, len(fields))`` and then ``field(f)`` of each.
    """
    return t.prefix + count.to_bytes(8, "big")


def encode(t: Tag, *fields: Field) -> bytes:
    """Injective encoding of ``fields`` under tag ``t``."""
    return header(t, len(fields)) + b"".join([field(f) for f in fields])


def digest(t: Tag, *fields: Field) -> bytes:
    """``H(tag, …)``: SHA-256 over :func:`encode` (32 bytes)."""
    h = hashlib.sha256()
    _absorb(h, t, fields)
    return h.digest()


def xof(n: int, t: Tag, *fields: Field) -> bytes:
    """``X_n(tag, …)``: ``n`` bytes of SHAKE128 over :func:`encode`."""
    h = hashlib.shake_128()
    _absorb(h, t, fields)
    return h.digest(n)


def _absorb(h: Any, t: Tag, fields: Sequence[Field]) -> None:
    """Hash what :func:`encode` gives, long byte strings without copying them."""
    parts = [header(t, len(fields))]
    for value in fields:
        if type(value) is bytes and len(value) > _LONG:
            parts.append(b"b" + len(value).to_bytes(8, "big"))
            h.update(b"".join(parts))
            h.update(value)
            parts = []
        else:
            parts.append(field(value))
    h.update(b"".join(parts))


def to_scalar(q: int, t: Tag, *fields: Field) -> int:
    """``F(tag, …)``: 48 bytes of SHAKE128, big-endian, mod ``q``.

    48 bytes, never 32: 32 bytes mod the order of P-256 are only 2^-32 from uniform.
    """
    return int.from_bytes(xof(48, t, *fields), "big") % q
