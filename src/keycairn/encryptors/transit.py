"""Kind "transit": a key of the transit engine of OpenBao or HashiCorp Vault.

The key never leaves the service. The master key is encrypted with ``associated_data`` that names
vault and node, and with the same bytes as ``context``: a derived key needs a context, any other
ignores it. So the service itself refuses a wrapped key of another node.

Over plain HTTP requests with httpx, which a node has anyway; no client library is needed. Of the
policy it needs ``update`` on ``MOUNT/encrypt/KEY`` and ``MOUNT/decrypt/KEY``, and nothing else.

Two traps of the service:

* Encrypting under a key that does not exist *makes* it, if the policy has ``create``. A mistyped
  name would give a new key that nobody backs up, so the key's existence is asked first, with a
  decryption that can't succeed: that needs no further permission.
* ``rewrap`` fails on ciphertexts with associated data: a rotation unwraps and wraps.

Secret: a token; with ``auth = "approle"`` the secret id of the role. Parameters kept: mount, key.
Body: the service's ciphertext (``vault:v1:…``), as text.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
import ssl
from typing import Any
from urllib.parse import urlsplit

import httpx

from keycairn.encoding import SecretBytes
from keycairn.encryptors.config import EncryptorConfig, read_secret
from keycairn.encryptors.faults import absent, away, denied, refused, sealed, shown
from keycairn.encryptors.port import Binding, Environ, Kind, Option, Wrapped
from keycairn.errors import KeycairnError
from keycairn.ports import Rng

_SECONDS = 10.0
_MAX_ANSWER = 64 << 10
_MAX_CIPHERTEXT = 4096
_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*\Z")
_CIPHERTEXT = re.compile(rb"vault:v[1-9][0-9]{0,8}:[A-Za-z0-9+/]+={0,2}\Z")
#: Well-formed, and of no key: nonce and tag of zeros.
_PROBE = "vault:v1:" + base64.b64encode(bytes(12 + 1 + 16)).decode()


class TransitEncryptor:
    """See the module."""

    def __init__(self, config: EncryptorConfig, rng: Rng, environ: Environ | None) -> None:
        options = config.options
        self._config = config
        self._environ = environ
        self._address = require_safe_url(options["address"], "address")
        self._mount = _plain(options["mount"], "mount")
        self._key = _plain(options["key"], "key")
        if options["auth"] == "approle" and not options["role_id"]:
            raise refused('[encryptor] auth = "approle" needs `role_id`')

    # -- the port

    def wrap(self, master: SecretBytes, binding: Binding) -> Wrapped:
        with self._client() as client:
            token = self._login(client)
            self._require_key(client, token, binding)
            body = {"plaintext": _b64(master.reveal()), **_bound(binding)}
            answer = self._call(client, token, f"encrypt/{self._key}", body)
        text = _field(answer, "ciphertext").encode("ascii", "replace")
        if not _CIPHERTEXT.match(text) or len(text) > _MAX_CIPHERTEXT:
            raise self._odd()
        return Wrapped({"mount": self._mount, "key": self._key}, text)

    def unwrap(self, wrapped: Wrapped, binding: Binding) -> SecretBytes:
        if not _CIPHERTEXT.match(wrapped.body) or len(wrapped.body) > _MAX_CIPHERTEXT:
            raise sealed()
        was = "/".join(shown(wrapped.parameters.get(name)) for name in ("mount", "key"))
        with self._client() as client:
            token = self._login(client)
            body = {"ciphertext": wrapped.body.decode(), **_bound(binding)}
            try:
                answer = self._call(client, token, f"decrypt/{self._key}", body)
            except KeycairnError as exc:
                if was != f"{self._mount}/{self._key}":
                    exc.message += (
                        f"; the database says that it was sealed under {was}, and [encryptor] "
                        f"names {self._mount}/{self._key}"
                    )
                raise
        try:
            return SecretBytes(base64.b64decode(_field(answer, "plaintext"), validate=True))
        except (binascii.Error, ValueError) as exc:
            raise self._odd() from exc

    def describe(self) -> dict[str, str]:
        found = {"kind": "transit", "address": self._address}
        if self._config.options["namespace"]:
            found["namespace"] = self._config.options["namespace"]
        return found | {
            "mount": self._mount,
            "key": self._key,
            "auth": self._config.options["auth"],
            "secret": self._config.source,
        }

    def notes(self) -> list[str]:
        try:
            with self._client() as client:
                token = self._login(client)
                data = self._call(client, token, f"keys/{self._key}", None).get("data")
        except KeycairnError:
            return []  # The policy need not allow to read the key, and better doesn't.
        said = data if isinstance(data, dict) else {}
        notes = []
        if said.get("deletion_allowed"):
            notes.append(
                f"transit key {self._key} may be deleted (deletion_allowed): without it this "
                "node's database and all its bundles are lost"
            )
        if said.get("exportable") or said.get("allow_plaintext_backup"):
            notes.append(f"transit key {self._key} can be exported in the clear")
        minimum = said.get("min_decryption_version")
        if isinstance(minimum, int) and minimum > 1:
            notes.append(
                f"transit key {self._key} opens nothing that was wrapped before its version "
                f"{minimum} (min_decryption_version); older bundles of this node may need that"
            )
        return notes

    # -- the service

    def _client(self) -> httpx.Client:
        verify: ssl.SSLContext | bool = True
        with self._config.file("ca_file") as file:
            try:
                if file is not None:
                    verify = ssl.create_default_context(cafile=str(file))
            except (OSError, ssl.SSLError) as exc:
                named = self._config.options["ca_file"]
                raise absent(
                    f"[encryptor] ca_file {named} can't be used: {type(exc).__name__}",
                    "put the certificate of the service's authority there, in PEM",
                ) from exc
        # Neither redirects nor proxies of the environment: the token goes to this address alone.
        return httpx.Client(
            base_url=f"{self._address}/v1/",
            verify=verify,
            timeout=_SECONDS,
            trust_env=False,
            follow_redirects=False,
        )

    def _login(self, client: httpx.Client) -> SecretBytes:
        secret = read_secret(self._config, environ=self._environ)
        if self._config.options["auth"] == "token":
            return secret
        path = f"auth/{_plain(self._config.options['auth_mount'], 'auth_mount')}/login"
        body = {
            "role_id": self._config.options["role_id"],
            "secret_id": _header_text(secret),
        }
        status, answer = self._send(client, "POST", path, body, None)
        if status != 200:
            self._explain(status, answer, path, login=True)
        auth = answer.get("auth")
        token = auth.get("client_token") if isinstance(auth, dict) else None
        if not isinstance(token, str):
            raise self._odd()
        return SecretBytes(token.encode())

    def _require_key(self, client: httpx.Client, token: SecretBytes, binding: Binding) -> None:
        body = {"ciphertext": _PROBE, **_bound(binding)}
        status, answer = self._send(client, "POST", self._of(f"decrypt/{self._key}"), body, token)
        if status == 400 and "key not found" not in _errors(answer):
            return  # It has the key, and rightly won't decrypt this.
        if status != 200:
            self._explain(status, answer, f"decrypt/{self._key}")

    def _call(
        self, client: httpx.Client, token: SecretBytes, path: str, body: dict[str, Any] | None
    ) -> dict[str, Any]:
        method = "GET" if body is None else "POST"
        status, answer = self._send(client, method, self._of(path), body, token)
        if status != 200:
            self._explain(status, answer, path)
        return answer

    def _of(self, path: str) -> str:
        return f"{self._mount}/{path}"

    def _send(
        self,
        client: httpx.Client,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        token: SecretBytes | None,
    ) -> tuple[int, dict[str, Any]]:
        headers = {} if token is None else {"X-Vault-Token": _header_text(token)}
        if self._config.options["namespace"]:
            headers["X-Vault-Namespace"] = self._config.options["namespace"]
        try:
            with client.stream(method, path, json=body, headers=headers) as response:
                raw = b""
                for piece in response.iter_bytes():
                    raw += piece
                    if len(raw) > _MAX_ANSWER:
                        raise self._odd()
                status = response.status_code
        except httpx.ConnectError as exc:
            tls = "CERTIFICATE" in str(exc) or "SSL" in str(exc)
            raise away(
                f"the transit service at {self._address} "
                + ("has no certificate that is trusted here" if tls else "can't be reached"),
                "set ca_file to the certificate of its authority"
                if tls
                else "start it, or correct [encryptor] address; the node starts when it answers",
                address=self._address,
            ) from exc
        except httpx.HTTPError as exc:
            raise away(
                f"the transit service at {self._address} does not answer: {type(exc).__name__}",
                "try again when it does",
                address=self._address,
            ) from exc
        try:
            answer = json.loads(raw) if raw else {}
        except ValueError:
            answer = {}
        return status, answer if isinstance(answer, dict) else {}

    def _explain(
        self, status: int, answer: dict[str, Any], path: str, *, login: bool = False
    ) -> None:
        """Raise what a refusal means."""
        said = _errors(answer)
        if login and status in (400, 401, 403):
            raise denied(
                f"the transit service at {self._address} refuses role id and secret id",
                "give this node a new secret id of its role",
                address=self._address,
            )
        if status in (401, 403):
            raise denied(
                f"the transit service at {self._address} refuses the token: it is wrong or "
                f"expired, or its policy lacks {self._mount}/{path}",
                "renew the token; the policy needs update on "
                f"{self._mount}/encrypt/{self._key} and {self._mount}/decrypt/{self._key}",
                address=self._address,
            )
        if status == 404:
            raise absent(
                f"the transit service at {self._address} has no engine at {self._mount}",
                "correct [encryptor] mount (and namespace), or enable the engine there",
                address=self._address,
            )
        if "key not found" in said:
            raise absent(
                f"the transit service at {self._address} has no key {self._key} under "
                f"{self._mount}",
                "correct [encryptor] key, or bring the key back from the service's own backup",
                address=self._address,
            )
        if status in (429, 472, 473, 500, 502, 503, 504) or 300 <= status < 400:
            why = "is sealed" if "sealed" in said else f"answers with status {status}"
            raise away(
                f"the transit service at {self._address} {why}",
                "unseal it, then try again" if "sealed" in said else "look at the service's log",
                address=self._address,
                status=status,
            )
        if "associated_data" in said or "non-AEAD" in said or "unsupported" in said:
            raise refused(
                f"transit key {self._key} is of a type without associated data",
                "use a key of type aes256-gcm96 or chacha20-poly1305",
            )
        raise sealed()

    def _odd(self) -> KeycairnError:
        return away(
            f"the transit service at {self._address} gave an answer that makes no sense",
            "check that [encryptor] address is that of OpenBao or Vault",
            address=self._address,
        )


def require_safe_url(text: str, name: str) -> str:
    """An ``https://`` address, or ``http://`` on this machine; without a path at its end.

    Raises:
        KeycairnError: E_POLICY.
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("https", "http") or not host or parts.username or parts.query:
        raise refused(f"[encryptor] {name} must be https://host:port")
    if parts.scheme == "http" and not _is_loopback(host):
        raise refused(
            f"[encryptor] {name} {text} is not encrypted: the secret would cross the network in "
            "clear",
            f"use https:// in [encryptor] {name}",
        )
    return text.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _plain(text: str, name: str) -> str:
    if not _PATH.match(text):
        raise refused(f"[encryptor] {name} must be a plain name")
    return text


def _header_text(secret: SecretBytes) -> str:
    try:
        text = secret.reveal().decode("ascii")
    except UnicodeDecodeError as exc:
        raise _odd_text() from exc
    if not text.isprintable():
        raise _odd_text()
    return text


def _odd_text() -> KeycairnError:
    return refused("the secret of [encryptor] is not printable ASCII text", "check its source")


def _bound(binding: Binding) -> dict[str, str]:
    data = _b64(binding.data())
    return {"associated_data": data, "context": data}


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _errors(answer: dict[str, Any]) -> str:
    errors = answer.get("errors")
    return " ".join(str(e) for e in errors) if isinstance(errors, list) else ""


def _field(answer: dict[str, Any], name: str) -> str:
    data = answer.get("data")
    value = data.get(name) if isinstance(data, dict) else None
    if not isinstance(value, str):
        raise away("the transit service gave an answer without " + name, "look at its log")
    return value


TRANSIT = Kind(
    "transit",
    TransitEncryptor,
    (
        Option("address", required=True),
        Option("key", required=True),
        Option("mount", default="transit"),
        Option("namespace"),
        Option("ca_file", path=True),
        Option("auth", default="token", choices=("token", "approle")),
        Option("auth_mount", default="approle"),
        Option("role_id"),
    ),
    source_is="token (or secret id)",
)
