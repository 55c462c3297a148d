"""Transcript hashing with the fixed fields encoded once.

A proof hashes some thousand small things under the same tag and context. :class:`Prefix` holds
the encoding of what stays equal; the result is byte for byte that of
:func:`keycairn.encoding.digest` and :func:`keycairn.encoding.xof` (a test compares them).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from keycairn.encoding import Field, Tag, encode

#: Field header of a 32-byte byte string.
BYTES32 = b"b" + (32).to_bytes(8, "big")


@lru_cache(maxsize=4096)
def number(value: int) -> bytes:
    """The encoded field of a non-negative integer."""
    raw = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return b"i" + len(raw).to_bytes(8, "big") + raw


def blob(value: bytes) -> bytes:
    """The encoded field of a byte string."""
    return b"b" + len(value).to_bytes(8, "big") + value


class Prefix:
    """Encoding of a tag, the field count and the leading fields.

    Args:
        t: the tag.
        rest: how many fields follow ``fixed`` in every use.
        fixed: the leading fields, equal in every use.
    """

    __slots__ = ("_raw",)

    def __init__(self, t: Tag, rest: int, *fixed: Field) -> None:
        fields = encode(t, *fixed)[len(t.prefix) + 8 :]
        self._raw = t.prefix + (len(fixed) + rest).to_bytes(8, "big") + fields

    def sha(self, *rest: bytes) -> bytes:
        """``H(tag, fixed…, rest…)``; ``rest`` are encoded fields (:func:`number`, :func:`blob`)."""
        return hashlib.sha256(self._raw + b"".join(rest)).digest()

    def xof(self, n: int, *rest: bytes) -> bytes:
        """``X_n(tag, fixed…, rest…)``."""
        return hashlib.shake_128(self._raw + b"".join(rest)).digest(n)
