"""Direct links between nodes: websockets in mutual TLS 1.3 with pinned identity keys.

What happens on a new connection, whoever dialled:

1. TLS 1.3, certificates required and verified on both sides against the pins
   (:mod:`keycairn.links.identity`). The peer's index follows from its key.
2. Both send one :class:`Hello` (protocol version, vault id, own index). Another version or vault,
   or an index that the key does not stand for: counted, logged, closed. The node goes on.
3. The connection becomes *the* connection of this pair. If there was one, it is dropped: the newest
   authenticated one wins, so that a peer which restarted is not kept out by its own ghost. One
   exception makes both ends agree when both dialled at the same moment: a connection that the
   lower index dialled less than :data:`SETTLE` seconds ago is kept.

The lower index dials at once, the higher one only when there was no connection for
:data:`SETTLE` seconds; so either end may sit behind a gateway (``incoming``). After a failure the
next attempt comes after 0.1 s, doubling to 5 s, with jitter.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection as WebSocket
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake, WebSocketException

from keycairn.errors import Code, KeycairnError
from keycairn.links.connection import Connection
from keycairn.links.identity import peer_key, raw_public, tls_context
from keycairn.links.presence import Presence, check_frame
from keycairn.ports import Clock, Rng, randbelow
from keycairn.protocols import wire
from keycairn.protocols.link import MAX_FRAME, Receiver

#: Version of the link protocol: frames, hello, connection rules.
LINK_VERSION = 1
#: Seconds: see the module docstring.
SETTLE = 3.0
_HANDSHAKE = 5.0
_BACKOFF = (0.1, 5.0)
_PING = 10.0
_PING_TIMEOUT = 20.0
_CLOSE_TIMEOUT = 2.0
_POLICY_VIOLATION = 1008

_log = logging.getLogger("keycairn.links.tls")
_ws_log = logging.getLogger("keycairn.links.websocket")
# Broken handshakes of strangers are theirs to explain; with tracebacks they would fill the log.
_ws_log.setLevel(logging.CRITICAL)


class Hello(wire.Message, frozen=True):
    """First frame each way."""

    magic: str
    version: int
    vault: str
    index: int


@dataclass(frozen=True)
class PeerAddress:
    """A pinned peer.

    Attributes:
        public_key: its Ed25519 identity key, 32 bytes.
        address: ``wss://host:port``, or ``incoming`` if only the peer can dial.
    """

    public_key: bytes
    address: str

    def __post_init__(self) -> None:
        if len(self.public_key) != 32:
            raise KeycairnError(Code.MALFORMED, "a peer's public_key must be 32 bytes")
        if self.address == "incoming":
            return
        parts = urlsplit(self.address)
        with contextlib.suppress(ValueError):
            if parts.scheme == "wss" and parts.hostname and parts.port and not parts.username:
                return
        raise KeycairnError(
            Code.MALFORMED,
            "a peer's address must be wss://host:port or incoming",
            next="correct [[peers]] address in node.toml",
        )


def split_listen(listen: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port`` to its parts; E_MALFORMED."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or not host:
        raise KeycairnError(
            Code.MALFORMED,
            "a listening address must be host:port",
            next="correct [links] listen in node.toml",
        )
    return host.removeprefix("[").removesuffix("]"), int(port)


def _reason(error: Exception) -> str:
    """What a failed attempt means for the operator."""
    if isinstance(error, InvalidHandshake):
        # In TLS 1.3 a server turns a client's certificate down after the client's own handshake.
        return "it hangs up after TLS: is this node's public key pinned there?"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or 'no reason given').replace('_', ' ').lower()}"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return type(error).__name__


async def _within(event: asyncio.Event, seconds: float) -> None:
    """Wait for ``event``, at most ``seconds``. (Not ``wait_for``: in Python 3.11 it swallows a
    cancellation that comes in the same turn as the event.)"""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


class TlsLink:
    """Implements :class:`keycairn.protocols.link.Link` for one node.

    Args:
        index: this node's index.
        identity: its identity key.
        peers: all other nodes of the vault, by index.
        listen: ``host:port``; port 0 takes a free one, see :attr:`port`. "" to only dial.
        vault: vault id; peers of another vault are refused.
        clock, rng: ports. The clock is used for ages of connections, never for trust.
        count: told the peer and the size of every frame that is handed to its connection.

    Attributes:
        refused: how many connections were refused since the start, by error code.
        trouble: why the last attempt to dial a peer failed, by index, for status and doctor.
    """

    def __init__(
        self,
        index: int,
        identity: Ed25519PrivateKey,
        peers: Mapping[int, PeerAddress],
        listen: str,
        *,
        vault: str,
        clock: Clock,
        rng: Rng,
        count: Callable[[int, int], None] | None = None,
    ) -> None:
        keys = [p.public_key for p in peers.values()]
        own = raw_public(identity.public_key())
        if index in peers or own in keys or len(set(keys)) != len(keys):
            raise KeycairnError(
                Code.BAD_INDEX,
                "a peer has this node's own index or identity key, or two peers have the same",
                not_lost="The node did not start; nothing was changed.",
                next="put this node's own identity key back, or correct [[peers]] in node.toml",
            )
        self.index = index
        self.refused: Counter[str] = Counter()
        self.trouble: dict[int, str] = {}
        self._peers = dict(peers)
        self._index_of = {p.public_key: i for i, p in peers.items()}
        self._address = split_listen(listen) if listen else None
        self._vault = vault
        self._clock = clock
        self._rng = rng
        self._count_sent = count
        self._presence = Presence(peers)
        self._live: dict[int, Connection] = {}
        self._gone = {i: asyncio.Event() for i in peers}
        self._came = {i: asyncio.Event() for i in peers}
        self._dialers: list[asyncio.Task[None]] = []
        self._server: Server | None = None
        self._server_tls = tls_context(identity, index, keys, rng, server=True)
        self._client_tls = {
            i: tls_context(identity, index, [p.public_key], rng, server=False)
            for i, p in peers.items()
        }
        self._closing = False

    # -- the port ------------------------------------------------------------------------------

    def attach(self, receiver: Receiver) -> None:
        self._presence.attach(receiver)

    async def send(self, peer: int, data: bytes) -> None:
        check_frame(self._presence.peers, peer, data)
        connection = self._live.get(peer)
        if connection is not None:
            if self._count_sent is not None:
                self._count_sent(peer, len(data))
            await connection.send(bytes(data))

    def is_up(self, peer: int) -> bool:
        return self._presence.is_up(peer)

    async def wait_up(self, peers: Iterable[int], timeout: float) -> set[int]:
        return await self._presence.wait_up(peers, timeout)

    @property
    def port(self) -> int:
        """The port that :meth:`start` listens on."""
        if self._server is None:
            raise KeycairnError(Code.UNAVAILABLE, "this link does not listen")
        return int(next(iter(self._server.sockets)).getsockname()[1])

    async def start(self) -> None:
        if self._address is not None:
            await self._listen(*self._address)
        self._dialers = [
            asyncio.create_task(self._dial_for_ever(i, p.address))
            for i, p in self._peers.items()
            if p.address != "incoming"
        ]

    async def close(self) -> None:
        self._closing = True
        for task in self._dialers:
            task.cancel()
        await asyncio.gather(*self._dialers, return_exceptions=True)
        self._dialers = []
        closing = [c.close(1001, "node stops") for c in list(self._live.values())]
        await asyncio.gather(*closing, return_exceptions=True)
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        for peer in self._peers:
            self._presence.set_down(peer)

    # -- connecting ----------------------------------------------------------------------------

    async def _listen(self, host: str, port: int) -> None:
        try:
            self._server = await serve(
                self._accept,
                host,
                port,
                ssl=self._server_tls,
                ssl_handshake_timeout=_HANDSHAKE,
                open_timeout=_HANDSHAKE,
                close_timeout=_CLOSE_TIMEOUT,
                ping_interval=_PING,
                ping_timeout=_PING_TIMEOUT,
                max_size=MAX_FRAME,
                compression=None,
                server_header=None,
                logger=_ws_log,
            )
        except OSError as exc:
            raise KeycairnError(
                Code.UNAVAILABLE,
                f"can't listen for links on {host}:{port}: {exc.strerror}",
                not_lost="Nothing was changed.",
                next="stop the program that uses the port, or change [links] listen in node.toml",
                detail={"host": host, "port": port},
            ) from exc

    async def _accept(self, ws: ServerConnection) -> None:
        try:
            peer = self._index_of.get(peer_key(ws.transport.get_extra_info("ssl_object")))
        except KeycairnError:
            peer = None
        if peer is None:
            await self._refuse(ws, Code.AUTHN, "the key is not pinned")
            return
        await self._serve(ws, peer, by_lower=peer < self.index)

    async def _dial_for_ever(self, peer: int, address: str) -> None:
        low, high = _BACKOFF
        delay = low
        while not self._closing:
            if peer in self._live:
                await self._gone[peer].wait()
            if self.index > peer:
                await _within(self._came[peer], SETTLE)
            if peer in self._live:
                continue
            if await self._dial(peer, address):
                delay = low
            pause = delay * (0.5 + randbelow(self._rng, 1 << 20) / (1 << 20))
            await _within(self._came[peer], pause)
            delay = min(2 * delay, high)

    async def _dial(self, peer: int, address: str) -> bool:
        """One attempt; returns when the connection is over. True if it was authenticated."""
        try:
            async with connect(
                address,
                ssl=self._client_tls[peer],
                ssl_handshake_timeout=_HANDSHAKE,
                open_timeout=2 * _HANDSHAKE,
                close_timeout=_CLOSE_TIMEOUT,
                ping_interval=_PING,
                ping_timeout=_PING_TIMEOUT,
                max_size=MAX_FRAME,
                compression=None,
                user_agent_header=None,
                proxy=None,
                logger=_ws_log,
            ) as ws:
                if peer_key(ws.transport.get_extra_info("ssl_object")) != (
                    self._peers[peer].public_key
                ):
                    await self._refuse(ws, Code.AUTHN, f"player {peer} showed another key")
                    return False
                return await self._serve(ws, peer, by_lower=self.index < peer)
        except ssl.SSLCertVerificationError as exc:
            self._count(Code.AUTHN, f"dialling player {peer}: {exc.verify_message}")
            self._failed(peer, "it shows another key than the pinned one")
        except (OSError, WebSocketException, TimeoutError) as exc:
            self._failed(peer, _reason(exc))
        return False

    def _failed(self, peer: int, why: str) -> None:
        # Attempts go on for ever: only a new reason is news.
        if self.trouble.get(peer) != why:
            self.trouble[peer] = why
            _log.warning("can't reach peer", extra={"peer": peer, "why": why})

    # -- one connection ------------------------------------------------------------------------

    async def _serve(self, ws: WebSocket, peer: int, *, by_lower: bool) -> bool:
        if not await self._greet(ws, peer):
            return False
        connection = Connection(ws, peer, by_lower=by_lower, since=self._clock.monotonic())
        old = self._live.get(peer)
        if self._closing or (old is not None and self._keeps(old, connection)):
            await ws.close(1000, "another connection is in use")
            return True
        if old is not None:
            self._drop(old)
            old.abort()
        self._live[peer] = connection
        self.trouble.pop(peer, None)
        self._gone[peer].clear()
        self._came[peer].set()
        _log.info("peer is up", extra={"peer": peer})
        self._presence.set_up(peer)
        try:
            await connection.run(self._deliver, lambda: self._count(Code.MALFORMED, "junk frame"))
        finally:
            self._drop(connection)
        return True

    @staticmethod
    def _keeps(old: Connection, new: Connection) -> bool:
        return old.by_lower and not new.by_lower and new.since - old.since < SETTLE

    def _drop(self, connection: Connection) -> None:
        peer = connection.peer
        if self._live.get(peer) is connection:
            del self._live[peer]
            self._came[peer].clear()
            self._gone[peer].set()
            _log.info("peer is down", extra={"peer": peer})
            self._presence.set_down(peer)

    def _deliver(self, connection: Connection, data: bytes) -> None:
        if self._live.get(connection.peer) is connection:
            self._presence.deliver(connection.peer, data)

    async def _greet(self, ws: WebSocket, peer: int) -> bool:
        try:
            async with asyncio.timeout(_HANDSHAKE):
                mine = Hello("keycairn-link", LINK_VERSION, self._vault, self.index)
                await ws.send(wire.encode(mine))
                first = await ws.recv()
            if not isinstance(first, bytes) or len(first) > 1024:
                raise KeycairnError(Code.MALFORMED, "the first frame is no hello")
            hello = wire.decode(Hello, first)
        except KeycairnError as exc:
            await self._refuse(ws, exc.code, f"player {peer}: {exc.message}")
            return False
        except (ConnectionClosed, TimeoutError):
            return False
        if (hello.magic, hello.version) != ("keycairn-link", LINK_VERSION):
            await self._refuse(ws, Code.SESSION_MISMATCH, f"player {peer}: link version differs")
        elif hello.vault != self._vault:
            await self._refuse(ws, Code.SESSION_MISMATCH, f"player {peer}: another vault")
        elif hello.index != peer:
            await self._refuse(
                ws, Code.SENDER_MISMATCH, f"player {peer} says that it is another player"
            )
        else:
            return True
        return False

    async def _refuse(self, ws: WebSocket, code: Code, why: str) -> None:
        self._count(code, why)
        await ws.close(_POLICY_VIOLATION, code.value)

    def _count(self, code: Code, why: str) -> None:
        self.refused[code.value] += 1
        # A peer that repeats itself for ever must not fill the log: powers of two are enough.
        times = self.refused[code.value]
        if times & (times - 1) == 0:
            _log.warning("link refused", extra={"code": code.value, "why": why, "count": times})
