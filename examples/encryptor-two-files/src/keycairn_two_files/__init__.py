"""Encryptor kind "two-files": the master key needs two key files, kept by two people.

What to look at when you write your own:

* ``KIND`` at the end is what the entry point names. Its options become keys of ``[encryptor]``;
  keycairn checks their types and makes paths absolute before it calls you.
* Secrets are read when they are needed and kept nowhere. ``read_secret`` serves ``secret_file``,
  ``secret_env`` and ``secret_credential`` alike.
* ``binding.data()`` goes into what you authenticate: it names vault, node and format.
* Every failure is one of the errors that :mod:`keycairn.encryptors.port` lists. Whatever else you
  raise reaches the operator as the bare name of its type.
"""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keycairn.encoding import SecretBytes
from keycairn.encryptors import (
    Binding,
    EncryptorConfig,
    Kind,
    Option,
    Wrapped,
    key_bytes,
    read_key_file,
    read_secret,
)
from keycairn.encryptors.faults import sealed
from keycairn.ports import Rng

_NONCE = 12
_SALT = 16


class TwoFiles:
    """One configured encryptor; the methods are those of ``keycairn.encryptors.Encryptor``."""

    def __init__(
        self, config: EncryptorConfig, rng: Rng, environ: Mapping[str, str] | None
    ) -> None:
        self._config = config
        self._rng = rng
        self._environ = environ

    def wrap(self, master: SecretBytes, binding: Binding) -> Wrapped:
        salt, nonce = self._rng.bytes(_SALT), self._rng.bytes(_NONCE)
        body = AESGCM(self._key(salt)).encrypt(nonce, master.reveal(), binding.data())
        return Wrapped({"salt": salt}, nonce + body)

    def unwrap(self, wrapped: Wrapped, binding: Binding) -> SecretBytes:
        salt = wrapped.parameters.get("salt")
        if not isinstance(salt, bytes) or len(salt) != _SALT:
            raise sealed()
        nonce, body = wrapped.body[:_NONCE], wrapped.body[_NONCE:]
        try:
            return SecretBytes(AESGCM(self._key(salt)).decrypt(nonce, body, binding.data()))
        except (InvalidTag, ValueError) as exc:
            # One error for a wrong file and an edited database: nobody learns which.
            raise sealed() from exc

    def describe(self) -> dict[str, str]:
        return {
            "kind": "two-files",
            "secret": self._config.source,
            "second": str(self._config.options["second_file"]),
        }

    def notes(self) -> list[str]:
        if self._config.secret_file == self._config.options["second_file"]:
            return ["both key files are the same one: one person opens this node alone"]
        return []

    def _key(self, salt: bytes) -> bytes:
        first = key_bytes(
            read_secret(self._config, environ=self._environ).reveal(), self._config.source
        )
        second = read_key_file(self._config.options["second_file"]).reveal()
        hkdf = HKDF(hashes.SHA256(), length=32, salt=salt, info=b"keycairn-two-files/1")
        return hkdf.derive(first + second)


KIND = Kind(
    "two-files",
    TwoFiles,
    (Option("second_file", required=True, path=True),),
    source_is="first key file",
)
