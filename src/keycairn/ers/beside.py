"""Are a recovery document and the RSA private key that opens it about to lie in one place?

Together they are every private key in the document. Whatever writes one of them looks here first
for the other. An encrypted private key can't be compared: with a public key of the same name
beside it (``F`` and ``F.pub``, as ``keygen`` writes them) that one is, otherwise it counts as a
match. Doubt refuses.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from keycairn.errors import Code, KeycairnError
from keycairn.ers.document import Document
from keycairn.ers.rsa import load_rsa_public_key

#: No RSA key file is larger.
MAX_KEY_FILE = 64 << 10
#: Documents in a store or sink, named by their hash: they are many, and none is a key.
_DOCUMENT = ".kcers"
_PEM = b"PRIVATE KEY-----"


@dataclass(frozen=True)
class PrivateKeyFile:
    """A file that holds an RSA private key, or an encrypted one of a kind that can't be told.

    ``spki_sha256`` is the name of its public half (hex), None where nobody can tell.
    """

    path: Path
    spki_sha256: str | None

    def may_open(self, spki_sha256: Collection[str]) -> bool:
        """Whether it is, or may be, one of these keys."""
        return self.spki_sha256 is None or self.spki_sha256 in spki_sha256


def private_key_in(data: bytes, public: bytes | None = None) -> tuple[bool, str | None]:
    """Whether a file's bytes are an RSA private key or may be, and the name of its public half.

    Args:
        data: of the file.
        public: of the public key file beside it, if there is one.

    Returns:
        ``(False, None)`` for anything else, keys of other kinds among it.
    """
    pem = _PEM in data
    if not pem and not data.startswith(b"\x30\x82"):
        return False, None
    try:
        key = load_pem_private_key(data, None) if pem else load_der_private_key(data, None)
    except TypeError:  # encrypted
        return True, _name_of(public)
    except (ValueError, UnsupportedAlgorithm):
        # Old or odd PEM is still a private key to whoever knows how; other DER is anything.
        return (True, _name_of(public)) if pem and b"RSA" in data else (False, None)
    if not isinstance(key, RSAPrivateKey):
        return False, None
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return True, _name_of(spki)


def _name_of(public: bytes | None) -> str | None:
    if public is None:
        return None
    try:
        return load_rsa_public_key(public, allow_2048=True).spki_sha256
    except KeycairnError:
        return None


def spki_in(document: bytes, spki_sha256: str) -> bool:
    """Whether a document, or what looks like one, is encrypted to an RSA key; True on doubt."""
    try:
        return Document.load(document).context.rsa().spki_sha256 == spki_sha256
    except KeycairnError:
        return True


def private_keys_in(directory: Path) -> Iterator[PrivateKeyFile]:
    """The private keys that lie in a directory; not in those below it.

    Raises:
        KeycairnError: E_UNAVAILABLE, it can't be looked into. A missing directory holds nothing.
    """
    try:
        with os.scandir(directory) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if not entry.name.endswith(_DOCUMENT)
                and entry.is_file()
                and entry.stat().st_size <= MAX_KEY_FILE
            )
        for name in names:
            path = directory / name
            found, spki = private_key_in(path.read_bytes(), _public_of(path))
            if found:
                yield PrivateKeyFile(path, spki)
    except FileNotFoundError:
        return
    except OSError as exc:
        raise KeycairnError(
            Code.UNAVAILABLE, f"cannot look into {directory}: {exc.strerror or 'input error'}"
        ) from exc


def _public_of(path: Path) -> bytes | None:
    beside = path.with_name(path.name + ".pub")
    if beside.is_file() and beside.stat().st_size <= MAX_KEY_FILE:
        return beside.read_bytes()
    return None


def refuse_beside_private_key(directory: Path, spki_sha256: str) -> None:
    """A document is not written where a private key lies that may open it.

    Args:
        directory: where the document is to go.
        spki_sha256: of the RSA key that it is encrypted to, hex.

    Raises:
        KeycairnError: E_POLICY; E_UNAVAILABLE, the directory can't be looked into.
    """
    for found in private_keys_in(directory):
        if found.may_open({spki_sha256}):
            raise meeting(found, directory)


def meeting(found: PrivateKeyFile, directory: Path) -> KeycairnError:
    """E_POLICY: a document and a private key that may open it would meet."""
    sure = "is the RSA private key that opens it"
    doubt = "is an encrypted private key, and may be the one that opens it"
    what = doubt if found.spki_sha256 is None else sure
    return KeycairnError(
        Code.POLICY,
        f"no ERS document is written to {directory}: {found.path.name} there {what}",
        not_lost="Nothing was written. Documents elsewhere are unaffected.",
        next=f"move {found.path} to a medium of its own, away from every document",
        detail={"file": str(found.path), "spki_sha256": found.spki_sha256},
    )


def refuse_private_key(data: bytes) -> None:
    """A command that takes public data is not given a private key.

    Raises:
        KeycairnError: E_POLICY.
    """
    if _PEM in data[:MAX_KEY_FILE]:
        raise KeycairnError(
            Code.POLICY,
            "this is a private key; only recovery takes one, and never here",
            not_lost="Nothing was done with it.",
            next="give the public key (F.pub beside it, or keycairn-recover fingerprint --out)",
        )
