"""FROST(Ed25519, SHA-512): RFC 9591, section 6.1. Signatures are plain Ed25519."""

from __future__ import annotations

import hashlib

from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from keycairn.curves import ED25519
from keycairn.errors import Code, KeycairnError
from keycairn.protocols.frost.suite import Suite

CONTEXT = b"FROST-ED25519-SHA512-v1"


class Ed25519Sha512(Suite):
    """Every method as section 6.1 has it; H2 without a context string, as RFC 8032 needs it."""

    group = ED25519
    context = CONTEXT

    def h1(self, data: bytes) -> int:
        return self._scalar(CONTEXT + b"rho" + data)

    def h2(self, data: bytes) -> int:
        return self._scalar(data)

    def h3(self, data: bytes) -> int:
        return self._scalar(CONTEXT + b"nonce" + data)

    def h4(self, data: bytes) -> bytes:
        return hashlib.sha512(CONTEXT + b"msg" + data).digest()

    def h5(self, data: bytes) -> bytes:
        return hashlib.sha512(CONTEXT + b"com" + data).digest()

    @staticmethod
    def _scalar(data: bytes) -> int:
        return int.from_bytes(hashlib.sha512(data).digest(), "little") % ED25519.q

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> None:
        """Ed25519 verification (libsodium). Raises E_SIG_INVALID."""
        if len(signature) != 64 or len(public_key) != 32:
            raise KeycairnError(Code.SIG_INVALID, "an Ed25519 signature is 64 bytes, a key 32")
        try:
            VerifyKey(public_key).verify(message, signature)
        except (BadSignatureError, ValueError) as exc:
            raise KeycairnError(Code.SIG_INVALID, "the signature does not verify") from exc


ED25519_SHA512 = Ed25519Sha512()

h1, h2, h3 = ED25519_SHA512.h1, ED25519_SHA512.h2, ED25519_SHA512.h3
h4, h5 = ED25519_SHA512.h4, ED25519_SHA512.h5
verify = ED25519_SHA512.verify
