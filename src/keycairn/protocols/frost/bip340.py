"""FROST for BIP-340: the suite of RFC 9591, section 6.5, with BIP-340's challenge and signs.

Nobody has standardised such a suite. This is the one of ZF FROST's ``frost-secp256k1-tr``
(context string ``FROST-secp256k1-SHA256-TR-v1``; its vectors are tested): H1, H3, H4 and H5 are
those of section 6.5 under the other context string, so nonces are hedged exactly as in the RFC
and no hash of the two suites collides; H2 is BIP-340's tagged hash. BIP-340's own nonce function
is for one signer and is *not* used: a deterministic nonce among several signers gives the key
away (security.md, T-119).

Signs (BIP-340 means the point with even y by an x-coordinate):

* of the key: Q = ±X, or with the taproot tweak ±(±X + t·G); see :class:`SigningKey`. Q with its
  even y (33 bytes, first byte 2) stands in the binding factor's input and in the package hash.
* of the nonce: if the group commitment comes out with odd y, R is its negative and every signer
  uses -(d + rho·e) in its share. Nonce commitments on the wire keep their own signs.
"""

from __future__ import annotations

from keycairn.curves import SECP256K1, Point, bip340
from keycairn.protocols.frost.secp256k1 import Secp256k1Sha256


class Bip340(Secp256k1Sha256):
    """Signatures are 64 bytes, x(R) and z, and verify under BIP-340."""

    context = b"FROST-secp256k1-SHA256-TR-v1"

    def h2(self, data: bytes) -> int:
        return int.from_bytes(bip340.tagged_hash("BIP0340/challenge", data), "big") % SECP256K1.q

    def normal(self, nonce: Point) -> tuple[bool, Point]:
        return bip340.with_even_y(nonce)

    def challenge(self, r: Point, public_key: Point, message: bytes) -> int:
        return self.h2(bip340.x_only(r) + bip340.x_only(public_key) + message)

    def encode_signature(self, r: Point, z: int) -> bytes:
        return bip340.x_only(r) + SECP256K1.encode_scalar(z)

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> None:
        """BIP-340 verification (libsecp256k1). Raises E_SIG_INVALID."""
        bip340.verify(public_key, message, signature)


BIP340 = Bip340()
