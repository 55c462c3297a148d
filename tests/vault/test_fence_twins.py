"""Two live processes of one node (T-053): both end up quarantined, whoever is heard first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keycairn.vault.control import TwinQuestion
from keycairn.vault.fence.twins import Alive, Sightings, is_alive, sign_alive
from vault.fenced import Fenced, Twin
from vault.nodes import eventually


@pytest.fixture
async def vault(tmp_path: Path) -> AsyncIterator[Fenced]:
    async with Fenced.of(tmp_path) as made:
        await made.all_recorded()
        yield made


async def flap(twin: Twin, times: int = 6) -> None:
    """Both copies dial: now one gets through, now the other."""
    for _ in range(times):
        await twin.swap()


async def test_T053_a_live_copy_ends_with_both_quarantined(vault: Fenced) -> None:
    """A young image of node 1 is started beside it; nothing happened since (R-03)."""
    key = await vault.key()
    await vault.all_recorded(1)
    database, anchor = vault.copy(1), vault.anchors[1].data
    twin = await vault.twin(1, database, anchor)
    try:
        assert vault.state(1) == "ACTIVE", "until the first one is heard again"
        await vault.all_recorded(1)
        causes: list[str] = []
        for _ in range(40):
            await twin.swap()
            causes = [s.fence.standing.cause for s in (twin.original, twin.service)]
            if causes == ["twin", "twin"]:
                break
        assert causes == ["twin", "twin"]
        # Nobody comes back by itself, however long they flap.
        await flap(twin, 12)
        await asyncio.sleep(1.0)
        assert not twin.original.fence.active
        assert not twin.service.fence.active
        # The operator stops one and rejoins the other.
        await twin.stop()
        if vault.network._links[1] is twin.first[2]:
            await twin.swap()
        result = await twin.service.rejoin(without_witnesses=False)
        assert result["state"] == "ACTIVE"
        await vault.all_recorded(1)
        assert (await vault.sign(key, (1, 2))).result
    finally:
        await twin.stop()


async def test_T053_a_stale_copy_does_not_take_the_live_one_down(vault: Fenced) -> None:
    """A copy that lacks what the live one did since is convicted by peers, alone; it does not
    rejoin by itself while the other one lives."""
    database, anchor = vault.copy(1), vault.anchors[1].data
    key = await vault.key()
    await vault.all_recorded(1)
    twin = await vault.twin(1, database, anchor)
    try:
        await vault.becomes(1, "QUARANTINED")
        for _ in range(8):
            await twin.swap()
        await asyncio.sleep(1.0)
        assert twin.original.fence.active
        assert not twin.service.fence.active
        assert vault.services[2]._recorder._sightings.twin(1)
        if vault.network._links[1] is not twin.first[2]:
            await twin.swap()
        assert key.key_id
    finally:
        await twin.stop()


async def test_T053_a_restart_is_no_twin(vault: Fenced) -> None:
    for _ in range(3):
        await vault.restart(1)
        vault.reconnect(1)
        await vault.all_recorded(1)
    assert vault.state(1) == "ACTIVE"
    for peer in (2, 3):
        assert not vault.services[peer]._recorder._sightings.twin(1)


async def test_T053_a_peer_alone_cannot_make_a_twin(vault: Fenced) -> None:
    """What a lying peer can send: old witnesses, other nodes' words, its own signatures."""
    await vault.restart(1)
    await vault.all_recorded(1)
    service, liar = vault.services[1], vault.services[2]
    old = liar._recorder.held(1)
    assert old is not None
    await vault.restart(1)
    await vault.all_recorded(1)
    service = vault.services[1]
    now, other = vault.services[2]._recorder.held(1), vault.services[3].fence.said
    assert now is not None
    assert other is not None
    forged = sign_alive("vault", 1, bytes(32), now, vault.services[2].fence._signer)
    for message in (
        TwinQuestion(old), TwinQuestion(now), TwinQuestion(other), forged,
        Alive("vault", 1, bytes(32), now, b""), Alive("vault", 1, old.incarnation, old, bytes(64)),
    ):  # fmt: skip
        await vault.services[2]._exchange.send(1, message)
    await vault.services[2]._recorder.show(1)
    await asyncio.sleep(0.3)
    assert service.fence.active


async def test_T053_an_old_word_of_an_earlier_era_supersedes_nobody(vault: Fenced) -> None:
    """It was said later in a longer history; a rejoin began a shorter one, which is newer."""
    back = vault.copy(1)
    for _ in range(3):
        await vault.restart(1)
    await vault.all_recorded(1)
    old = vault.services[2]._recorder.held(1)
    assert old is not None
    await vault.put_back(1, back)
    service = vault.services[1]
    if not service.fence.active:
        await service.rejoin(without_witnesses=False)
    assert service.fence.started < old.started
    await vault.services[2]._exchange.send(1, TwinQuestion(old))
    await asyncio.sleep(0.3)
    assert service.fence.active


async def test_R03_a_second_process_on_the_same_database_is_no_twin(vault: Fenced) -> None:
    """The first one is superseded: it stops, and does not come back by itself."""
    first, store = vault.services[1], vault.stores[1]
    await first.fence.publish()
    await store.begin_incarnation(b"\2" * 32, vault.clock.now_us())
    for callback in store._watchers:
        callback()

    async def superseded() -> bool:
        return first.fence.standing.cause == "superseded"

    await eventually(superseded)
    await asyncio.sleep(0.8)
    assert not first.fence.active


def test_sightings_see_who_speaks_after_whom() -> None:
    seen = Sightings()
    a, b, c = b"a", b"b", b"c"
    assert not seen.heard(1, a, 1)
    assert not seen.heard(1, a, 1)
    assert not seen.heard(1, b, 1)
    assert not seen.heard(1, b, 1)
    assert not seen.twin(1)
    assert seen.heard(1, a, 1), "older than b, and alive"
    assert seen.twin(1)
    assert not seen.heard(1, b, 1)
    assert not seen.heard(1, c, 1)
    assert seen.twin(1), "a new process decides nothing"
    seen.rejoined(1, 1)
    assert seen.twin(1)
    seen.rejoined(1, 2)
    assert not seen.twin(1)
    assert not seen.twin(2)


async def test_alive_is_signed_over_all_of_it(vault: Fenced) -> None:
    fence = vault.services[1].fence
    said = fence.said
    assert said is not None
    alive = sign_alive("vault", 1, bytes(32), said, fence._signer)
    check = {"vault": "vault", "node": 1, "signer": fence._signer}
    assert is_alive(alive, **check)  # type: ignore[arg-type]
    for change in (
        Alive("vault", 1, b"\1" * 32, said, alive.signature),
        Alive("vault", 2, bytes(32), said, alive.signature),
        Alive("other", 1, bytes(32), said, alive.signature),
        Alive("vault", 1, said.incarnation, said, alive.signature),
    ):
        assert not is_alive(change, **check)  # type: ignore[arg-type]
