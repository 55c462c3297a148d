"""BIP-340 verification and BIP-341 tweaking read off the BIPs, in plain integers; tests only."""

from __future__ import annotations

import hashlib

from curves.oracle import Weierstrass

K1 = Weierstrass()


def tagged(tag: str, data: bytes) -> bytes:
    half = hashlib.sha256(tag.encode()).digest()
    return hashlib.sha256(half + half + data).digest()


def lift_x(x: int) -> tuple[int, int]:
    """The point with this x and an even y; ValueError if there is none."""
    if x >= K1.p:
        raise ValueError("x is not below p")
    square = (pow(x, 3, K1.p) + 7) % K1.p
    y = pow(square, (K1.p + 1) // 4, K1.p)
    if y * y % K1.p != square:
        raise ValueError("not on the curve")
    return x, y if y % 2 == 0 else K1.p - y


def verify(x_only: bytes, message: bytes, signature: bytes) -> bool:
    """BIP-340's Verify(pk, m, sig)."""
    try:
        point = lift_x(int.from_bytes(x_only, "big"))
    except ValueError:
        return False
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if len(signature) != 64 or r >= K1.p or s >= K1.q:
        return False
    challenge = tagged("BIP0340/challenge", signature[:32] + x_only + message)
    e = int.from_bytes(challenge, "big") % K1.q
    total = K1.add(K1.mul(s), K1.mul(K1.q - e, point))
    return total is not None and total[1] % 2 == 0 and total[0] == r


def output_key(x_only: bytes, merkle_root: bytes = b"") -> bytes:
    """BIP-341's taproot_tweak_pubkey."""
    t = int.from_bytes(tagged("TapTweak", x_only + merkle_root), "big")
    assert t < K1.q
    total = K1.add(lift_x(int.from_bytes(x_only, "big")), K1.mul(t))
    assert total is not None
    return total[0].to_bytes(32, "big")
