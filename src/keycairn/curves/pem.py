"""Public keys as PEM (SubjectPublicKeyInfo), for every tool that is not about chains."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keycairn.curves import group


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
        named = ec.SECP256R1() if curve == "p256" else ec.SECP256K1()
        key = ec.EllipticCurvePublicKey.from_encoded_point(named, public_key)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")
