"""Attacks on the driver and the router that were tried, named after what the attacker wants."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from keycairn.errors import Code
from keycairn.ports.seeded import SeededRng
from keycairn.protocols import keygen, router, session, wire
from keycairn.protocols.driver import SESSION_FRAME, abort_frame
from keycairn.protocols.durable import Ban, Spend
from keycairn.protocols.form import Durable, Party
from keycairn.protocols.session import Frame, SessionSpec
from protocols.network import VAULT, World


def early_hello(spec: SessionSpec, sender: int) -> bytes:
    body = wire.encode(spec.hello(bytes(32), bytes([sender]) * 32))
    return wire.encode(Frame(session.WIRE_VERSION, spec.route, b"", 0, session.HELLO, body, b""))


async def interrupted(record: Any) -> tuple[list[Any], Code | None]:
    """A session that times out while a step of it is at work, which then yields ``record``."""
    world = await World.of(2, timeout=0.3)
    begun, go_on = threading.Event(), threading.Event()

    def slow_check(_party: Any) -> Any:
        begun.set()
        go_on.wait(10)
        yield Durable("late", record)
        raise AssertionError("the session is over")

    spec = world.keygen_spec(players=(1, 2))
    with ThreadPoolExecutor(4) as threads:
        for i in world.players:
            env = replace(world[i].environment, executor=threads)
            world[i].environment = env
        timer = threading.Timer(0.8, go_on.set)
        timer.start()
        outcomes = await world.run({i: spec for i in spec.players}, lambda _: slow_check)
        timer.join()
    assert begun.is_set()
    return [d.record for d in world[1].journal], outcomes[1].code


async def test_t033_a_cheat_timed_for_the_end_of_the_session_is_banned_all_the_same() -> None:
    """The last message comes just before the time-out: the check fails when the session is over.

    Without the ban the cheater could try again on the next setup, as often as it likes.
    """
    ban = Ban((2,), "E_OT_CHECK", {})
    journal, code = await interrupted(ban)
    assert journal == [ban]
    assert code is Code.UNAVAILABLE


async def test_nothing_else_of_a_session_that_is_over_becomes_durable() -> None:
    journal, _ = await interrupted(Spend(bytes(32), b"", "key", bytes(32)))
    assert journal == []


async def test_refusals_of_one_application_do_not_push_out_another_ones_session() -> None:
    """A client makes an honest node refuse hundreds of requests; the notices reach its peer
    between the two calls of somebody else's request."""
    world = await World.of(2)
    mine = world[1].router
    spec = world.keygen_spec("victim", players=(1, 2))
    mine.deliver(2, early_hello(spec, 2))
    for n in range(5 * router._EARLY_PER_PEER):
        refused = abort_frame(session.route_of(VAULT, f"junk-{n}"), b"", 0, Code.NOT_FOUND)
        mine.deliver(2, refused[len(SESSION_FRAME) :])
    box = mine.open(spec.route, frozenset({2}))
    assert set(box.take(0, session.HELLO)) == {2}
    assert sum(len(kept) for kept in mine._given_up.values()) <= router._GIVEN_UP_PER_PEER


async def test_a_peer_that_gave_up_before_is_heard_and_its_hello_is_void() -> None:
    world = await World.of(2)
    mine = world[1].router
    spec = world.keygen_spec("refused", players=(1, 2))
    notice = abort_frame(spec.route, b"", 0, Code.NOT_FOUND)[len(SESSION_FRAME) :]
    mine.deliver(2, early_hello(spec, 2))
    mine.deliver(2, notice)
    mine.deliver(2, early_hello(spec, 2))
    box = mine.open(spec.route, frozenset({2}))
    assert box.take(0, session.HELLO) == {}
    assert box.aborted == {2: Code.NOT_FOUND.value}


def test_refused_requests_do_not_fill_the_memory() -> None:
    mine = router.Router()
    for n in range(20):
        assert mine.refuse(n.to_bytes(32, "big"))
    before, router._REMEMBERED_NAMES = router._REMEMBERED_NAMES, 10
    try:
        for n in range(20, 40):
            assert mine.refuse(n.to_bytes(32, "big"))
    finally:
        router._REMEMBERED_NAMES = before
    assert len(mine._used) == 10


async def test_a_notice_as_large_as_a_message_is_not_kept() -> None:
    mine = router.Router()
    body = wire.encode(session.AbortNotice("x" * 100_000))
    frame = Frame(session.WIRE_VERSION, bytes(32), b"", 0, session.ABORT, body, b"")
    mine.deliver(2, wire.encode(frame))
    assert not mine._given_up[2]


def test_t022_a_peer_in_many_small_sessions_cannot_fill_the_memory() -> None:
    """Four bodies of 16 MiB in each of 64 sessions would be 4 GiB."""
    box = router.Mailbox(frozenset({2}), session.SMALL_ROUNDS)
    box.advance(2)
    for step in (2, 3):
        for kind in (session.BROADCAST, session.DIRECT):
            for size in (session.SMALL_ROUNDS + 1, wire.MAX_MESSAGE):
                box.put(2, Frame(1, bytes(32), b"", step, kind, bytes(size), b""))
    assert box.slots == {}
    box.put(2, Frame(1, bytes(32), b"", 2, session.DIRECT, bytes(session.SMALL_ROUNDS), b""))
    assert len(box.slots) == 1


@pytest.mark.parametrize(("threshold", "players", "count"), [(1, 2, 1), (1, 3, 40), (31, 32, 1)])
def test_honest_openings_stay_below_what_is_taken(threshold: int, players: int, count: int) -> None:
    params = keygen.KeygenParams("r", "ecdsa", "secp256k1", threshold, count)
    party = Party(1, tuple(range(1, players + 1)), bytes(32), SeededRng(1), _NoSigner())
    dealer = keygen._Dealer(party, params)
    limit = keygen.largest_round(params)
    assert len(wire.encode(dealer.opening)) <= limit
    assert len(wire.encode(dealer.shares()[2])) <= limit


class _NoSigner:
    def sign(self, data: bytes) -> bytes:
        raise NotImplementedError

    def verify(self, player: int, data: bytes, signature: bytes) -> bool:
        raise NotImplementedError
