"""Sessions from presignatures, by the real driver: the HELLO is the claim, there is no CONFIRM."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from keycairn.encoding import SecretBytes
from keycairn.errors import Code, KeycairnError, PeerAborted
from keycairn.protocols import dkls23, frost, session, wire
from keycairn.protocols.driver import abort_frame, run
from keycairn.protocols.form import Durable, Inbox, Round
from keycairn.protocols.record import KeyShare
from keycairn.protocols.session import SMALL_ROUNDS, Frame, Hello, SessionSpec
from keycairn.protocols.setup import PairSetup
from protocols.lockstep import deal, deal_setups, parties
from protocols.lockstep import run as lockstep
from protocols.network import BROADCAST, CONFIRM, HELLO, VAULT, Copy, Outcome, World, frost_key

TWO, THREE = (1, 2), (1, 2, 3)
#: The step of the one round.
LAST = 1


def sha(text: object) -> bytes:
    return hashlib.sha256(str(text).encode()).digest()


class Ecdsa:
    """A dealt secp256k1 key at three holders, and its sessions in a world."""

    def __init__(self, world: World, players: tuple[int, ...] = TWO) -> None:
        self.world = world
        self.players = players
        self.keys: Mapping[int, KeyShare] = deal("secp256k1", 3, len(players) - 1)
        self.setups: Mapping[int, dict[int, PairSetup]] = deal_setups(players, "use")
        self.record = self.keys[1].record

    def spec(self, name: str, params: wire.Message, i: int, **more: Any) -> SessionSpec:
        protocol = {
            dkls23.PresignParams: dkls23.PRESIGN_NAME,
            dkls23.UseParams: dkls23.USE_NAME,
            dkls23.SignParams: dkls23.NAME,
        }[type(params)]
        bindings = {j: s.setup_id for j, s in self.setups[i].items()}
        return SessionSpec(
            name, protocol, dkls23.VERSION, VAULT, self.players, params, bindings, **more
        )

    async def presign(self, count: int = 1) -> dict[int, list[dkls23.Presignature]]:
        params = dkls23.PresignParams(self.record.key_id, self.record.hash, count)
        outcomes = await self.world.run(
            {
                i: self.spec("presign", params, i, largest=dkls23.largest_round(count))
                for i in self.players
            },
            lambda i: lambda party: dkls23.presign(party, self.keys[i], self.setups[i], count),
        )
        return {i: o.result for i, o in outcomes.items()}

    def claim(
        self, i: int, made: Sequence[dkls23.Presignature], digests: Sequence[bytes]
    ) -> tuple[dkls23.Claim, SessionSpec]:
        asked = [dkls23.Request(d) for d in digests]
        taken = dkls23.claim(self.keys[i], i, self.players, self.setups[i], made, asked)
        params = dkls23.UseParams(
            "r",
            self.record.key_id,
            self.record.hash,
            tuple(dkls23.Item(d, "m") for d in digests),
            tuple(p.id for p in made),
        )
        return taken, self.spec("use", params, i, opening=taken.opening, largest=SMALL_ROUNDS)

    async def use(
        self,
        made: Mapping[int, Sequence[dkls23.Presignature]],
        digests: Mapping[int, Sequence[bytes]] | Sequence[bytes],
    ) -> dict[int, Outcome]:
        asked = digests if isinstance(digests, Mapping) else dict.fromkeys(self.players, digests)
        claims = {i: self.claim(i, made[i], asked[i]) for i in self.players}
        return await self.world.run(
            {i: spec for i, (_, spec) in claims.items()},
            lambda i: lambda party: dkls23.use(party, claims[i][0]),
        )


def steps(world: World) -> set[tuple[int, int]]:
    return {(c.frame.step, c.frame.kind) for c in world.log}


@pytest.mark.parametrize("players", [TWO, THREE])
async def test_ecdsa_from_presignatures_takes_one_hello_and_one_round(
    players: tuple[int, ...],
) -> None:
    world = await World.of(seed=f"use/{players}")
    ecdsa = Ecdsa(world, players)
    made = await ecdsa.presign(3)
    world.log.clear()
    digests = [sha(k) for k in range(3)]
    outcomes = await ecdsa.use(made, digests)
    for outcome in outcomes.values():
        for digest, signature in zip(digests, outcome.result, strict=True):
            dkls23.verify_ecdsa(
                ecdsa.record.group, signature.public_key, digest, signature.r, signature.s
            )
    assert outcomes[1].result == outcomes[2].result
    assert steps(world) == {(0, HELLO), (LAST, BROADCAST)}
    spends = [s for batch in world[1].events("spend") for s in batch]
    assert [(s.presignature_id, s.base_r) for s in spends] == [(p.id, p.base_r) for p in made[1]]
    assert len({s.base_r for s in spends}) == 3


@pytest.mark.parametrize(
    ("curve", "players"), [("ed25519", TWO), ("ed25519", THREE), ("secp256k1", THREE)]
)
async def test_schnorr_from_nonces_made_ahead(curve: str, players: tuple[int, ...]) -> None:
    world = await World.of(seed=f"nonces/{curve}/{players}")
    keys = deal(curve, 3, len(players) - 1, scheme="schnorr")
    record = keys[1].record
    params = frost.PresignParams(record.key_id, record.hash, 2)
    spec = SessionSpec("n", frost.PRESIGN_NAME, frost.VERSION, VAULT, players, params)
    drawn = await world.run(
        dict.fromkeys(players, spec), lambda i: lambda party: frost.presign(party, keys[i], 2)
    )
    nonces = {i: drawn[i].result for i in players}
    assert len({p.id for p in nonces[1]}) == 2
    assert [[p.id for p in nonces[i]] for i in players] == [[p.id for p in nonces[1]]] * len(
        players
    )
    messages = [b"one", b"two"]
    root = b"" if curve == "secp256k1" else None
    asked = [frost.Request(m, 0, root) for m in messages]
    claims = {
        i: frost.claim(keys[i], i, players, nonces[i], asked, bytes([i]) * 32) for i in players
    }
    use = frost.UseParams(
        "r",
        record.key_id,
        record.hash,
        tuple(frost.Item(frost.message_hash(m), "m", root is not None) for m in messages),
        tuple(p.id for p in nonces[1]),
    )
    world.log.clear()
    outcomes = await world.run(
        {
            i: SessionSpec(
                "u", frost.USE_NAME, frost.VERSION, VAULT, players, use, opening=c.opening
            )
            for i, c in claims.items()
        },
        lambda i: lambda party: frost.use(party, claims[i]),
    )
    suite = frost.suite_of(record)
    for outcome in outcomes.values():
        for message, signature in zip(messages, outcome.result, strict=True):
            suite.verify(signature.public_key, message, signature.signature)
    assert steps(world) == {(0, HELLO), (LAST, BROADCAST)}
    for i in players:
        with pytest.raises(KeycairnError) as caught:
            frost.claim(keys[i], i, players, nonces[i], asked, bytes(32))
        assert caught.value.code is Code.PRESIG_SPENT, "t058: used once"


def shares_of_two_sessions(first: Any, second: Any) -> list[Any]:
    """What leaves when one claim is run in two sessions: the first round of each."""
    left = [next(first)]
    with pytest.raises(KeycairnError) as caught:
        left.append(next(second))
    assert caught.value.code is Code.PRESIG_SPENT
    return left


async def test_inv1_a_claim_is_good_for_one_session() -> None:
    world = await World.of(seed="one claim")
    ecdsa = Ecdsa(world)
    made = await ecdsa.presign()
    nonces = {i: ecdsa.claim(i, made[i], [sha("m")])[0] for i in TWO}
    opened = {i: claim.opening.nonce for i, claim in nonces.items()}
    here, there = (
        dataclasses.replace(parties(TWO, sid)[1], nonces=opened) for sid in ("here", "there")
    )
    again = dataclasses.replace(nonces[1])
    assert shares_of_two_sessions(dkls23.use(here, nonces[1]), dkls23.use(there, again))
    with pytest.raises(KeycairnError):
        next(dkls23.sign(there, again))  # nor does a full session open its ν again

    keys = frost_key()
    members = parties(TWO, "nonces")
    drawn = lockstep({i: frost.presign(members[i], keys[i], 1) for i in TWO})
    claim = frost.claim(keys[1], 1, TWO, drawn[1].result, [frost.Request(b"m")], bytes(32))
    again_frost = dataclasses.replace(claim)
    assert shares_of_two_sessions(frost.use(here, claim), frost.use(there, again_frost))


async def test_r02_no_share_of_a_signature_is_made_before_the_spend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[object] = []
    module = importlib.import_module("keycairn.protocols.frost.session")

    def watched(*arguments: Any) -> int:
        made.append(arguments)
        return frost.sign_share(*arguments)

    monkeypatch.setattr(module, "sign_share", watched)
    keys, members = frost_key(), parties(TWO, "nonces")
    drawn = lockstep({i: frost.presign(members[i], keys[i], 1) for i in TWO})
    claim = frost.claim(keys[1], 1, TWO, drawn[1].result, [frost.Request(b"m")], bytes(32))
    assert isinstance(claim.opening.spend.record, tuple)
    assert made == []
    next(frost.use(members[1], claim))
    assert len(made) == 1

    full = frost.sign_full(members[1], keys[1], [frost.Request(b"m")])
    step = next(full)
    theirs = next(frost.sign_full(members[2], keys[2], [frost.Request(b"m")]))
    assert isinstance(theirs, Round)
    step = full.send(Inbox({2: theirs.broadcast}, {}))
    assert isinstance(step, Durable)
    assert len(made) == 1
    full.send(None)
    assert len(made) == 2


async def test_r02_the_spend_is_durable_before_the_hello_leaves() -> None:
    world = await World.of(seed="order")
    ecdsa = Ecdsa(world)
    made = await ecdsa.presign()
    order: list[str] = []

    def watch(copy: Copy) -> None:
        order.append(f"sent by {copy.sender}")

    for i in TWO:
        journal = world[i].environment.journal
        commit = journal.commit

        async def slow(what: str, record: Any, i: int = i, commit: Any = commit) -> None:
            await asyncio.sleep(0.02)
            await commit(what, record)
            order.append(f"spent by {i}")

        journal.commit = slow  # type: ignore[method-assign]
    world.frames(watch)
    await ecdsa.use(made, [sha(1)])
    for i in TWO:
        assert order.index(f"spent by {i}") < order.index(f"sent by {i}")


async def test_a_journal_that_fails_lets_nothing_out_and_the_presignature_stays_spent() -> None:
    world = await World.of(seed="fails", timeout=2)
    ecdsa = Ecdsa(world)
    made = await ecdsa.presign()

    async def fail(what: str, record: Any) -> None:
        raise KeycairnError(Code.UNAVAILABLE, "disk")

    world[1].environment.journal.commit = fail  # type: ignore[method-assign]
    world.log.clear()
    outcomes = await ecdsa.use(made, [sha(1)])
    assert outcomes[1].code is Code.UNAVAILABLE
    assert [c for c in world.log if c.sender == 1 and c.frame.kind == HELLO] == []
    assert made[1][0].spent


async def test_t020_a_digest_that_differs_is_named_and_nobody_is_banned() -> None:
    world = await World.of(seed="differs")
    ecdsa = Ecdsa(world)
    made = await ecdsa.presign(2)
    outcomes = await ecdsa.use(made, {1: [sha(1), sha(2)], 2: [sha(1), sha(3)]})
    for i in TWO:
        assert outcomes[i].code is Code.SESSION_MISMATCH
        assert outcomes[i].abort.detail["field"] == "items[1].digest"
        assert outcomes[i].abort.culprits == ()
        assert world[i].events("ban") == []
        assert all(p.spent for p in made[i])
    assert [c for c in world.log if c.frame.kind == BROADCAST and c.frame.step == LAST] == []


async def test_t047_nodes_that_were_given_different_presignatures_spend_both() -> None:
    world = await World.of(seed="ids")
    ecdsa = Ecdsa(world)
    made = await ecdsa.presign(2)
    outcomes = await ecdsa.use({1: made[1][:1], 2: made[2][1:]}, [sha(1)])
    assert {o.code for o in outcomes.values()} == {Code.SESSION_MISMATCH}
    assert outcomes[1].abort.detail["field"] == "presignatures"
    assert made[1][0].spent
    assert made[2][1].spent
    assert not made[1][1].spent


@pytest.mark.parametrize("only_to", [None, 1])
async def test_a_nu_that_was_not_committed_to_names_its_sender(only_to: int | None) -> None:
    world = await World.of(seed=f"nu/{only_to}")
    ecdsa = Ecdsa(world, THREE)
    made = await ecdsa.presign()

    def change(copy: Copy) -> list[Frame] | None:
        if copy.sender == 3 and copy.frame.kind == HELLO and only_to in (None, copy.receiver):
            hello = copy.body(Hello)
            return [copy.but(body=msgspec.structs.replace(hello, nonce=bytes(32)))]
        return None

    world.frames(change)
    outcomes = await ecdsa.use(made, [sha(1)])
    assert outcomes[1].code is Code.BAD_COMMIT
    assert outcomes[1].abort.culprits == (3,)
    assert outcomes[2].result is None
    assert all(world[i].events("ban") == [] for i in THREE)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
async def test_a_nonce_of_another_length_is_a_mismatch(length: int) -> None:
    world = await World.of(seed=f"len/{length}")
    ecdsa = Ecdsa(world)
    made = await ecdsa.presign()

    def change(copy: Copy) -> list[Frame] | None:
        if copy.sender == 2 and copy.frame.kind == HELLO:
            return [copy.but(body=msgspec.structs.replace(copy.body(Hello), nonce=bytes(length)))]
        return None

    world.frames(change)
    outcomes = await ecdsa.use(made, [sha(1)])
    assert outcomes[1].code is Code.SESSION_MISMATCH
    assert outcomes[1].abort.culprits == ()


async def test_different_incarnations_shown_to_two_signers_end_without_blame_or_signature() -> None:
    """There is no CONFIRM that would show it: the frames of the round carry another session id."""
    world = await World.of(seed="inc")
    ecdsa = Ecdsa(world, THREE)
    made = await ecdsa.presign()

    def change(copy: Copy) -> list[Frame] | None:
        if copy.sender == 3 and copy.receiver == 1 and copy.frame.kind == HELLO:
            hello = msgspec.structs.replace(copy.body(Hello), incarnation=bytes(32))
            return [copy.but(body=hello)]
        return None

    world.frames(change)
    outcomes = await ecdsa.use(made, [sha(1)])
    assert all(o.result is None for o in outcomes.values())
    assert outcomes[1].code is Code.SESSION_MISMATCH
    assert outcomes[1].abort.culprits == ()
    assert all(world[i].events("ban") == [] for i in THREE)


async def test_t012_everything_twice_gives_the_same_signature() -> None:
    world = await World.of(seed="twice")
    ecdsa = Ecdsa(world, THREE)
    made = await ecdsa.presign()
    world.frames(lambda c: [c.frame, c.frame])
    outcomes = await ecdsa.use(made, [sha(1)])
    assert len({str(o.result) for o in outcomes.values()}) == 1
    assert outcomes[1].result
    assert [len(world[i].events("spend")) for i in THREE] == [1, 1, 1]


async def test_a_confirm_frame_has_no_place_here() -> None:
    world = await World.of(seed="confirm")
    ecdsa = Ecdsa(world)
    made = await ecdsa.presign()

    def change(copy: Copy) -> list[Frame] | None:
        if copy.frame.kind == HELLO and copy.sender == 2:
            return [copy.but(step=1, kind=CONFIRM, body=bytes(32), sid=bytes(32)), copy.frame]
        return None

    world.frames(change)
    outcomes = await ecdsa.use(made, [sha(1)])
    assert all(o.result for o in outcomes.values())


async def test_a_stored_presignature_comes_back_once() -> None:
    """Database mode: the secrets are elsewhere until the claim."""
    world = await World.of(seed="detach")
    ecdsa = Ecdsa(world)
    made = await ecdsa.presign(2)
    kept = {i: made[i][0].detach() for i in TWO}
    assert "stored" in repr(made[1][0])
    assert not made[1][0].spent
    with pytest.raises(KeycairnError) as caught:
        made[1][0].take()
    assert caught.value.code is Code.PRESIG_SPENT
    with pytest.raises(KeycairnError) as caught:
        made[1][0].attach(SecretBytes(kept[1].reveal()[:-1]))
    assert caught.value.code is Code.MALFORMED
    for i in TWO:
        made[i][0].attach(kept[i])
    assert (await ecdsa.use({i: made[i][:1] for i in TWO}, [sha(1)]))[1].result
    with pytest.raises(KeycairnError) as caught:
        made[1][0].attach(kept[1])
    assert caught.value.code is Code.PRESIG_SPENT
    with pytest.raises(KeycairnError) as caught:
        made[1][0].detach()
    assert caught.value.code is Code.PRESIG_SPENT


# -- what the others read before they open anything ---------------------------------------------


def hello_frame(name: str, sender: int = 1) -> Frame:
    params = frost.PresignParams("k", bytes(32), 1)
    spec = SessionSpec(name, frost.PRESIGN_NAME, frost.VERSION, VAULT, TWO, params)
    body = wire.encode(spec.hello(bytes(32), bytes(32)))
    return Frame(session.WIRE_VERSION, spec.route, b"", 0, HELLO, body, b"")


async def test_a_proposal_is_read_early_or_late_and_stays_for_the_session() -> None:
    world = await World.of(seed="proposal", timeout=5)
    early = hello_frame("early")
    world.inject(1, 2, early)
    await asyncio.sleep(0.01)
    router = world[2].router
    assert (await router.proposal(early.route, 1)).name == "early"
    late = hello_frame("late")
    waiting = asyncio.create_task(router.proposal(late.route, 1))
    await asyncio.sleep(0.01)
    with pytest.raises(KeycairnError) as caught:
        await router.proposal(late.route, 1)
    assert caught.value.code is Code.SESSION_REPLAY
    world.inject(1, 2, late)
    assert (await waiting).protocol == frost.PRESIGN_NAME
    box = router.open(late.route, frozenset({1}))
    assert set(box.take(0, HELLO)) == {1}
    with pytest.raises(KeycairnError) as caught:
        await router.proposal(late.route, 1)
    assert caught.value.code is Code.SESSION_REPLAY


async def test_a_proposal_that_was_given_up_or_whose_link_broke_is_no_longer_waited_for() -> None:
    world = await World.of(seed="gone", timeout=5)
    router = world[2].router
    route = session.route_of(VAULT, "given up")
    waiting = asyncio.create_task(router.proposal(route, 1))
    await asyncio.sleep(0.01)
    router.deliver(1, abort_frame(route, b"", 0, Code.KEY_NOT_BACKED_UP)[1:])
    with pytest.raises(PeerAborted) as aborted:
        await waiting
    assert aborted.value.code is Code.KEY_NOT_BACKED_UP
    route = session.route_of(VAULT, "broken")
    waiting = asyncio.create_task(router.proposal(route, 1))
    await asyncio.sleep(0.01)
    router.lost(3)
    await asyncio.sleep(0.01)
    assert not waiting.done()
    router.lost(1)
    with pytest.raises(KeycairnError) as caught:
        await waiting
    assert caught.value.code is Code.PEER_TIMEOUT


async def test_a_full_session_and_one_from_presignatures_do_not_mix() -> None:
    world = await World.of(seed="mix")
    keys = frost_key()
    record = keys[1].record
    item = frost.Item(frost.message_hash(b"m"), "m", False)
    full = SessionSpec(
        "s", frost.NAME, frost.VERSION, VAULT, TWO,
        frost.SignParams("r", record.key_id, record.hash, (item,)),
    )  # fmt: skip
    nonces = await world.run(
        dict.fromkeys(
            TWO,
            SessionSpec(
                "n", frost.PRESIGN_NAME, frost.VERSION, VAULT, TWO,
                frost.PresignParams(record.key_id, record.hash, 1),
            ),
        ),
        lambda i: lambda party: frost.presign(party, keys[i], 1),
    )  # fmt: skip
    asked = [frost.Request(b"m")]
    taken = frost.claim(keys[2], 2, TWO, nonces[2].result, asked, bytes(32))
    use = SessionSpec(
        "s", frost.USE_NAME, frost.VERSION, VAULT, TWO,
        frost.UseParams("r", record.key_id, record.hash, (item,), taken.presignature_ids),
        opening=taken.opening,
    )  # fmt: skip
    one, two = await asyncio.gather(
        run(full, lambda p: frost.sign_full(p, keys[1], asked), world[1].environment),
        run(use, lambda p: frost.use(p, taken), world[2].environment),
        return_exceptions=True,
    )
    for error in (one, two):
        assert isinstance(error, KeycairnError)
        assert error.code is Code.SESSION_MISMATCH
        assert error.detail["field"] == "protocol"
