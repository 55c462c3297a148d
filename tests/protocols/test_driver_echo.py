"""Echo broadcast: equivocation is proved on all honest nodes, false accusations turn around."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from keycairn.errors import Certainty, Code
from keycairn.protocols import keygen, session
from keycairn.protocols.session import Echo, Frame
from protocols.network import (
    ABORT,
    BROADCAST,
    COMMIT,
    ECHO,
    OPEN,
    OPEN_ECHO,
    RECORD,
    Copy,
    World,
)


def no_key_anywhere(world: World) -> bool:
    return not any(world[i].journal for i in world.players)


def equivocates(world: World, step: int, message: Any, *, to: tuple[int, ...] = (2,)) -> None:
    """Player 3 shows the players ``to`` another, validly signed broadcast, and never gives up."""

    def change(c: Copy) -> list[Frame] | None:
        if c.sender != 3:
            return None
        if c.frame.kind == ABORT:
            return []
        if c.at(step, BROADCAST) and c.receiver in to:
            return [world.sign(c, message(c) if callable(message) else message)]
        return None

    world.frames(change)


def convicted(outcomes: dict[int, Any], honest: tuple[int, ...], culprit: int = 3) -> None:
    for i in honest:
        abort = outcomes[i].abort
        assert abort.code is Code.EQUIVOCATION, (i, abort)
        assert abort.culprits == (culprit,)
        assert abort.certainty is Certainty.CERTAIN
        assert not abort.ban


def other_commitment(c: Copy) -> keygen.Commitment:
    return keygen.Commitment(b"c" * 32)


def other_chain_code(c: Copy) -> keygen.Opening:
    opening = c.body(keygen.Opening)
    return msgspec.structs.replace(opening, chain=(b"c" * 32,) * len(opening.chain))


async def test_t018_equivocated_commitments_are_proved_on_all_honest_nodes() -> None:
    world = await World.of()
    equivocates(world, COMMIT, other_commitment)
    outcomes = await world.keygen(count=2)
    convicted(outcomes, (1, 2))
    assert no_key_anywhere(world)


@pytest.mark.parametrize("to", [(2,), (1, 2), (2, 4)], ids=str)
async def test_t018_commitments_equivocated_to_two_groups(to: tuple[int, ...]) -> None:
    world = await World.of(5)
    equivocates(world, COMMIT, other_commitment, to=to)
    outcomes = await world.keygen(threshold=2)
    convicted(outcomes, (1, 2, 4, 5))
    assert no_key_anywhere(world)


async def test_t018_the_evidence_convinces_a_stranger() -> None:
    world = await World.of()
    equivocates(world, COMMIT, other_commitment)
    detail = (await world.keygen())[1].abort.detail
    assert len({e["hash"] for e in detail["evidence"]}) == 2
    for e in detail["evidence"]:
        statement = session.broadcast_statement(
            bytes.fromhex(detail["session"]), detail["step"], 3, bytes.fromhex(e["hash"])
        )
        assert world.signers[1].verify(3, statement, bytes.fromhex(e["signature"]))


async def test_t019_an_equivocated_chain_code_is_proved_and_makes_no_key() -> None:
    world = await World.of()
    equivocates(world, OPEN, other_chain_code)
    outcomes = await world.keygen()
    convicted(outcomes, (1, 2))
    assert no_key_anywhere(world)


async def test_t018_an_equivocated_record_hash_is_proved() -> None:
    world = await World.of()
    equivocates(world, RECORD, keygen.RecordHash(b"r" * 32))
    outcomes = await world.keygen()
    convicted(outcomes, (1, 2))
    assert no_key_anywhere(world)


async def test_t018_t022_an_equivocator_that_withholds_its_own_echo_is_convicted_all_the_same() -> (
    None
):
    """Regression: echoes were judged only when all had come."""
    world = await World.of(timeout=20)
    equivocates(world, COMMIT, other_commitment)
    inner = world._change
    world.frames(lambda c: [] if c.sender == 3 and c.frame.kind == ECHO else inner(c))
    outcomes = await world.keygen()
    convicted(outcomes, (1, 2))


async def test_two_different_messages_of_one_step_over_one_channel_are_equivocation() -> None:
    world = await World.of()

    def change(c: Copy) -> list[Frame] | None:
        if c.sender == 3 and c.receiver == 1 and c.at(COMMIT, BROADCAST):
            return [c.frame, world.sign(c, keygen.Commitment(b"d" * 32))]
        return None

    world.frames(change)
    assert (await world.keygen())[1].abort.culprits == (3,)


def accuses(world: World, step: int, change_echo: Any) -> None:
    """Player 3 echoes something that player 2 never signed."""

    def change(c: Copy) -> list[Frame] | None:
        if c.sender == 3 and c.at(step, ECHO):
            return [c.but(body=change_echo(c.body(Echo)))]
        return [] if c.sender == 3 and c.frame.kind == ABORT else None

    world.frames(change)


def _swap(vector: tuple[bytes, ...], place: int, value: bytes) -> tuple[bytes, ...]:
    return (*vector[:place], value, *vector[place + 1 :])


@pytest.mark.parametrize("step", [COMMIT + 1, OPEN_ECHO])
@pytest.mark.parametrize("origin", [1, 2, 3])
@pytest.mark.parametrize("hashed", [b"h" * 32, b"", b"h" * 31], ids=len)
async def test_false_accusations_blame_the_accuser(step: int, origin: int, hashed: bytes) -> None:
    world = await World.of()
    accuses(
        world,
        step,
        lambda e: msgspec.structs.replace(e, hashes=_swap(e.hashes, origin - 1, hashed)),
    )
    outcomes = await world.keygen()
    for i in (1, 2):
        assert outcomes[i].abort.code is Code.BAD_PROOF
        assert outcomes[i].abort.culprits == (3,)
    assert no_key_anywhere(world)


@pytest.mark.parametrize(
    "echo",
    [Echo((), ()), Echo((b"h" * 32,) * 2, (b"s" * 64,) * 2), Echo((b"h" * 32,) * 4, ()), None],
    ids=["empty", "short", "long", "junk"],
)
async def test_malformed_echoes_blame_their_sender(echo: Echo | None) -> None:
    world = await World.of()

    def change(c: Copy) -> list[Frame] | None:
        if c.sender == 3 and c.at(COMMIT + 1, ECHO):
            return [c.but(body=echo if echo is not None else b"\xc1")]
        return None

    world.frames(change)
    outcomes = await world.keygen()
    assert outcomes[1].abort.culprits == outcomes[2].abort.culprits == (3,)


async def test_an_old_signature_of_the_victim_is_no_evidence() -> None:
    """The accuser shows player 2's true signature of another session, or of another step."""
    world = await World.of()
    await world.keygen("earlier")
    old = {c.frame.step: c.frame for c in world.log if c.sender == 2 and c.frame.kind == BROADCAST}
    frame = old[COMMIT]
    hashed = session.body_hash(frame.sid, COMMIT, 2, frame.body)
    accuses(
        world,
        COMMIT + 1,
        lambda e: Echo(_swap(e.hashes, 1, hashed), _swap(e.signatures, 1, frame.signature)),
    )
    outcomes = await world.keygen("now")
    assert outcomes[1].abort.culprits == outcomes[2].abort.culprits == (3,)


@pytest.mark.parametrize("signature", [b"", b"x" * 63, b"x" * 64], ids=len)
async def test_a_broadcast_without_its_senders_signature_is_refused(signature: bytes) -> None:
    world = await World.of()
    world.frames(
        lambda c: [c.but(signature=signature)] if c.sender == 3 and c.at(OPEN, BROADCAST) else None
    )
    outcomes = await world.keygen()
    for i in (1, 2):
        assert outcomes[i].abort.code is Code.BAD_PROOF
        assert outcomes[i].abort.culprits == (3,)
