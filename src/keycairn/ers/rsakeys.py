"""Making RSA recovery keys."""

from __future__ import annotations

from Crypto.PublicKey import RSA
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa as crypto_rsa

from keycairn.ers.rsa import EXPONENT, load_rsa_public_key, to_pem
from keycairn.ports import Rng

#: scrypt cost: 16 MiB, the most that the `openssl` command reads back without a change of its
#: limits. (What ``cryptography`` writes is PBKDF2 with 2,048 rounds: too little for a passphrase.)
_SCRYPT_N = 1 << 14


def generate(bits: int, passphrase: bytes | None, rng: Rng) -> tuple[bytes, bytes]:
    """``(private PEM, public PEM)``: PKCS#8, encrypted if a passphrase is given, and SPKI.

    OpenSSL makes the primes, with its own random source; ``rng`` gives salt and IV of the
    encryption (scrypt, AES-256-CBC). The public key passes the same checks as anybody's (R-30).
    """
    key = crypto_rsa.generate_private_key(EXPONENT, bits)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    if passphrase is not None:
        private = RSA.import_key(private).export_key(
            format="PEM",
            passphrase=passphrase.decode("latin-1"),  # taken back to the same bytes there
            pkcs=8,
            protection="scryptAndAES256-CBC",
            randfunc=rng.bytes,
            prot_params={"iteration_count": _SCRYPT_N},
        )
        private = private.rstrip(b"\n") + b"\n"
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, to_pem(load_rsa_public_key(spki).spki)
