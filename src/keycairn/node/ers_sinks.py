"""Where a node sends its recovery documents: directories, object stores, web-hooks.

Every booked document goes to every sink of ``[ers] sinks``, as CBOR under the name
``<sha256>.kcers``. What a directory or an object store took is read back from there, and again on a
schedule; a web-hook's word is all that there is. A sink that fails is asked again, later each time,
and is an alarm until it took everything.

No document goes to a directory or a prefix where a private key lies that may open it.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx

from keycairn.backup.disk import create_private, scratch_directory, sync
from keycairn.backup.nodefile import is_object_store
from keycairn.backup.objects import ObjectTarget
from keycairn.backup.targets import DirectoryTarget, Gone
from keycairn.encoding.strict import decode_json
from keycairn.errors import Code, KeycairnError, malformed
from keycairn.ers.beside import (
    MAX_KEY_FILE,
    PrivateKeyFile,
    meeting,
    private_key_in,
    private_keys_in,
    refuse_beside_private_key,
)
from keycairn.store.files import write_durably

SUFFIX = ".kcers"
_FIRST_RETRY, _LAST_RETRY = 30.0, 3600.0
_HOOK_SECONDS = 30.0
_MAX_ANSWER = 64 << 10
_KEY_NAMES = (".pem", ".key", ".p8", ".pk8", ".der", ".pkcs8")
_KEPT = "The document is in the node's own store, and at its peers."


class Sink(Protocol):
    """One place for documents. All methods block.

    Attributes:
        kind: "directory", "objects" or "webhook".
        place: how messages call it; never with a secret.
        readable: whether what was delivered can be read back.
    """

    kind: str
    place: str
    readable: bool

    def deliver(self, sha256: str, data: bytes, spki_sha256: str) -> None:
        """Store a document, unless it is there. E_POLICY beside a private key, E_UNAVAILABLE."""
        ...

    def fetch(self, sha256: str) -> bytes:
        """Read a document back. Raises Gone; E_UNAVAILABLE when nobody can tell."""
        ...

    def private_keys(self) -> Iterator[PrivateKeyFile]:
        """RSA private keys that lie there."""
        ...


def sink_of(text: str, home: Path, token_file: Path | None = None) -> Sink:
    """The sink that an entry of ``[ers] sinks`` names.

    Raises:
        KeycairnError: E_MALFORMED; E_POLICY for an address without TLS that isn't on this machine,
            or with credentials in it.
    """
    if is_object_store(text):
        return ObjectSink(ObjectTarget.parse(text))
    if "://" in text:
        return HookSink.parse(text, token_file)
    return DirectorySink(home / text)


class DirectorySink:
    """A directory, which is never made here: a missing one isn't mounted."""

    kind = "directory"
    readable = True

    def __init__(self, path: Path) -> None:
        self._target = DirectoryTarget(path)
        self.path = path
        self.place = str(path)

    def deliver(self, sha256: str, data: bytes, spki_sha256: str) -> None:
        with _named(self.place):
            self._target.check()
            refuse_beside_private_key(self.path, spki_sha256)
            if _lies_there(self, sha256):
                return
            # Another node may be bringing the same document to the same place.
            whole = self.path / f".{sha256}.{os.getpid()}.tmp"
            try:
                whole.unlink(missing_ok=True)
                with create_private(whole) as out:
                    out.write(data)
                    sync(out)
                _publish(self._target, whole, sha256)
            except OSError as exc:
                raise KeycairnError(
                    Code.UNAVAILABLE,
                    f"can't be written: {exc.strerror or 'output error'}",
                    not_lost=_KEPT,
                    next="see that it is mounted, writable and not full",
                ) from exc
            finally:
                whole.unlink(missing_ok=True)

    def fetch(self, sha256: str) -> bytes:
        with _named(self.place):
            path = Path(self._target.location(sha256 + SUFFIX))
            self._target.look(str(path))
            try:
                return path.read_bytes()
            except OSError as exc:
                raise KeycairnError(
                    Code.UNAVAILABLE, f"can't be read: {exc.strerror or 'input error'}"
                ) from exc

    def private_keys(self) -> Iterator[PrivateKeyFile]:
        return private_keys_in(self.path)


class _Documents(ObjectTarget):
    """A bucket's prefix, seen as a place for documents."""

    def _client(self) -> Any:
        # Making one costs half a second of CPU, and documents come one by one.
        return _client_of(self)

    def new_client(self) -> Any:
        """A client of its own."""
        return super()._client()


@lru_cache(maxsize=16)
def _client_of(target: _Documents) -> Any:
    return target.new_client()


class ObjectSink:
    """A bucket and a prefix in an object store."""

    kind = "objects"
    readable = True

    def __init__(self, target: ObjectTarget) -> None:
        self._target = _Documents(target.bucket, target.prefix, target.endpoint, target.region)
        self.place = target.place

    def deliver(self, sha256: str, data: bytes, spki_sha256: str) -> None:
        with _named(self.place), scratch_directory(None, "keycairn-sink-") as scratch:
            for found in self.private_keys():
                if found.may_open({spki_sha256}):
                    raise meeting(found, Path(self.place))
            if _lies_there(self, sha256):
                return
            whole = scratch / "document"
            with create_private(whole) as out:
                out.write(data)
            _publish(self._target, whole, sha256)

    def fetch(self, sha256: str) -> bytes:
        with _named(self.place):
            location = self._target.location(sha256 + SUFFIX)
            self._target.look(location)
            with scratch_directory(None, "keycairn-sink-") as scratch:
                return self._target.copy(location, scratch).read_bytes()

    def private_keys(self) -> Iterator[PrivateKeyFile]:
        named = [n for n in self._target.all_names() if n.lower().endswith(_KEY_NAMES)]
        for name in named:
            with scratch_directory(None, "keycairn-sink-") as scratch:
                data = self._target.copy(self._target.location(name), scratch).read_bytes()
            found, spki = private_key_in(data[:MAX_KEY_FILE])
            if found:
                yield PrivateKeyFile(Path(name), spki)


class HookSink:
    """An HTTPS address that takes documents by POST.

    The body is the document (CBOR). ``Content-Digest`` (RFC 9530) and ``Keycairn-Sha256`` name its
    hash; the same document may come more than once. Any 2xx answer is a receipt; one whose JSON
    body has ``sha256`` is held to it.
    """

    kind = "webhook"
    readable = False

    def __init__(self, url: str, token_file: Path | None) -> None:
        self._url = url
        self._token_file = token_file
        parts = urlsplit(url)
        # The path may be a secret of its own.
        self.place = f"{parts.scheme}://{parts.netloc}/…"

    @classmethod
    def parse(cls, text: str, token_file: Path | None) -> HookSink:
        url = urlsplit(text)
        if url.scheme not in ("http", "https") or not url.hostname or url.fragment:
            raise malformed(
                "[ers] sinks: a sink is a directory, s3://bucket/prefix or https://host/path"
            )
        if url.username or url.password:
            raise KeycairnError(
                Code.POLICY,
                "[ers] sinks: credentials must not stand in a web-hook's address",
                next="put a bearer token into a file and name it as [ers] sink_token_file",
            )
        if url.scheme == "http" and not _loopback(url.hostname):
            raise KeycairnError(
                Code.POLICY,
                f"[ers] sinks: the web-hook at {url.hostname} has no TLS",
                next="use https://; http:// is for this machine only",
            )
        return cls(text, token_file)

    def deliver(self, sha256: str, data: bytes, spki_sha256: str) -> None:
        digest = base64.b64encode(bytes.fromhex(sha256)).decode()
        headers = {
            "Content-Type": "application/cbor",
            "Content-Digest": f"sha-256=:{digest}:",
            "Keycairn-Sha256": sha256,
            "Keycairn-Rsa": spki_sha256,
        }
        if self._token_file is not None:
            headers["Authorization"] = f"Bearer {self._token()}"
        try:
            with (
                httpx.Client(
                    trust_env=False, follow_redirects=False, timeout=_HOOK_SECONDS
                ) as client,
                client.stream("POST", self._url, content=data, headers=headers) as answer,
            ):
                status, body = answer.status_code, b""
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > _MAX_ANSWER:
                        body = b""
                        break
        except httpx.HTTPError as exc:
            raise self._failed(type(exc).__name__) from exc
        if not 200 <= status < 300:
            raise self._failed(f"status {status}")
        self._hold_to(body, sha256)

    def _hold_to(self, body: bytes, sha256: str) -> None:
        try:
            value = decode_json(body) if body else None
        except KeycairnError:
            return  # It needn't answer in JSON.
        said = value.get("sha256") if isinstance(value, dict) else None
        if said is not None and said != sha256:
            raise self._failed("it took another document than was sent")

    def _token(self) -> str:
        if self._token_file is None:
            return ""
        try:
            return self._token_file.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise KeycairnError(
                Code.UNAVAILABLE,
                f"the ERS sink {self.place}: {self._token_file} can't be read",
                not_lost=_KEPT,
                next="correct [ers] sink_token_file",
            ) from exc

    def _failed(self, why: str) -> KeycairnError:
        return KeycairnError(
            Code.UNAVAILABLE,
            f"the ERS sink {self.place} did not take a document: {why}",
            not_lost=_KEPT,
            next="see the receiver's log; it is tried again by itself",
            detail={"sink": self.place, "why": why},
        )

    def fetch(self, sha256: str) -> bytes:
        raise Gone

    def private_keys(self) -> Iterator[PrivateKeyFile]:
        return iter(())


class _named:
    """Errors of a target, told as those of an ERS sink."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, KeycairnError) or error.code is Code.POLICY:
            return
        raise KeycairnError(
            error.code,
            f"the ERS sink {self._place}: {error.message.replace('the backup target', '').strip()}",
            not_lost=_KEPT,
            next=error.next.replace("[backup] targets", "[ers] sinks"),
            detail={"sink": self._place},
        ) from error


def _lies_there(sink: Sink, sha256: str) -> bool:
    """Whether a document is there already, whole: another node may have brought it."""
    try:
        return hashlib.sha256(sink.fetch(sha256)).hexdigest() == sha256
    except (Gone, KeycairnError):
        return False


def _publish(target: DirectoryTarget | ObjectTarget, whole: Path, sha256: str) -> None:
    """Put a file in the place of a missing or damaged one."""
    name = sha256 + SUFFIX
    try:
        target.publish(whole, name)
    except KeycairnError as exc:
        if exc.code is not Code.CONFLICT:
            raise
        target.remove(target.location(name))
        target.publish(whole, name)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# -- receipts ------------------------------------------------------------------------------------


@dataclass
class Receipt:
    """When a document was delivered, and when it was last read back; microseconds."""

    delivered_us: int
    checked_us: int


@dataclass
class SinkState:
    """What a node knows of one of its sinks."""

    sink: Sink
    receipts: dict[str, Receipt] = field(default_factory=dict)
    waiting: int = 0
    failures: int = 0  # in a row
    failures_total: int = 0
    lost_total: int = 0
    not_before: float = 0.0  # monotonic
    error: KeycairnError | None = None

    def failed(self, error: KeycairnError, now: float) -> None:
        """Note a failure; the next attempt comes later each time."""
        self.error = error
        self.not_before = now + min(_LAST_RETRY, _FIRST_RETRY * 2 ** min(self.failures, 10))
        self.failures += 1
        self.failures_total += 1

    def succeeded(self) -> None:
        """Note that everything was taken."""
        self.error, self.failures, self.not_before = None, 0, 0.0

    def oldest_check_us(self) -> int | None:
        """When the document that was not looked at for longest was; None without any."""
        return min((r.checked_us for r in self.receipts.values()), default=None)


class ReceiptBook:
    """Receipts in a file beside the database. If it is lost, everything is delivered again, which
    changes nothing where it is."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, states: list[SinkState]) -> None:
        """Read the receipts of these sinks; what can't be read counts as not delivered."""
        try:
            body = json.loads(self._path.read_bytes())
            for state in states:
                for sha256, (delivered, checked) in body.get(_name(state.sink), {}).items():
                    state.receipts[sha256] = Receipt(int(delivered), int(checked))
        except (OSError, ValueError, TypeError, AttributeError):
            return

    def save(self, states: list[SinkState]) -> None:
        """Write all receipts durably. E_UNAVAILABLE."""
        body = {
            _name(s.sink): {
                sha256: [r.delivered_us, r.checked_us] for sha256, r in sorted(s.receipts.items())
            }
            for s in states
        }
        try:
            write_durably(self._path, json.dumps(body).encode())
        except OSError as exc:
            raise KeycairnError(
                Code.UNAVAILABLE, f"receipts of ERS sinks can't be written to {self._path}"
            ) from exc


def _name(sink: Sink) -> str:
    """A name that tells two web-hooks on one host apart without telling their paths."""
    full = getattr(sink, "_url", sink.place)
    return f"{sink.kind}-{hashlib.sha256(full.encode()).hexdigest()[:32]}"
