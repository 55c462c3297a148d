"""Key generation: honest runs make one key, every cheat ends in a name and in nothing stored."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from keycairn.curves import group
from keycairn.curves.group import Group
from keycairn.curves.pok import prove_knowledge
from keycairn.curves.polynomial import Polynomial, check_degree, interpolate
from keycairn.encoding import SecretScalar, digest
from keycairn.errors import Abort, Certainty, Code, KeycairnError
from keycairn.ers.statement import chain_code_hash
from keycairn.ports.seeded import SeededRng
from keycairn.protocols import keygen
from keycairn.protocols.form import Party
from protocols.lockstep import (
    BAD_POINTS,
    DROP,
    Envelope,
    Hook,
    Lockstep,
    Outcome,
    altered,
    parties,
    replace,
)
from protocols.network import World

SUITES = {"secp256k1": "ecdsa", "p256": "ecdsa", "ed25519": "schnorr"}
CURVES = pytest.mark.parametrize("curve", SUITES)
COMMIT, OPEN, RECORD, READY = 1, 2, 3, 4
VAULT = "vault"
#: ``said(player, round)``: a broadcast of this round or an earlier one.
Said = Callable[[int, int], Any]


def params(curve: str = "secp256k1", t: int = 1, count: int = 1) -> keygen.KeygenParams:
    return keygen.KeygenParams("request", SUITES[curve], curve, t, count)


def generate(
    n: int = 3,
    t: int = 1,
    count: int = 1,
    curve: str = "secp256k1",
    hook: Hook | None = None,
    seed: object = 0,
    cheat: Callable[[Party], Any] | None = None,
    rushing: Callable[[Said], Hook] | None = None,
) -> dict[int, Outcome]:
    """All players in lockstep; with ``cheat`` the last one runs that generator instead.

    A ``rushing`` hook sees what everybody is about to broadcast before it speaks.
    """
    signers = World(n, seed, 1).signers
    members = {
        i: dataclasses.replace(p, signer=signers[i])
        for i, p in parties(range(1, n + 1), "dkg", seed).items()
    }
    made = params(curve, t, count)
    runs = {i: keygen.keygen(p, VAULT, made) for i, p in members.items()}
    if cheat is not None:
        runs[n] = cheat(members[n])

    def said(player: int, number: int) -> Any:
        return lockstep.outcomes[player].sent[number - 1].broadcast

    lockstep = Lockstep(runs, hook if rushing is None else rushing(said))
    return lockstep.finish()


def convicts(
    outcomes: dict[int, Outcome], code: Code, *, by: tuple[int, ...] = (1, 2), culprit: int = 3
) -> None:
    """The players ``by`` name the culprit with certainty, and no honest one stored anything."""
    for i in by:
        abort = outcomes[i].abort
        assert (abort.code, abort.culprits) == (code, (culprit,)), (i, abort)
        assert abort.certainty is Certainty.CERTAIN
        assert not abort.ban
    stores_nothing({i: o for i, o in outcomes.items() if i != culprit})


def stores_nothing(outcomes: dict[int, Outcome]) -> None:
    assert all(not o.journal and o.result is None for o in outcomes.values())


def cheats(number: int, change: Callable[[Any], Any], **place: Any) -> Hook:
    """Player 3's message of a round, changed."""
    place.setdefault("broadcast", True)
    return altered(number, 3, change, **place)


# -- honest runs ---


@CURVES
@pytest.mark.parametrize(("n", "t"), [(2, 1), (3, 1), (3, 2), (5, 2)])
def test_every_t_plus_1_shares_are_the_key_and_all_holders_agree(
    curve: str, n: int, t: int
) -> None:
    outcomes = generate(n, t, count=2, curve=curve)
    g = group(curve)
    pending = {i: o.events("keygen/pending")[0] for i, o in outcomes.items()}
    assert len({tuple(r.hash for r in o.result.records) for o in outcomes.values()}) == 1
    for k in range(2):
        keys = {i: p.keys[k] for i, p in pending.items()}
        record = keys[1].record
        assert (record.threshold, record.holders, record.generation) == (
            t, tuple(range(1, n + 1)), 1,
        )  # fmt: skip
        assert len({key.chain_code.reveal() for key in keys.values()}) == 1
        assert record.chain_code_hash == chain_code_hash(keys[1].chain_code.reveal())
        points = {i: record.commitment_of(i) for i in record.holders}
        check_degree(points, t, record.public_point())
        for i, key in keys.items():
            assert g.base_mul(key.share.reveal()) == points[i]
        for subset in itertools.combinations(keys, t + 1):
            secret = interpolate(g, {i: keys[i].share for i in subset})
            assert g.base_mul(secret.reveal()) == record.public_point()
        wrong = interpolate(g, {i: keys[i].share for i in range(1, t + 1)})
        assert g.base_mul(wrong.reveal()) != record.public_point()
    assert len({r.public_key for r in outcomes[1].result.records}) == 2
    assert len({r.key_id for r in outcomes[1].result.records}) == 2


@CURVES
def test_a_batch_of_100_has_100_different_keys(curve: str) -> None:
    records = generate(3, 1, count=100, curve=curve)[2].result.records
    for field in ("key_id", "public_key", "chain_code_hash", "hash"):
        assert len({getattr(r, field) for r in records}) == 100


def test_the_certificate_is_every_holders_signature_on_all_records() -> None:
    outcomes = generate(3, 1, count=3)
    signers = World(3, 0, 1).signers
    created = outcomes[1].result
    statement = keygen.ready_statement(
        VAULT, created.batch_id, 1, [r.hash for r in created.records]
    )
    for o in outcomes.values():
        assert sorted(o.result.ready) == [1, 2, 3]
        assert all(signers[1].verify(j, statement, s) for j, s in o.result.ready.items())
        assert o.events("keygen/certificate")[0].ready == o.result.ready
    for other in (
        keygen.ready_statement("other", created.batch_id, 1, [r.hash for r in created.records]),
        keygen.ready_statement(VAULT, bytes(32), 1, [r.hash for r in created.records]),
        keygen.ready_statement(VAULT, created.batch_id, 2, [r.hash for r in created.records]),
        keygen.ready_statement(VAULT, created.batch_id, 1, [r.hash for r in created.records][1:]),
    ):
        assert not signers[1].verify(2, other, created.ready[2])


def test_two_runs_have_nothing_in_common() -> None:
    one, two = generate(seed=1), generate(seed=2)
    assert one[1].result.records[0].public_key != two[1].result.records[0].public_key


def test_the_share_is_durable_before_ready_leaves_and_the_certificate_after() -> None:
    seen: dict[int, list[str]] = {}

    def hook(e: Envelope) -> Any:
        if e.number == READY:
            seen[e.sender] = [d.what for d in outcomes_of[e.sender].journal]
        return e.message

    members = parties((1, 2, 3), "dkg")
    lockstep = Lockstep({i: keygen.keygen(p, VAULT, params()) for i, p in members.items()}, hook)
    outcomes_of = lockstep.outcomes
    lockstep.finish()
    assert seen == {i: ["keygen/pending"] for i in (1, 2, 3)}
    assert all(
        [d.what for d in o.journal] == ["keygen/pending", "keygen/certificate"]
        for o in outcomes_of.values()
    )


# -- T-028: impossible parameters ---


@pytest.mark.parametrize(
    ("players", "fields", "code"),
    [
        ((1, 2, 3), {"threshold": 0}, Code.MALFORMED),
        ((1, 2, 3), {"threshold": 3}, Code.MALFORMED),
        ((1, 2, 3), {"threshold": -1}, Code.MALFORMED),
        ((1, 2, 3), {"threshold": 1.0}, Code.MALFORMED),
        ((1, 2, 3), {"threshold": True}, Code.MALFORMED),
        ((1, 2, 3), {"threshold": "1"}, Code.MALFORMED),
        ((1, 2, 3), {"threshold": 2**256 + 1}, Code.MALFORMED),
        ((1, 2, 3), {"count": 0}, Code.MALFORMED),
        ((1, 2, 3), {"count": keygen.MAX_COUNT + 1}, Code.MALFORMED),
        ((1, 2, 3), {"count": 1.0}, Code.MALFORMED),
        ((1, 2, 3), {"count": True}, Code.MALFORMED),
        ((1, 2, 3), {"scheme": "schnorr"}, Code.MALFORMED),
        ((1, 2, 3), {"curve": "p384"}, Code.MALFORMED),
        ((1, 2, 3), {"curve": "p256", "scheme": "schnorr"}, Code.MALFORMED),
        ((1, 2, 3), {"curve": ""}, Code.MALFORMED),
        ((1,), {}, Code.MALFORMED),
        ((), {}, Code.MALFORMED),
        (tuple(range(1, keygen.MAX_PLAYERS + 2)), {}, Code.MALFORMED),
        ((1, 1, 2), {}, Code.BAD_INDEX),
        ((0, 1, 2), {}, Code.BAD_INDEX),
        ((-1, 1), {}, Code.BAD_INDEX),
        ((1.0, 2.0), {}, Code.BAD_INDEX),
        (("1", "2"), {}, Code.BAD_INDEX),
        ((True, 2), {}, Code.BAD_INDEX),
        (("١", "٢"), {}, Code.BAD_INDEX),
        ((None, 1), {}, Code.BAD_INDEX),
    ],
    ids=str,
)
def test_t006_t007_t028_impossible_parameters_are_refused(
    players: Any, fields: dict[str, Any], code: Code
) -> None:
    with pytest.raises(KeycairnError) as caught:
        keygen.check_params(players, replace(params(), **fields))
    assert caught.value.code is code


def test_t028_the_protocol_checks_its_parameters_itself_before_it_sends_anything() -> None:
    members = parties((1, 2, 3), "dkg")
    with pytest.raises(KeycairnError) as caught:
        next(keygen.keygen(members[1], VAULT, replace(params(), threshold=3)))
    assert caught.value.code is Code.MALFORMED


# -- commitments and openings ---


@pytest.mark.parametrize("size", [0, 31, 33, 10_000])
def test_a_commitment_of_another_length_is_refused(size: int) -> None:
    convicts(
        generate(hook=cheats(COMMIT, lambda m: replace(m, value=bytes(size)))), Code.BAD_LENGTH
    )


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


@CURVES
@pytest.mark.parametrize("field", ["chain", "salt", "proofs", "commitment"])
def test_an_opening_with_any_field_changed_does_not_open(curve: str, field: str) -> None:
    if field == "commitment":
        hook = cheats(COMMIT, lambda m: replace(m, value=flip))
    elif field == "salt":
        hook = cheats(OPEN, lambda m: replace(m, salt=flip))
    else:
        hook = cheats(OPEN, lambda m: replace(m, **{field: lambda v: (flip(v[0]), *v[1:])}))
    convicts(generate(curve=curve, count=2, hook=hook), Code.BAD_COMMIT)


def test_other_points_than_committed_do_not_open() -> None:
    g = group("secp256k1")
    other = g.base_mul(77).encode()
    hook = cheats(OPEN, lambda m: replace(m, points=lambda v: ((v[0][0], other),)))
    convicts(generate(hook=hook), Code.BAD_COMMIT)


def test_t021_a_copied_commitment_and_opening_does_not_open_for_the_copier() -> None:
    """Player 3 waits for player 1's messages and sends the same: its number is hashed."""

    def copies(said: Said) -> Hook:
        return lambda e: (
            said(1, e.number)
            if e.sender == 3 and e.broadcast and e.number in (COMMIT, OPEN)
            else e.message
        )

    convicts(generate(rushing=copies), Code.BAD_COMMIT)


def lists_of(change: Callable[[tuple[Any, ...]], tuple[Any, ...]], field: str) -> Hook:
    return cheats(OPEN, lambda m: replace(m, **{field: change}))


@pytest.mark.parametrize("t", [1, 2])
@pytest.mark.parametrize(
    "change",
    [lambda v: v[:-1], lambda v: (*v, v[0]), lambda v: (), lambda v: v * 10],
    ids=["one too short", "one too long", "empty", "ten times"],
)
def test_t008_a_feldman_vector_has_exactly_t_plus_1_points(t: int, change: Any) -> None:
    """One point more and the key needs one more signer, which nobody would see (T-028)."""
    hook = cheats(OPEN, lambda m: replace(m, points=lambda v: tuple(change(p) for p in v)))
    convicts(generate(3, t, hook=hook), Code.BAD_LENGTH)


@pytest.mark.parametrize(
    ("field", "code"),
    [("points", Code.BAD_LENGTH), ("proofs", Code.BAD_PROOF), ("chain", Code.BAD_LENGTH)],
)
@pytest.mark.parametrize(
    "change",
    [lambda v: v[:-1], lambda v: (*v, v[0]), lambda v: ()],
    ids=["one less", "one more", "none"],
)
def test_t011_lists_have_one_element_for_every_key(field: str, code: Code, change: Any) -> None:
    convicts(generate(count=2, hook=lists_of(change, field)), code)


@pytest.mark.parametrize("part", [b"", bytes(31), bytes(33)], ids=len)
@pytest.mark.parametrize("field", ["chain", "salt"])
def test_chain_code_parts_and_salts_have_32_bytes(field: str, part: bytes) -> None:
    hook = cheats(OPEN, lambda m: replace(m, **{field: part if field == "salt" else (part,)}))
    convicts(generate(hook=hook), Code.BAD_LENGTH)


@pytest.mark.parametrize("bad", [*BAD_POINTS, b"", bytes(32)], ids=lambda b: b[:4].hex())
def test_t001_t002_points_that_are_none_are_refused(bad: bytes) -> None:
    for place in (0, 1):
        hook = cheats(
            OPEN,
            lambda m, k=place: replace(m, points=lambda v: ((*v[0][:k], bad, *v[0][k + 1 :]),)),
        )
        convicts(generate(hook=hook), Code.BAD_POINT)


def test_t003_points_outside_the_prime_order_subgroup_are_refused() -> None:
    from curves.oracle import EDWARDS

    torsion = EDWARDS.torsion()[1]
    for point in (torsion, EDWARDS.add(EDWARDS.mul(5), torsion)):
        bad = EDWARDS.encode(point)
        hook = cheats(OPEN, lambda m, b=bad: replace(m, points=lambda v: ((b, v[0][1]),)))
        convicts(generate(curve="ed25519", hook=hook), Code.BAD_POINT)


# -- T-026, T-027: proofs of knowledge, rogue keys ---


class Cheat:
    """Player n's programme, with any part of its opening made another way, properly committed."""

    def __init__(self, curve: str, t: int, opening: Callable[[Cheat, keygen._Dealer], Any]) -> None:
        self.curve, self.t, self.opening = curve, t, opening
        self.party: Party

    def __call__(self, party: Party) -> Any:
        self.party = party
        dealer = keygen._Dealer(party, params(self.curve, self.t))
        opening = self.opening(self, dealer)
        yield keygen.Round(
            broadcast=keygen.Commitment(keygen._commit(party.sid, party.index, opening))
        )
        yield keygen.Round(broadcast=opening, direct=dealer.shares())
        yield keygen.Round(broadcast=keygen.RecordHash(bytes(32)))


def encoded(g: Group, proof: Any) -> bytes:
    return proof.commitment.encode() + g.encode_scalar(proof.response)


def proof_for(dealer: keygen._Dealer, **place: Any) -> bytes:
    where = {"sid": dealer.party.sid, "prover": dealer.party.index, "label": 0, **place}
    secret = dealer.polynomials[0].coefficients[0].reveal()
    made = prove_knowledge(keygen._POK, secret, dealer.points[0][0], **where, rng=SeededRng(9))
    return encoded(dealer.g, made)


PROOFS: dict[str, Callable[[keygen._Dealer], bytes]] = {
    "missing": lambda d: b"",
    "cut off": lambda d: proof_for(d)[:-1],
    "one byte more": lambda d: proof_for(d) + b"\0",
    "all zeros": lambda d: bytes(d.g.point_len + 32),
    "of another player": lambda d: proof_for(d, prover=1),
    "of another session": lambda d: proof_for(d, sid=bytes(32)),
    "of another key of the batch": lambda d: proof_for(d, label=1),
    "response of another proof": lambda d: proof_for(d)[: d.g.point_len] + d.g.encode_scalar(5),
    "response not below q": lambda d: proof_for(d)[: d.g.point_len] + b"\xff" * 32,
    "commitment is no point": lambda d: b"\xff" * d.g.point_len + d.g.encode_scalar(5),
    "commitment is G, response 1": lambda d: d.g.base_mul(1).encode() + d.g.encode_scalar(1),
}


@CURVES
@pytest.mark.parametrize("name", PROOFS)
def test_t011_t026_a_wrong_proof_is_refused_though_committed(curve: str, name: str) -> None:
    cheat = Cheat(curve, 1, lambda _, d: replace(d.opening, proofs=(PROOFS[name](d),)))
    convicts(generate(curve=curve, cheat=cheat), Code.BAD_PROOF)


@CURVES
def test_t027_the_last_mover_cannot_choose_the_key(curve: str) -> None:
    """A_0 = target - sum of the others: after their openings it is too late to commit to it, and
    who guesses them has no proof of knowledge."""
    g = group(curve)
    target = g.base_mul(0xBAD)
    others: dict[int, Any] = {}

    def rogue(points: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], ...]:
        total = g.add([g.decode_point(o.points[0][0]) for o in others.values()])
        return ((g.add([target, g.neg(total)]).encode(), points[1]),)

    def last(said: Said) -> Hook:
        def hook(e: Envelope) -> Any:
            if e.sender == 3 and e.broadcast and e.number == OPEN:
                others.update({i: said(i, OPEN) for i in (1, 2)})
                return replace(e.message, points=rogue(e.message.points[0]))
            return e.message

        return hook

    convicts(generate(curve=curve, rushing=last), Code.BAD_COMMIT)

    # The same with a leak: the openings of the others are known before the commitment.
    honest = generate(curve=curve)
    for i in (1, 2):
        others[i] = honest[i].sent[1].broadcast
    assert sorted(others) == [1, 2]

    def opening(_: Cheat, d: keygen._Dealer) -> Any:
        return replace(d.opening, points=rogue(d.opening.points[0]))

    outcomes = generate(curve=curve, cheat=Cheat(curve, 1, opening))
    convicts(outcomes, Code.BAD_PROOF)


# -- T-025, T-005: shares ---


def share_to_1(change: Callable[[tuple[bytes, ...]], tuple[bytes, ...]]) -> Hook:
    return cheats(OPEN, lambda m: replace(m, values=change), broadcast=False, only_to=1)


SHARES: dict[str, Callable[[Group], bytes]] = {
    "off by one": lambda g: g.encode_scalar(1),
    "zero": lambda g: bytes(32),
    "q": lambda g: g.q.to_bytes(32, g.byteorder),  # type: ignore[arg-type]
    "q + 1": lambda g: (g.q + 1).to_bytes(32, g.byteorder),  # type: ignore[arg-type]
    "largest": lambda g: b"\xff" * 32,
    "31 bytes": lambda g: bytes(31),
    "33 bytes": lambda g: bytes(33),
    "nothing": lambda g: b"",
}


@CURVES
@pytest.mark.parametrize("name", SHARES)
def test_t005_t025_a_wrong_share_to_one_victim_names_the_dealer(curve: str, name: str) -> None:
    g = group(curve)
    outcomes = generate(curve=curve, hook=share_to_1(lambda _: (SHARES[name](g),)))
    convicts(outcomes, Code.BAD_SHARE, by=(1,))
    # Player 2 saw nothing wrong: it is told that the session ended, and blames nobody.
    assert outcomes[2].code is Code.BAD_SHARE
    assert outcomes[2].abort.culprits == ()


@pytest.mark.parametrize("change", [lambda v: v[:-1], lambda v: (*v, v[0]), lambda v: ()])
def test_t025_a_wrong_number_of_shares_names_the_dealer(change: Any) -> None:
    convicts(generate(count=2, hook=share_to_1(change)), Code.BAD_SHARE, by=(1,))


def test_t025_the_shares_of_two_players_swapped() -> None:
    kept: dict[int, Any] = {}

    def hook(e: Envelope) -> Any:
        if (e.number, e.sender, e.broadcast) != (OPEN, 3, False):
            return e.message
        f = Polynomial(group("secp256k1"), (SecretScalar(5), SecretScalar(e.receiver)))
        kept[e.receiver] = f
        return replace(e.message, values=(group("secp256k1").encode_scalar(5 + e.receiver),))

    convicts(generate(hook=hook), Code.BAD_SHARE)
    assert sorted(kept) == [1, 2]


def test_t025_the_right_share_of_another_key_of_the_batch() -> None:
    convicts(generate(count=2, hook=share_to_1(lambda v: v[::-1])), Code.BAD_SHARE, by=(1,))


def test_a_sum_that_is_the_identity_is_refused() -> None:
    """Needs the others' secrets: what an honest player would see if it happened."""
    members = parties((1, 2), "dkg")
    g = group("secp256k1")
    f = Polynomial.random(g, 1, SeededRng(1))
    minus = Polynomial(g, tuple(SecretScalar(g.q - c.reveal()) for c in f.coefficients))
    dealings = {
        i: keygen._Dealing((p.commit(),), (p.evaluate(1),), (bytes(32),))
        for i, p in ((1, f), (2, minus))
    }
    with pytest.raises(Abort) as caught:
        keygen._assemble(members[1], VAULT, params(), dealings, 0)
    assert caught.value.code is Code.KEY_SUM
    assert caught.value.culprits == ()


# -- record hash, READY ---


def test_another_record_hash_names_its_sender_and_nothing_is_stored() -> None:
    hook = cheats(RECORD, lambda m: replace(m, value=bytes(32)))
    convicts(generate(hook=hook), Code.BAD_COMMIT)


@pytest.mark.parametrize(
    "forged", [b"", bytes(63), bytes(64), bytes(65)], ids=lambda b: f"{len(b)} bytes"
)
def test_a_forged_ready_names_its_sender_and_the_key_stays_pending(forged: bytes) -> None:
    outcomes = generate(hook=cheats(READY, lambda m: replace(m, signature=forged)))
    for i in (1, 2):
        assert outcomes[i].abort.code is Code.BAD_PROOF
        assert outcomes[i].abort.culprits == (3,)
        assert [d.what for d in outcomes[i].journal] == ["keygen/pending"]


def test_a_ready_of_another_player_or_of_another_batch_is_forged() -> None:
    earlier = generate(seed="earlier")[3].result.ready[3]

    def copied(said: Said) -> Hook:
        return cheats(READY, lambda _: said(1, READY))

    of_another_batch = cheats(READY, lambda m: replace(m, signature=earlier))
    for outcomes in (generate(rushing=copied), generate(hook=of_another_batch, seed="now")):
        assert outcomes[2].abort.culprits == (3,)
        assert not outcomes[2].events("keygen/certificate")


# -- whoever aborts before pending has stored nothing ---


@pytest.mark.parametrize("victim", [1, 2])
@pytest.mark.parametrize("number", [COMMIT, OPEN, RECORD])
def test_whoever_aborts_before_pending_has_stored_nothing(number: int, victim: int) -> None:
    def lost(e: Envelope) -> Any:
        return DROP if (e.number, e.sender, e.receiver) == (number, 3, victim) else e.message

    outcomes = generate(hook=lost)
    assert outcomes[victim].code is Code.PEER_TIMEOUT
    assert not outcomes[victim].journal
    if number < RECORD:
        stores_nothing(outcomes)
    for o in outcomes.values():
        # Whoever went on promised nothing that it could not keep: the share came first.
        assert not o.events("keygen/certificate")
        assert o.result is None


def test_a_lost_ready_leaves_every_share_in_place() -> None:
    outcomes = generate(
        hook=lambda e: DROP if (e.number, e.sender, e.receiver) == (READY, 3, 1) else e.message
    )
    assert all(len(o.events("keygen/pending")) == 1 for o in outcomes.values())
    assert not outcomes[1].events("keygen/certificate")
    assert outcomes[2].result is not None


def test_key_ids_and_batch_ids_come_from_the_session() -> None:
    created = generate()[1].result
    assert created.batch_id == parties((1, 2, 3), "dkg")[1].sid
    assert created.records[0].key_id == "key-" + digest(
        keygen._KEY_ID, created.batch_id, 0
    )[:16].hex()  # fmt: skip
