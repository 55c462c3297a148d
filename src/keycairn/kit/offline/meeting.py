"""A document and its RSA private key meet only in recovery: finding private keys where none may be.

What is, or may be, an RSA private key: PEM of any kind that can hold one (an encrypted key does not
say what it is), the same in DER, PKCS #12, and OpenSSH's own format.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from typing import List

from .errors import ToolError

#: How much of a file is looked at. A key is a few kilobytes; text may stand before it.
LOOK = 1 << 16
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]*)PRIVATE KEY-----([A-Za-z0-9+/=\s]*)")
_RSA = bytes.fromhex("06092a864886f70d010101")
_ENCRYPTED = (
    bytes.fromhex("06092a864886f70d01050d"),  # PBES2
    bytes.fromhex("060a2a864886f70d010c01"),  # PBE of PKCS #12
    bytes.fromhex("06092a864886f70d0105"),  # PBES1
)
_PKCS12 = bytes.fromhex("06092a864886f70d0107")  # a content type of PKCS #7


def holds_private_key(data: bytes) -> bool:
    """Whether a file's first bytes are, or hold, what may be an RSA private key."""
    for kind, body in _PEM.findall(data[:LOOK]):
        if kind != b"":  # RSA, ENCRYPTED, OPENSSH, ANY; another algorithm's has its name
            if kind not in (b"EC ", b"DSA "):
                return True
            continue
        try:
            raw = base64.b64decode(b"".join(body.split()))
        except binascii.Error:
            return True  # cut off or odd, and called a private key
        if _RSA in raw[:40]:
            return True
    return _is_der(data)


def _is_der(data: bytes) -> bool:
    if data[:1] != b"\x30" or len(data) < 32:
        return False
    start = 2 + (data[1] & 0x7F if data[1] & 0x80 else 0)
    inner = data[start : start + 64]
    if inner.startswith(b"\x02\x01\x00\x30") and _RSA in inner:
        return True  # PKCS #8
    if inner.startswith(b"\x02\x01\x00\x02\x82"):
        return True  # PKCS #1: version 0 and a long number
    if inner[:1] == b"\x30" and any(oid in inner[:24] for oid in _ENCRYPTED):
        return True  # PKCS #8, encrypted
    return inner.startswith(b"\x02\x01\x03\x30") and _PKCS12 in inner


def refused(what: str, not_lost: str = "Nothing was decrypted.") -> ToolError:
    """E_POLICY, to be raised."""
    return ToolError(
        "E_POLICY",
        "%s: a document and its RSA private key meet only in recovery" % what,
        not_lost=not_lost,
        advice="keep the private key on another medium, at another place",
    )


def private_keys_in(directory: str) -> List[str]:
    """Names of the files directly in a directory that may hold an RSA private key, sorted.

    Raises:
        ToolError: E_UNAVAILABLE if it, or a file in it, can't be looked into.
    """
    found = []
    try:
        for entry in sorted(os.scandir(directory), key=lambda e: e.name):
            if entry.is_file():
                with open(entry.path, "rb") as stream:
                    if holds_private_key(stream.read(LOOK)):
                        found.append(entry.name)
    except OSError as exc:
        raise ToolError(
            "E_UNAVAILABLE", "cannot look into %s: %s" % (directory, exc.strerror)
        ) from None
    return found
