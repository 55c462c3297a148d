"""Where recovery documents lie by the thousand: a directory, or a bucket that speaks S3.

Workers open a place by its text and read documents themselves, so that none passes through the
process that hands out the work.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from keycairn.backup.objects import ObjectTarget
from keycairn.errors import Code, KeycairnError
from keycairn.ers.bulk import Entry, look, unreadable
from keycairn.ers.document import MAX_JSON
from keycairn.ers.files import read_file

#: What a node's store and `ers create` suggest as a name begins so; other JSON is not a document.
_BEGIN = "ers-"


class Place(Protocol):
    """A place with documents."""

    def entries(self) -> Iterator[Entry]:
        """All documents, in an order that stays; E_NOT_FOUND, E_UNAVAILABLE."""

    def read(self, name: str) -> bytes:
        """One of them; KeycairnError if it can't be read."""


def is_document(name: str) -> bool:
    """Whether a file counts as a document: ``*.kcers``, ``*.cbor``, and ``ers-*.json``."""
    base = name.rpartition("/")[2]
    cbor = not base.startswith(".") and base.endswith((".kcers", ".cbor"))
    return cbor or (base.endswith(".json") and base.startswith(_BEGIN))


class Directory:
    """Documents below a directory; symbolic links are not followed."""

    def __init__(self, path: str) -> None:
        self._root = Path(path)
        if not self._root.is_dir():
            raise KeycairnError(Code.NOT_FOUND, f"there is no directory {path}")

    def entries(self) -> Iterator[Entry]:
        for folder, folders, files in os.walk(self._root, onerror=self._failed):
            folders.sort()
            for file in sorted(files):
                path = Path(folder, file)
                if is_document(file) and not path.is_symlink():
                    stat = path.stat()
                    name = str(path.relative_to(self._root))
                    yield Entry(name, stat.st_size, f"{stat.st_size}:{stat.st_mtime_ns}")

    @staticmethod
    def _failed(error: OSError) -> None:
        raise KeycairnError(
            Code.UNAVAILABLE, f"{error.filename} cannot be read: {error.strerror}"
        ) from error

    def read(self, name: str) -> bytes:
        return read_file(self._root / name, MAX_JSON)


class Bucket:
    """Documents under a prefix of a bucket: ``s3://bucket/prefix[?endpoint=URL&region=NAME]``."""

    def __init__(self, text: str) -> None:
        self._target = ObjectTarget.parse(text)
        try:
            boto3 = importlib.import_module("boto3")
            self._errors: Any = importlib.import_module("botocore.exceptions")
        except ImportError as exc:
            raise KeycairnError(
                Code.UNAVAILABLE,
                "a bucket needs the package boto3, which is not installed",
                next="pip install 'keycairn[cloud]'",
            ) from exc
        target = self._target
        self._client: Any = boto3.session.Session().client(
            "s3", endpoint_url=target.endpoint, region_name=target.region
        )
        self._prefix = f"{target.prefix}/" if target.prefix else ""

    def _unavailable(self, exc: Exception) -> KeycairnError:
        # By its code only: the text may hold what a proxy wrote.
        answer = getattr(exc, "response", {})
        why = answer.get("Error", {}).get("Code", type(exc).__name__)
        return KeycairnError(
            Code.UNAVAILABLE,
            f"the bucket {self._target.bucket} does not answer as it should: {why}",
            next="check the network, the bucket, and the credentials that boto3 finds",
        )

    def entries(self) -> Iterator[Entry]:
        pages = self._client.get_paginator("list_objects_v2")
        try:
            for page in pages.paginate(Bucket=self._target.bucket, Prefix=self._prefix):
                for item in page.get("Contents", ()):
                    if is_document(item["Key"]):
                        name = item["Key"].removeprefix(self._prefix)
                        yield Entry(name, item["Size"], item["ETag"])
        except (self._errors.BotoCoreError, self._errors.ClientError) as exc:
            raise self._unavailable(exc) from exc

    def read(self, name: str) -> bytes:
        try:
            found = self._client.get_object(Bucket=self._target.bucket, Key=self._prefix + name)
            data: bytes = found["Body"].read(MAX_JSON + 1)
        except (self._errors.BotoCoreError, self._errors.ClientError) as exc:
            raise self._unavailable(exc) from exc
        if len(data) > MAX_JSON:
            raise KeycairnError(Code.TOO_LARGE, f"{name} is larger than {MAX_JSON} bytes")
        return data


@lru_cache(maxsize=4)
def place(text: str) -> Place:
    """The place that ``--all`` names; one per process. E_MALFORMED, E_NOT_FOUND, E_UNAVAILABLE."""
    return Bucket(text) if text.startswith("s3://") else Directory(text)


def look_at(text: str, names: Sequence[str], spkis: Sequence[bytes]) -> list[dict[str, Any]]:
    """Read and verify some documents of a place: what runs in a worker, here or in a cluster."""
    found = []
    for name in names:
        try:
            data = place(text).read(name)
        except KeycairnError as exc:
            found.append(unreadable(exc))
        else:
            found.append(look(data, spkis))
    return found
