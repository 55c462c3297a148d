"""Making RSA recovery keys."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa as crypto_rsa

from keycairn.ers.rsa import EXPONENT, load_rsa_public_key, to_pem


def generate(bits: int, passphrase: bytes | None) -> tuple[bytes, bytes]:
    """``(private PEM, public PEM)``: PKCS#8, encrypted if a passphrase is given, and SPKI.

    OpenSSL makes the primes, with its own random source (not through the Rng port). The public
    key passes the same checks as anybody's (R-30).
    """
    key = crypto_rsa.generate_private_key(EXPONENT, bits)
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, to_pem(load_rsa_public_key(spki).spki)
