"""The keyring: a wrapped data key and everything needed to unwrap it but the secret.

Canonical CBOR map::

    format   1
    kind     "password" | "keyfile"
    vault    text      node  integer
    salt     16 bytes
    argon    [memory_kib, iterations, lanes], or null for "keyfile"
    wrapped  nonce (12) | AES-256-GCM(data key, 32 bytes) | tag (16)

The wrapping key is ``Argon2id(password, salt, …)`` or ``HKDF-SHA256(key file, salt, …)``, 32
bytes. The associated data is the injective encoding of all other fields, so none of them can be
edited, and the keyring opens for one vault and node only. Parameters are checked against their
bounds before any work is done with them.

Every way to fail gives the same error: nobody learns from it whether the secret or the file was
wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keycairn.encoding import SecretBytes, canonical_cbor, decode_cbor, encode, tag
from keycairn.encryptors.config import (
    KEY_BYTES,
    KINDS,
    ArgonParams,
    EncryptorConfig,
    read_secret,
)
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Rng

_KEYRING = tag("encryptor/keyring")
_KEYFILE = tag("encryptor/keyfile")
_FORMAT = 1
_SALT = 16
_NONCE = 12
_WRAPPED = _NONCE + KEY_BYTES + 16
_MAX_ENCODED = 4096


@dataclass(frozen=True)
class Keyring:
    """A wrapped data key. Holds no secret in the clear; safe to store and to back up."""

    kind: str
    vault: str
    node: int
    salt: bytes
    argon: ArgonParams | None
    wrapped: bytes

    def encode(self) -> bytes:
        """The form that is stored (module docstring)."""
        a = self.argon
        return canonical_cbor(
            {
                "format": _FORMAT,
                "kind": self.kind,
                "vault": self.vault,
                "node": self.node,
                "salt": self.salt,
                "argon": None if a is None else [a.memory_kib, a.iterations, a.lanes],
                "wrapped": self.wrapped,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Keyring:
        """Strict inverse of :meth:`encode`; parameters out of bounds are refused here.

        Raises:
            KeycairnError: E_STORE_INTEGRITY.
        """
        try:
            fields = decode_cbor(data, max_bytes=_MAX_ENCODED)
        except KeycairnError as exc:
            raise _sealed() from exc
        return _from_fields(fields)

    def associated_data(self) -> bytes:
        """What the wrapping is bound to."""
        a = self.argon
        return encode(
            _KEYRING,
            _FORMAT,
            self.kind,
            self.vault,
            self.node,
            self.salt,
            None if a is None else [a.memory_kib, a.iterations, a.lanes],
        )


def create_keyring(
    config: EncryptorConfig,
    *,
    vault: str,
    node: int,
    rng: Rng,
    environ: Mapping[str, str] | None = None,
) -> Keyring:
    """Draw a data key and wrap it under the configured secret.

    The data key itself is not returned: whoever stored the keyring gets it with
    :func:`open_data_key`, which proves on the way that the stored keyring opens.

    Raises:
        KeycairnError: as :func:`read_secret`; E_POLICY for Argon2id parameters out of bounds.
    """
    if config.kind == "password" and not config.argon.in_bounds():
        raise KeycairnError(
            Code.POLICY,
            "Argon2id parameters are out of bounds: memory 19 MiB to 1 GiB, iterations 2 to 10, "
            "lanes 1 to 16",
            next="correct [encryptor] in node.toml",
        )
    secret = read_secret(config, environ=environ)
    data_key = SecretBytes(rng.bytes(KEY_BYTES))
    return _wrap(config, secret, data_key, vault=vault, node=node, rng=rng)


def open_data_key(
    config: EncryptorConfig,
    keyring: bytes,
    *,
    vault: str,
    node: int,
    environ: Mapping[str, str] | None = None,
) -> SecretBytes:
    """The 32-byte data key from a stored keyring and the configured secret.

    Raises:
        KeycairnError: as :func:`read_secret` and :func:`unlock`.
    """
    parsed = Keyring.decode(keyring)
    if parsed.kind != config.kind:
        raise _sealed()
    secret = read_secret(config, environ=environ)
    return unlock(parsed, secret, vault=vault, node=node)


def unlock(keyring: Keyring, secret: SecretBytes, *, vault: str, node: int) -> SecretBytes:
    """Unwrap the data key.

    Raises:
        KeycairnError: E_STORE_INTEGRITY, always with the same body, for a wrong secret, another
            vault or node, or a keyring that was edited.
    """
    if (keyring.vault, keyring.node) != (vault, node):
        raise _sealed()
    aead = AESGCM(_wrapping_key(keyring, secret))
    nonce, body = keyring.wrapped[:_NONCE], keyring.wrapped[_NONCE:]
    try:
        return SecretBytes(aead.decrypt(nonce, body, keyring.associated_data()))
    except InvalidTag as exc:
        raise _sealed() from exc


def rewrap(
    keyring: Keyring,
    secret: SecretBytes,
    config: EncryptorConfig,
    *,
    rng: Rng,
    environ: Mapping[str, str] | None = None,
) -> Keyring:
    """The same data key under a new secret, kind or cost (a password change).

    The change is atomic if the caller replaces the stored keyring in one transaction.
    """
    data_key = unlock(keyring, secret, vault=keyring.vault, node=keyring.node)
    new = read_secret(config, environ=environ)
    return _wrap(config, new, data_key, vault=keyring.vault, node=keyring.node, rng=rng)


def _wrap(
    config: EncryptorConfig,
    secret: SecretBytes,
    data_key: SecretBytes,
    *,
    vault: str,
    node: int,
    rng: Rng,
) -> Keyring:
    argon = config.argon if config.kind == "password" else None
    bare = Keyring(config.kind, vault, node, rng.bytes(_SALT), argon, b"")
    nonce = rng.bytes(_NONCE)
    aead = AESGCM(_wrapping_key(bare, secret))
    body = aead.encrypt(nonce, data_key.reveal(), bare.associated_data())
    return replace(bare, wrapped=nonce + body)


def _wrapping_key(keyring: Keyring, secret: SecretBytes) -> bytes:
    if keyring.argon is None:
        info = encode(_KEYFILE, keyring.vault, keyring.node)
        hkdf = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=keyring.salt, info=info)
        return hkdf.derive(secret.reveal())
    if not keyring.argon.in_bounds():
        raise _sealed()
    try:
        argon = Argon2id(
            salt=keyring.salt,
            length=KEY_BYTES,
            iterations=keyring.argon.iterations,
            lanes=keyring.argon.lanes,
            memory_cost=keyring.argon.memory_kib,
        )
        return argon.derive(secret.reveal())
    except MemoryError as exc:
        raise KeycairnError(
            Code.UNAVAILABLE,
            f"Argon2id needs {keyring.argon.memory_kib // 1024} MiB of memory, which are not there",
            not_lost="Nothing was changed; the store stays sealed.",
            next="give the node more memory",
        ) from exc


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _from_fields(f: Any) -> Keyring:
    names = {"format", "kind", "vault", "node", "salt", "argon", "wrapped"}
    if not isinstance(f, dict) or set(f) != names or f["format"] != _FORMAT:
        raise _sealed()
    argon = None
    if f["kind"] == "password":
        costs = f["argon"]
        if not isinstance(costs, list) or len(costs) != 3 or not all(map(_is_int, costs)):
            raise _sealed()
        argon = ArgonParams(*costs)
        if not argon.in_bounds():
            raise _sealed()
    elif f["argon"] is not None:
        raise _sealed()
    good = (
        f["kind"] in KINDS
        and isinstance(f["vault"], str)
        and _is_int(f["node"])
        and f["node"] >= 0
        and isinstance(f["salt"], bytes)
        and len(f["salt"]) == _SALT
        and isinstance(f["wrapped"], bytes)
        and len(f["wrapped"]) == _WRAPPED
    )
    if not good:
        raise _sealed()
    return Keyring(f["kind"], f["vault"], f["node"], f["salt"], argon, f["wrapped"])


def _sealed() -> KeycairnError:
    return KeycairnError(
        Code.STORE_INTEGRITY,
        "the store can't be opened: the secret is wrong, or the keyring is damaged or belongs to "
        "another vault or node",
        not_lost="Nothing was changed; what is stored stays sealed.",
        next="see that [encryptor] names this node's own master secret, and check [vault] id, "
        "[player] index and [database] url in node.toml; if all are right, the database is "
        "damaged: keycairn node restore BUNDLE --into DIR --identity FILE, with the same secret",
    )
