"""Attacks on whole nodes that were tried, named after what the attacker wants."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from keycairn.errors import Code, KeycairnError
from keycairn.vault.api import CreateKeys, Sign, SignItem
from keycairn.vault.control import Announce
from vault.nodes import Vault, eventually


async def test_t033_a_disk_that_fails_lets_no_peer_out_of_its_ban(
    open_vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two peers fail their checks at once, and the store takes neither ban: in this process both
    stay banned, and sessions with either end."""
    sessions = open_vault.services[1]._sessions

    async def full(_row: Any) -> None:
        raise KeycairnError(Code.UNAVAILABLE, "disk full")

    monkeypatch.setattr(open_vault.stores[1], "put_ban", full)
    with pytest.raises(KeycairnError) as caught:
        await sessions.ban((2, 3), "E_OT_CHECK")
    assert caught.value.code is Code.UNAVAILABLE
    assert sessions.banned(2)
    assert sessions.banned(3)


async def test_t033_a_ban_reaches_a_session_that_still_waits_for_a_third_player(
    open_vault: Vault,
) -> None:
    vault = open_vault
    key = await vault.key("schnorr", threshold=2)
    vault.network.take_down(2)
    waiting = asyncio.create_task(vault.sign(key, (1, 2, 3)))
    await asyncio.sleep(0.2)
    await vault.services[1]._sessions.ban((3,), "E_OT_CHECK")
    vault.network.bring_up(2)
    assert (await waiting).codes[1] is Code.PEER_BANNED


async def test_a_peer_that_reads_nothing_does_not_hold_up_a_refusal(
    open_vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queue to a malicious peer is full for ever; clients of this node get their answers."""
    key = await open_vault.key("schnorr")
    service = open_vault.services[1]

    async def stuck(_peer: int, _data: bytes) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(service._sessions._link, "send", stuck)
    async with asyncio.timeout(5):
        answers = await open_vault.ask(
            lambda s: s.sign("another", _sign(open_vault, key.key_id)), (1,)
        )
    assert answers.error(1).code is Code.NOT_FOUND


def _sign(vault: Vault, key_id: str) -> Sign:
    return Sign(vault.names((1, 2)), key_id, (SignItem(message=b"m"),))


async def test_a_strangers_api_key_at_one_node_does_not_take_over_a_share(
    open_vault: Vault,
) -> None:
    """Whoever guesses the session name asks node 1 for the victim's key before the victim does."""
    names = open_vault.names(session="guessed", request="order-17")
    request = CreateKeys(names, "schnorr", "ed25519", 1)
    stolen = asyncio.create_task(open_vault.services[1].create_keys("evil", request))
    await asyncio.sleep(0.1)
    answers = await open_vault.ask(lambda s: s.create_keys("app", request), (2, 3))
    with pytest.raises(KeycairnError) as caught:
        await stolen
    assert caught.value.code is Code.SESSION_MISMATCH
    assert caught.value.detail["field"] == "application"
    assert None not in answers.codes.values()
    assert [list(await store.keys()) for store in open_vault.stores.values()] == [[], [], []]


async def test_a_peer_that_announces_itself_without_end_costs_few_looks(
    open_vault: Vault,
) -> None:
    """Each Announce was answered with a look through all pending keys and documents. A repeated one
    costs none; one that says something else, as after a rejoin, costs one each 0.1 s."""
    await open_vault.key()  # the first words of all players are spoken
    await asyncio.sleep(0.2)
    mine, theirs = open_vault.services[1], open_vault.services[3]
    looks = 0
    documents = mine._documents.contact

    async def counted(peer: int) -> None:
        nonlocal looks
        looks += 1
        await documents(peer)

    mine._documents.contact = counted  # type: ignore[method-assign]

    async def heard() -> bool:
        return mine._exchange.peers[3].queue.empty()

    own = theirs.incarnation
    for n in range(200):
        name = n.to_bytes(32, "big")
        await theirs._exchange.send(1, Announce("vault", name, "x" * 1000, "ACTIVE"))
        await theirs._exchange.send(1, Announce("vault", own, "1", "ACTIVE"))
        await theirs._exchange.send(1, Announce("other", name, "1", "ACTIVE"))
    await asyncio.sleep(0.2)
    await eventually(heard)
    assert looks == 0
    assert mine._exchange.peers[3].incarnation == own
    begun = asyncio.get_running_loop().time()
    for n in range(10):
        state = "ACTIVE" if n % 2 else "WAITING"
        await theirs._exchange.send(1, Announce("vault", own, "1", state))
    await eventually(heard)
    assert asyncio.get_running_loop().time() - begun > 0.8
    assert looks <= 5
    looks = 0
    open_vault.reconnect(3)

    async def greeted() -> bool:
        return looks >= 1

    await eventually(greeted)
