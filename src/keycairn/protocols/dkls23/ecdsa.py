"""ECDSA itself: the finishing arithmetic, encodings, and verification by a library.

SEC 1 version 2, sections 4.1 and 2.3; low s as in BIP-146; the recovery id as Ethereum and
libsecp256k1 number it.
"""

from __future__ import annotations

from dataclasses import dataclass

from coincurve import PublicKey

from keycairn.curves import Group, Point
from keycairn.errors import Code, KeycairnError


@dataclass(frozen=True)
class EcdsaSignature:
    """An ECDSA signature that was verified.

    Attributes:
        r, s: in [1, q), s ≤ q/2.
        recovery_id: 0 to 3: bit 0 is the parity of the nonce point's y, bit 1 says x ≥ q.
        base_r: the presignature's R before re-randomisation, 33 bytes.
        presignature_id: 32 bytes.
    """

    r: int
    s: int
    recovery_id: int
    base_r: bytes
    presignature_id: bytes

    def compact(self) -> bytes:
        """``r ‖ s``, 32 bytes big-endian each."""
        return self.r.to_bytes(32, "big") + self.s.to_bytes(32, "big")

    def der(self) -> bytes:
        """The DER SEQUENCE of two INTEGERs (68 to 71 bytes almost always)."""
        return _der(self.r, self.s)


def _der(r: int, s: int) -> bytes:
    body = _der_integer(r) + _der_integer(s)
    return b"\x30" + bytes([len(body)]) + body


def _der_integer(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "big")  # a leading zero keeps it positive
    return b"\x02" + bytes([len(raw)]) + raw


def affine_x_parity(point: Point) -> tuple[int, int]:
    """x and the parity of y of a point on a Weierstrass curve, from its SEC1 encoding."""
    encoded = point.encode()
    return int.from_bytes(encoded[1:], "big"), encoded[0] & 1


def finish(group: Group, x: int, y_parity: int, w: int, u: int) -> tuple[int, int, int]:
    """(r, s, recovery id) from the nonce point and the sums ``w = Σw_i``, ``u = Σu'_i``.

    ``s = w/u``; if s > q/2 it becomes q - s and the nonce point its negative.

    Raises:
        KeycairnError: E_BAD_SCALAR if r, s or the denominator is zero mod q.
    """
    q = group.q
    r = x % q
    s = w * group.inverse(u) % q
    if r == 0 or s == 0:
        raise KeycairnError(Code.BAD_SCALAR, "r and s must not be zero")
    recovery_id = y_parity + 2 * (x >= q)
    if s > q // 2:
        return r, q - s, recovery_id ^ 1
    return r, s, recovery_id


def verify_ecdsa(group: Group, public_key: bytes, digest: bytes, r: int, s: int) -> None:
    """Verify with libsecp256k1. Either form of s is accepted (ours is always the low one).

    Args:
        public_key: SEC1 compressed, 33 bytes.
        digest: 32 bytes.

    Raises:
        KeycairnError: E_SIG_INVALID; E_BAD_POINT for the key; E_MALFORMED for a digest of another
            length or a curve without a verifier.
    """
    if len(digest) != 32:
        raise KeycairnError(Code.MALFORMED, "the digest must be 32 bytes")
    if group.name != "secp256k1":
        raise KeycairnError(Code.MALFORMED, "ECDSA is not available on this curve")
    group.decode_point(public_key)
    invalid = KeycairnError(Code.SIG_INVALID, "the signature does not verify")
    if not (0 < r < group.q and 0 < s < group.q):
        raise invalid
    # libsecp256k1 takes the low form only; (r, s) is valid exactly if (r, q-s) is.
    if not PublicKey(public_key).verify(_der(r, min(s, group.q - s)), digest, hasher=None):
        raise invalid
