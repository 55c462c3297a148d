"""Object stores that speak S3, by way of boto3 (the extra ``keycairn[cloud]``).

A target reads ``s3://bucket/prefix``, with ``?endpoint=https://host:port`` for any store that has
an address of its own, and ``&region=…``. Credentials are never part of it: boto3 finds them in the
environment, in its own files, or asks the machine.

An object appears when its upload is complete, and not before, so a bundle is there whole or not at
all. Uploads that were cut off are never listed; the next backup removes them.
"""

from __future__ import annotations

import importlib
import ipaddress
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from keycairn.backup.disk import create_private, disk_errors, sync
from keycairn.backup.targets import SUFFIX, Gone, Mark
from keycairn.errors import Code, KeycairnError, malformed

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")
_PREFIX = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*\Z")
_REGION = re.compile(r"[a-z0-9-]{1,40}\Z")
_KEPT = "No bundle was written; older bundles and the node itself are untouched."
_MISSING = ("404", "NoSuchKey", "NotFound")
_SECONDS = 60


@dataclass(frozen=True)
class ObjectTarget:
    """A bucket and a prefix in it."""

    bucket: str
    prefix: str
    endpoint: str | None = None
    region: str | None = None

    # Every look is a request that somebody pays for.
    look_seconds = 3600.0
    read_seconds = 86400.0

    @classmethod
    def parse(cls, text: str) -> ObjectTarget:
        """Read a target.

        Raises:
            KeycairnError: E_MALFORMED; E_POLICY for an endpoint without TLS that isn't on this
                machine.
        """
        url = urlsplit(text)
        parameters = dict(parse_qsl(url.query, keep_blank_values=True, strict_parsing=False))
        prefix = url.path.strip("/")
        good = url.scheme == "s3" and bool(_BUCKET.match(url.netloc)) and not url.fragment
        good = good and (not prefix or bool(_PREFIX.match(prefix)))
        if not good or not set(parameters) <= {"endpoint", "region"}:
            raise malformed(
                f"[backup] targets: {text!r} is not s3://bucket/prefix[?endpoint=URL&region=NAME]"
            )
        endpoint, region = parameters.get("endpoint"), parameters.get("region")
        if endpoint is not None:
            _check_endpoint(endpoint)
        if region is not None and not _REGION.match(region):
            raise malformed("[backup] targets: the region of an object store is a plain name")
        return cls(url.netloc, prefix, endpoint, region)

    @classmethod
    def holding(cls, location: str) -> ObjectTarget:
        """The target of a location."""
        before, mark, query = location.partition("?")
        return cls.parse(before.rpartition("/")[0] + mark + query)

    @property
    def place(self) -> str:
        return f"s3://{self._path('')}".rstrip("/") + self._query()

    def _path(self, name: str) -> str:
        return "/".join(filter(None, (self.bucket, self.prefix, name)))

    def _key(self, name: str) -> str:
        return "/".join(filter(None, (self.prefix, name)))

    def _query(self) -> str:
        found = {"endpoint": self.endpoint, "region": self.region}
        given = {key: value for key, value in found.items() if value is not None}
        return "?" + urlencode(given, safe=":/", quote_via=quote) if given else ""

    def location(self, name: str) -> str:
        return f"s3://{self._path(name)}{self._query()}"

    def holds(self, location: str) -> bool:
        return location.startswith("s3://") and ObjectTarget.holding(location) == self

    def _name(self, location: str) -> str:
        name = location.partition("?")[0].rpartition("/")[2]
        if self.location(name) != location:
            raise malformed(f"{location} is not in {self.place}")
        return name

    # -- requests

    def _client(self) -> Any:
        try:
            boto3 = importlib.import_module("boto3")
            config = importlib.import_module("botocore.config")
        except ImportError as exc:
            raise KeycairnError(
                Code.UNAVAILABLE,
                f"the backup target {self.place} needs the package boto3, which is not installed",
                not_lost=_KEPT,
                next="pip install 'keycairn[cloud]'",
            ) from exc
        with self._errors("can't be used"):
            return boto3.session.Session().client(
                "s3",
                endpoint_url=self.endpoint,
                region_name=self.region,
                config=config.Config(
                    connect_timeout=10,
                    read_timeout=_SECONDS,
                    retries={"max_attempts": 3, "mode": "standard"},
                ),
            )

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """boto3's errors, by their code: their text may hold what a proxy wrote."""
        core = importlib.import_module("botocore.exceptions")
        upper = importlib.import_module("boto3.exceptions")
        try:
            yield
        except core.ClientError as exc:
            code = str(exc.response.get("Error", {}).get("Code", "unknown"))
            if code in _MISSING:
                raise Gone from exc
            raise self._unavailable(what, code[:64]) from exc
        except (core.BotoCoreError, core.HTTPClientError, upper.Boto3Error) as exc:
            raise self._unavailable(what, type(exc).__name__) from exc

    def _unavailable(self, what: str, why: str) -> KeycairnError:
        return KeycairnError(
            Code.UNAVAILABLE,
            f"the backup target {self.place} {what}: {why}",
            not_lost=_KEPT,
            next="check the network, the bucket, and the credentials that boto3 finds",
            detail={"target": self.place, "why": why},
        )

    def check(self) -> None:
        client = self._client()
        try:
            with self._errors("is not there or refuses"):
                client.head_bucket(Bucket=self.bucket)
        except Gone:
            raise self._unavailable("is not there", "NoSuchBucket") from None

    def workspace(self, scratch: Path) -> Path:
        return scratch

    def clear(self, stem: str) -> None:
        # Not worth a failed backup: nothing of a cut-off upload is ever listed as an object.
        client = self._client()
        with suppress(KeycairnError, Gone), self._errors("can't be cleared"):
            found = client.list_multipart_uploads(Bucket=self.bucket, Prefix=self._key(stem))
            for upload in found.get("Uploads", ()):
                client.abort_multipart_upload(
                    Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                )

    def publish(self, whole: Path, name: str) -> str:
        location = self.location(name)
        client = self._client()
        try:
            self.look(location)
        except Gone:
            pass
        else:
            raise KeycairnError(Code.CONFLICT, f"{location} exists already", not_lost=_KEPT)
        try:
            # Large files go up in parts; the object is there when the last one is acknowledged.
            with self._errors("can't be written"), disk_errors(f"{whole} can't be read"):
                client.upload_file(str(whole), self.bucket, self._key(name))
        except Gone:
            raise self._unavailable("can't be written", "NoSuchBucket") from None
        return location

    def names(self) -> list[str]:
        return sorted(n for n in self.all_names() if n.endswith(SUFFIX))

    def all_names(self) -> list[str]:
        """Names of everything directly below the prefix."""
        self.check()
        client = self._client()
        start = f"{self.prefix}/" if self.prefix else ""
        found: list[str] = []
        with self._errors("can't be listed"):
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=start, Delimiter="/"
            )
            for page in pages:
                found += [item["Key"][len(start) :] for item in page.get("Contents", ())]
        return found

    def remove(self, location: str) -> None:
        client = self._client()
        with suppress(Gone), self._errors("can't be changed"):
            client.delete_object(Bucket=self.bucket, Key=self._key(self._name(location)))

    def look(self, location: str) -> Mark:
        client = self._client()
        key = self._key(self._name(location))
        try:
            with self._errors("can't be looked at"):
                found = client.head_object(Bucket=self.bucket, Key=key)
        except Gone:
            self.check()  # A bucket that isn't there says nothing of its objects.
            raise
        return (found.get("ETag"), found.get("ContentLength"), str(found.get("LastModified")))

    def copy(self, location: str, scratch: Path) -> Path:
        client = self._client()
        name = self._name(location)
        path = scratch / "stored.bundle"
        with disk_errors("the copy of a stored bundle can't be written"):
            path.unlink(missing_ok=True)
            with create_private(path) as out:
                with self._errors("can't be read"):
                    client.download_fileobj(self.bucket, self._key(name), out)
                sync(out)
        return path


def _check_endpoint(endpoint: str) -> None:
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.hostname or url.path.strip("/") or url.query:
        raise malformed("[backup] targets: an endpoint is https://host or https://host:port")
    if url.username or url.password:
        raise KeycairnError(
            Code.POLICY,
            "[backup] targets: credentials must not stand in an endpoint",
            next="give them to boto3: its environment variables or its credentials file",
        )
    if url.scheme == "http" and not _loopback(url.hostname):
        raise KeycairnError(
            Code.POLICY,
            f"[backup] targets: the endpoint {endpoint} has no TLS",
            next="use https://; http:// is for this machine only",
        )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
