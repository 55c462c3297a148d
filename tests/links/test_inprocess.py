"""The in-process link: order, the tamper hook, players that go down."""

from __future__ import annotations

import asyncio

import pytest

from keycairn.errors import Code, KeycairnError
from keycairn.links.inprocess import InProcessNetwork
from keycairn.protocols.link import MAX_FRAME, Link


class Sink:
    """A receiver that remembers everything."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, bytes]] = []
        self.events: list[tuple[str, int]] = []

    def frame(self, peer: int, data: bytes) -> None:
        self.frames.append((peer, data))

    def up(self, peer: int) -> None:
        self.events.append(("up", peer))

    def down(self, peer: int) -> None:
        self.events.append(("down", peer))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def started(network: InProcessNetwork) -> tuple[dict[int, Link], dict[int, Sink]]:
    links: dict[int, Link] = {i: network.link(i) for i in network.players}
    sinks = {i: Sink() for i in network.players}
    for i, link in links.items():
        link.attach(sinks[i])
        await link.start()
    return links, sinks


async def test_frames_arrive_once_and_in_order() -> None:
    links, sinks = await started(InProcessNetwork([3, 1, 2]))
    assert await links[1].wait_up([2, 3], 1) == {2, 3}
    for n in range(100):
        await links[1].send(2, bytes([n]))
        await links[3].send(2, bytes([n]))
    await settle()
    for sender in (1, 3):
        assert [d for p, d in sinks[2].frames if p == sender] == [bytes([n]) for n in range(100)]
    assert sinks[1].frames == []
    assert sinks[2].events == [("up", 1), ("up", 3)]


async def test_the_hook_changes_drops_repeats_and_reorders() -> None:
    network = InProcessNetwork([1, 2])
    links, sinks = await started(network)
    kept: list[bytes] = []

    def tamper(sender: int, receiver: int, data: bytes) -> list[bytes] | None:
        match data:
            case b"drop":
                return []
            case b"twice":
                return [data, data]
            case b"change":
                return [b"changed"]
            case b"late":
                kept.append(data)
                return []
            case _:
                return None

    network.tamper = tamper
    for data in (b"drop", b"twice", b"change", b"late", b"plain"):
        await links[1].send(2, data)
    await settle()
    network.inject(1, 2, kept[0])
    await settle()
    assert [d for _, d in sinks[2].frames] == [b"twice", b"twice", b"changed", b"plain", b"late"]


async def test_a_player_that_is_down_loses_frames_and_nobody_else_does() -> None:
    network = InProcessNetwork([1, 2, 3])
    links, sinks = await started(network)
    network.take_down(3)
    assert not links[1].is_up(3)
    assert await links[1].wait_up([2, 3], 0.01) == {2}
    await links[1].send(3, b"lost")
    await links[1].send(2, b"kept")
    await settle()
    network.bring_up(3)
    await links[1].send(3, b"again")
    await settle()
    assert sinks[3].frames == [(1, b"again")]
    assert sinks[2].frames == [(1, b"kept")]
    assert sinks[1].events == [("up", 2), ("up", 3), ("down", 3), ("up", 3)]


async def test_wait_up_returns_as_soon_as_all_are_there() -> None:
    network = InProcessNetwork([1, 2])
    await network.link(1).start()
    waiting = asyncio.create_task(network.link(1).wait_up([2], 30))
    await settle()
    assert not waiting.done()
    await network.link(2).start()
    assert await asyncio.wait_for(waiting, 1) == {2}


async def test_a_restarted_player_gets_a_fresh_link() -> None:
    network = InProcessNetwork([1, 2])
    links, sinks = await started(network)
    fresh, sink = network.replace(2), Sink()
    fresh.attach(sink)
    await fresh.start()
    await links[1].send(2, b"hello")
    await links[2].send(1, b"from the dead")
    await settle()
    assert sink.frames == [(1, b"hello")]
    assert sinks[1].frames == []
    assert sinks[2].frames == []
    assert sinks[1].events == [("up", 2), ("down", 2), ("up", 2)]


async def test_wrong_peers_sizes_and_second_receivers_are_refused() -> None:
    network = InProcessNetwork([1, 2])
    links, _ = await started(network)
    for peer, data, code in (
        (1, b"x", Code.BAD_INDEX),
        (9, b"x", Code.BAD_INDEX),
        (2, b"", Code.TOO_LARGE),
        (2, bytes(MAX_FRAME + 1), Code.TOO_LARGE),
    ):
        with pytest.raises(KeycairnError) as caught:
            await links[1].send(peer, data)
        assert caught.value.code is code
    with pytest.raises(KeycairnError):
        links[1].attach(Sink())
    with pytest.raises(KeycairnError):
        network.link(9)


async def test_a_receiver_that_raises_costs_nothing() -> None:
    network = InProcessNetwork([1, 2])

    class Broken(Sink):
        def frame(self, peer: int, data: bytes) -> None:
            super().frame(peer, data)
            raise RuntimeError("bug")

    sink = Broken()
    network.link(2).attach(sink)
    await network.link(2).start()
    await network.link(1).start()
    await network.link(1).send(2, b"a")
    await network.link(1).send(2, b"b")
    await settle()
    assert [d for _, d in sink.frames] == [b"a", b"b"]
