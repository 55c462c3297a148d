"""RSA-OAEP with given coins: RFC 8017 section 7.1, SHA-256, MGF1-SHA256, empty label.

The verifier encrypts again what the prover encrypted, so the coins must be an argument; the
``cryptography`` package offers no such thing. Encryption uses only public values and coins that
the proof opens anyway (variable-time ``gmpy2.powmod`` is right for it). Tests compare it with
``cryptography`` and PyCryptodome.
"""

from __future__ import annotations

import hashlib
import hmac

import gmpy2  # type: ignore[import-untyped]

from keycairn.errors import Code, KeycairnError

HASH_LEN = 32
_LABEL_HASH = hashlib.sha256(b"").digest()


def mgf1(seed: bytes, n: int) -> bytes:
    """``n`` bytes of MGF1-SHA256 (RFC 8017 B.2.1)."""
    sha = hashlib.sha256
    blocks = [sha(seed + i.to_bytes(4, "big")).digest() for i in range(-(-n // HASH_LEN))]
    return b"".join(blocks)[:n]


def _xor(a: bytes, b: bytes) -> bytes:
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(len(a), "big")


def encode(message: bytes, coins: bytes, size: int) -> bytes:
    """EME-OAEP encoding to ``size`` bytes (the modulus' length); ``coins`` are 32 bytes."""
    room = size - 2 * HASH_LEN - 2 - len(message)
    if room < 0 or len(coins) != HASH_LEN:
        raise ValueError("OAEP: message too long, or coins not 32 bytes")
    data = _LABEL_HASH + bytes(room) + b"\x01" + message
    masked = _xor(data, mgf1(coins, len(data)))
    return b"\x00" + _xor(coins, mgf1(masked, HASH_LEN)) + masked


def encrypt(n: gmpy2.mpz, e: int, size: int, message: bytes, coins: bytes) -> bytes:
    """``size`` bytes: OAEP encryption of ``message`` under (n, e) with the given coins."""
    em = int.from_bytes(encode(message, coins, size), "big")
    return int(gmpy2.powmod(em, e, n)).to_bytes(size, "big")


def decode(em: bytes) -> bytes:
    """Undo :func:`encode`, for tokens that offer raw RSA only (``CKM_RSA_X_509``).

    Raises:
        KeycairnError: E_UNWRAP_FAILED, the same for every kind of bad padding.
    """
    bad = KeycairnError(Code.UNWRAP_FAILED, "RSA-OAEP decryption failed")
    if len(em) < 2 * HASH_LEN + 2:
        raise bad
    masked = em[1 + HASH_LEN :]
    coins = _xor(em[1 : 1 + HASH_LEN], mgf1(masked, HASH_LEN))
    data = _xor(masked, mgf1(coins, len(masked)))
    # One pass over the padding without a branch on its content.
    good = hmac.compare_digest(data[:HASH_LEN], _LABEL_HASH) & (em[0] == 0)
    start = len(data)
    for i in range(len(data) - 1, HASH_LEN - 1, -1):
        start = i if data[i] else start
    if not good or start == len(data) or data[start] != 1:
        raise bad
    return data[start + 1 :]
