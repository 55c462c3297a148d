"""The node's identity key: an Ed25519 key in a PEM file (PKCS#8) that only its owner can read.

``openssl genpkey -algorithm ed25519`` makes such a file too. Its public key, 32 bytes in hex, is
what the other nodes pin in ``[[peers]] public_key``.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError
from keycairn.node.files import require_private, write_private
from keycairn.ports import Rng
from keycairn.vault.api import Identity


def load_identity(path: Path) -> Identity:
    """Read an identity key file.

    Raises:
        KeycairnError: E_POLICY for a file that others can read, E_MALFORMED for anything that is
            not an unencrypted Ed25519 key.
    """
    require_private(path, "identity key file")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as exc:
        raise _not_a_key(path) from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise _not_a_key(path)
    return _identity(key)


def create_identity(path: Path, rng: Rng) -> Identity:
    """Make a fresh identity key and write it to ``path`` (mode 0600)."""
    key = Ed25519PrivateKey.from_private_bytes(rng.bytes(32))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(path, pem)
    return _identity(key)


def _identity(key: Ed25519PrivateKey) -> Identity:
    return Identity(
        private=SecretBytes(key.private_bytes_raw()),
        public=key.public_key().public_bytes_raw(),
    )


def _not_a_key(path: Path) -> KeycairnError:
    return KeycairnError(
        Code.MALFORMED,
        f"{path} does not hold an Ed25519 private key in PEM form",
        next="use the identity key that belongs to this node; its peers pin the public half",
    )
