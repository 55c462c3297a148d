"""HTTP listeners on sockets of our own, so that a port in use is a clear error before anything."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from keycairn.errors import Code, KeycairnError
from keycairn.node.config import Address, Api

_BACKLOG = 256
#: Requests that run when the node is told to stop get this long.
GRACE_SECONDS = 5


class _Server(uvicorn.Server):
    """A server that leaves signals to the daemon."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(address: Address, section: str, node: int) -> socket.socket:
    """A bound socket.

    Raises:
        KeycairnError: E_UNAVAILABLE naming the port when it is in use or can't be had.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # Named explicitly: asyncio switches Nagle's algorithm off only for sockets that say TCP, and
    # with it on every answer waits 40 ms for the client's delayed acknowledgement.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address.host, address.port))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError as exc:
        sock.close()
        used = exc.errno == errno.EADDRINUSE
        why = "is in use by another process" if used else f"can't be had: {exc.strerror}"
        raise KeycairnError(
            Code.UNAVAILABLE,
            f"port {address.port} of {address.host}, [{section}] listen, {why}",
            not_lost="The node did not start; nothing was changed.",
            next=f"stop what uses port {address.port}, or change [{section}] listen in node.toml",
            node=node,
            detail={"port": address.port, "section": section},
        ) from exc
    return sock


class _OnePiece(asyncio.Transport):
    """A transport that writes what one step of the loop gave it at once: an answer's head and body
    are one packet and one system call, not two."""

    def __init__(self, inner: asyncio.Transport) -> None:
        super().__init__()
        self._inner = inner
        self._waiting: list[bytes | bytearray | memoryview] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(data)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting and not self._inner.is_closing():
            self._inner.write(b"".join(waiting))

    def close(self) -> None:
        self._flush()
        self._inner.close()

    def abort(self) -> None:
        self._waiting.clear()
        self._inner.abort()

    def is_closing(self) -> bool:
        return self._inner.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._inner.get_extra_info(name, default)

    def pause_reading(self) -> None:
        self._inner.pause_reading()

    def resume_reading(self) -> None:
        self._inner.resume_reading()


class _Protocol(H11Protocol):
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_OnePiece(transport))


class Listener:
    """One uvicorn server on one socket."""

    def __init__(self, app: ASGIApp, sock: socket.socket, api: Api | None = None) -> None:
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            ws="none",
            http=_Protocol,
            h11_max_incomplete_event_size=16 << 10,
            timeout_graceful_shutdown=GRACE_SECONDS,
            ssl_certfile=None if api is None else api.tls_cert,
            ssl_keyfile=None if api is None or api.tls_key is None else str(api.tls_key),
        )
        _load(config)
        self._server = _Server(config)
        self._sock = sock
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to answer."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._sock]))
        while not self._server.started:
            if self._task.done():
                await self._task
                raise KeycairnError(Code.UNAVAILABLE, "an HTTP listener ended at its start")
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Take no new connections, let running requests end, close."""
        if self._task is None:
            self._sock.close()
            return
        self._server.should_exit = True
        await asyncio.wait([self._task])


def _load(config: uvicorn.Config) -> None:
    try:
        config.load()
    except (OSError, ssl.SSLError) as exc:
        raise KeycairnError(
            Code.MALFORMED,
            "the files of [api] tls_cert and tls_key are not a certificate and its key",
            not_lost="The node did not start; nothing was changed.",
            next="check both files (PEM), and that the key belongs to the certificate",
        ) from exc
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
