"""Kinds "password" and "keyfile": the wrapping key comes from the operator's secret alone.

``Argon2id(password, salt, costs)`` or ``HKDF-SHA256(key file, salt, vault and node)``, 32 bytes;
with it AES-256-GCM. The associated data is the injective encoding of kind, vault, node, salt and
costs, so none of them can be edited. Costs are checked against their bounds before any work is
done with them (R-21).

Parameters of the wrapped key: ``salt`` (16 bytes) and, for a password, ``memory_kib``,
``iterations``, ``lanes``. Body: nonce (12) | ciphertext | tag (16).
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keycairn.encoding import SecretBytes, encode, tag
from keycairn.encryptors.config import ArgonParams, EncryptorConfig, read_secret
from keycairn.encryptors.faults import away, refused, sealed
from keycairn.encryptors.port import KEY_BYTES, Binding, Environ, Kind, Public, Wrapped
from keycairn.ports import Rng

_KEYRING = tag("encryptor/keyring")
_KEYFILE = tag("encryptor/keyfile")
_SALT = 16
_NONCE = 12
_BODY = _NONCE + KEY_BYTES + 16


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class LocalEncryptor:
    """Password or key file (module docstring)."""

    def __init__(self, config: EncryptorConfig, rng: Rng, environ: Environ | None) -> None:
        self._config = config
        self._rng = rng
        self._environ = environ

    def wrap(self, master: SecretBytes, binding: Binding) -> Wrapped:
        salt = self._rng.bytes(_SALT)
        argon = self._config.argon if self._config.kind == "password" else None
        if argon is not None and not argon.in_bounds():
            raise refused(
                "Argon2id parameters are out of bounds: memory 19 MiB to 1 GiB, iterations 2 to "
                "10, lanes 1 to 16"
            )
        aead, data = self._aead(binding, salt, argon)
        nonce = self._rng.bytes(_NONCE)
        body = nonce + aead.encrypt(nonce, master.reveal(), data)
        costs: dict[str, Public] = {} if argon is None else dict(vars(argon))
        return Wrapped({"salt": salt, **costs}, body)

    def unwrap(self, wrapped: Wrapped, binding: Binding) -> SecretBytes:
        salt, argon = self._checked(wrapped)
        aead, data = self._aead(binding, salt, argon)
        try:
            return SecretBytes(aead.decrypt(wrapped.body[:_NONCE], wrapped.body[_NONCE:], data))
        except InvalidTag as exc:
            raise sealed() from exc

    def describe(self) -> dict[str, str]:
        return {"kind": self._config.kind, "secret": self._config.source}

    def notes(self) -> list[str]:
        return []

    def _checked(self, wrapped: Wrapped) -> tuple[bytes, ArgonParams | None]:
        names = {"salt"}
        argon = None
        given = dict(wrapped.parameters)
        if self._config.kind == "password":
            names |= {"memory_kib", "iterations", "lanes"}
            costs = {name: given.get(name) for name in names - {"salt"}}
            if not all(map(_is_int, costs.values())):
                raise sealed()
            argon = ArgonParams(**costs)  # type: ignore[arg-type]
            if not argon.in_bounds():
                raise sealed()
        salt = given.get("salt")
        if set(given) != names or not isinstance(salt, bytes) or len(salt) != _SALT:
            raise sealed()
        if len(wrapped.body) != _BODY:
            raise sealed()
        return salt, argon

    def _aead(
        self, binding: Binding, salt: bytes, argon: ArgonParams | None
    ) -> tuple[AESGCM, bytes]:
        """The cipher and what it authenticates."""
        data = encode(
            _KEYRING,
            binding.format,
            self._config.kind,
            binding.vault,
            binding.node,
            salt,
            None if argon is None else [argon.memory_kib, argon.iterations, argon.lanes],
        )
        secret = read_secret(self._config, environ=self._environ)
        return AESGCM(_wrapping_key(secret, binding, salt, argon)), data


def _wrapping_key(
    secret: SecretBytes, binding: Binding, salt: bytes, argon: ArgonParams | None
) -> bytes:
    if argon is None:
        info = encode(_KEYFILE, binding.vault, binding.node)
        hkdf = HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=salt, info=info)
        return hkdf.derive(secret.reveal())
    try:
        argon2 = Argon2id(
            salt=salt,
            length=KEY_BYTES,
            iterations=argon.iterations,
            lanes=argon.lanes,
            memory_cost=argon.memory_kib,
        )
        return argon2.derive(secret.reveal())
    except MemoryError as exc:
        raise away(
            f"Argon2id needs {argon.memory_kib // 1024} MiB of memory, which are not there",
            "give the node more memory",
        ) from exc


PASSWORD = Kind("password", LocalEncryptor, source_is="master password")
KEYFILE = Kind("keyfile", LocalEncryptor, source_is="key file")
