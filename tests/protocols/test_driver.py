"""The driver on a bad network: what arrives twice, late, never, or from somewhere else."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import msgspec
import pytest

from keycairn.errors import Certainty, Code, KeycairnError, PeerAborted
from keycairn.protocols import frost, keygen, router, session, wire
from keycairn.protocols.driver import run
from keycairn.protocols.form import Round
from keycairn.protocols.session import Frame, Hello
from protocols.lockstep import frost_sign
from protocols.network import (
    ABORT,
    BROADCAST,
    COMMIT,
    CONFIRM,
    DIRECT,
    ECHO,
    HELLO,
    NONCES,
    OPEN,
    READY,
    RECORD,
    RECORD_ECHO,
    RESPONSES,
    Copy,
    World,
    frost_key,
)


def record_hashes(outcomes: dict[int, Any]) -> set[bytes]:
    return {r.hash for o in outcomes.values() for r in o.result.records}


# -- T-012: everything twice ---


async def test_t012_every_frame_of_key_generation_twice_gives_the_same_keys() -> None:
    once = await (await World.of(seed="t012")).keygen(count=2)
    world = await World.of(seed="t012")
    world.frames(lambda c: [c.frame, c.frame])
    twice = await world.keygen(count=2)
    assert record_hashes(once) == record_hashes(twice)
    assert len(record_hashes(once)) == 2
    assert all(len(world[i].events("keygen/pending")) == 1 for i in world.players)


async def test_t012_every_frame_of_a_frost_signature_twice_gives_the_same_signature() -> None:
    once = await (await World.of(seed="t012")).frost(players=(1, 2, 3))
    world = await World.of(seed="t012")
    world.frames(lambda c: [c.frame] * 3)
    again = await world.frost(players=(1, 2, 3))
    assert {o.result.signature for o in once.values()} == {
        o.result.signature for o in again.values()
    }
    assert all(len(world[i].events("spend")) == 1 for i in world.players)


async def test_t012_frames_repeated_after_their_step_change_nothing() -> None:
    world = await World.of(seed="t012")
    seen: list[Copy] = []

    def replay_all(c: Copy) -> list[Frame]:
        seen.append(c)
        return [c.frame, *[old.frame for old in seen if old.sender == c.sender
                           and old.receiver == c.receiver]]  # fmt: skip

    world.frames(replay_all)
    assert len(record_hashes(await world.keygen())) == 1


# -- T-014: messages of other sessions ---


async def recorded(world: World, kind: int, step: int) -> Frame:
    """A frame of player 2 to player 1 from a finished FROST session."""
    await world.frost(name="other")
    return next(c.frame for c in world.log if (c.sender, c.receiver) == (2, 1) and c.at(step, kind))


@pytest.mark.parametrize("step", [COMMIT, OPEN, RECORD, READY])
async def test_t014_a_frost_message_in_a_key_generation_is_a_session_mismatch(step: int) -> None:
    world = await World.of()
    foreign = await recorded(world, BROADCAST, NONCES)

    def change(c: Copy) -> list[Frame] | None:
        if c.sender == 2 and c.receiver == 1 and c.at(step, BROADCAST):
            return [msgspec.structs.replace(foreign, route=c.frame.route, step=step)]
        return None

    world.frames(change)
    outcomes = await world.keygen()
    assert outcomes[1].code is Code.SESSION_MISMATCH
    assert outcomes[1].abort.culprits == ()
    assert not outcomes[1].abort.ban
    assert outcomes[1].abort.detail["peer"] == 2


async def test_t014_a_foreign_message_that_came_before_the_last_confirm_counts_too() -> None:
    """Regression: frames of the first round that came before the id was agreed had any id."""
    world = await World.of()
    foreign = await recorded(world, BROADCAST, NONCES)
    held: list[Frame] = []

    def change(c: Copy) -> list[Frame] | None:
        if (c.sender, c.receiver) == (2, 1) and c.at(1, CONFIRM):
            held.append(c.frame)
            return [msgspec.structs.replace(foreign, route=c.frame.route, step=COMMIT), c.frame]
        return None

    world.frames(change)
    outcomes = await world.keygen()
    assert held
    assert outcomes[1].code is Code.SESSION_MISMATCH


async def test_t014_a_message_relabelled_for_the_session_is_its_senders_fault() -> None:
    world = await World.of()
    foreign = await recorded(world, BROADCAST, RESPONSES)

    def change(c: Copy) -> list[Frame] | None:
        if c.sender == 2 and c.at(COMMIT, BROADCAST):
            return [c.but(body=foreign.body)]
        return None

    world.frames(change)
    outcomes = await world.keygen()
    assert outcomes[1].abort.culprits == outcomes[3].abort.culprits == (2,)


@pytest.mark.parametrize(
    "other",
    [
        {"request_id": "q"}, {"scheme": "ecdsa"}, {"curve": "secp256k1"}, {"threshold": 2},
        {"count": 2},
    ],
    ids=str,
)  # fmt: skip
async def test_t014_players_that_were_asked_for_other_keys_learn_which_field_differs(
    other: dict[str, Any],
) -> None:
    world = await World.of()
    spec, odd = world.keygen_spec(), world.keygen_spec(**other)
    outcomes = await world.run(
        {1: spec, 2: spec, 3: odd},
        lambda i: lambda party: keygen.keygen(party, "vault", (odd if i == 3 else spec).params),
    )
    for i, o in outcomes.items():
        assert o.code is Code.SESSION_MISMATCH
        if not isinstance(o.error, PeerAborted):
            assert o.abort.detail["field"] == next(iter(other)), i
        assert o.abort.certainty is Certainty.NOBODY
        assert not world[i].journal
    assert any(not isinstance(o.error, PeerAborted) for o in outcomes.values())


async def test_t014_key_1_in_the_session_of_key_2_is_named() -> None:
    world = await World.of(2)
    one, two = frost_key(2, key_id="one"), frost_key(2, key_id="two")
    outcomes = await world.run(
        {
            1: world.sign_spec("s", (1, 2), one[1], b"m"),
            2: world.sign_spec("s", (1, 2), two[2], b"m"),
        },
        lambda i: lambda party: frost_sign(party, (one if i == 1 else two)[i], b"m"),
    )
    assert outcomes[1].abort.detail["field"] == "key_id"
    assert not world[1].journal + world[2].journal


async def test_t014_protocol_and_players_of_a_session_are_compared() -> None:
    world = await World.of(2)
    spec, signing = world.keygen_spec("s"), world.sign_spec("s", (1, 2), frost_key(2)[1], b"m")
    outcomes = await world.run(
        {1: spec, 2: signing}, lambda _: lambda party: keygen.keygen(party, "vault", spec.params)
    )
    assert outcomes[1].abort.detail["field"] == "protocol"
    world = await World.of(3, timeout=0.5)
    pair, all_three = world.keygen_spec("p", (1, 2)), world.keygen_spec("p")
    outcomes = await world.run(
        {1: pair, 2: all_three, 3: all_three},
        lambda _: lambda party: keygen.keygen(party, "vault", pair.params),
    )
    assert outcomes[1].abort.detail["field"] == "players"


# -- T-015: who sent it ---


@pytest.mark.parametrize(("step", "kind"), [(COMMIT, BROADCAST), (OPEN, BROADCAST), (OPEN, DIRECT)])
async def test_t015_what_comes_over_player_2s_channel_is_player_2s(step: int, kind: int) -> None:
    """Player 2 sends what player 3 said, signature and all: it is judged as player 2's."""
    world = await World.of()

    def change(c: Copy) -> list[Frame] | None:
        if c.receiver != 1 or not c.at(step, kind) or c.sender not in (2, 3):
            return None
        if c.sender == 3:
            world.inject(2, 1, c.frame)
            return None
        return []

    world.frames(change)
    outcomes = await world.keygen()
    assert outcomes[1].abort.culprits == (2,)
    assert all(3 not in o.abort.culprits for o in outcomes.values())


async def test_t015_a_player_outside_the_session_changes_nothing() -> None:
    """T-023 too: 1,000 frames with the right route and id, but over a stranger's channel."""
    world = await World.of(4)

    def change(c: Copy) -> None:
        if c.receiver == 1 and c.frame.kind != ABORT:
            for kind in range(8):
                world.inject(4, 1, c.but(kind=kind))
                world.inject(4, 1, c.but(kind=kind, body=b"junk"))

    world.frames(change)
    outcomes = await world.keygen(players=(1, 2, 3))
    assert len(record_hashes(outcomes)) == 1


# -- T-016: session names are used once ---


async def test_t016_a_session_name_is_used_once_in_a_process() -> None:
    world = await World.of(2)
    first = await world.frost(b"one")
    again = await world.frost(b"two")
    assert [o.code for o in again.values()] == [Code.SESSION_REPLAY] * 2
    assert all(o.result for o in first.values())
    assert all(len(world[i].events("spend")) == 1 for i in (1, 2))


async def test_t016_a_failed_session_uses_up_its_name_too() -> None:
    world = await World.of(2, timeout=0.2)
    world.frames(lambda c: [] if c.at(NONCES, BROADCAST) else None)
    failed = await world.frost()
    assert {o.code for o in failed.values()} == {Code.PEER_TIMEOUT}
    world.frames(lambda _: None)
    assert {o.code for o in (await world.frost()).values()} == {Code.SESSION_REPLAY}


async def test_t016_after_a_restart_the_same_name_is_another_session_with_other_nonces() -> None:
    world = await World.of(2, seed="restart")
    first = await world.frost(b"same message")
    sid = next(c.frame.body for c in world.log if c.at(1, CONFIRM))
    incarnations = {world[i].environment.incarnation for i in (1, 2)}
    for i in (1, 2):
        await world.restart(i)
    world.log.clear()
    second = await world.frost(b"same message")
    assert next(c.frame.body for c in world.log if c.at(1, CONFIRM)) != sid
    assert incarnations.isdisjoint(world[i].environment.incarnation for i in (1, 2))
    assert first[1].result.base_r != second[1].result.base_r
    assert first[1].result.presignature_id != second[1].result.presignature_id


async def test_t016_one_restarted_player_is_enough_for_another_session_id() -> None:
    """Even a player that repeats its own randomness can't bring an old session id back."""
    sids = []
    for life in (0, 1):
        world = await World.of(2, seed="fixed")
        if life:
            await world.restart(1)
        assert all(o.result for o in (await world.frost()).values())
        sids.append(next(c.frame.body for c in world.log if c.at(1, CONFIRM)))
    assert sids[0] != sids[1]


async def test_a_player_that_restarted_within_the_handshake_is_not_called_a_cheat() -> None:
    """Regression: a second HELLO was equivocation, with the honest player as the culprit."""
    world = await World.of(3)

    def change(c: Copy) -> list[Frame] | None:
        if c.sender == 2 and c.at(0, HELLO):
            hello = c.body(Hello)
            return [c.frame, c.but(body=msgspec.structs.replace(hello, nonce=b"2" * 32))]
        return None

    world.frames(change)
    for o in (await world.keygen()).values():
        assert o.code is Code.SESSION_MISMATCH
        assert o.abort.certainty is Certainty.NOBODY


# -- T-022: silence, disorder, floods ---


async def test_t022_frames_out_of_order_between_steps_are_put_in_order() -> None:
    """Player 3's frame of every second step comes after its frame of the next."""
    world = await World.of(seed="order")
    held: dict[int, list[Frame]] = {1: [], 2: []}

    def change(c: Copy) -> list[Frame] | None:
        if c.sender != 3 or c.frame.step > 7:
            return None
        if c.frame.step % 2 == 0:
            held[c.receiver].append(c.frame)
            return []
        late, held[c.receiver] = held[c.receiver], []
        return [c.frame, *reversed(late)]

    world.frames(change)
    assert len(record_hashes(await world.keygen())) == 1


async def test_t022_round_3_before_round_2_is_dropped_and_asked_for_in_its_turn() -> None:
    world = await World.of()
    future = wire.encode(keygen.RecordHash(b"f" * 32))

    def change(c: Copy) -> list[Frame] | None:
        if c.sender == 3 and c.at(COMMIT, BROADCAST):
            return [c.but(step=RECORD, body=future), c.but(step=READY, body=future), c.frame]
        return None

    world.frames(change)
    assert len(record_hashes(await world.keygen())) == 1


@pytest.mark.parametrize(
    ("step", "kind"),
    [(0, HELLO), (1, CONFIRM), (COMMIT, BROADCAST), (COMMIT + 1, ECHO), (OPEN, BROADCAST),
     (OPEN, DIRECT), (RECORD_ECHO, ECHO)],
)  # fmt: skip
async def test_t022_a_withheld_frame_is_a_time_out_that_names_its_sender(
    step: int, kind: int
) -> None:
    world = await World.of(timeout=0.4)

    def mute(c: Copy) -> list[Frame] | None:
        return [] if c.sender == 3 and (c.at(step, kind) or c.frame.kind == ABORT) else None

    world.frames(mute)
    outcomes = await world.keygen()
    for i in (1, 2):
        assert outcomes[i].code is Code.PEER_TIMEOUT
        assert outcomes[i].abort.detail["waiting_for"] == [3], i
        assert "3" in outcomes[i].abort.message
        assert not outcomes[i].abort.ban
        assert not world[i].journal


async def test_t022_10_000_frames_of_the_future_fill_no_memory_and_stop_nobody() -> None:
    world = await World.of()
    largest = 0

    def flood(c: Copy) -> None:
        nonlocal largest
        if c.sender == 3 and c.receiver == 1 and c.at(COMMIT, BROADCAST):
            for n in range(10_000):
                box = world[1].router._open[c.frame.route]
                box.put(3, c.but(step=COMMIT + n // 2, kind=DIRECT, body=bytes(1000)))
                largest = max(largest, len(box.slots))

    world.frames(flood)
    assert len(record_hashes(await world.keygen())) == 1
    assert 0 < largest < 40


async def test_t022_hellos_of_sessions_nobody_asked_for_are_bounded_in_number_and_bytes() -> None:
    world = await World.of(2)
    flooded = world[1].router
    for n in range(10_000):
        body = bytes(100 if n % 2 else 30_000)
        frame = Frame(1, n.to_bytes(32, "big"), b"", 0, HELLO, body, b"")
        flooded.deliver(2, wire.encode(frame))
    early = flooded._early[2]
    assert len(early) <= router._EARLY_PER_PEER
    assert sum(len(f.body) for f in early.values()) <= router._EARLY_BYTES
    assert flooded.dropped >= 9_000
    assert all(o.result for o in (await world.frost()).values())


def test_t022_a_mailbox_holds_no_large_frame_where_only_small_ones_belong() -> None:
    box = router.Mailbox(frozenset({2}))
    huge = bytes(300 << 10)
    for step in range(3):
        box.advance(step)
        for kind, body, sid, signature in (
            (HELLO, huge, b"", b""),
            (CONFIRM, huge, b"", b""),
            (ECHO, huge, b"", b""),
            (HELLO, b"", b"", huge),
            (HELLO, b"", huge, b""),
            (BROADCAST, b"", b"", huge),
            (99, b"", b"", b""),
            (-1, b"", b"", b""),
        ):
            box.put(2, Frame(1, b"", sid, step, kind, body, signature))
    assert not box.slots
    assert box.failure is None


async def test_a_long_message_and_a_large_batch_meet_a_player_that_is_asked_later() -> None:
    """Regression: HELLOs over 64 KiB were dropped when they came before the request."""
    world = await World.of(2)
    message = bytes(frost.MAX_MESSAGE)
    key = frost_key(2)
    spec = world.sign_spec("s", (1, 2), key[1], message)
    first = asyncio.create_task(
        run(spec, lambda party: frost_sign(party, key[1], message), world[1].environment)
    )
    while not world.log:
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    second = await run(spec, lambda party: frost_sign(party, key[2], message), world[2].environment)
    assert (await first).signature == second.signature


# -- T-023: junk ---


async def test_t023_1_000_junk_frames_do_not_stop_a_session() -> None:
    world = await World.of()
    rnd = random.Random(23)
    junk = 0

    def change(c: Copy) -> None:
        nonlocal junk
        if c.frame.kind == ABORT:
            return
        good = wire.encode(c.frame)
        for _ in range(60):
            junk += 1
            data = bytearray(good) if rnd.random() < 0.5 else bytearray(rnd.randbytes(80))
            del data[rnd.randrange(len(data)) :]
            world.network.inject(c.sender, c.receiver, b"S" + bytes(data))
            world.network.inject(c.sender, c.receiver, rnd.randbytes(20))
            other = msgspec.structs.replace(c.frame, route=rnd.randbytes(32))
            world.inject(c.sender, c.receiver, other)

    world.frames(change)
    assert len(record_hashes(await world.keygen())) == 1
    assert junk >= 1000


# -- T-024: versions ---


async def test_t024_another_wire_version_is_named() -> None:
    world = await World.of()
    world.frames(lambda c: [c.but(version=0)] if c.sender == 3 and c.at(0, HELLO) else None)
    outcomes = await world.keygen()
    for i in (1, 2):
        assert outcomes[i].code is Code.SESSION_MISMATCH
    assert "wire version" in {outcomes[i].abort.detail.get("field") for i in (1, 2)}


@pytest.mark.parametrize("version", [0, 2])
async def test_t024_another_protocol_version_is_named(version: int) -> None:
    world = await World.of()
    spec, odd = world.keygen_spec(), world.keygen_spec(version=version)
    outcomes = await world.run(
        {1: spec, 2: spec, 3: odd},
        lambda _: lambda party: keygen.keygen(party, "vault", spec.params),
    )
    assert {o.code for o in outcomes.values()} == {Code.SESSION_MISMATCH}
    assert "protocol_version" in {o.abort.detail.get("field") for o in outcomes.values()}


@pytest.mark.parametrize(
    "change",
    [
        {"bindings": ((-1, b""),)},
        {"bindings": ((9, b"x"),)},
        {"bindings": ((1, b""), (1, b""))},
        {"bindings": ((2, b"x"), (1, b"x"))},
        {"bindings": ((1, b"another setup"),)},
        {"nonce": b"short"},
        {"nonce": b""},
        {"incarnation": b""},
        {"players": (1, 2)},
        {"players": (-1, 2**63)},
        {"vault": "other"},
        {"name": "other"},
        {"protocol": "keygen2"},
        {"params": b""},
        {"params": b"\xc1"},
    ],
    ids=str,
)
async def test_a_hello_with_any_odd_field_is_a_mismatch_and_nobodys_fault(
    change: dict[str, Any],
) -> None:
    """Regression: a negative binding reached the encoder and raised ValueError."""
    world = await World.of()

    def tamper(c: Copy) -> list[Frame] | None:
        if c.sender == 2 and c.receiver == 1 and c.at(0, HELLO):
            return [c.but(body=msgspec.structs.replace(c.body(Hello), **change))]
        return None

    world.frames(tamper)
    outcomes = await world.keygen()
    assert outcomes[1].code is Code.SESSION_MISMATCH
    assert outcomes[1].abort.certainty is Certainty.NOBODY
    assert not any(world[i].journal for i in world.players)


async def test_a_hello_on_another_pair_setup_says_that_a_repetition_helps() -> None:
    """Regression: the first signature after a rejoin failed with the advice to send the same body
    to all nodes, when a peer still had the setup of the incarnation before."""
    world = await World.of()

    def tamper(c: Copy) -> list[Frame] | None:
        if c.sender == 2 and c.receiver == 1 and c.at(0, HELLO):
            return [c.but(body=msgspec.structs.replace(c.body(Hello), bindings=((1, b"old"),)))]
        return None

    world.frames(tamper)
    abort = (await world.keygen())[1].abort
    assert abort.code is Code.SESSION_MISMATCH
    # What the client repeats a request for (tests/client/test_vault.py).
    assert abort.detail["setup_ended"] is True
    assert "repeat the request" in abort.next


async def test_a_hello_that_is_no_hello_is_its_senders_fault() -> None:
    world = await World.of()
    world.frames(lambda c: [c.but(body=b"\xc1")] if c.sender == 2 and c.at(0, HELLO) else None)
    outcomes = await world.keygen()
    assert outcomes[1].code is Code.MALFORMED
    assert outcomes[1].abort.culprits == (2,)


# -- silence, cancellation, faults of our own ---


async def test_a_silent_peer_holds_up_its_own_session_only() -> None:
    world = await World.of(timeout=0.5)
    silent = world.keygen_spec("silent").route
    world.frames(lambda c: [] if c.sender == 3 and c.frame.route == silent else None)
    blocked, keys, signed = await asyncio.gather(
        world.keygen("silent"), world.keygen("loud"), world.frost(players=(1, 2, 3))
    )
    assert blocked[1].abort.detail["waiting_for"] == [3]
    assert len(record_hashes(keys)) == 1
    assert all(o.result for o in signed.values())


async def test_a_peer_that_goes_down_ends_the_session_at_once() -> None:
    world = await World.of(timeout=60)

    def change(c: Copy) -> list[Frame] | None:
        if c.sender == 3 and c.at(OPEN, BROADCAST):
            world.network.take_down(3)
            return []
        return None

    world.frames(change)
    outcomes = await world.keygen()
    for i in (1, 2):
        assert outcomes[i].code is Code.PEER_TIMEOUT
        assert outcomes[i].abort.detail["waiting_for"] == [3]


async def test_a_cancelled_session_tells_its_peers() -> None:
    world = await World.of(timeout=60)
    spec = world.keygen_spec()
    tasks = {
        i: asyncio.create_task(
            run(
                spec, lambda party: keygen.keygen(party, "vault", spec.params), world[i].environment
            )  # type: ignore[arg-type]
        )
        for i in world.players
    }

    def change(c: Copy) -> list[Frame] | None:
        if c.sender == 3 and c.at(OPEN, DIRECT):
            tasks[3].cancel()
            return []
        return None

    world.frames(change)
    done = await asyncio.gather(*tasks.values(), return_exceptions=True)
    assert isinstance(done[2], asyncio.CancelledError)
    for error in done[:2]:
        assert isinstance(error, PeerAborted)
        assert error.code is Code.UNAVAILABLE
        assert error.reported_by in (1, 2, 3)
        assert error.culprits == ()


async def test_a_time_out_during_a_step_of_our_own_is_not_the_peers_fault() -> None:
    """Regression: closing a generator at work raised ValueError, and nobody was told."""
    world = await World.of(2, timeout=0.3)
    release = threading.Event()

    def stuck(party: Any) -> Any:
        release.wait(2)
        yield Round(broadcast=keygen.Commitment(b""))

    def eager(party: Any) -> Any:
        yield Round(broadcast=keygen.Commitment(b""))

    spec = world.keygen_spec()
    try:
        outcomes = await world.run({1: spec, 2: spec}, lambda i: stuck if i == 1 else eager)
    finally:
        release.set()
    assert outcomes[1].code is Code.UNAVAILABLE
    assert outcomes[1].abort.culprits == ()
    assert outcomes[2].code in (Code.UNAVAILABLE, Code.PEER_TIMEOUT)


async def test_a_fault_of_our_own_is_raised_as_it_is_and_the_peers_are_told() -> None:
    world = await World.of(2, timeout=60)

    def broken(party: Any) -> Any:
        yield Round(broadcast=keygen.Commitment(b""))
        raise ZeroDivisionError

    def honest(party: Any) -> Any:
        yield Round(broadcast=keygen.Commitment(b""))
        yield Round(broadcast=keygen.Commitment(b""))

    spec = world.keygen_spec()
    outcomes = await world.run({1: spec, 2: spec}, lambda i: broken if i == 1 else honest)
    assert isinstance(outcomes[1].error, ZeroDivisionError)
    assert outcomes[2].code is Code.UNAVAILABLE
    assert isinstance(outcomes[2].error, PeerAborted)


@pytest.mark.parametrize("players", [(2, 1), (1, 1, 2), (2, 3), ()])
async def test_t006_players_of_a_session_are_sorted_distinct_and_contain_this_one(
    players: tuple[int, ...],
) -> None:
    world = await World.of()
    spec = world.keygen_spec("s", (1, 2))
    odd = session.SessionSpec("s", spec.protocol, spec.version, spec.vault, players, spec.params)
    with pytest.raises(KeycairnError) as caught:
        await run(odd, lambda party: iter(()), world[1].environment)  # type: ignore[arg-type, return-value]
    assert caught.value.code is Code.BAD_INDEX


async def test_a_wrong_confirm_is_a_mismatch() -> None:
    world = await World.of()
    world.frames(lambda c: [c.but(body=bytes(32))] if c.sender == 3 and c.at(1, CONFIRM) else None)
    outcomes = await world.keygen()
    assert outcomes[1].code is Code.SESSION_MISMATCH
    assert outcomes[1].abort.certainty is Certainty.NOBODY


async def test_an_abort_with_junk_for_a_code_blames_nobody() -> None:
    world = await World.of(timeout=1)

    def change(c: Copy) -> list[Frame] | None:
        if c.sender == 3 and c.at(COMMIT, BROADCAST):
            notice = session.AbortNotice("E_OT_CHECK " * 5)
            return [c.but(kind=ABORT, body=b"junk"), c.but(kind=ABORT, body=notice)]
        return None

    world.frames(change)
    for i in (1, 2):
        error = (await world.keygen(f"k{i}"))[i].abort
        assert error.code is Code.UNAVAILABLE
        assert isinstance(error, PeerAborted)
        assert error.culprits == ()


async def test_an_abort_of_an_earlier_session_does_not_end_this_one() -> None:
    world = await World.of()

    def change(c: Copy) -> list[Frame] | None:
        if c.sender == 3 and c.at(COMMIT, BROADCAST):
            old = c.but(kind=ABORT, sid=b"x" * 32, body=session.AbortNotice("E_BAD_SHARE"))
            return [old, c.frame]
        return None

    world.frames(change)
    assert len(record_hashes(await world.keygen())) == 1


async def test_a_hello_of_the_new_incarnation_survives_the_end_of_the_old_one() -> None:
    """Regression: a session frame overtakes control messages, and was thrown away with the old."""
    mine = router.Router()
    params = wire.encode(keygen.Commitment(b""))
    for n, incarnation in enumerate((b"old" * 10, b"new" * 10)):
        hello = Hello("p", 1, "v", str(n), (1, 2), params, incarnation, bytes(32), ())
        mine.deliver(2, wire.encode(Frame(1, bytes([n]), b"", 0, HELLO, wire.encode(hello), b"")))
    mine.forget_peer(2, b"new" * 10)
    mine.forget_peer(3, b"new" * 10)
    assert list(mine._early[2]) == [b"\1"]
