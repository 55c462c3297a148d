"""The bundle file: magic line, manifest, signature, payload (docs/bundle-format.md).

Reading goes from the outside in and stops at the first doubt: magic, signature over the raw
manifest bytes, manifest, sizes, hash of the payload. Only then is anything decrypted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from keycairn.backup import age
from keycairn.backup.archive import ArchiveReader, Sink
from keycairn.backup.disk import CHUNK, disk_errors, forget_cache, open_regular
from keycairn.backup.manifest import (
    FORMAT,
    FORMATS,
    MAX_MANIFEST,
    Manifest,
    Part,
    check_signature,
)
from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError

MAGIC = b"keycairn-bundle %d\n" % FORMAT
_MAGICS = {b"keycairn-bundle %d\n" % number: number for number in FORMATS}
SIGNATURE = 64
_LENGTH = 4
_LINE = re.compile(rb"keycairn-bundle ([0-9]{1,6})\n")


@dataclass(frozen=True)
class Bundle:
    """A bundle file whose header was read. ``manifest_bytes`` are the bytes that were signed."""

    path: Path
    manifest: Manifest
    manifest_bytes: bytes
    signature: bytes
    payload_offset: int


def write_header(out: BinaryIO, manifest: bytes, signature: bytes) -> None:
    """Everything that stands before the payload."""
    if len(manifest) > MAX_MANIFEST or len(signature) != SIGNATURE:
        raise KeycairnError(Code.TOO_LARGE, "the manifest is too large for a bundle")
    out.write(MAGIC + len(manifest).to_bytes(_LENGTH, "big") + manifest + signature)


def damaged(why: str) -> NoReturn:
    """Raise E_STORE_INTEGRITY for a bundle that isn't what was written."""
    raise KeycairnError(
        Code.STORE_INTEGRITY,
        f"the bundle is damaged: {why}",
        not_lost="The bundle was not changed; nothing was written.",
        next="use another copy of this bundle, or an older bundle of this node",
    )


def _exactly(source: BinaryIO, size: int, what: str) -> bytes:
    data = source.read(size)
    if len(data) != size:
        damaged(f"it ends inside {what}")
    return data


def _read_magic(source: BinaryIO) -> int:
    """The format's number."""
    start = source.read(len(MAGIC))
    if start in _MAGICS:
        return _MAGICS[start]
    if len(start) < len(MAGIC) and start and any(m.startswith(start) for m in _MAGICS):
        damaged("it ends inside its first line")
    found = _LINE.match(start + source.read(8))
    if found and int(found.group(1)) > FORMAT:
        raise KeycairnError(
            Code.MALFORMED,
            f"the bundle has format {int(found.group(1))}; this keycairn reads up to {FORMAT}",
            not_lost="The bundle was not changed; nothing was written.",
            next="use the keycairn version that made the bundle, or a newer one",
        )
    raise KeycairnError(
        Code.MALFORMED,
        "this is not a keycairn bundle",
        not_lost="The file was not changed; nothing was written.",
        next="give the path of a file keycairn-<vault>-node<i>-….bundle",
    )


def read_bundle(path: Path, *, node_public_key: bytes | None = None) -> Bundle:
    """Read and check the header: magic, manifest, signature, and the size of the whole file.

    Args:
        path: the stored file.
        node_public_key: 32-byte Ed25519 key that must have signed; None takes the manifest's own
            word for it, which shows damage but not who made the bundle.

    Raises:
        KeycairnError: E_UNAVAILABLE (can't be read), E_MALFORMED (no bundle, newer format),
            E_STORE_INTEGRITY (damaged), E_CONFLICT (signed by another node's key).
    """
    with disk_errors(f"{path} can't be read"), open_regular(path) as source:
        number = _read_magic(source)
        length = int.from_bytes(_exactly(source, _LENGTH, "its header"), "big")
        if length > MAX_MANIFEST:
            damaged("its manifest has an impossible length")
        raw = _exactly(source, length, "its manifest")
        signature = _exactly(source, SIGNATURE, "its signature")
        offset = source.tell()
        size = source.seek(0, 2)
    try:
        manifest = Manifest.from_bytes(raw)
    except KeycairnError as exc:
        damaged(f"its manifest can't be read ({exc.message})")
    if manifest.format != number:
        damaged("its first line and its manifest name different formats")
    if node_public_key is not None and manifest.node_public_key != node_public_key:
        raise KeycairnError(
            Code.CONFLICT,
            f"this is a bundle of node {manifest.node} of vault {manifest.vault} "
            f"(key {manifest.node_public_key.hex()}), not of the node that was expected",
            not_lost="Nothing was written.",
            next="use a bundle of this node; the node's number stands in the file's name",
            detail={"node": manifest.node, "vault": manifest.vault},
        )
    check_signature(raw, signature, manifest.node_public_key, number)
    if size != offset + manifest.payload_size:
        missing = offset + manifest.payload_size - size
        damaged(f"{missing} bytes are missing" if missing > 0 else f"{-missing} bytes too many")
    return Bundle(path, manifest, raw, signature, offset)


def read_manifest(path: Path) -> Manifest:
    """The manifest, its signature checked against its own key (:func:`read_bundle`)."""
    return read_bundle(path).manifest


def check_hashes(bundle: Bundle) -> str:
    """Read the whole stored file back; compare the payload's hash with the manifest.

    Returns:
        SHA-256 of the whole file, hex.

    Raises:
        KeycairnError: E_STORE_INTEGRITY, E_UNAVAILABLE.
    """
    whole, payload = hashlib.sha256(), hashlib.sha256()
    with disk_errors(f"{bundle.path} can't be read"), open_regular(bundle.path) as source:
        forget_cache(source)
        whole.update(_exactly(source, bundle.payload_offset, "its header"))
        while chunk := source.read(CHUNK):
            whole.update(chunk)
            payload.update(chunk)
    if payload.digest() != bundle.manifest.payload_sha256:
        damaged("its payload has another hash than its manifest says")
    return whole.hexdigest()


class _Payload:
    """The encrypted payload as a stream."""

    def __init__(self, source: BinaryIO, offset: int) -> None:
        self._source = source
        source.seek(offset)

    def read(self, size: int) -> bytes:
        return self._source.read(size)


def unpack(bundle: Bundle, identity: SecretBytes, sink: Callable[[Part], Sink | None]) -> None:
    """Decrypt the payload and check every byte of it against the manifest.

    Args:
        bundle: with its header checked.
        identity: content of an age identity file.
        sink: where the content of each part goes; None only checks it. A sink may have received
            bytes when this raises: nothing of it counts until this returns.

    Raises:
        KeycairnError: E_MALFORMED (identity file), E_UNWRAP_FAILED (another identity, or
            damaged), E_STORE_INTEGRITY (not what the manifest says), E_UNAVAILABLE.
    """
    reader = ArchiveReader(bundle.manifest.parts, sink)
    with disk_errors(f"{bundle.path} can't be unpacked"), open_regular(bundle.path) as source:
        try:
            age.decrypt(_Payload(source, bundle.payload_offset), reader, identity)
        except KeycairnError as exc:
            if exc.code is Code.UNWRAP_FAILED:
                names = " or ".join(bundle.manifest.recipients)
                exc.next = f"use the age identity of {names} (`age-keygen -y FILE` prints a file's)"
            raise
    reader.finish()
