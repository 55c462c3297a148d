"""Presignature pools of whole nodes: made ahead, claimed alike by all signers, used once (E, R-01,
R-02)."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest

from keycairn.errors import Abort, Code, KeycairnError
from keycairn.protocols.session import ABORT, HELLO, Frame
from keycairn.vault import control
from keycairn.vault.api import KeyView, Sign, Signature, SignItem
from keycairn.vault.control import RefillInvite
from protocols.network import Copy, pack
from vault.nodes import APP, Answers, Vault, eventually
from vault.test_service import check

PAYLOAD = b"\7" * 32
SCHEMES = ["ecdsa", "schnorr"]


@pytest.fixture
async def pooled(tmp_path: Path) -> AsyncIterator[Vault]:
    """Three nodes that keep eight presignatures for each key and signer set in use."""
    async with Vault.of(
        tmp_path, policy="none", presignature_target=8, presignature_low_water=2
    ) as made:
        yield made


def item(key: KeyView, payload: bytes = PAYLOAD, path: str | None = None) -> SignItem:
    if key.scheme == "ecdsa":
        return SignItem(digest=payload, path=path)
    return SignItem(message=payload, path=path)


async def sign_many(
    vault: Vault, key: KeyView, items: Iterable[SignItem], who: Iterable[int] = (1, 2), **more: Any
) -> Answers:
    names = more.pop("names", None) or vault.names(who)
    request = Sign(names, key.key_id, tuple(items), **more)
    return await vault.ask(lambda s: s.sign(APP, request), who)


async def rows(
    vault: Vault, node: int, who: tuple[int, ...] = (1, 2), key: str | None = None
) -> dict[str, Any]:
    found = await vault.services[node].presignatures(None, key)
    (row,) = [r for r in found if r["players"] == list(who)] or [{"count": 0, "ids": []}]
    return row


async def filled(
    vault: Vault, who: tuple[int, ...] = (1, 2), count: int = 8, key: str | None = None
) -> list[str]:
    """Wait until all signers have the same ``count`` presignatures; their ids."""

    async def equal() -> bool:
        got = [(await rows(vault, i, who, key))["ids"] for i in who]
        return len(got[0]) == count and all(ids == got[0] for ids in got)

    await eventually(equal)
    ids: list[str] = (await rows(vault, who[0], who, key))["ids"]
    return ids


async def stocked(
    vault: Vault, scheme: str = "ecdsa", who: tuple[int, ...] = (1, 2), **more: Any
) -> tuple[KeyView, list[str]]:
    """A key whose pool was asked for and is full."""
    key = await vault.key(scheme, **more)
    assert isinstance((await vault.sign(key, who, PAYLOAD)).result, Signature)
    return key, await filled(vault, who, key=key.key_id)


async def spent(vault: Vault, node: int) -> list[str]:
    return [s.presignature_id.hex() for s in await vault.stores[node].spends()]


# -- the story


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_signatures_take_the_oldest_and_the_pool_fills_up_again(
    pooled: Vault, scheme: str
) -> None:
    key, ids = await stocked(pooled, scheme)
    for expected in ids[:3]:
        made = (await pooled.sign(key, (1, 2), PAYLOAD)).by_node
        assert made[1] == made[2]
        assert made[1].presignature_id.hex() == expected
        check(key, made[1], PAYLOAD)
        assert expected in await spent(pooled, 1)
        assert expected in await spent(pooled, 2)
    fresh = await filled(pooled)
    assert fresh[:5] == ids[3:]
    assert not set(fresh[5:]) & set(ids)
    row = await rows(pooled, 1)
    assert (row["key_id"], row["target"], row["low_water"]) == (key.key_id, 8, 2)
    assert (row["storage"], row["count"]) == ("memory", 8)
    assert pooled.services[1].statistics()["signatures"] == {"pool": 3, "full": 1}


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_many_items_in_one_request(pooled: Vault, scheme: str) -> None:
    key, ids = await stocked(pooled, scheme)
    payloads = [bytes([n]) * 32 for n in range(1, 7)]
    made = await sign_many(pooled, key, [item(key, p) for p in payloads])
    assert [s.presignature_id.hex() for s in made.result] == ids[:6]
    for signature, payload in zip(made.result, payloads, strict=True):
        check(key, signature, payload)
    # More than there are: a full session makes them all.
    many = [bytes([n]) * 32 for n in range(20)]
    full = await sign_many(pooled, key, [item(key, p) for p in many])
    assert not {s.presignature_id.hex() for s in full.result} & set(ids)
    for signature, payload in zip(full[2], many, strict=True):
        check(key, signature, payload)
    assert len({s.base_r for s in (*made.result, *full.result)}) == 26


async def test_three_signers_share_a_pool_of_their_own(pooled: Vault) -> None:
    key = await pooled.key("ecdsa", threshold=2)
    who = (1, 2, 3)
    await pooled.sign(key, who, PAYLOAD)
    ids = await filled(pooled, who)
    made = await pooled.sign(key, who, PAYLOAD)
    check(key, made.result, PAYLOAD)
    assert made.result.presignature_id.hex() == ids[0]


@pytest.mark.parametrize("count", [0, 101])
async def test_a_request_has_1_to_100_items(pooled: Vault, count: int) -> None:
    key = await pooled.key("ecdsa")
    refused = await sign_many(pooled, key, [item(key)] * count)
    assert refused.only(Code.MALFORMED)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_repeated_request_gives_all_its_signatures_again(
    pooled: Vault, scheme: str
) -> None:
    key, _ = await stocked(pooled, scheme)
    items = [item(key, bytes([n]) * 32) for n in range(3)]
    first = await sign_many(pooled, key, items, names=pooled.names((1, 2), request="once"))
    count = len(await spent(pooled, 1))
    again = await sign_many(pooled, key, items, names=pooled.names((1, 2), request="once"))
    assert again.by_node == first.by_node
    assert len(await spent(pooled, 1)) == count
    other = await sign_many(pooled, key, items[:2], names=pooled.names((1, 2), request="once"))
    assert other.only(Code.CONFLICT)


# -- T-045 to T-049


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_t045_t058_a_named_presignature_signs_once(pooled: Vault, scheme: str) -> None:
    key, ids = await stocked(pooled, scheme)
    made = await pooled.sign(key, (1, 2), PAYLOAD, presignature=ids[3])
    assert made.result.presignature_id.hex() == ids[3]
    check(key, made.result, PAYLOAD)
    for payload in (PAYLOAD, b"\x08" * 32):
        again = await pooled.sign(key, (1, 2), payload, presignature=ids[3])
        assert again.codes == {1: Code.PRESIG_SPENT, 2: Code.PRESIG_SPENT}
    assert (await spent(pooled, 1)).count(ids[3]) == 1
    check(key, (await pooled.sign(key, (1, 2), PAYLOAD)).result, PAYLOAD)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_t046_64_parallel_uses_of_one_presignature(pooled: Vault, scheme: str) -> None:
    key, ids = await stocked(pooled, scheme)
    answers = await asyncio.gather(
        *[pooled.sign(key, (1, 2), bytes([n]) * 32, presignature=ids[0]) for n in range(64)]
    )
    made = [a for a in answers if isinstance(a[1], Signature)]
    assert len(made) <= 1
    codes = {a.error(1).code for a in answers if a not in made}
    assert codes <= {Code.PRESIG_SPENT, Code.PRESIG_UNKNOWN, Code.RATE_LIMIT, Code.UNAVAILABLE}
    for node in (1, 2):
        assert (await spent(pooled, node)).count(ids[0]) <= 1
    assert (await spent(pooled, 1)).count(ids[0]) == 1


async def test_t047_a_presignature_of_another_key_or_signer_set(pooled: Vault) -> None:
    first, ids = await stocked(pooled)
    second = await pooled.key("ecdsa")
    wrong_key = await pooled.sign(second, (1, 2), PAYLOAD, presignature=ids[0])
    assert wrong_key[1].code is Code.PRESIG_UNKNOWN
    wrong_set = await pooled.sign(first, (1, 3), PAYLOAD, presignature=ids[0])
    assert wrong_set[1].code is Code.PRESIG_UNKNOWN
    assert isinstance(wrong_set[3], KeycairnError)
    # Nothing of it was touched.
    made = await pooled.sign(first, (1, 2), PAYLOAD, presignature=ids[0])
    check(first, made.result, PAYLOAD)


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_t047_two_nodes_given_different_presignatures(pooled: Vault, scheme: str) -> None:
    key, ids = await stocked(pooled, scheme)
    names = pooled.names((1, 2))
    given = {1: ids[2], 2: ids[5]}

    async def one(node: int) -> Any:
        request = Sign(names, key.key_id, (item(key),), presignature=given[node])
        return await pooled.services[node].sign(APP, request)

    got = await asyncio.gather(one(1), one(2), return_exceptions=True)
    assert [e.code for e in got if isinstance(e, KeycairnError)] == [Code.PRESIG_UNKNOWN] * 2
    # Both count as spent, at both.
    for presignature in given.values():
        for node in (1, 2):
            assert presignature not in (await rows(pooled, node))["ids"]
        again = await pooled.sign(key, (1, 2), PAYLOAD, presignature=presignature)
        assert set(again.codes.values()) <= {Code.PRESIG_SPENT, Code.PRESIG_UNKNOWN}
    assert given[1] in await spent(pooled, 1)
    check(key, (await pooled.sign(key, (1, 2), PAYLOAD)).result, PAYLOAD)


async def test_t047_only_one_node_is_given_a_presignature(pooled: Vault) -> None:
    key, ids = await stocked(pooled)
    names = pooled.names((1, 2))

    async def one(node: int) -> Any:
        named = ids[4] if node == 2 else None
        return await pooled.services[node].sign(
            APP, Sign(names, key.key_id, (item(key),), presignature=named)
        )

    got = await asyncio.gather(one(1), one(2), return_exceptions=True)
    assert [e.code for e in got if isinstance(e, KeycairnError)] == [Code.PRESIG_UNKNOWN] * 2


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_t048_a_spend_that_can_not_be_made_durable_opens_nothing(
    pooled: Vault, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-02: the HELLO that opens ν leaves behind the commit only."""
    key, ids = await stocked(pooled, scheme)
    seen: list[Frame] = []

    def watch(copy: Copy) -> None:
        if copy.sender == 1 and copy.frame.route == pooled.route("here"):
            seen.append(copy.frame)

    async def full(*_: Any) -> None:
        raise KeycairnError(Code.UNAVAILABLE, "the disk is full")

    pooled.change = watch
    with monkeypatch.context() as patch:
        patch.setattr(pooled.stores[1], "spend_all", full)
        refused = await pooled.sign(
            key, (1, 2), PAYLOAD, names=pooled.names((1, 2), session="here", request="r")
        )
    assert refused[1].code is Code.UNAVAILABLE
    assert {f.kind for f in seen} == {ABORT}
    assert ids[0] not in (await rows(pooled, 1))["ids"], "it counts as spent all the same"
    made = await pooled.sign(key, (1, 2), PAYLOAD, names=pooled.names((1, 2), request="r"))
    check(key, made.result, PAYLOAD)
    assert made.result.presignature_id.hex() != ids[0]


async def test_t049_a_repeated_request_gives_the_same_bytes_or_a_new_presignature(
    pooled: Vault,
) -> None:
    """Node 1 hears nothing of node 2 after its HELLO; node 2 has the signature."""
    key, ids = await stocked(pooled)

    def mute(copy: Copy) -> list[Frame] | None:
        mine = copy.frame.route == pooled.route("lost") and copy.sender == 2
        return [] if mine and copy.frame.kind != HELLO else None

    async def ask(session: str, request: str) -> Answers:
        names = pooled.names((1, 2), session=session, request=request)
        return await pooled.sign(key, (1, 2), PAYLOAD, names=names)

    pooled.change = mute
    task = asyncio.create_task(ask("lost", "r"))

    async def node_2_done() -> bool:
        return await pooled.stores[2].request(APP, "sign/r") is not None

    await eventually(node_2_done)
    pooled.reconnect(2)
    failed = await task
    pooled.change = lambda _: None
    assert failed.codes == {1: Code.PEER_TIMEOUT, 2: None}
    check(key, failed[2], PAYLOAD)
    assert failed[2].presignature_id.hex() == ids[0]
    again = await ask("again", "r")
    assert again[2] == failed[2]
    assert again.codes[1] is Code.CONFLICT, "node 2 says at once that it is done with it"
    fresh = (await ask("third", "r3")).by_node
    assert fresh[1] == fresh[2]
    assert fresh[1].presignature_id.hex() not in (ids[0], "")
    for node in (1, 2):
        found = await spent(pooled, node)
        assert len(found) == len(set(found))
        assert found.count(ids[0]) == 1


async def test_t049_after_a_break_a_new_presignature_signs_under_the_same_request_id(
    pooled: Vault,
) -> None:
    """Neither node gets the other's partial."""
    key, ids = await stocked(pooled)

    def mute(copy: Copy) -> list[Frame] | None:
        mine = copy.frame.route == pooled.route("lost")
        return [] if mine and copy.frame.kind not in (HELLO, ABORT) else None

    pooled.change = mute
    names = pooled.names((1, 2), session="lost", request="r")
    task = asyncio.create_task(pooled.sign(key, (1, 2), PAYLOAD, names=names))

    async def both_spent() -> bool:
        return all([ids[0] in await spent(pooled, i) for i in (1, 2)])

    await eventually(both_spent)
    await asyncio.sleep(0.05)
    pooled.reconnect(2)
    failed = await task
    pooled.change = lambda _: None
    assert set(failed.codes.values()) == {Code.PEER_TIMEOUT}
    again = await pooled.sign(key, (1, 2), PAYLOAD, names=pooled.names((1, 2), request="r"))
    check(key, again.result, PAYLOAD)
    assert again.result.presignature_id.hex() != ids[0]


# -- nodes that do not hold the same


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_presignature_that_one_signer_lacks_breaks_one_request_at_most(
    pooled: Vault, scheme: str
) -> None:
    key, ids = await stocked(pooled, scheme)
    (pool,) = pooled.services[2]._pools.all()
    pooled.services[2]._pools.forget(lambda p: p is pool)  # and nobody is told
    names = pooled.names((1, 2), request="r")
    failed = await pooled.sign(key, (1, 2), PAYLOAD, names=names)
    assert failed.codes == {1: Code.PRESIG_UNKNOWN, 2: Code.PRESIG_UNKNOWN}
    assert ids[0] in await spent(pooled, 1)
    assert ids[0] not in await spent(pooled, 2), "it had opened nothing"
    assert not set((await rows(pooled, 1))["ids"]) & set(ids), "all of that session are gone"
    made = await pooled.sign(key, (1, 2), PAYLOAD, names=pooled.names((1, 2), request="r"))
    check(key, made.result, PAYLOAD)
    fresh = await filled(pooled)
    assert (await pooled.sign(key, (1, 2), PAYLOAD)).result.presignature_id.hex() == fresh[0]


async def test_what_the_proposer_no_longer_holds_is_dropped_with_the_next_invitation(
    pooled: Vault,
) -> None:
    key, ids = await stocked(pooled)
    (pool,) = pooled.services[1]._pools.all()
    pooled.services[1]._pools.forget(lambda p: p is pool)
    await pooled.sign(key, (1, 2), PAYLOAD)
    fresh = await filled(pooled)
    assert not set(fresh) & set(ids)


async def test_delete_empties_the_pools_of_all_signers(pooled: Vault) -> None:
    key, ids = await stocked(pooled)
    other, _ = await stocked(pooled, "schnorr", (1, 3))
    await pooled.key("ecdsa", app="another")
    before = await pooled.stores[2].check_audit()
    gone = await pooled.services[2].delete_presignatures(APP, key.key_id)
    assert gone == {"deleted": 8}
    assert await pooled.stores[2].check_audit() > before
    assert await pooled.services[2].delete_presignatures(APP, key.key_id) == {"deleted": 0}

    async def empty() -> bool:
        return (await rows(pooled, 1))["count"] == 0

    await eventually(empty)
    with pytest.raises(KeycairnError) as caught:
        await pooled.services[1].delete_presignatures("another", key.key_id)
    assert caught.value.code is Code.NOT_FOUND
    with pytest.raises(KeycairnError) as caught:
        await pooled.services[1].presignatures("another", key.key_id)
    assert caught.value.code is Code.NOT_FOUND
    assert await pooled.services[1].presignatures("another", None) == []
    (left,) = await pooled.services[1].presignatures(APP, None)
    assert left["key_id"] == other.key_id
    named = await pooled.sign(key, (1, 2), PAYLOAD, presignature=ids[0])
    assert named[1].code is Code.PRESIG_UNKNOWN
    check(key, (await pooled.sign(key, (1, 2), PAYLOAD)).result, PAYLOAD)
    assert (await pooled.services[1].delete_presignatures(None, None))["deleted"] >= 8
    assert await pooled.services[1].presignatures(None, None) == []


async def test_delete_takes_what_is_being_made_along(pooled: Vault) -> None:
    key = await pooled.key("ecdsa")

    async def set_up() -> bool:
        return all(pooled.services[i]._setups.get(3 - i) is not None for i in (1, 2))

    await eventually(set_up)  # its session must not be held up with the others
    waiting: list[Copy] = []

    def hold(copy: Copy) -> list[Frame] | None:
        if copy.frame.route == pooled.route("mine") or copy.frame.step < 2:
            return None
        waiting.append(copy)
        return []

    pooled.change = hold
    names = pooled.names((1, 2), session="mine")
    check(key, (await pooled.sign(key, (1, 2), PAYLOAD, names=names)).result, PAYLOAD)

    async def making() -> bool:
        return bool(waiting)

    await eventually(making)
    await pooled.services[1].delete_presignatures(None, None)
    pooled.change = lambda _: None
    for copy in waiting:
        pooled.network.inject(copy.sender, copy.receiver, pack(copy.frame))

    async def done() -> bool:
        return all(pooled.services[i]._refiller._making is None for i in (1, 2))

    await eventually(done)
    assert await pooled.services[1].presignatures(None, None) == []
    assert await pooled.services[2].presignatures(None, None) == []


# -- T-055: what ends the life of presignatures


async def test_t055_t059_a_restart_leaves_no_presignature_at_any_signer(pooled: Vault) -> None:
    key, ids = await stocked(pooled)
    apart, theirs = await stocked(pooled, "schnorr", (1, 3))
    await pooled.restart(2)

    async def greeted() -> bool:
        return not set((await rows(pooled, 1))["ids"]) & set(ids)

    await eventually(greeted)
    assert (await rows(pooled, 1, (1, 3)))["ids"] == theirs, "node 3 is as it was"
    named = await pooled.sign(key, (1, 2), PAYLOAD, presignature=ids[0])
    assert named.codes == {1: Code.PRESIG_UNKNOWN, 2: Code.PRESIG_UNKNOWN}
    # Node 1 still knows the pool: it fills up by itself.
    fresh = await filled(pooled)
    made = await pooled.sign(key, (1, 2), PAYLOAD)
    assert made.result.presignature_id.hex() == fresh[0]
    check(apart, (await pooled.sign(apart, (1, 3), PAYLOAD)).result, PAYLOAD)


async def test_t055_a_ban_empties_the_pools_shared_with_that_peer(pooled: Vault) -> None:
    key, _ = await stocked(pooled)
    _, theirs = await stocked(pooled, "schnorr", (1, 3))
    await pooled.services[1]._sessions.ban((2,), "a test")
    left = await pooled.services[1].presignatures(None, None)
    assert [r["players"] for r in left] == [[1, 3]]
    assert left[0]["ids"] == theirs
    refused = await pooled.sign(key, (1, 2), PAYLOAD)
    assert refused[1].code is Code.PEER_BANNED


async def test_t055_a_dropped_pair_setup_takes_its_presignatures_along(pooled: Vault) -> None:
    key, ids = await stocked(pooled)
    _, theirs = await stocked(pooled, "schnorr")
    pooled.services[1]._setups.drop(2)
    found = {r["protocol"]: r for r in await pooled.services[1].presignatures(None, None)}
    assert found["dkls23"]["count"] == 0
    assert found["frost-rfc9591"]["ids"] == theirs
    made = await pooled.sign(key, (1, 2), PAYLOAD)
    if isinstance(made[1], KeycairnError):  # node 2 may have claimed with the old setup
        made = await pooled.sign(key, (1, 2), PAYLOAD)
    check(key, made.result, PAYLOAD)
    assert made.result.presignature_id.hex() not in ids


# -- who refills what


async def test_a_node_that_keeps_no_pools_still_signs(tmp_path: Path) -> None:
    async with Vault.of(tmp_path, policy="none", presignature_target=8) as vault:
        vault.parameters["presignature_target"] = 0
        await vault.restart(2)
        key = await vault.key("ecdsa")
        for _ in range(2):
            check(key, (await vault.sign(key, (1, 2), PAYLOAD)).result, PAYLOAD)
        assert await vault.services[2].presignatures(None, None) == []
        assert (await rows(vault, 1))["count"] == 0


async def test_refills_that_a_node_does_not_owe_are_refused(pooled: Vault) -> None:
    key = await pooled.key("schnorr")
    node = pooled.services[2]
    good = {
        "name": "refill/1/" + "0" * 32,
        "key_id": key.key_id,
        "record_hash": key.record_hash,
        "players": (1, 2),
        "count": 4,
        "held": (),
    }
    for peer, change in (
        (3, {}),
        (1, {"name": "refill/3/" + "0" * 32}),
        (1, {"name": "sign-me"}),
        (1, {"players": (1, 2, 2)}),
        (1, {"players": (1,)}),
        (1, {"players": (2, 3)}),
        (1, {"players": (1, 3)}),
        (1, {"players": (1, 2, 9)}),
        (1, {"count": 0}),
        (1, {"count": 101}),
        (1, {"record_hash": b"\1" * 32}),
        (1, {"key_id": "none"}),
        (1, {"held": (b"short",)}),
    ):
        await node._refiller._invited(peer, RefillInvite(**{**good, **change}))
    await asyncio.sleep(0.1)
    assert await node.presignatures(None, None) == []


async def test_a_peer_makes_a_node_work_no_more_than_its_budget(pooled: Vault) -> None:
    refiller = pooled.services[2]._refiller
    made = sum(100 for _ in range(100) if refiller._affordable(1, 100))
    assert made == 2000
    refiller.credit([1], 100)
    assert refiller._affordable(1, 100)
    assert refiller._affordable(3, 100), "another peer has a budget of its own"


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_session_name_that_was_used_costs_no_presignature(
    pooled: Vault, scheme: str
) -> None:
    key, ids = await stocked(pooled, scheme)
    names = pooled.names((1, 2), session="once")
    assert (await sign_many(pooled, key, [item(key)], names=names)).result
    for node in (1, 2):
        pooled.services[node]._refiller.stop()
    left = (await rows(pooled, 1))["ids"]
    for number in range(3):
        again = pooled.names((1, 2), session="once", request=f"another-{number}")
        answers = await sign_many(pooled, key, [item(key)], names=again)
        assert answers.only(Code.SESSION_REPLAY)
    assert (await rows(pooled, 1))["ids"][:7] == left[:7] == ids[1:]
    assert (await rows(pooled, 2))["ids"][:7] == left[:7]


async def test_t022_invitations_wait_in_their_peers_queue(
    pooled: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await pooled.key("schnorr")
    node, store = pooled.services[2], pooled.stores[2]
    gate, reading = asyncio.Event(), 0
    really = store.key

    async def slow(key_id: str) -> Any:
        nonlocal reading
        reading += 1
        await gate.wait()
        return await really(key_id)

    monkeypatch.setattr(store, "key", slow)
    before = len(node._exchange._tasks)
    for n in range(500):
        invite = RefillInvite(f"refill/1/{n:032x}", key.key_id, key.record_hash, (1, 2), 1, held=())
        node._exchange.frame(1, control.pack(invite))
    await asyncio.sleep(0.05)
    assert reading == 1
    assert len(node._exchange._tasks) <= before
    gate.set()


async def test_a_silent_signer_does_not_keep_the_other_pools_empty(
    pooled: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, store = pooled.services[1], pooled.stores[1]
    keys = [await pooled.key("schnorr") for _ in range(4)]
    refiller = node._refiller
    refiller.stop()  # from here on by hand
    time = {(1, 2): 0.0, (1, 3): 0.0, (): 0.0}

    class Time:
        @staticmethod
        def monotonic() -> float:
            return sum(time.values())

    async def session(_name: str, players: tuple[int, ...], *_: Any) -> list[Any]:
        if 2 in players:
            time[players] += 30.0
            raise Abort(Code.PEER_TIMEOUT, "silent for 30 s")
        time[players] += 0.5
        return []

    async def nothing(*_: Any) -> None:
        pass

    monkeypatch.setattr(refiller, "_clock", Time())
    monkeypatch.setattr(refiller, "_session", session)
    monkeypatch.setattr(node._exchange, "send", nothing)
    for who in ((1, 2), (1, 3)):
        for key in keys:
            row = await store.key(key.key_id)
            assert row is not None
            refiller._hungry[node._pools.open(row, who).place] = None
    for _ in range(2000):
        pool, pause = refiller._choose()
        if pool is None:
            assert pause is not None
            time[()] += pause
        else:
            await refiller._refill(pool)
    assert sum(time.values()) > 600
    assert time[(1, 2)] < 0.2 * sum(time.values()), "a sixth, and what is cut off at the end"
    refiller._stopped = False
    assert refiller._refusal(2, row, _invite(key, (1, 2))) is Code.CONFLICT, "nor by invitation"
    assert refiller._refusal(1, row, _invite(key, (1, 3))) is None


def _invite(key: KeyView, who: tuple[int, ...]) -> RefillInvite:
    return RefillInvite("refill/1/" + "0" * 32, key.key_id, key.record_hash, who, 1, held=())


# -- database mode


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_r01_secrets_rest_in_the_database_under_a_key_of_the_process(
    tmp_path: Path, scheme: str
) -> None:
    async with Vault.of(
        tmp_path, policy="none", presignature_target=8, presignature_storage="database"
    ) as vault:
        key, ids = await stocked(vault, scheme)
        raw = [bytes.fromhex(i) for i in ids]
        for node in (1, 2):
            assert set(await vault.stores[node].presignatures(raw)) == set(raw)
        (pool,) = vault.services[1]._pools.all()
        assert all(p._secrets is None and not p.spent for p in pool.ready.values())
        made = await vault.sign(key, (1, 2), PAYLOAD)
        check(key, made.result, PAYLOAD)
        assert made.result.presignature_id == raw[0]
        assert raw[0] not in await vault.stores[1].presignatures(raw)
        await vault.stores[1].snapshot(tmp_path / "copy.db")
        with contextlib.closing(sqlite3.connect(tmp_path / "copy.db")) as db:
            assert db.execute("SELECT count(*) FROM presignatures").fetchone() == (0,)
        await vault.services[1].delete_presignatures(None, None)

        async def gone() -> bool:
            return not await vault.stores[1].presignatures(raw)

        await eventually(gone)
        made = await vault.sign(key, (1, 2), PAYLOAD)
        check(key, made.result, PAYLOAD)


async def test_t074_rows_of_presignatures_that_were_swapped_do_not_open(tmp_path: Path) -> None:
    async with Vault.of(
        tmp_path, policy="none", presignature_target=8, presignature_storage="database"
    ) as vault:
        key, ids = await stocked(vault)
        store = vault.stores[1]
        first, second = (bytes.fromhex(i) for i in ids[:2])
        rows = await store.presignatures([first, second])
        await store.drop_presignatures([first, second])
        inc = vault.services[1].incarnation
        await store.put_presignatures(inc, {first: rows[second], second: rows[first]})
        made = await vault.sign(key, (1, 2), PAYLOAD)
        check(key, made.result, PAYLOAD)
        assert made.result.presignature_id not in (first, second)


async def test_a_presignature_that_the_database_lost_stands_in_the_way_once(tmp_path: Path) -> None:
    async with Vault.of(
        tmp_path, policy="none", presignature_target=8, presignature_storage="database"
    ) as vault:
        key, ids = await stocked(vault)
        await vault.stores[1].drop_presignatures([bytes.fromhex(ids[0])])
        results = [(await vault.sign(key, (1, 2), PAYLOAD)).result for _ in range(2)]
        for made in results:
            check(key, made, PAYLOAD)
        assert results[0].presignature_id.hex() not in ids, "a full session"
        assert results[1].presignature_id.hex() == ids[1]
