"""Pairwise setup: base OTs, life cycle, and what a peer may send."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from keycairn.curves import SECP256K1
from keycairn.errors import Abort, Certainty, Code, KeycairnError
from keycairn.ports.seeded import SeededRng
from keycairn.protocols import base_ot
from keycairn.protocols.setup import MAX_AGE_US, MAX_OTS, PairSetup, judge_all, pair_setup
from protocols.lockstep import (
    BAD_POINTS,
    DROP,
    Envelope,
    altered,
    deal_setups,
    parties,
    replace,
    run,
)


def setup(
    players: tuple[int, int] = (1, 2), sid: str = "setup", seed: object = 0, hook: Any = None
):
    members = parties(players, sid, seed)
    return run({i: pair_setup(members[i]) for i in players}, hook)


@pytest.fixture(scope="module")
def made() -> dict[int, PairSetup]:
    return {i: o.result for i, o in setup().items()}


def bits(data: bytes) -> np.ndarray:
    return np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")


def test_both_sides_fit_in_both_directions(made: dict[int, PairSetup]) -> None:
    one, two = made[1], made[2]
    assert one.setup_id == two.setup_id
    assert (one.index, one.peer) == (two.peer, two.index) == (1, 2)
    assert one.state().zeta == two.state().zeta
    for alice, bob in ((one, two), (two, one)):
        chosen, both = alice.state().alice_keys, bob.state().bob_keys
        for i, bit in enumerate(bits(alice.state().delta)):
            pair = both[32 * i : 32 * i + 16], both[32 * i + 16 : 32 * i + 32]
            assert chosen[16 * i : 16 * i + 16] == pair[bit]
            assert pair[1 - bit] != pair[bit]


def test_keys_depend_on_the_setup_id() -> None:
    """Endemic keys may be chosen by a cheater; hashed with the setup id they are nobody's."""
    rng = SeededRng(1)
    psid = base_ot.pair_id(b"s", 1, 2)
    receiver, sender = base_ot.Receiver(psid, rng), base_ot.Sender(psid, rng)
    assert receiver.keys(b"a" * 32, sender.point) != receiver.keys(b"b" * 32, sender.point)


def test_t036_choice_bits_are_independent() -> None:
    """Toward two peers, across two setups, and of the two directions: 5 sigma of 128/2."""
    deltas = [
        setup(players, sid, seed)[i].result.state().delta
        for players, sid, seed in [((1, 2), "a", 1), ((1, 3), "b", 2), ((1, 2), "c", 3)]
        for i in players
    ]
    sigma = (128 * 0.25) ** 0.5
    for k, x in enumerate(deltas):
        assert abs(int(bits(x).sum()) - 64) < 5 * sigma
        for y in deltas[k + 1 :]:
            distance = int((bits(x) ^ bits(y)).sum())
            assert abs(distance - 64) < 5 * sigma


def test_sent_points_do_not_tell_the_choice(made: dict[int, PairSetup]) -> None:
    """r0 and r1 are full columns of points and the parity of their encodings is no signal."""
    psid = base_ot.pair_id(b"s", 1, 2)
    agree = 0
    for seed in range(4):
        receiver = base_ot.Receiver(psid, SeededRng(seed))
        assert len(receiver.r0) == len(receiver.r1) == base_ot.COLUMN_LEN == 4224
        parity = np.frombuffer(receiver.r0, np.uint8).reshape(128, 33)[:, 0] & 1
        agree += int((parity == bits(receiver.delta)).sum())
    assert abs(agree - 256) < 5 * (512 * 0.25) ** 0.5


@pytest.mark.parametrize("bad", BAD_POINTS)
@pytest.mark.parametrize("name", ["point", "r0", "r1"])
def test_t001_t002_bad_points_name_the_peer(name: str, bad: bytes) -> None:
    def change(message: Any) -> Any:
        return replace(message, **{name: lambda old: old[: len(old) - 33] + bad})

    out = setup(hook=altered(1, 2, change, broadcast=False))
    assert out[1].code is Code.BAD_POINT
    assert out[1].abort.culprits == (2,)
    assert not out[1].abort.ban


@pytest.mark.parametrize("name", ["point", "r0", "r1", "seed"])
@pytest.mark.parametrize(
    "cut", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b"", lambda b: b + b[-33:]]
)
def test_t008_wrong_lengths_name_the_peer(name: str, cut: Any) -> None:
    out = setup(hook=altered(1, 2, lambda m: replace(m, **{name: cut}), broadcast=False))
    assert out[1].code is Code.BAD_LENGTH
    assert out[1].abort.culprits == (2,)


def test_identity_made_from_good_points_is_refused() -> None:
    """r_0 = -P(…, r_1): every encoding is fine, the shared point would be the identity."""

    def change(message: Any) -> Any:
        psid = base_ot.pair_id(parties((1, 2), "setup")[1].sid, 1, 2)
        hashed = base_ot._hash_to_point(base_ot._hash_head(psid), 0, 0, message.r1[:33])
        return replace(message, r0=SECP256K1.neg(hashed).encode() + message.r0[33:])

    out = setup(hook=altered(1, 2, change, broadcast=False))
    assert out[1].code is Code.BAD_POINT
    assert out[1].abort.culprits == (2,)


@pytest.mark.parametrize("name", ["point", "r0", "r1"])
def test_different_views_are_seen_at_the_confirmation(name: str) -> None:
    """Altered on the way: nobody is blamed and neither side has a setup."""
    other = SECP256K1.base_mul(77).encode()
    change = {name: lambda old: old[: len(old) - 33] + other}
    out = setup(hook=altered(1, 2, lambda m: replace(m, **change), broadcast=False))
    for i in (1, 2):
        assert out[i].code is Code.SESSION_MISMATCH
        assert out[i].abort.certainty is Certainty.NOBODY
        assert out[i].result is None


def test_silent_peer_and_wrong_confirmation_length() -> None:
    def drop(e: Envelope) -> Any:
        return DROP if (e.number, e.sender) == (2, 2) else e.message

    assert setup(hook=drop)[1].code is Code.PEER_TIMEOUT
    short = altered(2, 2, lambda m: replace(m, setup_id=m.setup_id[:31]), broadcast=False)
    out = setup(hook=short)
    assert (out[1].code, out[1].abort.culprits) == (Code.BAD_LENGTH, (2,))


@pytest.mark.parametrize("players", [(1,), (1, 2, 3)])
def test_exactly_two_players(players: tuple[int, ...]) -> None:
    members = parties(players)
    with pytest.raises(KeycairnError) as caught:
        next(pair_setup(members[1]))
    assert caught.value.code is Code.BAD_INDEX


# -- life cycle -----------------------------------------------------------------------------


@pytest.fixture
def fresh() -> PairSetup:
    return deal_setups((1, 2))[1][2]


def test_t115_nothing_prints_copies_or_pickles(fresh: PairSetup) -> None:
    state = fresh.state()
    for text in (repr(fresh), str(fresh), repr(state), f"{state}"):
        for secret in (state.delta, state.alice_keys, state.bob_keys, state.zeta):
            assert secret.hex()[:16] not in text
            assert repr(secret)[2:12] not in text
    for spread in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            spread(fresh)


@pytest.mark.parametrize("name", ["delta", "alice_keys", "bob_keys", "zeta"])
def test_one_flipped_bit_is_found_at_home_and_blames_nobody(fresh: PairSetup, name: str) -> None:
    state = fresh.state()
    damaged = bytearray(getattr(state, name))
    damaged[3] ^= 0x10
    object.__setattr__(state, name, bytes(damaged))
    with pytest.raises(Abort) as caught:
        fresh.state()
    assert caught.value.code is Code.UNAVAILABLE
    assert caught.value.culprits == ()
    assert fresh.dead


def test_a_killed_setup_serves_nobody(fresh: PairSetup) -> None:
    fresh.kill()
    assert fresh.dead
    assert fresh.expired(fresh.created_at_us)
    for use in (fresh.state, lambda: fresh.reserve(1), lambda: fresh.judge().__enter__()):
        with pytest.raises(Abort) as caught:
            use()
        assert caught.value.code is Code.UNAVAILABLE
        assert not caught.value.ban


def test_it_ends_after_2_to_32_ots(fresh: PairSetup) -> None:
    fresh.created_at_us = 1
    fresh.reserve(MAX_OTS - 1)
    assert not fresh.expired(1)
    with pytest.raises(Abort):
        fresh.reserve(2)
    assert fresh.ots_used == MAX_OTS - 1
    fresh.reserve(1)
    assert fresh.expired(1)


def test_it_ends_after_seven_days_whatever_the_clock_does(fresh: PairSetup) -> None:
    now = 1_700_000_000_000_000
    assert fresh.expired(now), "no creation time was set"
    fresh.created_at_us = now
    assert not fresh.expired(now + MAX_AGE_US - 1)
    assert fresh.expired(now + MAX_AGE_US)
    assert fresh.expired(now - MAX_AGE_US)


def test_judge_excludes_others_and_takes_locks_in_order() -> None:
    setups = deal_setups((1, 2, 3))[1]
    with judge_all([setups[3], setups[2]]):
        assert setups[2]._lock.locked()
        assert setups[3]._lock.locked()
        setups[2].kill()
    assert not setups[2]._lock.locked()
    with pytest.raises(Abort), judge_all(setups.values()):
        pytest.fail("evaluated on a dead setup")
    assert not setups[3]._lock.locked()
