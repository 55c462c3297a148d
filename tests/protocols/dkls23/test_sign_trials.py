"""What a cheater may send while signing: no echo, so the final verification is the judge."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

from keycairn.curves import SECP256K1
from keycairn.errors import Certainty, Code, PeerAborted
from keycairn.protocols.dkls23 import Presignature, verify_ecdsa
from protocols.dkls23.vault import Vault, sha, signature_of
from protocols.lockstep import DROP, Envelope, Outcome, altered, replace

Q = SECP256K1.q
PRESIGN = importlib.import_module("keycairn.protocols.dkls23.presign")
SIGN = importlib.import_module("keycairn.protocols.dkls23.sign")


@pytest.fixture
def vault() -> Vault:
    return Vault(5, 2, (1, 3, 4))


@pytest.fixture
def mine(vault: Vault) -> dict[int, Presignature]:
    return {i: batch[0] for i, batch in vault.presignatures().items()}


def bump(data: bytes) -> bytes:
    return ((int.from_bytes(data, "big") + 1) % Q).to_bytes(32, "big")


def from_4(
    number: int, field: str, change: Callable[[bytes], bytes], only_to: int | None = None
) -> Any:
    return altered(
        number, 4, lambda m: replace(m, **{field: change}), broadcast=True, only_to=only_to
    )


def invalid(outcome: Outcome, others: tuple[int, ...], digest: bytes) -> None:
    assert outcome.result is None
    assert outcome.code is Code.SIG_INVALID
    assert outcome.abort.culprits == others
    expected = Certainty.CERTAIN if len(others) == 1 else Certainty.ONE_OF
    assert outcome.abort.certainty is expected
    assert not outcome.abort.ban
    assert outcome.abort.detail["possibly_signed"] is True
    assert outcome.abort.detail["digests"] == [digest.hex()]
    assert "possibly signed" in outcome.abort.not_lost
    assert [d.what for d in outcome.journal] == ["spend"]


@pytest.mark.parametrize("field", ["w", "u"])
def test_t039_wrong_partial_to_all(vault: Vault, mine: dict[int, Presignature], field: str) -> None:
    outcomes = vault.sign(mine, sha(1), hook=from_4(2, field, bump))
    invalid(outcomes[1], (3, 4), sha(1))
    invalid(outcomes[3], (1, 4), sha(1))
    assert all(p.spent for p in mine.values())
    # Why the digest counts as possibly signed: the cheater has the valid signature.
    stolen = outcomes[4].result
    verify_ecdsa(SECP256K1, vault.public_key(), sha(1), stolen.r, stolen.s)
    # And the presignature is never tried again.
    assert {o.code for o in vault.sign(mine, sha(1)).values()} == {Code.PRESIG_SPENT}


@pytest.mark.parametrize("field", ["w", "u"])
def test_t039_wrong_partial_to_one(vault: Vault, mine: dict[int, Presignature], field: str) -> None:
    outcomes = vault.sign(mine, sha(1), hook=from_4(2, field, bump, only_to=1))
    invalid(outcomes[1], (3, 4), sha(1))
    assert outcomes[3].result is not None
    assert all(p.spent for p in mine.values())


def test_t039_two_signers_know_who_it_was() -> None:
    vault = Vault(2, 1, (1, 2))
    mine = {i: batch[0] for i, batch in vault.presignatures().items()}
    hook = altered(2, 2, lambda m: replace(m, w=bump), broadcast=True)
    invalid(vault.sign(mine, sha(1), hook=hook)[1], (2,), sha(1))


def test_a_denominator_forced_to_zero_is_an_invalid_signature(
    vault: Vault, mine: dict[int, Presignature]
) -> None:
    """A rushing player may cancel Σu'; it must not look like another error."""
    sums: dict[int, int] = {}

    def hook(e: Envelope) -> Any:
        if e.number == 2:
            if e.sender != 4:
                sums[e.sender] = int.from_bytes(e.message.u, "big")
            elif len(sums) == 2:
                return replace(e.message, u=(-sum(sums.values()) % Q).to_bytes(32, "big"))
        return e.message

    # Player 1 is served first, when only player 3's share is known: it sees a wrong u.
    outcomes = vault.sign(mine, sha(1), hook=hook)
    invalid(outcomes[3], (1, 4), sha(1))


@pytest.mark.parametrize("field", ["w", "u"])
@pytest.mark.parametrize("value", [Q, Q + 1, 2**256 - 1])
def test_t005_partial_above_the_order(
    vault: Vault, mine: dict[int, Presignature], field: str, value: int
) -> None:
    hook = from_4(2, field, lambda _: value.to_bytes(32, "big"))
    named(vault.sign(mine, sha(1), hook=hook), Code.BAD_SCALAR, (1, 3))


@pytest.mark.parametrize("change", [lambda b: b[:31], lambda b: b + b"\0", lambda b: b""])
@pytest.mark.parametrize(
    ("number", "field", "code"),
    [(1, "nu", Code.BAD_LENGTH), (2, "w", Code.BAD_SCALAR), (2, "u", Code.BAD_SCALAR)],
)
def test_t008_lengths(
    vault: Vault,
    mine: dict[int, Presignature],
    number: int,
    field: str,
    code: Code,
    change: Callable[[bytes], bytes],
) -> None:
    named(vault.sign(mine, sha(1), hook=from_4(number, field, change)), code, (1, 3))


def named(outcomes: dict[int, Outcome], code: Code, by: tuple[int, ...]) -> None:
    for i in (1, 3):
        if i in by:
            assert outcomes[i].code is code, outcomes[i].error
            assert outcomes[i].abort.culprits == (4,)
            assert outcomes[i].abort.certainty is Certainty.CERTAIN
            assert not outcomes[i].abort.ban
        else:
            assert isinstance(outcomes[i].error, PeerAborted)
        assert outcomes[i].events("ban") == []


@pytest.mark.parametrize("only_to", [None, 1])
def test_wrong_nu_is_named_by_each_receiver_and_the_presignature_spent(
    vault: Vault, mine: dict[int, Presignature], only_to: int | None
) -> None:
    hook = from_4(1, "nu", lambda nu: bytes([nu[0] ^ 1]) + nu[1:], only_to)
    outcomes = vault.sign(mine, sha(1), hook=hook)
    named(outcomes, Code.BAD_COMMIT, (1, 3) if only_to is None else (1,))
    assert all(p.spent for p in mine.values())
    assert len(outcomes[1].sent) == 1, "no partial left"


def test_nu_of_another_slot_or_player_does_not_open(vault: Vault) -> None:
    batch = vault.presignatures(2)
    seen: dict[int, Any] = {}

    def record(e: Envelope) -> Any:
        if e.number == 1:
            seen[e.sender] = e.message
        return e.message

    signature_of(vault.sign({i: batch[i][0] for i in batch}, sha(1), hook=record))
    hook = altered(1, 4, lambda _: seen[4], broadcast=True)
    outcomes = vault.sign({i: batch[i][1] for i in batch}, sha(1), hook=hook)
    named(outcomes, Code.BAD_COMMIT, (1, 3))


def test_nu_is_committed_for_one_session_player_and_slot() -> None:
    """Else a rushing player could commit to another's ν by copying its commitment."""
    nu = bytes(32)
    places = [(s, i, slot) for s in (bytes(32), sha(1)) for i in (1, 2) for slot in (0, 1)]
    assert len({PRESIGN.nu_commitment(s, i, slot, nu) for s, i, slot in places}) == len(places)


def test_t020_digest_equivocated_between_signers(
    vault: Vault, mine: dict[int, Presignature]
) -> None:
    """A client shows two digests: noise, no signature for either, nobody banned, all spent."""
    digests = {1: sha("a"), 3: sha("b"), 4: sha("a")}
    outcomes = vault.sign(mine, digests)
    for i in (1, 3, 4):
        invalid(outcomes[i], tuple(j for j in (1, 3, 4) if j != i), digests[i])
        assert outcomes[i].events("ban") == []
        assert mine[i].spent


def test_t020_tweak_equivocated_between_signers(
    vault: Vault, mine: dict[int, Presignature]
) -> None:
    outcomes = vault.sign(mine, sha(1), {1: 0, 3: 5, 4: 0})
    assert {o.code for o in outcomes.values()} == {Code.SIG_INVALID}
    assert all(o.events("ban") == [] for o in outcomes.values())
    assert all(p.spent for p in mine.values())


REQUESTS = {
    "same": (sha(1), 0),
    "digest": (sha(2), 0),
    "tweak": (sha(1), 7),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_t020_zero_shares_cancel_only_for_one_and_the_same_request(
    vault: Vault,
    mine: dict[int, Presignature],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    """In place of the echo: partials of players that differ in the request are noise."""
    shares: dict[Any, int] = {}
    original = SIGN.zero_shares

    def spy(group: Any, t: Any, session: bytes, me: int, *rest: Any) -> list[int]:
        made = original(group, t, session, me, *rest)
        shares.update({(me, label): share for label, share in zip(rest[-1], made, strict=True)})
        return list(made)

    monkeypatch.setattr(SIGN, "zero_shares", spy)
    digest, tweak = REQUESTS[what]
    vault.sign(mine, {1: sha(1), 3: digest, 4: sha(1)}, {1: 0, 3: tweak, 4: 0})
    assert len(set(shares.values())) == len(shares) == 6
    for label in ("u", "w"):
        total = sum(shares[i, label] for i in (1, 3, 4)) % Q
        assert (total == 0) == (what == "same")


def test_both_numbers_of_a_partial_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same presignature and request with and without zero-shares: both numbers move."""
    sent = []
    for masked in (True, False):
        vault = Vault(5, 2, (1, 3, 4), seed="mask")
        mine = {i: batch[0] for i, batch in vault.presignatures().items()}
        if not masked:
            monkeypatch.setattr(SIGN, "zero_shares", lambda *_: [0, 0])
        outcomes = vault.sign(mine, sha(1))
        signature_of(outcomes)
        sent.append({i: outcomes[i].sent[1].broadcast for i in (1, 3, 4)})
    with_masks, without = sent
    for i in (1, 3, 4):
        assert with_masks[i].w != without[i].w
        assert with_masks[i].u != without[i].u


@pytest.mark.parametrize("number", [1, 2])
def test_a_player_that_goes_silent_leaves_the_presignature_spent(
    vault: Vault, mine: dict[int, Presignature], number: int
) -> None:
    outcomes = vault.sign(
        mine, sha(1), hook=lambda e: DROP if (e.number, e.sender) == (number, 4) else e.message
    )
    for i in (1, 3):
        assert outcomes[i].code is Code.PEER_TIMEOUT
        assert outcomes[i].result is None
        assert mine[i].spent


def test_spend_comes_before_nu_leaves(vault: Vault, mine: dict[int, Presignature]) -> None:
    outcomes = vault.sign(mine, sha(1), 9)
    for i, outcome in outcomes.items():
        ((spend,),) = outcome.events("spend")
        assert (spend.presignature_id, spend.base_r) == (mine[i].id, mine[i].base_r)
        assert (spend.key_id, spend.digest) == (vault.record.key_id, sha(1))
        assert [r.echo for r in outcome.sent] == [False, False]


def test_a_setup_that_ends_between_the_rounds_stops_the_partial(
    vault: Vault, mine: dict[int, Presignature]
) -> None:
    def hook(e: Envelope) -> Any:
        if e.number == 1 and e.receiver == 1:
            vault.setups[1][4].kill()
        return e.message

    outcomes = vault.sign(mine, sha(1), hook=hook)
    assert outcomes[1].code is Code.UNAVAILABLE
    assert len(outcomes[1].sent) == 1
    assert mine[1].spent
