"""Ed25519 signatures (RFC 8032): checking a kit's signer, and signing with a recovered scalar.

A recovered Ed25519 key is a scalar. No seed exists for it, so no wallet can import it; this signs
for the time until what it guards is moved.
"""

from __future__ import annotations

import hashlib

from .curves import ED25519 as G
from .encoding import encode
from .errors import ToolError


def _hash(*parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little")


def is_valid(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """RFC 8032, 5.1.7; public keys of small order are refused."""
    try:
        a = G.decode(public_key)
        s = G.scalar(signature[32:])
        h = _hash(signature[:32], public_key, message) % G.q
        r = G.add(G.base_mul(s), G.mul(G.neg(a), h))
        return len(signature) == 64 and G.encode(r) == signature[:32]
    except ToolError:
        return False


def sign(x: int, message: bytes) -> bytes:
    """64 bytes; E_SIG_INVALID if they do not verify.

    The nonce is a function of key and message, as in RFC 8032, with a transcript in place of the
    half of the seed's hash that a scalar does not have.
    """
    secret, public = G.encode_scalar(x), G.public(x)
    r = _hash(encode("kit/ed25519-nonce", secret, message)) % G.q
    start = G.public(r)
    signature = start + G.encode_scalar((r + _hash(start, public, message) * x) % G.q)
    if not is_valid(public, message, signature):
        raise ToolError("E_SIG_INVALID", "the signature does not verify; it is not given out")
    return signature
