"""JSON over HTTP to one node: TLS settings, time-outs, strict answers, typed errors."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

from keycairn.client.connection import KeptConnections
from keycairn.encoding.strict import decode_json
from keycairn.errors import Abort, Certainty, Code, KeycairnError

#: An ERS document of a thousand keys and three parts is about 4 MB.
_MAX_ANSWER = 64 << 20
_CONNECT_SECONDS = 5.0
#: Longer than any session limit of a node's configuration in practice; the node answers first.
_ANSWER_SECONDS = 300.0
#: For what only reads: a process that hangs must not hold up whoever looks what is wrong.
_READ_SECONDS = 15.0

Self = TypeVar("Self", bound="JsonClient")


class JsonClient:
    """Base of the clients: sends JSON, gives back decoded objects, raises typed errors.

    Args:
        url: base URL, without a path.
        token: bearer token.
        index: the node's player index, named in errors.
        ca: PEM file with the only certificates that are trusted for https. A node's own
            self-signed certificate in this file is a pin. None: the system's roots.
        transport: replaces the network, for tests.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        index: int | None = None,
        ca: Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url
        self.index = index
        # No proxy out of the environment, no redirect: the key goes to this node only.
        headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
        self._kept: KeptConnections | None = None
        self._http: httpx.AsyncClient | None = None
        if transport is None:
            tls = _tls(ca) if url.startswith("https:") else None
            self._kept = KeptConnections(url, headers, tls, max_answer=_MAX_ANSWER)
        else:
            self._http = httpx.AsyncClient(
                base_url=url, headers=headers, trust_env=False, transport=transport
            )

    async def __aenter__(self: Self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._kept is not None:
            await self._kept.aclose()
        if self._http is not None:
            await self._http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str | int] | None = None,
        seconds: float | None = None,
        accept: frozenset[int] = frozenset(),
    ) -> dict[str, Any]:
        """One request; the answer's JSON object.

        Raises:
            KeycairnError: what the node answered, with its index; E_UNAVAILABLE when it can't be
                reached; E_PEER_TIMEOUT when it doesn't answer in time.
        """
        answer = await self.send(method, path, body, query=query, seconds=seconds)
        value = self._object(answer)
        if answer.status_code >= 400 and answer.status_code not in accept:
            raise error_from(value, self.index)
        return value

    async def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str | int] | None = None,
        seconds: float | None = None,
    ) -> httpx.Response:
        """One request; the raw answer, whatever its status."""
        if seconds is None:
            seconds = _READ_SECONDS if method == "GET" else _ANSWER_SECONDS
        try:
            # One limit for all steps together.
            async with asyncio.timeout(seconds):
                if self._kept is None:
                    return await self._by_httpx(method, path, body, query)
                return await self._kept.request(
                    method,
                    path,
                    query=query,
                    body=None if body is None else _json(body),
                    connect_seconds=min(seconds, _CONNECT_SECONDS),
                )
        except httpx.ConnectTimeout as exc:
            raise self._unreachable("it does not answer") from exc
        except (TimeoutError, httpx.TimeoutException) as exc:
            raise KeycairnError(
                Code.PEER_TIMEOUT,
                f"{self._name()} took the request and gave no answer in time",
                not_lost="It may still be at work; asking again with the same request id is safe.",
                next="keycairn vault status DIR; if its process hangs, stop and start that node",
                node=self.index,
            ) from exc
        except httpx.ConnectError as exc:
            raise self._unreachable(
                "the connection is refused, or its certificate is not trusted"
            ) from exc
        except httpx.HTTPError as exc:
            raise self._unreachable(f"the connection broke ({type(exc).__name__})") from exc

    async def _by_httpx(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, str | int] | None,
    ) -> httpx.Response:
        if self._http is None:
            raise RuntimeError("internal error: no way to the node")
        return await self._http.request(
            method,
            path,
            json=None if body is None else dict(body),
            params=None if query is None else dict(query),
            timeout=None,
        )

    def _object(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            value = decode_json(answer.content, max_bytes=_MAX_ANSWER, max_string=_MAX_ANSWER)
        except KeycairnError:
            value = None
        if not isinstance(value, dict):
            raise KeycairnError(
                Code.UNAVAILABLE,
                f"{self._name()} gave an answer that is not JSON (status {answer.status_code})",
                next="check that the URL is a keycairn node's",
                node=self.index,
            )
        return value

    def _name(self) -> str:
        return self.url if self.index is None else f"node {self.index} ({self.url})"

    def _unreachable(self, why: str) -> KeycairnError:
        return KeycairnError(
            Code.UNAVAILABLE,
            f"{self._name()} can't be reached: {why}",
            not_lost="Keys and shares are unchanged.",
            next="keycairn vault status DIR, or the node's log",
            node=self.index,
        )


def _json(body: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(body), separators=(",", ":"), allow_nan=False).encode()


def error_from(body: Mapping[str, Any], node: int | None) -> KeycairnError:
    """The error that a node reported; aborts stay aborts, so that their exit code is right."""
    error = KeycairnError.from_json(body)
    if error.node is None:
        error.node = node
    if "certainty" not in error.detail:
        return error
    try:
        certainty = Certainty(str(error.detail.get("certainty")))
    except ValueError:
        certainty = Certainty.NOBODY
    culprits = error.detail.get("culprits")
    abort = Abort(
        error.code,
        error.message,
        culprits=[c for c in culprits if type(c) is int] if isinstance(culprits, list) else (),
        certainty=certainty,
        not_lost=error.not_lost,
        next=error.next,
        detail=error.detail,
    )
    abort.node = error.node
    return abort


def _tls(ca: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError as exc:
        raise KeycairnError(
            Code.MALFORMED, f"the certificate file {ca} cannot be used: {exc.strerror}"
        ) from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
