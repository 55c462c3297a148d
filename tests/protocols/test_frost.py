"""FROST(Ed25519, SHA-512): RFC 9591's vectors, nonces used once, cheats named (T-057 to T-062)."""

from __future__ import annotations

import itertools
import json
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from solders.pubkey import Pubkey
from solders.signature import Signature as SolanaSignature

from keycairn.curves import ED25519
from keycairn.curves.polynomial import Polynomial, lagrange
from keycairn.encoding import SecretScalar
from keycairn.errors import Certainty, Code, KeycairnError
from keycairn.ports.seeded import SeededRng
from keycairn.protocols import frost
from keycairn.protocols.record import KeyShare
from protocols.lockstep import (
    Envelope,
    Hook,
    Outcome,
    altered,
    deal,
    frost_sign,
    parties,
    replace,
    run,
)
from protocols.network import NONCES, Copy, World, frost_key

G = ED25519
NONCE_ROUND, RESPONSE_ROUND = 1, 2


def sign(
    keys: dict[int, KeyShare],
    players: Sequence[int],
    message: bytes | Callable[[int], bytes] = b"message",
    hook: Hook | None = None,
    seed: object = 0,
) -> dict[int, Outcome]:
    members = parties(players, "frost", seed)
    text = message if callable(message) else lambda _: message
    return run({i: frost_sign(members[i], keys[i], text(i)) for i in players}, hook)


def verified(outcomes: dict[int, Outcome], key: KeyShare, message: bytes) -> bytes:
    """The one signature of all signers, accepted by two libraries that share no code with us."""
    (signature,) = {o.result.signature for o in outcomes.values()}
    public = key.record.public_key
    Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    assert SolanaSignature.from_bytes(signature).verify(Pubkey.from_bytes(public), message)
    return bytes(signature)


def refused(call: Callable[..., Any], *args: Any) -> Code:
    with pytest.raises(KeycairnError) as caught:
        call(*args)
    return caught.value.code


# -- T-057: RFC 9591, appendix E.1 ---


@pytest.fixture
def rfc(vectors: Path) -> dict[str, Any]:
    return dict(json.loads((vectors / "rfc9591" / "frost-ed25519-sha512.json").read_text()))


def scalar(text: str) -> int:
    return G.decode_scalar(bytes.fromhex(text))


class Bytes:
    """An Rng that gives what the vector says."""

    def __init__(self, *chunks: str) -> None:
        self._chunks = [bytes.fromhex(c) for c in chunks]

    def bytes(self, n: int) -> bytes:
        out = self._chunks.pop(0)
        assert len(out) == n
        return out


def test_t057_rfc_9591_shares_and_group_key(rfc: dict[str, Any]) -> None:
    inputs = rfc["inputs"]
    coefficients = [inputs["group_secret_key"], *inputs["share_polynomial_coefficients"]]
    f = Polynomial(G, tuple(SecretScalar(scalar(c)) for c in coefficients))
    for s in inputs["participant_shares"]:
        assert f.evaluate(s["identifier"]).reveal() == scalar(s["participant_share"])
    assert f.commit()[0].encode().hex() == inputs["group_public_key"]


def test_t057_rfc_9591_every_intermediate_value(rfc: dict[str, Any]) -> None:
    inputs = rfc["inputs"]
    message = bytes.fromhex(inputs["message"])
    public = G.decode_point(bytes.fromhex(inputs["group_public_key"]))
    shares = {
        s["identifier"]: SecretScalar(scalar(s["participant_share"]))
        for s in inputs["participant_shares"]
    }
    first = {o["identifier"]: o for o in rfc["round_one_outputs"]["outputs"]}
    pairs = {}
    for i, o in first.items():
        randomness = o["hiding_nonce_randomness"], o["binding_nonce_randomness"]
        assert frost.nonce_generate(shares[i], bytes.fromhex(randomness[0])) == scalar(
            o["hiding_nonce"]
        )
        assert frost.nonce_generate(shares[i], bytes.fromhex(randomness[1])) == scalar(
            o["binding_nonce"]
        )
        pairs[i] = frost.commit(i, shares[i], Bytes(*randomness))
        assert pairs[i].commitment.hiding.encode().hex() == o["hiding_nonce_commitment"]
        assert pairs[i].commitment.binding.encode().hex() == o["binding_nonce_commitment"]
    commitments = [pairs[i].commitment for i in inputs["participant_list"]]
    for i, o in first.items():
        prefix = public.encode() + frost.h4(message)
        prefix += frost.h5(frost.encode_commitment_list(commitments))
        assert (prefix + G.encode_scalar(i)).hex() == o["binding_factor_input"]
        factor = frost.compute_binding_factors(public, commitments, message)[i]
        assert factor == scalar(o["binding_factor"])
    package = frost.SigningPackage.build(commitments, message, public)
    responses = {}
    for o in rfc["round_two_outputs"]["outputs"]:
        i = o["identifier"]
        responses[i] = frost.sign_share(package, pairs[i], shares[i], i)
        assert responses[i] == scalar(o["sig_share"])
        assert frost.verify_signature_share(
            package, i, responses[i], G.base_mul(shares[i].reveal())
        )
    signature = frost.aggregate(package, responses)
    assert signature.hex() == rfc["final_output"]["sig"]
    frost.verify(public.encode(), message, signature)


# -- signatures ---


def test_200_signatures_over_all_kinds_of_signer_sets_verify_elsewhere() -> None:
    rnd = random.Random(200)
    keys = {
        (n, t): deal("ed25519", n, t, scheme="schnorr") for n, t in ((2, 1), (3, 1), (3, 2), (5, 2))
    }
    seen = set()
    for k in range(200):
        n, t = rnd.choice(list(keys))
        players = sorted(rnd.sample(range(1, n + 1), rnd.randrange(t + 1, n + 1)))
        message = rnd.randbytes(rnd.choice((0, 1, 32, 64, 1000)))
        outcomes = sign(keys[n, t], players, message, seed=k)
        seen.add(verified(outcomes, keys[n, t][1], message)[:32])
        spends = [o.events("spend")[0][0] for o in outcomes.values()]
        assert len({(s.presignature_id, s.base_r, s.key_id, s.digest) for s in spends}) == 1
    assert len(seen) == 200  # never the same R


async def test_the_driver_gives_every_signer_the_same_verified_signature() -> None:
    world = await World.of(3)
    for players in ((1, 2), (1, 3), (2, 3), (1, 2, 3)):
        outcomes = await world.frost(b"hello", players, name=str(players))
        (signature,) = {o.result.signature for o in outcomes.values()}
        public = Ed25519PublicKey.from_public_bytes(frost_key()[1].record.public_key)
        public.verify(signature, b"hello")


def test_messages_up_to_the_limit_and_no_longer() -> None:
    keys = frost_key()
    longest = bytes(frost.MAX_MESSAGE)
    verified(sign(keys, (1, 2), longest), keys[1], longest)
    outcomes = sign(keys, (1, 2), longest + b"\0")
    assert {o.code for o in outcomes.values()} == {Code.TOO_LARGE}


@pytest.mark.parametrize("players", [(1,), (2, 1), (1, 1), (1, 4), (0, 1), ()])
def test_t006_impossible_signers_are_refused(players: tuple[int, ...]) -> None:
    assert refused(frost_key()[1].record.check_signers, players) is Code.BAD_INDEX


# -- T-058: nonces are used once ---


def package_of(pairs: dict[int, frost.NoncePair], message: bytes = b"m") -> frost.SigningPackage:
    public = frost_key()[1].record.public_point()
    return frost.SigningPackage.build([pairs[i].commitment for i in sorted(pairs)], message, public)


def nonces(players: Sequence[int] = (1, 2), seed: object = 0) -> dict[int, frost.NoncePair]:
    keys = frost_key()
    return {i: frost.commit(i, keys[i].share, SeededRng(f"{seed}/{i}")) for i in players}


def test_t058_a_nonce_pair_signs_once_whatever_the_second_request_is() -> None:
    pairs, share = nonces(), frost_key()[1].share
    package = package_of(pairs)
    assert 0 < frost.sign_share(package, pairs[1], share, 1) < G.q
    for again in (package, package_of(pairs, b"another message")):
        assert refused(frost.sign_share, again, pairs[1], share, 1) is Code.PRESIG_SPENT
    assert refused(pairs[1].take) is Code.PRESIG_SPENT


def test_t058_64_threads_at_one_nonce_pair_get_one_share() -> None:
    pairs, share = nonces(), frost_key()[1].share
    package = package_of(pairs)
    start = threading.Barrier(64)
    got: list[Any] = []

    def one() -> None:
        start.wait()
        try:
            got.append(frost.sign_share(package, pairs[1], share, 1))
        except KeycairnError as error:
            got.append(error.code)

    threads = [threading.Thread(target=one) for _ in range(64)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sum(isinstance(x, int) for x in got) == 1
    assert got.count(Code.PRESIG_SPENT) == 63


def test_nonces_are_hedged_with_the_share_and_never_repeat() -> None:
    one, two = SecretScalar(1), SecretScalar(2)
    assert frost.nonce_generate(one, bytes(32)) != frost.nonce_generate(two, bytes(32))
    assert frost.nonce_generate(one, bytes(32)) != frost.nonce_generate(one, b"\1" * 32)
    for wrong in (b"", bytes(31), bytes(33)):
        with pytest.raises(ValueError, match="32"):
            frost.nonce_generate(one, wrong)
    rng = SeededRng(1)
    made = [frost.commit(1, one, rng).commitment for _ in range(100)]
    assert len({c.hiding for c in made} | {c.binding for c in made}) == 200


def test_the_spend_is_durable_before_the_share_leaves() -> None:
    journal: dict[int, int] = {}

    def hook(e: Envelope) -> Any:
        if e.number == RESPONSE_ROUND:
            journal[e.sender] = len(lockstep.outcomes[e.sender].events("spend"))
        return e.message

    from protocols.lockstep import Lockstep

    members, keys = parties((1, 2), "frost"), frost_key()
    lockstep = Lockstep({i: frost_sign(members[i], keys[i], b"m") for i in (1, 2)}, hook)
    lockstep.finish()
    assert journal == {1: 1, 2: 1}


# -- T-060: the commitment list ---


def lists() -> dict[str, Callable[[list[Any]], list[Any]]]:
    other = nonces((3,))[3].commitment
    return {
        "unsorted": lambda v: v[::-1],
        "duplicate": lambda v: [v[0], v[0], v[1]],
        "duplicate id": lambda v: [v[0], frost.NonceCommitment(1, v[1].hiding, v[1].binding)],
        "missing self": lambda v: v[1:],
        "missing another": lambda v: v[:1],
        "extra id": lambda v: [*v, other],
        "another's": lambda v: [other, v[1]],
        "own pair swapped": lambda v: [
            frost.NonceCommitment(1, v[0].binding, v[0].hiding),
            v[1],
        ],
        "own pair replaced": lambda v: [frost.NonceCommitment(1, v[1].hiding, v[1].binding), v[1]],
        "empty": lambda v: [],
    }


@pytest.mark.parametrize("name", lists())
def test_t060_a_list_that_is_not_the_agreed_one_is_refused(name: str) -> None:
    pairs = nonces()
    good = [pairs[1].commitment, pairs[2].commitment]
    frost.check_commitment_list(good, (1, 2), pairs[1].commitment)
    bad = lists()[name](good)
    assert refused(frost.check_commitment_list, bad, (1, 2), pairs[1].commitment) is Code.MALFORMED


@pytest.mark.parametrize("name", ["unsorted", "missing self", "another's", "own pair swapped"])
def test_t060_a_bad_list_costs_the_nonce(name: str) -> None:
    pairs, share = nonces(), frost_key()[1].share
    bad = lists()[name]([pairs[1].commitment, pairs[2].commitment])
    public = frost_key()[1].record.public_point()
    package = frost.SigningPackage.build(bad, b"m", public)
    assert refused(frost.sign_share, package, pairs[1], share, 1) is Code.MALFORMED
    assert refused(frost.sign_share, package_of(pairs), pairs[1], share, 1) is Code.PRESIG_SPENT


@pytest.mark.parametrize("field", ["hiding", "binding"])
@pytest.mark.parametrize(
    "bad",
    [(1).to_bytes(32, "little"), bytes(32), (2**255 - 18).to_bytes(32, "little"), b"", bytes(33)],
    ids=["identity", "order 4", "identity, not canonical", "empty", "long"],
)
def test_t002_t060_identity_and_torsion_as_nonce_commitments_name_their_sender(
    field: str, bad: bytes
) -> None:
    hook = altered(NONCE_ROUND, 2, lambda m: replace(m, **{field: bad}), broadcast=True)
    outcomes = sign(frost_key(), (1, 2), hook=hook)
    assert outcomes[1].abort.code is Code.BAD_POINT
    assert outcomes[1].abort.culprits == (2,)
    assert not outcomes[1].journal


def test_a_nonce_commitment_copied_from_the_victim_gives_no_signature() -> None:
    """A rushing signer answers with the victim's own commitment: it can't make its share."""
    keys = frost_key()
    members = parties((1, 2), "frost")
    own = frost.commit(1, keys[1].share, members[1].rng).commitment  # what player 1 will draw
    copied = frost.NonceMessage(own.hiding.encode(), own.binding.encode())
    outcomes = sign(keys, (1, 2), hook=altered(NONCE_ROUND, 2, lambda _: copied, broadcast=True))
    assert outcomes[1].abort.code is Code.SIG_INVALID
    assert outcomes[1].result is None


# -- T-062: bad shares ---


def bad_response(change: Callable[[int], int], to: int | None = None) -> Hook:
    return altered(
        RESPONSE_ROUND,
        3,
        lambda m: replace(m, value=lambda v: G.encode_scalar(change(G.decode_scalar(v)))),
        broadcast=True,
        only_to=to,
    )


@pytest.mark.parametrize(
    "change", [lambda z: z + 1, lambda z: 0, lambda z: -z, lambda z: 2 * z], ids=range(4)
)
def test_t062_a_bad_share_is_named_by_all_honest_signers(change: Callable[[int], int]) -> None:
    outcomes = sign(frost_key(), (1, 2, 3), hook=bad_response(change))
    for i in (1, 2):
        abort = outcomes[i].abort
        assert (abort.code, abort.culprits) == (Code.SIG_INVALID, (3,))
        assert abort.certainty is Certainty.CERTAIN
        assert not abort.ban
        assert len(outcomes[i].events("spend")) == 1


def test_t062_a_bad_share_to_one_signer_only() -> None:
    keys = frost_key()
    outcomes = sign(keys, (1, 2, 3), hook=bad_response(lambda z: z + 1, to=1))
    assert outcomes[1].abort.culprits == (3,)
    verified({2: outcomes[2]}, keys[1], b"message")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (G.q.to_bytes(32, "little"), Code.BAD_SCALAR),
        (b"\xff" * 32, Code.BAD_SCALAR),
        (bytes(31), Code.BAD_SCALAR),
        (bytes(33), Code.BAD_SCALAR),
        (b"", Code.BAD_SCALAR),
    ],
)
def test_t005_a_response_that_is_no_scalar_names_its_sender(value: bytes, code: Code) -> None:
    hook = altered(RESPONSE_ROUND, 3, lambda m: replace(m, value=value), broadcast=True)
    outcomes = sign(frost_key(), (1, 3), hook=hook)
    assert (outcomes[1].abort.code, outcomes[1].abort.culprits) == (code, (3,))


def test_t062_two_cheats_are_both_named() -> None:
    def both(e: Envelope) -> Any:
        if e.number == RESPONSE_ROUND and e.sender in (2, 3):
            return replace(e.message, value=G.encode_scalar(e.sender))
        return e.message

    outcomes = sign(frost_key(), (1, 2, 3), hook=both)
    assert outcomes[1].abort.culprits == (2, 3)


def test_t062_cheats_that_cancel_each_other_make_a_valid_signature() -> None:
    """Nothing to catch: the sum is right, and that is all a verifier asks."""

    def shifted(e: Envelope) -> Any:
        if e.number == RESPONSE_ROUND and e.sender in (2, 3):
            shift = 5 if e.sender == 2 else -5
            return replace(e.message, value=lambda v: G.encode_scalar(G.decode_scalar(v) + shift))
        return e.message

    keys = frost_key()
    outcomes = sign(keys, (1, 2, 3), hook=shifted)
    verified({1: outcomes[1]}, keys[1], b"message")


def test_another_share_than_the_record_says_is_named() -> None:
    """A signer with a wrong key share (another key's, or damaged) fails by the same check."""
    keys = frost_key()
    wrong = KeyShare(keys[3].record, 3, SecretScalar(keys[3].share.reveal() + 1), None)
    outcomes = sign({**keys, 3: wrong}, (1, 2, 3))
    assert outcomes[1].abort.culprits == outcomes[2].abort.culprits == (3,)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_package_hash_of_another_length_names_its_sender(size: int) -> None:
    hook = altered(RESPONSE_ROUND, 2, lambda m: replace(m, package=bytes(size)), broadcast=True)
    outcomes = sign(frost_key(), (1, 2), hook=hook)
    assert (outcomes[1].abort.code, outcomes[1].abort.culprits) == (Code.BAD_LENGTH, (2,))


# -- T-020: signers that were shown different things ---


async def test_t020_a_message_equivocated_between_signers_is_found_in_the_handshake() -> None:
    world = await World.of(2)
    keys = frost_key(2)
    outcomes = await world.run(
        {i: world.sign_spec("s", (1, 2), keys[i], b"pay %d" % i) for i in (1, 2)},
        lambda i: lambda party: frost_sign(party, keys[i], b"pay %d" % i),
    )
    for i, o in outcomes.items():
        assert o.code is Code.SESSION_MISMATCH
        assert o.abort.culprits == ()
        assert not world[i].journal
    assert "message" in {o.abort.detail.get("field") for o in outcomes.values()}


def test_t020_past_the_handshake_it_gives_no_signature_and_nobody_is_banned() -> None:
    outcomes = sign(frost_key(), (1, 2, 3), lambda i: b"pay %d" % (i == 3))
    for o in outcomes.values():
        assert o.code is Code.SIG_INVALID
        assert o.result is None
        assert not o.abort.ban
        assert o.abort.certainty is not Certainty.CERTAIN
        assert len(o.events("spend")) == 1


def test_t020_a_signer_that_shows_two_nonces_cannot_make_honest_ones_convict_each_other() -> None:
    """Regression: each honest signer named the other, with certainty."""
    other = nonces((3,), seed="other")[3].commitment
    shown = frost.NonceMessage(other.hiding.encode(), other.binding.encode())
    keys = frost_key()
    hook = altered(NONCE_ROUND, 3, lambda _: shown, broadcast=True, only_to=2)
    outcomes = sign(keys, (1, 2, 3), hook=hook)
    for i in (1, 2):
        abort = outcomes[i].abort
        assert abort.code is Code.SIG_INVALID
        assert 3 in abort.culprits
        assert abort.certainty is Certainty.ONE_OF or abort.culprits == (3,)


def test_t020_a_lie_about_the_package_is_no_way_to_a_certain_verdict_on_others() -> None:
    def liar(e: Envelope) -> Any:
        if e.number == RESPONSE_ROUND and e.sender == 3:
            return replace(e.message, package=bytes(32), value=G.encode_scalar(7))
        return e.message

    outcomes = sign(frost_key(), (1, 2, 3), hook=liar)
    for i in (1, 2):
        assert outcomes[i].abort.certainty is Certainty.ONE_OF
        assert outcomes[i].abort.culprits == tuple(j for j in (1, 2, 3) if j != i)


async def test_an_equivocated_nonce_gives_no_signature_over_the_network_either() -> None:
    world = await World.of(3)
    other = nonces((3,), seed="other")[3].commitment
    shown = frost.NonceMessage(other.hiding.encode(), other.binding.encode())

    def change(c: Copy) -> Any:
        if c.sender == 3 and c.receiver == 2 and c.at(NONCES, 2):
            return [c.but(body=shown)]
        return None

    world.frames(change)
    outcomes = await world.frost(players=(1, 2, 3))
    assert {o.code for o in outcomes.values()} == {Code.SIG_INVALID}


# -- properties of the binding factor (R-06) ---


def test_any_change_of_list_message_or_key_changes_every_binding_factor() -> None:
    pairs = nonces((1, 2, 3))
    public = frost_key()[1].record.public_point()
    good = [pairs[i].commitment for i in (1, 2, 3)]
    moved = [good[0], frost.NonceCommitment(2, good[1].binding, good[1].hiding), good[2]]
    variants = [
        (public, good, b"m"),
        (public, good, b"n"),
        (public, good, b""),
        (public, good[:2], b"m"),
        (public, moved, b"m"),
        (G.neg(public), good, b"m"),
    ]
    factors = [frost.compute_binding_factors(*v) for v in variants]
    for i in (1, 2):
        assert len({f[i] for f in factors}) == len(variants)


def test_shares_add_up_to_the_plain_schnorr_equation() -> None:
    """z·G = R + c·X with c = SHA-512(R ‖ X ‖ m), from nothing but the definitions."""
    keys = frost_key()
    for players in itertools.combinations((1, 2, 3), 2):
        signature = verified(sign(keys, players), keys[1], b"message")
        r, z = signature[:32], G.decode_scalar(signature[32:])
        x = keys[1].record.public_key
        c = frost.h2(r + x + b"message")
        right = G.combine([(1, G.decode_point(r)), (c, G.decode_point(x))])
        assert G.base_mul(z) == right
        assert sum(lagrange(G, players, i) for i in players) % G.q == 1


# -- verification ---


def test_what_is_no_signature_is_refused() -> None:
    keys = frost_key()
    public = keys[1].record.public_key
    good = verified(sign(keys, (1, 2)), keys[1], b"message")
    frost.verify(public, b"message", good)
    z = G.decode_scalar(good[32:])
    for signature in (
        b"", good[:-1], good + b"\0", bytes(64), good[:32] + bytes(32), bytes(32) + good[32:],
        good[:32] + G.encode_scalar(-z), good[:32] + (z + G.q).to_bytes(32, "little"),
        good[32:] + good[:32],
    ):  # fmt: skip
        assert refused(frost.verify, public, b"message", signature) is Code.SIG_INVALID
    for key, message in ((public, b"Message"), (public, b""), (public[:31], b"message"),
                         ((1).to_bytes(32, "little"), b"message")):  # fmt: skip
        assert refused(frost.verify, key, message, good) is Code.SIG_INVALID
