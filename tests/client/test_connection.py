"""Kept connections: one piece a request, reuse, and every way in which a node can go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from keycairn.client import connection
from keycairn.client.transport import JsonClient
from keycairn.errors import Code, KeycairnError

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 7\r\n\r\n"
BODY = b'{"a":1}'


class Server:
    """Serves one handler per connection; keeps what it read."""

    def __init__(self) -> None:
        self.connections = 0
        self.seen: list[bytes] = []
        self.url = ""

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        """One whole request; b"" at the end of the connection."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""
        length = next(
            (
                int(x.split(b":")[1])
                for x in head.split(b"\r\n")
                if x.lower().startswith(b"content-l")
            ),
            0,
        )
        self.seen.append(head + await reader.readexactly(length))
        return self.seen[-1]


@asynccontextmanager
async def serving(handler: Callable[[Server], Handler]) -> AsyncIterator[tuple[Server, JsonClient]]:
    server = Server()
    inner = handler(server)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        try:
            await inner(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with JsonClient(server.url, "token", index=1) as client:
        yield server, client
    listener.close()


def answering(answer: bytes, *, times: int = 1000) -> Callable[[Server], Handler]:
    """Answers every request of a connection in the same way, ``times`` times, then closes it."""

    def of(server: Server) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(times):
                if not await server.request(reader):
                    return
                writer.write(answer)
                await writer.drain()

        return handle

    return of


async def test_one_connection_one_piece_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = []
    write = asyncio.StreamWriter.write

    def counted(self: asyncio.StreamWriter, data: bytes) -> None:
        pieces.append(bytes(data))
        write(self, data)

    async with serving(answering(OK + BODY)) as (server, client):
        monkeypatch.setattr(asyncio.StreamWriter, "write", counted)
        for n in range(5):
            assert await client.call("POST", "/v1/x", {"n": n}) == {"a": 1}
        assert await client.call("GET", "/v1/x", query={"q": "a b&c"}) == {"a": 1}
        assert server.connections == 1
    sent = [p for p in pieces if not p.startswith(b"HTTP/")]
    assert len(sent) == 6
    assert sent[0].startswith(b"POST /v1/x HTTP/1.1\r\n")
    assert b"uthorization: Bearer token\r\n" in sent[0]
    assert sent[0].endswith(b'\r\n\r\n{"n":0}')
    assert sent[5].startswith(b"GET /v1/x?q=a+b%26c HTTP/1.1\r\n")


async def test_requests_at_once_have_connections_of_their_own() -> None:
    async with serving(answering(OK + BODY)) as (server, client):
        for _ in range(3):
            await asyncio.gather(*(client.call("GET", "/") for _ in range(30)))
        # Not more than can be kept are; the others were closed.
        assert 30 <= server.connections <= 30 + 2 * (30 - connection._MAX_IDLE)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_connection_that_the_node_closed_is_not_used(times: int) -> None:
    async with serving(answering(OK + BODY, times=times)) as (server, client):
        for _ in range(6):
            assert await client.call("POST", "/", {}) == {"a": 1}
            await asyncio.sleep(0.01)
        assert server.connections == 6 // times


async def test_a_connection_that_was_idle_for_long_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(answering(OK + BODY)) as (server, client):
        await client.call("POST", "/", {})
        monkeypatch.setattr(connection, "_IDLE_SECONDS", 0.0)
        await client.call("POST", "/", {})
        assert server.connections == 2


async def test_what_was_said_unasked_is_no_answer() -> None:
    """A node that answers twice must not have its second answer taken for the next request's."""
    odd = OK + b'{"b":2}'
    async with serving(answering(OK + BODY + odd)) as (server, client):
        for _ in range(3):
            assert await client.call("POST", "/", {}) == {"a": 1}
        assert server.connections == 3


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{"a\r\n4\r\n":1}\r\n0\r\n\r\n',
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + BODY,
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + BODY,
    ],
    ids=["chunked", "informational", "until the end"],
)
async def test_other_forms_of_answers(answer: bytes) -> None:
    times = 1 if b"close" in answer else 1000
    async with serving(answering(answer, times=times)) as (_, client):
        assert await client.call("POST", "/", {}) == {"a": 1}
        assert await client.call("POST", "/", {}) == {"a": 1}


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        OK[:20],
        OK,
        OK + BODY[:3],
        b"nonsense\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n" + BODY,
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["none", "half a head", "no body", "half a body", "junk", "other protocol", "negative",
         "two lengths", "endless head", "bad chunk"],
)  # fmt: skip
async def test_answers_that_break_off_are_errors_and_nothing_is_sent_twice(answer: bytes) -> None:
    async with serving(answering(answer, times=1)) as (server, client):
        with pytest.raises(KeycairnError) as caught:
            await client.call("POST", "/", {"n": 1})
        assert caught.value.code is Code.UNAVAILABLE
        assert caught.value.node == 1
        assert len(server.seen) == 1


async def test_an_answer_that_is_too_large_is_not_read_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = 0

    def endless(server: Server) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await server.request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")
            while True:
                writer.write(b" " * 65536)
                sent += 65536
                await writer.drain()

        return handle

    monkeypatch.setattr("keycairn.client.transport._MAX_ANSWER", 1 << 20)
    async with serving(endless) as (_, client):
        with pytest.raises(KeycairnError) as caught:
            await client.call("GET", "/")
    assert caught.value.code is Code.UNAVAILABLE
    assert sent < 32 << 20


async def test_a_refusal_before_the_body_was_read_is_heard() -> None:
    refusal = b'{"error":{"code":"E_TOO_LARGE","message":"too large"}}'

    def refusing(server: Server) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            head = b"HTTP/1.1 413 Large\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
            writer.write(head % len(refusal) + refusal)
            await writer.drain()
            await asyncio.sleep(0.2)

        return handle

    async with serving(refusing) as (_, client):
        for size in (10, 200_000):
            with pytest.raises(KeycairnError) as caught:
                await client.call("POST", "/", {"text": "a" * size})
            assert caught.value.code is Code.TOO_LARGE


async def test_after_a_time_out_the_late_answer_is_nobodys() -> None:
    slow = True

    def late(server: Server) -> Handler:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await server.request(reader):
                if slow:
                    await asyncio.sleep(0.3)
                writer.write(OK + (b'{"l":1}' if slow else BODY))
                await writer.drain()

        return handle

    async with serving(late) as (server, client):
        with pytest.raises(KeycairnError) as caught:
            await client.call("POST", "/", {}, seconds=0.1)
        assert caught.value.code is Code.PEER_TIMEOUT
        slow = False
        assert await client.call("POST", "/", {}) == {"a": 1}
        await asyncio.sleep(0.4)
        assert await client.call("POST", "/", {}) == {"a": 1}
        assert server.connections == 2


async def test_nobody_listens(free_ports: Callable[[int], int]) -> None:
    async with JsonClient(f"http://127.0.0.1:{free_ports(1)}", "token", index=7) as client:
        with pytest.raises(KeycairnError) as caught:
            await client.call("GET", "/")
    assert (caught.value.code, caught.value.node) == (Code.UNAVAILABLE, 7)
    assert "refused" in caught.value.message


async def test_no_header_can_be_smuggled() -> None:
    async with serving(answering(OK + BODY)) as (server, client):
        for path in ("/v1/keys/a b", "/v1/keys/é", "/v1/keys/%0d%0aX: y"):
            await client.call("GET", path)
        assert all(b"\r\nX:" not in seen for seen in server.seen)
