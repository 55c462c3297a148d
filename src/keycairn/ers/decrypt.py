"""Who decrypts: the small interface of an RSA private key, and the software key.

A failed decryption of one leaf (:class:`BadLeaf`) is a reason to try the next leaf. Anything
else a token says (PIN, session, removed) is not, and stops the recovery.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric import rsa as crypto_rsa

from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers import oaep
from keycairn.ers.rsa import RsaPublicKey, load_rsa_public_key

#: What :func:`probe` encrypts.
PROBE = b"keycairn-recover: does this key decrypt?"


def probe(public: RsaPublicKey) -> bytes:
    """A ciphertext that everybody knows the plaintext of: to see whether a token works."""
    return public.encrypt(PROBE, bytes(oaep.HASH_LEN))


class BadLeaf(Exception):
    """This ciphertext is not a valid OAEP encryption under the key. Try the next one."""


class Decryptor(Protocol):
    """An RSA private key, wherever it lives."""

    @property
    def public(self) -> RsaPublicKey:
        """The public key that belongs to it."""
        ...

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Undo RSA-OAEP-SHA256-MGF1SHA256 with empty label.

        Raises:
            BadLeaf: the padding is wrong.
            KeycairnError: E_UNAVAILABLE, the token failed; recovery stops.
        """
        ...


_OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


class SoftwareKey:
    """An RSA private key in memory, from PEM."""

    def __init__(self, key: crypto_rsa.RSAPrivateKey) -> None:
        self._key = key
        spki = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._public = load_rsa_public_key(spki, allow_2048=True)

    @classmethod
    def from_pem(cls, pem: bytes, passphrase: bytes | None = None) -> SoftwareKey:
        """Load a private key (PKCS#8 or PKCS#1 PEM, encrypted or not).

        Raises:
            KeycairnError: E_MALFORMED for another kind of file or a wrong passphrase,
                E_WEAK_RSA for a key that R-30 refuses.
        """
        try:
            key = serialization.load_pem_private_key(pem, passphrase)
        except TypeError as exc:
            if passphrase is None:
                message, hint = "the RSA private key is encrypted", "give --passphrase-file"
            else:
                message, hint = "the RSA private key is not encrypted", "drop --passphrase-file"
            error = malformed(message)
            error.next = hint
            raise error from exc
        except (ValueError, UnsupportedAlgorithm) as exc:
            error = malformed("not a readable RSA private key, or a wrong passphrase")
            error.next = "check the passphrase (the first line of its file) and the private key"
            raise error from exc
        if not isinstance(key, crypto_rsa.RSAPrivateKey):
            raise malformed("the private key is not an RSA key")
        return cls(key)

    @property
    def public(self) -> RsaPublicKey:
        return self._public

    def decrypt(self, ciphertext: bytes) -> bytes:
        try:
            return self._key.decrypt(ciphertext, _OAEP)
        except ValueError as exc:
            raise BadLeaf from exc


class RawRsaDecryptor:
    """A token that offers raw RSA only (``CKM_RSA_X_509``), with OAEP undone in software.

    Args:
        public: the public key of the token's private key.
        raw: ``c -> c^d mod n``, as many bytes as the modulus; raises KeycairnError for a token
            failure.
    """

    def __init__(self, public: RsaPublicKey, raw: Callable[[bytes], bytes]) -> None:
        self._public = public
        self._raw = raw

    @property
    def public(self) -> RsaPublicKey:
        return self._public

    def decrypt(self, ciphertext: bytes) -> bytes:
        try:
            return oaep.decode(self._raw(ciphertext))
        except KeycairnError as exc:
            if exc.code is Code.UNWRAP_FAILED:
                raise BadLeaf from exc
            raise
