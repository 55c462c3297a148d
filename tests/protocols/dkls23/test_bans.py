"""A ban ends every session on the setup, before anybody is told, and only cheaters are banned.

Signers 1, 3, 4 of a 3-of-5 key; player 4 cheats player 1.
"""

from __future__ import annotations

from typing import Any

import pytest

from keycairn.errors import Abort, Code, PeerAborted
from keycairn.protocols.dkls23 import ote, presign, vole
from keycairn.protocols.dkls23.ote import Lane
from keycairn.protocols.form import Inbox
from protocols.dkls23.vault import Vault
from protocols.lockstep import Lockstep, altered, deal, parties, replace, run


@pytest.fixture
def vault() -> Vault:
    return Vault(5, 2, (1, 3, 4))


@pytest.fixture
def evaluations(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, str]]:
    """(session, check) of every check that player 1 evaluates of player 4."""
    seen: list[tuple[bytes, str]] = []
    original_ot, original_vole = ote.extend_alice, vole.Bob.receive

    def extend(lane: Lane, *rest: Any) -> Any:
        if (lane.alice, lane.bob) == (1, 4):
            seen.append((lane.sid, "ot"))
        return original_ot(lane, *rest)

    def receive(self: vole.Bob, *rest: Any) -> Any:
        if (self._lane.bob, self._lane.alice) == (1, 4):
            seen.append((self._lane.sid, "vole"))
        return original_vole(self, *rest)

    monkeypatch.setattr(ote, "extend_alice", extend)
    monkeypatch.setattr(vole.Bob, "receive", receive)
    return seen


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize(("number", "field"), [(1, "x_hat"), (2, "mu")])
def test_t032_every_other_session_on_the_setup_aborts_without_a_check(
    vault: Vault, evaluations: list[tuple[bytes, str]], steps: int, number: int, field: str
) -> None:
    """Another key, same pair: whatever round it is in, none of its checks runs afterwards."""
    other = deal(n=5, t=2, key_id="another key")
    here, there = (parties((1, 3, 4), name) for name in ("here", "there"))

    def flip(chunks: tuple[bytes, ...]) -> tuple[bytes, ...]:
        return (bytes([chunks[0][0] ^ 1]) + chunks[0][1:], *chunks[1:])

    hook = altered(number, 4, lambda m: replace(m, **{field: flip}), broadcast=False, only_to=1)
    sessions = [
        Lockstep({i: presign(p[i], keys[i], vault.setups[i], 1) for i in (1, 3, 4)}, cheat)
        for p, keys, cheat in ((here, vault.keys, hook), (there, other, None))
    ]
    for _ in range(steps):
        sessions[1].step()
    failing = sessions[0].finish()
    assert failing[1].code is Code.OT_CHECK
    evaluations.clear()
    waiting = sessions[1].finish()
    assert waiting[1].code is Code.UNAVAILABLE
    assert waiting[1].abort.culprits == ()
    assert waiting[1].result is None
    assert waiting[1].events("ban") == []
    assert evaluations == []
    # A new session on the dead setup does not even start.
    again = vault.presign(1)
    assert again[1].code is Code.UNAVAILABLE
    assert again[1].sent == []
    assert evaluations == []


def test_t032_the_ban_is_durable_and_the_setup_dead_before_anybody_is_told(vault: Vault) -> None:
    members = vault.parties()
    generators = {i: presign(members[i], vault.keys[i], vault.setups[i], 1) for i in (1, 3, 4)}
    rounds = {i: next(g) for i, g in generators.items()}
    spoiled = replace(rounds[4].direct[1], x_hat=lambda chunks: (bytes(32),))
    inbox = Inbox({j: rounds[j].broadcast for j in (3, 4)}, {3: rounds[3].direct[1], 4: spoiled})
    step = generators[1].send(inbox)
    assert step.what == "ban"
    assert step.record.peers == (4,)
    assert vault.setups[1][4].dead
    with pytest.raises(Abort, match="E_OT_CHECK"):
        generators[1].send(None)


def test_control_different_session_ids_would_ban_honest_players(vault: Vault) -> None:
    """Why the session id and the setup ids are confirmed first, and never by a check."""
    members = {i: parties((1, 3, 4), "one" if i == 1 else "other")[i] for i in (1, 3, 4)}
    outcomes = run({i: presign(members[i], vault.keys[i], vault.setups[i], 1) for i in (1, 3, 4)})
    assert outcomes[1].abort.culprits == (3, 4)
    assert outcomes[3].abort.culprits == (1,)


def test_a_flipped_bit_in_an_own_seed_is_found_at_home(vault: Vault) -> None:
    state = vault.setups[1][4].state()
    object.__setattr__(state, "bob_keys", bytes([state.bob_keys[0] ^ 1]) + state.bob_keys[1:])
    outcomes = vault.presign(1)
    assert outcomes[1].code is Code.UNAVAILABLE
    assert outcomes[1].sent == []
    for i in (3, 4):
        assert isinstance(outcomes[i].error, PeerAborted)
        assert outcomes[i].events("ban") == []
