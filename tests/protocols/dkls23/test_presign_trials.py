"""What a cheater may send while presigning: which check finds it, who is blamed, who is banned.

3-of-5, signers 1, 3, 4; player 4 cheats by altering its messages (this file) or its programme
(test_presign_cheaters.py). "All" means the same alteration to both honest players.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from keycairn.curves import SECP256K1
from keycairn.errors import Certainty, Code, PeerAborted
from protocols.dkls23.vault import Vault, sha, signature_of
from protocols.lockstep import BAD_POINTS, DROP, Envelope, Outcome, altered, replace

Q = SECP256K1.q
OTHER_POINT = SECP256K1.base_mul(4711).encode()
BROADCAST, DIRECT = True, False
Change = Callable[[bytes], bytes]


@pytest.fixture
def vault() -> Vault:
    return Vault(5, 2, (1, 3, 4))


def flipped(at: int = 0) -> Change:
    return lambda old: old[:at] + bytes([old[at] ^ 1]) + old[at + 1 :]


def start(new: bytes) -> Change:
    return lambda old: new + old[len(new) :]


def first(change: Change) -> Callable[[tuple[bytes, ...]], tuple[bytes, ...]]:
    """Alter the first chunk of a chunked field."""
    return lambda chunks: (change(chunks[0]), *chunks[1:])


def trial(
    vault: Vault,
    number: int,
    broadcast: bool,
    fields: dict[str, Any],
    only_to: int | None = None,
    count: int = 2,
) -> dict[int, Outcome]:
    hook = altered(number, 4, lambda m: replace(m, **fields), broadcast=broadcast, only_to=only_to)
    return vault.presign(count, hook)


def blamed(outcomes: dict[int, Outcome], code: Code, *, ban: bool, by: tuple[int, ...]) -> None:
    """Exactly the players ``by`` name player 4, with certainty; the others saw them stop."""
    for i in (1, 3):
        outcome = outcomes[i]
        assert outcome.result is None
        if i in by:
            assert outcome.code is code, outcome.error
            assert outcome.abort.culprits == (4,)
            assert outcome.abort.certainty is Certainty.CERTAIN
            assert outcome.abort.ban == ban
            bans = outcome.events("ban")
            assert [(b.peers, b.reason) for b in bans] == ([((4,), "E_OT_CHECK")] if ban else [])
        else:
            assert isinstance(outcome.error, PeerAborted)
            assert outcome.abort.culprits == ()
            assert outcome.events("ban") == []


U_ROW = 128  # bytes of a row for two slots: 16·7 + 32 = 144; 128 lies in the first row

OT_CHEATS = {
    "u one bit": (1, {"u": first(flipped(5))}),
    "u a pad bit": (1, {"u": first(flipped(U_ROW))}),
    "u a row": (1, {"u": first(start(b"\xff" * 144))}),
    "u same bit in all rows": (
        1,
        {"u": first(lambda u: b"".join(flipped(3)(u[k : k + 144]) for k in range(0, len(u), 144)))},
    ),
    "x hat": (1, {"x_hat": first(flipped(31))}),
    "t hat first row": (1, {"t_hat": first(flipped(0))}),
    "t hat last row": (1, {"t_hat": first(flipped(4095))}),
    "a tilde input": (2, {"a_tilde": first(flipped(0))}),
    "a tilde check column": (2, {"a_tilde": first(flipped(2 * 48))}),
    "a tilde last": (2, {"a_tilde": first(flipped(2 * 59_904 - 1))}),
    "eta": (2, {"eta": first(flipped(63))}),
    "mu": (2, {"mu": first(flipped(0))}),
    "gamma u": (2, {"gamma_u": first(start(OTHER_POINT))}),
    "gamma v": (2, {"gamma_v": first(start(OTHER_POINT))}),
    "gamma u and v swapped": (2, {"gamma_u": first(lambda g: g[33:] + g[:33])}),
}


@pytest.mark.parametrize("name", OT_CHEATS)
@pytest.mark.parametrize("only_to", [None, 1])
def test_t032_t038_consistency_checks_ban_the_peer(
    vault: Vault, name: str, only_to: int | None
) -> None:
    number, fields = OT_CHEATS[name]
    outcomes = trial(vault, number, DIRECT, fields, only_to)
    blamed(outcomes, Code.OT_CHECK, ban=True, by=(1, 3) if only_to is None else (1,))
    # No acknowledgement left, the setup with 4 is dead, the one between the honest is alive.
    assert len(outcomes[1].sent) == number
    assert vault.setups[1][4].dead
    assert vault.setups[3][4].dead == (only_to is None)
    assert not vault.setups[1][3].dead


def test_t032_the_notice_tells_nothing_but_the_peer() -> None:
    """One text for all checks: it names no check, row, chunk or slot."""
    said = set()
    for number, fields in OT_CHEATS.values():
        error = trial(Vault(5, 2, (1, 3, 4)), number, DIRECT, fields)[1].abort
        said.add((str(error), str(error.to_json()), error.__cause__))
    assert len(said) == 1
    assert "[4]" in next(iter(said))[0]


COMMIT_CHEATS = {
    "com": (1, {"commitment": flipped()}),
    "R": (2, {"nonce_points": start(OTHER_POINT)}),
    "pk": (2, {"key_points": start(OTHER_POINT)}),
    "n": (2, {"commitments": flipped(40)}),
    "salt": (2, {"salt": flipped()}),
    "ack": (3, {"ack": flipped()}),
}


@pytest.mark.parametrize("name", COMMIT_CHEATS)
def test_commitments_and_acknowledgement_to_all(vault: Vault, name: str) -> None:
    number, fields = COMMIT_CHEATS[name]
    blamed(trial(vault, number, BROADCAST, fields), Code.BAD_COMMIT, ban=False, by=(1, 3))
    assert not any(s.dead for s in vault.setups[1].values())


@pytest.mark.parametrize("name", COMMIT_CHEATS)
@pytest.mark.parametrize("only_to", [1, 3])
def test_the_same_to_one_is_seen_by_the_echo(vault: Vault, name: str, only_to: int) -> None:
    number, fields = COMMIT_CHEATS[name]
    outcomes = trial(vault, number, BROADCAST, fields, only_to)
    blamed(outcomes, Code.EQUIVOCATION, ban=False, by=(1, 3))


def cut(field: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    return {field: change}


LENGTHS = [
    *[(1, DIRECT, cut("u", first(change))) for change in (
        lambda u: u[:-1],
        lambda u: u[144:],
        lambda u: u + u[:144],
        lambda u: b"",
    )],
    (1, DIRECT, cut("u", lambda chunks: ())),
    (1, DIRECT, cut("u", lambda chunks: chunks * 2)),
    (1, DIRECT, cut("x_hat", first(lambda x: x[:31]))),
    (1, DIRECT, cut("t_hat", first(lambda t: t[32:]))),
    (1, DIRECT, cut("t_hat", lambda chunks: ())),
    (1, BROADCAST, cut("commitment", lambda c: c[:31])),
    (1, BROADCAST, cut("commitment", lambda c: b"")),
    *[(2, BROADCAST, cut(field, change)) for field in ("nonce_points", "key_points") for change in (
        lambda r: r + r[:33],
        lambda r: r[33:],
        lambda r: r[:-1],
    )],
    (2, BROADCAST, cut("commitments", lambda n: n + n[:32])),
    (2, BROADCAST, cut("salt", lambda s: s + b"\0")),
    *[(2, DIRECT, cut(field, first(lambda data: data[:-1])))
      for field in ("a_tilde", "eta", "mu", "gamma_u", "gamma_v", "psi")],
    *[(2, DIRECT, cut(field, lambda chunks: (*chunks, chunks[0])))
      for field in ("a_tilde", "eta", "mu", "gamma_u", "gamma_v", "psi")],
    (2, DIRECT, cut("a_tilde", first(lambda a: a[144:]))),
    (2, DIRECT, cut("gamma_u", first(lambda g: g + g[:33]))),
    (2, DIRECT, cut("psi", first(lambda p: p + p[:32]))),
    (3, BROADCAST, cut("ack", lambda a: a[:31])),
]  # fmt: skip


@pytest.mark.parametrize(("number", "broadcast", "fields"), LENGTHS)
def test_t008_t011_lengths(
    vault: Vault, number: int, broadcast: bool, fields: dict[str, Any]
) -> None:
    outcomes = trial(vault, number, broadcast, fields)
    blamed(outcomes, Code.BAD_LENGTH, ban=False, by=(1, 3))


@pytest.mark.parametrize("bad", BAD_POINTS)
@pytest.mark.parametrize("field", ["nonce_points", "key_points", "gamma_u", "gamma_v"])
def test_t001_t002_points(vault: Vault, field: str, bad: bytes) -> None:
    broadcast = field.endswith("points")
    change = (lambda old: old[:33] + bad) if broadcast else first(lambda old: old[:33] + bad)
    outcomes = trial(vault, 2, broadcast, {field: change})
    blamed(outcomes, Code.BAD_POINT, ban=False, by=(1, 3))


@pytest.mark.parametrize("value", [Q, Q + 1, 2**256 - 1])
@pytest.mark.parametrize("field", ["eta", "psi"])
def test_t005_scalars(vault: Vault, field: str, value: int) -> None:
    outcomes = trial(vault, 2, DIRECT, {field: first(start(value.to_bytes(32, "big")))})
    blamed(outcomes, Code.BAD_SCALAR, ban=False, by=(1, 3))


@pytest.mark.parametrize("only_to", [None, 1])
def test_t038_wrong_psi_passes_presigning_and_fails_at_signing(
    vault: Vault, only_to: int | None
) -> None:
    def bump(psi: bytes) -> bytes:
        return ((int.from_bytes(psi[:32], "big") + 1) % Q).to_bytes(32, "big") + psi[32:]

    outcomes = trial(vault, 2, DIRECT, {"psi": first(bump)}, only_to)
    assert all(o.error is None for o in outcomes.values())
    batch = {i: o.result for i, o in outcomes.items()}
    signed = vault.sign({i: batch[i][0] for i in batch}, sha(1))
    for i in (1, 3):
        assert signed[i].code is Code.SIG_INVALID
        assert signed[i].abort.certainty is Certainty.ONE_OF
        assert signed[i].abort.culprits == tuple(j for j in (1, 3, 4) if j != i)
        assert not signed[i].abort.ban
        assert signed[i].events("ban") == []
        assert batch[i][0].spent
    # The other slot was not touched and is good.
    signature_of(vault.sign({i: batch[i][1] for i in batch}, sha(1)))


def test_t021_a_rushing_player_copies_commitment_and_opening(vault: Vault) -> None:
    """The commitment hashes its sender's number: what opens for player 3 does not for 4."""
    copied: dict[int, Any] = {}

    def hook(e: Envelope) -> Any:
        if e.broadcast and e.sender == 3:
            copied[e.number] = e.message
        return copied[e.number] if e.broadcast and e.sender == 4 else e.message

    blamed(vault.presign(2, hook), Code.BAD_COMMIT, ban=False, by=(1, 3))


def test_t026_commitment_and_opening_of_another_session(vault: Vault) -> None:
    old: dict[int, Any] = {}

    def record(e: Envelope) -> Any:
        if e.sender == 4 and e.broadcast:
            old[e.number] = e.message
        return e.message

    vault.presignatures(2, record)

    def replay(e: Envelope) -> Any:
        return old[e.number] if e.sender == 4 and e.broadcast and e.number < 3 else e.message

    blamed(vault.presign(2, replay), Code.BAD_COMMIT, ban=False, by=(1, 3))


def test_a_silent_player_is_no_cheater(vault: Vault) -> None:
    for number in (1, 2, 3):
        outcomes = vault.presign(
            1, lambda e, n=number: DROP if (e.number, e.sender) == (n, 4) else e.message
        )
        for i in (1, 3):
            assert outcomes[i].code is Code.PEER_TIMEOUT
            assert outcomes[i].events("ban") == []
    assert not any(s.dead for mine in vault.setups.values() for s in mine.values())
    assert signature_of(vault.sign_full(sha(1)))


def test_a_failed_check_counts_more_than_another_players_bad_length(vault: Vault) -> None:
    """All peers are judged before anything is decided, whatever another peer sent."""

    def hook(e: Envelope) -> Any:
        if (e.number, e.broadcast, e.receiver) != (1, False, 1):
            return e.message
        if e.sender == 3:
            return replace(e.message, u=lambda chunks: ())
        return replace(e.message, x_hat=first(flipped()))

    outcomes = vault.presign(1, hook)
    assert outcomes[1].code is Code.OT_CHECK
    assert outcomes[1].abort.culprits == (4,)
    assert [b.peers for b in outcomes[1].events("ban")] == [(4,)]


@pytest.mark.parametrize(("number", "field"), [(1, "x_hat"), (2, "mu")])
def test_two_cheaters_are_both_banned_at_once(vault: Vault, number: int, field: str) -> None:
    def hook(e: Envelope) -> Any:
        hit = (e.number, e.broadcast, e.receiver) == (number, False, 1)
        return replace(e.message, **{field: first(flipped())}) if hit else e.message

    outcomes = vault.presign(1, hook)
    assert outcomes[1].abort.culprits == (3, 4)
    assert [b.peers for b in outcomes[1].events("ban")] == [(3, 4)]
    assert vault.setups[1][3].dead
    assert vault.setups[1][4].dead


def test_several_players_with_the_same_fault_are_all_named(vault: Vault) -> None:
    def hook(e: Envelope) -> Any:
        hit = e.number == 2 and not e.broadcast and e.receiver == 1
        return replace(e.message, psi=lambda chunks: ()) if hit else e.message

    outcomes = vault.presign(1, hook)
    assert outcomes[1].code is Code.BAD_LENGTH
    assert outcomes[1].abort.culprits == (3, 4)
