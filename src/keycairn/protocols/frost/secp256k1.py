"""FROST(secp256k1, SHA-256): RFC 9591, section 6.5.

No key of a vault signs with this suite: no chain verifies its signatures. It is here because the
RFC has vectors for it, and the BIP-340 suite changes only what BIP-340 makes it change.
"""

from __future__ import annotations

import hashlib
from typing import Any

from keycairn.curves import SECP256K1
from keycairn.errors import Code, KeycairnError
from keycairn.protocols.frost.suite import Suite

_Q = SECP256K1.q
_LEN = 48  # L of RFC 9380's hash_to_field for a 256-bit order with 128-bit security
_ZEROS = hashlib.sha256(bytes(64))  # Z_pad fills one block: hashed once


class Secp256k1Sha256(Suite):
    """Every method as section 6.5 has it."""

    group = SECP256K1
    context = b"FROST-secp256k1-SHA256-v1"

    def h1(self, data: bytes) -> int:
        return hash_to_scalar(self.context + b"rho", data)

    def h2(self, data: bytes) -> int:
        return hash_to_scalar(self.context + b"chal", data)

    def h3(self, data: bytes) -> int:
        return hash_to_scalar(self.context + b"nonce", data)

    def h4(self, data: bytes) -> bytes:
        return hashlib.sha256(self.context + b"msg" + data).digest()

    def h5(self, data: bytes) -> bytes:
        return hashlib.sha256(self.context + b"com" + data).digest()

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> None:
        """``z·G = R + c·Q`` (RFC 9591, appendix B); no library knows this format."""
        try:
            r = SECP256K1.decode_point(signature[:33])
            z = SECP256K1.decode_scalar(signature[33:])
            key = SECP256K1.decode_point(public_key)
            right = SECP256K1.combine([(1, r), (self.challenge(r, key, message), key)])
            if SECP256K1.base_mul(z) != right:
                raise KeycairnError(Code.SIG_INVALID, "the two sides differ")
        except KeycairnError as exc:
            raise KeycairnError(Code.SIG_INVALID, "the signature does not verify") from exc


def hash_to_scalar(dst: bytes, data: bytes) -> int:
    """``hash_to_field`` of RFC 9380, section 5.2, with ``expand_message_xmd`` and SHA-256.

    One element modulo the group order, from 48 bytes, so it is uniform up to 2^-128.
    """
    tail = dst + len(dst).to_bytes(1, "big")
    state: Any = _ZEROS.copy()
    state.update(data + _LEN.to_bytes(2, "big") + b"\0" + tail)
    b0 = state.digest()
    b1 = hashlib.sha256(b0 + b"\1" + tail).digest()
    mixed = (int.from_bytes(b0, "big") ^ int.from_bytes(b1, "big")).to_bytes(32, "big")
    b2 = hashlib.sha256(mixed + b"\2" + tail).digest()
    return int.from_bytes(b1 + b2[: _LEN - 32], "big") % _Q


SECP256K1_SHA256 = Secp256k1Sha256()
