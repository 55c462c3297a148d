"""A ban is lifted by this node's operator and nobody else, into new base OTs (T-032, T-033)."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from keycairn.errors import Code, KeycairnError
from keycairn.protocols.dkls23.messages import OtRequest
from keycairn.protocols.session import Frame
from keycairn.vault import refreshes
from keycairn.vault.api import KeyView, Sign, SignItem
from keycairn.vault.ports import BanRow
from protocols.network import DIRECT, HELLO, Copy
from vault.nodes import Vault, eventually
from vault.test_service_ban import bad_column, caught, cheats, is_conviction


async def peer(vault: Vault, of: int, index: int) -> dict[str, Any]:
    (row,) = [p for p in await vault.services[of].peers() if p["index"] == index]
    return row


async def asked(vault: Vault, node: int) -> list[dict[str, Any]]:
    findings = (await vault.services[node].status())["findings"]
    return [f for f in findings if f["finding"] == "refresh"]


async def refused(vault: Vault, key: KeyView) -> bool:
    """Whether node 1 won't sign with player 3. Player 3 is not asked: it would only wait."""
    request = Sign(vault.names((1, 3)), key.key_id, (SignItem(digest=bytes(32)),))
    return (await vault.ask(lambda s: s.sign("app", request), (1,))).only(Code.PEER_BANNED)


async def test_r10_unban_leads_to_new_base_ots_and_asks_for_a_refresh(open_vault: Vault) -> None:
    vault = open_vault
    other = await vault.key("schnorr")
    old = (await vault.services[1]._setups.ensure([3], 10))[3]
    key, answers = await caught(vault)
    is_conviction(answers.error(1))
    assert old.dead
    assert await asked(vault, 1) == []

    said = await vault.services[1].unban(3)
    (ban,) = await vault.stores[1].bans()
    assert said == {
        "peer": 3,
        "lifted": [ban.ban_id],
        "banned": False,
        "refresh": sorted([key.key_id, other.key_id]),
    }
    assert ban.lifted_us is not None
    row = await peer(vault, 1, 3)
    assert (row["banned"], row["ban"]) == (False, None)
    assert [(b["id"], b["reason"], b["lifted_us"]) for b in row["lifted_bans"]] == [
        (ban.ban_id, ban.reason, ban.lifted_us)
    ]

    # A key made afterwards has nothing to fear.
    later = await vault.key("ecdsa")
    assert (await vault.sign(key, (1, 3))).result
    new = vault.services[1]._setups.get(3)
    assert new is not None
    assert new.setup_id != old.setup_id

    for restarted in (False, True):
        if restarted:
            await vault.restart(1)
        (finding,) = await asked(vault, 1)
        assert finding["peer"] == 3
        assert finding["key_ids"] == sorted([key.key_id, other.key_id])
        assert later.key_id not in finding["key_ids"]
        assert "refresh these keys" in finding["text"]
        assert (await vault.sign(key, (1, 3))).result
    # The accused and the bystander know nothing of it.
    assert await asked(vault, 2) == await asked(vault, 3) == []


async def test_r10_a_second_cheat_bans_again(open_vault: Vault) -> None:
    vault = open_vault
    key, _ = await caught(vault)
    await vault.services[1].unban(3)
    cheats(vault, "again", OtRequest, bad_column)
    answers = await vault.sign(key, (1, 3), names=vault.names((1, 3), session="again"))
    vault.change = lambda _: None
    is_conviction(answers.error(1))
    rows = await vault.stores[1].bans()
    assert sorted(row.lifted_us is None for row in rows) == [False, True]
    assert vault.services[1]._setups.get(3) is None
    assert await refused(vault, key)
    row = await peer(vault, 1, 3)
    assert row["banned"]
    assert len(row["lifted_bans"]) == 1
    await vault.services[1].unban(3)
    assert (await vault.sign(key, (1, 3))).result
    assert len((await peer(vault, 1, 3))["lifted_bans"]) == 2


async def test_unban_is_idempotent_and_audited(open_vault: Vault) -> None:
    vault = open_vault
    key, _ = await caught(vault)
    records = await vault.stores[1].check_audit()
    first = await vault.services[1].unban(3)
    assert await vault.stores[1].check_audit() > records
    setup = vault.services[1]._setups.get(3)
    records = await vault.stores[1].check_audit()
    again = await vault.services[1].unban(3)
    assert again == first | {"lifted": []}
    assert await vault.stores[1].check_audit() == records
    if setup is not None:  # It may still have been in the making.
        assert vault.services[1]._setups.get(3) is setup
    assert await vault.services[2].unban(3) == {
        "peer": 3, "lifted": [], "banned": False, "refresh": [],
    }  # fmt: skip
    assert (await vault.sign(key, (1, 3))).result


@pytest.mark.parametrize("player", [1, 0, 4, -3])
async def test_t006_unban_of_no_peer(module_vault: Vault, player: int) -> None:
    with pytest.raises(KeycairnError) as caught_error:
        await module_vault.services[1].unban(player)
    assert caught_error.value.code is Code.BAD_INDEX


async def test_r10_the_peers_restart_lifts_nothing(open_vault: Vault) -> None:
    vault = open_vault
    key, _ = await caught(vault)
    for _ in range(2):
        await vault.restart(3)

        async def greeted() -> bool:
            row = await peer(vault, 1, 3)
            return bool(row["up"] and row["incarnation"] == vault.services[3].incarnation.hex())

        await eventually(greeted)
        assert await refused(vault, key)
        assert vault.services[1]._setups.get(3) is None
    # Nor does what the peer's own operator does there.
    await vault.services[3].unban(1)
    assert await refused(vault, key)
    assert (await vault.stores[1].bans())[0].lifted_us is None


async def test_a_ban_that_fails_to_be_lifted_stays(open_vault: Vault) -> None:
    """The record of the keys comes first, the durable lift second, the memory last."""
    vault = open_vault
    key, _ = await caught(vault)
    store = vault.stores[1]
    put = store.put_ban

    async def full(row: BanRow) -> None:
        raise KeycairnError(Code.UNAVAILABLE, "disk full")

    store.put_ban = full  # type: ignore[method-assign]
    with pytest.raises(KeycairnError):
        await vault.services[1].unban(3)
    store.put_ban = put  # type: ignore[method-assign]
    assert await refused(vault, key)
    assert await asked(vault, 1) == []
    assert (await vault.services[1].unban(3))["refresh"] == [key.key_id]


async def test_a_ban_in_the_making_is_not_lifted(open_vault: Vault) -> None:
    vault = open_vault
    await caught(vault)
    sessions, store = vault.services[1]._sessions, vault.stores[1]
    put, gate = store.put_ban, asyncio.Event()

    async def slow(row: BanRow) -> None:
        if row.lifted_us is None:
            await gate.wait()
        await put(row)

    store.put_ban = slow  # type: ignore[method-assign]
    ban = asyncio.create_task(sessions.ban((3,), "once more"))
    lift = asyncio.create_task(vault.services[1].unban(3))
    await asyncio.sleep(0.05)
    gate.set()
    await ban
    said = await lift
    # Whatever came first: memory and disk agree.
    in_force = [row for row in await store.bans() if row.lifted_us is None]
    assert bool(in_force) == said["banned"] == sessions.banned(3)


async def test_many_keys_are_recorded_in_parts(
    open_vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refreshes, "_ROW", 2)
    monkeypatch.setattr(refreshes, "_PAGE", 3)
    vault = open_vault
    made = (await vault.create("schnorr", count=6)).result
    key, _ = await caught(vault)
    said = await vault.services[1].unban(3)
    assert said["refresh"] == sorted([key.key_id, *(k.key_id for k in made)])
    await vault.restart(1)
    (finding,) = await asked(vault, 1)
    assert finding["key_ids"] == said["refresh"]


async def test_a_lost_record_asks_for_more_not_less(open_vault: Vault, tmp_path: Path) -> None:
    vault = open_vault
    key, _ = await caught(vault)
    await vault.services[1].unban(3)
    later = await vault.key("schnorr")
    await vault.stop(1)
    with sqlite3.connect(vault.directory(1) / "node.db") as db:
        changed = db.execute(
            "UPDATE requests SET result = ? WHERE request_id LIKE 'unban/%'", (b"\xa0",)
        ).rowcount
    assert changed == 1
    await vault.start(1)
    (finding,) = await asked(vault, 1)
    assert finding["key_ids"] == sorted([key.key_id, later.key_id])


async def test_t017_mismatches_junk_and_silence_never_ban(tmp_path: Path) -> None:
    async with Vault.of(tmp_path, policy="none", session_seconds=2.0) as vault:
        key = await vault.key("ecdsa")

        names = vault.names((1, 3), session="torn")
        requests = {i: Sign(names, key.key_id, (SignItem(digest=bytes([i]) * 32),)) for i in (1, 3)}
        torn = await asyncio.gather(
            *(vault.services[i].sign("app", r) for i, r in requests.items()),
            return_exceptions=True,
        )
        assert [getattr(e, "code", None) for e in torn] == [Code.SESSION_MISMATCH] * 2

        def junk(copy: Copy) -> Iterable[Frame] | None:
            mine = copy.sender == 3 and copy.frame.kind == DIRECT
            return [copy.but(body=b"\x00junk")] if mine else None

        def silence(copy: Copy) -> Iterable[Frame] | None:
            return [] if copy.sender == 3 and copy.frame.kind != HELLO else None

        for change, code in ((junk, Code.MALFORMED), (silence, Code.PEER_TIMEOUT)):
            vault.change = change
            answers = await vault.sign(key, (1, 3))
            vault.change = lambda _: None
            assert answers.codes[1] is code
        for i in vault.players:
            assert await vault.stores[i].bans() == []
            assert await asked(vault, i) == []
        assert (await vault.sign(key, (1, 3))).result
