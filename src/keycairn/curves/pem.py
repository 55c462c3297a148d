"""Keys as PEM (SubjectPublicKeyInfo, PKCS #8), for every tool that is not about chains."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from keycairn.curves import group

_NAMED: dict[str, ec.EllipticCurve] = {"secp256k1": ec.SECP256K1(), "p256": ec.SECP256R1()}


def public_key_pem(curve: str, public_key: bytes) -> str:
    """PEM text of an encoded point, as ``openssl pkey -pubin`` reads it.

    Raises:
        KeycairnError: E_MALFORMED for an unknown curve, E_BAD_POINT for bytes that are not a
            canonical point of it.
    """
    group(curve).decode_point(public_key)
    key: Ed25519PublicKey | ec.EllipticCurvePublicKey
    if curve == "ed25519":
        key = Ed25519PublicKey.from_public_bytes(public_key)
    else:
        key = ec.EllipticCurvePublicKey.from_encoded_point(_NAMED[curve], public_key)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")


def private_key_pem(curve: str, private_key: int) -> str | None:
    """PEM text (PKCS #8, not encrypted) of a whole private key; None where there is no such form.

    An Ed25519 key of a vault is a scalar, and PKCS #8 holds the seed, which such a key never had.
    """
    if curve not in _NAMED:
        return None
    key = ec.derive_private_key(private_key, _NAMED[curve])
    raw = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return raw.decode("ascii")
