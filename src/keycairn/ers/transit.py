"""The RSA private key in a transit engine (OpenBao, HashiCorp Vault): decryption as a service.

Over plain HTTP with the standard library, since recovery brings no HTTP client. Needs ``read`` on
``MOUNT/keys/KEY`` (the public keys of all its versions) and ``update`` on ``MOUNT/decrypt/KEY``.
The service's RSA keys decrypt OAEP with SHA-256 and no label, which is what ERS documents use.

A key of the service has versions: the one that the documents are for is taken. OpenBao answers a
wrong padding with status 500 and much else with 400 or 500, so after a refusal a known ciphertext
is decrypted: if that works the leaf was bad.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import ipaddress
import json
import re
import ssl
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers.decrypt import PROBE, BadLeaf, probe
from keycairn.ers.rsa import RsaPublicKey, load_rsa_public_key

_SECONDS = 30.0
_MAX_ANSWER = 1 << 20
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*\Z")
_NOT_LOST = "Nothing was decrypted here; the key and the documents are as they were."


@dataclass(frozen=True)
class Service:
    """Where the key is.

    Attributes:
        address: ``https://host:port``; ``http://`` to this machine only.
        ca_file: PEM of the authority to trust; the system's authorities without it.
    """

    address: str
    key: str
    mount: str = "transit"
    namespace: str | None = None
    ca_file: str | None = None


def _error(code: Code, message: str, hint: str, **detail: Any) -> KeycairnError:
    return KeycairnError(code, message, not_lost=_NOT_LOST, next=hint, detail=detail)


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host, parts = None, urlsplit("")
    if parts.scheme not in ("https", "http") or not host or parts.username or parts.query:
        raise malformed("--transit-address is https://host:port")
    if parts.scheme == "http" and not _is_loopback(host):
        raise _error(
            Code.POLICY,
            "this address is not encrypted: token and plaintexts would cross the network in clear",
            "use https:// in --transit-address",
        )
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class TransitKey:
    """One version of an RSA key of the service; see the module."""

    def __init__(self, service: Service, token: SecretBytes, wanted: Collection[str]) -> None:
        for text in (service.mount, service.key):
            if not _PLAIN.match(text):
                raise malformed("--transit-mount and --transit-key are plain names")
        self._service = service
        self._headers = {"X-Vault-Token": _header(token), "Content-Type": "application/json"}
        if service.namespace:
            self._headers["X-Vault-Namespace"] = service.namespace
        self._path = _split(service.address).path.rstrip("/")
        self._status = 0  # of the last decryption
        self._connection = _connection(service)
        try:
            self._version, self._public = self._choose(wanted)
            why = self._works()
            if why is not None:
                raise why
        except BaseException:
            self.close()
            raise

    @property
    def public(self) -> RsaPublicKey:
        return self._public

    @property
    def how(self) -> str:
        """Which way decryption goes."""
        return f"transit key {self._service.key}, version {self._version}"

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def decrypt(self, ciphertext: bytes) -> bytes:
        try:
            return self._decrypt(ciphertext)
        except BadLeaf:
            why = self._works()
            if why is None:
                raise
            raise why from None

    def _decrypt(self, ciphertext: bytes) -> bytes:
        text = base64.b64encode(ciphertext).decode("ascii")
        body = {"ciphertext": f"vault:v{self._version}:{text}"}
        status, answer = self._ask("POST", f"decrypt/{self._service.key}", body)
        self._status = status
        if status in (400, 500):
            raise BadLeaf
        self._require_ok(status, answer)
        data = answer.get("data")
        plain = data.get("plaintext") if isinstance(data, dict) else None
        try:
            return base64.b64decode(plain if isinstance(plain, str) else "!", validate=True)
        except binascii.Error as exc:
            raise self._odd() from exc

    def _works(self) -> KeycairnError | None:
        """None if the known ciphertext decrypts, else the error of it."""
        try:
            if self._decrypt(probe(self._public)) == PROBE:
                return None
        except BadLeaf:
            if self._status == 500:
                return self._away("answers with status 500", "look at the service's log")
        except KeycairnError as exc:
            return exc
        return _error(
            Code.POLICY,
            f"the transit service does not decrypt with version {self._version} of key "
            f"{self._service.key} by OAEP with SHA-256",
            "look at the key's min_decryption_version, and at its usage policy",
        )

    def _choose(self, wanted: Collection[str]) -> tuple[int, RsaPublicKey]:
        status, answer = self._ask("GET", f"keys/{self._service.key}", None)
        self._require_ok(status, answer)
        data = answer.get("data")
        versions = data.get("keys") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(versions, dict):
            raise self._odd()
        if not str(data.get("type")).startswith("rsa-"):
            raise _error(
                Code.POLICY,
                f"transit key {self._service.key} is not an RSA key",
                "name a key of type rsa-3072 or rsa-4096",
            )
        found: dict[int, RsaPublicKey] = {}
        for number, version in versions.items():
            pem = version.get("public_key") if isinstance(version, dict) else None
            if not isinstance(pem, str) or not number.isdecimal():
                raise self._odd()
            found[int(number)] = load_rsa_public_key(pem.encode(), allow_2048=True)
        if not found:
            raise self._odd()
        match = [n for n, public in found.items() if public.spki_sha256 in wanted]
        newest = max(match or found)
        return newest, found[newest]

    def _ask(self, method: str, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        url = f"{self._path}/v1/{self._service.mount}/{path}"
        payload = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, url, payload, self._headers)
            response = self._connection.getresponse()
            raw = response.read(_MAX_ANSWER + 1)
        except ssl.SSLCertVerificationError as exc:
            raise self._away(
                "has no certificate that is trusted here",
                "set --transit-ca-file to the certificate of its authority",
            ) from exc
        except (OSError, http.client.HTTPException) as exc:
            raise self._away(
                f"can't be reached or does not answer ({type(exc).__name__})",
                "start it, or correct --transit-address, then repeat the command",
            ) from exc
        if len(raw) > _MAX_ANSWER:
            raise self._odd()
        try:
            answer = json.loads(raw) if raw else {}
        except ValueError:
            answer = {}
        return response.status, answer if isinstance(answer, dict) else {}

    def _require_ok(self, status: int, answer: dict[str, Any]) -> None:
        name = f"{self._service.mount}/keys/{self._service.key}"
        if status == 200:
            return
        if status in (401, 403):
            raise _error(
                Code.AUTHN,
                "the transit service refuses the token: it is wrong or expired, or its policy "
                "lacks the key",
                f"renew the token; its policy needs read on {name} and update on "
                f"{self._service.mount}/decrypt/{self._service.key}",
            )
        if status in (400, 404):
            raise _error(
                Code.NOT_FOUND,
                f"the transit service has no key {name}",
                "correct --transit-key, --transit-mount or --transit-namespace, or bring the key "
                "back from the service's own backup",
            )
        said = answer.get("errors")
        sealed = isinstance(said, list) and any("sealed" in str(line) for line in said)
        raise self._away(
            "is sealed" if sealed else f"answers with status {status}",
            "unseal it, then repeat the command" if sealed else "look at the service's log",
        )

    def _odd(self) -> KeycairnError:
        return self._away(
            "gave an answer that makes no sense",
            "check that --transit-address is that of OpenBao or Vault",
        )

    def _away(self, what: str, hint: str) -> KeycairnError:
        return _error(
            Code.UNAVAILABLE, f"the transit service at {self._service.address} {what}", hint
        )


def _connection(service: Service) -> http.client.HTTPConnection:
    # No proxies, no redirects: the token goes to this address alone.
    parts = _split(service.address)
    host = parts.hostname or ""
    if parts.scheme == "http":
        return http.client.HTTPConnection(host, parts.port, timeout=_SECONDS)
    try:
        context = ssl.create_default_context(cafile=service.ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise _error(
            Code.NOT_FOUND,
            f"--transit-ca-file {service.ca_file} can't be used",
            "give the certificate of the service's authority, PEM",
        ) from exc
    return http.client.HTTPSConnection(host, parts.port, timeout=_SECONDS, context=context)


def _header(token: SecretBytes) -> str:
    text = token.reveal().decode("latin-1")
    if not text.isascii() or not text.isprintable():
        raise malformed("the token of the transit service is not printable ASCII text")
    return text


@contextmanager
def transit_key(
    service: Service, token: SecretBytes, wanted: Collection[str] = ()
) -> Iterator[TransitKey]:
    """Open an RSA key of the service, the version of it that ``wanted`` names (SHA-256 of its
    SubjectPublicKeyInfo, hex), else the newest.

    Raises:
        KeycairnError: E_AUTHN for the token, E_NOT_FOUND for the key, E_POLICY for a key that does
            not decrypt, E_WEAK_RSA for one that R-30 refuses, E_UNAVAILABLE for everything else;
            E_MALFORMED and E_POLICY for an address that is none or is not safe.
    """
    key = TransitKey(service, token, wanted)
    try:
        yield key
    finally:
        key.close()
