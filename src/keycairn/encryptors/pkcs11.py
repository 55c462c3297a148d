"""Kind "pkcs11": an AES-256 key in a token (a hardware security module, a card, SoftHSM).

The key never leaves the token: it is used by ``C_Encrypt`` and ``C_Decrypt`` with **AES-GCM**,
12-byte nonces of ours, a 16-byte tag, and vault and node as associated data. Why not the others:

* *AES-KWP* (``C_WrapKey``) and *AES-KW* take no associated data, and wrap only key objects: the
  master key would have to become an extractable object in the token first.
* *CBC with HMAC* needs two keys, and decrypts before anybody has looked at the tag.

A nonce comes twice under one key with probability below 2^-60 in a million rotations. A token
that insists on drawing nonces itself (some do in a FIPS mode) can't be used with this kind.

The key must be sensitive and not extractable, or nothing is wrapped under it. The token's count
of wrong PINs is minded: with one try left nothing logs in any more, so that no restart loop locks
the token.

Secret: the user PIN. Parameters kept: token, key (their labels). Body: nonce | ciphertext | tag.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from keycairn.encoding import SecretBytes
from keycairn.encryptors.config import EncryptorConfig, read_secret
from keycairn.encryptors.faults import absent, away, denied, lacks_extra, refused, sealed, shown
from keycairn.encryptors.port import KEY_BYTES, Binding, Environ, Kind, Option, Wrapped
from keycairn.errors import KeycairnError
from keycairn.ports import Rng

_NONCE = 12
_TAG_BITS = 128
_BODY = _NONCE + KEY_BYTES + 16
#: A token has one login for all sessions of a process.
_one_at_a_time = threading.Lock()

_NO_MORE_TRIES = ("USER_PIN_FINAL_TRY", "USER_PIN_LOCKED")
_WRONG_PIN = {"PinIncorrect", "PinInvalid", "PinLenRange"}
_NO_GCM = {
    "MechanismInvalid", "MechanismParamInvalid", "FunctionNotSupported", "KeyTypeInconsistent",
    "KeyFunctionNotPermitted", "AttributeTypeInvalid", "KeySizeRange",
}  # fmt: skip
_BAD_DATA = {"EncryptedDataInvalid", "EncryptedDataLenRange", "DataInvalid", "DataLenRange"}


class TokenEncryptor:
    """See the module."""

    def __init__(self, config: EncryptorConfig, rng: Rng, environ: Environ | None) -> None:
        self._config = config
        self._rng = rng
        self._environ = environ
        self._module = str(config.options["module"])
        self._token: str = config.options["token"]
        self._key: str = config.options["key"]

    # -- the port

    def wrap(self, master: SecretBytes, binding: Binding) -> Wrapped:
        nonce = self._rng.bytes(_NONCE)
        with self._key_object() as (p11, key):
            self._require_fit(p11, key)
            body = key.encrypt(
                master.reveal(),
                mechanism=p11.Mechanism.AES_GCM,
                mechanism_param=p11.GCMParams(nonce, binding.data(), _TAG_BITS),
            )
        if len(body) != _BODY - _NONCE:
            raise refused(f"token {self._token} gives an AES-GCM ciphertext of a strange length")
        return Wrapped({"token": self._token, "key": self._key}, nonce + bytes(body))

    def unwrap(self, wrapped: Wrapped, binding: Binding) -> SecretBytes:
        if len(wrapped.body) != _BODY:
            raise sealed()
        with self._key_object() as (p11, key):
            try:
                plain = key.decrypt(
                    wrapped.body[_NONCE:],
                    mechanism=p11.Mechanism.AES_GCM,
                    mechanism_param=p11.GCMParams(wrapped.body[:_NONCE], binding.data(), _TAG_BITS),
                )
            except p11.exceptions.PKCS11Error as exc:
                # SoftHSM says CKR_GENERAL_ERROR for a tag that does not fit.
                if type(exc).__name__ in _BAD_DATA | {"GeneralError"}:
                    raise self._not_mine(wrapped) from exc
                raise
        return SecretBytes(bytes(plain))

    def describe(self) -> dict[str, str]:
        return {
            "kind": "pkcs11",
            "module": self._module,
            "token": self._token,
            "key": self._key,
            "secret": self._config.source,
        }

    def notes(self) -> list[str]:
        try:
            with self._key_object() as (p11, key):
                self._require_fit(p11, key)
        except KeycairnError as exc:
            return [exc.message]
        return []

    # -- the token

    @contextmanager
    def _key_object(self) -> Iterator[tuple[Any, Any]]:
        try:
            import pkcs11
        except ImportError as exc:
            raise lacks_extra("python-pkcs11", "hsm", "pkcs11") from exc
        pin = read_secret(self._config, environ=self._environ)
        with _one_at_a_time:
            try:
                token = self._find_token(pkcs11)
                with token.open(user_pin=pin.reveal().decode("utf-8", "replace")) as session:
                    yield pkcs11, self._find_key(pkcs11, session)
            except pkcs11.exceptions.PKCS11Error as exc:
                self._explain(exc)

    def _find_token(self, p11: Any) -> Any:
        try:
            library = p11.lib(self._module)
        except p11.exceptions.PKCS11Error as exc:
            raise absent(
                f"the PKCS#11 module {self._module} can't be loaded",
                "install the token's software, or correct [encryptor] module",
            ) from exc
        # Slots are enumerated anew: a token may have come since the module was loaded.
        found = [t for t in library.get_tokens(token_label=self._token)]
        if not found:
            raise absent(
                f"there is no token {self._token} in the slots of {self._module}",
                "connect the token, or correct [encryptor] token; pkcs11-tool --list-slots shows "
                "what is there",
            )
        if len(found) > 1:
            raise refused(f"{len(found)} tokens have the label {self._token}")
        if any(found[0].flags & p11.TokenFlag[name] for name in _NO_MORE_TRIES):
            raise denied(
                f"token {self._token} is locked, or one more wrong PIN locks it: nothing was tried",
                "log in once by hand with the right PIN (pkcs11-tool --login --test), or have the "
                "security officer set a new one; then correct the secret of [encryptor]",
            )
        return found[0]

    def _find_key(self, p11: Any, session: Any) -> Any:
        wanted = {
            p11.Attribute.CLASS: p11.ObjectClass.SECRET_KEY,
            p11.Attribute.KEY_TYPE: p11.KeyType.AES,
            p11.Attribute.LABEL: self._key,
        }
        found = list(session.get_objects(wanted))
        if not found:
            raise absent(
                f"token {self._token} has no AES key {self._key}",
                "correct [encryptor] key, or bring the key back from the token's own backup",
            )
        # A key object has the methods that the key's attributes allow, and no others.
        if not (hasattr(found[0], "encrypt") and hasattr(found[0], "decrypt")):
            raise self._no_gcm("CKA_ENCRYPT or CKA_DECRYPT is false")
        if len(found) > 1:
            raise refused(
                f"token {self._token} has {len(found)} AES keys {self._key}",
                "give this node's key a label of its own",
            )
        return found[0]

    def _not_mine(self, wrapped: Wrapped) -> KeycairnError:
        error = sealed()
        was = [shown(wrapped.parameters.get(name)) for name in ("token", "key")]
        if was != [self._token, self._key]:
            error.message += (
                f"; the database says that it was sealed under key {was[1]} of token {was[0]}, and "
                f"[encryptor] names {self._key} of {self._token}"
            )
        return error

    def _require_fit(self, p11: Any, key: Any) -> None:
        names = p11.Attribute
        if key[names.EXTRACTABLE] or not key[names.SENSITIVE]:
            raise refused(
                f"AES key {self._key} in token {self._token} can be read out of the token",
                "make a new one that is sensitive and not extractable",
            )
        if key[names.VALUE_LEN] != KEY_BYTES:
            raise refused(f"AES key {self._key} in token {self._token} has not 256 bits")

    def _no_gcm(self, why: str) -> KeycairnError:
        return refused(
            f"token {self._token} does not do AES-GCM with key {self._key} ({why})",
            "use a key with CKA_ENCRYPT and CKA_DECRYPT in a token that offers CKM_AES_GCM",
        )

    def _explain(self, error: Exception) -> NoReturn:
        name = type(error).__name__
        if name in _WRONG_PIN:
            raise denied(
                f"token {self._token} refuses the PIN",
                "correct the secret of [encryptor]; a few more wrong PINs lock the token",
            ) from error
        if name in ("PinLocked", "PinExpired"):
            raise denied(
                f"the PIN of token {self._token} is locked or has expired",
                "have the token's security officer set a new PIN",
            ) from error
        if name in _NO_GCM:
            raise self._no_gcm(name) from error
        if name in ("NoSuchToken", "NoSuchKey", "SlotIDInvalid"):
            raise absent(f"token {self._token} or its key {self._key} is not there") from error
        raise away(
            f"token {self._token} fails: {name}",
            "look at the token's own log, then try again",
            pkcs11=name,
        ) from error


PKCS11 = Kind(
    "pkcs11",
    TokenEncryptor,
    (
        Option("module", required=True, path=True),
        Option("token", required=True),
        Option("key", required=True),
    ),
    source_is="user PIN",
)
