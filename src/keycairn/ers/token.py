"""The RSA private key in a PKCS#11 token: a hardware security module, a card, SoftHSM.

How a leaf is decrypted is tried out once, when the key is opened, on a ciphertext whose plaintext
is known: with CKM_RSA_PKCS_OAEP and SHA-256 if the token can, else with raw RSA (CKM_RSA_X_509) and
OAEP in software. (SoftHSM up to 2.6 offers OAEP with SHA-1 only.)

Tokens disagree on the error for a wrong padding; some say "general error", as for being broken. So
after any error the known ciphertext is decrypted again: if that works the leaf was bad, and the
next one is tried; if not, the token has failed and recovery stops. Nobody but the owner of the
token sees which, and every cause of a bad leaf looks the same (no oracle for Manger's attack).

One log-in, one session, for a whole batch. The token's count of wrong PINs is minded: with one try
left, nothing logs in any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError
from keycairn.ers.decrypt import PROBE, BadLeaf, RawRsaDecryptor, probe
from keycairn.ers.rsa import EXPONENT, RsaPublicKey, encode_spki, load_rsa_public_key
from keycairn.ports import Rng

_WRONG_PIN = {"PinIncorrect", "PinInvalid", "PinLenRange"}
_NOT_LOST = "Nothing was decrypted; the key and the documents are as they were."


def _error(code: Code, message: str, hint: str, **detail: Any) -> KeycairnError:
    return KeycairnError(code, message, not_lost=_NOT_LOST, next=hint, detail=detail)


def _library(module: str) -> tuple[Any, Any]:
    """python-pkcs11, and the loaded module."""
    try:
        import pkcs11
    except ImportError as exc:
        raise _error(
            Code.UNAVAILABLE,
            "the package python-pkcs11 is not installed",
            "pip install 'keycairn[hsm]'",
        ) from exc
    try:
        return pkcs11, pkcs11.lib(module)
    except RuntimeError as exc:
        raise _error(
            Code.NOT_FOUND,
            f"the PKCS#11 module {module} can't be loaded",
            "install the token's software, or correct --pkcs11-module",
        ) from exc


def _find_token(p11: Any, library: Any, label: str) -> Any:
    found = list(library.get_tokens(token_label=label))
    if len(found) == 1:
        return found[0]
    if found:
        raise _error(
            Code.POLICY, f"{len(found)} tokens have the label {label}", "disconnect the others"
        )
    there = sorted({t.label for t in library.get_tokens() if t.label})
    raise _error(
        Code.NOT_FOUND,
        f"there is no token {label}" + (f"; there are: {', '.join(there)}" if there else ""),
        "connect the token, or correct --token-label; pkcs11-tool --list-slots shows what is there",
        tokens=there,
    )


def _tries(p11: Any, token: Any) -> str:
    # PKCS#11 has flags for this and no number.
    flags = p11.TokenFlag
    if token.flags & flags.USER_PIN_LOCKED:
        return "the token is locked"
    if token.flags & flags.USER_PIN_FINAL_TRY:
        return "one try is left"
    if token.flags & flags.USER_PIN_COUNT_LOW:
        return "wrong PINs were entered; the token does not say how many tries are left"
    return "no wrong PIN was entered since the last right one, or the token does not count them"


@contextmanager
def _session(
    module: str, token_label: str, pin: SecretBytes, *, rw: bool = False
) -> Iterator[tuple[Any, Any]]:
    """python-pkcs11 and a session of a logged-in user; every error of the token is typed."""
    p11, library = _library(module)
    try:
        token = _find_token(p11, library, token_label)
        if token.flags & (p11.TokenFlag.USER_PIN_FINAL_TRY | p11.TokenFlag.USER_PIN_LOCKED):
            raise _error(
                Code.AUTHN,
                f"token {token_label}: {_tries(p11, token)}; no PIN was tried",
                "log in once by hand with the right PIN (pkcs11-tool --login --test), or have the "
                "security officer set a new one",
                tries=_tries(p11, token),
            )
        text = pin.reveal().decode("utf-8", "replace")
        with token.open(rw=rw, user_pin=text) as session:
            yield p11, session
    except p11.exceptions.PKCS11Error as exc:
        _explain(p11, library, token_label, exc)


def _explain(p11: Any, library: Any, label: str, error: Exception) -> NoReturn:
    name = type(error).__name__
    if name in _WRONG_PIN:
        tries = _tries(p11, _find_token(p11, library, label))
        raise _error(
            Code.AUTHN,
            f"token {label} refuses the PIN: {tries}",
            "find the right PIN before the next try: a few wrong ones lock the token",
            tries=tries,
        ) from error
    if name in ("PinLocked", "PinExpired", "UserPinNotInitialized"):
        raise _error(
            Code.AUTHN,
            f"token {label}: the PIN is locked, has expired, or was never set",
            "have the token's security officer set a new PIN",
        ) from error
    raise _failed(label, name) from error


def _failed(label: str, name: str) -> KeycairnError:
    return _error(
        Code.UNAVAILABLE,
        f"token {label} fails: {name}",
        "look at the token's own log, connect it again, then repeat the command",
        pkcs11=name,
    )


def _public(p11: Any, key: Any) -> RsaPublicKey:
    """The public half; tokens keep modulus and exponent with the private key."""
    names = p11.Attribute
    n = int.from_bytes(key[names.MODULUS], "big")
    try:
        e = int.from_bytes(key[names.PUBLIC_EXPONENT], "big") or EXPONENT
    except p11.exceptions.PKCS11Error:
        e = EXPONENT  # optional there; decryption of the probe tells if it is another
    return load_rsa_public_key(encode_spki(n, e), allow_2048=True)


def _labelled(p11: Any, session: Any, label: str) -> list[Any]:
    names = p11.Attribute
    wanted = {
        names.CLASS: p11.ObjectClass.PRIVATE_KEY,
        names.KEY_TYPE: p11.KeyType.RSA,
        names.LABEL: label,
    }
    return list(session.get_objects(wanted))


def _find_key(
    p11: Any, session: Any, token: str, label: str, wanted: Collection[str]
) -> tuple[Any, RsaPublicKey]:
    found = _labelled(p11, session, label)
    if not found:
        raise _error(
            Code.NOT_FOUND,
            f"token {token} has no RSA private key {label}",
            "correct --key-label (pkcs11-tool --login --list-objects), or bring the key back from "
            "the token's own backup",
        )
    keys = [(key, _public(p11, key)) for key in found]
    if len(keys) > 1:
        keys = [pair for pair in keys if pair[1].spki_sha256 in wanted]
    if len(keys) != 1:
        raise _error(
            Code.POLICY,
            f"token {token} has {len(found)} RSA private keys {label}, and which one is meant "
            "can't be told",
            "give each a label of its own",
        )
    return keys[0]


class TokenKey:
    """An RSA private key in a token, with an open session; see the module."""

    def __init__(self, p11: Any, key: Any, public: RsaPublicKey, token: str, pin: str) -> None:
        self._p11 = p11
        self._key = key
        self._public = public
        self._token = token
        # Some cards want the PIN for every use of a key. Nothing else here knows it.
        again = _attribute(p11, key, "ALWAYS_AUTHENTICATE", False)
        self._options: dict[str, Any] = {"pin": pin} if again else {}
        self._software_oaep = RawRsaDecryptor(public, self._raw_rsa)
        self.raw = False
        self._find_mechanism()

    @property
    def public(self) -> RsaPublicKey:
        return self._public

    @property
    def how(self) -> str:
        """Which way decryption goes."""
        if self.raw:
            return "CKM_RSA_X_509, OAEP in software"
        return "CKM_RSA_PKCS_OAEP with SHA-256"

    @property
    def leaves_token(self) -> bool:
        """Whether the private key can be read out of the token."""
        return bool(
            _attribute(self._p11, self._key, "EXTRACTABLE", True)
            or not _attribute(self._p11, self._key, "SENSITIVE", False)
        )

    def decrypt(self, ciphertext: bytes) -> bytes:
        try:
            return self._decrypt(ciphertext)
        except self._p11.exceptions.PKCS11Error as exc:
            if self._works() is None:
                raise BadLeaf from exc
            raise _failed(self._token, type(exc).__name__) from exc

    def _decrypt(self, ciphertext: bytes) -> bytes:
        if self.raw:
            return self._software_oaep.decrypt(ciphertext)
        p11 = self._p11
        plain = self._key.decrypt(
            ciphertext,
            mechanism=p11.Mechanism.RSA_PKCS_OAEP,
            mechanism_param=(p11.Mechanism.SHA256, p11.MGF.SHA256, None),
            **self._options,
        )
        return bytes(plain)

    def _raw_rsa(self, ciphertext: bytes) -> bytes:
        raw = self._p11.Mechanism.RSA_X_509
        plain = self._key.decrypt(ciphertext, mechanism=raw, **self._options)
        return bytes(plain).rjust(self._public.size, b"\0")  # some tokens drop leading zeros

    def _works(self) -> str | None:
        """None if the known ciphertext decrypts, else what the token says."""
        try:
            return None if self._decrypt(probe(self._public)) == PROBE else "another plaintext"
        except BadLeaf:
            return "wrong padding"
        except self._p11.exceptions.PKCS11Error as exc:
            return type(exc).__name__

    def _find_mechanism(self) -> None:
        said = {}
        if not hasattr(self._key, "decrypt"):  # the library's way to say that CKA_DECRYPT is off
            raise self._no_mechanism({"CKA_DECRYPT": "off"})
        for self.raw, name in ((False, "CKM_RSA_PKCS_OAEP"), (True, "CKM_RSA_X_509")):
            answer = self._works()
            if answer is None:
                return
            said[name] = answer
        raise self._no_mechanism(said)

    def _no_mechanism(self, said: dict[str, str]) -> KeycairnError:
        return _error(
            Code.POLICY,
            f"token {self._token} decrypts with this key neither by OAEP with SHA-256 nor by raw "
            "RSA: " + ", ".join(f"{name}: {answer}" for name, answer in said.items()),
            "the key needs CKA_DECRYPT and one of both mechanisms; ask the token's vendor how to "
            "allow one",
            mechanisms=said,
        )


def _attribute(p11: Any, key: Any, name: str, default: Any) -> Any:
    try:
        return key[getattr(p11.Attribute, name)]
    except p11.exceptions.PKCS11Error:
        return default


@contextmanager
def token_key(
    module: str, token: str, key: str, pin: SecretBytes, wanted: Collection[str] = ()
) -> Iterator[TokenKey]:
    """Open an RSA private key: one log-in until the end of the ``with``.

    Args:
        module: path of the PKCS#11 module.
        token, key: labels.
        wanted: SHA-256 of the SubjectPublicKeyInfo (hex) of the keys that would do, which decides
            among several keys of one label.

    Raises:
        KeycairnError: E_NOT_FOUND for a module, token or key that is not there, E_AUTHN for the
            PIN (the detail says what the token tells of the tries left), E_POLICY for labels that
            are not unique or a key that decrypts in no known way, E_WEAK_RSA for a key that R-30
            refuses, E_UNAVAILABLE for everything else, also from inside the ``with``.
    """
    with _session(module, token, pin) as (p11, session):
        found, public = _find_key(p11, session, token, key, wanted)
        yield TokenKey(p11, found, public, token, pin.reveal().decode("utf-8", "replace"))


def make_token_key(
    module: str, token: str, key: str, pin: SecretBytes, bits: int, rng: Rng
) -> tuple[RsaPublicKey, str]:
    """Make an RSA key inside a token; it decrypts, does nothing else, and never leaves.

    Returns:
        the public key, and how the token will decrypt.

    Raises:
        KeycairnError: E_CONFLICT if a key has this label; E_POLICY if the token makes keys that
            can be read out, or that it can't decrypt with; else as :func:`token_key`. Then no key
            is left behind.
    """
    with _session(module, token, pin, rw=True) as (p11, session):
        if _labelled(p11, session, key):
            raise _error(
                Code.CONFLICT, f"token {token} has an RSA private key {key}", "name another"
            )
        names = p11.Attribute
        public, private = session.generate_keypair(
            p11.KeyType.RSA,
            bits,
            id=rng.bytes(16),
            label=key,
            store=True,
            public_template={
                names.ENCRYPT: True,
                names.VERIFY: False,
                names.VERIFY_RECOVER: False,
                names.WRAP: False,
            },
            private_template={
                names.PRIVATE: True,
                names.SENSITIVE: True,
                names.EXTRACTABLE: False,
                names.DECRYPT: True,
                names.SIGN: False,
                names.SIGN_RECOVER: False,
                names.UNWRAP: False,
            },
        )
        try:
            checked = load_rsa_public_key(_public(p11, private).spki)
            made = TokenKey(p11, private, checked, token, pin.reveal().decode("utf-8", "replace"))
            if made.leaves_token:
                raise _error(
                    Code.POLICY,
                    f"token {token} makes keys that can be read out of it",
                    "correct the token's policy, or use another token",
                )
        except BaseException:
            private.destroy()
            public.destroy()
            raise
        return checked, made.how
