"""A failed consistency check bans the peer: durably, for all keys, nobody else (T-032, T-033)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from keycairn.errors import Abort, Certainty, Code, KeycairnError
from keycairn.protocols.dkls23.messages import OtRequest, Partial, VoleReply
from keycairn.protocols.session import Frame
from keycairn.vault.api import CreateKeys, KeyView, Sign, SignItem
from protocols.lockstep import replace
from protocols.network import BROADCAST, DIRECT, Copy
from vault.nodes import Vault, eventually

#: Steps of an ECDSA signature between two: no echoes.
REQUEST, REPLY = 2, 3


def flip(column: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """One bit of the first chunk."""
    first = bytearray(column[0])
    first[7] ^= 1
    return (bytes(first), *column[1:])


def cheats(
    vault: Vault, session_id: str, kind: type, change: Callable[[Any], Any], receiver: int = 1
) -> None:
    """Player 3 changes its direct message of one type in one session."""

    def tamper(copy: Copy) -> Iterable[Frame] | None:
        mine = (copy.sender, copy.receiver) == (3, receiver)
        if not mine or copy.frame.route != vault.route(session_id) or copy.frame.kind != DIRECT:
            return None
        step = REQUEST if kind is OtRequest else copy.frame.step
        if copy.frame.step != step or (kind is VoleReply and copy.frame.step == REQUEST):
            return None
        return [copy.but(body=change(copy.body(kind)))]

    vault.change = tamper


def bad_column(message: Any) -> Any:
    return replace(message, u=flip)


async def caught(vault: Vault, who: tuple[int, ...] = (1, 3)) -> tuple[Any, Any]:
    """Player 3 alters a column of u towards player 1."""
    key = await vault.key("ecdsa")
    cheats(vault, "attack", OtRequest, bad_column)
    answers = await vault.sign(key, who, names=vault.names(who, session="attack"))
    vault.change = lambda _: None
    return key, answers


def is_conviction(error: Any) -> None:
    assert isinstance(error, Abort), repr(error)
    assert (error.code, error.culprits, error.ban) == (Code.OT_CHECK, (3,), True)
    assert error.certainty is Certainty.CERTAIN


async def test_t032_t033_a_changed_column_is_caught_by_the_victim_and_bans_for_good(
    open_vault: Vault,
) -> None:
    vault = open_vault
    other = await vault.key("ecdsa")
    frost = await vault.key("schnorr")
    key, answers = await caught(vault)
    is_conviction(answers.error(1))
    assert answers.codes[3] is not None
    (ban,) = await vault.stores[1].bans()
    assert ban.peer == 3
    assert ban.lifted_us is None
    (row,) = [p for p in await vault.services[1].peers() if p["index"] == 3]
    assert row["banned"]
    assert row["ban"]["id"] == ban.ban_id
    assert not row["setup"]
    # The accused has no opinion of the victim: nobody is banned on somebody's word.
    assert await vault.stores[3].bans() == await vault.stores[2].bans() == []

    for restarted in (False, True):
        if restarted:
            await vault.restart(1)
        for k in (key, other, frost):
            refused = await vault.ask(
                lambda s, k=k: s.sign("app", _request(vault, k, (1, 3))), (1,)
            )
            assert refused.only(Code.PEER_BANNED)
            assert refused.error(1).detail["peers"] == [3]
            assert (await vault.sign(k, (1, 2))).result
            assert (await vault.sign(k, (2, 3))).result
        refused = await vault.ask(lambda s: s.create_keys("app", _creation(vault)), (1,))
        assert refused.only(Code.PEER_BANNED)
    # INV-11: a banned peer is not even offered new base OTs, and its invitations are not taken.
    vault.reconnect(3)
    await eventually(lambda: _known(vault))
    assert vault.services[1]._setups.get(3) is None


async def _known(vault: Vault) -> bool:
    return all(p["incarnation"] and p["up"] for p in await vault.services[1].peers())


def _request(vault: Vault, key: KeyView, who: tuple[int, ...]) -> Sign:
    payload: dict[str, Any] = {"digest": b"\1" * 32} if key.scheme == "ecdsa" else {"message": b"m"}
    return Sign(vault.names(who), key.key_id, (SignItem(**payload),))


def _creation(vault: Vault) -> CreateKeys:
    return CreateKeys(vault.names(), "schnorr", "ed25519", 1)


@pytest.mark.parametrize("field", ["x_hat", "t_hat"])
async def test_t032_changed_check_values_are_caught_too(open_vault: Vault, field: str) -> None:
    vault = open_vault
    key = await vault.key("ecdsa")
    cheats(vault, "attack", OtRequest, lambda m: replace(m, **{field: flip}))
    answers = await vault.sign(key, (1, 3), names=vault.names((1, 3), session="attack"))
    is_conviction(answers.error(1))


@pytest.mark.parametrize("field", ["a_tilde", "mu"])
async def test_t032_changed_multiplication_values_are_caught_too(
    open_vault: Vault, field: str
) -> None:
    vault = open_vault
    key = await vault.key("ecdsa")
    cheats(vault, "attack", VoleReply, lambda m: replace(m, **{field: flip}))
    answers = await vault.sign(key, (1, 3), names=vault.names((1, 3), session="attack"))
    is_conviction(answers.error(1))
    assert len(await vault.stores[1].bans()) == 1


async def test_t032_the_honest_third_signer_is_told_and_bans_nobody(open_vault: Vault) -> None:
    vault = open_vault
    _, answers = await caught(vault, (1, 2, 3))
    is_conviction(answers.error(1))
    assert answers.error(2).detail["culprits"] == []
    assert await vault.stores[2].bans() == []


async def test_t032_every_other_session_with_the_banned_peer_ends_at_once(tmp_path: Any) -> None:
    """A long limit: only the ban can end the other session."""
    async with Vault.of(tmp_path, policy="none", session_seconds=120.0) as vault:
        other, frost = await vault.key("ecdsa"), await vault.key("schnorr")
        waiting = {
            name: asyncio.create_task(
                vault.sign(k, (1, 3), names=vault.names((1, 3), session=name))
            )
            for name, k in (("other", other), ("frost", frost))
        }
        async with vault.held("other", "frost"):
            with_two = asyncio.create_task(
                vault.sign(frost, (1, 2), names=vault.names((1, 2), session="without"))
            )
            key = await vault.key("ecdsa")
            inner = vault.change

            def tamper(copy: Copy) -> Iterable[Frame] | None:
                if copy.frame.route != vault.route("attack"):
                    return inner(copy)
                if (copy.sender, copy.receiver) == (3, 1) and copy.at(REQUEST, DIRECT):
                    return [copy.but(body=bad_column(copy.body(OtRequest)))]
                return None

            vault.change = tamper
            answers = await vault.sign(key, (1, 3), names=vault.names((1, 3), session="attack"))
            is_conviction(answers.error(1))
            for task in waiting.values():
                ended = await asyncio.wait_for(task, 30)
                assert ended.codes[1] in (Code.PEER_BANNED, Code.UNAVAILABLE)
            vault.change = inner
            assert (await with_two).result


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (OtRequest, lambda m: replace(m, u=lambda c: (c[0][:-1], *c[1:]))),
        (OtRequest, lambda m: replace(m, u=())),
        (OtRequest, lambda m: replace(m, x_hat=lambda c: (*c, c[0]))),
        (VoleReply, lambda m: replace(m, psi=lambda c: (b"\xff" * 32,))),
        (VoleReply, lambda m: replace(m, gamma_u=lambda c: (bytes(33),))),
    ],
    ids=["short u", "no u", "two x̂", "ψ not below q", "Γ is no point"],
)
async def test_malformed_messages_name_the_peer_but_never_ban(
    open_vault: Vault, kind: type, change: Callable[[Any], Any]
) -> None:
    vault = open_vault
    key = await vault.key("ecdsa")
    cheats(vault, "attack", kind, change)
    answers = await vault.sign(key, (1, 3), names=vault.names((1, 3), session="attack"))
    vault.change = lambda _: None
    assert answers.error(1).detail["culprits"] == [3]
    assert await vault.stores[1].bans() == []
    assert (await vault.sign(key, (1, 3))).result


async def test_t039_a_wrong_partial_gives_no_signature_spends_and_bans_nobody(
    open_vault: Vault,
) -> None:
    vault = open_vault
    key = await vault.key("ecdsa")
    partials = 0

    def tamper(copy: Copy) -> Iterable[Frame] | None:
        nonlocal partials
        if copy.sender == 3 and copy.frame.kind == BROADCAST and copy.frame.step > REPLY:
            try:
                partial = copy.body(Partial)
            except KeycairnError:
                return None
            if len(partial.w) == len(partial.u) == 32:
                partials += 1
                return [copy.but(body=replace(partial, w=partial.u))]
        return None

    vault.change = tamper
    answers = await vault.sign(key, (1, 3))
    vault.change = lambda _: None
    assert partials == 1
    assert answers.codes[1] is Code.SIG_INVALID
    assert len(await vault.stores[1].spends()) == 1
    assert await vault.stores[1].bans() == []
    assert (await vault.sign(key, (1, 3))).result
    spends = await vault.stores[1].spends()
    assert len({s.base_r for s in spends}) == 2
