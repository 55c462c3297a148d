"""The node's ERS store: one file per document, ``<sha256>.kcers``, mode 0600."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from keycairn.errors import Code, KeycairnError
from keycairn.store.files import fsync_path, mark_of, unavailable, write_durably

_NAME = re.compile(r"[0-9a-f]{64}\Z")
_SUFFIX = ".kcers"


class DocumentDirectory:
    """Implements :class:`keycairn.vault.ports.DocumentStore` in a directory.

    The directory is made (mode 0700) on the first put. The calls block for a few disk accesses:
    from an event loop, use ``asyncio.to_thread`` for large documents.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def _file(self, sha256: str) -> Path:
        # Only a hash is a name: no path of a caller ever reaches the file system.
        if not isinstance(sha256, str) or not _NAME.match(sha256):
            raise KeycairnError(Code.MALFORMED, "a document's name is 64 lower-case hex digits")
        return self._path / (sha256 + _SUFFIX)

    def put(self, sha256: str, data: bytes) -> Path:
        target = self._file(sha256)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise KeycairnError(Code.MALFORMED, "the document has another hash than its name")
        try:
            if target.is_file() and target.read_bytes() == data:
                return target
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_durably(target, data)
        except OSError as exc:
            raise unavailable("the ERS store can't be written", exc) from exc
        return target

    def get(self, sha256: str) -> bytes:
        source = self._file(sha256)
        try:
            data = source.read_bytes()
        except FileNotFoundError as exc:
            raise KeycairnError(
                Code.NOT_FOUND,
                "this node holds no such document",
                not_lost="Documents at other nodes and copies elsewhere are unaffected.",
                detail={"sha256": sha256},
            ) from exc
        except OSError as exc:
            raise unavailable("the ERS store can't be read", exc) from exc
        if hashlib.sha256(data).hexdigest() != sha256:
            raise KeycairnError(
                Code.STORE_INTEGRITY,
                "a document in the ERS store is damaged",
                not_lost="Documents at other nodes and copies elsewhere are unaffected.",
                next="delete the file; the node fetches the document from a peer again",
                detail={"sha256": sha256},
            )
        return data

    def list(self) -> Sequence[str]:
        try:
            names = [p.name for p in self._path.iterdir()] if self._path.is_dir() else []
        except OSError as exc:
            raise unavailable("the ERS store can't be read", exc) from exc
        stems = [n.removesuffix(_SUFFIX) for n in names if n.endswith(_SUFFIX)]
        return sorted(s for s in stems if _NAME.match(s))

    def marks(self) -> Mapping[str, tuple[int, ...]]:
        try:
            with os.scandir(self._path) as entries:
                return {
                    e.name.removesuffix(_SUFFIX): mark_of(e.stat(follow_symlinks=False))
                    for e in entries
                    if e.name.endswith(_SUFFIX)
                }
        except FileNotFoundError:
            return {}
        except OSError as exc:
            raise unavailable("the ERS store can't be read", exc) from exc

    def delete(self, sha256: str) -> None:
        target = self._file(sha256)
        try:
            target.unlink(missing_ok=True)
            if self._path.is_dir():
                fsync_path(self._path)
        except OSError as exc:
            raise unavailable("the ERS store can't be written", exc) from exc
