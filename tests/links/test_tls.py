"""Direct links over TLS 1.3: who gets in, who does not, and that nobody else notices."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from keycairn.errors import Code, KeycairnError
from keycairn.links import tls as tls_module
from keycairn.links.connection import QUEUE_BYTES
from keycairn.links.identity import leaf_certificate, peer_key, raw_public, tls_context
from keycairn.links.tls import LINK_VERSION, Hello, PeerAddress, TlsLink
from keycairn.ports.system import SystemClock, SystemRng
from keycairn.protocols import wire
from keycairn.protocols.link import MAX_FRAME

RNG = SystemRng()
VAULT = "tls-test"
IDENTITY = {i: Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i in (1, 2, 3, 9)}
PUBLIC = {i: raw_public(k.public_key()) for i, k in IDENTITY.items()}


class Sink:
    """A receiver that remembers everything and can be waited for."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, bytes]] = []
        self.events: list[tuple[str, int]] = []
        self._changed = asyncio.Event()

    def frame(self, peer: int, data: bytes) -> None:
        self.frames.append((peer, data))
        self._changed.set()

    def up(self, peer: int) -> None:
        self.events.append(("up", peer))

    def down(self, peer: int) -> None:
        self.events.append(("down", peer))

    async def has(self, count: int, timeout: float = 20) -> list[tuple[int, bytes]]:
        async with asyncio.timeout(timeout):
            while len(self.frames) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.frames


class Nodes:
    """Some nodes of one vault on loopback."""

    def __init__(self, ports: dict[int, int]) -> None:
        self.ports = ports
        self.links: dict[int, TlsLink] = {}
        self.sinks: dict[int, Sink] = {}

    def make(self, i: int, **changes: object) -> TlsLink:
        peers = {
            j: PeerAddress(PUBLIC[j], f"wss://127.0.0.1:{port}")
            for j, port in self.ports.items()
            if j != i
        }
        arguments = {"vault": VAULT, "clock": SystemClock(), "rng": RNG, "peers": peers} | changes
        link = TlsLink(i, IDENTITY[i], listen=f"127.0.0.1:{self.ports[i]}", **arguments)  # type: ignore[arg-type]
        self.links[i], self.sinks[i] = link, Sink()
        link.attach(self.sinks[i])
        return link

    async def start(self, *which: int, **changes: object) -> None:
        for i in which:
            await self.make(i, **changes).start()

    async def all_up(self) -> None:
        for i, link in self.links.items():
            others = set(self.links) - {i}
            assert await link.wait_up(others, 15) == others

    async def close(self) -> None:
        await asyncio.gather(*[link.close() for link in self.links.values()])


@asynccontextmanager
async def nodes(free_ports: Callable[..., int], *players: int) -> AsyncIterator[Nodes]:
    first = free_ports(len(players))
    made = Nodes({i: first + k for k, i in enumerate(players)})
    try:
        yield made
    finally:
        await made.close()


def certificate_context(
    key: Ed25519PrivateKey | None, leaf: x509.Certificate | None, folder: Path
) -> ssl.SSLContext:
    """An attacker's client context: any certificate or none, checks nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if key is not None and leaf is not None:
        file = folder / "attacker.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + leaf.public_bytes(serialization.Encoding.PEM)
        )
        context.load_cert_chain(file)
    return context


def pinned(i: int, target: int) -> ssl.SSLContext:
    """The context that player i really uses towards ``target``."""
    return tls_context(IDENTITY[i], i, [PUBLIC[target]], RNG, server=False)


def hello(index: int, *, vault: str = VAULT, version: int = LINK_VERSION) -> bytes:
    return wire.encode(Hello("keycairn-link", version, vault, index))


@asynccontextmanager
async def raw(port: int, context: ssl.SSLContext) -> AsyncIterator[ClientConnection]:
    async with connect(
        f"wss://127.0.0.1:{port}", ssl=context, proxy=None, compression=None, max_size=None
    ) as ws:
        yield ws


async def closed(ws: ClientConnection) -> None:
    """Wait until the other side has closed."""
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await ws.recv()


async def test_three_nodes_find_each_other_and_keep_the_order(
    free_ports: Callable[..., int],
) -> None:
    async with nodes(free_ports, 1, 2, 3) as net:
        await net.start(3, 1, 2)
        await net.all_up()
        for n in range(200):
            for i, j in ((1, 2), (2, 1), (3, 2)):
                await net.links[i].send(j, n.to_bytes(2, "big"))
        await net.sinks[2].has(400)
        await net.sinks[1].has(200)
        want = [n.to_bytes(2, "big") for n in range(200)]
        for sender in (1, 3):
            assert [d for p, d in net.sinks[2].frames if p == sender] == want
        assert net.sinks[1].frames == [(2, d) for d in want]
        assert not any(link.refused for link in net.links.values())


async def test_frames_are_counted_as_they_leave(free_ports: Callable[..., int]) -> None:
    sent: list[tuple[int, int]] = []
    async with nodes(free_ports, 1, 2) as net:
        await net.start(1, count=lambda peer, size: sent.append((peer, size)))
        await net.links[1].send(2, b"nobody is there yet")
        assert sent == []
        await net.start(2)
        await net.all_up()
        for data in (b"four", b"seven77"):
            await net.links[1].send(2, data)
        assert await net.sinks[2].has(2) == [(1, b"four"), (1, b"seven77")]
        assert sent == [(2, 4), (2, 7)]


async def test_largest_frame_passes_and_a_larger_one_is_not_sent(
    free_ports: Callable[..., int],
) -> None:
    async with nodes(free_ports, 1, 2) as net:
        await net.start(1, 2)
        await net.all_up()
        await net.links[2].send(1, bytes(MAX_FRAME))
        await net.links[2].send(1, b"after")
        frames = await net.sinks[1].has(2)
        assert [len(d) for _, d in frames] == [MAX_FRAME, 5]
        for peer, data, code in (
            (1, bytes(MAX_FRAME + 1), Code.TOO_LARGE),
            (1, b"", Code.TOO_LARGE),
            (2, b"x", Code.BAD_INDEX),
            (7, b"x", Code.BAD_INDEX),
        ):
            with pytest.raises(KeycairnError) as caught:
                await net.links[2].send(peer, data)
            assert caught.value.code is code


def issued(by: int, to: Ed25519PrivateKey, *, signed_by: int, expired: bool = False) -> object:
    """A leaf for ``to`` under the identity name of player ``by``."""
    issuer = leaf_certificate(IDENTITY[by], by, RNG).issuer
    end = datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC) if expired else None
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer)
        .public_key(to.public_key())
        .serial_number(7)
        .not_valid_before(datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(end or datetime.datetime(2990, 1, 1, tzinfo=datetime.UTC))
        .sign(IDENTITY[signed_by], None)
    )


@pytest.mark.parametrize(
    "who",
    [
        "no certificate",
        "a key of its own",
        "name of a pinned identity, signed by the attacker",
        "another key, vouched for by a pinned peer",
        "expired",
        "TLS 1.2",
    ],
)
async def test_t111_strangers_do_not_get_in(
    free_ports: Callable[..., int], tmp_path: Path, who: str
) -> None:
    attacker = IDENTITY[9]
    leaf: dict[str, tuple[Ed25519PrivateKey | None, object]] = {
        "no certificate": (None, None),
        "a key of its own": (attacker, leaf_certificate(attacker, 2, RNG)),
        "name of a pinned identity, signed by the attacker": (
            attacker,
            issued(2, attacker, signed_by=9),
        ),
        "another key, vouched for by a pinned peer": (attacker, issued(2, attacker, signed_by=2)),
        "expired": (IDENTITY[2], issued(2, IDENTITY[2], signed_by=2, expired=True)),
        "TLS 1.2": (IDENTITY[2], leaf_certificate(IDENTITY[2], 2, RNG)),
    }
    context = certificate_context(*leaf[who], tmp_path)  # type: ignore[arg-type]
    if who == "TLS 1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with nodes(free_ports, 1, 2, 3) as net:
        await net.start(1, 3)
        await net.all_up()
        with contextlib.suppress(OSError, WebSocketException, EOFError, TimeoutError):
            async with raw(net.ports[1], context) as ws:
                await ws.send(hello(2))
                await ws.send(b"evil")
                await closed(ws)
        await net.links[3].send(1, b"good")
        assert await net.sinks[1].has(1) == [(3, b"good")]
        assert not net.links[1].is_up(2)
        if who == "another key, vouched for by a pinned peer":
            assert net.links[1].refused["E_AUTHN"] == 1


async def test_the_same_attacks_succeed_with_the_right_key(
    free_ports: Callable[..., int], tmp_path: Path
) -> None:
    """Control for the test above: its client does get in when it holds the pinned key."""
    context = certificate_context(IDENTITY[2], issued(2, IDENTITY[2], signed_by=2), tmp_path)  # type: ignore[arg-type]
    async with nodes(free_ports, 1, 2) as net:
        await net.start(1)
        async with raw(net.ports[1], context) as ws:
            await ws.send(hello(2))
            await ws.send(b"good")
            assert await net.sinks[1].has(1) == [(2, b"good")]


async def test_t111_another_pinned_node_at_the_dialled_address(
    free_ports: Callable[..., int],
) -> None:
    async with nodes(free_ports, 1, 2, 3) as net:
        await net.start(2)
        wrong = PeerAddress(PUBLIC[3], f"wss://127.0.0.1:{net.ports[2]}")
        await net.start(1, peers={3: wrong})
        assert await net.links[1].wait_up([3], 1) == set()
        assert net.links[1].refused["E_AUTHN"] >= 1
        assert "another key" in net.links[1].trouble[3]


async def test_the_operator_is_told_why_a_peer_is_not_reached(
    free_ports: Callable[..., int],
) -> None:
    async with nodes(free_ports, 1, 2, 3) as net:
        await net.start(1)
        await net.start(2, peers={3: PeerAddress(PUBLIC[3], "incoming")})
        await asyncio.sleep(0.5)
        assert "refused" in net.links[1].trouble[3]
        assert "pinned" in net.links[1].trouble[2], net.links[1].trouble
        await net.start(3)
        assert await net.links[1].wait_up([3], 10) == {3}
        assert 3 not in net.links[1].trouble


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (hello(3), "E_SENDER_MISMATCH"),
        (hello(1), "E_SENDER_MISMATCH"),
        (hello(2, vault="another"), "E_SESSION_MISMATCH"),
        (hello(2, version=LINK_VERSION + 1), "E_SESSION_MISMATCH"),
        (hello(2, version=0), "E_SESSION_MISMATCH"),
        (b"\x00" * 100, "E_MALFORMED"),
        (hello(2) + b"\x00", "E_MALFORMED"),
        (bytes(5000), "E_MALFORMED"),
        ("text", "E_MALFORMED"),
    ],
    ids=lambda v: v if isinstance(v, str) else v.hex()[:24],
)
async def test_t015_t024_a_wrong_hello_is_refused_and_counted(
    free_ports: Callable[..., int], first: bytes | str, code: str
) -> None:
    async with nodes(free_ports, 1, 2, 3) as net:
        await net.start(1, 3)
        await net.all_up()
        async with raw(net.ports[1], pinned(2, 1)) as ws:
            await ws.send(first)
            await ws.send(b"evil")
            await closed(ws)
            assert ws.close_code == 1008
        assert dict(net.links[1].refused) == {code: 1}
        await net.links[3].send(1, b"good")
        assert await net.sinks[1].has(1) == [(3, b"good")]
        assert net.sinks[1].events == [("up", 3)]


async def test_t023_junk_of_one_peer_disturbs_nobody(free_ports: Callable[..., int]) -> None:
    async with nodes(free_ports, 1, 2, 3) as net:
        await net.start(1, 3)
        await net.all_up()
        async with raw(net.ports[1], pinned(2, 1)) as ws:
            await ws.send(hello(2))
            assert await net.links[1].wait_up([2], 5) == {2}
            for n in range(1000):
                await ws.send("junk" if n % 2 else b"")
            await ws.send(b"sense")
            await net.sinks[1].has(1)
            assert net.links[1].refused["E_MALFORMED"] == 1000
            # A frame beyond the limit costs the sender its own connection.
            with contextlib.suppress(ConnectionClosed):
                await ws.send(bytes(MAX_FRAME + 1))
            await closed(ws)
            assert ws.close_code == 1009
        reader, writer = await asyncio.open_connection("127.0.0.1", net.ports[1])
        writer.write(b"GET / HTTP/1.1\r\n\r\n" * 100)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        await net.links[3].send(1, b"good")
        assert (await net.sinks[1].has(2)) == [(2, b"sense"), (3, b"good")]
        assert ("down", 3) not in net.sinks[1].events


async def test_t118_half_open_connections_keep_nobody_out(
    free_ports: Callable[..., int],
) -> None:
    async with nodes(free_ports, 1, 2) as net:
        await net.start(1)
        idle = [await asyncio.open_connection("127.0.0.1", net.ports[1]) for _ in range(200)]
        await net.start(2)
        await net.all_up()
        await net.links[2].send(1, b"good")
        assert await net.sinks[1].has(1) == [(2, b"good")]
        for _, writer in idle:
            writer.transport.abort()


async def test_a_restarted_peer_comes_back_on_its_port(free_ports: Callable[..., int]) -> None:
    async with nodes(free_ports, 1, 2) as net:
        await net.start(1, 2)
        await net.all_up()
        await net.links[2].close()
        for _ in range(100):
            if not net.links[1].is_up(2):
                break
            await asyncio.sleep(0.05)
        assert not net.links[1].is_up(2)
        await net.links[1].send(2, b"dropped silently")
        began = time.monotonic()
        await net.start(2)
        await net.all_up()
        assert time.monotonic() - began < 8
        await net.links[1].send(2, b"again")
        assert await net.sinks[2].has(1) == [(1, b"again")]
        assert net.sinks[1].events == [("up", 2), ("down", 2), ("up", 2)]


async def test_the_newest_connection_of_a_pair_wins(free_ports: Callable[..., int]) -> None:
    async with nodes(free_ports, 1, 2) as net:
        await net.start(1, peers={2: PeerAddress(PUBLIC[2], "incoming")})
        async with AsyncExitStack() as stack:
            ghost = await stack.enter_async_context(raw(net.ports[1], pinned(2, 1)))
            await ghost.send(hello(2))
            assert await net.links[1].wait_up([2], 5) == {2}
            fresh = await stack.enter_async_context(raw(net.ports[1], pinned(2, 1)))
            await fresh.send(hello(2))
            await closed(ghost)
            await fresh.send(b"alive")
            assert await net.sinks[1].has(1) == [(2, b"alive")]
        assert net.sinks[1].events[:3] == [("up", 2), ("down", 2), ("up", 2)]


async def test_either_end_may_be_the_only_one_that_can_dial(
    free_ports: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_module, "SETTLE", 0.2)
    for incoming_at in (1, 2):
        async with nodes(free_ports, 1, 2) as net:
            other = 3 - incoming_at
            await net.start(incoming_at, peers={other: PeerAddress(PUBLIC[other], "incoming")})
            await net.start(other)
            await net.all_up()
            await net.links[1].send(2, b"x")
            assert await net.sinks[2].has(1) == [(1, b"x")]


async def test_both_dialling_at_once_settles_on_one_connection(
    free_ports: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_module, "SETTLE", 0.0)
    async with nodes(free_ports, 1, 2) as net:
        await asyncio.gather(net.start(1), net.start(2))
        monkeypatch.setattr(tls_module, "SETTLE", 3.0)
        await net.all_up()
        await asyncio.sleep(1.5)
        quiet = [len(s.events) for s in net.sinks.values()]
        await asyncio.sleep(1.0)
        assert [len(s.events) for s in net.sinks.values()] == quiet
        await net.links[1].send(2, b"a")
        await net.links[2].send(1, b"b")
        await net.sinks[1].has(1)
        await net.sinks[2].has(1)


async def test_a_peer_that_does_not_read_costs_bounded_memory(
    free_ports: Callable[..., int],
) -> None:
    async with nodes(free_ports, 1, 2) as net:
        await net.start(1, peers={2: PeerAddress(PUBLIC[2], "incoming")})
        frame = bytes(1 << 20)
        sent = 0

        async def pour() -> None:
            nonlocal sent
            for _ in range(200):
                await net.links[1].send(2, frame)
                sent += 1

        async with raw(net.ports[1], pinned(2, 1)) as ws:
            await ws.send(hello(2))
            assert await net.links[1].wait_up([2], 5) == {2}
            pouring = asyncio.create_task(pour())
            stuck_at = -1
            while sent != stuck_at:
                stuck_at = sent
                await asyncio.sleep(0.7)
            # The queue, and what lies in the buffers of both sockets and of the test's client.
            assert sent < QUEUE_BYTES // len(frame) + 40
            ws.transport.abort()
        await asyncio.wait_for(pouring, 10)


async def test_a_port_in_use_and_wrong_configuration(free_ports: Callable[..., int]) -> None:
    async with nodes(free_ports, 1, 2) as net:
        await net.start(1)
        with pytest.raises(KeycairnError) as caught:
            await net.make(1).start()
        assert caught.value.code is Code.UNAVAILABLE
        assert caught.value.next
    for bad in ("ws://h:1", "wss://h", "https://h:1", "h:1", "wss://u@h:1", "wss://h:99999", ""):
        with pytest.raises(KeycairnError):
            PeerAddress(PUBLIC[2], bad)
    with pytest.raises(KeycairnError):
        PeerAddress(b"short", "incoming")
    for listen in ("9000", "h:", ":1", "h:x", "h:70000"):
        with pytest.raises(KeycairnError):
            tls_module.split_listen(listen)
    assert tls_module.split_listen("[::1]:9000") == ("::1", 9000)


def peer(i: int) -> PeerAddress:
    return PeerAddress(PUBLIC[i], "incoming")


@pytest.mark.parametrize(
    "peers", [{}, {1: peer(2)}, {2: peer(1)}, {2: peer(3), 3: peer(3)}], ids=str
)
async def test_pins_must_be_other_nodes_with_keys_of_their_own(
    peers: dict[int, PeerAddress],
) -> None:
    with pytest.raises(KeycairnError) as caught:
        TlsLink(1, IDENTITY[1], peers, "", vault=VAULT, clock=SystemClock(), rng=RNG)
    assert caught.value.code in (Code.BAD_INDEX, Code.POLICY)


def test_r50_both_sides_verify() -> None:
    for server in (True, False):
        context = tls_context(IDENTITY[1], 1, [PUBLIC[2]], RNG, server=server)
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    with pytest.raises(KeycairnError):
        peer_key(None)


@pytest.mark.slow
async def test_throughput_of_100_kb_frames_both_ways(free_ports: Callable[..., int]) -> None:
    """Prints the figure; fails only when something is badly wrong."""
    count, size = 300, 100_000
    async with nodes(free_ports, 1, 2) as net:
        await net.start(1, 2)
        await net.all_up()
        frame = bytes(size)
        began = time.monotonic()

        async def pour(i: int, j: int) -> None:
            for _ in range(count):
                await net.links[i].send(j, frame)

        await asyncio.gather(pour(1, 2), pour(2, 1))
        await net.sinks[1].has(count)
        await net.sinks[2].has(count)
        seconds = time.monotonic() - began
    figure = 2 * count * size / seconds / 1e6
    print(json.dumps({"mb_per_second_both_ways": round(figure, 1), "frames": 2 * count}))
    assert figure > 5
