"""The keyring: wrapped keys and everything needed to unwrap them but the secret.

    encryptor  →  master key  →  data keys, one for each kind of record  →  rows

The encryptor wraps a random 32-byte *master key*; under it stand the random *data keys*, which
seal rows and never change. So a node moves to another encryptor, or gets a new master key, by
writing this one value (:func:`rotate`), and no row is touched.

Canonical CBOR map, format 2::

    format      2
    kind        text, [encryptor] kind
    vault       text      node  integer
    parameters  map of text to integer, text or bytes: what the encryptor keeps beside
    wrapped     the master key, as the encryptor wrapped it
    data_keys   map: kind of record -> nonce (12) | AES-256-GCM(data key, 32 bytes) | tag (16)

The associated data of a data key is the injective encoding of its kind of record and of all other
fields: a keyring is of one piece, for one vault and node, whatever its encryptor authenticates.

Format 1, of databases made before there were master keys: no ``data_keys``; ``wrapped`` holds the
one data key; ``salt`` and ``argon`` stand in place of ``parameters``. It still opens, and the
first rotation makes format 2 of it.

What is wrong with a keyring is never said: a wrong secret and an edited field give the same error.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keycairn.encoding import SecretBytes, canonical_cbor, decode_cbor, encode, tag
from keycairn.encryptors.config import EncryptorConfig
from keycairn.encryptors.faults import NOT_LOST, away, sealed
from keycairn.encryptors.port import KEY_BYTES, Binding, Encryptor, Environ, Public, Wrapped
from keycairn.encryptors.registry import encryptor_of
from keycairn.errors import Code, KeycairnError
from keycairn.ports import Rng
from keycairn.vault.sealing import RECORD_KINDS

_DATA_KEY = tag("encryptor/data-key")
_FORMAT = 2
_NONCE = 12
_SEALED_KEY = _NONCE + KEY_BYTES + 16
_MAX_ENCODED = 32 << 10
_MAX_WRAPPED = 8 << 10
_MAX_PARAMETERS = 16
_MAX_KEYS = 64

DataKeys = Mapping[str, SecretBytes]


@dataclass(frozen=True)
class Keyring:
    """Wrapped keys. Holds no secret in the clear; safe to store and to back up."""

    kind: str
    vault: str
    node: int
    wrapped: Wrapped
    data_keys: Mapping[str, bytes]
    format: int = _FORMAT

    @property
    def binding(self) -> Binding:
        """What its encryptor binds it to."""
        return Binding(self.vault, self.node, self.format)

    def encode(self) -> bytes:
        """The form that is stored (module docstring)."""
        fields: dict[str, Any] = {
            "format": self.format,
            "kind": self.kind,
            "vault": self.vault,
            "node": self.node,
            "wrapped": self.wrapped.body,
        }
        parameters = dict(self.wrapped.parameters)
        if self.format == 1:
            fields["salt"] = parameters.pop("salt")
            fields["argon"] = [parameters[name] for name in _COSTS] if parameters else None
        else:
            fields |= {"parameters": parameters, "data_keys": dict(self.data_keys)}
        return canonical_cbor(fields)

    @classmethod
    def decode(cls, data: bytes) -> Keyring:
        """Strict inverse of :meth:`encode`.

        Raises:
            KeycairnError: E_STORE_INTEGRITY; E_POLICY for the format of a newer version.
        """
        try:
            fields = decode_cbor(data, max_bytes=_MAX_ENCODED)
        except KeycairnError as exc:
            raise sealed() from exc
        if not isinstance(fields, dict):
            raise sealed()
        found = fields.get("format")
        if isinstance(found, int) and found > _FORMAT:
            raise KeycairnError(
                Code.POLICY,
                f"the keyring has format {found}, this program knows {_FORMAT}: a newer keycairn "
                "wrote it",
                not_lost=NOT_LOST,
                next="install the newer keycairn",
            )
        return _from_fields(fields)

    def associated_data(self, record_kind: str) -> bytes:
        """What the data key for this kind of record is bound to."""
        return encode(
            _DATA_KEY,
            record_kind,
            self.format,
            self.kind,
            self.vault,
            self.node,
            canonical_cbor(dict(self.wrapped.parameters)),
            self.wrapped.body,
        )


def create_keyring(
    config: EncryptorConfig, *, vault: str, node: int, rng: Rng, environ: Environ | None = None
) -> Keyring:
    """Draw a master key and data keys, and wrap them under the configured encryptor.

    The keys are not returned: whoever stored the keyring gets them with :func:`open_keyring`,
    which proves on the way that the stored keyring opens.

    Raises:
        KeycairnError: as the encryptor's ``wrap``.
    """
    data_keys = {kind: SecretBytes(rng.bytes(KEY_BYTES)) for kind in RECORD_KINDS}
    return _wrap(config, data_keys, vault=vault, node=node, rng=rng, environ=environ)


def open_keyring(
    config: EncryptorConfig,
    keyring: bytes,
    *,
    vault: str,
    node: int,
    rng: Rng,
    environ: Environ | None = None,
) -> DataKeys:
    """The data keys, from a stored keyring and the configured encryptor.

    Raises:
        KeycairnError: E_STORE_INTEGRITY, always with the same body, for a wrong secret, another
            vault or node, or a keyring that was edited; E_CONFLICT when it was made by another
            kind of encryptor than is configured; as the encryptor's ``unwrap``.
    """
    parsed = Keyring.decode(keyring)
    if (parsed.vault, parsed.node) != (vault, node):
        raise sealed()
    if parsed.kind != config.kind:
        raise _other_kind(parsed, config)
    return _unwrap(parsed, encryptor_of(config, rng, environ))


def rotate(
    keyring: bytes,
    old: EncryptorConfig,
    new: EncryptorConfig,
    *,
    vault: str,
    node: int,
    rng: Rng,
    environ: Environ | None = None,
) -> Keyring:
    """The same data keys under a fresh master key, wrapped by ``new``, and proved to open.

    It unwraps and wraps again; a service's own rewrapping fails on ciphertexts that have
    associated data, and would keep the master key. The change is atomic if the caller replaces
    the stored keyring in one transaction.

    Raises:
        KeycairnError: as :func:`open_keyring` and :func:`create_keyring`; E_UNAVAILABLE when
            what ``new`` wrapped does not open again.
    """
    data_keys = open_keyring(old, keyring, vault=vault, node=node, rng=rng, environ=environ)
    made = _wrap(new, data_keys, vault=vault, node=node, rng=rng, environ=environ)
    # Another instance, which shares nothing with the one that wrapped.
    again = open_keyring(new, made.encode(), vault=vault, node=node, rng=rng, environ=environ)
    if data_keys.keys() != again.keys() or not all(
        hmac.compare_digest(data_keys[kind].reveal(), again[kind].reveal()) for kind in again
    ):
        raise away(
            f"what the encryptor of kind {new.kind} wrapped does not open again",
            "keycairn encryptor check --config FILE",
        )
    return made


def describe_keyring(keyring: bytes) -> dict[str, str]:
    """Which encryptor opens this keyring, as far as the keyring knows: kind and, for kinds that
    have one, key. Not authenticated, and never a secret: for people, bundles and plans."""
    parsed = Keyring.decode(keyring)
    texts = {n: v for n, v in parsed.wrapped.parameters.items() if isinstance(v, str)}
    return {"kind": parsed.kind, **texts}


def _wrap(
    config: EncryptorConfig,
    data_keys: DataKeys,
    *,
    vault: str,
    node: int,
    rng: Rng,
    environ: Environ | None,
) -> Keyring:
    master = SecretBytes(rng.bytes(KEY_BYTES))
    encryptor = encryptor_of(config, rng, environ)
    wrapped = encryptor.wrap(master, Binding(vault, node))
    bare = Keyring(config.kind, vault, node, wrapped, {})
    aead = AESGCM(master.reveal())
    under = {}
    for kind, key in data_keys.items():
        nonce = rng.bytes(_NONCE)
        under[kind] = nonce + aead.encrypt(nonce, key.reveal(), bare.associated_data(kind))
    return Keyring(config.kind, vault, node, wrapped, under)


def _unwrap(keyring: Keyring, encryptor: Encryptor) -> DataKeys:
    master = encryptor.unwrap(keyring.wrapped, keyring.binding)
    if len(master.reveal()) != KEY_BYTES:
        raise sealed()
    if keyring.format == 1:
        return dict.fromkeys(RECORD_KINDS, master)
    aead = AESGCM(master.reveal())
    try:
        return {
            kind: SecretBytes(
                aead.decrypt(body[:_NONCE], body[_NONCE:], keyring.associated_data(kind))
            )
            for kind, body in keyring.data_keys.items()
        }
    except InvalidTag as exc:
        raise sealed() from exc


def _other_kind(keyring: Keyring, config: EncryptorConfig) -> KeycairnError:
    return KeycairnError(
        Code.CONFLICT,
        f"the database was sealed with an encryptor of kind {keyring.kind}, and [encryptor] names "
        f"kind {config.kind}",
        not_lost=NOT_LOST,
        next="put the [encryptor] section back that the database was last used with; "
        "to move to another encryptor: keycairn encryptor rotate --to-config FILE",
        detail={"keyring": keyring.kind, "configured": config.kind},
    )


_COSTS = ("memory_kib", "iterations", "lanes")
_COMMON = {"format", "kind", "vault", "node", "wrapped"}


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _from_fields(f: dict[str, Any]) -> Keyring:
    format_ = f.get("format")
    own = {"salt", "argon"} if format_ == 1 else {"parameters", "data_keys"}
    if not _is_int(format_) or format_ not in (1, 2) or set(f) != _COMMON | own:
        raise sealed()
    good = (
        isinstance(f["kind"], str)
        and isinstance(f["vault"], str)
        and _is_int(f["node"])
        and f["node"] >= 0
        and isinstance(f["wrapped"], bytes)
        and len(f["wrapped"]) <= _MAX_WRAPPED
    )
    if not good:
        raise sealed()
    parameters = _first_format(f) if format_ == 1 else _checked_parameters(f["parameters"])
    data_keys = {} if format_ == 1 else _checked_keys(f["data_keys"])
    wrapped = Wrapped(parameters, f["wrapped"])
    return Keyring(f["kind"], f["vault"], f["node"], wrapped, data_keys, format_)


def _first_format(f: dict[str, Any]) -> dict[str, Public]:
    argon = f["argon"]
    if f["kind"] == "keyfile" and argon is None:
        return {"salt": f["salt"]}
    if f["kind"] != "password" or not isinstance(argon, list) or len(argon) != len(_COSTS):
        raise sealed()
    return {"salt": f["salt"], **dict(zip(_COSTS, argon, strict=True))}


def _checked_parameters(parameters: Any) -> dict[str, Public]:
    if not isinstance(parameters, dict) or len(parameters) > _MAX_PARAMETERS:
        raise sealed()
    for name, value in parameters.items():
        if not isinstance(name, str) or not (_is_int(value) or isinstance(value, (str, bytes))):
            raise sealed()
    return parameters


def _checked_keys(keys: Any) -> dict[str, bytes]:
    if not isinstance(keys, dict) or len(keys) > _MAX_KEYS or not set(RECORD_KINDS) <= set(keys):
        raise sealed()
    for name, value in keys.items():
        if not isinstance(name, str) or not isinstance(value, bytes) or len(value) != _SEALED_KEY:
            raise sealed()
    return keys
