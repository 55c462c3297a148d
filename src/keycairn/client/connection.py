"""HTTP/1.1 to one node over connections that are kept, on h11 and asyncio.

A signature costs its client a request to each signer, so what a request costs is part of how fast
a vault signs. A request leaves in one piece, headers and body (half the packets, and the node reads
once); between requests nothing is done. There are no redirects, proxies, cookies or HTTP/2 here.
Failures have httpx's names: that library is used for everything but speed.

A request is never sent twice: what an interrupted one may have done is for its caller to ask
about, with the same request id.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from urllib.parse import quote, urlencode, urlsplit

import h11
import httpx

#: Nodes close a connection that was idle for 5 s; one that may just be closing isn't used.
_IDLE_SECONDS = 4.0
_MAX_IDLE = 16
_READ = 64 << 10
_MAX_HEAD = 64 << 10
#: What may stand in a path as it is (RFC 3986); the rest, spaces and line ends too, is quoted.
_PATH = "/%~:@!$&'()*+,;="


class KeptConnections:
    """Connections to one node.

    Args:
        url: ``http://host:port`` or ``https://host:port``.
        headers: sent with every request.
        tls: for https; None for http.
        max_answer: largest answer in bytes.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], tls: ssl.SSLContext | None, *, max_answer: int
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if tls else 80)
        self._tls = tls
        self._headers = [("host", parts.netloc.rpartition("@")[2]), *headers.items()]
        self._max_answer = max_answer
        self._idle: list[_Connection] = []

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: bytes | None = None,
        connect_seconds: float,
    ) -> httpx.Response:
        """One request, one answer; ``body`` is JSON.

        Raises:
            httpx.HTTPError: ConnectError, ConnectTimeout, ReadError, RemoteProtocolError.
        """
        target = quote(path, safe=_PATH) + (f"?{urlencode(query)}" if query else "")
        headers = self._headers
        if body is not None:
            kind = ("content-type", "application/json")
            headers = [*headers, kind, ("content-length", str(len(body)))]
        head = h11.Request(method=method, target=target, headers=headers)
        connection = self._take() or await self._open(connect_seconds)
        try:
            with _named_as_httpx():
                answer = await connection.exchange(head, body, self._max_answer)
        except BaseException:
            # A time-out among them: what comes later must not be taken for another's answer.
            connection.close()
            raise
        if connection.reusable and len(self._idle) < _MAX_IDLE:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.close()
        return answer

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

    async def _open(self, seconds: float) -> _Connection:
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_connection(
                    self._host, self._port, ssl=self._tls
                )
        except TimeoutError as exc:
            raise httpx.ConnectTimeout("no connection in time") from exc
        except (OSError, ssl.SSLError) as exc:
            raise httpx.ConnectError(str(exc)) from exc
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
        self, head: h11.Request, body: bytes | None, max_answer: int
    ) -> httpx.Response:
        self.reusable = False
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
                    raise h11.RemoteProtocolError("the answer is too large")
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                raise h11.RemoteProtocolError("the answer broke off")
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
def _named_as_httpx() -> Iterator[None]:
    try:
        yield
    except h11.RemoteProtocolError as exc:
        raise httpx.RemoteProtocolError(str(exc)) from exc
    except (OSError, ssl.SSLError) as exc:
        raise httpx.ReadError(str(exc)) from exc
