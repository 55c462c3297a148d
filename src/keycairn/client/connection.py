"""HTTP/1.1 to one node over connections that are kept: a transport for httpx, on h11 and asyncio.

A signature costs its client a request to each signer, so what a request costs is part of how fast
a vault signs. A request leaves in one piece, headers and body (half the packets, and the node reads
once); between requests nothing is done. There are no redirects, proxies, cookies or HTTP/2 here.

A request is never sent twice: what an interrupted one may have done is for its caller to ask
about, with the same request id.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import h11
import httpx

#: Nodes close a connection that was idle for 5 s; one that may just be closing isn't used.
_IDLE_SECONDS = 4.0
_MAX_IDLE = 16
_READ = 64 << 10
_MAX_HEAD = 64 << 10


class KeptConnections(httpx.AsyncBaseTransport):
    """Connections to one node.

    Args:
        tls: for https; None for http.
        max_answer: largest answer in bytes.
    """

    def __init__(self, tls: ssl.SSLContext | None, *, max_answer: int) -> None:
        self._tls = tls
        self._max_answer = max_answer
        self._idle: list[_Connection] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = b"".join([part async for part in _parts(request)])
        connection = self._take() or await self._open(request)
        try:
            with _as_httpx(request):
                response = await connection.exchange(request, body, self._max_answer)
        except BaseException:
            # A time-out among them: what comes later must not be taken for another's answer.
            connection.close()
            raise
        if connection.reusable and len(self._idle) < _MAX_IDLE:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.close()
        return response

    async def aclose(self) -> None:
        while self._idle:
            connection = self._idle.pop()
            connection.close()
            await connection.closed()

    def _take(self) -> _Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            if connection.fresh and now - connection.idle_since < _IDLE_SECONDS:
                return connection
            connection.close()
        return None

    async def _open(self, request: httpx.Request) -> _Connection:
        url = request.url
        secure = url.scheme == "https"
        seconds = request.extensions.get("timeout", {}).get("connect")
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_connection(
                    url.host,
                    url.port or (443 if secure else 80),
                    ssl=self._tls if secure else None,
                )
        except TimeoutError as exc:
            raise httpx.ConnectTimeout("no connection in time", request=request) from exc
        except (OSError, ssl.SSLError) as exc:
            raise httpx.ConnectError(str(exc), request=request) from exc
        return _Connection(reader, writer)


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        self.idle_since = 0.0
        self.reusable = False

    @property
    def fresh(self) -> bool:
        """Whether the node has neither closed it nor said anything unasked."""
        return not (
            self._reader.at_eof() or self._writer.is_closing() or self._h11.trailing_data[0]
        )

    async def exchange(
        self, request: httpx.Request, body: bytes, max_answer: int
    ) -> httpx.Response:
        self.reusable = False
        head = h11.Request(
            method=request.method, target=request.url.raw_path, headers=request.headers.raw
        )
        pieces = [self._h11.send(head)]
        if body:
            pieces.append(self._h11.send(h11.Data(data=body)))
        pieces.append(self._h11.send(h11.EndOfMessage()))
        # A node that refuses a body answers before it has read it, and closes: hear the answer.
        with suppress(ConnectionError):
            self._writer.write(b"".join(piece for piece in pieces if piece))
            await self._writer.drain()
        answer = await self._answer()
        data = bytearray()
        while True:
            event = await self._event()
            if isinstance(event, h11.Data):
                data += event.data
                if len(data) > max_answer:
                    raise httpx.RemoteProtocolError("the answer is too large", request=request)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                raise httpx.RemoteProtocolError("the answer broke off", request=request)
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self.reusable = True
        return httpx.Response(
            answer.status_code, headers=answer.headers.raw_items(), content=bytes(data)
        )

    async def _answer(self) -> h11.Response:
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse):
                raise h11.RemoteProtocolError("the connection was closed before an answer")

    async def _event(self) -> object:
        while True:
            event = self._h11.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._h11.receive_data(await self._reader.read(_READ))

    def close(self) -> None:
        self._writer.close()

    async def closed(self) -> None:
        with suppress(OSError, ssl.SSLError):
            await self._writer.wait_closed()


@contextmanager
def _as_httpx(request: httpx.Request) -> Iterator[None]:
    """Failures under the names that callers of httpx know."""
    try:
        yield
    except h11.RemoteProtocolError as exc:
        raise httpx.RemoteProtocolError(str(exc), request=request) from exc
    except (OSError, ssl.SSLError) as exc:
        raise httpx.ReadError(str(exc), request=request) from exc


async def _parts(request: httpx.Request) -> AsyncIterator[bytes]:
    stream = request.stream
    if not isinstance(stream, httpx.AsyncByteStream):
        raise TypeError("the body of a request is bytes")
    async for part in stream:
        yield part
