"""ECDSA with public data (SEC 1, 4.1): verification, the DER form and the recovery id.

The verifiers are libraries': libsecp256k1 for secp256k1, OpenSSL for P-256.
"""

from __future__ import annotations

from coincurve import PublicKey
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from keycairn.curves.group import Group, Point
from keycairn.curves.p256 import P256
from keycairn.errors import Code, KeycairnError

#: Curves with ECDSA. A digest has 32 bytes on both.
CURVES = ("secp256k1", "p256")
_P256 = ec.SECP256R1()
_PREHASHED = ec.ECDSA(Prehashed(SHA256()))


def der(r: int, s: int) -> bytes:
    """The DER SEQUENCE of two INTEGERs (68 to 71 bytes almost always)."""
    body = _integer(r) + _integer(s)
    return b"\x30" + bytes([len(body)]) + body


def _integer(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "big")  # a leading zero keeps it positive
    return b"\x02" + bytes([len(raw)]) + raw


def affine_x_parity(point: Point) -> tuple[int, int]:
    """x and the parity of y of a point on a Weierstrass curve, from its SEC1 encoding."""
    encoded = point.encode()
    return int.from_bytes(encoded[1:], "big"), encoded[0] & 1


def verify(group: Group, public_key: bytes, digest: bytes, r: int, s: int) -> None:
    """Return if (r, s) is valid. Either form of s is accepted (ours is always the low one).

    Args:
        public_key: SEC1 compressed, 33 bytes.
        digest: 32 bytes.

    Raises:
        KeycairnError: E_SIG_INVALID; E_BAD_POINT for the key; E_MALFORMED for a digest of another
            length or a curve without ECDSA.
    """
    if len(digest) != 32:
        raise KeycairnError(Code.MALFORMED, "the digest must be 32 bytes")
    if group.name not in CURVES:
        raise KeycairnError(Code.MALFORMED, "ECDSA is not available on this curve")
    point = group.decode_point(public_key)
    if not (0 < r < group.q and 0 < s < group.q):
        raise _invalid()
    if group is P256:
        key = ec.EllipticCurvePublicKey.from_encoded_point(_P256, P256.uncompressed(point))
        try:
            key.verify(der(r, s), digest, _PREHASHED)
        except InvalidSignature:
            raise _invalid() from None
    # libsecp256k1 takes the low form only; (r, s) is valid exactly if (r, q-s) is.
    elif not PublicKey(point.inner).verify(der(r, min(s, group.q - s)), digest, hasher=None):
        raise _invalid()


def recovery_id(group: Group, public_key: bytes, digest: bytes, r: int, s: int) -> int:
    """The recovery id of a *valid* signature: parity of the nonce point's y, plus 2 if its x ≥ q.

    Public data only; the nonce point is ``(digest/s)·G + (r/s)·X``.

    Raises:
        KeycairnError: E_SIG_INVALID if that point's x is not r (the signature is not valid).
    """
    w = group.inverse(s)
    terms = [
        (int.from_bytes(digest, "big") * w, group.base_mul(1)),
        (r * w, group.decode_point(public_key)),
    ]
    try:
        x, parity = affine_x_parity(group.combine(terms))
    except KeycairnError:
        raise _invalid() from None
    if x % group.q != r:
        raise _invalid()
    return parity + 2 * (x >= group.q)


def _invalid() -> KeycairnError:
    return KeycairnError(Code.SIG_INVALID, "the signature does not verify")
